//! Operations as the tests need them: no retries unless asked for, bodies streamed from and compared with a `Content`.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::connection::{Connection, IO_DEADLINE, Response, is_hangup};
use crate::content::Content;
use crate::request::{Keys, Request, encode_key, encode_query};

/// What is written to the socket at once, bytes.
const PIECE: usize = 64 * 1024;

/// How a GET ended.
#[derive(Debug)]
pub enum Fetched {
    /// Status 200 or 206, and every byte came.
    Whole(Response),
    /// Another status.
    Refused(Response),
    /// The body broke off: an error to every client, not data.
    BrokenOff(io::Error),
}

/// A client with at most one connection.
pub struct Client {
    address: SocketAddr,
    keys: Keys,
    connection: Option<Connection>,
    deadline: Duration,
}

impl Client {
    pub fn new(address: SocketAddr, keys: Keys) -> Self {
        Self {
            address,
            keys,
            connection: None,
            deadline: IO_DEADLINE,
        }
    }

    /// Waits at most `deadline` for each byte of an answer, instead of `IO_DEADLINE`.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Signs and sends, and reads the response. After an error the next request takes a new connection.
    pub fn send(&mut self, request: &Request) -> io::Result<Response> {
        let wire = request.sign(self.address, &self.keys);
        self.exchange(|connection| connection.call(&wire))
    }

    /// As `send`; panics on errors and on any status but 2xx.
    pub fn ok(&mut self, request: &Request) -> Response {
        let response = match self.send(request) {
            Ok(response) => response,
            Err(error) => panic!("{} {}: {error}", request.method, request.target),
        };
        assert!(
            response.is_success(),
            "{} {}: {response:?}",
            request.method,
            request.target
        );
        response
    }

    pub fn create_bucket(&mut self, bucket: &str) {
        self.ok(&Request::put(&format!("/{bucket}")));
    }

    /// PUT of `content`, streamed, payload unsigned.
    pub fn put(&mut self, bucket: &str, key: &str, content: Content) -> io::Result<Response> {
        self.put_with(&format!("/{bucket}/{}", encode_key(key)), content, &[])
    }

    /// As `put`, for any target and with more headers.
    pub fn put_with(
        &mut self,
        target: &str,
        content: Content,
        headers: &[(&str, &str)],
    ) -> io::Result<Response> {
        let mut request = Request::put(target)
            .header("content-length", &content.len.to_string())
            .unsigned();
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let wire = request.sign(self.address, &self.keys);
        self.exchange(|connection| {
            connection.write(&wire.head())?;
            match write_content(connection, content) {
                // A server that refuses answers before it has read all: the answer is what counts.
                Err(error) if is_hangup(&error) => {}
                other => other?,
            }
            connection.read_response("PUT")
        })
    }

    /// GET of a whole object, compared with `content` as it comes. Panics at the first byte that is not `content`'s:
    /// wrong data is never excused.
    pub fn get(&mut self, bucket: &str, key: &str, content: Content) -> io::Result<Fetched> {
        self.get_any(bucket, key, &[content])
            .map(|(fetched, _)| fetched)
    }

    /// As `get`; the body must be one of `candidates`, and which one it was is returned.
    pub fn get_any(
        &mut self,
        bucket: &str,
        key: &str,
        candidates: &[Content],
    ) -> io::Result<(Fetched, usize)> {
        let target = format!("/{bucket}/{}", encode_key(key));
        let wire = Request::get(&target).sign(self.address, &self.keys);
        let mut broken = None;
        let mut fits: Vec<(usize, Option<u64>)> =
            (0..candidates.len()).map(|index| (index, None)).collect();
        let response = self.exchange(|connection| {
            connection.send(&wire)?;
            let head = connection.read_head()?;
            let mut response = Response { status: head.status, headers: head.headers.clone(), body: Vec::new() };
            let framing = Connection::framing(&head, "GET")?;
            let read = if response.is_success() {
                connection.read_body(framing, |offset, piece| {
                    for (index, wrong) in &mut fits {
                        *wrong = wrong.or_else(|| candidates[*index].mismatch(offset, piece));
                    }
                    assert!(
                        fits.iter().any(|(_, wrong)| wrong.is_none()),
                        "wrong data in {target} at {fits:?}, expected one of {candidates:?}, got {:?} ...",
                        &piece[..piece.len().min(32)]
                    );
                })
            } else {
                connection.read_body(framing, |_, piece| response.body.extend_from_slice(piece))
            };
            match read {
                Ok(len) => Ok((response, len)),
                Err(error) if head.status == 200 => {
                    broken = Some(error);
                    Err(io::Error::from(io::ErrorKind::UnexpectedEof))
                }
                Err(error) => Err(error),
            }
        });
        if let Some(error) = broken {
            return Ok((Fetched::BrokenOff(error), usize::MAX));
        }
        let (response, len) = response?;
        if !response.is_success() {
            return Ok((Fetched::Refused(response), usize::MAX));
        }
        let found = fits
            .iter()
            .find(|(index, wrong)| wrong.is_none() && candidates[*index].len == len);
        match found {
            Some((index, _)) => Ok((Fetched::Whole(response), *index)),
            None => panic!(
                "wrong length of {target}: {len}, expected one of {candidates:?}: {response:?}"
            ),
        }
    }

