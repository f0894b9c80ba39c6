//! What S3 calls the failures of the parts below.

use holdfast_placement::directory::DirectoryError;
use holdfast_storage_node::metadata::{MetadataError, WriteError};
use http::{HeaderName, Method};

use crate::error::{Code, S3Error};
use crate::router::not_implemented;

fn unavailable(reason: &str) -> S3Error {
    tracing::debug!("no quorum: {reason}");
    S3Error::with(
        Code::ServiceUnavailable,
        "The metadata has no quorum at the moment; nothing was changed. Try again.",
    )
}

fn indeterminate(reason: &str) -> S3Error {
    tracing::warn!("a write's fate is not known: {reason}");
    S3Error::with(
        Code::ServiceUnavailable,
        "The change may or may not have been made. Look, or try again.",
    )
}

fn failed(reason: &str) -> S3Error {
    tracing::error!("the metadata failed: {reason}");
    S3Error::new(Code::InternalError)
}

/// A failure of the directory.
pub fn directory(error: DirectoryError) -> S3Error {
    match error {
        DirectoryError::Unavailable(reason) => unavailable(&reason),
        DirectoryError::Indeterminate(reason) => indeterminate(&reason),
        DirectoryError::Failed(reason) => failed(&reason),
        DirectoryError::Full => S3Error::new(Code::StorageFull),
    }
}

/// A failure of the metadata.
pub fn metadata(error: MetadataError) -> S3Error {
    match error {
        MetadataError::Unavailable(reason) => unavailable(&reason),
        MetadataError::Indeterminate(reason) => indeterminate(&reason),
        MetadataError::Failed(reason) => failed(&reason),
        MetadataError::Full => S3Error::new(Code::StorageFull),
        // Where it matters, the directory was asked before this.
        MetadataError::BucketClosed => unavailable("buckets of the name come and go"),
    }
}

/// A write that was refused, or failed.
pub fn write(error: WriteError, bucket: &str, key: &str) -> S3Error {
    match error {
        WriteError::PreconditionFailed => S3Error::new(Code::PreconditionFailed),
        WriteError::NoSuchKey => no_such_key(key),
        WriteError::NoSuchBucket => no_such_bucket(bucket),
        WriteError::NoSuchUpload => S3Error::new(Code::NoSuchUpload),
        WriteError::NoSuchVersion => S3Error::new(Code::NoSuchVersion).detail("Key", key),
        WriteError::IsDeleteMarker => S3Error::new(Code::MethodNotAllowed),
        WriteError::Locked => S3Error::with(
            Code::AccessDenied,
            "Access Denied because object protected by object lock.",
        ),
        WriteError::NotLockable => not_lockable(),
        WriteError::BaseChanged => S3Error::new(Code::ConditionalRequestConflict),
        WriteError::TooManyParts => S3Error::new(Code::TooManyParts),
        WriteError::KeepsVersions => {
            not_implemented("Appending to and renaming objects of buckets that keep versions")
        }
        WriteError::RenameConflict => S3Error::new(Code::ConditionalRequestConflict),
        WriteError::TokenMismatch => S3Error::new(Code::IdempotencyParameterMismatch),
        WriteError::EventsWaiting => events_waiting(),
        WriteError::OverQuota(_) => S3Error::new(Code::QuotaExceeded).detail("BucketName", bucket),
        WriteError::Metadata(error) => metadata(error),
    }
}

/// Whether a write that ended so is known not to have happened, and never to happen: only then what it refers to may be
/// thrown away.
pub fn is_known_not_to_have_happened(error: &WriteError) -> bool {
    match error {
        WriteError::PreconditionFailed
        | WriteError::NoSuchKey
        | WriteError::NoSuchBucket
        | WriteError::NoSuchUpload
        | WriteError::NoSuchVersion
        | WriteError::IsDeleteMarker
        | WriteError::Locked
        | WriteError::NotLockable
        | WriteError::BaseChanged
        | WriteError::TooManyParts
        | WriteError::KeepsVersions
        | WriteError::RenameConflict
        | WriteError::TokenMismatch
        | WriteError::EventsWaiting
        | WriteError::OverQuota(_)
        | WriteError::Metadata(
            MetadataError::Unavailable(_) | MetadataError::Full | MetadataError::BucketClosed,
        ) => true,
        WriteError::Metadata(MetadataError::Indeterminate(_) | MetadataError::Failed(_)) => false,
    }
}

pub fn no_such_bucket(bucket: &str) -> S3Error {
    S3Error::new(Code::NoSuchBucket).detail("BucketName", bucket)
}

/// A change of which a webhook would have to be told, when it cannot be told of more.
fn events_waiting() -> S3Error {
    S3Error::with(
        Code::SlowDown,
        "Too many events of this bucket wait to be told to a webhook; nothing was changed. Try again when the webhook answers, or take it out of the bucket's notification configuration.",
    )
}

/// A lock in a bucket that locks nothing.
pub fn not_lockable() -> S3Error {
    invalid_request("Bucket is missing Object Lock Configuration")
}

/// `PreconditionFailed`, and which condition, as S3 writes the names of their headers.
pub fn precondition_failed(header: &HeaderName) -> S3Error {
    const OF_COPY: &str = "x-amz-copy-source-";
    let name = header.as_str();
    let (start, rest) = match name.strip_prefix(OF_COPY) {
        Some(rest) => (OF_COPY, rest),
        None => ("", name),
    };
    let mut shown = start.to_owned();
    for (at, character) in rest.char_indices() {
        let begins = at == 0 || rest[..at].ends_with('-');
        shown.push(match begins && rest.starts_with("if-") {
            true => character.to_ascii_uppercase(),
            false => character,
        });
    }
    S3Error::new(Code::PreconditionFailed).detail("Condition", shown)
}

/// What may not be done to a delete marker.
pub fn is_delete_marker(method: &Method) -> S3Error {
    S3Error::new(Code::MethodNotAllowed)
        .detail("Method", method.as_str())
        .detail("ResourceType", "DeleteMarker")
        .header("allow", "DELETE")
}

pub fn no_such_key(key: &str) -> S3Error {
    S3Error::new(Code::NoSuchKey).detail("Key", key)
}

/// `InvalidArgument` about an argument.
pub fn invalid_argument(name: &str, value: &str, message: impl Into<String>) -> S3Error {
    S3Error::with(Code::InvalidArgument, message.into())
        .detail("ArgumentName", name)
        .detail("ArgumentValue", value)
}

/// `InvalidRequest` with a reason.
pub fn invalid_request(message: impl Into<String>) -> S3Error {
    S3Error::with(Code::InvalidRequest, message.into())
}

/// The record and the bytes of an object disagree: an error, never data.
pub fn inconsistent(key: &str) -> S3Error {
    tracing::error!(key, "the record of an object does not fit its body");
    S3Error::new(Code::InternalError)
}
