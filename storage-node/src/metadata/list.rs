//! Listings of objects and of uploads.

use std::borrow::Cow;

use holdfast_placement::ids::{BucketId, GroupId, Lane};
use holdfast_placement::query::{Ask, States, state_of};
use holdfast_placement::seams::{IndexError, IndexView, Keyspace};
use memchr::memmem::Finder;
use serde::{Deserialize, Serialize};

use super::merge::Merge;
use super::pages::{SEEKS_ALONE, in_parts, merge_pages};
use super::questions::{NotNow, is_closed, kind};
use super::rename::are_renaming;
use super::store::{
    ListEntry, ListObjects, ListPage, ListUploads, Metadata, MetadataError, UploadsPage,
};
use super::{keys, values};

/// Entries that room is made for at once, at most.
const RESERVED_MAX: usize = 1000;

/// A part of a listing: some of the bucket's lanes merged.
#[derive(Serialize, Deserialize)]
pub struct ListLanes<'a> {
    bucket: BucketId,
    lanes: Vec<(GroupId, Lane)>,
    list: Cow<'a, ListObjects>,
}

/// A part of an upload listing.
#[derive(Serialize, Deserialize)]
pub struct ListUploadLanes<'a> {
    bucket: BucketId,
    lanes: Vec<(GroupId, Lane)>,
    list: Cow<'a, ListUploads>,
}

/// The page of a part, and what is to be known of its lanes.
#[derive(Serialize, Deserialize)]
pub struct PartPage<P> {
    pub page: P,
    pub lanes: LanesState,
}

/// The state of the lanes of a listing's part. On the wire: the order of variants is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LanesState {
    Open,
    /// All are closed; looked at only where the page is empty.
    Closed,
    /// Before the page was read, keys were being renamed to those of other groups: perhaps they were so already, and should
    /// not be on it.
    Renaming,
}

impl Ask for ListLanes<'_> {
    const KIND: u8 = kind::LIST;
    type Answer = PartPage<ListPage>;

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

impl ListLanes<'_> {
    async fn page(&self, states: &States) -> Result<ListPage, IndexError> {
        if let Some(page) = self.read(states, SEEKS_ALONE)? {
            return Ok(page);
        }
        let part = |lanes| {
            let part = ListLanes {
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
    fn read(&self, states: &States, seeks_max: usize) -> Result<Option<ListPage>, IndexError> {
        let list = &*self.list;
        let mut page = ListPage::default();
        let fold = Fold::new(&list.prefix, list.delimiter.as_deref());
        let start = fold.start(list.after.as_deref());
        let Some(start) = start.filter(|_| list.max > 0) else {
            return Ok(Some(page));
        };
        let lanes = lane_views(states, &self.lanes, |group, lane| {
            keys::object_lane(group, self.bucket, lane).to_vec()
        })?;
        let end = keys::successor(list.prefix.as_bytes());
        let mut merge = Merge::new(Keyspace::Objects, &lanes, &start, end.as_deref())?;
        let mut count = 0;
        let mut common = Vec::new();
        while let Some(key) = merge.key() {
            let folded = fold.common_prefix(key);
            if count == list.max {
                page.next = match (page.entries.last(), page.common_prefixes.last()) {
                    (Some(entry), Some(common)) => Some(entry.key.as_str().max(common).to_owned()),
                    (Some(entry), None) => Some(entry.key.clone()),
                    (None, common) => common.cloned(),
                };
                break;
            }
            count += 1;
            if let Some(folded) = folded {
                common.clear();
                common.extend_from_slice(folded);
                page.common_prefixes.push(text(folded)?);
                merge.skip(&common)?;
                if merge.seeks() > seeks_max {
                    return Ok(None);
                }
            } else {
                if page.entries.is_empty() {
                    page.entries.reserve(list.max.min(RESERVED_MAX));
                }
                let value = merge.value().unwrap_or_default();
                let (summary, rest) = values::version_summary(value)?;
                let class = values::storage_class(rest)?;
                let key = text(key)?;
                page.entries.push(ListEntry {
                    key,
                    summary,
                    class,
                });
                merge.advance()?;
            }
        }
        Ok(Some(page))
    }
}

impl Ask for ListUploadLanes<'_> {
    const KIND: u8 = kind::LIST_UPLOADS;
    type Answer = PartPage<UploadsPage>;

    async fn run(&self, states: &States) -> Result<Self::Answer, IndexError> {
        let page = self.page(states)?;
        let is_empty = page.uploads.is_empty() && page.common_prefixes.is_empty();
        let lanes = lanes_state(states, self.bucket, &self.lanes, is_empty)?;
        Ok(PartPage { page, lanes })
    }
}

impl ListUploadLanes<'_> {
    fn page(&self, states: &States) -> Result<UploadsPage, IndexError> {
        let list = &*self.list;
        let mut page = UploadsPage::default();
        let fold = Fold::new(&list.prefix, list.delimiter.as_deref());
        let Some(start) = upload_start(&fold, list).filter(|_| list.max > 0) else {
            return Ok(page);
        };
        let lanes = lane_views(states, &self.lanes, |group, lane| {
            keys::upload_lane(group, self.bucket, lane).to_vec()
        })?;
        let end = keys::successor(&escaped(list.prefix.as_bytes()));
        let mut merge = Merge::new(Keyspace::Records, &lanes, &start, end.as_deref())?;
        let mut last = None;
        let mut key = Vec::new();
        while let Some(upload_key) = merge.key() {
            if page.uploads.len() + page.common_prefixes.len() == list.max {
                page.next = last;
                break;
            }
            let upload = keys::unescape(upload_key, &mut key);
            let upload = upload.ok_or_else(|| values::damaged("an upload"))?;
            if let Some(folded) = fold.common_prefix(&key) {
                let common = text(folded)?;
                merge.skip(&escaped(folded))?;
                last = Some((common.clone(), None));
                page.common_prefixes.push(common);
            } else {
                let value = merge.value().unwrap_or_default();
                page.uploads.push(values::decode(value, "an upload")?);
                last = Some((text(&key)?, Some(upload)));
                merge.advance()?;
            }
        }
        Ok(page)
    }
}

