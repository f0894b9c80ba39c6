//! Bodies against shards in memory.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_placement::ids::{DriveId, Epoch, NodeId, SiteId};
use holdfast_placement::map::{ClusterMap, DriveState, SharedMap};
use holdfast_placement::protection::Protection;
use holdfast_placement::seams::{Clock, Rng, SeededRng, SystemClock};
use holdfast_placement::testing;
use holdfast_storage_node::buffer::{Buffer, BufferPool, PoolConfig};
use holdfast_storage_node::memory_shards::{Fault, MemoryShards};
use holdfast_storage_node::metadata::{Body, ChunkedBody};
use holdfast_storage_node::put_gate::PutGates;
use holdfast_storage_node::shard_store::{
    DeleteShardError, GetShardError, PutShardError, ShardId, ShardInfo,
};
use holdfast_storage_node::shards::{ShardFacts, Shards};
use http_body_util::BodyExt;

use super::{Bodies, BodiesConfig, BodyPiece, ByteSource, Written};
use crate::error::{Code, S3Error};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Frames, and then perhaps an error.
struct Frames {
    frames: VecDeque<Bytes>,
    error: Option<S3Error>,
    /// Gives control away before each frame.
    yields: bool,
    /// Leaves its checksum to the reader, who then tells it.
    leaves_crc64: bool,
    crc64: Option<u64>,
}

impl ByteSource for Frames {
    async fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
        if self.yields {
            tokio::task::yield_now().await;
        }
        match self.frames.pop_front() {
            Some(frame) => Ok(Some(frame)),
            None => self.error.take().map_or(Ok(None), Err),
        }
    }

    fn leave_crc64(&mut self) -> bool {
        self.leaves_crc64
    }

    fn set_crc64(&mut self, crc64: u64) -> Result<(), S3Error> {
        assert!(self.frames.is_empty() && self.leaves_crc64);
        self.crc64 = Some(crc64);
        Ok(())
    }
}

/// `data` in frames of random lengths.
fn frames(data: &Bytes, rng: &SeededRng) -> Frames {
    let mut rest = data.clone();
    let mut frames = VecDeque::new();
    let longest = [1000, 16 * KIB, 300 * KIB, 8 * MIB][rng.below(4) as usize];
    while !rest.is_empty() {
        let len = (1 + rng.below(longest as u64) as usize).min(rest.len());
        frames.push_back(rest.split_to(len));
    }
    Frames {
        frames,
        error: None,
        yields: rng.below(2) == 0,
        leaves_crc64: rng.below(2) == 0,
        crc64: None,
    }
}

fn random_bytes(len: usize, rng: &SeededRng) -> Bytes {
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes.into()
}

fn seed() -> u64 {
    let seed = std::env::var("HOLDFAST_SEED").map_or(0xB0D7, |text| text.parse().unwrap());
    println!("HOLDFAST_SEED={seed}");
    seed
}

struct World {
    shards: Arc<MemoryShards>,
    map: SharedMap,
    pool: BufferPool,
    bodies: Bodies,
}

fn world(drives: u64, protection: Protection, budget: usize, config: BodiesConfig) -> World {
    world_with(drives, protection, PoolConfig::with_budget(budget), config)
}

/// A map of one host with so many drives, all up.
pub(super) fn map_of(drives: u64, protection: Protection) -> SharedMap {
    SharedMap::new(testing::map_of_one_host(drives, protection))
}

fn world_with(
    drives: u64,
    protection: Protection,
    pool: PoolConfig,
    config: BodiesConfig,
) -> World {
    let map = map_of(drives, protection);
    let clock = Arc::new(SystemClock);
    let shards = Arc::new(MemoryShards::new(clock.clone()));
    let pool = BufferPool::new(pool, clock.clone());
    let bodies = Bodies::new(
        shards.clone(),
        map.clone(),
        pool.clone(),
        clock,
        Arc::new(SeededRng::new(7)),
        config,
    );
    World {
        shards,
        map,
        pool,
        bodies,
    }
}

fn small_chunks() -> BodiesConfig {
    BodiesConfig {
        chunk_len: 256 * KIB as u32,
        window_len: 64 * KIB as u32,
        ..BodiesConfig::default()
    }
}

fn chunked(written: &Written) -> ChunkedBody {
    match written.body {
        Body::Chunked(body) => body,
        ref other => panic!("not chunked: {other:?}"),
    }
}

async fn read(bodies: &Bodies, pieces: Vec<BodyPiece>) -> Result<Bytes, String> {
    let mut body = bodies
        .read(pieces)
        .await
        .map_err(|error| error.to_string())?;
    let mut collected = Vec::new();
    // As a server does: no frame is kept while the next is asked for.
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| error.to_string())?;
        collected.extend_from_slice(&frame.into_data().expect("data"));
    }
    Ok(collected.into())
}

