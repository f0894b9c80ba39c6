//! Lanes of a bucket: whether there is anything in them, and closing them.

use futures_util::future::{join_all, try_join_all};
use holdfast_placement::ids::{BucketId, GroupId, Lane};
use holdfast_placement::planted::{Bug, planted};

use super::command::{Command, Outcome, Refusal};
use super::store::{ListUploads, ListVersions, Metadata, MetadataError, WriteError, strange};

/// Uploads that are ended at a time.
const UPLOADS_AT_ONCE: usize = 64;

/// What became of an attempt to close a bucket's lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseBucket {
    /// All are closed, for as long as the deletion is not cancelled.
    Closed,
    /// There is a version or a delete marker. Other lanes may be closed: cancel the deletion, then reopen the bucket.
    NotEmpty,
    /// The deletion was cancelled before.
    Cancelled,
}

impl Metadata {
    /// Whether the bucket has no versions now, delete markers among them; proof only once it is closed.
    pub async fn is_empty(&self, bucket: BucketId) -> Result<bool, MetadataError> {
        let versions = ListVersions {
            max: 1,
            ..ListVersions::default()
        };
        match self.list_versions(bucket, &versions).await {
            Ok(page) => Ok(page.entries.is_empty()),
            Err(MetadataError::BucketClosed) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Ends all uploads of a bucket that is closed.
    pub async fn abort_uploads(&self, bucket: BucketId) -> Result<(), MetadataError> {
        let list = ListUploads {
            max: UPLOADS_AT_ONCE,
            ..ListUploads::default()
        };
        loop {
            let page = match self.list_uploads(bucket, &list).await {
                Ok(page) if !page.uploads.is_empty() => page,
                Ok(_) | Err(MetadataError::BucketClosed) => return Ok(()),
                Err(error) => return Err(error),
            };
            let aborts = page
                .uploads
                .iter()
                .map(|upload| self.abort_upload(bucket, &upload.key, upload.upload));
            for aborted in join_all(aborts).await {
                match aborted {
                    Ok(()) | Err(WriteError::NoSuchUpload | WriteError::NoSuchBucket) => {}
                    Err(WriteError::Metadata(error)) => return Err(error),
                    Err(other) => return Err(MetadataError::Failed(other.to_string())),
                }
            }
        }
    }

    /// Closes the bucket's lanes, each if it is empty, in the name of the bucket's deletion of that number. Use
    /// `delete_bucket`, which knows the whole protocol.
    pub async fn close_bucket(
        &self,
        bucket: BucketId,
        deletion: u64,
    ) -> Result<CloseBucket, MetadataError> {
        if planted(Bug::SkipLaneClose) {
            return Ok(CloseBucket::Closed);
        }
        let closings = self
            .lanes_by_group(bucket)
            .into_iter()
            .map(|(group, lanes)| {
                let command = Command::CloseLanes {
                    bucket,
                    lanes,
                    deletion,
                };
                async move { self.decide(group, &command, &[]).await }
            });
        // All answers are waited for: a closing under way must not come after what the caller does next.
        let mut all = CloseBucket::Closed;
        for answer in join_all(closings).await {
            match answer?.1 {
                Outcome::Closed(true) => {}
                Outcome::Closed(false) => {
                    if all == CloseBucket::Closed {
                        all = CloseBucket::NotEmpty;
                    }
                }
                Outcome::Refused(Refusal::DeletionCancelled) => all = CloseBucket::Cancelled,
                other => return Err(strange(&other)),
            }
        }
        Ok(all)
    }

    /// Opens lanes that were closed by deletions up to that number, which must have been cancelled in the directory.
    pub async fn reopen_bucket(
        &self,
        bucket: BucketId,
        deletion: u64,
    ) -> Result<(), MetadataError> {
        let openings = self
            .lanes_by_group(bucket)
            .into_iter()
            .map(|(group, lanes)| {
                let command = Command::ReopenLanes {
                    bucket,
                    lanes,
                    deletion,
                };
                async move {
                    match self.decide(group, &command, &[]).await?.1 {
                        Outcome::Done => Ok(()),
                        other => Err(strange(&other)),
                    }
                }
            });
        try_join_all(openings).await?;
        Ok(())
    }

    pub(super) fn lanes_by_group(&self, bucket: BucketId) -> Vec<(GroupId, Vec<Lane>)> {
        let mut lanes = self.lanes(bucket);
        lanes.sort_unstable();
        lanes
            .chunk_by(|(a, _), (b, _)| a == b)
            .map(|chunk| (chunk[0].0, chunk.iter().map(|(_, lane)| *lane).collect()))
            .collect()
    }
}
