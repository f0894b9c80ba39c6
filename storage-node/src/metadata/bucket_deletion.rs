//! Deleting a bucket.

use std::sync::Arc;

use holdfast_placement::directory::{Bucket, Directory};

use super::store::{Metadata, MetadataError};

/// What a DeleteBucket did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteBucket {
    Deleted,
    /// There is an object or an upload (409 BucketNotEmpty).
    NotEmpty,
    NoSuchBucket,
}

/// Deletes the bucket called `name` if it is empty.
#[expect(
    unused_variables,
    reason = "the signatures come first, the bodies follow"
)]
pub async fn delete_bucket(
    directory: &Directory,
    metadata: &Metadata,
    name: &str,
) -> Result<DeleteBucket, MetadataError> {
    todo!()
}

/// To be called when a write was refused with [`super::WriteError::NoSuchBucket`]: `Some`: the bucket lives (it may be
/// another of that name), try the write again on it, once; `None`: it is gone (404).
#[expect(
    unused_variables,
    reason = "the signatures come first, the bodies follow"
)]
pub async fn settle_refused_write(
    directory: &Directory,
    metadata: &Metadata,
    name: &str,
) -> Result<Option<Arc<Bucket>>, MetadataError> {
    todo!()
}
