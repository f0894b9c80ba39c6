//! The census: goes over all bodies of a group, asks the drives whether they hold the shards that they should, and has
//! those rebuilt that are missing or bad. A store calls itself whole when a census has said so, and not before.
//!
//! Who leads a group takes it: when it begins to lead; when something has happened that may have cost shards or brought
//! them back (a drive came or went, a node was started again, the ring changed); when an operator asks for it; again and
//! again while something is missing; and now and then. Nothing of it is kept: a new leader begins anew.
//!
//! A shard counts as missing if none of the drives that its slot names, where it belongs and where it may be while it
//! moves, says that it holds it. That is not believed at once: who rebuilds it reads it first, and rebuilds only what
//! cannot be read. Drives that do not answer are not taken to have lost anything; what may be on them alone is *away*.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use holdfast_placement::ids::{ChunkSetId, DriveId, GroupId, NodeId, SiteId};
use holdfast_placement::map::SharedMap;
use holdfast_placement::planted::{Bug, planted};
use holdfast_placement::seams::{Clock, UnixMillis};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use super::LedGroups;
use super::rebuild::{RebuildError, Rebuilder, Rebuilt};
use crate::metadata::{ChunkedBody, Metadata, MetadataError, Seen};
use crate::shard_store::{PutShardError, ShardId};
use crate::shards::{Held, Shards};

/// How a census is taken.
#[derive(Clone, Debug)]
pub struct CensusConfig {
    /// How often it is looked whether one is due.
    pub look_pause: Duration,
    /// Between two of a group when nothing has happened.
    pub interval: Duration,
    /// Between two while something is missing that should not be; doubles up to `retry_max`.
    pub retry_min: Duration,
    pub retry_max: Duration,
    /// Bodies that are asked for at a time.
    pub bodies: usize,
    /// Shards that the drives are asked for at a time.
    pub shards: usize,
    /// Pause after each time.
    pub pause: Duration,
    /// Shards that are rebuilt at a time.
    pub at_once: usize,
}

impl Default for CensusConfig {
    fn default() -> Self {
        Self {
            look_pause: Duration::from_secs(2),
            interval: Duration::from_secs(6 * 3600),
            retry_min: Duration::from_secs(5),
            retry_max: Duration::from_secs(300),
            bodies: 512,
            shards: 4096,
            pause: Duration::from_millis(20),
            at_once: 4,
        }
    }
}

/// What a census of a group has found. Spoken between versions: append only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CensusCount {
    pub bodies: u64,
    /// Shards that these bodies should have.
    pub shards: u64,
    /// Of these, those that were on none of their drives, and those that were known to be bad.
    pub missing: u64,
    pub bad: u64,
    /// Of the missing and of the bad ones, those that are right now: rebuilt, or not wanted any more, or found after all.
    pub missing_mended: u64,
    pub bad_mended: u64,
    /// Shards that were made anew.
    pub rebuilt: u64,
    /// Shards whose drives did not answer: not known to be lost.
    pub away: u64,
    /// Why the others are still missing or bad.
    pub left: CensusLeft,
}

/// Shards that could not be rebuilt, by why not. Spoken between versions: append only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CensusLeft {
    /// Their drive, or one with others of their chunk, does not answer.
    pub drive_down: u64,
    /// Fewer shards of their chunk can be read than are needed.
    pub too_few: u64,
    /// The others do not add up to the chunk that was written.
    pub disagree: u64,
    /// Their drive is full.
    pub full: u64,
    /// The ring has no drive for them: it has fewer drives than the chunk has shards.
    pub no_place: u64,
    /// Something that may pass: no memory, an error of a drive.
    pub other: u64,
}

impl CensusCount {
    /// Shards that are known to be missing and are not mended yet.
    pub fn missing_open(&self) -> u64 {
        self.missing.saturating_sub(self.missing_mended)
    }

    /// Shards that are known to be bad and are not mended yet.
    pub fn bad_open(&self) -> u64 {
        self.bad.saturating_sub(self.bad_mended)
    }

    fn is_whole(&self) -> bool {
        self.missing_open() == 0 && self.bad_open() == 0 && self.away == 0
    }

    /// The sum of both.
    pub fn add(&mut self, other: &CensusCount) {
        self.bodies += other.bodies;
        self.shards += other.shards;
        self.missing += other.missing;
        self.bad += other.bad;
        self.missing_mended += other.missing_mended;
        self.bad_mended += other.bad_mended;
        self.rebuilt += other.rebuilt;
        self.away += other.away;
        self.left.drive_down += other.left.drive_down;
        self.left.too_few += other.left.too_few;
        self.left.disagree += other.left.disagree;
        self.left.full += other.left.full;
        self.left.no_place += other.left.no_place;
        self.left.other += other.left.other;
    }

