//! The calling side: a pool of connections to each node.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::{self, Either};
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;

use super::envelope::{AnswerEnvelope, CallEnvelope, ENVELOPE, Mac, Sealer};
use super::health::Health;
use super::line::{LINE, LINE_HEAD_LEN_MAX, LineKeys, Lines, NONCE_LEN, PROTOCOL};
use super::{CallError, ClusterSecret, HEAD_LEN_MAX, NOBODY, PATH, Payload, Service, Verdict};
use crate::ids::{Epoch, NodeId};
use crate::map::{ClusterMap, SharedMap};
use crate::seams::{Clock, Connection, Net, Rng, spawn};

/// Idle connections kept to a node.
const IDLE_MAX: usize = 64;

/// Timing of calls.
#[derive(Clone, Debug)]
pub struct PeersConfig {
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// Between probes of a node.
    pub probe_interval: Duration,
    /// A node that has answered nothing for so long is suspected of being gone.
    pub silence_max: Duration,
}

impl Default for PeersConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            probe_interval: Duration::from_millis(250),
            silence_max: Duration::from_millis(1000),
        }
    }
}

/// Calls other nodes. Clones share the connections.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    own: NodeId,
    map: SharedMap,
    net: Arc<dyn Net>,
    clock: Arc<dyn Clock>,
    sealer: Sealer,
    config: PeersConfig,
    rng: Arc<dyn Rng>,
    health: Health,
    lines: Lines,
    idle: Mutex<HashMap<String, Vec<SendRequest<CallBody>>>>,
}

/// The answer to a call.
pub struct Reply {
    pub head: Bytes,
    rest: Bytes,
    body: Option<Incoming>,
    link: Option<Link>,
    to: NodeId,
}

/// A connection that goes back to the pool when its answer was read to the end.
struct Link {
    peers: Peers,
    address: String,
    sender: SendRequest<CallBody>,
}

/// An answer whose head was read.
struct Answered {
    verdict: Verdict,
    reply: Reply,
}

/// How a call goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// On the line to the node, with others.
    Line,
    /// On a connection that it has for itself while it lasts.
    Own,
}

/// A failed attempt, and whether the connection, which had been idle, was found closed before anything was sent.
struct Failure {
    error: CallError,
    closed: bool,
}

