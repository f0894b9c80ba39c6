//! Frees what the reclaim queues name, and ends renames that nobody goes on with and uploads whose bucket is gone.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use holdfast_placement::directory::Directory;
use holdfast_placement::ids::{BucketId, GroupId};
use holdfast_placement::map::SharedMap;
use holdfast_placement::seams::{Clock, UnixMillis};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::LedGroups;
use super::forget::forget;
use crate::metadata::{ChunkedBody, Metadata, MetadataError, ReclaimId, WriteError};
use crate::shards::Shards;

/// Buckets that are listed at a time.
const BUCKETS_PAGE: usize = 1000;

/// When what is freed.
#[derive(Clone, Debug)]
pub struct ReclaimConfig {
    /// How long a body outlives its version, for readers under way.
    pub grace: Duration,
    /// Renames that were begun before this long and are half-way yet are ended; looked for as often.
    pub rename_age_max: Duration,
    /// How often uploads whose bucket is gone are looked for, and how old they are then at least. More than clocks differ by.
    pub upload_interval: Duration,
    /// Queue entries freed at a time.
    pub batch: usize,
    /// Pause between looks at the queues after something was freed; doubles while there is nothing, up to
    /// `pause_max`.
    pub pause_min: Duration,
    pub pause_max: Duration,
}

impl Default for ReclaimConfig {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(60),
            rename_age_max: Duration::from_secs(30),
            upload_interval: Duration::from_secs(3600),
            batch: 1000,
            pause_min: Duration::from_secs(5),
            pause_max: Duration::from_secs(60),
        }
    }
}

/// What was freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Queue entries that are done.
    pub entries: u64,
    pub shards_deleted: u64,
    /// On drives that are down: lost, or orphans to be found when the drive is back.
    pub shards_left: u64,
    pub uploads_aborted: u64,
}

impl Reclaimed {
    fn add(&mut self, other: Reclaimed) {
        self.entries += other.entries;
        self.shards_deleted += other.shards_deleted;
        self.shards_left += other.shards_left;
        self.uploads_aborted += other.uploads_aborted;
    }
}

/// The reclaim worker of a process. Clones share the wake-up.
#[derive(Clone)]
pub struct Reclaimer {
    metadata: Metadata,
    directory: Arc<Directory>,
    shards: Arc<dyn Shards>,
    map: SharedMap,
    led: LedGroups,
    clock: Arc<dyn Clock>,
    config: ReclaimConfig,
    wake: Arc<Notify>,
    /// By group: the newest entries of its queue that were seen, and when by the monotonic clock, oldest first. Entries are
    /// dated by the clocks of whoever wrote: what counts is how long ago this process saw them.
    seen: Arc<Mutex<HashMap<GroupId, Sightings>>>,
}

/// Entries, each with the time at which it was the newest.
type Sightings = VecDeque<(ReclaimId, Duration)>;

impl Reclaimer {
    pub fn new(
        metadata: Metadata,
        directory: Arc<Directory>,
        shards: Arc<dyn Shards>,
        map: SharedMap,
        led: LedGroups,
        clock: Arc<dyn Clock>,
        config: ReclaimConfig,
    ) -> Self {
        Self {
            metadata,
            directory,
            shards,
            map,
            led,
            clock,
            config,
            wake: Arc::default(),
            seen: Arc::default(),
        }
    }

    /// Says that something was deleted: the worker looks soon, and more often for a while.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Works until `stopped` changes.
    pub async fn run(self, stopped: watch::Receiver<bool>) {
        // Beside each other: a rename may wait for a group that does not answer.
        join(self.free(stopped.clone()), self.end_renames(stopped)).await;
    }

