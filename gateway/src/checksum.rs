//! The checksums of S3 (user guide, "Checking object integrity in Amazon S3").

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;
use holdfast_storage_node::metadata::{ChecksumAlgorithm, ChecksumKind, ObjectChecksum};
use http::HeaderMap;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::error::{Code, S3Error};

/// All of them.
pub const ALGORITHMS: [ChecksumAlgorithm; 5] = [
    ChecksumAlgorithm::Crc32,
    ChecksumAlgorithm::Crc32c,
    ChecksumAlgorithm::Crc64Nvme,
    ChecksumAlgorithm::Sha1,
    ChecksumAlgorithm::Sha256,
];

const HEADER_PREFIX: &str = "x-amz-checksum-";

/// Algorithms that S3 knows and this store does not compute.
const NOT_IMPLEMENTED: [&str; 5] = ["sha512", "md5", "xxhash64", "xxhash3", "xxhash128"];

/// `CRC32`, as in `x-amz-checksum-algorithm` and in XML.
pub fn name(algorithm: ChecksumAlgorithm) -> &'static str {
    match algorithm {
        ChecksumAlgorithm::Crc32 => "CRC32",
        ChecksumAlgorithm::Crc32c => "CRC32C",
        ChecksumAlgorithm::Crc64Nvme => "CRC64NVME",
        ChecksumAlgorithm::Sha1 => "SHA1",
        ChecksumAlgorithm::Sha256 => "SHA256",
    }
}

/// The reverse of `name`, in any case. `None`: unknown.
pub fn by_name(text: &str) -> Option<ChecksumAlgorithm> {
    ALGORITHMS
        .into_iter()
        .find(|algorithm| name(*algorithm).eq_ignore_ascii_case(text))
}

/// `x-amz-checksum-crc32`.
pub fn header(algorithm: ChecksumAlgorithm) -> &'static str {
    match algorithm {
        ChecksumAlgorithm::Crc32 => "x-amz-checksum-crc32",
        ChecksumAlgorithm::Crc32c => "x-amz-checksum-crc32c",
        ChecksumAlgorithm::Crc64Nvme => "x-amz-checksum-crc64nvme",
        ChecksumAlgorithm::Sha1 => "x-amz-checksum-sha1",
        ChecksumAlgorithm::Sha256 => "x-amz-checksum-sha256",
    }
}

/// The element of the value in XML: `ChecksumCRC32`.
pub fn element(algorithm: ChecksumAlgorithm) -> &'static str {
    match algorithm {
        ChecksumAlgorithm::Crc32 => "ChecksumCRC32",
        ChecksumAlgorithm::Crc32c => "ChecksumCRC32C",
        ChecksumAlgorithm::Crc64Nvme => "ChecksumCRC64NVME",
        ChecksumAlgorithm::Sha1 => "ChecksumSHA1",
        ChecksumAlgorithm::Sha256 => "ChecksumSHA256",
    }
}

/// Bytes of a value.
pub fn value_len(algorithm: ChecksumAlgorithm) -> usize {
    match algorithm {
        ChecksumAlgorithm::Crc32 | ChecksumAlgorithm::Crc32c => 4,
        ChecksumAlgorithm::Crc64Nvme => 8,
        ChecksumAlgorithm::Sha1 => 20,
        ChecksumAlgorithm::Sha256 => 32,
    }
}

/// `FULL_OBJECT` or `COMPOSITE`, as in `x-amz-checksum-type` and in XML.
pub fn kind_name(kind: ChecksumKind) -> &'static str {
    match kind {
        ChecksumKind::FullObject => "FULL_OBJECT",
        ChecksumKind::Composite => "COMPOSITE",
    }
}

/// The reverse of `kind_name`, in any case.
pub fn kind_by_name(text: &str) -> Option<ChecksumKind> {
    [ChecksumKind::FullObject, ChecksumKind::Composite]
        .into_iter()
        .find(|kind| kind_name(*kind).eq_ignore_ascii_case(text))
}

/// A value from base64. `None`: not base64, or not of the right length.
pub fn parse(algorithm: ChecksumAlgorithm, base64: &str) -> Option<Vec<u8>> {
    let value = STANDARD.decode(base64).ok()?;
    (value.len() == value_len(algorithm)).then_some(value)
}

