//! Makes missing and bad shards anew from the others of their chunk.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use holdfast_placement::map::{ClusterMap, SharedMap};
use holdfast_placement::ring::Slot;
use holdfast_placement::seams::Clock;
use tokio::sync::watch;

use super::queue::{Repair, RepairQueue};
use crate::buffer::{Buffer, BufferPool, PoolError, Reservation};
use crate::erasure::{ChunkLayout, Code, ErasureError};
use crate::lookup::Lookup;
use crate::metadata::ChunkedBody;
use crate::shard_store::{GetShardError, PutShardError, ShardId, ShardInfo};
use crate::shards::{ShardFacts, Shards, read_capacity};

/// Pause before shards that could not be rebuilt are tried again: their drive is down or full.
const RETRY_PAUSE: Duration = Duration::from_secs(30);

/// Most shards that wait for their drive; those beyond are found again when they are read.
const WAITING_MAX: usize = 65_536;

/// What a shard turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rebuilt {
    /// It is there and right; nothing was done.
    Whole,
    /// It was made anew.
    Written,
    /// Nothing of its chunk is left: the body was deleted meanwhile.
    Gone,
}

/// Why a shard was not rebuilt.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RebuildError {
    /// It can be tried again once the drive is back.
    #[error("its drive is down")]
    DriveDown,
    /// Its body has to be encoded anew, or drives have to be added.
    #[error("the ring has no drive for it")]
    NoPlace,
    #[error("{have} shards of its chunk can be read, {needed} are needed")]
    TooFew { have: usize, needed: usize },
    /// Shards passed their checksums but do not add up to the chunk that was written: nothing is made of them.
    #[error("the shards of its chunk do not belong together")]
    Disagree,
    #[error(transparent)]
    Memory(#[from] PoolError),
    #[error(transparent)]
    Erasure(#[from] ErasureError),
    #[error(transparent)]
    Put(#[from] PutShardError),
}

/// Rebuilds shards.
#[derive(Clone)]
pub struct Rebuilder {
    shards: Arc<dyn Shards>,
    map: SharedMap,
    pool: BufferPool,
    clock: Arc<dyn Clock>,
}

/// Shards of a chunk that were read.
struct Parts {
    have: Vec<(u8, Bytes)>,
    facts: ShardFacts,
}

impl Rebuilder {
    pub fn new(
        shards: Arc<dyn Shards>,
        map: SharedMap,
        pool: BufferPool,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            shards,
            map,
            pool,
            clock,
        }
    }

    /// Rebuilds what the queue names, one shard at a time, until `stopped` changes. Shards whose drive is down or full
    /// wait and are tried again.
    pub async fn run(self, queue: Arc<RepairQueue>, mut stopped: watch::Receiver<bool>) {
        let mut waiting: Vec<Repair> = Vec::new();
        let mut retry_at = self.clock.monotonic();
        loop {
            while let Some(repair) = queue.take() {
                if self.try_rebuild(repair).await.is_err() && waiting.len() < WAITING_MAX {
                    waiting.push(repair);
                }
                if *stopped.borrow() {
                    return;
                }
            }
            tokio::select! {
                () = queue.noted() => {}
                () = self.clock.sleep(RETRY_PAUSE), if !waiting.is_empty() => {}
                _ = stopped.changed() => return,
            }
            if self.clock.monotonic() >= retry_at {
                for repair in waiting.drain(..) {
                    queue.note(repair.body, repair.chunk, repair.slot);
                }
                retry_at = self.clock.monotonic() + RETRY_PAUSE;
            }
        }
    }

    /// Fails if it is worth trying again.
    async fn try_rebuild(&self, repair: Repair) -> Result<(), RebuildError> {
        let Repair { body, chunk, slot } = repair;
        match self.rebuild(&body, chunk, slot).await {
            Ok(Rebuilt::Written) => {
                tracing::info!(set = %body.set, chunk, slot, "a shard was rebuilt");
                Ok(())
            }
            Ok(Rebuilt::Whole | Rebuilt::Gone) => Ok(()),
            Err(
                error @ (RebuildError::DriveDown
                | RebuildError::NoPlace
                | RebuildError::Put(_)
                | RebuildError::Memory(_)),
            ) => Err(error),
            Err(error) => {
                tracing::error!(set = %body.set, chunk, slot, %error, "a shard cannot be rebuilt");
                Ok(())
            }
        }
    }

    /// Checks every shard of a body and rebuilds those that are missing or bad.
    pub async fn rebuild_body(&self, body: &ChunkedBody) -> Result<u64, RebuildError> {
        let mut written = 0;
        for chunk in 0..body.chunks() {
            for slot in body.layout_of(chunk).stored_slots() {
                if self.rebuild(body, chunk, slot).await? == Rebuilt::Written {
                    written += 1;
                }
            }
        }
        Ok(written)
    }

    /// Checks a shard, reading all of it, and rebuilds it if it is missing or bad. The chunk that the others add up to
    /// must have the hash that their records name.
    pub async fn rebuild(
        &self,
        body: &ChunkedBody,
        chunk: u32,
        slot: u8,
    ) -> Result<Rebuilt, RebuildError> {
        let layout = body.layout_of(chunk);
        let len = layout.len_of(slot);
        if len == 0 || slot as usize >= layout.protection.slots() {
            return Ok(Rebuilt::Whole);
        }
        let map = self.map.load();
        let at = ChunkAt {
            map: &map,
            body,
            chunk,
            layout,
        };
        let place = at.slot(slot).ok_or(RebuildError::NoPlace)?;
        let (drive, id) = (place.target, at.shard(slot));
        let is_down = !map.is_up(drive) || self.shards.is_down(drive);
        let is_only = place.sources.is_empty();
        if is_down && is_only {
            return Err(RebuildError::DriveDown);
        }
        let memory = self.pool.reserve(&rebuild_lens(layout)).await?;
        match self.read(&at, slot, &memory).await {
            Ok(_) => return Ok(Rebuilt::Whole),
            Err(_) if is_down => return Err(RebuildError::DriveDown),
            Err(GetShardError::Down(_)) if is_only => return Err(RebuildError::DriveDown),
            Err(_) => {}
        }
        let Some(parts) = self.read_parts(&at, slot, &memory).await? else {
            return Ok(Rebuilt::Gone);
        };
        let code = Code::of(layout.protection)?;
        let payload = make(code, &layout, &parts, slot, &memory)?;
        let facts = ShardFacts {
            epoch: map.epoch,
            ..parts.facts
        };
        self.shards.put(drive, id, facts, payload).await?;
        // If the body was deleted while its shard was made, what was just stored is all that is left of it.
        let sources = parts.have.iter().map(|(slot, _)| *slot);
        let infos = sources
            .filter(|slot| layout.len_of(*slot) > 0)
            .map(|slot| self.info(&at, slot));
        if join_all(infos)
            .await
            .iter()
            .any(|info| matches!(info, Ok(None)))
        {
            if let Err(error) = self.shards.delete(drive, &[id]).await {
                tracing::warn!(%drive, shard = %id, %error, "a shard of a deleted body was left behind");
            }
            return Ok(Rebuilt::Gone);
        }
        Ok(Rebuilt::Written)
    }

    /// All data of a chunk, made whole where shards are missing or bad, after its hash was compared; `None` if none of
    /// its shards is left. `memory` holds at least [`chunk_lens`].
    pub(super) async fn read_chunk(
        &self,
        body: &ChunkedBody,
        chunk: u32,
        memory: &Reservation,
    ) -> Result<Option<WholeChunk>, RebuildError> {
        let map = self.map.load();
        let layout = body.layout_of(chunk);
        let at = ChunkAt {
            map: &map,
            body,
            chunk,
            layout,
        };
        let Some(parts) = self.read_parts(&at, NO_SLOT, memory).await? else {
            return Ok(None);
        };
        let code = Code::of(layout.protection)?;
        let mut hasher = blake3::Hasher::new();
        let mut data = Vec::with_capacity(layout.protection.data as usize);
        for slot in 0..layout.protection.data {
            let bytes = match parts.have.iter().find(|(have, _)| *have == slot) {
                Some((_, bytes)) => bytes.clone(),
                None => {
                    let buffer = make_shard(code, &layout, &parts, slot, memory)?;
                    let len = buffer.len();
                    buffer.freeze(0..len)
                }
            };
            hasher.update(&bytes);
            data.push(bytes);
        }
        if *hasher.finalize().as_bytes() != parts.facts.chunk_hash {
            return Err(RebuildError::Disagree);
        }
        let facts = parts.facts;
        Ok(Some(WholeChunk { facts, data }))
    }

    /// Reads `k` shards other than `wanted`; `None` if all drives can be asked and none has any.
    async fn read_parts(
        &self,
        at: &ChunkAt<'_>,
        wanted: u8,
        memory: &Reservation,
    ) -> Result<Option<Parts>, RebuildError> {
        let needed = at.layout.protection.data as usize;
        let mut have: Vec<(u8, Bytes)> = Vec::new();
        let mut facts: Option<ShardFacts> = None;
        let mut silent = 0;
        let mut candidates = Vec::new();
        let others = (0..at.layout.protection.slots() as u8).filter(|slot| *slot != wanted);
        let (stored, empty): (Vec<u8>, Vec<u8>) =
            others.partition(|slot| at.layout.len_of(*slot) > 0);
        have.extend(empty.into_iter().map(|slot| (slot, Bytes::new())));
        let infos = stored
            .into_iter()
            .map(|slot| async move { (slot, self.info(at, slot).await) });
        for (slot, info) in join_all(infos).await {
            match info {
                Ok(Some(info)) => {
                    let known = *facts.get_or_insert(info.facts);
                    if known.chunk_hash != info.facts.chunk_hash {
                        return Err(RebuildError::Disagree);
                    }
                    candidates.push(slot);
                }
                Ok(None) => {}
                Err(_) => silent += 1,
            }
        }
        have.truncate(needed);
        let Some(facts) = facts else {
            // What is only known of some drives may be on the others.
            return match silent {
                0 => Ok(None),
                _ => Err(RebuildError::DriveDown),
            };
        };
        let mut candidates = candidates.into_iter();
        while have.len() < needed {
            let slots: Vec<u8> = candidates.by_ref().take(needed - have.len()).collect();
            if slots.is_empty() {
                return Err(RebuildError::TooFew {
                    have: have.len(),
                    needed,
                });
            }
            let reads = slots
                .into_iter()
                .map(|slot| async move { (slot, self.read(at, slot, memory).await) });
            for (slot, read) in join_all(reads).await {
                if let Ok(bytes) = read {
                    have.push((slot, bytes));
                }
            }
        }
        Ok(Some(Parts { have, facts }))
    }

    async fn read(
        &self,
        at: &ChunkAt<'_>,
        slot: u8,
        memory: &Reservation,
    ) -> Result<Bytes, GetShardError> {
        let range = 0..at.layout.len_of(slot);
        let lend = || memory.lend(read_capacity(&range));
        self.lookup(at).get(at.shard(slot), &range, lend).await
    }

    async fn info(&self, at: &ChunkAt<'_>, slot: u8) -> Result<Option<ShardInfo>, GetShardError> {
        self.lookup(at).info(at.shard(slot)).await
    }

    fn lookup(&self, at: &ChunkAt<'_>) -> Lookup<'_> {
        Lookup {
            shards: self.shards.as_ref(),
            map: &self.map,
            site: at.body.site,
        }
    }
}

/// A chunk and where its shards are.
struct ChunkAt<'a> {
    map: &'a ClusterMap,
    body: &'a ChunkedBody,
    chunk: u32,
    layout: ChunkLayout,
}

impl ChunkAt<'_> {
    fn slot(&self, slot: u8) -> Option<&Slot> {
        let ring = self.map.ring(self.body.site)?;
        ring.slot(ring.partition_of(self.body.set, self.chunk), slot)
    }

    fn shard(&self, slot: u8) -> ShardId {
        ShardId {
            set: self.body.set,
            chunk: self.chunk,
            slot,
        }
    }
}

