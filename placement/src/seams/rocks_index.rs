//! RocksDB behind the [`Index`] seam.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBRawIterator, DBRecoveryMode, ErrorKind, LogLevel, Options, ReadOptions, Snapshot, WriteBatch,
    WriteBufferManager, WriteOptions,
};
use tokio::sync::Semaphore;

use super::index::{Batch, Cursor, Durability, Index, IndexError, IndexView, Keyspace, Op};

/// Memory that all indexes of a process share.
#[derive(Clone)]
pub struct RocksMemory {
    cache: Cache,
    write_buffers: WriteBufferManager,
    readers: Arc<Semaphore>,
}

impl RocksMemory {
    /// `cache_bytes` for blocks (and the write buffers, which are charged to it), of which at most
    /// `write_buffer_bytes` for what is not yet in a table file.
    pub fn new(cache_bytes: usize, write_buffer_bytes: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let cache = Cache::new_lru_cache(cache_bytes);
        let write_buffers = WriteBufferManager::new_write_buffer_manager_with_cache(
            write_buffer_bytes,
            false,
            cache.clone(),
        );
        Self {
            cache,
            write_buffers,
            readers: Arc::new(Semaphore::new(cores)),
        }
    }
}

/// An [`Index`] in a directory.
pub struct RocksIndex {
    db: DB,
    readers: Arc<Semaphore>,
}

impl RocksIndex {
    /// Opens or makes the index in `path` with the given key spaces.
    ///
    /// A damaged write-ahead log is an error unless the damage is a torn tail: silently going back to an earlier
    /// state would lose what was acknowledged. Not so with [`Keyspace::Objects`], which are a state machine's: it is made
    /// again from any earlier state of it that is not older than its last durable point, and opens with what lies before
    /// the damage. Of a log that was not synced, a loss of power may leave a later part without an earlier one.
    pub fn open(
        path: &Path,
        spaces: &[Keyspace],
        memory: &RocksMemory,
    ) -> Result<Self, IndexError> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_write_buffer_manager(&memory.write_buffers);
        options.set_wal_recovery_mode(match spaces.contains(&Keyspace::Objects) {
            true => DBRecoveryMode::PointInTime,
            false => DBRecoveryMode::TolerateCorruptedTailRecords,
        });
        options.set_max_background_jobs(2);
        options.set_max_open_files(512);
        options.set_keep_log_file_num(2);
        options.set_log_level(LogLevel::Warn);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options.set_max_total_wal_size(64 << 20);
        options.set_bytes_per_sync(1 << 20);
        options.set_skip_stats_update_on_db_open(true);
        let families = spaces
            .iter()
            .map(|space| ColumnFamilyDescriptor::new(space.name(), family_options(*space, memory)));
        let db = DB::open_cf_descriptors(&options, path, families).map_err(error)?;
        let readers = memory.readers.clone();
        Ok(Self { db, readers })
    }

    fn family(&self, space: Keyspace) -> Result<&ColumnFamily, IndexError> {
        self.db
            .cf_handle(space.name())
            .ok_or_else(|| IndexError::Io(format!("key space {} is not open", space.name())))
    }
}

fn family_options(space: Keyspace, memory: &RocksMemory) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&memory.cache);
    table.set_block_size(16 << 10);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(5);
    let mut options = Options::default();
    options.set_write_buffer_size(16 << 20);
    options.set_max_write_buffer_number(4);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_compression_type(DBCompressionType::Lz4);
    match space {
        Keyspace::Objects => {
            table.set_bloom_filter(10.0, false);
            // A listing that skips from one common prefix to the next seeks in every sorted run: keep them few.
            // Records are small, so merging them more often is cheap.
            options.set_level_zero_file_num_compaction_trigger(2);
            options.set_write_buffer_size(8 << 20);
        }
        Keyspace::Shards => table.set_bloom_filter(10.0, false),
        Keyspace::Inline => {
            table.set_bloom_filter(10.0, false);
            // Bodies are written once and moved never: compaction touches only their keys.
            options.set_enable_blob_files(true);
            options.set_min_blob_size(512);
            options.set_blob_file_size(64 << 20);
            options.set_enable_blob_gc(true);
            options.set_blob_gc_age_cutoff(0.25);
            options.set_blob_gc_force_threshold(0.5);
        }
        Keyspace::Log => {
            options.set_compression_type(DBCompressionType::None);
            // Most of what is written is purged before long: what is compacted late needs not be copied.
            options.set_level_zero_file_num_compaction_trigger(10);
        }
        Keyspace::Records => {}
    }
    options.set_block_based_table_factory(&table);
    options
}

