//! Quotas of buckets: how much may be in one, exactly, wherever it is written.
//!
//! What is in a bucket is spread over its lanes, and so over groups. Each lane has a *share* of the quota, counts what is
//! in it when it applies a command, and refuses what would make that more than its share. All shares together are never
//! more than the quota; so neither is the bucket. Who had a write refused redistributes the shares, in a *round*:
//!
//! 1. The directory's record of the quota gets a greater number, and says that a round is under way.
//! 2. Each lane gives back what it does not use. A lane takes no order with a lesser number than the last.
//! 3. The directory's record gets the new shares, if its number is still the same, and one number more.
//! 4. The lanes get them.
//!
//! The record's share of a lane is at no time less than what the lane has: lanes give back before the record says so, and
//! get after it. A round may be cut short anywhere: lanes that gave back and got nothing refuse writes that add, until
//! somebody makes the next round.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, join_all, select};
use futures_util::{StreamExt, TryStreamExt, stream};
use holdfast_placement::directory::{Bucket, Directory, Expected, SetSetting, Setting};
use holdfast_placement::ids::{BucketId, GroupId, Lane};
use holdfast_placement::query::{Ask, States, state_of};
use holdfast_placement::seams::{Clock, IndexError, Keyspace, UnixMillis};
use serde::{Deserialize, Serialize};

use super::command::{Command, Outcome};
use super::keys;
use super::questions::kind;
use super::store::{Metadata, MetadataError, strange};
use super::values;

/// What stands for no limit: far more than there is, and little enough that sums are numbers still.
const UNLIMITED: u64 = 1 << 62;

/// A round that was begun longer ago must have died: its commands are given up long before.
const ROUND_DEAD: Duration = Duration::from_secs(15);

/// Between looks at a round of others.
const ROUND_LOOK: Duration = Duration::from_millis(20);

/// How long is waited for rounds of other processes, and rounds are begun again that others came between.
const PATIENCE: Duration = Duration::from_secs(30);

/// Entries of a lane that are counted in one step: some milliseconds, in which its group applies nothing else.
const COUNT_STEP: u32 = 4096;

/// Groups that count at the same time: others have the rest of the machine.
const COUNTING_MAX: usize = 4;

/// Bytes and objects. Persisted: the order of fields is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Amount {
    pub bytes: u64,
    pub objects: u64,
}

impl Amount {
    const UNLIMITED: Amount = Amount {
        bytes: UNLIMITED,
        objects: UNLIMITED,
    };

    /// Whether neither is more than in `other`.
    pub fn fits(&self, other: &Amount) -> bool {
        self.bytes <= other.bytes && self.objects <= other.objects
    }

    fn with(self, other: Amount, change: impl Fn(u64, u64) -> u64) -> Amount {
        Amount {
            bytes: change(self.bytes, other.bytes),
            objects: change(self.objects, other.objects),
        }
    }

    pub fn plus(self, other: Amount) -> Amount {
        self.with(other, u64::saturating_add)
    }

    /// Not less than nothing.
    pub fn minus(self, other: Amount) -> Amount {
        self.with(other, u64::saturating_sub)
    }

    pub fn max(self, other: Amount) -> Amount {
        self.with(other, u64::max)
    }

    pub fn min(self, other: Amount) -> Amount {
        self.with(other, u64::min)
    }
}

/// How much may be in a bucket. Persisted: the order of fields is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Quota {
    /// Of all versions, and of the parts of uploads under way. `None`: any number.
    pub bytes: Option<u64>,
    /// Versions that are no delete markers. `None`: any number.
    pub objects: Option<u64>,
}

impl Quota {
    fn amount(&self) -> Amount {
        Amount {
            bytes: self.bytes.unwrap_or(UNLIMITED).min(UNLIMITED),
            objects: self.objects.unwrap_or(UNLIMITED).min(UNLIMITED),
        }
    }
}

/// The directory's record. Persisted: the order of fields is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// Numbers changes.
    change: u64,
    /// `None`: there is no quota.
    quota: Option<Quota>,
    /// What is in each lane at most; `None`: the lane may not know of the quota yet.
    shares: Vec<Option<Amount>>,
    /// When the round under way began, if one is.
    round_since: Option<UnixMillis>,
}

