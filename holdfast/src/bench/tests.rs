//! Whole runs against a server in this process.

use super::args::BenchArgs;
use super::content::Content;
use super::fake_s3::{FakeS3, Faults};
use super::report::{Report, Server};
use super::{BenchError, measure, verdict};
use clap::Parser;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    bench: BenchArgs,
}

fn bench(servers: &[&FakeS3], line: &str) -> Result<Report, BenchError> {
    let mut words: Vec<String> = [
        "bench",
        "--access-key",
        "test",
        "--secret-key",
        "s",
        "--bucket",
        "b",
        "--no-limits",
    ]
    .map(str::to_owned)
    .to_vec();
    words.extend(["--settle", "0s"].map(str::to_owned));
    if !line.contains("--region") {
        words.extend(["--region", "us-east-1"].map(str::to_owned));
    }
    for server in servers {
        words.extend(["--endpoint".to_owned(), server.url()]);
    }
    words.extend(line.split_whitespace().map(str::to_owned));
    let cli = Cli::try_parse_from(words).unwrap_or_else(|e| panic!("{line}: {e}"));
    measure(&cli.bench, &Arc::new(AtomicBool::new(false)))
}

/// A run that must succeed.
fn succeed(server: &FakeS3, line: &str) -> Report {
    let report = bench(&[server], line).unwrap_or_else(|e| panic!("{line}: {e}"));
    verdict(&report).unwrap_or_else(|e| panic!("{line}: {e}\n{report}"));
    report
}

/// What is wrong with a run that must not succeed.
fn fail(server: &FakeS3, line: &str) -> BenchError {
    bench(&[server], line)
        .and_then(|report| verdict(&report))
        .expect_err(line)
}

