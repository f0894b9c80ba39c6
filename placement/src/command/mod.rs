//! What the commands of all groups have in common: an envelope, a clock and a memory of what was decided.
//!
//! A command is `1 | token (16) | proposed stamp (u64, big endian) | what to do`, an outcome is
//! `1 | status | stamp (u64, big endian) | what came of it`. What to do and what came of it belong to the group's
//! [`Decide`]; the rest is done here, for every group alike:
//!
//! - **Time.** A hybrid logical clock (Kulkarni et al., OPODIS 2014): a command's [`Stamp`] is the time at which it was
//!   proposed or the group's last stamp and one more, whichever is greater. Proposers take the times of outcomes into
//!   account, so a slow wall clock does no harm.
//! - **Retries.** A group remembers the outcomes of its last [`REMEMBERED`] commands by token; a command that comes again
//!   gets the first outcome. One that may have been forgotten (it was proposed before the newest forgotten one was
//!   decided) is refused instead of being applied a second time.

mod machine;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::consensus::{Groups, ProposeError};
use crate::ids::{GroupId, Token};
use crate::seams::{Clock, Rng, UnixMillis};

pub use machine::{Decide, Machine, REMEMBERED, Turn};

/// Format of commands and outcomes; persisted in logs.
const FORMAT: u8 = 1;

/// Bytes of a command before its body.
const COMMAND_HEADER_LEN: usize = 1 + 16 + 8;

/// Bytes of an outcome before its body.
const OUTCOME_HEADER_LEN: usize = 1 + 1 + 8;

/// Status of an outcome; persisted.
mod status {
    /// The body says what was decided.
    pub const DECIDED: u8 = 0;
    /// The group does not understand the command; nothing happened.
    pub const UNKNOWN: u8 = 1;
    /// The command is too old to know whether it was decided before; nothing happened now.
    pub const EXPIRED: u8 = 2;
}

/// A moment of a group: 48 bits of milliseconds since 1970 and 16 bits that count. Unique within the group, and
/// growing with every command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub u64);

impl Stamp {
    /// The first stamp of a millisecond.
    pub fn at(time: UnixMillis) -> Self {
        Self(time.0.min((1 << 48) - 1) << 16)
    }

    /// The stamp's time; ahead of the wall clock while a group decides more than 65,536 commands a millisecond.
    pub fn millis(self) -> UnixMillis {
        UnixMillis(self.0 >> 16)
    }

    /// The least greater one.
    fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// The header of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Envelope {
    token: Token,
    proposed: Stamp,
}

/// Splits a command; `None` if it is none of this format.
fn open(command: &[u8]) -> Option<(Envelope, &[u8])> {
    let (header, body) = command.split_at_checked(COMMAND_HEADER_LEN)?;
    let (format, header) = header.split_first()?;
    if *format != FORMAT {
        return None;
    }
    let (token, proposed) = header.split_at_checked(16)?;
    let envelope = Envelope {
        token: Token(token.try_into().ok()?),
        proposed: Stamp(u64::from_be_bytes(proposed.try_into().ok()?)),
    };
    Some((envelope, body))
}

/// Makes an outcome.
fn outcome(status: u8, at: Stamp, body: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(OUTCOME_HEADER_LEN + body.len());
    bytes.push(FORMAT);
    bytes.push(status);
    bytes.extend_from_slice(&at.0.to_be_bytes());
    bytes.extend_from_slice(body);
    Bytes::from(bytes)
}

/// Why nothing is known to have been decided.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommandError {
    /// Nothing happened; try again later.
    #[error("{0}")]
    Unavailable(String),
    /// The command may or may not take effect, now or later.
    #[error("{0}")]
    Indeterminate(String),
    /// The group has stopped, or gave an answer that makes no sense.
    #[error("{0}")]
    Failed(String),
}

impl From<ProposeError> for CommandError {
    fn from(error: ProposeError) -> Self {
        let text = error.to_string();
        match error {
            ProposeError::NoQuorum { .. } | ProposeError::WrongClock => Self::Unavailable(text),
            ProposeError::Indeterminate { .. } => Self::Indeterminate(text),
            ProposeError::Stopped { .. } => Self::Failed(text),
        }
    }
}

/// Proposes commands to groups.
pub struct Proposer {
    groups: Arc<dyn Groups>,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    /// The greatest stamp of an outcome: proposals are dated after it.
    newest: AtomicU64,
}

impl Proposer {
    pub fn new(groups: Arc<dyn Groups>, clock: Arc<dyn Clock>, rng: Arc<dyn Rng>) -> Self {
        Self {
            groups,
            clock,
            rng,
            newest: AtomicU64::new(0),
        }
    }

    /// The stamp that a proposal made now asks for.
    pub fn now(&self) -> Stamp {
        let newest = Stamp(self.newest.load(Ordering::Relaxed));
        Stamp::at(self.clock.wall()).max(newest.next())
    }

    /// The source of ids.
    pub fn rng(&self) -> &dyn Rng {
        &*self.rng
    }

    /// Begins a command: append its body, then [`decide`](Self::decide) it.
    pub fn begin(&self, capacity: usize) -> Vec<u8> {
        let mut command = Vec::with_capacity(COMMAND_HEADER_LEN + capacity);
        command.push(FORMAT);
        command.extend_from_slice(&Token::random(&*self.rng).0);
        command.extend_from_slice(&self.now().0.to_be_bytes());
        command
    }

    /// Has a command decided; gives its stamp and the outcome's body.
    pub async fn decide(
        &self,
        group: GroupId,
        command: Vec<u8>,
    ) -> Result<(Stamp, Bytes), CommandError> {
        let outcome = self.groups.propose(group, Bytes::from(command)).await?;
        let strange = || CommandError::Failed(format!("{group} gave an outcome of no known form"));
        let (header, _) = outcome
            .split_at_checked(OUTCOME_HEADER_LEN)
            .ok_or_else(strange)?;
        if header[0] != FORMAT {
            return Err(strange());
        }
        let at = Stamp(u64::from_be_bytes(
            header[2..].try_into().map_err(|_| strange())?,
        ));
        self.newest.fetch_max(at.0, Ordering::Relaxed);
        match header[1] {
            status::DECIDED => Ok((at, outcome.slice(OUTCOME_HEADER_LEN..))),
            status::UNKNOWN => Err(CommandError::Failed(format!(
                "{group} does not understand the command"
            ))),
            status::EXPIRED => Err(CommandError::Indeterminate(format!(
                "the command came to {group} too late to know whether it was decided before"
            ))),
            _ => Err(strange()),
        }
    }
}
