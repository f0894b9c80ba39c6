//! Traffic over all gateways of a cluster, as clients make it that know every endpoint: what one gateway does not answer
//! is asked of the next. Every acknowledged write is remembered, and how long anybody had to wait.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::{Client, Fetched};
use crate::connection::Response;
use crate::content::{Content, Seed};
use crate::request::Keys;

/// How long one attempt waits for a byte of an answer.
pub const ATTEMPT: Duration = Duration::from_secs(8);

/// How long an operation may go on failing at every gateway before a test calls it an outage.
pub const OUTAGE: Duration = Duration::from_secs(60);

/// A client of all gateways that stays with one until it fails.
pub struct Roamer {
    clients: Vec<Client>,
    at: usize,
}

/// An operation that was repeated until it succeeded.
#[derive(Debug)]
pub struct Persisted<T> {
    pub answer: T,
    /// Attempts that failed before, without saying whether anything happened.
    pub failed: u64,
    /// From the first attempt on.
    pub took: Duration,
}

impl Roamer {
    /// Begins with gateway `first`, modulo their number.
    pub fn new(addresses: &[SocketAddr], keys: &Keys, first: usize) -> Self {
        let clients: Vec<Client> = addresses
            .iter()
            .map(|address| Client::new(*address, keys.clone()).deadline(ATTEMPT))
            .collect();
        let at = first % clients.len();
        Self { clients, at }
    }

    /// The client of the gateway that it is at.
    pub fn client(&mut self) -> &mut Client {
        &mut self.clients[self.at]
    }

    /// Goes to the next gateway.
    pub fn rove(&mut self) {
        self.at = (self.at + 1) % self.clients.len();
    }

    /// Repeats `attempt`, each time at the next gateway, until it gives something; panics after `OUTAGE`.
    /// `Err` of an attempt is why it did not.
    pub fn persist<T>(
        &mut self,
        what: &str,
        mut attempt: impl FnMut(&mut Client) -> Result<T, String>,
    ) -> Persisted<T> {
        let started = Instant::now();
        let mut failed = 0;
        loop {
            match attempt(self.client()) {
                Ok(answer) => {
                    return Persisted {
                        answer,
                        failed,
                        took: started.elapsed(),
                    };
                }
                Err(last) => {
                    failed += 1;
                    assert!(
                        started.elapsed() < OUTAGE,
                        "{what} did not succeed at any gateway within {OUTAGE:?}; last at {}: {last}",
                        self.client().address()
                    );
                }
            }
            self.rove();
            if failed % self.clients.len() as u64 == 0 {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// As `persist`, for a write or another operation whose answer is a response: 5xx and hang-ups are repeated,
    /// any other status but 2xx is a failure of the test.
    pub fn persist_ok(
        &mut self,
        what: &str,
        mut operation: impl FnMut(&mut Client) -> io::Result<Response>,
    ) -> Persisted<Response> {
        self.persist(what, |client| match operation(client) {
            Ok(response) if response.is_success() => Ok(response),
            Ok(response) if response.status >= 500 => Err(format!("{response:?}")),
            Ok(response) => panic!("{what}: {response:?}"),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Reads `key`, which must hold `content`, or nothing. Errors are repeated; wrong data and lost objects never
    /// excused.
    pub fn verify(&mut self, bucket: &str, key: &str, content: Option<Content>) -> Persisted<()> {
        self.persist(&format!("GET {key}"), |client| {
            match_read(client, bucket, key, content)
        })
    }
}

/// One GET of `key`: `Err` if it failed, panics if it shows something else than what was acknowledged.
fn match_read(
    client: &mut Client,
    bucket: &str,
    key: &str,
    content: Option<Content>,
) -> Result<(), String> {
    let address = client.address();
    let fetched = client.get(bucket, key, content.unwrap_or(Content::new(0, 0)));
    match (fetched, content) {
        (Ok(Fetched::Whole(_)), Some(_)) => Ok(()),
        (Ok(Fetched::Whole(response)), None) => {
            panic!("{key} was deleted and is back at {address}: {response:?}")
        }
        (Ok(Fetched::Refused(response)), None) if response.status == 404 => Ok(()),
        (Ok(Fetched::Refused(response)), _) if response.status < 500 => {
            panic!("{key} is lost at {address}: {response:?}")
        }
        (other, _) => Err(format!("{other:?}")),
    }
}

/// How operations of one kind went.
#[derive(Clone, Debug, Default)]
pub struct Waits {
    pub done: u64,
    /// Attempts that were answered by an error or not at all.
    pub failed_attempts: u64,
    /// The longest that one operation took, its repetitions at other gateways included.
    pub longest: Duration,
    /// The longest time in which none of any client succeeded.
    pub longest_gap: Duration,
    last: Option<Instant>,
}

impl Waits {
    fn note<T>(&mut self, operation: &Persisted<T>) {
        let now = Instant::now();
        self.done += 1;
        self.failed_attempts += operation.failed;
        self.longest = self.longest.max(operation.took);
        if let Some(last) = self.last {
            self.longest_gap = self.longest_gap.max(now - last);
        }
        self.last = Some(now);
    }
}

impl std::fmt::Display for Waits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} done, {} failed attempts, longest wait for one {:.2?}, longest time without any {:.2?}",
            self.done, self.failed_attempts, self.longest, self.longest_gap
        )
    }
}

/// How the traffic went.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub writes: Waits,
    pub reads: Waits,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "writes: {}; reads: {}", self.writes, self.reads)
    }
}

