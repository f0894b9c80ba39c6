use holdfast_placement::ids::GroupId;
use holdfast_storage_node::metadata::{Body, Seen};
use holdfast_storage_node::repair::Floor;

use super::*;
use crate::body::BodyPiece;

const MIB: usize = 1 << 20;

async fn begin(store: &Store, headers: &[(&str, &str)]) -> String {
    let mut create = ask("POST", "/bucket/key?uploads");
    for (name, value) in headers {
        create = create.header(name, *value);
    }
    let answer = store.send(create).await.expect(200);
    answer.element("UploadId").unwrap().to_owned()
}

async fn part(store: &Store, id: &str, number: usize, data: &Bytes) -> Answer {
    let uri = format!("/bucket/key?partNumber={number}&uploadId={id}");
    store.send(ask("PUT", uri).body(data.clone())).await
}

/// Completes with parts of these numbers and etags.
fn complete(id: &str, parts: &[(usize, &str)]) -> Ask {
    let parts: String = parts
        .iter()
        .map(|(number, etag)| {
            format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
        })
        .collect();
    let document = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
    ask("POST", format!("/bucket/key?uploadId={id}")).body(document)
}

fn multipart_etag(parts: &[&Bytes]) -> String {
    let all: Vec<u8> = parts
        .iter()
        .flat_map(|part| hex::decode(md5_hex(part)).unwrap())
        .collect();
    format!("{}-{}", md5_hex(&all), parts.len())
}

