use futures_util::future::join_all;
use holdfast_placement::seams::{Rng, SystemRng};

use super::*;
use crate::checksum::{self, Hasher};
use holdfast_storage_node::metadata::{ChecksumAlgorithm, ChecksumKind, ObjectChecksum};

fn append(key: &str, offset: usize, data: impl Into<Bytes>) -> Ask {
    let put = ask("PUT", format!("/bucket/{key}")).body(data);
    put.header("x-amz-write-offset-bytes", offset.to_string())
}

fn checksum_of(algorithm: ChecksumAlgorithm, data: &[u8]) -> String {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(data);
    let whole = ObjectChecksum {
        algorithm,
        kind: ChecksumKind::FullObject,
        value: hasher.finish(),
    };
    checksum::format(&whole, None)
}

#[tokio::test]
async fn an_object_grows_and_keeps_what_it_has() {
    let store = Store::with_bucket().await;
    let create = append("key", 0, "one ").header("x-amz-meta-a", "1");
    let create = create.header("content-type", "text/plain");
    let created = store.send(create).await.expect(200);
    assert_eq!(created.header("etag"), format!("\"{}\"", md5_hex(b"one ")));
    let added = store.send(append("key", 4, "two")).await.expect(200);
    assert_eq!(added.header("x-amz-object-size"), "7");
    assert_eq!(added.header("etag"), format!("\"{}\"", md5_hex(b"one two")));
    let crc = checksum_of(ChecksumAlgorithm::Crc64Nvme, b"one two");
    assert_eq!(added.header("x-amz-checksum-crc64nvme"), crc);
    let got = store.get("/bucket/key").await.expect(200);
    assert_eq!(got.body, "one two");
    assert_eq!(got.header("x-amz-meta-a"), "1");
    assert_eq!(got.header("content-type"), "text/plain");
    assert_eq!(got.header("etag"), added.header("etag"));
}

#[tokio::test]
async fn the_offset_is_the_size() {
    let store = Store::with_bucket().await;
    let wrong = store.send(append("key", 1, "a")).await;
    wrong.expect_error(400, "InvalidWriteOffset");
    store
        .send(append("key", 0, ""))
        .await
        .expect_error(400, "InvalidRequest");
    store.put("/bucket/key", "abc").await;
    for offset in [0, 2, 4] {
        let wrong = store.send(append("key", offset, "d")).await;
        let wrong = wrong.expect_error(400, "InvalidWriteOffset");
        assert_eq!(wrong.element("ObjectSize"), Some("3"));
    }
    store
        .send(append("key", 3, ""))
        .await
        .expect_error(400, "InvalidRequest");
    assert_eq!(store.get("/bucket/key").await.body, "abc");
    // An object without bytes grows like any other.
    store.put("/bucket/empty", "").await;
    store.send(append("empty", 0, "a")).await.expect(200);
    assert_eq!(store.get("/bucket/empty").await.body, "a");
}

#[tokio::test]
async fn what_belongs_to_the_object_is_not_said_again() {
    let store = Store::with_bucket().await;
    store.put("/bucket/key", "abc").await;
    for (name, value) in [
        ("x-amz-meta-a", "1"),
        ("x-amz-tagging", "a=b"),
        ("x-amz-acl", "public-read"),
        ("x-amz-storage-class", "STANDARD"),
    ] {
        let refused = store.send(append("key", 3, "d").header(name, value)).await;
        refused.expect_error(400, "InvalidRequest");
    }
    let delete = ask("DELETE", "/bucket/key").header("x-amz-write-offset-bytes", "3");
    store.send(delete).await.expect_error(501, "NotImplemented");
}

#[tokio::test]
async fn conditions_hold_at_commit() {
    let store = Store::with_bucket().await;
    let missing = append("key", 0, "a").header("if-match", "*");
    store.send(missing).await.expect_error(404, "NoSuchKey");
    let first = append("key", 0, "a").header("if-none-match", "*");
    let etag = store
        .send(first)
        .await
        .expect(200)
        .header("etag")
        .to_owned();
    let there = append("key", 1, "b").header("if-none-match", "*");
    store
        .send(there)
        .await
        .expect_error(412, "PreconditionFailed");
    let second = append("key", 1, "b").header("if-match", &etag);
    store.send(second).await.expect(200);
    let stale = append("key", 2, "c").header("if-match", &etag);
    store
        .send(stale)
        .await
        .expect_error(412, "PreconditionFailed");
    assert_eq!(store.get("/bucket/key").await.body, "ab");
}

