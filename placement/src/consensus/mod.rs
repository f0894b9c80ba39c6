//! Replicated state machines: one small seam over openraft, the only place of the project that names it.
//!
//! A replica lives on a drive, not on a node: a process with five drives may hold five voters of a group.
//! Commands and outcomes are opaque bytes here; a [`StateMachine`] gives them their meaning.

mod flusher;
mod group;
mod keys;
mod log_store;
mod network;
mod patience;
mod pending;
mod raft_types;
mod readers;
mod remote;
mod replica;
mod replicas;
mod snapshot;
mod spread;
mod state_machine;
mod tidy;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::ids::{DriveId, GroupId, NodeId};
use crate::seams::{Batch, Index, IndexError, IndexView, Keyspace};

pub use replica::StartError;
pub use replicas::{ChangeError, Replicas};

/// What a group's log is applied to. `apply` must be a pure function of state and command: no clock, no chance,
/// no reads outside `state`. Every key it reads or writes begins with the group's id (`u32`, big endian), so that a
/// drive's index can hold many groups and a snapshot is a range of it.
pub trait StateMachine: Send + Sync + 'static {
    /// Applies one committed command: reads `state` (which has all earlier commands), adds its changes to `batch`,
    /// gives the outcome. The caller writes the batch, together with its own "last applied" record, before the next
    /// command. An error stops the replica; a command that is refused is not an error but an outcome.
    fn apply(
        &mut self,
        state: &dyn IndexView,
        batch: &mut Batch,
        command: &[u8],
    ) -> Result<Bytes, IndexError>;

    /// Called after the state was opened, or replaced by a snapshot: forget what was cached of it.
    fn restored(&mut self, state: &dyn IndexView) -> Result<(), IndexError>;
}

/// Key spaces that a state machine may use; a snapshot holds the group's range of each. Keys that begin with the
/// group id and then `0xFF` in `Records` belong to the consensus module (last applied, membership).
pub const STATE_KEYSPACES: [Keyspace; 3] = [Keyspace::Objects, Keyspace::Inline, Keyspace::Records];

/// Makes the state machine of a replica.
pub type MachineFactory = Arc<dyn Fn(GroupId, DriveId) -> Box<dyn StateMachine> + Send + Sync>;

/// Where a replica keeps its log and its state.
#[derive(Clone)]
pub struct ReplicaDrive {
    pub drive: DriveId,
    /// Votes and log entries of all groups on the drive; written synced, [`Keyspace::Log`] only.
    pub log: Arc<dyn Index>,
    /// State of all groups on the drive; written unsynced. The log of a group is purged only up to what `sync` of
    /// this index has made durable.
    pub state: Arc<dyn Index>,
}

/// Why a command was not decided. A command that was decided against is not an error: see its outcome.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProposeError {
    /// No quorum within the time allowed; the command is known not to have been appended.
    #[error("{group} has no leader with a quorum")]
    NoQuorum { group: GroupId },
    /// The command may or may not be applied, now or later. Retrying with the same token is safe.
    #[error("{group} did not answer in time: the command may or may not take effect")]
    Indeterminate { group: GroupId },
    /// The replica that must answer has failed storage or has stopped.
    #[error("{group} has stopped: {reason}")]
    Stopped { group: GroupId, reason: String },
    /// This process's wall clock is not to be believed; the command is known not to have been appended.
    #[error("the clock of this node is not that of the others: it has to be set")]
    WrongClock,
}

/// Why a group could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    #[error("{group} has no leader with a quorum")]
    NoQuorum { group: GroupId },
    #[error("{group} has stopped: {reason}")]
    Stopped { group: GroupId, reason: String },
}

/// Where a group can be read.
pub enum Reading {
    /// In this process, which leads the group: state that holds every command acknowledged before the read was asked
    /// for (linearizable), the index of the leader's replica after a read barrier.
    Here(Arc<dyn Index>),
    /// At the node that is believed to host the leader: send it a query, which makes the barrier there.
    At(NodeId),
}

impl Reading {
    /// The state, if it is here.
    pub fn here(self) -> Option<Arc<dyn Index>> {
        match self {
            Self::Here(state) => Some(state),
            Self::At(_) => None,
        }
    }
}