#[tokio::test]
async fn from_beginning_to_end() {
    let store = Store::with_bucket().await;
    let id = begin(
        &store,
        &[
            ("x-amz-meta-a", "1"),
            ("x-amz-tagging", "t=1"),
            ("content-type", "text/plain"),
        ],
    )
    .await;
    let (one, three) = (pattern(5 * MIB, 1), pattern(1000, 3));
    let replaced = part(&store, &id, 3, &pattern(2000, 9)).await.expect(200);
    assert_eq!(replaced.header("x-amz-checksum-crc64nvme"), "");
    part(&store, &id, 3, &three).await.expect(200);
    let put = part(&store, &id, 1, &one).await.expect(200);
    let etag_one = put.header("etag").to_owned();
    let etag_three = md5_hex(&three);

    let parts = store
        .get(&format!("/bucket/key?uploadId={id}&max-parts=1"))
        .await
        .expect(200);
    assert_eq!(parts.elements("PartNumber"), ["1"]);
    assert_eq!(parts.element("IsTruncated"), Some("true"));
    assert_eq!(parts.element("NextPartNumberMarker"), Some("1"));
    let rest = format!("/bucket/key?uploadId={id}&part-number-marker=1");
    let parts = store.get(&rest).await.expect(200);
    assert_eq!(parts.elements("Size"), ["1000"]);
    let uploads = store.get("/bucket?uploads").await.expect(200);
    assert_eq!(uploads.elements("UploadId"), [id.as_str()]);
    store
        .get("/bucket/key")
        .await
        .expect_error(404, "NoSuchKey");

    let named = [(1, etag_one.as_str()), (3, etag_three.as_str())];
    let done = store.send(complete(&id, &named)).await.expect(200);
    let etag = multipart_etag(&[&one, &three]);
    assert_eq!(
        done.element("ETag"),
        Some(format!("&quot;{etag}&quot;").as_str())
    );
    assert_eq!(done.element("Key"), Some("key"));
    let location = done.element("Location");
    assert_eq!(location, Some("http://localhost:9000/bucket/key"));
    assert_eq!(done.element("ChecksumType"), Some("FULL_OBJECT"));
    let again = store.send(complete(&id, &named)).await.expect(200);
    assert_eq!(again.element("ETag"), done.element("ETag"));
    assert_eq!(
        again.element("ChecksumCRC64NVME"),
        done.element("ChecksumCRC64NVME")
    );
    for others in [&named[..1], &[(1, etag_three.as_str()), (3, &etag_one)]] {
        let other = store.send(complete(&id, others)).await;
        other.expect_error(404, "NoSuchUpload");
    }
    let unreadable = store.send(complete(&id, &[(1, "x")])).await;
    unreadable.expect_error(404, "NoSuchUpload");

    let whole: Bytes = [one.clone(), three.clone()].concat().into();
    let get = ask("GET", "/bucket/key").header("x-amz-checksum-mode", "ENABLED");
    let get = store.send(get).await.expect(200);
    assert_eq!(get.body, whole);
    assert_eq!(get.header("etag"), format!("\"{etag}\""));
    assert_eq!(get.header("content-type"), "text/plain");
    assert_eq!(get.header("x-amz-meta-a"), "1");
    assert_eq!(get.header("x-amz-tagging-count"), "1");
    // The combined checksum is that of the whole.
    let plain = store.put("/bucket/plain", whole.clone()).await;
    let crc = plain.header("x-amz-checksum-crc64nvme");
    assert_eq!(get.header("x-amz-checksum-crc64nvme"), crc);

    let range = format!("bytes={}-{}", 5 * MIB - 10, 5 * MIB + 9);
    let over = store
        .send(ask("GET", "/bucket/key").header("range", range))
        .await
        .expect(206);
    assert_eq!(over.body, whole.slice(5 * MIB - 10..5 * MIB + 10));
    let second = store.get("/bucket/key?partNumber=2").await.expect(206);
    assert_eq!(second.body, three);
    assert_eq!(second.header("x-amz-mp-parts-count"), "2");
    assert_eq!(
        second.header("content-range"),
        format!("bytes {}-{}/{}", 5 * MIB, 5 * MIB + 999, whole.len())
    );
    let head = store.head("/bucket/key?partNumber=1").await.expect(206);
    assert_eq!(head.header("content-length"), (5 * MIB).to_string());
    let none = store.get("/bucket/key?partNumber=3").await;
    let none = none.expect_error(416, "InvalidPartNumber");
    assert_eq!(none.element("ActualPartCount"), Some("2"));

    let attributes = ask("GET", "/bucket/key?attributes")
        .header("x-amz-object-attributes", "ObjectParts")
        .header("x-amz-max-parts", "1");
    let attributes = store.send(attributes).await.expect(200);
    assert_eq!(attributes.element("PartsCount"), Some("2"));
    assert_eq!(attributes.element("IsTruncated"), Some("true"));
    assert_eq!(
        attributes.elements("Size"),
        [(5 * MIB).to_string().as_str()]
    );

    let copied = ask("PUT", "/bucket/copy").header("x-amz-copy-source", "bucket/key");
    store.send(copied).await.expect(200);
    let copy = store.get("/bucket/copy").await.expect(200);
    assert_eq!(copy.body, whole);
    assert_eq!(copy.header("etag"), format!("\"{}\"", md5_hex(&whole)));
}

#[tokio::test]
async fn of_a_part_that_is_named_twice_the_last_counts() {
    let store = Store::with_bucket().await;
    let id = begin(&store, &[]).await;
    let (first, last) = (pattern(10, 1), pattern(11, 2));
    part(&store, &id, 1, &first).await.expect(200);
    part(&store, &id, 1, &last).await.expect(200);
    let (one, two) = (md5_hex(&first), md5_hex(&last));
    let named = complete(&id, &[(1, &one), (1, &two)]);
    store.send(named).await.expect(200);
    assert_eq!(store.get("/bucket/key").await.body, last);
}

