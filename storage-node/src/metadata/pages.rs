//! Pages of a listing that were made at several nodes or on several threads, each of some lanes, put together.

use std::fmt::Display;

use futures_util::future::try_join_all;
use holdfast_placement::ids::{GroupId, Lane, UploadId};
use holdfast_placement::query::States;
use holdfast_placement::seams::{IndexError, blocking};

use super::record::{UploadRecord, VersionId};
use super::store::{ListEntry, ListPage, UploadsPage, VersionEntry, VersionsPage};

/// A page of some lanes: what is listed, in order, and whether there is more.
pub trait Page: Default {
    type Entry;
    /// Where the next page goes on.
    type Next;

    /// What is listed, in any order; and whether there is more.
    fn take_apart(self) -> (Vec<Listed<Self::Entry>>, bool);
    fn put_together(listed: Vec<Listed<Self::Entry>>, next: Option<Self::Next>) -> Self;
    /// The order of entries: by key, then by upload.
    fn place(entry: &Self::Entry) -> (&str, Option<UploadId>);
    fn next(listed: &Listed<Self::Entry>) -> Self::Next;
}

/// What a listing has one of.
pub enum Listed<E> {
    Entry(E),
    CommonPrefix(String),
}

/// Seeks that a page may make on the thread of who asked, for common prefixes with many keys: about a millisecond.
pub const SEEKS_ALONE: usize = match cfg!(test) {
    // What is listed in tests is small.
    true => 1,
    false => 512,
};

/// Threads that share the lanes of a page that needs more.
const PARTS: usize = 4;

/// Makes a page that takes many seeks: each thread finds the first `max` of its lanes. Where prefixes have many keys they
/// have some in each lane, so that this is no more work than one thread would have; where they have few, little work is
/// done twice.
pub async fn in_parts<P, R>(
    states: &States,
    lanes: &[(GroupId, Lane)],
    max: usize,
    part: impl Fn(Vec<(GroupId, Lane)>) -> R,
) -> Result<P, IndexError>
where
    P: Page + Send + 'static,
    R: FnOnce() -> Result<Option<P>, IndexError> + Send + 'static,
{
    let parts = lanes.chunks(lanes.len().div_ceil(PARTS).max(1));
    // The drives of a process share the threads.
    let readers = states.first().and_then(|(_, state)| state.readers());
    let pages = parts.map(|lanes| {
        let (part, readers) = (part(lanes.to_vec()), &readers);
        async move {
            let leave = match readers {
                Some(readers) => Some(readers.acquire().await.map_err(io_error)?),
                None => None,
            };
            let page = blocking(part).await.map_err(io_error)?;
            drop(leave);
            page
        }
    });
    let pages = try_join_all(pages).await?;
    Ok(merge_pages(pages.into_iter().flatten().collect(), max))
}

fn io_error(error: impl Display) -> IndexError {
    IndexError::Io(error.to_string())
}

/// The page that the lanes of all pages make, if each page has the first `max` of its own lanes. A common prefix may
/// come in several pages, and is listed once; a key has one lane, and comes in one.
pub fn merge_pages<P: Page>(mut pages: Vec<P>, max: usize) -> P {
    if pages.len() <= 1 {
        return pages.pop().unwrap_or_default();
    }
    let mut listed = Vec::new();
    let mut more = false;
    for page in pages {
        let (of_page, page_has_more) = page.take_apart();
        listed.extend(of_page);
        more |= page_has_more;
    }
    // Keys that are folded into a common prefix compare with others like it: none of the others begins with it. The
    // sort is stable and quick with what is made of sorted runs.
    listed.sort_by(|a, b| place::<P>(a).cmp(&place::<P>(b)));
    listed.dedup_by(|b, a| match (a, b) {
        (Listed::CommonPrefix(a), Listed::CommonPrefix(b)) => a == b,
        _ => false,
    });
    // A page that has more has `max` already, and its rest comes after these.
    more |= listed.len() > max;
    listed.truncate(max);
    let next = listed.last().filter(|_| more).map(P::next);
    P::put_together(listed, next)
}

