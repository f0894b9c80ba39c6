//! The calling end of lines.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{self, BoxFuture, Either};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};

use super::READ_LEN;
use super::frame::{FrameReader, FrameWriter, LineKeys};
use crate::ids::{Epoch, NodeId};
use crate::rpc::{CallError, HEAD_LEN_MAX, Service, Verdict};
use crate::seams::{Clock, Connection, spawn};

/// An answer.
pub(in crate::rpc) struct Arrived {
    pub verdict: Verdict,
    pub epoch: Epoch,
    pub head: Bytes,
}

/// A connection that is being made a line.
pub(in crate::rpc) type Opening =
    BoxFuture<'static, Result<(Box<dyn Connection>, LineKeys), CallError>>;

/// The lines to other nodes, one each.
#[derive(Default)]
pub(in crate::rpc) struct Lines {
    lines: Mutex<HashMap<NodeId, (String, Line)>>,
}

impl Lines {
    /// The line to a node at its address, and whether it was there before. `open` makes a new one.
    pub fn to(
        &self,
        to: NodeId,
        address: &str,
        clock: &Arc<dyn Clock>,
        open: impl FnOnce() -> Opening,
    ) -> (Line, bool) {
        let mut lines = self.lines.lock();
        if let Some((known, line)) = lines.get(&to)
            && known == address
            && !line.has_ended()
        {
            return (line.clone(), true);
        }
        let line = Line::start(to, clock.clone(), open());
        lines.insert(to, (address.to_owned(), line.clone()));
        (line, false)
    }

    /// Ends the line to a node: it does not answer.
    pub fn end(&self, to: NodeId) {
        let line = self.lines.lock().remove(&to);
        if let Some((_, line)) = line {
            line.shared.end("the node does not answer any more");
        }
    }

    /// Ends the line to a node if nothing has come on it for so long: a call has waited in vain.
    pub fn end_if_silent(&self, to: NodeId, silent: Duration) {
        let line = self.lines.lock().get(&to).map(|(_, line)| line.clone());
        if let Some(line) = line {
            let heard = line.shared.heard.load(Ordering::Relaxed);
            if u128::from(line.shared.now().saturating_sub(heard)) >= silent.as_millis() {
                self.end(to);
            }
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        for (_, line) in self.lines.get_mut().values() {
            line.shared.end("this node stops");
        }
    }
}

/// A line to a node.
#[derive(Clone)]
pub(in crate::rpc) struct Line {
    shared: Arc<Shared>,
}

struct Shared {
    to: NodeId,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// There are calls to be sent, or the line has ended.
    work: Notify,
    /// When something last came, monotonic milliseconds.
    heard: AtomicU64,
}

#[derive(Default)]
struct State {
    next: u32,
    /// Calls that were not sent yet.
    unsent: VecDeque<Unsent>,
    waiting: HashMap<u32, oneshot::Sender<Result<Arrived, CallError>>>,
    ended: bool,
}

struct Unsent {
    call: u32,
    service: Service,
    epoch: Epoch,
    head: Bytes,
}

impl Line {
    fn start(to: NodeId, clock: Arc<dyn Clock>, opening: Opening) -> Self {
        let heard = AtomicU64::new(clock.monotonic().as_millis() as u64);
        let shared = Arc::new(Shared {
            to,
            clock,
            state: Mutex::default(),
            work: Notify::new(),
            heard,
        });
        let line = Self {
            shared: shared.clone(),
        };
        spawn(async move {
            match opening.await {
                Ok((connection, keys)) => {
                    let reason = carry(&shared, connection, keys).await;
                    shared.end(&reason);
                }
                Err(error) => shared.fail(|| error.clone()),
            }
        });
        line
    }

    pub fn has_ended(&self) -> bool {
        self.shared.state.lock().ended
    }

    /// Makes a call.
    pub async fn call(
        &self,
        service: Service,
        epoch: Epoch,
        head: Bytes,
    ) -> Result<Arrived, CallError> {
        let (answer, answered) = oneshot::channel();
        let call = {
            let mut state = self.shared.state.lock();
            if state.ended {
                return Err(self.shared.unreachable("the line has ended"));
            }
            let call = state.next;
            state.next = state.next.wrapping_add(1);
            state.waiting.insert(call, answer);
            state.unsent.push_back(Unsent {
                call,
                service,
                epoch,
                head,
            });
            call
        };
        self.shared.work.notify_one();
        let _forget = Forget {
            shared: &self.shared,
            call,
        };
        let gone = |_| Err(self.shared.no_answer("the line has ended"));
        answered.await.unwrap_or_else(gone)
    }
}

/// Whoever waited for the answer may be gone before it comes.
struct Forget<'a> {
    shared: &'a Shared,
    call: u32,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.state.lock().waiting.remove(&self.call);
    }
}

