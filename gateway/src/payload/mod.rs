//! The body of a request: deframed, and verified against everything that the client said of it.

mod announced;

mod deframer;
mod form;
mod frames;
mod verify;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use holdfast_storage_node::metadata::{ChecksumAlgorithm, ObjectChecksum};
use http::request::Parts;

use crate::auth::{Authenticated, PayloadFraming};
use crate::checksum;
use crate::error::{Code, S3Error};
use announced::Announced;
use deframer::{Deframer, TrailerRule};
use frames::Frames;
use verify::Verifier;

pub use announced::stored_content_encoding;
pub use form::Form;

/// What an `x-amz-checksum-*` header of a request is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChecksumHeader {
    /// The request's body: it is verified.
    #[default]
    Body,
    /// Something else, as with `CompleteMultipartUpload` (the object): the payload ignores it,
    /// the operation reads it with `checksum::from_headers`.
    Object,
}

/// What to compute besides what the client asks to be verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    pub md5: bool,
    /// Computed if the client sends no checksum of its own.
    pub checksum: Option<ChecksumAlgorithm>,
    pub checksum_header: ChecksumHeader,
}

/// What is known of a body once all of it was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// Where `Digests::md5` asked for it, or the client sent `Content-MD5`.
    pub md5: Option<[u8; 16]>,
    /// The client's (header or trailer), else the wanted one; `FullObject`.
    pub checksum: Option<ObjectChecksum>,
    /// Decoded bytes.
    pub len: u64,
}

/// A request body under way.
pub struct Payload {
    frames: Frames,
    /// What is left of the last frame.
    input: Bytes,
    deframer: Option<Box<Deframer>>,
    verifier: Verifier,
    len: Option<u64>,
    /// Decoded bytes at most, where `len` does not say it.
    len_max: u64,
    /// Decoded bytes so far.
    received: u64,
    state: State,
    finished: Finished,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    Finished,
    Failed,
}

impl Payload {
    /// Parses and validates all headers that are about the body; nothing of it is read yet
    /// (so that a refused request gets no `100 Continue`).
    ///
    /// Errors: `InvalidDigest` (`Content-MD5`), `InvalidRequest` (checksums), `NotImplemented` (a checksum of S3 that
    /// is not computed here), `MissingContentLength` and `InvalidArgument` (`x-amz-decoded-content-length`).
    pub fn new(
        auth: &Authenticated,
        parts: &Parts,
        body: Body,
        want: Digests,
    ) -> Result<Self, S3Error> {
        let headers = &parts.headers;
        let (sha256, chunked) = match &auth.framing {
            PayloadFraming::Unsigned => (None, None),
            PayloadFraming::Signed(sha256) => (Some(*sha256), None),
            PayloadFraming::ChunkedUnsigned => (None, Some((None, true))),
            PayloadFraming::ChunkedSigned { chain, trailer } => {
                (None, Some((Some(chain.clone()), *trailer)))
            }
        };
        let is_framed = announced::says_aws_chunked(headers)
            && headers.contains_key("x-amz-decoded-content-length");
        if chunked.is_none() && is_framed {
            // Else the framing would be stored as if it were data.
            return Err(S3Error::with(
                Code::InvalidRequest,
                "Content-Encoding aws-chunked needs an x-amz-content-sha256 of STREAMING-*.",
            ));
        }
        let trailers = matches!(chunked, Some((_, true)));
        let announced = announced::checksum(headers, want.checksum_header, trailers)?;
        let md5 = announced::content_md5(headers)?;
        let frames = Frames::new(body, auth.patience.clone());
        let (len, deframer) = match chunked {
            None => (frames.len(), None),
            Some((chain, trailer)) => {
                let len = announced::decoded_len(headers)?;
                let rule = TrailerRule {
                    announced: match &announced {
                        Some(Announced::Trailer(algorithm)) => Some(checksum::header(*algorithm)),
                        Some(Announced::Value(..)) | None => None,
                    },
                    signed: trailer && chain.is_some(),
                };
                (Some(len), Some(Box::new(Deframer::new(len, chain, rule))))
            }
        };
        Ok(Self {
            frames,
            input: Bytes::new(),
            deframer,
            verifier: Verifier::new(want, md5, sha256, announced),
            len,
            len_max: u64::MAX,
            received: 0,
            state: State::Reading,
            finished: Finished::default(),
        })
    }

