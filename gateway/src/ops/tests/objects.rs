use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

const THEN: &str = "Fri, 24 May 2013 00:00:00 GMT";
const BEFORE: &str = "Thu, 23 May 2013 23:59:59 GMT";

#[tokio::test]
async fn what_was_put_comes_back() {
    let store = Store::with_bucket().await;
    for len in [0, 1, 4096, 32 * 1024, 32 * 1024 + 1, 3_000_001] {
        let data = pattern(len, 1);
        let put = store.put("/bucket/key", data.clone()).await;
        let etag = format!("\"{}\"", md5_hex(&data));
        assert_eq!(put.header("etag"), etag);
        assert_eq!(put.header("x-amz-checksum-type"), "FULL_OBJECT");
        let crc = put.header("x-amz-checksum-crc64nvme").to_owned();
        assert_eq!(crc.len(), 12);

        let get = store.get("/bucket/key").await.expect(200);
        assert_eq!(get.body, data, "{len}");
        assert_eq!(get.header("etag"), etag);
        assert_eq!(get.header("content-length"), len.to_string());
        assert_eq!(get.header("last-modified"), THEN);
        assert_eq!(get.header("accept-ranges"), "bytes");
        assert_eq!(get.header("content-type"), "binary/octet-stream");
        assert_eq!(get.header("x-amz-checksum-crc64nvme"), "");
        assert_eq!(get.header("server"), "Holdfast");

        let head = ask("HEAD", "/bucket/key").header("x-amz-checksum-mode", "ENABLED");
        let head = store.send(head).await.expect(200);
        assert_eq!(head.header("content-length"), len.to_string());
        assert_eq!(head.header("x-amz-checksum-crc64nvme"), crc);
        assert!(head.body.is_empty());
    }
    store.send(ask("DELETE", "/bucket/key")).await.expect(204);
    store
        .get("/bucket/key")
        .await
        .expect_error(404, "NoSuchKey");
    store.head("/bucket/key").await.expect(404);
    store.send(ask("DELETE", "/bucket/key")).await.expect(204);
}

#[tokio::test]
async fn headers_and_metadata_come_back() {
    let store = Store::with_bucket().await;
    let put = ask("PUT", "/bucket/key")
        .header("content-type", "text/plain")
        .header("content-encoding", "gzip")
        .header("content-language", "de")
        .header("content-disposition", "attachment")
        .header("cache-control", "no-cache")
        .header("expires", "whenever")
        .header("x-amz-meta-one", "1")
        .header("x-amz-meta-two", "a  b")
        .header("x-amz-storage-class", "REDUCED_REDUNDANCY")
        .header("x-amz-tagging", "a=1&b=2")
        .body("x");
    store.send(put).await.expect(200);
    let head = store.head("/bucket/key").await.expect(200);
    for (name, value) in [
        ("content-type", "text/plain"),
        ("content-encoding", "gzip"),
        ("content-language", "de"),
        ("content-disposition", "attachment"),
        ("cache-control", "no-cache"),
        ("expires", "whenever"),
        ("x-amz-meta-one", "1"),
        ("x-amz-meta-two", "a  b"),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ("x-amz-tagging-count", "2"),
    ] {
        assert_eq!(head.header(name), value, "{name}");
    }
    let get = store
        .get("/bucket/key?response-content-type=a%2Fb&response-cache-control=c")
        .await;
    assert_eq!(get.header("content-type"), "a/b");
    assert_eq!(get.header("cache-control"), "c");
    assert_eq!(get.header("expires"), "whenever");
}

