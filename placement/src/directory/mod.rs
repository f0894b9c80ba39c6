//! The directory: buckets by name with their settings, identities, webhooks, and the cluster map, as the placement group's state.
//!
//! **Deleting a bucket** must let no write slip between "it is empty" and "it is gone", and a crash in the middle must
//! not leave a bucket that can be neither used nor deleted. Deletions of a bucket are numbered:
//!
//! 1. [`Directory::begin_delete`] records that deletion n is under way, and since when.
//! 2. The bucket's lanes are closed in the name of n, each only if it is empty. A closed lane refuses writes.
//! 3. All closed: [`Directory::finish_delete`] drops the name, if n is still under way. Else:
//!    [`Directory::cancel_delete`] says that n is not, and only then the lanes that were closed by deletions up to n
//!    are opened again; they take no more orders from these.
//!
//! Whoever has a write refused by a closed lane asks here. If the bucket lives and no deletion of it is under way, or
//! one that was begun so long ago that it must have died, the lanes are opened by step 3's second half. A lane
//! that is closed by a later deletion is not touched by that, so it cannot undo what it does not know of.

mod cache;
mod identities;
mod queries;
mod settings;
mod state;
#[cfg(test)]
mod tests;
mod webhooks;

use std::sync::Arc;

use bytes::Bytes;

use crate::command::{CommandError, Machine, Proposer};
use crate::consensus::{Groups, StateMachine};
use crate::ids::{BucketId, Epoch, GroupId};
use crate::map::{ClusterMap, SharedMap};
use crate::query::{AskError, Asker};
use crate::seams::{Clock, IndexError, Rng, UnixMillis};

use cache::BucketCache;
use queries::{BucketNamed, Identities, IdentityOf, ListBuckets, Map, SettingOf, Webhooks};
use state::{Command, Outcome, Placement};

pub use identities::{IDENTITIES_MAX, Identity, PutIdentity};
pub use queries::run_query;
pub use settings::{Expected, SETTING_LEN_MAX, SetSetting, Setting};
pub use webhooks::{PutWebhook, WEBHOOK_NAME_LEN_MAX, WEBHOOKS_MAX, Webhook};

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Bucket {
    pub id: BucketId,
    pub name: String,
    /// The identity that made it.
    pub owner: String,
    /// As its creator asked; what GetBucketLocation answers.
    pub region: String,
    pub created: UnixMillis,
    /// When the deletion under way began, if one is.
    pub deleting_since: Option<UnixMillis>,
    /// Deletions begun so far: numbers the one under way.
    pub deletions: u64,
}

/// What a CreateBucket did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateBucket {
    Created(Arc<Bucket>),
    /// The name is taken by this one; nothing changed.
    Exists(Arc<Bucket>),
}

/// Why the directory gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DirectoryError {
    /// No quorum: nothing happened; try again later (503).
    #[error("no quorum: {0}")]
    Unavailable(String),
    /// The change may or may not have taken effect, now or later.
    #[error("not known to have happened: {0}")]
    Indeterminate(String),
    /// The drive or the state below is damaged (500).
    #[error("the directory failed: {0}")]
    Failed(String),
    /// The drive is full; nothing happened (507).
    #[error("no space left for the directory")]
    Full,
}

impl From<CommandError> for DirectoryError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Unavailable(text) => Self::Unavailable(text),
            CommandError::Indeterminate(text) => Self::Indeterminate(text),
            CommandError::Failed(text) => Self::Failed(text),
        }
    }
}

impl From<AskError> for DirectoryError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Unavailable(text) => Self::Unavailable(text),
            AskError::Failed(text) => Self::Failed(text),
            AskError::Full => Self::Full,
        }
    }
}

impl From<IndexError> for DirectoryError {
    fn from(error: IndexError) -> Self {
        match error {
            IndexError::Full => Self::Full,
            other => Self::Failed(other.to_string()),
        }
    }
}

/// Buckets by name, identities and the cluster map, kept by the placement group.
pub struct Directory {
    proposer: Proposer,
    asker: Asker,
    cache: BucketCache,
}

impl Directory {
    pub fn new(groups: Arc<dyn Groups>, clock: Arc<dyn Clock>, rng: Arc<dyn Rng>) -> Self {
        Self {
            asker: Asker::new(groups.clone(), clock.clone()),
            proposer: Proposer::new(groups, clock, rng),
            cache: BucketCache::default(),
        }
    }

    /// Makes a bucket unless the name is taken.
    pub async fn create_bucket(
        &self,
        name: &str,
        owner: &str,
        region: &str,
    ) -> Result<CreateBucket, DirectoryError> {
        self.create_bucket_with(name, owner, region, &[]).await
    }

