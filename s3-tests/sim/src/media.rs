//! Drives in memory that take their time, and lose what was not flushed when their machine loses power.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use holdfast_placement::ids::DriveId;
use holdfast_placement::seams::{
    Batch, Cursor, Durability, Index, IndexError, IndexView, Keyspace, MemoryIndex, SeededRng,
};
use holdfast_storage_node::buffer::Buffer;
use holdfast_storage_node::node::{DriveParts, Media};
use holdfast_storage_node::shard_store::disk::{Disk, DiskError, DiskFile, DiskSpace, MemoryDisk};
use parking_lot::Mutex;
use tokio::time::sleep;

/// Room of a drive, bytes.
const CAPACITY: u64 = 8 << 30;

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The process was killed: the drives have all that was written.
    Killed,
    /// The power went: of what was not flushed, the drives have what luck would have.
    PowerLost,
}

/// How long a drive takes.
struct Speed {
    rng: SeededRng,
    /// Added to every flush, microseconds.
    slow_us: AtomicU64,
}

impl Speed {
    fn flush(&self) -> Duration {
        // A good drive flushes in a fraction of a millisecond, and now and then takes its time.
        let usual = match self.rng.below(16) {
            0 => self.rng.below(12_000),
            _ => 200 + self.rng.below(1_500),
        };
        Duration::from_micros(usual + self.extra())
    }

    fn access(&self) -> Duration {
        Duration::from_micros(50 + self.rng.below(400) + self.extra() / 4)
    }

    fn extra(&self) -> u64 {
        match self.slow_us.load(Ordering::Relaxed) {
            0 => 0,
            slow => slow / 2 + self.rng.below(slow),
        }
    }
}

/// A drive. Outlives the lives of its node.
#[derive(Clone)]
pub struct SimDrive {
    log: Arc<MemoryIndex>,
    state: Arc<MemoryIndex>,
    disk: MemoryDisk,
    speed: Arc<Speed>,
}

impl SimDrive {
    pub fn new(seed: u64) -> Self {
        Self {
            log: Arc::default(),
            state: Arc::default(),
            disk: MemoryDisk::new(seed, CAPACITY),
            speed: Arc::new(Speed {
                rng: SeededRng::new(seed ^ 0xD15C),
                slow_us: AtomicU64::new(0),
            }),
        }
    }

    /// Flips a bit of these bytes where they lie; `false`: they are not there.
    pub fn spoil(&self, bytes: &[u8]) -> bool {
        let found = self.disk.find(bytes);
        if let Some((name, at)) = &found {
            let bit = self.speed.rng.below(8 * bytes.len() as u64);
            self.disk.flip_bit(name, at + bit / 8, (bit % 8) as u8);
        }
        found.is_some()
    }

    /// Has every flush take about so much longer.
    pub fn slow_down(&self, by: Duration) {
        let by = by.as_micros() as u64;
        self.speed.slow_us.store(by, Ordering::Relaxed);
    }

    /// What is left on the drive after its machine ended so.
    pub fn end(&self, end: End) {
        if end == End::Killed {
            return;
        }
        for index in [&self.log, &self.state] {
            let unsynced = index.unsynced() as u64;
            // Mostly nothing of it is left: that is what shows a flush that was forgotten.
            let kept = match self.speed.rng.below(3) {
                0 => self.speed.rng.below(unsynced + 1),
                _ => 0,
            };
            index.crash(kept as usize);
        }
        self.disk.crash();
    }
}

/// The drives of a node, by their directories.
pub struct SimMedia {
    pub drives: BTreeMap<PathBuf, SimDrive>,
    /// What the cluster calls them, once they were opened.
    pub ids: Mutex<BTreeMap<PathBuf, DriveId>>,
}

impl Media for SimMedia {
    fn open(&self, path: &Path, id: DriveId) -> Result<DriveParts, String> {
        let drive = self.drives.get(path).ok_or("there is no such drive")?;
        self.ids.lock().insert(path.to_owned(), id);
        let index = |index: &Arc<MemoryIndex>| {
            Arc::new(SlowIndex {
                index: index.clone(),
                speed: drive.speed.clone(),
            })
        };
        Ok(DriveParts {
            log: index(&drive.log),
            state: index(&drive.state),
            disk: Arc::new(SlowDisk {
                disk: drive.disk.clone(),
                speed: drive.speed.clone(),
            }),
            kind: "memory",
        })
    }

