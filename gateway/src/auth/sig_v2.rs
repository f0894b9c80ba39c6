//! Signature Version 2, in the header or in the query (S3 developer guide, "Signing and Authenticating REST Requests
//! (AWS Signature Version 2)"). It does not cover the body.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use http::header::{AUTHORIZATION, CONTENT_TYPE, DATE};
use http::request::Parts;
use percent_encoding::percent_decode_str;
use sha1::Sha1;
use subtle::ConstantTimeEq;

use crate::error::{Code, S3Error};
use crate::router::virtual_bucket;

/// What the `Authorization` header begins with.
const SCHEME: &str = "AWS ";

/// Parameters that are part of the resource that is signed; sorted.
const SIGNED_PARAMETERS: &[&str] = &[
    "accelerate",
    "acl",
    "analytics",
    "cors",
    "defaultObjectAcl",
    "delete",
    "inventory",
    "lifecycle",
    "location",
    "logging",
    "metrics",
    "notification",
    "object-lock",
    "partNumber",
    "policy",
    "replication",
    "requestPayment",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "restore",
    "select",
    "select-type",
    "storageClass",
    "tagging",
    "torrent",
    "uploadId",
    "uploads",
    "versionId",
    "versioning",
    "versions",
    "website",
];

/// When a signature was made, or until when it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// Seconds since 1970; the text of the `Date` line.
    Signed(i64, String),
    /// Seconds since 1970, and as it was written.
    Expires(i64, String),
}

/// A signature and what it says of itself; nothing of it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub access_key: String,
    /// Base64.
    pub signature: String,
    pub when: When,
}

fn denied(message: &'static str) -> S3Error {
    S3Error::with(Code::AccessDenied, message)
}

impl Claim {
    /// From the `Authorization` header. `Ok(None)`: there is none of this version.
    pub fn from_header(parts: &Parts) -> Result<Option<Self>, S3Error> {
        let Some(value) = parts.headers.get(AUTHORIZATION) else {
            return Ok(None);
        };
        let Some(credential) = value.to_str().ok().and_then(|text| {
            let text = text.trim_ascii();
            text.strip_prefix(SCHEME)
        }) else {
            return Ok(None);
        };
        let malformed = || {
            // The value may hold a secret by mistake: it is not repeated.
            S3Error::with(
                Code::InvalidArgument,
                "AWS authorization header is invalid. Expected AwsAccessKeyId:signature",
            )
            .detail("ArgumentName", "Authorization")
        };
        let (access_key, signature) = credential
            .trim_ascii()
            .split_once(':')
            .ok_or_else(malformed)?;
        if access_key.is_empty() || signature.is_empty() {
            return Err(malformed());
        }
        Ok(Some(Self {
            access_key: access_key.to_owned(),
            signature: signature.to_owned(),
            when: signed_at(parts)?,
        }))
    }

    /// From the query. `Ok(None)`: it holds no signature of this version.
    pub fn from_query(parts: &Parts) -> Result<Option<Self>, S3Error> {
        let (mut access_key, mut signature, mut expires) = (None, None, None);
        for (name, value) in parameters(parts) {
            let place = match name {
                "AWSAccessKeyId" => &mut access_key,
                "Signature" => &mut signature,
                "Expires" => &mut expires,
                _ => continue,
            };
            let value = percent_decode_str(value.unwrap_or_default()).decode_utf8();
            let value =
                value.map_err(|_| denied("The authorization query parameters are not UTF-8."))?;
            if value.contains(char::is_control) || place.replace(value.into_owned()).is_some() {
                return Err(denied(
                    "An authorization query parameter is malformed or repeated.",
                ));
            }
        }
        let (access_key, signature, expires) = match (access_key, signature, expires) {
            (None, None, _) => return Ok(None),
            (Some(access_key), Some(signature), Some(expires)) => (access_key, signature, expires),
            _ => {
                return Err(denied(
                    "Query-string authentication requires the Signature, Expires and AWSAccessKeyId parameters",
                ));
            }
        };
        let secs = expires.parse::<i64>().ok().filter(|secs| *secs >= 0);
        let secs = secs.ok_or_else(|| denied("Invalid date (should be seconds since epoch)"))?;
        Ok(Some(Self {
            access_key,
            signature,
            when: When::Expires(secs, expires),
        }))
    }
}

