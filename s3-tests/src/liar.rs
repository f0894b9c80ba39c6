//! A gateway that keeps a few small objects in memory, speaks as much of S3 as the history test does, and now and then
//! lies: what the tests find wrong in it they would find in the real one.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use percent_encoding::percent_decode_str;

use crate::content::{Seed, md5_hex};

/// What it does wrong, once in some three times that it could.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Nothing.
    None,
    /// GET, HEAD and LIST show what was there before the last write.
    StaleRead,
    /// A PUT is acknowledged and forgotten.
    LostWrite,
    /// A DELETE is acknowledged and forgotten.
    LostDelete,
    /// A condition is taken to hold when it does not.
    ConditionIgnored,
    /// A conditional PUT is done twice, and the second time is what is answered.
    DoneTwice,
}

struct Store {
    lie: Lie,
    seed: Seed,
    /// By path, with the one before.
    objects: BTreeMap<String, [Option<Vec<u8>>; 2]>,
}

/// Starts one; it ends with the process.
pub fn start(lie: Lie, seed: Seed) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("address");
    let store = Arc::new(Mutex::new(Store {
        lie,
        seed,
        objects: BTreeMap::new(),
    }));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let store = store.clone();
            std::thread::spawn(move || {
                let _ = talk(stream, &store);
            });
        }
    });
    address
}

/// Answers requests until the client hangs up.
fn talk(stream: TcpStream, store: &Mutex<Store>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
            lines.push(line.trim_end().to_owned());
        }
        let header = |name: &str| {
            lines.iter().find_map(|line| {
                let (found, value) = line.split_once(": ")?;
                found.eq_ignore_ascii_case(name).then(|| value.to_owned())
            })
        };
        let len = header("content-length").and_then(|len| len.parse().ok());
        let mut body = vec![0; len.unwrap_or(0)];
        reader.read_exact(&mut body)?;
        let mut words = lines[0].split(' ');
        let (method, target) = (
            words.next().unwrap_or_default().to_owned(),
            words.next().unwrap_or_default().to_owned(),
        );
        let condition = match (header("if-none-match"), header("if-match")) {
            (Some(_), _) => Condition::Absent,
            (_, Some(etag)) => Condition::Is(etag),
            _ => Condition::None,
        };
        let answer = store
            .lock()
            .expect("store")
            .answer(&method, &target, condition, body);
        writer.write_all(&answer)?;
    }
}

enum Condition {
    None,
    Absent,
    Is(String),
}

fn response(status: u16, etag: Option<&str>, body: &[u8], with_body: bool) -> Vec<u8> {
    let mut bytes =
        format!("HTTP/1.1 {status} -\r\ncontent-length: {}\r\n", body.len()).into_bytes();
    if let Some(etag) = etag {
        bytes.extend_from_slice(format!("etag: {etag}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    if with_body {
        bytes.extend_from_slice(body);
    }
    bytes
}

fn etag_of(body: &[u8]) -> String {
    format!("\"{}\"", md5_hex(body))
}

impl Store {
    fn lies(&mut self, lie: Lie) -> bool {
        self.lie == lie && self.seed.within(0..3) == 0
    }

    fn answer(
        &mut self,
        method: &str,
        target: &str,
        condition: Condition,
        body: Vec<u8>,
    ) -> Vec<u8> {
        match method {
            "PUT" => self.put(target, &condition, body),
            "DELETE" => {
                if !self.lies(Lie::LostDelete) {
                    self.set(target, None);
                }
                response(204, None, b"", false)
            }
            _ if target.contains("?list-type=2") => self.list(target),
            _ => match self.look(target) {
                Some(found) => response(200, Some(&etag_of(&found)), &found, method == "GET"),
                None => response(404, None, b"", false),
            },
        }
    }

    fn put(&mut self, target: &str, condition: &Condition, body: Vec<u8>) -> Vec<u8> {
        let is_conditional = !matches!(condition, Condition::None);
        let twice = is_conditional && self.lies(Lie::DoneTwice);
        let mut status = self.refusal(target, condition);
        if status.is_some() && self.lies(Lie::ConditionIgnored) {
            status = None;
        }
        if let Some(status) = status {
            return response(status, None, b"", false);
        }
        let etag = etag_of(&body);
        if !self.lies(Lie::LostWrite) {
            self.set(target, Some(body));
        }
        if twice && let Some(status) = self.refusal(target, condition) {
            return response(status, None, b"", false);
        }
        response(200, Some(&etag), b"", false)
    }

    /// The status of one whose condition does not hold.
    fn refusal(&self, target: &str, condition: &Condition) -> Option<u16> {
        let held = self.objects.get(target).and_then(|held| held[0].as_ref());
        match (condition, held) {
            (Condition::None, _) | (Condition::Absent, None) => None,
            (Condition::Absent, Some(_)) => Some(412),
            (Condition::Is(_), None) => Some(404),
            (Condition::Is(etag), Some(held)) => (*etag != etag_of(held)).then_some(412),
        }
    }

    fn set(&mut self, target: &str, body: Option<Vec<u8>>) {
        let held = self.objects.entry(target.to_owned()).or_default();
        held[1] = std::mem::replace(&mut held[0], body);
    }

    fn look(&mut self, target: &str) -> Option<Vec<u8>> {
        let before = usize::from(self.lies(Lie::StaleRead));
        self.objects.get(target)?[before].clone()
    }

    fn list(&mut self, target: &str) -> Vec<u8> {
        let (bucket, query) = target.split_once('?').unwrap_or_default();
        let prefix = query.rsplit_once("prefix=").unwrap_or_default().1;
        let prefix = percent_decode_str(prefix).decode_utf8_lossy();
        let start = format!("{bucket}/{prefix}");
        let paths: Vec<String> = self
            .objects
            .keys()
            .filter(|path| path.starts_with(&start))
            .cloned()
            .collect();
        let mut xml = String::new();
        for path in paths {
            if let Some(body) = self.look(&path) {
                let key = &path[bucket.len() + 1..];
                let etag = etag_of(&body);
                xml.push_str(&format!(
                    "<Contents><Key>{key}</Key><ETag>{etag}</ETag></Contents>"
                ));
            }
        }
        response(200, None, xml.as_bytes(), true)
    }
}
