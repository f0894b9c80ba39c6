//! A steady load that forgets nothing: every acknowledged write is remembered and read again.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::client::{Client, Fetched};
use crate::content::{Content, Seed};
use crate::request::Keys;

/// How long an operation may be refused or hang up before a test calls it an outage. A client's own retries.
pub const OUTAGE: Duration = Duration::from_secs(45);

static UNSTARTED: AtomicU64 = AtomicU64::new(0);

/// What has been acknowledged: key and content, or deleted.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub bucket: String,
    pub objects: Vec<(String, Option<Content>)>,
}

impl Ledger {
    /// Puts `count` objects of mixed sizes with names that start with `prefix`.
    pub fn fill(
        client: &mut Client,
        bucket: &str,
        prefix: &str,
        count: u64,
        seed: &mut Seed,
    ) -> Self {
        let mut ledger = Self {
            bucket: bucket.to_owned(),
            objects: Vec::new(),
        };
        for index in 0..count {
            ledger.write(client, &format!("{prefix}{index:04}"), seed);
        }
        ledger
    }

    /// Writes `key` and remembers it once it is acknowledged; retries as a client would.
    pub fn write(&mut self, client: &mut Client, key: &str, seed: &mut Seed) {
        let len = match seed.within(0..10) {
            0..6 => seed.within(0..30_000),
            6..9 => seed.within(30_000..2_000_000),
            _ => seed.within(4_000_000..14_000_000),
        };
        let content = Content::new(seed.draw(), len);
        let bucket = self.bucket.clone();
        let response = client.persist(&format!("PUT {key}"), OUTAGE, |client| {
            client.put(&bucket, key, content)
        });
        assert!(response.is_success(), "PUT {key}: {response:?}");
        self.record(key, Some(content));
    }

    /// Deletes `key` and remembers that.
    pub fn delete(&mut self, client: &mut Client, key: &str) {
        let bucket = self.bucket.clone();
        let response = client.persist(&format!("DELETE {key}"), OUTAGE, |client| {
            client.delete(&bucket, key)
        });
        assert!(response.is_success(), "DELETE {key}: {response:?}");
        self.record(key, None);
    }

    fn record(&mut self, key: &str, content: Option<Content>) {
        match self.objects.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = content,
            None => self.objects.push((key.to_owned(), content)),
        }
    }

    /// Reads one object and compares; retries errors, never excuses wrong data.
    pub fn verify(&self, client: &mut Client, index: usize) {
        let (key, content) = &self.objects[index];
        let deadline = std::time::Instant::now() + OUTAGE;
        loop {
            let fetched = client.get(&self.bucket, key, content.unwrap_or(Content::new(0, 0)));
            let last = match (fetched, content) {
                (Ok(Fetched::Whole(_)), Some(_)) => return,
                (Ok(Fetched::Whole(response)), None) => {
                    panic!("{key} was deleted and is back: {response:?}")
                }
                (Ok(Fetched::Refused(response)), None) if response.status == 404 => return,
                (Ok(Fetched::Refused(response)), _) if response.status < 500 => {
                    panic!("{key} is lost: {response:?}")
                }
                (other, _) => format!("{other:?}"),
            };
            assert!(
                std::time::Instant::now() < deadline,
                "GET {key} did not succeed within {OUTAGE:?}: {last}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Reads all and compares.
    pub fn verify_all(&self, client: &mut Client) {
        for index in 0..self.objects.len() {
            self.verify(client, index);
        }
    }
}

/// Threads that write, overwrite, delete and read until told to stop.
pub struct Load {
    stop: std::sync::Arc<AtomicBool>,
    operations: std::sync::Arc<AtomicU64>,
    threads: Vec<JoinHandle<Ledger>>,
}

impl Load {
    pub fn start(address: SocketAddr, bucket: &str, threads: u64, seed: &Seed) -> Self {
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let operations = std::sync::Arc::new(AtomicU64::new(0));
        let run = UNSTARTED.fetch_add(1, Ordering::Relaxed);
        let threads = (0..threads)
            .map(|thread| {
                let (stop, operations, bucket) =
                    (stop.clone(), operations.clone(), bucket.to_owned());
                let mut seed = seed.fork(thread + 1000 * run);
                std::thread::spawn(move || {
                    let mut client = Client::new(address, Keys::for_tests());
                    let mut ledger = Ledger {
                        bucket,
                        objects: Vec::new(),
                    };
                    while !stop.load(Ordering::Relaxed) {
                        let key = format!("load-{run}-{thread}-{:02}", seed.within(0..30));
                        match seed.within(0..10) {
                            0..4 => ledger.write(&mut client, &key, &mut seed),
                            4 => ledger.delete(&mut client, &key),
                            _ if ledger.objects.is_empty() => {}
                            _ => ledger.verify(
                                &mut client,
                                seed.within(0..ledger.objects.len() as u64) as usize,
                            ),
                        }
                        operations.fetch_add(1, Ordering::Relaxed);
                    }
                    ledger
                })
            })
            .collect();
        Self {
            stop,
            operations,
            threads,
        }
    }

    /// Waits until this many more operations have been done, which shows that service goes on.
    pub fn wait_for(&self, more: u64) {
        let target = self.operations.load(Ordering::Relaxed) + more;
        let deadline = std::time::Instant::now() + OUTAGE * 2;
        while self.operations.load(Ordering::Relaxed) < target {
            assert!(
                !self.threads.iter().any(JoinHandle::is_finished),
                "a client of the load gave up"
            );
            assert!(
                std::time::Instant::now() < deadline,
                "the load stands still"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops, and gives what each thread had acknowledged.
    pub fn finish(self) -> Vec<Ledger> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads
            .into_iter()
            .map(|thread| thread.join().expect("a client of the load"))
            .collect()
    }
}
