//! Metadata as the gateway asks for it.

use std::sync::Arc;

use bytes::Bytes;
use holdfast_placement::consensus::Groups;
use holdfast_placement::ids::{BucketId, ChunkSetId, UploadId};
use holdfast_placement::seams::{Clock, Rng, UnixMillis};

use super::record::{
    Body, ChecksumAlgorithm, ChecksumKind, Etag, ObjectChecksum, ObjectHeaders, PartRecord,
    UploadRecord, VersionRecord, VersionSummary,
};

/// What must hold of a key's newest version for a write to take effect; decided when the command is applied.
/// (S3 user guide, "Conditional requests".)
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// `If-None-Match: *`.
    pub absent: bool,
    /// `If-Match`: an etag without quotes, or `*`.
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
    pub headers: ObjectHeaders,
    pub tags: Vec<(String, String)>,
}

/// A version that was found; `inline` is filled when its body is inline.
#[derive(Clone, Debug)]
pub struct StoredVersion {
    pub record: VersionRecord,
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
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// What a DELETE did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeleteOutcome {
    /// Whether there was anything.
    pub existed: bool,
}

/// A listing to make, in UTF-8 binary order.
#[derive(Clone, Debug, Default)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListEntry {
    pub key: String,
    pub summary: VersionSummary,
}

/// A page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    pub entries: Vec<ListEntry>,
    pub common_prefixes: Vec<String>,
    /// Where to go on (`after` of the next page), if there is more: the last key or common prefix given.
    pub next: Option<String>,
}

/// An upload to begin.
#[derive(Clone, Debug)]
pub struct NewUpload {
    pub headers: ObjectHeaders,
    pub tags: Vec<(String, String)>,
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
#[derive(Clone, Debug)]
pub struct ListParts {
    pub upload: UploadId,
    /// Only parts with a greater number.
    pub after: u16,
    pub max: usize,
}

/// A page of parts.
#[derive(Clone, Debug)]
pub struct PartsPage {
    pub upload: UploadRecord,
    pub parts: Vec<PartRecord>,
    pub truncated: bool,
}

/// An upload listing to make: by key, then by upload id.
#[derive(Clone, Debug, Default)]
pub struct ListUploads {
    pub prefix: String,
    pub delimiter: Option<String>,
    pub key_marker: Option<String>,
    /// With `key_marker`: uploads of that key with a greater id are listed too.
    pub upload_marker: Option<UploadId>,
    pub max: usize,
}

/// A page of uploads.
#[derive(Clone, Debug, Default)]
pub struct UploadsPage {
    pub uploads: Vec<UploadRecord>,
    pub common_prefixes: Vec<String>,
    /// The last key (or common prefix) and upload given, if there is more.
    pub next: Option<(String, Option<UploadId>)>,
}

/// The metadata groups. Every method is linearizable per key.
#[derive(Clone)]
pub struct Metadata {
    groups: Arc<dyn Groups>,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
}
