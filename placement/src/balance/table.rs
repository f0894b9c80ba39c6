//! The ring in the making.

use crate::ids::DriveId;
use crate::ring::{Ring, SLOTS_MAX, Slot};

use super::Topology;

/// How far from its fair share of whole partitions a drive may be, slots.
const WHOLE_TOLERANCE: f64 = 1.0;

/// How far from its fair share of the first slots: so many slots, and a part of the share. In a ring that exists
/// being nearer is not worth the data that would move.
const PREFIX_TOLERANCE: (f64, f64) = (1.0, 0.01);
const PREFIX_TOLERANCE_KEPT: (f64, f64) = (2.0, 0.05);

/// Rounds of improvement at each price at most, and in the end without a price.
const ROUNDS_MAX: usize = 6;
const LAST_ROUNDS_MAX: usize = 20;

/// Least improvement that is worth a step.
const GAIN_MIN: f64 = 1e-9;

/// What a step must improve for each slot that it takes from its drive, at first, for each partition; then a quarter of
/// it, and so on: the steps that achieve most come first, and make many others unnecessary.
const PRICE_MAX: f64 = 64.0;

/// What the first slots count against whole partitions in the end.
const PREFIX_WEIGHT_MIN: f64 = 0.001;

pub(super) struct Table<'a> {
    topology: &'a Topology,
    slots: usize,
    /// The drive of each slot of each partition, if it has one yet.
    rows: Vec<Vec<Option<usize>>>,
    /// The rows of the previous ring.
    before: Vec<Vec<Option<usize>>>,
    /// Whether there was a ring before.
    fresh: bool,
    /// `shares[n - 1][d]`: the fair share of drive `d` of the first `n` slots, and `held` what it has of them.
    shares: Vec<Vec<f64>>,
    held: Vec<Vec<f64>>,
    /// `off[d]`: drive `d` is further from a fair share than is tolerated.
    off: Vec<bool>,
    /// Those drives, in order.
    off_list: Vec<usize>,
    prefix_weight: f64,
}

/// What a partition has so far of each rack and host.
#[derive(Clone)]
struct Spread<'a> {
    topology: &'a Topology,
    in_rack: Vec<usize>,
    in_host: Vec<usize>,
}

impl<'a> Spread<'a> {
    fn new(topology: &'a Topology) -> Self {
        Self {
            topology,
            in_rack: vec![0; topology.racks.len()],
            in_host: vec![0; topology.hosts.len()],
        }
    }

    fn add(&mut self, drive: usize) {
        let (rack, host) = self.topology.place(drive);
        self.in_rack[rack] += 1;
        self.in_host[host] += 1;
    }

    fn has_room(&self, host: usize) -> bool {
        self.in_host[host] < self.topology.hosts[host].drives.len()
    }

    /// Racks that may be next: those there least often among those with drives left.
    fn open_racks(&self) -> impl Iterator<Item = usize> {
        let with_room = |rack: &usize| self.in_rack[*rack] < self.topology.racks[*rack].drives;
        let least = (0..self.in_rack.len())
            .filter(with_room)
            .map(|rack| self.in_rack[rack])
            .min();
        (0..self.in_rack.len())
            .filter(with_room)
            .filter(move |rack| Some(self.in_rack[*rack]) == least)
    }

    /// Hosts of a rack that may be next, likewise.
    fn open_hosts(&self, rack: usize) -> impl Iterator<Item = usize> {
        let hosts = || self.topology.racks[rack].hosts.iter().copied();
        let least = hosts()
            .filter(|host| self.has_room(*host))
            .map(|host| self.in_host[host])
            .min();
        hosts()
            .filter(|host| self.has_room(*host))
            .filter(move |host| Some(self.in_host[*host]) == least)
    }

    fn allows(&self, drive: usize) -> bool {
        let (rack, host) = self.topology.place(drive);
        self.open_racks().any(|open| open == rack) && self.open_hosts(rack).any(|open| open == host)
    }
}

impl<'a> Table<'a> {
    pub(super) fn new(topology: &'a Topology, partitions: usize, previous: Option<&Ring>) -> Self {
        let slots = topology.slots();
        let member_of = |slot: &Slot| {
            topology
                .drives
                .binary_search_by_key(&slot.target, |drive| drive.id)
                .ok()
        };
        let mut rows: Vec<Vec<Option<usize>>> = previous
            .map(|ring| {
                let members = |slots: &[Slot]| slots.iter().map(member_of).collect();
                ring.partitions().map(members).collect()
            })
            .unwrap_or_default();
        rows.resize(partitions, Vec::new());
        for row in &mut rows {
            row.resize(slots, None);
        }
        let shares = (1..=slots)
            .map(|prefix| {
                let shares = topology.shares(prefix).into_iter();
                shares.map(|share| share * partitions as f64).collect()
            })
            .collect();
        let mut table = Self {
            topology,
            slots,
            before: rows.clone(),
            rows,
            fresh: previous.is_none(),
            shares,
            held: vec![vec![0.0; topology.drives.len()]; slots],
            off: vec![true; topology.drives.len()],
            off_list: (0..topology.drives.len()).collect(),
            prefix_weight: 1.0,
        };
        for p in 0..partitions {
            for slot in 0..slots {
                if let Some(drive) = table.rows[p][slot] {
                    table.count(drive, slot, 1.0);
                }
            }
        }
        table
    }