    async fn end_renames(&self, mut stopped: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = self.clock.sleep(self.config.rename_age_max) => {}
                _ = stopped.changed() => return,
            }
            let before = self.before(self.config.rename_age_max);
            for group in self.groups() {
                let ended = tokio::select! {
                    ended = self.metadata.settle_renames_left(group, before) => ended,
                    _ = stopped.changed() => return,
                };
                match ended {
                    Ok(0) => {}
                    Ok(ended) => {
                        tracing::info!(%group, ended, "renames that were left half-way are ended")
                    }
                    Err(error) => {
                        tracing::warn!(%group, %error, "not all renames that were left half-way could be ended");
                    }
                }
            }
        }
    }

    async fn free(&self, mut stopped: watch::Receiver<bool>) {
        let mut pause = self.config.pause_min;
        let mut uploads_due = Duration::ZERO;
        loop {
            let mut done = Reclaimed::default();
            for group in self.groups() {
                done.add(self.report(group, self.reclaim(group).await));
            }
            if self.clock.monotonic() >= uploads_due {
                let before = self.before(self.config.upload_interval);
                match self.living_buckets().await {
                    Ok(living) => {
                        for group in self.groups() {
                            let aborted = self.abort_uploads_without_bucket(group, before, &living);
                            done.add(self.report(group, aborted.await));
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "uploads whose bucket is gone are left for later");
                    }
                }
                uploads_due = self.clock.monotonic() + self.config.upload_interval;
            }
            pause = if done == Reclaimed::default() {
                (pause * 2).min(self.config.pause_max)
            } else {
                tracing::debug!(?done, "reclaimed");
                self.config.pause_min
            };
            tokio::select! {
                () = self.clock.sleep(pause) => {}
                () = self.wake.notified() => pause = self.config.pause_min,
                _ = stopped.changed() => return,
            }
        }
    }

    fn groups(&self) -> impl Iterator<Item = GroupId> + use<> {
        let led = (self.led)().into_iter();
        led.filter(|group| *group != GroupId::PLACEMENT)
    }

    fn report(&self, group: GroupId, done: Result<Reclaimed, MetadataError>) -> Reclaimed {
        done.unwrap_or_else(|error| {
            tracing::warn!(%group, %error, "nothing could be reclaimed in this round");
            Reclaimed::default()
        })
    }

    /// Frees everything in a group's queue that is old enough, and was seen there that long ago.
    pub async fn reclaim(&self, group: GroupId) -> Result<Reclaimed, MetadataError> {
        let older_than = self.before(self.config.grace);
        let mut done = Reclaimed::default();
        let newest = self.metadata.newest_reclaimable(group).await?;
        let Some(last) = self.last_of_grace(group, newest) else {
            return Ok(done);
        };
        loop {
            let mut entries = self
                .metadata
                .reclaimable(group, older_than, self.config.batch)
                .await?;
            entries.retain(|entry| entry.id <= last);
            if entries.is_empty() {
                return Ok(done);
            }
            let bodies: Vec<ChunkedBody> = entries
                .iter()
                .flat_map(|entry| entry.bodies.iter().copied())
                .collect();
            let forgotten = forget(self.shards.as_ref(), &self.map.load(), &bodies).await;
            done.shards_deleted += forgotten.deleted;
            done.shards_left += forgotten.left;
            if forgotten.failed > 0 {
                // Deleting again does no harm: the entries stay until a drive does it or is out of use.
                return Ok(done);
            }
            let ids: Vec<_> = entries.into_iter().map(|entry| entry.id).collect();
            done.entries += ids.len() as u64;
            self.metadata.reclaimed(group, ids).await?;
        }
    }

    /// Aborts uploads that were begun before `older_than` to buckets that are gone; their parts go onto the reclaim queue. All others
    /// last until their client, or a lifecycle, ends them. `living` are the buckets that there are, looked for after `older_than`: so
    /// an upload to one that is not among them has lost it.
    async fn abort_uploads_without_bucket(
        &self,
        group: GroupId,
        older_than: UnixMillis,
        living: &HashSet<BucketId>,
    ) -> Result<Reclaimed, MetadataError> {
        let mut done = Reclaimed::default();
        let mut after = None;
        loop {
            let old = self
                .metadata
                .old_uploads(group, older_than, after, self.config.batch)
                .await?;
            let Some(last) = old.last() else {
                return Ok(done);
            };
            after = Some((last.initiated, last.upload));
            for upload in old {
                if living.contains(&upload.bucket) {
                    continue;
                }
                tracing::info!(bucket = %upload.bucket, key = %upload.key, upload = %upload.upload, "an upload is aborted: its bucket is gone");
                let aborted = self
                    .metadata
                    .abort_upload(upload.bucket, &upload.key, upload.upload)
                    .await;
                match aborted {
                    Ok(()) => done.uploads_aborted += 1,
                    // Aborted meanwhile.
                    Err(WriteError::NoSuchUpload) => {}
                    Err(WriteError::Metadata(error)) => return Err(error),
                    Err(error) => {
                        tracing::warn!(upload = %upload.upload, %error, "an upload without a bucket was not aborted");
                    }
                }
            }
        }
    }

    async fn living_buckets(&self) -> Result<HashSet<BucketId>, MetadataError> {
        let mut living = HashSet::new();
        let mut after: Option<String> = None;
        loop {
            let page = self
                .directory
                .list_buckets("", after.as_deref(), BUCKETS_PAGE);
            let (buckets, more) = page.await?;
            living.extend(buckets.iter().map(|bucket| bucket.id));
            match buckets.last() {
                Some(last) if more => after = Some(last.name.clone()),
                _ => return Ok(living),
            }
        }
    }

    /// Notes that a group's queue ends with `newest` now; gives the newest entry of which it was known a grace ago.
    fn last_of_grace(&self, group: GroupId, newest: Option<ReclaimId>) -> Option<ReclaimId> {
        let now = self.clock.monotonic();
        let mut seen = self.seen.lock();
        let seen = seen.entry(group).or_default();
        let Some(newest) = newest else {
            seen.clear();
            return None;
        };
        if seen.back().is_none_or(|(known, _)| *known < newest) {
            seen.push_back((newest, now));
        }
        let is_old = |at: &Duration| now.saturating_sub(*at) >= self.config.grace;
        while seen.get(1).is_some_and(|(_, at)| is_old(at)) {
            seen.pop_front();
        }
        seen.front().filter(|(_, at)| is_old(at)).map(|(id, _)| *id)
    }

    fn before(&self, age: Duration) -> UnixMillis {
        UnixMillis(self.clock.wall().0.saturating_sub(age.as_millis() as u64))
    }
}

#[cfg(test)]
mod tests;
