//! The record of a shard as it lies in an extent: a header of one 4096-byte page, then the payload, padded with zeros
//! to a whole number of pages.
//!
//! Header, all numbers little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | magic `HFSHARD` and a zero |
//! | 8..10 | format version, 1 |
//! | 10..12 | flags, see [`Header::copy`] |
//! | 12..16 | payload length, bytes |
//! | 16..37 | shard id: chunk set, chunk (`u32`), slot (`u8`); then three zeros |
//! | 40..48 | epoch of the cluster map |
//! | 48..80 | blake3 of the chunk |
//! | 80..84 | length of the chunk, bytes; then four zeros |
//! | 88..96, 96..104 | extent number and offset of the record itself |
//! | 104..120 | nonce of the extent |
//! | 128.. | CRC64-NVME of each 64 KiB block of the payload; then zeros |
//! | 4088..4096 | CRC64-NVME of the bytes before |
//!
//! Place and nonce make a header valid at one place only: what a client stores can never pass for a record, since it
//! does not know the nonce.

use holdfast_placement::ids::{ChunkSetId, Epoch};

use super::blocks::crc64;
use super::{BLOCK_LEN, RECORD_HEADER_LEN, SHARD_LEN_MAX, ShardId};
use crate::shards::ShardFacts;

const MAGIC: [u8; 8] = *b"HFSHARD\0";
const VERSION: u16 = 1;
const FLAG_COPY: u16 = 1;
const BLOCKS_AT: usize = 128;
const CHECKSUM_AT: usize = RECORD_HEADER_LEN - 8;

/// Random bytes that are kept with an extent and are in each of its records.
pub type Nonce = [u8; 16];

/// What a shard is, wherever it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    pub id: ShardId,
    pub facts: ShardFacts,
    /// Length of the payload, bytes.
    pub len: u32,
    /// CRC64-NVME of each block of [`BLOCK_LEN`] bytes, the last one shorter.
    pub blocks: Box<[u64]>,
}

impl Shard {
    /// The bytes that its record takes.
    pub fn record_len(&self) -> u64 {
        record_len(self.len as usize)
    }

    /// Whether the bytes are the same, whenever they were written.
    pub fn same_content(&self, other: &Shard) -> bool {
        self.id == other.id
            && self.len == other.len
            && self.blocks == other.blocks
            && self.facts.chunk_hash == other.facts.chunk_hash
            && self.facts.chunk_len == other.facts.chunk_len
    }
}

/// A place in an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    pub extent: u64,
    /// Of the record's header, bytes.
    pub offset: u64,
}

/// The header of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub shard: Shard,
    pub location: Location,
    /// Compaction wrote this record: it says nothing that an older one did not say.
    pub copy: bool,
}

/// Why a page is not the header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("not a record")]
    Magic,
    #[error("format version {0} is not known")]
    Version(u16),
    #[error("the header's checksum does not hold")]
    Checksum,
    #[error("the header is of another place")]
    Misplaced,
    #[error("the header contradicts itself")]
    Contradiction,
}

/// The bytes that the record of a payload takes.
pub fn record_len(payload_len: usize) -> u64 {
    (RECORD_HEADER_LEN + payload_len.next_multiple_of(RECORD_HEADER_LEN)) as u64
}

