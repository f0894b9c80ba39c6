//! Voters of random clusters through random changes.

use std::collections::{BTreeMap, BTreeSet};

use super::{Seat, Voters, preferred_leaders, voter_count, voters};
use crate::ids::{DriveId, GroupId, NodeId};
use crate::protection::Protection;
use crate::seams::SeededRng;

const GROUPS: u32 = 16;
const TWO: Protection = Protection { data: 4, parity: 2 };
const ONE: Protection = Protection { data: 2, parity: 1 };

fn seed() -> u64 {
    let seed = std::env::var("HOLDFAST_SEED").map_or(0x707E, |text| text.parse().unwrap());
    println!("HOLDFAST_SEED={seed}");
    seed
}

/// Seats of nodes with so many drives each, all up, in a rack.
fn nodes(drives: &[u64]) -> Vec<Seat> {
    let mut seats = Vec::new();
    for (node, count) in (1..).zip(drives) {
        for _ in 0..*count {
            seats.push(Seat {
                drive: DriveId(seats.len() as u64 + 1),
                node: NodeId(node),
                rack: 0,
                up: true,
                data: true,
            });
        }
    }
    seats
}

fn down(seats: &[Seat], drives: &[u64]) -> Vec<Seat> {
    let mut seats = seats.to_vec();
    for seat in &mut seats {
        seat.up &= !drives.contains(&seat.drive.0);
    }
    seats
}

fn ids(numbers: &[u64]) -> Vec<DriveId> {
    numbers.iter().copied().map(DriveId).collect()
}

fn seat_of(seats: &[Seat], drive: DriveId) -> Option<Seat> {
    seats.iter().find(|seat| seat.drive == drive).copied()
}

fn load(seats: &[Seat], groups: &Voters) -> BTreeMap<NodeId, usize> {
    let mut load: BTreeMap<NodeId, usize> = seats.iter().map(|seat| (seat.node, 0)).collect();
    for drive in groups.iter().flat_map(|(_, voters)| voters) {
        *load.get_mut(&seat_of(seats, *drive).unwrap().node).unwrap() += 1;
    }
    load
}

fn changed(before: &Voters, after: &Voters) -> usize {
    let pairs = before.iter().zip(after);
    pairs
        .map(|((_, before), (_, after))| after.iter().filter(|d| !before.contains(d)).count())
        .sum()
}

/// What one group's voters become.
fn one(seats: &[Seat], present: &[u64]) -> Vec<DriveId> {
    let present = vec![(GroupId(0), ids(present))];
    voters(seats, &present, 0, TWO).remove(0).1
}

#[test]
fn one_host_loses_and_replaces_drives() {
    for drives in 1..=16 {
        let seats = nodes(&[drives]);
        let groups = voters(&seats, &[], GROUPS, TWO);
        assert_eq!(groups.len(), 17);
        assert!(
            groups
                .iter()
                .all(|(_, v)| v.len() == voter_count(drives as usize))
        );
        assert_eq!(voters(&seats, &groups, GROUPS, TWO), groups);
    }
    assert_eq!(one(&down(&nodes(&[4]), &[1]), &[1, 2, 3]), ids(&[2, 3, 4]));
    assert_eq!(
        one(&down(&nodes(&[6]), &[1, 2]), &[1, 2, 3, 4, 5]),
        ids(&[3, 4, 5])
    );
    assert_eq!(one(&nodes(&[4]), &[1, 2, 3]), ids(&[1, 2, 3]));
    assert_eq!(one(&down(&nodes(&[3]), &[3]), &[1, 2, 3]), ids(&[1, 2, 3]));
    assert_eq!(one(&down(&nodes(&[2]), &[2]), &[1, 2]), ids(&[1, 2]));
    assert_eq!(one(&nodes(&[6]), &[1, 2, 3]).len(), 5);
}