/// Waits until `done`, without hope: it must come to be.
async fn until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..2000 {
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

#[tokio::test]
async fn any_body_comes_back_in_any_range_with_as_many_faults_as_parity() {
    let seed = seed();
    for round in 0..150 {
        let rng = SeededRng::new(seed + round);
        let protection = Protection {
            data: 1 + rng.below(12) as u8,
            parity: rng.below(5) as u8,
        };
        let world = world(16, protection, 64 * MIB, small_chunks());
        let len = match rng.below(4) {
            0 => rng.below(100) as usize,
            1 => 256 * KIB * (1 + rng.below(4) as usize),
            _ => rng.below(2 * MIB as u64) as usize,
        };
        let data = random_bytes(len, &rng);
        let known = (rng.below(2) == 0).then_some(len as u64);
        let inline_max = [0, 0, 32 * KIB][rng.below(3) as usize];
        let told = format!(
            "seed {} {protection} len {len} known {known:?}",
            seed + round
        );
        let mut source = frames(&data, &rng);
        let written = world.bodies.write(&mut source, known, inline_max);
        let written = written.await.unwrap();
        assert_eq!(written.len, len as u64, "{told}");
        // What becomes inline at once is not left to anybody.
        let left = source.leaves_crc64 && known.is_none_or(|len| len > inline_max as u64);
        let crc64 = left.then(|| crc_fast::crc64_nvme(&data));
        assert_eq!(source.crc64, crc64, "{told}");
        assert!(written.missed.is_empty(), "{told}");
        match &written.body {
            Body::Empty => assert_eq!(len, 0, "{told}"),
            Body::Inline => {
                assert!(len <= inline_max, "{told}");
                assert_eq!(written.inline, data, "{told}");
            }
            _ => {}
        }
        if len == 0 || len <= inline_max {
            assert!(world.shards.is_empty(), "{told}");
            continue;
        }
        let body = chunked(&written);
        assert_eq!(body.len, len as u64, "{told}");
        for (_, id, shard) in world.shards.shards() {
            let start = id.chunk as usize * 256 * KIB;
            let chunk = &data[start..(start + 256 * KIB).min(len)];
            assert_eq!(
                shard.facts.chunk_hash,
                *blake3::hash(chunk).as_bytes(),
                "{told}"
            );
            assert_eq!(shard.facts.chunk_len as usize, chunk.len(), "{told}");
        }
        // Up to m faults: of a whole drive, or of single shards in each chunk.
        let ring = world.map.load().ring(SiteId(0)).unwrap().clone();
        for chunk in 0..body.chunks() {
            let drives: Vec<_> = ring.targets(ring.partition_of(body.set, chunk)).collect();
            let mut slots: Vec<u8> = (0..protection.slots() as u8).collect();
            for _ in 0..rng.below(u64::from(protection.parity) + 1) {
                let slot = slots.swap_remove(rng.below(slots.len() as u64) as usize);
                let (drive, set) = (drives[slot as usize], body.set);
                let id = ShardId { set, chunk, slot };
                match rng.below(2) {
                    0 => world.shards.lose(drive, id),
                    _ => world.shards.corrupt(drive, id),
                };
            }
        }
        for _ in 0..6 {
            let mut pieces = Vec::new();
            let mut expected = Vec::new();
            for _ in 0..1 + rng.below(3) {
                let start = rng.below(len as u64 + 1);
                let end = start + rng.below(len as u64 - start + 1);
                expected.extend_from_slice(&data[start as usize..end as usize]);
                pieces.push(BodyPiece {
                    body,
                    range: start..end,
                });
            }
            let told = format!("{told} pieces {pieces:?}");
            let got = read(&world.bodies, pieces).await.expect(&told);
            assert!(got == expected, "{told}");
        }
        let whole = vec![BodyPiece {
            body,
            range: 0..body.len,
        }];
        assert!(read(&world.bodies, whole).await.unwrap() == data, "{told}");
        assert_eq!(world.pool.in_use_bytes(), 0, "{told}");
    }
}

#[tokio::test]
async fn what_drives_that_are_away_may_have_can_be_asked_for_again() {
    let protection = Protection { data: 3, parity: 2 };
    let world = world(6, protection, 64 * MIB, small_chunks());
    let rng = SeededRng::new(seed());
    let data = random_bytes(200 * KIB, &rng);
    let written = world
        .bodies
        .write(&mut frames(&data, &rng), None, 0)
        .await
        .unwrap();
    let body = chunked(&written);
    let ring = world.map.load().ring(SiteId(0)).unwrap().clone();
    let drives: Vec<_> = ring.targets(ring.partition_of(body.set, 0)).collect();
    for drive in &drives[..3] {
        world.shards.set_fault(*drive, Some(Fault::Down));
    }
    let whole = || {
        vec![BodyPiece {
            body,
            range: 0..body.len,
        }]
    };
    let error = world.bodies.read(whole()).await.unwrap_err();
    assert_eq!(error.code, Code::ServiceUnavailable);
    world.shards.set_fault(drives[0], None);
    assert_eq!(read(&world.bodies, whole()).await.unwrap(), data);
}

#[tokio::test]
async fn one_fault_too_many_is_an_error_and_never_data() {
    let protection = Protection { data: 3, parity: 2 };
    let world = world(6, protection, 64 * MIB, small_chunks());
    let rng = SeededRng::new(seed());
    let data = random_bytes(MIB, &rng);
    let written = world
        .bodies
        .write(&mut frames(&data, &rng), None, 0)
        .await
        .unwrap();
    let body = chunked(&written);
    let ring = world.map.load().ring(SiteId(0)).unwrap().clone();
    let last = body.chunks() - 1;
    let drives: Vec<_> = ring.targets(ring.partition_of(body.set, last)).collect();
    for slot in 0..3 {
        let set = body.set;
        let id = ShardId {
            set,
            chunk: last,
            slot,
        };
        assert!(world.shards.corrupt(drives[slot as usize], id));
    }
    let piece = |range| vec![BodyPiece { body, range }];
    // The end cannot be read: refused before the first byte.
    let error = world
        .bodies
        .read(piece(body.len - 10..body.len))
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::InternalError);
    // Found on the way: the body ends in an error, after right bytes only.
    let mut stream = world.bodies.read(piece(0..body.len)).await.unwrap();
    let mut got = Vec::new();
    let end = loop {
        match stream.frame().await {
            Some(Ok(frame)) => got.extend_from_slice(&frame.into_data().unwrap()),
            other => break other,
        }
    };
    assert!(matches!(end, Some(Err(_))));
    assert!(stream.frame().await.is_none());
    assert_eq!(got, &data[..last as usize * 256 * KIB]);
    assert!(world.bodies.counters().windows_lost >= 2);
    assert!(world.bodies.counters().corrupt_reads >= 3);
    assert_eq!(world.bodies.repairs().len(), 3);
    until("what was read ahead is given up", || {
        world.pool.in_use_bytes() == 0
    })
    .await;
}

