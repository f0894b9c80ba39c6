//! How a metadata group decides its commands.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use holdfast_placement::command::{Decide, Turn};
use holdfast_placement::ids::{BucketId, Lane};
use holdfast_placement::planted::{Bug, planted};
use holdfast_placement::seams::{IndexError, IndexView, Keyspace, UnixMillis};

use super::apply_events::{self, Told};
use super::apply_quota::Counted;
use super::apply_versions::Written;
use super::classes::SetClass;
use super::command::{Addition, Address, Command, DeleteVersion, Outcome, Refusal, decode_missed};
use super::events::{BucketEvents, Cause, EventName};
use super::lock::VersionLock;
use super::record::{
    Body, ChecksumAlgorithm, ChecksumKind, Etag, MissedSlot, PartRecord, VersionId, VersionRef,
    VersionSummary,
};
use super::store::{Condition, DeleteOutcome, ReclaimId};
use super::usage::Usage;
use super::values::{self, LaneState, VersionDetails};
use super::versioning::{BucketVersioning, Versioning};
use super::{apply_append, apply_redundancy, apply_rename, apply_upload, keys};
use crate::repair::reclaim::{Entry, entry_id};

/// Open lanes remembered at most; one more, and all are forgotten.
const OPEN_LANES_MAX: usize = 4096;

/// A metadata group's part of a state machine.
#[derive(Default)]
pub struct ObjectGroup {
    /// Lanes that are known to be open, and what they make of writes: what the state says, for those who ask often.
    open: HashMap<(BucketId, Lane), OpenLane>,
    /// What the state says that the group holds; `None` until it is read.
    usage: Option<Usage>,
    /// Whether any key is being renamed to another group's; `None` until it is looked at.
    renaming: Option<bool>,
}

/// What a lane that is open makes of writes.
#[derive(Clone)]
struct OpenLane {
    versioning: BucketVersioning,
    /// What it tells of them; `None`: nothing.
    events: Option<Arc<BucketEvents>>,
    /// Whether it has a share of a quota, or is being counted to have one.
    is_counted: bool,
}

