//! Puts that a write no longer waits for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select;
use futures_util::stream::{FuturesUnordered, StreamExt};
use holdfast_placement::ids::ChunkSetId;
use holdfast_placement::seams::{Clock, spawn};
use holdfast_storage_node::buffer::{BufferPool, PoolConfig};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::store::Put;

/// How long a put goes on in the background.
const LATE_MAX: Duration = Duration::from_secs(60);

/// Puts that go on in the background: a shard that comes late need not be made anew. They end by themselves, after a
/// time, or at once if too many buffers are held by them already.
pub(super) struct LatePuts {
    clock: Arc<dyn Clock>,
    /// Says how much of the pool they may hold together. Nothing is taken from it.
    memory: BufferPool,
    /// How many go on, by the set that they belong to.
    under_way: Mutex<HashMap<ChunkSetId, usize>>,
    ended: Notify,
}

impl LatePuts {
    /// May hold a quarter of the pool.
    pub(super) fn new(pool: &BufferPool, clock: Arc<dyn Clock>) -> Self {
        let budget = PoolConfig::with_budget(pool.budget_bytes() / 4);
        Self {
            memory: BufferPool::new(budget, clock.clone()),
            clock,
            under_way: Mutex::default(),
            ended: Notify::new(),
        }
    }

    /// Takes over the puts of shards of `lens` bytes; whether they go on.
    pub(super) fn take(
        self: &Arc<Self>,
        set: ChunkSetId,
        mut puts: FuturesUnordered<Put>,
        lens: &[usize],
    ) -> bool {
        let Ok(memory) = self.memory.try_reserve(lens) else {
            return false;
        };
        *self.under_way.lock().entry(set).or_default() += 1;
        let late = self.clone();
        spawn(async move {
            let all = Box::pin(async { while puts.next().await.is_some() {} });
            drop(select(all, late.clock.sleep(LATE_MAX)).await);
            drop((puts, memory));
            late.end(set);
        });
        true
    }

    fn end(&self, set: ChunkSetId) {
        let mut under_way = self.under_way.lock();
        if let Some(count) = under_way.get_mut(&set) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&set);
            }
        }
        drop(under_way);
        self.ended.notify_waiters();
    }

    /// Completes when no put of the set goes on: what is deleted then stays deleted.
    pub(super) async fn ended(&self, set: ChunkSetId) {
        loop {
            let ended = self.ended.notified();
            if !self.under_way.lock().contains_key(&set) {
                return;
            }
            ended.await;
        }
    }
}
