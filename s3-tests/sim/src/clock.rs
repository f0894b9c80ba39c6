//! A node's clock: the runtime's paused time, which a node may see later, earlier or faster than others.

use std::time::Duration;

use futures_util::future::BoxFuture;
use holdfast_placement::seams::{Clock, UnixMillis};
use tokio::time::Instant;

/// When every simulation begins, milliseconds since 1970.
pub const EPOCH: u64 = 1_800_000_000_000;

/// The clock of one life of a node.
pub struct SimClock {
    /// What the wall clock showed at the start.
    wall: UnixMillis,
    started: Instant,
}

impl SimClock {
    /// A clock that starts now; its wall clock is wrong by `skew_ms`. Ask for it on the node's runtime.
    pub fn start(skew_ms: i64) -> Self {
        let elapsed = turmoil::sim_elapsed().unwrap_or_default();
        let now = EPOCH + elapsed.as_millis() as u64;
        Self {
            wall: UnixMillis(now.saturating_add_signed(skew_ms)),
            started: Instant::now(),
        }
    }
}

impl Clock for SimClock {
    fn wall(&self) -> UnixMillis {
        UnixMillis(self.wall.0 + self.monotonic().as_millis() as u64)
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// Has all clocks of the runtime at hand run faster than others by so many thousandths, for as long as it is polled.
pub async fn run_fast(per_mille: u64) {
    const STEP: u64 = 50;
    let mut owed = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(STEP)).await;
        owed += STEP * per_mille;
        if owed >= 1000 {
            tokio::time::advance(Duration::from_millis(owed / 1000)).await;
            owed %= 1000;
        }
    }
}
