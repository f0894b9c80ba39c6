//! Connections of one worker: one to every endpoint, kept alive, used in turn.

use std::net::SocketAddr;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::args::Endpoint;
use super::client::Failure;
use super::upload::Upload;

/// An endpoint with its address.
#[derive(Debug, Clone)]
pub struct Target {
    pub endpoint: Endpoint,
    pub address: SocketAddr,
}

/// The connections of one worker. Must live on a `tokio::task::LocalSet`, where they are driven.
pub struct Links {
    links: Vec<Link>,
    turn: usize,
    reconnects: u64,
}

struct Link {
    address: SocketAddr,
    authority: String,
    connection: Option<Connection>,
}

/// A connection and the task that drives it, which ends with it, whatever is under way.
struct Connection {
    sender: SendRequest<Upload>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Links {
    /// Links to `targets`, none of them open, whose round begins after number `first`.
    pub fn new(targets: &[Target], first: usize) -> Self {
        let links = targets.iter().map(|target| Link {
            address: target.address,
            authority: target.endpoint.authority(),
            connection: None,
        });
        Self {
            links: links.collect(),
            turn: first,
            reconnects: 0,
        }
    }

    /// Opens them all.
    pub async fn connect(&mut self) -> Result<(), Failure> {
        for link in &mut self.links {
            link.connection = Some(open(link.address).await?);
        }
        Ok(())
    }

    /// Connections opened after the first to each endpoint.
    pub fn reconnects(&self) -> u64 {
        self.reconnects
    }

    /// Moves on to the next endpoint.
    pub fn advance(&mut self) {
        self.turn = (self.turn + 1) % self.links.len();
    }

    /// The `Host` of the endpoint whose turn it is.
    pub fn authority(&self) -> &str {
        &self.links[self.turn].authority
    }

    /// Sends `request` to the endpoint whose turn it is. A connection that went away meanwhile is opened anew; a
    /// request of which something may have been sent is not sent again.
    pub async fn exchange(
        &mut self,
        mut request: Request<Upload>,
    ) -> Result<Response<Incoming>, Failure> {
        for attempt in 0..2 {
            let link = &mut self.links[self.turn];
            let mut connection = match link.connection.take() {
                Some(connection) => connection,
                None => {
                    self.reconnects += 1;
                    open(link.address).await?
                }
            };
            if connection.sender.ready().await.is_err() {
                continue;
            }
            match connection.sender.try_send_request(request).await {
                Ok(response) => {
                    link.connection = Some(connection);
                    return Ok(response);
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if attempt == 0 => request = unsent,
                    _ => return Err(Failure::Transport(describe(error.error()))),
                },
            }
        }
        Err(Failure::Transport(format!(
            "{} closes new connections",
            self.authority()
        )))
    }

    /// Closes the connection in use, so that the next request to its endpoint opens another.
    pub fn close_current(&mut self) {
        self.links[self.turn].connection = None;
    }
}

async fn open(address: SocketAddr) -> Result<Connection, Failure> {
    let failed =
        |e: &dyn std::fmt::Display| Failure::Transport(format!("cannot connect to {address}: {e}"));
    let stream = TcpStream::connect(address).await.map_err(|e| failed(&e))?;
    stream.set_nodelay(true).map_err(|e| failed(&e))?;
    let (sender, connection) = handshake(TokioIo::new(stream))
        .await
        .map_err(|e| failed(&e))?;
    // Its errors reach the request that they concern.
    let driver = tokio::task::spawn_local(async move { drop(connection.await) });
    Ok(Connection { sender, driver })
}

/// An error with its causes.
pub fn describe(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
