//! The ring in the making.

use crate::ids::DriveId;
use crate::ring::{Ring, Slot};

use super::TOLERANCE;
use super::rule::Rule;
use super::topology::{DrivePlace, EPSILON, Topology};

/// Of what a step changes in how evenly the slots before the last of a level are shared, how much counts as much as one
/// slot more that has to change afterwards.
const LATER_CONFLICT: f64 = 8.0;

pub(super) struct Table<'a> {
    pub(super) topology: &'a Topology,
    pub(super) rule: Rule<'a>,
    pub(super) partitions: usize,
    pub(super) slots: usize,
    /// Whether there was no ring before.
    pub(super) fresh: bool,
    /// By cell, which is `partition * slots + slot`: the drive, if it has one yet.
    cells: Vec<Option<usize>>,
    /// Those of the previous ring.
    before: Vec<Option<usize>>,
    /// `shares[n][d]`: the fair share of drive `d` of the first `n + 1` slots; `held` what it has of them.
    pub(super) shares: Vec<Vec<f64>>,
    held: Vec<Vec<i64>>,
    pub(super) shares_of_hosts: Vec<Vec<f64>>,
    pub(super) shares_of_racks: Vec<Vec<f64>>,
    /// What racks and hosts have of the first slots, likewise.
    pub(super) held_by_host: Vec<Vec<i64>>,
    pub(super) held_by_rack: Vec<Vec<i64>>,
    /// By drive: its cells of the level at hand, those that are not what they were before and those that are.
    listed: Vec<[Vec<usize>; 2]>,
    /// By cell: where in its list it is.
    place: Vec<usize>,
    level: Level,
    /// Where levels end.
    ends: Vec<usize>,
}

/// Slots that are dealt with together: those from `start` on and before `end`. What is before `start` stays as it is, what is
/// at `end` or later comes afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Whether a cell has another drive than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Moved = 0,
    Kept = 1,
}

impl<'a> Table<'a> {
    pub(super) fn new(topology: &'a Topology, partitions: usize, previous: Option<&Ring>) -> Self {
        let slots = topology.slots();
        let mut before = vec![None; partitions * slots];
        for (p, row) in previous
            .iter()
            .flat_map(|ring| ring.partitions())
            .enumerate()
        {
            for (number, Slot { target, .. }) in row.iter().enumerate() {
                if p < partitions && number < slots {
                    before[p * slots + number] = topology.number_of(*target);
                }
            }
        }
        let shares: Vec<Vec<f64>> = (1..=slots)
            .map(|prefix| {
                let shares = topology.shares(prefix).into_iter();
                shares.map(|share| share * partitions as f64).collect()
            })
            .collect();
        let sums = |count: usize, of: &dyn Fn(&DrivePlace) -> usize| -> Vec<Vec<f64>> {
            let sum = |shares: &Vec<f64>| {
                let mut sums = vec![0.0; count];
                for (drive, share) in topology.drives.iter().zip(shares) {
                    sums[of(drive)] += share;
                }
                sums
            };
            shares.iter().map(sum).collect()
        };
        let mut table = Self {
            topology,
            rule: Rule::new(topology),
            partitions,
            slots,
            fresh: previous.is_none(),
            cells: vec![None; partitions * slots],
            before: before.clone(),
            shares_of_hosts: sums(topology.hosts.len(), &|drive| drive.host),
            shares_of_racks: sums(topology.racks.len(), &|drive| drive.rack),
            shares,
            held: vec![vec![0; topology.drives.len()]; slots],
            held_by_host: vec![vec![0; topology.hosts.len()]; slots],
            held_by_rack: vec![vec![0; topology.racks.len()]; slots],
            listed: vec![Default::default(); topology.drives.len()],
            place: vec![usize::MAX; partitions * slots],
            level: Level { start: 0, end: 0 },
            ends: Vec::new(),
        };
        for (cell, drive) in before.into_iter().enumerate() {
            table.set(cell, drive);
        }
        table
    }

