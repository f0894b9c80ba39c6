//! Object metadata: what a key's versions are, as replicated state machines.

mod apply;
mod apply_redundancy;
mod apply_upload;
mod bucket_deletion;
mod buckets;
mod command;
mod condition;
mod keys;
mod leftovers;
mod list;
mod merge;
mod objects;
mod pages;
mod parts;
mod questions;
mod raw_bytes;
mod record;
mod redundancy;
mod references;
mod store;
#[doc(hidden)]
pub mod testing;
#[cfg(test)]
mod tests;
mod uploads;
mod usage;
mod values;

use holdfast_placement::command::Machine;
use holdfast_placement::consensus::StateMachine;
use holdfast_placement::ids::GroupId;

pub use bucket_deletion::{DeleteBucket, delete_bucket, settle_refused_write};
pub use buckets::CloseBucket;
pub use keys::lane_of;
pub use questions::query_runner;
pub use record::{
    Body, ChecksumAlgorithm, ChecksumKind, ChunkedBody, Etag, MissedSlot, ObjectChecksum,
    ObjectHeaders, PartRecord, UploadRecord, VersionId, VersionRecord, VersionSummary,
};
pub use redundancy::{BodyPlace, OpenRepair, PlacedBodies, PlacedBody, RepairId, Seen};
pub use store::{
    CompletePart, CompleteUpload, CompleteUploadError, Condition, DeleteOutcome, ListEntry,
    ListObjects, ListPage, ListParts, ListUploads, Metadata, MetadataError, NewPart, NewUpload,
    NewVersion, PartsPage, ReclaimId, Reclaimable, StaleUpload, StoredVersion, UploadsPage,
    WriteError,
};

pub use usage::{BodyClass, Tally, Usage};

/// The state machine of a metadata group.
pub fn metadata_machine(group: GroupId) -> Box<dyn StateMachine> {
    Box::new(Machine::new(group, apply::ObjectGroup::default()))
}
