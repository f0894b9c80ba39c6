//! The machines of a simulation, and what must hold of them at every moment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use holdfast_placement::ids::{DriveId, GroupId};
use holdfast_placement::seams::SeededRng;
use holdfast_storage_node::node::Node;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use turmoil::Sim;

use crate::media::{End, SimDrive, SimMedia};
use crate::net::{Host, Wires, name};
use crate::node::{Life, Order, Spec, live};
use crate::trace::Trace;
use crate::workload::Shared;

/// A failed start is tried again after this.
const START_PAUSE: Duration = Duration::from_millis(700);

/// What a simulation is of; follows from the seed.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Nodes at the beginning, and nodes that join while there are faults.
    pub nodes: usize,
    pub late_nodes: usize,
    pub drives: usize,
    pub groups: u32,
    pub clients: u64,
    pub keys: usize,
    /// How long faults go on.
    pub faults_for: Duration,
    /// Nothing goes wrong: then nothing may be left lying about either.
    pub is_calm: bool,
    /// Objects that are renamed all the time, objects that are appended to, clients of a bucket with a quota.
    pub wanderers: usize,
    pub logs: usize,
    pub tenants: u64,
    /// Whether a bucket keeps versions.
    pub keeps: bool,
    /// Whether the webhook is told of what happens in the bucket of all.
    pub tells: bool,
    /// Whether censuses and scrubs go on, and drives lose shards behind the cluster's back in the end.
    pub mends: bool,
}

impl Shape {
    /// The shape of `seed`.
    pub fn of(seed: u64) -> Self {
        let rng = SeededRng::new(seed ^ 0x5A4E);
        let nodes = match rng.below(10) {
            0 => 1,
            1 => 4,
            2 => 5,
            _ => 3,
        };
        Self {
            nodes,
            late_nodes: usize::from(rng.below(3) == 0),
            drives: 1 + rng.below(2) as usize,
            groups: 2 + rng.below(3) as u32,
            clients: 3 + rng.below(4),
            keys: 3 + rng.below(6) as usize,
            faults_for: Duration::from_secs(12 + rng.below(14)),
            wanderers: rng.below(4).saturating_sub(1) as usize,
            logs: rng.below(4).saturating_sub(1) as usize,
            tenants: match rng.below(2) {
                0 => 0,
                _ => 1 + rng.below(3),
            },
            keeps: rng.below(4) == 0,
            tells: rng.below(3) == 0,
            mends: rng.below(3) == 0,
            is_calm: rng.below(10) == 0,
        }
    }

    /// All nodes that there will be.
    pub fn nodes_max(&self) -> usize {
        self.nodes + self.late_nodes
    }
}

/// All machines.
pub struct World {
    pub shape: Shape,
    pub specs: Vec<Arc<Spec>>,
    pub wires: Wires,
    pub trace: Trace,
    drives: Vec<Vec<SimDrive>>,
    wanted: Vec<watch::Sender<bool>>,
    /// Nodes that stand still because of a fault, and those that lost power.
    down: Mutex<BTreeMap<Host, End>>,
    seen: Mutex<Seen>,
    /// Shards are on their way to other drives, as far as some node knows.
    moving: AtomicBool,
}

/// What was seen of the cluster so far.
#[derive(Default)]
struct Seen {
    leaders: BTreeMap<(GroupId, u64), DriveId>,
    maps: BTreeMap<u64, [u8; 32]>,
    epochs: BTreeMap<Host, u64>,
    failed_at: BTreeMap<Host, Duration>,
}

impl Seen {
    /// A drive leads a group in a term; whether that is new. Nobody else does.
    fn leads(&mut self, group: GroupId, term: u64, drive: DriveId) -> Result<bool, String> {
        match self.leaders.insert((group, term), drive) {
            None => Ok(true),
            Some(other) if other == drive => Ok(false),
            Some(other) => Err(format!(
                "{group} has two leaders in term {term}: {other} and {drive}"
            )),
        }
    }

    /// A node goes by a map: all who go by that epoch have the same.
    fn goes_by(&mut self, epoch: u64, hash: [u8; 32]) -> Result<(), String> {
        match *self.maps.entry(epoch).or_insert(hash) == hash {
            true => Ok(()),
            false => Err(format!("there are two maps of epoch {epoch}")),
        }
    }
}

/// The owners of a partition's slots are different ones.
fn differ(targets: &[DriveId]) -> Result<(), String> {
    let drives: BTreeSet<DriveId> = targets.iter().copied().collect();
    match drives.len() == targets.len() {
        true => Ok(()),
        false => Err(format!("a drive is twice in a partition: {targets:?}")),
    }
}

