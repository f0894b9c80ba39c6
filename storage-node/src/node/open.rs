//! Start and stop of a node.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::future::BoxFuture;
use holdfast_placement::balance::Member;
use holdfast_placement::consensus::{
    ConsensusConfig, Groups, MachineFactory, ReplicaDrive, Replicas,
};
use holdfast_placement::directory::{Directory, DirectoryError, placement_machine_for};
use holdfast_placement::ids::{ClusterId, DriveId, Epoch, GroupId, NodeId, SiteId};
use holdfast_placement::map::{
    ClusterMap, Drive, DriveState, FEATURE, Node as MapNode, NodeState, SharedMap,
};
use holdfast_placement::protection::Protection;
use holdfast_placement::ring::Ring;
use holdfast_placement::rpc::{
    self, Answer, ClusterSecret, NOBODY, PeerServer, PeerServerConfig, Peers, PeersConfig,
};
use holdfast_placement::seams::{Clock, Index, Net, Rng, blocking, spawn};
use holdfast_placement::voters::voter_count;
use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use tokio::sync::mpsc;

use super::identity::{
    DriveIdentity, NodeIdentity, read_map, read_secret, write_map, write_secret,
};
use super::join::{self, JoinRequest, change_map};
use super::media::Media;
use super::report::{DriveReport, LedGroup, Redundancy, Report};
use super::space::{SpaceGauge, reserve_bytes};
use super::{steward, watch};
use crate::buffer::{BufferPool, PoolConfig};
use crate::cluster_shards::{self, ClusterShards};
use crate::lifecycle::{LifecycleConfig, LifecycleWorker};
use crate::metadata::{Metadata, metadata_machine, query_runner};
use crate::repair::{
    IntentsConfig, IntentsWorker, LedGroups, MovedAway, OrphanScan, RebalanceConfig, Rebalancer,
    Rebuilder, ReclaimConfig, Reclaimer, ReencodeConfig, ReencodeControl, Reencoder,
};
use crate::shard_store::{ShardStore, ShardStoreConfig};
use crate::shards::LocalShards;

/// Lanes of a bucket: fixed when the store is made.
const LANES: u8 = 16;

/// How long a start waits for the groups to have leaders.
const LEADERS_WAIT: Duration = Duration::from_secs(3);

/// How long groups may take to find another leader when the node ends.
const HAND_OVER_TIME: Duration = Duration::from_secs(2);

/// Pause before the node says again where it is reached.
const ANNOUNCE_PAUSE: Duration = Duration::from_secs(1);

/// Drives of one node at most.
const DRIVES_MAX: usize = 16;

/// How a node is started.
#[derive(Clone)]
pub struct NodeConfig {
    /// Directory of the node's identity and, when `drives` is empty at the first start, of its only drive.
    pub data: PathBuf,
    /// Directories of the drives, 1 to 16; may be empty on a later start.
    pub drives: Vec<PathBuf>,
    /// Bytes that the whole process stays inside.
    pub memory_budget: u64,
    /// `HOST:PORT` that other nodes reach this one at.
    pub address: String,
    /// What fails together with this node has the same number.
    pub rack: u32,
    /// Whether it answers S3 requests.
    pub gateway: bool,
    /// Whether it is there for the placement group alone, once it has its place in a cluster.
    pub placement_only: bool,
    /// The cluster to join at the first start; without it the node makes one. Later it says only what is known.
    pub join: Option<JoinConfig>,
    /// The secret of a cluster that is made; without it a random one.
    pub secret: Option<ClusterSecret>,
    /// What the drives are made of.
    pub media: Arc<dyn Media>,
    pub work: WorkConfig,
    pub net: Arc<dyn Net>,
    pub clock: Arc<dyn Clock>,
    pub rng: Arc<dyn Rng>,
    /// Told as soon as other nodes' calls can be answered, long before the start is done.
    pub opening: Opening,
}

