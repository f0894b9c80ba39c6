//! Whether the drives have room for more metadata.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tells writers to stop before RocksDB meets a full disk: what is left then is for deletes, compaction and the log.
///
/// A log goes to all voters of its group, so it is as full as the fullest of them: where one node has no room, no node takes
/// more.
#[derive(Clone, Debug, Default)]
pub struct SpaceGauge {
    here: Arc<AtomicBool>,
    elsewhere: Arc<AtomicBool>,
}

impl SpaceGauge {
    /// Whether a write that adds data is to be refused.
    pub fn is_full(&self) -> bool {
        self.is_full_here() || self.elsewhere.load(Ordering::Relaxed)
    }

    /// Whether it is this process's own drives that are full.
    pub(super) fn is_full_here(&self) -> bool {
        self.here.load(Ordering::Relaxed)
    }

    /// Takes note of whether another node says that its drives are full.
    pub(super) fn note_elsewhere(&self, is_full: bool) {
        self.elsewhere.store(is_full, Ordering::Relaxed);
    }

    /// Takes note of free and of all bytes of the tightest drive that holds metadata, if there is one.
    pub(super) fn note(&self, tightest: Option<(u64, u64)>) {
        let Some((free_bytes, total_bytes)) = tightest else {
            self.here.store(false, Ordering::Relaxed);
            return;
        };
        let reserve = reserve_bytes(total_bytes);
        // Opens again only with some room to spare, so that it does not flap at the edge.
        let limit = if self.is_full_here() {
            reserve + reserve / 4
        } else {
            reserve
        };
        self.here.store(free_bytes < limit, Ordering::Relaxed);
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
        gauge.note(Some((65 << 20, total)));
        assert!(!gauge.is_full());
        gauge.note(Some((63 << 20, total)));
        assert!(gauge.is_full());
        gauge.note(Some((65 << 20, total)));
        assert!(gauge.is_full());
        gauge.note(Some((81 << 20, total)));
        assert!(!gauge.is_full());
        gauge.note(Some((63 << 20, total)));
        gauge.note(None);
        assert!(!gauge.is_full(), "no metadata, no log that could fill");
    }

    #[test]
    fn where_another_node_is_full_no_more_is_taken_and_nobody_is_told_that_it_is_this_one() {
        let gauge = SpaceGauge::default();
        gauge.note_elsewhere(true);
        assert!(gauge.is_full() && !gauge.is_full_here());
        gauge.note_elsewhere(false);
        assert!(!gauge.is_full());
    }
}
