//! What goes bad or missing where nobody reads it is found and made anew, and nothing is called whole before.

use std::path::Path;
use std::process::Output;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use holdfast_s3_tests::cluster::{Cluster, ClusterOptions};
use holdfast_s3_tests::damage::{files_in, flip};
use holdfast_s3_tests::load::Ledger;
use holdfast_s3_tests::server::command;
use holdfast_s3_tests::{Client, Request, Scratch, Seed, Server, ServerOptions};
use serde_json::Value;

const BUCKET: &str = "bucket";

/// How long everything may take to be looked at and made anew on a loaded machine.
const MENDED: Duration = Duration::from_secs(180);

fn now_ms() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a time");
    now.as_millis() as u64
}

/// Has everything checked; gives when that was ordered.
fn order_scrub(client: &mut Client) -> u64 {
    let ordered = now_ms();
    client.ok(&Request::post("/-/order").body("\"scrub\""));
    ordered
}

/// Whether all drives were gone over since, and everything is known to be whole.
fn is_mended(status: &Value, since: u64, drives: usize) -> bool {
    let mending = &status["mending"];
    let scrubs = mending["drives"].as_array().map_or(&[][..], Vec::as_slice);
    let is_done = |scrub: &&Value| {
        scrub["state"]["last"]["began"].as_u64().unwrap_or(0) >= since
            && scrub["asked"] == false
            && scrub["bad"] == 0
    };
    mending["whole"] == true && scrubs.iter().filter(is_done).count() == drives
}

/// What `holdfast admin` says of a node.
fn admin(server: &Server, arguments: &[&str]) -> Output {
    let keys = server.keys();
    let mut asking = command();
    asking.arg("admin").args(arguments);
    asking.args(["--endpoint", &server.endpoint()]);
    asking.env("AWS_ACCESS_KEY_ID", &keys.access);
    asking.env("AWS_SECRET_ACCESS_KEY", &keys.secret);
    asking.output().expect("holdfast admin")
}

fn remove_extents(drive: &Path) -> usize {
    let extents = files_in(drive, "extents");
    for file in &extents {
        std::fs::remove_file(file).expect("remove an extent");
    }
    extents.len()
}

fn flip_extents(drive: &Path, seed: &mut Seed) -> usize {
    let files = files_in(drive, "extents");
    files.iter().filter(|file| flip(file, 200, seed)).count()
}

#[test]
fn one_node_of_six_drives_is_made_whole_though_nobody_reads() {
    let mut seed = Seed::for_test("mend-one-node");
    let scratch = Scratch::new("mend-one-node");
    let drives = scratch.drives(6);
    let mut options = ServerOptions::new(scratch.join("data")).drives(&drives);
    options.arguments = vec!["--scrub-bytes-per-sec".into(), "1GiB".into()];
    let mut server = Server::start(&options);
    let mut client = server.client();
    client.create_bucket(BUCKET);
    let ledger = Ledger::fill(&mut client, BUCKET, "object-", 60, &mut seed);
    assert!(server.stop().success());
    // Bits of all shards of one drive, parity as data, and all extents of another.
    assert!(flip_extents(&drives[0], &mut seed) > 0, "nothing to flip");
    assert!(remove_extents(&drives[1]) > 0, "no extent to remove");
    server.restart();
    // Restarts are followed by a census; only a scrub finds what was flipped.
    let since = order_scrub(&mut server.client());
    let status = server.wait_for_status("mended", MENDED, |status| {
        is_mended(status, since, drives.len())
    });
    let mending = &status["mending"];
    assert_eq!(
        (&mending["missing"], &mending["bad"]),
        (&0.into(), &0.into())
    );
    let problems = status["problems"].as_array().expect("problems");
    assert!(problems.is_empty(), "{problems:?}");
    let said = admin(&server, &["scrub", "status"]);
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(
        said.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&said.stderr)
    );
    assert!(text.starts_with("everything is whole"), "{text}");
    // Two others go: what was on the damaged drives is needed now.
    for drive in &drives[2..4] {
        std::fs::rename(drive, drive.with_extension("gone")).expect("take a drive away");
    }
    ledger.verify_all(&mut server.client());
}