#[tokio::test]
async fn refuses_wrong_completions() {
    let store = Store::with_bucket().await;
    let id = begin(&store, &[]).await;
    let (small, other) = (pattern(10, 1), pattern(11, 2));
    part(&store, &id, 1, &small).await.expect(200);
    part(&store, &id, 2, &other).await.expect(200);
    let (one, two) = (md5_hex(&small), md5_hex(&other));
    for (parts, code) in [
        (&[(1, one.as_str()), (2, &two)][..], "EntityTooSmall"),
        (&[(2, &two), (1, &one)], "InvalidPartOrder"),
        (&[(1, &one), (2, &two), (1, &one)], "InvalidPartOrder"),
        (&[(1, &one), (1, &two)], "InvalidPart"),
        (&[(1, &two)], "InvalidPart"),
        (&[(3, &one)], "InvalidPart"),
        (&[(1, &one), (3, &one)], "InvalidPart"),
        (&[(0, &one)], "InvalidArgument"),
        (&[(10_001, &one)], "InvalidArgument"),
    ] {
        store
            .send(complete(&id, parts))
            .await
            .expect_error(400, code);
    }
    let named = |number: &str, checksum: &str| {
        let part = format!("<PartNumber>{number}</PartNumber><ETag>{one}</ETag>{checksum}");
        let document =
            format!("<CompleteMultipartUpload><Part>{part}</Part></CompleteMultipartUpload>");
        ask("POST", format!("/bucket/key?uploadId={id}")).body(document)
    };
    for (number, checksum, code) in [
        ("-4", "", "InvalidArgument"),
        (
            "1",
            "<ChecksumCRC64NVME>AAAAAAAAAAA=</ChecksumCRC64NVME>",
            "InvalidPart",
        ),
    ] {
        let refused = store.send(named(number, checksum)).await;
        refused.expect_error(400, code);
    }
    let size = complete(&id, &[(1, &one)]).header("x-amz-mp-object-size", "11");
    store.send(size).await.expect_error(400, "InvalidRequest");
    let digest = complete(&id, &[(1, &one)]).header("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=");
    store.send(digest).await.expect_error(400, "BadDigest");
    let several = complete(&id, &[(1, &one)])
        .header("x-amz-checksum-crc32", "AAAAAA==")
        .header("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=");
    let several = store.send(several).await;
    several.expect_error(400, "InvalidRequest");
    let mode = complete(&id, &[(1, &one)]).header("x-amz-checksum-type", "FULL_OBJECT");
    store.send(mode).await.expect_error(400, "InvalidRequest");
    let condition = complete(&id, &[(1, &one)]).header("if-match", "no");
    store.send(condition).await.expect_error(404, "NoSuchKey");
    let empty = ask("POST", format!("/bucket/key?uploadId={id}"));
    store
        .send(empty.body(""))
        .await
        .expect_error(400, "MalformedXML");
    // It is still there, and one part alone may be small.
    let right = complete(&id, &[(1, &one)])
        .header("x-amz-mp-object-size", "10")
        .header("if-none-match", "*");
    store.send(right).await.expect(200);
    assert_eq!(store.get("/bucket/key").await.expect(200).body, small);
    let after = part(&store, &id, 1, &small).await;
    after.expect_error(404, "NoSuchUpload");
}

#[tokio::test]
async fn conditions_hold_at_completion() {
    let store = Store::with_bucket().await;
    let id = begin(&store, &[]).await;
    let data = pattern(10, 1);
    part(&store, &id, 1, &data).await.expect(200);
    store.put("/bucket/key", "x").await;
    let etag = md5_hex(&data);
    let late = complete(&id, &[(1, &etag)]).header("if-none-match", "*");
    store
        .send(late)
        .await
        .expect_error(412, "PreconditionFailed");
    let wrong = complete(&id, &[(1, &etag)]).header("if-match", "no");
    store
        .send(wrong)
        .await
        .expect_error(412, "PreconditionFailed");
    let right = complete(&id, &[(1, &etag)]).header("if-match", md5_hex(b"x"));
    store.send(right).await.expect(200);
}

#[tokio::test]
async fn aborting() {
    let store = Store::with_bucket().await;
    let id = begin(&store, &[]).await;
    part(&store, &id, 1, &pattern(10, 1)).await.expect(200);
    let uri = format!("/bucket/key?uploadId={id}");
    store.send(ask("DELETE", uri.clone())).await.expect(204);
    store
        .send(ask("DELETE", uri.clone()))
        .await
        .expect_error(404, "NoSuchUpload");
    store.get(&uri).await.expect_error(404, "NoSuchUpload");
    part(&store, &id, 1, &pattern(10, 1))
        .await
        .expect_error(404, "NoSuchUpload");
    store
        .send(complete(&id, &[(1, "a")]))
        .await
        .expect_error(404, "NoSuchUpload");
    part(&store, "nonsense", 1, &pattern(10, 1))
        .await
        .expect_error(404, "NoSuchUpload");
    let id = begin(&store, &[]).await;
    for number in [0, 10_001] {
        let wrong = part(&store, &id, number, &pattern(10, 1)).await;
        wrong.expect_error(400, "InvalidArgument");
    }
}

