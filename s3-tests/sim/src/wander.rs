//! Objects that are only renamed, by several clients at once. Wherever such an object is, it is at one of its places and at
//! no other: so where it is behaves like one register, a rename is a compare-and-set of it, and whoever looks at a place
//! sees whether it is the one.

use std::sync::Arc;
use std::time::Duration;

use holdfast_placement::seams::SeededRng;
use holdfast_s3_tests::linearizable::{Action, Outcome, Value};
use holdfast_s3_tests::request::Request;
use tokio::time::sleep;

use crate::client::{Answer, Client};
use crate::net::Host;
use crate::workload::{BUCKET, Shared, VALUE_HEADER, content, some_len, value_of};

/// Places of each: in some of the bucket's lanes, and so of the groups.
const PLACES: u64 = 4;

/// Where the histories of wanderers are kept, among those of keys.
const HISTORIES: usize = 1000;

/// One of the objects.
#[derive(Clone, Copy)]
pub struct Wanderer {
    number: usize,
    value: Value,
}

impl Wanderer {
    fn name(&self, place: u64) -> String {
        format!("roam/{}-at-{place}", self.number)
    }

    fn target(&self, place: u64) -> String {
        format!("/{BUCKET}/{}", self.name(place))
    }

    fn history(&self) -> usize {
        HISTORIES + self.number
    }

    /// Puts the object to its first place, in one go or as an upload.
    pub async fn appear(
        number: usize,
        shared: &Shared,
        rng: &SeededRng,
        client: &mut Client,
    ) -> Result<Self, String> {
        let value = shared.new_value();
        let own = Self { number, value };
        let body = content(value, some_len(rng));
        let called = shared.moment();
        let target = own.target(0);
        let value = value.to_string();
        let answer = match rng.below(3) {
            0 => {
                let begin = Request::post(&format!("{target}?uploads"));
                let begun = client.send(0, begin.header(VALUE_HEADER, &value)).await?;
                let upload = begun.element("UploadId").ok_or("no upload")?;
                let part = Request::put(&format!("{target}?partNumber=1&uploadId={upload}"));
                let part = client.send(0, part.body(body)).await?;
                let xml = format!(
                    "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part></CompleteMultipartUpload>",
                    part.etag().ok_or("no part")?
                );
                let complete = Request::post(&format!("{target}?uploadId={upload}")).body(xml);
                client.send(0, complete).await?
            }
            _ => {
                let put = Request::put(&target).header(VALUE_HEADER, &value);
                client.send(0, put.body(body)).await?
            }
        };
        if answer.status != 200 {
            return Err(format!("no wanderer: {} {}", answer.status, answer.code()));
        }
        let (put, text) = (Action::Put(0), "appears");
        shared.record(200, 0, own.history(), put, called, Outcome::Done, text);
        Ok(own)
    }
}

/// A client that moves wanderers about and looks for them.
pub struct Rover {
    pub number: u64,
    pub shared: Arc<Shared>,
    pub rng: SeededRng,
    pub client: Client,
    pub wanderers: Vec<Wanderer>,
    /// Where it was seen last, by wanderer.
    pub seen: Vec<u64>,
}

impl Rover {
    /// Works until the time is `end`.
    pub async fn work(&mut self, end: Duration) {
        while self.shared.trace.now() < end {
            let which = self.rng.below(self.wanderers.len() as u64) as usize;
            let node = self.shared.some_node(&self.rng);
            let place = match self.rng.below(3) {
                0 => self.rng.below(PLACES),
                _ => self.seen[which],
            };
            match self.rng.below(100) {
                0..=39 => self.rename(node, which, place).await,
                40..=69 => drop(self.look(node, which, place).await),
                _ => self.look_about(which, place).await,
            }
            sleep(Duration::from_millis(self.rng.below(80))).await;
        }
    }

    /// Looks at one place after the other, without a pause: what is half-way is at both of its ends for milliseconds.
    async fn look_about(&mut self, which: usize, from: u64) {
        for place in 0..2 * PLACES {
            let node = self.shared.some_node(&self.rng);
            // What cannot be seen now is seen another time.
            let _unseen = self.look(node, which, (from + place) % PLACES).await;
        }
    }

