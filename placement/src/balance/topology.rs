//! Who is to hold slots, and where they are.

use std::collections::BTreeMap;

use crate::ids::{DriveId, NodeId};
use crate::ring::SLOTS_MAX;

use super::Member;
use super::shares::{even, water_fill};

/// Shares are sums of products of numbers of 53 bits; this is more than they can be off, and less than any real part
/// of a slot.
pub(super) const EPSILON: f64 = 1e-6;

/// The members of a ring by rack and host, numbered.
pub(super) struct Topology {
    /// In order of id.
    pub(super) drives: Vec<DrivePlace>,
    pub(super) hosts: Vec<Host>,
    pub(super) racks: Vec<Rack>,
}

pub(super) struct DrivePlace {
    pub(super) id: DriveId,
    weight: f64,
    pub(super) host: usize,
    pub(super) rack: usize,
}

pub(super) struct Host {
    weight: f64,
    pub(super) drives: Vec<usize>,
}

pub(super) struct Rack {
    weight: f64,
    pub(super) drives: usize,
    pub(super) hosts: Vec<usize>,
}

impl Topology {
    pub(super) fn new(members: &[Member]) -> Self {
        let mut members = members.to_vec();
        members.sort_by_key(|member| member.drive);
        members.dedup_by_key(|member| member.drive);
        let mut topology = Topology {
            drives: Vec::new(),
            hosts: Vec::new(),
            racks: Vec::new(),
        };
        let mut hosts: BTreeMap<(u32, NodeId), usize> = BTreeMap::new();
        let mut racks: BTreeMap<u32, usize> = BTreeMap::new();
        for member in members {
            let rack = *racks.entry(member.rack).or_insert_with(|| {
                topology.racks.push(Rack {
                    weight: 0.0,
                    drives: 0,
                    hosts: Vec::new(),
                });
                topology.racks.len() - 1
            });
            let host = *hosts.entry((member.rack, member.host)).or_insert_with(|| {
                topology.racks[rack].hosts.push(topology.hosts.len());
                topology.hosts.push(Host {
                    weight: 0.0,
                    drives: Vec::new(),
                });
                topology.hosts.len() - 1
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

    /// The slots of a partition.
    pub(super) fn slots(&self) -> usize {
        self.drives.len().min(SLOTS_MAX)
    }

    /// The number of the drive called `id`.
    pub(super) fn number_of(&self, id: DriveId) -> Option<usize> {
        self.drives.binary_search_by_key(&id, |drive| drive.id).ok()
    }

    /// The drives' fair shares of the first `prefix` slots, in partitions (1.0: a slot of every partition).
    pub(super) fn shares(&self, prefix: usize) -> Vec<f64> {
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
}