fn place<P: Page>(listed: &Listed<P::Entry>) -> (&str, Option<UploadId>) {
    match listed {
        Listed::Entry(entry) => P::place(entry),
        Listed::CommonPrefix(prefix) => (prefix, None),
    }
}

fn mix<E>(entries: Vec<E>, common_prefixes: Vec<String>) -> Vec<Listed<E>> {
    let entries = entries.into_iter().map(Listed::Entry);
    entries
        .chain(common_prefixes.into_iter().map(Listed::CommonPrefix))
        .collect()
}

fn split<E>(listed: Vec<Listed<E>>) -> (Vec<E>, Vec<String>) {
    let mut entries = Vec::with_capacity(listed.len());
    let mut common_prefixes = Vec::new();
    for listed in listed {
        match listed {
            Listed::Entry(entry) => entries.push(entry),
            Listed::CommonPrefix(prefix) => common_prefixes.push(prefix),
        }
    }
    (entries, common_prefixes)
}

impl Page for ListPage {
    type Entry = ListEntry;
    type Next = String;

    fn take_apart(self) -> (Vec<Listed<ListEntry>>, bool) {
        (mix(self.entries, self.common_prefixes), self.next.is_some())
    }

    fn put_together(listed: Vec<Listed<ListEntry>>, next: Option<String>) -> Self {
        let (entries, common_prefixes) = split(listed);
        Self {
            entries,
            common_prefixes,
            next,
        }
    }

    fn place(entry: &ListEntry) -> (&str, Option<UploadId>) {
        (&entry.key, None)
    }

    fn next(listed: &Listed<ListEntry>) -> String {
        match listed {
            Listed::Entry(entry) => entry.key.clone(),
            Listed::CommonPrefix(prefix) => prefix.clone(),
        }
    }
}

impl Page for VersionsPage {
    type Entry = VersionEntry;
    type Next = (String, Option<VersionId>);

    fn take_apart(self) -> (Vec<Listed<VersionEntry>>, bool) {
        (mix(self.entries, self.common_prefixes), self.next.is_some())
    }

    fn put_together(listed: Vec<Listed<VersionEntry>>, next: Option<Self::Next>) -> Self {
        let (entries, common_prefixes) = split(listed);
        Self {
            entries,
            common_prefixes,
            next,
        }
    }

    /// The versions of a key come in one page, in order, and the sort keeps that.
    fn place(entry: &VersionEntry) -> (&str, Option<UploadId>) {
        (&entry.key, None)
    }

    fn next(listed: &Listed<VersionEntry>) -> Self::Next {
        match listed {
            Listed::Entry(entry) => (entry.key.clone(), Some(entry.summary.version)),
            Listed::CommonPrefix(prefix) => (prefix.clone(), None),
        }
    }
}

impl Page for UploadsPage {
    type Entry = UploadRecord;
    type Next = (String, Option<UploadId>);

    fn take_apart(self) -> (Vec<Listed<UploadRecord>>, bool) {
        (mix(self.uploads, self.common_prefixes), self.next.is_some())
    }

    fn put_together(
        listed: Vec<Listed<UploadRecord>>,
        next: Option<(String, Option<UploadId>)>,
    ) -> Self {
        let (uploads, common_prefixes) = split(listed);
        Self {
            uploads,
            common_prefixes,
            next,
        }
    }

    fn place(entry: &UploadRecord) -> (&str, Option<UploadId>) {
        (&entry.key, Some(entry.upload))
    }

    fn next(listed: &Listed<UploadRecord>) -> (String, Option<UploadId>) {
        match listed {
            Listed::Entry(upload) => (upload.key.clone(), Some(upload.upload)),
            Listed::CommonPrefix(prefix) => (prefix.clone(), None),
        }
    }
}
