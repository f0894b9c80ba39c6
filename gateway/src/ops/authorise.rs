//! Who may do what. One question, asked once in front of every operation.

use holdfast_placement::directory::{Bucket, Directory, Setting};
use http::HeaderMap;

use super::access::Canned;
use super::settings;
use crate::auth::Identity;
use crate::error::{Code, S3Error};
use crate::router::{Needs, Operation};

/// What an operation is about.
#[derive(Clone, Copy, Debug)]
pub enum Resource<'a> {
    Service,
    /// A bucket that is to be made.
    NewBucket,
    /// A bucket and what is in it.
    Bucket(&'a Bucket),
}

/// What was permitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// The operation, whatever it finds.
    All,
    /// The operation, but nothing that takes a permission of its own.
    Granted,
    /// To read objects whose own list lets the identity do so. Who may not list the bucket (`lists`) does not learn what
    /// is not there.
    Listed { lists: bool },
    /// Nothing, which each key of the request is answered.
    Denied,
}

/// A bucket, and all in it, is its owner's and the root user's. Others may do what canned lists let them. Everybody with
/// a key may make buckets and list their own.
pub async fn authorise(
    directory: &Directory,
    identity: &Identity,
    operation: Operation,
    resource: Resource<'_>,
) -> Result<Permit, S3Error> {
    let denied = || Err(S3Error::new(Code::AccessDenied));
    let bucket = match resource {
        Resource::Service | Resource::NewBucket if identity.is_anonymous() => return denied(),
        Resource::Service | Resource::NewBucket => return Ok(Permit::All),
        Resource::Bucket(bucket) if identity.is_root || bucket.owner == identity.owner_id => {
            return Ok(Permit::All);
        }
        Resource::Bucket(bucket) => bucket,
    };
    let needs = operation.needs();
    if needs == Needs::Owner {
        return denied();
    }
    let canned = settings::read::<Canned>(directory, bucket, Setting::AccessControl).await?;
    let canned = canned.unwrap_or_default();
    match needs {
        Needs::List if canned.lets_read(identity) => Ok(Permit::Granted),
        Needs::Write if canned.lets_write() => Ok(Permit::Granted),
        Needs::Object => Ok(Permit::Listed {
            lists: canned.lets_read(identity),
        }),
        // Strangers without a key are not listened to so far.
        Needs::Write if operation == Operation::DeleteObjects && !identity.is_anonymous() => {
            Ok(Permit::Denied)
        }
        Needs::List | Needs::Write | Needs::Owner => denied(),
    }
}

/// Object locks are set, and passed by, by the owner only, whoever may write.
pub fn check_locks(permit: Permit, headers: &HeaderMap) -> Result<(), S3Error> {
    let names = || headers.keys().map(http::HeaderName::as_str);
    let is_lock = |name: &str| {
        name.starts_with("x-amz-object-lock-") || name == "x-amz-bypass-governance-retention"
    };
    match permit {
        Permit::Granted if names().any(is_lock) => Err(S3Error::new(Code::AccessDenied)),
        Permit::All | Permit::Granted | Permit::Listed { .. } | Permit::Denied => Ok(()),
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
