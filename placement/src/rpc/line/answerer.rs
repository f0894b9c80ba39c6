//! The answering end of lines, and of what a connection becomes one.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{self, Either};
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, Semaphore};

use super::frame::{FrameReader, FrameWriter, LineKeys};
use super::{LINE, LINE_HEAD_LEN_MAX, PROTOCOL, READ_LEN};
use crate::ids::{Epoch, NodeId};
use crate::rpc::freight::{End, FREIGHT, FREIGHT_PROTOCOL, answer_freight};
use crate::rpc::{Answer, CallPayload, Payload, PeerServer, Verdict};
use crate::seams::{Clock, spawn};

/// Calls of a line that are worked on at a time; what comes beyond waits in the socket.
const CALLS_MAX: u32 = 4096;

/// Where a connection finds the line that it is to become: put one into the extensions of its requests.
#[derive(Clone, Default)]
pub struct LineSlot(Arc<Mutex<Option<LineServer>>>);

impl LineSlot {
    /// The line, once the connection has been upgraded.
    pub fn take(&self) -> Option<LineServer> {
        self.0.lock().take()
    }
}

/// The kinds of lines.
#[derive(Clone, Copy)]
enum Kind {
    /// Many small calls at once.
    Shared,
    /// One call at a time, with payloads.
    Freight,
}

/// Answers the calls of a line.
pub struct LineServer {
    kind: Kind,
    server: Arc<PeerServer>,
    upgrade: OnUpgrade,
    keys: LineKeys,
    from: NodeId,
}

/// A connection that can become a line.
pub(in crate::rpc) struct Opener {
    kind: Kind,
    slot: LineSlot,
    upgrade: OnUpgrade,
}

impl Opener {
    /// `None`: the request for `service` asks for no line, or its connection's owner does not know of lines.
    pub fn of<B>(service: &str, request: &mut Request<B>) -> Option<Self> {
        let kind = [Kind::Shared, Kind::Freight]
            .into_iter()
            .find(|kind| kind.service() == service)?;
        let asked = request.headers().get(UPGRADE);
        asked.filter(|protocol| *protocol == kind.protocol())?;
        let slot = request.extensions().get::<LineSlot>()?.clone();
        let upgrade = request.extensions_mut().remove::<OnUpgrade>()?;
        Some(Self {
            kind,
            slot,
            upgrade,
        })
    }

    /// Makes a response the one after which the connection is a line, for its owner to run.
    pub fn open<B>(
        self,
        server: &Arc<PeerServer>,
        keys: LineKeys,
        from: NodeId,
        response: &mut Response<B>,
    ) {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(self.kind.protocol()));
        *self.slot.0.lock() = Some(LineServer {
            kind: self.kind,
            server: server.clone(),
            upgrade: self.upgrade,
            keys,
            from,
        });
    }
}

impl Kind {
    fn service(self) -> &'static str {
        match self {
            Self::Shared => LINE.name,
            Self::Freight => FREIGHT.name,
        }
    }

    fn protocol(self) -> &'static str {
        match self {
            Self::Shared => PROTOCOL,
            Self::Freight => FREIGHT_PROTOCOL,
        }
    }
}

impl LineServer {
    /// Answers until the other side ends the line, or until `stop` completes: then it takes no more calls, answers those that
    /// it has, and returns.
    pub async fn run(self, clock: &Arc<dyn Clock>, stop: impl Future<Output = ()>) {
        let Ok(connection) = self.upgrade.await else {
            return;
        };
        let connection = TokioIo::new(connection);
        if let Kind::Freight = self.kind {
            let end = End::of_answerer(Box::new(connection), &self.keys, clock.clone());
            return answer_freight(&self.server, self.from, end, clock, stop).await;
        }
        let (from, to) = tokio::io::split(connection);
        let desk = Arc::new(Desk {
            server: self.server,
            from: self.from,
            outbox: Mutex::default(),
            work: Notify::new(),
            permits: Arc::new(Semaphore::new(CALLS_MAX as usize)),
        });
        let taking = async {
            let reader = FrameReader::new(self.keys.calls, LINE_HEAD_LEN_MAX + 255);
            let taking = std::pin::pin!(take_calls(&desk, from, reader));
            if let Either::Left((reason, _)) = future::select(taking, std::pin::pin!(stop)).await {
                tracing::debug!(from = %desk.from, "a line has ended: {reason}");
            }
            // Given back as calls are done.
            let _all_done = desk.permits.acquire_many(CALLS_MAX).await;
            desk.outbox.lock().closed = true;
            desk.work.notify_one();
        };
        let writer = FrameWriter::new(self.keys.answers);
        let sending = std::pin::pin!(send_answers(&desk, to, writer));
        // Where nothing can be sent any more, calls are done all the same, and nobody is told.
        match future::select(std::pin::pin!(taking), sending).await {
            Either::Left(((), sending)) => sending.await,
            Either::Right(((), _)) => {}
        }
    }
}

