//! Frees what the reclaim queues name, and ends uploads that nobody goes on with.

use std::sync::Arc;
use std::time::Duration;

use holdfast_placement::ids::GroupId;
use holdfast_placement::map::SharedMap;
use holdfast_placement::seams::{Clock, UnixMillis};
use tokio::sync::{Notify, watch};

use super::LedGroups;
use super::forget::forget;
use crate::metadata::{ChunkedBody, Metadata, MetadataError, WriteError};
use crate::shards::Shards;

/// When what is freed.
#[derive(Clone, Debug)]
pub struct ReclaimConfig {
    /// How long a body outlives its version, for readers under way.
    pub grace: Duration,
    /// Uploads that were begun before this long are aborted.
    pub upload_age_max: Duration,
    /// How often abandoned uploads are looked for.
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
            upload_age_max: Duration::from_secs(7 * 24 * 3600),
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
    shards: Arc<dyn Shards>,
    map: SharedMap,
    led: LedGroups,
    clock: Arc<dyn Clock>,
    config: ReclaimConfig,
    wake: Arc<Notify>,
}

impl Reclaimer {
    pub fn new(
        metadata: Metadata,
        shards: Arc<dyn Shards>,
        map: SharedMap,
        led: LedGroups,
        clock: Arc<dyn Clock>,
        config: ReclaimConfig,
    ) -> Self {
        Self {
            metadata,
            shards,
            map,
            led,
            clock,
            config,
            wake: Arc::default(),
        }
    }

    /// Says that something was deleted: the worker looks soon, and more often for a while.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Works until `stopped` changes.
    pub async fn run(self, mut stopped: watch::Receiver<bool>) {
        let mut pause = self.config.pause_min;
        let mut uploads_due = Duration::ZERO;
        loop {
            let mut done = Reclaimed::default();
            for group in self.groups() {
                done.add(self.report(group, self.reclaim(group).await));
            }
            if self.clock.monotonic() >= uploads_due {
                for group in self.groups() {
                    done.add(self.report(group, self.abort_stale_uploads(group).await));
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

    /// Frees everything in a group's queue that is old enough.
    pub async fn reclaim(&self, group: GroupId) -> Result<Reclaimed, MetadataError> {
        let older_than = self.before(self.config.grace);
        let mut done = Reclaimed::default();
        loop {
            let entries = self
                .metadata
                .reclaimable(group, older_than, self.config.batch)
                .await?;
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

    /// Aborts uploads that nobody completed in time; their parts go onto the reclaim queue.
    pub async fn abort_stale_uploads(&self, group: GroupId) -> Result<Reclaimed, MetadataError> {
        let older_than = self.before(self.config.upload_age_max);
        let mut done = Reclaimed::default();
        loop {
            let stale = self
                .metadata
                .stale_uploads(group, older_than, self.config.batch)
                .await?;
            if stale.is_empty() {
                return Ok(done);
            }
            for upload in stale {
                tracing::info!(bucket = %upload.bucket, key = %upload.key, upload = %upload.upload, "an abandoned upload is aborted");
                let aborted = self
                    .metadata
                    .abort_upload(upload.bucket, &upload.key, upload.upload)
                    .await;
                match aborted {
                    Ok(()) => done.uploads_aborted += 1,
                    // Completed or aborted meanwhile.
                    Err(WriteError::NoSuchUpload) => {}
                    Err(WriteError::Metadata(error)) => return Err(error),
                    Err(error) => {
                        tracing::warn!(upload = %upload.upload, %error, "an abandoned upload was not aborted");
                        return Ok(done);
                    }
                }
            }
        }
    }

    fn before(&self, age: Duration) -> UnixMillis {
        UnixMillis(self.clock.wall().0.saturating_sub(age.as_millis() as u64))
    }
}

#[cfg(test)]
mod tests;
