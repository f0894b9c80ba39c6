//! The state machine around a [`Decide`]: envelope, clock and memory of outcomes.

use std::collections::HashMap;

use bytes::Bytes;

use super::{Stamp, open, outcome, status};
use crate::consensus::StateMachine;
use crate::ids::{GroupId, Token};
use crate::seams::{Batch, IndexError, IndexView, Keyspace};

/// Outcomes that a group remembers. More than can be under way at once, so that none is forgotten while its proposer
/// still asks for it.
pub const REMEMBERED: u64 = 4096;

/// `Records` keys that begin with the group and this byte hold the remembered outcomes; persisted, keep stable.
const MEMORY_KIND: u8 = 0xFE;

/// Format of a remembered outcome; persisted.
const MEMORY_FORMAT: u8 = 1;

/// One command's turn to be applied.
pub struct Turn<'a> {
    pub group: GroupId,
    pub state: &'a dyn IndexView,
    pub batch: &'a mut Batch,
    pub at: Stamp,
    pub token: Token,
}

/// What a group does with the bodies of its commands.
pub trait Decide: Send + Sync + 'static {
    /// Decides a command: a pure function of the turn's state and stamp and the command. Gives the outcome's body;
    /// `None` if the command is not understood, and then the batch must be as it was.
    fn decide(
        &mut self,
        turn: &mut Turn<'_>,
        command: &[u8],
    ) -> Result<Option<Vec<u8>>, IndexError>;

    /// The state was opened or replaced: forget what was cached of it.
    fn restored(&mut self, _state: &dyn IndexView) -> Result<(), IndexError> {
        Ok(())
    }
}

/// A group's state machine.
pub struct Machine<D> {
    group: GroupId,
    decide: D,
    /// `None` until it is read from the state.
    memory: Option<Memory>,
}

impl<D: Decide> Machine<D> {
    pub fn new(group: GroupId, decide: D) -> Self {
        Self {
            group,
            decide,
            memory: None,
        }
    }
}

impl<D: Decide> StateMachine for Machine<D> {
    fn apply(
        &mut self,
        state: &dyn IndexView,
        batch: &mut Batch,
        command: &[u8],
    ) -> Result<Bytes, IndexError> {
        let memory = match &mut self.memory {
            Some(memory) => memory,
            none => none.insert(Memory::read(self.group, state)?),
        };
        let Some((envelope, body)) = open(command) else {
            return Ok(outcome(status::UNKNOWN, memory.last, &[]));
        };
        if let Some(first) = memory.recall(state, envelope.token)? {
            return Ok(first);
        }
        if envelope.proposed <= memory.horizon {
            return Ok(outcome(status::EXPIRED, memory.last, &[]));
        }
        let at = envelope.proposed.max(memory.last.next());
        let mut turn = Turn {
            group: self.group,
            state,
            batch,
            at,
            token: envelope.token,
        };
        let Some(decided) = self.decide.decide(&mut turn, body)? else {
            return Ok(outcome(status::UNKNOWN, memory.last, &[]));
        };
        let decided = outcome(status::DECIDED, at, &decided);
        memory.remember(batch, envelope.token, at, &decided);
        Ok(decided)
    }

    fn restored(&mut self, state: &dyn IndexView) -> Result<(), IndexError> {
        self.decide.restored(state)?;
        self.memory = Some(Memory::read(self.group, state)?);
        Ok(())
    }
}

/// The last outcomes. In the state they are a ring of records, each
/// `1 | number (u64) | stamp (u64) | horizon (u64) | token (16) | outcome`, under `group | FE | number % REMEMBERED (u32)`,
/// all big endian. The one with the greatest number is also where the group's clock stands.
struct Memory {
    group: GroupId,
    last: Stamp,
    /// The greatest stamp that was forgotten.
    horizon: Stamp,
    /// Outcomes so far; the next one's number.
    count: u64,
    slots: HashMap<Token, u32>,
    ring: Vec<(Token, Stamp)>,
}

