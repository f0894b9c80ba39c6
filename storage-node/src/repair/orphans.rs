//! Finds and deletes shards whose commit never came.
//!
//! A process that is killed between storing a body and committing it leaves shards that nothing refers to. A scan
//! looks for chunk sets on the drives that no version, part or reclaim entry refers to, and deletes them. Why it never
//! deletes a body that is committed later:
//!
//! - A set's id says when its body was begun. Only sets older than [`AGE_MIN`] (a day) are suspected.
//! - The writer refuses to go on with a body older than [`BODY_AGE_MAX`] (half a day); what it has finished is
//!   committed at once, with a deadline of seconds. So no suspected body has a writer that may still commit it.
//! - Each group is read after a read barrier: the view has every commit that was ever acknowledged, and a proposal of
//!   an earlier leader that is not in it never takes effect.
//! - These ages are compared by the wall clock. If that was set while the process ran, by more than [`CLOCK_SLACK`],
//!   nothing is deleted until the process starts again (no upload outlives it).
//! - A body that is renamed from one group's key to another's while groups are read one after the other is remembered by
//!   the group that it left, for [`REMEMBERED_MS`]: a scan that takes half of that from the first group to the last ends.
//! - A record that cannot be read, or a group without a leader, ends the scan before anything is deleted.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_placement::ids::{ChunkSetId, DriveId, GroupId};
use holdfast_placement::map::SharedMap;
use holdfast_placement::seams::{Clock, UnixMillis};
use tokio::sync::watch;

use crate::metadata::{Metadata, MetadataError, REMEMBERED_MS};
use crate::shard_store::{DeleteShardError, GetShardError, ShardId};
use crate::shards::Shards;

/// Nothing younger is suspected.
pub const AGE_MIN: Duration = Duration::from_secs(24 * 3600);

/// No body may be written for longer.
pub const BODY_AGE_MAX: Duration = Duration::from_secs(12 * 3600);

/// How far wall-clock and monotonic time may have drifted apart since the process began.
const CLOCK_SLACK: Duration = Duration::from_secs(3600);

/// Pause before the first scan, and between scans.
const FIRST_PAUSE: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_secs(24 * 3600);

/// Sets that are suspected at a time: what a scan remembers. The metadata is read once for so many. All drives together, and no drive
/// fewer than `SUSPECTS_MIN`.
const SUSPECTS_MAX: usize = 200_000;
const SUSPECTS_MIN: usize = 10_000;

/// Shards listed or deleted at a time.
const PAGE_LEN: usize = 4096;

/// What a scan found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrphansFound {
    /// Chunk sets that were old enough to be suspected.
    pub suspects: u64,
    /// Chunk sets that nothing referred to.
    pub orphans: u64,
    pub shards_deleted: u64,
}

