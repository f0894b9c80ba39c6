//! The rule of domains, as conditions on pairs of slots.
//!
//! Racks are used in rounds: in round `r` each rack with more than `r` drives once. So the slots of a partition fall into
//! blocks, one a round, and a rack's slots are one of each block. Hosts of a rack are used in rounds likewise, and the
//! rack's slots, in order, fill these. A partition obeys the rule if and only if every drive is in a place that its rack
//! and host have drives for, and no two slots have the same drive, or the same rack in a block, or the same host in a
//! round of its rack: what is asked is one of each, and there are as many slots as that takes.
//!
//! So whatever slots of a partition do not conflict can be kept together, and the rest can always be filled.

use super::topology::Topology;

pub(super) struct Rule<'a> {
    topology: &'a Topology,
    /// By slot: its block.
    blocks: Vec<usize>,
    /// By block: one slot past its last, were there as many slots as it takes.
    block_ends: Vec<usize>,
    /// By rack and block: the round of its hosts that the rack's slot of the block belongs to.
    rounds: Vec<Vec<usize>>,
    /// By rack and round: one block past its last, were there as many blocks as it takes.
    round_ends: Vec<Vec<usize>>,
}

/// Who else may have a slot of a partition in whose other slots nothing changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Instead {
    /// Drives of the same host.
    OfHost,
    /// Drives of the same rack.
    OfRack,
    Any,
}

impl<'a> Rule<'a> {
    pub(super) fn new(topology: &'a Topology) -> Self {
        let slots = topology.slots();
        let mut rule = Self {
            topology,
            blocks: Vec::new(),
            block_ends: Vec::new(),
            rounds: Vec::new(),
            round_ends: Vec::new(),
        };
        while rule.blocks.len() < slots {
            let block = rule.block_ends.len();
            let racks = topology.racks.iter().filter(|rack| rack.drives > block);
            let end = rule.blocks.len() + racks.count();
            rule.blocks.resize(end.min(slots), block);
            rule.block_ends.push(end);
        }
        let blocks = rule.block_ends.len();
        for rack in &topology.racks {
            let (mut rounds, mut ends) = (Vec::new(), Vec::new());
            while rounds.len() < blocks.min(rack.drives) {
                let round = ends.len();
                let with_room = |host: &&usize| topology.hosts[**host].drives.len() > round;
                let end = rounds.len() + rack.hosts.iter().filter(with_room).count();
                rounds.resize(end, round);
                ends.push(end);
            }
            rule.rounds.push(rounds);
            rule.round_ends.push(ends);
        }
        rule
    }

    /// The block of a slot.
    pub(super) fn block(&self, slot: usize) -> usize {
        self.blocks[slot]
    }

    /// The round of its hosts that a rack's slot belongs to; none if the rack has no drive left for it.
    pub(super) fn round(&self, slot: usize, rack: usize) -> Option<usize> {
        let block = self.blocks[slot];
        if self.topology.racks[rack].drives <= block {
            return None;
        }
        self.rounds[rack].get(block).copied()
    }

    /// Whether a drive's rack and host have drives for a slot.
    pub(super) fn fits(&self, slot: usize, drive: usize) -> bool {
        let place = &self.topology.drives[drive];
        let round = self.round(slot, place.rack);
        round.is_some_and(|round| self.topology.hosts[place.host].drives.len() > round)
    }

    /// Whether a drive in a slot and another in another slot of a partition are against the rule.
    pub(super) fn conflict(&self, slot: usize, drive: usize, other: usize, there: usize) -> bool {
        let (a, b) = (&self.topology.drives[drive], &self.topology.drives[there]);
        if a.rack != b.rack {
            return false;
        }
        drive == there
            || self.blocks[slot] == self.blocks[other]
            || a.host == b.host && self.round(slot, a.rack) == self.round(other, a.rack)
    }

    /// Whether `drive` may have `slot` of a partition whose first slots are `row`, leaving `aside` out.
    pub(super) fn allows(
        &self,
        row: &[Option<usize>],
        slot: usize,
        drive: usize,
        aside: Option<usize>,
    ) -> bool {
        if !self.fits(slot, drive) {
            return false;
        }
        let place = &self.topology.drives[drive];
        let block = self.blocks[slot];
        let rounds = &self.rounds[place.rack];
        row.iter().enumerate().all(|(other, there)| {
            let Some(there) = *there else { return true };
            let near = &self.topology.drives[there];
            if near.rack != place.rack || other == slot || Some(other) == aside {
                return true;
            }
            let there_block = self.blocks[other];
            there_block != block
                && there != drive
                && (near.host != place.host || rounds.get(there_block) != rounds.get(block))
        })
    }

    /// Who else may have `slot`, of `rack`, looking at the first `prefix` slots only. Where a round is complete, nobody
    /// but drives of the same host.
    pub(super) fn instead(&self, slot: usize, rack: usize, prefix: usize) -> Instead {
        let block = self.blocks[slot];
        if self.block_ends[block] > prefix {
            return Instead::Any;
        }
        let rounds = self.whole_rounds(rack, prefix);
        let complete = self.round(slot, rack).is_some_and(|round| round < rounds);
        match complete {
            true => Instead::OfHost,
            false => Instead::OfRack,
        }
    }
    /// How many blocks are complete with the first `prefix` slots.
    pub(super) fn whole_blocks(&self, prefix: usize) -> usize {
        let complete = |end: &&usize| **end <= prefix;
        self.block_ends.iter().take_while(complete).count()
    }

    /// How many rounds of a rack's hosts are complete with the first `prefix` slots, whoever has these.
    pub(super) fn whole_rounds(&self, rack: usize, prefix: usize) -> usize {
        let blocks = self.whole_blocks(prefix);
        let complete = |end: &&usize| **end <= blocks;
        self.round_ends[rack].iter().take_while(complete).count()
    }
}
