use super::*;

fn copy(to: &str, from: &str) -> Ask {
    ask("PUT", to).header("x-amz-copy-source", from)
}

#[tokio::test]
async fn copies_bytes_and_what_belongs_to_them() {
    let store = Store::with_bucket().await;
    store.send(ask("PUT", "/other")).await.expect(200);
    for len in [0usize, 10, 100_000, 2_500_000] {
        let data = pattern(len, 4);
        let put = ask("PUT", "/bucket/a%20b%3F")
            .header("content-type", "text/plain")
            .header("x-amz-meta-a", "1")
            .header("x-amz-tagging", "t=1")
            .body(data.clone());
        let put = store.send(put).await.expect(200);
        let copied = store
            .send(copy("/other/copy", "bucket/a%20b%3F"))
            .await
            .expect(200);
        let etag = format!("&quot;{}&quot;", md5_hex(&data));
        assert_eq!(copied.element("ETag"), Some(etag.as_str()));
        let crc = put.header("x-amz-checksum-crc64nvme");
        assert_eq!(copied.element("ChecksumCRC64NVME"), Some(crc));
        let get = store.get("/other/copy").await.expect(200);
        assert_eq!(get.body, data);
        assert_eq!(get.header("content-type"), "text/plain");
        assert_eq!(get.header("x-amz-meta-a"), "1");
        assert_eq!(get.header("x-amz-tagging-count"), "1");

        let replaced = copy("/other/copy", "/bucket/a%20b%3F")
            .header("x-amz-metadata-directive", "REPLACE")
            .header("x-amz-tagging-directive", "REPLACE")
            .header("x-amz-checksum-algorithm", "SHA256")
            .header("x-amz-meta-b", "2");
        let replaced = store.send(replaced).await.expect(200);
        assert!(replaced.element("ChecksumSHA256").is_some());
        let get = store.get("/other/copy").await.expect(200);
        assert_eq!(get.body, data);
        assert_eq!(get.header("content-type"), "binary/octet-stream");
        assert_eq!(get.header("x-amz-meta-a"), "");
        assert_eq!(get.header("x-amz-meta-b"), "2");
        assert_eq!(get.header("x-amz-tagging-count"), "");
    }
    // The source may go.
    store
        .send(ask("DELETE", "/bucket/a%20b%3F"))
        .await
        .expect(204);
    assert_eq!(
        store.get("/other/copy").await.expect(200).body,
        pattern(2_500_000, 4)
    );
}

#[tokio::test]
async fn a_part_is_no_copy() {
    let store = Store::with_bucket().await;
    store.put("/bucket/a", "abc").await;
    let part = copy("/bucket/b", "bucket/a").header("range", "bytes=0-1");
    store.send(part).await.expect_error(400, "InvalidArgument");
    store.get("/bucket/b").await.expect_error(404, "NoSuchKey");
}

#[tokio::test]
async fn onto_itself() {
    let store = Store::with_bucket().await;
    store.put("/bucket/key", pattern(100_000, 1)).await;
    let idle = store.send(copy("/bucket/key", "bucket/key")).await;
    idle.expect_error(400, "InvalidRequest");
    let replace = copy("/bucket/key", "bucket/key")
        .header("x-amz-metadata-directive", "REPLACE")
        .header("x-amz-meta-a", "1");
    store.send(replace).await.expect(200);
    let get = store.get("/bucket/key").await.expect(200);
    assert_eq!(get.header("x-amz-meta-a"), "1");
    assert_eq!(get.body, pattern(100_000, 1));
}

#[tokio::test]
async fn conditions() {
    let store = Store::with_bucket().await;
    let etag = store.put("/bucket/a", "x").await.header("etag").to_owned();
    store.put("/bucket/b", "y").await;
    for (name, value, status) in [
        ("x-amz-copy-source-if-match", etag.as_str(), 200),
        ("x-amz-copy-source-if-match", "no", 412),
        ("x-amz-copy-source-if-none-match", etag.as_str(), 412),
        ("x-amz-copy-source-if-none-match", "no", 200),
        (
            "x-amz-copy-source-if-modified-since",
            "Fri, 24 May 2013 00:00:00 GMT",
            412,
        ),
        (
            "x-amz-copy-source-if-unmodified-since",
            "Fri, 24 May 2013 00:00:00 GMT",
            200,
        ),
        ("if-none-match", "*", 412),
        ("if-match", "no", 412),
    ] {
        let answer = store
            .send(copy("/bucket/b", "bucket/a").header(name, value))
            .await;
        assert_eq!(answer.status, status, "{name}: {value} {answer:?}");
    }
    // A client that encodes nothing means the key that it says.
    store.put("/bucket/a%3Fb", "questioned").await;
    store
        .send(copy("/bucket/c", "bucket/a?b"))
        .await
        .expect(200);
    assert_eq!(store.get("/bucket/c").await.body, "questioned");
    let versioned = copy("/bucket/c", "bucket/a?b?versionId=null");
    store.send(versioned).await.expect(200);
    for (from, status, code) in [
        ("bucket/none", 404, "NoSuchKey"),
        ("bucket/a?other=x", 404, "NoSuchKey"),
        ("nobucket/a", 404, "NoSuchBucket"),
        ("bucket", 400, "InvalidArgument"),
        ("bucket/a?versionId=x", 400, "InvalidArgument"),
    ] {
        store
            .send(copy("/bucket/b", from))
            .await
            .expect_error(status, code);
    }
    for (method, path) in [
        ("GET", "/bucket/b"),
        ("HEAD", "/bucket/b"),
        ("DELETE", "/bucket/b"),
        ("POST", "/bucket/b?uploadId=x"),
        ("POST", "/bucket/b?uploads"),
    ] {
        let other = ask(method, path).header("x-amz-copy-source", "bucket/a");
        let other = store.send(other).await.expect(400);
        if method != "HEAD" {
            other.expect_error(400, "InvalidArgument");
        }
    }
    let wrong = copy("/bucket/b", "bucket/a").header("x-amz-metadata-directive", "KEEP");
    store.send(wrong).await.expect_error(400, "InvalidArgument");
}
