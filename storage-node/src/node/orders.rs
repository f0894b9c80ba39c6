//! What an operator may ask of a cluster, through any node.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use holdfast_placement::ids::{DriveId, GroupId, NodeId};
use holdfast_placement::map::{ClusterMap, Drive, DriveState};
use holdfast_placement::protection::Protection;
use holdfast_placement::rpc::{Answer, PeerServer, Service};
use serde::{Deserialize, Serialize};

use super::join::change_map;
use super::open::{Inner, Node};

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
    /// Give up a drive that is gone for good: its shards and replicas are made anew on others.
    LoseDrive(DriveId),
    /// The same of all drives of a node, whose place another one may take.
    LoseNode(NodeId),
    /// What new bodies are written with, `K+M`; `auto`: what suits the drives best.
    Protection(String),
    /// Check all shards of all drives, and whether every body has all of its shards.
    Scrub,
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
    #[error(
        "{0} answers: it is not lost. `holdfast admin drain` takes it out of the cluster with what it holds"
    )]
    NotLost(String),
    #[error("{0} is not being drained: there is nothing to keep")]
    NothingToKeep(String),
    #[error("{0}")]
    Protection(String),
    #[error(
        "there are objects whose chunks lie on {slots} drives each, and {left} would be left: add drives first, or delete these objects"
    )]
    TooFewDrives { slots: usize, left: usize },
    #[error(
        "not all nodes were told: {0}. The others have begun; order it again when these are back"
    )]
    NotTold(String),
    #[error("the cluster cannot decide it now: {0}")]
    Unavailable(String),
}

/// Has a node look for what is bad or missing.
const SCRUB: Service = Service {
    name: "scrub",
    fenced: false,
};

/// How long a node may take to answer that it does.
const SCRUB_TIME: Duration = Duration::from_secs(3);

/// Takes orders that are told to each node.
pub(super) fn offer(server: &mut PeerServer, inner: &Arc<Inner>) {
    let inner = Arc::downgrade(inner);
    server.offer(
        SCRUB,
        Box::new(move |_| {
            if let Some(inner) = inner.upgrade() {
                inner.look_for_damage();
            }
            Box::pin(std::future::ready(Ok(Answer::head(Bytes::new()))))
        }),
    );
}

impl Inner {
    fn look_for_damage(&self) {
        self.scrub.ask();
        self.census.ask();
    }
}

