//! How what is in a lane is counted while it is written to: in steps, by key.
//!
//! What a lane's quota needs to know is counted once, when a bucket that had none gets one. Of millions of keys that takes
//! seconds, in which the group must go on applying commands. So it is done in steps, each a command that counts some keys
//! and notes how far it has come: of keys up to there, whatever they have is counted, and commands that change it count
//! what they change; of keys past it, nothing is. A step ends with a key, so one with very many versions is one step.

use std::cmp::Ordering;

use holdfast_placement::ids::{BucketId, GroupId, Lane};
use holdfast_placement::seams::{Cursor, IndexError, IndexView, Keyspace};
use serde::{Deserialize, Serialize};

use super::apply::Change;
use super::apply_quota::amount_of;
use super::apply_redundancy::parts_of;
use super::command::Outcome;
use super::keys;
use super::quota::Amount;
use super::record::UploadRecord;
use super::values;

/// How far a lane is counted. Persisted: the order of fields and variants is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneCount {
    pub through: CountedThrough,
    /// What keys up to there have.
    pub used: Amount,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CountedThrough {
    Nothing,
    Key(Vec<u8>),
    All,
}

impl LaneCount {
    fn begin() -> Self {
        Self {
            through: CountedThrough::Nothing,
            used: Amount::default(),
        }
    }

    /// Whether what the key has is counted.
    pub fn covers(&self, key: &[u8]) -> bool {
        match &self.through {
            CountedThrough::Nothing => false,
            CountedThrough::Key(last) => key <= &last[..],
            CountedThrough::All => true,
        }
    }
}

/// The entries of one kind of a lane, by key.
struct Keyed<'a> {
    cursor: Box<dyn Cursor + 'a>,
    prefix_len: usize,
    /// Whether keys are escaped, with an id after them.
    escaped: bool,
    key: Vec<u8>,
    live: bool,
}

impl<'a> Keyed<'a> {
    /// The first entry after all of `after`.
    fn open(
        state: &'a dyn IndexView,
        space: Keyspace,
        prefix: &[u8],
        escaped: bool,
        after: Option<&[u8]>,
    ) -> Result<Self, IndexError> {
        let end = keys::successor(prefix).unwrap_or_default();
        let mut start = prefix.to_vec();
        if let Some(after) = after {
            match escaped {
                true => {
                    keys::escape(after, &mut start);
                    // The entries of a key end it with `00 00`.
                    start.extend_from_slice(&[0, 1]);
                }
                false => {
                    start.extend_from_slice(after);
                    start.push(0);
                }
            }
        }
        let mut entries = Self {
            cursor: state.scan(space, &start, &end)?,
            prefix_len: prefix.len(),
            escaped,
            key: Vec::new(),
            live: false,
        };
        entries.cursor.seek(&start)?;
        entries.take_key()?;
        Ok(entries)
    }

    fn take_key(&mut self) -> Result<(), IndexError> {
        let Some((key, _)) = self.cursor.entry() else {
            self.live = false;
            return Ok(());
        };
        let key = key.get(self.prefix_len..).unwrap_or_default();
        self.live = true;
        match self.escaped {
            true => keys::unescape(key, &mut self.key)
                .map(drop)
                .ok_or_else(|| values::damaged("an entry of a lane")),
            false => {
                self.key.clear();
                self.key.extend_from_slice(key);
                Ok(())
            }
        }
    }

    fn key(&self) -> Option<&[u8]> {
        self.live.then_some(&self.key[..])
    }

    /// The value at hand if it is the key's; goes on to the next.
    fn take_of<T>(
        &mut self,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> Result<T, IndexError>,
    ) -> Result<Option<T>, IndexError> {
        if self.key() != Some(key) {
            return Ok(None);
        }
        let value = self.cursor.entry().map_or(&[][..], |(_, value)| value);
        let read = read(value)?;
        self.cursor.next()?;
        self.take_key()?;
        Ok(Some(read))
    }
}

/// The lesser of two keys; `None` is none.
fn first<'k>(a: Option<&'k [u8]>, b: Option<&'k [u8]>) -> Option<&'k [u8]> {
    match (a, b) {
        (Some(a), Some(b)) => Some(match a.cmp(b) {
            Ordering::Greater => b,
            _ => a,
        }),
        (a, b) => a.or(b),
    }
}

