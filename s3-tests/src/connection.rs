//! One HTTP/1.1 connection over which any bytes can be sent.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use crate::request::Wire;

/// How long to wait for a byte before a test fails.
pub const IO_DEADLINE: Duration = Duration::from_secs(120);

/// A connection to the server.
pub struct Connection {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
    /// Whether the server said that it closes after the last response.
    closing: bool,
    /// How long to wait for a byte.
    deadline: Duration,
}

impl Connection {
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        Self::open_with(address, IO_DEADLINE)
    }

    /// As `open`, for one who waits at most `deadline` for the connection and for each byte.
    pub fn open_with(address: SocketAddr, deadline: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, deadline.min(Duration::from_secs(10)))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(deadline))?;
        stream.set_write_timeout(Some(deadline))?;
        let reader = BufReader::with_capacity(128 * 1024, stream.try_clone()?);
        Ok(Self {
            stream,
            reader,
            closing: false,
            deadline,
        })
    }

    /// Whether the last response said that no other follows on this connection.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends as much as goes within `limit`; an error if the other side hung up or takes no more.
    pub fn send_within(&mut self, bytes: &[u8], limit: Duration) -> io::Result<()> {
        self.stream.set_write_timeout(Some(limit))?;
        let sent = self.stream.write_all(bytes);
        self.stream.set_write_timeout(Some(self.deadline))?;
        sent
    }

    /// A response to `method` if one begins within `limit`.
    pub fn response_within(&mut self, limit: Duration, method: &str) -> Option<Response> {
        self.stream.set_read_timeout(Some(limit)).ok()?;
        let begun = matches!(self.reader.fill_buf(), Ok(bytes) if !bytes.is_empty());
        self.stream.set_read_timeout(Some(self.deadline)).ok()?;
        if begun {
            self.read_response(method).ok()
        } else {
            None
        }
    }

    /// No more will be sent; the response can still be read.
    pub fn finish_sending(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Sends head and body. A server may answer and close before it has read a body that it refuses, so an error
    /// while the body is sent is not one as long as a response can be read.
    pub fn send(&mut self, wire: &Wire) -> io::Result<()> {
        self.write(&wire.head())?;
        if !wire.body.is_empty() {
            match self.write(&wire.body) {
                Err(error) if is_hangup(&error) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Sends, and reads the response.
    pub fn call(&mut self, wire: &Wire) -> io::Result<Response> {
        self.send(wire)?;
        self.read_response(&wire.method)
    }

    /// Reads status line and headers; skips `100 Continue`.
    pub fn read_head(&mut self) -> io::Result<Head> {
        loop {
            let head = self.read_any_head()?;
            if head.status != 100 {
                return Ok(head);
            }
        }
    }

    /// Reads status line and headers, also of an interim response.
    pub fn read_any_head(&mut self) -> io::Result<Head> {
        let line = self.read_line()?;
        let mut words = line.splitn(3, ' ');
        let version = words.next().unwrap_or_default();
        if !version.starts_with("HTTP/1.") {
            return Err(wrong(format!("not a status line: {line:?}")));
        }
        let status = words
            .next()
            .and_then(|s| s.parse().ok())
            .ok_or_else(|| wrong(format!("no status: {line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.read_line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| wrong(format!("not a header: {line:?}")))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let head = Head { status, headers };
        if head
            .get("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
            || version == "HTTP/1.0"
        {
            self.closing = true;
        }
        Ok(head)
    }

    /// How the body of a response to `method` with this head is framed.
    pub fn framing(head: &Head, method: &str) -> io::Result<Framing> {
        if method == "HEAD" || head.status == 204 || head.status == 304 || head.status < 200 {
            return Ok(Framing::Length(0));
        }
        if head
            .get("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
        {
            return Ok(Framing::Chunked);
        }
        match head.get("content-length") {
            Some(text) => text
                .parse()
                .map(Framing::Length)
                .map_err(|_| wrong(format!("content-length: {text:?}"))),
            None => Ok(Framing::UntilClose),
        }
    }

    /// Reads a body and gives it to `sink` with the offset of each piece. Returns its length.
    pub fn read_body(
        &mut self,
        framing: Framing,
        mut sink: impl FnMut(u64, &[u8]),
    ) -> io::Result<u64> {
        let mut offset = 0;
        match framing {
            Framing::Length(len) => self.read_exactly(len, &mut offset, &mut sink)?,
            Framing::Chunked => loop {
                let line = self.read_line()?;
                let size = line.split(';').next().unwrap_or_default().trim();
                let size = u64::from_str_radix(size, 16)
                    .map_err(|_| wrong(format!("chunk size: {line:?}")))?;
                if size == 0 {
                    while !self.read_line()?.is_empty() {}
                    break;
                }
                self.read_exactly(size, &mut offset, &mut sink)?;
                if !self.read_line()?.is_empty() {
                    return Err(wrong("no CRLF after a chunk".to_owned()));
                }
            },
            Framing::UntilClose => {
                self.closing = true;
                loop {
                    let piece = self.reader.fill_buf()?;
                    if piece.is_empty() {
                        break;
                    }
                    let len = piece.len();
                    sink(offset, piece);
                    offset += len as u64;
                    self.reader.consume(len);
                }
            }
        }
        Ok(offset)
    }

    /// Reads a whole response to `method`.
    pub fn read_response(&mut self, method: &str) -> io::Result<Response> {
        let head = self.read_head()?;
        let mut body = Vec::new();
        self.read_body(Self::framing(&head, method)?, |_, piece| {
            body.extend_from_slice(piece)
        })?;
        Ok(Response {
            status: head.status,
            headers: head.headers,
            body,
        })
    }

    /// Reads until the server closes; what came.
    pub fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match self.reader.read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) if is_hangup(&error) => Ok(bytes),
            Err(error) => Err(error),
        }
    }

    fn read_exactly(
        &mut self,
        len: u64,
        offset: &mut u64,
        sink: &mut impl FnMut(u64, &[u8]),
    ) -> io::Result<()> {
        let mut left = len;
        while left > 0 {
            let piece = self.reader.fill_buf()?;
            if piece.is_empty() {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("{left} bytes of a body are missing"),
                ));
            }
            let take = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            sink(*offset, &piece[..take]);
            self.reader.consume(take);
            *offset += take as u64;
            left -= take as u64;
        }
        Ok(())
    }

    fn read_line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        (&mut self.reader)
            .take(64 * 1024)
            .read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\r\n") {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!(
                    "the connection ended in a line: {:?}",
                    String::from_utf8_lossy(&line)
                ),
            ));
        }
        line.truncate(line.len() - 2);
        String::from_utf8(line).map_err(|error| wrong(error.to_string()))
    }
}

