//! The least that a change can move.

use super::keep::{Held, keep};
use super::rule::Rule;
use super::topology::{EPSILON, Topology};
use super::{Member, TOLERANCE};
use crate::ring::Ring;

/// Of the first `width` slots of a ring's partitions at least so many change their drive in any ring of `members` that obeys
/// the rule of domains and in which every drive has, of these, its fair share to within a slot. It may be that no such
/// ring changes as few.
///
/// It is the greatest of three numbers, each of which counts no slot twice:
///
/// - Slots that a partition cannot keep because their drives are gone or because of the rule of domains (how many it
///   can keep is found exactly), and slots that drives have too many of, less those that can count as both.
/// - Slots whose drives are gone, and others that drives, hosts and racks have to give: those that they have too many of, when
///   the places are filled that only they can fill.
/// - Slots that drives, hosts and racks have to get: those that they have too few of, or the places that only they can
///   fill.
pub fn least_moves(previous: &Ring, members: &[Member], width: usize) -> usize {
    let topology = Topology::new(members);
    let width = width.min(topology.slots());
    if width == 0 {
        return 0;
    }
    let rule = Rule::new(&topology);
    let partitions = previous.partition_count() as f64;
    let mut known = Known::new(&topology);
    for row in previous.partitions() {
        let row = &row[..row.len().min(width)];
        known.new_slots += (width - row.len()) as i64;
        let members = row.iter().enumerate().filter_map(|(slot, known)| {
            topology.number_of(known.target).map(|drive| Held {
                slot,
                drive,
                cost: 0,
            })
        });
        known.take(
            &topology,
            &rule,
            row.len(),
            &members.collect::<Vec<_>>(),
            width,
        );
    }
    for (drive, share) in topology.shares(width).into_iter().enumerate() {
        let share = share * partitions;
        let most = (share + TOLERANCE + EPSILON).floor();
        let least = (share - TOLERANCE - EPSILON).ceil();
        known.bounds[drive] = ((least as i64).max(0), (most.min(partitions)) as i64);
    }
    let most = known.of_partitions().max(known.given(&topology));
    most.max(known.got(&topology)).max(0) as usize
}

/// What is known of the slots of the previous ring.
struct Known {
    /// Slots that the previous ring did not have: nothing is moved to fill them.
    new_slots: i64,
    gone: i64,
    /// By partition: how many of its slots have to change that still have drives, and the drives of those that may be
    /// among them.
    rows: Vec<(i64, Vec<usize>)>,
    /// By drive: the least and the most that it may have.
    bounds: Vec<(i64, i64)>,
    drives: Vec<Count>,
    hosts: Vec<Count>,
    racks: Vec<Count>,
}

#[derive(Clone, Copy, Default)]
struct Count {
    held: i64,
    /// Places that only it can fill, and that it does not.
    to_fill: i64,
    /// Slots that it has more than one of in a place.
    to_leave: i64,
}

impl Known {
    fn new(topology: &Topology) -> Self {
        let counts = |count: usize| vec![Count::default(); count];
        Self {
            new_slots: 0,
            gone: 0,
            rows: Vec::new(),
            bounds: vec![(0, 0); topology.drives.len()],
            drives: counts(topology.drives.len()),
            hosts: counts(topology.hosts.len()),
            racks: counts(topology.racks.len()),
        }
    }

    /// Adds a partition with so many slots, of which these still have drives.
    fn take(
        &mut self,
        topology: &Topology,
        rule: &Rule<'_>,
        slots: usize,
        row: &[Held],
        width: usize,
    ) {
        self.gone += (slots - row.len()) as i64;
        let kept = keep(topology, rule, row);
        let kept = kept.into_iter().filter(|kept| *kept).count();
        let in_question = row.iter().filter(|one| {
            !rule.fits(one.slot, one.drive)
                || row.iter().any(|other| {
                    other.slot != one.slot
                        && rule.conflict(one.slot, one.drive, other.slot, other.drive)
                })
        });
        let in_question = in_question.map(|one| one.drive).collect();
        self.rows.push(((row.len() - kept) as i64, in_question));
        let mut places: Vec<(usize, usize)> = Vec::new();
        let mut rounds: Vec<(usize, usize)> = Vec::new();
        for one in row {
            let place = &topology.drives[one.drive];
            self.drives[one.drive].held += 1;
            self.hosts[place.host].held += 1;
            self.racks[place.rack].held += 1;
            let block = (rule.block(one.slot), place.rack);
            match rule.round(one.slot, place.rack) {
                Some(round) => {
                    match places.contains(&block) {
                        true => self.racks[place.rack].to_leave += 1,
                        false => places.push(block),
                    }
                    let fits = rule.fits(one.slot, one.drive);
                    match !fits || rounds.contains(&(round, place.host)) {
                        true => self.hosts[place.host].to_leave += 1,
                        false => rounds.push((round, place.host)),
                    }
                }
                None => {
                    self.racks[place.rack].to_leave += 1;
                    self.hosts[place.host].to_leave += 1;
                }
            }
        }
        for (rack, place) in topology.racks.iter().enumerate() {
            for block in 0..rule.whole_blocks(width).min(place.drives) {
                if !places.contains(&(block, rack)) {
                    self.racks[rack].to_fill += 1;
                }
            }
            for round in 0..rule.whole_rounds(rack, width) {
                for host in &place.hosts {
                    if topology.hosts[*host].drives.len() > round
                        && !rounds.contains(&(round, *host))
                    {
                        self.hosts[*host].to_fill += 1;
                    }
                }
            }
        }
    }

