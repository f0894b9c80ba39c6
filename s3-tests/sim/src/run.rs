//! One simulation from its seed to its verdict.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use holdfast_placement::ids::DriveId;
use holdfast_placement::planted::{Bug, plant};
use holdfast_placement::seams::{SeededRng, spawn};
use holdfast_s3_tests::linearizable::{self, Verdict};
use holdfast_s3_tests::request::Request;
use holdfast_storage_node::node::{NodeOrder, OrderError};
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::census::{self, Look};
use crate::client::Client;
use crate::clock::EPOCH;
use crate::doomed;
use crate::faults::Faults;
use crate::late;
use crate::media::End;
use crate::mending::mend;
use crate::net::name;
use crate::strays;
use crate::trace::Trace;
use crate::troupe::Troupe;
use crate::workload::{BUCKET, Shared, Worker};
use crate::world::{Shape, World};

/// How long a simulation may take, by its own time.
const TIME_MAX: Duration = Duration::from_secs(300);

/// How long the cluster may take to come about, and to become healthy when nothing goes wrong any more.
const HEALING_MAX: Duration = Duration::from_secs(60);

/// Between two looks at what must hold at every moment.
const LOOK_EVERY: u32 = 5;

/// What to run.
pub struct Options {
    pub seed: u64,
    pub prints: bool,
    pub bug: Option<Bug>,
    pub shape: Shape,
}

/// What came of it.
pub struct Report {
    pub violations: Vec<String>,
    /// Keys whose history could not be decided.
    pub undecided: usize,
    pub digest: String,
    pub events: u64,
    pub took: Duration,
    pub tally: BTreeMap<&'static str, u64>,
}

/// What is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Forming,
    Faults,
    Healing,
    /// This node is away.
    Without(usize),
    Together,
    Over,
}

pub struct Stage {
    phase: Mutex<Phase>,
    pub world: World,
    pub shared: Arc<Shared>,
    pub seed: u64,
}

/// Runs a simulation; the same as the last time only if it is the first in its process.
pub fn run(options: Options) -> Report {
    crate::chance::set(options.seed);
    // What was asked for on this thread so far, such as keys of hash tables for arguments, must not count.
    let thread = std::thread::Builder::new().name("simulation".to_owned());
    let running = thread.spawn(move || simulate(&options));
    let report = running.expect("a thread").join();
    report.expect("panics are reported")
}

fn simulate(options: &Options) -> Report {
    if let Some(bug) = options.bug {
        plant(bug);
    }
    let trace = Trace::new(options.prints);
    let panics: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = panics.clone();
    std::panic::set_hook(Box::new(move |panic| noted.lock().push(panic.to_string())));

    let directory = scratch();
    let mut sim = turmoil::Builder::new()
        .rng_seed(options.seed)
        .simulation_duration(TIME_MAX * 2)
        .epoch(SystemTime::UNIX_EPOCH + Duration::from_millis(EPOCH))
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::ZERO)
        .max_message_latency(Duration::from_millis(8))
        .tcp_capacity(1024)
        .enable_random_order()
        .build();
    let shape = options.shape.clone();
    trace.note(format_args!(
        "seed {} {shape:?} {:?}",
        options.seed, options.bug
    ));
    let shared = Shared::new(trace.clone(), shape.keys, (0..shape.nodes).collect());
    let hosts = shape.nodes_max();
    let world = World::build(&mut sim, options.seed, shape, directory.path(), &trace);
    let stage = Arc::new(Stage {
        phase: Mutex::new(Phase::Forming),
        world,
        shared: shared.clone(),
        seed: options.seed,
    });
    let directing = stage.clone();
    sim.client(name(hosts), async move {
        if let Err(what) = direct(&directing).await {
            directing.shared.violated(what);
        }
        *directing.phase.lock() = Phase::Over;
        Ok(())
    });
    stage.world.wires.know(sim.lookup(name(hosts)), hosts);
    drive(&mut sim, &stage);

    let took = sim.elapsed();
    // What ends with it may not find the simulation any more, and has nothing to say.
    let violated_by_panic = std::mem::take(&mut *panics.lock());
    for spec in &stage.world.specs {
        spec.life.lock().node = None;
        *spec.orders.lock() = None;
    }
    std::mem::forget(sim);
    for panic in violated_by_panic {
        shared.violated(format!("something panicked: {panic}"));
    }
    let undecided = judge(&shared);
    let (digest, events) = trace.digest();
    Report {
        violations: shared.violations(),
        undecided,
        digest,
        events,
        took,
        tally: shared.tally(),
    }
}

