//! A small S3 server in this process, for tests: objects in memory, and faults on demand.
//!
//! It checks what a client can get wrong: that requests are signed for the right scope, that the announced
//! lengths are true, that chunks are framed right and that checksums match.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use super::sign::hex_of;
use super::upload::crc_text;

/// What the server does wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Flips a bit of this byte in what is stored, from the first object on that is long enough; once.
    pub flip_stored_byte: Option<usize>,
    /// Answers every n-th PUT with `503 SlowDown`.
    pub slow_down_every: Option<u64>,
    /// Closes the connection in the middle of every n-th GET.
    pub cut_get_every: Option<u64>,
    /// Lists keys in falling order.
    pub list_backwards: bool,
    /// Answers every PUT of an object with `503 SlowDown` before its body was read, and reads none of it.
    pub refuse_unread: bool,
    /// Never answers a HEAD of an object.
    pub hang_head: bool,
}

#[derive(Default)]
struct State {
    buckets: BTreeSet<String>,
    objects: BTreeMap<String, Bytes>,
    faults: Faults,
    payloads: BTreeSet<String>,
}

/// The server; it ends with the process.
#[derive(Clone)]
pub struct FakeS3 {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    requests: Arc<AtomicU64>,
    /// Bodies that are left where they are.
    unread: Arc<Mutex<Vec<Incoming>>>,
}

