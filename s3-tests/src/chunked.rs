//! `aws-chunked` bodies (S3 API reference, "Signature calculations for the authorization header: transferring
//! payload in multiple chunks", and "... including trailing headers"), built so that any byte can be wrong.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::request::{Declared, Keys, REGION, Request, Wire};

/// The three forms of a chunked payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `STREAMING-AWS4-HMAC-SHA256-PAYLOAD`
    Signed,
    /// `STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER`
    SignedTrailer,
    /// `STREAMING-UNSIGNED-PAYLOAD-TRAILER`
    UnsignedTrailer,
}

impl Form {
    pub fn declared(self) -> &'static str {
        match self {
            Form::Signed => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
            Form::SignedTrailer => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
            Form::UnsignedTrailer => "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        }
    }
}

/// A chunked PUT whose pieces can be bent before they are joined.
#[derive(Clone, Debug)]
pub struct ChunkedBody {
    /// Size line, data and CRLF of each chunk, the last of them empty and without its CRLF.
    pub chunks: Vec<Chunk>,
    /// Trailer lines without CRLF.
    pub trailers: Vec<String>,
}

/// One chunk.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Without CRLF.
    pub line: String,
    pub data: Vec<u8>,
    /// Follows the data.
    pub end: String,
}

impl ChunkedBody {
    /// As on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for chunk in &self.chunks {
            bytes.extend_from_slice(chunk.line.as_bytes());
            bytes.extend_from_slice(b"\r\n");
            bytes.extend_from_slice(&chunk.data);
            bytes.extend_from_slice(chunk.end.as_bytes());
        }
        for trailer in &self.trailers {
            bytes.extend_from_slice(trailer.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }
}

/// Signs a PUT of `data` in chunks of `chunk_size` bytes. `trailer` is a header name and value to be sent after it.
/// Returns the request with everything but its body and content-length, and the body.
pub fn put(
    target: &str,
    form: Form,
    data: &[u8],
    chunk_size: usize,
    trailer: Option<(&str, &str)>,
    address: std::net::SocketAddr,
    keys: &Keys,
) -> (Wire, ChunkedBody) {
    let mut request = Request::put(target)
        .header("content-encoding", "aws-chunked")
        .header("x-amz-decoded-content-length", &data.len().to_string())
        .declared(Declared::Text(form.declared().to_owned()));
    if let Some((name, _)) = trailer {
        request = request.header("x-amz-trailer", name);
    }
    let wire = request.sign(address, keys).without("content-length");
    let signer = ChunkSigner::new(keys, wire.time);
    let mut previous = wire.signature.clone();
    let mut chunks = Vec::new();
    let pieces = data.chunks(chunk_size).chain(std::iter::once(&[][..]));
    for piece in pieces {
        let mut line = format!("{:x}", piece.len());
        if form != Form::UnsignedTrailer {
            previous = signer.chunk(&previous, piece);
            line.push_str(";chunk-signature=");
            line.push_str(&previous);
        }
        let end = if piece.is_empty() { "" } else { "\r\n" };
        chunks.push(Chunk {
            line,
            data: piece.to_vec(),
            end: end.to_owned(),
        });
    }
    let mut trailers = Vec::new();
    if let Some((name, value)) = trailer {
        trailers.push(format!("{name}:{value}"));
        if form == Form::SignedTrailer {
            trailers.push(format!(
                "x-amz-trailer-signature:{}",
                signer.trailer(&previous, &format!("{name}:{value}\n"))
            ));
        }
    }
    (wire, ChunkedBody { chunks, trailers })
}

/// Joins the two with a right content-length.
pub fn join(wire: Wire, body: &ChunkedBody) -> Wire {
    let bytes = body.bytes();
    wire.set("content-length", &bytes.len().to_string())
        .with_body(bytes)
}

/// CRC32C in base64, as in `x-amz-checksum-crc32c`.
pub fn crc32c(data: &[u8]) -> String {
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, data) as u32;
    STANDARD.encode(sum.to_be_bytes())
}

/// CRC32 in base64, as in `x-amz-checksum-crc32`.
pub fn crc32(data: &[u8]) -> String {
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, data) as u32;
    STANDARD.encode(sum.to_be_bytes())
}