    fn mended(&mut self, was: Held) {
        match was {
            Held::Bad => self.bad_mended += 1,
            Held::Missing | Held::Sound => self.missing_mended += 1,
        }
    }
}

impl CensusLeft {
    fn note(&mut self, error: &RebuildError) {
        match error {
            RebuildError::DriveDown | RebuildError::Put(PutShardError::Down(_)) => {
                self.drive_down += 1;
            }
            RebuildError::TooFew { .. } => self.too_few += 1,
            RebuildError::NoPlace => self.no_place += 1,
            RebuildError::Disagree => self.disagree += 1,
            RebuildError::Put(PutShardError::Full) => self.full += 1,
            RebuildError::Put(_) | RebuildError::Memory(_) | RebuildError::Erasure(_) => {
                self.other += 1;
            }
        }
    }
}

/// How the census of a group stands. Spoken between versions: append only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupCensus {
    pub group: GroupId,
    /// What the one under way has found so far.
    pub now: Option<CensusCount>,
    /// What the last one found, and when it ended.
    pub last: Option<(UnixMillis, CensusCount)>,
    /// The last one found everything or mended what it did not find, and nothing has happened since that may have changed
    /// that.
    pub whole: bool,
}

/// When each node was started, as far as that is known: a node that was started again may have lost something.
pub type Lives = Arc<dyn Fn() -> Vec<(NodeId, u64)> + Send + Sync>;

/// Asks for censuses and tells how they stand. Clones share it.
#[derive(Clone, Default)]
pub struct CensusControl {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    groups: Mutex<BTreeMap<GroupId, GroupState>>,
    asked: AtomicU64,
    wake: Notify,
}

#[derive(Default)]
struct GroupState {
    census: GroupCensus,
    /// What things were like when the last one began.
    circumstances: Option<Circumstances>,
    /// When the next one is due if nothing happens, monotonic.
    due: Duration,
    retry_pause: Duration,
}

/// What may have cost shards or brought them back if it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Circumstances {
    rings: Vec<(SiteId, u64, bool)>,
    up: BTreeSet<DriveId>,
    lives: Vec<(NodeId, u64)>,
    asked: u64,
}

impl CensusControl {
    /// Has a census of all groups led here begin soon.
    pub fn ask(&self) {
        self.shared.asked.fetch_add(1, Ordering::Relaxed);
        self.shared.wake.notify_one();
    }

    /// How the censuses of these groups stand.
    pub fn report(&self, groups: &[GroupId]) -> Vec<GroupCensus> {
        let known = self.shared.groups.lock();
        let led = groups
            .iter()
            .filter(|group| **group != GroupId::PLACEMENT)
            .map(|group| match known.get(group) {
                Some(state) => state.census,
                None => GroupCensus {
                    group: *group,
                    ..GroupCensus::default()
                },
            });
        led.collect()
    }

    fn change(&self, group: GroupId, change: impl FnOnce(&mut GroupState)) {
        let mut groups = self.shared.groups.lock();
        let state = groups.entry(group).or_default();
        state.census.group = group;
        change(state);
    }

    /// The groups whose census is due; none of them is called whole from now on.
    fn due(&self, led: &[GroupId], now: &Circumstances, time: Duration) -> Vec<GroupId> {
        let mut groups = self.shared.groups.lock();
        groups.retain(|group, _| led.contains(group));
        let mut due = Vec::new();
        for group in led {
            let state = groups.entry(*group).or_default();
            state.census.group = *group;
            let changed = state.circumstances.as_ref() != Some(now);
            if changed {
                state.census.whole = false;
            }
            if changed || time >= state.due {
                due.push(*group);
            }
        }
        due
    }
}

/// Takes the census of the groups that are led here.
pub struct Census {
    pub metadata: Metadata,
    pub rebuilder: Rebuilder,
    pub shards: Arc<dyn Shards>,
    pub map: SharedMap,
    pub led: LedGroups,
    pub lives: Lives,
    pub clock: Arc<dyn Clock>,
    pub config: CensusConfig,
    pub control: CensusControl,
}

/// A shard that should be there.
#[derive(Clone, Copy)]
struct Wanted {
    body: ChunkedBody,
    chunk: u32,
    slot: u8,
}

impl Wanted {
    fn id(&self) -> ShardId {
        ShardId {
            set: self.body.set,
            chunk: self.chunk,
            slot: self.slot,
        }
    }
}

/// Shards of chunks that have nothing left which are remembered until a census ends; more are lost, not deleted meanwhile.
const GONE_MAX: usize = 10_000;

/// How often newest versions are gone over again because some came back to be the newest.
const AGAIN_MAX: u32 = 3;

