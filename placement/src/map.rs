//! The cluster map: sites, nodes, drives, rings, groups and protection at an epoch.

mod first_format;

use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::balance::Member;
use crate::ids::{ClusterId, DriveId, Epoch, GroupId, Lane, NodeId, SiteId};
use crate::protection::Protection;
use crate::ring::Ring;

/// The highest format level of records and messages that this version speaks.
///
/// 2: storage classes in listings and by lifecycles. 3: lifecycles that say what a version must still be. 4: calls that are
/// sealed for a cluster, and filters of lifecycles with a prefix that is empty.
pub const FEATURE: u32 = 4;

/// From this level on a node looks which cluster a call is meant for.
pub(crate) const SEALED_FOR_CLUSTERS: u32 = 4;

/// A stored or sent map begins with this. Maps of the first format began with the cluster's id, 16 random bytes.
const MAGIC: [u8; 8] = *b"HFmap\0\0\x02";

/// What everybody agrees on about who is there and who holds what. The order of fields is persisted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterMap {
    pub cluster: ClusterId,
    pub epoch: Epoch,
    /// In order of id.
    pub nodes: Vec<Node>,
    /// In order of id. A drive that is gone for good is not among them.
    pub drives: Vec<Drive>,
    /// One ring a site.
    pub rings: Vec<(SiteId, Ring)>,
    /// Metadata groups, numbered `1..=metadata_groups`; fixed when the cluster is made.
    pub metadata_groups: u32,
    /// The voters that each group, the placement group among them, should have.
    pub groups: Vec<(GroupId, Vec<DriveId>)>,
    /// Lanes a bucket; fixed when the cluster is made.
    pub lanes: u8,
    /// What new bodies are written with.
    pub protection: Protection,
    /// What the operator asked for; `None`: what suits the drives best.
    pub protection_chosen: Option<Protection>,
    /// Bodies that are protected less than that are to be encoded anew.
    pub reencode: bool,
    /// Ids are never reused: the next node gets this one.
    pub next_node: u64,
    /// The next drive gets this one.
    pub next_drive: u64,
    /// What may be written: formats of this level and below.
    pub feature: u32,
}

/// A machine of the cluster: one `holdfast` process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    /// `HOST:PORT` that the others reach it at.
    pub address: String,
    pub site: SiteId,
    /// What fails together: nodes of a rack share power or a switch.
    pub rack: u32,
    /// Whether it has drives for shards and replicas.
    pub storage: bool,
    /// Whether it answers S3 requests.
    pub gateway: bool,
    pub state: NodeState,
    /// The highest format level that it speaks.
    pub feature: u32,
}

/// Whether a node takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    Up,
    /// Not reached by the others.
    Down,
}

/// A drive of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drive {
    pub id: DriveId,
    pub node: NodeId,
    pub site: SiteId,
    /// Share of data, relative to the others, bytes; 0: none, it holds replicas of the placement group only.
    pub capacity: u64,
    pub state: DriveState,
}

impl Drive {
    /// Whether it takes shards and object metadata.
    pub fn is_for_data(&self) -> bool {
        self.capacity > 0
    }
}

/// Whether a drive takes part. The order of variants is persisted: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DriveState {
    /// Reads and writes.
    Up,
    /// Failed or missing: nothing is sent to it, and it counts as lost.
    Down,
    /// On its way out: gives what it holds and gets nothing; it is in no ring.
    Draining,
    /// On its way out, and failed or missing.
    DrainingDown,
    /// Given up by an operator: what it held is made anew elsewhere, and it is never used again, whatever it says.
    Lost,
}

impl DriveState {
    /// Whether the drive can be asked for what it holds.
    pub fn is_up(self) -> bool {
        matches!(self, DriveState::Up | DriveState::Draining)
    }

    /// Whether the drive is on its way out.
    pub fn is_draining(self) -> bool {
        matches!(
            self,
            DriveState::Draining | DriveState::DrainingDown | DriveState::Lost
        )
    }

    /// The state of a drive that was found to be up or down.
    pub fn seen(self, up: bool) -> Self {
        if self == DriveState::Lost {
            return self;
        }
        match (self.is_draining(), up) {
            (false, true) => DriveState::Up,
            (false, false) => DriveState::Down,
            (true, true) => DriveState::Draining,
            (true, false) => DriveState::DrainingDown,
        }
    }
}

/// What is stored or was sent as a cluster map is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cluster map is damaged")]
pub struct DamagedMapError;

impl ClusterMap {
    /// Whether all nodes know the formats of that level. A node says what it knows when it starts.
    pub fn all_speak(&self, level: u32) -> bool {
        self.nodes.iter().all(|node| node.feature >= level)
    }

