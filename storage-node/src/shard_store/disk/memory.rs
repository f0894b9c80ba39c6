//! A drive in memory that loses power, tears writes, goes bad and fills up, all from a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use holdfast_placement::seams::SeededRng;
use parking_lot::Mutex;

use super::{Disk, DiskError, DiskFile, DiskSpace};
use crate::buffer::Buffer;

/// What is written whole or not at all, bytes.
const SECTOR_LEN: usize = 512;

/// Chances of faults, in 1000.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryFaults {
    /// A write fails; any of its sectors may have been written.
    pub fail_write: u64,
    /// A read fails.
    pub fail_read: u64,
    /// A read returns a flipped bit, once.
    pub flip_read: u64,
    /// A sync fails; some of what it was to make durable never will be.
    pub fail_sync: u64,
}

/// A [`Disk`] for tests. Clones are the same drive.
#[derive(Clone)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    files: BTreeMap<String, Arc<Mutex<FileState>>>,
    capacity_bytes: u64,
    present: bool,
    shared: Arc<Shared>,
}

/// What open files need of their drive.
struct Shared {
    rng: SeededRng,
    faults: Mutex<MemoryFaults>,
    gone: Mutex<bool>,
    used_bytes: Mutex<u64>,
    capacity_bytes: Mutex<u64>,
}

#[derive(Default)]
struct FileState {
    /// What a read returns.
    now: Vec<u8>,
    /// What is left after a crash, before luck.
    durable: Vec<u8>,
    pending: Vec<Pending>,
    next_write: u64,
    bad_sectors: BTreeSet<u64>,
}

struct Pending {
    number: u64,
    offset: usize,
    bytes: Vec<u8>,
    /// The writer has been told: the next sync covers it.
    returned: bool,
}

impl MemoryDisk {
    /// An empty drive.
    pub fn new(seed: u64, capacity_bytes: u64) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                files: BTreeMap::new(),
                capacity_bytes,
                present: true,
                shared: Arc::new(Shared {
                    rng: SeededRng::new(seed),
                    faults: Mutex::default(),
                    gone: Mutex::new(false),
                    used_bytes: Mutex::new(0),
                    capacity_bytes: Mutex::new(capacity_bytes),
                }),
            })),
        }
    }

    /// From now on faults happen with these chances.
    pub fn set_faults(&self, faults: MemoryFaults) {
        *self.state.lock().shared.faults.lock() = faults;
    }

    /// From now on the drive has this much room in all.
    pub fn set_capacity(&self, capacity_bytes: u64) {
        let mut state = self.state.lock();
        state.capacity_bytes = capacity_bytes;
        *state.shared.capacity_bytes.lock() = capacity_bytes;
    }

    /// Takes the drive away.
    pub fn remove(&self) {
        let mut state = self.state.lock();
        state.present = false;
        *state.shared.gone.lock() = true;
    }

    /// Loses power: of each write that no sync covered, everything, nothing or any of its sectors is left.
    pub fn crash(&self) {
        let state = self.state.lock();
        for file in state.files.values() {
            file.lock().crash(&state.shared.rng);
        }
    }

    /// The process ended, and the drive goes on: what was on its way to it has come, and the next sync makes it durable.
    pub fn outlive(&self) {
        let state = self.state.lock();
        for file in state.files.values() {
            for pending in &mut file.lock().pending {
                pending.returned = true;
            }
        }
    }

    /// The file that these bytes lie in, and where.
    pub fn find(&self, bytes: &[u8]) -> Option<(String, u64)> {
        let state = self.state.lock();
        state.files.iter().find_map(|(name, file)| {
            let file = file.lock();
            let mut places = file.now.windows(bytes.len().max(1));
            let at = places.position(|place| place == bytes)?;
            Some((name.clone(), at as u64))
        })
    }

    /// Flips a bit of the file where it lies.
    pub fn flip_bit(&self, name: &str, offset: u64, bit: u8) {
        let state = self.state.lock();
        if let Some(file) = state.files.get(name) {
            let mut file = file.lock();
            let file = &mut *file;
            for bytes in [&mut file.now, &mut file.durable] {
                if let Some(byte) = bytes.get_mut(offset as usize) {
                    *byte ^= 1 << (bit % 8);
                }
            }
            for pending in &mut file.pending {
                let at = (offset as usize).checked_sub(pending.offset);
                if let Some(byte) = at.and_then(|at| pending.bytes.get_mut(at)) {
                    *byte ^= 1 << (bit % 8);
                }
            }
        }
    }

    /// Makes the sector at `offset` unreadable until it is written.
    pub fn break_sector(&self, name: &str, offset: u64) {
        let state = self.state.lock();
        if let Some(file) = state.files.get(name) {
            let sector = offset / SECTOR_LEN as u64;
            file.lock().bad_sectors.insert(sector);
        }
    }

    fn open_file(&self, file: Arc<Mutex<FileState>>) -> Arc<dyn DiskFile> {
        Arc::new(MemoryFile {
            file,
            shared: self.state.lock().shared.clone(),
        })
    }
}

