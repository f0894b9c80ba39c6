//! Who sends a request: Signature Version 4 in the `Authorization` header, in the query or in a form
//! (API reference, "Authenticating Requests (AWS Signature Version 4)"), and Version 2 where it is let in.

mod canonical;
mod chunk_chain;
mod claim;
mod form;
mod keys;
mod sig_v2;
mod sig_v4;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use holdfast_placement::directory::Directory;
use holdfast_placement::seams::Clock;
use http::request::Parts;
use zeroize::Zeroizing;

use crate::error::{Code, S3Error};
use canonical::PathForm;
use claim::{Claim, Place, QueryClaim};
use keys::{Entry, Keys, Known};
use sig_v4::{Hex64, SigningKey, Timestamp};

pub use chunk_chain::ChunkChain;
pub use form::FormSignature;
pub use keys::KEPT_FOR;

/// How far a request's time may be from ours.
const SKEW_MAX: Duration = Duration::from_secs(15 * 60);

/// How long a client may send nothing of an unfinished body, unless told otherwise.
const READ_IDLE: Duration = Duration::from_secs(30);

/// Where clients look for the region that they should have signed for; answers to HEAD have no body that would tell it.
pub const BUCKET_REGION: &str = "x-amz-bucket-region";

const SERVICE: &str = "s3";
const TERMINAL: &str = "aws4_request";

/// An access key with its secret, and whose it is. The secret is not shown, and wiped when dropped.
pub struct Credentials {
    pub access_key: String,
    secret: Zeroizing<String>,
    /// The canonical user id that S3 shows as `Owner`/`ID`.
    pub owner_id: String,
    pub display_name: String,
    is_root: bool,
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
            secret: Zeroizing::new(secret.into()),
            owner_id: owner_id.into(),
            display_name: display_name.into(),
            is_root: false,
        }
    }

    /// The same, of the root user, who may do everything.
    pub fn of_root(mut self) -> Self {
        self.is_root = true;
        self
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key", &self.access_key)
            .field("owner_id", &self.owner_id)
            .finish_non_exhaustive()
    }
}

/// Who signed a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub access_key: String,
    /// The canonical user id that S3 shows as `Owner`/`ID`.
    pub owner_id: String,
    pub display_name: String,
    /// Whether it may do everything.
    pub is_root: bool,
}

/// S3's canonical user id of those who sign nothing.
const ANONYMOUS: &str = "65a011a29cdf8ec533ec3d1ccaae921c";

impl Identity {
    /// Somebody who signed nothing.
    pub fn anonymous() -> Self {
        Self {
            access_key: String::new(),
            owner_id: ANONYMOUS.to_owned(),
            display_name: String::new(),
            is_root: false,
        }
    }

    pub fn is_anonymous(&self) -> bool {
        self.access_key.is_empty()
    }
}

/// How the body of a request is framed and what is signed of it (`x-amz-content-sha256`).
#[derive(Clone, Debug)]
pub enum PayloadFraming {
    /// `UNSIGNED-PAYLOAD`: the bytes as they are.
    Unsigned,
    /// The bytes as they are; their SHA-256 is signed.
    Signed([u8; 32]),
    /// `STREAMING-UNSIGNED-PAYLOAD-TRAILER`: chunks and a trailer.
    ChunkedUnsigned,
    /// `STREAMING-AWS4-HMAC-SHA256-PAYLOAD`, with `trailer` its `-TRAILER` form: signed chunks.
    ChunkedSigned {
        chain: Box<ChunkChain>,
        trailer: bool,
    },
}

/// How long to wait for a client that sends nothing.
#[derive(Clone)]
pub(crate) struct Patience {
    pub clock: Arc<dyn Clock>,
    pub read_idle: Duration,
}

/// A request whose signature is right.
pub struct Authenticated {
    pub identity: Arc<Identity>,
    /// What the body must look like; `Payload` reads it.
    pub framing: PayloadFraming,
    pub(crate) patience: Patience,
}

