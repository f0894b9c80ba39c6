//! Checksums of blocks, and the checksum of what lies in several blocks, which follows from theirs.

use std::sync::LazyLock;

use crc_fast::{CrcAlgorithm, checksum_combine};

use super::BLOCK_LEN;

/// CRC-64/NVME of each block of [`BLOCK_LEN`] bytes, the last one shorter.
pub fn block_checksums(payload: &[u8]) -> Box<[u64]> {
    payload.chunks(BLOCK_LEN).map(crc64).collect()
}

pub(super) fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::crc64_nvme(bytes)
}

/// The CRC-64/NVME of `len` bytes that lie in blocks with these checksums, all but the last of them whole.
pub fn checksum_of_blocks(blocks: &[u64], len: usize) -> u64 {
    let mut joined = JoinedChecksum::default();
    joined.add_blocks(blocks, len);
    joined.value()
}

/// The CRC-64/NVME of bytes that are known by the checksums of blocks which follow each other.
#[derive(Clone, Copy, Debug, Default)]
pub struct JoinedChecksum(u64);

impl JoinedChecksum {
    /// Adds `len` bytes that lie in blocks with these checksums, all but the last of them whole.
    pub fn add_blocks(&mut self, blocks: &[u64], len: usize) {
        let mut left = len;
        for block in blocks {
            let block_len = left.min(BLOCK_LEN);
            left -= block_len;
            self.0 = match block_len {
                BLOCK_LEN => A_BLOCK_LATER.of(self.0) ^ block,
                shorter => {
                    checksum_combine(CrcAlgorithm::Crc64Nvme, self.0, *block, shorter as u64)
                }
            };
        }
    }

    /// That of all bytes so far; of none it is zero.
    pub fn value(self) -> u64 {
        self.0
    }
}

/// What a checksum contributes to that of bytes which go on for a whole block. It is linear over GF(2), so it is kept
/// for every value of each of its bytes: the general way costs as much as the checksum of a megabyte.
struct Later([[u64; 256]; 8]);

static A_BLOCK_LATER: LazyLock<Box<Later>> = LazyLock::new(|| {
    let mut later = Box::new(Later([[0; 256]; 8]));
    for (at, of_byte) in later.0.iter_mut().enumerate() {
        for bit in 0..8 {
            let one = 1u64 << (8 * at + bit);
            let len = BLOCK_LEN as u64;
            let moved = checksum_combine(CrcAlgorithm::Crc64Nvme, one, 0, len);
            for value in (0..256).filter(|value| value >> bit & 1 == 1) {
                of_byte[value] ^= moved;
            }
        }
    }
    later
});

impl Later {
    fn of(&self, checksum: u64) -> u64 {
        let bytes = checksum.to_le_bytes();
        let parts = self.0.iter().zip(bytes);
        parts.fold(0, |sum, (of_byte, value)| sum ^ of_byte[value as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK_LEN, block_checksums, checksum_of_blocks, crc64};

    #[test]
    fn the_checksum_of_all_bytes_follows_from_those_of_their_blocks() {
        let mut bytes = vec![0u8; 5 * BLOCK_LEN];
        let mut state = 0x9E37_79B9u32;
        for byte in &mut bytes {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        for len in [
            0,
            1,
            BLOCK_LEN - 1,
            BLOCK_LEN,
            BLOCK_LEN + 1,
            3 * BLOCK_LEN,
            4 * BLOCK_LEN + 4097,
            5 * BLOCK_LEN,
        ] {
            let bytes = &bytes[..len];
            let joined = checksum_of_blocks(&block_checksums(bytes), len);
            assert_eq!(joined, crc64(bytes), "{len} bytes");
        }
    }
}
