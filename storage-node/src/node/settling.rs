//! Has the indexes of drives merge what came into them once nobody uses them: a listing seeks in every sorted run, and an
//! index by itself merges them only as far as writes need it.

use std::sync::Arc;
use std::time::Duration;

use holdfast_placement::ids::DriveId;
use holdfast_placement::seams::{Clock, Index, IndexError, blocking};
use tokio::sync::watch;

/// An index lies still if it was used less than [`USES_MAX`] times in this time.
const LOOK_PAUSE: Duration = Duration::from_secs(5);
const USES_MAX: u64 = 500;

/// Has the drive's index settle whenever it lies still, until `stopped` changes.
pub(super) async fn run(
    drive: DriveId,
    index: Arc<dyn Index>,
    clock: Arc<dyn Clock>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut rest = Rest::from(index.uses());
    loop {
        tokio::select! {
            () = clock.sleep(LOOK_PAUSE) => {}
            _ = stopped.changed() => return,
        }
        let uses = index.uses();
        if !rest.is_time(uses) {
            continue;
        }
        match settle(index.clone(), uses, stopped.clone()).await {
            Ok(()) => rest.settled = Some(uses),
            Err(error) => tracing::warn!(%drive, %error, "an index could not be settled"),
        }
    }
}

/// Goes on for as long as the index is hardly used.
async fn settle(
    index: Arc<dyn Index>,
    before: u64,
    stopped: watch::Receiver<bool>,
) -> Result<(), IndexError> {
    let settling =
        blocking(move || index.settle(&|| !*stopped.borrow() && is_still(before, index.uses())));
    match settling.await {
        Ok(settled) => settled,
        Err(error) => Err(IndexError::Io(error.to_string())),
    }
}

fn is_still(before: u64, now: u64) -> bool {
    now.saturating_sub(before) < USES_MAX
}

/// What is known of how an index is used.
struct Rest {
    /// Uses at the last look.
    seen: u64,
    /// Uses when it was settled last.
    settled: Option<u64>,
}

impl Rest {
    fn from(uses: u64) -> Self {
        Self {
            seen: uses,
            settled: None,
        }
    }

    /// Whether the index lies still and has perhaps changed since it was settled.
    fn is_time(&mut self, uses: u64) -> bool {
        let is_still = is_still(self.seen, uses);
        self.seen = uses;
        is_still && self.settled != Some(uses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_time_when_few_use_what_was_used_since() {
        let mut rest = Rest::from(0);
        assert!(!rest.is_time(10_000), "under load");
        assert!(!rest.is_time(10_000 + USES_MAX));
        assert!(rest.is_time(10_000 + USES_MAX), "still");
        rest.settled = Some(10_000 + USES_MAX);
        assert!(!rest.is_time(10_000 + USES_MAX), "settled");
        assert!(rest.is_time(10_001 + USES_MAX), "used a little");
    }
}
