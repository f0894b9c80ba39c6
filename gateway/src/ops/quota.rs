//! Writes to buckets with quotas: who is refused because its lane's share of the quota is used up looks for room elsewhere.

use std::time::Duration;

use holdfast_placement::seams::spawn;
use holdfast_storage_node::metadata::{Amount, MetadataError, Room, WriteError, make_room};

use super::Call;

/// How long a write is made again, while others take the room that was found for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes a write until it is made, or the bucket has no room for it: `within_quota!(call, key, write)`.
macro_rules! within_quota {
    ($call:expr, $key:expr, $write:expr) => {{
        let began = $call.gateway.clock.monotonic();
        loop {
            match $write {
                Err(WriteError::OverQuota(need)) => {
                    if let Err(error) = $call.find_room($key, need, began).await {
                        break Err(error);
                    }
                }
                outcome => break outcome,
            }
        }
    }};
}
pub(super) use within_quota;

impl Call<'_> {
    /// Looks for room for a write to `key` that is being made since `began`. `Ok`: make it again; else its answer.
    pub(super) async fn find_room(
        &self,
        key: &str,
        need: Amount,
        began: Duration,
    ) -> Result<(), WriteError> {
        let waited = self.gateway.clock.monotonic().saturating_sub(began);
        let Some(patience) = PATIENCE.checked_sub(waited) else {
            let text = "others took the room that was found".to_owned();
            return Err(MetadataError::Unavailable(text).into());
        };
        let directory = self.gateway.directory.clone();
        let metadata = self.gateway.metadata.clone();
        let bucket = self.now.get().unwrap_or(&self.found).clone();
        let key = key.to_owned();
        // In a task of its own: a client that goes away does not leave it half done, for others to wait for.
        let looking = spawn(async move {
            make_room(&directory, &metadata, &bucket, &key, need, patience).await
        });
        match looking.await {
            Ok(Ok(Room::TryAgain)) => Ok(()),
            Ok(Ok(Room::Exceeded)) => Err(WriteError::OverQuota(need)),
            // What became of the search does not matter to the write: it was refused.
            Ok(Err(MetadataError::Indeterminate(text))) => {
                Err(MetadataError::Unavailable(text).into())
            }
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(MetadataError::Failed(error.to_string()).into()),
        }
    }
}
