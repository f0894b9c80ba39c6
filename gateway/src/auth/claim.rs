//! What a request says of its signature, from the `Authorization` header or from the query.

use std::borrow::Cow;

use http::header::{AUTHORIZATION, DATE};
use http::request::Parts;
use percent_encoding::percent_decode_str;

use super::sig_v4::{ALGORITHM, Timestamp};
use crate::error::{Code, S3Error};

/// Where a signature is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Header,
    Query,
}

impl Place {
    /// The error for a signature in this place that cannot be read, or is for something else.
    pub fn malformed(self, what: impl AsRef<str>) -> S3Error {
        let what = what.as_ref();
        match self {
            Place::Header => S3Error::with(
                Code::AuthorizationHeaderMalformed,
                format!("The authorization header is malformed; {what}"),
            ),
            Place::Query => S3Error::with(
                Code::AuthorizationQueryParametersError,
                format!("Error parsing the X-Amz-Credential parameter; {what}"),
            ),
        }
    }
}

/// `access key/date/region/service/aws4_request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credential<'a> {
    pub access_key: &'a str,
    /// All that follows the access key.
    pub scope: &'a str,
    pub date: &'a str,
    pub region: &'a str,
    pub service: &'a str,
    pub terminal: &'a str,
}

impl<'a> Credential<'a> {
    /// An access key may itself have slashes in it.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut fields = text.rsplitn(5, '/');
        let terminal = fields.next()?;
        let service = fields.next()?;
        let region = fields.next()?;
        let date = fields.next()?;
        let access_key = fields.next()?;
        Some(Self {
            access_key,
            scope: &text[access_key.len() + 1..],
            date,
            region,
            service,
            terminal,
        })
    }
}

/// A signature and what it says of itself; nothing of it is verified.
#[derive(Debug)]
pub struct Claim<'a> {
    pub place: Place,
    pub credential: Credential<'a>,
    pub timestamp: Timestamp,
    /// Seconds that it holds from its timestamp on; in the query only.
    pub expires_secs: Option<u32>,
    /// Names, separated by `;`.
    pub signed_headers: &'a str,
    pub signature: &'a str,
    /// What the canonical request ends with: `x-amz-content-sha256`.
    pub payload_hash: &'a str,
}

/// Longest life of a presigned request: a week.
const EXPIRES_SECS_MAX: u32 = 604_800;

/// More names than that are not looked at.
const SIGNED_HEADERS_MAX: usize = 100;

const CONTENT_SHA256: &str = "x-amz-content-sha256";
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";

pub(super) fn not_supported() -> S3Error {
    S3Error::with(
        Code::InvalidRequest,
        "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
    )
}

fn sig_v4a() -> S3Error {
    S3Error::with(
        Code::NotImplemented,
        "Signature Version 4A (AWS4-ECDSA-P256-SHA256) is not implemented. Please use AWS4-HMAC-SHA256.",
    )
}

fn is_sig_v4a(algorithm: &str) -> bool {
    algorithm.starts_with("AWS4-ECDSA-P256-SHA256")
}

/// Names are there once each, and not more than a request could have.
fn plausible(signed_headers: &str) -> bool {
    let names = || signed_headers.split(';');
    names().all(|name| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_graphic())
            && !name.eq_ignore_ascii_case("authorization")
    }) && names().take(SIGNED_HEADERS_MAX + 1).count() <= SIGNED_HEADERS_MAX
        && names().enumerate().all(|(at, name)| {
            let mut before = names().take(at);
            before.all(|other| !other.eq_ignore_ascii_case(name))
        })
}

fn header<'a>(parts: &'a Parts, name: &str) -> Result<Option<&'a str>, S3Error> {
    parts
        .headers
        .get(name)
        .map(|value| {
            value.to_str().map_err(|_| {
                S3Error::with(
                    Code::InvalidArgument,
                    format!("The header {name} has characters that are not ASCII."),
                )
            })
        })
        .transpose()
}

