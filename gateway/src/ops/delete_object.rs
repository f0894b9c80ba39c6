//! DeleteObject and DeleteObjects.

use axum::body::Body;
use http::StatusCode;

use holdfast_placement::ids::BucketId;
use holdfast_storage_node::metadata::{Condition, DeleteOutcome, Deletion, WriteError};

use super::authorise::Permit;
use super::response::{empty, xml};
use super::{Call, Reply, conditions, failure, on_bucket, versions};
use crate::checksum;
use crate::error::{Code, S3Error};
use crate::router::validate_key;
use crate::xml::XmlWriter;
use crate::xml::requests::{self, DeleteKey};

impl Call<'_> {
    pub(super) async fn delete_object(&self, key: &str) -> Reply {
        let deletion = Deletion {
            key: key.to_owned(),
            version: self.version()?,
            condition: conditions::of_delete(&self.parts.headers)?,
            bypass_governance: self.bypasses_governance(),
        };
        let metadata = &self.gateway.metadata;
        let deleted = on_bucket!(self, |bucket| metadata.delete_version(bucket, &deletion))
            .map_err(|error| self.refused(error, key))?;
        let mut response = empty(StatusCode::NO_CONTENT);
        if let Some(version) = deletion.version.or(deleted.marker) {
            let is_marker = deleted.marker.is_some();
            versions::show_deleted(version, is_marker, response.headers_mut());
        }
        Ok(response)
    }

    pub(super) async fn delete_objects(&self, body: Body) -> Reply {
        self.require_digest()?;
        let document = self.document(body, requests::DELETE_LEN_MAX).await?;
        let (keys, quiet) = requests::delete_objects(&document)?;

        // Keys that are refused as they stand, then what became of the others.
        let nothing = DeleteOutcome::default();
        let mut outcomes: Vec<Result<DeleteOutcome, S3Error>> = Vec::with_capacity(keys.len());
        let mut deletions: Vec<Deletion> = Vec::with_capacity(keys.len());
        let mut places = Vec::with_capacity(keys.len());
        for (place, key) in keys.iter().enumerate() {
            match self.deletion_of(key) {
                Ok(deletion) => {
                    deletions.push(deletion);
                    places.push(place);
                    outcomes.push(Ok(nothing));
                }
                Err(error) => outcomes.push(Err(error)),
            }
        }
        for (place, outcome) in places.into_iter().zip(self.delete_many(&deletions).await) {
            outcomes[place] = outcome;
        }

        let mut document = XmlWriter::new("DeleteResult", 192 * keys.len());
        for (key, outcome) in keys.iter().zip(&outcomes) {
            match outcome {
                Ok(_) if quiet => {}
                Ok(deleted) => {
                    document.open("Deleted");
                    document.text("Key", &key.key);
                    if let Some(version) = &key.version {
                        document.text("VersionId", version);
                    }
                    if let Some(marker) = deleted.marker {
                        document.boolean("DeleteMarker", true);
                        document.text("DeleteMarkerVersionId", &marker.to_string());
                    }
                    document.close("Deleted");
                }
                Err(error) => {
                    document.open("Error");
                    document.text("Key", &key.key);
                    if let Some(version) = &key.version {
                        document.text("VersionId", version);
                    }
                    document.text("Code", error.code.as_str());
                    document.text("Message", &error.message);
                    document.close("Error");
                }
            }
        }
        Ok(xml(document.finish("DeleteResult")))
    }

    /// S3 takes no mass deletion that could have been damaged on its way.
    fn require_digest(&self) -> Result<(), S3Error> {
        let headers = &self.parts.headers;
        let in_trailer = headers.get_all("x-amz-trailer").iter().any(|trailer| {
            trailer
                .as_bytes()
                .to_ascii_lowercase()
                .starts_with(b"x-amz-checksum-")
        });
        let has_digest = in_trailer
            || headers.contains_key("content-md5")
            || checksum::ALGORITHMS
                .iter()
                .any(|algorithm| headers.contains_key(checksum::header(*algorithm)));
        if has_digest {
            return Ok(());
        }
        Err(failure::invalid_request(
            "Missing required header for this request: Content-MD5 OR x-amz-checksum-*",
        ))
    }

    /// What became of each deletion.
    async fn delete_many(&self, deletions: &[Deletion]) -> Vec<Result<DeleteOutcome, S3Error>> {
        if deletions.is_empty() {
            return Vec::new();
        }
        // Made again, a deletion does no more than leave another delete marker.
        let outcomes = on_bucket!(self, |bucket| self.delete_all(bucket, deletions));
        let bucket = &self.bucket().name;
        let named = |error, deletion: &Deletion| failure::write(error, bucket, &deletion.key);
        match outcomes {
            Ok(outcomes) => outcomes
                .into_iter()
                .zip(deletions)
                .map(|(outcome, deletion)| outcome.map_err(|error| named(error, deletion)))
                .collect(),
            Err(error) => deletions
                .iter()
                .map(|deletion| Err(named(error.clone(), deletion)))
                .collect(),
        }
    }

    /// As the metadata's, but refused as a whole if the bucket is being deleted.
    async fn delete_all(
        &self,
        bucket: BucketId,
        deletions: &[Deletion],
    ) -> Result<Vec<Result<DeleteOutcome, WriteError>>, WriteError> {
        let metadata = &self.gateway.metadata;
        let outcomes = metadata.delete_versions(bucket, deletions).await;
        let is_refused =
            |outcome: &Result<_, WriteError>| matches!(outcome, Err(WriteError::NoSuchBucket));
        match outcomes.iter().any(is_refused) {
            true => Err(WriteError::NoSuchBucket),
            false => Ok(outcomes),
        }
    }

    fn deletion_of(&self, key: &DeleteKey) -> Result<Deletion, S3Error> {
        if self.permit == Permit::Denied {
            return Err(S3Error::new(Code::AccessDenied));
        }
        validate_key(&key.key)?;
        let modified_secs = match &key.modified {
            Some(text) => Some(conditions::parse_time(text).ok_or_else(|| {
                S3Error::with(Code::InvalidArgument, "LastModifiedTime is not a date.")
            })?),
            None => None,
        };
        // An empty one is what some clients send for "none".
        let version = key.version.as_deref().filter(|version| !version.is_empty());
        let version = version.map(|version| {
            let parsed = versions::parse_version("VersionId", version);
            parsed.map_err(|_| S3Error::new(Code::NoSuchVersion))
        });
        Ok(Deletion {
            key: key.key.clone(),
            version: version.transpose()?,
            condition: Condition {
                absent: false,
                etag: key
                    .etag
                    .as_deref()
                    .map(|etag| conditions::bare_etag(etag).to_owned()),
                modified_secs,
                size: key.size,
            },
            bypass_governance: self.bypasses_governance(),
        })
    }
}