#[test]
fn two_nodes_have_the_same_number_of_voters() {
    let seats = nodes(&[3, 2]);
    let mut both = one(&seats, &[1, 2, 3]);
    both.sort();
    assert_eq!(both, ids(&[1, 2, 4, 5]));
    assert_eq!(one(&nodes(&[3, 1]), &[1, 2, 3]), ids(&[1, 4]));
    assert_eq!(one(&down(&seats, &[2]), &[1, 2, 4, 5]), ids(&[1, 4, 5, 3]));
    assert_eq!(one(&down(&seats, &[4]), &[1, 2, 4, 5]), ids(&[1, 2, 4, 5]));
    assert_eq!(
        one(&down(&seats, &[4, 5]), &[1, 2, 4, 5]),
        ids(&[1, 2, 4, 5])
    );
}

#[test]
fn a_lost_node_is_replaced_only_if_there_is_another() {
    assert_eq!(
        one(&down(&nodes(&[1; 3]), &[3]), &[1, 2, 3]),
        ids(&[1, 2, 3])
    );
    assert_eq!(
        one(&down(&nodes(&[1; 4]), &[3]), &[1, 2, 3]),
        ids(&[1, 2, 4])
    );
    // Another drive of the same node will do.
    assert_eq!(
        one(&down(&nodes(&[2; 3]), &[1]), &[1, 3, 5]),
        ids(&[3, 5, 2])
    );
    let five = nodes(&[1; 5]);
    assert_eq!(one(&five, &[1, 2, 3]).len(), 5);
    assert_eq!(one(&down(&five, &[2]), &[1, 2, 3, 4, 5]).len(), 5);
    assert_eq!(
        one(&down(&five, &[2, 4]), &[1, 2, 3, 4, 5]),
        ids(&[1, 3, 5])
    );
    let six = down(&nodes(&[1; 6]), &[2, 4]);
    assert_eq!(one(&six, &[1, 2, 3, 4, 5]), ids(&[1, 3, 5]));
    assert_eq!(one(&five, &[1, 3, 5]).len(), 5);
}

#[test]
fn a_store_that_grows_spreads_its_groups() {
    let mut groups = voters(&nodes(&[2]), &[], GROUPS, ONE);
    for count in 2..=9 {
        let seats = nodes(&vec![2; count]);
        groups = voters(&seats, &groups, GROUPS, ONE);
        let load = load(&seats, &groups);
        let (least, most) = (load.values().min().unwrap(), load.values().max().unwrap());
        assert!(most - least <= 1, "{count} nodes: {load:?}");
        assert_eq!(groups[1].1.len(), if count == 2 { 4 } else { 3 });
        assert_eq!(groups[0].1.len(), [4, 3, 3, 5, 5, 5, 5, 5][count - 2]);
    }
    let all_five = voters(&nodes(&[1; 7]), &[], GROUPS, TWO);
    assert!(all_five.iter().all(|(_, voters)| voters.len() == 5));
}

#[test]
fn voters_keep_their_rules_through_random_changes() {
    let seed = seed();
    for round in 0..200 {
        let rng = SeededRng::new(seed + round);
        let racks = 1 + rng.below(3) as u32;
        let protection = if rng.below(2) == 0 { ONE } else { TWO };
        let mut seats = nodes(
            &(0..1 + rng.below(7))
                .map(|_| 1 + rng.below(4))
                .collect::<Vec<_>>(),
        );
        for seat in &mut seats {
            seat.rack = seat.node.0 as u32 % racks;
        }
        let mut groups = voters(&seats, &[], GROUPS, protection);
        for step in 0..12 {
            let told = format!("seed {} step {step}", seed + round);
            let before = seats.clone();
            change(&mut seats, racks, &rng);
            let next = voters(&seats, &groups, GROUPS, protection);
            check(&seats, &groups, &next, racks, &told);
            assert_eq!(
                voters(&seats, &next, GROUPS, protection),
                next,
                "{told}: not settled, from {before:?} to {seats:?}"
            );
            groups = next;
        }
    }
}

