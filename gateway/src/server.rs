//! The gateway as an HTTP server.

mod connection;
mod header_case;
mod identities;
mod quotas;
mod reply;
mod request_body;
mod socket;
mod webhooks;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use holdfast_placement::directory::Directory;
use holdfast_placement::seams::{Clock, Rng};
use holdfast_storage_node::metadata::Metadata;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use crate::auth::{Authenticated, Authenticator};
use crate::body::Bodies;
use crate::error::{Code, S3Error};
use crate::ops;
use crate::ops::cors::{self, is_preflight, preflight};
use crate::ops::documents::DocumentMemory;
use crate::ops::hints::Hints;
use crate::ops::website;
use crate::router::{Query, Target, virtual_bucket};

pub use connection::{Admission, Front, converse, serve};

/// Bytes of a request's header fields at most. S3 says 8 KB; ten tags of the largest size, escaped, need more.
const HEADERS_LEN_MAX: usize = 16 * 1024;

/// Bytes of an order at most.
const ORDER_LEN_MAX: usize = 4096;

/// How a gateway is to behave.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Virtual-hosted-style requests go to `bucket.domain`.
    pub domain: Option<String>,
    /// Requests to `bucket.website_domain` are those of browsers for pages of the bucket's website.
    pub website_domain: Option<String>,
    /// The region that the gateway says it is in.
    pub region: String,
    /// Bodies up to so many bytes are kept in the metadata.
    pub inline_len_max: usize,
    /// Bytes of memory for the XML of requests and of long listings.
    pub document_memory: usize,
    /// Connections at once; more wait in the listener's backlog.
    pub connections_max: usize,
    /// How long a client may take to send a request's header, and how long an idle connection is kept.
    pub header_read_timeout: Duration,
    /// How long a client may take nothing of a response.
    pub write_stall_timeout: Duration,
    /// How long requests in flight may take after the shutdown began.
    pub shutdown_grace: Duration,
    /// Whether only `/-/` is answered: the node is no gateway for clients.
    pub administers_only: bool,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            domain: None,
            website_domain: None,
            region: "us-east-1".to_owned(),
            inline_len_max: 32 * 1024,
            document_memory: 64 << 20,
            connections_max: 4096,
            header_read_timeout: Duration::from_secs(60),
            write_stall_timeout: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(30),
            administers_only: false,
        }
    }
}

/// Gives the JSON of `/-/status`.
pub type StatusHook = Box<dyn Fn() -> Vec<u8> + Send + Sync>;

/// Takes an operator's order, JSON; gives the JSON of an answer, or why it was not taken.
pub type OrderHook =
    Box<dyn Fn(Bytes) -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync>;

/// Says whether writes that add data are to be refused.
pub type FullHook = Box<dyn Fn() -> bool + Send + Sync>;

/// Everything that operations need.
pub struct Gateway {
    pub config: GatewayConfig,
    pub directory: Arc<Directory>,
    pub metadata: Metadata,
    pub bodies: Bodies,
    pub authenticator: Authenticator,
    pub is_full: FullHook,
    pub status: StatusHook,
    pub order: OrderHook,
    pub clock: Arc<dyn Clock>,
    pub documents: DocumentMemory,
    pub hints: Hints,
    ids: RequestIds,
}

/// What an answer needs to know of its request, whatever comes of it.
#[derive(Default)]
struct Seen {
    /// For errors.
    resource: Option<String>,
    /// What a browser asks for, and of which bucket.
    from_browser: Option<(cors::Ask, String)>,
}

/// Makes `x-amz-request-id`: unique within the process, and with high probability among processes.
struct RequestIds {
    next: AtomicU64,
    host_id: HeaderValue,
}

impl RequestIds {
    fn new(rng: &dyn Rng) -> Self {
        use base64::Engine as _;
        let mut host = [0u8; 48];
        rng.fill(&mut host);
        let host_id = base64::engine::general_purpose::STANDARD.encode(host);
        Self {
            next: AtomicU64::new(rng.next_u64()),
            host_id: HeaderValue::from_str(&host_id).expect("base64 is visible ASCII"),
        }
    }

