//! Puts, gets and deletes shards on one drive.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_placement::planted::{Bug, planted};
use holdfast_placement::seams::{Clock, Index, IndexError, Keyspace, Rng, spawn};
use parking_lot::Mutex;

use super::blocks::{checksum_of_blocks, crc64};
use super::compact::CompactReport;
use super::config::ShardStoreConfig;
use super::disk::{Disk, DiskError, DiskFile, PAGE_LEN};
use super::flush::{Flusher, Kind, Pending};
use super::index_entry::{Phase, ShardEntry, decode_id, shard_key, shard_range};
use super::ledger::Ledger;
use super::record::{ExtentHeader, Header, Location, Nonce, Shard};
use super::scrub::{ScrubReport, ScrubState, ScrubStep};
use super::space::{OpenExtent, Reservation, Space, reserve};
use super::{
    BLOCK_LEN, DeleteShardError, GetShardError, OpenShardStoreError, PutShardError,
    RECORD_HEADER_LEN, SHARD_LEN_MAX, ShardId,
};
use crate::buffer::{self, Buffer, BufferPool};
use crate::shards::{ShardFacts, read_capacity};

/// Extent files that are kept open for reading.
const OPEN_FILES_MAX: usize = 512;

/// The shards of one drive.
///
/// Dropping it stops its tasks; what was acknowledged stays. All methods may be called at the same time.
pub struct ShardStore {
    pub(super) core: Arc<Core>,
}

/// What the tasks of a store share.
pub(super) struct Core {
    pub disk: Arc<dyn Disk>,
    pub pool: BufferPool,
    /// A page for the header of the next extent: a put that holds its buffer already must not wait for memory that
    /// others hold who wait for the same extent.
    header_page: buffer::Reservation,
    pub clock: Arc<dyn Clock>,
    pub rng: Arc<dyn Rng>,
    pub config: ShardStoreConfig,
    pub ledger: Ledger,
    pub space: Arc<Mutex<Space>>,
    pub flusher: Flusher,
    pub counters: Counters,
    /// Held while the open extent is extended or replaced.
    growing: tokio::sync::Mutex<()>,
    /// Held by compaction.
    pub compacting: tokio::sync::Mutex<()>,
    files: Mutex<HashMap<u64, Arc<dyn DiskFile>>>,
    down: OnceLock<String>,
    pub reserve_bytes: u64,
    pub extent_len: u64,
}

/// Events since the store was opened.
#[derive(Default)]
pub(super) struct Counters {
    pub flushes: AtomicU64,
    pub flushed_records: AtomicU64,
    pub corrupt: AtomicU64,
    pub io_errors: AtomicU64,
    pub transient: AtomicU64,
    pub compacted_bytes: AtomicU64,
    pub reclaimed_bytes: AtomicU64,
}

/// A store's state at a moment, and what happened since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardStoreStats {
    pub extents: u64,
    /// Bytes of records that the index refers to.
    pub live_bytes: u64,
    /// Bytes of extents that compaction can win back.
    pub dead_bytes: u64,
    /// Shards known to be bad and not yet replaced.
    pub bad_shards: u64,
    pub free_bytes: u64,
    pub total_bytes: u64,
    /// Syncs of extents, and the records that they made durable.
    pub flushes: u64,
    pub flushed_records: u64,
    /// Reads whose bytes did not match their checksum, twice.
    pub corrupt: u64,
    /// Reads, writes and syncs that failed.
    pub io_errors: u64,
    /// Reads that failed or did not match, and were right when tried again.
    pub transient: u64,
    pub compacted_bytes: u64,
    pub reclaimed_bytes: u64,
}

/// What there is to know of a shard without reading it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ShardInfo {
    pub id: ShardId,
    pub facts: ShardFacts,
    /// Length of the payload, bytes.
    pub len: u32,
    /// It was found to be bad and has to be replaced.
    pub bad: bool,
}

/// For what a place is reserved.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Put,
    /// May use half of what is kept free, to win back more.
    Copy,
}

/// Why bytes of a record were not read.
pub(super) enum ReadError {
    Mismatch(String),
    Disk(DiskError),
    /// No memory.
    Busy,
}

