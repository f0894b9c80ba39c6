//! The operations of S3, one file a family. [`perform`] tells what happens to every request; the files say the rest.

mod absent;
mod access;
mod append;
mod attributes;
mod authorise;
pub mod bucket;
mod bucket_tags;
mod checksums;
mod complete_upload;
mod conditions;
mod copy_object;
mod copy_source;
pub mod cors;
mod delete_object;
pub mod documents;
pub mod failure;
mod get_object;
mod grants;
pub mod hints;
pub mod lifecycle;
mod list_objects;
mod multipart;
mod notification;
mod object_headers;
pub mod object_lock;
mod policy;
mod post_object;
mod put_object;
mod quota;
mod range;
mod rename_object;
mod response;
mod settings;
mod tags;
mod uploads;
mod versioning;
mod versions;
pub mod website;

use std::sync::{Arc, OnceLock};

use axum::body::Body;
use bytes::Bytes;
use holdfast_placement::directory::Bucket;
use holdfast_placement::ids::BucketId;
use holdfast_storage_node::metadata::{MetadataError, WriteError, settle_refused_write};
use http::header::HeaderName;
use http::request::Parts;
use http::{HeaderValue, Response};

use crate::auth::{Authenticated, Identity};
use crate::checksum;
use crate::error::{Code, S3Error};
use crate::payload::{ChecksumHeader, Digests, Payload};
use crate::router::{Operation, Query, Target, refuse_unsupported_headers, route};
use crate::server::Gateway;

use authorise::{Permit, Resource, authorise};
use documents::{Document, Share};

#[cfg(test)]
pub(crate) mod tests;

type Reply = Result<Response<Body>, S3Error>;

/// Memory for an entry of a listing, bytes: with a key of middling length, as record and as XML.
const LISTED_LEN: usize = 1024;

/// A request on a bucket that is there, by somebody who may make it.
struct Call<'a> {
    gateway: &'a Gateway,
    parts: &'a Parts,
    auth: &'a Authenticated,
    query: &'a Query,
    operation: Operation,
    permit: Permit,
    /// As it was found, perhaps in the cache.
    found: Arc<Bucket>,
    /// The bucket that has the name now, if the one that was found turned out to be gone.
    now: OnceLock<Arc<Bucket>>,
}

/// Makes a write on a call's bucket: `on_bucket!(call, |bucket| write)`. If it meets a deletion of the bucket, that is
/// settled, and the write made again if there is such a bucket still. (A function over closures would not be `Send` for
/// all lifetimes.)
macro_rules! on_bucket {
    ($call:expr, |$bucket:ident| $write:expr) => {{
        let $bucket = $call.bucket().id;
        match $write.await {
            Err(WriteError::NoSuchBucket) => match $call.settle().await {
                Ok($bucket) => $write.await,
                Err(error) => Err(error),
            },
            outcome => outcome,
        }
    }};
}
use on_bucket;

/// Makes a read in a call's bucket: `in_bucket!(call, |bucket| read)`. If it finds nothing because the bucket is gone, which
/// a cache does not know when another gateway deleted it, the read is made in the bucket that has the name now.
macro_rules! in_bucket {
    ($call:expr, |$bucket:ident| $read:expr) => {{
        let $bucket = $call.bucket().id;
        match $read.await {
            Err($crate::ops::MetadataError::BucketClosed) => {
                match $call.look_again($bucket).await {
                    Ok(Some($bucket)) => $read.await.map_err($crate::ops::failure::metadata),
                    // It is being deleted, and there is nothing in it.
                    Ok(None) => Ok(Default::default()),
                    Err(error) => Err(error),
                }
            }
            found => found.map_err($crate::ops::failure::metadata),
        }
    }};
}
use in_bucket;

/// Whether a parameter of the query counts as the header of its name.
pub fn counts_as_header(name: &str) -> bool {
    const SIGNATURE: [&str; 9] = [
        "X-Amz-Algorithm",
        "X-Amz-Credential",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-Security-Token",
        "X-Amz-Signature",
        "X-Amz-SignedHeaders",
        "X-Amz-Content-Sha256",
        "X-Amz-Sdk-Checksum-Algorithm",
    ];
    let start = name.as_bytes().get(..6);
    start.is_some_and(|start| start.eq_ignore_ascii_case(b"x-amz-"))
        && name.len() > 6
        && SIGNATURE.iter().all(|own| !name.eq_ignore_ascii_case(own))
        && matches!(checksum::by_header(&name.to_ascii_lowercase()), Ok(None))
}

