//! Puts a chunk's shards on their drives and decides whether that is enough.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use holdfast_placement::ids::{ChunkSetId, DriveId};
use holdfast_placement::map::ClusterMap;
use holdfast_placement::planted::{Bug, planted};
use holdfast_placement::protection::Protection;
use holdfast_storage_node::buffer::Buffer;
use holdfast_storage_node::metadata::MissedSlot;
use holdfast_storage_node::shard_store::{PutShardError, ShardId};
use holdfast_storage_node::shards::ShardFacts;

use super::Shared;
use super::filling::Filled;
use crate::error::{Code, S3Error};

/// A put under way, which gives its slot and what became of it.
pub(super) type Put = BoxFuture<'static, (u8, Slot)>;

/// While a chunk waits for slow drives: how often it is looked whether they are down.
const LOOK_PAUSE: Duration = Duration::from_millis(250);

/// What became of a slot's shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// On flash, or empty: then there is nothing to store, and its zeros are always at hand.
    Held,
    /// Likewise, where a newer map says than the one that the chunk was planned by: who looks for it may not look there.
    Elsewhere,
    /// Its drive is known to be out of use.
    Down,
    /// Its drive has no room.
    Full,
    /// Its store found no memory in time.
    Busy,
    /// Its drive should have taken it.
    Failed(DriveId),
    /// Its drive has not answered yet.
    UnderWay(DriveId),
}

impl Slot {
    fn is_held(self) -> bool {
        matches!(self, Slot::Held | Slot::Elsewhere)
    }
}

/// A chunk that was stored.
pub(super) struct Stored {
    /// Slots without their shards.
    pub missed: Vec<MissedSlot>,
    /// Says where the others are.
    pub map: Arc<ClusterMap>,
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
            .filter(|drive| drive.site == self.config.site && drive.is_for_data())
            .filter(|drive| !self.is_down(&map, drive.id))
            .count();
        if up < protection.data as usize {
            return Err(too_few(up, protection));
        }
        Ok(())
    }

    /// Stores the shards of a chunk where the newest map says, all at a time, and waits for all of them; after a while only
    /// for as many as are enough. Runs to its end once it has begun: what is deleted afterwards, when [`LatePuts`] are through with the
    /// set, stays deleted.
    ///
    /// [`LatePuts`]: super::late::LatePuts
    pub(super) async fn store(
        self: Arc<Self>,
        set: ChunkSetId,
        chunk: u32,
        filled: Filled,
    ) -> Result<Stored, S3Error> {
        let map = self.map.load();
        let facts = ShardFacts {
            epoch: map.epoch,
            chunk_hash: filled.hash,
            chunk_len: filled.layout.chunk_len,
        };
        let places = map
            .ring(self.config.site)
            .map_or(&[][..], |ring| ring.slots(ring.partition_of(set, chunk)));
        let mut slots = Vec::with_capacity(filled.shards.len());
        let mut puts = FuturesUnordered::new();
        for (shard, slot) in filled.shards.into_iter().zip(0u8..) {
            let drive = places.get(slot as usize).map(|place| place.target);
            slots.push(match (shard, drive) {
                (None, _) => Slot::Held,
                (Some(shard), Some(drive)) if !self.is_down(&map, drive) => {
                    let id = ShardId { set, chunk, slot };
                    puts.push(Box::pin(self.clone().put(drive, id, facts, shard)) as Put);
                    Slot::UnderWay(drive)
                }
                (Some(_), _) => Slot::Down,
            });
        }
        let protection = filled.layout.protection;
        let mut patience = self.clock.sleep(self.config.put_patience);
        let mut waited_enough = false;
        loop {
            match select(puts.next(), &mut patience).await {
                Either::Left((Some((slot, became)), _)) => slots[slot as usize] = became,
                Either::Left((None, _)) => {
                    let seen = self.seen_now(&slots);
                    if waited_enough || !waits_for_word(protection, &seen) {
                        break;
                    }
                    let look = self.clock.sleep(LOOK_PAUSE);
                    waited_enough = matches!(select(&mut patience, look).await, Either::Left(_));
                }
                Either::Right(_) => {
                    waited_enough = true;
                    // Meanwhile a drive that does not answer may become known to be down.
                    patience = self.clock.sleep(LOOK_PAUSE);
                }
            }
            let held = slots.iter().filter(|slot| slot.is_held()).count();
            if planted(Bug::TooFewShards) && held >= protection.data as usize {
                let missed = Vec::new();
                return Ok(Stored { missed, map });
            }
            if waited_enough && verdict(protection, chunk, &self.seen_now(&slots)).is_ok() {
                break;
            }
        }
        let missed = verdict(protection, chunk, &self.seen_now(&slots))?;
        if !puts.is_empty() {
            let late = (0..).zip(&slots);
            let late = late.filter(|(_, slot)| matches!(slot, Slot::UnderWay(_)));
            let lens: Vec<usize> = late
                .map(|(slot, _)| filled.layout.len_of(slot) as usize)
                .collect();
            self.counters.late_shards.add(lens.len() as u64);
            self.late.take(set, puts, &lens);
        }
        self.counters.chunks_written.add(1);
        if !missed.is_empty() {
            self.counters.missed_shards.add(missed.len() as u64);
            // Not a warning: while a drive is down it holds for every chunk, and status says so.
            tracing::debug!(%set, chunk, missed = missed.len(), "a chunk was stored without all of its shards");
        }
        let missed = match planted(Bug::ForgetRepairIntent) {
            true => Vec::new(),
            false => missed,
        };
        Ok(Stored { missed, map })
    }

    async fn put(
        self: Arc<Self>,
        mut drive: DriveId,
        id: ShardId,
        mut facts: ShardFacts,
        mut shard: Buffer,
    ) -> (u8, Slot) {
        let planned = drive;
        let became = loop {
            match self.shards.put(drive, id, facts, shard).await {
                Ok(()) if drive != planned => break Slot::Elsewhere,
                Ok(()) => break Slot::Held,
                Err(PutShardError::Full) => break Slot::Full,
                Err(PutShardError::Down(_)) => break Slot::Down,
                Err(PutShardError::Busy) => break Slot::Busy,
                Err(PutShardError::Outdated(payload)) => {
                    let map = self.map.load();
                    let ring = map.ring(self.config.site);
                    let place = ring
                        .and_then(|ring| ring.slot(ring.partition_of(id.set, id.chunk), id.slot));
                    // Who would have to wait for memory here would keep that of the whole chunk meanwhile.
                    let copy = self.pool.try_acquire(payload.len()).ok();
                    let (Some(place), Some(mut copy)) = (place, copy) else {
                        break Slot::Busy;
                    };
                    if map.epoch <= facts.epoch {
                        break Slot::Busy;
                    }
                    if self.is_down(&map, place.target) {
                        break Slot::Down;
                    }
                    copy.extend_from_slice(&payload);
                    (drive, facts.epoch, shard) = (place.target, map.epoch, copy);
                }
                Err(error @ (PutShardError::Io(_) | PutShardError::TooLarge(_))) => {
                    tracing::warn!(%drive, shard = %id, %error, "a shard was not stored");
                    break Slot::Failed(drive);
                }
            }
        };
        (id.slot, became)
    }

    /// The slots as they are with what is known of their drives now.
    fn seen_now(&self, slots: &[Slot]) -> Vec<Slot> {
        let map = self.map.load();
        let seen = |slot: &Slot| match *slot {
            Slot::UnderWay(drive) | Slot::Failed(drive) if self.is_down(&map, drive) => Slot::Down,
            other => other,
        };
        slots.iter().map(seen).collect()
    }
}