#[tokio::test]
async fn ranges() {
    let store = Store::with_bucket().await;
    for len in [10_000usize, 2_500_000] {
        let data = pattern(len, 2);
        store.put("/bucket/key", data.clone()).await;
        for (range, from, to) in [
            ("bytes=0-0".to_owned(), 0, 1),
            ("bytes=100-199".to_owned(), 100, 200),
            (format!("bytes={}-", len - 7), len - 7, len),
            ("bytes=-5000".to_owned(), len - 5000, len),
            (format!("bytes=0-{}", len * 2), 0, len),
        ] {
            let get = store
                .send(ask("GET", "/bucket/key").header("range", &range))
                .await;
            let get = get.expect(206);
            assert_eq!(get.body, data.slice(from..to), "{range} of {len}");
            let content_range = format!("bytes {from}-{}/{len}", to - 1);
            assert_eq!(get.header("content-range"), content_range);
            assert_eq!(get.header("content-length"), (to - from).to_string());
        }
        let several = ask("GET", "/bucket/key").header("range", "bytes=0-1,5-6");
        assert_eq!(store.send(several).await.expect(200).body, data);
        let beyond = ask("GET", "/bucket/key").header("range", format!("bytes={len}-"));
        let beyond = store.send(beyond).await.expect_error(416, "InvalidRange");
        assert_eq!(beyond.header("content-range"), format!("bytes */{len}"));
    }
    let part = store.get("/bucket/key?partNumber=1").await.expect(206);
    assert_eq!(part.body.len(), 2_500_000);
    assert_eq!(part.header("x-amz-mp-parts-count"), "");
    let none = store.get("/bucket/key?partNumber=2").await;
    let none = none.expect_error(416, "InvalidPartNumber");
    assert_eq!(none.element("ActualPartCount"), Some("1"));
    let both = ask("GET", "/bucket/key?partNumber=1").header("range", "bytes=0-1");
    store.send(both).await.expect_error(400, "InvalidRequest");
}

#[tokio::test]
async fn a_range_counts_of_the_version_that_it_is_meant_of() {
    let store = Store::with_bucket().await;
    let etag = store.put("/bucket/key", "0123456789").await;
    let etag = etag.header("etag").to_owned();
    let weak = format!("W/{etag}");
    for (meant, status, body) in [
        (etag.as_str(), 206, "123"),
        (THEN, 206, "123"),
        (weak.as_str(), 200, "0123456789"),
        ("\"no\"", 200, "0123456789"),
        ("*", 200, "0123456789"),
        (BEFORE, 200, "0123456789"),
        ("Sat, 25 May 2013 00:00:00 GMT", 200, "0123456789"),
    ] {
        let get = |range: &str| {
            let get = ask("GET", "/bucket/key").header("range", range);
            store.send(get.header("if-range", meant))
        };
        assert_eq!(get("bytes=1-3").await.expect(status).body, body, "{meant}");
        let beyond = if status == 206 { 416 } else { 200 };
        get("bytes=10-").await.expect(beyond);
    }
}

#[tokio::test]
async fn conditional_reads() {
    let store = Store::with_bucket().await;
    let etag = store
        .put("/bucket/key", "x")
        .await
        .header("etag")
        .to_owned();
    for (name, value, status) in [
        ("if-match", etag.as_str(), 200),
        ("if-match", "\"no\"", 412),
        ("if-none-match", etag.as_str(), 304),
        ("if-none-match", "\"no\"", 200),
        ("if-modified-since", THEN, 304),
        ("if-modified-since", BEFORE, 200),
        ("if-unmodified-since", THEN, 200),
        ("if-unmodified-since", BEFORE, 412),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = store
                .send(ask(method, "/bucket/key").header(name, value))
                .await;
            assert_eq!(answer.status, status, "{method} {name}: {value}");
            if status == 304 {
                assert!(answer.body.is_empty());
                assert_eq!(answer.header("etag"), etag);
                assert_eq!(answer.header("last-modified"), THEN);
            }
        }
    }
    for (ask, condition) in [
        (
            ask("GET", "/bucket/key").header("if-match", "no"),
            "If-Match",
        ),
        (
            ask("GET", "/bucket/key").header("if-unmodified-since", BEFORE),
            "If-Unmodified-Since",
        ),
        (
            ask("PUT", "/bucket/key").header("if-none-match", "*"),
            "If-None-Match",
        ),
        (
            ask("PUT", "/bucket/key")
                .header("if-none-match", "*")
                .body(pattern(100_000, 1)),
            "If-None-Match",
        ),
        (
            ask("DELETE", "/bucket/key").header("x-amz-if-match-size", "9"),
            "x-amz-if-match-size",
        ),
        (
            ask("PUT", "/bucket/copy")
                .header("x-amz-copy-source", "bucket/key")
                .header("x-amz-copy-source-if-none-match", etag),
            "x-amz-copy-source-If-None-Match",
        ),
    ] {
        let failed = store.send(ask).await;
        let failed = failed.expect_error(412, "PreconditionFailed");
        assert_eq!(failed.element("Condition"), Some(condition));
    }
}

