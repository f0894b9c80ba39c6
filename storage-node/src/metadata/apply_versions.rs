//! How a metadata group keeps several versions of a key.
//!
//! `objects` has a key's newest version, if that is an object. All others, delete markers among them, lie in `records`,
//! newest first; so whoever reads or lists objects never meets them. A write that makes another version the newest
//! moves the former there; removing the newest moves the next one back.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use holdfast_placement::seams::{IndexError, Keyspace};

use super::apply::{Change, Found};
use super::command::{Address, DeleteVersion, Outcome, Refusal};
use super::events::EventName;
use super::keys;
use super::lock::{LockChange, VersionLock};
use super::record::{Body, Etag, VersionId, VersionRef, VersionSummary};
use super::store::{Condition, DeleteOutcome};
use super::values::{self, VersionDetails};
use super::versioning::{BucketVersioning, Versioning};

/// What a command has written so far to what it may read again: the state does not show it yet.
#[derive(Default)]
pub struct Written {
    changes: BTreeMap<(Keyspace, Vec<u8>), Option<Bytes>>,
    /// Keys of `objects` whose newest version was removed, with their lanes' addresses.
    removed: BTreeSet<Vec<u8>>,
}

/// A version as it was found among the noncurrent ones or as the newest.
pub(super) struct Placed {
    pub(super) found: Found,
    /// Its key in `records`; `None`: it is in `objects`.
    pub(super) noncurrent: Option<Vec<u8>>,
}

impl Change<'_, '_> {
    /// As the state and this command say.
    pub fn read(&self, space: Keyspace, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        if let Some(written) = &self.written
            && let Some(value) = written.changes.get(&(space, key.to_vec()))
        {
            return Ok(value.clone());
        }
        self.turn.state.get(space, key)
    }

    /// Writes what this command may read again.
    pub fn write(&mut self, space: Keyspace, key: Vec<u8>, value: impl Into<Bytes>) {
        let value = value.into();
        if let Some(written) = &mut self.written {
            let change = Some(value.clone());
            written.changes.insert((space, key.clone()), change);
        }
        self.turn.batch.put(space, key, value);
    }

    /// Deletes what this command may read again.
    pub fn erase(&mut self, space: Keyspace, key: Vec<u8>) {
        if let Some(written) = &mut self.written {
            written.changes.insert((space, key.clone()), None);
        }
        self.turn.batch.delete(space, key);
    }

    fn noncurrent_key(&self, at: Address<'_>, version: VersionId) -> Vec<u8> {
        let mut key = keys::noncurrent_versions(self.turn.group, at.bucket, at.lane, at.key);
        key.extend_from_slice(&keys::newest_first(version));
        key
    }

    fn null_key(&self, at: Address<'_>) -> Vec<u8> {
        keys::null_version(self.turn.group, at.bucket, at.lane, at.key)
    }

    /// Writes a version among the noncurrent ones.
    fn write_noncurrent(
        &mut self,
        at: Address<'_>,
        summary: &VersionSummary,
        value: Bytes,
    ) -> Result<(), IndexError> {
        let key = self.noncurrent_key(at, summary.version);
        self.write(Keyspace::Records, key, value);
        if summary.null {
            let version = values::encode(&summary.version)?;
            let key = self.null_key(at);
            self.write(Keyspace::Records, key, version);
        }
        Ok(())
    }

    /// Takes a version from among the noncurrent ones.
    fn erase_noncurrent(&mut self, at: Address<'_>, key: Vec<u8>, null: bool) {
        self.erase(Keyspace::Records, key);
        if null {
            let key = self.null_key(at);
            self.erase(Keyspace::Records, key);
        }
    }

    /// Makes room for a new newest version, or for a delete marker: what of the former newest and of the null version
    /// the lane wants to keep goes to the noncurrent versions, the rest is let go of.
    pub fn retire(
        &mut self,
        at: Address<'_>,
        object: &[u8],
        lane: &BucketVersioning,
        newest: Option<Found>,
    ) -> Result<(), IndexError> {
        let replaces_null = lane.versioning != Versioning::Enabled;
        let newest_is_null = newest.as_ref().is_some_and(|found| found.summary.null);
        match newest {
            Some(found) if replaces_null && found.summary.null => {
                self.let_go(at, object, &found)?
            }
            Some(found) => self.write_noncurrent(at, &found.summary, found.value)?,
            None => {}
        }
        // There is one null version at most.
        if lane.versioning == Versioning::Suspended
            && !newest_is_null
            && let Some(null) = self.find_noncurrent(at, VersionRef::Null)?
        {
            self.remove(at, object, null)?;
        }
        Ok(())
    }

