//! What one gateway does to a bucket that another has in its cache.

use super::*;

/// Two gateways. The second made a bucket, which the first has in its cache, deleted it and made another of that name,
/// with an object `key` and an upload of `up`, whose id comes third.
async fn surprised() -> (Store, Store, String) {
    let (one, other) = Store::pair();
    other.send(ask("PUT", "/bucket")).await.expect(200);
    let missing = one.get("/bucket/key").await;
    missing.expect_error(404, "NoSuchKey");
    other.send(ask("DELETE", "/bucket")).await.expect(204);
    other.send(ask("PUT", "/bucket")).await.expect(200);
    other.put("/bucket/key", "new").await;
    let id = begin_upload(&other, "up").await;
    (one, other, id)
}

async fn begin_upload(store: &Store, key: &str) -> String {
    let begun = store.send(ask("POST", format!("/bucket/{key}?uploads")));
    begun
        .await
        .expect(200)
        .element("UploadId")
        .unwrap()
        .to_owned()
}

/// Stores part 1; gives what completes the upload.
async fn upload_part(store: &Store, key: &str, id: &str, body: &Bytes) -> String {
    let part = ask("PUT", format!("/bucket/{key}?partNumber=1&uploadId={id}"));
    let stored = store.send(part.body(body.clone())).await.expect(200);
    let etag = stored.header("etag");
    format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    )
}

#[tokio::test]
async fn reads_find_the_bucket_of_that_name() {
    let (one, _, _) = surprised().await;
    assert_eq!(one.get("/bucket/key").await.expect(200).body, "new");
    let (one, _, _) = surprised().await;
    let head = one.head("/bucket/key").await.expect(200);
    assert_eq!(head.header("content-length"), "3");
    for list in ["/bucket", "/bucket?list-type=2"] {
        let (one, _, _) = surprised().await;
        let listed = one.get(list).await.expect(200);
        assert_eq!(listed.element("Key"), Some("key"), "{list}");
    }
    let (one, _, id) = surprised().await;
    let listed = one.get("/bucket?uploads").await.expect(200);
    assert_eq!(listed.element("UploadId"), Some(&*id));
    let (one, _, id) = surprised().await;
    let parts = one.get(&format!("/bucket/up?uploadId={id}")).await;
    parts.expect(200);
    let (one, _, _) = surprised().await;
    one.get("/bucket/key?tagging").await.expect(200);
    let (one, _, _) = surprised().await;
    let attributes = ask("GET", "/bucket/key?attributes");
    let attributes = attributes.header("x-amz-object-attributes", "ObjectSize");
    let attributes = one.send(attributes).await.expect(200);
    assert_eq!(attributes.element("ObjectSize"), Some("3"));
    let (one, other, _) = surprised().await;
    one.send(ask("PUT", "/target")).await.expect(200);
    let copy = ask("PUT", "/target/copy").header("x-amz-copy-source", "bucket/key");
    one.send(copy).await.expect(200);
    assert_eq!(other.get("/target/copy").await.expect(200).body, "new");
    let (one, _, _) = surprised().await;
    let missing = one.get("/bucket/none").await;
    missing.expect_error(404, "NoSuchKey");
}

#[tokio::test]
async fn writes_find_the_bucket_of_that_name() {
    let (one, other, _) = surprised().await;
    one.send(ask("DELETE", "/bucket/key")).await.expect(204);
    let deleted = other.get("/bucket/key").await;
    deleted.expect_error(404, "NoSuchKey");
    let (one, other, _) = surprised().await;
    let tags = "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>";
    let put = ask("PUT", "/bucket/key?tagging").body(tags);
    one.send(put).await.expect(200);
    let tags = other.get("/bucket/key?tagging").await.expect(200);
    assert_eq!(tags.element("Value"), Some("b"));
    let (one, other, id) = surprised().await;
    let abort = ask("DELETE", format!("/bucket/up?uploadId={id}"));
    one.send(abort).await.expect(204);
    let parts = other.get(&format!("/bucket/up?uploadId={id}")).await;
    parts.expect_error(404, "NoSuchUpload");
    let (one, other, _) = surprised().await;
    let put = ask("PUT", "/bucket/key").header("if-none-match", "*");
    let refused = one.send(put.body("x")).await;
    refused.expect_error(412, "PreconditionFailed");
    assert_eq!(other.get("/bucket/key").await.expect(200).body, "new");
}

