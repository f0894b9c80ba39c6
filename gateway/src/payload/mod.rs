//! The body of a request: deframed, and verified against everything that the client said of it.

use axum::body::Body;
use bytes::Bytes;
use holdfast_storage_node::metadata::{ChecksumAlgorithm, ObjectChecksum};
use http::HeaderMap;
use http::request::Parts;

use crate::auth::Authenticated;
use crate::error::S3Error;

/// What an `x-amz-checksum-*` header of a request is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChecksumHeader {
    /// The request's body: it is verified.
    #[default]
    Body,
    /// Something else, as with `CompleteMultipartUpload` (the object): the payload ignores it,
    /// the operation reads it with `checksum::from_headers`.
    Object,
}

/// What to compute besides what the client asks to be verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    pub md5: bool,
    /// Computed if the client sends no checksum of its own.
    pub checksum: Option<ChecksumAlgorithm>,
    pub checksum_header: ChecksumHeader,
}

/// What is known of a body once all of it was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// Where `Digests::md5` asked for it, or the client sent `Content-MD5`.
    pub md5: Option<[u8; 16]>,
    /// The client's (header or trailer), else the wanted one; `FullObject`.
    pub checksum: Option<ObjectChecksum>,
    /// Decoded bytes.
    pub len: u64,
}

/// A request body under way.
pub struct Payload {}

impl Payload {
    /// Parses and validates all headers that are about the body; nothing of it is read yet
    /// (so that a refused request gets no `100 Continue`).
    pub fn new(
        auth: &Authenticated,
        parts: &Parts,
        body: Body,
        want: Digests,
    ) -> Result<Self, S3Error> {
        let _ = (auth, parts, body, want);
        todo!()
    }

    /// Decoded length in bytes, if known: it is not only with `Transfer-Encoding: chunked` without
    /// aws-chunked framing.
    pub fn len(&self) -> Option<u64> {
        todo!()
    }

    /// Known to be empty.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// The next bytes, never empty, without a copy. `None` comes only after everything was verified: length,
    /// SHA-256, signatures of chunks and trailer, `Content-MD5`, checksum. What came before must not be
    /// committed if it ends in an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
        todo!()
    }

    /// The whole body, at most `max` bytes (`MaxMessageLengthExceeded` beyond). For XML.
    pub async fn read_all(&mut self, max: usize) -> Result<Bytes, S3Error> {
        let _ = max;
        todo!()
    }

    /// What was computed; whole only after `next` gave `None` or `read_all` succeeded.
    pub fn finished(&self) -> &Finished {
        todo!()
    }
}

/// The `Content-Encoding` to store: without `aws-chunked`, `None` if nothing else is left.
pub fn stored_content_encoding(headers: &HeaderMap) -> Result<Option<String>, S3Error> {
    let _ = headers;
    todo!()
}
