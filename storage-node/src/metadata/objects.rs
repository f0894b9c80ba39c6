//! Objects: put, get, head, delete, tags.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::future::join_all;
use holdfast_placement::ids::{BucketId, GroupId};
use holdfast_placement::planted::{Bug, planted};
use holdfast_placement::query::{Ask, States, state_of};
use holdfast_placement::seams::{Index, IndexError, IndexView, Keyspace};
use serde::{Deserialize, Serialize};

use super::command::{Address, Command, DeleteVersion, Outcome, Refusal, encode_missed};
use super::keys;
use super::lock::LockChange;
use super::questions::{InBucket, NotNow, kind, lane_state};
use super::record::{Body, Lookup, VersionRecord, VersionRef, VersionSummary};
use super::rename::TRIES;
use super::store::{
    Condition, DeleteOutcome, Deletion, Metadata, MetadataError, NewVersion, Place, StoredVersion,
    WriteError, strange,
};
use super::values::{self, VersionDetails, unencodable};

/// Reads of a record whose inline bytes were replaced meanwhile, at most.
const INLINE_READS_MAX: usize = 64;

/// See [`Metadata::get_version`].
#[derive(Serialize, Deserialize)]
pub(super) struct Get<'a> {
    #[serde(borrow)]
    at: Place<'a>,
    version: Option<VersionRef>,
}

impl Ask for Get<'_> {
    const KIND: u8 = kind::GET;
    type Answer = InBucket<Lookup<StoredVersion>>;

    async fn run(&self, states: &States) -> Result<Self::Answer, IndexError> {
        let state = state_of(states, self.at.group)?;
        if self.at.is_being_renamed(&**state)? {
            return Ok(Err(NotNow::Renaming));
        }
        let object = self.at.object_key();
        for _ in 0..INLINE_READS_MAX {
            let newest = match self.version {
                None => state.get(Keyspace::Objects, &object)?,
                Some(_) => None,
            };
            let Some(value) = newest else {
                return match self.at.only_in_objects(&**state, self.version)? {
                    Some(nothing) => Ok(nothing.map(|()| Lookup::Nothing)),
                    None => self.in_view(&**state),
                };
            };
            let record = values::version(&value)?;
            if let Some(inline) = inline_of(&**state, &object, &record)? {
                return Ok(Ok(Lookup::Found(StoredVersion { record, inline })));
            }
            // Overwritten or deleted between the two reads; the record says which.
        }
        Err(values::damaged("inline bytes"))
    }
}

impl Get<'_> {
    /// As of one moment: what is not the newest may move meanwhile.
    fn in_view(&self, state: &dyn Index) -> Result<InBucket<Lookup<StoredVersion>>, IndexError> {
        let view = state.view();
        let record = match self.at.find(&*view, self.version)? {
            Ok(Lookup::Found(record)) => record,
            Ok(Lookup::Marker(summary)) => return Ok(Ok(Lookup::Marker(summary))),
            Ok(Lookup::Nothing) => return Ok(Ok(Lookup::Nothing)),
            Err(closed) => return Ok(Err(closed)),
        };
        match inline_of(&*view, &self.at.object_key(), &record)? {
            Some(inline) => Ok(Ok(Lookup::Found(StoredVersion { record, inline }))),
            None => Err(values::damaged("inline bytes")),
        }
    }
}

/// The inline bytes of a version; none if its body is elsewhere. `None`: they are not there, though they should.
fn inline_of(
    view: &dyn IndexView,
    object: &[u8],
    record: &VersionRecord,
) -> Result<Option<Bytes>, IndexError> {
    if record.body != Body::Inline {
        return Ok(Some(Bytes::new()));
    }
    let key = keys::inline(object, record.summary.version);
    let inline = view.get(Keyspace::Inline, &key)?;
    match &inline {
        Some(inline) if inline.len() as u64 != record.summary.size => {
            Err(values::damaged("inline bytes"))
        }
        _ => Ok(inline),
    }
}

/// See [`Metadata::head_version`].
#[derive(Serialize, Deserialize)]
pub(super) struct Head<'a> {
    #[serde(borrow)]
    at: Place<'a>,
    version: Option<VersionRef>,
}

