//! Clients that stop sending.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use holdfast_placement::seams::{Clock, ManualClock, UnixMillis};
use parking_lot::Mutex;

use super::*;
use crate::auth::{Authenticator, Credentials};

/// A clock whose sleeps are counted, and end when the test moves the time on.
#[derive(Clone)]
struct Sleepers {
    now: ManualClock,
    sleeps: Arc<Mutex<u32>>,
}

impl Clock for Sleepers {
    fn wall(&self) -> UnixMillis {
        self.now.wall()
    }

    fn monotonic(&self) -> Duration {
        self.now.monotonic()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        *self.sleeps.lock() += 1;
        let until = self.now.monotonic() + duration;
        let now = self.now.clone();
        Box::pin(std::future::poll_fn(move |_| {
            if now.monotonic() >= until {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        }))
    }
}

/// A body that gives what the test puts in.
struct Slow(Arc<Mutex<Vec<Bytes>>>);

impl http_body::Body for Slow {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.lock().pop() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None => Poll::Pending,
        }
    }
}

fn poll(payload: &mut Payload) -> Poll<Result<Option<Bytes>, S3Error>> {
    let mut next = std::pin::pin!(payload.next());
    next.as_mut()
        .poll(&mut Context::from_waker(std::task::Waker::noop()))
}

#[test]
fn a_silent_client_times_out_and_a_slow_one_does_not() {
    let clock = Sleepers {
        now: clock(),
        sleeps: Arc::default(),
    };
    let credentials = Credentials::new(
        crate::auth::tests::ACCESS_KEY,
        crate::auth::tests::SECRET,
        "owner",
        "Owner",
    );
    let authenticator = Authenticator::new(
        vec![credentials],
        "us-east-1".to_owned(),
        Arc::new(clock.clone()),
    )
    .with_read_idle(Duration::from_secs(10));
    let parts = signed_put(&[("x-amz-content-sha256", "UNSIGNED-PAYLOAD")]);
    let auth = authenticator.authenticate(&parts).unwrap();
    let sent = Arc::new(Mutex::new(Vec::new()));
    let body = Body::new(Slow(Arc::clone(&sent)));
    let mut payload = Payload::new(&auth, &parts, body, Digests::default()).unwrap();

    // A byte every 9 seconds, for long.
    for _ in 0..20 {
        assert!(poll(&mut payload).is_pending());
        clock.now.advance(Duration::from_secs(9));
        assert!(poll(&mut payload).is_pending());
        sent.lock().push(Bytes::from("x"));
        assert!(matches!(poll(&mut payload), Poll::Ready(Ok(Some(_)))));
    }
    assert!(*clock.sleeps.lock() <= 20, "no timer for each frame");

    // Our own slowness does not count.
    clock.now.advance(Duration::from_secs(1000));
    assert!(poll(&mut payload).is_pending());
    clock.now.advance(Duration::from_millis(9_999));
    assert!(poll(&mut payload).is_pending());
    clock.now.advance(Duration::from_millis(1));
    match poll(&mut payload) {
        Poll::Ready(Err(error)) => assert_eq!(error.code, Code::RequestTimeout),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_there_needs_no_timer() {
    let clock = Sleepers {
        now: clock(),
        sleeps: Arc::default(),
    };
    let credentials = Credentials::new(
        crate::auth::tests::ACCESS_KEY,
        crate::auth::tests::SECRET,
        "owner",
        "Owner",
    );
    let region = "us-east-1".to_owned();
    let authenticator = Authenticator::new(vec![credentials], region, Arc::new(clock.clone()));
    let parts = signed_put(&[("x-amz-content-sha256", "UNSIGNED-PAYLOAD")]);
    let auth = authenticator.authenticate(&parts).unwrap();
    let frames = vec![Bytes::from("a"), Bytes::from("b")];
    let mut payload = Payload::new(&auth, &parts, body(frames), Digests::default()).unwrap();
    for _ in 0..2 {
        assert!(matches!(poll(&mut payload), Poll::Ready(Ok(Some(_)))));
    }
    assert!(matches!(poll(&mut payload), Poll::Ready(Ok(None))));
    assert_eq!(*clock.sleeps.lock(), 0);
}

/// The connection breaks: not the client's digests, but the body is at fault.
#[tokio::test]
async fn a_broken_connection() {
    let frames = futures_util::stream::iter([
        Ok(Frame::data(Bytes::from("abc"))),
        Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
    ]);
    let parts = signed_put(&[("x-amz-content-sha256", "UNSIGNED-PAYLOAD")]);
    let auth = authenticator(clock()).authenticate(&parts).unwrap();
    let body = Body::new(http_body_util::StreamBody::new(frames));
    let mut payload = Payload::new(&auth, &parts, body, Digests::default()).unwrap();
    assert!(payload.next().await.is_ok());
    assert_eq!(payload.next().await.unwrap_err().code, Code::IncompleteBody);
}
