//! What is left behind: bodies to reclaim and old uploads.

use holdfast_placement::command::Stamp;
use holdfast_placement::ids::{GroupId, UploadId};
use holdfast_placement::query::{Ask, States, state_of};
use holdfast_placement::seams::{IndexError, IndexView, Keyspace, UnixMillis};
use serde::{Deserialize, Serialize};

use super::command::{Command, Outcome};
use super::keys;
use super::questions::kind;
use super::record::{Body, ChunkedBody, PartRecord};
use super::store::{Metadata, MetadataError, OldUpload, ReclaimId, Reclaimable, strange};
use super::values::{self, PartPage, UploadPlace};
use crate::repair::reclaim::{Entry, entry_stamp};

/// Bodies of one answer, about: entries of many parts end it early.
const BODIES_MAX: usize = 20_000;

/// See [`Metadata::reclaimable`].
#[derive(Serialize, Deserialize)]
pub struct FindReclaimable {
    group: GroupId,
    older_than: UnixMillis,
    max: usize,
}

impl Ask for FindReclaimable {
    const KIND: u8 = kind::RECLAIMABLE;
    type Answer = Vec<Reclaimable>;

    async fn run(&self, states: &States) -> Result<Self::Answer, IndexError> {
        let group = self.group;
        let state = state_of(states, group)?;
        // One view: an entry and its parts go together.
        let view = state.view();
        let from = keys::reclaims(group);
        let mut to = from.clone();
        to.extend_from_slice(&Stamp::at(self.older_than).0.to_be_bytes());
        let mut cursor = view.cursor(Keyspace::Records, &from, &to)?;
        cursor.seek(&from)?;
        let mut found = Vec::new();
        let mut bodies_found = 0;
        while let Some((key, value)) = cursor.entry()
            && found.len() < self.max
            && bodies_found < BODIES_MAX
        {
            let id =
                keys::parse_reclaim(key).ok_or_else(|| values::damaged("the reclaim queue"))?;
            let bodies = match values::decode(value, "the reclaim queue")? {
                Entry::Body(body) => vec![body],
                Entry::TableAlone(_) => Vec::new(),
                Entry::Table(table) => {
                    bodies(&*view, &keys::pages(group, table), |value, push| {
                        let page: PartPage = values::decode(value, "a part table")?;
                        page.parts.iter().for_each(push);
                        Ok(())
                    })?
                }
                Entry::Parts(upload) => {
                    bodies(&*view, &keys::parts(group, upload), |value, push| {
                        push(&values::decode(value, "a part")?);
                        Ok(())
                    })?
                }
            };
            bodies_found += bodies.len();
            found.push(Reclaimable {
                id,
                since: entry_stamp(id).millis(),
                bodies,
            });
            cursor.next()?;
        }
        Ok(found)
    }
}

/// See [`Metadata::newest_reclaimable`].
#[derive(Serialize, Deserialize)]
pub struct FindNewestReclaimable {
    group: GroupId,
}

impl Ask for FindNewestReclaimable {
    const KIND: u8 = kind::NEWEST_RECLAIMABLE;
    type Answer = Option<ReclaimId>;

    async fn run(&self, states: &States) -> Result<Self::Answer, IndexError> {
        let state = state_of(states, self.group)?;
        let from = keys::reclaims(self.group);
        let to = keys::successor(&from).unwrap_or_default();
        let mut cursor = state.cursor(Keyspace::Records, &from, &to)?;
        cursor.seek_back(&to)?;
        let newest = cursor.entry().map(|(key, _)| {
            keys::parse_reclaim(key).ok_or_else(|| values::damaged("the reclaim queue"))
        });
        newest.transpose()
    }
}

/// See [`Metadata::old_uploads`].
#[derive(Serialize, Deserialize)]
pub struct FindOldUploads {
    group: GroupId,
    older_than: UnixMillis,
    after: Option<(UnixMillis, UploadId)>,
    max: usize,
}

impl Ask for FindOldUploads {
    const KIND: u8 = kind::OLD_UPLOADS;
    type Answer = Vec<OldUpload>;

    async fn run(&self, states: &States) -> Result<Self::Answer, IndexError> {
        let group = self.group;
        let state = state_of(states, group)?;
        let mut from = keys::upload_times(group);
        let mut to = from.clone();
        to.extend_from_slice(&self.older_than.0.to_be_bytes());
        if let Some((initiated, upload)) = self.after {
            from = keys::upload_time(group, initiated, upload);
        }
        if from >= to {
            return Ok(Vec::new());
        }
        let mut cursor = state.cursor(Keyspace::Records, &from, &to)?;
        cursor.seek(&from)?;
        let mut found = Vec::new();
        while let Some((key, value)) = cursor.entry()
            && found.len() < self.max
        {
            let (initiated, upload) =
                keys::parse_upload_time(key).ok_or_else(|| values::damaged("an upload"))?;
            if self.after != Some((initiated, upload)) {
                let place: UploadPlace = values::decode(value, "an upload")?;
                found.push(OldUpload {
                    bucket: place.bucket,
                    key: place.key,
                    upload,
                    initiated,
                });
            }
            cursor.next()?;
        }
        Ok(found)
    }
}

impl Metadata {
    /// Bodies of the group that lost their version or upload before `older_than`, oldest first, at most `max` entries.
    pub async fn reclaimable(
        &self,
        group: GroupId,
        older_than: UnixMillis,
        max: usize,
    ) -> Result<Vec<Reclaimable>, MetadataError> {
        let question = FindReclaimable {
            group,
            older_than,
            max,
        };
        Ok(self.asker.ask(group, &question).await?)
    }

    /// The newest entry of the group's queue: whatever is queued after this was asked has a greater id.
    pub async fn newest_reclaimable(
        &self,
        group: GroupId,
    ) -> Result<Option<ReclaimId>, MetadataError> {
        let question = FindNewestReclaimable { group };
        Ok(self.asker.ask(group, &question).await?)
    }

    /// Forgets entries whose shards are freed.
    pub async fn reclaimed(
        &self,
        group: GroupId,
        ids: Vec<ReclaimId>,
    ) -> Result<(), MetadataError> {
        match self
            .decide(group, &Command::Reclaimed { ids }, &[])
            .await?
            .1
        {
            Outcome::Done => Ok(()),
            other => Err(strange(&other)),
        }
    }

    /// Uploads of the group, to all buckets, that were begun before `older_than`: the oldest behind `after`.
    pub async fn old_uploads(
        &self,
        group: GroupId,
        older_than: UnixMillis,
        after: Option<(UnixMillis, UploadId)>,
        max: usize,
    ) -> Result<Vec<OldUpload>, MetadataError> {
        let question = FindOldUploads {
            group,
            older_than,
            after,
            max,
        };
        Ok(self.asker.ask(group, &question).await?)
    }
}

/// The bodies of the parts in the records whose keys begin with `prefix`.
fn bodies(
    view: &dyn IndexView,
    prefix: &[u8],
    parts: impl Fn(&[u8], &mut dyn FnMut(&PartRecord)) -> Result<(), IndexError>,
) -> Result<Vec<ChunkedBody>, IndexError> {
    let end = keys::successor(prefix).unwrap_or_default();
    let mut cursor = view.cursor(Keyspace::Records, prefix, &end)?;
    cursor.seek(prefix)?;
    let mut found = Vec::new();
    while let Some((_, value)) = cursor.entry() {
        parts(value, &mut |part| {
            if let Body::Chunked(body) = part.body {
                found.push(body);
            }
        })?;
        cursor.next()?;
    }
    Ok(found)
}