#[tokio::test]
async fn conditional_writes() {
    let store = Store::with_bucket().await;
    let put = |name: &'static str, value: String| {
        ask("PUT", "/bucket/key")
            .header(name, value)
            .body(pattern(100_000, 7))
    };
    let update = put("if-match", "\"no\"".into());
    store.send(update).await.expect_error(404, "NoSuchKey");
    store
        .send(put("if-none-match", "*".into()))
        .await
        .expect(200);
    let again = put("if-none-match", "*".into());
    store
        .send(again)
        .await
        .expect_error(412, "PreconditionFailed");
    let other = put("if-none-match", "\"a\"".into());
    store.send(other).await.expect(200);
    let etag = store.head("/bucket/key").await.header("etag").to_owned();
    let same = put("if-none-match", etag.clone());
    store
        .send(same)
        .await
        .expect_error(412, "PreconditionFailed");
    let wrong = put("if-match", "\"no\"".into());
    store
        .send(wrong)
        .await
        .expect_error(412, "PreconditionFailed");
    store.send(put("if-match", etag.clone())).await.expect(200);

    let delete =
        |name: &'static str, value: String| ask("DELETE", "/bucket/key").header(name, value);
    let wrong = delete("if-match", "\"no\"".into());
    store
        .send(wrong)
        .await
        .expect_error(412, "PreconditionFailed");
    let wrong = delete("x-amz-if-match-size", "1".into());
    store
        .send(wrong)
        .await
        .expect_error(412, "PreconditionFailed");
    let wrong = delete("x-amz-if-match-last-modified-time", BEFORE.into());
    store
        .send(wrong)
        .await
        .expect_error(412, "PreconditionFailed");
    store.send(delete("if-match", etag)).await.expect(204);
    store
        .get("/bucket/key")
        .await
        .expect_error(404, "NoSuchKey");
}

