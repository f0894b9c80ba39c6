//! What all questions to the metadata groups have in common, and those that come from other nodes.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_placement::consensus::QueryRunner;
use holdfast_placement::directory;
use holdfast_placement::ids::{BucketId, GroupId, Lane};
use holdfast_placement::query::{self, Ask, States};
use holdfast_placement::seams::{Index, IndexError, IndexView, Keyspace};
use serde::{Deserialize, Serialize};

use super::bodies::FindBodies;
use super::classes::{ListClassedLanes, ListClassedVersionLanes};
use super::event_queue::{FindEventQueues, FindEvents};
use super::keys;
use super::leftovers::{FindNewestReclaimable, FindOldUploads, FindReclaimable};
use super::list::{ListLanes, ListUploadLanes};
use super::list_versions::ListVersionLanes;
use super::objects::{Get, Head};
use super::parts::{Completed, FindParts, FindUpload, PartsAfter, PartsInRange};
use super::quota::FindLaneQuotas;
use super::redundancy::{FindBodiesBelow, FindRepairs, FindUsage};
use super::references::FindReferenced;
use super::rename::{FindRename, FindRenames, FindRenamesLeft, FindVerdict};
use super::store::Place;
use super::values::LaneState;

/// Kinds of questions; on the wire, keep stable.
pub mod kind {
    pub const GET: u8 = 1;
    pub const HEAD: u8 = 2;
    pub const UPLOAD: u8 = 3;
    pub const LIST_PARTS: u8 = 4;
    pub const COMPLETED: u8 = 5;
    pub const PARTS_IN_RANGE: u8 = 6;
    pub const PARTS_AFTER: u8 = 7;
    pub const LIST: u8 = 8;
    pub const LIST_UPLOADS: u8 = 9;
    pub const RECLAIMABLE: u8 = 10;
    pub const OLD_UPLOADS: u8 = 11;
    pub const REFERENCED: u8 = 12;
    pub const REPAIRS: u8 = 13;
    pub const USAGE: u8 = 14;
    pub const BODIES_BELOW: u8 = 15;
    pub const LIST_VERSIONS: u8 = 16;
    pub const BODIES: u8 = 17;
    pub const NEWEST_RECLAIMABLE: u8 = 18;
    pub const RENAME: u8 = 32;
    pub const RENAMES: u8 = 33;
    pub const RENAME_VERDICT: u8 = 34;
    pub const RENAMES_LEFT: u8 = 35;
    pub const EVENT_QUEUES: u8 = 40;
    pub const EVENTS: u8 = 41;
    pub const LANE_QUOTAS: u8 = 42;
    pub const LIST_CLASSED: u8 = 50;
    pub const LIST_CLASSED_VERSIONS: u8 = 51;
}

/// Why there is no answer yet. On the wire: the order of variants is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NotNow {
    /// There is nothing, and the bucket is closed: whoever took it from a cache must look whether it is there still.
    BucketClosed,
    /// The key is being renamed to another group's: settle that, and ask again.
    Renaming,
}

/// An answer about what is in a bucket.
pub type InBucket<T> = Result<T, NotNow>;

/// Whether the lane refuses writes. Those of a bucket that was deleted stay closed for ever.
pub fn is_closed(
    state: &dyn IndexView,
    group: GroupId,
    bucket: BucketId,
    lane: Lane,
) -> Result<bool, IndexError> {
    Ok(lane_state(state, group, bucket, lane)?.closed_by.is_some())
}

/// What a lane makes of writes.
pub fn lane_state(
    state: &dyn IndexView,
    group: GroupId,
    bucket: BucketId,
    lane: Lane,
) -> Result<LaneState, IndexError> {
    match state.get(Keyspace::Records, &keys::lane_state(group, bucket, lane))? {
        Some(value) => LaneState::decode(&value),
        None => Ok(LaneState::default()),
    }
}

impl Place<'_> {
    /// The answer where nothing was found. Looks at the lane after that: if it is open, the bucket was there.
    pub fn nothing<T: Default>(&self, state: &dyn Index) -> Result<InBucket<T>, IndexError> {
        let at = self.address;
        match is_closed(state, self.group, at.bucket, at.lane)? {
            true => Ok(Err(NotNow::BucketClosed)),
            false => Ok(Ok(T::default())),
        }
    }
}

/// Runs the queries that other nodes send to groups which are led here.
struct Runner;

#[async_trait]
impl QueryRunner for Runner {
    async fn run(&self, states: &States, query: &[u8]) -> Result<Bytes, String> {
        match states {
            [(GroupId::PLACEMENT, _)] => directory::run_query(states, query).await,
            _ => run_query(states, query).await,
        }
    }
}

/// What answers the queries of other nodes to any group.
pub fn query_runner() -> Arc<dyn QueryRunner> {
    Arc::new(Runner)
}

async fn run_query(states: &States, query: &[u8]) -> Result<Bytes, String> {
    let (kind, question) = query::open(query)?;
    match kind {
        Get::KIND => query::answer::<Get<'_>>(question, states).await,
        Head::KIND => query::answer::<Head<'_>>(question, states).await,
        FindUpload::KIND => query::answer::<FindUpload<'_>>(question, states).await,
        FindParts::KIND => query::answer::<FindParts<'_>>(question, states).await,
        Completed::KIND => query::answer::<Completed<'_>>(question, states).await,
        PartsInRange::KIND => query::answer::<PartsInRange<'_>>(question, states).await,
        PartsAfter::KIND => query::answer::<PartsAfter<'_>>(question, states).await,
        ListLanes::KIND => query::answer::<ListLanes<'_>>(question, states).await,
        ListUploadLanes::KIND => query::answer::<ListUploadLanes<'_>>(question, states).await,
        FindNewestReclaimable::KIND => {
            query::answer::<FindNewestReclaimable>(question, states).await
        }
        FindReclaimable::KIND => query::answer::<FindReclaimable>(question, states).await,
        FindOldUploads::KIND => query::answer::<FindOldUploads>(question, states).await,
        FindReferenced::KIND => query::answer::<FindReferenced<'_>>(question, states).await,
        FindRepairs::KIND => query::answer::<FindRepairs>(question, states).await,
        FindUsage::KIND => query::answer::<FindUsage>(question, states).await,
        ListVersionLanes::KIND => query::answer::<ListVersionLanes<'_>>(question, states).await,
        FindRename::KIND => query::answer::<FindRename<'_>>(question, states).await,
        FindRenamesLeft::KIND => query::answer::<FindRenamesLeft>(question, states).await,
        FindRenames::KIND => query::answer::<FindRenames>(question, states).await,
        FindVerdict::KIND => query::answer::<FindVerdict<'_>>(question, states).await,
        FindEventQueues::KIND => query::answer::<FindEventQueues>(question, states).await,
        FindEvents::KIND => query::answer::<FindEvents<'_>>(question, states).await,
        FindLaneQuotas::KIND => query::answer::<FindLaneQuotas>(question, states).await,
        FindBodiesBelow::KIND => query::answer::<FindBodiesBelow<'_>>(question, states).await,
        ListClassedLanes::KIND => query::answer::<ListClassedLanes<'_>>(question, states).await,
        ListClassedVersionLanes::KIND => {
            query::answer::<ListClassedVersionLanes<'_>>(question, states).await
        }
        FindBodies::KIND => query::answer::<FindBodies<'_>>(question, states).await,
        other => Err(format!("the metadata has no queries of kind {other}")),
    }
}
