//! Linearizability: clients write, write on conditions, delete, read and list a few keys through all gateways while nodes
//! are killed, paused and cut off. What each was told, and when, is checked key by key.
//!
//! `HOLDFAST_TEST_HISTORIES`: how many histories (12), each on new keys and with a fault of its own.
//! `HOLDFAST_TEST_SEED` replays the choices, not how processes and threads interleave.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

use holdfast_s3_tests::cluster::{has_netns, nodes, number, report};
use holdfast_s3_tests::content::md5_hex;
use holdfast_s3_tests::liar::{self, Lie};
use holdfast_s3_tests::linearizable::{Action, Operation, Outcome, Value, Verdict, check};
use holdfast_s3_tests::traffic::OUTAGE;
use holdfast_s3_tests::{Client, Cluster, ClusterOptions, Content, Keys, Request, Response, Seed};

const BUCKET: &str = "bucket";
const CLIENTS: u64 = 9;
const KEYS: usize = 5;

/// Operations on one key, spread over the time of a history: bounds what the checker has to do.
const OPERATIONS_MAX: usize = 500;

/// How long a client waits for an answer before it calls the outcome unknown: a node may be paused for longer.
const PATIENCE: Duration = Duration::from_millis(2500);

/// When a fault begins and ends, after the clients have begun; and when they end.
const FAULT_BEGINS: Duration = Duration::from_millis(600);
const FAULT_ENDS: Duration = Duration::from_millis(2400);
const CLIENTS_END: Duration = Duration::from_millis(3600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Kill,
    Pause,
    Cut,
}

/// All that is known of one history.
struct History {
    name: String,
    began: Instant,
    keys: Vec<Mutex<Vec<Operation>>>,
    /// By ETag, put here before it is written.
    values: RwLock<HashMap<String, Value>>,
    next_value: AtomicU64,
}

impl History {
    fn new(name: String) -> Self {
        Self {
            name,
            began: Instant::now(),
            keys: (0..KEYS).map(|_| Mutex::new(Vec::new())).collect(),
            values: RwLock::new(HashMap::new()),
            next_value: AtomicU64::new(0),
        }
    }

    fn key(&self, index: usize) -> String {
        format!("{}/{index}", self.name)
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// A body that nobody has written, and its number.
    fn draw_value(&self, seed: &mut Seed) -> (Value, Vec<u8>) {
        let len = match seed.within(0..20) {
            0..17 => seed.within(8..2_000),
            17 | 18 => seed.within(33_000..100_000),
            _ => seed.within(300_000..1_000_000),
        };
        let body = Content::new(seed.draw(), len).bytes();
        let value = self.next_value.fetch_add(1, Ordering::Relaxed);
        let mut values = self.values.write().expect("values");
        let known = values.insert(etag_of(&body), value);
        assert!(known.is_none(), "two bodies have the same ETag");
        (value, body)
    }

    /// Number of the value with this ETag; wrong data if nobody wrote it.
    fn value_of(&self, etag: &str) -> Value {
        let values = self.values.read().expect("values");
        *values
            .get(etag)
            .unwrap_or_else(|| panic!("{}: nobody wrote an object with ETag {etag}", self.name))
    }

    fn record(&self, key: usize, operation: Operation) {
        self.keys[key].lock().expect("operations").push(operation);
    }
}

fn etag_of(body: &[u8]) -> String {
    format!("\"{}\"", md5_hex(body))
}

/// One client: it talks to every gateway, and asks one after the other.
struct Actor<'a> {
    client: u64,
    gateways: Vec<Client>,
    seed: Seed,
    history: &'a History,
    /// Value and ETag that it saw last in each key.
    seen: Vec<Option<(Value, String)>>,
}

impl<'a> Actor<'a> {
    fn new(client: u64, gateways: Vec<Client>, seed: &Seed, history: &'a History) -> Self {
        Self {
            client,
            gateways,
            seed: seed.fork(client),
            history,
            seen: vec![None; KEYS],
        }
    }

