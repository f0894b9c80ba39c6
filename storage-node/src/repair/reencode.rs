//! Gives bodies that are protected less than the cluster can ([`Floor`]) the cluster's protection.
//!
//! A body is read chunk by chunk, each verified by its hash, and written as another chunk set; then one command names
//! the new set where the old one was named, if it still is, and puts the old one onto the reclaim queue. Clients see
//! nothing of it. Bodies with more shards than the ring has slots for, as a drain can leave them that was ordered while they
//! were written, are encoded anew also when nobody has ordered that: else they would never be whole again. What was overwritten or deleted meanwhile keeps what it has, and the new set is deleted at once.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_placement::ids::{ChunkSetId, DriveId, Epoch, GroupId};
use holdfast_placement::map::SharedMap;
use holdfast_placement::protection::Protection;
use holdfast_placement::seams::{Clock, Rng};
use serde::Serialize;
use tokio::sync::watch;

use super::forget::forget;
use super::orphans::BODY_AGE_MAX;
use super::rebuild::{RebuildError, Rebuilder, chunk_lens};
use super::{Floor, LedGroups};
use crate::buffer::{Buffer, BufferPool, PoolError, Reservation};
use crate::erasure::{ChunkLayout, Code, ErasureError};
use crate::metadata::{
    BodyClass, ChunkedBody, Metadata, MetadataError, MissedSlot, PlacedBody, Seen,
};
use crate::shard_store::ShardId;
use crate::shards::{ShardFacts, Shards};

/// How fast bodies are encoded anew.
#[derive(Clone, Debug)]
pub struct ReencodeConfig {
    /// Bytes of bodies a second, at most.
    pub bytes_per_second: u64,
    /// Bodies that are asked for at a time.
    pub batch: usize,
    /// Pause after a pass in which something went wrong.
    pub pause: Duration,
    /// How often it is looked, once all is done, whether there is something again.
    pub look_pause: Duration,
}

impl Default for ReencodeConfig {
    fn default() -> Self {
        Self {
            bytes_per_second: 128 << 20,
            batch: 64,
            pause: Duration::from_secs(10),
            look_pause: Duration::from_secs(30),
        }
    }
}

/// What the job does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReencodeState {
    /// It was not started, or was stopped.
    #[default]
    Stopped,
    Running,
    /// Some bodies could not be read or written; they are tried again soon.
    Waiting,
    /// No body of the groups led here is below the cluster's protection.
    Done,
}

/// How far the job has come in this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReencodeProgress {
    pub state: ReencodeState,
    /// Bodies that got the cluster's protection since the process began.
    pub bodies_done: u64,
    pub bytes_done: u64,
    /// Bodies that were overwritten or deleted while they were encoded.
    pub bodies_changed: u64,
    /// Tries that failed.
    pub bodies_failed: u64,
}

/// Starts and stops the job, and tells how far it is. Clones share it.
#[derive(Clone)]
pub struct ReencodeControl {
    wanted: Arc<watch::Sender<bool>>,
    progress: Arc<parking_lot::Mutex<ReencodeProgress>>,
}

impl Default for ReencodeControl {
    fn default() -> Self {
        Self {
            wanted: Arc::new(watch::Sender::new(false)),
            progress: Arc::default(),
        }
    }
}

impl ReencodeControl {
    /// Has the job work on the groups that this process leads, until it is stopped.
    pub fn start(&self) {
        self.wanted.send_replace(true);
    }

    /// Ends the job after the chunk in hand; it can be started again, and begins anew then.
    pub fn stop(&self) {
        self.wanted.send_replace(false);
    }

    /// How far it is.
    pub fn progress(&self) -> ReencodeProgress {
        *self.progress.lock()
    }

    fn is_wanted(&self) -> bool {
        *self.wanted.borrow()
    }

    fn update(&self, change: impl FnOnce(&mut ReencodeProgress)) {
        change(&mut self.progress.lock());
    }
}

/// What the job works with.
#[derive(Clone)]
pub struct Reencoder {
    pub metadata: Metadata,
    pub rebuilder: Rebuilder,
    pub shards: Arc<dyn Shards>,
    pub map: SharedMap,
    pub pool: BufferPool,
    pub clock: Arc<dyn Clock>,
    pub rng: Arc<dyn Rng>,
    pub led: LedGroups,
    pub config: ReencodeConfig,
    pub control: ReencodeControl,
}

