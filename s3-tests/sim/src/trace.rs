//! What happened, in order: one line an event, all of them hashed. Two runs with the same seed have the same hash.

use std::fmt::Arguments;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// Takes events. Clones share them.
#[derive(Clone)]
pub struct Trace {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    hash: blake3::Hasher,
    events: u64,
    /// The simulation's time.
    now: Duration,
    prints: bool,
}

impl Trace {
    /// `prints` also shows every event on standard output.
    pub fn new(prints: bool) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                hash: blake3::Hasher::new(),
                events: 0,
                now: Duration::ZERO,
                prints,
            })),
        }
    }

    /// Says what time it is from now on.
    pub fn set_now(&self, now: Duration) {
        self.inner.lock().now = now;
    }

    /// The simulation's time.
    pub fn now(&self) -> Duration {
        self.inner.lock().now
    }

    /// Notes an event.
    pub fn note(&self, event: Arguments<'_>) {
        let mut inner = self.inner.lock();
        let line = format!("{:>9.3} {event}\n", inner.now.as_secs_f64());
        inner.hash.update(line.as_bytes());
        inner.events += 1;
        if inner.prints {
            // Whoever reads it may have gone.
            let _gone = std::io::stdout().write_all(line.as_bytes());
        }
    }

    /// Notes a small event that is not worth a line: bytes on a wire.
    pub fn count(&self, what: [u64; 4]) {
        let mut inner = self.inner.lock();
        let now = inner.now.as_micros() as u64;
        inner.hash.update(&now.to_le_bytes());
        for number in what {
            inner.hash.update(&number.to_le_bytes());
        }
        inner.events += 1;
    }

    /// The hash of all events so far, and how many they are.
    pub fn digest(&self) -> (String, u64) {
        let inner = self.inner.lock();
        let hash = inner.hash.finalize();
        (hex::encode(&hash.as_bytes()[..12]), inner.events)
    }
}
