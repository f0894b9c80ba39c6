//! Start and stop of a node.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_placement::balance::Member;
use holdfast_placement::consensus::{ConsensusConfig, Groups, ReplicaDrive, Replicas};
use holdfast_placement::directory::{Directory, DirectoryError, placement_machine};
use holdfast_placement::ids::{ClusterId, DriveId, Epoch, GroupId, SiteId};
use holdfast_placement::map::{
    ClusterMap, Drive, DriveState, FEATURE, Node as MapNode, NodeState, SharedMap,
};
use holdfast_placement::protection::Protection;
use holdfast_placement::ring::Ring;
use holdfast_placement::seams::{Clock, IndexError, Keyspace, Rng, RocksIndex, RocksMemory, spawn};
use holdfast_placement::voters::voter_count;
use parking_lot::Mutex;
use rustix::fs::FlockOperation;

use super::identity::{DRIVE_FILE, DriveIdentity, NodeIdentity};
use super::space::{SpaceGauge, reserve_bytes};
use super::status::{DriveStatus, GroupSummary, MemoryStatus, NodeStatus};
use super::watch;
use crate::buffer::{BufferPool, PoolConfig};
use crate::metadata::{Metadata, metadata_machine};
use crate::repair::{OrphanScan, Rebuilder, ReclaimConfig, Reclaimer};
use crate::shard_store::disk::{DiskKind, LocalDisk};
use crate::shard_store::{ShardStore, ShardStoreConfig};
use crate::shards::LocalShards;

/// Groups that hold object metadata, and lanes a bucket: fixed when the store is made.
const METADATA_GROUPS: u32 = 16;
const LANES: u8 = 16;

/// How long a start waits for the groups to have leaders.
const LEADERS_WAIT: Duration = Duration::from_secs(3);

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
    pub clock: Arc<dyn Clock>,
    pub rng: Arc<dyn Rng>,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{} is in use by another holdfast process: stop that one first", .0.display())]
    InUse(PathBuf),
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
    pub(super) replicas: Arc<Replicas>,
    pub(super) shards: Arc<LocalShards>,
    pub(super) map: SharedMap,
    pub(super) directory: Arc<Directory>,
    pub(super) drives: Mutex<Vec<NodeDrive>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) space: SpaceGauge,
    site: SiteId,
    metadata: Metadata,
    pub(super) reclaimer: Reclaimer,
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
    disk_kind: Option<DiskKind>,
    pub(super) total_bytes: u64,
    pub(super) free_bytes: u64,
}

struct OpenDrive {
    id: DriveId,
    store: Arc<ShardStore>,
    log: Arc<RocksIndex>,
    state: Arc<RocksIndex>,
    disk_kind: DiskKind,
}