#[tokio::test]
async fn not_where_versions_are_kept() {
    let store = Store::with_bucket().await;
    store.put("/bucket/before", "a").await;
    for status in ["Enabled", "Suspended"] {
        let document =
            format!("<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>");
        let change = ask("PUT", "/bucket?versioning").body(document);
        store.send(change).await.expect(200);
        store.put("/bucket/key", "a").await;
        for key in ["before", "key"] {
            let refused = store.send(append(key, 1, "b")).await;
            refused.expect_error(501, "NotImplemented");
        }
        let refused = store.send(append("new", 0, "b")).await;
        refused.expect_error(501, "NotImplemented");
    }
}

#[tokio::test]
async fn a_multipart_object_grows_by_a_part() {
    let store = Store::with_bucket().await;
    let begun = store
        .send(ask("POST", "/bucket/key?uploads"))
        .await
        .expect(200);
    let id = begun.element("UploadId").unwrap();
    let data = pattern(70_000, 1);
    let uri = format!("/bucket/key?partNumber=7&uploadId={id}");
    let part = store
        .send(ask("PUT", uri).body(data.clone()))
        .await
        .expect(200);
    let document = format!(
        "<CompleteMultipartUpload><Part><PartNumber>7</PartNumber><ETag>{}</ETag></Part></CompleteMultipartUpload>",
        part.header("etag")
    );
    let uri = format!("/bucket/key?uploadId={id}");
    store
        .send(ask("POST", uri).body(document))
        .await
        .expect(200);

    let added = store.send(append("key", 70_000, "tail")).await.expect(200);
    assert!(added.header("etag").ends_with("-2\""), "{added:?}");
    let whole = [&data[..], b"tail"].concat();
    let crc = checksum_of(ChecksumAlgorithm::Crc64Nvme, &whole);
    assert_eq!(added.header("x-amz-checksum-crc64nvme"), crc);
    assert_eq!(store.get("/bucket/key").await.body, whole);
    let last = store.get("/bucket/key?partNumber=2").await.expect(206);
    assert_eq!(last.body, "tail");
    assert_eq!(last.header("x-amz-mp-parts-count"), "2");
    let attributes = ask("GET", "/bucket/key?attributes");
    let attributes = attributes.header("x-amz-object-attributes", "ObjectParts,ObjectSize");
    let attributes = store.send(attributes).await.expect(200);
    assert_eq!(attributes.element("ObjectSize"), Some("70004"));
    assert_eq!(attributes.elements("PartNumber"), ["7", "8"]);
}

#[tokio::test]
async fn checksums_are_of_the_whole_or_of_what_was_added() {
    let store = Store::with_bucket().await;
    let large = pattern(50_000, 3);
    let named = |name: &str, put: Ask, value: String| put.header(name, value);
    let crc32 = |data: &[u8]| checksum_of(ChecksumAlgorithm::Crc32, data);
    let put = ask("PUT", "/bucket/key").body(large.clone());
    store
        .send(named("x-amz-checksum-crc32", put, crc32(&large)))
        .await
        .expect(200);
    let other = named(
        "x-amz-checksum-crc32c",
        append("key", 50_000, "x"),
        checksum_of(ChecksumAlgorithm::Crc32c, b"x"),
    );
    store.send(other).await.expect_error(400, "InvalidRequest");
    let bad = named(
        "x-amz-checksum-crc32",
        append("key", 50_000, "x"),
        crc32(b"y"),
    );
    store.send(bad).await.expect_error(400, "BadDigest");
    // Without a checksum the object's is computed.
    let added = store.send(append("key", 50_000, "x")).await.expect(200);
    let whole = [&large[..], b"x"].concat();
    assert_eq!(added.header("x-amz-checksum-crc32"), crc32(&whole));
    let head = ask("HEAD", "/bucket/key").header("x-amz-checksum-mode", "ENABLED");
    let head = store.send(head).await.expect(200);
    assert_eq!(head.header("x-amz-checksum-crc32"), crc32(&whole));
    assert_eq!(head.header("x-amz-checksum-type"), "FULL_OBJECT");

    // SHA values cannot be combined.
    let sha = |data: &[u8]| checksum_of(ChecksumAlgorithm::Sha256, data);
    let put = ask("PUT", "/bucket/sha").body(large.clone());
    store
        .send(named("x-amz-checksum-sha256", put, sha(&large)))
        .await
        .expect(200);
    let added = named(
        "x-amz-checksum-sha256",
        append("sha", 50_000, "x"),
        sha(b"x"),
    );
    let added = store.send(added).await.expect(200);
    assert_eq!(added.header("x-amz-checksum-sha256"), sha(b"x"));
    let head = ask("HEAD", "/bucket/sha").header("x-amz-checksum-mode", "ENABLED");
    let head = store.send(head).await.expect(200);
    assert_eq!(head.header("x-amz-checksum-sha256"), "");
    // Those of inline bytes are computed anew.
    let put = named(
        "x-amz-checksum-sha256",
        ask("PUT", "/bucket/small").body("a"),
        sha(b"a"),
    );
    store.send(put).await.expect(200);
    let added = store.send(append("small", 1, "b")).await.expect(200);
    assert_eq!(added.header("x-amz-checksum-sha256"), sha(b"ab"));
}

