//! A drive that is a directory of a file system.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use holdfast_placement::seams::{Clock, SystemClock};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use tokio::sync::oneshot;

use super::posix::ThreadEngine;
use super::pulse::{Pass, Pulse};
use super::uring::UringEngine;
use super::{Disk, DiskError, DiskFile, DiskSpace};
use crate::buffer::Buffer;

/// How a [`LocalDisk`] does its reads, writes and syncs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskKind {
    /// io_uring where it is permitted, else threads.
    Auto,
    Uring,
    Posix,
}

/// A read, write or sync under way; whoever holds it answers it.
pub(super) enum Request {
    Read {
        file: Arc<File>,
        buffer: Buffer,
        offset: u64,
        len: usize,
        pass: Pass,
        done: oneshot::Sender<Result<Buffer, DiskError>>,
    },
    Write {
        file: Arc<File>,
        buffer: Buffer,
        offset: u64,
        pass: Pass,
        done: oneshot::Sender<Result<(), DiskError>>,
    },
    Sync {
        file: Arc<File>,
        pass: Pass,
        done: oneshot::Sender<Result<(), DiskError>>,
    },
}

/// What carries requests out.
pub(super) trait Engine: Send + Sync + 'static {
    /// Takes the request; answers it some time later, also when the engine is dropped meanwhile.
    fn submit(&self, request: Request);

    /// Drops what waits, and all that comes: the drive does not answer.
    fn give_up(&self);
}

/// A directory of files.
pub struct LocalDisk {
    shared: Arc<Shared>,
    engine: Arc<dyn Engine>,
    pulse: Arc<Pulse>,
    kind: DiskKind,
}

struct Shared {
    directory: PathBuf,
    /// The directory as it was opened: the same path may lead elsewhere one day.
    handle: OwnedFd,
    device_and_inode: (u64, u64),
    identity: PathBuf,
    /// Cleared if the file system does not know `O_DIRECT`.
    direct: AtomicBool,
}

impl LocalDisk {
    /// Opens the directory, making it if it is missing. `identity` is a file whose absence means that the drive is
    /// gone; `name` names the drive in threads and log lines.
    ///
    /// # Errors
    /// If the directory or the identity file cannot be had, or io_uring is asked for and not permitted.
    pub fn open(
        directory: &Path,
        identity: &Path,
        name: &str,
        kind: DiskKind,
    ) -> Result<Self, DiskError> {
        std::fs::create_dir_all(directory).map_err(io_error)?;
        let handle = rustix::fs::open(
            directory,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(errno)?;
        let stat = rustix::fs::fstat(&handle).map_err(errno)?;
        let (engine, kind) = engine(name, kind)?;
        let disk = Self {
            shared: Arc::new(Shared {
                directory: directory.to_owned(),
                handle,
                device_and_inode: (stat.st_dev, stat.st_ino),
                identity: identity.to_owned(),
                direct: AtomicBool::new(true),
            }),
            engine,
            pulse: Arc::default(),
            kind,
        };
        disk.check_present()?;
        Ok(disk)
    }

    /// How reads and writes are done: [`DiskKind::Uring`] or [`DiskKind::Posix`].
    pub fn kind(&self) -> DiskKind {
        self.kind
    }

    fn file(&self, file: File) -> Arc<dyn DiskFile> {
        Arc::new(LocalFile {
            file: Arc::new(file),
            engine: self.engine.clone(),
            pulse: self.pulse.clone(),
        })
    }
}

fn engine(name: &str, kind: DiskKind) -> Result<(Arc<dyn Engine>, DiskKind), DiskError> {
    if kind != DiskKind::Posix {
        match UringEngine::start(name) {
            Ok(engine) => return Ok((Arc::new(engine), DiskKind::Uring)),
            Err(error) if kind == DiskKind::Uring => return Err(io_error(error)),
            Err(error) => {
                tracing::info!(drive = name, %error, "io_uring is not available; using threads");
            }
        }
    }
    let engine = ThreadEngine::start(name).map_err(io_error)?;
    Ok((Arc::new(engine), DiskKind::Posix))
}

impl Shared {
    fn open_file(&self, name: &str, flags: OFlags) -> Result<File, DiskError> {
        let flags = flags | OFlags::RDWR | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        if self.direct.load(Ordering::Relaxed) {
            match rustix::fs::openat(&self.handle, name, flags | OFlags::DIRECT, mode) {
                Ok(file) => return Ok(File::from(file)),
                // Some file systems make the file before they refuse.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => self.direct.store(false, Ordering::Relaxed),
                Err(error) => return Err(errno(error)),
            }
            tracing::info!(directory = %self.directory.display(), "no direct I/O here; using the page cache");
            let flags = flags.difference(OFlags::EXCL);
            let file = rustix::fs::openat(&self.handle, name, flags, mode);
            return file.map(File::from).map_err(errno);
        }
        let file = rustix::fs::openat(&self.handle, name, flags, mode);
        file.map(File::from).map_err(errno)
    }

    fn create(&self, name: &str) -> Result<File, DiskError> {
        let file = self.open_file(name, OFlags::CREATE | OFlags::EXCL)?;
        rustix::fs::fsync(&self.handle).map_err(errno)?;
        Ok(file)
    }

    fn delete(&self, name: &str) -> Result<(), DiskError> {
        match rustix::fs::unlinkat(&self.handle, name, rustix::fs::AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => rustix::fs::fsync(&self.handle).map_err(errno),
            Err(error) => Err(errno(error)),
        }
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.directory).map_err(io_error)? {
            let entry = entry.map_err(io_error)?;
            names.extend(entry.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }
}

/// Runs what may block for long on a thread where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> Result<T, DiskError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(DiskError::Io(error.to_string())),
    }
}

