//! How a metadata group decides its commands.

use std::collections::{BTreeSet, HashSet};

use holdfast_placement::command::{Decide, Turn};
use holdfast_placement::ids::{BucketId, Lane};
use holdfast_placement::seams::{IndexError, IndexView, Keyspace, Op, UnixMillis};

use super::command::{Address, Command, DeleteKey, Outcome, Refusal, decode_missed};
use super::record::{
    Body, ChecksumAlgorithm, ChecksumKind, Etag, MissedSlot, PartRecord, VersionId, VersionSummary,
};
use super::store::{Condition, ReclaimId};
use super::usage::Usage;
use super::values::{self, LaneState, VersionDetails};
use super::{apply_redundancy, apply_upload, keys};
use crate::repair::reclaim::{Entry, entry_id};

/// Open lanes remembered at most; one more, and all are forgotten.
const OPEN_LANES_MAX: usize = 4096;

/// A metadata group's part of a state machine.
#[derive(Default)]
pub struct ObjectGroup {
    /// Lanes that are known to be open: what the state says, for those who ask often.
    open: HashSet<(BucketId, Lane)>,
    /// What the state says that the group holds; `None` until it is read.
    usage: Option<Usage>,
}

impl Decide for ObjectGroup {
    fn decide(
        &mut self,
        turn: &mut Turn<'_>,
        command: &[u8],
    ) -> Result<Option<Vec<u8>>, IndexError> {
        let Ok((command, tail)) = postcard::take_from_bytes::<Command<'_>>(command) else {
            return Ok(None);
        };
        let has_inline = matches!(
            command,
            Command::Put {
                body: Body::Inline,
                ..
            }
        );
        let missed = match command.new_chunks() {
            Some(body) => decode_missed(tail, body),
            None => (has_inline || tail.is_empty()).then(Vec::new),
        };
        let Some(missed) = missed else {
            return Ok(None);
        };
        let mut change = Change {
            usage: self.usage(turn)?,
            recount: false,
            reclaimed: 0,
            turn,
        };
        let outcome = match command {
            Command::Put {
                at,
                condition,
                size,
                etag,
                checksum,
                body,
                details,
            } => {
                // What is written is readable, and only a completed upload has a table to name.
                if matches!(body, Body::Multipart { .. })
                    || (body == Body::Inline && tail.len() as u64 != size)
                    || !values::are_details(details)
                {
                    return Ok(None);
                }
                let version = Version {
                    size,
                    etag,
                    checksum,
                    body,
                    details,
                    missed: &missed,
                };
                match self.check_open(&change, at.bucket, at.lane)? {
                    Err(refusal) => Outcome::Refused(refusal),
                    Ok(()) => change.put(at, &condition, &version, tail)?,
                }
            }
            Command::Delete { bucket, keys } => {
                let mut seen = HashSet::new();
                let mut verdicts = Vec::with_capacity(keys.len());
                for key in &keys {
                    // The state does not show this command's own deletions.
                    let again = keys.len() > 1 && !seen.insert(key.key);
                    let mut verdict = change.delete(bucket, key, again)?;
                    if verdict == Ok(false)
                        && let Err(refusal) = self.check_open(&change, bucket, key.lane)?
                    {
                        verdict = Err(refusal);
                    }
                    verdicts.push(verdict);
                }
                Outcome::Deleted(verdicts)
            }
            Command::SetTags { at, tags } => {
                let outcome = change.set_tags(at, tags)?;
                self.unless_closed(&change, at, outcome)?
            }
            Command::CreateUpload {
                at,
                upload,
                headers,
                tags,
                checksum,
            } => match self.check_open(&change, at.bucket, at.lane)? {
                Err(refusal) => Outcome::Refused(refusal),
                Ok(()) => apply_upload::create(&mut change, at, upload, headers, tags, checksum)?,
            },
            Command::PutPart { at, upload, part } => {
                if matches!(part.body, Body::Inline | Body::Multipart { .. }) {
                    return Ok(None);
                }
                apply_upload::put_part(&mut change, at, upload, part, &missed)?
            }
            Command::CompleteUpload {
                at,
                condition,
                upload,
                numbers,
                digest,
                size,
                etag,
                checksum,
            } => {
                if numbers.is_empty() || !numbers.is_sorted_by(|a, b| a < b) {
                    return Ok(None);
                }
                let completion = apply_upload::Completion {
                    upload,
                    numbers: &numbers,
                    digest,
                    size,
                    etag,
                    checksum,
                };
                apply_upload::complete(&mut change, at, &condition, completion)?
            }
            Command::AbortUpload { at, upload } => {
                let outcome = apply_upload::abort(&mut change, at, upload)?;
                self.unless_closed(&change, at, outcome)?
            }
            Command::CloseLanes {
                bucket,
                lanes,
                deletion,
            } => {
                for lane in &lanes {
                    self.open.remove(&(bucket, *lane));
                }
                change.close_lanes(bucket, &lanes, deletion)?
            }
            Command::ReopenLanes {
                bucket,
                lanes,
                deletion,
            } => change.reopen_lanes(bucket, &lanes, deletion)?,
            Command::Reclaimed { ids } => change.drop_reclaimed(&ids.into_iter().collect())?,
            Command::Repaired { ids } => {
                apply_redundancy::repaired(&mut change, &ids.into_iter().collect())?
            }
            Command::ReplaceBody {
                at,
                place,
                old,
                new,
            } => apply_redundancy::replace_body(&mut change, at, place, old, new, &missed)?,
        };
        self.usage = Some(change.finish()?);
        Ok(Some(
            postcard::to_stdvec(&outcome).map_err(values::unencodable)?,
        ))
    }

    fn restored(&mut self, _state: &dyn IndexView) -> Result<(), IndexError> {
        self.open.clear();
        self.usage = None;
        Ok(())
    }
}