/// What a lane is to do with its share. In commands: the order of variants is persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShareOrder {
    /// Keep of it what is used.
    GiveBack,
    /// Have this one.
    Take(Amount),
    /// Have none, and take what comes.
    Forget,
}

/// A lane's share. Persisted: the order of fields is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneQuota {
    /// The number of the last order.
    pub change: u64,
    /// `None`: the lane takes what comes, and counts nothing.
    pub share: Option<Amount>,
    /// What is in the lane; may be more than its share if that became less.
    pub used: Amount,
}

/// What became of a search for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Perhaps there is some now: make the write again.
    TryAgain,
    /// There is none.
    Exceeded,
}

/// What rounds of this process have found, by bucket.
#[derive(Default)]
pub struct Rounds {
    by_bucket: parking_lot::Mutex<std::collections::HashMap<BucketId, Arc<BucketRounds>>>,
}

/// Buckets that are remembered; one more, and those are forgotten whose quotas nobody asks about now.
const BUCKETS_MAX: usize = 1024;

/// One round at a time is enough: who waits for one meanwhile looks at what it has found.
#[derive(Default)]
struct BucketRounds {
    one: tokio::sync::Mutex<()>,
    seen: parking_lot::Mutex<Seen>,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    /// Rounds that were begun.
    begun: u64,
    /// The last that has ended, and what it found.
    ended: Option<(u64, Found)>,
}

/// What a round has found; the default: that not all could be asked.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    /// What nobody used, before who asked was given anything of it. What is more than this, the bucket had no room for.
    /// What is not, it had: who needs it is not to hear that there is none, whoever has got it.
    free: Amount,
    /// Whether all lanes took part; else there may be more.
    complete: bool,
}

impl Found {
    /// What it says to somebody who waited for the round, and needs so much.
    fn room_for(&self, need: Amount) -> Result<Room, MetadataError> {
        match (need.fits(&self.free), self.complete) {
            (true, _) => Ok(Room::TryAgain),
            (false, true) => Ok(Room::Exceeded),
            (false, false) => Err(unreached()),
        }
    }
}

impl BucketRounds {
    /// Waits until nobody else makes a round, at most until `deadline`, a time of the clock's `monotonic`.
    async fn turn(
        &self,
        clock: &dyn Clock,
        deadline: Duration,
    ) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        if let Ok(turn) = self.one.try_lock() {
            return Some(turn);
        }
        let mut turn = std::pin::pin!(self.one.lock());
        // One who sleeps may wake early; his place in the line is kept.
        loop {
            let left = deadline.saturating_sub(clock.monotonic());
            if left.is_zero() {
                return None;
            }
            match select(turn.as_mut(), clock.sleep(left)).await {
                Either::Left((turn, _)) => return Some(turn),
                Either::Right(_) => {}
            }
        }
    }

    fn begun(&self) -> u64 {
        self.seen.lock().begun
    }

    /// Begins a round; its number.
    fn begin(&self) -> u64 {
        let mut seen = self.seen.lock();
        seen.begun += 1;
        seen.begun
    }

    fn end(&self, number: u64, found: Found) {
        self.seen.lock().ended = Some((number, found));
    }

    /// What a round has found that was begun when `begun` were.
    fn found_since(&self, begun: u64) -> Option<Found> {
        let ended = self.seen.lock().ended;
        let found = ended.filter(|(number, _)| *number > begun);
        found.map(|(_, found)| found)
    }
}

impl Rounds {
    fn of(&self, bucket: BucketId) -> Arc<BucketRounds> {
        let mut by_bucket = self.by_bucket.lock();
        if by_bucket.len() >= BUCKETS_MAX {
            by_bucket.retain(|_, rounds| Arc::strong_count(rounds) > 1);
        }
        by_bucket.entry(bucket).or_default().clone()
    }
}

/// See [`Metadata::lane_quotas`].
#[derive(Serialize, Deserialize)]
pub struct FindLaneQuotas {
    group: GroupId,
    bucket: BucketId,
    lanes: Vec<Lane>,
}

impl Ask for FindLaneQuotas {
    const KIND: u8 = kind::LANE_QUOTAS;
    type Answer = Vec<LaneQuota>;

