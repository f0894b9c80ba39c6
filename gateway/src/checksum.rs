//! The checksums of S3 (user guide, "Checking object integrity in Amazon S3").

use holdfast_storage_node::metadata::{ChecksumAlgorithm, ChecksumKind, ObjectChecksum};
use http::HeaderMap;

use crate::error::S3Error;

/// All of them.
pub const ALGORITHMS: [ChecksumAlgorithm; 5] = [
    ChecksumAlgorithm::Crc32,
    ChecksumAlgorithm::Crc32c,
    ChecksumAlgorithm::Crc64Nvme,
    ChecksumAlgorithm::Sha1,
    ChecksumAlgorithm::Sha256,
];

/// `CRC32`, as in `x-amz-checksum-algorithm` and in XML.
pub fn name(algorithm: ChecksumAlgorithm) -> &'static str {
    let _ = algorithm;
    todo!()
}

/// The reverse of `name`, in any case. `None`: unknown.
pub fn by_name(name: &str) -> Option<ChecksumAlgorithm> {
    let _ = name;
    todo!()
}

/// `x-amz-checksum-crc32`.
pub fn header(algorithm: ChecksumAlgorithm) -> &'static str {
    let _ = algorithm;
    todo!()
}

/// The element of the value in XML: `ChecksumCRC32`.
pub fn element(algorithm: ChecksumAlgorithm) -> &'static str {
    let _ = algorithm;
    todo!()
}

/// Bytes of a value.
pub fn value_len(algorithm: ChecksumAlgorithm) -> usize {
    let _ = algorithm;
    todo!()
}

/// `FULL_OBJECT` or `COMPOSITE`, as in `x-amz-checksum-type` and in XML.
pub fn kind_name(kind: ChecksumKind) -> &'static str {
    let _ = kind;
    todo!()
}

/// The reverse of `kind_name`.
pub fn kind_by_name(name: &str) -> Option<ChecksumKind> {
    let _ = name;
    todo!()
}

/// A value from base64. `None`: not base64, or not of the right length.
pub fn parse(algorithm: ChecksumAlgorithm, base64: &str) -> Option<Vec<u8>> {
    let _ = (algorithm, base64);
    todo!()
}

/// The value as headers and XML show it: base64, and `-parts` after a composite one.
pub fn format(checksum: &ObjectChecksum, parts: Option<u16>) -> String {
    let _ = (checksum, parts);
    todo!()
}

/// The one `x-amz-checksum-*` value among the headers of a request. Errors: more than one, an algorithm that
/// is not supported, a value that is not valid.
pub fn from_headers(headers: &HeaderMap) -> Result<Option<(ChecksumAlgorithm, Vec<u8>)>, S3Error> {
    let _ = headers;
    todo!()
}

/// Computes one checksum.
#[derive(Clone, Debug)]
pub struct Hasher {}

impl Hasher {
    pub fn new(algorithm: ChecksumAlgorithm) -> Self {
        let _ = algorithm;
        todo!()
    }

    pub fn update(&mut self, bytes: &[u8]) {
        let _ = bytes;
        todo!()
    }

    /// The value, big endian.
    pub fn finish(self) -> Vec<u8> {
        todo!()
    }
}

/// The checksum of parts' checksums, all of `algorithm`, in order.
pub fn composite<'a>(
    algorithm: ChecksumAlgorithm,
    parts: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<u8> {
    let _ = (algorithm, parts.into_iter());
    todo!()
}

/// The checksum of the whole from the checksums and lengths (bytes) of its parts, in order. `None`:
/// `algorithm` cannot be combined (SHA).
pub fn combine_full_object<'a>(
    algorithm: ChecksumAlgorithm,
    parts: impl IntoIterator<Item = (&'a [u8], u64)>,
) -> Option<Vec<u8>> {
    let _ = (algorithm, parts.into_iter());
    todo!()
}
