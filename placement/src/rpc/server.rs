//! The answering side.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;

use super::body::{CallBody, next_bytes, read_exactly};
use super::client::is_stale;
use super::envelope::{AnswerEnvelope, ENVELOPE, Mac, Sealer};
use super::freight::{Back, End, Landing, TOO_MUCH, put_down};
use super::in_time;
use super::line::{NONCE_LEN, Opener};
use super::{Answer, Call, ClusterSecret, Handler, NOBODY, PATH, Payload, Service, Verdict};
use crate::ids::{Epoch, NodeId};
use crate::map::SharedMap;
use crate::planted::{Bug, planted};
use crate::seams::{Clock, Rng};

/// Who answers.
pub struct PeerServerConfig {
    pub own: NodeId,
    pub secret: ClusterSecret,
    pub map: SharedMap,
    pub clock: Arc<dyn Clock>,
    pub rng: Arc<dyn Rng>,
}

/// Answers the calls of other nodes. Give it the requests for [`PATH`].
pub struct PeerServer {
    own: NodeId,
    sealer: Sealer,
    map: SharedMap,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    services: HashMap<&'static str, (Service, Handler)>,
}

const BROKEN_OFF: &str = "the payload broke off";

type Bytestream = Pin<Box<dyn Body<Data = Bytes, Error = String> + Send>>;

/// The payload of a call.
pub struct CallPayload {
    source: Source,
}

enum Source {
    None,
    Http {
        rest: Bytes,
        body: Bytestream,
        clock: Arc<dyn Clock>,
    },
    /// `None` where it broke off.
    Freight(Option<End>, Back),
}

impl CallPayload {
    /// Of a call that has none.
    pub(super) fn none() -> Self {
        Self {
            source: Source::None,
        }
    }

    /// What comes on a freight line. Its end goes `back` when the service lets go of the payload.
    pub(super) fn of_freight(end: End, back: Back) -> Self {
        Self {
            source: Source::Freight(Some(end), back),
        }
    }

    fn of_http(rest: Bytes, body: Bytestream, clock: Arc<dyn Clock>) -> Self {
        Self {
            source: Source::Http { rest, body, clock },
        }
    }

    /// The next bytes; `None` at the end. An error where the caller broke off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, String> {
        match &mut self.source {
            Source::None => Ok(None),
            Source::Http { rest, .. } if !rest.is_empty() => Ok(Some(std::mem::take(rest))),
            Source::Http { body, clock, .. } => in_time(clock, next_bytes(body)).await,
            Source::Freight(end, _) => {
                let line = end.as_mut().ok_or(BROKEN_OFF)?;
                line.next().await.inspect_err(|_| *end = None)
            }
        }
    }

    /// Takes all that comes to where it is to lie, to the end. An error where the caller broke off, or where more came than there
    /// is room for.
    pub async fn land(&mut self, landing: &mut dyn Landing) -> Result<(), String> {
        if let Source::Freight(end, _) = &mut self.source {
            let line = end.as_mut().ok_or(BROKEN_OFF)?;
            let landed = line.land(landing).await.inspect_err(|_| *end = None)?;
            return landed.then_some(()).ok_or_else(|| TOO_MUCH.to_owned());
        }
        while let Some(bytes) = self.next().await? {
            if !put_down(&bytes, landing) {
                return Err(TOO_MUCH.to_owned());
            }
        }
        Ok(())
    }
}

impl Drop for CallPayload {
    fn drop(&mut self) {
        if let Source::Freight(end, back) = &mut self.source
            && let Some(end) = end.take()
        {
            back.give(end);
        }
    }
}

impl PeerServer {
    pub fn new(config: PeerServerConfig) -> Self {
        Self {
            own: config.own,
            sealer: Sealer::new(&config.secret),
            map: config.map,
            clock: config.clock,
            rng: config.rng,
            services: HashMap::new(),
        }
    }

    /// Offers a service.
    pub fn offer(&mut self, service: Service, handler: Handler) {
        self.services.insert(service.name, (service, handler));
    }

    /// The epoch of the map that is known here.
    pub(super) fn epoch(&self) -> Epoch {
        self.map.load().epoch
    }

