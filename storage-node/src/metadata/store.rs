//! Metadata as the gateway asks for it.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_placement::command::{CommandError, Proposer, Stamp};
use holdfast_placement::consensus::Groups;
use holdfast_placement::directory::DirectoryError;
use holdfast_placement::ids::{BucketId, GroupId, Lane, UploadId};
use holdfast_placement::map::SharedMap;
use holdfast_placement::query::{AskError, Asker};
use holdfast_placement::seams::{Clock, IndexError, Rng, UnixMillis};
use serde::{Deserialize, Serialize};

use super::classes::StorageClass;
use super::command::{Address, Command, Outcome, Refusal};
use super::events::Cause;
use super::lock::VersionLock;
use super::questions::NotNow;
use super::quota::{Amount, Rounds};
use super::record::{
    Body, ChecksumAlgorithm, ChecksumKind, ChunkedBody, Etag, MissedSlot, ObjectChecksum,
    ObjectHeaders, PartRecord, UploadRecord, VersionId, VersionRecord, VersionRef, VersionSummary,
};
use super::rename::busy;
use super::{keys, values};

/// What must hold of a key's newest version for a write to take effect; decided when the command is applied.
/// (S3 user guide, "Conditional requests".)
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// `If-None-Match: *`; with `etag`, `If-None-Match` of that etag.
    pub absent: bool,
    /// `If-Match`, unless `absent`: an etag without quotes, or `*`.
    pub etag: Option<String>,
    /// `x-amz-if-match-last-modified-time` (DELETE), whole seconds.
    pub modified_secs: Option<u64>,
    /// `x-amz-if-match-size` (DELETE).
    pub size: Option<u64>,
}

/// A version to write. For `Body::Inline`, `inline` holds the bytes; else it is empty.
#[derive(Clone, Debug)]
pub struct NewVersion {
    pub size: u64,
    pub etag: Etag,
    pub checksum: Option<ObjectChecksum>,
    pub body: Body,
    pub inline: Bytes,
    /// Shards of the body that are not on their drives: what they are is remembered until they are made again.
    pub missed: Vec<MissedSlot>,
    pub headers: ObjectHeaders,
    pub tags: Vec<(String, String)>,
    /// As its writer asks; the bucket may add a retention.
    pub lock: VersionLock,
}

/// A version that was found; `inline` is filled when its body is inline.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoredVersion {
    pub record: VersionRecord,
    #[serde(with = "super::raw_bytes")]
    pub inline: Bytes,
}

/// Why the metadata gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MetadataError {
    /// No quorum: nothing happened; try again later (503).
    #[error("no quorum: {0}")]
    Unavailable(String),
    /// The write may or may not have taken effect, now or later (503 or 500; the client retries).
    #[error("not known to have happened: {0}")]
    Indeterminate(String),
    /// The drive or the state below is damaged (500).
    #[error("metadata failed: {0}")]
    Failed(String),
    /// The metadata's drive is full; nothing happened (507).
    #[error("no space left for metadata")]
    Full,
    /// There is nothing, and the bucket takes no writes: it is being deleted, or is gone, and there may be another of
    /// its name. Ask the directory; if it is there still, it has nothing of what was read.
    #[error("the bucket is closed")]
    BucketClosed,
}

