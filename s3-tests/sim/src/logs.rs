//! Objects that are only appended to, by several clients at once. What is in one follows from its length, as one append
//! wins at each offset: so it behaves like a register that holds all of its bytes, and an append is a compare-and-set.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_placement::seams::SeededRng;
use holdfast_s3_tests::linearizable::{Action, Outcome, Value};
use holdfast_s3_tests::request::Request;
use tokio::time::sleep;

use crate::client::Client;
use crate::net::Host;
use crate::workload::{BUCKET, HEAD_LEN, Shared, content};

/// Where the histories of logs are kept, among those of keys.
const HISTORIES: usize = 2000;

/// A log that is longer is only read.
const LEN_MAX: usize = 400 * 1024;

fn target(log: usize) -> String {
    format!("/{BUCKET}/logs/{log}")
}

/// What stands for a log's bytes.
fn value_of(bytes: &[u8]) -> Value {
    let hash = blake3::hash(bytes);
    let first = hash.as_bytes()[..8].try_into().expect("eight bytes");
    u64::from_be_bytes(first) >> 1
}

/// A client that appends and reads.
pub struct Scribe {
    pub number: u64,
    pub shared: Arc<Shared>,
    pub rng: SeededRng,
    pub client: Client,
    pub logs: usize,
    /// Each as it was last seen.
    pub seen: BTreeMap<usize, Vec<u8>>,
}

impl Scribe {
    /// Works until the time is `end`.
    pub async fn work(&mut self, end: Duration) {
        while self.shared.trace.now() < end {
            let log = self.rng.below(self.logs as u64) as usize;
            let node = self.shared.some_node(&self.rng);
            let len = self.seen.get(&log).map_or(0, Vec::len);
            match self.rng.below(100) {
                0..=59 if len < LEN_MAX => self.append(node, log).await,
                _ => drop(self.read(node, log).await),
            }
            sleep(Duration::from_millis(self.rng.below(100))).await;
        }
    }

    fn some_len(&self) -> usize {
        let len = match self.rng.below(10) {
            0..=6 => self.rng.below(600),
            7..=8 => self.rng.below(8 * 1024),
            _ => self.rng.below(90 * 1024),
        };
        HEAD_LEN + len as usize
    }

    async fn append(&mut self, node: Host, log: usize) {
        let shared = self.shared.clone();
        let before = self.seen.get(&log).cloned().unwrap_or_default();
        let addition = content(shared.new_value(), self.some_len());
        let after = [&before[..], &addition].concat();
        let value = value_of(&after);
        let action = match before.is_empty() {
            true => Action::PutIfAbsent(value),
            false => Action::PutIfMatch {
                expected: value_of(&before),
                value,
            },
        };
        let request = Request::put(&target(log))
            .header("x-amz-write-offset-bytes", &before.len().to_string())
            .body(addition);
        let called = shared.moment();
        let answer = self.client.send(node, request).await;
        let (outcome, text) = match &answer {
            Ok(answer) => {
                let outcome = match (answer.status, answer.code().as_str()) {
                    (200, "") => {
                        let size = answer.header("x-amz-object-size");
                        if !before.is_empty() && size != Some(&*after.len().to_string()) {
                            let what = format!("log {log} is {size:?} of {} bytes", after.len());
                            shared.violated(what);
                        }
                        if let Some(etag) = answer.etag() {
                            let key = format!("logs/{log}");
                            shared.hook.must_hear(BUCKET, &key, &etag);
                        }
                        Outcome::Done
                    }
                    (400, "InvalidWriteOffset") => Outcome::ConditionFailed,
                    (409, _) => return shared.count("append given up"),
                    _ => {
                        shared.expect_an_excuse(answer);
                        Outcome::Unknown
                    }
                };
                (outcome, format!("{} {}", answer.status, answer.code()))
            }
            Err(error) => (Outcome::Unknown, error.clone()),
        };
        let text = format!("append at {} {text}", before.len());
        let history = HISTORIES + log;
        shared.record(self.number, node, history, action, called, outcome, &text);
        shared.count(match outcome {
            Outcome::Done => "appended",
            Outcome::Unknown => "append unknown",
            _ => "append refused",
        });
        match outcome {
            Outcome::Done => drop(self.seen.insert(log, after)),
            // Now and then it tries once more where it was.
            _ if self.rng.below(4) > 0 => drop(self.read(node, log).await),
            _ => {}
        }
    }

    /// Reads a log; an error if no answer came that says what it is.
    pub async fn read(&mut self, node: Host, log: usize) -> Result<(), String> {
        let shared = self.shared.clone();
        let called = shared.moment();
        let answer = self.client.send(node, Request::get(&target(log))).await?;
        let bytes = match (answer.status, answer.code().as_str()) {
            (200, _) if answer.broken.is_none() => answer.body.to_vec(),
            (200, _) => return Err("the body broke off".to_owned()),
            (404, "NoSuchKey") => Vec::new(),
            (status, code) => {
                shared.expect_an_excuse(&answer);
                return Err(format!("{status} {code}"));
            }
        };
        let wrong = wrong_in(&bytes).map(|what| format!("log {log}: {what}"));
        if let Some(wrong) = wrong {
            shared.violated(wrong.clone());
            return Err(wrong);
        }
        let saw = Outcome::Saw((!bytes.is_empty()).then(|| value_of(&bytes)));
        let text = format!("GET of {} bytes", bytes.len());
        let history = HISTORIES + log;
        shared.record(self.number, node, history, Action::Read, called, saw, &text);
        self.seen.insert(log, bytes);
        Ok(())
    }
}

/// What is wrong with a log's bytes, if they are not whole additions one after the other.
fn wrong_in(mut bytes: &[u8]) -> Option<String> {
    while !bytes.is_empty() {
        let Some((head, _)) = bytes.split_at_checked(HEAD_LEN) else {
            return Some(format!("{} bytes at its end are nobody's", bytes.len()));
        };
        let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
        let (value, len) = (number(&head[..8]), number(&head[8..]) as usize);
        if len > LEN_MAX || bytes.len() < len || bytes[..len] != content(value, len) {
            return Some(format!(
                "the addition {value} of {len} bytes is not what it was"
            ));
        }
        bytes = &bytes[len..];
    }
    None
}