/// How a node's work is cut and paced. The defaults are meant for any store; a simulation has other ones, so that much
/// happens in little time.
#[derive(Clone, Debug)]
pub struct WorkConfig {
    /// Groups that hold object metadata, of a store that is made.
    pub metadata_groups: u32,
    pub shard_store: ShardStoreConfig,
    pub reclaim: ReclaimConfig,
    pub intents: IntentsConfig,
    pub rebalance: RebalanceConfig,
    pub reencode: ReencodeConfig,
}

impl Default for WorkConfig {
    fn default() -> Self {
        Self {
            metadata_groups: 16,
            shard_store: ShardStoreConfig::default(),
            reclaim: ReclaimConfig::default(),
            intents: IntentsConfig::default(),
            rebalance: RebalanceConfig::default(),
            reencode: ReencodeConfig::default(),
        }
    }
}

/// Takes what answers other nodes' calls.
pub type Opening = Arc<dyn Fn(Arc<PeerServer>) + Send + Sync>;

/// The way into a cluster.
#[derive(Clone, Debug)]
pub struct JoinConfig {
    /// `HOST:PORT` of nodes of the cluster.
    pub addresses: Vec<String>,
    pub secret: ClusterSecret,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{} is in use by another holdfast process: stop that one first", .0.display())]
    InUse(PathBuf),
    #[error(
        "a node for the placement group joins a cluster: give --join HOST:PORT, any node of it, and --token"
    )]
    PlacementAlone,
    #[error(
        "a node for the placement group has one drive, and {0} were given: give one --drive, or none"
    )]
    PlacementDrives(usize),
    #[error("{count} drives were given: a node has 1 to {DRIVES_MAX}")]
    DriveCount { count: usize },
    #[error("--drive {} was given twice", .0.display())]
    DriveTwice(PathBuf),
    #[error("--drive {} belongs to another store ({found}); this one is {ours}. Give the right --data, or an empty directory", path.display())]
    ForeignDrive {
        path: PathBuf,
        found: String,
        ours: String,
    },
    #[error("--drive {} is a drive of a store, but {} knows nothing of that store: give the --data directory that it was started with", path.display(), data.display())]
    OrphanDrive { path: PathBuf, data: PathBuf },
    #[error("--drive {} is new to this store, whose drives are {known}: drives cannot be added to a store with this version", path.display())]
    NewDrive { path: PathBuf, known: String },
    #[error("--drive {} is not empty and is no drive of Holdfast: give an empty directory", .0.display())]
    NotEmpty(PathBuf),
    #[error("{} belongs to a store with another join token: start it without --join, or give an empty --data directory to join with", .0.display())]
    JoinTwice(PathBuf),
    #[error(
        "the cluster was not joined: {0}. --join names nodes that run and can be reached from here; `holdfast admin token --data DIR` on any of them prints the token"
    )]
    Join(String),
    #[error("no drive of the store can be used: {0}")]
    NoDrive(String),
    #[error("consensus did not start: {0}")]
    Consensus(String),
    #[error(
        "the cluster map cannot be read: {0}. Too many drives are missing for a quorum: bring them back"
    )]
    Map(#[from] DirectoryError),
}

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
    all_shards: Arc<ClusterShards>,
    pub(super) map: SharedMap,
    pub(super) directory: Arc<Directory>,
    pub(super) drives: Mutex<Vec<NodeDrive>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) media: Arc<dyn Media>,
    pub(super) space: SpaceGauge,
    site: SiteId,
    pub(super) metadata: Metadata,
    pub(super) reclaimer: Reclaimer,
    pub(super) rebalancer: Arc<Rebalancer>,
    pub(super) reencode: ReencodeControl,
    pub(super) reencoding: AtomicBool,
    pub(super) redundancy: Mutex<Redundancy>,
    pub(super) pool: BufferPool,
    stop: tokio::sync::watch::Sender<bool>,
    _lock: fs::File,
}

/// A drive as the node sees it.
pub(super) struct NodeDrive {
    pub(super) id: DriveId,
    pub(super) path: PathBuf,
    /// Why the drive is out of use, if it is.
    pub(super) failure: Option<String>,
    pub(super) store: Option<Arc<ShardStore>>,
    disk_kind: Option<&'static str>,
    pub(super) total_bytes: u64,
    pub(super) free_bytes: u64,
}

