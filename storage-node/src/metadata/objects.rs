//! Objects: put, get, head, delete, tags.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::future::join_all;
use holdfast_placement::ids::{BucketId, GroupId};
use holdfast_placement::query::{Ask, States, state_of};
use holdfast_placement::seams::{IndexError, Keyspace};
use serde::{Deserialize, Serialize};

use super::command::{Command, DeleteKey, Outcome, Refusal, encode_missed};
use super::keys;
use super::questions::{InBucket, kind};
use super::record::{Body, VersionRecord, VersionSummary};
use super::store::{
    Condition, DeleteOutcome, Metadata, MetadataError, NewVersion, Place, StoredVersion,
    WriteError, strange,
};
use super::values::{self, VersionDetails, unencodable};

/// Reads of a record whose inline bytes were replaced meanwhile, at most.
const INLINE_READS_MAX: usize = 64;

/// See [`Metadata::get`].
#[derive(Serialize, Deserialize)]
pub(super) struct Get<'a> {
    #[serde(borrow)]
    at: Place<'a>,
}

impl Ask for Get<'_> {
    const KIND: u8 = kind::GET;
    type Answer = InBucket<Option<StoredVersion>>;

    async fn run(&self, states: &States) -> Result<Self::Answer, IndexError> {
        let state = state_of(states, self.at.group)?;
        let object = self.at.object_key();
        for _ in 0..INLINE_READS_MAX {
            let Some(value) = state.get(Keyspace::Objects, &object)? else {
                return self.at.nothing(&**state);
            };
            let record = values::version(&value)?;
            if record.body != Body::Inline {
                let inline = Bytes::new();
                return Ok(Ok(Some(StoredVersion { record, inline })));
            }
            let inline_key = keys::inline(&object, record.summary.version);
            if let Some(inline) = state.get(Keyspace::Inline, &inline_key)? {
                if inline.len() as u64 != record.summary.size {
                    return Err(values::damaged("inline bytes"));
                }
                return Ok(Ok(Some(StoredVersion { record, inline })));
            }
            // Overwritten or deleted between the two reads; the record says which.
        }
        Err(values::damaged("inline bytes"))
    }
}

/// See [`Metadata::head`].
#[derive(Serialize, Deserialize)]
pub(super) struct Head<'a> {
    #[serde(borrow)]
    at: Place<'a>,
}

impl Ask for Head<'_> {
    const KIND: u8 = kind::HEAD;
    type Answer = InBucket<Option<VersionRecord>>;

    async fn run(&self, states: &States) -> Result<Self::Answer, IndexError> {
        let state = state_of(states, self.at.group)?;
        match state.get(Keyspace::Objects, &self.at.object_key())? {
            Some(value) => Ok(Ok(Some(values::version(&value)?))),
            None => self.at.nothing(&**state),
        }
    }
}

impl Metadata {
    /// Writes a key's newest version; the former one's body goes onto the reclaim queue.
    pub async fn put(
        &self,
        bucket: BucketId,
        key: &str,
        new: NewVersion,
        condition: &Condition,
    ) -> Result<VersionSummary, WriteError> {
        let place = self.place(bucket, key);
        let checksum = new.checksum.as_ref();
        let checksum = checksum.map(|checksum| (checksum.algorithm, checksum.kind));
        let details = VersionDetails {
            checksum: new.checksum,
            headers: new.headers,
            tags: new.tags,
        };
        let missed = encode_missed(&new.missed).map_err(unencodable)?;
        let tail = match new.body {
            Body::Inline => &new.inline[..],
            Body::Chunked(_) => &missed[..],
            Body::Empty | Body::Multipart { .. } => &[],
        };
        let command = Command::Put {
            at: place.address,
            condition: condition.clone(),
            size: new.size,
            etag: new.etag,
            checksum,
            body: new.body,
            details: &postcard::to_stdvec(&details).map_err(unencodable)?,
        };
        match self.decide(place.group, &command, tail).await?.1 {
            Outcome::Written(summary) => Ok(summary),
            Outcome::Refused(refusal) => Err(refusal.into()),
            other => Err(strange(&other).into()),
        }
    }

