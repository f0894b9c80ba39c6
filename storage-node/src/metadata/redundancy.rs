//! What is to be made whole: shards that writes have missed, and bodies that are protected less than the cluster can.

use std::borrow::Cow;

use holdfast_placement::ids::{BucketId, ChunkSetId, GroupId, Lane, UploadId};
use holdfast_placement::query::{Ask, States, state_of};
use holdfast_placement::seams::{Index, IndexError, IndexView, Keyspace};
use serde::{Deserialize, Serialize};

use super::command::{Address, Command, Outcome, Refusal, encode_missed};
use super::keys;
use super::questions::kind;
use super::record::{Body, ChunkedBody, MissedSlot, PartRecord, UploadRecord, VersionId};
use super::store::{Metadata, MetadataError, strange};
use super::usage::Usage;
use super::values::{self, PartPage};
use crate::repair::Floor;

/// Versions and uploads that are looked at for one answer.
const LOOKED_AT_MAX: usize = 4096;

/// A shard that a write missed. Orders by set, and sets by the time they were begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RepairId {
    pub set: ChunkSetId,
    pub chunk: u32,
    pub slot: u8,
}

/// A shard that a write missed and that is still to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRepair {
    pub id: RepairId,
    pub body: ChunkedBody,
}

/// Where at a key a body is named. In commands: the order of variants and fields is persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum BodyPlace {
    /// It is the newest version's.
    Version,
    /// A part of an open upload.
    Part { upload: UploadId, number: u16 },
    /// A part of the newest version, in the page of its table that ends at this offset and this part.
    Table {
        table: UploadId,
        end: u64,
        last: u16,
        number: u16,
    },
    /// It is that version's, which was not the newest.
    Noncurrent { version: VersionId },
    /// As `Table`, of that version.
    NoncurrentTable {
        version: VersionId,
        table: UploadId,
        end: u64,
        last: u16,
        number: u16,
    },
}

/// A body and where it is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedBody {
    pub bucket: BucketId,
    pub lane: Lane,
    pub key: String,
    pub place: BodyPlace,
    pub body: ChunkedBody,
}

/// How far a walk over a group's bodies has come: newest versions first, then the others, then open uploads; the default
/// is its beginning. A version that meanwhile moves back to be the newest may be missed, and is met by the next walk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seen {
    /// All uploads, and newest versions up to this key of the state; empty: none.
    Versions(Vec<u8>),
    /// Uploads up to this key; empty: none.
    Uploads(Vec<u8>),
    /// All uploads and newest versions, and others up to this key; empty: none.
    Noncurrent(Vec<u8>),
}

impl Default for Seen {
    /// Nothing. A walk goes over uploads first: when one is completed meanwhile, its parts come to where the walk has not
    /// been yet.
    fn default() -> Self {
        Seen::Uploads(Vec::new())
    }
}

impl Seen {
    /// Where a walk goes on that is here, if a step says `next`. (Who answers goes over uploads last.)
    pub(super) fn then(&self, next: Option<Seen>) -> Option<Seen> {
        match (self, next) {
            (Seen::Uploads(_), None) => Some(Seen::Versions(Vec::new())),
            (Seen::Noncurrent(_), Some(Seen::Uploads(_))) => None,
            (_, next) => next,
        }
    }
}

/// Some bodies of a group, and where to go on; `None` at the end. A step may find nothing and still not be the last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedBodies {
    pub bodies: Vec<PlacedBody>,
    pub next: Option<Seen>,
}

impl Metadata {
    /// Shards that writes to the group have missed, those of the oldest bodies first, at most `max`, greater than
    /// `after`.
    pub async fn repairs(
        &self,
        group: GroupId,
        after: Option<RepairId>,
        max: usize,
    ) -> Result<Vec<OpenRepair>, MetadataError> {
        let question = FindRepairs { group, after, max };
        Ok(self.asker.ask(group, &question).await?)
    }