    /// The map as it is stored and sent.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, MAGIC.to_vec()).expect("a map in memory can be written to memory")
    }

    /// The map that was stored or sent as `bytes`, by this version or an earlier one.
    pub fn decode(bytes: &[u8]) -> Result<Self, DamagedMapError> {
        match bytes.strip_prefix(&MAGIC) {
            Some(map) => postcard::from_bytes(map).map_err(|_| DamagedMapError),
            None => first_format::decode(bytes),
        }
    }

    /// The map of those who have not seen one yet.
    pub fn nothing() -> Self {
        Self {
            cluster: ClusterId::default(),
            epoch: Epoch(0),
            nodes: Vec::new(),
            drives: Vec::new(),
            rings: Vec::new(),
            metadata_groups: 0,
            groups: Vec::new(),
            lanes: 1,
            protection: Protection::NONE,
            protection_chosen: None,
            reencode: false,
            next_node: 1,
            next_drive: 1,
            feature: 0,
        }
    }

    /// The node called `id`.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        let found = self.nodes.binary_search_by_key(&id, |node| node.id);
        found.ok().map(|at| &self.nodes[at])
    }

    /// The drive called `id`.
    pub fn drive(&self, id: DriveId) -> Option<&Drive> {
        let found = self.drives.binary_search_by_key(&id, |drive| drive.id);
        found.ok().map(|at| &self.drives[at])
    }

    /// The node that has a drive.
    pub fn node_of(&self, drive: DriveId) -> Option<&Node> {
        self.node(self.drive(drive)?.node)
    }

    /// Where the node that has a drive is reached, `HOST:PORT`.
    pub fn address_of(&self, drive: DriveId) -> Option<&str> {
        self.node_of(drive).map(|node| node.address.as_str())
    }

    /// The drives of a node, in order.
    pub fn drives_of(&self, node: NodeId) -> impl Iterator<Item = &Drive> {
        self.drives.iter().filter(move |drive| drive.node == node)
    }

    /// The voters that a group should have; none if the group is not known.
    pub fn voters(&self, group: GroupId) -> &[DriveId] {
        self.groups
            .iter()
            .find(|(id, _)| *id == group)
            .map_or(&[], |(_, voters)| voters.as_slice())
    }

    /// Whether `id` can be asked for what it holds.
    pub fn is_up(&self, id: DriveId) -> bool {
        self.drive(id).is_some_and(|drive| drive.state.is_up())
    }

    /// Whether a node is reached by the others.
    pub fn is_node_up(&self, id: NodeId) -> bool {
        self.node(id)
            .is_some_and(|node| node.state == NodeState::Up)
    }

    /// The ring of a site.
    pub fn ring(&self, site: SiteId) -> Option<&Ring> {
        let of_site = |(at, _): &&(SiteId, Ring)| *at == site;
        self.rings.iter().find(of_site).map(|(_, ring)| ring)
    }

    /// The drives of a site as members of its ring. Those that are down stay members: the ring changes only when an
    /// operator adds or removes a drive. Those on their way out are none, nor those that are not for data.
    pub fn members(&self, site: SiteId) -> Vec<Member> {
        self.drives
            .iter()
            .filter(|drive| drive.site == site && !drive.state.is_draining())
            .filter(|drive| drive.is_for_data())
            .map(|drive| Member {
                drive: drive.id,
                capacity: drive.capacity,
                host: drive.node,
                rack: self.node(drive.node).map_or(0, |node| node.rack),
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
    /// The epoch at hand, for those who wait for the next.
    epoch: Arc<watch::Sender<Epoch>>,
    /// The greatest epoch that anybody was heard to know.
    heard: Arc<watch::Sender<Epoch>>,
}

impl SharedMap {
    pub fn new(map: ClusterMap) -> Self {
        let epoch = map.epoch;
        Self {
            current: Arc::new(ArcSwap::from_pointee(map)),
            epoch: Arc::new(watch::channel(epoch).0),
            heard: Arc::new(watch::channel(epoch).0),
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
        raise(&self.epoch, map.epoch);
        raise(&self.heard, map.epoch);
    }

    /// Somebody knows a map of this epoch.
    pub fn note_newer(&self, epoch: Epoch) {
        raise(&self.heard, epoch);
    }

    /// Completes when somebody was heard to know a newer map than the one at hand.
    pub async fn newer_known(&self) {
        let at_hand = self.load().epoch;
        let mut heard = self.heard.subscribe();
        // The sender lives as long as `self`.
        let _heard = heard.wait_for(|heard| *heard > at_hand).await;
    }

    /// The map at hand as soon as it is newer than `epoch`.
    pub async fn newer_than(&self, epoch: Epoch) -> Arc<ClusterMap> {
        let mut at_hand = self.epoch.subscribe();
        // The sender lives as long as `self`.
        let _newer = at_hand.wait_for(|at_hand| *at_hand > epoch).await;
        self.load()
    }
}

fn raise(to: &watch::Sender<Epoch>, epoch: Epoch) {
    to.send_if_modified(|known| {
        let newer = epoch > *known;
        *known = (*known).max(epoch);
        newer
    });
}
