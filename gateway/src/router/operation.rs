//! Which operation a request asks for. What S3 has and Holdfast has not is refused by name, never ignored.

use http::{HeaderMap, Method};

use super::query::Query;
use super::target::Target;
use crate::checksum;
use crate::error::{Code, S3Error};

/// The operations that are supported, by S3's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    ListBuckets,
    CreateBucket,
    HeadBucket,
    DeleteBucket,
    GetBucketLocation,
    ListObjects,
    ListObjectsV2,
    ListMultipartUploads,
    DeleteObjects,
    PutObject,
    CopyObject,
    GetObject,
    HeadObject,
    DeleteObject,
    GetObjectAttributes,
    GetObjectTagging,
    PutObjectTagging,
    DeleteObjectTagging,
    CreateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListParts,
    GetBucketVersioning,
    PutBucketVersioning,
    ListObjectVersions,
    GetObjectLockConfiguration,
    PutObjectLockConfiguration,
    GetObjectRetention,
    PutObjectRetention,
    GetObjectLegalHold,
    PutObjectLegalHold,
    GetBucketCors,
    PutBucketCors,
    DeleteBucketCors,
    GetBucketTagging,
    PutBucketTagging,
    DeleteBucketTagging,
    GetBucketAcl,
    PutBucketAcl,
    GetBucketRequestPayment,
    PutBucketRequestPayment,
    PutBucketOwnershipControls,
    GetBucketLifecycleConfiguration,
    PutBucketLifecycleConfiguration,
    DeleteBucketLifecycle,
    GetObjectAcl,
    PutObjectAcl,
    GetBucketWebsite,
    PutBucketWebsite,
    DeleteBucketWebsite,
    GetBucketNotificationConfiguration,
    PutBucketNotificationConfiguration,
    /// A browser's form.
    PostObject,
    RenameObject,
    /// GET of a configuration that no bucket here can have.
    GetAbsentConfiguration,
    DeleteAbsentConfiguration,
}

/// What somebody who is not the bucket's owner must have been given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nobody else may do it.
    Owner,
    /// To see what is in the bucket.
    List,
    /// To write to the bucket.
    Write,
    /// To read the object.
    Object,
}

impl Operation {
    /// Whether it may be about a version that is named.
    fn takes_version(self) -> bool {
        matches!(
            self,
            Operation::GetObject
                | Operation::HeadObject
                | Operation::DeleteObject
                | Operation::GetObjectAttributes
                | Operation::GetObjectTagging
                | Operation::PutObjectTagging
                | Operation::DeleteObjectTagging
                | Operation::GetObjectRetention
                | Operation::PutObjectRetention
                | Operation::GetObjectLegalHold
                | Operation::PutObjectLegalHold
                | Operation::GetObjectAcl
                | Operation::PutObjectAcl
        )
    }

    /// What it takes, of those who are not the bucket's owner.
    pub fn needs(self) -> Needs {
        match self {
            Operation::GetObject | Operation::HeadObject => Needs::Object,
            Operation::HeadBucket
            | Operation::ListObjects
            | Operation::ListObjectsV2
            | Operation::ListMultipartUploads
            | Operation::ListObjectVersions => Needs::List,
            Operation::PutObject
            | Operation::PostObject
            | Operation::CopyObject
            | Operation::RenameObject
            | Operation::DeleteObject
            | Operation::DeleteObjects
            | Operation::CreateMultipartUpload
            | Operation::UploadPart
            | Operation::UploadPartCopy
            | Operation::CompleteMultipartUpload
            // Besides, only of what one has begun oneself.
            | Operation::AbortMultipartUpload
            | Operation::ListParts => Needs::Write,
            Operation::ListBuckets
            | Operation::CreateBucket
            | Operation::DeleteBucket
            | Operation::GetBucketLocation
            | Operation::GetObjectAttributes
            | Operation::GetObjectTagging
            | Operation::PutObjectTagging
            | Operation::DeleteObjectTagging
            | Operation::GetBucketCors
            | Operation::PutBucketCors
            | Operation::DeleteBucketCors
            | Operation::GetBucketTagging
            | Operation::PutBucketTagging
            | Operation::DeleteBucketTagging
            | Operation::GetBucketAcl
            | Operation::PutBucketAcl
            | Operation::GetBucketRequestPayment
            | Operation::PutBucketRequestPayment
            | Operation::PutBucketOwnershipControls
            | Operation::GetBucketLifecycleConfiguration
            | Operation::PutBucketLifecycleConfiguration
            | Operation::DeleteBucketLifecycle
            | Operation::GetObjectAcl
            | Operation::PutObjectAcl
            | Operation::GetBucketWebsite
            | Operation::PutBucketWebsite
            | Operation::DeleteBucketWebsite
            | Operation::GetBucketNotificationConfiguration
            | Operation::PutBucketNotificationConfiguration
            | Operation::GetAbsentConfiguration
            | Operation::DeleteAbsentConfiguration
            | Operation::GetBucketVersioning
            | Operation::PutBucketVersioning
            | Operation::GetObjectLockConfiguration
            | Operation::PutObjectLockConfiguration
            | Operation::GetObjectRetention
            | Operation::PutObjectRetention
            | Operation::GetObjectLegalHold
            | Operation::PutObjectLegalHold => Needs::Owner,
        }
    }

