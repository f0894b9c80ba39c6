//! What an operator may ask of a cluster, through any node.

use holdfast_placement::ids::{DriveId, NodeId};
use holdfast_placement::map::{ClusterMap, DriveState};
use holdfast_placement::protection::Protection;
use serde::{Deserialize, Serialize};

use super::join::change_map;
use super::open::Node;

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeOrder {
    /// Move everything away from a drive, which then leaves the cluster.
    DrainDrive(DriveId),
    /// The same for all drives of a node.
    DrainNode(NodeId),
    /// Keep a drive that was being drained.
    KeepDrive(DriveId),
    KeepNode(NodeId),
    /// What new bodies are written with, `K+M`; `auto`: what suits the drives best.
    Protection(String),
    /// Encode bodies anew that are protected less than new ones are, or stop doing so.
    Reencode(bool),
}

/// Why an order was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    #[error("there is no {0}: `holdfast admin drives` lists them")]
    NoDrive(DriveId),
    #[error("there is no {0}: `holdfast admin nodes` lists them")]
    NoNode(NodeId),
    #[error("{0}")]
    Protection(String),
    #[error(
        "{protection} needs {slots} drives, and {left} would be left: add drives first, or choose another protection"
    )]
    TooFewDrives {
        protection: Protection,
        slots: usize,
        left: usize,
    },
    #[error("the cluster cannot decide it now: {0}")]
    Unavailable(String),
}

impl Node {
    /// Takes an order: it is part of the map when this returns, and carried out in the background.
    pub async fn order(&self, order: &NodeOrder) -> Result<(), OrderError> {
        let inner = &self.inner;
        let mut taken = Ok(());
        change_map(&inner.directory, &inner.map, |map| {
            let before = map.clone();
            taken = apply(map, order);
            if taken.is_err() {
                *map = before;
                return false;
            }
            *map != before
        })
        .await
        .map_err(|error| OrderError::Unavailable(error.to_string()))?;
        taken
    }
}

fn apply(map: &mut ClusterMap, order: &NodeOrder) -> Result<(), OrderError> {
    match order {
        NodeOrder::DrainDrive(drive) => set_draining(map, |id, _| id == *drive, true)
            .then_some(())
            .ok_or(OrderError::NoDrive(*drive))?,
        NodeOrder::KeepDrive(drive) => set_draining(map, |id, _| id == *drive, false)
            .then_some(())
            .ok_or(OrderError::NoDrive(*drive))?,
        NodeOrder::DrainNode(node) => set_draining(map, |_, of| of == *node, true)
            .then_some(())
            .ok_or(OrderError::NoNode(*node))?,
        NodeOrder::KeepNode(node) => set_draining(map, |_, of| of == *node, false)
            .then_some(())
            .ok_or(OrderError::NoNode(*node))?,
        NodeOrder::Reencode(wanted) => map.reencode = *wanted,
        NodeOrder::Protection(text) if text == "auto" => map.protection_chosen = None,
        NodeOrder::Protection(text) => {
            let chosen: Protection = text
                .parse()
                .map_err(|error| OrderError::Protection(format!("{error}, or auto")))?;
            map.protection_chosen = Some(chosen);
            map.protection = chosen;
        }
    }
    let left = map
        .drives
        .iter()
        .filter(|drive| !drive.state.is_draining())
        .count();
    // Bodies that are there need their slots as well.
    let needed = match map.protection_chosen {
        Some(chosen) => chosen,
        None => Protection { data: 1, parity: 0 },
    };
    if left < needed.slots() {
        return Err(OrderError::TooFewDrives {
            protection: needed,
            slots: needed.slots(),
            left,
        });
    }
    Ok(())
}

/// Whether there was any such drive.
fn set_draining(
    map: &mut ClusterMap,
    is_meant: impl Fn(DriveId, NodeId) -> bool,
    draining: bool,
) -> bool {
    let mut any = false;
    for drive in map
        .drives
        .iter_mut()
        .filter(|drive| is_meant(drive.id, drive.node))
    {
        any = true;
        drive.state = match (draining, drive.state.is_up()) {
            (true, true) => DriveState::Draining,
            (true, false) => DriveState::DrainingDown,
            (false, true) => DriveState::Up,
            (false, false) => DriveState::Down,
        };
    }
    any
}
