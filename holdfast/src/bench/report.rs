//! What is said at the end: a table for people, JSON for programs.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use serde::Serialize;

use super::args::{Kind, Plan};
use super::histogram::Histogram;
use super::limits::Limits;
use super::process::{CpuTime, Memory};
use super::tally::{KindTally, Tally};
use crate::units::{ByteSize, show_nanos, show_number};

/// All results of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    pub version: &'static str,
    pub parameters: Parameters,
    pub elapsed_s: f64,
    pub requests: BTreeMap<&'static str, Requests>,
    /// Of a listing: what was listed.
    pub listing: Option<Listing>,
    pub errors: BTreeMap<String, Errors>,
    pub wrong_data: u64,
    pub reconnects: u64,
    /// What was compared after a phase that wrote.
    pub read_back: Option<ReadBack>,
    /// Of a local server; else why there is nothing to say.
    pub server: Server,
    pub client: Cost,
    pub machine: Machine,
    pub limits: Option<Limits>,
}

/// What was asked.
#[derive(Debug, Serialize)]
pub struct Parameters {
    pub op: &'static str,
    pub endpoints: Vec<String>,
    pub bucket: String,
    pub size: u64,
    pub concurrency: usize,
    pub threads: usize,
    pub count: Option<u64>,
    pub duration_s: Option<f64>,
    pub keys: u64,
    pub prefix: String,
    pub keys_per_folder: u64,
    pub delimiter: Option<String>,
    pub versions: bool,
    pub start_after: Option<String>,
    pub pages: Option<u64>,
    pub page: u32,
    pub mix: BTreeMap<&'static str, u32>,
    pub payload: &'static str,
    pub verify: bool,
    pub seed: u64,
}

impl Parameters {
    /// The parameters of `plan`.
    pub fn of(plan: &Plan) -> Self {
        Self {
            op: plan.op.name(),
            endpoints: plan
                .endpoints
                .iter()
                .map(|endpoint| format!("http://{}", endpoint.authority()))
                .collect(),
            bucket: plan.bucket.clone(),
            size: plan.size,
            concurrency: plan.concurrency,
            threads: plan.threads,
            count: plan.count,
            duration_s: plan.duration.map(|duration| duration.as_secs_f64()),
            keys: plan.keys,
            prefix: plan.prefix.clone(),
            keys_per_folder: plan.keys_per_folder,
            delimiter: plan.delimiter.clone(),
            versions: plan.versions,
            start_after: plan.start_after.clone(),
            pages: plan.pages,
            page: plan.page,
            mix: plan
                .mix
                .iter()
                .map(|share| (share.kind.name(), share.weight))
                .collect(),
            payload: plan.payload.name(),
            verify: plan.verify,
            seed: plan.seed,
        }
    }
}

/// Requests of one kind.
#[derive(Debug, Serialize)]
pub struct Requests {
    pub ops: u64,
    pub ops_per_s: f64,
    pub bytes: u64,
    pub mib_per_s: f64,
    pub latency: Latency,
    pub first_byte: Option<Latency>,
}

/// Latencies in nanoseconds.
#[derive(Debug, Serialize)]
pub struct Latency {
    pub min_ns: u64,
    pub mean_ns: u64,
    pub p50_ns: u64,
    pub p90_ns: u64,
    pub p99_ns: u64,
    pub p999_ns: u64,
    pub max_ns: u64,
}

impl Latency {
    fn of(histogram: &Histogram) -> Self {
        Self {
            min_ns: histogram.min(),
            mean_ns: histogram.mean(),
            p50_ns: histogram.percentile(0.5),
            p90_ns: histogram.percentile(0.9),
            p99_ns: histogram.percentile(0.99),
            p999_ns: histogram.percentile(0.999),
            max_ns: histogram.max(),
        }
    }
}

/// What listings returned.
#[derive(Debug, Serialize)]
pub struct Listing {
    pub walks: u64,
    pub pages: u64,
    pub keys: u64,
    pub common_prefixes: u64,
    pub keys_per_s: f64,
}

/// Failures of one code.
#[derive(Debug, Serialize)]
pub struct Errors {
    pub count: u64,
    pub example: String,
}

/// What was compared after writing.
#[derive(Debug, Serialize)]
pub struct ReadBack {
    pub objects: u64,
    pub bytes: u64,
    pub errors: BTreeMap<String, Errors>,
    pub wrong_data: u64,
}

impl ReadBack {
    /// The outcome of a read-back that counted `tally`.
    pub fn of(tally: &Tally) -> Self {
        Self {
            objects: tally.ops(),
            bytes: tally.bytes(),
            errors: errors_of(tally),
            wrong_data: tally.wrong_data,
        }
    }
}

