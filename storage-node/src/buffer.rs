//! Aligned buffers from a bounded pool: what bodies live in between socket and drive.
//!
//! A [`Buffer`] is memory aligned for direct I/O with room for a record header in front of its payload, so that a
//! shard is written without a copy. When it is [frozen](Buffer::freeze) it becomes [`Bytes`] that go to a socket
//! without a copy; the memory returns to the pool with the last clone.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast_placement::seams::Clock;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::shard_store::{BLOCK_LEN, RECORD_HEADER_LEN, block_checksums};

/// Alignment of buffers and the unit of accounting, bytes.
pub const BUFFER_ALIGN: usize = 4096;

/// Buffers of this length and more are asked for in huge pages: fewer page faults, and less for the drive to pin.
const HUGE_PAGE_LEN: usize = 2 << 20;

/// How large a pool is and how long it makes wait.
#[derive(Clone, Copy, Debug)]
pub struct PoolConfig {
    /// Memory that buffers may take together, bytes.
    pub budget_bytes: usize,
    /// How long [`BufferPool::acquire`] waits before it gives up.
    pub wait_max: Duration,
    /// Free memory kept for the next buffers, bytes; part of the budget.
    pub kept_bytes_max: usize,
}

impl PoolConfig {
    /// The defaults for a budget: wait 10 s, keep a quarter. What is kept and not needed goes at the next
    /// [`trim`](BufferPool::trim); a large buffer that is mapped anew costs a thousand page faults.
    pub fn with_budget(budget_bytes: usize) -> Self {
        Self {
            budget_bytes,
            wait_max: Duration::from_secs(10),
            kept_bytes_max: budget_bytes / 4,
        }
    }
}

/// Why there is no buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// The memory budget is used up and nothing came free in time; the client may try again (503 `SlowDown`).
    #[error("the memory budget is exhausted")]
    Exhausted,
}

/// Hands out [`Buffer`]s within a memory budget. Clones share the budget.
#[derive(Clone)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

struct Shared {
    config: PoolConfig,
    clock: Arc<dyn Clock>,
    /// One permit for each `BUFFER_ALIGN` bytes of the budget; tokio's semaphore is first come, first served.
    budget: Semaphore,
    in_use_bytes: AtomicUsize,
    high_water_bytes: AtomicUsize,
    free: Mutex<FreeList>,
}

/// Mappings to use again, by their length.
#[derive(Default)]
struct FreeList {
    classes: BTreeMap<usize, FreeClass>,
    bytes: usize,
}

#[derive(Default)]
struct FreeClass {
    mappings: Vec<Mapping>,
    /// The least that was free since the last trim: so many were not needed.
    idle: usize,
}

impl BufferPool {
    /// A pool that has nothing mapped yet.
    pub fn new(config: PoolConfig, clock: Arc<dyn Clock>) -> Self {
        Self {
            shared: Arc::new(Shared {
                budget: Semaphore::new(config.budget_bytes / BUFFER_ALIGN),
                config,
                clock,
                in_use_bytes: AtomicUsize::new(0),
                high_water_bytes: AtomicUsize::new(0),
                free: Mutex::default(),
            }),
        }
    }

    /// A buffer for a payload of up to `len` bytes. Waits its turn for memory, at most
    /// [`PoolConfig::wait_max`]; a buffer that the whole budget could not hold is refused at once.
    pub async fn acquire(&self, len: usize) -> Result<Buffer, PoolError> {
        if let Ok(buffer) = self.try_acquire(len) {
            return Ok(buffer);
        }
        let mapped_len = mapped_len(len);
        if mapped_len > self.shared.config.budget_bytes {
            return Err(PoolError::Exhausted);
        }
        let units = units(mapped_len).ok_or(PoolError::Exhausted)?;
        let late = self.shared.clock.sleep(self.shared.config.wait_max);
        tokio::select! {
            biased;
            permit = self.shared.budget.acquire_many(units) => {
                permit.map_err(|_| PoolError::Exhausted)?.forget();
                Ok(self.shared.take(len, mapped_len))
            }
            () = late => Err(PoolError::Exhausted),
        }
    }

