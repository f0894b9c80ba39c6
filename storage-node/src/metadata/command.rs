//! What a metadata group is asked to do, and what came of it. Both are written to logs: the order of variants and
//! fields is persisted, append only.

use holdfast_placement::ids::{BucketId, ChunkSetId, Lane, UploadId};
use serde::{Deserialize, Serialize};

use super::apply_rename::Intent;
use super::classes::SetClass;
use super::events::{BucketEvents, Cause, EventId};
use super::lifecycle_actions::KeyActions;
use super::lock::{LockChange, VersionLock};
use super::quota::{LaneQuota, ShareOrder};
use super::record::{
    Body, ChecksumAlgorithm, ChecksumKind, ChunkedBody, Etag, MissedSlot, ObjectChecksum,
    ObjectHeaders, PartRecord, VersionId, VersionRef, VersionSummary,
};
use super::redundancy::{BodyPlace, RepairId};
use super::rename::{RenameCondition, RenameId, RenameToken};
use super::store::{Condition, DeleteOutcome, ReclaimId};
use super::versioning::BucketVersioning;

/// A key and where it is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Address<'a> {
    pub bucket: BucketId,
    pub lane: Lane,
    pub key: &'a str,
}

/// A command's body. What follows it: for a `Put` of an inline body its bytes; for commands that bring a body in chunks
/// ([`Command::new_chunks`]) the shards that the write missed, if any, see [`encode_missed`].
#[derive(Debug, Serialize, Deserialize)]
pub enum Command<'a> {
    Put {
        #[serde(borrow)]
        at: Address<'a>,
        condition: Condition,
        size: u64,
        etag: Etag,
        checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
        body: Body,
        /// An encoded [`super::record::VersionDetails`]; goes into the record as it is.
        details: &'a [u8],
    },
    Delete {
        bucket: BucketId,
        #[serde(borrow)]
        keys: Vec<DeleteKey<'a>>,
    },
    SetTags {
        #[serde(borrow)]
        at: Address<'a>,
        tags: Vec<(String, String)>,
    },
    CreateUpload {
        #[serde(borrow)]
        at: Address<'a>,
        upload: UploadId,
        headers: ObjectHeaders,
        tags: Vec<(String, String)>,
        checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
    },
    PutPart {
        #[serde(borrow)]
        at: Address<'a>,
        upload: UploadId,
        /// `modified` is ignored.
        part: PartRecord,
    },
    CompleteUpload {
        #[serde(borrow)]
        at: Address<'a>,
        condition: Condition,
        upload: UploadId,
        /// Chosen parts, ascending.
        numbers: Vec<u16>,
        /// Of the chosen parts, see [`PartsDigest`].
        digest: [u8; 32],
        size: u64,
        etag: Etag,
        checksum: Option<ObjectChecksum>,
    },
    AbortUpload {
        #[serde(borrow)]
        at: Address<'a>,
        upload: UploadId,
    },
    CloseLanes {
        bucket: BucketId,
        lanes: Vec<Lane>,
        /// The number of the bucket's deletion.
        deletion: u64,
    },
    ReopenLanes {
        bucket: BucketId,
        lanes: Vec<Lane>,
        /// Deletions up to this one are cancelled.
        deletion: u64,
    },
    Reclaimed {
        ids: Vec<ReclaimId>,
    },
    /// The shards are there now, or need not be.
    Repaired {
        ids: Vec<RepairId>,
    },
    /// The same bytes in other chunks: nothing that a client sees changes.
    ReplaceBody {
        #[serde(borrow)]
        at: Address<'a>,
        place: BodyPlace,
        /// Takes effect only if this is there still.
        old: ChunkSetId,
        new: ChunkedBody,
    },
    /// As `Delete`, of versions too.
    DeleteVersions {
        bucket: BucketId,
        #[serde(borrow)]
        keys: Vec<DeleteVersion<'a>>,
    },
    /// As `SetTags`, of a version.
    SetVersionTags {
        #[serde(borrow)]
        at: Address<'a>,
        version: VersionRef,
        tags: Vec<(String, String)>,
    },
    SetLock {
        #[serde(borrow)]
        at: Address<'a>,
        /// `None`: of the newest version.
        version: Option<VersionRef>,
        change: LockChange,
        bypass_governance: bool,
    },
    /// As `CreateUpload`, of an object that is to be locked.
    CreateLockedUpload {
        #[serde(borrow)]
        at: Address<'a>,
        upload: UploadId,
        headers: ObjectHeaders,
        tags: Vec<(String, String)>,
        checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
        lock: VersionLock,
    },
    SetVersioning {
        bucket: BucketId,
        lanes: Vec<Lane>,
        versioning: BucketVersioning,
    },
    /// Sets the canned access control list of a version (`None`: of the newest).
    SetAcl {
        #[serde(borrow)]
        at: Address<'a>,
        version: Option<VersionRef>,
        /// `None`: private.
        acl: Option<&'a str>,
    },
    /// Puts bytes behind those of the newest version, where no versions are kept.
    Append {
        #[serde(borrow)]
        at: Address<'a>,
        condition: Condition,
        /// The version that the bytes go behind: etag and checksum are computed from its own.
        base: VersionId,
        /// Of the whole.
        size: u64,
        etag: Etag,
        /// Of the whole; `None`: it has none from now on.
        checksum: Option<ObjectChecksum>,
        addition: Addition,
    },
    /// Gives an object another key of the group.
    Rename {
        id: RenameId,
        #[serde(borrow)]
        from: Address<'a>,
        #[serde(borrow)]
        to: Address<'a>,
        source: RenameCondition,
        destination: RenameCondition,
        token: Option<RenameToken>,
    },
    /// Notes that an object is to go to another group.
    BeginRename {
        #[serde(borrow)]
        at: Address<'a>,
        condition: RenameCondition,
        intent: Intent,
    },
    /// Takes an object from another group, or decides not to. The tail is its inline bytes.
    ReceiveRename(#[serde(borrow)] ReceiveRename<'a>),
    /// Ends a rename at its source, as it was decided.
    EndRename {
        #[serde(borrow)]
        at: Address<'a>,
        id: RenameId,
        has_moved: bool,
    },
    /// Tells the destination's group that a rename was ended.
    RenameEnded {
        id: RenameId,
    },
    /// Another command, encoded, and why it is made. There is no such one inside.
    Caused {
        cause: Cause,
        command: &'a [u8],
    },
    /// Has the lanes tell of their changes.
    SetEvents {
        bucket: BucketId,
        lanes: Vec<Lane>,
        events: BucketEvents,
        /// Whether webhooks are sent a first event.
        test: bool,
    },
    /// A webhook was told of all that happened until then.
    ForgetEvents {
        target: &'a str,
        through: EventId,
    },
    /// Changes lanes' shares of the bucket's quota.
    OrderShares {
        bucket: BucketId,
        /// Lanes take no order with a lesser number than the last.
        change: u64,
        orders: Vec<(Lane, ShareOrder)>,
    },
    /// Gives versions other storage classes, each if it is there still.
    SetClasses {
        bucket: BucketId,
        #[serde(borrow)]
        changes: Vec<SetClass<'a>>,
    },
    /// Counts more of what is in lanes that are to have shares, see [`super::lane_count`].
    CountLanes {
        bucket: BucketId,
        lanes: Vec<Lane>,
        /// How many entries of each are looked at.
        entries: u32,
    },
    /// Does what a rule of a lifecycle says, to each version that is what it was and has all of `tags`.
    CarryOut {
        bucket: BucketId,
        #[serde(borrow)]
        tags: Vec<(&'a str, &'a str)>,
        #[serde(borrow)]
        actions: Vec<KeyActions<'a>>,
    },
}

