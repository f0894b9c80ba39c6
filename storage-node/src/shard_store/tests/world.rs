//! Carries operations out on a store whose drive and index are in memory, and compares with the model.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{join_all, select};
use holdfast_placement::seams::{Index, IndexError, ManualClock, MemoryIndex, SeededRng};
use tokio::runtime::Runtime;

use super::model::{
    Call, Change, Content, Known, Operation, ROOMY, SHARDS, Until, content, facts, id,
};
use crate::buffer::{BufferPool, PoolConfig};
use crate::shard_store::disk::{Disk, MemoryDisk, MemoryFaults};
use crate::shard_store::index_entry::Phase;
use crate::shard_store::store::extent_name;
use crate::shard_store::{GetShardError, PutShardError, ScrubReport, ShardStore, ShardStoreConfig};
use crate::shards::read_capacity;

/// What stands between the store and its drive and index: nothing, or a planted bug.
pub trait Seams {
    fn disk(&self, disk: MemoryDisk) -> Arc<dyn Disk> {
        Arc::new(disk)
    }

    fn index(&self, index: Arc<MemoryIndex>) -> Arc<dyn Index> {
        index
    }
}

/// Nothing.
pub struct Honest;

impl Seams for Honest {}

/// More turns than anything takes: whoever waits longer waits forever.
const TURNS_MAX: u32 = 200_000;

struct World<'a> {
    seed: u64,
    seams: &'a dyn Seams,
    disk: MemoryDisk,
    index: Arc<MemoryIndex>,
    pool: BufferPool,
    rng: SeededRng,
    life: Option<Life>,
    known: BTreeMap<u8, Known>,
    faulty: bool,
    cramped: bool,
}

/// From one start to the next crash.
struct Life {
    runtime: Runtime,
    store: Arc<ShardStore>,
}

#[derive(Clone)]
enum Outcome {
    Put(Result<(), PutShardError>),
    Delete(bool),
    Get(Result<Vec<u8>, GetShardError>),
    Compact(Result<(), PutShardError>),
    Scrub(Result<ScrubReport, GetShardError>),
    Seal,
}

/// Runs the operations of a seed, or some of them.
pub fn run(seed: u64, operations: &[Operation], seams: &dyn Seams) -> Result<(), String> {
    let clock = Arc::new(ManualClock::default());
    let mut world = World {
        seed,
        seams,
        disk: MemoryDisk::new(seed ^ 0xd15c, ROOMY),
        index: Arc::new(MemoryIndex::new()),
        pool: BufferPool::new(PoolConfig::with_budget(64 << 20), clock),
        rng: SeededRng::new(seed ^ 0x0bad),
        life: None,
        known: (0..SHARDS).map(|shard| (shard, Known::default())).collect(),
        faulty: false,
        cramped: false,
    };
    world.start()?;
    for (number, operation) in operations.iter().enumerate() {
        world
            .carry_out(operation)
            .map_err(|why| format!("operation {number}, {operation:?}: {why}"))?;
    }
    world.finish().map_err(|why| format!("at the end: {why}"))
}

/// Small extents; how eager compaction is depends on the seed.
fn config(seed: u64) -> ShardStoreConfig {
    ShardStoreConfig {
        compact_below_percent: [50, 90, 101][(seed % 3) as usize],
        extent_len_max: 512 << 10,
        allocate_step: 128 << 10,
        reserve_bytes: Some(64 << 10),
        read_piece_len: 64 << 10,
        sync_inline: true,
        ..ShardStoreConfig::default()
    }
}

/// Lets others go first, `turns` times.
async fn turns(turns: u32) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}

/// Runs to the end, or says that it has none.
fn complete<T>(runtime: &Runtime, work: impl Future<Output = T>) -> Result<T, String> {
    runtime.block_on(async {
        let mut work = std::pin::pin!(work.fuse());
        let mut limit = std::pin::pin!(turns(TURNS_MAX).fuse());
        futures_util::select_biased! {
            value = work => Ok(value),
            () = limit => Err("waits forever".to_owned()),
        }
    })
}