/// Whether a chunk may be acknowledged, and which slots it is without: at least one more holds its shard than is needed
/// to read it, or just as many as are needed if all others are known to be down.
fn verdict(protection: Protection, chunk: u32, slots: &[Slot]) -> Result<Vec<MissedSlot>, S3Error> {
    let needed = protection.data as usize;
    let held = slots.iter().filter(|slot| slot.is_held()).count();
    let missed_are_down = slots
        .iter()
        .all(|slot| slot.is_held() || *slot == Slot::Down);
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

/// Whether a chunk would be enough if the drives that have failed were known to be down: who has just lost a node gets to
/// know it a moment later.
fn waits_for_word(protection: Protection, slots: &[Slot]) -> bool {
    let held = slots.iter().filter(|slot| slot.is_held()).count();
    let may_be_down = |slot: &Slot| slot.is_held() || matches!(slot, Slot::Down | Slot::Failed(_));
    held == protection.data as usize
        && slots.iter().all(may_be_down)
        && slots.iter().any(|slot| matches!(slot, Slot::Failed(_)))
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
    use super::{Slot, verdict, waits_for_word};
    use crate::error::Code;
    use holdfast_placement::ids::DriveId;
    use holdfast_placement::protection::Protection;

    #[test]
    fn enough_is_one_more_than_needed_unless_the_others_are_known_to_be_down() {
        use Slot::{Down, Full, Held};
        const FAILED: Slot = Slot::Failed(DriveId(1));
        const LATE: Slot = Slot::UnderWay(DriveId(2));
        type Case<'a> = (u8, u8, &'a [Slot], Result<usize, Code>);
        let cases: &[Case<'_>] = &[
            (1, 0, &[Held], Ok(0)),
            (1, 0, &[Full], Err(Code::StorageFull)),
            (1, 0, &[FAILED], Err(Code::ServiceUnavailable)),
            (1, 1, &[Held, Held], Ok(0)),
            (1, 1, &[Held, Down], Ok(1)),
            (1, 1, &[Held, Slot::Elsewhere], Ok(1)),
            (1, 1, &[Slot::Elsewhere, Down], Ok(2)),
            (1, 1, &[Held, FAILED], Err(Code::ServiceUnavailable)),
            (1, 1, &[Full, Held], Err(Code::StorageFull)),
            (2, 2, &[Held, FAILED, Held, Held], Ok(1)),
            (2, 2, &[Held, Full, Held, Held], Ok(1)),
            (2, 2, &[Held, LATE, Held, Held], Ok(1)),
            (
                2,
                2,
                &[Held, LATE, Held, FAILED],
                Err(Code::ServiceUnavailable),
            ),
            (
                2,
                2,
                &[LATE, Held, Held, Down],
                Err(Code::ServiceUnavailable),
            ),
            (1, 0, &[LATE], Err(Code::ServiceUnavailable)),
            (2, 2, &[Held, Down, Down, Held], Ok(2)),
            (
                2,
                2,
                &[Held, Down, FAILED, Held],
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

    #[test]
    fn who_may_be_gone_is_waited_for_where_that_would_be_enough() {
        use Slot::{Down, Full, Held};
        const FAILED: Slot = Slot::Failed(DriveId(1));
        let protection = Protection { data: 2, parity: 2 };
        let cases: &[(&[Slot], bool)] = &[
            (&[Held, Held, FAILED, Down], true),
            (&[Held, FAILED, FAILED, Held], true),
            (&[Held, Held, Down, Down], false),
            (&[Held, Held, Held, FAILED], false),
            (&[Held, FAILED, Down, Down], false),
            (&[Held, Held, Full, FAILED], false),
        ];
        for (slots, expected) in cases {
            assert_eq!(waits_for_word(protection, slots), *expected, "{slots:?}");
        }
    }
}