    fn act(&mut self) {
        let key = self.seed.within(0..KEYS as u64) as usize;
        let gateway = self.seed.within(0..self.gateways.len() as u64) as usize;
        let due = OPERATIONS_MAX as f64 * self.history.began.elapsed().as_secs_f64()
            / CLIENTS_END.as_secs_f64();
        if self.history.keys[key].lock().expect("operations").len() as f64 > due {
            std::thread::sleep(Duration::from_millis(2));
            return;
        }
        let told = match self.seed.within(0..100) {
            0..20 => self.put(gateway, key, None),
            20..35 => self.put(gateway, key, Some(false)),
            35..50 => self.put(gateway, key, Some(true)),
            50..60 => self.delete(gateway, key),
            60..80 => self.read(gateway, key, "GET"),
            80..90 => self.read(gateway, key, "HEAD"),
            _ => self.list(gateway),
        };
        if !told {
            // As clients do: who is refused waits a moment.
            std::thread::sleep(Duration::from_millis(self.seed.within(20..120)));
        }
    }

    fn target(&self, key: usize) -> String {
        format!("/{BUCKET}/{}", self.history.key(key))
    }

    /// A write: without a condition, or `If-Match` of what was seen last (`Some(true)`), or `If-None-Match: *`.
    /// Whether there was a clear answer.
    fn put(&mut self, gateway: usize, key: usize, condition: Option<bool>) -> bool {
        let (value, body) = self.history.draw_value(&mut self.seed);
        let etag = etag_of(&body);
        let mut request = Request::put(&self.target(key)).body(body);
        let action = match (condition, &self.seen[key]) {
            (None, _) => Action::Put(value),
            (Some(true), Some((expected, seen))) => {
                request = request.header("if-match", seen);
                Action::PutIfMatch {
                    expected: *expected,
                    value,
                }
            }
            _ => {
                request = request.header("if-none-match", "*");
                Action::PutIfAbsent(value)
            }
        };
        let told = self.write(gateway, key, action, &request);
        if told == Some(Outcome::Done) {
            self.seen[key] = Some((value, etag));
        }
        told.is_some()
    }

    fn delete(&mut self, gateway: usize, key: usize) -> bool {
        let request = Request::delete(&self.target(key));
        self.write(gateway, key, Action::Delete, &request).is_some()
    }

    /// Sends a write and records it. Its outcome, if there was a clear answer.
    fn write(
        &mut self,
        gateway: usize,
        key: usize,
        action: Action,
        request: &Request,
    ) -> Option<Outcome> {
        let called = self.history.now();
        let answer = self.gateways[gateway].send(request);
        let returned = self.history.now();
        let outcome = outcome_of(action, &answer)?;
        self.history.record(
            key,
            Operation {
                client: self.client,
                action,
                outcome,
                called,
                returned,
            },
        );
        (outcome != Outcome::Unknown).then_some(outcome)
    }

    /// GET or HEAD. Whether there was an answer.
    fn read(&mut self, gateway: usize, key: usize, method: &str) -> bool {
        let request = Request::new(method, &self.target(key));
        let called = self.history.now();
        let Ok(answer) = self.gateways[gateway].send(&request) else {
            return false;
        };
        let returned = self.history.now();
        let seen = match answer.status {
            404 => None,
            200 => {
                let etag = answer
                    .get("etag")
                    .expect("an object has an ETag")
                    .to_owned();
                if method == "GET" {
                    assert_eq!(etag, etag_of(&answer.body), "wrong data: {request:?}");
                }
                Some((self.history.value_of(&etag), etag))
            }
            500.. => return false,
            _ => panic!("{request:?}: {answer:?}"),
        };
        self.saw(key, seen, called, returned);
        true
    }

