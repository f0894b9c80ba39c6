//! Random changes of the ring, several under way, while shards are written, read and deleted.
//!
//! Each node has its own map, which learns of changes late: by chance, or when it calls or is called by a node that knows
//! more, as calls between nodes do. Calls fail by chance. Every read must always give the right bytes; in the end the
//! ring has settled and every shard is where it belongs, and nowhere else.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_placement::balance::Member;
use holdfast_placement::ids::{ChunkSetId, DriveId, Epoch, NodeId, SiteId};
use holdfast_placement::map::{ClusterMap, SharedMap};
use holdfast_placement::protection::Protection;
use holdfast_placement::ring::Ring;
use holdfast_placement::seams::{Clock, Rng, SeededRng, SystemClock, UnixMillis, spawn};
use holdfast_placement::testing;
use parking_lot::Mutex;

use super::{MovedAway, RebalanceConfig, Rebalancer};
use crate::buffer::{Buffer, BufferPool, PoolConfig};
use crate::lookup::Lookup;
use crate::memory_shards::MemoryShards;
use crate::metadata::ChunkedBody;
use crate::put_gate::{PutGate, PutGates};
use crate::repair::forget;
use crate::shard_store::{DeleteShardError, GetShardError, PutShardError, ShardId, ShardInfo};
use crate::shards::{ShardFacts, Shards, read_capacity};

/// Shards that are there to be read, with their bytes.
type Readable = Vec<(ShardId, Vec<u8>)>;

const NODES: u64 = 4;
const DRIVES_A_NODE: u64 = 3;
const SITE: SiteId = SiteId(0);
const BODY: Protection = Protection { data: 2, parity: 1 };

fn seed() -> u64 {
    let seed = std::env::var("HOLDFAST_SEED").map_or(0x40BE, |text| text.parse().unwrap());
    println!("HOLDFAST_SEED={seed}");
    seed
}

fn node_of(drive: DriveId) -> NodeId {
    NodeId((drive.0 - 1) / DRIVES_A_NODE)
}

fn members(map: &ClusterMap, of: &[DriveId]) -> Vec<Member> {
    let all = map.members(SITE);
    all.into_iter().filter(|m| of.contains(&m.drive)).collect()
}

/// A clock by which sleeping is to let others do something, sometimes a lot.
struct YieldingClock(SeededRng);

impl Clock for YieldingClock {
    fn wall(&self) -> UnixMillis {
        UnixMillis(0)
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        let turns = match self.0.below(20) {
            0 => 300,
            _ => self.0.below(6),
        };
        Box::pin(async move {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        })
    }
}

/// What the nodes share.
struct World {
    memory: Arc<MemoryShards>,
    maps: BTreeMap<NodeId, SharedMap>,
    /// What the steward says.
    truth: Mutex<ClusterMap>,
    rng: SeededRng,
    pool: BufferPool,
    calm: AtomicBool,
}

/// The world as a node sees it.
struct At {
    node: NodeId,
    world: Arc<World>,
}

impl World {
    fn new(seed: u64) -> Arc<Self> {
        let drives: Vec<_> = (1..=NODES * DRIVES_A_NODE)
            .map(|id| (DriveId(id), node_of(DriveId(id))))
            .collect();
        let mut map = testing::map_of(&drives, BODY);
        let first: Vec<DriveId> = (1..=4).map(DriveId).collect();
        // Few partitions, so that each has many shards.
        let table = (0..16).map(|p| (0..4).map(|s| first[(p + s) % 4]).collect());
        map.rings = vec![(SITE, Ring::of(table.collect()))];
        let clock = Arc::new(SystemClock);
        let memory = Arc::new(MemoryShards::new(Arc::new(YieldingClock(SeededRng::new(
            seed,
        )))));
        memory.set_put_delay(Some(Duration::from_millis(1)));
        Arc::new(Self {
            memory,
            maps: (0..NODES)
                .map(|node| (NodeId(node), SharedMap::new(map.clone())))
                .collect(),
            truth: Mutex::new(map),
            rng: SeededRng::new(seed),
            pool: BufferPool::new(PoolConfig::with_budget(64 << 20), clock),
            calm: AtomicBool::new(false),
        })
    }

    fn at(self: &Arc<Self>, node: NodeId) -> Arc<At> {
        Arc::new(At {
            node,
            world: self.clone(),
        })
    }

    fn any_node(&self) -> NodeId {
        NodeId(self.rng.below(NODES))
    }

