//! Maps of the first format: one node, whose drives the store began with.

use serde::{Deserialize, Serialize};

use super::{ClusterMap, DamagedMapError, Drive, Node, NodeState};
use crate::ids::{ClusterId, DriveId, Epoch, GroupId, SiteId};
use crate::protection::Protection;
use crate::ring::Ring;

/// What those who wrote such maps knew. The node says more when it starts.
const FIRST_LEVEL: u32 = 1;

#[derive(Serialize, Deserialize)]
struct FirstMap {
    cluster: ClusterId,
    epoch: Epoch,
    drives: Vec<Drive>,
    rings: Vec<(SiteId, FirstRing)>,
    metadata_groups: u32,
    lanes: u8,
    protection: Protection,
    next_drive: u64,
}

#[derive(Serialize, Deserialize)]
struct FirstRing {
    partitions: Vec<Vec<DriveId>>,
}

/// The map as it would be had it been made by this version. The address of its node was not written down: the node
/// fills it in.
pub(super) fn decode(bytes: &[u8]) -> Result<ClusterMap, DamagedMapError> {
    let first: FirstMap = postcard::from_bytes(bytes).map_err(|_| DamagedMapError)?;
    let mut nodes: Vec<Node> = Vec::new();
    for drive in &first.drives {
        if nodes.iter().all(|node| node.id != drive.node) {
            nodes.push(Node {
                id: drive.node,
                address: String::new(),
                site: drive.site,
                rack: 0,
                storage: true,
                gateway: true,
                state: NodeState::Up,
                feature: FIRST_LEVEL,
            });
        }
    }
    nodes.sort_by_key(|node| node.id);
    Ok(ClusterMap {
        cluster: first.cluster,
        epoch: first.epoch,
        next_node: nodes.last().map_or(1, |node| node.id.0 + 1),
        nodes,
        groups: first_voters(first.metadata_groups, &first.drives),
        drives: first.drives,
        rings: first
            .rings
            .into_iter()
            .map(|(site, ring)| (site, Ring::of(ring.partitions)))
            .collect(),
        metadata_groups: first.metadata_groups,
        lanes: first.lanes,
        protection_chosen: None,
        reencode: false,
        protection: first.protection,
        next_drive: first.next_drive,
        feature: FIRST_LEVEL,
    })
}

/// The voters that groups were made with.
fn first_voters(metadata_groups: u32, drives: &[Drive]) -> Vec<(GroupId, Vec<DriveId>)> {
    let count = match drives.len() {
        few @ 0..=2 => few,
        3 | 4 => 3,
        _ => 5,
    };
    let voter = |group: u32, number: usize| drives[(group as usize + number) % drives.len()].id;
    (0..=metadata_groups)
        .map(|group| {
            let voters = (0..count).map(|number| voter(group, number)).collect();
            (GroupId(group), voters)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{FirstMap, FirstRing};
    use crate::ids::{ClusterId, DriveId, Epoch, GroupId, NodeId, PartitionId, SiteId};
    use crate::map::{ClusterMap, Drive, DriveState};
    use crate::protection::Protection;

    #[test]
    fn a_map_of_the_first_format_is_understood() {
        let drive = |id| Drive {
            id: DriveId(id),
            node: NodeId(1),
            site: SiteId(1),
            capacity: 7,
            state: DriveState::Up,
        };
        let first = FirstMap {
            cluster: ClusterId([9; 16]),
            epoch: Epoch(5),
            drives: vec![drive(1), drive(2)],
            rings: vec![(
                SiteId(1),
                FirstRing {
                    partitions: vec![vec![DriveId(2), DriveId(1)]; 8],
                },
            )],
            metadata_groups: 16,
            lanes: 16,
            protection: Protection { data: 1, parity: 1 },
            next_drive: 3,
        };
        let map = ClusterMap::decode(&postcard::to_stdvec(&first).unwrap()).unwrap();
        assert_eq!((map.epoch, map.next_node, map.next_drive), (Epoch(5), 2, 3));
        assert_eq!(map.node_of(DriveId(2)).unwrap().id, NodeId(1));
        assert_eq!(map.groups.len(), 17);
        assert_eq!(map.voters(GroupId(1)), [DriveId(2), DriveId(1)]);
        let ring = map.ring(SiteId(1)).unwrap();
        assert_eq!(ring.slot(PartitionId(7), 0).unwrap().target, DriveId(2));
        assert!(ring.is_settled());
        assert_eq!(ClusterMap::decode(&map.encode()), Ok(map));
        assert!(ClusterMap::decode(b"HFmap\0\0\x02").is_err());
    }
}
