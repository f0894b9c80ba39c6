//! A client's socket: writes that stall end, and a close lets the client finish its sentence.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use holdfast_placement::seams::{Clock, Connection};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::ReadBuf;

/// How long, and how much, is read after the last response was written, so that a client that is still sending gets to
/// read the response instead of a reset.
const LINGER_TIME_MAX: Duration = Duration::from_secs(5);
const LINGER_LEN_MAX: usize = 256 * 1024 * 1024;

pub(super) struct Socket<S> {
    io: TokioIo<S>,
    clock: Arc<dyn Clock>,
    write_stall_timeout: Duration,
    /// Runs while a write waits; made at most once per timeout.
    stall: Option<BoxFuture<'static, ()>>,
    /// Whether anything was written since `stall` was started.
    progressed: bool,
    linger: Arc<AtomicBool>,
    lingering: Option<Lingering>,
}

struct Lingering {
    deadline: BoxFuture<'static, ()>,
    left: usize,
}

impl<S: Connection> Socket<S> {
    /// When `linger` is set, the close waits for the client.
    pub(super) fn new(
        stream: S,
        clock: Arc<dyn Clock>,
        write_stall_timeout: Duration,
        linger: Arc<AtomicBool>,
    ) -> Self {
        Self {
            io: TokioIo::new(stream),
            clock,
            write_stall_timeout,
            stall: None,
            progressed: false,
            linger,
            lingering: None,
        }
    }

    fn note<T>(
        &mut self,
        outcome: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.progressed = true;
            return outcome;
        }
        loop {
            let stall = self.stall.get_or_insert_with(|| {
                self.progressed = false;
                self.clock.sleep(self.write_stall_timeout)
            });
            ready!(stall.poll_unpin(cx));
            self.stall = None;
            if !self.progressed {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let lingering = self.lingering.get_or_insert_with(|| Lingering {
            deadline: self.clock.sleep(LINGER_TIME_MAX),
            left: LINGER_LEN_MAX,
        });
        if lingering.deadline.poll_unpin(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut scratch = [0u8; 16 * 1024];
        // Now and then others must have their turn.
        for _ in 0..64 {
            let mut buf = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(self.io.inner_mut()).poll_read(cx, &mut buf)) {
                Ok(()) if buf.filled().is_empty() => return Poll::Ready(()),
                Ok(()) if lingering.left < buf.filled().len() => return Poll::Ready(()),
                Ok(()) => lingering.left -= buf.filled().len(),
                Err(_) => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: Connection> Read for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: Connection> Write for Socket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write(cx, buf);
        self.note(outcome, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.note(outcome, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        }
        if self.linger.load(Ordering::Relaxed) {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}
