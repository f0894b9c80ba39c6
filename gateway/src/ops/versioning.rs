//! GetBucketVersioning and PutBucketVersioning.

use axum::body::Body;
use holdfast_storage_node::metadata::{
    BucketVersioning, ChangeVersioningError, Versioning, bucket_versioning,
    change_bucket_versioning,
};
use http::StatusCode;

use super::response::{empty, xml};
use super::{Call, Reply, failure};
use crate::error::{Code, S3Error};
use crate::xml::{XmlWriter, requests, versions};

impl Call<'_> {
    pub(super) async fn get_versioning(&self) -> Reply {
        let versioning = self.bucket_versioning().await?.versioning;
        let mut document = XmlWriter::new("VersioningConfiguration", 256);
        match versioning {
            // A bucket that was never versioned has no status.
            Versioning::Off => {}
            Versioning::Enabled => document.text("Status", "Enabled"),
            Versioning::Suspended => document.text("Status", "Suspended"),
        }
        Ok(xml(document.finish("VersioningConfiguration")))
    }

    pub(super) async fn put_versioning(&self, body: Body) -> Reply {
        let document = self.document(body, requests::SMALL_LEN_MAX).await?;
        let enabled = versions::versioning(&document)?;
        let versioning = match enabled {
            true => Versioning::Enabled,
            false => Versioning::Suspended,
        };
        self.change_versioning(|old| match old.lock {
            Some(_) if !enabled => Err(S3Error::with(
                Code::InvalidBucketState,
                "An Object Lock configuration is present on this bucket, so the versioning state cannot be changed.",
            )),
            _ => Ok(BucketVersioning { versioning, ..*old }),
        })
        .await?;
        Ok(empty(StatusCode::OK))
    }

    /// The bucket's versioning as the directory has it.
    pub(super) async fn bucket_versioning(&self) -> Result<BucketVersioning, S3Error> {
        let found = bucket_versioning(&self.gateway.directory, self.bucket()).await;
        found.map_err(failure::metadata)
    }

    /// Changes the bucket's versioning; all writes that begin after it obey.
    pub(super) async fn change_versioning(
        &self,
        change: impl Fn(&BucketVersioning) -> Result<BucketVersioning, S3Error> + Send + Sync,
    ) -> Result<(), S3Error> {
        let gateway = self.gateway;
        let bucket = self.now.get().unwrap_or(&self.found);
        let changed =
            change_bucket_versioning(&gateway.directory, &gateway.metadata, bucket, change);
        let changed = changed.await;
        gateway.hints.forget(bucket.id);
        changed.map_err(|error| match error {
            ChangeVersioningError::NoSuchBucket => failure::no_such_bucket(&bucket.name),
            ChangeVersioningError::Refused(refusal) => refusal,
            ChangeVersioningError::Metadata(error) => failure::metadata(error),
        })
    }
}
