//! The whole cluster in one process on simulated time, network and drives. See `README.md` here.

mod census;
mod chance;
mod client;
mod clock;
mod doomed;
mod faults;
mod hook;
mod kept;
mod late;
mod logs;
mod many;
mod measured;
mod media;
mod mending;
mod net;
mod node;
mod run;
mod strays;
mod trace;
mod troupe;
mod wander;
mod workload;
mod world;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use holdfast_placement::planted::Bug;

use run::{Options, Report, run};
use world::Shape;

/// Simulates clusters that things go wrong with, and checks what they promise.
#[derive(Parser)]
struct Args {
    /// Run this seed alone, in this process.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// How many seeds to run, each in a process of its own.
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Processes at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Print what happens.
    #[arg(long)]
    trace: bool,
    /// Plant a bug: its name, or `all` for each in turn until it is caught.
    #[arg(long)]
    bug: Option<String>,
    /// What the code logs, such as `warn` or `holdfast=debug`.
    #[arg(long)]
    log: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(filter) = &args.log {
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .without_time()
            .init();
    }
    match args.seed {
        Some(seed) => one(seed, &args),
        None => many(&args),
    }
}

fn one(seed: u64, args: &Args) -> ExitCode {
    let bug = match args.bug.as_deref().map(bug_named) {
        Some(None) => return ExitCode::from(2),
        bug => bug.flatten(),
    };
    let started = Instant::now();
    let report = run(Options {
        seed,
        prints: args.trace,
        bug,
        shape: Shape::of(seed),
    });
    show(seed, &report, started.elapsed().as_secs_f64());
    match report.violations.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn show(seed: u64, report: &Report, secs: f64) {
    let tally: Vec<String> = report
        .tally
        .iter()
        .map(|(what, count)| format!("{what} {count}"))
        .collect();
    println!(
        "seed {seed}: {} trace {} of {} events, {:.1} s simulated in {secs:.1} s; {}{}",
        match report.violations.len() {
            0 => "ok,".to_owned(),
            count => format!("{count} VIOLATIONS,"),
        },
        report.digest,
        report.events,
        report.took.as_secs_f64(),
        tally.join(", "),
        match report.undecided {
            0 => String::new(),
            keys => format!("; {keys} keys undecided"),
        },
    );
    for violation in &report.violations {
        println!("  {violation}");
    }
}

fn bug_named(name: &str) -> Option<Bug> {
    let bug = Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name);
    if bug.is_none() {
        eprintln!("there is no bug {name}; there are {:?}", Bug::ALL);
    }
    bug
}

fn many(args: &Args) -> ExitCode {
    let outcome = match args.bug.as_deref() {
        None => all_hold(args),
        Some("all") => all_caught(args, &Bug::ALL),
        Some(name) => match bug_named(name) {
            Some(bug) => all_caught(args, &[bug]),
            None => return ExitCode::from(2),
        },
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn seeds(args: &Args) -> std::ops::Range<u64> {
    args.from..args.from.saturating_add(args.seeds)
}

/// Whether everything holds with every seed.
fn all_hold(args: &Args) -> std::io::Result<bool> {
    let (mut ran, mut failed) = (0, Vec::new());
    many::each(seeds(args), args.jobs, None, |outcome| {
        ran += 1;
        print!("{}", outcome.text);
        if !outcome.ok {
            failed.push(outcome.seed);
        }
        true
    })?;
    println!("{ran} seeds, {} failed {failed:?}", failed.len());
    Ok(failed.is_empty())
}

/// Whether every bug is caught by one of the seeds.
fn all_caught(args: &Args, bugs: &[Bug]) -> std::io::Result<bool> {
    let mut all = true;
    for bug in bugs {
        let (mut ran, mut caught) = (0, None);
        many::each(seeds(args), args.jobs, Some(*bug), |outcome| {
            ran += 1;
            if !outcome.ok && caught.is_none() {
                caught = Some((outcome.seed, ran, outcome.text));
            }
            caught.is_none()
        })?;
        match caught {
            Some((seed, ran, text)) => {
                let how = text.lines().nth(1).unwrap_or(&text).trim();
                let how: String = how.chars().take(160).collect();
                println!("{bug:?}: caught by the {ran}. seed, {seed}: {how}");
            }
            None => {
                all = false;
                println!("{bug:?}: NOT CAUGHT by {ran} seeds");
            }
        }
    }
    Ok(all)
}
