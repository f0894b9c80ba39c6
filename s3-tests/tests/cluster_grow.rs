//! A store that began as one node grows to three nodes and to six with its data, under load: no acknowledged object is
//! missed for a moment, and in the end any node may die.
//!
//! `HOLDFAST_TEST_GROW`: to how many nodes, one after the other (`3,4`).

use std::time::{Duration, Instant};

use holdfast_s3_tests::cluster::{RECOVERY, nodes, report};
use holdfast_s3_tests::traffic::{Acknowledged, Roamer, Traffic};
use holdfast_s3_tests::{Cluster, ClusterOptions, Request, Seed};
use serde_json::Value;

const BUCKET: &str = "bucket";
const OBJECTS: u64 = 120;
const CLIENTS: usize = 4;

#[test]
fn one_node_becomes_many() {
    let mut seed = Seed::for_test("cluster-grow");
    let mut cluster = Cluster::up("cluster-grow", &ClusterOptions::new(1).drives(1));
    cluster.client(1).create_bucket(BUCKET);
    let mut roamer = Roamer::new(cluster.addresses(), cluster.keys(), 0);
    let before = Acknowledged::fill(&mut roamer, BUCKET, "before/", OBJECTS, &mut seed);
    report(&format!(
        "one node: {OBJECTS} objects, {} MB",
        before.bytes() / 1_000_000
    ));
    let mut written = vec![before];
    for (step, size) in sizes().into_iter().enumerate() {
        let traffic = Traffic::start(
            &format!("grow-{size}"),
            cluster.addresses(),
            cluster.keys(),
            BUCKET,
            CLIENTS,
            &seed.fork(step as u64),
        );
        traffic.wait_for(50);
        cluster.grow(size);
        traffic.wait_for(50);
        let (acknowledged, waits) = traffic.finish();
        report(&format!("while it grew to {size}: {waits}"));
        written.push(acknowledged);
        for node in 1..=size {
            expect_spread(&cluster.status(node).expect("a status"), size);
        }
        for acknowledged in &written {
            acknowledged.verify(cluster.addresses(), cluster.keys(), BUCKET);
        }
    }
    if cluster.nodes() >= 3 {
        // What one node wrote has one copy until it is said that it should have more.
        reencode(&cluster);
        // The first node, which once had everything.
        let traffic = Traffic::start(
            "after",
            cluster.addresses(),
            cluster.keys(),
            BUCKET,
            CLIENTS,
            &seed.fork(99),
        );
        traffic.wait_for(50);
        cluster.kill(1);
        traffic.wait_for(100);
        let living = &cluster.addresses()[1..];
        for acknowledged in &written {
            acknowledged.verify(living, cluster.keys(), BUCKET);
        }
        traffic.run_for(Duration::from_secs(1));
        cluster.start(1);
        cluster.wait_healthy();
        let (acknowledged, waits) = traffic.finish();
        report(&format!("while the first node was dead: {waits}"));
        written.push(acknowledged);
        for acknowledged in &written {
            acknowledged.verify(cluster.addresses(), cluster.keys(), BUCKET);
        }
    }
}

