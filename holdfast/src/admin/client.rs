//! Signed requests to a node, each over a connection of its own.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use aws_sigv4::http_request::{
    PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use holdfast_placement::seams::{Clock, SystemClock};

use super::AdminError;
use crate::credentials::RootCredentials;

/// What requests are signed for first.
const USUAL_REGION: &str = "us-east-1";

/// How long is waited for a connection, and for more of an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The body of the answer to a GET.
pub(super) fn get(
    endpoint: &str,
    path: &str,
    root: &RootCredentials,
) -> Result<Vec<u8>, AdminError> {
    request("GET", endpoint, path, b"", root)
}

/// The body of the answer to a POST.
pub(super) fn post(
    endpoint: &str,
    path: &str,
    body: &[u8],
    root: &RootCredentials,
) -> Result<Vec<u8>, AdminError> {
    request("POST", endpoint, path, body, root)
}

/// The body of the answer to a request of any method.
pub(super) fn request(
    method: &str,
    endpoint: &str,
    path: &str,
    body: &[u8],
    root: &RootCredentials,
) -> Result<Vec<u8>, AdminError> {
    request_within(PATIENCE, method, endpoint, path, body, root)
}

/// The same of a request whose answer may take so long.
pub(super) fn request_within(
    patience: Duration,
    method: &str,
    endpoint: &str,
    path: &str,
    body: &[u8],
    root: &RootCredentials,
) -> Result<Vec<u8>, AdminError> {
    let host = endpoint
        .strip_prefix("http://")
        .map(|rest| rest.trim_end_matches('/'))
        .filter(|host| !host.is_empty() && !host.contains('/'))
        .ok_or_else(|| AdminError::Endpoint(endpoint.to_owned()))?;
    let ask = |region: &str| {
        let mut request = signed(method, host, path, body, region, root)?.into_bytes();
        request.extend_from_slice(body);
        let failed = |error| AdminError::Silent(endpoint.to_owned(), error);
        answer(&exchange(host, &request, patience).map_err(failed)?)
            .ok_or_else(|| AdminError::Refused(endpoint.to_owned(), "nothing sensible".to_owned()))
    };
    let (mut status, mut answer) = ask(USUAL_REGION)?;
    // A cluster elsewhere says which region to sign for.
    if let Some(region) = right_region(&status, &String::from_utf8_lossy(&answer)) {
        (status, answer) = ask(&region)?;
    }
    if status != "200" {
        let reason = format!("{status}: {}", reason(&String::from_utf8_lossy(&answer)));
        return Err(AdminError::Refused(endpoint.to_owned(), reason));
    }
    Ok(answer)
}

/// Status and body of an answer.
fn answer(bytes: &[u8]) -> Option<(String, Vec<u8>)> {
    let split = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..split]);
    let status = head.split(' ').nth(1).unwrap_or("").to_owned();
    Some((status, bytes[split + 4..].to_vec()))
}

/// The region that a refusal names as the right one.
fn right_region(status: &str, body: &str) -> Option<String> {
    let is_wrong = status == "400" && part(body, "Code") == Some("AuthorizationHeaderMalformed");
    part(body, "Region").filter(|_| is_wrong).map(str::to_owned)
}

/// What an element of an error says.
fn part<'a>(body: &'a str, tag: &str) -> Option<&'a str> {
    let begin = body.split_once(&format!("<{tag}>"))?.1;
    Some(begin.split_once(&format!("</{tag}>"))?.0)
}

/// What an error says: its message, and for keys what to look at.
fn reason(body: &str) -> String {
    let (Some(code), Some(message)) = (part(body, "Code"), part(body, "Message")) else {
        return body.to_owned();
    };
    let plain = ["&lt;<", "&gt;>", "&quot;\"", "&apos;'", "&amp;&"];
    let message = plain.iter().fold(message.to_owned(), |text, pair| {
        let (entity, character) = pair.split_at(pair.len() - 1);
        text.replace(entity, character)
    });
    let advice = match code {
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" => {
            " Give the node's --data directory, or its root key in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        }
        _ => "",
    };
    format!("{code}: {message}{advice}")
}

fn exchange(host: &str, request: &[u8], patience: Duration) -> io::Result<Vec<u8>> {
    let mut stream = connect(host)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(patience))?;
    let mut answer = Vec::new();
    stream
        .write_all(request)
        .and_then(|()| stream.read_to_end(&mut answer))
        .map_err(|error| in_words(error, patience))?;
    Ok(answer)
}

/// A connection to the first of the host's addresses that takes one.
fn connect(host: &str) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "this name has no address");
    for address in host.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = in_words(error, PATIENCE),
        }
    }
    Err(failed)
}

/// The system calls the end of our patience "Resource temporarily unavailable".
fn in_words(error: io::Error, patience: Duration) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => io::Error::new(
            io::ErrorKind::TimedOut,
            format!("nothing came within {} s", patience.as_secs_f64()),
        ),
        _ => error,
    }
}

fn signed(
    method: &str,
    host: &str,
    path: &str,
    body: &[u8],
    region: &str,
    root: &RootCredentials,
) -> Result<String, AdminError> {
    let failed = |error: &dyn std::fmt::Display| AdminError::Signing(error.to_string());
    let identity = aws_credential_types::Credentials::new(
        &root.access_key,
        &root.secret_key,
        None,
        None,
        "holdfast",
    )
    .into();
    let mut settings = SigningSettings::default();
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    let now = std::time::UNIX_EPOCH + Duration::from_millis(SystemClock.wall().0);
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("s3")
        .time(now)
        .settings(settings)
        .build()
        .map_err(|error| failed(&error))?
        .into();
    let url = format!("http://{host}{path}");
    let headers = [("host", host)];
    let signable =
        SignableRequest::new(method, &url, headers.into_iter(), SignableBody::Bytes(body))
            .map_err(|error| failed(&error))?;
    let (instructions, _) = sign(signable, &params)
        .map_err(|error| failed(&error))?
        .into_parts();
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\nconnection: close\r\n",
        body.len()
    );
    for (name, value) in instructions.headers() {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    Ok(request)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::TcpListener;
    use std::time::Duration;

    use super::{exchange, in_words};

    #[test]
    fn the_end_of_patience_is_said_in_words() {
        // Connections wait for somebody to take them, and nobody does.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let failed = exchange(&host, b"GET / HTTP/1.1\r\n\r\n", Duration::from_millis(50));
        assert_eq!(
            failed.unwrap_err().to_string(),
            "nothing came within 0.05 s"
        );
        let unreachable = in_words(
            io::Error::from(io::ErrorKind::TimedOut),
            Duration::from_secs(10),
        );
        assert_eq!(unreachable.to_string(), "nothing came within 10 s");
    }

    #[test]
    fn other_failures_are_said_as_they_are() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        drop(listener);
        let refused = exchange(&host, b"", Duration::from_secs(1)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
