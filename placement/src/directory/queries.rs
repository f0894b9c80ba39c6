//! What the directory is asked, wherever the placement group is led.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::identities::{self, Identity};
use super::settings::{self, Setting};
use super::webhooks::{self, Webhook};
use super::{Bucket, state};
use crate::ids::{BucketId, GroupId};
use crate::map::ClusterMap;
use crate::query::{self, Ask, States, state_of};
use crate::seams::{IndexError, IndexView};

/// The bucket of that name.
#[derive(Serialize, Deserialize)]
pub(super) struct BucketNamed<'a> {
    pub name: &'a str,
}

/// See [`super::Directory::list_buckets`].
#[derive(Serialize, Deserialize)]
pub(super) struct ListBuckets<'a> {
    pub prefix: &'a str,
    pub after: Option<&'a str>,
    pub max: usize,
}

/// The cluster map.
#[derive(Serialize, Deserialize)]
pub(super) struct Map;

/// The identity with that access key.
#[derive(Serialize, Deserialize)]
pub(super) struct IdentityOf<'a> {
    pub access_key: &'a str,
}

/// All identities.
#[derive(Serialize, Deserialize)]
pub(super) struct Identities;

/// All webhooks.
#[derive(Serialize, Deserialize)]
pub(super) struct Webhooks;

/// A setting of a bucket.
#[derive(Serialize, Deserialize)]
pub(super) struct SettingOf {
    pub bucket: BucketId,
    pub setting: Setting,
}

impl Ask for BucketNamed<'_> {
    const KIND: u8 = 1;
    type Answer = Option<Bucket>;

    async fn run(&self, states: &States) -> Result<Option<Bucket>, IndexError> {
        state::read_bucket(placement(states)?, self.name)
    }
}

impl Ask for ListBuckets<'_> {
    const KIND: u8 = 2;
    type Answer = (Vec<Bucket>, bool);

    async fn run(&self, states: &States) -> Result<(Vec<Bucket>, bool), IndexError> {
        state::list_buckets(placement(states)?, self.prefix, self.after, self.max)
    }
}

impl Ask for Map {
    const KIND: u8 = 3;
    type Answer = Option<ClusterMap>;

    async fn run(&self, states: &States) -> Result<Option<ClusterMap>, IndexError> {
        state::read_map(placement(states)?)
    }
}

impl Ask for IdentityOf<'_> {
    const KIND: u8 = 4;
    type Answer = Option<Identity>;

    async fn run(&self, states: &States) -> Result<Option<Identity>, IndexError> {
        identities::read(placement(states)?, self.access_key)
    }
}

impl Ask for Identities {
    const KIND: u8 = 5;
    type Answer = Vec<Identity>;

    async fn run(&self, states: &States) -> Result<Vec<Identity>, IndexError> {
        identities::read_all(placement(states)?)
    }
}

impl Ask for SettingOf {
    const KIND: u8 = 6;
    type Answer = Option<Vec<u8>>;

    async fn run(&self, states: &States) -> Result<Option<Vec<u8>>, IndexError> {
        settings::read(placement(states)?, self.bucket, self.setting)
    }
}

impl Ask for Webhooks {
    const KIND: u8 = 7;
    type Answer = Vec<Webhook>;

    async fn run(&self, states: &States) -> Result<Vec<Webhook>, IndexError> {
        webhooks::read_all(placement(states)?)
    }
}

fn placement(states: &States) -> Result<&dyn IndexView, IndexError> {
    Ok(&**state_of(states, GroupId::PLACEMENT)?)
}

/// Runs a query that another node sent to the placement group.
pub async fn run_query(states: &States, query: &[u8]) -> Result<Bytes, String> {
    let (kind, question) = query::open(query)?;
    match kind {
        BucketNamed::KIND => query::answer::<BucketNamed<'_>>(question, states).await,
        ListBuckets::KIND => query::answer::<ListBuckets<'_>>(question, states).await,
        Map::KIND => query::answer::<Map>(question, states).await,
        IdentityOf::KIND => query::answer::<IdentityOf<'_>>(question, states).await,
        Identities::KIND => query::answer::<Identities>(question, states).await,
        SettingOf::KIND => query::answer::<SettingOf>(question, states).await,
        Webhooks::KIND => query::answer::<Webhooks>(question, states).await,
        other => Err(format!("the directory has no queries of kind {other}")),
    }
}