struct Desk {
    server: Arc<PeerServer>,
    from: NodeId,
    outbox: Mutex<Outbox>,
    /// There are answers to be sent, or there will be no more.
    work: Notify,
    permits: Arc<Semaphore>,
}

#[derive(Default)]
struct Outbox {
    answers: Vec<(u32, Verdict, Epoch, Bytes)>,
    closed: bool,
}

impl Desk {
    fn give(&self, call: u32, verdict: Verdict, answer: Answer) {
        let (verdict, head) = match answer.payload {
            Payload::None => (verdict, answer.head),
            Payload::Whole(bytes) if bytes.is_empty() => (verdict, answer.head),
            Payload::Whole(_) | Payload::Pieces(_) => {
                let reason = "this service's answers have payloads: it is not for lines";
                (Verdict::Failed, Bytes::from_static(reason.as_bytes()))
            }
        };
        let epoch = self.server.epoch();
        let mut outbox = self.outbox.lock();
        outbox.answers.push((call, verdict, epoch, head));
        drop(outbox);
        self.work.notify_one();
    }
}

async fn take_calls(
    desk: &Arc<Desk>,
    mut from: impl AsyncRead + Unpin,
    mut frames: FrameReader,
) -> String {
    loop {
        loop {
            let frame = match frames.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(_) => return "what came was damaged".to_owned(),
            };
            let Ok(permit) = desk.permits.clone().acquire_owned().await else {
                return "it was closed".to_owned();
            };
            let server = desk.server.clone();
            let from = desk.from;
            let call = frame.call;
            let mut doing = Box::pin(async move {
                let name = String::from_utf8_lossy(&frame.name);
                let payload = CallPayload::none();
                server
                    .decide(&name, from, frame.epoch, frame.head, payload)
                    .await
            });
            // Most have nothing to wait for; their answers leave together.
            match futures_util::poll!(&mut doing) {
                std::task::Poll::Ready((verdict, answer)) => desk.give(call, verdict, answer),
                std::task::Poll::Pending => {
                    let desk = desk.clone();
                    spawn(async move {
                        let (verdict, answer) = doing.await;
                        desk.give(call, verdict, answer);
                        drop(permit);
                    });
                }
            }
        }
        frames.buffer.reserve(READ_LEN);
        match from.read_buf(&mut frames.buffer).await {
            Ok(0) => return "the other side has ended it".to_owned(),
            Ok(_) => {}
            Err(error) => return error.to_string(),
        }
    }
}

async fn send_answers(desk: &Desk, mut to: impl AsyncWrite + Unpin, mut frames: FrameWriter) {
    let mut answers = Vec::new();
    let mut bytes = Vec::new();
    loop {
        let closed = {
            let mut outbox = desk.outbox.lock();
            std::mem::swap(&mut answers, &mut outbox.answers);
            outbox.closed
        };
        if answers.is_empty() {
            if closed {
                let _ended = to.shutdown().await;
                return;
            }
            desk.work.notified().await;
            // As with calls: what is about to be answered leaves together.
            tokio::task::yield_now().await;
            continue;
        }
        bytes.clear();
        for (call, verdict, epoch, head) in answers.drain(..) {
            frames.push(&mut bytes, (call, verdict.number(), epoch), "", &head);
        }
        let written = to.write_all(&bytes).await;
        if let Err(error) = written.and(to.flush().await) {
            tracing::debug!(from = %desk.from, %error, "answers could not be sent");
            return;
        }
        bytes.shrink_to(4 * READ_LEN);
    }
}