    /// GET that must give all of `content`.
    pub fn get_whole(&mut self, bucket: &str, key: &str, content: Content) {
        match self.get(bucket, key, content) {
            Ok(Fetched::Whole(_)) => {}
            other => panic!("GET /{bucket}/{key} of {content:?}: {other:?}"),
        }
    }

    pub fn delete(&mut self, bucket: &str, key: &str) -> io::Result<Response> {
        self.send(&Request::delete(&format!("/{bucket}/{}", encode_key(key))))
    }

    /// A multipart upload with these parts, each a `Content`.
    pub fn multipart(
        &mut self,
        bucket: &str,
        key: &str,
        parts: &[Content],
    ) -> io::Result<Response> {
        let target = format!("/{bucket}/{}", encode_key(key));
        let created = self.send(&Request::post(&format!("{target}?uploads")))?;
        if !created.is_success() {
            return Ok(created);
        }
        let upload = created.element("UploadId").expect("an upload has an id");
        let mut xml = String::from("<CompleteMultipartUpload>");
        for (index, part) in parts.iter().enumerate() {
            let number = index + 1;
            let part_target = format!(
                "{target}?partNumber={number}&uploadId={}",
                encode_query(&upload)
            );
            let response = self.put_with(&part_target, *part, &[])?;
            if !response.is_success() {
                return Ok(response);
            }
            let etag = response.get("etag").expect("a part has an ETag").to_owned();
            xml.push_str(&format!(
                "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
            ));
        }
        xml.push_str("</CompleteMultipartUpload>");
        self.send(&Request::post(&format!("{target}?uploadId={}", encode_query(&upload))).body(xml))
    }

    /// Keys under `prefix`, in the order of the listing, all pages.
    pub fn list(&mut self, bucket: &str, prefix: &str) -> Vec<String> {
        let mut keys = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let mut target = format!("/{bucket}?list-type=2&prefix={}", encode_query(prefix));
            if let Some(token) = &token {
                target.push_str(&format!("&continuation-token={}", encode_query(token)));
            }
            let response = self.ok(&Request::get(&target));
            keys.extend(response.elements("Key"));
            token = response.element("NextContinuationToken");
            if response.element("IsTruncated").as_deref() != Some("true") {
                return keys;
            }
            assert!(
                token.is_some(),
                "a truncated page without a token: {response:?}"
            );
        }
    }

    /// Repeats `operation` until it succeeds, as SDKs do after hang-ups and 5xx; panics after `within`.
    pub fn persist(
        &mut self,
        what: &str,
        within: Duration,
        mut operation: impl FnMut(&mut Self) -> io::Result<Response>,
    ) -> Response {
        let deadline = Instant::now() + within;
        loop {
            let last = match operation(self) {
                Ok(response) if response.status < 500 => return response,
                Ok(response) => format!("{response:?}"),
                Err(error) => error.to_string(),
            };
            assert!(
                Instant::now() < deadline,
                "{what} did not succeed within {within:?}; last: {last}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn exchange<T>(
        &mut self,
        talk: impl FnOnce(&mut Connection) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open_with(self.address, self.deadline)?,
        };
        let answer = talk(&mut connection)?;
        if !connection.is_closing() {
            self.connection = Some(connection);
        }
        Ok(answer)
    }
}

/// Streams `content` to the server.
pub fn write_content(connection: &mut Connection, content: Content) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut offset = 0;
    while offset < content.len {
        let take = (content.len - offset).min(PIECE as u64) as usize;
        content.fill(offset, &mut buffer[..take]);
        connection.write(&buffer[..take])?;
        offset += take as u64;
    }
    Ok(())
}

/// A multipart object's content as one reads it: parts one after the other.
pub fn joined(parts: &[Content]) -> Vec<u8> {
    parts.iter().flat_map(|part| part.bytes()).collect()
}
