//! The aws-chunked framing (API reference, "Transferring Payload in Multiple Chunks" and "Including
//! Trailing Headers"):
//!
//! ```text
//! 10000;chunk-signature=<64 hex>\r\n     the size in hex; unsigned chunks have no signature
//! <65536 bytes>\r\n
//! 0;chunk-signature=<64 hex>\r\n         the last
//! x-amz-checksum-crc32c:sOO8/Q==\r\n     the trailer, if one was announced
//! x-amz-trailer-signature:<64 hex>\r\n   if chunks are signed
//! \r\n
//! ```
//!
//! The framing is taken at its word, as S3 does: any deviation is `IncompleteBody`. In one thing this is more
//! lenient than S3: chunks before the last may be shorter than 8 KiB (S3: `InvalidChunkSizeError`).
//!
//! The bytes of a signed chunk are handed on as they come, before its signature is verified at its end: what is
//! made of them is not committed unless the whole body turns out right. So no chunk is ever buffered, and its
//! size needs no bound of its own: that of the body is one.

use bytes::{Buf, Bytes};
use memchr::memchr;
use sha2::{Digest, Sha256};

use crate::auth::ChunkChain;
use crate::error::{Code, S3Error};

/// Longest line before a chunk: 16 hex digits, `;chunk-signature=`, 64 hex digits, CRLF.
const CHUNK_LINE_MAX: usize = 16 + 17 + 64 + 2;

/// Longest line of the trailer.
const TRAILER_LINE_MAX: usize = 512;

/// Signatures of the chunks, and the hash of the one under way.
struct Signatures {
    chain: Box<ChunkChain>,
    sha256: Sha256,
    /// Of the chunk under way, as its line says.
    provided: [u8; 64],
}

/// What may follow the last chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TrailerRule {
    /// The one header that was announced, in lower case.
    pub announced: Option<&'static str>,
    /// The trailer ends with its signature.
    pub signed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    ChunkLine,
    Data,
    /// The CRLF after the data; `true`: CR was there.
    DataEnd(bool),
    Trailer,
    Done,
}

/// Takes the framing off, however the bytes are split.
pub(super) struct Deframer {
    state: State,
    /// A line so far.
    line: Vec<u8>,
    /// Bytes left of the chunk under way.
    left: u64,
    /// Bytes of all chunks, the one under way included.
    total: u64,
    expected: u64,
    signatures: Option<Signatures>,
    rule: TrailerRule,
    /// `name:value\n` of the announced header, once it came: what the trailer's signature covers.
    canonical_trailer: Vec<u8>,
    trailer_signed: bool,
}

fn malformed() -> S3Error {
    S3Error::with(
        Code::IncompleteBody,
        "The request body terminated unexpectedly",
    )
}

fn malformed_trailer() -> S3Error {
    Code::MalformedTrailerError.into()
}

fn mismatch() -> S3Error {
    S3Error::with(
        Code::SignatureDoesNotMatch,
        "The signature that we calculated for a chunk of the body does not match the signature that you \
         provided. Check your key and signing method.",
    )
}

/// The error for a body that is not as long as it was said to be.
pub(super) fn wrong_len(expected: u64, provided: u64) -> S3Error {
    S3Error::with(
        Code::IncompleteBody,
        "You did not provide the number of bytes specified by the Content-Length HTTP header",
    )
    .detail("NumberBytesExpected", expected.to_string())
    .detail("NumberBytesProvided", provided.to_string())
}

impl Deframer {
    /// For a body of `expected` decoded bytes.
    pub fn new(expected: u64, chain: Option<Box<ChunkChain>>, rule: TrailerRule) -> Self {
        Self {
            state: State::ChunkLine,
            line: Vec::new(),
            left: 0,
            total: 0,
            expected,
            signatures: chain.map(|chain| Signatures {
                chain,
                sha256: Sha256::new(),
                provided: [0; 64],
            }),
            rule,
            canonical_trailer: Vec::new(),
            trailer_signed: false,
        }
    }

