//! Everything at random against a model of a few maps. `HOLDFAST_SEED` replays one sequence, `HOLDFAST_SEQUENCES` sets how
//! many are run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_placement::consensus::{
    Groups, ProposeError, QueryError, ReadError, Reading, StateMachine,
};
use holdfast_placement::ids::{ChunkSetId, DriveId, GroupId, NodeId, SiteId, UploadId};
use holdfast_placement::protection::Protection;
use holdfast_placement::seams::{
    Batch, Clock, Durability, Index, IndexView, Keyspace, ManualClock, MemoryIndex, Rng, SeededRng,
    SystemRng, UnixMillis,
};
use holdfast_placement::testing::{DirectGroups, SplitGroups, map_of as map_with};
use parking_lot::Mutex;

use super::{BUCKET, any, chunked, completion, etag, if_match, new_upload, part, set};
use crate::metadata::testing::map_of;
use crate::metadata::{
    Body, BodyPlace, BucketVersioning, ChunkedBody, CloseBucket, CompleteUploadError, Condition,
    DefaultRetention, DeleteOutcome, Deletion, Etag, ListObjects, ListParts, ListUploads,
    ListVersions, LockChange, LockConfiguration, LockMode, Lookup, Metadata, MetadataError,
    MissedSlot, NewUpload, NewVersion, ObjectHeaders, PlacedBody, RepairId, Retention,
    RetentionPeriod, Seen, Usage, VersionId, VersionLock, VersionRef, Versioning, WriteError,
    metadata_machine, query_runner,
};
use crate::repair::Floor;

/// Steps of a sequence.
const STEPS: u64 = 300;

/// Where the groups are: all here, or at three nodes between which messages get lost.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Spread {
    Here,
    ThreeNodes,
}

/// Groups over which commands come twice, at once or much later, and state machines restart.
struct Unsteady {
    direct: DirectGroups,
    rng: SeededRng,
    /// All commands, in order, with their outcomes.
    log: Mutex<Vec<(GroupId, Bytes, Bytes)>>,
}

#[async_trait]
impl Groups for Unsteady {
    async fn propose(&self, group: GroupId, command: Bytes) -> Result<Bytes, ProposeError> {
        if self.rng.below(50) == 0 {
            self.direct.restart();
        }
        let outcome = self.direct.propose(group, command.clone()).await?;
        let mut again = vec![(group, command.clone(), outcome.clone())];
        {
            let mut log = self.log.lock();
            log.push((group, command, outcome.clone()));
            again.push(log[self.rng.below(log.len() as u64) as usize].clone());
        }
        for (group, command, outcome) in again {
            if self.rng.below(3) == 0 {
                let second = self.direct.propose(group, command).await?;
                assert_eq!(second, outcome, "a command that came again");
            }
        }
        Ok(outcome)
    }

    async fn read(&self, group: GroupId) -> Result<Reading, ReadError> {
        self.direct.read(group).await
    }

    async fn query(
        &self,
        at: NodeId,
        groups: &[GroupId],
        query: Bytes,
    ) -> Result<Bytes, QueryError> {
        self.direct.query(at, groups, query).await
    }
}

