//! S3's error codes, their HTTP status and their XML (API reference, "Error responses").

use std::borrow::Cow;

macro_rules! codes {
    ($($name:ident = $status:literal, $message:literal;)*) => {
        /// An error code of S3.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($name),* }

        impl Code {
            /// As in the XML.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => stringify!($name)),* }
            }

            /// HTTP status.
            pub fn status(self) -> u16 {
                match self { $(Code::$name => $status),* }
            }

            /// What to say when nothing more precise is known.
            pub fn message(self) -> &'static str {
                match self { $(Code::$name => $message),* }
            }
        }
    };
}

codes! {
    AccessDenied = 403, "Access Denied";
    AccessForbidden = 403, "Access forbidden.";
    AuthorizationHeaderMalformed = 400, "The Authorization header is malformed.";
    AuthorizationQueryParametersError = 400, "The authorization query parameters are not valid.";
    BadDigest = 400, "The Content-MD5 or checksum value that you specified did not match what we received.";
    BadRequest = 400, "Bad request.";
    BucketAlreadyExists = 409, "The requested bucket name is not available. The bucket namespace is shared by all users of the system. Please select a different name and try again.";
    BucketAlreadyOwnedByYou = 409, "Your previous request to create the named bucket succeeded and you already own it.";
    BucketNotEmpty = 409, "The bucket you tried to delete is not empty";
    ConditionalRequestConflict = 409, "A conflicting operation occurred; retry the request.";
    EntityTooLarge = 400, "Your proposed upload exceeds the maximum allowed size";
    EntityTooSmall = 400, "Your proposed upload is smaller than the minimum allowed size";
    IdempotencyParameterMismatch = 400, "The client token was used for a request with other parameters.";
    IllegalVersioningConfigurationException = 400, "The versioning configuration has no status.";
    IllegalLocationConstraintException = 400, "The location constraint does not match this region.";
    IncompleteBody = 400, "The request ended before as many bytes came as its headers announced.";
    InternalError = 500, "We encountered an internal error. Please try again.";
    InvalidAccessKeyId = 403, "The AWS Access Key Id you provided does not exist in our records.";
    InvalidArgument = 400, "Invalid argument.";
    InvalidBucketAclWithObjectOwnership = 400, "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting";
    InvalidBucketState = 409, "The request is not valid for the current state of the bucket.";
    InvalidBucketName = 400, "The specified bucket is not valid.";
    InvalidChunkSizeError = 403, "Only the last chunk is allowed to have a size less than 8192 bytes.";
    InvalidDigest = 400, "The Content-MD5 or checksum value that you specified is not valid.";
    InvalidEncryptionAlgorithmError = 400, "The encryption request that you specified is not valid.";
    InvalidLocationConstraint = 400, "The specified location-constraint is not valid";
    InvalidObjectState = 403, "The operation is not valid for the object's state.";
    InvalidPart = 400, "One or more of the specified parts could not be found.  The part may not have been uploaded, or the specified entity tag may not match the part's entity tag.";
    InvalidPartNumber = 416, "The requested partnumber is not satisfiable.";
    InvalidPartOrder = 400, "The list of parts was not in ascending order. Parts must be ordered by part number.";
    InvalidPolicyDocument = 400, "The content of the form does not meet the conditions specified in the policy document.";
    InvalidRange = 416, "The requested range is not satisfiable";
    InvalidRedirectLocation = 400, "The website redirect location is not valid.";
    InvalidRequest = 400, "Invalid request.";
    InvalidRetentionPeriod = 400, "The retention period is not valid.";
    InvalidSignature = 400, "The request signature that the server calculated does not match.";
    InvalidStorageClass = 400, "The storage class you specified is not valid";
    InvalidTag = 400, "The tag provided was not valid.";
    InvalidToken = 400, "The provided token is malformed or otherwise not valid: no sessions are given out here.";
    InvalidURI = 400, "The specified URI could not be parsed.";
    InvalidWriteOffset = 400, "The write offset value that you specified does not match the current object size.";
    KeyTooLongError = 400, "Your key is too long";
    MalformedACLError = 400, "The XML you provided was not well-formed or did not validate against our published schema";
    MalformedPOSTRequest = 400, "The body of your POST request is not well-formed multipart/form-data.";
    MalformedTrailerError = 400, "The request contained trailing data that was not well-formed or did not conform to the announced trailer.";
    MalformedXML = 400, "The XML you provided was not well-formed or did not validate against our published schema";
    MaxMessageLengthExceeded = 400, "Your request was too large.";
    MaxPostPreDataLengthExceeded = 400, "Your POST request fields preceding the upload file were too large.";
    MetadataTooLarge = 400, "Your metadata headers exceed the maximum allowed metadata size";
    MethodNotAllowed = 405, "The specified method is not allowed against this resource.";
    MissingContentLength = 411, "You must provide the Content-Length HTTP header.";
    MissingRequestBodyError = 400, "Request Body is empty";
    MissingSecurityHeader = 400, "Your request is missing a required header.";
    NoSuchBucket = 404, "The specified bucket does not exist";
    NoSuchBucketPolicy = 404, "The bucket policy does not exist";
    NoSuchCORSConfiguration = 404, "The CORS configuration does not exist";
    NoSuchConfiguration = 404, "The specified configuration does not exist.";
    NoSuchKey = 404, "The specified key does not exist.";
    NoSuchLifecycleConfiguration = 404, "The lifecycle configuration does not exist";
    NoSuchObjectLockConfiguration = 404, "The specified object does not have a ObjectLock configuration";
    NoSuchPublicAccessBlockConfiguration = 404, "The public access block configuration was not found";
    NoSuchTagSet = 404, "The TagSet does not exist";
    NoSuchUpload = 404, "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.";
    NoSuchVersion = 404, "The specified version does not exist.";
    NoSuchWebsiteConfiguration = 404, "The specified bucket does not have a website configuration";
    NotImplemented = 501, "A header or query that you provided asks for functionality that is not implemented.";
    NotModified = 304, "Not modified.";
    ObjectLockConfigurationNotFoundError = 404, "Object Lock configuration does not exist for this bucket";
    OwnershipControlsNotFoundError = 404, "The bucket ownership controls were not found";
    PreconditionFailed = 412, "At least one of the pre-conditions you specified did not hold";
    QuotaExceeded = 403, "The bucket's quota leaves no room for it: delete something, or have the quota raised.";
    ReplicationConfigurationNotFoundError = 404, "The replication configuration was not found";
    RequestHeaderSectionTooLarge = 400, "Your request header section exceeds the maximum allowed size.";
    RequestTimeout = 400, "Your socket connection to the server was not read from or written to within the timeout period.";
    RequestTimeTooSkewed = 403, "The difference between the request time and the server's time is too large.";
    ServerSideEncryptionConfigurationNotFoundError = 404, "The server side encryption configuration was not found";
    ServiceUnavailable = 503, "The service cannot answer now. Try again.";
    SignatureDoesNotMatch = 403, "The request signature we calculated does not match the signature you provided. Check your key and signing method.";
    SlowDown = 503, "The server is at its memory budget. Reduce your request rate or try again.";
    StorageFull = 507, "The storage is full: delete something or add drives.";
    TooManyParts = 400, "You have attempted to add more parts than the maximum of 10000 that are allowed for this object. You can use the CopyObject operation to copy this object to another and then add more data to the newly copied object.";
    UnexpectedContent = 400, "This request does not support content.";
    UnsupportedSignature = 400, "The provided request is signed with an unsupported signature type.";
    XAmzContentChecksumMismatch = 400, "The computed checksum does not match the one that was announced.";
    XAmzContentSHA256Mismatch = 400, "The provided 'x-amz-content-sha256' header does not match what was computed.";
}

/// An error as a client gets it. `NotModified` and every answer to HEAD go without a body.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct S3Error {
    pub code: Code,
    /// HTTP status; the code's, with few exceptions.
    pub status: u16,
    pub message: Cow<'static, str>,
    /// More elements of the XML, such as `ArgumentName`, in order.
    pub details: Vec<(&'static str, String)>,
    /// Headers of the answer.
    pub headers: Vec<(&'static str, String)>,
}

impl S3Error {
    /// `code` with its usual message.
    pub fn new(code: Code) -> Self {
        Self {
            code,
            status: code.status(),
            message: Cow::Borrowed(code.message()),
            details: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// `code` with a message that says what was wrong and what to do.
    pub fn with(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            status: code.status(),
            message: message.into(),
            details: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// With another status than the code has elsewhere.
    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Adds an element to the XML.
    pub fn detail(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.details.push((name, value.into()));
        self
    }

    /// Adds a header; its name is in lower case.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl From<Code> for S3Error {
    fn from(code: Code) -> Self {
        S3Error::new(code)
    }
}
