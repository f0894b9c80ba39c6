//! Who reads a replica's state.
//!
//! A question goes on reading after the moment at which its replica was found to lead: it may scan, or wait for a thread.
//! What takes the state away or puts another in its place meanwhile waits until such readers are done; else they would
//! find a part of it, or nothing, and take that for the truth.
//!
//! A reader may also find that the drive gives back other bytes than it was given. Where the other voters can do without the
//! replica, it ends then, and the question is asked again of the one that leads in its place.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, Semaphore};

use super::log_store::GroupLog;
use crate::seams::{Batch, Cursor, Durability, Index, IndexError, IndexView, Keyspace};

/// The readers of a state.
pub(crate) struct Readers {
    state: Arc<dyn Index>,
    log: Arc<GroupLog>,
    reading: AtomicUsize,
    done: Notify,
    can_be_spared: AtomicBool,
}

impl Readers {
    /// `log` is that of the replica whose state it is.
    pub fn new(state: Arc<dyn Index>, log: Arc<GroupLog>) -> Arc<Self> {
        Arc::new(Self {
            state,
            log,
            reading: AtomicUsize::new(0),
            done: Notify::new(),
            can_be_spared: AtomicBool::new(false),
        })
    }

    /// The state, for the replica itself.
    pub fn state(&self) -> &Arc<dyn Index> {
        &self.state
    }

    /// The state, for one who reads it until what is given is dropped. Whether the replica may be read at all has to be
    /// looked at afterwards: who ends it does that before it waits for the readers.
    pub fn lend(self: &Arc<Self>) -> Arc<dyn Index> {
        self.reading.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Arc::new(Lent(self.clone()))
    }

    /// Completes when nobody reads. To be called when nobody new can find that the replica may be read.
    pub async fn gone(&self) {
        loop {
            let mut done = pin!(self.done.notified());
            done.as_mut().enable();
            fence(Ordering::SeqCst);
            if self.reading.load(Ordering::SeqCst) == 0 {
                return;
            }
            done.await;
        }
    }

    /// Says whether the other voters are a quorum that answers.
    pub fn spare(&self, can_be_spared: bool) {
        self.can_be_spared.store(can_be_spared, Ordering::Relaxed);
    }

    /// Takes note of what a reader met. Where others can answer in the replica's stead, damage is made an error of this
    /// drive alone; elsewhere what is damaged is not to be had, and the rest is.
    fn note(&self, error: IndexError) -> IndexError {
        let what = match &error {
            IndexError::Corrupt(what) => what,
            // What a drive says of sectors that it cannot read.
            IndexError::Io(what) if what.contains("Input/output error") => what,
            IndexError::Io(_) | IndexError::Full => return error,
        };
        if !self.can_be_spared.load(Ordering::Relaxed) {
            return error;
        }
        let reason = format!("its state is damaged: {what}");
        self.log.stop(&reason);
        IndexError::Io(reason)
    }

    fn watch<T>(&self, read: Result<T, IndexError>) -> Result<T, IndexError> {
        read.map_err(|error| self.note(error))
    }

    fn watch_cursor<'a>(
        &'a self,
        cursor: Result<Box<dyn Cursor + 'a>, IndexError>,
    ) -> Result<Box<dyn Cursor + 'a>, IndexError> {
        let (cursor, readers) = (self.watch(cursor)?, self);
        Ok(Box::new(WatchedCursor { cursor, readers }))
    }
}

/// A state that somebody reads.
struct Lent(Arc<Readers>);

impl Drop for Lent {
    fn drop(&mut self) {
        if self.0.reading.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.done.notify_waiters();
        }
    }
}

impl IndexView for Lent {
    fn get(&self, space: Keyspace, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        self.0.watch(self.0.state.get(space, key))
    }

    fn cursor<'a>(
        &'a self,
        space: Keyspace,
        from: &[u8],
        to: &[u8],
    ) -> Result<Box<dyn Cursor + 'a>, IndexError> {
        self.0.watch_cursor(self.0.state.cursor(space, from, to))
    }

    fn scan<'a>(
        &'a self,
        space: Keyspace,
        from: &[u8],
        to: &[u8],
    ) -> Result<Box<dyn Cursor + 'a>, IndexError> {
        self.0.watch_cursor(self.0.state.scan(space, from, to))
    }
}

impl Index for Lent {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), IndexError> {
        self.0.state.write(batch, durability)
    }

    fn sync(&self) -> Result<(), IndexError> {
        self.0.state.sync()
    }

    fn view(&self) -> Box<dyn IndexView + '_> {
        Box::new(WatchedView {
            view: self.0.state.view(),
            readers: &self.0,
        })
    }

    fn readers(&self) -> Option<Arc<Semaphore>> {
        self.0.state.readers()
    }

    fn flush_time(&self) -> Option<BoxFuture<'static, ()>> {
        self.0.state.flush_time()
    }
}

/// A state at one moment.
struct WatchedView<'a> {
    view: Box<dyn IndexView + 'a>,
    readers: &'a Readers,
}

impl IndexView for WatchedView<'_> {
    fn get(&self, space: Keyspace, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        self.readers.watch(self.view.get(space, key))
    }

    fn cursor<'a>(
        &'a self,
        space: Keyspace,
        from: &[u8],
        to: &[u8],
    ) -> Result<Box<dyn Cursor + 'a>, IndexError> {
        self.readers.watch_cursor(self.view.cursor(space, from, to))
    }

    fn scan<'a>(
        &'a self,
        space: Keyspace,
        from: &[u8],
        to: &[u8],
    ) -> Result<Box<dyn Cursor + 'a>, IndexError> {
        self.readers.watch_cursor(self.view.scan(space, from, to))
    }
}

struct WatchedCursor<'a> {
    cursor: Box<dyn Cursor + 'a>,
    readers: &'a Readers,
}

impl Cursor for WatchedCursor<'_> {
    fn seek(&mut self, key: &[u8]) -> Result<(), IndexError> {
        self.readers.watch(self.cursor.seek(key))
    }

    fn seek_back(&mut self, key: &[u8]) -> Result<(), IndexError> {
        self.readers.watch(self.cursor.seek_back(key))
    }

    fn next(&mut self) -> Result<(), IndexError> {
        self.readers.watch(self.cursor.next())
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.cursor.entry()
    }
}