/// Whether the other side is gone.
pub fn is_hangup(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::NotConnected
    )
}

fn wrong(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// Status and headers, names in lower case.
#[derive(Clone, Debug)]
pub struct Head {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

impl Head {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A whole response.
#[derive(Clone)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// Value of the first header called `name`, which is in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Text of the first element called `name` in the XML of the body.
    pub fn element(&self, name: &str) -> Option<String> {
        let text = self.text();
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        let (value, _) = rest.split_once(&format!("</{name}>"))?;
        Some(unescape(value))
    }

    /// Texts of all elements called `name`, in order.
    pub fn elements(&self, name: &str) -> Vec<String> {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let text = self.text();
        let pieces = text.split(&open).skip(1);
        pieces
            .filter_map(|rest| rest.split_once(&close).map(|(value, _)| unescape(value)))
            .collect()
    }

    /// S3's error code.
    pub fn code(&self) -> Option<String> {
        self.element("Code")
    }
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?} ", self.status, self.headers)?;
        if self.body.len() <= 2000 {
            write!(f, "{:?}", String::from_utf8_lossy(&self.body))
        } else {
            write!(f, "[{} bytes]", self.body.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::Connection;

    /// What a client reads from a server that sends `bytes` and closes.
    fn reading(bytes: &'static [u8], check: impl FnOnce(&mut Connection)) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("address");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            stream.write_all(bytes).expect("write");
        });
        check(&mut Connection::open(address).expect("connect"));
        server.join().expect("server");
    }

    #[test]
    fn responses_of_every_framing_are_read_one_after_the_other() {
        let bytes = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc\
            HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n<Code\r\n7;x\r\n>A</Cod\r\n2\r\ne>\r\n0\r\n\r\n\
            HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nconnection: close\r\n\r\nrest";
        reading(bytes, |connection| {
            assert_eq!(connection.read_response("GET").expect("first").body, b"abc");
            assert_eq!(
                connection
                    .read_response("GET")
                    .expect("second")
                    .code()
                    .as_deref(),
                Some("A")
            );
            assert_eq!(connection.read_response("GET").expect("third").status, 204);
            assert!(!connection.is_closing());
            assert_eq!(
                connection.read_response("GET").expect("fourth").body,
                b"rest"
            );
            assert!(connection.is_closing());
        });
    }

    #[test]
    fn a_body_that_ends_early_is_an_error() {
        reading(
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
            |connection| {
                let error = connection.read_response("GET").expect_err("too short");
                assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
            },
        );
    }
}
