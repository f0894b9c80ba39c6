//! How a node becomes part of a cluster, and changes of the cluster map.

use std::sync::Arc;
use std::time::Duration;

use holdfast_placement::directory::{Directory, DirectoryError};
use holdfast_placement::ids::{DriveId, Epoch, NodeId, SiteId};
use holdfast_placement::map::{ClusterMap, Drive, DriveState, FEATURE, Node, NodeState, SharedMap};
use holdfast_placement::rpc::{self, Answer, CallError, PeerServer, Peers, Service};
use serde::{Deserialize, Serialize};

/// Asks for a place in the cluster. Any node answers.
const JOIN: Service = Service {
    name: "join",
    fenced: false,
};

/// How long one node may take to answer.
const JOIN_TIME: Duration = Duration::from_secs(15);

/// Attempts to change a map that others change meanwhile.
const CHANGES_MAX: usize = 32;

/// Who wants to join.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct JoinRequest {
    /// `HOST:PORT` that the others reach it at.
    pub address: String,
    pub rack: u32,
    pub gateway: bool,
    pub feature: u32,
    /// Of its drives, bytes; 0: not for data.
    pub capacities: Vec<u64>,
    /// Whether it only wants to see the map: a gateway that keeps nothing.
    pub visit: bool,
}

/// The place that it got.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct JoinAnswer {
    pub node: NodeId,
    pub site: SiteId,
    /// In the order of the request's capacities.
    pub drives: Vec<DriveId>,
    pub map: Vec<u8>,
}

/// Asks the nodes at `addresses`, one after the other, for a place; gives why none gave one.
pub(super) async fn ask(
    peers: &Peers,
    addresses: &[String],
    request: &JoinRequest,
) -> Result<JoinAnswer, String> {
    let mut reasons = Vec::new();
    let head = rpc::encode(request).map_err(|error| error.to_string())?;
    for address in addresses {
        let answer = peers.call_at(address, JOIN, head.clone(), JOIN_TIME).await;
        let placed: Result<Result<JoinAnswer, String>, String> = answer
            .map_err(|error| match error {
                // Whoever is asked has no number yet that would mean something to a person.
                CallError::Unreachable { reason, .. } | CallError::NoAnswer { reason, .. } => {
                    reason
                }
                error => error.to_string(),
            })
            .and_then(|answer| rpc::decode(&answer));
        match placed {
            Ok(Ok(placed)) => return Ok(placed),
            Ok(Err(reason)) | Err(reason) if reason.starts_with(address) => reasons.push(reason),
            Ok(Err(reason)) | Err(reason) => reasons.push(format!("{address}: {reason}")),
        }
    }
    Err(reasons.join("; "))
}

/// Offers places to those who ask.
pub(super) fn offer(
    server: &mut PeerServer,
    directory: &Arc<Directory>,
    shared: &SharedMap,
    may_vote: MayVote,
) {
    let (directory, shared) = (directory.clone(), shared.clone());
    server.offer(
        JOIN,
        Box::new(move |call| {
            let (directory, shared) = (directory.clone(), shared.clone());
            let may_vote = may_vote.clone();
            Box::pin(async move {
                let request: JoinRequest = rpc::decode(&call.head)?;
                let answer = place(&directory, &shared, &*may_vote, &request).await;
                let head = rpc::encode(&answer).map_err(|error| error.to_string())?;
                Ok(Answer::head(head))
            })
        }),
    );
}

/// Whether a drive may vote in a group, by what is known of their leaders.
pub(super) type MayVote = Arc<dyn Fn(DriveId) -> bool + Send + Sync>;

async fn place(
    directory: &Directory,
    shared: &SharedMap,
    may_vote: &(dyn Fn(DriveId) -> bool + Send + Sync),
    request: &JoinRequest,
) -> Result<JoinAnswer, String> {
    if request.visit {
        let map = directory.map().await.map_err(|error| error.to_string())?;
        let map = map.ok_or("the cluster is still being made: try again")?;
        let site = map.rings.first().map_or(SiteId(1), |(site, _)| *site);
        return Ok(JoinAnswer {
            node: rpc::NOBODY,
            site,
            drives: Vec::new(),
            map: map.encode(),
        });
    }
    let mut placed = Err("the cluster is still being made: try again".to_owned());
    change_map(directory, shared, |map| {
        placed = admit(map, request, may_vote);
        placed.as_ref().is_ok_and(|(_, changed)| *changed)
    })
    .await
    .map_err(|error| error.to_string())?;
    let (node, _) = placed?;
    let map = shared.load();
    let drives = map.drives_of(node.id).map(|drive| drive.id).collect();
    Ok(JoinAnswer {
        node: node.id,
        site: node.site,
        drives,
        map: map.encode(),
    })
}

