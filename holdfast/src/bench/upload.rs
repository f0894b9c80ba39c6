//! Bodies of PUT requests, made as the connection takes them: framing from S3's API reference ("Transferring
//! payload in multiple chunks", "Including trailing headers"), bytes from [`Content`] without a copy.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest as CrcDigest};
use hyper::body::{Body, Frame, SizeHint};
use sha2::{Digest, Sha256};

use super::content::Content;
use super::sign::ChunkSigner;

/// The most bytes that are handed to the connection at once: what was just checksummed is then still in cache.
const SLICE_LEN: u64 = 256 << 10;
const TRAILER: &str = "x-amz-checksum-crc64nvme";
const SIGNATURE: &str = ";chunk-signature=";
/// A SHA-256 in hex.
const SIGNATURE_LEN: u64 = 64;
/// A CRC64 in base64.
const CRC_TEXT_LEN: u64 = 12;

/// How the bytes are framed.
pub enum Framing {
    /// As they are.
    Plain,
    /// `STREAMING-UNSIGNED-PAYLOAD-TRAILER`: chunks of at most `chunk_len` bytes, then the CRC64NVME of all.
    UnsignedTrailer { chunk_len: u64 },
    /// `STREAMING-AWS4-HMAC-SHA256-PAYLOAD`: chunks of `chunk_len` bytes, each with its signature.
    Signed {
        chunk_len: u64,
        signer: Box<ChunkSigner>,
    },
}

/// The body of a request.
pub enum Upload {
    /// None.
    Empty,
    /// These bytes, once.
    Full(Option<Bytes>),
    /// The content of a key.
    Object(Box<ObjectUpload>),
}

/// The content of a key on its way out.
pub struct ObjectUpload {
    content: Content,
    start: u64,
    size: u64,
    framing: Framing,
    /// Bytes of the content that have been queued.
    offset: u64,
    /// Where the chunk under way ends.
    chunk_end: u64,
    crc: CrcDigest,
    /// What goes out next, framing and content in order.
    queue: VecDeque<Bytes>,
    finished: bool,
    /// Bytes on the wire that are still to come.
    encoded_left: u64,
}

impl ObjectUpload {
    /// The first `size` bytes of the body that begins at `start` of `content`.
    pub fn new(content: Content, start: u64, size: u64, framing: Framing) -> Self {
        let encoded_left = encoded_len(&framing, size);
        Self {
            content,
            start,
            size,
            framing,
            offset: 0,
            chunk_end: 0,
            crc: CrcDigest::new(CrcAlgorithm::Crc64Nvme),
            queue: VecDeque::with_capacity(4),
            finished: false,
            encoded_left,
        }
    }

    /// Queues the next piece; leaves the queue empty at the end.
    fn refill(&mut self) {
        if self.finished {
            return;
        }
        match &mut self.framing {
            Framing::Plain => {}
            Framing::UnsignedTrailer { chunk_len } if self.offset == self.chunk_end => {
                let len = (self.size - self.offset).min(*chunk_len);
                let end_of_last = if self.offset > 0 { "\r\n" } else { "" };
                let mut line = format!("{end_of_last}{len:x}\r\n");
                if len == 0 {
                    line.push_str(&format!(
                        "{TRAILER}:{}\r\n\r\n",
                        crc_text(self.crc.finalize())
                    ));
                    self.finished = true;
                }
                self.queue.push_back(Bytes::from(line));
                self.chunk_end += len;
            }
            Framing::Signed { chunk_len, signer } if self.offset == self.chunk_end => {
                let len = (self.size - self.offset).min(*chunk_len);
                let mut digest = Sha256::new();
                for_each_slice(&self.content, self.start, self.offset, len, |slice| {
                    digest.update(slice)
                });
                let end_of_last = if self.offset > 0 { "\r\n" } else { "" };
                let signature = signer.next(&digest.finalize());
                let mut line = format!("{end_of_last}{len:x}{SIGNATURE}{signature}\r\n");
                if len == 0 {
                    line.push_str("\r\n");
                    self.finished = true;
                }
                self.queue.push_back(Bytes::from(line));
                self.chunk_end += len;
            }
            Framing::UnsignedTrailer { .. } | Framing::Signed { .. } => {}
        }
        let end = if matches!(self.framing, Framing::Plain) {
            self.size
        } else {
            self.chunk_end
        };
        if self.offset < end {
            let slice =
                self.content
                    .slice(self.start, self.offset, (end - self.offset).min(SLICE_LEN));
            if matches!(self.framing, Framing::UnsignedTrailer { .. }) {
                self.crc.update(&slice);
            }
            self.offset += slice.len() as u64;
            self.queue.push_back(slice);
        } else if matches!(self.framing, Framing::Plain) {
            self.finished = true;
        }
    }
}

/// Calls `with` on each stretch of `len` bytes of content from `offset` on.
pub fn for_each_slice(
    content: &Content,
    start: u64,
    offset: u64,
    len: u64,
    mut with: impl FnMut(&[u8]),
) {
    let mut done = 0;
    while done < len {
        let slice = content.slice(start, offset + done, (len - done).min(SLICE_LEN));
        with(&slice);
        done += slice.len() as u64;
    }
}

/// A CRC64 as S3 writes checksums: base64 of the big-endian bytes.
pub fn crc_text(crc: u64) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // Eight bytes are ten groups of six bits, four bits left over, and one `=` to fill up to twelve.
    let bits = u128::from(crc) << 2;
    let mut text: String = (0..11)
        .rev()
        .map(|group| char::from(ALPHABET[(bits >> (group * 6)) as usize & 63]))
        .collect();
    text.push('=');
    text
}