/// Why a scan ended early. Everything that it deleted was an orphan.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ScanOrphansError {
    #[error(
        "the clock was set while the process ran: ages cannot be trusted until it starts again"
    )]
    ClockWasSet,
    #[error("reading the metadata took so long that renames between groups may have been missed")]
    TooSlow,
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error(transparent)]
    List(#[from] GetShardError),
    #[error(transparent)]
    Delete(#[from] DeleteShardError),
}

/// The scan for orphans of a process.
pub struct OrphanScan {
    metadata: Metadata,
    shards: Arc<dyn Shards>,
    map: SharedMap,
    clock: Arc<dyn Clock>,
    /// Wall-clock and monotonic time when the process began.
    began: (UnixMillis, Duration),
    suspects_max: usize,
    suspects_min: usize,
}

impl OrphanScan {
    /// To be made when the process begins, before bodies are written.
    pub fn new(
        metadata: Metadata,
        shards: Arc<dyn Shards>,
        map: SharedMap,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            metadata,
            shards,
            map,
            began: (clock.wall(), clock.monotonic()),
            clock,
            suspects_max: SUSPECTS_MAX,
            suspects_min: SUSPECTS_MIN,
        }
    }

    /// Scans once a day until `stopped` changes.
    pub async fn run(self, mut stopped: watch::Receiver<bool>) {
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::select! {
                () = self.clock.sleep(pause) => {}
                _ = stopped.changed() => return,
            }
            pause = PAUSE;
            match self.scan().await {
                Ok(found) if found.orphans > 0 => {
                    tracing::info!(
                        ?found,
                        "shards of bodies that were never committed are deleted"
                    );
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "the scan for orphans ended early"),
            }
        }
    }

    /// Looks at all shards of all drives that are up.
    pub async fn scan(&self) -> Result<OrphansFound, ScanOrphansError> {
        let before = self.suspect_before()?;
        let mut found = OrphansFound::default();
        let mut after: Option<ChunkSetId> = None;
        loop {
            let (suspects, last) = self.suspects(after, before).await?;
            found.suspects += suspects.len() as u64;
            let mut orphans = suspects;
            let began = self.clock.monotonic();
            for group in (1..=self.map.load().metadata_groups).map(GroupId) {
                if orphans.is_empty() {
                    break;
                }
                orphans = self.metadata.clear_referenced(group, orphans).await?;
            }
            self.suspect_before()?;
            let took = self.clock.monotonic().saturating_sub(began);
            if took > Duration::from_millis(REMEMBERED_MS / 2) {
                return Err(ScanOrphansError::TooSlow);
            }
            found.orphans += orphans.len() as u64;
            found.shards_deleted += self.delete(orphans).await?;
            match last {
                Some(last) => after = Some(last),
                None => return Ok(found),
            }
        }
    }

    /// Sets begun before this are suspected.
    fn suspect_before(&self) -> Result<UnixMillis, ScanOrphansError> {
        let (wall, monotonic) = (self.clock.wall(), self.clock.monotonic());
        let by_wall = i128::from(wall.0) - i128::from(self.began.0.0);
        let by_monotonic = monotonic.saturating_sub(self.began.1).as_millis() as i128;
        if (by_wall - by_monotonic).unsigned_abs() > CLOCK_SLACK.as_millis() {
            return Err(ScanOrphansError::ClockWasSet);
        }
        Ok(UnixMillis(
            wall.0.saturating_sub(AGE_MIN.as_millis() as u64),
        ))
    }

    fn drives(&self) -> Vec<DriveId> {
        let map = self.map.load();
        let up = |id: &DriveId| map.is_up(*id) && !self.shards.is_down(*id);
        map.drives.iter().map(|drive| drive.id).filter(up).collect()
    }

    /// The next sets that are old enough, of all drives, and where to go on if there are more. Ids order by time.
    async fn suspects(
        &self,
        after: Option<ChunkSetId>,
        before: UnixMillis,
    ) -> Result<(HashSet<ChunkSetId>, Option<ChunkSetId>), ScanOrphansError> {
        let drives = self.drives();
        // Each drive its own: who comes after others that found many must get on too.
        let own_max = (self.suspects_max / drives.len().max(1)).max(self.suspects_min);
        let mut suspects = HashSet::new();
        let mut last: Option<ChunkSetId> = None;
        for drive in drives {
            let mut at = after.map(last_of);
            let mut own = 0;
            'drive: loop {
                let page = self.shards.list(drive, at, PAGE_LEN).await?;
                let mut known = None;
                for info in &page {
                    let set = info.id.set;
                    if set.begun_at() >= before || last.is_some_and(|last| set > last) {
                        break 'drive;
                    }
                    if known.replace(set) == Some(set) {
                        continue;
                    }
                    suspects.insert(set);
                    own += 1;
                    if own >= own_max {
                        last = Some(set);
                        break 'drive;
                    }
                }
                match page.last() {
                    // Over the rest of the last set at once.
                    Some(info) => at = Some(last_of(info.id.set)),
                    None => break,
                }
                tokio::task::yield_now().await;
            }
        }
        Ok((suspects, last))
    }

    async fn delete(&self, orphans: HashSet<ChunkSetId>) -> Result<u64, ScanOrphansError> {
        let mut deleted = 0;
        for drive in self.drives() {
            for set in orphans.iter().copied() {
                tracing::debug!(%set, %drive, "nothing refers to a chunk set");
                let mut at = Some(before_first_of(set));
                loop {
                    let page = self.shards.list(drive, at, PAGE_LEN).await?;
                    let ids: Vec<ShardId> = page
                        .iter()
                        .map(|info| info.id)
                        .take_while(|id| id.set == set)
                        .collect();
                    if ids.is_empty() {
                        break;
                    }
                    self.shards.delete(drive, &ids).await?;
                    deleted += ids.len() as u64;
                    at = ids.last().copied();
                }
            }
        }
        Ok(deleted)
    }
}

/// Greater than all shards of `set`, or the last of them.
fn last_of(set: ChunkSetId) -> ShardId {
    ShardId {
        set,
        chunk: u32::MAX,
        slot: u8::MAX,
    }
}

/// Less than all shards of `set`, and not less than those of lesser sets.
fn before_first_of(set: ChunkSetId) -> ShardId {
    let before = u128::from_be_bytes(set.0).saturating_sub(1);
    last_of(ChunkSetId(before.to_be_bytes()))
}

#[cfg(test)]
mod tests;
