//! What is queued for webhooks, and when it is not.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_placement::directory::{Bucket, CreateBucket};
use holdfast_placement::ids::GroupId;
use holdfast_placement::seams::{Rng, SeededRng, SystemRng};

use super::{Fixture, any, completion, if_match, inline_version, new_upload, part};
use crate::metadata::apply_events::QUEUE_LEN_MAX;
use crate::metadata::{
    BucketVersioning, Cause, Deletion, EventName, EventRule, ListParts, QueuedEvent, Rename,
    RuleForm, VersionRef, Versioning, WriteError, bucket_events, change_bucket_events,
};

fn rule(target: &str, events: &[&str], prefix: &str) -> EventRule {
    EventRule {
        id: format!("to-{target}"),
        form: RuleForm::Queue,
        arn: format!("arn:holdfast:webhook:::{target}"),
        target: target.to_owned(),
        events: events.iter().map(|event| (*event).to_owned()).collect(),
        prefix: (!prefix.is_empty()).then(|| prefix.to_owned()),
        suffix: None,
    }
}

const EVERYTHING: &[&str] = &[
    "s3:ObjectCreated:*",
    "s3:ObjectRemoved:*",
    "s3:ObjectTagging:*",
    "s3:ObjectAcl:Put",
    "s3:LifecycleExpiration:*",
];

struct World {
    fixture: Fixture,
    bucket: Arc<Bucket>,
}

impl World {
    async fn new(versioning: Versioning) -> Self {
        let fixture = Fixture::new();
        let made = fixture.test.directory.create_bucket("b", "me", "eu").await;
        let CreateBucket::Created(bucket) = made.unwrap() else {
            panic!("the name was free");
        };
        let set = BucketVersioning {
            change: 1,
            versioning,
            ..BucketVersioning::default()
        };
        let metadata = fixture.metadata();
        metadata.set_versioning(bucket.id, set).await.unwrap();
        Self { fixture, bucket }
    }

    async fn rules(&self, rules: &[EventRule]) {
        let directory = &self.fixture.test.directory;
        let metadata = self.fixture.metadata();
        change_bucket_events(directory, metadata, &self.bucket, rules.to_vec(), true)
            .await
            .unwrap();
    }

    /// What waits for a webhook in all groups, in order within each.
    async fn queued(&self, target: &str) -> Vec<QueuedEvent> {
        let mut all = Vec::new();
        for group in (1..=16).map(GroupId) {
            let metadata = self.fixture.metadata();
            let events = metadata.queued_events(group, target, usize::MAX).await;
            let events = events.unwrap();
            let queues = metadata.event_queues(group).await.unwrap();
            let length = queues.iter().find(|(name, _)| name == target);
            let length = length.map_or(0, |(_, length)| *length);
            assert_eq!(length, events.len() as u64, "{group}");
            all.extend(events);
        }
        all
    }

    /// Takes what waits for a webhook: names with their keys.
    async fn take(&self, target: &str) -> Vec<(EventName, String)> {
        let events = self.queued(target).await;
        for group in (1..=16).map(GroupId) {
            let metadata = self.fixture.metadata();
            let waiting = metadata.queued_events(group, target, usize::MAX).await;
            if let Some(last) = waiting.unwrap().last() {
                metadata
                    .forget_events(group, target, last.id)
                    .await
                    .unwrap();
            }
        }
        assert!(self.queued(target).await.is_empty());
        let named = events.into_iter().map(|queued| queued.event);
        named.map(|event| (event.name, event.key)).collect()
    }

    async fn put(&self, key: &str, cause: Cause) -> Result<(), WriteError> {
        let metadata = self.fixture.metadata().caused_by(cause);
        let new = inline_version(3, "abc");
        let put = metadata.put(self.bucket.id, key, new, &any()).await;
        put.map(|_| ())
    }

