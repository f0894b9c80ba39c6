//! The store while its drive cannot be read for a while.

use std::sync::Arc;

use holdfast_placement::ids::ChunkSetId;
use holdfast_placement::seams::{MemoryIndex, SeededRng, SystemClock};

use super::local::FACTS;
use crate::buffer::{BufferPool, PoolConfig};
use crate::shard_store::disk::{MemoryDisk, MemoryFaults};
use crate::shard_store::{ShardId, ShardStore, ShardStoreConfig};
use crate::shards::read_capacity;

/// Compaction leaves alone what it cannot read: it may be sound. When it is known to be, it is moved.
#[tokio::test]
async fn compaction_while_nothing_can_be_read_loses_nothing() {
    const LEN: usize = 100_000;
    let pool = BufferPool::new(PoolConfig::with_budget(64 << 20), Arc::new(SystemClock));
    let disk = MemoryDisk::new(1, 1 << 30);
    let store = ShardStore::open(
        Arc::new(disk.clone()),
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
    let id = |chunk| ShardId {
        set: ChunkSetId([1; 16]),
        chunk,
        slot: 0,
    };
    let read = async || {
        let range = 0..LEN as u32;
        let room = pool.try_acquire(read_capacity(&range)).unwrap();
        store.get(id(0), range, room).await.unwrap()
    };
    for chunk in 0..4u8 {
        let mut shard = pool.try_acquire(LEN).unwrap();
        shard.extend_from_slice(&[chunk + 7; LEN]);
        store.put(id(chunk.into()), FACTS, shard).await.unwrap();
    }
    store.delete(&[id(1), id(2), id(3)]).await.unwrap();
    store.seal().await;

    disk.set_faults(MemoryFaults {
        fail_read: 1000,
        ..MemoryFaults::default()
    });
    let report = store.compact().await.unwrap();
    assert_eq!((report.moved, report.bad), (0, 1), "{report:?}");
    // What is dead around it is given back all the same, once.
    assert!(report.freed_bytes >= 3 * LEN as u64, "{report:?}");
    assert_eq!(store.compact().await.unwrap(), Default::default());
    assert_eq!(store.bad(), [id(0)]);

    disk.set_faults(MemoryFaults::default());
    assert_eq!(read().await, [7; LEN][..]);
    assert_eq!(store.recheck(&[id(0)]).await.unwrap(), 1);
    let report = store.compact().await.unwrap();
    assert_eq!((report.moved, report.extents), (1, 1), "{report:?}");
    assert_eq!(read().await, [7; LEN][..]);
}
