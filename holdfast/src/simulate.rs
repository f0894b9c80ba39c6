//! `holdfast admin simulate`: the ring of a described fleet, on paper.
//!
//! Balance and movement are those of the ring that a cluster would compute. The expected loss is that of a model:
//!
//! - Drives fail independently, at the constant rate that the annual failure rate says.
//! - The `k+m` drives of a partition are a birth-death Markov chain in the number of those that have failed: from `i` to
//!   `i+1` at rate `(k+m-i) * failure rate`, back at `i / rebuild time`. The partition is lost, with all that is in it,
//!   when it first comes to `m+1` (Patterson, Gibson, Katz: A Case for RAID, SIGMOD 1988; the general chain in
//!   Angus: On computing MTBF for a k-out-of-n:G repairable system, IEEE Trans. Reliability 1988).
//! - A failed drive is rebuilt by many: each partition's shards by the drives that have the others, onto the drives that
//!   take its slots over. Each gives the rebuild speed, reading and writing; a rebuilt byte takes `k` that are read.
//! - Partitions are few and chosen, as copysets are (Cidon et al.: Copysets, USENIX ATC 2013), so the chance that
//!   anything is lost in a year is that of any of the partitions, taken to be independent.
//!
//! `--help` says so too, with the chain's mean time where repair is much faster than failure.
//!
//! Whole machines that are lost, bad software and mistakes are not in it: compare configurations with the numbers, do not
//! promise them (Greenan, Plank, Wylie: Mean time to meaningless, HotStorage 2010).

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::str::FromStr;

use clap::Args;
use holdfast_placement::balance::{Member, balance, fair_shares, least_moves};
use holdfast_placement::ids::{DriveId, NodeId};
use holdfast_placement::protection::Protection;
use holdfast_placement::ring::{PARTITIONS, Ring};
use serde::Serialize;

use crate::units::{ByteSize, show_number};

/// What a partition can be numbered with.
const PARTITIONS_MAX: usize = 65_536;

/// Larger fleets are not computed.
const DRIVES_MAX: usize = 100_000;

/// With fewer slots to a drive one more or less is felt.
const EVEN_SLOTS_A_DRIVE: f64 = 20.0;

const SECONDS_A_YEAR: f64 = 365.25 * 86_400.0;

/// What is shown under the options.
const HOW: &str = "\
The ring is the one that a cluster of these nodes would compute. What a change moves is compared with a lower bound: no ring
that keeps the rule of domains and gives every drive its fair share to within a slot moves less.

The loss in a year is that of a model. Drives fail independently, at a constant rate: --afr in a hundred a year. A failed drive
is rebuilt onto the drives that take its slots over, from the drives that have the other shards, each reading and writing
--rebuild a second; a rebuilt byte takes K that are read. A partition is lost when M+1 of its K+M drives have failed at
once: the mean time to that is that of a birth-death chain, about M! x R^M / (N x (N-1) x ... x (N-M) x F^(M+1)) for N = K+M,
R rebuilds and F failures of a drive a year. `of the data` is the chance of one partition, `anything` that of any of them.
Lost machines, bad software and mistakes are not in it: it is good to compare, no promise.";

#[derive(Args)]
#[command(after_long_help = HOW)]
pub struct SimulateArgs {
    /// Nodes with storage.
    #[arg(long, default_value_t = 3)]
    nodes: usize,

    /// Drives of each node.
    #[arg(long, default_value_t = 1, value_name = "N")]
    drives_per_node: usize,