impl World {
    /// Registers the nodes of a cluster whose files lie under `directory`.
    pub fn build(
        sim: &mut Sim<'_>,
        seed: u64,
        shape: Shape,
        directory: &Path,
        trace: &Trace,
    ) -> Self {
        let wires = Wires::new(trace.clone());
        let rng = SeededRng::new(seed ^ 0x3071D);
        let mut world = Self {
            specs: Vec::new(),
            wires: wires.clone(),
            trace: trace.clone(),
            drives: Vec::new(),
            wanted: Vec::new(),
            down: Mutex::default(),
            seen: Mutex::default(),
            moving: AtomicBool::new(false),
            shape,
        };
        for host in 0..world.shape.nodes_max() {
            let home = directory.join(format!("node-{host}"));
            let paths: Vec<_> = (0..world.shape.drives)
                .map(|number| home.join(format!("drive-{number}")))
                .collect();
            let drives: Vec<SimDrive> = paths
                .iter()
                .map(|_| SimDrive::new(rng.below(u64::MAX)))
                .collect();
            let (wanted, is_wanted) = watch::channel(false);
            let skewed = rng.below(3) == 0;
            let fast = rng.below(4) == 0;
            let spec = Arc::new(Spec {
                host,
                seed,
                data: home.join("data"),
                drives: paths.clone(),
                media: Arc::new(SimMedia {
                    drives: paths.into_iter().zip(drives.iter().cloned()).collect(),
                    ids: Mutex::default(),
                }),
                skew_ms: if skewed {
                    rng.below(20_000) as i64 - 10_000
                } else {
                    0
                },
                fast_per_mille: if fast { rng.below(120) } else { 0 },
                metadata_groups: world.shape.groups,
                mends: world.shape.mends,
                wires: wires.clone(),
                trace: trace.clone(),
                life: Mutex::new(Life::default()),
                wanted: is_wanted,
                orders: Mutex::default(),
            });
            let lived = spec.clone();
            sim.host(name(host), move || live(lived.clone()));
            wires.know(sim.lookup(name(host)), host);
            world.specs.push(spec);
            world.drives.push(drives);
            world.wanted.push(wanted);
        }
        world
    }

    /// Has a node begin.
    pub fn want(&self, host: Host) {
        // Its receiver lives in its spec.
        let _known = self.wanted[host].send(true);
    }

    /// The nodes that have begun.
    pub fn begun(&self) -> Vec<Host> {
        let begun = |host: &Host| *self.wanted[*host].borrow();
        (0..self.specs.len()).filter(begun).collect()
    }

    /// Stops a node at once.
    pub fn stop(&self, sim: &mut Sim<'_>, host: Host, end: End) {
        self.down.lock().insert(host, end);
        if end == End::PowerLost {
            // Nobody hears that it has gone.
            for other in (0..=self.specs.len()).filter(|other| *other != host) {
                sim.partition(name(host), name(other));
            }
        }
        self.forget(host);
        sim.crash(name(host));
        for drive in &self.drives[host] {
            drive.end(end);
        }
    }

    fn forget(&self, host: Host) {
        let spec = &self.specs[host];
        let node = {
            let mut life = spec.life.lock();
            life.failed = false;
            life.node.take()
        };
        drop(node);
        *spec.orders.lock() = None;
    }

    /// Starts a node that was stopped.
    pub fn start(&self, sim: &mut Sim<'_>, host: Host) {
        if self.down.lock().remove(&host) == Some(End::PowerLost) {
            for other in (0..=self.specs.len()).filter(|other| *other != host) {
                sim.repair(name(host), name(other));
                self.wires.reset(host, other);
            }
        }
        sim.bounce(name(host));
    }

    pub fn slow_down(&self, host: Host, drive: usize, by: Duration) {
        if let Some(drive) = self.drives[host].get(drive) {
            drive.slow_down(by);
        }
    }

    /// Starts again what ended by itself.
    pub fn tend(&self, sim: &mut Sim<'_>, now: Duration) {
        for (host, spec) in self.specs.iter().enumerate() {
            if !spec.life.lock().failed || self.down.lock().contains_key(&host) {
                continue;
            }
            let failed_at = *self.seen.lock().failed_at.entry(host).or_insert(now);
            if now >= failed_at + START_PAUSE {
                self.seen.lock().failed_at.remove(&host);
                self.forget(host);
                sim.crash(name(host));
                sim.bounce(name(host));
            }
        }
    }

