//! Streams the bytes of bodies out of windows.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_placement::seams::spawn;
use holdfast_storage_node::buffer::PoolError;
use http_body::{Frame, SizeHint};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::fetch::{Memory, Unread, copy_lens};
use super::plan::{Plan, Window, behind};
use super::{Again, BodyPiece, ByteSource, Shared, Whereabouts, slow_down};
use crate::error::S3Error;

/// How often a body whose first bytes were sent waits for memory, each time as long as the pool allows: giving up means
/// to close the connection.
const WAITS_MAX: u32 = 6;

/// A read under way: a body for the server, which asks for a frame when it can send one. Windows are read ahead
/// while the last frame is being sent.
pub(super) struct BodyReader {
    shared: Arc<Shared>,
    memory: Memory,
    plan: Plan,
    /// Windows that were begun, in order.
    queue: VecDeque<Entry>,
    /// Bytes of them.
    queued: u64,
    started: bool,
    failed: bool,
    /// Bytes that were given away.
    sent: u64,
    again: Option<Again>,
    /// Where the bytes are now, while that is asked; and why.
    asking: Option<(Unread, BoxFuture<'static, Option<Vec<BodyPiece>>>)>,
}

struct Entry {
    window: Window,
    state: State,
}

enum State {
    Reading(BoxFuture<'static, Result<Bytes, Failure>>),
    Ready(Bytes),
    Failed(Failure),
}

/// A window that is read ahead in a task of its own: a reader is asked for frames when its client takes them, and how
/// long that one takes must be no part of how late a drive is.
struct Ahead(JoinHandle<Result<Bytes, Failure>>);

impl Future for Ahead {
    type Output = Result<Bytes, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let read = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(read.unwrap_or(Err(Failure::Unread(Unread::Lost))))
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug)]
enum Failure {
    Unread(Unread),
    NoMemory(PoolError),
}

impl From<Unread> for Failure {
    fn from(unread: Unread) -> Self {
        Failure::Unread(unread)
    }
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Self {
        Failure::NoMemory(error)
    }
}

impl BodyReader {
    pub(super) fn new(shared: Arc<Shared>, at: Whereabouts) -> Self {
        let memory = Memory::Pool(shared.pool.clone());
        Self {
            plan: Plan::new(at.pieces, shared.config.window_len),
            shared,
            memory,
            queue: VecDeque::new(),
            queued: 0,
            started: false,
            failed: false,
            sent: 0,
            again: at.again,
            asking: None,
        }
    }

    /// Completes when the first bytes are at hand.
    pub(super) async fn first(&mut self) -> Result<(), S3Error> {
        poll_fn(|cx| self.poll_front(cx)).await.map(drop)
    }