impl ObjectGroup {
    /// Takes what is known of the group's usage, or reads it. If the command comes to nothing it is read again.
    fn usage(&mut self, turn: &Turn<'_>) -> Result<Usage, IndexError> {
        if let Some(usage) = self.usage.take() {
            return Ok(usage);
        }
        match turn
            .state
            .get(Keyspace::Records, &keys::usage(turn.group))?
        {
            Some(value) => values::decode(&value, "what the group holds"),
            None => Ok(Usage::default()),
        }
    }

    fn check_open(
        &mut self,
        change: &Change<'_, '_>,
        bucket: BucketId,
        lane: Lane,
    ) -> Result<Result<(), Refusal>, IndexError> {
        if self.open.contains(&(bucket, lane)) {
            return Ok(Ok(()));
        }
        if change.lane_state(bucket, lane)?.closed_by.is_some() {
            return Ok(Err(Refusal::LaneClosed));
        }
        if self.open.len() >= OPEN_LANES_MAX {
            self.open.clear();
        }
        self.open.insert((bucket, lane));
        Ok(Ok(()))
    }

    /// What was not found in a closed lane may be in another bucket that has the name by now: the proposer must know.
    fn unless_closed(
        &mut self,
        change: &Change<'_, '_>,
        at: Address<'_>,
        outcome: Outcome,
    ) -> Result<Outcome, IndexError> {
        match outcome {
            Outcome::Refused(Refusal::NoSuchKey | Refusal::NoSuchUpload) => {
                let open = self.check_open(change, at.bucket, at.lane)?;
                Ok(open.map_or_else(Outcome::Refused, |()| outcome))
            }
            _ => Ok(outcome),
        }
    }
}

/// A version to write; `details` are encoded [`VersionDetails`].
pub struct Version<'a> {
    pub size: u64,
    pub etag: Etag,
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
    pub body: Body,
    pub details: &'a [u8],
    /// Shards of the body that are still to be made.
    pub missed: &'a [MissedSlot],
}

/// A version as it was found.
pub struct Found {
    pub summary: VersionSummary,
    pub body: Body,
}

