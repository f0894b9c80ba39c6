//! Thirty-two writers behind a barrier want the same key with `If-None-Match: *`, over all gateways, while nodes die:
//! exactly one wins each round, and its bytes are what every gateway gives.
//!
//! `HOLDFAST_TEST_ROUNDS`: how many rounds (60; 1,000 in long runs).

use std::io;
use std::net::SocketAddr;
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use holdfast_s3_tests::client::Fetched;
use holdfast_s3_tests::cluster::{nodes, number, report};
use holdfast_s3_tests::race::{Told, judge};
use holdfast_s3_tests::request::{Keys, encode_query};
use holdfast_s3_tests::traffic::{ATTEMPT, OUTAGE};
use holdfast_s3_tests::{Client, Cluster, ClusterOptions, Content, Request, Response, Seed};

const BUCKET: &str = "bucket";
const WRITERS: usize = 32;

/// Every so many rounds a node dies in one.
const KILL_EVERY: u64 = 5;

/// How the bodies of a round come.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Kept inline.
    Small,
    /// Some chunks.
    Large,
    /// CompleteMultipartUpload.
    Multipart,
}

/// What a writer does in a round.
#[derive(Clone, Copy)]
struct Entry {
    kind: Kind,
    content: Content,
}

#[derive(Default)]
struct Tally {
    decided_by_answer: u64,
    decided_by_read: u64,
    /// Rounds in which nobody won, since nobody got an answer.
    nobody: u64,
    lost: u64,
    unknown: u64,
    unknown_without_a_kill: u64,
}

#[test]
fn exactly_one_wins() {
    let mut seed = Seed::for_test("cluster-race");
    let rounds = number("HOLDFAST_TEST_ROUNDS", 60);
    let cluster = Cluster::up("cluster-race", &ClusterOptions::new(nodes()));
    cluster.client(1).create_bucket(BUCKET);
    let mut tally = Tally::default();
    let started = Instant::now();
    for round in 0..rounds {
        let kind = match round % 4 {
            0 | 2 => Kind::Small,
            1 => Kind::Large,
            _ => Kind::Multipart,
        };
        let victim = (round % KILL_EVERY == KILL_EVERY - 1)
            .then(|| seed.within(1..cluster.nodes() as u64 + 1) as usize);
        let entries: Vec<Entry> = (0..WRITERS)
            .map(|_| Entry {
                kind,
                content: Content::new(
                    seed.draw(),
                    match kind {
                        Kind::Small => seed.within(1..20_000),
                        Kind::Large => seed.within(1 << 20..3 << 20),
                        Kind::Multipart => seed.within(1..300_000),
                    },
                ),
            })
            .collect();
        let key = format!("round-{round:04}");
        let delay = Duration::from_micros(seed.within(0..40_000));
        let told = race(&cluster, &key, &entries, victim, delay);
        let contents: Vec<Content> = entries.iter().map(|entry| entry.content).collect();
        let living: Vec<SocketAddr> = cluster
            .addresses()
            .iter()
            .enumerate()
            .filter(|(index, _)| Some(index + 1) != victim)
            .map(|(_, address)| *address)
            .collect();
        let decided = told.contains(&Told::Won);
        let mut read = read_by_all(&living, &cluster, &key, &contents, decided);
        if let Some(victim) = victim {
            cluster.start(victim);
            // The next one may die only once this one is counted on again.
            cluster.wait_healthy();
            if decided {
                read.push(read_back(
                    cluster.address(victim),
                    cluster.keys(),
                    &key,
                    &contents,
                ));
            } else {
                read = read_by_all(cluster.addresses(), &cluster, &key, &contents, decided);
            }
        }
        let winner = judge(&told, &read).unwrap_or_else(|wrong| {
            panic!("round {round} ({kind:?}, killed {victim:?}): {wrong}; told {told:?}")
        });
        tally.count(&told, winner, victim);
    }
    report(&format!(
        "cluster-race: {rounds} rounds in {:.1?}: {} with one 200, {} decided by a later read, {} without a winner and \
         without answers; {} times 412 or 409, {} times no clear answer, {} of them in rounds without a kill",
        started.elapsed(),
        tally.decided_by_answer,
        tally.decided_by_read,
        tally.nobody,
        tally.lost,
        tally.unknown,
        tally.unknown_without_a_kill,
    ));
    assert_eq!(
        tally.unknown_without_a_kill, 0,
        "a writer got no clear answer although nobody died"
    );
}

