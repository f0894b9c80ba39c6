//! Reads where the groups are led at several nodes, and buckets that others delete. `HOLDFAST_SEED` replays one sequence.

use std::sync::Arc;

use holdfast_placement::directory::CreateBucket;
use holdfast_placement::ids::{BucketId, GroupId, Lane, UploadId};
use holdfast_placement::seams::{
    Index, ManualClock, MemoryIndex, Rng, SeededRng, SystemRng, UnixMillis,
};

use super::{any, inline_version, new_upload, part};
use crate::metadata::command::{Command, Outcome};
use crate::metadata::testing::{HastyClock, TestMetadata};
use crate::metadata::{
    DeleteBucket, ListObjects, ListParts, ListUploads, Metadata, MetadataError, WriteError,
    delete_bucket, query_runner,
};

const BUCKET: BucketId = BucketId(7);

fn seeds(count: u64) -> std::ops::Range<u64> {
    let replayed = std::env::var("HOLDFAST_SEED").ok();
    match replayed.and_then(|seed| seed.parse::<u64>().ok()) {
        Some(seed) => seed..seed + 1,
        None => {
            let first = SystemRng.next_u64() >> 16;
            first..first + count
        }
    }
}

fn test_metadata(metadata_groups: u32, seed: u64) -> TestMetadata {
    let clock = Arc::new(ManualClock::at(UnixMillis(1_700_000_000_000)));
    let rng = Arc::new(SeededRng::new(seed));
    TestMetadata::over(Arc::new(MemoryIndex::new()), metadata_groups, clock, rng)
}

fn split(test: &TestMetadata, metadata_groups: u32, seed: u64, trouble: u64) -> TestMetadata {
    let clock = Arc::new(HastyClock);
    let rng = Arc::new(SeededRng::new(seed + 1));
    test.split(metadata_groups, clock, rng, seed, trouble)
}

fn text(rng: &SeededRng, pieces_max: u64) -> String {
    let pieces = ["a", "b", "c", "/", "//", "ab/", "ü", "\0", "~", "a/b/"];
    (0..rng.below(pieces_max + 1))
        .map(|_| pieces[rng.below(pieces.len() as u64) as usize])
        .collect()
}

#[tokio::test]
async fn listings_are_the_same_wherever_the_lanes_are_led() {
    for seed in seeds(20) {
        println!("HOLDFAST_SEED={seed}");
        let rng = SeededRng::new(seed);
        let metadata_groups = [1, 2, 5, 16][rng.below(4) as usize];
        let here = test_metadata(metadata_groups, seed);
        let spread = split(
            &here,
            metadata_groups,
            seed,
            [0, 10, 30][rng.below(3) as usize],
        );
        let (here, spread) = (&here.metadata, &spread.metadata);
        for number in 0..rng.below(400) {
            let key = text(&rng, 7);
            let new = inline_version(number, "x");
            here.put(BUCKET, &key, new, &any()).await.unwrap();
            if rng.below(3) == 0 {
                let key = text(&rng, 4);
                here.create_upload(BUCKET, &key, new_upload())
                    .await
                    .unwrap();
            }
        }
        for _ in 0..60 {
            let delimiter = [None, Some("/".to_owned()), Some(text(&rng, 2))];
            let list = ListObjects {
                prefix: text(&rng, 2),
                delimiter: delimiter[rng.below(3) as usize].clone(),
                after: (rng.below(2) == 0).then(|| text(&rng, 4)),
                max: [0, 1, 2, 7, 50, 1000][rng.below(6) as usize],
            };
            pages_agree(here, spread, list).await;
            let list = ListUploads {
                prefix: text(&rng, 1),
                delimiter: delimiter[rng.below(3) as usize].clone(),
                key_marker: (rng.below(2) == 0).then(|| text(&rng, 3)),
                upload_marker: (rng.below(2) == 0).then(|| UploadId::random(&rng)),
                max: [1, 2, 7, 1000][rng.below(4) as usize],
            };
            upload_pages_agree(here, spread, list).await;
        }
    }
}