    /// Whether `x-amz-copy-source` may come with it; where there is no harm in that it is ignored.
    fn may_name_a_source(self) -> bool {
        !matches!(
            self,
            Operation::GetObject
                | Operation::HeadObject
                | Operation::DeleteObject
                | Operation::CreateMultipartUpload
                | Operation::CompleteMultipartUpload
                | Operation::AbortMultipartUpload
                | Operation::ListParts
        )
    }

    /// Whether it looks at `x-amz-acl` and `x-amz-grant-*` itself.
    fn keeps_acl(self) -> bool {
        matches!(
            self,
            Operation::CreateBucket
                | Operation::PutBucketAcl
                | Operation::PutObjectAcl
                | Operation::PutObject
                | Operation::CopyObject
                | Operation::CreateMultipartUpload
        )
    }

    /// Whether its answer is about the bucket itself, which no cache may tell.
    pub fn is_about_bucket(self) -> bool {
        matches!(
            self,
            Operation::HeadBucket
                | Operation::GetBucketLocation
                | Operation::DeleteBucket
                | Operation::GetBucketVersioning
                | Operation::PutBucketVersioning
                | Operation::GetObjectLockConfiguration
                | Operation::PutObjectLockConfiguration
                | Operation::GetBucketCors
                | Operation::PutBucketCors
                | Operation::DeleteBucketCors
                | Operation::GetBucketTagging
                | Operation::PutBucketTagging
                | Operation::DeleteBucketTagging
                | Operation::GetBucketAcl
                | Operation::PutBucketAcl
                | Operation::GetBucketRequestPayment
                | Operation::PutBucketRequestPayment
                | Operation::PutBucketOwnershipControls
                | Operation::GetBucketLifecycleConfiguration
                | Operation::PutBucketLifecycleConfiguration
                | Operation::DeleteBucketLifecycle
                | Operation::GetBucketWebsite
                | Operation::PutBucketWebsite
                | Operation::DeleteBucketWebsite
                | Operation::GetBucketNotificationConfiguration
                | Operation::PutBucketNotificationConfiguration
                | Operation::GetAbsentConfiguration
                | Operation::DeleteAbsentConfiguration
        )
    }

