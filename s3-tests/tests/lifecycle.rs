//! Start, stop, second start, keys, wrong flags.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use holdfast_s3_tests::scratch::files_under;
use holdfast_s3_tests::server::{command, plain_get, wait_with_deadline};
use holdfast_s3_tests::{Connection, Content, Keys, Request, Scratch, Server, ServerOptions};

#[test]
fn a_second_start_finds_everything_again() {
    let scratch = Scratch::new("second-start");
    let options = ServerOptions::new(scratch.join("data")).own_keys();
    let mut server = Server::start(&options);
    let keys = server.keys().clone();
    let small = Content::new(1, 1000);
    let large = Content::new(2, 9_000_001);
    let mut client = server.client();
    client.create_bucket("bucket");
    assert!(
        client
            .put("bucket", "small", small)
            .expect("put")
            .is_success()
    );
    assert!(
        client
            .put("bucket", "large", large)
            .expect("put")
            .is_success()
    );
    assert!(server.stop().success());

    server.restart();
    assert_eq!(
        server.keys(),
        &keys,
        "the keys are those of the first start"
    );
    let mut client = server.client();
    client.get_whole("bucket", "small", small);
    client.get_whole("bucket", "large", large);
    assert_eq!(client.list("bucket", ""), ["large", "small"]);
    assert!(server.stop().success());
}

#[test]
fn the_secret_is_made_at_first_start_and_readable_by_its_owner_only() {
    let scratch = Scratch::new("secret");
    let secret_of = |name: &str| {
        let server = Server::start(&ServerOptions::new(scratch.join(name)).own_keys());
        let secret = server.keys().secret.clone();
        assert!(secret.len() >= 32, "a secret of {} letters", secret.len());
        let log = server.log();
        assert!(
            log.contains(&server.endpoint()),
            "the endpoint is printed: {log}"
        );
        assert!(
            log.contains("aws "),
            "a line for the AWS CLI is printed: {log}"
        );
        let holding: Vec<_> = files_under(&scratch.join(name))
            .into_iter()
            .filter(|path| {
                let bytes = std::fs::read(path).unwrap_or_default();
                bytes
                    .windows(secret.len())
                    .any(|window| window == secret.as_bytes())
            })
            .collect();
        assert!(!holding.is_empty(), "no file holds the secret");
        for path in holding {
            let mode = path.metadata().expect("metadata").permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", path.display());
        }
        secret
    };
    assert_ne!(secret_of("one"), secret_of("two"), "no secret is built in");
}

#[test]
fn keys_come_from_the_environment() {
    let scratch = Scratch::new("environment");
    let mut options = ServerOptions::new(scratch.join("data"));
    let keys = Keys {
        access: "MYACCESSKEY".into(),
        secret: "my-secret-my-secret-my-secret".into(),
    };
    options.keys = Some(keys.clone());
    let mut server = Server::start(&options);
    server.client().create_bucket("bucket");
    assert!(
        !server.log().contains(&keys.secret),
        "a secret that was given is not printed"
    );
    assert!(server.stop().success());
    // Other keys at the next start: only they are good.
    options.keys = Some(Keys {
        access: "OTHERACCESSKEY".into(),
        secret: "another-secret-another-secret".into(),
    });
    let server = Server::start(&options);
    server.client().ok(&Request::get("/bucket"));
    let old = Request::get("/bucket").sign(server.address(), &keys);
    let response = Connection::open(server.address())
        .and_then(|mut c| c.call(&old))
        .expect("response");
    assert_eq!(
        (response.status, response.code().as_deref()),
        (403, Some("InvalidAccessKeyId"))
    );
}

#[test]
fn health_needs_no_keys_and_status_does() {
    let scratch = Scratch::new("health");
    let server = Server::start(&ServerOptions::new(scratch.join("data")));
    assert_eq!(
        plain_get(server.address(), "/-/live").expect("live").status,
        200
    );
    assert_eq!(
        plain_get(server.address(), "/-/ready")
            .expect("ready")
            .status,
        200
    );
    assert_eq!(
        plain_get(server.address(), "/-/status")
            .expect("status")
            .status,
        403
    );
    let status = server.status();
    assert_eq!(status["healthy"], true, "{status:#}");
}

