use holdfast_placement::directory::{CreateBucket, Expected, SetSetting};
use holdfast_placement::ids::GroupId;
use holdfast_placement::seams::{ManualClock, SeededRng};

use super::*;
use crate::lifecycle::{Filter, MinimumSize, NoncurrentTransition, Transition, When};
use crate::metadata::testing::{TestMetadata, map_of};
use crate::metadata::{
    Body, BucketVersioning, Etag, LockChange, NewUpload, NewVersion, ObjectHeaders, VersionLock,
    Versioning,
};

const DAY_MS: u64 = DAY_SECS * 1000;

struct World {
    below: TestMetadata,
    worker: LifecycleWorker,
    clock: ManualClock,
    bucket: Arc<Bucket>,
}

/// A bucket at midnight, with pages of two versions.
async fn world(versioning: Option<Versioning>) -> World {
    let clock = ManualClock::at(UnixMillis(100 * DAY_MS));
    let shared = Arc::new(clock.clone());
    let below = TestMetadata::new(shared.clone(), Arc::new(SeededRng::new(1)));
    let made = below.directory.create_bucket("b", "me", "eu").await;
    let CreateBucket::Created(bucket) = made.unwrap() else {
        panic!("the name was free");
    };
    if let Some(versioning) = versioning {
        let set = BucketVersioning {
            change: 1,
            versioning,
            ..BucketVersioning::default()
        };
        below.metadata.set_versioning(bucket.id, set).await.unwrap();
    }
    let other = below.split(16, shared.clone(), Arc::new(SeededRng::new(2)), 1, 0);
    let worker = LifecycleWorker::new(
        Arc::new(other.directory),
        other.metadata,
        map_of(16),
        Arc::new(|| (0..=16).map(GroupId).collect()),
        shared,
        LifecycleConfig {
            page: 2,
            page_pause: Duration::ZERO,
            ..LifecycleConfig::default()
        },
    );
    World {
        below,
        worker,
        clock,
        bucket,
    }
}

fn rule(expiration: Option<Expiration>) -> Rule {
    Rule {
        id: "r".to_owned(),
        enabled: true,
        expiration,
        ..Rule::default()
    }
}

impl World {
    async fn rules(&self, rules: &[Rule]) {
        self.set(Lifecycle {
            rules: rules.to_vec(),
            minimum: None,
        })
        .await;
    }

    async fn set(&self, lifecycle: Lifecycle) {
        let value = lifecycle.encode().unwrap();
        let directory = &self.below.directory;
        let setting = Setting::Lifecycle;
        let set = directory.set_setting(&self.bucket, setting, Expected::Anything, Some(&value));
        assert_eq!(set.await.unwrap(), SetSetting::Done);
    }

    async fn put(&self, key: &str, tags: &[(&str, &str)]) {
        let tags = tags.iter();
        let new = NewVersion {
            size: 0,
            etag: Etag::Md5([7; 16]),
            checksum: None,
            body: Body::Empty,
            inline: Default::default(),
            missed: Vec::new(),
            headers: ObjectHeaders::default(),
            tags: tags
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            lock: VersionLock::default(),
        };
        let condition = Condition::default();
        let metadata = &self.below.metadata;
        let put = metadata.put(self.bucket.id, key, new, &condition);
        put.await.unwrap();
    }

    async fn delete(&self, key: &str) {
        let metadata = &self.below.metadata;
        let condition = Condition::default();
        let deleted = metadata.delete(self.bucket.id, key, &condition);
        deleted.await.unwrap();
    }

    /// Keys of all versions, `-` before those of delete markers.
    async fn left(&self) -> Vec<String> {
        let list = ListVersions {
            max: 1000,
            ..ListVersions::default()
        };
        let page = self.below.metadata.list_versions(self.bucket.id, &list);
        let entries = page.await.unwrap().entries.into_iter();
        entries
            .map(|entry| match entry.summary.delete_marker {
                true => format!("-{}", entry.key),
                false => entry.key,
            })
            .collect()
    }