impl FakeS3 {
    /// Starts a server on a port of its own.
    pub fn start(faults: Faults) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let fake = Self {
            address: listener.local_addr().expect("an address"),
            state: Arc::new(Mutex::new(State {
                faults,
                ..State::default()
            })),
            requests: Arc::default(),
            unread: Arc::default(),
        };
        let serving = fake.clone();
        std::thread::Builder::new()
            .name("fake-s3".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime, async move {
                    serving
                        .serve(TcpListener::from_std(listener).expect("a listener"))
                        .await
                });
            })
            .expect("a thread");
        fake
    }

    /// The endpoint as an argument.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What is stored at `key`, bucket included.
    pub fn object(&self, key: &str) -> Option<Bytes> {
        self.state
            .lock()
            .expect("no panic")
            .objects
            .get(key)
            .cloned()
    }

    /// Loses what is stored at `key`, bucket included.
    pub fn remove(&self, key: &str) {
        self.state.lock().expect("no panic").objects.remove(key);
    }

    /// How many objects are stored.
    pub fn len(&self) -> usize {
        self.state.lock().expect("no panic").objects.len()
    }

    /// The values of x-amz-content-sha256 that PUTs of objects carried; a hash counts as `(hash)`.
    pub fn payloads(&self) -> Vec<String> {
        self.state
            .lock()
            .expect("no panic")
            .payloads
            .iter()
            .cloned()
            .collect()
    }

    /// Requests answered so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    async fn serve(self, listener: TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let fake = self.clone();
            tokio::task::spawn_local(async move {
                let service = service_fn(|request| fake.answer(request));
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, std::io::Error> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let (parts, body) = request.into_parts();
        let refuse_unread = self.state.lock().expect("no panic").faults.refuse_unread;
        if refuse_unread && parts.method == Method::PUT && parts.uri.path().ends_with("0") {
            // The body is neither read nor dropped, so the connection stays open and stuck.
            self.unread.lock().expect("no panic").push(body);
            let code = StatusCode::SERVICE_UNAVAILABLE;
            return Ok(error(code, "SlowDown", "reduce your request rate"));
        }
        let body = body
            .collect()
            .await
            .map_err(std::io::Error::other)?
            .to_bytes();
        let header = |name: &str| {
            parts
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
        };
        let authorization = header("authorization");
        let signed = authorization.starts_with("AWS4-HMAC-SHA256 Credential=test/")
            && authorization.contains("/us-east-1/s3/aws4_request,SignedHeaders=");
        if !signed {
            return Ok(error(StatusCode::FORBIDDEN, "AccessDenied", "sign it"));
        }
        let faults = self.state.lock().expect("no panic").faults;
        let path = parts.uri.path().trim_start_matches('/').to_owned();
        let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
        let known = self
            .state
            .lock()
            .expect("no panic")
            .buckets
            .contains(bucket);
        if key.is_empty() {
            return Ok(match parts.method {
                Method::PUT => {
                    self.state
                        .lock()
                        .expect("no panic")
                        .buckets
                        .insert(bucket.to_owned());
                    plain(StatusCode::OK, Bytes::new())
                }
                _ if !known => error(StatusCode::NOT_FOUND, "NoSuchBucket", "no such bucket"),
                Method::GET => self.list(bucket, parts.uri.query().unwrap_or_default(), faults),
                _ => plain(StatusCode::OK, Bytes::new()),
            });
        }
        if !known {
            return Ok(error(
                StatusCode::NOT_FOUND,
                "NoSuchBucket",
                "no such bucket",
            ));
        }
        let every = |n: Option<u64>| n.is_some_and(|n| number.is_multiple_of(n));
        match parts.method {
            Method::PUT if header("content-length").is_empty() => Ok(error(
                StatusCode::LENGTH_REQUIRED,
                "MissingContentLength",
                "how long is it?",
            )),
            Method::PUT if every(faults.slow_down_every) => Ok(error(
                StatusCode::SERVICE_UNAVAILABLE,
                "SlowDown",
                "reduce your request rate",
            )),
            Method::PUT => Ok(match decode(&parts.headers, &body) {
                Ok((content, payload)) => {
                    self.store(&path, content, payload);
                    plain(StatusCode::OK, Bytes::new())
                }
                Err(why) => error(StatusCode::BAD_REQUEST, "BadDigest", &why),
            }),
            Method::HEAD if faults.hang_head => std::future::pending().await,
            Method::GET if every(faults.cut_get_every) => Err(std::io::Error::other("cut")),
            Method::GET | Method::HEAD => Ok(match self.object(&path) {
                Some(object) => plain(StatusCode::OK, object),
                None => error(StatusCode::NOT_FOUND, "NoSuchKey", "no such key"),
            }),
            Method::DELETE => {
                self.state.lock().expect("no panic").objects.remove(&path);
                Ok(plain(StatusCode::NO_CONTENT, Bytes::new()))
            }
            _ => Ok(error(
                StatusCode::NOT_IMPLEMENTED,
                "NotImplemented",
                "not here",
            )),
        }
    }

    fn store(&self, path: &str, mut content: Vec<u8>, payload: String) {
        let mut state = self.state.lock().expect("no panic");
        if let Some(at) = state
            .faults
            .flip_stored_byte
            .filter(|&at| at < content.len())
        {
            content[at] ^= 1;
            state.faults.flip_stored_byte = None;
        }
        state.payloads.insert(payload);
        state.objects.insert(path.to_owned(), Bytes::from(content));
    }

    fn list(&self, bucket: &str, query: &str, faults: Faults) -> Response<Full<Bytes>> {
        let query: BTreeMap<&str, String> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name, value.replace("%2F", "/").replace("%26", "&")))
            .collect();
        let of = |name: &str| query.get(name).cloned().unwrap_or_default();
        let (prefix, delimiter) = (of("prefix"), of("delimiter"));
        let versions = query.contains_key("versions");
        let after = match versions {
            true => of("key-marker"),
            // A token is a key, and comes after any that a walk starts after.
            false => of("continuation-token").max(of("start-after")),
        };
        let max: usize = of("max-keys").parse().unwrap_or(1000);
        let state = self.state.lock().expect("no panic");
        let mut entries = BTreeSet::new();
        for key in state
            .objects
            .keys()
            .filter_map(|path| path.strip_prefix(bucket)?.strip_prefix('/'))
        {
            let Some(rest) = key.strip_prefix(prefix.as_str()) else {
                continue;
            };
            let rolled = (!delimiter.is_empty())
                .then(|| rest.find(&delimiter))
                .flatten();
            entries.insert(match rolled {
                Some(at) => (prefix.clone() + &rest[..at + delimiter.len()], true),
                None => (key.to_owned(), false),
            });
        }
        let mut page: Vec<_> = entries
            .into_iter()
            .filter(|(name, _)| after.is_empty() || *name > after)
            .collect();
        let truncated = page.len() > max;
        page.truncate(max);
        let (root, next) = match versions {
            true => ("ListVersionsResult", "NextKeyMarker"),
            false => ("ListBucketResult", "NextContinuationToken"),
        };
        let mut xml = format!("<{root}><IsTruncated>{truncated}</IsTruncated>");
        if truncated && let Some((last, _)) = page.last() {
            xml.push_str(&format!("<{next}>{last}</{next}>"));
        }
        if faults.list_backwards {
            page.reverse();
        }
        for (name, is_prefix) in page {
            xml.push_str(&match is_prefix {
                true => format!("<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>"),
                false => format!("<Contents><Key>{name}</Key></Contents>"),
            });
        }
        xml.push_str(&format!("</{root}>"));
        plain(StatusCode::OK, Bytes::from(xml))
    }
}

