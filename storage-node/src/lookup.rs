//! Finds shards where they belong, or where they still are while the ring's change is under way.
//!
//! A shard that moves is first stored at its target and then deleted at its source, so at every moment it is at one of
//! the drives that its slot names, but who asks them one after the other may miss it: it went to the first while the
//! second was asked. And the ring may have changed meanwhile. So who found it nowhere looks again.

use std::ops::Range;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use holdfast_placement::ids::{DriveId, SiteId};
use holdfast_placement::map::SharedMap;

use crate::buffer::Buffer;
use crate::shard_store::{GetShardError, ShardId, ShardInfo};
use crate::shards::Shards;

/// How often all drives of a slot are asked.
const ROUNDS_MAX: usize = 3;

/// Shards of one site, by what the map says of their slots.
pub struct Lookup<'a> {
    pub shards: &'a dyn Shards,
    pub map: &'a SharedMap,
    pub site: SiteId,
}

impl Lookup<'_> {
    /// Fetches bytes of a shard, as [`Shards::get`] does, from the first of its slot's drives that gives them. Each
    /// time it asks one it takes a buffer from `lend`.
    ///
    /// # Errors
    /// `NotFound` if none of the drives has it; else what needs most attention of what they said.
    pub async fn get(
        &self,
        id: ShardId,
        range: &Range<u32>,
        lend: impl Fn() -> Option<Buffer>,
    ) -> Result<Bytes, GetShardError> {
        let fetch = |drive| match lend() {
            Some(buffer) => self.shards.get(drive, id, range.clone(), buffer),
            None => ready(Err(GetShardError::Busy)).boxed(),
        };
        self.find(id, fetch).await
    }

    /// What is known of a shard without reading it; `None` if none of the drives has it.
    pub async fn info(&self, id: ShardId) -> Result<Option<ShardInfo>, GetShardError> {
        let ask = |drive| {
            let known = |info: Option<ShardInfo>| info.ok_or(GetShardError::NotFound);
            let info = self.shards.info(drive, id);
            info.map(move |info| info.and_then(known)).boxed()
        };
        match self.find(id, ask).await {
            Ok(info) => Ok(Some(info)),
            Err(GetShardError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn find<'f, T>(
        &self,
        id: ShardId,
        ask: impl Fn(DriveId) -> BoxFuture<'f, Result<T, GetShardError>>,
    ) -> Result<T, GetShardError> {
        let mut worst = GetShardError::NotFound;
        for _ in 0..ROUNDS_MAX {
            worst = GetShardError::NotFound;
            let map = self.map.load();
            let slot = map
                .ring(self.site)
                .and_then(|ring| ring.slot(ring.partition_of(id.set, id.chunk), id.slot));
            let Some(slot) = slot else {
                return Err(worst);
            };
            for drive in slot.drives() {
                let answer = if !map.is_up(drive) || self.shards.is_down(drive) {
                    Err(GetShardError::Down("known to be out of use".into()))
                } else {
                    ask(drive).await
                };
                match answer {
                    Ok(found) => return Ok(found),
                    Err(error) if attention(&error) > attention(&worst) => worst = error,
                    Err(_) => {}
                }
            }
            if slot.sources.is_empty() && self.map.load().epoch == map.epoch {
                break;
            }
        }
        Err(worst)
    }
}

/// Which of several errors is told: damage before what may pass by itself, that before a drive that is known to be down,
/// and that before a shard that is not there.
fn attention(error: &GetShardError) -> u8 {
    match error {
        GetShardError::Corrupt(_) => 4,
        GetShardError::Io(_) => 3,
        GetShardError::Busy | GetShardError::OutOfRange => 2,
        GetShardError::Down(_) => 1,
        GetShardError::NotFound => 0,
    }
}