    /// Keys and storage classes of all versions, newest first.
    async fn classes(&self) -> Vec<(String, &'static str)> {
        let list = ListVersions {
            max: 1000,
            ..ListVersions::default()
        };
        let page = self.below.metadata.list_versions(self.bucket.id, &list);
        let entries = page.await.unwrap().entries.into_iter();
        entries
            .filter(|entry| !entry.summary.delete_marker)
            .map(|entry| (entry.key, entry.class.name()))
            .collect()
    }

    async fn classes_after_days(&self, days: u64) -> Vec<&'static str> {
        self.after_days(days).await;
        let classes = self.classes().await.into_iter();
        classes.map(|(_, class)| class).collect()
    }

    async fn after_days(&self, days: u64) -> Vec<String> {
        self.clock.advance(Duration::from_secs(days * DAY_SECS));
        self.worker.pass().await;
        self.left().await
    }
}

#[tokio::test]
async fn objects_expire_by_prefix_tag_and_age() {
    let world = world(None).await;
    let tagged = Rule {
        filter: Filter {
            prefix: "t/".to_owned(),
            tags: vec![("a".to_owned(), "1".to_owned())],
            ..Filter::default()
        },
        ..rule(Some(Expiration::Days(1)))
    };
    let prefixed = Rule {
        filter: Filter {
            prefix: "p/".to_owned(),
            ..Filter::default()
        },
        ..rule(Some(Expiration::Days(3)))
    };
    let disabled = Rule {
        enabled: false,
        ..rule(Some(Expiration::Days(1)))
    };
    world.rules(&[tagged, prefixed, disabled]).await;
    // Written within the first day: days count from its end.
    world.clock.advance(Duration::from_secs(60));
    for key in ["o", "p/1", "p/2", "p/3", "t/plain"] {
        world.put(key, &[]).await;
    }
    world.put("t/tagged", &[("b", "2"), ("a", "1")]).await;
    world.put("t/other", &[("a", "2")]).await;
    let all = ["o", "p/1", "p/2", "p/3", "t/other", "t/plain", "t/tagged"];
    assert_eq!(world.after_days(1).await, all);
    assert_eq!(world.after_days(1).await, all[..6]);
    assert_eq!(world.after_days(1).await, all[..6]);
    assert_eq!(world.after_days(1).await, ["o", "t/other", "t/plain"]);
}

#[tokio::test]
async fn an_object_that_was_written_again_stays() {
    let world = world(None).await;
    world.rules(&[rule(Some(Expiration::Days(2)))]).await;
    world.put("a", &[]).await;
    world.put("b", &[]).await;
    world.clock.advance(Duration::from_secs(DAY_SECS));
    world.put("b", &[]).await;
    assert_eq!(world.after_days(1).await, ["b"]);
    assert_eq!(world.after_days(1).await, [""; 0]);
}

#[tokio::test]
async fn a_date_ends_what_there_is() {
    let world = world(None).await;
    let date = UnixMillis(102 * DAY_MS);
    world.rules(&[rule(Some(Expiration::Date(date)))]).await;
    world.put("a", &[]).await;
    assert_eq!(world.after_days(1).await, ["a"]);
    assert_eq!(world.after_days(1).await, [""; 0]);
}

#[tokio::test]
async fn versions_go_one_kind_after_the_other() {
    let world = world(Some(Versioning::Enabled)).await;
    let noncurrent = Rule {
        noncurrent: Some(Noncurrent { days: 2, kept: 1 }),
        ..rule(Some(Expiration::Days(1)))
    };
    world.rules(&[noncurrent]).await;
    for _ in 0..4 {
        world.put("a", &[]).await;
    }
    // The current one gets a marker, and all four are noncurrent then.
    assert_eq!(world.after_days(1).await, ["-a", "a", "a", "a", "a"]);
    // Three became noncurrent two days ago, the newest of them is the second by now.
    assert_eq!(world.after_days(1).await, ["-a", "a"]);
    assert_eq!(world.after_days(5).await, ["-a", "a"]);
    let all = Rule {
        noncurrent: Some(Noncurrent { days: 2, kept: 0 }),
        ..rule(None)
    };
    world.rules(&[all]).await;
    assert_eq!(world.after_days(0).await, ["-a"]);
    world.rules(&[rule(Some(Expiration::DeleteMarker))]).await;
    assert_eq!(world.after_days(0).await, [""; 0]);
}