/// A lane: the state that it is read from and what its keys begin with.
type LaneView<'s> = (&'s dyn IndexView, Vec<u8>);

/// The lanes, each as it is read.
fn lane_views<'s>(
    states: &'s States,
    lanes: &[(GroupId, Lane)],
    prefix: impl Fn(GroupId, Lane) -> Vec<u8>,
) -> Result<Vec<LaneView<'s>>, IndexError> {
    let views = lanes.iter().map(|(group, lane)| {
        let state: &'s dyn IndexView = &**state_of(states, *group)?;
        Ok((state, prefix(*group, *lane)))
    });
    views.collect()
}

/// The state of lanes of which a listing found something or nothing.
pub fn lanes_state(
    states: &States,
    bucket: BucketId,
    lanes: &[(GroupId, Lane)],
    is_empty: bool,
) -> Result<LanesState, IndexError> {
    if !is_empty {
        return Ok(LanesState::Open);
    }
    for (group, lane) in lanes {
        if !is_closed(&**state_of(states, *group)?, *group, bucket, *lane)? {
            return Ok(LanesState::Open);
        }
    }
    Ok(LanesState::Closed)
}

impl Metadata {
    /// A page of the bucket's keys, in UTF-8 binary order: the bucket's lanes merged. What is listed is each key, or, if
    /// the delimiter occurs in it after the prefix, the key up to and with the delimiter, once.
    pub async fn list(
        &self,
        bucket: BucketId,
        list: &ListObjects,
    ) -> Result<ListPage, MetadataError> {
        let all = self.lanes(bucket).len();
        let question = |share: fn(usize, usize, usize) -> usize| {
            move |lanes: Vec<(GroupId, Lane)>| ListLanes {
                bucket,
                list: match share(list.max, lanes.len(), all) {
                    max if max < list.max => Cow::Owned(ListObjects {
                        max,
                        ..list.clone()
                    }),
                    _ => Cow::Borrowed(list),
                },
                lanes,
            }
        };
        let whole: fn(usize, usize, usize) -> usize = |max, _, _| max;
        // Each part may have all common prefixes.
        let share = match list.delimiter.as_deref() {
            None | Some("") => share_of,
            Some(_) => whole,
        };
        let mut pages = self.parts_of_list(bucket, question(share)).await?;
        if are_to_be_settled(&pages) {
            self.settle_renames(bucket).await?;
            // Renames that are met now were begun after the listing: it may show what was before them.
            pages = self.parts_of_list(bucket, question(share)).await?;
        }
        let mut pages = open_pages(pages)?;
        if !are_enough(&pages, list.max) {
            pages = open_pages(self.parts_of_list(bucket, question(whole)).await?)?;
        }
        Ok(merge_pages(pages, list.max))
    }

    /// A page of the bucket's uploads, by key, then by upload id.
    pub async fn list_uploads(
        &self,
        bucket: BucketId,
        list: &ListUploads,
    ) -> Result<UploadsPage, MetadataError> {
        let pages = self.ask_lanes(bucket, |lanes| ListUploadLanes {
            bucket,
            lanes,
            list: Cow::Borrowed(list),
        });
        Ok(merge_pages(open_pages(pages.await?)?, list.max))
    }

    /// Asks each node that leads groups of the bucket's lanes about these lanes.
    pub(super) async fn ask_lanes<Q: Ask>(
        &self,
        bucket: BucketId,
        question: impl Fn(Vec<(GroupId, Lane)>) -> Q,
    ) -> Result<Vec<Q::Answer>, MetadataError> {
        let lanes = self.lanes(bucket);
        let mut groups: Vec<GroupId> = lanes.iter().map(|(group, _)| *group).collect();
        groups.sort_unstable();
        groups.dedup();
        let of = |groups: &[GroupId]| {
            let of_groups = lanes.iter().filter(|(group, _)| groups.contains(group));
            question(of_groups.copied().collect())
        };
        Ok(self.asker.ask_all(&groups, of).await?)
    }
}

