//! Shards in memory with faults to inject: what tests of the body path and of repair run against.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_placement::ids::DriveId;
use holdfast_placement::seams::Clock;
use parking_lot::Mutex;

use crate::buffer::Buffer;
use crate::put_gate::{PutGate, PutGates};
use crate::shard_store::{DeleteShardError, GetShardError, PutShardError, ShardId, ShardInfo};
use crate::shards::{ShardFacts, Shards, outdated, read_capacity};

/// How often a call to a drive that hangs looks whether it was mended.
const HUNG_PAUSE: Duration = Duration::from_millis(10);

/// What is wrong with a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Known to be out of use.
    Down,
    /// Every operation fails, but nobody knows it yet.
    Broken,
    /// Takes no shard; gives and deletes those that it has.
    Full,
    /// Each read and write takes that long.
    Slow(Duration),
    /// Answers no read.
    Stuck,
    /// Answers no read, and no write until it is mended.
    Hung,
}

/// A shard and what its record says.
#[derive(Clone, Debug)]
pub struct StoredShard {
    pub facts: ShardFacts,
    pub payload: Vec<u8>,
    pub corrupt: bool,
}

/// Drives in memory; a drive begins to be with its first shard.
pub struct MemoryShards {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    gates: Mutex<BTreeMap<DriveId, Arc<PutGate>>>,
}

#[derive(Default)]
struct State {
    shards: BTreeMap<(DriveId, ShardId), StoredShard>,
    faults: BTreeMap<DriveId, Fault>,
    /// Puts that are under way.
    putting: HashSet<(DriveId, ShardId)>,
    put_delay: Option<Duration>,
    reads: u64,
}

impl MemoryShards {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            state: Mutex::default(),
            gates: Mutex::default(),
        }
    }

    /// Sets or, with `None`, mends what is wrong with a drive.
    pub fn set_fault(&self, drive: DriveId, fault: Option<Fault>) {
        let faults = &mut self.state.lock().faults;
        match fault {
            Some(fault) => faults.insert(drive, fault),
            None => faults.remove(&drive),
        };
    }

    /// Makes every put take that long.
    pub fn set_put_delay(&self, delay: Option<Duration>) {
        self.state.lock().put_delay = delay;
    }

    /// Drops all shards of a drive.
    pub fn wipe(&self, drive: DriveId) {
        self.state.lock().shards.retain(|(at, _), _| *at != drive);
    }

    /// Drops a shard; whether it was there.
    pub fn lose(&self, drive: DriveId, id: ShardId) -> bool {
        self.state.lock().shards.remove(&(drive, id)).is_some()
    }

    /// Makes reads of a shard fail its checksum; whether it is there.
    pub fn corrupt(&self, drive: DriveId, id: ShardId) -> bool {
        match self.state.lock().shards.get_mut(&(drive, id)) {
            Some(shard) => {
                shard.corrupt = true;
                true
            }
            None => false,
        }
    }

    /// All shards with their drives.
    pub fn shards(&self) -> Vec<(DriveId, ShardId, StoredShard)> {
        let state = self.state.lock();
        state
            .shards
            .iter()
            .map(|((drive, id), shard)| (*drive, *id, shard.clone()))
            .collect()
    }

    /// How many shards there are.
    pub fn len(&self) -> usize {
        self.state.lock().shards.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls of `get` so far.
    pub fn reads(&self) -> u64 {
        self.state.lock().reads
    }

    /// Whether a put is under way.
    pub fn is_putting(&self) -> bool {
        !self.state.lock().putting.is_empty()
    }

    fn fault(&self, drive: DriveId) -> Option<Fault> {
        self.state.lock().faults.get(&drive).copied()
    }
}

impl PutGates for MemoryShards {
    /// All drives that a shard was ever put to.
    fn drives(&self) -> Vec<DriveId> {
        self.gates.lock().keys().copied().collect()
    }

    fn gate(&self, drive: DriveId) -> Option<Arc<PutGate>> {
        Some(self.gates.lock().entry(drive).or_default().clone())
    }
}