struct OpenDrive {
    id: DriveId,
    store: Arc<ShardStore>,
    log: Arc<dyn Index>,
    state: Arc<dyn Index>,
    disk_kind: &'static str,
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
                redundancy: Mutex::default(),
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
        });
        inner.replicas.offer(&mut server, query_runner());
        cluster_shards::offer(&mut server, &inner.shards, pool);
        server.offer_map(inner.map.clone(), config.clock.clone());
        join::offer(&mut server, &inner.directory, &inner.map);
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

    async fn begin_work(&self, config: &NodeConfig, stopped: tokio::sync::watch::Receiver<bool>) {
        let inner = &self.inner;
        spawn(keep_map(
            inner.map.clone(),
            config.data.clone(),
            stopped.clone(),
        ));
        spawn(announce(inner.clone(), config.clone(), stopped.clone()));
        spawn(inner.reclaimer.clone().run(stopped.clone()));
        let orphans = OrphanScan::new(
            self.metadata(),
            inner.shards.clone(),
            self.map(),
            config.clock.clone(),
        );
        spawn(orphans.run(stopped.clone()));
        let led: LedGroups = {
            let replicas = inner.replicas.clone();
            Arc::new(move || replicas.led_here())
        };
        let intents = IntentsWorker::new(
            self.metadata(),
            self.rebuilder(),
            self.shards(),
            self.map(),
            led.clone(),
            config.clock.clone(),
            config.work.intents.clone(),
        );
        spawn(intents.run(stopped.clone()));
        let reencoder = Reencoder {
            metadata: self.metadata(),
            rebuilder: self.rebuilder(),
            shards: self.shards(),
            map: self.map(),
            pool: self.pool(),
            clock: config.clock.clone(),
            rng: config.rng.clone(),
            led,
            config: config.work.reencode.clone(),
            control: self.reencode(),
        };
        spawn(reencoder.run(stopped.clone()));
        watch::look(inner).await;
        steward::renew_map_now(inner).await;
        spawn(inner.rebalancer.clone().run(stopped.clone()));
        spawn(watch::run(inner.clone(), stopped.clone()));
        spawn(steward::run(inner.clone(), stopped));
    }

    /// The shards of all drives of the cluster.
    pub fn shards(&self) -> Arc<ClusterShards> {
        self.inner.all_shards.clone()
    }

    pub fn map(&self) -> SharedMap {
        self.inner.map.clone()
    }

    pub fn pool(&self) -> BufferPool {
        self.inner.pool.clone()
    }

    pub fn directory(&self) -> Arc<Directory> {
        self.inner.directory.clone()
    }

    pub fn metadata(&self) -> Metadata {
        self.inner.metadata.clone()
    }

    pub fn space(&self) -> SpaceGauge {
        self.inner.space.clone()
    }

    pub fn site(&self) -> SiteId {
        self.inner.site
    }

    /// What rebuilds shards that were found to be missing or bad; run it with the gateway's repair queue and
    /// [`stopped`](Node::stopped).
    pub fn rebuilder(&self) -> Rebuilder {
        Rebuilder::new(
            self.shards(),
            self.map(),
            self.pool(),
            self.inner.clock.clone(),
        )
    }

    /// What carries out the lifecycles of buckets; run it with [`stopped`](Node::stopped).
    pub fn lifecycle(&self, config: LifecycleConfig) -> LifecycleWorker {
        let replicas = self.inner.replicas.clone();
        LifecycleWorker::new(
            self.directory(),
            self.metadata(),
            self.map(),
            Arc::new(move || replicas.led_here()),
            self.inner.clock.clone(),
            config,
        )
    }

    /// Starts and stops the encoding anew of bodies that are below the cluster's protection, of the groups that this
    /// node leads.
    pub fn reencode(&self) -> ReencodeControl {
        self.inner.reencode.clone()
    }

    /// Changes when background work has to end.
    pub fn stopped(&self) -> tokio::sync::watch::Receiver<bool> {
        self.inner.stop.subscribe()
    }

    /// The groups that this node leads: in which term, and on which drive.
    pub fn leads(&self) -> Vec<(GroupId, u64, DriveId)> {
        self.inner.replicas.leads()
    }

    /// Has others lead what this node leads, as far as that goes in a short time.
    pub async fn hand_over(&self) {
        self.inner.replicas.hand_over_all(HAND_OVER_TIME).await;
    }

    /// Stops the background work and the groups, and makes everything durable.
    pub async fn shutdown(&self) {
        let _ = self.inner.stop.send(true);
        self.inner.replicas.shutdown().await;
        let stores: Vec<_> = self
            .inner
            .drives
            .lock()
            .iter()
            .filter_map(|drive| drive.store.clone())
            .collect();
        for store in stores {
            store.close().await;
        }
    }
}

