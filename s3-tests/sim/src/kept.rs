//! A bucket that keeps versions, each key changed by one client alone: so it is known which versions there are, and in which
//! order. A key of which something is not known is left alone from then on.

use std::sync::Arc;
use std::time::Duration;

use holdfast_placement::seams::SeededRng;
use holdfast_s3_tests::request::Request;
use md5::{Digest, Md5};
use tokio::time::sleep;

use crate::client::{Answer, Client};
use crate::net::Host;
use crate::workload::{Shared, content, some_len};

pub const BUCKET: &str = "kept";

/// Keys that the client has at a time.
const KEYS: usize = 3;

/// Versions of a key; when there are more, it deletes rather than writes.
const VERSIONS_MAX: usize = 6;

/// A version: its id, and the ETag unless it is a delete marker.
type Version = (String, Option<String>);

struct Own {
    key: String,
    /// Newest first.
    versions: Vec<Version>,
}

/// The client of the bucket.
pub struct Archivist {
    shared: Arc<Shared>,
    rng: SeededRng,
    client: Client,
    keys: Vec<Own>,
    names: u64,
}

impl Archivist {
    pub fn new(shared: Arc<Shared>, rng: SeededRng, client: Client) -> Self {
        let mut own = Self {
            shared,
            rng,
            client,
            keys: Vec::new(),
            names: 0,
        };
        own.keys = (0..KEYS).map(|_| own.new_key()).collect();
        own
    }

    fn new_key(&mut self) -> Own {
        self.names += 1;
        Own {
            key: format!("key-{}", self.names),
            versions: Vec::new(),
        }
    }

    /// Works until the time is `end`.
    pub async fn work(&mut self, end: Duration) {
        while self.shared.trace.now() < end {
            let at = self.rng.below(KEYS as u64) as usize;
            let node = self.shared.some_node(&self.rng);
            let is_much = self.keys[at].versions.len() >= VERSIONS_MAX;
            match self.rng.below(100) {
                0..=39 if !is_much => self.put(node, at).await,
                0..=49 if !is_much => self.mark(node, at).await,
                0..=69 => self.remove(node, at).await,
                _ => drop(self.look(node, at).await),
            }
            sleep(Duration::from_millis(self.rng.below(100))).await;
        }
    }

    fn target(&self, at: usize) -> String {
        format!("/{BUCKET}/{}", self.keys[at].key)
    }

    /// Whether a change was made; if that is not known the key is let go of.
    async fn change(&mut self, node: Host, at: usize, request: Request) -> Option<Answer> {
        let answer = self.client.send(node, request).await;
        let text = match &answer {
            Ok(answer) => format!("{} {}", answer.status, answer.code()),
            Err(error) => error.clone(),
        };
        let key = &self.keys[at].key;
        self.shared
            .trace
            .note(format_args!("archivist {key} via {node}: {text}"));
        match answer {
            Ok(answer) if matches!(answer.status, 200 | 204) && answer.code().is_empty() => {
                self.shared.count("kept");
                return Some(answer);
            }
            Ok(answer) => self.shared.expect_an_excuse(&answer),
            Err(_) => {}
        }
        self.keys[at] = self.new_key();
        None
    }

    fn came(&mut self, at: usize, answer: &Answer, etag: Option<String>) {
        match answer.header("x-amz-version-id") {
            Some(version) => self.keys[at].versions.insert(0, (version.to_owned(), etag)),
            None => self.shared.violated("a version without an id".to_owned()),
        }
    }

    async fn put(&mut self, node: Host, at: usize) {
        let body = content(self.shared.new_value(), some_len(&self.rng));
        let etag = hex::encode(Md5::digest(&body));
        let request = Request::put(&self.target(at)).body(body);
        if let Some(answer) = self.change(node, at, request).await {
            self.came(at, &answer, Some(etag));
        }
    }

