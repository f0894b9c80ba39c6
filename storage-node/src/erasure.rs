//! Chunk to shards and back (Reed-Solomon over GF(2^8)).
//!
//! A chunk of `len` bytes is cut into `k` contiguous data shards of `S = ceil(len / k)` bytes; the last ones may be
//! shorter or empty. They are stored with their true length and count as padded with zeros to `S` when coded. Parity
//! shards are `S` bytes long. The code works byte by byte, so bytes `a..b` of a lost shard follow from bytes `a..b`
//! of any `k` others.
//!
//! The generator matrix is that of the `reed-solomon-erasure` crate (Vandermonde, made systematic); it is part of the
//! format on the drives and pinned by a test.

use std::ops::Range;
use std::sync::OnceLock;

use holdfast_placement::protection::Protection;
use reed_solomon_erasure::galois_8;

use crate::metadata::ChunkedBody;

/// Most data shards a chunk can have.
pub const DATA_MAX: usize = 12;

/// Most parity shards a chunk can have.
pub const PARITY_MAX: usize = 4;

/// Bytes of each shard that are coded before the next: parity under way stays in the L1 and L2 caches.
const BLOCK_LEN: usize = 16 * 1024;

/// Why nothing was coded or rebuilt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ErasureError {
    #[error("protection {0} is not supported: 1 to 12 data and 0 to 4 parity shards are")]
    Unsupported(Protection),
    #[error("{have} different shards of a chunk are at hand, {needed} are needed")]
    TooFew { have: usize, needed: usize },
    #[error("a chunk with protection {protection} has no slot {slot}")]
    NoSuchSlot { protection: Protection, slot: u8 },
}

/// How a chunk is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkLayout {
    pub chunk_len: u32,
    pub protection: Protection,
    /// Bytes of a full data shard and of every parity shard.
    pub shard_len: u32,
}

impl ChunkLayout {
    /// The layout of a chunk of `chunk_len` bytes.
    pub fn new(chunk_len: u32, protection: Protection) -> Self {
        Self {
            chunk_len,
            protection,
            shard_len: chunk_len.div_ceil(u32::from(protection.data.max(1))),
        }
    }

    /// Bytes that the shard in `slot` has on its drive. A shard of 0 bytes is not stored at all.
    pub fn len_of(&self, slot: u8) -> u32 {
        if slot < self.protection.data {
            let start = u64::from(slot) * u64::from(self.shard_len);
            u64::from(self.chunk_len)
                .saturating_sub(start)
                .min(u64::from(self.shard_len)) as u32
        } else {
            self.shard_len
        }
    }

    /// The slots whose shard is not empty.
    pub fn stored_slots(self) -> impl Iterator<Item = u8> {
        (0..self.protection.slots() as u8).filter(move |slot| self.len_of(*slot) > 0)
    }

    /// The data shards that hold bytes `range` of the chunk, in order, with the range of each.
    pub fn locate(self, range: Range<u32>) -> impl Iterator<Item = (u8, Range<u32>)> {
        let shard_len = self.shard_len.max(1);
        let end = range.end.min(self.chunk_len);
        let slots = if range.start < end {
            (range.start / shard_len) as u8..((end - 1) / shard_len + 1) as u8
        } else {
            0..0
        };
        slots.map(move |slot| {
            let first = u32::from(slot) * shard_len;
            let from = range.start.max(first) - first;
            let to = (end - first).min(shard_len);
            (slot, from..to)
        })
    }
}

impl ChunkedBody {
    /// How many chunks it has.
    pub fn chunks(&self) -> u32 {
        let chunks = self.len.div_ceil(u64::from(self.chunk_len.max(1)));
        u32::try_from(chunks).unwrap_or(u32::MAX)
    }

    /// Bytes of chunk `chunk`; 0 behind the last.
    pub fn len_of_chunk(&self, chunk: u32) -> u32 {
        let start = u64::from(chunk) * u64::from(self.chunk_len);
        self.len
            .saturating_sub(start)
            .min(u64::from(self.chunk_len)) as u32
    }

