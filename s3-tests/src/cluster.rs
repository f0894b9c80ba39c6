//! A cluster of real processes on this machine. `deploy/local-cluster` starts and stops it, for tests as for people;
//! here is only what a test says to that script, and clients on each of its endpoints.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::Client;
use crate::request::{Keys, Request};
use crate::scratch::Scratch;
use crate::server::{binary, plain_get};

/// How long a cluster may take until all is well again after a fault has ended: far longer than it should, since the
/// machine may be busy.
pub const RECOVERY: Duration = Duration::from_secs(300);

/// How many nodes a cluster of the tests has, unless `HOLDFAST_TEST_NODES` says otherwise.
const NODES: usize = 3;

/// Clusters of one test process run one after the other: they share two cores.
static TURN: Mutex<()> = Mutex::new(());

/// Number of nodes that the tests start.
pub fn nodes() -> usize {
    number("HOLDFAST_TEST_NODES", NODES as u64) as usize
}

/// A number from the environment, `otherwise` if it is not set.
pub fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is a number"))
    })
}

/// Prints a result that people want to see of a test that passes too: past what `cargo test` captures.
pub fn report(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "##### {line}");
}

/// What to start.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    pub nodes: usize,
    /// Drives a node.
    pub drives: usize,
    /// Nodes in network namespaces, which `cut` needs.
    pub netns: bool,
}

impl ClusterOptions {
    pub fn new(nodes: usize) -> Self {
        Self {
            nodes,
            drives: 2,
            netns: false,
        }
    }

    pub fn drives(mut self, drives: usize) -> Self {
        self.drives = drives;
        self
    }

    pub fn netns(mut self, netns: bool) -> Self {
        self.netns = netns;
        self
    }
}