#[tokio::test]
async fn checksums() {
    let store = Store::with_bucket().await;
    for (algorithm, kind, element) in [
        ("CRC32", "COMPOSITE", "ChecksumCRC32"),
        ("CRC32", "FULL_OBJECT", "ChecksumCRC32"),
        ("CRC32C", "FULL_OBJECT", "ChecksumCRC32C"),
        ("CRC64NVME", "FULL_OBJECT", "ChecksumCRC64NVME"),
        ("SHA1", "COMPOSITE", "ChecksumSHA1"),
        ("SHA256", "COMPOSITE", "ChecksumSHA256"),
    ] {
        let headers = [
            ("x-amz-checksum-algorithm", algorithm),
            ("x-amz-checksum-type", kind),
        ];
        let id = begin(&store, &headers).await;
        let (one, two) = (pattern(5 * MIB, 1), pattern(77, 2));
        let header = format!("x-amz-checksum-{}", algorithm.to_lowercase());
        let mut named = String::new();
        for (number, data) in [(1, &one), (2, &two)] {
            let put = part(&store, &id, number, data).await.expect(200);
            named.push_str(&format!(
                "<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag><{element}>{}</{element}></Part>",
                put.header("etag"),
                put.header(&header),
            ));
        }
        let other = if algorithm == "SHA1" { "crc32" } else { "sha1" };
        let value = if other == "sha1" {
            "98O8HYCOBHMq32eZZczDTKeuNEE="
        } else {
            "y/Q5Jg=="
        };
        let mismatch = ask("PUT", format!("/bucket/key?partNumber=3&uploadId={id}"))
            .header(&format!("x-amz-checksum-{other}"), value)
            .body("123456789");
        store
            .send(mismatch)
            .await
            .expect_error(400, "InvalidRequest");
        let document = format!("<CompleteMultipartUpload>{named}</CompleteMultipartUpload>");
        let complete = ask("POST", format!("/bucket/key?uploadId={id}")).body(document);
        let done = store.send(complete).await.expect(200);
        assert_eq!(done.element("ChecksumType"), Some(kind));
        let value = done.element(element).unwrap();
        let head = ask("HEAD", "/bucket/key").header("x-amz-checksum-mode", "ENABLED");
        let head = store.send(head).await.expect(200);
        assert_eq!(head.header(&header), value);
        assert_eq!(head.header("x-amz-checksum-type"), kind);
        assert_eq!(value.ends_with("-2"), kind == "COMPOSITE", "{value}");
        if kind == "FULL_OBJECT" {
            let whole = [one, two].concat();
            let put = ask("PUT", "/bucket/plain")
                .header(&header, value)
                .body(whole);
            store.send(put).await.expect(200);
        }
    }
    for (algorithm, kind) in [
        ("CRC64NVME", "COMPOSITE"),
        ("SHA1", "FULL_OBJECT"),
        ("SHA256", "FULL_OBJECT"),
        ("CRC32", "OTHER"),
        ("MD4", "COMPOSITE"),
    ] {
        let wrong = ask("POST", "/bucket/key?uploads")
            .header("x-amz-checksum-algorithm", algorithm)
            .header("x-amz-checksum-type", kind);
        store.send(wrong).await.expect_error(400, "InvalidRequest");
    }
}

