//! One phase of a run: workers on threads of their own, all starting at one moment.
//!
//! Every thread has a runtime of its own and workers never change threads: no wake-up crosses a core.

use std::collections::HashSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::BenchError;
use super::args::{Kind, Plan};
use super::client::{Client, Failure};
use super::connection::Target;
use super::content::Content;
use super::listing::{Next, Order};
use super::progress::Progress;
use super::tally::Tally;

/// What the workers of a phase do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Key after key, round and round.
    Put,
    /// Keys at random, compared or only counted.
    Get { verify: bool },
    /// Every key below the limit once, compared.
    ReadBack,
    /// Keys at random.
    Head { verify: bool },
    /// Key after key.
    Delete,
    /// Walk after walk.
    List { verify: bool },
    /// As the mix says.
    Mixed { verify: bool },
    /// Deletes the keys that a mix left over.
    Tidy,
}

/// The bounds of a phase.
#[derive(Debug, Clone)]
pub struct Phase {
    pub name: &'static str,
    pub work: Work,
    /// Units of work (requests, walks) at most.
    pub limit: Option<u64>,
    pub duration: Option<Duration>,
    pub concurrency: usize,
    /// Keys that a read-back leaves out, by number: their PUT failed, so they may be there or not.
    pub skip: HashSet<u64>,
    /// Keys that a tidying deletes.
    pub left_over: Vec<String>,
}

/// What came of a phase.
#[derive(Debug)]
pub struct Outcome<T> {
    pub tally: Tally,
    /// From the start of the first request to the end of the last.
    pub elapsed: Duration,
    /// What was observed just before the first request.
    pub before: T,
}

/// Counters that all workers share; the next unit of work among them.
pub struct Shared {
    pub plan: Arc<Plan>,
    phase: Phase,
    deadline: Option<Instant>,
    next: AtomicU64,
    stop: Arc<AtomicBool>,
    pub done: AtomicU64,
    pub bytes: AtomicU64,
    pub listed: AtomicU64,
    pub failures: AtomicU64,
}