    /// Takes from the front of `input`. Returns a slice of data, or `None` when `input` is used up.
    pub fn step(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, S3Error> {
        while !input.is_empty() {
            match self.state {
                State::ChunkLine => {
                    if self.take_line(input, CHUNK_LINE_MAX)? {
                        self.begin_chunk()?;
                    }
                }
                State::Data => return self.take_data(input).map(Some),
                State::DataEnd(cr) => {
                    if input.get_u8() != if cr { b'\n' } else { b'\r' } {
                        return Err(malformed());
                    }
                    self.state = if cr {
                        State::ChunkLine
                    } else {
                        State::DataEnd(true)
                    };
                }
                State::Trailer => {
                    if self.take_line(input, TRAILER_LINE_MAX)? {
                        self.trailer_line()?;
                    }
                }
                State::Done => return Err(malformed()),
            }
        }
        Ok(None)
    }

    /// The body is over: did the framing end? Gives the value of the announced trailer. That the data is as long
    /// as announced is for the caller to see.
    pub fn finish(&mut self) -> Result<Option<&str>, S3Error> {
        let is_at_line = self.state == State::Trailer && self.line.is_empty();
        if is_at_line && self.has_all() {
            // The empty line at the end is left out by some clients, and S3 does without: all that counts is there.
            self.state = State::Done;
        }
        if self.state != State::Done {
            return Err(malformed());
        }
        Ok(self.trailer_value())
    }

    /// Moves a line into `self.line`, without its CRLF. `false`: it is not whole yet.
    fn take_line(&mut self, input: &mut Bytes, max: usize) -> Result<bool, S3Error> {
        while !input.is_empty() {
            let room = max - self.line.len();
            let window = &input[..room.min(input.len())];
            let (take, ended) = match memchr(b'\n', window) {
                Some(at) => (at + 1, true),
                None => (window.len(), false),
            };
            self.line.extend_from_slice(&window[..take]);
            input.advance(take);
            if ended && self.line.ends_with(b"\r\n") {
                self.line.truncate(self.line.len() - 2);
                return Ok(true);
            }
            if self.line.len() == max {
                return Err(malformed());
            }
        }
        Ok(false)
    }

    /// `size` or `size;chunk-signature=signature`.
    fn begin_chunk(&mut self) -> Result<(), S3Error> {
        let line = std::str::from_utf8(&self.line).map_err(|_| malformed())?;
        let size = match &mut self.signatures {
            None => line,
            Some(signatures) => {
                let (size, signature) =
                    line.split_once(";chunk-signature=").ok_or_else(malformed)?;
                signatures.provided = signature.as_bytes().try_into().map_err(|_| mismatch())?;
                size
            }
        };
        // `from_str_radix` would take a sign.
        if !size.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(malformed());
        }
        let size = u64::from_str_radix(size, 16).map_err(|_| malformed())?;
        self.line.clear();
        let total = self.total.checked_add(size).ok_or_else(malformed)?;
        if total > self.expected {
            return Err(wrong_len(self.expected, total));
        }
        self.total = total;
        self.left = size;
        if size == 0 {
            self.end_chunk()?;
            self.state = State::Trailer;
        } else {
            self.state = State::Data;
        }
        Ok(())
    }

    fn take_data(&mut self, input: &mut Bytes) -> Result<Bytes, S3Error> {
        let take = usize::try_from(self.left).map_or(input.len(), |left| left.min(input.len()));
        let data = input.split_to(take);
        if let Some(signatures) = &mut self.signatures {
            signatures.sha256.update(&data);
        }
        self.left -= take as u64;
        if self.left == 0 {
            self.end_chunk()?;
            self.state = State::DataEnd(false);
        }
        Ok(data)
    }

    fn end_chunk(&mut self) -> Result<(), S3Error> {
        let Some(signatures) = &mut self.signatures else {
            return Ok(());
        };
        let sha256 = signatures.sha256.finalize_reset().into();
        if signatures.chain.verify_chunk(&sha256, &signatures.provided) {
            Ok(())
        } else {
            Err(mismatch())
        }
    }

    /// A line after the last chunk: the announced header, then the signature if it is signed, then an empty one.
    fn trailer_line(&mut self) -> Result<(), S3Error> {
        if self.line.is_empty() {
            if !self.has_all() {
                return Err(malformed_trailer());
            }
            self.state = State::Done;
            return Ok(());
        }
        let Some(announced) = self.rule.announced else {
            // Without a trailer only the end of the framing may follow.
            return Err(if self.rule.signed || self.signatures.is_none() {
                malformed_trailer()
            } else {
                malformed()
            });
        };
        let line = std::str::from_utf8(&self.line).map_err(|_| malformed_trailer())?;
        let (name, value) = line.split_once(':').ok_or_else(malformed_trailer)?;
        // The documentation ends the value with a line feed of its own before CRLF.
        let is_blank = |character| [' ', '\t', '\n'].contains(&character);
        let (name, value) = (name.trim_matches(is_blank), value.trim_matches(is_blank));
        if name.eq_ignore_ascii_case(announced) && self.canonical_trailer.is_empty() {
            self.canonical_trailer = format!("{announced}:{value}\n").into_bytes();
        } else if self.rule.signed
            && name.eq_ignore_ascii_case("x-amz-trailer-signature")
            && !self.canonical_trailer.is_empty()
            && !self.trailer_signed
        {
            let signatures = self.signatures.as_mut().ok_or_else(malformed_trailer)?;
            if !signatures
                .chain
                .verify_trailer(&self.canonical_trailer, value.as_bytes())
            {
                return Err(mismatch());
            }
            self.trailer_signed = true;
        } else {
            return Err(malformed_trailer());
        }
        self.line.clear();
        Ok(())
    }

    /// Whether the trailer that was announced came, and its signature.
    fn has_all(&self) -> bool {
        let complete = self.rule.announced.is_none() || !self.canonical_trailer.is_empty();
        let signed = !self.rule.signed || self.rule.announced.is_none() || self.trailer_signed;
        complete && signed
    }

    fn trailer_value(&self) -> Option<&str> {
        let announced = self.rule.announced?;
        let line = std::str::from_utf8(&self.canonical_trailer).ok()?;
        line.strip_prefix(announced)?
            .strip_prefix(':')?
            .strip_suffix('\n')
    }
}
