//! The arithmetic of Signature Version 4 (API reference, "Signature Calculations for the Authorization
//! Header").

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The only algorithm that is served.
pub const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// SHA-256 of nothing, in hex.
pub const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// 64 lower-case hex digits.
pub type Hex64 = [u8; 64];

/// A digest in lower-case hex.
pub fn hex64(digest: &[u8; 32]) -> Hex64 {
    let mut text = [0; 64];
    hex::encode_to_slice(digest, &mut text).expect("64 is twice 32");
    text
}

/// Whether the signature that a client sent is `computed`, in a time that does not tell how far it is.
pub fn matches(computed: &Hex64, provided: &[u8]) -> bool {
    computed.as_slice().ct_eq(provided).into()
}

/// `YYYYMMDDThhmmssZ`, as in strings to sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    text: [u8; 16],
    unix_secs: i64,
}

impl Timestamp {
    /// Parses the basic form of ISO 8601.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text: [u8; 16] = text.try_into().ok()?;
        let number = |from: usize, to: usize| {
            text[from..to].iter().try_fold(0_u16, |number, digit| {
                digit
                    .is_ascii_digit()
                    .then(|| number * 10 + u16::from(digit - b'0'))
            })
        };
        if text[8] != b'T' || text[15] != b'Z' {
            return None;
        }
        let month = time::Month::try_from(number(4, 6)? as u8).ok()?;
        let date =
            time::Date::from_calendar_date(i32::from(number(0, 4)?), month, number(6, 8)? as u8)
                .ok()?;
        let time = time::Time::from_hms(
            number(9, 11)? as u8,
            number(11, 13)? as u8,
            number(13, 15)? as u8,
        )
        .ok()?;
        let unix_secs = time::PrimitiveDateTime::new(date, time)
            .assume_utc()
            .unix_timestamp();
        Some(Self { text, unix_secs })
    }

    /// The timestamp of a moment; `None` before the year 0 and after 9999.
    pub fn at(unix_secs: i64) -> Option<Self> {
        let moment = time::OffsetDateTime::from_unix_timestamp(unix_secs).ok()?;
        let text = format!(
            "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
            moment.year(),
            u8::from(moment.month()),
            moment.day(),
            moment.hour(),
            moment.minute(),
            moment.second()
        );
        Some(Self {
            text: text.as_bytes().try_into().ok()?,
            unix_secs,
        })
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.text
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text).expect("digits, T and Z")
    }

    /// `YYYYMMDD`.
    pub fn date(&self) -> &str {
        &self.as_str()[..8]
    }

    pub fn unix_secs(&self) -> i64 {
        self.unix_secs
    }
}

/// Signs for one access key, day, region and service. Holds the state of HMAC after the key, so that a
/// signature costs only the blocks of its message.
#[derive(Clone)]
pub struct SigningKey(Hmac<Sha256>);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = keyed(key);
    mac.update(message);
    mac.finalize().into_bytes().into()
}

impl SigningKey {
    /// Derives the key ("Task 3" of the calculation).
    pub fn derive(secret: &str, date: &str, region: &str, service: &str) -> Self {
        let mut first = zeroize::Zeroizing::new(Vec::with_capacity(4 + secret.len()));
        first.extend_from_slice(b"AWS4");
        first.extend_from_slice(secret.as_bytes());
        let key = hmac(&first, date.as_bytes());
        let key = hmac(&key, region.as_bytes());
        let key = hmac(&key, service.as_bytes());
        Self(keyed(&hmac(&key, b"aws4_request")))
    }

    /// The signature of the string to sign that consists of `lines`, with `\n` between them.
    pub fn sign(&self, lines: &[&[u8]]) -> Hex64 {
        let mut mac = self.0.clone();
        for (index, line) in lines.iter().enumerate() {
            if index > 0 {
                mac.update(b"\n");
            }
            mac.update(line);
        }
        hex64(&mac.finalize().into_bytes().into())
    }
}

/// SHA-256 in hex.
pub fn sha256_hex(bytes: &[u8]) -> Hex64 {
    hex64(&Sha256::digest(bytes).into())
}