#[tokio::test]
async fn a_marker_with_versions_below_stays() {
    let world = world(Some(Versioning::Enabled)).await;
    world.rules(&[rule(Some(Expiration::DeleteMarker))]).await;
    for key in ["a", "b", "c", "d"] {
        world.delete(key).await;
    }
    world.put("e", &[]).await;
    world.delete("e").await;
    world.put("f", &[]).await;
    assert_eq!(world.after_days(0).await, ["-e", "e", "f"]);
}

#[tokio::test]
async fn locked_versions_stay() {
    let world = world(None).await;
    let set = BucketVersioning::with_lock();
    let metadata = &world.below.metadata;
    metadata.set_versioning(world.bucket.id, set).await.unwrap();
    let all = Rule {
        noncurrent: Some(Noncurrent { days: 1, kept: 0 }),
        ..rule(Some(Expiration::Days(1)))
    };
    world.rules(&[all]).await;
    world.put("a", &[]).await;
    let hold = LockChange::LegalHold(true);
    let held = metadata.set_lock(world.bucket.id, "a", None, hold, false);
    held.await.unwrap();
    world.put("b", &[]).await;
    world.after_days(1).await;
    assert_eq!(world.after_days(9).await, ["-a", "a", "-b"]);
    assert_eq!(world.after_days(1).await, ["-a", "a"]);
}

#[tokio::test]
async fn uploads_that_nobody_completes_end() {
    let world = world(None).await;
    let abort = Rule {
        abort_days: Some(2),
        ..rule(None)
    };
    world.rules(&[abort]).await;
    let metadata = &world.below.metadata;
    for key in ["a", "b", "c", "d", "e"] {
        let new = NewUpload {
            headers: ObjectHeaders::default(),
            tags: Vec::new(),
            checksum: None,
            lock: VersionLock::default(),
        };
        let begun = metadata.create_upload(world.bucket.id, key, new);
        begun.await.unwrap();
    }
    world.clock.advance(Duration::from_secs(DAY_SECS));
    assert_eq!(world.worker.pass().await, LifecycleDone::default());
    world.clock.advance(Duration::from_secs(DAY_SECS));
    assert_eq!(world.worker.pass().await.uploads, 5);
    assert_eq!(world.worker.pass().await, LifecycleDone::default());
}

fn to(days: u32, class: StorageClass) -> Transition {
    Transition {
        when: When::Days(days),
        class,
    }
}

fn noncurrent_to(days: u32, kept: u32, class: StorageClass) -> NoncurrentTransition {
    NoncurrentTransition {
        after: Noncurrent { days, kept },
        class,
    }
}

#[tokio::test]
async fn current_versions_get_other_classes() {
    let world = world(None).await;
    let moves = Rule {
        filter: Filter {
            prefix: "m/".to_owned(),
            tags: vec![("a".to_owned(), "1".to_owned())],
            ..Filter::default()
        },
        transitions: vec![
            to(1, StorageClass::IntelligentTiering),
            to(3, StorageClass::GlacierIr),
        ],
        ..rule(Some(Expiration::Days(5)))
    };
    world.rules(&[moves]).await;
    world.put("m/1", &[("a", "1")]).await;
    world.put("m/2", &[]).await;
    world.put("o", &[("a", "1")]).await;
    let metadata = &world.below.metadata;
    let before = metadata
        .head(world.bucket.id, "m/1")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(world.classes_after_days(0).await, ["STANDARD"; 3]);
    let tiered = ["INTELLIGENT_TIERING", "STANDARD", "STANDARD"];
    assert_eq!(world.classes_after_days(1).await, tiered);
    assert_eq!(world.classes_after_days(1).await, tiered);
    let archived = ["GLACIER_IR", "STANDARD", "STANDARD"];
    assert_eq!(world.classes_after_days(1).await, archived);
    let after = metadata
        .head(world.bucket.id, "m/1")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(after.summary, before.summary);
    assert_eq!(after.headers.storage_class.as_deref(), Some("GLACIER_IR"));
    assert_eq!(after.tags, before.tags);
    assert_eq!(world.classes_after_days(2).await, ["STANDARD"; 2]);
}