/// A rename to be decided where it leads to.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReceiveRename<'a> {
    pub id: RenameId,
    #[serde(borrow)]
    pub at: Address<'a>,
    pub condition: RenameCondition,
    pub token: Option<RenameToken>,
    #[serde(borrow)]
    pub object: Moved<'a>,
}

/// An object as another group has it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Moved<'a> {
    /// Its encoded version.
    pub value: &'a [u8],
    /// What its part table is called from now on, if it has one.
    pub table: UploadId,
    pub parts: Vec<PartRecord>,
    /// Shards of its bodies that are still to be made.
    pub missed: Vec<(ChunkedBody, Vec<MissedSlot>)>,
}

/// What came of a rename, or of a step of one. Persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameVerdict {
    Moved,
    /// A request with the same token has done the same.
    DoneBefore,
    Refused(Refusal),
}

/// How bytes are added to a version. Persisted: the order of variants is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Addition {
    /// The command's tail goes behind inline bytes or none, and all of them stay inline.
    Inline,
    /// All bytes, old and new, of a version that was inline or empty.
    Whole(ChunkedBody),
    /// Another part. A version in one body becomes one of two parts, in a table of this name; one that has a table keeps
    /// it. The part's number and `modified` are ignored.
    Part { table: UploadId, part: PartRecord },
}

impl<'a> Command<'a> {
    /// The key of which the command changes a version, if it is one.
    pub fn changed_key(&self) -> Option<Address<'a>> {
        match self {
            Command::Put { at, .. }
            | Command::SetTags { at, .. }
            | Command::SetVersionTags { at, .. }
            | Command::SetLock { at, .. }
            | Command::SetAcl { at, .. }
            | Command::CompleteUpload { at, .. }
            | Command::ReplaceBody { at, .. }
            | Command::Append { at, .. }
            | Command::BeginRename { at, .. } => Some(*at),
            _ => None,
        }
    }

    /// The body in chunks that the command brings.
    pub fn new_chunks(&self) -> Option<&ChunkedBody> {
        match self {
            Command::Put {
                body: Body::Chunked(body),
                ..
            }
            | Command::PutPart {
                part:
                    PartRecord {
                        body: Body::Chunked(body),
                        ..
                    },
                ..
            }
            | Command::ReplaceBody { new: body, .. }
            | Command::Append {
                addition:
                    Addition::Whole(body)
                    | Addition::Part {
                        part:
                            PartRecord {
                                body: Body::Chunked(body),
                                ..
                            },
                        ..
                    },
                ..
            } => Some(body),
            _ => None,
        }
    }
}

