//! Object metadata: what a key's versions are, as replicated state machines.

mod record;
mod store;

pub use record::{
    Body, ChecksumAlgorithm, ChecksumKind, ChunkedBody, Etag, ObjectChecksum, ObjectHeaders,
    PartRecord, UploadRecord, VersionId, VersionRecord, VersionSummary,
};
pub use store::{
    CompletePart, CompleteUpload, CompleteUploadError, Condition, DeleteOutcome, ListEntry,
    ListObjects, ListPage, ListParts, ListUploads, Metadata, MetadataError, NewPart, NewUpload,
    NewVersion, PartsPage, StoredVersion, UploadsPage, WriteError,
};
