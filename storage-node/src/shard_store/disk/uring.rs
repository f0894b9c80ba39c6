//! Reads, writes and syncs by io_uring: one ring and one thread a drive.
//!
//! Tasks put requests into a queue; the thread moves what it finds there into the ring as one batch, waits for
//! completions, and answers. While it waits it has a read of an eventfd in the ring, which wakes it for new requests:
//! an idle drive costs nothing.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc;

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, opcode, squeue};
use parking_lot::Mutex;
use rustix::event::EventfdFlags;

use super::DiskError;
use super::directory::{Engine, Request, io_error};

/// Operations in the ring at once; more wait in the queue.
const DEPTH: usize = 256;

/// Marks the completion of the eventfd's read.
const WAKE: u64 = u64::MAX;

pub(super) struct UringEngine {
    queue: Arc<Queue>,
}

struct Queue {
    state: Mutex<State>,
    wake: OwnedFd,
}

#[derive(Default)]
struct State {
    requests: Vec<Request>,
    /// The thread waits for completions, or is about to, and has to be woken.
    asleep: bool,
    /// No more requests will come.
    closed: bool,
    /// The thread is gone, or the drive was given up: requests are refused.
    stopped: bool,
}

impl UringEngine {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the kernel does not permit io_uring.
    pub(super) fn start(name: &str) -> io::Result<Self> {
        let queue = Arc::new(Queue {
            state: Mutex::default(),
            wake: rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?,
        });
        let (started, outcome) = mpsc::sync_channel(1);
        let ours = queue.clone();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || match ring() {
                Ok(ring) => {
                    let _ = started.send(Ok(()));
                    Worker::new(ring, ours).run();
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            })?;
        match outcome.recv() {
            Ok(Ok(())) => Ok(Self { queue }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::other("the drive's thread did not start")),
        }
    }
}

/// A ring for use by this thread alone. Kernels before 6.1 do not know the flags that make that cheap.
fn ring() -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun();
    match builder.build(DEPTH as u32 * 2) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::new(DEPTH as u32 * 2),
        result => result,
    }
}

impl Engine for UringEngine {
    fn submit(&self, request: Request) {
        let mut state = self.queue.state.lock();
        if state.stopped {
            // Whoever waits for the answer sees that it was dropped.
            return;
        }
        state.requests.push(request);
        let wake = std::mem::take(&mut state.asleep);
        drop(state);
        if wake {
            self.queue.wake();
        }
    }

    fn give_up(&self) {
        let mut state = self.queue.state.lock();
        state.stopped = true;
        state.requests.clear();
        drop(state);
        self.queue.wake();
    }
}

impl Drop for UringEngine {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        state.closed = true;
        state.asleep = false;
        drop(state);
        self.queue.wake();
    }
}

