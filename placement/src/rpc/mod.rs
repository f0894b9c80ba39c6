//! Calls between nodes: HTTP/1.1 on pooled connections.
//!
//! A call is `POST /-/peer/<service>`; its body is a *head* (a message of the service, postcard) and after it an optional
//! *payload* (raw bytes: a shard, an image). One header, [`ENVELOPE`], says who calls whom, with which epoch, how long
//! the head is, and has a MAC by the cluster's secret over all that and the head; the answer has the same, bound to its
//! call. Payloads carry checksums of their own. The secret never crosses the wire; what does is readable.
//!
//! **Epochs.** Both sides say the epoch of their cluster map. A receiver that knows a newer one than its caller does not
//! do what it was asked but answers with the map ([`Verdict::Stale`]); the caller takes it and calls once more. A
//! caller that learns of a newer epoch asks for the map in the background. So a node that slept through a change can
//! do no harm with what it believes.
//!
//! **Lines.** Small calls without payloads go over one connection for all, many at once: see [`line`]. Calls with payloads go one
//! at a time over connections without HTTP: see [`freight`].

mod body;
mod client;
mod envelope;
mod follow;
mod freight;
mod health;
mod line;
mod reply;
mod secret;
mod server;

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{self, BoxFuture, Either};
use tokio::sync::mpsc;

use crate::ids::{Epoch, NodeId};
use crate::seams::Clock;

pub use client::{Peers, PeersConfig};
pub use envelope::ENVELOPE;
pub use follow::{MAP, PROBE};
pub use freight::Landing;
pub use health::Health;
pub use line::{LineServer, LineSlot};
pub use reply::Reply;
pub use secret::{ClusterSecret, ParseSecretError};
pub use server::{CallPayload, PeerServer, PeerServerConfig};

/// Where calls go: `/-/peer/<service>`.
pub const PATH: &str = "/-/peer/";

/// Bytes of a head at most.
pub const HEAD_LEN_MAX: usize = 32 << 20;

/// A node that has no id (yet): one that joins, or a gateway of its own.
pub const NOBODY: NodeId = NodeId(0);

/// The services that nodes offer. Names are part of the protocol: stable.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Service {
    pub name: &'static str,
    /// Whether a caller with an older map is answered with the map instead.
    pub fenced: bool,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Bytes that follow a head.
pub enum Payload {
    None,
    Whole(Bytes),
    /// Pieces as they come; the call fails where the sender ends without having sent `Ok(None)`.
    Pieces(mpsc::Receiver<Result<Option<Bytes>, String>>),
}

/// Why a call gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// Nothing was done: the call did not arrive, or was turned away.
    #[error("{to} cannot be reached: {reason}")]
    Unreachable { to: NodeId, reason: String },
    /// No answer came: the call may or may not have been done.
    #[error("no answer from {to}: {reason}")]
    NoAnswer { to: NodeId, reason: String },
    /// Maps differ, although the newest known here was used. Nothing was done.
    #[error("{to} has another cluster map")]
    Stale { to: NodeId },
    /// The other side says that it failed; whether anything was done, the service says.
    #[error("{to} failed: {reason}")]
    Failed { to: NodeId, reason: String },
}

impl CallError {
    /// Whether the call is known not to have been done.
    pub fn is_void(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Stale { .. })
    }
}

/// A call as a service gets it.
pub struct Call {
    pub from: NodeId,
    pub epoch: Epoch,
    pub head: Bytes,
    pub payload: CallPayload,
}

/// What a service answers.
pub struct Answer {
    pub head: Bytes,
    pub payload: Payload,
}

impl Answer {
    /// An answer without a payload.
    pub fn head(head: impl Into<Bytes>) -> Self {
        Self {
            head: head.into(),
            payload: Payload::None,
        }
    }
}

/// Does the calls of a service. An error is a failure of the service itself; what it decides is in the answer's head.
pub type Handler =
    Box<dyn Fn(Call) -> BoxFuture<'static, Result<Answer, String>> + Send + Sync + 'static>;

/// How an answer begins; persisted nowhere, but spoken between versions: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Done,
    /// The head is the newest cluster map; nothing was done.
    Stale,
    /// The head is text; the service failed.
    Failed,
    /// The head is text; nothing was done.
    Refused,
}

impl Verdict {
    fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Stale => 1,
            Self::Failed => 2,
            Self::Refused => 3,
        }
    }

    fn of(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Done,
            1 => Self::Stale,
            2 => Self::Failed,
            3 => Self::Refused,
            _ => return None,
        })
    }
}

/// How long nothing may come of a message that has begun, and how long an answer may take to begin.
const STALL_MAX: Duration = Duration::from_secs(60);

/// Waits for the other side, which may have gone without a word.
async fn in_time<T>(
    clock: &Arc<dyn Clock>,
    waiting: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    match future::select(pin!(waiting), clock.sleep(STALL_MAX)).await {
        Either::Left((done, _)) => done,
        Either::Right(_) => Err(format!("nothing came for {STALL_MAX:?}")),
    }
}

/// Encodes a message of a service.
pub fn encode<T: serde::Serialize>(message: &T) -> Result<Bytes, postcard::Error> {
    postcard::to_stdvec(message).map(Bytes::from)
}

/// Decodes one.
pub fn decode<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    postcard::from_bytes(bytes).map_err(|error| format!("a message of no known form: {error}"))
}