/// Why a body did not get other chunks.
#[derive(Debug, thiserror::Error)]
enum ReencodeError {
    /// Somebody overwrote or deleted it.
    #[error("it is not there any more")]
    Changed,
    #[error("the job was stopped, or the cluster map has changed")]
    Interrupted,
    #[error("it takes longer than half a day: the rate is too low")]
    TooSlow,
    #[error("only {held} of {slots} shards of a chunk could be written")]
    TooFewHeld { held: usize, slots: usize },
    #[error(transparent)]
    Read(#[from] RebuildError),
    #[error(transparent)]
    Memory(#[from] PoolError),
    #[error(transparent)]
    Erasure(#[from] ErasureError),
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// How a pass over the groups ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// So many bodies could not be encoded.
    Through { failed: u64 },
    /// The job was stopped, or the map has changed.
    Interrupted,
}

/// Which of the bodies that are below the floor are encoded anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    All,
    WithoutPlace,
}

/// When the next chunk may begin.
struct Pace {
    bytes_per_second: u64,
    due: Duration,
}

impl Pace {
    async fn keep(&mut self, clock: &dyn Clock, bytes: u32) {
        let now = clock.monotonic();
        let takes = Duration::from_secs_f64(f64::from(bytes) / self.bytes_per_second.max(1) as f64);
        self.due = self.due.max(now) + takes;
        clock.sleep(self.due.saturating_sub(now)).await;
    }
}

impl Reencoder {
    /// Does what its control says until `stopped` changes.
    pub async fn run(self, mut stopped: watch::Receiver<bool>) {
        let mut wanted = self.control.wanted.subscribe();
        loop {
            if *stopped.borrow() {
                return;
            }
            if !*wanted.borrow_and_update() {
                self.control
                    .update(|progress| progress.state = ReencodeState::Stopped);
                if let Err(error) = self.rehouse(&stopped).await {
                    tracing::debug!(%error, "bodies that have no place could not be looked for");
                }
                tokio::select! {
                    () = self.clock.sleep(self.config.look_pause) => {}
                    _ = wanted.changed() => {}
                    _ = stopped.changed() => return,
                }
                continue;
            }
            self.control
                .update(|progress| progress.state = ReencodeState::Running);
            let epoch = self.map.load().epoch;
            let pause = match self.pass(epoch, Which::All, &stopped).await {
                Ok(Pass::Interrupted) => continue,
                Ok(Pass::Through { failed: 0 }) => {
                    self.control
                        .update(|progress| progress.state = ReencodeState::Done);
                    self.config.look_pause
                }
                Ok(Pass::Through { .. }) => {
                    self.control
                        .update(|progress| progress.state = ReencodeState::Waiting);
                    self.config.pause
                }
                Err(error) => {
                    tracing::warn!(%error, "bodies below the cluster's protection could not be looked for");
                    self.control
                        .update(|progress| progress.state = ReencodeState::Waiting);
                    self.config.pause
                }
            };
            tokio::select! {
                () = self.clock.sleep(pause) => {}
                _ = wanted.changed() => {}
                _ = stopped.changed() => return,
            }
        }
    }

    /// Encodes bodies anew that the ring has no place for.
    async fn rehouse(&self, stopped: &watch::Receiver<bool>) -> Result<(), MetadataError> {
        let map = self.map.load();
        let floor = Floor::of(&map);
        for group in (self.led)() {
            if group == GroupId::PLACEMENT {
                continue;
            }
            let usage = self.metadata.usage(group).await?;
            let mut classes = usage.chunked.iter();
            if classes.any(|(class, tally)| tally.bodies > 0 && !floor.has_place_for(*class)) {
                tracing::info!(%group, "there are bodies with more shards than the ring has slots: they are encoded anew");
                self.pass(map.epoch, Which::WithoutPlace, stopped).await?;
                break;
            }
        }
        Ok(())
    }

    /// Walks over the groups that are led here. What the counters say is not asked: the walk is cheap beside the work,
    /// and finds bodies that they do not know of.
    async fn pass(
        &self,
        epoch: Epoch,
        which: Which,
        stopped: &watch::Receiver<bool>,
    ) -> Result<Pass, MetadataError> {
        let floor = Floor::of(&self.map.load());
        let goes_on = || {
            let is_wanted = which == Which::WithoutPlace || self.control.is_wanted();
            is_wanted && !*stopped.borrow() && self.map.load().epoch == epoch
        };
        let mut pace = Pace {
            bytes_per_second: self.config.bytes_per_second,
            due: self.clock.monotonic(),
        };
        let mut failed = 0;
        for group in (self.led)() {
            if group == GroupId::PLACEMENT {
                continue;
            }
            let mut at = Some(Seen::default());
            while let Some(after) = at {
                if !goes_on() {
                    return Ok(Pass::Interrupted);
                }
                if !(self.led)().contains(&group) {
                    break;
                }
                let batch = self.config.batch;
                let step = self.metadata.bodies_below(group, &floor, after, batch);
                let step = step.await?;
                for placed in step.bodies {
                    let class = BodyClass::of(&placed.body);
                    if which == Which::WithoutPlace && floor.has_place_for(class) {
                        continue;
                    }
                    let protection = floor.protection();
                    let done = self
                        .reencode(group, &placed, protection, which, &mut pace, &goes_on)
                        .await;
                    match done {
                        Ok(()) => self.control.update(|progress| {
                            progress.bodies_done += 1;
                            progress.bytes_done += placed.body.len;
                        }),
                        Err(ReencodeError::Interrupted) => return Ok(Pass::Interrupted),
                        Err(ReencodeError::Changed) => {
                            self.control.update(|progress| progress.bodies_changed += 1);
                        }
                        Err(error) => {
                            tracing::warn!(%group, set = %placed.body.set, %error, "a body does not get the cluster's protection now");
                            failed += 1;
                            self.control.update(|progress| progress.bodies_failed += 1);
                        }
                    }
                }
                at = step.next;
                tokio::task::yield_now().await;
            }
        }
        Ok(Pass::Through { failed })
    }

    /// Gives one body other chunks. Those that are not named in the end are deleted.
    async fn reencode(
        &self,
        group: GroupId,
        placed: &PlacedBody,
        protection: Protection,
        which: Which,
        pace: &mut Pace,
        goes_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), ReencodeError> {
        let new = ChunkedBody {
            set: ChunkSetId::begun(self.clock.wall(), self.rng.as_ref()),
            protection,
            ..placed.body
        };
        let written = self.write(placed, &new, which, pace, goes_on).await;
        let committed = match written {
            Ok(missed) => {
                let replaced = self.metadata.replace_body(group, placed, new, &missed);
                match replaced.await {
                    Ok(true) => return Ok(()),
                    Ok(false) => ReencodeError::Changed,
                    Err(error) => ReencodeError::Metadata(error),
                }
            }
            Err(error) => error,
        };
        // What may have been committed stays; if it was not, a scan for orphans finds it.
        let may_be_named = matches!(
            &committed,
            ReencodeError::Metadata(MetadataError::Indeterminate(_) | MetadataError::Failed(_))
        );
        if !may_be_named {
            forget(self.shards.as_ref(), &self.map.load(), &[new]).await;
        }
        Err(committed)
    }

    /// Writes all chunks of `new`; gives the shards that are missing because their drive is down.
    async fn write(
        &self,
        placed: &PlacedBody,
        new: &ChunkedBody,
        which: Which,
        pace: &mut Pace,
        goes_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<MissedSlot>, ReencodeError> {
        let began = self.clock.monotonic();
        let mut missed = Vec::new();
        for chunk in 0..placed.body.chunks() {
            if !goes_on() {
                return Err(ReencodeError::Interrupted);
            }
            // No set may be committed that a scan for orphans could suspect.
            if self.clock.monotonic().saturating_sub(began) > BODY_AGE_MAX {
                return Err(ReencodeError::TooSlow);
            }
            missed.extend(self.write_chunk(&placed.body, new, chunk, which).await?);
            pace.keep(self.clock.as_ref(), placed.body.len_of_chunk(chunk))
                .await;
        }
        // What was stored last may lie on a drive that the ring has let go of meanwhile.
        if !goes_on() {
            return Err(ReencodeError::Interrupted);
        }
        Ok(missed)
    }

    async fn write_chunk(
        &self,
        old: &ChunkedBody,
        new: &ChunkedBody,
        chunk: u32,
        which: Which,
    ) -> Result<Vec<MissedSlot>, ReencodeError> {
        let layout = new.layout_of(chunk);
        // All at once: who holds some memory must not wait for more.
        let mut lens = chunk_lens(old.layout_of(chunk));
        lens.extend(
            layout
                .stored_slots()
                .map(|slot| layout.len_of(slot) as usize),
        );
        let memory = self.pool.reserve(&lens).await?;
        let whole = self.rebuilder.read_chunk(old, chunk, &memory).await?;
        let whole = whole.ok_or(ReencodeError::Changed)?;
        let shards = encode(&whole.data, layout, &memory)?;
        drop(whole.data);
        let missed = self.put(new, chunk, whole.facts, shards).await;
        let slots = layout.protection.slots();
        let held = slots - missed.len();
        let spare = held.checked_sub(layout.protection.data as usize);
        // With a drive down it is still safer than before, and becomes as safe as it should be when the drive is back.
        // Without a place the old ones cannot become whole: it is enough not to lose anything now. The ring lets go of a
        // lost drive when nothing has its former number of shards any more, and then the new ones become whole.
        let least = match which {
            Which::All => old.protection.parity as usize + 1,
            Which::WithoutPlace => self.spare_now(old, chunk),
        };
        let enough = missed.is_empty() || spare.is_some_and(|spare| spare >= least);
        if !enough {
            return Err(ReencodeError::TooFewHeld { held, slots });
        }
        Ok(missed)
    }

    /// How many shards of a chunk may be lost yet, if those on drives that are up are there.
    fn spare_now(&self, body: &ChunkedBody, chunk: u32) -> usize {
        let map = self.map.load();
        let slots = map.ring(body.site).map_or(&[][..], |ring| {
            ring.slots(ring.partition_of(body.set, chunk))
        });
        let is_up = |drive: DriveId| map.is_up(drive) && !self.shards.is_down(drive);
        let slots = slots.iter().take(body.protection.slots());
        let held = slots.filter(|slot| slot.drives().any(is_up)).count();
        held.saturating_sub(body.protection.data as usize)
    }

    /// Stores the shards of a chunk; gives those that were not.
    async fn put(
        &self,
        body: &ChunkedBody,
        chunk: u32,
        facts: ShardFacts,
        shards: Vec<(u8, Buffer)>,
    ) -> Vec<MissedSlot> {
        let map = self.map.load();
        let facts = ShardFacts {
            epoch: map.epoch,
            ..facts
        };
        let set = body.set;
        let places = map
            .ring(body.site)
            .map_or(&[][..], |ring| ring.slots(ring.partition_of(set, chunk)));
        let puts = shards.into_iter().map(|(slot, shard)| {
            let target = places.get(slot as usize).map(|place| place.target);
            let target = target.filter(|drive| map.is_up(*drive) && !self.shards.is_down(*drive));
            async move {
                let id = ShardId { set, chunk, slot };
                let stored = match target {
                    Some(drive) => self.shards.put(drive, id, facts, shard).await.is_ok(),
                    None => false,
                };
                (!stored).then_some(MissedSlot { chunk, slot })
            }
        });
        join_all(puts).await.into_iter().flatten().collect()
    }
}

/// Cuts a chunk anew and computes its parity; gives the shards that are not empty.
fn encode(
    data: &[bytes::Bytes],
    layout: ChunkLayout,
    memory: &Reservation,
) -> Result<Vec<(u8, Buffer)>, ReencodeError> {
    let code = Code::of(layout.protection)?;
    let k = layout.protection.data;
    let mut shards = Vec::with_capacity(layout.protection.slots());
    for slot in layout.stored_slots() {
        let len = layout.len_of(slot) as usize;
        shards.push((slot, memory.take(len).ok_or(PoolError::Exhausted)?));
    }
    let mut rest = data.iter().flat_map(|bytes| {
        // In pieces, so that each lies in one of the new shards.
        bytes.chunks(1 << 16)
    });
    let mut piece: &[u8] = &[];
    for (slot, shard) in shards.iter_mut().filter(|(slot, _)| *slot < k) {
        let len = layout.len_of(*slot) as usize;
        while shard.len() < len {
            if piece.is_empty() {
                piece = rest.next().ok_or(RebuildError::Disagree)?;
            }
            let (now, later) = piece.split_at(piece.len().min(len - shard.len()));
            shard.extend_from_slice(now);
            piece = later;
        }
    }
    let split = shards.partition_point(|(slot, _)| *slot < k);
    let (stored, parity) = shards.split_at_mut(split);
    let mut pieces: Vec<&[u8]> = stored.iter().map(|(_, shard)| shard.payload()).collect();
    pieces.resize(k as usize, &[]);
    let mut rows: Vec<&mut [u8]> = parity
        .iter_mut()
        .map(|(_, shard)| {
            shard.set_len(layout.shard_len as usize);
            shard.payload_mut()
        })
        .collect();
    if !rows.is_empty() {
        code.encode(&pieces, &mut rows);
    }
    Ok(shards)
}

#[cfg(test)]
mod tests;
