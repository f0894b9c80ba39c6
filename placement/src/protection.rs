//! The k+m choices.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::balance::{HostSpread, Member};
use crate::ids::NodeId;

/// Shards that a chunk has at most if the protection is chosen by itself.
const AUTO_SLOTS_MAX: usize = 14;

/// Most data shards and most parity shards.
const DATA_MAX: usize = 12;
const PARITY_MAX: usize = 4;

/// `k` data shards and `m` parity shards a chunk; any `k` of the `k+m` make it whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Protection {
    pub data: u8,
    pub parity: u8,
}

impl Protection {
    /// One copy: no redundancy.
    pub const NONE: Protection = Protection { data: 1, parity: 0 };

    /// Shards a chunk.
    pub fn slots(self) -> usize {
        self.data as usize + self.parity as usize
    }

    /// What `auto` means for these drives.
    ///
    /// On one host: survive two drives where there are three or more, at the least overhead. On several: survive any one
    /// host, and any two drives if that does not take more than twice the room; at the least overhead, and of those at
    /// the same the one with fewest shards. At most [`AUTO_SLOTS_MAX`] shards a chunk.
    pub fn auto(members: &[Member]) -> Protection {
        let mut hosts: Vec<NodeId> = members.iter().map(|member| member.host).collect();
        hosts.sort();
        hosts.dedup();
        if hosts.len() <= 1 {
            return Protection::auto_of_one_host(members.len());
        }
        let spread = HostSpread::new(members);
        let choices = |parity_min: usize| {
            let spread = &spread;
            (2..=members.len().min(AUTO_SLOTS_MAX)).filter_map(move |slots| {
                let parity = spread.most_on_a_host(slots).max(parity_min);
                let data = slots.checked_sub(parity).filter(|data| *data > 0)?;
                let fits = data <= DATA_MAX && parity <= PARITY_MAX;
                fits.then_some(Protection {
                    data: data as u8,
                    parity: parity as u8,
                })
            })
        };
        let least = |choices: &mut dyn Iterator<Item = Protection>| {
            // The overheads as fractions of the same denominator: exact.
            choices.min_by(|a, b| {
                let overhead =
                    |of: &Protection, other: &Protection| of.slots() * other.data as usize;
                overhead(a, b)
                    .cmp(&overhead(b, a))
                    .then(a.slots().cmp(&b.slots()))
            })
        };
        let twice = |choice: &Protection| choice.parity <= choice.data;
        least(&mut choices(2).filter(twice))
            .or_else(|| least(&mut choices(1)))
            .unwrap_or_else(|| Protection::auto_of_one_host(members.len()))
    }

    /// `auto` for one host with so many drives: 1: 1+0, 2: 1+1, 3: 1+2, 4: 2+2, 5: 3+2, 6: 4+2 ... at most 12+2; more
    /// than 14 drives stay 12+2.
    fn auto_of_one_host(drives: usize) -> Protection {
        match drives {
            0 | 1 => Protection::NONE,
            2 => Protection { data: 1, parity: 1 },
            n => Protection {
                data: (n.min(AUTO_SLOTS_MAX) - 2) as u8,
                parity: 2,
            },
        }
    }

    /// Whether every chunk survives the loss of any one host: no host has more shards of a chunk than there is parity.
    /// Without drives, or on one host, it does not.
    pub fn survives_a_host(self, members: &[Member]) -> bool {
        let first = members.first().map(|member| member.host);
        members.iter().any(|member| Some(member.host) != first)
            && self.slots() <= members.len()
            && HostSpread::new(members).most_on_a_host(self.slots()) <= self.parity as usize
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.data, self.parity)
    }
}

/// What was given is not a protection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a protection: write it as K+M, such as 4+2, with K from 1 to 12 and M from 0 to 4"
)]
pub struct ParseProtectionError(pub String);

