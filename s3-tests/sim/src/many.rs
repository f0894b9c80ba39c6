//! Many seeds, each in a process of its own: what a simulation leaves behind, such as a planted bug or the counters of a
//! library, must not reach the next.

use std::collections::BTreeMap;
use std::io;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use holdfast_placement::planted::Bug;

/// Looks at whether a process has ended.
const POLL: Duration = Duration::from_millis(20);

/// What came of a seed.
pub struct Outcome {
    pub seed: u64,
    pub ok: bool,
    /// What it printed.
    pub text: String,
}

/// Runs `seeds`, so many at a time, and tells of each when it has ended; until `go_on` says that it is enough.
pub fn each(
    seeds: impl IntoIterator<Item = u64>,
    jobs: usize,
    bug: Option<Bug>,
    mut go_on: impl FnMut(Outcome) -> bool,
) -> io::Result<()> {
    let mut seeds = seeds.into_iter();
    let mut running: BTreeMap<u64, Child> = BTreeMap::new();
    let mut enough = false;
    loop {
        while !enough && running.len() < jobs.max(1) {
            let Some(seed) = seeds.next() else { break };
            running.insert(seed, start(seed, bug)?);
        }
        if running.is_empty() {
            return Ok(());
        }
        let mut ended = Vec::new();
        for (seed, child) in &mut running {
            if child.try_wait()?.is_some() {
                ended.push(*seed);
            }
        }
        for seed in &ended {
            let Some(child) = running.remove(seed) else {
                continue;
            };
            let output = child.wait_with_output()?;
            let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
            text += &String::from_utf8_lossy(&output.stderr);
            let ok = output.status.success();
            enough |= !go_on(Outcome {
                seed: *seed,
                ok,
                text,
            });
        }
        if ended.is_empty() {
            std::thread::sleep(POLL);
        }
    }
}

fn start(seed: u64, bug: Option<Bug>) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--seed").arg(seed.to_string());
    if let Some(bug) = bug {
        command.arg("--bug").arg(format!("{bug:?}"));
    }
    // Little is printed: no pipe fills.
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}
