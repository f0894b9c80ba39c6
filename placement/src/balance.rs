//! Computes a ring: balanced by capacity, spread over failure domains, moving little.
//!
//! In a partition's first `n` slots, for every `n`, racks are used as evenly as their number of drives allows, then hosts
//! inside a rack, and no drive twice: that holds always. What is free within that goes by capacity: for every `n` each
//! drive has a fair share of the first `n` slots of all partitions, found by water-filling from racks to hosts to
//! drives. Balance therefore is sought not only for whole partitions but for each number of slots that a
//! protection may use.
//!
//! A ring begins as the previous one, of which every partition keeps what the rule of domains lets it keep; holes go to
//! who is furthest below the fair share. Then single steps (another drive in a slot, two slots of a partition
//! exchanged) are taken as long as one brings shares nearer to fair ones that are off by more than is tolerated. No
//! chance and no floating-point function beyond the four basic operations is used: the same input gives the same ring on
//! every machine.

mod shares;
mod table;

use crate::ids::{DriveId, NodeId};
use crate::ring::{Ring, SLOTS_MAX};

use shares::{even, water_fill};
use table::Table;

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
pub fn balance(members: &[Member], partitions: usize, previous: Option<&Ring>) -> Ring {
    let topology = Topology::new(members);
    let mut table = Table::new(&topology, partitions, previous);
    table.fill();
    table.settle();
    Ring::of(table.into_targets())
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

/// Shares are sums of products of numbers of 53 bits; this is more than they can be off, and less than any real part
/// of a slot.
const EPSILON: f64 = 1e-6;

struct Topology {
    /// In order of id.
    drives: Vec<DrivePlace>,
    hosts: Vec<Host>,
    racks: Vec<Rack>,
}

struct DrivePlace {
    id: DriveId,
    weight: f64,
    host: usize,
    rack: usize,
}

struct Host {
    weight: f64,
    drives: Vec<usize>,
}

struct Rack {
    weight: f64,
    drives: usize,
    hosts: Vec<usize>,
}

impl Topology {
    fn new(members: &[Member]) -> Self {
        let mut members = members.to_vec();
        members.sort_by_key(|member| member.drive);
        members.dedup_by_key(|member| member.drive);
        let mut topology = Topology {
            drives: Vec::new(),
            hosts: Vec::new(),
            racks: Vec::new(),
        };
        let mut host_names: Vec<(u32, NodeId)> = Vec::new();
        let mut rack_names: Vec<u32> = Vec::new();
        for member in members {
            let rack = position_or_push(&mut rack_names, member.rack, || {
                topology.racks.push(Rack {
                    weight: 0.0,
                    drives: 0,
                    hosts: Vec::new(),
                });
            });
            let host = position_or_push(&mut host_names, (member.rack, member.host), || {
                topology.racks[rack].hosts.push(topology.hosts.len());
                topology.hosts.push(Host {
                    weight: 0.0,
                    drives: Vec::new(),
                });
            });
            // A drive of unknown size still takes part.
            let weight = member.capacity.max(1) as f64;
            topology.racks[rack].weight += weight;
            topology.racks[rack].drives += 1;
            topology.hosts[host].weight += weight;
            topology.hosts[host].drives.push(topology.drives.len());
            topology.drives.push(DrivePlace {
                id: member.drive,
                weight,
                host,
                rack,
            });
        }
        topology
    }

    fn slots(&self) -> usize {
        self.drives.len().min(SLOTS_MAX)
    }

    /// The drives' fair shares of the first `prefix` slots, in partitions (1.0: a slot of every partition).
    fn shares(&self, prefix: usize) -> Vec<f64> {
        let mut of_hosts = vec![0.0; self.hosts.len()];
        let mut of_drives = vec![0.0; self.drives.len()];
        let rooms: Vec<usize> = self.racks.iter().map(|rack| rack.drives).collect();
        let weights: Vec<f64> = self.racks.iter().map(|rack| rack.weight).collect();
        let of_racks = water_fill(&weights, &even(prefix, prefix, &rooms), prefix as f64);
        for (rack, share) in self.racks.iter().zip(of_racks) {
            let hosts = || rack.hosts.iter().map(|host| &self.hosts[*host]);
            let rooms: Vec<usize> = hosts().map(|host| host.drives.len()).collect();
            let weights: Vec<f64> = hosts().map(|host| host.weight).collect();
            let (least, most) = (share + EPSILON, (share - EPSILON).max(0.0));
            let bounds = even(least.floor() as usize, most.ceil() as usize, &rooms);
            for (host, share) in rack.hosts.iter().zip(water_fill(&weights, &bounds, share)) {
                of_hosts[*host] = share;
            }
        }
        for (host, share) in self.hosts.iter().zip(of_hosts) {
            let weights: Vec<f64> = host
                .drives
                .iter()
                .map(|drive| self.drives[*drive].weight)
                .collect();
            let bounds = vec![(0.0, 1.0); weights.len()];
            for (drive, share) in host.drives.iter().zip(water_fill(&weights, &bounds, share)) {
                of_drives[*drive] = share;
            }
        }
        of_drives
    }

    /// The rack and the host of a drive.
    fn place(&self, drive: usize) -> (usize, usize) {
        (self.drives[drive].rack, self.drives[drive].host)
    }
}

fn position_or_push<T: PartialEq>(names: &mut Vec<T>, name: T, push: impl FnOnce()) -> usize {
    names
        .iter()
        .position(|known| *known == name)
        .unwrap_or_else(|| {
            names.push(name);
            push();
            names.len() - 1
        })
}

#[cfg(test)]
mod tests;
