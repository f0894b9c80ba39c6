//! Accepts connections and speaks HTTP/1.1 on them.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use holdfast_placement::seams::spawn;
use http::header::{CONNECTION, EXPECT};
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::Gateway;
use super::request_body::{Afterwards, returning};
use super::socket::Socket;

/// Bytes that a connection buffers each way at most; also bounds the request line and header.
const CONNECTION_BUFFER_MAX: usize = 128 * 1024;

/// Header fields of a request at most: user metadata may be 2 KiB of very short ones.
const HEADERS_MAX: usize = 512;

/// How long to wait when the system gives no more sockets.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves requests on `listener` until `shutdown` completes; then accepts no more, lets what is in flight finish within
/// the configured time, and returns.
pub async fn serve(
    gateway: Arc<Gateway>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let connections_max = gateway.config.connections_max.clamp(1, 1 << 20);
    let permits = Arc::new(Semaphore::new(connections_max));
    let (stop, stopped) = watch::channel(());
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&gateway, &listener, &permits) => accepted,
            () = &mut shutdown => break,
        };
        let Some((stream, permit)) = accepted else {
            continue;
        };
        let gateway = gateway.clone();
        let stopped = stopped.clone();
        spawn(async move {
            converse(gateway, stream, stopped).await;
            drop(permit);
        });
    }
    drop(listener);
    // Nobody listening any more is fine.
    let _ = stop.send(());
    let all_done = permits.acquire_many(connections_max as u32);
    tokio::select! {
        _ = all_done => {}
        () = gateway.clock.sleep(gateway.config.shutdown_grace) => {
            tracing::warn!("requests were still in flight at the end of the grace period");
        }
    }
    Ok(())
}

async fn accept(
    gateway: &Gateway,
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, permit)),
        Err(error) => {
            // A client that is gone again is no news; out of descriptors is, and passes.
            if !matches!(
                error.kind(),
                io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
            ) {
                tracing::warn!("no connection could be accepted: {error}");
                gateway.clock.sleep(ACCEPT_PAUSE).await;
            }
            None
        }
    }
}

/// Serves one connection to its end.
async fn converse(gateway: Arc<Gateway>, stream: TcpStream, mut stopped: watch::Receiver<()>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("TCP_NODELAY: {error}");
    }
    let linger = Arc::new(AtomicBool::new(false));
    let socket = Socket::new(
        stream,
        gateway.clock.clone(),
        gateway.config.write_stall_timeout,
        linger.clone(),
    );
    let header_read_timeout = gateway.config.header_read_timeout;
    let service = service_fn(move |request| {
        let gateway = gateway.clone();
        let linger = linger.clone();
        async move { Ok::<_, Infallible>(exchange(&gateway, request, &linger).await) }
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
    let mut connection = std::pin::pin!(builder.serve_connection(socket, service));
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
}

/// One request and its response.
async fn exchange(
    gateway: &Gateway,
    request: Request<Incoming>,
    linger: &AtomicBool,
) -> Response<Body> {
    let expects_continue = request.headers().contains_key(EXPECT);
    let (parts, incoming) = request.into_parts();
    let (body, leftovers) = returning(incoming, expects_continue);
    let mut response = gateway.answer(Request::from_parts(parts, body)).await;
    if leftovers.settle(gateway.clock.as_ref()).await == Afterwards::Close {
        linger.store(true, Ordering::Relaxed);
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