fn change(seats: &mut Vec<Seat>, racks: u32, rng: &SeededRng) {
    let any = rng.below(seats.len() as u64) as usize;
    let (node, drive) = (seats[any].node, seats[any].drive);
    let newest = seats.iter().map(|seat| seat.drive.0).max().unwrap_or(0);
    match rng.below(8) {
        0 => seats.push(Seat {
            drive: DriveId(newest + 1),
            up: true,
            data: true,
            ..seats[any]
        }),
        1 => {
            let node = NodeId(100 + newest);
            seats.push(Seat {
                drive: DriveId(newest + 1),
                node,
                rack: node.0 as u32 % racks,
                up: true,
                data: true,
            });
        }
        2 if seats.len() > 1 => seats.retain(|seat| seat.drive != drive),
        3 if seats.iter().any(|seat| seat.node != node) => seats.retain(|seat| seat.node != node),
        4 => seats[any].up = false,
        5 => seats
            .iter_mut()
            .filter(|seat| seat.node == node)
            .for_each(|seat| seat.up = false),
        _ => seats
            .iter_mut()
            .filter(|seat| seat.node == node)
            .for_each(|seat| seat.up = true),
    }
}

fn check(seats: &[Seat], before: &Voters, after: &Voters, racks: u32, told: &str) {
    let nodes: BTreeSet<NodeId> = seats.iter().map(|seat| seat.node).collect();
    let up_nodes: BTreeSet<NodeId> = seats.iter().filter(|s| s.up).map(|s| s.node).collect();
    let all_up = seats.iter().all(|seat| seat.up);
    for ((group, before), (_, after)) in before.iter().zip(after) {
        let told = format!("{told} {group}: {before:?} to {after:?} of {seats:?}");
        let distinct: BTreeSet<DriveId> = after.iter().copied().collect();
        assert_eq!(distinct.len(), after.len(), "{told}");
        let at: Vec<Seat> = after
            .iter()
            .map(|d| seat_of(seats, *d).expect(&told))
            .collect();
        let on: BTreeSet<NodeId> = at.iter().map(|seat| seat.node).collect();
        match nodes.len() {
            1 => {}
            2 => {
                let most = on
                    .iter()
                    .map(|n| at.iter().filter(|s| s.node == *n).count())
                    .max();
                assert!(most.unwrap_or(0) <= 2, "{told}");
            }
            _ => assert_eq!(on.len(), after.len(), "{told}"),
        }
        // Who is new is up, and who is down was there before.
        for seat in &at {
            assert!(seat.up || before.contains(&seat.drive), "{told}");
        }
        let live = |voters: &[DriveId]| {
            voters
                .iter()
                .filter(|d| seat_of(seats, **d).is_some_and(|s| s.up))
                .count() as isize
        };
        let spare = |voters: &[DriveId]| live(voters) - (voters.len() as isize / 2 + 1);
        assert!(spare(after) >= spare(before) || nodes.len() == 2, "{told}");
        if nodes.len() >= 3 && up_nodes.len() >= 3 {
            assert!(spare(after) >= 1, "{told}");
        }
    }
    if nodes.len() >= 3 && all_up && racks == 1 {
        let load = load(seats, after);
        let (least, most) = (load.values().min().unwrap(), load.values().max().unwrap());
        assert!(most - least <= 1, "{told}: {load:?}");
        let mut on_drive: BTreeMap<DriveId, usize> = seats.iter().map(|s| (s.drive, 0)).collect();
        for drive in after.iter().flat_map(|(_, voters)| voters) {
            *on_drive.get_mut(drive).unwrap() += 1;
        }
        for node in &nodes {
            let here = seats.iter().filter(|seat| seat.node == *node);
            let here: Vec<usize> = here.map(|seat| on_drive[&seat.drive]).collect();
            let (least, most) = (here.iter().min().unwrap(), here.iter().max().unwrap());
            assert!(most - least <= 1, "{told}: {node} {here:?}");
        }
        let leaders = preferred_leaders(seats, after);
        assert_eq!(leaders.len(), after.len());
        let mut led: BTreeMap<NodeId, usize> = nodes.iter().map(|node| (*node, 0)).collect();
        for (group, leader) in &leaders {
            let (_, voters) = after.iter().find(|(id, _)| id == group).unwrap();
            assert!(voters.contains(leader), "{told}");
            *led.get_mut(&seat_of(seats, *leader).unwrap().node).unwrap() += 1;
        }
        let (least, most) = (led.values().min().unwrap(), led.values().max().unwrap());
        assert!(most - least <= 1, "{told}: leaders {led:?}");
    }
    let _ = changed(before, after);
}

