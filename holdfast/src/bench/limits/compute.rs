//! What one core does: the checksums of S3 and of the shard store, parity, and copies.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crc_fast::CrcAlgorithm;
use holdfast_placement::seams::{Rng, SeededRng};
use md5::Md5;
use reed_solomon_erasure::galois_8::ReedSolomon;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::units::show_number;

/// What hashes are fed: larger than a first-level cache, as bodies are.
const HASH_LEN: usize = 1 << 20;
/// What is copied: larger than the caches of most machines.
const COPY_LEN: usize = 64 << 20;
const DATA_SHARDS: usize = 4;
const PARITY_SHARDS: usize = 2;

/// GB/s of one core, GB = 10^9 bytes of input.
#[derive(Debug, Clone, Serialize)]
pub struct ComputeLimits {
    pub md5_gb_per_s: f64,
    pub crc64nvme_gb_per_s: f64,
    /// Of 64 MiB, so through memory rather than a cache.
    pub memcpy_gb_per_s: f64,
    pub sha256_gb_per_s: Option<f64>,
    pub blake3_gb_per_s: Option<f64>,
    /// Parity of 4+2, per byte of data.
    pub reed_solomon_4_2_gb_per_s: Option<f64>,
}

impl std::fmt::Display for ComputeLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rates = [
            ("MD5", Some(self.md5_gb_per_s)),
            ("CRC64NVME", Some(self.crc64nvme_gb_per_s)),
            ("memcpy", Some(self.memcpy_gb_per_s)),
            ("SHA-256", self.sha256_gb_per_s),
            ("blake3", self.blake3_gb_per_s),
            ("parity 4+2", self.reed_solomon_4_2_gb_per_s),
        ];
        let rates: Vec<String> = rates
            .into_iter()
            .filter_map(|(name, rate)| Some(format!("{name} {} GB/s", show_number(rate?))))
            .collect();
        f.write_str(&rates.join(", "))
    }
}

/// Spends about `slot` on each; `all` adds what the short form leaves out.
pub fn measure(slot: Duration, all: bool) -> ComputeLimits {
    let mut block = vec![0; HASH_LEN];
    SeededRng::new(1).fill(&mut block);
    let hash = |one: &dyn Fn(&[u8])| rate(slot, HASH_LEN, || one(black_box(&block)));
    let md5_gb_per_s = hash(&|block| {
        black_box(Md5::digest(block));
    });
    let crc64nvme_gb_per_s = hash(&|block| {
        black_box(crc_fast::checksum(CrcAlgorithm::Crc64Nvme, block));
    });
    let sha256_gb_per_s = all.then(|| {
        hash(&|block| {
            black_box(Sha256::digest(block));
        })
    });
    let blake3_gb_per_s = all.then(|| {
        hash(&|block| {
            black_box(blake3::hash(block));
        })
    });
    ComputeLimits {
        md5_gb_per_s,
        crc64nvme_gb_per_s,
        memcpy_gb_per_s: copies(slot),
        sha256_gb_per_s,
        blake3_gb_per_s,
        reed_solomon_4_2_gb_per_s: all.then(|| parity(slot, &block)).flatten(),
    }
}

fn copies(slot: Duration) -> f64 {
    let from = vec![7u8; COPY_LEN];
    let mut to = vec![1u8; COPY_LEN];
    rate(slot, COPY_LEN, || {
        black_box(&mut to).copy_from_slice(black_box(&from))
    })
}

/// Parity of a 4 MiB chunk cut in four.
fn parity(slot: Duration, block: &[u8]) -> Option<f64> {
    let code = ReedSolomon::new(DATA_SHARDS, PARITY_SHARDS).ok()?;
    let data = vec![block; DATA_SHARDS];
    let mut parity = vec![vec![0u8; block.len()]; PARITY_SHARDS];
    code.encode_sep(&data, &mut parity).ok()?;
    Some(rate(slot, DATA_SHARDS * block.len(), || {
        // Shapes were accepted above, so it succeeds; what counts is the time.
        black_box(
            code.encode_sep(black_box(&data), black_box(&mut parity))
                .is_ok(),
        );
    }))
}

/// GB/s of `one`, which handles `len` bytes: the best of the rounds that fit into `slot`, since whatever disturbs
/// only slows.
fn rate(slot: Duration, len: usize, mut one: impl FnMut()) -> f64 {
    one();
    let began = Instant::now();
    let mut best = Duration::MAX;
    while began.elapsed() < slot || best == Duration::MAX {
        let round = Instant::now();
        one();
        best = best.min(round.elapsed());
    }
    len as f64 / best.as_secs_f64().max(1e-9) / 1e9
}
