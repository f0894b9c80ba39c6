//! Winning space back: live shards are copied out of sparse extents, and the extents deleted.
//!
//! Order: copy, sync the copy, move the index entry (only if the shard still is where it was copied from), and when
//! nothing in the extent lives any more: declare it dead in the index, sync the index, delete the file, forget the
//! extent. Whatever moment the power fails, each shard has a whole record that the index or a rescan leads to, and a
//! file that is dead is never scanned again.
//!
//! A shard that turns out to be bad while it is copied is listed as bad and stays where it is, until it is replaced,
//! deleted or found to be right after all; what is dead around it is given back by punching. It is not moved as it was
//! read: reads that failed for a while only would make a copy that is bad for ever, in the place of a record that is
//! sound.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_placement::seams::IndexError;

use super::disk::{DiskFile, PAGE_LEN};
use super::flush::Kind;
use super::index_entry::{ExtentEntry, Phase, ShardEntry};
use super::record::Location;
use super::store::{Core, Purpose, ReadError, check_blocks, extent_name};
use super::walk::Walk;
use super::{GetShardError, PutShardError};
use crate::buffer::Buffer;

/// Bytes of records that are copied at once.
const BATCH_BYTES: u64 = 8 << 20;

/// Smaller sealed extents are merged when there are this many of them.
const SMALL_EXTENTS: usize = 8;

/// How often a read that fails is tried before the shard is called bad.
const READ_ATTEMPTS: usize = 3;

/// What a compaction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompactReport {
    /// Shards moved to another extent, and their records' bytes.
    pub moved: u64,
    pub moved_bytes: u64,
    /// Shards that are bad, and stay where they are.
    pub bad: u64,
    /// Extents deleted.
    pub extents: u64,
    /// Bytes of files given back, punched holes included.
    pub freed_bytes: u64,
}

impl Core {
    /// Now and then, until the store is dropped or the drive is out of use.
    pub(super) async fn compact_forever(self: Arc<Self>) {
        loop {
            self.clock.sleep(self.config.compact_interval).await;
            if self.flusher.is_stopped() || self.check_up().is_err() {
                return;
            }
            match self.compact(true).await {
                Ok(report) if report == CompactReport::default() => {}
                Ok(report) => tracing::debug!(?report, "compacted"),
                Err(error) => tracing::warn!(%error, "compaction stopped early"),
            }
        }
    }

    pub(super) async fn compact(&self, limited: bool) -> Result<CompactReport, PutShardError> {
        let _compacting = self.compacting.lock().await;
        let mut report = CompactReport::default();
        self.seal_closed().await;
        self.remove_dead_into(&mut report).await?;
        for number in self.sparse_extents().map_err(|e| self.put_failed(e))? {
            if self.flusher.is_stopped() {
                break;
            }
            let bad_before = report.bad;
            match self.empty_extent(number, limited, &mut report).await {
                Err(PutShardError::Full) => self.punch_extent(number, &mut report).await?,
                result => {
                    result?;
                    if report.bad > bad_before {
                        self.punch_extent(number, &mut report).await?;
                    }
                }
            }
            self.remove_dead_into(&mut report).await?;
        }
        let counters = &self.counters;
        counters
            .compacted_bytes
            .fetch_add(report.moved_bytes, Ordering::Relaxed);
        counters
            .reclaimed_bytes
            .fetch_add(report.freed_bytes, Ordering::Relaxed);
        Ok(report)
    }

    /// Sealed extents worth copying, the emptiest first: sparse ones, and small ones when there are many.
    fn sparse_extents(&self) -> Result<Vec<u64>, IndexError> {
        let bad_bytes = self.bad_bytes()?;
        let extents = self.ledger.extents();
        // Where all that lives is bad there is nothing to copy.
        let sealed = extents.into_iter().filter(|(number, extent)| {
            let bad = bad_bytes.get(number).copied().unwrap_or(0);
            extent.phase == Phase::Sealed && (bad == 0 || bad < extent.live_bytes)
        });
        let (mut sparse, rest): (Vec<_>, Vec<_>) =
            sealed.partition(|(_, extent)| self.is_sparse(extent));
        let small_bytes = (self.config.extent_len_max / 16).min(self.extent_len / 4);
        let small = rest
            .into_iter()
            .filter(|(_, extent)| extent.high_water < small_bytes);
        let small: Vec<_> = small.collect();
        if small.len() >= SMALL_EXTENTS {
            sparse.extend(small);
        }
        sparse.sort_by_key(|(_, extent)| extent.live_bytes);
        Ok(sparse.into_iter().map(|(number, _)| number).collect())
    }