    async fn run(&self, states: &States) -> Result<Self::Answer, IndexError> {
        let state = state_of(states, self.group)?;
        let mut quotas = Vec::with_capacity(self.lanes.len());
        for lane in &self.lanes {
            let key = keys::lane_quota(self.group, self.bucket, *lane);
            quotas.push(match state.get(Keyspace::Records, &key)? {
                Some(value) => values::decode(&value, "a lane's quota")?,
                None => LaneQuota::default(),
            });
        }
        Ok(quotas)
    }
}

impl Metadata {
    /// What the bucket's lanes know of its quota, by lane.
    pub async fn lane_quotas(&self, bucket: BucketId) -> Result<Vec<LaneQuota>, MetadataError> {
        let questions = self
            .lanes_by_group(bucket)
            .into_iter()
            .map(|(group, lanes)| async move {
                let question = FindLaneQuotas {
                    group,
                    bucket,
                    lanes: lanes.clone(),
                };
                let answer = self.asker.ask(group, &question).await;
                answer.map(|quotas| lanes.into_iter().zip(quotas).collect::<Vec<_>>())
            });
        let mut all = Vec::new();
        for answer in join_all(questions).await {
            all.extend(answer?);
        }
        all.sort_unstable_by_key(|(lane, _)| *lane);
        Ok(all.into_iter().map(|(_, quota)| quota).collect())
    }

    /// Counts what is in the bucket's lanes, step by step: what is written to them meanwhile is counted and waits for a
    /// step at most. Lanes that have a share are counted already. If this is cut short, the next goes on where it was.
    async fn count_lanes(&self, bucket: BucketId) -> Result<(), MetadataError> {
        let groups = self.lanes_by_group(bucket).into_iter();
        let counting = groups.map(|(group, lanes)| async move {
            for lane in lanes {
                while !self.count_step(bucket, group, lane, COUNT_STEP).await? {}
            }
            Ok(())
        });
        let counting = stream::iter(counting).buffer_unordered(COUNTING_MAX);
        counting.try_collect().await
    }

    /// Counts so many entries more of a lane; whether all are counted.
    pub(super) async fn count_step(
        &self,
        bucket: BucketId,
        group: GroupId,
        lane: Lane,
        entries: u32,
    ) -> Result<bool, MetadataError> {
        let command = Command::CountLanes {
            bucket,
            lanes: vec![lane],
            entries,
        };
        match self.decide(group, &command, &[]).await? {
            (_, Outcome::Counted(counted)) => Ok(counted == [true]),
            (_, other) => Err(strange(&other)),
        }
    }

    /// Gives orders to lanes; by lane what became of it, `None` where nothing is known.
    async fn order_shares(
        &self,
        bucket: BucketId,
        change: u64,
        order: impl Fn(Lane) -> Option<ShareOrder>,
    ) -> Vec<Option<LaneQuota>> {
        let mut found: Vec<Option<LaneQuota>> = vec![None; self.lanes(bucket).len()];
        let commands = self
            .lanes_by_group(bucket)
            .into_iter()
            .filter_map(|(group, lanes)| {
                let orders = lanes.iter().filter_map(|lane| Some((*lane, order(*lane)?)));
                let orders: Vec<_> = orders.collect();
                (!orders.is_empty()).then_some((group, orders))
            })
            .map(|(group, orders)| async move {
                let lanes: Vec<Lane> = orders.iter().map(|(lane, _)| *lane).collect();
                let command = Command::OrderShares {
                    bucket,
                    change,
                    orders,
                };
                match self.decide(group, &command, &[]).await {
                    Ok((_, Outcome::Shares(shares))) => Ok(lanes.into_iter().zip(shares)),
                    Ok((_, other)) => Err(strange(&other)),
                    Err(error) => Err(error),
                }
            });
        for answer in join_all(commands).await {
            match answer {
                Ok(shares) => {
                    for (lane, share) in shares {
                        if let Some(place) = found.get_mut(usize::from(lane.0)) {
                            *place = Some(share);
                        }
                    }
                }
                Err(error) => tracing::debug!(%bucket, %error, "some lanes' shares are not known"),
            }
        }
        found
    }
}

/// A bucket's quota, and what is in it (`None`: it is not counted, as there is no quota).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaStanding {
    pub quota: Option<Quota>,
    pub used: Option<Amount>,
}

