//! Freight lines that wait for their next call.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use super::{End, IDLE_MAX};

/// Idle lines kept to a node.
const LINES_MAX: usize = 64;

/// How long a node that opens no freight lines is not asked again: it may have been upgraded.
const REFUSAL_TIME: Duration = Duration::from_secs(30);

/// The idle freight lines, by address. Times are the clock's monotonic ones.
#[derive(Default)]
pub(in crate::rpc) struct Yard {
    places: Mutex<HashMap<String, Place>>,
}

#[derive(Default)]
struct Place {
    /// With the time of the last call.
    idle: Vec<(Duration, End)>,
    /// When it said that it opens none.
    refused: Option<Duration>,
}

impl Yard {
    /// The line to an address that was used last, if it can be used.
    pub fn take(&self, address: &str, now: Duration) -> Option<End> {
        let mut places = self.places.lock();
        let idle = &mut places.get_mut(address)?.idle;
        while let Some((since, mut end)) = idle.pop() {
            if now.saturating_sub(since) < IDLE_MAX && end.is_usable() {
                return Some(end);
            }
        }
        None
    }

    /// Ends the idle lines to an address.
    pub fn clear(&self, address: &str) {
        if let Some(place) = self.places.lock().get_mut(address) {
            place.idle.clear();
        }
    }

    /// Keeps a line whose call is done.
    pub fn give(&self, address: &str, now: Duration, end: End) {
        let mut places = self.places.lock();
        let place = places.entry(address.to_owned()).or_default();
        place
            .idle
            .retain(|(since, _)| now.saturating_sub(*since) < IDLE_MAX);
        if place.idle.len() < LINES_MAX {
            place.idle.push((now, end));
        }
    }

    /// Whoever is at the address opens no freight lines.
    pub fn note_refusal(&self, address: &str, now: Duration) {
        let mut places = self.places.lock();
        places.entry(address.to_owned()).or_default().refused = Some(now);
    }

    /// Whether it said so a short time ago.
    pub fn has_refused(&self, address: &str, now: Duration) -> bool {
        let places = self.places.lock();
        let refused = places.get(address).and_then(|place| place.refused);
        refused.is_some_and(|since| now.saturating_sub(since) < REFUSAL_TIME)
    }
}
