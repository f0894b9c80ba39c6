//! Whether a bucket keeps versions, and whether it locks them.
//!
//! The directory says it to those who ask, and every lane knows it, since a write has to obey what holds when it is
//! committed. A change goes to the directory first, with a number greater than that of the change before, and then to
//! all lanes; a lane takes no change that is older than its own. So of two changes at once one is the last everywhere,
//! and one that was cut short is completed by making it again.

use std::sync::Arc;

use futures_util::future::try_join_all;
use holdfast_placement::directory::{Bucket, Directory, Expected, SetSetting, Setting};
use holdfast_placement::ids::BucketId;
use serde::{Deserialize, Serialize};

use super::command::{Command, Outcome};
use super::lock::LockConfiguration;
use super::store::{Metadata, MetadataError, strange};
use super::values;

/// Changes that are tried when others come between, at most.
const TRIES: usize = 16;

/// What a bucket makes of writes to a key that is there. The order of variants is persisted: append only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Versioning {
    /// Never asked for: each key has one version, the null version.
    #[default]
    Off,
    /// Every write makes a version of its own.
    Enabled,
    /// Writes replace the null version, and leave the others.
    Suspended,
}

/// A bucket's versioning and object lock. Persisted: the order of fields is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BucketVersioning {
    /// Counts changes.
    pub change: u64,
    pub versioning: Versioning,
    /// `None`: versions are not locked. With a lock, versioning is enabled.
    pub lock: Option<LockConfiguration>,
}

impl BucketVersioning {
    /// Of a bucket that is made with object lock.
    pub fn with_lock() -> Self {
        Self {
            change: 1,
            versioning: Versioning::Enabled,
            lock: Some(LockConfiguration::default()),
        }
    }

    /// As a setting of the directory.
    pub fn encode(&self) -> Result<Vec<u8>, MetadataError> {
        Ok(values::encode(self)?)
    }

    fn decode(value: Option<&[u8]>) -> Result<Self, MetadataError> {
        match value {
            Some(value) => Ok(values::decode(value, "a bucket's versioning")?),
            None => Ok(Self::default()),
        }
    }

    /// Whether keys may have more than one version.
    pub fn keeps_versions(&self) -> bool {
        self.versioning != Versioning::Off
    }
}

/// Why a bucket's versioning was not changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ChangeVersioningError<E> {
    /// The bucket is gone.
    #[error("no such bucket")]
    NoSuchBucket,
    /// The change does not fit what there is.
    #[error("refused")]
    Refused(E),
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// The bucket's versioning: linearizable.
pub async fn bucket_versioning(
    directory: &Directory,
    bucket: &Bucket,
) -> Result<BucketVersioning, MetadataError> {
    let value = directory.setting(bucket, Setting::Versioning).await?;
    BucketVersioning::decode(value.as_deref())
}

/// Changes the bucket's versioning. When it returns `Ok` all writes that begin from now on obey. Made again, it is
/// completed wherever it was cut short.
pub async fn change_bucket_versioning<E>(
    directory: &Directory,
    metadata: &Metadata,
    bucket: &Arc<Bucket>,
    change: impl Fn(&BucketVersioning) -> Result<BucketVersioning, E> + Send + Sync,
) -> Result<(), ChangeVersioningError<E>> {
    for _ in 0..TRIES {
        let found = directory.setting(bucket, Setting::Versioning).await;
        let value = found.map_err(MetadataError::from)?;
        let old = BucketVersioning::decode(value.as_deref())?;
        let new = BucketVersioning {
            change: old.change + 1,
            ..change(&old).map_err(ChangeVersioningError::Refused)?
        };
        let expected = match &value {
            Some(value) => Expected::Value(value),
            None => Expected::Nothing,
        };
        let encoded = new.encode()?;
        let set = directory.set_setting(bucket, Setting::Versioning, expected, Some(&encoded));
        match set.await.map_err(MetadataError::from)? {
            SetSetting::Done => {
                metadata.set_versioning(bucket.id, new).await?;
                return Ok(());
            }
            SetSetting::Changed => {}
            SetSetting::NoSuchBucket => return Err(ChangeVersioningError::NoSuchBucket),
            SetSetting::TooLong => {
                let text = "a bucket's versioning is too long".to_owned();
                return Err(MetadataError::Failed(text).into());
            }
        }
    }
    let text = format!(
        "the versioning of bucket {} changes all the time",
        bucket.name
    );
    Err(MetadataError::Unavailable(text).into())
}

impl Metadata {
    /// Tells all lanes of a bucket what the directory says of its versioning. Use [`change_bucket_versioning`], which
    /// knows the whole protocol.
    pub async fn set_versioning(
        &self,
        bucket: BucketId,
        versioning: BucketVersioning,
    ) -> Result<(), MetadataError> {
        let changes = self
            .lanes_by_group(bucket)
            .into_iter()
            .map(|(group, lanes)| {
                let command = Command::SetVersioning {
                    bucket,
                    lanes,
                    versioning,
                };
                async move {
                    match self.decide(group, &command, &[]).await?.1 {
                        Outcome::Done => Ok(()),
                        other => Err(strange(&other)),
                    }
                }
            });
        try_join_all(changes).await?;
        Ok(())
    }
}