/// What the server used.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Server {
    Unknown(String),
    Measured(Box<ServerCost>),
}

/// What a local server used, over the run.
#[derive(Debug, Serialize)]
pub struct ServerCost {
    pub pids: Vec<u32>,
    pub cost: Cost,
    /// Used after the last answer, within `settle_s`: work that the answers did not wait for.
    pub afterwards_cpu_s: f64,
    pub settle_s: f64,
    pub rss_bytes: u64,
    pub peak_rss_bytes: u64,
}

impl ServerCost {
    /// What `pids` used over a run that counted `tally`.
    pub fn new(
        pids: Vec<u32>,
        used: CpuTime,
        afterwards: CpuTime,
        settle: Duration,
        memory: Memory,
        tally: &Tally,
    ) -> Self {
        Self {
            pids,
            cost: Cost::new(used, tally),
            afterwards_cpu_s: afterwards.total_s(),
            settle_s: settle.as_secs_f64(),
            rss_bytes: memory.now,
            peak_rss_bytes: memory.peak,
        }
    }
}

/// CPU time and what it bought.
#[derive(Debug, Serialize)]
pub struct Cost {
    pub cpu_s: f64,
    pub user_s: f64,
    pub system_s: f64,
    /// None where no bytes, operations or keys were moved, or the time is below the clock's tick.
    pub cpu_s_per_gb: Option<f64>,
    pub cpu_s_per_1000_ops: Option<f64>,
    pub ops_per_cpu_s: Option<f64>,
    pub keys_per_cpu_s: Option<f64>,
}

impl Cost {
    /// `used` over a run that counted `tally`.
    pub fn new(used: CpuTime, tally: &Tally) -> Self {
        let cpu_s = used.total_s();
        // In a mix, the time went into other things as well.
        let only_lists = tally.kinds.keys().all(|&kind| kind == Kind::List);
        let listed = if only_lists {
            tally.listed_keys + tally.listed_prefixes
        } else {
            0
        };
        let per = |amount: f64| (amount > 0.0 && cpu_s > 0.0).then(|| cpu_s / amount);
        let rate = |amount: u64| (amount > 0 && cpu_s > 0.0).then(|| amount as f64 / cpu_s);
        Self {
            cpu_s,
            user_s: used.user_s,
            system_s: used.system_s,
            cpu_s_per_gb: per(tally.bytes() as f64 / 1e9),
            cpu_s_per_1000_ops: per(tally.ops() as f64 / 1e3),
            ops_per_cpu_s: rate(tally.ops()),
            keys_per_cpu_s: rate(listed),
        }
    }
}

/// The machine during the run.
#[derive(Debug, Serialize)]
pub struct Machine {
    pub cores: usize,
    /// Cores that were busy on average, whoever used them.
    pub busy_cores: f64,
    /// Cores that the hypervisor kept from this machine on average.
    pub stolen_cores: f64,
}

impl Report {
    /// The requests of `tally`, by kind.
    pub fn requests(tally: &Tally, elapsed: Duration) -> BTreeMap<&'static str, Requests> {
        let seconds = elapsed.as_secs_f64().max(1e-9);
        let of_kind = |(kind, tally): (&Kind, &KindTally)| {
            let ops = tally.latency.count();
            let requests = Requests {
                ops,
                ops_per_s: ops as f64 / seconds,
                bytes: tally.bytes,
                mib_per_s: tally.bytes as f64 / seconds / 1_048_576.0,
                latency: Latency::of(&tally.latency),
                first_byte: (tally.first_byte.count() > 0).then(|| Latency::of(&tally.first_byte)),
            };
            (kind.name(), requests)
        };
        tally
            .kinds
            .iter()
            .filter(|(_, tally)| tally.latency.count() > 0)
            .map(of_kind)
            .collect()
    }

    /// The listings of `tally`, if there were any.
    pub fn listing(tally: &Tally, elapsed: Duration) -> Option<Listing> {
        let pages = tally.kinds.get(&Kind::List)?.latency.count();
        let listed = tally.listed_keys + tally.listed_prefixes;
        Some(Listing {
            walks: tally.walks,
            pages,
            keys: tally.listed_keys,
            common_prefixes: tally.listed_prefixes,
            keys_per_s: listed as f64 / elapsed.as_secs_f64().max(1e-9),
        })
    }
}

