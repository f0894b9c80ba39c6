//! What a ring promises, on chosen topologies. Random ones are in `sequences.rs`.

mod sequences;

use std::collections::{BTreeMap, BTreeSet};

use super::{Member, balance, fair_shares, least_moves};
use crate::ids::{DriveId, NodeId};
use crate::ring::{Ring, SLOTS_MAX};

const PARTITIONS: usize = 1024;

fn member(drive: u64, capacity: u64, host: u64, rack: u32) -> Member {
    Member {
        drive: DriveId(drive),
        capacity,
        host: NodeId(host),
        rack,
    }
}

fn one_host(drives: u64) -> Vec<Member> {
    (1..=drives).map(|id| member(id, 1000, 1, 0)).collect()
}

/// Slots of each drive among the first `prefix`.
fn held(ring: &Ring, prefix: usize) -> BTreeMap<DriveId, usize> {
    let mut held = BTreeMap::new();
    for slots in ring.partitions() {
        for slot in slots.iter().take(prefix) {
            *held.entry(slot.target).or_default() += 1;
        }
    }
    held
}

/// Every partition has all slots, each with another drive, and whoever is next in one, of racks and of hosts of a rack,
/// is of those that were there least often and have drives left: that is the rule of domains, for every prefix.
fn check_spread(ring: &Ring, members: &[Member], told: &str) {
    let places: BTreeMap<DriveId, Member> = members.iter().map(|m| (m.drive, *m)).collect();
    let mut in_racks: BTreeMap<u32, usize> = BTreeMap::new();
    let mut in_hosts: BTreeMap<u32, BTreeMap<NodeId, usize>> = BTreeMap::new();
    for member in members {
        *in_racks.entry(member.rack).or_default() += 1;
        let hosts = in_hosts.entry(member.rack).or_default();
        *hosts.entry(member.host).or_default() += 1;
    }
    for slots in ring.partitions() {
        assert_eq!(slots.len(), members.len().min(SLOTS_MAX), "{told}");
        let mut drives = BTreeSet::new();
        let mut racks: BTreeMap<u32, usize> = BTreeMap::new();
        let mut hosts: BTreeMap<(u32, NodeId), usize> = BTreeMap::new();
        for (slot, drive) in slots.iter().map(|slot| slot.target).enumerate() {
            let Member { host, rack, .. } = places[&drive];
            let told = || format!("slot {slot} of {slots:?}, {told}");
            assert!(drives.insert(drive), "{}", told());
            let used = |of: u32| racks.get(&of).copied().unwrap_or(0);
            let open = in_racks.iter().filter(|(of, drives)| used(**of) < **drives);
            let least = open.map(|(of, _)| used(*of)).min();
            assert_eq!(Some(used(rack)), least, "rack, {}", told());
            let used = |of: NodeId| hosts.get(&(rack, of)).copied().unwrap_or(0);
            let open = in_hosts[&rack].iter();
            let open = open.filter(|(of, drives)| used(**of) < **drives);
            let least = open.map(|(of, _)| used(*of)).min();
            assert_eq!(Some(used(host)), least, "host, {}", told());
            *racks.entry(rack).or_default() += 1;
            *hosts.entry((rack, host)).or_default() += 1;
        }
    }
}

/// The largest distance of a drive from its fair share of the first `prefix` slots.
fn unfairness(ring: &Ring, members: &[Member], prefix: usize) -> f64 {
    let held = held(ring, prefix);
    let shares = fair_shares(members, ring.partition_count(), prefix).into_iter();
    let off =
        shares.map(|(drive, share)| (held.get(&drive).copied().unwrap_or(0) as f64 - share).abs());
    off.fold(0.0, f64::max)
}

/// Likewise of any number of first slots up to `prefix`.
fn unfairness_before(ring: &Ring, members: &[Member], prefix: usize) -> f64 {
    let off = (1..=prefix).map(|prefix| unfairness(ring, members, prefix));
    off.fold(0.0, f64::max)
}

/// Slots whose drive changed, among the first `prefix`.
fn moved(old: &Ring, new: &Ring, prefix: usize) -> usize {
    let rows = old.partitions().zip(new.partitions());
    let cells = rows.flat_map(|(old, new)| old.iter().zip(new).take(prefix));
    cells.filter(|(old, new)| old.target != new.target).count()
}

/// What rounding and the limits of drives add to 1.1 times the least: a slot a drive.
fn most_moves(least: usize, members: &[Member]) -> usize {
    (least as f64 * 1.1) as usize + members.len()
}

