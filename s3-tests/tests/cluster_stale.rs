//! What one gateway has acknowledged, every other shows at once: a write through one, and a GET, HEAD or LIST through
//! another, again and again. Not one answer may be stale.
//!
//! `HOLDFAST_TEST_PAIRS`: how many pairs (20,000; 1,000,000 in long runs).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use holdfast_s3_tests::cluster::{nodes, number, report};
use holdfast_s3_tests::liar::{self, Lie};
use holdfast_s3_tests::request::{Keys, encode_query};
use holdfast_s3_tests::traffic::OUTAGE;
use holdfast_s3_tests::{Client, Cluster, ClusterOptions, Content, Request, Response, Seed};

const BUCKET: &str = "bucket";
const CLIENTS: u64 = 8;
/// Keys of each client.
const KEYS: u64 = 16;

/// What a key holds: an ETag, or nothing.
type Held = Option<String>;

/// The ways to look.
#[derive(Clone, Copy, Debug)]
enum Look {
    Get,
    Head,
    List,
}

const LOOKS: [Look; 3] = [Look::Get, Look::Head, Look::List];

/// What `look` shows of `key`. A body that is not the one of its ETag is wrong data.
fn look(client: &mut Client, look: Look, key: &str) -> Held {
    let target = format!("/{BUCKET}/{key}");
    let request = match look {
        Look::Get => Request::get(&target),
        Look::Head => Request::head(&target),
        Look::List => Request::get(&format!(
            "/{BUCKET}?list-type=2&prefix={}",
            encode_query(key)
        )),
    };
    let answer = client.persist(&format!("{look:?} {key}"), OUTAGE, |client| {
        client.send(&request)
    });
    shown(look, key, &answer)
}

/// What an answer says about `key`.
fn shown(look: Look, key: &str, answer: &Response) -> Held {
    match (look, answer.status) {
        (Look::List, 200) => {
            let keys = answer.elements("Key");
            let at = keys.iter().position(|listed| listed == key)?;
            answer.elements("ETag").get(at).cloned()
        }
        (Look::Get | Look::Head, 404) => None,
        (Look::Get | Look::Head, 200) => {
            let etag = answer.get("etag").expect("an object has an ETag");
            if matches!(look, Look::Get) {
                assert_eq!(etag, etag_of(&answer.body), "wrong data in {key}");
            }
            Some(etag.to_owned())
        }
        _ => panic!("{look:?} {key}: {answer:?}"),
    }
}

fn etag_of(body: &[u8]) -> String {
    format!("\"{}\"", holdfast_s3_tests::content::md5_hex(body))
}

/// A chain of writes on one key, each made conditional on the one before or not.
struct Chain {
    key: String,
    held: Held,
}

impl Chain {
    /// One write through `client`, which knows what the key holds if the others' writes are seen at once.
    fn write(&mut self, client: &mut Client, seed: &mut Seed) {
        let target = format!("/{BUCKET}/{}", self.key);
        if self.held.is_some() && seed.chance(25) {
            let answer = client.persist("DELETE", OUTAGE, |client| {
                client.send(&Request::delete(&target))
            });
            assert_eq!(answer.status, 204, "{answer:?}");
            self.held = None;
            return;
        }
        let len = if seed.chance(95) {
            seed.within(0..2_000)
        } else {
            seed.within(33_000..120_000)
        };
        let body = Content::new(seed.draw(), len).bytes();
        let etag = etag_of(&body);
        let mut request = Request::put(&target).body(body);
        if seed.chance(50) {
            request = match &self.held {
                Some(held) => request.header("if-match", held),
                None => request.header("if-none-match", "*"),
            };
        }
        // Repeated without its condition: after 503 it may have happened.
        let answer = client.send(&request).expect("PUT");
        if answer.status >= 500 {
            request.headers.clear();
            let again = client.persist("PUT", OUTAGE, |client| client.send(&request));
            assert!(again.is_success(), "{again:?}");
        } else {
            assert!(
                answer.is_success(),
                "a stale gateway? PUT of {} that holds {:?}: {answer:?}",
                self.key,
                self.held
            );
        }
        self.held = Some(etag);
    }

    /// A conditional write that must be refused, because what it expects is no longer there.
    fn outdated(&self, client: &mut Client, old: &Held) {
        if *old == self.held {
            return;
        }
        let request = match old {
            Some(old) => Request::put(&format!("/{BUCKET}/{}", self.key)).header("if-match", old),
            None => Request::put(&format!("/{BUCKET}/{}", self.key)).header("if-none-match", "*"),
        };
        let answer = client.persist("outdated PUT", OUTAGE, |client| {
            client.send(&request.clone().body("outdated"))
        });
        let expected = if self.held.is_some() { 412 } else { 404 };
        assert_eq!(
            answer.status, expected,
            "a stale gateway took a write that expects {old:?} of {}, which holds {:?}",
            self.key, self.held
        );
    }
}

