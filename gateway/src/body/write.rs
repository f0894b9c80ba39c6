//! Streams a body into chunks.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use holdfast_placement::ids::ChunkSetId;
use holdfast_placement::map::{ClusterMap, DriveState};
use holdfast_placement::protection::Protection;
use holdfast_placement::ring::{Ring, Slot};
use holdfast_placement::seams::spawn;
use holdfast_storage_node::erasure;
use holdfast_storage_node::metadata::{Body, ChunkedBody, MissedSlot};
use holdfast_storage_node::repair::BODY_AGE_MAX;
use holdfast_storage_node::shard_store::{JoinedChecksum, block_checksums};

use super::filling::{Filled, Filling};
use super::store::Stored;
use super::{ByteSource, Shared, Written, slow_down};
use crate::error::{Code, S3Error};
use crate::md5_lanes::{Md5Lanes, Md5State};

pub(super) async fn write(
    shared: &Arc<Shared>,
    source: &mut impl ByteSource,
    len: Option<u64>,
    inline_max: usize,
) -> Result<Written, S3Error> {
    match len {
        Some(len) if len <= inline_max as u64 => write_inline(source, len as usize).await,
        Some(0) => write_inline(source, 0).await,
        _ => write_chunks(shared, source, len, inline_max).await,
    }
}

/// Takes a body of exactly `len` bytes. One that comes in one piece is not copied.
async fn write_inline(source: &mut impl ByteSource, len: usize) -> Result<Written, S3Error> {
    let first = source.next().await?.unwrap_or_default();
    let mut inline = first;
    if inline.len() < len {
        let mut whole = BytesMut::with_capacity(len);
        whole.extend_from_slice(&inline);
        while whole.len() < len {
            let next = source.next().await?.ok_or(Code::IncompleteBody)?;
            if next.len() > len - whole.len() {
                return Err(too_long());
            }
            whole.extend_from_slice(&next);
        }
        inline = whole.freeze();
    }
    // The end comes only after the source has verified all of it.
    if inline.len() > len || (len > 0 && source.next().await?.is_some()) {
        return Err(too_long());
    }
    Ok(Written::inline(inline))
}

impl Written {
    fn inline(inline: Bytes) -> Self {
        Written {
            len: inline.len() as u64,
            body: if inline.is_empty() {
                Body::Empty
            } else {
                Body::Inline
            },
            inline,
            missed: Vec::new(),
        }
    }
}

async fn write_chunks(
    shared: &Arc<Shared>,
    source: &mut impl ByteSource,
    len: Option<u64>,
    inline_max: usize,
) -> Result<Written, S3Error> {
    let protection = shared.map.load().protection;
    let code = erasure::Code::of(protection).map_err(internal)?;
    shared.check_writable(protection)?;
    source.prepare().await?;

    let chunk_len = shared.config.chunk_len;
    let mut under_way = UnderWay::new(shared.clone(), protection);
    under_way.md5 = Digesting::of(shared, source, len);
    // It follows from the checksums of blocks, which are computed anyway.
    let mut crc64 = source.leave_crc64().then(JoinedChecksum::default);
    let mut rest = Bytes::new();
    let mut written = 0u64;
    let mut ended = false;
    while !ended && len != Some(written) {
        let room = len.map_or(u64::from(chunk_len), |len| len - written);
        let room = room.min(u64::from(chunk_len)) as u32;
        let reserving = Filling::reserve(&shared.pool, room, protection, code);
        let mut chunk = under_way.meanwhile(reserving).await?.map_err(slow_down)?;
        while !chunk.is_full() {
            if rest.is_empty() {
                // Even empty it would keep its memory from a source that needs it for the next bytes.
                rest = Bytes::new();
                match under_way.meanwhile(source.next()).await?? {
                    Some(bytes) => rest = bytes,
                    None => {
                        ended = true;
                        break;
                    }
                }
            }
            chunk.take(&mut rest);
        }
        if len.is_some() && ended {
            return Err(Code::IncompleteBody.into());
        }
        written += u64::from(chunk.filled());
        if ended && under_way.chunks == 0 && written <= inline_max as u64 {
            let bytes = chunk.to_bytes();
            if let Some(mut crc64) = crc64 {
                crc64.add_blocks(&block_checksums(&bytes), bytes.len());
                source.set_crc64(crc64.value())?;
            }
            return Ok(Written::inline(bytes));
        }
        if chunk.filled() > 0 {
            let filled = chunk.finish().map_err(internal)?;
            if let Some(crc64) = &mut crc64 {
                filled.add_to(crc64);
            }
            // One chunk is stored while the next fills; a third has to wait.
            under_way.finish_chunk().await?;
            under_way.check_age()?;
            under_way.begin_chunk(filled);
        }
    }
    // The end comes only after the source has verified all of it.
    if !rest.is_empty() || (!ended && under_way.meanwhile(source.next()).await??.is_some()) {
        return Err(too_long());
    }
    if let Some(crc64) = crc64 {
        source.set_crc64(crc64.value())?;
    }
    under_way.finish_chunk().await?;
    under_way.check_age()?;
    if let Some(md5) = under_way.md5.take() {
        source.set_md5(md5.state.finish())?;
    }
    Ok(under_way.into_written(written))
}

