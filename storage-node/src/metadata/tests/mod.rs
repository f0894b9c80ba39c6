//! Tests over memory: what each operation promises, then everything at random against a model.

mod appends;
mod buckets;
mod events;
mod list_speed;
mod model;
mod objects;
mod quotas;
mod races;
mod renames;
mod spread;
mod strange;
mod uploads;

use std::sync::Arc;

use bytes::Bytes;
use holdfast_placement::ids::{BucketId, ChunkSetId, SiteId};
use holdfast_placement::protection::Protection;
use holdfast_placement::seams::{ManualClock, SeededRng, UnixMillis};

use super::testing::TestMetadata;
use super::{
    Body, ChunkedBody, CompleteUpload, Condition, Etag, Metadata, NewPart, NewUpload, NewVersion,
    ObjectHeaders, PartRecord, VersionLock,
};

const BUCKET: BucketId = BucketId(7);

struct Fixture {
    test: TestMetadata,
    clock: ManualClock,
}

impl Fixture {
    fn new() -> Self {
        let clock = ManualClock::at(UnixMillis(1_700_000_000_000));
        let rng = Arc::new(SeededRng::new(1));
        Self {
            test: TestMetadata::new(Arc::new(clock.clone()), rng),
            clock,
        }
    }

    fn metadata(&self) -> &Metadata {
        &self.test.metadata
    }

    /// Bodies that wait in all groups' reclaim queues, sorted.
    async fn reclaimable(&self) -> Vec<ChunkSetId> {
        let mut sets = Vec::new();
        for group in 1..=16 {
            let group = holdfast_placement::ids::GroupId(group);
            let entries = self
                .metadata()
                .reclaimable(group, UnixMillis(u64::MAX), usize::MAX)
                .await
                .unwrap();
            for entry in entries {
                sets.extend(entry.bodies.iter().map(|body| body.set));
            }
        }
        sets.sort();
        sets
    }
}

fn any() -> Condition {
    Condition::default()
}

fn if_match(etag: impl ToString) -> Condition {
    Condition {
        etag: Some(etag.to_string()),
        ..Condition::default()
    }
}

fn if_absent() -> Condition {
    Condition {
        absent: true,
        ..Condition::default()
    }
}

fn set(number: u64) -> ChunkSetId {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    ChunkSetId(id)
}

fn chunked(number: u64, len: u64) -> Body {
    Body::Chunked(ChunkedBody {
        set: set(number),
        len,
        chunk_len: 4 << 20,
        protection: Protection::NONE,
        site: SiteId(1),
    })
}

fn etag(number: u64) -> Etag {
    let mut md5 = [0xAB; 16];
    md5[..8].copy_from_slice(&number.to_be_bytes());
    Etag::Md5(md5)
}

fn inline_version(number: u64, bytes: &'static str) -> NewVersion {
    NewVersion {
        size: bytes.len() as u64,
        etag: etag(number),
        checksum: None,
        body: Body::Inline,
        inline: Bytes::from_static(bytes.as_bytes()),
        missed: Vec::new(),
        headers: ObjectHeaders::default(),
        tags: Vec::new(),
        lock: VersionLock::default(),
    }
}

fn chunked_version(number: u64, size: u64) -> NewVersion {
    NewVersion {
        size,
        etag: etag(number),
        checksum: None,
        body: chunked(number, size),
        inline: Bytes::new(),
        missed: Vec::new(),
        headers: ObjectHeaders::default(),
        tags: Vec::new(),
        lock: VersionLock::default(),
    }
}

fn new_upload() -> NewUpload {
    NewUpload {
        headers: ObjectHeaders {
            content_type: Some("text/x-test".to_owned()),
            ..ObjectHeaders::default()
        },
        tags: vec![("t".to_owned(), "v".to_owned())],
        lock: VersionLock::default(),
        checksum: None,
    }
}

fn part(number: u16, body: u64, size: u64) -> NewPart {
    let Etag::Md5(md5) = etag(body) else {
        unreachable!()
    };
    NewPart {
        number,
        size,
        md5,
        checksum: None,
        body: if size == 0 {
            Body::Empty
        } else {
            chunked(body, size)
        },
        missed: Vec::new(),
    }
}

fn completion(upload: holdfast_placement::ids::UploadId, parts: Vec<PartRecord>) -> CompleteUpload {
    CompleteUpload {
        upload,
        size: parts.iter().map(|part| part.size).sum(),
        etag: Etag::Multipart([9; 16], parts.len() as u16),
        checksum: None,
        parts,
    }
}
