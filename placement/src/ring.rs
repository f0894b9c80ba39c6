//! The ring: partition -> drives of a site, in order.

use serde::{Deserialize, Serialize};

use crate::balance::{Member, balance};
use crate::ids::{ChunkSetId, DriveId, PartitionId};

/// Partitions a site by default.
pub const PARTITIONS: usize = 1024;

/// Slots of a partition at most.
pub const SLOTS_MAX: usize = 16;

/// The drives of each partition, in slot order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    pub partitions: Vec<Vec<DriveId>>,
}

impl Ring {
    /// The ring of a fresh cluster, [`PARTITIONS`] partitions.
    pub fn new(members: &[Member]) -> Self {
        balance(members, PARTITIONS, None)
    }

    /// The ring after members came, left or changed: balanced anew, and as like this one as that allows.
    pub fn rebalanced(&self, members: &[Member]) -> Self {
        balance(members, self.partitions.len(), Some(self))
    }

    /// The partition of a chunk.
    pub fn partition_of(&self, set: ChunkSetId, chunk: u32) -> PartitionId {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&set.0);
        hasher.update(&chunk.to_le_bytes());
        let mut first = [0u8; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        let count = self.partitions.len().max(1) as u64;
        PartitionId((u64::from_le_bytes(first) % count) as u16)
    }

    /// The drives of a partition, in slot order.
    pub fn drives(&self, partition: PartitionId) -> &[DriveId] {
        self.partitions
            .get(partition.0 as usize)
            .map_or(&[], Vec::as_slice)
    }
}
