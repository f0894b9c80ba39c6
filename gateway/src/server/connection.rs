//! Accepts connections and speaks HTTP/1.1 on them.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use futures_util::future::BoxFuture;
use holdfast_placement::rpc::{self, LineSlot, PeerServer};
use holdfast_placement::seams::{Clock, Connection, spawn};
use http::header::{CONNECTION, EXPECT, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::header_case::HeaderCase;
use super::request_body::{Afterwards, returning};
use super::socket::Socket;
use super::{Gateway, GatewayConfig, reply};
use crate::error::{Code, S3Error};

/// Bytes that a connection buffers each way at most; also bounds the request line and header.
const CONNECTION_BUFFER_MAX: usize = 128 * 1024;

/// Header fields of a request at most: user metadata may be 2 KiB of very short ones.
const HEADERS_MAX: usize = 512;

/// `x-amz-id-2` before there is a gateway.
static NO_HOST_ID: HeaderValue = HeaderValue::from_static("-");

/// Connections that are accepted beyond those for clients: other nodes must get through when clients have taken all others.
const SPARE_CONNECTIONS: usize = 512;

/// How long such a connection may take to say whose it is.
const SPARE_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait when the system gives no more sockets.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What answers on a listener: other nodes' calls, clients' requests, and what each of them gets while it is not ready.
pub struct Front {
    config: GatewayConfig,
    clock: Arc<dyn Clock>,
    peers: OnceLock<Arc<PeerServer>>,
    gateway: OnceLock<Arc<Gateway>>,
    header_case: HeaderCase,
}

impl Front {
    /// Nothing is ready yet: `/-/live` answers, all else gets 503.
    pub fn new(config: GatewayConfig, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            config,
            clock,
            peers: OnceLock::new(),
            gateway: OnceLock::new(),
            header_case: HeaderCase::default(),
        })
    }

    /// Takes other nodes' calls from now on. Once only.
    pub fn open_to_peers(&self, peers: Arc<PeerServer>) {
        let _taken = self.peers.set(peers);
    }

    /// Takes clients' requests from now on. Once only.
    pub fn open(&self, gateway: Arc<Gateway>) {
        let _taken = self.gateway.set(gateway);
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path();
        if path.starts_with(rpc::PATH) {
            return match self.peers.get() {
                Some(peers) => peers.answer(request).await.map(Body::new),
                None => reply::plain(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "not ready\n"),
            };
        }
        match self.gateway.get() {
            Some(gateway) => gateway.answer(request).await,
            None if path == "/-/live" => reply::plain(StatusCode::OK, "text/plain", "live\n"),
            None => {
                let error = S3Error::with(
                    Code::ServiceUnavailable,
                    "The node is starting: try again in a moment.",
                );
                let is_head = request.method() == http::Method::HEAD;
                reply::error(&error, path, b"0000000000000000", &NO_HOST_ID, is_head)
            }
        }
    }
}

/// Who may use a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    All,
    /// Other nodes, and who asks how this one is. Clients are told to come again.
    NodesAlone,
}

/// Serves requests on `listener` until `shutdown` completes; then accepts no more, lets what is in flight finish within
/// the configured time, and returns.
pub fn serve(
    front: Arc<Front>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> BoxFuture<'static, io::Result<()>> {
    // Boxed here, so that it is compiled here and not again in every binary.
    Box::pin(serve_until(front, listener, Box::pin(shutdown)))
}

async fn serve_until(
    front: Arc<Front>,
    listener: TcpListener,
    mut shutdown: BoxFuture<'static, ()>,
) -> io::Result<()> {
    let connections_max = front.config.connections_max.clamp(1, 1 << 20);
    let permits = Arc::new(Semaphore::new(connections_max));
    let spare = Arc::new(Semaphore::new(SPARE_CONNECTIONS));
    let (stop, stopped) = watch::channel(());
    loop {
        let accepted = tokio::select! {
            accepted = accept(&front, &listener, &permits, &spare) => accepted,
            () = &mut shutdown => break,
        };
        let Some((stream, permit, admission)) = accepted else {
            continue;
        };
        let front = front.clone();
        let stopped = stopped.clone();
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!("TCP_NODELAY: {error}");
        }
        spawn(async move {
            converse(front, stream, admission, stopped).await;
            drop(permit);
        });
    }
    drop(listener);
    // Nobody listening any more is fine.
    let _ = stop.send(());
    let all_done = async {
        let _clients = permits.acquire_many(connections_max as u32).await;
        let _nodes = spare.acquire_many(SPARE_CONNECTIONS as u32).await;
    };
    tokio::select! {
        () = all_done => {}
        () = front.clock.sleep(front.config.shutdown_grace) => {
            tracing::warn!("requests were still in flight at the end of the grace period");
        }
    }
    Ok(())
}