    fn left(&self) -> u64 {
        self.plan.left() + self.queued
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, S3Error>>> {
        let at_hand = ready!(self.poll_front(cx));
        match at_hand {
            Ok(false) => Poll::Ready(None),
            Ok(true) => {
                self.started = true;
                let frame = self.pop();
                // The next windows begin before this one is sent.
                self.read_ahead();
                self.poll_queue(cx);
                Poll::Ready(frame.map(Ok))
            }
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }

    /// Completes when the first window of the queue is at hand; with `false` at the end.
    fn poll_front(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, S3Error>> {
        loop {
            if self.failed {
                return Poll::Ready(Ok(false));
            }
            if let Some((why, asking)) = &mut self.asking {
                let (why, pieces) = (*why, ready!(asking.as_mut().poll(cx)));
                self.asking = None;
                if self.go_on_with(pieces.unwrap_or_default()) {
                    continue;
                }
                let front = self.queue.front().map(|front| front.window.clone());
                self.failed = true;
                self.queue.clear();
                return match front {
                    Some(window) => Poll::Ready(Err(self.shared.unread(&window, why))),
                    None => Poll::Ready(Ok(false)),
                };
            }
            if self.queue.is_empty() {
                let Some(window) = self.plan.next() else {
                    return Poll::Ready(Ok(false));
                };
                self.begin(window);
            }
            self.read_ahead();
            self.poll_queue(cx);
            let Some(front) = self.queue.front() else {
                return Poll::Ready(Ok(false));
            };
            let error = match &front.state {
                State::Ready(_) => return Poll::Ready(Ok(true)),
                State::Reading(_) => return Poll::Pending,
                State::Failed(Failure::Unread(why)) if front.window.unread.is_none() => {
                    let why = *why;
                    self.rebuild_front(why);
                    continue;
                }
                State::Failed(Failure::Unread(why)) => {
                    let why = *why;
                    if let Some(again) = &self.again {
                        self.asking = Some((why, again()));
                        continue;
                    }
                    self.shared.unread(&front.window, why)
                }
                State::Failed(Failure::NoMemory(error)) => slow_down(*error),
            };
            self.failed = true;
            self.queue.clear();
            return Poll::Ready(Err(error));
        }
    }

    /// Begins to rebuild the first window. What was read ahead is given up: who waits for memory must hold none.
    fn rebuild_front(&mut self, why: Unread) {
        while self.queue.len() > 1 {
            if let Some(entry) = self.queue.pop_back() {
                self.queued -= entry.window.len();
                self.plan.give_back(entry.window);
            }
        }
        if let Some(front) = self.queue.pop_front() {
            self.queued -= front.window.len();
            self.begin(Window {
                unread: Some(why),
                ..front.window
            });
        }
    }

    /// Goes on with what is left of `pieces`, if the window that could not be had is in another body now.
    fn go_on_with(&mut self, pieces: Vec<BodyPiece>) -> bool {
        let rest = behind(pieces, self.sent);
        let (Some(front), Some(first)) = (self.queue.front(), rest.first()) else {
            return false;
        };
        if front.window.body.set == first.body.set {
            return false;
        }
        let plan = Plan::new(rest, self.shared.config.window_len);
        if plan.left() != self.left() {
            return false;
        }
        self.plan = plan;
        self.queue.clear();
        self.queued = 0;
        true
    }

    fn poll_queue(&mut self, cx: &mut Context<'_>) {
        for entry in &mut self.queue {
            if let State::Reading(reading) = &mut entry.state
                && let Poll::Ready(read) = reading.as_mut().poll(cx)
            {
                entry.state = match read {
                    Ok(bytes) => State::Ready(bytes),
                    Err(failure) => State::Failed(failure),
                };
            }
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        let front = self.queue.pop_front()?;
        self.queued -= front.window.len();
        self.sent += front.window.len();
        match front.state {
            State::Ready(bytes) => Some(bytes),
            State::Reading(_) | State::Failed(_) => None,
        }
    }

    fn push(&mut self, window: Window, reading: BoxFuture<'static, Result<Bytes, Failure>>) {
        self.queued += window.len();
        self.queue.push_back(Entry {
            window,
            state: State::Reading(reading),
        });
    }

    /// Begins the window that is to be sent next; it waits for memory if need be.
    fn begin(&mut self, mut window: Window) {
        let (shared, memory, w) = (self.shared.clone(), self.memory.clone(), window.clone());
        let waits = if self.started { WAITS_MAX } else { 1 };
        let place = shared.place_of(&window).filter(|_| window.unread.is_none());
        let Some(place) = place else {
            window.unread.get_or_insert(Unread::Lost);
            let rebuilding = async move {
                for _ in 1..waits {
                    if let Ok(rebuild) = memory.rebuild(&w).await {
                        return Ok(shared.reconstruct(w, rebuild).await?);
                    }
                }
                let rebuild = memory.rebuild(&w).await?;
                Ok(shared.reconstruct(w, rebuild).await?)
            };
            return self.push(window, Box::pin(rebuilding));
        };
        if let Some(buffer) = memory.try_buffer(&w) {
            let reading = async move { Ok(shared.fetch(w, place, buffer, memory).await?) };
            return self.push(window, Box::pin(reading));
        }
        let reading = async move {
            let mut buffer = memory.buffer(&w).await;
            for _ in 1..waits {
                if buffer.is_err() {
                    buffer = memory.buffer(&w).await;
                }
            }
            Ok(shared.fetch(w, place, buffer?, memory).await?)
        };
        self.push(window, Box::pin(reading));
    }

    /// Begins further windows, as many as may be read ahead and as there is memory for at once: who sends already
    /// does not queue for more.
    fn read_ahead(&mut self) {
        let ahead = self.shared.config.windows_ahead as u64;
        let bytes_max = (1 + ahead) * u64::from(self.shared.config.window_len);
        while self.queued < bytes_max {
            let Some(mut window) = self.plan.next() else {
                return;
            };
            if !self.queue.is_empty() && self.queued + window.len() > bytes_max {
                return self.plan.give_back(window);
            }
            let (shared, memory, w) = (self.shared.clone(), self.memory.clone(), window.clone());
            let reading: BoxFuture<'static, _> =
                match shared.place_of(&window).filter(|_| window.unread.is_none()) {
                    Some(place) => match memory.try_buffer(&window) {
                        Some(buffer) => {
                            let is_timed = memory.is_pool() && window.body.protection.parity > 0;
                            let reading =
                                async move { Ok(shared.fetch(w, place, buffer, memory).await?) };
                            match is_timed {
                                true => Box::pin(Ahead(spawn(reading))),
                                false => Box::pin(reading),
                            }
                        }
                        None => return self.plan.give_back(window),
                    },
                    None => match memory.try_rebuild(&window) {
                        Some(rebuild) => {
                            window.unread.get_or_insert(Unread::Lost);
                            Box::pin(async move { Ok(shared.reconstruct(w, rebuild).await?) })
                        }
                        None => return self.plan.give_back(window),
                    },
                };
            self.push(window, reading);
        }
    }
}

impl http_body::Body for BodyReader {
    type Data = Bytes;
    type Error = S3Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, S3Error>>> {
        self.get_mut()
            .poll_next(cx)
            .map(|next| next.map(|read| read.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0 && !self.failed
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}

/// Bytes of bodies as a source to write from.
pub struct BodySource {
    reader: BodyReader,
    /// Most data shards that a chunk has.
    k_max: usize,
}

impl BodySource {
    pub(super) fn new(shared: Arc<Shared>, at: Whereabouts) -> Self {
        let pieces = at.pieces.iter();
        let k_max = pieces
            .map(|piece| piece.body.protection.data as usize)
            .max();
        Self {
            reader: BodyReader::new(shared, at),
            k_max: k_max.unwrap_or(1),
        }
    }
}

impl ByteSource for BodySource {
    async fn prepare(&mut self) -> Result<(), S3Error> {
        let shared = &self.reader.shared;
        let lens = copy_lens(shared.config.window_len, self.k_max);
        let share = shared.copies.reserve(&lens).await.map_err(slow_down)?;
        self.reader.memory = Memory::Reserved {
            _share: share,
            reservation: shared.pool.reserve(&lens).await.map_err(slow_down)?,
            pool: shared.pool.clone(),
            rebuilder: Arc::new(Semaphore::new(1)),
        };
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
        poll_fn(|cx| self.reader.poll_next(cx)).await.transpose()
    }
}

/// Bytes at hand as a source.
impl ByteSource for Option<Bytes> {
    async fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
        Ok(self.take().filter(|bytes| !bytes.is_empty()))
    }
}
