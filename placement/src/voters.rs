//! Which drives vote in which group, and who of them should lead.
//!
//! Pure functions of what the cluster map says. How many voters a group has:
//!
//! | nodes | voters |
//! |---|---|
//! | 1 | on as many drives as [`voter_count`] says: 1 on one drive, 2 on two, 3 on three or four, 5 on more |
//! | 2 | two on each node, or one on each if one of them has a single drive |
//! | 3, 4 | 3 on distinct nodes |
//! | 5 or more | 5 on distinct nodes for the placement group, and for all groups if bodies survive two losses; else 3 |
//!
//! Nodes can be there for the placement group alone. Three of them have all its voters; one or two have a voter each, and
//! drives for data the others.
//!
//! With two nodes no choice survives the loss of either. An even number on both makes every acknowledged command lie on
//! both machines, so that nothing is lost with one of them; four voters survive any one drive as well.
//!
//! Voters change as little as that allows: one that is there stays, unless it is on its way out, or down while there is
//! another to take its place, or its node has two more than another node has (or its drive than another of the node).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use crate::ids::{DriveId, GroupId, NodeId};
use crate::map::ClusterMap;
use crate::protection::Protection;

/// A drive that may have voters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    pub drive: DriveId,
    pub node: NodeId,
    pub rack: u32,
    /// Whether both drive and node are up.
    pub up: bool,
    /// Whether it may have voters of metadata groups too, not only of the placement group.
    pub data: bool,
}

/// The voters of some groups.
pub type Voters = Vec<(GroupId, Vec<DriveId>)>;

/// The seats that a map has: drives that are not on their way out.
pub fn seats(map: &ClusterMap) -> Vec<Seat> {
    let staying = map.drives.iter().filter(|drive| !drive.state.is_draining());
    staying
        .map(|drive| Seat {
            drive: drive.id,
            node: drive.node,
            rack: map.node(drive.node).map_or(0, |node| node.rack),
            up: drive.state.is_up() && map.is_node_up(drive.node),
            data: drive.is_for_data(),
        })
        .collect()
}

/// Voters of a group on `drives` drives of one host.
pub fn voter_count(drives: usize) -> usize {
    match drives {
        0..=2 => drives,
        3 | 4 => 3,
        _ => 5,
    }
}

/// The voters that the groups `0..=metadata_groups` should have, given those that they `present`ly have. Groups that have
/// none yet get theirs. The order of seats does not matter.
pub fn voters(
    seats: &[Seat],
    present: &[(GroupId, Vec<DriveId>)],
    metadata_groups: u32,
    protection: Protection,
) -> Voters {
    let (data, apart): (Vec<Seat>, Vec<Seat>) = seats.iter().partition(|seat| seat.data);
    if apart.is_empty() {
        return elect(seats, present, 0..=metadata_groups, protection);
    }
    // Nodes that are for the placement group alone have all of it where they are enough, else what they can.
    let nodes: BTreeSet<NodeId> = apart.iter().map(|seat| seat.node).collect();
    let for_placement = if nodes.len() >= 3 { &apart } else { seats };
    let mut groups = elect(for_placement, present, 0..=0, protection);
    groups.extend(elect(&data, present, 1..=metadata_groups, protection));
    groups
}

/// The voters of groups that share their seats with each other alone.
fn elect(
    seats: &[Seat],
    present: &[(GroupId, Vec<DriveId>)],
    groups: RangeInclusive<u32>,
    protection: Protection,
) -> Voters {
    let mut election = Election::new(seats, protection);
    let numbers = groups;
    let mut groups: Voters = Vec::new();
    for group in numbers.map(GroupId) {
        let voters = present.iter().find(|(id, _)| *id == group);
        let mut stay = election.staying(group, voters.map_or(&[], |(_, voters)| voters));
        election.yield_to_apart(group, &mut stay);
        for drive in &stay {
            election.count(*drive, 1);
        }
        groups.push((group, stay));
    }
    for (group, voters) in &mut groups {
        election.complete(*group, voters);
    }
    election.even_out(&mut groups);
    groups
}

