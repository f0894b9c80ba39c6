//! Objects that are encoded anew while others write, over shards and metadata in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_placement::directory::Directory;
use holdfast_placement::ids::{BucketId, ChunkSetId, DriveId, Epoch, GroupId, SiteId, UploadId};
use holdfast_placement::map::{DriveState, SharedMap};
use holdfast_placement::protection::Protection;
use holdfast_placement::seams::{Clock, Rng, SeededRng, SystemClock, spawn};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{ReencodeConfig, ReencodeControl, ReencodeState, Reencoder};
use crate::buffer::{BufferPool, PoolConfig};
use crate::memory_shards::{Fault, MemoryShards};
use crate::metadata::testing::TestMetadata;
use crate::metadata::{
    Body, ChunkedBody, CompleteUpload, Condition, Etag, ListParts, Metadata, NewPart, NewUpload,
    NewVersion, ObjectHeaders, PartRecord, Usage, VersionLock, VersionSummary,
};
use crate::repair::rebuild::chunk_lens;
use crate::repair::rebuild::tests::{map_of, store_body};
use crate::repair::{Floor, Rebuilder, ReclaimConfig, Reclaimer, shards_of};

const BUCKET: BucketId = BucketId(1);
const CHUNK_LEN: u32 = 20_000;
const WEAK: Protection = Protection::NONE;
const STRONG: Protection = Protection { data: 2, parity: 2 };

/// What can be used by several tasks.
#[derive(Clone)]
struct World {
    metadata: Metadata,
    directory: Arc<Directory>,
    shards: Arc<MemoryShards>,
    map: SharedMap,
    pool: BufferPool,
}

/// An object as it should be.
struct Expected {
    data: Vec<u8>,
    summary: VersionSummary,
}

impl World {
    /// Six drives that used to have no redundancy.
    fn new() -> Self {
        let clock = Arc::new(SystemClock);
        let test = TestMetadata::new(clock.clone(), Arc::new(SeededRng::new(1)));
        Self {
            metadata: test.metadata,
            directory: test.directory,
            shards: Arc::new(MemoryShards::new(clock.clone())),
            map: map_of(6, STRONG),
            pool: BufferPool::new(PoolConfig::with_budget(16 << 20), clock),
        }
    }

    fn rebuilder(&self) -> Rebuilder {
        Rebuilder::new(
            self.shards.clone(),
            self.map.clone(),
            self.pool.clone(),
            Arc::new(SystemClock),
        )
    }

    fn reencoder(&self, bytes_per_second: u64) -> Reencoder {
        Reencoder {
            metadata: self.metadata.clone(),
            rebuilder: self.rebuilder(),
            shards: self.shards.clone(),
            map: self.map.clone(),
            pool: self.pool.clone(),
            clock: Arc::new(SystemClock),
            rng: Arc::new(SeededRng::new(3)),
            led: Arc::new(|| (0..=16).map(GroupId).collect()),
            config: ReencodeConfig {
                bytes_per_second,
                batch: 3,
                pause: Duration::from_millis(5),
                look_pause: Duration::from_millis(5),
            },
            control: ReencodeControl::default(),
        }
    }

    fn reclaimer(&self) -> Reclaimer {
        Reclaimer::new(
            self.metadata.clone(),
            self.directory.clone(),
            self.shards.clone(),
            self.map.clone(),
            Arc::new(|| (1..=16).map(GroupId).collect()),
            Arc::new(SystemClock),
            ReclaimConfig {
                grace: Duration::ZERO,
                ..ReclaimConfig::default()
            },
        )
    }

    async fn store(&self, data: &[u8], protection: Protection, rng: &SeededRng) -> Body {
        let body = ChunkedBody {
            set: ChunkSetId::begun(SystemClock.wall(), rng),
            len: data.len() as u64,
            chunk_len: CHUNK_LEN,
            protection,
            site: SiteId(0),
        };
        store_body(
            &*self.shards,
            &self.map.load(),
            &self.pool,
            &body,
            data,
            &[],
        )
        .await;
        Body::Chunked(body)
    }

    async fn put(&self, key: &str, protection: Protection, rng: &SeededRng) -> Expected {
        let data = random_bytes(rng);
        let version = NewVersion {
            size: data.len() as u64,
            etag: etag(rng),
            checksum: None,
            body: self.store(&data, protection, rng).await,
            inline: Bytes::new(),
            missed: Vec::new(),
            headers: ObjectHeaders::default(),
            tags: Vec::new(),
            lock: VersionLock::default(),
        };
        let any = Condition::default();
        let put = self.metadata.put(BUCKET, key, version, &any).await;
        let summary = put.unwrap();
        Expected { data, summary }
    }