    /// Buffers for payloads of up to `lens` bytes each, all at once and with a single place in the queue: who needs
    /// several must not hold some while it waits for the others. Else as [`acquire`](BufferPool::acquire).
    pub async fn acquire_all(&self, lens: &[usize]) -> Result<Vec<Buffer>, PoolError> {
        Ok(self.reserve(lens).await?.take_all(lens))
    }

    /// Buffers if there is memory for all of them now and nobody waits for it.
    pub fn try_acquire_all(&self, lens: &[usize]) -> Result<Vec<Buffer>, PoolError> {
        Ok(self.try_reserve(lens)?.take_all(lens))
    }

    /// Memory for payloads of up to `lens` bytes each, of which buffers can be made without waiting. Waits as
    /// [`acquire_all`](BufferPool::acquire_all).
    pub async fn reserve(&self, lens: &[usize]) -> Result<Reservation, PoolError> {
        if let Ok(reservation) = self.try_reserve(lens) {
            return Ok(reservation);
        }
        let total: usize = lens.iter().map(|len| mapped_len(*len)).sum();
        if total > self.shared.config.budget_bytes {
            return Err(PoolError::Exhausted);
        }
        let units = units(total).ok_or(PoolError::Exhausted)?;
        let late = self.shared.clock.sleep(self.shared.config.wait_max);
        tokio::select! {
            biased;
            permit = self.shared.budget.acquire_many(units) => {
                permit.map_err(|_| PoolError::Exhausted)?.forget();
                Ok(Reservation::of(self.shared.clone(), total))
            }
            () = late => Err(PoolError::Exhausted),
        }
    }

    /// Memory if there is enough now and nobody waits for it.
    pub fn try_reserve(&self, lens: &[usize]) -> Result<Reservation, PoolError> {
        let total: usize = lens.iter().map(|len| mapped_len(*len)).sum();
        let units = units(total).ok_or(PoolError::Exhausted)?;
        self.shared
            .budget
            .try_acquire_many(units)
            .map_err(|_| PoolError::Exhausted)?
            .forget();
        Ok(Reservation::of(self.shared.clone(), total))
    }

    /// A buffer if there is memory for it now and nobody waits for it.
    pub fn try_acquire(&self, len: usize) -> Result<Buffer, PoolError> {
        let mapped_len = mapped_len(len);
        let units = units(mapped_len).ok_or(PoolError::Exhausted)?;
        self.shared
            .budget
            .try_acquire_many(units)
            .map_err(|_| PoolError::Exhausted)?
            .forget();
        Ok(self.shared.take(len, mapped_len))
    }

    /// Gives back to the operating system the free memory that was not needed since the last call. Meant to be
    /// called every few seconds.
    pub fn trim(&self) {
        let mut unneeded = Vec::new();
        {
            let mut free = self.shared.free.lock();
            let mut freed_bytes = 0;
            free.classes.retain(|len, class| {
                for _ in 0..class.idle {
                    unneeded.extend(class.mappings.pop());
                    freed_bytes += len;
                }
                class.idle = class.mappings.len();
                !class.mappings.is_empty()
            });
            free.bytes -= freed_bytes;
        }
        drop(unneeded);
    }

    /// The memory that buffers may take together, bytes.
    pub fn budget_bytes(&self) -> usize {
        self.shared.config.budget_bytes
    }

    /// What buffers take now, bytes.
    pub fn in_use_bytes(&self) -> usize {
        self.shared.in_use_bytes.load(Ordering::Relaxed)
    }

    /// The most that buffers ever took at once, bytes.
    pub fn high_water_bytes(&self) -> usize {
        self.shared.high_water_bytes.load(Ordering::Relaxed)
    }

