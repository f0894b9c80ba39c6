//! Shards in memory that are lost and spoiled, and the census that finds them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_placement::ids::{BucketId, ChunkSetId, DriveId, GroupId, SiteId};
use holdfast_placement::map::SharedMap;
use holdfast_placement::protection::Protection;
use holdfast_placement::seams::{Clock, Rng, SeededRng, SystemClock, spawn};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Census, CensusConfig, CensusControl, CensusCount};
use crate::buffer::{BufferPool, PoolConfig};
use crate::memory_shards::{Fault, MemoryShards};
use crate::metadata::testing::TestMetadata;
use crate::metadata::{Body, ChunkedBody, Condition, Etag, NewVersion, ObjectHeaders, VersionLock};
use crate::repair::Rebuilder;
use crate::repair::rebuild::tests::{map_of, store_body};

const BUCKET: BucketId = BucketId(1);
const LEN: u64 = 25_000;

struct World {
    test: TestMetadata,
    shards: Arc<MemoryShards>,
    map: SharedMap,
    pool: BufferPool,
    rng: SeededRng,
    lives: Arc<Mutex<u64>>,
    control: CensusControl,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(SystemClock);
        Self {
            test: TestMetadata::new(clock.clone(), Arc::new(SeededRng::new(1))),
            shards: Arc::new(MemoryShards::new(clock.clone())),
            map: map_of(6, Protection { data: 2, parity: 2 }),
            pool: BufferPool::new(PoolConfig::with_budget(16 << 20), clock),
            rng: SeededRng::new(2),
            lives: Arc::default(),
            control: CensusControl::default(),
        }
    }

    fn census(&self) -> Census {
        let clock = Arc::new(SystemClock);
        let lives = self.lives.clone();
        Census {
            metadata: self.test.metadata.clone(),
            rebuilder: Rebuilder::new(
                self.shards.clone(),
                self.map.clone(),
                self.pool.clone(),
                clock.clone(),
            ),
            shards: self.shards.clone(),
            map: self.map.clone(),
            led: Arc::new(|| (0..=16).map(GroupId).collect()),
            lives: Arc::new(move || vec![(holdfast_placement::ids::NodeId(1), *lives.lock())]),
            clock,
            config: CensusConfig {
                look_pause: Duration::from_millis(5),
                retry_min: Duration::from_millis(5),
                retry_max: Duration::from_millis(20),
                bodies: 3,
                shards: 5,
                pause: Duration::ZERO,
                ..CensusConfig::default()
            },
            control: self.control.clone(),
        }
    }

    async fn put(&self, key: &str) -> ChunkedBody {
        let map = self.map.load();
        let body = ChunkedBody {
            set: ChunkSetId::begun(SystemClock.wall(), &self.rng),
            len: LEN,
            chunk_len: 10_000,
            protection: map.protection,
            site: SiteId(0),
        };
        let mut data = vec![0; LEN as usize];
        self.rng.fill(&mut data);
        store_body(&*self.shards, &map, &self.pool, &body, &data, &[]).await;
        let version = NewVersion {
            size: LEN,
            etag: Etag::Md5([0; 16]),
            checksum: None,
            body: Body::Chunked(body),
            inline: Bytes::new(),
            headers: ObjectHeaders::default(),
            tags: Vec::new(),
            lock: VersionLock::default(),
            missed: Vec::new(),
        };
        let condition = Condition::default();
        let put = self.test.metadata.put(BUCKET, key, version, &condition);
        put.await.unwrap();
        body
    }

    fn contents(&self) -> Vec<(DriveId, crate::shard_store::ShardId, Vec<u8>)> {
        let all = self.shards.shards().into_iter();
        let mut all: Vec<_> = all
            .map(|(drive, id, stored)| (drive, id, stored.payload))
            .collect();
        all.sort();
        all
    }

    fn groups(&self) -> Vec<GroupId> {
        (1..=16).map(GroupId).collect()
    }

    fn sum(&self) -> CensusCount {
        let mut sum = CensusCount::default();
        for census in self.control.report(&self.groups()) {
            sum.add(&census.last.map(|(_, count)| count).unwrap_or_default());
        }
        sum
    }

    async fn take(&self) -> CensusCount {
        for group in self.groups() {
            self.census().take(group).await;
        }
        self.sum()
    }

    fn is_whole(&self) -> bool {
        let report = self.control.report(&self.groups());
        report.iter().all(|census| census.whole)
    }
}