    /// Deletes a key: the object of a bucket without versions goes, any other bucket gets a delete marker.
    pub(super) fn delete_key(
        &mut self,
        at: Address<'_>,
        condition: &Condition,
        lane: &BucketVersioning,
    ) -> Result<Result<DeleteOutcome, Refusal>, IndexError> {
        let object = self.object_key(at);
        let newest = self.newest(&object)?;
        let existed = newest.is_some();
        let marker = match &newest {
            None if *condition != Condition::default() && lane.keeps_versions() => {
                self.newest_noncurrent(at)?
            }
            _ => None,
        };
        let judged = newest
            .as_ref()
            .or(marker.as_ref().map(|placed| &placed.found));
        if let Err(refusal) = condition.allows_delete(judged.map(|found| &found.summary)) {
            return Ok(Err(refusal));
        }
        if existed {
            self.erase(Keyspace::Objects, object.clone());
        }
        if !lane.keeps_versions() {
            if let Some(newest) = newest {
                self.let_go(at, &object, &newest)?;
                let name = EventName::of_removal(self.cause, false);
                self.happened(at, name, &newest.summary, false);
            }
            let marker = None;
            return Ok(Ok(DeleteOutcome { existed, marker }));
        }
        self.retire(at, &object, lane, newest)?;
        let summary = VersionSummary {
            modified: self.turn.at.millis(),
            size: 0,
            etag: Etag::Md5([0; 16]),
            version: self.version_id(),
            null: lane.versioning == Versioning::Suspended,
            delete_marker: true,
            checksum: None,
        };
        let details = values::encode_details(&VersionDetails::default(), &VersionLock::default())
            .map_err(values::unencodable)?;
        let value = values::encode_version(&summary, &Body::Empty, &details)?;
        self.write_noncurrent(at, &summary, value.into())?;
        let name = EventName::of_removal(self.cause, true);
        self.happened(at, name, &summary, true);
        let marker = Some(summary.name());
        Ok(Ok(DeleteOutcome { existed, marker }))
    }

    /// Deletes several keys and versions, one after the other.
    pub fn delete_versions<'k>(
        &mut self,
        keys: impl Iterator<Item = (Address<'k>, &'k DeleteVersion<'k>, BucketVersioning)>,
    ) -> Result<Vec<Result<DeleteOutcome, Refusal>>, IndexError> {
        self.written = Some(Written::default());
        let mut verdicts = Vec::new();
        let mut named: BTreeMap<Vec<u8>, Address<'k>> = BTreeMap::new();
        for (at, delete, lane) in keys {
            let verdict = match delete.version {
                Some(version) => {
                    named.insert(self.object_key(at), at);
                    self.delete_version(at, version, delete, &lane)?
                }
                None => {
                    // What versions were removed before, the next one counts now.
                    self.promote_removed(&named)?;
                    self.delete_key(at, &delete.condition, &lane)?
                }
            };
            verdicts.push(verdict);
        }
        self.promote_removed(&named)?;
        Ok(verdicts)
    }

    fn delete_version(
        &mut self,
        at: Address<'_>,
        version: VersionRef,
        delete: &DeleteVersion<'_>,
        lane: &BucketVersioning,
    ) -> Result<Result<DeleteOutcome, Refusal>, IndexError> {
        let placed = self.find(at, version)?;
        let summary = placed.as_ref().map(|placed| &placed.found.summary);
        if let Err(refusal) = delete.condition.allows_delete(summary) {
            return Ok(Err(refusal));
        }
        let Some(placed) = placed else {
            return Ok(Ok(DeleteOutcome::default()));
        };
        self.remove_placed(at, placed, lane, delete.bypass_governance)
    }

    /// Removes a version for ever, unless it is locked.
    pub(super) fn remove_placed(
        &mut self,
        at: Address<'_>,
        placed: Placed,
        lane: &BucketVersioning,
        bypass_governance: bool,
    ) -> Result<Result<DeleteOutcome, Refusal>, IndexError> {
        let lock = values::version(&placed.found.value)?.lock;
        if let Err(refusal) = lock.allows_removal(self.turn.at.millis(), bypass_governance) {
            return Ok(Err(refusal));
        }
        let object = self.object_key(at);
        let summary = placed.found.summary;
        self.remove(at, &object, placed)?;
        if let Some(written) = &mut self.written {
            written.removed.insert(object);
        }
        let name = EventName::of_removal(self.cause, false);
        self.happened(at, name, &summary, lane.keeps_versions());
        Ok(Ok(DeleteOutcome {
            existed: true,
            marker: summary.delete_marker.then(|| summary.name()),
        }))
    }

