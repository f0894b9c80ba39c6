//! The reclaim worker over metadata and shards in memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_placement::ids::{BucketId, ChunkSetId, DriveId, GroupId, SiteId};
use holdfast_placement::protection::Protection;
use holdfast_placement::seams::{Clock, ManualClock, SeededRng, SystemClock, UnixMillis};

use super::{ReclaimConfig, Reclaimed, Reclaimer};
use crate::buffer::{BufferPool, PoolConfig};
use crate::memory_shards::{Fault, MemoryShards};
use crate::metadata::testing::TestMetadata;
use crate::metadata::{
    Body, ChunkedBody, Condition, Etag, NewPart, NewUpload, NewVersion, ObjectHeaders, VersionLock,
};
use crate::repair::rebuild::tests::map_of;
use crate::repair::{LedGroups, shards_of};
use crate::shards::{ShardFacts, Shards};

/// A process that leads everything.
fn every_group() -> LedGroups {
    Arc::new(|| (0..=16).map(GroupId).collect())
}

const BUCKET: BucketId = BucketId(7);
const PROTECTION: Protection = Protection { data: 2, parity: 1 };

struct World {
    clock: ManualClock,
    test: TestMetadata,
    shards: Arc<MemoryShards>,
    pool: BufferPool,
    reclaimer: Reclaimer,
    rng: SeededRng,
}

impl World {
    fn new() -> Self {
        let clock = ManualClock::at(UnixMillis(1_700_000_000_000));
        let test = TestMetadata::new(Arc::new(clock.clone()), Arc::new(SeededRng::new(1)));
        let shards = Arc::new(MemoryShards::new(Arc::new(SystemClock)));
        let reclaimer = Reclaimer::new(
            test.metadata.clone(),
            shards.clone(),
            map_of(4, PROTECTION),
            every_group(),
            Arc::new(clock.clone()),
            ReclaimConfig {
                batch: 3,
                ..ReclaimConfig::default()
            },
        );
        Self {
            clock,
            test,
            shards,
            pool: BufferPool::new(PoolConfig::with_budget(16 << 20), Arc::new(SystemClock)),
            reclaimer,
            rng: SeededRng::new(2),
        }
    }

    /// Puts shards of two chunks, six in all.
    async fn body(&self) -> Body {
        let body = ChunkedBody {
            set: ChunkSetId::random(&self.rng),
            len: 1500,
            chunk_len: 1000,
            protection: PROTECTION,
            site: SiteId(0),
        };
        let map = self.reclaimer.map.load();
        for (drive, id) in shards_of(&map, &body, 0..2) {
            let mut buffer = self.pool.try_acquire(10).unwrap();
            buffer.extend_from_slice(b"0123456789");
            let facts = ShardFacts {
                epoch: map.epoch,
                chunk_hash: [0; 32],
                chunk_len: 1000,
            };
            self.shards.put(drive, id, facts, buffer).await.unwrap();
        }
        Body::Chunked(body)
    }

    async fn put(&self, key: &str) {
        let version = NewVersion {
            size: 1500,
            etag: Etag::Md5([0; 16]),
            checksum: None,
            body: self.body().await,
            inline: Bytes::new(),
            missed: Vec::new(),
            headers: ObjectHeaders::default(),
            tags: Vec::new(),
            lock: VersionLock::default(),
        };
        self.test
            .metadata
            .put(BUCKET, key, version, &Condition::default())
            .await
            .unwrap();
    }

    async fn reclaim(&self) -> Reclaimed {
        let mut done = Reclaimed::default();
        for group in 1..=16 {
            done.add(self.reclaimer.reclaim(GroupId(group)).await.unwrap());
        }
        done
    }
}

#[tokio::test]
async fn overwritten_bodies_are_freed_after_their_grace() {
    let world = World::new();
    for i in 0..20 {
        world.put(&format!("key-{}", i % 5)).await;
    }
    assert_eq!(world.shards.len(), 20 * 6);
    assert_eq!(world.reclaim().await, Reclaimed::default());
    world.clock.advance(Duration::from_secs(59));
    assert_eq!(world.reclaim().await, Reclaimed::default());
    world.clock.advance(Duration::from_secs(2));
    let done = world.reclaim().await;
    assert_eq!((done.entries, done.shards_deleted), (15, 15 * 6));
    assert_eq!(world.shards.len(), 5 * 6);
    assert_eq!(world.reclaim().await, Reclaimed::default());
}