impl Memory {
    fn key(group: GroupId, slot: u32) -> [u8; 9] {
        let mut key = [0; 9];
        key[..4].copy_from_slice(&group.0.to_be_bytes());
        key[4] = MEMORY_KIND;
        key[5..].copy_from_slice(&slot.to_be_bytes());
        key
    }

    fn read(group: GroupId, state: &dyn IndexView) -> Result<Self, IndexError> {
        let mut memory = Self {
            group,
            last: Stamp::default(),
            horizon: Stamp::default(),
            count: 0,
            slots: HashMap::new(),
            ring: Vec::new(),
        };
        let from = Self::key(group, 0);
        let mut to = from;
        to[4] = MEMORY_KIND + 1;
        let mut cursor = state.cursor(Keyspace::Records, &from, &to)?;
        cursor.seek(&from)?;
        while let Some((key, value)) = cursor.entry() {
            let slot = memory.ring.len() as u32;
            let record = Remembered::parse(value).ok_or_else(|| damaged(group, slot))?;
            if key != Self::key(group, slot) || record.number % REMEMBERED != u64::from(slot) {
                return Err(damaged(group, slot));
            }
            memory.slots.insert(record.token, slot);
            memory.ring.push((record.token, record.at));
            if record.number >= memory.count {
                memory.count = record.number + 1;
                memory.last = record.at;
                memory.horizon = record.horizon;
            }
            cursor.next()?;
        }
        Ok(memory)
    }

    /// The outcome of an earlier command with the same token.
    fn recall(&self, state: &dyn IndexView, token: Token) -> Result<Option<Bytes>, IndexError> {
        let Some(&slot) = self.slots.get(&token) else {
            return Ok(None);
        };
        let value = state
            .get(Keyspace::Records, &Self::key(self.group, slot))?
            .ok_or_else(|| damaged(self.group, slot))?;
        match Remembered::parse(&value) {
            Some(record) if record.token == token => Ok(Some(value.slice_ref(record.outcome))),
            _ => Err(damaged(self.group, slot)),
        }
    }

    fn remember(&mut self, batch: &mut Batch, token: Token, at: Stamp, outcome: &[u8]) {
        let slot = (self.count % REMEMBERED) as u32;
        if let Some(place) = self.ring.get_mut(slot as usize) {
            let (forgotten, stamp) = std::mem::replace(place, (token, at));
            self.slots.remove(&forgotten);
            self.horizon = self.horizon.max(stamp);
        } else {
            self.ring.push((token, at));
        }
        self.slots.insert(token, slot);
        let mut value = Vec::with_capacity(Remembered::HEADER_LEN + outcome.len());
        value.push(MEMORY_FORMAT);
        value.extend_from_slice(&self.count.to_be_bytes());
        value.extend_from_slice(&at.0.to_be_bytes());
        value.extend_from_slice(&self.horizon.0.to_be_bytes());
        value.extend_from_slice(&token.0);
        value.extend_from_slice(outcome);
        batch.put(
            Keyspace::Records,
            Self::key(self.group, slot).to_vec(),
            value,
        );
        self.last = at;
        self.count += 1;
    }
}

fn damaged(group: GroupId, slot: u32) -> IndexError {
    IndexError::Corrupt(format!("remembered outcome {slot} of {group} is damaged"))
}

struct Remembered<'a> {
    number: u64,
    at: Stamp,
    horizon: Stamp,
    token: Token,
    outcome: &'a [u8],
}

impl<'a> Remembered<'a> {
    const HEADER_LEN: usize = 1 + 8 + 8 + 8 + 16;

    fn parse(value: &'a [u8]) -> Option<Self> {
        let (format, rest) = value.split_first()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (at, rest) = rest.split_first_chunk()?;
        let (horizon, rest) = rest.split_first_chunk()?;
        let (token, outcome) = rest.split_first_chunk()?;
        (*format == MEMORY_FORMAT).then_some(Self {
            number: u64::from_be_bytes(*number),
            at: Stamp(u64::from_be_bytes(*at)),
            horizon: Stamp(u64::from_be_bytes(*horizon)),
            token: Token(*token),
            outcome,
        })
    }
}
