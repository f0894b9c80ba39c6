//! What a listing costs on RocksDB. Run by hand:
//! `cargo test --release -p holdfast-storage-node list_speed -- --ignored --nocapture`

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use holdfast_placement::ids::BucketId;
use holdfast_placement::seams::{
    Batch, Clock, Durability, Index, Keyspace, RocksIndex, RocksMemory, SeededRng, SystemClock,
};

use super::{BUCKET, etag};
use crate::metadata::record::{Body, ObjectHeaders, VersionId, VersionSummary};
use crate::metadata::testing::TestMetadata;
use crate::metadata::values::{VersionDetails, encode_version};
use crate::metadata::{
    ChecksumAlgorithm, ChecksumKind, ListObjects, ListPage, Metadata, ObjectChecksum,
};

/// Keys of the bucket: `LIST_KEYS`, or a million.
fn keys() -> u64 {
    let keys = std::env::var("LIST_KEYS").ok();
    keys.map_or(1_000_000, |keys| keys.parse().unwrap())
}

fn key(number: u64) -> String {
    format!("data/{:05}/object-{number:09}", number / 1000)
}

/// A bucket over RocksDB, in a directory that goes with it.
struct Filled {
    _directory: tempfile::TempDir,
    index: Arc<RocksIndex>,
    test: TestMetadata,
}

impl Filled {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let spaces = [Keyspace::Objects, Keyspace::Inline, Keyspace::Records];
        let memory = RocksMemory::new(192 << 20, 32 << 20);
        let index = RocksIndex::open(directory.path(), &spaces, &memory).unwrap();
        let index = Arc::new(index);
        let clock = Arc::new(SystemClock);
        let rng = Arc::new(SeededRng::new(1));
        let filled = Self {
            _directory: directory,
            test: TestMetadata::over(index.clone(), 16, clock, rng),
            index,
        };
        let version = version();
        filled.change(0..keys(), |batch, object, number| {
            batch.put(Keyspace::Objects, object, version(number));
        });
        filled
    }

    /// Changes keys, some at a time.
    fn change(&self, numbers: Range<u64>, change: impl Fn(&mut Batch, Vec<u8>, u64)) {
        let mut batch = Batch::new();
        for number in numbers {
            let object = self.test.metadata.place(BUCKET, &key(number)).object_key();
            change(&mut batch, object, number);
            if number % 100 == 99 {
                let batch = std::mem::take(&mut batch);
                self.index.write(batch, Durability::Unsynced).unwrap();
            }
        }
    }

    async fn page(&self, list: &ListObjects) -> (ListPage, f64) {
        let start = SystemClock.monotonic();
        let page = self.test.metadata.list(BUCKET, list).await.unwrap();
        (page, (SystemClock.monotonic() - start).as_secs_f64() * 1e3)
    }
}

/// Makes encoded versions.
fn version() -> impl Fn(u64) -> Vec<u8> {
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
    move |number| {
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
        encode_version(&summary, &Body::Inline, &details).unwrap()
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a while and asserts nothing of speed"]
async fn list_speed() {
    let filled = Filled::new();
    let test = &filled.test;
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
        let start = SystemClock.monotonic();
        let (found, pages) = walk(&test.metadata, BUCKET, list).await;
        let took = SystemClock.monotonic() - start;
        println!(
            "{name}: {found} in {pages} pages, {:.2} us each, {:.2} ms a page",
            took.as_secs_f64() * 1e6 / found as f64,
            took.as_secs_f64() * 1e3 / f64::from(pages as u32),
        );
    }
}

/// Pages over keys of which the first half was deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a while and asserts nothing of speed"]
async fn deleted_list_speed() {
    let filled = Filled::new();
    let list = ListObjects {
        max: 1000,
        ..ListObjects::default()
    };
    let deleted = keys() / 2;
    filled.change(0..deleted, |batch, object, _| {
        batch.delete(Keyspace::Objects, object);
    });
    for pause in [0, 0, 1, 2, 4, 8, 15] {
        SystemClock.sleep(Duration::from_secs(pause)).await;
        let (page, ms) = filled.page(&list).await;
        println!(
            "the first page past {deleted} deleted keys, {pause} s after the last: {ms:.1} ms"
        );
        assert_eq!(page.entries[0].key, key(deleted));
    }
}
