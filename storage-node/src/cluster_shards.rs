//! Shards on any drive of the cluster: local ones directly, others by calls to their nodes.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use holdfast_placement::ids::{DriveId, NodeId};
use holdfast_placement::rpc::{
    self, Answer, Call, CallError, Landing, Payload, PeerServer, Peers, Service,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::buffer::{Buffer, BufferPool};
use crate::shard_store::{
    DeleteShardError, GetShardError, PutShardError, ShardId, ShardInfo, checksum_of_blocks,
};
use crate::shards::{Held, LocalShards, ShardFacts, Shards, read_capacity};

const PUT: Service = Service {
    name: "shard-put",
    fenced: true,
};
const GET: Service = Service {
    name: "shard-get",
    fenced: true,
};
const DELETE: Service = Service {
    name: "shard-delete",
    fenced: true,
};
const INFO: Service = Service {
    name: "shard-info",
    fenced: true,
};
const LIST: Service = Service {
    name: "shard-list",
    fenced: true,
};

const HOLDS: Service = Service {
    name: "shard-holds",
    fenced: true,
};

/// Shards that are asked for with one call, at most.
const HOLDS_MAX: usize = 16_384;

/// How often a put is sent to a drive that is not known to be down.
const PUT_TRIES: u32 = 2;

/// How long small calls may take.
const SMALL_TIME: Duration = Duration::from_secs(10);

/// Bytes of a shard at most: what a call says is not believed beyond.
const SHARD_LEN_MAX: u32 = 64 << 20;

/// The shards of the cluster as one node sees them.
pub struct ClusterShards {
    local: Arc<LocalShards>,
    peers: Peers,
}

#[derive(Serialize, Deserialize)]
struct PutMessage {
    drive: DriveId,
    id: ShardId,
    facts: ShardFacts,
    len: u32,
    /// CRC-64/NVME of the payload: TCP's checksum is too weak for a store.
    crc: u64,
}

/// Answers, spoken between versions: append only.
#[derive(Serialize, Deserialize)]
enum WirePutError {
    Full,
    Down(String),
    Io(String),
    TooLarge(u64),
    Busy,
    Outdated,
}

#[derive(Serialize, Deserialize)]
enum WireGetError {
    NotFound,
    Corrupt(String),
    OutOfRange,
    Busy,
    Down(String),
    Io(String),
}

#[derive(Serialize, Deserialize)]
enum WireDeleteError {
    Down(String),
    Io(String),
}

impl ClusterShards {
    pub fn new(local: Arc<LocalShards>, peers: Peers) -> Self {
        Self { local, peers }
    }

    /// The node of a drive, if that is another one.
    fn elsewhere(&self, drive: DriveId) -> Option<NodeId> {
        let map = self.peers.map().load();
        let node = map.drive(drive)?.node;
        (node != self.peers.own()).then_some(node)
    }

    async fn ask<M: Serialize, A: DeserializeOwned>(
        &self,
        node: NodeId,
        service: Service,
        message: &M,
    ) -> Result<A, CallError> {
        let failed = |reason: String| CallError::Failed { to: node, reason };
        let head = rpc::encode(message).map_err(|error| failed(error.to_string()))?;
        let answer = self.peers.call(node, service, head, SMALL_TIME).await?;
        rpc::decode(&answer).map_err(failed)
    }
}

#[async_trait]
impl Shards for ClusterShards {
    async fn put(
        &self,
        drive: DriveId,
        id: ShardId,
        facts: ShardFacts,
        payload: Buffer,
    ) -> Result<(), PutShardError> {
        let Some(node) = self.elsewhere(drive) else {
            return self.local.put(drive, id, facts, payload).await;
        };
        let len = payload.len();
        let message = PutMessage {
            drive,
            id,
            facts,
            len: len as u32,
            crc: checksum_of_blocks(&payload.block_checksums(), len),
        };
        let bytes = payload.freeze(0..len);
        let head = rpc::encode(&message).map_err(|error| PutShardError::Io(error.to_string()))?;
        let mut tries = 0;
        let reply = loop {
            tries += 1;
            let payload = Payload::Whole(bytes.clone());
            match self.peers.send(node, PUT, head.clone(), payload).await {
                Ok(reply) => break reply,
                Err(error) if self.is_down(drive) => {
                    return Err(PutShardError::Down(error.to_string()));
                }
                // To put a shard twice is to put it once; and who is gone is known to be down after that.
                Err(_) if tries < PUT_TRIES => {}
                Err(error) => return Err(PutShardError::Io(error.to_string())),
            }
        };
        let done: Result<(), WirePutError> = rpc::decode(&reply.head).map_err(PutShardError::Io)?;
        done.map_err(|error| error.of(bytes))
    }

    async fn get(
        &self,
        drive: DriveId,
        id: ShardId,
        range: Range<u32>,
        mut buffer: Buffer,
    ) -> Result<Bytes, GetShardError> {
        let Some(node) = self.elsewhere(drive) else {
            return self.local.get(drive, id, range, buffer).await;
        };
        let down = |error: CallError| GetShardError::Down(error.to_string());
        let wanted = range.end.saturating_sub(range.start) as usize;
        let head = rpc::encode(&(drive, id, range))
            .map_err(|error| GetShardError::Io(error.to_string()))?;
        let mut reply = self
            .peers
            .send(node, GET, head, Payload::None)
            .await
            .map_err(down)?;
        let found: Result<u64, WireGetError> =
            rpc::decode(&reply.head).map_err(GetShardError::Io)?;
        let crc = found?;
        buffer.set_len(0);
        let mut coming = ComingRange {
            buffer: &mut buffer,
            wanted,
            sum: Digest::new(CrcAlgorithm::Crc64Nvme),
        };
        let landed = reply.land(&mut coming).await;
        landed.map_err(|error| match error {
            CallError::Failed { reason, .. } => GetShardError::Io(reason),
            error => down(error),
        })?;
        let computed = coming.sum.finalize();
        if buffer.len() != wanted || computed != crc {
            return Err(GetShardError::Io("damaged on its way".to_owned()));
        }
        Ok(buffer.freeze(0..wanted))
    }

    async fn delete(&self, drive: DriveId, ids: &[ShardId]) -> Result<(), DeleteShardError> {
        let Some(node) = self.elsewhere(drive) else {
            return self.local.delete(drive, ids).await;
        };
        let done: Result<Result<(), WireDeleteError>, CallError> =
            self.ask(node, DELETE, &(drive, ids)).await;
        match done {
            Ok(done) => Ok(done?),
            Err(error) if self.is_down(drive) => Err(DeleteShardError::Down(error.to_string())),
            // Its drive is in use: who deletes tries again.
            Err(error) => Err(DeleteShardError::Io(error.to_string())),
        }
    }

    async fn info(&self, drive: DriveId, id: ShardId) -> Result<Option<ShardInfo>, GetShardError> {
        let Some(node) = self.elsewhere(drive) else {
            return self.local.info(drive, id).await;
        };
        let found: Result<Result<Option<ShardInfo>, WireGetError>, CallError> =
            self.ask(node, INFO, &(drive, id)).await;
        match found {
            Ok(found) => Ok(found?),
            Err(error) => Err(GetShardError::Down(error.to_string())),
        }
    }

    async fn list(
        &self,
        drive: DriveId,
        after: Option<ShardId>,
        max: usize,
    ) -> Result<Vec<ShardInfo>, GetShardError> {
        let Some(node) = self.elsewhere(drive) else {
            return self.local.list(drive, after, max).await;
        };
        let found: Result<Result<Vec<ShardInfo>, WireGetError>, CallError> =
            self.ask(node, LIST, &(drive, after, max as u64)).await;
        match found {
            Ok(found) => Ok(found?),
            Err(error) => Err(GetShardError::Down(error.to_string())),
        }
    }

    async fn holds(&self, drive: DriveId, ids: &[ShardId]) -> Result<Vec<Held>, GetShardError> {
        let Some(node) = self.elsewhere(drive) else {
            return self.local.holds(drive, ids).await;
        };
        let mut held = Vec::with_capacity(ids.len());
        for ids in ids.chunks(HOLDS_MAX) {
            let found: Result<Result<Vec<Held>, WireGetError>, CallError> =
                self.ask(node, HOLDS, &(drive, ids)).await;
            let found = match found {
                Ok(found) => found?,
                Err(error) => return Err(GetShardError::Down(error.to_string())),
            };
            if found.len() != ids.len() {
                return Err(GetShardError::Io("not all shards were told of".to_owned()));
            }
            held.extend(found);
        }
        Ok(held)
    }

    fn is_down(&self, drive: DriveId) -> bool {
        match self.elsewhere(drive) {
            None => self.local.is_down(drive),
            Some(node) => {
                self.peers.health().is_suspect(node) || !self.peers.map().load().is_up(drive)
            }
        }
    }
}

/// A range of a shard, as it comes from another node. What has just come is in the cache: then it is summed.
struct ComingRange<'a> {
    buffer: &'a mut Buffer,
    wanted: usize,
    sum: Digest,
}