/// A chunk that was read.
pub(super) struct WholeChunk {
    pub facts: ShardFacts,
    /// The data shards, in order.
    pub data: Vec<Bytes>,
}

/// Not the number of any slot.
const NO_SLOT: u8 = u8::MAX;

/// Memory to read all data of a chunk, whatever is missing.
pub(super) fn chunk_lens(layout: ChunkLayout) -> Vec<usize> {
    rebuild_lens(layout)
}

/// Memory to read `k` shards, and to make those data shards that were not read and the one that is wanted.
fn rebuild_lens(layout: ChunkLayout) -> Vec<usize> {
    let read = read_capacity(&(0..layout.shard_len));
    let mut lens = vec![read; layout.protection.data as usize];
    let made = layout.protection.parity as usize + 1;
    lens.extend(std::iter::repeat_n(layout.shard_len as usize, made));
    lens
}

/// The shard in slot `slot`, computed from the parts.
fn make_shard(
    code: &Code,
    layout: &ChunkLayout,
    parts: &Parts,
    slot: u8,
    memory: &Reservation,
) -> Result<Buffer, RebuildError> {
    let slots: Vec<u8> = parts.have.iter().map(|(slot, _)| *slot).collect();
    let recipe = code.recipe(&slots, slot)?;
    let len = layout.len_of(slot) as usize;
    let mut out = memory
        .lend(layout.shard_len as usize)
        .ok_or(PoolError::Exhausted)?;
    out.set_len(len);
    out.payload_mut().fill(0);
    for (index, (_, bytes)) in parts.have.iter().enumerate() {
        recipe.add(index, &bytes[..bytes.len().min(len)], out.payload_mut());
    }
    Ok(out)
}

/// The shard in slot `wanted`, after all data of the chunk was made from the parts and its hash compared.
fn make(
    code: &Code,
    layout: &ChunkLayout,
    parts: &Parts,
    wanted: u8,
    memory: &Reservation,
) -> Result<Buffer, RebuildError> {
    let shard = |slot| make_shard(code, layout, parts, slot, memory);
    let mut hasher = blake3::Hasher::new();
    let mut made = None;
    for slot in 0..layout.protection.data {
        match parts.have.iter().find(|(have, _)| *have == slot) {
            Some((_, bytes)) => hasher.update(bytes),
            None => {
                let buffer = shard(slot)?;
                hasher.update(buffer.payload());
                if slot == wanted {
                    made = Some(buffer);
                }
                &mut hasher
            }
        };
    }
    if *hasher.finalize().as_bytes() != parts.facts.chunk_hash {
        return Err(RebuildError::Disagree);
    }
    made.map_or_else(|| shard(wanted), Ok)
}

#[cfg(test)]
pub(in crate::repair) mod tests;
