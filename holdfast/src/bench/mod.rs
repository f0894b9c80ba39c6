//! `holdfast bench`: loads any S3 endpoint, checks what comes back, and says what it cost the server.
//!
//! The parent of a run: prepare, measure the machine, open connections, load, read back, report.

#![allow(
    clippy::disallowed_methods,
    reason = "a load generator measures the real clock and the real machine; nothing of it is simulated"
)]

mod args;
mod client;
mod connection;
mod content;
mod histogram;
mod limits;
mod listing;
mod phase;
mod process;
mod progress;
mod report;
mod sign;
mod tally;
mod upload;

#[cfg(test)]
mod fake_s3;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use args::BenchArgs;

use args::{Endpoint, Op, Plan};
use client::{Client, Failure};
use connection::Target;
use content::Content;
use limits::Limits;
use phase::{Phase, Work};
use process::{CpuTime, Processors};
use report::{Cost, Machine, Parameters, ReadBack, Report, Server, ServerCost};
use tally::Tally;

/// Why a run did not succeed. The process then ends with a status other than 0.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The arguments make no sense together.
    #[error("{0}")]
    Usage(String),
    /// The endpoint's name means nothing here.
    #[error("the endpoint {0} cannot be found: {1}; check the name, or give its address")]
    Unresolved(String, io::Error),
    /// Nobody answers at the endpoint.
    #[error("{0}; is the server running, and is --endpoint right?")]
    Unreachable(String),
    /// The bucket cannot be used.
    #[error("the bucket {0} cannot be used: {1}{advice}", advice = advice(.1))]
    Bucket(String, Failure),
    /// There is no bucket to read from.
    #[error(
        "there is no bucket {0} to read from: add --prepare, or fill it with `load` or `put` first"
    )]
    NoBucket(String),
    /// Results could not be written.
    #[error("cannot write the results to {path}: {cause}", path = .0.display(), cause = .1)]
    Json(PathBuf, io::Error),
    /// The machine gives no thread or runtime.
    #[error("cannot start a client thread: {0}")]
    Thread(io::Error),
    /// A defect of this program.
    #[error("a client thread panicked; its message is above")]
    Panicked,
    /// Keys could not be written before the run.
    #[error("preparing failed: {0}")]
    Prepare(String),
    /// The run ended, and not everything went well. The results were written.
    #[error("{failed} of {asked} requests failed{}; the first: {example}", wrong_data_note(*.wrong_data))]
    Failed {
        failed: u64,
        asked: u64,
        wrong_data: u64,
        example: String,
    },
    /// Nothing at all was done.
    #[error("no request was made: nothing was measured")]
    Nothing,
}

fn wrong_data_note(wrong_data: u64) -> String {
    if wrong_data == 0 {
        String::new()
    } else {
        format!(", {wrong_data} of them with WRONG DATA")
    }
}

/// Does what `args` ask, writes the results, and fails if anything went wrong.
pub async fn run(args: BenchArgs) -> Result<(), BenchError> {
    let stop = Arc::new(AtomicBool::new(false));
    let running = Arc::clone(&stop);
    // The run is threads of its own and procfs; this runtime only waits for it and for an interrupt.
    let mut run = tokio::task::spawn_blocking(move || run_here(&args, &running));
    let interrupted = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let result = tokio::select! {
        result = &mut run => result,
        () = interrupted => {
            tell("interrupted: finishing the requests under way");
            stop.store(true, Ordering::Relaxed);
            run.await
        }
    };
    result.unwrap_or(Err(BenchError::Panicked))
}

fn run_here(args: &BenchArgs, stop: &Arc<AtomicBool>) -> Result<(), BenchError> {
    let json = args.json.as_deref();
    if args.op == Op::Limits {
        let limits = limits::measure(&args.limits_dir, true);
        return write_results(json, &limits, &format!("limits of this machine\n{limits}"));
    }
    let report = measure(args, stop)?;
    write_results(json, &report, &report.to_string())?;
    verdict(&report)
}