impl FromStr for Protection {
    type Err = ParseProtectionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseProtectionError(text.to_owned());
        let (data, parity) = text.split_once('+').ok_or_else(wrong)?;
        let data: u8 = data.parse().map_err(|_| wrong())?;
        let parity: u8 = parity.parse().map_err(|_| wrong())?;
        if !(1..=DATA_MAX).contains(&(data as usize)) || parity as usize > PARITY_MAX {
            return Err(wrong());
        }
        Ok(Protection { data, parity })
    }
}

#[cfg(test)]
mod tests {
    use super::Protection;
    use crate::balance::{Member, balance};
    use crate::ids::{DriveId, NodeId};
    use crate::seams::SeededRng;

    /// Hosts with so many drives each, in a rack.
    fn hosts(drives: &[u64]) -> Vec<Member> {
        let mut members = Vec::new();
        for (host, count) in (1..).zip(drives) {
            for _ in 0..*count {
                members.push(Member {
                    drive: DriveId(members.len() as u64 + 1),
                    capacity: 1000,
                    host: NodeId(host),
                    rack: 0,
                });
            }
        }
        members
    }

    #[test]
    fn auto_is_as_documented() {
        let cases: &[(&[u64], &str)] = &[
            (&[], "1+0"),
            (&[1], "1+0"),
            (&[2], "1+1"),
            (&[3], "1+2"),
            (&[4], "2+2"),
            (&[6], "4+2"),
            (&[14], "12+2"),
            (&[16], "12+2"),
            (&[1, 1], "1+1"),
            (&[2, 1], "1+1"),
            (&[2, 2], "2+2"),
            (&[6, 6], "2+2"),
            (&[1, 1, 1], "2+1"),
            (&[2, 1, 1], "2+2"),
            (&[2, 2, 2], "4+2"),
            (&[4, 4, 4], "4+2"),
            (&[1, 1, 1, 1], "2+2"),
            (&[2, 2, 2, 2], "6+2"),
            (&[1; 5], "3+2"),
            (&[4; 5], "8+2"),
            (&[1; 6], "4+2"),
            (&[2; 6], "10+2"),
            (&[1; 7], "5+2"),
            (&[2; 7], "12+2"),
            (&[1; 20], "12+2"),
            (&[8, 1], "1+1"),
            (&[8, 1, 1], "2+2"),
        ];
        for (drives, expected) in cases {
            let got = Protection::auto(&hosts(drives));
            assert_eq!(got.to_string(), *expected, "{drives:?}");
        }
    }

    #[test]
    fn no_host_of_a_ring_has_more_shards_than_the_parity() {
        let seed = std::env::var("HOLDFAST_SEED").map_or(0xA070, |text| text.parse().unwrap());
        println!("HOLDFAST_SEED={seed}");
        let mut survive = 0;
        for round in 0..150 {
            let rng = SeededRng::new(seed + round);
            let drives: Vec<u64> = (0..2 + rng.below(9)).map(|_| 1 + rng.below(5)).collect();
            let racks = 1 + rng.below(3);
            let mut members = hosts(&drives);
            for member in &mut members {
                member.rack = (member.host.0 % racks) as u32;
                member.capacity = 500 + rng.below(2000);
            }
            let protection = Protection::auto(&members);
            let told = format!(
                "seed {} {drives:?} racks {racks}: {protection}",
                seed + round
            );
            if racks == 1 {
                assert!(protection.survives_a_host(&members), "{told}");
            }
            assert!(protection.slots() <= members.len(), "{told}");
            let ring = balance(&members, 64, &[protection.slots()], None);
            let mut worst = 0;
            for slots in ring.partitions() {
                for host in &members {
                    let on_host = slots[..protection.slots()].iter().filter(|slot| {
                        members
                            .iter()
                            .any(|m| m.drive == slot.target && m.host == host.host)
                    });
                    worst = worst.max(on_host.count());
                }
            }
            if protection.survives_a_host(&members) {
                survive += 1;
                assert!(worst <= protection.parity as usize, "{told}: {worst}");
            }
        }
        assert!(survive > 100, "{survive}");
    }
}