impl Queue {
    fn wake(&self) {
        // Fails only if the counter is about to overflow, and then the thread is awake.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// A request in the ring, and how many of its bytes are done.
struct InFlight {
    request: Request,
    done_len: usize,
}

struct Worker {
    ring: IoUring,
    queue: Arc<Queue>,
    slots: Vec<Option<InFlight>>,
    free: Vec<usize>,
    /// Requests that found no free slot, and operations to go on with, oldest last.
    waiting: Vec<InFlight>,
    /// Where the eventfd's counter is read to; boxed so that it stays where it is.
    counter: Box<[u8; 8]>,
    wake_armed: bool,
}

impl Worker {
    fn new(ring: IoUring, queue: Arc<Queue>) -> Self {
        Self {
            ring,
            queue,
            slots: (0..DEPTH).map(|_| None).collect(),
            free: (0..DEPTH).rev().collect(),
            waiting: Vec::new(),
            counter: Box::new([0; 8]),
            wake_armed: false,
        }
    }

    fn run(mut self) {
        loop {
            let closed = self.take_requests();
            self.start_waiting();
            if closed && self.free.len() == DEPTH && self.waiting.is_empty() {
                return self.stop();
            }
            self.arm_wake();
            if let Err(error) = self.ring.submit_and_wait(1) {
                // Interrupted, or the kernel is short of memory for a moment: what was not taken is still queued.
                let passing = [libc::EINTR, libc::EAGAIN, libc::EBUSY, libc::ENOMEM];
                if !error.raw_os_error().is_some_and(|e| passing.contains(&e)) {
                    tracing::error!(%error, "io_uring failed; the drive stops");
                    return self.abandon();
                }
            }
            self.reap();
        }
    }

    /// Moves new requests to `waiting`; whether the engine is closed. Who comes later has to wake the thread.
    fn take_requests(&mut self) -> bool {
        let mut state = self.queue.state.lock();
        let requests = std::mem::take(&mut state.requests);
        state.asleep = true;
        let closed = state.closed;
        if state.stopped {
            // The kernel has none of these.
            self.waiting.clear();
        }
        drop(state);
        let requests = requests.into_iter().rev().map(|request| InFlight {
            request,
            done_len: 0,
        });
        self.waiting.splice(0..0, requests);
        closed
    }

    fn start_waiting(&mut self) {
        while !self.waiting.is_empty() {
            let Some(slot) = self.free.pop() else { return };
            let Some(mut in_flight) = self.waiting.pop() else {
                return;
            };
            let entry = entry(&mut in_flight).user_data(slot as u64);
            self.slots[slot] = Some(in_flight);
            self.push(&entry);
        }
    }

    fn arm_wake(&mut self) {
        if self.wake_armed {
            return;
        }
        self.wake_armed = true;
        let fd = Fd(self.queue.wake.as_raw_fd());
        let entry = opcode::Read::new(fd, self.counter.as_mut_ptr(), 8)
            .build()
            .user_data(WAKE);
        self.push(&entry);
    }

    #[allow(unsafe_code)]
    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: what the entry points to (a buffer and a file in `slots`, or `counter` and the eventfd) stays in
        // place until its completion was reaped: slots are emptied only then, and the thread ends only when nothing
        // is in the ring, or leaks them.
        let pushed = unsafe { self.ring.submission().push(entry) };
        // The ring has twice as many places as there are slots.
        debug_assert!(pushed.is_ok());
    }

    fn reap(&mut self) {
        let completed: Vec<_> = self
            .ring
            .completion()
            .map(|entry| (entry.user_data(), entry.result()))
            .collect();
        for (tag, result) in completed {
            if tag == WAKE {
                self.wake_armed = false;
                continue;
            }
            let slot = tag as usize;
            let Some(in_flight) = self.slots[slot].take() else {
                continue;
            };
            self.free.push(slot);
            if let Some(more) = in_flight.complete(result) {
                self.waiting.push(more);
            }
        }
    }

    /// Ends when only the eventfd's read is left in the ring.
    fn stop(mut self) {
        while self.wake_armed {
            self.queue.wake();
            match self.ring.submit_and_wait(1) {
                Ok(_) => self.reap(),
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(_) => return self.abandon(),
            }
        }
    }

    /// Gives up without knowing what the kernel still does: its memory must stay, forever.
    fn abandon(mut self) {
        let mut state = self.queue.state.lock();
        state.stopped = true;
        state.requests.clear();
        drop(state);
        for in_flight in self.slots.drain(..).flatten() {
            match in_flight.request {
                Request::Read { file, buffer, .. } | Request::Write { file, buffer, .. } => {
                    std::mem::forget((file, buffer));
                }
                Request::Sync { file, .. } => std::mem::forget(file),
            }
        }
        std::mem::forget(std::mem::take(&mut self.counter));
    }
}

/// The operation for what is left of a request.
fn entry(in_flight: &mut InFlight) -> squeue::Entry {
    let done_len = in_flight.done_len;
    match &mut in_flight.request {
        Request::Read {
            file,
            buffer,
            offset,
            len,
            ..
        } => {
            buffer.set_len(*len);
            let rest = &mut buffer.payload_mut()[done_len..];
            opcode::Read::new(fd(file), rest.as_mut_ptr(), rest.len() as u32)
                .offset(*offset + done_len as u64)
                .build()
        }
        Request::Write {
            file,
            buffer,
            offset,
            ..
        } => {
            let rest = &buffer.record()[done_len..];
            opcode::Write::new(fd(file), rest.as_ptr(), rest.len() as u32)
                .offset(*offset + done_len as u64)
                .build()
        }
        Request::Sync { file, .. } => opcode::Fsync::new(fd(file))
            .flags(FsyncFlags::DATASYNC)
            .build(),
    }
}

fn fd(file: &File) -> Fd {
    Fd(file.as_raw_fd())
}

impl InFlight {
    /// Answers the request, or returns it if there is more to do.
    fn complete(mut self, result: i32) -> Option<InFlight> {
        if result == -libc::EINTR || result == -libc::EAGAIN {
            return Some(self);
        }
        let result = match usize::try_from(result) {
            Ok(len) => Ok(len),
            Err(_) => Err(io_error(io::Error::from_raw_os_error(-result))),
        };
        let whole_len = match &self.request {
            Request::Read { len, .. } => *len,
            Request::Write { buffer, .. } => buffer.record().len(),
            Request::Sync { .. } => 0,
        };
        let result = match result {
            Ok(0) if whole_len > 0 => Err(DiskError::Io("the file ends too early".to_owned())),
            Ok(len) => {
                self.done_len += len;
                if self.done_len < whole_len {
                    return Some(self);
                }
                Ok(())
            }
            Err(error) => Err(error),
        };
        // Whoever asked may have stopped listening.
        match self.request {
            Request::Read { buffer, done, .. } => drop(done.send(result.map(|()| buffer))),
            Request::Write { buffer, done, .. } => {
                drop(buffer);
                drop(done.send(result));
            }
            Request::Sync { done, .. } => drop(done.send(result)),
        }
        None
    }
}