    /// Bytes of records of shards that are listed as bad, by extent.
    fn bad_bytes(&self) -> Result<HashMap<u64, u64>, IndexError> {
        let mut bytes = HashMap::new();
        for id in self.ledger.bad() {
            if let Some(entry) = self.ledger.get(id)? {
                *bytes.entry(entry.location.extent).or_default() += entry.shard.record_len();
            }
        }
        Ok(bytes)
    }

    fn is_sparse(&self, extent: &ExtentEntry) -> bool {
        let data_bytes = extent.high_water.saturating_sub(PAGE_LEN as u64);
        extent.live_bytes * 100 < data_bytes * self.config.compact_below_percent
    }

    /// Moves everything that lives in an extent, and is not bad, to others.
    async fn empty_extent(
        &self,
        number: u64,
        limited: bool,
        report: &mut CompactReport,
    ) -> Result<(), PutShardError> {
        let live = self.live_entries(number).await?;
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        let last = live.len().saturating_sub(1);
        for (at, entry) in live.into_iter().enumerate() {
            batch_bytes += entry.shard.record_len();
            batch.push(entry);
            if batch_bytes < BATCH_BYTES && at < last {
                continue;
            }
            for copied in join_all(batch.iter().map(|entry| self.copy(entry))).await {
                match copied? {
                    Copied::Moved(bytes) => {
                        report.moved += 1;
                        report.moved_bytes += bytes;
                    }
                    Copied::Bad => report.bad += 1,
                    Copied::Gone => {}
                }
            }
            if limited {
                let seconds = batch_bytes as f64 / self.config.compact_bytes_per_sec.max(1) as f64;
                self.clock.sleep(Duration::from_secs_f64(seconds)).await;
            }
            batch.clear();
            batch_bytes = 0;
        }
        Ok(())
    }

    /// What the index refers to in an extent.
    async fn live_entries(&self, number: u64) -> Result<Vec<ShardEntry>, PutShardError> {
        let Some(extent) = self.ledger.extent(number) else {
            return Ok(Vec::new());
        };
        if extent.entry.live_bytes == 0 || extent.missing {
            return Ok(Vec::new());
        }
        let file = self.file(number).await.map_err(|e| self.copy_failed(e))?;
        let (nonce, end) = (extent.entry.nonce, extent.entry.high_water);
        let mut walk = Walk::new(file, number, nonce, &self.pool, PAGE_LEN as u64, end);
        let mut live = Vec::new();
        let mut bytes = 0;
        while let Some(header) = walk.next().await.map_err(|e| self.write_failed(e))? {
            let entry = self.ledger.get(header.shard.id);
            if let Some(entry) = entry.map_err(|e| self.put_failed(e))?
                && entry.location == header.location
            {
                bytes += entry.shard.record_len();
                live.push(entry);
            }
        }
        if bytes < extent.entry.live_bytes {
            // The header of some live record is damaged; the index has all that was in it.
            let all = self.entries_in(number).await;
            live = all.map_err(|e| self.put_failed(e))?;
        }
        Ok(live)
    }

    /// As [`live_entries`](Core::live_entries), by looking at the whole index.
    async fn entries_in(&self, number: u64) -> Result<Vec<ShardEntry>, IndexError> {
        let mut entries = Vec::new();
        let mut after = None;
        loop {
            let page = self.entries_after(after, 1024)?;
            let Some(last) = page.last() else {
                return Ok(entries);
            };
            after = Some(last.shard.id);
            entries.extend(
                page.into_iter()
                    .filter(|entry| entry.location.extent == number),
            );
            // There may be millions, and others have work for this thread.
            tokio::task::yield_now().await;
        }
    }

    /// Copies a shard to the open extent.
    async fn copy(&self, entry: &ShardEntry) -> Result<Copied, PutShardError> {
        let (id, bytes) = (entry.shard.id, entry.shard.record_len());
        let mut payload = self.pool.acquire(entry.shard.len as usize).await?;
        if !self.load(entry, &mut payload).await? {
            return match self.mark_bad(entry) {
                Ok(true) => {
                    tracing::warn!(shard = %id, "a shard is bad; it stays where it is");
                    Ok(Copied::Bad)
                }
                Ok(false) => Ok(Copied::Gone),
                Err(GetShardError::Down(why)) => Err(PutShardError::Down(why)),
                Err(error) => Err(PutShardError::Io(error.to_string())),
            };
        }
        let place = self.reserve(id, bytes, Purpose::Copy).await?;
        // A delete from now on sees the place, and declares the copy dead; one before now is seen here. Either way
        // no copy outlives its shard.
        let still = self.ledger.get(id).map_err(|e| self.put_failed(e))?;
        if still.is_none_or(|still| still.location != entry.location) {
            return Ok(Copied::Gone);
        }
        let kind = Kind::Copy {
            source: entry.location,
        };
        self.append(entry.shard.clone(), place, payload, kind)
            .await?;
        Ok(Copied::Moved(bytes))
    }