impl Disk for LocalDisk {
    fn create<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Arc<dyn DiskFile>, DiskError>> {
        async move {
            let (shared, name) = (self.shared.clone(), name.to_owned());
            let file = blocking(move || shared.create(&name)).await?;
            Ok(self.file(file))
        }
        .boxed()
    }

    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Arc<dyn DiskFile>, DiskError>> {
        async move {
            let (shared, name) = (self.shared.clone(), name.to_owned());
            let file = blocking(move || shared.open_file(&name, OFlags::empty())).await?;
            Ok(self.file(file))
        }
        .boxed()
    }

    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), DiskError>> {
        let (shared, name) = (self.shared.clone(), name.to_owned());
        blocking(move || shared.delete(&name)).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<String>, DiskError>> {
        let shared = self.shared.clone();
        blocking(move || shared.list()).boxed()
    }

    fn space(&self) -> Result<DiskSpace, DiskError> {
        let stat = rustix::fs::fstatvfs(&self.shared.handle).map_err(errno)?;
        Ok(DiskSpace {
            free: stat.f_bavail * stat.f_frsize,
            total: stat.f_blocks * stat.f_frsize,
        })
    }

    fn check_present(&self) -> Result<(), DiskError> {
        if self.pulse.look(SystemClock.monotonic()) {
            self.engine.give_up();
        }
        self.pulse.check()?;
        let shared = &self.shared;
        let gone = |path: &Path, why: &str| DiskError::Gone(format!("{}: {why}", path.display()));
        let path = &shared.directory;
        let stat = rustix::fs::stat(c_path(path)).map_err(|e| gone(path, &e.to_string()))?;
        if (stat.st_dev, stat.st_ino) != shared.device_and_inode {
            return Err(gone(path, "another directory is in its place"));
        }
        let path = &shared.identity;
        rustix::fs::stat(c_path(path)).map_err(|e| gone(path, &e.to_string()))?;
        Ok(())
    }
}

fn c_path(path: &Path) -> CString {
    // A path with a zero byte could not have been opened.
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

struct LocalFile {
    file: Arc<File>,
    engine: Arc<dyn Engine>,
    pulse: Arc<Pulse>,
}

impl LocalFile {
    fn submit<T: Send + 'static>(
        &self,
        request: impl FnOnce(Pass, oneshot::Sender<Result<T, DiskError>>) -> Request,
    ) -> impl Future<Output = Result<T, DiskError>> + Send + 'static {
        let (done, answer) = oneshot::channel();
        let pulse = self.pulse.clone();
        self.engine.submit(request(pulse.pass(), done));
        async move {
            let answer = async {
                let stopped = |_| Err(DiskError::Gone("its thread has stopped".to_owned()));
                answer.await.unwrap_or_else(stopped)
            };
            pulse.answer(answer).await
        }
    }
}

impl DiskFile for LocalFile {
    fn len(&self) -> Result<u64, DiskError> {
        Ok(self.file.metadata().map_err(io_error)?.len())
    }

    fn allocate(&self, len: u64) -> BoxFuture<'static, Result<(), DiskError>> {
        let file = self.file.clone();
        blocking(
            move || match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(len).map_err(io_error),
                result => result.map_err(errno),
            },
        )
        .boxed()
    }

    fn truncate(&self, len: u64) -> BoxFuture<'static, Result<(), DiskError>> {
        let file = self.file.clone();
        blocking(move || file.set_len(len).map_err(io_error)).boxed()
    }

    fn punch(&self, range: Range<u64>) -> BoxFuture<'static, Result<(), DiskError>> {
        let file = self.file.clone();
        blocking(move || {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, flags, range.start, range.end - range.start).map_err(errno)
        })
        .boxed()
    }

    fn write(&self, buffer: Buffer, offset: u64) -> BoxFuture<'static, Result<(), DiskError>> {
        let file = self.file.clone();
        self.submit(|pass, done| Request::Write {
            file,
            buffer,
            offset,
            pass,
            done,
        })
        .boxed()
    }

    fn read(
        &self,
        buffer: Buffer,
        offset: u64,
        len: usize,
    ) -> BoxFuture<'static, Result<Buffer, DiskError>> {
        let file = self.file.clone();
        self.submit(|pass, done| Request::Read {
            file,
            buffer,
            offset,
            len,
            pass,
            done,
        })
        .boxed()
    }

    fn sync(&self) -> BoxFuture<'static, Result<(), DiskError>> {
        let file = self.file.clone();
        let synced = self.submit(|pass, done| Request::Sync {
            file: file.clone(),
            pass,
            done,
        });
        async move {
            synced.await?;
            // A file that somebody deleted takes writes as before, and loses them.
            match rustix::fs::fstat(&file).map_err(errno)?.st_nlink {
                0 => Err(DiskError::Io("the file was deleted".to_owned())),
                _ => Ok(()),
            }
        }
        .boxed()
    }
}

pub(super) fn errno(error: Errno) -> DiskError {
    match error {
        Errno::NOSPC | Errno::DQUOT => DiskError::Full,
        Errno::NOENT => DiskError::NotFound,
        error => DiskError::Io(error.to_string()),
    }
}

pub(super) fn io_error(error: io::Error) -> DiskError {
    match Errno::from_io_error(&error) {
        Some(error) => errno(error),
        None => DiskError::Io(error.to_string()),
    }
}
