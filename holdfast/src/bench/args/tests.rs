use super::{BenchArgs, Endpoint, Kind, Op, Payload, Plan, Share};
use clap::Parser;
use std::time::Duration;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    bench: BenchArgs,
}

fn plan(line: &str) -> Result<Plan, String> {
    let words = ["bench", "--access-key", "a", "--secret-key", "s"];
    let cli = Cli::try_parse_from(words.into_iter().chain(line.split_whitespace()))
        .map_err(|e| e.to_string())?;
    Plan::new(&cli.bench).map_err(|e| e.to_string())
}

#[test]
fn defaults_follow_from_what_is_asked() {
    let put = plan("put").expect("valid");
    assert_eq!((put.size, put.concurrency, put.keys), (4096, 16, 10_000));
    assert_eq!(
        (put.count, put.duration),
        (None, Some(Duration::from_secs(10)))
    );
    assert_eq!(put.payload, Payload::Unsigned);

    let large = plan("put --size 64MiB --count 32").expect("valid");
    assert_eq!(
        (large.size, large.count, large.duration, large.keys),
        (64 << 20, Some(32), None, 32)
    );
    assert_eq!(large.payload, Payload::UnsignedTrailer);

    let load = plan("load --keys 5000").expect("valid");
    assert_eq!(
        (load.op, load.size, load.count, load.keys),
        (Op::Load, 64, Some(5000), 5000)
    );

    let list = plan("list --delimiter / --prefix p/").expect("valid");
    assert_eq!(
        (list.concurrency, list.count, list.threads),
        (1, Some(1), 1)
    );

    let delete = plan("delete --keys 10 --count 99").expect("valid");
    assert_eq!(delete.count, Some(10), "no key is deleted twice");
}

#[test]
fn endpoints_are_http_without_a_path() {
    let endpoint = |text: &str| text.parse::<Endpoint>();
    assert_eq!(
        endpoint("http://127.0.0.1:9000").map(|e| e.authority()),
        Ok("127.0.0.1:9000".to_owned())
    );
    assert_eq!(
        endpoint("http://s3.local/").map(|e| e.authority()),
        Ok("s3.local".to_owned())
    );
    assert_eq!(
        endpoint("http://[::1]:9000").map(|e| (e.host, e.port)),
        Ok(("[::1]".to_owned(), 9000))
    );
    for text in [
        "https://s3.local",
        "127.0.0.1:9000",
        "http://",
        "http://h:1/bucket",
        "http://u@h",
        "http://h:99999",
    ] {
        assert!(
            endpoint(text).is_err_and(|e| e.contains("http://127.0.0.1:9000")),
            "{text}"
        );
    }
    let three = plan("get --endpoint http://a:1 --endpoint http://b:2 --endpoint http://c:3")
        .expect("valid");
    assert_eq!(three.endpoints.len(), 3);
}

#[test]
fn a_mix_is_read_and_checked() {
    let mixed = plan("mixed --mix get=3,put=1").expect("valid");
    let share = |kind, weight| Share { kind, weight };
    assert_eq!(mixed.mix, [share(Kind::Put, 1), share(Kind::Get, 3)]);
    for wrong in ["get=0", "get=1,get=2", "fetch=1", "get", "get=x"] {
        assert!(plan(&format!("mixed --mix {wrong}")).is_err(), "{wrong}");
    }
}

#[test]
fn wrong_arguments_say_what_to_do() {
    for (line, hint) in [
        ("put --size 4K", "64MiB"),
        ("put --size 6GiB", "5GiB"),
        ("put --duration 10", "10s"),
        ("put --duration 0s", "more than zero"),
        ("put --concurrency 0", "1 to 4096"),
        ("put --count 0", "at least 1"),
        ("put --delimiter /", "list only"),
        ("get --versions", "list only"),
        ("list --pages 0", "at least 1"),
        ("list --page 1001", "1 to 1000"),
        ("put --chunk 1KiB", "8KiB"),
        ("load --keys 5 --count 6", "not both"),
        ("fly", "possible values"),
        ("", "<OP>"),
    ] {
        let error = plan(line).expect_err(line);
        assert!(error.contains(hint), "{line}: {error}");
    }
    let cli = Cli::try_parse_from(["bench", "put", "--access-key", "a"]).expect("parses");
    if std::env::var_os("AWS_SECRET_ACCESS_KEY").is_none() {
        assert!(Plan::new(&cli.bench).is_err_and(|e| e.to_string().contains("--secret-key")));
    }
}

#[test]
fn keys_sort_as_they_are_numbered() {
    let plan_of = |line: &str| plan(line).expect("valid");
    let plan = plan_of("put --prefix p/");
    assert_eq!(plan.key(12_345), "p/000012/0000012345");
    assert!(plan.key(999) < plan.key(1000));
    assert_eq!(
        plan_of("put --prefix p/ --keys-per-folder 0").key(7),
        "p/0000000007"
    );
}
