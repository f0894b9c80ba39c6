//! The drive under a directory: direct sequential transfer, and what a flush costs.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::super::histogram::Histogram;
use crate::units::{show_nanos, show_number};

const BLOCK_LEN: usize = 1 << 20;
const PAGE_LEN: usize = 4096;
/// The most that is written, in blocks.
const BLOCKS_MAX: u64 = 1024;
/// Transfers in flight.
const DEPTH: usize = 4;
const WRITE_TIME: Duration = Duration::from_millis(500);
const READ_TIME: Duration = Duration::from_millis(400);
const FLUSH_TIME: Duration = Duration::from_millis(400);
const FLUSHES_MAX: u64 = 2000;

/// What the drive does with O_DIRECT: 1 MiB transfers, four in flight; and 4 KiB writes, each flushed.
#[derive(Debug, Clone, Serialize)]
pub struct DriveLimits {
    pub dir: PathBuf,
    pub write_gb_per_s: f64,
    pub read_gb_per_s: f64,
    pub flush_p50_ns: u64,
    pub flush_p99_ns: u64,
    pub flushes: u64,
}

impl std::fmt::Display for DriveLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "direct write {} GB/s, read {} GB/s; 4 KiB write and fdatasync p50 {} p99 {} ({})",
            show_number(self.write_gb_per_s),
            show_number(self.read_gb_per_s),
            show_nanos(self.flush_p50_ns),
            show_nanos(self.flush_p99_ns),
            self.dir.display(),
        )
    }
}

/// A file that is removed when it is no longer needed, whatever happened.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // If it cannot be removed there is nothing better to do than to leave it.
        let _ = fs::remove_file(&self.0);
    }
}

pub fn measure(dir: &Path) -> io::Result<DriveLimits> {
    let scratch = Scratch(dir.join(format!(".holdfast-bench-limits-{}", std::process::id())));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .custom_flags(libc::O_DIRECT)
        .open(&scratch.0)?;
    let (blocks, write_gb_per_s) = transfer(WRITE_TIME, BLOCKS_MAX, |buffer, block| {
        file.write_all_at(buffer, block * BLOCK_LEN as u64)
    })?;
    let (_, read_gb_per_s) = transfer(READ_TIME, u64::MAX, |buffer, block| {
        file.read_exact_at(buffer, block % blocks * BLOCK_LEN as u64)
    })?;
    let flush = flushes(&file)?;
    Ok(DriveLimits {
        dir: dir.canonicalize()?,
        write_gb_per_s,
        read_gb_per_s,
        flush_p50_ns: flush.percentile(0.5),
        flush_p99_ns: flush.percentile(0.99),
        flushes: flush.count(),
    })
}

/// Lets `DEPTH` threads take block after block; returns how many there were, and GB/s.
fn transfer(
    time: Duration,
    blocks_max: u64,
    one: impl Fn(&mut [u8], u64) -> io::Result<()> + Sync,
) -> io::Result<(u64, f64)> {
    let next = AtomicU64::new(0);
    let began = Instant::now();
    let worker = || -> io::Result<u64> {
        let mut buffer = AlignedBuffer::new(BLOCK_LEN);
        let mut done = 0;
        while began.elapsed() < time {
            let block = next.fetch_add(1, Ordering::Relaxed);
            if block >= blocks_max {
                break;
            }
            one(buffer.bytes(), block)?;
            done += 1;
        }
        Ok(done)
    };
    let done = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..DEPTH).map(|_| scope.spawn(worker)).collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
            })
            .sum::<io::Result<u64>>()
    })?;
    let seconds = began.elapsed().as_secs_f64();
    Ok((done, done as f64 * BLOCK_LEN as f64 / seconds / 1e9))
}

/// Latencies of writes of one page at ascending places that are already allocated, each with fdatasync, in
/// nanoseconds.
fn flushes(file: &File) -> io::Result<Histogram> {
    let mut buffer = AlignedBuffer::new(PAGE_LEN);
    let mut latencies = Histogram::default();
    let pages = file.metadata()?.len() / PAGE_LEN as u64;
    let began = Instant::now();
    while began.elapsed() < FLUSH_TIME && latencies.count() < FLUSHES_MAX {
        let page = latencies.count() % pages.max(1);
        let start = Instant::now();
        file.write_all_at(buffer.bytes(), page * PAGE_LEN as u64)?;
        file.sync_data()?;
        latencies.record(start.elapsed().as_nanos() as u64);
    }
    Ok(latencies)
}

/// Memory that begins at a multiple of `PAGE_LEN`, as O_DIRECT wants it, and does not compress.
struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    fn new(len: usize) -> Self {
        let memory: Vec<u8> = (0..len + PAGE_LEN)
            .map(|i| (i.wrapping_mul(0x9E37_79B1) >> 13) as u8)
            .collect();
        let start = memory.as_ptr().align_offset(PAGE_LEN);
        Self { memory, start, len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}
