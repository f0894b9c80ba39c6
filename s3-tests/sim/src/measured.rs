//! A bucket with a quota, nearly full all the time, that tells a webhook of everything. Each key is changed by one client
//! alone, so it is known what is in the bucket at least and at most, and what happened to each key in which order. A key
//! of which something is not known is left alone from then on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_placement::seams::SeededRng;
use holdfast_s3_tests::request::Request;
use holdfast_storage_node::metadata::{Amount, Quota, bucket_quota, set_bucket_quota};
use holdfast_storage_node::node::Node;
use md5::{Digest, Md5};
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::client::{Answer, Client};
use crate::hook::Happened;
use crate::workload::{HEAD_LEN, Shared, content};

pub const BUCKET: &str = "measured";

/// Keys that a client has at a time.
const KEYS: usize = 3;

/// Bytes of an object at most.
const LEN_MAX: u64 = 40 * 1024;

/// What may be in the bucket.
pub fn quota_of(seed: u64) -> Amount {
    let rng = SeededRng::new(seed ^ 0x0007A);
    Amount {
        bytes: 60_000 + rng.below(60_000),
        objects: 3 + rng.below(5),
    }
}

/// Sets the bucket's quota.
pub async fn set_quota(node: &Node, quota: Amount) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let bucket = node.directory().bucket_now(BUCKET).await;
    let bucket = bucket.map_err(|error| text(&error))?.ok_or("no bucket")?;
    let quota = Quota {
        bytes: Some(quota.bytes),
        objects: Some(quota.objects),
    };
    let (directory, metadata) = (node.directory(), node.metadata());
    let set = set_bucket_quota(&directory, &metadata, &bucket, Some(quota)).await;
    set.map(|_| ()).map_err(|error| text(&error))
}

/// What the bucket's lanes count, and the sum of their shares.
pub async fn counted(node: &Node) -> Result<(Amount, Amount), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let (directory, metadata) = (node.directory(), node.metadata());
    let bucket = directory.bucket_now(BUCKET).await;
    let bucket = bucket.map_err(|error| text(&error))?.ok_or("no bucket")?;
    let standing = bucket_quota(&directory, &metadata, &bucket).await;
    let standing = standing.map_err(|error| text(&error))?;
    let lanes = metadata.lane_quotas(bucket.id).await;
    let mut shares = Amount::default();
    for lane in lanes.map_err(|error| text(&error))? {
        shares = shares.plus(lane.share.ok_or("a lane without a share")?);
    }
    Ok((standing.used.ok_or("nothing is counted")?, shares))
}

/// What is known to be in the bucket.
pub struct Ledger {
    quota: Amount,
    entries: Mutex<BTreeMap<String, Entry>>,
}

#[derive(Default)]
struct Entry {
    least: Amount,
    /// How much it may be from which moment on.
    most: Vec<(u64, Amount)>,
}

impl Ledger {
    pub fn new(quota: Amount) -> Arc<Self> {
        Arc::new(Self {
            quota,
            entries: Mutex::default(),
        })
    }

    fn note(&self, shared: &Shared, name: &str, least: Amount, most: Amount) {
        let mut entries = self.entries.lock();
        let entry = entries.entry(name.to_owned()).or_default();
        entry.least = least;
        entry.most.push((shared.moment(), most));
        let all = entries.values();
        let sum = all.fold(Amount::default(), |sum, entry| sum.plus(entry.least));
        if !sum.fits(&self.quota) {
            let what = format!("{sum:?} are in a bucket of {:?}", self.quota);
            shared.violated(what);
        }
    }

    /// How much may have been there, each key by itself, since a moment.
    fn most_since(&self, called: u64) -> Amount {
        let entries = self.entries.lock();
        entries.values().fold(Amount::default(), |sum, entry| {
            let before = entry.most.iter().rev().find(|(at, _)| *at <= called);
            let after = entry.most.iter().filter(|(at, _)| *at > called);
            let all = before.into_iter().chain(after);
            sum.plus(all.fold(Amount::default(), |most, (_, amount)| most.max(*amount)))
        })
    }
}

/// A key, and what it is.
struct Own {
    key: String,
    holds: Option<(String, u64)>,
}

/// What came of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Came {
    Done,
    Refused,
    Unknown,
}

/// A client of the bucket.
pub struct Tenant {
    pub number: u64,
    pub shared: Arc<Shared>,
    pub rng: SeededRng,
    pub client: Client,
    pub ledger: Arc<Ledger>,
    keys: Vec<Own>,
    names: u64,
}

fn object(len: u64) -> Amount {
    Amount {
        bytes: len,
        objects: 1,
    }
}