    /// A LIST is a read of every key.
    fn list(&mut self, gateway: usize) -> bool {
        let prefix = format!("{}/", self.history.name);
        let request = Request::get(&format!("/{BUCKET}?list-type=2&prefix={prefix}"));
        let called = self.history.now();
        let Ok(answer) = self.gateways[gateway].send(&request) else {
            return false;
        };
        let returned = self.history.now();
        match answer.status {
            200 => {}
            500.. => return false,
            _ => panic!("{request:?}: {answer:?}"),
        }
        let listed: HashMap<String, String> = answer
            .elements("Key")
            .into_iter()
            .zip(answer.elements("ETag"))
            .collect();
        for key in 0..KEYS {
            let etag = listed.get(&self.history.key(key));
            let seen = etag.map(|etag| (self.history.value_of(etag), etag.clone()));
            self.saw(key, seen, called, returned);
        }
        true
    }

    fn saw(&mut self, key: usize, seen: Option<(Value, String)>, called: u64, returned: u64) {
        self.history.record(
            key,
            Operation {
                client: self.client,
                action: Action::Read,
                outcome: Outcome::Saw(seen.as_ref().map(|(value, _)| *value)),
                called,
                returned,
            },
        );
        self.seen[key] = seen;
    }
}

/// What the answer to a write says; `None` if it certainly did not happen, for a reason that says nothing of the key.
fn outcome_of(action: Action, answer: &io::Result<Response>) -> Option<Outcome> {
    let answer = match answer {
        Ok(answer) => answer,
        // Nothing was sent.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return None,
        Err(_) => return Some(Outcome::Unknown),
    };
    let is_conditional = matches!(action, Action::PutIfAbsent(_) | Action::PutIfMatch { .. });
    match answer.status {
        200 | 204 => Some(Outcome::Done),
        412 if is_conditional => Some(Outcome::ConditionFailed),
        404 if matches!(action, Action::PutIfMatch { .. }) => Some(Outcome::NothingThere),
        409 if is_conditional => None,
        500.. => Some(Outcome::Unknown),
        _ => panic!("{action:?}: {answer:?}"),
    }
}

/// One history with a fault in its midst.
fn run(cluster: &Cluster, name: String, fault: Fault, node: usize, seed: &Seed) -> History {
    let history = History::new(name);
    let stop = AtomicBool::new(false);
    let actor = |client: u64| {
        let gateways = cluster.clients().into_iter();
        let gateways = gateways.map(|gateway| gateway.deadline(PATIENCE)).collect();
        Actor::new(client, gateways, seed, &history)
    };
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (mut actor, stop) = (actor(client), &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    actor.act();
                }
            });
        }
        let wait_until = |moment: Duration| {
            std::thread::sleep(moment.saturating_sub(history.began.elapsed()));
        };
        wait_until(FAULT_BEGINS);
        match fault {
            Fault::None => {}
            Fault::Kill => cluster.kill(node),
            Fault::Pause => cluster.pause(node),
            Fault::Cut => cluster.cut(node),
        }
        wait_until(FAULT_ENDS);
        match fault {
            Fault::None => {}
            Fault::Kill | Fault::Pause => cluster.start(node),
            Fault::Cut => cluster.heal(),
        }
        wait_until(CLIENTS_END);
        stop.store(true, Ordering::Relaxed);
    });
    cluster.wait_ready();
    // What every gateway shows in the end belongs to the history.
    let mut last = actor(CLIENTS);
    for gateway in 0..cluster.nodes() {
        for key in 0..KEYS {
            let deadline = Instant::now() + OUTAGE;
            while !last.read(gateway, key, "GET") {
                assert!(
                    Instant::now() < deadline,
                    "gateway {} does not answer after the fault",
                    gateway + 1
                );
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
    drop(last);
    history
}

#[test]
fn every_history_is_linearizable() {
    let mut seed = Seed::for_test("cluster-history");
    let netns = has_netns();
    let mut faults = vec![Fault::Kill, Fault::Pause];
    if netns {
        faults.push(Fault::Cut);
    } else {
        report("SKIPPED: partitions in cluster_history need root and network namespaces");
    }
    let options = ClusterOptions::new(nodes()).netns(netns);
    let cluster = Cluster::up("cluster-history", &options);
    cluster.client(1).create_bucket(BUCKET);
    let started = Instant::now();
    let histories = number("HOLDFAST_TEST_HISTORIES", 12);
    let (mut operations, mut unknown) = (0, 0);
    for index in 0..histories {
        let fault = match index as usize % (faults.len() + 1) {
            0 => Fault::None,
            which => faults[which - 1],
        };
        let node = seed.within(1..cluster.nodes() as u64 + 1) as usize;
        let history = run(
            &cluster,
            format!("history-{index:03}"),
            fault,
            node,
            &seed.fork(index),
        );
        for (key, recorded) in history.keys.iter().enumerate() {
            let recorded = recorded.lock().expect("operations");
            operations += recorded.len();
            unknown += recorded
                .iter()
                .filter(|operation| operation.outcome == Outcome::Unknown)
                .count();
            if let Err(verdict) = check(&recorded) {
                panic!("{} ({fault:?} of node {node}): {verdict}", history.key(key));
            }
        }
        report(&format!(
            "{}: {fault:?} of node {node}, {} operations",
            history.name,
            history
                .keys
                .iter()
                .map(|key| key.lock().expect("operations").len())
                .sum::<usize>()
        ));
    }
    report(&format!(
        "cluster-history: {histories} histories, {operations} operations, {unknown} without an answer, all linearizable; {:.1?}",
        started.elapsed()
    ));
}

/// The same clients and the same judge, with a gateway that lies once in three times.
fn verdicts_on(lie: Lie, seed: &Seed) -> Vec<Result<(), Verdict>> {
    let history = History::new(format!("{lie:?}"));
    let address = liar::start(lie, seed.fork(1000));
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let gateways = vec![Client::new(address, Keys::for_tests())];
            let mut actor = Actor::new(client, gateways, seed, &history);
            scope.spawn(move || {
                while actor.history.began.elapsed() < Duration::from_millis(1200) {
                    actor.act();
                }
            });
        }
    });
    let recorded = history.keys.iter();
    recorded
        .map(|key| check(&key.lock().expect("operations")))
        .collect()
}

