//! How a node is started, and why it did not.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use holdfast_placement::directory::DirectoryError;
use holdfast_placement::rpc::{ClusterSecret, PeerServer};
use holdfast_placement::seams::{Clock, Net, Rng};

use super::media::Media;
use super::place::DRIVES_MAX;
use crate::repair::{
    CensusConfig, IntentsConfig, RebalanceConfig, ReclaimConfig, ReencodeConfig, ScrubConfig,
};
use crate::shard_store::ShardStoreConfig;

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
    pub scrub: ScrubConfig,
    pub census: CensusConfig,
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
            scrub: ScrubConfig::default(),
            census: CensusConfig::default(),
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
    #[error(
        "this node was given up as lost, and the cluster goes on without it: what it held is on others. To have it join as a new one, empty {} and its drives, and start it with --join", .0.display()
    )]
    GivenUp(PathBuf),
    #[error("no drive of the store can be used: {0}")]
    NoDrive(String),
    #[error("consensus did not start: {0}")]
    Consensus(String),
    #[error(
        "the cluster map cannot be read: {0}. Too many drives are missing for a quorum: bring them back"
    )]
    Map(#[from] DirectoryError),
}
