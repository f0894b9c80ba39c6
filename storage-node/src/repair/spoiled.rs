//! Has shards made anew that were found to be bad on the drives of this process, by scrubs or by reads.
//!
//! A shard's record names its chunk set, and not whose body that is: so the groups are asked, each of them whether it has
//! a body of these sets. What no group knows is an upload under way, or waits to be reclaimed, or is an orphan: it stays
//! listed as bad until it is deleted, and is nobody's loss ([`Unowned`]).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use holdfast_placement::ids::{ChunkSetId, DriveId, GroupId};
use holdfast_placement::map::SharedMap;
use holdfast_placement::seams::Clock;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::rebuild::{Rebuilder, Rebuilt};
use crate::metadata::{ChunkedBody, Metadata, MetadataError};
use crate::shard_store::ShardId;
use crate::shards::LocalShards;

/// How often the lists of bad shards are looked at.
const LOOK_PAUSE: Duration = Duration::from_secs(2);

/// Pause before shards that could not be made are tried again; doubles up to `RETRY_MAX`.
const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// Shards that are dealt with at a time; the groups are gone through once for so many.
const BATCH_LEN: usize = 16_384;

/// Shards that are rebuilt at a time.
const AT_ONCE: usize = 2;

/// Bad shards that no body had when that was looked at last. Clones share it.
#[derive(Clone, Default)]
pub struct Unowned(Arc<Mutex<BTreeSet<(DriveId, ShardId)>>>);

impl Unowned {
    /// How many of a drive's bad shards have a body, or may have one.
    pub fn owned_of(&self, drive: DriveId, bad: &[ShardId]) -> usize {
        let unowned = self.0.lock();
        let is_owned = |id: &&ShardId| !unowned.contains(&(drive, **id));
        bad.iter().filter(is_owned).count()
    }
}

/// Rebuilds the bad shards of a process.
pub struct Spoiled {
    pub metadata: Metadata,
    pub rebuilder: Rebuilder,
    pub shards: Arc<LocalShards>,
    pub map: SharedMap,
    pub clock: Arc<dyn Clock>,
    pub unowned: Unowned,
}

/// What a round came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpoiledDone {
    pub rebuilt: u64,
    /// Right when they were read again, or deleted meanwhile.
    pub settled: u64,
    pub left: u64,
}

impl Spoiled {
    /// Works until `stopped` changes.
    pub async fn run(self, mut stopped: watch::Receiver<bool>) {
        let work = async {
            let mut in_vain: BTreeSet<(DriveId, ShardId)> = BTreeSet::new();
            let mut pause = RETRY_MIN;
            let mut retry_at = Duration::ZERO;
            loop {
                self.clock.sleep(LOOK_PAUSE).await;
                let bad = self.bad();
                let is_news = bad.iter().any(|shard| !in_vain.contains(shard));
                if bad.is_empty() || !is_news && self.clock.monotonic() < retry_at {
                    continue;
                }
                match self.mend(&bad).await {
                    Ok(done) if done.left == 0 => pause = RETRY_MIN,
                    Ok(done) => {
                        tracing::info!(?done, "not all bad shards could be made anew");
                        pause = (pause * 2).min(RETRY_MAX);
                    }
                    Err(error) => {
                        tracing::info!(%error, "bad shards are made anew later");
                        pause = (pause * 2).min(RETRY_MAX);
                    }
                }
                in_vain = bad;
                retry_at = self.clock.monotonic() + pause;
            }
        };
        tokio::select! {
            () = work => {}
            _ = stopped.changed() => {}
        }
    }

    fn bad(&self) -> BTreeSet<(DriveId, ShardId)> {
        let mut bad = BTreeSet::new();
        for drive in self.shards.drives() {
            if let Some(store) = self.shards.store(drive).filter(|s| s.down().is_none()) {
                bad.extend(store.bad().into_iter().map(|id| (drive, id)));
            }
        }
        bad
    }

    /// Deals with bad shards once.
    async fn mend(&self, bad: &BTreeSet<(DriveId, ShardId)>) -> Result<SpoiledDone, MetadataError> {
        let mut done = SpoiledDone::default();
        let mut unowned = BTreeSet::new();
        let bad: Vec<(DriveId, ShardId)> = bad.iter().copied().collect();
        for some in bad.chunks(BATCH_LEN) {
            let sets: BTreeSet<ChunkSetId> = some.iter().map(|(_, id)| id.set).collect();
            let bodies = self.bodies_of(sets.into_iter().collect()).await?;
            let has_none = |(_, id): &&(DriveId, ShardId)| !bodies.contains_key(&id.set);
            unowned.extend(some.iter().filter(has_none));
            let mends: Vec<_> = some
                .iter()
                .map(|(drive, id)| self.mend_one(*drive, *id, bodies.get(&id.set).copied()))
                .collect();
            let mut mends = stream::iter(mends).buffer_unordered(AT_ONCE);
            while let Some(outcome) = mends.next().await {
                match outcome {
                    Some(Rebuilt::Written) => done.rebuilt += 1,
                    Some(Rebuilt::Whole | Rebuilt::Gone) => done.settled += 1,
                    None => done.left += 1,
                }
            }
        }
        *self.unowned.0.lock() = unowned;
        if done.rebuilt > 0 {
            tracing::info!(rebuilt = done.rebuilt, "bad shards were made anew");
        }
        Ok(done)
    }

    /// `None`: it is still bad.
    async fn mend_one(
        &self,
        drive: DriveId,
        id: ShardId,
        body: Option<ChunkedBody>,
    ) -> Option<Rebuilt> {
        let store = self.shards.store(drive)?;
        match store.info(id).ok()? {
            None => return Some(Rebuilt::Gone),
            Some(info) if !info.bad => return Some(Rebuilt::Whole),
            Some(_) => {}
        }
        // It may be right after all.
        if store.recheck(&[id]).await.ok()? > 0 {
            return Some(Rebuilt::Whole);
        }
        match self.rebuilder.rebuild(&body?, id.chunk, id.slot).await {
            // Right somewhere else: it moves, and who moves it deals with it.
            Ok(Rebuilt::Whole) => None,
            Ok(done) => Some(done),
            Err(error) => {
                tracing::debug!(shard = %id, %error, "a bad shard cannot be made anew now");
                None
            }
        }
    }

    /// The bodies that have these sets, of all groups.
    async fn bodies_of(
        &self,
        sets: Vec<ChunkSetId>,
    ) -> Result<HashMap<ChunkSetId, ChunkedBody>, MetadataError> {
        let mut found: HashMap<ChunkSetId, ChunkedBody> = HashMap::new();
        for group in (1..=self.map.load().metadata_groups).map(GroupId) {
            let open: Vec<ChunkSetId> = sets
                .iter()
                .filter(|set| !found.contains_key(set))
                .copied()
                .collect();
            if open.is_empty() {
                break;
            }
            for body in self.metadata.bodies_of(group, &open).await? {
                found.insert(body.set, body);
            }
        }
        Ok(found)
    }
}
