//! Which chunk sets a group refers to.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use holdfast_placement::ids::{ChunkSetId, GroupId};
use holdfast_placement::query::{Ask, States, state_of};
use holdfast_placement::seams::{Index, IndexError, Keyspace, blocking};
use serde::{Deserialize, Serialize};

use super::apply_rename::Left;
use super::keys;
use super::questions::kind;
use super::record::{Body, PartRecord};
use super::store::{Metadata, MetadataError};
use super::values::{self, PartPage};
use crate::repair::reclaim::Entry;

/// Suspects of one question, at most: 1 MiB.
const SUSPECTS_A_QUESTION: usize = 65_536;

/// Records that are looked at for one question, at most: a few tenths of a second.
const RECORDS_A_QUESTION: usize = 100_000;

impl Metadata {
    /// Takes away from `suspects` the chunk sets that a version, a part or the reclaim queue of the group refers to,
    /// and have done so since before the call. Looks at every record of the group; one that cannot be read is an error.
    pub async fn clear_referenced(
        &self,
        group: GroupId,
        mut suspects: HashSet<ChunkSetId>,
    ) -> Result<HashSet<ChunkSetId>, MetadataError> {
        let all: Vec<ChunkSetId> = suspects.iter().copied().collect();
        for some in all.chunks(SUSPECTS_A_QUESTION) {
            let mut search = Search::default();
            while let Some((region, from)) = search.at.take() {
                let question = FindReferenced {
                    group,
                    suspects: Cow::Borrowed(some),
                    region,
                    from,
                    records_max: RECORDS_A_QUESTION,
                };
                let found = self.asker.ask(group, &question).await?;
                for set in &found.sets {
                    suspects.remove(set);
                }
                search.take(found);
            }
            if search.given_up {
                // Not known, so referred to.
                some.iter().for_each(|set| {
                    suspects.remove(set);
                });
            }
        }
        Ok(suspects)
    }
}

/// How far the records of a group were looked through.
struct Search {
    /// Where to go on; `None` at the end.
    at: Option<(Region, Vec<u8>)>,
    /// How often a version had come back to be the newest when this look began.
    promotions: Option<u64>,
    restarts: u32,
    /// Versions come back all the time: what was not found may be there.
    given_up: bool,
}

impl Default for Search {
    fn default() -> Self {
        Self {
            at: Some((Region::Objects, Vec::new())),
            promotions: None,
            restarts: 0,
            given_up: false,
        }
    }
}

impl Search {
    fn take(&mut self, found: Referenced) {
        self.at = found.next;
        let began = *self.promotions.get_or_insert(found.promotions.start);
        if began == found.promotions.end {
            return;
        }
        self.restarts += 1;
        self.given_up = self.restarts > RESTARTS_MAX;
        self.promotions = None;
        self.at = (!self.given_up).then(|| (Region::Objects, Vec::new()));
    }
}

/// How often the records of a group are looked at anew because a version came back to be the newest.
const RESTARTS_MAX: u32 = 3;

/// Where a group has records that refer to chunk sets, in the order in which they are looked at.
///
/// A reference that moves while questions are asked moves forward in this order and to a later key: a version's body
/// and a part go onto the end of the reclaim queue, a part into a part table, and the newest version among the others. So
/// one that was there from the start is met, though each question sees another state. Only a version that becomes the
/// newest again, or is renamed within the group, may move back: then all is looked at once more. What is renamed to another
/// group is named by `RenamedAway`, which is looked at last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Region {
    Objects,
    Parts,
    PartTables,
    ReclaimQueue,
    /// Looked at after `Objects`.
    Noncurrent,
    /// What was renamed to other groups not long ago: they have it now, but may have been looked at before.
    RenamedAway,
}

impl Region {
    fn next(self) -> Option<Self> {
        match self {
            Self::Objects => Some(Self::Noncurrent),
            Self::Noncurrent => Some(Self::Parts),
            Self::Parts => Some(Self::PartTables),
            Self::PartTables => Some(Self::ReclaimQueue),
            Self::ReclaimQueue => Some(Self::RenamedAway),
            Self::RenamedAway => None,
        }
    }

    fn space(self) -> Keyspace {
        match self {
            Self::Objects => Keyspace::Objects,
            Self::Noncurrent
            | Self::Parts
            | Self::PartTables
            | Self::ReclaimQueue
            | Self::RenamedAway => Keyspace::Records,
        }
    }

