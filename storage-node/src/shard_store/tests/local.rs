//! The store on real files, by io_uring and by threads.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use holdfast_placement::ids::{ChunkSetId, DriveId, Epoch};
use holdfast_placement::seams::{
    Index, Keyspace, MemoryIndex, RocksIndex, RocksMemory, SystemClock, SystemRng,
};

use crate::buffer::{Buffer, BufferPool, PoolConfig};
use crate::shard_store::disk::{DiskKind, LocalDisk};
use crate::shard_store::{
    GetShardError, PutShardError, SHARD_LEN_MAX, ShardId, ShardStore, ShardStoreConfig,
};
use crate::shards::{LocalShards, ShardFacts, Shards, read_capacity};

const KINDS: [DiskKind; 2] = [DiskKind::Uring, DiskKind::Posix];

pub(super) const FACTS: ShardFacts = ShardFacts {
    epoch: Epoch(1),
    chunk_hash: [1; 32],
    chunk_len: 4 << 20,
};

fn pool() -> BufferPool {
    BufferPool::new(PoolConfig::with_budget(256 << 20), Arc::new(SystemClock))
}

fn id(number: u32) -> ShardId {
    ShardId {
        set: ChunkSetId([7; 16]),
        chunk: number,
        slot: 0,
    }
}

fn content(number: u32, len: usize) -> Vec<u8> {
    let word = |at: usize| (at as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15 ^ u64::from(number));
    let mut bytes: Vec<u8> = (0..len.div_ceil(8))
        .flat_map(|at| word(at).to_le_bytes())
        .collect();
    bytes.truncate(len);
    bytes
}

fn buffer(pool: &BufferPool, bytes: &[u8]) -> Buffer {
    let mut buffer = pool.try_acquire(bytes.len()).unwrap();
    buffer.extend_from_slice(bytes);
    buffer
}

