//! SIGKILL at random moments under load: what was acknowledged is there and whole, what was not is whole or absent.
//!
//! `HOLDFAST_TEST_KILLS` sets the number of kills (50 if unset), `HOLDFAST_TEST_SEED` replays the choices of a run
//! (what is written and when the kill comes; not how threads interleave).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use holdfast_s3_tests::client::Fetched;
use holdfast_s3_tests::request::encode_query;
use holdfast_s3_tests::{Client, Content, Keys, Request, Scratch, Seed, Server, ServerOptions};

const BUCKET: &str = "bucket";
const WRITERS: u64 = 4;
const SMALL_KEYS: u64 = 40;
const LARGE_KEYS: u64 = 3;
const MULTIPART_KEYS: u64 = 1;
const PART: u64 = 5 << 20;

/// What a key may hold: one content, or several parts joined.
#[derive(Clone, Debug, PartialEq)]
enum State {
    Absent,
    Parts(Vec<Content>),
}

/// A key as its writer knows it.
#[derive(Clone, Debug)]
struct Known {
    acknowledged: State,
    /// Writes whose answer never came: any one of them may have happened.
    pending: Vec<State>,
}

/// One writer and the keys that only it writes.
struct Writer {
    index: u64,
    seed: Seed,
    keys: BTreeMap<String, Known>,
}