/// Who should lead each group: one of its voters that is up, so that leaders are spread over nodes as evenly as the
/// voters allow. Groups without a voter that is up have none.
pub fn preferred_leaders(
    seats: &[Seat],
    groups: &[(GroupId, Vec<DriveId>)],
) -> Vec<(GroupId, DriveId)> {
    let seats: BTreeMap<DriveId, Seat> = seats.iter().map(|seat| (seat.drive, *seat)).collect();
    let mut leaders: Vec<(GroupId, DriveId, Vec<Seat>)> = Vec::new();
    let mut load: BTreeMap<NodeId, usize> = BTreeMap::new();
    for (group, voters) in groups {
        let up: Vec<Seat> = voters
            .iter()
            .filter_map(|drive| seats.get(drive).copied())
            .filter(|seat| seat.up)
            .collect();
        let least = up.iter().copied().min_by_key(|seat| {
            let turn = seat.drive.0.wrapping_add(u64::from(group.0)) % (up.len() as u64);
            (load.get(&seat.node).copied().unwrap_or(0), turn, seat.drive)
        });
        if let Some(leader) = least {
            *load.entry(leader.node).or_default() += 1;
            leaders.push((*group, leader.drive, up));
        }
    }
    // A chain of groups that each hand their leadership on takes one from the fullest node to the emptiest.
    let nodes: Vec<NodeId> = load_order(&leaders);
    for _ in 0..leaders.len() * nodes.len() {
        if !relieve(&mut leaders) {
            break;
        }
    }
    leaders
        .into_iter()
        .map(|(group, leader, _)| (group, leader))
        .collect()
}

/// Who should lead `group`; see [`preferred_leaders`].
pub fn preferred_leader(
    group: GroupId,
    seats: &[Seat],
    groups: &[(GroupId, Vec<DriveId>)],
) -> Option<DriveId> {
    let leaders = preferred_leaders(seats, groups);
    let found = leaders.into_iter().find(|(id, _)| *id == group);
    found.map(|(_, leader)| leader)
}

type Led = (GroupId, DriveId, Vec<Seat>);

fn node_in(up: &[Seat], drive: DriveId) -> Option<NodeId> {
    up.iter()
        .find(|seat| seat.drive == drive)
        .map(|seat| seat.node)
}

fn load_order(leaders: &[Led]) -> Vec<NodeId> {
    let nodes = leaders.iter().flat_map(|(_, _, up)| up);
    let nodes: BTreeSet<NodeId> = nodes.map(|seat| seat.node).collect();
    nodes.into_iter().collect()
}

/// Moves one leadership along a shortest chain from a node to one that leads at least two groups fewer.
fn relieve(leaders: &mut [Led]) -> bool {
    let mut load: BTreeMap<NodeId, usize> = load_order(leaders)
        .into_iter()
        .map(|node| (node, 0))
        .collect();
    for (_, leader, up) in leaders.iter() {
        if let Some(count) = node_in(up, *leader).and_then(|node| load.get_mut(&node)) {
            *count += 1;
        }
    }
    let mut fullest: Vec<(usize, NodeId)> = load.iter().map(|(node, n)| (*n, *node)).collect();
    fullest.sort_by_key(|(count, node)| (std::cmp::Reverse(*count), *node));
    for (count, from) in fullest {
        // How each node was reached: by which group, handing over to which of its voters.
        let mut reached: BTreeMap<NodeId, Option<(usize, DriveId)>> = BTreeMap::new();
        reached.insert(from, None);
        let mut wave = vec![from];
        while let Some(node) = (!wave.is_empty()).then(|| wave.remove(0)) {
            if load[&node] + 1 < count {
                let mut at = node;
                while let Some(Some((group, drive))) = reached.get(&at).copied() {
                    let (_, leader, up) = &mut leaders[group];
                    at = node_in(up, *leader).unwrap_or(from);
                    *leader = drive;
                }
                return true;
            }
            for (index, (_, leader, up)) in leaders.iter().enumerate() {
                if node_in(up, *leader) != Some(node) {
                    continue;
                }
                for seat in up {
                    if let std::collections::btree_map::Entry::Vacant(entry) =
                        reached.entry(seat.node)
                    {
                        entry.insert(Some((index, seat.drive)));
                        wave.push(seat.node);
                    }
                }
            }
        }
    }
    false
}

/// What may not be on two voters of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Domain {
    Drive(DriveId),
    Node(NodeId),
    /// One of two nodes, of which each has so many.
    Half(NodeId, usize),
}

struct Election {
    seats: BTreeMap<DriveId, Seat>,
    nodes: BTreeSet<NodeId>,
    /// Voters a node with two nodes.
    half: usize,
    protection: Protection,
    /// Voters that drives and nodes have so far.
    on_drive: BTreeMap<DriveId, isize>,
    on_node: BTreeMap<NodeId, isize>,
}

impl Election {
    fn new(seats: &[Seat], protection: Protection) -> Self {
        let seats: BTreeMap<DriveId, Seat> = seats.iter().map(|seat| (seat.drive, *seat)).collect();
        let nodes: BTreeSet<NodeId> = seats.values().map(|seat| seat.node).collect();
        let drives_of = |node: &NodeId| seats.values().filter(|seat| seat.node == *node).count();
        let half = nodes.iter().map(drives_of).min().unwrap_or(0).min(2);
        Self {
            half,
            nodes,
            protection,
            on_drive: seats.keys().map(|drive| (*drive, 0)).collect(),
            on_node: seats.values().map(|seat| (seat.node, 0)).collect(),
            seats,
        }
    }

