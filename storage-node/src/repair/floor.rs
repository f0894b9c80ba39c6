//! Which bodies are protected less than the cluster's protection protects them.

use std::collections::BTreeSet;

use holdfast_placement::ids::{DriveId, NodeId, SiteId};
use holdfast_placement::map::ClusterMap;
use holdfast_placement::protection::Protection;
use serde::{Deserialize, Serialize};

use crate::metadata::{BodyClass, ChunkedBody, Tally, Usage};

/// What the cluster's protection survives at each site, to compare bodies with.
///
/// The rule. A body of `k+m` at a site survives the loss of
/// - `m` drives, if the site's partitions have at least `k+m` slots; else of none, and it cannot even be written whole;
/// - `h` hosts, where `h` is `m` divided by the most slots that a host has of a chunk: `k+m` divided by the number of
///   hosts, rounded up, since a partition's slots lie on as many hosts as there are.
///
/// It is below the floor if it survives the loss of fewer hosts, or of fewer drives, than a body with the cluster's
/// protection at the same site. One that takes more room for the same safety is not: nothing would become safer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// What new bodies are written with.
    protection: Protection,
    sites: Vec<Site>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Site {
    site: SiteId,
    /// Slots of a partition, once what is being drained is gone.
    slots: u32,
    /// Hosts with drives in the ring.
    hosts: u32,
}

/// Losses that a body can be read after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Survives {
    hosts: u32,
    drives: u32,
}

impl Floor {
    /// The floor that a map sets.
    pub fn of(map: &ClusterMap) -> Self {
        let is_staying = |drive: DriveId| {
            let known = map.drive(drive);
            known.is_some_and(|drive| !drive.state.is_draining())
        };
        let sites = map.rings.iter().map(|(site, ring)| {
            // Those on their way out are as good as gone.
            let drives: BTreeSet<DriveId> = ring
                .partitions()
                .flatten()
                .map(|slot| slot.target)
                .filter(|drive| is_staying(*drive))
                .collect();
            let slots = ring.partitions().map(<[_]>::len).min().unwrap_or(0);
            let hosts: BTreeSet<Option<NodeId>> = drives
                .iter()
                .map(|drive| map.drive(*drive).map(|drive| drive.node))
                .collect();
            Site {
                site: *site,
                slots: slots.min(drives.len()) as u32,
                hosts: hosts.len() as u32,
            }
        });
        Self {
            protection: map.protection,
            sites: sites.collect(),
        }
    }

    /// What new bodies are written with.
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// Whether the body survives less than it would with the cluster's protection.
    pub fn is_weaker(&self, body: &ChunkedBody) -> bool {
        self.is_weaker_class(BodyClass::of(body))
    }

    /// Whether bodies of the class survive less than they would with the cluster's protection.
    pub fn is_weaker_class(&self, class: BodyClass) -> bool {
        let Some(site) = self.sites.iter().find(|site| site.site == class.site) else {
            return false;
        };
        let (now, then) = (
            site.survives(class.protection),
            site.survives(self.protection),
        );
        now.hosts < then.hosts || now.drives < then.drives
    }

    /// Whether the ring of their site has a slot for each shard of such bodies, and will have when what is being drained is
    /// gone. Those for which it has not can never be whole again.
    pub fn has_place_for(&self, class: BodyClass) -> bool {
        let site = self.sites.iter().find(|site| site.site == class.site);
        site.is_none_or(|site| class.protection.slots() as u32 <= site.slots)
    }

    /// The bodies in chunks that are below, of those that a group holds.
    pub fn below(&self, usage: &Usage) -> Tally {
        let mut below = Tally::default();
        for (class, tally) in &usage.chunked {
            if self.is_weaker_class(*class) {
                below.bodies += tally.bodies;
                below.bytes += tally.bytes;
            }
        }
        below
    }
}

impl Site {
    fn survives(&self, protection: Protection) -> Survives {
        let slots = protection.slots() as u32;
        if slots > self.slots {
            return Survives {
                hosts: 0,
                drives: 0,
            };
        }
        let parity = u32::from(protection.parity);
        let of_a_host = slots.div_ceil(self.hosts.max(1)).max(1);
        Survives {
            hosts: parity / of_a_host,
            drives: parity,
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_placement::ids::{DriveId, NodeId, SiteId};
    use holdfast_placement::protection::Protection;
    use holdfast_placement::testing::map_of;

    use super::Floor;
    use crate::metadata::{BodyClass, Tally, Usage};

    fn protection(text: &str) -> Protection {
        text.parse().unwrap()
    }

    fn class(text: &str) -> BodyClass {
        BodyClass {
            site: SiteId(0),
            protection: protection(text),
        }
    }

    /// So many hosts with so many drives each.
    fn floor(hosts: u64, drives: u64, cluster: &str) -> Floor {
        let drives: Vec<_> = (0..hosts * drives)
            .map(|number| (DriveId(number + 1), NodeId(number / drives + 1)))
            .collect();
        Floor::of(&map_of(&drives, protection(cluster)))
    }

    #[test]
    fn what_survives_fewer_hosts_or_drives_is_below() {
        for (hosts, drives, cluster, body, below) in [
            (1, 1, "1+0", "1+0", false),
            (3, 1, "2+1", "1+0", true),
            (3, 1, "2+1", "1+1", false),
            (3, 1, "2+1", "2+1", false),
            (3, 1, "1+2", "2+1", true),
            // Four slots on three hosts: one of them has two.
            (3, 2, "2+2", "3+1", true),
            (3, 2, "2+1", "3+1", true),
            (3, 2, "2+1", "4+2", false),
            // It survives more than is asked for.
            (1, 4, "3+1", "1+3", false),
            // There are not as many drives as it has slots.
            (3, 1, "2+1", "4+2", true),
            // Neither has enough drives: nothing would become better.
            (1, 2, "2+1", "1+0", false),
        ] {
            let told = format!("{hosts} hosts of {drives}, {cluster}: {body}");
            let floor = floor(hosts, drives, cluster);
            assert_eq!(floor.is_weaker_class(class(body)), below, "{told}");
        }
    }

    #[test]
    fn what_is_below_is_counted() {
        let tally = |bodies, bytes| Tally { bodies, bytes };
        let usage = Usage {
            inline: tally(5, 50),
            chunked: vec![
                (class("1+0"), tally(1, 10)),
                (class("1+1"), tally(2, 20)),
                (class("2+1"), tally(3, 30)),
                (class("3+1"), tally(4, 40)),
            ],
            repairs_open: 0,
        };
        assert_eq!(floor(3, 1, "2+1").below(&usage), tally(5, 50));
    }
}