fn error(error: rocksdb::Error) -> IndexError {
    let text = error.as_ref().to_owned();
    if text.contains("No space left") || text.contains("Disk quota exceeded") {
        return IndexError::Full;
    }
    match error.kind() {
        ErrorKind::Corruption => IndexError::Corrupt(text),
        _ => IndexError::Io(text),
    }
}

impl IndexView for RocksIndex {
    fn get(&self, space: Keyspace, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        let found = self.db.get_cf(self.family(space)?, key).map_err(error)?;
        Ok(found.map(Bytes::from))
    }

    fn cursor<'a>(
        &'a self,
        space: Keyspace,
        from: &[u8],
        to: &[u8],
    ) -> Result<Box<dyn Cursor + 'a>, IndexError> {
        let iterator = self
            .db
            .raw_iterator_cf_opt(self.family(space)?, range_options(from, to));
        Ok(Box::new(RocksCursor { iterator }))
    }

    fn scan<'a>(
        &'a self,
        space: Keyspace,
        from: &[u8],
        to: &[u8],
    ) -> Result<Box<dyn Cursor + 'a>, IndexError> {
        let options = scan_options(from, to);
        let iterator = self.db.raw_iterator_cf_opt(self.family(space)?, options);
        Ok(Box::new(RocksCursor { iterator }))
    }
}

fn range_options(from: &[u8], to: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(from);
    options.set_iterate_upper_bound(to);
    options
}

fn scan_options(from: &[u8], to: &[u8]) -> ReadOptions {
    let mut options = range_options(from, to);
    options.fill_cache(false);
    options
}

impl Index for RocksIndex {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), IndexError> {
        let mut rocks = WriteBatch::default();
        for op in &batch.ops {
            match op {
                Op::Put { space, key, value } => rocks.put_cf(self.family(*space)?, key, value),
                Op::Delete { space, key } => rocks.delete_cf(self.family(*space)?, key),
                Op::DeleteRange { space, from, to } => {
                    rocks.delete_range_cf(self.family(*space)?, from, to)
                }
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        self.db.write_opt(rocks, &options).map_err(error)
    }

    fn sync(&self) -> Result<(), IndexError> {
        self.db.flush_wal(true).map_err(error)
    }

    fn readers(&self) -> Option<Arc<Semaphore>> {
        Some(self.readers.clone())
    }

    fn view(&self) -> Box<dyn IndexView + '_> {
        Box::new(RocksView {
            index: self,
            snapshot: self.db.snapshot(),
        })
    }
}

struct RocksView<'a> {
    index: &'a RocksIndex,
    snapshot: Snapshot<'a>,
}

impl IndexView for RocksView<'_> {
    fn get(&self, space: Keyspace, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        let family = self.index.family(space)?;
        let found = self.snapshot.get_cf(family, key).map_err(error)?;
        Ok(found.map(Bytes::from))
    }

    fn cursor<'a>(
        &'a self,
        space: Keyspace,
        from: &[u8],
        to: &[u8],
    ) -> Result<Box<dyn Cursor + 'a>, IndexError> {
        let family = self.index.family(space)?;
        let iterator = self
            .snapshot
            .raw_iterator_cf_opt(family, range_options(from, to));
        Ok(Box::new(RocksCursor { iterator }))
    }

    fn scan<'a>(
        &'a self,
        space: Keyspace,
        from: &[u8],
        to: &[u8],
    ) -> Result<Box<dyn Cursor + 'a>, IndexError> {
        let family = self.index.family(space)?;
        let options = scan_options(from, to);
        let iterator = self.snapshot.raw_iterator_cf_opt(family, options);
        Ok(Box::new(RocksCursor { iterator }))
    }
}

struct RocksCursor<'a> {
    iterator: DBRawIterator<'a>,
}

impl RocksCursor<'_> {
    /// An iterator that stops may have met its end or an error: only the status tells.
    fn check(&self) -> Result<(), IndexError> {
        if self.iterator.valid() {
            return Ok(());
        }
        self.iterator.status().map_err(error)
    }
}

