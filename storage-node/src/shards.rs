//! Shards by drive: the drives of this process today, other nodes' later.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_placement::ids::{DriveId, Epoch};

use crate::buffer::Buffer;
use crate::shard_store::{BLOCK_LEN, DeleteShardError, GetShardError, PutShardError, ShardId};

/// Stores and fetches shards on any drive of the cluster.
#[async_trait]
pub trait Shards: Send + Sync + 'static {
    /// Stores a shard; when it returns `Ok` the shard is on flash, flushed. `payload` is a buffer whose first
    /// `RECORD_HEADER_LEN` bytes are left for the store, see [`Buffer`].
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

    /// Whether the drive is known to be out of use; a hint for planning, never proof.
    fn is_down(&self, drive: DriveId) -> bool;
}

/// Capacity of the buffer that [`Shards::get`] needs for `range`, bytes: the blocks that the range touches.
pub fn read_capacity(range: &Range<u32>) -> usize {
    let first = range.start as usize / BLOCK_LEN;
    let end = (range.end as usize).div_ceil(BLOCK_LEN).max(first);
    (end - first) * BLOCK_LEN
}

/// What a shard record says of its chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardFacts {
    /// Epoch of the cluster map that the writer used.
    pub epoch: Epoch,
    /// blake3 of the whole chunk, bytes as the client sent them.
    pub chunk_hash: [u8; 32],
    /// Length of the whole chunk, bytes.
    pub chunk_len: u32,
}