    /// Forgets missed shards that are there now, or whose body is gone.
    pub async fn repaired(&self, group: GroupId, ids: Vec<RepairId>) -> Result<(), MetadataError> {
        let command = Command::Repaired { ids };
        match self.decide(group, &command, &[]).await?.1 {
            Outcome::Done => Ok(()),
            other => Err(strange(&other)),
        }
    }

    /// What the group holds.
    pub async fn usage(&self, group: GroupId) -> Result<Usage, MetadataError> {
        Ok(self.asker.ask(group, &FindUsage { group }).await?)
    }

    /// Bodies of the group that are below the floor, from where an earlier step ended. A step looks at a few thousand
    /// records and ends at `max` bodies, or a little beyond: the parts of an object come together.
    pub async fn bodies_below(
        &self,
        group: GroupId,
        floor: &Floor,
        after: Seen,
        max: usize,
    ) -> Result<PlacedBodies, MetadataError> {
        let question = FindBodiesBelow {
            group,
            floor: Cow::Borrowed(floor),
            after: after.clone(),
            max,
        };
        let found = self.asker.ask(group, &question).await?;
        Ok(PlacedBodies {
            next: after.then(found.next),
            ..found
        })
    }

    /// Names `new` where `old` is named, in one change that clients do not see; `missed` are the shards of `new` that
    /// are still to be made. `false`: `old` is not named there any more, and nothing happened.
    pub async fn replace_body(
        &self,
        group: GroupId,
        old: &PlacedBody,
        new: ChunkedBody,
        missed: &[MissedSlot],
    ) -> Result<bool, MetadataError> {
        let command = Command::ReplaceBody {
            at: Address {
                bucket: old.bucket,
                lane: old.lane,
                key: &old.key,
            },
            place: old.place,
            old: old.body.set,
            new,
        };
        let missed = encode_missed(missed).map_err(values::unencodable)?;
        match self.decide(group, &command, &missed).await?.1 {
            Outcome::Done => Ok(true),
            Outcome::Refused(Refusal::BodyChanged) => Ok(false),
            other => Err(strange(&other)),
        }
    }
}

/// See [`Metadata::repairs`].
#[derive(Serialize, Deserialize)]
pub struct FindRepairs {
    group: GroupId,
    after: Option<RepairId>,
    max: usize,
}

impl Ask for FindRepairs {
    const KIND: u8 = kind::REPAIRS;
    type Answer = Vec<OpenRepair>;

    async fn run(&self, states: &States) -> Result<Self::Answer, IndexError> {
        let state = state_of(states, self.group)?;
        let all = keys::repairs(self.group);
        let end = keys::successor(&all).unwrap_or_default();
        let from = match self.after {
            // The least key that is greater.
            Some(after) => [&keys::repair(self.group, after)[..], &[0]].concat(),
            None => all,
        };
        let mut cursor = state.cursor(Keyspace::Records, &from, &end)?;
        cursor.seek(&from)?;
        let mut found = Vec::new();
        while let Some((key, value)) = cursor.entry()
            && found.len() < self.max
        {
            found.push(OpenRepair {
                id: keys::parse_repair(key).ok_or_else(|| values::damaged("a missed shard"))?,
                body: values::decode(value, "a missed shard")?,
            });
            cursor.next()?;
        }
        Ok(found)
    }
}

/// See [`Metadata::usage`].
#[derive(Serialize, Deserialize)]
pub struct FindUsage {
    group: GroupId,
}

impl Ask for FindUsage {
    const KIND: u8 = kind::USAGE;
    type Answer = Usage;

    async fn run(&self, states: &States) -> Result<Self::Answer, IndexError> {
        let state = state_of(states, self.group)?;
        match state.get(Keyspace::Records, &keys::usage(self.group))? {
            Some(value) => values::decode(&value, "what the group holds"),
            None => Ok(Usage::default()),
        }
    }
}

