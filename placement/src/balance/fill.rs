//! Has all partitions obey the rule of domains.

use super::keep::{Held, keep};
use super::table::{Table, mix};
use super::topology::EPSILON;

/// What the own prefix of a slot counts in who gets it, where all slots of the level come first.
const OWN_PREFIX: f64 = 0.25;

impl Table<'_> {
    /// Every slot of the level at hand gets a drive: the one it has, in as many slots as can keep theirs together, else
    /// one of those that are furthest below their fair share.
    pub(super) fn fill(&mut self) {
        let mut order: Vec<usize> = (0..self.partitions).collect();
        order.sort_by_key(|p| mix(*p as u64, 0, 0));
        for p in &order {
            self.let_go(*p);
        }
        for (done, p) in order.into_iter().enumerate() {
            // Of a fresh table this part should be dealt after this partition.
            let progress = match self.fresh {
                true => (done + 1) as f64 / self.partitions as f64,
                false => 1.0,
            };
            for slot in self.level().start..self.level().end {
                let cell = p * self.slots + slot;
                if self.drive(cell).is_none() {
                    let drive = self.neediest(cell, progress);
                    self.set(cell, drive);
                }
            }
        }
    }

    /// Takes the drives from slots that cannot keep them.
    fn let_go(&mut self, p: usize) {
        let level = self.level();
        let cell = |slot: usize| p * self.slots + slot;
        let mut held = Vec::with_capacity(level.end - level.start);
        let mut lost = Vec::new();
        for slot in level.start..level.end {
            let Some(drive) = self.drive(cell(slot)) else {
                continue;
            };
            let settled = self.row(cell(slot))[..level.start].iter().enumerate();
            let conflicts = settled
                .filter_map(|(other, there)| there.map(|there| (other, there)))
                .any(|(other, there)| self.rule.conflict(slot, drive, other, there));
            match conflicts {
                true => lost.push(cell(slot)),
                false => held.push(Held {
                    slot,
                    drive,
                    cost: (self.surplus(drive) * 16.0).clamp(-1e9, 1e9) as i64,
                }),
            }
        }
        let kept = keep(self.topology, &self.rule, &held);
        let gone = held.iter().zip(kept).filter(|(_, kept)| !kept);
        lost.extend(gone.map(|(held, _)| cell(held.slot)));
        for cell in lost {
            self.set(cell, None);
        }
    }

    /// Who gets a slot that has no drive: of the racks that may have it the one that is furthest below its fair share,
    /// of its hosts likewise, of their drives likewise.
    fn neediest(&self, cell: usize, progress: f64) -> Option<usize> {
        let slot = self.slot_of(cell);
        let row = &self.row(cell)[..self.level().end];
        let topology = self.topology;
        let place = |drive: usize| (topology.drives[drive].rack, topology.drives[drive].host);
        let others = || {
            row.iter()
                .enumerate()
                .filter_map(|(at, d)| d.map(|d| (at, d)))
        };
        let racks = (0..topology.racks.len()).filter(|rack| {
            self.rule.round(slot, *rack).is_some()
                && others().all(|(other, there)| {
                    place(there).0 != *rack || self.rule.block(other) != self.rule.block(slot)
                })
        });
        let tie = |number: usize| mix(cell as u64, 1, number as u64);
        let of_rack = |rack: &usize| self.need(slot, progress, Of::Rack(*rack));
        let rack = greatest(racks, of_rack, tie)?;
        let round = self.rule.round(slot, rack);
        let hosts = topology.racks[rack].hosts.iter().copied().filter(|host| {
            round.is_some_and(|round| topology.hosts[*host].drives.len() > round)
                && others().all(|(other, there)| {
                    place(there).1 != *host || self.rule.round(other, rack) != round
                })
        });
        let of_host = |host: &usize| self.need(slot, progress, Of::Host(*host));
        let host = greatest(hosts, of_host, tie)?;
        let drives = topology.hosts[host].drives.iter().copied();
        let drives = drives.filter(|drive| !row.contains(&Some(*drive)));
        // Whom a later slot would lose its drive to, is better taken only if nobody else is as much in need.
        let later = &self.row(cell)[self.level().end..];
        let of_drive = |drive: &usize| {
            let lost = if later.contains(&Some(*drive)) {
                0.5
            } else {
                0.0
            };
            self.need(slot, progress, Of::Drive(*drive)) - lost
        };
        greatest(drives, of_drive, tie)
    }

    /// How many slots somebody is below the fair share.
    fn need(&self, slot: usize, progress: f64, of: Of) -> f64 {
        let below = |n: usize| {
            let (share, held) = self.share_and_held(n, of);
            let settled = match self.level().start {
                0 => 0.0,
                start => self.share_and_held(start - 1, of).0,
            };
            settled + (share - settled) * progress - held
        };
        match self.fresh {
            true => below(slot),
            false => below(self.level().end - 1) + OWN_PREFIX * below(slot),
        }
    }

    fn share_and_held(&self, n: usize, of: Of) -> (f64, f64) {
        match of {
            Of::Drive(drive) => (self.shares[n][drive], self.held(n, drive) as f64),
            Of::Host(host) => (
                self.shares_of_hosts[n][host],
                self.held_by_host[n][host] as f64,
            ),
            Of::Rack(rack) => (
                self.shares_of_racks[n][rack],
                self.held_by_rack[n][rack] as f64,
            ),
        }
    }
}

#[derive(Clone, Copy)]
enum Of {
    Drive(usize),
    Host(usize),
    Rack(usize),
}

/// The one with the greatest need; of those with the same, the one whose tie is least.
fn greatest(
    some: impl Iterator<Item = usize>,
    need: impl Fn(&usize) -> f64,
    tie: impl Fn(usize) -> u64,
) -> Option<usize> {
    let mut best: Option<(f64, usize)> = None;
    for one in some {
        let need = need(&one);
        let better = best.is_none_or(|(most, known)| {
            need > most + EPSILON || (need > most - EPSILON && tie(one) < tie(known))
        });
        if better {
            best = Some((need, one));
        }
    }
    best.map(|(_, one)| one)
}
