//! The seam to the drive: named files that are written by page, made durable on demand, and never trusted.
//!
//! - [`LocalDisk`]: a directory, by io_uring with `O_DIRECT`, or by a few threads where io_uring is not permitted.
//! - [`MemoryDisk`]: for tests; loses and tears what was not made durable, and fails on demand.

mod directory;
mod memory;
mod posix;
mod pulse;
mod uring;

use std::ops::Range;
use std::sync::Arc;

use futures_util::future::BoxFuture;

pub use directory::{DiskKind, LocalDisk};
pub use memory::{MemoryDisk, MemoryFaults};

use crate::buffer::Buffer;

/// Alignment of offsets and lengths of reads and writes, bytes.
pub const PAGE_LEN: usize = 4096;

/// Why a drive did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// There is no file of this name.
    #[error("no such file")]
    NotFound,
    /// No space is left.
    #[error("no space left on the drive")]
    Full,
    /// The drive, or its directory, is not there any more.
    #[error("the drive is gone: {0}")]
    Gone(String),
    /// Nothing else is known; of a write, any part may have happened.
    #[error("{0}")]
    Io(String),
}

/// Room on a drive, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    pub free: u64,
    pub total: u64,
}

/// A drive. What `create` and `delete` did survives a crash once they returned `Ok`. What was written survives once a
/// [`sync`](DiskFile::sync) that began after the write had returned is `Ok`. What else was done to a file's space may be
/// undone by a crash, but for what synced writes need.
pub trait Disk: Send + Sync + 'static {
    /// Makes an empty file; an error if there is one of this name.
    fn create<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Arc<dyn DiskFile>, DiskError>>;
    /// Opens a file.
    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Arc<dyn DiskFile>, DiskError>>;
    /// Deletes a file; who has it open can go on reading. A file that is not there is not an error.
    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), DiskError>>;
    /// The names of all files.
    fn list(&self) -> BoxFuture<'_, Result<Vec<String>, DiskError>>;
    /// Room as of now.
    fn space(&self) -> Result<DiskSpace, DiskError>;
    /// Whether the drive is still where it was; quick, so that it can be asked before each acknowledgement.
    fn check_present(&self) -> Result<(), DiskError>;
}

/// An open file. Operations begin when they are called, not when their future is first polled, and go on when it is
/// dropped.
pub trait DiskFile: Send + Sync + 'static {
    /// Length, allocated parts included, bytes.
    fn len(&self) -> Result<u64, DiskError>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.len()? == 0)
    }
    /// Makes the file `len` bytes long, with space for each of them; new bytes read as zeros.
    fn allocate(&self, len: u64) -> BoxFuture<'static, Result<(), DiskError>>;
    /// Cuts the file to `len` bytes.
    fn truncate(&self, len: u64) -> BoxFuture<'static, Result<(), DiskError>>;
    /// Gives the space of a range of whole pages back; it reads as zeros.
    fn punch(&self, range: Range<u64>) -> BoxFuture<'static, Result<(), DiskError>>;
    /// Writes the header room and the padded payload of `buffer` at `offset`.
    fn write(&self, buffer: Buffer, offset: u64) -> BoxFuture<'static, Result<(), DiskError>>;
    /// Reads `len` bytes (whole pages, within the buffer's capacity) at `offset`; they are the payload of the
    /// returned buffer. It is an error if the file ends before.
    fn read(
        &self,
        buffer: Buffer,
        offset: u64,
        len: usize,
    ) -> BoxFuture<'static, Result<Buffer, DiskError>>;
    /// Makes all writes that have returned durable.
    fn sync(&self) -> BoxFuture<'static, Result<(), DiskError>>;
}
