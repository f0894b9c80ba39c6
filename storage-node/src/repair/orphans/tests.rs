//! Orphans among bodies that are referred to in every way there is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_placement::ids::{BucketId, ChunkSetId, DriveId, Epoch, SiteId};
use holdfast_placement::map::SharedMap;
use holdfast_placement::protection::Protection;
use holdfast_placement::seams::{Clock, ManualClock, SeededRng, SystemClock, UnixMillis};
use parking_lot::Mutex;

use super::{OrphanScan, OrphansFound, ScanOrphansError};
use crate::buffer::{BufferPool, PoolConfig};
use crate::memory_shards::MemoryShards;
use crate::metadata::testing::TestMetadata;
use crate::metadata::{
    Body, ChunkedBody, CompleteUpload, Condition, Etag, NewPart, NewUpload, NewVersion,
    ObjectHeaders, VersionLock,
};
use crate::repair::rebuild::tests::map_of;
use crate::repair::shards_of;
use crate::shards::{ShardFacts, Shards};

const BUCKET: BucketId = BucketId(7);
const PROTECTION: Protection = Protection { data: 2, parity: 1 };
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A clock that can be set.
#[derive(Clone, Default)]
struct SetClock {
    inner: ManualClock,
    set_by: Arc<Mutex<u64>>,
}

impl Clock for SetClock {
    fn wall(&self) -> UnixMillis {
        UnixMillis(self.inner.wall().0 + *self.set_by.lock())
    }
    fn monotonic(&self) -> Duration {
        self.inner.monotonic()
    }
    fn sleep(&self, duration: Duration) -> futures_util::future::BoxFuture<'static, ()> {
        self.inner.sleep(duration)
    }
}

struct World {
    clock: SetClock,
    test: TestMetadata,
    shards: Arc<MemoryShards>,
    map: SharedMap,
    pool: BufferPool,
    scan: OrphanScan,
    rng: SeededRng,
}

impl World {
    fn new() -> Self {
        let clock = SetClock {
            inner: ManualClock::at(UnixMillis(1_700_000_000_000)),
            ..SetClock::default()
        };
        let test = TestMetadata::new(Arc::new(clock.clone()), Arc::new(SeededRng::new(1)));
        let shards = Arc::new(MemoryShards::new(Arc::new(SystemClock)));
        let map = map_of(4, PROTECTION);
        let scan = OrphanScan::new(
            test.metadata.clone(),
            shards.clone(),
            map.clone(),
            Arc::new(clock.clone()),
        );
        Self {
            clock,
            test,
            shards,
            map,
            pool: BufferPool::new(PoolConfig::with_budget(16 << 20), Arc::new(SystemClock)),
            scan,
            rng: SeededRng::new(2),
        }
    }

    /// Six shards.
    async fn body(&self) -> Body {
        let body = ChunkedBody {
            set: ChunkSetId::begun(self.clock.wall(), &self.rng),
            len: 1500,
            chunk_len: 1000,
            protection: PROTECTION,
            site: SiteId(0),
        };
        let map = self.map.load();
        for (drive, id) in shards_of(&map, &body, 0..2) {
            let mut buffer = self.pool.try_acquire(10).unwrap();
            buffer.extend_from_slice(b"0123456789");
            let facts = ShardFacts {
                epoch: Epoch(1),
                chunk_hash: [0; 32],
                chunk_len: 1000,
            };
            self.shards.put(drive, id, facts, buffer).await.unwrap();
        }
        Body::Chunked(body)
    }