#[tokio::test]
async fn checksums_of_parts_are_of_the_algorithm_of_the_upload() {
    let store = Store::with_bucket().await;
    let data = pattern(10, 1);
    let etag = md5_hex(&data);
    let sha1 = "<ChecksumSHA1>98O8HYCOBHMq32eZZczDTKeuNEE=</ChecksumSHA1>";
    let other = "<ChecksumCRC32>y/Q5Jg==</ChecksumCRC32>";
    for (kind, named, status, code) in [
        ("COMPOSITE", "", 200, ""),
        ("COMPOSITE", sha1, 400, "BadDigest"),
        ("COMPOSITE", other, 400, "InvalidPart"),
        ("FULL_OBJECT", sha1, 400, "BadDigest"),
        ("FULL_OBJECT", "", 200, ""),
    ] {
        let headers = [
            ("x-amz-checksum-algorithm", "CRC32"),
            ("x-amz-checksum-type", kind),
        ];
        let id = begin(&store, &headers).await;
        part(&store, &id, 1, &data).await.expect(200);
        let part = format!("<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag>{named}</Part>");
        let document = format!("<CompleteMultipartUpload>{part}</CompleteMultipartUpload>");
        let complete = ask("POST", format!("/bucket/key?uploadId={id}")).body(document);
        let done = store.send(complete).await;
        assert_eq!((done.status, done.code()), (status, code), "{kind} {named}");
    }
}

#[tokio::test]
async fn parts_of_uploads_without_an_algorithm() {
    let store = Store::with_bucket().await;
    let id = begin(&store, &[]).await;
    let put = ask("PUT", format!("/bucket/key?partNumber=1&uploadId={id}"))
        .header("x-amz-checksum-crc32", "y/Q5Jg==")
        .body("123456789");
    let put = store.send(put).await.expect(200);
    assert_eq!(put.header("x-amz-checksum-crc32"), "y/Q5Jg==");
    let etag = put.header("etag");
    let done = store.send(complete(&id, &[(1, etag)])).await.expect(200);
    assert_eq!(done.element("ChecksumCRC64NVME"), Some("rosUhgp5mIg="));
}

#[tokio::test]
async fn parts_from_copies() {
    let store = Store::with_bucket().await;
    let data = pattern(6 * MIB, 5);
    store.put("/bucket/source", data.clone()).await;
    let id = begin(&store, &[]).await;
    let copy = |number: usize, range: Option<&str>| {
        let uri = format!("/bucket/key?partNumber={number}&uploadId={id}");
        let copy = ask("PUT", uri).header("x-amz-copy-source", "bucket/source");
        match range {
            Some(range) => copy.header("x-amz-copy-source-range", range),
            None => copy,
        }
    };
    let one = store.send(copy(1, None)).await.expect(200);
    let two = store
        .send(copy(2, Some("bytes=1000-1999")))
        .await
        .expect(200);
    let wrong = store.send(copy(2, Some("bytes=0-99999999"))).await;
    wrong.expect_error(400, "InvalidRange");
    let wrong = store.send(copy(2, Some("bytes=5-"))).await;
    wrong.expect_error(400, "InvalidArgument");
    let named = [
        (1, one.element("ETag").unwrap()),
        (2, two.element("ETag").unwrap()),
    ];
    store.send(complete(&id, &named)).await.expect(200);
    let whole = [data.clone(), data.slice(1000..2000)].concat();
    assert_eq!(store.get("/bucket/key").await.expect(200).body, whole);
}

#[tokio::test]
async fn listing_uploads() {
    let store = Store::with_bucket().await;
    for key in ["a/1", "a/2", "b", "b", "c"] {
        store
            .send(ask("POST", format!("/bucket/{key}?uploads")))
            .await
            .expect(200);
    }
    let mut seen = Vec::new();
    let mut from = String::new();
    loop {
        let page = store
            .get(&format!("/bucket?uploads&max-uploads=2{from}"))
            .await
            .expect(200);
        seen.extend(page.elements("Key").into_iter().map(str::to_owned));
        if page.element("IsTruncated") == Some("false") {
            break;
        }
        from = format!(
            "&key-marker={}&upload-id-marker={}",
            page.element("NextKeyMarker").unwrap(),
            page.element("NextUploadIdMarker").unwrap(),
        );
    }
    assert_eq!(seen, ["a/1", "a/2", "b", "b", "c"]);
    let folders = store.get("/bucket?uploads&delimiter=/").await.expect(200);
    assert_eq!(folders.elements("Key"), ["b", "b", "c"]);
    assert_eq!(
        folders.element("CommonPrefixes"),
        Some("<Prefix>a/</Prefix>")
    );
    let prefix = store.get("/bucket?uploads&prefix=a").await.expect(200);
    assert_eq!(prefix.elements("Key"), ["a/1", "a/2"]);
}