    fn count(&mut self, drive: DriveId, by: isize) {
        if let Some(seat) = self.seats.get(&drive) {
            *self.on_drive.entry(drive).or_default() += by;
            *self.on_node.entry(seat.node).or_default() += by;
        }
    }

    fn is_up(&self, drive: DriveId) -> bool {
        self.seats.get(&drive).is_some_and(|seat| seat.up)
    }

    /// Voters that a group has when all is well.
    fn full(&self, group: GroupId) -> usize {
        match self.nodes.len() {
            0 => 0,
            1 => voter_count(self.seats.len()),
            2 => 2 * self.half,
            3 | 4 => 3,
            _ if group == GroupId::PLACEMENT || self.protection.parity >= 2 => 5,
            _ => 3,
        }
    }

    fn domain(&self, seat: &Seat, voters: &[DriveId]) -> Domain {
        match self.nodes.len() {
            0 | 1 => Domain::Drive(seat.drive),
            2 => {
                let here = voters.iter().filter(|voter| {
                    let other = self.seats.get(voter);
                    **voter != seat.drive && other.is_some_and(|other| other.node == seat.node)
                });
                Domain::Half(seat.node, here.count())
            }
            _ => Domain::Node(seat.node),
        }
    }

    /// Whether a drive may vote beside `voters`.
    fn fits(&self, seat: &Seat, voters: &[DriveId]) -> bool {
        if voters.contains(&seat.drive) {
            return false;
        }
        match self.domain(seat, voters) {
            Domain::Drive(_) => true,
            Domain::Half(_, here) => here < self.half,
            Domain::Node(node) => voters
                .iter()
                .filter_map(|voter| self.seats.get(voter))
                .all(|other| other.node != node),
        }
    }

    /// Drives that are up and may be added to `voters`.
    fn open(&self, voters: &[DriveId]) -> Vec<Seat> {
        let up = self.seats.values().filter(|seat| seat.up);
        up.filter(|seat| self.fits(seat, voters)).copied().collect()
    }

    /// How many could vote at most, if only those could that are up.
    fn up_max(&self) -> usize {
        let mut voters = Vec::new();
        while let Some(seat) = self.open(&voters).first() {
            voters.push(seat.drive);
        }
        voters.len()
    }

    /// Those of a group's voters that stay.
    fn staying(&self, group: GroupId, present: &[DriveId]) -> Vec<DriveId> {
        let mut stay: Vec<DriveId> = Vec::new();
        // Of two that share a domain the one that is up stays.
        let (up, down): (Vec<DriveId>, Vec<DriveId>) = present
            .iter()
            .copied()
            .filter(|drive| self.seats.contains_key(drive))
            .partition(|drive| self.is_up(*drive));
        for drive in up.iter().chain(&down) {
            if self
                .seats
                .get(drive)
                .is_some_and(|seat| self.fits(seat, &stay))
            {
                stay.push(*drive);
            }
        }
        let live = stay.iter().filter(|drive| self.is_up(**drive)).count();
        let full = self.full(group);
        if live == stay.len() {
            stay.truncate(full);
            return self.in_order(present, stay);
        }
        // Who is down and can be replaced goes, if enough are left to go on with fewer.
        let mut without: Vec<DriveId> = stay.iter().copied().filter(|d| self.is_up(*d)).collect();
        let up_max = self.up_max();
        let count = match self.nodes.len() {
            0 | 1 if up_max < 3 => 0,
            0 | 1 => voter_count(up_max).min(full),
            2 => {
                // Each of the two for itself: a voter that is down yields to another drive of its node.
                for drive in &down {
                    let Some(seat) = self.seats.get(drive) else {
                        continue;
                    };
                    let spare = |other: &Seat| other.node == seat.node && other.up;
                    let spares = self.open(&without).iter().filter(|s| spare(s)).count();
                    let waiting = without
                        .iter()
                        .filter(|voter| !self.is_up(**voter))
                        .filter_map(|voter| self.seats.get(voter))
                        .filter(|other| other.node == seat.node)
                        .count();
                    if spares == 0 && waiting < self.half && self.fits(seat, &without) {
                        without.push(*drive);
                    }
                }
                return self.in_order(present, without);
            }
            _ if up_max >= full => full,
            // Five of whom one is down survive one loss more, as three do; with two down they survive none.
            _ if full == 5 && up_max >= 3 && live <= 3 => 3,
            _ => 0,
        };
        if count == 0 {
            stay.truncate(full);
            return self.in_order(present, stay);
        }
        without.truncate(count);
        self.in_order(present, without)
    }