    async fn put(&self, key: &str, body: Body) {
        let version = NewVersion {
            size: 1500,
            etag: Etag::Md5([0; 16]),
            checksum: None,
            body,
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

    /// An upload with three parts.
    async fn upload(&self, key: &str, complete: bool) {
        let metadata = &self.test.metadata;
        let upload = NewUpload {
            headers: ObjectHeaders::default(),
            tags: Vec::new(),
            lock: VersionLock::default(),
            checksum: None,
        };
        let id = metadata.create_upload(BUCKET, key, upload).await.unwrap();
        for number in 1..=3 {
            let part = NewPart {
                number,
                size: 1500,
                md5: [0; 16],
                checksum: None,
                body: self.body().await,
                missed: Vec::new(),
            };
            metadata.put_part(BUCKET, key, id, part).await.unwrap();
        }
        if complete {
            let parts = metadata
                .list_parts(
                    BUCKET,
                    key,
                    &crate::metadata::ListParts {
                        upload: id,
                        after: 0,
                        max: 10,
                    },
                )
                .await
                .unwrap()
                .unwrap()
                .parts;
            let complete = CompleteUpload {
                upload: id,
                parts,
                size: 4500,
                etag: Etag::Multipart([0; 16], 3),
                checksum: None,
            };
            metadata
                .complete_upload(BUCKET, key, complete, &Condition::default())
                .await
                .unwrap();
        }
    }

    fn sets(&self) -> BTreeSet<ChunkSetId> {
        self.shards
            .shards()
            .into_iter()
            .map(|(_, id, _)| id.set)
            .collect()
    }
}

#[tokio::test]
async fn only_old_sets_that_nothing_refers_to_are_deleted() {
    let world = World::new();
    world.put("kept", world.body().await).await;
    world.put("overwritten", world.body().await).await;
    world.put("overwritten", world.body().await).await;
    world.upload("open", false).await;
    world.upload("complete", true).await;
    let referred = world.sets();
    assert_eq!(referred.len(), 3 + 3 + 3);
    for _ in 0..5 {
        world.body().await;
    }
    let found = world.scan.scan().await.unwrap();
    assert_eq!(found, OrphansFound::default(), "all are young");
    world.clock.inner.advance(DAY + Duration::from_secs(1));
    world.body().await;
    let found = world.scan.scan().await.unwrap();
    assert_eq!(found.suspects, 9 + 5);
    assert_eq!((found.orphans, found.shards_deleted), (5, 5 * 6));
    let left = world.sets();
    assert_eq!(left.len(), 9 + 1, "a young one is left");
    assert!(referred.is_subset(&left));
    assert_eq!(world.scan.scan().await.unwrap().orphans, 0);
}

#[tokio::test]
async fn nothing_is_deleted_after_the_clock_was_set() {
    let world = World::new();
    world.body().await;
    *world.clock.set_by.lock() = 2 * DAY.as_millis() as u64;
    assert!(matches!(
        world.scan.scan().await,
        Err(ScanOrphansError::ClockWasSet)
    ));
    assert_eq!(world.shards.len(), 6);
}

#[tokio::test]
async fn orphans_of_one_drive_are_found_too() {
    let world = World::new();
    let Body::Chunked(body) = world.body().await else {
        panic!("a chunked body");
    };
    for (drive, id, _) in world.shards.shards() {
        if drive != DriveId(1) {
            world.shards.lose(drive, id);
        }
    }
    let here = world.shards.len() as u64;
    world.clock.inner.advance(DAY + Duration::from_secs(1));
    let found = world.scan.scan().await.unwrap();
    assert_eq!(
        (found.orphans, found.shards_deleted),
        (u64::from(here > 0), here)
    );
    assert!(!world.sets().contains(&body.set));
}

#[tokio::test]
async fn all_drives_get_on_together() {
    let mut world = World::new();
    world.scan.suspects_max = 40;
    world.scan.suspects_min = 1;
    for key in 0..80 {
        world.put(&key.to_string(), world.body().await).await;
        world.clock.inner.advance(Duration::from_millis(1));
        if key % 8 == 0 {
            world.body().await;
        }
    }
    world.clock.inner.advance(DAY + Duration::from_secs(1));
    let found = world.scan.scan().await.unwrap();
    assert_eq!((found.orphans, world.sets().len()), (10, 80));
    // No more than twice each: those behind the end of a step are suspected again in the next.
    assert!(found.suspects < 2 * 90, "{found:?}");
}
