//! Requests: built, signed by `aws-sigv4`, and then open to be bent before they go on the wire.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation,
    SigningSettings, UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};

/// The region that is signed for.
pub const REGION: &str = "us-east-1";

/// All but the unreserved characters (SigV4, "UriEncode").
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// The same, `/` left alone.
const ENCODED_PATH: &AsciiSet = &ENCODED.remove(b'/');

/// Percent-encodes a key for a path.
pub fn encode_key(key: &str) -> String {
    utf8_percent_encode(key, ENCODED_PATH).to_string()
}

/// Percent-encodes a name or value of a query.
pub fn encode_query(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// An access key and its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    pub access: String,
    pub secret: String,
}

impl Keys {
    /// What the tests give to their servers.
    pub fn for_tests() -> Self {
        Self {
            access: "HOLDFASTTESTKEY00001".to_owned(),
            secret: "a-secret/for+the=tests-of-holdfast-0001".to_owned(),
        }
    }
}

/// How the payload is declared in `x-amz-content-sha256`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Declared {
    /// By its SHA-256.
    Hash,
    /// `UNSIGNED-PAYLOAD`.
    Unsigned,
    /// This text.
    Text(String),
}

/// A request to be signed.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Path and query, encoded.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub declared: Declared,
    /// When it claims to be made.
    pub time: Option<SystemTime>,
    pub region: String,
    pub service: String,
    /// What the signer takes as the host, and the `Host` header.
    pub host: Option<String>,
}

impl Request {
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            declared: Declared::Hash,
            time: None,
            region: REGION.to_owned(),
            service: "s3".to_owned(),
            host: None,
        }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn put(target: &str) -> Self {
        Self::new("PUT", target)
    }

    pub fn post(target: &str) -> Self {
        Self::new("POST", target)
    }

    pub fn delete(target: &str) -> Self {
        Self::new("DELETE", target)
    }

    pub fn head(target: &str) -> Self {
        Self::new("HEAD", target)
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn declared(mut self, declared: Declared) -> Self {
        self.declared = declared;
        self
    }

    pub fn unsigned(self) -> Self {
        self.declared(Declared::Unsigned)
    }

    /// `seconds` after now; before, if negative.
    pub fn at(mut self, seconds: i64) -> Self {
        let offset = Duration::from_secs(seconds.unsigned_abs());
        let now = SystemTime::now();
        self.time = Some(if seconds < 0 {
            now - offset
        } else {
            now + offset
        });
        self
    }

    pub fn region(mut self, region: &str) -> Self {
        self.region = region.to_owned();
        self
    }

    pub fn service(mut self, service: &str) -> Self {
        self.service = service.to_owned();
        self
    }

    pub fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    fn settings(location: SignatureLocation, expires: Option<Duration>) -> SigningSettings {
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.signature_location = location;
        settings.expires_in = expires;
        settings
    }

    fn signable_body(&self) -> SignableBody<'static> {
        match &self.declared {
            Declared::Hash => SignableBody::Precomputed(hex::encode(Sha256::digest(&self.body))),
            Declared::Unsigned => SignableBody::UnsignedPayload,
            Declared::Text(text) => SignableBody::Precomputed(text.clone()),
        }
    }

    /// Signs in the `Authorization` header. The headers are those of the request, `host`, `content-length` (also
    /// for an empty body of PUT and POST) and what the signer adds.
    pub fn sign(&self, address: SocketAddr, keys: &Keys) -> Wire {
        let host = self.host.clone().unwrap_or_else(|| address.to_string());
        let time = self.time.unwrap_or_else(SystemTime::now);
        let identity = Credentials::new(&keys.access, &keys.secret, None, None, "test").into();
        let params = SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(&self.service)
            .time(time)
            .settings(Self::settings(SignatureLocation::Headers, None))
            .build()
            .expect("all parameters are there")
            .into();
        let mut headers = vec![("host".to_owned(), host.clone())];
        headers.extend(self.headers.iter().cloned());
        let signable = SignableRequest::new(
            &self.method,
            format!("http://{host}{}", self.target),
            headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
            self.signable_body(),
        )
        .expect("a request that can be signed");
        let (instructions, signature) = sign(signable, &params).expect("sign").into_parts();
        headers.extend(
            instructions
                .headers()
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let sized = !self.body.is_empty() || self.method == "PUT" || self.method == "POST";
        if sized
            && !headers
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        {
            headers.push(("content-length".to_owned(), self.body.len().to_string()));
        }
        Wire {
            line: format!("{} {} HTTP/1.1", self.method, self.target),
            method: self.method.clone(),
            headers,
            body: self.body.clone(),
            signature,
            time,
        }
    }

    /// Signs in the query, valid for `expires`. Only `host` and the request's own headers are signed.
    pub fn presign(&self, address: SocketAddr, keys: &Keys, expires: Duration) -> Wire {
        let host = self.host.clone().unwrap_or_else(|| address.to_string());
        let time = self.time.unwrap_or_else(SystemTime::now);
        let identity = Credentials::new(&keys.access, &keys.secret, None, None, "test").into();
        let mut settings = Self::settings(SignatureLocation::QueryParams, Some(expires));
        settings.payload_checksum_kind = PayloadChecksumKind::NoHeader;
        let params = SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(&self.service)
            .time(time)
            .settings(settings)
            .build()
            .expect("all parameters are there")
            .into();
        let mut headers = vec![("host".to_owned(), host.clone())];
        headers.extend(self.headers.iter().cloned());
        let signable = SignableRequest::new(
            &self.method,
            format!("http://{host}{}", self.target),
            headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
            SignableBody::UnsignedPayload,
        )
        .expect("a request that can be signed");
        let (instructions, signature) = sign(signable, &params).expect("sign").into_parts();
        let mut target = self.target.clone();
        for (name, value) in instructions.params() {
            target.push(if target.contains('?') { '&' } else { '?' });
            target.push_str(name);
            target.push('=');
            target.push_str(&encode_query(value));
        }
        let sized = !self.body.is_empty() || self.method == "PUT" || self.method == "POST";
        if sized
            && !headers
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        {
            headers.push(("content-length".to_owned(), self.body.len().to_string()));
        }
        Wire {
            line: format!("{} {} HTTP/1.1", self.method, target),
            method: self.method.clone(),
            headers,
            body: self.body.clone(),
            signature,
            time,
        }
    }
}

