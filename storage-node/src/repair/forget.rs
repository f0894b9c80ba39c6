//! Deletes the shards of bodies that nothing refers to any more.

use std::collections::BTreeMap;
use std::ops::Range;

use futures_util::future::join_all;
use holdfast_placement::ids::DriveId;
use holdfast_placement::map::ClusterMap;
use holdfast_placement::ring::Slot;

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
    places_of(map, body, chunks).flat_map(|(slot, id)| slot.drives().map(move |drive| (drive, id)))
}

fn places_of<'a>(
    map: &'a ClusterMap,
    body: &ChunkedBody,
    chunks: Range<u32>,
) -> impl Iterator<Item = (&'a Slot, ShardId)> + use<'a> {
    let body = *body;
    let ring = map.ring(body.site);
    chunks.flat_map(move |chunk| {
        let slots = ring.map_or(&[][..], |ring| {
            ring.slots(ring.partition_of(body.set, chunk))
        });
        let layout = body.layout_of(chunk);
        layout.stored_slots().filter_map(move |slot| {
            let id = ShardId {
                set: body.set,
                chunk,
                slot,
            };
            slots.get(slot as usize).map(|slot| (slot, id))
        })
    })
}

/// Deletes the shards of `bodies`, in batches by drive, all drives at a time. Those on drives that are known to be
/// down are left. Durable when it returns.
///
/// Where a shard may still be comes before where it belongs: who is about to move it there either finds it gone
/// afterwards, and takes away what it brought, or brought it before it is deleted there.
pub async fn forget(shards: &dyn Shards, map: &ClusterMap, bodies: &[ChunkedBody]) -> Forgotten {
    let mut forgotten = Forgotten::default();
    let (mut moving, mut batches) = (Batches::new(), Batches::new());
    let mut batched = 0;
    let all = bodies
        .iter()
        .flat_map(|body| places_of(map, body, 0..body.chunks()));
    let is_up = |drive: DriveId| map.is_up(drive) && !shards.is_down(drive);
    for (slot, id) in all {
        for source in slot.sources.iter().copied() {
            match is_up(source) {
                true => moving.entry(source).or_default().push(id),
                false => forgotten.left += 1,
            }
        }
        match is_up(slot.target) {
            true => batches.entry(slot.target).or_default().push(id),
            false => forgotten.left += 1,
        }
        batched += 1;
        if batched == BATCH_LEN {
            let former = delete(shards, std::mem::take(&mut moving)).await;
            forgotten.add(former.of_former_places());
            forgotten.add(delete(shards, std::mem::take(&mut batches)).await);
            batched = 0;
        }
    }
    forgotten.add(delete(shards, moving).await.of_former_places());
    forgotten.add(delete(shards, batches).await);
    forgotten
}

/// Shards by the drive that they are deleted from.
type Batches = BTreeMap<DriveId, Vec<ShardId>>;

impl Forgotten {
    fn add(&mut self, other: Forgotten) {
        self.deleted += other.deleted;
        self.left += other.left;
        self.failed += other.failed;
    }

    /// What was deleted where it may have been is counted where it belongs.
    fn of_former_places(self) -> Forgotten {
        Forgotten { deleted: 0, ..self }
    }
}

async fn delete(shards: &dyn Shards, batches: Batches) -> Forgotten {
    let mut forgotten = Forgotten::default();
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
        forgotten.add(done);
    }
    forgotten
}
