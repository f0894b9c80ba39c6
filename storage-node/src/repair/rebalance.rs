//! Moves shards away from this node's drives to where the ring says that they belong.
//!
//! A shard is read (and verified), put to its target, and only then deleted here. The put is always made, even if the
//! target says that it has the shard: it may be about to move it away by an older map, and a put is what stops it (see
//! [`PutGate`]). Before the delete the map is looked at once more, and nothing is deleted that belongs here again. A
//! body that was deleted meanwhile is recognised by its shard being gone here; then what was brought to the target is
//! taken away again.
//!
//! A drive is done with a version of the ring after a pass over all its shards that left nothing to move, and that
//! began when no put planned by an older map could come any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use holdfast_placement::ids::{DriveId, Epoch, SiteId};
use holdfast_placement::map::{ClusterMap, SharedMap};
use holdfast_placement::planted::{Bug, planted};
use holdfast_placement::ring::{Ring, Slot};
use holdfast_placement::seams::Clock;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::buffer::BufferPool;
use crate::put_gate::{PutGate, PutGates};
use crate::shard_store::{GetShardError, PutShardError, ShardId, ShardInfo};
use crate::shards::{ShardFacts, Shards, read_capacity};

/// Shards listed at a time.
const PAGE_LEN: usize = 1024;

/// Pause between looks at the map.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// Pause before a drive that was left with something is gone over again, and before it is said again that one is done.
const PASS_PAUSE: Duration = Duration::from_secs(5);

/// Pause before drives that should have nothing to move are gone over, after a start.
const STRAYS_PAUSE: Duration = Duration::from_secs(60);

/// How fast shards are moved.
#[derive(Clone, Debug)]
pub struct RebalanceConfig {
    /// Bytes a second, of all drives of the node together.
    pub bytes_per_sec: u64,
    /// Shards that are moved at a time.
    pub shards_at_a_time: usize,
}

impl Default for RebalanceConfig {
    fn default() -> Self {
        Self {
            bytes_per_sec: 200 << 20,
            shards_at_a_time: 2,
        }
    }
}

/// A drive has moved away everything that does not belong there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MovedAway {
    pub drive: DriveId,
    pub site: SiteId,
    /// By which version of the site's ring; if the ring has changed since, it says nothing.
    pub ring_version: u64,
    /// A map with that ring.
    pub epoch: Epoch,
}

/// Who is told that a drive is done; told again and again until the map says it too.
pub type TellMovedAway = Arc<dyn Fn(MovedAway) + Send + Sync>;

/// How far a drive is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Moved since the process began.
    pub moved_shards: u64,
    pub moved_bytes: u64,
    /// What is still to be moved, as of the last look.
    pub left_shards: u64,
    pub left_bytes: u64,
    /// Of these, those that failed their checksum here: they have to be rebuilt at their target.
    pub unreadable_shards: u64,
}

/// What a pass over a drive did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    pub moved: u64,
    /// Shards that belong elsewhere and are still here.
    pub left: u64,
    /// Of these, those that failed their checksum.
    pub unreadable: u64,
}

/// What became of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moved {
    /// It belongs here, or nowhere.
    Stays,
    Away,
    /// Its body was deleted meanwhile.
    Gone,
    /// It could not be moved now.
    Left,
    Unreadable,
}

/// Moves shards away from the drives of a process.
pub struct Rebalancer {
    shards: Arc<dyn Shards>,
    gates: Arc<dyn PutGates>,
    map: SharedMap,
    pool: BufferPool,
    clock: Arc<dyn Clock>,
    config: RebalanceConfig,
    tell: TellMovedAway,
    /// When the next shard may be moved, nanoseconds of monotonic time.
    next_at: AtomicU64,
    progress: Mutex<BTreeMap<DriveId, Progress>>,
}