/// See [`Metadata::bodies_below`].
#[derive(Serialize, Deserialize)]
pub struct FindBodiesBelow<'a> {
    group: GroupId,
    floor: Cow<'a, Floor>,
    after: Seen,
    max: usize,
}

impl Ask for FindBodiesBelow<'_> {
    const KIND: u8 = kind::BODIES_BELOW;
    type Answer = PlacedBodies;

    async fn run(&self, states: &States) -> Result<Self::Answer, IndexError> {
        let state = state_of(states, self.group)?;
        let is_below = |body: &ChunkedBody| self.floor.is_weaker(body);
        step(&**state, self.group, &is_below, &self.after, self.max)
    }
}

/// A step of a walk over a group's bodies: those that `is_wanted` says, from where an earlier step ended.
pub(super) fn step(
    state: &dyn Index,
    group: GroupId,
    is_wanted: &dyn Fn(&ChunkedBody) -> bool,
    after: &Seen,
    max: usize,
) -> Result<PlacedBodies, IndexError> {
    // One view: a version and its parts go together.
    let view = state.view();
    let mut walk = Walk {
        view: &*view,
        group,
        is_wanted,
        max,
        looked_at: 0,
        found: Vec::new(),
    };
    let next = match after {
        Seen::Versions(after) => match walk.versions(after)? {
            Some(last) => Some(Seen::Versions(last)),
            None => Some(Seen::Noncurrent(Vec::new())),
        },
        Seen::Noncurrent(after) => match walk.noncurrent(after)? {
            Some(last) => Some(Seen::Noncurrent(last)),
            None => Some(Seen::Uploads(Vec::new())),
        },
        Seen::Uploads(after) => walk.uploads(after)?.map(Seen::Uploads),
    };
    Ok(PlacedBodies {
        bodies: walk.found,
        next,
    })
}

/// A step of a walk over a group's bodies.
struct Walk<'a> {
    view: &'a dyn IndexView,
    group: GroupId,
    is_wanted: &'a dyn Fn(&ChunkedBody) -> bool,
    max: usize,
    looked_at: usize,
    found: Vec<PlacedBody>,
}