/// Presigned requests may carry `x-amz-*` headers as query parameters (SDK for JavaScript); they count like headers.
///
/// Not so checksums, which S3 ignores there: when that SDK presigns an upload it has no body yet, and signs the
/// checksum of nothing.
pub fn hoist_headers(parts: &mut Parts, query: &Query) {
    for (name, value) in query.iter() {
        // Some SDKs presign the conditions of a write in the query too.
        let is_condition = ["if-match", "if-none-match"]
            .iter()
            .any(|own| name.eq_ignore_ascii_case(own))
            && parts.method == http::Method::PUT;
        if !is_condition && !counts_as_header(name) {
            continue;
        }
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_bytes(value.as_bytes()),
        ) {
            parts.headers.entry(name).or_insert(value);
        }
    }
}

/// Performs a request whose signature is right.
pub async fn perform(
    gateway: &Gateway,
    parts: &Parts,
    body: Body,
    auth: Authenticated,
    target: &Target,
    query: Query,
) -> Reply {
    let operation = route(&parts.method, target, &query, &parts.headers)?;
    if operation != Operation::PostObject {
        refuse_unsupported_headers(operation, &parts.headers)?;
    }
    if operation.adds_data() && (gateway.is_full)() {
        return Err(S3Error::new(Code::StorageFull));
    }
    let directory = &gateway.directory;
    let identity = &auth.identity;
    let name = match target {
        Target::Service => {
            authorise(directory, identity, operation, Resource::Service).await?;
            return Box::pin(bucket::list_buckets(gateway, &auth, &query)).await;
        }
        Target::Bucket(name) if operation == Operation::CreateBucket => {
            authorise(directory, identity, operation, Resource::NewBucket).await?;
            return Box::pin(bucket::create(gateway, parts, body, &auth, name)).await;
        }
        Target::Bucket(name) if operation == Operation::PostObject => {
            return Box::pin(post_object::post(gateway, parts, body, &auth, name)).await;
        }
        Target::Bucket(name) | Target::Object(name, _) => name,
    };
    let sought = Sought {
        name,
        cached: !operation.is_about_bucket(),
        identity,
        operation,
        expected_owner: "x-amz-expected-bucket-owner",
    };
    let (found, permit) = sought.find(gateway, parts).await?;
    let call = Call {
        gateway,
        parts,
        auth: &auth,
        query: &query,
        operation,
        permit,
        found,
        now: OnceLock::new(),
    };
    match target {
        Target::Object(_, key) => call.on_object(key, body).await,
        Target::Bucket(_) | Target::Service => Box::pin(call.on_bucket(body)).await,
    }
}

/// The whole body of a request, at most `len_max` bytes, verified as its signature says.
pub async fn signed_body(
    parts: &Parts,
    body: Body,
    auth: &Authenticated,
    len_max: usize,
) -> Result<Bytes, S3Error> {
    let mut payload = Payload::new(auth, parts, body, Digests::default())?;
    payload.read_all(len_max).await
}

/// A bucket that is looked for, and what for.
struct Sought<'a> {
    name: &'a str,
    /// Whether a cache may tell it.
    cached: bool,
    identity: &'a Identity,
    operation: Operation,
    /// The header that says whose it must be.
    expected_owner: &'static str,
}

impl Sought<'_> {
    /// The bucket, or `NoSuchBucket`, or why it may not be used so. One from the cache is refused only if the directory
    /// has no other by now.
    async fn find(
        &self,
        gateway: &Gateway,
        parts: &Parts,
    ) -> Result<(Arc<Bucket>, Permit), S3Error> {
        if self.cached {
            let found = gateway.directory.bucket(self.name).await;
            let found = found
                .map_err(failure::directory)?
                .ok_or_else(|| failure::no_such_bucket(self.name))?;
            match self.permit(gateway, parts, &found).await {
                Ok(Permit::Denied) | Err(_) => {}
                Ok(permit) => return Ok((found, permit)),
            }
        }
        let found = bucket_now(gateway, self.name).await?;
        let permit = self.permit(gateway, parts, &found).await?;
        Ok((found, permit))
    }

    async fn permit(
        &self,
        gateway: &Gateway,
        parts: &Parts,
        bucket: &Bucket,
    ) -> Result<Permit, S3Error> {
        let resource = Resource::Bucket(bucket);
        let directory = &gateway.directory;
        let permit = authorise(directory, self.identity, self.operation, resource).await?;
        authorise::check_locks(permit, &parts.headers)?;
        authorise::check_expected_owner(&parts.headers, self.expected_owner, bucket)?;
        Ok(permit)
    }
}

/// The bucket that is called `name` now, or `NoSuchBucket`.
async fn bucket_now(gateway: &Gateway, name: &str) -> Result<Arc<Bucket>, S3Error> {
    let found = gateway.directory.bucket_now(name).await;
    found
        .map_err(failure::directory)?
        .ok_or_else(|| failure::no_such_bucket(name))
}

