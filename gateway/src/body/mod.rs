//! The way of object bodies: bytes of a request into chunks and shards on drives, and back.

use std::future::Future;
use std::ops::Range;

use bytes::Bytes;
use holdfast_storage_node::metadata::{Body, ChunkedBody};

use crate::error::S3Error;

/// Where the bytes of a body come from: a request, or another body (server-side copy).
pub trait ByteSource: Send {
    /// The next bytes, not empty; `None` at the end. After an error or the end it is not asked again.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>, S3Error>> + Send;
}

/// A range of a chunked body: what a read is made of (one piece for a simple object, one a part for multipart).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyPiece {
    pub body: ChunkedBody,
    /// Bytes of `body`, inside `0..body.len`.
    pub range: Range<u64>,
}

/// A shard of a body that is not on its drive although the body was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MissedSlot {
    pub chunk: u32,
    pub slot: u8,
}

/// A body that is on flash, and that nobody knows of until it is committed.
#[derive(Clone, Debug)]
pub struct Written {
    /// Bytes in all.
    pub len: u64,
    pub body: Body,
    /// The bytes, if `body` is `Inline`; else empty.
    pub inline: Bytes,
    /// Shards that are missing because their drive was full or down; the body can be read without them.
    pub missed: Vec<MissedSlot>,
}
