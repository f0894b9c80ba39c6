//! The model, and the operations that are put to model and store.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use holdfast_placement::ids::{ChunkSetId, Epoch};
use holdfast_placement::seams::{Rng, SeededRng};

use crate::shard_store::ShardId;
use crate::shard_store::disk::MemoryFaults;
use crate::shards::ShardFacts;

/// Shards that a sequence uses: few, so that operations meet.
pub const SHARDS: u8 = 10;

const LENGTHS: [usize; 10] = [
    0, 1, 100, 4_096, 5_000, 20_000, 65_536, 65_537, 100_000, 200_000,
];

pub fn id(shard: u8) -> ShardId {
    ShardId {
        set: ChunkSetId([shard; 16]),
        chunk: u32::from(shard) * 3,
        slot: shard % 3,
    }
}

/// Variant `variant` of a shard's content. (Writers never give two contents to one id; the store keeps its head even
/// if they do.)
pub fn content(shard: u8, variant: u8) -> &'static [u8] {
    static CONTENTS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
        let contents = (0..2 * u64::from(SHARDS)).map(|number| {
            let mut bytes = vec![0; LENGTHS[(number * 7 % 10) as usize]];
            SeededRng::new(number).fill(&mut bytes);
            bytes
        });
        contents.collect()
    });
    &CONTENTS[usize::from(shard) * 2 + usize::from(variant)]
}

pub fn facts(shard: u8, variant: u8) -> ShardFacts {
    ShardFacts {
        epoch: Epoch(1),
        chunk_hash: [shard ^ variant; 32],
        chunk_len: 1 << 20,
    }
}

/// One call on the store.
#[derive(Clone, Debug)]
pub enum Call {
    Put {
        shard: u8,
        variant: u8,
    },
    /// A part of the payload, in thousandths.
    Get {
        shard: u8,
        from: u64,
        to: u64,
    },
    Delete {
        shards: Vec<u8>,
    },
    Compact,
    Seal,
    Scrub,
}

/// What becomes of calls that are not done after a while.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    Done,
    /// The callers give up after so many turns.
    GivenUp(u32),
    /// Power fails after so many turns; of the unsynced batches of the index, so many of 1000 are kept.
    Crash(u32, u64),
    /// The process is killed after so many turns: what it wrote is there, and not durable.
    Killed(u32),
}

#[derive(Clone, Debug)]
pub enum Operation {
    /// Callers at the same time; each makes its calls one after the other.
    Calls {
        callers: Vec<Vec<Call>>,
        until: Until,
    },
    CleanReboot,
    /// As `Crash` when nothing is under way; the first attempt to start crashes again, after so many turns.
    DirtyReboot {
        kept: u64,
        again: Option<u32>,
    },
    Faults(MemoryFaults),
    /// The room on the drive, bytes.
    Capacity(u64),
    /// Every write to the index fails while these are carried out: for want of room, or for good.
    IndexFails {
        full: bool,
        callers: Vec<Vec<Call>>,
    },
    /// Flips a bit of the shard's record, at so many thousandths.
    Flip {
        shard: u8,
        at: u64,
        bit: u8,
    },
    /// Makes a sector of it unreadable.
    Break {
        shard: u8,
        at: u64,
    },
}

pub const ROOMY: u64 = 1 << 30;

/// The operations of a seed.
pub fn operations(seed: u64) -> Vec<Operation> {
    let rng = SeededRng::new(seed);
    let count = 5 + rng.below(50);
    (0..count).map(|_| operation(&rng)).collect()
}

fn operation(rng: &SeededRng) -> Operation {
    let shard = |rng: &SeededRng| rng.below(SHARDS.into()) as u8;
    let turns = |rng: &SeededRng| rng.below(40) as u32;
    match rng.below(100) {
        0..54 => Operation::Calls {
            callers: callers(rng),
            until: Until::Done,
        },
        54..64 => Operation::Calls {
            callers: callers(rng),
            until: Until::GivenUp(turns(rng)),
        },
        64..72 => Operation::Calls {
            callers: callers(rng),
            until: Until::Crash(turns(rng), kept(rng)),
        },
        72..76 => Operation::Calls {
            callers: callers(rng),
            until: Until::Killed(turns(rng)),
        },
        76..80 => Operation::DirtyReboot {
            kept: kept(rng),
            again: (rng.below(2) == 0).then(|| turns(rng)),
        },
        80..82 => Operation::CleanReboot,
        82..85 => Operation::Faults(MemoryFaults {
            fail_write: rng.below(2) * rng.below(300),
            fail_read: rng.below(2) * rng.below(200),
            flip_read: rng.below(2) * rng.below(200),
            fail_sync: rng.below(2) * rng.below(300),
        }),
        85..89 => Operation::Faults(MemoryFaults::default()),
        89..91 => Operation::Capacity(rng.below(2 << 20)),
        91..94 => Operation::Capacity(ROOMY),
        94..96 => Operation::IndexFails {
            full: rng.below(2) == 0,
            callers: callers(rng),
        },
        96..99 => Operation::Flip {
            shard: shard(rng),
            at: rng.below(1000),
            bit: rng.below(8) as u8,
        },
        _ => Operation::Break {
            shard: shard(rng),
            at: rng.below(1000),
        },
    }
}

