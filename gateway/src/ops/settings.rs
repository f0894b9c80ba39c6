//! What is configured for a bucket: read from the directory whenever an operation needs it, never from a cache.

use holdfast_placement::directory::{Bucket, Directory, Expected, SetSetting, Setting};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Call, failure};
use crate::error::{Code, S3Error};

/// Format of all settings that are written here; persisted.
const FORMAT: u8 = 1;

/// A setting as bytes.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, S3Error> {
    postcard::to_extend(value, vec![FORMAT]).map_err(|error| {
        tracing::error!(%error, "a setting cannot be written");
        S3Error::new(Code::InternalError)
    })
}

/// A setting of a bucket, as it is now.
pub async fn read<T: DeserializeOwned>(
    directory: &Directory,
    bucket: &Bucket,
    setting: Setting,
) -> Result<Option<T>, S3Error> {
    let found = directory.setting(bucket, setting).await;
    let Some(found) = found.map_err(failure::directory)? else {
        return Ok(None);
    };
    let value = match found.split_first() {
        Some((&FORMAT, value)) => postcard::from_bytes(value).ok(),
        _ => None,
    };
    value.map(Some).ok_or_else(|| {
        tracing::error!(bucket = bucket.name, ?setting, "a setting is damaged");
        S3Error::new(Code::InternalError)
    })
}

impl Call<'_> {
    /// A setting of the call's bucket, as it is now.
    pub(super) async fn setting<T: DeserializeOwned>(
        &self,
        setting: Setting,
    ) -> Result<Option<T>, S3Error> {
        read(&self.gateway.directory, self.bucket(), setting).await
    }

    /// Sets a setting of the call's bucket.
    pub(super) async fn set<T: Serialize>(
        &self,
        setting: Setting,
        value: &T,
    ) -> Result<(), S3Error> {
        let value = encode(value)?;
        self.change(setting, Some(&value)).await
    }

    /// Drops a setting of the call's bucket.
    pub(super) async fn unset(&self, setting: Setting) -> Result<(), S3Error> {
        self.change(setting, None).await
    }

    pub(super) async fn change(
        &self,
        setting: Setting,
        value: Option<&[u8]>,
    ) -> Result<(), S3Error> {
        let bucket = self.bucket();
        let directory = &self.gateway.directory;
        let set = directory.set_setting(bucket, setting, Expected::Anything, value);
        match set.await.map_err(failure::directory)? {
            SetSetting::Done => Ok(()),
            SetSetting::NoSuchBucket => Err(failure::no_such_bucket(&bucket.name)),
            SetSetting::TooLong => Err(S3Error::new(Code::MaxMessageLengthExceeded)),
            SetSetting::Changed => Err(S3Error::new(Code::InternalError)),
        }
    }
}