impl ShardStore {
    /// Opens the drive's store: reads what the index knows of extents, and finds what was written after that.
    pub async fn open(
        disk: Arc<dyn Disk>,
        index: Arc<dyn Index>,
        pool: BufferPool,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
        config: ShardStoreConfig,
    ) -> Result<Self, OpenShardStoreError> {
        disk.check_present()?;
        let drive = disk.space()?;
        let space = Arc::new(Mutex::new(Space::default()));
        let header_page = pool
            .reserve(&[0])
            .await
            .map_err(|_| OpenShardStoreError::Busy)?;
        let ledger = Ledger::load(index, space.clone(), config.sync_inline)?;
        let core = Arc::new(Core {
            reserve_bytes: config.reserve(drive),
            extent_len: config.extent_len(drive),
            disk,
            pool,
            header_page,
            clock,
            rng,
            config,
            ledger,
            space,
            flusher: Flusher::default(),
            counters: Counters::default(),
            growing: tokio::sync::Mutex::new(()),
            compacting: tokio::sync::Mutex::new(()),
            files: Mutex::default(),
            down: OnceLock::new(),
        });
        core.recover().await?;
        spawn(core.clone().flush_forever());
        Ok(Self { core })
    }

    /// Stores a shard: when it returns `Ok` the shard is on flash. The same content under the same id is stored
    /// once; other content replaces what was there, and so does anything if what was there is known to be bad.
    pub async fn put(
        &self,
        id: ShardId,
        facts: ShardFacts,
        payload: Buffer,
    ) -> Result<(), PutShardError> {
        self.core.put(id, facts, payload).await
    }

    /// Bytes `range` of the shard's payload, verified. Reads only the blocks that they touch, into `buffer`, whose
    /// capacity is at least [`read_capacity`] of the range.
    ///
    /// # Panics
    /// If the buffer is too small.
    pub async fn get(
        &self,
        id: ShardId,
        range: Range<u32>,
        buffer: Buffer,
    ) -> Result<Bytes, GetShardError> {
        Ok(self.core.get(id, range, buffer).await?.0)
    }

    /// As [`get`](ShardStore::get), with the CRC-64/NVME of the bytes. For whole blocks it follows from what was checked.
    pub async fn get_with_checksum(
        &self,
        id: ShardId,
        range: Range<u32>,
        buffer: Buffer,
    ) -> Result<(Bytes, u64), GetShardError> {
        let (start, end) = (range.start as usize, range.end as usize);
        let (bytes, entry) = self.core.get(id, range, buffer).await?;
        let is_whole = |at: usize| at.is_multiple_of(BLOCK_LEN);
        let whole = is_whole(start) && (is_whole(end) || end == entry.shard.len as usize);
        let blocks = entry
            .shard
            .blocks
            .get(start / BLOCK_LEN..end.div_ceil(BLOCK_LEN));
        let checksum = match blocks {
            Some(blocks) if whole => checksum_of_blocks(blocks, bytes.len()),
            _ => crc64(&bytes),
        };
        Ok((bytes, checksum))
    }

    /// Deletes shards; durable when it returns. Shards that are not there are not an error.
    pub async fn delete(&self, ids: &[ShardId]) -> Result<(), DeleteShardError> {
        self.core.delete(ids).await
    }

    /// What is known of a shard, from the index alone.
    pub fn info(&self, id: ShardId) -> Result<Option<ShardInfo>, GetShardError> {
        self.core.check_up().map_err(GetShardError::Down)?;
        let entry = self
            .core
            .ledger
            .get(id)
            .map_err(|e| self.core.get_failed(e))?;
        Ok(entry.map(|entry| self.core.info(entry)))
    }

    /// The next `max` shards by id, from the index alone; begin with `None`.
    pub fn list(
        &self,
        after: Option<ShardId>,
        max: usize,
    ) -> Result<Vec<ShardInfo>, GetShardError> {
        self.core.check_up().map_err(GetShardError::Down)?;
        let entries = self.core.entries_after(after, max);
        let entries = entries.map_err(|error| self.core.get_failed(error))?;
        Ok(entries.into_iter().map(|e| self.core.info(e)).collect())
    }

