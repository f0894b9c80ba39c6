//! Connections to other nodes, and where tasks and blocking work go.

use std::future::Future;
use std::io;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::{Handle, RuntimeFlavor};

/// A connection: bytes both ways, in order.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connection for T {}

/// Makes connections to other nodes.
pub trait Net: Send + Sync + 'static {
    /// Connects to `address`, `HOST:PORT`. Takes as long as the system lets it: the caller bounds it.
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Connection>>>;
}

/// The operating system's TCP.
#[derive(Debug, Clone, Copy)]
pub struct SystemNet;

impl Net for SystemNet {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        let address = address.to_owned();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        })
    }
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

/// Does work that may block, on a thread for that; on a runtime that has one thread it is done in place, so that nothing
/// runs beside that thread: such a runtime is a simulation's, or a test's, and what happens in which order is its own
/// affair alone.
///
/// # Errors
/// If the work panicked.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    if is_single_threaded() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}

/// Whether the runtime at hand has one thread.
pub(crate) fn is_single_threaded() -> bool {
    let flavor = Handle::current().runtime_flavor();
    flavor == RuntimeFlavor::CurrentThread
}
