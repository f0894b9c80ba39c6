//! Which windows of which shards make up the bytes to be read.

use std::collections::VecDeque;
use std::ops::Range;

use holdfast_storage_node::erasure::ChunkLayout;
use holdfast_storage_node::metadata::ChunkedBody;
use holdfast_storage_node::shard_store::ShardId;

use super::BodyPiece;
use super::fetch::Unread;

/// A part of one data shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub body: ChunkedBody,
    pub chunk: u32,
    pub slot: u8,
    /// Bytes of the shard.
    pub range: Range<u32>,
    /// Why its own shard could not be read: it is rebuilt from the others.
    pub unread: Option<Unread>,
}

impl Window {
    pub(super) fn len(&self) -> u64 {
        u64::from(self.range.end - self.range.start)
    }

    /// The shard in a slot of its chunk.
    pub(super) fn shard(&self, slot: u8) -> ShardId {
        ShardId {
            set: self.body.set,
            chunk: self.chunk,
            slot,
        }
    }

    pub(super) fn layout(&self) -> ChunkLayout {
        self.body.layout_of(self.chunk)
    }
}

/// What is left of `pieces` behind their first `len` bytes.
pub(super) fn behind(mut pieces: Vec<BodyPiece>, mut len: u64) -> Vec<BodyPiece> {
    for BodyPiece { range, .. } in &mut pieces {
        let skipped = len.min(range.end.saturating_sub(range.start));
        range.start += skipped;
        len -= skipped;
    }
    pieces.retain(|piece| !piece.range.is_empty());
    pieces
}

/// The windows of a read, in order.
pub(super) struct Plan {
    pieces: std::vec::IntoIter<BodyPiece>,
    current: Option<BodyPiece>,
    /// Windows that were taken and given back.
    returned: VecDeque<Window>,
    window_len: u32,
    /// Bytes not yet taken.
    left: u64,
}

impl Plan {
    pub(super) fn new(pieces: Vec<BodyPiece>, window_len: u32) -> Self {
        let pieces: Vec<BodyPiece> = pieces
            .into_iter()
            .map(|piece| BodyPiece {
                range: piece.range.start..piece.range.end.min(piece.body.len),
                body: piece.body,
            })
            .filter(|piece| piece.range.start < piece.range.end)
            .collect();
        Self {
            left: pieces
                .iter()
                .map(|piece| piece.range.end - piece.range.start)
                .sum(),
            pieces: pieces.into_iter(),
            current: None,
            returned: VecDeque::new(),
            window_len: window_len.max(1),
        }
    }

    /// Bytes of all windows not yet taken.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    pub(super) fn next(&mut self) -> Option<Window> {
        let window = match self.returned.pop_front() {
            Some(window) => window,
            None => self.cut()?,
        };
        self.left -= window.len();
        Some(window)
    }

    /// Puts a window back to the front.
    pub(super) fn give_back(&mut self, window: Window) {
        self.left += window.len();
        self.returned.push_front(window);
    }

    fn cut(&mut self) -> Option<Window> {
        if self.current.is_none() {
            self.current = self.pieces.next();
        }
        let piece = self.current.as_mut()?;
        let body = piece.body;
        let chunk_len = u64::from(body.chunk_len.max(1));
        let chunk = (piece.range.start / chunk_len) as u32;
        let layout = body.layout_of(chunk);
        let from = (piece.range.start % chunk_len) as u32;
        let to = (piece.range.end - u64::from(chunk) * chunk_len).min(chunk_len) as u32;
        let (slot, mut range) = layout.locate(from..to).next()?;
        // Windows begin at multiples of their length, so that those of neighbouring reads share no blocks.
        let boundary = (range.start / self.window_len + 1).saturating_mul(self.window_len);
        range.end = range.end.min(boundary);
        piece.range.start += u64::from(range.end - range.start);
        if piece.range.start >= piece.range.end {
            self.current = None;
        }
        Some(Window {
            body,
            chunk,
            slot,
            range,
            unread: None,
        })
    }
}