    pub(super) fn into_targets(self) -> Vec<Vec<DriveId>> {
        let id = |drive: usize| self.topology.drives[drive].id;
        self.rows
            .into_iter()
            .map(|row| row.into_iter().flatten().map(id).collect())
            .collect()
    }

    /// Gives every slot a drive: the one it has, where the rule of domains allows that, else the one that is furthest
    /// below its fair share.
    pub(super) fn fill(&mut self) {
        let partitions = self.rows.len();
        let mut order: Vec<usize> = (0..partitions).collect();
        order.sort_by_key(|p| mix(*p as u64, 0, 0));
        for (done, p) in order.into_iter().enumerate() {
            // Of a fresh table this part should be dealt after this partition.
            let progress = if self.fresh {
                (done + 1) as f64 / partitions as f64
            } else {
                1.0
            };
            let mut spread = Spread::new(self.topology);
            for slot in 0..self.slots {
                let before: Vec<usize> = self.rows[p][..slot].iter().flatten().copied().collect();
                let kept = self.rows[p][slot]
                    .filter(|drive| !before.contains(drive) && spread.allows(*drive));
                let drive =
                    kept.or_else(|| self.furthest_below(p, slot, &before, &spread, progress));
                if drive != self.rows[p][slot] {
                    if let Some(old) = self.rows[p][slot] {
                        self.count(old, slot, -1.0);
                    }
                    if let Some(new) = drive {
                        self.count(new, slot, 1.0);
                    }
                    self.rows[p][slot] = drive;
                }
                if let Some(drive) = drive {
                    spread.add(drive);
                }
            }
        }
    }