/// A body in chunks; all that is known of it follows from its number.
fn body(number: u64, len: u64) -> ChunkedBody {
    let (data, parity) = [(1, 0), (1, 1), (2, 1), (4, 2)][number as usize % 4];
    ChunkedBody {
        set: set(number),
        len,
        chunk_len: 1000,
        protection: Protection { data, parity },
        site: SiteId(0),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Content {
    Empty,
    Inline(String),
    Chunked(u64),
    Parts(Vec<ModelPart>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct ModelPart {
    number: u16,
    body: u64,
    size: u64,
}

impl ModelPart {
    fn body(&self) -> Body {
        match self.size {
            0 => Body::Empty,
            size => Body::Chunked(body(self.body, size)),
        }
    }

    fn count(&self, usage: &mut Usage) {
        usage.add(&self.body(), self.size);
    }
}

#[derive(Clone, Debug)]
struct ModelObject {
    etag: Etag,
    size: u64,
    modified: UnixMillis,
    content: Content,
    tags: Vec<(String, String)>,
    name: VersionRef,
    marker: bool,
    lock: VersionLock,
}

/// What a deletion should do.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expected {
    Refused(&'static str),
    /// A delete marker is made.
    Marker {
        existed: bool,
    },
    /// Something is removed, if it is there; it may be a delete marker.
    Removed {
        existed: bool,
        marker: Option<VersionRef>,
    },
}

#[derive(Default)]
struct Model {
    /// The versions of each key, oldest first; never none.
    keys: BTreeMap<String, Vec<ModelObject>>,
    versioning: BucketVersioning,
    uploads: BTreeMap<(String, UploadId), BTreeMap<u16, ModelPart>>,
    /// What the uploads' objects are to have.
    locks: BTreeMap<UploadId, VersionLock>,
    /// Bodies that wait to be reclaimed.
    reclaim: BTreeSet<ChunkSetId>,
    /// Shards that are still to be made.
    repairs: BTreeSet<RepairId>,
    closed: bool,
    deletions: u64,
}

impl Model {
    /// The object that the key has: its newest version, unless that is a delete marker.
    fn object(&self, key: &str) -> Option<&ModelObject> {
        self.keys.get(key)?.last().filter(|newest| !newest.marker)
    }

    fn objects(&self) -> impl Iterator<Item = (&String, &ModelObject)> {
        self.keys.iter().filter_map(|(key, versions)| {
            let newest = versions.last()?;
            (!newest.marker).then_some((key, newest))
        })
    }

    fn versions(&self) -> impl Iterator<Item = (&String, &ModelObject)> {
        let keys = self.keys.iter();
        keys.flat_map(|(key, versions)| versions.iter().map(move |version| (key, version)))
    }

    fn version(&mut self, key: &str, version: Option<VersionRef>) -> Option<&mut ModelObject> {
        let versions = self.keys.get_mut(key)?;
        match version {
            Some(version) => versions.iter_mut().find(|own| own.name == version),
            None => versions.last_mut().filter(|newest| !newest.marker),
        }
    }

    /// Whether the newest version is a delete marker.
    fn is_marked(&self, key: &str) -> bool {
        let newest = self.keys.get(key).and_then(|versions| versions.last());
        newest.is_some_and(|newest| newest.marker)
    }

    /// Makes a version the newest; a null version replaces the one before.
    fn write(&mut self, key: &str, version: ModelObject) {
        let is_null = version.name == VersionRef::Null;
        assert_eq!(is_null, self.versioning.versioning != Versioning::Enabled);
        if is_null {
            self.remove(key, VersionRef::Null);
        }
        self.keys.entry(key.to_owned()).or_default().push(version);
    }

    fn remove(&mut self, key: &str, name: VersionRef) {
        let Some(versions) = self.keys.get_mut(key) else {
            return;
        };
        let Some(at) = versions.iter().position(|version| version.name == name) else {
            return;
        };
        let removed = versions.remove(at);
        if versions.is_empty() {
            self.keys.remove(key);
        }
        self.let_go(&removed.content);
    }

    /// The lock of a version that is written now.
    fn new_lock(&self, lock: VersionLock, now: UnixMillis) -> Result<VersionLock, &'static str> {
        let Some(configuration) = self.versioning.lock else {
            return match lock == VersionLock::default() {
                true => Ok(lock),
                false => Err("NotLockable"),
            };
        };
        let default = configuration.default.map(|default| Retention {
            mode: default.mode,
            until: match default.period {
                RetentionPeriod::Days(days) => UnixMillis(now.0 + u64::from(days) * 86_400_000),
                RetentionPeriod::Years(_) => unreachable!(),
            },
        });
        Ok(VersionLock {
            retention: lock.retention.or(default),
            ..lock
        })
    }

    fn delete(&mut self, deletion: &Deletion, now: UnixMillis) -> Expected {
        let key = &deletion.key;
        if self.closed {
            return Expected::Refused("NoSuchBucket");
        }
        let Some(name) = deletion.version else {
            let newest = self.keys.get(key).and_then(|versions| versions.last());
            if let Err(refusal) = fits(newest, &deletion.condition, true) {
                return Expected::Refused(refusal);
            }
            let existed = self.object(key).is_some();
            if self.versioning.versioning != Versioning::Off {
                return Expected::Marker { existed };
            }
            self.remove(key, VersionRef::Null);
            let marker = None;
            return Expected::Removed { existed, marker };
        };
        let version = self.version(key, Some(name)).cloned();
        if let Err(refusal) = fits(version.as_ref(), &deletion.condition, true) {
            return Expected::Refused(refusal);
        }
        let Some(version) = version else {
            return Expected::Removed {
                existed: false,
                marker: None,
            };
        };
        let retained = version.lock.retention.is_some_and(|retention| {
            retention.until > now
                && !(retention.mode == LockMode::Governance && deletion.bypass_governance)
        });
        if retained || version.lock.legal_hold == Some(true) {
            return Expected::Refused("Locked");
        }
        self.remove(key, name);
        Expected::Removed {
            existed: true,
            marker: version.marker.then_some(name),
        }
    }

    fn let_go(&mut self, content: &Content) {
        match content {
            Content::Empty | Content::Inline(_) => {}
            Content::Chunked(body) => {
                self.reclaim.insert(set(*body));
            }
            Content::Parts(parts) => parts.iter().for_each(|part| self.let_go_part(part)),
        }
    }

    fn miss(&mut self, number: u64, missed: &[MissedSlot]) {
        let set = set(number);
        self.repairs
            .extend(
                missed
                    .iter()
                    .map(|&MissedSlot { chunk, slot }| RepairId { set, chunk, slot }),
            );
    }

    fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for (_, object) in self.versions() {
            match &object.content {
                Content::Empty => {}
                Content::Inline(text) => usage.add(&Body::Inline, text.len() as u64),
                Content::Chunked(number) => {
                    usage.add(&Body::Chunked(body(*number, 5000)), 5000);
                }
                Content::Parts(parts) => parts.iter().for_each(|part| part.count(&mut usage)),
            }
        }
        let uploads = self.uploads.values();
        uploads.for_each(|parts| parts.values().for_each(|part| part.count(&mut usage)));
        usage.repairs_open = self.repairs.len() as u64;
        usage
    }

    fn let_go_part(&mut self, part: &ModelPart) {
        if part.size > 0 {
            self.reclaim.insert(set(part.body));
        }
    }

    fn check(&self, key: &str, condition: &Condition, delete: bool) -> Result<(), &'static str> {
        fits(self.object(key), condition, delete)
    }

    /// As listed: key, name, whether it is the newest; or a common prefix.
    fn list_versions(&self, list: &ListVersions) -> Vec<(String, Option<(VersionRef, bool)>)> {
        let mut listed: Vec<(String, Option<(VersionRef, bool)>)> = Vec::new();
        for (key, versions) in &self.keys {
            let Some((entry, common)) = folded(key, &list.prefix, list.delimiter.as_deref()) else {
                continue;
            };
            if common {
                if listed.last().is_none_or(|(last, _)| *last != entry) {
                    listed.push((entry, None));
                }
                continue;
            }
            for (at, version) in versions.iter().enumerate().rev() {
                let newest = at + 1 == versions.len();
                listed.push((entry.clone(), Some((version.name, newest))));
            }
        }
        listed
    }

    fn list(&self, list: &ListObjects) -> (Vec<(String, bool)>, bool) {
        let mut listed: Vec<(String, bool)> = Vec::new();
        for (key, _) in self.objects() {
            let Some(entry) = folded(key, &list.prefix, list.delimiter.as_deref()) else {
                continue;
            };
            let after = list.after.as_ref();
            if after.is_none_or(|after| entry.0 > *after) && listed.last() != Some(&entry) {
                listed.push(entry);
            }
        }
        let truncated = listed.len() > list.max && list.max > 0;
        listed.truncate(list.max);
        (listed, truncated)
    }

    fn list_uploads(&self, list: &ListUploads) -> (Vec<(String, Option<UploadId>)>, bool) {
        let mut listed: Vec<(String, Option<UploadId>)> = Vec::new();
        for (key, upload) in self.uploads.keys() {
            let Some((entry, common)) = folded(key, &list.prefix, list.delimiter.as_deref()) else {
                continue;
            };
            let entry = (entry, (!common).then_some(*upload));
            let shown = match (&list.key_marker, list.upload_marker) {
                (None, _) => true,
                (Some(marker), Some(after)) if !common && key == marker => *upload > after,
                (Some(marker), _) => entry.0 > *marker,
            };
            if shown && (!common || listed.last() != Some(&entry)) {
                listed.push(entry);
            }
        }
        let truncated = listed.len() > list.max && list.max > 0;
        listed.truncate(list.max);
        (listed, truncated)
    }
}

/// Whether a condition holds for what is there.
fn fits(
    there: Option<&ModelObject>,
    condition: &Condition,
    delete: bool,
) -> Result<(), &'static str> {
    let Some(object) = there else {
        return match &condition.etag {
            Some(_) if !delete && !condition.absent => Err("NoSuchKey"),
            _ => Ok(()),
        };
    };
    let etag = condition.etag.as_deref();
    let is_own = |etag: &str| etag == "*" || (!object.marker && etag == object.etag.to_string());
    if condition.absent == etag.is_none_or(is_own)
        || condition.size.is_some_and(|size| size != object.size)
        || condition
            .modified_secs
            .is_some_and(|secs| secs != object.modified.0 / 1000)
    {
        return Err("PreconditionFailed");
    }
    Ok(())
}

