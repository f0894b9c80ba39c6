//! Shards in memory that are lost, spoiled and made again.

use std::sync::Arc;
use std::time::Duration;

use holdfast_placement::ids::{ChunkSetId, DriveId, Epoch, SiteId};
use holdfast_placement::map::{ClusterMap, SharedMap};
use holdfast_placement::protection::Protection;
use holdfast_placement::seams::{Rng, SeededRng, SystemClock, spawn};
use holdfast_placement::testing;

use super::{RebuildError, Rebuilder, Rebuilt};
use crate::buffer::{BufferPool, PoolConfig};
use crate::erasure::Code;
use crate::memory_shards::{Fault, MemoryShards, StoredShard};
use crate::metadata::{ChunkedBody, MissedSlot};
use crate::repair::{RepairQueue, shards_of};
use crate::shard_store::ShardId;
use crate::shards::{ShardFacts, Shards};

const CHUNK_LEN: u32 = 200_000;

/// A map of one host with so many drives, all up.
pub(in crate::repair) fn map_of(drives: u64, protection: Protection) -> SharedMap {
    SharedMap::new(testing::map_of_one_host(drives, protection))
}

/// Stores the shards of a body as a writer does that misses some.
pub(in crate::repair) async fn store_body(
    shards: &dyn Shards,
    map: &ClusterMap,
    pool: &BufferPool,
    body: &ChunkedBody,
    data: &[u8],
    missed: &[MissedSlot],
) {
    for (chunk, data) in (0..).zip(data.chunks(body.chunk_len as usize)) {
        let layout = body.layout_of(chunk);
        let k = layout.protection.data as usize;
        let pieces: Vec<&[u8]> = (0..k)
            .map(|slot| {
                let start = (slot * layout.shard_len as usize).min(data.len());
                &data[start..start + layout.len_of(slot as u8) as usize]
            })
            .collect();
        let mut parity =
            vec![vec![0; layout.shard_len as usize]; layout.protection.parity as usize];
        let mut rows: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
        Code::of(layout.protection)
            .unwrap()
            .encode(&pieces, &mut rows);
        let facts = ShardFacts {
            epoch: Epoch(1),
            chunk_hash: *blake3::hash(data).as_bytes(),
            chunk_len: layout.chunk_len,
        };
        for (drive, id) in shards_of(map, body, chunk..chunk + 1) {
            let slot = id.slot;
            if missed.contains(&MissedSlot { chunk, slot }) {
                continue;
            }
            let payload = match (slot as usize).checked_sub(k) {
                None => pieces[slot as usize],
                Some(row) => &parity[row],
            };
            let mut buffer = pool.acquire(payload.len()).await.unwrap();
            buffer.extend_from_slice(payload);
            shards.put(drive, id, facts, buffer).await.unwrap();
        }
    }
}

struct World {
    shards: Arc<MemoryShards>,
    map: SharedMap,
    pool: BufferPool,
    rebuilder: Rebuilder,
    rng: SeededRng,
}

impl World {
    fn new(protection: Protection, seed: u64) -> Self {
        let clock = Arc::new(SystemClock);
        let map = map_of(16, protection);
        let shards = Arc::new(MemoryShards::new(clock.clone()));
        let pool = BufferPool::new(PoolConfig::with_budget(64 << 20), clock.clone());
        Self {
            rebuilder: Rebuilder::new(shards.clone(), map.clone(), pool.clone(), clock),
            shards,
            map,
            pool,
            rng: SeededRng::new(seed),
        }
    }

    /// Stores a random body as the writer does.
    async fn store(&self, len: u64) -> ChunkedBody {
        let body = ChunkedBody {
            set: ChunkSetId::random(&self.rng),
            len,
            chunk_len: CHUNK_LEN,
            protection: self.map.load().protection,
            site: SiteId(0),
        };
        let mut data = vec![0; len as usize];
        self.rng.fill(&mut data);
        store_body(
            &*self.shards,
            &self.map.load(),
            &self.pool,
            &body,
            &data,
            &[],
        )
        .await;
        body
    }

    fn contents(&self) -> Vec<(DriveId, ShardId, Vec<u8>)> {
        let all = self.shards.shards().into_iter();
        all.map(
            |(
                drive,
                id,
                StoredShard {
                    payload, corrupt, ..
                },
            )| {
                assert!(!corrupt);
                (drive, id, payload)
            },
        )
        .collect()
    }
}

fn seed() -> u64 {
    let seed = std::env::var("HOLDFAST_SEED").map_or(0x2EB1, |text| text.parse().unwrap());
    println!("HOLDFAST_SEED={seed}");
    seed
}