    /// Answers one request. Who does not know the secret gets 401 and nothing else.
    pub async fn answer<B>(
        self: &Arc<Self>,
        request: Request<B>,
    ) -> Response<impl Body<Data = Bytes, Error = std::io::Error> + Send + 'static + use<B>>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        self.admit(request).await.unwrap_or_else(|status| {
            let mut response = Response::new(CallBody {
                head: None,
                payload: Payload::None,
            });
            *response.status_mut() = status;
            response
        })
    }

    async fn admit<B>(
        self: &Arc<Self>,
        mut request: Request<B>,
    ) -> Result<Response<CallBody>, StatusCode>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let name = request.uri().path().strip_prefix(PATH).unwrap_or_default();
        let sealed = request.headers().get(ENVELOPE);
        let cluster = self.map.load().cluster;
        let opened = sealed.and_then(|text| self.sealer.open_call(name, text.as_bytes(), cluster));
        let Some((envelope, mac)) = opened.filter(|_| request.method() == Method::POST) else {
            return Err(StatusCode::UNAUTHORIZED);
        };
        if envelope.to != self.own && envelope.to != NOBODY {
            let reason = format!("{} is here, not {}", self.own, envelope.to);
            return Ok(self.respond(&mac, Verdict::Refused, Answer::head(reason)));
        }
        let name = name.to_owned();
        let opener = Opener::of(&name, &mut request);
        let mut body = request.into_body();
        let reading = read_exactly(&mut body, envelope.head_len as usize);
        let read = in_time(&self.clock, reading).await;
        let Ok((head, rest)) = read else {
            return Err(StatusCode::BAD_REQUEST);
        };
        if *blake3::hash(&head).as_bytes() != envelope.digest {
            return Err(StatusCode::BAD_REQUEST);
        }
        if let Some(opener) = opener {
            return Ok(self.open_line(opener, &mac, envelope.from));
        }
        let body: Bytestream = Box::pin(body.map_err(|error| error.to_string()));
        // Who does not know the nodes yet has no map that could be old.
        let epoch = match envelope.to {
            NOBODY => envelope.epoch.max(self.epoch()),
            _ => envelope.epoch,
        };
        let payload = CallPayload::of_http(rest, body, self.clock.clone());
        let (verdict, answer) = self
            .decide(&name, envelope.from, epoch, head, payload)
            .await;
        Ok(self.respond(&mac, verdict, answer))
    }

    fn open_line(self: &Arc<Self>, opener: Opener, mac: &Mac, from: NodeId) -> Response<CallBody> {
        let mut nonce = [0; NONCE_LEN];
        self.rng.fill(&mut nonce);
        let keys = self.sealer.line_keys(mac, &nonce);
        let sealed = AnswerEnvelope {
            verdict: Verdict::Done,
            epoch: self.epoch(),
            head_len: 0,
            // In the place of the digest of a head: nothing follows but frames.
            digest: nonce,
        };
        let mut response = self.sealed(mac, &sealed, Answer::head(Bytes::new()));
        opener.open(self, keys, from, &mut response);
        response
    }

    /// Does a call of a service, if the caller's map is as new as what is known here.
    pub(super) async fn decide(
        &self,
        name: &str,
        from: NodeId,
        epoch: Epoch,
        head: Bytes,
        payload: CallPayload,
    ) -> (Verdict, Answer) {
        let Some((service, handler)) = self.services.get(name) else {
            let reason = format!("there is no service {name:?} here");
            return (Verdict::Refused, Answer::head(reason));
        };
        let map = self.map.load();
        if is_stale(*service, epoch, map.epoch) && !planted(Bug::IgnoreEpoch) {
            return (Verdict::Stale, Answer::head(map.encode()));
        }
        if epoch > map.epoch {
            self.map.note_newer(epoch);
        }
        drop(map);
        let call = Call {
            from,
            epoch,
            head,
            payload,
        };
        let done = std::panic::AssertUnwindSafe(handler(call)).catch_unwind();
        match done.await {
            Ok(Ok(answer)) => (Verdict::Done, answer),
            Ok(Err(reason)) => (Verdict::Failed, Answer::head(reason)),
            Err(_) => {
                tracing::error!(service = service.name, "a service panicked");
                (Verdict::Failed, Answer::head("it panicked"))
            }
        }
    }

    fn respond(&self, mac: &Mac, verdict: Verdict, answer: Answer) -> Response<CallBody> {
        let envelope = AnswerEnvelope {
            verdict,
            epoch: self.epoch(),
            head_len: answer.head.len() as u32,
            digest: *blake3::hash(&answer.head).as_bytes(),
        };
        self.sealed(mac, &envelope, answer)
    }

    fn sealed(&self, mac: &Mac, envelope: &AnswerEnvelope, answer: Answer) -> Response<CallBody> {
        let sealed = self.sealer.seal_answer(mac, envelope);
        let mut response = Response::new(CallBody {
            head: Some(answer.head),
            payload: answer.payload,
        });
        if let Ok(value) = HeaderValue::from_str(&sealed) {
            response.headers_mut().insert(ENVELOPE, value);
        }
        response
    }
}
