//! What goes over a line: frames, each with a MAC that says where in the line's order it stands.

use bytes::{Bytes, BytesMut};

use super::READ_LEN;
use crate::ids::Epoch;

/// Length, call, kind, epoch and length of the name: `u32`, `u32`, `u8`, `u64` and `u8`, big endian. After them come name, head and
/// MAC. The length is that of all but itself.
const FIXED_LEN: usize = 4 + 4 + 1 + 8 + 1;
const MAC_LEN: usize = 16;

/// Keys of a line: a sender's and a receiver's.
pub(in crate::rpc) struct LineKeys {
    pub calls: [u8; 32],
    pub answers: [u8; 32],
}

/// What a frame says.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::rpc) struct Frame {
    /// Number of the call on its line.
    pub call: u32,
    /// A verdict in answers, 0 in calls.
    pub kind: u8,
    pub epoch: Epoch,
    /// Name of the service in calls, nothing in answers.
    pub name: Bytes,
    pub head: Bytes,
}

/// What came is not what the other side of this line has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::rpc) struct Damaged;

/// Keyed BLAKE3 of the number of a frame on its way and the frame.
struct Macs {
    key: [u8; 32],
    number: u64,
    /// What is hashed: in one piece, several KiB are hashed side by side.
    piece: Vec<u8>,
}

impl Macs {
    fn new(key: [u8; 32]) -> Self {
        Self {
            key,
            number: 0,
            piece: Vec::new(),
        }
    }

    fn next(&mut self, frame: &[u8]) -> blake3::Hash {
        self.piece.clear();
        self.piece.extend_from_slice(&self.number.to_be_bytes());
        self.piece.extend_from_slice(frame);
        self.number += 1;
        let mac = blake3::keyed_hash(&self.key, &self.piece);
        self.piece.shrink_to(READ_LEN);
        mac
    }
}

/// Makes frames.
pub(in crate::rpc) struct FrameWriter {
    macs: Macs,
}

impl FrameWriter {
    pub fn new(key: [u8; 32]) -> Self {
        Self {
            macs: Macs::new(key),
        }
    }

    /// Appends a frame. `name` has at most 255 bytes.
    pub fn push(
        &mut self,
        out: &mut Vec<u8>,
        (call, kind, epoch): (u32, u8, Epoch),
        name: &str,
        head: &[u8],
    ) {
        let start = out.len();
        let len = FIXED_LEN - 4 + name.len() + head.len() + MAC_LEN;
        out.reserve(4 + len);
        out.extend_from_slice(&(len as u32).to_be_bytes());
        out.extend_from_slice(&call.to_be_bytes());
        out.push(kind);
        out.extend_from_slice(&epoch.0.to_be_bytes());
        out.push(name.len() as u8);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(head);
        let mac = self.macs.next(&out[start..]);
        out.extend_from_slice(&mac.as_bytes()[..MAC_LEN]);
    }
}

/// Reads frames.
pub(in crate::rpc) struct FrameReader {
    macs: Macs,
    /// Name and head together, bytes at most.
    len_max: usize,
    pub buffer: BytesMut,
}

impl FrameReader {
    pub fn new(key: [u8; 32], len_max: usize) -> Self {
        Self {
            macs: Macs::new(key),
            len_max,
            buffer: BytesMut::new(),
        }
    }

    /// Bytes that the frame at hand lacks, as far as is known: 0 before its length has come.
    pub fn missing(&self) -> usize {
        let len = self.buffer.first_chunk::<4>();
        let len = len.map_or(0, |len| 4 + u32::from_be_bytes(*len) as usize);
        len.saturating_sub(self.buffer.len())
    }

    /// The next frame; `None` while it has not come whole.
    pub fn next(&mut self) -> Result<Option<Frame>, Damaged> {
        let Some(len) = self.buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let len = 4 + u32::from_be_bytes(*len) as usize;
        if len < FIXED_LEN + MAC_LEN || len > FIXED_LEN + self.len_max + MAC_LEN {
            return Err(Damaged);
        }
        if self.buffer.len() < len {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(len).freeze();
        let mac = frame.split_off(len - MAC_LEN);
        let expected = self.macs.next(&frame);
        // Compared in constant time by `blake3::Hash`, which has only whole ones: what is not sent is taken as it should be.
        let mut given = *expected.as_bytes();
        given[..MAC_LEN].copy_from_slice(&mac);
        if blake3::Hash::from_bytes(given) != expected {
            return Err(Damaged);
        }
        let number = |at: usize| {
            frame
                .get(at..at + 4)?
                .try_into()
                .ok()
                .map(u32::from_be_bytes)
        };
        let epoch = frame.get(9..17).and_then(|bytes| bytes.try_into().ok());
        let (Some(call), Some(epoch)) = (number(4), epoch) else {
            return Err(Damaged);
        };
        let kind = frame[8];
        let name_len = usize::from(frame[17]);
        let mut name = frame.split_off(FIXED_LEN);
        if name.len() < name_len {
            return Err(Damaged);
        }
        let head = name.split_off(name_len);
        Ok(Some(Frame {
            call,
            kind,
            epoch: Epoch(u64::from_be_bytes(epoch)),
            name,
            head,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn written() -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = FrameWriter::new(KEY);
        writer.push(&mut out, (1, 0, Epoch(5)), "raft", b"head");
        writer.push(&mut out, (2, 3, Epoch(6)), "", b"");
        out
    }

    fn read(bytes: &[u8], step: usize) -> Result<Vec<Frame>, Damaged> {
        let mut reader = FrameReader::new(KEY, 100);
        let mut frames = Vec::new();
        for piece in bytes.chunks(step) {
            reader.buffer.extend_from_slice(piece);
            while let Some(frame) = reader.next()? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    #[test]
    fn frames_are_read_as_they_were_written_in_whatever_pieces_they_come() {
        let bytes = written();
        for step in [1, 7, bytes.len()] {
            let frames = read(&bytes, step).unwrap();
            assert_eq!(frames.len(), 2);
            let first = &frames[0];
            assert_eq!((first.call, first.kind, first.epoch), (1, 0, Epoch(5)));
            assert_eq!(
                (&first.name[..], &first.head[..]),
                (&b"raft"[..], &b"head"[..])
            );
            let second = &frames[1];
            assert_eq!((second.call, second.kind, second.epoch), (2, 3, Epoch(6)));
            assert!(second.name.is_empty() && second.head.is_empty());
        }
    }

    #[test]
    fn no_bit_can_be_changed_and_no_frame_moved() {
        let bytes = written();
        for place in 0..bytes.len() * 8 {
            let mut broken = bytes.clone();
            broken[place / 8] ^= 1 << (place % 8);
            // A length that became longer is waited for.
            let read = read(&broken, bytes.len());
            assert!(read.map_or(true, |frames| frames.len() < 2), "bit {place}");
        }
        let first = 4 + u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
        let turned = [&bytes[first..], &bytes[..first]].concat();
        assert_eq!(read(&turned, turned.len()), Err(Damaged));
        let again = [&bytes[..first], &bytes[..first]].concat();
        assert_eq!(read(&again, again.len()), Err(Damaged));
        assert_eq!(read(&[0xff; 40], 40), Err(Damaged), "too long");
        assert_eq!(read(&[0; 40], 40), Err(Damaged), "too short");
    }
}
