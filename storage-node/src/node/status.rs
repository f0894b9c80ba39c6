//! How a node stands, for people and machines.

use holdfast_placement::ids::DriveId;
use serde::Serialize;

/// The answer of `/-/status`.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    pub cluster: String,
    pub epoch: u64,
    /// `k+m` of new bodies.
    pub protection: String,
    /// Every drive is up and every group has all its voters.
    pub healthy: bool,
    /// Every lost drive's replicas have been given to others, as far as there are others: the next loss may come.
    pub absorbed: bool,
    /// Writes that add data are refused for want of room.
    pub full: bool,
    pub drives: Vec<DriveStatus>,
    pub groups: Vec<GroupSummary>,
    /// What is not as it should be and what to do, worst first.
    pub problems: Vec<String>,
    pub memory: MemoryStatus,
}

/// Body buffers against their budget, bytes.
#[derive(Clone, Debug, Serialize)]
pub struct MemoryStatus {
    pub body_bytes_in_use: u64,
    pub body_bytes_max: u64,
}

/// A drive.
#[derive(Clone, Debug, Serialize)]
pub struct DriveStatus {
    pub drive: DriveId,
    pub path: String,
    /// `up`, or `down` with the reason in `reason`.
    pub state: &'static str,
    pub reason: Option<String>,
    pub total_bytes: u64,
    pub free_bytes: u64,
    /// `uring` or `posix`.
    pub disk: Option<String>,
}

/// A Raft group.
#[derive(Clone, Debug, Serialize)]
pub struct GroupSummary {
    pub group: u32,
    pub leader: Option<DriveId>,
    pub term: u64,
    pub voters: Vec<DriveId>,
    pub voters_up: usize,
}