/// Gives the node a place in `map`; says whether the map changed. One that asks again, because it never got its answer,
/// gets the same place.
fn admit(
    map: &mut ClusterMap,
    request: &JoinRequest,
    may_vote: &(dyn Fn(DriveId) -> bool + Send + Sync),
) -> Result<(Node, bool), String> {
    // What all nodes know is in logs and states that the new node is to have.
    let known_to_all = map.nodes.iter().map(|node| node.feature).min();
    let level = map.feature.max(known_to_all.unwrap_or(0));
    if request.feature < level {
        return Err(format!(
            "the cluster's formats are of level {level}, the node that wants to join knows {}: install the newer version",
            request.feature
        ));
    }
    if let Some(known) = map
        .nodes
        .iter()
        .find(|node| node.address == request.address)
    {
        let known = known.clone();
        let drives: Vec<DriveId> = map.drives_of(known.id).map(|drive| drive.id).collect();
        let in_use = |drive: &DriveId| {
            let mut slots = map
                .rings
                .iter()
                .flat_map(|(_, ring)| ring.partitions())
                .flatten();
            // One that holds no shards is in no ring, and may vote all the same: also when others are to take its place.
            let is_for_data = map.drive(*drive).is_none_or(Drive::is_for_data);
            slots.any(|slot| slot.drives().any(|used| used == *drive))
                || map.groups.iter().any(|(_, voters)| voters.contains(drive))
                || !is_for_data && may_vote(*drive)
        };
        if is_lost(map, known.id) {
            // Its place at this address is free; what is left of it in the map goes when others have taken over.
            for node in map.nodes.iter_mut().filter(|node| node.id == known.id) {
                NO_ADDRESS.clone_into(&mut node.address);
            }
            return Ok((add(map, request), true));
        }
        if known.state == NodeState::Up
            || drives.len() != request.capacities.len()
            || drives.iter().any(in_use)
        {
            return Err(format!(
                "{} is {} already: start that one with its own --data directory, or choose another address. If its data is lost for good, say so with `holdfast admin lost --node {}`, and start this one again: it takes that one's place",
                request.address, known.id, known.id.0
            ));
        }
        return Ok((known, false));
    }
    Ok((add(map, request), true))
}

/// The address of a node that was given up, once another has its own.
const NO_ADDRESS: &str = "-";

/// Whether all drives of a node were given up.
fn is_lost(map: &ClusterMap, node: NodeId) -> bool {
    let mut drives = map.drives_of(node).peekable();
    drives.peek().is_some() && drives.all(|drive| drive.state == DriveState::Lost)
}

/// A place that nobody had, for a node that the map does not know.
fn add(map: &mut ClusterMap, request: &JoinRequest) -> Node {
    let site = map.rings.first().map_or(SiteId(1), |(site, _)| *site);
    let node = Node {
        id: NodeId(map.next_node),
        address: request.address.clone(),
        site,
        rack: request.rack,
        storage: request.capacities.iter().any(|capacity| *capacity > 0),
        gateway: request.gateway,
        state: NodeState::Down,
        feature: request.feature,
    };
    map.next_node += 1;
    for capacity in &request.capacities {
        map.drives.push(Drive {
            id: DriveId(map.next_drive),
            node: node.id,
            site,
            capacity: *capacity,
            // Until it is seen to be up.
            state: DriveState::Down,
        });
        map.next_drive += 1;
    }
    map.nodes.push(node.clone());
    node
}

/// Changes the cluster map: `change` gets the newest one and says whether it has changed it; it is called again if
/// somebody else was faster. Whether there was a change.
pub(super) async fn change_map(
    directory: &Directory,
    shared: &SharedMap,
    mut change: impl FnMut(&mut ClusterMap) -> bool,
) -> Result<bool, DirectoryError> {
    for _ in 0..CHANGES_MAX {
        let Some(current) = directory.map().await? else {
            return Ok(false);
        };
        let mut next = current.clone();
        if !change(&mut next) {
            shared.update(current);
            return Ok(false);
        }
        next.epoch = Epoch(current.epoch.0 + 1);
        if directory.set_map(Some(current.epoch), &next).await? {
            shared.update(next);
            return Ok(true);
        }
    }
    Err(DirectoryError::Unavailable(
        "the cluster map is changed by others all the time".to_owned(),
    ))
}