impl<'a> Claim<'a> {
    /// From the `Authorization` header. `Ok(None)`: there is none.
    pub fn from_header(parts: &'a Parts) -> Result<Option<Self>, S3Error> {
        let mut all = parts.headers.get_all(AUTHORIZATION).iter();
        let Some(authorization) = all.next() else {
            return Ok(None);
        };
        let malformed = |what: &str| Place::Header.malformed(what);
        if all.next().is_some() {
            return Err(malformed("there is more than one."));
        }
        let authorization = authorization
            .to_str()
            .map_err(|_| malformed("it has characters that are not ASCII."))?
            .trim_ascii();
        if authorization.is_empty() {
            return Err(Code::AccessDenied.into());
        }
        let (algorithm, components) = authorization
            .split_once([' ', '\t'])
            .unwrap_or((authorization, ""));
        if algorithm != ALGORITHM {
            return Err(if is_sig_v4a(algorithm) {
                sig_v4a()
            } else if algorithm.starts_with("AWS") {
                not_supported()
            } else {
                // The value may be a secret of another kind: it is not repeated.
                S3Error::with(Code::InvalidArgument, "Unsupported Authorization Type")
                    .detail("ArgumentName", "Authorization")
            });
        }

        let (mut credential, mut signed_headers, mut signature) = (None, None, None);
        for component in components.split(',') {
            let component = component.trim_ascii();
            let (name, value) = component.split_once('=').unwrap_or((component, ""));
            let place = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed_headers,
                "Signature" => &mut signature,
                _ => {
                    return Err(malformed(&format!(
                        "the authorization component \"{component}\" is malformed."
                    )));
                }
            };
            if value.is_empty() || place.replace(value).is_some() {
                return Err(malformed(&format!(
                    "the authorization component \"{component}\" is malformed."
                )));
            }
        }
        let missing = |name| {
            malformed(&format!(
                "the authorization header requires three components: Credential, SignedHeaders, and \
                 Signature; {name} is missing."
            ))
        };
        let credential = credential.ok_or_else(|| missing("Credential"))?;
        let signed_headers = signed_headers.ok_or_else(|| missing("SignedHeaders"))?;
        let signature = signature.ok_or_else(|| missing("Signature"))?;
        let credential = Credential::parse(credential).ok_or_else(|| {
            malformed(
                "the Credential is mal-formed; expecting \
                 \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\".",
            )
        })?;
        if !plausible(signed_headers) {
            return Err(malformed("the component SignedHeaders is malformed."));
        }
        let payload_hash = header(parts, CONTENT_SHA256)?.ok_or_else(|| {
            S3Error::with(
                Code::InvalidRequest,
                "Missing required header for this request: x-amz-content-sha256",
            )
        })?;
        Ok(Some(Self {
            place: Place::Header,
            credential,
            timestamp: header_timestamp(parts)?,
            expires_secs: None,
            signed_headers,
            signature,
            payload_hash,
        }))
    }
}

/// `x-amz-date`, else `Date`.
fn header_timestamp(parts: &Parts) -> Result<Timestamp, S3Error> {
    let timestamp = match header(parts, "x-amz-date")? {
        Some(date) => Timestamp::parse(date.as_bytes()),
        None => header(parts, DATE.as_str())?.and_then(|date| {
            let secs = || super::sig_v2::parse_date(date);
            Timestamp::parse(date.as_bytes()).or_else(|| Timestamp::at(secs()?))
        }),
    };
    timestamp.ok_or_else(|| {
        S3Error::with(
            Code::AccessDenied,
            "AWS authentication requires a valid Date or x-amz-date header",
        )
    })
}

/// The parameters of a presigned request, decoded.
#[derive(Debug)]
pub struct QueryClaim<'a> {
    credential: Cow<'a, str>,
    timestamp: Timestamp,
    expires_secs: u32,
    signed_headers: Cow<'a, str>,
    signature: Cow<'a, str>,
    payload_hash: Cow<'a, str>,
}

fn query_error(message: impl Into<Cow<'static, str>>) -> S3Error {
    S3Error::with(Code::AuthorizationQueryParametersError, message)
}

/// The value of a parameter. Errors repeat it in XML, where control characters have no place.
fn decode(value: &str) -> Result<Cow<'_, str>, S3Error> {
    percent_decode_str(value)
        .decode_utf8()
        .ok()
        .filter(|value| !value.contains(char::is_control))
        .ok_or_else(|| {
            query_error(
                "The authorization query parameters must be UTF-8 without control characters.",
            )
        })
}