/// `pairs` pairs in all by `CLIENTS` clients, each of which has connections to all gateways. How many were stale.
fn stale_among(pairs: u64, gateways: impl Fn() -> Vec<Client> + Sync, seed: &Seed) -> u64 {
    let (done, stale) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (gateways, done, stale) = (&gateways, &done, &stale);
            let mut seed = seed.fork(client);
            scope.spawn(move || {
                let mut gateways = gateways();
                let mut chains: Vec<Chain> = (0..KEYS)
                    .map(|index| Chain {
                        key: format!("client-{client}/{index:02}"),
                        held: None,
                    })
                    .collect();
                while done.fetch_add(1, Ordering::Relaxed) < pairs {
                    let chain = &mut chains[seed.within(0..KEYS) as usize];
                    stale.fetch_add(
                        u64::from(is_stale(chain, &mut gateways, &mut seed)),
                        Ordering::Relaxed,
                    );
                }
            });
        }
    });
    stale.into_inner()
}

/// One pair: a write through one gateway, and a look through another.
fn is_stale(chain: &mut Chain, gateways: &mut [Client], seed: &mut Seed) -> bool {
    let count = gateways.len() as u64;
    let writer = seed.within(0..count);
    // Another than the writer, where there is one.
    let reader = (writer + seed.within(1..count.max(2))) % count;
    let before = chain.held.clone();
    chain.write(&mut gateways[writer as usize], seed);
    let way = *seed.choose(&LOOKS);
    let seen = look(&mut gateways[reader as usize], way, &chain.key);
    let stale = seen != chain.held;
    if stale {
        println!(
            "STALE: {way:?} of {} through gateway {} shows {seen:?}; gateway {} had acknowledged {:?}, before it was {before:?}",
            chain.key,
            reader + 1,
            writer + 1,
            chain.held,
        );
    }
    if seed.chance(10) {
        chain.outdated(&mut gateways[reader as usize], &before);
    }
    stale
}

#[test]
fn no_answer_is_stale() {
    let seed = Seed::for_test("cluster-stale");
    let pairs = number("HOLDFAST_TEST_PAIRS", 20_000);
    let cluster = Cluster::up("cluster-stale", &ClusterOptions::new(nodes()));
    cluster.client(1).create_bucket(BUCKET);
    let started = Instant::now();
    let stale = stale_among(pairs, || cluster.clients(), &seed);
    let took = started.elapsed();
    report(&format!(
        "cluster-stale: {pairs} pairs in {took:.1?} ({:.0} a second), {stale} stale",
        pairs as f64 / took.as_secs_f64(),
    ));
    assert_eq!(stale, 0, "stale answers");
}

#[test]
fn a_gateway_with_stale_answers_is_found() {
    let seed = Seed::for_test("stale-liar");
    for (lie, is_found) in [(Lie::None, false), (Lie::StaleRead, true)] {
        let address = liar::start(lie, seed.fork(1000));
        let gateways = || vec![Client::new(address, Keys::for_tests())];
        let stale = stale_among(300, gateways, &seed);
        assert_eq!(stale > 0, is_found, "{lie:?}: {stale} stale");
    }
}

/// What the look at an answer says is what the answer says: else nothing would ever be found stale.
#[test]
fn answers_are_read_right() {
    let answer = |status, body: &str, etag: &str| Response {
        status,
        headers: vec![("etag".to_owned(), etag.to_owned())],
        body: body.as_bytes().to_vec(),
    };
    let etag = etag_of(b"body");
    assert_eq!(
        shown(Look::Get, "k", &answer(200, "body", &etag)),
        Some(etag.clone())
    );
    assert_eq!(
        shown(Look::Head, "k", &answer(200, "", &etag)),
        Some(etag.clone())
    );
    assert_eq!(shown(Look::Get, "k", &answer(404, "", "")), None);
    let listing = "<Contents><Key>k</Key><ETag>&quot;1&quot;</ETag></Contents>\
        <Contents><Key>k2</Key><ETag>&quot;2&quot;</ETag></Contents>";
    assert_eq!(
        shown(Look::List, "k2", &answer(200, listing, "")),
        Some("\"2\"".to_owned())
    );
    assert_eq!(shown(Look::List, "k3", &answer(200, listing, "")), None);
    let torn = std::panic::catch_unwind(|| shown(Look::Get, "k", &answer(200, "bodi", &etag)));
    assert!(torn.is_err());
}