    pub(super) fn into_targets(self) -> Vec<Vec<DriveId>> {
        let id = |cell: &Option<usize>| cell.map(|drive| self.topology.drives[drive].id);
        match self.slots {
            0 => vec![Vec::new(); self.partitions],
            slots => {
                let rows = self.cells.chunks(slots);
                rows.map(|row| row.iter().filter_map(id).collect())
                    .collect()
            }
        }
    }

    /// Begins with a level: from now on its cells are listed by drive.
    pub(super) fn begin(&mut self, level: Level) {
        self.level = level;
        self.ends.push(level.end);
        for lists in &mut self.listed {
            *lists = Default::default();
        }
        self.place.fill(usize::MAX);
        for cell in 0..self.cells.len() {
            if (level.start..level.end).contains(&(cell % self.slots)) {
                self.list(cell);
            }
        }
    }

    pub(super) fn level(&self) -> Level {
        self.level
    }

    pub(super) fn slot_of(&self, cell: usize) -> usize {
        cell % self.slots
    }

    /// The cells of a partition.
    pub(super) fn row(&self, cell: usize) -> &[Option<usize>] {
        let start = cell - cell % self.slots;
        &self.cells[start..start + self.slots]
    }

    pub(super) fn drive(&self, cell: usize) -> Option<usize> {
        self.cells[cell]
    }

    /// The drive that a cell had before.
    pub(super) fn home(&self, cell: usize) -> Option<usize> {
        self.before[cell]
    }

    pub(super) fn kind(&self, cell: usize) -> Kind {
        match self.cells[cell] == self.before[cell] {
            true => Kind::Kept,
            false => Kind::Moved,
        }
    }

    /// The cells of a drive, of the level at hand.
    pub(super) fn cells_of(&self, drive: usize, kind: Kind) -> &[usize] {
        &self.listed[drive][kind as usize]
    }

    /// Gives a cell a drive, or none.
    pub(super) fn set(&mut self, cell: usize, drive: Option<usize>) {
        let listed = self.place[cell] != usize::MAX
            || (self.level.start..self.level.end).contains(&self.slot_of(cell));
        if let Some(old) = self.cells[cell] {
            self.count(cell, old, -1);
            if listed {
                self.unlist(cell, old);
            }
        }
        self.cells[cell] = drive;
        if let Some(new) = drive {
            self.count(cell, new, 1);
            if listed {
                self.list(cell);
            }
        }
    }

    fn list(&mut self, cell: usize) {
        if let Some(drive) = self.cells[cell] {
            let kind = self.kind(cell) as usize;
            let list = &mut self.listed[drive][kind];
            self.place[cell] = list.len();
            list.push(cell);
        }
    }

    fn unlist(&mut self, cell: usize, drive: usize) {
        let kind = self.kind(cell) as usize;
        let list = &mut self.listed[drive][kind];
        let place = std::mem::replace(&mut self.place[cell], usize::MAX);
        list.swap_remove(place);
        if let Some(other) = list.get(place) {
            self.place[*other] = place;
        }
    }

    fn count(&mut self, cell: usize, drive: usize, by: i64) {
        let place = &self.topology.drives[drive];
        for n in self.slot_of(cell)..self.slots {
            self.held[n][drive] += by;
            self.held_by_host[n][place.host] += by;
            self.held_by_rack[n][place.rack] += by;
        }
    }

    /// What a drive has of the first `n + 1` slots.
    pub(super) fn held(&self, n: usize, drive: usize) -> i64 {
        self.held[n][drive]
    }

    /// How many slots a drive has more than its fair share of the level at hand and those before it.
    pub(super) fn surplus(&self, drive: usize) -> f64 {
        let n = self.level.end - 1;
        self.held[n][drive] as f64 - self.shares[n][drive]
    }