/// Says in the map where the node is reached and what it is, if that has changed since the last start.
pub(super) fn announce(
    map: &mut ClusterMap,
    own: NodeId,
    address: &str,
    rack: u32,
    gateway: bool,
) -> bool {
    let Some(node) = map.nodes.iter_mut().find(|node| node.id == own) else {
        return false;
    };
    let before = node.clone();
    address.clone_into(&mut node.address);
    node.rack = rack;
    node.gateway = gateway;
    node.feature = FEATURE;
    *node != before
}

#[cfg(test)]
mod tests {
    use holdfast_placement::ids::GroupId;
    use holdfast_placement::protection::Protection;
    use holdfast_placement::testing::map_of;

    use super::*;

    /// A cluster that was made by an earlier version has what all its nodes know by now.
    #[test]
    fn who_does_not_know_what_all_others_know_stays_outside() {
        let drives: Vec<_> = (1..=2).map(|id| (DriveId(id), NodeId(id))).collect();
        let mut map = map_of(&drives, Protection::NONE);
        (map.next_node, map.next_drive) = (3, 3);
        map.feature = FEATURE - 1;
        let request = JoinRequest {
            address: "127.0.0.1:9".to_owned(),
            rack: 0,
            gateway: true,
            feature: FEATURE - 1,
            capacities: vec![1000],
            visit: false,
        };
        let refused = admit(&mut map, &request, &|_| false).unwrap_err();
        assert!(refused.contains("install the newer version"), "{refused}");
        map.nodes[1].feature = FEATURE - 1;
        assert!(admit(&mut map, &request, &|_| false).unwrap().1);
    }

    /// What it had promised as a voter went with its data.
    #[test]
    fn a_voter_without_its_data_does_not_get_its_place_back() {
        let drives: Vec<_> = (1..=3).map(|id| (DriveId(id), NodeId(id))).collect();
        let mut map = map_of(&drives, Protection::NONE);
        map.rings.clear();
        for drive in &mut map.drives {
            drive.capacity = 0;
        }
        map.nodes[2].state = NodeState::Down;
        map.drives[2].state = DriveState::Down;
        let request = JoinRequest {
            address: map.nodes[2].address.clone(),
            rack: 0,
            gateway: false,
            feature: FEATURE,
            capacities: vec![0],
            visit: false,
        };
        map.groups = vec![(GroupId::PLACEMENT, vec![DriveId(1), DriveId(3)])];
        let refused = admit(&mut map, &request, &|_| false).unwrap_err();
        assert!(
            refused.contains("holdfast admin lost --node 3"),
            "{refused}"
        );
        // One that has no vote yet has promised nothing.
        map.groups = vec![(GroupId::PLACEMENT, vec![DriveId(1)])];
        // Another is to take its place and has not yet.
        let refused = admit(&mut map, &request, &|drive| drive == DriveId(3));
        assert!(refused.is_err());
        let (node, changed) = admit(&mut map, &request, &|_| false).unwrap();
        assert_eq!((node.id, changed), (NodeId(3), false));
    }

    /// A node that is given up gives its address to another, and nothing else: not its number, nor those of its drives.
    #[test]
    fn who_comes_to_an_address_with_nothing_is_another_node() {
        let drives: Vec<_> = (1..=3).map(|id| (DriveId(id), NodeId(id))).collect();
        let mut map = map_of(&drives, Protection { data: 2, parity: 1 });
        (map.next_node, map.next_drive) = (4, 4);
        map.nodes[2].state = NodeState::Down;
        map.drives[2].state = DriveState::Down;
        let request = JoinRequest {
            address: map.nodes[2].address.clone(),
            rack: 0,
            gateway: true,
            feature: FEATURE,
            capacities: vec![1000],
            visit: false,
        };
        let refused = admit(&mut map, &request, &|_| false).unwrap_err();
        assert!(
            refused.contains("holdfast admin lost --node 3"),
            "{refused}"
        );
        map.drives[2].state = DriveState::Lost;
        let (node, changed) = admit(&mut map, &request, &|_| false).unwrap();
        assert_eq!((node.id, changed), (NodeId(4), true));
        let drives: Vec<_> = map.drives_of(node.id).map(|drive| drive.id).collect();
        assert_eq!(drives, [DriveId(4)]);
        let at: Vec<_> = map
            .nodes
            .iter()
            .filter(|node| node.address == request.address)
            .collect();
        assert_eq!(at.len(), 1);
        // The answer was lost: it asks again and gets the same place.
        let (again, changed) = admit(&mut map, &request, &|_| false).unwrap();
        assert_eq!((again.id, changed), (NodeId(4), false));
    }
}