    /// Whether it needs room on the drives.
    pub fn adds_data(self) -> bool {
        match self {
            Operation::CreateBucket
            | Operation::PutObject
            | Operation::CopyObject
            | Operation::RenameObject
            | Operation::PutObjectTagging
            | Operation::CreateMultipartUpload
            | Operation::UploadPart
            | Operation::UploadPartCopy
            | Operation::CompleteMultipartUpload
            | Operation::PostObject => true,
            Operation::ListBuckets
            | Operation::HeadBucket
            | Operation::DeleteBucket
            | Operation::GetBucketLocation
            | Operation::ListObjects
            | Operation::ListObjectsV2
            | Operation::ListMultipartUploads
            | Operation::DeleteObjects
            | Operation::GetObject
            | Operation::HeadObject
            | Operation::DeleteObject
            | Operation::GetObjectAttributes
            | Operation::GetObjectTagging
            | Operation::DeleteObjectTagging
            | Operation::AbortMultipartUpload
            | Operation::ListParts
            | Operation::GetBucketVersioning
            | Operation::PutBucketVersioning
            | Operation::ListObjectVersions
            | Operation::GetObjectLockConfiguration
            | Operation::PutObjectLockConfiguration
            | Operation::GetObjectRetention
            | Operation::PutObjectRetention
            | Operation::GetObjectLegalHold
            | Operation::PutObjectLegalHold
            | Operation::GetBucketCors
            | Operation::PutBucketCors
            | Operation::DeleteBucketCors
            | Operation::GetBucketTagging
            | Operation::PutBucketTagging
            | Operation::DeleteBucketTagging
            | Operation::GetBucketAcl
            | Operation::PutBucketAcl
            | Operation::GetBucketRequestPayment
            | Operation::PutBucketRequestPayment
            | Operation::PutBucketOwnershipControls
            | Operation::GetBucketLifecycleConfiguration
            | Operation::PutBucketLifecycleConfiguration
            | Operation::DeleteBucketLifecycle
            | Operation::GetObjectAcl
            | Operation::PutObjectAcl
            | Operation::GetBucketWebsite
            | Operation::PutBucketWebsite
            | Operation::DeleteBucketWebsite
            | Operation::GetBucketNotificationConfiguration
            | Operation::PutBucketNotificationConfiguration
            | Operation::GetAbsentConfiguration
            | Operation::DeleteAbsentConfiguration => false,
        }
    }
}

/// What makes a PUT a copy.
const COPY_SOURCE: &str = "x-amz-copy-source";

/// Sub-resources of buckets that are not supported.
const BUCKET_UNSUPPORTED: &[&str] = &[
    "metadataConfiguration",
    "metadataInventoryTable",
    "metadataJournalTable",
    "metadataTable",
    "session",
];

/// Configurations of buckets that are not supported: a bucket has none, and that is what it answers.
pub const BUCKET_ABSENT: &[&str] = &[
    "abac",
    "accelerate",
    "analytics",
    "encryption",
    "intelligent-tiering",
    "inventory",
    "logging",
    "metrics",
    "ownershipControls",
    "policy",
    "policyStatus",
    "publicAccessBlock",
    "replication",
];

/// Sub-resources of objects that are not supported.
const OBJECT_UNSUPPORTED: &[&str] = &[
    "annotation",
    "encryption",
    "restore",
    "select",
    "select-type",
    "torrent",
];

/// What is asked of objects only. Of a bucket it would be another operation without them, and perhaps the bucket's end.
const OBJECT_ONLY: &[&str] = &[
    "annotation",
    "attributes",
    "legal-hold",
    "renameObject",
    "restore",
    "retention",
    "select",
    "torrent",
];

/// What is asked of buckets only, besides `BUCKET_ABSENT`. Of an object it would be another operation without them.
const BUCKET_ONLY: &[&str] = &[
    "cors",
    "delete",
    "lifecycle",
    "location",
    "notification",
    "object-lock",
    "requestPayment",
    "versioning",
    "website",
];

/// The other parameters that choose an operation.
const EITHER: &[&str] = &["acl", "tagging", "uploadId", "uploads", "versions"];

/// Refuses two parameters that would each choose an operation.
fn refuse_conflict(query: &Query) -> Result<(), S3Error> {
    let selectors = [OBJECT_ONLY, BUCKET_ONLY, BUCKET_ABSENT, EITHER];
    let chooses = |name: &str| selectors.iter().any(|names| names.contains(&name));
    let mut names: Vec<&str> = query.iter().map(|(name, _)| name).collect();
    names.retain(|name| chooses(name));
    names.sort_unstable();
    names.dedup();
    match names.as_slice() {
        [] | [_] => Ok(()),
        [first, ..] => {
            let message = format!("Conflicting query string parameters: {}", names.join(", "));
            Err(S3Error::with(Code::InvalidArgument, message)
                .detail("ArgumentName", "ResourceType")
                .detail("ArgumentValue", *first))
        }
    }
}