/// What a key is listed as, and whether that is a common prefix.
fn folded(key: &str, prefix: &str, delimiter: Option<&str>) -> Option<(String, bool)> {
    let rest = key.strip_prefix(prefix)?;
    let delimiter = delimiter.filter(|delimiter| !delimiter.is_empty());
    let found = delimiter.and_then(|delimiter| Some(rest.find(delimiter)? + delimiter.len()));
    Some(match found {
        Some(end) => (format!("{prefix}{}", &rest[..end]), true),
        None => (key.to_owned(), false),
    })
}

struct Run {
    rng: SeededRng,
    clock: ManualClock,
    groups: Arc<Unsteady>,
    metadata: Metadata,
    model: Model,
    bodies: u64,
}

impl Run {
    fn new(seed: u64, spread: Spread) -> Self {
        let rng = SeededRng::new(seed);
        let metadata_groups = [1, 3, 16][rng.below(3) as usize];
        let clock = ManualClock::at(UnixMillis(1_700_000_000_000));
        let groups = Arc::new(Unsteady {
            direct: DirectGroups::new(
                Arc::new(MemoryIndex::new()),
                Arc::new(|group, _| metadata_machine(group)),
            ),
            rng: SeededRng::new(rng.next_u64()),
            log: Mutex::new(Vec::new()),
        });
        let used: Arc<dyn Groups> = match spread {
            Spread::Here => groups.clone(),
            Spread::ThreeNodes => {
                let trouble = [0, 5, 40][rng.below(3) as usize];
                let split = SplitGroups::new(groups.clone(), query_runner(), seed, trouble);
                Arc::new(split)
            }
        };
        let metadata = Metadata::new(
            used,
            map_of(metadata_groups),
            Arc::new(clock.clone()),
            Arc::new(SeededRng::new(rng.next_u64())),
        );
        Self {
            rng,
            clock,
            groups,
            metadata,
            model: Model::default(),
            bodies: 0,
        }
    }

    fn below(&self, bound: u64) -> u64 {
        self.rng.below(bound)
    }

    fn one_of<T: Clone>(&self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }

    /// Few enough keys that they meet.
    fn text(&self, pieces_max: u64) -> String {
        let pieces = [
            "a", "b", "/", "//", "ab/", "ü", "€", "😀", "\0", "\u{1}", "~", "aa",
        ];
        let count = self.below(pieces_max + 1);
        (0..count).map(|_| self.one_of(&pieces)).collect()
    }

    fn key(&self) -> String {
        let known: Vec<&String> = self.model.keys.keys().collect();
        if !known.is_empty() && self.below(2) == 0 {
            return self.one_of(&known).clone();
        }
        self.text(4)
    }

    fn condition(&self, key: &str) -> Condition {
        let versions = self.model.keys.get(key);
        // Mostly the newest. (The time of a delete marker is not known here.)
        let object = versions.map(|versions| match self.below(4) {
            0 => &versions[self.below(versions.len() as u64) as usize],
            _ => &versions[versions.len() - 1],
        });
        let mut condition = match self.below(8) {
            0 => Condition {
                absent: true,
                ..match self.below(3) {
                    0 => if_match(object.map_or(etag(0), |object| object.etag)),
                    1 => if_match(etag(self.below(self.bodies + 1))),
                    _ => any(),
                }
            },
            1 => if_match("*"),
            2 => if_match(etag(self.below(self.bodies + 1))),
            3 => if_match(object.map_or(etag(0), |object| object.etag)),
            _ => any(),
        };
        if let Some(object) = object {
            if self.below(10) == 0 {
                condition.size = Some(object.size + self.below(2));
            }
            if self.below(10) == 0 && versions.is_none_or(|all| all.iter().all(|own| !own.marker)) {
                condition.modified_secs = Some(object.modified.secs() + self.below(2));
            }
        }
        condition
    }

    /// What was read; that the bucket is closed is said exactly when it is, and there is nothing in it then.
    fn unless_closed<T: Default>(&self, read: Result<T, MetadataError>) -> T {
        match read {
            Err(MetadataError::BucketClosed) => {
                assert!(self.model.closed);
                T::default()
            }
            read => {
                assert!(!self.model.closed);
                read.unwrap()
            }
        }
    }

    async fn step(&mut self) {
        match self.below(100) {
            0..23 => self.put().await,
            23..24 => self.set_versioning().await,
            24..25 => self.set_lock().await,
            25..35 => self.delete().await,
            35..40 => self.delete_many().await,
            40..45 => self.set_tags().await,
            45..50 => self.create_upload().await,
            50..62 => self.put_part().await,
            62..67 => self.complete().await,
            67..70 => self.abort().await,
            70..78 => self.list().await,
            78..84 => self.list_versions().await,
            84..89 => self.list_uploads().await,
            89..91 => self.close_or_reopen().await,
            91..94 => self.reclaim().await,
            94..96 => self.read().await,
            96..97 => self.repair().await,
            97..99 => self.replace().await,
            _ => self.clock.advance(Duration::from_millis(self.below(3000))),
        }
        self.check_usage().await;
    }

    async fn put(&mut self) {
        let key = self.key();
        let condition = self.condition(&key);
        self.bodies += 1;
        let number = self.bodies;
        let content = match self.below(4) {
            0 => Content::Empty,
            1 => Content::Chunked(number),
            _ => Content::Inline(format!("body {number}")),
        };
        let (size, body, inline) = match &content {
            Content::Empty => (0, Body::Empty, Bytes::new()),
            Content::Chunked(_) => (5000, Body::Chunked(body(number, 5000)), Bytes::new()),
            Content::Inline(text) => (text.len() as u64, Body::Inline, Bytes::from(text.clone())),
            Content::Parts(_) => unreachable!(),
        };
        let missed = self.missed(&body);
        let lock = self.new_lock();
        let now = self.clock.wall();
        let tags = vec![("n".to_owned(), number.to_string())];
        let new = NewVersion {
            size,
            etag: etag(number),
            checksum: None,
            body,
            inline,
            missed: missed.clone(),
            headers: ObjectHeaders::default(),
            tags: tags.clone(),
            lock,
        };
        let written = self.metadata.put(BUCKET, &key, new, &condition).await;
        let expected = match self.model.closed {
            true => Err("NoSuchBucket"),
            false => self.model.new_lock(lock, now).and_then(|lock| {
                self.model.check(&key, &condition, false)?;
                Ok(lock)
            }),
        };
        let kept = expected.unwrap_or_default();
        let expected = expected.map(|_| etag(number));
        assert_eq!(
            verdict(written.as_ref().map(|summary| summary.etag)),
            expected
        );
        if let Ok(summary) = written {
            let object = ModelObject {
                etag: summary.etag,
                size,
                modified: summary.modified,
                content,
                tags,
                name: summary.name(),
                marker: false,
                lock: kept,
            };
            assert!(summary.modified >= UnixMillis(1_700_000_000_000));
            self.model.miss(number, &missed);
            self.model.write(&key, object);
        }
    }