    /// Bytes of a drive, such as 8TB. Several, with commas, are given to the nodes in turn.
    #[arg(
        long,
        default_value = "8TB",
        value_delimiter = ',',
        value_name = "SIZE"
    )]
    capacity: Vec<ByteSize>,

    /// Racks that the nodes are in, in turn.
    #[arg(long, default_value_t = 1)]
    racks: u32,

    /// `auto`, or K+M such as 4+2.
    #[arg(long, default_value = "auto", value_name = "auto|K+M")]
    protection: WantedProtection,

    /// Partitions of the ring; fixed when a cluster is made.
    #[arg(long, default_value_t = PARTITIONS, value_name = "N")]
    partitions: usize,

    /// Nodes that are added to those.
    #[arg(long, default_value_t = 0, value_name = "NODES")]
    add: usize,

    /// Nodes that are removed from those.
    #[arg(long, default_value_t = 0, value_name = "NODES")]
    remove: usize,

    /// How many of a hundred drives fail in a year.
    #[arg(long, default_value = "1.5%", value_name = "PERCENT")]
    afr: Percent,

    /// Bytes a second that each drive gives to rebuilding others.
    #[arg(long, default_value = "500MB/s", value_name = "SIZE/s")]
    rebuild: Speed,

    /// How much of the drives is used.
    #[arg(long, default_value = "60%", value_name = "PERCENT")]
    data_used: Percent,

    /// For machines: JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy)]
enum WantedProtection {
    Auto,
    Is(Protection),
}

impl FromStr for WantedProtection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => match text.parse() {
                Ok(protection) => Ok(Self::Is(protection)),
                Err(error) => Err(format!("{error}, or auto")),
            },
        }
    }
}

/// A part of the whole, `0.0..=1.0`.
#[derive(Clone, Copy)]
struct Percent(f64);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text
            .strip_suffix('%')
            .and_then(|text| text.trim().parse::<f64>().ok());
        match number {
            Some(number) if (0.0..=100.0).contains(&number) => Ok(Self(number / 100.0)),
            _ => Err(format!(
                "`{text}` is no part of the whole: write 0% to 100%, as in `1.5%`"
            )),
        }
    }
}

/// Bytes a second.
#[derive(Clone, Copy)]
struct Speed(f64);

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = text
            .strip_suffix("/s")
            .and_then(|text| text.parse::<ByteSize>().ok());
        match size {
            Some(ByteSize(bytes)) if bytes > 0 => Ok(Self(bytes as f64)),
            _ => Err(format!(
                "`{text}` is not a speed: write a size a second, as in `500MB/s`"
            )),
        }
    }
}

/// Why a fleet cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimulateError {
    #[error("--{0} must be at least 1")]
    Zero(&'static str),
    #[error("{0} drives are more than the {DRIVES_MAX} that can be simulated")]
    TooManyDrives(usize),
    #[error("--partitions must be 1 to {PARTITIONS_MAX}")]
    Partitions,
    #[error("--remove {remove} leaves nothing of {nodes} nodes")]
    NothingLeft { remove: usize, nodes: usize },
    #[error(
        "protection {protection} needs {needed} drives, and there are {drives}: give more, or less protection"
    )]
    TooFewDrives {
        protection: Protection,
        needed: usize,
        drives: usize,
    },
    #[error("the result cannot be written: {0}")]
    Output(String),
}

/// What came out. Sizes are bytes.
#[derive(Debug, Serialize)]
struct Report {
    nodes: usize,
    drives: usize,
    racks: u32,
    raw_bytes: f64,
    protection: String,
    /// Shards of a chunk.
    slots: usize,
    /// Bytes on drives for a byte of data.
    overhead: f64,
    usable_bytes: f64,
    survives_a_node: bool,
    partitions: usize,
    balance: Balance,
    change: Option<Change>,
    loss: Loss,
}

/// How full drives are.
#[derive(Debug, Serialize)]
struct Balance {
    /// Parts of the capacity that are used.
    least_used: f64,
    fair_used: f64,
    most_used: f64,
    /// The largest distance of a drive from its fair share, slots of the ring.
    off_slots_max: f64,
}

/// What adding and removing nodes moves.
#[derive(Debug, Serialize)]
struct Change {
    nodes_added: usize,
    nodes_removed: usize,
    moved_bytes: f64,
    /// What has to move in any ring that keeps what is promised of rings; a lower bound.
    least_bytes: f64,
    moved_to_least: f64,
    balance_after: Balance,
}

