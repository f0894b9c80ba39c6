//! The reclaim worker over metadata and shards in memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_placement::directory::CreateBucket;
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
            test.directory.clone(),
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
async fn uploads_end_with_their_bucket_and_not_by_age() {
    let world = World::new();
    let upload = NewUpload {
        headers: ObjectHeaders::default(),
        tags: Vec::new(),
        lock: VersionLock::default(),
        checksum: None,
    };
    let (metadata, directory) = (&world.test.metadata, &world.test.directory);
    let mut uploads = Vec::new();
    for name in ["kept", "deleted", "young"] {
        if name == "young" {
            world.clock.advance(Duration::from_secs(100 * 24 * 3600));
        }
        let CreateBucket::Created(bucket) =
            directory.create_bucket(name, "me", "eu").await.unwrap()
        else {
            panic!("it is new");
        };
        // More than a batch, in one group.
        for _ in 0..7 {
            let id = metadata
                .create_upload(bucket.id, "key", upload.clone())
                .await;
            let id = id.unwrap();
            let part = NewPart {
                number: 1,
                size: 1500,
                md5: [0; 16],
                checksum: None,
                body: world.body().await,
                missed: Vec::new(),
            };
            metadata.put_part(bucket.id, "key", id, part).await.unwrap();
            uploads.push((bucket.id, id));
        }
        if name != "kept" {
            // As a node does that dies before the uploads are ended.
            let closing = directory.begin_delete(name).await.unwrap().unwrap();
            assert!(directory.finish_delete(&closing).await.unwrap());
        }
    }
    let reclaimer = &world.reclaimer;
    let before = reclaimer.before(reclaimer.config.upload_interval);
    let living = reclaimer.living_buckets().await.unwrap();
    let mut done = Reclaimed::default();
    for group in 1..=16 {
        let aborted = reclaimer.abort_uploads_without_bucket(GroupId(group), before, &living);
        done.add(aborted.await.unwrap());
    }
    assert_eq!(done.uploads_aborted, 7);
    for (index, (bucket, id)) in uploads.into_iter().enumerate() {
        let left = metadata.upload(bucket, "key", id).await.unwrap();
        assert_eq!(left.is_some(), !(7..14).contains(&index), "{index}");
    }
    assert_eq!(world.reclaim().await, Reclaimed::default());
    world.clock.advance(Duration::from_secs(61));
    let done = world.reclaim().await;
    assert_eq!(done.shards_deleted, 7 * 6);
    assert_eq!(world.shards.len(), 14 * 6);
}

#[tokio::test]
async fn the_worker_wakes_frees_and_stops() {
    let world = World::new();
    let clock = Arc::new(SystemClock);
    let test = TestMetadata::new(clock.clone(), Arc::new(SeededRng::new(1)));
    let reclaimer = Reclaimer::new(
        test.metadata.clone(),
        test.directory.clone(),
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
