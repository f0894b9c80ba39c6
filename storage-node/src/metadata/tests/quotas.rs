//! Quotas: what is counted, what is refused, and that no more is in a bucket than may be.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, Either, join, join_all, select};
use holdfast_placement::consensus::ProposeError;
use holdfast_placement::directory::{Bucket, CreateBucket};
use holdfast_placement::ids::{GroupId, UploadId};
use holdfast_placement::seams::{Clock, ManualClock, Rng, SeededRng, SystemRng, UnixMillis, spawn};
use parking_lot::Mutex;

use super::{any, chunked_version, completion, inline_version, new_upload, part};
use crate::metadata::apply_rename::Intent;
use crate::metadata::command::{Command, Outcome, RenameVerdict};
use crate::metadata::testing::{HastyClock, TestMetadata};
use crate::metadata::{
    Amount, Appended, Body, BucketVersioning, CompleteUploadError, Deletion, ListParts,
    ListVersions, MetadataError, NewBytes, NewVersion, Quota, Rename, RenameCondition, RenameId,
    Room, VersionRef, Versioning, WriteError, bucket_quota, make_room, set_bucket_quota,
};

/// How long a writer looks for room.
const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    test: TestMetadata,
    bucket: Arc<Bucket>,
}

fn quota(bytes: u64, objects: u64) -> Option<Quota> {
    Some(Quota {
        bytes: Some(bytes),
        objects: Some(objects),
    })
}

impl World {
    async fn new(versioning: Versioning) -> Self {
        let test = TestMetadata::new(Arc::new(HastyClock), Arc::new(SystemRng));
        let made = test.directory.create_bucket("b", "me", "eu").await;
        let CreateBucket::Created(bucket) = made.unwrap() else {
            panic!("the name was free");
        };
        let set = BucketVersioning {
            change: 1,
            versioning,
            ..BucketVersioning::default()
        };
        test.metadata.set_versioning(bucket.id, set).await.unwrap();
        Self { test, bucket }
    }

    /// Another gateway over the same groups.
    fn other(&self, seed: u64, trouble: u64) -> Self {
        let clock = Arc::new(HastyClock);
        let rng = Arc::new(SeededRng::new(seed));
        Self {
            test: self.test.split(16, clock, rng, seed, trouble),
            bucket: self.bucket.clone(),
        }
    }

    async fn set(&self, quota: Option<Quota>) {
        let (directory, metadata) = (&self.test.directory, &self.test.metadata);
        let set = set_bucket_quota(directory, metadata, &self.bucket, quota);
        assert!(set.await.unwrap());
    }

    async fn used(&self) -> Amount {
        let (directory, metadata) = (&self.test.directory, &self.test.metadata);
        let standing = bucket_quota(directory, metadata, &self.bucket).await;
        standing.unwrap().used.expect("it is counted")
    }

    /// Counts an entry or two of some of the bucket's lanes.
    async fn count_a_bit(&self, rng: &SeededRng) {
        let metadata = &self.test.metadata;
        for (group, lane) in metadata.lanes(self.bucket.id) {
            if rng.below(2) == 0 {
                let entries = 1 + rng.below(2) as u32;
                let step = metadata.count_step(self.bucket.id, group, lane, entries);
                step.await.unwrap();
            }
        }
    }

