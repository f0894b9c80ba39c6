//! A chunk while its bytes come in.

use bytes::{Buf, Bytes};
use holdfast_placement::protection::Protection;
use holdfast_storage_node::buffer::{Buffer, BufferPool, PoolError};
use holdfast_storage_node::erasure::{ChunkLayout, Code, ErasureError};
use holdfast_storage_node::shard_store::JoinedChecksum;

/// Bytes that are hashed at a time: enough for the widest kernels of blake3, few enough to still be in the L2 cache
/// after they were copied.
const HASH_LEN: u32 = 128 * 1024;

/// The shards of a chunk, of which the data shards fill one after the other.
pub(super) struct Filling {
    layout: ChunkLayout,
    code: &'static Code,
    /// One a slot; `None` where the shard is empty.
    shards: Vec<Option<Buffer>>,
    /// Bytes of the chunk that came in.
    filled: u32,
    /// Bytes of them that were hashed.
    hashed: u32,
    hasher: blake3::Hasher,
}

/// A chunk that is ready to be stored.
pub(super) struct Filled {
    pub layout: ChunkLayout,
    pub hash: [u8; 32],
    /// One a slot; `None` where the shard is empty.
    pub shards: Vec<Option<Buffer>>,
}

impl Filled {
    /// Adds the bytes of the chunk, by the checksums of their blocks.
    pub(super) fn add_to(&self, body: &mut JoinedChecksum) {
        let data = self
            .shards
            .iter()
            .take(self.layout.protection.data as usize);
        for shard in data.flatten() {
            body.add_blocks(&shard.block_checksums(), shard.len());
        }
    }
}

impl Filling {
    /// Reserves the memory of a chunk of `len` bytes, all of it at once.
    pub(super) async fn reserve(
        pool: &BufferPool,
        len: u32,
        protection: Protection,
        code: &'static Code,
    ) -> Result<Self, PoolError> {
        let layout = ChunkLayout::new(len, protection);
        let lens: Vec<usize> = layout
            .stored_slots()
            .map(|slot| layout.len_of(slot) as usize)
            .collect();
        let mut buffers = pool.acquire_all(&lens).await?.into_iter();
        let shards = (0..protection.slots() as u8)
            .map(|slot| {
                if layout.len_of(slot) > 0 {
                    buffers.next()
                } else {
                    None
                }
            })
            .collect();
        Ok(Self {
            layout,
            code,
            shards,
            filled: 0,
            hashed: 0,
            hasher: blake3::Hasher::new(),
        })
    }

    pub(super) fn is_full(&self) -> bool {
        self.filled == self.layout.chunk_len
    }

    /// Bytes that came in.
    pub(super) fn filled(&self) -> u32 {
        self.filled
    }

    /// Takes as much of `bytes` as there is room for.
    pub(super) fn take(&mut self, bytes: &mut Bytes) {
        let shard_len = self.layout.shard_len;
        while !bytes.is_empty() && !self.is_full() {
            let slot = self.filled / shard_len;
            let first = slot * shard_len;
            let Some(Some(shard)) = self.shards.get_mut(slot as usize) else {
                return;
            };
            let room = (self.layout.len_of(slot as u8) as usize).saturating_sub(shard.len());
            // In steps, so that what was copied is hashed from the cache.
            let step = HASH_LEN - self.filled % HASH_LEN;
            let len = bytes.len().min(room).min(step as usize);
            shard.extend_from_slice(&bytes[..len]);
            bytes.advance(len);
            self.filled += len as u32;
            let shard_is_full = len == room;
            if shard_is_full || self.filled.is_multiple_of(HASH_LEN) {
                let from = (self.hashed - first) as usize;
                self.hasher.update(&shard.payload()[from..]);
                self.hashed = self.filled;
                shard.sum_blocks();
            }
        }
    }

    /// Ends the chunk: cuts it anew if it is shorter than was thought, and computes hash and parity.
    pub(super) fn finish(mut self) -> Result<Filled, ErasureError> {
        if self.filled < self.layout.chunk_len {
            self.hash_rest();
            self.recut();
        }
        let k = self.layout.protection.data as usize;
        let parity_len = self.layout.shard_len as usize;
        let (data, parity) = self.shards.split_at_mut(k);
        if parity_len > 0 && !parity.is_empty() {
            let data: Vec<&[u8]> = data
                .iter()
                .map(|shard| shard.as_ref().map_or(&[][..], Buffer::payload))
                .collect();
            let mut parity: Vec<&mut [u8]> = parity
                .iter_mut()
                .flatten()
                .map(|shard| {
                    shard.set_len(parity_len);
                    shard.payload_mut()
                })
                .collect();
            self.code.encode(&data, &mut parity);
        }
        Ok(Filled {
            layout: self.layout,
            hash: *self.hasher.finalize().as_bytes(),
            shards: self.shards,
        })
    }

    /// What came in, for a body that turns out to be small.
    pub(super) fn to_bytes(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(self.filled as usize);
        for shard in self.shards.iter().flatten() {
            bytes.extend_from_slice(shard.payload());
        }
        Bytes::from(bytes)
    }

    fn hash_rest(&mut self) {
        if self.hashed < self.filled {
            let slot = self.hashed / self.layout.shard_len;
            let from = (self.hashed - slot * self.layout.shard_len) as usize;
            if let Some(Some(shard)) = self.shards.get(slot as usize) {
                self.hasher.update(&shard.payload()[from..]);
            }
            self.hashed = self.filled;
        }
    }

    /// Moves the bytes to where the layout of the shorter chunk has them. Every byte moves towards the end of its
    /// shard or into a later one, so shards are made from the last to the first.
    fn recut(&mut self) {
        let new = ChunkLayout::new(self.filled, self.layout.protection);
        let old_len = self.layout.shard_len as usize;
        let new_len = new.shard_len as usize;
        let k = self.layout.protection.data as usize;
        for slot in (0..k).rev() {
            let len = new.len_of(slot as u8) as usize;
            let (earlier, rest) = self.shards.split_at_mut(slot);
            let Some(shard) = rest[0].as_mut() else {
                continue;
            };
            shard.set_len(len.max(shard.len()));
            // Bytes `start..start + len` of the chunk; those from `own` on are in this shard already.
            let start = slot * new_len;
            let own = (slot * old_len).clamp(start, start + len);
            if own < start + len {
                let from = own - slot * old_len;
                let count = start + len - own;
                shard
                    .payload_mut()
                    .copy_within(from..from + count, own - start);
            }
            let mut at = start;
            while at < own {
                let source = at / old_len;
                let end = ((source + 1) * old_len).min(own);
                let from = source * old_len;
                if let Some(source) = &earlier[source] {
                    shard.payload_mut()[at - start..end - start]
                        .copy_from_slice(&source.payload()[at - from..end - from]);
                }
                at = end;
            }
            shard.set_len(len);
        }
        for (slot, shard) in self.shards.iter_mut().enumerate() {
            if new.len_of(slot as u8) == 0 {
                *shard = None;
            }
        }
        self.layout = new;
    }
}