    /// Reads a shard into `payload`; whether all of it is right. Else what was read is of no use.
    async fn load(&self, entry: &ShardEntry, payload: &mut Buffer) -> Result<bool, PutShardError> {
        let file = self
            .file(entry.location.extent)
            .await
            .map_err(|e| self.copy_failed(e))?;
        let len = entry.shard.len as usize;
        for start in (0..len).step_by(self.piece_len()) {
            let piece = start..len.min(start + self.piece_len());
            if !self.load_piece(&*file, entry, piece, payload).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Appends part of a shard to `payload`; whether it was right. If not, its length is the same as before.
    async fn load_piece(
        &self,
        file: &dyn DiskFile,
        entry: &ShardEntry,
        piece: std::ops::Range<usize>,
        payload: &mut Buffer,
    ) -> Result<bool, PutShardError> {
        for _ in 0..READ_ATTEMPTS {
            let read = self.read_piece(file, entry, piece.clone()).await;
            let read = read.map_err(|e| self.copy_failed(e))?.await;
            if let Ok(buffer) = read {
                let bytes = &buffer.payload()[..piece.len()];
                if check_blocks(entry, piece.start, bytes).is_ok() {
                    payload.extend_from_slice(bytes);
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn copy_failed(&self, error: ReadError) -> PutShardError {
        match error {
            ReadError::Disk(error) => self.write_failed(error),
            ReadError::Mismatch(what) => PutShardError::Io(what),
            ReadError::Busy => PutShardError::Busy,
        }
    }

    /// Gives back the space of what is dead in an extent without copying what lives: for a drive so full that there
    /// is no room for copies, and around what is bad.
    async fn punch_extent(
        &self,
        number: u64,
        report: &mut CompactReport,
    ) -> Result<(), PutShardError> {
        let mut live = self.live_entries(number).await?;
        live.sort_by_key(|entry| entry.location);
        let Some(extent) = self.ledger.extent(number) else {
            return Ok(());
        };
        // What is dead now stays dead, and that must be durable before it is gone.
        self.ledger.sync().await.map_err(|e| self.put_failed(e))?;
        let file = self.file(number).await.map_err(|e| self.copy_failed(e))?;
        let mut at = PAGE_LEN as u64;
        let end = Location {
            extent: number,
            offset: extent.entry.high_water,
        };
        let ends = live
            .iter()
            .map(|entry| (entry.location, entry.shard.record_len()));
        for (location, len) in ends.chain([(end, 0)]) {
            if at < location.offset {
                let range = at..location.offset;
                file.punch(range.clone())
                    .await
                    .map_err(|e| self.write_failed(e))?;
                report.freed_bytes += range.end - range.start;
            }
            at = at.max(location.offset + len);
        }
        Ok(())
    }

    /// Deletes extents in which nothing lives.
    pub(super) async fn remove_dead(&self) -> Result<(), PutShardError> {
        self.remove_dead_into(&mut CompactReport::default()).await
    }

    async fn remove_dead_into(&self, report: &mut CompactReport) -> Result<(), PutShardError> {
        let none = HashSet::new();
        let extents = self.ledger.extents().into_iter();
        let empty = extents.filter(|(_, extent)| match extent.phase {
            Phase::Open => false,
            Phase::Sealed => extent.live_bytes == 0,
            Phase::Dead => true,
        });
        let dead: Vec<_> = empty
            .map(|(number, extent)| (number, extent.high_water))
            .collect();
        if dead.is_empty() {
            return Ok(());
        }
        self.ledger
            .change(&none, |change| {
                for (number, _) in &dead {
                    if let Some(extent) = change.extent(*number) {
                        extent.entry.phase = Phase::Dead;
                    }
                }
                Ok(())
            })
            .map_err(|e| self.put_failed(e))?;
        self.ledger.sync().await.map_err(|e| self.put_failed(e))?;
        self.check_present().map_err(PutShardError::Down)?;
        for (number, len) in dead {
            let deleted = self.disk.delete(&extent_name(number)).await;
            deleted.map_err(|e| self.write_failed(e))?;
            self.forget_file(number);
            let forgotten = self.ledger.change(&none, |change| {
                change.remove_extent(number);
                Ok(())
            });
            forgotten.map_err(|e| self.put_failed(e))?;
            report.extents += 1;
            report.freed_bytes += len;
        }
        Ok(())
    }
}

/// What became of a shard that was to be copied.
enum Copied {
    /// It was moved, and its record has so many bytes.
    Moved(u64),
    /// It stays where it is.
    Bad,
    /// It died or moved meanwhile.
    Gone,
}
