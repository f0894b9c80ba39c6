//! What a bucket's settings say of its objects, as they were a moment ago: for headers of responses alone, which else would
//! cost questions to the directory a request. The settings themselves are never stale.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_placement::ids::BucketId;
use holdfast_storage_node::lifecycle::Lifecycle;
use holdfast_storage_node::metadata::Versioning;
use parking_lot::RwLock;

use super::Call;
use crate::error::S3Error;

/// How long after a change an object's response may still tell what was before. One request asks again after that time, the
/// others at twice of it.
const HINT_FOR: Duration = Duration::from_millis(500);

/// Buckets remembered at most; one more, and all are forgotten.
const HINTS_MAX: usize = 10_000;

/// What is remembered of a bucket.
pub(super) struct Hint {
    pub lifecycle: Lifecycle,
    /// Whether there may be versions beside the null version.
    pub keeps_versions: bool,
}

struct Kept {
    asked_at: Duration,
    /// Whether somebody is asking again.
    is_asked: AtomicBool,
    hint: Arc<Hint>,
}

/// Settings of buckets as they were a moment ago.
#[derive(Default)]
pub struct Hints {
    by_bucket: RwLock<HashMap<BucketId, Kept>>,
}

impl Hints {
    /// `None`: ask.
    fn get(&self, bucket: BucketId, now: Duration) -> Option<Arc<Hint>> {
        let by_bucket = self.by_bucket.read();
        let kept = by_bucket.get(&bucket)?;
        let age = now.saturating_sub(kept.asked_at);
        let asks = age >= 2 * HINT_FOR
            || (age >= HINT_FOR && !kept.is_asked.swap(true, Ordering::Relaxed));
        (!asks).then(|| kept.hint.clone())
    }

    fn put(&self, bucket: BucketId, asked_at: Duration, hint: Arc<Hint>) {
        let mut by_bucket = self.by_bucket.write();
        if by_bucket.len() >= HINTS_MAX {
            by_bucket.clear();
        }
        let kept = Kept {
            asked_at,
            is_asked: AtomicBool::new(false),
            hint,
        };
        by_bucket.insert(bucket, kept);
    }

    pub(super) fn forget(&self, bucket: BucketId) {
        self.by_bucket.write().remove(&bucket);
    }
}

impl Call<'_> {
    /// What is known of the call's bucket; `None` if nothing can be found out: nobody's request fails for that.
    pub(super) async fn hint(&self) -> Option<Arc<Hint>> {
        let bucket = self.bucket().id;
        let hints = &self.gateway.hints;
        let now = self.gateway.clock.monotonic();
        if let Some(hint) = hints.get(bucket, now) {
            return Some(hint);
        }
        // Boxed: it is rare, and this is on the way of every request.
        let hint = Arc::new(Box::pin(self.ask_for_hint()).await.ok()?);
        hints.put(bucket, now, hint.clone());
        Some(hint)
    }

    async fn ask_for_hint(&self) -> Result<Hint, S3Error> {
        Ok(Hint {
            lifecycle: self.lifecycle().await?.unwrap_or_default(),
            keeps_versions: self.bucket_versioning().await?.versioning != Versioning::Off,
        })
    }
}