#[derive(Debug, Serialize)]
struct Loss {
    rebuild_seconds: f64,
    /// Drives that rebuild a failed one together.
    rebuilding_drives: f64,
    /// That anything is lost in a year.
    probability_a_year: f64,
    /// Of the data that is lost in a year, expected; also of objects of one chunk.
    fraction_a_year: f64,
    nines: f64,
    objects_a_year_of_a_billion: f64,
}

pub fn run(args: &SimulateArgs) -> Result<(), SimulateError> {
    let report = simulate(args)?;
    let mut out = io::stdout().lock();
    let written = if args.json {
        let json = serde_json::to_string_pretty(&report).map_err(io::Error::from);
        json.and_then(|json| writeln!(out, "{json}"))
    } else {
        write_table(&mut out, &report)
    };
    written.map_err(|error| SimulateError::Output(error.to_string()))
}

fn simulate(args: &SimulateArgs) -> Result<Report, SimulateError> {
    for (name, value) in [
        ("nodes", args.nodes),
        ("drives-per-node", args.drives_per_node),
        ("racks", args.racks as usize),
    ] {
        if value == 0 {
            return Err(SimulateError::Zero(name));
        }
    }
    if args.capacity.iter().any(|size| size.0 == 0) {
        return Err(SimulateError::Zero("capacity"));
    }
    if !(1..=PARTITIONS_MAX).contains(&args.partitions) {
        return Err(SimulateError::Partitions);
    }
    let most = args
        .nodes
        .saturating_add(args.add)
        .saturating_mul(args.drives_per_node);
    if most > DRIVES_MAX {
        return Err(SimulateError::TooManyDrives(most));
    }
    if args.remove >= args.nodes {
        return Err(SimulateError::NothingLeft {
            remove: args.remove,
            nodes: args.nodes,
        });
    }
    let before = fleet(args, 0..args.nodes);
    let protection = match args.protection {
        WantedProtection::Auto => Protection::auto(&before),
        WantedProtection::Is(protection) => protection,
    };
    let slots = protection.slots();
    let after = fleet(args, args.remove..args.nodes + args.add);
    for drives in [before.len(), after.len()] {
        if drives < slots {
            return Err(SimulateError::TooFewDrives {
                protection,
                needed: slots,
                drives,
            });
        }
    }
    let raw: f64 = before.iter().map(|member| member.capacity as f64).sum();
    let used = raw * args.data_used.0;
    let slot_bytes = used / (args.partitions * slots) as f64;
    let ring = balance(&before, args.partitions, &[slots], None);
    let overhead = slots as f64 / f64::from(protection.data);
    let change = (args.add + args.remove > 0).then(|| {
        let next = ring.rebalanced(&after, &[slots]);
        let (moved, least) = (
            moved(&ring, &next, slots),
            least_moves(&ring, &after, slots),
        );
        Change {
            nodes_added: args.add,
            nodes_removed: args.remove,
            moved_bytes: moved as f64 * slot_bytes,
            least_bytes: least as f64 * slot_bytes,
            moved_to_least: if moved == least {
                1.0
            } else {
                moved as f64 / least.max(1) as f64
            },
            balance_after: balance_of(&next, &after, slots, slot_bytes),
        }
    });
    Ok(Report {
        nodes: args.nodes,
        drives: before.len(),
        racks: args.racks.min(args.nodes as u32),
        raw_bytes: raw,
        protection: protection.to_string(),
        slots,
        overhead,
        usable_bytes: raw / overhead,
        survives_a_node: protection.survives_a_host(&before),
        partitions: args.partitions,
        balance: balance_of(&ring, &before, slots, slot_bytes),
        change,
        loss: loss(args, protection, before.len(), used / before.len() as f64),
    })
}

/// The drives of the nodes numbered so.
fn fleet(args: &SimulateArgs, nodes: std::ops::Range<usize>) -> Vec<Member> {
    let drive = |node: usize, number: usize| Member {
        drive: DriveId((node * args.drives_per_node + number) as u64 + 1),
        capacity: args.capacity[node % args.capacity.len()].0,
        host: NodeId(node as u64 + 1),
        rack: node as u32 % args.racks,
    };
    nodes
        .flat_map(|node| (0..args.drives_per_node).map(move |number| drive(node, number)))
        .collect()
}

