//! How a metadata group counts what is in a lane that has a share of a quota, and refuses what would be too much.

use holdfast_placement::ids::{BucketId, Lane};
use holdfast_placement::planted::{Bug, planted};
use holdfast_placement::seams::{IndexError, Keyspace};

use super::apply::Change;
use super::command::{Address, Outcome, Refusal};
use super::keys;
use super::lane_count::LaneCount;
use super::quota::{Amount, LaneQuota, ShareOrder};
use super::record::VersionSummary;
use super::values;

/// Lanes that a command is about, and that are counted: because they have a share, or to have one soon.
#[derive(Default)]
pub struct Counted {
    lanes: Vec<CountedLane>,
}

struct CountedLane {
    bucket: BucketId,
    lane: Lane,
    /// What was used before the command.
    before: Amount,
    now: LaneTally,
}

/// What is kept of a lane.
enum LaneTally {
    Shared(LaneQuota),
    /// It has no share, and some of its keys are counted.
    Begun(LaneCount),
}

impl LaneTally {
    fn used(&self) -> Amount {
        match self {
            LaneTally::Shared(quota) => quota.used,
            LaneTally::Begun(count) => count.used,
        }
    }
}

impl CountedLane {
    /// The refusal to use so much, if that is more than is used now and than the share.
    fn refusal(&self, used: Amount) -> Option<Refusal> {
        let LaneTally::Shared(LaneQuota {
            share: Some(share), ..
        }) = &self.now
        else {
            return None;
        };
        let growth = used.minus(self.before);
        let too_much = (growth.bytes > 0 && used.bytes > share.bytes)
            || (growth.objects > 0 && used.objects > share.objects);
        too_much.then_some(Refusal::OverQuota {
            bytes: growth.bytes,
            objects: growth.objects,
        })
    }
}

impl Counted {
    /// Where what the key has is counted, if it is.
    fn of(&mut self, at: Address<'_>) -> Option<&mut Amount> {
        let mut lanes = self.lanes.iter_mut();
        let found = lanes.find(|counted| counted.bucket == at.bucket && counted.lane == at.lane)?;
        match &mut found.now {
            LaneTally::Shared(quota) => Some(&mut quota.used),
            LaneTally::Begun(count) if count.covers(at.key.as_bytes()) => Some(&mut count.used),
            LaneTally::Begun(_) => None,
        }
    }

    /// The refusal of a command that adds to a lane what its share has no room for.
    pub fn refusal(&self) -> Option<Refusal> {
        let mut lanes = self.lanes.iter();
        lanes.find_map(|counted| counted.refusal(counted.now.used()))
    }

    /// The refusal of a version that would come to a lane in place of another, if its share has no room for it.
    pub fn refusal_of(
        &self,
        at: Address<'_>,
        came: &VersionSummary,
        went: Option<&VersionSummary>,
    ) -> Option<Refusal> {
        let mut lanes = self.lanes.iter();
        let counted =
            lanes.find(|counted| counted.bucket == at.bucket && counted.lane == at.lane)?;
        let went = went.map(amount_of).unwrap_or_default();
        let used = counted.now.used().minus(went).plus(amount_of(came));
        counted.refusal(used)
    }
}

impl Change<'_, '_> {
    /// Counts what the command does to a lane, if the lane has a share or is being counted.
    pub fn watch_quota(&mut self, bucket: BucketId, lane: Lane) -> Result<bool, IndexError> {
        let known = |counted: &CountedLane| counted.bucket == bucket && counted.lane == lane;
        if self.counted.lanes.iter().any(known) {
            return Ok(true);
        }
        let quota = self.lane_quota(bucket, lane)?;
        let now = match quota.filter(|quota| quota.share.is_some()) {
            Some(quota) => LaneTally::Shared(quota),
            None => match self.lane_count(bucket, lane)? {
                Some(count) => LaneTally::Begun(count),
                None => return Ok(false),
            },
        };
        self.counted.lanes.push(CountedLane {
            bucket,
            lane,
            before: now.used(),
            now,
        });
        Ok(true)
    }