#[tokio::test]
async fn writes_go_on_without_drives_that_are_down_or_full_as_the_rule_allows() {
    let protection = Protection { data: 4, parity: 2 };
    let rng = SeededRng::new(seed());
    let data = random_bytes(MIB, &rng);
    for (faults, expected) in [
        (vec![Fault::Down], Ok(4)),
        (vec![Fault::Down, Fault::Down], Ok(8)),
        (vec![Fault::Full], Ok(4)),
        (vec![Fault::Broken], Ok(4)),
        (vec![Fault::Full, Fault::Full], Err(Code::StorageFull)),
        (
            vec![Fault::Broken, Fault::Broken],
            Err(Code::ServiceUnavailable),
        ),
        (vec![Fault::Down; 3], Err(Code::ServiceUnavailable)),
    ] {
        let world = world(6, protection, 64 * MIB, small_chunks());
        for (fault, drive) in faults.iter().zip(1..) {
            world.shards.set_fault(DriveId(drive), Some(*fault));
        }
        let outcome = world
            .bodies
            .write(&mut frames(&data, &rng), Some(MIB as u64), 0)
            .await;
        match outcome {
            Ok(written) => {
                assert_eq!(Ok(written.missed.len()), expected, "{faults:?}");
                assert!(world.bodies.repairs().is_empty(), "it is committed");
                let body = chunked(&written);
                let whole = vec![BodyPiece {
                    body,
                    range: 0..body.len,
                }];
                assert!(
                    read(&world.bodies, whole).await.unwrap() == data,
                    "{faults:?}"
                );
            }
            Err(error) => {
                assert_eq!(Err(error.code), expected, "{faults:?}");
                for drive in 1..=6 {
                    world.shards.set_fault(DriveId(drive), None);
                }
                let broken = faults.contains(&Fault::Broken);
                until("a failed write leaves nothing", || {
                    broken || world.shards.is_empty()
                })
                .await;
            }
        }
    }
}

/// Patience that a test can wait for.
fn impatient() -> BodiesConfig {
    BodiesConfig {
        put_patience: Duration::from_millis(50),
        ..small_chunks()
    }
}

#[tokio::test]
async fn a_drive_that_hangs_is_waited_for_until_enough_others_are_done() {
    let rng = SeededRng::new(seed());
    let data = random_bytes(MIB, &rng);
    let protection = Protection { data: 4, parity: 2 };
    let world = world(6, protection, 64 * MIB, impatient());
    world.shards.set_fault(DriveId(3), Some(Fault::Hung));
    let written = world
        .bodies
        .write(&mut frames(&data, &rng), None, 0)
        .await
        .unwrap();
    assert_eq!(written.missed.len(), 4, "one of each chunk");
    assert_eq!(world.bodies.counters().late_shards, 4);
    assert_eq!(world.shards.len(), 4 * 5);
    world.shards.set_fault(DriveId(3), None);
    until("late shards come nevertheless", || {
        world.shards.len() == 4 * 6 && world.pool.in_use_bytes() == 0
    })
    .await;
}

#[tokio::test]
async fn with_no_shard_to_spare_a_hanging_drive_must_be_known_to_be_down() {
    let rng = SeededRng::new(seed());
    let data = random_bytes(200 * KIB, &rng);
    let protection = Protection { data: 2, parity: 1 };
    let world = world(3, protection, 64 * MIB, impatient());
    world.shards.set_fault(DriveId(3), Some(Fault::Hung));
    let bodies = world.bodies.clone();
    let mut source = frames(&data, &rng);
    let writing =
        holdfast_placement::seams::spawn(async move { bodies.write(&mut source, None, 0).await });
    until("the others have their shards", || world.shards.len() == 2).await;
    // Many times the patience: two shards of `2+1` are not enough while the third may be stored.
    sleep(Duration::from_millis(500)).await;
    assert!(!writing.is_finished());
    let mut map = (*world.map.load()).clone();
    map.epoch = Epoch(2);
    map.drives[2].state = DriveState::Down;
    world.map.update(map);
    let written = writing.await.unwrap().unwrap();
    assert_eq!(written.missed.len(), 1);
    let body = chunked(&written);
    let whole = vec![BodyPiece {
        body,
        range: 0..body.len,
    }];
    assert!(read(&world.bodies, whole).await.unwrap() == data);
}