/// Why a write did not take effect.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// The condition did not hold (412).
    #[error("the condition does not hold")]
    PreconditionFailed,
    /// `If-Match` on a key that is not there (404).
    #[error("no such key")]
    NoSuchKey,
    /// The bucket is being deleted (404).
    #[error("no such bucket")]
    NoSuchBucket,
    /// The upload was completed, aborted, or never was (404).
    #[error("no such upload")]
    NoSuchUpload,
    /// The key has no such version (404).
    #[error("no such version")]
    NoSuchVersion,
    /// The version is a delete marker, of which there is nothing to change (405).
    #[error("the version is a delete marker")]
    IsDeleteMarker,
    /// The version is locked (403).
    #[error("the version is locked")]
    Locked,
    /// The bucket locks no versions (400).
    #[error("the bucket has no object lock")]
    NotLockable,
    /// Another write came first (409, or as the new state says).
    #[error("the newest version is another by now")]
    BaseChanged,
    /// The object has 10,000 parts (400).
    #[error("the object has as many parts as it may have")]
    TooManyParts,
    /// The bucket keeps versions (501).
    #[error("the bucket keeps versions")]
    KeepsVersions,
    /// Other renames came between again and again; nothing happened (409).
    #[error("other renames of these keys are under way")]
    RenameConflict,
    /// The client's token came with another request (400).
    #[error("the token was used for another request")]
    TokenMismatch,
    /// A webhook is to be told of the change, and too many events wait for it already (503).
    #[error("too many events wait for a webhook")]
    EventsWaiting,
    /// The key's lane has no room for so much more: look for some with [`super::make_room`], which knows whether the
    /// bucket has any (403).
    #[error("the bucket's quota has no room for it")]
    OverQuota(Amount),
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// What to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deletion {
    pub key: String,
    /// `None`: the key; where the bucket keeps versions it gets a delete marker.
    pub version: Option<VersionRef>,
    pub condition: Condition,
    /// Whether a retention in governance mode does not count. (A legal hold does.)
    pub bypass_governance: bool,
}

/// What a DELETE did. In outcomes: the order of fields is persisted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteOutcome {
    /// Whether there was anything.
    pub existed: bool,
    /// The delete marker that was made or, if a version was named, removed.
    pub marker: Option<VersionRef>,
}

/// A listing to make, in UTF-8 binary order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ListObjects {
    pub prefix: String,
    pub delimiter: Option<String>,
    /// Only keys and common prefixes greater than this. A value that is itself a rolled-up common prefix of this
    /// listing excludes all keys under it.
    pub after: Option<String>,
    /// Entries and common prefixes together, 0 to 1000.
    pub max: usize,
}

/// A key in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListEntry {
    pub key: String,
    pub summary: VersionSummary,
    /// Sent beside the page.
    #[serde(skip)]
    pub class: StorageClass,
}

/// A page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListPage {
    pub entries: Vec<ListEntry>,
    pub common_prefixes: Vec<String>,
    /// Where to go on (`after` of the next page), if there is more: the last key or common prefix given.
    pub next: Option<String>,
}

/// A listing of versions to make: by key in UTF-8 binary order, then newest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ListVersions {
    pub prefix: String,
    pub delimiter: Option<String>,
    /// Only greater keys and common prefixes, as in [`ListObjects::after`].
    pub key_marker: Option<String>,
    /// With `key_marker`: older versions of that key are listed too.
    pub version_marker: Option<VersionId>,
    /// Versions, delete markers and common prefixes together, 0 to 1000.
    pub max: usize,
}

/// A version or delete marker in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionEntry {
    pub key: String,
    pub summary: VersionSummary,
    /// Sent beside the page.
    #[serde(skip)]
    pub class: StorageClass,
    /// Whether it is the key's newest.
    pub latest: bool,
}

/// A page of a listing of versions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionsPage {
    pub entries: Vec<VersionEntry>,
    pub common_prefixes: Vec<String>,
    /// The last key (or common prefix) and version given, if there is more.
    pub next: Option<(String, Option<VersionId>)>,
}

/// An upload to begin.
#[derive(Clone, Debug)]
pub struct NewUpload {
    pub headers: ObjectHeaders,
    pub tags: Vec<(String, String)>,
    /// Of the object that it becomes; as in [`NewVersion`].
    pub lock: VersionLock,
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
}

/// A part that was stored and is to be recorded.
#[derive(Clone, Debug)]
pub struct NewPart {
    pub number: u16,
    pub size: u64,
    pub md5: [u8; 16],
    pub checksum: Option<ObjectChecksum>,
    pub body: Body,
    /// As of a version.
    pub missed: Vec<MissedSlot>,
}

