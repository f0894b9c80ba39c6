//! The lifecycle of a bucket's objects: its rules, and `x-amz-expiration`, which tells when an object will go. (What goes,
//! goes by `storage-node/src/lifecycle`.)

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use holdfast_placement::directory::Setting;
use holdfast_placement::ids::BucketId;
use holdfast_storage_node::lifecycle::{DAY_SECS, Lifecycle, MinimumSize, first_to_expire};
use holdfast_storage_node::metadata::VersionSummary;
use http::header::HeaderName;
use http::{HeaderMap, StatusCode};
use parking_lot::RwLock;

use super::response::{empty, http_date, set, xml};
use super::{Call, Reply, failure};
use crate::error::{Code, S3Error};
use crate::xml::lifecycle;

static MINIMUM: HeaderName =
    HeaderName::from_static("x-amz-transition-default-minimum-object-size");

const MINIMUM_SIZES: [MinimumSize; 2] = [
    MinimumSize::AllStorageClasses128K,
    MinimumSize::VariesByStorageClass,
];

fn name_of(minimum: MinimumSize) -> &'static str {
    match minimum {
        MinimumSize::AllStorageClasses128K => "all_storage_classes_128K",
        MinimumSize::VariesByStorageClass => "varies_by_storage_class",
    }
}

static EXPIRATION: HeaderName = HeaderName::from_static("x-amz-expiration");

/// How long after a change of its rules an object's response may still tell what they said before. The rules themselves
/// are never stale: this is for the header alone, which else would cost a question to the directory a request. One request
/// asks again after that time, the others at twice of it.
const HINT_FOR: Duration = Duration::from_millis(500);

/// Buckets remembered at most; one more, and all are forgotten.
const HINTS_MAX: usize = 10_000;

struct Hint {
    asked_at: Duration,
    /// Whether somebody is asking again.
    is_asked: AtomicBool,
    lifecycle: Arc<Lifecycle>,
}

/// Rules of buckets as they were a moment ago.
#[derive(Default)]
pub struct Hints {
    by_bucket: RwLock<HashMap<BucketId, Hint>>,
}

impl Hints {
    /// `None`: ask.
    fn get(&self, bucket: BucketId, now: Duration) -> Option<Arc<Lifecycle>> {
        let by_bucket = self.by_bucket.read();
        let hint = by_bucket.get(&bucket)?;
        let age = now.saturating_sub(hint.asked_at);
        let asks = age >= 2 * HINT_FOR
            || (age >= HINT_FOR && !hint.is_asked.swap(true, Ordering::Relaxed));
        (!asks).then(|| hint.lifecycle.clone())
    }

    fn put(&self, bucket: BucketId, asked_at: Duration, lifecycle: Arc<Lifecycle>) {
        let mut by_bucket = self.by_bucket.write();
        if by_bucket.len() >= HINTS_MAX {
            by_bucket.clear();
        }
        let hint = Hint {
            asked_at,
            is_asked: AtomicBool::new(false),
            lifecycle,
        };
        by_bucket.insert(bucket, hint);
    }

    fn forget(&self, bucket: BucketId) {
        self.by_bucket.write().remove(&bucket);
    }
}

impl Call<'_> {
    pub(super) async fn get_lifecycle(&self) -> Reply {
        let Some(lifecycle) = self.lifecycle().await? else {
            return Err(S3Error::new(Code::NoSuchLifecycleConfiguration)
                .detail("BucketName", self.bucket().name.clone()));
        };
        let mut response = xml(lifecycle::write(&lifecycle.rules));
        if let Some(minimum) = lifecycle.minimum {
            set(response.headers_mut(), MINIMUM.clone(), name_of(minimum));
        }
        Ok(response)
    }

    pub(super) async fn put_lifecycle(&self, body: Body) -> Reply {
        let minimum = self.minimum_size()?;
        let document = self.document(body, lifecycle::LEN_MAX).await?;
        let rules = lifecycle::read(&document)?;
        let lifecycle = Lifecycle { rules, minimum };
        let value = lifecycle.encode();
        let value = value.map_err(|_| S3Error::new(Code::InternalError))?;
        let changed = self.change(Setting::Lifecycle, Some(&value)).await;
        self.gateway.lifecycle_hints.forget(self.bucket().id);
        changed?;
        let mut response = empty(StatusCode::OK);
        if let Some(minimum) = minimum {
            set(response.headers_mut(), MINIMUM.clone(), name_of(minimum));
        }
        Ok(response)
    }

    /// The bucket's lifecycle, as it is now.
    async fn lifecycle(&self) -> Result<Option<Lifecycle>, S3Error> {
        let bucket = self.bucket();
        let directory = &self.gateway.directory;
        let found = directory.setting(bucket, Setting::Lifecycle).await;
        let Some(found) = found.map_err(failure::directory)? else {
            return Ok(None);
        };
        let lifecycle = Lifecycle::decode(&found);
        lifecycle.map(Some).ok_or_else(|| {
            tracing::error!(bucket = bucket.name, "a lifecycle is damaged");
            S3Error::new(Code::InternalError)
        })
    }

    /// Which small objects keep their storage class.
    fn minimum_size(&self) -> Result<Option<MinimumSize>, S3Error> {
        let Some(wanted) = self.header(MINIMUM.as_str())? else {
            return Ok(None);
        };
        let mut known = MINIMUM_SIZES.into_iter();
        let found = known.find(|minimum| name_of(*minimum) == wanted);
        found.map(Some).ok_or_else(|| {
            let message = "The default minimum object size for transitions is not known.";
            failure::invalid_argument(MINIMUM.as_str(), wanted, message)
        })
    }

    pub(super) async fn delete_lifecycle(&self) -> Reply {
        let unset = self.unset(Setting::Lifecycle).await;
        self.gateway.lifecycle_hints.forget(self.bucket().id);
        unset?;
        Ok(empty(StatusCode::NO_CONTENT))
    }

    /// Tells in a response when the object will go, if it will. In days of 24 hours, whatever a day is here.
    pub(super) async fn show_expiration(
        &self,
        key: &str,
        summary: &VersionSummary,
        tags: &[(String, String)],
        headers: &mut HeaderMap,
    ) {
        let bucket = self.bucket();
        let hints = &self.gateway.lifecycle_hints;
        let now = self.gateway.clock.monotonic();
        let lifecycle = match hints.get(bucket.id, now) {
            Some(lifecycle) => lifecycle,
            // Boxed: it is rare, and this is on the way of every request.
            None => match Box::pin(self.lifecycle()).await {
                Ok(lifecycle) => {
                    let lifecycle = Arc::new(lifecycle.unwrap_or_default());
                    hints.put(bucket.id, now, lifecycle.clone());
                    lifecycle
                }
                // Nobody's request fails for that.
                Err(_) => return,
            },
        };
        let rules = &lifecycle.rules;
        if rules.is_empty() {
            return;
        }
        let VersionSummary { size, modified, .. } = *summary;
        let first = first_to_expire(rules, key, size, tags, modified, DAY_SECS);
        if let Some((rule, date)) = first {
            let mut id = Vec::with_capacity(rule.id.len());
            crate::xml::encode_uri_into(&mut id, &rule.id);
            let date = http_date(date);
            let id = String::from_utf8_lossy(&id);
            let told = format!("expiry-date=\"{date}\", rule-id=\"{id}\"");
            set(headers, EXPIRATION.clone(), told);
        }
    }
}
