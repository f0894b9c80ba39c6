//! The placement group's state and commands.
//!
//! `Records` keys, after the group's four bytes; numbers are persisted, keep stable:
//!
//! | key | value |
//! |---|---|
//! | `10`, name | format byte, [`Bucket`] |
//! | `11` | format byte, the last bucket id given (u64) |
//! | `12` | format byte, epoch (u64, big endian), cluster map |
//! | `13`, access key | format byte, [`Identity`] |
//! | `14` | format byte, how many identities there are (u64) |
//! | `15`, bucket id (u64, big endian), [`Setting`] (u8) | format byte, length, bytes of the setting |
//! | `16`, name | format byte, [`Webhook`] |

use serde::{Deserialize, Serialize};

use super::Bucket;
use super::identities::{self, Identity};
use super::settings::{self, Expected, SETTING_LEN_MAX, Setting};
use super::webhooks::{self, Webhook};
use crate::command::{Decide, Turn};
use crate::ids::{BucketId, Epoch, GroupId};
use crate::map::{ClusterMap, SharedMap};
use crate::seams::{IndexError, IndexView, Keyspace};

const BUCKET: u8 = 0x10;
const LAST_BUCKET_ID: u8 = 0x11;
const CLUSTER_MAP: u8 = 0x12;

/// Format of all values here; persisted.
const FORMAT: u8 = 1;

pub(super) fn key(kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(5 + rest.len());
    key.extend_from_slice(&GroupId::PLACEMENT.0.to_be_bytes());
    key.push(kind);
    key.extend_from_slice(rest);
    key
}

/// What the placement group is asked to do. The order of variants is persisted: append only.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Command<'a> {
    CreateBucket {
        name: &'a str,
        owner: &'a str,
        region: &'a str,
    },
    BeginDelete {
        name: &'a str,
    },
    FinishDelete {
        name: &'a str,
        id: BucketId,
        deletion: u64,
    },
    CancelDelete {
        name: &'a str,
        id: BucketId,
        deletion: u64,
    },
    SetMap {
        expected: Option<Epoch>,
        epoch: Epoch,
        map: &'a [u8],
    },
    PutIdentity {
        identity: Identity,
    },
    DeleteIdentity {
        access_key: &'a str,
    },
    /// Sets (`None`: drops) a setting of a bucket.
    SetSetting {
        name: &'a str,
        id: BucketId,
        setting: Setting,
        #[serde(borrow)]
        expected: Expected<'a>,
        #[serde(borrow)]
        value: Option<&'a [u8]>,
    },
    /// As `CreateBucket`, with settings from the first moment on.
    CreateBucketWith {
        name: &'a str,
        owner: &'a str,
        region: &'a str,
        #[serde(borrow)]
        settings: Vec<(Setting, &'a [u8])>,
    },
    PutWebhook {
        webhook: Webhook,
    },
    DeleteWebhook {
        name: &'a str,
    },
}

/// What came of it. The order of variants is persisted: append only.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Outcome {
    /// The bucket as it is now.
    Changed(Bucket),
    /// The bucket as it was and stays.
    Unchanged(Bucket),
    NoSuchBucket,
    Done(bool),
}

/// The placement group's part of a state machine.
#[derive(Default)]
pub(super) struct Placement {
    /// Told of every map that was decided.
    pub map: Option<SharedMap>,
}

