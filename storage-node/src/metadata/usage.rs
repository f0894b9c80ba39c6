//! How much a group holds, by how it is protected: kept by `apply` in the same batch as what it counts.

use holdfast_placement::ids::SiteId;
use holdfast_placement::protection::Protection;
use serde::{Deserialize, Serialize};

use super::record::{Body, ChunkedBody, PartRecord};

/// Bodies and their bytes, as clients sent them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub bodies: u64,
    pub bytes: u64,
}

/// How bodies in chunks are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyClass {
    pub site: SiteId,
    pub protection: Protection,
}

impl BodyClass {
    /// The class of a body.
    pub fn of(body: &ChunkedBody) -> Self {
        Self {
            site: body.site,
            protection: body.protection,
        }
    }

    fn order(&self) -> (SiteId, u8, u8) {
        (self.site, self.protection.parity, self.protection.data)
    }
}

/// What a group's versions, and the parts of its open uploads, take. What waits to be reclaimed does not count.
/// Persisted: the order of fields is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bodies that lie in the metadata.
    pub inline: Tally,
    /// Bodies in chunks: those of simple objects, and parts. Only classes that there are, by site, parity, data.
    pub chunked: Vec<(BodyClass, Tally)>,
    /// Shards that writes have missed and that were not made since.
    pub repairs_open: u64,
}

impl Usage {
    /// What parts take together.
    pub fn of_parts<'a>(parts: impl IntoIterator<Item = &'a PartRecord>) -> Self {
        let mut usage = Self::default();
        for part in parts {
            usage.add(&part.body, part.size);
        }
        usage
    }

    /// Counts a body. Those of parts are counted one by one, and the table that lists them counts nothing.
    pub fn add(&mut self, body: &Body, size: u64) {
        match body {
            Body::Empty | Body::Multipart { .. } => {}
            Body::Inline => {
                self.inline.bodies += 1;
                self.inline.bytes += size;
            }
            Body::Chunked(body) => self.add_class(
                BodyClass::of(body),
                Tally {
                    bodies: 1,
                    bytes: body.len,
                },
            ),
        }
    }

    /// The opposite of [`add`](Self::add).
    pub fn remove(&mut self, body: &Body, size: u64) {
        match body {
            Body::Empty | Body::Multipart { .. } => {}
            Body::Inline => {
                self.inline.bodies = self.inline.bodies.saturating_sub(1);
                self.inline.bytes = self.inline.bytes.saturating_sub(size);
            }
            Body::Chunked(body) => self.remove_class(
                BodyClass::of(body),
                Tally {
                    bodies: 1,
                    bytes: body.len,
                },
            ),
        }
    }

    /// Counts what another has counted, but for its open repairs.
    pub fn add_all(&mut self, other: &Usage) {
        self.inline.bodies += other.inline.bodies;
        self.inline.bytes += other.inline.bytes;
        for (class, tally) in &other.chunked {
            self.add_class(*class, *tally);
        }
    }

    /// The opposite of [`add_all`](Self::add_all).
    pub fn remove_all(&mut self, other: &Usage) {
        self.inline.bodies = self.inline.bodies.saturating_sub(other.inline.bodies);
        self.inline.bytes = self.inline.bytes.saturating_sub(other.inline.bytes);
        for (class, tally) in &other.chunked {
            self.remove_class(*class, *tally);
        }
    }

    fn position(&self, class: BodyClass) -> Result<usize, usize> {
        self.chunked
            .binary_search_by_key(&class.order(), |(class, _)| class.order())
    }

    fn add_class(&mut self, class: BodyClass, tally: Tally) {
        match self.position(class) {
            Ok(at) => {
                let own = &mut self.chunked[at].1;
                own.bodies += tally.bodies;
                own.bytes += tally.bytes;
            }
            Err(at) => self.chunked.insert(at, (class, tally)),
        }
    }

    /// State of a version that did not count has bodies that are not in the tally: it stays at nothing.
    fn remove_class(&mut self, class: BodyClass, tally: Tally) {
        if let Ok(at) = self.position(class) {
            let own = &mut self.chunked[at].1;
            own.bodies = own.bodies.saturating_sub(tally.bodies);
            own.bytes = own.bytes.saturating_sub(tally.bytes);
            if own.bodies == 0 {
                self.chunked.remove(at);
            }
        }
    }
}