const WITHIN_A_SLOT: f64 = 1.0 + 1e-6;

#[test]
fn one_host_lists_every_drive_once_and_each_slot_evenly() {
    for drives in 1..=16 {
        let members = one_host(drives);
        let ring = balance(&members, PARTITIONS, &[], None);
        let told = format!("{drives} drives");
        check_spread(&ring, &members, &told);
        let slots = members.len();
        assert!(unfairness(&ring, &members, slots) < 1e-6, "{told}");
        // One slot and a hundredth of the share.
        let off = unfairness_before(&ring, &members, slots);
        assert!(off <= 1.0 + 0.01 * 1024.0, "{told}: off by {off}");
        let again = balance(&members, PARTITIONS, &[], Some(&ring));
        assert!(ring == again, "{told}");
    }
}

#[test]
fn unequal_drives_of_one_host_get_their_part_of_each_number_of_slots() {
    let members: Vec<Member> = (1..=10)
        .map(|id| member(id, 500 + 100 * id, 1, 0))
        .collect();
    let ring = balance(&members, PARTITIONS, &[4], None);
    check_spread(&ring, &members, "unequal");
    assert!(unfairness(&ring, &members, 10) < 1e-6);
    assert!(unfairness(&ring, &members, 4) < WITHIN_A_SLOT);
    assert!(unfairness_before(&ring, &members, 10) <= 12.0);
    let first = held(&ring, 4);
    assert!(first[&DriveId(10)] > 2 * first[&DriveId(1)], "{first:?}");
}

#[test]
fn the_order_of_members_does_not_matter() {
    let members: Vec<Member> = (0..60)
        .map(|i| member(i + 1, 1000 + 100 * (i % 7), i / 3, (i / 3 % 3) as u32))
        .collect();
    let mut other: Vec<Member> = members.clone();
    other.reverse();
    other.swap(3, 40);
    let ring = balance(&members, PARTITIONS, &[6], None);
    assert!(ring == balance(&other, PARTITIONS, &[6], None));
    let (fewer, other) = (&members[4..], other);
    let other: Vec<Member> = other.into_iter().filter(|m| m.drive.0 > 4).collect();
    assert!(ring.rebalanced(fewer, &[6]) == ring.rebalanced(&other, &[6]));
}

/// Of one host with up to 16 drives every partition lists every drive: which slots a drive has decides what is on it, so the
/// number of slots that bodies have must be told.
#[test]
fn a_drive_more_or_less_in_a_host_gets_its_part_of_the_slots_in_use() {
    for drives in 3..16 {
        let (fewer, more) = (one_host(drives), one_host(drives + 1));
        for (before, after) in [(&fewer, &more), (&more, &fewer)] {
            let width = 3.max(drives as usize / 2);
            let old = balance(before, PARTITIONS, &[width], None);
            let new = old.rebalanced(after, &[width]);
            let told = format!("{} to {} drives, {width} used", before.len(), after.len());
            check_spread(&new, after, &told);
            let off = unfairness(&new, after, width);
            assert!(off <= WITHIN_A_SLOT, "{told}: off by {off}");
            let (moved, least) = (moved(&old, &new, width), least_moves(&old, after, width));
            assert!(least > PARTITIONS / 8, "{told}: {least}");
            assert!(
                moved >= least && moved <= most_moves(least, after),
                "{told}: moved {moved}, least {least}"
            );
        }
    }
}

#[test]
fn a_drive_or_host_more_or_less_in_a_cluster_moves_little() {
    let before: Vec<Member> = (0..80).map(|i| member(i + 1, 1000, i / 4, 0)).collect();
    let old = balance(&before, PARTITIONS, &[6], None);
    let mut drive_more = before.clone();
    drive_more.push(member(999, 1000, 0, 0));
    let mut host_more = before.clone();
    host_more.extend((0..4).map(|i| member(1000 + i, 1000, 777, 0)));
    let mut drive_less = before.clone();
    drive_less.remove(2);
    let host_less: Vec<Member> = before[4..].to_vec();
    for after in [&drive_more, &host_more, &drive_less, &host_less] {
        let new = old.rebalanced(after, &[6]);
        let told = format!("80 to {} drives", after.len());
        check_spread(&new, after, &told);
        for width in [6, SLOTS_MAX] {
            let off = unfairness(&new, after, width);
            assert!(off <= WITHIN_A_SLOT, "{told}: off by {off}");
            let (moved, least) = (moved(&old, &new, width), least_moves(&old, after, width));
            // Nothing lies in the slots that no body has: that they change costs nothing.
            let most = if width == 6 { 1.1 } else { 1.5 };
            assert!(
                moved >= least && moved as f64 <= least as f64 * most,
                "{told}: moved {moved}, least {least}"
            );
        }
    }
}

