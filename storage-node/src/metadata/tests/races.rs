//! What happens between the steps of an operation.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use holdfast_placement::consensus::{Groups, ProposeError, QueryError, ReadError, Reading};
use holdfast_placement::ids::{GroupId, NodeId};
use holdfast_placement::seams::{
    Batch, Cursor, Durability, Index, IndexError, IndexView, Keyspace, ManualClock, MemoryIndex,
    SeededRng,
};
use holdfast_placement::testing::{DirectGroups, SplitGroups};
use parking_lot::Mutex;

use super::{BUCKET, any, inline_version};
use crate::metadata::testing::map_of;
use crate::metadata::{Metadata, MetadataError, WriteError, metadata_machine, query_runner};

/// Groups that hold proposals back until somebody reads inline bytes.
struct Held {
    direct: DirectGroups,
    holding: Mutex<bool>,
    held: Mutex<Vec<(GroupId, Bytes)>>,
}

impl Held {
    fn release(&self) {
        for (group, command) in std::mem::take(&mut *self.held.lock()) {
            let proposed = self.direct.propose(group, command).now_or_never();
            proposed.unwrap().unwrap();
        }
    }
}

struct HeldGroups(Arc<Held>);

#[async_trait]
impl Groups for HeldGroups {
    async fn propose(&self, group: GroupId, command: Bytes) -> Result<Bytes, ProposeError> {
        if *self.0.holding.lock() {
            self.0.held.lock().push((group, command));
            return Err(ProposeError::Indeterminate { group });
        }
        self.0.direct.propose(group, command).await
    }

    async fn read(&self, _group: GroupId) -> Result<Reading, ReadError> {
        Ok(Reading::Here(Arc::new(HeldIndex(self.0.clone()))))
    }

    async fn query(
        &self,
        at: NodeId,
        groups: &[GroupId],
        query: Bytes,
    ) -> Result<Bytes, QueryError> {
        self.0.direct.query(at, groups, query).await
    }
}

struct HeldIndex(Arc<Held>);

impl IndexView for HeldIndex {
    fn get(&self, space: Keyspace, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        if space == Keyspace::Inline {
            self.0.release();
        }
        self.0.direct.index().get(space, key)
    }

    fn cursor<'a>(
        &'a self,
        _: Keyspace,
        _: &[u8],
        _: &[u8],
    ) -> Result<Box<dyn Cursor + 'a>, IndexError> {
        unreachable!("not for point reads")
    }
}

impl Index for HeldIndex {
    fn write(&self, _: Batch, _: Durability) -> Result<(), IndexError> {
        unreachable!("readers do not write")
    }

    fn sync(&self) -> Result<(), IndexError> {
        unreachable!("readers do not write")
    }

    fn view(&self) -> Box<dyn IndexView + '_> {
        unreachable!("not for point reads")
    }
}

/// Seeds of where the groups are led: here, or elsewhere, with messages that get lost.
const SEEDS: std::ops::Range<u64> = 0..10;

fn held(seed: u64) -> (Arc<Held>, Metadata) {
    let held = Arc::new(Held {
        direct: DirectGroups::new(
            Arc::new(MemoryIndex::new()),
            Arc::new(|group, _| metadata_machine(group)),
        ),
        holding: Mutex::new(false),
        held: Mutex::new(Vec::new()),
    });
    let groups = Arc::new(HeldGroups(held.clone()));
    let metadata = Metadata::new(
        Arc::new(SplitGroups::new(groups, query_runner(), seed, 10)),
        map_of(16),
        Arc::new(ManualClock::default()),
        Arc::new(SeededRng::new(1)),
    );
    (held, metadata)
}

#[tokio::test]
async fn a_reader_between_record_and_bytes_sees_the_overwrite() {
    for seed in SEEDS {
        let (held, metadata) = held(seed);
        let one = inline_version(1, "one");
        metadata.put(BUCKET, "k", one, &any()).await.unwrap();
        *held.holding.lock() = true;
        let two = inline_version(2, "two!");
        let lost = metadata.put(BUCKET, "k", two, &any()).await;
        assert!(matches!(
            lost,
            Err(WriteError::Metadata(MetadataError::Indeterminate(_)))
        ));
        let found = metadata.get(BUCKET, "k").await.unwrap().unwrap();
        assert_eq!(found.inline, "two!");
        assert_eq!(found.record.summary.size, 4);
    }
}

#[tokio::test]
async fn a_reader_between_record_and_bytes_sees_the_deletion() {
    for seed in SEEDS {
        let (held, metadata) = held(seed);
        let new = inline_version(1, "one");
        metadata.put(BUCKET, "k", new, &any()).await.unwrap();
        *held.holding.lock() = true;
        metadata.delete(BUCKET, "k", &any()).await.unwrap_err();
        assert!(metadata.get(BUCKET, "k").await.unwrap().is_none());
    }
}

#[tokio::test]
async fn bytes_that_are_gone_are_an_error() {
    for seed in SEEDS {
        let (held, metadata) = held(seed);
        let new = inline_version(1, "one");
        metadata.put(BUCKET, "k", new, &any()).await.unwrap();
        let mut batch = Batch::new();
        batch.delete_range(Keyspace::Inline, &[0u8][..], &[0xFFu8][..]);
        let index = held.direct.index();
        index.write(batch, Durability::Unsynced).unwrap();
        let found = metadata.get(BUCKET, "k").await;
        assert!(matches!(found, Err(MetadataError::Failed(_))));
    }
}
