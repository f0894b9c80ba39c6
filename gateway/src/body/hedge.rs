//! When a read is late, and how many late reads may be raced.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use holdfast_placement::ids::DriveId;
use parking_lot::RwLock;

/// A read is late after this many times its drive's 95th percentile.
const LATE_FACTOR: u32 = 3;

/// Reads that earn one race, and races that can be saved up: at most about 5% more reads, whatever happens.
const READS_A_RACE: i64 = 20;
const RACES_SAVED_MAX: i64 = 16;

/// Latencies of the drives, and the budget for races.
pub(super) struct Hedging {
    after_min: Duration,
    drives: RwLock<Vec<(DriveId, Arc<Latency>)>>,
    /// In 1/`READS_A_RACE` of a race.
    budget: AtomicI64,
}

impl Hedging {
    pub(super) fn new(after_min: Duration) -> Self {
        Self {
            after_min,
            drives: RwLock::default(),
            budget: AtomicI64::new(RACES_SAVED_MAX * READS_A_RACE),
        }
    }

    pub(super) fn latency_of(&self, drive: DriveId) -> Arc<Latency> {
        let known = |drives: &[(DriveId, Arc<Latency>)]| {
            drives
                .iter()
                .find(|(id, _)| *id == drive)
                .map(|(_, latency)| latency.clone())
        };
        if let Some(latency) = known(&self.drives.read()) {
            return latency;
        }
        let mut drives = self.drives.write();
        known(&drives).unwrap_or_else(|| {
            let latency = Arc::new(Latency::default());
            drives.push((drive, latency.clone()));
            latency
        })
    }

    /// After how long a read of a drive counts as late.
    pub(super) fn late_after(&self, latency: &Latency) -> Duration {
        self.after_min.max(latency.p95() * LATE_FACTOR)
    }

    /// Counts a read that was in time.
    pub(super) fn earn(&self) {
        if self.budget.load(Ordering::Relaxed) < RACES_SAVED_MAX * READS_A_RACE {
            self.budget.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether one more read may be raced.
    pub(super) fn may_race(&self) -> bool {
        self.budget
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |budget| {
                (budget >= READS_A_RACE).then_some(budget - READS_A_RACE)
            })
            .is_ok()
    }
}

/// The 95th percentile of a drive's recent reads, by stochastic approximation: each sample moves the estimate a
/// little, up nineteen times as far as down (Robbins and Monro, 1951).
#[derive(Debug, Default)]
pub(super) struct Latency {
    p95_nanos: AtomicU64,
}

impl Latency {
    pub(super) fn note(&self, took: Duration) {
        let took = took.as_nanos() as u64;
        let estimate = self.p95_nanos.load(Ordering::Relaxed);
        let step = estimate / 64 + 1000;
        let moved = if took > estimate {
            // Not beyond the sample: one slow read says nothing about the usual ones.
            (estimate + step * 19 / 4).min(took)
        } else {
            (estimate.saturating_sub(step / 4)).max(took)
        };
        self.p95_nanos.store(moved, Ordering::Relaxed);
    }

    pub(super) fn p95(&self) -> Duration {
        Duration::from_nanos(self.p95_nanos.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Hedging, Latency, RACES_SAVED_MAX};
    use holdfast_placement::ids::DriveId;
    use holdfast_placement::seams::SeededRng;

    #[test]
    fn the_estimate_finds_the_95th_percentile() {
        let rng = SeededRng::new(1);
        let latency = Latency::default();
        for _ in 0..20_000 {
            latency.note(Duration::from_micros(1000 + rng.below(1000)));
        }
        let p95 = latency.p95().as_micros();
        assert!((1850..2050).contains(&p95), "{p95}");
        for _ in 0..5_000 {
            latency.note(Duration::from_micros(200));
        }
        assert!(
            latency.p95() < Duration::from_micros(300),
            "it follows the drive"
        );
    }

    #[test]
    fn races_are_bounded() {
        let hedging = Hedging::new(Duration::from_millis(20));
        let races = (0..1000).filter(|_| hedging.may_race()).count();
        assert_eq!(races as i64, RACES_SAVED_MAX);
        for _ in 0..19 {
            hedging.earn();
        }
        assert!(!hedging.may_race());
        hedging.earn();
        assert!(hedging.may_race());
        let latency = hedging.latency_of(DriveId(3));
        assert_eq!(hedging.late_after(&latency), Duration::from_millis(20));
        latency.note(Duration::from_secs(1));
        assert!(hedging.latency_of(DriveId(3)).p95() > Duration::ZERO);
    }
}