    pub fn lane_quota(
        &self,
        bucket: BucketId,
        lane: Lane,
    ) -> Result<Option<LaneQuota>, IndexError> {
        let key = keys::lane_quota(self.turn.group, bucket, lane);
        match self.turn.state.get(Keyspace::Records, &key)? {
            Some(value) => Ok(Some(values::decode(&value, "a lane's quota")?)),
            None => Ok(None),
        }
    }

    /// A version is there.
    pub fn version_came(&mut self, at: Address<'_>, summary: &VersionSummary) {
        if let Some(used) = self.counted.of(at) {
            *used = used.plus(amount_of(summary));
        }
    }

    /// A version is gone.
    pub fn version_went(&mut self, at: Address<'_>, summary: &VersionSummary) {
        if let Some(used) = self.counted.of(at) {
            *used = used.minus(amount_of(summary));
        }
    }

    /// Parts of an upload are there.
    pub fn parts_came(&mut self, at: Address<'_>, bytes: u64) {
        if let Some(used) = self.counted.of(at) {
            *used = used.plus(Amount { bytes, objects: 0 });
        }
    }

    /// Parts of an upload are gone, or are a version's now.
    pub fn parts_went(&mut self, at: Address<'_>, bytes: u64) {
        if let Some(used) = self.counted.of(at) {
            *used = used.minus(Amount { bytes, objects: 0 });
        }
    }

    /// Writes what was counted.
    pub fn write_counted(&mut self) -> Result<(), IndexError> {
        for counted in std::mem::take(&mut self.counted).lanes {
            let (bucket, lane) = (counted.bucket, counted.lane);
            match &counted.now {
                now if now.used() == counted.before => {}
                LaneTally::Shared(quota) => self.set_lane_quota(bucket, lane, quota)?,
                LaneTally::Begun(count) => self.set_lane_count(bucket, lane, Some(count))?,
            }
        }
        Ok(())
    }

    fn set_lane_quota(
        &mut self,
        bucket: BucketId,
        lane: Lane,
        quota: &LaneQuota,
    ) -> Result<(), IndexError> {
        let key = keys::lane_quota(self.turn.group, bucket, lane);
        let value = values::encode(quota)?;
        self.turn.batch.put(Keyspace::Records, key, value);
        Ok(())
    }

    /// Changes lanes' shares, unless they know a later change; gives them as they are then.
    pub fn order_shares(
        &mut self,
        bucket: BucketId,
        change: u64,
        orders: &[(Lane, ShareOrder)],
    ) -> Result<Outcome, IndexError> {
        let mut shares = Vec::with_capacity(orders.len());
        for (lane, order) in orders {
            let before = self.lane_quota(bucket, *lane)?.unwrap_or_default();
            if before.change >= change {
                shares.push(before);
                continue;
            }
            let used = match (before.share, order) {
                (_, ShareOrder::Forget) => Amount::default(),
                (Some(_), _) => before.used,
                (None, _) => self.count_lane(bucket, *lane)?,
            };
            let now = LaneQuota {
                change,
                share: match order {
                    ShareOrder::GiveBack => {
                        Some(before.share.map_or(used, |share| share.min(used)))
                    }
                    ShareOrder::Take(share) if planted(Bug::ShareCountedTwice) => {
                        Some(share.plus(used))
                    }
                    ShareOrder::Take(share) => Some(*share),
                    ShareOrder::Forget => None,
                },
                used,
            };
            self.set_lane_quota(bucket, *lane, &now)?;
            if self.lane_count(bucket, *lane)?.is_some() {
                self.set_lane_count(bucket, *lane, None)?;
            }
            shares.push(now);
        }
        Ok(Outcome::Shares(shares))
    }
}

/// What a version counts; a delete marker nothing.
pub fn amount_of(summary: &VersionSummary) -> Amount {
    match summary.delete_marker {
        true => Amount::default(),
        false => Amount {
            bytes: summary.size,
            objects: 1,
        },
    }
}