#[tokio::test]
async fn lost_and_bad_shards_become_what_they_were() {
    let seed = seed();
    for round in 0..60 {
        let rng = SeededRng::new(seed + round);
        let protection = Protection {
            data: 1 + rng.below(12) as u8,
            parity: 1 + rng.below(4) as u8,
        };
        let world = World::new(protection, seed + round);
        let body = world.store(1 + rng.below(3 * u64::from(CHUNK_LEN))).await;
        let before = world.contents();
        let map = world.map.load();
        let mut broken = 0;
        for chunk in 0..body.chunks() {
            let mut places: Vec<_> = shards_of(&map, &body, chunk..chunk + 1).collect();
            for _ in 0..rng.below(u64::from(protection.parity) + 1) {
                let (drive, id) = places.swap_remove(rng.below(places.len() as u64) as usize);
                let found = if rng.below(2) == 0 {
                    world.shards.lose(drive, id)
                } else {
                    world.shards.corrupt(drive, id)
                };
                assert!(found);
                broken += 1;
            }
        }
        let written = world.rebuilder.rebuild_body(&body).await.unwrap();
        assert_eq!(written, broken, "{protection} seed {}", seed + round);
        assert!(
            world.contents() == before,
            "{protection} seed {}",
            seed + round
        );
        assert_eq!(world.pool.in_use_bytes(), 0);
    }
}

#[tokio::test]
async fn nothing_is_made_of_too_few_shards_or_of_those_of_another_chunk() {
    let world = World::new(Protection { data: 2, parity: 1 }, seed());
    let body = world.store(10_000).await;
    let map = world.map.load();
    let places: Vec<_> = shards_of(&map, &body, 0..1).collect();
    world.shards.lose(places[0].0, places[0].1);
    world.shards.corrupt(places[1].0, places[1].1);
    assert!(matches!(
        world.rebuilder.rebuild(&body, 0, 0).await,
        Err(RebuildError::TooFew { have: 1, needed: 2 })
    ));

    let body = world.store(10_000).await;
    let places: Vec<_> = shards_of(&map, &body, 0..1).collect();
    world.shards.lose(places[0].0, places[0].1);
    // A shard that passes its own checks but is not what was written.
    let facts = world
        .shards
        .info(places[1].0, places[1].1)
        .await
        .unwrap()
        .unwrap()
        .facts;
    let mut other = world.pool.try_acquire(5000).unwrap();
    other.extend_from_slice(&[1; 5000]);
    world
        .shards
        .put(places[1].0, places[1].1, facts, other)
        .await
        .unwrap();
    assert!(matches!(
        world.rebuilder.rebuild(&body, 0, 0).await,
        Err(RebuildError::Disagree)
    ));
    assert!(
        world
            .shards
            .info(places[0].0, places[0].1)
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_body_that_is_gone_stays_gone() {
    let world = World::new(Protection { data: 2, parity: 2 }, seed());
    let body = world.store(10_000).await;
    for drive in 1..=16 {
        world.shards.wipe(DriveId(drive));
    }
    assert_eq!(
        world.rebuilder.rebuild(&body, 0, 1).await.unwrap(),
        Rebuilt::Gone
    );
    assert!(world.shards.is_empty());
}

#[tokio::test]
async fn the_queue_is_worked_off() {
    let world = World::new(Protection { data: 2, parity: 2 }, seed());
    let body = world.store(3 * u64::from(CHUNK_LEN)).await;
    let before = world.contents();
    let map = world.map.load();
    let queue = Arc::new(RepairQueue::default());
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let worker = spawn(world.rebuilder.clone().run(queue.clone(), stopped));
    // A drive that is down makes its shard wait, and nothing else.
    let (down, id) = shards_of(&map, &body, 0..1)
        .find(|(_, id)| id.slot == 0)
        .unwrap();
    world.shards.set_fault(down, Some(Fault::Down));
    queue.note(body, id.chunk, id.slot);
    let lost = shards_of(&map, &body, 0..3).filter(|(drive, id)| *drive != down && id.slot == 3);
    for (drive, id) in lost {
        world.shards.lose(drive, id);
        queue.note(body, id.chunk, id.slot);
        queue.note(body, id.chunk, id.slot);
    }
    assert!(world.shards.len() < before.len());
    for _ in 0..2000 {
        if world.shards.len() == before.len() && queue.is_empty() {
            break;
        }
        sleep(Duration::from_millis(5)).await;
    }
    assert!(world.contents() == before);
    stop.send(true).unwrap();
    worker.await.unwrap();
}

#[expect(clippy::disallowed_methods, reason = "a test's own pace")]
async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}
