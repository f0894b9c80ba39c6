//! GetBucketNotificationConfiguration and PutBucketNotificationConfiguration. (What is told, is told by
//! [`crate::events`].)

use std::collections::BTreeSet;

use axum::body::Body;
use holdfast_storage_node::metadata::{
    Cause, ChangeVersioningError, EventRule, Metadata, bucket_events, change_bucket_events,
};
use http::StatusCode;

use super::response::{empty, xml};
use super::{Call, Reply, failure};
use crate::error::{Code, S3Error};
use crate::router::Operation;
use crate::xml::notification;

impl Call<'_> {
    pub(super) async fn get_notification(&self) -> Reply {
        let events = bucket_events(&self.gateway.directory, self.bucket()).await;
        let events = events.map_err(failure::metadata)?;
        Ok(xml(notification::write(&events.rules)))
    }

    pub(super) async fn put_notification(&self, body: Body) -> Reply {
        let document = self.document(body, notification::LEN_MAX).await?;
        let rules = notification::read(&document)?;
        let test = match self.header("x-amz-skip-destination-validation")? {
            None | Some("false") => true,
            Some("true") => false,
            Some(other) => {
                let name = "x-amz-skip-destination-validation";
                return Err(failure::invalid_argument(
                    name,
                    other,
                    "Write true or false.",
                ));
            }
        };
        let gateway = self.gateway;
        self.check_targets(&rules).await?;
        let bucket = self.now.get().unwrap_or(&self.found);
        let changed =
            change_bucket_events(&gateway.directory, &gateway.metadata, bucket, rules, test);
        changed.await.map_err(|error| match error {
            ChangeVersioningError::NoSuchBucket => failure::no_such_bucket(&bucket.name),
            ChangeVersioningError::Refused(()) => S3Error::new(Code::MaxMessageLengthExceeded),
            ChangeVersioningError::Metadata(error) => failure::metadata(error),
        })?;
        Ok(empty(StatusCode::OK))
    }

    /// Refuses webhooks that are not there.
    async fn check_targets(&self, rules: &[EventRule]) -> Result<(), S3Error> {
        if rules.is_empty() {
            return Ok(());
        }
        let webhooks = self.gateway.directory.webhooks().await;
        let webhooks = webhooks.map_err(failure::directory)?;
        let known: BTreeSet<&str> = webhooks.iter().map(|hook| hook.name.as_str()).collect();
        match rules.iter().find(|rule| !known.contains(&*rule.target)) {
            None => Ok(()),
            Some(rule) => Err(failure::invalid_argument(
                &rule.arn,
                "There is no such webhook: `holdfast admin webhook list` shows those there are",
                "Unable to validate the following destination configurations",
            )),
        }
    }

    /// The metadata, for changes that this call's operation makes.
    pub(super) fn metadata_for_changes(&self) -> Metadata {
        let metadata = &self.gateway.metadata;
        match self.operation {
            Operation::CopyObject => metadata.caused_by(Cause::Copy),
            Operation::PostObject => metadata.caused_by(Cause::Post),
            Operation::DeleteObjectTagging => metadata.caused_by(Cause::DeleteTags),
            _ => metadata.clone(),
        }
    }
}