impl Rebalancer {
    /// `shards` are those of the whole cluster, `gates` say which drives this process has. To be made before the process
    /// takes puts from others.
    pub fn new(
        shards: Arc<dyn Shards>,
        gates: Arc<dyn PutGates>,
        map: SharedMap,
        pool: BufferPool,
        clock: Arc<dyn Clock>,
        config: RebalanceConfig,
        tell: TellMovedAway,
    ) -> Self {
        // A drive may have been found done by the process before this one, and that may be said of it already: what was
        // planned by older maps is late.
        let now = map.load();
        for gate in gates.drives().into_iter().filter_map(|id| gates.gate(id)) {
            gate.fence(now.epoch);
        }
        Self {
            shards,
            gates,
            map,
            pool,
            clock,
            config,
            tell,
            next_at: AtomicU64::new(0),
            progress: Mutex::default(),
        }
    }

    /// Moves what is to be moved until `stopped` changes: at once from drives that the ring names as sources; and
    /// once after the start, when things have calmed down, from all drives.
    pub async fn run(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        let work = async {
            let strays_at = self.clock.monotonic() + STRAYS_PAUSE;
            let mut looked_for_strays: BTreeSet<DriveId> = BTreeSet::new();
            let mut done: BTreeMap<DriveId, MovedAway> = BTreeMap::new();
            let mut again_at = Duration::ZERO;
            loop {
                let now = self.clock.monotonic();
                let map = self.map.load();
                let is_due = now >= again_at;
                for drive in self.gates.drives() {
                    let version = ring_of(&map, drive).map(|(_, ring)| ring.version());
                    let known = done
                        .get(&drive)
                        .filter(|done| Some(done.ring_version) == version);
                    match (is_source(&map, drive), known) {
                        (true, Some(done)) if is_due => (self.tell)(*done),
                        (true, Some(_)) => {}
                        (true, None) => {
                            if let Some(moved) = self.move_away(drive).await {
                                (self.tell)(moved);
                                done.insert(drive, moved);
                            }
                        }
                        (false, _) if now >= strays_at && looked_for_strays.insert(drive) => {
                            self.pass(drive).await;
                        }
                        (false, _) => {}
                    }
                }
                if is_due {
                    again_at = now + PASS_PAUSE;
                }
                self.clock.sleep(LOOK_PAUSE).await;
                // Nothing to do until the map changes, or what was left may be tried again.
                while self.map.load().epoch == map.epoch && self.clock.monotonic() < again_at {
                    self.clock.sleep(LOOK_PAUSE).await;
                }
            }
        };
        tokio::select! {
            () = work => {}
            _ = stopped.changed() => {}
        }
    }

    /// How far each drive is that had something to move.
    pub fn progress(&self) -> BTreeMap<DriveId, Progress> {
        self.progress.lock().clone()
    }

    /// Goes over a drive until it has nothing left of others; `None` if something could not be moved now, or the ring
    /// changed.
    pub async fn move_away(&self, drive: DriveId) -> Option<MovedAway> {
        if self.pass(drive).await.left > 0 {
            return None;
        }
        // What came during that pass, or comes of what was planned before: it ends here.
        let map = self.map.load();
        let (site, ring) = ring_of(&map, drive)?;
        let gate = self.gates.gate(drive)?;
        gate.fence(map.epoch);
        gate.drained(map.epoch).await;
        if self.pass(drive).await.left > 0 {
            return None;
        }
        let after = self.map.load();
        let (_, ring_after) = ring_of(&after, drive)?;
        (ring_after.version() == ring.version()).then_some(MovedAway {
            drive,
            site,
            ring_version: ring.version(),
            epoch: map.epoch,
        })
    }

