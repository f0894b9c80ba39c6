//! Checking every shard against what was written.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use holdfast_placement::planted::{Bug, planted};
use holdfast_placement::seams::{Batch, Durability, Keyspace, UnixMillis};
use serde::{Deserialize, Serialize};

use super::disk::DiskFile;
use super::index_entry::ShardEntry;
use super::store::{Core, ReadError, check_blocks};
use super::{GetShardError, ShardId};

/// Key of the [`ScrubState`] in [`Keyspace::Shards`]; the value is a format byte and the state. Persisted, keep stable.
const SCRUB_KEY: [u8; 1] = [6];

const SCRUB_FORMAT: u8 = 1;

/// Shards looked up in the index at once.
const PAGE: usize = 256;

/// What a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    pub shards: u64,
    /// Bytes of payload that were read and checked.
    pub bytes: u64,
    /// Shards that are not what was written, or cannot be read; they are listed as bad.
    pub bad: Vec<ShardId>,
    /// Shards that were listed as bad, and are right.
    pub cleared: u64,
}

/// How far the scrub of a drive is; kept on the drive, so that it goes on after a start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubState {
    /// The pass under way; `None` between passes.
    pub pass: Option<ScrubPass>,
    /// The last one that came to its end.
    pub last: Option<ScrubPass>,
}

/// A pass over all shards of a drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubPass {
    pub began: UnixMillis,
    /// When it came to its end; until then it is where it was last kept.
    pub ended: UnixMillis,
    /// The last shard that was checked.
    pub at: Option<ShardId>,
    pub shards: u64,
    /// Bytes of payload that were read and checked.
    pub bytes: u64,
    /// Shards that were found to be bad.
    pub bad: u64,
}

/// Some shards that were checked, in order of id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubStep {
    pub report: ScrubReport,
    /// The last of them; `None`: there are no more.
    pub last: Option<ShardId>,
}

impl Core {
    /// Checks the shards that follow `after` until `bytes_max` were read.
    pub(super) async fn scrub_some(
        &self,
        after: Option<ShardId>,
        bytes_max: u64,
    ) -> Result<ScrubStep, GetShardError> {
        self.check_up().map_err(GetShardError::Down)?;
        let entries = self.entries_after(after, PAGE);
        let entries = entries.map_err(|error| self.get_failed(error))?;
        let mut step = ScrubStep::default();
        for entry in entries {
            let id = entry.shard.id;
            match self.scrub_shard(entry, &mut step.report).await {
                Ok(()) => step.last = Some(id),
                // What was checked is not checked again.
                Err(GetShardError::Busy) if step.last.is_some() => break,
                Err(error) => return Err(error),
            }
            if step.report.bytes >= bytes_max {
                break;
            }
        }
        Ok(step)
    }

    /// Looks at shards that are listed as bad once more: what is right after all is not bad any more. How many.
    pub(super) async fn recheck(&self, ids: &[ShardId]) -> Result<u64, GetShardError> {
        let mut report = ScrubReport::default();
        for id in ids {
            self.check_up().map_err(GetShardError::Down)?;
            let entry = self.ledger.get(*id).map_err(|e| self.get_failed(e))?;
            if let Some(entry) = entry
                && self.ledger.is_bad(*id)
            {
                self.scrub_shard(entry, &mut report).await?;
            }
        }
        Ok(report.cleared)
    }

    /// How far the scrub was when that was last kept; the beginning if it cannot be read.
    pub(super) fn scrub_state(&self) -> ScrubState {
        let kept = self.ledger.index().get(Keyspace::Shards, &SCRUB_KEY);
        let kept = kept.ok().flatten();
        let state = kept.as_deref().and_then(|value| match value.split_first() {
            Some((&SCRUB_FORMAT, state)) => postcard::from_bytes(state).ok(),
            _ => None,
        });
        state.unwrap_or_default()
    }

    /// Keeps how far the scrub is, some time soon: what is lost of it is only done again.
    pub(super) fn keep_scrub_state(&self, state: &ScrubState) -> Result<(), GetShardError> {
        let mut batch = Batch::new();
        let value = postcard::to_extend(state, vec![SCRUB_FORMAT])
            .expect("what is in memory can be written to memory");
        batch.put(Keyspace::Shards, SCRUB_KEY.to_vec(), value);
        let written = self.ledger.index().write(batch, Durability::Unsynced);
        written.map_err(|error| self.get_failed(error))
    }

    pub(super) async fn scrub(&self) -> Result<ScrubReport, GetShardError> {
        let mut report = ScrubReport::default();
        let mut after = None;
        loop {
            self.check_up().map_err(GetShardError::Down)?;
            let entries = self.entries_after(after, PAGE);
            let entries = entries.map_err(|error| self.get_failed(error))?;
            let Some(last) = entries.last() else {
                return Ok(report);
            };
            after = Some(last.shard.id);
            for entry in entries {
                self.scrub_shard(entry, &mut report).await?;
            }
        }
    }

    async fn scrub_shard(
        &self,
        entry: ShardEntry,
        report: &mut ScrubReport,
    ) -> Result<(), GetShardError> {
        let id = entry.shard.id;
        let mut result = self.verify_entry(&entry).await;
        if result.is_err() {
            result = self.verify_entry(&entry).await;
            if result.is_ok() {
                self.counters.transient.fetch_add(1, Ordering::Relaxed);
            }
        }
        match result {
            Ok(()) => {
                report.shards += 1;
                report.bytes += u64::from(entry.shard.len);
                if self.ledger.is_bad(id) {
                    report.cleared += u64::from(self.clear_bad(&entry)?);
                }
            }
            Err(ReadError::Busy) => return Err(GetShardError::Busy),
            Err(_) if planted(Bug::ScrubSilent) => {}
            // If it has moved or died meanwhile, whoever moved it has checked it.
            Err(error) => {
                if self.mark_bad(&entry)? {
                    report.shards += 1;
                    report.bad.push(id);
                    self.read_failed(id, error);
                }
            }
        }
        Ok(())
    }

    fn clear_bad(&self, entry: &ShardEntry) -> Result<bool, GetShardError> {
        let id = entry.shard.id;
        let cleared = self.ledger.change(&HashSet::new(), |change| {
            let still = change
                .get(id)?
                .is_some_and(|now| now.location == entry.location);
            if still {
                change.set_bad(id, false);
            }
            Ok(still)
        });
        cleared.map_err(|error| self.get_failed(error))
    }

    async fn verify_entry(&self, entry: &ShardEntry) -> Result<(), ReadError> {
        let file = self.file(entry.location.extent).await?;
        self.verify(&*file, entry).await
    }

    /// Reads a whole shard, piece by piece, and checks it.
    pub(super) async fn verify(
        &self,
        file: &dyn DiskFile,
        entry: &ShardEntry,
    ) -> Result<(), ReadError> {
        let len = entry.shard.len as usize;
        for start in (0..len).step_by(self.piece_len()) {
            let piece = start..len.min(start + self.piece_len());
            let read = self.read_piece(file, entry, piece.clone()).await?;
            let buffer = read.await.map_err(ReadError::Disk)?;
            check_blocks(entry, start, &buffer.payload()[..piece.len()])?;
        }
        Ok(())
    }
}