    /// Takes voters away for which there are seats that are for nothing else.
    fn yield_to_apart(&self, group: GroupId, voters: &mut Vec<DriveId>) {
        let on_data = |drive: &DriveId| self.seats.get(drive).is_some_and(|seat| seat.data);
        let nodes = |voters: &[DriveId]| -> BTreeSet<NodeId> {
            let open = self.open(voters).into_iter().filter(|seat| !seat.data);
            open.map(|seat| seat.node).collect()
        };
        while voters.len() + nodes(voters).len() > self.full(group) {
            let Some(at) = voters.iter().rposition(on_data) else {
                return;
            };
            voters.remove(at);
        }
    }

    fn in_order(&self, present: &[DriveId], stay: Vec<DriveId>) -> Vec<DriveId> {
        let there = |drive: &DriveId| stay.contains(drive);
        present.iter().copied().filter(there).collect()
    }

    /// Adds voters until there are as many as there should be, or as can be.
    fn complete(&mut self, group: GroupId, voters: &mut Vec<DriveId>) {
        let down = voters.iter().filter(|drive| !self.is_up(**drive)).count();
        let full = self.full(group);
        let most = match self.nodes.len() {
            // As few as make the best of those that are left.
            0 | 1 if down == 0 => voter_count(self.up_max()).min(full).max(voters.len()),
            _ if full == 5 && down == 0 && self.up_max() < 5 => self.up_max().min(3),
            _ => full,
        };
        while voters.len() < most {
            let racks: Vec<u32> = voters
                .iter()
                .filter_map(|voter| self.seats.get(voter))
                .map(|seat| seat.rack)
                .collect();
            let best = self.open(voters).into_iter().min_by_key(|seat| {
                let in_rack = racks.iter().filter(|rack| **rack == seat.rack).count();
                let turn = seat.drive.0.wrapping_add(u64::from(group.0));
                (
                    seat.data,
                    in_rack,
                    self.on_node.get(&seat.node).copied(),
                    self.on_drive.get(&seat.drive).copied(),
                    turn % self.seats.len().max(1) as u64,
                    seat.drive,
                )
            });
            let Some(seat) = best else {
                return;
            };
            self.count(seat.drive, 1);
            voters.push(seat.drive);
        }
    }

    /// Moves voters from drives and nodes that have two more than others, group by group. Groups that are without a voter
    /// are left alone.
    fn even_out(&mut self, groups: &mut Voters) {
        while self.even_one(groups) {}
    }

    /// Takes the step that achieves most. Each makes the sum of squares of what nodes have less, or that of drives and
    /// not that of nodes: it ends.
    fn even_one(&mut self, groups: &mut Voters) -> bool {
        let mut best: Option<((isize, isize), usize, usize, Seat)> = None;
        for (index, (_, voters)) in groups.iter().enumerate() {
            if !voters.iter().all(|drive| self.is_up(*drive)) {
                continue;
            }
            for (number, old) in voters.iter().enumerate() {
                let mut others = voters.clone();
                others.remove(number);
                for to in self.open(&others) {
                    if to.data && self.seats.get(old).is_some_and(|seat| !seat.data) {
                        continue;
                    }
                    let gain = self.gain(*old, &to, &others);
                    if gain > best.map_or((0, 0), |(gain, ..)| gain) {
                        best = Some((gain, index, number, to));
                    }
                }
            }
        }
        let Some((_, index, number, to)) = best else {
            return false;
        };
        let voter = &mut groups[index].1[number];
        let old = std::mem::replace(voter, to.drive);
        self.count(old, -1);
        self.count(to.drive, 1);
        true
    }

    /// What is won if a voter goes from drive `old` to `to`: how much more the one node has than the other, and the one
    /// drive than the other. Zeros if it is not worth it.
    fn gain(&self, old: DriveId, to: &Seat, others: &[DriveId]) -> (isize, isize) {
        let Some(from) = self.seats.get(&old) else {
            return (0, 0);
        };
        let racks = |added: u32| {
            let others = others.iter().filter_map(|voter| self.seats.get(voter));
            let mut racks: BTreeSet<u32> = others.map(|seat| seat.rack).collect();
            racks.insert(added);
            racks.len()
        };
        let nodes = self.on_node[&from.node] - self.on_node[&to.node];
        let drives = self.on_drive[&from.drive] - self.on_drive[&to.drive];
        match from.node == to.node {
            true if drives >= 2 => (0, drives),
            false if nodes >= 2 && racks(to.rack) >= racks(from.rack) => (nodes, drives),
            _ => (0, 0),
        }
    }
}

#[cfg(test)]
mod tests;
