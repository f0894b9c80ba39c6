//! A webhook on the machine of the clients: what it is told, and what it should have been told. While there are faults it
//! now and then refuses a message, or takes it and says that it did not, or does not answer.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast_placement::seams::{SeededRng, spawn};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::time::sleep;
use turmoil::net::TcpListener;

use crate::net::{Host, Wires, name};
use crate::workload::Shared;

/// What buckets' rules call it.
pub const NAME: &str = "sim";

const PORT: u16 = 8000;

/// Longer than who tells waits for an answer.
const TOO_LONG: Duration = Duration::from_secs(11);

/// Where it is, on the machine of the clients.
pub fn url(clients: Host) -> String {
    format!("http://{}:{PORT}/events", name(clients))
}

/// What happened to a key, as a message says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// With the ETag of what came.
    Created(String),
    Removed,
}

/// A bucket and a key.
type Place = (String, String);

#[derive(Default)]
pub struct Hook {
    heard: Mutex<BTreeMap<Place, Vec<(String, Happened)>>>,
    /// What came of changes that were acknowledged.
    must_hear: Mutex<BTreeSet<(Place, String)>>,
    /// All that happened to keys that one client alone changes.
    stories: Mutex<BTreeMap<Place, Story>>,
    behaves: AtomicBool,
}

#[derive(Default)]
struct Story {
    happened: Vec<Happened>,
    /// Something more may have happened: nobody knows.
    is_unsure: bool,
}

impl Hook {
    /// A change was acknowledged, in a bucket that tells all of them.
    pub fn must_hear(&self, bucket: &str, key: &str, etag: &str) {
        let place = (bucket.to_owned(), key.to_owned());
        self.must_hear.lock().insert((place, etag.to_owned()));
    }

    /// What happened next to a key that nobody else changes.
    pub fn happened(&self, bucket: &str, key: &str, what: Happened) {
        self.story(bucket, key, |story| story.happened.push(what));
    }

    /// Something may have happened to the key; from now on nobody changes it.
    pub fn is_unsure(&self, bucket: &str, key: &str) {
        self.story(bucket, key, |story| story.is_unsure = true);
    }

    fn story(&self, bucket: &str, key: &str, change: impl FnOnce(&mut Story)) {
        let place = (bucket.to_owned(), key.to_owned());
        change(self.stories.lock().entry(place).or_default());
    }

    /// From now on every message is taken.
    pub fn behave(&self) {
        self.behaves.store(true, Ordering::Relaxed);
    }

    /// What is wrong with what was heard. `tells`: the buckets that tell of everything.
    pub fn judge(&self, tells: &[&str]) -> Vec<String> {
        let mut wrong = Vec::new();
        let heard = self.heard.lock();
        let nothing = Vec::new();
        let of = |place: &Place| heard.get(place).unwrap_or(&nothing);
        let is_told = |place: &Place| tells.contains(&place.0.as_str());
        for (place, events) in heard.iter() {
            // What comes again does not count.
            for pair in events.windows(2) {
                if pair[0].0 >= pair[1].0 {
                    let what = format!("{place:?} was told of {:?} before {:?}", pair[0], pair[1]);
                    wrong.push(what);
                }
            }
        }
        for (place, etag) in self.must_hear.lock().iter() {
            let created = Happened::Created(etag.clone());
            if is_told(place) && !of(place).iter().any(|(_, what)| *what == created) {
                wrong.push(format!("nobody was told that {place:?} became {etag}"));
            }
        }
        for (place, story) in self.stories.lock().iter() {
            let told: Vec<&Happened> = of(place).iter().map(|(_, what)| what).collect();
            let happened: Vec<&Happened> = story.happened.iter().collect();
            let is_right = match story.is_unsure {
                // It may come between, late.
                true => happened.iter().all(|what| told.contains(what)),
                false => told == happened,
            };
            if is_told(place) && !is_right {
                wrong.push(format!(
                    "of {place:?} was told {told:?}, and it was {happened:?}"
                ));
            }
        }
        wrong
    }

    /// Takes a message down, if it tells of something.
    fn hear(&self, message: &[u8]) -> Result<(), String> {
        let text = String::from_utf8_lossy(message);
        if text.contains("\"s3:TestEvent\"") {
            return Ok(());
        }
        let field = |name: &str| {
            let (_, rest) = text.split_once(&format!("\"{name}\":\""))?;
            rest.split('"').next().map(str::to_owned)
        };
        let wrong = || format!("a message that makes no sense: {text}");
        let event = field("eventName").ok_or_else(wrong)?;
        // The bucket's own fields come before the object's.
        let bucket = field("arn").ok_or_else(wrong)?;
        let bucket = bucket.trim_start_matches("arn:aws:s3:::").to_owned();
        let key = field("key").ok_or_else(wrong)?.replace('+', " ");
        let sequencer = field("sequencer").ok_or_else(wrong)?;
        let what = match event.split(':').next() {
            Some("ObjectCreated") => Happened::Created(field("eTag").ok_or_else(wrong)?),
            Some("ObjectRemoved") => Happened::Removed,
            _ => return Err(wrong()),
        };
        let mut heard = self.heard.lock();
        let events = heard.entry((bucket, key)).or_default();
        match events.iter().find(|(known, _)| *known == sequencer) {
            None => events.push((sequencer, what)),
            Some((_, known)) if *known == what => {}
            Some(_) => return Err(format!("two events of one number: {text}")),
        }
        Ok(())
    }
}

/// Listens for as long as the simulation lasts.
pub async fn listen(shared: Arc<Shared>, seed: u64, own: Host, wires: Wires) {
    let Ok(listener) = TcpListener::bind(("0.0.0.0", PORT)).await else {
        return shared.violated("the webhook cannot listen".to_owned());
    };
    let rng = Arc::new(SeededRng::new(seed ^ 0x400C));
    while let Ok((stream, _)) = listener.accept().await {
        let Ok(wire) = wires.take(own, stream) else {
            continue;
        };
        let (shared, rng) = (shared.clone(), rng.clone());
        let service = service_fn(move |request| answer(shared.clone(), rng.clone(), request));
        spawn(async move {
            // Whoever told may have gone.
            let _ended = http1::Builder::new()
                .serve_connection(TokioIo::new(wire), service)
                .await;
        });
    }
}

async fn answer(
    shared: Arc<Shared>,
    rng: Arc<SeededRng>,
    request: http::Request<Incoming>,
) -> Result<http::Response<Full<Bytes>>, Infallible> {
    let mut response = http::Response::new(Full::new(Bytes::new()));
    let Ok(body) = request.into_body().collect().await else {
        return Ok(response);
    };
    let mood = match shared.hook.behaves.load(Ordering::Relaxed) {
        true => 100,
        false => rng.below(100),
    };
    if mood >= 8 {
        if let Err(wrong) = shared.hook.hear(&body.to_bytes()) {
            shared.violated(wrong);
        }
        shared.count("events heard");
    }
    match mood {
        // Refused, or taken and denied.
        0..=15 => *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE,
        16..=17 => sleep(TOO_LONG).await,
        _ => {}
    }
    Ok(response)
}