    /// Removes a version for ever.
    fn remove(&mut self, at: Address<'_>, object: &[u8], placed: Placed) -> Result<(), IndexError> {
        self.let_go(at, object, &placed.found)?;
        match placed.noncurrent {
            Some(key) => self.erase_noncurrent(at, key, placed.found.summary.null),
            None => self.erase(Keyspace::Objects, object.to_vec()),
        }
        Ok(())
    }

    /// Where versions were removed, the newest of those left is the object again, unless it is a delete marker.
    fn promote_removed(
        &mut self,
        named: &BTreeMap<Vec<u8>, Address<'_>>,
    ) -> Result<(), IndexError> {
        let removed = self
            .written
            .as_mut()
            .map(|written| std::mem::take(&mut written.removed));
        for object in removed.unwrap_or_default() {
            let Some(at) = named.get(&object).copied() else {
                continue;
            };
            if self.newest(&object)?.is_some() {
                continue;
            }
            let Some(next) = self.newest_noncurrent(at)? else {
                continue;
            };
            let summary = next.found.summary;
            if let (false, Some(key)) = (summary.delete_marker, next.noncurrent) {
                self.erase_noncurrent(at, key, summary.null);
                self.write(Keyspace::Objects, object, next.found.value);
                self.promoted = true;
            }
        }
        Ok(())
    }

    /// The version of the key that is called so.
    fn find(&self, at: Address<'_>, version: VersionRef) -> Result<Option<Placed>, IndexError> {
        match self.newest(&self.object_key(at))? {
            Some(found) if found.summary.name() == version => {
                let noncurrent = None;
                Ok(Some(Placed { found, noncurrent }))
            }
            _ => self.find_noncurrent(at, version),
        }
    }

    fn find_noncurrent(
        &self,
        at: Address<'_>,
        version: VersionRef,
    ) -> Result<Option<Placed>, IndexError> {
        let id = match version {
            VersionRef::Id(id) => id,
            VersionRef::Null => match self.read(Keyspace::Records, &self.null_key(at))? {
                Some(value) => values::decode(&value, "a null version")?,
                None => return Ok(None),
            },
        };
        let key = self.noncurrent_key(at, id);
        let Some(value) = self.read(Keyspace::Records, &key)? else {
            return Ok(None);
        };
        let found = Found::of(value)?;
        let noncurrent = Some(key);
        Ok(Some(Placed { found, noncurrent })
            .filter(|placed| placed.found.summary.name() == version))
    }

    /// The version of that id, whatever it is called.
    pub(super) fn placed(
        &self,
        at: Address<'_>,
        version: VersionId,
    ) -> Result<Option<Placed>, IndexError> {
        let Some((space, key, value)) = self.value_of(at, Some(version))? else {
            return Ok(None);
        };
        let noncurrent = (space == Keyspace::Records).then_some(key);
        let found = Found::of(value)?;
        Ok(Some(Placed { found, noncurrent }))
    }

    /// Whether the key has no other version than this one, which is not in `objects`.
    pub(super) fn is_alone(&self, at: Address<'_>, placed: &Placed) -> Result<bool, IndexError> {
        let Some(key) = &placed.noncurrent else {
            return Ok(false);
        };
        if self.newest(&self.object_key(at))?.is_some() {
            return Ok(false);
        }
        let first = self.newest_noncurrent(at)?;
        let is_first = first.is_some_and(|first| first.noncurrent == placed.noncurrent);
        let after = [key, &[0][..]].concat();
        Ok(is_first && self.first_noncurrent(at, after)?.is_none())
    }

    /// The newest of the key's noncurrent versions.
    fn newest_noncurrent(&self, at: Address<'_>) -> Result<Option<Placed>, IndexError> {
        let from = keys::noncurrent_versions(self.turn.group, at.bucket, at.lane, at.key);
        self.first_noncurrent(at, from)
    }

