//! One sync for all records that were written while the last one ran.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_placement::planted::{Bug, planted};
use holdfast_placement::seams::IndexError;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::PutShardError;
use super::disk::DiskFile;
use super::index_entry::ShardEntry;
use super::record::Location;
use super::space::Reservation;
use super::store::Core;

/// Why a record was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Put,
    /// To move the shard away from `source`, if it is still there.
    Copy {
        source: Location,
    },
}

/// A record that was written and is neither durable nor in the index yet.
pub(super) struct Pending {
    entry: ShardEntry,
    place: Reservation,
    kind: Kind,
    reply: oneshot::Sender<Result<(), PutShardError>>,
}

impl Pending {
    pub fn new(
        entry: ShardEntry,
        place: Reservation,
        kind: Kind,
    ) -> (Self, oneshot::Receiver<Result<(), PutShardError>>) {
        let (reply, durable) = oneshot::channel();
        let pending = Self {
            entry,
            place,
            kind,
            reply,
        };
        (pending, durable)
    }
}

/// Records that wait for the next sync.
#[derive(Default)]
pub(super) struct Flusher {
    waiting: Mutex<Vec<Pending>>,
    wake: Notify,
    /// One group at a time, so that high-water marks and replies come in order.
    turn: tokio::sync::Mutex<()>,
    /// Extents of which a sync has failed: what was written to them until then may be lost although a later one succeeds.
    doubtful: Mutex<BTreeMap<u64, PutShardError>>,
    stopped: AtomicBool,
}

impl Flusher {
    pub fn push(&self, pending: Pending) {
        self.waiting.lock().push(pending);
        self.wake.notify_one();
    }

    /// Ends the store's tasks.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

impl Core {
    /// The task that flushes, until the store is dropped.
    pub async fn flush_forever(self: Arc<Self>) {
        while !self.flusher.is_stopped() {
            self.flusher.wake.notified().await;
            self.flush_now().await;
            self.seal_closed().await;
        }
        // Whoever still waits is told that the store was closed.
        self.flusher.waiting.lock().clear();
    }

    /// Makes what was written so far durable, and acknowledges it.
    pub async fn flush_now(&self) {
        let _turn = self.flusher.turn.lock().await;
        let group = std::mem::take(&mut *self.flusher.waiting.lock());
        if group.is_empty() {
            return;
        }
        let mut by_extent: BTreeMap<u64, Vec<Pending>> = BTreeMap::new();
        for pending in group {
            let extent = pending.entry.location.extent;
            by_extent.entry(extent).or_default().push(pending);
        }
        for (extent, group) in by_extent {
            let result = self.flush_extent(extent, &group).await;
            for pending in group {
                // The place is given up, if it was not settled, before anybody knows.
                drop(pending.place);
                let _ = pending.reply.send(result.clone());
            }
        }
    }

    async fn flush_extent(&self, extent: u64, group: &[Pending]) -> Result<(), PutShardError> {
        let Some(first) = group.first() else {
            return Ok(());
        };
        let doubt = self.flusher.doubtful.lock().get(&extent).cloned();
        if let Some(error) = doubt {
            self.declare_dead(group);
            return Err(error);
        }
        let file: Arc<dyn DiskFile> = first.place.file.clone();
        if !planted(Bug::SkipShardFlush)
            && let Err(error) = file.sync().await
        {
            // Nothing more goes here.
            self.space.lock().close(extent);
            let error = self.write_failed(error);
            let mut doubtful = self.flusher.doubtful.lock();
            doubtful.insert(extent, error.clone());
            drop(doubtful);
            self.declare_dead(group);
            return Err(error);
        }
        self.check_present().map_err(PutShardError::Down)?;
        self.commit(group).map_err(|error| self.put_failed(error))?;
        let count = group.len() as u64;
        self.counters.flushes.fetch_add(1, Ordering::Relaxed);
        self.counters
            .flushed_records
            .fetch_add(count, Ordering::Relaxed);
        Ok(())
    }

    /// Tells the index of records that must never count, before anybody hears of it: the next start would find them whole if
    /// the process was killed, and they may yet be gone when power fails.
    fn declare_dead(&self, group: &[Pending]) {
        let settled: HashSet<Location> = group.iter().map(|p| p.entry.location).collect();
        let declared = self.ledger.change(&settled, |change| {
            settled.iter().for_each(|place| change.discard(*place));
            Ok(())
        });
        // Else their places are given up, and the next change does it.
        if let Err(error) = declared {
            tracing::warn!(%error, "records whose sync failed are not yet declared dead");
        }
    }

    /// Tells the index of durable records.
    fn commit(&self, group: &[Pending]) -> Result<(), IndexError> {
        let settled: HashSet<Location> = group.iter().map(|p| p.entry.location).collect();
        self.ledger.change(&settled, |change| {
            for Pending { entry, kind, .. } in group {
                if self.space.lock().is_given_up(entry.location) {
                    change.discard(entry.location);
                    continue;
                }
                let before = change.get(entry.shard.id)?;
                match (kind, before) {
                    (Kind::Put, Some(before))
                        if before.shard.same_content(&entry.shard) && change.is_sound(&before) =>
                    {
                        change.discard(entry.location);
                    }
                    (Kind::Put, _) => {
                        change.put(entry.clone())?;
                        change.set_bad(entry.shard.id, false);
                    }
                    (Kind::Copy { source }, Some(before)) if before.location == *source => {
                        change.put(entry.clone())?;
                    }
                    (Kind::Copy { .. }, _) => change.discard(entry.location),
                }
            }
            Ok(())
        })
    }
}