impl Landing for ComingRange<'_> {
    fn room(&mut self) -> &mut [u8] {
        let left = self.wanted - self.buffer.len();
        &mut self.buffer.spare_mut()[..left]
    }

    fn landed(&mut self, len: usize) {
        let before = self.buffer.len();
        self.buffer.set_len(before + len);
        self.sum.update(&self.buffer.payload()[before..]);
    }
}

/// A whole shard likewise; its buffer has the capacity for it and no more.
struct ComingShard<'a>(&'a mut Buffer);

impl Landing for ComingShard<'_> {
    fn room(&mut self) -> &mut [u8] {
        self.0.spare_mut()
    }

    fn landed(&mut self, len: usize) {
        self.0.set_len(self.0.len() + len);
        self.0.sum_blocks();
    }
}

/// Offers the shards of this process to other nodes. `pool` is for their bytes alone: what serves others must never
/// wait for memory that waits for others.
pub fn offer(server: &mut PeerServer, local: &Arc<LocalShards>, pool: &BufferPool) {
    let (shards, buffers) = (local.clone(), pool.clone());
    server.offer(
        PUT,
        Box::new(move |call| {
            let (shards, buffers) = (shards.clone(), buffers.clone());
            Box::pin(async move { answer(&put(&shards, &buffers, call).await?) })
        }),
    );
    let (shards, buffers) = (local.clone(), pool.clone());
    server.offer(
        GET,
        Box::new(move |call| {
            let (shards, buffers) = (shards.clone(), buffers.clone());
            Box::pin(async move { get(&shards, &buffers, call).await })
        }),
    );
    let shards = local.clone();
    server.offer(
        DELETE,
        Box::new(move |call| {
            let shards = shards.clone();
            Box::pin(async move {
                let (drive, ids): (DriveId, Vec<ShardId>) = rpc::decode(&call.head)?;
                let done = shards.delete(drive, &ids).await;
                answer(&done.map_err(WireDeleteError::from))
            })
        }),
    );
    let shards = local.clone();
    server.offer(
        INFO,
        Box::new(move |call| {
            let shards = shards.clone();
            Box::pin(async move {
                let (drive, id) = rpc::decode(&call.head)?;
                answer(&shards.info(drive, id).await.map_err(WireGetError::from))
            })
        }),
    );
    let shards = local.clone();
    server.offer(
        HOLDS,
        Box::new(move |call| {
            let shards = shards.clone();
            Box::pin(async move {
                let (drive, ids): (DriveId, Vec<ShardId>) = rpc::decode(&call.head)?;
                if ids.len() > HOLDS_MAX {
                    return Err("too many shards are asked for".to_owned());
                }
                let held = shards.holds(drive, &ids).await;
                answer(&held.map_err(WireGetError::from))
            })
        }),
    );
    let shards = local.clone();
    server.offer(
        LIST,
        Box::new(move |call| {
            let shards = shards.clone();
            Box::pin(async move {
                let (drive, after, max): (_, _, u64) = rpc::decode(&call.head)?;
                let max = max.min(100_000) as usize;
                let found = shards.list(drive, after, max).await;
                answer(&found.map_err(WireGetError::from))
            })
        }),
    );
}

