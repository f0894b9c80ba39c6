//! Shards by drive: the drives of this process today, other nodes' later.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use holdfast_placement::ids::{DriveId, Epoch};
use holdfast_placement::seams::blocking;
use serde::{Deserialize, Serialize};

use crate::buffer::Buffer;
use crate::put_gate::{PutGate, PutGates};
use crate::shard_store::{
    BLOCK_LEN, DeleteShardError, GetShardError, PutShardError, ShardId, ShardInfo, ShardStore,
};

/// Stores and fetches shards on any drive of the cluster.
#[async_trait]
pub trait Shards: Send + Sync + 'static {
    /// Stores a shard; when it returns `Ok` the shard is on flash, flushed. `payload` is a buffer whose first
    /// `RECORD_HEADER_LEN` bytes are left for the store, see [`Buffer`].
    ///
    /// A put for a drive of another node may be retried on the way: a store takes the same shard more than once, and
    /// the last of them is there. After an error the shard may be there, now or a little later.
    async fn put(
        &self,
        drive: DriveId,
        id: ShardId,
        facts: ShardFacts,
        payload: Buffer,
    ) -> Result<(), PutShardError>;

    /// Fetches bytes `range` of the shard's payload, verified; reads and checks only the blocks they touch. They are
    /// read into `buffer`, whose capacity is at least [`read_capacity`] of the range: who reads has taken the memory
    /// from the pool before, so that a store never waits for memory in the middle of a read.
    async fn get(
        &self,
        drive: DriveId,
        id: ShardId,
        range: Range<u32>,
        buffer: Buffer,
    ) -> Result<Bytes, GetShardError>;

    /// Deletes shards; those that are not there are not an error. Durable when it returns.
    async fn delete(&self, drive: DriveId, ids: &[ShardId]) -> Result<(), DeleteShardError>;

    /// What is known of a shard without reading it; `None` if it is not there.
    async fn info(&self, drive: DriveId, id: ShardId) -> Result<Option<ShardInfo>, GetShardError>;

    /// The next `max` shards of a drive by id, without reading them; begin with `None`.
    async fn list(
        &self,
        drive: DriveId,
        after: Option<ShardId>,
        max: usize,
    ) -> Result<Vec<ShardInfo>, GetShardError>;

    /// Whether the drive has each of the shards, in their order, by its index alone.
    async fn holds(&self, drive: DriveId, ids: &[ShardId]) -> Result<Vec<Held>, GetShardError> {
        let mut held = Vec::with_capacity(ids.len());
        for id in ids {
            held.push(Held::of(self.info(drive, *id).await?.as_ref()));
        }
        Ok(held)
    }

    /// Whether the drive is known to be out of use; a hint for planning, never proof.
    fn is_down(&self, drive: DriveId) -> bool;
}

/// Whether a drive has a shard. On the wire: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Held {
    Missing,
    /// It was found to be bad and has to be replaced.
    Bad,
    /// As far as the index knows.
    Sound,
}

impl Held {
    fn of(info: Option<&ShardInfo>) -> Self {
        match info {
            None => Self::Missing,
            Some(info) if info.bad => Self::Bad,
            Some(_) => Self::Sound,
        }
    }
}

/// Capacity of the buffer that [`Shards::get`] needs for `range`, bytes: the blocks that the range touches.
pub fn read_capacity(range: &Range<u32>) -> usize {
    let first = range.start as usize / BLOCK_LEN;
    let end = (range.end as usize).div_ceil(BLOCK_LEN).max(first);
    (end - first) * BLOCK_LEN
}

/// The refusal of a put that was planned by a map that is too old.
pub(crate) fn outdated(payload: Buffer) -> PutShardError {
    let len = payload.len();
    PutShardError::Outdated(payload.freeze(0..len))
}

/// What a shard record says of its chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardFacts {
    /// Epoch of the cluster map that the writer used.
    pub epoch: Epoch,
    /// blake3 of the whole chunk, bytes as the client sent them.
    pub chunk_hash: [u8; 32],
    /// Length of the whole chunk, bytes.
    pub chunk_len: u32,
}

/// The drives of this process.
#[derive(Default)]
pub struct LocalShards {
    drives: ArcSwap<BTreeMap<DriveId, Arc<LocalDrive>>>,
}

struct LocalDrive {
    store: Arc<ShardStore>,
    failed: AtomicBool,
    gate: Arc<PutGate>,
}

const NOT_HERE: &str = "no such drive here";
const FAILED: &str = "taken out of use";