/// How many of `max` keys are asked of a part with some of all lanes. Chance says which lane a key has: of 30,000 pages one has
/// more keys of a part than that (four standard deviations above the mean), and is asked for again.
fn share_of(max: usize, lanes: usize, all: usize) -> usize {
    let mean = max.saturating_mul(lanes).div_ceil(all.max(1));
    max.min(mean + 4 * mean.isqrt() + 4)
}

/// Whether the first `max` keys are among those of the parts, some of which were asked for fewer: what a part has left out
/// comes after all that it has.
fn are_enough(pages: &[ListPage], max: usize) -> bool {
    let ends = pages.iter().filter_map(|page| page.next.as_deref());
    let Some(end) = ends.min() else { return true };
    let until_end = |page: &ListPage| {
        let entries = &page.entries;
        let prefixes = &page.common_prefixes;
        entries.partition_point(|entry| &*entry.key <= end)
            + prefixes.partition_point(|prefix| &**prefix <= end)
    };
    pages.iter().map(until_end).sum::<usize>() >= max
}

/// Whether renames must be settled for the listing to be right.
pub fn are_to_be_settled<P>(parts: &[PartPage<P>]) -> bool {
    let mut states = parts.iter().map(|part| part.lanes);
    states.any(|state| state == LanesState::Renaming)
}

/// The pages of all parts. If all lanes were closed, the bucket may have gone before the first was read.
pub fn open_pages<P>(parts: Vec<PartPage<P>>) -> Result<Vec<P>, NotNow> {
    if parts.iter().all(|part| part.lanes == LanesState::Closed) {
        return Err(NotNow::BucketClosed);
    }
    Ok(parts.into_iter().map(|part| part.page).collect())
}

/// Where an upload listing begins, in the order of upload keys; `None`: past all.
fn upload_start(fold: &Fold<'_>, list: &ListUploads) -> Option<Vec<u8>> {
    let Some(marker) = list.key_marker.as_deref() else {
        return Some(escaped(fold.prefix));
    };
    if !fold.lists(marker.as_bytes()) {
        return fold.start(Some(marker)).map(|start| escaped(&start));
    }
    let mut start = escaped(marker.as_bytes());
    match list.upload_marker {
        // Past the marker's upload.
        Some(upload) => {
            start.extend_from_slice(&[0, 0]);
            start.extend_from_slice(&upload.0);
            start.push(0);
        }
        // Past all uploads of the marker's key: those end it with `00 00`.
        None => start.extend_from_slice(&[0, 1]),
    }
    Some(start)
}

pub fn escaped(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 19);
    keys::escape(key, &mut out);
    out
}

pub fn text(bytes: &[u8]) -> Result<String, IndexError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(values::damaged("a key")),
    }
}

/// How keys are folded into common prefixes.
pub struct Fold<'a> {
    prefix: &'a [u8],
    delimiter: Option<Finder<'a>>,
}

impl<'a> Fold<'a> {
    /// An empty delimiter is none.
    pub fn new(prefix: &'a str, delimiter: Option<&'a str>) -> Self {
        let delimiter = delimiter.filter(|delimiter| !delimiter.is_empty());
        Self {
            prefix: prefix.as_bytes(),
            delimiter: delimiter.map(|delimiter| Finder::new(delimiter.as_bytes())),
        }
    }

    /// The common prefix that `key`, which begins with the prefix, is listed as.
    #[inline]
    pub fn common_prefix<'k>(&self, key: &'k [u8]) -> Option<&'k [u8]> {
        let delimiter = self.delimiter.as_ref()?;
        let rest = key.get(self.prefix.len()..)?;
        let end = self.prefix.len() + delimiter.find(rest)? + delimiter.needle().len();
        key.get(..end)
    }

    /// Whether the key is listed as itself, if it is there.
    pub fn lists(&self, key: &[u8]) -> bool {
        key.starts_with(self.prefix) && self.common_prefix(key).is_none()
    }

    /// The least key that can be listed after `after`; `None`: there is none. A common prefix is not repeated
    /// after itself, nor after a key that it covers.
    pub fn start(&self, after: Option<&str>) -> Option<Vec<u8>> {
        let Some(after) = after
            .map(str::as_bytes)
            .filter(|after| *after >= self.prefix)
        else {
            return Some(self.prefix.to_vec());
        };
        if !after.starts_with(self.prefix) {
            return None;
        }
        match self.common_prefix(after) {
            Some(common) => keys::successor(common),
            None => Some([after, &[0]].concat()),
        }
    }
}
