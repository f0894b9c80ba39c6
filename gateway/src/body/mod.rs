//! The way of object bodies: bytes of a request into chunks and shards on drives, and back.
//!
//! Writing: a chunk's memory is reserved as a whole before its first byte is asked for; bytes are copied once, from the
//! socket's buffer into those that go to the drives, and hashed while they are in the cache. While a chunk is being
//! stored the next one fills. Reading: windows of shards are read and verified by the store, and go to the socket
//! without a copy; a window that cannot be read is rebuilt from other shards.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_placement::ids::SiteId;
use holdfast_placement::map::SharedMap;
use holdfast_placement::seams::{Clock, Rng, spawn};
use holdfast_storage_node::buffer::{BufferPool, PoolConfig, PoolError};
use holdfast_storage_node::metadata::{Body, ChunkedBody, MissedSlot};
use holdfast_storage_node::repair::{RepairQueue, forget};
use holdfast_storage_node::shards::Shards;

use crate::error::{Code, S3Error};
use crate::md5_lanes::Md5Lanes;

mod counters;
mod fetch;
mod filling;
mod hedge;
mod late;
mod plan;
mod read;
mod store;
mod write;

pub use counters::{BodyCounters, CounterValues};
pub use read::BodySource;

use hedge::Hedging;
use late::LatePuts;
use read::BodyReader;

/// Where the bytes of a body come from: a request, or another body (server-side copy).
pub trait ByteSource: Send {
    /// Reserves what the source will need to be read to its end. Called once, before anything else is reserved for
    /// the body: a source that waited for memory later, while its reader holds some, could wait for ever.
    fn prepare(&mut self) -> impl Future<Output = Result<(), S3Error>> + Send {
        std::future::ready(Ok(()))
    }

    /// The next bytes, not empty; `None` at the end. After an error or the end it is not asked again.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>, S3Error>> + Send;

    /// Leaves the MD5 of its bytes to the reader, who tells it by [`set_md5`](Self::set_md5) after the end; `false` if the
    /// source needs none. Asked before the first bytes, if at all.
    fn leave_md5(&mut self) -> bool {
        false
    }

    /// The MD5 of all bytes, which the source left to the reader.
    ///
    /// # Errors
    /// `BadDigest` if it is not what the client announced.
    fn set_md5(&mut self, _md5: [u8; 16]) -> Result<(), S3Error> {
        Ok(())
    }

    /// Leaves the CRC-64/NVME of its bytes to the reader, who tells it by [`set_crc64`](Self::set_crc64) after the end;
    /// `false` if the source needs none. Asked before the first bytes, if at all.
    fn leave_crc64(&mut self) -> bool {
        false
    }

    /// The CRC-64/NVME of all bytes, which the source left to the reader.
    ///
    /// # Errors
    /// `BadDigest` if it is not what the client announced.
    fn set_crc64(&mut self, _crc64: u64) -> Result<(), S3Error> {
        Ok(())
    }
}

/// A range of a chunked body: what a read is made of (one piece for a simple object, one a part for multipart).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyPiece {
    pub body: ChunkedBody,
    /// Bytes of `body`, inside `0..body.len`.
    pub range: Range<u64>,
}

/// Where the bytes of a read are.
pub struct Whereabouts {
    pieces: Vec<BodyPiece>,
    again: Option<Again>,
}

/// Finds the same bytes again, wherever they are by now; `None`: they are no more. A body that is encoded anew is freed a grace
/// later, which a long read of it may outlast.
pub type Again = Box<dyn Fn() -> BoxFuture<'static, Option<Vec<BodyPiece>>> + Send>;

impl Whereabouts {
    /// In these pieces; where they cannot be had, in those that `again` gives.
    pub fn new(pieces: Vec<BodyPiece>, again: Again) -> Self {
        let again = Some(again);
        Self { pieces, again }
    }
}

impl From<Vec<BodyPiece>> for Whereabouts {
    fn from(pieces: Vec<BodyPiece>) -> Self {
        let again = None;
        Self { pieces, again }
    }
}

/// A body that is on flash, and that nobody knows of until it is committed.
#[derive(Clone, Debug)]
pub struct Written {
    /// Bytes in all.
    pub len: u64,
    pub body: Body,
    /// The bytes, if `body` is `Inline`; else empty.
    pub inline: Bytes,
    /// Shards that are missing because their drive was full, down or slow; the body can be read without them. To be
    /// committed with the body, so that they are made later.
    pub missed: Vec<MissedSlot>,
}

