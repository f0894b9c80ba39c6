//! What the rules of a bucket do to versions (user guide, "Lifecycle configuration elements"). Each action is decided when it
//! is applied, for the very version that was looked at, and only as long as the rule is about it: see
//! [`super::apply_lifecycle`].

use std::collections::BTreeMap;

use futures_util::future::join_all;
use holdfast_placement::ids::{BucketId, GroupId, Lane};
use serde::{Deserialize, Serialize};

use super::classes::{ClassChange, StorageClass};
use super::command::{Command, Outcome};
use super::record::{VersionId, VersionSummary};
use super::store::{Condition, Deletion, Metadata, MetadataError, WriteError, strange};

/// The format level from which on nodes know the command.
pub(super) const LEVEL: u32 = 3;

/// The etag of an object of no bytes.
const ETAG_OF_NOTHING: &str = "d41d8cd98f00b204e9800998ecf8427e";

/// What a version was among the versions of its key, and must be still. In commands: the order of variants is persisted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// The newest, and an object.
    Current,
    /// Not the newest.
    Noncurrent {
        /// Newer versions that must be there still. Among them is the one that was the newest: as long as that is there, the
        /// version has not become current, nor been so in between.
        above: Vec<VersionId>,
    },
    /// A delete marker, and the only version.
    Alone,
}

/// What a rule does to a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LifecycleAction {
    pub key: String,
    /// The version as it was seen.
    pub summary: VersionSummary,
    pub standing: Standing,
    /// The storage class that it gets. `None`: it goes; what is current gets a delete marker where versions are kept.
    pub class: Option<StorageClass>,
}

/// What happens to versions of a key, in a command: the order of fields is persisted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyActions<'a> {
    pub lane: Lane,
    pub key: &'a str,
    /// Of each of the versions.
    pub standing: Standing,
    /// As in [`LifecycleAction`].
    pub class: Option<StorageClass>,
    pub versions: Vec<VersionId>,
}

impl LifecycleAction {
    /// The nearest to it that nodes know which do not know the command: what was written in the same second and is as long
    /// may be taken for it.
    fn as_deletion(&self) -> Deletion {
        let of_marker = self.summary.delete_marker;
        let etag = match of_marker {
            true => ETAG_OF_NOTHING.to_owned(),
            false => self.summary.etag.to_string(),
        };
        Deletion {
            key: self.key.clone(),
            version: match self.standing {
                Standing::Current => None,
                Standing::Noncurrent { .. } | Standing::Alone => Some(self.summary.name()),
            },
            condition: Condition {
                // A delete marker is no object, not even an empty one.
                absent: of_marker,
                etag: Some(etag),
                modified_secs: Some(self.summary.modified.secs()),
                size: Some(self.summary.size),
            },
            bypass_governance: false,
        }
    }

    fn as_class_change(&self, class: StorageClass) -> ClassChange {
        ClassChange {
            key: self.key.clone(),
            version: self.summary.version,
            latest: self.standing == Standing::Current,
            class,
        }
    }
}

impl Metadata {
    /// Does what a rule says to versions that have all of `tags`: one command a group, groups in parallel. Answers are in the
    /// order of `actions`; an error says that nothing happened to a version, because it is locked or not what it was.
    pub async fn carry_out(
        &self,
        bucket: BucketId,
        tags: &[(String, String)],
        actions: &[LifecycleAction],
    ) -> Vec<Result<(), WriteError>> {
        if !self.map.load().all_speak(LEVEL) {
            return self.carry_out_as_before(bucket, actions).await;
        }
        let mut by_group: BTreeMap<GroupId, (Vec<usize>, Vec<KeyActions<'_>>)> = BTreeMap::new();
        for (position, action) in actions.iter().enumerate() {
            let place = self.place(bucket, &action.key);
            let (positions, of_group) = by_group.entry(place.group).or_default();
            positions.push(position);
            let version = action.summary.version;
            match of_group.last_mut() {
                Some(last)
                    if last.key == action.key
                        && last.class == action.class
                        && last.standing == action.standing =>
                {
                    last.versions.push(version);
                }
                _ => of_group.push(KeyActions {
                    lane: place.address.lane,
                    key: &action.key,
                    standing: action.standing.clone(),
                    class: action.class,
                    versions: vec![version],
                }),
            }
        }
        let tags: Vec<_> = tags.iter().map(|(key, value)| (&**key, &**value)).collect();
        let answers = by_group.into_iter().map(|(group, (positions, actions))| {
            let command = Command::CarryOut {
                bucket,
                tags: tags.clone(),
                actions,
            };
            async move {
                let answer = match self.decide(group, &command, &[]).await {
                    Ok((_, Outcome::CarriedOut(done))) if done.len() == positions.len() => Ok(done),
                    Ok((_, other)) => Err(strange(&other)),
                    Err(error) => Err(error),
                };
                (positions, answer)
            }
        });
        let mut outcomes: Vec<_> = actions.iter().map(|_| Ok(())).collect();
        for (positions, answer) in join_all(answers).await {
            for (index, position) in positions.into_iter().enumerate() {
                outcomes[position] = match &answer {
                    Ok(done) => done[index].map_err(WriteError::from),
                    Err(error) => Err(error.clone().into()),
                };
            }
        }
        outcomes
    }

    /// The same where some nodes do not know the command.
    async fn carry_out_as_before(
        &self,
        bucket: BucketId,
        actions: &[LifecycleAction],
    ) -> Vec<Result<(), WriteError>> {
        let going = actions.iter().filter(|action| action.class.is_none());
        let deletions: Vec<_> = going.map(LifecycleAction::as_deletion).collect();
        let moving = actions.iter();
        let changes: Vec<_> = moving
            .filter_map(|action| Some(action.as_class_change(action.class?)))
            .collect();
        let gone = self.delete_versions(bucket, &deletions).await;
        let mut gone = gone.into_iter().map(|outcome| outcome.map(|_| ()));
        let moved = self.set_classes(bucket, &changes).await;
        let mut moved = moved.into_iter().map(|outcome| match outcome {
            Ok(true) => Ok(()),
            Ok(false) => Err(WriteError::PreconditionFailed),
            Err(error) => Err(error.into()),
        });
        let missing = || MetadataError::Failed("an action without an outcome".to_owned());
        let outcomes = actions.iter().map(|action| {
            let outcome = match action.class {
                None => gone.next(),
                Some(_) => moved.next(),
            };
            outcome.unwrap_or_else(|| Err(missing().into()))
        });
        outcomes.collect()
    }
}
