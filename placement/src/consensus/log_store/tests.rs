use std::sync::atomic::AtomicU64;

use openraft::storage::RaftLogStorageExt;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, RaftLogReader, StorageError};
use tokio::sync::watch;

use super::*;
use crate::consensus::StateMachine;
use crate::consensus::raft_types::{Opaque, log_id};
use crate::consensus::readers::Readers;
use crate::consensus::state_machine::{Applier, Growth};
use crate::seams::{Batch, MemoryIndex};

struct NoMachine;

impl StateMachine for NoMachine {
    fn apply(&mut self, _: &dyn IndexView, _: &mut Batch, _: &[u8]) -> Result<Bytes, IndexError> {
        Ok(Bytes::new())
    }

    fn restored(&mut self, _: &dyn IndexView) -> Result<(), IndexError> {
        Ok(())
    }
}

const GROUP: GroupId = GroupId(3);

fn open(log: &Arc<MemoryIndex>) -> LogStore {
    LogStore {
        log: Arc::new(GroupLog::open(GROUP, DriveId(1), log.as_ref()).unwrap()),
        drive: DriveLog::open(DriveId(1), log.clone()).unwrap(),
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Applier> for Builder {
    async fn build(&self) -> Result<((), LogStore, Applier), StorageError<TypeConfig>> {
        let store = open(&Arc::new(MemoryIndex::new()));
        let state = Arc::new(MemoryIndex::new());
        let applied = Arc::new(AtomicU64::new(0));
        let applier = Applier::open(
            store.log.clone(),
            store.drive.clone(),
            Readers::new(state, store.log.clone()),
            Box::new(NoMachine),
            applied,
            watch::channel(()).0,
            Growth::default(),
        )
        .unwrap();
        Ok(((), store, applier.allow_gaps()))
    }
}

#[tokio::test]
async fn openraft_suite() {
    Suite::test_all(Builder).await.unwrap();
}

fn command(term: u64, index: u64, bytes: usize) -> Entry {
    Entry {
        log_id: log_id(term, index),
        payload: EntryPayload::Normal(Opaque(Bytes::from(vec![index as u8; bytes]))),
    }
}

async fn indexes(store: &mut LogStore, range: std::ops::Range<u64>) -> Vec<u64> {
    let entries = store.try_get_log_entries(range).await.unwrap();
    entries.iter().map(|entry| entry.log_id.index()).collect()
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_crash() {
    let index = Arc::new(MemoryIndex::new());
    let mut store = open(&index);
    let vote = Vote::new_committed(7, 1);
    store.save_vote(&vote).await.unwrap();
    store
        .blocking_append((0..10).map(|i| command(7, i, 10)))
        .await
        .unwrap();
    store.truncate_after(Some(log_id(7, 6))).await.unwrap();
    store.purge(log_id(7, 2)).await.unwrap();
    store.blocking_append([command(8, 7, 10)]).await.unwrap();
    store.drive.close();
    index.crash(0);

    let mut store = open(&index);
    assert_eq!(store.read_vote().await.unwrap(), Some(vote));
    let state = store.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(7, 2)));
    assert_eq!(state.last_log_id, Some(log_id(8, 7)));
    assert_eq!(store.log.term(), 7);
    let entries = store.try_get_log_entries(0..100).await.unwrap();
    assert_eq!(entries[0], command(7, 3, 10));
    assert_eq!(entries[4], command(8, 7, 10));
    assert_eq!(entries.len(), 5);
}

#[tokio::test]
async fn old_entries_leave_memory_and_are_read_from_the_index() {
    let index = Arc::new(MemoryIndex::new());
    let mut store = open(&index);
    let bytes = RECENT_BYTES_MAX / 8;
    for i in 0..32 {
        store.blocking_append([command(1, i, bytes)]).await.unwrap();
    }
    {
        let inner = store.log.inner.lock();
        assert!(inner.recent_bytes <= RECENT_BYTES_MAX);
        assert!(inner.recent.len() < 10);
    }
    let all: Vec<u64> = (0..32).collect();
    assert_eq!(indexes(&mut store, 0..32).await, all);
    assert_eq!(indexes(&mut store, 3..29).await, all[3..29]);
    assert_eq!(
        store.try_get_log_entries(5..6).await.unwrap(),
        [command(1, 5, bytes)]
    );
    let limited = store.limited_get_log_entries(0, 32).await.unwrap();
    assert_eq!(
        limited.len(),
        READ_BYTES_MAX.div_ceil(bytes + keys::ENTRY_HEAD_BYTES)
    );
    // Replaced entries are not read from where they were before.
    store.truncate_after(Some(log_id(1, 4))).await.unwrap();
    store.blocking_append([command(2, 5, 10)]).await.unwrap();
    assert_eq!(indexes(&mut store, 0..32).await, all[..6]);
    assert_eq!(
        store.try_get_log_entries(5..6).await.unwrap(),
        [command(2, 5, 10)]
    );
}

#[tokio::test]
async fn a_gap_is_an_error() {
    let index = Arc::new(MemoryIndex::new());
    let mut store = open(&index);
    store
        .blocking_append((0..10).map(|i| command(1, i, 10)))
        .await
        .unwrap();
    store.drive.close();
    let mut batch = Batch::new();
    batch.delete(Keyspace::Log, keys::entry_key(GROUP, 4).to_vec());
    index
        .write(batch, crate::seams::Durability::Synced)
        .unwrap();
    let mut store = open(&index);
    assert!(store.try_get_log_entries(0..10).await.is_err());
    assert!(store.try_get_log_entries(4..10).await.is_err());
    assert_eq!(indexes(&mut store, 5..10).await, [5, 6, 7, 8, 9]);
}

#[tokio::test]
async fn a_log_that_cannot_be_written_stops_its_replicas() {
    let index = Arc::new(MemoryIndex::new());
    let mut store = open(&index);
    store.blocking_append([command(1, 0, 10)]).await.unwrap();
    index.fail(Some(IndexError::Io("gone".into())));
    assert!(store.blocking_append([command(1, 1, 10)]).await.is_err());
    assert!(store.log.stopped().is_some());
    index.fail(None);
    // It stays so: what came between may be lost.
    assert!(store.blocking_append([command(1, 2, 10)]).await.is_err());
}

#[tokio::test]
async fn hosted_groups_are_found_again() {
    let index = Arc::new(MemoryIndex::new());
    let drive = DriveLog::open(DriveId(1), index.clone()).unwrap();
    for group in [0, 1, 5, 300] {
        let log = Arc::new(GroupLog::open(GroupId(group), DriveId(1), index.as_ref()).unwrap());
        drive.write(&log, Change::Host).await.unwrap();
        drive
            .write(&log, Change::Vote(Vote::new(4, 1)))
            .await
            .unwrap();
        if group == 5 {
            drive.write(&log, Change::Erase).await.unwrap();
        }
    }
    assert_eq!(
        hosted_groups(index.as_ref()).unwrap(),
        [GroupId(0), GroupId(1), GroupId(300)]
    );
    let erased = GroupLog::open(GroupId(5), DriveId(1), index.as_ref()).unwrap();
    assert_eq!(erased.term(), 4);
    assert!(!erased.initialised());
}

/// Found in simulation: a voter was removed and made one again, and elected a replica that had heard of neither and
/// lacked what the voter had acknowledged before.
#[tokio::test]
async fn a_replica_that_is_made_anew_elects_nobody_who_has_less_than_it_had() {
    let index = Arc::new(MemoryIndex::new());
    let mut store = open(&index);
    let entries = [command(1, 1, 8), command(2, 2, 8), command(2, 3, 8)];
    store.blocking_append(entries).await.unwrap();
    assert!(store.log.is_complete() && store.log.may_elect(None));
    store.write(Change::Erase).await.unwrap();
    index.crash(0);

    let mut store = open(&index);
    assert!(store.log.last().is_none() && !store.log.is_complete());
    assert!(!store.log.may_elect(None) && !store.log.may_elect(Some(log_id(2, 2))));
    assert!(store.log.may_elect(Some(log_id(2, 3))) && store.log.may_elect(Some(log_id(3, 1))));
    // Removed once more before it had caught up.
    store.blocking_append([command(1, 1, 8)]).await.unwrap();
    store.write(Change::Erase).await.unwrap();

    let mut store = open(&index);
    assert!(!store.log.may_elect(Some(log_id(2, 2))));
    let entries = [command(1, 1, 8), command(2, 2, 8), command(2, 3, 8)];
    store.blocking_append(entries).await.unwrap();
    assert!(store.log.is_complete());
}
