//! Puts a chunk's shards on their drives and decides whether that is enough.

use std::sync::Arc;

use futures_util::future::join_all;
use holdfast_placement::ids::{ChunkSetId, DriveId};
use holdfast_placement::map::ClusterMap;
use holdfast_placement::protection::Protection;
use holdfast_storage_node::buffer::Buffer;
use holdfast_storage_node::metadata::MissedSlot;
use holdfast_storage_node::shard_store::{PutShardError, ShardId};
use holdfast_storage_node::shards::ShardFacts;

use super::Shared;
use super::filling::Filled;
use crate::error::{Code, S3Error};

/// What became of a slot's shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    /// On flash, or empty: then there is nothing to store, and its zeros are always at hand.
    Held,
    /// Its drive is known to be out of use.
    Down,
    /// Its drive has no room.
    Full,
    /// Its store found no memory in time.
    Busy,
    /// Its drive should have taken it.
    Failed,
}

impl Shared {
    /// Whether a drive is known to be out of use.
    pub(super) fn is_down(&self, map: &ClusterMap, drive: DriveId) -> bool {
        !map.is_up(drive) || self.shards.is_down(drive)
    }

    /// Whether enough drives are there for a body to be worth reading from its client.
    pub(super) fn check_writable(&self, protection: Protection) -> Result<(), S3Error> {
        let map = self.map.load();
        let up = map
            .drives
            .iter()
            .filter(|drive| drive.site == self.config.site && !self.is_down(&map, drive.id))
            .count();
        if up < protection.data as usize {
            return Err(too_few(up, protection));
        }
        Ok(())
    }

    /// Stores the shards of a chunk, all at a time, and waits for all of them. Runs to its end once it has begun: what
    /// is deleted afterwards stays deleted.
    pub(super) async fn store(
        self: Arc<Self>,
        set: ChunkSetId,
        chunk: u32,
        filled: Filled,
    ) -> Result<Vec<MissedSlot>, S3Error> {
        let map = self.map.load();
        let facts = ShardFacts {
            epoch: map.epoch,
            chunk_hash: filled.hash,
            chunk_len: filled.layout.chunk_len,
        };
        let slots = map
            .ring(self.config.site)
            .map_or(&[][..], |ring| ring.slots(ring.partition_of(set, chunk)));
        let put = async |slot: u8, shard: Option<Buffer>| -> Slot {
            let Some(shard) = shard else {
                return Slot::Held;
            };
            let Some(drive) = slots.get(slot as usize).map(|slot| slot.target) else {
                return Slot::Down;
            };
            if self.is_down(&map, drive) {
                return Slot::Down;
            }
            let id = ShardId { set, chunk, slot };
            match self.shards.put(drive, id, facts, shard).await {
                Ok(()) => Slot::Held,
                Err(PutShardError::Full) => Slot::Full,
                Err(PutShardError::Down(_)) => Slot::Down,
                Err(PutShardError::Busy) => Slot::Busy,
                Err(error @ (PutShardError::Io(_) | PutShardError::TooLarge(_))) => {
                    tracing::warn!(%drive, shard = %id, %error, "a shard was not stored");
                    Slot::Failed
                }
            }
        };
        let puts = filled
            .shards
            .into_iter()
            .zip(0..)
            .map(|(shard, slot)| put(slot, shard));
        let slots = join_all(puts).await;
        let missed = verdict(filled.layout.protection, chunk, &slots)?;
        self.counters.chunks_written.add(1);
        if !missed.is_empty() {
            self.counters.missed_shards.add(missed.len() as u64);
            // Not a warning: while a drive is down it holds for every chunk, and status says so.
            tracing::debug!(%set, chunk, missed = missed.len(), "a chunk was stored without all of its shards");
        }
        Ok(missed)
    }
}

/// Whether a chunk may be acknowledged, and which slots it is without: all slots that could be reached hold their
/// shard and at least one more than is needed to read it, or just as many as are needed if all others were known to
/// be down.
fn verdict(protection: Protection, chunk: u32, slots: &[Slot]) -> Result<Vec<MissedSlot>, S3Error> {
    let needed = protection.data as usize;
    let held = slots.iter().filter(|slot| **slot == Slot::Held).count();
    let missed_are_down = slots
        .iter()
        .all(|slot| matches!(slot, Slot::Held | Slot::Down));
    if held > needed || (held == needed && missed_are_down) {
        return Ok((0..)
            .zip(slots)
            .filter(|(_, slot)| **slot != Slot::Held)
            .map(|(slot, _)| MissedSlot { chunk, slot })
            .collect());
    }
    if slots.contains(&Slot::Full) {
        return Err(Code::StorageFull.into());
    }
    if slots.contains(&Slot::Busy) {
        return Err(Code::SlowDown.into());
    }
    Err(too_few(held, protection))
}

fn too_few(held: usize, protection: Protection) -> S3Error {
    S3Error::with(
        Code::ServiceUnavailable,
        format!(
            "Only {held} drives can take data now, too few for protection {protection}. Try again."
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::{Slot, verdict};
    use crate::error::Code;
    use holdfast_placement::protection::Protection;

    #[test]
    fn enough_is_one_more_than_needed_unless_the_others_are_known_to_be_down() {
        use Slot::{Down, Failed, Full, Held};
        type Case<'a> = (u8, u8, &'a [Slot], Result<usize, Code>);
        let cases: &[Case<'_>] = &[
            (1, 0, &[Held], Ok(0)),
            (1, 0, &[Full], Err(Code::StorageFull)),
            (1, 0, &[Failed], Err(Code::ServiceUnavailable)),
            (1, 1, &[Held, Held], Ok(0)),
            (1, 1, &[Held, Down], Ok(1)),
            (1, 1, &[Held, Failed], Err(Code::ServiceUnavailable)),
            (1, 1, &[Full, Held], Err(Code::StorageFull)),
            (2, 2, &[Held, Failed, Held, Held], Ok(1)),
            (2, 2, &[Held, Full, Held, Held], Ok(1)),
            (2, 2, &[Held, Down, Down, Held], Ok(2)),
            (
                2,
                2,
                &[Held, Down, Failed, Held],
                Err(Code::ServiceUnavailable),
            ),
            (2, 2, &[Held, Down, Full, Held], Err(Code::StorageFull)),
            (
                2,
                2,
                &[Down, Down, Down, Held],
                Err(Code::ServiceUnavailable),
            ),
        ];
        for (data, parity, slots, expected) in cases {
            let protection = Protection {
                data: *data,
                parity: *parity,
            };
            let got = verdict(protection, 7, slots);
            assert_eq!(
                got.as_ref().map(Vec::len).map_err(|error| error.code),
                *expected,
                "{protection} {slots:?}"
            );
        }
    }
}