#[tokio::test]
async fn an_upload_goes_through_both() {
    let body = pattern(100_000, 1);
    // The first learns of the new bucket by a part.
    let (one, other, id) = surprised().await;
    let complete = upload_part(&one, "up", &id, &body).await;
    let completed = ask("POST", format!("/bucket/up?uploadId={id}")).body(complete);
    other.send(completed).await.expect(200);
    assert_eq!(one.get("/bucket/up").await.expect(200).body, body);
    // By the completion.
    let (one, other, id) = surprised().await;
    let complete = upload_part(&other, "up", &id, &body).await;
    let completed = ask("POST", format!("/bucket/up?uploadId={id}")).body(complete);
    one.send(completed).await.expect(200);
    assert_eq!(other.get("/bucket/up").await.expect(200).body, body);
    // By reading: the part table is looked for where the record was found.
    let (one, other, id) = surprised().await;
    let complete = upload_part(&other, "up", &id, &body).await;
    let completed = ask("POST", format!("/bucket/up?uploadId={id}")).body(complete);
    other.send(completed).await.expect(200);
    assert_eq!(one.get("/bucket/up").await.expect(200).body, body);
}

#[tokio::test]
async fn a_bucket_that_is_gone_is_gone_everywhere() {
    let (one, other) = Store::pair();
    let cached = async || {
        other.send(ask("PUT", "/bucket")).await.expect(200);
        let missing = one.get("/bucket/key").await;
        missing.expect_error(404, "NoSuchKey");
        other.send(ask("DELETE", "/bucket")).await.expect(204);
    };
    for path in [
        "/bucket/key",
        "/bucket",
        "/bucket?list-type=2",
        "/bucket?uploads",
        "/bucket?location",
    ] {
        cached().await;
        let gone = one.get(path).await;
        gone.expect_error(404, "NoSuchBucket");
    }
    cached().await;
    one.head("/bucket").await.expect(404);
    cached().await;
    let gone = one.send(ask("DELETE", "/bucket/key")).await;
    gone.expect_error(404, "NoSuchBucket");
    cached().await;
    let gone = one.send(ask("PUT", "/bucket/key").body("x")).await;
    gone.expect_error(404, "NoSuchBucket");
}

#[tokio::test]
async fn what_a_bucket_is_like_is_said_of_the_one_of_that_name() {
    let locked = || ask("PUT", "/bucket").header("x-amz-bucket-object-lock-enabled", "true");
    let surprised = async || {
        let (one, other) = Store::pair();
        other.send(ask("PUT", "/bucket")).await.expect(200);
        one.get("/bucket/key").await.expect(404);
        other.send(ask("DELETE", "/bucket")).await.expect(204);
        other.send(locked()).await.expect(200);
        let held = ask("PUT", "/bucket/key")
            .header("x-amz-object-lock-legal-hold", "ON")
            .with_md5("x");
        other.send(held).await.expect(200);
        (one, other)
    };
    let (one, _) = surprised().await;
    let versioning = one.get("/bucket?versioning").await.expect(200);
    assert_eq!(versioning.element("Status"), Some("Enabled"));
    let (one, _) = surprised().await;
    let enable = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    let enable = ask("PUT", "/bucket?versioning").with_md5(enable);
    one.send(enable).await.expect(200);
    let (one, _) = surprised().await;
    let lock = one.get("/bucket?object-lock").await.expect(200);
    assert_eq!(lock.element("ObjectLockEnabled"), Some("Enabled"));
    let (one, other) = surprised().await;
    let rule =
        "<Rule><DefaultRetention><Mode>GOVERNANCE</Mode><Days>1</Days></DefaultRetention></Rule>";
    let rule = format!(
        "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled>{rule}</ObjectLockConfiguration>"
    );
    let rule = ask("PUT", "/bucket?object-lock").with_md5(&rule);
    one.send(rule).await.expect(200);
    let lock = other.get("/bucket?object-lock").await.expect(200);
    assert_eq!(lock.element("Days"), Some("1"));
    let (one, _) = surprised().await;
    let hold = one.get("/bucket/key?legal-hold").await.expect(200);
    assert_eq!(hold.element("Status"), Some("ON"));
    let (one, _) = surprised().await;
    let retention = one.get("/bucket/key?retention").await;
    retention.expect_error(404, "NoSuchObjectLockConfiguration");
}