impl Inner {
    /// What this node says of itself to those who probe it.
    pub(super) fn report(&self) -> Report {
        let drives = self.drives.lock().iter().map(DriveReport::from).collect();
        let leads = self.replicas.status().into_iter().filter_map(|group| {
            let leader = group.leader?;
            let here = group.applied.iter().any(|(drive, _)| *drive == leader);
            here.then_some(LedGroup {
                group: group.group,
                leader,
                term: group.term,
                voters: group.voters,
            })
        });
        Report {
            drives,
            full: self.space.is_full(),
            leads: leads.collect(),
            redundancy: *self.redundancy.lock(),
        }
    }

    /// What another node last said of itself; `None` before it was first probed.
    pub(super) fn report_of(&self, node: NodeId) -> Option<Report> {
        let report = self.peers.health().report(node);
        if report.is_empty() {
            return None;
        }
        rpc::decode(&report).ok()
    }
}

impl From<&NodeDrive> for DriveReport {
    fn from(drive: &NodeDrive) -> Self {
        // A loss that was seen but not acted upon yet is one.
        let unnoticed = drive
            .store
            .as_ref()
            .filter(|_| drive.failure.is_none())
            .and_then(|store| {
                store.check_present();
                store.down().map(str::to_owned)
            });
        Self {
            drive: drive.id,
            path: drive.path.display().to_string(),
            failure: drive.failure.clone().or(unnoticed),
            total_bytes: drive.total_bytes,
            free_bytes: drive.free_bytes,
            disk: drive.disk_kind.map(str::to_owned),
        }
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

/// Voters of a group on one host: one on one drive, two on two, three on three or four, five on five or more; each
/// group begins at another drive so that they spread.
fn voters_of(group: u32, drives: &[DriveId]) -> Vec<DriveId> {
    let count = voter_count(drives.len());
    (0..count)
        .map(|number| drives[(group as usize + number) % drives.len()])
        .collect()
}

fn lock(data: &Path) -> Result<fs::File, StartError> {
    let path = data.join("lock");
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| named(&path, error))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StartError::InUse(data.to_owned())),
        Err(error) => Err(named(&path, error.into()).into()),
    }
}