    /// Shards that were found to be bad and wait to be replaced or deleted, in no order.
    pub fn bad(&self) -> Vec<ShardId> {
        self.core.ledger.bad()
    }

    /// Reads and checks every shard.
    pub async fn scrub(&self) -> Result<ScrubReport, GetShardError> {
        self.core.scrub().await
    }

    /// Reads and checks the shards that follow `after` in order of id, until `bytes_max` were read.
    pub async fn scrub_some(
        &self,
        after: Option<ShardId>,
        bytes_max: u64,
    ) -> Result<ScrubStep, GetShardError> {
        self.core.scrub_some(after, bytes_max).await
    }

    /// Looks once more at shards that are listed as bad. How many are right after all, and not listed any more.
    pub async fn recheck(&self, ids: &[ShardId]) -> Result<u64, GetShardError> {
        self.core.recheck(ids).await
    }

    /// How far the scrub was when that was last kept.
    pub fn scrub_state(&self) -> ScrubState {
        self.core.scrub_state()
    }

    /// Keeps how far the scrub is; not durable at once.
    pub fn keep_scrub_state(&self, state: &ScrubState) -> Result<(), GetShardError> {
        self.core.keep_scrub_state(state)
    }

    /// Does all compaction that is worth it, at full speed.
    pub async fn compact(&self) -> Result<CompactReport, PutShardError> {
        self.core.compact(false).await
    }

    /// Compacts now and then, at a limited rate, until the store is dropped or closed.
    pub fn start_compaction(&self) {
        spawn(self.core.clone().compact_forever());
    }

    /// Why the drive is out of use, if it is. It then stays so until it is opened again.
    pub fn down(&self) -> Option<&str> {
        self.core.down.get().map(String::as_str)
    }

    /// Looks whether the drive is still there; if not it is out of use from now on.
    pub fn check_present(&self) -> bool {
        self.core.check_present().is_ok()
    }

    /// Counters and sizes.
    pub fn stats(&self) -> ShardStoreStats {
        self.core.stats()
    }

    /// Begins a new extent with the next put, so that compaction may have the one that was open.
    pub async fn seal(&self) {
        self.core.space.lock().close_open();
        self.core.seal_closed().await;
    }

    /// Finishes what is under way and makes the next start quick.
    pub async fn close(&self) {
        let _growing = self.core.growing.lock().await;
        self.core.flush_now().await;
        self.core.space.lock().close_open();
        self.core.seal_closed().await;
        // What is not synced is found again at the next start.
        let _ = self.core.ledger.sync().await;
    }
}

impl Drop for ShardStore {
    fn drop(&mut self) {
        self.core.flusher.stop();
    }
}

impl Core {
    async fn put(
        &self,
        id: ShardId,
        facts: ShardFacts,
        payload: Buffer,
    ) -> Result<(), PutShardError> {
        self.check_up().map_err(PutShardError::Down)?;
        let len = payload.len();
        if len > SHARD_LEN_MAX {
            return Err(PutShardError::TooLarge(len));
        }
        let shard = Shard {
            id,
            facts,
            len: len as u32,
            blocks: payload.block_checksums(),
        };
        let before = self.ledger.get(id).map_err(|e| self.put_failed(e))?;
        if let Some(before) = before
            && before.shard.same_content(&shard)
            && self.ledger.is_sound(&before)
        {
            return Ok(());
        }
        let place = self.reserve(id, shard.record_len(), Purpose::Put).await?;
        self.append(shard, place, payload, Kind::Put).await
    }

    /// Writes the record and waits until it is durable and in the index.
    pub async fn append(
        &self,
        shard: Shard,
        place: Reservation,
        mut payload: Buffer,
        kind: Kind,
    ) -> Result<(), PutShardError> {
        let _waiter = place.waiter();
        let header = Header {
            shard,
            location: place.location,
            copy: kind != Kind::Put,
        };
        let len = payload.len();
        let record = payload.record_mut();
        record[RECORD_HEADER_LEN + len..].fill(0);
        header.encode(&place.nonce, &mut record[..RECORD_HEADER_LEN]);
        let written = place.file.write(payload, place.location.offset).await;
        written.map_err(|error| self.write_failed(error))?;
        let entry = ShardEntry {
            shard: header.shard,
            location: header.location,
        };
        let (pending, durable) = Pending::new(entry, place, kind);
        self.flusher.push(pending);
        let closed = |_| Err(PutShardError::Down("the store was closed".to_owned()));
        durable.await.unwrap_or_else(closed)
    }

