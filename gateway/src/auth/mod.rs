//! Who sends a request: Signature Version 4 in the `Authorization` header or in the query
//! (API reference, "Authenticating Requests (AWS Signature Version 4)").

use std::sync::Arc;
use std::time::Duration;

use holdfast_placement::seams::Clock;
use http::request::Parts;

use crate::error::S3Error;

/// An access key with its secret, and whose it is.
pub struct Credentials {
    pub access_key: String,
    secret: String,
    /// The canonical user id that S3 shows as `Owner`/`ID`.
    pub owner_id: String,
    pub display_name: String,
}

impl Credentials {
    pub fn new(
        access_key: impl Into<String>,
        secret: impl Into<String>,
        owner_id: impl Into<String>,
        display_name: impl Into<String>,
    ) -> Self {
        Self {
            access_key: access_key.into(),
            secret: secret.into(),
            owner_id: owner_id.into(),
            display_name: display_name.into(),
        }
    }
}

/// Who signed a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    pub access_key: String,
    pub owner_id: String,
    pub display_name: String,
}

/// How the body of a request is framed and what its signature covers (`x-amz-content-sha256`).
#[derive(Debug, Clone)]
pub enum PayloadFraming {
    /// `UNSIGNED-PAYLOAD`: the bytes as they are.
    Unsigned,
    /// The bytes as they are; their SHA-256 is known.
    Signed([u8; 32]),
}

/// A request whose signature is right.
pub struct Authenticated {
    pub identity: Arc<Identity>,
    /// What the body must look like; `Payload` reads it.
    pub framing: PayloadFraming,
}

/// Checks signatures.
pub struct Authenticator {}

impl Authenticator {
    /// Knows `credentials`; requests must be signed for `region`.
    pub fn new(credentials: Vec<Credentials>, region: String, clock: Arc<dyn Clock>) -> Self {
        let _ = (credentials, region, clock);
        todo!()
    }

    /// How long a client may send nothing of an unfinished body (30 s unless told).
    pub fn with_read_idle(self, read_idle: Duration) -> Self {
        let _ = read_idle;
        todo!()
    }

    /// Who signed the request. A request without a signature is `AccessDenied`.
    pub fn authenticate(&self, parts: &Parts) -> Result<Authenticated, S3Error> {
        let _ = parts;
        todo!()
    }
}