    /// 16 hex digits (a splitmix64 step, so that neighbours look different).
    fn next(&self) -> [u8; 16] {
        let mut z = self
            .next
            .fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        let mut digits = [0u8; 16];
        for (place, digit) in digits.iter_mut().enumerate() {
            *digit = b"0123456789ABCDEF"[(z >> (60 - 4 * place) & 15) as usize];
        }
        digits
    }
}

impl Gateway {
    /// A gateway over its parts.
    #[expect(clippy::too_many_arguments, reason = "each is a part of its own")]
    pub fn new(
        config: GatewayConfig,
        directory: Arc<Directory>,
        metadata: Metadata,
        bodies: Bodies,
        authenticator: Authenticator,
        is_full: FullHook,
        status: StatusHook,
        order: OrderHook,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
    ) -> Self {
        Self {
            documents: DocumentMemory::new(config.document_memory),
            hints: Hints::default(),
            config,
            directory,
            metadata,
            bodies,
            authenticator,
            is_full,
            status,
            order,
            clock,
            ids: RequestIds::new(rng.as_ref()),
        }
    }

    /// Answers one request. Always gives a response: errors and panics become S3's error XML.
    pub async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let id = self.ids.next();
        let is_head = parts.method == Method::HEAD;
        let started = tracing::enabled!(tracing::Level::DEBUG).then(|| {
            let line = format!("{} {}", parts.method, parts.uri.path());
            (line, self.clock.monotonic())
        });

        let mut seen = Seen::default();
        let work = AssertUnwindSafe(self.perform(parts, body, &mut seen));
        let outcome = work.catch_unwind().await.unwrap_or_else(|_| {
            tracing::error!("a handler panicked");
            Err(S3Error::new(Code::InternalError))
        });
        let mut response = match outcome {
            Ok(response) => response,
            Err(error) => {
                let resource = seen.resource.unwrap_or_default();
                reply::error(&error, &resource, &id, &self.ids.host_id, is_head)
            }
        };
        if let Some((ask, bucket)) = &seen.from_browser {
            Box::pin(ask.show(self, bucket, response.headers_mut())).await;
        }
        reply::stamp(response.headers_mut(), &id, &self.ids.host_id);

