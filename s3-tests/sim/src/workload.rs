//! What clients do: operations on a few keys through all gateways, and the history of what they saw.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_placement::seams::{Rng, SeededRng};
use holdfast_s3_tests::linearizable::{Action, Operation, Outcome, Value};
use holdfast_s3_tests::request::Request;
use md5::{Digest, Md5};
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::client::{Answer, Client};
use crate::hook::Hook;
use crate::net::Host;
use crate::node::{CHUNK_LEN, INLINE_LEN_MAX};
use crate::trace::Trace;

pub const BUCKET: &str = "simulated";

/// Bytes in front of a body: which value it is, and how long.
pub const HEAD_LEN: usize = 16;

/// Metadata that says which value an object is.
pub const VALUE_HEADER: &str = "x-amz-meta-value";

/// The body of a value.
pub fn content(value: Value, len: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(len);
    body.extend_from_slice(&value.to_be_bytes());
    body.extend_from_slice(&(len as u64).to_be_bytes());
    let rng = SeededRng::new(value);
    while body.len() < len {
        body.extend_from_slice(&rng.next_u64().to_le_bytes());
    }
    body.truncate(len);
    body
}

/// Which value a body is; the error says what is wrong with it. `is_whole`: it did not break off.
pub fn value_of(body: &[u8], is_whole: bool) -> Result<Option<Value>, String> {
    let Some((head, _)) = body.split_at_checked(HEAD_LEN) else {
        return match is_whole {
            true => Err(format!("a body of {} bytes was never written", body.len())),
            false => Ok(None),
        };
    };
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
    let (value, len) = (number(&head[..8]), number(&head[8..]) as usize);
    if len > 16 << 20 {
        return Err("wrong bytes at the beginning".to_owned());
    }
    let wanted = content(value, len);
    if body.len() > wanted.len() || body != &wanted[..body.len()] {
        let at = body.iter().zip(&wanted).position(|(got, want)| got != want);
        return Err(format!("wrong bytes in value {value} from {at:?} on"));
    }
    match (body.len() == len, is_whole) {
        (true, _) => Ok(Some(value)),
        (false, true) => Err(format!("value {value} is short: {} of {len}", body.len())),
        (false, false) => Ok(None),
    }
}

/// What all clients share.
pub struct Shared {
    pub trace: Trace,
    pub keys: usize,
    pub nodes: Mutex<Vec<Host>>,
    next_value: Mutex<Value>,
    /// Values by the ETags that their objects have.
    etags: Mutex<BTreeMap<String, Value>>,
    history: Mutex<Vec<(usize, Operation)>>,
    /// Webhook and what it has to be told.
    pub hook: Hook,
    violations: Mutex<Vec<String>>,
    tally: Mutex<BTreeMap<&'static str, u64>>,
    /// Order of events at the same moment.
    moment: Mutex<(u64, u64)>,
}

impl Shared {
    pub fn new(trace: Trace, keys: usize, nodes: Vec<Host>) -> Arc<Self> {
        Arc::new(Self {
            trace,
            keys,
            nodes: Mutex::new(nodes),
            next_value: Mutex::new(1),
            etags: Mutex::default(),
            history: Mutex::default(),
            hook: Hook::default(),
            violations: Mutex::default(),
            tally: Mutex::default(),
            moment: Mutex::default(),
        })
    }

    /// What happened, by key, wanderer and log.
    pub fn histories(&self) -> BTreeMap<usize, Vec<Operation>> {
        let mut histories: BTreeMap<usize, Vec<Operation>> = BTreeMap::new();
        for (of, operation) in self.history.lock().iter() {
            histories.entry(*of).or_default().push(*operation);
        }
        histories
    }

    /// Takes down an operation that ends now. `of`: what it was about; `text`: what was said.
    #[expect(clippy::too_many_arguments, reason = "each is a part of its own")]
    pub fn record(
        &self,
        client: u64,
        node: Host,
        of: usize,
        action: Action,
        called: u64,
        outcome: Outcome,
        text: &str,
    ) {
        let returned = self.moment();
        let millis = (returned - called) / 1_000_000;
        self.trace.note(format_args!(
            "client {client} key {of} via {node}: {action:?} -> {outcome:?} in {millis} ms {text}"
        ));
        let operation = Operation {
            client,
            action,
            outcome,
            called,
            returned,
        };
        self.history.lock().push((of, operation));
    }

