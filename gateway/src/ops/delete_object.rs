//! DeleteObject and DeleteObjects.

use axum::body::Body;
use http::StatusCode;

use holdfast_placement::ids::BucketId;
use holdfast_storage_node::metadata::{Condition, DeleteOutcome, WriteError};

use super::response::{empty, xml};
use super::{Call, Reply, conditions, failure, on_bucket};
use crate::checksum;
use crate::error::{Code, S3Error};
use crate::router::{not_implemented, validate_key};
use crate::xml::XmlWriter;
use crate::xml::requests::{self, DeleteKey};

impl Call<'_> {
    pub(super) async fn delete_object(&self, key: &str) -> Reply {
        let condition = conditions::of_delete(&self.parts.headers)?;
        let metadata = &self.gateway.metadata;
        on_bucket!(self, |bucket| metadata.delete(bucket, key, &condition))
            .map_err(|error| failure::write(error, &self.bucket().name, key))?;
        Ok(empty(StatusCode::NO_CONTENT))
    }

    pub(super) async fn delete_objects(&self, body: Body) -> Reply {
        self.require_digest()?;
        let document = self.document(body, requests::DELETE_LEN_MAX).await?;
        let (keys, quiet) = requests::delete_objects(&document)?;

        // Keys that are refused as they stand, then what became of the others.
        let mut outcomes: Vec<Option<S3Error>> = Vec::with_capacity(keys.len());
        let mut deletions: Vec<(String, Condition)> = Vec::with_capacity(keys.len());
        let mut places = Vec::with_capacity(keys.len());
        for (place, key) in keys.iter().enumerate() {
            match condition_of(key) {
                Ok(condition) => {
                    deletions.push((key.key.clone(), condition));
                    places.push(place);
                    outcomes.push(None);
                }
                Err(error) => outcomes.push(Some(error)),
            }
        }
        for (place, error) in places.into_iter().zip(self.delete_many(&deletions).await) {
            outcomes[place] = error;
        }

        let mut document = XmlWriter::new("DeleteResult", 128 * keys.len());
        for (key, outcome) in keys.iter().zip(&outcomes) {
            match outcome {
                None if quiet => {}
                None => {
                    document.open("Deleted");
                    document.text("Key", &key.key);
                    if let Some(version) = &key.version {
                        document.text("VersionId", version);
                    }
                    document.close("Deleted");
                }
                Some(error) => {
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

    /// What became of each deletion: `None` if it was made.
    async fn delete_many(&self, deletions: &[(String, Condition)]) -> Vec<Option<S3Error>> {
        if deletions.is_empty() {
            return Vec::new();
        }
        // Repeating deletions is harmless: what is gone stays gone.
        let outcomes = on_bucket!(self, |bucket| self.delete_all(bucket, deletions));
        let bucket = &self.bucket().name;
        match outcomes {
            Ok(outcomes) => outcomes
                .into_iter()
                .zip(deletions)
                .map(|(outcome, (key, _))| {
                    let error = outcome.err()?;
                    Some(failure::write(error, bucket, key))
                })
                .collect(),
            Err(error) => deletions
                .iter()
                .map(|(key, _)| Some(failure::write(error.clone(), bucket, key)))
                .collect(),
        }
    }
}

impl Call<'_> {
    /// As the metadata's, but refused as a whole if the bucket is being deleted.
    async fn delete_all(
        &self,
        bucket: BucketId,
        deletions: &[(String, Condition)],
    ) -> Result<Vec<Result<DeleteOutcome, WriteError>>, WriteError> {
        let outcomes = self.gateway.metadata.delete_many(bucket, deletions).await;
        let is_refused =
            |outcome: &Result<_, WriteError>| matches!(outcome, Err(WriteError::NoSuchBucket));
        match outcomes.iter().any(is_refused) {
            true => Err(WriteError::NoSuchBucket),
            false => Ok(outcomes),
        }
    }
}

fn condition_of(key: &DeleteKey) -> Result<Condition, S3Error> {
    validate_key(&key.key)?;
    if key
        .version
        .as_deref()
        .is_some_and(|version| version != "null")
    {
        return Err(not_implemented("Versions (VersionId other than null)"));
    }
    let modified_secs = match &key.modified {
        Some(text) => Some(conditions::parse_time(text).ok_or_else(|| {
            S3Error::with(Code::InvalidArgument, "LastModifiedTime is not a date.")
        })?),
        None => None,
    };
    Ok(Condition {
        absent: false,
        etag: key
            .etag
            .as_deref()
            .map(|etag| conditions::bare_etag(etag).to_owned()),
        modified_secs,
        size: key.size,
    })
}