/// Finds out who this node is and which drives it has, and makes both at the first start.
async fn identify(config: &NodeConfig) -> Result<NodeIdentity, StartError> {
    if config.drives.len() > DRIVES_MAX {
        return Err(StartError::DriveCount {
            count: config.drives.len(),
        });
    }
    let mut given: Vec<PathBuf> = Vec::new();
    for path in &config.drives {
        let path = std::path::absolute(path).map_err(|error| named(path, error))?;
        if given.contains(&path) {
            return Err(StartError::DriveTwice(path));
        }
        given.push(path);
    }
    let mut identity = match NodeIdentity::read(&config.data)? {
        Some(_) if joins_another(config)? => {
            return Err(StartError::JoinTwice(config.data.clone()));
        }
        Some(identity) => match_drives(identity, &given)?,
        None => {
            if given.is_empty() {
                let data = std::path::absolute(&config.data)?;
                given.push(data.join("drive"));
            }
            for path in &given {
                if DriveIdentity::read(path)?.is_some() {
                    return Err(StartError::OrphanDrive {
                        path: path.clone(),
                        data: config.data.clone(),
                    });
                }
                refuse_foreign_files(path)?;
            }
            match &config.join {
                None if config.placement_only => return Err(StartError::PlacementAlone),
                Some(_) if config.placement_only && given.len() > 1 => {
                    return Err(StartError::PlacementDrives(given.len()));
                }
                Some(join) => join_cluster(config, join, &given).await?,
                None => NodeIdentity::first(ClusterId::random(config.rng.as_ref()), &given),
            }
        }
    };
    identity.write(&config.data)?;
    let unformatted = identity.drives.iter().any(|drive| !drive.formatted);
    for number in 0..identity.drives.len() {
        let known = &identity.drives[number];
        if !known.formatted {
            fs::create_dir_all(&known.path).map_err(|error| named(&known.path, error))?;
            identity.drive(known.id).write(&known.path)?;
            identity.drives[number].formatted = true;
        }
    }
    if unformatted {
        identity.write(&config.data)?;
    }
    Ok(identity)
}

/// Whether a node that has its place already is told to join some other cluster. To be told of its own again, as by a unit
/// file that is the same for every start, is no mistake.
fn joins_another(config: &NodeConfig) -> io::Result<bool> {
    let Some(join) = &config.join else {
        return Ok(false);
    };
    Ok(read_secret(&config.data)?.is_none_or(|kept| kept != join.secret))
}

/// Asks for a place in a cluster, and keeps what is needed to be part of it.
async fn join_cluster(
    config: &NodeConfig,
    join: &JoinConfig,
    drives: &[PathBuf],
) -> Result<NodeIdentity, StartError> {
    let mut capacities = Vec::new();
    for path in drives {
        fs::create_dir_all(path).map_err(|error| named(path, error))?;
        let capacity = config.media.room(path).0.max(1);
        capacities.push(if config.placement_only { 0 } else { capacity });
    }
    let nobody = SharedMap::new(ClusterMap::nothing());
    let peers = Peers::new(
        NOBODY,
        &join.secret,
        nobody,
        config.net.clone(),
        config.clock.clone(),
        PeersConfig::default(),
    );
    let request = JoinRequest {
        address: config.address.clone(),
        rack: config.rack,
        gateway: config.gateway,
        feature: FEATURE,
        capacities,
        visit: false,
    };
    let placed = join::ask(&peers, &join.addresses, &request).await;
    let placed = placed.map_err(StartError::Join)?;
    let map =
        ClusterMap::decode(&placed.map).map_err(|error| StartError::Join(error.to_string()))?;
    write_secret(&config.data, &join.secret)?;
    write_map(&config.data, &map)?;
    tracing::info!(node = %placed.node, drives = ?placed.drives, "joined the cluster");
    Ok(NodeIdentity::placed(
        map.cluster,
        placed.node,
        placed.site,
        &placed.drives,
        drives,
    ))
}

/// Keeps the newest map in the data directory until `stopped` changes.
async fn keep_map(map: SharedMap, data: PathBuf, mut stopped: tokio::sync::watch::Receiver<bool>) {
    let mut kept = Epoch(0);
    loop {
        let newest = tokio::select! {
            newest = map.newer_than(kept) => newest,
            _ = stopped.changed() => return,
        };
        kept = newest.epoch;
        let data = data.clone();
        let written = blocking(move || write_map(&data, &newest)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "the cluster map could not be kept");
        }
    }
}

/// Says in the map where the node is reached, as soon as there is a quorum to say it to.
async fn announce(
    inner: Arc<Inner>,
    config: NodeConfig,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) {
    loop {
        let announced = change_map(&inner.directory, &inner.map, |map| {
            join::announce(map, inner.own, &config.address, config.rack, config.gateway)
        });
        tokio::select! {
            announced = announced => if announced.is_ok() {
                return;
            },
            _ = stopped.changed() => return,
        }
        inner.clock.sleep(ANNOUNCE_PAUSE).await;
    }
}