impl<'a> QueryClaim<'a> {
    /// From the query. `Ok(None)`: it holds no signature.
    pub fn find(parts: &'a Parts) -> Result<Option<Self>, S3Error> {
        let Some(query) = parts.uri.query() else {
            return Ok(None);
        };
        let [
            mut algorithm,
            mut credential,
            mut date,
            mut expires,
            mut signed_headers,
            mut signature,
            mut content_sha256,
        ] = [None; 7];
        let (mut v2_key, mut v2_signature) = (false, false);
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let place = match name {
                "AWSAccessKeyId" => {
                    v2_key = true;
                    continue;
                }
                "Signature" => {
                    v2_signature = true;
                    continue;
                }
                _ => match name.get(..6) {
                    Some(prefix) if prefix.eq_ignore_ascii_case("X-Amz-") => match &name[6..] {
                        name if name.eq_ignore_ascii_case("Algorithm") => &mut algorithm,
                        name if name.eq_ignore_ascii_case("Credential") => &mut credential,
                        name if name.eq_ignore_ascii_case("Date") => &mut date,
                        name if name.eq_ignore_ascii_case("Expires") => &mut expires,
                        name if name.eq_ignore_ascii_case("SignedHeaders") => &mut signed_headers,
                        name if name.eq_ignore_ascii_case("Signature") => &mut signature,
                        name if name.eq_ignore_ascii_case("Content-Sha256") => &mut content_sha256,
                        _ => continue,
                    },
                    _ => continue,
                },
            };
            if place.replace(value).is_some() {
                return Err(query_error(format!(
                    "The parameter {name} is there more than once."
                )));
            }
        }
        if algorithm.is_none() && credential.is_none() && signature.is_none() {
            return if v2_key && v2_signature {
                Err(not_supported())
            } else {
                Ok(None)
            };
        }
        let (
            Some(algorithm),
            Some(credential),
            Some(date),
            Some(expires),
            Some(signed_headers),
            Some(signature),
        ) = (
            algorithm,
            credential,
            date,
            expires,
            signed_headers,
            signature,
        )
        else {
            return Err(query_error(
                "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, \
                 X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.",
            ));
        };
        let algorithm = decode(algorithm)?;
        if is_sig_v4a(&algorithm) {
            return Err(sig_v4a());
        }
        if algorithm != ALGORITHM {
            return Err(query_error(
                "X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\"",
            ));
        }
        let timestamp = Timestamp::parse(decode(date)?.as_bytes()).ok_or_else(|| {
            query_error("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"")
        })?;
        let content_sha256 = content_sha256.map(decode).transpose()?;
        let payload_hash = match content_sha256 {
            Some(value) => value,
            None => Cow::Borrowed(header(parts, CONTENT_SHA256)?.unwrap_or(UNSIGNED_PAYLOAD)),
        };
        Ok(Some(Self {
            credential: decode(credential)?,
            timestamp,
            expires_secs: expires_secs(&decode(expires)?)?,
            signed_headers: decode(signed_headers)?,
            signature: decode(signature)?,
            payload_hash,
        }))
    }

    pub fn claim(&self) -> Result<Claim<'_>, S3Error> {
        let credential = Credential::parse(&self.credential).ok_or_else(|| {
            Place::Query.malformed(
                "the Credential is mal-formed; expecting \
                 \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\".",
            )
        })?;
        if !plausible(&self.signed_headers) {
            return Err(query_error("X-Amz-SignedHeaders is malformed."));
        }
        Ok(Claim {
            place: Place::Query,
            credential,
            timestamp: self.timestamp,
            expires_secs: Some(self.expires_secs),
            signed_headers: &self.signed_headers,
            signature: &self.signature,
            payload_hash: &self.payload_hash,
        })
    }
}

fn expires_secs(text: &str) -> Result<u32, S3Error> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(query_error("X-Amz-Expires should be a number"));
    }
    let out_of_range = |message: &'static str| S3Error::with(Code::AccessDenied, message);
    if text.starts_with('-') {
        return Err(out_of_range("X-Amz-Expires must be non-negative"));
    }
    match text.parse() {
        Ok(0) => Err(out_of_range("X-Amz-Expires must be at least 1 second")),
        Ok(secs @ 1..=EXPIRES_SECS_MAX) => Ok(secs),
        Ok(_) | Err(_) => Err(out_of_range(
            "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be \
             less than 604800 seconds",
        )),
    }
}
