//! What was referred to from the start is found, however it moves while the group is looked through in steps.
//! `HOLDFAST_SEED` replays one sequence.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_placement::ids::{BucketId, ChunkSetId, GroupId, SiteId, UploadId};
use holdfast_placement::protection::Protection;
use holdfast_placement::query::Ask;
use holdfast_placement::seams::{
    Index, ManualClock, MemoryIndex, Rng, SeededRng, SystemRng, UnixMillis,
};

use super::{FindReferenced, Search};
use crate::metadata::testing::{HastyClock, TestMetadata};
use crate::metadata::{
    Body, BucketVersioning, ChunkedBody, CompleteUpload, Condition, Deletion, Etag, ListParts,
    Lookup, NewPart, NewUpload, NewVersion, ObjectHeaders, VersionLock, Versioning,
};

const BUCKET: BucketId = BucketId(1);
const GROUP: GroupId = GroupId(1);

struct Store {
    test: TestMetadata,
    rng: SeededRng,
    uploads: Vec<(String, UploadId)>,
    /// Sets that are referred to: nothing is ever taken off the reclaim queue here.
    sets: Vec<ChunkSetId>,
}

impl Store {
    fn new(seed: u64) -> Self {
        let clock = ManualClock::at(UnixMillis(1_700_000_000_000));
        let rng = Arc::new(SeededRng::new(seed));
        Self {
            test: TestMetadata::over(Arc::new(MemoryIndex::new()), 1, Arc::new(clock), rng),
            rng: SeededRng::new(seed ^ 1),
            uploads: Vec::new(),
            sets: Vec::new(),
        }
    }

    fn body(&mut self) -> Body {
        let set = ChunkSetId::random(&self.rng);
        self.sets.push(set);
        Body::Chunked(ChunkedBody {
            set,
            len: 10,
            chunk_len: 4 << 20,
            protection: Protection::NONE,
            site: SiteId(0),
        })
    }

    fn key(&self) -> String {
        self.rng.below(8).to_string()
    }

    /// Something that makes references, or moves them.
    async fn change(&mut self) {
        let key = self.key();
        match self.rng.below(10) {
            0..3 => {
                let new = NewVersion {
                    size: 10,
                    etag: Etag::Md5([0; 16]),
                    checksum: None,
                    body: self.body(),
                    missed: Vec::new(),
                    inline: Bytes::new(),
                    headers: ObjectHeaders::default(),
                    tags: Vec::new(),
                    lock: VersionLock::default(),
                };
                let condition = Condition::default();
                let put = self.test.metadata.put(BUCKET, &key, new, &condition);
                put.await.unwrap();
            }
            3 if self.rng.below(2) == 0 => self.delete_version(&key).await,
            3 => {
                let condition = Condition::default();
                let deleted = self.test.metadata.delete(BUCKET, &key, &condition);
                deleted.await.unwrap();
            }
            4 => {
                let new = NewUpload {
                    headers: ObjectHeaders::default(),
                    tags: Vec::new(),
                    lock: VersionLock::default(),
                    checksum: None,
                };
                let created = self.test.metadata.create_upload(BUCKET, &key, new);
                let upload = created.await.unwrap();
                self.uploads.push((key, upload));
            }
            5..8 => {
                if self.uploads.is_empty() {
                    return;
                }
                let (key, upload) =
                    self.uploads[self.rng.below(self.uploads.len() as u64) as usize].clone();
                let part = NewPart {
                    number: 1 + self.rng.below(4) as u16,
                    size: 10,
                    md5: [0; 16],
                    checksum: None,
                    body: self.body(),
                    missed: Vec::new(),
                };
                let put = self.test.metadata.put_part(BUCKET, &key, upload, part);
                put.await.unwrap();
            }
            _ => self.end_upload().await,
        }
    }

    /// The next one comes back to be the newest.
    async fn delete_version(&mut self, key: &str) {
        let metadata = &self.test.metadata;
        let newest = metadata.head_version(BUCKET, key, None).await.unwrap();
        let version = match newest {
            Lookup::Found(record) => record.summary.name(),
            Lookup::Marker(summary) => summary.name(),
            Lookup::Nothing => return,
        };
        let deletion = Deletion {
            key: key.to_owned(),
            version: Some(version),
            ..Deletion::default()
        };
        metadata.delete_version(BUCKET, &deletion).await.unwrap();
    }

    async fn end_upload(&mut self) {
        let metadata = &self.test.metadata;
        let Some((key, upload)) = self.uploads.pop() else {
            return;
        };
        let list = ListParts {
            upload,
            after: 0,
            max: 100,
        };
        let page = metadata.list_parts(BUCKET, &key, &list).await.unwrap();
        let mut parts = page.unwrap().parts;
        parts.retain(|_| self.rng.below(3) > 0);
        if parts.is_empty() {
            metadata.abort_upload(BUCKET, &key, upload).await.unwrap();
            return;
        }
        let complete = CompleteUpload {
            upload,
            size: 10 * parts.len() as u64,
            etag: Etag::Multipart([0; 16], parts.len() as u16),
            checksum: None,
            parts,
        };
        let condition = Condition::default();
        let completed = metadata.complete_upload(BUCKET, &key, complete, &condition);
        completed.await.unwrap();
    }
}

#[tokio::test]
async fn what_moves_meanwhile_is_found() {
    let replayed = std::env::var("HOLDFAST_SEED").ok();
    let replayed: Option<u64> = replayed.and_then(|seed| seed.parse().ok());
    let first = replayed.unwrap_or_else(|| SystemRng.next_u64() >> 16);
    for seed in first..first + if replayed.is_some() { 1 } else { 100 } {
        println!("HOLDFAST_SEED={seed}");
        let mut store = Store::new(seed);
        if store.rng.below(4) > 0 {
            let versioning = BucketVersioning {
                change: 1,
                versioning: Versioning::Enabled,
                lock: None,
            };
            let metadata = &store.test.metadata;
            metadata.set_versioning(BUCKET, versioning).await.unwrap();
        }
        for _ in 0..store.rng.below(60) {
            store.change().await;
        }
        let before: HashSet<ChunkSetId> = store.sets.iter().copied().collect();
        let unknown = ChunkSetId::random(&store.rng);
        let mut suspects: Vec<ChunkSetId> = store.sets.clone();
        suspects.push(unknown);
        let mut found = HashSet::new();
        let mut search = Search::default();
        while let Some((region, from)) = search.at.take() {
            let question = FindReferenced {
                group: GROUP,
                suspects: Cow::Borrowed(&suspects),
                region,
                from,
                records_max: 1 + store.rng.below(4) as usize,
            };
            let state: Arc<dyn Index> = store.test.groups.index();
            let answer = question.run(&[(GROUP, state)]).await.unwrap();
            found.extend(answer.sets.iter().copied());
            search.take(answer);
            for _ in 0..store.rng.below(3) {
                store.change().await;
            }
        }
        assert!(found.is_superset(&before) || search.given_up);
        assert!(!found.contains(&unknown));
        // As it is asked for, here and at other nodes.
        let all: HashSet<ChunkSetId> = store.sets.iter().copied().chain([unknown]).collect();
        let rng = Arc::new(SeededRng::new(seed));
        let clock = Arc::new(HastyClock);
        let split = store.test.split(1, clock, rng, seed, 10);
        for metadata in [&store.test.metadata, &split.metadata] {
            let left = metadata.clear_referenced(GROUP, all.clone()).await.unwrap();
            assert_eq!(left, HashSet::from([unknown]));
        }
    }
}