#[test]
fn every_payload_mode_stores_the_content_of_its_key() {
    for (payload, sent) in [
        ("unsigned", "UNSIGNED-PAYLOAD"),
        ("signed", "(hash)"),
        ("unsigned-trailer", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
        ("streaming-signed", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
    ] {
        for size in [0u64, 1, 4096, 70_000, 5_000_000] {
            let server = FakeS3::start(Faults::default());
            let report = succeed(
                &server,
                &format!(
                    "put --count 3 -c 2 --size {size} --payload {payload} --chunk 64KiB --seed 9 --verify"
                ),
            );
            assert_eq!(report.requests["put"].ops, 3);
            assert_eq!(report.requests["put"].bytes, 3 * size);
            assert_eq!(
                report
                    .read_back
                    .as_ref()
                    .map(|back| (back.objects, back.bytes)),
                Some((3, 3 * size))
            );
            assert_eq!(server.payloads(), [sent]);
            let content = Content::new(9);
            let key = "bench/000000/0000000001";
            let stored = server.object(&format!("b/{key}")).expect("it was put");
            assert_eq!(stored.len() as u64, size);
            assert_eq!(content.compare(content.start(key), 0, &stored), Ok(()));
        }
    }
}

#[test]
fn a_flipped_byte_is_caught_by_verify_and_only_by_verify() {
    for size in ["4KiB", "9MiB"] {
        let server = FakeS3::start(Faults {
            flip_stored_byte: Some(4000),
            ..Faults::default()
        });
        let put = format!("put --count 4 -c 2 --size {size}");
        succeed(&server, &put);
        let get = format!("get --count 40 --keys 4 -c 2 --size {size}");
        succeed(&server, &get);
        let error = fail(&server, &format!("{get} --verify"));
        let BenchError::Failed {
            wrong_data,
            example,
            ..
        } = &error
        else {
            panic!("{error}");
        };
        assert!(*wrong_data > 0);
        assert!(example.contains("byte 4000 is"), "{example}");
        assert!(error.to_string().contains("WRONG DATA"), "{error}");
    }
}

#[test]
fn a_flipped_byte_is_caught_when_writes_are_read_back() {
    let server = FakeS3::start(Faults {
        flip_stored_byte: Some(0),
        ..Faults::default()
    });
    let error = fail(&server, "put --count 10 --verify");
    assert!(
        error
            .to_string()
            .contains("1 of 20 requests failed, 1 of them with WRONG DATA"),
        "{error}"
    );
}

#[test]
fn another_size_or_seed_than_was_written_is_wrong_data() {
    let server = FakeS3::start(Faults::default());
    succeed(&server, "put --count 4 --seed 1");
    let error = fail(&server, "get --keys 4 --count 4 --seed 2 --verify");
    assert!(error.to_string().contains("WRONG DATA"), "{error}");
    let error = fail(
        &server,
        "get --keys 4 --count 4 --seed 1 --size 8KiB --verify",
    );
    assert!(
        error.to_string().contains("4096 bytes came, must be 8192"),
        "{error}"
    );
    let error = fail(&server, "head --keys 4 --count 4 --size 8KiB --verify");
    assert!(error.to_string().contains("must be 8192"), "{error}");
}

#[test]
fn errors_are_counted_by_code_and_fail_the_run() {
    let server = FakeS3::start(Faults {
        slow_down_every: Some(10),
        ..Faults::default()
    });
    let report = bench(&[&server], "put --count 100 --verify").expect("it ends");
    let slow_downs = report.errors["SlowDown"].count;
    assert!((9..=11).contains(&slow_downs), "{slow_downs}");
    assert_eq!(report.requests["put"].ops, 100 - slow_downs);
    // What failed is not missed when the rest is read back.
    assert_eq!(
        report
            .read_back
            .as_ref()
            .map(|back| (back.objects, back.errors.len())),
        Some((100 - slow_downs, 0))
    );
    let error = verdict(&report).expect_err("there were errors");
    assert!(
        error
            .to_string()
            .contains("SlowDown (HTTP 503): reduce your request rate"),
        "{error}"
    );
}

#[test]
fn a_refusal_before_the_body_was_read_does_not_hold_up_what_follows() {
    let server = FakeS3::start(Faults {
        refuse_unread: true,
        ..Faults::default()
    });
    // The key that ends in 0 is refused, the other two are written after it on the same worker.
    let report =
        bench(&[&server], "put --count 3 -c 1 --size 32MiB --timeout 20s").expect("it ends");
    assert_eq!(report.errors["SlowDown"].count, 1, "{report}");
    assert_eq!(report.errors.len(), 1, "{report}");
    assert_eq!(report.requests["put"].ops, 2);
}

#[test]
fn missing_objects_stop_the_run_at_max_errors() {
    let server = FakeS3::start(Faults::default());
    succeed(&server, "put --count 1");
    let report = bench(
        &[&server],
        "get --keys 1000 --duration 60s --max-errors 20 -c 4 --seed 3",
    )
    .expect("it ends");
    let missing = report.errors["NoSuchKey"].count;
    assert!((20..24).contains(&missing), "{missing}");
    let head = bench(
        &[&server],
        "head --keys 1000 --duration 60s --max-errors 20 -c 4",
    )
    .expect("it ends");
    assert!(head.errors["HTTP 404"].count >= 20);
}

#[test]
fn a_connection_that_is_cut_is_an_error_and_is_opened_again() {
    let server = FakeS3::start(Faults::default());
    succeed(&server, "put --count 5");
    let cutting = FakeS3::start(Faults {
        cut_get_every: Some(7),
        ..Faults::default()
    });
    succeed(&cutting, "put --count 5");
    let report = bench(&[&cutting], "get --keys 5 --count 40 -c 2").expect("it ends");
    let cut = report.errors["(connection)"].count;
    assert!(cut >= 4, "{cut}");
    assert_eq!(report.requests["get"].ops, 40 - cut);
    assert!(report.reconnects >= cut - 2, "{}", report.reconnects);
}

#[test]
fn a_server_that_does_not_answer_is_given_up_on() {
    let server = FakeS3::start(Faults {
        hang_head: true,
        ..Faults::default()
    });
    succeed(&server, "put --count 1");
    let error = fail(&server, "head --keys 1 --count 3 -c 1 --timeout 100ms");
    assert!(
        error
            .to_string()
            .contains("3 of 3 requests failed; the first: no answer within 100ms"),
        "{error}"
    );
}

#[test]
fn a_load_is_listed_whole_and_in_order() {
    let server = FakeS3::start(Faults::default());
    let load = succeed(&server, "load --keys 2500 -c 8");
    assert_eq!(load.requests["put"].ops, 2500);
    assert_eq!(server.len(), 2500);

    let list = succeed(&server, "list --keys 2500 --verify --page 300");
    let listing = list.listing.expect("it listed");
    assert_eq!(
        (
            listing.walks,
            listing.pages,
            listing.keys,
            listing.common_prefixes
        ),
        (1, 9, 2500, 0)
    );

    let rolled = succeed(&server, "list --delimiter / --count 5 --verify")
        .listing
        .expect("it listed");
    assert_eq!(
        (
            rolled.walks,
            rolled.pages,
            rolled.keys,
            rolled.common_prefixes
        ),
        (5, 5, 0, 15)
    );

    let within = succeed(&server, "list --prefix bench/000001/")
        .listing
        .expect("it listed");
    assert_eq!((within.keys, within.pages), (1000, 1));

    let deep = "list --start-after bench/000001/0000001699 --page 100 --pages 2 --count 3";
    for deep in [deep.to_owned(), format!("{deep} --versions")] {
        let deep = succeed(&server, &deep).listing.expect("it listed");
        assert_eq!((deep.walks, deep.keys, deep.pages), (3, 600, 6));
    }
    let versions = succeed(&server, "list --versions --keys 2500 --verify --page 300");
    let versions = versions.listing.expect("it listed");
    assert_eq!((versions.walks, versions.keys), (1, 2500));

    let error = fail(&server, "list --keys 2501 --verify");
    assert!(
        error
            .to_string()
            .contains("it listed 2500 keys, --keys says 2501"),
        "{error}"
    );
}

#[test]
fn a_listing_out_of_order_is_caught() {
    let server = FakeS3::start(Faults {
        list_backwards: true,
        ..Faults::default()
    });
    succeed(&server, "load --keys 20");
    succeed(&server, "list");
    let error = fail(&server, "list --verify");
    assert!(error.to_string().contains("not in order"), "{error}");
}

#[test]
fn a_key_that_a_walk_leaves_out_is_caught() {
    let server = FakeS3::start(Faults::default());
    succeed(&server, "load --keys 2000");
    server.remove("b/bench/000001/0000001234");
    succeed(&server, "list --verify --page 300");
    let error = fail(&server, "list --keys 2000 --verify --page 300");
    assert!(
        error.to_string().contains("0000001234 is not listed"),
        "{error}"
    );
}

#[test]
fn delete_takes_every_key_once() {
    let server = FakeS3::start(Faults::default());
    let report = succeed(&server, "delete --keys 50 --prepare");
    assert_eq!(report.requests["delete"].ops, 50);
    assert_eq!(server.len(), 0);
}

#[test]
fn a_mix_keeps_its_ratio_and_leaves_the_keys_as_they_were() {
    let server = FakeS3::start(Faults::default());
    let report = succeed(
        &server,
        "mixed --keys 50 --count 4000 --mix get=50,put=20,head=10,delete=15,list=5 --verify --prepare",
    );
    assert_eq!(server.len(), 50, "a worker's own keys are gone");
    let ops = |name: &str| report.requests[name].ops as f64 / 4000.0;
    for (name, share) in [("get", 0.5), ("head", 0.1), ("list", 0.05)] {
        assert!((ops(name) - share).abs() < 0.04, "{name}: {}", ops(name));
    }
    assert!(ops("delete") > 0.1 && ops("put") > 0.15);
}

#[test]
fn several_endpoints_take_turns() {
    let servers = [
        FakeS3::start(Faults::default()),
        FakeS3::start(Faults::default()),
    ];
    // The fakes share nothing, so each needs the bucket.
    for server in &servers {
        succeed(server, "put --count 1 --prefix own/");
    }
    let before: Vec<u64> = servers.iter().map(FakeS3::requests).collect();
    let report = bench(&[&servers[0], &servers[1]], "put --count 100 -c 1").expect("it ends");
    assert_eq!(report.requests["put"].ops, 100);
    for (server, before) in servers.iter().zip(before) {
        let asked = server.requests() - before;
        assert!((45..=55).contains(&asked), "{asked}");
    }
}

#[test]
fn the_cost_of_a_local_server_is_found_by_its_port() {
    let server = FakeS3::start(Faults::default());
    let report = succeed(&server, "put --count 64 --size 4MiB");
    let Server::Measured(cost) = &report.server else {
        panic!("{:?}", report.server);
    };
    // The fake runs in this very process, so server and client are one here.
    assert_eq!(cost.pids, [std::process::id()]);
    assert!(cost.cost.cpu_s > 0.0 && cost.cost.cpu_s_per_gb.is_some());
    assert!(cost.peak_rss_bytes >= cost.rss_bytes && cost.rss_bytes > 1 << 20);
    let json = serde_json::to_value(&report).expect("JSON");
    assert_eq!(json["parameters"]["op"], "put");
    assert_eq!(json["requests"]["put"]["ops"], 64);
    assert!(
        json["requests"]["put"]["latency"]["p999_ns"]
            .as_u64()
            .is_some_and(|p999| p999 > 0)
    );
    assert!(json["server"]["measured"]["cost"]["cpu_s_per_gb"].is_number());
    let text = report.to_string();
    for word in ["p99.9", "CPU-s/GB", "ops/CPU-s", "peak", "64"] {
        assert!(text.contains(word), "{word} in {text}");
    }
}

#[test]
fn what_cannot_begin_says_why() {
    let server = FakeS3::start(Faults::default());
    let error = fail(&server, "get");
    assert!(error.to_string().contains("--prepare"), "{error}");

    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = closed.local_addr().expect("an address");
    drop(closed);
    let gone = format!("get --endpoint http://{address}");
    let error = bench(&[], &gone).map(|_| ()).expect_err("nobody listens");
    assert!(matches!(error, BenchError::Unreachable(_)), "{error}");
    assert!(
        error.to_string().contains("is the server running"),
        "{error}"
    );

    let error = bench(&[&server], "put --region eu-west-1")
        .map(|_| ())
        .expect_err("not the region");
    assert!(matches!(error, BenchError::Bucket(..)), "{error}");
}

#[test]
fn a_duration_ends_the_run() {
    let server = FakeS3::start(Faults::default());
    let report = succeed(&server, "put --duration 300ms --size 1KiB");
    assert!(
        (0.3..5.0).contains(&report.elapsed_s),
        "{}",
        report.elapsed_s
    );
    assert!(report.requests["put"].ops > 10);
}
