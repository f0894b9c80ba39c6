//! Signature Version 4 for requests with an `Authorization` header (S3 API reference, "Authenticating Requests:
//! Using the Authorization Header") and for the chunks of a signed stream ("Signature Calculations for the
//! Authorization Header: Transferring Payload in Multiple Chunks").
//!
//! Our own, because it runs on the cores of the server under test: the day's key is kept, keyed hash state and
//! all, and a signature costs a few hash blocks.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

/// SHA-256 of nothing, in hex.
pub const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Who signs.
#[derive(Clone)]
pub struct Credentials {
    pub access_key: String,
    pub secret_key: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key", &self.access_key)
            .finish_non_exhaustive()
    }
}

/// A moment as Signature Version 4 writes it: `20130524T000000Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AmzDate([u8; 16]);

impl AmzDate {
    /// The moment `time`, to the second.
    pub fn of(time: SystemTime) -> Self {
        let seconds = time
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil(days);
        let mut text = String::with_capacity(16);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z"
        );
        let mut date = [b'0'; 16];
        date.copy_from_slice(&text.as_bytes()[..16]);
        Self(date)
    }

    /// As in `x-amz-date`.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("made of ASCII")
    }

    fn day(&self) -> &str {
        &self.as_str()[..8]
    }
}

/// Year, month and day of a number of days since 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// What is signed of a request. `headers` are lower-case and sorted by name, `host` and `x-amz-date` among them.
pub struct ToSign<'a> {
    pub method: &'a str,
    /// Percent-encoded once, as sent.
    pub path: &'a str,
    /// `name=value` pairs, encoded and sorted by name, as sent.
    pub query: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    /// The value of `x-amz-content-sha256`.
    pub payload: &'a str,
}

/// The answer: the header, and the signature that seeds the chunks of a signed stream.
pub struct Signed {
    pub authorization: String,
    pub signature: String,
}

/// Signs with one identity; keeps the key of the day.
pub struct Signer {
    credentials: Credentials,
    region: String,
    day: String,
    scope: String,
    key: Hmac<Sha256>,
    canonical: String,
    names: String,
}

impl Signer {
    /// A signer for `region`.
    pub fn new(credentials: Credentials, region: &str) -> Self {
        Self {
            credentials,
            region: region.to_owned(),
            day: String::new(),
            scope: String::new(),
            key: keyed(b""),
            canonical: String::with_capacity(1024),
            names: String::with_capacity(256),
        }
    }

    /// Signs `request` as of `date`.
    pub fn sign(&mut self, date: &AmzDate, request: &ToSign<'_>) -> Signed {
        self.follow(date);
        self.names.clear();
        for (index, (name, _)) in request.headers.iter().enumerate() {
            self.names.push_str(if index == 0 { "" } else { ";" });
            self.names.push_str(name);
        }
        let canonical = &mut self.canonical;
        canonical.clear();
        for line in [request.method, request.path, request.query] {
            canonical.push_str(line);
            canonical.push('\n');
        }
        for (name, value) in request.headers {
            canonical.push_str(name);
            canonical.push(':');
            canonical.push_str(value.trim());
            canonical.push('\n');
        }
        canonical.push('\n');
        canonical.push_str(&self.names);
        canonical.push('\n');
        canonical.push_str(request.payload);
        let digest = hex_of(&Sha256::digest(canonical.as_bytes()));
        let signature = self.mac(&["AWS4-HMAC-SHA256", date.as_str(), &self.scope, &digest]);
        Signed {
            authorization: format!(
                "AWS4-HMAC-SHA256 Credential={}/{},SignedHeaders={},Signature={signature}",
                self.credentials.access_key, self.scope, self.names
            ),
            signature,
        }
    }

    /// A signer of the chunks that follow the request whose signature is `seed`.
    pub fn chunks(&mut self, date: &AmzDate, seed: String) -> ChunkSigner {
        self.follow(date);
        ChunkSigner {
            date: *date,
            scope: self.scope.clone(),
            key: self.key.clone(),
            previous: seed,
        }
    }

    fn follow(&mut self, date: &AmzDate) {
        if self.day == date.day() {
            return;
        }
        self.day = date.day().to_owned();
        self.scope = format!("{}/{}/s3/aws4_request", self.day, self.region);
        let mut key = format!("AWS4{}", self.credentials.secret_key).into_bytes();
        for part in [&self.day, self.region.as_str(), "s3", "aws4_request"] {
            let mut mac = keyed(&key);
            mac.update(part.as_bytes());
            key = mac.finalize().into_bytes().to_vec();
        }
        self.key = keyed(&key);
    }

