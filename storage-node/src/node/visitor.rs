//! A process that uses a cluster and is no part of it: a gateway that keeps nothing.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use holdfast_placement::consensus::{ConsensusConfig, Groups, MachineFactory, Replicas};
use holdfast_placement::directory::{Directory, placement_machine};
use holdfast_placement::ids::{GroupId, SiteId};
use holdfast_placement::map::{ClusterMap, FEATURE, SharedMap};
use holdfast_placement::rpc::{NOBODY, Peers, PeersConfig};
use holdfast_placement::seams::{Clock, Net, Rng, spawn};

use super::clocks::check_clock;
use super::config::JoinConfig;
use super::join::{self, JoinRequest};
use super::others::Others;
use super::watch;
use super::{SpaceGauge, StartError};
use crate::buffer::{BufferPool, PoolConfig};
use crate::cluster_shards::ClusterShards;
use crate::metadata::{Metadata, metadata_machine};

/// How a visitor is started.
pub struct VisitorConfig {
    pub join: JoinConfig,
    /// Bytes that the whole process stays inside.
    pub memory_budget: u64,
    pub net: Arc<dyn Net>,
    pub clock: Arc<dyn Clock>,
    pub rng: Arc<dyn Rng>,
}

/// The way to a cluster's metadata and shards, without drives of its own.
#[derive(Clone)]
pub struct Visitor {
    pub map: SharedMap,
    pub directory: Arc<Directory>,
    pub metadata: Metadata,
    pub shards: Arc<ClusterShards>,
    pub pool: BufferPool,
    pub site: SiteId,
    pub peers: Peers,
    /// Whether nodes have room.
    pub space: SpaceGauge,
    stop: Arc<tokio::sync::watch::Sender<bool>>,
}

impl Visitor {
    /// Learns the cluster map from one of the nodes named, and follows it from then on.
    pub fn start(config: VisitorConfig) -> BoxFuture<'static, Result<Self, StartError>> {
        // As in `Node::start`.
        Box::pin(Self::start_now(config))
    }

    async fn start_now(config: VisitorConfig) -> Result<Self, StartError> {
        let map = SharedMap::new(ClusterMap::nothing());
        let peers = Peers::new(
            NOBODY,
            &config.join.secret,
            map.clone(),
            config.net.clone(),
            config.clock.clone(),
            config.rng.clone(),
            PeersConfig::default(),
        );
        let request = JoinRequest {
            address: String::new(),
            rack: 0,
            gateway: true,
            feature: FEATURE,
            capacities: Vec::new(),
            visit: true,
        };
        let placed = join::ask(&peers, &config.join.addresses, &request).await;
        let placed = placed.map_err(StartError::Join)?;
        let seen = ClusterMap::decode(&placed.map);
        map.update(seen.map_err(|error| StartError::Join(error.to_string()))?);
        let machines: MachineFactory = Arc::new(|group, _| match group {
            GroupId::PLACEMENT => placement_machine(),
            _ => metadata_machine(group),
        });
        let replicas = Replicas::open(
            Vec::new(),
            machines,
            config.clock.clone(),
            ConsensusConfig::default(),
            Some(peers.clone()),
        )
        .await
        .map_err(|error| StartError::Consensus(error.to_string()))?;
        let space = SpaceGauge::default();
        let groups: Arc<dyn Groups> = replicas.clone();
        let directory = Directory::new(groups.clone(), config.clock.clone(), config.rng.clone());
        let metadata = Metadata::new(
            groups,
            map.clone(),
            config.clock.clone(),
            config.rng.clone(),
        );
        let (stop, stopped) = tokio::sync::watch::channel(false);
        spawn(peers.clone().run_probes(stopped.clone()));
        spawn(peers.clone().follow_map(stopped.clone()));
        spawn(watch(
            replicas,
            peers.clone(),
            space.clone(),
            config.clock.clone(),
            stopped,
        ));
        Ok(Self {
            directory: Arc::new(directory),
            metadata,
            shards: Arc::new(ClusterShards::new(Arc::default(), peers.clone())),
            pool: BufferPool::new(
                PoolConfig::with_budget((config.memory_budget / 2) as usize),
                config.clock,
            ),
            site: placed.site,
            map,
            peers,
            space,
            stop: Arc::new(stop),
        })
    }

    /// Ends what goes on in the background.
    pub fn shutdown(&self) {
        let _nobody_listens = self.stop.send(true);
    }
}

/// Looks at what the nodes say, until `stopped` changes: nothing is proposed by a clock that is not theirs, and nothing is added
/// where one of them has no room.
async fn watch(
    replicas: Arc<Replicas>,
    peers: Peers,
    space: SpaceGauge,
    clock: Arc<dyn Clock>,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) {
    loop {
        let others = Others::of(&peers);
        check_clock(&replicas, &others, clock.wall(), 0);
        space.note_elsewhere(others.any_is_full());
        tokio::select! {
            () = clock.sleep(watch::INTERVAL) => {}
            _ = stopped.changed() => return,
        }
    }
}