    /// Memory kept for the next buffers, bytes.
    pub fn free_bytes(&self) -> usize {
        self.shared.free.lock().bytes
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool")
            .field("budget_bytes", &self.budget_bytes())
            .field("in_use_bytes", &self.in_use_bytes())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// A buffer whose permits were taken.
    fn take(self: &Arc<Self>, capacity: usize, mapped_len: usize) -> Buffer {
        let in_use = self.in_use_bytes.fetch_add(mapped_len, Ordering::Relaxed) + mapped_len;
        self.high_water_bytes.fetch_max(in_use, Ordering::Relaxed);
        let mapping = self
            .reuse(mapped_len, in_use)
            .unwrap_or_else(|| Mapping::new(mapped_len));
        Buffer {
            mapping: Some(mapping),
            capacity,
            len: 0,
            pool: self.clone(),
            lender: None,
            sums: Vec::new(),
        }
    }

    /// A free mapping of this length; else makes room so that what is free and in use stays within the budget.
    fn reuse(&self, mapped_len: usize, in_use: usize) -> Option<Mapping> {
        let mut evicted = Vec::new();
        let mut free = self.free.lock();
        if let Some(mapping) = free.pop(mapped_len) {
            return Some(mapping);
        }
        while free.bytes > 0 && free.bytes + in_use > self.config.budget_bytes {
            let largest = free.classes.keys().next_back().copied()?;
            evicted.extend(free.pop(largest));
        }
        drop(free);
        drop(evicted);
        None
    }

    fn give_back(&self, mapping: Mapping, lender: Option<Arc<Reserved>>) {
        let len = mapping.len;
        let unkept = self.free.lock().push(mapping, self.config.kept_bytes_max);
        drop(unkept);
        self.in_use_bytes.fetch_sub(len, Ordering::Relaxed);
        match lender {
            Some(reserved) => {
                reserved.bytes.fetch_add(len, Ordering::AcqRel);
            }
            None => self.budget.add_permits(len / BUFFER_ALIGN),
        }
    }
}

impl FreeList {
    fn pop(&mut self, len: usize) -> Option<Mapping> {
        let class = self.classes.get_mut(&len)?;
        let mapping = class.mappings.pop()?;
        class.idle = class.idle.min(class.mappings.len());
        self.bytes -= len;
        if class.mappings.is_empty() {
            self.classes.remove(&len);
        }
        Some(mapping)
    }

    /// Keeps the mapping, or returns it if enough is kept already.
    fn push(&mut self, mapping: Mapping, kept_bytes_max: usize) -> Option<Mapping> {
        if self.bytes + mapping.len > kept_bytes_max {
            return Some(mapping);
        }
        self.bytes += mapping.len;
        self.classes
            .entry(mapping.len)
            .or_default()
            .mappings
            .push(mapping);
        None
    }
}

/// What a buffer with a payload of `len` bytes really takes: the payload rounded up to one of eight steps within
/// each power of two (so that buffers can be used again), and the room for the header.
fn mapped_len(len: usize) -> usize {
    let pages = len.div_ceil(BUFFER_ALIGN).max(1);
    let step = (pages.next_power_of_two() / 16).max(1);
    pages.next_multiple_of(step) * BUFFER_ALIGN + RECORD_HEADER_LEN
}

fn units(mapped_len: usize) -> Option<u32> {
    u32::try_from(mapped_len / BUFFER_ALIGN).ok()
}

/// A part of a pool's budget that was set aside; what is left of it goes back when it is dropped and all buffers
/// that were lent from it are.
#[derive(Clone)]
pub struct Reservation {
    reserved: Arc<Reserved>,
}

struct Reserved {
    pool: Arc<Shared>,
    bytes: AtomicUsize,
}

impl Reservation {
    fn of(pool: Arc<Shared>, bytes: usize) -> Self {
        Self {
            reserved: Arc::new(Reserved {
                pool,
                bytes: AtomicUsize::new(bytes),
            }),
        }
    }

    /// A buffer that takes its memory out of the reservation for good: it goes back to the pool.
    pub fn take(&self, len: usize) -> Option<Buffer> {
        let mapped_len = mapped_len(len);
        self.draw(mapped_len)?;
        Some(self.reserved.pool.take(len, mapped_len))
    }

    /// A buffer whose memory comes back to the reservation, to be lent again.
    pub fn lend(&self, len: usize) -> Option<Buffer> {
        let mut buffer = self.take(len)?;
        buffer.lender = Some(self.reserved.clone());
        Some(buffer)
    }

