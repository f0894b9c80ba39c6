//! Start of a node.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::future::BoxFuture;
use holdfast_placement::consensus::{Groups, Replicas};
use holdfast_placement::directory::Directory;
use holdfast_placement::ids::{DriveId, GroupId, NodeId, SiteId};
use holdfast_placement::map::SharedMap;
use holdfast_placement::rpc::{
    self, Answer, ClusterSecret, PeerServer, PeerServerConfig, Peers, PeersConfig,
};
use holdfast_placement::seams::{Clock, UnixMillis, spawn};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::config::{NodeConfig, StartError};
use super::drives::{NodeDrive, open_drives, open_replicas};
use super::identity::{read_map, read_secret, write_secret};
use super::join;
use super::media::Media;
use super::orders;
use super::place::{first_map, identify, lock, named, voters_of};
use super::report::{Redundancy, WebhookReport};
use super::running::tell_moved_away;
use super::space::SpaceGauge;
use super::steward;
use crate::buffer::{BufferPool, PoolConfig};
use crate::cluster_shards::{self, ClusterShards};
use crate::metadata::{Metadata, query_runner};
use crate::repair::{
    CensusControl, LedGroups, Rebalancer, Reclaimer, ReencodeControl, ScrubControl,
};
use crate::shards::LocalShards;

/// How long a start waits for the groups to have leaders.
const LEADERS_WAIT: Duration = Duration::from_secs(3);

/// A running node. Clones share it.
#[derive(Clone)]
pub struct Node {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) own: NodeId,
    pub(super) peers: Peers,
    pub(super) replicas: Arc<Replicas>,
    pub(super) shards: Arc<LocalShards>,
    pub(super) all_shards: Arc<ClusterShards>,
    pub(super) map: SharedMap,
    pub(super) directory: Arc<Directory>,
    pub(super) drives: Mutex<Vec<NodeDrive>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) media: Arc<dyn Media>,
    pub(super) space: SpaceGauge,
    pub(super) site: SiteId,
    pub(super) metadata: Metadata,
    pub(super) reclaimer: Reclaimer,
    pub(super) rebalancer: Arc<Rebalancer>,
    pub(super) reencode: ReencodeControl,
    pub(super) reencoding: AtomicBool,
    pub(super) redundancy_of: Mutex<HashMap<GroupId, Redundancy>>,
    /// The most shards that a chunk of any body has, by group that is led here.
    pub(super) widest: Mutex<Vec<(GroupId, u64)>>,
    pub(super) scrub: ScrubControl,
    pub(super) census: CensusControl,
    /// Wall-clock time when the process began, for those who want to know whether it is the same one still.
    pub(super) started: UnixMillis,
    pub(super) webhooks: Mutex<Vec<WebhookReport>>,
    pub(super) pool: BufferPool,
    pub(super) stop: tokio::sync::watch::Sender<bool>,
    _lock: fs::File,
}

