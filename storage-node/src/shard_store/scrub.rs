//! Checking every shard against what was written.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use super::disk::DiskFile;
use super::index_entry::ShardEntry;
use super::store::{Core, ReadError, check_blocks};
use super::{GetShardError, ShardId};

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

impl Core {
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
