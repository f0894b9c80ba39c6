//! How a metadata group queues what happened, in the batch in which it happens: for each webhook a queue of its own, so
//! that none waits for another.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_placement::ids::{BucketId, Lane};
use holdfast_placement::seams::{IndexError, Keyspace};

use super::apply::Change;
use super::command::{Address, Outcome, Refusal};
use super::events::{BucketEvents, Event, EventId, EventName};
use super::keys;
use super::record::VersionSummary;
use super::values;

/// Events of a group that wait for a webhook, at most. What would make one more is refused: an event of what was
/// acknowledged is never dropped. The same in all replicas of a group.
pub const QUEUE_LEN_MAX: u64 = if cfg!(test) { 20 } else { 100_000 };

/// What a command's changes are to be told as.
#[derive(Default)]
pub struct Told {
    /// What the lanes that the command is about are asked to tell.
    lanes: Vec<(BucketId, Lane, Arc<BucketEvents>)>,
    /// Webhook and event, in the order in which things happen.
    events: Vec<(String, EventId, Event)>,
    /// Things that happened.
    count: u32,
    /// Whether they are queued however many wait: what was decided elsewhere has to be carried out.
    pub is_unbounded: bool,
}

impl Told {
    /// Says what a lane is asked to tell.
    pub fn watch(&mut self, bucket: BucketId, lane: Lane, events: &Arc<BucketEvents>) {
        let known = |entry: &(BucketId, Lane, _)| entry.0 == bucket && entry.1 == lane;
        if !self.lanes.iter().any(known) {
            self.lanes.push((bucket, lane, events.clone()));
        }
    }

    fn events_of(&self, at: Address<'_>) -> Option<Arc<BucketEvents>> {
        let found = self
            .lanes
            .iter()
            .find(|(bucket, lane, _)| *bucket == at.bucket && *lane == at.lane);
        found.map(|(_, _, events)| events.clone())
    }
}

impl Change<'_, '_> {
    /// Something happened to a key; `version`, if the lane keeps versions, is named.
    pub fn happened(
        &mut self,
        at: Address<'_>,
        name: EventName,
        version: &VersionSummary,
        keeps_versions: bool,
    ) {
        let Some(lane) = self.told.events_of(at) else {
            return;
        };
        let wanted = lane.wanted(name, at.key);
        if wanted.is_empty() {
            return;
        }
        let is_gone = matches!(name, EventName::RemovedDelete | EventName::LifecycleDelete)
            || version.delete_marker;
        let id = EventId::new(self.turn.at, self.told.count);
        self.told.count += 1;
        for rule in wanted {
            let event = Event {
                name,
                rule: rule.id.clone(),
                bucket: lane.bucket.clone(),
                owner: lane.owner.clone(),
                key: at.key.to_owned(),
                size: (!is_gone).then_some(version.size),
                etag: (!is_gone).then_some(version.etag),
                version: keeps_versions.then(|| version.name()),
            };
            self.told.events.push((rule.target.clone(), id, event));
        }
    }

    /// Tags or the access control list of a version were changed, if they were.
    pub fn details_changed(&mut self, at: Address<'_>, name: EventName, outcome: &Outcome) {
        if let Outcome::Written(summary) = outcome {
            // A version has a name of its own only where versions are kept.
            self.happened(at, name, summary, !summary.null);
        }
    }

    /// Queues what happened; `false`: a queue is full.
    pub fn queue_events(&mut self) -> Result<bool, IndexError> {
        let mut lengths: BTreeMap<String, u64> = BTreeMap::new();
        for (target, id, event) in std::mem::take(&mut self.told.events) {
            let length = match lengths.get(&target) {
                Some(length) => *length,
                None => self.queue_len(&target)?,
            };
            let is_bounded = event.name != EventName::Test && !self.told.is_unbounded;
            if length >= QUEUE_LEN_MAX && is_bounded {
                return Ok(false);
            }
            let key = keys::event(self.turn.group, &target, id);
            let value = values::encode(&event)?;
            self.turn.batch.put(Keyspace::Records, key, value);
            lengths.insert(target, length + 1);
        }
        for (target, length) in lengths {
            self.set_queue_len(&target, length)?;
        }
        Ok(true)
    }