/// CRC64NVME in base64, as in `x-amz-checksum-crc64nvme`.
pub fn crc64nvme(data: &[u8]) -> String {
    STANDARD.encode(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, data).to_be_bytes())
}

/// MD5 in base64, as in `Content-MD5`.
pub fn content_md5(data: &[u8]) -> String {
    STANDARD.encode(md5::Md5::digest(data))
}

/// Signatures of chunks and trailers.
pub struct ChunkSigner {
    key: Vec<u8>,
    time: String,
    scope: String,
}

impl ChunkSigner {
    pub fn new(keys: &Keys, time: SystemTime) -> Self {
        let credentials = Credentials::new(&keys.access, &keys.secret, None, None, "test");
        let key = generate_signing_key(credentials.secret_access_key(), time, REGION, "s3");
        let time = amz_date(time);
        let scope = format!("{}/{REGION}/s3/aws4_request", &time[..8]);
        Self {
            key: key.as_ref().to_vec(),
            time,
            scope,
        }
    }

    /// Signature of a chunk that follows one with the signature `previous`.
    pub fn chunk(&self, previous: &str, data: &[u8]) -> String {
        let empty = hex::encode(Sha256::digest(b""));
        let hash = hex::encode(Sha256::digest(data));
        self.sign(&format!(
            "AWS4-HMAC-SHA256-PAYLOAD\n{}\n{}\n{previous}\n{empty}\n{hash}",
            self.time, self.scope
        ))
    }

    /// Signature of the trailers, which are `canonical`: `name:value\n` in order.
    pub fn trailer(&self, previous: &str, canonical: &str) -> String {
        let hash = hex::encode(Sha256::digest(canonical.as_bytes()));
        self.sign(&format!(
            "AWS4-HMAC-SHA256-TRAILER\n{}\n{}\n{previous}\n{hash}",
            self.time, self.scope
        ))
    }

    fn sign(&self, text: &str) -> String {
        calculate_signature(&self.key, text.as_bytes())
    }
}

/// `YYYYMMDDTHHMMSSZ` (Howard Hinnant: chrono-compatible low-level date algorithms, `civil_from_days`).
pub fn amz_date(time: SystemTime) -> String {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs() as i64;
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 {
        month_index + 3
    } else {
        month_index - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{ChunkSigner, Form, amz_date, crc32c, put};
    use crate::request::Keys;

    fn example() -> (Keys, SystemTime) {
        let keys = Keys {
            access: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
        };
        (
            keys,
            SystemTime::UNIX_EPOCH + Duration::from_secs(1_369_353_600),
        )
    }

    /// The example of the S3 API reference, "Transferring payload in multiple chunks".
    #[test]
    fn chunk_signatures_are_those_of_the_reference() {
        let (keys, time) = example();
        assert_eq!(amz_date(time), "20130524T000000Z");
        let signer = ChunkSigner::new(&keys, time);
        let seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";
        let first = signer.chunk(seed, &[b'a'; 65_536]);
        assert_eq!(
            first,
            "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"
        );
        let second = signer.chunk(&first, &[b'a'; 1024]);
        assert_eq!(
            second,
            "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"
        );
        let last = signer.chunk(&second, b"");
        assert_eq!(
            last,
            "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"
        );
    }

    #[test]
    fn a_body_is_framed_as_the_reference_says() {
        let (keys, _) = example();
        let address = "127.0.0.1:1".parse().expect("address");
        let crc = crc32c(b"hello");
        let trailer = Some(("x-amz-checksum-crc32c", crc.as_str()));
        let (_, body) = put(
            "/b/k",
            Form::UnsignedTrailer,
            b"hello",
            3,
            trailer,
            address,
            &keys,
        );
        let text = String::from_utf8(body.bytes()).expect("text");
        assert_eq!(
            text,
            format!("3\r\nhel\r\n2\r\nlo\r\n0\r\nx-amz-checksum-crc32c:{crc}\r\n\r\n")
        );
    }

    /// CRC32C of RFC 3720, appendix B.4: 32 bytes of zeroes.
    #[test]
    fn crc32c_is_that_of_the_rfc() {
        assert_eq!(crc32c(&[0; 32]), "ipE2qg==");
    }
}
