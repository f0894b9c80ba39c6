//! `/-/quotas`: how much may be in a bucket, for the root user. GET shows a bucket's quota and usage (`?bucket=`), POST sets
//! it, DELETE takes it away (`?bucket=`).

use std::sync::Arc;

use axum::body::Body;
use holdfast_placement::directory::Bucket;
use holdfast_placement::seams::spawn;
use holdfast_storage_node::metadata::{MetadataError, Quota, bucket_quota, set_bucket_quota};
use http::request::Parts;
use http::{Method, Response};
use serde::{Deserialize, Serialize};

use super::identities::answer;
use super::{Gateway, ORDER_LEN_MAX};
use crate::error::{Code, S3Error};
use crate::ops;
use crate::router::Query;

/// A quota as it is set.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    bucket: String,
    #[serde(default)]
    bytes: Option<u64>,
    #[serde(default)]
    objects: Option<u64>,
}

/// A quota as it is shown.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    bucket: &'a str,
    bytes: Option<u64>,
    objects: Option<u64>,
    /// `null`: nothing is counted, as there is no quota.
    used_bytes: Option<u64>,
    used_objects: Option<u64>,
}

impl Gateway {
    pub(super) async fn administer_quotas(
        &self,
        parts: Parts,
        body: Body,
    ) -> Result<Response<Body>, S3Error> {
        let authenticated = self.authenticate_root(&parts)?;
        let query = Query::parse(parts.uri.query())?;
        let named = query.get("bucket").unwrap_or_default();
        match parts.method {
            Method::GET => {
                let bucket = self.bucket_for_quota(named).await?;
                let standing = bucket_quota(&self.directory, &self.metadata, &bucket).await;
                let standing = standing.map_err(ops::failure::metadata)?;
                let quota = standing.quota.unwrap_or_default();
                answer(&Shown {
                    bucket: named,
                    bytes: quota.bytes,
                    objects: quota.objects,
                    used_bytes: standing.used.map(|used| used.bytes),
                    used_objects: standing.used.map(|used| used.objects),
                })
            }
            Method::POST => {
                let given = ops::signed_body(&parts, body, &authenticated, ORDER_LEN_MAX).await?;
                let given: Given = serde_json::from_slice(&given).map_err(|error| {
                    S3Error::with(Code::InvalidRequest, format!("this is no quota: {error}"))
                })?;
                let quota = Quota {
                    bytes: given.bytes,
                    objects: given.objects,
                };
                if quota == Quota::default() {
                    return Err(S3Error::with(
                        Code::InvalidRequest,
                        "a quota limits bytes, objects, or both",
                    ));
                }
                self.set_quota(&given.bucket, Some(quota)).await?;
                answer(&serde_json::json!({ "set": true }))
            }
            Method::DELETE => {
                self.set_quota(named, None).await?;
                answer(&serde_json::json!({ "cleared": true }))
            }
            _ => Err(S3Error::new(Code::MethodNotAllowed)),
        }
    }

    async fn bucket_for_quota(&self, name: &str) -> Result<Arc<Bucket>, S3Error> {
        let found = self.directory.bucket_now(name).await;
        let found = found.map_err(ops::failure::directory)?;
        found.ok_or_else(|| ops::failure::no_such_bucket(name))
    }

    /// In a task of its own: it is not left half done when the client goes away.
    async fn set_quota(&self, name: &str, quota: Option<Quota>) -> Result<(), S3Error> {
        let bucket = self.bucket_for_quota(name).await?;
        let (directory, metadata) = (self.directory.clone(), self.metadata.clone());
        let setting =
            spawn(async move { set_bucket_quota(&directory, &metadata, &bucket, quota).await });
        match setting.await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(ops::failure::no_such_bucket(name)),
            Ok(Err(MetadataError::Unavailable(_))) => Err(S3Error::with(
                Code::ServiceUnavailable,
                "Not all of the bucket can be reached. Some writes may obey the change already: make it again.",
            )),
            Ok(Err(error)) => Err(ops::failure::metadata(error)),
            Err(error) => Err(ops::failure::metadata(MetadataError::Failed(
                error.to_string(),
            ))),
        }
    }
}