async fn accept(
    front: &Front,
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
    spare: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit, Admission)> {
    let (permit, admission) = match permits.clone().try_acquire_owned() {
        Ok(permit) => (permit, Admission::All),
        Err(_) => tokio::select! {
            biased;
            permit = permits.clone().acquire_owned() => (permit.ok()?, Admission::All),
            permit = spare.clone().acquire_owned() => (permit.ok()?, Admission::NodesAlone),
        },
    };
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, permit, admission)),
        Err(error) => {
            // A client that is gone again is no news; out of descriptors is, and passes.
            if !matches!(
                error.kind(),
                io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
            ) {
                tracing::warn!("no connection could be accepted: {error}");
                front.clock.sleep(ACCEPT_PAUSE).await;
            }
            None
        }
    }
}

/// Serves one connection to its end; when `stopped` changes, to the end of the request at hand.
pub async fn converse(
    front: Arc<Front>,
    stream: impl Connection,
    admission: Admission,
    mut stopped: watch::Receiver<()>,
) {
    let linger = Arc::new(AtomicBool::new(false));
    let socket = Socket::new(
        stream,
        front.clock.clone(),
        front.config.write_stall_timeout,
        linger.clone(),
    );
    let header_read_timeout = match admission {
        Admission::All => front.config.header_read_timeout,
        Admission::NodesAlone => front.config.header_read_timeout.min(SPARE_HEADER_TIMEOUT),
    };
    let slot = LineSlot::default();
    let line = slot.clone();
    let mut line_stopped = stopped.clone();
    let clock = front.clock.clone();
    let names = front.header_case.take();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let front = front.clone();
        let linger = linger.clone();
        if request.headers().contains_key(UPGRADE) {
            request.extensions_mut().insert(slot.clone());
        }
        async move {
            let response = exchange(&front, request, admission, &linger, names).await;
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = http1::Builder::new();
    builder
        // A client that has closed its side may still read; and a handler is never dropped half-way through a commit
        // because its client went away.
        .half_close(true)
        .max_buf_size(CONNECTION_BUFFER_MAX)
        .max_headers(HEADERS_MAX)
        .timer(TokioTimer::new())
        .header_read_timeout(header_read_timeout);
    let connection = builder.serve_connection(socket, service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("connection: {error}");
    }
    if let Some(line) = line.take() {
        line.run(&clock, async {
            // An error: whoever would say it is gone.
            let _stopped = line_stopped.changed().await;
        })
        .await;
    }
}

/// What a client gets for whom there is no connection.
fn too_many(parts: &Parts) -> Response<Body> {
    let error = S3Error::with(
        Code::SlowDown,
        "There are too many connections: close some, or try again later.",
    );
    let is_head = parts.method == http::Method::HEAD;
    reply::error(
        &error,
        parts.uri.path(),
        b"0000000000000000",
        &NO_HOST_ID,
        is_head,
    )
}

/// One request and its response; `names`: which set of header names it has.
async fn exchange(
    front: &Front,
    request: Request<Incoming>,
    admission: Admission,
    linger: &AtomicBool,
    names: usize,
) -> Response<Body> {
    let expects_continue = request.headers().contains_key(EXPECT);
    let (parts, incoming) = request.into_parts();
    let (body, leftovers) = returning(incoming, expects_continue);
    let path = parts.uri.path();
    let is_turned_away = admission == Admission::NodesAlone && !path.starts_with("/-/");
    let is_of_client = !path.starts_with(rpc::PATH);
    let mut response = match is_turned_away {
        true => too_many(&parts),
        false => front.answer(Request::from_parts(parts, body)).await,
    };
    let afterwards = leftovers.settle(front.clock.as_ref()).await;
    if is_turned_away || afterwards == Afterwards::Close {
        linger.store(true, Ordering::Relaxed);
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if is_of_client {
        front.header_case.apply(&mut response, names).await;
    }
    response
}