/// Of the first `slots` slots of all partitions, how many each drive has.
fn held(ring: &Ring, slots: usize) -> BTreeMap<DriveId, usize> {
    let mut held = BTreeMap::new();
    for partition in ring.partitions() {
        for slot in partition.iter().take(slots) {
            *held.entry(slot.target).or_default() += 1;
        }
    }
    held
}

fn balance_of(ring: &Ring, members: &[Member], slots: usize, slot_bytes: f64) -> Balance {
    let held = held(ring, slots);
    let of = |drive: &DriveId| held.get(drive).copied().unwrap_or(0) as f64;
    let used = members
        .iter()
        .map(|member| of(&member.drive) * slot_bytes / member.capacity as f64);
    let (least, most) = used.fold((f64::INFINITY, 0.0f64), |(least, most), used| {
        (least.min(used), most.max(used))
    });
    let raw: f64 = members.iter().map(|member| member.capacity as f64).sum();
    let fair = fair_shares(members, ring.partition_count(), slots);
    let off = fair.iter().map(|(drive, share)| (of(drive) - share).abs());
    Balance {
        least_used: least,
        fair_used: slot_bytes * (ring.partition_count() * slots) as f64 / raw,
        most_used: most,
        off_slots_max: off.fold(0.0, f64::max),
    }
}

/// Slots that changed their drive.
fn moved(before: &Ring, after: &Ring, slots: usize) -> usize {
    let pairs = before.partitions().zip(after.partitions());
    pairs
        .flat_map(|(before, after)| before.iter().zip(after).take(slots))
        .filter(|(before, after)| before.target != after.target)
        .count()
}

fn loss(args: &SimulateArgs, protection: Protection, drives: usize, drive_bytes: f64) -> Loss {
    let (slots, data) = (protection.slots() as f64, f64::from(protection.data));
    let a_drive = args.partitions as f64 * slots / drives as f64;
    let others = (drives as f64 - 1.0).max(1.0);
    let writers = a_drive.clamp(1.0, others);
    let readers = (a_drive * (slots - 1.0)).clamp(1.0, others);
    let rebuilding = writers.min(readers / data).max(1.0 / data);
    let rebuild_seconds = drive_bytes / (args.rebuild.0 * rebuilding);
    let failures = -(1.0 - args.afr.0.min(1.0 - 1e-9)).ln() / SECONDS_A_YEAR;
    // Expected time from `i` failed drives to `i + 1`, summed up.
    let (mut step, mut until_loss) = (0.0, 0.0);
    for failed in 0..=protection.parity {
        let failed = f64::from(failed);
        let worse = (slots - failed) * failures;
        let better = if rebuild_seconds > 0.0 {
            failed / rebuild_seconds
        } else {
            f64::INFINITY
        };
        step = 1.0 / worse
            + if failed > 0.0 {
                better / worse * step
            } else {
                0.0
            };
        until_loss += step;
    }
    let fraction = -(-SECONDS_A_YEAR / until_loss).exp_m1();
    let any = -(-SECONDS_A_YEAR / until_loss * args.partitions as f64).exp_m1();
    Loss {
        rebuild_seconds,
        rebuilding_drives: rebuilding,
        probability_a_year: any,
        fraction_a_year: fraction,
        // 18 nines are more than any model can mean.
        nines: (-fraction.max(1e-18).log10()).clamp(0.0, 18.0),
        objects_a_year_of_a_billion: fraction * 1e9,
    }
}