impl Ask for Head<'_> {
    const KIND: u8 = kind::HEAD;
    type Answer = InBucket<Lookup<VersionRecord>>;

    async fn run(&self, states: &States) -> Result<Self::Answer, IndexError> {
        let state = state_of(states, self.at.group)?;
        if self.at.is_being_renamed(&**state)? {
            return Ok(Err(NotNow::Renaming));
        }
        if self.version.is_none()
            && let Some(value) = state.get(Keyspace::Objects, &self.at.object_key())?
        {
            return Ok(Ok(Lookup::Found(values::version(&value)?)));
        }
        match self.at.only_in_objects(&**state, self.version)? {
            Some(nothing) => Ok(nothing.map(|()| Lookup::Nothing)),
            None => self.at.find(&*state.view(), self.version),
        }
    }
}

impl Place<'_> {
    /// The answer if the newest version was asked for, is not in `objects`, and cannot be elsewhere: the lane keeps no
    /// versions (if it does, it never ceases to), or is closed.
    fn only_in_objects(
        &self,
        state: &dyn IndexView,
        asked: Option<VersionRef>,
    ) -> Result<Option<InBucket<()>>, IndexError> {
        if asked.is_some() {
            return Ok(None);
        }
        let Address { bucket, lane, .. } = self.address;
        let state = lane_state(state, self.group, bucket, lane)?;
        Ok(match state.versioning.keeps_versions() {
            _ if state.closed_by.is_some() => Some(Err(NotNow::BucketClosed)),
            false => Some(Ok(())),
            true => None,
        })
    }

    /// A version of the key; `None`: the newest.
    fn find(
        &self,
        view: &dyn IndexView,
        version: Option<VersionRef>,
    ) -> Result<InBucket<Lookup<VersionRecord>>, IndexError> {
        let Address { bucket, lane, key } = self.address;
        let is_meant = |summary: &VersionSummary| version.is_none_or(|own| own == summary.name());
        if let Some(value) = view.get(Keyspace::Objects, &self.object_key())?
            && is_meant(&values::version_summary(&value)?.0)
        {
            return Ok(Ok(Lookup::Found(values::version(&value)?)));
        }
        let state = lane_state(view, self.group, bucket, lane)?;
        if state.closed_by.is_some() {
            return Ok(Err(NotNow::BucketClosed));
        }
        if !state.versioning.keeps_versions() {
            return Ok(Ok(Lookup::Nothing));
        }
        let versions = keys::noncurrent_versions(self.group, bucket, lane, key);
        let value = match version {
            None => {
                let end = keys::successor(&versions).unwrap_or_default();
                let mut cursor = view.cursor(Keyspace::Records, &versions, &end)?;
                cursor.seek(&versions)?;
                cursor
                    .entry()
                    .map(|(_, value)| Bytes::copy_from_slice(value))
            }
            Some(VersionRef::Id(id)) => {
                let key = [&versions[..], &keys::newest_first(id)].concat();
                view.get(Keyspace::Records, &key)?
            }
            Some(VersionRef::Null) => {
                let pointer = keys::null_version(self.group, bucket, lane, key);
                match view.get(Keyspace::Records, &pointer)? {
                    Some(id) => {
                        let id = values::decode(&id, "a null version")?;
                        let key = [&versions[..], &keys::newest_first(id)].concat();
                        view.get(Keyspace::Records, &key)?
                    }
                    None => None,
                }
            }
        };
        let Some(value) = value else {
            return Ok(Ok(Lookup::Nothing));
        };
        let record = values::version(&value)?;
        Ok(Ok(match record.summary {
            summary if !is_meant(&summary) => Lookup::Nothing,
            summary if summary.delete_marker => Lookup::Marker(summary),
            _ => Lookup::Found(record),
        }))
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
        if planted(Bug::ConditionDecidedEarly) {
            let newest = self.head(bucket, key).await?;
            condition.allows_write(newest.as_ref().map(|found| &found.summary))?;
        }
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
            details: &values::encode_details(&details, &new.lock).map_err(unencodable)?,
        };
        written(self.decide_at(&place, &command, tail).await?)
    }

    /// The newest version, with its inline bytes.
    pub async fn get(
        &self,
        bucket: BucketId,
        key: &str,
    ) -> Result<Option<StoredVersion>, MetadataError> {
        Ok(self.get_version(bucket, key, None).await?.found())
    }

    /// The newest version; never reads inline bytes.
    pub async fn head(
        &self,
        bucket: BucketId,
        key: &str,
    ) -> Result<Option<VersionRecord>, MetadataError> {
        Ok(self.head_version(bucket, key, None).await?.found())
    }

    /// A version (`None`: the newest), with its inline bytes.
    pub async fn get_version(
        &self,
        bucket: BucketId,
        key: &str,
        version: Option<VersionRef>,
    ) -> Result<Lookup<StoredVersion>, MetadataError> {
        let at = self.place(bucket, key);
        self.ask_at(&at, &Get { at, version }).await
    }

    /// A version (`None`: the newest); never reads inline bytes.
    pub async fn head_version(
        &self,
        bucket: BucketId,
        key: &str,
        version: Option<VersionRef>,
    ) -> Result<Lookup<VersionRecord>, MetadataError> {
        let at = self.place(bucket, key);
        self.ask_at(&at, &Head { at, version }).await
    }

    /// Deletes a key, as [`Metadata::delete_version`].
    pub async fn delete(
        &self,
        bucket: BucketId,
        key: &str,
        condition: &Condition,
    ) -> Result<DeleteOutcome, WriteError> {
        let deletion = Deletion {
            key: key.to_owned(),
            condition: condition.clone(),
            ..Deletion::default()
        };
        self.delete_version(bucket, &deletion).await
    }

    /// Deletes a key or a version. A condition on what is not there holds (S3 API reference, DeleteObject, `If-Match`).
    pub async fn delete_version(
        &self,
        bucket: BucketId,
        deletion: &Deletion,
    ) -> Result<DeleteOutcome, WriteError> {
        let place = self.place(bucket, &deletion.key);
        let keys = vec![delete_at(&place, deletion)];
        let verdicts = self.delete_in(place.group, bucket, keys).await?;
        match verdicts.into_iter().next() {
            Some(verdict) => verdict,
            None => Err(strange(&Outcome::VersionsDeleted(Vec::new())).into()),
        }
    }

    /// Deletes keys, as [`Metadata::delete_versions`].
    pub async fn delete_many(
        &self,
        bucket: BucketId,
        keys: &[(String, Condition)],
    ) -> Vec<Result<DeleteOutcome, WriteError>> {
        let deletions: Vec<_> = keys
            .iter()
            .map(|(key, condition)| Deletion {
                key: key.clone(),
                condition: condition.clone(),
                ..Deletion::default()
            })
            .collect();
        self.delete_versions(bucket, &deletions).await
    }

    /// Deletes keys and versions: one command a group, groups in parallel; answers are in the order of `deletions`, and
    /// those of a key happen in that order.
    pub async fn delete_versions(
        &self,
        bucket: BucketId,
        deletions: &[Deletion],
    ) -> Vec<Result<DeleteOutcome, WriteError>> {
        let mut by_group: BTreeMap<GroupId, (Vec<usize>, Vec<DeleteVersion<'_>>)> = BTreeMap::new();
        for (position, deletion) in deletions.iter().enumerate() {
            let place = self.place(bucket, &deletion.key);
            let (positions, group_keys) = by_group.entry(place.group).or_default();
            positions.push(position);
            group_keys.push(delete_at(&place, deletion));
        }
        let answers = by_group
            .into_iter()
            .map(|(group, (positions, keys))| async move {
                (positions, self.delete_in(group, bucket, keys).await)
            });
        let missing = || WriteError::Metadata(strange(&Outcome::VersionsDeleted(Vec::new())));
        let mut outcomes: Vec<_> = deletions.iter().map(|_| Err(missing())).collect();
        for (positions, answer) in join_all(answers).await {
            for (index, position) in positions.into_iter().enumerate() {
                outcomes[position] = match &answer {
                    Ok(verdicts) => match verdicts.get(index) {
                        Some(verdict) => verdict.clone(),
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
        keys: Vec<DeleteVersion<'_>>,
    ) -> Result<Vec<Result<DeleteOutcome, WriteError>>, MetadataError> {
        let verdicts = self.delete_once(group, bucket, &keys).await?;
        let mut outcomes = Vec::with_capacity(verdicts.len());
        // Keys that were being renamed: that is settled, and they are deleted after the others.
        for (verdict, key) in verdicts.into_iter().zip(&keys) {
            outcomes.push(match verdict {
                Err(Refusal::BeingRenamed) => self.delete_settled(group, bucket, key).await,
                verdict => verdict.map_err(WriteError::from),
            });
        }
        Ok(outcomes)
    }

    /// Deletes a key that is being renamed. What fails is this key's failure alone.
    async fn delete_settled(
        &self,
        group: GroupId,
        bucket: BucketId,
        key: &DeleteVersion<'_>,
    ) -> Result<DeleteOutcome, WriteError> {
        for _ in 0..TRIES {
            self.settle_rename(&self.place(bucket, key.key)).await?;
            let again = self.delete_once(group, bucket, std::slice::from_ref(key));
            match again.await?.into_iter().next() {
                Some(Err(Refusal::BeingRenamed)) => {}
                Some(verdict) => return Ok(verdict?),
                None => return Err(strange(&Outcome::VersionsDeleted(Vec::new())).into()),
            }
        }
        Err(Refusal::BeingRenamed.into())
    }

    async fn delete_once(
        &self,
        group: GroupId,
        bucket: BucketId,
        keys: &[DeleteVersion<'_>],
    ) -> Result<Vec<Result<DeleteOutcome, Refusal>>, MetadataError> {
        let keys = keys.to_vec();
        let command = Command::DeleteVersions { bucket, keys };
        match self.decide(group, &command, &[]).await?.1 {
            Outcome::VersionsDeleted(verdicts) => Ok(verdicts),
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
        self.set_version_tags(bucket, key, None, tags).await?;
        Ok(())
    }

    /// Replaces a version's tags (`None`: the newest's); gives the version.
    pub async fn set_version_tags(
        &self,
        bucket: BucketId,
        key: &str,
        version: Option<VersionRef>,
        tags: Vec<(String, String)>,
    ) -> Result<VersionSummary, WriteError> {
        let place = self.place(bucket, key);
        let at = place.address;
        let command = match version {
            Some(version) => Command::SetVersionTags { at, version, tags },
            None => Command::SetTags { at, tags },
        };
        written(self.decide_at(&place, &command, &[]).await?)
    }

    /// Sets the canned access control list (`None`: private) of a version (`None`: of the newest); gives the version.
    pub async fn set_acl(
        &self,
        bucket: BucketId,
        key: &str,
        version: Option<VersionRef>,
        acl: Option<&str>,
    ) -> Result<VersionSummary, WriteError> {
        let place = self.place(bucket, key);
        let at = place.address;
        let command = Command::SetAcl { at, version, acl };
        written(self.decide_at(&place, &command, &[]).await?)
    }

    /// Changes the lock of a version (`None`: of the newest). `bypass_governance`: retention in governance mode may be
    /// shortened, removed or made stricter.
    pub async fn set_lock(
        &self,
        bucket: BucketId,
        key: &str,
        version: Option<VersionRef>,
        change: LockChange,
        bypass_governance: bool,
    ) -> Result<VersionSummary, WriteError> {
        let place = self.place(bucket, key);
        let command = Command::SetLock {
            at: place.address,
            version,
            change,
            bypass_governance,
        };
        written(self.decide_at(&place, &command, &[]).await?)
    }
}

fn delete_at<'a>(place: &Place<'a>, deletion: &'a Deletion) -> DeleteVersion<'a> {
    DeleteVersion {
        lane: place.address.lane,
        key: &deletion.key,
        version: deletion.version,
        condition: deletion.condition.clone(),
        bypass_governance: deletion.bypass_governance,
    }
}

pub(super) fn written(outcome: Outcome) -> Result<VersionSummary, WriteError> {
    match outcome {
        Outcome::Written(summary) => Ok(summary),
        Outcome::Refused(refusal) => Err(refusal.into()),
        other => Err(strange(&other).into()),
    }
}