    /// The bytes, and what the index says of their shard.
    async fn get(
        &self,
        id: ShardId,
        range: Range<u32>,
        buffer: Buffer,
    ) -> Result<(Bytes, ShardEntry), GetShardError> {
        let capacity = buffer.capacity();
        assert!(
            capacity >= read_capacity(&range),
            "the buffer takes the blocks"
        );
        let mut buffer = Some(buffer);
        let mut failed_at = None;
        loop {
            self.check_up().map_err(GetShardError::Down)?;
            let entry = self.ledger.get(id).map_err(|e| self.get_failed(e))?;
            let entry = entry.ok_or(GetShardError::NotFound)?;
            if range.start > range.end || range.end > entry.shard.len {
                return Err(GetShardError::OutOfRange);
            }
            // The buffer is lost if the read itself fails; that is rare enough to ask for another.
            let room = match buffer.take() {
                Some(buffer) => buffer,
                None => self.pool.acquire(capacity).await?,
            };
            let error = match self.read(&entry, range.clone(), room).await {
                Ok(bytes) => {
                    if failed_at == Some(entry.location) {
                        self.counters.transient.fetch_add(1, Ordering::Relaxed);
                    }
                    return Ok((bytes, entry));
                }
                Err(ReadError::Busy) => return Err(GetShardError::Busy),
                Err(error) => error,
            };
            // What is wrong once may be right when read again; and the shard may have been moved, or deleted and its
            // space given back, while it was read.
            let twice = failed_at.replace(entry.location) == Some(entry.location);
            if twice && self.mark_bad(&entry)? {
                return Err(self.read_failed(id, error));
            }
        }
    }

    /// Remembers that the shard is bad, if it is still where it was. Whether it is.
    pub fn mark_bad(&self, entry: &ShardEntry) -> Result<bool, GetShardError> {
        self.check_present().map_err(GetShardError::Down)?;
        let id = entry.shard.id;
        let marked = self.ledger.change(&HashSet::new(), |change| {
            let still = change
                .get(id)?
                .is_some_and(|now| now.location == entry.location);
            if still {
                change.set_bad(id, true);
            }
            Ok(still)
        });
        marked.map_err(|error| self.get_failed(error))
    }

    /// Counts, and says what the reader is to know.
    pub fn read_failed(&self, id: ShardId, error: ReadError) -> GetShardError {
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        match error {
            ReadError::Mismatch(what) => {
                count(&self.counters.corrupt);
                tracing::warn!(shard = %id, what, "a shard is corrupt");
                GetShardError::Corrupt(what)
            }
            ReadError::Disk(error) => {
                count(&self.counters.io_errors);
                tracing::warn!(shard = %id, %error, "a shard cannot be read");
                match error {
                    DiskError::NotFound => GetShardError::Corrupt("its extent is gone".to_owned()),
                    error => GetShardError::Io(error.to_string()),
                }
            }
            ReadError::Busy => GetShardError::Busy,
        }
    }