    async fn mark(&mut self, node: Host, at: usize) {
        let request = Request::delete(&self.target(at));
        if let Some(answer) = self.change(node, at, request).await {
            self.came(at, &answer, None);
        }
    }

    async fn remove(&mut self, node: Host, at: usize) {
        let count = self.keys[at].versions.len() as u64;
        if count == 0 {
            return;
        }
        let which = self.rng.below(count) as usize;
        let version = self.keys[at].versions[which].0.clone();
        let request = Request::delete(&format!("{}?versionId={version}", self.target(at)));
        if self.change(node, at, request).await.is_some() {
            self.keys[at].versions.remove(which);
        }
    }

    /// Reads the newest version, some other one, or the list of them.
    async fn look(&mut self, node: Host, at: usize) -> Result<(), String> {
        match self.rng.below(3) {
            0 => self.read(node, at, None).await,
            1 => {
                let count = self.keys[at].versions.len() as u64;
                match count {
                    0 => Ok(()),
                    _ => {
                        let which = self.rng.below(count) as usize;
                        self.read(node, at, Some(which)).await
                    }
                }
            }
            _ => self.list(node, at).await,
        }
    }

    /// Reads a version (`None`: the newest).
    async fn read(&mut self, node: Host, at: usize, which: Option<usize>) -> Result<(), String> {
        let own = &self.keys[at];
        let wanted = own.versions.get(which.unwrap_or(0)).cloned();
        let query = match (which, &wanted) {
            (Some(_), Some((version, _))) => format!("?versionId={version}"),
            _ => String::new(),
        };
        let request = Request::get(&format!("{}{query}", self.target(at)));
        let answer = self.client.send(node, request).await?;
        if answer.broken.is_some() {
            return Err("the body broke off".to_owned());
        }
        let (status, code) = (answer.status, answer.code());
        let is_right = match (&wanted, status) {
            (Some((version, Some(etag))), 200) => {
                answer.header("x-amz-version-id") == Some(version)
                    && hex::encode(Md5::digest(&answer.body)) == *etag
            }
            (Some((_, None)), 405) => which.is_some(),
            (Some((_, None)) | None, 404) => which.is_none() && code == "NoSuchKey",
            (_, 200 | 404 | 405) => false,
            _ => {
                self.shared.expect_an_excuse(&answer);
                return Err(format!("{status} {code}"));
            }
        };
        if !is_right {
            let key = &self.keys[at].key;
            let what = format!("{key}{query} is {wanted:?}, and was answered {status} {code}");
            self.shared.violated(what);
        }
        self.shared.count("version read");
        Ok(())
    }

    async fn list(&mut self, node: Host, at: usize) -> Result<(), String> {
        let own = &self.keys[at];
        // No key begins with another and a slash.
        let list = format!("/{BUCKET}?versions&prefix={}", own.key);
        let answer = self.client.send(node, Request::get(&list)).await?;
        if answer.status != 200 || answer.broken.is_some() {
            self.shared.expect_an_excuse(&answer);
            return Err(format!("{} {}", answer.status, answer.code()));
        }
        let keys = answer.elements("Key");
        let ids = answer.elements("VersionId").into_iter().zip(keys);
        let ids: Vec<String> = ids
            .filter(|(_, key)| *key == own.key)
            .map(|(version, _)| version)
            .collect();
        let wanted: Vec<&String> = own.versions.iter().map(|(version, _)| version).collect();
        if ids.iter().collect::<Vec<_>>() != wanted {
            let what = format!(
                "{} has versions {wanted:?}, and {ids:?} were listed",
                own.key
            );
            self.shared.violated(what);
        }
        self.shared.count("versions listed");
        Ok(())
    }

    /// Looks at everything.
    pub async fn check(&mut self, node: Host) -> Result<(), String> {
        for at in 0..KEYS {
            self.list(node, at).await?;
            self.read(node, at, None).await?;
            for which in 0..self.keys[at].versions.len() {
                self.read(node, at, Some(which)).await?;
            }
        }
        Ok(())
    }
}