/// The failures of `tally`, by code.
pub fn errors_of(tally: &Tally) -> BTreeMap<String, Errors> {
    let errors = tally.errors.iter().map(|(code, error)| {
        let errors = Errors {
            count: error.count,
            example: error.example.clone(),
        };
        (code.clone(), errors)
    });
    errors.collect()
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let asked = &self.parameters;
        writeln!(
            f,
            "{} {} x {} on {}, {} s",
            asked.op,
            ByteSize(asked.size),
            asked.concurrency,
            asked.endpoints.join(" "),
            show_number(self.elapsed_s),
        )?;
        if !self.requests.is_empty() {
            writeln!(
                f,
                "{:<12} {:>9} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8}",
                "", "ops", "ops/s", "MiB/s", "p50", "p90", "p99", "p99.9", "max"
            )?;
        }
        for (name, requests) in &self.requests {
            write!(
                f,
                "{name:<12} {:>9} {:>9} {:>9} ",
                requests.ops,
                show_number(requests.ops_per_s),
                show_number(requests.mib_per_s)
            )?;
            write_latency(f, &requests.latency)?;
            if let Some(first_byte) = &requests.first_byte {
                write!(f, "{:<12} {:>9} {:>9} {:>9} ", " first byte", "", "", "")?;
                write_latency(f, first_byte)?;
            }
        }
        if let Some(listing) = &self.listing {
            writeln!(
                f,
                "listed       {} keys and {} common prefixes on {} pages, {} whole walks: {} keys/s",
                listing.keys,
                listing.common_prefixes,
                listing.pages,
                listing.walks,
                show_number(listing.keys_per_s),
            )?;
        }
        write_errors(f, "errors", &self.errors)?;
        if let Some(read_back) = &self.read_back {
            writeln!(
                f,
                "read back    {} objects, {} bytes compared",
                read_back.objects, read_back.bytes
            )?;
            write_errors(f, "", &read_back.errors)?;
        }
        if self.reconnects > 0 {
            writeln!(f, "reconnected  {} times", self.reconnects)?;
        }
        match &self.server {
            Server::Unknown(why) => writeln!(f, "server       {why}")?,
            Server::Measured(server) => write_server(f, server)?,
        }
        writeln!(f, "client       {}", self.client)?;
        write!(
            f,
            "machine      {} cores, {} busy, {} stolen",
            self.machine.cores,
            show_number(self.machine.busy_cores),
            show_number(self.machine.stolen_cores),
        )?;
        if let Some(limits) = &self.limits {
            write!(f, "\nlimits of this machine\n{limits}")?;
        }
        Ok(())
    }
}

fn write_latency(f: &mut Formatter<'_>, latency: &Latency) -> fmt::Result {
    for nanos in [
        latency.p50_ns,
        latency.p90_ns,
        latency.p99_ns,
        latency.p999_ns,
    ] {
        write!(f, "{:>8} ", show_nanos(nanos))?;
    }
    writeln!(f, "{:>8}", show_nanos(latency.max_ns))
}

fn write_errors(
    f: &mut Formatter<'_>,
    title: &str,
    errors: &BTreeMap<String, Errors>,
) -> fmt::Result {
    for (code, error) in errors {
        writeln!(
            f,
            "{title:<12} {} x {code}, the first: {}",
            error.count, error.example
        )?;
    }
    Ok(())
}

fn write_server(f: &mut Formatter<'_>, server: &ServerCost) -> fmt::Result {
    writeln!(f, "server       {}", server.cost)?;
    let mib = |bytes: u64| show_number(bytes as f64 / 1_048_576.0);
    write!(
        f,
        "             RSS {} MiB, peak {} MiB",
        mib(server.rss_bytes),
        mib(server.peak_rss_bytes)
    )?;
    if server.settle_s > 0.0 {
        write!(
            f,
            "; {} CPU-s in the {} s afterwards",
            show_number(server.afterwards_cpu_s),
            show_number(server.settle_s)
        )?;
    }
    let pids: Vec<String> = server.pids.iter().map(u32::to_string).collect();
    writeln!(f, "; process {}", pids.join(" "))
}

impl Display for Cost {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} CPU-s ({} user, {} system)",
            show_number(self.cpu_s),
            show_number(self.user_s),
            show_number(self.system_s)
        )?;
        let costs = [
            (self.cpu_s_per_gb, "CPU-s/GB"),
            (self.cpu_s_per_1000_ops, "CPU-s/1000 ops"),
            (self.ops_per_cpu_s, "ops/CPU-s"),
            (self.keys_per_cpu_s, "keys/CPU-s"),
        ];
        for (value, unit) in costs {
            if let Some(value) = value {
                write!(f, ", {} {unit}", show_number(value))?;
            }
        }
        Ok(())
    }
}