    /// As a gateway does it; `false`: refused for the quota.
    async fn put(&self, key: &str, new: NewVersion) -> Result<bool, WriteError> {
        let any = any();
        loop {
            let put = self
                .test
                .metadata
                .put(self.bucket.id, key, new.clone(), &any);
            match put.await {
                Ok(_) => return Ok(true),
                Err(WriteError::OverQuota(need)) => {
                    if !self.room(key, need).await? {
                        return Ok(false);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn room(&self, key: &str, need: Amount) -> Result<bool, WriteError> {
        let room = self.look_for_room(key, need, PATIENCE).await?;
        Ok(room == Room::TryAgain)
    }

    async fn look_for_room(
        &self,
        key: &str,
        need: Amount,
        patience: Duration,
    ) -> Result<Room, MetadataError> {
        let (directory, metadata) = (&self.test.directory, &self.test.metadata);
        make_room(directory, metadata, &self.bucket, key, need, patience).await
    }

    /// A key of another group, and so of another lane.
    fn key_elsewhere(&self, key: &str) -> String {
        let group = |key: &str| self.test.metadata.place(self.bucket.id, key).group;
        let mut keys = (0..1000).map(|number| format!("e{number}"));
        keys.find(|other| group(other) != group(key)).unwrap()
    }

    async fn upload(&self, key: &str) -> UploadId {
        let upload = self
            .test
            .metadata
            .create_upload(self.bucket.id, key, new_upload());
        upload.await.unwrap()
    }

    async fn part(&self, key: &str, upload: UploadId, number: u16, body: u64, size: u64) -> bool {
        loop {
            let new = part(number, body, size);
            let put = self
                .test
                .metadata
                .put_part(self.bucket.id, key, upload, new);
            match put.await {
                Ok(_) => return true,
                Err(WriteError::OverQuota(need)) => {
                    if !self.room(key, need).await.unwrap() {
                        return false;
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn complete(&self, key: &str, upload: UploadId) -> bool {
        let (metadata, bucket) = (&self.test.metadata, self.bucket.id);
        let list = ListParts {
            upload,
            after: 0,
            max: 100,
        };
        let page = metadata.list_parts(bucket, key, &list).await.unwrap();
        let mut parts = page.unwrap().parts;
        // Not all are named.
        parts.truncate(2);
        loop {
            let complete = completion(upload, parts.clone());
            match metadata
                .complete_upload(bucket, key, complete, &any())
                .await
            {
                Ok(_) => return true,
                Err(CompleteUploadError::Write(WriteError::OverQuota(need))) => {
                    if !self.room(key, need).await.unwrap() {
                        return false;
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn rename(&self, from: &str, to: &str) -> bool {
        let (metadata, bucket) = (&self.test.metadata, self.bucket.id);
        loop {
            match metadata.rename(bucket, from, to, &Rename::default()).await {
                Ok(()) | Err(WriteError::NoSuchKey) => return true,
                Err(WriteError::OverQuota(need)) => {
                    if !self.room(to, need).await.unwrap() {
                        return false;
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Appends to an object whose bytes are in chunks, if there is one.
    async fn append(&self, key: &str, body: u64, size: u64) -> bool {
        let (metadata, bucket) = (&self.test.metadata, self.bucket.id);
        let Some(record) = metadata.head(bucket, key).await.unwrap() else {
            return true;
        };
        let Body::Chunked(body) = super::chunked(body, size) else {
            unreachable!()
        };
        let appended = Appended {
            base: record.summary.version,
            added: NewBytes::Part {
                size,
                md5: [1; 16],
                checksum: None,
                body,
                missed: Vec::new(),
            },
            size: record.summary.size + size,
            etag: record.summary.etag,
            checksum: None,
        };
        let any = any();
        loop {
            let done = metadata.append(bucket, key, appended.clone(), &any).await;
            match done {
                // An empty one is in no chunks.
                Ok(_) | Err(WriteError::BaseChanged) => return true,
                Err(WriteError::OverQuota(need)) => {
                    if !self.room(key, need).await.unwrap() {
                        return false;
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn delete(&self, key: &str, version: Option<VersionRef>) {
        let deletion = Deletion {
            key: key.to_owned(),
            version,
            ..Deletion::default()
        };
        let deleted = self.test.metadata.delete_version(self.bucket.id, &deletion);
        deleted.await.unwrap();
    }
}

#[tokio::test]
async fn the_last_byte_and_the_last_object_can_be_used() {
    let world = World::new(Versioning::Off).await;
    world.put("before", chunked_version(1, 700)).await.unwrap();
    world.set(quota(1000, 4)).await;
    assert_eq!(
        world.used().await,
        Amount {
            bytes: 700,
            objects: 1
        }
    );
    assert!(!world.put("a", chunked_version(2, 301)).await.unwrap());
    assert!(world.put("a", chunked_version(3, 300)).await.unwrap());
    assert!(!world.put("b", inline_version(4, "x")).await.unwrap());
    // Overwriting with as much is nothing new, and with less gives back.
    assert!(world.put("a", chunked_version(5, 300)).await.unwrap());
    assert!(world.put("a", chunked_version(6, 290)).await.unwrap());
    assert!(world.put("b", chunked_version(7, 5)).await.unwrap());
    assert!(world.put("c", chunked_version(8, 5)).await.unwrap());
    assert_eq!(
        world.used().await,
        Amount {
            bytes: 1000,
            objects: 4
        }
    );
    world.delete("c", None).await;
    world.delete("c", None).await;
    assert!(world.put("d", chunked_version(9, 5)).await.unwrap());
    assert!(!world.put("e", chunked_version(10, 0)).await.unwrap());
    world.set(None).await;
    assert!(world.put("e", chunked_version(11, 5000)).await.unwrap());
}

#[tokio::test]
async fn a_quota_that_is_less_than_there_is_lets_nothing_in_until_enough_is_gone() {
    let world = World::new(Versioning::Off).await;
    for number in 0..40 {
        let key = format!("k{number}");
        world.put(&key, chunked_version(number, 10)).await.unwrap();
    }
    world.set(quota(200, 1000)).await;
    for number in 0..20 {
        assert!(!world.put("new", chunked_version(100, 1)).await.unwrap());
        world.delete(&format!("k{number}"), None).await;
        assert!(!world.put("new", chunked_version(100, 1)).await.unwrap());
    }
    world.delete("k20", None).await;
    assert!(!world.put("new", chunked_version(100, 11)).await.unwrap());
    assert!(world.put("new", chunked_version(100, 10)).await.unwrap());
    assert_eq!(
        world.used().await,
        Amount {
            bytes: 200,
            objects: 20
        }
    );
}

#[tokio::test]
async fn a_round_that_was_cut_short_does_no_harm() {
    let world = World::new(Versioning::Off).await;
    world.set(quota(100, 100)).await;
    // What was left of the share of a lane was given back, and its giver is gone.
    let other = world.other(3, 0);
    assert!(other.put("a", chunked_version(1, 60)).await.unwrap());
    world.test.groups.restart();
    assert!(world.put("b", chunked_version(2, 40)).await.unwrap());
    assert!(!other.put("c", chunked_version(3, 1)).await.unwrap());
    assert_eq!(
        world.used().await,
        Amount {
            bytes: 100,
            objects: 2
        }
    );
}

/// Everything that adds and removes, at random: what is kept count of is what a fresh count finds, and never too much.
#[tokio::test]
async fn at_random_the_count_is_right() {
    let seed = std::env::var("HOLDFAST_SEED").ok();
    let seed = seed.map_or_else(|| SystemRng.next_u64(), |seed| seed.parse().unwrap());
    println!("HOLDFAST_SEED={seed}");
    let rng = SeededRng::new(seed);
    let versionings = [Versioning::Off, Versioning::Enabled, Versioning::Suspended];
    let first = rng.below(3) as usize;
    let world = World::new(versionings[first]).await;
    let limit = Amount {
        bytes: 2_000,
        objects: 25,
    };
    let mut change = 1;
    let mut uploads: Vec<(String, UploadId)> = Vec::new();
    let (mut made, mut refused) = (0, 0);
    for step in 0..500u64 {
        // For some steps there is no quota, and what is in the bucket is counted bit by bit.
        let is_bounded = step > 50 && !(20..=50).contains(&(step % 100));
        match step % 100 {
            20 => world.set(None).await,
            21..50 => world.count_a_bit(&rng).await,
            50 => {
                world.set(quota(1 << 40, 1 << 40)).await;
                let counted = world.used().await;
                world.set(None).await;
                world.set(quota(limit.bytes, limit.objects)).await;
                assert_eq!(world.used().await, counted, "step {step}: counted at once");
            }
            _ => {}
        }
        let before = match is_bounded {
            true => world.used().await,
            false => Amount::default(),
        };
        let key = format!("k{}", rng.below(12));
        let size = rng.below(300);
        let done = match rng.below(12) {
            0..=3 => world.put(&key, chunked_version(step, size)).await.unwrap(),
            4 => {
                let upload = world.upload(&key).await;
                for number in 1..=3 {
                    let body = 1_000_000 + step * 10 + u64::from(number);
                    world.part(&key, upload, number, body, size / 2 + 1).await;
                }
                uploads.push((key, upload));
                true
            }
            5 if !uploads.is_empty() => {
                let at = rng.below(uploads.len() as u64) as usize;
                let (key, upload) = uploads[at].clone();
                let number = 1 + rng.below(3) as u16;
                let body = 2_000_000 + step;
                world.part(&key, upload, number, body, size + 1).await
            }
            6 if !uploads.is_empty() => {
                let at = rng.below(uploads.len() as u64) as usize;
                let (key, upload) = uploads.swap_remove(at);
                let has_parts = world.part(&key, upload, 1, 3_000_000 + step, 1).await;
                if has_parts && world.complete(&key, upload).await {
                    true
                } else {
                    let aborted = world
                        .test
                        .metadata
                        .abort_upload(world.bucket.id, &key, upload);
                    aborted.await.unwrap();
                    false
                }
            }
            7 => {
                change += 1;
                let set = BucketVersioning {
                    change,
                    // Once kept, versions are never not kept any more.
                    versioning: versionings[if first == 0 {
                        0
                    } else {
                        1 + rng.below(2) as usize
                    }],
                    ..BucketVersioning::default()
                };
                let metadata = &world.test.metadata;
                metadata.set_versioning(world.bucket.id, set).await.unwrap();
                true
            }
            8 => {
                let list = ListVersions {
                    max: 1000,
                    ..ListVersions::default()
                };
                let metadata = &world.test.metadata;
                let page = metadata
                    .list_versions(world.bucket.id, &list)
                    .await
                    .unwrap();
                if !page.entries.is_empty() {
                    let at = rng.below(page.entries.len() as u64) as usize;
                    let entry = &page.entries[at];
                    world.delete(&entry.key, Some(entry.summary.name())).await;
                }
                true
            }
            9 if first == 0 => {
                let to = format!("k{}", rng.below(12));
                to == key || world.rename(&key, &to).await
            }
            10 if first == 0 => world.append(&key, 4_000_000 + step, size + 1).await,
            _ => {
                world.delete(&key, None).await;
                true
            }
        };
        match done {
            true => made += 1,
            false => refused += 1,
        }
        if rng.below(20) == 0 {
            world.test.groups.restart();
        }
        if is_bounded {
            let used = world.used().await;
            // Too much may be there from before the quota was set; it only gets less.
            assert!(
                used.bytes <= limit.bytes.max(before.bytes),
                "step {step}: {used:?}"
            );
            assert!(
                used.objects <= limit.objects.max(before.objects),
                "step {step}: {used:?}"
            );
        }
    }
    assert!(made > 0 && refused > 0, "{made} made, {refused} refused");
    let kept = world.used().await;
    world.set(None).await;
    world.set(quota(limit.bytes, limit.objects)).await;
    assert_eq!(world.used().await, kept, "counted afresh");
}

/// Keys on either side of where a count has come to change while it is under way.
#[tokio::test]
async fn what_changes_while_it_is_counted_is_counted_once() {
    let world = World::new(Versioning::Enabled).await;
    let key = |number: u64| format!("k{number:03}");
    let write = |number, body, size| {
        let world = &world;
        async move {
            let version = chunked_version(body, size);
            assert!(world.put(&key(number), version).await.unwrap());
        }
    };
    for number in (0..300).step_by(3) {
        write(number, number, 10).await;
        write(number, 1000 + number, 7).await;
        let upload = world.upload(&key(number)).await;
        let size = 1 + number;
        assert!(
            world
                .part(&key(number), upload, 1, 5000 + number, size)
                .await
        );
        if number % 2 == 0 {
            assert!(world.complete(&key(number), upload).await);
        }
    }
    let rng = SeededRng::new(5);
    for round in 0..8 {
        world.count_a_bit(&rng).await;
        for number in (round..300).step_by(8) {
            let body = 10_000 + 1000 * round + number;
            match number % 5 {
                0 => write(number, body, 3).await,
                1 => world.delete(&key(number), None).await,
                2 => write(number + 1, body, 2).await,
                _ => {
                    let upload = world.upload(&key(number)).await;
                    assert!(world.part(&key(number), upload, 1, body, 4).await);
                }
            }
        }
        if round == 4 {
            world.test.groups.restart();
        }
    }
    world.set(quota(1 << 40, 1 << 40)).await;
    let counted = world.used().await;
    world.set(None).await;
    world.set(quota(1 << 40, 1 << 40)).await;
    assert_eq!(world.used().await, counted);
    assert!(counted.objects > 300, "{counted:?}");
}

/// Many writers at three gateways, some of whose messages get lost, fill a bucket: exactly.
#[tokio::test]
async fn racing_writers_fill_a_bucket_to_the_last_byte() {
    let world = World::new(Versioning::Off).await;
    world.set(quota(1000, 1 << 40)).await;
    let gateways = [world.other(11, 0), world.other(12, 5), world.other(13, 0)];
    let writers = (0..60u64).map(|writer| {
        let gateway = &gateways[writer as usize % 3];
        async move {
            let mut written = 0;
            for number in 0..4 {
                let key = format!("w{writer}-{number}");
                let put = gateway.put(&key, chunked_version(writer * 10 + number, 7));
                // One whose answer was lost may be there or not.
                if let Ok(true) = put.await {
                    written += 1;
                }
            }
            written
        }
    });
    let written: u64 = join_all(writers).await.into_iter().sum();
    let used = world.used().await;
    assert!(used.bytes <= 1000, "{used:?}");
    assert!(written <= used.objects, "{written} {used:?}");
    // 142 of them fit, and 6 bytes are left.
    while world
        .put(
            &format!("x{}", world.used().await.objects),
            chunked_version(9999, 7),
        )
        .await
        .unwrap()
    {}
    assert_eq!(
        world.used().await,
        Amount {
            bytes: 994,
            objects: 142
        }
    );
    assert!(world.put("last", chunked_version(9998, 6)).await.unwrap());
    assert!(!world.put("more", chunked_version(9997, 1)).await.unwrap());
    assert_eq!(world.used().await.bytes, 1000);
}

/// Time that passes while somebody sleeps: a little each time that he is asked whether he is awake.
#[derive(Clone)]
struct PassingClock(ManualClock);

impl Clock for PassingClock {
    fn wall(&self) -> UnixMillis {
        self.0.wall()
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let clock = self.clone();
        Box::pin(async move {
            let until = clock.monotonic() + duration;
            while clock.monotonic() < until {
                clock.0.advance(Duration::from_millis(5));
                tokio::task::yield_now().await;
            }
        })
    }
}

/// How long a group without a quorum takes to say so.
const NO_QUORUM: Duration = Duration::from_secs(5);

/// A world in which time passes, with a gateway that may be unable to reach a group.
struct Troubled {
    world: World,
    clock: PassingClock,
    lost: Arc<Mutex<Option<GroupId>>>,
}

impl Troubled {
    async fn new(limit: Option<Quota>) -> Self {
        let world = World::new(Versioning::Off).await;
        world.set(limit).await;
        let clock = PassingClock(ManualClock::at(HastyClock.wall()));
        let lost = Arc::new(Mutex::new(None));
        let (group_lost, time) = (lost.clone(), clock.clone());
        let hook = move |group| -> BoxFuture<'static, Option<ProposeError>> {
            let is_lost = *group_lost.lock() == Some(group);
            let time = time.clone();
            Box::pin(async move {
                if !is_lost {
                    return None;
                }
                time.sleep(NO_QUORUM).await;
                Some(ProposeError::NoQuorum { group })
            })
        };
        let rng = Arc::new(SeededRng::new(7));
        let test = world
            .test
            .hooked(16, Arc::new(clock.clone()), rng, Box::new(hook));
        let bucket = world.bucket.clone();
        Self {
            world: World { test, bucket },
            clock,
            lost,
        }
    }

    /// Loses the group of a key.
    fn lose(&self, key: &str) {
        let place = self.world.test.metadata.place(self.world.bucket.id, key);
        *self.lost.lock() = Some(place.group);
    }
}

fn bytes(bytes: u64) -> Amount {
    Amount { bytes, objects: 0 }
}

#[tokio::test]
async fn who_waited_while_others_got_all_the_room_is_not_told_that_there_was_none() {
    let Troubled { world, clock, lost } = Troubled::new(quota(100, 100)).await;
    let world = Arc::new(world);
    // A round that its maker left while it was under way.
    let elsewhere = world.key_elsewhere("k");
    let place = world.test.metadata.place(world.bucket.id, &elsewhere);
    *lost.lock() = Some(place.group);
    {
        let left = std::pin::pin!(world.look_for_room("k", bytes(100), PATIENCE));
        let soon = clock.sleep(NO_QUORUM / 2);
        assert!(matches!(select(left, soon).await, Either::Right(_)));
    }
    *lost.lock() = None;
    // Who looks first has gone away, and looks on.
    let first = world.clone();
    let first = spawn(async move { first.look_for_room("k", bytes(100), PATIENCE).await });
    tokio::task::yield_now().await;
    let before = clock.monotonic();
    let second = world.look_for_room("k", bytes(100), PATIENCE);
    let (second, first) = join(second, first).await;
    assert!(clock.monotonic() > before, "nobody waited for the round");
    assert_eq!(first.unwrap().unwrap(), Room::TryAgain);
    assert_eq!(second.unwrap(), Room::TryAgain);
    assert!(world.put("k", chunked_version(1, 100)).await.unwrap());
    // What is more than there ever was is refused to all who waited for the same round.
    let looks = (0..4).map(|_| world.look_for_room("k", bytes(1), PATIENCE));
    for look in join_all(looks).await {
        assert_eq!(look.unwrap(), Room::Exceeded);
    }
}

#[tokio::test]
async fn who_waits_for_a_round_that_not_all_lanes_take_part_in_waits_for_one() {
    let troubled = Troubled::new(quota(100, 100)).await;
    let (world, clock) = (&troubled.world, &troubled.clock);
    let elsewhere = world.key_elsewhere("k");
    assert!(world.put("k", chunked_version(1, 90)).await.unwrap());
    troubled.lose(&elsewhere);
    let began = clock.monotonic();
    let looks = (0..20).map(|_| world.look_for_room("k", bytes(11), PATIENCE));
    for look in join_all(looks).await {
        assert!(
            matches!(look, Err(MetadataError::Unavailable(_))),
            "{look:?}"
        );
    }
    // Theirs, and one that was under way when they came.
    let took = clock.monotonic() - began;
    assert!(took < 3 * NO_QUORUM, "{took:?}");
    // What the others have room for is found there.
    let looks = (0..20).map(|_| world.look_for_room("k", bytes(9), PATIENCE));
    for look in join_all(looks).await {
        assert_eq!(look.unwrap(), Room::TryAgain);
    }
    assert!(world.put("k", chunked_version(2, 99)).await.unwrap());
    // The directory may be what cannot be reached.
    *troubled.lost.lock() = Some(GroupId::PLACEMENT);
    let began = clock.monotonic();
    let looks = (0..20).map(|_| world.look_for_room("k", bytes(1), PATIENCE));
    for look in join_all(looks).await {
        assert!(
            matches!(look, Err(MetadataError::Unavailable(_))),
            "{look:?}"
        );
    }
    let took = clock.monotonic() - began;
    assert!(took < 3 * NO_QUORUM, "{took:?}");
}

#[tokio::test]
async fn nobody_waits_longer_than_he_has_patience() {
    let troubled = Troubled::new(quota(100, 100)).await;
    let (world, clock) = (&troubled.world, &troubled.clock);
    troubled.lose(&world.key_elsewhere("k"));
    let began = clock.monotonic();
    let first = world.look_for_room("k", bytes(101), PATIENCE);
    let second = async {
        let patience = NO_QUORUM / 5;
        let look = world.look_for_room("k", bytes(101), patience).await;
        assert!(
            matches!(look, Err(MetadataError::Unavailable(_))),
            "{look:?}"
        );
        clock.monotonic() - began
    };
    let (first, took) = join(first, second).await;
    assert!(first.is_err());
    assert!(took < NO_QUORUM / 2, "{took:?}");
}

#[tokio::test]
async fn a_rename_that_was_left_half_way_takes_no_room_from_others() {
    let world = World::new(Versioning::Off).await;
    world.set(quota(100, 100)).await;
    let (metadata, bucket) = (&world.test.metadata, world.bucket.id);
    assert!(world.put("k", chunked_version(1, 40)).await.unwrap());
    let to = world.key_elsewhere("k");
    // For the destination.
    let need = Amount {
        bytes: 40,
        objects: 1,
    };
    assert!(world.room(&to, need).await.unwrap());
    let mut id = [9; 16];
    id[..6].copy_from_slice(&HastyClock.wall().0.to_be_bytes()[2..]);
    let place = metadata.place(bucket, "k");
    let begin = Command::BeginRename {
        at: place.address,
        condition: RenameCondition::default(),
        intent: Intent {
            id: RenameId(id),
            to: to.clone(),
            condition: RenameCondition::default(),
            token: None,
            table: UploadId(id),
        },
    };
    let begun = metadata.decide(place.group, &begin, &[]).await.unwrap().1;
    assert_eq!(begun, Outcome::Renamed(RenameVerdict::Moved));
    let question = crate::metadata::rename::FindRename { at: place };
    let way = metadata.asker.ask(place.group, &question).await.unwrap();
    let received = metadata.receive_rename(&place, &way.unwrap()).await;
    assert_eq!(received.unwrap(), RenameVerdict::Moved);
    assert_eq!(world.used().await.bytes, 80);
    // Nobody ends it, or looks at its source. There is room for so much, and not for more.
    let new = world.key_elsewhere(&to);
    assert!(!world.put(&new, chunked_version(2, 61)).await.unwrap());
    assert!(world.put(&new, chunked_version(3, 60)).await.unwrap());
    let used = Amount {
        bytes: 100,
        objects: 2,
    };
    assert_eq!(world.used().await, used);
    assert!(metadata.head(bucket, "k").await.unwrap().is_none());
    assert!(metadata.head(bucket, &to).await.unwrap().is_some());
}
