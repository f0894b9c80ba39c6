//! What a listing costs on RocksDB. Run by hand:
//! `cargo test --release -p holdfast-storage-node list_speed -- --ignored --nocapture`

use std::sync::Arc;

use holdfast_placement::ids::BucketId;
use holdfast_placement::seams::{
    Batch, Clock, Durability, Index, Keyspace, RocksIndex, RocksMemory, SeededRng, SystemClock,
};

use super::{BUCKET, etag};
use crate::metadata::record::{Body, ObjectHeaders, VersionId, VersionSummary};
use crate::metadata::testing::TestMetadata;
use crate::metadata::values::{VersionDetails, encode_version};
use crate::metadata::{ChecksumAlgorithm, ChecksumKind, ListObjects, Metadata, ObjectChecksum};

const KEYS: u64 = 1_000_000;

fn fill(index: &RocksIndex, metadata: &Metadata) {
    let details = VersionDetails {
        checksum: Some(ObjectChecksum {
            algorithm: ChecksumAlgorithm::Crc64Nvme,
            kind: ChecksumKind::FullObject,
            value: vec![7; 8],
        }),
        headers: ObjectHeaders {
            content_type: Some("application/octet-stream".to_owned()),
            ..ObjectHeaders::default()
        },
        tags: Vec::new(),
    };
    let details = postcard::to_stdvec(&details).unwrap();
    let mut batch = Batch::new();
    for number in 0..KEYS {
        let key = format!("data/{:04}/object-{number:08}", number / 1000);
        let mut version = VersionId([3; 16]);
        version.0[..8].copy_from_slice(&number.to_be_bytes());
        let summary = VersionSummary {
            modified: SystemClock.wall(),
            size: 4096,
            etag: etag(number),
            version,
            null: true,
            delete_marker: false,
            checksum: Some((ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject)),
        };
        let value = encode_version(&summary, &Body::Inline, &details).unwrap();
        let object = metadata.place(BUCKET, &key).object_key();
        batch.put(Keyspace::Objects, object, value);
        if number % 1000 == 999 {
            index
                .write(std::mem::take(&mut batch), Durability::Unsynced)
                .unwrap();
        }
    }
}

async fn walk(metadata: &Metadata, bucket: BucketId, mut list: ListObjects) -> (u64, u64) {
    let (mut found, mut pages) = (0, 0);
    loop {
        let page = metadata.list(bucket, &list).await.unwrap();
        found += (page.entries.len() + page.common_prefixes.len()) as u64;
        pages += 1;
        match page.next {
            Some(next) => list.after = Some(next),
            None => return (found, pages),
        }
    }
}

#[tokio::test]
#[ignore = "takes a while and asserts nothing of speed"]
async fn list_speed() {
    let directory = tempfile::tempdir().unwrap();
    let spaces = [Keyspace::Objects, Keyspace::Inline, Keyspace::Records];
    let memory = RocksMemory::new(128 << 20, 32 << 20);
    let index = Arc::new(RocksIndex::open(directory.path(), &spaces, &memory).unwrap());
    let clock = Arc::new(SystemClock);
    let rng = Arc::new(SeededRng::new(1));
    let test = TestMetadata::over(index.clone(), 16, clock.clone(), rng);
    fill(&index, &test.metadata);
    let plain = ListObjects {
        max: 1000,
        ..ListObjects::default()
    };
    let folded = |prefix: &str, max| ListObjects {
        prefix: prefix.to_owned(),
        delimiter: Some("/".to_owned()),
        after: None,
        max,
    };
    let lists = [
        ("all keys, pages of 1000", plain.clone()),
        ("all keys again", plain),
        ("1000 common prefixes of 1000 keys", folded("data/", 1000)),
        ("again", folded("data/", 1000)),
        ("the first 100 of them, page by page", folded("data/", 100)),
        ("one common prefix over a million keys", folded("", 1000)),
    ];
    for (name, list) in lists {
        let start = clock.monotonic();
        let (found, pages) = walk(&test.metadata, BUCKET, list).await;
        let took = clock.monotonic() - start;
        println!(
            "{name}: {found} in {pages} pages, {:.2} us each, {:.2} ms a page",
            took.as_secs_f64() * 1e6 / found as f64,
            took.as_secs_f64() * 1e3 / f64::from(pages as u32),
        );
    }
}