    /// Checks what must hold at every moment.
    pub fn look(&self, shared: &Shared) {
        let mut seen = self.seen.lock();
        let mut moving = false;
        for (host, spec) in self.specs.iter().enumerate() {
            let Some(node) = spec.life.lock().node.clone() else {
                continue;
            };
            for (group, term, drive) in node.leads() {
                match seen.leads(group, term, drive) {
                    Ok(false) => {}
                    Ok(true) => self
                        .trace
                        .note(format_args!("{drive} leads {group} in term {term}")),
                    Err(wrong) => shared.violated(wrong),
                }
            }
            let map = node.map().load();
            moving |= map.rings.iter().any(|(_, ring)| !ring.is_settled());
            let epoch = map.epoch.0;
            if seen.epochs.insert(host, epoch) == Some(epoch) {
                continue;
            }
            self.trace
                .note(format_args!("{} goes by map {epoch}", name(host)));
            let hash = *blake3::hash(&map.encode()).as_bytes();
            if let Err(wrong) = seen.goes_by(epoch, hash) {
                shared.violated(wrong);
            }
            let partitions = map.rings.iter().flat_map(|(_, ring)| ring.partitions());
            for slots in partitions {
                let targets: Vec<DriveId> = slots.iter().map(|slot| slot.target).collect();
                if let Err(wrong) = differ(&targets) {
                    shared.violated(format!("map {epoch}: {wrong}"));
                }
            }
        }
        self.moving.store(moving, Ordering::Relaxed);
    }

    /// Whether shards are being moved.
    pub fn is_moving(&self) -> bool {
        self.moving.load(Ordering::Relaxed)
    }

    /// Has a node do some work, on its runtime; `None`: it does not run, or ended meanwhile.
    pub async fn at<T: Send + 'static>(
        &self,
        host: Host,
        work: impl FnOnce(Node) -> BoxFuture<'static, T> + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let orders = self.specs[host].orders.lock().clone()?;
        let order: Order = Box::new(move |node| {
            Box::pin(async move {
                // Who asked may have given up.
                let _gone = answer.send(work(node).await);
            })
        });
        orders.send(order).ok()?;
        answered.await.ok()
    }

    /// Whether a node says that everything is whole.
    pub fn says_whole(&self, host: Host) -> bool {
        let node = self.specs[host].life.lock().node.clone();
        node.is_some_and(|node| node.status().mending.whole)
    }

    /// What a node says of censuses and scrubs.
    pub fn mending(&self, host: Host) -> String {
        let node = self.specs[host].life.lock().node.clone();
        node.map_or("it does not run".to_owned(), |node| {
            format!("{:?}", node.status().mending)
        })
    }

    /// Which of its lives a node is in.
    pub fn life_of(&self, host: Host) -> u64 {
        self.specs[host].life.lock().number
    }

    /// The drives of a node.
    pub fn drives_of(&self, host: Host) -> Vec<DriveId> {
        self.specs[host].drive_ids().into_iter().flatten().collect()
    }

    /// The node that has a drive.
    pub fn host_of(&self, drive: DriveId) -> Option<Host> {
        let mut specs = self.specs.iter();
        specs.position(|spec| spec.drive_ids().contains(&Some(drive)))
    }

    /// Flips a bit of these bytes where they lie on a drive; `false`: they are not there.
    pub fn spoil(&self, drive: DriveId, bytes: &[u8]) -> bool {
        self.specs.iter().enumerate().any(|(host, spec)| {
            let own = spec.drive_ids();
            let at = own.iter().position(|own| *own == Some(drive));
            at.is_some_and(|at| self.drives[host][at].spoil(bytes))
        })
    }

    /// Why the cluster is not as it should be; empty if it is.
    pub fn problems(&self) -> Vec<String> {
        let begun = self.begun();
        let mut problems = Vec::new();
        for host in &begun {
            let node = self.specs[*host].life.lock().node.clone();
            let Some(node) = node else {
                problems.push(format!("{} does not run", name(*host)));
                continue;
            };
            let status = node.status();
            let of = |what: String| format!("{} says: {what}", name(*host));
            problems.extend(status.problems.into_iter().map(of));
            if status.nodes.len() != begun.len() {
                problems.push(of(format!("{} nodes", status.nodes.len())));
            }
            if !status.ring.settled {
                problems.push(of("the ring is not settled".to_owned()));
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_hold_at_every_moment_is_noticed_when_it_does_not() {
        let mut seen = Seen::default();
        let [first, second] = [DriveId(1), DriveId(2)];
        assert_eq!(seen.leads(GroupId(1), 3, first), Ok(true));
        assert_eq!(seen.leads(GroupId(1), 3, first), Ok(false));
        assert_eq!(seen.leads(GroupId(2), 3, second), Ok(true));
        assert_eq!(seen.leads(GroupId(1), 4, second), Ok(true));
        assert!(seen.leads(GroupId(1), 3, second).is_err());
        assert_eq!(seen.goes_by(7, [1; 32]), Ok(()));
        assert_eq!(seen.goes_by(7, [1; 32]), Ok(()));
        assert!(seen.goes_by(7, [2; 32]).is_err());
        assert_eq!(differ(&[first, second]), Ok(()));
        assert!(differ(&[first, second, first]).is_err());
    }
}