#[test]
fn what_cannot_be_made_whole_is_never_called_whole() {
    let mut seed = Seed::for_test("mend-too-few");
    let scratch = Scratch::new("mend-too-few");
    let drives = scratch.drives(4);
    let mut server = Server::start(&ServerOptions::new(scratch.join("data")).drives(&drives));
    let mut client = server.client();
    client.create_bucket(BUCKET);
    Ledger::fill(&mut client, BUCKET, "object-", 30, &mut seed);
    assert!(server.stop().success());
    for drive in &drives[..3] {
        assert!(remove_extents(drive) > 0, "no extent to remove");
    }
    server.restart();
    let status = server.wait_for_status("told", MENDED, |status| {
        status["mending"]["left"]["too_few"].as_u64() > Some(0)
    });
    assert_eq!(status["healthy"], false);
    assert_eq!(status["mending"]["whole"], false);
    let said = admin(&server, &["scrub", "status"]);
    let text = String::from_utf8_lossy(&said.stdout);
    assert_eq!(said.status.code(), Some(1), "{text}");
    assert!(text.contains("too few others"), "{text}");
}

#[test]
fn a_node_that_comes_back_damaged_is_made_whole() {
    let mut seed = Seed::for_test("mend-cluster");
    let cluster = Cluster::up("mend-cluster", &ClusterOptions::new(3));
    let mut client = cluster.client(1);
    client.create_bucket(BUCKET);
    let ledger = Ledger::fill(&mut client, BUCKET, "object-", 50, &mut seed);
    let drives = cluster.drives(2);
    assert_eq!(drives.len(), 2);
    cluster.kill(2);
    assert!(flip_extents(&drives[0], &mut seed) > 0, "nothing to flip");
    assert!(remove_extents(&drives[1]) > 0, "no extent to remove");
    cluster.start(2);
    mended_by_itself(&cluster, 6);
    // The damaged node has to stand in for another now.
    cluster.kill(3);
    ledger.verify_all(&mut cluster.client(1));
    // What that one led is led by others, whatever it said before.
    let node = until(|| {
        let status = cluster.status(1)?;
        let node = status["nodes"]
            .as_array()?
            .iter()
            .find(|node| node["node"] == 3)?
            .clone();
        (node["state"] == "down").then_some(node)
    });
    assert_eq!(node["leads"], 0, "{node}");
}

#[test]
fn a_drive_that_lost_its_index_is_made_whole() {
    let mut seed = Seed::for_test("mend-index");
    let cluster = Cluster::up("mend-index", &ClusterOptions::new(3).drives(1));
    let mut client = cluster.client(1);
    client.create_bucket(BUCKET);
    let ledger = Ledger::fill(&mut client, BUCKET, "object-", 50, &mut seed);
    cluster.kill(2);
    let drive = &cluster.drives(2)[0];
    std::fs::remove_dir_all(drive.join("state")).expect("remove the index");
    // Of its extents one bit is wrong too, so that not all can be found again.
    assert!(flip_extents(drive, &mut seed) > 0, "nothing to flip");
    cluster.start(2);
    mended_by_itself(&cluster, 3);
    cluster.kill(1);
    ledger.verify_all(&mut cluster.client(3));
}