impl Header {
    /// Writes the header to `page`, all of it.
    pub fn encode(&self, nonce: &Nonce, page: &mut [u8]) {
        let shard = &self.shard;
        page.fill(0);
        page[0..8].copy_from_slice(&MAGIC);
        page[8..10].copy_from_slice(&VERSION.to_le_bytes());
        let flags = if self.copy { FLAG_COPY } else { 0 };
        page[10..12].copy_from_slice(&flags.to_le_bytes());
        page[12..16].copy_from_slice(&shard.len.to_le_bytes());
        page[16..32].copy_from_slice(&shard.id.set.0);
        page[32..36].copy_from_slice(&shard.id.chunk.to_le_bytes());
        page[36] = shard.id.slot;
        page[40..48].copy_from_slice(&shard.facts.epoch.0.to_le_bytes());
        page[48..80].copy_from_slice(&shard.facts.chunk_hash);
        page[80..84].copy_from_slice(&shard.facts.chunk_len.to_le_bytes());
        page[88..96].copy_from_slice(&self.location.extent.to_le_bytes());
        page[96..104].copy_from_slice(&self.location.offset.to_le_bytes());
        page[104..120].copy_from_slice(nonce);
        let room = page[BLOCKS_AT..CHECKSUM_AT].chunks_exact_mut(8);
        for (place, checksum) in room.zip(&shard.blocks) {
            place.copy_from_slice(&checksum.to_le_bytes());
        }
        let checksum = crc64(&page[..CHECKSUM_AT]);
        page[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
    }

    /// The header that `page`, found at `location` of the extent with this nonce, is; every bit of the page counts.
    pub fn decode(page: &[u8], location: Location, nonce: &Nonce) -> Result<Self, HeaderError> {
        if page.len() != RECORD_HEADER_LEN || page[0..8] != MAGIC {
            return Err(HeaderError::Magic);
        }
        if crc64(&page[..CHECKSUM_AT]) != u64_at(page, CHECKSUM_AT) {
            return Err(HeaderError::Checksum);
        }
        let version = u16::from_le_bytes(array_at(page, 8));
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        let own = Location {
            extent: u64_at(page, 88),
            offset: u64_at(page, 96),
        };
        if own != location || page[104..120] != nonce[..] {
            return Err(HeaderError::Misplaced);
        }
        let len = u32::from_le_bytes(array_at(page, 12));
        let flags = u16::from_le_bytes(array_at(page, 10));
        if len as usize > SHARD_LEN_MAX || flags & !FLAG_COPY != 0 {
            return Err(HeaderError::Contradiction);
        }
        let blocks = (len as usize).div_ceil(BLOCK_LEN);
        Ok(Self {
            shard: Shard {
                id: ShardId {
                    set: ChunkSetId(array_at(page, 16)),
                    chunk: u32::from_le_bytes(array_at(page, 32)),
                    slot: page[36],
                },
                facts: ShardFacts {
                    epoch: Epoch(u64_at(page, 40)),
                    chunk_hash: array_at(page, 48),
                    chunk_len: u32::from_le_bytes(array_at(page, 80)),
                },
                len,
                blocks: (0..blocks)
                    .map(|block| u64_at(page, BLOCKS_AT + block * 8))
                    .collect(),
            },
            location,
            copy: flags & FLAG_COPY != 0,
        })
    }
}

impl Header {
    /// The nonce in the header of an extent's first record, whose page can be nothing else.
    pub fn nonce_of_first(page: &[u8], extent: u64) -> Option<Nonce> {
        let nonce = page.get(104..120)?.try_into().ok()?;
        let location = Location {
            extent,
            offset: RECORD_HEADER_LEN as u64,
        };
        Header::decode(page, location, &nonce).ok().map(|_| nonce)
    }
}

/// The first page of an extent.
///
/// Magic `HFEXTENT` (0..8), format version (8..10), number (16..24), nonce (24..40), checksum (4088..4096).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentHeader {
    pub number: u64,
    pub nonce: Nonce,
}

const EXTENT_MAGIC: [u8; 8] = *b"HFEXTENT";

impl ExtentHeader {
    /// Writes the header to `page`, all of it.
    pub fn encode(&self, page: &mut [u8]) {
        page.fill(0);
        page[0..8].copy_from_slice(&EXTENT_MAGIC);
        page[8..10].copy_from_slice(&VERSION.to_le_bytes());
        page[16..24].copy_from_slice(&self.number.to_le_bytes());
        page[24..40].copy_from_slice(&self.nonce);
        let checksum = crc64(&page[..CHECKSUM_AT]);
        page[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
    }

    /// The header that the page is.
    pub fn decode(page: &[u8]) -> Result<Self, HeaderError> {
        if page.len() != RECORD_HEADER_LEN || page[0..8] != EXTENT_MAGIC {
            return Err(HeaderError::Magic);
        }
        if crc64(&page[..CHECKSUM_AT]) != u64_at(page, CHECKSUM_AT) {
            return Err(HeaderError::Checksum);
        }
        let version = u16::from_le_bytes(array_at(page, 8));
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        Ok(Self {
            number: u64_at(page, 16),
            nonce: array_at(page, 24),
        })
    }
}

fn u64_at(page: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(page, at))
}