impl Call<'_> {
    async fn on_bucket(&self, body: Body) -> Reply {
        match self.operation {
            Operation::HeadBucket => self.head_bucket(),
            Operation::DeleteBucket => self.delete_bucket().await,
            Operation::GetBucketLocation => self.bucket_location(),
            Operation::ListObjects => self.list_objects_v1().await,
            Operation::ListObjectsV2 => self.list_objects_v2().await,
            Operation::ListMultipartUploads => self.list_uploads().await,
            Operation::DeleteObjects => self.delete_objects(body).await,
            Operation::GetBucketVersioning => self.get_versioning().await,
            Operation::PutBucketVersioning => self.put_versioning(body).await,
            Operation::ListObjectVersions => self.list_versions().await,
            Operation::GetObjectLockConfiguration => self.get_lock_configuration().await,
            Operation::PutObjectLockConfiguration => self.put_lock_configuration(body).await,
            Operation::GetBucketCors => self.get_cors().await,
            Operation::PutBucketCors => self.put_cors(body).await,
            Operation::DeleteBucketCors => self.delete_cors().await,
            Operation::GetBucketTagging => self.get_bucket_tags().await,
            Operation::PutBucketTagging => self.put_bucket_tags(body).await,
            Operation::DeleteBucketTagging => self.delete_bucket_tags().await,
            Operation::GetBucketAcl => self.get_bucket_acl().await,
            Operation::PutBucketAcl => self.put_bucket_acl(body).await,
            Operation::GetBucketWebsite => self.get_website().await,
            Operation::PutBucketWebsite => self.put_website(body).await,
            Operation::DeleteBucketWebsite => self.delete_website().await,
            Operation::GetBucketLifecycleConfiguration => self.get_lifecycle().await,
            Operation::PutBucketLifecycleConfiguration => self.put_lifecycle(body).await,
            Operation::DeleteBucketLifecycle => self.delete_lifecycle().await,
            Operation::GetBucketNotificationConfiguration => self.get_notification().await,
            Operation::PutBucketNotificationConfiguration => self.put_notification(body).await,
            Operation::GetBucketRequestPayment => Ok(self.request_payment()),
            Operation::PutBucketRequestPayment => self.put_request_payment(body).await,
            Operation::PutBucketOwnershipControls => self.put_ownership_controls(body).await,
            Operation::GetAbsentConfiguration => self.get_absent(),
            Operation::DeleteAbsentConfiguration => self.delete_absent(),
            _ => Err(S3Error::new(Code::MethodNotAllowed)),
        }
    }

    /// Operations that are rare or long are boxed, so that the future of the frequent ones stays small.
    async fn on_object(&self, key: &str, body: Body) -> Reply {
        match self.operation {
            Operation::GetObject => self.get_object(key).await,
            Operation::HeadObject => self.head_object(key).await,
            Operation::PutObject => self.put_object(key, body).await,
            Operation::DeleteObject => self.delete_object(key).await,
            Operation::UploadPart => Box::pin(self.upload_part(key, body)).await,
            Operation::CopyObject => Box::pin(self.copy_object(key)).await,
            Operation::UploadPartCopy => Box::pin(self.upload_part_copy(key)).await,
            Operation::RenameObject => Box::pin(self.rename_object(key)).await,
            Operation::CreateMultipartUpload => Box::pin(self.create_upload(key)).await,
            Operation::CompleteMultipartUpload => Box::pin(self.complete_upload(key, body)).await,
            Operation::AbortMultipartUpload => Box::pin(self.abort_upload(key)).await,
            Operation::ListParts => Box::pin(self.list_parts(key)).await,
            Operation::GetObjectAttributes => Box::pin(self.attributes(key)).await,
            Operation::GetObjectTagging => Box::pin(self.get_tags(key)).await,
            Operation::PutObjectTagging => Box::pin(self.put_tags(key, body)).await,
            Operation::GetObjectAcl => Box::pin(self.get_object_acl(key)).await,
            Operation::PutObjectAcl => Box::pin(self.put_object_acl(key, body)).await,
            Operation::DeleteObjectTagging => Box::pin(self.delete_tags(key)).await,
            Operation::GetObjectRetention => Box::pin(self.get_retention(key)).await,
            Operation::PutObjectRetention => Box::pin(self.put_retention(key, body)).await,
            Operation::GetObjectLegalHold => Box::pin(self.get_legal_hold(key)).await,
            Operation::PutObjectLegalHold => Box::pin(self.put_legal_hold(key, body)).await,
            _ => Err(S3Error::new(Code::MethodNotAllowed)),
        }
    }

    /// The bucket, as far as is known by now.
    fn bucket(&self) -> &Bucket {
        self.now.get().unwrap_or(&self.found)
    }

    /// A header's value as text, if it is there.
    fn header(&self, name: &'static str) -> Result<Option<&str>, S3Error> {
        let Some(value) = self.parts.headers.get(name) else {
            return Ok(None);
        };
        let text = value.to_str();
        let wrong = |_| failure::invalid_argument(name, "", "The header is not text.");
        text.map(Some).map_err(wrong)
    }

    /// The whole body of a request that carries a document, verified.
    async fn document(&self, body: Body, len_max: usize) -> Result<Document, S3Error> {
        let document = self.document_if_any(body, len_max).await?;
        match document.is_empty() {
            true => Err(S3Error::new(Code::MissingRequestBodyError)),
            false => Ok(document),
        }
    }

    /// The same of a request that may be without one.
    async fn document_if_any(&self, body: Body, len_max: usize) -> Result<Document, S3Error> {
        self.read_document(body, len_max, ChecksumHeader::Body)
            .await
    }

    async fn read_document(
        &self,
        body: Body,
        len_max: usize,
        checksum_header: ChecksumHeader,
    ) -> Result<Document, S3Error> {
        let digests = Digests {
            checksum_header,
            ..Digests::default()
        };
        let mut payload = Payload::new(self.auth, self.parts, body, digests)?;
        let len = payload
            .len()
            .map_or(len_max as u64, |len| len.min(len_max as u64));
        let clock = self.gateway.clock.as_ref();
        let documents = &self.gateway.documents;
        let share = documents.share_for_request(len as usize, clock).await?;
        Ok(share.of(payload.read_all(len_max).await?))
    }

    /// Memory for a listing of up to `entries`.
    async fn listing_memory(&self, entries: usize) -> Result<Share, S3Error> {
        let clock = self.gateway.clock.as_ref();
        let documents = &self.gateway.documents;
        documents.share(entries * LISTED_LEN, clock).await
    }

    /// A write was refused because the bucket is being deleted: the bucket to try again on, once, if there is one of
    /// that name still or again.
    async fn settle(&self) -> Result<BucketId, WriteError> {
        let gateway = self.gateway;
        let name = &self.found.name;
        let lives = settle_refused_write(&gateway.directory, &gateway.metadata, name).await?;
        match lives {
            Some(bucket) if self.permits(&bucket).await.is_ok() => Ok(self.take(bucket)),
            _ => Err(WriteError::NoSuchBucket),
        }
    }

    /// A read found nothing in a bucket that is closed: the bucket to read once more in; `None` if it is there still.
    async fn look_again(&self, closed: BucketId) -> Result<Option<BucketId>, S3Error> {
        let bucket = bucket_now(self.gateway, &self.found.name).await?;
        if bucket.id == closed {
            return Ok(None);
        }
        self.permits(&bucket).await?;
        Ok(Some(self.take(bucket)))
    }

    /// Whether the call may be made on another bucket just so.
    async fn permits(&self, bucket: &Bucket) -> Result<(), S3Error> {
        let directory = &self.gateway.directory;
        let (identity, resource) = (&self.auth.identity, Resource::Bucket(bucket));
        let permit = authorise(directory, identity, self.operation, resource).await?;
        match permit == self.permit {
            true => Ok(()),
            false => Err(S3Error::new(Code::AccessDenied)),
        }
    }

    /// A change that was refused, or failed.
    fn refused(&self, error: WriteError, key: &str) -> S3Error {
        match error {
            WriteError::IsDeleteMarker => failure::is_delete_marker(&self.parts.method),
            WriteError::PreconditionFailed => {
                let condition = conditions::of_failed_write(&self.parts.headers);
                condition.map_or_else(
                    || S3Error::new(Code::PreconditionFailed),
                    failure::precondition_failed,
                )
            }
            WriteError::NoSuchVersion => {
                let version = self.query.get("versionId").unwrap_or_default();
                failure::write(error, &self.bucket().name, key).detail("VersionId", version)
            }
            error => failure::write(error, &self.bucket().name, key),
        }
    }

    /// What was not found, to those who may know.
    fn hide(&self, error: S3Error) -> S3Error {
        match self.permit {
            Permit::All | Permit::Granted | Permit::Listed { lists: true } => error,
            Permit::Listed { lists: false } | Permit::Denied => S3Error::new(Code::AccessDenied),
        }
    }

    /// Goes on with that bucket.
    fn take(&self, bucket: Arc<Bucket>) -> BucketId {
        let id = bucket.id;
        // It has one already if the name was given again twice during the call: what follows finds that closed too.
        let _taken = self.now.set(bucket);
        id
    }
}
