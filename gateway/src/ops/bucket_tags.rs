//! Tags of buckets (API reference, PutBucketTagging).

use axum::body::Body;
use holdfast_placement::directory::Setting;
use http::StatusCode;

use super::response::{empty, xml};
use super::{Call, Reply, tags};
use crate::error::{Code, S3Error};
use crate::xml::requests;

type Tags = Vec<(String, String)>;

impl Call<'_> {
    pub(super) async fn get_bucket_tags(&self) -> Reply {
        let found: Option<Tags> = self.setting(Setting::Tagging).await?;
        let Some(found) = found else {
            return Err(
                S3Error::new(Code::NoSuchTagSet).detail("BucketName", self.bucket().name.clone())
            );
        };
        Ok(xml(tags::document(&found)))
    }

    pub(super) async fn put_bucket_tags(&self, body: Body) -> Reply {
        let document = self.document(body, requests::SMALL_LEN_MAX).await?;
        let tags = requests::tagging(&document)?;
        tags::validate_for_bucket(&tags)?;
        match tags.is_empty() {
            true => self.unset(Setting::Tagging).await?,
            false => self.set(Setting::Tagging, &tags).await?,
        };
        Ok(empty(StatusCode::NO_CONTENT))
    }

    pub(super) async fn delete_bucket_tags(&self) -> Reply {
        self.unset(Setting::Tagging).await?;
        Ok(empty(StatusCode::NO_CONTENT))
    }
}
