//! What a ring promises, on random topologies and sequences of changes.

use std::collections::{BTreeMap, BTreeSet};

use super::{Member, balance, fair_shares};
use crate::ids::{DriveId, NodeId};
use crate::ring::{Ring, SLOTS_MAX};
use crate::seams::SeededRng;

const PARTITIONS: usize = 1024;

fn seed() -> u64 {
    let seed = std::env::var("HOLDFAST_SEED").map_or(0x9146, |text| text.parse().unwrap());
    println!("HOLDFAST_SEED={seed}");
    seed
}

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
    for drives in &ring.partitions {
        for drive in drives.iter().take(prefix) {
            *held.entry(*drive).or_default() += 1;
        }
    }
    held
}

/// Every partition has all slots, each with another drive, the first in as many domains as there are.
fn check_spread(ring: &Ring, members: &[Member], told: &str) {
    let places: BTreeMap<DriveId, Member> = members.iter().map(|m| (m.drive, *m)).collect();
    let count = |of: &mut dyn Iterator<Item = u64>| of.collect::<BTreeSet<u64>>().len();
    let hosts = count(&mut members.iter().map(|m| m.host.0 << 20 | u64::from(m.rack)));
    let racks = count(&mut members.iter().map(|m| u64::from(m.rack)));
    for drives in &ring.partitions {
        assert_eq!(drives.len(), members.len().min(SLOTS_MAX), "{told}");
        for n in 1..=drives.len() {
            let first: Vec<Member> = drives[..n].iter().map(|drive| places[drive]).collect();
            let distinct = count(&mut first.iter().map(|m| m.drive.0));
            assert_eq!(distinct, n, "drives, {told}");
            let in_racks = count(&mut first.iter().map(|m| u64::from(m.rack)));
            assert_eq!(in_racks, n.min(racks), "racks of {n}, {told}");
            let in_hosts = count(&mut first.iter().map(|m| m.host.0 << 20 | u64::from(m.rack)));
            // Racks come first: a host more is not had at the price of a rack's fair part.
            if racks == 1 {
                assert_eq!(in_hosts, n.min(hosts), "hosts of {n}, {told}");
            }
        }
    }
}

/// The largest distance from a fair share, slots, of whole partitions and of any number of first slots.
fn unfairness(ring: &Ring, members: &[Member]) -> (f64, f64) {
    let slots = members.len().min(SLOTS_MAX);
    let mut worst = (0.0f64, 0.0f64);
    for n in 1..=slots {
        let held = held(ring, n);
        for (drive, share) in fair_shares(members, PARTITIONS, n) {
            let off = (held.get(&drive).copied().unwrap_or(0) as f64 - share).abs();
            worst.1 = worst.1.max(off);
            if n == slots {
                worst.0 = worst.0.max(off);
            }
        }
    }
    worst
}

/// Slots whose drive changed, among the first `prefix`; and the least number that any ring with fair shares needs.
fn moves(old: &Ring, new: &Ring, members: &[Member], prefix: usize) -> (usize, usize) {
    let mut moved = 0;
    for (old, new) in old.partitions.iter().zip(&new.partitions) {
        let pairs = old.iter().zip(new).take(prefix);
        moved += pairs.filter(|(old, new)| old != new).count();
        moved += new.len().min(prefix).saturating_sub(old.len());
    }
    let before = held(old, prefix);
    let least = fair_shares(members, PARTITIONS, prefix)
        .into_iter()
        .map(|(drive, share)| {
            (share.floor() as usize).saturating_sub(before.get(&drive).copied().unwrap_or(0))
        })
        .sum();
    (moved, least)
}

fn random_topology(rng: &SeededRng, drives_max: u64) -> Vec<Member> {
    let racks = 1 + rng.below(4) as u32;
    let hosts = 1 + rng.below(40);
    let drives = 1 + rng.below(drives_max);
    let even = rng.below(2) == 0;
    (1..=drives)
        .map(|drive| {
            let host = rng.below(hosts);
            let capacity = if even { 1000 } else { 500 + rng.below(3500) };
            member(drive, capacity, host, (host % u64::from(racks)) as u32)
        })
        .collect()
}