    fn queue_len(&self, target: &str) -> Result<u64, IndexError> {
        let key = keys::event_queue(self.turn.group, target);
        match self.turn.state.get(Keyspace::Records, &key)? {
            Some(value) => values::decode(&value, "a queue of events"),
            None => Ok(0),
        }
    }

    fn set_queue_len(&mut self, target: &str, length: u64) -> Result<(), IndexError> {
        let key = keys::event_queue(self.turn.group, target);
        match length {
            0 => self.turn.batch.delete(Keyspace::Records, key),
            _ => {
                let value = values::encode(&length)?;
                self.turn.batch.put(Keyspace::Records, key, value);
            }
        }
        Ok(())
    }

    /// Has the lanes tell something else; a change that is older than a lane's own comes too late. `test`: webhooks are
    /// sent a first event, by the bucket's first lane.
    pub fn set_events(
        &mut self,
        bucket: BucketId,
        lanes: &[Lane],
        events: &BucketEvents,
        test: bool,
    ) -> Result<Outcome, IndexError> {
        for lane in lanes {
            let before = self.lane_events(bucket, *lane)?;
            if before.is_some_and(|before| before.change >= events.change) {
                continue;
            }
            let key = keys::lane_events(self.turn.group, bucket, *lane);
            let value = values::encode(events)?;
            self.turn.batch.put(Keyspace::Records, key, value);
            if !test || *lane != Lane(0) {
                continue;
            }
            for target in events.targets() {
                let id = EventId::new(self.turn.at, self.told.count);
                self.told.count += 1;
                let event = Event {
                    name: EventName::Test,
                    rule: String::new(),
                    bucket: events.bucket.clone(),
                    owner: events.owner.clone(),
                    key: String::new(),
                    size: None,
                    etag: None,
                    version: None,
                };
                self.told.events.push((target.to_owned(), id, event));
            }
        }
        Ok(Outcome::Done)
    }

    /// What the lane was last asked to tell.
    pub fn lane_events(
        &self,
        bucket: BucketId,
        lane: Lane,
    ) -> Result<Option<BucketEvents>, IndexError> {
        let key = keys::lane_events(self.turn.group, bucket, lane);
        match self.turn.state.get(Keyspace::Records, &key)? {
            Some(value) => Ok(Some(values::decode(&value, "a lane's events")?)),
            None => Ok(None),
        }
    }

    /// Forgets a webhook's events up to the one of that id.
    pub fn forget_events(&mut self, target: &str, through: EventId) -> Result<Outcome, IndexError> {
        let from = keys::events(self.turn.group, target);
        let end = keys::successor(&from).unwrap_or_default();
        let last = keys::event(self.turn.group, target, through);
        let mut cursor = self.turn.state.cursor(Keyspace::Records, &from, &end)?;
        cursor.seek(&from)?;
        let mut forgotten = 0;
        while let Some((key, _)) = cursor.entry()
            && *key <= *last
        {
            self.turn.batch.delete(Keyspace::Records, key.to_vec());
            forgotten += 1;
            cursor.next()?;
        }
        let length = self.queue_len(target)?.saturating_sub(forgotten);
        if forgotten > 0 {
            self.set_queue_len(target, length)?;
        }
        Ok(Outcome::Done)
    }
}

/// The outcome of a command that was not carried out after all.
pub fn refused(outcome: &Outcome, refusal: Refusal) -> Outcome {
    match outcome {
        Outcome::Deleted(verdicts) => Outcome::Deleted(vec![Err(refusal); verdicts.len()]),
        Outcome::VersionsDeleted(verdicts) => {
            Outcome::VersionsDeleted(vec![Err(refusal); verdicts.len()])
        }
        Outcome::CarriedOut(verdicts) => Outcome::CarriedOut(vec![Err(refusal); verdicts.len()]),
        _ => Outcome::Refused(refusal),
    }
}