#[test]
fn a_node_that_comes_or_goes_changes_little() {
    for count in 3..10 {
        let (fewer, more) = (nodes(&vec![2; count]), nodes(&vec![2; count + 1]));
        let before = voters(&fewer, &[], GROUPS, ONE);
        let grown = voters(&more, &before, GROUPS, ONE);
        let votes: usize = grown.iter().map(|(_, voters)| voters.len()).sum();
        let new_votes = votes - before.iter().map(|(_, voters)| voters.len()).sum::<usize>();
        let fair = votes.div_ceil(count + 1);
        let moved = changed(&before, &grown);
        assert!(
            moved <= fair.max(new_votes) + 1,
            "{count} nodes more: {moved}, fair {fair}"
        );
        let lost = NodeId(count as u64 + 1);
        let had = load(&more, &grown)[&lost];
        let mut without = more.clone();
        without
            .iter_mut()
            .filter(|seat| seat.node == lost)
            .for_each(|seat| seat.up = false);
        let moved = changed(&grown, &voters(&without, &grown, GROUPS, ONE));
        assert!(
            moved <= had + 2,
            "{count} nodes, one lost: {moved}, it had {had}"
        );
    }
}

/// The same seats and nodes of one drive each that are there for the placement group alone.
fn with_apart(seats: &[Seat], nodes: &[u64]) -> Vec<Seat> {
    let mut seats = seats.to_vec();
    for node in nodes {
        seats.push(Seat {
            drive: DriveId(100 + node),
            node: NodeId(100 + node),
            rack: 0,
            up: true,
            data: false,
        });
    }
    seats
}

#[test]
fn nodes_for_the_placement_group_alone_have_its_voters_and_no_others() {
    let data = nodes(&[2, 2, 2]);
    let mut groups = voters(&data, &[], GROUPS, ONE);
    // As they come, one after the other; then one goes.
    let cases: [(&[u64], usize); 6] = [
        (&[1], 1),
        (&[1, 2], 2),
        (&[1, 2, 3], 3),
        (&[1, 2, 3, 4, 5], 5),
        (&[1, 2, 4], 3),
        (&[4], 1),
    ];
    for (apart, expected) in cases {
        let seats = with_apart(&data, apart);
        groups = voters(&seats, &groups, GROUPS, ONE);
        let on_apart = |voters: &[DriveId]| voters.iter().filter(|drive| drive.0 > 100).count();
        assert_eq!(
            on_apart(&groups[0].1),
            expected,
            "{apart:?}: {:?}",
            groups[0]
        );
        assert!(groups[0].1.len() >= 3, "{apart:?}: {:?}", groups[0]);
        for (group, voters) in &groups[1..] {
            assert!(
                voters.len() == 3 && on_apart(voters) == 0,
                "{group:?}: {voters:?}"
            );
        }
        assert_eq!(
            voters(&seats, &groups, GROUPS, ONE),
            groups,
            "nothing more changes"
        );
    }
    groups = voters(&data, &groups, GROUPS, ONE);
    assert_eq!(groups[0].1.len(), 3);
    assert!(groups[0].1.iter().all(|drive| drive.0 < 100));
}