impl FileState {
    fn crash(&mut self, rng: &SeededRng) {
        let (now_len, durable_len) = (self.now.len(), self.durable.len());
        debug_assert_eq!(now_len, durable_len);
        for pending in std::mem::take(&mut self.pending) {
            match rng.below(4) {
                0 => {}
                1 => overlay(&mut self.durable, pending.offset, &pending.bytes),
                _ => {
                    let kept = rng.below(5);
                    for (number, sector) in pending.bytes.chunks(SECTOR_LEN).enumerate() {
                        if rng.below(4) < kept {
                            let offset = pending.offset + number * SECTOR_LEN;
                            overlay(&mut self.durable, offset, sector);
                        }
                    }
                }
            }
        }
        self.now.clone_from(&self.durable);
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> u64 {
        overlay(&mut self.now, offset as usize, bytes);
        let first = offset / SECTOR_LEN as u64;
        let end = (offset + bytes.len() as u64).div_ceil(SECTOR_LEN as u64);
        self.bad_sectors
            .retain(|sector| !(first..end).contains(sector));
        self.next_write += 1;
        self.pending.push(Pending {
            number: self.next_write,
            offset: offset as usize,
            bytes: bytes.to_vec(),
            returned: false,
        });
        self.next_write
    }

    fn read(&self, offset: u64, buffer: &mut Buffer, len: usize) -> Result<(), DiskError> {
        let sectors = offset / SECTOR_LEN as u64..(offset + len as u64).div_ceil(SECTOR_LEN as u64);
        if self.bad_sectors.range(sectors).next().is_some() {
            return Err(DiskError::Io("injected: bad sector".to_owned()));
        }
        let start = offset as usize;
        let Some(bytes) = self.now.get(start..start + len) else {
            return Err(DiskError::Io("the file ends too early".to_owned()));
        };
        buffer.set_len(len);
        buffer.payload_mut().copy_from_slice(bytes);
        Ok(())
    }

    fn resize(&mut self, len: u64) {
        self.now.resize(len as usize, 0);
        self.durable.resize(len as usize, 0);
    }
}

/// Writes what fits.
fn overlay(bytes: &mut [u8], offset: usize, new: &[u8]) {
    let end = bytes.len().min(offset + new.len());
    if offset < end {
        bytes[offset..end].copy_from_slice(&new[..end - offset]);
    }
}

impl Shared {
    fn strikes(&self, chance: impl Fn(&MemoryFaults) -> u64) -> bool {
        let chance = chance(&self.faults.lock());
        chance > 0 && self.rng.below(1000) < chance
    }

    /// Lets other tasks go first, as often as the seed says.
    fn delay(self: &Arc<Self>) -> impl Future<Output = ()> + Send + 'static {
        let turns = match self.rng.below(8) {
            0 => self.rng.below(60),
            _ => self.rng.below(6),
        };
        async move {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        }
    }

    fn check(&self) -> Result<(), DiskError> {
        match *self.gone.lock() {
            true => Err(DiskError::Io("the drive was taken away".to_owned())),
            false => Ok(()),
        }
    }

    fn free(&self) -> u64 {
        self.capacity_bytes
            .lock()
            .saturating_sub(*self.used_bytes.lock())
    }
}

impl Disk for MemoryDisk {
    fn create<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Arc<dyn DiskFile>, DiskError>> {
        let mut state = self.state.lock();
        let result = state.shared.check().and_then(|()| {
            if state.files.contains_key(name) {
                return Err(DiskError::Io("the file exists".to_owned()));
            }
            let file = Arc::new(Mutex::new(FileState::default()));
            state.files.insert(name.to_owned(), file.clone());
            Ok(file)
        });
        drop(state);
        ready(result.map(|file| self.open_file(file))).boxed()
    }

    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Arc<dyn DiskFile>, DiskError>> {
        let state = self.state.lock();
        let file = state.files.get(name).cloned();
        let result = state
            .shared
            .check()
            .and_then(|()| file.ok_or(DiskError::NotFound));
        drop(state);
        ready(result.map(|file| self.open_file(file))).boxed()
    }

    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), DiskError>> {
        let mut state = self.state.lock();
        let result = state.shared.check();
        if result.is_ok()
            && let Some(file) = state.files.remove(name)
        {
            *state.shared.used_bytes.lock() -= file.lock().now.len() as u64;
        }
        ready(result).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<String>, DiskError>> {
        let state = self.state.lock();
        let names = state.files.keys().cloned().collect();
        ready(state.shared.check().map(|()| names)).boxed()
    }

    fn space(&self) -> Result<DiskSpace, DiskError> {
        let state = self.state.lock();
        state.shared.check()?;
        Ok(DiskSpace {
            free: state.shared.free(),
            total: state.capacity_bytes,
        })
    }

    fn check_present(&self) -> Result<(), DiskError> {
        match self.state.lock().present {
            true => Ok(()),
            false => Err(DiskError::Gone("taken away".to_owned())),
        }
    }
}

