//! A full drive refuses writes, and goes on reading and deleting.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use holdfast_s3_tests::client::Fetched;
use holdfast_s3_tests::{Content, Request, Scratch, Server, ServerOptions};

const BUCKET: &str = "bucket";

/// A small file system, unmounted when dropped.
struct Mount {
    at: PathBuf,
}

impl Mount {
    /// ext4 in a file if loop devices are to be had, else tmpfs. `None`, with a message, if neither can be mounted.
    fn new(scratch: &Scratch, size_mib: u64) -> Option<Self> {
        let at = scratch.join("mount");
        std::fs::create_dir_all(&at).expect("make the mount point");
        let image = scratch.join("image");
        let run = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output();
            match output {
                Ok(output) if output.status.success() => Ok(()),
                Ok(output) => Err(format!(
                    "{program} {arguments:?}: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                )),
                Err(error) => Err(format!("{program}: {error}")),
            }
        };
        let text = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
        let (at_text, image_text) = (text(&at), text(&image));
        let looped = std::fs::File::create(&image)
            .and_then(|file| file.set_len(size_mib << 20))
            .map_err(|error| error.to_string())
            .and_then(|()| run("mkfs.ext4", &["-q", "-F", "-m", "0", &image_text]))
            .and_then(|()| run("mount", &["-o", "loop", &image_text, &at_text]));
        let mounted = looped.or_else(|first| {
            run(
                "mount",
                &[
                    "-t",
                    "tmpfs",
                    "-o",
                    &format!("size={size_mib}m"),
                    "tmpfs",
                    &at_text,
                ],
            )
            .map_err(|second| format!("{first}; {second}"))
        });
        match mounted {
            Ok(()) => Some(Self { at }),
            Err(why) => {
                println!(
                    "##### SKIPPED: full_disk needs root to mount a small file system: {why} #####"
                );
                eprintln!(
                    "##### SKIPPED: full_disk needs root to mount a small file system: {why} #####"
                );
                None
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        for _ in 0..50 {
            if Command::new("umount")
                .arg(&self.at)
                .output()
                .is_ok_and(|output| output.status.success())
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}

#[test]
fn a_full_drive_refuses_writes_and_goes_on_reading_and_deleting() {
    let scratch = Scratch::new("full-disk");
    let Some(mount) = Mount::new(&scratch, 1536) else {
        return;
    };
    let drive = mount.at.join("drive");
    let mut server = Server::start(
        &ServerOptions::new(scratch.join("data")).drives(std::slice::from_ref(&drive)),
    );
    let mut client = server.client();
    client.create_bucket(BUCKET);
    let content = |index: u64| Content::new(index, 8 << 20);
    let small = Content::new(1000, 1000);
    assert!(
        client
            .put(BUCKET, "small", small)
            .expect("put")
            .is_success()
    );

    // Fill. A refusal is 507 StorageFull and nothing else.
    let mut stored = 0;
    let refusal = loop {
        assert!(stored < 300, "2.4 GiB fit into 1.5 GiB");
        let response = client
            .put(BUCKET, &format!("object-{stored:03}"), content(stored))
            .expect("put");
        if !response.is_success() {
            break response;
        }
        stored += 1;
    };
    println!("{stored} objects of 8 MiB on 1536 MiB, then {refusal:?}");
    assert_eq!(
        (refusal.status, refusal.code().as_deref()),
        (507, Some("StorageFull")),
        "{refusal:?}"
    );
    assert!(stored >= 64, "full after {stored} objects of 8 MiB");

    // Small objects until these are refused as well, or are kept; both are right, wrong data and other errors are not.
    let mut small_stored = Vec::new();
    for index in 0..2000 {
        let key = format!("small-{index:04}");
        let response = client.put(BUCKET, &key, small).expect("put");
        match response.status {
            200 => small_stored.push(key),
            _ => {
                assert_eq!(
                    (response.status, response.code().as_deref()),
                    (507, Some("StorageFull")),
                    "{response:?}"
                );
                break;
            }
        }
    }

    // Reads, listings and heads go on.
    client.get_whole(BUCKET, "small", small);
    for index in 0..stored {
        client.get_whole(BUCKET, &format!("object-{index:03}"), content(index));
    }
    assert_eq!(client.list(BUCKET, "object-").len() as u64, stored);
    client.ok(&Request::head("/bucket/object-000"));
    // What was refused is not there.
    match client
        .get(BUCKET, &format!("object-{stored:03}"), content(stored))
        .expect("GET")
    {
        Fetched::Refused(response) => assert_eq!(response.status, 404),
        other => panic!("a refused object is there: {other:?}"),
    }
    assert!(server.is_alive());

    // Full through a restart.
    assert!(server.stop().success());
    server.restart();
    let mut client = server.client();
    client.get_whole(BUCKET, "object-000", content(0));

    // Deletes go on, and make room.
    for index in 0..stored / 2 {
        let response = client
            .delete(BUCKET, &format!("object-{index:03}"))
            .expect("DELETE");
        assert_eq!(response.status, 204, "{response:?}");
    }
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let response = client.put(BUCKET, "again", content(7)).expect("put");
        if response.is_success() {
            break;
        }
        assert_eq!(response.status, 507, "{response:?}");
        assert!(
            Instant::now() < deadline,
            "no room two minutes after half was deleted"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    client.get_whole(BUCKET, "again", content(7));
    for index in stored / 2..stored {
        client.get_whole(BUCKET, &format!("object-{index:03}"), content(index));
    }
    server.kill();
    drop(server);
    drop(mount);
}