/// A part as named by `CompleteMultipartUpload`.
#[derive(Clone, Debug)]
pub struct CompletePart {
    pub number: u16,
    pub etag: String,
    pub checksum: Option<ObjectChecksum>,
}

/// An upload to complete. The caller has read the parts and computed etag, checksum and size from them; the command
/// carries the parts that they were computed from, and takes effect only if these are still the upload's parts.
#[derive(Clone, Debug)]
pub struct CompleteUpload {
    pub upload: UploadId,
    pub parts: Vec<PartRecord>,
    pub size: u64,
    pub etag: Etag,
    pub checksum: Option<ObjectChecksum>,
}

/// Why an upload was not completed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CompleteUploadError {
    /// A part was uploaded again meanwhile: read the parts and try again.
    #[error("the parts have changed")]
    PartsChanged,
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// A part listing to make.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ListParts {
    pub upload: UploadId,
    /// Only parts with a greater number.
    pub after: u16,
    pub max: usize,
}

/// A page of parts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PartsPage {
    pub upload: UploadRecord,
    pub parts: Vec<PartRecord>,
    pub truncated: bool,
}

/// An upload listing to make: by key, then by upload id.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ListUploads {
    pub prefix: String,
    pub delimiter: Option<String>,
    pub key_marker: Option<String>,
    /// With `key_marker`: uploads of that key with a greater id are listed too.
    pub upload_marker: Option<UploadId>,
    pub max: usize,
}

/// A page of uploads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadsPage {
    pub uploads: Vec<UploadRecord>,
    pub common_prefixes: Vec<String>,
    /// The last key (or common prefix) and upload given, if there is more.
    pub next: Option<(String, Option<UploadId>)>,
}

/// Names a reclaim entry of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReclaimId(pub [u8; 12]);

/// Bodies that no version names any more: free their shards, then say so with [`Metadata::reclaimed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reclaimable {
    pub id: ReclaimId,
    /// When they lost their version or upload.
    pub since: UnixMillis,
    pub bodies: Vec<ChunkedBody>,
}

/// An upload that was begun long ago and is still open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldUpload {
    pub bucket: BucketId,
    pub key: String,
    pub upload: UploadId,
    pub initiated: UnixMillis,
}

/// The metadata groups. Every method is linearizable per key.
#[derive(Clone)]
pub struct Metadata {
    pub(super) proposer: Arc<Proposer>,
    pub(super) asker: Asker,
    pub(super) map: SharedMap,
    pub(super) clock: Arc<dyn Clock>,
    /// Of the changes that are made through this.
    pub(super) cause: Cause,
    pub(super) rounds: Arc<Rounds>,
}

/// A key's place: its address in commands and the group that decides them.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct Place<'a> {
    pub group: GroupId,
    #[serde(borrow)]
    pub address: Address<'a>,
}

impl Place<'_> {
    /// The object's key in the group's state.
    pub fn object_key(&self) -> Vec<u8> {
        let Address { bucket, lane, key } = self.address;
        keys::object(self.group, bucket, lane, key)
    }
}

impl Metadata {
    pub fn new(
        groups: Arc<dyn Groups>,
        map: SharedMap,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
    ) -> Self {
        Self {
            asker: Asker::new(groups.clone(), clock.clone()),
            proposer: Arc::new(Proposer::new(groups, clock.clone(), rng)),
            map,
            clock,
            cause: Cause::default(),
            rounds: Arc::default(),
        }
    }

    /// The same metadata for somebody whose changes have that cause.
    pub fn caused_by(&self, cause: Cause) -> Self {
        Self {
            cause,
            ..self.clone()
        }
    }

