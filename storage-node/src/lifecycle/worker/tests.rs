use futures_util::future::{BoxFuture, ready};
use holdfast_placement::directory::{CreateBucket, Expected, SetSetting};
use holdfast_placement::ids::{BucketId, GroupId};
use holdfast_placement::seams::{ManualClock, SeededRng};
use parking_lot::Mutex;

use super::*;
use crate::lifecycle::{Filter, MinimumSize, NoncurrentTransition, Transition, When};
use crate::metadata::testing::{TestMetadata, add_older_node, map_of};
use crate::metadata::{
    Body, BucketVersioning, ClassChange, CompleteUpload, Condition, Deletion, Etag, ListParts,
    LockChange, NewPart, NewUpload, NewVersion, ObjectHeaders, VersionLock, VersionRef, Versioning,
};

const DAY_MS: u64 = DAY_SECS * 1000;

/// The worker's clock, on which something happens while the worker sleeps.
struct Pauses {
    clock: ManualClock,
    /// What happens in the next pause.
    next: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl Clock for Pauses {
    fn wall(&self) -> UnixMillis {
        self.clock.wall()
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.clock.advance(duration);
        let next = self.next.lock().take();
        next.unwrap_or_else(|| Box::pin(ready(())))
    }
}

struct World {
    below: TestMetadata,
    worker: LifecycleWorker,
    clock: ManualClock,
    pauses: Arc<Pauses>,
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
    let other = below.split(16, shared, Arc::new(SeededRng::new(2)), 1, 0);
    let pauses = Arc::new(Pauses {
        clock: clock.clone(),
        next: Mutex::default(),
    });
    let worker = LifecycleWorker::new(
        other.directory,
        other.metadata,
        map_of(16),
        Arc::new(|| (0..=16).map(GroupId).collect()),
        pauses.clone(),
        LifecycleConfig {
            page: 2,
            page_pause: Duration::ZERO,
            ..LifecycleConfig::default()
        },
    );
    let world = World {
        below,
        worker,
        clock,
        pauses,
        bucket,
    };
    if let Some(versioning) = versioning {
        world.set_versioning(1, versioning).await;
    }
    world
}

fn removal(key: &str, version: VersionRef) -> Deletion {
    Deletion {
        key: key.to_owned(),
        version: Some(version),
        ..Deletion::default()
    }
}

fn pairs(tags: &[(&str, &str)]) -> Vec<(String, String)> {
    let tags = tags.iter();
    tags.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// An object of no bytes.
fn empty(tags: &[(&str, &str)]) -> NewVersion {
    NewVersion {
        size: 0,
        etag: Etag::Md5([7; 16]),
        checksum: None,
        body: Body::Empty,
        inline: Default::default(),
        missed: Vec::new(),
        headers: ObjectHeaders::default(),
        tags: pairs(tags),
        lock: VersionLock::default(),
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
        let condition = Condition::default();
        let metadata = &self.below.metadata;
        let put = metadata.put(self.bucket.id, key, empty(tags), &condition);
        put.await.unwrap();
    }

    /// Has this happen in the worker's next pause.
    fn in_pause<F>(&self, happens: impl FnOnce(Metadata, BucketId) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let happens = happens(self.below.metadata.clone(), self.bucket.id);
        *self.pauses.next.lock() = Some(Box::pin(happens));
    }

    async fn set_versioning(&self, change: u64, versioning: Versioning) {
        let set = BucketVersioning {
            change,
            versioning,
            ..BucketVersioning::default()
        };
        let metadata = &self.below.metadata;
        let set = metadata.set_versioning(self.bucket.id, set);
        set.await.unwrap();
    }

    /// Gives the marker that was made, if one was.
    async fn delete(&self, key: &str) -> Option<VersionRef> {
        let metadata = &self.below.metadata;
        let condition = Condition::default();
        let deleted = metadata.delete(self.bucket.id, key, &condition);
        deleted.await.unwrap().marker
    }

    async fn remove(&self, key: &str, version: VersionRef) {
        let deletion = removal(key, version);
        let metadata = &self.below.metadata;
        let removed = metadata.delete_version(self.bucket.id, &deletion);
        assert!(removed.await.unwrap().existed);
    }

    async fn tag(&self, key: &str, version: Option<VersionRef>, tags: &[(&str, &str)]) {
        let metadata = &self.below.metadata;
        let tagged = metadata.set_version_tags(self.bucket.id, key, version, pairs(tags));
        tagged.await.unwrap();
    }

    /// All versions, newest first.
    async fn versions(&self) -> Vec<VersionEntry> {
        let list = ListVersions {
            max: 1000,
            ..ListVersions::default()
        };
        let page = self.below.metadata.list_versions(self.bucket.id, &list);
        page.await.unwrap().entries
    }

    /// What is due by a rule in so many days, as the worker sees it before it does any of it.
    async fn due_in_days(&self, days: u64, rule: &Rule) -> Vec<LifecycleAction> {
        self.clock.advance(Duration::from_secs(days * DAY_SECS));
        let lifecycle = Lifecycle::default();
        let mut key = KeyState::default();
        let page = self.versions().await;
        let due = self
            .worker
            .due_of(&self.bucket, &lifecycle, rule, &mut key, &page);
        let mut actions = due.await.unwrap();
        actions.extend(key.lone_marker());
        assert!(!actions.is_empty());
        actions
    }

    /// Does what was due: what had come of it, and what is left.
    async fn carry_out(
        &self,
        rule: &Rule,
        actions: &[LifecycleAction],
    ) -> (LifecycleDone, Vec<String>) {
        let mut done = LifecycleDone::default();
        let carried_out = self
            .worker
            .carry_out(&self.bucket, rule, actions, &mut done);
        carried_out.await;
        (done, self.left().await)
    }

    /// Keys of all versions, `-` before those of delete markers.
    async fn left(&self) -> Vec<String> {
        let entries = self.versions().await.into_iter();
        entries
            .map(|entry| match entry.summary.delete_marker {
                true => format!("-{}", entry.key),
                false => entry.key,
            })
            .collect()
    }

    /// Keys and storage classes of all versions, newest first.
    async fn classes(&self) -> Vec<(String, &'static str)> {
        let entries = self.versions().await.into_iter();
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
    let change = ClassChange {
        key: "a".to_owned(),
        version: page.entries[0].summary.version,
        latest: true,
        class: StorageClass::GlacierIr,
    };
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

/// The null version that took a delete marker's place is not what was looked at.
#[tokio::test]
async fn an_object_that_took_a_markers_place_stays() {
    let world = world(Some(Versioning::Suspended)).await;
    world.rules(&[rule(Some(Expiration::DeleteMarker))]).await;
    world.put("0", &[]).await;
    world.delete("a").await;
    world.put("b", &[]).await;
    // The marker ends the first page, and is alone if the second page has none of its key.
    world.in_pause(|metadata, bucket| async move {
        let condition = Condition::default();
        let put = metadata.put(bucket, "a", empty(&[]), &condition);
        put.await.unwrap();
    });
    assert_eq!(world.after_days(1).await, ["0", "a", "b"]);
}

/// A version that became the newest again meanwhile is not one that a rule of the others is about.
#[tokio::test]
async fn a_version_that_is_current_again_stays() {
    let world = world(Some(Versioning::Enabled)).await;
    let noncurrent = Rule {
        noncurrent: Some(Noncurrent { days: 1, kept: 0 }),
        ..rule(None)
    };
    world.rules(&[noncurrent]).await;
    world.put("0", &[]).await;
    world.put("a", &[]).await;
    let marker = world.delete("a").await.unwrap();
    world.in_pause(move |metadata, bucket| async move {
        let deletion = removal("a", marker);
        let deleted = metadata.delete_version(bucket, &deletion);
        assert!(deleted.await.unwrap().existed);
    });
    assert_eq!(world.after_days(2).await, ["0", "a"]);
}

/// All that was due stays as it is.
fn all_kept(actions: &[LifecycleAction]) -> LifecycleDone {
    LifecycleDone {
        kept: actions.len() as u64,
        ..LifecycleDone::default()
    }
}

fn with_tag(rule: Rule) -> Rule {
    Rule {
        filter: Filter {
            tags: pairs(&[("a", "1")]),
            ..Filter::default()
        },
        ..rule
    }
}

fn noncurrent(days: u32, kept: u32) -> Rule {
    Rule {
        noncurrent: Some(Noncurrent { days, kept }),
        ..rule(None)
    }
}

/// An object of parts is as old as its upload, the version below is not current only since its completion.
#[tokio::test]
async fn what_an_upload_took_the_place_of_stays_as_long_as_another() {
    let world = world(Some(Versioning::Enabled)).await;
    world.rules(&[noncurrent(3, 0)]).await;
    let metadata = &world.below.metadata;
    let new = NewUpload {
        headers: ObjectHeaders::default(),
        tags: Vec::new(),
        checksum: None,
        lock: VersionLock::default(),
    };
    let begun = metadata.create_upload(world.bucket.id, "a", new);
    let upload = begun.await.unwrap();
    assert!(world.after_days(5).await.is_empty());
    world.put("a", &[]).await;
    let part = NewPart {
        number: 1,
        size: 0,
        md5: [7; 16],
        checksum: None,
        body: Body::Empty,
        missed: Vec::new(),
    };
    let put = metadata.put_part(world.bucket.id, "a", upload, part);
    put.await.unwrap();
    let list = ListParts {
        upload,
        after: 0,
        max: 1,
    };
    let page = metadata.list_parts(world.bucket.id, "a", &list).await;
    let complete = CompleteUpload {
        upload,
        etag: Etag::Multipart([7; 16], 1),
        parts: page.unwrap().unwrap().parts,
        size: 0,
        checksum: None,
    };
    let condition = Condition::default();
    let completed = metadata.complete_upload(world.bucket.id, "a", complete, &condition);
    let completed = completed.await.unwrap();
    assert_eq!(completed.modified, UnixMillis(100 * DAY_MS));
    assert_eq!(completed.version.committed(), UnixMillis(105 * DAY_MS));
    assert_eq!(world.after_days(2).await, ["a", "a"]);
    assert_eq!(world.after_days(1).await, ["a"]);
}

#[tokio::test]
async fn a_tag_that_was_taken_away_saves_the_object() {
    let world = world(None).await;
    let expires = with_tag(rule(Some(Expiration::Days(1))));
    world.put("a", &[("a", "1")]).await;
    world.put("b", &[("b", "2"), ("a", "1")]).await;
    world.put("c", &[("a", "1")]).await;
    let due = world.due_in_days(1, &expires).await;
    world.tag("a", None, &[]).await;
    world.tag("b", None, &[("b", "2"), ("a", "2")]).await;
    world.tag("c", None, &[("c", "3"), ("a", "1")]).await;
    let (done, left) = world.carry_out(&expires, &due).await;
    assert_eq!((done.versions, done.kept), (1, 2));
    assert_eq!(left, ["a", "b"]);
}

#[tokio::test]
async fn a_tag_that_was_taken_away_saves_a_version_and_its_class() {
    let world = world(Some(Versioning::Enabled)).await;
    world.put("a", &[("a", "1")]).await;
    let old = world.versions().await[0].summary.name();
    world.put("a", &[]).await;
    let expires = with_tag(noncurrent(1, 0));
    let moves = with_tag(Rule {
        noncurrent_transitions: vec![noncurrent_to(1, 0, StorageClass::GlacierIr)],
        ..rule(None)
    });
    let due = world.due_in_days(1, &expires).await;
    let to_move = world.due_in_days(0, &moves).await;
    world.tag("a", Some(old), &[]).await;
    let (done, left) = world.carry_out(&expires, &due).await;
    assert_eq!((done, left.len()), (all_kept(&due), 2));
    let (done, _) = world.carry_out(&moves, &to_move).await;
    assert_eq!(done, all_kept(&to_move));
    assert_eq!(world.classes_after_days(0).await, ["STANDARD"; 2]);
    world.tag("a", Some(old), &[("a", "1")]).await;
    assert_eq!(world.carry_out(&moves, &to_move).await.0.moved, 1);
    assert_eq!(world.carry_out(&expires, &due).await.1, ["a"]);
}

/// Not even the same bytes in the same second are what was looked at.
#[tokio::test]
async fn an_object_like_the_one_that_was_seen_stays() {
    let world = world(None).await;
    let now = world.clock.wall();
    let expires = rule(Some(Expiration::Date(now)));
    world.put("a", &[]).await;
    let due = world.due_in_days(0, &expires).await;
    world.put("a", &[]).await;
    let (done, left) = world.carry_out(&expires, &due).await;
    assert_eq!((done, left), (all_kept(&due), vec!["a".to_owned()]));
}

/// A null version that is no longer current, and the one that took its name.
#[tokio::test]
async fn another_null_version_stays() {
    let world = world(None).await;
    let expires = noncurrent(1, 0);
    world.put("a", &[]).await;
    world.set_versioning(1, Versioning::Enabled).await;
    world.put("a", &[]).await;
    world.set_versioning(2, Versioning::Suspended).await;
    let due = world.due_in_days(1, &expires).await;
    world.put("a", &[]).await;
    let (done, left) = world.carry_out(&expires, &due).await;
    assert_eq!((done, left), (all_kept(&due), vec!["a".to_owned(); 2]));
    assert!(world.versions().await[0].summary.null);
}

#[tokio::test]
async fn a_version_that_was_current_in_between_stays() {
    let world = world(Some(Versioning::Enabled)).await;
    let expires = noncurrent(1, 0);
    world.put("a", &[]).await;
    let marker = world.delete("a").await.unwrap();
    let due = world.due_in_days(1, &expires).await;
    world.remove("a", marker).await;
    world.put("a", &[]).await;
    let (done, left) = world.carry_out(&expires, &due).await;
    assert_eq!((done, left), (all_kept(&due), vec!["a".to_owned(); 2]));
    // It is noncurrent since then.
    assert_eq!(world.due_in_days(1, &expires).await.len(), 1);
}

#[tokio::test]
async fn as_many_as_a_rule_keeps_stay() {
    let world = world(Some(Versioning::Enabled)).await;
    let expires = noncurrent(1, 2);
    for _ in 0..5 {
        world.put("a", &[]).await;
    }
    let versions = world.versions().await;
    let due = world.due_in_days(1, &expires).await;
    assert_eq!(due.len(), 2);
    world.remove("a", versions[2].summary.name()).await;
    let (done, _) = world.carry_out(&expires, &due).await;
    assert_eq!(done, all_kept(&due));
    let due = world.due_in_days(0, &expires).await;
    assert_eq!(due.len(), 1);
    assert_eq!(world.carry_out(&expires, &due).await.0.versions, 1);
    assert_eq!(world.left().await.len(), 3);
}

/// Nor does a marker go that an older version came under.
#[tokio::test]
async fn a_marker_goes_only_alone() {
    let world = world(Some(Versioning::Suspended)).await;
    let expires = rule(Some(Expiration::DeleteMarker));
    for key in ["a", "b", "c"] {
        world.delete(key).await;
    }
    let due = world.due_in_days(0, &expires).await;
    assert_eq!(due.len(), 3);
    world.set_versioning(2, Versioning::Enabled).await;
    world.put("a", &[]).await;
    world.put("b", &[]).await;
    world.delete("b").await;
    let (done, left) = world.carry_out(&expires, &due).await;
    assert_eq!((done.versions, done.kept), (1, 2));
    assert_eq!(left, ["a", "-a", "-b", "b", "-b"]);
}

#[tokio::test]
async fn a_version_that_was_locked_meanwhile_stays() {
    let world = world(None).await;
    let set = BucketVersioning::with_lock();
    let metadata = &world.below.metadata;
    metadata.set_versioning(world.bucket.id, set).await.unwrap();
    let expires = noncurrent(1, 0);
    world.put("a", &[]).await;
    let old = world.versions().await[0].summary.name();
    world.put("a", &[]).await;
    let due = world.due_in_days(1, &expires).await;
    let hold = LockChange::LegalHold(true);
    let held = metadata.set_lock(world.bucket.id, "a", Some(old), hold, false);
    held.await.unwrap();
    let (done, left) = world.carry_out(&expires, &due).await;
    assert_eq!((done, left.len()), (all_kept(&due), 2));
}

/// Of two nodes that go over a bucket at once, one comes late.
#[tokio::test]
async fn classes_do_not_go_back() {
    let world = world(None).await;
    let moves = |class| Rule {
        transitions: vec![to(1, class)],
        ..rule(None)
    };
    world.put("a", &[]).await;
    let late = moves(StorageClass::StandardIa);
    let due = world.due_in_days(1, &late).await;
    let first = moves(StorageClass::GlacierIr);
    let due_first = world.due_in_days(0, &first).await;
    assert_eq!(world.carry_out(&first, &due_first).await.0.moved, 1);
    assert_eq!(world.carry_out(&late, &due).await.0, all_kept(&due));
    assert_eq!(world.classes().await, [("a".to_owned(), "GLACIER_IR")]);
}

/// What goes by itself is in nobody's way: what was current makes room for a delete marker and is gone for ever.
#[tokio::test]
async fn all_versions_of_a_suspended_bucket_go_in_a_pass() {
    let world = world(Some(Versioning::Enabled)).await;
    let all = Rule {
        noncurrent: Some(Noncurrent { days: 1, kept: 0 }),
        ..rule(Some(Expiration::Days(1)))
    };
    world.rules(&[all]).await;
    world.put("a", &[]).await;
    world.set_versioning(2, Versioning::Suspended).await;
    world.put("a", &[]).await;
    assert_eq!(world.after_days(1).await, ["-a"]);
}

/// Where a node does not know the command, rules are carried out as it knows.
#[tokio::test]
async fn rules_are_carried_out_beside_older_nodes() {
    let world = world(Some(Versioning::Suspended)).await;
    add_older_node(&world.worker.metadata);
    let moves = Rule {
        transitions: vec![to(1, StorageClass::GlacierIr)],
        filter: Filter {
            prefix: "m".to_owned(),
            ..Filter::default()
        },
        ..noncurrent(1, 0)
    };
    let markers = rule(Some(Expiration::DeleteMarker));
    world.rules(&[moves, markers.clone()]).await;
    world.set_versioning(2, Versioning::Enabled).await;
    world.put("m", &[]).await;
    world.put("m", &[]).await;
    world.set_versioning(3, Versioning::Suspended).await;
    world.delete("a").await;
    world.put("b", &[]).await;
    assert_eq!(world.after_days(1).await, ["b", "m"]);
    let ir = ("m".to_owned(), "GLACIER_IR");
    assert_eq!(world.classes().await, [("b".to_owned(), "STANDARD"), ir]);
    // Objects that took the places of markers, in the same second or later.
    for key in ["c", "d", "e"] {
        world.delete(key).await;
    }
    let due = world.due_in_days(0, &markers).await;
    let mut nothing = empty(&[]);
    let md5 = hex::decode("d41d8cd98f00b204e9800998ecf8427e").unwrap();
    nothing.etag = Etag::Md5(md5.try_into().unwrap());
    let metadata = &world.below.metadata;
    let condition = Condition::default();
    let put = metadata.put(world.bucket.id, "c", nothing, &condition);
    put.await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    world.put("d", &[]).await;
    let (done, left) = world.carry_out(&markers, &due).await;
    assert_eq!((done.versions, done.kept), (1, 2));
    assert_eq!(left, ["b", "c", "d", "m"]);
    // A version that is not current, and the one that took its name.
    world.set_versioning(4, Versioning::Enabled).await;
    world.put("d", &[]).await;
    let expires = noncurrent(1, 0);
    let due = world.due_in_days(2, &expires).await;
    world.set_versioning(5, Versioning::Suspended).await;
    world.put("d", &[]).await;
    let (done, left) = world.carry_out(&expires, &due).await;
    assert_eq!(done, all_kept(&due));
    assert_eq!(left, ["b", "c", "d", "d", "m"]);
}