/// The changes of one command.
pub struct Change<'a, 'b> {
    pub turn: &'a mut Turn<'b>,
    /// What the group holds, as this command leaves it.
    usage: Usage,
    /// Whether `usage` is another than in the state.
    recount: bool,
    /// Entries that went onto the reclaim queue.
    reclaimed: u32,
}

impl Change<'_, '_> {
    /// Writes what the group holds now, if that has changed, and gives it.
    fn finish(self) -> Result<Usage, IndexError> {
        if self.recount {
            let value = values::encode(&self.usage)?;
            let key = keys::usage(self.turn.group);
            self.turn.batch.put(Keyspace::Records, key, value);
        }
        Ok(self.usage)
    }

    /// What the group holds, to be changed.
    pub fn recount(&mut self) -> &mut Usage {
        self.recount = true;
        &mut self.usage
    }

    pub fn object_key(&self, at: Address<'_>) -> Vec<u8> {
        keys::object(self.turn.group, at.bucket, at.lane, at.key)
    }

    /// The newest version of the object.
    pub fn newest(&self, object: &[u8]) -> Result<Option<Found>, IndexError> {
        let Some(value) = self.turn.state.get(Keyspace::Objects, object)? else {
            return Ok(None);
        };
        let (summary, body, _) = values::version_body(&value)?;
        Ok(Some(Found { summary, body }))
    }

    fn put(
        &mut self,
        at: Address<'_>,
        condition: &Condition,
        version: &Version<'_>,
        inline: &[u8],
    ) -> Result<Outcome, IndexError> {
        let object = self.object_key(at);
        let newest = self.newest(&object)?;
        if let Err(refusal) = condition.allows_write(newest.as_ref().map(|found| &found.summary)) {
            return Ok(Outcome::Refused(refusal));
        }
        let modified = self.turn.at.millis();
        let summary = self.summary(version, modified);
        if version.body == Body::Inline {
            let key = keys::inline(&object, summary.version);
            self.turn.batch.put(Keyspace::Inline, key, inline.to_vec());
        }
        self.write_version(object, newest, summary, version)?;
        Ok(Outcome::Written(summary))
    }

    /// The summary of a version that is written now and was `modified` then.
    pub fn summary(&self, version: &Version<'_>, modified: UnixMillis) -> VersionSummary {
        VersionSummary {
            modified,
            size: version.size,
            etag: version.etag,
            version: self.version_id(),
            null: true,
            delete_marker: false,
            checksum: version.checksum,
        }
    }

