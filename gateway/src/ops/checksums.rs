//! Checksums in requests and responses (user guide, "Checking object integrity in Amazon S3").

use holdfast_storage_node::metadata::{ChecksumAlgorithm, ChecksumKind, ObjectChecksum};
use http::{HeaderMap, HeaderName};

use super::failure::invalid_request;
use super::response::set;
use crate::checksum;
use crate::error::S3Error;
use crate::xml::XmlWriter;

/// What is computed when a client asks for nothing.
pub const DEFAULT: ChecksumAlgorithm = ChecksumAlgorithm::Crc64Nvme;

/// Shows a checksum in headers; `parts` is how many a composite one is of.
pub fn show(checksum: &ObjectChecksum, parts: Option<u16>, headers: &mut HeaderMap) {
    let name = HeaderName::from_static(checksum::header(checksum.algorithm));
    set(headers, name, checksum::format(checksum, parts));
    let kind = checksum::kind_name(checksum.kind);
    set(
        headers,
        HeaderName::from_static("x-amz-checksum-type"),
        kind,
    );
}

/// Shows a checksum in XML: its value, and its type if `with_kind`.
pub fn write(xml: &mut XmlWriter, checksum: &ObjectChecksum, parts: Option<u16>, with_kind: bool) {
    let name = checksum::element(checksum.algorithm);
    xml.text(name, &checksum::format(checksum, parts));
    if with_kind {
        xml.text("ChecksumType", checksum::kind_name(checksum.kind));
    }
}

/// Whether a GET or HEAD wants to see checksums.
pub fn wanted(headers: &HeaderMap) -> bool {
    headers
        .get("x-amz-checksum-mode")
        .is_some_and(|mode| mode.as_bytes().eq_ignore_ascii_case(b"ENABLED"))
}

/// A part came with a checksum of another algorithm than the whole has.
pub fn mismatch(expected: ChecksumAlgorithm, actual: Option<ChecksumAlgorithm>) -> S3Error {
    let lower = |algorithm| checksum::name(algorithm).to_ascii_lowercase();
    invalid_request(format!(
        "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
        lower(expected),
        actual.map_or("null".to_owned(), lower),
    ))
}

/// The algorithm that `x-amz-checksum-algorithm` names, for a copy or an upload.
pub fn algorithm(headers: &HeaderMap) -> Result<Option<ChecksumAlgorithm>, S3Error> {
    let Some(value) = headers.get("x-amz-checksum-algorithm") else {
        return Ok(None);
    };
    let named = value.to_str().ok().and_then(checksum::by_name);
    named.map(Some).ok_or_else(|| {
        invalid_request("Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]")
    })
}

/// The kind that `x-amz-checksum-type` names.
pub fn kind(headers: &HeaderMap) -> Result<Option<ChecksumKind>, S3Error> {
    let Some(value) = headers.get("x-amz-checksum-type") else {
        return Ok(None);
    };
    let named = value.to_str().ok().and_then(checksum::kind_by_name);
    named
        .map(Some)
        .ok_or_else(|| invalid_request("Value for x-amz-checksum-type header is invalid."))
}

/// Algorithm and kind of a new upload: which go together, and what is meant when one is not said.
pub fn of_upload(
    headers: &HeaderMap,
) -> Result<Option<(ChecksumAlgorithm, ChecksumKind)>, S3Error> {
    let algorithm = algorithm(headers)?;
    let kind = kind(headers)?;
    let Some(algorithm) = algorithm else {
        return match kind {
            None => Ok(None),
            Some(_) => Err(invalid_request(
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.",
            )),
        };
    };
    use ChecksumAlgorithm::{Crc32, Crc32c, Crc64Nvme, Sha1, Sha256};
    let kind = match (algorithm, kind) {
        (Crc64Nvme, None) => ChecksumKind::FullObject,
        (_, None) => ChecksumKind::Composite,
        (_, Some(kind)) => kind,
    };
    match (algorithm, kind) {
        (Crc64Nvme, ChecksumKind::Composite) | (Sha1 | Sha256, ChecksumKind::FullObject) => {
            Err(invalid_request(format!(
                "The {} checksum type cannot be used with the {} checksum algorithm.",
                checksum::kind_name(kind),
                checksum::name(algorithm).to_ascii_lowercase(),
            )))
        }
        (Crc32 | Crc32c, _) | (Crc64Nvme, _) | (Sha1 | Sha256, _) => Ok(Some((algorithm, kind))),
    }
}