    fn furthest_below(
        &self,
        p: usize,
        slot: usize,
        before: &[usize],
        spread: &Spread<'_>,
        progress: f64,
    ) -> Option<usize> {
        let later = &self.rows[p][slot + 1..];
        let allowed = spread
            .open_racks()
            .flat_map(|rack| spread.open_hosts(rack))
            .flat_map(|host| self.topology.hosts[host].drives.iter().copied())
            .filter(|drive| !before.contains(drive));
        // What later slots would lose their drive too, because it is this one or the rule of domains has it so.
        let follows = |drive: usize| -> usize {
            let mut spread = spread.clone();
            spread.add(drive);
            let mut lost = 0;
            for (at, cell) in later.iter().enumerate() {
                let Some(kept) = *cell else {
                    continue;
                };
                if kept == drive {
                    // The later its slot, the less follows from the hole.
                    lost += later.len() - at;
                } else if spread.allows(kept) {
                    spread.add(kept);
                } else {
                    lost += 1;
                }
            }
            lost
        };
        let key = |drive: usize| {
            let follows = if self.fresh { 0 } else { follows(drive) };
            let below = self.shares[slot][drive] * progress - self.held[slot][drive];
            let tie = mix(p as u64, slot as u64, 1 + self.topology.drives[drive].id.0);
            (follows, below, tie)
        };
        let keys = allowed.map(|drive| (key(drive), drive));
        let least = keys
            .min_by(|(a, _), (b, _)| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)).then(a.2.cmp(&b.2)));
        least.map(|(_, drive)| drive)
    }

    /// Takes single steps as long as one brings shares nearer to what is tolerated.
    pub(super) fn settle(&mut self) {
        for drive in 0..self.off.len() {
            self.judge(drive);
        }
        // A fresh table moves nothing: its steps have no price.
        let mut price = if self.fresh {
            0.0
        } else {
            PRICE_MAX * self.rows.len() as f64
        };
        while !self.off_list.is_empty() {
            let rounds_max = if price > 0.0 {
                ROUNDS_MAX
            } else {
                LAST_ROUNDS_MAX
            };
            for _ in 0..rounds_max {
                let mut steps = 0;
                for p in 0..self.rows.len() {
                    steps += self.replace_some(p, price) + self.exchange_some(p, price);
                }
                if steps == 0 {
                    break;
                }
            }
            if price == 0.0 && self.prefix_weight < 1.0 {
                return;
            }
            if price == 0.0 {
                // What still is off among whole partitions may cost something among the first slots.
                self.prefix_weight = PREFIX_WEIGHT_MIN;
                for drive in 0..self.off.len() {
                    self.judge(drive);
                }
            }
            price = if price > 1.0 { price / 4.0 } else { 0.0 };
        }
    }

    /// How many slots more differ from the previous ring if the drive of one is exchanged.
    fn moved(&self, p: usize, slot: usize, new: usize) -> f64 {
        match self.before[p][slot] {
            Some(before) if before == new => -1.0,
            Some(before) if self.rows[p][slot] == Some(before) => 1.0,
            _ => 0.0,
        }
    }

    /// Gives slots of a partition to drives that are not in it.
    fn replace_some(&mut self, p: usize, price: f64) -> usize {
        let mut steps = 0;
        for slot in (0..self.slots).rev() {
            let Some(old) = self.rows[p][slot] else {
                continue;
            };
            let mut best: Option<(f64, usize)> = None;
            let lost = self.change(old, -1.0, slot, self.slots);
            // Others than those that are off win nothing by a slot more.
            let any = self.off[old];
            let candidates = match any {
                true => self.topology.drives.len(),
                false => self.off_list.len(),
            };
            for number in 0..candidates {
                let new = if any { number } else { self.off_list[number] };
                let moved = self.moved(p, slot, new) * price;
                let least = best.map_or(-GAIN_MIN, |(least, _)| least);
                if !self.off[new] && lost + moved >= least || self.rows[p].contains(&Some(new)) {
                    continue;
                }
                let change = lost + self.change(new, 1.0, slot, self.slots) + moved;
                if change < least && self.may_replace(p, slot, new) {
                    best = Some((change, new));
                }
            }
            if let Some((_, new)) = best {
                self.count(old, slot, -1.0);
                self.count(new, slot, 1.0);
                self.rows[p][slot] = Some(new);
                self.judge(old);
                self.judge(new);
                steps += 1;
            }
        }
        steps
    }

    /// Exchanges slots of a partition.
    fn exchange_some(&mut self, p: usize, price: f64) -> usize {
        let mut steps = 0;
        for left in 0..self.slots {
            for right in left + 1..self.slots {
                let (Some(a), Some(b)) = (self.rows[p][left], self.rows[p][right]) else {
                    continue;
                };
                if !self.off[a] && !self.off[b] {
                    continue;
                }
                let change = self.change(a, -1.0, left, right)
                    + self.change(b, 1.0, left, right)
                    + (self.moved(p, left, b) + self.moved(p, right, a)) * price;
                if change >= -GAIN_MIN {
                    continue;
                }
                self.rows[p].swap(left, right);
                if self.topology.place(a) != self.topology.place(b) && !self.is_spread(p) {
                    self.rows[p].swap(left, right);
                    continue;
                }
                for (drive, by) in [(a, -1.0), (b, 1.0)] {
                    self.count(drive, left, by);
                    self.count(drive, right, -by);
                    self.judge(drive);
                }
                steps += 1;
            }
        }
        steps
    }

    fn may_replace(&mut self, p: usize, slot: usize, new: usize) -> bool {
        let Some(old) = self.rows[p][slot] else {
            return false;
        };
        if self.topology.place(old) == self.topology.place(new) {
            return true;
        }
        self.rows[p][slot] = Some(new);
        let spread = self.is_spread(p);
        self.rows[p][slot] = Some(old);
        spread
    }

    /// Whether a partition obeys the rule of domains.
    fn is_spread(&self, p: usize) -> bool {
        let mut spread = Spread::new(self.topology);
        self.rows[p].iter().flatten().all(|drive| {
            let allowed = spread.allows(*drive);
            spread.add(*drive);
            allowed
        })
    }

    fn count(&mut self, drive: usize, slot: usize, by: f64) {
        for held in &mut self.held[slot..] {
            held[drive] += by;
        }
    }

    fn judge(&mut self, drive: usize) {
        let first = if self.prefix_weight < 1.0 {
            self.slots - 1
        } else {
            0
        };
        let off = |n: usize| self.penalty(n, drive, self.held[n][drive]) > 0.0;
        let is_off = (first..self.slots).any(off);
        if self.off[drive] != is_off {
            self.off[drive] = is_off;
            match self.off_list.binary_search(&drive) {
                Ok(at) => drop(self.off_list.remove(at)),
                Err(at) => self.off_list.insert(at, drive),
            }
        }
    }

    /// How much worse it gets if a drive has `by` slots more in prefixes longer than `from` and not longer than `to`.
    fn change(&self, drive: usize, by: f64, from: usize, to: usize) -> f64 {
        (from..to)
            .map(|n| {
                let held = self.held[n][drive];
                self.penalty(n, drive, held + by) - self.penalty(n, drive, held)
            })
            .sum()
    }

    fn penalty(&self, n: usize, drive: usize, held: f64) -> f64 {
        let share = self.shares[n][drive];
        let whole = n + 1 == self.slots;
        let (slots, part) = match (whole, self.fresh) {
            (true, _) => (WHOLE_TOLERANCE, 0.0),
            (false, true) => PREFIX_TOLERANCE,
            (false, false) => PREFIX_TOLERANCE_KEPT,
        };
        let tolerance = slots + part * share;
        let off = ((held - share).abs() - tolerance).max(0.0);
        // Whole partitions come first.
        off * off
            * if whole {
                SLOTS_MAX as f64
            } else {
                self.prefix_weight
            }
    }
}

/// A number without pattern (splitmix64's finalizer), for an order that is no drive's friend.
fn mix(a: u64, b: u64, c: u64) -> u64 {
    let mut z = a
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(b.wrapping_mul(0xD1B5_4A32_D192_ED03))
        .wrapping_add(c.wrapping_mul(0x8CB9_2BA7_2F3D_8DD7));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