impl Tally {
    fn count(&mut self, told: &[Told], winner: Option<usize>, victim: Option<usize>) {
        match winner {
            Some(winner) if told[winner] == Told::Won => self.decided_by_answer += 1,
            Some(_) => self.decided_by_read += 1,
            None => self.nobody += 1,
        }
        let count = |what: Told| told.iter().filter(|told| **told == what).count() as u64;
        self.lost += count(Told::Lost);
        self.unknown += count(Told::Unknown);
        if victim.is_none() {
            self.unknown_without_a_kill += count(Told::Unknown);
        }
    }
}

/// One round. What each writer was told.
fn race(
    cluster: &Cluster,
    key: &str,
    entries: &[Entry],
    victim: Option<usize>,
    delay: Duration,
) -> Vec<Told> {
    let barrier = Barrier::new(entries.len() + 1);
    let told = Mutex::new(vec![None; entries.len()]);
    std::thread::scope(|scope| {
        for (writer, entry) in entries.iter().enumerate() {
            let address = cluster.addresses()[writer % cluster.nodes()];
            let (barrier, told) = (&barrier, &told);
            scope.spawn(move || {
                let mut client = Client::new(address, cluster.keys().clone()).deadline(ATTEMPT * 2);
                let upload = match entry.kind {
                    Kind::Multipart => Some(upload(&mut client, key, entry.content)),
                    _ => None,
                };
                barrier.wait();
                let answer = match upload {
                    None => client.put_with(
                        &format!("/{BUCKET}/{key}"),
                        entry.content,
                        &[("if-none-match", "*")],
                    ),
                    Some(complete) => client.send(&complete),
                };
                let is = outcome(answer);
                told.lock().expect("told")[writer] = Some(is);
            });
        }
        barrier.wait();
        if let Some(victim) = victim {
            std::thread::sleep(delay);
            cluster.kill(victim);
        }
    });
    let told = told.into_inner().expect("told");
    let told: Option<Vec<Result<Told, String>>> = told.into_iter().collect();
    told.expect("every writer was told something")
        .into_iter()
        .map(|told| told.unwrap_or_else(|wrong| panic!("{key}: {wrong}")))
        .collect()
}

fn outcome(answer: io::Result<Response>) -> Result<Told, String> {
    let Ok(answer) = answer else {
        return Ok(Told::Unknown);
    };
    // S3 may say 200 to a completion and the error in the body.
    if answer.status == 200 && answer.text().contains("<Error>") {
        return Err(format!("{answer:?}"));
    }
    Told::from_status(answer.status).map_err(|wrong| format!("{wrong}: {answer:?}"))
}

/// Uploads `content` as the only part; the request that completes it.
fn upload(client: &mut Client, key: &str, content: Content) -> Request {
    let target = format!("/{BUCKET}/{key}");
    let created = client.persist("CreateMultipartUpload", OUTAGE, |client| {
        client.send(&Request::post(&format!("{target}?uploads")))
    });
    assert!(created.is_success(), "{created:?}");
    let id = created.element("UploadId").expect("an upload has an id");
    let part = format!("{target}?partNumber=1&uploadId={}", encode_query(&id));
    let put = client.persist("UploadPart", OUTAGE, |client| {
        client.put_with(&part, content, &[])
    });
    let etag = put.get("etag").unwrap_or_else(|| panic!("{put:?}"));
    let xml = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    );
    Request::post(&format!("{target}?uploadId={}", encode_query(&id)))
        .header("if-none-match", "*")
        .body(xml)
}

/// Whose bytes each of the gateways gives. As long as nobody was told that he won, a write without an answer may still
/// happen while they are asked, once: then they are asked again.
fn read_by_all(
    gateways: &[SocketAddr],
    cluster: &Cluster,
    key: &str,
    contents: &[Content],
    decided: bool,
) -> Vec<Option<usize>> {
    let ask = || -> Vec<Option<usize>> {
        gateways
            .iter()
            .map(|address| read_back(*address, cluster.keys(), key, contents))
            .collect()
    };
    let read = ask();
    if decided || read.windows(2).all(|two| two[0] == two[1]) {
        return read;
    }
    ask()
}

/// Whose bytes a gateway gives; asked again until it answers.
fn read_back(address: SocketAddr, keys: &Keys, key: &str, contents: &[Content]) -> Option<usize> {
    let mut client = Client::new(address, keys.clone()).deadline(ATTEMPT);
    let deadline = Instant::now() + OUTAGE;
    loop {
        let last = match client.get_any(BUCKET, key, contents) {
            Ok((Fetched::Whole(_), writer)) => return Some(writer),
            Ok((Fetched::Refused(answer), _)) if answer.status == 404 => return None,
            other => format!("{other:?}"),
        };
        assert!(Instant::now() < deadline, "GET {key} at {address}: {last}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