    async fn delete(&self, key: &str, version: Option<VersionRef>, cause: Cause) {
        let metadata = self.fixture.metadata().caused_by(cause);
        let deletion = Deletion {
            key: key.to_owned(),
            version,
            ..Deletion::default()
        };
        metadata
            .delete_version(self.bucket.id, &deletion)
            .await
            .unwrap();
    }

    async fn upload(&self, key: &str) {
        let (metadata, bucket) = (self.fixture.metadata(), self.bucket.id);
        let upload = metadata.create_upload(bucket, key, new_upload()).await;
        let upload = upload.unwrap();
        metadata
            .put_part(bucket, key, upload, part(1, 9, 10))
            .await
            .unwrap();
        let list = ListParts {
            upload,
            after: 0,
            max: 10,
        };
        let page = metadata.list_parts(bucket, key, &list).await.unwrap();
        let complete = completion(upload, page.unwrap().parts);
        metadata
            .complete_upload(bucket, key, complete, &any())
            .await
            .unwrap();
    }

    async fn tag(&self, key: &str, cause: Cause) {
        let metadata = self.fixture.metadata().caused_by(cause);
        let tags = vec![("a".to_owned(), "b".to_owned())];
        metadata.set_tags(self.bucket.id, key, tags).await.unwrap();
    }
}

#[tokio::test]
async fn every_change_is_told_as_what_it_is() {
    let world = World::new(Versioning::Off).await;
    world.rules(&[rule("w", EVERYTHING, "")]).await;
    assert_eq!(world.take("w").await, [(EventName::Test, String::new())]);
    world.put("k", Cause::Request).await.unwrap();
    world.put("k", Cause::Copy).await.unwrap();
    world.put("k", Cause::Post).await.unwrap();
    world.upload("k").await;
    world.tag("k", Cause::Request).await;
    world.tag("k", Cause::DeleteTags).await;
    let metadata = world.fixture.metadata();
    let acl = metadata.set_acl(world.bucket.id, "k", None, Some("public-read"));
    acl.await.unwrap();
    world.fixture.test.groups.restart();
    world.delete("k", None, Cause::Request).await;
    // There is nothing any more.
    world.delete("k", None, Cause::Request).await;
    world.put("k", Cause::Request).await.unwrap();
    world.delete("k", None, Cause::Lifecycle).await;
    let queued = world.queued("w").await;
    assert!(queued.is_sorted_by(|a, b| a.id.sequencer() < b.id.sequencer()));
    let first = &queued[0].event;
    assert_eq!(
        (first.size, &*first.bucket, &*first.owner),
        (Some(3), "b", "me")
    );
    assert_eq!((&*first.rule, first.version), ("to-w", None));
    let names: Vec<_> = world
        .take("w")
        .await
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(
        names,
        [
            EventName::CreatedPut,
            EventName::CreatedCopy,
            EventName::CreatedPost,
            EventName::CreatedCompleteUpload,
            EventName::TaggingPut,
            EventName::TaggingDelete,
            EventName::AclPut,
            EventName::RemovedDelete,
            EventName::CreatedPut,
            EventName::LifecycleDelete,
        ]
    );
}

#[tokio::test]
async fn versions_are_named() {
    let world = World::new(Versioning::Enabled).await;
    world.rules(&[rule("w", EVERYTHING, "")]).await;
    world.take("w").await;
    world.put("k", Cause::Request).await.unwrap();
    world.delete("k", None, Cause::Request).await;
    world.delete("k", None, Cause::Lifecycle).await;
    let queued = world.queued("w").await;
    let version = queued[0].event.version;
    assert!(matches!(version, Some(VersionRef::Id(_))));
    world.delete("k", version, Cause::Request).await;
    let queued = world.queued("w").await;
    let names: Vec<_> = queued.iter().map(|queued| queued.event.name).collect();
    assert_eq!(
        names,
        [
            EventName::CreatedPut,
            EventName::RemovedDeleteMarker,
            EventName::LifecycleDeleteMarker,
            EventName::RemovedDelete,
        ]
    );
    assert_eq!(queued[3].event.version, version);
    assert_ne!(queued[1].event.version, version);
    assert_eq!((queued[1].event.size, queued[1].event.etag), (None, None));
}

