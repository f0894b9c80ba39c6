//! RocksDB behind the [`Index`] seam.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB,
    DBCompressionType, DBRawIterator, DBRecoveryMode, ErrorKind, LiveFile, LogLevel, Options,
    ReadOptions, Snapshot, WriteBatch, WriteBufferManager, WriteOptions, properties,
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

/// Tables of objects have the keys of a block together, before its values: a seek reads nearly keys alone, and takes two
/// thirds of the time. (A setting that can be given by its name alone, to a database that is open.)
const OBJECTS_TABLE: [(&str, &str); 1] = [(
    "block_based_table_factory",
    "{separate_key_value_in_data_block=true}",
)];

/// The last of RocksDB's levels, where it begins to fill them.
const LAST_LEVEL: i32 = 6;

/// Entries above the last level are merged into it if there is one for so many in it: for each that is written, at most so
/// many are written again.
const SETTLE_SHARE: u64 = 16;

/// Fewer entries are not worth it: what is passed in them costs little.
const SETTLE_MIN: u64 = 4096;

/// An [`Index`] in a directory.
pub struct RocksIndex {
    db: DB,
    readers: Arc<Semaphore>,
    uses: AtomicU64,
}

impl RocksIndex {
    /// Opens or makes the index in `path` with the given key spaces.
    ///
    /// A damaged write-ahead log is an error unless the damage is a torn tail: silently going back to an earlier
    /// state would lose what was acknowledged.
    pub fn open(
        path: &Path,
        spaces: &[Keyspace],
        memory: &RocksMemory,
    ) -> Result<Self, IndexError> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_write_buffer_manager(&memory.write_buffers);
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
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
        if let Some(objects) = db.cf_handle(Keyspace::Objects.name()) {
            db.set_options_cf(objects, &OBJECTS_TABLE).map_err(error)?;
        }
        Ok(Self::around(db, memory))
    }

    fn around(db: DB, memory: &RocksMemory) -> Self {
        Self {
            db,
            readers: memory.readers.clone(),
            uses: AtomicU64::new(0),
        }
    }

    fn family(&self, space: Keyspace) -> Result<&ColumnFamily, IndexError> {
        self.db
            .cf_handle(space.name())
            .ok_or_else(|| IndexError::Io(format!("key space {} is not open", space.name())))
    }

    fn note_use(&self, space: Keyspace) {
        if space == Keyspace::Objects {
            self.uses.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The files of `objects` in the last level, by key; `None`: too little lies above them to be merged with them.
    fn unsettled(&self) -> Result<Option<Vec<LiveFile>>, IndexError> {
        let objects = self.family(Keyspace::Objects)?;
        let mut above = 0;
        for memtables in [
            properties::NUM_ENTRIES_ACTIVE_MEM_TABLE,
            properties::NUM_ENTRIES_IMM_MEM_TABLES,
        ] {
            let entries = self.db.property_int_value_cf(objects, memtables);
            above += entries.map_err(error)?.unwrap_or_default();
        }
        let files = self.db.live_files().map_err(error)?;
        let name = Keyspace::Objects.name();
        let files = files
            .into_iter()
            .filter(|file| file.column_family_name == name);
        let (mut last, others): (Vec<_>, Vec<_>) = files.partition(|file| file.level == LAST_LEVEL);
        above += others.iter().map(|file| file.num_entries).sum::<u64>();
        let below: u64 = last.iter().map(|file| file.num_entries).sum();
        last.sort_by(|a, b| a.start_key.cmp(&b.start_key));
        let is_much = above >= SETTLE_MIN && above * SETTLE_SHARE >= below;
        Ok(is_much.then_some(last))
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
        self.note_use(space);
        let found = self.db.get_cf(self.family(space)?, key).map_err(error)?;
        Ok(found.map(Bytes::from))
    }

    fn cursor<'a>(
        &'a self,
        space: Keyspace,
        from: &[u8],
        to: &[u8],
    ) -> Result<Box<dyn Cursor + 'a>, IndexError> {
        self.note_use(space);
        let options = range_options(from, to);
        let iterator = self.db.raw_iterator_cf_opt(self.family(space)?, options);
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
            self.note_use(op.space());
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

    fn uses(&self) -> u64 {
        self.uses.load(Ordering::Relaxed)
    }

    /// In pieces, each what lies above a file of the last level: seconds, while no other compaction of these files runs.
    fn settle(&self, goes_on: &dyn Fn() -> bool) -> Result<(), IndexError> {
        let Some(last) = self.unsettled()? else {
            return Ok(());
        };
        let objects = self.family(Keyspace::Objects)?;
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        let mut ends: Vec<_> = last.into_iter().map(|file| file.end_key).collect();
        // What lies past the last file goes with it.
        ends.pop();
        let mut from: Option<Vec<u8>> = None;
        for to in ends.into_iter().chain([None]) {
            if !goes_on() {
                return Ok(());
            }
            let (begin, end) = (from.as_deref(), to.as_deref());
            self.db.compact_range_cf_opt(objects, begin, end, &options);
            // Ranges include their ends.
            from = to.map(|to| [&to[..], &[0]].concat());
        }
        Ok(())
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
        self.index.note_use(space);
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
        self.index.note_use(space);
        let family = self.index.family(space)?;
        let options = range_options(from, to);
        let iterator = self.snapshot.raw_iterator_cf_opt(family, options);
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
    use crate::seams::{MemoryIndex, Rng, SeededRng};

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

    fn put_objects(index: &RocksIndex, numbers: std::ops::Range<u32>) {
        let mut batch = Batch::new();
        for number in numbers {
            let key = number.wrapping_mul(0x9E37_79B1).to_be_bytes();
            batch.put(Keyspace::Objects, key.to_vec(), vec![number as u8; 40]);
        }
        index.write(batch, Durability::Unsynced).unwrap();
    }

    /// Levels and names of the table files of objects, and how many entries are in none.
    fn runs(index: &RocksIndex) -> (Vec<(i32, String)>, u64) {
        let objects = index.family(Keyspace::Objects).unwrap();
        let memtable = properties::NUM_ENTRIES_ACTIVE_MEM_TABLE;
        let memtable = index.db.property_int_value_cf(objects, memtable);
        let files = index.db.live_files().unwrap().into_iter();
        let files = files.filter(|file| file.column_family_name == "objects");
        let files = files.map(|file| (file.level, file.name));
        (files.collect(), memtable.unwrap().unwrap())
    }

    #[test]
    fn what_has_changed_enough_settles_into_the_last_level_once() {
        let directory = tempfile::tempdir().unwrap();
        let memory = RocksMemory::new(64 << 20, 32 << 20);
        let index = RocksIndex::open(directory.path(), &[Keyspace::Objects], &memory).unwrap();
        put_objects(&index, 0..100_000);
        index.settle(&|| false).unwrap();
        assert!(runs(&index).1 > 0, "nobody may have it settle now");
        index.settle(&|| true).unwrap();
        let (settled, in_memory) = runs(&index);
        assert!(!settled.is_empty());
        assert!(settled.iter().all(|(level, _)| *level == LAST_LEVEL));
        assert_eq!(in_memory, 0);

        put_objects(&index, 0..5_000);
        index.settle(&|| true).unwrap();
        assert_eq!(runs(&index), (settled.clone(), 5_000), "a twentieth");
        put_objects(&index, 5_000..10_000);
        index.settle(&|| true).unwrap();
        let (again, in_memory) = runs(&index);
        assert_ne!(again, settled);
        assert!(again.iter().all(|(level, _)| *level == LAST_LEVEL));
        assert_eq!(in_memory, 0);
        index.settle(&|| true).unwrap();
        assert_eq!(runs(&index).0, again);
    }

    #[test]
    fn reads_and_writes_of_objects_are_uses_and_scans_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let memory = RocksMemory::new(8 << 20, 4 << 20);
        let spaces = [Keyspace::Objects, Keyspace::Records];
        let index = RocksIndex::open(directory.path(), &spaces, &memory).unwrap();
        put_objects(&index, 0..10);
        assert_eq!(index.uses(), 10);
        index.get(Keyspace::Objects, b"k").unwrap();
        index.view().get(Keyspace::Objects, b"k").unwrap();
        index.cursor(Keyspace::Objects, b"a", b"z").unwrap();
        index.view().cursor(Keyspace::Objects, b"a", b"z").unwrap();
        assert_eq!(index.uses(), 14);
        index.get(Keyspace::Records, b"k").unwrap();
        index.scan(Keyspace::Objects, b"a", b"z").unwrap();
        index.view().scan(Keyspace::Objects, b"a", b"z").unwrap();
        assert_eq!(index.uses(), 14);
    }

    #[test]
    fn what_a_scan_passes_is_not_cached() {
        let directory = tempfile::tempdir().unwrap();
        let open = |memory: &RocksMemory| {
            RocksIndex::open(directory.path(), &[Keyspace::Objects], memory).unwrap()
        };
        {
            let index = open(&RocksMemory::new(64 << 20, 32 << 20));
            put_objects(&index, 0..100_000);
            index.settle(&|| true).unwrap();
        }
        let memory = RocksMemory::new(64 << 20, 32 << 20);
        let index = open(&memory);
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
        let scanned = passed(index.scan(Keyspace::Objects, b"", &all).unwrap());
        let view = index.view();
        let viewed = passed(view.scan(Keyspace::Objects, b"", &all).unwrap());
        let read = passed(index.cursor(Keyspace::Objects, b"", &all).unwrap());
        assert!(scanned + viewed < 1 << 20, "{scanned} and {viewed} bytes");
        assert!(read > 4 << 20, "{read} bytes");
    }

    /// Objects with long keys and short ones, much of them shared, and values of all sizes, none among them.
    fn random_objects(rng: &SeededRng) -> Batch {
        let mut batch = Batch::new();
        for _ in 0..4000 {
            let number = rng.next_u64();
            let mut key = vec![b'k'; (number % 40) as usize];
            key.extend_from_slice(&(number >> 52).to_be_bytes()[6..]);
            match (number >> 32) & 7 {
                0 => batch.delete(Keyspace::Objects, key),
                size => {
                    let value = vec![number as u8; (size as usize - 1) * 30];
                    batch.put(Keyspace::Objects, key, value);
                }
            }
        }
        batch
    }

    /// In memory, in tables from before keys were kept together, and in such as are written now.
    #[test]
    fn cursors_find_their_way_in_tables_of_both_forms() {
        let rng = SeededRng::new(7);
        let expected = MemoryIndex::new();
        let directory = tempfile::tempdir().unwrap();
        let memory = RocksMemory::new(8 << 20, 4 << 20);
        let objects = Keyspace::Objects.name();
        {
            let mut options = Options::default();
            options.create_if_missing(true);
            options.create_missing_column_families(true);
            let family = family_options(Keyspace::Objects, &memory);
            let family = ColumnFamilyDescriptor::new(objects, family);
            let db = DB::open_cf_descriptors(&options, directory.path(), [family]).unwrap();
            let older = RocksIndex::around(db, &memory);
            let batch = random_objects(&rng);
            expected.write(batch.clone(), Durability::Unsynced).unwrap();
            older.write(batch, Durability::Unsynced).unwrap();
            older
                .db
                .flush_cf(older.family(Keyspace::Objects).unwrap())
                .unwrap();
        }
        let index = RocksIndex::open(directory.path(), &[Keyspace::Objects], &memory).unwrap();
        let family = index.family(Keyspace::Objects).unwrap();
        for step in 0..4 {
            let (from, to) = (&[b'k'; 3][..], &[b'k', 0xFF][..]);
            let mut cursor = index.cursor(Keyspace::Objects, from, to).unwrap();
            let mut other = expected.cursor(Keyspace::Objects, from, to).unwrap();
            for _ in 0..4000 {
                let number = rng.next_u64();
                let mut key = vec![b'k'; (number % 40) as usize];
                key.extend_from_slice(&(number >> 52).to_be_bytes()[6..]);
                match (number >> 32) & 3 {
                    0 => {
                        cursor.seek_back(&key).unwrap();
                        other.seek_back(&key).unwrap();
                    }
                    1 if other.entry().is_some() => {
                        cursor.next().unwrap();
                        other.next().unwrap();
                    }
                    _ => {
                        cursor.seek(&key).unwrap();
                        other.seek(&key).unwrap();
                    }
                }
                assert_eq!(cursor.entry(), other.entry(), "step {step}");
            }
            drop(cursor);
            let batch = random_objects(&rng);
            match step {
                0 => index.db.flush_cf(family).unwrap(),
                1 => index
                    .db
                    .compact_range_cf(family, None::<&[u8]>, None::<&[u8]>),
                _ => {}
            }
            expected.write(batch.clone(), Durability::Unsynced).unwrap();
            index.write(batch, Durability::Unsynced).unwrap();
        }
    }

    #[test]
    fn tables_of_objects_keep_keys_together() {
        let directory = tempfile::tempdir().unwrap();
        let memory = RocksMemory::new(8 << 20, 4 << 20);
        let _index = RocksIndex::open(directory.path(), &[Keyspace::Objects], &memory).unwrap();
        let files = std::fs::read_dir(directory.path()).unwrap();
        let files = files.map(|file| file.unwrap().path());
        let options = files.filter(|path| path.to_string_lossy().contains("OPTIONS-"));
        let newest = std::fs::read_to_string(options.max().unwrap()).unwrap();
        let (_, objects) = newest.split_once(r#"BlockBasedTable "objects""#).unwrap();
        assert!(objects.contains("separate_key_value_in_data_block=true"));
        assert!(objects.contains("block_size=16384"), "the others stay");
    }

    #[test]
    fn a_flipped_byte_in_a_log_is_an_error_not_a_loss() {
        let directory = tempfile::tempdir().unwrap();
        {
            let index = open(directory.path());
            for number in 0..100u32 {
                let mut batch = Batch::new();
                batch.put(
                    Keyspace::Records,
                    number.to_be_bytes().to_vec(),
                    vec![9u8; 500],
                );
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
        let opened = RocksIndex::open(
            directory.path(),
            &SPACES,
            &RocksMemory::new(8 << 20, 4 << 20),
        );
        assert!(matches!(opened, Err(IndexError::Corrupt(_))));
    }
}