/// What follows a command that brings a body: nothing if nothing was missed. Sorts, and drops what comes twice.
pub fn encode_missed(missed: &[MissedSlot]) -> Result<Vec<u8>, postcard::Error> {
    if missed.is_empty() {
        return Ok(Vec::new());
    }
    let mut missed = missed.to_vec();
    missed.sort_unstable();
    missed.dedup();
    postcard::to_stdvec(&missed)
}

/// Reads what [`encode_missed`] wrote; `None` if it is not that, or not about the body.
pub fn decode_missed(bytes: &[u8], body: &ChunkedBody) -> Option<Vec<MissedSlot>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let (missed, rest) = postcard::take_from_bytes::<Vec<MissedSlot>>(bytes).ok()?;
    let inside = |missed: &MissedSlot| {
        missed.chunk < body.chunks() && usize::from(missed.slot) < body.protection.slots()
    };
    let sound = rest.is_empty() && missed.is_sorted_by(|a, b| a < b) && missed.iter().all(inside);
    sound.then_some(missed)
}

/// A key to delete.
#[derive(Debug, Serialize, Deserialize)]
pub struct DeleteKey<'a> {
    pub lane: Lane,
    pub key: &'a str,
    pub condition: Condition,
}

/// A version to delete.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeleteVersion<'a> {
    pub lane: Lane,
    pub key: &'a str,
    /// `None`: the key is deleted, and its versions stay if it has any.
    pub version: Option<VersionRef>,
    pub condition: Condition,
    pub bypass_governance: bool,
}

impl<'a> From<DeleteKey<'a>> for DeleteVersion<'a> {
    fn from(key: DeleteKey<'a>) -> Self {
        Self {
            lane: key.lane,
            key: key.key,
            version: None,
            condition: key.condition,
            bypass_governance: false,
        }
    }
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Refused(Refusal),
    Written(VersionSummary),
    /// For each key whether it was there, in the order asked.
    Deleted(Vec<Result<bool, Refusal>>),
    Done,
    /// Whether the lanes are closed; if not, there is something in one of them.
    Closed(bool),
    /// In the order asked.
    VersionsDeleted(Vec<Result<DeleteOutcome, Refusal>>),
    Renamed(RenameVerdict),
    /// The lanes' shares now, in the order asked.
    Shares(Vec<LaneQuota>),
    /// Whether each version was there, in the order asked.
    ClassesSet(Vec<bool>),
    /// Of which lanes all is counted, in the order asked.
    Counted(Vec<bool>),
    /// For each version, in the order asked.
    CarriedOut(Vec<Result<(), Refusal>>),
}

/// Why a command had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    PreconditionFailed,
    NoSuchKey,
    LaneClosed,
    NoSuchUpload,
    PartsChanged,
    /// The deletion was cancelled before.
    DeletionCancelled,
    /// What was to be replaced is not there any more.
    BodyChanged,
    NoSuchVersion,
    /// It has neither tags nor a lock.
    IsDeleteMarker,
    /// The version may not be removed yet, or its retention not be changed so.
    Locked,
    /// The bucket has no object lock.
    NotLockable,
    /// The newest version is not the one that bytes were to be put behind.
    BaseChanged,
    /// The object has as many parts as it may have.
    TooManyParts,
    /// The bucket keeps versions, of which this changes none.
    KeepsVersions,
    /// The key is being renamed: settle that first.
    BeingRenamed,
    /// The client's token came with another request.
    TokenMismatch,
    /// The rename was begun too long ago to be decided.
    RenameExpired,
    /// Too many events wait for a webhook.
    EventsWaiting,
    /// The lane's share of the quota has no room for so much more.
    OverQuota {
        bytes: u64,
        objects: u64,
    },
}

/// Tells whether an upload's parts are those that a completion was computed from, without sending them: blake3 over
/// number (u16), size (u64), MD5 and chunk set id (zeros if empty) of each, little endian.
pub struct PartsDigest(blake3::Hasher);

impl PartsDigest {
    pub fn new() -> Self {
        Self(blake3::Hasher::new())
    }

    pub fn add(&mut self, part: &PartRecord) {
        let mut bytes = [0; 2 + 8 + 16 + 16];
        bytes[..2].copy_from_slice(&part.number.to_le_bytes());
        bytes[2..10].copy_from_slice(&part.size.to_le_bytes());
        bytes[10..26].copy_from_slice(&part.md5);
        if let Body::Chunked(body) = &part.body {
            bytes[26..].copy_from_slice(&body.set.0);
        }
        self.0.update(&bytes);
    }

    pub fn finish(self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}