/// Who has a ring gets nothing moved by asking again, nor by asking for another number of slots that happens to be fair.
#[test]
fn a_fair_ring_stays_as_it_is() {
    let members: Vec<Member> = (0..40)
        .map(|i| member(i + 1, 1000 + 500 * (i % 3), i / 4, (i / 4 % 2) as u32))
        .collect();
    let ring = balance(&members, PARTITIONS, &[6, 12], None);
    for widths in [&[6, 12][..], &[12], &[6], &[]] {
        assert!(ring == balance(&members, PARTITIONS, widths, Some(&ring)));
    }
}

/// No ring can be nearer to the shares by capacity than the rule of domains lets it be: shares are fair within the rule.
/// Three hosts, of which one has nine tenths of the room, have a slot of three each.
#[test]
fn the_rule_of_domains_comes_before_capacity() {
    let members: Vec<Member> = (1..=3)
        .map(|i| member(i, if i == 1 { 18_000 } else { 1000 }, i, 0))
        .collect();
    let shares = fair_shares(&members, PARTITIONS, 3);
    assert!(
        shares
            .iter()
            .all(|(_, share)| (share - 1024.0).abs() < 1e-6)
    );
    // Of two slots the large one has one in every partition, and cannot have two.
    let shares = fair_shares(&members, PARTITIONS, 2);
    assert!((shares[0].1 - 1024.0).abs() < 1e-6 && (shares[1].1 - 512.0).abs() < 1e-6);
    let ring = balance(&members, PARTITIONS, &[2], None);
    assert!(unfairness(&ring, &members, 2) < 1e-6);
}

/// Rings that were computed by exchanging single slots, with other tolerances, are in use: they stay nearly as they are. This
/// one has been through a host and a drive more and less, and another capacity.
#[test]
fn a_ring_of_an_earlier_version_stays_nearly_as_it_is() {
    let bytes = include_bytes!("tests/ring-of-single-steps.postcard");
    let ring: Ring = postcard::from_bytes(bytes).unwrap();
    let mut members: Vec<Member> = (1..=20)
        .map(|i| {
            let capacity = if i > 16 { 2000 } else { 1000 + 500 * (i % 3) };
            member(i, capacity, (i - 1) / 4, 0)
        })
        .collect();
    members.remove(2);
    members[9].capacity = 3000;
    check_spread(&ring, &members, "as it was");
    for width in [3, 6, 10, SLOTS_MAX] {
        let new = ring.rebalanced(&members, &[width]);
        let told = format!("{width} slots");
        check_spread(&new, &members, &told);
        assert!(unfairness(&new, &members, width) <= WITHIN_A_SLOT, "{told}");
        // Of all that the bodies have on drives less than two hundredths move.
        let moved = moved(&ring, &new, width);
        assert!(moved <= PARTITIONS * width / 50, "{told}: {moved}");
    }
    let mut more = members.clone();
    more.extend((21..=24).map(|i| member(i, 2000, 5, 0)));
    let new = ring.rebalanced(&more, &[6]);
    let (moved, least) = (moved(&ring, &new, 6), least_moves(&ring, &more, 6));
    assert!(moved <= most_moves(least, &more), "{moved}, {least}");
}

#[test]
fn a_thousand_drives() {
    let members: Vec<Member> = (1..=1000)
        .map(|id| member(id, 1000, id / 10, (id / 100) as u32))
        .collect();
    let ring = balance(&members, PARTITIONS, &[6], None);
    check_spread(&ring, &members, "1000 drives");
    // A host with ten drives fails: what it had goes to others, and nothing else moves.
    let fewer = &members[..990];
    let next = ring.rebalanced(fewer, &[6]);
    check_spread(&next, fewer, "990 drives");
    for (ring, members) in [(&ring, &members[..]), (&next, fewer)] {
        assert!(unfairness(ring, members, 6) <= WITHIN_A_SLOT);
        assert!(unfairness(ring, members, SLOTS_MAX) <= WITHIN_A_SLOT);
    }
    let (moved, least) = (moved(&ring, &next, 6), least_moves(&ring, fewer, 6));
    assert!(
        moved as f64 <= least as f64 * 1.1,
        "moved {moved} of {least}"
    );
}