#[tokio::test]
async fn late_shards_of_a_discarded_body_go_too() {
    let rng = SeededRng::new(seed());
    let data = random_bytes(200 * KIB, &rng);
    let protection = Protection { data: 2, parity: 2 };
    let world = world(4, protection, 64 * MIB, impatient());
    world.shards.set_fault(DriveId(1), Some(Fault::Hung));
    let written = world
        .bodies
        .write(&mut frames(&data, &rng), None, 0)
        .await
        .unwrap();
    assert_eq!(written.missed.len(), 1);
    world.bodies.discard(&written.body);
    sleep(Duration::from_millis(50)).await;
    world.shards.set_fault(DriveId(1), None);
    until("all four are deleted", || {
        world.shards.is_empty() && world.bodies.counters().discarded_shards == 4
    })
    .await;
    assert!(!world.shards.is_putting());
}

#[tokio::test]
async fn late_shards_hold_a_part_of_the_memory_only() {
    let rng = SeededRng::new(seed());
    let data = random_bytes(3 * MIB, &rng);
    let protection = Protection { data: 4, parity: 2 };
    let world = world(6, protection, 2 * MIB, impatient());
    world.shards.set_fault(DriveId(3), Some(Fault::Hung));
    let written = world
        .bodies
        .write(&mut frames(&data, &rng), None, 0)
        .await
        .unwrap();
    assert_eq!(written.missed.len(), 12);
    let held = world.pool.in_use_bytes();
    assert!(0 < held && held <= MIB / 2, "{held}");
    world.shards.set_fault(DriveId(3), None);
    until("it comes back", || world.pool.in_use_bytes() == 0).await;
}

#[tokio::test]
async fn what_a_map_says_is_down_is_not_asked() {
    let protection = Protection { data: 2, parity: 2 };
    let world = world(4, protection, 64 * MIB, small_chunks());
    let mut map = (*world.map.load()).clone();
    map.epoch = Epoch(2);
    map.drives[1].state = DriveState::Down;
    world.map.update(map);
    let rng = SeededRng::new(seed());
    let data = random_bytes(300 * KIB, &rng);
    let written = world
        .bodies
        .write(&mut frames(&data, &rng), None, 0)
        .await
        .unwrap();
    assert_eq!(written.missed.len(), 2);
    assert!(
        world
            .shards
            .shards()
            .iter()
            .all(|(drive, _, shard)| { *drive != DriveId(2) && shard.facts.epoch == Epoch(2) })
    );
    let body = chunked(&written);
    let whole = vec![BodyPiece {
        body,
        range: 0..body.len,
    }];
    assert!(read(&world.bodies, whole).await.unwrap() == data);
}

#[tokio::test]
async fn a_source_that_fails_or_lies_leaves_nothing() {
    let rng = SeededRng::new(seed());
    let world = world(
        3,
        Protection { data: 1, parity: 2 },
        64 * MIB,
        small_chunks(),
    );
    let data = random_bytes(MIB, &rng);
    let broken = || Frames {
        error: Some(Code::BadDigest.into()),
        ..frames(&data, &rng)
    };
    for (mut source, len, code) in [
        (broken(), Some(2 * MIB), Code::BadDigest),
        (broken(), Some(MIB), Code::BadDigest),
        (broken(), None, Code::BadDigest),
        (frames(&data, &rng), Some(MIB + 1), Code::IncompleteBody),
        (frames(&data, &rng), Some(MIB - 1), Code::InvalidRequest),
        (frames(&data, &rng), Some(768 * KIB), Code::InvalidRequest),
    ] {
        let len = len.map(|len| len as u64);
        let error = world.bodies.write(&mut source, len, 0).await.unwrap_err();
        assert_eq!(error.code, code, "{len:?}");
        until("what was stored is deleted", || world.shards.is_empty()).await;
    }
    let small = data.slice(..1000);
    for (len, code) in [(999, Code::InvalidRequest), (1001, Code::IncompleteBody)] {
        let mut source = frames(&small, &rng);
        let error = world
            .bodies
            .write(&mut source, Some(len), 4096)
            .await
            .unwrap_err();
        assert_eq!(error.code, code, "{len:?}");
    }
    assert_eq!(world.pool.in_use_bytes(), 0);
}