/// Says in the map that drives have moved everything away. What is not heard is told again.
async fn tell_moved_away(
    inner: Arc<Inner>,
    mut moves: mpsc::UnboundedReceiver<MovedAway>,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) {
    loop {
        let moved = tokio::select! {
            moved = moves.recv() => moved,
            _ = stopped.changed() => return,
        };
        let Some(moved) = moved else { return };
        let settled = change_map(&inner.directory, &inner.map, |map| {
            let ring = map.rings.iter_mut().find(|(site, _)| *site == moved.site);
            ring.is_some_and(|(_, ring)| {
                ring.version() == moved.ring_version && ring.settle(moved.drive)
            })
        });
        match settled.await {
            Ok(true) => tracing::info!(drive = %moved.drive, "has moved everything away"),
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "it could not be said that a drive is done"),
        }
    }
}

/// Opens the drives. Those that cannot be opened are reported; one at least must be.
async fn open_drives(
    identity: &NodeIdentity,
    pool: &BufferPool,
    config: &NodeConfig,
) -> Result<(Vec<NodeDrive>, Vec<OpenDrive>), StartError> {
    let mut drives = Vec::new();
    let mut opened = Vec::new();
    for known in &identity.drives {
        let wanted = identity.drive(known.id);
        let result = open_drive(&known.path, &wanted, pool, config).await;
        let failure = result.as_ref().err().cloned();
        if let Some(reason) = &failure {
            tracing::error!(drive = %known.id, path = %known.path.display(), reason, "drive is out of use");
        }
        let open = result.ok();
        let (total_bytes, free_bytes) = config.media.room(&known.path);
        drives.push(NodeDrive {
            id: known.id,
            path: known.path.clone(),
            failure,
            store: open.as_ref().map(|open| open.store.clone()),
            disk_kind: open.as_ref().map(|open| open.disk_kind),
            total_bytes,
            free_bytes,
        });
        opened.extend(open);
    }
    if opened.is_empty() {
        let reasons: Vec<_> = drives
            .iter()
            .map(|drive| {
                let reason = drive.failure.as_deref().unwrap_or("unknown");
                format!("{}: {reason}", drive.path.display())
            })
            .collect();
        return Err(StartError::NoDrive(reasons.join("; ")));
    }
    Ok((drives, opened))
}

async fn open_replicas(
    opened: &[OpenDrive],
    map: &SharedMap,
    peers: &Peers,
    config: &NodeConfig,
) -> Result<Arc<Replicas>, StartError> {
    let drives = opened.iter().map(|open| ReplicaDrive {
        drive: open.id,
        log: open.log.clone(),
        state: open.state.clone(),
    });
    let map = map.clone();
    let machines: MachineFactory = Arc::new(move |group, _| match group {
        GroupId::PLACEMENT => placement_machine_for(map.clone()),
        _ => metadata_machine(group),
    });
    let replicas = Replicas::open(
        drives.collect(),
        machines,
        config.clock.clone(),
        ConsensusConfig::spread(),
        Some(peers.clone()),
    );
    replicas
        .await
        .map_err(|error| StartError::Consensus(error.to_string()))
}

/// Follows drives that were given under another path, and refuses what does not belong here.
fn match_drives(mut identity: NodeIdentity, given: &[PathBuf]) -> Result<NodeIdentity, StartError> {
    for path in given {
        if identity.drives.iter().any(|known| known.path == *path) {
            continue;
        }
        let Some(found) = DriveIdentity::read(path)? else {
            let known: Vec<_> = identity
                .drives
                .iter()
                .map(|known| known.path.display().to_string())
                .collect();
            return Err(StartError::NewDrive {
                path: path.clone(),
                known: known.join(", "),
            });
        };
        let known = identity
            .drives
            .iter_mut()
            .find(|known| found.cluster == identity.cluster && known.id == found.drive);
        match known {
            Some(known) => known.path = path.clone(),
            None => {
                return Err(StartError::ForeignDrive {
                    path: path.clone(),
                    found: found.cluster.0.to_string(),
                    ours: identity.cluster.0.to_string(),
                });
            }
        }
    }
    Ok(identity)
}

