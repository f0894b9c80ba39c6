//! What is asked about uploads and about the parts that objects were made of.

use std::ops::Range;

use holdfast_placement::ids::UploadId;
use holdfast_placement::query::{Ask, States, state_of};
use holdfast_placement::seams::{IndexError, Keyspace};
use serde::{Deserialize, Serialize};

use super::keys;
use super::questions::{InBucket, kind};
use super::record::{PartRecord, UploadRecord, VersionSummary};
use super::store::{ListParts, PartsPage, Place};
use super::values::{self, CompletedUpload, PartPage};

/// See [`super::Metadata::upload`].
#[derive(Serialize, Deserialize)]
pub struct FindUpload<'a> {
    #[serde(borrow)]
    pub at: Place<'a>,
    pub upload: UploadId,
}

impl Ask for FindUpload<'_> {
    const KIND: u8 = kind::UPLOAD;
    type Answer = InBucket<Option<UploadRecord>>;

    async fn run(&self, states: &States) -> Result<Self::Answer, IndexError> {
        let state = state_of(states, self.at.group)?;
        match state.get(Keyspace::Records, &self.at.upload_key(self.upload))? {
            Some(value) => Ok(Ok(Some(values::decode(&value, "an upload")?))),
            None => self.at.nothing(&**state),
        }
    }
}

/// See [`super::Metadata::list_parts`].
#[derive(Serialize, Deserialize)]
pub struct FindParts<'a> {
    #[serde(borrow)]
    pub at: Place<'a>,
    pub list: ListParts,
}

impl Ask for FindParts<'_> {
    const KIND: u8 = kind::LIST_PARTS;
    type Answer = InBucket<Option<PartsPage>>;

    async fn run(&self, states: &States) -> Result<Self::Answer, IndexError> {
        let FindParts { at, list } = self;
        let state = state_of(states, at.group)?;
        // One view, so that the parts are those of an upload that is still there.
        let view = state.view();
        let Some(value) = view.get(Keyspace::Records, &at.upload_key(list.upload))? else {
            return at.nothing(&**state);
        };
        let mut page = PartsPage {
            upload: values::decode(&value, "an upload")?,
            parts: Vec::new(),
            truncated: false,
        };
        let Some(first) = list.after.checked_add(1).filter(|_| list.max > 0) else {
            return Ok(Ok(Some(page)));
        };
        let from = keys::part(at.group, list.upload, first);
        let to = keys::successor(&keys::parts(at.group, list.upload)).unwrap_or_default();
        let mut cursor = view.cursor(Keyspace::Records, &from, &to)?;
        cursor.seek(&from)?;
        while let Some((_, value)) = cursor.entry() {
            if page.parts.len() == list.max {
                page.truncated = true;
                break;
            }
            page.parts.push(values::decode(value, "a part")?);
            cursor.next()?;
        }
        Ok(Ok(Some(page)))
    }
}

/// See [`super::Metadata::completed`].
#[derive(Serialize, Deserialize)]
pub struct Completed<'a> {
    #[serde(borrow)]
    pub at: Place<'a>,
    pub upload: UploadId,
}

impl Ask for Completed<'_> {
    const KIND: u8 = kind::COMPLETED;
    type Answer = InBucket<Option<VersionSummary>>;

    async fn run(&self, states: &States) -> Result<Self::Answer, IndexError> {
        let state = state_of(states, self.at.group)?;
        let record = keys::completed(self.at.group, self.upload);
        let Some(value) = state.get(Keyspace::Records, &record)? else {
            return self.at.nothing(&**state);
        };
        let completed: CompletedUpload = values::decode(&value, "a completed upload")?;
        let at = self.at.address;
        let same = completed.bucket == at.bucket && completed.key == at.key;
        Ok(Ok(same.then_some(completed.summary)))
    }
}

/// Parts, each with its offset in the object.
type PlacedParts = Vec<(u64, PartRecord)>;

/// See [`super::Metadata::parts_in_range`].
#[derive(Serialize, Deserialize)]
pub struct PartsInRange<'a> {
    #[serde(borrow)]
    pub at: Place<'a>,
    pub table: UploadId,
    pub range: Range<u64>,
}

impl Ask for PartsInRange<'_> {
    const KIND: u8 = kind::PARTS_IN_RANGE;
    type Answer = PlacedParts;

    async fn run(&self, states: &States) -> Result<PlacedParts, IndexError> {
        let group = self.at.group;
        let range = &self.range;
        let state = state_of(states, group)?;
        let from = keys::page(group, self.table, range.start.saturating_add(1), 0);
        let to = keys::successor(&keys::pages(group, self.table)).unwrap_or_default();
        let mut cursor = state.cursor(Keyspace::Records, &from, &to)?;
        cursor.seek(&from)?;
        let mut found = Vec::new();
        while let Some((_, value)) = cursor.entry() {
            let page: PartPage = values::decode(value, "a part table")?;
            if page.offset >= range.end {
                break;
            }
            let parts = placed(page).filter(|(offset, part)| {
                *offset < range.end && offset.saturating_add(part.size) > range.start
            });
            found.extend(parts);
            cursor.next()?;
        }
        Ok(found)
    }
}

/// See [`super::Metadata::parts_after`].
#[derive(Serialize, Deserialize)]
pub struct PartsAfter<'a> {
    #[serde(borrow)]
    pub at: Place<'a>,
    pub table: UploadId,
    pub after: u16,
    pub max: usize,
}

impl Ask for PartsAfter<'_> {
    const KIND: u8 = kind::PARTS_AFTER;
    type Answer = PlacedParts;

    async fn run(&self, states: &States) -> Result<PlacedParts, IndexError> {
        let state = state_of(states, self.at.group)?;
        let from = keys::pages(self.at.group, self.table);
        let to = keys::successor(&from).unwrap_or_default();
        let mut cursor = state.cursor(Keyspace::Records, &from, &to)?;
        cursor.seek(&from)?;
        let mut found = Vec::new();
        while let Some((page_key, value)) = cursor.entry() {
            let last = keys::page_last(page_key).ok_or_else(|| values::damaged("a part table"))?;
            if last > self.after {
                let page: PartPage = values::decode(value, "a part table")?;
                let room = self.max - found.len();
                found.extend(
                    placed(page)
                        .filter(|(_, part)| part.number > self.after)
                        .take(room),
                );
                if found.len() == self.max {
                    break;
                }
            }
            cursor.next()?;
        }
        Ok(found)
    }
}

/// The parts of a page, each with its offset in the object.
fn placed(page: PartPage) -> impl Iterator<Item = (u64, PartRecord)> {
    page.parts.into_iter().scan(page.offset, |next, part| {
        let offset = *next;
        *next = next.saturating_add(part.size);
        Some((offset, part))
    })
}