/// Why a request is not let in.
enum Trouble {
    Refused(S3Error),
    /// Nothing is known here of this access key; the cluster may keep it.
    NotAtHand(String),
}

impl From<S3Error> for Trouble {
    fn from(error: S3Error) -> Self {
        Self::Refused(error)
    }
}

impl From<Code> for Trouble {
    fn from(code: Code) -> Self {
        Self::Refused(code.into())
    }
}

impl Trouble {
    /// As a client gets it when nobody is left to be asked.
    fn refusal(self) -> S3Error {
        match self {
            Self::Refused(error) => error,
            Self::NotAtHand(access_key) => {
                S3Error::new(Code::InvalidAccessKeyId).detail("AWSAccessKeyId", access_key)
            }
        }
    }
}

/// Checks signatures.
pub struct Authenticator {
    keys: Keys,
    region: String,
    patience: Patience,
    /// Whether Signature Version 2 is let in.
    sig_v2: bool,
    /// As of the gateway: Signature Version 2 signs the bucket, wherever it is.
    domain: Option<String>,
}

impl Authenticator {
    /// Knows `credentials`; requests must be signed for `region`.
    pub fn new(credentials: Vec<Credentials>, region: String, clock: Arc<dyn Clock>) -> Self {
        Self {
            keys: Keys::new(credentials, clock.clone()),
            region,
            patience: Patience {
                clock,
                read_idle: READ_IDLE,
            },
            sig_v2: false,
            domain: None,
        }
    }

    /// Lets in Signature Version 2 too. `domain`: where virtual-hosted-style requests go.
    pub fn with_sig_v2(mut self, domain: Option<String>) -> Self {
        self.sig_v2 = true;
        self.domain = domain;
        self
    }

    /// How long a client may send nothing of an unfinished body (30 s unless told).
    pub fn with_read_idle(mut self, read_idle: Duration) -> Self {
        self.patience.read_idle = read_idle;
        self
    }

    /// Who signed the request, whose head must be as it was received: the path of a virtual-hosted request as
    /// well as its `Host` are signed as they were sent. A request without a signature is `AccessDenied`.
    ///
    /// Errors, as S3 gives them: `AuthorizationHeaderMalformed`, `AuthorizationQueryParametersError`,
    /// `InvalidRequest` (Signature Version 2; no `x-amz-content-sha256`), `InvalidArgument` (two signatures, another
    /// kind of authorization, a wrong `x-amz-content-sha256`), `InvalidAccessKeyId`, `RequestTimeTooSkewed`,
    /// `AccessDenied` (expired; headers that should be signed are not), `InvalidToken` (there are no sessions),
    /// `NotImplemented` (Signature Version 4A), `SignatureDoesNotMatch`.
    ///
    /// Only keys that are at hand count: those that were given, and those that
    /// [`authenticate_any`](Self::authenticate_any) asked for lately.
    pub fn authenticate(&self, parts: &Parts) -> Result<Authenticated, S3Error> {
        self.check(parts).map_err(Trouble::refusal)
    }

    /// As `authenticate`, with all keys that the cluster keeps. Those are asked for when they are not at hand:
    /// `ServiceUnavailable` where that cannot be done now.
    pub async fn authenticate_any(
        &self,
        parts: &Parts,
        directory: &Directory,
    ) -> Result<Authenticated, S3Error> {
        match self.check(parts) {
            Err(Trouble::NotAtHand(access_key)) => {
                let asked = self.keys.ask(&access_key, directory).await;
                asked.map_err(crate::ops::failure::directory)?;
                self.check(parts).map_err(Trouble::refusal)
            }
            checked => checked.map_err(Trouble::refusal),
        }
    }

    /// As `authenticate_any`; a request that holds no signature of any kind is an anonymous one.
    pub async fn authenticate_or_anonymous(
        &self,
        parts: &Parts,
        directory: &Directory,
    ) -> Result<Authenticated, S3Error> {
        let is_signed = parts.headers.contains_key(http::header::AUTHORIZATION)
            || query_has(
                parts,
                &["X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature"],
            )
            || query_names(parts).any(|name| ["AWSAccessKeyId", "Signature"].contains(&name));
        match is_signed {
            true => self.authenticate_any(parts, directory).await,
            false => self.anonymous(parts),
        }
    }

