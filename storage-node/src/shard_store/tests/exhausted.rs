//! The store while others hold all memory.

use std::sync::Arc;

use holdfast_placement::ids::ChunkSetId;
use holdfast_placement::seams::{MemoryIndex, SeededRng, SystemClock};

use super::local::FACTS;
use crate::buffer::{BufferPool, PoolConfig};
use crate::shard_store::disk::MemoryDisk;
use crate::shard_store::{ShardId, ShardStore, ShardStoreConfig};

/// With all memory in the hands of puts, a put that needs a new extent must not ask for more: they would all wait
/// for each other.
#[tokio::test]
async fn a_put_begins_an_extent_without_more_memory() {
    let pool = BufferPool::new(
        PoolConfig {
            wait_max: std::time::Duration::from_millis(10),
            ..PoolConfig::with_budget(1 << 20)
        },
        Arc::new(SystemClock),
    );
    let store = ShardStore::open(
        Arc::new(MemoryDisk::new(1, 1 << 30)),
        Arc::new(MemoryIndex::new()),
        pool.clone(),
        Arc::new(SystemClock),
        Arc::new(SeededRng::new(1)),
        ShardStoreConfig {
            sync_inline: true,
            ..ShardStoreConfig::default()
        },
    )
    .await
    .unwrap();
    let mut shard = pool.try_acquire(64 << 10).unwrap();
    shard.extend_from_slice(&[7; 64 << 10]);
    let mut others = Vec::new();
    while let Ok(buffer) = pool.try_acquire(0) {
        others.push(buffer);
    }
    assert!(others.len() > 10);
    let id = ShardId {
        set: ChunkSetId([1; 16]),
        chunk: 0,
        slot: 0,
    };
    store.put(id, FACTS, shard).await.unwrap();
}