fn encoded_len(framing: &Framing, size: u64) -> u64 {
    let hex_len = |len: u64| u64::from((u64::BITS - len.max(1).leading_zeros()).div_ceil(4));
    let (chunk_len, extra, end) = match framing {
        Framing::Plain => return size,
        Framing::UnsignedTrailer { chunk_len } => {
            let trailer = TRAILER.len() as u64 + 1 + CRC_TEXT_LEN + 2;
            (*chunk_len, 4, 1 + 2 + trailer + 2)
        }
        Framing::Signed { chunk_len, .. } => {
            let signature = SIGNATURE.len() as u64 + SIGNATURE_LEN;
            (*chunk_len, 4 + signature, 1 + signature + 4)
        }
    };
    let (full, last) = (size / chunk_len, size % chunk_len);
    let full_len = full * (hex_len(chunk_len) + chunk_len + extra);
    let last_len = if last > 0 {
        hex_len(last) + last + extra
    } else {
        0
    };
    full_len + last_len + end
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match &mut *self {
            Upload::Empty => None,
            Upload::Full(bytes) => bytes.take(),
            Upload::Object(object) => {
                if object.queue.is_empty() {
                    object.refill();
                }
                object
                    .queue
                    .pop_front()
                    .inspect(|bytes| object.encoded_left -= bytes.len() as u64)
            }
        };
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Upload::Empty => true,
            Upload::Full(bytes) => bytes.is_none(),
            Upload::Object(object) => object.encoded_left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Upload::Empty => 0,
            Upload::Full(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Upload::Object(object) => object.encoded_left,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::content::Content;
    use super::super::sign::{AmzDate, Credentials, Signer};
    use super::{Framing, ObjectUpload, Upload, crc_text, for_each_slice};
    use futures_util::FutureExt;
    use http_body_util::BodyExt;
    use std::time::UNIX_EPOCH;

    fn wire(upload: ObjectUpload) -> Vec<u8> {
        let len = upload.encoded_left;
        let collected = Upload::Object(Box::new(upload)).collect().now_or_never();
        let bytes = collected
            .expect("never waits")
            .expect("cannot fail")
            .to_bytes();
        assert_eq!(bytes.len() as u64, len, "the announced length");
        bytes.to_vec()
    }

    fn plain(content: &Content, start: u64, size: u64) -> Vec<u8> {
        let mut body = Vec::new();
        for_each_slice(content, start, 0, size, |slice| {
            body.extend_from_slice(slice)
        });
        body
    }

    #[test]
    fn a_crc_is_written_in_base64() {
        // The check value of CRC-64/NVME (of "123456789") and its base64, as in the catalogue of CRCs.
        assert_eq!(crc_text(0xAE8B_1486_0A79_9888), "rosUhgp5mIg=");
        assert_eq!(crc_text(0), "AAAAAAAAAAA=");
        assert_eq!(crc_text(u64::MAX), "//////////8=");
    }

    #[test]
    fn a_trailer_upload_is_chunked_as_announced() {
        let content = Content::new(1);
        let start = content.start("k");
        for size in [0, 1, 9, 10, 11, 20, 255, 256, 1 << 20, (1 << 20) + 7] {
            for chunk_len in [10, 4096, 65_536, 8 << 20] {
                let upload = ObjectUpload::new(
                    content.clone(),
                    start,
                    size,
                    Framing::UnsignedTrailer { chunk_len },
                );
                let body = plain(&content, start, size);
                let mut expected = Vec::new();
                for chunk in body.chunks(chunk_len as usize) {
                    expected.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    expected.extend_from_slice(chunk);
                    expected.extend_from_slice(b"\r\n");
                }
                let crc = crc_text(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &body));
                expected.extend_from_slice(
                    format!("0\r\nx-amz-checksum-crc64nvme:{crc}\r\n\r\n").as_bytes(),
                );
                assert!(wire(upload) == expected, "{size} in chunks of {chunk_len}");
            }
        }
    }

    #[test]
    fn a_signed_upload_has_its_announced_length_and_all_bytes() {
        let content = Content::new(1);
        let start = content.start("k");
        let credentials = Credentials {
            access_key: "a".to_owned(),
            secret_key: "s".to_owned(),
        };
        let mut signer = Signer::new(credentials, "us-east-1");
        for size in [0, 1, 65_536, 65_537, 200_000] {
            let signer = Box::new(signer.chunks(&AmzDate::of(UNIX_EPOCH), "seed".to_owned()));
            let framing = Framing::Signed {
                chunk_len: 65_536,
                signer,
            };
            let wire = wire(ObjectUpload::new(content.clone(), start, size, framing));
            let mut rest = wire.as_slice();
            let mut body = Vec::new();
            loop {
                let line_end = rest
                    .windows(2)
                    .position(|pair| pair == b"\r\n")
                    .expect("a chunk header");
                let line = std::str::from_utf8(&rest[..line_end]).expect("ASCII");
                let (len, signature) = line.split_once(";chunk-signature=").expect("a signature");
                assert_eq!(signature.len(), 64);
                let len = usize::from_str_radix(len, 16).expect("hex");
                body.extend_from_slice(&rest[line_end + 2..][..len]);
                rest = &rest[line_end + 2 + len..];
                assert_eq!(&rest[..2], b"\r\n");
                rest = &rest[2..];
                if len == 0 {
                    break;
                }
            }
            assert!(rest.is_empty());
            assert!(body == plain(&content, start, size));
        }
    }
}
