//! The queues of events, for who tells them; and how a bucket's rules reach its lanes.
//!
//! As with versioning, a change goes to the directory first, with a number greater than that of the change before, and
//! then to all lanes; see [`super::versioning`]. So all writes that begin after a change was made obey it.

use std::sync::Arc;

use futures_util::future::try_join_all;
use holdfast_placement::directory::{Bucket, Directory, Expected, SetSetting, Setting};
use holdfast_placement::ids::{BucketId, GroupId};
use holdfast_placement::query::{Ask, States, state_of};
use holdfast_placement::seams::{IndexError, Keyspace};
use serde::{Deserialize, Serialize};

use super::command::{Command, Outcome};
use super::events::{BucketEvents, EventId, EventRule, QueuedEvent};
use super::keys;
use super::questions::kind;
use super::store::{Metadata, MetadataError, strange};
use super::values;
use super::versioning::ChangeVersioningError;

/// Changes that are tried when others come between, at most.
const TRIES: usize = 16;

/// See [`Metadata::event_queues`].
#[derive(Serialize, Deserialize)]
pub struct FindEventQueues {
    group: GroupId,
}

impl Ask for FindEventQueues {
    const KIND: u8 = kind::EVENT_QUEUES;
    type Answer = Vec<(String, u64)>;

    async fn run(&self, states: &States) -> Result<Self::Answer, IndexError> {
        let state = state_of(states, self.group)?;
        let from = keys::event_queues(self.group);
        let end = keys::successor(&from).unwrap_or_default();
        let mut cursor = state.cursor(Keyspace::Records, &from, &end)?;
        cursor.seek(&from)?;
        let mut queues = Vec::new();
        while let Some((key, value)) = cursor.entry() {
            let name = keys::parse_event_queue(key);
            let name = name.ok_or_else(|| values::damaged("a queue of events"))?;
            queues.push((name.to_owned(), values::decode(value, "a queue of events")?));
            cursor.next()?;
        }
        Ok(queues)
    }
}

/// See [`Metadata::queued_events`].
#[derive(Serialize, Deserialize)]
pub struct FindEvents<'a> {
    group: GroupId,
    target: &'a str,
    max: usize,
}

impl Ask for FindEvents<'_> {
    const KIND: u8 = kind::EVENTS;
    type Answer = Vec<QueuedEvent>;

    async fn run(&self, states: &States) -> Result<Self::Answer, IndexError> {
        let state = state_of(states, self.group)?;
        let from = keys::events(self.group, self.target);
        let end = keys::successor(&from).unwrap_or_default();
        let mut cursor = state.cursor(Keyspace::Records, &from, &end)?;
        cursor.seek(&from)?;
        let mut events = Vec::new();
        while let Some((key, value)) = cursor.entry()
            && events.len() < self.max
        {
            let id = keys::parse_event(key).ok_or_else(|| values::damaged("an event"))?;
            let event = values::decode(value, "an event")?;
            events.push(QueuedEvent { id, event });
            cursor.next()?;
        }
        Ok(events)
    }
}

impl Metadata {
    /// The webhooks that events of the group wait for, and how many.
    pub async fn event_queues(&self, group: GroupId) -> Result<Vec<(String, u64)>, MetadataError> {
        Ok(self.asker.ask(group, &FindEventQueues { group }).await?)
    }

    /// Events of the group that wait for a webhook, at most `max`, in the order in which things happened.
    pub async fn queued_events(
        &self,
        group: GroupId,
        target: &str,
        max: usize,
    ) -> Result<Vec<QueuedEvent>, MetadataError> {
        let question = FindEvents { group, target, max };
        Ok(self.asker.ask(group, &question).await?)
    }

    /// Forgets a webhook's events up to the one of that id: they were told, or nobody is there to be told.
    pub async fn forget_events(
        &self,
        group: GroupId,
        target: &str,
        through: EventId,
    ) -> Result<(), MetadataError> {
        let command = Command::ForgetEvents { target, through };
        match self.decide(group, &command, &[]).await?.1 {
            Outcome::Done => Ok(()),
            other => Err(strange(&other)),
        }
    }

    /// Tells all lanes of a bucket what they are to tell. Use [`change_bucket_events`], which knows the whole protocol.
    pub async fn set_events(
        &self,
        bucket: BucketId,
        events: &BucketEvents,
        test: bool,
    ) -> Result<(), MetadataError> {
        let changes = self
            .lanes_by_group(bucket)
            .into_iter()
            .map(|(group, lanes)| {
                let command = Command::SetEvents {
                    bucket,
                    lanes,
                    events: events.clone(),
                    test,
                };
                async move {
                    match self.decide(group, &command, &[]).await?.1 {
                        Outcome::Done => Ok(()),
                        other => Err(strange(&other)),
                    }
                }
            });
        try_join_all(changes).await?;
        Ok(())
    }
}

fn decode(value: Option<&[u8]>) -> Result<BucketEvents, MetadataError> {
    match value {
        Some(value) => Ok(values::decode(value, "a bucket's events")?),
        None => Ok(BucketEvents::default()),
    }
}

/// The bucket's rules: linearizable.
pub async fn bucket_events(
    directory: &Directory,
    bucket: &Bucket,
) -> Result<BucketEvents, MetadataError> {
    let value = directory.setting(bucket, Setting::Notification).await?;
    decode(value.as_deref())
}

/// Changes the bucket's rules. When it returns `Ok` all writes that begin from now on obey. Made again, it is completed
/// wherever it was cut short. `test`: the webhooks are sent a first event.
pub async fn change_bucket_events(
    directory: &Directory,
    metadata: &Metadata,
    bucket: &Arc<Bucket>,
    rules: Vec<EventRule>,
    test: bool,
) -> Result<(), ChangeVersioningError<()>> {
    let setting = Setting::Notification;
    for _ in 0..TRIES {
        let found = directory.setting(bucket, setting).await;
        let value = found.map_err(MetadataError::from)?;
        let new = BucketEvents {
            change: decode(value.as_deref())?.change + 1,
            bucket: bucket.name.clone(),
            owner: bucket.owner.clone(),
            rules: rules.clone(),
        };
        let expected = match &value {
            Some(value) => Expected::Value(value),
            None => Expected::Nothing,
        };
        let encoded = values::encode(&new).map_err(MetadataError::from)?;
        let set = directory.set_setting(bucket, setting, expected, Some(&encoded));
        match set.await.map_err(MetadataError::from)? {
            SetSetting::Done => {
                metadata.set_events(bucket.id, &new, test).await?;
                return Ok(());
            }
            SetSetting::Changed => {}
            SetSetting::NoSuchBucket => return Err(ChangeVersioningError::NoSuchBucket),
            SetSetting::TooLong => return Err(ChangeVersioningError::Refused(())),
        }
    }
    let text = format!(
        "the notifications of bucket {} change all the time",
        bucket.name
    );
    Err(MetadataError::Unavailable(text).into())
}