    /// Goes over all shards of a drive once. A drive that cannot be listed has something left.
    pub async fn pass(&self, drive: DriveId) -> Pass {
        let mut pass = Pass::default();
        let Some(gate) = self.gates.gate(drive) else {
            return pass;
        };
        match self.survey(drive).await {
            Ok((0, _)) => {
                self.note(drive, |progress| {
                    (progress.left_shards, progress.left_bytes) = (0, 0);
                });
                return pass;
            }
            Ok((shards, bytes)) => self.note(drive, |progress| {
                (progress.left_shards, progress.left_bytes) = (shards, bytes);
            }),
            Err(_) => {
                pass.left = 1;
                return pass;
            }
        }
        let mut after: Option<ShardId> = None;
        loop {
            let Ok(page) = self.shards.list(drive, after, PAGE_LEN).await else {
                pass.left += 1;
                break;
            };
            let Some(last) = page.last() else {
                break;
            };
            after = Some(last.id);
            let map = self.map.load();
            let foreign = page
                .into_iter()
                .filter(|info| belongs_elsewhere(&map, drive, info.id));
            let moves = foreign.map(|info| {
                let gate = &gate;
                async move {
                    let moved = self.move_shard(drive, gate, &info).await;
                    self.account(drive, &info, moved);
                    moved
                }
            });
            let moves: Vec<_> = moves.collect();
            let mut moves = stream::iter(moves).buffer_unordered(self.config.shards_at_a_time);
            while let Some(moved) = moves.next().await {
                pass.moved += u64::from(moved == Moved::Away);
                pass.left += u64::from(matches!(moved, Moved::Left | Moved::Unreadable));
                pass.unreadable += u64::from(moved == Moved::Unreadable);
            }
        }
        self.note(drive, |progress| {
            progress.unreadable_shards = pass.unreadable;
        });
        pass
    }