/// The value as headers and XML show it: base64, and `-parts` after a composite one.
pub fn format(checksum: &ObjectChecksum, parts: Option<u16>) -> String {
    let mut text = STANDARD.encode(&checksum.value);
    if let (ChecksumKind::Composite, Some(parts)) = (checksum.kind, parts) {
        text.push('-');
        text.push_str(&parts.to_string());
    }
    text
}

/// What follows `x-amz-checksum-` in the name of a header or trailer.
enum Suffix {
    Algorithm(ChecksumAlgorithm),
    /// `-mode`, `-type`, `-algorithm`: not a value.
    NotAValue,
}

fn suffix(suffix: &str) -> Result<Suffix, S3Error> {
    match suffix {
        "mode" | "type" | "algorithm" => Ok(Suffix::NotAValue),
        _ => named(suffix)
            .map(Suffix::Algorithm)
            .map_err(|unknown| match unknown {
                Unknown::NotImplemented => unknown.error(),
                Unknown::Invalid => S3Error::with(
                    Code::InvalidRequest,
                    "The algorithm type you specified in x-amz-checksum- header is invalid.",
                ),
            }),
    }
}

/// Why a name is not that of an algorithm here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// S3 knows it.
    NotImplemented,
    Invalid,
}

impl Unknown {
    /// The error for an `x-amz-checksum-algorithm` or `x-amz-sdk-checksum-algorithm` header of that name.
    pub fn error(self) -> S3Error {
        match self {
            Unknown::NotImplemented => S3Error::with(
                Code::NotImplemented,
                "This checksum algorithm is not implemented; use CRC32, CRC32C, CRC64NVME, SHA1 or SHA256.",
            ),
            Unknown::Invalid => S3Error::with(
                Code::InvalidRequest,
                "Checksum algorithm provided is unsupported. Please try again with any of the valid types: \
                 [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]",
            ),
        }
    }
}

/// Like `by_name`, and tells what S3 knows from what nobody knows.
pub fn named(text: &str) -> Result<ChecksumAlgorithm, Unknown> {
    by_name(text).ok_or_else(|| {
        if NOT_IMPLEMENTED
            .iter()
            .any(|known| known.eq_ignore_ascii_case(text))
        {
            Unknown::NotImplemented
        } else {
            Unknown::Invalid
        }
    })
}

/// The algorithm of a header or trailer `x-amz-checksum-*`. `None`: not such a name, or not one of a value.
/// Errors: an algorithm that is not supported.
pub fn by_header(name: &str) -> Result<Option<ChecksumAlgorithm>, S3Error> {
    match name.strip_prefix(HEADER_PREFIX).map(suffix).transpose()? {
        Some(Suffix::Algorithm(algorithm)) => Ok(Some(algorithm)),
        Some(Suffix::NotAValue) | None => Ok(None),
    }
}

/// The one `x-amz-checksum-*` value among the headers of a request. Errors: more than one, an algorithm that
/// is not supported, a value that is not valid.
pub fn from_headers(headers: &HeaderMap) -> Result<Option<(ChecksumAlgorithm, Vec<u8>)>, S3Error> {
    let mut found = None;
    for (name, value) in headers {
        let Some(algorithm) = by_header(name.as_str())? else {
            continue;
        };
        if found.replace((algorithm, value)).is_some() {
            return Err(too_many());
        }
    }
    let Some((algorithm, value)) = found else {
        return Ok(None);
    };
    let value = value.to_str().ok().and_then(|text| parse(algorithm, text));
    match value {
        Some(value) => Ok(Some((algorithm, value))),
        // No bytes have it (API reference, "List of error codes", BadDigest).
        None => Err(S3Error::with(
            Code::BadDigest,
            format!("Value for {} header is invalid.", header(algorithm)),
        )),
    }
}

/// A request may carry one checksum, as header or as trailer.
pub(crate) fn too_many() -> S3Error {
    S3Error::with(
        Code::InvalidRequest,
        "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
    )
}

/// Computes one checksum.
#[derive(Clone, Debug)]
pub struct Hasher(Inner);

#[derive(Clone, Debug)]
enum Inner {
    /// A CRC and the bytes of its value.
    Crc(crc_fast::Digest, usize),
    Sha1(Sha1),
    Sha256(Sha256),
}