/// Small files of the nodes: in memory where that is possible, they are flushed often.
fn scratch() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let made = tempfile::Builder::new()
        .prefix("holdfast-sim-")
        .tempdir_in(memory);
    made.or_else(|_| tempfile::tempdir())
        .expect("a directory for small files")
}

/// Lets time pass until the director is done.
fn drive(sim: &mut turmoil::Sim<'_>, stage: &Stage) {
    let mut faults: Option<Faults> = None;
    let mut phase = Phase::Forming;
    let mut away = None;
    for step in 0u32.. {
        let now = sim.elapsed();
        stage.shared.trace.set_now(now);
        if let Err(error) = sim.step() {
            stage
                .shared
                .violated(format!("the simulation broke: {error}"));
            return;
        }
        let wanted = *stage.phase.lock();
        if wanted != phase {
            stage.shared.trace.note(format_args!("phase {wanted:?}"));
            phase = wanted;
            match phase {
                Phase::Faults if stage.world.shape.is_calm => {}
                Phase::Faults => {
                    let hosts = stage.world.shape.nodes_max();
                    faults = Some(Faults::new(stage.seed, hosts, now));
                }
                Phase::Without(host) => {
                    away = Some(host);
                    stage.world.stop(sim, host, End::PowerLost);
                }
                _ => {
                    if let Some(faults) = &mut faults {
                        faults.end_all(sim, &stage.world);
                    }
                    if let Some(host) = away.take() {
                        stage.world.start(sim, host);
                    }
                }
            }
        }
        if phase == Phase::Over {
            return;
        }
        if phase == Phase::Faults
            && let Some(faults) = &mut faults
        {
            faults.step(sim, &stage.world, now);
        }
        stage.world.tend(sim, now);
        if step.is_multiple_of(LOOK_EVERY) {
            stage.world.look(&stage.shared);
        }
        if !stage.shared.violations().is_empty() {
            return;
        }
        if now > TIME_MAX {
            stage.shared.violated(format!("it does not end: {phase:?}"));
            return;
        }
    }
}

