//! Digests of a body, and whether they are what the client said.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_storage_node::metadata::{ChecksumAlgorithm, ChecksumKind, ObjectChecksum};
use md5::Md5;
use sha2::{Digest, Sha256};

use super::announced::Announced;
use super::{Digests, Finished};
use crate::checksum::{self, Hasher};
use crate::error::{Code, S3Error};

/// What is computed while the body goes by.
pub(super) struct Verifier {
    md5: Option<Md5>,
    expected_md5: Option<[u8; 16]>,
    sha256: Option<Sha256>,
    expected_sha256: Option<[u8; 32]>,
    /// Without a hasher it is the SHA-256 that is computed anyway.
    checksum: Option<(ChecksumAlgorithm, Option<Hasher>)>,
    announced: Option<Announced>,
    /// Whether somebody else computes the checksum, a CRC-64/NVME.
    crc64_left: bool,
    /// What it is to be, once the end has come.
    expected_crc64: Option<Vec<u8>>,
}

impl Verifier {
    /// `want` and what the client announced.
    pub fn new(
        want: Digests,
        expected_md5: Option<[u8; 16]>,
        expected_sha256: Option<[u8; 32]>,
        announced: Option<Announced>,
    ) -> Self {
        let algorithm = announced
            .as_ref()
            .map(Announced::algorithm)
            .or(want.checksum);
        Self {
            md5: (want.md5 || expected_md5.is_some()).then(Md5::new),
            expected_md5,
            sha256: expected_sha256.is_some().then(Sha256::new),
            expected_sha256,
            checksum: algorithm.map(|algorithm| {
                let shared = algorithm == ChecksumAlgorithm::Sha256 && expected_sha256.is_some();
                let hasher = (!shared).then(|| Hasher::new(algorithm));
                (algorithm, hasher)
            }),
            announced,
            crc64_left: false,
            expected_crc64: None,
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        if let Some((_, Some(hasher))) = &mut self.checksum {
            hasher.update(bytes);
        }
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
    }

    /// Computes no MD5, if it would have; somebody else does then, and [`check_md5`](Self::check_md5) is to be called.
    pub fn leave_md5(&mut self) -> bool {
        self.md5.take().is_some()
    }

    /// Whether that MD5 is what the client said.
    pub fn check_md5(&self, computed: [u8; 16]) -> Result<(), S3Error> {
        match self.expected_md5 {
            Some(expected) if expected != computed => Err(S3Error::with(
                Code::BadDigest,
                "The Content-MD5 you specified did not match what we received.",
            )
            .detail("ExpectedDigest", STANDARD.encode(expected))
            .detail("CalculatedDigest", STANDARD.encode(computed))),
            _ => Ok(()),
        }
    }

    /// Computes no checksum, if that would be a CRC-64/NVME; somebody else does then, and
    /// [`check_crc64`](Self::check_crc64) is to be called after the end.
    pub fn leave_crc64(&mut self) -> bool {
        if let Some((ChecksumAlgorithm::Crc64Nvme, hasher)) = &mut self.checksum {
            *hasher = None;
            self.crc64_left = true;
        }
        self.crc64_left
    }

    /// The checksum, if it is what the client said.
    pub fn check_crc64(&self, computed: u64) -> Result<ObjectChecksum, S3Error> {
        let checksum = ObjectChecksum {
            algorithm: ChecksumAlgorithm::Crc64Nvme,
            kind: ChecksumKind::FullObject,
            value: computed.to_be_bytes().to_vec(),
        };
        match &self.expected_crc64 {
            Some(expected) if *expected != checksum.value => Err(bad_checksum(checksum.algorithm)),
            _ => Ok(checksum),
        }
    }

    /// Compares. `trailer` is the value of the announced trailer.
    pub fn finish(&mut self, len: u64, trailer: Option<&str>) -> Result<Finished, S3Error> {
        let sha256 = self
            .sha256
            .take()
            .map(|sha256| <[u8; 32]>::from(sha256.finalize()));
        if let (Some(expected), Some(computed)) = (self.expected_sha256, sha256)
            && expected != computed
        {
            return Err(S3Error::with(
                Code::XAmzContentSHA256Mismatch,
                "The provided 'x-amz-content-sha256' header does not match what was computed.",
            )
            .detail("ClientComputedContentSHA256", hex::encode(expected))
            .detail("S3ComputedContentSHA256", hex::encode(computed)));
        }
        let md5 = self.md5.take().map(|md5| <[u8; 16]>::from(md5.finalize()));
        if let Some(md5) = md5 {
            self.check_md5(md5)?;
        }
        if self.crc64_left {
            let announced = self.announced.take();
            self.expected_crc64 = announced
                .map(|announced| announced.value(trailer))
                .transpose()?;
            let checksum = None;
            return Ok(Finished { md5, checksum, len });
        }
        let checksum = self.checksum.take().map(|(algorithm, hasher)| {
            let value = match hasher {
                Some(hasher) => hasher.finish(),
                None => sha256.unwrap_or_default().to_vec(),
            };
            ObjectChecksum {
                algorithm,
                kind: ChecksumKind::FullObject,
                value,
            }
        });
        if let (Some(announced), Some(computed)) = (self.announced.take(), &checksum)
            && announced.value(trailer)? != computed.value
        {
            return Err(bad_checksum(computed.algorithm));
        }
        Ok(Finished { md5, checksum, len })
    }
}

fn bad_checksum(algorithm: ChecksumAlgorithm) -> S3Error {
    S3Error::with(
        Code::BadDigest,
        format!(
            "The {} you specified did not match the calculated checksum.",
            checksum::name(algorithm)
        ),
    )
}

impl Announced {
    fn value(self, trailer: Option<&str>) -> Result<Vec<u8>, S3Error> {
        match self {
            Announced::Value(_, value) => Ok(value),
            Announced::Trailer(algorithm) => trailer
                .and_then(|trailer| checksum::parse(algorithm, trailer))
                .ok_or_else(|| {
                    S3Error::with(
                        Code::InvalidRequest,
                        format!(
                            "Value for {} trailing header is invalid.",
                            checksum::header(algorithm)
                        ),
                    )
                }),
        }
    }
}
