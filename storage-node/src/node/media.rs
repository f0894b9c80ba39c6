//! What drives are made of: directories in life, memory in simulations.

use std::path::Path;
use std::sync::Arc;

use holdfast_placement::ids::DriveId;
use holdfast_placement::seams::{Index, IndexError, Keyspace, RocksIndex, RocksMemory};

use super::identity::DRIVE_FILE;
use crate::shard_store::disk::{Disk, DiskKind, LocalDisk};

/// The parts of an open drive.
pub struct DriveParts {
    /// Of votes and log entries.
    pub log: Arc<dyn Index>,
    /// Of all other key spaces.
    pub state: Arc<dyn Index>,
    /// Of shards.
    pub disk: Arc<dyn Disk>,
    /// How it is read and written, for status.
    pub kind: &'static str,
}

/// Opens drives. Their small files of who they are lie in their directories, whatever the rest is made of.
pub trait Media: Send + Sync + 'static {
    /// Opens the drive of the directory `path`; the error says what is wrong with it.
    fn open(&self, path: &Path, drive: DriveId) -> Result<DriveParts, String>;
    /// Total and free bytes at `path`; zeros when that cannot be said.
    fn room(&self, path: &Path) -> (u64, u64);
}

/// Directories with RocksDB and files of extents in them.
pub struct LocalMedia {
    memory: RocksMemory,
}

impl LocalMedia {
    /// For a process that stays inside `memory_budget` bytes as a whole.
    pub fn new(memory_budget: u64) -> Self {
        Self {
            memory: RocksMemory::new(cache_bytes(memory_budget), (memory_budget / 32) as usize),
        }
    }
}

/// Where the budget is least, a sixteenth is for blocks of the indexes: the rest is needed. Beyond that a twelfth more: of
/// a gibibyte that is 128 MiB, which the records of a million small objects nearly fit into.
fn cache_bytes(memory_budget: u64) -> usize {
    const LEAST: u64 = 256 << 20;
    (memory_budget / 16 + memory_budget.saturating_sub(LEAST) / 12) as usize
}

impl Media for LocalMedia {
    fn open(&self, path: &Path, drive: DriveId) -> Result<DriveParts, String> {
        let index = |name: &str, spaces: &[Keyspace]| {
            RocksIndex::open(&path.join(name), spaces, &self.memory).map_err(|error| match error {
                IndexError::Corrupt(reason) => format!("its {name} is damaged: {reason}"),
                other => format!("its {name} cannot be opened: {other}"),
            })
        };
        let log = index("log", &[Keyspace::Log])?;
        let spaces = [
            Keyspace::Objects,
            Keyspace::Inline,
            Keyspace::Records,
            Keyspace::Shards,
        ];
        let state = index("state", &spaces)?;
        let (extents, identity) = (path.join("extents"), path.join(DRIVE_FILE));
        let disk = LocalDisk::open(&extents, &identity, &drive.to_string(), DiskKind::Auto)
            .map_err(|error| error.to_string())?;
        Ok(DriveParts {
            log: Arc::new(log),
            state: Arc::new(state),
            kind: match disk.kind() {
                DiskKind::Uring => "uring",
                DiskKind::Posix => "posix",
                DiskKind::Auto => "auto",
            },
            disk: Arc::new(disk),
        })
    }

    fn room(&self, path: &Path) -> (u64, u64) {
        match rustix::fs::statvfs(path) {
            Ok(stat) => (stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize),
            Err(_) => (0, 0),
        }
    }
}
