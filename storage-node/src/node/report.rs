//! What a node says of itself when it is probed.

use holdfast_placement::ids::{DriveId, GroupId};
use holdfast_placement::rpc;
use holdfast_placement::seams::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::repair::{DriveScrub, GroupCensus};

/// Spoken between versions: append only.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub drives: Vec<DriveReport>,
    /// Writes that add data are refused there.
    pub full: bool,
    /// The groups that it leads.
    pub leads: Vec<LedGroup>,
    /// Of these groups.
    pub redundancy: Redundancy,
    /// Not said by nodes of earlier versions.
    pub mending: Mending,
    /// What waits to be told to webhooks, of these groups. Not said by nodes of earlier versions.
    pub webhooks: Vec<WebhookReport>,
    /// The node's wall clock. Not said by nodes of earlier versions.
    pub clock: Option<UnixMillis>,
    /// Replicas that have ended on drives that are in use. Not said by nodes of earlier versions.
    pub stopped: Vec<StoppedReplica>,
}

/// A replica that has ended, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppedReplica {
    pub group: GroupId,
    pub drive: DriveId,
    pub reason: String,
}

/// How the search for shards that are bad or missing stands at a node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Mending {
    /// When the process began.
    pub started: UnixMillis,
    /// Of the drives that are in use.
    pub drives: Vec<DriveScrub>,
    /// Of the groups that it leads.
    pub groups: Vec<GroupCensus>,
    /// The most shards that a chunk of any body has, of these groups.
    pub widest: Vec<(GroupId, u64)>,
}

impl Report {
    /// What a node said, of this version or an earlier one; `None` if it says nothing that is understood.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        if let Ok(report) = rpc::decode(bytes) {
            return Some(report);
        }
        let no_stopped = rpc::encode(&Vec::<StoppedReplica>::new()).ok()?;
        let no_clock = rpc::encode(&None::<UnixMillis>).ok()?;
        let no_webhooks = rpc::encode(&Vec::<WebhookReport>::new()).ok()?;
        let no_mending = rpc::encode(&Mending::default()).ok()?;
        // What was said last in each version.
        let rest = [&no_mending, &no_webhooks, &no_clock, &no_stopped];
        let mut older = (0..rest.len()).rev().map(|said| {
            let unsaid = rest[said..].iter().flat_map(|bytes| bytes.iter());
            bytes.iter().chain(unsaid).copied().collect::<Vec<u8>>()
        });
        older.find_map(|whole| rpc::decode(&whole).ok())
    }
}

/// How the telling of events to a webhook goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookReport {
    pub name: String,
    /// Events that wait.
    pub waiting: u64,
    /// Why the last attempt failed, if it did.
    pub failure: Option<String>,
}

/// What is missing of the safety that bodies should have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redundancy {
    /// Shards that writes have missed and that were not made since.
    pub repairs_open: u64,
    /// Bytes of bodies that survive less than they would with the cluster's protection.
    pub below_protection_bytes: u64,
    /// Such bodies.
    pub below_protection_bodies: u64,
}

impl Redundancy {
    pub(super) fn add(&mut self, other: Redundancy) {
        self.repairs_open += other.repairs_open;
        self.below_protection_bytes += other.below_protection_bytes;
        self.below_protection_bodies += other.below_protection_bodies;
    }
}

/// A drive as its node sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DriveReport {
    pub drive: DriveId,
    pub path: String,
    /// Why it is out of use, if it is.
    pub failure: Option<String>,
    pub total_bytes: u64,
    pub free_bytes: u64,
    /// `uring` or `posix`.
    pub disk: Option<String>,
}

/// A group by the word of its leader.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LedGroup {
    pub group: GroupId,
    pub leader: DriveId,
    pub term: u64,
    pub voters: Vec<DriveId>,
}

#[cfg(test)]
mod tests {
    use holdfast_placement::rpc;

    use super::*;

    #[test]
    fn what_earlier_versions_say_is_understood() {
        let report = Report {
            full: true,
            clock: Some(UnixMillis(5)),
            ..Report::default()
        };
        let whole = rpc::encode(&report).unwrap();
        // What the versions did not say yet, the newest first.
        let unsaid = [
            rpc::encode(&report.stopped).unwrap(),
            rpc::encode(&report.clock).unwrap(),
            rpc::encode(&report.webhooks).unwrap(),
            rpc::encode(&report.mending).unwrap(),
        ];
        let mut len = whole.len();
        assert!(Report::decode(&whole).unwrap().clock.is_some());
        for (version, rest) in unsaid.iter().enumerate() {
            len -= rest.len();
            let read = Report::decode(&whole[..len]).unwrap();
            assert!(read.full, "{version}");
            assert_eq!(read.clock.is_some(), version == 0, "{version}");
        }
        assert!(Report::decode(&whole[..1]).is_none());
    }
}
