//! For tests of this and other crates: groups without consensus, and maps.

mod hooked_groups;
mod split_groups;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::balance::Member;
use crate::consensus::{
    Groups, MachineFactory, ProposeError, QueryError, ReadError, Reading, StateMachine,
};
use crate::ids::{ClusterId, DriveId, Epoch, GroupId, NodeId, SiteId};
use crate::map::{ClusterMap, Drive, DriveState, FEATURE, Node, NodeState};
use crate::protection::Protection;
use crate::ring::Ring;
use crate::seams::{Batch, Durability, Index};

pub use hooked_groups::{Hook, HookedGroups};
pub use split_groups::SplitGroups;

/// Applies each command at once to one index that holds all groups.
pub struct DirectGroups {
    index: Arc<dyn Index>,
    factory: MachineFactory,
    machines: Mutex<HashMap<GroupId, Box<dyn StateMachine>>>,
    bytes_proposed: AtomicU64,
}

impl DirectGroups {
    pub fn new(index: Arc<dyn Index>, factory: MachineFactory) -> Self {
        Self {
            index,
            factory,
            machines: Mutex::new(HashMap::new()),
            bytes_proposed: AtomicU64::new(0),
        }
    }

    /// Bytes of all commands so far.
    pub fn bytes_proposed(&self) -> u64 {
        self.bytes_proposed.load(Ordering::Relaxed)
    }

    /// The state of all groups.
    pub fn index(&self) -> Arc<dyn Index> {
        self.index.clone()
    }

    /// Drops the state machines; they are made again from the state, as after a restart.
    pub fn restart(&self) {
        self.machines.lock().clear();
    }
}

#[async_trait]
impl Groups for DirectGroups {
    async fn propose(&self, group: GroupId, command: Bytes) -> Result<Bytes, ProposeError> {
        let stopped = |error: crate::seams::IndexError| ProposeError::Stopped {
            group,
            reason: error.to_string(),
        };
        self.bytes_proposed
            .fetch_add(command.len() as u64, Ordering::Relaxed);
        let mut machines = self.machines.lock();
        let machine = match machines.entry(group) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let mut machine = (self.factory)(group, DriveId(1));
                machine.restored(&*self.index).map_err(stopped)?;
                entry.insert(machine)
            }
        };
        let mut batch = Batch::new();
        let outcome = machine
            .apply(&*self.index, &mut batch, &command)
            .map_err(stopped)?;
        self.index
            .write(batch, Durability::Unsynced)
            .map_err(stopped)?;
        Ok(outcome)
    }

    async fn read(&self, _group: GroupId) -> Result<Reading, ReadError> {
        Ok(Reading::Here(self.index.clone()))
    }

    async fn query(
        &self,
        _at: NodeId,
        groups: &[GroupId],
        _query: Bytes,
    ) -> Result<Bytes, QueryError> {
        Err(QueryError::NotHere {
            group: groups.first().copied().unwrap_or_default(),
            leader: None,
        })
    }
}

/// A map of these drives at site 0, all up, each with its node; nothing else is in it but a ring.
pub fn map_of(drives: &[(DriveId, NodeId)], protection: Protection) -> ClusterMap {
    let mut nodes: Vec<NodeId> = drives.iter().map(|(_, node)| *node).collect();
    nodes.sort();
    nodes.dedup();
    let mut drives = drives.to_vec();
    drives.sort();
    let mut map = ClusterMap {
        cluster: ClusterId::default(),
        epoch: Epoch(1),
        next_node: nodes.last().map_or(1, |node| node.0 + 1),
        nodes: nodes
            .into_iter()
            .map(|id| Node {
                id,
                address: format!("127.0.0.1:{}", id.0),
                site: SiteId(0),
                rack: 0,
                storage: true,
                gateway: true,
                state: NodeState::Up,
                feature: FEATURE,
            })
            .collect(),
        next_drive: drives.last().map_or(1, |(drive, _)| drive.0 + 1),
        drives: drives
            .into_iter()
            .map(|(id, node)| Drive {
                id,
                node,
                site: SiteId(0),
                capacity: 1 << 30,
                state: DriveState::Up,
            })
            .collect(),
        rings: Vec::new(),
        metadata_groups: 16,
        groups: Vec::new(),
        lanes: 16,
        protection,
        protection_chosen: None,
        reencode: false,
        feature: FEATURE,
    };
    let members: Vec<Member> = map.members(SiteId(0));
    map.rings = vec![(SiteId(0), Ring::new(&members, &[protection.slots()]))];
    map
}

/// The map of one host with drives 1 to `drives`.
pub fn map_of_one_host(drives: u64, protection: Protection) -> ClusterMap {
    let drives: Vec<_> = (1..=drives).map(|id| (DriveId(id), NodeId(1))).collect();
    map_of(&drives, protection)
}