fn array_at<const N: usize>(page: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&page[at..at + N]);
    array
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use proptest::{collection, prop_assert, prop_assert_eq};

    use super::super::block_checksums;
    use super::*;

    fn header(payload: &[u8], at: u64) -> Header {
        Header {
            shard: Shard {
                id: ShardId {
                    set: ChunkSetId([3; 16]),
                    chunk: 77,
                    slot: 5,
                },
                facts: ShardFacts {
                    epoch: Epoch(9),
                    chunk_hash: [8; 32],
                    chunk_len: 4 << 20,
                },
                len: payload.len() as u32,
                blocks: block_checksums(payload),
            },
            location: Location {
                extent: 4,
                offset: at,
            },
            copy: false,
        }
    }

    #[test]
    fn the_largest_shard_fits_its_header() {
        const { assert!(BLOCKS_AT + SHARD_LEN_MAX / BLOCK_LEN * 8 <= CHECKSUM_AT) };
    }

    #[test]
    fn a_header_is_valid_at_its_own_place_only() {
        let header = header(&[1; 100_000], 8192);
        let mut page = vec![0xff; RECORD_HEADER_LEN];
        header.encode(&[6; 16], &mut page);
        let here = header.location;
        assert_eq!(Header::decode(&page, here, &[6; 16]), Ok(header));
        let elsewhere = Location {
            offset: 4096,
            ..here
        };
        for (location, nonce) in [(elsewhere, [6; 16]), (here, [7; 16])] {
            assert_eq!(
                Header::decode(&page, location, &nonce),
                Err(HeaderError::Misplaced)
            );
        }
    }

    proptest! {
        #[test]
        fn arbitrary_pages_are_never_records(page in collection::vec(any::<u8>(), 0..=RECORD_HEADER_LEN), magic: bool) {
            let mut page = page;
            if magic && page.len() >= 8 {
                page[0..8].copy_from_slice(&MAGIC);
            }
            let location = Location { extent: 0, offset: 0 };
            prop_assert!(Header::decode(&page, location, &[0; 16]).is_err());
            prop_assert!(ExtentHeader::decode(&page).is_err());
        }

        /// With a valid checksum over arbitrary fields: no panic, and what is accepted is written back the same.
        #[test]
        fn sealed_arbitrary_fields_never_panic(fields in collection::vec(any::<u8>(), 120), blocks: u8) {
            let mut page = vec![0; RECORD_HEADER_LEN];
            page[..120].copy_from_slice(&fields);
            page[0..8].copy_from_slice(&MAGIC);
            page[8..10].copy_from_slice(&VERSION.to_le_bytes());
            page[10] &= 3;
            page[11] = 0;
            page[15] = 0;
            page[BLOCKS_AT] = blocks;
            let checksum = crc64(&page[..CHECKSUM_AT]);
            page[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
            let location = Location { extent: u64_at(&page, 88), offset: u64_at(&page, 96) };
            let nonce = array_at(&page, 104);
            if let Ok(header) = Header::decode(&page, location, &nonce) {
                let mut again = vec![0; RECORD_HEADER_LEN];
                header.encode(&nonce, &mut again);
                prop_assert_eq!(Header::decode(&again, location, &nonce), Ok(header));
            }
        }

        #[test]
        fn a_flipped_bit_is_never_accepted(len in 0usize..300_000, bit in 0..RECORD_HEADER_LEN * 8) {
            let header = header(&vec![1; len], 8192);
            let mut page = vec![0; RECORD_HEADER_LEN];
            header.encode(&[6; 16], &mut page);
            page[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Header::decode(&page, header.location, &[6; 16]).is_err());
            let extent = ExtentHeader { number: 5, nonce: [1; 16] };
            extent.encode(&mut page);
            prop_assert_eq!(ExtentHeader::decode(&page), Ok(extent));
            page[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(ExtentHeader::decode(&page).is_err());
        }
    }
}