impl Shared {
    /// The number of the next unit of work, until the phase is over.
    fn claim(&self) -> Option<u64> {
        if self.over() {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.phase
            .limit
            .is_none_or(|limit| number < limit)
            .then_some(number)
    }

    fn over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
            || self
                .deadline
                .is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// Runs `phase`. `before` is called when all connections are open and nothing has been asked yet; `stop` ends the
/// phase early.
pub fn run<T>(
    plan: &Arc<Plan>,
    content: &Content,
    targets: &[Target],
    phase: Phase,
    stop: &Arc<AtomicBool>,
    before: impl FnOnce() -> T,
) -> Result<Outcome<T>, BenchError> {
    let threads = plan.threads.min(phase.concurrency);
    let name = phase.name;
    let (ready_sender, ready) = mpsc::channel::<Result<(), BenchError>>();
    let (done_sender, done) = mpsc::channel::<Tally>();
    let mut starters = Vec::new();
    let mut handles = Vec::new();
    for thread in 0..threads {
        let (starter, start) = mpsc::channel::<Arc<Shared>>();
        starters.push(starter);
        let clients: Vec<Client> = (thread..phase.concurrency)
            .step_by(threads)
            .map(|worker| Client::new(Arc::clone(plan), content.clone(), targets, worker))
            .collect();
        let (ready, done, timeout) = (ready_sender.clone(), done_sender.clone(), plan.timeout);
        let handle = std::thread::Builder::new()
            .name(format!("bench-{thread}"))
            .spawn(move || work_on_thread(clients, timeout, &ready, &start, &done))
            .map_err(BenchError::Thread)?;
        handles.push(handle);
    }
    drop((ready_sender, done_sender));
    for _ in 0..threads {
        // A thread that ends without a word has panicked; joining it says so.
        if let Ok(Err(error)) = ready.recv() {
            return Err(error);
        }
    }
    let observed = before();
    let began = Instant::now();
    let shared = Arc::new(Shared {
        plan: Arc::clone(plan),
        deadline: phase.duration.map(|duration| began + duration),
        phase,
        next: AtomicU64::new(0),
        stop: Arc::clone(stop),
        done: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        listed: AtomicU64::new(0),
        failures: AtomicU64::new(0),
    });
    for starter in starters {
        // A thread that is gone is joined below.
        let _ = starter.send(Arc::clone(&shared));
    }
    let mut progress = Progress::new(name);
    let mut tally = Tally::default();
    loop {
        match done.recv_timeout(progress.until_next(began.elapsed())) {
            Ok(theirs) => tally.merge(theirs),
            Err(mpsc::RecvTimeoutError::Timeout) => progress.line(began.elapsed(), &shared),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    let elapsed = began.elapsed();
    for handle in handles {
        handle.join().map_err(|_| BenchError::Panicked)?;
    }
    Ok(Outcome {
        tally,
        elapsed,
        before: observed,
    })
}

/// Runs `future` on a runtime of this thread alone.
pub fn block_on_here<F: Future>(future: F) -> Result<F::Output, BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(BenchError::Thread)?;
    Ok(tokio::task::LocalSet::new().block_on(&runtime, future))
}

fn work_on_thread(
    mut clients: Vec<Client>,
    timeout: Duration,
    ready: &mpsc::Sender<Result<(), BenchError>>,
    start: &mpsc::Receiver<Arc<Shared>>,
    done: &mpsc::Sender<Tally>,
) {
    let ran = block_on_here(async {
        for client in &mut clients {
            match tokio::time::timeout(timeout, client.connect()).await {
                Ok(Ok(())) => {}
                Ok(Err(failure)) => return Err(BenchError::Unreachable(failure.to_string())),
                Err(_) => {
                    return Err(BenchError::Unreachable(format!(
                        "no connection within {timeout:?}"
                    )));
                }
            }
        }
        // The coordinator may be gone because another thread could not connect.
        let _ = ready.send(Ok(()));
        let Ok(shared) = start.recv() else {
            return Ok(());
        };
        let workers = clients.into_iter().enumerate().map(|(worker, client)| {
            let shared = Arc::clone(&shared);
            let done = done.clone();
            let name = format!("{:?}-{worker}", std::thread::current().id());
            tokio::task::spawn_local(async move {
                let mut worker = Worker::new(&shared, client, name);
                worker.run().await;
                let _ = done.send(worker.finish());
            })
        });
        for worker in workers.collect::<Vec<_>>() {
            worker.await.map_err(|_| BenchError::Panicked)?;
        }
        Ok(())
    });
    if let Err(error) | Ok(Err(error)) = ran {
        let _ = ready.send(Err(error));
    }
}

struct Worker<'a> {
    shared: &'a Shared,
    client: Client,
    tally: Tally,
    /// Keys of its own that this worker wrote and has not deleted: what the deletes of a mix take.
    own: Vec<String>,
    own_made: u64,
    name: String,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared, client: Client, name: String) -> Self {
        let name = name
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
            .collect();
        Self {
            shared,
            client,
            tally: Tally::default(),
            own: Vec::new(),
            own_made: 0,
            name,
        }
    }

    async fn run(&mut self) {
        let plan = Arc::clone(&self.shared.plan);
        while let Some(number) = self.shared.claim() {
            match self.shared.phase.work {
                Work::Put => {
                    let index = number % plan.keys;
                    if !self.put(plan.key(index)).await {
                        self.tally.failed_puts.push(index);
                    }
                }
                Work::Get { verify } => self.get(plan.key(self.draw(number)), verify).await,
                Work::ReadBack if self.shared.phase.skip.contains(&number) => {}
                Work::ReadBack => self.get(plan.key(number), true).await,
                Work::Head { verify } => self.head(plan.key(self.draw(number)), verify).await,
                Work::Delete => self.delete(plan.key(number)).await,
                Work::List { verify } => self.walk(verify).await,
                Work::Mixed { verify } => self.mixed(number, verify).await,
                Work::Tidy => match self.shared.phase.left_over.get(number as usize) {
                    Some(key) => self.delete(key.clone()).await,
                    None => return,
                },
            }
        }
    }

    fn finish(mut self) -> Tally {
        self.tally.reconnects = self.client.reconnects();
        self.tally.left_over = self.own;
        self.tally
    }

    /// The key that unit `number` takes.
    fn draw(&self, number: u64) -> u64 {
        random(self.shared.plan.seed, number) % self.shared.plan.keys
    }

    async fn mixed(&mut self, number: u64, verify: bool) {
        /// A worker's keys of its own that wait to be deleted.
        const OWN_MAX: usize = 64;
        let plan = Arc::clone(&self.shared.plan);
        let total: u64 = plan.mix.iter().map(|share| u64::from(share.weight)).sum();
        let mut point = random(!plan.seed, number) % total;
        let kind = plan.mix.iter().find(|share| {
            let within = point < u64::from(share.weight);
            point = point.saturating_sub(u64::from(share.weight));
            within
        });
        let deletes = plan
            .mix
            .iter()
            .any(|share| share.kind == Kind::Delete && share.weight > 0);
        match kind.map_or(Kind::Get, |share| share.kind) {
            Kind::Get => self.get(plan.key(self.draw(number)), verify).await,
            Kind::Head => self.head(plan.key(self.draw(number)), verify).await,
            Kind::List => {
                self.page(None, None).await;
            }
            Kind::Delete if !self.own.is_empty() => {
                let key = self.own.pop().unwrap_or_default();
                self.delete(key).await;
            }
            // A delete that finds nothing to delete writes something.
            Kind::Put | Kind::Delete if deletes && self.own.len() < OWN_MAX => {
                let key = format!("{}{}/{:010}", plan.own_prefix(), self.name, self.own_made);
                self.own_made += 1;
                self.own.push(key.clone());
                self.put(key).await;
            }
            Kind::Put | Kind::Delete => {
                self.put(plan.key(self.draw(number))).await;
            }
        }
    }

    /// Says whether it succeeded.
    async fn put(&mut self, key: String) -> bool {
        let began = Instant::now();
        let result = within(self.shared.plan.timeout, self.client.put(&key)).await;
        let (succeeded, bytes) = (result.is_ok(), self.shared.plan.size);
        self.settle(Kind::Put, began, result.map(|()| bytes)).await;
        succeeded
    }

    async fn get(&mut self, key: String, verify: bool) {
        let began = Instant::now();
        let result = within(self.shared.plan.timeout, self.client.get(&key, verify)).await;
        if let Ok(download) = &result {
            let kind = self.tally.kinds.entry(Kind::Get).or_default();
            kind.first_byte.record(nanos(download.first_byte));
        }
        self.settle(Kind::Get, began, result.map(|download| download.bytes))
            .await;
    }

    async fn head(&mut self, key: String, verify: bool) {
        let began = Instant::now();
        let result = within(self.shared.plan.timeout, self.client.head(&key, verify)).await;
        self.settle(Kind::Head, began, result.map(|()| 0)).await;
    }

    async fn delete(&mut self, key: String) {
        let began = Instant::now();
        let result = within(self.shared.plan.timeout, self.client.delete(&key)).await;
        self.settle(Kind::Delete, began, result.map(|()| 0)).await;
    }

    /// All pages of the prefix, or as many as were asked for, unless the phase ends before.
    async fn walk(&mut self, verify: bool) {
        let plan = Arc::clone(&self.shared.plan);
        let mut order = verify.then(|| Order::new(&plan));
        let (mut next, mut pages) = (None, 0);
        loop {
            let Some(after) = self.page(next.as_ref(), order.as_mut()).await else {
                return;
            };
            pages += 1;
            if after.is_none() || plan.pages == Some(pages) {
                break;
            }
            if self.shared.over() {
                return;
            }
            next = after;
        }
        self.tally.walks += 1;
        if let Some(wrong) = order.and_then(|order| order.end()) {
            self.fail(&Failure::Wrong(wrong)).await;
        }
    }

    /// One page; where the next one goes on, if there is one. `None`: it failed.
    async fn page(
        &mut self,
        next: Option<&Next>,
        order: Option<&mut Order<'_>>,
    ) -> Option<Option<Next>> {
        let began = Instant::now();
        let listed = within(self.shared.plan.timeout, self.client.list(next, order)).await;
        let (page, bytes) = match listed {
            Ok(answer) => answer,
            Err(failure) => {
                self.settle(Kind::List, began, Err(failure)).await;
                return None;
            }
        };
        self.settle(Kind::List, began, Ok(bytes)).await;
        self.tally.listed_keys += page.keys;
        self.tally.listed_prefixes += page.common_prefixes;
        self.shared
            .listed
            .fetch_add(page.keys + page.common_prefixes, Ordering::Relaxed);
        if let Some(wrong) = page.wrong {
            self.fail(&Failure::Wrong(wrong)).await;
        }
        Some(page.next)
    }

    async fn settle(&mut self, kind: Kind, began: Instant, result: Result<u64, Failure>) {
        match result {
            Ok(bytes) => {
                self.tally.success(kind, nanos(began.elapsed()), bytes);
                self.shared.done.fetch_add(1, Ordering::Relaxed);
                self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            Err(failure) => self.fail(&failure).await,
        }
    }

    async fn fail(&mut self, failure: &Failure) {
        self.tally.failure(failure);
        let failures = self.shared.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if failures >= self.shared.plan.max_errors {
            self.shared.stop.store(true, Ordering::Relaxed);
        }
        if matches!(failure, Failure::Timeout(_) | Failure::Transport(_)) {
            self.client.close_connection();
            // A server that is down is asked again ten times a second, not as fast as refusals come.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn within<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(timeout, work).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Timeout(timeout)),
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Number `index` of the sequence of `seed` (the output step of splitmix64).
fn random(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