    /// A refusal must be one that a client can do something about.
    pub fn expect_an_excuse(&self, answer: &Answer) {
        let code = answer.code();
        if code == "NoSuchBucket" {
            self.violated("the bucket is gone".to_owned());
        }
        let is_excuse = matches!(answer.status, 503 | 409 | 408 | 404)
            || answer.status == 400 && code == "RequestTimeout"
            || answer.status == 500 && code == "InternalError"
            || answer.status == 200;
        if !is_excuse {
            let what = format!("a strange answer: {} {code}", answer.status);
            self.violated(what);
        }
        if answer.status == 500 {
            self.count("500");
        }
    }

    /// Notes that a promise was broken.
    pub fn violated(&self, what: String) {
        self.trace.note(format_args!("VIOLATED {what}"));
        self.violations.lock().push(what);
    }

    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().clone()
    }

    /// How many operations had which end.
    pub fn tally(&self) -> BTreeMap<&'static str, u64> {
        self.tally.lock().clone()
    }

    /// A node by chance.
    pub fn some_node(&self, rng: &SeededRng) -> Host {
        let nodes = self.nodes.lock();
        nodes[rng.below(nodes.len() as u64) as usize]
    }

    /// Counts an end.
    pub fn count(&self, what: &'static str) {
        *self.tally.lock().entry(what).or_default() += 1;
    }

    /// Now in nanoseconds; later in the order of events where the clock stands still.
    pub fn moment(&self) -> u64 {
        let now = self.trace.now().as_nanos() as u64;
        let mut last = self.moment.lock();
        *last = match last.0 == now {
            true => (now, last.1 + 1),
            false => (now, 0),
        };
        now + last.1
    }

    pub fn new_value(&self) -> Value {
        let mut next = self.next_value.lock();
        *next += 1;
        *next - 1
    }
}

/// Bytes of a body: of one that stays inline, of one chunk, or of some.
pub fn some_len(rng: &SeededRng) -> usize {
    let len = match rng.below(10) {
        0..=4 => rng.below(INLINE_LEN_MAX as u64 - HEAD_LEN as u64),
        5..=7 => rng.below(u64::from(CHUNK_LEN)),
        _ => rng.below(3 * u64::from(CHUNK_LEN)),
    };
    HEAD_LEN + len as usize
}

/// The name of a key.
pub fn key_name(key: usize) -> String {
    format!("dir-{}/key {key}", key % 2)
}

fn target(key: usize) -> String {
    format!("/{BUCKET}/dir-{}/key%20{key}", key % 2)
}

/// One client.
pub struct Worker {
    pub number: u64,
    pub shared: Arc<Shared>,
    pub rng: SeededRng,
    pub client: Client,
    /// The last ETag seen of each key.
    pub seen: BTreeMap<usize, (Value, String)>,
}

impl Worker {
    pub fn new(number: u64, seed: u64, shared: Arc<Shared>, client: Client) -> Self {
        Self {
            number,
            shared,
            rng: SeededRng::new(seed ^ number << 20 ^ 0xC11E),
            client,
            seen: BTreeMap::new(),
        }
    }

    /// Works until the time is `end`.
    pub async fn work(&mut self, end: Duration) {
        while self.shared.trace.now() < end {
            self.act().await;
            sleep(Duration::from_millis(self.rng.below(60))).await;
        }
    }

    fn some_node(&self) -> Host {
        self.shared.some_node(&self.rng)
    }

    fn some_len(&self) -> usize {
        some_len(&self.rng)
    }

    async fn act(&mut self) {
        let node = self.some_node();
        let key = self.rng.below(self.shared.keys as u64) as usize;
        match self.rng.below(100) {
            0..=24 => self.put(node, key, None).await,
            25..=36 => self.put(node, key, Some(false)).await,
            37..=44 => self.put(node, key, Some(true)).await,
            45..=54 => self.delete(node, key).await,
            55..=79 => drop(self.read(node, key).await),
            80..=88 => self.head(node, key).await,
            89..=93 => self.list(node).await,
            94..=95 => self.rename(node, key).await,
            _ => self.multipart(node, key).await,
        }
    }