    fn room(&self, path: &Path) -> (u64, u64) {
        let space = self.drives.get(path).map(|drive| drive.disk.space());
        match space {
            Some(Ok(space)) => (space.total, space.free),
            _ => (0, 0),
        }
    }
}

struct SlowIndex {
    index: Arc<MemoryIndex>,
    speed: Arc<Speed>,
}

impl IndexView for SlowIndex {
    fn get(&self, space: Keyspace, key: &[u8]) -> Result<Option<bytes::Bytes>, IndexError> {
        self.index.get(space, key)
    }

    fn cursor<'a>(
        &'a self,
        space: Keyspace,
        from: &[u8],
        to: &[u8],
    ) -> Result<Box<dyn Cursor + 'a>, IndexError> {
        self.index.cursor(space, from, to)
    }
}

impl Index for SlowIndex {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), IndexError> {
        self.index.write(batch, durability)
    }

    fn sync(&self) -> Result<(), IndexError> {
        self.index.sync()
    }

    fn view(&self) -> Box<dyn IndexView + '_> {
        self.index.view()
    }

    fn flush_time(&self) -> Option<BoxFuture<'static, ()>> {
        Some(sleep(self.speed.flush()).boxed())
    }
}

struct SlowDisk {
    disk: MemoryDisk,
    speed: Arc<Speed>,
}

impl SlowDisk {
    fn slow(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(SlowFile {
            file,
            speed: self.speed.clone(),
            flipped: Arc::default(),
        })
    }
}

impl Disk for SlowDisk {
    fn create<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Arc<dyn DiskFile>, DiskError>> {
        async move {
            sleep(self.speed.flush()).await;
            Ok(self.slow(self.disk.create(name).await?))
        }
        .boxed()
    }

    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Arc<dyn DiskFile>, DiskError>> {
        async move { Ok(self.slow(self.disk.open(name).await?)) }.boxed()
    }

    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), DiskError>> {
        self.disk.delete(name)
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<String>, DiskError>> {
        self.disk.list()
    }

    fn space(&self) -> Result<DiskSpace, DiskError> {
        self.disk.space()
    }

    fn check_present(&self) -> Result<(), DiskError> {
        self.disk.check_present()
    }
}

struct SlowFile {
    file: Arc<dyn DiskFile>,
    speed: Arc<Speed>,
    /// Where a bit was flipped last: the next read there is right.
    flipped: Arc<Mutex<Option<u64>>>,
}

impl SlowFile {
    /// Now and then a bit is wrong on its way from the drive, never twice in a row: what is wrong twice is taken for lost.
    fn flips(&self, offset: u64) -> bool {
        let mut flipped = self.flipped.lock();
        let flips = flipped.take() != Some(offset) && self.speed.rng.below(200) == 0;
        *flipped = flips.then_some(offset);
        flips
    }
}

impl DiskFile for SlowFile {
    fn len(&self) -> Result<u64, DiskError> {
        self.file.len()
    }

    fn allocate(&self, len: u64) -> BoxFuture<'static, Result<(), DiskError>> {
        self.file.allocate(len)
    }

    fn truncate(&self, len: u64) -> BoxFuture<'static, Result<(), DiskError>> {
        self.file.truncate(len)
    }

    fn punch(&self, range: Range<u64>) -> BoxFuture<'static, Result<(), DiskError>> {
        self.file.punch(range)
    }

    fn write(&self, buffer: Buffer, offset: u64) -> BoxFuture<'static, Result<(), DiskError>> {
        let (done, time) = (self.file.write(buffer, offset), self.speed.access());
        async move {
            sleep(time).await;
            done.await
        }
        .boxed()
    }

    fn read(
        &self,
        buffer: Buffer,
        offset: u64,
        len: usize,
    ) -> BoxFuture<'static, Result<Buffer, DiskError>> {
        let (done, time) = (self.file.read(buffer, offset, len), self.speed.access());
        let bit = self
            .flips(offset)
            .then(|| self.speed.rng.below(8 * len.max(1) as u64));
        async move {
            sleep(time).await;
            let mut read = done.await?;
            if let Some(bit) = bit {
                read.payload_mut()[(bit / 8) as usize] ^= 1 << (bit % 8);
            }
            Ok(read)
        }
        .boxed()
    }

    fn sync(&self) -> BoxFuture<'static, Result<(), DiskError>> {
        let (done, time) = (self.file.sync(), self.speed.flush());
        async move {
            sleep(time).await;
            done.await
        }
        .boxed()
    }
}