impl Tenant {
    pub fn new(
        number: u64,
        shared: Arc<Shared>,
        rng: SeededRng,
        client: Client,
        ledger: Arc<Ledger>,
    ) -> Self {
        let mut own = Self {
            number,
            shared,
            rng,
            client,
            ledger,
            keys: Vec::new(),
            names: 0,
        };
        own.keys = (0..KEYS).map(|_| own.new_key()).collect();
        own
    }

    fn new_key(&mut self) -> Own {
        self.names += 1;
        Own {
            key: format!("of-{}/{}", self.number, self.names),
            holds: None,
        }
    }

    fn target(&self, at: usize) -> String {
        format!("/{BUCKET}/{}", self.keys[at].key)
    }

    /// Works until the time is `end`.
    pub async fn work(&mut self, end: Duration) {
        while self.shared.trace.now() < end {
            let at = self.rng.below(KEYS as u64) as usize;
            match self.rng.below(100) {
                0..=54 => self.put(at).await,
                55..=74 => self.upload(at).await,
                _ => self.delete(at).await,
            }
            sleep(Duration::from_millis(self.rng.below(120))).await;
        }
    }

    fn body(&self) -> (Vec<u8>, String) {
        let len = HEAD_LEN as u64 + self.rng.below(LEN_MAX);
        let body = content(self.shared.new_value(), len as usize);
        let etag = hex::encode(Md5::digest(&body));
        (body, etag)
    }

    fn held(&self, at: usize) -> Amount {
        let holds = self.keys[at].holds.as_ref();
        holds.map_or(Amount::default(), |(_, len)| object(*len))
    }

    /// Sends a request that makes the key at `at` something of `new`.
    async fn change(&mut self, at: usize, request: Request, new: Amount) -> (Came, u64) {
        let (key, old) = (self.keys[at].key.clone(), self.held(at));
        let shared = self.shared.clone();
        self.ledger.note(&shared, &key, old.min(new), old.max(new));
        let called = shared.moment();
        let node = shared.some_node(&self.rng);
        let answer = self.client.send(node, request).await;
        let came = self.judge(&answer);
        let text = match &answer {
            Ok(answer) => format!("{} {}", answer.status, answer.code()),
            Err(error) => error.clone(),
        };
        shared.trace.note(format_args!(
            "tenant {} {key} via {node}: {old:?} -> {new:?}: {text}",
            self.number
        ));
        (came, called)
    }

    fn judge(&self, answer: &Result<Answer, String>) -> Came {
        let Ok(answer) = answer else {
            return Came::Unknown;
        };
        match (answer.status, answer.code().as_str()) {
            (200 | 204, "") if answer.broken.is_none() => Came::Done,
            (403, "QuotaExceeded") => Came::Refused,
            _ => {
                self.shared.expect_an_excuse(answer);
                Came::Unknown
            }
        }
    }

    /// Takes down what the key is now, or lets go of it.
    fn settle(&mut self, at: usize, came: Came, called: u64, new: Option<(String, u64)>) {
        let shared = self.shared.clone();
        let key = self.keys[at].key.clone();
        let amount = new.as_ref().map_or(Amount::default(), |new| object(new.1));
        match came {
            Came::Done => {
                let what = match &new {
                    Some((etag, _)) => Some(Happened::Created(etag.clone())),
                    None => self.keys[at].holds.as_ref().map(|_| Happened::Removed),
                };
                if let Some(what) = what {
                    shared.hook.happened(BUCKET, &key, what);
                }
                self.ledger.note(&shared, &key, amount, amount);
                self.keys[at].holds = new;
                shared.count("measured");
            }
            Came::Refused => {
                let old = self.held(at);
                self.check_refusal(called, &key, amount);
                self.ledger.note(&shared, &key, old, old);
                shared.count("over quota");
            }
            Came::Unknown => {
                let most = self.held(at).max(amount);
                self.ledger.note(&shared, &key, Amount::default(), most);
                shared.hook.is_unsure(BUCKET, &key);
                self.keys[at] = self.new_key();
                shared.count("measured unknown");
            }
        }
    }

    /// There was no room for so much more, whatever else there was.
    fn check_refusal(&self, called: u64, key: &str, need: Amount) {
        let most = self.ledger.most_since(called);
        if most.plus(need).fits(&self.ledger.quota) {
            self.shared.violated(format!(
                "{key}: {need:?} were refused with {most:?} at most in a bucket of {:?}",
                self.ledger.quota
            ));
        }
    }

    async fn put(&mut self, at: usize) {
        let (body, etag) = self.body();
        let new = (etag, body.len() as u64);
        let request = Request::put(&self.target(at)).body(body);
        let (came, called) = self.change(at, request, object(new.1)).await;
        self.settle(at, came, called, Some(new));
    }

    async fn delete(&mut self, at: usize) {
        let request = Request::delete(&self.target(at));
        let (came, called) = self.change(at, request, Amount::default()).await;
        self.settle(at, came, called, None);
    }

