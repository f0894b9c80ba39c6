//! A process on memory drives that can fail and crash, with a list as its state machine.

#![allow(dead_code, reason = "each test uses its part")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_placement::consensus::{
    ConsensusConfig, Groups, MachineFactory, ProposeError, ReplicaDrive, Replicas, StateMachine,
};
use holdfast_placement::ids::{DriveId, GroupId};
use holdfast_placement::seams::{
    Batch, Index, IndexError, IndexView, Keyspace, MemoryIndex, SystemClock,
};

/// A list that appends a number once for each token, and answers with its place.
pub struct List {
    group: GroupId,
}

/// A command: append `token` (its own value), with `padding` bytes to make it long.
pub fn append(token: u64, padding: usize) -> Bytes {
    let mut command = token.to_be_bytes().to_vec();
    command.resize(8 + padding, 0xAB);
    command.into()
}

fn key(group: GroupId, kind: u8, number: u64) -> Bytes {
    let mut key = group.0.to_be_bytes().to_vec();
    key.push(kind);
    key.extend(number.to_be_bytes());
    key.into()
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes[..8].try_into().unwrap())
}

impl StateMachine for List {
    fn apply(
        &mut self,
        state: &dyn IndexView,
        batch: &mut Batch,
        command: &[u8],
    ) -> Result<Bytes, IndexError> {
        let token = number(command);
        let token_key = key(self.group, b't', token);
        if let Some(place) = state.get(Keyspace::Records, &token_key)? {
            return Ok(place);
        }
        let count_key = key(self.group, b'n', 0);
        let count = state
            .get(Keyspace::Records, &count_key)?
            .map_or(0, |bytes| number(&bytes));
        let place = Bytes::copy_from_slice(&count.to_be_bytes());
        batch.put(
            Keyspace::Objects,
            key(self.group, b'l', count),
            Bytes::copy_from_slice(&command[..8]),
        );
        batch.put(
            Keyspace::Inline,
            key(self.group, b'l', count),
            Bytes::copy_from_slice(&command[8..]),
        );
        batch.put(Keyspace::Records, token_key, place.clone());
        batch.put(
            Keyspace::Records,
            count_key,
            (count + 1).to_be_bytes().to_vec(),
        );
        Ok(place)
    }

    fn restored(&mut self, _: &dyn IndexView) -> Result<(), IndexError> {
        Ok(())
    }
}

/// The list as a state index has it.
pub fn list(state: &dyn Index, group: GroupId) -> Vec<u64> {
    let state: &dyn IndexView = state;
    let (from, to) = (key(group, b'l', 0), key(group, b'l', u64::MAX));
    let mut cursor = state.cursor(Keyspace::Objects, &from, &to).unwrap();
    cursor.seek(&from).unwrap();
    let mut list = Vec::new();
    while let Some((_, value)) = cursor.entry() {
        list.push(number(value));
        cursor.next().unwrap();
    }
    list
}

/// What stands at `place`.
pub fn at(state: &dyn Index, group: GroupId, place: u64) -> Result<Option<u64>, IndexError> {
    let found = state.get(Keyspace::Objects, &key(group, b'l', place))?;
    Ok(found.map(|bytes| number(&bytes)))
}

pub fn machines() -> MachineFactory {
    Arc::new(|group, _| Box::new(List { group }))
}

/// A drive in memory.
#[derive(Clone, Default)]
pub struct Drive {
    pub log: Arc<MemoryIndex>,
    pub state: Arc<MemoryIndex>,
}

impl Drive {
    pub fn fail(&self, error: Option<IndexError>) {
        self.log.fail(error.clone());
        self.state.fail(error);
    }
}

/// Drives, and the process on them.
pub struct Rig {
    pub drives: BTreeMap<u64, Drive>,
    pub config: ConsensusConfig,
    pub replicas: Arc<Replicas>,
}

/// Fast enough for tests: short logs, short deadline.
pub fn config() -> ConsensusConfig {
    ConsensusConfig {
        deadline: Duration::from_secs(3),
        log_entries_kept: 64,
        ..ConsensusConfig::default()
    }
}

impl Rig {
    pub async fn new(drives: u64, config: ConsensusConfig) -> Self {
        let drives: BTreeMap<_, _> = (1..=drives).map(|id| (id, Drive::default())).collect();
        let replicas = open(&drives, &config).await;
        Self {
            drives,
            config,
            replicas,
        }
    }

    pub fn replica_drive(&self, id: u64) -> ReplicaDrive {
        replica_drive(id, &self.drives[&id])
    }

    /// Ends the process as a loss of power does: nothing more is written once it begins, and each drive keeps only
    /// as many of its unsynced batches as `kept` says.
    pub async fn crash(&self, mut kept: impl FnMut() -> usize) {
        for drive in self.drives.values() {
            drive.fail(Some(IndexError::Io("the power is off".into())));
        }
        self.replicas.shutdown().await;
        for drive in self.drives.values() {
            drive.log.crash(kept());
            drive.state.crash(kept());
        }
    }

    /// Starts the process again.
    pub async fn reopen(&mut self) {
        self.replicas = open(&self.drives, &self.config).await;
    }

    pub async fn propose(&self, group: GroupId, token: u64) -> Result<u64, ProposeError> {
        let outcome = self.replicas.propose(group, append(token, 40)).await?;
        Ok(number(&outcome))
    }

    pub async fn list(&self, group: GroupId) -> Vec<u64> {
        let state = self.replicas.read(group).await.unwrap().here().unwrap();
        list(state.as_ref(), group)
    }
}

fn replica_drive(id: u64, drive: &Drive) -> ReplicaDrive {
    ReplicaDrive {
        drive: DriveId(id),
        log: drive.log.clone(),
        state: drive.state.clone(),
    }
}

async fn open(drives: &BTreeMap<u64, Drive>, config: &ConsensusConfig) -> Arc<Replicas> {
    let drives = drives
        .iter()
        .map(|(id, drive)| replica_drive(*id, drive))
        .collect();
    Replicas::open(
        drives,
        machines(),
        Arc::new(SystemClock),
        config.clone(),
        None,
    )
    .await
    .unwrap()
}

pub fn voters(ids: impl IntoIterator<Item = u64>) -> Vec<DriveId> {
    ids.into_iter().map(DriveId).collect()
}