/// `x-amz-date`, else `Date`: only the latter is a line of its own, the former is signed among the other headers.
fn signed_at(parts: &Parts) -> Result<When, S3Error> {
    let wrong = || denied("AWS authentication requires a valid Date or x-amz-date header");
    let (value, line) = match (parts.headers.get("x-amz-date"), parts.headers.get(DATE)) {
        (Some(value), _) => (value, false),
        (None, Some(value)) => (value, true),
        (None, None) => return Err(wrong()),
    };
    let text = value.to_str().map_err(|_| wrong())?.trim_ascii();
    let secs = parse_date(text).ok_or_else(wrong)?;
    let line = if line { text.to_owned() } else { String::new() };
    Ok(When::Signed(secs, line))
}

/// An HTTP date or the basic form of ISO 8601, not before 1970. The day of the week is not looked at.
pub fn parse_date(text: &str) -> Option<i64> {
    if let Some(time) = super::sig_v4::Timestamp::parse(text.as_bytes()) {
        return Some(time.unix_secs()).filter(|secs| *secs >= 0);
    }
    if let Ok(time) = httpdate::parse_http_date(text) {
        let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
        return Some(since.as_secs() as i64);
    }
    // `Tue, 07 Jul 2010 21:53:04 +0000`, whatever day that was.
    let rest = text.split_once(", ").map_or(text, |(_, rest)| rest);
    let mut words = rest.split_ascii_whitespace();
    let day: u8 = words.next()?.parse().ok()?;
    let month = match words.next()? {
        "Jan" => 1,
        "Feb" => 2,
        "Mar" => 3,
        "Apr" => 4,
        "May" => 5,
        "Jun" => 6,
        "Jul" => 7,
        "Aug" => 8,
        "Sep" => 9,
        "Oct" => 10,
        "Nov" => 11,
        "Dec" => 12,
        _ => return None,
    };
    let year: i32 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(str::parse::<u8>);
    let mut next = || clock.next()?.ok();
    let (hour, minute, second) = (next()?, next()?, next()?);
    if !matches!(words.next()?, "GMT" | "UTC" | "+0000" | "-0000") || words.next().is_some() {
        return None;
    }
    let month = time::Month::try_from(month).ok()?;
    let date = time::Date::from_calendar_date(year, month, day).ok()?;
    let time = time::Time::from_hms(hour, minute, second).ok()?;
    let moment = time::PrimitiveDateTime::new(date, time).assume_utc();
    Some(moment.unix_timestamp()).filter(|secs| *secs >= 0)
}

/// Parameters as they were sent; `None`: without `=`.
fn parameters(parts: &Parts) -> impl Iterator<Item = (&str, Option<&str>)> {
    let query = parts.uri.query().unwrap_or_default();
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| match pair.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (pair, None),
    })
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// How the resource is written, of which clients have different notions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// With a slash after the path.
    pub slash: bool,
    /// Parameters that are sent as `name=` are signed as `name`.
    pub bare: bool,
}

/// The string that is signed.
pub fn string_to_sign(parts: &Parts, when: &When, domain: Option<&str>, form: Form) -> Vec<u8> {
    // Clients that presign put headers into the query, and sign them as headers.
    let in_query = matches!(when, When::Expires(..));
    let from_query = |wanted: &str| {
        let mut found = parameters(parts).filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found
            .next()
            .filter(|_| in_query)
            .map(|(_, value)| decoded(value.unwrap_or_default()))
    };
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.push(b'\n');
    for name in ["content-md5", CONTENT_TYPE.as_str()] {
        match parts.headers.get(name) {
            Some(value) => out.extend_from_slice(value.as_bytes().trim_ascii()),
            None => out.extend_from_slice(from_query(name).unwrap_or_default().as_bytes()),
        }
        out.push(b'\n');
    }
    match when {
        When::Signed(_, line) | When::Expires(_, line) => out.extend_from_slice(line.as_bytes()),
    }
    out.push(b'\n');
    write_amz_headers(&mut out, parts, in_query);
    write_resource(&mut out, parts, domain, form);
    out
}