    /// The first of the key's noncurrent versions that lies at `from` in `records` or behind it.
    fn first_noncurrent(
        &self,
        at: Address<'_>,
        from: Vec<u8>,
    ) -> Result<Option<Placed>, IndexError> {
        let prefix = keys::noncurrent_versions(self.turn.group, at.bucket, at.lane, at.key);
        let end = keys::successor(&prefix).unwrap_or_default();
        let mut changes = self.written.as_ref().map(|written| {
            let from = (Keyspace::Records, from.clone());
            let to = (Keyspace::Records, end.clone());
            written.changes.range(from..to)
        });
        let written_first = changes
            .as_mut()
            .and_then(|changes| changes.find_map(|((_, key), value)| Some((key, value.as_ref()?))));
        let mut cursor = self.turn.state.cursor(Keyspace::Records, &from, &end)?;
        cursor.seek(&from)?;
        while let Some((key, value)) = cursor.entry() {
            if written_first.is_some_and(|(first, _)| &first[..] <= key) {
                break;
            }
            let changed = self.written.as_ref().is_some_and(|written| {
                let place = (Keyspace::Records, key.to_vec());
                written.changes.contains_key(&place)
            });
            if !changed {
                let found = Found::of(Bytes::copy_from_slice(value))?;
                let noncurrent = Some(key.to_vec());
                return Ok(Some(Placed { found, noncurrent }));
            }
            cursor.next()?;
        }
        match written_first {
            Some((key, value)) => Ok(Some(Placed {
                found: Found::of(value.clone())?,
                noncurrent: Some(key.clone()),
            })),
            None => Ok(None),
        }
    }

    /// The value of a version, and where it is; `None`: the newest, if that is an object.
    pub fn value_of(
        &self,
        at: Address<'_>,
        version: Option<VersionId>,
    ) -> Result<Option<(Keyspace, Vec<u8>, Bytes)>, IndexError> {
        let object = self.object_key(at);
        let newest = self.read(Keyspace::Objects, &object)?;
        let Some(version) = version else {
            return Ok(newest.map(|value| (Keyspace::Objects, object, value)));
        };
        if let Some(value) = newest
            && values::version_summary(&value)?.0.version == version
        {
            return Ok(Some((Keyspace::Objects, object, value)));
        }
        let key = self.noncurrent_key(at, version);
        let value = self.read(Keyspace::Records, &key)?;
        Ok(value.map(|value| (Keyspace::Records, key, value)))
    }

    /// Changes what of a version its readers see besides its bytes.
    pub fn set_details(
        &mut self,
        at: Address<'_>,
        version: Option<VersionRef>,
        change: impl FnOnce(&mut VersionDetails, &mut VersionLock) -> Result<(), Refusal>,
    ) -> Result<Outcome, IndexError> {
        let object = self.object_key(at);
        let placed = match version {
            Some(version) => self.find(at, version)?,
            None => self.newest(&object)?.map(|found| Placed {
                found,
                noncurrent: None,
            }),
        };
        let Some(Placed { found, noncurrent }) = placed else {
            return Ok(Outcome::Refused(match version {
                Some(_) => Refusal::NoSuchVersion,
                // Where versions are and none of them is an object in its place, the newest is a delete marker.
                None if self.newest_noncurrent(at)?.is_some() => Refusal::IsDeleteMarker,
                None => Refusal::NoSuchKey,
            }));
        };
        if found.summary.delete_marker {
            return Ok(Outcome::Refused(Refusal::IsDeleteMarker));
        }
        let record = values::version(&found.value)?;
        let mut lock = record.lock;
        let mut details = VersionDetails {
            checksum: record.checksum,
            headers: record.headers,
            tags: record.tags,
        };
        if let Err(refusal) = change(&mut details, &mut lock) {
            return Ok(Outcome::Refused(refusal));
        }
        let details = values::encode_details(&details, &lock).map_err(values::unencodable)?;
        let value = values::encode_version(&record.summary, &record.body, &details)?;
        match noncurrent {
            Some(key) => self.write(Keyspace::Records, key, value),
            None => self.write(Keyspace::Objects, object, value),
        }
        Ok(Outcome::Written(record.summary))
    }

    /// Changes a version's lock, in a bucket that has object lock.
    pub fn set_lock(
        &mut self,
        at: Address<'_>,
        version: Option<VersionRef>,
        lane: &BucketVersioning,
        lock_change: LockChange,
        bypass: bool,
    ) -> Result<Outcome, IndexError> {
        if lane.lock.is_none() {
            return Ok(Outcome::Refused(Refusal::NotLockable));
        }
        let now = self.turn.at.millis();
        self.set_details(at, version, |_, lock| {
            *lock = lock.changed(lock_change, now, bypass)?;
            Ok(())
        })
    }
}
