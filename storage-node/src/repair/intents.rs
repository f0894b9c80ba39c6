//! Makes the shards that writes have missed: those that metadata remembers.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use holdfast_placement::ids::{DriveId, Epoch, GroupId};
use holdfast_placement::map::SharedMap;
use holdfast_placement::seams::Clock;
use tokio::sync::watch;

use super::LedGroups;
use super::rebuild::{RebuildError, Rebuilder, Rebuilt};
use crate::metadata::{Metadata, MetadataError, OpenRepair, RepairId};
use crate::shards::Shards;

/// How missed shards are made.
#[derive(Clone, Debug)]
pub struct IntentsConfig {
    /// Shards that are made at a time.
    pub at_once: usize,
    /// Shards that are asked for, and told to be made, at a time.
    pub batch: usize,
    /// Pause between rounds over the groups; doubles while there is nothing that can be done, up to `pause_max`.
    pub pause_min: Duration,
    pub pause_max: Duration,
}

impl Default for IntentsConfig {
    fn default() -> Self {
        Self {
            at_once: 2,
            batch: 64,
            pause_min: Duration::from_secs(2),
            pause_max: Duration::from_secs(16),
        }
    }
}

/// What a round came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IntentsDone {
    /// Shards that were made.
    pub written: u64,
    /// Shards that were there already, or whose body is gone.
    pub settled: u64,
    /// Shards that are still to be made: their drive is down or full, or too few others can be read.
    pub left: u64,
}

impl IntentsDone {
    fn add(&mut self, other: IntentsDone) {
        self.written += other.written;
        self.settled += other.settled;
        self.left += other.left;
    }
}

/// Makes missed shards of the groups that are led here.
pub struct IntentsWorker {
    metadata: Metadata,
    rebuilder: Rebuilder,
    shards: Arc<dyn Shards>,
    map: SharedMap,
    led: LedGroups,
    clock: Arc<dyn Clock>,
    config: IntentsConfig,
}

/// What decides whether shards that could not be made can be made now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Circumstances {
    epoch: Epoch,
    down: Vec<DriveId>,
    open: Vec<(GroupId, u64)>,
}

impl IntentsWorker {
    pub fn new(
        metadata: Metadata,
        rebuilder: Rebuilder,
        shards: Arc<dyn Shards>,
        map: SharedMap,
        led: LedGroups,
        clock: Arc<dyn Clock>,
        config: IntentsConfig,
    ) -> Self {
        Self {
            metadata,
            rebuilder,
            shards,
            map,
            led,
            clock,
            config,
        }
    }

    /// Works until `stopped` changes.
    pub async fn run(self, mut stopped: watch::Receiver<bool>) {
        let mut pause = self.config.pause_min;
        let mut in_vain: Option<Circumstances> = None;
        let mut last_try = self.clock.monotonic();
        loop {
            tokio::select! {
                () = self.clock.sleep(pause) => {}
                _ = stopped.changed() => return,
            }
            pause = (pause * 2).min(self.config.pause_max);
            let now = self.circumstances().await;
            if now.open.is_empty() {
                continue;
            }
            let waited = self.clock.monotonic().saturating_sub(last_try);
            if in_vain.as_ref() == Some(&now) && waited < self.config.pause_max * 4 {
                continue;
            }
            last_try = self.clock.monotonic();
            let mut done = IntentsDone::default();
            for (group, _) in &now.open {
                match self.work_off(*group, &stopped).await {
                    Ok(of_group) => done.add(of_group),
                    Err(error) => {
                        tracing::warn!(%group, %error, "missed shards could not be made in this round");
                    }
                }
                if *stopped.borrow() {
                    return;
                }
            }
            if done.written + done.settled > 0 {
                tracing::info!(
                    written = done.written,
                    left = done.left,
                    "shards that writes had missed were made"
                );
                pause = self.config.pause_min;
            }
            in_vain = (done.written + done.settled == 0).then_some(now);
        }
    }

    /// The groups led here that have missed shards; one that cannot be read now has none.
    async fn circumstances(&self) -> Circumstances {
        let mut open = Vec::new();
        for group in (self.led)() {
            if group == GroupId::PLACEMENT {
                continue;
            }
            match self.metadata.usage(group).await {
                Ok(usage) if usage.repairs_open > 0 => open.push((group, usage.repairs_open)),
                Ok(_) => {}
                Err(error) => tracing::debug!(%group, %error, "a group was not asked for repairs"),
            }
        }
        let map = self.map.load();
        let is_down = |drive: &DriveId| !map.is_up(*drive) || self.shards.is_down(*drive);
        let drives = map.drives.iter().map(|drive| drive.id);
        Circumstances {
            epoch: map.epoch,
            down: drives.filter(is_down).collect(),
            open,
        }
    }

    /// Tries all missed shards of a group once, the oldest first.
    pub async fn work_off(
        &self,
        group: GroupId,
        stopped: &watch::Receiver<bool>,
    ) -> Result<IntentsDone, MetadataError> {
        let mut done = IntentsDone::default();
        let mut after: Option<RepairId> = None;
        loop {
            let page = self.metadata.repairs(group, after, self.config.batch);
            let page = page.await?;
            let Some(last) = page.last() else {
                return Ok(done);
            };
            after = Some(last.id);
            let tries = page.into_iter().map(|OpenRepair { id, body }| async move {
                let rebuilt = self.rebuilder.rebuild(&body, id.chunk, id.slot).await;
                (id, rebuilt)
            });
            let tries: Vec<_> = stream::iter(tries)
                .buffer_unordered(self.config.at_once)
                .collect()
                .await;
            let mut closed = Vec::with_capacity(tries.len());
            for (id, rebuilt) in tries {
                match rebuilt {
                    Ok(Rebuilt::Written) => done.written += 1,
                    Ok(Rebuilt::Whole | Rebuilt::Gone) => done.settled += 1,
                    Err(error) => {
                        done.left += 1;
                        tell(id, &error);
                        continue;
                    }
                }
                closed.push(id);
            }
            if !closed.is_empty() {
                self.metadata.repaired(group, closed).await?;
            }
            if *stopped.borrow() || !(self.led)().contains(&group) {
                return Ok(done);
            }
        }
    }
}

/// A drive that is down or full is told elsewhere.
fn tell(id: RepairId, error: &RebuildError) {
    let RepairId { set, chunk, slot } = id;
    match error {
        RebuildError::DriveDown
        | RebuildError::NoPlace
        | RebuildError::Put(_)
        | RebuildError::Memory(_) => {
            tracing::debug!(%set, chunk, slot, %error, "a missed shard is made later");
        }
        RebuildError::TooFew { .. } | RebuildError::Disagree | RebuildError::Erasure(_) => {
            tracing::error!(%set, chunk, slot, %error, "a missed shard cannot be made now");
        }
    }
}

#[cfg(test)]
mod tests;