#[tokio::test]
async fn refused_writes_leave_no_shards() {
    let store = Store::with_bucket().await;
    store.put("/bucket/key", pattern(100_000, 1)).await;
    let before = store.shards.len();
    let refused = ask("PUT", "/bucket/key")
        .header("if-none-match", "*")
        .body(pattern(100_000, 2));
    store
        .send(refused)
        .await
        .expect_error(412, "PreconditionFailed");
    let wrong = ask("PUT", "/bucket/key")
        .header("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")
        .body(pattern(100_000, 3));
    store.send(wrong).await.expect_error(400, "BadDigest");
    // They are freed by tasks of their own.
    for _ in 0..1000 {
        if store.shards.len() == before {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(store.shards.len(), before);
}

#[tokio::test]
async fn checksums_of_clients() {
    let store = Store::with_bucket().await;
    for (name, right, wrong) in [
        ("crc32", "y/Q5Jg==", "y/Q5Jw=="),
        ("crc32c", "4waSgw==", "4waShA=="),
        ("crc64nvme", "rosUhgp5mIg=", "rosUhgp5mIk="),
        (
            "sha1",
            "98O8HYCOBHMq32eZZczDTKeuNEE=",
            "fCIvspJ9goryL1khNOiTJIBjfA0=",
        ),
        (
            "sha256",
            "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=",
            "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiY=",
        ),
    ] {
        let header = format!("x-amz-checksum-{name}");
        let put = ask("PUT", "/bucket/key")
            .header(&header, right)
            .body("123456789");
        let put = store.send(put).await;
        assert_eq!(put.status, 200, "{name} {put:?}");
        assert_eq!(put.header(&header), right);
        let get = ask("GET", "/bucket/key").header("x-amz-checksum-mode", "ENABLED");
        let get = store.send(get).await.expect(200);
        assert_eq!(get.header(&header), right);
        assert_eq!(get.header("x-amz-checksum-type"), "FULL_OBJECT");
        let ranged = ask("GET", "/bucket/key")
            .header("x-amz-checksum-mode", "ENABLED")
            .header("range", "bytes=0-1");
        assert_eq!(store.send(ranged).await.expect(206).header(&header), "");
        let put = ask("PUT", "/bucket/key")
            .header(&header, wrong)
            .body("123456789");
        store.send(put).await.expect_error(400, "BadDigest");
    }
}

#[tokio::test]
async fn tags() {
    let store = Store::with_bucket().await;
    store.put("/bucket/key", "x").await;
    let empty = store.get("/bucket/key?tagging").await.expect(200);
    assert!(empty.elements("Tag").is_empty());
    let document = "<Tagging xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><TagSet><Tag><Key>k&amp;</Key><Value>v</Value></Tag></TagSet></Tagging>";
    let wrong = ask("PUT", "/bucket/key?tagging").body(document);
    store.send(wrong).await.expect_error(400, "InvalidTag");
    let document = document.replace("&amp;", "1");
    store
        .send(ask("PUT", "/bucket/key?tagging").body(document))
        .await
        .expect(200);
    let tags = store.get("/bucket/key?tagging").await.expect(200);
    assert_eq!(tags.element("Tag"), Some("<Key>k1</Key><Value>v</Value>"));
    assert_eq!(
        store
            .head("/bucket/key")
            .await
            .header("x-amz-tagging-count"),
        "1"
    );
    store
        .send(ask("DELETE", "/bucket/key?tagging"))
        .await
        .expect(204);
    assert_eq!(
        store
            .head("/bucket/key")
            .await
            .header("x-amz-tagging-count"),
        ""
    );
    store
        .get("/bucket/other?tagging")
        .await
        .expect_error(404, "NoSuchKey");
    let put = ask("PUT", "/bucket/other?tagging").body("<Tagging><TagSet/></Tagging>");
    store.send(put).await.expect_error(404, "NoSuchKey");
}

#[tokio::test]
async fn attributes() {
    let store = Store::with_bucket().await;
    let data = pattern(1000, 1);
    store.put("/bucket/key", data.clone()).await;
    let all = ask("GET", "/bucket/key?attributes").header(
        "x-amz-object-attributes",
        "ETag,Checksum,ObjectParts,StorageClass,ObjectSize",
    );
    let all = store.send(all).await.expect(200);
    assert_eq!(all.element("ETag"), Some(md5_hex(&data).as_str()));
    assert_eq!(all.element("ObjectSize"), Some("1000"));
    assert_eq!(all.element("StorageClass"), Some("STANDARD"));
    assert_eq!(all.element("ChecksumType"), Some("FULL_OBJECT"));
    assert_eq!(all.element("ObjectParts"), None);
    assert_eq!(all.header("last-modified"), THEN);
    let none = ask("GET", "/bucket/key?attributes");
    store.send(none).await.expect_error(400, "InvalidRequest");
    for (name, value, status) in [
        ("if-match", "\"no\"".to_owned(), 412),
        ("if-none-match", md5_hex(&data), 304),
    ] {
        let size = ask("GET", "/bucket/key?attributes").header(name, value);
        let size = size.header("x-amz-object-attributes", "ObjectSize");
        store.send(size).await.expect(status);
    }
    let empty = ask("GET", "/bucket/key?attributes").header("x-amz-object-attributes", "");
    store.send(empty).await.expect_error(400, "InvalidRequest");
    let wrong = ask("GET", "/bucket/key?attributes").header("x-amz-object-attributes", "Age");
    store.send(wrong).await.expect_error(400, "InvalidArgument");
}

#[tokio::test]
async fn keys_of_all_kinds() {
    let store = Store::with_bucket().await;
    let keys = [
        "..",
        "../..",
        "a/../b",
        "//",
        "/",
        "a//b/",
        "a/",
        "b%2Fc",
        "+",
        "a%20b",
        "%25",
        "%E2%82%AC",
        "%00",
        "%0A",
        "-/live",
        "%F0%9F%A6%80",
        "a&b",
        "%3Ca%3E",
        "~",
        "*",
        "'",
    ];
    for key in keys {
        let path = format!("/bucket/{key}");
        store.put(&path, key.to_owned()).await;
    }
    for key in keys {
        assert_eq!(
            store.get(&format!("/bucket/{key}")).await.expect(200).body,
            key
        );
        let hosted = ask("GET", format!("/{key}")).header("host", format!("bucket.{DOMAIN}"));
        let hosted = store.send(hosted).await.expect(200);
        assert_eq!(hosted.body, key);
    }
    // The key "/" comes as "//" after the host: path and bucket are not mixed up.
    let list = store.get("/bucket?list-type=2").await.expect(200);
    assert_eq!(
        list.element("KeyCount"),
        Some(keys.len().to_string().as_str())
    );
}

/// The SDK for JavaScript presigns uploads with headers as parameters, among them the checksum of no bytes.
#[tokio::test]
async fn parameters_that_stand_for_headers() {
    let store = Store::with_bucket().await;
    let uri = "/bucket/key?x-amz-checksum-crc32=AAAAAA%3D%3D&x-amz-sdk-checksum-algorithm=CRC32&x-amz-meta-a=b";
    let put = store.send(ask("PUT", uri).body("hello")).await.expect(200);
    assert_eq!(put.header("x-amz-checksum-crc32"), "");
    let get = ask("GET", "/bucket/key?x-amz-checksum-mode=ENABLED");
    let get = store.send(get).await.expect(200);
    assert_eq!(get.body, "hello");
    assert_eq!(get.header("x-amz-meta-a"), "b");
    assert_eq!(get.header("x-amz-checksum-crc64nvme").len(), 12);
}

#[tokio::test]
async fn large_bodies_at_once_get_their_own_etags() {
    let store = Store::with_bucket().await;
    let bodies: Vec<Bytes> = (0..12)
        .map(|index| pattern(2_100_000 + 31 * index, index as u8))
        .collect();
    let puts = bodies.iter().enumerate().map(|(index, body)| {
        let store = &store;
        async move {
            let wrong = index % 4 == 1;
            let mut digest = hex::decode(md5_hex(body)).unwrap();
            digest[0] ^= u8::from(wrong);
            let put = ask("PUT", format!("/bucket/{index}"))
                .header("content-md5", STANDARD.encode(&digest))
                .body(body.clone());
            let answer = store.send(put).await;
            if wrong {
                answer.expect_error(400, "BadDigest");
                return;
            }
            let etag = answer.expect(200).header("etag").to_owned();
            assert_eq!(etag, format!("\"{}\"", md5_hex(body)), "{index}");
            // A copy of another part of it computes anew.
            let copy = ask("PUT", format!("/bucket/{index}-copy"))
                .header("x-amz-copy-source", format!("bucket/{index}"))
                .header("x-amz-checksum-algorithm", "SHA256");
            let copied = store.send(copy).await.expect(200);
            let copied = String::from_utf8(copied.body.to_vec()).unwrap();
            assert!(copied.contains(&md5_hex(body)), "{index}");
        }
    });
    futures_util::future::join_all(puts).await;
    for (index, body) in bodies.iter().enumerate() {
        let get = store.get(&format!("/bucket/{index}")).await;
        match index % 4 {
            1 => drop(get.expect_error(404, "NoSuchKey")),
            _ => assert_eq!(get.expect(200).body, *body, "{index}"),
        }
    }
}

/// SDKs presign the conditions of a write as headers, or in the query.
#[test]
fn conditions_in_a_query_count_for_writes() {
    let hoisted = |method: &str| {
        let uri = "/bucket/key?If-None-Match=*&X-Amz-Meta-A=b&Content-Type=c&X-Amz-Signature=d";
        let request = Request::builder().method(method).uri(uri).body(());
        let (mut parts, ()) = request.unwrap().into_parts();
        let query = crate::router::Query::parse(parts.uri.query()).unwrap();
        crate::ops::hoist_headers(&mut parts, &query);
        parts.headers
    };
    let put = hoisted("PUT");
    assert_eq!(put["if-none-match"], "*");
    assert_eq!(put["x-amz-meta-a"], "b");
    assert_eq!(put.len(), 2);
    assert_eq!(hoisted("GET").len(), 1);
}