#[tokio::test]
async fn of_writers_at_one_offset_one_wins() {
    let store = Store::with_bucket().await;
    let mut whole = Vec::new();
    // Inline, from inline to chunks, and in parts.
    for (round, len) in [(0u8, 100), (1, 10_000), (2, 40_000), (3, 50), (4, 70_000)] {
        let datas: Vec<Bytes> = (0..8)
            .map(|writer| pattern(len, writer * 16 + round))
            .collect();
        let asks = datas
            .iter()
            .map(|data| store.send(append("key", whole.len(), data.clone())));
        let answers = join_all(asks).await;
        let winners: Vec<_> = (0..8)
            .filter(|writer| answers[*writer].status == 200)
            .collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        for answer in answers.into_iter().filter(|answer| answer.status != 200) {
            answer.expect_error(400, "InvalidWriteOffset");
        }
        whole.extend_from_slice(&datas[winners[0]]);
        assert_eq!(store.get("/bucket/key").await.body, whole);
    }
}

/// Appends, overwrites, copies and reads at random against bytes in memory. `HOLDFAST_SEED` replays.
#[tokio::test]
async fn bytes_are_what_was_put_together() {
    let seed = match std::env::var("HOLDFAST_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => SystemRng.next_u64() % (1 << 32),
    };
    println!("HOLDFAST_SEED={seed}");
    let rng = SeededRng::new(seed);
    let store = Store::with_bucket().await;
    let mut model: Vec<u8> = Vec::new();
    let mut there = false;
    for step in 0..120u8 {
        let len = match rng.below(4) {
            0 => 1 + rng.below(200) as usize,
            1 => 1 + rng.below(20_000) as usize,
            2 => 1 + rng.below(60_000) as usize,
            _ => 1 + rng.below(10) as usize,
        };
        let data = pattern(len, step);
        match rng.below(20) {
            0 => {
                store.put("/bucket/key", data.clone()).await;
                model = data.to_vec();
                there = true;
            }
            1 => {
                store.send(ask("DELETE", "/bucket/key")).await.expect(204);
                model.clear();
                there = false;
            }
            2 if there => {
                let copy = ask("PUT", "/bucket/key").header("x-amz-copy-source", "/bucket/key");
                let copy = copy.header("x-amz-metadata-directive", "REPLACE");
                store.send(copy).await.expect(200);
            }
            _ => {
                let added = store.send(append("key", model.len(), data.clone())).await;
                added.expect(200);
                model.extend_from_slice(&data);
                there = true;
            }
        }
        let crc = checksum_of(ChecksumAlgorithm::Crc64Nvme, &model);
        let head = ask("HEAD", "/bucket/key").header("x-amz-checksum-mode", "ENABLED");
        let head = store.send(head).await;
        if !there {
            head.expect(404);
            continue;
        }
        let head = head.expect(200);
        assert_eq!(head.header("content-length"), model.len().to_string());
        assert_eq!(head.header("x-amz-checksum-crc64nvme"), crc, "step {step}");
        let from = rng.below(model.len() as u64);
        let to = from + rng.below(model.len() as u64 - from);
        let range = ask("GET", "/bucket/key").header("range", format!("bytes={from}-{to}"));
        let got = store.send(range).await.expect(206);
        assert_eq!(got.body, model[from as usize..=to as usize], "step {step}");
        if step % 10 == 0 {
            assert_eq!(store.get("/bucket/key").await.body, model, "step {step}");
        }
    }
}