#[test]
fn every_kind_of_lie_is_found() {
    let seed = Seed::for_test("lies");
    for (index, lie) in [
        Lie::None,
        Lie::StaleRead,
        Lie::LostWrite,
        Lie::LostDelete,
        Lie::ConditionIgnored,
        Lie::DoneTwice,
    ]
    .into_iter()
    .enumerate()
    {
        let verdicts = verdicts_on(lie, &seed.fork(index as u64));
        assert!(!verdicts.contains(&Err(Verdict::TooHard)), "{lie:?}");
        let wrong = verdicts.iter().filter(|verdict| verdict.is_err()).count();
        println!("{lie:?}: {wrong} of {KEYS} keys are not linearizable");
        assert_eq!(wrong > 0, lie != Lie::None, "{lie:?}: {verdicts:?}");
    }
}

/// An answer of 503 says nothing, a refused connection says that nothing happened, and what it says otherwise counts.
#[test]
fn answers_are_read_right() {
    let answer = |status| {
        Ok(Response {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        })
    };
    let put = Action::Put(1);
    let absent = Action::PutIfAbsent(1);
    let swap = Action::PutIfMatch {
        expected: 1,
        value: 2,
    };
    assert_eq!(outcome_of(put, &answer(200)), Some(Outcome::Done));
    assert_eq!(outcome_of(put, &answer(503)), Some(Outcome::Unknown));
    assert_eq!(outcome_of(put, &answer(500)), Some(Outcome::Unknown));
    assert_eq!(
        outcome_of(absent, &answer(412)),
        Some(Outcome::ConditionFailed)
    );
    assert_eq!(outcome_of(absent, &answer(409)), None);
    assert_eq!(outcome_of(swap, &answer(404)), Some(Outcome::NothingThere));
    let failed = |kind| Err(io::Error::from(kind));
    assert_eq!(
        outcome_of(put, &failed(io::ErrorKind::ConnectionRefused)),
        None
    );
    for kind in [
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::TimedOut,
        io::ErrorKind::WouldBlock,
    ] {
        assert_eq!(outcome_of(put, &failed(kind)), Some(Outcome::Unknown));
    }
    assert!(std::panic::catch_unwind(|| outcome_of(put, &answer(412))).is_err());
}