#[tokio::test]
async fn what_was_written_again_begins_anew() {
    let world = world(None).await;
    let date = UnixMillis(103 * DAY_MS);
    let moves = Rule {
        transitions: vec![
            to(2, StorageClass::StandardIa),
            Transition {
                when: When::Date(date),
                class: StorageClass::OnezoneIa,
            },
        ],
        ..rule(None)
    };
    world.rules(&[moves]).await;
    world.put("a", &[]).await;
    assert_eq!(world.classes_after_days(2).await, ["STANDARD_IA"]);
    world.put("a", &[]).await;
    assert_eq!(world.classes().await, [("a".to_owned(), "STANDARD")]);
    assert_eq!(world.classes_after_days(1).await, ["ONEZONE_IA"]);
}

#[tokio::test]
async fn noncurrent_versions_get_other_classes() {
    let world = world(None).await;
    let set = BucketVersioning::with_lock();
    let metadata = &world.below.metadata;
    metadata.set_versioning(world.bucket.id, set).await.unwrap();
    let moves = Rule {
        noncurrent_transitions: vec![
            noncurrent_to(1, 0, StorageClass::StandardIa),
            noncurrent_to(2, 1, StorageClass::GlacierIr),
        ],
        ..rule(None)
    };
    world.rules(&[moves]).await;
    for _ in 0..3 {
        world.put("a", &[]).await;
    }
    // Locks do not hold classes.
    let hold = LockChange::LegalHold(true);
    let held = metadata.set_lock(world.bucket.id, "a", None, hold, false);
    held.await.unwrap();
    world.put("a", &[]).await;
    assert_eq!(world.classes_after_days(0).await, ["STANDARD"; 4]);
    let ia = "STANDARD_IA";
    assert_eq!(world.classes_after_days(1).await, ["STANDARD", ia, ia, ia]);
    let ir = "GLACIER_IR";
    assert_eq!(world.classes_after_days(1).await, ["STANDARD", ia, ir, ir]);
    // Below a delete marker the newest of them is noncurrent too.
    world.delete("a").await;
    assert_eq!(world.classes_after_days(1).await, [ia, ir, ir, ir]);
}

#[tokio::test]
async fn small_objects_may_keep_their_class() {
    let world = world(None).await;
    world
        .set(Lifecycle {
            rules: vec![Rule {
                transitions: vec![to(0, StorageClass::GlacierIr)],
                ..rule(None)
            }],
            minimum: Some(MinimumSize::AllStorageClasses128K),
        })
        .await;
    world.put("a", &[]).await;
    assert_eq!(world.classes_after_days(1).await, ["STANDARD"]);
}

/// A version that is not what was looked at keeps its class.
#[tokio::test]
async fn classes_change_only_where_they_were_seen() {
    let world = world(Some(Versioning::Enabled)).await;
    world.put("a", &[]).await;
    let metadata = &world.below.metadata;
    let list = ListVersions {
        max: 10,
        ..ListVersions::default()
    };
    let page = metadata
        .list_versions(world.bucket.id, &list)
        .await
        .unwrap();
    let change = class_change(&page.entries[0], StorageClass::GlacierIr);
    world.put("a", &[]).await;
    let changes = [
        change.clone(),
        ClassChange {
            latest: false,
            ..change
        },
    ];
    let done = metadata.set_classes(world.bucket.id, &changes).await;
    let done: Vec<bool> = done.into_iter().map(Result::unwrap).collect();
    assert_eq!(done, [false, true]);
    let classes = world.classes().await.into_iter();
    let classes: Vec<_> = classes.map(|(_, class)| class).collect();
    assert_eq!(classes, ["STANDARD", "GLACIER_IR"]);
}