/// Refuses what names a part or a version of an object, or something else that only objects have, where there is no key.
fn refuse_without_key(method: &Method, query: &Query) -> Result<(), S3Error> {
    if let Some(version) = query.get("versionId") {
        return Err(takes_no_version(version));
    }
    match (query.has("uploadId"), query.has("partNumber")) {
        (true, true) if method == Method::PUT => return Err(method_not_allowed(method, "PART")),
        (false, true) if method == Method::PUT => {
            let message = "Object must have a valid key name.";
            return Err(S3Error::with(Code::InvalidRequest, message));
        }
        (false, false) => {}
        _ => {
            let message = "A key must be specified";
            return Err(S3Error::with(Code::InvalidRequest, message));
        }
    }
    match OBJECT_ONLY.iter().any(|name| query.has(name)) {
        true => Err(method_not_allowed(method, "BUCKET")),
        false => Ok(()),
    }
}

fn takes_no_version(version: &str) -> S3Error {
    let message = "This operation does not accept a version-id.";
    S3Error::with(Code::InvalidArgument, message)
        .detail("ArgumentName", "versionId")
        .detail("ArgumentValue", version)
}

/// Finds the operation, from the method and the query's sub-resources. Parameters that are unknown are ignored.
pub fn route(
    method: &Method,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Operation, S3Error> {
    operation_of(method, target, query, headers).map_err(|error| match error.code {
        Code::MethodNotAllowed => error.header("allow", allowed(target, query, headers)),
        _ => error,
    })
}

/// The methods that there are beside one that is not allowed.
fn allowed(target: &Target, query: &Query, headers: &HeaderMap) -> String {
    let methods = [
        Method::DELETE,
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
    ];
    let is_allowed = |method: &&Method| match operation_of(method, target, query, headers) {
        Ok(_) => true,
        Err(error) => error.code != Code::MethodNotAllowed,
    };
    let allowed = methods.iter().filter(is_allowed).map(Method::as_str);
    allowed.collect::<Vec<_>>().join(", ")
}

fn operation_of(
    method: &Method,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Operation, S3Error> {
    match target {
        Target::Service => match *method {
            Method::GET => Ok(Operation::ListBuckets),
            Method::OPTIONS => Err(not_implemented("This request")),
            _ => Err(method_not_allowed(method, "SERVICE")),
        },
        Target::Bucket(_) => {
            refuse_conflict(query)?;
            refuse_without_key(method, query)?;
            refuse_sub_resources(query, BUCKET_UNSUPPORTED)?;
            let absent = query.iter().any(|(name, _)| BUCKET_ABSENT.contains(&name));
            match *method {
                Method::GET if absent => return Ok(Operation::GetAbsentConfiguration),
                Method::DELETE if absent => return Ok(Operation::DeleteAbsentConfiguration),
                Method::PUT if query.has("ownershipControls") => {
                    return Ok(Operation::PutBucketOwnershipControls);
                }
                _ => refuse_sub_resources(query, BUCKET_ABSENT)?,
            }
            bucket_operation(method, query, headers)
        }
        Target::Object(..) => {
            refuse_conflict(query)?;
            refuse_sub_resources(query, OBJECT_UNSUPPORTED)?;
            let of_bucket =
                |(name, _): (&str, _)| BUCKET_ONLY.contains(&name) || BUCKET_ABSENT.contains(&name);
            if query.iter().any(of_bucket) {
                return Err(method_not_allowed(method, "OBJECT"));
            }
            let operation = object_operation(method, query, headers)?;
            match query.get("versionId") {
                Some(version) if !operation.takes_version() => Err(takes_no_version(version)),
                _ => Ok(operation),
            }
        }
    }
}

fn refuse_sub_resources(query: &Query, unsupported: &[&str]) -> Result<(), S3Error> {
    match query.iter().find(|(name, _)| unsupported.contains(name)) {
        Some((name, _)) => Err(not_implemented(&format!("The sub-resource ?{name}"))),
        None => Ok(()),
    }
}

fn bucket_operation(
    method: &Method,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Operation, S3Error> {
    let sub_resources = [
        "delete",
        "location",
        "uploads",
        "acl",
        "cors",
        "lifecycle",
        "notification",
        "requestPayment",
        "tagging",
        "website",
        "versioning",
        "versions",
        "object-lock",
    ];
    let sub_resource = sub_resources.into_iter().find(|name| query.has(name));
    match (method.as_str(), sub_resource) {
        ("GET", Some("cors")) => Ok(Operation::GetBucketCors),
        ("PUT", Some("cors")) => Ok(Operation::PutBucketCors),
        ("DELETE", Some("cors")) => Ok(Operation::DeleteBucketCors),
        ("GET", Some("tagging")) => Ok(Operation::GetBucketTagging),
        ("PUT", Some("tagging")) => Ok(Operation::PutBucketTagging),
        ("DELETE", Some("tagging")) => Ok(Operation::DeleteBucketTagging),
        ("GET", Some("acl")) => Ok(Operation::GetBucketAcl),
        ("PUT", Some("acl")) => Ok(Operation::PutBucketAcl),
        ("GET", Some("website")) => Ok(Operation::GetBucketWebsite),
        ("PUT", Some("website")) => Ok(Operation::PutBucketWebsite),
        ("DELETE", Some("website")) => Ok(Operation::DeleteBucketWebsite),
        ("GET", Some("lifecycle")) => Ok(Operation::GetBucketLifecycleConfiguration),
        ("PUT", Some("lifecycle")) => Ok(Operation::PutBucketLifecycleConfiguration),
        ("DELETE", Some("lifecycle")) => Ok(Operation::DeleteBucketLifecycle),
        ("GET", Some("notification")) => Ok(Operation::GetBucketNotificationConfiguration),
        ("PUT", Some("notification")) => Ok(Operation::PutBucketNotificationConfiguration),
        ("GET", Some("requestPayment")) => Ok(Operation::GetBucketRequestPayment),
        ("PUT", Some("requestPayment")) => Ok(Operation::PutBucketRequestPayment),
        ("GET", Some("location")) => Ok(Operation::GetBucketLocation),
        ("GET", Some("versioning")) => Ok(Operation::GetBucketVersioning),
        ("PUT", Some("versioning")) => Ok(Operation::PutBucketVersioning),
        ("GET", Some("versions")) => Ok(Operation::ListObjectVersions),
        ("GET", Some("object-lock")) => Ok(Operation::GetObjectLockConfiguration),
        ("PUT", Some("object-lock")) => Ok(Operation::PutObjectLockConfiguration),
        ("GET", Some("uploads")) => Ok(Operation::ListMultipartUploads),
        ("GET", None) => match query.get("list-type") {
            None | Some("1") => Ok(Operation::ListObjects),
            Some("2") => Ok(Operation::ListObjectsV2),
            Some(other) => Err(S3Error::with(Code::InvalidArgument, "Invalid List Type")
                .detail("ArgumentName", "list-type")
                .detail("ArgumentValue", other)),
        },
        ("PUT", None) => Ok(Operation::CreateBucket),
        ("HEAD", None) => Ok(Operation::HeadBucket),
        ("DELETE", None) => Ok(Operation::DeleteBucket),
        ("POST", Some("delete")) => Ok(Operation::DeleteObjects),
        ("POST", None) if is_form(headers) => Ok(Operation::PostObject),
        ("POST", None) => Err(S3Error::new(Code::PreconditionFailed).detail(
            "Condition",
            "Bucket POST must be of the enclosure-type multipart/form-data",
        )),
        _ => Err(method_not_allowed(method, "BUCKET")),
    }
}

fn object_operation(
    method: &Method,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Operation, S3Error> {
    let sub_resource = [
        "tagging",
        "attributes",
        "uploads",
        "uploadId",
        "retention",
        "legal-hold",
        "acl",
        "renameObject",
        "versions",
    ]
    .into_iter()
    .find(|name| query.has(name));
    let is_copy = headers.contains_key(COPY_SOURCE);
    match (method.as_str(), sub_resource) {
        ("GET", None) => Ok(Operation::GetObject),
        ("HEAD", None) => Ok(Operation::HeadObject),
        ("PUT", None) if query.has("partNumber") => Err(S3Error::with(
            Code::InvalidArgument,
            "This operation does not accept a partNumber without an uploadId.",
        )
        .detail("ArgumentName", "uploadId")
        .detail("ArgumentValue", "null")),
        ("PUT", None) if is_copy => Ok(Operation::CopyObject),
        ("PUT", None) => Ok(Operation::PutObject),
        ("DELETE", None) => Ok(Operation::DeleteObject),
        ("PUT", Some("renameObject")) => Ok(Operation::RenameObject),
        ("GET", Some("acl")) => Ok(Operation::GetObjectAcl),
        ("PUT", Some("acl")) => Ok(Operation::PutObjectAcl),
        ("GET", Some("tagging")) => Ok(Operation::GetObjectTagging),
        ("PUT", Some("tagging")) => Ok(Operation::PutObjectTagging),
        ("DELETE", Some("tagging")) => Ok(Operation::DeleteObjectTagging),
        ("GET", Some("attributes")) => Ok(Operation::GetObjectAttributes),
        ("GET", Some("retention")) => Ok(Operation::GetObjectRetention),
        ("PUT", Some("retention")) => Ok(Operation::PutObjectRetention),
        ("GET", Some("legal-hold")) => Ok(Operation::GetObjectLegalHold),
        ("PUT", Some("legal-hold")) => Ok(Operation::PutObjectLegalHold),
        ("POST", Some("uploads")) => Ok(Operation::CreateMultipartUpload),
        ("GET", Some(name @ ("uploads" | "versions"))) => Err(S3Error::with(
            Code::InvalidRequest,
            format!("There is no such thing as the ?{name} sub-resource for a key."),
        )),
        ("GET", Some("uploadId")) => Ok(Operation::ListParts),
        ("POST", Some("uploadId")) => Ok(Operation::CompleteMultipartUpload),
        ("DELETE", Some("uploadId")) => Ok(Operation::AbortMultipartUpload),
        ("PUT", Some("uploadId")) if !query.has("partNumber") => {
            Err(method_not_allowed(method, "UPLOAD"))
        }
        ("PUT", Some("uploadId")) if is_copy => Ok(Operation::UploadPartCopy),
        ("PUT", Some("uploadId")) => Ok(Operation::UploadPart),
        _ => Err(method_not_allowed(method, "OBJECT")),
    }
}

/// Whether the body is a browser's form.
fn is_form(headers: &HeaderMap) -> bool {
    let content_type = headers.get(http::header::CONTENT_TYPE);
    let text = content_type.and_then(|value| value.to_str().ok());
    let media_type = text.and_then(|text| text.split(';').next());
    media_type.is_some_and(|name| name.trim().eq_ignore_ascii_case("multipart/form-data"))
}

fn method_not_allowed(method: &Method, resource_type: &str) -> S3Error {
    S3Error::new(Code::MethodNotAllowed)
        .detail("Method", method.as_str())
        .detail("ResourceType", resource_type)
}

/// `NotImplemented`, and of what.
pub fn not_implemented(what: &str) -> S3Error {
    S3Error::with(Code::NotImplemented, format!("{what} is not implemented."))
}

/// Headers that are understood, or that change nothing here; sorted.
const KNOWN_HEADERS: &[&str] = &[
    "x-amz-api-version",
    "x-amz-apigw-id",
    "x-amz-bucket-object-lock-enabled",
    "x-amz-bypass-governance-retention",
    "x-amz-cf-id",
    "x-amz-checksum-algorithm",
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc32c",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-mode",
    "x-amz-checksum-sha1",
    "x-amz-checksum-sha256",
    "x-amz-checksum-type",
    "x-amz-content-sha256",
    "x-amz-copy-source",
    "x-amz-copy-source-if-match",
    "x-amz-copy-source-if-modified-since",
    "x-amz-copy-source-if-none-match",
    "x-amz-copy-source-if-unmodified-since",
    "x-amz-copy-source-range",
    "x-amz-date",
    "x-amz-decoded-content-length",
    "x-amz-expected-bucket-owner",
    "x-amz-id-2",
    "x-amz-if-match-initiated-time",
    "x-amz-if-match-last-modified-time",
    "x-amz-if-match-size",
    "x-amz-max-parts",
    "x-amz-metadata-directive",
    "x-amz-mp-object-size",
    "x-amz-object-attributes",
    "x-amz-object-lock-legal-hold",
    "x-amz-object-lock-mode",
    "x-amz-object-lock-retain-until-date",
    "x-amz-optional-object-attributes",
    "x-amz-part-number-marker",
    "x-amz-request-id",
    "x-amz-request-payer",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-security-token",
    "x-amz-skip-destination-validation",
    "x-amz-source-expected-bucket-owner",
    "x-amz-storage-class",
    "x-amz-tagging",
    "x-amz-tagging-directive",
    "x-amz-te",
    "x-amz-trailer",
    "x-amz-user-agent",
    "x-amz-website-redirect-location",
];

/// Whether a bucket may be made with this ownership, and its list beside it.
fn may_own(operation: Operation, value: &[u8], headers: &HeaderMap) -> Result<(), S3Error> {
    let known: [&[u8]; 3] = [
        b"BucketOwnerEnforced",
        b"BucketOwnerPreferred",
        b"ObjectWriter",
    ];
    if operation != Operation::CreateBucket {
        return Ok(());
    }
    if !known.contains(&value) {
        let value = String::from_utf8_lossy(value);
        let message = format!("Invalid x-amz-object-ownership header: {value}");
        return Err(S3Error::with(Code::InvalidArgument, message)
            .detail("ArgumentName", "x-amz-object-ownership")
            .detail("ArgumentValue", value));
    }
    let list = headers.get("x-amz-acl").map(|list| list.as_bytes());
    let grants = |name: &http::HeaderName| name.as_str().starts_with("x-amz-grant-");
    match list {
        None if value == known[0] && headers.keys().any(grants) => {
            Err(Code::InvalidBucketAclWithObjectOwnership.into())
        }
        None | Some(b"private") => Ok(()),
        Some(_) if value == known[0] => Err(Code::InvalidBucketAclWithObjectOwnership.into()),
        Some(_) => Ok(()),
    }
}

/// Refuses `x-amz-*` headers that ask for what is not there: encryption, and all that is not known. A request must never get less than it asked for without a word.
pub fn refuse_unsupported_headers(
    operation: Operation,
    headers: &HeaderMap,
) -> Result<(), S3Error> {
    if !operation.may_name_a_source()
        && let Some(source) = headers.get(COPY_SOURCE)
    {
        return Err(S3Error::with(
            Code::InvalidArgument,
            "You can only specify a copy source header for copy requests.",
        )
        .detail("ArgumentName", COPY_SOURCE)
        .detail("ArgumentValue", String::from_utf8_lossy(source.as_bytes())));
    }
    for (name, value) in headers {
        let name = name.as_str();
        if !name.starts_with("x-amz-")
            || name.starts_with("x-amz-meta-")
            || KNOWN_HEADERS.binary_search(&name).is_ok()
        {
            continue;
        }
        if name.starts_with("x-amz-checksum-") {
            // Says by itself what is wrong with the algorithm, if anything.
            checksum::by_header(name)?;
        }
        let value = value.as_bytes();
        let harmless = match name {
            "x-amz-acl" => {
                operation.keeps_acl()
                    || value == b"private"
                    || value == b"bucket-owner-full-control"
            }
            "x-amz-grant-full-control"
            | "x-amz-grant-read"
            | "x-amz-grant-read-acp"
            | "x-amz-grant-write"
            | "x-amz-grant-write-acp" => operation.keeps_acl(),
            "x-amz-client-token"
            | "x-amz-rename-source"
            | "x-amz-rename-source-if-match"
            | "x-amz-rename-source-if-none-match"
            | "x-amz-rename-source-if-modified-since"
            | "x-amz-rename-source-if-unmodified-since" => operation == Operation::RenameObject,
            "x-amz-write-offset-bytes" => operation == Operation::PutObject,
            "x-amz-transition-default-minimum-object-size" => {
                operation == Operation::PutBucketLifecycleConfiguration
            }
            "x-amz-object-ownership" => {
                may_own(operation, value, headers)?;
                value == b"BucketOwnerEnforced"
            }
            _ => false,
        };
        if !harmless {
            return Err(not_implemented(&format!("The header {name}")).detail("Header", name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
