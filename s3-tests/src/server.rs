//! A server process: start, wait until it is ready, stop, kill, look at its memory.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::client::Client;
use crate::connection::{Connection, Response};
use crate::request::{Keys, Request};

/// How long a server may take until `/-/ready` says 200: far longer than it should, since the machine may be busy.
pub const READY_DEADLINE: Duration = Duration::from_secs(90);

/// How long a server may take to exit after SIGTERM.
pub const EXIT_DEADLINE: Duration = Duration::from_secs(60);

/// The binary under test.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("HOLDFAST_BIN") {
        return PathBuf::from(path);
    }
    let test = std::env::current_exe().expect("path of this test");
    let mut dir = test.parent();
    while let Some(at) = dir {
        let candidate = at.join("holdfast");
        if candidate.is_file() {
            return candidate;
        }
        dir = at.parent();
    }
    panic!(
        "no holdfast binary beside {}: build the workspace, or set HOLDFAST_BIN",
        test.display()
    );
}

/// Whether there is one: else the tests say that they could not run, as failures.
pub fn command() -> Command {
    let mut command = Command::new(binary());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
        .env_remove("HOLDFAST_ROOT_ACCESS_KEY")
        .env_remove("HOLDFAST_ROOT_SECRET_KEY");
    command
}

/// What to start.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// `serve`, `storage-node` or `placement`.
    pub role: String,
    pub data: PathBuf,
    pub drives: Vec<PathBuf>,
    pub domain: Option<String>,
    /// As given to `--memory-budget`.
    pub memory_budget: Option<String>,
    /// Given by environment; `None`: the server makes its own, and they are read from what it prints.
    pub keys: Option<Keys>,
    /// More arguments.
    pub arguments: Vec<OsString>,
    /// More environment variables.
    pub environment: Vec<(String, String)>,
}

impl ServerOptions {
    /// One drive in `data`, keys that the tests know.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            role: "serve".to_owned(),
            data: data.into(),
            drives: Vec::new(),
            domain: None,
            memory_budget: None,
            keys: Some(Keys::for_tests()),
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// As a node of its own, in another role.
    pub fn role(mut self, role: &str) -> Self {
        role.clone_into(&mut self.role);
        self
    }

    pub fn drives(mut self, drives: &[PathBuf]) -> Self {
        self.drives = drives.to_vec();
        self
    }

    pub fn domain(mut self, domain: &str) -> Self {
        self.domain = Some(domain.to_owned());
        self
    }

    pub fn memory_budget(mut self, budget: &str) -> Self {
        self.memory_budget = Some(budget.to_owned());
        self
    }

    pub fn own_keys(mut self) -> Self {
        self.keys = None;
        self
    }

    /// The command line that starts it.
    pub fn command(&self) -> Command {
        let mut command = command();
        command.arg(&self.role).arg("--data").arg(&self.data);
        for drive in &self.drives {
            command.arg("--drive").arg(drive);
        }
        command.arg("--listen").arg("127.0.0.1:0");
        if let Some(domain) = &self.domain {
            command.arg("--domain").arg(domain);
        }
        if let Some(budget) = &self.memory_budget {
            command.arg("--memory-budget").arg(budget);
        }
        if let Some(keys) = &self.keys {
            command
                .env("HOLDFAST_ROOT_ACCESS_KEY", &keys.access)
                .env("HOLDFAST_ROOT_SECRET_KEY", &keys.secret);
        }
        command.args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// Why a server did not come up.
#[derive(Debug)]
pub struct StartError {
    pub why: String,
    /// How it exited, if it did.
    pub status: Option<ExitStatus>,
    /// All that it printed.
    pub log: String,
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} ({:?}); it printed:\n{}",
            self.why, self.status, self.log
        )
    }
}

/// A running server. Killed when dropped; prints its log if the test is failing.
pub struct Server {
    child: Child,
    address: SocketAddr,
    keys: Keys,
    log: Arc<Log>,
    readers: Vec<JoinHandle<()>>,
    options: ServerOptions,
}

impl Server {
    /// Starts a server and waits until it is ready. Panics with its output if it does not come up.
    pub fn start(options: &ServerOptions) -> Self {
        match Self::try_start(options) {
            Ok(server) => server,
            Err(error) => panic!("the server did not start: {error}"),
        }
    }