    /// An upload with three parts; gives what these are together.
    async fn upload(&self, key: &str, rng: &SeededRng) -> (UploadId, Vec<u8>) {
        let new = NewUpload {
            headers: ObjectHeaders::default(),
            tags: Vec::new(),
            lock: VersionLock::default(),
            checksum: None,
        };
        let created = self.metadata.create_upload(BUCKET, key, new).await;
        let upload = created.unwrap();
        let mut data = Vec::new();
        for number in 1..=3 {
            let bytes = random_bytes(rng);
            let part = NewPart {
                number,
                size: bytes.len() as u64,
                md5: [number as u8; 16],
                checksum: None,
                body: self.store(&bytes, WEAK, rng).await,
                missed: Vec::new(),
            };
            let put = self.metadata.put_part(BUCKET, key, upload, part).await;
            put.unwrap();
            data.extend(bytes);
        }
        (upload, data)
    }

    async fn parts(&self, key: &str, upload: UploadId) -> Vec<PartRecord> {
        let list = ListParts {
            upload,
            after: 0,
            max: 10,
        };
        let page = self.metadata.list_parts(BUCKET, key, &list).await.unwrap();
        page.unwrap().parts
    }

    /// `None` if its parts got other chunks in the middle: whoever completes an upload looks again then.
    async fn complete(&self, key: &str, upload: UploadId, size: u64) -> Option<VersionSummary> {
        let complete = CompleteUpload {
            upload,
            parts: self.parts(key, upload).await,
            size,
            etag: Etag::Multipart([1; 16], 3),
            checksum: None,
        };
        let any = Condition::default();
        let completed = self.metadata.complete_upload(BUCKET, key, complete, &any);
        completed.await.ok()
    }

    /// Reads a body; adds its set to `sets`.
    async fn read(&self, body: &Body, sets: &mut BTreeSet<ChunkSetId>) -> Vec<u8> {
        let Body::Chunked(body) = body else {
            panic!("{body:?}");
        };
        sets.insert(body.set);
        let mut data = Vec::new();
        for chunk in 0..body.chunks() {
            let lens = chunk_lens(body.layout_of(chunk));
            let memory = self.pool.reserve(&lens).await.unwrap();
            let rebuilder = self.rebuilder();
            let whole = rebuilder.read_chunk(body, chunk, &memory).await.unwrap();
            whole
                .expect("it is there")
                .data
                .iter()
                .for_each(|bytes| data.extend_from_slice(bytes));
        }
        data
    }

    /// The bytes of an object.
    async fn read_object(&self, key: &str, sets: &mut BTreeSet<ChunkSetId>) -> Expected {
        let record = self.metadata.head(BUCKET, key).await.unwrap().unwrap();
        let data = match &record.body {
            Body::Multipart { table, .. } => {
                let parts = self.metadata.parts_after(BUCKET, key, *table, 0, 10);
                let mut data = Vec::new();
                for (_, part) in parts.await.unwrap() {
                    data.extend(self.read(&part.body, sets).await);
                }
                data
            }
            body => self.read(body, sets).await,
        };
        let summary = record.summary;
        Expected { data, summary }
    }

    async fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for group in (1..=16).map(GroupId) {
            let of_group = self.metadata.usage(group).await.unwrap();
            usage.add_all(&of_group);
            usage.repairs_open += of_group.repairs_open;
        }
        usage
    }

    fn below(&self, usage: &Usage) -> u64 {
        Floor::of(&self.map.load()).below(usage).bodies
    }

    /// The sets of all shards, wherever they are.
    fn sets(&self) -> BTreeSet<ChunkSetId> {
        let shards = self.shards.shards().into_iter();
        shards.map(|(_, id, _)| id.set).collect()
    }
}

fn random_bytes(rng: &SeededRng) -> Vec<u8> {
    let mut data = vec![0; 1 + rng.below(4 * u64::from(CHUNK_LEN)) as usize];
    rng.fill(&mut data);
    data
}

fn etag(rng: &SeededRng) -> Etag {
    let mut md5 = [0; 16];
    rng.fill(&mut md5);
    Etag::Md5(md5)
}

/// Runs the job; gives its control, what stops it for good, and its end.
fn begin(reencoder: Reencoder) -> (ReencodeControl, watch::Sender<bool>, JoinHandle<()>) {
    let control = reencoder.control.clone();
    let (stop, stopped) = watch::channel(false);
    let running = spawn(reencoder.run(stopped));
    (control, stop, running)
}