    fn of_partitions(&self) -> i64 {
        let counts = self.drives.iter().zip(&self.bounds);
        let too_many: Vec<i64> = counts
            .map(|(count, (_, most))| (count.held - most).max(0))
            .collect();
        let forced: i64 = self.rows.iter().map(|(count, _)| count).sum();
        self.gone + forced + too_many.iter().sum::<i64>() - matched(&self.rows, &too_many)
    }

    fn given(&self, topology: &Topology) -> i64 {
        let of_drive = |drive: usize| (self.drives[drive].held - self.bounds[drive].1).max(0);
        let most = |drives: &[usize]| drives.iter().map(|d| self.bounds[*d].1).sum::<i64>();
        let gives =
            |count: &Count, most: i64| (count.held + count.to_fill - most).max(count.to_leave);
        let of_host = |host: usize| {
            let drives = &topology.hosts[host].drives;
            let together: i64 = drives.iter().map(|drive| of_drive(*drive)).sum();
            together.max(gives(&self.hosts[host], most(drives)))
        };
        let of_rack = |rack: usize| {
            let hosts = &topology.racks[rack].hosts;
            let together: i64 = hosts.iter().map(|host| of_host(*host)).sum();
            let most = hosts
                .iter()
                .map(|host| most(&topology.hosts[*host].drives))
                .sum();
            together.max(gives(&self.racks[rack], most))
        };
        self.gone + (0..self.racks.len()).map(of_rack).sum::<i64>()
    }

    fn got(&self, topology: &Topology) -> i64 {
        let of_drive = |drive: usize| (self.bounds[drive].0 - self.drives[drive].held).max(0);
        let least = |drives: &[usize]| drives.iter().map(|d| self.bounds[*d].0).sum::<i64>();
        let gets =
            |count: &Count, least: i64| (least - count.held + count.to_leave).max(count.to_fill);
        let of_host = |host: usize| {
            let drives = &topology.hosts[host].drives;
            let together: i64 = drives.iter().map(|drive| of_drive(*drive)).sum();
            together.max(gets(&self.hosts[host], least(drives)))
        };
        let of_rack = |rack: usize| {
            let hosts = &topology.racks[rack].hosts;
            let together: i64 = hosts.iter().map(|host| of_host(*host)).sum();
            let least = hosts
                .iter()
                .map(|host| least(&topology.hosts[*host].drives))
                .sum();
            together.max(gets(&self.racks[rack], least))
        };
        (0..self.racks.len()).map(of_rack).sum::<i64>() - self.new_slots
    }
}

/// How many slots can count for both their partition's number and their drive's, at most: a greatest matching.
fn matched(rows: &[(i64, Vec<usize>)], drives: &[i64]) -> i64 {
    let mut matching = Matching {
        rows,
        drives,
        given: vec![Vec::new(); drives.len()],
        taken: rows.iter().map(|(_, of)| vec![false; of.len()]).collect(),
        seen: vec![usize::MAX; drives.len()],
    };
    let (mut sum, mut search) = (0, 0);
    for (p, (count, _)) in rows.iter().enumerate() {
        for _ in 0..*count {
            search += 1;
            sum += i64::from(matching.augment(p, search));
        }
    }
    sum
}

struct Matching<'a> {
    rows: &'a [(i64, Vec<usize>)],
    drives: &'a [i64],
    /// By drive: the partitions that count one of its slots.
    given: Vec<Vec<usize>>,
    /// By partition and number of slot: whether it counts.
    taken: Vec<Vec<bool>>,
    /// By drive: the last search that came there.
    seen: Vec<usize>,
}

impl Matching<'_> {
    fn augment(&mut self, p: usize, search: usize) -> bool {
        for at in 0..self.rows[p].1.len() {
            let drive = self.rows[p].1[at];
            if self.taken[p][at] || self.seen[drive] == search || self.drives[drive] == 0 {
                continue;
            }
            self.seen[drive] = search;
            if (self.given[drive].len() as i64) < self.drives[drive] {
                self.given[drive].push(p);
                self.taken[p][at] = true;
                return true;
            }
            for number in 0..self.given[drive].len() {
                let other = self.given[drive][number];
                if self.augment(other, search) {
                    if let Some(was) = self.rows[other].1.iter().position(|d| *d == drive) {
                        self.taken[other][was] = false;
                    }
                    self.given[drive][number] = p;
                    self.taken[p][at] = true;
                    return true;
                }
            }
        }
        false
    }
}
