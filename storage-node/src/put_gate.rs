//! Puts to a drive, as who moves shards away from it has to know them.
//!
//! Two things could lose a shard while it moves. It comes back to a drive, by a newer map, while the drive's owner still
//! deletes it by an older one: so a delete waits for puts of the same shard, holds off new ones, and is not done if a
//! put came by a newer map than its own. And a writer that planned with an old map, and was slow, stores it on a drive
//! that has just been found to hold nothing of others any more: so from then on the drive takes nothing that was planned
//! by older maps.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use holdfast_placement::ids::{DriveId, Epoch};
use holdfast_placement::planted::{Bug, planted};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::shard_store::ShardId;

/// The gates of the drives that this process has.
pub trait PutGates: Send + Sync + 'static {
    /// The drives, in order.
    fn drives(&self) -> Vec<DriveId>;

    fn gate(&self, drive: DriveId) -> Option<Arc<PutGate>>;
}

/// The gate of one drive.
#[derive(Default)]
pub struct PutGate {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Puts that were planned by older maps are refused.
    fence: Epoch,
    /// The newest map that a put was planned by.
    newest: Epoch,
    /// Puts under way, by the epoch of their map and by shard.
    by_epoch: BTreeMap<Epoch, usize>,
    by_shard: HashMap<ShardId, usize>,
    /// Shards that are being deleted because they belong elsewhere.
    removing: HashSet<ShardId>,
}

/// A put under way.
pub struct Putting<'a> {
    gate: &'a PutGate,
    id: ShardId,
    epoch: Epoch,
}

/// A shard that no put stores meanwhile.
pub struct Removing<'a> {
    gate: &'a PutGate,
    id: ShardId,
}

impl PutGate {
    /// Begins a put that was planned by the map of `epoch`; `None` if that is too old. Waits while the shard is being
    /// removed.
    pub async fn enter(&self, id: ShardId, epoch: Epoch) -> Option<Putting<'_>> {
        self.wait_for(|state| {
            if epoch < state.fence && !planted(Bug::IgnoreEpoch) {
                return Some(None);
            }
            if state.removing.contains(&id) {
                return None;
            }
            state.newest = state.newest.max(epoch);
            *state.by_epoch.entry(epoch).or_default() += 1;
            *state.by_shard.entry(id).or_default() += 1;
            Some(Some(Putting {
                gate: self,
                id,
                epoch,
            }))
        })
        .await
    }

    /// Refuses puts that were planned by maps older than `epoch`, from now on.
    pub fn fence(&self, epoch: Epoch) {
        let mut state = self.state.lock();
        state.fence = state.fence.max(epoch);
    }

    /// Completes when no put that was planned by a map older than `epoch` is under way; to be called after
    /// [`fence`](PutGate::fence).
    pub async fn drained(&self, epoch: Epoch) {
        self.wait_for(|state| {
            let oldest = state.by_epoch.keys().next();
            oldest.is_none_or(|oldest| *oldest >= epoch).then_some(())
        })
        .await;
    }

    /// Keeps puts of a shard off while it is removed; waits for those that are under way.
    pub async fn remove(&self, id: ShardId) -> Removing<'_> {
        self.wait_for(|state| {
            let free = !state.by_shard.contains_key(&id) && state.removing.insert(id);
            // Not `then_some`: dropping one takes the lock that is held here.
            free.then(|| Removing { gate: self, id })
        })
        .await
    }

    /// The newest map that any put was planned by.
    pub fn newest(&self) -> Epoch {
        self.state.lock().newest
    }

    async fn wait_for<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if let Some(done) = ready(&mut self.state.lock()) {
                return done;
            }
            changed.await;
        }
    }
}

impl Drop for Putting<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.state.lock();
        if let Some(count) = state.by_epoch.get_mut(&self.epoch) {
            *count -= 1;
            if *count == 0 {
                state.by_epoch.remove(&self.epoch);
            }
        }
        if let Some(count) = state.by_shard.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                state.by_shard.remove(&self.id);
            }
        }
        drop(state);
        self.gate.changed.notify_waiters();
    }
}

impl Drop for Removing<'_> {
    fn drop(&mut self) {
        self.gate.state.lock().removing.remove(&self.id);
        self.gate.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;
    use holdfast_placement::ids::{ChunkSetId, Epoch};

    use super::PutGate;
    use crate::shard_store::ShardId;

    fn shard(slot: u8) -> ShardId {
        ShardId {
            set: ChunkSetId::default(),
            chunk: 0,
            slot,
        }
    }

    #[test]
    fn old_puts_are_waited_for_and_then_refused() {
        let gate = PutGate::default();
        let old = gate.enter(shard(1), Epoch(4)).now_or_never().unwrap();
        let new = gate.enter(shard(2), Epoch(5)).now_or_never().unwrap();
        assert!(old.is_some() && new.is_some());
        gate.fence(Epoch(5));
        let mut drained = pin!(gate.drained(Epoch(5)));
        assert!(drained.as_mut().now_or_never().is_none());
        let refused = gate.enter(shard(3), Epoch(4)).now_or_never().unwrap();
        assert!(refused.is_none());
        drop(old);
        assert!(drained.now_or_never().is_some());
        assert_eq!(gate.newest(), Epoch(5));
    }

    #[test]
    fn a_shard_is_put_or_removed_but_not_both_at_a_time() {
        let gate = PutGate::default();
        let putting = gate.enter(shard(1), Epoch(1)).now_or_never().unwrap();
        let mut removing = pin!(gate.remove(shard(1)));
        assert!(removing.as_mut().now_or_never().is_none());
        assert!(gate.remove(shard(2)).now_or_never().is_some());
        drop(putting);
        let removing = removing.now_or_never().unwrap();
        let mut putting = pin!(gate.enter(shard(1), Epoch(2)));
        assert!(putting.as_mut().now_or_never().is_none());
        drop(removing);
        assert!(putting.now_or_never().unwrap().is_some());
    }
}