impl Change<'_, '_> {
    /// How far the lane is counted; `None`: nobody counts it.
    pub fn lane_count(
        &self,
        bucket: BucketId,
        lane: Lane,
    ) -> Result<Option<LaneCount>, IndexError> {
        let key = keys::lane_count(self.turn.group, bucket, lane);
        match self.turn.state.get(Keyspace::Records, &key)? {
            Some(value) => Ok(Some(values::decode(&value, "a lane's count")?)),
            None => Ok(None),
        }
    }

    pub fn set_lane_count(
        &mut self,
        bucket: BucketId,
        lane: Lane,
        count: Option<&LaneCount>,
    ) -> Result<(), IndexError> {
        let key = keys::lane_count(self.turn.group, bucket, lane);
        match count {
            Some(count) => {
                let value = values::encode(count)?;
                self.turn.batch.put(Keyspace::Records, key, value);
            }
            None => self.turn.batch.delete(Keyspace::Records, key),
        }
        Ok(())
    }

    /// Counts so many entries more of each lane, or a few more; says of which all is counted. One that has a share is.
    pub fn count_lanes(
        &mut self,
        bucket: BucketId,
        lanes: &[Lane],
        entries: u32,
    ) -> Result<Outcome, IndexError> {
        let mut counted = Vec::with_capacity(lanes.len());
        for lane in lanes {
            let quota = self.lane_quota(bucket, *lane)?;
            if quota.is_some_and(|quota| quota.share.is_some()) {
                counted.push(true);
                continue;
            }
            let mut count = self
                .lane_count(bucket, *lane)?
                .unwrap_or_else(LaneCount::begin);
            if count.through != CountedThrough::All {
                self.count_on(bucket, *lane, &mut count, u64::from(entries))?;
                self.set_lane_count(bucket, *lane, Some(&count))?;
            }
            counted.push(count.through == CountedThrough::All);
        }
        Ok(Outcome::Counted(counted))
    }

    /// All that is in a lane: what was counted before, and the rest.
    pub fn count_lane(&self, bucket: BucketId, lane: Lane) -> Result<Amount, IndexError> {
        let mut count = self
            .lane_count(bucket, lane)?
            .unwrap_or_else(LaneCount::begin);
        self.count_on(bucket, lane, &mut count, u64::MAX)?;
        Ok(count.used)
    }

    /// Counts keys past those that are counted, until it has seen so many entries.
    fn count_on(
        &self,
        bucket: BucketId,
        lane: Lane,
        count: &mut LaneCount,
        entries: u64,
    ) -> Result<(), IndexError> {
        let group: GroupId = self.turn.group;
        let after = match &count.through {
            CountedThrough::Nothing => None,
            CountedThrough::Key(key) => Some(&key[..]),
            CountedThrough::All => return Ok(()),
        };
        let open = |space, prefix: &[u8], escaped| {
            Keyed::open(self.turn.state, space, prefix, escaped, after)
        };
        let object_lane = keys::object_lane(group, bucket, lane);
        let mut objects = open(Keyspace::Objects, &object_lane, false)?;
        let noncurrent_lane = keys::noncurrent_lane(group, bucket, lane);
        let mut noncurrent = open(Keyspace::Records, &noncurrent_lane, true)?;
        let upload_lane = keys::upload_lane(group, bucket, lane);
        let mut uploads = open(Keyspace::Records, &upload_lane, true)?;

        let version = |value: &[u8]| Ok(amount_of(&values::version_summary(value)?.0));
        let mut key = Vec::new();
        let mut seen = 0;
        while let Some(next) = first(objects.key(), first(noncurrent.key(), uploads.key())) {
            if seen >= entries {
                count.through = CountedThrough::Key(key);
                return Ok(());
            }
            key.clear();
            key.extend_from_slice(next);
            if let Some(amount) = objects.take_of(&key, version)? {
                count.used = count.used.plus(amount);
                seen += 1;
            }
            while let Some(amount) = noncurrent.take_of(&key, version)? {
                count.used = count.used.plus(amount);
                seen += 1;
            }
            let upload = |value: &[u8]| values::decode::<UploadRecord>(value, "an upload");
            while let Some(upload) = uploads.take_of(&key, upload)? {
                seen += 1;
                for part in parts_of(self, upload.upload)? {
                    count.used.bytes = count.used.bytes.saturating_add(part.size);
                    seen += 1;
                }
            }
        }
        count.through = CountedThrough::All;
        Ok(())
    }
}
