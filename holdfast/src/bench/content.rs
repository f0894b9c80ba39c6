//! What objects hold: bytes that follow from the seed and the key, at no cost per byte.
//!
//! One block of random bytes is made per run. The body of a key is that block, repeated, from an offset that
//! the key decides. The block's length is a prime just below 4 MiB: pieces of a body that lie any power of two
//! apart differ, so a store that mixes up chunks, shards or keys is caught by comparing bytes.

use bytes::Bytes;
use holdfast_placement::seams::{Rng, SeededRng};

const BLOCK_LEN: usize = 4_194_301;

/// The bytes of every object of a run.
#[derive(Clone, Debug)]
pub struct Content {
    block: Bytes,
    seed: u64,
}

/// A place where a body differs from what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Position in the body.
    pub offset: u64,
    /// The byte that must be there.
    pub expected: u8,
    /// The byte that is there.
    pub found: u8,
}

impl Content {
    /// The content of the run with `seed`.
    pub fn new(seed: u64) -> Self {
        let mut block = vec![0; BLOCK_LEN];
        SeededRng::new(seed).fill(&mut block);
        Self {
            block: Bytes::from(block),
            seed,
        }
    }

    /// Where in the block the body of `key` begins.
    pub fn start(&self, key: &str) -> u64 {
        // FNV-1a over the key, then a splitmix64 step so that neighbouring keys lie far apart.
        let mut hash = self.seed ^ 0xCBF2_9CE4_8422_2325;
        for &byte in key.as_bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
        SeededRng::new(hash).below(BLOCK_LEN as u64)
    }

    /// At most `max_len` bytes of the body that begins at `start`, from `offset` on, without a copy; shorter
    /// where the block wraps round.
    pub fn slice(&self, start: u64, offset: u64, max_len: u64) -> Bytes {
        let from = ((start + offset) % BLOCK_LEN as u64) as usize;
        let len = max_len.min((BLOCK_LEN - from) as u64) as usize;
        self.block.slice(from..from + len)
    }

    /// Compares `piece`, which was found at `offset` of the body that begins at `start`.
    pub fn compare(&self, start: u64, offset: u64, piece: &[u8]) -> Result<(), Difference> {
        let mut done = 0;
        while done < piece.len() {
            let at = offset + done as u64;
            let expected = self.slice(start, at, (piece.len() - done) as u64);
            let found = &piece[done..done + expected.len()];
            if found != expected {
                // Equal slices are found by memcmp; only a difference is walked byte by byte.
                let (index, (&found, &expected)) = found
                    .iter()
                    .zip(&expected)
                    .enumerate()
                    .find(|(_, (found, expected))| found != expected)
                    .expect("slices of one length that differ do so at some index");
                return Err(Difference {
                    offset: at + index as u64,
                    expected,
                    found,
                });
            }
            done += expected.len();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK_LEN, Content, Difference};

    fn body(content: &Content, key: &str, len: u64) -> Vec<u8> {
        let start = content.start(key);
        let mut body = Vec::new();
        while (body.len() as u64) < len {
            let piece = content.slice(start, body.len() as u64, len - body.len() as u64);
            body.extend_from_slice(&piece);
        }
        body
    }

    #[test]
    fn the_body_follows_from_seed_and_key() {
        let (content, again, other) = (Content::new(7), Content::new(7), Content::new(8));
        assert_eq!(body(&content, "a", 10_000), body(&again, "a", 10_000));
        assert_ne!(body(&content, "a", 10_000), body(&other, "a", 10_000));
        assert_ne!(body(&content, "a", 10_000), body(&content, "b", 10_000));
    }

    #[test]
    fn chunks_of_a_body_differ() {
        let content = Content::new(7);
        let body = body(&content, "a", 12 << 20);
        let chunks: Vec<&[u8]> = body.chunks(4 << 20).collect();
        assert_ne!(chunks[0], chunks[1]);
        assert_ne!(chunks[1], chunks[2]);
    }

    #[test]
    fn one_flipped_bit_is_found_where_it_is() {
        let content = Content::new(7);
        let start = content.start("k");
        let mut body = body(&content, "k", BLOCK_LEN as u64 * 2 + 5);
        assert_eq!(content.compare(start, 0, &body), Ok(()));
        assert_eq!(content.compare(start, 1000, &body[1000..5000]), Ok(()));
        for at in [0, 1, BLOCK_LEN - 1, BLOCK_LEN, body.len() - 1] {
            body[at] ^= 0x10;
            let expected = Difference {
                offset: at as u64,
                expected: body[at] ^ 0x10,
                found: body[at],
            };
            assert_eq!(content.compare(start, 0, &body), Err(expected));
            body[at] ^= 0x10;
        }
    }
}