    /// Reads and checks the blocks that `range` touches.
    async fn read(
        &self,
        entry: &ShardEntry,
        range: Range<u32>,
        buffer: Buffer,
    ) -> Result<Bytes, ReadError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let range = range.start as usize..range.end as usize;
        let first = range.start / BLOCK_LEN * BLOCK_LEN;
        let end = range
            .end
            .next_multiple_of(BLOCK_LEN)
            .min(entry.shard.len as usize);
        let padded_len = (end - first).next_multiple_of(PAGE_LEN);
        let file = self.file(entry.location.extent).await?;
        let offset = entry.location.offset + (RECORD_HEADER_LEN + first) as u64;
        let read = file.read(buffer, offset, padded_len).await;
        let mut buffer = read.map_err(ReadError::Disk)?;
        buffer.set_len(end - first);
        check_blocks(entry, first, buffer.payload())?;
        Ok(buffer.freeze(range.start - first..range.end - first))
    }

    /// Longest single read: whole blocks.
    pub fn piece_len(&self) -> usize {
        (self.config.read_piece_len / BLOCK_LEN).max(1) * BLOCK_LEN
    }

    /// Begins to read part of a payload; `piece` begins with a block.
    pub async fn read_piece(
        &self,
        file: &dyn DiskFile,
        entry: &ShardEntry,
        piece: Range<usize>,
    ) -> Result<BoxFuture<'static, Result<Buffer, DiskError>>, ReadError> {
        let padded_len = piece.len().next_multiple_of(PAGE_LEN);
        let buffer = self.pool.acquire(padded_len).await;
        let buffer = buffer.map_err(|_| ReadError::Busy)?;
        let offset = entry.location.offset + (RECORD_HEADER_LEN + piece.start) as u64;
        Ok(file.read(buffer, offset, padded_len))
    }

    async fn delete(&self, ids: &[ShardId]) -> Result<(), DeleteShardError> {
        self.check_up().map_err(DeleteShardError::Down)?;
        self.ledger
            .change(&HashSet::new(), |change| {
                for id in ids {
                    change.delete(*id)?;
                }
                Ok(())
            })
            .map_err(|error| self.delete_failed(error))?;
        // Also if nothing was there: an earlier change that has declared it dead may not be durable yet.
        self.ledger
            .sync()
            .await
            .map_err(|e| self.delete_failed(e))?;
        self.check_present().map_err(DeleteShardError::Down)
    }

    fn info(&self, entry: ShardEntry) -> ShardInfo {
        let id = entry.shard.id;
        ShardInfo {
            id,
            facts: entry.shard.facts,
            len: entry.shard.len,
            bad: !self.ledger.is_sound(&entry),
        }
    }

    /// The next entries by id.
    pub fn entries_after(
        &self,
        after: Option<ShardId>,
        max: usize,
    ) -> Result<Vec<ShardEntry>, IndexError> {
        let (from, to) = shard_range();
        // The key of a shard with one more zero is the least that follows it.
        let from = after.map_or(from.to_vec(), |id| [&shard_key(id)[..], &[0]].concat());
        let mut cursor = self.ledger.index().scan(Keyspace::Shards, &from, &to)?;
        cursor.seek(&from)?;
        let mut entries = Vec::new();
        while entries.len() < max
            && let Some((key, value)) = cursor.entry()
        {
            let entry = decode_id(key).and_then(|id| ShardEntry::decode(id, value));
            entries.push(entry.ok_or_else(|| IndexError::Corrupt("a shard's entry".to_owned()))?);
            cursor.next()?;
        }
        Ok(entries)
    }

    /// A place for a record of `len` bytes.
    pub async fn reserve(
        &self,
        id: ShardId,
        len: u64,
        purpose: Purpose,
    ) -> Result<Reservation, PutShardError> {
        let copy = purpose == Purpose::Copy;
        loop {
            if let Some(place) = reserve(&self.space, id, len, copy) {
                return Ok(place);
            }
            self.make_room(len, purpose).await?;
        }
    }

    /// Extends the open extent or begins the next one.
    async fn make_room(&self, len: u64, purpose: Purpose) -> Result<(), PutShardError> {
        let _growing = self.growing.lock().await;
        let open = self.space.lock().open();
        let kept = match purpose {
            Purpose::Put => self.reserve_bytes,
            Purpose::Copy => self.reserve_bytes / 2,
        };
        let drive = self.disk.space().map_err(|e| self.write_failed(e))?;
        let usable = drive.free.saturating_sub(kept);
        if let Some((open, tail)) = open
            && tail + len <= open.limit
        {
            if tail + len <= open.allocated {
                return Ok(());
            }
            let least = tail + len;
            let wanted = (open.allocated + self.config.allocate_step)
                .max(least)
                .min(open.limit);
            let to = if wanted - open.allocated <= usable {
                wanted
            } else {
                least
            };
            if to - open.allocated > usable {
                return Err(PutShardError::Full);
            }
            open.file
                .allocate(to)
                .await
                .map_err(|e| self.write_failed(e))?;
            self.space.lock().allocated(open.number, to);
            return Ok(());
        }
        let least = PAGE_LEN as u64 + len;
        let wanted = self
            .config
            .allocate_step
            .clamp(least, self.extent_len.max(least));
        let allocated = if wanted <= usable { wanted } else { least };
        if allocated > usable {
            return Err(PutShardError::Full);
        }
        self.begin_extent(allocated).await?;
        self.seal_closed().await;
        Ok(())
    }

    async fn begin_extent(&self, allocated: u64) -> Result<(), PutShardError> {
        let number = self.ledger.next_number();
        let mut nonce: Nonce = [0; 16];
        self.rng.fill(&mut nonce);
        let name = extent_name(number);
        let begun = self.make_extent(&name, number, nonce, allocated).await;
        let file = match begun {
            Ok(file) => file,
            Err(error) => {
                // What is left of it would be removed at the next start.
                let _ = self.disk.delete(&name).await;
                return Err(error);
            }
        };
        self.ledger
            .change(&HashSet::new(), |change| {
                change.add_extent(number, nonce, PAGE_LEN as u64);
                Ok(())
            })
            .map_err(|error| self.put_failed(error))?;
        // Once an extent: else a record would depend on the extent's header alone until the index is synced.
        self.ledger.sync().await.map_err(|e| self.put_failed(e))?;
        self.remember_file(number, file.clone());
        let extent = OpenExtent {
            number,
            nonce,
            file,
            allocated,
            limit: self.extent_len.max(allocated),
        };
        self.space.lock().begin(extent, PAGE_LEN as u64);
        Ok(())
    }

    /// A file whose header is durable before any record is written to it.
    async fn make_extent(
        &self,
        name: &str,
        number: u64,
        nonce: Nonce,
        allocated: u64,
    ) -> Result<Arc<dyn DiskFile>, PutShardError> {
        // One extent is made at a time, so the page is there unless the last write is just giving it back.
        let mut page = match self.header_page.lend(0) {
            Some(page) => page,
            None => self
                .pool
                .acquire(0)
                .await
                .map_err(|_| PutShardError::Busy)?,
        };
        ExtentHeader { number, nonce }.encode(page.record_mut());
        let file = self
            .disk
            .create(name)
            .await
            .map_err(|e| self.write_failed(e))?;
        file.allocate(allocated)
            .await
            .map_err(|e| self.write_failed(e))?;
        file.write(page, 0)
            .await
            .map_err(|e| self.write_failed(e))?;
        file.sync().await.map_err(|e| self.write_failed(e))?;
        Ok(file)
    }

    /// Seals extents that are full and in which nothing is under way: their unused space is given back, and they
    /// need no rescan.
    pub async fn seal_closed(&self) {
        let sealable = self.space.lock().sealable();
        for (number, tail, file) in sealable {
            if let Err(error) = file.truncate(tail).await {
                tracing::warn!(extent = number, %error, "an extent was not cut to its end");
            }
            let sealed = self.ledger.change(&HashSet::new(), |change| {
                if let Some(extent) = change.extent(number) {
                    extent.entry.phase = Phase::Sealed;
                    extent.entry.high_water = tail;
                }
                Ok(())
            });
            match sealed {
                Ok(()) => self.space.lock().sealed(number),
                Err(error) => drop(self.put_failed(error)),
            }
        }
    }

    /// The file of an extent, opened when it is needed.
    pub async fn file(&self, number: u64) -> Result<Arc<dyn DiskFile>, ReadError> {
        if let Some(file) = self.files.lock().get(&number) {
            return Ok(file.clone());
        }
        let file = self.disk.open(&extent_name(number)).await;
        let file = file.map_err(ReadError::Disk)?;
        self.remember_file(number, file.clone());
        Ok(file)
    }

    pub fn remember_file(&self, number: u64, file: Arc<dyn DiskFile>) {
        let mut files = self.files.lock();
        if files.len() >= OPEN_FILES_MAX
            && let Some(any) = files.keys().next().copied()
        {
            files.remove(&any);
        }
        files.insert(number, file);
    }

    pub fn forget_file(&self, number: u64) {
        self.files.lock().remove(&number);
    }

    pub fn check_up(&self) -> Result<(), String> {
        self.down.get().map_or(Ok(()), |why| Err(why.clone()))
    }

    /// Looks whether the drive is still there.
    pub fn check_present(&self) -> Result<(), String> {
        self.check_up()?;
        self.disk
            .check_present()
            .map_err(|error| self.set_down(error.to_string()))
    }

    /// Takes the drive out of use; why.
    fn set_down(&self, why: String) -> String {
        if self.down.set(why.clone()).is_ok() {
            tracing::error!(why, "a drive is out of use");
        }
        why
    }

    pub fn write_failed(&self, error: DiskError) -> PutShardError {
        if error == DiskError::Full {
            return PutShardError::Full;
        }
        self.counters.io_errors.fetch_add(1, Ordering::Relaxed);
        match self.check_present() {
            Err(why) => PutShardError::Down(why),
            Ok(()) => PutShardError::Io(error.to_string()),
        }
    }

    pub fn put_failed(&self, error: IndexError) -> PutShardError {
        match error {
            IndexError::Full => PutShardError::Full,
            error => PutShardError::Down(self.set_down(error.to_string())),
        }
    }

    pub fn get_failed(&self, error: IndexError) -> GetShardError {
        match error {
            IndexError::Full => GetShardError::Io(error.to_string()),
            error => GetShardError::Down(self.set_down(error.to_string())),
        }
    }

    fn delete_failed(&self, error: IndexError) -> DeleteShardError {
        match error {
            IndexError::Full => DeleteShardError::Io(error.to_string()),
            error => DeleteShardError::Down(self.set_down(error.to_string())),
        }
    }

    fn stats(&self) -> ShardStoreStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let extents = self.ledger.extents();
        let live_bytes = extents.iter().map(|(_, extent)| extent.live_bytes).sum();
        let sealed = extents
            .iter()
            .filter(|(_, extent)| extent.phase == Phase::Sealed);
        let dead =
            sealed.map(|(_, e)| (e.high_water - PAGE_LEN as u64).saturating_sub(e.live_bytes));
        let drive = self.disk.space().ok();
        let counters = &self.counters;
        ShardStoreStats {
            extents: extents.len() as u64,
            live_bytes,
            dead_bytes: dead.sum(),
            bad_shards: self.ledger.bad().len() as u64,
            free_bytes: drive.map_or(0, |drive| drive.free),
            total_bytes: drive.map_or(0, |drive| drive.total),
            flushes: load(&counters.flushes),
            flushed_records: load(&counters.flushed_records),
            corrupt: load(&counters.corrupt),
            io_errors: load(&counters.io_errors),
            transient: load(&counters.transient),
            compacted_bytes: load(&counters.compacted_bytes),
            reclaimed_bytes: load(&counters.reclaimed_bytes),
        }
    }
}

/// Checks bytes of a shard's payload that begin with a block, at `start`.
pub(super) fn check_blocks(
    entry: &ShardEntry,
    start: usize,
    bytes: &[u8],
) -> Result<(), ReadError> {
    let first = start / BLOCK_LEN;
    for (block, bytes) in (first..).zip(bytes.chunks(BLOCK_LEN)) {
        let is_right = entry.shard.blocks.get(block) == Some(&crc64(bytes));
        if !is_right && !planted(Bug::SkipChecksum) {
            let Location { extent, offset } = entry.location;
            return Err(ReadError::Mismatch(format!(
                "block {block} of extent {extent} at {offset}"
            )));
        }
    }
    Ok(())
}

/// The file name of an extent.
pub(super) fn extent_name(number: u64) -> String {
    format!("{number:016x}.extent")
}

/// The extent with this file name.
pub(super) fn extent_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".extent")?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (extent_name(number) == name).then_some(number)
}
