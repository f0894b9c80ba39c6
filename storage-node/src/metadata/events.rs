//! Events of a bucket: which there are, which rules ask for them, and what is told (S3 user guide, "Event notification
//! types and destinations", "Event message structure").

use std::collections::BTreeSet;

use holdfast_placement::command::Stamp;
use holdfast_placement::seams::UnixMillis;
use serde::{Deserialize, Serialize};

use super::record::{Etag, VersionRef};

/// Why a command is made, where its events depend on it. In commands: the order of variants is persisted, append only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cause {
    /// A request that says by itself what it does.
    #[default]
    Request,
    /// CopyObject.
    Copy,
    /// A browser's form.
    Post,
    /// DeleteObjectTagging, which else looks like the setting of no tags.
    DeleteTags,
    /// A rule of the bucket's lifecycle.
    Lifecycle,
}

/// What happened. The order of variants is persisted: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventName {
    /// The configuration was set.
    Test,
    CreatedPut,
    CreatedPost,
    CreatedCopy,
    CreatedCompleteUpload,
    RemovedDelete,
    RemovedDeleteMarker,
    TaggingPut,
    TaggingDelete,
    AclPut,
    LifecycleDelete,
    LifecycleDeleteMarker,
}

impl EventName {
    /// Those that rules can ask for.
    pub const ALL: [EventName; 11] = [
        EventName::CreatedPut,
        EventName::CreatedPost,
        EventName::CreatedCopy,
        EventName::CreatedCompleteUpload,
        EventName::RemovedDelete,
        EventName::RemovedDeleteMarker,
        EventName::TaggingPut,
        EventName::TaggingDelete,
        EventName::AclPut,
        EventName::LifecycleDelete,
        EventName::LifecycleDeleteMarker,
    ];

    /// S3's name, as rules have it; messages have it without `s3:`.
    pub fn as_str(self) -> &'static str {
        match self {
            EventName::Test => "s3:TestEvent",
            EventName::CreatedPut => "s3:ObjectCreated:Put",
            EventName::CreatedPost => "s3:ObjectCreated:Post",
            EventName::CreatedCopy => "s3:ObjectCreated:Copy",
            EventName::CreatedCompleteUpload => "s3:ObjectCreated:CompleteMultipartUpload",
            EventName::RemovedDelete => "s3:ObjectRemoved:Delete",
            EventName::RemovedDeleteMarker => "s3:ObjectRemoved:DeleteMarkerCreated",
            EventName::TaggingPut => "s3:ObjectTagging:Put",
            EventName::TaggingDelete => "s3:ObjectTagging:Delete",
            EventName::AclPut => "s3:ObjectAcl:Put",
            EventName::LifecycleDelete => "s3:LifecycleExpiration:Delete",
            EventName::LifecycleDeleteMarker => "s3:LifecycleExpiration:DeleteMarkerCreated",
        }
    }

    /// Whether `asked`, a name or one that ends in `:*`, means this.
    pub fn is_meant_by(self, asked: &str) -> bool {
        match asked.strip_suffix('*') {
            Some(family) => family.ends_with(':') && self.as_str().starts_with(family),
            None => self.as_str() == asked,
        }
    }

    /// The event of a version that a PutObject, or what is like it, wrote.
    pub(super) fn of_write(cause: Cause) -> Self {
        match cause {
            Cause::Copy => EventName::CreatedCopy,
            Cause::Post => EventName::CreatedPost,
            Cause::Request | Cause::DeleteTags | Cause::Lifecycle => EventName::CreatedPut,
        }
    }

    /// The event of a key or version that is gone, or of a delete marker that was made.
    pub(super) fn of_removal(cause: Cause, makes_marker: bool) -> Self {
        match (cause == Cause::Lifecycle, makes_marker) {
            (false, false) => EventName::RemovedDelete,
            (false, true) => EventName::RemovedDeleteMarker,
            (true, false) => EventName::LifecycleDelete,
            (true, true) => EventName::LifecycleDeleteMarker,
        }
    }

    pub(super) fn of_tagging(cause: Cause) -> Self {
        match cause {
            Cause::DeleteTags => EventName::TaggingDelete,
            _ => EventName::TaggingPut,
        }
    }
}

/// As what a rule was written. The order of variants is persisted: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RuleForm {
    Queue,
    Topic,
    Function,
}

/// A rule: which events go to which webhook. Persisted: the order of fields is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRule {
    pub id: String,
    pub form: RuleForm,
    /// The webhook, as its user named it.
    pub arn: String,
    /// The webhook's name.
    pub target: String,
    /// Names of events, as given; see [`EventName::is_meant_by`].
    pub events: Vec<String>,
    pub prefix: Option<String>,
    pub suffix: Option<String>,
}