impl Decide for ObjectGroup {
    fn decide(
        &mut self,
        turn: &mut Turn<'_>,
        command: &[u8],
    ) -> Result<Option<Vec<u8>>, IndexError> {
        let Ok((mut command, tail)) = postcard::take_from_bytes::<Command<'_>>(command) else {
            return Ok(None);
        };
        let mut cause = Cause::Request;
        if let Command::Caused {
            cause: own,
            command: inner,
        } = command
        {
            cause = own;
            match postcard::take_from_bytes(inner) {
                Ok((inner, [])) => command = inner,
                _ => return Ok(None),
            }
        }
        let has_inline = matches!(
            command,
            Command::Put {
                body: Body::Inline,
                ..
            } | Command::Append {
                addition: Addition::Inline,
                ..
            } | Command::ReceiveRename(_)
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
            versions: 0,
            written: None,
            promoted: false,
            cause,
            told: Told::default(),
            counted: Counted::default(),
            begins_at: turn.batch.ops.len(),
            turn,
        };
        let renamed = match command.changed_key() {
            Some(at) => self.is_renaming(&change, at)?,
            None => false,
        };
        let outcome = match command {
            Command::ReplaceBody { .. } if renamed => Outcome::Refused(Refusal::BodyChanged),
            _ if renamed => Outcome::Refused(Refusal::BeingRenamed),
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
                {
                    return Ok(None);
                }
                let Some((new_details, lock)) = values::split_details(details) else {
                    return Ok(None);
                };
                let mut version = Version {
                    size,
                    etag,
                    checksum,
                    body,
                    details: Cow::Borrowed(details),
                    missed: &missed,
                };
                let now = change.turn.at.millis();
                let lane = self.check_open(&mut change, at.bucket, at.lane)?;
                match lane.and_then(|lane| Ok((lane, lock.of_new(lane.lock.as_ref(), now)?))) {
                    Err(refusal) => Outcome::Refused(refusal),
                    Ok((lane, kept)) => {
                        if kept != lock {
                            version.details = details_with(&new_details, &kept)?;
                        }
                        change.put(at, &condition, &lane, &version, tail)?
                    }
                }
            }
            Command::Delete { bucket, keys } => {
                // Of former versions of this program.
                let keys: Vec<_> = keys.into_iter().map(DeleteVersion::from).collect();
                let verdicts = self.delete(&mut change, bucket, &keys)?;
                let existed = |verdict: Result<DeleteOutcome, Refusal>| Ok(verdict?.existed);
                Outcome::Deleted(verdicts.into_iter().map(existed).collect())
            }
            Command::DeleteVersions { bucket, keys } => {
                Outcome::VersionsDeleted(self.delete(&mut change, bucket, &keys)?)
            }
            Command::SetTags { at, tags } => {
                self.check_open(&mut change, at.bucket, at.lane)?.ok();
                let outcome = set_tags(&mut change, at, None, tags)?;
                self.unless_closed(&mut change, at, outcome)?
            }
            Command::SetVersionTags { at, version, tags } => {
                self.check_open(&mut change, at.bucket, at.lane)?.ok();
                let outcome = set_tags(&mut change, at, Some(version), tags)?;
                self.unless_closed(&mut change, at, outcome)?
            }
            Command::SetAcl { at, version, acl } => {
                self.check_open(&mut change, at.bucket, at.lane)?.ok();
                let outcome = change.set_details(at, version, |details, _| {
                    details.headers.set_acl(acl);
                    Ok(())
                })?;
                change.details_changed(at, EventName::AclPut, &outcome);
                self.unless_closed(&mut change, at, outcome)?
            }
            Command::SetLock {
                at,
                version,
                change: lock_change,
                bypass_governance,
            } => match self.check_open(&mut change, at.bucket, at.lane)? {
                Err(refusal) => Outcome::Refused(refusal),
                Ok(lane) => change.set_lock(at, version, &lane, lock_change, bypass_governance)?,
            },
            Command::CreateUpload {
                at,
                upload,
                headers,
                tags,
                checksum,
            } => match self.check_open(&mut change, at.bucket, at.lane)? {
                Err(refusal) => Outcome::Refused(refusal),
                Ok(_) => apply_upload::create(&mut change, at, upload, headers, tags, checksum)?,
            },
            Command::CreateLockedUpload {
                at,
                upload,
                headers,
                tags,
                checksum,
                lock,
            } => {
                let now = change.turn.at.millis();
                let lane = self.check_open(&mut change, at.bucket, at.lane)?;
                match lane.and_then(|lane| lock.of_new(lane.lock.as_ref(), now)) {
                    Err(refusal) => Outcome::Refused(refusal),
                    Ok(_) => {
                        apply_upload::lock(&mut change, upload, &lock)?;
                        apply_upload::create(&mut change, at, upload, headers, tags, checksum)?
                    }
                }
            }
            Command::PutPart { at, upload, part } => {
                if matches!(part.body, Body::Inline | Body::Multipart { .. }) {
                    return Ok(None);
                }
                match self.check_open(&mut change, at.bucket, at.lane)? {
                    Err(refusal) => Outcome::Refused(refusal),
                    Ok(_) => apply_upload::put_part(&mut change, at, upload, part, &missed)?,
                }
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
                match self.check_open(&mut change, at.bucket, at.lane)? {
                    Err(refusal) => Outcome::Refused(refusal),
                    Ok(lane) => {
                        apply_upload::complete(&mut change, at, &lane, &condition, completion)?
                    }
                }
            }
            Command::AbortUpload { at, upload } => {
                // In a lane that is closed too: it may be opened again.
                change.watch_quota(at.bucket, at.lane)?;
                let outcome = apply_upload::abort(&mut change, at, upload)?;
                self.unless_closed(&mut change, at, outcome)?
            }
            Command::Append {
                at,
                condition,
                base,
                size,
                etag,
                checksum,
                addition,
            } => {
                let append = apply_append::Append {
                    base,
                    size,
                    etag,
                    checksum,
                    addition,
                    inline: tail,
                    missed: &missed,
                };
                match self.check_open(&mut change, at.bucket, at.lane)? {
                    Err(refusal) => Outcome::Refused(refusal),
                    Ok(lane) if lane.keeps_versions() => Outcome::Refused(Refusal::KeepsVersions),
                    Ok(_) => match apply_append::append(&mut change, at, &condition, append)? {
                        Some(outcome) => outcome,
                        None => return Ok(None),
                    },
                }
            }
            Command::Rename {
                id,
                from,
                to,
                source,
                destination,
                token,
            } => {
                let either = self.is_renaming(&change, from)? || self.is_renaming(&change, to)?;
                let lanes = (
                    self.check_open(&mut change, from.bucket, from.lane)?,
                    self.check_open(&mut change, to.bucket, to.lane)?,
                );
                match lanes {
                    _ if either => Outcome::Refused(Refusal::BeingRenamed),
                    (Err(refusal), _) | (_, Err(refusal)) => Outcome::Refused(refusal),
                    (Ok(lane), Ok(_)) if lane.keeps_versions() => {
                        Outcome::Refused(Refusal::KeepsVersions)
                    }
                    (Ok(_), Ok(lane)) => {
                        let conditions = (&source, &destination);
                        Outcome::Renamed(apply_rename::within(
                            &mut change,
                            id,
                            (from, to),
                            &lane,
                            conditions,
                            token,
                        )?)
                    }
                }
            }
            Command::BeginRename {
                at,
                condition,
                intent,
            } => match self.check_open(&mut change, at.bucket, at.lane)? {
                Err(refusal) => Outcome::Refused(refusal),
                Ok(lane) if lane.keeps_versions() => Outcome::Refused(Refusal::KeepsVersions),
                Ok(_) => {
                    self.renaming = None;
                    Outcome::Renamed(apply_rename::begin(&mut change, at, &condition, intent)?)
                }
            },
            Command::ReceiveRename(rename) => {
                let at = rename.at;
                let lane = self.check_open(&mut change, at.bucket, at.lane)?;
                let renaming = self.is_renaming(&change, at)?;
                change.told.is_unbounded = true;
                match apply_rename::receive(&mut change, rename, lane, renaming, tail)? {
                    Some(verdict) => Outcome::Renamed(verdict),
                    None => return Ok(None),
                }
            }
            Command::EndRename { at, id, has_moved } => {
                self.renaming = None;
                self.check_open(&mut change, at.bucket, at.lane)?.ok();
                change.told.is_unbounded = true;
                apply_rename::end(&mut change, at, id, has_moved)?;
                Outcome::Done
            }
            Command::RenameEnded { id } => apply_rename::ended(&mut change, id)?,
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
            Command::SetVersioning {
                bucket,
                lanes,
                versioning,
            } => {
                for lane in &lanes {
                    self.open.remove(&(bucket, *lane));
                }
                change.set_versioning(bucket, &lanes, versioning)?
            }
            Command::SetEvents {
                bucket,
                lanes,
                events,
                test,
            } => {
                for lane in &lanes {
                    self.open.remove(&(bucket, *lane));
                }
                change.set_events(bucket, &lanes, &events, test)?
            }
            Command::OrderShares {
                bucket,
                change: number,
                orders,
            } => {
                for (lane, _) in &orders {
                    self.open.remove(&(bucket, *lane));
                }
                change.order_shares(bucket, number, &orders)?
            }
            Command::SetClasses { bucket, changes } => {
                Outcome::ClassesSet(self.set_classes(&mut change, bucket, &changes)?)
            }
            Command::CountLanes {
                bucket,
                lanes,
                entries,
            } => {
                for lane in &lanes {
                    self.open.remove(&(bucket, *lane));
                }
                change.count_lanes(bucket, &lanes, entries)?
            }
            Command::CarryOut {
                bucket,
                tags,
                actions,
            } => Outcome::CarriedOut(self.carry_out(&mut change, bucket, &tags, &actions)?),
            Command::ForgetEvents { target, through } => change.forget_events(target, through)?,
            Command::Caused { .. } => return Ok(None),
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
        let refusal = match change.counted.refusal() {
            None if !change.queue_events()? => Some(Refusal::EventsWaiting),
            refusal => refusal,
        };
        let outcome = match refusal {
            None => {
                change.write_counted()?;
                self.usage = Some(change.finish()?);
                outcome
            }
            Some(refusal) => {
                change.undo();
                apply_events::refused(&outcome, refusal)
            }
        };
        Ok(Some(
            postcard::to_stdvec(&outcome).map_err(values::unencodable)?,
        ))
    }

    fn restored(&mut self, _state: &dyn IndexView) -> Result<(), IndexError> {
        self.open.clear();
        self.usage = None;
        self.renaming = None;
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

    /// Whether a key is being renamed to another group's.
    pub(super) fn is_renaming(
        &mut self,
        change: &Change<'_, '_>,
        at: Address<'_>,
    ) -> Result<bool, IndexError> {
        let any = match self.renaming {
            Some(any) => any,
            None => {
                let all = keys::all_rename_intents(change.turn.group);
                change.has_any(Keyspace::Records, &all)?
            }
        };
        self.renaming = Some(any);
        Ok(any && apply_rename::intent(change, at)?.is_some())
    }

    pub(super) fn check_open(
        &mut self,
        change: &mut Change<'_, '_>,
        bucket: BucketId,
        lane: Lane,
    ) -> Result<Result<BucketVersioning, Refusal>, IndexError> {
        if let Some(open) = self.open.get(&(bucket, lane)) {
            if let Some(events) = &open.events {
                change.told.watch(bucket, lane, events);
            }
            if open.is_counted {
                change.watch_quota(bucket, lane)?;
            }
            return Ok(Ok(open.versioning));
        }
        let state = change.lane_state(bucket, lane)?;
        if state.closed_by.is_some() {
            return Ok(Err(Refusal::LaneClosed));
        }
        if self.open.len() >= OPEN_LANES_MAX {
            self.open.clear();
        }
        let events = change.lane_events(bucket, lane)?;
        let events = events.filter(|events| !events.rules.is_empty());
        let open = OpenLane {
            versioning: state.versioning,
            events: events.map(Arc::new),
            is_counted: change.watch_quota(bucket, lane)?,
        };
        if let Some(events) = &open.events {
            change.told.watch(bucket, lane, events);
        }
        self.open.insert((bucket, lane), open);
        Ok(Ok(state.versioning))
    }

    /// Deletes keys and versions. A closed lane has nothing to delete, and gets no delete markers.
    fn delete(
        &mut self,
        change: &mut Change<'_, '_>,
        bucket: BucketId,
        keys: &[DeleteVersion<'_>],
    ) -> Result<Vec<Result<DeleteOutcome, Refusal>>, IndexError> {
        let mut lanes = Vec::with_capacity(keys.len());
        for key in keys {
            let at = Address {
                bucket,
                lane: key.lane,
                key: key.key,
            };
            lanes.push(match self.is_renaming(change, at)? {
                true => Err(Refusal::BeingRenamed),
                false => self.check_open(change, bucket, key.lane)?,
            });
        }
        let open = keys.iter().zip(&lanes).filter_map(|(key, lane)| {
            let at = Address {
                bucket,
                lane: key.lane,
                key: key.key,
            };
            Some((at, key, lane.ok()?))
        });
        let mut verdicts = change.delete_versions(open)?.into_iter();
        let all = lanes.iter().map(|lane| match lane {
            Ok(_) => verdicts.next().unwrap_or(Ok(DeleteOutcome::default())),
            Err(refusal) => Err(*refusal),
        });
        Ok(all.collect())
    }

    /// Gives versions other storage classes. Those of keys that are being renamed get theirs when that is over.
    fn set_classes(
        &mut self,
        change: &mut Change<'_, '_>,
        bucket: BucketId,
        changes: &[SetClass<'_>],
    ) -> Result<Vec<bool>, IndexError> {
        let mut done = Vec::with_capacity(changes.len());
        for set in changes {
            let at = Address {
                bucket,
                lane: set.lane,
                key: set.key,
            };
            let is_free = !self.is_renaming(change, at)?
                && self.check_open(change, bucket, set.lane)?.is_ok();
            done.push(is_free && change.set_class(at, set)?);
        }
        Ok(done)
    }

    /// What was not found in a closed lane may be in another bucket that has the name by now: the proposer must know.
    fn unless_closed(
        &mut self,
        change: &mut Change<'_, '_>,
        at: Address<'_>,
        outcome: Outcome,
    ) -> Result<Outcome, IndexError> {
        match outcome {
            Outcome::Refused(
                Refusal::NoSuchKey | Refusal::NoSuchVersion | Refusal::NoSuchUpload,
            ) => {
                let open = self.check_open(change, at.bucket, at.lane)?;
                Ok(open.map_or_else(Outcome::Refused, |_| outcome))
            }
            _ => Ok(outcome),
        }
    }
}

fn set_tags(
    change: &mut Change<'_, '_>,
    at: Address<'_>,
    version: Option<VersionRef>,
    tags: Vec<(String, String)>,
) -> Result<Outcome, IndexError> {
    let outcome = change.set_details(at, version, |details, _| {
        details.tags = tags;
        Ok(())
    })?;
    let name = EventName::of_tagging(change.cause);
    change.details_changed(at, name, &outcome);
    Ok(outcome)
}

/// Encoded details with a lock.
pub fn details_with(
    details: &VersionDetails,
    lock: &VersionLock,
) -> Result<Cow<'static, [u8]>, IndexError> {
    let details = values::encode_details(details, lock).map_err(values::unencodable)?;
    Ok(Cow::Owned(details))
}

/// A version to write; `details` are encoded [`VersionDetails`].
pub struct Version<'a> {
    pub size: u64,
    pub etag: Etag,
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
    pub body: Body,
    pub details: Cow<'a, [u8]>,
    /// Shards of the body that are still to be made.
    pub missed: &'a [MissedSlot],
}