impl Walk<'_> {
    fn is_over(&self) -> bool {
        self.found.len() >= self.max || self.looked_at >= LOOKED_AT_MAX
    }

    /// Goes through newest versions with keys greater than `after`; gives the last key if there are more.
    fn versions(&mut self, after: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        let all = self.group.0.to_be_bytes();
        self.entries(Keyspace::Objects, &all, after, |walk, key, value| {
            let damaged = || values::damaged("an object version");
            let (bucket, lane, name) = keys::parse_object(key).ok_or_else(damaged)?;
            let at = At { bucket, lane, name };
            match values::version_body(value)?.1 {
                Body::Chunked(body) => walk.look_at(at, BodyPlace::Version, body),
                Body::Multipart { table, .. } => walk.table(at, None, table)?,
                Body::Empty | Body::Inline => {}
            }
            Ok(())
        })
    }

    /// The same of the other versions.
    fn noncurrent(&mut self, after: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        let all = keys::all_noncurrent(self.group);
        self.entries(Keyspace::Records, &all, after, |walk, key, value| {
            let damaged = || values::damaged("an object version");
            let (bucket, lane) = keys::parse_upload_lane(key).ok_or_else(damaged)?;
            let mut name = Vec::new();
            let escaped = key.get(keys::UPLOAD_PREFIX_LEN..).unwrap_or_default();
            let version = keys::unescape_version(escaped, &mut name).ok_or_else(damaged)?;
            let name = std::str::from_utf8(&name).map_err(|_| damaged())?;
            let at = At { bucket, lane, name };
            match values::version_body(value)?.1 {
                Body::Chunked(body) => walk.look_at(at, BodyPlace::Noncurrent { version }, body),
                Body::Multipart { table, .. } => walk.table(at, Some(version), table)?,
                Body::Empty | Body::Inline => {}
            }
            Ok(())
        })
    }

    fn table(
        &mut self,
        at: At<'_>,
        noncurrent: Option<VersionId>,
        table: UploadId,
    ) -> Result<(), IndexError> {
        let pages = keys::pages(self.group, table);
        self.each(&pages, |walk, value| {
            let page: PartPage = values::decode(value, "a part table")?;
            let sizes = page.parts.iter().map(|part| part.size);
            let end = sizes.fold(page.offset, u64::saturating_add);
            let last = page.parts.last().map_or(0, |part| part.number);
            for part in page.parts {
                if let Body::Chunked(body) = part.body {
                    let number = part.number;
                    let place = match noncurrent {
                        None => BodyPlace::Table {
                            table,
                            end,
                            last,
                            number,
                        },
                        Some(version) => BodyPlace::NoncurrentTable {
                            version,
                            table,
                            end,
                            last,
                            number,
                        },
                    };
                    walk.look_at(at, place, body);
                }
            }
            Ok(())
        })
    }

    /// Goes through uploads with keys greater than `after`; gives the last key if there are more.
    fn uploads(&mut self, after: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        let all = keys::all_uploads(self.group);
        self.entries(Keyspace::Records, &all, after, |walk, key, value| {
            let record: UploadRecord = values::decode(value, "an upload")?;
            let damaged = || values::damaged("an upload");
            let (bucket, lane) = keys::parse_upload_lane(key).ok_or_else(damaged)?;
            let at = At {
                bucket,
                lane,
                name: &record.key,
            };
            let upload = record.upload;
            walk.each(&keys::parts(walk.group, upload), |walk, value| {
                let part: PartRecord = values::decode(value, "a part")?;
                if let Body::Chunked(body) = part.body {
                    let number = part.number;
                    walk.look_at(at, BodyPlace::Part { upload, number }, body);
                }
                Ok(())
            })
        })
    }

    fn look_at(&mut self, at: At<'_>, place: BodyPlace, body: ChunkedBody) {
        if (self.is_wanted)(&body) {
            self.found.push(PlacedBody {
                bucket: at.bucket,
                lane: at.lane,
                key: at.name.to_owned(),
                place,
                body,
            });
        }
    }

    /// Visits entries that begin with `prefix` and are greater than `after`, until the step is over; gives the last
    /// key if there are more.
    fn entries(
        &mut self,
        space: Keyspace,
        prefix: &[u8],
        after: &[u8],
        mut visit: impl FnMut(&mut Self, &[u8], &[u8]) -> Result<(), IndexError>,
    ) -> Result<Option<Vec<u8>>, IndexError> {
        let end = keys::successor(prefix).unwrap_or_default();
        let from = match after {
            [] => prefix.to_vec(),
            after => [after, &[0]].concat(),
        };
        let view = self.view;
        let mut cursor = view.scan(space, &from, &end)?;
        cursor.seek(&from)?;
        while let Some((key, value)) = cursor.entry() {
            visit(self, key, value)?;
            self.looked_at += 1;
            if self.is_over() {
                return Ok(Some(key.to_vec()));
            }
            cursor.next()?;
        }
        Ok(None)
    }

    fn each(
        &mut self,
        prefix: &[u8],
        mut visit: impl FnMut(&mut Self, &[u8]) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let end = keys::successor(prefix).unwrap_or_default();
        let view = self.view;
        let mut cursor = view.scan(Keyspace::Records, prefix, &end)?;
        cursor.seek(prefix)?;
        while let Some((_, value)) = cursor.entry() {
            visit(self, value)?;
            self.looked_at += 1;
            cursor.next()?;
        }
        Ok(())
    }
}

/// A key.
#[derive(Clone, Copy)]
struct At<'a> {
    bucket: BucketId,
    lane: Lane,
    name: &'a str,
}
