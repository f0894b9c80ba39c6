//! Drives that vanish and bytes that flip.

// It waits most of its time, as others here do: side by side.
#[path = "drives/full_disk.rs"]
mod full_disk;

use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_s3_tests::client::Fetched;
use holdfast_s3_tests::damage::{files_in, flip};
use holdfast_s3_tests::load::{Ledger, Load};
use holdfast_s3_tests::{Client, Content, Request, Scratch, Seed, Server, ServerOptions};

const BUCKET: &str = "bucket";

/// How long a lost drive may take to be absorbed: it must be noticed, its replicas and shards made again elsewhere.
const ABSORBED: Duration = Duration::from_secs(120);

fn take_away(drive: &Path) {
    // A server that writes meanwhile may put files back into directories that are being removed.
    for _ in 0..100 {
        match std::fs::remove_dir_all(drive) {
            Ok(()) => return,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    panic!("cannot remove {}", drive.display());
}

fn absorbed(server: &Server) {
    server.wait_for_status("absorbed", ABSORBED, |status| status["absorbed"] == true);
}

/// A drive that is gone is never taken for an absorbed one, however soon the question comes.
#[test]
fn a_loss_is_not_absorbed_before_it_is_noticed() {
    let scratch = Scratch::new("noticed");
    let drives = scratch.drives(4);
    let server = Server::start(&ServerOptions::new(scratch.join("data")).drives(&drives));
    assert_eq!(server.status()["absorbed"], true);
    take_away(&drives[1]);
    assert_eq!(server.status()["absorbed"], false);
    absorbed(&server);
}

fn verify(server: &Server, ledgers: &[Ledger]) {
    let mut client = server.client();
    for ledger in ledgers {
        ledger.verify_all(&mut client);
    }
}

/// All objects of `ledgers` are listed, and nothing that was deleted.
fn verify_listing(client: &mut Client, ledgers: &[Ledger]) {
    let mut expected: Vec<String> = ledgers
        .iter()
        .flat_map(|ledger| &ledger.objects)
        .filter(|(_, content)| content.is_some())
        .map(|(key, _)| key.clone())
        .collect();
    expected.sort();
    assert_eq!(client.list(BUCKET, ""), expected);
}

#[test]
fn six_drives_lose_any_two_at_once_under_load() {
    let mut seed = Seed::for_test("six-drives");
    let scratch = Scratch::new("six-drives");
    let drives = scratch.drives(6);
    let mut server = Server::start(&ServerOptions::new(scratch.join("data")).drives(&drives));
    let mut client = server.client();
    client.create_bucket(BUCKET);
    let mut ledgers = vec![Ledger::fill(&mut client, BUCKET, "before-", 120, &mut seed)];
    let load = Load::start(server.address(), BUCKET, 3, &seed);
    load.wait_for(50);

    let first = seed.within(0..6) as usize;
    let second = (first + 1 + seed.within(0..5) as usize) % 6;
    println!("drives {first} and {second} go");
    take_away(&drives[first]);
    take_away(&drives[second]);
    load.wait_for(300);
    verify(&server, &ledgers);
    ledgers.extend(load.finish());
    verify(&server, &ledgers);
    verify_listing(&mut client, &ledgers);

    assert!(server.stop().success());
    server.restart();
    verify(&server, &ledgers);
    let mut client = server.client();
    verify_listing(&mut client, &ledgers);
    ledgers.push(Ledger::fill(&mut client, BUCKET, "after-", 40, &mut seed));
    verify(&server, &ledgers);

    // Killed, not stopped, and still without the two.
    server.kill();
    server.restart();
    verify(&server, &ledgers);
}

#[test]
fn four_drives_lose_one_and_another_once_it_is_absorbed() {
    let mut seed = Seed::for_test("four-drives");
    let scratch = Scratch::new("four-drives");
    let drives = scratch.drives(4);
    let mut server = Server::start(&ServerOptions::new(scratch.join("data")).drives(&drives));
    let mut client = server.client();
    client.create_bucket(BUCKET);
    let mut ledgers = vec![Ledger::fill(&mut client, BUCKET, "before-", 80, &mut seed)];
    let first = seed.within(0..4) as usize;
    let second = (first + 1 + seed.within(0..3) as usize) % 4;

    let load = Load::start(server.address(), BUCKET, 3, &seed);
    load.wait_for(50);
    println!("drive {first} goes");
    take_away(&drives[first]);
    load.wait_for(150);
    absorbed(&server);
    println!("drive {second} goes");
    take_away(&drives[second]);
    load.wait_for(150);
    ledgers.extend(load.finish());
    verify(&server, &ledgers);

    assert!(server.stop().success());
    server.restart();
    verify(&server, &ledgers);
    verify_listing(&mut server.client(), &ledgers);
    ledgers.push(Ledger::fill(
        &mut server.client(),
        BUCKET,
        "after-",
        20,
        &mut seed,
    ));
    verify(&server, &ledgers);
}

/// With two drives each holds a copy of everything, but one of two is no quorum (SEMANTICS.md).
#[test]
fn two_drives_lose_one_and_serve_again_when_it_is_back() {
    let mut seed = Seed::for_test("two-drives");
    let scratch = Scratch::new("two-drives");
    let drives = scratch.drives(2);
    let mut server = Server::start(&ServerOptions::new(scratch.join("data")).drives(&drives));
    let mut client = server.client();
    client.create_bucket(BUCKET);
    let ledger = Ledger::fill(&mut client, BUCKET, "before-", 40, &mut seed);
    let gone = seed.within(0..2) as usize;
    let away = scratch.join("away");
    assert!(server.stop().success());
    std::fs::rename(&drives[gone], &away).expect("take the drive away");

    match server.try_restart() {
        // No quorum: refused, with the reason, and never an empty or a half store.
        Ok(()) => {
            let mut client = server.client();
            for request in [
                Request::get("/bucket/before-0000"),
                Request::get("/bucket?list-type=2"),
                Request::put("/bucket/new").body("x"),
            ] {
                let response = client.send(&request).expect("an answer");
                assert_eq!(
                    response.status, 503,
                    "{} {}: {response:?}",
                    request.method, request.target
                );
            }
            assert_eq!(server.status()["healthy"], false);
            assert!(server.stop().success());
        }
        Err(error) => {
            assert!(
                error.status.is_none_or(|status| !status.success()),
                "{error}"
            );
            assert!(error.log.contains("quorum"), "the reason is said: {error}");
            assert!(!error.log.contains("panicked"), "{error}");
        }
    }

    let _ = std::fs::remove_dir_all(&drives[gone]);
    std::fs::rename(&away, &drives[gone]).expect("bring the drive back");
    server.restart();
    ledger.verify_all(&mut server.client());
    verify_listing(&mut server.client(), &[ledger]);
    server.client().ok(&Request::put("/bucket/new").body("x"));
}

/// Reads all: the content, or an error; never anything else. Returns how many were whole.
fn never_wrong(server: &Server, ledger: &Ledger) -> usize {
    let mut whole = 0;
    for (key, content) in &ledger.objects {
        let content = content.expect("nothing was deleted");
        // `get` panics by itself when a byte is wrong.
        match server.client().get(BUCKET, key, content) {
            Ok(Fetched::Whole(_)) => whole += 1,
            Ok(Fetched::Refused(response)) => {
                assert!(response.status >= 500, "{key}: {response:?}")
            }
            Ok(Fetched::BrokenOff(_)) | Err(_) => {}
        }
    }
    whole
}

#[test]
fn flipped_bytes_in_extents_of_two_of_six_drives_are_rebuilt() {
    let mut seed = Seed::for_test("flipped-extents");
    let scratch = Scratch::new("flipped-extents");
    let drives = scratch.drives(6);
    let mut server = Server::start(&ServerOptions::new(scratch.join("data")).drives(&drives));
    let mut client = server.client();
    client.create_bucket(BUCKET);
    let ledger = Ledger::fill(&mut client, BUCKET, "object-", 100, &mut seed);

    // Under the running server: whatever it keeps in memory must not hide that a read is checked.
    let mut flipped = 0;
    for drive in &drives[..2] {
        for file in files_in(drive, "extents") {
            flipped += usize::from(flip(&file, 200, &mut seed));
        }
    }
    assert!(flipped > 0, "no extent to flip bytes in");
    ledger.verify_all(&mut client);
    assert!(server.stop().success());
    for drive in &drives[..2] {
        for file in files_in(drive, "extents") {
            flip(&file, 200, &mut seed);
        }
    }
    server.restart();
    ledger.verify_all(&mut server.client());
}

#[test]
fn flipped_bytes_in_the_only_copy_are_errors_not_data() {
    let mut seed = Seed::for_test("flipped-only-copy");
    let scratch = Scratch::new("flipped-only-copy");
    let drives = scratch.drives(1);
    let mut server = Server::start(&ServerOptions::new(scratch.join("data")).drives(&drives));
    let mut client = server.client();
    client.create_bucket(BUCKET);
    let mut ledger = Ledger {
        bucket: BUCKET.to_owned(),
        objects: Vec::new(),
    };
    for index in 0..40 {
        let content = Content::new(seed.draw(), 3_000_000);
        let key = format!("object-{index}");
        assert!(client.put(BUCKET, &key, content).expect("put").is_success());
        ledger.objects.push((key, Some(content)));
    }
    assert!(server.stop().success());
    for file in files_in(&drives[0], "extents") {
        flip(&file, 15, &mut seed);
    }
    server.restart();
    let whole = never_wrong(&server, &ledger);
    println!(
        "{whole} of {} objects whole, the others refused",
        ledger.objects.len()
    );
    assert!(
        whole < ledger.objects.len(),
        "15 flipped bits hit no object: is anything read from the extents?"
    );
    assert!(whole > 0, "a few flipped bits made everything unreadable");
    server.client().ok(&Request::put("/bucket/new").body("x"));
}

/// Bits flipped in the records of one drive: in many places, or in one; after a clean stop, or after a kill, when the
/// newest records are in write-ahead logs only.
#[test]
fn flipped_bytes_in_logs_and_state_are_never_data() {
    let base = Seed::for_test("flipped-records");
    let mut round = 0;
    for drives in [6, 1] {
        for part in ["log", "state"] {
            for flips in [50, 1] {
                for killed in [false, true] {
                    round += 1;
                    flipped_records(drives, part, flips, killed, base.fork(round));
                }
            }
        }
    }
}

fn flipped_records(count: usize, part: &str, flips: u64, killed: bool, mut seed: Seed) {
    let scratch = Scratch::new("flipped-records");
    let drives = scratch.drives(count);
    let mut server = Server::start(&ServerOptions::new(scratch.join("data")).drives(&drives));
    let mut client = server.client();
    client.create_bucket(BUCKET);
    let mut ledger = Ledger {
        bucket: BUCKET.to_owned(),
        objects: Vec::new(),
    };
    for index in 0..150 {
        let content = Content::new(seed.draw(), seed.within(0..30_000));
        let key = format!("object-{index:03}");
        let response = client.put(BUCKET, &key, content).expect("put");
        assert!(response.is_success(), "{response:?}");
        ledger.objects.push((key, Some(content)));
    }
    if killed {
        server.kill();
    } else {
        assert!(server.stop().success());
    }
    let victim = &drives[seed.within(0..count as u64) as usize];
    let is_record = |path: &PathBuf| {
        let extension = path.extension();
        extension.is_some_and(|extension| extension == "sst" || extension == "log")
    };
    let flipped: Vec<PathBuf> = files_in(victim, part)
        .into_iter()
        .filter(is_record)
        .filter(|file| flip(file, flips, &mut seed))
        .collect();
    assert!(!flipped.is_empty(), "no {part} to flip bytes in");
    let told = format!("{count} drives, {part}, {flips} flips, killed {killed}");
    match server.try_restart() {
        Ok(()) => {
            let whole = never_wrong(&server, &ledger);
            println!("{told}: {whole} of {} whole", ledger.objects.len());
            if count > 1 {
                assert_eq!(
                    whole,
                    ledger.objects.len(),
                    "{told}: one bad drive costs nothing"
                );
            }
        }
        // With a single drive there is nothing to rebuild from: to refuse is right, to panic is not.
        Err(error) => {
            let reason = error.log.lines().last().unwrap_or_default().to_owned();
            println!("{told}: refused to start: {reason}");
            assert_eq!(count, 1, "{told}: must not stop the start: {error}");
            assert!(!error.log.contains("panicked"), "{told}: {error}");
        }
    }
}