/// A version as it was found.
pub struct Found {
    pub summary: VersionSummary,
    pub body: Body,
    /// All of it.
    pub value: Bytes,
}

impl Found {
    pub fn of(value: Bytes) -> Result<Self, IndexError> {
        let (summary, body, _) = values::version_body(&value)?;
        Ok(Self {
            summary,
            body,
            value,
        })
    }
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
    /// Version ids that were given.
    versions: u16,
    /// Kept by commands that read what they have written.
    pub(super) written: Option<Written>,
    /// Whether a version came back to `objects`.
    pub(super) promoted: bool,
    /// Why the command is made.
    pub(super) cause: Cause,
    /// What it is to be told as.
    pub(super) told: Told,
    /// What it adds to lanes with quotas, and takes from them.
    pub(super) counted: Counted,
    /// Where in the batch its changes begin.
    begins_at: usize,
}

impl Change<'_, '_> {
    /// Writes what the group holds now, if that has changed, and gives it.
    fn finish(self) -> Result<Usage, IndexError> {
        if self.promoted {
            let key = keys::promotions(self.turn.group);
            let count: u64 = match self.turn.state.get(Keyspace::Records, &key)? {
                Some(value) => values::decode(&value, "promotions")?,
                None => 0,
            };
            let value = values::encode(&(count + 1))?;
            self.turn.batch.put(Keyspace::Records, key, value);
        }
        if self.recount {
            let value = values::encode(&self.usage)?;
            let key = keys::usage(self.turn.group);
            self.turn.batch.put(Keyspace::Records, key, value);
        }
        Ok(self.usage)
    }

