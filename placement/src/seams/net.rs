//! Connections to other nodes, and where tasks are spawned.

use std::future::Future;
use std::io;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

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
