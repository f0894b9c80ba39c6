//! Reads a window, by whatever way it can be had.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{Either, join_all, select};
use holdfast_placement::ids::{DriveId, Epoch};
use holdfast_placement::map::{ClusterMap, DriveState};
use holdfast_placement::ring::Slot;
use holdfast_storage_node::buffer::{Buffer, BufferPool, PoolError, Reservation};
use holdfast_storage_node::erasure;
use holdfast_storage_node::lookup::Lookup;
use holdfast_storage_node::shard_store::{BLOCK_LEN, GetShardError};
use holdfast_storage_node::shards::read_capacity;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::plan::Window;
use super::{Shared, slow_down};
use crate::error::{Code, S3Error};

/// Shortest piece of a window that is rebuilt at a time, bytes.
const REBUILD_LEN_MIN: u32 = BLOCK_LEN as u32;

/// Where a window is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    drive: DriveId,
    /// Of the map that says so.
    epoch: Epoch,
    /// No other drive may have it.
    is_only: bool,
}

/// Why a window was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// Shards are not there, bad, or on drives that do not answer.
    Lost,
    /// Nodes had no memory for it in time.
    Busy,
}

impl From<&GetShardError> for Unread {
    fn from(error: &GetShardError) -> Self {
        match error {
            GetShardError::Busy => Self::Busy,
            _ => Self::Lost,
        }
    }
}

/// Where the memory of reads comes from.
#[derive(Clone)]
pub(super) enum Memory {
    Pool(BufferPool),
    /// Set aside for a copy, which fills a chunk at the same time and must not wait for memory then.
    Reserved {
        reservation: Reservation,
        pool: BufferPool,
        /// For who rebuilds: the memory is enough for the parts of one window.
        rebuilder: Arc<Semaphore>,
        /// Its share of what copies may set aside.
        _share: Reservation,
    },
}

impl Memory {
    /// Whether it is everybody's: what was given up may then be in use for a moment yet.
    pub(super) fn is_pool(&self) -> bool {
        matches!(self, Memory::Pool(_))
    }

    /// A buffer for a window, if it is there now.
    pub(super) fn try_buffer(&self, window: &Window) -> Option<Buffer> {
        let len = read_capacity(&window.range);
        match self {
            Memory::Pool(pool) => pool.try_acquire(len).ok(),
            Memory::Reserved {
                reservation, pool, ..
            } => {
                // A read that was given up may hold its memory for a while.
                reservation.lend(len).or_else(|| pool.try_acquire(len).ok())
            }
        }
    }

    /// A buffer for a window; waits for it.
    pub(super) async fn buffer(&self, window: &Window) -> Result<Buffer, PoolError> {
        let len = read_capacity(&window.range);
        match self {
            Memory::Pool(pool) => pool.acquire(len).await,
            Memory::Reserved { .. } => self.try_buffer(window).ok_or(PoolError::Exhausted),
        }
    }

    /// What it takes to rebuild a window, if it is there now.
    pub(super) fn try_rebuild(&self, window: &Window) -> Option<Rebuild> {
        match self {
            Memory::Pool(pool) => {
                Rebuild::of(pool.try_reserve(&rebuild_lens(window)).ok()?, window)
            }
            Memory::Reserved { rebuilder, .. } => {
                self.rebuild_as(rebuilder.clone().try_acquire_owned().ok()?, window)
            }
        }
    }

    /// What it takes to rebuild a window; waits for it.
    pub(super) async fn rebuild(&self, window: &Window) -> Result<Rebuild, PoolError> {
        let rebuild = match self {
            Memory::Pool(pool) => Rebuild::of(pool.reserve(&rebuild_lens(window)).await?, window),
            Memory::Reserved { rebuilder, .. } => {
                let only = rebuilder.clone().acquire_owned().await;
                self.rebuild_as(only.map_err(|_| PoolError::Exhausted)?, window)
            }
        };
        rebuild.ok_or(PoolError::Exhausted)
    }

    /// From the reservation that all windows of a copy share.
    fn rebuild_as(&self, only: OwnedSemaphorePermit, window: &Window) -> Option<Rebuild> {
        let Memory::Reserved {
            reservation, pool, ..
        } = self
        else {
            return None;
        };
        let len = window.len() as usize;
        let out = reservation.lend(len);
        Some(Rebuild {
            out: out.or_else(|| pool.try_acquire(len).ok())?,
            parts: reservation.clone(),
            shared: Some((pool.clone(), only)),
        })
    }
}

