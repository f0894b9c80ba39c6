//! What happened on the way of bodies.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counts since the start.
        #[derive(Debug, Default)]
        pub struct BodyCounters { $($(#[$doc])* pub(super) $name: Counter),* }

        /// The counts at a moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct CounterValues { $($(#[$doc])* pub $name: u64),* }

        impl BodyCounters {
            /// The counts now.
            pub fn values(&self) -> CounterValues {
                CounterValues { $($name: self.$name.get()),* }
            }
        }
    };
}

counters! {
    /// Chunks acknowledged with all their shards or without some.
    chunks_written,
    /// Shards that acknowledged chunks were left without.
    missed_shards,
    /// Shards that acknowledged chunks did not wait for.
    late_shards,
    /// Shards deleted because their body was not committed.
    discarded_shards,
    /// Shards that should have been deleted but were left on drives that are down.
    orphaned_shards,
    /// Windows read as they were written.
    windows_read,
    /// Windows rebuilt from other shards because theirs could not be read.
    windows_rebuilt,
    /// Windows that could not be read at all.
    windows_lost,
    /// Reads that failed their checksum.
    corrupt_reads,
    /// Reads of shards that should be there and are not.
    missing_reads,
    /// Reads that failed for another reason.
    failed_reads,
    /// Late reads that were raced by a reconstruction.
    hedged_reads,
    /// Races that the reconstruction won.
    hedges_won,
}
