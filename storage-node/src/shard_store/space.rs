//! Where the next record goes: places in the open extent, and which of them are still being written.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::ShardId;
use super::disk::DiskFile;
use super::record::{Location, Nonce};

/// The extent that takes records now.
#[derive(Clone)]
pub(super) struct OpenExtent {
    pub number: u64,
    pub nonce: Nonce,
    pub file: Arc<dyn DiskFile>,
    /// Bytes for which there is space.
    pub allocated: u64,
    /// Bytes after which the next extent is begun.
    pub limit: u64,
}

/// The end of an extent that is not sealed yet.
struct End {
    tail: u64,
    /// No record will be added.
    closed: bool,
    file: Arc<dyn DiskFile>,
}

struct InFlight {
    id: ShardId,
    copy: bool,
    /// Nobody waits for it any more.
    given_up: bool,
}

/// Places of records, by extent and offset.
#[derive(Default)]
pub(super) struct Space {
    open: Option<OpenExtent>,
    ends: BTreeMap<u64, End>,
    in_flight: BTreeMap<Location, InFlight>,
    /// Places given up whose records may yet be found whole after a crash: to be declared dead.
    abandoned: Vec<Location>,
}

/// A place for a record. If it is dropped before the index refers to it, the record there is dead.
pub(super) struct Reservation {
    space: Arc<Mutex<Space>>,
    pub location: Location,
    pub nonce: Nonce,
    pub file: Arc<dyn DiskFile>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut space = self.space.lock();
        // Nothing is left to do if it was settled.
        if space.in_flight.remove(&self.location).is_some() {
            space.abandoned.push(self.location);
        }
    }
}

/// Somebody waits for the record at a place. If he gives up before the index refers to it, it is dead from then on:
/// what he does next, such as deleting the shard to be sure, must not be undone by it.
pub(super) struct Waiter {
    space: Arc<Mutex<Space>>,
    location: Location,
}

impl Reservation {
    pub fn waiter(&self) -> Waiter {
        Waiter {
            space: self.space.clone(),
            location: self.location,
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut guard = self.space.lock();
        let space = &mut *guard;
        // It is not in flight any more if it was decided about.
        if let Some(in_flight) = space.in_flight.get_mut(&self.location) {
            in_flight.given_up = true;
            space.abandoned.push(self.location);
        }
    }
}

/// Takes the next `len` bytes of the open extent, if they are allocated.
pub(super) fn reserve(
    space: &Arc<Mutex<Space>>,
    id: ShardId,
    len: u64,
    copy: bool,
) -> Option<Reservation> {
    let mut guard = space.lock();
    let state = &mut *guard;
    let open = state.open.as_ref()?;
    let end = state.ends.get_mut(&open.number)?;
    if end.tail + len > open.allocated {
        return None;
    }
    let location = Location {
        extent: open.number,
        offset: end.tail,
    };
    end.tail += len;
    let in_flight = InFlight {
        id,
        copy,
        given_up: false,
    };
    state.in_flight.insert(location, in_flight);
    Some(Reservation {
        space: space.clone(),
        location,
        nonce: open.nonce,
        file: open.file.clone(),
    })
}

impl Space {
    /// The open extent and where its next record would go.
    pub fn open(&self) -> Option<(OpenExtent, u64)> {
        let open = self.open.as_ref()?;
        Some((open.clone(), self.ends.get(&open.number)?.tail))
    }

    /// Begins a new extent whose first record goes to `tail`; closes the one before.
    pub fn begin(&mut self, extent: OpenExtent, tail: u64) {
        self.close_open();
        let end = End {
            tail,
            closed: false,
            file: extent.file.clone(),
        };
        self.ends.insert(extent.number, end);
        self.open = Some(extent);
    }

    /// Takes no more records into the open extent.
    pub fn close_open(&mut self) {
        if let Some(open) = self.open.take()
            && let Some(end) = self.ends.get_mut(&open.number)
        {
            end.closed = true;
        }
    }

    /// As [`close_open`](Space::close_open), if `number` is the open extent.
    pub fn close(&mut self, number: u64) {
        if self.open.as_ref().is_some_and(|open| open.number == number) {
            self.close_open();
        }
    }

    /// More of the open extent was allocated.
    pub fn allocated(&mut self, number: u64, len: u64) {
        if let Some(open) = &mut self.open
            && open.number == number
        {
            open.allocated = open.allocated.max(len);
        }
    }

    /// Up to where each record of the extent is settled, given that those at `settled` will be; `None` for an extent
    /// that is sealed.
    pub fn high_water(&self, extent: u64, settled: &HashSet<Location>) -> Option<u64> {
        let end = self.ends.get(&extent)?;
        let mut unsettled = self
            .in_flight_of(extent)
            .filter(|location| !settled.contains(location));
        Some(unsettled.next().map_or(end.tail, |first| first.offset))
    }

    fn in_flight_of(&self, extent: u64) -> impl Iterator<Item = Location> {
        let from = Location { extent, offset: 0 };
        let to = Location {
            extent,
            offset: u64::MAX,
        };
        self.in_flight
            .range(from..=to)
            .map(|(location, _)| *location)
    }

    /// Copies of a shard that compaction is writing.
    pub fn copies_of(&self, id: ShardId) -> Vec<Location> {
        let copies = self.in_flight.iter();
        copies
            .filter(|(_, in_flight)| in_flight.copy && in_flight.id == id)
            .map(|(location, _)| *location)
            .collect()
    }

    /// The index has decided about these.
    pub fn settle(&mut self, settled: &HashSet<Location>) {
        for location in settled {
            self.in_flight.remove(location);
        }
        // Whoever gave up in the midst of the decision came too late.
        self.abandoned
            .retain(|location| !settled.contains(location));
    }

    /// Whether nobody waits any more for the record in flight at this place.
    pub fn is_given_up(&self, location: Location) -> bool {
        self.in_flight
            .get(&location)
            .is_none_or(|in_flight| in_flight.given_up)
    }

    pub fn take_abandoned(&mut self) -> Vec<Location> {
        std::mem::take(&mut self.abandoned)
    }

    pub fn return_abandoned(&mut self, abandoned: Vec<Location>) {
        self.abandoned.extend(abandoned);
    }

    /// Closed extents in which nothing is under way, with their ends: they can be sealed.
    pub fn sealable(&self) -> Vec<(u64, u64, Arc<dyn DiskFile>)> {
        self.ends
            .iter()
            .filter(|(number, end)| end.closed && self.in_flight_of(**number).next().is_none())
            .map(|(number, end)| (*number, end.tail, end.file.clone()))
            .collect()
    }

    /// The index has the extent's final high-water mark.
    pub fn sealed(&mut self, number: u64) {
        self.ends.remove(&number);
    }
}