fn write_table(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let percent = |part: f64| format!("{}%", show_number(part * 100.0));
    let mut row = |name: &str, value: String| writeln!(out, "{name:<22}{value}");
    row(
        "fleet",
        format!(
            "{} nodes, {} drives, {} racks, {}",
            report.nodes,
            report.drives,
            report.racks,
            bytes(report.raw_bytes)
        ),
    )?;
    row(
        "protection",
        format!(
            "{}, {} for a byte, {} usable{}",
            report.protection,
            show_number(report.overhead),
            bytes(report.usable_bytes),
            if report.survives_a_node {
                ", any node may be lost"
            } else {
                ", NOT every node may be lost"
            }
        ),
    )?;
    let balance = |balance: &Balance| {
        format!(
            "least {}, fair {}, most {} used; at most {} slots off",
            percent(balance.least_used),
            percent(balance.fair_used),
            percent(balance.most_used),
            show_number(balance.off_slots_max)
        )
    };
    row("drives", balance(&report.balance))?;
    if let Some(change) = &report.change {
        row(
            "change",
            format!(
                "{} nodes added, {} removed",
                change.nodes_added, change.nodes_removed
            ),
        )?;
        row(
            "moved",
            format!(
                "{}, {} times the least possible ({})",
                bytes(change.moved_bytes),
                show_number(change.moved_to_least),
                bytes(change.least_bytes)
            ),
        )?;
        row("drives afterwards", balance(&change.balance_after))?;
    }
    let loss = &report.loss;
    row(
        "rebuild of a drive",
        format!(
            "{} minutes, by {} drives",
            show_number(loss.rebuild_seconds / 60.0),
            show_number(loss.rebuilding_drives)
        ),
    )?;
    row(
        "loss in a year",
        format!(
            "anything: {:.1e}; of the data: {:.1e} ({:.1} nines), {:.1e} of a billion objects",
            loss.probability_a_year,
            loss.fraction_a_year,
            loss.nines,
            loss.objects_a_year_of_a_billion
        ),
    )?;
    let slots_a_drive = (report.partitions * report.slots) as f64 / report.drives as f64;
    if slots_a_drive < EVEN_SLOTS_A_DRIVE {
        writeln!(
            out,
            "\nA drive has {} slots of {} partitions: with more partitions drives would be used more evenly.",
            show_number(slots_a_drive),
            report.partitions
        )?;
    }
    writeln!(
        out,
        "\nThe loss is that of a model of independent drive failures: good to compare, no promise."
    )
}