impl Node {
    /// Takes an order: it is part of the map when this returns, and carried out in the background.
    pub async fn order(&self, order: &NodeOrder) -> Result<(), OrderError> {
        let inner = &self.inner;
        if *order == NodeOrder::Scrub {
            return self.scrub_everywhere().await;
        }
        let slots = match order {
            NodeOrder::DrainDrive(_) | NodeOrder::DrainNode(_) => self.slots_in_use().await?,
            _ => 0,
        };
        let mut taken = Ok(());
        change_map(&inner.directory, &inner.map, |map| {
            let before = map.clone();
            taken = apply(map, order, slots);
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

    /// Has every node begin to look for what is bad or missing.
    async fn scrub_everywhere(&self) -> Result<(), OrderError> {
        let inner = &self.inner;
        inner.look_for_damage();
        let map = inner.map.load();
        let others = map.nodes.iter().filter(|node| node.id != inner.own);
        let told = others.map(|node| async move {
            let told = inner.peers.call(node.id, SCRUB, Bytes::new(), SCRUB_TIME);
            told.await
                .err()
                .map(|error| format!("{}: {error}", node.id))
        });
        let silent: Vec<String> = join_all(told).await.into_iter().flatten().collect();
        match silent.is_empty() {
            true => Ok(()),
            false => Err(OrderError::NotTold(silent.join("; "))),
        }
    }

    /// The most shards that a chunk of any body has, or would have if it were written now.
    async fn slots_in_use(&self) -> Result<usize, OrderError> {
        let inner = &self.inner;
        let map = inner.map.load();
        let mut slots = map.protection_chosen.map_or(1, Protection::slots);
        for group in (1..=map.metadata_groups).map(GroupId) {
            let usage = inner.metadata.usage(group).await;
            let usage = usage.map_err(|error| OrderError::Unavailable(error.to_string()))?;
            let classes = usage.chunked.iter().filter(|(_, tally)| tally.bodies > 0);
            let widest = classes.map(|(class, _)| class.protection.slots()).max();
            slots = slots.max(widest.unwrap_or(0));
        }
        Ok(slots)
    }
}

fn apply(map: &mut ClusterMap, order: &NodeOrder, slots_in_use: usize) -> Result<(), OrderError> {
    let before = room_for_shards(map);
    match order {
        NodeOrder::DrainDrive(drive) => set_draining(map, |id, _| id == *drive, true)
            .then_some(())
            .ok_or(OrderError::NoDrive(*drive))?,
        NodeOrder::KeepDrive(drive) => {
            let is_meant = |id: DriveId, _| id == *drive;
            match is_drained(map, is_meant) {
                None => return Err(OrderError::NoDrive(*drive)),
                Some(false) => return Err(OrderError::NothingToKeep(drive.to_string())),
                Some(true) => set_draining(map, is_meant, false),
            };
        }
        NodeOrder::DrainNode(node) => set_draining(map, |_, of| of == *node, true)
            .then_some(())
            .ok_or(OrderError::NoNode(*node))?,
        NodeOrder::KeepNode(node) => {
            let is_meant = |_, of: NodeId| of == *node;
            match is_drained(map, is_meant) {
                None => return Err(OrderError::NoNode(*node)),
                Some(false) => return Err(OrderError::NothingToKeep(node.to_string())),
                Some(true) => set_draining(map, is_meant, false),
            };
        }
        NodeOrder::LoseDrive(drive) => {
            return lose(map, &drive.to_string(), |id, _| id == *drive)
                .unwrap_or(Err(OrderError::NoDrive(*drive)));
        }
        NodeOrder::LoseNode(node) => {
            return lose(map, &node.to_string(), |_, of| of == *node)
                .unwrap_or(Err(OrderError::NoNode(*node)));
        }
        NodeOrder::Reencode(wanted) => map.reencode = *wanted,
        // Of no map: each node is told.
        NodeOrder::Scrub => {}
        NodeOrder::Protection(text) if text == "auto" => map.protection_chosen = None,
        NodeOrder::Protection(text) => {
            let chosen: Protection = text
                .parse()
                .map_err(|error| OrderError::Protection(format!("{error}, or auto")))?;
            map.protection_chosen = Some(chosen);
            map.protection = chosen;
        }
    }
    let left = room_for_shards(map);
    let chosen = map.protection_chosen.map_or(1, Protection::slots);
    let slots = slots_in_use.max(chosen);
    if left >= before && !matches!(order, NodeOrder::Protection(_)) {
        return Ok(());
    }
    if left < slots {
        return Err(OrderError::TooFewDrives { slots, left });
    }
    Ok(())
}

/// Drives that a chunk can have shards on.
fn room_for_shards(map: &ClusterMap) -> usize {
    let drives = map.drives.iter();
    drives
        .filter(|drive| drive.is_for_data() && !drive.state.is_draining())
        .count()
}

/// Gives up the drives that are meant, if none of them answers; `None`: there are none.
fn lose(
    map: &mut ClusterMap,
    name: &str,
    is_meant: impl Fn(DriveId, NodeId) -> bool,
) -> Option<Result<(), OrderError>> {
    let is_meant = |drive: &Drive| is_meant(drive.id, drive.node);
    if !map.drives.iter().any(is_meant) {
        return None;
    }
    if map
        .drives
        .iter()
        .any(|drive| is_meant(drive) && drive.state.is_up())
    {
        return Some(Err(OrderError::NotLost(name.to_owned())));
    }
    let mut meant = map.drives.iter().filter(|drive| is_meant(drive));
    let meant_for_data = meant.any(Drive::is_for_data);
    if !map.drives.iter().any(|drive| {
        !is_meant(drive) && drive.state.is_up() && (drive.is_for_data() || !meant_for_data)
    }) {
        return Some(Err(OrderError::TooFewDrives { slots: 1, left: 0 }));
    }
    for drive in map.drives.iter_mut().filter(|drive| is_meant(drive)) {
        drive.state = DriveState::Lost;
    }
    Some(Ok(()))
}

/// Whether any of the drives that are meant is on its way out; `None`: there are none.
fn is_drained(map: &ClusterMap, is_meant: impl Fn(DriveId, NodeId) -> bool) -> Option<bool> {
    let meant = map.drives.iter();
    let mut meant = meant
        .filter(|drive| is_meant(drive.id, drive.node))
        .peekable();
    meant.peek()?;
    // What was given up for good is not to be had back.
    let is_drained = |state: DriveState| state.is_draining() && state != DriveState::Lost;
    Some(meant.any(|drive| is_drained(drive.state)))
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
            _ if drive.state == DriveState::Lost => DriveState::Lost,
            (true, true) => DriveState::Draining,
            (true, false) => DriveState::DrainingDown,
            (false, true) => DriveState::Up,
            (false, false) => DriveState::Down,
        };
    }
    any
}

#[cfg(test)]
mod tests {
    use holdfast_placement::testing::map_of;