/// Has everything encoded as new objects are, and waits until it is.
fn reencode(cluster: &Cluster) {
    let below = |cluster: &Cluster| {
        let status = cluster.status(1).expect("a status");
        status["redundancy"]["below_protection_bodies"]
            .as_u64()
            .expect("a number")
    };
    let started = Instant::now();
    let bodies = below(cluster);
    assert!(bodies > 0, "nothing is below the cluster's protection");
    let order = Request::post("/-/order").body("{\"reencode\": true}");
    let taken = cluster.client(1).send(&order).expect("an answer");
    assert_eq!(taken.status, 200, "{taken:?}");
    // The sum is of what leaders last reported: while a lead moves a group may be missing from it.
    let mut none_left = 0;
    while none_left < 20 {
        let left = below(cluster);
        none_left = if left == 0 { none_left + 1 } else { 0 };
        assert!(
            started.elapsed() < RECOVERY,
            "{left} bodies are still below"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    report(&format!(
        "{bodies} bodies were encoded anew in {:.1?}",
        started.elapsed()
    ));
}

fn sizes() -> Vec<usize> {
    let text = std::env::var("HOLDFAST_TEST_GROW").unwrap_or_else(|_| "3,4".to_owned());
    if nodes() == 1 {
        return Vec::new();
    }
    text.split(',')
        .map(|size| size.parse().expect("HOLDFAST_TEST_GROW is like 3,6"))
        .collect()
}

/// Panics unless the status is that of a cluster of `nodes` that is all well.
fn expect_spread(status: &Value, nodes: usize) {
    if let Err(wrong) = spread(status, nodes) {
        panic!("{wrong}: {status:#}");
    }
}

fn spread(status: &Value, nodes: usize) -> Result<(), String> {
    let list = |name: &str| status[name].as_array().cloned().unwrap_or_default();
    if status["healthy"] != true {
        return Err("not healthy".to_owned());
    }
    let up = list("nodes")
        .iter()
        .filter(|node| node["state"] == "up")
        .count();
    if up != nodes {
        return Err(format!("{up} nodes are up, should be {nodes}"));
    }
    let drive_node: Vec<(u64, u64)> = list("drives")
        .iter()
        .filter_map(|drive| Some((number(&drive["drive"])?, number(&drive["node"])?)))
        .collect();
    for group in list("groups") {
        let voters = group["voters"].as_array().cloned().unwrap_or_default();
        let mut hosts: Vec<u64> = voters
            .iter()
            .filter_map(|voter| {
                let drive = number(voter)?;
                drive_node
                    .iter()
                    .find(|(id, _)| *id == drive)
                    .map(|(_, node)| *node)
            })
            .collect();
        hosts.sort_unstable();
        hosts.dedup();
        if voters.len() < 3 || hosts.len() != voters.len() {
            return Err(format!(
                "group {} has voters {voters:?} on nodes {hosts:?}",
                group["group"]
            ));
        }
    }
    let protection = status["protection"].as_str().unwrap_or_default();
    let (data, parity) = protection
        .split_once('+')
        .and_then(|(data, parity)| Some((data.parse().ok()?, parity.parse().ok()?)))
        .unwrap_or((0usize, 0usize));
    if data == 0 || (data + parity).div_ceil(nodes) > parity {
        return Err(format!(
            "{protection} does not survive one of {nodes} nodes"
        ));
    }
    if status["ring"]["settled"] != true {
        return Err("the ring has not settled".to_owned());
    }
    Ok(())
}

/// Identifiers are numbers, or text that ends with one.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let text = value.as_str()?;
        text.trim_start_matches(|c: char| !c.is_ascii_digit())
            .parse()
            .ok()
    })
}

#[test]
fn a_status_of_a_cluster_that_is_not_well_is_refused() {
    let good = serde_json::json!({
        "healthy": true,
        "protection": "2+1",
        "ring": {"settled": true},
        "nodes": [{"node": 1, "state": "up"}, {"node": 2, "state": "up"}, {"node": 3, "state": "up"}],
        "drives": [{"drive": 1, "node": 1}, {"drive": 2, "node": 2}, {"drive": 3, "node": 3}, {"drive": 4, "node": 3}],
        "groups": [{"group": 0, "voters": [1, 2, 3]}, {"group": 1, "voters": [1, 2, 4]}],
    });
    assert_eq!(spread(&good, 3), Ok(()));
    let bent = |pointer: &str, value: Value| {
        let mut status = good.clone();
        *status.pointer_mut(pointer).expect("a field") = value;
        spread(&status, 3)
    };
    assert!(bent("/healthy", false.into()).is_err());
    assert!(bent("/nodes/1/state", "down".into()).is_err());
    assert!(bent("/ring/settled", false.into()).is_err());
    assert!(bent("/protection", "1+0".into()).is_err());
    assert!(bent("/protection", "4+1".into()).is_err());
    assert!(bent("/groups/0/voters", serde_json::json!([1])).is_err());
    assert!(bent("/groups/0/voters", serde_json::json!([1, 3, 4])).is_err());
}
