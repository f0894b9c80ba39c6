use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::consensus::raft_types::log_id;
use crate::ids::DriveId;
use crate::seams::{Cursor, MemoryIndex};

const GROUP: GroupId = GroupId(5);

/// An index that does so many writes and then loses power.
struct Limited {
    inner: Arc<MemoryIndex>,
    writes_left: AtomicU64,
}

impl Limited {
    fn take(&self) -> Result<(), IndexError> {
        let left = self.writes_left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(IndexError::Io("the power is off".into()));
        }
        self.writes_left.store(left - 1, Ordering::Relaxed);
        Ok(())
    }
}

impl IndexView for Limited {
    fn get(&self, space: Keyspace, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        self.inner.get(space, key)
    }

    fn cursor<'a>(
        &'a self,
        space: Keyspace,
        from: &[u8],
        to: &[u8],
    ) -> Result<Box<dyn Cursor + 'a>, IndexError> {
        self.inner.cursor(space, from, to)
    }
}

impl Index for Limited {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), IndexError> {
        self.take()?;
        self.inner.write(batch, durability)
    }

    fn sync(&self) -> Result<(), IndexError> {
        self.inner.sync()
    }

    fn view(&self) -> Box<dyn IndexView + '_> {
        self.inner.view()
    }
}

/// `count` entries in every key space, and the head that goes with them.
fn fill(index: &MemoryIndex, group: GroupId, term: u64, applied: u64, count: u32, bytes: usize) {
    let mut batch = Batch::new();
    for space in STATE_KEYSPACES {
        for number in 0..count {
            let key = [group.0.to_be_bytes(), number.to_be_bytes()].concat();
            batch.put(space, key, vec![term as u8; bytes]);
        }
    }
    batch.put(
        Keyspace::Records,
        keys::applied_key(group),
        keys::log_id_value(&log_id(term, applied)),
    );
    let membership = keys::membership_value(&StoredMembership::default());
    batch.put(Keyspace::Records, keys::membership_key(group), membership);
    index.write(batch, Durability::Synced).unwrap();
}

fn old_state() -> Arc<MemoryIndex> {
    let index = Arc::new(MemoryIndex::new());
    fill(&index, GroupId(4), 1, 7, 3, 10);
    fill(&index, GROUP, 1, 10, 20, 50);
    fill(&index, GroupId(6), 1, 9, 3, 10);
    index
}

fn new_state() -> Arc<MemoryIndex> {
    let index = Arc::new(MemoryIndex::new());
    fill(&index, GroupId(4), 1, 7, 3, 10);
    fill(&index, GROUP, 2, 30, 12, 100_000);
    fill(&index, GroupId(6), 1, 9, 3, 10);
    index
}

#[tokio::test]
async fn a_crash_leaves_the_old_state_or_the_new_one() {
    let (old, new) = (old_state().entries(), new_state().entries());
    let log = GroupLog::open(GROUP, DriveId(1), &MemoryIndex::new()).unwrap();
    let (mut saw_old, mut saw_new) = (0, 0);
    for writes in 0.. {
        let mut done = false;
        for kept in [0, 1, 3, usize::MAX] {
            let target = Limited {
                inner: old_state(),
                writes_left: AtomicU64::new(writes),
            };
            let source = Image::Here {
                state: new_state(),
                group: GROUP,
            };
            let (meta, pieces) = source.open().await.unwrap();
            let mut result = stage(&target, &log, pieces).await;
            if result.is_ok() {
                let applied = meta.last_log_id.unwrap();
                result = replace(&target, GROUP, &applied, &meta.last_membership);
            }
            done = result.is_ok();
            target.inner.crash(kept);
            let recovered = recover(target.inner.as_ref(), GROUP).unwrap();
            let now = target.inner.entries();
            if now == old {
                assert!(!done, "the installation is durable when it returns");
                assert_eq!(recovered, None);
                saw_old += 1;
            } else {
                assert!(
                    now == new,
                    "after {writes} writes, {kept} kept: neither the old state nor the new"
                );
                saw_new += 1;
            }
        }
        if done {
            break;
        }
    }
    assert!(saw_old > 10 && saw_new > 10, "{saw_old} old, {saw_new} new");
}

#[tokio::test]
async fn an_image_that_breaks_off_is_no_image() {
    let log = GroupLog::open(GROUP, DriveId(1), &MemoryIndex::new()).unwrap();
    let target = old_state();
    let (tx, pieces) = mpsc::channel(4);
    tx.send(Ok(Piece::Chunk(vec![(
        Keyspace::Objects,
        Bytes::from_static(&[0, 0, 0, 5, 1]),
        Bytes::new(),
    )])))
    .await
    .unwrap();
    drop(tx);
    assert!(stage(target.as_ref(), &log, pieces).await.is_err());
    assert_eq!(recover(target.as_ref(), GROUP).unwrap(), None);
    assert_eq!(target.entries(), old_state().entries());
}

/// Its sender is gone without a word.
#[tokio::test]
async fn a_replica_that_ends_waits_for_no_image() {
    let target = MemoryIndex::new();
    let log = GroupLog::open(GROUP, DriveId(1), &target).unwrap();
    let (_tx, pieces) = mpsc::channel(1);
    let staging = stage(&target, &log, pieces);
    let ending = async {
        tokio::task::yield_now().await;
        log.stop("the drive is taken out");
    };
    let (staged, ()) = future::join(staging, ending).await;
    assert!(staged.is_err_and(|error| error.to_string().contains("taken out")));
}