    /// The stamp, which is unique in the group, then the group, then chance.
    fn version_id(&self) -> VersionId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.turn.at.0.to_be_bytes());
        id[8..12].copy_from_slice(&self.turn.group.0.to_be_bytes());
        id[12..].copy_from_slice(&self.turn.token.0[..4]);
        VersionId(id)
    }

    /// Writes the newest version and lets go of the one before.
    pub fn write_version(
        &mut self,
        object: Vec<u8>,
        before: Option<Found>,
        summary: VersionSummary,
        version: &Version<'_>,
    ) -> Result<(), IndexError> {
        if let Some(before) = before {
            // A body that the new version names again stays. (Inline bytes are each version's own.)
            if before.body != version.body || before.body == Body::Inline {
                self.let_go(&object, &before)?;
            } else {
                self.recount().remove(&before.body, before.summary.size);
            }
        }
        let value = values::encode_version(&summary, &version.body, version.details)?;
        self.turn.batch.put(Keyspace::Objects, object, value);
        self.recount().add(&version.body, version.size);
        if let Body::Chunked(body) = &version.body {
            apply_redundancy::note_missed(self, body, version.missed)?;
        }
        Ok(())
    }

    /// Queues or deletes the body of a version that is no longer named.
    fn let_go(&mut self, object: &[u8], version: &Found) -> Result<(), IndexError> {
        self.recount().remove(&version.body, version.summary.size);
        match &version.body {
            Body::Empty => Ok(()),
            Body::Inline => {
                let key = keys::inline(object, version.summary.version);
                self.turn.batch.delete(Keyspace::Inline, key);
                Ok(())
            }
            Body::Chunked(body) => self.reclaim(Entry::Body(*body)),
            Body::Multipart { table, .. } => {
                apply_redundancy::forget_table_usage(self, *table)?;
                self.reclaim(Entry::Table(*table))
            }
        }
    }

    /// Puts an entry onto the reclaim queue.
    pub fn reclaim(&mut self, entry: Entry) -> Result<(), IndexError> {
        let id = entry_id(self.turn.at, self.reclaimed);
        self.reclaimed += 1;
        let value = values::encode(&entry)?;
        self.turn
            .batch
            .put(Keyspace::Records, keys::reclaim(self.turn.group, id), value);
        Ok(())
    }

    /// Puts the body of an upload's part onto the reclaim queue.
    pub fn reclaim_part(&mut self, part: &PartRecord) -> Result<(), IndexError> {
        self.recount().remove(&part.body, part.size);
        match &part.body {
            Body::Chunked(body) => self.reclaim(Entry::Body(*body)),
            Body::Empty | Body::Inline | Body::Multipart { .. } => Ok(()),
        }
    }

    /// `again`: the command has this key before; if it could be deleted, it was.
    fn delete(
        &mut self,
        bucket: BucketId,
        key: &DeleteKey<'_>,
        again: bool,
    ) -> Result<Result<bool, Refusal>, IndexError> {
        let object = keys::object(self.turn.group, bucket, key.lane, key.key);
        let newest = if again && self.deletes(&object) {
            None
        } else {
            self.newest(&object)?
        };
        if let Err(refusal) = key
            .condition
            .allows_delete(newest.as_ref().map(|found| &found.summary))
        {
            return Ok(Err(refusal));
        }
        let Some(newest) = newest else {
            return Ok(Ok(false));
        };
        self.let_go(&object, &newest)?;
        self.turn.batch.delete(Keyspace::Objects, object);
        Ok(Ok(true))
    }

    /// Whether the batch deletes the object.
    fn deletes(&self, object: &[u8]) -> bool {
        self.turn
            .batch
            .ops
            .iter()
            .any(|op| matches!(op, Op::Delete { space: Keyspace::Objects, key } if key == object))
    }

    fn set_tags(
        &mut self,
        at: Address<'_>,
        tags: Vec<(String, String)>,
    ) -> Result<Outcome, IndexError> {
        let object = self.object_key(at);
        let Some(value) = self.turn.state.get(Keyspace::Objects, &object)? else {
            return Ok(Outcome::Refused(Refusal::NoSuchKey));
        };
        let record = values::version(&value)?;
        let details = VersionDetails {
            checksum: record.checksum,
            headers: record.headers,
            tags,
        };
        let details = postcard::to_stdvec(&details).map_err(values::unencodable)?;
        let value = values::encode_version(&record.summary, &record.body, &details)?;
        self.turn.batch.put(Keyspace::Objects, object, value);
        Ok(Outcome::Written(record.summary))
    }

    fn lane_state(&self, bucket: BucketId, lane: Lane) -> Result<LaneState, IndexError> {
        let key = keys::lane_state(self.turn.group, bucket, lane);
        match self.turn.state.get(Keyspace::Records, &key)? {
            Some(value) => values::decode(&value, "a lane"),
            None => Ok(LaneState::default()),
        }
    }

    fn set_lane_state(
        &mut self,
        bucket: BucketId,
        lane: Lane,
        state: LaneState,
    ) -> Result<(), IndexError> {
        let key = keys::lane_state(self.turn.group, bucket, lane);
        let value = values::encode(&state)?;
        self.turn.batch.put(Keyspace::Records, key, value);
        Ok(())
    }

    /// All or none.
    fn close_lanes(
        &mut self,
        bucket: BucketId,
        lanes: &[Lane],
        deletion: u64,
    ) -> Result<Outcome, IndexError> {
        let mut states = Vec::with_capacity(lanes.len());
        for lane in lanes {
            let state = self.lane_state(bucket, *lane)?;
            if state.cancelled >= deletion {
                return Ok(Outcome::Refused(Refusal::DeletionCancelled));
            }
            if !self.is_empty(bucket, *lane)? {
                return Ok(Outcome::Closed(false));
            }
            states.push(state);
        }
        for (lane, mut state) in lanes.iter().zip(states) {
            state.closed_by = state.closed_by.max(Some(deletion));
            self.set_lane_state(bucket, *lane, state)?;
        }
        Ok(Outcome::Closed(true))
    }

    fn reopen_lanes(
        &mut self,
        bucket: BucketId,
        lanes: &[Lane],
        deletion: u64,
    ) -> Result<Outcome, IndexError> {
        for lane in lanes {
            let mut state = self.lane_state(bucket, *lane)?;
            state.closed_by = state.closed_by.filter(|closed_by| *closed_by > deletion);
            state.cancelled = state.cancelled.max(deletion);
            self.set_lane_state(bucket, *lane, state)?;
        }
        Ok(Outcome::Done)
    }

    /// Whether the lane has neither objects nor uploads.
    fn is_empty(&self, bucket: BucketId, lane: Lane) -> Result<bool, IndexError> {
        let objects = keys::object_lane(self.turn.group, bucket, lane);
        let uploads = keys::upload_lane(self.turn.group, bucket, lane);
        Ok(!self.has_any(Keyspace::Objects, &objects)?
            && !self.has_any(Keyspace::Records, &uploads)?)
    }

    fn has_any(&self, space: Keyspace, prefix: &[u8]) -> Result<bool, IndexError> {
        let end = keys::successor(prefix).unwrap_or_default();
        let mut cursor = self.turn.state.cursor(space, prefix, &end)?;
        cursor.seek(prefix)?;
        Ok(cursor.entry().is_some())
    }

    /// Deletes all records whose keys begin with `prefix`; gives how many there were.
    pub fn delete_records(&mut self, prefix: &[u8]) -> Result<u64, IndexError> {
        let end = keys::successor(prefix).unwrap_or_default();
        let mut cursor = self.turn.state.cursor(Keyspace::Records, prefix, &end)?;
        cursor.seek(prefix)?;
        let mut deleted = 0;
        while let Some((key, _)) = cursor.entry() {
            self.turn.batch.delete(Keyspace::Records, key.to_vec());
            deleted += 1;
            cursor.next()?;
        }
        Ok(deleted)
    }

    /// Visits the values of all records whose keys begin with `prefix`, in order.
    pub fn each_record(
        &self,
        prefix: &[u8],
        mut visit: impl FnMut(&[u8]) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let end = keys::successor(prefix).unwrap_or_default();
        let mut cursor = self.turn.state.cursor(Keyspace::Records, prefix, &end)?;
        cursor.seek(prefix)?;
        while let Some((_, value)) = cursor.entry() {
            visit(value)?;
            cursor.next()?;
        }
        Ok(())
    }

    fn drop_reclaimed(&mut self, ids: &BTreeSet<ReclaimId>) -> Result<Outcome, IndexError> {
        let mut gone = Vec::new();
        for id in ids {
            let key = keys::reclaim(self.turn.group, *id);
            let Some(value) = self.turn.state.get(Keyspace::Records, &key)? else {
                continue;
            };
            let entry = values::decode(&value, "the reclaim queue")?;
            if self.usage.repairs_open > 0 {
                apply_redundancy::sets_of(self, &entry, &mut gone)?;
            }
            match entry {
                Entry::Body(_) => {}
                Entry::Table(table) => {
                    self.delete_records(&keys::pages(self.turn.group, table))?;
                }
                Entry::Parts(upload) => {
                    self.delete_records(&keys::parts(self.turn.group, upload))?;
                }
            }
            self.turn.batch.delete(Keyspace::Records, key);
        }
        apply_redundancy::forget_missed(self, gone)?;
        Ok(Outcome::Done)
    }
}