#[tokio::test]
async fn a_rename_is_a_copy_and_a_deletion() {
    let world = World::new(Versioning::Off).await;
    world.rules(&[rule("w", EVERYTHING, "")]).await;
    world.take("w").await;
    for number in 0..20 {
        let (from, to) = (format!("a{number}"), format!("b{number}"));
        world.put(&from, Cause::Request).await.unwrap();
        world.take("w").await;
        let metadata = world.fixture.metadata();
        let rename = Rename::default();
        let renamed = metadata.rename(world.bucket.id, &from, &to, &rename);
        renamed.await.unwrap();
        let mut told = world.take("w").await;
        told.sort_by(|a, b| a.1.cmp(&b.1));
        let expected = [
            (EventName::RemovedDelete, from),
            (EventName::CreatedCopy, to),
        ];
        assert_eq!(told, expected);
    }
}

#[tokio::test]
async fn what_is_refused_or_not_asked_for_is_not_told() {
    let world = World::new(Versioning::Off).await;
    world
        .rules(&[
            rule("w", &["s3:ObjectCreated:Put"], "in/"),
            rule("v", &["s3:ObjectRemoved:*"], ""),
        ])
        .await;
    assert_eq!(world.take("w").await.len(), 1);
    assert_eq!(world.take("v").await.len(), 1);
    world.put("out", Cause::Request).await.unwrap();
    world.put("in/a", Cause::Copy).await.unwrap();
    let refused = world
        .fixture
        .metadata()
        .put(
            world.bucket.id,
            "in/b",
            inline_version(1, "x"),
            &if_match("0"),
        )
        .await;
    assert!(refused.is_err());
    assert!(world.queued("w").await.is_empty());
    world.put("in/a", Cause::Request).await.unwrap();
    world.delete("in/a", None, Cause::Request).await;
    let created = (EventName::CreatedPut, "in/a".to_owned());
    assert_eq!(world.take("w").await, [created]);
    let removed = (EventName::RemovedDelete, "in/a".to_owned());
    assert_eq!(world.take("v").await, [removed]);
    // No rules any more.
    world.rules(&[]).await;
    world.put("in/a", Cause::Request).await.unwrap();
    assert!(world.queued("w").await.is_empty());
}

#[tokio::test]
async fn of_two_changes_of_the_rules_the_later_holds() {
    let world = World::new(Versioning::Off).await;
    let (directory, metadata) = (&world.fixture.test.directory, world.fixture.metadata());
    world.rules(&[rule("w", EVERYTHING, "")]).await;
    let first = bucket_events(directory, &world.bucket).await.unwrap();
    world.rules(&[rule("v", EVERYTHING, "")]).await;
    let second = bucket_events(directory, &world.bucket).await.unwrap();
    assert_eq!((first.change, second.change), (1, 2));
    world.take("w").await;
    world.take("v").await;
    // The first comes late, and the second once more.
    metadata
        .set_events(world.bucket.id, &first, true)
        .await
        .unwrap();
    metadata
        .set_events(world.bucket.id, &second, true)
        .await
        .unwrap();
    world.put("k", Cause::Request).await.unwrap();
    assert!(world.queued("w").await.is_empty());
    assert_eq!(world.queued("v").await.len(), 1);
}