    /// Seldom anything, unless versions can be locked.
    fn new_lock(&self) -> VersionLock {
        if self.below(if self.model.versioning.lock.is_some() {
            3
        } else {
            50
        }) > 0
        {
            return VersionLock::default();
        }
        VersionLock {
            retention: self.retention(),
            legal_hold: self.one_of(&[None, Some(false), Some(true)]),
        }
    }

    fn retention(&self) -> Option<Retention> {
        let until = UnixMillis(self.clock.wall().0 - 1000 + self.below(20_000));
        let mode = self.one_of(&[LockMode::Governance, LockMode::Compliance]);
        (self.below(4) > 0).then_some(Retention { mode, until })
    }

    /// A version of the key, or one that is not there.
    fn version(&self, key: &str) -> VersionRef {
        match self.model.keys.get(key) {
            Some(versions) if self.below(6) > 0 => {
                let at = self.below(versions.len() as u64) as usize;
                versions[at].name
            }
            _ => self.one_of(&[VersionRef::Null, VersionRef::Id(VersionId([9; 16]))]),
        }
    }

    async fn set_versioning(&mut self) {
        let old = self.model.versioning;
        let mut new = BucketVersioning {
            change: old.change + 1,
            ..old
        };
        match self.below(8) {
            // Too late: it was overtaken.
            0 => {
                new.change = old.change.saturating_sub(self.below(2));
                new.versioning = Versioning::Suspended;
                if old.change == 0 {
                    return;
                }
            }
            1 => {
                new.versioning = Versioning::Enabled;
                let period = RetentionPeriod::Days(1);
                let mode = LockMode::Governance;
                let default = (self.below(2) == 0).then_some(DefaultRetention { mode, period });
                new.lock = Some(LockConfiguration { default });
            }
            2..5 if old.lock.is_none() => new.versioning = Versioning::Suspended,
            _ => new.versioning = Versioning::Enabled,
        }
        self.metadata.set_versioning(BUCKET, new).await.unwrap();
        if new.change > old.change {
            self.model.versioning = new;
        }
    }

    async fn set_lock(&mut self) {
        let key = self.key();
        let version = (self.below(2) == 0).then(|| self.version(&key));
        let bypass = self.below(2) == 0;
        let now = self.clock.wall();
        let change = match self.below(2) {
            0 => LockChange::LegalHold(self.below(2) == 0),
            _ => LockChange::Retention(self.retention()),
        };
        let set = self
            .metadata
            .set_lock(BUCKET, &key, version, change, bypass);
        let set = set.await;
        let (closed, locks) = (self.model.closed, self.model.versioning.lock.is_some());
        let marked = self.model.is_marked(&key);
        let expected = match self.model.version(&key, version) {
            _ if closed => Err("NoSuchBucket"),
            _ if !locks => Err("NotLockable"),
            None if version.is_some() => Err("NoSuchVersion"),
            None if marked => Err("IsDeleteMarker"),
            None => Err("NoSuchKey"),
            Some(found) if found.marker => Err("IsDeleteMarker"),
            Some(found) => match change {
                LockChange::LegalHold(hold) => {
                    found.lock.legal_hold = Some(hold);
                    Ok(())
                }
                LockChange::Retention(new) => {
                    let old = found.lock.retention.filter(|old| old.until > now);
                    let open = old.is_none_or(|old| {
                        let grows = |new: Retention| old.mode == new.mode && new.until >= old.until;
                        (old.mode == LockMode::Governance && bypass) || new.is_some_and(grows)
                    });
                    if open {
                        found.lock.retention = new;
                    }
                    if open { Ok(()) } else { Err("Locked") }
                }
            },
        };
        assert_eq!(verdict(set.as_ref().map(|_| ())), expected);
    }

    fn deletion(&self) -> Deletion {
        let key = self.key();
        let versioned = self.model.versioning.keeps_versions();
        let named = self.below(if versioned { 2 } else { 8 }) == 0;
        Deletion {
            version: named.then(|| self.version(&key)),
            condition: self.condition(&key),
            bypass_governance: self.below(2) == 0,
            key,
        }
    }

    /// Takes the deletion into the model, and compares.
    fn check_deletion(&mut self, deletion: &Deletion, deleted: &Result<DeleteOutcome, WriteError>) {
        let now = self.clock.wall();
        let expected = self.model.delete(deletion, now);
        let deleted = verdict(deleted.as_ref().copied());
        match expected {
            Expected::Refused(refusal) => assert_eq!(deleted, Err(refusal), "{deletion:?}"),
            Expected::Removed { existed, marker } => {
                let expected = DeleteOutcome { existed, marker };
                assert_eq!(deleted, Ok(expected), "{deletion:?}");
            }
            Expected::Marker { existed } => {
                let deleted = deleted.unwrap();
                assert_eq!(deleted.existed, existed);
                let marker = ModelObject {
                    etag: etag(0),
                    size: 0,
                    modified: now,
                    content: Content::Empty,
                    tags: Vec::new(),
                    name: deleted.marker.unwrap(),
                    marker: true,
                    lock: VersionLock::default(),
                };
                self.model.write(&deletion.key, marker);
            }
        }
    }

    async fn delete(&mut self) {
        let deletion = self.deletion();
        let deleted = self.metadata.delete_version(BUCKET, &deletion).await;
        self.check_deletion(&deletion, &deleted);
    }

    async fn delete_many(&mut self) {
        let count = self.below(8);
        let mut deletions: Vec<Deletion> = (0..count).map(|_| self.deletion()).collect();
        // One key again and again: its versions, or the key itself.
        if let Some(first) = deletions.first().cloned() {
            for _ in 0..self.below(4) {
                deletions.push(Deletion {
                    version: (self.below(2) == 0).then(|| self.version(&first.key)),
                    ..first.clone()
                });
            }
        }
        let deleted = self.metadata.delete_versions(BUCKET, &deletions).await;
        assert_eq!(deleted.len(), deletions.len());
        for (deletion, deleted) in deletions.iter().zip(deleted) {
            self.check_deletion(deletion, &deleted);
        }
    }