    fn mac(&self, lines: &[&str]) -> String {
        mac_lines(&self.key, lines)
    }
}

/// Signs the chunks of one `STREAMING-AWS4-HMAC-SHA256-PAYLOAD` body, each after the one before.
pub struct ChunkSigner {
    date: AmzDate,
    scope: String,
    key: Hmac<Sha256>,
    previous: String,
}

impl ChunkSigner {
    /// The signature of the next chunk, whose bytes hash to `digest`.
    pub fn next(&mut self, digest: &[u8]) -> &str {
        let lines = [
            "AWS4-HMAC-SHA256-PAYLOAD",
            self.date.as_str(),
            &self.scope,
            &self.previous,
            EMPTY_SHA256,
            &hex_of(digest),
        ];
        self.previous = mac_lines(&self.key, &lines);
        &self.previous
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

fn mac_lines(key: &Hmac<Sha256>, lines: &[&str]) -> String {
    let mut mac = key.clone();
    for (index, line) in lines.iter().enumerate() {
        mac.update(if index == 0 { b"" } else { b"\n" });
        mac.update(line.as_bytes());
    }
    hex_of(&mac.finalize().into_bytes())
}

/// `bytes` in lower-case hex.
pub fn hex_of(bytes: &[u8]) -> String {
    hex::encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::{AmzDate, Credentials, EMPTY_SHA256, Signer, ToSign};
    use sha2::{Digest, Sha256};
    use std::time::{Duration, UNIX_EPOCH};

    // The examples of the S3 API reference, "Signature Calculations for the Authorization Header".
    fn documentation() -> (Signer, AmzDate) {
        let credentials = Credentials {
            access_key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
        };
        let date = AmzDate::of(UNIX_EPOCH + Duration::from_secs(1_369_353_600));
        (Signer::new(credentials, "us-east-1"), date)
    }

    #[test]
    fn dates_are_written_as_s3_wants_them() {
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (1_369_353_600, "20130524T000000Z"),
            (4_102_444_799, "20991231T235959Z"),
        ] {
            assert_eq!(
                AmzDate::of(UNIX_EPOCH + Duration::from_secs(seconds)).as_str(),
                text
            );
        }
    }

    #[test]
    fn a_get_is_signed_as_in_the_reference() {
        let (mut signer, date) = documentation();
        let signed = signer.sign(
            &date,
            &ToSign {
                method: "GET",
                path: "/test.txt",
                query: "",
                headers: &[
                    ("host", "examplebucket.s3.amazonaws.com"),
                    ("range", "bytes=0-9"),
                    ("x-amz-content-sha256", EMPTY_SHA256),
                    ("x-amz-date", date.as_str()),
                ],
                payload: EMPTY_SHA256,
            },
        );
        assert_eq!(
            signed.signature,
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        assert!(signed.authorization.starts_with(
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
             SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,Signature="
        ));
    }

    #[test]
    fn a_listing_is_signed_as_in_the_reference() {
        let (mut signer, date) = documentation();
        let signed = signer.sign(
            &date,
            &ToSign {
                method: "GET",
                path: "/",
                query: "max-keys=2&prefix=J",
                headers: &[
                    ("host", "examplebucket.s3.amazonaws.com"),
                    ("x-amz-content-sha256", EMPTY_SHA256),
                    ("x-amz-date", date.as_str()),
                ],
                payload: EMPTY_SHA256,
            },
        );
        assert_eq!(
            signed.signature,
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
    }

    #[test]
    fn chunks_are_signed_as_in_the_reference() {
        let (mut signer, date) = documentation();
        let payload = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
        let signed = signer.sign(
            &date,
            &ToSign {
                method: "PUT",
                path: "/examplebucket/chunkObject.txt",
                query: "",
                headers: &[
                    ("content-encoding", "aws-chunked"),
                    ("content-length", "66824"),
                    ("host", "s3.amazonaws.com"),
                    ("x-amz-content-sha256", payload),
                    ("x-amz-date", date.as_str()),
                    ("x-amz-decoded-content-length", "66560"),
                    ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
                ],
                payload,
            },
        );
        assert_eq!(
            signed.signature,
            "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
        );
        let mut chunks = signer.chunks(&date, signed.signature);
        for (len, signature) in [
            (
                65_536,
                "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
            ),
            (
                1_024,
                "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
            ),
            (
                0,
                "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
            ),
        ] {
            assert_eq!(chunks.next(&Sha256::digest(vec![b'a'; len])), signature);
        }
    }
}