    /// What its keys begin with.
    fn prefix(self, group: GroupId) -> Vec<u8> {
        match self {
            Self::Objects => group.0.to_be_bytes().to_vec(),
            Self::Noncurrent => keys::all_noncurrent(group),
            Self::Parts => keys::all_parts(group),
            Self::PartTables => keys::all_pages(group),
            Self::ReclaimQueue => keys::reclaims(group),
            Self::RenamedAway => keys::renames_left(group),
        }
    }

    /// Visits the bodies that a record refers to.
    fn bodies(self, value: &[u8], visit: &mut impl FnMut(ChunkSetId)) -> Result<(), IndexError> {
        if self == Self::RenamedAway {
            let left: Left = values::decode(value, "a rename")?;
            left.sets.into_iter().for_each(visit);
            return Ok(());
        }
        let mut visit = |body: &Body| {
            if let Body::Chunked(body) = body {
                visit(body.set);
            }
        };
        match self {
            Self::RenamedAway => {}
            Self::Objects | Self::Noncurrent => visit(&values::version_body(value)?.1),
            Self::Parts => visit(&values::decode::<PartRecord>(value, "a part")?.body),
            Self::PartTables => {
                let page: PartPage = values::decode(value, "a part table")?;
                page.parts.iter().for_each(|part| visit(&part.body));
            }
            // Tables and parts that wait have their records still.
            Self::ReclaimQueue => {
                if let Entry::Body(body) = values::decode(value, "the reclaim queue")? {
                    visit(&Body::Chunked(body));
                }
            }
        }
        Ok(())
    }
}

/// Which of the suspects some of the group's records refer to.
#[derive(Clone, Serialize, Deserialize)]
pub struct FindReferenced<'a> {
    group: GroupId,
    suspects: Cow<'a, [ChunkSetId]>,
    /// Where to begin: the region and, unless at its beginning, the first key.
    region: Region,
    from: Vec<u8>,
    records_max: usize,
}

/// Suspects that are referred to, and where to go on, if there are more records.
#[derive(Serialize, Deserialize)]
pub struct Referenced {
    sets: Vec<ChunkSetId>,
    next: Option<(Region, Vec<u8>)>,
    /// How often a version of the group has come back to be the newest, before and after the records were looked at.
    promotions: Range<u64>,
}

impl Ask for FindReferenced<'_> {
    const KIND: u8 = kind::REFERENCED;
    type Answer = Referenced;

    async fn run(&self, states: &States) -> Result<Referenced, IndexError> {
        let state = state_of(states, self.group)?.clone();
        let question = FindReferenced {
            suspects: Cow::Owned(self.suspects.to_vec()),
            from: self.from.clone(),
            ..*self
        };
        // Not on a thread that serves requests.
        let found = blocking(move || question.find(&*state));
        match found.await {
            Ok(found) => found,
            Err(error) => Err(IndexError::Io(error.to_string())),
        }
    }
}

impl FindReferenced<'_> {
    fn find(&self, state: &dyn Index) -> Result<Referenced, IndexError> {
        let before = self.promotions(state)?;
        let suspects: HashSet<ChunkSetId> = self.suspects.iter().copied().collect();
        let mut sets = HashSet::new();
        let mut records = 0;
        let mut region = self.region;
        let mut from = self.from.clone();
        loop {
            let prefix = region.prefix(self.group);
            let end = keys::successor(&prefix).unwrap_or_default();
            from = from.max(prefix);
            let mut cursor = state.scan(region.space(), &from, &end)?;
            cursor.seek(&from)?;
            while let Some((key, value)) = cursor.entry() {
                if records == self.records_max.max(1) {
                    let next = Some((region, key.to_vec()));
                    return self.answer(state, before, sets, next);
                }
                records += 1;
                region.bodies(value, &mut |set| {
                    if suspects.contains(&set) {
                        sets.insert(set);
                    }
                })?;
                cursor.next()?;
            }
            from.clear();
            match region.next() {
                Some(next) => region = next,
                None => return self.answer(state, before, sets, None),
            }
        }
    }

    fn promotions(&self, state: &dyn Index) -> Result<u64, IndexError> {
        match state.get(Keyspace::Records, &keys::promotions(self.group))? {
            Some(value) => values::decode(&value, "promotions"),
            None => Ok(0),
        }
    }

    fn answer(
        &self,
        state: &dyn Index,
        before: u64,
        sets: HashSet<ChunkSetId>,
        next: Option<(Region, Vec<u8>)>,
    ) -> Result<Referenced, IndexError> {
        Ok(Referenced {
            sets: sets.into_iter().collect(),
            next,
            promotions: before..self.promotions(state)?,
        })
    }
}
