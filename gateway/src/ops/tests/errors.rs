use http::Method;

use super::*;

#[tokio::test]
async fn table() {
    let store = Store::with_bucket().await;
    store.put("/bucket/key", "x").await;
    let long = format!("/bucket/{}", "k".repeat(1025));
    let much = "v".repeat(2048);
    let endless = "v".repeat(17_000);
    let bucket_config = "<CreateBucketConfiguration/>";
    let refused = [
        // Targets.
        (ask("GET", "/Bucket/key"), 400, "InvalidBucketName"),
        (ask("PUT", "/ab"), 400, "InvalidBucketName"),
        (ask("PUT", "/192.168.0.1"), 400, "InvalidBucketName"),
        (ask("GET", "//key"), 400, "InvalidBucketName"),
        (ask("GET", "/nobucket/key"), 404, "NoSuchBucket"),
        (ask("PUT", "/nobucket/key"), 404, "NoSuchBucket"),
        (ask("DELETE", "/nobucket"), 404, "NoSuchBucket"),
        (ask("GET", "/nobucket?location"), 404, "NoSuchBucket"),
        (ask("POST", "/nobucket/key?uploads"), 404, "NoSuchBucket"),
        (ask("GET", "/bucket/none"), 404, "NoSuchKey"),
        (ask("PUT", long), 400, "KeyTooLongError"),
        // Methods.
        (ask("PATCH", "/bucket/key"), 405, "MethodNotAllowed"),
        (ask("POST", "/bucket/key"), 405, "MethodNotAllowed"),
        (ask("DELETE", "/"), 405, "MethodNotAllowed"),
        (ask("POST", "/bucket"), 412, "PreconditionFailed"),
        (
            ask("POST", "/bucket").header("content-type", "multipart/form-database"),
            412,
            "PreconditionFailed",
        ),
        (ask("PUT", "/bucket?location"), 405, "MethodNotAllowed"),
        // What is not there.
        (ask("GET", "/bucket?metadataTable"), 501, "NotImplemented"),
        (ask("PUT", "/bucket?policy"), 501, "NotImplemented"),
        (ask("GET", "/bucket?tagging"), 404, "NoSuchTagSet"),
        (ask("GET", "/bucket?cors"), 404, "NoSuchCORSConfiguration"),
        (ask("GET", "/nobucket?cors"), 404, "NoSuchBucket"),
        (ask("PUT", "/bucket/key?acl"), 400, "MissingSecurityHeader"),
        (ask("GET", "/bucket/none?acl"), 404, "NoSuchKey"),
        (
            ask("GET", "/bucket?lifecycle"),
            404,
            "NoSuchLifecycleConfiguration",
        ),
        (ask("GET", "/bucket/key?torrent"), 501, "NotImplemented"),
        (ask("POST", "/bucket/key?restore"), 501, "NotImplemented"),
        (
            ask("POST", "/bucket/key?select&select-type=2"),
            501,
            "NotImplemented",
        ),
        (
            ask("GET", "/bucket/key?versionId=3"),
            400,
            "InvalidArgument",
        ),
        (ask("OPTIONS", "/bucket/key"), 400, "BadRequest"),
        // Headers.
        (
            ask("PUT", "/bucket/k").header("x-amz-acl", "log-delivery-write"),
            501,
            "NotImplemented",
        ),
        (
            ask("PUT", "/bucket/k").header("x-amz-server-side-encryption", "aws:kms"),
            501,
            "NotImplemented",
        ),
        (
            ask("PUT", "/bucket/k").header("x-amz-object-lock-mode", "COMPLIANCE"),
            400,
            "InvalidArgument",
        ),
        (
            ask("PUT", "/bucket/k").header("x-amz-grant-read", "id=1"),
            400,
            "InvalidArgument",
        ),
        (
            ask("PUT", "/bucket/k").header("x-amz-write-offset-bytes", "-1"),
            400,
            "InvalidArgument",
        ),
        (
            ask("PUT", "/bucket/k").header("x-amz-storage-class", "GLACIER"),
            501,
            "NotImplemented",
        ),
        (
            ask("PUT", "/bucket/k").header("x-amz-storage-class", "COLD"),
            400,
            "InvalidStorageClass",
        ),
        (
            ask("PUT", "/bucket/k").header("x-amz-website-redirect-location", "x"),
            400,
            "InvalidRedirectLocation",
        ),
        (
            ask("PUT", "/bucket/k").header("x-amz-meta-a", much),
            400,
            "MetadataTooLarge",
        ),
        (
            ask("PUT", "/bucket/k").header("x-amz-meta-a", endless),
            400,
            "RequestHeaderSectionTooLarge",
        ),
        (
            ask("PUT", "/bucket/k").header("x-amz-tagging", "a=1&a=2"),
            400,
            "InvalidArgument",
        ),
        (
            ask("PUT", "/bucket/k").header("content-md5", "no"),
            400,
            "InvalidDigest",
        ),
        (
            ask("PUT", "/bucket/k").header("x-amz-expected-bucket-owner", "another"),
            403,
            "AccessDenied",
        ),
        (
            ask("PUT", "/bucket/k").header("if-match", "\"a\""),
            404,
            "NoSuchKey",
        ),
        (
            ask("GET", "/bucket/key").header("range", "bytes=1-"),
            416,
            "InvalidRange",
        ),
        (
            ask("GET", "/bucket/key?partNumber=0"),
            400,
            "InvalidArgument",
        ),
        (
            ask("GET", "/bucket/key?partNumber=x"),
            400,
            "InvalidArgument",
        ),
        // Parameters.
        (ask("GET", "/bucket?max-keys=x"), 400, "InvalidArgument"),
        (ask("GET", "/bucket?list-type=3"), 400, "InvalidArgument"),
        (
            ask("GET", "/bucket?encoding-type=x"),
            400,
            "InvalidArgument",
        ),
        (
            ask("GET", "/bucket?uploads&max-uploads=x"),
            400,
            "InvalidArgument",
        ),
        (
            ask("GET", "/bucket?uploads&key-marker=a&upload-id-marker=x"),
            400,
            "InvalidArgument",
        ),
        (
            ask("PUT", "/bucket/key?partNumber=1"),
            400,
            "InvalidArgument",
        ),
        (
            ask("PUT", "/bucket/key?uploadId=1"),
            405,
            "MethodNotAllowed",
        ),
        (
            ask("PUT", "/bucket/key?uploadId=1&partNumber=1"),
            404,
            "NoSuchUpload",
        ),
        // Documents.
        (ask("PUT", "/bucket2").body("<Other/>"), 400, "MalformedXML"),
        (
            ask("PUT", "/bucket2").body("<!DOCTYPE a><CreateBucketConfiguration/>"),
            400,
            "MalformedXML",
        ),
        (
            ask("PUT", "/bucket/key?tagging").body("<Tagging>"),
            400,
            "MalformedXML",
        ),
        (
            ask("PUT", "/bucket/key?tagging").body(bucket_config),
            400,
            "MalformedXML",
        ),
        (
            ask("POST", "/bucket?delete").body("<Delete/>"),
            400,
            "InvalidRequest",
        ),
        (ask("PUT", "/bucket/key?retention"), 400, "MalformedXML"),
        (ask("PUT", "/bucket/key?legal-hold"), 400, "MalformedXML"),
        (
            ask("POST", "/bucket?delete").header("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg=="),
            400,
            "MissingRequestBodyError",
        ),
        (
            ask("PUT", "/bucket/key?tagging"),
            400,
            "MissingRequestBodyError",
        ),
        (
            ask("PUT", "/bucket/key?tagging").body("x".repeat(70_000)),
            400,
            "MaxMessageLengthExceeded",
        ),
    ];
    let settings = [
        "cors",
        "lifecycle",
        "notification",
        "object-lock",
        "tagging",
        "versioning",
        "website",
    ];
    let without_body = settings.map(|name| {
        let ask = ask("PUT", format!("/bucket?{name}"));
        (ask, 400, "MissingRequestBodyError")
    });
    for (ask, status, code) in refused.into_iter().chain(without_body) {
        let told = format!("{} {} {:?}", ask.method, ask.uri, ask.headers);
        let answer = store.send(ask).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{told}");
        answer.expect_error(status, code);
    }
    assert_eq!(
        store.get("/bucket").await.expect(200).elements("Key"),
        ["key"]
    );
}

