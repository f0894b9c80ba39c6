//! Who a node is and what it has: its place in a cluster, kept from an earlier start, asked for or made.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use holdfast_placement::balance::Member;
use holdfast_placement::ids::{ClusterId, DriveId, Epoch, GroupId};
use holdfast_placement::map::{
    ClusterMap, Drive, DriveState, FEATURE, Node as MapNode, NodeState, SharedMap,
};
use holdfast_placement::protection::Protection;
use holdfast_placement::ring::Ring;
use holdfast_placement::rpc::{NOBODY, Peers, PeersConfig};
use holdfast_placement::voters::voter_count;
use rustix::fs::FlockOperation;

use super::config::{JoinConfig, NodeConfig, StartError};
use super::drives::NodeDrive;
use super::identity::{DriveIdentity, NodeIdentity, read_secret, write_map, write_secret};
use super::join::{self, JoinRequest};

/// Lanes of a bucket: fixed when the store is made.
const LANES: u8 = 16;

/// Drives of one node at most.
pub(super) const DRIVES_MAX: usize = 16;

/// Voters of a group on one host: one on one drive, two on two, three on three or four, five on five or more; each
/// group begins at another drive so that they spread.
pub(super) fn voters_of(group: u32, drives: &[DriveId]) -> Vec<DriveId> {
    let count = voter_count(drives.len());
    (0..count)
        .map(|number| drives[(group as usize + number) % drives.len()])
        .collect()
}

pub(super) fn lock(data: &Path) -> Result<fs::File, StartError> {
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
pub(super) async fn identify(config: &NodeConfig) -> Result<NodeIdentity, StartError> {
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
        config.rng.clone(),
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

/// The map that a store begins with.
pub(super) fn first_map(
    identity: &NodeIdentity,
    drives: &[NodeDrive],
    config: &NodeConfig,
) -> ClusterMap {
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
        rings: vec![(
            identity.site,
            Ring::new(&members, &[Protection::auto(&members).slots()]),
        )],
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
pub(super) fn named(path: &Path, error: io::Error) -> io::Error {
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