fn kept(rng: &SeededRng) -> u64 {
    match rng.below(3) {
        0 => 0,
        1 => 1000,
        _ => rng.below(1000),
    }
}

fn callers(rng: &SeededRng) -> Vec<Vec<Call>> {
    let mut callers: Vec<_> = (0..1 + rng.below(5))
        .map(|_| (0..1 + rng.below(3)).map(|_| call(rng)).collect())
        .collect();
    // Often what may meet badly: shards die or change while they are moved.
    if rng.below(4) == 0 {
        callers.push(vec![Call::Seal, Call::Compact]);
    }
    callers
}

fn call(rng: &SeededRng) -> Call {
    let shard = rng.below(SHARDS.into()) as u8;
    match rng.below(20) {
        0..9 => Call::Put {
            shard,
            variant: (rng.below(8) == 0).into(),
        },
        9..12 => Call::Get {
            shard,
            from: rng.below(1001),
            to: rng.below(1001),
        },
        12..16 => Call::Delete {
            shards: (0..1 + rng.below(3))
                .map(|_| rng.below(SHARDS.into()) as u8)
                .collect(),
        },
        16 => Call::Seal,
        17 | 18 => Call::Compact,
        _ => Call::Scrub,
    }
}

/// What a shard may be: a variant, or `None` if it is not there.
pub type Content = Option<u8>;

/// What callers did to one shard at the same time.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// What it may be now.
    pub targets: BTreeSet<Content>,
    /// All that was tried.
    pub tried: BTreeSet<Content>,
    /// Something was acknowledged: it is not what it was before.
    pub is_sure: bool,
}

impl Change {
    /// Adds what one caller did, in order: what, and whether it was acknowledged.
    pub fn caller(&mut self, steps: &[(Content, bool)]) {
        let mut targets = BTreeSet::new();
        for (target, acknowledged) in steps {
            if *acknowledged {
                targets.clear();
                self.is_sure = true;
            }
            targets.insert(*target);
            self.tried.insert(*target);
        }
        self.targets.extend(targets);
    }
}

/// What is known of one shard.
#[derive(Clone, Debug)]
pub struct Known {
    /// It is one of these.
    pub allowed: BTreeSet<Content>,
    /// It was one of these since it was last deleted.
    pub earlier: BTreeSet<Content>,
    /// It was seen to be this, and nothing has happened since.
    pub seen: Option<Content>,
    /// Something was done to its bytes: it may be found to be corrupt, and after a crash be missing, or be what it
    /// was before.
    pub damaged: bool,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            allowed: BTreeSet::from([None]),
            earlier: BTreeSet::new(),
            seen: None,
            damaged: false,
        }
    }
}

impl Known {
    /// What it may be after calls that ran at the same time.
    pub fn change(&mut self, change: &Change) {
        let puts_of_the_same = change
            .tried
            .iter()
            .all(|content| content.is_some() && self.allowed.contains(content));
        self.earlier.extend(&self.allowed);
        self.earlier.extend(&change.tried);
        if change.is_sure {
            if change.targets.iter().all(Option::is_none) {
                self.earlier.clear();
            }
            if puts_of_the_same {
                // Nothing may have been written: other puts whose outcome is not known stay possible.
                self.allowed.remove(&None);
            } else {
                self.allowed.clear();
            }
        }
        self.allowed.extend(&change.targets);
        self.seen = None;
    }

    /// Checks what was read when nothing else ran.
    pub fn see(&mut self, content: Content) -> Result<(), String> {
        if !self.allowed.contains(&content) {
            return Err(format!("{content:?} is none of {:?}", self.allowed));
        }
        if let Some(seen) = self.seen
            && seen != content
        {
            return Err(format!("{content:?} after {seen:?}"));
        }
        self.seen = Some(content);
        Ok(())
    }

    /// Power failed.
    pub fn crash(&mut self) {
        self.seen = None;
        if self.damaged {
            self.allowed.insert(None);
            self.allowed.extend(&self.earlier);
        }
    }

    /// After a start: what it is now it stays.
    pub fn settle(&mut self, content: Content) {
        self.allowed = BTreeSet::from([content]);
        self.seen = Some(content);
    }
}
