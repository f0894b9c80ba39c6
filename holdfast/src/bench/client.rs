//! A small S3 client on raw HTTP/1.1 connections: one per worker and endpoint, kept alive.
//!
//! Small because it shares its cores with the server under test. It signs, sends and reads; it does not retry,
//! redirect or pool. A connection that went away between two requests is opened anew; one that goes away within
//! a request is a failed request.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use sha2::{Digest, Sha256};

use super::args::{Payload, Plan};
use super::connection::{Links, Target, describe};
use super::content::Content;
use super::listing::{self, Next, Order, Page};
use super::sign::{AmzDate, EMPTY_SHA256, Signer, ToSign, hex_of};
use super::upload::{Framing, ObjectUpload, Upload, crc_text, for_each_slice};

/// The most of an error or a listing that is read, in bytes.
const ANSWER_MAX: usize = 8 << 20;
/// A body up to this long has gone out with its headers when an answer comes, in bytes.
const AT_ONCE: u64 = 16 << 10;
const TRAILER_PAYLOAD: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
const SIGNED_PAYLOAD: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";

/// Why a request did not do what it was for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// The server answered with an error.
    #[error("{code} (HTTP {status}): {message}")]
    S3 {
        code: String,
        status: u16,
        message: String,
    },
    /// No whole answer came.
    #[error("{0}")]
    Transport(String),
    /// No answer came in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The answer came and is wrong.
    #[error("{0}")]
    Wrong(String),
}

impl Failure {
    /// What failures are counted by.
    pub fn code(&self) -> &str {
        match self {
            Failure::S3 { code, .. } => code,
            Failure::Transport(_) => "(connection)",
            Failure::Timeout(_) => "(timeout)",
            Failure::Wrong(_) => "(wrong data)",
        }
    }

    /// Whether data or order was wrong, which is worse than an error.
    pub fn is_wrong_data(&self) -> bool {
        matches!(self, Failure::Wrong(_))
    }
}

/// A body that was read.
#[derive(Debug, Clone, Copy)]
pub struct Download {
    pub bytes: u64,
    /// From the request to the first byte of the body.
    pub first_byte: Duration,
}

/// One worker's client. Must live on a `tokio::task::LocalSet`, since its connections are driven there.
pub struct Client {
    plan: Arc<Plan>,
    content: Content,
    links: Links,
    signer: Signer,
}

impl Client {
    /// A client of `targets` that begins its round at number `first`.
    pub fn new(plan: Arc<Plan>, content: Content, targets: &[Target], first: usize) -> Self {
        let signer = Signer::new(plan.credentials.clone(), &plan.region);
        Self {
            content,
            links: Links::new(targets, first),
            signer,
            plan,
        }
    }

    /// Opens a connection to every endpoint.
    pub async fn connect(&mut self) -> Result<(), Failure> {
        self.links.connect().await
    }

    /// Connections opened after the first to each endpoint.
    pub fn reconnects(&self) -> u64 {
        self.links.reconnects()
    }

    /// Closes the connection in use, so that the next request to its endpoint opens another.
    pub fn close_connection(&mut self) {
        self.links.close_current();
    }

