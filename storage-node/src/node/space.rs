//! Whether the drives have room for more metadata.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tells writers to stop before RocksDB meets a full disk: what is left then is for deletes, compaction and the log.
#[derive(Clone, Debug, Default)]
pub struct SpaceGauge {
    full: Arc<AtomicBool>,
}

impl SpaceGauge {
    /// Whether a write that adds data is to be refused.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Takes note of the tightest drive that holds metadata.
    pub(super) fn note(&self, free_bytes: u64, total_bytes: u64) {
        let reserve = reserve_bytes(total_bytes);
        // Opens again only with some room to spare, so that it does not flap at the edge.
        let limit = if self.is_full() {
            reserve + reserve / 4
        } else {
            reserve
        };
        self.full.store(free_bytes < limit, Ordering::Relaxed);
    }
}

/// Room kept for the store's own work on a drive of `total` bytes: a fiftieth, 64 MiB to 4 GiB.
pub fn reserve_bytes(total: u64) -> u64 {
    (total / 50).clamp(64 << 20, 4 << 30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_drive_refuses_until_there_is_room_to_spare() {
        let gauge = SpaceGauge::default();
        let total = 1 << 30;
        gauge.note(65 << 20, total);
        assert!(!gauge.is_full());
        gauge.note(63 << 20, total);
        assert!(gauge.is_full());
        gauge.note(65 << 20, total);
        assert!(gauge.is_full());
        gauge.note(81 << 20, total);
        assert!(!gauge.is_full());
    }
}
