//! Ordered key-value storage: RocksDB in life, memory in tests.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use super::net::blocking;

/// A separate key space of an [`Index`] (a column family in RocksDB). Names and numbers are persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Keyspace {
    /// The newest version of each object.
    Objects = 0,
    /// Bodies of small objects; large values.
    Inline = 1,
    /// All other records of the groups' state machines.
    Records = 2,
    /// Where each shard of the drive is.
    Shards = 3,
    /// Raft votes and log entries.
    Log = 4,
}

impl Keyspace {
    /// The persisted name.
    pub fn name(self) -> &'static str {
        match self {
            Keyspace::Objects => "objects",
            Keyspace::Inline => "inline",
            Keyspace::Records => "records",
            Keyspace::Shards => "shards",
            Keyspace::Log => "log",
        }
    }
}

/// When a batch has to survive a loss of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// At some later time, in order; until then a crash of the machine (not of the process) may lose it
    /// together with everything written after it.
    Unsynced,
    /// When `write` returns.
    Synced,
}

/// One change.
#[derive(Clone, Debug)]
pub enum Op {
    Put {
        space: Keyspace,
        key: Bytes,
        value: Bytes,
    },
    Delete {
        space: Keyspace,
        key: Bytes,
    },
    /// Deletes `from..to`.
    DeleteRange {
        space: Keyspace,
        from: Bytes,
        to: Bytes,
    },
}

/// Changes that happen together or not at all, in order.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub ops: Vec<Op>,
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn put(&mut self, space: Keyspace, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.ops.push(Op::Put {
            space,
            key: key.into(),
            value: value.into(),
        });
    }

    pub fn delete(&mut self, space: Keyspace, key: impl Into<Bytes>) {
        self.ops.push(Op::Delete {
            space,
            key: key.into(),
        });
    }

    pub fn delete_range(&mut self, space: Keyspace, from: impl Into<Bytes>, to: impl Into<Bytes>) {
        self.ops.push(Op::DeleteRange {
            space,
            from: from.into(),
            to: to.into(),
        });
    }

    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// Why an index did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IndexError {
    /// The store below failed; the drive should be taken out of use.
    #[error("index I/O failed: {0}")]
    Io(String),
    /// The drive is full; nothing of the batch was written.
    #[error("index has no space left")]
    Full,
    /// A checksum did not hold: what was read is not what was written.
    #[error("index is corrupt: {0}")]
    Corrupt(String),
}

/// A read position in one key space, over a view that does not change. Starts before the first entry: call
/// `seek` first.
pub trait Cursor: Send {
    /// Moves to the first entry with a key of at least `key`.
    fn seek(&mut self, key: &[u8]) -> Result<(), IndexError>;
    /// Moves to the last entry with a key of at most `key`.
    fn seek_back(&mut self, key: &[u8]) -> Result<(), IndexError>;
    /// Moves to the next entry.
    fn next(&mut self) -> Result<(), IndexError>;
    /// The entry at hand, if the cursor is on one.
    fn entry(&self) -> Option<(&[u8], &[u8])>;
}

/// Reads.
pub trait IndexView: Send + Sync {
    fn get(&self, space: Keyspace, key: &[u8]) -> Result<Option<Bytes>, IndexError>;
    /// A cursor over the entries of `space` with keys in `from..to`, as they are now.
    fn cursor<'a>(
        &'a self,
        space: Keyspace,
        from: &[u8],
        to: &[u8],
    ) -> Result<Box<dyn Cursor + 'a>, IndexError>;
    /// The same for who goes over much in the background: what it passes is not kept in memory for others.
    fn scan<'a>(
        &'a self,
        space: Keyspace,
        from: &[u8],
        to: &[u8],
    ) -> Result<Box<dyn Cursor + 'a>, IndexError> {
        self.cursor(space, from, to)
    }
}

/// Ordered key-value storage with atomic batches.
pub trait Index: IndexView + 'static {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), IndexError>;
    /// Makes everything written so far durable.
    fn sync(&self) -> Result<(), IndexError>;
    /// The state at this moment, for several reads that must fit together.
    fn view(&self) -> Box<dyn IndexView + '_>;
    /// Leave to read much of it on a thread for blocking work; there is one for each core. (Each thread that reads blocks
    /// has the system's allocator keep memory for it: with any number of them, memory would know no bound.) `None`: none
    /// is needed.
    fn readers(&self) -> Option<Arc<Semaphore>> {
        None
    }
    /// How long a flush takes on the clock of a simulation, where no call may block: who wants something durable writes
    /// it unsynced, waits so long, and calls [`sync`](Index::sync). `None` in life: the calls themselves block for as
    /// long as it takes.
    fn flush_time(&self) -> Option<BoxFuture<'static, ()>> {
        None
    }
}

/// Makes everything written to `index` so far durable, without blocking the thread.
pub async fn flush(index: &Arc<dyn Index>) -> Result<(), IndexError> {
    if let Some(time) = index.flush_time() {
        time.await;
        return index.sync();
    }
    let index = index.clone();
    match blocking(move || index.sync()).await {
        Ok(synced) => synced,
        Err(error) => Err(IndexError::Io(error.to_string())),
    }
}