/// A whole run.
fn measure(args: &BenchArgs, stop: &Arc<AtomicBool>) -> Result<Report, BenchError> {
    let plan = Arc::new(Plan::new(args)?);
    let content = Content::new(plan.seed);
    let targets: Vec<Target> = plan
        .endpoints
        .iter()
        .map(resolve)
        .collect::<Result<_, _>>()?;
    open_bucket(&plan, &content, &targets)?;
    let server = find_server(&args.server_pids, &targets);
    let limits: Option<Limits> =
        (!args.no_limits).then(|| limits::measure(&args.limits_dir, false));
    if plan.prepare {
        prepare(&plan, &content, &targets, stop)?;
        // What the server still does for these writes is not to count as a cost of what follows.
        std::thread::sleep(args.settle);
    }

    let outcome = phase::run(&plan, &content, &targets, main_phase(&plan), stop, || {
        Usage::now(&server)
    })?;
    let after = Usage::now(&server);
    let writes = matches!(plan.op, Op::Put | Op::Load | Op::Delete | Op::Mixed);
    let settle = if writes && server.is_ok() {
        args.settle
    } else {
        Duration::ZERO
    };
    std::thread::sleep(settle);
    let settled = Usage::now(&server);

    let read_back = match plan.op {
        Op::Put | Op::Load if plan.verify => {
            Some(read_back(&plan, &content, &targets, &outcome.tally, stop)?)
        }
        _ => None,
    };
    let (before, mut tally) = (outcome.before, outcome.tally);
    if !tally.left_over.is_empty() {
        tidy(
            &plan,
            &content,
            &targets,
            std::mem::take(&mut tally.left_over),
            stop,
        )?;
    }
    let seconds = outcome.elapsed.as_secs_f64().max(1e-9);
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        parameters: Parameters::of(&plan),
        elapsed_s: seconds,
        requests: Report::requests(&tally, outcome.elapsed),
        listing: Report::listing(&tally, outcome.elapsed),
        errors: report::errors_of(&tally),
        wrong_data: tally.wrong_data,
        reconnects: tally.reconnects,
        read_back,
        server: server_cost(server, [&before, &after, &settled], settle, &tally),
        client: Cost::new(after.client.since(&before.client), &tally),
        machine: Machine {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            busy_cores: (after.processors.busy_s - before.processors.busy_s) / seconds,
            stolen_cores: (after.processors.steal_s - before.processors.steal_s) / seconds,
        },
        limits,
    })
}

fn main_phase(plan: &Plan) -> Phase {
    let verify = plan.verify;
    Phase {
        name: plan.op.name(),
        work: match plan.op {
            Op::Put | Op::Load | Op::Limits => Work::Put,
            Op::Get => Work::Get { verify },
            Op::Head => Work::Head { verify },
            Op::Delete => Work::Delete,
            Op::List => Work::List { verify },
            Op::Mixed => Work::Mixed { verify },
        },
        limit: plan.count,
        duration: plan.duration,
        concurrency: plan.concurrency,
        skip: HashSet::new(),
        left_over: Vec::new(),
    }
}

/// Writes every key once.
fn prepare(
    plan: &Arc<Plan>,
    content: &Content,
    targets: &[Target],
    stop: &Arc<AtomicBool>,
) -> Result<(), BenchError> {
    let phase = Phase {
        name: "prepare",
        work: Work::Put,
        limit: Some(plan.keys),
        duration: None,
        concurrency: plan.concurrency.max(16),
        skip: HashSet::new(),
        left_over: Vec::new(),
    };
    let outcome = phase::run(plan, content, targets, phase, stop, || ())?;
    match outcome.tally.errors.values().next() {
        Some(error) => Err(BenchError::Prepare(error.example.clone())),
        None => Ok(()),
    }
}

/// Deletes the keys that a mix left over. Not measured; one that cannot be deleted stays behind.
fn tidy(
    plan: &Arc<Plan>,
    content: &Content,
    targets: &[Target],
    left_over: Vec<String>,
    stop: &Arc<AtomicBool>,
) -> Result<(), BenchError> {
    stop.store(false, Ordering::Relaxed);
    let phase = Phase {
        name: "tidy up",
        work: Work::Tidy,
        limit: Some(left_over.len() as u64),
        duration: None,
        concurrency: plan.concurrency,
        skip: HashSet::new(),
        left_over,
    };
    phase::run(plan, content, targets, phase, stop, || ()).map(drop)
}

/// Reads every key that was written, and compares.
fn read_back(
    plan: &Arc<Plan>,
    content: &Content,
    targets: &[Target],
    written: &Tally,
    stop: &Arc<AtomicBool>,
) -> Result<ReadBack, BenchError> {
    stop.store(false, Ordering::Relaxed);
    let phase = Phase {
        name: "read back",
        work: Work::ReadBack,
        limit: Some((written.ops() + written.failures()).min(plan.keys)),
        duration: None,
        concurrency: plan.concurrency,
        skip: written.failed_puts.iter().copied().collect(),
        left_over: Vec::new(),
    };
    let outcome = phase::run(plan, content, targets, phase, stop, || ())?;
    Ok(ReadBack::of(&outcome.tally))
}

fn resolve(endpoint: &Endpoint) -> Result<Target, BenchError> {
    let host = endpoint.host.trim_start_matches('[').trim_end_matches(']');
    let failed = |e| BenchError::Unresolved(endpoint.authority(), e);
    let address = (host, endpoint.port)
        .to_socket_addrs()
        .map_err(failed)?
        .next();
    Ok(Target {
        endpoint: endpoint.clone(),
        address: address.ok_or_else(|| failed(io::Error::other("it has no address")))?,
    })
}

/// What to look at; the answer to a HEAD, which is what asks first, says nothing but a number.
fn advice(failure: &Failure) -> &'static str {
    match failure {
        Failure::S3 { status: 403, .. } => {
            ". Are the access key and the secret those of this server?"
        }
        Failure::S3 { status: 400, .. } => ". Is it the name of a bucket, and is --region right?",
        _ => "",
    }
}

