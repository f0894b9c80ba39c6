//! Answers, and the connections on which their payloads still come.

use std::future::Future;

use bytes::Bytes;
use futures_util::future::{self, Either};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;

use super::body::{CallBody, next_bytes};
use super::freight::{End, Landing, TOO_MUCH, put_down};
use super::{CallError, Peers};
use crate::ids::NodeId;

/// The answer to a call.
pub struct Reply {
    pub head: Bytes,
    pub(super) rest: Rest,
    pub(super) to: NodeId,
}

/// What still comes of an answer.
pub(super) enum Rest {
    Nothing,
    /// More was to come, and does not.
    Lost,
    Http {
        ahead: Bytes,
        body: Incoming,
        link: Link,
    },
    Freight(Haul),
}

/// A freight line on which an answer's payload comes.
pub(super) struct Haul {
    pub end: End,
    pub peers: Peers,
    pub address: String,
}

/// A connection that goes back to the pool when its answer was read to the end.
pub(super) struct Link {
    pub peers: Peers,
    pub address: String,
    pub sender: SendRequest<CallBody>,
}

impl Reply {
    /// The next bytes of the payload; `None` at its end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        let next = match std::mem::replace(&mut self.rest, Rest::Lost) {
            Rest::Nothing => {
                self.rest = Rest::Nothing;
                return Ok(None);
            }
            Rest::Lost => Err("it was not read to its end".to_owned()),
            Rest::Http {
                ahead,
                mut body,
                link,
            } => {
                let next = match ahead.is_empty() {
                    true => next_bytes(&mut body).await,
                    false => Ok(Some(ahead)),
                };
                match &next {
                    Ok(Some(_)) => self.rest = Rest::of_http(Bytes::new(), body, link),
                    Ok(None) => {
                        link.release();
                        self.rest = Rest::Nothing;
                    }
                    Err(_) => {}
                }
                next
            }
            Rest::Freight(mut haul) => {
                let suspicion = haul.suspicion(self.to);
                let next = unless_gone(haul.end.next(), suspicion).await;
                if next.is_ok() {
                    self.rest = haul.go_on();
                }
                next
            }
        };
        next.map_err(|reason| self.broken_off(reason))
    }

    /// Takes the payload to where it is to lie, to its end.
    pub async fn land(&mut self, landing: &mut dyn Landing) -> Result<(), CallError> {
        let too_much = CallError::Failed {
            to: self.to,
            reason: TOO_MUCH.to_owned(),
        };
        if let Rest::Freight(_) = &self.rest
            && let Rest::Freight(mut haul) = std::mem::replace(&mut self.rest, Rest::Lost)
        {
            let suspicion = haul.suspicion(self.to);
            let landed = unless_gone(haul.end.land(landing), suspicion).await;
            let landed = landed.map_err(|reason| self.broken_off(reason))?;
            self.rest = haul.go_on();
            return landed.then_some(()).ok_or(too_much);
        }
        while let Some(bytes) = self.next().await? {
            if !put_down(&bytes, landing) {
                return Err(too_much);
            }
        }
        Ok(())
    }

    /// Ends the exchange; a payload is thrown away.
    pub(super) async fn into_head(mut self) -> Result<Bytes, CallError> {
        while self.next().await?.is_some() {}
        Ok(self.head)
    }

    fn broken_off(&self, reason: String) -> CallError {
        CallError::NoAnswer {
            to: self.to,
            reason,
        }
    }
}

impl Rest {
    pub fn of_http(ahead: Bytes, body: Incoming, link: Link) -> Self {
        if ahead.is_empty() && body.is_end_stream() {
            link.release();
            return Self::Nothing;
        }
        Self::Http { ahead, body, link }
    }
}

impl Haul {
    /// The line goes back when all has come.
    pub fn go_on(self) -> Rest {
        if !self.end.is_through() {
            return Rest::Freight(self);
        }
        self.peers.keep_freight(&self.address, self.end);
        Rest::Nothing
    }

    fn suspicion(&self, of: NodeId) -> impl Future<Output = ()> + Send + 'static {
        self.peers.health().of(of).suspicion()
    }
}

/// Takes of a payload until it is suspected that its sender is gone.
async fn unless_gone<T>(
    taking: impl Future<Output = Result<T, String>>,
    suspicion: impl Future<Output = ()>,
) -> Result<T, String> {
    let (taking, suspicion) = (std::pin::pin!(taking), std::pin::pin!(suspicion));
    match future::select(taking, suspicion).await {
        Either::Left((taken, _)) => taken,
        Either::Right(_) => Err("it does not answer any more".to_owned()),
    }
}

impl Link {
    fn release(self) {
        if !self.sender.is_closed() {
            self.peers.keep(self.address, self.sender);
        }
    }
}
