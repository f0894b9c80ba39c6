//! One drive's shards: append-only extents and an index that never leads them.

use std::fmt;

use bytes::Bytes;
use holdfast_placement::ids::ChunkSetId;
use serde::{Deserialize, Serialize};

pub mod disk;

mod blocks;
mod compact;
mod config;
mod flush;
mod index_entry;
mod ledger;
mod record;
mod recover;
mod scrub;
mod space;
mod store;
#[cfg(test)]
mod tests;
mod walk;

pub use blocks::{JoinedChecksum, block_checksums, checksum_of_blocks};
pub use compact::CompactReport;
pub use config::ShardStoreConfig;
pub use scrub::{ScrubPass, ScrubReport, ScrubState, ScrubStep};
pub use store::{ShardInfo, ShardStore, ShardStoreStats};

use disk::DiskError;
use holdfast_placement::seams::IndexError;

use crate::buffer::PoolError;

/// Bytes in front of a shard's payload in its record; also the alignment of records and payloads.
pub const RECORD_HEADER_LEN: usize = 4096;

/// Bytes of payload that one checksum covers.
pub const BLOCK_LEN: usize = 64 * 1024;

/// Largest payload of a shard, bytes.
pub const SHARD_LEN_MAX: usize = 16 * 1024 * 1024;

/// A data (`slot < k`) or parity shard of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId {
    pub set: ChunkSetId,
    pub chunk: u32,
    pub slot: u8,
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.set, self.chunk, self.slot)
    }
}

/// Why a shard was not stored. In every case nothing was acknowledged.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PutShardError {
    #[error("the drive is full")]
    Full,
    #[error("the drive is down: {0}")]
    Down(String),
    #[error("drive I/O failed: {0}")]
    Io(String),
    #[error("a shard of {0} bytes is too large")]
    TooLarge(usize),
    /// No memory came free in time: try again later (503 `SlowDown`).
    #[error("the memory budget is exhausted")]
    Busy,
    /// The put was planned by a map that is too old. The payload, to put it where a newer one says.
    #[error("what was planned is out of date")]
    Outdated(Bytes),
}

/// Why a shard was not read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GetShardError {
    #[error("no such shard")]
    NotFound,
    #[error("the shard is corrupt: {0}")]
    Corrupt(String),
    #[error("the range is outside the shard")]
    OutOfRange,
    /// No memory came free in time; try again later (503 `SlowDown`).
    #[error("the memory budget is exhausted")]
    Busy,
    #[error("the drive is down: {0}")]
    Down(String),
    #[error("drive I/O failed: {0}")]
    Io(String),
}

/// Why shards were not deleted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DeleteShardError {
    #[error("the drive is down: {0}")]
    Down(String),
    #[error("drive I/O failed: {0}")]
    Io(String),
}

/// Why a drive's shards cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenShardStoreError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error("the memory budget is exhausted")]
    Busy,
    #[error("extents cannot be cleaned up: {0}")]
    CleanUp(#[from] PutShardError),
}

impl From<PoolError> for PutShardError {
    fn from(PoolError::Exhausted: PoolError) -> Self {
        PutShardError::Busy
    }
}

impl From<PoolError> for GetShardError {
    fn from(PoolError::Exhausted: PoolError) -> Self {
        GetShardError::Busy
    }
}

impl From<PoolError> for OpenShardStoreError {
    fn from(PoolError::Exhausted: PoolError) -> Self {
        OpenShardStoreError::Busy
    }
}