    async fn list_versions(&mut self) {
        let mut list = ListVersions {
            prefix: self.text(self.below(3)),
            delimiter: match self.below(3) {
                0 | 1 => None,
                _ => Some(self.text(2)),
            },
            key_marker: None,
            version_marker: None,
            max: 1 + self.below(6) as usize,
        };
        let mut expected = self.model.list_versions(&list);
        if self.below(3) == 0 {
            let marker = self.key();
            expected.retain(|(key, _)| *key > marker);
            list.key_marker = Some(marker);
        }
        for _ in 0..1000 {
            let page = self.metadata.list_versions(BUCKET, &list).await;
            let page = self.unless_closed(page);
            let mut listed: Vec<(String, Option<(VersionRef, bool)>)> = Vec::new();
            for entry in &page.entries {
                let summary = entry.summary;
                let own = self
                    .model
                    .version(&entry.key, Some(summary.name()))
                    .unwrap();
                assert_eq!(summary.delete_marker, own.marker);
                if !own.marker {
                    assert_eq!(
                        (summary.etag, summary.size, summary.modified),
                        (own.etag, own.size, own.modified)
                    );
                }
                listed.push((entry.key.clone(), Some((summary.name(), entry.latest))));
            }
            let common = page.common_prefixes.iter();
            listed.extend(common.map(|common| (common.clone(), None)));
            // Stable: the order of a key's versions stays as it is.
            listed.sort_by(|a, b| a.0.cmp(&b.0));
            let rest = expected.split_off(expected.len().min(list.max));
            assert_eq!(listed, expected, "{list:?}");
            assert_eq!(page.next.is_some(), !rest.is_empty(), "{list:?}");
            expected = rest;
            let Some((key, version)) = page.next else {
                return;
            };
            (list.key_marker, list.version_marker) = (Some(key), version);
        }
        panic!("the listing does not end: {list:?}");
    }

    async fn set_tags(&mut self) {
        let key = self.key();
        let version = (self.below(2) == 0).then(|| self.version(&key));
        let tags = vec![("new".to_owned(), self.below(10).to_string())];
        let set = self
            .metadata
            .set_version_tags(BUCKET, &key, version, tags.clone());
        let set = set.await;
        let closed = self.model.closed;
        let marked = self.model.is_marked(&key);
        let expected = match self.model.version(&key, version) {
            None if closed => Err("NoSuchBucket"),
            None if version.is_some() => Err("NoSuchVersion"),
            None if marked => Err("IsDeleteMarker"),
            None => Err("NoSuchKey"),
            Some(found) if found.marker => Err("IsDeleteMarker"),
            Some(found) => {
                found.tags = tags;
                Ok(())
            }
        };
        assert_eq!(verdict(set.as_ref().map(|_| ())), expected);
    }

    async fn create_upload(&mut self) {
        let key = self.key();
        let lock = self.new_lock();
        let new = NewUpload {
            lock,
            ..new_upload()
        };
        let created = self.metadata.create_upload(BUCKET, &key, new).await;
        let expected = match self.model.closed {
            true => Err("NoSuchBucket"),
            false => self.model.new_lock(lock, self.clock.wall()).map(|_| ()),
        };
        assert_eq!(verdict(created.as_ref().map(|_| ())), expected);
        if let Ok(upload) = created {
            self.model.locks.insert(upload, lock);
            self.model.uploads.insert((key, upload), BTreeMap::new());
        }
    }

    /// An upload, mostly one that there is.
    fn upload(&self) -> (String, UploadId) {
        let known: Vec<_> = self.model.uploads.keys().collect();
        if known.is_empty() || self.below(10) == 0 {
            return (self.text(2), UploadId([7; 16]));
        }
        self.one_of(&known).clone()
    }

    async fn put_part(&mut self) {
        let (key, upload) = self.upload();
        self.bodies += 1;
        let new = ModelPart {
            number: 1 + self.below(6) as u16 * 100,
            body: self.bodies,
            size: self.below(4) * 1000,
        };
        let mut record = part(new.number, new.body, new.size);
        record.body = new.body();
        record.missed = self.missed(&record.body);
        let missed = record.missed.clone();
        let put = self.metadata.put_part(BUCKET, &key, upload, record).await;
        let parts = self.model.uploads.get_mut(&(key, upload));
        let parts = match parts.filter(|_| !self.model.closed) {
            Some(parts) => parts,
            None if self.model.closed => {
                assert!(matches!(put, Err(WriteError::NoSuchBucket)));
                return;
            }
            None => {
                assert!(matches!(put, Err(WriteError::NoSuchUpload)));
                return;
            }
        };
        put.unwrap();
        if let Some(before) = parts.insert(new.number, new) {
            self.model.let_go_part(&before);
        }
        self.model.miss(new.body, &missed);
    }

    /// Some shards of the body, in any order.
    fn missed(&self, body: &Body) -> Vec<MissedSlot> {
        let Body::Chunked(body) = body else {
            return Vec::new();
        };
        let missed = (0..self.below(6).saturating_sub(2)).map(|_| MissedSlot {
            chunk: self.below(u64::from(body.chunks())) as u32,
            slot: self.below(body.protection.slots() as u64) as u8,
        });
        missed.collect()
    }

    /// The shards that are to be made are those of the model; makes some of them.
    async fn repair(&mut self) {
        let mut open = BTreeSet::new();
        for group in (1..=16).map(GroupId) {
            let mut after = None;
            loop {
                let max = 1 + self.below(4) as usize;
                let page = self.metadata.repairs(group, after, max).await.unwrap();
                let Some(last) = page.last() else {
                    break;
                };
                assert!(page.len() <= max && page.is_sorted_by_key(|open| open.id));
                after = Some(last.id);
                for repair in &page {
                    let number = u64::from_be_bytes(repair.id.set.0[8..].try_into().unwrap());
                    assert_eq!(repair.body, body(number, repair.body.len));
                    assert!(open.insert(repair.id));
                }
                let made: Vec<_> = page.iter().map(|repair| repair.id).collect();
                let mut made: Vec<_> = made.into_iter().filter(|_| self.below(3) == 0).collect();
                made.extend(made.first().copied());
                for id in &made {
                    self.model.repairs.remove(id);
                    open.remove(id);
                }
                self.metadata.repaired(group, made).await.unwrap();
            }
        }
        assert_eq!(open, self.model.repairs);
    }

    /// What the groups hold is what the model holds.
    async fn check_usage(&self) {
        let mut usage = Usage::default();
        for group in (1..=16).map(GroupId) {
            let of_group = self.metadata.usage(group).await.unwrap();
            usage.add_all(&of_group);
            usage.repairs_open += of_group.repairs_open;
        }
        assert_eq!(usage, self.model.usage());
    }

    /// All bodies below `floor`, with the groups that they are in.
    async fn bodies_below(&self, floor: &Floor) -> Vec<(GroupId, PlacedBody)> {
        let mut found = Vec::new();
        for group in (1..=16).map(GroupId) {
            let mut at = Some(Seen::default());
            while let Some(after) = at {
                let max = 1 + self.below(5) as usize;
                let step = self.metadata.bodies_below(group, floor, after, max);
                let step = step.await.unwrap();
                found.extend(step.bodies.into_iter().map(|body| (group, body)));
                at = step.next;
            }
        }
        found
    }