fn crc(algorithm: ChecksumAlgorithm) -> Option<CrcAlgorithm> {
    match algorithm {
        ChecksumAlgorithm::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
        ChecksumAlgorithm::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
        ChecksumAlgorithm::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
        ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256 => None,
    }
}

fn crc_value(crc: u64, len: usize) -> Vec<u8> {
    crc.to_be_bytes()[8 - len..].to_vec()
}

impl Hasher {
    pub fn new(algorithm: ChecksumAlgorithm) -> Self {
        Self(match (crc(algorithm), algorithm) {
            (Some(crc), _) => Inner::Crc(crc_fast::Digest::new(crc), value_len(algorithm)),
            (None, ChecksumAlgorithm::Sha1) => Inner::Sha1(Sha1::new()),
            (None, _) => Inner::Sha256(Sha256::new()),
        })
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Inner::Crc(digest, _) => digest.update(bytes),
            Inner::Sha1(digest) => digest.update(bytes),
            Inner::Sha256(digest) => digest.update(bytes),
        }
    }

    /// The value, big endian.
    pub fn finish(self) -> Vec<u8> {
        match self.0 {
            Inner::Crc(digest, len) => crc_value(digest.finalize(), len),
            Inner::Sha1(digest) => digest.finalize().to_vec(),
            Inner::Sha256(digest) => digest.finalize().to_vec(),
        }
    }
}

/// The checksum of parts' checksums, all of `algorithm`, in order.
pub fn composite<'a>(
    algorithm: ChecksumAlgorithm,
    parts: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<u8> {
    let mut hasher = Hasher::new(algorithm);
    for part in parts {
        hasher.update(part);
    }
    hasher.finish()
}

/// The checksum of the whole from the checksums and lengths (bytes) of its parts, in order. `None`:
/// `algorithm` cannot be combined (SHA), or a value is not of its length.
pub fn combine_full_object<'a>(
    algorithm: ChecksumAlgorithm,
    parts: impl IntoIterator<Item = (&'a [u8], u64)>,
) -> Option<Vec<u8>> {
    let field = Field::of(algorithm)?;
    let len = value_len(algorithm);
    // The CRC of nothing is 0 with all three.
    let mut whole = 0;
    // Parts are of one length as a rule.
    let mut shift = (0, field.one());
    for (value, part_len) in parts {
        let mut part = [0; 8];
        part.get_mut(8 - len..)?
            .copy_from_slice(value.get(..len).filter(|_| value.len() == len)?);
        if shift.0 != part_len {
            shift = (part_len, field.shift(part_len));
        }
        whole = field.multiply(shift.1, whole) ^ u64::from_be_bytes(part);
    }
    Some(crc_value(whole, len))
}

/// Polynomials over GF(2) modulo that of a CRC, bits reflected: the highest bit is the constant term. The CRC of
/// `a` followed by `b` is crc(a) x^(8 len(b)) + crc(b) (as in zlib's `crc32_combine`; complementing before and
/// after, which all three CRCs do, cancels out).
struct Field {
    polynomial: u64,
    bits: u32,
}

impl Field {
    fn of(algorithm: ChecksumAlgorithm) -> Option<Self> {
        let (polynomial, bits) = match algorithm {
            ChecksumAlgorithm::Crc32 => (0xEDB8_8320, 32),
            ChecksumAlgorithm::Crc32c => (0x82F6_3B78, 32),
            ChecksumAlgorithm::Crc64Nvme => (0x9A6C_9329_AC4B_C9B5, 64),
            ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256 => return None,
        };
        Some(Self { polynomial, bits })
    }

    fn one(&self) -> u64 {
        1 << (self.bits - 1)
    }

    fn multiply(&self, a: u64, mut b: u64) -> u64 {
        let mut product = 0;
        for bit in (0..self.bits).rev() {
            if a >> bit & 1 == 1 {
                product ^= b;
            }
            b = if b & 1 == 1 {
                b >> 1 ^ self.polynomial
            } else {
                b >> 1
            };
        }
        product
    }

    /// x^(8 `bytes`).
    fn shift(&self, mut bytes: u64) -> u64 {
        let mut shift = self.one();
        let mut power = self.one() >> 8;
        while bytes > 0 {
            if bytes & 1 == 1 {
                shift = self.multiply(shift, power);
            }
            power = self.multiply(power, power);
            bytes >>= 1;
        }
        shift
    }
}

#[cfg(test)]
mod tests;