impl Decide for Placement {
    fn decide(
        &mut self,
        turn: &mut Turn<'_>,
        command: &[u8],
    ) -> Result<Option<Vec<u8>>, IndexError> {
        let Ok((command, [])) = postcard::take_from_bytes::<Command<'_>>(command) else {
            return Ok(None);
        };
        let outcome = match command {
            Command::CreateBucket {
                name,
                owner,
                region,
            } => create_bucket(turn, name, owner, region, &[])?,
            Command::CreateBucketWith {
                name,
                owner,
                region,
                settings,
            } => {
                if settings
                    .iter()
                    .any(|(_, value)| value.len() > SETTING_LEN_MAX)
                {
                    return Ok(None);
                }
                create_bucket(turn, name, owner, region, &settings)?
            }
            Command::SetSetting {
                name,
                id,
                setting,
                expected,
                value,
            } => {
                if value.is_some_and(|value| value.len() > SETTING_LEN_MAX) {
                    return Ok(None);
                }
                match settings::set(turn, name, id, setting, expected, value)? {
                    Some(set) => Outcome::Done(set),
                    None => Outcome::NoSuchBucket,
                }
            }
            Command::BeginDelete { name } => match read_bucket(turn.state, name)? {
                None => Outcome::NoSuchBucket,
                Some(mut bucket) => {
                    bucket.deleting_since = Some(turn.at.millis());
                    bucket.deletions += 1;
                    write_bucket(turn, &bucket)?;
                    Outcome::Changed(bucket)
                }
            },
            Command::FinishDelete { name, id, deletion } => {
                let found = deletion_under_way(turn.state, name, id, deletion)?;
                if found.is_some() {
                    turn.batch.delete(Keyspace::Records, bucket_key(name));
                    settings::drop_all(turn, id);
                }
                Outcome::Done(found.is_some())
            }
            Command::CancelDelete { name, id, deletion } => {
                let found = deletion_under_way(turn.state, name, id, deletion)?;
                let cancelled = found.is_some();
                if let Some(mut bucket) = found {
                    bucket.deleting_since = None;
                    write_bucket(turn, &bucket)?;
                }
                Outcome::Done(cancelled)
            }
            Command::SetMap {
                expected,
                epoch,
                map,
            } => {
                let set = set_map(turn, expected, epoch, map)?;
                if set && let Some(shared) = &self.map {
                    let map = ClusterMap::decode(map);
                    shared.update(map.map_err(|error| IndexError::Corrupt(error.to_string()))?);
                }
                Outcome::Done(set)
            }
            Command::PutIdentity { identity } => {
                if !identity.is_well_formed() {
                    return Ok(None);
                }
                Outcome::Done(identities::put(turn, &identity)?)
            }
            Command::DeleteIdentity { access_key } => {
                Outcome::Done(identities::delete(turn, access_key)?)
            }
            Command::PutWebhook { webhook } => {
                if !webhook.is_well_formed() {
                    return Ok(None);
                }
                Outcome::Done(webhooks::put(turn, &webhook)?)
            }
            Command::DeleteWebhook { name } => Outcome::Done(webhooks::delete(turn, name)?),
        };
        Ok(Some(encode(&outcome)?))
    }

    fn restored(&mut self, state: &dyn IndexView) -> Result<(), IndexError> {
        if let Some(shared) = &self.map
            && let Some(map) = read_map(state)?
        {
            shared.update(map);
        }
        Ok(())
    }
}

fn create_bucket(
    turn: &mut Turn<'_>,
    name: &str,
    owner: &str,
    region: &str,
    settings: &[(Setting, &[u8])],
) -> Result<Outcome, IndexError> {
    if let Some(bucket) = read_bucket(turn.state, name)? {
        return Ok(Outcome::Unchanged(bucket));
    }
    let last_key = key(LAST_BUCKET_ID, &[]);
    let last: u64 = match turn.state.get(Keyspace::Records, &last_key)? {
        Some(value) => decode(&value, "the last bucket id")?,
        None => 0,
    };
    let bucket = Bucket {
        id: BucketId(last + 1),
        name: name.to_owned(),
        owner: owner.to_owned(),
        region: region.to_owned(),
        created: turn.at.millis(),
        deleting_since: None,
        deletions: 0,
    };
    write_bucket(turn, &bucket)?;
    turn.batch
        .put(Keyspace::Records, last_key, encode_value(&bucket.id.0)?);
    for (setting, value) in settings {
        settings::put(turn, bucket.id, *setting, value)?;
    }
    Ok(Outcome::Changed(bucket))
}

/// The bucket, if exactly that deletion of it is under way.
fn deletion_under_way(
    state: &dyn IndexView,
    name: &str,
    id: BucketId,
    deletion: u64,
) -> Result<Option<Bucket>, IndexError> {
    Ok(read_bucket(state, name)?.filter(|bucket| {
        bucket.id == id && bucket.deletions == deletion && bucket.deleting_since.is_some()
    }))
}

