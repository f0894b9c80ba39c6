//! Shares out the first slots of a level, of any number, as well as all of them.
//!
//! Two slots of a partition are exchanged where that brings drives nearer to fair shares that are off by more than is
//! tolerated. What drives have of the whole level stays as it is. In a ring that exists only slots that move anyhow are
//! exchanged.

use super::table::{Kind, Level, Table};

/// How far from its fair share of the first slots a drive may be: so many slots, and a part of the share.
const TOLERANCE: (f64, f64) = (1.0, 0.01);

/// Rounds over all partitions at most.
const ROUNDS_MAX: usize = 30;

/// What an exchange must gain at least.
const GAIN_MIN: f64 = 1e-9;

impl Table<'_> {
    /// Exchanges slots of the level at hand.
    pub(super) fn smooth(&mut self) {
        let Level { start, end } = self.level();
        let drives = self.topology.drives.len();
        let mut off: Vec<bool> = (0..drives).map(|drive| self.is_off(drive)).collect();
        for _ in 0..ROUNDS_MAX {
            let mut steps = 0;
            for p in 0..self.partitions {
                for left in start..end {
                    for right in left + 1..end {
                        let (one, other) = (p * self.slots + left, p * self.slots + right);
                        let (Some(a), Some(b)) = (self.drive(one), self.drive(other)) else {
                            continue;
                        };
                        if !off[a] && !off[b] || !self.is_worth(one, other, a, b) {
                            continue;
                        }
                        self.set(one, Some(b));
                        self.set(other, Some(a));
                        for drive in [a, b] {
                            off[drive] = self.is_off(drive);
                        }
                        steps += 1;
                    }
                }
            }
            if steps == 0 {
                break;
            }
        }
    }

    fn is_worth(&self, one: usize, other: usize, a: usize, b: usize) -> bool {
        let moves = |cell: usize| self.fresh || self.kind(cell) == Kind::Moved;
        if !moves(one) || !moves(other) {
            return false;
        }
        let change: f64 = (self.slot_of(one)..self.slot_of(other))
            .map(|n| self.farther(n, a, -1) + self.farther(n, b, 1))
            .sum();
        change < -GAIN_MIN && self.may_exchange(one, other)
    }

    fn is_off(&self, drive: usize) -> bool {
        let Level { start, end } = self.level();
        (start..end - 1).any(|n| self.off(n, self.held(n, drive), drive) > 0.0)
    }

    /// How much worse it gets if a drive has `by` more of the first `n + 1` slots.
    fn farther(&self, n: usize, drive: usize, by: i64) -> f64 {
        let held = self.held(n, drive);
        let (now, then) = (self.off(n, held, drive), self.off(n, held + by, drive));
        then * then - now * now
    }

    /// How much more than is tolerated a drive that holds so many is off.
    fn off(&self, n: usize, held: i64, drive: usize) -> f64 {
        let (slots, part) = TOLERANCE;
        let share = self.shares[n][drive];
        ((held as f64 - share).abs() - slots - part * share).max(0.0)
    }
}
