//! What the index keeps of a drive's shards, in [`Keyspace::Shards`].
//!
//! Keys begin with a byte for the kind of entry, values with a version byte; both are persisted and keep their
//! meaning. Numbers in keys are big-endian, in values little-endian.
//!
//! | kind | key | value |
//! |---|---|---|
//! | 1 | shard id | where the shard lies, length, facts, checksums of its blocks |
//! | 2 | extent number | [`ExtentEntry`] |
//! | 3 | extent number, offset | tombstone: the record there is dead, should a rescan find it |
//! | 4 | shard id | the shard was found to be bad |
//! | 5 | | the number for the next extent |
//! | 6 | | how far the scrub is, see `scrub.rs` |

use bytes::Bytes;
use holdfast_placement::ids::{ChunkSetId, Epoch};
use holdfast_placement::seams::{Batch, Keyspace};

use super::record::{Location, Nonce, Shard};
use super::{BLOCK_LEN, SHARD_LEN_MAX, ShardId};
use crate::shards::ShardFacts;

const VERSION: u8 = 1;

const KIND_SHARD: u8 = 1;
const KIND_EXTENT: u8 = 2;
const KIND_TOMBSTONE: u8 = 3;
const KIND_BAD: u8 = 4;
const KIND_NEXT_EXTENT: u8 = 5;

/// A shard and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardEntry {
    pub shard: Shard,
    pub location: Location,
}

/// Where an extent is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// May have records that the index does not know, from the high-water mark on.
    Open,
    /// Is not written any more; the high-water mark is its end.
    Sealed,
    /// Holds nothing that lives, and its file is to be deleted; its records are dead for ever.
    Dead,
}

/// What the index knows of an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentEntry {
    pub phase: Phase,
    pub nonce: Nonce,
    /// Each record before this offset is either in the index or dead.
    pub high_water: u64,
    /// Bytes of the records that the index refers to.
    pub live_bytes: u64,
}

/// All keys of a kind: `from..to`.
fn kind_range(kind: u8) -> ([u8; 1], [u8; 1]) {
    ([kind], [kind + 1])
}

pub fn shard_range() -> ([u8; 1], [u8; 1]) {
    kind_range(KIND_SHARD)
}

pub fn extent_range() -> ([u8; 1], [u8; 1]) {
    kind_range(KIND_EXTENT)
}

pub fn tombstone_range() -> ([u8; 1], [u8; 1]) {
    kind_range(KIND_TOMBSTONE)
}

pub fn bad_range() -> ([u8; 1], [u8; 1]) {
    kind_range(KIND_BAD)
}

fn id_key(kind: u8, id: ShardId) -> [u8; 22] {
    let mut key = [0; 22];
    key[0] = kind;
    key[1..17].copy_from_slice(&id.set.0);
    key[17..21].copy_from_slice(&id.chunk.to_be_bytes());
    key[21] = id.slot;
    key
}

pub fn shard_key(id: ShardId) -> [u8; 22] {
    id_key(KIND_SHARD, id)
}

pub fn bad_key(id: ShardId) -> [u8; 22] {
    id_key(KIND_BAD, id)
}

/// The id in a key of a shard or of a bad shard.
pub fn decode_id(key: &[u8]) -> Option<ShardId> {
    let key: &[u8; 22] = key.try_into().ok()?;
    Some(ShardId {
        set: ChunkSetId(key[1..17].try_into().ok()?),
        chunk: u32::from_be_bytes(key[17..21].try_into().ok()?),
        slot: key[21],
    })
}

pub fn extent_key(number: u64) -> [u8; 9] {
    let mut key = [KIND_EXTENT; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The number in the key of an extent.
pub fn decode_extent_key(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(1..)?.try_into().ok()?))
}

fn tombstone_key(location: Location) -> [u8; 17] {
    let mut key = [KIND_TOMBSTONE; 17];
    key[1..9].copy_from_slice(&location.extent.to_be_bytes());
    key[9..].copy_from_slice(&location.offset.to_be_bytes());
    key
}

/// The place in the key of a tombstone.
pub fn decode_tombstone_key(key: &[u8]) -> Option<Location> {
    let key: &[u8; 17] = key.try_into().ok()?;
    Some(Location {
        extent: u64::from_be_bytes(key[1..9].try_into().ok()?),
        offset: u64::from_be_bytes(key[9..].try_into().ok()?),
    })
}

pub const NEXT_EXTENT_KEY: [u8; 1] = [KIND_NEXT_EXTENT];

pub fn decode_next_extent(value: &[u8]) -> Option<u64> {
    let (&VERSION, number) = value.split_first()? else {
        return None;
    };
    Some(u64::from_le_bytes(number.try_into().ok()?))
}