async fn put(
    shards: &LocalShards,
    buffers: &BufferPool,
    mut call: Call,
) -> Result<Result<(), WirePutError>, String> {
    let message: PutMessage = rpc::decode(&call.head)?;
    if message.len > SHARD_LEN_MAX {
        return Ok(Err(WirePutError::TooLarge(u64::from(message.len))));
    }
    let len = message.len as usize;
    let Ok(mut buffer) = buffers.acquire(len).await else {
        return Ok(Err(WirePutError::Busy));
    };
    call.payload.land(&mut ComingShard(&mut buffer)).await?;
    if buffer.len() != len || checksum_of_blocks(&buffer.block_checksums(), len) != message.crc {
        return Err("the shard was damaged on its way".to_owned());
    }
    let done = shards
        .put(message.drive, message.id, message.facts, buffer)
        .await;
    Ok(done.map_err(WirePutError::from))
}

async fn get(shards: &LocalShards, buffers: &BufferPool, call: Call) -> Result<Answer, String> {
    let (drive, id, range): (DriveId, ShardId, Range<u32>) = rpc::decode(&call.head)?;
    if range.end > SHARD_LEN_MAX {
        return answer(&Err::<u64, _>(WireGetError::OutOfRange));
    }
    let Ok(buffer) = buffers.acquire(read_capacity(&range)).await else {
        return answer(&Err::<u64, _>(WireGetError::Busy));
    };
    match shards.get_with_checksum(drive, id, range, buffer).await {
        Ok((bytes, crc)) => {
            let head = rpc::encode(&Ok::<u64, WireGetError>(crc));
            Ok(Answer {
                head: head.map_err(|error| error.to_string())?,
                payload: Payload::Whole(bytes),
            })
        }
        Err(error) => answer(&Err::<u64, _>(WireGetError::from(error))),
    }
}