    /// Makes the bucket if it is not there.
    pub async fn ensure_bucket(&mut self) -> Result<(), Failure> {
        match self.head_bucket().await {
            Err(Failure::S3 { status: 404, .. }) => {}
            other => return other,
        }
        let region = &self.plan.region;
        let body = if region == "us-east-1" {
            Bytes::new()
        } else {
            Bytes::from(format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
            ))
        };
        let hash = hex_of(&Sha256::digest(&body));
        let path = self.bucket_path();
        let response = self
            .send(Method::PUT, &path, "", &hash, &[], Upload::Full(Some(body)))
            .await?;
        match self.finish(response).await {
            Err(Failure::S3 { code, .. }) if code == "BucketAlreadyOwnedByYou" => Ok(()),
            other => other,
        }
    }

    /// Asks for the bucket.
    pub async fn head_bucket(&mut self) -> Result<(), Failure> {
        let path = self.bucket_path();
        let response = self
            .send(Method::HEAD, &path, "", EMPTY_SHA256, &[], Upload::Empty)
            .await?;
        self.finish(response).await
    }

    /// Writes `key`.
    pub async fn put(&mut self, key: &str) -> Result<(), Failure> {
        let result = self.upload(key).await;
        if result.is_err() && self.plan.size > AT_ONCE {
            // A refusal may come before the body has gone out; nobody wants the rest of it.
            self.links.close_current();
        }
        result
    }

    async fn upload(&mut self, key: &str) -> Result<(), Failure> {
        let size = self.plan.size;
        let start = self.content.start(key);
        let chunk_len = self.plan.chunk;
        let path = self.key_path(key);
        let object = |client: &Self, framing| {
            ObjectUpload::new(client.content.clone(), start, size, framing)
        };
        let decoded = size.to_string();
        let response = match self.plan.payload {
            Payload::UnsignedTrailer => {
                let headers = [
                    ("content-encoding", "aws-chunked"),
                    ("x-amz-decoded-content-length", decoded.as_str()),
                    ("x-amz-trailer", "x-amz-checksum-crc64nvme"),
                ];
                let upload = object(self, Framing::UnsignedTrailer { chunk_len });
                let upload = Upload::Object(Box::new(upload));
                self.send(Method::PUT, &path, "", TRAILER_PAYLOAD, &headers, upload)
                    .await?
            }
            Payload::StreamingSigned => {
                let headers = [
                    ("content-encoding", "aws-chunked"),
                    ("x-amz-decoded-content-length", decoded.as_str()),
                ];
                self.send_signed_stream(&path, &headers, start, chunk_len)
                    .await?
            }
            payload @ (Payload::Unsigned | Payload::Signed) => {
                let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
                let mut sha = Sha256::new();
                let signed = payload == Payload::Signed;
                for_each_slice(&self.content, start, 0, size, |slice| {
                    crc.update(slice);
                    if signed {
                        sha.update(slice);
                    }
                });
                let crc = crc_text(crc.finalize());
                let hash = if signed {
                    hex_of(&sha.finalize())
                } else {
                    "UNSIGNED-PAYLOAD".to_owned()
                };
                let headers = [("x-amz-checksum-crc64nvme", crc.as_str())];
                let upload = Upload::Object(Box::new(object(self, Framing::Plain)));
                self.send(Method::PUT, &path, "", &hash, &headers, upload)
                    .await?
            }
        };
        self.finish(response).await
    }

    /// Reads `key`; with `verify`, compares every byte and the length.
    pub async fn get(&mut self, key: &str, verify: bool) -> Result<Download, Failure> {
        let began = Instant::now();
        let path = self.key_path(key);
        // SDKs ask for the checksum of what they read.
        let headers = [("x-amz-checksum-mode", "ENABLED")];
        let response = self
            .send(
                Method::GET,
                &path,
                "",
                EMPTY_SHA256,
                &headers,
                Upload::Empty,
            )
            .await?;
        let mut body = self.expect_success(response).await?.into_body();
        let start = self.content.start(key);
        let mut download = Download {
            bytes: 0,
            first_byte: Duration::ZERO,
        };
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| self.broken(&e))?;
            let Some(data) = frame.data_ref() else {
                continue;
            };
            if download.bytes == 0 {
                download.first_byte = began.elapsed();
            }
            if verify {
                self.content
                    .compare(start, download.bytes, data)
                    .map_err(|difference| {
                        self.links.close_current();
                        Failure::Wrong(format!(
                            "{key}: byte {} is {:#04x}, must be {:#04x}",
                            difference.offset, difference.found, difference.expected
                        ))
                    })?;
            }
            download.bytes += data.len() as u64;
        }
        if verify && download.bytes != self.plan.size {
            return Err(Failure::Wrong(format!(
                "{key}: {} bytes came, must be {} (is --size the size it was written with?)",
                download.bytes, self.plan.size
            )));
        }
        Ok(download)
    }

    /// Asks for the headers of `key`; with `verify`, its length must be right.
    pub async fn head(&mut self, key: &str, verify: bool) -> Result<(), Failure> {
        let path = self.key_path(key);
        let response = self
            .send(Method::HEAD, &path, "", EMPTY_SHA256, &[], Upload::Empty)
            .await?;
        let response = self.expect_success(response).await?;
        let len = response.headers().get(CONTENT_LENGTH).cloned();
        self.finish(response).await?;
        if verify
            && len.as_ref().map(HeaderValue::as_bytes)
                != Some(self.plan.size.to_string().as_bytes())
        {
            return Err(Failure::Wrong(format!(
                "{key}: Content-Length is {len:?}, must be {}",
                self.plan.size
            )));
        }
        Ok(())
    }

    /// Deletes `key`.
    pub async fn delete(&mut self, key: &str) -> Result<(), Failure> {
        let path = self.key_path(key);
        let response = self
            .send(Method::DELETE, &path, "", EMPTY_SHA256, &[], Upload::Empty)
            .await?;
        self.finish(response).await
    }

    /// One page of the prefix: from `next` on, or the first of a walk. With `order`, its keys are checked.
    pub async fn list(
        &mut self,
        next: Option<&Next>,
        order: Option<&mut Order<'_>>,
    ) -> Result<(Page, u64), Failure> {
        let plan = Arc::clone(&self.plan);
        let path = self.bucket_path();
        let query = list_query(&plan, next);
        let response = self
            .send(Method::GET, &path, &query, EMPTY_SHA256, &[], Upload::Empty)
            .await?;
        let response = self.expect_success(response).await?;
        let xml = self.read_all(response).await?;
        let page = listing::read_page(&xml, plan.versions, order).map_err(Failure::Wrong)?;
        Ok((page, xml.len() as u64))
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        query: &str,
        payload: &str,
        extra: &[(&'static str, &str)],
        upload: Upload,
    ) -> Result<Response<Incoming>, Failure> {
        let (request, _, _) = self.signed(&method, path, query, payload, extra);
        self.links.exchange(finish_request(request, upload)?).await
    }

    async fn send_signed_stream(
        &mut self,
        path: &str,
        extra: &[(&'static str, &str)],
        start: u64,
        chunk_len: u64,
    ) -> Result<Response<Incoming>, Failure> {
        let (request, date, seed) = self.signed(&Method::PUT, path, "", SIGNED_PAYLOAD, extra);
        let framing = Framing::Signed {
            chunk_len,
            signer: Box::new(self.signer.chunks(&date, seed)),
        };
        let upload = ObjectUpload::new(self.content.clone(), start, self.plan.size, framing);
        self.links
            .exchange(finish_request(request, Upload::Object(Box::new(upload)))?)
            .await
    }

    /// The request to the endpoint whose turn it is, with all its headers, and what signs a stream after it.
    fn signed(
        &mut self,
        method: &Method,
        path: &str,
        query: &str,
        payload: &str,
        extra: &[(&'static str, &str)],
    ) -> (http::request::Builder, AmzDate, String) {
        self.links.advance();
        let date = AmzDate::of(SystemTime::now());
        let authority = self.links.authority();
        let mut headers: Vec<(&str, &str)> = Vec::with_capacity(8);
        headers.extend_from_slice(extra);
        headers.push(("host", authority));
        headers.push(("x-amz-content-sha256", payload));
        headers.push(("x-amz-date", date.as_str()));
        headers.sort_unstable_by_key(|(name, _)| *name);
        let signed = self.signer.sign(
            &date,
            &ToSign {
                method: method.as_str(),
                path,
                query,
                headers: &headers,
                payload,
            },
        );
        let mut request = Request::builder().method(method).header(HOST, authority);
        request = match query {
            "" => request.uri(path),
            query => request.uri(format!("{path}?{query}")),
        };
        for (name, value) in extra {
            request = request.header(HeaderName::from_static(name), *value);
        }
        request = request
            .header(HeaderName::from_static("x-amz-content-sha256"), payload)
            .header(HeaderName::from_static("x-amz-date"), date.as_str())
            .header(AUTHORIZATION, signed.authorization);
        (request, date, signed.signature)
    }

    async fn expect_success(
        &mut self,
        response: Response<Incoming>,
    ) -> Result<Response<Incoming>, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.read_all(response).await?;
        let text = |name| listing::element(&body, name).ok().flatten();
        Err(Failure::S3 {
            code: text("Code").unwrap_or_else(|| format!("HTTP {}", status.as_u16())),
            status: status.as_u16(),
            message: text("Message")
                .unwrap_or_else(|| status.canonical_reason().unwrap_or_default().to_owned()),
        })
    }

    async fn finish(&mut self, response: Response<Incoming>) -> Result<(), Failure> {
        let response = self.expect_success(response).await?;
        self.read_all(response).await.map(drop)
    }

    async fn read_all(&mut self, response: Response<Incoming>) -> Result<Vec<u8>, Failure> {
        let mut body = response.into_body();
        let mut all = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| self.broken(&e))?;
            if let Some(data) = frame.data_ref() {
                all.extend_from_slice(data);
            }
            if all.len() > ANSWER_MAX {
                self.links.close_current();
                return Err(Failure::Wrong("an answer is longer than 8 MiB".to_owned()));
            }
        }
        Ok(all)
    }

    fn broken(&mut self, error: &hyper::Error) -> Failure {
        self.links.close_current();
        Failure::Transport(describe(error))
    }

    fn bucket_path(&self) -> String {
        let mut path = String::from("/");
        encode(&self.plan.bucket, false, &mut path);
        path
    }

    fn key_path(&self, key: &str) -> String {
        let mut path = String::with_capacity(key.len() + self.plan.bucket.len() + 16);
        path.push('/');
        encode(&self.plan.bucket, false, &mut path);
        path.push('/');
        encode(key, true, &mut path);
        path
    }
}

/// The query of a page, its parameters in the order that they are signed in.
fn list_query(plan: &Plan, next: Option<&Next>) -> String {
    let start = plan.start_after.as_deref();
    let (token, key_marker, version_marker) = match next {
        Some(Next::Token(token)) => (Some(token.as_str()), None, None),
        Some(Next::Markers(key, version)) => (None, Some(key.as_str()), version.as_deref()),
        None => (None, start.filter(|_| plan.versions), None),
    };
    let start_after = start.filter(|_| next.is_none() && !plan.versions);
    let max = plan.page.to_string();
    let parameters = [
        ("continuation-token", token),
        ("delimiter", plan.delimiter.as_deref()),
        ("key-marker", key_marker),
        ("list-type", (!plan.versions).then_some("2")),
        ("max-keys", Some(max.as_str())),
        ("prefix", Some(plan.prefix.as_str())),
        ("start-after", start_after),
        ("version-id-marker", version_marker),
        ("versions", plan.versions.then_some("")),
    ];
    let mut query = String::new();
    for (name, value) in parameters {
        let Some(value) = value else { continue };
        if !query.is_empty() {
            query.push('&');
        }
        query.push_str(name);
        query.push('=');
        encode(value, false, &mut query);
    }
    query
}

fn finish_request(
    request: http::request::Builder,
    upload: Upload,
) -> Result<Request<Upload>, Failure> {
    let len = upload.size_hint().exact();
    let mut request = request
        .body(upload)
        .map_err(|e| Failure::Transport(format!("the request cannot be written as HTTP: {e}")))?;
    if request.method() == Method::PUT
        && let Some(len) = len
    {
        // S3 wants the length of an empty body, too (411 MissingContentLength).
        request.headers_mut().insert(CONTENT_LENGTH, len.into());
    }
    Ok(request)
}

/// Percent-encodes as Signature Version 4 wants it: all but unreserved characters, and `/` unless `keep_slash`.
fn encode(text: &str, keep_slash: bool, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in text.as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte))
            }
            b'/' if keep_slash => out.push('/'),
            _ => {
                out.push('%');
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::encode;

    #[test]
    fn keys_are_encoded_once_and_slashes_kept() {
        let encoded = |text, keep_slash| {
            let mut out = String::new();
            encode(text, keep_slash, &mut out);
            out
        };
        assert_eq!(encoded("a/b c+d~é", true), "a/b%20c%2Bd~%C3%A9");
        assert_eq!(encoded("a/b=", false), "a%2Fb%3D");
    }
}