async fn until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..4000 {
        if done() {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("never came: {what}");
}

#[expect(clippy::disallowed_methods, reason = "a test's own pace")]
async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Writes, overwrites, deletes and uploads under keys of its own; gives what is there in the end, and open uploads.
async fn mutate(
    world: World,
    name: u64,
    rng: SeededRng,
) -> (
    BTreeMap<String, Expected>,
    BTreeMap<(String, UploadId), Vec<u8>>,
) {
    let mut objects = BTreeMap::new();
    let mut uploads: BTreeMap<(String, UploadId), Vec<u8>> = BTreeMap::new();
    for _ in 0..250 {
        let key = format!("{name}/{}", rng.below(12));
        match rng.below(10) {
            0..5 => {
                let protection = [WEAK, WEAK, STRONG][rng.below(3) as usize];
                let put = world.put(&key, protection, &rng).await;
                objects.insert(key, put);
            }
            5..7 => {
                let any = Condition::default();
                world.metadata.delete(BUCKET, &key, &any).await.unwrap();
                objects.remove(&key);
            }
            7 => {
                let (upload, data) = world.upload(&key, &rng).await;
                uploads.insert((key, upload), data);
            }
            _ => {
                let Some(((key, upload), data)) = uploads.pop_first() else {
                    continue;
                };
                if rng.below(4) == 0 {
                    let aborted = world.metadata.abort_upload(BUCKET, &key, upload).await;
                    aborted.unwrap();
                    continue;
                }
                let size = data.len() as u64;
                let summary = loop {
                    if let Some(summary) = world.complete(&key, upload, size).await {
                        break summary;
                    }
                };
                objects.insert(key, Expected { data, summary });
            }
        }
        tokio::task::yield_now().await;
    }
    (objects, uploads)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_byte_is_lost_and_none_left_behind_while_others_write() {
    let seed = std::env::var("HOLDFAST_SEED").map_or(0x2E3C, |text| text.parse().unwrap());
    println!("HOLDFAST_SEED={seed}");
    let world = World::new();
    let (control, stop, running) = begin(world.reencoder(1 << 40));
    control.start();
    let mutators: Vec<_> = (0..4)
        .map(|name| {
            let rng = SeededRng::new(seed + name);
            spawn(mutate(world.clone(), name, rng))
        })
        .collect();
    let reclaiming = {
        let reclaimer = world.reclaimer();
        let (stop, stopped) = watch::channel(false);
        let task = spawn(async move {
            while !*stopped.borrow() {
                for group in (1..=16).map(GroupId) {
                    reclaimer.reclaim(group).await.unwrap();
                }
                tokio::task::yield_now().await;
            }
        });
        (stop, task)
    };
    let mut objects = BTreeMap::new();
    let mut uploads = BTreeMap::new();
    for mutator in mutators {
        let (own, open) = mutator.await.unwrap();
        objects.extend(own);
        uploads.extend(open);
    }
    // From the beginning again, with nobody else at work.
    control.stop();
    until("it stops", || {
        control.progress().state == ReencodeState::Stopped
    })
    .await;
    control.start();
    until("it is done", || {
        control.progress().state == ReencodeState::Done
    })
    .await;
    stop.send(true).unwrap();
    running.await.unwrap();
    reclaiming.0.send(true).unwrap();
    reclaiming.1.await.unwrap();
    sleep(Duration::from_millis(5)).await;
    for group in (1..=16).map(GroupId) {
        world.reclaimer().reclaim(group).await.unwrap();
    }

    let progress = control.progress();
    println!("{progress:?}");
    assert!(progress.bodies_done > 30, "{progress:?}");
    let mut sets = BTreeSet::new();
    for (key, expected) in &objects {
        let found = world.read_object(key, &mut sets).await;
        assert!(found.data == expected.data, "{key} has other bytes");
        assert_eq!(found.summary, expected.summary, "{key}");
    }
    for ((key, upload), expected) in &uploads {
        let mut data = Vec::new();
        for part in world.parts(key, *upload).await {
            data.extend(world.read(&part.body, &mut sets).await);
        }
        assert!(data == *expected, "an upload of {key} has other bytes");
    }
    assert_eq!(world.sets(), sets, "nothing else is left");
    let usage = world.usage().await;
    assert_eq!(world.below(&usage), 0, "{usage:?}");
    assert_eq!(usage.chunked.len(), 1, "{usage:?}");
    assert_eq!(usage.chunked[0].1.bodies, sets.len() as u64);
    assert_eq!(world.pool.in_use_bytes(), 0);
}

#[tokio::test]
async fn a_job_that_is_stopped_or_overtaken_by_another_map_leaves_nothing() {
    let world = World::new();
    let rng = SeededRng::new(5);
    let data = vec![7; 4 * CHUNK_LEN as usize];
    let version = NewVersion {
        size: data.len() as u64,
        etag: etag(&rng),
        checksum: None,
        body: world.store(&data, WEAK, &rng).await,
        inline: Bytes::new(),
        missed: Vec::new(),
        headers: ObjectHeaders::default(),
        tags: Vec::new(),
        lock: VersionLock::default(),
    };
    let any = Condition::default();
    let put = world.metadata.put(BUCKET, "key", version, &any).await;
    put.unwrap();
    assert_eq!(world.shards.len(), 4);
    // Ten chunks a second.
    let (control, stop, running) = begin(world.reencoder(10 * u64::from(CHUNK_LEN)));
    assert_eq!(control.progress().state, ReencodeState::Stopped);
    for round in 0..2 {
        control.start();
        until("a chunk is written", || world.shards.len() > 4).await;
        if round == 0 {
            control.stop();
        } else {
            let mut map = (*world.map.load()).clone();
            map.epoch = Epoch(2);
            map.protection = WEAK;
            world.map.update(map);
        }
        until("it is deleted", || world.shards.len() == 4).await;
    }
    // By the new map nothing is below.
    until("it is done", || {
        control.progress().state == ReencodeState::Done
    })
    .await;
    assert_eq!(control.progress().bodies_done, 0);
    stop.send(true).unwrap();
    running.await.unwrap();
    let mut sets = BTreeSet::new();
    assert!(world.read_object("key", &mut sets).await.data == data);
}

#[tokio::test]
async fn with_a_drive_down_the_missing_shards_are_remembered() {
    let world = World::new();
    let rng = SeededRng::new(6);
    let mut expected = BTreeMap::new();
    for number in 0..10 {
        let key = format!("key {number}");
        let put = world.put(&key, WEAK, &rng).await;
        expected.insert(key, put.data);
    }
    // A drive that has none of them now.
    let taken: BTreeSet<DriveId> = world.shards.shards().iter().map(|shard| shard.0).collect();
    let down = (1..=6).map(DriveId).find(|drive| !taken.contains(drive));
    let down = down.unwrap_or(DriveId(6));
    let lost_anyway: BTreeSet<ChunkSetId> = world
        .shards
        .shards()
        .iter()
        .filter(|(drive, ..)| *drive == down)
        .map(|(_, id, _)| id.set)
        .collect();
    world.shards.set_fault(down, Some(Fault::Down));
    let (control, stop, running) = begin(world.reencoder(1 << 40));
    control.start();
    let reachable = 10 - lost_anyway.len() as u64;
    until("all that can be read is encoded", || {
        control.progress().bodies_done == reachable
    })
    .await;
    let usage = world.usage().await;
    assert_eq!(world.below(&usage), lost_anyway.len() as u64);
    assert!(usage.repairs_open > 0 || reachable == 0);
    world.shards.set_fault(down, None);
    until("the others follow", || control.progress().bodies_done == 10).await;
    stop.send(true).unwrap();
    running.await.unwrap();
    for (key, data) in &expected {
        let found = world.read_object(key, &mut BTreeSet::new()).await;
        assert!(found.data == *data, "{key}");
    }
    // What is missing is what is remembered.
    let mut missing = 0;
    let map = world.map.load();
    for key in expected.keys() {
        let record = world.metadata.head(BUCKET, key).await.unwrap().unwrap();
        let Body::Chunked(body) = record.body else {
            panic!("{:?}", record.body);
        };
        let held: BTreeSet<_> = world
            .shards
            .shards()
            .into_iter()
            .map(|(drive, id, _)| (drive, id))
            .collect();
        let all = shards_of(&map, &body, 0..body.chunks());
        missing += all.filter(|place| !held.contains(place)).count() as u64;
    }
    assert_eq!(world.usage().await.repairs_open, missing);
}

/// A drain was ordered when no body needed all drives; one that was being written meanwhile does.
#[tokio::test]
async fn bodies_that_the_ring_has_no_place_for_are_encoded_anew_unasked() {
    let world = World::new();
    let rng = SeededRng::new(8);
    let wide = Protection { data: 4, parity: 2 };
    let wide = world.put("wide", wide, &rng).await;
    let weak = world.put("weak", WEAK, &rng).await;
    let mut map = world.map.load().as_ref().clone();
    map.epoch = Epoch(map.epoch.0 + 1);
    map.drives[5].state = DriveState::Draining;
    let members = map.members(SiteId(0));
    map.rings[0].1 = map.rings[0]
        .1
        .rebalanced(&members, &[map.protection.slots()]);
    world.map.update(map);
    let (control, stop, running) = begin(world.reencoder(1 << 40));
    until("the wide one is encoded anew", || {
        control.progress().bodies_done > 0
    })
    .await;
    stop.send(true).unwrap();
    running.await.unwrap();
    assert_eq!(control.progress().bodies_done, 1);
    for (key, put, protection) in [("wide", wide, STRONG), ("weak", weak, WEAK)] {
        let record = world.metadata.head(BUCKET, key).await.unwrap().unwrap();
        let Body::Chunked(body) = record.body else {
            panic!("{:?}", record.body);
        };
        assert_eq!(body.protection, protection, "{key}");
        let found = world.read_object(key, &mut BTreeSet::new()).await;
        assert!(found.data == put.data, "{key}");
    }
}