    /// The least and the most that a drive may have of the level at hand and those before it.
    pub(super) fn bounds(&self, drive: usize) -> (i64, i64) {
        self.bounds_of(self.level.end - 1, drive)
    }

    fn bounds_of(&self, n: usize, drive: usize) -> (i64, i64) {
        let share = self.shares[n][drive];
        let (low, high) = match self.fresh {
            true => ((share + EPSILON).floor(), (share - EPSILON).ceil()),
            false => (
                (share - TOLERANCE - EPSILON).ceil(),
                (share + TOLERANCE + EPSILON).floor(),
            ),
        };
        (
            (low as i64).max(0),
            (high as i64).min(self.partitions as i64),
        )
    }

    /// Whether two cells of a partition, of which at least the second is of the level at hand, may exchange their
    /// drives: by the rule of domains, and by what drives have of the levels before.
    pub(super) fn may_exchange(&self, one: usize, other: usize) -> bool {
        let (Some(a), Some(b)) = (self.cells[one], self.cells[other]) else {
            return false;
        };
        let (i, k) = (self.slot_of(one), self.slot_of(other));
        let (from, to) = (i.min(k), i.max(k));
        let (gives, takes) = if i < k { (a, b) } else { (b, a) };
        let stays_fair = self.ends.iter().all(|end| {
            let within = *end > from && *end <= to && *end <= self.level.start;
            !within
                || self.held[end - 1][gives] > self.bounds_of(end - 1, gives).0
                    && self.held[end - 1][takes] < self.bounds_of(end - 1, takes).1
        });
        stays_fair && self.may_stand(one, b, other) && self.may_stand(other, a, one)
    }

    /// Whether a cell may have `drive`, leaving `aside`, a cell of the same partition, out.
    fn may_stand(&self, cell: usize, drive: usize, aside: usize) -> bool {
        let row = &self.row(cell)[..self.level.end];
        let aside = Some(self.slot_of(aside));
        self.rule.allows(row, self.slot_of(cell), drive, aside)
    }

    /// Whether `drive` may have the cell `last`, if what `last` has goes to `first`, a cell of the same partition, with
    /// which it may exchange.
    pub(super) fn allows_after(&self, first: usize, last: usize, drive: usize) -> bool {
        let Some(moved) = self.cells[last] else {
            return false;
        };
        let (i, k) = (self.slot_of(first), self.slot_of(last));
        self.may_stand(last, drive, first) && !self.rule.conflict(k, drive, i, moved)
    }

    /// Whether a cell may have `drive`, as far as the slots of the level at hand and those before it say.
    pub(super) fn allows(&self, cell: usize, drive: usize) -> bool {
        let row = &self.row(cell)[..self.level.end];
        self.rule.allows(row, self.slot_of(cell), drive, None)
    }

    /// How good it is for the first slots, of any number, if a cell's drive becomes another: less is better. A change
    /// that takes a later slot's drive away is bad.
    pub(super) fn unevenness(&self, cell: usize, old: usize, new: usize) -> f64 {
        let slot = self.slot_of(cell);
        let off = |n: usize, drive: usize| self.held[n][drive] as f64 - self.shares[n][drive];
        let uneven: f64 = (slot..self.level.end)
            .map(|n| off(n, new) - off(n, old) + 1.0)
            .sum();
        let later = self.row(cell)[self.level.end..].iter().enumerate();
        let conflicts = later
            .filter(|(at, there)| {
                let other = self.level.end + at;
                there.is_some_and(|there| self.rule.conflict(slot, new, other, there))
            })
            .count();
        uneven + LATER_CONFLICT * conflicts as f64
    }
}

/// A number without pattern (splitmix64's finalizer), for an order that is no drive's friend.
pub(super) fn mix(a: u64, b: u64, c: u64) -> u64 {
    let mut z = a
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(b.wrapping_mul(0xD1B5_4A32_D192_ED03))
        .wrapping_add(c.wrapping_mul(0x8CB9_2BA7_2F3D_8DD7));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
