//! Brings every drive near its fair share with as few changes as are found.
//!
//! A drive with too much gives a slot to another, that one a slot of another partition to a third, and so on to one that
//! may have more: a chain. Chains are shortest paths, where a slot that keeps its drive costs one step to give and a slot that has to
//! move anyhow costs nothing; so the method is that of successive shortest paths for the assignment problem, on drives
//! instead of slots.

use super::rule::Instead;
use super::table::{Kind, Level, Table};

/// Chains that change more slots than that are not looked for.
const COST_MAX: usize = 12;

/// Looks at who may have a cell, for each cell of the ring, at most: what is not done by then is left as it is.
const LOOKS_PER_CELL: u64 = 4_000;

/// Cells that are compared for one step of a chain.
const CHOICES_MAX: usize = 64;

/// One step: a drive gives a cell to another.
#[derive(Clone, Copy, Debug)]
struct Step {
    from: usize,
    to: usize,
    cell: usize,
    kind: Kind,
    /// Another cell of the partition whose drive gets the cell; `to` gets that other cell.
    via: Option<usize>,
}

struct Search {
    /// Whether steps with two cells are looked at too.
    with_pairs: bool,
    looks_left: u64,
    /// By drive: the step by which it was reached, in the search of this number.
    reached: Vec<(u32, Option<Step>)>,
    number: u32,
    /// Drives that need a slot.
    needy: Vec<usize>,
    /// Drives that were not reached yet, and where in there they are.
    unreached: Vec<usize>,
    place: Vec<usize>,
    /// Drives that have too much and cannot give.
    stuck: Vec<bool>,
    banned: Vec<usize>,
}

/// The ways of making a step, the cheapest first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Moved,
    Kept,
    Pairs,
}

/// Who may be the end of a chain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Has less than it should.
    Needs,
    /// May have one more.
    Takes,
    No,
}