    use super::*;

    fn map(drives: u64) -> ClusterMap {
        let drives: Vec<_> = (1..=drives).map(|id| (DriveId(id), NodeId(id))).collect();
        map_of(&drives, Protection { data: 4, parity: 2 })
    }

    #[test]
    fn a_drive_that_chunks_need_is_not_drained() {
        let mut six = map(6);
        assert_eq!(
            apply(&mut six, &NodeOrder::DrainDrive(DriveId(6)), 6),
            Err(OrderError::TooFewDrives { slots: 6, left: 5 })
        );
        let mut seven = map(7);
        assert_eq!(
            apply(&mut seven, &NodeOrder::DrainNode(NodeId(6)), 6),
            Ok(())
        );
        assert_eq!(seven.drives[5].state, DriveState::Draining);
        assert_eq!(
            apply(&mut seven, &NodeOrder::DrainNode(NodeId(7)), 6),
            Err(OrderError::TooFewDrives { slots: 6, left: 5 })
        );
        assert_eq!(
            apply(&mut map(6), &NodeOrder::DrainNode(NodeId(6)), 5),
            Ok(())
        );
    }

    #[test]
    fn drives_that_hold_no_shards_are_no_room_for_them() {
        let with_placement = || {
            let mut map = map(9);
            for drive in &mut map.drives[6..] {
                drive.capacity = 0;
            }
            map
        };
        assert_eq!(
            apply(
                &mut with_placement(),
                &NodeOrder::Protection("6+2".to_owned()),
                6
            ),
            Err(OrderError::TooFewDrives { slots: 8, left: 6 })
        );
        assert_eq!(
            apply(&mut with_placement(), &NodeOrder::DrainDrive(DriveId(6)), 6),
            Err(OrderError::TooFewDrives { slots: 6, left: 5 })
        );
        let mut map = with_placement();
        for drive in &mut map.drives[..6] {
            drive.state = DriveState::Down;
        }
        assert_eq!(
            apply(&mut map, &NodeOrder::LoseDrive(DriveId(1)), 0),
            Err(OrderError::TooFewDrives { slots: 1, left: 0 })
        );
    }

    #[test]
    fn what_is_not_drained_cannot_be_kept() {
        let mut map = map(7);
        let nothing = |order: NodeOrder, map: &mut ClusterMap| {
            let refused = apply(map, &order, 1).unwrap_err().to_string();
            assert!(
                refused.ends_with("is not being drained: there is nothing to keep"),
                "{refused}"
            );
        };
        nothing(NodeOrder::KeepDrive(DriveId(2)), &mut map);
        nothing(NodeOrder::KeepNode(NodeId(2)), &mut map);
        assert_eq!(
            apply(&mut map, &NodeOrder::DrainDrive(DriveId(2)), 1),
            Ok(())
        );
        assert_eq!(apply(&mut map, &NodeOrder::KeepNode(NodeId(2)), 1), Ok(()));
        assert_eq!(map.drives[1].state, DriveState::Up);
        nothing(NodeOrder::KeepDrive(DriveId(2)), &mut map);
    }

    #[test]
    fn only_what_does_not_answer_can_be_given_up() {
        let mut map = map(3);
        let order = NodeOrder::LoseNode(NodeId(3));
        let refused = apply(&mut map, &order, 0).unwrap_err();
        assert_eq!(refused, OrderError::NotLost("node-3".to_owned()));
        map.drives[2].state = DriveState::Down;
        assert_eq!(apply(&mut map, &order, 0), Ok(()));
        assert_eq!(map.drives[2].state, DriveState::Lost);
        // Whatever it says from now on.
        assert_eq!(map.drives[2].state.seen(true), DriveState::Lost);
        assert_eq!(
            apply(&mut map, &NodeOrder::LoseDrive(DriveId(9)), 0),
            Err(OrderError::NoDrive(DriveId(9)))
        );
    }

    #[test]
    fn what_is_not_there_is_named() {
        assert_eq!(
            apply(&mut map(3), &NodeOrder::DrainDrive(DriveId(9)), 1),
            Err(OrderError::NoDrive(DriveId(9)))
        );
        assert_eq!(
            apply(&mut map(3), &NodeOrder::Protection("4+2".to_owned()), 1),
            Err(OrderError::TooFewDrives { slots: 6, left: 3 })
        );
    }
}
