//! What goes wrong, from the seed: cuts, losses, crashes, slow drives. Each fault has an end; when the time of faults is
//! over all of them end.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_placement::seams::SeededRng;
use turmoil::Sim;

use crate::media::End;
use crate::net::{Host, name};
use crate::world::World;

/// A fault under way.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    /// Nothing passes between the pairs.
    Cut(Vec<(Host, Host)>),
    /// Nothing passes from the first to the second.
    CutOneWay(Host, Host),
    /// What passes between the two waits.
    Stall(Vec<(Host, Host)>),
    /// Messages between the two are late, or lost and the connections with them.
    Lossy(Host, Host),
    /// Some connections between the two stand still, and others do not.
    Overtaken(Host, Host),
    /// The connections between the two break, and what was on its way is lost; new ones can be made at once.
    Reset(Host, Host),
    /// The node does not run.
    Down(Host, End),
    /// A drive of the node is slow.
    Slow(Host, usize),
}

/// Has things go wrong.
pub struct Faults {
    rng: SeededRng,
    hosts: usize,
    /// The machine of the clients.
    clients: Host,
    under_way: Vec<(Duration, Fault)>,
    next: Duration,
    ended: bool,
}

impl Faults {
    /// Faults among nodes `0..hosts` from `begin` on.
    pub fn new(seed: u64, hosts: usize, begin: Duration) -> Self {
        Self {
            rng: SeededRng::new(seed ^ 0xFA017),
            hosts,
            clients: hosts,
            under_way: Vec::new(),
            next: begin,
            ended: false,
        }
    }

    /// Begins and ends what is due.
    pub fn step(&mut self, sim: &mut Sim<'_>, world: &World, now: Duration) {
        let due = |(end, _): &(Duration, Fault)| *end <= now;
        while let Some(at) = self.under_way.iter().position(due) {
            let (_, fault) = self.under_way.remove(at);
            self.end(sim, world, &fault);
        }
        if now >= self.next && !self.ended {
            // While shards move there are more ways to be wrong.
            let most = if world.is_moving() { 600 } else { 2000 };
            self.next = now + self.between(50, most);
            self.begin(sim, world, now);
        }
    }

    /// Ends everything, for good.
    pub fn end_all(&mut self, sim: &mut Sim<'_>, world: &World) {
        self.ended = true;
        for (_, fault) in std::mem::take(&mut self.under_way) {
            self.end(sim, world, &fault);
        }
    }

    fn between(&self, least_ms: u64, most_ms: u64) -> Duration {
        Duration::from_millis(least_ms + self.rng.below(most_ms - least_ms))
    }

    fn some_node(&self) -> Host {
        self.rng.below(self.hosts as u64) as usize
    }

    /// Two hosts, now and then one of them the clients'.
    fn some_pair(&self) -> Option<(Host, Host)> {
        let a = self.some_node();
        let b = match self.rng.below(6) {
            0 => self.clients,
            _ => self.some_node(),
        };
        (a != b).then_some((a, b))
    }

    fn begin(&mut self, sim: &mut Sim<'_>, world: &World, now: Duration) {
        let chosen = match world.is_moving() && self.rng.below(3) == 0 {
            true => self.overtaken(),
            false => self.choose(),
        };
        let Some((fault, lasts)) = chosen else {
            return;
        };
        if !self.is_possible(&fault) {
            return;
        }
        world.trace.note(format_args!(
            "fault: {fault:?} for {} ms",
            lasts.as_millis()
        ));
        match &fault {
            Fault::Cut(pairs) => {
                for (a, b) in pairs {
                    sim.partition(name(*a), name(*b));
                }
            }
            Fault::CutOneWay(from, to) => sim.partition_oneway(name(*from), name(*to)),
            Fault::Stall(pairs) => {
                for (a, b) in pairs {
                    sim.hold(name(*a), name(*b));
                }
            }
            Fault::Lossy(a, b) => sim.set_link_fail_rate(name(*a), name(*b), 0.02),
            Fault::Overtaken(a, b) => world.wires.hold(*a, *b, || self.rng.below(2) == 0),
            Fault::Reset(a, b) => return world.wires.reset(*a, *b),
            Fault::Down(host, end) => world.stop(sim, *host, *end),
            Fault::Slow(host, drive) => {
                let by = self.between(20, 800);
                world.slow_down(*host, *drive, by);
            }
        }
        self.under_way.push((now + lasts, fault));
    }