impl Shared {
    fn now(&self) -> u64 {
        self.clock.monotonic().as_millis() as u64
    }

    fn unreachable(&self, reason: &str) -> CallError {
        CallError::Unreachable {
            to: self.to,
            reason: reason.to_owned(),
        }
    }

    fn no_answer(&self, reason: &str) -> CallError {
        CallError::NoAnswer {
            to: self.to,
            reason: reason.to_owned(),
        }
    }

    /// Ends the line: calls that were not sent are known not to have been done, of the others nothing is known.
    fn end(&self, reason: &str) {
        let unsent: Vec<u32> = {
            let mut state = self.state.lock();
            state.unsent.drain(..).map(|unsent| unsent.call).collect()
        };
        self.finish(|call| match unsent.contains(&call) {
            true => self.unreachable(reason),
            false => self.no_answer(reason),
        });
    }

    /// The line did not come about.
    fn fail(&self, error: impl Fn() -> CallError) {
        self.finish(|_| error());
    }

    fn finish(&self, why: impl Fn(u32) -> CallError) {
        let waiting = {
            let mut state = self.state.lock();
            state.ended = true;
            std::mem::take(&mut state.waiting)
        };
        for (call, answer) in waiting {
            // Who does not wait any more needs no answer.
            let _gone = answer.send(Err(why(call)));
        }
        self.work.notify_one();
    }
}

/// Carries calls and answers; returns why that has ended.
async fn carry(shared: &Shared, connection: Box<dyn Connection>, keys: LineKeys) -> String {
    let (from, to) = tokio::io::split(connection);
    let sending = std::pin::pin!(send_calls(shared, to, FrameWriter::new(keys.calls)));
    let reader = FrameReader::new(keys.answers, HEAD_LEN_MAX);
    let receiving = std::pin::pin!(take_answers(shared, from, reader));
    match future::select(sending, receiving).await {
        Either::Left((reason, _)) | Either::Right((reason, _)) => reason,
    }
}

async fn send_calls(
    shared: &Shared,
    mut to: impl AsyncWrite + Unpin,
    mut frames: FrameWriter,
) -> String {
    let mut unsent = VecDeque::new();
    let mut bytes = Vec::new();
    loop {
        {
            let mut state = shared.state.lock();
            if state.ended {
                return "the line was ended".to_owned();
            }
            std::mem::swap(&mut unsent, &mut state.unsent);
        }
        if unsent.is_empty() {
            shared.work.notified().await;
            // Whoever else is about to call gets to it first: then their calls leave together.
            tokio::task::yield_now().await;
            continue;
        }
        bytes.clear();
        for call in unsent.drain(..) {
            let fixed = (call.call, 0, call.epoch);
            frames.push(&mut bytes, fixed, call.service.name, &call.head);
        }
        let written = to.write_all(&bytes).await;
        if let Err(error) = written.and(to.flush().await) {
            return error.to_string();
        }
        bytes.shrink_to(4 * READ_LEN);
    }
}

async fn take_answers(
    shared: &Shared,
    mut from: impl AsyncRead + Unpin,
    mut frames: FrameReader,
) -> String {
    loop {
        loop {
            let frame = match frames.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(_) => return "what came on the line was damaged".to_owned(),
            };
            let Some(verdict) = Verdict::of(frame.kind) else {
                return "an answer of no known kind".to_owned();
            };
            let waiting = shared.state.lock().waiting.remove(&frame.call);
            if let Some(answer) = waiting {
                let _gone = answer.send(Ok(Arrived {
                    verdict,
                    epoch: frame.epoch,
                    head: frame.head,
                }));
            }
        }
        frames.buffer.reserve(READ_LEN);
        match from.read_buf(&mut frames.buffer).await {
            Ok(0) => return "the other side has ended the line".to_owned(),
            Ok(_) => shared.heard.store(shared.now(), Ordering::Relaxed),
            Err(error) => return error.to_string(),
        }
    }
}