fn open_bucket(plan: &Arc<Plan>, content: &Content, targets: &[Target]) -> Result<(), BenchError> {
    let writes = plan.prepare || matches!(plan.op, Op::Put | Op::Load | Op::Mixed);
    let mut client = Client::new(Arc::clone(plan), content.clone(), targets, 0);
    let result = phase::block_on_here(async {
        let work = async {
            client.connect().await?;
            if writes {
                client.ensure_bucket().await
            } else {
                client.head_bucket().await
            }
        };
        tokio::time::timeout(plan.timeout, work)
            .await
            .unwrap_or(Err(Failure::Timeout(plan.timeout)))
    })?;
    match result {
        Ok(()) => Ok(()),
        Err(Failure::S3 { status: 404, .. }) if !writes => {
            Err(BenchError::NoBucket(plan.bucket.clone()))
        }
        Err(failure @ (Failure::S3 { .. } | Failure::Wrong(_))) => {
            Err(BenchError::Bucket(plan.bucket.clone(), failure))
        }
        Err(failure) => Err(BenchError::Unreachable(failure.to_string())),
    }
}

/// The server's processes, or why they are not known.
fn find_server(given: &[u32], targets: &[Target]) -> Result<Vec<u32>, String> {
    if !given.is_empty() {
        return Ok(given.to_vec());
    }
    let mut pids = HashSet::new();
    for target in targets {
        if !process::is_local(target.address.ip()) {
            return Err(format!(
                "cost not measured: {} is not this machine",
                target.endpoint.authority()
            ));
        }
        let found = process::listeners(target.address.port())
            .map_err(|e| format!("cost not measured: {e}"))?;
        if found.is_empty() {
            return Err(format!(
                "cost not measured: no process that this user may look into listens on port {}; name it with --server-pid",
                target.address.port()
            ));
        }
        pids.extend(found);
    }
    let mut pids: Vec<u32> = pids.into_iter().collect();
    pids.sort_unstable();
    Ok(pids)
}

/// CPU time used so far, by whom.
#[derive(Debug)]
struct Usage {
    server: io::Result<CpuTime>,
    client: CpuTime,
    processors: Processors,
}

impl Usage {
    fn now(server: &Result<Vec<u32>, String>) -> Self {
        Self {
            server: process::cpu_time(server.as_deref().unwrap_or_default()),
            client: process::own_cpu_time().unwrap_or_default(),
            processors: process::processors().unwrap_or_default(),
        }
    }
}

fn server_cost(
    server: Result<Vec<u32>, String>,
    [before, after, settled]: [&Usage; 3],
    settle: Duration,
    tally: &Tally,
) -> Server {
    let pids = match server {
        Ok(pids) => pids,
        Err(why) => return Server::Unknown(why),
    };
    let memory = process::memory(&pids);
    let (Ok(before), Ok(after), Ok(settled), Ok(memory)) =
        (&before.server, &after.server, &settled.server, memory)
    else {
        return Server::Unknown(format!(
            "cost not measured: process {pids:?} is gone or cannot be looked into"
        ));
    };
    let cost = ServerCost::new(
        pids,
        after.since(before),
        settled.since(after),
        settle,
        memory,
        tally,
    );
    Server::Measured(Box::new(cost))
}

/// Writes a line to standard error. That nobody reads it any more is no reason to end: `eprintln!` would.
pub(super) fn tell(line: &str) {
    let _nobody_reads = writeln!(io::stderr(), "{line}");
}

/// Text to standard output and JSON to its file; with `--json -`, JSON to standard output and text to standard
/// error.
fn write_results<T: serde::Serialize>(
    json: Option<&Path>,
    results: &T,
    text: &str,
) -> Result<(), BenchError> {
    let to_stdout = json == Some(Path::new("-"));
    let mut stdout = io::stdout().lock();
    if to_stdout {
        tell(text);
    } else {
        // A reader that went away has seen enough.
        let _ = writeln!(stdout, "{text}");
    }
    let Some(path) = json else { return Ok(()) };
    let failed = |e: io::Error| BenchError::Json(path.to_owned(), e);
    let document = serde_json::to_string_pretty(results).map_err(|e| failed(e.into()))?;
    if to_stdout {
        match writeln!(stdout, "{document}") {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failed(error)),
            _ => Ok(()),
        }
    } else {
        std::fs::write(path, document + "\n").map_err(failed)
    }
}

/// What the exit status says of `report`.
fn verdict(report: &Report) -> Result<(), BenchError> {
    let no_errors = BTreeMap::new();
    let (later, later_wrong, compared) = report
        .read_back
        .as_ref()
        .map_or((&no_errors, 0, 0), |back| {
            (&back.errors, back.wrong_data, back.objects)
        });
    let errors = || report.errors.values().chain(later.values());
    let failed: u64 = errors().map(|error| error.count).sum();
    let succeeded = report
        .requests
        .values()
        .map(|requests| requests.ops)
        .sum::<u64>()
        + compared;
    match errors().next() {
        Some(first) => Err(BenchError::Failed {
            failed,
            asked: failed + succeeded,
            wrong_data: report.wrong_data + later_wrong,
            example: first.example.clone(),
        }),
        None if succeeded == 0 => Err(BenchError::Nothing),
        None => Ok(()),
    }
}