/// Stores one chunk, with its bytes added to the MD5 if that is computed here; must run to its end once it was polled.
type StoreChunk =
    Pin<Box<dyn Future<Output = Result<(Stored, Option<Digesting>), S3Error>> + Send>>;

/// An MD5 that is computed from chunks, beside those of other bodies.
struct Digesting {
    lanes: Arc<Md5Lanes>,
    state: Md5State,
}

impl Digesting {
    /// Takes the MD5 over from the source where that is worth it.
    fn of(shared: &Arc<Shared>, source: &mut impl ByteSource, len: Option<u64>) -> Option<Self> {
        let lanes = shared.config.md5_lanes.clone()?;
        let others = shared.writing.load(Ordering::Relaxed).saturating_sub(1);
        (lanes.suits(len, others) && source.leave_md5()).then(|| Self {
            lanes,
            state: Md5State::default(),
        })
    }

    /// Adds a chunk.
    async fn add(self, filled: &mut Filled) -> Result<Self, S3Error> {
        let Self { lanes, state } = self;
        let parity = filled
            .shards
            .split_off(filled.layout.protection.data as usize);
        let data = std::mem::take(&mut filled.shards);
        let (state, data) = lanes
            .add(state, data)
            .await
            .ok_or_else(|| internal("the thread for MD5s has died"))?;
        filled.shards = data;
        filled.shards.extend(parity);
        Ok(Self { lanes, state })
    }
}

/// A body of which chunks are stored, and which is deleted again unless it is completed.
struct UnderWay {
    shared: Arc<Shared>,
    set: ChunkSetId,
    began: Duration,
    protection: Protection,
    /// Chunks stored or being stored.
    chunks: u32,
    storing: Option<StoreChunk>,
    missed: Vec<MissedSlot>,
    /// By which map chunks were stored: the first chunk for which a ring counted, and the map.
    stored_by: Vec<(u32, Arc<ClusterMap>)>,
    /// The MD5 so far, while no chunk is being stored.
    md5: Option<Digesting>,
    complete: bool,
}

impl UnderWay {
    fn new(shared: Arc<Shared>, protection: Protection) -> Self {
        shared.writing.fetch_add(1, Ordering::Relaxed);
        Self {
            set: ChunkSetId::begun(shared.clock.wall(), shared.rng.as_ref()),
            began: shared.clock.monotonic(),
            shared,
            protection,
            chunks: 0,
            storing: None,
            missed: Vec::new(),
            stored_by: Vec::new(),
            md5: None,
            complete: false,
        }
    }

    fn begin_chunk(&mut self, mut filled: Filled) {
        let (shared, set, chunk, md5) =
            (self.shared.clone(), self.set, self.chunks, self.md5.take());
        self.storing = Some(Box::pin(async move {
            let md5 = match md5 {
                Some(md5) => Some(md5.add(&mut filled).await?),
                None => None,
            };
            Ok((shared.store(set, chunk, filled).await?, md5))
        }));
        self.chunks += 1;
    }

    /// Bodies that nothing refers to a day after they were begun are deleted: none may be committed then.
    fn check_age(&self) -> Result<(), S3Error> {
        let age = self.shared.clock.monotonic().saturating_sub(self.began);
        if age > BODY_AGE_MAX {
            return Err(S3Error::with(
                Code::RequestTimeout,
                "The request took more than 12 hours. Upload the object in parts.",
            ));
        }
        Ok(())
    }