#[tokio::test]
async fn an_upload_that_is_dropped_at_any_moment_leaves_nothing() {
    let seed = seed();
    let mut dropped = 0;
    for round in 0..200 {
        let rng = SeededRng::new(seed + round);
        let world = world(
            4,
            Protection { data: 2, parity: 2 },
            64 * MIB,
            small_chunks(),
        );
        if rng.below(2) == 0 {
            world
                .shards
                .set_put_delay(Some(Duration::from_millis(rng.below(3))));
        }
        let data = random_bytes(MIB + rng.below(KIB as u64) as usize, &rng);
        let mut source = frames(&data, &rng);
        source.yields = true;
        let polls = rng.below(60);
        let finished = {
            let mut writing = pin!(world.bodies.write(&mut source, None, 0));
            let mut finished = false;
            for _ in 0..polls {
                let mut cx = Context::from_waker(Waker::noop());
                if let Poll::Ready(written) = writing.as_mut().poll(&mut cx) {
                    written.unwrap();
                    finished = true;
                    break;
                }
                tokio::task::yield_now().await;
            }
            finished
        };
        if finished {
            continue;
        }
        dropped += 1;
        until("all is deleted and given back", || {
            world.shards.is_empty() && !world.shards.is_putting() && world.pool.in_use_bytes() == 0
        })
        .await;
    }
    assert!(dropped > 50, "{dropped}");
}