impl Writer {
    /// Writes until the server is gone.
    fn work(&mut self, address: SocketAddr, acknowledged: &AtomicU64) {
        let mut client = Client::new(address, Keys::for_tests());
        loop {
            let (key, state) = self.draw();
            let known = self.keys.entry(key.clone()).or_insert(Known {
                acknowledged: State::Absent,
                pending: Vec::new(),
            });
            known.pending.push(state.clone());
            let answer = match &state {
                State::Absent => client.delete(BUCKET, &key),
                State::Parts(parts) if parts.len() == 1 => client.put(BUCKET, &key, parts[0]),
                State::Parts(parts) => client.multipart(BUCKET, &key, parts),
            };
            match answer {
                Ok(response) if response.is_success() => {
                    known.acknowledged = state;
                    known.pending.clear();
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                // Not acknowledged, and not known not to have happened.
                Ok(response) if response.status >= 500 => {
                    std::thread::sleep(Duration::from_millis(10))
                }
                Ok(response) => panic!("{key}: {response:?}"),
                Err(_) => return,
            }
        }
    }

    /// The next write: which key, and what it shall hold.
    fn draw(&mut self) -> (String, State) {
        let writer = self.index;
        let seed = &mut self.seed;
        let content_seed = seed.draw();
        match seed.within(0..100) {
            0..70 => {
                let key = format!("w{writer}/small-{:02}", seed.within(0..SMALL_KEYS));
                let len = if seed.chance(80) {
                    seed.within(0..20_000)
                } else {
                    seed.within(20_000..200_000)
                };
                (key, State::Parts(vec![Content::new(content_seed, len)]))
            }
            70..80 => {
                let key = format!("w{writer}/large-{}", seed.within(0..LARGE_KEYS));
                (
                    key,
                    State::Parts(vec![Content::new(
                        content_seed,
                        seed.within(1 << 20..12 << 20),
                    )]),
                )
            }
            80..83 => {
                let key = format!("w{writer}/multipart-{}", seed.within(0..MULTIPART_KEYS));
                let last = seed.within(1..PART);
                (
                    key,
                    State::Parts(vec![
                        Content::new(content_seed, PART),
                        Content::new(content_seed ^ 1, last),
                    ]),
                )
            }
            _ => {
                let key = match seed.within(0..10) {
                    0 => format!("w{writer}/multipart-{}", seed.within(0..MULTIPART_KEYS)),
                    1 => format!("w{writer}/large-{}", seed.within(0..LARGE_KEYS)),
                    _ => format!("w{writer}/small-{:02}", seed.within(0..SMALL_KEYS)),
                };
                (key, State::Absent)
            }
        }
    }

    /// Compares every key with what the server has, and takes what it has as settled.
    fn check(&mut self, client: &mut Client) {
        let mut expected = Vec::new();
        for (key, known) in &mut self.keys {
            let mut candidates = vec![known.acknowledged.clone()];
            candidates.append(&mut known.pending);
            let found = fetch(client, key, &candidates);
            assert!(
                candidates.contains(&found),
                "{key} is {found:?}, may be one of {candidates:?}"
            );
            if let State::Parts(parts) = &found {
                let len: u64 = parts.iter().map(|part| part.len).sum();
                expected.push((key.clone(), len));
            }
            known.acknowledged = found;
        }
        let listed = list(client, &format!("w{}/", self.index));
        assert_eq!(listed, expected, "the listing of writer {}", self.index);
    }
}

/// What `key` holds; panics if it is none of `candidates`.
fn fetch(client: &mut Client, key: &str, candidates: &[State]) -> State {
    if candidates
        .iter()
        .any(|state| matches!(state, State::Parts(parts) if parts.len() > 1))
    {
        let response = client
            .send(&Request::get(&format!("/{BUCKET}/{key}")))
            .expect("GET");
        if response.status == 404 {
            return State::Absent;
        }
        assert!(response.is_success(), "{key}: {response:?}");
        let fits = |state: &&State| match state {
            State::Absent => false,
            State::Parts(parts) => {
                let mut offset = 0;
                let len: u64 = parts.iter().map(|part| part.len).sum();
                len == response.body.len() as u64
                    && parts.iter().all(|part| {
                        let piece = &response.body[offset as usize..(offset + part.len) as usize];
                        offset += part.len;
                        part.mismatch(0, piece).is_none()
                    })
            }
        };
        return candidates
            .iter()
            .find(fits)
            .unwrap_or_else(|| {
                panic!("wrong data in {key}: {response:?}, may be one of {candidates:?}")
            })
            .clone();
    }
    let contents: Vec<Content> = candidates
        .iter()
        .filter_map(|state| match state {
            State::Parts(parts) => parts.first().copied(),
            State::Absent => None,
        })
        .collect();
    match client.get_any(BUCKET, key, &contents).expect("GET") {
        (Fetched::Whole(_), index) => State::Parts(vec![contents[index]]),
        (Fetched::Refused(response), _) if response.status == 404 => State::Absent,
        other => panic!("{key}: {other:?}, may be one of {candidates:?}"),
    }
}

/// Keys and sizes as listed.
fn list(client: &mut Client, prefix: &str) -> Vec<(String, u64)> {
    let response = client.ok(&Request::get(&format!(
        "/{BUCKET}?list-type=2&prefix={}",
        encode_query(prefix)
    )));
    let sizes = response
        .elements("Size")
        .into_iter()
        .map(|size| size.parse().expect("a size"));
    response.elements("Key").into_iter().zip(sizes).collect()
}

fn kills() -> u64 {
    std::env::var("HOLDFAST_TEST_KILLS").map_or(50, |text| {
        text.parse().expect("HOLDFAST_TEST_KILLS is a number")
    })
}

/// `rounds` kills of one store on `drives` drives.
fn killed_again_and_again(name: &str, drives: usize, rounds: u64) {
    let mut seed = Seed::for_test(name);
    let scratch = Scratch::new(name);
    let options = ServerOptions::new(scratch.join("data")).drives(&scratch.drives(drives));
    let mut server = Server::start(&options);
    server.client().create_bucket(BUCKET);
    let mut writers: Vec<Writer> = (0..WRITERS)
        .map(|index| Writer {
            index,
            seed: seed.fork(index),
            keys: BTreeMap::new(),
        })
        .collect();
    let acknowledged = AtomicU64::new(0);
    let started = Instant::now();
    for round in 0..rounds {
        let before = acknowledged.load(Ordering::Relaxed);
        let delay = Duration::from_millis(seed.within(30..1000));
        let address = server.address();
        std::thread::scope(|scope| {
            for writer in &mut writers {
                let acknowledged = &acknowledged;
                scope.spawn(move || writer.work(address, acknowledged));
            }
            // A kill says nothing unless there was something to lose.
            let patience = Instant::now() + Duration::from_secs(60);
            while acknowledged.load(Ordering::Relaxed) == before && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(delay);
            server.kill();
        });
        assert!(
            acknowledged.load(Ordering::Relaxed) > before,
            "round {round}: nothing was acknowledged"
        );
        server.restart();
        let address = server.address();
        std::thread::scope(|scope| {
            for writer in &mut writers {
                scope.spawn(move || writer.check(&mut Client::new(address, Keys::for_tests())));
            }
        });
    }
    println!(
        "{name}: {rounds} kills, {} acknowledged writes, {:?}",
        acknowledged.into_inner(),
        started.elapsed()
    );
}

#[test]
fn one_drive() {
    killed_again_and_again("kill-one-drive", 1, kills().div_ceil(2));
}

#[test]
fn six_drives() {
    killed_again_and_again("kill-six-drives", 6, kills() / 2);
}