fn refuse_foreign_files(path: &Path) -> Result<(), StartError> {
    match fs::read_dir(path) {
        Ok(entries) => {
            for entry in entries {
                let name = entry?.file_name();
                if name != "lost+found" {
                    return Err(StartError::NotEmpty(path.to_owned()));
                }
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(named(path, error).into()),
    }
}

async fn open_drive(
    path: &Path,
    wanted: &DriveIdentity,
    pool: &BufferPool,
    config: &NodeConfig,
) -> Result<OpenDrive, String> {
    match DriveIdentity::read(path) {
        Ok(Some(found)) if found == *wanted => {}
        Ok(Some(found)) => {
            return Err(format!(
                "it says that it is {} of store {}",
                found.drive, found.cluster.0
            ));
        }
        Ok(None) => return Err("its directory is missing or empty".to_owned()),
        Err(error) => return Err(error.to_string()),
    }
    let parts = config.media.open(path, wanted.drive)?;
    let (total, _) = config.media.room(path);
    // Shards stop before metadata does: what is left is for deletes, which need room to win room.
    let reserve = 2 * reserve_bytes(total);
    let store = ShardStore::open(
        parts.disk,
        parts.state.clone(),
        pool.clone(),
        config.clock.clone(),
        config.rng.clone(),
        ShardStoreConfig {
            reserve_bytes: config.work.shard_store.reserve_bytes.or(Some(reserve)),
            ..config.work.shard_store.clone()
        },
    )
    .await
    .map_err(|error| error.to_string())?;
    store.start_compaction();
    Ok(OpenDrive {
        id: wanted.drive,
        store: Arc::new(store),
        log: parts.log,
        state: parts.state,
        disk_kind: parts.kind,
    })
}

/// The map that a store begins with.
fn first_map(identity: &NodeIdentity, drives: &[NodeDrive], config: &NodeConfig) -> ClusterMap {
    let ids: Vec<DriveId> = drives.iter().map(|drive| drive.id).collect();
    let drives: Vec<Drive> = drives
        .iter()
        .map(|drive| Drive {
            id: drive.id,
            node: identity.node,
            site: identity.site,
            capacity: drive.total_bytes.max(1),
            state: DriveState::Up,
        })
        .collect();
    let members: Vec<Member> = drives
        .iter()
        .map(|drive| Member {
            drive: drive.id,
            capacity: drive.capacity,
            host: drive.node,
            rack: config.rack,
        })
        .collect();
    ClusterMap {
        cluster: identity.cluster.0,
        epoch: Epoch(1),
        nodes: vec![MapNode {
            id: identity.node,
            address: config.address.clone(),
            site: identity.site,
            rack: config.rack,
            storage: true,
            gateway: config.gateway,
            state: NodeState::Up,
            feature: FEATURE,
        }],
        rings: vec![(identity.site, Ring::new(&members))],
        metadata_groups: config.work.metadata_groups,
        groups: (0..=config.work.metadata_groups)
            .map(|group| (GroupId(group), voters_of(group, &ids)))
            .collect(),
        lanes: LANES,
        protection: Protection::auto(&members),
        protection_chosen: None,
        reencode: false,
        next_node: identity.node.0 + 1,
        next_drive: ids.iter().map(|id| id.0).max().unwrap_or(0) + 1,
        drives,
        feature: FEATURE,
    }
}

/// The error with the path that it is about, and what can be done.
fn named(path: &Path, error: io::Error) -> io::Error {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            ". Run this as the user that the directory belongs to, or choose another"
        }
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            ". It has to be a directory: choose another"
        }
        io::ErrorKind::NotFound => ". It cannot be made there: choose another directory",
        io::ErrorKind::ReadOnlyFilesystem => ". Mount it for writing, or choose another directory",
        _ => "",
    };
    io::Error::new(error.kind(), format!("{}: {error}{advice}", path.display()))
}
