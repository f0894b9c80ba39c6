//! The reclaim queue: bodies that no version and no upload names any more.
//!
//! Each group has a queue of its own, written in the same batch as the change that let go of the body. An entry waits
//! there until its shards are freed: the worker asks [`Metadata::reclaimable`](crate::metadata::Metadata::reclaimable)
//! for entries that are older than the readers under way, frees their shards, and then says
//! [`Metadata::reclaimed`](crate::metadata::Metadata::reclaimed).
//!
//! Key in `Records`: `group (u32) | 06 | stamp (u64) | number within the stamp (u32)`, big endian, so that the oldest
//! comes first. Value: format byte, [`Entry`]. Persisted, keep stable.

use holdfast_placement::command::Stamp;
use holdfast_placement::ids::UploadId;
use serde::{Deserialize, Serialize};

use crate::metadata::{ChunkedBody, ReclaimId};

/// What waits. The order of variants is persisted: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Entry {
    /// One body.
    Body(ChunkedBody),
    /// All bodies of a completed object's part table, and the table itself.
    Table(UploadId),
    /// All bodies of an aborted upload's parts, and the parts' records.
    Parts(UploadId),
    /// A part table whose bodies another group's object has now.
    TableAlone(UploadId),
}

/// The id of the entry of a stamp.
pub(crate) fn entry_id(stamp: Stamp, number: u32) -> ReclaimId {
    let mut id = [0; 12];
    id[..8].copy_from_slice(&stamp.0.to_be_bytes());
    id[8..].copy_from_slice(&number.to_be_bytes());
    ReclaimId(id)
}

/// When an entry was queued.
pub(crate) fn entry_stamp(id: ReclaimId) -> Stamp {
    let mut stamp = [0; 8];
    stamp.copy_from_slice(&id.0[..8]);
    Stamp(u64::from_be_bytes(stamp))
}