impl ShardEntry {
    pub fn encode(&self) -> Bytes {
        let shard = &self.shard;
        let mut value = Vec::with_capacity(65 + shard.blocks.len() * 8);
        value.push(VERSION);
        value.extend_from_slice(&self.location.extent.to_le_bytes());
        value.extend_from_slice(&self.location.offset.to_le_bytes());
        value.extend_from_slice(&shard.len.to_le_bytes());
        value.extend_from_slice(&shard.facts.epoch.0.to_le_bytes());
        value.extend_from_slice(&shard.facts.chunk_hash);
        value.extend_from_slice(&shard.facts.chunk_len.to_le_bytes());
        for checksum in &shard.blocks {
            value.extend_from_slice(&checksum.to_le_bytes());
        }
        value.into()
    }

    /// The entry of shard `id`, unless the value contradicts itself.
    pub fn decode(id: ShardId, value: &[u8]) -> Option<Self> {
        let (fixed, blocks) = value.split_at_checked(65)?;
        let len = u32::from_le_bytes(fixed[17..21].try_into().ok()?);
        let fits =
            len as usize <= SHARD_LEN_MAX && blocks.len() == (len as usize).div_ceil(BLOCK_LEN) * 8;
        if fixed[0] != VERSION || !fits {
            return None;
        }
        let blocks = blocks.as_chunks::<8>().0;
        Some(Self {
            shard: Shard {
                id,
                facts: ShardFacts {
                    epoch: Epoch(u64::from_le_bytes(fixed[21..29].try_into().ok()?)),
                    chunk_hash: fixed[29..61].try_into().ok()?,
                    chunk_len: u32::from_le_bytes(fixed[61..65].try_into().ok()?),
                },
                len,
                blocks: blocks
                    .iter()
                    .map(|block| u64::from_le_bytes(*block))
                    .collect(),
            },
            location: Location {
                extent: u64::from_le_bytes(fixed[1..9].try_into().ok()?),
                offset: u64::from_le_bytes(fixed[9..17].try_into().ok()?),
            },
        })
    }
}

impl ExtentEntry {
    pub fn encode(&self) -> Bytes {
        let mut value = Vec::with_capacity(34);
        value.push(VERSION);
        value.push(match self.phase {
            Phase::Open => 1,
            Phase::Sealed => 2,
            Phase::Dead => 3,
        });
        value.extend_from_slice(&self.nonce);
        value.extend_from_slice(&self.high_water.to_le_bytes());
        value.extend_from_slice(&self.live_bytes.to_le_bytes());
        value.into()
    }

    pub fn decode(value: &[u8]) -> Option<Self> {
        let value: &[u8; 34] = value.try_into().ok()?;
        if value[0] != VERSION {
            return None;
        }
        Some(Self {
            phase: match value[1] {
                1 => Phase::Open,
                2 => Phase::Sealed,
                3 => Phase::Dead,
                _ => return None,
            },
            nonce: value[2..18].try_into().ok()?,
            high_water: u64::from_le_bytes(value[18..26].try_into().ok()?),
            live_bytes: u64::from_le_bytes(value[26..34].try_into().ok()?),
        })
    }
}

/// Keys and values that change together.
pub trait ShardBatch {
    fn put_shard(&mut self, entry: &ShardEntry);
    fn delete_shard(&mut self, id: ShardId);
    fn put_extent(&mut self, number: u64, entry: &ExtentEntry);
    fn delete_extent(&mut self, number: u64);
    fn put_tombstone(&mut self, location: Location);
    fn delete_tombstone(&mut self, location: Location);
    fn put_bad(&mut self, id: ShardId);
    fn delete_bad(&mut self, id: ShardId);
    fn put_next_extent(&mut self, number: u64);
}

const SPACE: Keyspace = Keyspace::Shards;

impl ShardBatch for Batch {
    fn put_shard(&mut self, entry: &ShardEntry) {
        self.put(SPACE, shard_key(entry.shard.id).to_vec(), entry.encode());
    }

    fn delete_shard(&mut self, id: ShardId) {
        self.delete(SPACE, shard_key(id).to_vec());
    }

    fn put_extent(&mut self, number: u64, entry: &ExtentEntry) {
        self.put(SPACE, extent_key(number).to_vec(), entry.encode());
    }

    fn delete_extent(&mut self, number: u64) {
        self.delete(SPACE, extent_key(number).to_vec());
    }

    fn put_tombstone(&mut self, location: Location) {
        self.put(SPACE, tombstone_key(location).to_vec(), vec![VERSION]);
    }

    fn delete_tombstone(&mut self, location: Location) {
        self.delete(SPACE, tombstone_key(location).to_vec());
    }

    fn put_bad(&mut self, id: ShardId) {
        self.put(SPACE, bad_key(id).to_vec(), vec![VERSION]);
    }

    fn delete_bad(&mut self, id: ShardId) {
        self.delete(SPACE, bad_key(id).to_vec());
    }

    fn put_next_extent(&mut self, number: u64) {
        let mut value = vec![VERSION];
        value.extend_from_slice(&number.to_le_bytes());
        self.put(SPACE, NEXT_EXTENT_KEY.to_vec(), value);
    }
}
