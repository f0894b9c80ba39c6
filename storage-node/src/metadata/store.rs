//! Metadata as the gateway asks for it.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_placement::consensus::Groups;
use holdfast_placement::ids::{BucketId, GroupId, UploadId};
use holdfast_placement::map::SharedMap;
use holdfast_placement::seams::{Clock, Rng, UnixMillis};
use serde::{Deserialize, Serialize};

use super::record::{
    Body, ChecksumAlgorithm, ChecksumKind, ChunkedBody, Etag, ObjectChecksum, ObjectHeaders,
    PartRecord, UploadRecord, VersionRecord, VersionSummary,
};

/// What must hold of a key's newest version for a write to take effect; decided when the command is applied.
/// (S3 user guide, "Conditional requests".)
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// Names a reclaim entry of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReclaimId(pub [u8; 12]);

/// Bodies that no version names any more: free their shards, then say so with [`Metadata::reclaimed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reclaimable {
    pub id: ReclaimId,
    /// When they lost their version or upload.
    pub since: UnixMillis,
    pub bodies: Vec<ChunkedBody>,
}

/// An upload that was begun long ago and is still open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleUpload {
    pub bucket: BucketId,
    pub key: String,
    pub upload: UploadId,
    pub initiated: UnixMillis,
}

/// The metadata groups. Every method is linearizable per key.
#[derive(Clone)]
pub struct Metadata {
    groups: Arc<dyn Groups>,
    map: SharedMap,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
}

#[expect(
    unused_variables,
    reason = "the signatures come first, the bodies follow"
)]
impl Metadata {
    pub fn new(
        groups: Arc<dyn Groups>,
        map: SharedMap,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
    ) -> Self {
        Self {
            groups,
            map,
            clock,
            rng,
        }
    }

    // Objects.

    /// Writes a key's newest version; the former one's body goes onto the reclaim queue.
    pub async fn put(
        &self,
        bucket: BucketId,
        key: &str,
        new: NewVersion,
        condition: &Condition,
    ) -> Result<VersionSummary, WriteError> {
        todo!()
    }
    /// The newest version, with its inline bytes.
    pub async fn get(
        &self,
        bucket: BucketId,
        key: &str,
    ) -> Result<Option<StoredVersion>, MetadataError> {
        todo!()
    }
    /// The newest version; never reads inline bytes.
    pub async fn head(
        &self,
        bucket: BucketId,
        key: &str,
    ) -> Result<Option<VersionRecord>, MetadataError> {
        todo!()
    }
    /// Deletes a key. A condition on a key that is not there holds (S3 API reference, DeleteObject, `If-Match`).
    pub async fn delete(
        &self,
        bucket: BucketId,
        key: &str,
        condition: &Condition,
    ) -> Result<DeleteOutcome, WriteError> {
        todo!()
    }
    /// Deletes keys: one command a group, groups in parallel; answers are in the order of `keys`.
    pub async fn delete_many(
        &self,
        bucket: BucketId,
        keys: &[(String, Condition)],
    ) -> Vec<Result<DeleteOutcome, WriteError>> {
        todo!()
    }
    /// Replaces the newest version's tags.
    pub async fn set_tags(
        &self,
        bucket: BucketId,
        key: &str,
        tags: Vec<(String, String)>,
    ) -> Result<(), WriteError> {
        todo!()
    }
    /// A page of the bucket's keys.
    pub async fn list(
        &self,
        bucket: BucketId,
        list: &ListObjects,
    ) -> Result<ListPage, MetadataError> {
        todo!()
    }

    // Multipart uploads.

