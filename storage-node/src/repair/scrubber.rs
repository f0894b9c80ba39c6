//! Has each drive of a process check all its shards again and again, a little at a time.
//!
//! A pass goes over a drive in order of shard ids and is kept on the drive, so that it goes on after a start. One shard is
//! read at a time, and after some mebibytes the scrub rests for as long as its rate demands: clients hardly notice it.
//! What it finds is listed by the shard store as bad, and [`Spoiled`](super::Spoiled) has it rebuilt.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_placement::ids::DriveId;
use holdfast_placement::seams::{Clock, UnixMillis};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Unowned;
use crate::shard_store::{GetShardError, ScrubPass, ScrubState, ShardStore};
use crate::shards::LocalShards;

/// How drives are scrubbed.
#[derive(Clone, Debug)]
pub struct ScrubConfig {
    /// Bytes a second of each drive, at most.
    pub bytes_per_sec: u64,
    /// From the beginning of a pass to that of the next, unless it takes longer.
    pub interval: Duration,
    /// How often a drive is looked at that has nothing to do.
    pub look_pause: Duration,
    /// Bytes that are read between two rests.
    pub step_bytes: u64,
    /// How often it is kept how far a pass is.
    pub keep_pause: Duration,
}

impl Default for ScrubConfig {
    fn default() -> Self {
        Self {
            bytes_per_sec: 16 << 20,
            interval: Duration::from_secs(24 * 3600),
            look_pause: Duration::from_secs(2),
            step_bytes: 4 << 20,
            keep_pause: Duration::from_secs(30),
        }
    }
}

/// How the scrub of a drive stands. Spoken between versions: append only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveScrub {
    pub drive: DriveId,
    /// Shards that are known to be bad, by scrubs and by reads, and are not replaced yet; without those that no body has.
    pub bad: u64,
    pub state: ScrubState,
    /// A pass was asked for that has not begun.
    pub asked: bool,
}

/// Asks for passes and tells how they stand. Clones share it.
#[derive(Clone, Default)]
pub struct ScrubControl {
    asked: Arc<AtomicU64>,
    states: Arc<Mutex<BTreeMap<DriveId, (ScrubState, u64)>>>,
    unowned: Unowned,
}

impl ScrubControl {
    /// Has all drives begin a pass anew, at once.
    pub fn ask(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// How the scrub of a drive stands.
    pub fn report(&self, drive: DriveId, store: &ShardStore) -> DriveScrub {
        let known = self.states.lock().get(&drive).copied();
        let (state, begun) = known.unwrap_or_else(|| (store.scrub_state(), 0));
        DriveScrub {
            drive,
            bad: self.unowned.owned_of(drive, &store.bad()) as u64,
            state,
            asked: self.asked() > begun,
        }
    }

    /// Where it is noted which bad shards belong to nothing.
    pub fn unowned(&self) -> Unowned {
        self.unowned.clone()
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    fn note(&self, drive: DriveId, state: ScrubState, begun: u64) {
        self.states.lock().insert(drive, (state, begun));
    }
}

/// Scrubs the drives of a process.
#[derive(Clone)]
pub struct Scrubber {
    pub shards: Arc<LocalShards>,
    pub clock: Arc<dyn Clock>,
    pub config: ScrubConfig,
    pub control: ScrubControl,
}

impl Scrubber {
    /// Works until `stopped` changes.
    pub async fn run(self, mut stopped: watch::Receiver<bool>) {
        let drives = self.shards.drives();
        let work = drives.into_iter().map(|drive| self.scrub_forever(drive));
        tokio::select! {
            _ = futures_util::future::join_all(work) => {}
            _ = stopped.changed() => {}
        }
    }

    async fn scrub_forever(&self, drive: DriveId) {
        let Some(store) = self.shards.store(drive) else {
            return;
        };
        let mut state = store.scrub_state();
        // Which of the passes that were asked for has begun.
        let mut begun = 0;
        loop {
            let asked = self.control.asked();
            if asked > begun {
                begun = asked;
                state.pass = Some(self.begin());
            }
            self.control.note(drive, state, begun);
            let rest = match state.pass {
                None if self.is_due(&state) => {
                    state.pass = Some(self.begin());
                    continue;
                }
                None => self.config.look_pause,
                Some(_) => match self.scrub(drive, &store, &mut state, begun).await {
                    Ok(()) => continue,
                    // Others need the memory now.
                    Err(GetShardError::Busy) => self.config.look_pause,
                    Err(error) => {
                        tracing::debug!(%drive, %error, "the scrub of a drive rests");
                        self.config.look_pause * 5
                    }
                },
            };
            self.clock.sleep(rest).await;
        }
    }

    fn begin(&self) -> ScrubPass {
        ScrubPass {
            began: self.clock.wall(),
            ended: UnixMillis::default(),
            ..ScrubPass::default()
        }
    }

    fn is_due(&self, state: &ScrubState) -> bool {
        let Some(last) = state.last else { return true };
        let since = self.clock.wall().0.abs_diff(last.began.0);
        u128::from(since) >= self.config.interval.as_millis()
    }

    /// Goes on with a pass until it ends, or another one is asked for.
    async fn scrub(
        &self,
        drive: DriveId,
        store: &ShardStore,
        state: &mut ScrubState,
        begun: u64,
    ) -> Result<(), GetShardError> {
        let mut keep_at = self.clock.monotonic() + self.config.keep_pause;
        // What went wrong once may be right by now.
        let cleared = store.recheck(&store.bad()).await?;
        if cleared > 0 {
            tracing::info!(%drive, cleared, "shards that were listed as bad are right");
        }
        while let Some(pass) = &mut state.pass {
            let step = store.scrub_some(pass.at, self.config.step_bytes).await?;
            pass.shards += step.report.shards;
            pass.bytes += step.report.bytes;
            pass.bad += step.report.bad.len() as u64;
            for shard in &step.report.bad {
                tracing::warn!(%drive, %shard, "a scrub found a bad shard");
            }
            match step.last {
                Some(last) => pass.at = Some(last),
                None => {
                    pass.ended = self.clock.wall();
                    tracing::info!(%drive, shards = pass.shards, bytes = pass.bytes, bad = pass.bad, "a scrub has gone over a drive");
                    state.last = state.pass.take();
                    store.keep_scrub_state(state)?;
                    return Ok(());
                }
            }
            self.control.note(drive, *state, begun);
            if self.control.asked() > begun {
                return Ok(());
            }
            let now = self.clock.monotonic();
            if now >= keep_at {
                store.keep_scrub_state(state)?;
                keep_at = now + self.config.keep_pause;
            }
            let rate = self.config.bytes_per_sec.max(1);
            // Small shards cost more than their bytes say.
            let cost = step.report.bytes + step.report.shards * 4096;
            let rest = Duration::from_secs_f64(cost as f64 / rate as f64);
            self.clock.sleep(rest).await;
        }
        Ok(())
    }
}
