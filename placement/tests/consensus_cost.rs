//! What consensus costs, on RocksDB. Run alone:
//! `cargo test --release -p holdfast-placement --test consensus_cost -- --ignored --nocapture --test-threads 1`

#![allow(clippy::unwrap_used, reason = "a test")]

mod consensus_rig;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use consensus_rig::{append, machines, voters};
use futures_util::future::join_all;
use holdfast_placement::consensus::{ConsensusConfig, Groups, ReplicaDrive, Replicas};
use holdfast_placement::ids::{DriveId, GroupId};
use holdfast_placement::seams::{Keyspace, RocksIndex, RocksMemory, SystemClock};

/// CPU time of this process, user and system.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap()..]
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[expect(clippy::disallowed_methods, reason = "measures")]
fn now() -> Instant {
    Instant::now()
}

async fn open(path: &Path, drives: u64) -> Arc<Replicas> {
    let memory = RocksMemory::new(64 << 20, 32 << 20);
    let drives = (1..=drives)
        .map(|id| {
            let index = |name: &str, spaces: &[Keyspace]| {
                let path = path.join(id.to_string()).join(name);
                std::fs::create_dir_all(&path).unwrap();
                Arc::new(RocksIndex::open(&path, spaces, &memory).unwrap())
            };
            let state = [Keyspace::Objects, Keyspace::Inline, Keyspace::Records];
            ReplicaDrive {
                drive: DriveId(id),
                log: index("log", &[Keyspace::Log]),
                state: index("state", &state),
            }
        })
        .collect();
    let config = ConsensusConfig::default();
    Replicas::open(drives, machines(), Arc::new(SystemClock), config, None)
        .await
        .unwrap()
}

async fn propose_for(
    replicas: &Arc<Replicas>,
    groups: u32,
    clients: u64,
    time: Duration,
    bytes: usize,
) {
    let (start, cpu_start) = (now(), cpu());
    let clients = (0..clients).map(|client| {
        let replicas = replicas.clone();
        holdfast_placement::seams::spawn(async move {
            let mut count = 0u64;
            while start.elapsed() < time {
                let group = GroupId(1 + (client as u32) % groups);
                let token = u64::from_le_bytes(
                    *blake3::hash(&[client.to_le_bytes(), count.to_le_bytes()].concat())
                        .as_bytes()
                        .first_chunk()
                        .unwrap(),
                );
                replicas.propose(group, append(token, bytes)).await.unwrap();
                count += 1;
            }
            count
        })
    });
    let total: u64 = join_all(clients)
        .await
        .into_iter()
        .map(|count| count.unwrap())
        .sum();
    let (elapsed, used) = (start.elapsed(), cpu() - cpu_start);
    println!(
        "  {groups} groups, {bytes} bytes: {:.0}/s, {:.1} us CPU each, {:.2} cores",
        total as f64 / elapsed.as_secs_f64(),
        used.as_secs_f64() * 1e6 / total as f64,
        used.as_secs_f64() / elapsed.as_secs_f64()
    );
}

async fn read_many(replicas: &Arc<Replicas>, count: u32) {
    let start = now();
    for _ in 0..count {
        let _state = replicas.read(GroupId(1)).await.unwrap();
    }
    println!("  read: {:?} each", start.elapsed() / count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn cost() {
    let only = std::env::var("HOLDFAST_VOTERS")
        .ok()
        .map(|text| text.parse().unwrap());
    for drives in only.map_or(vec![1, 3, 5], |only| vec![only]) {
        println!("{drives} voters");
        let path = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let replicas = open(path.path(), drives).await;
        for group in 0..17 {
            replicas
                .create_group(GroupId(group), &voters(1..=drives))
                .await
                .unwrap();
        }
        assert!(replicas.await_leaders(Duration::from_secs(10)).await);
        let cpu_start = cpu();
        #[expect(clippy::disallowed_methods, reason = "measures")]
        tokio::time::sleep(Duration::from_secs(10)).await;
        println!(
            "  idle: {:.2}% of a core",
            (cpu() - cpu_start).as_secs_f64() * 10.0
        );
        propose_for(&replicas, 16, 1, Duration::from_secs(2), 300).await;
        propose_for(&replicas, 1, 16, Duration::from_secs(3), 300).await;
        propose_for(&replicas, 16, 16, Duration::from_secs(3), 300).await;
        propose_for(&replicas, 16, 16, Duration::from_secs(3), 4400).await;
        propose_for(&replicas, 16, 64, Duration::from_secs(3), 4400).await;
        read_many(&replicas, 100_000).await;
        replicas.shutdown().await;
        drop(replicas);
        let start = now();
        let replicas = open(path.path(), drives).await;
        for group in 0..17 {
            replicas.read(GroupId(group)).await.unwrap();
        }
        println!("  start to all readable: {:?}", start.elapsed());
        replicas.shutdown().await;
    }
}
