//! Random failures under load, from a seed: `HOLDFAST_SEED=n` replays one schedule of faults, `HOLDFAST_SEEDS=n` runs
//! more of them.

#![allow(clippy::unwrap_used, reason = "a test")]

mod consensus_rig;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use consensus_rig::{Rig, append, at, config, voters};
use futures_util::future::join_all;
use holdfast_placement::consensus::{Groups, Reading, Replicas};
use holdfast_placement::ids::{DriveId, GroupId};
use holdfast_placement::seams::{IndexError, Rng, SeededRng, SystemRng};
use parking_lot::{Mutex, RwLock};

const GROUP: GroupId = GroupId(2);
const WORKERS: u64 = 6;

/// What clients were told, in the order that they were told.
#[derive(Default)]
struct History {
    /// Place by token of what was acknowledged.
    acknowledged: Mutex<Vec<(u64, u64)>>,
    tokens: AtomicU64,
    asked: Mutex<BTreeSet<u64>>,
    reads: AtomicU64,
    /// Counts the crashes of drives.
    era: AtomicU64,
}

impl History {
    /// One command: acknowledged, or asked again with the same token until it is or the run ends.
    async fn write(&self, replicas: &RwLock<Arc<Replicas>>, ended: &AtomicBool) {
        let token = self.tokens.fetch_add(1, Ordering::Relaxed);
        self.asked.lock().insert(token);
        // Whatever was acknowledged before this command began stands before it.
        let floor = self
            .acknowledged
            .lock()
            .iter()
            .map(|(place, _)| *place)
            .max();
        let mut first = true;
        while !ended.load(Ordering::Relaxed) {
            let current = replicas.read().clone();
            match current.propose(GROUP, append(token, 30)).await {
                Ok(outcome) => {
                    let place = u64::from_be_bytes(outcome.as_ref().try_into().unwrap());
                    if first {
                        assert!(
                            Some(place) > floor,
                            "{token} got place {place} after {floor:?} was taken"
                        );
                    }
                    self.acknowledged.lock().push((place, token));
                    return;
                }
                Err(_) => {
                    first = false;
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// A read sees everything acknowledged before it began.
    async fn read(&self, replicas: &RwLock<Arc<Replicas>>) {
        let era = self.era.load(Ordering::SeqCst);
        let acknowledged: Vec<_> = self
            .acknowledged
            .lock()
            .iter()
            .rev()
            .take(20)
            .copied()
            .collect();
        let current = replicas.read().clone();
        let Ok(Reading::Here(state)) = current.read(GROUP).await else {
            return;
        };
        let found: Vec<_> = acknowledged
            .iter()
            .map(|(place, _)| at(state.as_ref(), GROUP, *place))
            .collect();
        // What crashed meanwhile shows the past, which no living process would.
        if self.era.load(Ordering::SeqCst) != era {
            return;
        }
        for ((place, token), found) in acknowledged.into_iter().zip(found) {
            if let Ok(found) = found {
                assert_eq!(found, Some(token), "read of place {place}");
            }
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn random_failures() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap())
    };
    let seeds = match number("HOLDFAST_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("HOLDFAST_SEEDS").unwrap_or(6))
            .map(|_| SystemRng.next_u64())
            .collect(),
    };
    for seed in seeds {
        println!("HOLDFAST_SEED={seed}");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(run(seed));
    }
}

async fn run(seed: u64) {
    let rng = SeededRng::new(seed);
    let count = [1, 3, 3, 5][rng.below(4) as usize];
    let mut rig = Rig::new(count, config()).await;
    rig.replicas
        .create_group(GROUP, &voters(1..=count))
        .await
        .unwrap();
    let history = Arc::new(History::default());
    let replicas = Arc::new(RwLock::new(rig.replicas.clone()));
    let ended = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let (history, replicas, ended) = (history.clone(), replicas.clone(), ended.clone());
            #[expect(clippy::disallowed_methods, reason = "load")]
            tokio::spawn(async move {
                while !ended.load(Ordering::Relaxed) {
                    if worker < 4 {
                        history.write(&replicas, &ended).await;
                    } else {
                        history.read(&replicas).await;
                        tokio::task::yield_now().await;
                    }
                }
            })
        })
        .collect();

    let mut down: BTreeSet<u64> = BTreeSet::new();
    for _ in 0..8 {
        let goal = history.acknowledged.lock().len() + rng.below(150) as usize;
        progress(&history, goal).await;
        match rng.below(4) {
            // Power loss of the whole machine.
            0 => {
                history.era.fetch_add(1, Ordering::SeqCst);
                rig.crash(|| rng.below(40) as usize).await;
                down.clear();
                rig.reopen().await;
                *replicas.write() = rig.replicas.clone();
            }
            // A drive that is up goes, as long as a quorum stays.
            1 | 2 if down.len() < (count as usize - 1) / 2 => {
                let up: Vec<u64> = (1..=count).filter(|id| !down.contains(id)).collect();
                let id = up[rng.below(up.len() as u64) as usize];
                if rng.below(2) == 0 {
                    rig.drives[&id].fail(Some(IndexError::Io("broken".into())));
                }
                rig.replicas.fail_drive(DriveId(id)).await;
                down.insert(id);
            }
            // One that went comes back, without what it had not synced.
            _ => {
                if let Some(id) = down.pop_first() {
                    history.era.fetch_add(1, Ordering::SeqCst);
                    rig.drives[&id].log.crash(rng.below(10) as usize);
                    rig.drives[&id].state.crash(rng.below(10) as usize);
                    rig.replicas.add_drive(rig.replica_drive(id)).await.unwrap();
                }
            }
        }
    }
    let goal = history.acknowledged.lock().len() + 50;
    progress(&history, goal).await;
    ended.store(true, Ordering::Relaxed);
    for worker in join_all(workers).await {
        worker.unwrap();
    }
    rig.crash(|| rng.below(40) as usize).await;
    rig.reopen().await;
    let now = rig.list(GROUP).await;
    let distinct: BTreeSet<_> = now.iter().copied().collect();
    assert_eq!(distinct.len(), now.len(), "a command took effect twice");
    assert!(distinct.is_subset(&history.asked.lock()));
    let acknowledged = history.acknowledged.lock().clone();
    for (place, token) in &acknowledged {
        assert_eq!(
            now.get(*place as usize),
            Some(token),
            "acknowledged at {place}"
        );
    }
    assert!(history.reads.load(Ordering::Relaxed) > 0);
    println!(
        "{count} drives, {} commands, {} reads",
        acknowledged.len(),
        history.reads.load(Ordering::Relaxed)
    );
    rig.replicas.shutdown().await;
}

/// Waits until `goal` commands were acknowledged; fails when nothing moves for 20 seconds.
async fn progress(history: &History, goal: usize) {
    let (mut last, mut still) = (0, 0);
    loop {
        let now = history.acknowledged.lock().len();
        if now >= goal {
            return;
        }
        still = if now == last { still + 1 } else { 0 };
        last = now;
        assert!(still < 20_000, "nothing is acknowledged any more");
        #[expect(clippy::disallowed_methods, reason = "polls for progress")]
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}