impl World<'_> {
    fn life(&self) -> Result<&Life, String> {
        self.life.as_ref().ok_or_else(|| "not started".to_owned())
    }

    fn open(&self) -> impl Future<Output = Result<ShardStore, String>> + use<> {
        let disk = self.seams.disk(self.disk.clone());
        let index = self.seams.index(self.index.clone());
        let pool = self.pool.clone();
        let config = config(self.seed);
        let clock = Arc::new(ManualClock::default());
        let rng = Arc::new(SeededRng::new(self.rng.below(u64::MAX)));
        async move {
            ShardStore::open(disk, index, pool, clock, rng, config)
                .await
                .map_err(|error| format!("does not start: {error}"))
        }
    }

    /// Starts without faults and looks at everything.
    fn start(&mut self) -> Result<(), String> {
        self.heal();
        let runtime = runtime()?;
        let store = complete(&runtime, self.open())??;
        let store = Arc::new(store);
        self.life = Some(Life { runtime, store });
        for shard in 0..SHARDS {
            self.look(shard, true)?;
        }
        self.check_accounts()
    }

    /// A start that cannot read a record past the high-water mark, however often it tries, cannot know that it was
    /// acknowledged: starts are made without faults.
    fn heal(&mut self) {
        self.faulty = false;
        self.disk.set_faults(MemoryFaults::default());
        self.index.fail(None);
    }

    fn crash(&mut self, kept: u64) {
        self.life = None;
        self.disk.crash();
        let unsynced = self.index.unsynced() as u64;
        self.index.crash((unsynced * kept / 1000) as usize);
        for known in self.known.values_mut() {
            known.crash();
        }
    }

    fn carry_out(&mut self, operation: &Operation) -> Result<(), String> {
        match operation {
            Operation::Calls { callers, until } => {
                self.calls(callers, *until, false)?;
                match until {
                    Until::Done | Until::GivenUp(_) => {}
                    Until::Crash(_, kept) => {
                        self.crash(*kept);
                        self.start()?;
                    }
                    Until::Killed(_) => {
                        self.life = None;
                        self.disk.outlive();
                        self.known.values_mut().for_each(Known::crash);
                        self.start()?;
                    }
                }
            }
            Operation::CleanReboot => {
                if let Some(Life { runtime, store }) = self.life.take()
                    && let Some(store) = Arc::into_inner(store)
                {
                    complete(&runtime, store.close())?;
                }
                self.index.crash(usize::MAX);
                self.start()?;
            }
            Operation::DirtyReboot { kept, again } => {
                self.crash(*kept);
                if let Some(again) = again {
                    self.heal();
                    let (runtime, open) = (runtime()?, self.open());
                    runtime.block_on(async {
                        let open = std::pin::pin!(open);
                        let limit = std::pin::pin!(turns(*again));
                        drop(select(open, limit).await);
                    });
                    drop(runtime);
                    self.crash(*kept);
                }
                self.start()?;
            }
            Operation::Faults(faults) => {
                self.disk.set_faults(*faults);
                let MemoryFaults {
                    fail_write,
                    fail_read,
                    flip_read,
                    fail_sync,
                } = faults;
                self.faulty = fail_write + fail_read + flip_read + fail_sync > 0;
            }
            Operation::Capacity(bytes) => {
                self.disk.set_capacity(*bytes);
                self.cramped = *bytes < ROOMY;
            }
            Operation::IndexFails { full, callers } => {
                self.index.fail(Some(match full {
                    true => IndexError::Full,
                    false => IndexError::Io("injected".to_owned()),
                }));
                self.calls(callers, Until::Done, true)?;
                self.index.fail(None);
                if self.life()?.store.down().is_some() {
                    self.crash(500);
                    self.start()?;
                }
            }
            Operation::Flip { shard, at, bit } => {
                if let Some((name, offset)) = self.place(*shard, *at)? {
                    self.disk.flip_bit(&name, offset, *bit);
                }
            }
            Operation::Break { shard, at } => {
                if let Some((name, offset)) = self.place(*shard, *at)? {
                    self.disk.break_sector(&name, offset);
                }
            }
        }
        if self.life()?.store.down().is_some() {
            return Err("the drive is out of use".to_owned());
        }
        self.check_accounts()
    }

    /// A place in a shard's record, which is about to be damaged.
    fn place(&mut self, shard: u8, at: u64) -> Result<Option<(String, u64)>, String> {
        let ledger = &self.life()?.store.core.ledger;
        let entry = ledger.get(id(shard)).map_err(|e| e.to_string())?;
        let Some(entry) = entry else { return Ok(None) };
        let offset = entry.location.offset + entry.shard.record_len() * at / 1000;
        self.known.entry(shard).or_default().damaged = true;
        Ok(Some((extent_name(entry.location.extent), offset)))
    }

    /// Lets callers make their calls at the same time, and tells the model.
    fn calls(
        &mut self,
        callers: &[Vec<Call>],
        until: Until,
        index_fails: bool,
    ) -> Result<(), String> {
        let life = self.life()?;
        let known_bad = life.store.bad();
        let outcomes = RefCell::new(vec![Vec::new(); callers.len()]);
        let (world, log) = (&*self, &outcomes);
        let all = join_all(
            callers
                .iter()
                .enumerate()
                .map(|(caller, calls)| async move {
                    for call in calls {
                        let outcome = world.call(&life.store, call).await;
                        log.borrow_mut()[caller].push(outcome);
                    }
                }),
        );
        match until {
            Until::Done => drop(complete(&life.runtime, all)?),
            Until::GivenUp(limit) | Until::Crash(limit, _) | Until::Killed(limit) => {
                life.runtime.block_on(async {
                    let limit = std::pin::pin!(turns(limit));
                    drop(select(all, limit).await);
                })
            }
        }
        let outcomes = outcomes.into_inner();
        let changes = changes(callers, &outcomes);
        let before = self.known.clone();
        for (calls, outcomes) in callers.iter().zip(&outcomes) {
            for (call, outcome) in calls.iter().zip(outcomes) {
                self.check_outcome(call, outcome, &before, &changes, index_fails)
                    .map_err(|why| format!("{call:?}: {why}"))?;
            }
        }
        for (shard, change) in changes {
            let known = self.known.entry(shard).or_default();
            known.change(&change);
            // Whatever is put in the place of a shard that is known to be bad is sound; and so is a new one.
            let sound = known_bad.contains(&id(shard)) || change.targets.contains(&None);
            if change.is_sure && change.targets.len() == 1 && sound {
                known.damaged = false;
            }
        }
        let ends = matches!(until, Until::Crash(..) | Until::Killed(_));
        if !ends && !self.faulty && !index_fails {
            for shard in 0..SHARDS {
                self.look(shard, false)?;
            }
        }
        Ok(())
    }

    async fn call(&self, store: &ShardStore, call: &Call) -> Outcome {
        match call {
            Call::Put { shard, variant } => {
                let bytes = content(*shard, *variant);
                let Ok(mut payload) = self.pool.try_acquire(bytes.len()) else {
                    return Outcome::Put(Err(PutShardError::Busy));
                };
                payload.extend_from_slice(bytes);
                let facts = facts(*shard, *variant);
                Outcome::Put(store.put(id(*shard), facts, payload).await)
            }
            Call::Get { shard, from, to } => {
                let len = match store.info(id(*shard)) {
                    Ok(info) => info.map_or(0, |info| u64::from(info.len)),
                    Err(error) => return Outcome::Get(Err(error)),
                };
                let (from, to) = (from.min(to) * len / 1000, from.max(to) * len / 1000);
                let range = from as u32..to as u32;
                Outcome::Get(self.get(store, *shard, range).await)
            }
            Call::Delete { shards } => {
                let ids: Vec<_> = shards.iter().map(|shard| id(*shard)).collect();
                Outcome::Delete(store.delete(&ids).await.is_ok())
            }
            Call::Compact => Outcome::Compact(store.compact().await.map(drop)),
            Call::Scrub => Outcome::Scrub(store.scrub().await),
            Call::Seal => {
                store.seal().await;
                Outcome::Seal
            }
        }
    }

    async fn get(
        &self,
        store: &ShardStore,
        shard: u8,
        range: std::ops::Range<u32>,
    ) -> Result<Vec<u8>, GetShardError> {
        let room = self.pool.try_acquire(read_capacity(&range))?;
        let bytes = store.get(id(shard), range, room).await?;
        Ok(bytes.to_vec())
    }

    fn check_outcome(
        &self,
        call: &Call,
        outcome: &Outcome,
        before: &BTreeMap<u8, Known>,
        changes: &BTreeMap<u8, Change>,
        index_fails: bool,
    ) -> Result<(), String> {
        let excused = self.faulty || index_fails;
        match (call, outcome) {
            (Call::Put { .. }, Outcome::Put(Err(error))) => {
                let full = self.cramped && matches!(error, PutShardError::Full);
                let clean = excused || full;
                clean.then_some(()).ok_or_else(|| error.to_string())
            }
            (Call::Delete { .. }, Outcome::Delete(false)) if !excused => {
                Err("was refused".to_owned())
            }
            (Call::Compact, Outcome::Compact(Err(error))) if !excused => Err(error.to_string()),
            (Call::Scrub, Outcome::Scrub(Err(error))) if !excused => Err(error.to_string()),
            (Call::Scrub, Outcome::Scrub(Ok(report))) if !excused => {
                let sound = |shard: &u8| !before[shard].damaged && report.bad.contains(&id(*shard));
                match (0..SHARDS).find(sound) {
                    Some(shard) => Err(format!("shard {shard} is called bad")),
                    None => Ok(()),
                }
            }
            (Call::Get { shard, from, to }, Outcome::Get(got)) => {
                let mut possible = before[shard].allowed.clone();
                if let Some(change) = changes.get(shard) {
                    possible.extend(&change.tried);
                }
                match got {
                    Ok(bytes) => {
                        let fits = |variant: &Content| {
                            variant.is_some_and(|variant| {
                                let whole = content(*shard, variant);
                                let len = whole.len() as u64;
                                // The length was looked up before: another variant may have it another length.
                                let lengths = [0, 1].map(|v| content(*shard, v).len() as u64);
                                lengths.iter().any(|looked_up| {
                                    let start = from.min(to) * looked_up / 1000;
                                    let end = from.max(to) * looked_up / 1000;
                                    end <= len && whole[start as usize..end as usize] == bytes[..]
                                })
                            })
                        };
                        let right = possible.iter().any(fits);
                        right.then_some(()).ok_or_else(|| "wrong bytes".to_owned())
                    }
                    Err(GetShardError::NotFound) => {
                        let right = possible.contains(&None);
                        right.then_some(()).ok_or_else(|| "is missing".to_owned())
                    }
                    // The length was looked up before.
                    Err(GetShardError::OutOfRange) if possible.len() > 1 => Ok(()),
                    Err(_) if excused || before[shard].damaged => Ok(()),
                    Err(error) => Err(error.to_string()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Reads a shard when nothing else runs.
    fn look(&mut self, shard: u8, started: bool) -> Result<(), String> {
        let life = self.life()?;
        let store = life.store.clone();
        let read = async {
            let Some(info) = store.info(id(shard))? else {
                return Err(GetShardError::NotFound);
            };
            self.get(&store, shard, 0..info.len).await
        };
        let got = complete(&life.runtime, read)?;
        let known = self.known.entry(shard).or_default();
        let content = match got {
            Ok(bytes) => {
                let variant = (0..2).find(|variant| content(shard, *variant) == bytes);
                Some(variant.ok_or_else(|| format!("shard {shard}: wrong bytes"))?)
            }
            Err(GetShardError::NotFound) => None,
            Err(_) if known.damaged => return Ok(()),
            Err(error) => return Err(format!("shard {shard}: {error}")),
        };
        known
            .see(content)
            .map_err(|why| format!("shard {shard}: {why}"))?;
        if started {
            known.settle(content);
        }
        Ok(())
    }

    /// What the store keeps account of is what the index says.
    fn check_accounts(&self) -> Result<(), String> {
        let core = &self.life()?.store.core;
        let entries = core
            .entries_after(None, usize::MAX)
            .map_err(|e| e.to_string())?;
        let mut live = BTreeMap::<u64, u64>::new();
        for entry in &entries {
            *live.entry(entry.location.extent).or_default() += entry.shard.record_len();
        }
        for (number, extent) in core.ledger.extents() {
            let counted = live.remove(&number).unwrap_or(0);
            if counted != extent.live_bytes {
                return Err(format!(
                    "extent {number} counts {} live bytes, and has {counted}",
                    extent.live_bytes
                ));
            }
            let tombstones = core.ledger.extent(number).map(|extent| extent.tombstones);
            if extent.phase != Phase::Open && tombstones.is_some_and(|all| !all.is_empty()) {
                return Err(format!("extent {number} is sealed and has tombstones"));
            }
        }
        match live.into_keys().next() {
            Some(number) => Err(format!("shards in extent {number}, which is not known")),
            None => Ok(()),
        }
    }

    /// Whatever happened: after a crash everything can be deleted, and then all space is free.
    fn finish(&mut self) -> Result<(), String> {
        self.disk.set_capacity(ROOMY);
        self.cramped = false;
        self.crash(0);
        self.start()?;
        let all = Call::Delete {
            shards: (0..SHARDS).collect(),
        };
        self.calls(&[vec![all]], Until::Done, false)?;
        self.crash(0);
        self.start()?;
        self.calls(&[vec![Call::Seal, Call::Compact]], Until::Done, false)?;
        let life = self.life()?;
        let files = complete(&life.runtime, self.disk.list())?.map_err(|e| e.to_string())?;
        if !files.is_empty() || !life.store.core.ledger.extents().is_empty() {
            return Err(format!("space is lost: {files:?}"));
        }
        self.life = None;
        if self.pool.in_use_bytes() > 0 {
            return Err("memory is lost".to_owned());
        }
        Ok(())
    }
}

/// What callers did to each shard, as far as they came: one more call than has an outcome was begun.
fn changes(callers: &[Vec<Call>], outcomes: &[Vec<Outcome>]) -> BTreeMap<u8, Change> {
    let mut changes = BTreeMap::<u8, Change>::new();
    for (calls, outcomes) in callers.iter().zip(outcomes) {
        let mut steps = BTreeMap::<u8, Vec<(Content, bool)>>::new();
        for (number, call) in calls.iter().enumerate().take(outcomes.len() + 1) {
            let outcome = outcomes.get(number);
            match call {
                Call::Put { shard, variant } => {
                    let done = matches!(outcome, Some(Outcome::Put(Ok(()))));
                    steps
                        .entry(*shard)
                        .or_default()
                        .push((Some(*variant), done));
                }
                Call::Delete { shards } => {
                    let done = matches!(outcome, Some(Outcome::Delete(true)));
                    for shard in shards {
                        steps.entry(*shard).or_default().push((None, done));
                    }
                }
                _ => {}
            }
        }
        for (shard, steps) in steps {
            changes.entry(shard).or_default().caller(&steps);
        }
    }
    changes
}

fn runtime() -> Result<Runtime, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.map_err(|error| error.to_string())
}
