//! Each node in turn is killed while clients go on: nothing acknowledged is lost, no byte is wrong, and how long anybody
//! had to wait is printed. With two of three nodes gone nothing is served, and what is refused is refused soon.
//!
//! `HOLDFAST_TEST_DOWN_S`: how long a node stays dead (5 s; 20 in long runs).

use std::time::{Duration, Instant};

use holdfast_s3_tests::cluster::{nodes, number, report};
use holdfast_s3_tests::traffic::{Roamer, Traffic};
use holdfast_s3_tests::{Client, Cluster, ClusterOptions, Content, Request, Seed};

const BUCKET: &str = "bucket";
const CLIENTS: usize = 6;

/// How long a request without a quorum may take until it is refused, on a machine that may be busy. The goal is 5 s; what
/// was measured is printed.
const REFUSAL_MAX: Duration = Duration::from_secs(15);

/// The longest that one operation may take while a node dies, on a machine that may be busy. The goal is 2 s; what
/// was measured is printed.
const WAIT_MAX: Duration = Duration::from_secs(40);

#[test]
fn any_node_may_die() {
    let seed = Seed::for_test("cluster-kill");
    let down = Duration::from_secs(number("HOLDFAST_TEST_DOWN_S", 5));
    let cluster = Cluster::up("cluster-kill", &ClusterOptions::new(nodes()));
    cluster.client(1).create_bucket(BUCKET);
    let traffic = Traffic::start(
        "traffic",
        cluster.addresses(),
        cluster.keys(),
        BUCKET,
        CLIENTS,
        &seed,
    );
    traffic.wait_for(200);
    for node in 1..=cluster.nodes() {
        cluster.kill(node);
        if cluster.nodes() >= 3 {
            traffic.wait_for(50);
        }
        traffic.run_for(down);
        cluster.start(node);
        let healthy = cluster.wait_healthy();
        report(&format!(
            "node {node} was dead for {down:?}; all was well {healthy:.1?} after its start"
        ));
        traffic.wait_for(50);
    }
    let (acknowledged, waits) = traffic.finish();
    report(&format!("cluster-kill: {waits}"));
    if cluster.nodes() >= 3 {
        for kind in [&waits.writes, &waits.reads] {
            assert!(kind.longest < WAIT_MAX, "{kind}");
        }
    }
    acknowledged.verify(cluster.addresses(), cluster.keys(), BUCKET);
    if cluster.nodes() == 3 {
        no_quorum_no_service(&cluster);
        acknowledged.verify(cluster.addresses(), cluster.keys(), BUCKET);
    }
}

/// Two of three nodes die, and come back one after the other.
fn no_quorum_no_service(cluster: &Cluster) {
    let content = Content::new(77, 1000);
    // Keys enough that every group has some.
    let keys: Vec<String> = (0..48).map(|index| format!("quorum/{index}")).collect();
    for key in &keys {
        let answer = cluster.client(1).put(BUCKET, key, content).expect("PUT");
        assert!(answer.is_success(), "PUT {key}: {answer:?}");
    }
    cluster.kill(2);
    cluster.kill(3);
    // A leader may answer reads by its lease for a moment; it must end within the time in which writes are refused.
    let lease = Instant::now();
    let read = Request::get(&format!("/{BUCKET}/{}", keys[0]));
    while cluster
        .client(1)
        .send(&read)
        .is_ok_and(|answer| answer.status == 200)
    {
        assert!(
            lease.elapsed() < REFUSAL_MAX,
            "reads go on without a quorum"
        );
    }
    let mut longest = Duration::ZERO;
    for key in &keys[..2] {
        let target = format!("/{BUCKET}/{key}");
        for request in [
            Request::get(&target),
            Request::head(&target),
            Request::delete(&target),
            Request::put(&target).body("other"),
            Request::get(&format!("/{BUCKET}?list-type=2")),
        ] {
            longest = longest.max(refused(&mut cluster.client(1), &request));
        }
    }
    assert!(
        !cluster.is_ready(1),
        "a node without a quorum says that it is ready"
    );
    report(&format!(
        "without a quorum: refused after at most {longest:.2?}"
    ));
    cluster.start(2);
    let started = Instant::now();
    let mut roamer = Roamer::new(&cluster.addresses()[..2], cluster.keys(), 0);
    for key in &keys {
        // What was refused may have happened or not: so they are written again.
        roamer.persist_ok(key, |client| client.put(BUCKET, key, content));
        roamer.verify(BUCKET, key, Some(content));
    }
    report(&format!(
        "with two of three nodes everything works again after {:.2?}",
        started.elapsed()
    ));
    cluster.start(3);
    cluster.wait_healthy();
}

/// Sends a request that nobody can answer rightly; how long it took to be refused with 503.
fn refused(client: &mut Client, request: &Request) -> Duration {
    let started = Instant::now();
    let answer = client.send(request);
    let took = started.elapsed();
    let (method, target) = (&request.method, &request.target);
    match answer {
        Ok(answer) => assert_eq!(answer.status, 503, "{method} {target}: {answer:?}"),
        Err(error) => panic!("{method} {target} got no answer: {error}"),
    }
    assert!(
        took < REFUSAL_MAX,
        "{method} {target} was refused after {took:?}"
    );
    took
}
