//! The bytes of a request body as the connection gives them, and patience with a client that gives none.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::Body as _;

use crate::auth::Patience;
use crate::error::{Code, S3Error};

pub(super) struct Frames {
    body: Body,
    patience: Patience,
    /// When the wait under way began, on the monotonic clock.
    waiting_since: Option<Duration>,
    /// Rings some time after the wait under way should end, or earlier: it is set again only when it rings, not
    /// for each frame.
    alarm: Option<BoxFuture<'static, ()>>,
}

impl Frames {
    pub fn new(body: Body, patience: Patience) -> Self {
        Self {
            body,
            patience,
            waiting_since: None,
            alarm: None,
        }
    }

    /// Bytes in all, if known.
    pub fn len(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next bytes, not empty; `None` at the end. Errors: `RequestTimeout` if nothing came for too long,
    /// `IncompleteBody` if the connection broke.
    pub async fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, S3Error>> {
        loop {
            let frame = Pin::new(&mut self.body).poll_frame(cx);
            if frame.is_ready() {
                self.waiting_since = None;
            }
            match frame {
                Poll::Ready(None) => return Poll::Ready(Ok(None)),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Poll::Ready(Ok(Some(data))),
                    // Trailers of HTTP itself; S3 has its own.
                    Ok(_) | Err(_) => {}
                },
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, "a request body broke off");
                    return Poll::Ready(Err(Code::IncompleteBody.into()));
                }
                Poll::Pending => {
                    ready!(self.poll_alarm(cx));
                    return Poll::Ready(Err(Code::RequestTimeout.into()));
                }
            }
        }
    }

    /// Ready when the wait has lasted too long.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Patience { clock, read_idle } = &self.patience;
        let since = *self.waiting_since.get_or_insert_with(|| clock.monotonic());
        let mut alarm = self.alarm.take().unwrap_or_else(|| clock.sleep(*read_idle));
        while alarm.as_mut().poll(cx).is_ready() {
            let waited = clock.monotonic().saturating_sub(since);
            if waited >= *read_idle {
                return Poll::Ready(());
            }
            alarm = clock.sleep(*read_idle - waited);
        }
        self.alarm = Some(alarm);
        Poll::Pending
    }
}
