//! Probing the other nodes, and following the cluster map by long polls.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{self, Either, join_all};
use tokio::sync::watch;

use super::{Answer, Handler, PeerServer, Peers, Service};
use crate::ids::{Epoch, GroupId, NodeId};
use crate::map::SharedMap;
use crate::seams::Clock;

/// Whether a node answers; what it answers is its report.
pub const PROBE: Service = Service {
    name: "probe",
    fenced: true,
};

/// The cluster map as soon as it is newer than the caller's.
pub const MAP: Service = Service {
    name: "map",
    fenced: false,
};

/// How long a poll waits for a newer map.
const POLL_TIME: Duration = Duration::from_secs(10);

/// Pause after a poll that failed.
const POLL_PAUSE: Duration = Duration::from_millis(200);

impl Peers {
    /// Probes all other nodes until `stopped` changes.
    pub async fn run_probes(self, mut stopped: watch::Receiver<bool>) {
        loop {
            let map = self.map().load();
            let others = map.nodes.iter().map(|node| node.id);
            let others: Vec<NodeId> = others.filter(|node| *node != self.own()).collect();
            drop(map);
            let pause = self.clock().sleep(self.config().probe_interval);
            let probing = join_all(others.into_iter().map(|node| self.probe(node, PROBE)));
            let round = future::join(probing, pause);
            tokio::select! {
                _ = round => {}
                _ = stopped.changed() => return,
            }
        }
    }

    /// Follows the cluster map until `stopped` changes.
    pub async fn follow_map(self, mut stopped: watch::Receiver<bool>) {
        let mut turn = 0;
        loop {
            tokio::select! {
                () = self.poll_map(&mut turn) => {}
                _ = stopped.changed() => return,
            }
        }
    }

    async fn poll_map(&self, turn: &mut usize) {
        let Some(node) = self.source_of_maps(*turn) else {
            self.clock().sleep(POLL_PAUSE).await;
            return;
        };
        let known = self.map().load().epoch;
        let head = known.0.to_be_bytes().to_vec();
        let poll = std::pin::pin!(self.call(node, MAP, head.into(), POLL_TIME * 2));
        // Somebody was heard to know more: the poll under way may be with one who does not.
        let newer = std::pin::pin!(self.map().newer_known());
        match future::select(poll, newer).await {
            Either::Left((Ok(map), _)) if map.is_empty() => {}
            Either::Left((Ok(map), _)) => self.take_map(&map),
            Either::Left((Err(_), _)) => {
                *turn += 1;
                self.clock().sleep(POLL_PAUSE).await;
            }
            Either::Right(_) => {
                *turn += 1;
                if let Some(node) = self.source_of_maps(*turn) {
                    let head = known.0.to_be_bytes().to_vec();
                    if let Ok(map) = self.call(node, MAP, head.into(), POLL_PAUSE).await
                        && !map.is_empty()
                    {
                        self.take_map(&map);
                    }
                }
            }
        }
    }

    /// A node that has a voter of the placement group, which hears of a new map when it is decided.
    fn source_of_maps(&self, turn: usize) -> Option<NodeId> {
        let map = self.map().load();
        let mut nodes: Vec<NodeId> = map
            .voters(GroupId::PLACEMENT)
            .iter()
            .filter_map(|voter| map.drive(*voter))
            .map(|drive| drive.node)
            .filter(|node| *node != self.own() && !self.health().is_suspect(*node))
            .collect();
        nodes.dedup();
        nodes.get(turn % nodes.len().max(1)).copied()
    }
}

impl PeerServer {
    /// Offers the map to those who follow it.
    pub fn offer_map(&mut self, map: SharedMap, clock: Arc<dyn Clock>) {
        let handler: Handler = Box::new(move |call| {
            let (map, clock) = (map.clone(), clock.clone());
            Box::pin(async move {
                let known = call.head.as_ref().try_into().map(u64::from_be_bytes);
                let known = known.map_err(|_| "an epoch is eight bytes".to_owned())?;
                let newer = std::pin::pin!(map.newer_than(Epoch(known)));
                match future::select(newer, clock.sleep(POLL_TIME)).await {
                    Either::Left((newer, _)) => Ok(Answer::head(newer.encode())),
                    Either::Right(_) => Ok(Answer::head(Vec::new())),
                }
            })
        });
        self.offer(MAP, handler);
    }
}