impl Table<'_> {
    /// Moves slots of the level at hand along chains until no drive has more or less than it may.
    pub(super) fn even_out(&mut self) {
        let drives = self.topology.drives.len();
        let Level { start, end } = self.level();
        let cells = (self.partitions * (end - start)) as u64;
        let mut search = Search {
            with_pairs: false,
            looks_left: LOOKS_PER_CELL.saturating_mul(cells),
            reached: vec![(0, None); drives],
            number: 0,
            needy: Vec::new(),
            unreached: Vec::with_capacity(drives),
            place: vec![usize::MAX; drives],
            stuck: vec![false; drives],
            banned: Vec::new(),
        };
        loop {
            let of = |drive: &usize| (self.held(end - 1, *drive), self.bounds(*drive));
            let has_more = |drive: &usize| {
                let (held, (_, high)) = of(drive);
                held > high && !search.stuck[*drive]
            };
            let has_less = |drive: &usize| {
                let (held, (low, _)) = of(drive);
                held < low
            };
            let can_give = |drive: &usize| {
                let (held, (low, _)) = of(drive);
                held > low
            };
            let mut from: Vec<usize> = (0..drives).filter(has_more).collect();
            let relieving = !from.is_empty();
            let needy = (0..drives).any(|drive| has_less(&drive));
            if !relieving {
                if !needy {
                    break;
                }
                from = (0..drives).filter(can_give).collect();
            }
            from.sort_by(|a, b| {
                let surplus = self.surplus(*b).total_cmp(&self.surplus(*a));
                surplus.then(a.cmp(b))
            });
            match self.chain(&mut search, &from, relieving, needy) {
                Some(chain) => {
                    search.with_pairs = false;
                    if let Err(cell) = self
                        .take(&chain, true)
                        .or_else(|_| self.take(&chain, false))
                    {
                        search.banned.push(cell);
                        if search.banned.len() > 1000 {
                            break;
                        }
                    }
                }
                None if !search.with_pairs => search.with_pairs = true,
                None if relieving => {
                    for drive in from {
                        search.stuck[drive] = true;
                    }
                }
                None => break,
            }
        }
    }

    /// The cheapest chain from one of `from` to a drive that needs a slot, or, if `relieving`, one that is cheaper by more
    /// than a step to one that takes one.
    fn chain(
        &self,
        search: &mut Search,
        from: &[usize],
        relieving: bool,
        needy: bool,
    ) -> Option<Vec<Step>> {
        search.begin(self, from);
        let mut frontier: Vec<usize> = from.to_vec();
        let mut taking: Option<(usize, usize)> = None;
        for cost in 0..COST_MAX {
            if let Some((at, end)) = taking
                && cost > at + 1
            {
                return Some(search.steps_to(end));
            }
            let mut next = Vec::new();
            for way in [Way::Moved, Way::Kept, Way::Pairs] {
                if way == Way::Pairs && !search.with_pairs {
                    continue;
                }
                if way == Way::Kept
                    && let Some(step) = self.step_to_needy(search, &frontier)
                {
                    search.reached[step.to] = (search.number, Some(step));
                    return Some(search.steps_to(step.to));
                }
                let mut number = 0;
                while let Some(drive) = frontier.get(number).copied() {
                    number += 1;
                    let (cost, reached) = match way {
                        Way::Moved => (cost, &mut frontier),
                        Way::Kept | Way::Pairs => (cost + 1, &mut next),
                    };
                    let first = reached.len();
                    match way {
                        Way::Moved => self.expand(search, drive, Kind::Moved, reached),
                        Way::Kept => self.expand(search, drive, Kind::Kept, reached),
                        Way::Pairs => self.expand_pairs(search, drive, reached),
                    }
                    for drive in &reached[first..] {
                        match self.end(*drive) {
                            End::Needs if taking.is_none_or(|(at, _)| cost <= at + 1) => {
                                return Some(search.steps_to(*drive));
                            }
                            End::Takes if relieving && taking.is_none() => {
                                taking = Some((cost, *drive));
                            }
                            _ => {}
                        }
                    }
                    if let Some((at, end)) = taking
                        && (!needy || cost > at + 1)
                    {
                        return Some(search.steps_to(end));
                    }
                }
            }
            if next.is_empty() {
                break;
            }
            frontier = next;
        }
        taking.map(|(_, end)| search.steps_to(end))
    }

    /// A step from one of these, by a slot that kept its drive, to a drive that needs a slot.
    fn step_to_needy(&self, search: &mut Search, frontier: &[usize]) -> Option<Step> {
        let needy = std::mem::take(&mut search.needy);
        let found = frontier.iter().find_map(|from| {
            let cells = self.cells_of(*from, Kind::Kept).iter();
            let cells = cells.filter(|cell| !search.banned.contains(cell));
            cells.copied().find_map(|cell| {
                search.looks_left = search.looks_left.saturating_sub(needy.len() as u64);
                let allowed = |to: &&usize| self.allows(cell, **to);
                needy.iter().find(allowed).map(|to| Step {
                    from: *from,
                    to: *to,
                    cell,
                    kind: Kind::Kept,
                    via: None,
                })
            })
        });
        search.needy = needy;
        found
    }

    fn end(&self, drive: usize) -> End {
        let held = self.held(self.level().end - 1, drive);
        let (low, high) = self.bounds(drive);
        if held < low {
            End::Needs
        } else if held < high {
            End::Takes
        } else {
            End::No
        }
    }

    /// Adds to `reached` who was not reached yet and can have a cell of `drive`.
    fn expand(&self, search: &mut Search, drive: usize, kind: Kind, reached: &mut Vec<usize>) {
        let place = &self.topology.drives[drive];
        let prefix = self.level().end;
        for cell in self.cells_of(drive, kind) {
            if search.unreached.is_empty() || search.looks_left == 0 {
                return;
            }
            if !search.banned.is_empty() && search.banned.contains(cell) {
                continue;
            }
            let slot = self.slot_of(*cell);
            let class = self.rule.instead(slot, place.rack, prefix);
            let give = |to: usize| Step {
                from: drive,
                to,
                cell: *cell,
                kind,
                via: None,
            };
            self.look_among(search, class, drive, &give, reached);
        }
    }

    /// Likewise, by steps with two cells: another drive of the partition gets the cell of `drive`, and its own goes to a
    /// third.
    fn expand_pairs(&self, search: &mut Search, drive: usize, reached: &mut Vec<usize>) {
        let Level { start, end } = self.level();
        let place = &self.topology.drives[drive];
        for p in 0..self.partitions {
            let first = p * self.slots;
            let slots = self.row(first)[..end].iter();
            let Some(slot) = slots.clone().position(|there| *there == Some(drive)) else {
                continue;
            };
            let cell = first + slot;
            for other in start..end {
                if search.unreached.is_empty() || search.looks_left == 0 {
                    return;
                }
                search.looks_left -= 1;
                let via = first + other;
                if other == slot || self.drive(via).is_none() {
                    continue;
                }
                let class = self.rule.instead(other, place.rack, end);
                if slot >= start && class <= self.rule.instead(slot, place.rack, end) {
                    continue;
                }
                if !self.may_exchange(cell, via) {
                    continue;
                }
                let give = |to: usize| Step {
                    from: drive,
                    to,
                    cell,
                    kind: Kind::Kept,
                    via: Some(via),
                };
                self.look_among(search, class, drive, &give, reached);
            }
        }
    }

    fn look_among(
        &self,
        search: &mut Search,
        class: Instead,
        drive: usize,
        step: &dyn Fn(usize) -> Step,
        reached: &mut Vec<usize>,
    ) {
        let place = &self.topology.drives[drive];
        if class == Instead::OfHost {
            for to in &self.topology.hosts[place.host].drives {
                search.look(self, step(*to), reached);
            }
            return;
        }
        let mut at = 0;
        while let Some(to) = search.unreached.get(at).copied() {
            let other_rack = self.topology.drives[to].rack != place.rack;
            if class == Instead::OfRack && other_rack || !search.look(self, step(to), reached) {
                at += 1;
            }
        }
    }

    /// Makes the steps of a chain, each, if `choosing`, with the cell that is best for it now. If one cannot be made any
    /// more, nothing changes, and its cell is told.
    fn take(&mut self, chain: &[Step], choosing: bool) -> Result<(), usize> {
        let mut undo: Vec<(usize, usize)> = Vec::with_capacity(chain.len());
        for step in chain {
            let given = match step.via {
                Some(via) => self.step_of_two(step, via),
                None if choosing => self
                    .best_cell(step, &undo)
                    .map(|cell| vec![(cell, step.to)]),
                None => {
                    let possible =
                        self.drive(step.cell) == Some(step.from) && self.allows(step.cell, step.to);
                    possible.then(|| vec![(step.cell, step.to)])
                }
            };
            let Some(given) = given else {
                for (cell, drive) in undo.into_iter().rev() {
                    self.set(cell, Some(drive));
                }
                return Err(step.cell);
            };
            for (cell, drive) in given {
                undo.extend(self.drive(cell).map(|before| (cell, before)));
                self.set(cell, Some(drive));
            }
        }
        Ok(())
    }

    fn step_of_two(&self, step: &Step, via: usize) -> Option<Vec<(usize, usize)>> {
        let other = self.drive(via)?;
        let possible = self.drive(step.cell) == Some(step.from)
            && self.may_exchange(step.cell, via)
            && self.allows_after(step.cell, via, step.to);
        possible.then(|| vec![(step.cell, other), (via, step.to)])
    }

    fn best_cell(&self, step: &Step, changed: &[(usize, usize)]) -> Option<usize> {
        let cells = self.cells_of(step.from, step.kind).iter().copied();
        let possible = cells.filter(|cell| {
            self.allows(*cell, step.to) && changed.iter().all(|(other, _)| other != cell)
        });
        let mut best: Option<(f64, usize)> = None;
        for cell in possible.take(CHOICES_MAX) {
            let mut uneven = self.unevenness(cell, step.from, step.to);
            if self.home(cell) == Some(step.to) {
                // Goes back to where it was.
                uneven -= 1e6;
            }
            if best.is_none_or(|(least, _)| uneven < least) {
                best = Some((uneven, cell));
            }
        }
        best.map(|(_, cell)| cell)
    }

    /// Slots that have moved and that might as well not have.
    pub(super) fn go_home(&mut self) {
        let Level { start, end } = self.level();
        for _ in 0..4 {
            let mut changed = false;
            for cell in 0..self.partitions * self.slots {
                let slot = self.slot_of(cell);
                let (Some(drive), Some(home)) = (self.drive(cell), self.home(cell)) else {
                    continue;
                };
                if slot < start || slot >= end || home == drive {
                    continue;
                }
                let gives = self.held(end - 1, drive) > self.bounds(drive).0;
                let takes = self.held(end - 1, home) < self.bounds(home).1;
                if gives && takes && self.allows(cell, home) {
                    self.set(cell, Some(home));
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
    }
}

impl Search {
    fn begin(&mut self, table: &Table<'_>, from: &[usize]) {
        self.number += 1;
        self.unreached.clear();
        for drive in from {
            self.reached[*drive] = (self.number, None);
        }
        // Those that need a slot are looked at first.
        let all = 0..table.topology.drives.len();
        let (needy, others): (Vec<usize>, Vec<usize>) = all
            .filter(|drive| self.reached[*drive].0 != self.number)
            .partition(|drive| table.end(*drive) == End::Needs);
        self.unreached.extend(needy.iter().copied().chain(others));
        self.needy = needy;
        for (place, drive) in self.unreached.iter().enumerate() {
            self.place[*drive] = place;
        }
    }

    /// Whether the drive that the step leads to had not been reached and can have the cell: it has been reached now.
    fn look(&mut self, table: &Table<'_>, step: Step, reached: &mut Vec<usize>) -> bool {
        let to = step.to;
        if self.reached[to].0 == self.number {
            return false;
        }
        self.looks_left = self.looks_left.saturating_sub(1);
        let allowed = match step.via {
            None => table.allows(step.cell, to),
            Some(via) => table.allows_after(step.cell, via, to),
        };
        if !allowed {
            return false;
        }
        self.reached[to] = (self.number, Some(step));
        let place = self.place[to];
        self.unreached.swap_remove(place);
        if let Some(other) = self.unreached.get(place) {
            self.place[*other] = place;
        }
        reached.push(to);
        true
    }

    fn steps_to(&self, end: usize) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut at = end;
        while let Some(step) = self.reached[at].1 {
            at = step.from;
            steps.push(step);
        }
        steps.reverse();
        steps
    }
}