    /// Of a request that nobody signed.
    pub fn anonymous(&self, parts: &Parts) -> Result<Authenticated, S3Error> {
        Ok(Authenticated {
            identity: Arc::new(Identity::anonymous()),
            framing: unsigned_framing(parts)?,
            patience: self.patience.clone(),
        })
    }

    /// The key, if it is at hand.
    fn entry(&self, access_key: &str) -> Result<Arc<Entry>, Trouble> {
        match self.keys.find(access_key) {
            Known::Entry(entry) => Ok(entry),
            Known::Ask => Err(Trouble::NotAtHand(access_key.to_owned())),
            Known::Never => Err(S3Error::new(Code::InvalidAccessKeyId)
                .detail("AWSAccessKeyId", access_key)
                .into()),
        }
    }

    fn check(&self, parts: &Parts) -> Result<Authenticated, Trouble> {
        if parts.headers.contains_key(http::header::AUTHORIZATION) && is_presigned(parts) {
            return Err(two_mechanisms(parts).into());
        }
        if self.sig_v2
            && let Some(claim) = find_v2(parts)?
        {
            return self.check_v2(parts, &claim);
        }
        let in_header = Claim::from_header(parts);
        let in_query;
        let claim = match QueryClaim::find(parts)? {
            None => in_header?.ok_or(Code::AccessDenied)?,
            Some(query) => {
                in_query = query;
                in_query.claim()?
            }
        };
        self.check_scope(&claim)?;
        let entry = self.entry(claim.credential.access_key)?;
        self.check_time(&claim)?;
        refuse_session_token(parts)?;
        if let Some(names) = canonical::not_signed(&parts.headers, claim.signed_headers) {
            return Err(S3Error::with(
                Code::AccessDenied,
                "There were headers present in the request which were not signed",
            )
            .detail("HeadersNotSigned", names)
            .into());
        }
        let framing = Framing::parse(claim.payload_hash, claim.place)?;

        let key = entry.signing_key(claim.credential.date, &self.region);
        let signature = verify(parts, &claim, &key)?;
        let chain = |key: SigningKey| {
            let scope = claim.credential.scope;
            Box::new(ChunkChain::new(key, claim.timestamp, scope, signature))
        };
        let framing = match framing {
            Framing::Unsigned => PayloadFraming::Unsigned,
            Framing::Signed(sha256) => PayloadFraming::Signed(sha256),
            Framing::ChunkedUnsigned => PayloadFraming::ChunkedUnsigned,
            Framing::ChunkedSigned { trailer } => PayloadFraming::ChunkedSigned {
                chain: chain(key),
                trailer,
            },
        };
        Ok(self.admit(&entry, framing))
    }

    /// Signature Version 2.
    fn check_v2(&self, parts: &Parts, claim: &sig_v2::Claim) -> Result<Authenticated, Trouble> {
        let entry = self.entry(&claim.access_key)?;
        let now = self.patience.clock.wall().secs() as i64;
        match &claim.when {
            sig_v2::When::Signed(secs, _) => self.check_skew(now, *secs, None)?,
            sig_v2::When::Expires(secs, _) if now > *secs => {
                return Err(S3Error::with(Code::AccessDenied, "Request has expired")
                    .detail("Expires", iso(*secs))
                    .detail("ServerTime", iso(now))
                    .into());
            }
            sig_v2::When::Expires(..) => {}
        }
        refuse_session_token(parts)?;
        let framing = unsigned_framing(parts)?;
        let domain = self.domain.as_deref();
        let message = |form| sig_v2::string_to_sign(parts, &claim.when, domain, form);
        let fits = |form| sig_v2::matches(&entry.secret, &message(form), &claim.signature);
        if !sig_v2::forms(parts, domain).any(fits) {
            let message = message(sig_v2::Form::default());
            return Err(does_not_match(&claim.access_key, &message, &claim.signature).into());
        }
        Ok(self.admit(&entry, framing))
    }

