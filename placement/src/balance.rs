//! Computes a ring: balanced by capacity, spread over failure domains, moving little.
//!
//! The table is made slot by slot ("column by column"). For every prefix of `n` slots each drive has a fair share,
//! found by water-filling from racks to hosts to drives: in a partition's first `n` slots racks are used as evenly as
//! their number of drives allows, then hosts inside a rack, then drives; what is free within that goes by capacity. The
//! shares are rounded to whole slots, as close to the previous ring's as rounding allows, and each column is then a
//! bipartite matching of partitions to drives that begins with what the previous ring has there.
//!
//! Balance therefore holds not only for whole partitions but for each number of slots that a protection may use.
//! No chance and no floating-point function beyond the four basic operations is used: the same input gives the same
//! ring on every machine.

use std::collections::VecDeque;

use crate::ids::{DriveId, NodeId};
use crate::ring::{Ring, SLOTS_MAX};

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
    for column in 0..topology.slots() {
        table.fill_column(column);
    }
    Ring {
        partitions: table.into_partitions(),
    }
}

/// Each drive's fair share of the first `prefix` slots of all partitions, in slots, in order of drive id.
pub fn fair_shares(members: &[Member], partitions: usize, prefix: usize) -> Vec<(DriveId, f64)> {
    let topology = Topology::new(members);
    let shares = topology.shares(prefix.min(topology.slots()));
    topology
        .drives
        .iter()
        .zip(shares.drives)
        .map(|(drive, share)| (drive.id, share * partitions as f64))
        .collect()
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

/// Fair shares of the first slots, in partitions (1.0: a slot of every partition).
struct Shares {
    racks: Vec<f64>,
    hosts: Vec<f64>,
    drives: Vec<f64>,
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

    fn shares(&self, prefix: usize) -> Shares {
        let mut shares = Shares {
            racks: Vec::new(),
            hosts: vec![0.0; self.hosts.len()],
            drives: vec![0.0; self.drives.len()],
        };
        let rooms: Vec<usize> = self.racks.iter().map(|rack| rack.drives).collect();
        let bounds = even(prefix, prefix, &rooms);
        let weights: Vec<f64> = self.racks.iter().map(|rack| rack.weight).collect();
        shares.racks = water_fill(&weights, &bounds, prefix as f64);
        for (rack, share) in self.racks.iter().zip(&shares.racks) {
            let rooms: Vec<usize> = rack
                .hosts
                .iter()
                .map(|host| self.hosts[*host].drives.len())
                .collect();
            let (least, most) = (share + EPSILON, (share - EPSILON).max(0.0));
            let bounds = even(least.floor() as usize, most.ceil() as usize, &rooms);
            let weights: Vec<f64> = rack
                .hosts
                .iter()
                .map(|host| self.hosts[*host].weight)
                .collect();
            let filled = water_fill(&weights, &bounds, *share);
            for (host, share) in rack.hosts.iter().zip(filled) {
                shares.hosts[*host] = share;
            }
        }
        for (host, share) in self.hosts.iter().zip(&shares.hosts) {
            let weights: Vec<f64> = host
                .drives
                .iter()
                .map(|drive| self.drives[*drive].weight)
                .collect();
            let bounds = vec![(0.0, 1.0); weights.len()];
            let filled = water_fill(&weights, &bounds, *share);
            for (drive, share) in host.drives.iter().zip(filled) {
                shares.drives[*drive] = share;
            }
        }
        shares
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

/// Bounds of what each room gets when between `least` and `most` are dealt round by round, one a round to each that
/// is not full.
fn even(least: usize, most: usize, rooms: &[usize]) -> Vec<(f64, f64)> {
    let whole_rounds = |dealt: usize| {
        (0..=SLOTS_MAX)
            .rev()
            .find(|round| rooms.iter().map(|room| room.min(round)).sum::<usize>() <= dealt)
            .unwrap_or(0)
    };
    let low = whole_rounds(least);
    let mut high = whole_rounds(most);
    if rooms.iter().map(|room| room.min(&high)).sum::<usize>() < most {
        high += 1;
    }
    rooms
        .iter()
        .map(|room| (*room.min(&low) as f64, *room.min(&high) as f64))
        .collect()
}

/// Parts of `total` in proportion to the weights, each within its bounds.
fn water_fill(weights: &[f64], bounds: &[(f64, f64)], total: f64) -> Vec<f64> {
    let at = |level: f64| -> Vec<f64> {
        weights
            .iter()
            .zip(bounds)
            .map(|(weight, (low, high))| (weight * level).clamp(*low, *high))
            .collect()
    };
    let heaviest = weights.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let lightest = weights.iter().copied().fold(heaviest, f64::min);
    let (mut low, mut high) = (0.0, 2.0 * SLOTS_MAX as f64 / lightest);
    for _ in 0..120 {
        let middle = (low + high) / 2.0;
        if at(middle).iter().sum::<f64>() < total {
            low = middle;
        } else {
            high = middle;
        }
    }
    at(high)
}

/// Whole numbers that add up to `total`: each is its share rounded down or up, not less than `least`, as near to
/// `current` as that allows. If the least values leave no such choice, the error is put where it is smallest.
fn round(shares: &[f64], current: &[usize], least: &[usize], total: usize) -> Vec<usize> {
    let floor = |share: f64| (share + EPSILON).floor() as usize;
    let ceil = |share: f64| (share - EPSILON).max(0.0).ceil() as usize;
    let mut rounded: Vec<usize> = (0..shares.len())
        .map(|i| {
            let low = floor(shares[i]).max(least[i]);
            current[i].clamp(low, ceil(shares[i]).max(low))
        })
        .collect();
    // First within floor and ceiling, then beyond.
    for strict in [true, false] {
        loop {
            let sum: usize = rounded.iter().sum();
            if sum == total {
                return rounded;
            }
            let error = |i: usize| rounded[i] as f64 - shares[i];
            let chosen = if sum < total {
                (0..shares.len())
                    .filter(|i| !strict || rounded[*i] < ceil(shares[*i]))
                    .min_by(|a, b| error(*a).total_cmp(&error(*b)))
            } else {
                (0..shares.len())
                    .filter(|i| rounded[*i] > least[*i])
                    .filter(|i| !strict || rounded[*i] > floor(shares[*i]))
                    .max_by(|a, b| error(*a).total_cmp(&error(*b)).then(b.cmp(a)))
            };
            match chosen {
                Some(i) if sum < total => rounded[i] += 1,
                Some(i) => rounded[i] -= 1,
                None => break,
            }
        }
    }
    rounded
}

/// The table in the making.
struct Table<'a> {
    topology: &'a Topology,
    partitions: usize,
    /// `previous[p][j]`: the member that the previous ring has there, if it still is one.
    previous: Vec<Vec<Option<usize>>>,
    /// `chosen[p]`: the members of the columns filled so far.
    chosen: Vec<Vec<usize>>,
    /// Slots that each member has so far.
    held: Vec<usize>,
}

impl<'a> Table<'a> {
    fn new(topology: &'a Topology, partitions: usize, previous: Option<&Ring>) -> Self {
        let member_of = |id: &DriveId| {
            topology
                .drives
                .binary_search_by_key(id, |drive| drive.id)
                .ok()
        };
        let mut rows: Vec<Vec<Option<usize>>> = previous
            .map(|ring| {
                ring.partitions
                    .iter()
                    .map(|drives| drives.iter().map(member_of).collect())
                    .collect()
            })
            .unwrap_or_default();
        rows.resize(partitions, Vec::new());
        Self {
            topology,
            partitions,
            previous: rows,
            chosen: vec![Vec::new(); partitions],
            held: vec![0; topology.drives.len()],
        }
    }

    fn into_partitions(self) -> Vec<Vec<DriveId>> {
        self.chosen
            .iter()
            .map(|row| {
                row.iter()
                    .map(|drive| self.topology.drives[*drive].id)
                    .collect()
            })
            .collect()
    }

    fn fill_column(&mut self, column: usize) {
        let mut quota = self.quotas(column);
        let allowed: Vec<Vec<usize>> = (0..self.partitions).map(|p| self.allowed(p)).collect();
        let mut cells: Vec<Option<usize>> = vec![None; self.partitions];
        let mut order: Vec<usize> = (0..self.partitions).collect();
        order.sort_by_key(|p| mix(*p as u64, column as u64, 0));

        for p in &order {
            if let Some(Some(drive)) = self.previous[*p].get(column)
                && quota[*drive] > 0
                && allowed[*p].binary_search(drive).is_ok()
            {
                cells[*p] = Some(*drive);
                quota[*drive] -= 1;
            }
        }
        for p in &order {
            if cells[*p].is_none()
                && let Some(drive) = self.cheapest(*p, column, &allowed[*p], &quota)
            {
                cells[*p] = Some(drive);
                quota[drive] -= 1;
            }
        }
        for p in order {
            if cells[p].is_none() && !augment(p, &allowed, &mut cells, &mut quota) {
                // No whole matching within the quotas: take whoever has the least; the next columns make up for it.
                cells[p] = allowed[p]
                    .iter()
                    .copied()
                    .min_by_key(|drive| self.held[*drive]);
            }
        }
        for (p, cell) in cells.into_iter().enumerate() {
            if let Some(drive) = cell {
                self.chosen[p].push(drive);
                self.held[drive] += 1;
            }
        }
    }

    /// How many slots of the column each drive is to get.
    fn quotas(&self, column: usize) -> Vec<usize> {
        let topology = self.topology;
        let prefix = column + 1;
        let shares = topology.shares(prefix);
        let scale = |parts: &[f64]| -> Vec<f64> {
            parts
                .iter()
                .map(|part| part * self.partitions as f64)
                .collect()
        };
        let mut current = vec![0usize; topology.drives.len()];
        for row in &self.previous {
            for drive in row.iter().take(prefix).flatten() {
                current[*drive] += 1;
            }
        }
        let sum_of_host = |host: &usize, of: &[usize]| -> usize {
            topology.hosts[*host]
                .drives
                .iter()
                .map(|drive| of[*drive])
                .sum()
        };
        let sum_of_rack = |rack: &Rack, of: &[usize]| -> usize {
            rack.hosts.iter().map(|host| sum_of_host(host, of)).sum()
        };
        let sums = |of: &[usize]| -> Vec<usize> {
            topology
                .racks
                .iter()
                .map(|rack| sum_of_rack(rack, of))
                .collect()
        };

        let mut quotas = vec![0; topology.drives.len()];
        let rack_totals = round(
            &scale(&shares.racks),
            &sums(&current),
            &sums(&self.held),
            prefix * self.partitions,
        );
        for (rack, total) in topology.racks.iter().zip(rack_totals) {
            let of_hosts = |of: &[usize]| -> Vec<usize> {
                rack.hosts.iter().map(|h| sum_of_host(h, of)).collect()
            };
            let parts: Vec<f64> = rack.hosts.iter().map(|host| shares.hosts[*host]).collect();
            let host_totals = round(
                &scale(&parts),
                &of_hosts(&current),
                &of_hosts(&self.held),
                total,
            );
            for (host, total) in rack.hosts.iter().zip(host_totals) {
                let drives = &topology.hosts[*host].drives;
                let of_drives =
                    |of: &[usize]| -> Vec<usize> { drives.iter().map(|d| of[*d]).collect() };
                let parts: Vec<f64> = drives.iter().map(|drive| shares.drives[*drive]).collect();
                let totals = round(
                    &scale(&parts),
                    &of_drives(&current),
                    &of_drives(&self.held),
                    total,
                );
                for (drive, total) in drives.iter().zip(totals) {
                    quotas[*drive] = total - self.held[*drive];
                }
            }
        }
        quotas
    }

    /// Drives that the next slot of partition `p` may have, in order: not there yet, in the racks that are there least
    /// often among those with drives left, and there in the hosts likewise.
    fn allowed(&self, p: usize) -> Vec<usize> {
        let topology = self.topology;
        let mut in_rack = vec![0usize; topology.racks.len()];
        let mut in_host = vec![0usize; topology.hosts.len()];
        for drive in &self.chosen[p] {
            in_rack[topology.drives[*drive].rack] += 1;
            in_host[topology.drives[*drive].host] += 1;
        }
        let has_room = |host: &usize| in_host[*host] < topology.hosts[*host].drives.len();
        let open_racks = (0..topology.racks.len())
            .filter(|rack| in_rack[*rack] < topology.racks[*rack].drives)
            .map(|rack| (in_rack[rack], rack));
        let Some(least) = open_racks.clone().map(|(count, _)| count).min() else {
            return Vec::new();
        };
        let mut drives = Vec::new();
        for (_, rack) in open_racks.filter(|(count, _)| *count == least) {
            let open_hosts = || {
                topology.racks[rack]
                    .hosts
                    .iter()
                    .filter(|host| has_room(host))
            };
            let least = open_hosts().map(|host| in_host[*host]).min();
            for host in open_hosts().filter(|host| Some(in_host[**host]) == least) {
                drives.extend(topology.hosts[*host].drives.iter().copied());
            }
        }
        drives.retain(|drive| !self.chosen[p].contains(drive));
        drives.sort_unstable();
        drives
    }

    /// The drive with quota left whose choice makes the fewest later slots of the partition move.
    fn cheapest(
        &self,
        p: usize,
        column: usize,
        allowed: &[usize],
        quota: &[usize],
    ) -> Option<usize> {
        let topology = self.topology;
        let later = self.previous[p]
            .get(column + 1..topology.slots())
            .unwrap_or(&[]);
        let cost = |drive: usize| -> usize {
            if let Some(at) = later.iter().position(|cell| *cell == Some(drive)) {
                // It leaves its own slot, which another must take: the later that slot, the fewer follow.
                return 2 + later.len() - at;
            }
            let host = topology.drives[drive].host;
            let spread = topology.hosts.len().saturating_sub(column + 1);
            let crowds = later
                .iter()
                .take(spread)
                .flatten()
                .any(|other| topology.drives[*other].host == host);
            usize::from(crowds)
        };
        allowed
            .iter()
            .copied()
            .filter(|drive| quota[*drive] > 0)
            .min_by_key(|drive| {
                (
                    cost(*drive),
                    usize::MAX - quota[*drive],
                    mix(p as u64, column as u64, 1 + topology.drives[*drive].id.0),
                )
            })
    }
}

/// Gives partition `open` a drive by moving others of the column along a shortest path to a drive with quota left.
fn augment(
    open: usize,
    allowed: &[Vec<usize>],
    cells: &mut [Option<usize>],
    quota: &mut [usize],
) -> bool {
    let mut cells_of: Vec<Vec<usize>> = vec![Vec::new(); quota.len()];
    for (p, cell) in cells.iter().enumerate() {
        if let Some(drive) = cell {
            cells_of[*drive].push(p);
        }
    }
    // `reached[d]`: the partition that would take drive `d`.
    let mut reached: Vec<Option<usize>> = vec![None; quota.len()];
    let mut queue = VecDeque::from([open]);
    while let Some(p) = queue.pop_front() {
        for drive in &allowed[p] {
            if reached[*drive].is_some() {
                continue;
            }
            reached[*drive] = Some(p);
            if quota[*drive] > 0 {
                quota[*drive] -= 1;
                let mut drive = *drive;
                while let Some(taker) = reached[drive] {
                    let given_up = cells[taker].replace(drive);
                    match given_up {
                        Some(next) if taker != open => drive = next,
                        _ => return true,
                    }
                }
                return true;
            }
            queue.extend(cells_of[*drive].iter().copied());
        }
    }
    false
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

#[cfg(test)]
mod tests;
