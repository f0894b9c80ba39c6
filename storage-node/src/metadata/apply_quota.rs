//! How a metadata group counts what is in a lane that has a share of a quota, and refuses what would be too much.

use holdfast_placement::ids::{BucketId, Lane};
use holdfast_placement::planted::{Bug, planted};
use holdfast_placement::seams::{IndexError, Keyspace};

use super::apply::Change;
use super::apply_redundancy::parts_of;
use super::command::{Address, Outcome, Refusal};
use super::keys;
use super::quota::{Amount, LaneQuota, ShareOrder};
use super::record::{UploadRecord, VersionSummary};
use super::values;

/// Lanes with a share that a command is about.
#[derive(Default)]
pub struct Counted {
    lanes: Vec<CountedLane>,
}

struct CountedLane {
    bucket: BucketId,
    lane: Lane,
    before: LaneQuota,
    now: LaneQuota,
}

impl Counted {
    fn of(&mut self, at: Address<'_>) -> Option<&mut LaneQuota> {
        let mut lanes = self.lanes.iter_mut();
        let found = lanes.find(|counted| counted.bucket == at.bucket && counted.lane == at.lane);
        found.map(|counted| &mut counted.now)
    }

    /// The refusal of a command that adds to a lane what its share has no room for.
    pub fn refusal(&self) -> Option<Refusal> {
        let mut lanes = self.lanes.iter();
        lanes.find_map(|counted| refusal(&counted.before, counted.now.used))
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
        let used = counted.now.used.minus(went).plus(amount_of(came));
        refusal(&counted.before, used)
    }
}

/// The refusal to use so much of a lane, if that is more than is used now and than its share.
fn refusal(before: &LaneQuota, used: Amount) -> Option<Refusal> {
    let share = before.share?;
    let growth = used.minus(before.used);
    let too_much = (growth.bytes > 0 && used.bytes > share.bytes)
        || (growth.objects > 0 && used.objects > share.objects);
    too_much.then_some(Refusal::OverQuota {
        bytes: growth.bytes,
        objects: growth.objects,
    })
}

impl Change<'_, '_> {
    /// Counts what the command does to a lane, if the lane has a share.
    pub fn watch_quota(&mut self, bucket: BucketId, lane: Lane) -> Result<bool, IndexError> {
        let known = |counted: &CountedLane| counted.bucket == bucket && counted.lane == lane;
        if self.counted.lanes.iter().any(known) {
            return Ok(true);
        }
        let Some(now) = self
            .lane_quota(bucket, lane)?
            .filter(|quota| quota.share.is_some())
        else {
            return Ok(false);
        };
        self.counted.lanes.push(CountedLane {
            bucket,
            lane,
            before: now,
            now,
        });
        Ok(true)
    }

    fn lane_quota(&self, bucket: BucketId, lane: Lane) -> Result<Option<LaneQuota>, IndexError> {
        let key = keys::lane_quota(self.turn.group, bucket, lane);
        match self.turn.state.get(Keyspace::Records, &key)? {
            Some(value) => Ok(Some(values::decode(&value, "a lane's quota")?)),
            None => Ok(None),
        }
    }

    /// A version is there.
    pub fn version_came(&mut self, at: Address<'_>, summary: &VersionSummary) {
        if let Some(quota) = self.counted.of(at) {
            quota.used = quota.used.plus(amount_of(summary));
        }
    }

    /// A version is gone.
    pub fn version_went(&mut self, at: Address<'_>, summary: &VersionSummary) {
        if let Some(quota) = self.counted.of(at) {
            quota.used = quota.used.minus(amount_of(summary));
        }
    }

    /// Parts of an upload are there.
    pub fn parts_came(&mut self, at: Address<'_>, bytes: u64) {
        if let Some(quota) = self.counted.of(at) {
            quota.used = quota.used.plus(Amount { bytes, objects: 0 });
        }
    }

    /// Parts of an upload are gone, or are a version's now.
    pub fn parts_went(&mut self, at: Address<'_>, bytes: u64) {
        if let Some(quota) = self.counted.of(at) {
            quota.used = quota.used.minus(Amount { bytes, objects: 0 });
        }
    }

    /// Writes what was counted.
    pub fn write_counted(&mut self) -> Result<(), IndexError> {
        for counted in std::mem::take(&mut self.counted).lanes {
            if counted.now != counted.before {
                self.set_lane_quota(counted.bucket, counted.lane, &counted.now)?;
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
            shares.push(now);
        }
        Ok(Outcome::Shares(shares))
    }

    /// What is in a lane: all of it is looked at.
    fn count_lane(&self, bucket: BucketId, lane: Lane) -> Result<Amount, IndexError> {
        let group = self.turn.group;
        let mut sum = Amount::default();
        let objects = keys::object_lane(group, bucket, lane);
        let noncurrent = keys::noncurrent_lane(group, bucket, lane);
        for (space, prefix) in [
            (Keyspace::Objects, &objects[..]),
            (Keyspace::Records, &noncurrent[..]),
        ] {
            let end = keys::successor(prefix).unwrap_or_default();
            let mut cursor = self.turn.state.cursor(space, prefix, &end)?;
            cursor.seek(prefix)?;
            while let Some((_, value)) = cursor.entry() {
                sum = sum.plus(amount_of(&values::version_summary(value)?.0));
                cursor.next()?;
            }
        }
        let mut uploads = Vec::new();
        self.each_record(&keys::upload_lane(group, bucket, lane), |value| {
            let upload: UploadRecord = values::decode(value, "an upload")?;
            uploads.push(upload.upload);
            Ok(())
        })?;
        for upload in uploads {
            for part in parts_of(self, upload)? {
                sum.bytes = sum.bytes.saturating_add(part.size);
            }
        }
        Ok(sum)
    }
}

/// What a version counts; a delete marker nothing.
fn amount_of(summary: &VersionSummary) -> Amount {
    match summary.delete_marker {
        true => Amount::default(),
        false => Amount {
            bytes: summary.size,
            objects: 1,
        },
    }
}