#[tokio::test]
async fn discarded_bodies_are_freed() {
    let rng = SeededRng::new(seed());
    let world = world(
        3,
        Protection { data: 2, parity: 1 },
        64 * MIB,
        small_chunks(),
    );
    let data = random_bytes(MIB, &rng);
    let written = world
        .bodies
        .write(&mut frames(&data, &rng), None, 0)
        .await
        .unwrap();
    assert_eq!(world.shards.len(), 12);
    world.bodies.discard(&written.body);
    until("the shards are freed", || world.shards.is_empty()).await;
    assert_eq!(world.bodies.counters().discarded_shards, 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_and_readers_share_a_tiny_pool() {
    let rng = SeededRng::new(seed());
    let protection = Protection { data: 2, parity: 1 };
    // Eight chunks of 256 KiB with their parity and headers.
    let budget = 8 * (384 * KIB + 3 * 4096);
    let mut pool = PoolConfig::with_budget(budget);
    pool.wait_max = Duration::from_secs(20);
    let world = world_with(3, protection, pool, small_chunks());
    world.shards.set_put_delay(Some(Duration::from_millis(1)));
    let data = random_bytes(700 * KIB, &rng);
    let mut tasks = Vec::new();
    for i in 0..256 {
        let bodies = world.bodies.clone();
        let data = data.clone();
        tasks.push(holdfast_placement::seams::spawn(async move {
            let rng = SeededRng::new(i);
            let known = (i % 2 == 0).then_some(data.len() as u64);
            let written = bodies
                .write(&mut frames(&data, &rng), known, 0)
                .await
                .unwrap();
            let body = chunked(&written);
            let whole = vec![BodyPiece {
                body,
                range: 0..body.len,
            }];
            assert!(read(&bodies, whole.clone()).await.unwrap() == data);
            // A server-side copy reads and writes at a time.
            let mut source = bodies.source(whole);
            let copy = bodies.write(&mut source, Some(body.len), 0).await.unwrap();
            let body = chunked(&copy);
            let whole = vec![BodyPiece {
                body,
                range: 0..body.len,
            }];
            drop(source);
            assert!(read(&bodies, whole).await.unwrap() == data);
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(world.pool.high_water_bytes() <= budget);
    all_comes_back(&world.pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_degraded_readers_and_copies_share_a_tiny_pool() {
    let rng = SeededRng::new(seed());
    let protection = Protection { data: 3, parity: 1 };
    let mut pool = PoolConfig::with_budget(8 * MIB);
    pool.wait_max = Duration::from_secs(20);
    let world = world_with(4, protection, pool, small_chunks());
    let data = random_bytes(700 * KIB, &rng);
    let written = world
        .bodies
        .write(&mut frames(&data, &rng), None, 0)
        .await
        .unwrap();
    let body = chunked(&written);
    // Not known to be down: every read of it has to find out.
    world.shards.set_fault(DriveId(2), Some(Fault::Broken));
    let mut tasks = Vec::new();
    for i in 0..128 {
        let bodies = world.bodies.clone();
        let data = data.clone();
        tasks.push(holdfast_placement::seams::spawn(async move {
            let whole = vec![BodyPiece {
                body,
                range: 0..body.len,
            }];
            if i % 2 == 0 {
                return assert!(read(&bodies, whole).await.unwrap() == data);
            }
            let mut source = bodies.source(whole);
            source.prepare().await.unwrap();
            let mut got = Vec::new();
            while let Some(bytes) = source.next().await.unwrap() {
                got.extend_from_slice(&bytes);
            }
            assert!(got == data);
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(world.bodies.counters().windows_rebuilt > 100);
    all_comes_back(&world.pool).await;
}

/// What was read ahead for readers that are gone ends on threads of its own: soon, not at once.
async fn all_comes_back(pool: &BufferPool) {
    let clock = SystemClock;
    let began = clock.monotonic();
    while pool.in_use_bytes() > 0 && clock.monotonic() - began < Duration::from_secs(10) {
        clock.sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(pool.in_use_bytes(), 0);
}

/// Two windows of each shard follow each other. They are so long that what is set aside, which is counted in whole blocks,
/// has no room to rebuild both at once.
#[tokio::test]
async fn a_copy_goes_on_while_a_drive_is_known_to_be_down() {
    let rng = SeededRng::new(seed());
    for (data, parity, drives) in [(2, 1, 3), (1, 1, 2), (4, 2, 6)] {
        let protection = Protection { data, parity };
        let config = BodiesConfig {
            window_len: MIB as u32,
            chunk_len: 2 * u32::from(data) * MIB as u32,
            ..BodiesConfig::default()
        };
        let pool = PoolConfig::with_budget(48 * MIB);
        let world = world_with(drives, protection, pool, config);
        let bytes = random_bytes(5 * usize::from(data) * MIB, &rng);
        let written = world
            .bodies
            .write(&mut frames(&bytes, &rng), None, 0)
            .await
            .unwrap();
        let body = chunked(&written);
        for drive in 1..=drives {
            // The others take their time, so that what goes on at once does so for a while.
            for other in 1..=drives {
                let slow = Fault::Slow(Duration::from_millis(2));
                world.shards.set_fault(DriveId(other), Some(slow));
            }
            world.shards.set_fault(DriveId(drive), Some(Fault::Down));
            let mut source = world.bodies.source(vec![BodyPiece {
                body,
                range: 0..body.len,
            }]);
            source.prepare().await.unwrap();
            // All that it did not set aside is in use elsewhere.
            let pool = &world.pool;
            let elsewhere: Vec<_> = [MIB, 64 * KIB, 1]
                .into_iter()
                .flat_map(|len| std::iter::from_fn(move || pool.try_acquire(len).ok()))
                .collect();
            // Whoever copies lets go of each piece before the next is asked for.
            let mut got = Vec::new();
            while let Some(piece) = source.next().await.unwrap() {
                got.extend_from_slice(&piece);
            }
            drop(elsewhere);
            assert!(got == bytes, "{protection} without {drive}");
        }
        assert!(world.bodies.counters().windows_rebuilt > 0);
        assert_eq!(world.pool.in_use_bytes(), 0);
    }
}

#[tokio::test]
async fn without_memory_a_client_is_told_to_slow_down() {
    let rng = SeededRng::new(seed());
    let mut pool = PoolConfig::with_budget(MIB);
    pool.wait_max = Duration::from_millis(20);
    let world = world_with(1, Protection::NONE, pool, small_chunks());
    let data = random_bytes(300 * KIB, &rng);
    let written = world
        .bodies
        .write(&mut frames(&data, &rng), None, 0)
        .await
        .unwrap();
    let held = world.pool.try_acquire(900 * KIB).unwrap();
    let error = world
        .bodies
        .write(&mut frames(&data, &rng), None, 0)
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::SlowDown);
    let body = chunked(&written);
    let whole = vec![BodyPiece {
        body,
        range: 0..body.len,
    }];
    let held_too: Vec<_> = std::iter::from_fn(|| world.pool.try_acquire(1).ok()).collect();
    let error = world.bodies.read(whole.clone()).await.unwrap_err();
    assert_eq!(error.code, Code::SlowDown);
    drop((held, held_too));
    assert!(read(&world.bodies, whole).await.unwrap() == data);
}

#[tokio::test]
async fn a_stuck_drive_is_raced() {
    let rng = SeededRng::new(seed());
    let world = world(
        4,
        Protection { data: 2, parity: 2 },
        64 * MIB,
        small_chunks(),
    );
    let data = random_bytes(600 * KIB, &rng);
    let written = world
        .bodies
        .write(&mut frames(&data, &rng), None, 0)
        .await
        .unwrap();
    let body = chunked(&written);
    let ring = world.map.load().ring(SiteId(0)).unwrap().clone();
    let drive = ring.slot(ring.partition_of(body.set, 0), 0).unwrap().target;
    world.shards.set_fault(drive, Some(Fault::Stuck));
    // Its other chunks may have the stuck drive among the shards to rebuild from, so only the first is read.
    let piece = vec![BodyPiece {
        body,
        range: 100..5000,
    }];
    assert!(read(&world.bodies, piece).await.unwrap() == data[100..5000]);
    assert_eq!(world.bodies.counters().hedges_won, 1);
    assert!(world.bodies.repairs().is_empty(), "late is not lost");
}

/// A drive is late by its own time, not by that of a client who does not ask for more yet.
#[tokio::test]
async fn what_is_read_ahead_is_raced_while_the_client_takes_its_time() {
    let rng = SeededRng::new(seed());
    let world = world(
        4,
        Protection { data: 2, parity: 2 },
        64 * MIB,
        small_chunks(),
    );
    let data = random_bytes(256 * KIB, &rng);
    let written = world
        .bodies
        .write(&mut frames(&data, &rng), None, 0)
        .await
        .unwrap();
    let body = chunked(&written);
    let ring = world.map.load().ring(SiteId(0)).unwrap().clone();
    let drive = ring.slot(ring.partition_of(body.set, 0), 1).unwrap().target;
    world.shards.set_fault(drive, Some(Fault::Stuck));
    let mut reading = world
        .bodies
        .read(vec![BodyPiece {
            body,
            range: 0..body.len,
        }])
        .await
        .unwrap();
    // Two windows are the first shard's.
    let mut got = Vec::new();
    while got.len() < 128 * KIB {
        let frame = reading.frame().await.unwrap().unwrap();
        got.extend_from_slice(&frame.into_data().unwrap());
    }
    until("the next one is raced", || {
        world.bodies.counters().hedges_won > 0
    })
    .await;
    while let Some(frame) = reading.frame().await {
        got.extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    assert!(got == data);
}

#[tokio::test]
async fn an_inline_body_in_one_frame_is_not_copied() {
    let world = world(1, Protection::NONE, MIB, small_chunks());
    let data = Bytes::from(vec![9; 5000]);
    let mut source = Some(data.clone());
    let written = world
        .bodies
        .write(&mut source, Some(5000), 32 * KIB)
        .await
        .unwrap();
    assert_eq!(written.body, Body::Inline);
    assert_eq!(written.inline.as_ptr(), data.as_ptr());
}

/// The map with the ring of drives `of`, under way from the one before.
fn rebalance(map: &SharedMap, of: std::ops::RangeInclusive<u64>) {
    let mut next = map.load().as_ref().clone();
    next.epoch = Epoch(next.epoch.0 + 1);
    let drives: Vec<_> = (1..=*of.end().max(&next.drives.last().unwrap().id.0))
        .map(|id| (DriveId(id), NodeId(1)))
        .collect();
    let wider = testing::map_of(&drives, next.protection);
    let members: Vec<_> = wider
        .members(SiteId(0))
        .into_iter()
        .filter(|member| of.contains(&member.drive.0))
        .collect();
    next.drives = wider.drives;
    next.rings[0].1 = next.rings[0]
        .1
        .rebalanced(&members, &[next.protection.slots()]);
    map.update(next);
}

/// Two chunks, between which the ring lets go of a drive.
struct Meanwhile {
    chunks: VecDeque<Bytes>,
    shards: Arc<MemoryShards>,
    map: SharedMap,
    /// It is lost; else all that it had has moved away.
    loses: bool,
}

impl ByteSource for Meanwhile {
    async fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
        if self.chunks.len() == 1 {
            until("the first chunk is stored", || self.shards.len() == 5).await;
            rebalance(&self.map, 2..=7);
            let mut next = self.map.load().as_ref().clone();
            next.epoch = Epoch(next.epoch.0 + 1);
            assert!(next.rings[0].1.settle(DriveId(1)));
            if self.loses {
                next.drives[0].state = DriveState::Lost;
            }
            self.map.update(next);
        }
        Ok(self.chunks.pop_front())
    }
}

/// Who looked for what was on the drive could not know of the body yet.
#[tokio::test]
async fn what_was_stored_on_a_drive_that_is_given_up_meanwhile_is_missed() {
    let rng = SeededRng::new(seed());
    let protection = Protection { data: 3, parity: 2 };
    let mut lost = 0;
    for round in 0..12 {
        let loses = round % 2 == 0;
        let world = world(6, protection, 64 * MIB, small_chunks());
        let chunk = || random_bytes(256 * KIB, &rng);
        let mut source = Meanwhile {
            chunks: VecDeque::from([chunk(), chunk()]),
            shards: world.shards.clone(),
            map: world.map.clone(),
            loses,
        };
        let written = world.bodies.write(&mut source, None, 0).await.unwrap();
        let shards = world.shards.shards();
        let on_it = shards
            .iter()
            .filter(|(drive, ..)| loses && *drive == DriveId(1));
        let slots: Vec<_> = on_it.map(|(_, id, _)| (id.chunk, id.slot)).collect();
        let missed = written.missed.iter().map(|slot| (slot.chunk, slot.slot));
        assert_eq!(missed.collect::<Vec<_>>(), slots);
        lost += slots.len();
    }
    assert!(lost > 0);
}

#[tokio::test]
async fn shards_that_move_are_read_where_they_still_are() {
    for protection in [Protection::NONE, Protection { data: 3, parity: 2 }] {
        let world = world(6, protection, 64 * MIB, small_chunks());
        let rng = SeededRng::new(seed());
        let data = random_bytes(2 * MIB, &rng);
        let mut source = frames(&data, &rng);
        let written = world.bodies.write(&mut source, None, 0).await.unwrap();
        let body = chunked(&written);
        let whole = || {
            vec![BodyPiece {
                body,
                range: 0..body.len,
            }]
        };
        rebalance(&world.map, 4..=9);
        rebalance(&world.map, 5..=12);
        let ring = world.map.load().ring(SiteId(0)).unwrap().clone();
        assert!(!ring.is_settled());
        assert!(read(&world.bodies, whole()).await.unwrap() == data);
        // Some arrive, and what has arrived is read even if the former drive is down.
        for (drive, id, shard) in world.shards.shards() {
            let partition = ring.partition_of(id.set, id.chunk);
            let target = ring.slot(partition, id.slot).unwrap().target;
            if target != drive && rng.below(2) == 0 {
                let mut payload = world.pool.acquire(shard.payload.len()).await.unwrap();
                payload.extend_from_slice(&shard.payload);
                let put = world.shards.put(target, id, shard.facts, payload);
                put.await.unwrap();
                assert!(world.shards.lose(drive, id));
            }
        }
        assert!(read(&world.bodies, whole()).await.unwrap() == data);
        let counters = world.bodies.counters();
        assert_eq!(counters.missing_reads + counters.windows_rebuilt, 0);
        assert!(world.bodies.repairs().is_empty(), "nothing is missing");
        // New drives that fail before the shards came: they are where they were.
        if protection.parity > 0 {
            world.shards.set_fault(DriveId(11), Some(Fault::Down));
            world.shards.set_fault(DriveId(12), Some(Fault::Down));
            assert!(read(&world.bodies, whole()).await.unwrap() == data);
        }
        // A shard that is nowhere is missing.
        let all: Vec<_> = world.shards.shards();
        let (drive, id, _) = all.iter().find(|(_, id, _)| id.slot == 0).unwrap();
        world.shards.set_fault(DriveId(11), None);
        world.shards.set_fault(DriveId(12), None);
        assert!(world.shards.lose(*drive, *id));
        let got = read(&world.bodies, whole()).await;
        assert_eq!(got.is_ok(), protection.parity > 0);
        assert!(world.bodies.counters().missing_reads > 0);
        assert_eq!(world.bodies.repairs().len(), 1);
        world.bodies.discard(&written.body);
        while !world.shards.is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

/// Shards in memory where the map changes while the first of a chunk is on its way, and where nobody has memory for reads.
struct Moody {
    shards: Arc<MemoryShards>,
    map: SharedMap,
    /// The drives that take nothing which was planned by older maps then.
    fenced: Vec<DriveId>,
    has_changed: AtomicBool,
    is_busy: bool,
}

#[async_trait]
impl Shards for Moody {
    async fn put(
        &self,
        drive: DriveId,
        id: ShardId,
        facts: ShardFacts,
        payload: Buffer,
    ) -> Result<(), PutShardError> {
        if !self.has_changed.swap(true, Ordering::Relaxed) {
            let mut map = ClusterMap::clone(&self.map.load());
            map.epoch.0 += 1;
            for drive in &self.fenced {
                self.shards.gate(*drive).unwrap().fence(map.epoch);
            }
            self.map.update(map);
        }
        self.shards.put(drive, id, facts, payload).await
    }

    async fn get(
        &self,
        drive: DriveId,
        id: ShardId,
        range: std::ops::Range<u32>,
        buffer: Buffer,
    ) -> Result<Bytes, GetShardError> {
        match self.is_busy {
            true => Err(GetShardError::Busy),
            false => self.shards.get(drive, id, range, buffer).await,
        }
    }

    async fn delete(&self, drive: DriveId, ids: &[ShardId]) -> Result<(), DeleteShardError> {
        self.shards.delete(drive, ids).await
    }

    async fn info(&self, drive: DriveId, id: ShardId) -> Result<Option<ShardInfo>, GetShardError> {
        self.shards.info(drive, id).await
    }

    async fn list(
        &self,
        drive: DriveId,
        after: Option<ShardId>,
        max: usize,
    ) -> Result<Vec<ShardInfo>, GetShardError> {
        self.shards.list(drive, after, max).await
    }

    fn is_down(&self, drive: DriveId) -> bool {
        self.shards.is_down(drive)
    }
}

fn moody(fenced: Vec<DriveId>, is_busy: bool) -> (Arc<MemoryShards>, Bodies) {
    let clock = Arc::new(SystemClock);
    let map = map_of(3, Protection { data: 2, parity: 1 });
    let shards = Arc::new(MemoryShards::new(clock.clone()));
    let moody = Moody {
        shards: shards.clone(),
        map: map.clone(),
        fenced,
        has_changed: AtomicBool::new(false),
        is_busy,
    };
    let pool = BufferPool::new(PoolConfig::with_budget(64 * MIB), clock.clone());
    let rng = Arc::new(SeededRng::new(7));
    let bodies = Bodies::new(Arc::new(moody), map, pool, clock, rng, small_chunks());
    (shards, bodies)
}

#[tokio::test]
async fn what_was_planned_by_an_old_map_is_put_where_the_new_one_says() {
    let rng = SeededRng::new(seed());
    let fenced: Vec<DriveId> = (1..=3).map(DriveId).collect();
    let (shards, bodies) = moody(fenced, false);
    let data = random_bytes(300 * KIB, &rng);
    let source = &mut frames(&data, &rng);
    let written = bodies.write(source, None, 0).await.unwrap();
    assert!(written.missed.is_empty());
    let body = chunked(&written);
    let epochs: Vec<Epoch> = shards
        .shards()
        .iter()
        .map(|shard| shard.2.facts.epoch)
        .collect();
    assert_eq!(epochs.len(), 6);
    assert!(epochs.iter().all(|epoch| *epoch == epochs[0]), "{epochs:?}");
    let range = 0..body.len;
    assert!(
        read(&bodies, vec![BodyPiece { body, range }])
            .await
            .unwrap()
            == data
    );
}

#[tokio::test]
async fn where_nodes_lack_memory_a_client_is_told_to_slow_down() {
    let rng = SeededRng::new(seed());
    let (_, bodies) = moody(Vec::new(), true);
    let data = random_bytes(300 * KIB, &rng);
    let source = &mut frames(&data, &rng);
    let body = chunked(&bodies.write(source, None, 0).await.unwrap());
    let range = 0..body.len;
    let error = bodies
        .read(vec![BodyPiece { body, range }])
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::SlowDown);
    assert!(bodies.repairs().is_empty());
}