    /// Waits for the chunk that is being stored, if there is one.
    async fn finish_chunk(&mut self) -> Result<(), S3Error> {
        if let Some(storing) = &mut self.storing {
            let stored = storing.await;
            self.note(stored)?;
        }
        Ok(())
    }

    /// What became of the chunk that was being stored.
    fn note(
        &mut self,
        stored: Result<(Stored, Option<Digesting>), S3Error>,
    ) -> Result<(), S3Error> {
        self.storing = None;
        let (Stored { missed, map }, md5) = stored?;
        self.missed.extend(missed);
        self.md5 = md5;
        let version = |map: &ClusterMap| map.ring(self.shared.config.site).map(Ring::version);
        let known = self.stored_by.last().map(|(_, map)| version(map));
        if known != Some(version(&map)) {
            // The one after it has not begun.
            self.stored_by.push((self.chunks - 1, map));
        }
        Ok(())
    }

    /// Shards on drives that were lost meanwhile and that the ring has let go of: who looked for what was on them did not know of
    /// this body.
    fn let_go_of(&self, body: &ChunkedBody) -> Vec<MissedSlot> {
        let now = self.shared.map.load();
        let Some(ring) = now.ring(body.site) else {
            return Vec::new();
        };
        let ends = self.stored_by.iter().skip(1).map(|(first, _)| *first);
        let runs = self.stored_by.iter().zip(ends.chain([self.chunks]));
        let mut gone = Vec::new();
        for ((first, map), end) in runs {
            let Some(before) = map.ring(body.site).filter(|_| !Arc::ptr_eq(map, &now)) else {
                continue;
            };
            for chunk in *first..end {
                let partition = ring.partition_of(body.set, chunk);
                for slot in body.layout_of(chunk).stored_slots() {
                    let Some(stored) = before.slot(partition, slot) else {
                        continue;
                    };
                    // One that moved away what it had, this too, is not lost, but for one that has left the map since: that costs a
                    // look by repair.
                    let drive = now.drive(stored.target);
                    let is_lost = drive.is_none_or(|drive| drive.state == DriveState::Lost);
                    let slot_now = ring.slot(partition, slot).into_iter();
                    let mut drives = slot_now.flat_map(Slot::drives);
                    if is_lost && drives.all(|drive| drive != stored.target) {
                        gone.push(MissedSlot { chunk, slot });
                    }
                }
            }
        }
        gone
    }

    /// Completes `work` while the chunk goes on being stored; ends early if that fails.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Result<T, S3Error> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            // Storing first: a chunk just begun is on its way to the drives before more bytes are asked for.
            if let Some(storing) = &mut self.storing
                && let Poll::Ready(stored) = storing.as_mut().poll(cx)
            {
                self.note(stored)?;
            }
            work.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    fn into_written(mut self, len: u64) -> Written {
        self.complete = true;
        if self.chunks == 0 {
            return Written::inline(Bytes::new());
        }
        let body = ChunkedBody { len, ..self.body() };
        let mut missed = std::mem::take(&mut self.missed);
        let gone = self.let_go_of(&body).into_iter();
        missed.extend(
            gone.filter(|slot| !missed.contains(slot))
                .collect::<Vec<_>>(),
        );
        Written {
            len,
            body: Body::Chunked(body),
            inline: Bytes::new(),
            missed,
        }
    }

    /// All chunks so far, as if they were whole.
    fn body(&self) -> ChunkedBody {
        let chunk_len = self.shared.config.chunk_len;
        ChunkedBody {
            set: self.set,
            len: u64::from(self.chunks) * u64::from(chunk_len),
            chunk_len,
            protection: self.protection,
            site: self.shared.config.site,
        }
    }
}

impl Drop for UnderWay {
    /// The client went away, or something failed: what was stored is deleted, after what is being stored has ended.
    fn drop(&mut self) {
        self.shared.writing.fetch_sub(1, Ordering::Relaxed);
        if self.complete || self.chunks == 0 || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let (shared, body, storing) = (self.shared.clone(), self.body(), self.storing.take());
        spawn(async move {
            if let Some(storing) = storing {
                // Stored or not: it is deleted.
                drop(storing.await);
            }
            shared.forget(body).await;
        });
    }
}

fn too_long() -> S3Error {
    S3Error::with(
        Code::InvalidRequest,
        "The request has more bytes than its headers announced.",
    )
}

fn internal(error: impl std::fmt::Display) -> S3Error {
    tracing::error!(%error, "a body cannot be encoded");
    Code::InternalError.into()
}
