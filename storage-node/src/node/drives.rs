//! A node's drives and the replicas on them, as they are opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_placement::consensus::{ConsensusConfig, MachineFactory, ReplicaDrive, Replicas};
use holdfast_placement::directory::placement_machine_for;
use holdfast_placement::ids::{DriveId, GroupId};
use holdfast_placement::map::SharedMap;
use holdfast_placement::rpc::Peers;
use holdfast_placement::seams::Index;

use super::config::{NodeConfig, StartError};
use super::identity::{DriveIdentity, NodeIdentity};
use super::report::DriveReport;
use super::space::reserve_bytes;
use crate::buffer::BufferPool;
use crate::metadata::metadata_machine;
use crate::shard_store::{ShardStore, ShardStoreConfig};

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

pub(super) struct OpenDrive {
    pub(super) id: DriveId,
    pub(super) store: Arc<ShardStore>,
    log: Arc<dyn Index>,
    state: Arc<dyn Index>,
    disk_kind: &'static str,
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

/// Opens the drives. Those that cannot be opened are reported; one at least must be.
pub(super) async fn open_drives(
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

pub(super) async fn open_replicas(
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
