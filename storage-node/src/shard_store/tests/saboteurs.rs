//! Planted bugs: each is caught by the sequences, or they prove nothing.

use std::ops::Range;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use holdfast_placement::seams::{
    Batch, Cursor, Durability, Index, IndexError, IndexView, Keyspace, MemoryIndex, Op,
};

use super::model::operations;
use super::sequences::failure;
use super::world::Seams;
use crate::buffer::Buffer;
use crate::shard_store::disk::{Disk, DiskError, DiskFile, DiskSpace, MemoryDisk};
use crate::shard_store::index_entry::{ExtentEntry, extent_range, tombstone_range};

/// Sequences within which each bug has to show.
const SEQUENCES: u64 = 1_500;

fn caught(seams: &dyn Seams) -> Option<(u64, String)> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found =
        (0..SEQUENCES).find_map(|seed| Some((seed, failure(seed, &operations(seed), seams)?)));
    std::panic::set_hook(hook);
    found
}

#[test]
fn planted_bugs_are_caught() {
    let bugs: [(&str, &dyn Seams); 6] = [
        ("acknowledges before the flush", &NoSync),
        (
            "acknowledges deletes before they are durable",
            &Altered(no_sync),
        ),
        ("forgets tombstones", &Altered(no_tombstones)),
        (
            "moves high-water marks past what is in flight",
            &Altered(hasty_marks),
        ),
        ("never moves high-water marks", &Altered(no_marks)),
        ("keeps account of nothing", &Altered(no_accounts)),
    ];
    for (bug, seams) in bugs {
        match caught(seams) {
            Some((seed, why)) => println!("{bug}: caught by seed {seed}: {why}"),
            None => panic!("not caught: {bug}"),
        }
    }
}

/// A drive that never makes anything durable by itself.
pub struct NoSync;

impl Seams for NoSync {
    fn disk(&self, disk: MemoryDisk) -> Arc<dyn Disk> {
        Arc::new(LyingDisk(disk))
    }
}

struct LyingDisk(MemoryDisk);

struct LyingFile(Arc<dyn DiskFile>);

type Opened<'a> = BoxFuture<'a, Result<Arc<dyn DiskFile>, DiskError>>;

fn lying(file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
    Arc::new(LyingFile(file))
}

impl Disk for LyingDisk {
    fn create<'a>(&'a self, name: &'a str) -> Opened<'a> {
        async move { Ok(lying(self.0.create(name).await?)) }.boxed()
    }

    fn open<'a>(&'a self, name: &'a str) -> Opened<'a> {
        async move { Ok(lying(self.0.open(name).await?)) }.boxed()
    }

    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), DiskError>> {
        self.0.delete(name)
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<String>, DiskError>> {
        self.0.list()
    }

    fn space(&self) -> Result<DiskSpace, DiskError> {
        self.0.space()
    }

    fn check_present(&self) -> Result<(), DiskError> {
        self.0.check_present()
    }
}

impl DiskFile for LyingFile {
    fn len(&self) -> Result<u64, DiskError> {
        self.0.len()
    }

    fn allocate(&self, len: u64) -> BoxFuture<'static, Result<(), DiskError>> {
        self.0.allocate(len)
    }

    fn truncate(&self, len: u64) -> BoxFuture<'static, Result<(), DiskError>> {
        self.0.truncate(len)
    }

    fn punch(&self, range: Range<u64>) -> BoxFuture<'static, Result<(), DiskError>> {
        self.0.punch(range)
    }

    fn write(&self, buffer: Buffer, offset: u64) -> BoxFuture<'static, Result<(), DiskError>> {
        self.0.write(buffer, offset)
    }

    fn read(
        &self,
        buffer: Buffer,
        offset: u64,
        len: usize,
    ) -> BoxFuture<'static, Result<Buffer, DiskError>> {
        self.0.read(buffer, offset, len)
    }

    fn sync(&self) -> BoxFuture<'static, Result<(), DiskError>> {
        ready(Ok(())).boxed()
    }
}

/// An index that changes what the store tells it.
struct Altered(fn(&mut Batch) -> Sync);

#[derive(PartialEq, Eq)]
enum Sync {
    Honest,
    Lying,
}

impl Seams for Altered {
    fn index(&self, index: Arc<MemoryIndex>) -> Arc<dyn Index> {
        Arc::new(AlteredIndex {
            index,
            alter: self.0,
        })
    }
}

struct AlteredIndex {
    index: Arc<MemoryIndex>,
    alter: fn(&mut Batch) -> Sync,
}

impl IndexView for AlteredIndex {
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

impl Index for AlteredIndex {
    fn write(&self, mut batch: Batch, durability: Durability) -> Result<(), IndexError> {
        (self.alter)(&mut batch);
        self.index.write(batch, durability)
    }

    fn sync(&self) -> Result<(), IndexError> {
        match (self.alter)(&mut Batch::new()) {
            Sync::Honest => self.index.sync(),
            Sync::Lying => Ok(()),
        }
    }

    fn view(&self) -> Box<dyn IndexView + '_> {
        self.index.view()
    }
}

fn no_sync(_: &mut Batch) -> Sync {
    Sync::Lying
}

fn no_tombstones(batch: &mut Batch) -> Sync {
    let kind = tombstone_range().0[0];
    batch
        .ops
        .retain(|op| !matches!(op, Op::Put { key, .. } if key[0] == kind));
    Sync::Honest
}

fn alter_extents(batch: &mut Batch, alter: fn(&mut ExtentEntry)) -> Sync {
    let kind = extent_range().0[0];
    for op in &mut batch.ops {
        if let Op::Put { key, value, .. } = op
            && key[0] == kind
            && let Some(mut entry) = ExtentEntry::decode(value)
        {
            alter(&mut entry);
            *value = entry.encode();
        }
    }
    Sync::Honest
}

fn hasty_marks(batch: &mut Batch) -> Sync {
    alter_extents(batch, |entry| entry.high_water += 128 << 10)
}

fn no_marks(batch: &mut Batch) -> Sync {
    alter_extents(batch, |entry| {
        entry.phase = crate::shard_store::index_entry::Phase::Open;
        entry.high_water = 4096;
    })
}

fn no_accounts(batch: &mut Batch) -> Sync {
    alter_extents(batch, |entry| entry.live_bytes = 0)
}