#[test]
fn one_host_lists_every_drive_once_and_each_slot_evenly() {
    for drives in 1..=16 {
        let members = one_host(drives);
        let ring = balance(&members, PARTITIONS, None);
        check_spread(&ring, &members, &format!("{drives} drives"));
        for n in 1..=drives as usize {
            let held = held(&ring, n);
            let (least, most) = (held.values().min().unwrap(), held.values().max().unwrap());
            assert!(
                most - least <= 1,
                "{drives} drives, {n} slots: {least}..{most}"
            );
        }
    }
}

#[test]
fn random_topologies_are_spread_and_fair() {
    let seed = seed();
    for round in 0..40 {
        let rng = SeededRng::new(seed + round);
        let members = random_topology(&rng, 120);
        let ring = balance(&members, PARTITIONS, None);
        let told = format!("seed {} {} drives", seed + round, members.len());
        check_spread(&ring, &members, &told);
        let (whole, prefix) = unfairness(&ring, &members);
        assert!(whole <= 1.0 + 1e-6, "{told}: off by {whole}");
        assert!(prefix <= 2.0 + 1e-6, "{told}: off by {prefix} in a prefix");
        assert_eq!(ring, balance(&members, PARTITIONS, None), "{told}");
        let mut shuffled = members.clone();
        shuffled.reverse();
        assert_eq!(ring, balance(&shuffled, PARTITIONS, None), "{told}");
        assert_eq!(
            ring,
            balance(&members, PARTITIONS, Some(&ring)),
            "{told}: nothing changed"
        );
    }
}

#[test]
fn changes_move_little() {
    let seed = seed();
    let mut ratios = Vec::new();
    for round in 0..15 {
        let rng = SeededRng::new(seed + round);
        let mut members = random_topology(&rng, 100);
        let mut ring = balance(&members, PARTITIONS, None);
        let mut next = members.len() as u64 + 1;
        for step in 0..6 {
            let before = members.clone();
            match rng.below(3) {
                0 if members.len() > 1 => {
                    members.swap_remove(rng.below(members.len() as u64) as usize);
                }
                1 => {
                    let like = members[rng.below(members.len() as u64) as usize];
                    members.push(Member {
                        drive: DriveId(next),
                        ..like
                    });
                    next += 1;
                }
                _ => {
                    let like = members[rng.below(members.len() as u64) as usize];
                    members.push(Member {
                        drive: DriveId(next),
                        host: NodeId(1000 + next),
                        ..like
                    });
                    next += 1;
                }
            }
            let old = std::mem::replace(
                &mut ring,
                Ring {
                    partitions: Vec::new(),
                },
            );
            ring = balance(&members, PARTITIONS, Some(&old));
            let told = format!(
                "seed {} step {step}: {} to {} drives",
                seed + round,
                before.len(),
                members.len()
            );
            check_spread(&ring, &members, &told);
            let (whole, _) = unfairness(&ring, &members);
            assert!(whole <= 1.0 + 1e-6, "{told}: off by {whole}");
            let slots = members.len().min(before.len()).min(SLOTS_MAX);
            let (moved, least) = moves(&old, &ring, &members, slots);
            println!("{told}: moved {moved}, least {least}");
            ratios.push((moved as f64 / least.max(1) as f64, told));
        }
    }
    ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (ratio, told) in &ratios {
        println!("{ratio:.2} {told}");
    }
}

#[test]
fn a_thousand_drives() {
    let members: Vec<Member> = (1..=1000)
        .map(|id| member(id, 1000, id / 10, (id / 100) as u32))
        .collect();
    let ring = balance(&members, PARTITIONS, None);
    check_spread(&ring, &members, "1000 drives");
    let (whole, prefix) = unfairness(&ring, &members);
    println!("off by {whole}, {prefix} in a prefix");
    assert!(whole <= 1.0 + 1e-6);
    let mut more = members.clone();
    more.push(member(1001, 1000, 77, 7));
    let grown = balance(&more, PARTITIONS, Some(&ring));
    let (moved, least) = moves(&ring, &grown, &more, SLOTS_MAX);
    println!("moved {moved}, least {least}");
}
