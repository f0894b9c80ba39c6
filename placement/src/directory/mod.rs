//! The directory: buckets by name, and the cluster map, as the placement group's state.

use std::sync::Arc;

use crate::consensus::{Groups, StateMachine};
use crate::ids::{BucketId, Epoch};
use crate::map::ClusterMap;
use crate::seams::{Clock, Rng, UnixMillis};

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Bucket {
    pub id: BucketId,
    pub name: String,
    /// The identity that made it.
    pub owner: String,
    /// As its creator asked; what GetBucketLocation answers.
    pub region: String,
    pub created: UnixMillis,
    /// When the deletion under way began, if one is.
    pub deleting_since: Option<UnixMillis>,
    /// Deletions begun so far: numbers the one under way.
    pub deletions: u64,
}

/// What a CreateBucket did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateBucket {
    Created(Arc<Bucket>),
    /// The name is taken by this one; nothing changed.
    Exists(Arc<Bucket>),
}

/// Why the directory gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DirectoryError {
    /// No quorum: nothing happened; try again later (503).
    #[error("no quorum: {0}")]
    Unavailable(String),
    /// The change may or may not have taken effect, now or later.
    #[error("not known to have happened: {0}")]
    Indeterminate(String),
    /// The drive or the state below is damaged (500).
    #[error("the directory failed: {0}")]
    Failed(String),
    /// The drive is full; nothing happened (507).
    #[error("no space left for the directory")]
    Full,
}

/// Buckets by name and the cluster map, kept by the placement group.
pub struct Directory {
    groups: Arc<dyn Groups>,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
}

#[expect(
    unused_variables,
    reason = "the signatures come first, the bodies follow"
)]
impl Directory {
    pub fn new(groups: Arc<dyn Groups>, clock: Arc<dyn Clock>, rng: Arc<dyn Rng>) -> Self {
        Self { groups, clock, rng }
    }

    /// Makes a bucket unless the name is taken.
    pub async fn create_bucket(
        &self,
        name: &str,
        owner: &str,
        region: &str,
    ) -> Result<CreateBucket, DirectoryError> {
        todo!()
    }
    /// The bucket called `name`: from the cache (about 100 ns), else from the placement group.
    pub async fn bucket(&self, name: &str) -> Result<Option<Arc<Bucket>>, DirectoryError> {
        todo!()
    }
    /// As `bucket`, always from the placement group.
    pub async fn bucket_now(&self, name: &str) -> Result<Option<Arc<Bucket>>, DirectoryError> {
        todo!()
    }
    /// Begins a deletion, which supersedes one under way; `None`: no such bucket. Use `delete_bucket` of the metadata.
    pub async fn begin_delete(&self, name: &str) -> Result<Option<Arc<Bucket>>, DirectoryError> {
        todo!()
    }
    /// Drops the name; `false`: that deletion was cancelled or superseded.
    pub async fn finish_delete(&self, bucket: &Bucket) -> Result<bool, DirectoryError> {
        todo!()
    }
    /// Cancels the deletion; `false`: it was finished, cancelled or superseded.
    pub async fn cancel_delete(&self, bucket: &Bucket) -> Result<bool, DirectoryError> {
        todo!()
    }
    /// At most `max` buckets with names that begin with `prefix` and are greater than `after`, by name; and whether
    /// there are more.
    pub async fn list_buckets(
        &self,
        prefix: &str,
        after: Option<&str>,
        max: usize,
    ) -> Result<(Vec<Arc<Bucket>>, bool), DirectoryError> {
        todo!()
    }
    /// The newest cluster map; `None` before the first.
    pub async fn map(&self) -> Result<Option<ClusterMap>, DirectoryError> {
        todo!()
    }
    /// Stores `map` if the stored one has epoch `expected` (`None`: if there is none); says whether it did.
    pub async fn set_map(
        &self,
        expected: Option<Epoch>,
        map: &ClusterMap,
    ) -> Result<bool, DirectoryError> {
        todo!()
    }
}

/// The state machine of the placement group.
pub fn placement_machine() -> Box<dyn StateMachine> {
    todo!()
}
