//! The ring: partition -> drives of a site, in order, and where their shards come from while they move.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::balance::{Member, balance};
use crate::ids::{ChunkSetId, DriveId, PartitionId};

/// Partitions a site by default.
pub const PARTITIONS: usize = 1024;

/// Slots of a partition at most.
pub const SLOTS_MAX: usize = 16;

/// The slots of each partition, in order. Slot `i` of a partition is where shard `i` of its chunks belongs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Packed", into = "Packed")]
pub struct Ring {
    /// How often the ring was changed.
    version: u64,
    partitions: Vec<Vec<Slot>>,
}

/// Where a shard belongs, and where it may still be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// New shards go here.
    pub target: DriveId,
    /// Drives that had the slot before and have not yet moved everything away, newest first.
    pub sources: Vec<DriveId>,
}

impl Slot {
    /// The drives that may have the slot's shards, in the order to ask them.
    pub fn drives(&self) -> impl Iterator<Item = DriveId> {
        std::iter::once(self.target).chain(self.sources.iter().copied())
    }
}

/// A ring as it is stored and sent. The order of fields is persisted.
#[derive(Clone, Serialize, Deserialize)]
struct Packed {
    version: u64,
    targets: Vec<Vec<DriveId>>,
    /// Partition, slot and sources of the slots under way.
    moving: Vec<(u16, u8, Vec<DriveId>)>,
}

impl Ring {
    /// The ring of a fresh cluster, [`PARTITIONS`] partitions, whose bodies have so many slots.
    pub fn new(members: &[Member], widths: &[usize]) -> Self {
        balance(members, PARTITIONS, widths, None)
    }

    /// A settled ring with these drives in the slots of its partitions.
    pub fn of(targets: Vec<Vec<DriveId>>) -> Self {
        let settled = |target| Slot {
            target,
            sources: Vec::new(),
        };
        let slots = |drives: Vec<DriveId>| drives.into_iter().map(settled).collect();
        Self {
            version: 0,
            partitions: targets.into_iter().map(slots).collect(),
        }
    }

    /// The ring after members came, left or changed: balanced anew, for bodies with so many slots (see
    /// [`balance`](fn@balance)), and as like this one as that allows. A slot that
    /// changes its drive has the former one, and the former one's sources, as sources. This ring need not have settled.
    ///
    /// With fewer than [`SLOTS_MAX`] members a partition has as many slots as there are members: who takes members away
    /// has to leave at least as many as the widest protection in use has slots.
    pub fn rebalanced(&self, members: &[Member], widths: &[usize]) -> Self {
        let mut next = balance(members, self.partitions.len(), widths, Some(self));
        next.version = self.version + 1;
        for (slots, before) in next.partitions.iter_mut().zip(&self.partitions) {
            for (slot, before) in slots.iter_mut().zip(before) {
                for drive in before.drives() {
                    if drive != slot.target && !slot.sources.contains(&drive) {
                        slot.sources.push(drive);
                    }
                }
            }
        }
        next
    }

    /// Counts the changes of the ring ([`rebalanced`](Ring::rebalanced)): who says that a drive has moved everything away
    /// says by which version, because a later one may have more to move.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// `drive` has moved everything away that does not belong there by this [`version`](Ring::version) of the ring, or is
    /// gone for good: nobody need look there any more. Whether that changed anything.
    pub fn settle(&mut self, drive: DriveId) -> bool {
        let mut changed = false;
        for slot in self.partitions.iter_mut().flatten() {
            let before = slot.sources.len();
            slot.sources.retain(|source| *source != drive);
            changed |= slot.sources.len() != before;
        }
        changed
    }

    /// Whether every shard is where it belongs, as far as the ring knows.
    pub fn is_settled(&self) -> bool {
        self.partitions
            .iter()
            .flatten()
            .all(|slot| slot.sources.is_empty())
    }

    /// The drives that shards still have to be moved away from, in order of id.
    pub fn moving_from(&self) -> Vec<DriveId> {
        let slots = self.partitions.iter().flatten();
        let sources: BTreeSet<DriveId> = slots.flat_map(|slot| &slot.sources).copied().collect();
        sources.into_iter().collect()
    }

    /// How many partitions there are; fixed when the ring is made.
    pub fn partition_count(&self) -> usize {
        self.partitions.len()
    }

    /// All partitions in order.
    pub fn partitions(&self) -> impl Iterator<Item = &[Slot]> {
        self.partitions.iter().map(Vec::as_slice)
    }

    /// The partition of a chunk.
    pub fn partition_of(&self, set: ChunkSetId, chunk: u32) -> PartitionId {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&set.0);
        hasher.update(&chunk.to_le_bytes());
        let mut first = [0u8; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        let count = self.partitions.len().max(1) as u64;
        PartitionId((u64::from_le_bytes(first) % count) as u16)
    }