    /// How chunk `chunk` is cut.
    pub fn layout_of(&self, chunk: u32) -> ChunkLayout {
        ChunkLayout::new(self.len_of_chunk(chunk), self.protection)
    }
}

/// The code of one protection.
#[derive(Debug)]
pub struct Code {
    protection: Protection,
    /// `rows[j][i]`: the weight of data shard `i` in parity shard `j`.
    rows: Vec<Vec<u8>>,
}

impl Code {
    /// The code of `protection`; made once in the life of the process.
    pub fn of(protection: Protection) -> Result<&'static Code, ErasureError> {
        static CODES: [OnceLock<Code>; DATA_MAX * (PARITY_MAX + 1)] =
            [const { OnceLock::new() }; DATA_MAX * (PARITY_MAX + 1)];
        let (data, parity) = (protection.data as usize, protection.parity as usize);
        if !(1..=DATA_MAX).contains(&data) || parity > PARITY_MAX {
            return Err(ErasureError::Unsupported(protection));
        }
        let index = (data - 1) * (PARITY_MAX + 1) + parity;
        Ok(CODES[index].get_or_init(|| Code::new(protection)))
    }

    fn new(protection: Protection) -> Self {
        let (data, parity) = (protection.data as usize, protection.parity as usize);
        let mut rows = vec![vec![0u8; data]; parity];
        if parity > 0 {
            let crate_code = galois_8::ReedSolomon::new(data, parity)
                .expect("numbers of shards were checked by the caller");
            for column in 0..data {
                let unit: Vec<[u8; 1]> = (0..data).map(|i| [u8::from(i == column)]).collect();
                let mut weights = vec![[0u8; 1]; parity];
                crate_code
                    .encode_sep(&unit, &mut weights)
                    .expect("all shards are one byte long");
                for (row, weight) in rows.iter_mut().zip(weights) {
                    row[column] = weight[0];
                }
            }
        }
        Self { protection, rows }
    }

    /// Computes all parity shards. `data` are the `k` data shards with their true lengths, the first the longest;
    /// each of `parity` is as long as the first.
    ///
    /// # Panics
    /// If the numbers or lengths of shards are not those of the code.
    pub fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) {
        assert_eq!(data.len(), self.protection.data as usize, "data shards");
        assert_eq!(
            parity.len(),
            self.protection.parity as usize,
            "parity shards"
        );
        let shard_len = data[0].len();
        for start in (0..shard_len).step_by(BLOCK_LEN) {
            let end = (start + BLOCK_LEN).min(shard_len);
            for (i, shard) in data.iter().enumerate() {
                let shard = &shard[start.min(shard.len())..end.min(shard.len())];
                if shard.is_empty() {
                    continue;
                }
                for (row, out) in self.rows.iter().zip(parity.iter_mut()) {
                    let out = &mut out[start..start + shard.len()];
                    if i == 0 {
                        galois_8::mul_slice(row[i], shard, out);
                    } else {
                        galois_8::mul_slice_xor(row[i], shard, out);
                    }
                }
            }
        }
    }

    /// How the shard in slot `wanted` follows from those in the `k` slots `have`.
    pub fn recipe(&self, have: &[u8], wanted: u8) -> Result<Recipe, ErasureError> {
        let k = self.protection.data as usize;
        let mut slots: Vec<u8> = have.to_vec();
        slots.sort_unstable();
        slots.dedup();
        if slots.len() != k || have.len() != k {
            return Err(ErasureError::TooFew {
                have: slots.len(),
                needed: k,
            });
        }
        if let Some(slot) = slots
            .iter()
            .chain([&wanted])
            .find(|slot| **slot as usize >= self.protection.slots())
        {
            return Err(ErasureError::NoSuchSlot {
                protection: self.protection,
                slot: *slot,
            });
        }
        // wanted = weights x have, and have = A x data, wanted = g x data: solve A^T weights = g.
        let goal = self.generator_row(wanted);
        let columns: Vec<Vec<u8>> = have.iter().map(|slot| self.generator_row(*slot)).collect();
        let mut system: Vec<Vec<u8>> = (0..k)
            .map(|i| {
                let mut equation: Vec<u8> = columns.iter().map(|column| column[i]).collect();
                equation.push(goal[i]);
                equation
            })
            .collect();
        solve(&mut system);
        Ok(Recipe {
            weights: system.iter().map(|equation| equation[k]).collect(),
        })
    }

    /// The weights of the data shards in the shard of `slot`.
    fn generator_row(&self, slot: u8) -> Vec<u8> {
        let (slot, k) = (slot as usize, self.protection.data as usize);
        if slot < k {
            (0..k).map(|i| u8::from(i == slot)).collect()
        } else {
            self.rows[slot - k].clone()
        }
    }
}