/// A bucket's quota and usage. The usage is exact if nothing is written meanwhile.
pub async fn bucket_quota(
    directory: &Directory,
    metadata: &Metadata,
    bucket: &Bucket,
) -> Result<QuotaStanding, MetadataError> {
    let (record, _) = read(directory, bucket).await?;
    let lanes = match record.quota {
        Some(_) => metadata.lane_quotas(bucket.id).await?,
        None => Vec::new(),
    };
    let is_counted = record.quota.is_some() && lanes.iter().all(|lane| lane.share.is_some());
    let sum = || {
        lanes
            .iter()
            .fold(Amount::default(), |sum, lane| sum.plus(lane.used))
    };
    Ok(QuotaStanding {
        quota: record.quota,
        used: is_counted.then(sum),
    })
}

/// Sets a bucket's quota (`None`: there is none). When it returns `Ok` the quota holds: if more is in the bucket already,
/// nothing is added until there is less. Else make it again. `false`: the bucket is gone.
pub async fn set_bucket_quota(
    directory: &Directory,
    metadata: &Metadata,
    bucket: &Bucket,
    quota: Option<Quota>,
) -> Result<bool, MetadataError> {
    let rounds = metadata.rounds.of(bucket.id);
    let _one = rounds.one.lock().await;
    if quota.is_some() {
        // Before the round, which must not take long: lanes that get an order and are not counted are counted whole.
        metadata.count_lanes(bucket.id).await?;
    }
    let deadline = metadata.clock.monotonic() + PATIENCE;
    loop {
        let (record, value) = settled(directory, metadata, bucket, deadline).await?;
        let new = Record {
            change: record.change + 1,
            quota,
            shares: match quota {
                Some(_) => record.shares.clone(),
                // Lanes that know of none take what comes.
                None => Vec::new(),
            },
            round_since: quota.map(|_| metadata.clock.wall()),
        };
        match write(directory, bucket, value.as_deref(), &new).await? {
            SetSetting::Done => {}
            SetSetting::NoSuchBucket => return Ok(false),
            SetSetting::Changed | SetSetting::TooLong => continue,
        }
        if quota.is_none() {
            let forget = |_| Some(ShareOrder::Forget);
            let lanes = metadata.order_shares(bucket.id, new.change, forget).await;
            return match lanes.iter().all(Option::is_some) {
                true => Ok(true),
                false => Err(unreached()),
            };
        }
        match distribute(directory, metadata, bucket, &new, None).await? {
            Distributed::Done { complete: true, .. } => return Ok(true),
            Distributed::Done {
                complete: false, ..
            } => return Err(unreached()),
            Distributed::Superseded => {}
        }
        if metadata.clock.monotonic() > deadline {
            return Err(contended(bucket));
        }
    }
}

/// To be called when a write to `key` was refused because its lane would have had so much more than its share. Others that
/// look for room in the bucket at the same time are waited for, for at most `patience`.
///
/// # Errors
/// `Unavailable` if there may be room in lanes that cannot be reached, or others look for theirs all the time;
/// `Indeterminate` if it is not known what became of the bucket's record. The write was refused in any case.
pub async fn make_room(
    directory: &Directory,
    metadata: &Metadata,
    bucket: &Bucket,
    key: &str,
    need: Amount,
    patience: Duration,
) -> Result<Room, MetadataError> {
    let deadline = metadata.clock.monotonic() + patience;
    let rounds = metadata.rounds.of(bucket.id);
    let begun = rounds.begun();
    let Some(_turn) = rounds.turn(&*metadata.clock, deadline).await else {
        return Err(contended(bucket));
    };
    // A round that began after the write was refused, and has ended: what it found is good for this write too.
    if let Some(found) = rounds.found_since(begun) {
        return found.room_for(need);
    }
    let search = Search {
        directory,
        metadata,
        bucket,
        rounds: &rounds,
        lane: metadata.place(bucket.id, key).address.lane,
        need,
    };
    // If nothing comes of it, that is news too for those who wait.
    rounds.begin();
    match search.run().await {
        Ok(None) => Ok(Room::TryAgain),
        Ok(Some(round)) => {
            rounds.end(round.number, round.found);
            match (round.granted, round.found.complete) {
                (true, _) => Ok(Room::TryAgain),
                (false, true) => Ok(Room::Exceeded),
                (false, false) => Err(unreached()),
            }
        }
        Err(error) => {
            if let MetadataError::Unavailable(_) | MetadataError::Indeterminate(_) = &error {
                rounds.end(rounds.begun(), Found::default());
            }
            Err(error)
        }
    }
}

