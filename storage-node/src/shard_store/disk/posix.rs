//! Reads, writes and syncs by a few threads, for where io_uring is not permitted.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::directory::{Engine, Request, io_error};

/// Enough to keep a drive busy; more only queue inside it.
const THREADS: usize = 8;

pub(super) struct ThreadEngine {
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    requests: VecDeque<Request>,
    closed: bool,
    given_up: bool,
}

impl ThreadEngine {
    pub(super) fn start(name: &str) -> io::Result<Self> {
        let engine = Self {
            queue: Arc::default(),
        };
        for number in 0..THREADS {
            let queue = engine.queue.clone();
            std::thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(move || queue.serve())?;
        }
        Ok(engine)
    }
}

impl Engine for ThreadEngine {
    fn submit(&self, request: Request) {
        let mut state = self.queue.state.lock();
        if state.given_up {
            // Whoever waits for the answer sees that it was dropped.
            return;
        }
        state.requests.push_back(request);
        drop(state);
        self.queue.wake.notify_one();
    }

    fn give_up(&self) {
        let mut state = self.queue.state.lock();
        state.given_up = true;
        state.requests.clear();
    }
}

impl Drop for ThreadEngine {
    fn drop(&mut self) {
        self.queue.state.lock().closed = true;
        self.queue.wake.notify_all();
    }
}

impl Queue {
    fn serve(&self) {
        while let Some(request) = self.next() {
            carry_out(request);
        }
    }

    /// The next request, or `None` when there will be no more.
    fn next(&self) -> Option<Request> {
        let mut state = self.state.lock();
        loop {
            match state.requests.pop_front() {
                Some(request) => return Some(request),
                None if state.closed => return None,
                None => self.wake.wait(&mut state),
            }
        }
    }
}

/// Does it; whoever asked may have stopped listening.
fn carry_out(request: Request) {
    match request {
        Request::Read {
            file,
            mut buffer,
            offset,
            len,
            done,
            pass: _pass,
        } => {
            buffer.set_len(len);
            let result = file.read_exact_at(buffer.payload_mut(), offset);
            let _ = done.send(result.map(|()| buffer).map_err(io_error));
        }
        Request::Write {
            file,
            buffer,
            offset,
            done,
            pass: _pass,
        } => {
            let result = file.write_all_at(buffer.record(), offset);
            drop(buffer);
            let _ = done.send(result.map_err(io_error));
        }
        Request::Sync {
            file,
            done,
            pass: _pass,
        } => {
            let _ = done.send(file.sync_data().map_err(io_error));
        }
    }
}