impl Peers {
    /// Calls in the name of node `own`.
    pub fn new(
        own: NodeId,
        secret: &ClusterSecret,
        map: SharedMap,
        net: Arc<dyn Net>,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
        config: PeersConfig,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                own,
                map,
                net,
                rng,
                lines: Lines::default(),
                health: Health::new(clock.clone(), config.silence_max),
                clock,
                sealer: Sealer::new(secret),
                config,
                idle: Mutex::default(),
            }),
        }
    }

    /// The node in whose name calls are made.
    pub fn own(&self) -> NodeId {
        self.inner.own
    }

    /// Who answers.
    pub fn health(&self) -> &Health {
        &self.inner.health
    }

    /// The map that calls go by.
    pub fn map(&self) -> &SharedMap {
        &self.inner.map
    }

    /// A call without payloads, answered by a head alone. `within` bounds it.
    pub async fn call(
        &self,
        to: NodeId,
        service: Service,
        head: Bytes,
        within: Duration,
    ) -> Result<Bytes, CallError> {
        let way = match head.len() <= LINE_HEAD_LEN_MAX {
            true => Way::Line,
            false => Way::Own,
        };
        let call = std::pin::pin!(self.send_by(way, to, service, head, Payload::None));
        match future::select(call, self.inner.clock.sleep(within)).await {
            Either::Left((reply, _)) => reply?.into_head().await,
            Either::Right(_) => {
                if way == Way::Line {
                    self.inner.lines.end_if_silent(to, within);
                }
                Err(CallError::NoAnswer {
                    to,
                    reason: format!("none within {within:?}"),
                })
            }
        }
    }

    /// A call with payloads; returns when the answer's head was read. Ends when the node is suspected of being gone.
    pub async fn send(
        &self,
        to: NodeId,
        service: Service,
        head: Bytes,
        payload: Payload,
    ) -> Result<Reply, CallError> {
        self.send_by(Way::Own, to, service, head, payload).await
    }

    async fn send_by(
        &self,
        way: Way,
        to: NodeId,
        service: Service,
        head: Bytes,
        payload: Payload,
    ) -> Result<Reply, CallError> {
        let health = self.inner.health.of(to);
        let unreachable = |reason: &str| CallError::Unreachable {
            to,
            reason: reason.to_owned(),
        };
        if health.is_suspect() {
            return Err(unreachable("it has not answered for some time"));
        }
        let again = match &payload {
            Payload::None => Some(Payload::None),
            Payload::Whole(bytes) => Some(Payload::Whole(bytes.clone())),
            Payload::Pieces(_) => None,
        };
        let calling = std::pin::pin!(async {
            let answered = self.send_once(way, to, service, &head, payload).await?;
            if answered.verdict != Verdict::Stale {
                return Ok(answered);
            }
            self.take_map(&answered.reply.head);
            match again {
                Some(payload) => self.send_once(way, to, service, &head, payload).await,
                None => Err(CallError::Stale { to }),
            }
        });
        let suspicion = std::pin::pin!(health.suspicion());
        let answered = match future::select(calling, suspicion).await {
            Either::Left((answered, _)) => answered?,
            Either::Right(_) => {
                self.inner.lines.end(to);
                return Err(CallError::NoAnswer {
                    to,
                    reason: "it does not answer any more".to_owned(),
                });
            }
        };
        let text = |head: &[u8]| String::from_utf8_lossy(head).into_owned();
        match answered.verdict {
            Verdict::Done => Ok(answered.reply),
            Verdict::Stale => Err(CallError::Stale { to }),
            Verdict::Failed => Err(CallError::Failed {
                to,
                reason: text(&answered.reply.head),
            }),
            Verdict::Refused => Err(unreachable(&text(&answered.reply.head))),
        }
    }

    /// A call to whoever is at `address`: before there is a map.
    pub async fn call_at(
        &self,
        address: &str,
        service: Service,
        head: Bytes,
        within: Duration,
    ) -> Result<Bytes, CallError> {
        let call = std::pin::pin!(self.attempt(NOBODY, address, service, &head, Payload::None));
        let answered = match future::select(call, self.inner.clock.sleep(within)).await {
            Either::Left((answered, _)) => answered.map_err(|failure| failure.error)?,
            Either::Right(_) => {
                return Err(CallError::NoAnswer {
                    to: NOBODY,
                    reason: format!("none within {within:?}"),
                });
            }
        };
        let text = |head: &[u8]| String::from_utf8_lossy(head).into_owned();
        let verdict = answered.verdict;
        let head = answered.reply.into_head().await?;
        match verdict {
            Verdict::Done => Ok(head),
            Verdict::Stale => Err(CallError::Stale { to: NOBODY }),
            Verdict::Failed => Err(CallError::Failed {
                to: NOBODY,
                reason: text(&head),
            }),
            Verdict::Refused => Err(CallError::Unreachable {
                to: NOBODY,
                reason: text(&head),
            }),
        }
    }

    /// Probes a node, also one that is suspected; what it says of itself is kept.
    pub(super) async fn probe(&self, to: NodeId, service: Service) {
        let head = Bytes::new();
        let probing = std::pin::pin!(self.send_once(Way::Own, to, service, &head, Payload::None));
        let timeout = self.inner.clock.sleep(self.inner.config.silence_max);
        let answered = match future::select(probing, timeout).await {
            Either::Left((Ok(answered), _)) => answered,
            _ => return self.inner.health.missed(to),
        };
        match answered.verdict {
            Verdict::Done => self.inner.health.note_report(to, answered.reply.head),
            Verdict::Stale => self.take_map(&answered.reply.head),
            Verdict::Failed | Verdict::Refused => {}
        }
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    pub(super) fn config(&self) -> &PeersConfig {
        &self.inner.config
    }

    /// Takes a map that came with an answer, if it is one and newer.
    pub(super) fn take_map(&self, bytes: &[u8]) {
        match ClusterMap::decode(bytes) {
            Ok(map) if map.cluster == self.inner.map.load().cluster => self.inner.map.update(map),
            Ok(_) => tracing::error!("a node of another cluster knows our secret"),
            Err(error) => tracing::warn!(%error, "a cluster map could not be read"),
        }
    }

    async fn send_once(
        &self,
        way: Way,
        to: NodeId,
        service: Service,
        head: &Bytes,
        payload: Payload,
    ) -> Result<Answered, CallError> {
        let address = self
            .inner
            .map
            .load()
            .node(to)
            .map(|node| node.address.clone());
        let Some(address) = address else {
            return Err(CallError::Unreachable {
                to,
                reason: "it is not in the cluster map".to_owned(),
            });
        };
        let mut payload = payload;
        loop {
            let again = match &payload {
                Payload::None => Some(Payload::None),
                Payload::Whole(bytes) => Some(Payload::Whole(bytes.clone())),
                Payload::Pieces(_) => None,
            };
            let attempted = match way {
                Way::Line => self.attempt_on_line(to, &address, service, head).await,
                Way::Own => self.attempt(to, &address, service, head, payload).await,
            };
            match attempted {
                Ok(answered) => {
                    self.inner.health.heard(to);
                    return Ok(answered);
                }
                // The other side had closed an idle connection: the next one.
                Err(Failure { error, closed }) => match again {
                    Some(again) if closed => payload = again,
                    _ => return Err(error),
                },
            }
        }
    }

    async fn attempt(
        &self,
        to: NodeId,
        address: &str,
        service: Service,
        head: &Bytes,
        payload: Payload,
    ) -> Result<Answered, Failure> {
        let epoch = self.inner.map.load().epoch;
        let no_answer = |reason: String| Failure {
            error: CallError::NoAnswer { to, reason },
            closed: false,
        };
        let unreachable = |reason: String, closed: bool| Failure {
            error: CallError::Unreachable { to, reason },
            closed,
        };
        if head.len() > HEAD_LEN_MAX {
            return Err(unreachable("the message is too long".to_owned(), false));
        }
        let (mut sender, pooled) = self
            .connection(to, address)
            .await
            .map_err(|error| Failure {
                error,
                closed: false,
            })?;
        let (sealed, mac) = self.inner.sealer.seal_call(
            service.name,
            &CallEnvelope {
                from: self.inner.own,
                to,
                epoch,
                head_len: head.len() as u32,
                digest: *blake3::hash(head).as_bytes(),
            },
        );
        let request = request(address, service, sealed, head.clone(), payload)
            .map_err(|error| unreachable(error.to_string(), false))?;
        let response = match sender.try_send_request(request).await {
            Ok(response) => response,
            // Given back: it was not sent.
            Err(mut error) => {
                let unsent = error.take_message().is_some();
                let reason = error.into_error().to_string();
                return Err(match unsent {
                    true => unreachable(reason, pooled),
                    false => no_answer(reason),
                });
            }
        };
        let link = Link {
            peers: self.clone(),
            address: address.to_owned(),
            sender,
        };
        self.read_head(to, mac, response, link)
            .await
            .map_err(|error| Failure {
                error,
                closed: false,
            })
    }

    async fn attempt_on_line(
        &self,
        to: NodeId,
        address: &str,
        service: Service,
        head: &Bytes,
    ) -> Result<Answered, Failure> {
        let open = || Box::pin(self.inner.clone().open_line(to, address.to_owned())) as _;
        let clock = &self.inner.clock;
        let (line, was_there) = self.inner.lines.to(to, address, clock, open);
        let epoch = self.inner.map.load().epoch;
        let called = line.call(service, epoch, head.clone()).await;
        let arrived = called.map_err(|error| Failure {
            closed: was_there && matches!(error, CallError::Unreachable { .. }),
            error,
        })?;
        self.note_epoch(arrived.epoch);
        Ok(Answered {
            verdict: arrived.verdict,
            reply: Reply {
                head: arrived.head,
                rest: Bytes::new(),
                body: None,
                link: None,
                to,
            },
        })
    }

    fn note_epoch(&self, theirs: Epoch) {
        if theirs > self.inner.map.load().epoch {
            self.inner.map.note_newer(theirs);
        }
    }

    async fn read_head(
        &self,
        to: NodeId,
        mac: Mac,
        response: Response<Incoming>,
        link: Link,
    ) -> Result<Answered, CallError> {
        let no_answer = |reason: &str| CallError::NoAnswer {
            to,
            reason: reason.to_owned(),
        };
        let envelope = self.inner.open_envelope(to, mac, &response)?;
        let mut body = response.into_body();
        let wanted = envelope.head_len as usize;
        let (head, rest) = read_exactly(&mut body, wanted)
            .await
            .map_err(|error| no_answer(&error))?;
        if *blake3::hash(&head).as_bytes() != envelope.digest {
            return Err(no_answer("the answer was damaged on its way"));
        }
        self.note_epoch(envelope.epoch);
        let mut reply = Reply {
            head,
            rest,
            body: Some(body),
            link: Some(link),
            to,
        };
        reply.release_at_end();
        Ok(Answered {
            verdict: envelope.verdict,
            reply,
        })
    }

    /// An idle connection, or a new one; and whether it was idle.
    async fn connection(
        &self,
        to: NodeId,
        address: &str,
    ) -> Result<(SendRequest<CallBody>, bool), CallError> {
        loop {
            let idle = self
                .inner
                .idle
                .lock()
                .get_mut(address)
                .and_then(|idle| idle.pop());
            let Some(mut sender) = idle else { break };
            if sender.ready().await.is_ok() {
                return Ok((sender, true));
            }
        }
        let (sender, connection) = self.inner.connect(to, address).await?;
        spawn(async move {
            // Whoever waits for an answer hears of it.
            let _ended = connection.await;
        });
        Ok((sender, false))
    }
}