    pub(super) fn place<'a>(&self, bucket: BucketId, key: &'a str) -> Place<'a> {
        let map = self.map.load();
        let lane = keys::lane_of(bucket, key, map.lanes);
        Place {
            group: map.group_of(bucket, lane),
            address: Address { bucket, lane, key },
        }
    }

    /// The bucket's lanes with their groups.
    pub(super) fn lanes(&self, bucket: BucketId) -> Vec<(GroupId, Lane)> {
        let map = self.map.load();
        (0..map.lanes.max(1))
            .map(|lane| (map.group_of(bucket, Lane(lane)), Lane(lane)))
            .collect()
    }

    /// Has a command decided; `tail` follows it.
    pub(super) async fn decide(
        &self,
        group: GroupId,
        command: &Command<'_>,
        tail: &[u8],
    ) -> Result<(Stamp, Outcome), MetadataError> {
        let buffer = self.proposer.begin(512 + tail.len());
        let mut buffer = match self.cause {
            Cause::Request => postcard::to_extend(command, buffer),
            cause => {
                let command = postcard::to_stdvec(command).map_err(values::unencodable)?;
                let command = &command;
                postcard::to_extend(&Command::Caused { cause, command }, buffer)
            }
        }
        .map_err(values::unencodable)?;
        buffer.extend_from_slice(tail);
        let (at, outcome) = self.proposer.decide(group, buffer).await?;
        let outcome = postcard::from_bytes(&outcome).map_err(|_| {
            MetadataError::Failed(format!("{group} gave an answer of no known form"))
        })?;
        Ok((at, outcome))
    }
}

/// An outcome that the command cannot have.
pub(super) fn strange(outcome: &Outcome) -> MetadataError {
    MetadataError::Failed(format!("a strange answer: {outcome:?}"))
}

impl From<Refusal> for WriteError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::PreconditionFailed => Self::PreconditionFailed,
            Refusal::NoSuchKey => Self::NoSuchKey,
            Refusal::LaneClosed => Self::NoSuchBucket,
            Refusal::NoSuchUpload => Self::NoSuchUpload,
            Refusal::NoSuchVersion => Self::NoSuchVersion,
            Refusal::IsDeleteMarker => Self::IsDeleteMarker,
            Refusal::Locked => Self::Locked,
            Refusal::NotLockable => Self::NotLockable,
            Refusal::BaseChanged => Self::BaseChanged,
            Refusal::TooManyParts => Self::TooManyParts,
            Refusal::KeepsVersions => Self::KeepsVersions,
            Refusal::BeingRenamed => Self::Metadata(busy()),
            Refusal::TokenMismatch => Self::TokenMismatch,
            Refusal::RenameExpired => Self::RenameConflict,
            Refusal::EventsWaiting => Self::EventsWaiting,
            Refusal::OverQuota { bytes, objects } => Self::OverQuota(Amount { bytes, objects }),
            Refusal::PartsChanged | Refusal::DeletionCancelled | Refusal::BodyChanged => {
                Self::Metadata(strange(&Outcome::Refused(refusal)))
            }
        }
    }
}

impl From<CommandError> for MetadataError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Unavailable(text) => Self::Unavailable(text),
            CommandError::Indeterminate(text) => Self::Indeterminate(text),
            CommandError::Failed(text) => Self::Failed(text),
        }
    }
}

impl From<AskError> for MetadataError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Unavailable(text) => Self::Unavailable(text),
            AskError::Failed(text) => Self::Failed(text),
            AskError::Full => Self::Full,
        }
    }
}

impl From<NotNow> for MetadataError {
    fn from(not_now: NotNow) -> Self {
        match not_now {
            NotNow::BucketClosed => Self::BucketClosed,
            NotNow::Renaming => busy(),
        }
    }
}

impl From<IndexError> for MetadataError {
    fn from(error: IndexError) -> Self {
        match error {
            IndexError::Full => Self::Full,
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<DirectoryError> for MetadataError {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::Unavailable(text) => Self::Unavailable(text),
            DirectoryError::Indeterminate(text) => Self::Indeterminate(text),
            DirectoryError::Failed(text) => Self::Failed(text),
            DirectoryError::Full => Self::Full,
        }
    }
}

impl From<IndexError> for WriteError {
    fn from(error: IndexError) -> Self {
        Self::Metadata(error.into())
    }
}
