//! MD5 of bodies, several at once.
//!
//! S3's ETag is an MD5, which is computed one step after the other: a core gets through 0.6 GB of one stream in a second, and
//! that is most of what a large upload costs. The lanes of a vector register do it for 8 or 16 streams in the time of one,
//! so chunks of bodies under way are handed to a thread that hashes as many of them side by side as there are.

mod kernel;
mod state;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use holdfast_storage_node::buffer::Buffer;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use kernel::Kernel;
use state::BLOCK_LEN;

pub use state::Md5State;

/// Blocks that all lanes go through before those that came meanwhile may join: some 0.2 ms.
const BLOCKS_MAX: usize = 1024;

/// Streams go to the lanes from this length on: for less it is not worth to wake a thread.
const STREAM_LEN_MIN: u64 = 512 * 1024;

/// Streams besides one from which on it goes to the lanes: one or two are hashed as fast one by one, while their bytes are
/// in the cache.
const OTHERS_MIN: usize = 2;

/// A thread that computes MD5s of what is in buffers.
#[derive(Debug)]
pub struct Md5Lanes {
    queue: Arc<Queue>,
    others_min: usize,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<Waiting>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    closed: bool,
}

/// Buffers to hash one after the other.
#[derive(Debug)]
struct Job {
    state: Md5State,
    buffers: Vec<Option<Buffer>>,
    /// What comes next: a buffer, and a byte of its payload.
    index: usize,
    at: usize,
    done: oneshot::Sender<(Md5State, Vec<Option<Buffer>>)>,
}

impl Md5Lanes {
    /// Starts a thread, where the processor has vector instructions for it; `None` elsewhere, and if there is no thread to
    /// be had.
    pub fn start() -> Option<Arc<Self>> {
        Self::start_from(OTHERS_MIN)
    }

    /// As `start`, for streams that have so many others beside them.
    pub(crate) fn start_from(others_min: usize) -> Option<Arc<Self>> {
        let kernel = Kernel::detect()?;
        let queue = Arc::new(Queue::default());
        let worker = queue.clone();
        let started = std::thread::Builder::new()
            .name("md5".to_owned())
            .spawn(move || worker.work(kernel));
        match started {
            Ok(_) => Some(Arc::new(Self { queue, others_min })),
            Err(error) => {
                tracing::warn!(%error, "no thread for MD5s: they are computed one by one");
                None
            }
        }
    }

    /// Whether a stream of `len` bytes should go here, when there are `others` beside it.
    pub fn suits(&self, len: Option<u64>, others: usize) -> bool {
        len.is_some_and(|len| len >= STREAM_LEN_MIN) && others >= self.others_min
    }

    /// Adds the payloads of `buffers`, in order, to `state`; gives both back. `None` if the thread has died.
    pub async fn add(
        &self,
        state: Md5State,
        buffers: Vec<Option<Buffer>>,
    ) -> Option<(Md5State, Vec<Option<Buffer>>)> {
        let (done, outcome) = oneshot::channel();
        self.queue.state.lock().jobs.push_back(Job {
            state,
            buffers,
            index: 0,
            at: 0,
            done,
        });
        self.queue.arrived.notify_one();
        outcome.await.ok()
    }
}

impl Drop for Md5Lanes {
    fn drop(&mut self) {
        self.queue.state.lock().closed = true;
        self.queue.arrived.notify_one();
    }
}

impl Queue {
    fn work(&self, kernel: Kernel) {
        let lanes = kernel.lanes();
        let mut active: Vec<Job> = Vec::with_capacity(lanes);
        loop {
            let mut waiting = self.state.lock();
            while active.is_empty() && waiting.jobs.is_empty() {
                if waiting.closed {
                    return;
                }
                self.arrived.wait(&mut waiting);
            }
            let free = (lanes - active.len()).min(waiting.jobs.len());
            active.extend(waiting.jobs.drain(..free));
            drop(waiting);
            active = active.into_iter().filter_map(Job::advance).collect();
            compress(kernel, &mut active);
        }
    }
}

/// Hashes as many blocks of every job as the shortest has, within bounds. Each has at least one.
fn compress(kernel: Kernel, jobs: &mut [Job]) {
    let blocks = jobs.iter().map(|job| job.rest().len() / BLOCK_LEN).min();
    let blocks = blocks.unwrap_or(0).min(BLOCKS_MAX);
    let mut states: Vec<[u32; 4]> = jobs.iter().map(|job| job.state.words).collect();
    let data: Vec<&[u8]> = jobs.iter().map(Job::rest).collect();
    kernel.compress(&mut states, &data, blocks);
    for (job, words) in jobs.iter_mut().zip(states) {
        job.state.words = words;
        job.state.len += (blocks * BLOCK_LEN) as u64;
        job.at += blocks * BLOCK_LEN;
    }
}

impl Job {
    /// What is left of the buffer that it is at.
    fn rest(&self) -> &[u8] {
        match self.buffers.get(self.index) {
            Some(Some(buffer)) => &buffer.payload()[self.at..],
            _ => &[],
        }
    }

    /// Goes on to where there is a whole block; answers if there is none any more.
    fn advance(mut self) -> Option<Self> {
        while let Some(buffer) = self.buffers.get(self.index) {
            if let Some(buffer) = buffer {
                let rest = &buffer.payload()[self.at..];
                let aligned = self.state.complete_block(rest);
                self.at += rest.len() - aligned.len();
                if aligned.len() >= BLOCK_LEN {
                    return Some(self);
                }
                if !aligned.is_empty() {
                    self.state.keep_tail(aligned);
                }
            }
            self.index += 1;
            self.at = 0;
        }
        // Whoever asked may have stopped listening.
        let _ = self.done.send((self.state, self.buffers));
        None
    }
}
