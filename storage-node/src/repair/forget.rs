//! Deletes the shards of bodies that nothing refers to any more.

use std::collections::BTreeMap;
use std::ops::Range;

use futures_util::future::join_all;
use holdfast_placement::ids::DriveId;
use holdfast_placement::map::ClusterMap;

use crate::metadata::ChunkedBody;
use crate::shard_store::{DeleteShardError, ShardId};
use crate::shards::Shards;

/// Shards that are deleted with one call a drive.
const BATCH_LEN: usize = 4096;

/// What became of shards that were to be deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    pub deleted: u64,
    /// On drives that are down: lost, or orphans that a scan of the drive finds when it is back.
    pub left: u64,
    /// On drives that are in use but did not delete them; to be tried again.
    pub failed: u64,
}

/// The drives and names of the shards of a body's `chunks`, as the map places them: where they belong, and where they
/// still may be while they move.
pub fn shards_of<'a>(
    map: &'a ClusterMap,
    body: &ChunkedBody,
    chunks: Range<u32>,
) -> impl Iterator<Item = (DriveId, ShardId)> + use<'a> {
    let body = *body;
    let ring = map.ring(body.site);
    chunks.flat_map(move |chunk| {
        let slots = ring.map_or(&[][..], |ring| {
            ring.slots(ring.partition_of(body.set, chunk))
        });
        let layout = body.layout_of(chunk);
        layout.stored_slots().flat_map(move |slot| {
            let id = ShardId {
                set: body.set,
                chunk,
                slot,
            };
            let places = slots.get(slot as usize).into_iter();
            places.flat_map(move |slot| slot.drives().map(move |drive| (drive, id)))
        })
    })
}

/// Deletes the shards of `bodies`, in batches by drive, all drives at a time. Those on drives that are known to be
/// down are left. Durable when it returns.
pub async fn forget(shards: &dyn Shards, map: &ClusterMap, bodies: &[ChunkedBody]) -> Forgotten {
    let mut forgotten = Forgotten::default();
    let mut batches: BTreeMap<DriveId, Vec<ShardId>> = BTreeMap::new();
    let mut batched = 0;
    let all = bodies
        .iter()
        .flat_map(|body| shards_of(map, body, 0..body.chunks()));
    for (drive, id) in all {
        if !map.is_up(drive) || shards.is_down(drive) {
            forgotten.left += 1;
            continue;
        }
        batches.entry(drive).or_default().push(id);
        batched += 1;
        if batched == BATCH_LEN {
            delete(shards, std::mem::take(&mut batches), &mut forgotten).await;
            batched = 0;
        }
    }
    delete(shards, batches, &mut forgotten).await;
    forgotten
}

async fn delete(
    shards: &dyn Shards,
    batches: BTreeMap<DriveId, Vec<ShardId>>,
    forgotten: &mut Forgotten,
) {
    let deletes = batches.iter().map(|(drive, ids)| async move {
        let count = ids.len() as u64;
        match shards.delete(*drive, ids).await {
            Ok(()) => Forgotten {
                deleted: count,
                ..Forgotten::default()
            },
            Err(DeleteShardError::Down(_)) => Forgotten {
                left: count,
                ..Forgotten::default()
            },
            Err(error @ DeleteShardError::Io(_)) => {
                tracing::warn!(%drive, %error, shards = count, "shards that nothing refers to were not deleted");
                Forgotten {
                    failed: count,
                    ..Forgotten::default()
                }
            }
        }
    });
    for done in join_all(deletes).await {
        forgotten.deleted += done.deleted;
        forgotten.left += done.left;
        forgotten.failed += done.failed;
    }
}
