//! Who a data directory and a drive are: small JSON files that say so, written once.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use holdfast_placement::ids::{ClusterId, DriveId, NodeId, SiteId};
use holdfast_placement::map::ClusterMap;
use holdfast_placement::rpc::ClusterSecret;
use serde::{Deserialize, Serialize};

/// Name of a drive's identity file. It is also how a running node notices that a drive's directory is gone.
pub const DRIVE_FILE: &str = "drive.json";

/// Name of the node's file in the data directory.
const NODE_FILE: &str = "node.json";

const FORMAT: u8 = 1;

/// A drive says whose it is, so that drives of different stores are not mixed up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveIdentity {
    pub format: u8,
    pub cluster: ClusterIdText,
    pub drive: DriveId,
    pub node: NodeId,
    pub site: SiteId,
}

/// What a node remembers of itself: the store it belongs to and where its drives were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeIdentity {
    pub format: u8,
    pub cluster: ClusterIdText,
    pub node: NodeId,
    pub site: SiteId,
    pub drives: Vec<KnownDrive>,
    /// The store is being made, by this node: its groups are not all there yet.
    #[serde(default)]
    pub unfinished: bool,
}

/// A drive of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownDrive {
    pub id: DriveId,
    pub path: PathBuf,
    /// False until the drive's directory was made; a formatted drive that is empty has been lost.
    pub formatted: bool,
}

/// A cluster id that reads as hex digits in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterIdText(pub ClusterId);

impl Serialize for ClusterIdText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_string())
    }
}

impl<'de> Deserialize<'de> for ClusterIdText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut id = [0; 16];
        hex::decode_to_slice(&text, &mut id).map_err(serde::de::Error::custom)?;
        Ok(Self(ClusterId(id)))
    }
}

impl NodeIdentity {
    /// The first node of a store.
    pub fn first(cluster: ClusterId, drives: &[PathBuf]) -> Self {
        let ids: Vec<DriveId> = (1..).map(DriveId).take(drives.len()).collect();
        Self {
            unfinished: true,
            ..Self::placed(cluster, NodeId(1), SiteId(1), &ids, drives)
        }
    }

    /// A node that got a place in a cluster.
    pub fn placed(
        cluster: ClusterId,
        node: NodeId,
        site: SiteId,
        ids: &[DriveId],
        drives: &[PathBuf],
    ) -> Self {
        let known = |(id, path): (&DriveId, &PathBuf)| KnownDrive {
            id: *id,
            path: path.clone(),
            formatted: false,
        };
        Self {
            format: FORMAT,
            cluster: ClusterIdText(cluster),
            node,
            site,
            drives: ids.iter().zip(drives).map(known).collect(),
            unfinished: false,
        }
    }

    /// Reads the node's identity; `None` on a first start.
    pub fn read(data: &Path) -> io::Result<Option<Self>> {
        read_json(&data.join(NODE_FILE), |node: &Self| node.format)
    }

    pub fn write(&self, data: &Path) -> io::Result<()> {
        write_json(&data.join(NODE_FILE), self)
    }

    /// What the drive's own file must say.
    pub fn drive(&self, id: DriveId) -> DriveIdentity {
        DriveIdentity {
            format: FORMAT,
            cluster: self.cluster,
            drive: id,
            node: self.node,
            site: self.site,
        }
    }
}

impl DriveIdentity {
    /// Reads a drive's identity; `None` if the directory or the file is not there.
    pub fn read(drive: &Path) -> io::Result<Option<Self>> {
        read_json(&drive.join(DRIVE_FILE), |drive: &Self| drive.format)
    }

    pub fn write(&self, drive: &Path) -> io::Result<()> {
        write_json(&drive.join(DRIVE_FILE), self)
    }
}

/// Name of the file with the cluster's secret, mode 0600.
const SECRET_FILE: &str = "cluster-secret";

/// Name of the file with the newest cluster map that the node has seen: how it finds the others when it starts.
const MAP_FILE: &str = "cluster-map";

/// The cluster's secret as kept in `data`.
pub fn read_secret(data: &Path) -> io::Result<Option<ClusterSecret>> {
    let path = data.join(SECRET_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let secret = text.trim().parse::<ClusterSecret>();
            secret
                .map(Some)
                .map_err(|error| at(&path, io::Error::new(io::ErrorKind::InvalidData, error)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(&path, error)),
    }
}

pub(super) fn write_secret(data: &Path, secret: &ClusterSecret) -> io::Result<()> {
    write_durably(
        &data.join(SECRET_FILE),
        format!("{}\n", secret.reveal()).as_bytes(),
    )
}

/// The newest map that the node had seen when it ended.
pub(super) fn read_map(data: &Path) -> io::Result<Option<ClusterMap>> {
    let path = data.join(MAP_FILE);
    match fs::read(&path) {
        Ok(bytes) => {
            let map = ClusterMap::decode(&bytes);
            map.map(Some)
                .map_err(|error| at(&path, io::Error::new(io::ErrorKind::InvalidData, error)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(&path, error)),
    }
}

pub(super) fn write_map(data: &Path, map: &ClusterMap) -> io::Result<()> {
    write_durably(&data.join(MAP_FILE), &map.encode())
}

fn read_json<T: for<'de> Deserialize<'de>>(
    path: &Path,
    format: impl Fn(&T) -> u8,
) -> io::Result<Option<T>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(path, error)),
    };
    let value: T = serde_json::from_slice(&text).map_err(|error| {
        let text = format!("it is damaged ({error}): restore it from a copy");
        at(path, io::Error::new(io::ErrorKind::InvalidData, text))
    })?;
    if format(&value) != FORMAT {
        let text = format!("format {} is not known to this version", format(&value));
        return Err(at(path, io::Error::new(io::ErrorKind::InvalidData, text)));
    }
    Ok(Some(value))
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    write_durably(path, &text)
}

/// Writes a small file so that after a crash it is the old one or the new one. Mode 0600.
pub fn write_durably(path: &Path, text: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let fresh = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(|error| at(&fresh, error))?;
    file.write_all(text)
        .and_then(|()| file.sync_all())
        .map_err(|error| at(&fresh, error))?;
    fs::rename(&fresh, path).map_err(|error| at(path, error))?;
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| at(directory, error))
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
