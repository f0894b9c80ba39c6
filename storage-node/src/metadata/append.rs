//! Putting bytes behind those of an object (user guide, "Appending data to objects in directory buckets").

use bytes::Bytes;
use holdfast_placement::ids::{BucketId, UploadId};
use holdfast_placement::seams::UnixMillis;

use super::command::{Addition, Command, encode_missed};
use super::objects::written;
use super::record::{
    Body, ChunkedBody, Etag, MissedSlot, ObjectChecksum, PartRecord, VersionId, VersionSummary,
};
use super::store::{Condition, Metadata, WriteError};
use super::values::unencodable;

/// Bytes to put behind a version.
#[derive(Clone, Debug)]
pub enum NewBytes {
    /// They go behind inline bytes, or none, and stay with them.
    Inline(Bytes),
    /// The body has them and, before them, all bytes of the version, which were inline.
    Whole {
        body: ChunkedBody,
        missed: Vec<MissedSlot>,
    },
    /// They are another part of the version, whose own bytes are in chunks.
    Part {
        size: u64,
        md5: [u8; 16],
        checksum: Option<ObjectChecksum>,
        body: ChunkedBody,
        missed: Vec<MissedSlot>,
    },
}

/// A version with more bytes than it had.
#[derive(Clone, Debug)]
pub struct Appended {
    /// The version before: the key's newest, or nothing is added.
    pub base: VersionId,
    pub added: NewBytes,
    /// What the whole is then. Headers and tags stay.
    pub size: u64,
    pub etag: Etag,
    pub checksum: Option<ObjectChecksum>,
}

impl Metadata {
    /// Adds bytes to a key's newest version, which gets a new id and time: decided when it is applied. Readers of the
    /// version as it was are not disturbed.
    ///
    /// # Errors
    /// `BaseChanged` if the version is not the newest any more, `TooManyParts`, `KeepsVersions`.
    pub async fn append(
        &self,
        bucket: BucketId,
        key: &str,
        appended: Appended,
        condition: &Condition,
    ) -> Result<VersionSummary, WriteError> {
        let place = self.place(bucket, key);
        let (addition, tail) = match appended.added {
            NewBytes::Inline(bytes) => (Addition::Inline, bytes),
            NewBytes::Whole { body, missed } => (Addition::Whole(body), encoded(&missed)?),
            NewBytes::Part {
                size,
                md5,
                checksum,
                body,
                missed,
            } => {
                let part = PartRecord {
                    number: 0,
                    size,
                    md5,
                    modified: UnixMillis::default(),
                    checksum,
                    body: Body::Chunked(body),
                };
                let table = UploadId::random(self.proposer.rng());
                (Addition::Part { table, part }, encoded(&missed)?)
            }
        };
        let command = Command::Append {
            at: place.address,
            condition: condition.clone(),
            base: appended.base,
            size: appended.size,
            etag: appended.etag,
            checksum: appended.checksum,
            addition,
        };
        written(self.decide_at(&place, &command, &tail).await?)
    }
}

fn encoded(missed: &[MissedSlot]) -> Result<Bytes, WriteError> {
    Ok(encode_missed(missed).map_err(unencodable)?.into())
}
