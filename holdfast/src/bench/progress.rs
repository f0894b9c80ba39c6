//! One line a second on standard error while a phase runs.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::phase::Shared;
use crate::units::show_number;

/// What the last line said.
pub struct Progress {
    name: &'static str,
    at: Duration,
    done: u64,
    bytes: u64,
    listed: u64,
}

impl Progress {
    /// The progress of the phase called `name`.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            at: Duration::ZERO,
            done: 0,
            bytes: 0,
            listed: 0,
        }
    }

    /// How long until the next line is due, `elapsed` into the phase.
    pub fn until_next(&self, elapsed: Duration) -> Duration {
        (self.at + Duration::from_secs(1)).saturating_sub(elapsed)
    }

    /// Writes a line about the time since the last one.
    pub fn line(&mut self, elapsed: Duration, shared: &Shared) {
        let (done, bytes, listed) = (
            shared.done.load(Ordering::Relaxed),
            shared.bytes.load(Ordering::Relaxed),
            shared.listed.load(Ordering::Relaxed),
        );
        let seconds = (elapsed - self.at).as_secs_f64().max(1e-9);
        let listing = if listed > 0 {
            format!(
                "{:>9} keys/s  ",
                show_number((listed - self.listed) as f64 / seconds)
            )
        } else {
            String::new()
        };
        super::tell(&format!(
            "{} {:>4}s  {:>8} ops/s  {:>8} MiB/s  {listing}{done} done, {} errors",
            self.name,
            elapsed.as_secs(),
            show_number((done - self.done) as f64 / seconds),
            show_number((bytes - self.bytes) as f64 / seconds / 1_048_576.0),
            shared.failures.load(Ordering::Relaxed),
        ));
        (self.at, self.done, self.bytes, self.listed) = (elapsed, done, bytes, listed);
    }
}