impl Census {
    /// Works until `stopped` changes.
    pub async fn run(self, mut stopped: watch::Receiver<bool>) {
        let work = async {
            loop {
                let pause = self.clock.sleep(self.config.look_pause);
                tokio::select! {
                    () = pause => {}
                    () = self.control.shared.wake.notified() => {}
                }
                let led: Vec<GroupId> = (self.led)()
                    .into_iter()
                    .filter(|group| *group != GroupId::PLACEMENT)
                    .collect();
                let time = self.clock.monotonic();
                for group in self.control.due(&led, &self.circumstances(), time) {
                    self.take(group).await;
                }
            }
        };
        tokio::select! {
            () = work => {}
            _ = stopped.changed() => {}
        }
    }

    fn circumstances(&self) -> Circumstances {
        let map = self.map.load();
        let rings = map.rings.iter();
        let mut lives = (self.lives)();
        lives.sort_unstable();
        Circumstances {
            rings: rings
                .map(|(site, ring)| (*site, ring.version(), ring.is_settled()))
                .collect(),
            up: map
                .drives
                .iter()
                .map(|drive| drive.id)
                .filter(|drive| map.is_up(*drive))
                .collect(),
            lives,
            asked: self.control.shared.asked.load(Ordering::Relaxed),
        }
    }

    /// Takes the census of a group once, and rebuilds what is missing or bad.
    pub async fn take(&self, group: GroupId) {
        let began = self.circumstances();
        self.control.change(group, |state| {
            state.census.now = Some(CensusCount::default())
        });
        let taken = self.walk(group).await;
        let (time, wall) = (self.clock.monotonic(), self.clock.wall());
        let config = &self.config;
        self.control.change(group, |state| {
            state.census.now = None;
            state.circumstances = Some(began);
            let whole = match &taken {
                Ok(Some(count)) => {
                    state.census.last = Some((wall, *count));
                    count.is_whole()
                }
                Ok(None) | Err(_) => false,
            };
            state.census.whole = whole;
            state.retry_pause = match whole {
                true => Duration::ZERO,
                false => (state.retry_pause * 2).clamp(config.retry_min, config.retry_max),
            };
            state.due = time
                + match whole {
                    true => config.interval,
                    false => state.retry_pause,
                };
        });
        match taken {
            Ok(Some(count)) if count.missing + count.bad > 0 => {
                tracing::warn!(
                    %group,
                    missing = count.missing,
                    bad = count.bad,
                    rebuilt = count.rebuilt,
                    left = ?count.left,
                    "shards were missing or bad"
                );
            }
            Ok(_) => {}
            Err(error) => {
                tracing::info!(%group, %error, "the census of a group ended early");
            }
        }
    }

    /// `None`: the group is not led here any more.
    async fn walk(&self, group: GroupId) -> Result<Option<CensusCount>, MetadataError> {
        let mut count = CensusCount::default();
        let mut gone = Vec::new();
        let mut at = Some(Seen::default());
        let mut promotions = None;
        let mut again = 0;
        while let Some(after) = at {
            if !(self.led)().contains(&group) {
                return Ok(None);
            }
            let is_versions = matches!(after, Seen::Versions(_));
            let step = self
                .metadata
                .bodies(group, after, self.config.bodies)
                .await?;
            count.bodies += step.bodies.len() as u64;
            let bodies = step.bodies.into_iter();
            let mut wanted = bodies.flat_map(|body| {
                (0..body.chunks()).flat_map(move |chunk| {
                    let slots = body.layout_of(chunk).stored_slots();
                    slots.map(move |slot| Wanted { body, chunk, slot })
                })
            });
            loop {
                let some: Vec<Wanted> = wanted.by_ref().take(self.config.shards).collect();
                if some.is_empty() {
                    break;
                }
                self.check(some, &mut count, &mut gone).await;
                self.control
                    .change(group, |state| state.census.now = Some(count));
                self.clock.sleep(self.config.pause).await;
            }
            let before = *promotions.get_or_insert(step.promotions);
            at = match step.next {
                // The second time only the newest versions are gone over.
                Some(Seen::Noncurrent(_)) if is_versions && again > 0 => None,
                next => next,
            };
            if at.is_none() && before != step.promotions && again < AGAIN_MAX {
                again += 1;
                promotions = None;
                at = Some(Seen::Versions(Vec::new()));
            }
        }
        self.judge_gone(group, gone, &mut count).await?;
        Ok(Some(count))
    }