#[async_trait]
impl Shards for MemoryShards {
    async fn put(
        &self,
        drive: DriveId,
        id: ShardId,
        facts: ShardFacts,
        payload: Buffer,
    ) -> Result<(), PutShardError> {
        let gate = self.gates.lock().entry(drive).or_default().clone();
        let Some(_putting) = gate.enter(id, facts.epoch).await else {
            return Err(outdated(payload));
        };
        let delay = self.state.lock().put_delay;
        self.state.lock().putting.insert((drive, id));
        if let Some(delay) = delay {
            self.clock.sleep(delay).await;
        }
        let fault = self.fault(drive);
        if let Some(Fault::Slow(delay)) = fault {
            self.clock.sleep(delay).await;
        }
        while self.fault(drive) == Some(Fault::Hung) {
            self.clock.sleep(HUNG_PAUSE).await;
        }
        let mut state = self.state.lock();
        state.putting.remove(&(drive, id));
        match fault {
            Some(Fault::Down) => return Err(PutShardError::Down("injected".into())),
            Some(Fault::Broken) => return Err(PutShardError::Io("injected".into())),
            Some(Fault::Full) => return Err(PutShardError::Full),
            Some(Fault::Slow(_) | Fault::Stuck | Fault::Hung) | None => {}
        }
        let stored = StoredShard {
            facts,
            payload: payload.payload().to_vec(),
            corrupt: false,
        };
        state.shards.insert((drive, id), stored);
        Ok(())
    }

    async fn get(
        &self,
        drive: DriveId,
        id: ShardId,
        range: Range<u32>,
        mut buffer: Buffer,
    ) -> Result<Bytes, GetShardError> {
        self.state.lock().reads += 1;
        match self.fault(drive) {
            Some(Fault::Down) => return Err(GetShardError::Down("injected".into())),
            Some(Fault::Broken) => return Err(GetShardError::Io("injected".into())),
            Some(Fault::Slow(delay)) => self.clock.sleep(delay).await,
            Some(Fault::Stuck | Fault::Hung) => std::future::pending().await,
            Some(Fault::Full) | None => {}
        }
        assert!(
            buffer.capacity() >= read_capacity(&range),
            "the caller reserved too little"
        );
        let state = self.state.lock();
        let shard = state
            .shards
            .get(&(drive, id))
            .ok_or(GetShardError::NotFound)?;
        if shard.corrupt {
            return Err(GetShardError::Corrupt("injected".into()));
        }
        let bytes = shard
            .payload
            .get(range.start as usize..range.end as usize)
            .ok_or(GetShardError::OutOfRange)?;
        buffer.extend_from_slice(bytes);
        let len = buffer.len();
        Ok(buffer.freeze(0..len))
    }

    async fn delete(&self, drive: DriveId, ids: &[ShardId]) -> Result<(), DeleteShardError> {
        match self.fault(drive) {
            Some(Fault::Down) => return Err(DeleteShardError::Down("injected".into())),
            Some(Fault::Broken) => return Err(DeleteShardError::Io("injected".into())),
            _ => {}
        }
        let mut state = self.state.lock();
        for id in ids {
            state.shards.remove(&(drive, *id));
        }
        Ok(())
    }

    async fn info(&self, drive: DriveId, id: ShardId) -> Result<Option<ShardInfo>, GetShardError> {
        match self.fault(drive) {
            Some(Fault::Down) => return Err(GetShardError::Down("injected".into())),
            Some(Fault::Broken) => return Err(GetShardError::Io("injected".into())),
            _ => {}
        }
        let state = self.state.lock();
        Ok(state.shards.get(&(drive, id)).map(|shard| ShardInfo {
            id,
            facts: shard.facts,
            len: shard.payload.len() as u32,
            bad: shard.corrupt,
        }))
    }

    async fn list(
        &self,
        drive: DriveId,
        after: Option<ShardId>,
        max: usize,
    ) -> Result<Vec<ShardInfo>, GetShardError> {
        let ids: Vec<ShardId> = {
            let state = self.state.lock();
            let here = state.shards.keys().filter(|(at, _)| *at == drive);
            here.map(|(_, id)| *id)
                .filter(|id| after.is_none_or(|after| *id > after))
                .take(max)
                .collect()
        };
        let mut infos = Vec::with_capacity(ids.len());
        for id in ids {
            infos.extend(self.info(drive, id).await?);
        }
        Ok(infos)
    }

    fn is_down(&self, drive: DriveId) -> bool {
        self.fault(drive) == Some(Fault::Down)
    }
}