/// The content of a PUT, checked against all that its headers say, and how it was sent.
fn decode(headers: &http::HeaderMap, body: &[u8]) -> Result<(Vec<u8>, String), String> {
    let header = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    let crc_of = |content: &[u8]| {
        crc_text(crc_fast::checksum(
            crc_fast::CrcAlgorithm::Crc64Nvme,
            content,
        ))
    };
    let payload = header("x-amz-content-sha256");
    if payload.starts_with("STREAMING-") {
        let (content, trailer) = unchunk(body)?;
        if content.len().to_string() != header("x-amz-decoded-content-length") {
            return Err("x-amz-decoded-content-length is wrong".to_owned());
        }
        if header("content-encoding") != "aws-chunked" {
            return Err("not announced as aws-chunked".to_owned());
        }
        let wanted = format!("{}:{}\r\n", header("x-amz-trailer"), crc_of(&content));
        if payload.ends_with("-TRAILER") && trailer != wanted {
            return Err(format!("the trailer is {trailer:?}, must be {wanted:?}"));
        }
        return Ok((content, payload));
    }
    if header("x-amz-checksum-crc64nvme") != crc_of(body) {
        return Err("the CRC64NVME header is wrong".to_owned());
    }
    match payload.as_str() {
        "UNSIGNED-PAYLOAD" => Ok((body.to_vec(), payload)),
        hash if hash == hex_of(&Sha256::digest(body)) => Ok((body.to_vec(), "(hash)".to_owned())),
        _ => Err("x-amz-content-sha256 is wrong".to_owned()),
    }
}

fn unchunk(mut rest: &[u8]) -> Result<(Vec<u8>, String), String> {
    let mut content = Vec::new();
    loop {
        let end = rest
            .windows(2)
            .position(|pair| pair == b"\r\n")
            .ok_or("a chunk header does not end")?;
        let line = std::str::from_utf8(&rest[..end]).map_err(|_| "a chunk header is not ASCII")?;
        let len = line.split(';').next().unwrap_or_default();
        let len =
            usize::from_str_radix(len, 16).map_err(|_| format!("{line:?} is no chunk header"))?;
        rest = &rest[end + 2..];
        if len == 0 {
            let trailer = rest
                .strip_suffix(b"\r\n")
                .ok_or("the last chunk does not end")?;
            return Ok((content, String::from_utf8_lossy(trailer).into_owned()));
        }
        let (chunk, after) = rest.split_at_checked(len).ok_or("a chunk is cut off")?;
        content.extend_from_slice(chunk);
        rest = after
            .strip_prefix(b"\r\n")
            .ok_or("a chunk does not end where it must")?;
    }
}

fn plain(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
}

fn error(status: StatusCode, code: &str, message: &str) -> Response<Full<Bytes>> {
    let xml = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    plain(status, Bytes::from(xml))
}