/// A search for room, by who has the turn.
struct Search<'a> {
    directory: &'a Directory,
    metadata: &'a Metadata,
    bucket: &'a Bucket,
    rounds: &'a BucketRounds,
    lane: Lane,
    need: Amount,
}

/// A round that was made.
struct Round {
    number: u64,
    found: Found,
    /// Whether who asked for room got it.
    granted: bool,
}

impl Search<'_> {
    /// `None`: others came between, perhaps with room.
    async fn run(&self) -> Result<Option<Round>, MetadataError> {
        let first = self.round().await?;
        let finds_none = |round: &Round| round.found.complete && !round.granted;
        if !first.as_ref().is_some_and(finds_none) {
            return Ok(first);
        }
        // An object whose rename was left half-way is counted at both ends.
        match self.metadata.settle_renames(self.bucket.id).await? {
            0 => Ok(first),
            _ => self.round().await,
        }
    }

    async fn round(&self) -> Result<Option<Round>, MetadataError> {
        let (directory, metadata, bucket) = (self.directory, self.metadata, self.bucket);
        let deadline = metadata.clock.monotonic() + PATIENCE;
        let (mut record, mut value) = read(directory, bucket).await?;
        if is_under_way(metadata, &record) {
            (record, value) = settled(directory, metadata, bucket, deadline).await?;
            // Whoever made it has given shares to all. If he died before, that is to be done here.
            if record.round_since.is_none() {
                return Ok(None);
            }
        }
        if record.quota.is_none() {
            // A lane that was not told.
            let forget = |_| Some(ShareOrder::Forget);
            metadata
                .order_shares(bucket.id, record.change, forget)
                .await;
            return Ok(None);
        }
        let new = Record {
            change: record.change + 1,
            round_since: Some(metadata.clock.wall()),
            ..record
        };
        let number = self.rounds.begin();
        match write(directory, bucket, value.as_deref(), &new).await? {
            SetSetting::Done => {}
            SetSetting::NoSuchBucket | SetSetting::Changed | SetSetting::TooLong => {
                return Ok(None);
            }
        }
        let need = Some((self.lane, self.need));
        match distribute(directory, metadata, bucket, &new, need).await? {
            Distributed::Superseded => Ok(None),
            Distributed::Done {
                granted,
                free,
                complete,
            } => Ok(Some(Round {
                number,
                found: Found { free, complete },
                granted,
            })),
        }
    }
}

/// What became of a round.
enum Distributed {
    /// Another change came between.
    Superseded,
    Done {
        /// Whether who asked for room got it.
        granted: bool,
        /// What nobody used, before anything of it was given out.
        free: Amount,
        /// Whether all lanes took part.
        complete: bool,
    },
}

/// The second to fourth step of a round that `record` begins.
async fn distribute(
    directory: &Directory,
    metadata: &Metadata,
    bucket: &Bucket,
    record: &Record,
    need: Option<(Lane, Amount)>,
) -> Result<Distributed, MetadataError> {
    let limit = record
        .quota
        .map_or(Amount::UNLIMITED, |quota| quota.amount());
    let give_back = |_| Some(ShareOrder::GiveBack);
    let lanes = metadata.order_shares(bucket.id, record.change, give_back);
    let lanes = lanes.await;
    if lanes
        .iter()
        .flatten()
        .any(|lane| lane.change > record.change)
    {
        return Ok(Distributed::Superseded);
    }
    let complete = lanes.iter().all(Option::is_some);
    let before = |lane: usize| record.shares.get(lane).copied().flatten();
    if lanes
        .iter()
        .enumerate()
        .any(|(at, lane)| lane.is_none() && before(at).is_none())
    {
        // It takes what comes.
        return Err(unreached());
    }
    let plan = plan(limit, &lanes, before, need);
    let new = Record {
        change: record.change + 1,
        quota: record.quota,
        shares: plan.bounds.iter().copied().map(Some).collect(),
        round_since: None,
    };
    let encoded = values::encode(record).map_err(MetadataError::from)?;
    match write(directory, bucket, Some(&encoded), &new).await? {
        SetSetting::Done => {}
        SetSetting::NoSuchBucket | SetSetting::Changed | SetSetting::TooLong => {
            return Ok(Distributed::Superseded);
        }
    }
    let take = |lane: Lane| {
        let at = usize::from(lane.0);
        let reached = lanes.get(at)?.is_some();
        reached.then(|| ShareOrder::Take(plan.shares[at]))
    };
    metadata.order_shares(bucket.id, new.change, take).await;
    Ok(Distributed::Done {
        granted: plan.granted,
        free: plan.free,
        complete,
    })
}

