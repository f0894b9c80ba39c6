//! The calling side: a pool of connections to each node.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{self, Either};
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;

use super::body::{CallBody, read_exactly};
use super::envelope::{AnswerEnvelope, CallEnvelope, ENVELOPE, Mac, Sealer};
use super::freight::{End, FREIGHT, FREIGHT_PROTOCOL, Yard};
use super::health::Health;
use super::line::{LINE, LINE_HEAD_LEN_MAX, LineKeys, Lines, NONCE_LEN, PROTOCOL};
use super::reply::{Haul, Link, Reply, Rest};
use super::{CallError, ClusterSecret, HEAD_LEN_MAX, NOBODY, PATH, Payload, Service, Verdict};
use crate::ids::{ClusterId, Epoch, NodeId};
use crate::map::{ClusterMap, SEALED_FOR_CLUSTERS, SharedMap};
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
    yard: Yard,
    idle: Mutex<HashMap<String, Vec<SendRequest<CallBody>>>>,
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
    /// On a connection that it has for itself while it lasts: by HTTP.
    Own,
    /// Likewise on a freight line; on one of HTTP where the node opens none.
    Freight,
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
                yard: Yard::default(),
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
        let way = match payload {
            Payload::None | Payload::Whole(_) if head.len() <= LINE_HEAD_LEN_MAX => Way::Freight,
            _ => Way::Own,
        };
        self.send_by(way, to, service, head, payload).await
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
        // Of a machine that was reset and is back, connections to what it was before look as good as new.
        if self.inner.health.is_suspect(to) {
            self.end_idle(to);
        }
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
            Verdict::Failed => {}
            Verdict::Refused => self.inner.health.missed(to),
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
                Way::Freight => {
                    self.attempt_on_freight(to, &address, service, head, payload)
                        .await
                }
            };
            match attempted {
                Ok(answered) => {
                    // Who refuses may be another node, which has come to the address of one that is gone.
                    if answered.verdict != Verdict::Refused {
                        self.inner.health.heard(to);
                    }
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
            self.inner.cluster_for(to),
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
                rest: Rest::Nothing,
                to,
            },
        })
    }

    async fn attempt_on_freight(
        &self,
        to: NodeId,
        address: &str,
        service: Service,
        head: &Bytes,
        payload: Payload,
    ) -> Result<Answered, Failure> {
        let now = || self.inner.clock.monotonic();
        let idle = self.inner.yard.take(address, now());
        let pooled = idle.is_some();
        let opened = match idle {
            Some(end) => Some(end),
            None if self.inner.yard.has_refused(address, now()) => None,
            None => {
                let opened = self.inner.open_freight(to, address).await;
                let opened = opened.map_err(|error| Failure {
                    error,
                    closed: false,
                })?;
                if opened.is_none() {
                    self.inner.yard.note_refusal(address, now());
                }
                opened
            }
        };
        let Some(mut end) = opened else {
            return self.attempt(to, address, service, head, payload).await;
        };
        let payload = match payload {
            Payload::Whole(bytes) => bytes,
            Payload::None | Payload::Pieces(_) => Bytes::new(),
        };
        let epoch = self.inner.map.load().epoch;
        let called = end.call(service.name, epoch, head, payload).await;
        let no_answer = |reason: String| Failure {
            error: CallError::NoAnswer { to, reason },
            closed: false,
        };
        let arrived = called.map_err(|failed| match failed.unsent {
            true => Failure {
                error: CallError::Unreachable {
                    to,
                    reason: failed.reason,
                },
                closed: pooled,
            },
            false => no_answer(failed.reason),
        })?;
        let verdict = Verdict::of(arrived.kind)
            .ok_or_else(|| no_answer("an answer of no known kind".to_owned()))?;
        self.note_epoch(arrived.epoch);
        let haul = Haul {
            end,
            peers: self.clone(),
            address: address.to_owned(),
        };
        Ok(Answered {
            verdict,
            reply: Reply {
                head: arrived.head,
                rest: haul.go_on(),
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
        let ahead = rest;
        let rest = Rest::of_http(ahead, body, link);
        Ok(Answered {
            verdict: envelope.verdict,
            reply: Reply { head, rest, to },
        })
    }

    /// Ends what waits for the next call to a node.
    fn end_idle(&self, to: NodeId) {
        if let Some(node) = self.inner.map.load().node(to) {
            self.inner.yard.clear(&node.address);
            self.inner.idle.lock().remove(&node.address);
        }
    }

    /// Keeps a connection whose call is done.
    pub(super) fn keep(&self, address: String, sender: SendRequest<CallBody>) {
        let mut idle = self.inner.idle.lock();
        let idle = idle.entry(address).or_default();
        if idle.len() < IDLE_MAX {
            idle.push(sender);
        }
    }

    /// Keeps a freight line whose call is done.
    pub(super) fn keep_freight(&self, address: &str, end: End) {
        let now = self.inner.clock.monotonic();
        self.inner.yard.give(address, now, end);
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

    /// The cluster that calls to a node are meant for, if it looks at that.
    fn cluster_for(&self, to: NodeId) -> Option<ClusterId> {
        let map = self.map.load();
        let node = map.node(to)?;
        (node.feature >= SEALED_FOR_CLUSTERS).then_some(map.cluster)
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
                    "it does not take our token: the cluster's secret differs, or it belongs to another cluster"
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
        let opened = self.open_in_time(to, &address, LINE, PROTOCOL).await?;
        opened.ok_or_else(|| unreachable_at(to, &address, &"it opens no line for us"))
    }

    /// [`negotiate_line`](Inner::negotiate_line), unless the node takes too long: it may be out of connections.
    async fn open_in_time(
        &self,
        to: NodeId,
        address: &str,
        service: Service,
        protocol: &'static str,
    ) -> Result<Option<(Box<dyn Connection>, LineKeys)>, CallError> {
        let timeout = self.clock.sleep(self.config.connect_timeout * 2);
        let opening = std::pin::pin!(self.negotiate_line(to, address, service, protocol));
        match future::select(opening, timeout).await {
            Either::Left((opened, _)) => opened,
            Either::Right(_) => Err(unreachable_at(to, address, &"no line was opened in time")),
        }
    }

    /// A new freight line to a node; `None` if it opens none. Nothing was done where this fails.
    async fn open_freight(&self, to: NodeId, address: &str) -> Result<Option<End>, CallError> {
        let negotiated = self
            .open_in_time(to, address, FREIGHT, FREIGHT_PROTOCOL)
            .await?;
        Ok(negotiated
            .map(|(connection, keys)| End::of_caller(connection, &keys, self.clock.clone())))
    }

    /// A connection that has become a line; `None` if the node does not know of such.
    async fn negotiate_line(
        &self,
        to: NodeId,
        address: &str,
        service: Service,
        protocol: &'static str,
    ) -> Result<Option<(Box<dyn Connection>, LineKeys)>, CallError> {
        let (mut sender, connection) = self.connect(to, address).await?;
        let mut nonce = [0; NONCE_LEN];
        self.rng.fill(&mut nonce);
        let head = Bytes::copy_from_slice(&nonce);
        let (sealed, mac) = self.sealer.seal_call(
            service.name,
            &CallEnvelope {
                from: self.own,
                to,
                epoch: self.map.load().epoch,
                head_len: head.len() as u32,
                digest: *blake3::hash(&head).as_bytes(),
            },
            self.cluster_for(to),
        );
        let mut request = request(address, service, sealed, head, Payload::None)
            .map_err(|error| unreachable_at(to, address, &error))?;
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(protocol));
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
            return Ok(None);
        }
        let upgraded = hyper::upgrade::on(response).await;
        let upgraded = upgraded.map_err(|error| unreachable_at(to, address, &error))?;
        // In the place of a head's digest.
        let keys = self.sealer.line_keys(&mac, &envelope.digest);
        Ok(Some((Box::new(TokioIo::new(upgraded)), keys)))
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

/// What a caller with an older map is told.
pub(super) fn is_stale(service: Service, theirs: Epoch, ours: Epoch) -> bool {
    service.fenced && theirs < ours
}