    /// `conditional`: `Some(true)` if it is what was last seen, `Some(false)` if there is nothing.
    async fn put(&mut self, node: Host, key: usize, conditional: Option<bool>) {
        let value = self.shared.new_value();
        let body = content(value, self.some_len());
        let etag = hex::encode(Md5::digest(&body));
        let mut request = Request::put(&target(key)).header(VALUE_HEADER, &value.to_string());
        let action = match (conditional, self.seen.get(&key)) {
            (Some(true), Some((expected, etag))) => {
                request = request.header("if-match", &format!("\"{etag}\""));
                Action::PutIfMatch {
                    expected: *expected,
                    value,
                }
            }
            (Some(_), _) => {
                request = request.header("if-none-match", "*");
                Action::PutIfAbsent(value)
            }
            (None, _) => Action::Put(value),
        };
        self.shared.etags.lock().insert(etag.clone(), value);
        let outcome = self.write(node, key, action, request.body(body)).await;
        if outcome == Outcome::Done {
            self.seen.insert(key, (value, etag));
        }
    }

    async fn delete(&mut self, node: Host, key: usize) {
        let request = Request::delete(&target(key));
        self.write(node, key, Action::Delete, request).await;
    }

    /// Gives what was last seen of a key another key.
    async fn rename(&mut self, node: Host, key: usize) {
        let to = self.rng.below(self.shared.keys as u64) as usize;
        let Some((value, etag)) = self.seen.get(&key).cloned() else {
            return;
        };
        if to == key {
            return;
        }
        let source = format!("dir-{}/key%20{key}", key % 2);
        let request = Request::put(&format!("{}?renameObject", target(to)))
            .header("x-amz-rename-source", &source)
            .header("x-amz-rename-source-if-match", &format!("\"{etag}\""));
        let called = self.shared.moment();
        let answer = self.client.send(node, request).await;
        if matches!(&answer, Ok(answer) if answer.status == 409) {
            // Others came between, and nothing happened.
            return self.shared.count("rename given up");
        }
        let outcome = self.note_write(node, key, Action::Take(value), called, answer);
        if let Outcome::Done | Outcome::Unknown = outcome {
            let put = Action::Put(value);
            self.record(node, to, put, called, outcome, "renamed");
        }
        if outcome == Outcome::Done {
            self.shared.count("renamed");
            self.seen.remove(&key);
            self.seen.insert(to, (value, etag));
        }
    }

    async fn write(&mut self, node: Host, key: usize, action: Action, request: Request) -> Outcome {
        let called = self.shared.moment();
        let answer = self.client.send(node, request).await;
        self.note_write(node, key, action, called, answer)
    }

    fn note_write(
        &mut self,
        node: Host,
        key: usize,
        action: Action,
        called: u64,
        answer: Result<Answer, String>,
    ) -> Outcome {
        let (outcome, text) = match &answer {
            Ok(answer) => {
                let outcome = match (answer.status, answer.code().as_str()) {
                    (200 | 204, _) if answer.broken.is_none() && answer.code().is_empty() => {
                        Outcome::Done
                    }
                    (412, _) => Outcome::ConditionFailed,
                    (404, "NoSuchKey") => Outcome::NothingThere,
                    _ => Outcome::Unknown,
                };
                if outcome == Outcome::Unknown {
                    self.shared.expect_an_excuse(answer);
                }
                if outcome == Outcome::Done
                    && let Some(etag) = answer.etag()
                {
                    self.shared.hook.must_hear(BUCKET, &key_name(key), &etag);
                }
                (outcome, format!("{} {}", answer.status, answer.code()))
            }
            Err(error) => (Outcome::Unknown, error.clone()),
        };
        self.shared.count(match outcome {
            Outcome::Done => "written",
            Outcome::Unknown => "write unknown",
            _ => "condition failed",
        });
        self.record(node, key, action, called, outcome, &text);
        outcome
    }

    fn record(
        &self,
        node: Host,
        key: usize,
        action: Action,
        called: u64,
        outcome: Outcome,
        text: &str,
    ) {
        let client = self.number;
        self.shared
            .record(client, node, key, action, called, outcome, text);
    }

    /// Reads a key; an error if no answer came that says what it is.
    pub async fn read(&mut self, node: Host, key: usize) -> Result<Option<Value>, String> {
        let called = self.shared.moment();
        let answer = self.client.send(node, Request::get(&target(key))).await;
        let found = self.read_answer(answer);
        match &found {
            Ok(value) => {
                self.shared.count("read");
                let saw = Outcome::Saw(*value);
                self.record(node, key, Action::Read, called, saw, "GET");
            }
            Err(error) => {
                self.shared.count("read failed");
                self.shared.trace.note(format_args!(
                    "client {} key {key} via {node}: GET fails: {error}",
                    self.number
                ));
            }
        }
        found
    }