/// Page by page, to the end.
async fn pages_agree(here: &Metadata, spread: &Metadata, mut list: ListObjects) {
    loop {
        let page = here.list(BUCKET, &list).await.unwrap();
        assert_eq!(spread.list(BUCKET, &list).await.unwrap(), page, "{list:?}");
        list.after = page.next;
        if list.after.is_none() {
            return;
        }
    }
}

async fn upload_pages_agree(here: &Metadata, spread: &Metadata, mut list: ListUploads) {
    loop {
        let page = here.list_uploads(BUCKET, &list).await.unwrap();
        let same = spread.list_uploads(BUCKET, &list).await.unwrap();
        assert_eq!(same, page, "{list:?}");
        let Some((key, upload)) = page.next else {
            return;
        };
        (list.key_marker, list.upload_marker) = (Some(key), upload);
    }
}

/// A part is asked for its share of a page: too few where one lane has all keys.
#[tokio::test]
async fn pages_are_whole_where_keys_are_not_spread_over_lanes() {
    let here = test_metadata(16, 1);
    let spread = split(&here, 16, 1, 0);
    let metadata = &here.metadata;
    let group = metadata.place(BUCKET, "0").group;
    let keys: Vec<String> = (0..20_000u32)
        .map(|number| format!("{number:05}"))
        .filter(|key| metadata.place(BUCKET, key).group == group || key.ends_with("99"))
        .collect();
    for key in &keys {
        let new = inline_version(1, "x");
        metadata.put(BUCKET, key, new, &any()).await.unwrap();
    }
    for max in [1, 7, 100, 1000, keys.len(), keys.len() + 1] {
        let mut listed = Vec::new();
        let mut after = None;
        loop {
            let list = ListObjects {
                after,
                max,
                ..ListObjects::default()
            };
            let page = spread.metadata.list(BUCKET, &list).await.unwrap();
            let of_page = page.entries.into_iter().map(|entry| entry.key);
            let before = listed.len();
            listed.extend(of_page);
            assert!(page.next.is_none() || listed.len() - before == max);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert!(listed == keys, "pages of {max}");
    }
}

async fn create(test: &TestMetadata) -> BucketId {
    match test.directory.create_bucket("b", "me", "eu").await {
        Ok(CreateBucket::Created(bucket)) => bucket.id,
        other => panic!("{other:?}"),
    }
}

fn is_closed<T>(read: Result<T, MetadataError>) -> bool {
    matches!(read, Err(MetadataError::BucketClosed))
}

#[tokio::test]
async fn a_bucket_that_is_gone_answers_nothing() {
    for trouble in [0, 10] {
        let one = test_metadata(16, 1);
        let other = split(&one, 16, 2, trouble);
        let old = create(&one).await;
        let upload = UploadId([9; 16]);
        let metadata = &one.metadata;
        for key in ["k", "l"] {
            let new = inline_version(1, "x");
            metadata.put(old, key, new, &any()).await.unwrap();
            metadata.delete(old, key, &any()).await.unwrap();
        }
        // Another process has it in its cache.
        assert_eq!(other.directory.bucket("b").await.unwrap().unwrap().id, old);
        let deleted = delete_bucket(&one.directory, metadata, "b").await.unwrap();
        assert_eq!(deleted, DeleteBucket::Deleted);
        let new = create(&one).await;
        for key in ["k", "l"] {
            let version = inline_version(2, "new");
            metadata.put(new, key, version, &any()).await.unwrap();
        }
        assert_eq!(other.directory.bucket("b").await.unwrap().unwrap().id, old);

        let parts = ListParts {
            upload,
            after: 0,
            max: 10,
        };
        let everything = ListObjects {
            max: 1000,
            ..ListObjects::default()
        };
        let past = ListObjects {
            after: Some("zzz".to_owned()),
            ..everything.clone()
        };
        let uploads = ListUploads {
            max: 1000,
            ..ListUploads::default()
        };
        for metadata in [&one.metadata, &other.metadata] {
            assert!(is_closed(metadata.get(old, "k").await));
            assert!(is_closed(metadata.head(old, "k").await));
            assert!(is_closed(metadata.upload(old, "k", upload).await));
            assert!(is_closed(metadata.list_parts(old, "k", &parts).await));
            assert!(is_closed(metadata.completed(old, "k", upload).await));
            assert!(is_closed(metadata.list(old, &everything).await));
            assert!(is_closed(metadata.list(old, &past).await));
            assert!(is_closed(metadata.list_uploads(old, &uploads).await));
            assert!(metadata.is_empty(old).await.unwrap());
            let gone =
                |write: Result<(), WriteError>| matches!(write, Err(WriteError::NoSuchBucket));
            assert!(gone(metadata.delete(old, "k", &any()).await.map(|_| ())));
            assert!(gone(metadata.set_tags(old, "k", Vec::new()).await));
            assert!(gone(metadata.abort_upload(old, "k", upload).await));
            let put = metadata.put_part(old, "k", upload, part(1, 1, 10)).await;
            assert!(matches!(put, Err(WriteError::NoSuchBucket)));

            assert_eq!(metadata.get(new, "k").await.unwrap().unwrap().inline, "new");
            assert!(metadata.get(new, "none").await.unwrap().is_none());
            assert!(metadata.upload(new, "k", upload).await.unwrap().is_none());
            assert_eq!(
                metadata.list(new, &everything).await.unwrap().entries.len(),
                2
            );
            assert!(metadata.list(new, &past).await.unwrap().entries.is_empty());
            assert!(
                metadata
                    .list_uploads(new, &uploads)
                    .await
                    .unwrap()
                    .uploads
                    .is_empty()
            );
        }
        assert_eq!(
            other.directory.bucket_now("b").await.unwrap().unwrap().id,
            new
        );
        assert_eq!(other.directory.bucket("b").await.unwrap().unwrap().id, new);
    }
}

#[tokio::test]
async fn a_bucket_is_gone_only_when_all_its_lanes_are_closed() {
    for seed in 0..10 {
        let one = test_metadata(5, seed);
        let other = split(&one, 5, seed, 0);
        let list = ListObjects {
            max: 10,
            ..ListObjects::default()
        };
        let mut lanes = one.metadata.lanes(BUCKET);
        lanes.sort();
        for (done, (group, lane)) in lanes.iter().enumerate() {
            for metadata in [&one.metadata, &other.metadata] {
                let listed = metadata.list(BUCKET, &list).await;
                assert!(listed.is_ok(), "{done} of {} lanes are closed", lanes.len());
            }
            close(&one.metadata, *group, *lane).await;
        }
        assert!(is_closed(one.metadata.list(BUCKET, &list).await));
        assert!(is_closed(other.metadata.list(BUCKET, &list).await));
    }
}

async fn close(metadata: &Metadata, group: GroupId, lane: Lane) {
    let command = Command::CloseLanes {
        bucket: BUCKET,
        lanes: vec![lane],
        deletion: 1,
    };
    let closed = metadata.decide(group, &command, &[]).await.unwrap().1;
    assert_eq!(closed, Outcome::Closed(true));
}

#[tokio::test]
async fn no_bytes_from_another_node_make_a_runner_panic() {
    for seed in seeds(1) {
        println!("HOLDFAST_SEED={seed}");
        let rng = SeededRng::new(seed);
        let test = test_metadata(1, seed);
        for key in ["a", "a/b", "c"] {
            let version = inline_version(1, "x");
            test.metadata
                .put(BUCKET, key, version, &any())
                .await
                .unwrap();
        }
        let runner = query_runner();
        let index: Arc<dyn Index> = test.groups.index();
        for round in 0..20_000u64 {
            let mut query = vec![0; 2 + rng.below(60) as usize];
            rng.fill(&mut query);
            for byte in &mut query {
                // Small numbers are more often something.
                if rng.below(2) == 0 {
                    *byte %= 8;
                }
            }
            query[0] = 1;
            query[1] = (round % 14) as u8;
            let group = GroupId((round / 14 % 2) as u32);
            // Refused or answered; a listing of strange lanes is empty or asks for groups that were not sent.
            let _answer = runner.run(&[(group, index.clone())], &query).await;
        }
        assert!(
            runner
                .run(&[(GroupId(1), index.clone())], &[1, 200])
                .await
                .is_err()
        );
        assert!(runner.run(&[(GroupId(0), index)], &[1, 200]).await.is_err());
    }
}