    fn admit(&self, entry: &Entry, framing: PayloadFraming) -> Authenticated {
        Authenticated {
            identity: Arc::clone(&entry.identity),
            framing,
            patience: self.patience.clone(),
        }
    }

    /// The signature is for this service, in this region, on the day of its timestamp.
    fn check_scope(&self, claim: &Claim<'_>) -> Result<(), S3Error> {
        let credential = &claim.credential;
        let malformed = |what: String| Err(claim.place.malformed(what));
        if credential.access_key.is_empty() {
            return malformed(
                "a non-empty Access Key (AKID) must be provided in the credential.".to_owned(),
            );
        }
        if credential.terminal != TERMINAL {
            return malformed(format!(
                "incorrect terminal \"{}\". This endpoint uses \"{TERMINAL}\".",
                credential.terminal
            ));
        }
        if credential.service != SERVICE {
            return malformed(format!(
                "incorrect service \"{}\". This endpoint belongs to \"{SERVICE}\".",
                credential.service
            ));
        }
        if credential.date.len() != 8 || !credential.date.bytes().all(|byte| byte.is_ascii_digit())
        {
            return malformed(format!(
                "incorrect date format \"{}\". This date in the credential must be in the format \"yyyyMMdd\".",
                credential.date
            ));
        }
        if credential.date != claim.timestamp.date() {
            return malformed(format!(
                "invalid credential date \"{}\". This date is not the same as X-Amz-Date: \"{}\".",
                credential.date,
                claim.timestamp.date()
            ));
        }
        if credential.region != self.region {
            return Err(claim
                .place
                .malformed(format!(
                    "the region '{}' is wrong; expecting '{}'",
                    credential.region, self.region
                ))
                .detail("Region", self.region.clone())
                .header(BUCKET_REGION, self.region.clone()));
        }
        Ok(())
    }

    /// The signature was made just now, or has not expired.
    fn check_time(&self, claim: &Claim<'_>) -> Result<(), S3Error> {
        let now = self.patience.clock.wall().secs() as i64;
        let signed = claim.timestamp.unix_secs();
        let skew = SKEW_MAX.as_secs() as i64;
        match claim.expires_secs {
            None => self.check_skew(now, signed, Some(claim.timestamp.as_str())),
            Some(expires) if signed - now > skew => Err(S3Error::with(
                Code::AccessDenied,
                "Request is not yet valid",
            )
            .detail("X-Amz-Date", claim.timestamp.as_str())
            .detail("Expires", iso(signed + i64::from(expires)))
            .detail("ServerTime", iso(now))),
            Some(expires) if now > signed + i64::from(expires) => {
                Err(S3Error::with(Code::AccessDenied, "Request has expired")
                    .detail("X-Amz-Expires", expires.to_string())
                    .detail("Expires", iso(signed + i64::from(expires)))
                    .detail("ServerTime", iso(now)))
            }
            _ => Ok(()),
        }
    }

    /// A moment that is not far from now. `shown`: as the client wrote it.
    fn check_skew(&self, now: i64, signed: i64, shown: Option<&str>) -> Result<(), S3Error> {
        if (now - signed).abs() <= SKEW_MAX.as_secs() as i64 {
            return Ok(());
        }
        Err(S3Error::new(Code::RequestTimeTooSkewed)
            .detail(
                "RequestTime",
                shown.map_or_else(|| iso(signed), str::to_owned),
            )
            .detail("ServerTime", iso(now))
            .detail(
                "MaxAllowedSkewMilliseconds",
                SKEW_MAX.as_millis().to_string(),
            ))
    }
}

