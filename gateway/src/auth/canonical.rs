//! The canonical request: what a signature covers (API reference, "Signature Calculations for the
//! Authorization Header", task 1). S3 encodes the path once and does not normalise it.

use std::cell::OnceCell;
use std::cmp::Ordering;

use http::HeaderMap;
use http::request::Parts;

use crate::ops::counts_as_header;
use crate::router::Query;

/// How the path is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathForm {
    /// Decoded, and everything but unreserved characters and `/` encoded again.
    Encoded,
    /// As it was sent, for clients that sign just that.
    AsSent,
}

/// Not covered by the signature of a presigned request, as it holds it.
const SIGNATURE_PARAMETER: &str = "X-Amz-Signature";

/// The canonical request, or the name of a header that is said to be signed but is not there.
pub fn request<'a>(
    parts: &Parts,
    path_form: PathForm,
    signed_headers: &'a str,
    payload_hash: &str,
) -> Result<Vec<u8>, &'a str> {
    let path = parts.uri.path();
    let query = parts.uri.query().unwrap_or("");
    let mut out = Vec::with_capacity(
        // Encoding can triple path and query; they are rarely long enough to care.
        256 + path.len() + query.len() + 64 * (1 + signed_headers.len() / 8),
    );
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.push(b'\n');
    match path_form {
        PathForm::Encoded => write_path(&mut out, path.as_bytes()),
        PathForm::AsSent => out.extend_from_slice(path.as_bytes()),
    }
    out.push(b'\n');
    write_query(&mut out, query);
    out.push(b'\n');
    let query = OnceCell::new();
    for name in signed_headers.split(';') {
        write_header(&mut out, parts, name, &query)?;
    }
    out.push(b'\n');
    out.extend_from_slice(signed_headers.as_bytes());
    out.push(b'\n');
    out.extend_from_slice(payload_hash.as_bytes());
    Ok(out)
}

/// Whether the two forms of the path differ.
pub fn has_two_path_forms(parts: &Parts) -> bool {
    let path = parts.uri.path();
    let mut encoded = Vec::with_capacity(path.len());
    write_path(&mut encoded, path.as_bytes());
    encoded != path.as_bytes()
}

const fn unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Unreserved characters.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        plain[byte] = unreserved(byte as u8);
        byte += 1;
    }
    plain
};

fn write_encoded(out: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    if PLAIN[usize::from(byte)] {
        out.push(byte);
    } else {
        out.extend_from_slice(&[
            b'%',
            DIGITS[usize::from(byte >> 4)],
            DIGITS[usize::from(byte & 15)],
        ]);
    }
}

/// The byte that `text[at..]` begins with, decoded, and how long its encoding is. A `%` that begins no
/// encoding stands for itself.
fn decoded(text: &[u8], at: usize) -> (u8, usize) {
    if text[at] == b'%'
        && let Some([high, low]) = text.get(at + 1..at + 3)
        && let (Some(high), Some(low)) = (hex_digit(*high), hex_digit(*low))
    {
        return (high << 4 | low, 3);
    }
    (text[at], 1)
}

