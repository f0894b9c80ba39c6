//! A status as tables for people.

use std::io::{self, Write};

use serde_json::Value;

/// What is not healthy, and how the cluster stands as a whole.
pub(super) fn summary(out: &mut impl Write, status: &Value) -> io::Result<()> {
    problems(out, status)?;
    for note in list(&status["notes"]) {
        writeln!(out, "- {}", text(note))?;
    }
    writeln!(
        out,
        "healthy {}   lost drives absorbed {}   protection {}   epoch {}   full {}",
        status["healthy"],
        status["absorbed"],
        text(&status["protection"]),
        status["epoch"],
        status["full"],
    )
}

/// What is not healthy, and what to do about it.
pub(super) fn problems(out: &mut impl Write, status: &Value) -> io::Result<()> {
    for problem in list(&status["problems"]) {
        writeln!(out, "! {}", text(problem))?;
    }
    Ok(())
}

pub(super) fn nodes(out: &mut impl Write, status: &Value) -> io::Result<()> {
    writeln!(
        out,
        "{:<8} {:<6} {:<5} {:<9} {:<6} ADDRESS",
        "NODE", "STATE", "RACK", "ROLE", "LEADS"
    )?;
    for node in list(&status["nodes"]) {
        writeln!(
            out,
            "{:<8} {:<6} {:<5} {:<9} {:<6} {}",
            text(&node["node"]),
            text(&node["state"]),
            text(&node["rack"]),
            text(&node["role"]),
            text(&node["leads"]),
            text(&node["address"]),
        )?;
    }
    Ok(())
}

pub(super) fn drives(out: &mut impl Write, status: &Value) -> io::Result<()> {
    writeln!(
        out,
        "{:<8} {:<6} {:<9} {:>10} {:>10} {:<7} PATH",
        "DRIVE", "NODE", "STATE", "TOTAL", "FREE", "DISK"
    )?;
    for drive in list(&status["drives"]) {
        let size = |name: &str| {
            let bytes = drive[name].as_u64().unwrap_or(0);
            format!("{:.1}GiB", bytes as f64 / (1u64 << 30) as f64)
        };
        writeln!(
            out,
            "{:<8} {:<6} {:<9} {:>10} {:>10} {:<7} {}",
            text(&drive["drive"]),
            text(&drive["node"]),
            text(&drive["state"]),
            size("total_bytes"),
            size("free_bytes"),
            text(&drive["disk"]),
            text(&drive["path"]),
        )?;
    }
    Ok(())
}

pub(super) fn groups(out: &mut impl Write, status: &Value) -> io::Result<()> {
    writeln!(
        out,
        "{:<8} {:<7} {:<5} VOTERS (UP)",
        "GROUP", "LEADER", "TERM"
    )?;
    for group in list(&status["groups"]) {
        let voters: Vec<String> = list(&group["voters"]).iter().map(text).collect();
        writeln!(
            out,
            "{:<8} {:<7} {:<5} {} ({})",
            text(&group["group"]),
            text(&group["leader"]),
            text(&group["term"]),
            voters.join(","),
            text(&group["voters_up"]),
        )?;
    }
    Ok(())
}

pub(super) fn ring(out: &mut impl Write, status: &Value) -> io::Result<()> {
    let ring = &status["ring"];
    writeln!(
        out,
        "partitions {}   settled {}   protection {}   epoch {}",
        ring["partitions"],
        ring["settled"],
        text(&status["protection"]),
        status["epoch"],
    )?;
    let moving = list(&ring["moving_from"]);
    if !moving.is_empty() {
        let moving: Vec<String> = moving.iter().map(text).collect();
        writeln!(
            out,
            "shards are moving away from drives {}",
            moving.join(",")
        )?;
    }
    writeln!(out, "{:<8} {:>6}", "DRIVE", "SLOTS")?;
    for slots in list(&ring["slots"]) {
        writeln!(out, "{:<8} {:>6}", text(&slots[0]), text(&slots[1]))?;
    }
    Ok(())
}

/// What censuses and scrubs have found.
pub(super) fn mending(out: &mut impl Write, status: &Value) -> io::Result<()> {
    let mending = &status["mending"];
    let count = |name: &str| mending[name].as_u64().unwrap_or(0);
    let verdict = match mending["whole"].as_bool() {
        Some(true) => "everything is whole".to_owned(),
        _ if count("missing") + count("bad") > 0 => {
            format!(
                "{} shards are missing and {} bad",
                count("missing"),
                count("bad")
            )
        }
        _ => format!(
            "not known yet: the census of {} groups is open",
            list(&mending["groups_open"]).len()
        ),
    };
    writeln!(out, "{verdict}")?;
    writeln!(
        out,
        "bodies checked {}   shards {}   rebuilt {}   still missing {}   still bad {}   on drives that do not answer {}",
        count("bodies"),
        count("shards"),
        count("rebuilt"),
        count("missing"),
        count("bad"),
        count("away"),
    )?;
    let reasons = [
        (
            "too_few",
            "too few others of their chunk can be read: bring lost drives back",
        ),
        (
            "disagree",
            "the others of their chunk do not belong together",
        ),
        ("no_place", "the ring has no drive for them: add drives"),
        ("full", "their drive is full: make room"),
        ("drive_down", "a drive that is needed is down"),
        ("other", "tried again"),
    ];
    for (name, why) in reasons {
        let left = mending["left"][name].as_u64().unwrap_or(0);
        if left > 0 {
            writeln!(out, "! {left} were not rebuilt: {why}")?;
        }
    }
    writeln!(
        out,
        "{:<8} {:>8} {:>24} {:>24} BAD NOW",
        "DRIVE", "SCRUB", "THIS PASS", "LAST PASS"
    )?;
    let pass = |pass: &Value| match pass {
        Value::Null => "-".to_owned(),
        pass => format!(
            "{} shards, {:.1} MiB",
            text(&pass["shards"]),
            pass["bytes"].as_u64().unwrap_or(0) as f64 / f64::from(1 << 20)
        ),
    };
    for drive in list(&mending["drives"]) {
        let state = &drive["state"];
        let is_going = drive["asked"] == true || !state["pass"].is_null();
        writeln!(
            out,
            "{:<8} {:>8} {:>24} {:>24} {}",
            text(&drive["drive"]),
            if is_going { "running" } else { "resting" },
            pass(&state["pass"]),
            pass(&state["last"]),
            text(&drive["bad"]),
        )?;
    }
    Ok(())
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