    /// Takes back all that the command has changed.
    fn undo(self) {
        self.turn.batch.ops.truncate(self.begins_at);
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
        self.read(Keyspace::Objects, object)?
            .map(Found::of)
            .transpose()
    }

    fn put(
        &mut self,
        at: Address<'_>,
        condition: &Condition,
        lane: &BucketVersioning,
        version: &Version<'_>,
        inline: &[u8],
    ) -> Result<Outcome, IndexError> {
        let object = self.object_key(at);
        let newest = self.newest(&object)?;
        let allowed = condition.allows_write(newest.as_ref().map(|found| &found.summary));
        if let Err(refusal) = allowed
            && !planted(Bug::ConditionDecidedEarly)
        {
            return Ok(Outcome::Refused(refusal));
        }
        let modified = self.turn.at.millis();
        let summary = self.summary(version, lane, modified);
        if version.body == Body::Inline {
            let key = keys::inline(&object, summary.version);
            self.turn.batch.put(Keyspace::Inline, key, inline.to_vec());
        }
        self.write_version(at, lane, newest, summary, version)?;
        let name = EventName::of_write(self.cause);
        self.happened(at, name, &summary, lane.keeps_versions());
        Ok(Outcome::Written(summary))
    }

    /// The summary of a version that is written now and was `modified` then.
    pub fn summary(
        &mut self,
        version: &Version<'_>,
        lane: &BucketVersioning,
        modified: UnixMillis,
    ) -> VersionSummary {
        VersionSummary {
            modified,
            size: version.size,
            etag: version.etag,
            version: self.version_id(),
            null: lane.versioning != Versioning::Enabled,
            delete_marker: false,
            checksum: version.checksum,
        }
    }