    /// The newest version, with its inline bytes.
    pub async fn get(
        &self,
        bucket: BucketId,
        key: &str,
    ) -> Result<Option<StoredVersion>, MetadataError> {
        let at = self.place(bucket, key);
        Ok(self.asker.ask(at.group, &Get { at }).await??)
    }

    /// The newest version; never reads inline bytes.
    pub async fn head(
        &self,
        bucket: BucketId,
        key: &str,
    ) -> Result<Option<VersionRecord>, MetadataError> {
        let at = self.place(bucket, key);
        Ok(self.asker.ask(at.group, &Head { at }).await??)
    }

    /// Deletes a key. A condition on a key that is not there holds (S3 API reference, DeleteObject, `If-Match`).
    pub async fn delete(
        &self,
        bucket: BucketId,
        key: &str,
        condition: &Condition,
    ) -> Result<DeleteOutcome, WriteError> {
        let place = self.place(bucket, key);
        let keys = vec![DeleteKey {
            lane: place.address.lane,
            key,
            condition: condition.clone(),
        }];
        let verdicts = self.delete_in(place.group, bucket, keys).await?;
        match verdicts.first() {
            Some(verdict) => delete_outcome(*verdict),
            None => Err(strange(&Outcome::Deleted(verdicts)).into()),
        }
    }

    /// Deletes keys: one command a group, groups in parallel; answers are in the order of `keys`. A key that comes
    /// twice is deleted once.
    pub async fn delete_many(
        &self,
        bucket: BucketId,
        keys: &[(String, Condition)],
    ) -> Vec<Result<DeleteOutcome, WriteError>> {
        let mut by_group: BTreeMap<GroupId, (Vec<usize>, Vec<DeleteKey<'_>>)> = BTreeMap::new();
        for (position, (key, condition)) in keys.iter().enumerate() {
            let place = self.place(bucket, key);
            let (positions, group_keys) = by_group.entry(place.group).or_default();
            positions.push(position);
            group_keys.push(DeleteKey {
                lane: place.address.lane,
                key,
                condition: condition.clone(),
            });
        }
        let answers = by_group
            .into_iter()
            .map(|(group, (positions, keys))| async move {
                (positions, self.delete_in(group, bucket, keys).await)
            });
        let missing = || WriteError::Metadata(strange(&Outcome::Deleted(Vec::new())));
        let mut outcomes: Vec<_> = keys.iter().map(|_| Err(missing())).collect();
        for (positions, answer) in join_all(answers).await {
            for (index, position) in positions.into_iter().enumerate() {
                outcomes[position] = match &answer {
                    Ok(verdicts) => match verdicts.get(index) {
                        Some(verdict) => delete_outcome(*verdict),
                        None => continue,
                    },
                    Err(error) => Err(WriteError::Metadata(error.clone())),
                };
            }
        }
        outcomes
    }

    async fn delete_in(
        &self,
        group: GroupId,
        bucket: BucketId,
        keys: Vec<DeleteKey<'_>>,
    ) -> Result<Vec<Result<bool, Refusal>>, MetadataError> {
        let command = Command::Delete { bucket, keys };
        match self.decide(group, &command, &[]).await?.1 {
            Outcome::Deleted(verdicts) => Ok(verdicts),
            other => Err(strange(&other)),
        }
    }

    /// Replaces the newest version's tags; its time and etag stay.
    pub async fn set_tags(
        &self,
        bucket: BucketId,
        key: &str,
        tags: Vec<(String, String)>,
    ) -> Result<(), WriteError> {
        let place = self.place(bucket, key);
        let command = Command::SetTags {
            at: place.address,
            tags,
        };
        match self.decide(place.group, &command, &[]).await?.1 {
            Outcome::Written(_) => Ok(()),
            Outcome::Refused(refusal) => Err(refusal.into()),
            other => Err(strange(&other).into()),
        }
    }
}

fn delete_outcome(verdict: Result<bool, Refusal>) -> Result<DeleteOutcome, WriteError> {
    match verdict {
        Ok(existed) => Ok(DeleteOutcome { existed }),
        Err(refusal) => Err(refusal.into()),
    }
}