    /// Every body that survives less than `2+1` is found where it is; some get other chunks.
    async fn replace(&mut self) {
        let drives: Vec<_> = (1..=6).map(|id| (DriveId(id), NodeId(id))).collect();
        let floor = Floor::of(&map_with(&drives, Protection { data: 2, parity: 1 }));
        let found = self.bodies_below(&floor).await;
        let mut expected: Vec<(String, ChunkedBody)> = Vec::new();
        let mut expect = |key: &str, body: Body| match body {
            Body::Chunked(body) if body.protection.parity == 0 => {
                expected.push((key.to_owned(), body));
            }
            _ => {}
        };
        for (key, object) in self.model.versions() {
            match &object.content {
                Content::Chunked(number) => expect(key, Body::Chunked(body(*number, 5000))),
                Content::Parts(parts) => parts.iter().for_each(|part| expect(key, part.body())),
                Content::Empty | Content::Inline(_) => {}
            }
        }
        for ((key, _), parts) in &self.model.uploads {
            parts.values().for_each(|part| expect(key, part.body()));
        }
        let mut placed: Vec<_> = found
            .iter()
            .map(|(_, placed)| (placed.key.clone(), placed.body))
            .collect();
        placed.sort_by_key(|(_, body)| body.set);
        expected.sort_by_key(|(_, body)| body.set);
        assert_eq!(placed, expected);
        for (group, mut placed) in found {
            if self.below(2) == 0 {
                continue;
            }
            self.bodies += 1;
            let number = self.bodies;
            let new = body(number, placed.body.len);
            let missed = self.missed(&Body::Chunked(new));
            let stale = self.below(4) == 0;
            if stale {
                match self.below(3) {
                    0 => placed.body.set = set(u64::MAX),
                    1 => placed.key.push('x'),
                    _ => {
                        placed.place = match placed.place {
                            BodyPlace::Version => BodyPlace::Part {
                                upload: UploadId([1; 16]),
                                number: 1,
                            },
                            BodyPlace::Part { upload, number } => BodyPlace::Table {
                                table: upload,
                                end: placed.body.len,
                                last: number,
                                number,
                            },
                            BodyPlace::Table { .. } => BodyPlace::Version,
                            BodyPlace::Noncurrent { .. } => BodyPlace::Noncurrent {
                                version: VersionId([8; 16]),
                            },
                            BodyPlace::NoncurrentTable {
                                version,
                                table,
                                end,
                                last,
                                number,
                            } => BodyPlace::NoncurrentTable {
                                version,
                                table,
                                end,
                                last,
                                number: number + 1,
                            },
                        }
                    }
                }
            }
            let replaced = self
                .metadata
                .replace_body(group, &placed, new, &missed)
                .await
                .unwrap();
            assert_eq!(replaced, !stale, "{placed:?}");
            if !replaced {
                continue;
            }
            self.model.miss(number, &missed);
            self.model.reclaim.insert(placed.body.set);
            if let BodyPlace::Part { upload, .. } = placed.place {
                let upload = (placed.key.clone(), upload);
                let parts = self.model.uploads.get_mut(&upload).unwrap().values_mut();
                replace_part(parts, placed.body.set, number);
                continue;
            }
            let versions = self.model.keys.get_mut(&placed.key).unwrap();
            let owner = versions.iter_mut().find(|version| match &version.content {
                Content::Chunked(own) => set(*own) == placed.body.set,
                Content::Parts(parts) => {
                    let mut sets = parts.iter().map(|part| set(part.body));
                    sets.any(|own| own == placed.body.set)
                }
                Content::Empty | Content::Inline(_) => false,
            });
            match &mut owner.unwrap().content {
                Content::Parts(parts) => replace_part(parts.iter_mut(), placed.body.set, number),
                content => *content = Content::Chunked(number),
            }
        }
    }

    async fn complete(&mut self) {
        let (key, upload) = self.upload();
        let list = ListParts {
            upload,
            after: 0,
            max: 1000,
        };
        let page = self.metadata.list_parts(BUCKET, &key, &list).await;
        let page = match page {
            // Uploads of a closed bucket are there until they are ended.
            Ok(Some(page)) => Some(page),
            page => self.unless_closed(page),
        };
        let Some(known) = self.model.uploads.get(&(key.clone(), upload)).cloned() else {
            assert!(page.is_none());
            return;
        };
        let page = page.unwrap();
        let mut chosen = page.parts.clone();
        let listed: Vec<_> = chosen.iter().map(|part| (part.number, part.size)).collect();
        let expected: Vec<_> = known
            .values()
            .map(|part| (part.number, part.size))
            .collect();
        assert_eq!(listed, expected);
        chosen.retain(|_| self.below(4) > 0);
        if chosen.is_empty() {
            return;
        }
        let stale = self.below(5) == 0;
        if stale {
            let changed = self.below(chosen.len() as u64) as usize;
            match self.below(3) {
                0 => chosen[changed].md5[0] ^= 1,
                1 => chosen[changed].body = chunked(u64::MAX, chosen[changed].size),
                _ => {
                    let last = chosen.len() - 1;
                    chosen[last].number += 1;
                }
            }
        }
        let condition = self.condition(&key);
        let numbers: Vec<u16> = chosen.iter().map(|part| part.number).collect();
        let complete = completion(upload, chosen);
        let (size, etag) = (complete.size, complete.etag);
        let completed = self
            .metadata
            .complete_upload(BUCKET, &key, complete, &condition)
            .await;
        let verdict = match &completed {
            Ok(summary) => Ok((summary.size, summary.etag)),
            Err(CompleteUploadError::PartsChanged) => Err("PartsChanged"),
            Err(CompleteUploadError::Write(error)) => verdict::<_>(Err(error)),
        };
        let mut expected = self.model.check(&key, &condition, false).and_then(|()| {
            let lock = self.model.locks[&upload];
            self.model.new_lock(lock, self.clock.wall())
        });
        if stale && expected.is_ok() {
            expected = Err("PartsChanged");
        }
        if self.model.closed {
            expected = Err("NoSuchBucket");
        }
        let lock = expected.unwrap_or_default();
        assert_eq!(verdict, expected.map(|_| (size, etag)));
        let Ok(summary) = completed else {
            return;
        };
        assert_eq!(summary.modified, page.upload.initiated);
        let remembered = self.metadata.completed(BUCKET, &key, upload).await.unwrap();
        assert_eq!(remembered, Some(summary));
        let parts = self.model.uploads.remove(&(key.clone(), upload)).unwrap();
        let (chosen, unused): (Vec<_>, Vec<_>) = parts
            .into_values()
            .partition(|part| numbers.contains(&part.number));
        unused.iter().for_each(|part| self.model.let_go_part(part));
        let object = ModelObject {
            etag,
            size,
            modified: summary.modified,
            content: Content::Parts(chosen),
            tags: new_upload().tags,
            name: summary.name(),
            marker: false,
            lock,
        };
        self.model.write(&key, object);
    }