/// The memory to rebuild a window.
pub(super) struct Rebuild {
    out: Buffer,
    parts: Reservation,
    /// Where others use the reservation too: from where else a part may come while a read that was given up holds its
    /// memory, and the leave to be the one who rebuilds.
    shared: Option<(BufferPool, OwnedSemaphorePermit)>,
}

impl Rebuild {
    /// From a reservation of its own: what is rebuilt outlives it.
    fn of(reservation: Reservation, window: &Window) -> Option<Self> {
        Some(Self {
            out: reservation.take(window.len() as usize)?,
            parts: reservation,
            shared: None,
        })
    }

    /// A buffer for a part of another shard.
    fn part(&self, len: usize) -> Option<Buffer> {
        let lent = self.parts.lend(len);
        lent.or_else(|| self.shared.as_ref()?.0.try_acquire(len).ok())
    }
}

/// Bytes of a window that are rebuilt at a time: so many that the parts of all `k` shards together are about as long
/// as a window.
fn rebuild_step(window: &Window) -> u32 {
    let k = u32::from(window.body.protection.data.max(1));
    let len = (window.range.end - window.range.start) / k;
    len.next_multiple_of(BLOCK_LEN as u32).max(REBUILD_LEN_MIN)
}

fn rebuild_lens(window: &Window) -> Vec<usize> {
    let k = window.body.protection.data as usize;
    // A part that does not begin at a block's start touches one block more.
    let part = rebuild_step(window) as usize + BLOCK_LEN;
    let mut lens = vec![part; k];
    lens.push(window.len() as usize);
    lens
}

/// What a copy sets aside: the window in hand, its successor, one that was given up or is rebuilt, and the parts to
/// rebuild one from.
pub(super) fn copy_lens(window_len: u32, k: usize) -> Vec<usize> {
    let window = window_len as usize + BLOCK_LEN;
    let step = (window_len as usize / k.max(1)).next_multiple_of(BLOCK_LEN);
    let mut lens = vec![step.max(REBUILD_LEN_MIN as usize) + BLOCK_LEN; k];
    lens.extend([window; 3]);
    lens
}