impl LocalShards {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a drive into use; in the place of an earlier one of the same id.
    pub fn add(&self, drive: DriveId, store: Arc<ShardStore>) {
        let local = Arc::new(LocalDrive {
            store,
            failed: AtomicBool::new(false),
            gate: Arc::default(),
        });
        self.drives.rcu(|drives| {
            let mut drives = BTreeMap::clone(drives);
            drives.insert(drive, local.clone());
            drives
        });
    }

    /// Takes a drive out of use until it is added again.
    pub fn fail(&self, drive: DriveId) {
        if let Some(local) = self.drives.load().get(&drive) {
            local.failed.store(true, Ordering::Release);
        }
    }

    /// The store of a drive, whether or not it is in use.
    pub fn store(&self, drive: DriveId) -> Option<Arc<ShardStore>> {
        let drives = self.drives.load();
        drives.get(&drive).map(|local| local.store.clone())
    }

    /// The drives that were added, in order.
    pub fn drives(&self) -> Vec<DriveId> {
        self.drives.load().keys().copied().collect()
    }

    /// As [`Shards::get`], with the CRC-64/NVME of the bytes.
    pub(crate) async fn get_with_checksum(
        &self,
        drive: DriveId,
        id: ShardId,
        range: Range<u32>,
        buffer: Buffer,
    ) -> Result<(Bytes, u64), GetShardError> {
        let local = self.up(drive).map_err(GetShardError::Down)?;
        local.store.get_with_checksum(id, range, buffer).await
    }

    fn up(&self, drive: DriveId) -> Result<Arc<LocalDrive>, String> {
        match self.drives.load().get(&drive) {
            None => Err(NOT_HERE.to_owned()),
            Some(local) if local.failed.load(Ordering::Acquire) => Err(FAILED.to_owned()),
            Some(local) => Ok(local.clone()),
        }
    }
}

impl PutGates for LocalShards {
    fn drives(&self) -> Vec<DriveId> {
        LocalShards::drives(self)
    }

    fn gate(&self, drive: DriveId) -> Option<Arc<PutGate>> {
        let drives = self.drives.load();
        drives.get(&drive).map(|local| local.gate.clone())
    }
}

#[async_trait]
impl Shards for LocalShards {
    async fn put(
        &self,
        drive: DriveId,
        id: ShardId,
        facts: ShardFacts,
        payload: Buffer,
    ) -> Result<(), PutShardError> {
        let local = self.up(drive).map_err(PutShardError::Down)?;
        let Some(_putting) = local.gate.enter(id, facts.epoch).await else {
            return Err(outdated(payload));
        };
        local.store.put(id, facts, payload).await
    }

    async fn get(
        &self,
        drive: DriveId,
        id: ShardId,
        range: Range<u32>,
        buffer: Buffer,
    ) -> Result<Bytes, GetShardError> {
        let local = self.up(drive).map_err(GetShardError::Down)?;
        local.store.get(id, range, buffer).await
    }

    async fn delete(&self, drive: DriveId, ids: &[ShardId]) -> Result<(), DeleteShardError> {
        let local = self.up(drive).map_err(DeleteShardError::Down)?;
        local.store.delete(ids).await
    }

    async fn info(&self, drive: DriveId, id: ShardId) -> Result<Option<ShardInfo>, GetShardError> {
        let local = self.up(drive).map_err(GetShardError::Down)?;
        local.store.info(id)
    }

    async fn list(
        &self,
        drive: DriveId,
        after: Option<ShardId>,
        max: usize,
    ) -> Result<Vec<ShardInfo>, GetShardError> {
        let local = self.up(drive).map_err(GetShardError::Down)?;
        local.store.list(after, max)
    }

    async fn holds(&self, drive: DriveId, ids: &[ShardId]) -> Result<Vec<Held>, GetShardError> {
        let local = self.up(drive).map_err(GetShardError::Down)?;
        let ids = ids.to_vec();
        // Thousands of look-ups: not on a thread that serves requests.
        let looked = blocking(move || {
            let look = |id: &ShardId| Ok(Held::of(local.store.info(*id)?.as_ref()));
            ids.iter().map(look).collect()
        });
        let looked = looked.await;
        looked.unwrap_or_else(|error| Err(GetShardError::Io(error.to_string())))
    }

    fn is_down(&self, drive: DriveId) -> bool {
        !self
            .up(drive)
            .is_ok_and(|local| local.store.down().is_none())
    }
}