    /// The same, of `len_max` decoded bytes at most: one that turns out to be longer ends with `EntityTooLarge`.
    pub fn limited(self, len_max: u64) -> Self {
        Self { len_max, ..self }
    }

    /// Decoded length in bytes, if known: it is not only with `Transfer-Encoding: chunked` without
    /// aws-chunked framing.
    pub fn len(&self) -> Option<u64> {
        self.len
    }

    /// Known to be empty.
    pub fn is_empty(&self) -> bool {
        self.len == Some(0)
    }

    /// The next bytes, never empty, without a copy. `None` comes only after everything was verified: length,
    /// SHA-256, signatures of chunks and trailer, `Content-MD5` and checksum (unless they were left to the reader). What came before must not be
    /// committed if it ends in an error.
    ///
    /// Errors: `IncompleteBody`, `RequestTimeout`, `MalformedTrailerError`, `SignatureDoesNotMatch`,
    /// `XAmzContentSHA256Mismatch`, `BadDigest`, `InvalidRequest` (a trailer's value). After one, no call gives `None`.
    /// A call may be dropped while it waits: nothing is lost.
    pub async fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
        match self.state {
            State::Reading => {}
            State::Finished => return Ok(None),
            State::Failed => return Err(Code::IncompleteBody.into()),
        }
        let next = self.read().await;
        self.state = match next {
            Ok(Some(_)) => State::Reading,
            Ok(None) => State::Finished,
            Err(_) => State::Failed,
        };
        next
    }

    async fn read(&mut self) -> Result<Option<Bytes>, S3Error> {
        loop {
            let data = match &mut self.deframer {
                Some(deframer) => deframer.step(&mut self.input)?,
                None => Some(std::mem::take(&mut self.input)).filter(|input| !input.is_empty()),
            };
            if let Some(data) = data {
                self.received += data.len() as u64;
                if self.received > self.len_max {
                    return Err(S3Error::new(Code::EntityTooLarge)
                        .detail("MaxSizeAllowed", self.len_max.to_string()));
                }
                self.verifier.update(&data);
                return Ok(Some(data));
            }
            match self.frames.next().await? {
                Some(frame) => self.input = frame,
                None => {
                    self.finish()?;
                    return Ok(None);
                }
            }
        }
    }

    fn finish(&mut self) -> Result<(), S3Error> {
        let trailer = match &mut self.deframer {
            Some(deframer) => deframer.finish()?,
            None => None,
        };
        if let Some(expected) = self.len.filter(|len| *len != self.received) {
            return Err(deframer::wrong_len(expected, self.received));
        }
        self.finished = self.verifier.finish(self.received, trailer)?;
        Ok(())
    }

    /// The whole body, at most `max` bytes (`MaxMessageLengthExceeded` beyond). For XML.
    pub async fn read_all(&mut self, max: usize) -> Result<Bytes, S3Error> {
        let too_long = || S3Error::new(Code::MaxMessageLengthExceeded);
        if self.len.is_some_and(|len| len > max as u64) {
            return Err(too_long());
        }
        let Some(first) = self.next().await? else {
            return Ok(Bytes::new());
        };
        let mut all = BytesMut::new();
        let mut last = first;
        while let Some(next) = self.next().await? {
            if self.received > max as u64 {
                return Err(too_long());
            }
            all.extend_from_slice(&last);
            last = next;
        }
        if self.received > max as u64 {
            return Err(too_long());
        }
        if all.is_empty() {
            return Ok(last);
        }
        all.extend_from_slice(&last);
        Ok(all.freeze())
    }

    /// What was computed; whole only after `next` gave `None` or `read_all` succeeded.
    pub fn finished(&self) -> &Finished {
        &self.finished
    }
}

impl crate::body::ByteSource for Payload {
    async fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
        Payload::next(self).await
    }

    fn leave_md5(&mut self) -> bool {
        self.verifier.leave_md5()
    }

    fn set_md5(&mut self, md5: [u8; 16]) -> Result<(), S3Error> {
        self.verifier.check_md5(md5)?;
        self.finished.md5 = Some(md5);
        Ok(())
    }

    fn leave_crc64(&mut self) -> bool {
        self.verifier.leave_crc64()
    }

    fn set_crc64(&mut self, crc64: u64) -> Result<(), S3Error> {
        self.finished.checksum = Some(self.verifier.check_crc64(crc64)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