    fn take_all(self, lens: &[usize]) -> Vec<Buffer> {
        lens.iter().filter_map(|len| self.take(*len)).collect()
    }

    fn draw(&self, mapped_len: usize) -> Option<()> {
        self.reserved
            .bytes
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |bytes| {
                bytes.checked_sub(mapped_len)
            })
            .ok()
            .map(drop)
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("bytes", &self.reserved.bytes.load(Ordering::Relaxed))
            .finish()
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let bytes = *self.bytes.get_mut();
        self.pool.budget.add_permits(bytes / BUFFER_ALIGN);
    }
}

/// Anonymous memory of the process, zeroed when new and always initialised.
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is plain memory that belongs to its only owner.
#[allow(unsafe_code)]
unsafe impl Send for Mapping {}
// SAFETY: through `&Mapping` the memory can only be read.
#[allow(unsafe_code)]
unsafe impl Sync for Mapping {}

impl Mapping {
    #[allow(unsafe_code)]
    fn new(len: usize) -> Self {
        // SAFETY: a fresh private mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::PRIVATE,
            )
        };
        // As with the global allocator: without address space nothing sane is left to do.
        let start = start
            .ok()
            .and_then(|start| NonNull::new(start.cast::<u8>()))
            .expect("the operating system gives memory within the budget");
        if len >= HUGE_PAGE_LEN {
            // SAFETY: advice about a mapping that is ours changes nothing that can be seen.
            let _advised = unsafe {
                rustix::mm::madvise(
                    start.as_ptr().cast(),
                    len,
                    rustix::mm::Advice::LinuxHugepage,
                )
            };
        }
        Self { start, len }
    }

    #[allow(unsafe_code)]
    fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is `len` readable, initialised bytes until it is dropped.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    #[allow(unsafe_code)]
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Mapping {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length, and nothing refers to it any more.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Uniquely owned memory aligned to [`BUFFER_ALIGN`]: [`RECORD_HEADER_LEN`] bytes of room for a record header, then
/// a payload of up to `capacity` bytes. Goes back to its pool when dropped.
pub struct Buffer {
    /// Taken only by `drop`.
    mapping: Option<Mapping>,
    capacity: usize,
    len: usize,
    pool: Arc<Shared>,
    /// The reservation that the memory returns to, if not to the pool.
    lender: Option<Arc<Reserved>>,
    /// Checksums of the payload's first whole blocks, as far as they were computed.
    sums: Vec<u64>,
}

impl Buffer {
    /// The payload so far.
    pub fn payload(&self) -> &[u8] {
        &self.mapping().bytes()[RECORD_HEADER_LEN..RECORD_HEADER_LEN + self.len]
    }

    /// The payload so far, to change in place.
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.sums.clear();
        let end = RECORD_HEADER_LEN + self.len;
        &mut self.mapping_mut().bytes_mut()[RECORD_HEADER_LEN..end]
    }

    /// The part of the capacity behind the payload, to be filled and then made part of it by
    /// [`set_len`](Buffer::set_len). Holds arbitrary bytes of earlier users.
    pub fn spare_mut(&mut self) -> &mut [u8] {
        let range = RECORD_HEADER_LEN + self.len..RECORD_HEADER_LEN + self.capacity;
        &mut self.mapping_mut().bytes_mut()[range]
    }

    /// Length of the payload, bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Longest payload, bytes: as was asked of the pool.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes of capacity left.
    pub fn remaining(&self) -> usize {
        self.capacity - self.len
    }

    /// Makes the payload `len` bytes long. Bytes that were never written are arbitrary bytes of earlier users.
    ///
    /// # Panics
    /// If `len` is more than the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity, "a payload stays within its buffer");
        self.sums.truncate(len / BLOCK_LEN);
        self.len = len;
    }

    /// Appends `bytes` to the payload.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.spare_mut()[..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Computes the checksums of the blocks that have become whole since it was called last: cheap while the bytes are in
    /// the cache.
    pub fn sum_blocks(&mut self) {
        let (from, to) = (
            self.sums.len() * BLOCK_LEN,
            self.len / BLOCK_LEN * BLOCK_LEN,
        );
        let blocks = block_checksums(&self.payload()[from..to]);
        self.sums.extend(blocks);
    }

    /// The checksums of all blocks of the payload.
    pub fn block_checksums(&self) -> Box<[u64]> {
        let rest = block_checksums(&self.payload()[self.sums.len() * BLOCK_LEN..]);
        self.sums.iter().copied().chain(rest).collect()
    }

    /// Turns bytes `range` of the payload into [`Bytes`], which can be cloned and sliced; the memory returns to
    /// the pool with the last of them.
    ///
    /// # Panics
    /// If the range is not inside the payload.
    pub fn freeze(self, range: Range<usize>) -> Bytes {
        assert!(range.start <= range.end && range.end <= self.len);
        Bytes::from_owner(Frozen {
            buffer: self,
            range,
        })
    }

    /// Room for the header, payload, and what pads it to [`BUFFER_ALIGN`].
    pub(crate) fn record(&self) -> &[u8] {
        let end = RECORD_HEADER_LEN + self.len.next_multiple_of(BUFFER_ALIGN);
        &self.mapping().bytes()[..end]
    }

    /// As [`record`](Buffer::record), to change in place.
    pub(crate) fn record_mut(&mut self) -> &mut [u8] {
        self.sums.clear();
        let end = RECORD_HEADER_LEN + self.len.next_multiple_of(BUFFER_ALIGN);
        &mut self.mapping_mut().bytes_mut()[..end]
    }

    fn mapping(&self) -> &Mapping {
        self.mapping.as_ref().expect("taken only by drop")
    }

    fn mapping_mut(&mut self) -> &mut Mapping {
        self.mapping.as_mut().expect("taken only by drop")
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(mapping) = self.mapping.take() {
            self.pool.give_back(mapping, self.lender.take());
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("len", &self.len)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

struct Frozen {
    buffer: Buffer,
    range: Range<usize>,
}

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        &self.buffer.payload()[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use holdfast_placement::seams::{ManualClock, SystemClock};

    use super::{BUFFER_ALIGN, BufferPool, PoolConfig, PoolError, mapped_len};

    const MIB: usize = 1 << 20;

    fn pool(budget_bytes: usize) -> BufferPool {
        BufferPool::new(
            PoolConfig::with_budget(budget_bytes),
            std::sync::Arc::new(SystemClock),
        )
    }

    #[test]
    fn usual_lengths_take_no_more_than_a_header_besides_the_payload() {
        for len in [4096, 64 << 10, MIB, 2 * MIB, 4 * MIB, 16 * MIB] {
            assert_eq!(mapped_len(len), len + 4096);
        }
        for len in (0..8 * MIB).step_by(977) {
            assert!(mapped_len(len) >= len + 4096);
            assert!(mapped_len(len) <= len + len / 8 + 3 * 4096, "{len}");
        }
    }

    #[test]
    fn a_payload_is_aligned_and_keeps_what_is_written() {
        let pool = pool(MIB);
        let mut buffer = pool.try_acquire(10_000).unwrap();
        assert_eq!(buffer.payload().as_ptr() as usize % BUFFER_ALIGN, 0);
        buffer.extend_from_slice(b"hello ");
        buffer.extend_from_slice(b"world");
        assert_eq!((buffer.len(), buffer.remaining()), (11, 9_989));
        buffer.spare_mut()[0] = b'!';
        buffer.set_len(12);
        assert_eq!(buffer.record().len(), 2 * 4096);
        let bytes = buffer.freeze(6..12);
        assert_eq!(&bytes[..], b"world!");
        let slice = bytes.slice(1..3);
        drop(bytes);
        assert_eq!(&slice[..], b"or");
        assert!(pool.in_use_bytes() > 0);
        drop(slice);
        assert_eq!(pool.in_use_bytes(), 0);
        assert!(pool.high_water_bytes() > 0);
    }

    #[test]
    fn memory_is_used_again_and_given_back_when_idle() {
        let pool = pool(64 * MIB);
        let first = pool.try_acquire(MIB).unwrap();
        let address = first.payload().as_ptr();
        drop(first);
        assert_eq!(pool.try_acquire(MIB).unwrap().payload().as_ptr(), address);
        let many: Vec<_> = (0..40).map(|_| pool.try_acquire(MIB).unwrap()).collect();
        drop(many);
        // A quarter of the budget.
        assert!(pool.free_bytes() > 14 * MIB && pool.free_bytes() <= 16 * MIB);
        pool.trim();
        drop(pool.try_acquire(MIB));
        assert!(
            pool.free_bytes() > 0,
            "what came back since the last trim stays"
        );
        pool.trim();
        pool.trim();
        assert_eq!(pool.free_bytes(), 0);
    }

    #[test]
    fn free_memory_counts_to_the_budget() {
        let pool = pool(8 * MIB);
        drop(pool.try_acquire(6 * MIB).unwrap());
        let _four = pool.try_acquire(4 * MIB).unwrap();
        assert_eq!(pool.free_bytes(), 0);
        assert_eq!(pool.try_acquire(4 * MIB).unwrap_err(), PoolError::Exhausted);
    }

    #[tokio::test]
    async fn the_first_to_wait_is_the_first_served() {
        let pool = pool(4 * MIB + 8192);
        let held = pool.acquire(4 * MIB).await.unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        let mut large = pin!(pool.acquire(3 * MIB));
        let mut small = pin!(pool.acquire(2 * MIB));
        assert!(large.as_mut().poll(&mut cx).is_pending());
        assert!(small.as_mut().poll(&mut cx).is_pending());
        drop(held);
        assert!(small.as_mut().poll(&mut cx).is_pending(), "no overtaking");
        let Poll::Ready(Ok(large)) = large.as_mut().poll(&mut cx) else {
            panic!("the memory is free")
        };
        drop(large);
        assert!(matches!(small.as_mut().poll(&mut cx), Poll::Ready(Ok(_))));
    }

    #[tokio::test]
    async fn several_are_given_all_or_none() {
        let pool = pool(4 * MIB);
        let held = pool.try_acquire_all(&[MIB, MIB]).unwrap();
        assert_eq!(held.len(), 2);
        assert!(pool.try_acquire_all(&[MIB, MIB]).is_err());
        assert_eq!(
            pool.in_use_bytes(),
            2 * (MIB + 4096),
            "none is kept of a refusal"
        );
        let mut cx = Context::from_waker(Waker::noop());
        let mut two = pin!(pool.acquire_all(&[MIB, MIB]));
        assert!(two.as_mut().poll(&mut cx).is_pending());
        drop(held);
        assert!(matches!(two.as_mut().poll(&mut cx), Poll::Ready(Ok(both)) if both.len() == 2));
        assert_eq!(
            pool.acquire_all(&[3 * MIB, 3 * MIB]).await.unwrap_err(),
            PoolError::Exhausted
        );
    }

    #[test]
    fn what_is_lent_returns_to_its_reservation() {
        let pool = pool(4 * MIB);
        let reservation = pool.try_reserve(&[MIB, MIB]).unwrap();
        let (lent, taken) = (
            reservation.lend(MIB).unwrap(),
            reservation.take(MIB).unwrap(),
        );
        assert!(reservation.lend(MIB).is_none());
        drop(taken);
        assert!(
            reservation.lend(MIB).is_none(),
            "that went back to the pool"
        );
        let lent = lent.freeze(0..0);
        drop(lent);
        let lent = reservation.lend(MIB).unwrap();
        drop(reservation);
        assert!(pool.try_acquire(3 * MIB + 4096).is_err(), "still lent");
        drop(lent);
        assert!(pool.try_acquire(3 * MIB + 4096).is_ok());
    }

    #[tokio::test]
    async fn waiting_ends() {
        // A manual clock's sleep is over at once.
        let pool = BufferPool::new(
            PoolConfig::with_budget(MIB),
            std::sync::Arc::new(ManualClock::default()),
        );
        let _held = pool.acquire(900 << 10).await.unwrap();
        assert_eq!(
            pool.acquire(900 << 10).await.unwrap_err(),
            PoolError::Exhausted
        );
        assert_eq!(
            pool.acquire(2 * MIB).await.unwrap_err(),
            PoolError::Exhausted
        );
    }
}