/// Entries are dated by the clock of whoever overwrote.
#[tokio::test]
async fn the_grace_is_as_long_where_clocks_differ() {
    let world = World::new();
    let slow = Arc::new(ManualClock::at(UnixMillis(1_700_000_000_000 - 240_000)));
    let rng = Arc::new(SeededRng::new(3));
    let test = world.test.split(16, slow, rng, 1, 0);
    let world = World { test, ..world };
    world.put("key").await;
    world.put("key").await;
    assert_eq!(world.reclaim().await, Reclaimed::default());
    world.clock.advance(Duration::from_secs(40));
    world.put("key").await;
    assert_eq!(world.reclaim().await, Reclaimed::default());
    world.clock.advance(Duration::from_secs(19));
    assert_eq!(world.reclaim().await, Reclaimed::default());
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(world.reclaim().await.entries, 1, "the other is younger");
    world.clock.advance(Duration::from_secs(40));
    assert_eq!(world.reclaim().await.entries, 1);
    assert_eq!(world.shards.len(), 6);
}

#[tokio::test]
async fn a_drive_that_is_down_holds_nothing_up_but_one_that_fails_does() {
    let world = World::new();
    for _ in 0..9 {
        world.put("key").await;
    }
    assert_eq!(world.reclaim().await, Reclaimed::default());
    world.clock.advance(Duration::from_secs(61));
    world.shards.set_fault(DriveId(1), Some(Fault::Broken));
    let done = world.reclaim().await;
    assert_eq!(done.entries, 0, "they are tried again");
    assert!(done.shards_deleted > 0);
    world.shards.set_fault(DriveId(1), Some(Fault::Down));
    let done = world.reclaim().await;
    assert_eq!(done.entries, 8);
    assert!(done.shards_left > 0);
    assert_eq!(world.reclaim().await, Reclaimed::default());
    assert!(world.shards.len() >= 6);
}

#[tokio::test]
async fn abandoned_uploads_leave_nothing() {
    let world = World::new();
    let upload = NewUpload {
        headers: ObjectHeaders::default(),
        tags: Vec::new(),
        lock: VersionLock::default(),
        checksum: None,
    };
    let metadata = &world.test.metadata;
    for round in 0..2 {
        let id = metadata
            .create_upload(BUCKET, "key", upload.clone())
            .await
            .unwrap();
        for number in 1..=3 {
            let part = NewPart {
                number,
                size: 1500,
                md5: [0; 16],
                checksum: None,
                body: world.body().await,
                missed: Vec::new(),
            };
            metadata.put_part(BUCKET, "key", id, part).await.unwrap();
        }
        if round == 0 {
            world.clock.advance(Duration::from_secs(7 * 24 * 3600 + 1));
        }
    }
    let mut done = Reclaimed::default();
    for group in 1..=16 {
        done.add(
            world
                .reclaimer
                .abort_stale_uploads(GroupId(group))
                .await
                .unwrap(),
        );
    }
    assert_eq!(done.uploads_aborted, 1, "the other one is young");
    assert_eq!(world.reclaim().await, Reclaimed::default());
    world.clock.advance(Duration::from_secs(61));
    let done = world.reclaim().await;
    assert_eq!(done.shards_deleted, 3 * 6);
    assert_eq!(world.shards.len(), 3 * 6);
}

#[tokio::test]
async fn the_worker_wakes_frees_and_stops() {
    let world = World::new();
    let clock = Arc::new(SystemClock);
    let test = TestMetadata::new(clock.clone(), Arc::new(SeededRng::new(1)));
    let reclaimer = Reclaimer::new(
        test.metadata.clone(),
        world.shards.clone(),
        map_of(4, PROTECTION),
        every_group(),
        clock.clone(),
        ReclaimConfig {
            grace: Duration::ZERO,
            pause_min: Duration::from_secs(3600),
            pause_max: Duration::from_secs(3600),
            ..ReclaimConfig::default()
        },
    );
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let worker = holdfast_placement::seams::spawn(reclaimer.clone().run(stopped));
    let world = World { test, ..world };
    world.put("key").await;
    world.put("key").await;
    for _ in 0..2000 {
        // What was queued this very millisecond is not yet older than now.
        reclaimer.wake();
        clock.sleep(Duration::from_millis(5)).await;
        if world.shards.len() == 6 {
            break;
        }
    }
    assert_eq!(world.shards.len(), 6);
    stop.send(true).unwrap();
    worker.await.unwrap();
}
