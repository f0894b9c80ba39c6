//! The state of one MD5 (RFC 1321) between blocks.

/// Bytes of a block.
pub(super) const BLOCK_LEN: usize = 64;

/// RFC 1321 section 3.4, "Step 4": the sine table.
pub(super) const TABLE: [u32; 64] = [
    0xd76a_a478,
    0xe8c7_b756,
    0x2420_70db,
    0xc1bd_ceee,
    0xf57c_0faf,
    0x4787_c62a,
    0xa830_4613,
    0xfd46_9501,
    0x6980_98d8,
    0x8b44_f7af,
    0xffff_5bb1,
    0x895c_d7be,
    0x6b90_1122,
    0xfd98_7193,
    0xa679_438e,
    0x49b4_0821,
    0xf61e_2562,
    0xc040_b340,
    0x265e_5a51,
    0xe9b6_c7aa,
    0xd62f_105d,
    0x0244_1453,
    0xd8a1_e681,
    0xe7d3_fbc8,
    0x21e1_cde6,
    0xc337_07d6,
    0xf4d5_0d87,
    0x455a_14ed,
    0xa9e3_e905,
    0xfcef_a3f8,
    0x676f_02d9,
    0x8d2a_4c8a,
    0xfffa_3942,
    0x8771_f681,
    0x6d9d_6122,
    0xfde5_380c,
    0xa4be_ea44,
    0x4bde_cfa9,
    0xf6bb_4b60,
    0xbebf_bc70,
    0x289b_7ec6,
    0xeaa1_27fa,
    0xd4ef_3085,
    0x0488_1d05,
    0xd9d4_d039,
    0xe6db_99e5,
    0x1fa2_7cf8,
    0xc4ac_5665,
    0xf429_2244,
    0x432a_ff97,
    0xab94_23a7,
    0xfc93_a039,
    0x655b_59c3,
    0x8f0c_cc92,
    0xffef_f47d,
    0x8584_5dd1,
    0x6fa8_7e4f,
    0xfe2c_e6e0,
    0xa301_4314,
    0x4e08_11a1,
    0xf753_7e82,
    0xbd3a_f235,
    0x2ad7_d2bb,
    0xeb86_d391,
];

/// Which word of the block a step takes.
pub(super) const fn word_of(step: usize) -> usize {
    match step / 16 {
        0 => step,
        1 => (5 * step + 1) % 16,
        2 => (3 * step + 5) % 16,
        _ => (7 * step) % 16,
    }
}

/// An MD5 under way.
#[derive(Clone, Debug)]
pub struct Md5State {
    pub(super) words: [u32; 4],
    /// Bytes so far.
    pub(super) len: u64,
    /// The bytes after the last whole block.
    pub(super) tail: [u8; BLOCK_LEN],
}

impl Default for Md5State {
    fn default() -> Self {
        Self {
            words: [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476],
            len: 0,
            tail: [0; BLOCK_LEN],
        }
    }
}

impl Md5State {
    fn tail_len(&self) -> usize {
        (self.len % BLOCK_LEN as u64) as usize
    }

    /// Takes from the start of `bytes` what completes a block that was begun, and returns the rest.
    pub(super) fn complete_block<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let tail_len = self.tail_len();
        if tail_len == 0 {
            return bytes;
        }
        let (first, rest) = bytes.split_at(bytes.len().min(BLOCK_LEN - tail_len));
        self.tail[tail_len..tail_len + first.len()].copy_from_slice(first);
        self.len += first.len() as u64;
        if self.tail_len() == 0 {
            let block = self.tail;
            compress(&mut self.words, &block);
        }
        rest
    }

    /// Keeps less than a block, where none was begun.
    pub(super) fn keep_tail(&mut self, bytes: &[u8]) {
        debug_assert!(self.tail_len() == 0 && bytes.len() < BLOCK_LEN);
        self.tail[..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u64;
    }

    /// The digest of all bytes.
    pub fn finish(mut self) -> [u8; 16] {
        let bits = self.len.wrapping_mul(8);
        let tail_len = self.tail_len();
        let mut block = self.tail;
        block[tail_len] = 0x80;
        block[tail_len + 1..].fill(0);
        if tail_len + 1 > BLOCK_LEN - 8 {
            compress(&mut self.words, &block);
            block.fill(0);
        }
        block[BLOCK_LEN - 8..].copy_from_slice(&bits.to_le_bytes());
        compress(&mut self.words, &block);
        let mut digest = [0; 16];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        digest
    }
}

/// One block of one stream (RFC 1321 section 3.4).
fn compress(words: &mut [u32; 4], block: &[u8; BLOCK_LEN]) {
    const ROTATIONS: [[u32; 4]; 4] = [
        [7, 12, 17, 22],
        [5, 9, 14, 20],
        [4, 11, 16, 23],
        [6, 10, 15, 21],
    ];
    let mut message = [0; 16];
    for (word, bytes) in message.iter_mut().zip(block.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    let [mut a, mut b, mut c, mut d] = *words;
    for step in 0..64 {
        let mixed = match step / 16 {
            0 => d ^ (b & (c ^ d)),
            1 => c ^ (d & (b ^ c)),
            2 => b ^ c ^ d,
            _ => c ^ (b | !d),
        };
        let sum = a
            .wrapping_add(mixed)
            .wrapping_add(TABLE[step])
            .wrapping_add(message[word_of(step)]);
        a = d;
        d = c;
        c = b;
        b = b.wrapping_add(sum.rotate_left(ROTATIONS[step / 16][step % 4]));
    }
    for (word, add) in words.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(add);
    }
}