impl Shared {
    /// The slots of a window's chunk.
    fn slots_of<'a>(map: &'a ClusterMap, window: &Window) -> &'a [Slot] {
        map.ring(window.body.site).map_or(&[], |ring| {
            ring.slots(ring.partition_of(window.body.set, window.chunk))
        })
    }

    /// The drive to read a window from: the first that may have it and is not known to be down.
    pub(super) fn place_of(&self, window: &Window) -> Option<Place> {
        let map = self.map.load();
        let slot = Self::slots_of(&map, window).get(window.slot as usize)?;
        let drive = slot.drives().find(|drive| !self.is_down(&map, *drive))?;
        Some(Place {
            drive,
            epoch: map.epoch,
            is_only: slot.sources.is_empty(),
        })
    }

    fn lookup(&self, window: &Window) -> Lookup<'_> {
        Lookup {
            shards: self.shards.as_ref(),
            map: &self.map,
            site: window.body.site,
        }
    }

    /// Reads a window from its own shard; if that is late, races it against the others.
    pub(super) async fn fetch(
        self: Arc<Self>,
        window: Window,
        place: Place,
        buffer: Buffer,
        memory: Memory,
    ) -> Result<Bytes, Unread> {
        let drive = place.drive;
        let id = window.shard(window.slot);
        let reading = self.shards.get(drive, id, window.range.clone(), buffer);
        if window.body.protection.parity == 0 {
            let read = reading.await;
            return self.conclude(&window, place, read, &memory).await;
        }
        let latency = self.hedging.latency_of(drive);
        let began = self.clock.monotonic();
        let late = self.clock.sleep(self.hedging.late_after(&latency));
        let reading = match select(reading, late).await {
            Either::Left((read, _)) => {
                latency.note(self.clock.monotonic().saturating_sub(began));
                self.hedging.earn();
                return self.conclude(&window, place, read, &memory).await;
            }
            Either::Right(((), reading)) => reading,
        };
        let rebuild = self
            .hedging
            .may_race()
            .then(|| memory.try_rebuild(&window))
            .flatten();
        let Some(rebuild) = rebuild else {
            let read = reading.await;
            latency.note(self.clock.monotonic().saturating_sub(began));
            return self.conclude(&window, place, read, &memory).await;
        };
        self.counters.hedged_reads.add(1);
        let racing = pin!(self.clone().reconstruct(window.clone(), rebuild));
        match select(reading, racing).await {
            Either::Left((Ok(bytes), _)) => {
                latency.note(self.clock.monotonic().saturating_sub(began));
                self.judge(&window, drive, Ok(bytes))
            }
            Either::Left((Err(error), racing)) => {
                let raced = racing.await;
                let read = self.conclude(&window, place, Err(error), &memory).await;
                raced.or(read)
            }
            Either::Right((Ok(bytes), _)) => {
                self.counters.hedges_won.add(1);
                latency.note(self.clock.monotonic().saturating_sub(began));
                Ok(bytes)
            }
            Either::Right((Err(_), reading)) => {
                let read = reading.await;
                self.conclude(&window, place, read, &memory).await
            }
        }
    }

    /// Looks elsewhere for a window that was not where it was looked for, if it may be elsewhere.
    async fn conclude(
        &self,
        window: &Window,
        place: Place,
        read: Result<Bytes, GetShardError>,
        memory: &Memory,
    ) -> Result<Bytes, Unread> {
        let absent = matches!(read, Err(GetShardError::NotFound | GetShardError::Down(_)));
        if !absent || place.is_only && self.map.load().epoch == place.epoch {
            return self.judge(window, place.drive, read);
        }
        // It waits for memory only here: afterwards the same buffer is lent again and again.
        let Ok(buffer) = memory.buffer(window).await else {
            return Err(Unread::Busy);
        };
        drop(buffer);
        let lend = || memory.try_buffer(window);
        let read = self
            .lookup(window)
            .get(window.shard(window.slot), &window.range, lend)
            .await;
        self.judge(window, place.drive, read)
    }

    /// Counts a read and notes what needs repair.
    fn judge(
        &self,
        window: &Window,
        drive: DriveId,
        read: Result<Bytes, GetShardError>,
    ) -> Result<Bytes, Unread> {
        match read {
            Ok(bytes) if bytes.len() as u64 == window.len() => {
                self.counters.windows_read.add(1);
                return Ok(bytes);
            }
            Ok(bytes) => {
                self.counters.failed_reads.add(1);
                tracing::error!(%drive, window = ?window, got = bytes.len(), "a drive gave a wrong number of bytes");
            }
            Err(error) => {
                self.note_failure(window, window.slot, drive, &error);
                return Err(Unread::from(&error));
            }
        }
        Err(Unread::Lost)
    }

    fn note_failure(&self, window: &Window, slot: u8, drive: DriveId, error: &GetShardError) {
        let counter = match error {
            GetShardError::Corrupt(_) => &self.counters.corrupt_reads,
            GetShardError::NotFound => &self.counters.missing_reads,
            GetShardError::OutOfRange
            | GetShardError::Busy
            | GetShardError::Down(_)
            | GetShardError::Io(_) => &self.counters.failed_reads,
        };
        counter.add(1);
        tracing::warn!(
            %drive, set = %window.body.set, chunk = window.chunk, slot, %error,
            "a shard cannot be read"
        );
        // A drive that is down is the business of who brings it back, and to read a shard for repair takes memory too.
        if !matches!(error, GetShardError::Down(_) | GetShardError::Busy) {
            self.repairs.note(window.body, window.chunk, slot);
        }
    }

    /// Rebuilds a window from the same bytes of `k` other shards.
    pub(super) async fn reconstruct(
        self: Arc<Self>,
        window: Window,
        mut rebuild: Rebuild,
    ) -> Result<Bytes, Unread> {
        let layout = window.layout();
        let k = layout.protection.data as usize;
        let code = erasure::Code::of(layout.protection).map_err(|_| Unread::Lost)?;
        let map = self.map.load();
        let slots = Self::slots_of(&map, &window);
        let is_up = |drive| !self.is_down(&map, drive);
        // Empty shards first, they cost nothing; then the others, as long as their drives are up.
        let mut candidates: Vec<u8> = (0..layout.protection.slots() as u8)
            .filter(|slot| *slot != window.slot)
            .filter(|slot| {
                layout.len_of(*slot) == 0
                    || slots
                        .get(*slot as usize)
                        .is_some_and(|slot| slot.drives().any(is_up))
            })
            .collect();
        candidates.sort_by_key(|slot| layout.len_of(*slot) > 0);

        rebuild.out.set_len(window.len() as usize);
        let mut why = window.unread.unwrap_or(Unread::Lost);
        let mut at = window.range.start;
        while at < window.range.end {
            let end = window
                .range
                .end
                .min(at.saturating_add(rebuild_step(&window)));
            let step = at..end;
            let mut parts: Vec<(u8, Bytes)> = Vec::with_capacity(k);
            while parts.len() < k {
                let missing = k - parts.len();
                let asked: Vec<u8> = candidates
                    .iter()
                    .copied()
                    .filter(|slot| parts.iter().all(|(have, _)| have != slot))
                    .take(missing)
                    .collect();
                if asked.len() < missing {
                    return Err(why);
                }
                let reads = asked.into_iter().map(|slot| {
                    let (shared, window, step) = (&self, &window, step.clone());
                    let clipped =
                        step.start.min(layout.len_of(slot))..step.end.min(layout.len_of(slot));
                    let rebuild = &rebuild;
                    let target = slots.get(slot as usize).map(|slot| slot.target);
                    async move {
                        if clipped.is_empty() {
                            return Ok((slot, Bytes::new()));
                        }
                        let lend = || rebuild.part(read_capacity(&clipped));
                        let lookup = shared.lookup(window);
                        match lookup.get(window.shard(slot), &clipped, lend).await {
                            Ok(bytes) => Ok((slot, bytes)),
                            Err(error) => {
                                let drive = target.unwrap_or_default();
                                shared.note_failure(window, slot, drive, &error);
                                Err((slot, Unread::from(&error)))
                            }
                        }
                    }
                });
                for read in join_all(reads).await {
                    match read {
                        Ok(part) => parts.push(part),
                        Err((slot, unread)) => {
                            candidates.retain(|candidate| *candidate != slot);
                            if unread == Unread::Busy {
                                why = unread;
                            }
                        }
                    }
                }
            }
            let have: Vec<u8> = parts.iter().map(|(slot, _)| *slot).collect();
            let recipe = code.recipe(&have, window.slot).map_err(|_| Unread::Lost)?;
            let first = (at - window.range.start) as usize;
            let out = &mut rebuild.out.payload_mut()[first..first + step.len()];
            out.fill(0);
            for (index, (_, bytes)) in parts.iter().enumerate() {
                recipe.add(index, bytes, out);
            }
            at = end;
        }
        self.counters.windows_rebuilt.add(1);
        let len = rebuild.out.len();
        Ok(rebuild.out.freeze(0..len))
    }

    /// What a client gets when a window cannot be had: 503 where nodes lack memory or drives that are out of use now may have what is missing,
    /// 500 where no drive is left that could.
    pub(super) fn unread(&self, window: &Window, why: Unread) -> S3Error {
        self.counters.windows_lost.add(1);
        if why == Unread::Busy {
            return slow_down(PoolError::Exhausted);
        }
        let map = self.map.load();
        let layout = window.layout();
        let mut slots = Self::slots_of(&map, window).iter().enumerate();
        let comes_back = |id| {
            map.drive(id)
                .is_some_and(|drive| drive.state != DriveState::Lost)
        };
        let is_away = |slot: &Slot| {
            let mut drives = slot.drives();
            drives.any(|drive| comes_back(drive) && self.is_down(&map, drive))
        };
        if slots.any(|(number, slot)| layout.len_of(number as u8) > 0 && is_away(slot)) {
            tracing::warn!(
                set = %window.body.set, chunk = window.chunk, slot = window.slot, protection = %window.body.protection,
                "bytes cannot be read now: too many drives of their chunk do not answer"
            );
            return Code::ServiceUnavailable.into();
        }
        tracing::error!(
            set = %window.body.set, chunk = window.chunk, slot = window.slot, protection = %window.body.protection,
            "bytes cannot be read: too few shards of their chunk are left"
        );
        Code::InternalError.into()
    }
}