    /// Makes a bucket unless the name is taken, with settings that it has from the first moment on, each at most
    /// [`SETTING_LEN_MAX`] bytes.
    pub async fn create_bucket_with(
        &self,
        name: &str,
        owner: &str,
        region: &str,
        settings: &[(Setting, &[u8])],
    ) -> Result<CreateBucket, DirectoryError> {
        let command = match settings {
            [] => Command::CreateBucket {
                name,
                owner,
                region,
            },
            _ => Command::CreateBucketWith {
                name,
                owner,
                region,
                settings: settings.to_vec(),
            },
        };
        match self.change(name, &command).await? {
            Outcome::Changed(bucket) => Ok(CreateBucket::Created(Arc::new(bucket))),
            Outcome::Unchanged(bucket) => Ok(CreateBucket::Exists(Arc::new(bucket))),
            other => Err(strange(&other)),
        }
    }

    /// The bucket called `name`: from the cache (about 100 ns), else from the placement group. Changes that are made
    /// through this `Directory` are seen at once. One that is found in the cache may have been deleted through another:
    /// its lanes are closed then and refuse writes. Of its fields, id, name, owner, region and creation time never
    /// change; ask [`bucket_now`](Self::bucket_now) for the others.
    pub async fn bucket(&self, name: &str) -> Result<Option<Arc<Bucket>>, DirectoryError> {
        match self.cache.get(name) {
            Some(bucket) => Ok(Some(bucket)),
            None => self.bucket_now(name).await,
        }
    }

    /// As `bucket`, always from the placement group: linearizable.
    pub async fn bucket_now(&self, name: &str) -> Result<Option<Arc<Bucket>>, DirectoryError> {
        let changes = self.cache.changes();
        let question = BucketNamed { name };
        let bucket = self.asker.ask(GroupId::PLACEMENT, &question).await?;
        let bucket = bucket.map(Arc::new);
        self.cache.learn(name, bucket.as_ref(), changes);
        Ok(bucket)
    }

    /// Begins a deletion, which supersedes one under way; `None`: no such bucket. Use `delete_bucket` of the metadata.
    pub async fn begin_delete(&self, name: &str) -> Result<Option<Arc<Bucket>>, DirectoryError> {
        match self.change(name, &Command::BeginDelete { name }).await? {
            Outcome::Changed(bucket) => Ok(Some(Arc::new(bucket))),
            Outcome::NoSuchBucket => Ok(None),
            other => Err(strange(&other)),
        }
    }

    /// Drops the name; `false`: that deletion was cancelled or superseded.
    pub async fn finish_delete(&self, bucket: &Bucket) -> Result<bool, DirectoryError> {
        let command = Command::FinishDelete {
            name: &bucket.name,
            id: bucket.id,
            deletion: bucket.deletions,
        };
        match self.change(&bucket.name, &command).await? {
            Outcome::Done(done) => Ok(done),
            other => Err(strange(&other)),
        }
    }

    /// Cancels the deletion; `false`: it was finished, cancelled or superseded.
    pub async fn cancel_delete(&self, bucket: &Bucket) -> Result<bool, DirectoryError> {
        let command = Command::CancelDelete {
            name: &bucket.name,
            id: bucket.id,
            deletion: bucket.deletions,
        };
        match self.change(&bucket.name, &command).await? {
            Outcome::Done(done) => Ok(done),
            other => Err(strange(&other)),
        }
    }

    /// A setting of a bucket, always from the placement group: linearizable. Nothing of settings is cached, so none is
    /// ever stale; `None` also if the bucket is gone.
    pub async fn setting(
        &self,
        bucket: &Bucket,
        setting: Setting,
    ) -> Result<Option<Bytes>, DirectoryError> {
        let question = SettingOf {
            bucket: bucket.id,
            setting,
        };
        let value = self.asker.ask(GroupId::PLACEMENT, &question).await?;
        Ok(value.map(Bytes::from))
    }

    /// Sets (`None`: drops) a setting of a bucket, if it is as `expected`.
    pub async fn set_setting(
        &self,
        bucket: &Bucket,
        setting: Setting,
        expected: Expected<'_>,
        value: Option<&[u8]>,
    ) -> Result<SetSetting, DirectoryError> {
        if value.is_some_and(|value| value.len() > SETTING_LEN_MAX) {
            return Ok(SetSetting::TooLong);
        }
        let command = Command::SetSetting {
            name: &bucket.name,
            id: bucket.id,
            setting,
            expected,
            value,
        };
        match self.decide(&command).await? {
            Outcome::Done(true) => Ok(SetSetting::Done),
            Outcome::Done(false) => Ok(SetSetting::Changed),
            Outcome::NoSuchBucket => Ok(SetSetting::NoSuchBucket),
            other => Err(strange(&other)),
        }
    }

    /// At most `max` buckets with names that begin with `prefix` and are greater than `after`, by name; and whether
    /// there are more.
    pub async fn list_buckets(
        &self,
        prefix: &str,
        after: Option<&str>,
        max: usize,
    ) -> Result<(Vec<Arc<Bucket>>, bool), DirectoryError> {
        let list = ListBuckets { prefix, after, max };
        let (buckets, more) = self.asker.ask(GroupId::PLACEMENT, &list).await?;
        Ok((buckets.into_iter().map(Arc::new).collect(), more))
    }