/// Whether network namespaces can be made here: by root, where the kernel lets it.
pub fn has_netns() -> bool {
    let name = format!("hf-test-{}", std::process::id());
    let ip = |verb: &str| {
        Command::new("ip")
            .args(["netns", verb, &name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    ip("add") && ip("delete")
}

/// A running cluster; nodes count from 1, as in the script. Gone when dropped; prints the nodes' logs if the test is
/// failing.
pub struct Cluster {
    scratch: Scratch,
    netns: bool,
    keys: Keys,
    addresses: Vec<SocketAddr>,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Starts a cluster in a directory whose name begins with `name`, and waits until it is ready.
    pub fn up(name: &str, options: &ClusterOptions) -> Self {
        let turn = TURN.lock().unwrap_or_else(|failed| failed.into_inner());
        let mut cluster = Self {
            scratch: Scratch::new(name),
            netns: options.netns,
            keys: Keys::for_tests(),
            addresses: Vec::new(),
            _turn: turn,
        };
        let (nodes, drives) = (options.nodes.to_string(), options.drives.to_string());
        let mut arguments = vec!["up", "--nodes", &nodes, "--drives", &drives];
        if options.netns {
            arguments.push("--netns");
        }
        let started = Instant::now();
        cluster.run(&arguments);
        cluster.read_env();
        report(&format!(
            "{name}: {} nodes with {drives} drives each are ready after {:.1?}",
            options.nodes,
            started.elapsed()
        ));
        cluster
    }

    /// Adds nodes until there are `nodes`, and waits until all is well.
    pub fn grow(&mut self, nodes: usize) {
        let started = Instant::now();
        self.run(&["up", "--nodes", &nodes.to_string()]);
        self.read_env();
        report(&format!(
            "{nodes} nodes are ready after {:.1?}",
            started.elapsed()
        ));
    }

    pub fn nodes(&self) -> usize {
        self.addresses.len()
    }

    pub fn has_cut(&self) -> bool {
        self.netns
    }

    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Where the nodes serve S3, node 1 first.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub fn address(&self, node: usize) -> SocketAddr {
        self.addresses[node - 1]
    }

    /// A client of one node.
    pub fn client(&self, node: usize) -> Client {
        Client::new(self.address(node), self.keys.clone())
    }

    /// A client of each node.
    pub fn clients(&self) -> Vec<Client> {
        (1..=self.nodes()).map(|node| self.client(node)).collect()
    }

    /// SIGKILL.
    pub fn kill(&self, node: usize) {
        self.run(&["kill", &node.to_string()]);
    }

    /// SIGSTOP.
    pub fn pause(&self, node: usize) {
        self.run(&["pause", &node.to_string()]);
    }

    /// The opposite of `kill` and of `pause`.
    pub fn start(&self, node: usize) {
        self.run(&["start", &node.to_string()]);
    }

    /// No packet between this node and anybody else until `heal`.
    pub fn cut(&self, node: usize) {
        self.run(&["cut", &node.to_string()]);
    }

    /// Undoes every `cut`.
    pub fn heal(&self) {
        self.run(&["heal"]);
    }

    /// Whether `node` says that it can serve its part.
    pub fn is_ready(&self, node: usize) -> bool {
        plain_get(self.address(node), "/-/ready").is_ok_and(|answer| answer.status == 200)
    }

    /// Waits until every node says that it is ready.
    pub fn wait_ready(&self) {
        let deadline = Instant::now() + RECOVERY;
        for node in 1..=self.nodes() {
            while !self.is_ready(node) {
                assert!(
                    Instant::now() < deadline,
                    "node {node} is not ready {RECOVERY:?} after the fault"
                );
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// `/-/status` of a node as JSON; `None` if it does not answer with one.
    pub fn status(&self, node: usize) -> Option<Value> {
        let mut client = self.client(node).deadline(Duration::from_secs(10));
        let answer = client.send(&Request::get("/-/status")).ok()?;
        (answer.status == 200).then(|| serde_json::from_slice(&answer.body).expect("JSON"))
    }

    /// Waits until every node is ready and calls the cluster healthy and settled. Returns how long that took.
    pub fn wait_healthy(&self) -> Duration {
        let started = Instant::now();
        loop {
            let statuses: Vec<Option<Value>> =
                (1..=self.nodes()).map(|node| self.status(node)).collect();
            let ready = (1..=self.nodes()).all(|node| self.is_ready(node));
            if ready
                && statuses
                    .iter()
                    .all(|status| status.as_ref().is_some_and(is_well))
            {
                return started.elapsed();
            }
            assert!(
                started.elapsed() < RECOVERY,
                "not healthy after {RECOVERY:?}; ready: {ready}, problems: {:?}",
                statuses
                    .iter()
                    .map(|status| status.as_ref().map(|status| (
                        &status["healthy"],
                        &status["problems"],
                        &status["ring"]
                    )))
                    .collect::<Vec<_>>()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What node `node` has printed.
    pub fn log(&self, node: usize) -> String {
        let path = self.dir().join(format!("node-{node}/log"));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// The directory of a node: its data directory, its drives and what it prints.
    pub fn home(&self, node: usize) -> PathBuf {
        self.dir().join(format!("node-{node}"))
    }

    /// The directories of a node's drives.
    pub fn drives(&self, node: usize) -> Vec<PathBuf> {
        let within = self.home(node);
        let mut drives: Vec<PathBuf> = std::fs::read_dir(&within)
            .expect("the node's directory")
            .map(|entry| entry.expect("an entry").path())
            .flat_map(|path| [path.join("drive"), path])
            .filter(|path| path.join("drive.json").is_file())
            .collect();
        drives.sort();
        drives
    }

    fn dir(&self) -> PathBuf {
        self.scratch.join("cluster")
    }

    fn run(&self, arguments: &[&str]) {
        if let Err(why) = self.try_run(arguments) {
            panic!("local-cluster {}: {why}", arguments.join(" "));
        }
    }

    fn try_run(&self, arguments: &[&str]) -> Result<(), String> {
        let output = Command::new(script())
            .args(arguments)
            .arg("--dir")
            .arg(self.dir())
            .env("HOLDFAST_BIN", binary())
            .env_remove("HOLDFAST_ROOT_ACCESS_KEY")
            .env_remove("HOLDFAST_ROOT_SECRET_KEY")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Takes keys and endpoints from what the script left.
    fn read_env(&mut self) {
        let text = std::fs::read_to_string(self.dir().join("cluster.env")).expect("cluster.env");
        let value = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(&format!("{name}=")))
                .unwrap_or_else(|| panic!("cluster.env has no {name}"))
                .trim_matches('"')
                .to_owned()
        };
        self.keys = Keys {
            access: value("AWS_ACCESS_KEY_ID"),
            secret: value("AWS_SECRET_ACCESS_KEY"),
        };
        self.addresses = value("ENDPOINTS")
            .split(' ')
            .map(|endpoint| {
                let address = endpoint.strip_prefix("http://").expect("http://");
                address.parse().expect("an address and a port")
            })
            .collect();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in 1..=self.nodes().max(1) {
                let log = self.log(node);
                let tail: Vec<&str> = log.lines().rev().take(60).collect();
                println!("--- the end of what node {node} printed:");
                for line in tail.iter().rev() {
                    println!("{line}");
                }
            }
            println!("---");
        }
        let kept = std::env::var_os("HOLDFAST_TEST_KEEP").is_some();
        let down: &[&str] = if kept { &["down", "--keep"] } else { &["down"] };
        if let Err(why) = self.try_run(down) {
            println!("local-cluster down: {why}");
        }
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/local-cluster")
}

/// Whether a status says that nothing is wrong, every group has its voters, and nothing is moving.
fn is_well(status: &Value) -> bool {
    status["healthy"] == true && status["absorbed"] == true && status["ring"]["settled"] != false
}