/// `name:value\n` of all `x-amz-*` headers, by name, values joined by commas.
fn write_amz_headers(out: &mut Vec<u8>, parts: &Parts, in_query: bool) {
    let mut headers: Vec<(String, Vec<u8>)> = Vec::new();
    for name in parts
        .headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-amz-"))
    {
        let mut joined = Vec::new();
        for (at, value) in parts.headers.get_all(name).iter().enumerate() {
            if at > 0 {
                joined.push(b',');
            }
            joined.extend_from_slice(value.as_bytes().trim_ascii());
        }
        headers.push((name.as_str().to_owned(), joined));
    }
    if in_query {
        for (name, value) in parameters(parts) {
            let name = decoded(name).to_ascii_lowercase();
            if name.starts_with("x-amz-") && headers.iter().all(|(other, _)| *other != name) {
                let value = decoded(&value.unwrap_or_default().replace('+', " "));
                headers.push((name, value.into_bytes()));
            }
        }
    }
    headers.sort();
    for (name, value) in headers {
        out.extend_from_slice(name.as_bytes());
        out.push(b':');
        out.extend_from_slice(&value);
        out.push(b'\n');
    }
}

/// The forms in which clients may have signed a request: first as it was sent; with a slash after a bucket that has none; with
/// empty parameters bare.
pub fn forms(parts: &Parts, domain: Option<&str>) -> impl Iterator<Item = Form> {
    let path = parts.uri.path();
    let may_slash =
        path.len() > 1 && !path[1..].contains('/') && virtual_bucket(parts, domain).is_none();
    let may_bare = parameters(parts)
        .any(|(name, value)| value == Some("") && SIGNED_PARAMETERS.binary_search(&name).is_ok());
    let all = [(false, false), (true, false), (false, true), (true, true)];
    let forms = all.into_iter().map(|(slash, bare)| Form { slash, bare });
    forms.filter(move |form| (may_slash || !form.slash) && (may_bare || !form.bare))
}

/// The path as it was sent, with the bucket before it if that is in the host, and the parameters that matter.
fn write_resource(out: &mut Vec<u8>, parts: &Parts, domain: Option<&str>, form: Form) {
    if let Some(bucket) = virtual_bucket(parts, domain) {
        out.push(b'/');
        out.extend_from_slice(bucket.as_bytes());
    }
    out.extend_from_slice(parts.uri.path().as_bytes());
    if form.slash {
        out.push(b'/');
    }
    let mut signed: Vec<_> = parameters(parts)
        .filter(|(name, _)| SIGNED_PARAMETERS.binary_search(name).is_ok())
        .collect();
    signed.sort_by_key(|(name, _)| *name);
    for (at, (name, value)) in signed.into_iter().enumerate() {
        out.push(if at == 0 { b'?' } else { b'&' });
        out.extend_from_slice(name.as_bytes());
        if let Some(value) = value.filter(|value| !(form.bare && value.is_empty())) {
            out.push(b'=');
            out.extend_from_slice(decoded(value).as_bytes());
        }
    }
}

/// The signature of `message`, in Base64.
pub fn sign(secret: &str, message: &[u8]) -> String {
    let mut mac =
        Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(message);
    STANDARD.encode(mac.finalize().into_bytes())
}

/// Whether the signature that a client sent is that of `message`, in a time that does not tell how far it is.
pub fn matches(secret: &str, message: &[u8], provided: &str) -> bool {
    sign(secret, message)
        .as_bytes()
        .ct_eq(provided.as_bytes())
        .into()
}