#[tokio::test]
async fn what_cannot_be_queued_does_not_happen() {
    let world = World::new(Versioning::Off).await;
    world.rules(&[rule("w", EVERYTHING, "k")]).await;
    world.take("w").await;
    for _ in 0..QUEUE_LEN_MAX {
        world.put("k", Cause::Request).await.unwrap();
    }
    let metadata = world.fixture.metadata();
    let group = metadata.place(world.bucket.id, "k").group;
    let before = metadata.usage(group).await.unwrap();
    let reclaimable = world.fixture.reclaimable().await;
    let new = super::chunked_version(77, 1000);
    let refused = metadata.put(world.bucket.id, "k", new, &any()).await;
    assert!(matches!(refused, Err(WriteError::EventsWaiting)));
    let deletion = Deletion {
        key: "k".to_owned(),
        ..Deletion::default()
    };
    let refused = metadata.delete_version(world.bucket.id, &deletion).await;
    assert!(matches!(refused, Err(WriteError::EventsWaiting)));
    let kept = metadata.head(world.bucket.id, "k").await.unwrap().unwrap();
    assert_eq!(kept.summary.size, 3);
    assert_eq!(metadata.usage(group).await.unwrap(), before);
    assert_eq!(world.fixture.reclaimable().await, reclaimable);
    // Others go on, and so does this one when there is room again.
    world.put("other", Cause::Request).await.unwrap();
    let first = world.queued("w").await[0].id;
    metadata.forget_events(group, "w", first).await.unwrap();
    world.put("k", Cause::Request).await.unwrap();
    assert!(world.put("k", Cause::Request).await.is_err());
    assert_eq!(metadata.usage(group).await.unwrap(), before);
}

/// Keys change at random, queues are emptied at random; all that happened comes, once, in order for each key.
#[tokio::test]
async fn at_random_everything_comes_in_order() {
    let seed = std::env::var("HOLDFAST_SEED").ok();
    let seed = seed.map_or_else(|| SystemRng.next_u64(), |seed| seed.parse().unwrap());
    println!("HOLDFAST_SEED={seed}");
    let rng = SeededRng::new(seed);
    let versioning = match rng.below(3) {
        0 => Versioning::Off,
        1 => Versioning::Enabled,
        _ => Versioning::Suspended,
    };
    let world = World::new(versioning).await;
    world
        .rules(&[rule("w", EVERYTHING, ""), rule("v", EVERYTHING, "k1")])
        .await;
    world.take("w").await;
    world.take("v").await;
    let mut expected: BTreeMap<String, Vec<EventName>> = BTreeMap::new();
    let mut told: BTreeMap<String, Vec<EventName>> = BTreeMap::new();
    let mut there: BTreeMap<String, bool> = BTreeMap::new();
    for _ in 0..400 {
        let key = format!("k{}", rng.below(4));
        let cause = match rng.below(3) {
            0 => Cause::Lifecycle,
            _ => Cause::Request,
        };
        let is_there = there.get(&key).copied().unwrap_or_default();
        let events = expected.entry(key.clone()).or_default();
        match rng.below(5) {
            0 | 1 => {
                world.put(&key, cause).await.unwrap();
                there.insert(key, true);
                events.push(EventName::CreatedPut);
            }
            2 => {
                world.upload(&key).await;
                there.insert(key, true);
                events.push(EventName::CreatedCompleteUpload);
            }
            3 if is_there => {
                world.tag(&key, Cause::Request).await;
                events.push(EventName::TaggingPut);
            }
            _ => {
                world.delete(&key, None, cause).await;
                there.insert(key, false);
                match (cause, versioning) {
                    (_, Versioning::Off) if !is_there => {}
                    (Cause::Lifecycle, Versioning::Off) => events.push(EventName::LifecycleDelete),
                    (_, Versioning::Off) => events.push(EventName::RemovedDelete),
                    (Cause::Lifecycle, _) => events.push(EventName::LifecycleDeleteMarker),
                    _ => events.push(EventName::RemovedDeleteMarker),
                }
            }
        }
        if rng.below(4) == 0 {
            world.fixture.test.groups.restart();
        }
        // Often enough that no queue is full.
        if rng.below(4) == 0 || world.queued("w").await.len() as u64 >= QUEUE_LEN_MAX / 2 {
            for (name, key) in world.take("w").await {
                told.entry(key).or_default().push(name);
            }
            world.take("v").await;
        }
    }
    for (name, key) in world.take("w").await {
        told.entry(key).or_default().push(name);
    }
    expected.retain(|_, events| !events.is_empty());
    assert_eq!(told, expected);
}
