//! All operations through the whole gateway, with real signatures; below it metadata without consensus, and drives in
//! memory.

mod appends;
mod browsers;
mod buckets;
mod classes;
mod copies;
mod cost;
mod errors;
mod identities;
mod lifecycles;
mod listings;
mod multipart;
mod objects;
mod quotas;
mod renames;
mod two_gateways;
mod versions;
mod websites;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_placement::map::SharedMap;
use holdfast_placement::protection::Protection;
use holdfast_placement::seams::{Clock, SeededRng, SystemClock, UnixMillis};
use holdfast_placement::testing::map_of_one_host;
use holdfast_storage_node::buffer::{BufferPool, PoolConfig};
use holdfast_storage_node::memory_shards::MemoryShards;
use holdfast_storage_node::metadata::testing::TestMetadata;
use http::request::Parts;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;

use crate::auth::tests::{ACCESS_KEY, NOW_SECS, SECRET, signed_in};
use crate::auth::{Authenticator, Credentials};
use crate::body::{Bodies, BodiesConfig};
use crate::md5_lanes::Md5Lanes;
use crate::server::{Gateway, GatewayConfig};

pub(crate) const DOMAIN: &str = "s3.test";

/// It is always the day of the examples in the documentation of S3; otherwise time passes.
struct ExampleClock;

impl Clock for ExampleClock {
    fn wall(&self) -> UnixMillis {
        UnixMillis(NOW_SECS * 1000)
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        SystemClock.sleep(duration)
    }
}

/// A gateway with nothing in it.
pub(crate) struct Store {
    pub gateway: Arc<Gateway>,
    pub shards: Arc<MemoryShards>,
    pub full: Arc<AtomicBool>,
}

/// A request to be signed and sent.
pub(crate) struct Ask {
    method: &'static str,
    uri: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    /// Access key and secret.
    signer: (&'static str, &'static str),
    region: &'static str,
}

/// A response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

pub(crate) fn ask(method: &'static str, uri: impl Into<String>) -> Ask {
    Ask {
        method,
        uri: uri.into(),
        headers: Vec::new(),
        body: Bytes::new(),
        signer: (ACCESS_KEY, SECRET),
        region: "us-east-1",
    }
}

impl Ask {
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// With this body and its MD5.
    pub fn with_md5(self, body: &str) -> Self {
        use base64::Engine as _;
        use md5::Digest as _;
        let md5 = base64::engine::general_purpose::STANDARD.encode(md5::Md5::digest(body));
        self.header("content-md5", md5).body(body.to_owned())
    }

    /// Signed with another key.
    pub fn by(mut self, access_key: &'static str, secret: &'static str) -> Self {
        self.signer = (access_key, secret);
        self
    }

    /// Signed for another region.
    pub fn in_region(mut self, region: &'static str) -> Self {
        self.region = region;
        self
    }

    /// The request's head, signed.
    pub fn signed(&self) -> Parts {
        let has = |name: &str| self.headers.iter().any(|(own, _)| own == name);
        let len = self.body.len().to_string();
        let mut headers: Vec<(&str, &str)> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let defaults = [
            ("content-length", len.as_str()),
            ("host", "localhost:9000"),
            ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
            ("x-amz-date", "20130524T000000Z"),
        ];
        let streamed = has("transfer-encoding");
        let given = |name: &str| has(name) || (streamed && name == "content-length");
        headers.extend(defaults.iter().filter(|(name, _)| !given(name)));
        let (access_key, secret) = self.signer;
        signed_in(
            self.region,
            access_key,
            secret,
            self.method,
            &self.uri,
            &headers,
        )
    }

    /// The request's head as it goes over the wire.
    pub fn wire_head(&self) -> Vec<u8> {
        let parts = self.signed();
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.uri).into_bytes();
        for (name, value) in &parts.headers {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        head
    }
}

impl Answer {
    /// The text of the first element called `name`, still escaped.
    pub fn element(&self, name: &str) -> Option<&str> {
        self.elements(name).into_iter().next()
    }

    /// The texts of all elements called `name`.
    pub fn elements(&self, name: &str) -> Vec<&str> {
        let text = std::str::from_utf8(&self.body).unwrap();
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let mut found = Vec::new();
        let mut rest = text;
        while let Some((_, after)) = rest.split_once(&open) {
            let (inner, after) = after.split_once(&close).unwrap();
            found.push(inner);
            rest = after;
        }
        found
    }

    pub fn header(&self, name: &str) -> &str {
        match self.headers.get(name) {
            Some(value) => value.to_str().unwrap(),
            None => "",
        }
    }

    /// The error's code; empty if there is none.
    pub fn code(&self) -> &str {
        match self.body.starts_with(b"<?xml") {
            true => self.element("Code").unwrap_or_default(),
            false => "",
        }
    }

