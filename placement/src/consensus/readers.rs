//! Who reads a replica's state.
//!
//! A question goes on reading after the moment at which its replica was found to lead: it may scan, or wait for a thread.
//! What takes the state away or puts another in its place meanwhile waits until such readers are done; else they would
//! find a part of it, or nothing, and take that for the truth.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, Semaphore};

use crate::seams::{Batch, Cursor, Durability, Index, IndexError, IndexView, Keyspace};

/// The readers of a state.
pub(crate) struct Readers {
    state: Arc<dyn Index>,
    reading: AtomicUsize,
    done: Notify,
}

impl Readers {
    pub fn new(state: Arc<dyn Index>) -> Arc<Self> {
        Arc::new(Self {
            state,
            reading: AtomicUsize::new(0),
            done: Notify::new(),
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
        self.0.state.get(space, key)
    }

    fn cursor<'a>(
        &'a self,
        space: Keyspace,
        from: &[u8],
        to: &[u8],
    ) -> Result<Box<dyn Cursor + 'a>, IndexError> {
        self.0.state.cursor(space, from, to)
    }

    fn scan<'a>(
        &'a self,
        space: Keyspace,
        from: &[u8],
        to: &[u8],
    ) -> Result<Box<dyn Cursor + 'a>, IndexError> {
        self.0.state.scan(space, from, to)
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
        self.0.state.view()
    }

    fn readers(&self) -> Option<Arc<Semaphore>> {
        self.0.state.readers()
    }

    fn flush_time(&self) -> Option<BoxFuture<'static, ()>> {
        self.0.state.flush_time()
    }
}