struct MemoryFile {
    file: Arc<Mutex<FileState>>,
    shared: Arc<Shared>,
}

impl DiskFile for MemoryFile {
    fn len(&self) -> Result<u64, DiskError> {
        self.shared.check()?;
        Ok(self.file.lock().now.len() as u64)
    }

    fn allocate(&self, len: u64) -> BoxFuture<'static, Result<(), DiskError>> {
        let mut file = self.file.lock();
        let more = len.saturating_sub(file.now.len() as u64);
        let result = self.shared.check().and_then(|()| {
            if more > self.shared.free() {
                return Err(DiskError::Full);
            }
            *self.shared.used_bytes.lock() += more;
            if more > 0 {
                file.resize(len);
            }
            Ok(())
        });
        ready(result).boxed()
    }

    fn truncate(&self, len: u64) -> BoxFuture<'static, Result<(), DiskError>> {
        let mut file = self.file.lock();
        let result = self.shared.check();
        if result.is_ok() {
            let less = (file.now.len() as u64).saturating_sub(len);
            *self.shared.used_bytes.lock() -= less;
            file.resize(len);
        }
        ready(result).boxed()
    }

    fn punch(&self, range: Range<u64>) -> BoxFuture<'static, Result<(), DiskError>> {
        let mut file = self.file.lock();
        let file = &mut *file;
        let result = self.shared.check();
        if result.is_ok() {
            let zeros = vec![0; (range.end - range.start) as usize];
            overlay(&mut file.now, range.start as usize, &zeros);
            overlay(&mut file.durable, range.start as usize, &zeros);
        }
        ready(result).boxed()
    }

    fn write(&self, buffer: Buffer, offset: u64) -> BoxFuture<'static, Result<(), DiskError>> {
        if let Err(error) = self.shared.check() {
            return ready(Err(error)).boxed();
        }
        let failed = self.shared.strikes(|faults| faults.fail_write);
        let number = {
            let mut file = self.file.lock();
            let record = buffer.record();
            if !failed {
                file.write(offset, record)
            } else {
                for (number, sector) in record.chunks(SECTOR_LEN).enumerate() {
                    if self.shared.rng.below(2) == 0 {
                        file.write(offset + (number * SECTOR_LEN) as u64, sector);
                    }
                }
                0
            }
        };
        let (file, delay) = (self.file.clone(), self.shared.delay());
        async move {
            delay.await;
            drop(buffer);
            if failed {
                return Err(DiskError::Io("injected: write".to_owned()));
            }
            for pending in &mut file.lock().pending {
                pending.returned |= pending.number == number;
            }
            Ok(())
        }
        .boxed()
    }

    fn read(
        &self,
        mut buffer: Buffer,
        offset: u64,
        len: usize,
    ) -> BoxFuture<'static, Result<Buffer, DiskError>> {
        let fail = |text: &str| ready(Err(DiskError::Io(text.to_owned()))).boxed();
        if let Err(error) = self.shared.check() {
            return ready(Err(error)).boxed();
        }
        if self.shared.strikes(|faults| faults.fail_read) {
            return fail("injected: read");
        }
        let flipped = match len > 0 && self.shared.strikes(|faults| faults.flip_read) {
            true => Some(self.shared.rng.below(len as u64 * 8)),
            false => None,
        };
        let (file, delay) = (self.file.clone(), self.shared.delay());
        async move {
            // What is read is what is there in the end: others may write, punch or delete meanwhile.
            delay.await;
            file.lock().read(offset, &mut buffer, len)?;
            if let Some(bit) = flipped {
                buffer.payload_mut()[(bit / 8) as usize] ^= 1 << (bit % 8);
            }
            Ok(buffer)
        }
        .boxed()
    }

    fn sync(&self) -> BoxFuture<'static, Result<(), DiskError>> {
        if let Err(error) = self.shared.check() {
            return ready(Err(error)).boxed();
        }
        let covered: BTreeSet<u64> = {
            let file = self.file.lock();
            let returned = file.pending.iter().filter(|pending| pending.returned);
            returned.map(|pending| pending.number).collect()
        };
        let failed = self.shared.strikes(|faults| faults.fail_sync);
        let (file, shared, delay) = (self.file.clone(), self.shared.clone(), self.shared.delay());
        async move {
            delay.await;
            let mut file = file.lock();
            for pending in std::mem::take(&mut file.pending) {
                if !covered.contains(&pending.number) {
                    file.pending.push(pending);
                } else if !failed || shared.rng.below(2) == 0 {
                    overlay(&mut file.durable, pending.offset, &pending.bytes);
                }
            }
            match failed {
                true => Err(DiskError::Io("injected: sync".to_owned())),
                false => Ok(()),
            }
        }
        .boxed()
    }
}
