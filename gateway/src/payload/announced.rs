//! What the headers of a request say of its body.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_storage_node::metadata::ChecksumAlgorithm;
use http::header::{CONTENT_ENCODING, HeaderMap};

use super::ChecksumHeader;
use crate::checksum;
use crate::error::{Code, S3Error};

/// The coding that is only for the transfer, in `Content-Encoding`.
const AWS_CHUNKED: &str = "aws-chunked";

/// The checksum that a client announces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Announced {
    Value(ChecksumAlgorithm, Vec<u8>),
    /// The value follows the body.
    Trailer(ChecksumAlgorithm),
}

impl Announced {
    pub fn algorithm(&self) -> ChecksumAlgorithm {
        match self {
            Announced::Value(algorithm, _) | Announced::Trailer(algorithm) => *algorithm,
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, S3Error> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    match (value.to_str(), values.next()) {
        (Ok(text), None) => Ok(Some(text.trim_ascii())),
        _ => Err(S3Error::with(
            Code::InvalidRequest,
            format!("Value for {name} header is invalid."),
        )),
    }
}

/// The checksum of the body, in a header or (`trailers`: the framing has room for one) in the trailer, and
/// whether `x-amz-sdk-checksum-algorithm` fits it.
pub(super) fn checksum(
    headers: &HeaderMap,
    about: ChecksumHeader,
    trailers: bool,
) -> Result<Option<Announced>, S3Error> {
    let in_header = match about {
        ChecksumHeader::Body => checksum::from_headers(headers)?,
        ChecksumHeader::Object => None,
    };
    let in_trailer = trailer(headers, trailers)?;
    let announced = match (in_header, in_trailer) {
        (Some(_), Some(_)) => return Err(checksum::too_many()),
        (Some((algorithm, value)), None) => Some(Announced::Value(algorithm, value)),
        (None, Some(algorithm)) => Some(Announced::Trailer(algorithm)),
        (None, None) => None,
    };
    if about == ChecksumHeader::Body
        && let Some(name) = text(headers, "x-amz-sdk-checksum-algorithm")?
    {
        let algorithm = checksum::named(name).map_err(checksum::Unknown::error)?;
        match &announced {
            None => {
                return Err(S3Error::with(
                    Code::InvalidRequest,
                    "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or \
                     x-amz-trailer headers were found.",
                ));
            }
            Some(announced) if announced.algorithm() != algorithm => {
                return Err(S3Error::with(
                    Code::InvalidRequest,
                    "Value for x-amz-sdk-checksum-algorithm header is invalid.",
                ));
            }
            Some(_) => {}
        }
    }
    Ok(announced)
}

/// `x-amz-trailer`: at most one name, of a checksum.
fn trailer(headers: &HeaderMap, trailers: bool) -> Result<Option<ChecksumAlgorithm>, S3Error> {
    let Some(names) = text(headers, "x-amz-trailer")? else {
        return Ok(None);
    };
    if !trailers {
        return Err(S3Error::with(
            Code::InvalidRequest,
            "x-amz-trailer needs a trailer: send x-amz-content-sha256 as STREAMING-UNSIGNED-PAYLOAD-TRAILER or \
             STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER.",
        ));
    }
    let mut found = None;
    for name in names.split(',').map(str::trim_ascii) {
        let algorithm = checksum::by_header(&name.to_ascii_lowercase())?.ok_or_else(|| {
            S3Error::with(
                Code::InvalidRequest,
                "The value specified in the x-amz-trailer header is not supported",
            )
        })?;
        if found.replace(algorithm).is_some() {
            return Err(checksum::too_many());
        }
    }
    Ok(found)
}

/// `Content-MD5`.
pub(super) fn content_md5(headers: &HeaderMap) -> Result<Option<[u8; 16]>, S3Error> {
    let Some(value) = headers.get("content-md5") else {
        return Ok(None);
    };
    let md5 = STANDARD
        .decode(value.as_bytes())
        .ok()
        .and_then(|md5| md5.try_into().ok());
    match md5 {
        Some(md5) => Ok(Some(md5)),
        None => Err(S3Error::with(
            Code::InvalidDigest,
            "The Content-MD5 you specified was invalid.",
        )
        .detail("Content-MD5", String::from_utf8_lossy(value.as_bytes()))),
    }
}

/// `x-amz-decoded-content-length`, which a chunked body must have.
pub(super) fn decoded_len(headers: &HeaderMap) -> Result<u64, S3Error> {
    const NAME: &str = "x-amz-decoded-content-length";
    let value = text(headers, NAME)?.ok_or_else(|| {
        S3Error::with(
            Code::MissingContentLength,
            "You must provide the x-amz-decoded-content-length HTTP header.",
        )
    })?;
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse() {
        Ok(len) if digits => Ok(len),
        _ => Err(S3Error::with(
            Code::InvalidArgument,
            "The decoded length must be a number of bytes.",
        )
        .detail("ArgumentName", NAME)
        .detail("ArgumentValue", value)),
    }
}

/// Whether `Content-Encoding` says that the body is chunked.
pub(super) fn says_aws_chunked(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(AWS_CHUNKED))
}

/// The `Content-Encoding` to store: without `aws-chunked`, `None` if nothing else is left. Errors: not ASCII.
pub fn stored_content_encoding(headers: &HeaderMap) -> Result<Option<String>, S3Error> {
    let mut stored: Option<String> = None;
    for value in headers.get_all(CONTENT_ENCODING) {
        let value = value.to_str().map_err(|_| {
            S3Error::with(
                Code::InvalidArgument,
                "The header Content-Encoding has characters that are not ASCII.",
            )
        })?;
        for coding in value.split(',').map(str::trim_ascii) {
            if coding.is_empty() || coding.eq_ignore_ascii_case(AWS_CHUNKED) {
                continue;
            }
            let stored = stored.get_or_insert_default();
            if !stored.is_empty() {
                stored.push_str(", ");
            }
            stored.push_str(coding);
        }
    }
    Ok(stored)
}
