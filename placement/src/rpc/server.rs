//! The answering side.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;

use super::client::{CallBody, is_stale, next_bytes, read_exactly};
use super::envelope::{AnswerEnvelope, ENVELOPE, Mac, Sealer};
use super::{Answer, Call, ClusterSecret, Handler, NOBODY, PATH, Payload, Service, Verdict};
use crate::ids::NodeId;
use crate::map::SharedMap;
use crate::planted::{Bug, planted};

/// Who answers.
pub struct PeerServerConfig {
    pub own: NodeId,
    pub secret: ClusterSecret,
    pub map: SharedMap,
}

/// Answers the calls of other nodes. Give it the requests for [`PATH`].
pub struct PeerServer {
    own: NodeId,
    sealer: Sealer,
    map: SharedMap,
    services: HashMap<&'static str, (Service, Handler)>,
}

type Bytestream = Pin<Box<dyn Body<Data = Bytes, Error = String> + Send>>;

/// The payload of a call.
pub struct CallPayload {
    rest: Bytes,
    body: Bytestream,
}

impl CallPayload {
    /// The next bytes; `None` at the end. An error where the caller broke off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, String> {
        if !self.rest.is_empty() {
            return Ok(Some(std::mem::take(&mut self.rest)));
        }
        next_bytes(&mut self.body).await
    }
}

impl PeerServer {
    pub fn new(config: PeerServerConfig) -> Self {
        Self {
            own: config.own,
            sealer: Sealer::new(&config.secret),
            map: config.map,
            services: HashMap::new(),
        }
    }

    /// Offers a service.
    pub fn offer(&mut self, service: Service, handler: Handler) {
        self.services.insert(service.name, (service, handler));
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
        match self.admit(request).await {
            Ok((mac, verdict, answer)) => self.respond(&mac, verdict, answer),
            Err(status) => {
                let mut response = Response::new(CallBody {
                    head: None,
                    payload: Payload::None,
                });
                *response.status_mut() = status;
                response
            }
        }
    }

    async fn admit<B>(&self, request: Request<B>) -> Result<(Mac, Verdict, Answer), StatusCode>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let name = request.uri().path().strip_prefix(PATH).unwrap_or_default();
        let sealed = request.headers().get(ENVELOPE);
        let opened = sealed.and_then(|text| self.sealer.open_call(name, text.as_bytes()));
        let Some((envelope, mac)) = opened.filter(|_| request.method() == Method::POST) else {
            return Err(StatusCode::UNAUTHORIZED);
        };
        let refuse = |text: String| Ok((mac, Verdict::Refused, Answer::head(text)));
        if envelope.to != self.own && envelope.to != NOBODY {
            return refuse(format!("{} is here, not {}", self.own, envelope.to));
        }
        let Some((service, handler)) = self.services.get(name) else {
            return refuse(format!("there is no service {name:?} here"));
        };
        let mut body = request.into_body();
        let read = read_exactly(&mut body, envelope.head_len as usize).await;
        let Ok((head, rest)) = read else {
            return Err(StatusCode::BAD_REQUEST);
        };
        if *blake3::hash(&head).as_bytes() != envelope.digest {
            return Err(StatusCode::BAD_REQUEST);
        }
        let map = self.map.load();
        let is_stale = is_stale(*service, envelope.epoch, map.epoch);
        if is_stale && envelope.to != NOBODY && !planted(Bug::IgnoreEpoch) {
            return Ok((mac, Verdict::Stale, Answer::head(map.encode())));
        }
        if envelope.epoch > map.epoch {
            self.map.note_newer(envelope.epoch);
        }
        drop(map);
        let body: Bytestream = Box::pin(body.map_err(|error| error.to_string()));
        let call = Call {
            from: envelope.from,
            epoch: envelope.epoch,
            head,
            payload: CallPayload { rest, body },
        };
        let done = std::panic::AssertUnwindSafe(handler(call)).catch_unwind();
        Ok(match done.await {
            Ok(Ok(answer)) => (mac, Verdict::Done, answer),
            Ok(Err(reason)) => (mac, Verdict::Failed, Answer::head(reason)),
            Err(_) => {
                tracing::error!(service = service.name, "a service panicked");
                (mac, Verdict::Failed, Answer::head("it panicked"))
            }
        })
    }

    fn respond(&self, mac: &Mac, verdict: Verdict, answer: Answer) -> Response<CallBody> {
        let sealed = self.sealer.seal_answer(
            mac,
            &AnswerEnvelope {
                verdict,
                epoch: self.map.load().epoch,
                head_len: answer.head.len() as u32,
                digest: *blake3::hash(&answer.head).as_bytes(),
            },
        );
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