/// Who gets what.
struct Plan {
    /// By lane.
    shares: Vec<Amount>,
    /// What is in each lane at most: its share, or what it uses already.
    bounds: Vec<Amount>,
    granted: bool,
    /// What nobody used.
    free: Amount,
}

/// Shares out the quota: to each lane what it uses, to `need` what it needs, if there is so much, and the rest to all
/// alike. Lanes that were not reached keep what they had. If more is used than may be, nobody gets anything: then nothing is
/// added anywhere before so much is gone that the next round finds room.
fn plan(
    limit: Amount,
    lanes: &[Option<LaneQuota>],
    before: impl Fn(usize) -> Option<Amount>,
    need: Option<(Lane, Amount)>,
) -> Plan {
    let unreached = lanes.iter().enumerate().filter(|(_, lane)| lane.is_none());
    let kept = unreached.fold(Amount::default(), |sum, (at, _)| {
        sum.plus(before(at).unwrap_or(Amount::UNLIMITED))
    });
    let reached: Vec<usize> = (0..lanes.len()).filter(|at| lanes[*at].is_some()).collect();
    let used_in = |at: usize| lanes[at].map(|lane| lane.used).unwrap_or_default();
    let used = reached
        .iter()
        .fold(Amount::default(), |sum, at| sum.plus(used_in(*at)));
    let room = limit.minus(kept);
    let free = room.minus(used);
    let mut shares: Vec<Amount> = (0..lanes.len())
        .map(|at| match lanes[at] {
            None => before(at).unwrap_or_default(),
            Some(lane) => Amount {
                bytes: unless_over(lane.used.bytes, room.bytes, used.bytes),
                objects: unless_over(lane.used.objects, room.objects, used.objects),
            },
        })
        .collect();
    let mut left = free;
    let mut granted = need.is_none();
    if let Some((lane, need)) = need
        && need.fits(&free)
        && let Some(share) = shares.get_mut(usize::from(lane.0))
        && lanes[usize::from(lane.0)].is_some()
    {
        *share = share.plus(need);
        left = free.minus(need);
        granted = true;
    }
    let count = reached.len().max(1) as u64;
    let each = Amount {
        bytes: left.bytes / count,
        objects: left.objects / count,
    };
    for at in &reached {
        shares[*at] = shares[*at].plus(each);
    }
    let rest = Amount {
        bytes: left.bytes % count,
        objects: left.objects % count,
    };
    let wanting = need.map(|(lane, _)| usize::from(lane.0));
    let wanting = wanting.filter(|at| reached.contains(at));
    if let Some(at) = wanting.or(reached.first().copied()) {
        shares[at] = shares[at].plus(rest);
    }
    let bounds = shares.iter().enumerate();
    let bounds = bounds.map(|(at, share)| share.max(used_in(at))).collect();
    Plan {
        shares,
        bounds,
        granted,
        free,
    }
}

/// `used`; nothing, if all that is used does not fit into `room`.
fn unless_over(used: u64, room: u64, all: u64) -> u64 {
    match all > room {
        true => 0,
        false => used,
    }
}

async fn read(
    directory: &Directory,
    bucket: &Bucket,
) -> Result<(Record, Option<bytes::Bytes>), MetadataError> {
    let value = directory.setting(bucket, Setting::Quota).await?;
    let record = match &value {
        Some(value) => values::decode(value, "a bucket's quota")?,
        None => Record::default(),
    };
    Ok((record, value))
}

async fn write(
    directory: &Directory,
    bucket: &Bucket,
    expected: Option<&[u8]>,
    record: &Record,
) -> Result<SetSetting, MetadataError> {
    let expected = match expected {
        Some(value) => Expected::Value(value),
        None => Expected::Nothing,
    };
    let value = values::encode(record).map_err(MetadataError::from)?;
    let set = directory.set_setting(bucket, Setting::Quota, expected, Some(&value));
    Ok(set.await?)
}

