//! Bodies that can be made again from a seed, so that nothing has to be kept to compare with.

use md5::{Digest, Md5};

/// `len` bytes that follow from `seed`. Two contents with different seeds differ in about every word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    pub seed: u64,
    /// Bytes.
    pub len: u64,
}

impl Content {
    pub fn new(seed: u64, len: u64) -> Self {
        Self { seed, len }
    }

    /// Writes the bytes from `offset` on into `out`, whatever the length of the content.
    pub fn fill(&self, offset: u64, out: &mut [u8]) {
        let mut position = offset;
        let mut rest = out;
        let skew = (position % 8) as usize;
        if skew != 0 {
            let word = self.word(position / 8);
            let take = rest.len().min(8 - skew);
            let (head, tail) = rest.split_at_mut(take);
            head.copy_from_slice(&word[skew..skew + take]);
            position += take as u64;
            rest = tail;
        }
        let mut words = rest.chunks_exact_mut(8);
        let mut index = position / 8;
        for chunk in &mut words {
            chunk.copy_from_slice(&self.word(index));
            index += 1;
        }
        let tail = words.into_remainder();
        let word = self.word(index);
        tail.copy_from_slice(&word[..tail.len()]);
    }

    /// All bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        self.fill(0, &mut bytes);
        bytes
    }

    /// Position of the first byte of `data`, which lies at `offset`, that is not this content's.
    pub fn mismatch(&self, offset: u64, data: &[u8]) -> Option<u64> {
        let mut expected = [0; 16 * 1024];
        let mut position = offset;
        for piece in data.chunks(expected.len()) {
            let expected = &mut expected[..piece.len()];
            self.fill(position, expected);
            if expected != piece {
                let at = expected.iter().zip(piece).position(|(a, b)| a != b)?;
                return Some(position + at as u64);
            }
            position += piece.len() as u64;
        }
        (position > self.len).then_some(self.len)
    }

    fn word(&self, index: u64) -> [u8; 8] {
        mix(self.seed ^ index.wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_le_bytes()
    }
}

/// MD5 in lower-case hexadecimal: an ETag without its quotes.
pub fn md5_hex(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}

/// SplitMix64's output function (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Random choices of a test: all follow from one number, which is printed, and taken from `HOLDFAST_TEST_SEED` if set.
#[derive(Clone, Debug)]
pub struct Seed {
    state: u64,
}

impl Seed {
    /// The seed of this run of the test called `name`. Prints it.
    pub fn for_test(name: &str) -> Self {
        let seed = match std::env::var("HOLDFAST_TEST_SEED") {
            Ok(text) => text.parse().expect("HOLDFAST_TEST_SEED is a number"),
            Err(_) => {
                let now = std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .expect("the clock is past 1970");
                mix(now.as_nanos() as u64) >> 16
            }
        };
        println!("{name}: replay with HOLDFAST_TEST_SEED={seed}");
        Self { state: seed }
    }

    /// Choices that do not depend on how many others were made before `label` was named.
    pub fn fork(&self, label: u64) -> Self {
        Self {
            state: mix(self.state ^ mix(label)),
        }
    }

    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.state)
    }

    /// In `range`, which is not empty.
    pub fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.draw() % (range.end - range.start)
    }

    /// True `percent` times out of a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.within(0..100) < percent
    }

    /// One of `items`, which is not empty.
    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.within(0..items.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::{Content, Seed};

    #[test]
    fn any_piece_is_the_same_as_in_the_whole() {
        let content = Content::new(7, 1000);
        let whole = content.bytes();
        for start in [0, 1, 7, 8, 9, 500, 993, 999] {
            for end in [start, start + 1, start + 7, 1000] {
                let end = end.min(1000);
                let mut piece = vec![0; end - start];
                content.fill(start as u64, &mut piece);
                assert_eq!(piece, whole[start..end], "{start}..{end}");
            }
        }
    }

    #[test]
    fn a_changed_byte_is_found_where_it_is() {
        let content = Content::new(3, 40_000);
        let mut bytes = content.bytes();
        assert_eq!(content.mismatch(0, &bytes), None);
        bytes[33_333] ^= 1;
        assert_eq!(content.mismatch(0, &bytes), Some(33_333));
        assert_eq!(content.mismatch(30_000, &bytes[30_000..]), Some(33_333));
    }

    #[test]
    fn bytes_past_the_end_are_a_mismatch() {
        let content = Content::new(3, 10);
        let long = Content::new(3, 12).bytes();
        assert_eq!(content.mismatch(0, &long), Some(10));
    }

    #[test]
    fn contents_differ_from_each_other() {
        assert_eq!(
            Content::new(1, 64).mismatch(0, &Content::new(2, 64).bytes()),
            Some(0)
        );
    }

    #[test]
    fn a_fork_does_not_depend_on_what_was_drawn() {
        let mut seed = Seed { state: 1 };
        let before = seed.fork(3).draw();
        let other = seed.fork(4).draw();
        assert_ne!(before, other);
        seed.draw();
        assert_ne!(seed.fork(3).draw(), before);
    }
}