fn answer<T: Serialize>(answer: &T) -> Result<Answer, String> {
    let head = rpc::encode(answer).map_err(|error| error.to_string())?;
    Ok(Answer::head(head))
}

impl From<PutShardError> for WirePutError {
    fn from(error: PutShardError) -> Self {
        match error {
            PutShardError::Full => Self::Full,
            PutShardError::Down(why) => Self::Down(why),
            PutShardError::Io(why) => Self::Io(why),
            PutShardError::TooLarge(len) => Self::TooLarge(len as u64),
            PutShardError::Busy => Self::Busy,
            PutShardError::Outdated(_) => Self::Outdated,
        }
    }
}

impl WirePutError {
    /// The error of the put of that payload.
    fn of(self, payload: Bytes) -> PutShardError {
        match self {
            Self::Full => PutShardError::Full,
            Self::Down(why) => PutShardError::Down(why),
            Self::Io(why) => PutShardError::Io(why),
            Self::TooLarge(len) => PutShardError::TooLarge(len as usize),
            Self::Busy => PutShardError::Busy,
            Self::Outdated => PutShardError::Outdated(payload),
        }
    }
}

impl From<GetShardError> for WireGetError {
    fn from(error: GetShardError) -> Self {
        match error {
            GetShardError::NotFound => Self::NotFound,
            GetShardError::Corrupt(why) => Self::Corrupt(why),
            GetShardError::OutOfRange => Self::OutOfRange,
            GetShardError::Busy => Self::Busy,
            GetShardError::Down(why) => Self::Down(why),
            GetShardError::Io(why) => Self::Io(why),
        }
    }
}

impl From<WireGetError> for GetShardError {
    fn from(error: WireGetError) -> Self {
        match error {
            WireGetError::NotFound => Self::NotFound,
            WireGetError::Corrupt(why) => Self::Corrupt(why),
            WireGetError::OutOfRange => Self::OutOfRange,
            WireGetError::Busy => Self::Busy,
            WireGetError::Down(why) => Self::Down(why),
            WireGetError::Io(why) => Self::Io(why),
        }
    }
}

impl From<DeleteShardError> for WireDeleteError {
    fn from(error: DeleteShardError) -> Self {
        match error {
            DeleteShardError::Down(why) => Self::Down(why),
            DeleteShardError::Io(why) => Self::Io(why),
        }
    }
}

impl From<WireDeleteError> for DeleteShardError {
    fn from(error: WireDeleteError) -> Self {
        match error {
            WireDeleteError::Down(why) => Self::Down(why),
            WireDeleteError::Io(why) => Self::Io(why),
        }
    }
}