#[tokio::test]
async fn what_is_missing_or_bad_is_found_and_rebuilt_though_nobody_reads_it() {
    let world = World::new();
    for key in 0..20 {
        world.put(&format!("key-{key}")).await;
    }
    let before = world.contents();
    let whole = world.take().await;
    assert_eq!((whole.bodies, whole.shards), (20, 20 * 3 * 4));
    assert_eq!((whole.missing, whole.bad, whole.rebuilt), (0, 0, 0));
    assert!(world.is_whole());

    world.shards.wipe(DriveId(2));
    let mut spoiled = 0;
    for (drive, id, _) in &before {
        // Parity alone, of chunks that have lost no more than one other.
        if *drive == DriveId(3) && id.slot >= 2 {
            assert!(world.shards.corrupt(*drive, *id));
            spoiled += 1;
        }
    }
    let lost = before.iter().filter(|(at, ..)| *at == DriveId(2)).count() as u64;
    assert!(lost > 0 && spoiled > 0);
    let mended = world.take().await;
    assert_eq!((mended.missing, mended.bad), (lost, spoiled));
    assert_eq!(mended.rebuilt, lost + spoiled);
    assert!(world.is_whole());
    assert_eq!(world.contents(), before);
}

#[tokio::test]
async fn nothing_is_called_whole_while_something_is_missing_or_away() {
    let world = World::new();
    let body = world.put("key").await;
    world.take().await;
    assert!(world.is_whole());
    // Three of four: too few are left to make the others.
    let mut left = world.contents();
    left.retain(|(_, id, _)| id.chunk == 0);
    for (drive, id, _) in &left[..3] {
        assert!(world.shards.lose(*drive, *id));
    }
    let found = world.take().await;
    assert_eq!((found.missing, found.missing_open()), (3, 3));
    assert_eq!(found.left.too_few, 3);
    assert!(!world.is_whole());

    // Nor is what has nothing left at all.
    for (drive, id, _) in &left[3..] {
        assert!(world.shards.lose(*drive, *id));
    }
    let found = world.take().await;
    assert_eq!((found.missing_open(), found.left.too_few), (4, 4));
    assert!(!world.is_whole());

    // What was deleted on the way has lost nothing.
    let world = World::new();
    world.put("key").await;
    let mut census = world.census();
    census.config.pause = Duration::from_millis(20);
    let taking = async {
        for group in world.groups() {
            census.take(group).await;
        }
    };
    let deleting = async {
        let seen = || {
            let report = world.control.report(&world.groups());
            let now = report.iter().filter_map(|census| census.now);
            now.map(|count| count.shards).sum::<u64>()
        };
        while seen() == 0 {
            SystemClock.sleep(Duration::from_millis(1)).await;
        }
        let condition = Condition::default();
        let deleted = world.test.metadata.delete(BUCKET, "key", &condition);
        deleted.await.unwrap();
        for (drive, id, _) in world.contents() {
            assert!(world.shards.lose(drive, id));
        }
    };
    tokio::join!(taking, deleting);
    let found = world.sum();
    assert!(found.missing > 0, "it was met");
    assert_eq!((found.missing_open(), found.left.too_few), (0, 0));
    assert!(world.is_whole());

    // A drive that does not answer has lost nothing that is known.
    let world = World::new();
    world.put("key").await;
    let at = world.contents()[0].0;
    let there = world
        .contents()
        .iter()
        .filter(|(drive, ..)| *drive == at)
        .count() as u64;
    world.shards.set_fault(at, Some(Fault::Down));
    let found = world.take().await;
    assert_eq!((found.missing, found.away), (0, there));
    assert!(!world.is_whole());
    world.shards.set_fault(at, None);
    world.take().await;
    assert!(world.is_whole());
    assert_eq!(body.chunks(), 3);
}

#[tokio::test]
async fn a_census_is_taken_when_something_happened() {
    let world = World::new();
    world.put("key").await;
    let (stop, stopped) = watch::channel(false);
    let running = spawn(world.census().run(stopped));
    let eventually = async |what: &str, holds: &dyn Fn() -> bool| {
        for _ in 0..6000 {
            if holds() {
                return;
            }
            SystemClock.sleep(Duration::from_millis(10)).await;
        }
        panic!("{what}");
    };
    eventually("the first census is taken", &|| world.is_whole()).await;
    let before = world.contents();
    world.shards.wipe(before[0].0);
    // Nothing is known to have happened: the next one is hours away. A node that was started again is something.
    *world.lives.lock() += 1;
    eventually("a restart is followed by a census", &|| {
        world.contents() == before
    })
    .await;
    eventually("all is whole again", &|| world.is_whole()).await;
    world.shards.wipe(before[0].0);
    world.control.ask();
    eventually("what is asked for is done", &|| world.contents() == before).await;
    stop.send_replace(true);
    running.await.unwrap();
}