    async fn rename(&mut self, node: Host, which: usize, from: u64) {
        let to = (from + 1 + self.rng.below(PLACES - 1)) % PLACES;
        let wanderer = self.wanderers[which];
        let mut request = Request::put(&format!("{}?renameObject", wanderer.target(to)))
            .header("x-amz-rename-source", &wanderer.name(from));
        let has_token = self.rng.below(3) == 0;
        if has_token {
            let token = format!("{}-{}", self.number, self.rng.below(u64::MAX));
            request = request.header("x-amz-client-token", &token);
        }
        let called = self.shared.moment();
        let mut answer = self.client.send(node, request.clone()).await;
        let mut outcome = self.judge(&answer);
        let mut asked = 0;
        while has_token && outcome == Some(Outcome::Unknown) && asked < 3 {
            asked += 1;
            let node = self.shared.some_node(&self.rng);
            answer = self.client.send(node, request.clone()).await;
            // Only that it was made is certain: if it was not, the first one may be yet.
            if self.judge(&answer) == Some(Outcome::Done) {
                outcome = Some(Outcome::Done);
            }
        }
        let Some(outcome) = outcome else {
            // Others came between, and nothing happened.
            return self.shared.count("rename given up");
        };
        let action = Action::PutIfMatch {
            expected: from,
            value: to,
        };
        let text = match &answer {
            Ok(answer) => format!("{} {}, asked again {asked}", answer.status, answer.code()),
            Err(error) => error.clone(),
        };
        let history = wanderer.history();
        let shared = &self.shared;
        shared.record(self.number, node, history, action, called, outcome, &text);
        shared.count(match outcome {
            Outcome::Done => "renamed",
            Outcome::Unknown => "rename unknown",
            _ => "nothing to rename",
        });
        if outcome == Outcome::Done {
            self.seen[which] = to;
        }
    }

    /// `None`: nothing happened.
    fn judge(&self, answer: &Result<Answer, String>) -> Option<Outcome> {
        let Ok(answer) = answer else {
            return Some(Outcome::Unknown);
        };
        match (answer.status, answer.code().as_str()) {
            (200, "") => Some(Outcome::Done),
            // It is somewhere else.
            (404, "NoSuchKey") => Some(Outcome::ConditionFailed),
            (409, _) => None,
            _ => {
                self.shared.expect_an_excuse(answer);
                Some(Outcome::Unknown)
            }
        }
    }

    /// Whether a wanderer is at a place; an error if nothing is known.
    pub async fn look(&mut self, node: Host, which: usize, place: u64) -> Result<bool, String> {
        let wanderer = self.wanderers[which];
        let called = self.shared.moment();
        let request = Request::get(&wanderer.target(place));
        let answer = self.client.send(node, request).await?;
        let is_there = match (answer.status, answer.code().as_str()) {
            (200, _) => {
                let value = value_of(&answer.body, answer.broken.is_none());
                match value {
                    Ok(Some(value)) if value == wanderer.value => true,
                    Ok(None) => return Err("the body broke off".to_owned()),
                    Ok(value) => {
                        let what = format!("{} is {value:?}", wanderer.name(place));
                        self.shared.violated(what);
                        return Err("it is another".to_owned());
                    }
                    Err(wrong) => {
                        self.shared.violated(wrong.clone());
                        return Err(wrong);
                    }
                }
            }
            (404, "NoSuchKey") => false,
            (status, code) => {
                self.shared.expect_an_excuse(&answer);
                return Err(format!("{status} {code}"));
            }
        };
        let action = Action::Is(place);
        let outcome = Outcome::Saw(is_there.then_some(place));
        let history = wanderer.history();
        let shared = &self.shared;
        shared.record(self.number, node, history, action, called, outcome, "GET");
        if is_there {
            self.seen[which] = place;
        }
        Ok(is_there)
    }

    /// Every wanderer is at one place, by what this node says when nobody renames any more.
    pub async fn find_all(&mut self, node: Host) -> Result<(), String> {
        for which in 0..self.wanderers.len() {
            // The first time settles renames that were left half-way.
            for place in 0..PLACES {
                self.look(node, which, place).await?;
            }
            let mut places = Vec::new();
            for place in 0..PLACES {
                if self.look(node, which, place).await? {
                    places.push(place);
                }
            }
            if places.len() != 1 {
                let what = format!("wanderer {which} is at {places:?}");
                self.shared.violated(what);
            }
        }
        Ok(())
    }
}