    /// Starts a server and waits until it is ready.
    pub fn try_start(options: &ServerOptions) -> Result<Self, StartError> {
        let failed = |why: &str, status, log: &Log| StartError {
            why: why.to_owned(),
            status,
            log: log.text(),
        };
        let log = Arc::new(Log::default());
        let mut child = match options.command().spawn() {
            Ok(child) => child,
            Err(error) => {
                return Err(failed(
                    &format!("cannot run {}: {error}", binary().display()),
                    None,
                    &log,
                ));
            }
        };
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            readers.push(log.collect(stdout));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(log.collect(stderr));
        }
        let deadline = Instant::now() + READY_DEADLINE;
        let mut give_up = |mut child: Child, why: &str| {
            let status = child.try_wait().ok().flatten();
            let _ = child.kill();
            let _ = child.wait();
            for reader in readers.drain(..) {
                let _ = reader.join();
            }
            Err(failed(why, status, &log))
        };
        let address = loop {
            if let Some(address) = log.address() {
                break address;
            }
            if matches!(child.try_wait(), Ok(Some(_))) {
                return give_up(child, "it exited before it printed its endpoint");
            }
            if Instant::now() > deadline {
                return give_up(child, "it printed no endpoint in time");
            }
            log.wait(Duration::from_millis(5));
        };
        loop {
            if let Ok(response) = plain_get(address, "/-/ready")
                && response.status == 200
            {
                break;
            }
            if matches!(child.try_wait(), Ok(Some(_))) {
                return give_up(child, "it exited before it was ready");
            }
            if Instant::now() > deadline {
                return give_up(child, "it was not ready in time");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let keys = loop {
            if let Some(keys) = options.keys.clone().or_else(|| printed_keys(&log.text())) {
                break keys;
            }
            if Instant::now() > deadline {
                return give_up(child, "it printed no keys");
            }
            log.wait(Duration::from_millis(5));
        };
        Ok(Self {
            child,
            address,
            keys,
            log,
            readers,
            options: options.clone(),
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:PORT`
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it has printed.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// A client with one connection.
    pub fn client(&self) -> Client {
        Client::new(self.address, self.keys.clone())
    }

    /// `/-/status` as JSON.
    pub fn status(&self) -> Value {
        let response = self
            .client()
            .send(&Request::get("/-/status"))
            .expect("GET /-/status");
        assert_eq!(response.status, 200, "GET /-/status: {response:?}");
        serde_json::from_slice(&response.body).expect("status is JSON")
    }

    /// Waits until `condition` holds for the status; panics after `within`.
    pub fn wait_for_status(
        &self,
        what: &str,
        within: Duration,
        condition: impl Fn(&Value) -> bool,
    ) -> Value {
        let deadline = Instant::now() + within;
        loop {
            let status = self.status();
            if condition(&status) {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "status did not become {what} within {within:?}: {status:#}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Whether the process runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.join_readers();
    }

    /// SIGTERM, without waiting.
    pub fn ask_to_stop(&self) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process id is not zero");
        kill_process(pid, Signal::TERM).expect("send SIGTERM");
    }

    /// Waits for the process to exit; panics when it takes longer than `EXIT_DEADLINE`.
    pub fn wait(&mut self) -> ExitStatus {
        let status = wait_with_deadline(&mut self.child, EXIT_DEADLINE).unwrap_or_else(|| {
            panic!(
                "the server did not exit within {EXIT_DEADLINE:?}:\n{}",
                self.log()
            )
        });
        self.join_readers();
        status
    }

    /// SIGTERM, and waits.
    pub fn stop(&mut self) -> ExitStatus {
        self.ask_to_stop();
        self.wait()
    }

    /// Starts again with the same options after the process is gone. Its port may be another.
    pub fn restart(&mut self) {
        assert!(!self.is_alive(), "restart of a running server");
        let options = self.options.clone();
        *self = Self::start(&options);
    }

    /// As `restart`, when it may fail.
    pub fn try_restart(&mut self) -> Result<(), StartError> {
        assert!(!self.is_alive(), "restart of a running server");
        let options = self.options.clone();
        *self = Self::try_start(&options)?;
        Ok(())
    }

    /// Peak resident memory, bytes (`VmHWM` of proc(5)).
    pub fn peak_rss(&self) -> u64 {
        memory_of(self.child.id(), "VmHWM:")
    }

    /// Resident memory now, bytes (`VmRSS` of proc(5)).
    pub fn rss(&self) -> u64 {
        memory_of(self.child.id(), "VmRSS:")
    }

    fn join_readers(&mut self) {
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log.text();
            let tail: Vec<&str> = log.lines().rev().take(200).collect();
            println!("--- the end of what the server printed:");
            for line in tail.iter().rev() {
                println!("{line}");
            }
            println!("---");
        }
    }
}

/// Waits for `child`; `None` if it still runs after `within`.
pub fn wait_with_deadline(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait().expect("wait for the server") {
            return Some(status);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An unsigned GET on a connection of its own.
pub fn plain_get(address: SocketAddr, target: &str) -> std::io::Result<Response> {
    let mut connection = Connection::open(address)?;
    connection.write(
        format!("GET {target} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes(),
    )?;
    connection.read_response("GET")
}

fn memory_of(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"))
        .expect("read the server's /proc/PID/status");
    let line = status
        .lines()
        .find(|line| line.starts_with(field))
        .expect("the field is in /proc/PID/status");
    let kib: u64 = line[field.len()..]
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .expect("a number of kB");
    kib * 1024
}

/// The keys in a start-up banner: the words after "access key" and "secret".
fn printed_keys(log: &str) -> Option<Keys> {
    // A line that is still being written has no end yet.
    let (log, _) = log.rsplit_once('\n')?;
    let value_after = |label: &str| {
        log.lines().find_map(|line| {
            let lower = line.to_lowercase();
            let at = lower.find(label)? + label.len();
            let rest = line[at..].trim_start_matches([' ', ':', '=', '\t']);
            rest.split_whitespace().next().map(str::to_owned)
        })
    };
    let access = value_after("access key id").or_else(|| value_after("access key"))?;
    let secret = value_after("secret access key")
        .or_else(|| value_after("secret key"))
        .or_else(|| value_after("secret"))?;
    Some(Keys { access, secret })
}

#[derive(Default)]
struct Log {
    text: Mutex<String>,
    grew: Condvar,
}

impl Log {
    fn collect(self: &Arc<Self>, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let log = self.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(n) if n > 0) {
                log.text
                    .lock()
                    .expect("log")
                    .push_str(&String::from_utf8_lossy(&line));
                log.grew.notify_all();
                line.clear();
            }
            log.grew.notify_all();
        })
    }

    fn wait(&self, at_most: Duration) {
        let text = self.text.lock().expect("log");
        let _ = self.grew.wait_timeout(text, at_most);
    }

    fn text(&self) -> String {
        self.text.lock().expect("log").clone()
    }

    /// The first `http://IP:PORT` printed.
    fn address(&self) -> Option<SocketAddr> {
        let text = self.text.lock().expect("log");
        text.split("http://").skip(1).find_map(|rest| {
            let end = rest
                .find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'))
                .unwrap_or(rest.len());
            // A line that is still being written has no end yet.
            (end < rest.len())
                .then(|| rest[..end].parse().ok())
                .flatten()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Log, printed_keys};

    #[test]
    fn the_endpoint_is_found_once_its_line_is_whole() {
        let log = Log::default();
        log.text
            .lock()
            .expect("log")
            .push_str("S3 endpoint  http://127.0.0.1:43");
        assert_eq!(log.address(), None);
        log.text.lock().expect("log").push_str("210\n");
        assert_eq!(log.address(), "127.0.0.1:43210".parse().ok());
    }

    #[test]
    fn keys_are_found_in_a_banner() {
        let keys = printed_keys("S3 endpoint: x\n  Access key:  HF123\n  Secret key:  a/b+c\n")
            .expect("keys");
        assert_eq!(
            (keys.access.as_str(), keys.secret.as_str()),
            ("HF123", "a/b+c")
        );
    }
}