impl EventRule {
    fn fits(&self, name: EventName, key: &str) -> bool {
        let begins = self.prefix.as_deref().unwrap_or_default();
        let ends = self.suffix.as_deref().unwrap_or_default();
        key.starts_with(begins)
            && key.ends_with(ends)
            && self.events.iter().any(|asked| name.is_meant_by(asked))
    }
}

/// A bucket's rules, as the directory and each lane keep them. Persisted: the order of fields is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketEvents {
    /// Counts changes: of two the one with the greater number holds.
    pub change: u64,
    /// What messages call the bucket and its owner.
    pub bucket: String,
    pub owner: String,
    pub rules: Vec<EventRule>,
}

impl BucketEvents {
    /// For each webhook that wants the event, the first of its rules that does.
    pub(super) fn wanted(&self, name: EventName, key: &str) -> Vec<&EventRule> {
        let mut told = BTreeSet::new();
        let mut wanted = Vec::new();
        for rule in &self.rules {
            if rule.fits(name, key) && told.insert(&*rule.target) {
                wanted.push(rule);
            }
        }
        wanted
    }

    /// The webhooks that any rule names.
    pub fn targets(&self) -> BTreeSet<&str> {
        self.rules.iter().map(|rule| &*rule.target).collect()
    }
}

/// An event that waits to be told. Persisted: the order of fields is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub name: EventName,
    /// The rule that asked for it.
    pub rule: String,
    pub bucket: String,
    pub owner: String,
    pub key: String,
    pub size: Option<u64>,
    pub etag: Option<Etag>,
    /// `None`: the bucket keeps no versions.
    pub version: Option<VersionRef>,
}

/// Where an event is in its group: the order of ids is the order in which things happened.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct EventId(pub [u8; 12]);

impl EventId {
    /// Stamp (u64, big endian), then the number in the command (u32, big endian).
    pub(super) fn new(stamp: Stamp, number: u32) -> Self {
        let mut id = [0; 12];
        id[..8].copy_from_slice(&stamp.0.to_be_bytes());
        id[8..].copy_from_slice(&number.to_be_bytes());
        Self(id)
    }

    /// When it happened.
    pub fn time(self) -> UnixMillis {
        let mut stamp = [0; 8];
        stamp.copy_from_slice(&self.0[..8]);
        Stamp(u64::from_be_bytes(stamp)).millis()
    }

    /// S3's `sequencer`: of two events of a key the later one has the greater text.
    pub fn sequencer(self) -> String {
        hex::encode_upper(self.0)
    }
}

/// An event in a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuedEvent {
    pub id: EventId,
    pub event: Event,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_themselves_and_their_families() {
        for name in EventName::ALL {
            let text = name.as_str();
            assert!(name.is_meant_by(text));
            let (family, _) = text.rsplit_once(':').unwrap();
            assert!(name.is_meant_by(&format!("{family}:*")));
            assert!(!name.is_meant_by("s3:*x"));
            let meant = EventName::ALL
                .iter()
                .filter(|other| other.is_meant_by(text));
            assert_eq!(meant.count(), 1);
        }
        assert!(!EventName::CreatedPut.is_meant_by("s3:ObjectCreated*"));
        assert!(!EventName::CreatedPut.is_meant_by("s3:ObjectRemoved:*"));
    }

    #[test]
    fn each_webhook_is_told_once() {
        let rule = |id: &str, target: &str, prefix: &str| EventRule {
            id: id.to_owned(),
            form: RuleForm::Queue,
            arn: String::new(),
            target: target.to_owned(),
            events: vec!["s3:ObjectCreated:*".to_owned()],
            prefix: Some(prefix.to_owned()),
            suffix: Some(".x".to_owned()),
        };
        let events = BucketEvents {
            rules: vec![rule("1", "a", "p"), rule("2", "a", ""), rule("3", "b", "p")],
            ..BucketEvents::default()
        };
        let ids = |key: &str| -> Vec<_> {
            let wanted = events.wanted(EventName::CreatedPut, key).into_iter();
            wanted.map(|rule| rule.id.clone()).collect()
        };
        assert_eq!(ids("p.x"), ["1", "3"]);
        assert_eq!(ids("q.x"), ["2"]);
        assert!(ids("p.y").is_empty());
        assert!(events.wanted(EventName::RemovedDelete, "p.x").is_empty());
    }
}