/// A request as it goes over the wire. Everything can be changed after it was signed.
#[derive(Clone, Debug)]
pub struct Wire {
    /// Method, target and version.
    pub line: String,
    pub method: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The signature in it, in hex: the seed of a chunked body's signatures.
    pub signature: String,
    /// What it was signed for.
    pub time: SystemTime,
}

impl Wire {
    /// Value of the first header called `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Replaces the header called `name`, or adds it.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        match self
            .headers
            .iter_mut()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
        {
            Some((_, old)) => *old = value.to_owned(),
            None => self.headers.push((name.to_owned(), value.to_owned())),
        }
        self
    }

    /// Adds a header, also when there is one of that name.
    pub fn add(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Takes the header called `name` out.
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self
    }

    /// Changes the value of the header called `name`, which is there.
    pub fn edit(mut self, name: &str, change: impl FnOnce(&str) -> String) -> Self {
        let header = self
            .headers
            .iter_mut()
            .find(|(n, _)| n.eq_ignore_ascii_case(name));
        let (_, value) = header.unwrap_or_else(|| panic!("no header {name}"));
        let new = change(value);
        assert_ne!(&new, value, "the header {name} was meant to change");
        *value = new;
        self
    }

    /// Changes the request line.
    pub fn line(mut self, change: impl FnOnce(&str) -> String) -> Self {
        let new = change(&self.line);
        assert_ne!(new, self.line, "the request line was meant to change");
        self.line = new;
        self
    }

    /// Replaces the body and leaves the headers as they are.
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Request line and headers with the empty line that ends them.
    pub fn head(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1024);
        bytes.extend_from_slice(self.line.as_bytes());
        bytes.extend_from_slice(b"\r\n");
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }

    /// Head and body.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{Keys, Request, encode_key, encode_query};

    #[test]
    fn a_signed_request_has_all_that_s3_asks_for() {
        let address = "127.0.0.1:9000".parse().expect("address");
        let wire = Request::put("/bucket/key")
            .header("x-amz-meta-a", "b")
            .body("hello")
            .sign(address, &Keys::for_tests());
        let authorization = wire.get("authorization").expect("signed");
        assert!(
            authorization.starts_with("AWS4-HMAC-SHA256 Credential=HOLDFASTTESTKEY00001/"),
            "{authorization}"
        );
        assert!(
            authorization
                .contains("SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-meta-a"),
            "{authorization}"
        );
        assert!(authorization.contains(&wire.signature));
        assert_eq!(wire.get("content-length"), Some("5"));
        assert_eq!(wire.get("x-amz-content-sha256").map(str::len), Some(64));
        let text = String::from_utf8(wire.bytes()).expect("text");
        assert!(
            text.starts_with("PUT /bucket/key HTTP/1.1\r\nhost: 127.0.0.1:9000\r\n"),
            "{text}"
        );
        assert!(text.ends_with("\r\n\r\nhello"), "{text}");
    }

    #[test]
    fn a_presigned_request_carries_its_signature_in_the_query() {
        let address = "127.0.0.1:9000".parse().expect("address");
        let expires = std::time::Duration::from_secs(60);
        let wire = Request::get("/b/k?partNumber=1").presign(address, &Keys::for_tests(), expires);
        assert!(
            wire.line
                .contains("?partNumber=1&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential="),
            "{}",
            wire.line
        );
        assert!(wire.line.contains("&X-Amz-Expires=60&"), "{}", wire.line);
        assert!(
            wire.line
                .contains(&format!("&X-Amz-Signature={}", wire.signature)),
            "{}",
            wire.line
        );
        assert_eq!(wire.get("authorization"), None);
    }

    #[test]
    fn keys_are_encoded_as_the_signer_expects() {
        assert_eq!(encode_key("a b/ä+%~"), "a%20b/%C3%A4%2B%25~");
        assert_eq!(encode_query("a/b"), "a%2Fb");
    }
}
