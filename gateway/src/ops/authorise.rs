//! Who may do what. One question, asked once in front of every operation.

use holdfast_placement::directory::Bucket;
use http::HeaderMap;

use crate::auth::Identity;
use crate::error::{Code, S3Error};
use crate::router::Operation;

/// What an operation is about.
#[derive(Clone, Copy, Debug)]
pub enum Resource<'a> {
    Service,
    /// A bucket that is to be made.
    NewBucket,
    /// A bucket and what is in it.
    Bucket(&'a Bucket),
}

/// Today a bucket, and all in it, is its owner's alone; everybody with a key may make buckets and list their own.
pub fn authorise(
    identity: &Identity,
    _operation: Operation,
    resource: Resource<'_>,
) -> Result<(), S3Error> {
    match resource {
        Resource::Service | Resource::NewBucket => Ok(()),
        Resource::Bucket(bucket) if bucket.owner == identity.owner_id => Ok(()),
        Resource::Bucket(_) => Err(S3Error::new(Code::AccessDenied)),
    }
}

/// Honours `x-amz-expected-bucket-owner` and `x-amz-source-expected-bucket-owner`.
pub fn check_expected_owner(
    headers: &HeaderMap,
    name: &'static str,
    bucket: &Bucket,
) -> Result<(), S3Error> {
    match headers.get(name) {
        Some(expected) if expected.as_bytes() != bucket.owner.as_bytes() => Err(S3Error::with(
            Code::AccessDenied,
            "The bucket is not owned by the expected owner.",
        )),
        _ => Ok(()),
    }
}