/// Seconds since 1970 as errors show them.
fn iso(unix_secs: i64) -> String {
    Timestamp::at(unix_secs).map_or_else(String::new, |time| {
        let text = time.as_str();
        format!(
            "{}-{}-{}:{}:{}Z",
            &text[..4],
            &text[4..6],
            &text[6..11],
            &text[11..13],
            &text[13..15]
        )
    })
}

fn query_names(parts: &Parts) -> impl Iterator<Item = &str> {
    let query = parts.uri.query().unwrap_or_default();
    query
        .split('&')
        .map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name))
}

/// Whether the query holds one of these parameters, in whatever case.
fn query_has(parts: &Parts, wanted: &[&str]) -> bool {
    let is_wanted = |name: &str| wanted.iter().any(|other| name.eq_ignore_ascii_case(other));
    query_names(parts).any(is_wanted)
}

/// Whether the query holds a signature of either version.
fn is_presigned(parts: &Parts) -> bool {
    query_has(parts, &["X-Amz-Algorithm", "X-Amz-Signature"])
        || (query_has(parts, &["AWSAccessKeyId"]) && query_has(parts, &["Signature"]))
}

fn two_mechanisms(parts: &Parts) -> S3Error {
    let header = parts.headers.get(http::header::AUTHORIZATION);
    // Its kind only, where it says one: the rest may hold a secret.
    let kind = header.and_then(|value| value.to_str().ok()?.trim_ascii().split_once(' '));
    S3Error::with(
        Code::InvalidArgument,
        "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature \
         query string parameter or the Authorization header should be specified",
    )
    .detail("ArgumentName", "Authorization")
    .detail("ArgumentValue", kind.map_or("", |(kind, _)| kind))
}

/// A signature of version 2, where there is none of version 4.
fn find_v2(parts: &Parts) -> Result<Option<sig_v2::Claim>, S3Error> {
    let claim = sig_v2::Claim::from_header(parts)?;
    let has_header = parts.headers.contains_key(http::header::AUTHORIZATION);
    match has_header || query_has(parts, &["X-Amz-Algorithm", "X-Amz-Signature"]) {
        true => Ok(claim),
        false => sig_v2::Claim::from_query(parts),
    }
}

/// No session is ever given out, so none can be valid.
fn refuse_session_token(parts: &Parts) -> Result<(), S3Error> {
    const NAME: &str = "x-amz-security-token";
    if parts.headers.contains_key(NAME) || query_has(parts, &[NAME]) {
        return Err(Code::InvalidToken.into());
    }
    Ok(())
}

/// `x-amz-content-sha256`, parsed.
enum Framing {
    Unsigned,
    Signed([u8; 32]),
    ChunkedUnsigned,
    ChunkedSigned { trailer: bool },
}

impl Framing {
    fn parse(text: &str, place: Place) -> Result<Self, S3Error> {
        match text {
            "UNSIGNED-PAYLOAD" => Ok(Self::Unsigned),
            "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Ok(Self::ChunkedUnsigned),
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => Ok(Self::ChunkedSigned { trailer: false }),
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => {
                Ok(Self::ChunkedSigned { trailer: true })
            }
            "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"
            | "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER" => Err(S3Error::with(
                Code::NotImplemented,
                "Signature Version 4A (AWS4-ECDSA-P256-SHA256) is not implemented. Please use \
                 AWS4-HMAC-SHA256.",
            )),
            _ => {
                let mut sha256 = [0; 32];
                match hex::decode_to_slice(text, &mut sha256) {
                    Ok(()) => Ok(Self::Signed(sha256)),
                    Err(_) => Err(S3Error::with(
                        Code::InvalidArgument,
                        "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, \
                         STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or \
                         a valid sha256 value.",
                    )
                    .detail(
                        "ArgumentName",
                        match place {
                            Place::Header => "x-amz-content-sha256",
                            Place::Query => "X-Amz-Content-Sha256",
                        },
                    )
                    .detail("ArgumentValue", text)),
                }
            }
        }
    }
}