/// Gauss-Jordan elimination over GF(2^8); the last column is the right side. Every `k` rows of the generator matrix
/// are independent (that is what makes the code one), so a pivot is always found.
fn solve(system: &mut [Vec<u8>]) {
    let size = system.len();
    for column in 0..size {
        let pivot = (column..size)
            .find(|row| system[*row][column] != 0)
            .expect("any k rows of the generator matrix are independent");
        system.swap(column, pivot);
        let inverse = galois_8::div(1, system[column][column]);
        for value in &mut system[column] {
            *value = galois_8::mul(*value, inverse);
        }
        let pivot_row = system[column].clone();
        for (row, equation) in system.iter_mut().enumerate() {
            let factor = equation[column];
            if row != column && factor != 0 {
                for (value, above) in equation.iter_mut().zip(&pivot_row) {
                    *value ^= galois_8::mul(factor, *above);
                }
            }
        }
    }
}

/// The weights with which `k` shards add up to another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    weights: Vec<u8>,
}

impl Recipe {
    /// Adds bytes of the `index`th shard of the recipe's `have` to `out`, which begins as zeros and covers the same
    /// range of the wanted shard. Bytes that a short shard does not have are zeros: nothing needs to be added.
    ///
    /// # Panics
    /// If `bytes` is longer than `out`.
    pub fn add(&self, index: usize, bytes: &[u8], out: &mut [u8]) {
        let weight = self.weights[index];
        if weight != 0 && !bytes.is_empty() {
            galois_8::mul_slice_xor(weight, bytes, &mut out[..bytes.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_placement::seams::{Rng, SeededRng};

    use super::{ChunkLayout, Code, ErasureError, Recipe};
    use holdfast_placement::protection::Protection;

    /// Shards of a random chunk, true lengths.
    fn shards_of(layout: ChunkLayout, chunk: &[u8]) -> Vec<Vec<u8>> {
        let code = Code::of(layout.protection).unwrap();
        let k = layout.protection.data;
        let mut shards: Vec<Vec<u8>> = (0..layout.protection.slots() as u8)
            .map(|slot| vec![0xAA; layout.len_of(slot) as usize])
            .collect();
        for slot in 0..k {
            let start = slot as usize * layout.shard_len as usize;
            let len = shards[slot as usize].len();
            if len > 0 {
                shards[slot as usize].copy_from_slice(&chunk[start..start + len]);
            }
        }
        let (data, parity) = shards.split_at_mut(k as usize);
        let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let mut parity: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
        code.encode(&data, &mut parity);
        shards
    }

    fn rebuild(recipe: &Recipe, have: &[u8], shards: &[Vec<u8>], range: (usize, usize)) -> Vec<u8> {
        let mut out = vec![0; range.1 - range.0];
        for (index, slot) in have.iter().enumerate() {
            let shard = &shards[*slot as usize];
            recipe.add(
                index,
                &shard[range.0.min(shard.len())..range.1.min(shard.len())],
                &mut out,
            );
        }
        out
    }

    fn seed() -> u64 {
        let seed = std::env::var("HOLDFAST_SEED").map_or(0xE7A5, |text| text.parse().unwrap());
        println!("HOLDFAST_SEED={seed}");
        seed
    }

    #[test]
    fn any_k_shards_rebuild_any_other_in_any_range() {
        let rng = SeededRng::new(seed());
        for data in 1..=12 {
            for parity in 0..=4 {
                let protection = Protection { data, parity };
                let code = Code::of(protection).unwrap();
                for round in 0..12 {
                    let chunk_len = match round {
                        0 => 1,
                        1 => u64::from(data),
                        2 => u64::from(data) + 1,
                        _ => 1 + rng.below(70_000),
                    };
                    let mut chunk = vec![0; chunk_len as usize];
                    rng.fill(&mut chunk);
                    let layout = ChunkLayout::new(chunk_len as u32, protection);
                    let shards = shards_of(layout, &chunk);
                    let mut slots: Vec<u8> = (0..protection.slots() as u8).collect();
                    for i in (1..slots.len()).rev() {
                        slots.swap(i, rng.below(i as u64 + 1) as usize);
                    }
                    let have = &slots[..data as usize];
                    for wanted in 0..protection.slots() as u8 {
                        let recipe = code.recipe(have, wanted).unwrap();
                        let len = layout.len_of(wanted) as usize;
                        let from = rng.below(len as u64 + 1) as usize;
                        let to = from + rng.below((len - from) as u64 + 1) as usize;
                        assert_eq!(
                            rebuild(&recipe, have, &shards, (from, to)),
                            &shards[wanted as usize][from..to],
                            "{protection} len {chunk_len} have {have:?} wanted {wanted} {from}..{to}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn parity_is_that_of_the_crate() {
        let rng = SeededRng::new(seed());
        for (data, parity) in [(1, 2), (2, 2), (4, 2), (7, 3), (12, 4)] {
            let protection = Protection { data, parity };
            let mut chunk = vec![0; 1000 * data as usize];
            rng.fill(&mut chunk);
            let shards = shards_of(ChunkLayout::new(chunk.len() as u32, protection), &chunk);
            let theirs =
                reed_solomon_erasure::galois_8::ReedSolomon::new(data as usize, parity as usize)
                    .unwrap();
            assert!(theirs.verify(&shards).unwrap(), "{protection}");
        }
    }

    #[test]
    fn the_generator_matrix_is_pinned() {
        let code = Code::of(Protection { data: 4, parity: 2 }).unwrap();
        assert_eq!(
            code.rows,
            vec![vec![27, 28, 18, 20], vec![28, 27, 20, 18]],
            "shards on drives were coded with this matrix"
        );
        let copies = Code::of(Protection { data: 1, parity: 4 }).unwrap();
        assert_eq!(copies.rows, vec![vec![1]; 4]);
    }

    #[test]
    fn located_pieces_cover_the_range_once() {
        let rng = SeededRng::new(seed());
        for _ in 0..2000 {
            let protection = Protection {
                data: 1 + rng.below(12) as u8,
                parity: 0,
            };
            let layout = ChunkLayout::new(1 + rng.below(100) as u32, protection);
            let start = rng.below(u64::from(layout.chunk_len)) as u32;
            let end = start + rng.below(u64::from(layout.chunk_len - start) + 1) as u32;
            let mut at = start;
            for (slot, piece) in layout.locate(start..end) {
                assert_eq!(u32::from(slot) * layout.shard_len + piece.start, at);
                assert!(!piece.is_empty() && piece.end <= layout.len_of(slot));
                at += piece.end - piece.start;
            }
            assert_eq!(at, end);
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let odd = Protection {
            data: 13,
            parity: 2,
        };
        assert!(matches!(Code::of(odd), Err(ErasureError::Unsupported(_))));
        let code = Code::of(Protection { data: 4, parity: 2 }).unwrap();
        for have in [&[0, 1, 2][..], &[0, 1, 2, 2]] {
            assert!(matches!(
                code.recipe(have, 3),
                Err(ErasureError::TooFew { .. })
            ));
        }
        assert!(matches!(
            code.recipe(&[0, 1, 2, 6], 3),
            Err(ErasureError::NoSuchSlot { slot: 6, .. })
        ));
    }
}
