//! Object metadata: what a key's versions are, as replicated state machines.

mod bucket_deletion;
mod record;
mod store;

pub use bucket_deletion::{DeleteBucket, delete_bucket, settle_refused_write};
pub use record::{
    Body, ChecksumAlgorithm, ChecksumKind, ChunkedBody, Etag, ObjectChecksum, ObjectHeaders,
    PartRecord, UploadRecord, VersionId, VersionRecord, VersionSummary,
};
pub use store::{
    CompletePart, CompleteUpload, CompleteUploadError, Condition, DeleteOutcome, ListEntry,
    ListObjects, ListPage, ListParts, ListUploads, Metadata, MetadataError, NewPart, NewUpload,
    NewVersion, PartsPage, ReclaimId, Reclaimable, StaleUpload, StoredVersion, UploadsPage,
    WriteError,
};

/// The state machine of a metadata group.
#[expect(
    unused_variables,
    reason = "the signatures come first, the bodies follow"
)]
pub fn metadata_machine(
    group: holdfast_placement::ids::GroupId,
) -> Box<dyn holdfast_placement::consensus::StateMachine> {
    todo!()
}