fn set_map(
    turn: &mut Turn<'_>,
    expected: Option<Epoch>,
    epoch: Epoch,
    map: &[u8],
) -> Result<bool, IndexError> {
    let map_key = key(CLUSTER_MAP, &[]);
    let stored = match turn.state.get(Keyspace::Records, &map_key)? {
        Some(value) => Some(split_map(&value)?.0),
        None => None,
    };
    if stored != expected || stored.is_some_and(|stored| epoch <= stored) {
        return Ok(false);
    }
    let mut value = Vec::with_capacity(9 + map.len());
    value.push(FORMAT);
    value.extend_from_slice(&epoch.0.to_be_bytes());
    value.extend_from_slice(map);
    turn.batch.put(Keyspace::Records, map_key, value);
    Ok(true)
}

fn split_map(value: &[u8]) -> Result<(Epoch, &[u8]), IndexError> {
    match value.split_first_chunk::<9>() {
        Some(([FORMAT, epoch @ ..], map)) => Ok((Epoch(u64::from_be_bytes(*epoch)), map)),
        _ => Err(damaged("the cluster map")),
    }
}

/// The stored cluster map.
pub(super) fn read_map(state: &dyn IndexView) -> Result<Option<ClusterMap>, IndexError> {
    let Some(value) = state.get(Keyspace::Records, &key(CLUSTER_MAP, &[]))? else {
        return Ok(None);
    };
    let (_, map) = split_map(&value)?;
    let map = ClusterMap::decode(map).map_err(|_| damaged("the cluster map"))?;
    Ok(Some(map))
}

fn bucket_key(name: &str) -> Vec<u8> {
    key(BUCKET, name.as_bytes())
}

/// The bucket called `name`.
pub(super) fn read_bucket(state: &dyn IndexView, name: &str) -> Result<Option<Bucket>, IndexError> {
    match state.get(Keyspace::Records, &bucket_key(name))? {
        Some(value) => Ok(Some(decode(&value, "a bucket")?)),
        None => Ok(None),
    }
}

fn write_bucket(turn: &mut Turn<'_>, bucket: &Bucket) -> Result<(), IndexError> {
    let value = encode_value(bucket)?;
    turn.batch
        .put(Keyspace::Records, bucket_key(&bucket.name), value);
    Ok(())
}

/// At most `max` buckets with names that begin with `prefix` and are greater than `after`, and whether there are more.
pub(super) fn list_buckets(
    state: &dyn IndexView,
    prefix: &str,
    after: Option<&str>,
    max: usize,
) -> Result<(Vec<Bucket>, bool), IndexError> {
    let mut buckets = Vec::new();
    if max == 0 {
        return Ok((buckets, false));
    }
    let mut from = bucket_key(prefix);
    if let Some(after) = after {
        let mut past = bucket_key(after);
        past.push(0);
        from = from.max(past);
    }
    let end = key(BUCKET + 1, &[]);
    if from >= end {
        return Ok((buckets, false));
    }
    let mut cursor = state.cursor(Keyspace::Records, &from, &end)?;
    cursor.seek(&from)?;
    let begins = bucket_key(prefix);
    while let Some((key, value)) = cursor.entry() {
        if !key.starts_with(&begins) {
            break;
        }
        if buckets.len() == max {
            return Ok((buckets, true));
        }
        buckets.push(decode(value, "a bucket")?);
        cursor.next()?;
    }
    Ok((buckets, false))
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, IndexError> {
    postcard::to_stdvec(value).map_err(|error| IndexError::Io(error.to_string()))
}

pub(super) fn encode_value<T: Serialize>(value: &T) -> Result<Vec<u8>, IndexError> {
    postcard::to_extend(value, vec![FORMAT]).map_err(|error| IndexError::Io(error.to_string()))
}

pub(super) fn decode<'a, T: Deserialize<'a>>(value: &'a [u8], what: &str) -> Result<T, IndexError> {
    match value.split_first() {
        Some((&FORMAT, rest)) => postcard::from_bytes(rest).map_err(|_| damaged(what)),
        _ => Err(damaged(what)),
    }
}

fn damaged(what: &str) -> IndexError {
    IndexError::Corrupt(format!("the record of {what} is damaged"))
}
