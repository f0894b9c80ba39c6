//! Shards that were found or left missing.

use std::collections::{HashSet, VecDeque};

use holdfast_placement::ids::ChunkSetId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::metadata::ChunkedBody;

/// Most shards that are remembered; what is found beyond is forgotten and found again by the next read of it.
const LEN_MAX: usize = 65_536;

/// A shard to rebuild.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repair {
    pub body: ChunkedBody,
    pub chunk: u32,
    pub slot: u8,
}

/// A bounded queue of shards to rebuild, each in it once.
#[derive(Default)]
pub struct RepairQueue {
    state: Mutex<State>,
    noted: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Repair>,
    known: HashSet<(ChunkSetId, u32, u8)>,
    forgotten: u64,
}

impl RepairQueue {
    /// Remembers a shard, unless it is known already or the queue is full.
    pub fn note(&self, body: ChunkedBody, chunk: u32, slot: u8) {
        let mut state = self.state.lock();
        if state.queue.len() >= LEN_MAX {
            state.forgotten += 1;
            return;
        }
        if state.known.insert((body.set, chunk, slot)) {
            state.queue.push_back(Repair { body, chunk, slot });
            drop(state);
            self.noted.notify_one();
        }
    }

    /// The shard that waits longest.
    pub fn take(&self) -> Option<Repair> {
        let mut state = self.state.lock();
        let repair = state.queue.pop_front()?;
        state
            .known
            .remove(&(repair.body.set, repair.chunk, repair.slot));
        Some(repair)
    }

    /// Completes when a shard was noted since the last call.
    pub async fn noted(&self) {
        self.noted.notified().await;
    }

    /// Shards that wait.
    pub fn len(&self) -> usize {
        self.state.lock().queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shards that were not remembered because the queue was full.
    pub fn forgotten(&self) -> u64 {
        self.state.lock().forgotten
    }
}
