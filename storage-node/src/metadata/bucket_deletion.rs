//! Deleting a bucket: the whole protocol, which [`holdfast_placement::directory`] explains.

use std::sync::Arc;

use holdfast_placement::directory::{Bucket, Directory};

use super::buckets::CloseBucket;
use super::store::{Metadata, MetadataError};

/// A deletion that was begun longer ago must have died: its commands are given up long before.
const DELETION_DEAD_MS: u64 = 15_000;

/// Deletions that are tried when others come between, at most.
const TRIES: usize = 4;

/// What a DeleteBucket did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteBucket {
    Deleted,
    /// There is a version or a delete marker (409 BucketNotEmpty).
    NotEmpty,
    NoSuchBucket,
}

/// Deletes the bucket called `name` if it has no versions. Uploads under way go with it.
pub async fn delete_bucket(
    directory: &Directory,
    metadata: &Metadata,
    name: &str,
) -> Result<DeleteBucket, MetadataError> {
    for _ in 0..TRIES {
        let Some(bucket) = directory.bucket_now(name).await? else {
            return Ok(DeleteBucket::NoSuchBucket);
        };
        // The usual refusal disturbs no writer.
        if !metadata.is_empty(bucket.id).await? {
            return Ok(DeleteBucket::NotEmpty);
        }
        let Some(bucket) = directory.begin_delete(name).await? else {
            return Ok(DeleteBucket::NoSuchBucket);
        };
        match metadata.close_bucket(bucket.id, bucket.deletions).await? {
            CloseBucket::Closed => {
                let is_finished = match directory.finish_delete(&bucket).await {
                    Ok(is_finished) => is_finished,
                    Err(error) => match directory.bucket_now(name).await {
                        // It took effect all the same.
                        Ok(now) if now.as_ref().is_none_or(|now| now.id != bucket.id) => true,
                        _ => return Err(error.into()),
                    },
                };
                if is_finished {
                    // Not before: a bucket that lives on keeps its uploads. What is left now the reclaimer ends.
                    if let Err(error) = metadata.abort_uploads(bucket.id).await {
                        tracing::warn!(%error, bucket = name, "uploads of a deleted bucket are left for later");
                    }
                    return Ok(DeleteBucket::Deleted);
                }
            }
            CloseBucket::NotEmpty => {
                directory.cancel_delete(&bucket).await?;
                // Cancelled now or superseded: its number will not be finished either way.
                metadata.reopen_bucket(bucket.id, bucket.deletions).await?;
                return Ok(DeleteBucket::NotEmpty);
            }
            CloseBucket::Cancelled => {}
        }
    }
    Err(MetadataError::Unavailable(format!(
        "other deletions of bucket {name} are under way"
    )))
}

/// To be called when a write was refused with [`super::WriteError::NoSuchBucket`]: `Some`: the bucket lives (it may be
/// another of that name), try the write again on it, once; `None`: it is gone (404).
pub async fn settle_refused_write(
    directory: &Directory,
    metadata: &Metadata,
    name: &str,
) -> Result<Option<Arc<Bucket>>, MetadataError> {
    for _ in 0..TRIES {
        let Some(bucket) = directory.bucket_now(name).await? else {
            return Ok(None);
        };
        if let Some(since) = bucket.deleting_since {
            if metadata.clock.wall().0 < since.0.saturating_add(DELETION_DEAD_MS) {
                return Err(MetadataError::Unavailable(format!(
                    "bucket {name} is being deleted"
                )));
            }
            if !directory.cancel_delete(&bucket).await? {
                continue;
            }
        }
        metadata.reopen_bucket(bucket.id, bucket.deletions).await?;
        return Ok(Some(bucket));
    }
    Err(MetadataError::Unavailable(format!(
        "deletions of bucket {name} are under way"
    )))
}