impl Node {
    /// Opens the drives, brings the groups up and starts the watch. A drive that cannot be opened is taken out of
    /// use and reported; the node starts as long as the rest has a quorum.
    pub async fn start(config: NodeConfig) -> Result<Node, StartError> {
        fs::create_dir_all(&config.data).map_err(|error| named(&config.data, error))?;
        let lock = lock(&config.data)?;
        let identity = identify(&config)?;
        let budget = config.memory_budget;
        let pool = BufferPool::new(
            PoolConfig::with_budget(body_budget(budget)),
            config.clock.clone(),
        );
        let memory = RocksMemory::new((budget / 16) as usize, (budget / 32) as usize);

        let mut drives = Vec::new();
        let mut opened = Vec::new();
        for known in &identity.drives {
            let result = open_drive(
                &known.path,
                &identity.drive(known.id),
                &memory,
                &pool,
                &config,
            )
            .await;
            let failure = result.as_ref().err().cloned();
            if let Some(reason) = &failure {
                tracing::error!(drive = %known.id, path = %known.path.display(), reason, "drive is out of use");
            }
            let open = result.ok();
            let (total_bytes, free_bytes) = room(&known.path);
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

        let replica_drives = opened
            .iter()
            .map(|open| ReplicaDrive {
                drive: open.id,
                log: open.log.clone(),
                state: open.state.clone(),
            })
            .collect();
        let replicas = Replicas::open(
            replica_drives,
            Arc::new(|group, _| {
                if group == GroupId::PLACEMENT {
                    placement_machine()
                } else {
                    metadata_machine(group)
                }
            }),
            config.clock.clone(),
            ConsensusConfig::default(),
        )
        .await
        .map_err(|error| StartError::Consensus(error.to_string()))?;

        let ids: Vec<DriveId> = identity.drives.iter().map(|drive| drive.id).collect();
        if opened.len() == ids.len() {
            // Idempotent: a first start that was cut short is finished by the next.
            for group in 0..=METADATA_GROUPS {
                replicas
                    .create_group(GroupId(group), &voters_of(group, &ids))
                    .await
                    .map_err(|error| StartError::Consensus(error.to_string()))?;
            }
        }
        // Ready is said by who can serve; without a quorum the node starts all the same and says so.
        replicas.await_leaders(LEADERS_WAIT).await;
        let groups: Arc<dyn Groups> = replicas.clone();
        let directory = Arc::new(Directory::new(
            groups.clone(),
            config.clock.clone(),
            config.rng.clone(),
        ));
        let map = SharedMap::new(cluster_map(&directory, &identity, &drives).await?);
        let metadata = Metadata::new(
            groups,
            map.clone(),
            config.clock.clone(),
            config.rng.clone(),
        );
        let shards = Arc::new(LocalShards::new());
        for open in opened {
            shards.add(open.id, open.store);
        }
        for drive in drives.iter().filter(|drive| drive.failure.is_some()) {
            shards.fail(drive.id);
        }
        let reclaimer = Reclaimer::new(
            metadata.clone(),
            shards.clone(),
            map.clone(),
            config.clock.clone(),
            ReclaimConfig::default(),
        );
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let node = Node {
            inner: Arc::new(Inner {
                replicas,
                shards,
                map,
                directory,
                drives: Mutex::new(drives),
                clock: config.clock.clone(),
                space: SpaceGauge::default(),
                site: identity.site,
                metadata,
                reclaimer,
                pool,
                stop,
                _lock: lock,
            }),
        };
        spawn(node.inner.reclaimer.clone().run(stopped.clone()));
        let orphans = OrphanScan::new(
            node.metadata(),
            node.shards(),
            node.map(),
            config.clock.clone(),
        );
        spawn(orphans.run(stopped.clone()));
        watch::look(&node.inner).await;
        spawn(watch::run(node.inner.clone(), stopped));
        Ok(node)
    }

    pub fn shards(&self) -> Arc<LocalShards> {
        self.inner.shards.clone()
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

    /// Changes when background work has to end.
    pub fn stopped(&self) -> tokio::sync::watch::Receiver<bool> {
        self.inner.stop.subscribe()
    }

    /// How the node stands.
    pub fn status(&self) -> NodeStatus {
        let inner = &self.inner;
        let map = inner.map.load();
        let drives = inner.drives.lock();
        let is_up = |id: DriveId| {
            drives
                .iter()
                .any(|drive| drive.id == id && drive.failure.is_none())
        };
        let groups: Vec<GroupSummary> = inner
            .replicas
            .status()
            .into_iter()
            .map(|group| GroupSummary {
                group: group.group.0,
                leader: group.leader,
                term: group.term,
                voters_up: group.voters.iter().filter(|id| is_up(**id)).count(),
                voters: group.voters,
            })
            .collect();
        let up: Vec<DriveId> = drives
            .iter()
            .filter(|drive| drive.failure.is_none())
            .map(|drive| drive.id)
            .collect();
        // A loss that was seen but not acted upon yet is not absorbed.
        let noticed = drives.iter().all(|drive| {
            let store = drive.store.as_ref().filter(|_| drive.failure.is_none());
            store.is_none_or(|store| {
                store.check_present();
                store.down().is_none()
            })
        });
        let absorbed = noticed
            && groups
                .iter()
                .all(|group| watch::wanted_voters(&group.voters, &up).is_none());
        let mut problems = Vec::new();
        for group in &groups {
            if group.voters_up * 2 <= group.voters.len() {
                problems.push(format!(
                    "group {} has no quorum ({} of {} voters): bring the lost drives back",
                    group.group,
                    group.voters_up,
                    group.voters.len()
                ));
            }
        }
        for drive in drives.iter().filter(|drive| drive.failure.is_some()) {
            problems.push(format!(
                "{} ({}) is down: {}. Its data is read from the other drives; bring it back and restart",
                drive.id,
                drive.path.display(),
                drive.failure.as_deref().unwrap_or("unknown"),
            ));
        }
        if inner.space.is_full() {
            problems.push("a drive is full: delete objects or make room on it".to_owned());
        }
        NodeStatus {
            cluster: map.cluster.to_string(),
            epoch: map.epoch.0,
            protection: map.protection.to_string(),
            healthy: problems.is_empty(),
            absorbed,
            full: inner.space.is_full(),
            drives: drives.iter().map(drive_status).collect(),
            groups,
            problems,
            memory: MemoryStatus {
                body_bytes_in_use: inner.pool.in_use_bytes() as u64,
                body_bytes_max: inner.pool.budget_bytes() as u64,
            },
        }
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

fn drive_status(drive: &NodeDrive) -> DriveStatus {
    DriveStatus {
        drive: drive.id,
        path: drive.path.display().to_string(),
        state: if drive.failure.is_none() {
            "up"
        } else {
            "down"
        },
        reason: drive.failure.clone(),
        total_bytes: drive.total_bytes,
        free_bytes: drive.free_bytes,
        disk: drive.disk_kind.map(disk_name),
    }
}

fn disk_name(kind: DiskKind) -> String {
    let name = match kind {
        DiskKind::Uring => "uring",
        DiskKind::Posix => "posix",
        DiskKind::Auto => "auto",
    };
    name.to_owned()
}

/// Half of the process's memory is for bodies under way: the rest is caches, connections and the heap.
fn body_budget(memory_budget: u64) -> usize {
    (memory_budget / 2) as usize
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
fn identify(config: &NodeConfig) -> Result<NodeIdentity, StartError> {
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
            NodeIdentity::new(ClusterId::random(config.rng.as_ref()), &given)
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
    memory: &RocksMemory,
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
    let index = |name: &str, spaces: &[Keyspace]| {
        RocksIndex::open(&path.join(name), spaces, memory).map_err(|error| match error {
            IndexError::Corrupt(reason) => format!("its {name} is damaged: {reason}"),
            other => format!("its {name} cannot be opened: {other}"),
        })
    };
    let log = Arc::new(index("log", &[Keyspace::Log])?);
    let state = Arc::new(index(
        "state",
        &[
            Keyspace::Objects,
            Keyspace::Inline,
            Keyspace::Records,
            Keyspace::Shards,
        ],
    )?);
    let (total, _) = room(path);
    let disk = LocalDisk::open(
        &path.join("extents"),
        &path.join(DRIVE_FILE),
        &wanted.drive.to_string(),
        DiskKind::Auto,
    )
    .map_err(|error| error.to_string())?;
    let disk_kind = disk.kind();
    let store = ShardStore::open(
        Arc::new(disk),
        state.clone(),
        pool.clone(),
        config.clock.clone(),
        config.rng.clone(),
        ShardStoreConfig {
            // Shards stop before metadata does: what is left is for deletes, which need room to win room.
            reserve_bytes: Some(2 * reserve_bytes(total)),
            ..ShardStoreConfig::default()
        },
    )
    .await
    .map_err(|error| error.to_string())?;
    store.start_compaction();
    Ok(OpenDrive {
        id: wanted.drive,
        store: Arc::new(store),
        log,
        state,
        disk_kind,
    })
}

/// Reads the cluster map, or makes the first one.
async fn cluster_map(
    directory: &Directory,
    identity: &NodeIdentity,
    drives: &[NodeDrive],
) -> Result<ClusterMap, DirectoryError> {
    if let Some(map) = directory.map().await? {
        return Ok(map);
    }
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
            rack: 0,
        })
        .collect();
    let ids: Vec<DriveId> = drives.iter().map(|drive| drive.id).collect();
    let map = ClusterMap {
        cluster: identity.cluster.0,
        epoch: Epoch(1),
        nodes: vec![MapNode {
            id: identity.node,
            address: String::new(),
            site: identity.site,
            rack: 0,
            storage: true,
            gateway: true,
            state: NodeState::Up,
            feature: FEATURE,
        }],
        groups: (0..=METADATA_GROUPS)
            .map(|group| (GroupId(group), voters_of(group, &ids)))
            .collect(),
        next_node: identity.node.0 + 1,
        feature: FEATURE,
        rings: vec![(identity.site, Ring::new(&members))],
        metadata_groups: METADATA_GROUPS,
        lanes: LANES,
        protection: Protection::auto(&members),
        next_drive: drives.len() as u64 + 1,
        drives,
    };
    directory.set_map(None, &map).await?;
    Ok(map)
}

/// Total and free bytes of the file system at `path`; zeros when it cannot be asked.
pub(super) fn room(path: &Path) -> (u64, u64) {
    match rustix::fs::statvfs(path) {
        Ok(stat) => (stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize),
        Err(_) => (0, 0),
    }
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
