//! Storage classes, wherever they are told.

use super::*;

const CLASSES: [&str; 6] = [
    "GLACIER_IR",
    "INTELLIGENT_TIERING",
    "ONEZONE_IA",
    "REDUCED_REDUNDANCY",
    "STANDARD",
    "STANDARD_IA",
];

fn put(key: &str, class: &str) -> Ask {
    let put = ask("PUT", format!("/bucket/{key}")).body("x");
    put.header("x-amz-storage-class", class)
}

/// As S3 does: headers say nothing of `STANDARD`.
fn shown(class: &str) -> &str {
    match class {
        "STANDARD" => "",
        other => other,
    }
}

#[tokio::test]
async fn listings_and_objects_tell_classes() {
    let (one, other) = Store::pair();
    one.send(ask("PUT", "/bucket")).await.expect(200);
    for class in CLASSES {
        one.send(put(class, class)).await.expect(200);
        let path = format!("/bucket/{class}");
        for store in [&one, &other] {
            assert_eq!(
                store.get(&path).await.header("x-amz-storage-class"),
                shown(class)
            );
            assert_eq!(
                store.head(&path).await.header("x-amz-storage-class"),
                shown(class)
            );
        }
        let attributes = ask("GET", format!("{path}?attributes"))
            .header("x-amz-object-attributes", "StorageClass");
        let attributes = one.send(attributes).await.expect(200);
        assert_eq!(attributes.element("StorageClass"), Some(class));
    }
    // From this process, and from those of others.
    for store in [&one, &other] {
        for uri in ["/bucket", "/bucket?list-type=2", "/bucket?versions"] {
            let list = store.get(uri).await.expect(200);
            assert_eq!(list.elements("Key"), CLASSES);
            assert_eq!(list.elements("StorageClass"), CLASSES, "{uri}");
        }
    }
}

#[tokio::test]
async fn a_copy_has_the_class_that_it_asks_for() {
    let store = Store::with_bucket().await;
    store.send(put("a", "GLACIER_IR")).await.expect(200);
    let copy = |to: &str| {
        let copy = ask("PUT", format!("/bucket/{to}"));
        copy.header("x-amz-copy-source", "bucket/a")
    };
    store.send(copy("b")).await.expect(200);
    let head = store.head("/bucket/b").await;
    assert_eq!(head.header("x-amz-storage-class"), "");
    let changed = copy("a").header("x-amz-storage-class", "STANDARD_IA");
    store.send(changed).await.expect(200);
    let head = store.head("/bucket/a").await;
    assert_eq!(head.header("x-amz-storage-class"), "STANDARD_IA");
}

#[tokio::test]
async fn uploads_and_their_objects_have_classes() {
    let store = Store::with_bucket().await;
    let begin = ask("POST", "/bucket/k?uploads").header("x-amz-storage-class", "ONEZONE_IA");
    let begun = store.send(begin).await.expect(200);
    let upload = begun.element("UploadId").unwrap().to_owned();
    let uploads = store.get("/bucket?uploads").await;
    assert_eq!(uploads.element("StorageClass"), Some("ONEZONE_IA"));
    let parts = store.get(&format!("/bucket/k?uploadId={upload}")).await;
    assert_eq!(parts.element("StorageClass"), Some("ONEZONE_IA"));
    let part = store
        .put(&format!("/bucket/k?partNumber=1&uploadId={upload}"), "x")
        .await;
    let etag = part.header("etag");
    let complete = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    );
    let complete = ask("POST", format!("/bucket/k?uploadId={upload}")).body(complete);
    store.send(complete).await.expect(200);
    let head = store.head("/bucket/k").await;
    assert_eq!(head.header("x-amz-storage-class"), "ONEZONE_IA");
    let list = store.get("/bucket").await;
    assert_eq!(list.elements("StorageClass"), ["ONEZONE_IA"]);
}

#[tokio::test]
async fn classes_that_are_not_there_are_refused() {
    let store = Store::with_bucket().await;
    for (class, status, code) in [
        ("GLACIER", 501, "NotImplemented"),
        ("DEEP_ARCHIVE", 501, "NotImplemented"),
        ("glacier_ir", 400, "InvalidStorageClass"),
        ("", 400, "InvalidStorageClass"),
    ] {
        store.send(put("k", class)).await.expect_error(status, code);
    }
}