    /// Tells shards of bodies that were deleted while the census was on its way from those of bodies that have lost all.
    async fn judge_gone(
        &self,
        group: GroupId,
        gone: Vec<(ChunkSetId, Held)>,
        count: &mut CensusCount,
    ) -> Result<(), MetadataError> {
        if gone.is_empty() {
            return Ok(());
        }
        let mut unseen: BTreeSet<ChunkSetId> = gone.iter().map(|(set, _)| *set).collect();
        // What moved during one walk so that it was missed lies still in the next: no body moves so twice.
        for _ in 0..2 {
            let sets: Vec<ChunkSetId> = unseen.iter().copied().collect();
            for body in self.metadata.bodies_of(group, &sets).await? {
                unseen.remove(&body.set);
            }
        }
        for (set, held) in gone {
            match unseen.contains(&set) {
                true => count.mended(held),
                false => count.left.too_few += 1,
            }
        }
        Ok(())
    }

    /// Looks for some shards and rebuilds those that are not there. Adds to `gone` those of chunks of which nothing is left.
    async fn check(
        &self,
        wanted: Vec<Wanted>,
        count: &mut CensusCount,
        gone: &mut Vec<(ChunkSetId, Held)>,
    ) {
        count.shards += wanted.len() as u64;
        let map = self.map.load();
        let mut unfound: Vec<(Wanted, Held)> = Vec::new();
        // First where they belong; those that are not there, where they may still be.
        let mut found: Vec<Option<Held>> = vec![None; wanted.len()];
        let mut silent = vec![false; wanted.len()];
        let mut open: Vec<usize> = Vec::new();
        for (index, shard) in wanted.iter().enumerate() {
            match self.places(&map, shard).is_empty() {
                true => {
                    count.missing += 1;
                    count.left.no_place += 1;
                }
                false => open.push(index),
            }
        }
        let mut round = 0;
        while !open.is_empty() {
            let mut batches: BTreeMap<DriveId, Vec<usize>> = BTreeMap::new();
            for index in &open {
                if let Some(drive) = self.places(&map, &wanted[*index]).get(round) {
                    batches.entry(*drive).or_default().push(*index);
                }
            }
            if batches.is_empty() {
                break;
            }
            let asked = batches.into_iter().map(|(drive, indices)| {
                let ids: Vec<ShardId> = indices.iter().map(|index| wanted[*index].id()).collect();
                let is_up = map.is_up(drive) && !self.shards.is_down(drive);
                async move {
                    let held = match is_up {
                        true => self.shards.holds(drive, &ids).await.ok(),
                        false => None,
                    };
                    (indices, held)
                }
            });
            for (indices, held) in join_all(asked).await {
                match held {
                    Some(held) => {
                        for (index, held) in indices.into_iter().zip(held) {
                            found[index] = found[index].max(Some(held));
                        }
                    }
                    None => indices.into_iter().for_each(|index| silent[index] = true),
                }
            }
            open.retain(|index| match planted(Bug::CensusBelieves) {
                true => found[*index].is_none(),
                false => found[*index] != Some(Held::Sound),
            });
            round += 1;
        }
        for index in open {
            match (silent[index], found[index]) {
                (true, _) | (false, None) => count.away += 1,
                (false, Some(held)) => {
                    match held {
                        Held::Bad => count.bad += 1,
                        Held::Missing | Held::Sound => count.missing += 1,
                    }
                    unfound.push((wanted[index], held));
                }
            }
        }
        drop(map);
        let rebuilds = unfound.into_iter().map(|(shard, held)| async move {
            let rebuilt = self
                .rebuilder
                .rebuild(&shard.body, shard.chunk, shard.slot)
                .await;
            (shard, held, rebuilt)
        });
        let mut rebuilds = stream::iter(rebuilds).buffer_unordered(self.config.at_once.max(1));
        while let Some((shard, held, rebuilt)) = rebuilds.next().await {
            match rebuilt {
                Ok(Rebuilt::Gone) if gone.len() < GONE_MAX => gone.push((shard.body.set, held)),
                Ok(Rebuilt::Gone) => count.left.too_few += 1,
                Ok(done) => {
                    count.rebuilt += u64::from(done == Rebuilt::Written);
                    count.mended(held);
                }
                Err(error) => {
                    tracing::debug!(shard = %shard.id(), %error, "a shard cannot be rebuilt now");
                    count.left.note(&error);
                }
            }
        }
    }

    /// The drives that may have a shard, in the order to ask them.
    fn places(&self, map: &holdfast_placement::map::ClusterMap, shard: &Wanted) -> Vec<DriveId> {
        let slot = map.ring(shard.body.site).and_then(|ring| {
            let partition = ring.partition_of(shard.body.set, shard.chunk);
            ring.slot(partition, shard.slot)
        });
        slot.map_or_else(Vec::new, |slot| slot.drives().collect())
    }
}

#[cfg(test)]
mod tests;