    /// The stamp, which is unique in the group, then a number in the command, then the group, then chance.
    pub(super) fn version_id(&mut self) -> VersionId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.turn.at.0.to_be_bytes());
        id[8..12].copy_from_slice(&self.turn.group.0.to_be_bytes());
        // Groups are few.
        id[8..10].copy_from_slice(&self.versions.to_be_bytes());
        id[12..].copy_from_slice(&self.turn.token.0[..4]);
        self.versions = self.versions.wrapping_add(1);
        VersionId(id)
    }

    /// Writes the newest version; the one before is let go of or, where the lane keeps versions, no longer the newest.
    pub fn write_version(
        &mut self,
        at: Address<'_>,
        lane: &BucketVersioning,
        before: Option<Found>,
        summary: VersionSummary,
        version: &Version<'_>,
    ) -> Result<(), IndexError> {
        let object = self.object_key(at);
        if planted(Bug::ReclaimLiveBody)
            && let Body::Chunked(body) = &version.body
        {
            self.reclaim(Entry::Body(*body))?;
        }
        match before {
            // A body that the new version names again stays. (Inline bytes are each version's own.)
            Some(before)
                if before.summary.null
                    && summary.null
                    && before.body == version.body
                    && before.body != Body::Inline =>
            {
                self.recount().remove(&before.body, before.summary.size);
                self.version_went(at, &before.summary);
            }
            before => self.retire(at, &object, lane, before)?,
        }
        let value = values::encode_version(&summary, &version.body, &version.details)?;
        self.turn.batch.put(Keyspace::Objects, object, value);
        self.recount().add(&version.body, version.size);
        self.version_came(at, &summary);
        if let Body::Chunked(body) = &version.body {
            apply_redundancy::note_missed(self, body, version.missed)?;
        }
        Ok(())
    }

    /// Queues or deletes the body of a version that is no longer named.
    pub(super) fn let_go(
        &mut self,
        at: Address<'_>,
        object: &[u8],
        version: &Found,
    ) -> Result<(), IndexError> {
        self.recount().remove(&version.body, version.summary.size);
        self.version_went(at, &version.summary);
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
    pub fn reclaim_part(&mut self, at: Address<'_>, part: &PartRecord) -> Result<(), IndexError> {
        self.recount().remove(&part.body, part.size);
        self.parts_went(at, part.size);
        match &part.body {
            Body::Chunked(body) => self.reclaim(Entry::Body(*body)),
            Body::Empty | Body::Inline | Body::Multipart { .. } => Ok(()),
        }
    }

    fn lane_state(&self, bucket: BucketId, lane: Lane) -> Result<LaneState, IndexError> {
        let key = keys::lane_state(self.turn.group, bucket, lane);
        match self.turn.state.get(Keyspace::Records, &key)? {
            Some(value) => LaneState::decode(&value),
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
        self.turn.batch.put(Keyspace::Records, key, state.encode()?);
        Ok(())
    }

    /// A change that is older than the lane's own comes too late.
    fn set_versioning(
        &mut self,
        bucket: BucketId,
        lanes: &[Lane],
        versioning: BucketVersioning,
    ) -> Result<Outcome, IndexError> {
        for lane in lanes {
            let mut state = self.lane_state(bucket, *lane)?;
            if state.versioning.change < versioning.change {
                state.versioning = versioning;
                self.set_lane_state(bucket, *lane, state)?;
            }
        }
        Ok(Outcome::Done)
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

    /// Whether the lane has no versions, of whatever kind. (Uploads go with the bucket.)
    fn is_empty(&self, bucket: BucketId, lane: Lane) -> Result<bool, IndexError> {
        let objects = keys::object_lane(self.turn.group, bucket, lane);
        let noncurrent = keys::noncurrent_lane(self.turn.group, bucket, lane);
        Ok(!self.has_any(Keyspace::Objects, &objects)?
            && !self.has_any(Keyspace::Records, &noncurrent)?)
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
                Entry::Table(table) | Entry::TableAlone(table) => {
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
