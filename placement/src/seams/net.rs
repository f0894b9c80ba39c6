//! Messages between nodes, and where tasks are spawned.

use std::future::Future;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::ids::NodeId;

/// Why a call to another node gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NetError {
    /// Nothing was sent: the call is known not to have happened.
    #[error("{to} cannot be reached: {reason}")]
    Unreachable { to: NodeId, reason: String },
    /// Sent, but no answer came: the call may or may not have happened.
    #[error("no answer from {to}: {reason}")]
    NoAnswer { to: NodeId, reason: String },
}

/// Calls to other nodes: one request, one response, no order between calls.
pub trait Net: Send + Sync + 'static {
    /// Sends `message` to the service called `path` on node `to`.
    fn call(
        &self,
        to: NodeId,
        path: &'static str,
        message: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, NetError>>;
}

/// Spawns a task on the runtime at hand. The only place of the library crates that does.
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub fn spawn<F>(task: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(task)
}