impl Cursor for RocksCursor<'_> {
    fn seek(&mut self, key: &[u8]) -> Result<(), IndexError> {
        self.iterator.seek(key);
        self.check()
    }

    fn seek_back(&mut self, key: &[u8]) -> Result<(), IndexError> {
        self.iterator.seek_for_prev(key);
        self.check()
    }

    fn next(&mut self) -> Result<(), IndexError> {
        self.iterator.next();
        self.check()
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.iterator.item()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACES: [Keyspace; 2] = [Keyspace::Records, Keyspace::Inline];

    fn open(path: &Path) -> RocksIndex {
        RocksIndex::open(path, &SPACES, &RocksMemory::new(8 << 20, 4 << 20)).unwrap()
    }

    #[test]
    fn a_second_start_finds_everything() {
        let directory = tempfile::tempdir().unwrap();
        let body = vec![7u8; 4096];
        {
            let index = open(directory.path());
            let mut batch = Batch::new();
            batch.put(Keyspace::Records, &b"k"[..], &b"v"[..]);
            batch.put(Keyspace::Inline, &b"k"[..], body.clone());
            index.write(batch, Durability::Synced).unwrap();
        }
        let index = open(directory.path());
        assert_eq!(index.get(Keyspace::Records, b"k").unwrap().unwrap(), "v");
        assert_eq!(index.get(Keyspace::Inline, b"k").unwrap().unwrap(), body);
    }

    #[test]
    fn a_view_and_its_cursors_stand_still() {
        let directory = tempfile::tempdir().unwrap();
        let index = open(directory.path());
        let write = |key: &'static str| {
            let mut batch = Batch::new();
            batch.put(Keyspace::Records, key, "v");
            index.write(batch, Durability::Unsynced).unwrap();
        };
        write("a");
        write("c");
        let view = index.view();
        write("b");
        let mut cursor = view.cursor(Keyspace::Records, b"a", b"z").unwrap();
        cursor.seek(b"a").unwrap();
        cursor.next().unwrap();
        assert_eq!(cursor.entry().unwrap().0, b"c");
        assert!(view.get(Keyspace::Records, b"b").unwrap().is_none());
        cursor.next().unwrap();
        assert!(cursor.entry().is_none());
    }

    #[test]
    fn what_a_scan_passes_is_not_cached() {
        let directory = tempfile::tempdir().unwrap();
        let memory = RocksMemory::new(64 << 20, 32 << 20);
        let index = RocksIndex::open(directory.path(), &SPACES, &memory).unwrap();
        let mut batch = Batch::new();
        for number in 0..100_000u32 {
            let key = number.wrapping_mul(0x9E37_79B1).to_be_bytes();
            batch.put(Keyspace::Records, key.to_vec(), vec![number as u8; 40]);
        }
        index.write(batch, Durability::Unsynced).unwrap();
        let records = index.family(Keyspace::Records).unwrap();
        index.db.flush_cf(records).unwrap();
        let passed = |mut cursor: Box<dyn Cursor + '_>| {
            let before = memory.cache.get_usage();
            cursor.seek(b"").unwrap();
            let mut entries = 0;
            while cursor.entry().is_some() {
                entries += 1;
                cursor.next().unwrap();
            }
            assert_eq!(entries, 100_000);
            drop(cursor);
            memory.cache.get_usage().saturating_sub(before)
        };
        let all = [0xFF; 5];
        let scanned = passed(index.scan(Keyspace::Records, b"", &all).unwrap());
        let view = index.view();
        let viewed = passed(view.scan(Keyspace::Records, b"", &all).unwrap());
        let read = passed(index.cursor(Keyspace::Records, b"", &all).unwrap());
        assert!(scanned + viewed < 1 << 20, "{scanned} and {viewed} bytes");
        assert!(read > 2 << 20, "{read} bytes");
    }

    /// Writes a hundred records, flips a byte in the middle of the write-ahead log, and opens the index again.
    fn reopen_damaged(space: Keyspace) -> Result<RocksIndex, IndexError> {
        let directory = tempfile::tempdir().unwrap();
        let memory = RocksMemory::new(8 << 20, 4 << 20);
        {
            let index = RocksIndex::open(directory.path(), &[space], &memory).unwrap();
            for number in 0..100u32 {
                let mut batch = Batch::new();
                batch.put(space, number.to_be_bytes().to_vec(), vec![9u8; 500]);
                index.write(batch, Durability::Synced).unwrap();
            }
        }
        let log = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .max_by_key(|path| std::fs::metadata(path).unwrap().len())
            .unwrap();
        let mut bytes = std::fs::read(&log).unwrap();
        assert!(bytes.len() > 40_000);
        bytes[20_000] ^= 1;
        std::fs::write(&log, bytes).unwrap();
        RocksIndex::open(directory.path(), &[space], &memory)
    }

    #[test]
    fn a_flipped_byte_in_a_log_is_an_error_not_a_loss() {
        for space in [Keyspace::Log, Keyspace::Shards] {
            let opened = reopen_damaged(space);
            assert!(matches!(opened, Err(IndexError::Corrupt(_))), "{space:?}");
        }
    }

    #[test]
    fn a_state_whose_log_is_damaged_opens_as_it_was_before() {
        let space = Keyspace::Objects;
        let index = reopen_damaged(space).unwrap();
        let is_there = |number: &u32| index.get(space, &number.to_be_bytes()).unwrap().is_some();
        let there: Vec<u32> = (0..100).filter(is_there).collect();
        assert!((30..50).contains(&there.len()), "{there:?}");
        assert_eq!(there, (0..there.len() as u32).collect::<Vec<_>>());
    }
}