fn bytes(bytes: f64) -> String {
    let units = [("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)];
    let fitting = units.iter().find(|(_, factor)| bytes >= *factor);
    match fitting {
        Some((unit, factor)) => format!("{} {unit}", show_number(bytes / factor)),
        None => format!("{bytes:.0} B"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{SimulateArgs, SimulateError, simulate};

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: SimulateArgs,
    }

    fn parse(text: &str) -> Result<SimulateArgs, String> {
        let words = std::iter::once("simulate").chain(text.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        Ok(cli.args)
    }

    #[test]
    fn a_fleet_grows_on_paper() {
        let args = parse("--nodes 6 --drives-per-node 4 --add 1").unwrap();
        let report = simulate(&args).unwrap();
        assert_eq!((report.drives, report.protection.as_str()), (24, "10+2"));
        assert!(report.survives_a_node);
        assert!(report.balance.most_used < 0.65, "{:?}", report.balance);
        let change = report.change.unwrap();
        assert!(change.moved_bytes >= change.least_bytes && change.least_bytes > 0.0);
        assert!(change.balance_after.most_used < 0.6, "{change:?}");
    }

    #[test]
    fn more_parity_and_faster_rebuild_lose_less() {
        let lost = |text: &str| {
            let report = simulate(&parse(text).unwrap()).unwrap();
            report.loss.fraction_a_year
        };
        let base = lost("--nodes 20 --protection 4+2");
        assert!(base > 0.0 && base < lost("--nodes 20 --protection 4+1"));
        assert!(lost("--nodes 20 --protection 4+2 --rebuild 2GB/s") < base);
        assert!(lost("--nodes 20 --protection 4+2 --afr 5%") > base);
        // Without parity each drive's failure loses its part.
        let one = lost("--nodes 20 --protection 1+0 --afr 2%");
        assert!((one - 0.02).abs() < 1e-6, "{one}");
        // Two drives, by hand: mean time (3 * failures + repairs) / (2 * failures^2).
        let args = "--nodes 2 --protection 1+1 --afr 10% --rebuild 1MB/s --capacity 1TB";
        let (failures, repairs) = (-(0.9f64).ln(), super::SECONDS_A_YEAR / (0.6e12 / 1e6));
        let mean = (3.0 * failures + repairs) / (2.0 * failures * failures);
        let got = lost(args);
        assert!(
            (got - (1.0 - (-1.0 / mean).exp())).abs() < 1e-9,
            "{got} {mean}"
        );
    }

    /// `--help` gives a formula for the loss. With N = 6, M = 2: 2 R^2 / (6 * 5 * 4 F^3) years.
    #[test]
    fn the_loss_is_that_of_the_formula_in_the_help() {
        let args = "--nodes 60 --drives-per-node 1 --protection 4+2 --afr 2% --capacity 10TB";
        let report = simulate(&parse(args).unwrap()).unwrap();
        // A drive has 102.4 slots: more than the 59 others, which all write; of what they read a quarter is rebuilt.
        let loss = &report.loss;
        assert!(
            (loss.rebuilding_drives - 59.0 / 4.0).abs() < 1e-9,
            "{loss:?}"
        );
        let seconds = 10e12 * 0.6 / (500e6 * 59.0 / 4.0);
        assert!((loss.rebuild_seconds - seconds).abs() < 1e-6, "{loss:?}");
        let (rebuilds, failures) = (super::SECONDS_A_YEAR / seconds, -(0.98f64).ln());
        let years = 2.0 * rebuilds.powi(2) / (6.0 * 5.0 * 4.0 * failures.powi(3));
        assert!(
            (loss.fraction_a_year * years - 1.0).abs() < 0.01,
            "{loss:?} {years}"
        );
        let any = loss.probability_a_year / loss.fraction_a_year;
        assert!((any - 1024.0).abs() < 1.0, "{loss:?}");
    }

    /// What is printed of balance and movement is what rings promise.
    #[test]
    fn a_change_of_a_fleet_is_fair_and_moves_little() {
        for change in ["--add 1", "--remove 1", "--add 3 --remove 2"] {
            let args =
                format!("--nodes 40 --drives-per-node 6 --capacity 8TB,16TB --racks 5 {change}");
            let report = simulate(&parse(&args).unwrap()).unwrap();
            let change = report.change.unwrap();
            assert!(
                report.balance.off_slots_max <= 1.0 + 1e-6,
                "{args}: {:?}",
                report.balance
            );
            assert!(
                change.balance_after.off_slots_max <= 1.0 + 1e-6,
                "{args}: {change:?}"
            );
            assert!(
                (1.0..=1.1).contains(&change.moved_to_least),
                "{args}: {change:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_reason() {
        for (text, what) in [
            ("--capacity 8", ""),
            ("--capacity big", "64MiB"),
            ("--protection 4x2", "4+2"),
            ("--afr 1.5", "1.5%"),
            ("--afr 200%", "1.5%"),
            ("--rebuild 500MB", "500MB/s"),
            ("--data-used -1%", ""),
        ] {
            let error = parse(text).err();
            assert!(
                text.contains("8") && error.is_none() || error.is_some_and(|e| e.contains(what)),
                "{text}"
            );
        }
        let refused = |text: &str| simulate(&parse(text).unwrap()).err().unwrap();
        assert_eq!(refused("--nodes 0"), SimulateError::Zero("nodes"));
        assert_eq!(refused("--capacity 0TB"), SimulateError::Zero("capacity"));
        assert_eq!(refused("--partitions 0"), SimulateError::Partitions);
        assert!(matches!(
            refused("--nodes 3 --remove 3"),
            SimulateError::NothingLeft { .. }
        ));
        assert!(matches!(
            refused("--nodes 3 --protection 4+2"),
            SimulateError::TooFewDrives {
                drives: 3,
                needed: 6,
                ..
            }
        ));
        assert!(matches!(
            refused("--nodes 1000000"),
            SimulateError::TooManyDrives(_)
        ));
    }
}