    /// Others get their turn, some of them often.
    async fn pause(&self) {
        for _ in 0..self.rng.below(4) {
            tokio::task::yield_now().await;
        }
        if self.rng.below(40) == 0 {
            for _ in 0..200 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn fails(&self) -> bool {
        !self.calm.load(Ordering::Relaxed) && self.rng.below(30) == 0
    }

    fn change(&self, change: impl FnOnce(&mut ClusterMap)) {
        let mut map = self.truth.lock();
        change(&mut map);
        map.epoch = Epoch(map.epoch.0 + 1);
    }

    fn learn(&self, node: NodeId) {
        self.maps[&node].update(self.truth.lock().clone());
    }

    fn settle(&self, moved: MovedAway) {
        self.change(|map| {
            let ring = &mut map.rings[0].1;
            if ring.version() == moved.ring_version {
                ring.settle(moved.drive);
            }
        });
    }
}

impl At {
    fn map(&self) -> &SharedMap {
        &self.world.maps[&self.node]
    }

    /// The way of a call: both sides know the newer map afterwards.
    async fn call(&self, drive: DriveId) -> Result<(), String> {
        self.world.pause().await;
        if node_of(drive) != self.node {
            let (here, there) = (self.map(), &self.world.maps[&node_of(drive)]);
            here.update(there.load().as_ref().clone());
            there.update(here.load().as_ref().clone());
        }
        if self.world.fails() {
            return Err("injected".into());
        }
        Ok(())
    }
}

#[async_trait]
impl Shards for At {
    async fn put(
        &self,
        drive: DriveId,
        id: ShardId,
        facts: ShardFacts,
        payload: Buffer,
    ) -> Result<(), PutShardError> {
        self.call(drive).await.map_err(PutShardError::Io)?;
        self.world.memory.put(drive, id, facts, payload).await?;
        // Stored, but nobody is told.
        self.call(drive).await.map_err(PutShardError::Io)
    }

    async fn get(
        &self,
        drive: DriveId,
        id: ShardId,
        range: Range<u32>,
        buffer: Buffer,
    ) -> Result<Bytes, GetShardError> {
        self.call(drive).await.map_err(GetShardError::Io)?;
        let got = self.world.memory.get(drive, id, range, buffer).await;
        self.world.pause().await;
        got
    }

    async fn delete(&self, drive: DriveId, ids: &[ShardId]) -> Result<(), DeleteShardError> {
        self.call(drive).await.map_err(DeleteShardError::Io)?;
        self.world.memory.delete(drive, ids).await
    }

    async fn info(&self, drive: DriveId, id: ShardId) -> Result<Option<ShardInfo>, GetShardError> {
        self.call(drive).await.map_err(GetShardError::Io)?;
        self.world.memory.info(drive, id).await
    }

    async fn list(
        &self,
        drive: DriveId,
        after: Option<ShardId>,
        max: usize,
    ) -> Result<Vec<ShardInfo>, GetShardError> {
        self.call(drive).await.map_err(GetShardError::Io)?;
        self.world.memory.list(drive, after, max.min(7)).await
    }

    fn is_down(&self, drive: DriveId) -> bool {
        self.world.memory.is_down(drive)
    }
}

impl PutGates for At {
    fn drives(&self) -> Vec<DriveId> {
        let drives = (1..=NODES * DRIVES_A_NODE).map(DriveId);
        drives
            .filter(|drive| node_of(*drive) == self.node)
            .collect()
    }

    fn gate(&self, drive: DriveId) -> Option<Arc<PutGate>> {
        self.world.memory.gate(drive)
    }
}

/// A body of one chunk, all of whose shards were acknowledged.
#[derive(Clone)]
struct Written {
    body: ChunkedBody,
    shards: Vec<(ShardId, Vec<u8>)>,
}

async fn write(at: &At) -> Option<Written> {
    let world = &at.world;
    let set = ChunkSetId::random(&world.rng);
    let len = 200 + world.rng.below(2000) as u32;
    let body = ChunkedBody {
        set,
        len: u64::from(len),
        chunk_len: 1 << 20,
        protection: BODY,
        site: SITE,
    };
    let layout = body.layout_of(0);
    let mut shards = Vec::new();
    for slot in layout.stored_slots() {
        let id = ShardId {
            set,
            chunk: 0,
            slot,
        };
        let mut bytes = vec![0; layout.len_of(slot) as usize];
        world.rng.fill(&mut bytes);
        let mut stored = false;
        for _ in 0..10 {
            let map = at.map().load();
            let ring = map.ring(SITE).unwrap();
            let target = ring.slot(ring.partition_of(set, 0), slot).unwrap().target;
            let facts = ShardFacts {
                epoch: map.epoch,
                chunk_hash: [1; 32],
                chunk_len: len,
            };
            let mut payload = world.pool.acquire(bytes.len()).await.unwrap();
            payload.extend_from_slice(&bytes);
            // A slow writer: what it planned may be out of date.
            world.pause().await;
            if at.put(target, id, facts, payload).await.is_ok() {
                stored = true;
                break;
            }
        }
        if !stored {
            return None;
        }
        shards.push((id, bytes));
    }
    Some(Written { body, shards })
}

async fn read(at: &At, id: ShardId, expected: &[u8], told: &str) {
    let range = 0..expected.len() as u32;
    let lookup = Lookup {
        shards: at,
        map: at.map(),
        site: SITE,
    };
    for _ in 0..1000 {
        let lend = || at.world.pool.try_acquire(read_capacity(&range)).ok();
        match lookup.get(id, &range, lend).await {
            Ok(bytes) => return assert!(bytes == expected, "{told}: wrong bytes"),
            Err(GetShardError::Io(_)) => {}
            Err(error) => panic!("{told}: {id} {error}: {:?}", places(&at.world, id)),
        }
    }
    panic!("{told}: never read");
}

fn places(world: &World, id: ShardId) -> Vec<DriveId> {
    let all = world.memory.shards();
    let of_id = all.iter().filter(|(_, other, _)| *other == id);
    of_id.map(|(drive, _, _)| *drive).collect()
}

/// Each node moves away what it finds, until the world is calm and the ring has settled.
async fn mover(at: Arc<At>) {
    let world = at.world.clone();
    let told = world.clone();
    let rebalancer = Rebalancer::new(
        at.clone(),
        at.clone(),
        at.map().clone(),
        world.pool.clone(),
        Arc::new(SystemClock),
        RebalanceConfig {
            bytes_per_sec: u64::MAX,
            shards_at_a_time: 2,
        },
        Arc::new(move |moved| told.settle(moved)),
    );
    loop {
        let calm = world.calm.load(Ordering::Relaxed);
        if calm {
            world.learn(at.node);
        }
        for drive in at.drives() {
            let map = at.map().load();
            if !map.rings[0].1.moving_from().contains(&drive) {
                continue;
            }
            if let Some(moved) = rebalancer.move_away(drive).await {
                // The steward hears of it late.
                world.pause().await;
                (rebalancer.tell)(moved);
            }
        }
        if calm && world.truth.lock().rings[0].1.is_settled() {
            return;
        }
        world.pause().await;
        tokio::task::yield_now().await;
    }
}

fn change_ring(world: &World) {
    world.change(|map| {
        let mut of: Vec<DriveId> = map.drives.iter().map(|drive| drive.id).collect();
        while of.len() > 4 && world.rng.below(4) > 0 {
            of.swap_remove(world.rng.below(of.len() as u64) as usize);
        }
        let members = members(map, &of);
        map.rings[0].1 = map.rings[0].1.rebalanced(&members, &[BODY.slots()]);
    });
}

async fn round(seed: u64) {
    let world = World::new(seed);
    let told = format!("HOLDFAST_SEED={seed}");
    let movers: Vec<_> = (0..NODES)
        .map(|node| spawn(mover(world.at(NodeId(node)))))
        .collect();
    let mut live: Vec<Written> = Vec::new();
    let mut changes = 0;
    let readers: Arc<Mutex<Readable>> = Arc::default();
    // A body is deleted only while nobody reads it; others are read all the time.
    let background = {
        let (world, readers, told) = (world.clone(), readers.clone(), told.clone());
        spawn(async move {
            let mut reads = 0;
            while !world.calm.load(Ordering::Relaxed) {
                let any = {
                    let known = readers.lock();
                    let any = world.rng.below(known.len().max(1) as u64) as usize;
                    known.get(any).cloned()
                };
                if let Some((id, bytes)) = any {
                    read(&world.at(world.any_node()), id, &bytes, &told).await;
                    reads += 1;
                }
                tokio::task::yield_now().await;
            }
            reads
        })
    };
    for step in 0..150 {
        let at = world.at(world.any_node());
        match world.rng.below(10) {
            0 | 1 => {
                change_ring(&world);
                changes += 1;
            }
            2..=4 => world.learn(world.any_node()),
            5 if live.len() > 10 => {
                let any = world.rng.below(live.len() as u64) as usize;
                let gone = live.swap_remove(any);
                // The first bodies stay: those are the ones that are read in the background.
                if readers.lock().iter().all(|(id, _)| id.set != gone.body.set) {
                    forget(&*at, &at.map().load(), &[gone.body]).await;
                } else {
                    live.push(gone);
                }
            }
            _ => {
                if let Some(written) = write(&at).await {
                    if step < 75 {
                        readers.lock().extend(written.shards.iter().cloned());
                    }
                    live.push(written);
                }
            }
        }
        if !live.is_empty() {
            let any = &live[world.rng.below(live.len() as u64) as usize];
            for (id, bytes) in &any.shards {
                read(&at, *id, bytes, &format!("{told} step {step}")).await;
            }
        }
    }
    world.calm.store(true, Ordering::Relaxed);
    let reads = background.await.expect("the reader");
    for mover in movers {
        mover.await.expect("a mover");
    }
    let map = world.truth.lock().clone();
    let ring = &map.rings[0].1;
    assert!(ring.is_settled());
    for (drive, id, _) in world.memory.shards() {
        let slot = ring.slot(ring.partition_of(id.set, id.chunk), id.slot);
        assert_eq!(slot.unwrap().target, drive, "{told}: {id}");
    }
    for (id, bytes) in live.iter().flat_map(|written| &written.shards) {
        read(&world.at(NodeId(0)), *id, bytes, &told).await;
        assert_eq!(places(&world, *id).len(), 1, "{told}");
    }
    assert!(reads > 100 && changes > 5 && live.len() > 10, "{told}");
    assert_eq!(world.pool.in_use_bytes(), 0);
}

#[tokio::test]
async fn every_shard_is_always_found_and_ends_where_it_belongs() {
    let seed = seed();
    let rounds = std::env::var("HOLDFAST_ROUNDS").map_or(40, |text| text.parse().unwrap());
    for number in 0..rounds {
        round(seed + number).await;
    }
}
