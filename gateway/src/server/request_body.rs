//! The body of a request, which comes back when its reader drops it: what the client still sends of it must be read, or
//! the connection closed.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::{Either, select};
use holdfast_placement::seams::Clock;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;

/// Bytes of a body that are read and thrown away so that the connection can be used again.
const DRAIN_LEN_MAX: u64 = 256 * 1024;

/// How long that may take.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// A body that its reader dropped before its end.
struct Unread {
    incoming: Incoming,
    /// Whether any of it was asked for: only then a client that waits for `100 Continue` got it.
    polled: bool,
}

struct ReturningBody {
    incoming: Option<Incoming>,
    polled: bool,
    ended: bool,
    back: Arc<Mutex<Option<Unread>>>,
}

impl HttpBody for ReturningBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.polled = true;
        let Some(incoming) = self.incoming.as_mut() else {
            return Poll::Ready(None);
        };
        let frame = Pin::new(incoming).poll_frame(cx);
        // After an error there is nothing left to read either.
        if let Poll::Ready(None | Some(Err(_))) = frame {
            self.ended = true;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.incoming.as_ref().map(HttpBody::size_hint);
        hint.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}

impl Drop for ReturningBody {
    fn drop(&mut self) {
        if let Some(incoming) = self.incoming.take()
            && !self.ended
            && !incoming.is_end_stream()
        {
            let polled = self.polled;
            *self.back.lock() = Some(Unread { incoming, polled });
        }
    }
}

/// What becomes of the connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Afterwards {
    /// All of the request was read.
    Reusable,
    /// The client may still be sending: close, after having let it finish for a while.
    Close,
}

/// Waits for what a reader leaves.
pub(super) struct Leftovers {
    back: Option<Arc<Mutex<Option<Unread>>>>,
    expects_continue: bool,
}

/// Wraps the body of a request whose header says `Expect: 100-continue` or not.
pub(super) fn returning(incoming: Incoming, expects_continue: bool) -> (Body, Leftovers) {
    if incoming.is_end_stream() {
        let nothing = Leftovers {
            back: None,
            expects_continue,
        };
        return (Body::empty(), nothing);
    }
    let back = Arc::new(Mutex::new(None));
    let body = Body::new(ReturningBody {
        incoming: Some(incoming),
        polled: false,
        ended: false,
        back: back.clone(),
    });
    let leftovers = Leftovers {
        back: Some(back),
        expects_continue,
    };
    (body, leftovers)
}

impl Leftovers {
    /// Reads what is left of the body if that is little. A body that the client holds back until it gets
    /// `100 Continue` is not asked for: the connection closes, as nobody knows whether it will come (RFC 9110, 10.1.1).
    pub(super) async fn settle(self, clock: &dyn Clock) -> Afterwards {
        let Some(back) = self.back else {
            // Nobody sends `100 Continue` for an empty body. A client may take the final answer that comes in its place
            // for the end of its request and lose track of the connection (botocore does), as after a refusal.
            return match self.expects_continue {
                true => Afterwards::Close,
                false => Afterwards::Reusable,
            };
        };
        let Some(mut unread) = back.lock().take() else {
            return Afterwards::Reusable;
        };
        let held_back = self.expects_continue && !unread.polled;
        if held_back || unread.incoming.size_hint().lower() > DRAIN_LEN_MAX {
            return Afterwards::Close;
        }
        let drain = std::pin::pin!(drain(&mut unread.incoming));
        match select(drain, clock.sleep(DRAIN_TIME_MAX)).await {
            Either::Left((true, _)) => Afterwards::Reusable,
            Either::Left((false, _)) | Either::Right(_) => Afterwards::Close,
        }
    }
}

/// Whether the end came within the limit.
async fn drain(incoming: &mut Incoming) -> bool {
    let mut left = DRAIN_LEN_MAX;
    while let Some(frame) = incoming.frame().await {
        let Ok(frame) = frame else { return false };
        let len = frame.data_ref().map_or(0, |data| data.len() as u64);
        match left.checked_sub(len) {
            Some(rest) => left = rest,
            None => return false,
        }
    }
    true
}
