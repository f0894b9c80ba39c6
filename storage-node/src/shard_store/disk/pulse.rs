//! Whether a drive still answers.
//!
//! A drive that hangs gives no error: what is asked of it waits for ever, and keeps its memory. So a drive that has been
//! asked for something and has completed nothing for [`STALL_MAX`] is given up: all that waits for it is told so.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{Either, select};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::DiskError;

/// How long a drive may complete nothing. Disks behind a network may stand still while they fail over.
const STALL_MAX: Duration = Duration::from_secs(30);

/// What counts of the time between two looks, at most: the process itself may have stood still.
const STEP_MAX: Duration = Duration::from_secs(1);

/// Between two looks that count.
const STEP_MIN: Duration = Duration::from_millis(250);

/// Keeps count of what a drive is asked for and completes.
#[derive(Default)]
pub(super) struct Pulse {
    in_flight: AtomicUsize,
    completed: AtomicU64,
    looks: Mutex<Looks>,
    is_given_up: AtomicBool,
    given_up: Notify,
}

#[derive(Default)]
struct Looks {
    last: Option<Duration>,
    completed: u64,
    stalled: Duration,
}

/// A request under way. Goes when it was answered.
pub(super) struct Pass(Arc<Pulse>);

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.completed.fetch_add(1, Ordering::Relaxed);
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pulse {
    /// For a request that begins.
    pub fn pass(self: &Arc<Self>) -> Pass {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Pass(self.clone())
    }

    /// Looks whether anything moves, at `now` of a monotonic clock; `true` when the drive is given up by that.
    pub fn look(&self, now: Duration) -> bool {
        let mut looks = self.looks.lock();
        let since = now.saturating_sub(looks.last.unwrap_or(now));
        if looks.last.is_some() && since < STEP_MIN {
            return false;
        }
        looks.last = Some(now);
        let completed = self.completed.load(Ordering::Relaxed);
        let moves = completed != looks.completed || self.in_flight.load(Ordering::Relaxed) == 0;
        looks.completed = completed;
        looks.stalled = match moves {
            true => Duration::ZERO,
            false => looks.stalled + since.min(STEP_MAX),
        };
        if looks.stalled < STALL_MAX || self.is_given_up.swap(true, Ordering::AcqRel) {
            return false;
        }
        self.given_up.notify_waiters();
        true
    }

    /// An error if the drive was given up.
    pub fn check(&self) -> Result<(), DiskError> {
        match self.is_given_up.load(Ordering::Acquire) {
            true => Err(DiskError::Gone(format!(
                "it has completed nothing for {} s",
                STALL_MAX.as_secs()
            ))),
            false => Ok(()),
        }
    }

    /// Waits for an answer until the drive is given up.
    pub async fn answer<T>(
        &self,
        answer: impl Future<Output = Result<T, DiskError>>,
    ) -> Result<T, DiskError> {
        let mut given_up = pin!(self.given_up.notified());
        given_up.as_mut().enable();
        self.check()?;
        match select(pin!(answer), given_up).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) => self.check().and(Err(DiskError::Gone(String::new()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks every half a second until the drive is given up; after how long, if within two minutes.
    fn given_up_after(pulse: &Arc<Pulse>, mut meanwhile: impl FnMut(u64)) -> Option<u64> {
        (0..240).find_map(|step| {
            meanwhile(step);
            let now = Duration::from_millis(500 * step);
            pulse.look(now).then_some(step / 2)
        })
    }

    #[test]
    fn only_a_drive_that_was_asked_and_completes_nothing_is_given_up() {
        assert_eq!(given_up_after(&Arc::default(), |_| {}), None);
        let pulse = Arc::default();
        let _waits = Pulse::pass(&pulse);
        assert_eq!(given_up_after(&pulse, |_| {}), Some(30));
        assert!(matches!(pulse.check(), Err(DiskError::Gone(_))));
        // One request hangs, and others are answered now and then.
        let pulse = Arc::default();
        let _waits = Pulse::pass(&pulse);
        let answered = |step: u64| {
            if step.is_multiple_of(50) {
                drop(pulse.pass());
            }
        };
        assert_eq!(given_up_after(&pulse, answered), None);
        assert!(pulse.check().is_ok());
    }

    #[test]
    fn a_process_that_stood_still_does_not_blame_the_drive() {
        let pulse: Arc<Pulse> = Arc::default();
        let _waits = pulse.pass();
        for hours in 0..20 {
            assert!(!pulse.look(Duration::from_secs(hours * 3600)));
        }
    }

    #[tokio::test]
    async fn who_waits_for_a_drive_that_is_given_up_is_told() {
        let pulse: Arc<Pulse> = Arc::default();
        let _pass = pulse.pass();
        let never = std::future::pending::<Result<(), DiskError>>();
        let mut waiting = pin!(pulse.answer(never));
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        given_up_after(&pulse, |_| {}).unwrap();
        assert!(matches!(waiting.await, Err(DiskError::Gone(_))));
    }
}