fn is_under_way(metadata: &Metadata, record: &Record) -> bool {
    let now = metadata.clock.wall();
    record
        .round_since
        .is_some_and(|since| now.0.saturating_sub(since.0) < ROUND_DEAD.as_millis() as u64)
}

/// The record when no round is under way, or whoever makes it must have died. Clocks of others may be wrong: one that did
/// not change here for so long is dead too.
async fn settled(
    directory: &Directory,
    metadata: &Metadata,
    bucket: &Bucket,
    deadline: Duration,
) -> Result<(Record, Option<bytes::Bytes>), MetadataError> {
    let mut seen: Option<(u64, Duration)> = None;
    loop {
        let (record, value) = read(directory, bucket).await?;
        let now = metadata.clock.monotonic();
        let since = match seen {
            Some((change, since)) if change == record.change => since,
            _ => now,
        };
        seen = Some((record.change, since));
        if !is_under_way(metadata, &record) || now.saturating_sub(since) >= ROUND_DEAD {
            return Ok((record, value));
        }
        if metadata.clock.monotonic() > deadline {
            return Err(contended(bucket));
        }
        let more = metadata.proposer.rng().next_u64() % ROUND_LOOK.as_millis() as u64;
        let pause = ROUND_LOOK + Duration::from_millis(more);
        metadata.clock.sleep(pause).await;
    }
}

fn unreached() -> MetadataError {
    MetadataError::Unavailable("not all lanes of the bucket can be reached".to_owned())
}

fn contended(bucket: &Bucket) -> MetadataError {
    MetadataError::Unavailable(format!(
        "the quota of bucket {} changes all the time",
        bucket.name
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, proptest};

    use super::*;

    fn lane(bytes: u64) -> Option<LaneQuota> {
        let used = Amount { bytes, objects: 1 };
        Some(LaneQuota {
            change: 1,
            share: Some(used),
            used,
        })
    }

    #[test]
    fn the_last_byte_goes_to_who_needs_it() {
        let limit = Amount {
            bytes: 10,
            objects: 3,
        };
        let lanes = [lane(4), lane(5)];
        let need = |bytes, objects| Some((Lane(1), Amount { bytes, objects }));
        let fits = plan(limit, &lanes, |_| None, need(1, 1));
        assert!(fits.granted);
        assert_eq!(
            fits.shares[1],
            Amount {
                bytes: 6,
                objects: 2
            }
        );
        assert_eq!(
            fits.shares[0],
            Amount {
                bytes: 4,
                objects: 1
            }
        );
        assert!(!plan(limit, &lanes, |_| None, need(2, 0)).granted);
        assert!(!plan(limit, &lanes, |_| None, need(0, 2)).granted);
    }

    proptest! {
        #[test]
        fn never_more_than_the_quota_is_shared_out(
            limit in 0u64..200,
            lanes in prop::collection::vec((any::<bool>(), 0u64..50, 0u64..50), 1..6),
            need in 0u64..60,
        ) {
            let limit = Amount { bytes: limit, objects: 100 };
            let before = |at: usize| Some(Amount { bytes: lanes[at].2, objects: 1 });
            let kept: u64 = lanes.iter().filter(|lane| !lane.0).map(|lane| lane.2).sum();
            let found: Vec<_> = lanes.iter().map(|(reached, used, _)| {
                if *reached { lane(*used) } else { None }
            }).collect();
            let plan = plan(limit, &found, before, Some((Lane(0), Amount { bytes: need, objects: 0 })));
            let sum: u64 = plan.shares.iter().map(|share| share.bytes).sum();
            prop_assert!(sum <= limit.bytes.max(kept), "{sum} {limit:?}");
            for (share, lane) in plan.shares.iter().zip(&found) {
                let used = lane.map_or(0, |lane| lane.used.bytes);
                let all: u64 = found.iter().flatten().map(|lane| lane.used.bytes).sum();
                prop_assert!(all + kept > limit.bytes || share.bytes >= used);
            }
            if need > 0 && plan.granted && found[0].is_some() {
                prop_assert!(plan.shares[0].bytes >= found[0].unwrap().used.bytes + need);
            }
        }
    }
}