fn hex_digit(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

fn write_path(out: &mut Vec<u8>, path: &[u8]) {
    if path.is_empty() {
        out.push(b'/');
    }
    let mut at = 0;
    while at < path.len() {
        let (byte, len) = decoded(path, at);
        if byte == b'/' {
            out.push(b'/');
        } else {
            write_encoded(out, byte);
        }
        at += len;
    }
}

fn write_query_text(out: &mut Vec<u8>, text: &[u8]) {
    let mut at = 0;
    while at < text.len() {
        match decoded(text, at) {
            // In a query a `+` is a space; a plus comes as `%2B`.
            (b'+', 1) => {
                out.extend_from_slice(b"%20");
                at += 1;
            }
            (byte, len) => {
                write_encoded(out, byte);
                at += len;
            }
        }
    }
}

/// Where a parameter lies in the scratch space.
struct Parameter {
    from: usize,
    value: usize,
    to: usize,
}

impl Parameter {
    fn compare(&self, other: &Self, text: &[u8]) -> Ordering {
        text[self.from..self.value]
            .cmp(&text[other.from..other.value])
            .then_with(|| text[self.value..self.to].cmp(&text[other.value..other.to]))
    }
}

/// Parameters encoded, then sorted by name and value.
fn write_query(out: &mut Vec<u8>, query: &str) {
    if query.is_empty() {
        return;
    }
    let mut text = Vec::with_capacity(query.len() + 32);
    let mut parameters = Vec::with_capacity(8);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name.eq_ignore_ascii_case(SIGNATURE_PARAMETER) {
            continue;
        }
        let from = text.len();
        write_query_text(&mut text, name.as_bytes());
        let value_at = text.len();
        write_query_text(&mut text, value.as_bytes());
        parameters.push(Parameter {
            from,
            value: value_at,
            to: text.len(),
        });
    }
    parameters.sort_by(|a, b| a.compare(b, &text));
    for (index, parameter) in parameters.iter().enumerate() {
        if index > 0 {
            out.push(b'&');
        }
        out.extend_from_slice(&text[parameter.from..parameter.value]);
        out.push(b'=');
        out.extend_from_slice(&text[parameter.value..parameter.to]);
    }
}

/// `name:value\n`: all values of that name joined by commas, trimmed, runs of blanks as one space.
fn write_header<'a>(
    out: &mut Vec<u8>,
    parts: &Parts,
    name: &'a str,
    query: &OnceCell<Query>,
) -> Result<(), &'a str> {
    out.extend_from_slice(name.as_bytes());
    out.push(b':');
    let mut values = parts.headers.get_all(name).iter().peekable();
    if values.peek().is_none()
        && counts_as_header(name)
        && let Some(value) = in_query(parts, name, query)
    {
        // Some SDKs presign what would be a header: it counts as one where there is none, here and for the operation.
        write_folded(out, value.as_bytes().trim_ascii());
        out.push(b'\n');
        return Ok(());
    }
    if values.peek().is_none() {
        // HTTP/1.1 in absolute form and HTTP/2 carry the host in the URI.
        let authority = parts
            .uri
            .authority()
            .filter(|_| name == "host")
            .ok_or(name)?;
        out.extend_from_slice(authority.as_str().as_bytes());
    }
    for (index, value) in values.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_folded(out, value.as_bytes().trim_ascii());
    }
    out.push(b'\n');
    Ok(())
}

/// The value of a parameter of the query, whatever the case of its name. `query` is parsed when it is wanted first.
fn in_query<'q>(parts: &Parts, name: &str, query: &'q OnceCell<Query>) -> Option<&'q str> {
    let query = query.get_or_init(|| Query::parse(parts.uri.query()).unwrap_or_default());
    let mut pairs = query.iter();
    let (_, value) = pairs.find(|(own, _)| own.eq_ignore_ascii_case(name))?;
    Some(value)
}

fn write_folded(out: &mut Vec<u8>, value: &[u8]) {
    if memchr::memchr2(b' ', b'\t', value).is_none() {
        out.extend_from_slice(value);
        return;
    }
    let mut blank = false;
    for byte in value {
        let is_blank = matches!(byte, b' ' | b'\t');
        match (is_blank, blank) {
            (false, _) => out.push(*byte),
            (true, false) => out.push(b' '),
            (true, true) => {}
        }
        blank = is_blank;
    }
}

/// The headers that must be signed but are not: `host` and `x-amz-*`, separated by `, `.
///
/// `x-amz-content-sha256` may be missing from the list: the canonical request ends with its value.
pub fn not_signed(headers: &HeaderMap, signed_headers: &str) -> Option<String> {
    let signed = |name: &str| signed_headers.split(';').any(|signed| signed == name);
    let mut missing = String::new();
    let mut add = |name: &str| {
        if !missing.is_empty() {
            missing.push_str(", ");
        }
        missing.push_str(name);
    };
    if !signed("host") {
        add("host");
    }
    for name in headers.keys().map(http::HeaderName::as_str) {
        if name.starts_with("x-amz-") && name != "x-amz-content-sha256" && !signed(name) {
            add(name);
        }
    }
    (!missing.is_empty()).then_some(missing)
}
