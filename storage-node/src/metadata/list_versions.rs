//! Listings of versions: objects and the noncurrent versions of their lanes, merged.

use std::borrow::Cow;

use holdfast_placement::ids::{BucketId, GroupId, Lane};
use holdfast_placement::query::{Ask, States, state_of};
use holdfast_placement::seams::{IndexError, IndexView, Keyspace};
use serde::{Deserialize, Serialize};

use super::list::{
    Fold, LanesState, PartPage, are_to_be_settled, escaped, lanes_state, open_pages, text,
};
use super::merge::Merge;
use super::pages::{SEEKS_ALONE, in_parts, merge_pages};
use super::questions::kind;
use super::record::{VersionId, VersionSummary};
use super::rename::are_renaming;
use super::store::{ListVersions, Metadata, MetadataError, VersionEntry, VersionsPage};
use super::{keys, values};

/// A part of a listing of versions: some of the bucket's lanes merged.
#[derive(Serialize, Deserialize)]
pub struct ListVersionLanes<'a> {
    bucket: BucketId,
    lanes: Vec<(GroupId, Lane)>,
    list: Cow<'a, ListVersions>,
}

impl Ask for ListVersionLanes<'_> {
    const KIND: u8 = kind::LIST_VERSIONS;
    type Answer = PartPage<VersionsPage>;

    async fn run(&self, states: &States) -> Result<Self::Answer, IndexError> {
        let renaming = are_renaming(states, self.bucket, &self.lanes)?;
        let page = self.page(states).await?;
        let is_empty = page.entries.is_empty() && page.common_prefixes.is_empty();
        let lanes = match renaming {
            true => LanesState::Renaming,
            false => lanes_state(states, self.bucket, &self.lanes, is_empty)?,
        };
        Ok(PartPage { page, lanes })
    }
}

/// Where a listing begins, in the order of either key space.
struct Start {
    object: Vec<u8>,
    /// Escaped.
    noncurrent: Vec<u8>,
}

/// The first that can be listed; `None`: there is none.
fn start_of(fold: &Fold<'_>, list: &ListVersions) -> Option<Start> {
    let marker = list.key_marker.as_deref();
    let object = fold.start(marker)?;
    let mut start = Start {
        noncurrent: escaped(&object),
        object,
    };
    let Some(key) = marker.filter(|key| fold.lists(key.as_bytes())) else {
        return Some(start);
    };
    start.noncurrent = escaped(key.as_bytes());
    match list.version_marker {
        // The key's object is looked at again: perhaps the marker was newer.
        Some(version) => {
            start.object = key.as_bytes().to_vec();
            start.noncurrent.extend_from_slice(&[0, 0]);
            start
                .noncurrent
                .extend_from_slice(&keys::newest_first(version));
            start.noncurrent.push(0);
        }
        // Past all versions of the marker's key: those end it with `00 00`.
        None => start.noncurrent.extend_from_slice(&[0, 1]),
    }
    Some(start)
}

