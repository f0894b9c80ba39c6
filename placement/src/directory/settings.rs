//! Settings of buckets: what is configured for a bucket beside its name and owner, by kind of setting.
//!
//! The directory keeps them as bytes; what they mean is known to who sets them. A bucket's settings live and go with
//! its id: another bucket of the same name begins without any.

use serde::{Deserialize, Serialize};

use super::state::{decode, encode_value, key, read_bucket};
use crate::command::Turn;
use crate::ids::BucketId;
use crate::seams::{IndexError, IndexView, Keyspace};

/// Bytes of a setting at most. (The longest document of S3 is a lifecycle of 1000 rules.)
pub const SETTING_LEN_MAX: usize = 512 * 1024;

const SETTING: u8 = 0x15;

/// What is set. The order of variants is persisted: append only, 256 at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Setting {
    Versioning,
    ObjectLock,
    Cors,
    Tagging,
    Lifecycle,
    Website,
    Notification,
    Quota,
    RequestPayment,
    Encryption,
    Policy,
    AccessControl,
    PublicAccessBlock,
    Ownership,
    Logging,
}

impl Setting {
    /// All of them.
    pub const ALL: [Setting; 15] = [
        Setting::Versioning,
        Setting::ObjectLock,
        Setting::Cors,
        Setting::Tagging,
        Setting::Lifecycle,
        Setting::Website,
        Setting::Notification,
        Setting::Quota,
        Setting::RequestPayment,
        Setting::Encryption,
        Setting::Policy,
        Setting::AccessControl,
        Setting::PublicAccessBlock,
        Setting::Ownership,
        Setting::Logging,
    ];

    /// Its number in keys; persisted.
    fn number(self) -> u8 {
        self as u8
    }
}

/// What became of a setting that was to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetSetting {
    Done,
    /// It is not as was expected; nothing changed.
    Changed,
    /// The bucket is gone; there may be another of its name.
    NoSuchBucket,
    /// Longer than [`SETTING_LEN_MAX`].
    TooLong,
}

/// What a setting must be for a change to take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expected<'a> {
    Anything,
    Nothing,
    #[serde(borrow)]
    Value(&'a [u8]),
}

fn setting_key(bucket: BucketId, setting: Setting) -> Vec<u8> {
    let mut key = key(SETTING, &bucket.0.to_be_bytes());
    key.push(setting.number());
    key
}

/// The setting of the bucket with that id.
pub(super) fn read(
    state: &dyn IndexView,
    bucket: BucketId,
    setting: Setting,
) -> Result<Option<Vec<u8>>, IndexError> {
    match state.get(Keyspace::Records, &setting_key(bucket, setting))? {
        Some(value) => Ok(Some(decode(&value, "a bucket's setting")?)),
        None => Ok(None),
    }
}

/// Sets (`None`: drops) a setting of the bucket, if it is called `name` and the setting is as `expected`. `None`: there
/// is no such bucket.
pub(super) fn set(
    turn: &mut Turn<'_>,
    name: &str,
    id: BucketId,
    setting: Setting,
    expected: Expected<'_>,
    value: Option<&[u8]>,
) -> Result<Option<bool>, IndexError> {
    match read_bucket(turn.state, name)? {
        Some(bucket) if bucket.id == id => {}
        _ => return Ok(None),
    }
    let stored = match expected {
        Expected::Anything => None,
        _ => read(turn.state, id, setting)?,
    };
    let fits = match expected {
        Expected::Anything => true,
        Expected::Nothing => stored.is_none(),
        Expected::Value(expected) => stored.as_deref() == Some(expected),
    };
    if fits {
        match value {
            Some(value) => put(turn, id, setting, value)?,
            None => turn
                .batch
                .delete(Keyspace::Records, setting_key(id, setting)),
        }
    }
    Ok(Some(fits))
}

/// Writes a setting of a bucket.
pub(super) fn put(
    turn: &mut Turn<'_>,
    id: BucketId,
    setting: Setting,
    value: &[u8],
) -> Result<(), IndexError> {
    turn.batch.put(
        Keyspace::Records,
        setting_key(id, setting),
        encode_value(&value)?,
    );
    Ok(())
}

/// Drops all settings of a bucket that goes.
pub(super) fn drop_all(turn: &mut Turn<'_>, id: BucketId) {
    for setting in Setting::ALL {
        turn.batch
            .delete(Keyspace::Records, setting_key(id, setting));
    }
}