type Http = http1::Connection<TokioIo<Box<dyn Connection>>, CallBody>;

impl Inner {
    async fn connect(
        &self,
        to: NodeId,
        address: &str,
    ) -> Result<(SendRequest<CallBody>, Http), CallError> {
        let connecting = self.net.connect(address);
        let timeout = self.clock.sleep(self.config.connect_timeout);
        let stream = match future::select(connecting, timeout).await {
            Either::Left((stream, _)) => stream,
            Either::Right(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
        };
        let stream = stream.map_err(|error| {
            if error.kind() == io::ErrorKind::ConnectionRefused && to != NOBODY {
                self.health.refused(to);
            }
            unreachable_at(to, address, &error)
        })?;
        http1::Builder::new()
            .max_buf_size(1 << 20)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable_at(to, address, &error))
    }

    /// The envelope of an answer.
    fn open_envelope<B>(
        &self,
        to: NodeId,
        mac: Mac,
        response: &Response<B>,
    ) -> Result<AnswerEnvelope, CallError> {
        let sealed = response.headers().get(ENVELOPE);
        let envelope = sealed.and_then(|text| self.sealer.open_answer(&mac, text.as_bytes()));
        envelope.ok_or_else(|| {
            // Nobody who knows the secret has answered, so nobody has done anything.
            let reason = match response.status() {
                StatusCode::UNAUTHORIZED => {
                    "it does not take our token: the cluster's secret differs"
                }
                _ => "what answers there is no node of this cluster",
            };
            CallError::Unreachable {
                to,
                reason: reason.to_owned(),
            }
        })
    }