/// A kind of disk that this machine permits, on a directory with its identity file.
fn disk(directory: &Path, kind: DiskKind) -> Option<Arc<LocalDisk>> {
    std::fs::write(directory.join("drive.json"), "{}").unwrap();
    let extents = directory.join("extents");
    match LocalDisk::open(&extents, &directory.join("drive.json"), "test", kind) {
        Ok(disk) => Some(Arc::new(disk)),
        Err(error) if kind == DiskKind::Uring => {
            println!("no io_uring here: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn config() -> ShardStoreConfig {
    ShardStoreConfig {
        extent_len_max: 64 << 20,
        reserve_bytes: Some(0),
        ..ShardStoreConfig::default()
    }
}

async fn open(disk: Arc<LocalDisk>, index: Arc<dyn Index>, pool: &BufferPool) -> ShardStore {
    ShardStore::open(
        disk,
        index,
        pool.clone(),
        Arc::new(SystemClock),
        Arc::new(SystemRng),
        config(),
    )
    .await
    .unwrap()
}

async fn get(
    store: &ShardStore,
    id: ShardId,
    range: std::ops::Range<u32>,
) -> Result<Bytes, GetShardError> {
    let room = pool().try_acquire(read_capacity(&range)).unwrap();
    store.get(id, range, room).await
}

async fn read(store: &ShardStore, id: ShardId, range: std::ops::Range<u32>) -> Bytes {
    get(store, id, range).await.unwrap()
}

const LENGTHS: [usize; 9] = [
    0,
    1,
    4095,
    4096,
    65_536,
    65_537,
    1_398_102,
    4 << 20,
    SHARD_LEN_MAX,
];

#[tokio::test]
async fn what_is_put_is_read_also_after_a_start() {
    for kind in KINDS {
        let directory = tempfile::tempdir().unwrap();
        let Some(disk) = disk(directory.path(), kind) else {
            continue;
        };
        let (index, pool) = (Arc::new(MemoryIndex::new()), pool());
        let store = open(disk.clone(), index.clone(), &pool).await;
        let puts = LENGTHS.iter().enumerate().map(|(number, len)| {
            let bytes = buffer(&pool, &content(number as u32, *len));
            store.put(id(number as u32), FACTS, bytes)
        });
        for put in join_all(puts).await {
            put.unwrap();
        }
        let check = async |store: &ShardStore| {
            for (number, len) in LENGTHS.iter().enumerate() {
                let (number, len) = (number as u32, *len as u32);
                let bytes = content(number, len as usize);
                assert_eq!(read(store, id(number), 0..len).await, bytes);
                let (from, to) = (len / 3, len - len / 4);
                let part = &bytes[from as usize..to as usize];
                assert_eq!(read(store, id(number), from..to).await, part);
                assert!(matches!(
                    get(store, id(number), 0..len + 1).await,
                    Err(GetShardError::OutOfRange)
                ));
            }
        };
        check(&store).await;
        let clean = store.stats();
        assert!(
            clean.flushes < clean.flushed_records,
            "one flush for several puts"
        );
        // Killed: nothing was closed, and the index lost all it could.
        drop(store);
        index.crash(0);
        let store = open(disk.clone(), index.clone(), &pool).await;
        assert_eq!(store.stats().live_bytes, clean.live_bytes);
        check(&store).await;
        store.delete(&[id(3), id(77)]).await.unwrap();
        index.crash(0);
        drop(store);
        let store = open(disk.clone(), index.clone(), &pool).await;
        assert!(matches!(
            get(&store, id(3), 0..1).await,
            Err(GetShardError::NotFound)
        ));
        let report = store.scrub().await.unwrap();
        assert_eq!(
            (report.shards, report.bad.len()),
            (LENGTHS.len() as u64 - 1, 0)
        );
        store.close().await;
        drop(disk);
        assert_eq!(pool.in_use_bytes(), 0);
    }
}

#[tokio::test]
async fn space_comes_back() {
    for kind in KINDS {
        let directory = tempfile::tempdir().unwrap();
        let Some(disk) = disk(directory.path(), kind) else {
            continue;
        };
        let pool = pool();
        let memory = RocksMemory::new(16 << 20, 8 << 20);
        let state = directory.path().join("state");
        let index = Arc::new(RocksIndex::open(&state, &[Keyspace::Shards], &memory).unwrap());
        let store = open(disk.clone(), index, &pool).await;
        for number in 0..40 {
            let bytes = buffer(&pool, &content(number, 4 << 20));
            store.put(id(number), FACTS, bytes).await.unwrap();
        }
        let doomed: Vec<_> = (0..40).filter(|number| number % 4 != 0).map(id).collect();
        store.delete(&doomed).await.unwrap();
        store.seal().await;
        let report = store.compact().await.unwrap();
        assert!(report.extents >= 2 && report.moved >= 8, "{report:?}");
        for number in 0..40 {
            match get(&store, id(number), 0..4 << 20).await {
                Ok(bytes) => {
                    assert_eq!(bytes, content(number, 4 << 20));
                    assert_eq!(number % 4, 0);
                }
                Err(error) => {
                    assert!(matches!(error, GetShardError::NotFound), "{error}");
                    assert_ne!(number % 4, 0);
                }
            }
        }
        store
            .delete(&(0..40).map(id).collect::<Vec<_>>())
            .await
            .unwrap();
        store.seal().await;
        store.compact().await.unwrap();
        let left = std::fs::read_dir(directory.path().join("extents")).unwrap();
        assert_eq!(left.count(), 0);
        assert_eq!(store.stats().live_bytes, 0);
    }
}

#[tokio::test]
async fn a_drive_whose_directory_is_gone_acknowledges_nothing() {
    for kind in KINDS {
        for victim in ["", "extents", "drive.json"] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("d");
            std::fs::create_dir(&path).unwrap();
            let Some(disk) = disk(&path, kind) else {
                continue;
            };
            let pool = pool();
            let store = Arc::new(open(disk, Arc::new(MemoryIndex::new()), &pool).await);
            let shards = LocalShards::new();
            shards.add(DriveId(3), store.clone());
            let put = |number| {
                let bytes = buffer(&pool, &content(number, 100_000));
                shards.put(DriveId(3), id(number), FACTS, bytes)
            };
            put(1).await.unwrap();
            assert!(!shards.is_down(DriveId(3)));
            let victim = path.join(victim);
            match victim.is_dir() {
                true => std::fs::remove_dir_all(&victim).unwrap(),
                false => std::fs::remove_file(&victim).unwrap(),
            }
            assert!(matches!(put(2).await, Err(PutShardError::Down(_))));
            assert!(shards.is_down(DriveId(3)));
            assert!(matches!(
                shards
                    .get(DriveId(3), id(1), 0..1, pool.try_acquire(65_536).unwrap())
                    .await,
                Err(GetShardError::Down(_))
            ));
        }
    }
}

#[tokio::test]
async fn a_deleted_extent_is_missed_and_its_shards_can_be_put_again() {
    for kind in KINDS {
        let directory = tempfile::tempdir().unwrap();
        let Some(disk) = disk(directory.path(), kind) else {
            continue;
        };
        let (pool, index) = (pool(), Arc::new(MemoryIndex::new()));
        let store = open(disk.clone(), index.clone(), &pool).await;
        let put = async |store: &ShardStore, number| {
            let bytes = buffer(&pool, &content(number, 100_000));
            store.put(id(number), FACTS, bytes).await
        };
        put(&store, 1).await.unwrap();
        let extents = directory.path().join("extents");
        for file in std::fs::read_dir(&extents).unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
        assert!(matches!(put(&store, 2).await, Err(PutShardError::Io(_))));
        put(&store, 2).await.unwrap();
        drop(store);
        let store = open(disk.clone(), index.clone(), &pool).await;
        assert!(matches!(
            get(&store, id(1), 0..10).await,
            Err(GetShardError::Corrupt(_))
        ));
        assert_eq!(store.bad(), [id(1)]);
        put(&store, 1).await.unwrap();
        assert_eq!(read(&store, id(1), 0..100_000).await, content(1, 100_000));
        assert_eq!(store.bad(), []);
    }
}

#[tokio::test]
async fn flipped_bits_are_never_returned() {
    for kind in KINDS {
        let directory = tempfile::tempdir().unwrap();
        let Some(disk) = disk(directory.path(), kind) else {
            continue;
        };
        let pool = pool();
        let store = open(disk, Arc::new(MemoryIndex::new()), &pool).await;
        let len = 300_000;
        let bytes = content(1, len as usize);
        store
            .put(id(1), FACTS, buffer(&pool, &bytes))
            .await
            .unwrap();
        let file = std::fs::read_dir(directory.path().join("extents")).unwrap();
        let file = file.map(|entry| entry.unwrap().path()).next().unwrap();
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(file)
            .unwrap();
        let flipped_at = 200_000u64;
        use std::os::unix::fs::FileExt;
        let mut byte = [0];
        file.read_exact_at(&mut byte, 8192 + flipped_at).unwrap();
        assert_eq!(byte[0], bytes[flipped_at as usize]);
        file.write_all_at(&[byte[0] ^ 4], 8192 + flipped_at)
            .unwrap();
        assert!(matches!(
            get(&store, id(1), 190_000..198_000).await,
            Err(GetShardError::Corrupt(_))
        ));
        assert_eq!(read(&store, id(1), 0..196_608).await, bytes[..196_608]);
        assert_eq!(read(&store, id(1), 262_144..len).await, bytes[262_144..]);
        assert_eq!(store.scrub().await.unwrap().bad, [id(1)]);
        // The same content again replaces what is known to be bad.
        store
            .put(id(1), FACTS, buffer(&pool, &bytes))
            .await
            .unwrap();
        assert_eq!(read(&store, id(1), 0..len).await, bytes);
        assert_eq!(store.scrub().await.unwrap().bad, []);
    }
}

/// Many puts, gets and deletes at once, while compaction runs and callers give up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_at_once() {
    for kind in KINDS {
        let directory = tempfile::tempdir().unwrap();
        let Some(disk) = disk(directory.path(), kind) else {
            continue;
        };
        let pool = pool();
        let index = Arc::new(MemoryIndex::new());
        let store = Arc::new(open(disk.clone(), index.clone(), &pool).await);
        let tasks = (0..16).map(|task: u32| {
            let (store, pool) = (store.clone(), pool.clone());
            holdfast_placement::seams::spawn(async move {
                for round in 0..30 {
                    let number = task * 1000 + round;
                    let bytes = content(number, (number as usize * 7919) % 700_000);
                    let put = store.put(id(number), FACTS, buffer(&pool, &bytes));
                    if round % 7 == 3 {
                        // Gives up, and deletes to be sure.
                        let _ = tokio::time::timeout(Duration::from_micros(300), put).await;
                        store.delete(&[id(number)]).await.unwrap();
                        continue;
                    }
                    put.await.unwrap();
                    assert_eq!(read(&store, id(number), 0..bytes.len() as u32).await, bytes);
                    if round % 3 == 0 {
                        store.delete(&[id(number)]).await.unwrap();
                    }
                    if round % 10 == 9 {
                        store.seal().await;
                        store.compact().await.unwrap();
                    }
                }
            })
        });
        for task in join_all(tasks).await {
            task.unwrap();
        }
        let check = async |store: &ShardStore| {
            for number in (0..16u32).flat_map(|task| (0..30).map(move |round| task * 1000 + round))
            {
                let round = number % 1000;
                let len = ((number as usize * 7919) % 700_000) as u32;
                let got = get(store, id(number), 0..len).await;
                if round % 7 == 3 || round % 3 == 0 {
                    assert!(matches!(got, Err(GetShardError::NotFound)), "{number}");
                } else {
                    assert_eq!(got.unwrap(), content(number, len as usize));
                }
            }
        };
        check(&store).await;
        let live_bytes = store.stats().live_bytes;
        drop(store);
        index.crash(0);
        let store = open(disk, index, &pool).await;
        check(&store).await;
        assert_eq!(store.stats().live_bytes, live_bytes);
    }
}

/// Not a test: what puts and gets of 4 MiB cost, for comparing kinds of disk. `HOLDFAST_SPEED_DIR` names a directory.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, reason = "measures")]
fn speed() {
    let Ok(parent) = std::env::var("HOLDFAST_SPEED_DIR") else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    for kind in KINDS {
        for (len, count) in [(4 << 20, 256u32), (64 << 10, 4096)] {
            let directory = tempfile::tempdir_in(&parent).unwrap();
            let Some(disk) = disk(directory.path(), kind) else {
                continue;
            };
            let pool = pool();
            let bytes = content(1, len);
            let index = Arc::new(MemoryIndex::new());
            let store = Arc::new(runtime.block_on(async {
                let config = ShardStoreConfig::default();
                let (clock, rng) = (Arc::new(SystemClock), Arc::new(SystemRng));
                ShardStore::open(disk, index, pool.clone(), clock, rng, config)
                    .await
                    .unwrap()
            }));
            for what in ["put", "get"] {
                let (began, cpu) = (std::time::Instant::now(), cpu_seconds());
                let tasks = (0..16u32).map(|task| {
                    let (store, pool, bytes) = (store.clone(), pool.clone(), bytes.clone());
                    runtime.spawn(async move {
                        let len = bytes.len() as u32;
                        for number in (task..count).step_by(16) {
                            let mut room = pool.acquire(bytes.len()).await.unwrap();
                            if what == "put" {
                                room.set_len(bytes.len());
                                store.put(id(number), FACTS, room).await.unwrap();
                            } else {
                                store.get(id(number), 0..len, room).await.unwrap();
                            }
                        }
                    })
                });
                let tasks: Vec<_> = tasks.collect();
                for task in tasks {
                    runtime.block_on(task).unwrap();
                }
                let gigabytes = len as f64 * f64::from(count) / 1e9;
                let seconds = began.elapsed().as_secs_f64();
                let stats = store.stats();
                println!(
                    "{kind:?} {what} {len}: {:.2} GB/s, {:.3} CPU-s/GB, {:.1} us CPU each, {} flushes",
                    gigabytes / seconds,
                    (cpu_seconds() - cpu) / gigabytes,
                    (cpu_seconds() - cpu) / f64::from(count) * 1e6,
                    stats.flushes
                );
            }
        }
    }
}

/// CPU time of this process so far, seconds (proc(5): `utime` and `stime`, in hundredths).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().unwrap())
        .sum();
    ticks as f64 / 100.0
}