    fn read_answer(&self, answer: Result<Answer, String>) -> Result<Option<Value>, String> {
        let answer = answer?;
        match answer.status {
            200 => {
                let value = value_of(&answer.body, answer.broken.is_none());
                let value = value.inspect_err(|wrong| self.shared.violated(wrong.clone()))?;
                let said = answer
                    .header(VALUE_HEADER)
                    .and_then(|text| text.parse().ok());
                if value.is_some() && said != value {
                    let what = format!("value {value:?} has the metadata of {said:?}");
                    self.shared.violated(what);
                }
                match value {
                    Some(value) => Ok(Some(value)),
                    None => Err(format!("the body broke off: {:?}", answer.broken)),
                }
            }
            404 if answer.code() == "NoSuchKey" => Ok(None),
            status => {
                self.shared.expect_an_excuse(&answer);
                Err(format!("{status} {}", answer.code()))
            }
        }
    }

    async fn head(&mut self, node: Host, key: usize) {
        let called = self.shared.moment();
        let Ok(answer) = self.client.send(node, Request::head(&target(key))).await else {
            return self.shared.count("read failed");
        };
        let said = answer
            .header(VALUE_HEADER)
            .and_then(|text| text.parse().ok());
        let saw = match answer.status {
            200 if said.is_some() => said,
            404 => None,
            _ => return self.shared.count("read failed"),
        };
        if let (Some(value), Some(etag)) = (saw, answer.header("etag")) {
            let etag = etag.trim_matches('"').to_owned();
            self.seen.insert(key, (value, etag));
        }
        self.shared.count("read");
        self.record(node, key, Action::Read, called, Outcome::Saw(saw), "HEAD");
    }

    async fn list(&mut self, node: Host) {
        let called = self.shared.moment();
        let request = Request::get(&format!("/{BUCKET}?list-type=2"));
        let answer = match self.client.send(node, request).await {
            Ok(answer) if answer.status == 200 && answer.broken.is_none() => answer,
            _ => return self.shared.count("read failed"),
        };
        let etags = answer.elements("ETag");
        let mut found: BTreeMap<String, String> = BTreeMap::new();
        for (key, etag) in answer.elements("Key").into_iter().zip(etags) {
            found.insert(key, etag.trim_matches('"').to_owned());
        }
        for key in 0..self.shared.keys {
            let etag = found.get(&key_name(key));
            let saw = match etag {
                None => None,
                Some(etag) => match self.shared.etags.lock().get(etag) {
                    Some(value) => Some(*value),
                    None => {
                        let what = format!("an ETag in a listing that nothing has: {etag}");
                        return self.shared.violated(what);
                    }
                },
            };
            self.record(node, key, Action::Read, called, Outcome::Saw(saw), "LIST");
        }
        self.shared.count("read");
    }

    async fn multipart(&mut self, node: Host, key: usize) {
        let value = self.shared.new_value();
        // One part, since all but the last must be of 5 MiB.
        let body = content(value, self.some_len());
        let part_md5 = Md5::digest(&body);
        let etag = format!("{}-1", hex::encode(Md5::digest(part_md5)));
        self.shared.etags.lock().insert(etag, value);
        let begin = Request::post(&format!("{}?uploads", target(key)))
            .header(VALUE_HEADER, &value.to_string());
        let Ok(begun) = self.client.send(node, begin).await else {
            return;
        };
        let Some(upload) = begun.element("UploadId") else {
            return;
        };
        let node = self.some_node();
        let part = Request::put(&format!("{}?partNumber=1&uploadId={upload}", target(key)));
        match self.client.send(node, part.body(body)).await {
            Ok(answer) if answer.status == 200 => {}
            _ => return,
        }
        let node = self.some_node();
        let xml = format!(
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part></CompleteMultipartUpload>",
            hex::encode(part_md5)
        );
        let mut complete = Request::post(&format!("{}?uploadId={upload}", target(key))).body(xml);
        let mut action = Action::Put(value);
        if self.rng.below(2) == 0 {
            complete = complete.header("if-none-match", "*");
            action = Action::PutIfAbsent(value);
        }
        let called = self.shared.moment();
        let answer = self.client.send(node, complete).await;
        self.note_write(node, key, action, called, answer);
    }
}