    /// The slots of a partition, in order.
    pub fn slots(&self, partition: PartitionId) -> &[Slot] {
        self.partitions
            .get(partition.0 as usize)
            .map_or(&[], Vec::as_slice)
    }

    /// One slot of a partition: readers ask its target, then its sources.
    pub fn slot(&self, partition: PartitionId, number: u8) -> Option<&Slot> {
        self.slots(partition).get(number as usize)
    }

    /// The drives that new shards of a partition go to, in slot order.
    pub fn targets(&self, partition: PartitionId) -> impl Iterator<Item = DriveId> {
        self.slots(partition).iter().map(|slot| slot.target)
    }
}

impl From<Ring> for Packed {
    fn from(ring: Ring) -> Self {
        let mut packed = Packed {
            version: ring.version,
            targets: Vec::with_capacity(ring.partitions.len()),
            moving: Vec::new(),
        };
        for (partition, slots) in (0..).zip(ring.partitions) {
            packed
                .targets
                .push(slots.iter().map(|slot| slot.target).collect());
            for (number, slot) in (0..).zip(slots) {
                if !slot.sources.is_empty() {
                    packed.moving.push((partition, number, slot.sources));
                }
            }
        }
        packed
    }
}

impl From<Packed> for Ring {
    fn from(packed: Packed) -> Self {
        let mut ring = Ring::of(packed.targets);
        ring.version = packed.version;
        for (partition, number, sources) in packed.moving {
            let slots = ring.partitions.get_mut(partition as usize);
            if let Some(slot) = slots.and_then(|slots| slots.get_mut(number as usize)) {
                slot.sources = sources;
            }
        }
        ring
    }
}

#[cfg(test)]
mod tests {
    use super::{PARTITIONS, Ring};
    use crate::balance::Member;
    use crate::ids::{DriveId, NodeId, PartitionId};

    fn members(drives: std::ops::RangeInclusive<u64>) -> Vec<Member> {
        let member = |id| Member {
            drive: DriveId(id),
            capacity: 1000,
            host: NodeId(id),
            rack: 0,
        };
        drives.map(member).collect()
    }

    fn ids(numbers: &[u64]) -> Vec<DriveId> {
        numbers.iter().copied().map(DriveId).collect()
    }

    #[test]
    fn a_slot_that_changes_its_drive_remembers_where_it_was() {
        let before = Ring::new(&members(1..=4), &[]);
        assert!(before.is_settled());
        let after = before.rebalanced(&members(2..=6), &[]);
        let mut moved = 0;
        for (slots, before) in after.partitions().zip(before.partitions()) {
            for (number, slot) in slots.iter().enumerate() {
                let expected = match before.get(number) {
                    Some(before) if before.target != slot.target => vec![before.target],
                    _ => Vec::new(),
                };
                assert_eq!(slot.sources, expected);
                moved += expected.len();
            }
        }
        assert!(moved > 1000, "{moved}");
        assert_eq!(after.moving_from()[0], DriveId(1));
        assert!(!after.is_settled());
    }

    #[test]
    fn changes_before_the_last_has_settled_add_up() {
        let mut ring = Ring::of(vec![vec![DriveId(1)]; 4]);
        ring = ring.rebalanced(&members(2..=2), &[]);
        ring = ring.rebalanced(&members(3..=3), &[]);
        let slot = ring.slot(PartitionId(0), 0).unwrap().clone();
        assert_eq!((slot.target, slot.sources), (DriveId(3), ids(&[2, 1])));
        // Back to a drive that has not yet moved everything away.
        let mut back = ring.rebalanced(&members(1..=1), &[]);
        let slot = back.slot(PartitionId(0), 0).unwrap().clone();
        assert_eq!((slot.target, slot.sources), (DriveId(1), ids(&[3, 2])));
        assert!(back.settle(DriveId(3)));
        assert!(!back.settle(DriveId(3)));
        assert_eq!(back.moving_from(), ids(&[2]));
        assert!(back.settle(DriveId(2)) && back.is_settled());
    }

    #[test]
    fn a_ring_is_small_and_comes_back_as_it_was() {
        let before = Ring::new(&members(1..=100), &[6]);
        let settled = postcard::to_stdvec(&before).unwrap();
        assert!(settled.len() < PARTITIONS * 20, "{}", settled.len());
        let after = before.rebalanced(&members(5..=110), &[6]);
        let moving = postcard::to_stdvec(&after).unwrap();
        assert!(moving.len() < PARTITIONS * 36, "{}", moving.len());
        assert_eq!(postcard::from_bytes::<Ring>(&settled).unwrap(), before);
        assert_eq!(postcard::from_bytes::<Ring>(&moving).unwrap(), after);
    }
}