/// Gives all bodies other shards, with the same bytes, and deletes those that they had, as if a grace had passed.
async fn encode_anew(store: &Store) {
    let map = map_of_one_host(2, Protection { data: 1, parity: 1 });
    let floor = Floor::of(&map);
    let Store {
        gateway, shards, ..
    } = store;
    for group in (1..=16).map(GroupId) {
        let found = gateway
            .metadata
            .bodies_below(group, &floor, Seen::default(), 100);
        for placed in found.await.unwrap().bodies {
            let old = placed.body;
            let piece = BodyPiece {
                body: old,
                range: 0..old.len,
            };
            let bytes = gateway.bodies.read(vec![piece]).await.unwrap();
            let mut bytes = Some(bytes.collect().await.unwrap().to_bytes());
            let written = gateway.bodies.write(&mut bytes, Some(old.len), 0);
            let Body::Chunked(new) = written.await.unwrap().body else {
                panic!("not in chunks");
            };
            let replaced = gateway.metadata.replace_body(group, &placed, new, &[]);
            assert!(replaced.await.unwrap());
            for (drive, id, _) in shards.shards() {
                assert!(id.set != old.set || shards.lose(drive, id));
            }
        }
    }
}

#[tokio::test]
async fn a_read_goes_on_where_its_bytes_are_by_now() {
    let store = Store::with_bucket().await;
    let id = begin(&store, &[]).await;
    let parts = [pattern(7 * MIB, 1), pattern(6 * MIB + 5, 2)];
    let mut etags = Vec::new();
    for (index, data) in parts.iter().enumerate() {
        part(&store, &id, index + 1, data).await.expect(200);
        etags.push(md5_hex(data));
    }
    let named = [(1, etags[0].as_str()), (2, etags[1].as_str())];
    store.send(complete(&id, &named)).await.expect(200);
    let simple = pattern(9 * MIB + 1, 3);
    store.put("/bucket/simple", simple.clone()).await;
    for (path, data) in [
        ("/bucket/key", Bytes::from(parts.concat())),
        ("/bucket/simple", simple),
    ] {
        for range in [0..data.len(), 3 * MIB + 77..data.len() - 99] {
            let asked = format!("bytes={}-{}", range.start, range.end - 1);
            let parts = ask("GET", path).header("range", asked).signed();
            let request = Request::from_parts(parts, axum::body::Body::empty());
            let mut response = store.gateway.answer(request).await.into_body();
            let mut got = Vec::new();
            while let Some(frame) = response.frame().await {
                // Twice: at the beginning, and when some of that was read.
                if got.is_empty() || (4 * MIB..5 * MIB).contains(&got.len()) {
                    encode_anew(&store).await;
                }
                got.extend_from_slice(&frame.unwrap().into_data().unwrap());
            }
            assert!(got == data[range.clone()], "{path} {range:?}");
        }
    }
    // Not where they are others by now, though of the same key.
    let request = Request::from_parts(
        ask("GET", "/bucket/simple").signed(),
        axum::body::Body::empty(),
    );
    let mut response = store.gateway.answer(request).await.into_body();
    assert!(response.frame().await.unwrap().is_ok());
    store.put("/bucket/simple", pattern(9 * MIB + 1, 4)).await;
    store.send(ask("DELETE", "/bucket/key")).await.expect(204);
    encode_anew(&store).await;
    let kept = store.get("/bucket/simple").await.expect(200).body;
    assert!(kept == pattern(9 * MIB + 1, 4));
    for (drive, id, _) in store.shards.shards() {
        assert!(store.shards.lose(drive, id));
    }
    let mut frames = 0;
    let ended = loop {
        match response.frame().await {
            Some(Ok(_)) => frames += 1,
            ended => break ended,
        }
    };
    assert!(frames < 8 && ended.is_some_and(|frame| frame.is_err()));
}
