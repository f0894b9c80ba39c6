//! Computes a ring: balanced by capacity, spread over failure domains, moving little.
//!
//! # What is promised
//!
//! **Domains.** In a partition's first `n` slots, for every `n`, racks are used as evenly as their number of drives allows,
//! then hosts inside a rack, and no drive twice. That holds always, and comes first.
//!
//! **Fair shares.** What is free within the rule of domains goes by capacity, found by water-filling from racks to hosts to
//! drives ([`fair_shares`]). A drive's share is that of the first so many slots of all partitions, as many as bodies have
//! shards: what lies on drives follows from these. (Of 16 drives or fewer every partition lists all, so of whole partitions everybody
//! has the same, whatever is on the drives.) Of these every drive has its share to within a slot, a new ring's drives to
//! less than one; of all slots too, which are shared out after them. Shares that fulfil the rule of domains in every
//! partition can always be rounded so (the conditions are two laminar families, so that the polytope of partitions
//! and drives has integral corners), but not always with several widths at once, nor does the method always find it: where
//! there are few drives beside the width, or hosts and racks differ much, a drive may be further off, and sooner of all slots.
//! `tests/sequences.rs` says how often.
//!
//! Of other numbers of first slots shares are as fair as they can be had for nothing: in a new ring nearly as good, in one that
//! went through changes not. Who changes the width in use balances the ring for it.
//!
//! **Movement.** A slot keeps its drive unless it must change. [`least_moves`] is a lower bound for what has to change in any
//! ring that keeps the other promises; 1.1 times that and a slot a drive are not exceeded by fleets of a hundred drives
//! and more. Where small fleets exceed it, the bound itself is low.
//!
//! # How
//!
//! For each width in turn: every partition keeps as many slots as can be kept together, an exact matching (`keep.rs`). Holes
//! go to who is furthest below the fair share (`fill.rs`). Then drives with more than their share give slots to those with
//! less, along cheapest chains over several partitions (`chains.rs`). No chance and no floating-point function beyond
//! the four basic operations is used: the same input gives the same ring on every machine.

mod chains;
mod fill;
mod keep;
mod least;
mod rule;
mod shares;
mod smooth;
mod table;
mod topology;

use std::collections::BTreeSet;

use crate::ids::{DriveId, NodeId};
use crate::ring::Ring;

use shares::even;
use table::{Level, Table};
use topology::Topology;

pub use least::least_moves;

/// How far a drive of a ring that exists may be from its fair share, slots.
const TOLERANCE: f64 = 1.0;

/// A drive that is to hold slots, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub drive: DriveId,
    /// Its share of data, relative to the others, bytes.
    pub capacity: u64,
    pub host: NodeId,
    pub rack: u32,
}

/// The ring of `members` with as many partitions; stable against `previous`, which should have as many. Members must
/// be different drives; their order does not matter. Without members the partitions are empty.
///
/// `widths` are the numbers of slots that bodies have: of the first so many slots, as of all, every drive has its fair share to
/// within a slot.
pub fn balance(
    members: &[Member],
    partitions: usize,
    widths: &[usize],
    previous: Option<&Ring>,
) -> Ring {
    let topology = Topology::new(members);
    let mut table = Table::new(&topology, partitions, previous);
    for level in levels(widths, topology.slots()) {
        table.begin(level);
        table.fill();
        table.even_out();
        table.go_home();
        table.smooth();
    }
    Ring::of(table.into_targets())
}

/// The slots up to each width, and the rest.
fn levels(widths: &[usize], slots: usize) -> Vec<Level> {
    let widths: BTreeSet<usize> = widths.iter().copied().chain([slots]).collect();
    let mut start = 0;
    let mut levels = Vec::new();
    for end in widths {
        if end > start && end <= slots {
            levels.push(Level { start, end });
            start = end;
        }
    }
    levels
}

/// Each drive's fair share of the first `prefix` slots of all partitions, in slots, in order of drive id.
pub fn fair_shares(members: &[Member], partitions: usize, prefix: usize) -> Vec<(DriveId, f64)> {
    let topology = Topology::new(members);
    let shares = topology.shares(prefix.min(topology.slots()));
    topology
        .drives
        .iter()
        .zip(shares)
        .map(|(drive, share)| (drive.id, share * partitions as f64))
        .collect()
}

/// How the first slots of a ring's partitions spread over hosts.
pub struct HostSpread {
    topology: Topology,
}

impl HostSpread {
    pub fn new(members: &[Member]) -> Self {
        Self {
            topology: Topology::new(members),
        }
    }

    /// The most of the first `slots` slots that can be on one host, in any partition: what the rule of domains allows.
    pub fn most_on_a_host(&self, slots: usize) -> usize {
        let slots = slots.min(self.topology.drives.len());
        let rooms: Vec<usize> = self.topology.racks.iter().map(|rack| rack.drives).collect();
        let in_racks = even(slots, slots, &rooms);
        let racks = self.topology.racks.iter().zip(in_racks);
        let in_hosts = racks.flat_map(|(rack, (_, most))| {
            let hosts = rack.hosts.iter().map(|host| &self.topology.hosts[*host]);
            let rooms: Vec<usize> = hosts.map(|host| host.drives.len()).collect();
            even(most as usize, most as usize, &rooms)
        });
        in_hosts.map(|(_, most)| most as usize).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