/// Keys with what they hold, or that they were deleted.
pub type Objects = Vec<(String, Option<Content>)>;

/// What has been acknowledged.
#[derive(Clone, Debug, Default)]
pub struct Acknowledged(pub Objects);

impl Acknowledged {
    /// Writes `count` objects of mixed sizes whose names begin with `prefix`.
    pub fn fill(
        roamer: &mut Roamer,
        bucket: &str,
        prefix: &str,
        count: u64,
        seed: &mut Seed,
    ) -> Self {
        let objects = (0..count).map(|index| {
            let (key, content) = (format!("{prefix}{index:04}"), draw_content(seed));
            roamer.persist_ok(&format!("PUT {key}"), |client| {
                client.put(bucket, &key, content)
            });
            (key, Some(content))
        });
        Self(objects.collect())
    }

    /// Reads everything through every gateway, and compares.
    pub fn verify(&self, addresses: &[SocketAddr], keys: &Keys, bucket: &str) {
        std::thread::scope(|scope| {
            for address in addresses {
                scope.spawn(move || {
                    let mut gateway = Roamer::new(&[*address], keys, 0);
                    for (key, content) in &self.0 {
                        gateway.verify(bucket, key, *content);
                    }
                });
            }
        });
    }

    pub fn bytes(&self) -> u64 {
        self.0
            .iter()
            .filter_map(|(_, content)| content.map(|content| content.len))
            .sum()
    }
}

fn draw_content(seed: &mut Seed) -> Content {
    let len = match seed.within(0..40) {
        0..28 => seed.within(0..30_000),
        28..39 => seed.within(30_000..1_000_000),
        _ => seed.within(4_000_000..9_000_000),
    };
    Content::new(seed.draw(), len)
}

/// One client of the traffic and the keys that only it writes.
struct Worker {
    name: String,
    bucket: String,
    seed: Seed,
    objects: Objects,
    /// Objects that may be written again. Not those of which a write failed once: it may still happen, at any time,
    /// and only as long as nobody writes something else it cannot be told from the one that succeeded.
    free: Vec<usize>,
}

impl Worker {
    fn act(&mut self, roamer: &mut Roamer, report: &Mutex<Report>) {
        let bucket = self.bucket.clone();
        let choice = self.seed.within(0..10);
        if choice < 5 && !self.objects.is_empty() {
            let at = self.seed.within(0..self.objects.len() as u64) as usize;
            let (key, content) = &self.objects[at];
            let read = roamer.verify(&bucket, key, *content);
            report.lock().expect("report").reads.note(&read);
            return;
        }
        let at = if self.free.len() < 20 {
            let key = format!("{}/{:04}", self.name, self.objects.len());
            self.objects.push((key, None));
            self.objects.len() - 1
        } else {
            let at = self.seed.within(0..self.free.len() as u64) as usize;
            self.free.swap_remove(at)
        };
        let content = (choice < 9).then(|| draw_content(&mut self.seed));
        let key = self.objects[at].0.clone();
        let write = roamer.persist_ok(&format!("write of {key}"), |client| match content {
            Some(content) => client.put(&bucket, &key, content),
            None => client.delete(&bucket, &key),
        });
        self.objects[at].1 = content;
        if write.failed == 0 {
            self.free.push(at);
        }
        report.lock().expect("report").writes.note(&write);
    }
}

