//! The cluster map: sites, nodes, drives, rings, groups and protection at an epoch.

use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use crate::balance::Member;
use crate::ids::{ClusterId, DriveId, Epoch, GroupId, Lane, NodeId, SiteId};
use crate::protection::Protection;
use crate::ring::Ring;

/// What everybody agrees on about who is there and who holds what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterMap {
    pub cluster: ClusterId,
    pub epoch: Epoch,
    pub drives: Vec<Drive>,
    /// One ring a site.
    pub rings: Vec<(SiteId, Ring)>,
    /// Metadata groups, numbered `1..=metadata_groups`; fixed when the cluster is made.
    pub metadata_groups: u32,
    /// Lanes a bucket; fixed when the cluster is made.
    pub lanes: u8,
    /// What new bodies are written with.
    pub protection: Protection,
    /// Ids are never reused: the next drive gets this one.
    pub next_drive: u64,
}

/// A drive of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drive {
    pub id: DriveId,
    pub node: NodeId,
    pub site: SiteId,
    /// Share of data, relative to the others, bytes.
    pub capacity: u64,
    pub state: DriveState,
}

/// Whether a drive takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DriveState {
    /// Reads and writes.
    Up,
    /// Failed or missing: nothing is sent to it, and it counts as lost.
    Down,
}

impl ClusterMap {
    /// The drive called `id`.
    pub fn drive(&self, id: DriveId) -> Option<&Drive> {
        self.drives.iter().find(|drive| drive.id == id)
    }

    /// Whether `id` takes part.
    pub fn is_up(&self, id: DriveId) -> bool {
        self.drive(id)
            .is_some_and(|drive| drive.state == DriveState::Up)
    }

    /// The ring of a site.
    pub fn ring(&self, site: SiteId) -> Option<&Ring> {
        let of_site = |(at, _): &&(SiteId, Ring)| *at == site;
        self.rings.iter().find(of_site).map(|(_, ring)| ring)
    }

    /// The drives of a site as members of its ring. Those that are down stay members: the ring changes only when an
    /// operator adds or removes a drive.
    pub fn members(&self, site: SiteId) -> Vec<Member> {
        self.drives
            .iter()
            .filter(|drive| drive.site == site)
            .map(|drive| Member {
                drive: drive.id,
                capacity: drive.capacity,
                host: drive.node,
                rack: 0,
            })
            .collect()
    }

    /// The group that holds a bucket's lane.
    pub fn group_of(&self, bucket: crate::ids::BucketId, lane: Lane) -> GroupId {
        let start = bucket.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let groups = u64::from(self.metadata_groups.max(1));
        GroupId(1 + ((start + u64::from(lane.0)) % groups) as u32)
    }
}

/// The map at hand, shared by everybody in the process; readers never wait.
#[derive(Clone)]
pub struct SharedMap {
    current: Arc<ArcSwap<ClusterMap>>,
}

impl SharedMap {
    pub fn new(map: ClusterMap) -> Self {
        Self {
            current: Arc::new(ArcSwap::from_pointee(map)),
        }
    }

    /// The newest map known here.
    pub fn load(&self) -> Arc<ClusterMap> {
        self.current.load_full()
    }

    /// Takes `map` if it is newer than the one at hand.
    pub fn update(&self, map: ClusterMap) {
        let map = Arc::new(map);
        self.current.rcu(|current| {
            if map.epoch > current.epoch {
                map.clone()
            } else {
                current.clone()
            }
        });
    }
}
