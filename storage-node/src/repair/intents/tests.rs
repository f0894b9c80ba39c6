//! Writes that miss shards, over shards and metadata in memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_placement::ids::{BucketId, ChunkSetId, DriveId, GroupId, SiteId};
use holdfast_placement::map::SharedMap;
use holdfast_placement::protection::Protection;
use holdfast_placement::seams::{Clock, Rng, SeededRng, SystemClock, spawn};
use tokio::sync::watch;

use super::{IntentsConfig, IntentsDone, IntentsWorker};
use crate::buffer::{BufferPool, PoolConfig};
use crate::memory_shards::{Fault, MemoryShards};
use crate::metadata::testing::TestMetadata;
use crate::metadata::{
    Body, ChunkedBody, Condition, Etag, MissedSlot, NewVersion, ObjectHeaders, VersionLock,
};
use crate::repair::rebuild::tests::{map_of, store_body};
use crate::repair::{Rebuilder, ReclaimConfig, Reclaimer, shards_of};

const BUCKET: BucketId = BucketId(1);
const CHUNK_LEN: u32 = 10_000;
const LEN: u64 = 25_000;

struct World {
    test: TestMetadata,
    shards: Arc<MemoryShards>,
    map: SharedMap,
    pool: BufferPool,
    rng: SeededRng,
}

impl World {
    fn new(drives: u64) -> Self {
        let clock = Arc::new(SystemClock);
        Self {
            test: TestMetadata::new(clock.clone(), Arc::new(SeededRng::new(1))),
            shards: Arc::new(MemoryShards::new(clock.clone())),
            map: map_of(drives, Protection { data: 2, parity: 2 }),
            pool: BufferPool::new(PoolConfig::with_budget(16 << 20), clock),
            rng: SeededRng::new(2),
        }
    }

    fn rebuilder(&self) -> Rebuilder {
        let clock = Arc::new(SystemClock);
        Rebuilder::new(
            self.shards.clone(),
            self.map.clone(),
            self.pool.clone(),
            clock,
        )
    }

    fn worker(&self) -> IntentsWorker {
        IntentsWorker::new(
            self.test.metadata.clone(),
            self.rebuilder(),
            self.shards.clone(),
            self.map.clone(),
            Arc::new(|| (0..=16).map(GroupId).collect()),
            Arc::new(SystemClock),
            IntentsConfig {
                batch: 3,
                pause_min: Duration::from_millis(5),
                pause_max: Duration::from_millis(20),
                ..IntentsConfig::default()
            },
        )
    }

    /// Writes an object whose shards on drives that are down are missed; gives how many these are.
    async fn put(&self, key: &str) -> (ChunkedBody, usize) {
        let map = self.map.load();
        let body = ChunkedBody {
            set: ChunkSetId::begun(SystemClock.wall(), &self.rng),
            len: LEN,
            chunk_len: CHUNK_LEN,
            protection: map.protection,
            site: SiteId(0),
        };
        let mut data = vec![0; LEN as usize];
        self.rng.fill(&mut data);
        let missed: Vec<MissedSlot> = shards_of(&map, &body, 0..body.chunks())
            .filter(|(drive, _)| crate::shards::Shards::is_down(&*self.shards, *drive))
            .map(|(_, id)| MissedSlot {
                chunk: id.chunk,
                slot: id.slot,
            })
            .collect();
        store_body(&*self.shards, &map, &self.pool, &body, &data, &missed).await;
        let count = missed.len();
        let version = NewVersion {
            size: LEN,
            etag: Etag::Md5([0; 16]),
            checksum: None,
            body: Body::Chunked(body),
            inline: Bytes::new(),
            missed,
            headers: ObjectHeaders::default(),
            tags: Vec::new(),
            lock: VersionLock::default(),
        };
        let metadata = &self.test.metadata;
        let any = Condition::default();
        metadata.put(BUCKET, key, version, &any).await.unwrap();
        (body, count)
    }