#[test]
fn sigterm_finishes_what_is_in_flight() {
    let scratch = Scratch::new("sigterm");
    let mut server = Server::start(&ServerOptions::new(scratch.join("data")));
    let content = Content::new(5, 12_000_000);
    let bytes = content.bytes();
    server.client().create_bucket("bucket");
    assert!(
        server
            .client()
            .put("bucket", "there", content)
            .expect("put")
            .is_success()
    );

    // An upload and a download, both half done when the signal comes.
    let target = "/bucket/upload";
    let wire = Request::put(target)
        .unsigned()
        .header("content-length", &bytes.len().to_string())
        .sign(server.address(), server.keys());
    let mut upload = Connection::open(server.address()).expect("connect");
    upload.write(&wire.head()).expect("head");
    upload.write(&bytes[..6_000_000]).expect("first half");
    let wire = Request::get("/bucket/there").sign(server.address(), server.keys());
    let mut download = Connection::open(server.address()).expect("connect");
    download.send(&wire).expect("request");
    let head = download.read_head().expect("head");
    assert_eq!(head.status, 200);
    let mut idle = Connection::open(server.address()).expect("connect");
    idle.call(&Request::get("/bucket").sign(server.address(), server.keys()))
        .expect("list");

    server.ask_to_stop();
    std::thread::sleep(Duration::from_millis(300));
    assert!(server.is_alive(), "it waits for what is in flight");
    upload.write(&bytes[6_000_000..]).expect("second half");
    let response = upload.read_response("PUT").expect("answer to the upload");
    assert_eq!(response.status, 200, "{response:?}");
    let framing = Connection::framing(&head, "GET").expect("framing");
    let len = download
        .read_body(framing, |offset, piece| {
            assert_eq!(content.mismatch(offset, piece), None)
        })
        .expect("body");
    assert_eq!(len, content.len);
    let status = server.wait();
    assert_eq!(status.code(), Some(0), "{status:?}:\n{}", server.log());
    assert_eq!(idle.read_to_end().expect("the idle connection ends"), b"");

    server.restart();
    server.client().get_whole("bucket", "upload", content);
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let scratch = Scratch::new("two-servers");
    let options = ServerOptions::new(scratch.join("data"));
    let server = Server::start(&options);
    server.client().create_bucket("bucket");
    let error = Server::try_start(&options)
        .err()
        .expect("the second is refused");
    assert!(
        error.status.is_some_and(|status| !status.success()),
        "{error}"
    );
    let log = error.log.to_lowercase();
    assert!(
        log.contains("in use") || log.contains("already") || log.contains("lock"),
        "{error}"
    );
    assert!(!log.contains("panicked"), "{error}");
    server.client().ok(&Request::get("/bucket"));

    // Also when only a drive is shared.
    let scratch = Scratch::new("shared-drive");
    let drives = scratch.drives(2);
    let first = Server::start(&ServerOptions::new(scratch.join("one")).drives(&drives[..1]));
    let error = Server::try_start(&ServerOptions::new(scratch.join("two")).drives(&drives))
        .err()
        .expect("refused");
    assert!(!error.log.contains("panicked"), "{error}");
    drop(first);
}

#[test]
fn wrong_command_lines_are_explained() {
    let scratch = Scratch::new("flags");
    let data = scratch.join("data");
    let data = data.to_str().expect("a path in UTF-8");
    let file = scratch.join("file");
    std::fs::write(&file, "x").expect("write");
    let file = file.to_str().expect("a path in UTF-8");
    let table: &[(&[&str], &str)] = &[
        (&["serv"], "serve"),
        (&["serve", "--dta", data], "--data"),
        (&["serve", "--data", data, "--driv", "/x"], "--drive"),
        (
            &["serve", "--data", data, "--lisen", "127.0.0.1:0"],
            "--listen",
        ),
        (&["serve", "--data", data, "--domian", "x"], "--domain"),
        (
            &["serve", "--data", data, "--memory-bugdet", "1GiB"],
            "--memory-budget",
        ),
        (&["serve", "--data"], "--data"),
        (
            &["serve", "--data", data, "--listen", "nowhere"],
            "--listen",
        ),
        (
            &["serve", "--data", data, "--listen", "127.0.0.1:99999"],
            "--listen",
        ),
        (
            &["serve", "--data", data, "--memory-budget", "lots"],
            "--memory-budget",
        ),
        (
            &["serve", "--data", data, "--memory-budget", "1KiB"],
            "memory",
        ),
        (
            &["serve", "--data", data, "--domain", "not a domain"],
            "domain",
        ),
        (
            &["serve", "--data", file, "--listen", "127.0.0.1:0"],
            "file",
        ),
        (
            &[
                "serve",
                "--data",
                data,
                "--drive",
                file,
                "--listen",
                "127.0.0.1:0",
            ],
            "file",
        ),
    ];
    for (arguments, expected) in table {
        let mut child = command().args(*arguments).spawn().expect("run");
        let status = wait_with_deadline(&mut child, Duration::from_secs(20));
        if status.is_none() {
            child.kill().expect("kill");
        }
        let output = child.wait_with_output().expect("output");
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let status = status.unwrap_or_else(|| panic!("{arguments:?} started a server:\n{text}"));
        assert!(!status.success(), "{arguments:?} succeeded:\n{text}");
        assert!(
            !text.contains("panicked"),
            "{arguments:?} panicked:\n{text}"
        );
        assert!(
            text.contains(expected),
            "{arguments:?}: {expected:?} is not in:\n{text}"
        );
    }
    // A drive given twice, and a secret without an access key.
    let drive = scratch.join("drive");
    let drive = drive.to_str().expect("a path in UTF-8");
    let twice = [
        "serve",
        "--data",
        data,
        "--drive",
        drive,
        "--drive",
        drive,
        "--listen",
        "127.0.0.1:0",
    ];
    let mut child = command().args(twice).spawn().expect("run");
    let status = wait_with_deadline(&mut child, Duration::from_secs(20));
    if status.is_none() {
        child.kill().expect("kill");
    }
    assert!(
        status.is_some_and(|status| !status.success()),
        "a drive given twice"
    );
    let mut lonely = command();
    lonely
        .args(["serve", "--data", data, "--listen", "127.0.0.1:0"])
        .env("HOLDFAST_ROOT_SECRET_KEY", "x".repeat(40));
    let mut child = lonely.spawn().expect("run");
    let status = wait_with_deadline(&mut child, Duration::from_secs(20));
    if status.is_none() {
        child.kill().expect("kill");
    }
    assert!(
        status.is_some_and(|status| !status.success()),
        "a secret without an access key"
    );
}

#[test]
fn help_names_every_flag() {
    let output = command().args(["serve", "--help"]).output().expect("run");
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout);
    for flag in [
        "--data",
        "--drive",
        "--listen",
        "--domain",
        "--memory-budget",
        "HOLDFAST_ROOT_ACCESS_KEY",
        "HOLDFAST_ROOT_SECRET_KEY",
    ] {
        assert!(text.contains(flag), "{flag} is not in:\n{text}");
    }
}