/// Has the cluster form, clients work while things go wrong, and looks at what is left in the end.
async fn direct(stage: &Arc<Stage>) -> Result<(), String> {
    let (world, shared) = (&stage.world, &stage.shared);
    let shape = &world.shape;
    let clients = shape.nodes_max();
    for host in 0..shape.nodes {
        world.want(host);
        sleep(Duration::from_millis(100)).await;
    }
    healthy(stage, "the cluster does not form").await?;
    let mut client = Client::new(clients, world.wires.clone());
    let made = client.send(0, Request::put(&format!("/{BUCKET}"))).await?;
    if made.status != 200 {
        return Err(format!(
            "the bucket was not made: {} {}",
            made.status,
            made.code()
        ));
    }

    let troupe = Troupe::gather(stage, &mut client).await?;
    let first_map = late::map(stage).await;

    *stage.phase.lock() = Phase::Faults;
    let end = shared.trace.now() + shape.faults_for;
    let working: Vec<_> = (0..shape.clients)
        .map(|number| {
            let client = Client::new(clients, world.wires.clone());
            let mut worker = Worker::new(number, stage.seed, shared.clone(), client);
            spawn(async move {
                worker.work(end).await;
            })
        })
        .collect();
    let racing = spawn(doomed::race(
        shared.clone(),
        stage.seed,
        clients,
        world.wires.clone(),
        end,
    ));
    let moving = spawn(move_about(stage.clone(), end));
    let watching = spawn(strays::watch(stage.clone()));
    let others = troupe.work(end);
    if shape.late_nodes > 0 {
        let rng = SeededRng::new(stage.seed ^ 0x1A7E);
        sleep(Duration::from_millis(
            rng.below(shape.faults_for.as_millis() as u64 / 2),
        ))
        .await;
        for host in shape.nodes..shape.nodes_max() {
            world.want(host);
            shared.nodes.lock().push(host);
        }
    }
    for work in working.into_iter().chain(others).chain([racing, moving]) {
        work.await.map_err(|error| error.to_string())?;
    }

    *stage.phase.lock() = Phase::Healing;
    let own = Client::new(clients, world.wires.clone());
    let mut reader = Worker::new(100, stage.seed, shared.clone(), own);
    healthy(stage, "it does not become healthy again").await?;
    let hosts = world.begun();
    // Before anybody reads: reads have made anew what they find missing.
    take_census(stage, Look::Indexes).await?;
    read_all(stage, &mut reader, &hosts, Duration::from_secs(6)).await?;
    troupe.check(&hosts).await?;
    troupe.settle(&mut client).await?;
    if shape.is_calm {
        nothing_is_left(stage).await?;
    }
    if hosts.len() >= 3 {
        let away = SeededRng::new(stage.seed ^ 0xA3A7).below(hosts.len() as u64) as usize;
        without(stage, &mut reader, away).await?;
        *stage.phase.lock() = Phase::Together;
        healthy(stage, "it does not become healthy with all nodes").await?;
    }
    if let Some(map) = first_map {
        late::put(stage, &map).await;
    }
    watching.abort();
    take_census(stage, Look::Bytes).await?;
    if shape.mends {
        mend(stage).await?;
    }
    Ok(())
}

