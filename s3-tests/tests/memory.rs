//! The memory budget holds, and what does not fit is refused.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_s3_tests::client::Fetched;
use holdfast_s3_tests::{
    Client, Connection, Content, Keys, Request, Scratch, Seed, Server, ServerOptions,
};

const BUCKET: &str = "bucket";
const GIB: u64 = 1 << 30;

/// Runs `work(index)` on `count` threads at once.
fn at_once(count: u64, work: impl Fn(u64) + Sync) {
    std::thread::scope(|scope| {
        for index in 0..count {
            let work = &work;
            std::thread::Builder::new()
                .stack_size(512 * 1024)
                .spawn_scoped(scope, move || work(index))
                .expect("start a client");
        }
    });
}

/// Repeats while the answer is 503, as SDKs do; counts how often it was.
fn patiently<T>(
    slow_downs: &AtomicU64,
    mut attempt: impl FnMut() -> Result<T, holdfast_s3_tests::Response>,
) -> T {
    for round in 0..2000 {
        match attempt() {
            Ok(value) => return value,
            Err(response) => {
                assert_eq!(
                    (response.status, response.code().as_deref()),
                    (503, Some("SlowDown")),
                    "{response:?}"
                );
                slow_downs.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20 + 10 * round.min(50)));
            }
        }
    }
    panic!("refused with SlowDown 2000 times over");
}

#[test]
fn one_gibibyte_holds_under_256_uploads_and_downloads_of_64_mib() {
    const CLIENTS: u64 = 256;
    const SIZE: u64 = 64 << 20;
    let seed = Seed::for_test("memory");
    let scratch = Scratch::new("memory");
    let mut server = Server::start(&ServerOptions::new(scratch.join("data")).memory_budget("1GiB"));
    server.client().create_bucket(BUCKET);
    let content = |index: u64| Content::new(seed.fork(index).draw(), SIZE);
    let slow_downs = AtomicU64::new(0);
    let address = server.address();

    at_once(CLIENTS, |index| {
        patiently(&slow_downs, || {
            let mut client = Client::new(address, Keys::for_tests());
            let response = client
                .put(BUCKET, &format!("object-{index:03}"), content(index))
                .expect("PUT");
            if response.is_success() {
                Ok(())
            } else {
                Err(response)
            }
        });
    });
    let after_uploads = server.peak_rss();
    println!(
        "after the uploads: peak {} MiB, SlowDown {} times",
        after_uploads >> 20,
        slow_downs.load(Ordering::Relaxed)
    );
    at_once(CLIENTS, |index| {
        patiently(&slow_downs, || {
            let mut client = Client::new(address, Keys::for_tests());
            match client
                .get(BUCKET, &format!("object-{index:03}"), content(index))
                .expect("GET")
            {
                Fetched::Whole(_) => Ok(()),
                Fetched::Refused(response) => Err(response),
                Fetched::BrokenOff(error) => panic!("a download broke off: {error}"),
            }
        });
    });
    let peak = server.peak_rss();
    println!(
        "after the downloads: peak {} MiB, SlowDown {} times",
        peak >> 20,
        slow_downs.into_inner()
    );
    assert!(server.is_alive());
    assert!(
        peak <= GIB,
        "peak RSS {} MiB is above the budget of 1024 MiB",
        peak >> 20
    );
    let keys: Vec<String> = (0..CLIENTS)
        .map(|index| format!("object-{index:03}"))
        .collect();
    assert_eq!(server.client().list(BUCKET, "").len() as u64, CLIENTS);
    for key in keys {
        assert!(
            server
                .client()
                .delete(BUCKET, &key)
                .expect("DELETE")
                .is_success()
        );
    }
}

/// Clients that send a part and stop hold their buffers: others are refused instead of growing, and service recovers.
#[test]
fn beyond_the_budget_clients_are_told_to_slow_down() {
    const STALLED: u64 = 300;
    // Longer than a request waits for memory, shorter than the server waits for a silent client.
    const PATIENCE: Duration = Duration::from_secs(20);
    let scratch = Scratch::new("slow-down");
    let options = ServerOptions::new(scratch.join("data")).memory_budget("256MiB");
    let mut server = Server::start(&options);
    server.client().create_bucket(BUCKET);
    let address = server.address();
    let content = Content::new(9, 16 << 20);
    let mut piece = vec![0; 3 << 20];
    content.fill(0, &mut piece);
    let (held, refused) = (Mutex::new(Vec::new()), AtomicU64::new(0));
    at_once(STALLED, |index| {
        let wire = Request::put(&format!("/bucket/stalled-{index}"))
            .header("content-length", &content.len.to_string())
            .unsigned()
            .sign(address, &Keys::for_tests());
        let mut connection = Connection::open(address).expect("connect");
        connection.write(&wire.head()).expect("head");
        // As much as is taken of the first piece, then silence.
        let _ = connection.send_within(&piece, Duration::from_secs(2));
        match connection.response_within(PATIENCE, "PUT") {
            Some(response) => {
                assert_eq!(
                    (response.status, response.code().as_deref()),
                    (503, Some("SlowDown")),
                    "{response:?}"
                );
                refused.fetch_add(1, Ordering::Relaxed);
            }
            None => held.lock().expect("held").push(connection),
        }
    });
    let (held, refused) = (held.into_inner().expect("held"), refused.into_inner());
    let peak = server.peak_rss();
    println!(
        "{} held, {refused} refused, peak {} MiB",
        held.len(),
        peak >> 20
    );
    assert!(server.is_alive());
    assert!(refused > 0, "{STALLED} stalled uploads fit into 256 MiB");
    assert!(!held.is_empty(), "everybody was refused");
    assert!(
        peak <= 256 << 20,
        "peak RSS {} MiB is above the budget of 256 MiB",
        peak >> 20
    );

    // Who hangs up gives back what it held.
    drop(held);
    let whole = Content::new(10, 20 << 20);
    let response = server.client().persist(
        "PUT after the pressure",
        Duration::from_secs(60),
        |client| client.put(BUCKET, "whole", whole),
    );
    assert!(response.is_success(), "{response:?}");
    server.client().get_whole(BUCKET, "whole", whole);
    assert_eq!(server.client().list(BUCKET, ""), ["whole"]);
}