    fn choose(&self) -> Option<(Fault, Duration)> {
        Some(match self.rng.below(100) {
            0..=19 => (Fault::Cut(vec![self.some_pair()?]), self.between(100, 4000)),
            20..=31 => {
                let (a, b) = self.some_pair()?;
                let (a, b) = if self.rng.below(2) == 0 {
                    (a, b)
                } else {
                    (b, a)
                };
                (Fault::CutOneWay(a, b), self.between(100, 4000))
            }
            32..=41 => {
                let alone = self.some_node();
                (Fault::Cut(self.all_of(alone)), self.between(300, 5000))
            }
            42..=53 => {
                let pairs = match self.rng.below(2) {
                    0 => vec![self.some_pair()?],
                    _ => self.all_of(self.some_node()),
                };
                (Fault::Stall(pairs), self.between(100, 2500))
            }
            54..=61 => {
                let (a, b) = self.some_pair()?;
                (Fault::Lossy(a, b), self.between(500, 4000))
            }
            62..=66 => {
                let (a, b) = self.some_pair()?;
                (Fault::Reset(a, b), Duration::ZERO)
            }
            67..=71 => self.overtaken()?,
            72..=87 => {
                let end = match self.rng.below(2) {
                    0 => End::Killed,
                    _ => End::PowerLost,
                };
                let lasts = match self.rng.below(3) {
                    0 => self.between(1, 300),
                    _ => self.between(300, 6000),
                };
                (Fault::Down(self.some_node(), end), lasts)
            }
            _ => (
                Fault::Slow(self.some_node(), self.rng.below(2) as usize),
                self.between(500, 5000),
            ),
        })
    }

    fn overtaken(&self) -> Option<(Fault, Duration)> {
        let (a, b) = self.some_pair()?;
        Some((Fault::Overtaken(a, b), self.between(300, 4000)))
    }

    fn all_of(&self, host: Host) -> Vec<(Host, Host)> {
        let others = (0..self.hosts).filter(|other| *other != host);
        others.map(|other| (host, other)).collect()
    }

    /// One fault at a time on a link or a node, and mostly a quorum of nodes is up.
    fn is_possible(&self, fault: &Fault) -> bool {
        let touched: BTreeSet<(Host, Host)> = self
            .under_way
            .iter()
            .flat_map(|(_, fault)| links(fault))
            .collect();
        let down: BTreeSet<Host> = self
            .under_way
            .iter()
            .filter_map(|(_, fault)| match fault {
                Fault::Down(host, _) => Some(*host),
                _ => None,
            })
            .collect();
        match fault {
            Fault::Down(host, _) => {
                let most = match self.rng.below(10) {
                    0 => self.hosts,
                    _ => 1.max((self.hosts - 1) / 2),
                };
                let is_free = touched.iter().all(|(a, b)| a != host && b != host);
                !down.contains(host) && down.len() < most && is_free
            }
            Fault::Slow(..) => !self.under_way.iter().any(|(_, other)| other == fault),
            _ => links(fault).iter().all(|(a, b)| {
                !touched.contains(&(*a, *b)) && !down.contains(a) && !down.contains(b)
            }),
        }
    }

    fn end(&self, sim: &mut Sim<'_>, world: &World, fault: &Fault) {
        world.trace.note(format_args!("over: {fault:?}"));
        match fault {
            Fault::Cut(pairs) => {
                for (a, b) in pairs {
                    sim.repair(name(*a), name(*b));
                    world.wires.reset(*a, *b);
                }
            }
            Fault::CutOneWay(from, to) => {
                sim.repair_oneway(name(*from), name(*to));
                world.wires.reset(*from, *to);
            }
            Fault::Stall(pairs) => {
                for (a, b) in pairs {
                    sim.release(name(*a), name(*b));
                }
            }
            Fault::Lossy(a, b) => {
                sim.set_link_fail_rate(name(*a), name(*b), 0.0);
                sim.repair(name(*a), name(*b));
                world.wires.reset(*a, *b);
            }
            Fault::Overtaken(a, b) => world.wires.release(*a, *b),
            Fault::Reset(..) => {}
            Fault::Down(host, _) => world.start(sim, *host),
            Fault::Slow(host, drive) => world.slow_down(*host, *drive, Duration::ZERO),
        }
    }
}

/// The links that a fault is on, both ways round.
fn links(fault: &Fault) -> Vec<(Host, Host)> {
    let both = |pairs: &[(Host, Host)]| {
        pairs
            .iter()
            .flat_map(|(a, b)| [(*a, *b), (*b, *a)])
            .collect()
    };
    match fault {
        Fault::Cut(pairs) | Fault::Stall(pairs) => both(pairs),
        Fault::CutOneWay(a, b)
        | Fault::Lossy(a, b)
        | Fault::Overtaken(a, b)
        | Fault::Reset(a, b) => both(&[(*a, *b)]),
        Fault::Down(..) | Fault::Slow(..) => Vec::new(),
    }
}
