//! Identities: who may call, by access key.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::state::{decode, encode_value, key};
use crate::command::Turn;
use crate::seams::{IndexError, IndexView, Keyspace};

/// Identities at most.
pub const IDENTITIES_MAX: u64 = 10_000;

/// Bytes of an access key, a secret key or a display name, at most.
const TEXT_LEN_MAX: usize = 256;

/// Hex digits of an owner id.
const OWNER_ID_LEN: usize = 64;

const IDENTITY: u8 = 0x13;
const IDENTITY_COUNT: u8 = 0x14;

/// Somebody who may call.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub access_key: String,
    pub secret_key: String,
    /// S3's canonical user id: 64 lower-case hex digits. Buckets belong to it.
    pub owner_id: String,
    pub display_name: String,
}

impl fmt::Debug for Identity {
    /// Without the secret key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("access_key", &self.access_key)
            .field("owner_id", &self.owner_id)
            .field("display_name", &self.display_name)
            .finish_non_exhaustive()
    }
}

/// What became of an identity that was to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutIdentity {
    Stored,
    /// There are [`IDENTITIES_MAX`] already, and it is none of them.
    TooMany,
    /// A key is empty, something is too long, or the owner id is not of its form.
    Malformed,
}

impl Identity {
    /// Whether it can be stored.
    pub fn is_well_formed(&self) -> bool {
        let is_text = |text: &str| !text.is_empty() && text.len() <= TEXT_LEN_MAX;
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        is_text(&self.access_key)
            && is_text(&self.secret_key)
            && self.display_name.len() <= TEXT_LEN_MAX
            && self.owner_id.len() == OWNER_ID_LEN
            && self.owner_id.as_bytes().iter().all(is_digit)
    }
}

/// Stores it, in place of one with its access key; `false`: there are too many.
pub(super) fn put(turn: &mut Turn<'_>, identity: &Identity) -> Result<bool, IndexError> {
    let place = key(IDENTITY, identity.access_key.as_bytes());
    if turn.state.get(Keyspace::Records, &place)?.is_none() {
        let count = count(turn.state)?;
        if count >= IDENTITIES_MAX {
            return Ok(false);
        }
        set_count(turn, count + 1)?;
    }
    turn.batch
        .put(Keyspace::Records, place, encode_value(identity)?);
    Ok(true)
}

/// Deletes it; `false`: there is none.
pub(super) fn delete(turn: &mut Turn<'_>, access_key: &str) -> Result<bool, IndexError> {
    let place = key(IDENTITY, access_key.as_bytes());
    if turn.state.get(Keyspace::Records, &place)?.is_none() {
        return Ok(false);
    }
    let count = count(turn.state)?.saturating_sub(1);
    set_count(turn, count)?;
    turn.batch.delete(Keyspace::Records, place);
    Ok(true)
}

fn count(state: &dyn IndexView) -> Result<u64, IndexError> {
    match state.get(Keyspace::Records, &key(IDENTITY_COUNT, &[]))? {
        Some(value) => decode(&value, "the number of identities"),
        None => Ok(0),
    }
}

fn set_count(turn: &mut Turn<'_>, count: u64) -> Result<(), IndexError> {
    let value = encode_value(&count)?;
    turn.batch
        .put(Keyspace::Records, key(IDENTITY_COUNT, &[]), value);
    Ok(())
}

/// The identity with that access key.
pub(super) fn read(
    state: &dyn IndexView,
    access_key: &str,
) -> Result<Option<Identity>, IndexError> {
    match state.get(Keyspace::Records, &key(IDENTITY, access_key.as_bytes()))? {
        Some(value) => Ok(Some(decode(&value, "an identity")?)),
        None => Ok(None),
    }
}

/// All identities, by access key.
pub(super) fn read_all(state: &dyn IndexView) -> Result<Vec<Identity>, IndexError> {
    let (from, to) = (key(IDENTITY, &[]), key(IDENTITY + 1, &[]));
    let mut cursor = state.cursor(Keyspace::Records, &from, &to)?;
    cursor.seek(&from)?;
    let mut identities = Vec::new();
    while let Some((_, value)) = cursor.entry() {
        identities.push(decode(value, "an identity")?);
        cursor.next()?;
    }
    Ok(identities)
}