    /// A new line to a node. Nothing was done where this fails.
    async fn open_line(
        self: Arc<Self>,
        to: NodeId,
        address: String,
    ) -> Result<(Box<dyn Connection>, LineKeys), CallError> {
        let timeout = self.clock.sleep(self.config.connect_timeout * 2);
        let opening = std::pin::pin!(self.negotiate_line(to, &address));
        match future::select(opening, timeout).await {
            Either::Left((opened, _)) => opened,
            Either::Right(_) => Err(unreachable_at(to, &address, &"no line was opened in time")),
        }
    }

    async fn negotiate_line(
        &self,
        to: NodeId,
        address: &str,
    ) -> Result<(Box<dyn Connection>, LineKeys), CallError> {
        let (mut sender, connection) = self.connect(to, address).await?;
        let mut nonce = [0; NONCE_LEN];
        self.rng.fill(&mut nonce);
        let head = Bytes::copy_from_slice(&nonce);
        let (sealed, mac) = self.sealer.seal_call(
            LINE.name,
            &CallEnvelope {
                from: self.own,
                to,
                epoch: self.map.load().epoch,
                head_len: head.len() as u32,
                digest: *blake3::hash(&head).as_bytes(),
            },
        );
        let mut request = request(address, LINE, sealed, head, Payload::None)
            .map_err(|error| unreachable_at(to, address, &error))?;
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
        let connection = connection.with_upgrades();
        spawn(async move {
            // Whoever waits for an answer hears of it.
            let _ended = connection.await;
        });
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| unreachable_at(to, address, &error))?;
        let envelope = self.open_envelope(to, mac, &response)?;
        if envelope.verdict != Verdict::Done || response.status() != StatusCode::SWITCHING_PROTOCOLS
        {
            return Err(unreachable_at(to, address, &"it opens no line for us"));
        }
        let upgraded = hyper::upgrade::on(response).await;
        let upgraded = upgraded.map_err(|error| unreachable_at(to, address, &error))?;
        // In the place of a head's digest.
        let keys = self.sealer.line_keys(&mac, &envelope.digest);
        Ok((Box::new(TokioIo::new(upgraded)), keys))
    }
}

fn unreachable_at(to: NodeId, address: &str, error: &dyn std::fmt::Display) -> CallError {
    CallError::Unreachable {
        to,
        reason: format!("{address}: {error}"),
    }
}