    /// Begins an upload.
    pub async fn create_upload(
        &self,
        bucket: BucketId,
        key: &str,
        new: NewUpload,
    ) -> Result<UploadId, WriteError> {
        todo!()
    }
    /// The upload, if it is under way.
    pub async fn upload(
        &self,
        bucket: BucketId,
        key: &str,
        upload: UploadId,
    ) -> Result<Option<UploadRecord>, MetadataError> {
        todo!()
    }
    /// Records a part; one of the same number is replaced and its body reclaimed. Gives the part's time.
    pub async fn put_part(
        &self,
        bucket: BucketId,
        key: &str,
        upload: UploadId,
        part: NewPart,
    ) -> Result<UnixMillis, WriteError> {
        todo!()
    }
    /// A page of an upload's parts; `None`: no such upload.
    pub async fn list_parts(
        &self,
        bucket: BucketId,
        key: &str,
        list: &ListParts,
    ) -> Result<Option<PartsPage>, MetadataError> {
        todo!()
    }
    /// Makes the upload's parts the key's newest version.
    pub async fn complete_upload(
        &self,
        bucket: BucketId,
        key: &str,
        complete: CompleteUpload,
        condition: &Condition,
    ) -> Result<VersionSummary, CompleteUploadError> {
        todo!()
    }
    /// The version that an upload already completed to (a repeated CompleteMultipartUpload answers with success), if it
    /// is remembered: each group remembers its last 1024.
    pub async fn completed(
        &self,
        bucket: BucketId,
        key: &str,
        upload: UploadId,
    ) -> Result<Option<VersionSummary>, MetadataError> {
        todo!()
    }
    /// Ends an upload; its parts are reclaimed.
    pub async fn abort_upload(
        &self,
        bucket: BucketId,
        key: &str,
        upload: UploadId,
    ) -> Result<(), WriteError> {
        todo!()
    }
    /// A page of the bucket's uploads.
    pub async fn list_uploads(
        &self,
        bucket: BucketId,
        list: &ListUploads,
    ) -> Result<UploadsPage, MetadataError> {
        todo!()
    }
    /// Parts of a completed object that hold bytes of `range`, each with the object offset of its first byte.
    pub async fn parts_in_range(
        &self,
        bucket: BucketId,
        key: &str,
        table: UploadId,
        range: Range<u64>,
    ) -> Result<Vec<(u64, PartRecord)>, MetadataError> {
        todo!()
    }
    /// Parts of a completed object with a number greater than `after`, each with its offset, at most `max`.
    pub async fn parts_after(
        &self,
        bucket: BucketId,
        key: &str,
        table: UploadId,
        after: u16,
        max: usize,
    ) -> Result<Vec<(u64, PartRecord)>, MetadataError> {
        todo!()
    }

    // Buckets. Use `delete_bucket` and `settle_refused_write`, which know the whole protocol.

    /// Closes the bucket's lanes for deletion attempt `attempt`, if they are empty. `true`: all are closed, for as long
    /// as the attempt is not cancelled. `false`: there is an object or an upload, and the lanes are open again.
    pub async fn close_bucket(
        &self,
        bucket: BucketId,
        attempt: u64,
    ) -> Result<bool, MetadataError> {
        todo!()
    }
    /// Opens lanes that were closed by attempts up to `attempt`, which must have been cancelled in the directory.
    pub async fn reopen_bucket(&self, bucket: BucketId, attempt: u64) -> Result<(), MetadataError> {
        todo!()
    }

    // What is left behind.

    /// Bodies of the group that lost their version or upload before `older_than`, oldest first, at most `max` entries.
    pub async fn reclaimable(
        &self,
        group: GroupId,
        older_than: UnixMillis,
        max: usize,
    ) -> Result<Vec<Reclaimable>, MetadataError> {
        todo!()
    }
    /// Forgets entries whose shards are freed.
    pub async fn reclaimed(
        &self,
        group: GroupId,
        ids: Vec<ReclaimId>,
    ) -> Result<(), MetadataError> {
        todo!()
    }
    /// Uploads of the group that were begun before `older_than`, oldest first.
    pub async fn stale_uploads(
        &self,
        group: GroupId,
        older_than: UnixMillis,
        max: usize,
    ) -> Result<Vec<StaleUpload>, MetadataError> {
        todo!()
    }
}
