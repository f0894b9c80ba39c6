//! Who answers: what is known of other nodes from the calls that they answered or did not.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::ids::NodeId;
use crate::seams::Clock;

/// What is known of all nodes.
pub struct Health {
    clock: Arc<dyn Clock>,
    /// A node that has answered nothing for so long is suspected of being gone.
    silence_max: Duration,
    nodes: RwLock<HashMap<NodeId, Arc<NodeHealth>>>,
}

pub(super) struct NodeHealth {
    /// Monotonic milliseconds.
    heard: AtomicU64,
    suspect: watch::Sender<bool>,
    /// What it said of itself, and when that was heard.
    report: Mutex<(Bytes, Option<Duration>)>,
}

impl NodeHealth {
    /// Completes when the node is suspected.
    pub fn suspicion(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let mut suspect = self.suspect.subscribe();
        async move {
            // The sender lives as long as what waits here.
            if suspect.wait_for(|suspect| *suspect).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub fn is_suspect(&self) -> bool {
        *self.suspect.borrow()
    }

    fn set_suspect(&self, suspect: bool) -> bool {
        self.suspect.send_if_modified(|known| {
            let changed = *known != suspect;
            *known = suspect;
            changed
        })
    }
}

impl Health {
    pub(super) fn new(clock: Arc<dyn Clock>, silence_max: Duration) -> Self {
        Self {
            clock,
            silence_max,
            nodes: RwLock::default(),
        }
    }

    pub(super) fn of(&self, node: NodeId) -> Arc<NodeHealth> {
        if let Some(known) = self.nodes.read().get(&node) {
            return known.clone();
        }
        let fresh = || {
            Arc::new(NodeHealth {
                heard: AtomicU64::new(self.now()),
                suspect: watch::channel(false).0,
                report: Mutex::default(),
            })
        };
        self.nodes.write().entry(node).or_insert_with(fresh).clone()
    }

    fn now(&self) -> u64 {
        self.clock.monotonic().as_millis() as u64
    }

    /// The node has answered.
    pub(super) fn heard(&self, node: NodeId) {
        let health = self.of(node);
        health.heard.store(self.now(), Ordering::Relaxed);
        if health.is_suspect() && health.set_suspect(false) {
            tracing::info!(%node, "answers again");
        }
    }

    /// The node did not answer a probe.
    pub(super) fn missed(&self, node: NodeId) {
        let health = self.of(node);
        let silent = self
            .now()
            .saturating_sub(health.heard.load(Ordering::Relaxed));
        if u128::from(silent) >= self.silence_max.as_millis() && health.set_suspect(true) {
            tracing::warn!(%node, silent_ms = silent, "does not answer");
        }
    }

    /// Nobody listens at the node's address.
    pub(super) fn refused(&self, node: NodeId) {
        if self.of(node).set_suspect(true) {
            tracing::warn!(%node, "refuses connections");
        }
    }

    /// Whether the node is suspected of being gone. A guess: nothing that must be right depends on it.
    pub fn is_suspect(&self, node: NodeId) -> bool {
        let nodes = self.nodes.read();
        nodes.get(&node).is_some_and(|health| health.is_suspect())
    }

    /// What the node last said of itself when it was probed; empty before.
    pub fn report(&self, node: NodeId) -> Bytes {
        let nodes = self.nodes.read();
        nodes
            .get(&node)
            .map(|health| health.report.lock().0.clone())
            .unwrap_or_default()
    }

    /// How long ago that was heard.
    pub fn report_age(&self, node: NodeId) -> Option<Duration> {
        let heard = self.nodes.read().get(&node)?.report.lock().1?;
        Some(self.clock.monotonic().saturating_sub(heard))
    }

    pub(super) fn note_report(&self, node: NodeId, report: Bytes) {
        *self.of(node).report.lock() = (report, Some(self.clock.monotonic()));
    }

    /// How long ago the node answered anything.
    pub fn silence(&self, node: NodeId) -> Duration {
        let heard = self.of(node).heard.load(Ordering::Relaxed);
        Duration::from_millis(self.now().saturating_sub(heard))
    }
}
