//! Signatures of the chunks and the trailer of a body (API reference, "Signature Calculations for the
//! Authorization Header: Transferring Payload in Multiple Chunks" and "... Including Trailing Headers").

use super::sig_v4::{self, Hex64, SigningKey, Timestamp};

/// The chain of a body's signatures: each covers the one before; the first is the request's.
#[derive(Clone, Debug)]
pub struct ChunkChain {
    key: SigningKey,
    timestamp: Timestamp,
    scope: Box<str>,
    previous: Hex64,
}

impl ChunkChain {
    /// Starts at the request's signature `seed`.
    pub fn new(key: SigningKey, timestamp: Timestamp, scope: &str, seed: Hex64) -> Self {
        Self {
            key,
            timestamp,
            scope: scope.into(),
            previous: seed,
        }
    }

    /// Whether `provided` is the signature of the next chunk, whose bytes have `sha256`.
    pub fn verify_chunk(&mut self, sha256: &[u8; 32], provided: &[u8]) -> bool {
        let computed = self.key.sign(&[
            b"AWS4-HMAC-SHA256-PAYLOAD",
            self.timestamp.as_bytes(),
            self.scope.as_bytes(),
            &self.previous,
            sig_v4::EMPTY_SHA256.as_bytes(),
            &sig_v4::hex64(sha256),
        ]);
        self.previous = computed;
        sig_v4::matches(&computed, provided)
    }

    /// Whether `provided` is the signature of the trailer: `name:value\n` for each line.
    pub fn verify_trailer(&mut self, trailer: &[u8], provided: &[u8]) -> bool {
        let computed = self.key.sign(&[
            b"AWS4-HMAC-SHA256-TRAILER",
            self.timestamp.as_bytes(),
            self.scope.as_bytes(),
            &self.previous,
            &sig_v4::sha256_hex(trailer),
        ]);
        self.previous = computed;
        sig_v4::matches(&computed, provided)
    }
}