    async fn open(&self) -> u64 {
        let mut open = 0;
        for group in (1..=16).map(GroupId) {
            let usage = self.test.metadata.usage(group).await.unwrap();
            open += usage.repairs_open;
        }
        open
    }

    async fn work_off(&self) -> IntentsDone {
        let worker = self.worker();
        let (_stop, stopped) = watch::channel(false);
        let mut done = IntentsDone::default();
        for group in (1..=16).map(GroupId) {
            done.add(worker.work_off(group, &stopped).await.unwrap());
        }
        done
    }
}

#[tokio::test]
async fn what_writes_missed_is_made_once_the_drive_is_back() {
    let world = World::new(5);
    world.shards.set_fault(DriveId(3), Some(Fault::Down));
    let mut bodies = Vec::new();
    let mut missed = 0;
    for number in 0..20 {
        let (body, count) = world.put(&format!("key {number}")).await;
        bodies.push(body);
        missed += count as u64;
    }
    assert!(missed > 20);
    assert_eq!(world.open().await, missed);
    let left = |left| IntentsDone {
        left,
        ..IntentsDone::default()
    };
    assert_eq!(world.work_off().await, left(missed));
    assert_eq!(world.open().await, missed);

    let (stop, stopped) = watch::channel(false);
    let working = spawn(world.worker().run(stopped));
    world.shards.set_fault(DriveId(3), None);
    for _ in 0..4000 {
        if world.open().await == 0 {
            break;
        }
        sleep(Duration::from_millis(5)).await;
    }
    stop.send(true).unwrap();
    working.await.unwrap();
    assert_eq!(world.open().await, 0);
    for body in &bodies {
        let rebuilt = world.rebuilder().rebuild_body(body).await.unwrap();
        assert_eq!(rebuilt, 0, "all shards are there and right");
    }
    assert_eq!(world.shards.len(), 20 * 3 * 4);
    assert_eq!(world.pool.in_use_bytes(), 0);
}

#[tokio::test]
async fn a_chunk_whose_drives_do_not_answer_is_not_taken_for_a_deleted_one() {
    let world = World::new(4);
    for drive in [3, 4] {
        world.shards.set_fault(DriveId(drive), Some(Fault::Down));
    }
    let (_, missed) = world.put("key").await;
    assert_eq!(missed, 6);
    for drive in 1..=4 {
        let fault = (drive <= 2).then_some(Fault::Broken);
        world.shards.set_fault(DriveId(drive), fault);
    }
    assert_eq!(world.work_off().await.left, 6);
    assert_eq!(world.open().await, 6);
    for drive in 1..=2 {
        world.shards.set_fault(DriveId(drive), None);
    }
    assert_eq!(world.work_off().await.written, 6);
    assert_eq!(world.open().await, 0);
    assert_eq!(world.shards.len(), 3 * 4);
}

#[tokio::test]
async fn what_was_missed_of_a_freed_body_is_forgotten() {
    let world = World::new(4);
    world.shards.set_fault(DriveId(4), Some(Fault::Down));
    world.put("deleted").await;
    world.put("kept").await;
    assert_eq!(world.open().await, 6);
    let metadata = &world.test.metadata;
    let any = Condition::default();
    metadata.delete(BUCKET, "deleted", &any).await.unwrap();
    let reclaimer = Reclaimer::new(
        metadata.clone(),
        world.test.directory.clone(),
        world.shards.clone(),
        world.map.clone(),
        Arc::new(|| (1..=16).map(GroupId).collect()),
        Arc::new(SystemClock),
        ReclaimConfig {
            grace: Duration::ZERO,
            ..ReclaimConfig::default()
        },
    );
    sleep(Duration::from_millis(5)).await;
    for group in (1..=16).map(GroupId) {
        reclaimer.reclaim(group).await.unwrap();
    }
    assert_eq!(world.open().await, 3);
    world.shards.set_fault(DriveId(4), None);
    assert_eq!(world.work_off().await.written, 3);
    assert_eq!(world.shards.len(), 3 * 4);
}

#[expect(clippy::disallowed_methods, reason = "a test's own pace")]
async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}