        if let Some((line, began)) = started {
            let micros = (self.clock.monotonic() - began).as_micros() as u64;
            let status = response.status().as_u16();
            tracing::debug!(id = %String::from_utf8_lossy(&id), status, micros, "{line}");
        }
        response
    }

    async fn perform(
        &self,
        mut parts: Parts,
        body: Body,
        seen: &mut Seen,
    ) -> Result<Response<Body>, S3Error> {
        check_header_section(&parts.headers)?;
        if !self.config.administers_only
            && let Some(bucket) = website::is_website(self, &parts)
        {
            if !is_preflight(&parts.method) {
                seen.from_browser = cors::Ask::of(&parts).map(|ask| (ask, bucket.clone()));
            }
            return Ok(Box::pin(website::serve(self, &parts, &bucket)).await);
        }
        let domain = self.config.domain.as_deref();
        if parts.uri.path().starts_with("/-/") && virtual_bucket(&parts, domain).is_none() {
            return self.administer(parts, body).await;
        }
        if self.config.administers_only {
            return Err(S3Error::with(
                Code::MethodNotAllowed,
                "This node keeps data and answers no S3 requests: ask a gateway.",
            ));
        }
        let target = Target::parse(&parts, domain).inspect_err(|_| {
            seen.resource = Some(parts.uri.path().to_owned());
        })?;
        let refusal = match self.perform_on(&target, &mut parts, body, seen).await {
            Ok(response) => return Ok(response),
            Err(refusal) => refusal,
        };
        seen.resource = Some(target.resource());
        Err(Box::pin(ops::bucket::tell_region(
            self,
            &parts.method,
            &target,
            refusal,
        ))
        .await)
    }

    async fn perform_on(
        &self,
        target: &Target,
        parts: &mut Parts,
        body: Body,
        seen: &mut Seen,
    ) -> Result<Response<Body>, S3Error> {
        if let Some(bucket) = target.bucket() {
            if is_preflight(&parts.method) {
                return Box::pin(preflight(self, parts, target)).await;
            }
            if let Some(ask) = cors::Ask::of(parts) {
                seen.from_browser = Some((ask, bucket.to_owned()));
            }
        }
        let authenticator = &self.authenticator;
        let auth = authenticator.authenticate_or_anonymous(parts, &self.directory);
        let auth = auth.await?;
        let query = Query::parse(parts.uri.query())?;
        ops::hoist_headers(parts, &query);
        ops::perform(self, parts, body, auth, target, query).await
    }

    /// `/-/live`: the process answers. `/-/ready`: it can serve requests. `/-/status`: how everything stands, as JSON,
    /// for the root user.
    async fn administer(&self, parts: Parts, body: Body) -> Result<Response<Body>, S3Error> {
        match parts.uri.path() {
            "/-/order" => return self.take_order(parts, body).await,
            "/-/identities" => return self.administer_identities(parts, body).await,
            "/-/quotas" => return self.administer_quotas(parts, body).await,
            "/-/webhooks" => return self.administer_webhooks(parts, body).await,
            _ => {}
        }
        if parts.method != Method::GET && parts.method != Method::HEAD {
            return Err(S3Error::new(Code::MethodNotAllowed));
        }
        match parts.uri.path() {
            "/-/live" => Ok(reply::plain(StatusCode::OK, "text/plain", "live\n")),
            "/-/ready" => match self.directory.map().await {
                Ok(Some(_)) => Ok(reply::plain(StatusCode::OK, "text/plain", "ready\n")),
                Ok(None) => Err(S3Error::with(Code::ServiceUnavailable, "Not ready yet.")),
                Err(error) => Err(ops::failure::directory(error)),
            },
            "/-/status" => {
                self.authenticate_root(&parts)?;
                let status = (self.status)();
                Ok(reply::plain(StatusCode::OK, "application/json", status))
            }
            _ => Err(S3Error::with(
                Code::InvalidURI,
                "There are /-/live, /-/ready, /-/status, /-/order, /-/identities, /-/quotas and /-/webhooks.",
            )),
        }
    }
}

impl Gateway {
    /// That it is the root user who asks.
    fn authenticate_root(&self, parts: &Parts) -> Result<Authenticated, S3Error> {
        let authenticated = self.authenticator.authenticate(parts)?;
        match authenticated.identity.is_root {
            true => Ok(authenticated),
            false => Err(S3Error::new(Code::AccessDenied)),
        }
    }

    /// `/-/order`: a POST with a signed body of JSON.
    async fn take_order(&self, parts: Parts, body: Body) -> Result<Response<Body>, S3Error> {
        if parts.method != Method::POST {
            return Err(S3Error::new(Code::MethodNotAllowed));
        }
        let authenticated = self.authenticate_root(&parts)?;
        let order = ops::signed_body(&parts, body, &authenticated, ORDER_LEN_MAX).await?;
        match (self.order)(order).await {
            Ok(answer) => Ok(reply::plain(StatusCode::OK, "application/json", answer)),
            Err(reason) => Err(S3Error::with(Code::InvalidRequest, reason)),
        }
    }
}

fn check_header_section(headers: &HeaderMap) -> Result<(), S3Error> {
    let len: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    if len > HEADERS_LEN_MAX {
        return Err(S3Error::new(Code::RequestHeaderSectionTooLarge)
            .detail("MaxSizeAllowed", HEADERS_LEN_MAX.to_string()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
