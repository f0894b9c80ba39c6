//! Object metadata: what a key's versions are, as replicated state machines.

mod append;
mod apply;
mod apply_append;
mod apply_events;
mod apply_lifecycle;
mod apply_quota;
mod apply_redundancy;
mod apply_rename;
mod apply_upload;
mod apply_versions;
mod bodies;
mod bucket_deletion;
mod buckets;
mod classes;
mod command;
mod condition;
mod event_queue;
mod events;
mod keys;
mod lane_count;
mod leftovers;
mod lifecycle_actions;
mod list;
mod list_versions;
mod lock;
mod merge;
mod objects;
mod pages;
mod parts;
mod questions;
mod quota;
mod raw_bytes;
mod record;
mod redundancy;
mod references;
mod rename;
mod store;
#[doc(hidden)]
pub mod testing;
#[cfg(test)]
mod tests;
mod uploads;
mod usage;
mod values;
mod versioning;

use holdfast_placement::command::Machine;
use holdfast_placement::consensus::StateMachine;
use holdfast_placement::ids::GroupId;

pub use append::{Appended, NewBytes};
pub use bodies::Bodies;
pub use bucket_deletion::{DeleteBucket, delete_bucket, settle_refused_write};
pub use buckets::CloseBucket;
pub use classes::{ClassChange, StorageClass};
pub use event_queue::{bucket_events, change_bucket_events};
pub use events::{
    BucketEvents, Cause, Event, EventId, EventName, EventRule, QueuedEvent, RuleForm,
};
pub use keys::lane_of;
pub use lifecycle_actions::{LifecycleAction, Standing};
pub use lock::{
    DefaultRetention, LockChange, LockConfiguration, LockMode, Retention, RetentionPeriod,
    VersionLock,
};
pub use questions::query_runner;
pub use quota::{
    Amount, LaneQuota, Quota, QuotaStanding, Room, bucket_quota, make_room, set_bucket_quota,
};
pub use record::{
    Body, ChecksumAlgorithm, ChecksumKind, ChunkedBody, Etag, Lookup, MissedSlot, ObjectChecksum,
    ObjectHeaders, PartRecord, UnknownVersion, UploadRecord, VersionId, VersionRecord, VersionRef,
    VersionSummary,
};
pub use redundancy::{BodyPlace, OpenRepair, PlacedBodies, PlacedBody, RepairId, Seen};
pub use rename::{REMEMBERED_MS, Rename, RenameCondition, RenameId, RenameToken};
pub use store::{
    CompletePart, CompleteUpload, CompleteUploadError, Condition, DeleteOutcome, Deletion,
    ListEntry, ListObjects, ListPage, ListParts, ListUploads, ListVersions, Metadata,
    MetadataError, NewPart, NewUpload, NewVersion, OldUpload, PartsPage, ReclaimId, Reclaimable,
    StoredVersion, UploadsPage, VersionEntry, VersionsPage, WriteError,
};

pub use usage::{BodyClass, Tally, Usage};
pub use versioning::{
    BucketVersioning, ChangeVersioningError, Versioning, bucket_versioning,
    change_bucket_versioning,
};

/// The state machine of a metadata group.
pub fn metadata_machine(group: GroupId) -> Box<dyn StateMachine> {
    Box::new(Machine::new(group, apply::ObjectGroup::default()))
}