/// The framing of a body of which nothing is signed; what the request says of it counts all the same.
fn unsigned_framing(parts: &Parts) -> Result<PayloadFraming, S3Error> {
    let Some(value) = parts.headers.get("x-amz-content-sha256") else {
        return Ok(PayloadFraming::Unsigned);
    };
    match Framing::parse(value.to_str().unwrap_or_default(), Place::Header)? {
        Framing::Unsigned => Ok(PayloadFraming::Unsigned),
        Framing::Signed(sha256) => Ok(PayloadFraming::Signed(sha256)),
        Framing::ChunkedUnsigned => Ok(PayloadFraming::ChunkedUnsigned),
        Framing::ChunkedSigned { .. } => Err(S3Error::with(
            Code::InvalidRequest,
            "Signed chunks need a request that is signed with AWS4-HMAC-SHA256.",
        )),
    }
}

/// The request's signature, if it is the one that `claim` says.
fn verify(parts: &Parts, claim: &Claim<'_>, key: &SigningKey) -> Result<Hex64, S3Error> {
    let request = |form| canonical::request(parts, form, claim.signed_headers, claim.payload_hash);
    let sign = |request: &[u8]| {
        key.sign(&[
            sig_v4::ALGORITHM.as_bytes(),
            claim.timestamp.as_bytes(),
            claim.credential.scope.as_bytes(),
            &sig_v4::sha256_hex(request),
        ])
    };
    let provided = claim.signature.as_bytes();
    let canonical = request(PathForm::Encoded).map_err(|missing| {
        S3Error::with(
            Code::SignatureDoesNotMatch,
            format!("The header {missing} is among the signed headers but was not received."),
        )
    })?;
    let computed = sign(&canonical);
    if sig_v4::matches(&computed, provided) {
        return Ok(computed);
    }
    if canonical::has_two_path_forms(parts)
        && let Ok(as_sent) = request(PathForm::AsSent)
    {
        let computed = sign(&as_sent);
        if sig_v4::matches(&computed, provided) {
            return Ok(computed);
        }
    }
    Err(mismatch(claim, &canonical))
}

/// A canonical request that is longer is not told.
const TOLD_LEN_MAX: usize = 16 * 1024;

/// What a client needs to see why its signature is another one, as S3 tells it.
fn mismatch(claim: &Claim<'_>, canonical: &[u8]) -> S3Error {
    let hash = sig_v4::sha256_hex(canonical);
    let string_to_sign = format!(
        "{}\n{}\n{}\n{}",
        sig_v4::ALGORITHM,
        claim.timestamp.as_str(),
        claim.credential.scope,
        String::from_utf8_lossy(&hash)
    );
    let (key, signed) = (claim.credential.access_key, string_to_sign.as_bytes());
    let error = does_not_match(key, signed, claim.signature);
    if canonical.len() > TOLD_LEN_MAX {
        return error;
    }
    error
        .detail("CanonicalRequest", String::from_utf8_lossy(canonical))
        .detail("CanonicalRequestBytes", spelled(canonical))
}

/// `SignatureDoesNotMatch`, with what the signature should have been of.
fn does_not_match(access_key: &str, string_to_sign: &[u8], signature: &str) -> S3Error {
    let string_to_sign = &string_to_sign[..string_to_sign.len().min(TOLD_LEN_MAX)];
    S3Error::new(Code::SignatureDoesNotMatch)
        .detail("AWSAccessKeyId", access_key)
        .detail("StringToSign", String::from_utf8_lossy(string_to_sign))
        .detail("SignatureProvided", signature)
        .detail("StringToSignBytes", spelled(string_to_sign))
}

/// Bytes as hex digits, a space between each two: what a text of them cannot show.
fn spelled(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut spelled = String::with_capacity(3 * bytes.len());
    for (at, byte) in bytes.iter().enumerate() {
        if at > 0 {
            spelled.push(' ');
        }
        for digit in [byte >> 4, byte & 15] {
            spelled.push(char::from(DIGITS[usize::from(digit)]));
        }
    }
    spelled
}

#[cfg(test)]
pub(crate) mod tests;