impl Node {
    /// Opens the drives, brings the groups up, joins or makes the cluster at the first start, and starts the watch. A
    /// drive that cannot be opened is taken out of use and reported; the node starts as long as the rest has a quorum,
    /// or it has seen the cluster before.
    pub fn start(config: NodeConfig) -> BoxFuture<'static, Result<Node, StartError>> {
        // Boxed here, so that it is compiled here and not again in every binary.
        Box::pin(Self::start_now(config))
    }

    async fn start_now(config: NodeConfig) -> Result<Node, StartError> {
        fs::create_dir_all(&config.data).map_err(|error| named(&config.data, error))?;
        let lock = lock(&config.data)?;
        let mut identity = identify(&config).await?;
        let secret = match read_secret(&config.data)? {
            Some(secret) => {
                if config.secret.as_ref().is_some_and(|given| *given != secret) {
                    tracing::warn!(
                        "the join token that was given is not the store's: the store keeps its own"
                    );
                }
                secret
            }
            None => {
                let given = config.secret.clone();
                let secret = given.unwrap_or_else(|| ClusterSecret::random(config.rng.as_ref()));
                write_secret(&config.data, &secret)?;
                secret
            }
        };
        let budget = config.memory_budget;
        let pool = BufferPool::new(
            PoolConfig::with_budget(body_budget(budget)),
            config.clock.clone(),
        );
        let peers_pool = BufferPool::new(
            PoolConfig::with_budget(peers_budget(budget)),
            config.clock.clone(),
        );
        let (drives, opened) = open_drives(&identity, &pool, &config).await?;

        // What was last seen of the cluster, or what it begins as.
        let known = read_map(&config.data)?;
        let is_known = known.is_some();
        let map = SharedMap::new(known.unwrap_or_else(|| first_map(&identity, &drives, &config)));
        let peers = Peers::new(
            identity.node,
            &secret,
            map.clone(),
            config.net.clone(),
            config.clock.clone(),
            config.rng.clone(),
            PeersConfig::default(),
        );
        let replicas = open_replicas(&opened, &map, &peers, &config).await?;
        let groups: Arc<dyn Groups> = replicas.clone();
        let directory = Arc::new(Directory::new(
            groups.clone(),
            config.clock.clone(),
            config.rng.clone(),
        ));
        let metadata = Metadata::new(
            groups,
            map.clone(),
            config.clock.clone(),
            config.rng.clone(),
        );
        let shards = Arc::new(LocalShards::new());
        for open in &opened {
            shards.add(open.id, open.store.clone());
        }
        for drive in drives.iter().filter(|drive| drive.failure.is_some()) {
            shards.fail(drive.id);
        }
        let all_shards = Arc::new(ClusterShards::new(shards.clone(), peers.clone()));
        let led: LedGroups = {
            let replicas = replicas.clone();
            Arc::new(move || replicas.led_here())
        };
        let reclaimer = Reclaimer::new(
            metadata.clone(),
            directory.clone(),
            all_shards.clone(),
            map.clone(),
            led,
            config.clock.clone(),
            config.work.reclaim.clone(),
        );
        let (moved_away, moves) = mpsc::unbounded_channel();
        let rebalancer = Arc::new(Rebalancer::new(
            all_shards.clone(),
            shards.clone(),
            map.clone(),
            pool.clone(),
            config.clock.clone(),
            config.work.rebalance.clone(),
            Arc::new(move |moved| {
                // Nobody listens any more when the node ends.
                let _ends = moved_away.send(moved);
            }),
        ));
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let node = Node {
            inner: Arc::new(Inner {
                own: identity.node,
                peers: peers.clone(),
                replicas: replicas.clone(),
                shards: shards.clone(),
                all_shards,
                map: map.clone(),
                directory: directory.clone(),
                drives: Mutex::new(drives),
                clock: config.clock.clone(),
                media: config.media.clone(),
                space: SpaceGauge::default(),
                site: identity.site,
                metadata,
                reclaimer,
                rebalancer,
                reencode: ReencodeControl::default(),
                reencoding: AtomicBool::new(false),
                redundancy_of: Mutex::default(),
                widest: Mutex::default(),
                scrub: ScrubControl::default(),
                census: CensusControl::default(),
                started: config.clock.wall(),
                webhooks: Mutex::default(),
                pool,
                stop,
                _lock: lock,
            }),
        };
        node.open_to_peers(&secret, &peers_pool, &config);
        spawn(peers.clone().run_probes(stopped.clone()));
        spawn(peers.follow_map(stopped.clone()));

        if identity.unfinished {
            // Idempotent: a first start that was cut short is finished by the next.
            let ids: Vec<DriveId> = identity.drives.iter().map(|drive| drive.id).collect();
            for group in 0..=config.work.metadata_groups {
                replicas
                    .create_group(GroupId(group), &voters_of(group, &ids))
                    .await
                    .map_err(|error| StartError::Consensus(error.to_string()))?;
            }
            if directory.map().await?.is_none() {
                directory.set_map(None, &map.load()).await?;
            }
            identity.unfinished = false;
            identity.write(&config.data)?;
        }
        // Ready is said by who can serve; without a quorum the node starts all the same and says so.
        replicas.await_leaders(LEADERS_WAIT).await;
        match directory.map().await {
            Ok(Some(newest)) => map.update(newest),
            Ok(None) => {}
            Err(error) if is_known => {
                tracing::warn!(%error, "the cluster cannot be reached yet: going by what was last known of it");
            }
            Err(error) => return Err(error.into()),
        }
        if map.load().node(identity.node).is_none() {
            node.shutdown().await;
            return Err(StartError::GivenUp(config.data.clone()));
        }
        spawn(tell_moved_away(node.inner.clone(), moves, stopped.clone()));
        node.begin_work(&config, stopped).await;
        Ok(node)
    }

    /// Answers other nodes' calls from now on.
    fn open_to_peers(&self, secret: &ClusterSecret, pool: &BufferPool, config: &NodeConfig) {
        let inner = &self.inner;
        let mut server = PeerServer::new(PeerServerConfig {
            own: inner.own,
            secret: secret.clone(),
            map: inner.map.clone(),
            clock: config.clock.clone(),
            rng: config.rng.clone(),
        });
        inner.replicas.offer(&mut server, query_runner());
        cluster_shards::offer(&mut server, &inner.shards, pool);
        server.offer_map(inner.map.clone(), config.clock.clone());
        let asked = Arc::downgrade(inner);
        let may_vote = Arc::new(move |drive| {
            let inner = asked.upgrade();
            inner.is_none_or(|inner| steward::may_vote_on_placement(&inner, drive))
        });
        join::offer(&mut server, &inner.directory, &inner.map, may_vote);
        orders::offer(&mut server, inner);
        let reporting = Arc::downgrade(inner);
        server.offer(
            rpc::PROBE,
            Box::new(move |_| {
                let report = reporting.upgrade().map(|inner| inner.report());
                Box::pin(async move {
                    let report = rpc::encode(&report.unwrap_or_default());
                    Ok(Answer::head(report.map_err(|error| error.to_string())?))
                })
            }),
        );
        (config.opening)(Arc::new(server));
    }
}

/// Half of the process's memory is for bodies under way: the rest is caches, connections and the heap.
fn body_budget(memory_budget: u64) -> usize {
    (memory_budget / 2) as usize
}

/// An eighth is for what other nodes store and read here.
fn peers_budget(memory_budget: u64) -> usize {
    (memory_budget / 8) as usize
}