    async fn abort(&mut self) {
        let (key, upload) = self.upload();
        let aborted = self.metadata.abort_upload(BUCKET, &key, upload).await;
        match self.model.uploads.remove(&(key, upload)) {
            Some(parts) => {
                aborted.unwrap();
                parts.values().for_each(|part| self.model.let_go_part(part));
            }
            None if self.model.closed => {
                assert!(matches!(aborted, Err(WriteError::NoSuchBucket)));
            }
            None => assert!(matches!(aborted, Err(WriteError::NoSuchUpload))),
        }
    }

    async fn list(&mut self) {
        let mut list = ListObjects {
            prefix: self.text(self.below(3)),
            delimiter: match self.below(3) {
                0 => None,
                1 => Some("/".to_owned()),
                _ => Some(self.text(2)),
            },
            after: match self.below(3) {
                0 => None,
                1 => Some(self.key()),
                _ => Some(self.text(2)),
            },
            max: self.below(12) as usize,
        };
        // To the end, page by page.
        for _ in 0..1000 {
            let page = self.metadata.list(BUCKET, &list).await;
            let page = self.unless_closed(page);
            let (expected, truncated) = self.model.list(&list);
            let mut listed: Vec<(String, bool)> = Vec::new();
            for entry in &page.entries {
                let object = self.model.object(&entry.key).unwrap();
                assert_eq!(entry.summary.etag, object.etag);
                assert_eq!(entry.summary.size, object.size);
                assert_eq!(entry.summary.modified, object.modified);
                listed.push((entry.key.clone(), false));
            }
            listed.extend(
                page.common_prefixes
                    .iter()
                    .map(|common| (common.clone(), true)),
            );
            assert!(page.entries.is_sorted_by(|a, b| a.key < b.key));
            assert!(page.common_prefixes.is_sorted_by(|a, b| a < b));
            listed.sort();
            assert_eq!(listed, expected, "{list:?}");
            assert_eq!(page.next.is_some(), truncated, "{list:?}");
            if let Some(next) = &page.next {
                assert_eq!(Some(next), expected.last().map(|(last, _)| last));
            }
            list.after = page.next;
            if list.after.is_none() {
                return;
            }
        }
        panic!("the listing does not end: {list:?}");
    }

    async fn list_uploads(&mut self) {
        let (key, upload) = self.upload();
        let mut list = ListUploads {
            prefix: self.text(self.below(2)),
            delimiter: match self.below(2) {
                0 => None,
                _ => Some(self.text(2)),
            },
            key_marker: None,
            upload_marker: None,
            max: self.below(8) as usize,
        };
        match self.below(4) {
            0 => (list.key_marker, list.upload_marker) = (Some(key), Some(upload)),
            1 => list.key_marker = Some(key),
            2 => list.key_marker = Some(self.text(2)),
            _ => {}
        }
        for _ in 0..1000 {
            let page = match self.metadata.list_uploads(BUCKET, &list).await {
                Ok(page) if self.model.closed => {
                    assert!(!page.uploads.is_empty() || !page.common_prefixes.is_empty());
                    page
                }
                page => self.unless_closed(page),
            };
            let (expected, truncated) = self.model.list_uploads(&list);
            let mut listed: Vec<(String, Option<UploadId>)> = Vec::new();
            for upload in &page.uploads {
                listed.push((upload.key.clone(), Some(upload.upload)));
            }
            assert!(listed.is_sorted());
            listed.extend(
                page.common_prefixes
                    .iter()
                    .map(|common| (common.clone(), None)),
            );
            listed.sort();
            assert_eq!(listed, expected, "{list:?}");
            assert_eq!(page.next.is_some(), truncated, "{list:?}");
            let Some((key, upload)) = page.next else {
                return;
            };
            (list.key_marker, list.upload_marker) = (Some(key), upload);
        }
        panic!("the listing does not end: {list:?}");
    }

    async fn close_or_reopen(&mut self) {
        let empty = self.model.keys.is_empty();
        assert_eq!(self.metadata.is_empty(BUCKET).await.unwrap(), empty);
        if self.model.closed {
            let deletions = self.model.deletions;
            self.metadata
                .reopen_bucket(BUCKET, deletions)
                .await
                .unwrap();
            let closed = self.metadata.close_bucket(BUCKET, deletions).await.unwrap();
            assert_eq!(closed, CloseBucket::Cancelled);
            self.model.closed = false;
            return;
        }
        self.model.deletions += 1;
        let deletions = self.model.deletions;
        let closed = self.metadata.close_bucket(BUCKET, deletions).await.unwrap();
        self.model.closed = closed == CloseBucket::Closed;
        assert_eq!(self.model.closed, empty);
        if self.model.closed && self.below(2) == 0 {
            self.metadata.abort_uploads(BUCKET).await.unwrap();
            for parts in std::mem::take(&mut self.model.uploads).into_values() {
                parts.values().for_each(|part| self.model.let_go_part(part));
            }
        }
        if !self.model.closed {
            self.metadata
                .reopen_bucket(BUCKET, deletions)
                .await
                .unwrap();
        }
    }

    async fn reclaim(&mut self) {
        let some = self.below(2) == 0;
        let mut waiting = BTreeSet::new();
        for group in (1..=16).map(GroupId) {
            let entries = self
                .metadata
                .reclaimable(group, UnixMillis(u64::MAX), usize::MAX)
                .await
                .unwrap();
            let mut ids = Vec::new();
            for entry in entries {
                let freed = some && self.below(2) == 0;
                for body in &entry.bodies {
                    assert!(self.model.reclaim.contains(&body.set), "it is still named");
                    assert!(waiting.insert(body.set), "it waits twice");
                    if freed {
                        self.model.repairs.retain(|id| id.set != body.set);
                        self.model.reclaim.remove(&body.set);
                        waiting.remove(&body.set);
                    }
                }
                if freed {
                    ids.push(entry.id);
                }
            }
            if !ids.is_empty() {
                self.metadata.reclaimed(group, ids).await.unwrap();
            }
        }
        assert_eq!(waiting, self.model.reclaim);
    }

