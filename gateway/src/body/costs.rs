//! What the way of a body costs, CPU-seconds per GB: `cargo test --release -p holdfast-gateway costs -- --ignored
//! --nocapture`. The drives cost nothing here: shards are dropped, and reads give what a buffer happens to hold.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_placement::ids::DriveId;
use holdfast_placement::protection::Protection;
use holdfast_placement::seams::{SeededRng, SystemClock};
use holdfast_storage_node::buffer::{Buffer, BufferPool, PoolConfig};
use holdfast_storage_node::erasure::Code;
use holdfast_storage_node::metadata::Body;
use holdfast_storage_node::shard_store::{
    DeleteShardError, GetShardError, PutShardError, ShardId, ShardInfo,
};
use holdfast_storage_node::shards::{ShardFacts, Shards};
use http_body_util::BodyExt;

use super::tests::map_of;
use super::{Bodies, BodiesConfig, BodyPiece, ByteSource};
use crate::error::S3Error;

const GIB: u64 = 1 << 30;
const OBJECT_LEN: u64 = 64 << 20;

struct NoDrives;

#[async_trait]
impl Shards for NoDrives {
    async fn put(
        &self,
        _: DriveId,
        _: ShardId,
        _: ShardFacts,
        _: Buffer,
    ) -> Result<(), PutShardError> {
        Ok(())
    }

    async fn get(
        &self,
        _: DriveId,
        _: ShardId,
        range: Range<u32>,
        mut buffer: Buffer,
    ) -> Result<Bytes, GetShardError> {
        buffer.set_len(range.len());
        Ok(buffer.freeze(0..range.len()))
    }

    async fn delete(&self, _: DriveId, _: &[ShardId]) -> Result<(), DeleteShardError> {
        Ok(())
    }

    async fn info(&self, _: DriveId, _: ShardId) -> Result<Option<ShardInfo>, GetShardError> {
        Ok(None)
    }

    async fn list(
        &self,
        _: DriveId,
        _: Option<ShardId>,
        _: usize,
    ) -> Result<Vec<ShardInfo>, GetShardError> {
        Ok(Vec::new())
    }

    fn is_down(&self, _: DriveId) -> bool {
        false
    }
}

/// The same frames again and again: what a socket gives, without its cost.
struct Endless {
    frames: Vec<Bytes>,
    given: u64,
}

impl ByteSource for Endless {
    async fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
        if self.given == OBJECT_LEN {
            return Ok(None);
        }
        let next = self.given as usize % self.frames.len();
        let mut frame = self.frames[next].clone();
        let left = OBJECT_LEN - self.given;
        if left < frame.len() as u64 {
            frame.truncate(left as usize);
        }
        self.given += frame.len() as u64;
        Ok(Some(frame))
    }
}

/// CPU time of this thread, seconds (`/proc/thread-self/schedstat`, first field, nanoseconds).
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanos: f64 = text.split(' ').next().unwrap().parse().unwrap();
    nanos / 1e9
}

/// Prints the least of a few tries: the others were disturbed.
fn show(what: &str, bytes: u64, mut work: impl FnMut()) {
    let least = (0..5)
        .map(|_| {
            let began = cpu_seconds();
            work();
            cpu_seconds() - began
        })
        .fold(f64::MAX, f64::min);
    let a_gb = least / (bytes as f64 / 1e9);
    println!("{what:<44} {a_gb:.3} CPU-s/GB");
}

#[test]
#[ignore = "a measurement"]
fn costs() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let frames: Vec<Bytes> = (0..16u8).map(|i| vec![i; 400 << 10].into()).collect();
    let chunk = vec![7u8; 4 << 20];
    let mut to = vec![1u8; 4 << 20];
    show("copy, 4 MiB", GIB, || {
        for _ in 0..GIB / (4 << 20) {
            to.copy_from_slice(std::hint::black_box(&chunk));
            std::hint::black_box(&mut to);
        }
    });
    show("blake3, slices of 128 KiB", GIB, || {
        for _ in 0..GIB / (4 << 20) {
            let mut hasher = blake3::Hasher::new();
            for piece in chunk.chunks(128 << 10) {
                hasher.update(std::hint::black_box(piece));
            }
            std::hint::black_box(hasher.finalize());
        }
    });
    show("blake3, slices of 16 KiB", GIB, || {
        for _ in 0..GIB / (4 << 20) {
            let mut hasher = blake3::Hasher::new();
            for piece in chunk.chunks(16 << 10) {
                hasher.update(std::hint::black_box(piece));
            }
            std::hint::black_box(hasher.finalize());
        }
    });
    for (data, parity) in [(1, 1), (1, 2), (2, 2), (4, 2), (12, 2), (12, 4)] {
        let protection = Protection { data, parity };
        let code = Code::of(protection).unwrap();
        let shard = (4 << 20) / data as usize;
        let shards: Vec<&[u8]> = chunk.chunks_exact(shard).take(data as usize).collect();
        let mut rows = vec![vec![0u8; shard]; parity as usize];
        show(&format!("parity {protection}"), GIB, || {
            for _ in 0..GIB / (4 << 20) {
                let mut rows: Vec<&mut [u8]> = rows.iter_mut().map(Vec::as_mut_slice).collect();
                code.encode(std::hint::black_box(&shards), &mut rows);
            }
        });
    }
    for (data, parity) in [(1, 0), (1, 1), (4, 2), (12, 2)] {
        let protection = Protection { data, parity };
        let clock = Arc::new(SystemClock);
        let bodies = Bodies::new(
            Arc::new(NoDrives),
            map_of(16, protection),
            BufferPool::new(PoolConfig::with_budget(256 << 20), clock.clone()),
            clock,
            Arc::new(SeededRng::new(1)),
            BodiesConfig::default(),
        );
        let mut last = None;
        show(&format!("write 64 MiB {protection}"), GIB, || {
            for _ in 0..GIB / OBJECT_LEN {
                let mut source = Endless {
                    frames: frames.clone(),
                    given: 0,
                };
                let written = bodies.write(&mut source, Some(OBJECT_LEN), 0);
                last = Some(runtime.block_on(written).unwrap());
            }
        });
        let Some(Body::Chunked(body)) = last.map(|written| written.body) else {
            panic!("64 MiB are stored in chunks");
        };
        show(&format!("read 64 MiB {protection}"), GIB, || {
            for _ in 0..GIB / OBJECT_LEN {
                runtime.block_on(async {
                    let piece = BodyPiece {
                        body,
                        range: 0..body.len,
                    };
                    let mut stream = bodies.read(vec![piece]).await.unwrap();
                    let mut len = 0;
                    while let Some(frame) = stream.frame().await {
                        len += frame.unwrap().into_data().unwrap().len() as u64;
                    }
                    assert_eq!(len, OBJECT_LEN);
                });
            }
        });
    }
}