    /// An upload of one part, completed or aborted. The part counts until then.
    async fn upload(&mut self, at: usize) {
        let shared = self.shared.clone();
        let node = shared.some_node(&self.rng);
        let target = self.target(at);
        let begin = Request::post(&format!("{target}?uploads"));
        let Ok(begun) = self.client.send(node, begin).await else {
            return;
        };
        let Some(upload) = begun.element("UploadId") else {
            return;
        };
        let (body, part_etag) = self.body();
        let len = body.len() as u64;
        let part = Amount {
            bytes: len,
            objects: 0,
        };
        let (nothing, called) = (Amount::default(), shared.moment());
        self.ledger.note(&shared, &upload, nothing, part);
        let request = Request::put(&format!("{target}?partNumber=1&uploadId={upload}"));
        let node = shared.some_node(&self.rng);
        let answer = self.client.send(node, request.body(body)).await;
        match self.judge(&answer) {
            Came::Done => self.ledger.note(&shared, &upload, part, part),
            Came::Refused => {
                shared.count("over quota");
                self.check_refusal(called, &upload, part);
                return self.ledger.note(&shared, &upload, nothing, nothing);
            }
            Came::Unknown => return,
        }
        // While it is decided the bytes are the part's or the object's.
        self.ledger.note(&shared, &upload, nothing, part);
        if self.rng.below(4) == 0 {
            let node = shared.some_node(&self.rng);
            let abort = Request::delete(&format!("{target}?uploadId={upload}"));
            let answer = self.client.send(node, abort).await;
            if self.judge(&answer) == Came::Done {
                self.ledger.note(&shared, &upload, nothing, nothing);
                shared.count("upload aborted");
            }
            return;
        }
        let xml = format!(
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{part_etag}</ETag></Part></CompleteMultipartUpload>"
        );
        let etag = hex::decode(&part_etag).unwrap_or_default();
        let etag = format!("{}-1", hex::encode(Md5::digest(etag)));
        let request = Request::post(&format!("{target}?uploadId={upload}")).body(xml);
        let (came, called) = self.change(at, request, object(len)).await;
        if came == Came::Done {
            self.ledger.note(&shared, &upload, nothing, nothing);
        }
        self.settle(at, came, called, Some((etag, len)));
    }
}

/// What is in the bucket when nobody writes any more is what is counted; and the last byte can be used.
pub async fn check(
    shared: &Shared,
    client: &mut Client,
    quota: Amount,
    counted: impl AsyncFn() -> Result<(Amount, Amount), String>,
) -> Result<(), String> {
    let list = Request::get(&format!("/{BUCKET}?uploads"));
    let uploads = ok(client.send(0, list).await?)?;
    let (keys, ids) = (uploads.elements("Key"), uploads.elements("UploadId"));
    for (key, upload) in keys.iter().zip(&ids) {
        let abort = Request::delete(&format!("/{BUCKET}/{key}?uploadId={upload}"));
        ok(client.send(0, abort).await?)?;
    }
    let list = Request::get(&format!("/{BUCKET}?list-type=2"));
    let listed = ok(client.send(0, list).await?)?;
    let sizes = listed.elements("Size");
    let there = Amount {
        bytes: sizes
            .iter()
            .filter_map(|size| size.parse::<u64>().ok())
            .sum(),
        objects: sizes.len() as u64,
    };
    let (used, shares) = counted().await?;
    if used != there {
        shared.violated(format!("{used:?} are counted, and {there:?} are there"));
    }
    if !shares.fits(&quota) || !there.fits(&quota) {
        shared.violated(format!(
            "{there:?} are there and {shares:?} are shared out of {quota:?}"
        ));
    }
    for key in listed.elements("Key") {
        ok(client
            .send(0, Request::delete(&format!("/{BUCKET}/{key}")))
            .await?)?;
    }
    let body = content(shared.new_value(), quota.bytes as usize);
    let put = Request::put(&format!("/{BUCKET}/all")).body(body);
    let all = client.send(0, put).await?;
    let more = Request::put(&format!("/{BUCKET}/more")).body(b"1".to_vec());
    let more = match all.status {
        503 => return Err("all is refused for now".to_owned()),
        _ => client.send(0, more).await?,
    };
    match (all.status, more.status) {
        (200, 403) => Ok(()),
        (_, 503) => Err("more is refused for now".to_owned()),
        (200, more) => {
            let what = format!("all that may be there is there, and one byte more got {more}");
            shared.violated(what);
            Ok(())
        }
        // What an attempt before was not told of may have been done late: then there is something. It is not for good.
        (all, more) => Err(format!(
            "all that may be there got {all}, and one byte more {more}"
        )),
    }
}

fn ok(answer: Answer) -> Result<Answer, String> {
    match answer.status {
        200 | 204 => Ok(answer),
        status => Err(format!("{status} {}", answer.code())),
    }
}