    async fn read(&mut self) {
        let key = self.key();
        let version = (self.below(2) == 0).then(|| self.version(&key));
        let found = self.metadata.get_version(BUCKET, &key, version).await;
        let head = self.metadata.head_version(BUCKET, &key, version).await;
        let (found, head) = (self.unless_closed(found), self.unless_closed(head));
        let newest = self
            .model
            .keys
            .get(&key)
            .and_then(|versions| versions.last());
        let newest = newest.map(|newest| newest.name);
        let object = self.model.version(&key, version.or(newest)).cloned();
        let found = match (found, head) {
            (Lookup::Found(found), Lookup::Found(head)) => {
                assert_eq!(found.record, head);
                found
            }
            (Lookup::Marker(found), Lookup::Marker(head)) => {
                assert_eq!(found, head);
                let object = object.unwrap();
                assert_eq!((object.marker, object.name), (true, found.name()));
                return;
            }
            (Lookup::Nothing, Lookup::Nothing) => {
                assert!(object.is_none());
                return;
            }
            (found, head) => panic!("{found:?} {head:?}"),
        };
        let object = object.unwrap();
        assert!(!object.marker);
        assert_eq!(found.record.lock, object.lock);
        assert_eq!(found.record.summary.name(), object.name);
        let summary = found.record.summary;
        assert_eq!(
            (
                summary.etag,
                summary.size,
                summary.modified,
                &found.record.tags
            ),
            (object.etag, object.size, object.modified, &object.tags)
        );
        match &object.content {
            Content::Empty => assert_eq!(found.record.body, Body::Empty),
            Content::Inline(text) => assert_eq!(found.inline, text),
            Content::Chunked(number) => {
                assert_eq!(found.record.body, Body::Chunked(body(*number, 5000)));
            }
            Content::Parts(parts) => {
                let Body::Multipart {
                    table,
                    parts: count,
                } = found.record.body
                else {
                    panic!("{:?}", found.record.body);
                };
                assert_eq!(usize::from(count), parts.len());
                let stored = self
                    .metadata
                    .parts_after(BUCKET, &key, table, 0, usize::MAX)
                    .await
                    .unwrap();
                let mut offset = 0;
                assert_eq!(stored.len(), parts.len());
                for ((start, stored), part) in stored.iter().zip(parts) {
                    assert_eq!(*start, offset);
                    assert_eq!(stored.body, part.body());
                    offset += part.size;
                }
                let from = self.below(offset + 1);
                let range = from..from + self.below(3000);
                let inside = self
                    .metadata
                    .parts_in_range(BUCKET, &key, table, range.clone())
                    .await
                    .unwrap();
                let expected: Vec<_> = stored
                    .into_iter()
                    .filter(|(start, part)| *start < range.end && start + part.size > range.start)
                    .collect();
                assert_eq!(inside, expected);
            }
        }
    }

    /// What must hold at the end of any sequence.
    async fn finish(mut self) {
        for key in self
            .model
            .objects()
            .map(|(key, _)| key.clone())
            .collect::<Vec<_>>()
        {
            assert!(self.metadata.head(BUCKET, &key).await.unwrap().is_some());
        }
        self.reclaim().await;
        self.repair().await;
        self.check_usage().await;
        let index = self.groups.direct.index();
        let versions = self.model.versions();
        let inline = versions.filter(|(_, object)| matches!(object.content, Content::Inline(_)));
        assert_eq!(count(&*index, Keyspace::Inline), inline.count());
        let objects = self.model.objects().count();
        assert_eq!(count(&*index, Keyspace::Objects), objects);
        // Nothing is left of versions that are gone.
        let records = all(&*index, Keyspace::Records);
        let of_kind = |kind: u8| records.iter().filter(|(key, _)| key[4] == kind).count();
        assert_eq!(of_kind(0x0D), self.model.versions().count() - objects);
        let nulls = self.model.keys.values().filter(|versions| {
            let newest_counts = usize::from(versions[versions.len() - 1].marker);
            let noncurrent = &versions[..versions.len() - 1 + newest_counts];
            let mut names = noncurrent.iter().map(|version| version.name);
            names.any(|name| name == VersionRef::Null)
        });
        assert_eq!(of_kind(0x0E), nulls.count());
        let locks = self.model.uploads.keys();
        let locks = locks.filter(|(_, upload)| !self.model.locks[upload].is_none());
        assert_eq!(of_kind(0x0F), locks.count());

        // The same commands make the same bytes, whoever applies them.
        let twin = MemoryIndex::new();
        let mut machines: BTreeMap<GroupId, Box<dyn StateMachine>> = BTreeMap::new();
        for (group, command, outcome) in &*self.groups.log.lock() {
            let machine = machines
                .entry(*group)
                .or_insert_with(|| metadata_machine(*group));
            let mut batch = Batch::new();
            let second = machine.apply(&twin, &mut batch, command).unwrap();
            assert_eq!(second, outcome);
            twin.write(batch, Durability::Unsynced).unwrap();
        }
        for space in [Keyspace::Objects, Keyspace::Inline, Keyspace::Records] {
            assert_eq!(all(&twin, space), all(&*index, space));
        }
    }
}

fn replace_part<'a>(
    mut parts: impl Iterator<Item = &'a mut ModelPart>,
    old: ChunkSetId,
    number: u64,
) {
    parts.find(|part| set(part.body) == old).unwrap().body = number;
}

fn all(view: &dyn IndexView, space: Keyspace) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut entries = Vec::new();
    let mut cursor = view.cursor(space, &[0], &[0xFF]).unwrap();
    cursor.seek(&[0]).unwrap();
    while let Some((key, value)) = cursor.entry() {
        entries.push((key.to_vec(), value.to_vec()));
        cursor.next().unwrap();
    }
    entries
}

fn count(view: &dyn IndexView, space: Keyspace) -> usize {
    all(view, space).len()
}

fn verdict<T>(result: Result<T, &WriteError>) -> Result<T, &'static str> {
    result.map_err(|error| match error {
        WriteError::PreconditionFailed => "PreconditionFailed",
        WriteError::NoSuchKey => "NoSuchKey",
        WriteError::NoSuchBucket => "NoSuchBucket",
        WriteError::NoSuchUpload => "NoSuchUpload",
        WriteError::NoSuchVersion => "NoSuchVersion",
        WriteError::IsDeleteMarker => "IsDeleteMarker",
        WriteError::Locked => "Locked",
        WriteError::NotLockable => "NotLockable",
        WriteError::BaseChanged => "BaseChanged",
        WriteError::TooManyParts => "TooManyParts",
        WriteError::KeepsVersions => "KeepsVersions",
        WriteError::RenameConflict => "RenameConflict",
        WriteError::TokenMismatch => "TokenMismatch",
        WriteError::EventsWaiting => "EventsWaiting",
        WriteError::OverQuota(_) => "OverQuota",
        WriteError::Metadata(error) => panic!("{error}"),
    })
}

fn number_from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test]
async fn random_sequences_agree_with_the_model() {
    let seed = number_from_env("HOLDFAST_SEED");
    let sequences = match seed {
        Some(_) => 1,
        None => number_from_env("HOLDFAST_SEQUENCES").unwrap_or(100),
    };
    let first = seed.unwrap_or_else(|| SystemRng.next_u64() >> 16);
    for seed in first..first + sequences {
        for spread in [Spread::Here, Spread::ThreeNodes] {
            println!("HOLDFAST_SEED={seed} {spread:?}");
            let mut run = Run::new(seed, spread);
            for _ in 0..STEPS {
                run.step().await;
            }
            run.finish().await;
        }
    }
}