    /// Itself, if the status is `status`.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// Itself, if it is the error `code` with its status and all that errors carry.
    #[track_caller]
    pub fn expect_error(self, status: u16, code: &str) -> Self {
        assert_eq!((self.status, self.code()), (status, code), "{self:?}");
        assert_eq!(self.header("content-type"), "application/xml");
        assert_eq!(
            self.element("RequestId"),
            Some(self.header("x-amz-request-id"))
        );
        assert_eq!(self.element("HostId"), Some(self.header("x-amz-id-2")));
        assert!(
            self.element("Message")
                .is_some_and(|message| !message.is_empty())
        );
        self
    }
}

impl Store {
    pub fn new() -> Self {
        Self::configured(GatewayConfig {
            domain: Some(DOMAIN.to_owned()),
            ..GatewayConfig::default()
        })
    }

    pub fn configured(config: GatewayConfig) -> Self {
        let seam = Arc::new(ExampleClock);
        let below = TestMetadata::new(seam.clone(), Arc::new(SeededRng::new(3)));
        Self::over(below, Arc::new(MemoryShards::new(seam)), config, 3)
    }

    /// Two gateways to the same store, each with its cache; the second finds the groups at three nodes.
    pub fn pair() -> (Self, Self) {
        let seam = Arc::new(ExampleClock);
        let below = TestMetadata::new(seam.clone(), Arc::new(SeededRng::new(3)));
        let rng = Arc::new(SeededRng::new(4));
        let split = below.split(16, seam.clone(), rng, 4, 0);
        let shards = Arc::new(MemoryShards::new(seam));
        let one = Self::over(below, shards.clone(), GatewayConfig::default(), 3);
        let other = Self::over(split, shards, GatewayConfig::default(), 5);
        (one, other)
    }

    fn over(
        below: TestMetadata,
        shards: Arc<MemoryShards>,
        config: GatewayConfig,
        seed: u64,
    ) -> Self {
        let seam = Arc::new(ExampleClock);
        let rng = Arc::new(SeededRng::new(seed));
        let map = SharedMap::new(map_of_one_host(1, Protection::NONE));
        let bodies = Bodies::new(
            shards.clone(),
            map,
            BufferPool::new(PoolConfig::with_budget(64 << 20), Arc::new(SystemClock)),
            Arc::new(SystemClock),
            rng.clone(),
            BodiesConfig {
                chunk_len: 1 << 20,
                md5_lanes: Md5Lanes::start_from(0),
                ..BodiesConfig::default()
            },
        );
        let credentials = Credentials::new(ACCESS_KEY, SECRET, "owner", "Owner").of_root();
        let region = config.region.clone();
        let full = Arc::new(AtomicBool::new(false));
        let is_full = full.clone();
        let gateway = Gateway::new(
            config,
            below.directory,
            below.metadata,
            bodies,
            Authenticator::new(vec![credentials], region, seam.clone())
                .with_sig_v2(Some(DOMAIN.to_owned())),
            Box::new(move || is_full.load(Ordering::Relaxed)),
            Box::new(|| b"{}".to_vec()),
            Box::new(|_| Box::pin(std::future::ready(Ok(b"{}".to_vec())))),
            seam,
            rng,
        );
        Self {
            gateway: Arc::new(gateway),
            shards,
            full,
        }
    }

    /// A store with a bucket called `bucket`.
    pub async fn with_bucket() -> Self {
        let store = Self::new();
        store.send(ask("PUT", "/bucket")).await.expect(200);
        store
    }

    /// Signs and sends a request.
    pub async fn send(&self, ask: Ask) -> Answer {
        let parts = ask.signed();
        self.send_raw(Request::from_parts(parts, Body::from(ask.body)))
            .await
    }

    /// Sends a request as it is.
    pub async fn send_raw(&self, request: Request<Body>) -> Answer {
        let response = self.gateway.answer(request).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes());
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: body.unwrap(),
        }
    }

    pub async fn put(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(ask("PUT", path).body(body)).await.expect(200)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(ask("GET", path)).await
    }

    pub async fn head(&self, path: &str) -> Answer {
        self.send(ask("HEAD", path)).await
    }
}

/// Bytes that differ from place to place.
pub(crate) fn pattern(len: usize, seed: u8) -> Bytes {
    (0..len)
        .map(|at| ((at as u64 * 2_654_435_761) >> 11) as u8 ^ seed)
        .collect::<Vec<u8>>()
        .into()
}

/// MD5 in hex, by the way of a crate rather than of the code under test.
pub(crate) fn md5_hex(bytes: &[u8]) -> String {
    use md5::Digest as _;
    hex::encode(md5::Md5::digest(bytes))
}