    /// How many shards of a drive belong elsewhere, and how many bytes.
    async fn survey(&self, drive: DriveId) -> Result<(u64, u64), GetShardError> {
        let (mut shards, mut bytes) = (0, 0);
        let mut after: Option<ShardId> = None;
        loop {
            let page = self.shards.list(drive, after, PAGE_LEN).await?;
            let Some(last) = page.last() else {
                return Ok((shards, bytes));
            };
            after = Some(last.id);
            let map = self.map.load();
            for info in &page {
                if belongs_elsewhere(&map, drive, info.id) {
                    shards += 1;
                    bytes += u64::from(info.len);
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn note(&self, drive: DriveId, change: impl FnOnce(&mut Progress)) {
        change(self.progress.lock().entry(drive).or_default());
    }

    fn account(&self, drive: DriveId, info: &ShardInfo, moved: Moved) {
        let len = u64::from(info.len);
        self.note(drive, |progress| {
            if moved == Moved::Away {
                progress.moved_shards += 1;
                progress.moved_bytes += len;
            }
            if matches!(moved, Moved::Away | Moved::Gone | Moved::Stays) {
                progress.left_shards = progress.left_shards.saturating_sub(1);
                progress.left_bytes = progress.left_bytes.saturating_sub(len);
            }
        });
    }

    async fn move_shard(&self, drive: DriveId, gate: &PutGate, info: &ShardInfo) -> Moved {
        let map = self.map.load();
        let Some(target) = slot_of(&map, drive, info.id).map(|slot| slot.target) else {
            return Moved::Stays;
        };
        if target == drive {
            return Moved::Stays;
        }
        if !map.is_up(target) || self.shards.is_down(target) {
            return Moved::Left;
        }
        self.wait_for_turn(info.len).await;
        let facts = ShardFacts {
            epoch: map.epoch,
            ..info.facts
        };
        match self.copy(drive, target, info, facts).await {
            Ok(()) => {}
            Err(moved) => return moved,
        }
        let removing = gate.remove(info.id).await;
        let now = self.map.load();
        // It came back, or may be about to: who put it here knows a map that is not known here.
        let looks = !planted(Bug::MoverLooksOnce);
        if looks && !belongs_elsewhere(&now, drive, info.id) {
            return Moved::Stays;
        }
        if looks && gate.newest() > now.epoch {
            return Moved::Left;
        }
        let here = self.shards.info(drive, info.id).await;
        let moved = match here {
            Ok(None) => {
                let brought = self.shards.delete(target, &[info.id]).await;
                if let Err(error) = brought {
                    tracing::warn!(drive = %target, shard = %info.id, %error, "a shard of a deleted body was left behind");
                }
                Moved::Gone
            }
            Ok(Some(_)) => match self.shards.delete(drive, &[info.id]).await {
                Ok(()) => Moved::Away,
                Err(_) => Moved::Left,
            },
            Err(_) => Moved::Left,
        };
        drop(removing);
        moved
    }

    /// Puts a shard to its target as well.
    async fn copy(
        &self,
        drive: DriveId,
        target: DriveId,
        info: &ShardInfo,
        facts: ShardFacts,
    ) -> Result<(), Moved> {
        let range = 0..info.len;
        let lens = [read_capacity(&range), info.len as usize];
        let memory = self.pool.reserve(&lens).await.map_err(|_| Moved::Left)?;
        let lend = |len| memory.lend(len).ok_or(Moved::Left);
        let buffer = lend(lens[0])?;
        let bytes = match self.shards.get(drive, info.id, range, buffer).await {
            Ok(bytes) => bytes,
            Err(GetShardError::NotFound) => return Err(Moved::Gone),
            // It may have been made anew there already; what is deleted here then is of no use to anybody.
            Err(GetShardError::Corrupt(_)) if self.is_sound_at(target, info.id).await => {
                return Ok(());
            }
            Err(error @ GetShardError::Corrupt(_)) => {
                tracing::error!(%drive, shard = %info.id, %error, "a shard that should move is bad: it has to be rebuilt");
                return Err(Moved::Unreadable);
            }
            Err(_) => return Err(Moved::Left),
        };
        let mut payload = lend(lens[1])?;
        payload.extend_from_slice(&bytes);
        drop(bytes);
        match self.shards.put(target, info.id, facts, payload).await {
            Ok(()) => Ok(()),
            Err(error) => {
                if !matches!(
                    error,
                    PutShardError::Busy | PutShardError::Down(_) | PutShardError::Outdated(_)
                ) {
                    tracing::warn!(%target, shard = %info.id, %error, "a shard could not be moved");
                }
                Err(Moved::Left)
            }
        }
    }

    async fn is_sound_at(&self, target: DriveId, id: ShardId) -> bool {
        let known = self.shards.info(target, id).await;
        known.is_ok_and(|known| known.is_some_and(|info| !info.bad))
    }

    /// Keeps to the configured bytes a second.
    async fn wait_for_turn(&self, len: u32) {
        let now = self.clock.monotonic().as_nanos() as u64;
        let takes = u128::from(len) * 1_000_000_000 / u128::from(self.config.bytes_per_sec.max(1));
        let turn = self
            .next_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next_at| {
                Some(next_at.max(now).saturating_add(takes as u64))
            })
            .unwrap_or(now);
        if turn > now {
            self.clock.sleep(Duration::from_nanos(turn - now)).await;
        }
    }
}

/// The ring of a drive's site.
fn ring_of(map: &ClusterMap, drive: DriveId) -> Option<(SiteId, &Ring)> {
    let site = map.drive(drive)?.site;
    map.ring(site).map(|ring| (site, ring))
}

fn slot_of(map: &ClusterMap, drive: DriveId, id: ShardId) -> Option<&Slot> {
    let (_, ring) = ring_of(map, drive)?;
    ring.slot(ring.partition_of(id.set, id.chunk), id.slot)
}

/// Whether a shard on `drive` has another place. One whose slot is not in the ring has none.
fn belongs_elsewhere(map: &ClusterMap, drive: DriveId, id: ShardId) -> bool {
    slot_of(map, drive, id).is_some_and(|slot| slot.target != drive)
}

/// Whether shards may have to be moved away from a drive.
fn is_source(map: &ClusterMap, drive: DriveId) -> bool {
    ring_of(map, drive).is_some_and(|(_, ring)| {
        let mut slots = ring.partitions().flatten();
        slots.any(|slot| slot.sources.contains(&drive))
    })
}

#[cfg(test)]
mod tests;