/// What `look` finds, once it does.
fn until<T>(look: impl Fn() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + MENDED;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "not within {MENDED:?}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A node of which nothing is left comes back at its old address, with a new directory: it is another node, which takes the
/// place of the lost one when an operator has given that one up, and not before.
#[test]
fn a_node_that_lost_everything_is_replaced_at_its_address() {
    let mut seed = Seed::for_test("mend-replaced");
    let cluster = Cluster::up("mend-replaced", &ClusterOptions::new(3).drives(1));
    let mut client = cluster.client(1);
    client.create_bucket(BUCKET);
    let mut ledger = Ledger::fill(&mut client, BUCKET, "object-", 50, &mut seed);
    // Its own old self, to come back when nobody expects it.
    let home = cluster.home(3);
    let old = home.with_extension("old");
    cluster.kill(3);
    std::fs::rename(&home, &old).expect("take the node's directory away");
    until(|| {
        let status = cluster.status(1)?;
        let drives = status["drives"].as_array()?.clone();
        drives
            .iter()
            .any(|drive| drive["node"] == 3 && drive["state"] == "down")
            .then_some(())
    });
    let token = command()
        .args(["admin", "token", "--data"])
        .arg(cluster.home(1).join("data"))
        .output()
        .expect("holdfast admin token");
    let token = String::from_utf8_lossy(&token.stdout).trim().to_owned();
    let start = |home: &Path| {
        command()
            .args(["serve", "--data"])
            .arg(home.join("data"))
            .arg("--drive")
            .arg(home.join("drive-1"))
            .args(["--listen", &cluster.address(3).to_string()])
            .args(["--join", &cluster.address(1).to_string()])
            .env("HOLDFAST_JOIN_TOKEN", &token)
            .output()
            .expect("holdfast serve")
    };
    let refused = start(&home);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    assert!(said.contains("holdfast admin lost --node 3"), "{said}");

    // One that answers cannot be given up.
    let up = cluster
        .client(1)
        .send(&Request::post("/-/order").body("{\"lose_node\": 2}"));
    assert_ne!(up.expect("an answer").status, 200);
    until(|| {
        let order = Request::post("/-/order").body("{\"lose_node\": 3}");
        let answer = cluster.client(1).send(&order).ok()?;
        (answer.status == 200).then_some(())
    });
    std::fs::remove_dir_all(&home).ok();
    cluster.start(3);
    let nodes = until(|| {
        let status = cluster.status(1)?;
        let is_well = status["healthy"] == true && status["mending"]["whole"] == true;
        let nodes = status["nodes"].as_array()?.clone();
        (is_well && nodes.len() == 3).then_some(nodes)
    });
    let numbers: Vec<_> = nodes.iter().map(|node| node["node"].as_u64()).collect();
    assert_eq!(numbers, [Some(1), Some(2), Some(4)]);
    cluster.wait_healthy();
    ledger.write(&mut client, "after", &mut seed);
    cluster.kill(1);
    ledger.verify_all(&mut cluster.client(3));
    cluster.start(1);
    cluster.wait_healthy();

    // The old one was not lost after all. It learns that it is no part of this any more.
    cluster.kill(3);
    let refused = start(&old);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    assert!(said.contains("given up as lost"), "{said}");
    cluster.start(3);
    cluster.wait_healthy();
    ledger.verify_all(&mut cluster.client(2));
}

/// Who pipes into `head` gets some lines and no panic.
#[test]
fn a_bench_that_nobody_reads_any_more_does_not_panic() {
    let scratch = Scratch::new("mend-bench");
    let server = Server::start(&ServerOptions::new(scratch.join("data")));
    server.client().create_bucket(BUCKET);
    let keys = server.keys();
    let mut bench = command();
    bench.args([
        "bench",
        "put",
        "--endpoint",
        &server.endpoint(),
        "--bucket",
        BUCKET,
    ]);
    bench.args(["--duration", "3s", "--size", "4KiB", "--no-limits"]);
    bench.env("AWS_ACCESS_KEY_ID", &keys.access);
    bench.env("AWS_SECRET_ACCESS_KEY", &keys.secret);
    let mut running = bench.spawn().expect("holdfast bench");
    // The reader of both goes away at once.
    drop((running.stdout.take(), running.stderr.take()));
    let ended = running.wait().expect("it ends");
    assert_ne!(ended.code(), Some(101));
    assert!(ended.success(), "{ended}");
}

/// Orders a scrub until all nodes have heard of it.
fn order_scrub_everywhere(cluster: &Cluster) -> u64 {
    let deadline = std::time::Instant::now() + MENDED;
    loop {
        let ordered = now_ms();
        let order = Request::post("/-/order").body("\"scrub\"");
        let answer = cluster.client(1).send(&order);
        if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
            return ordered;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "not all nodes heard of it: {answer:?}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Orders a scrub and waits until everything is whole and healthy again.
fn mended_by_itself(cluster: &Cluster, drives: usize) {
    cluster.wait_ready();
    let since = order_scrub_everywhere(cluster);
    let deadline = std::time::Instant::now() + MENDED;
    loop {
        let status = cluster.status(1);
        if status
            .as_ref()
            .is_some_and(|status| is_mended(status, since, drives))
        {
            break;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "not mended within {MENDED:?}: {:#}",
            status.map_or(Value::Null, |status| status["mending"].clone())
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    cluster.wait_healthy();
}