/// Has drives drained and kept again, where there are some to spare, until the time is `end`.
async fn move_about(stage: Arc<Stage>, end: Duration) {
    let rng = SeededRng::new(stage.seed ^ 0x30FE);
    let shape = &stage.world.shape;
    if shape.nodes < 3 || shape.nodes * shape.drives < 5 || rng.below(2) == 0 {
        return;
    }
    let count = (shape.nodes * shape.drives) as u64;
    while stage.shared.trace.now() < end {
        sleep(Duration::from_millis(rng.below(3000))).await;
        let drive = DriveId(1 + rng.below(count));
        // Refused or not: what is drained is kept again.
        let _refused = order(&stage, &rng, NodeOrder::DrainDrive(drive)).await;
        let held = match rng.below(2) {
            0 => hold_answers(&stage, &rng, drive).await,
            _ => {
                sleep(Duration::from_millis(rng.below(1200))).await;
                None
            }
        };
        while let Err(error) = order(&stage, &rng, NodeOrder::KeepDrive(drive)).await {
            // One that has gone stays away.
            if matches!(
                error,
                Some(OrderError::NoDrive(_) | OrderError::NothingToKeep(_))
            ) {
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
        if let Some((from, to)) = held {
            sleep(Duration::from_millis(2000 + rng.below(3000))).await;
            stage.world.wires.release(from, to);
        }
    }
}

/// Waits until shards are on their way from a drive, and has what its node is told of them come late: they may be back
/// before it hears that they have arrived.
async fn hold_answers(stage: &Stage, rng: &SeededRng, drive: DriveId) -> Option<(usize, usize)> {
    let from = stage.world.host_of(drive)?;
    let to = stage.shared.some_node(rng);
    for _ in 0..40 {
        if stage.world.is_moving() {
            break;
        }
        sleep(Duration::from_millis(25)).await;
    }
    sleep(Duration::from_millis(rng.below(700))).await;
    if from == to || stage.world.shape.is_calm {
        return None;
    }
    let trace = &stage.shared.trace;
    trace.note(format_args!(
        "what {from} and {to} say to each other is held"
    ));
    stage.world.wires.hold(from, to, || rng.below(2) == 0);
    Some((from, to))
}

/// Gives some node an order. No error in particular: nobody answers.
async fn order(stage: &Stage, rng: &SeededRng, order: NodeOrder) -> Result<(), Option<OrderError>> {
    let nodes = stage.world.begun();
    let host = nodes[rng.below(nodes.len() as u64) as usize];
    let text = format!("{order:?}");
    let given = stage.world.at(host, move |node| {
        Box::pin(async move { node.order(&order).await })
    });
    let taken = match given.await {
        Some(taken) => taken.map_err(Some),
        None => Err(None),
    };
    stage
        .shared
        .trace
        .note(format_args!("{text} to {host}: {taken:?}"));
    taken
}

/// Waits until the cluster has no problem, and for a while has none.
async fn healthy(stage: &Stage, otherwise: &str) -> Result<(), String> {
    let end = stage.shared.trace.now() + HEALING_MAX;
    let mut well = 0;
    loop {
        sleep(Duration::from_millis(250)).await;
        let problems = stage.world.problems();
        well = if problems.is_empty() { well + 1 } else { 0 };
        if well >= 6 {
            return Ok(());
        }
        if stage.shared.trace.now() > end {
            return Err(format!("{otherwise}: {problems:?}"));
        }
    }
}

/// Everything can be read with one node away.
async fn without(stage: &Stage, reader: &mut Worker, away: usize) -> Result<(), String> {
    *stage.phase.lock() = Phase::Without(away);
    let others: Vec<usize> = stage
        .world
        .begun()
        .into_iter()
        .filter(|host| *host != away)
        .collect();
    let patience = Duration::from_secs(15);
    let read = read_all(stage, reader, &others, patience).await;
    read.map_err(|error| format!("without {away}: {error}"))
}

/// Every key can be read through each of these nodes: where a lead is being moved, not at once.
async fn read_all(
    stage: &Stage,
    reader: &mut Worker,
    hosts: &[usize],
    patience: Duration,
) -> Result<(), String> {
    let end = stage.shared.trace.now() + patience;
    for host in hosts {
        for key in 0..stage.world.shape.keys {
            while let Err(error) = reader.read(*host, key).await {
                if stage.shared.trace.now() > end {
                    return Err(format!("key {key} cannot be read through {host}: {error}"));
                }
                stage.shared.count("read again when healed");
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
    Ok(())
}

/// Every body is whole; repairs that are under way have their time.
async fn take_census(stage: &Stage, look: Look) -> Result<(), String> {
    let end = stage.shared.trace.now() + HEALING_MAX / 2;
    let keys = stage.world.shape.keys;
    loop {
        let counted = stage.world.at(0, move |node| {
            Box::pin(async move { census::take(&node, keys, look).await })
        });
        let counted = counted
            .await
            .unwrap_or_else(|| Err("the node does not run".to_owned()));
        match counted.map(|counted| counted.wrong) {
            Ok(wrong) if wrong.is_empty() => return Ok(()),
            wrong if stage.shared.trace.now() > end => {
                return Err(format!("the census finds {wrong:?}"));
            }
            _ => sleep(Duration::from_millis(500)).await,
        }
    }
}

/// What belongs to nothing is gone soon: where nothing went wrong, nothing has to be looked for.
async fn nothing_is_left(stage: &Stage) -> Result<(), String> {
    let end = stage.shared.trace.now() + HEALING_MAX / 2;
    loop {
        let left = stage.world.at(0, |node| {
            Box::pin(async move { census::leftovers(&node).await })
        });
        let left = left
            .await
            .unwrap_or_else(|| Err("the node does not run".to_owned()));
        match left {
            Ok(left) if left.is_empty() => return Ok(()),
            left if stage.shared.trace.now() > end => {
                return Err(format!("what belongs to nothing is left: {left:?}"));
            }
            _ => sleep(Duration::from_millis(500)).await,
        }
    }
}

/// Whether each key's history is linearizable.
fn judge(shared: &Shared) -> usize {
    let mut undecided = 0;
    for (key, history) in shared.histories() {
        match linearizable::check(&history) {
            Ok(()) => {}
            Err(Verdict::TooHard) => undecided += 1,
            Err(verdict) => shared.violated(format!("key {key}: {verdict}")),
        }
    }
    undecided
}