#[tokio::test]
async fn strangers_get_nothing() {
    let store = Store::with_bucket().await;
    let unsigned = |method: Method, uri: &str| {
        Request::builder()
            .method(method)
            .uri(uri)
            .body(Body::empty())
            .unwrap()
    };
    for uri in [
        "/",
        "/bucket",
        "/bucket/key",
        "/bucket?acl",
        "/-/status",
        "/-/identities",
    ] {
        let answer = store.send_raw(unsigned(Method::GET, uri)).await;
        answer.expect_error(403, "AccessDenied");
    }
    let answer = store.send_raw(unsigned(Method::GET, "/nobucket")).await;
    answer.expect_error(404, "NoSuchBucket");
    for uri in ["/-/live", "/-/ready"] {
        let answer = store.send_raw(unsigned(Method::GET, uri)).await;
        assert!(
            answer.status == 200 || (uri == "/-/ready" && answer.status == 503),
            "{answer:?}"
        );
    }
    assert_eq!(store.get("/-/status").await.expect(200).body, "{}");
    // In a bucket of its own host, `-/live` is a key.
    let hosted = Request::builder()
        .uri("/-/live")
        .header("host", format!("bucket.{DOMAIN}"));
    let answer = store.send_raw(hosted.body(Body::empty()).unwrap()).await;
    answer.expect_error(403, "AccessDenied");
}

#[tokio::test]
async fn a_full_store_reads_and_deletes() {
    let store = Store::with_bucket().await;
    store.put("/bucket/key", pattern(100_000, 1)).await;
    store.full.store(true, Ordering::Relaxed);
    for (method, uri) in [
        ("PUT", "/bucket2"),
        ("PUT", "/bucket/other"),
        ("PUT", "/bucket/key?tagging"),
        ("POST", "/bucket/key?uploads"),
        ("PUT", "/bucket/key?uploadId=0&partNumber=1"),
        ("POST", "/bucket/key?uploadId=0"),
    ] {
        store
            .send(ask(method, uri))
            .await
            .expect_error(507, "StorageFull");
    }
    assert_eq!(
        store.get("/bucket/key").await.expect(200).body.len(),
        100_000
    );
    store.get("/bucket").await.expect(200);
    store.send(ask("DELETE", "/bucket/key")).await.expect(204);
    store.full.store(false, Ordering::Relaxed);
    store.put("/bucket/other", "x").await;
}
