//! How a shard store behaves.

use std::time::Duration;

use super::SHARD_LEN_MAX;
use super::disk::{DiskSpace, PAGE_LEN};
use super::record::record_len;

/// Settings of one drive's shard store; the defaults are meant for any drive.
#[derive(Clone, Debug)]
pub struct ShardStoreConfig {
    /// Longest extent, bytes. Small drives use shorter ones.
    pub extent_len_max: u64,
    /// How much of an extent is allocated at a time, bytes.
    pub allocate_step: u64,
    /// Room that shards leave for metadata and compaction, bytes. `None`: the larger of 256 MiB and 2 % of the
    /// drive, but at most a quarter of it.
    pub reserve_bytes: Option<u64>,
    /// Longest single read of scrubbing and compaction, bytes.
    pub read_piece_len: usize,
    /// Extents with less than this share of live bytes are compacted, in percent.
    pub compact_below_percent: u64,
    /// How fast compaction in the background copies, bytes per second.
    pub compact_bytes_per_sec: u64,
    /// How often compaction in the background looks for work.
    pub compact_interval: Duration,
    /// Syncs the index on the calling task instead of a thread for blocking work: for tests and simulations, where
    /// the index never blocks.
    pub sync_inline: bool,
}

impl Default for ShardStoreConfig {
    fn default() -> Self {
        Self {
            extent_len_max: 1 << 30,
            allocate_step: 64 << 20,
            reserve_bytes: None,
            read_piece_len: 1 << 20,
            compact_below_percent: 50,
            compact_bytes_per_sec: 64 << 20,
            compact_interval: Duration::from_secs(10),
            sync_inline: false,
        }
    }
}

impl ShardStoreConfig {
    /// Length of extents on a drive of this size, bytes: a 64th of the drive, within bounds.
    pub(super) fn extent_len(&self, space: DiskSpace) -> u64 {
        let shortest = PAGE_LEN as u64 + record_len(SHARD_LEN_MAX);
        let len = (space.total / 64).max(4 * shortest);
        len.min(self.extent_len_max) / PAGE_LEN as u64 * PAGE_LEN as u64
    }

    /// What shards leave free on a drive of this size, bytes.
    pub(super) fn reserve(&self, space: DiskSpace) -> u64 {
        let usual = (256 << 20).max(space.total / 50).min(space.total / 4);
        self.reserve_bytes.unwrap_or(usual)
    }
}
