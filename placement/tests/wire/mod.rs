//! Nodes that speak over loopback, each with a server that can be closed and opened again.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test, on the system's clock"
)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use holdfast_placement::ids::{DriveId, NodeId};
use holdfast_placement::map::{ClusterMap, SharedMap};
use holdfast_placement::protection::Protection;
use holdfast_placement::rpc::{
    Answer, ClusterSecret, LineSlot, PROBE, PeerServer, PeerServerConfig, Peers, PeersConfig,
};
use holdfast_placement::seams::{Clock, SeededRng, SystemClock, SystemNet, SystemRng};
use holdfast_placement::testing::map_of;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// One node's way to the others.
pub struct Wire {
    pub own: NodeId,
    pub map: SharedMap,
    pub peers: Peers,
    pub address: SocketAddr,
    /// Connections that were accepted.
    pub accepted: Arc<AtomicUsize>,
    /// Whether the server makes lines of connections.
    pub opens_lines: bool,
    serving: Option<AbortHandle>,
    stop: Option<watch::Sender<()>>,
}

pub fn secret(seed: u64) -> ClusterSecret {
    ClusterSecret::random(&SeededRng::new(seed))
}

/// A map of `count` nodes, node N with drive N, and a listener for each.
pub async fn lay(count: u64) -> (ClusterMap, Vec<TcpListener>) {
    let drives: Vec<_> = (1..=count).map(|id| (DriveId(id), NodeId(id))).collect();
    let mut map = map_of(&drives, Protection::NONE);
    let mut listeners = Vec::new();
    for node in &mut map.nodes {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        node.address = listener.local_addr().unwrap().to_string();
        listeners.push(listener);
    }
    (map, listeners)
}

impl Wire {
    pub fn new(own: NodeId, map: ClusterMap, secret: &ClusterSecret) -> Self {
        let address = map.node(own).map(|node| node.address.parse().unwrap());
        let map = SharedMap::new(map);
        Self {
            own,
            peers: Peers::new(
                own,
                secret,
                map.clone(),
                Arc::new(SystemNet),
                Arc::new(SystemClock),
                Arc::new(SystemRng),
                PeersConfig::default(),
            ),
            map,
            address: address.unwrap_or_else(|| ([127, 0, 0, 1], 1).into()),
            accepted: Arc::default(),
            opens_lines: true,
            serving: None,
            stop: None,
        }
    }

    /// A server without services but probes.
    pub fn server(&self, secret: &ClusterSecret) -> PeerServer {
        let mut server = PeerServer::new(PeerServerConfig {
            own: self.own,
            secret: secret.clone(),
            map: self.map.clone(),
            clock: Arc::new(SystemClock),
            rng: Arc::new(SystemRng),
        });
        server.offer(
            PROBE,
            Box::new(|_| Box::pin(async { Ok(Answer::head(vec![1])) })),
        );
        server
    }

    pub fn serve(&mut self, listener: TcpListener, server: PeerServer) {
        let server = Arc::new(server);
        let accepted = self.accepted.clone();
        let opens_lines = self.opens_lines;
        let (stop, stopped) = watch::channel(());
        self.stop = Some(stop);
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                accepted.fetch_add(1, Ordering::Relaxed);
                let mut stopped = stopped.clone();
                let server = server.clone();
                connections.spawn(async move {
                    let slot = LineSlot::default();
                    let line = slot.clone();
                    let service = service_fn(move |mut request: Request<Incoming>| {
                        let server = server.clone();
                        if opens_lines {
                            request.extensions_mut().insert(slot.clone());
                        }
                        async move { Ok::<_, Infallible>(server.answer(request).await) }
                    });
                    let _ended = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades()
                        .await;
                    if let Some(line) = line.take() {
                        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
                        line.run(&clock, async {
                            let _stopped = stopped.changed().await;
                        })
                        .await;
                    }
                });
            }
        });
        self.serving = Some(serving.abort_handle());
    }

    /// Has lines take no more calls.
    pub fn stop(&mut self) {
        self.stop = None;
    }

    /// Closes the listener and all connections at once, as the end of the process does.
    pub fn close(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }
}

/// Waits until `true`, and fails after a time that is ample.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