/// Clients that write, overwrite, delete and read until told to stop.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    operations: Arc<AtomicU64>,
    report: Arc<Mutex<Report>>,
    workers: Vec<JoinHandle<Objects>>,
}

impl Traffic {
    /// Their keys begin with `name`, which no other traffic in `bucket` may have.
    pub fn start(
        name: &str,
        addresses: &[SocketAddr],
        keys: &Keys,
        bucket: &str,
        clients: usize,
        seed: &Seed,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let operations = Arc::new(AtomicU64::new(0));
        let report = Arc::new(Mutex::new(Report::default()));
        let workers = (0..clients)
            .map(|client| {
                let (stop, operations, report) = (stop.clone(), operations.clone(), report.clone());
                let mut worker = Worker {
                    name: format!("{name}-{client}"),
                    bucket: bucket.to_owned(),
                    seed: seed.fork(client as u64),
                    objects: Vec::new(),
                    free: Vec::new(),
                };
                let mut roamer = Roamer::new(addresses, keys, client);
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        worker.act(&mut roamer, &report);
                        operations.fetch_add(1, Ordering::Relaxed);
                    }
                    worker.objects
                })
            })
            .collect();
        Self {
            stop,
            operations,
            report,
            workers,
        }
    }

    /// Lets the traffic go on for this long; panics as soon as a client has given up.
    pub fn run_for(&self, duration: Duration) {
        let deadline = Instant::now() + duration;
        while Instant::now() < deadline {
            self.check();
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until this many more operations have succeeded.
    pub fn wait_for(&self, more: u64) {
        let target = self.operations.load(Ordering::Relaxed) + more;
        let deadline = Instant::now() + OUTAGE * 2;
        while self.operations.load(Ordering::Relaxed) < target {
            self.check();
            assert!(Instant::now() < deadline, "the traffic stands still");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn check(&self) {
        assert!(
            !self.workers.iter().any(JoinHandle::is_finished),
            "a client of the traffic gave up"
        );
    }

    /// Stops it. What was acknowledged, and how it went.
    pub fn finish(self) -> (Acknowledged, Report) {
        self.stop.store(true, Ordering::Relaxed);
        let objects = self
            .workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("a client of the traffic"))
            .collect();
        let report = self.report.lock().expect("report").clone();
        (Acknowledged(objects), report)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener};

    use super::Roamer;
    use crate::content::Content;
    use crate::request::Keys;

    /// A gateway that gives the same answer to everything, on a connection each.
    fn liar(answer: Vec<u8>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("address");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("accept");
                let mut request = [0; 4096];
                let _ = stream.read(&mut request);
                let _ = stream.write_all(&answer);
            }
        });
        address
    }

    fn answer(status: &str, body: &[u8]) -> Vec<u8> {
        let mut bytes = format!(
            "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        bytes
    }

    const CONTENT: Content = Content { seed: 5, len: 1000 };

    fn verify(gateways: &[SocketAddr], content: Option<Content>) -> u64 {
        Roamer::new(gateways, &Keys::for_tests(), 0)
            .verify("bucket", "key", content)
            .failed
    }

    #[test]
    fn a_gateway_that_fails_is_left_for_the_next() {
        let gateways = [
            liar(answer("503 Slow Down", b"")),
            liar(answer("200 OK", &CONTENT.bytes())),
        ];
        assert_eq!(verify(&gateways, Some(CONTENT)), 1);
        assert_eq!(verify(&gateways[1..], Some(CONTENT)), 0);
    }

    #[test]
    #[should_panic(expected = "wrong data")]
    fn a_wrong_byte_is_found() {
        let mut bytes = CONTENT.bytes();
        bytes[700] ^= 4;
        verify(&[liar(answer("200 OK", &bytes))], Some(CONTENT));
    }

    #[test]
    #[should_panic(expected = "is lost")]
    fn a_lost_object_is_found() {
        verify(&[liar(answer("404 Not Found", b""))], Some(CONTENT));
    }

    #[test]
    #[should_panic(expected = "wrong data")]
    fn a_deleted_object_that_is_back_is_found() {
        verify(&[liar(answer("200 OK", &CONTENT.bytes()))], None);
    }
}