/// Why a query was not answered. Queries change nothing: asking again is always safe.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueryError {
    /// The node does not lead one of the groups; nothing was read. It may know who does: [`Groups::read`] answers by
    /// that from then on.
    #[error("{group} is not led there")]
    NotHere {
        group: GroupId,
        leader: Option<NodeId>,
    },
    /// The node gave no answer.
    #[error("the node cannot be reached: {0}")]
    Unreachable(String),
    /// The maps of the two nodes differ; by the next try they may not.
    #[error("the maps differ: {0}")]
    Stale(String),
    /// The node could not make the answer; asking again does not help.
    #[error("{0}")]
    Failed(String),
}

/// Answers queries that come from other nodes, over the states of the groups that they name.
#[async_trait]
pub trait QueryRunner: Send + Sync {
    /// Runs a query; what it and its answer mean is between the one who asks and the runner. `states` has each group
    /// that the query was sent for once, after its read barrier.
    async fn run(
        &self,
        states: &[(GroupId, Arc<dyn Index>)],
        query: &[u8],
    ) -> Result<Bytes, String>;
}

/// Groups as their users see them.
#[async_trait]
pub trait Groups: Send + Sync + 'static {
    /// Has `command` decided and applied by the group, and gives the outcome of its application. Finds the leader
    /// and retries within a bounded time (5 s): every command must carry an idempotency token of its own.
    async fn propose(&self, group: GroupId, command: Bytes) -> Result<Bytes, ProposeError>;

    /// Where the group can be read. If that is in this process, a read barrier was made.
    async fn read(&self, group: GroupId) -> Result<Reading, ReadError>;

    /// Runs a query for the [`QueryRunner`] at a node that must lead all of `groups`, each after a read barrier.
    async fn query(
        &self,
        at: NodeId,
        groups: &[GroupId],
        query: Bytes,
    ) -> Result<Bytes, QueryError>;
}

/// How a group stands, for status and for those who change membership.
#[derive(Debug, Clone)]
pub struct GroupStatus {
    pub group: GroupId,
    pub leader: Option<DriveId>,
    pub term: u64,
    pub voters: Vec<DriveId>,
    pub learners: Vec<DriveId>,
    /// Replicas in this process with their last applied log index.
    pub applied: Vec<(DriveId, u64)>,
    /// Replicas in this process that have failed, and why.
    pub stopped: Vec<(DriveId, String)>,
}

/// Timing of the groups.
///
/// A replica that fails with its drive, or ends, is replaced as leader at once; time-outs are for replicas that
/// hang, or that are on other nodes. They are long: a disk or a processor that is slow for a moment must not cost an
/// election.
#[derive(Debug, Clone)]
pub struct ConsensusConfig {
    /// Between heartbeats of a leader; groups of one voter have none.
    pub heartbeat: Duration,
    /// Added to the lease, with a random part of up to `election_timeout_max`, before a voter stands for election.
    pub election_timeout_min: Duration,
    /// Also the lease: for so long after they have heard of their leader voters vote for nobody else, and for so long a
    /// leader that hears of no quorum still takes commands.
    pub election_timeout_max: Duration,
    /// Upper bound of `propose`; that of `read` is half of it.
    pub deadline: Duration,
    /// By how many entries a group's log grows, at most about, before its state is made durable and the log is
    /// purged. Half of them are kept for replicas that were away, where there are several.
    pub log_entries_kept: u64,
    /// The same in bytes of commands.
    pub log_bytes_kept: u64,
}

impl ConsensusConfig {
    /// For groups spread over nodes: another leader about a second after the first has gone.
    pub fn spread() -> Self {
        Self {
            heartbeat: Duration::from_millis(200),
            election_timeout_min: Duration::from_millis(350),
            election_timeout_max: Duration::from_millis(600),
            // With what else a request takes, it is answered within five seconds.
            deadline: Duration::from_secs(4),
            ..Self::default()
        }
    }
}

impl Default for ConsensusConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(500),
            election_timeout_min: Duration::from_millis(1500),
            election_timeout_max: Duration::from_millis(3000),
            deadline: Duration::from_secs(5),
            log_entries_kept: 2048,
            log_bytes_kept: 1 << 20,
        }
    }
}