fn request(
    address: &str,
    service: Service,
    sealed: String,
    head: Bytes,
    payload: Payload,
) -> Result<Request<CallBody>, http::Error> {
    Request::builder()
        .method(Method::POST)
        .uri(format!("{PATH}{}", service.name))
        .header(http::header::HOST, address)
        .header(ENVELOPE, HeaderValue::from_str(&sealed)?)
        .body(CallBody {
            head: Some(head),
            payload,
        })
}

/// The first `len` bytes of a body, and what came with them.
pub(super) async fn read_exactly<B>(body: &mut B, len: usize) -> Result<(Bytes, Bytes), String>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut first = Bytes::new();
    while first.is_empty() && len > 0 {
        first = next_bytes(body).await?.ok_or("the message ended early")?;
    }
    if first.len() >= len {
        let head = first.split_to(len);
        return Ok((head, first));
    }
    let mut whole = BytesMut::with_capacity(len);
    whole.extend_from_slice(&first);
    while whole.len() < len {
        let mut next = next_bytes(body).await?.ok_or("the message ended early")?;
        let take = next.len().min(len - whole.len());
        whole.extend_from_slice(&next.split_to(take));
        if whole.len() == len {
            return Ok((whole.freeze(), next));
        }
    }
    Ok((whole.freeze(), Bytes::new()))
}

pub(super) async fn next_bytes<B>(body: &mut B) -> Result<Option<Bytes>, String>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| error.to_string())?;
        if let Ok(data) = frame.into_data()
            && !data.is_empty()
        {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

impl Reply {
    /// The next bytes of the payload; `None` at its end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        if !self.rest.is_empty() {
            return Ok(Some(std::mem::take(&mut self.rest)));
        }
        let Some(body) = &mut self.body else {
            return Ok(None);
        };
        let next = next_bytes(body).await;
        if !matches!(next, Ok(Some(_))) {
            self.body = None;
            if next.is_ok()
                && let Some(link) = self.link.take()
            {
                link.release();
            }
        } else {
            self.release_at_end();
        }
        next.map_err(|reason| CallError::NoAnswer {
            to: self.to,
            reason,
        })
    }

    /// Ends the exchange; a payload is thrown away.
    async fn into_head(mut self) -> Result<Bytes, CallError> {
        while self.next().await?.is_some() {}
        Ok(self.head)
    }

    fn release_at_end(&mut self) {
        if self.body.as_ref().is_some_and(Body::is_end_stream) {
            self.body = None;
            if let Some(link) = self.link.take() {
                link.release();
            }
        }
    }
}

impl Link {
    fn release(self) {
        if self.sender.is_closed() {
            return;
        }
        let mut idle = self.peers.inner.idle.lock();
        let idle = idle.entry(self.address).or_default();
        if idle.len() < IDLE_MAX {
            idle.push(self.sender);
        }
    }
}

/// A head and a payload as the body of a request or a response.
pub(super) struct CallBody {
    pub head: Option<Bytes>,
    pub payload: Payload,
}

impl Body for CallBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(head) = self.head.take()
            && !head.is_empty()
        {
            return Poll::Ready(Some(Ok(Frame::data(head))));
        }
        match &mut self.payload {
            Payload::None => Poll::Ready(None),
            Payload::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.payload = Payload::None;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Payload::Pieces(pieces) => {
                let piece = ready!(pieces.poll_recv(cx));
                Poll::Ready(match piece {
                    Some(Ok(Some(bytes))) => Some(Ok(Frame::data(bytes))),
                    Some(Ok(None)) => {
                        self.payload = Payload::None;
                        None
                    }
                    Some(Err(error)) => Some(Err(io::Error::other(error))),
                    None => Some(Err(io::Error::other("the payload broke off"))),
                })
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.head.as_ref().is_none_or(Bytes::is_empty)
            && match &self.payload {
                Payload::None => true,
                Payload::Whole(bytes) => bytes.is_empty(),
                Payload::Pieces(_) => false,
            }
    }

    fn size_hint(&self) -> SizeHint {
        let head = self.head.as_ref().map_or(0, Bytes::len) as u64;
        match &self.payload {
            Payload::None => SizeHint::with_exact(head),
            Payload::Whole(bytes) => SizeHint::with_exact(head + bytes.len() as u64),
            Payload::Pieces(_) => SizeHint::default(),
        }
    }
}

/// What a caller with an older map is told.
pub(super) fn is_stale(service: Service, theirs: Epoch, ours: Epoch) -> bool {
    service.fenced && theirs < ours
}