/// How bodies are cut, read ahead and raced.
#[derive(Clone, Debug)]
pub struct BodiesConfig {
    /// Bytes of a chunk of new bodies.
    pub chunk_len: u32,
    /// Where new bodies are placed.
    pub site: SiteId,
    /// Bytes of a shard that are read at a time.
    pub window_len: u32,
    /// Windows that are read ahead of the one being sent, as memory allows.
    pub windows_ahead: usize,
    /// How long a chunk waits for its slowest drives when enough others have their shards.
    pub put_patience: Duration,
    /// A read is raced by a reconstruction not before this.
    pub hedge_after_min: Duration,
    /// Where MD5s of large bodies are computed while several are being written, if anywhere.
    pub md5_lanes: Option<Arc<Md5Lanes>>,
}

impl Default for BodiesConfig {
    fn default() -> Self {
        Self {
            chunk_len: 4 << 20,
            site: SiteId::default(),
            window_len: 1 << 20,
            windows_ahead: 1,
            put_patience: Duration::from_secs(2),
            hedge_after_min: Duration::from_millis(20),
            md5_lanes: None,
        }
    }
}

/// Writes and reads object bodies. Clones share everything.
#[derive(Clone)]
pub struct Bodies {
    shared: Arc<Shared>,
}

struct Shared {
    shards: Arc<dyn Shards>,
    map: SharedMap,
    pool: BufferPool,
    /// Says how much of the pool copies may set aside together: one half, so that there is always memory for the
    /// chunks that they fill. Nothing is taken from it.
    copies: BufferPool,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    config: BodiesConfig,
    hedging: Hedging,
    late: Arc<LatePuts>,
    counters: BodyCounters,
    repairs: Arc<RepairQueue>,
    /// Bodies that are being written in chunks.
    writing: AtomicUsize,
}

impl Bodies {
    pub fn new(
        shards: Arc<dyn Shards>,
        map: SharedMap,
        pool: BufferPool,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
        config: BodiesConfig,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                copies: BufferPool::new(
                    PoolConfig::with_budget(pool.budget_bytes() / 2),
                    clock.clone(),
                ),
                late: Arc::new(LatePuts::new(&pool, clock.clone())),
                hedging: Hedging::new(config.hedge_after_min),
                shards,
                map,
                pool,
                clock,
                rng,
                config,
                counters: BodyCounters::default(),
                repairs: Arc::default(),
                writing: AtomicUsize::new(0),
            }),
        }
    }

    /// Stores all of `source`, whose length is `len` if it is known; bodies of up to `inline_max` bytes are returned
    /// instead. When it returns `Ok` the body is on flash, flushed. Else, and if the future is dropped, what was stored
    /// is deleted in the background.
    ///
    /// # Errors
    /// The source's own; `SlowDown` without memory, `StorageFull` and `ServiceUnavailable` if too few drives took
    /// their shards, `IncompleteBody` if the source is not `len` bytes long.
    pub async fn write(
        &self,
        source: &mut impl ByteSource,
        len: Option<u64>,
        inline_max: usize,
    ) -> Result<Written, S3Error> {
        write::write(&self.shared, source, len, inline_max).await
    }

    /// Frees in the background the shards of a body that will not be committed.
    pub fn discard(&self, body: &Body) {
        if let Body::Chunked(body) = body {
            let (shared, body) = (self.shared.clone(), *body);
            spawn(async move { shared.forget(body).await });
        }
    }

    /// The bytes of all pieces, one after the other, as the body of a response. The first of them were read and
    /// verified when it returns. If later ones cannot be read the body ends in an error, which makes the server close
    /// the connection: no wrong byte is sent.
    ///
    /// # Errors
    /// `SlowDown` without memory, `InternalError` if the first bytes cannot be read.
    pub async fn read(&self, at: impl Into<Whereabouts>) -> Result<axum::body::Body, S3Error> {
        let mut reader = BodyReader::new(self.shared.clone(), at.into());
        reader.first().await?;
        Ok(axum::body::Body::new(reader))
    }

    /// The bytes of all pieces as a source to write from.
    pub fn source(&self, at: impl Into<Whereabouts>) -> BodySource {
        BodySource::new(self.shared.clone(), at.into())
    }

    /// What happened so far.
    pub fn counters(&self) -> CounterValues {
        self.shared.counters.values()
    }

    /// Shards that reads found missing or bad, for who rebuilds them.
    pub fn repairs(&self) -> Arc<RepairQueue> {
        self.shared.repairs.clone()
    }
}

impl Shared {
    async fn forget(&self, body: ChunkedBody) {
        self.late.ended(body.set).await;
        let forgotten = forget(self.shards.as_ref(), &self.map.load(), &[body]).await;
        self.counters.discarded_shards.add(forgotten.deleted);
        self.counters
            .orphaned_shards
            .add(forgotten.left + forgotten.failed);
    }
}

/// What a client gets when there is no memory in time.
fn slow_down(_: PoolError) -> S3Error {
    Code::SlowDown.into()
}

#[cfg(test)]
mod costs;
#[cfg(test)]
mod tests;