    /// The newest cluster map; `None` before the first.
    pub async fn map(&self) -> Result<Option<ClusterMap>, DirectoryError> {
        Ok(self.asker.ask(GroupId::PLACEMENT, &Map).await?)
    }

    /// Stores `map` if the stored one has epoch `expected` (`None`: if there is none) and a lesser epoch than `map`;
    /// says whether it did.
    pub async fn set_map(
        &self,
        expected: Option<Epoch>,
        map: &ClusterMap,
    ) -> Result<bool, DirectoryError> {
        let command = Command::SetMap {
            expected,
            epoch: map.epoch,
            map: &map.encode(),
        };
        match self.decide(&command).await? {
            Outcome::Done(done) => Ok(done),
            other => Err(strange(&other)),
        }
    }

    /// Stores an identity, in place of one with its access key.
    pub async fn put_identity(&self, identity: Identity) -> Result<PutIdentity, DirectoryError> {
        if !identity.is_well_formed() {
            return Ok(PutIdentity::Malformed);
        }
        match self.decide(&Command::PutIdentity { identity }).await? {
            Outcome::Done(true) => Ok(PutIdentity::Stored),
            Outcome::Done(false) => Ok(PutIdentity::TooMany),
            other => Err(strange(&other)),
        }
    }

    /// Deletes an identity; `false`: there was none.
    pub async fn delete_identity(&self, access_key: &str) -> Result<bool, DirectoryError> {
        match self.decide(&Command::DeleteIdentity { access_key }).await? {
            Outcome::Done(done) => Ok(done),
            other => Err(strange(&other)),
        }
    }

    /// The identity with that access key, always from the placement group: linearizable.
    pub async fn identity(&self, access_key: &str) -> Result<Option<Identity>, DirectoryError> {
        let question = IdentityOf { access_key };
        Ok(self.asker.ask(GroupId::PLACEMENT, &question).await?)
    }

    /// All identities, by access key: at most [`IDENTITIES_MAX`].
    pub async fn identities(&self) -> Result<Vec<Identity>, DirectoryError> {
        Ok(self.asker.ask(GroupId::PLACEMENT, &Identities).await?)
    }

    /// Stores a webhook, in place of one with its name.
    pub async fn put_webhook(&self, webhook: Webhook) -> Result<PutWebhook, DirectoryError> {
        if !webhook.is_well_formed() {
            return Ok(PutWebhook::Malformed);
        }
        match self.decide(&Command::PutWebhook { webhook }).await? {
            Outcome::Done(true) => Ok(PutWebhook::Stored),
            Outcome::Done(false) => Ok(PutWebhook::TooMany),
            other => Err(strange(&other)),
        }
    }

    /// Deletes a webhook; `false`: there was none.
    pub async fn delete_webhook(&self, name: &str) -> Result<bool, DirectoryError> {
        match self.decide(&Command::DeleteWebhook { name }).await? {
            Outcome::Done(done) => Ok(done),
            other => Err(strange(&other)),
        }
    }

    /// All webhooks, by name, always from the placement group: linearizable. At most [`WEBHOOKS_MAX`].
    pub async fn webhooks(&self) -> Result<Vec<Webhook>, DirectoryError> {
        Ok(self.asker.ask(GroupId::PLACEMENT, &Webhooks).await?)
    }

    /// A change to the bucket called `name`. It is dropped from the cache even if the answer is lost, since the change
    /// may have happened.
    async fn change(&self, name: &str, command: &Command<'_>) -> Result<Outcome, DirectoryError> {
        let outcome = self.decide(command).await;
        self.cache.forget(name);
        outcome
    }

    async fn decide(&self, command: &Command<'_>) -> Result<Outcome, DirectoryError> {
        let body = state::encode(command)?;
        let mut bytes = self.proposer.begin(body.len());
        bytes.extend_from_slice(&body);
        let (_, outcome) = self.proposer.decide(GroupId::PLACEMENT, bytes).await?;
        postcard::from_bytes(&outcome).map_err(|_| {
            DirectoryError::Failed("the placement group gave an answer of no known form".to_owned())
        })
    }
}

fn strange(outcome: &Outcome) -> DirectoryError {
    DirectoryError::Failed(format!(
        "the placement group gave a strange answer: {outcome:?}"
    ))
}

/// The state machine of the placement group.
pub fn placement_machine() -> Box<dyn StateMachine> {
    Box::new(Machine::new(GroupId::PLACEMENT, Placement::default()))
}

/// The same, of a process that takes every map that is decided for its own.
pub fn placement_machine_for(map: SharedMap) -> Box<dyn StateMachine> {
    Box::new(Machine::new(
        GroupId::PLACEMENT,
        Placement { map: Some(map) },
    ))
}