impl ListVersionLanes<'_> {
    async fn page(&self, states: &States) -> Result<VersionsPage, IndexError> {
        if let Some(page) = self.read(states, SEEKS_ALONE)? {
            return Ok(page);
        }
        let part = |lanes| {
            let part = ListVersionLanes {
                bucket: self.bucket,
                lanes,
                list: Cow::Owned(self.list.clone().into_owned()),
            };
            let states = states.to_vec();
            move || part.read(&states, usize::MAX)
        };
        in_parts(states, &self.lanes, self.list.max, part).await
    }

    /// The page, unless common prefixes have made so many seeks before it ends.
    fn read(&self, states: &States, seeks_max: usize) -> Result<Option<VersionsPage>, IndexError> {
        let list = &*self.list;
        let mut page = VersionsPage::default();
        let fold = Fold::new(&list.prefix, list.delimiter.as_deref());
        let Some(start) = start_of(&fold, list).filter(|_| list.max > 0) else {
            return Ok(Some(page));
        };
        // One view of each lane: a version that moves is listed once.
        let views = self.lanes.iter().map(|(group, lane)| {
            let view = state_of(states, *group)?.view();
            Ok((view, *group, *lane))
        });
        let views: Vec<_> = views.collect::<Result<_, IndexError>>()?;
        let lanes_of =
            |prefix: &dyn Fn(GroupId, Lane) -> Vec<u8>| -> Vec<(&dyn IndexView, Vec<u8>)> {
                let lanes = views.iter();
                lanes
                    .map(|(view, group, lane)| (&**view, prefix(*group, *lane)))
                    .collect()
            };
        let object_lanes =
            lanes_of(&|group, lane| keys::object_lane(group, self.bucket, lane).to_vec());
        let other_lanes =
            lanes_of(&|group, lane| keys::noncurrent_lane(group, self.bucket, lane).to_vec());
        let end = keys::successor(list.prefix.as_bytes());
        let mut objects = Merge::new(
            Keyspace::Objects,
            &object_lanes,
            &start.object,
            end.as_deref(),
        )?;
        let end = keys::successor(&escaped(list.prefix.as_bytes()));
        let mut others = Merge::new(
            Keyspace::Records,
            &other_lanes,
            &start.noncurrent,
            end.as_deref(),
        )?;

        // The key that is listed, and whether its newest was seen.
        let mut key = Vec::new();
        let mut newest_seen = false;
        let mut other_key = Vec::new();
        if let Some((marker, _)) = list.key_marker.as_ref().zip(list.version_marker) {
            key.extend_from_slice(marker.as_bytes());
            newest_seen = true;
        }
        loop {
            other_key.clear();
            if let Some(other) = others.key() {
                keys::unescape_version(other, &mut other_key)
                    .ok_or_else(|| values::damaged("an object version"))?;
            }
            let has_other = others.key().is_some();
            let object_first = match objects.key() {
                Some(object) => !has_other || object <= &other_key[..],
                None => false,
            };
            let next_key = match objects.key().filter(|_| object_first) {
                Some(object) => object,
                None if has_other => &other_key[..],
                None => break,
            };
            let merge = if object_first { &objects } else { &others };
            let (summary, rest) = values::version_summary(merge.value().unwrap_or_default())?;
            let is_before_marker = object_first && list.is_passed(next_key, &summary);
            let folded = fold.common_prefix(next_key).map(<[u8]>::to_vec);
            if next_key != key {
                key.clear();
                key.extend_from_slice(next_key);
                newest_seen = false;
            }
            if is_before_marker {
                newest_seen = true;
                objects.advance()?;
                continue;
            }
            if page.entries.len() + page.common_prefixes.len() == list.max {
                page.next = last_of(&page);
                break;
            }
            if let Some(folded) = folded {
                objects.skip(&folded)?;
                others.skip(&escaped(&folded))?;
                page.common_prefixes.push(text(&folded)?);
                if objects.seeks() + others.seeks() > seeks_max {
                    return Ok(None);
                }
                continue;
            }
            page.entries.push(VersionEntry {
                key: text(&key)?,
                summary,
                class: values::storage_class(rest)?,
                // An object that is the newest has its place, also where the page begins after a version that is gone.
                latest: object_first || !newest_seen,
            });
            newest_seen = true;
            match object_first {
                true => objects.advance()?,
                false => others.advance()?,
            }
        }
        Ok(Some(page))
    }
}

impl ListVersions {
    /// Whether the object is the marker's version or newer.
    fn is_passed(&self, key: &[u8], summary: &VersionSummary) -> bool {
        match (&self.key_marker, self.version_marker) {
            (Some(marker), Some(version)) => key == marker.as_bytes() && summary.version >= version,
            _ => false,
        }
    }
}

/// Where the page ends.
fn last_of(page: &VersionsPage) -> Option<(String, Option<VersionId>)> {
    let entry = page.entries.last();
    let entry = entry.map(|entry| (entry.key.clone(), Some(entry.summary.version)));
    let prefix = page
        .common_prefixes
        .last()
        .map(|prefix| (prefix.clone(), None));
    match (entry, prefix) {
        (Some(entry), Some(prefix)) if entry.0 < prefix.0 => Some(prefix),
        (entry, prefix) => entry.or(prefix),
    }
}

impl Metadata {
    /// A page of the bucket's versions and delete markers, by key, then newest first: the bucket's lanes merged. Keys are
    /// folded into common prefixes as in [`Metadata::list`].
    pub async fn list_versions(
        &self,
        bucket: BucketId,
        list: &ListVersions,
    ) -> Result<VersionsPage, MetadataError> {
        let question = |lanes| ListVersionLanes {
            bucket,
            lanes,
            list: Cow::Borrowed(list),
        };
        let mut pages = self.parts_of_versions(bucket, question).await?;
        if are_to_be_settled(&pages) {
            self.settle_renames(bucket).await?;
            pages = self.parts_of_versions(bucket, question).await?;
        }
        Ok(merge_pages(open_pages(pages)?, list.max))
    }
}
