//! Webhooks: where events of buckets can be told, by name. The whole cluster has the same.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::state::{decode, encode_value, key};
use crate::command::Turn;
use crate::seams::{IndexError, IndexView, Keyspace};

/// Webhooks at most.
pub const WEBHOOKS_MAX: usize = 100;

/// Bytes of a webhook's name at most.
pub const WEBHOOK_NAME_LEN_MAX: usize = 64;

/// Bytes of an address and of a token at most.
const TEXT_LEN_MAX: usize = 1024;

const WEBHOOK: u8 = 0x16;

/// A server that is told of events. Persisted: the order of fields is kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// Letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// `http://HOST[:PORT][/PATH]`.
    pub url: String,
    /// What goes into `Authorization`, if anything.
    pub token: Option<String>,
}

impl fmt::Debug for Webhook {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("name", &self.name)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// What became of a webhook that was to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutWebhook {
    Stored,
    /// There are [`WEBHOOKS_MAX`] already, and it is none of them.
    TooMany,
    /// The name has other characters than it may, or something is empty or too long.
    Malformed,
}

impl Webhook {
    /// Whether it can be stored. (What the address means is known to who calls it.)
    pub fn is_well_formed(&self) -> bool {
        let is_text = |text: &str| {
            !text.is_empty() && text.len() <= TEXT_LEN_MAX && !text.bytes().any(|b| b < b' ')
        };
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !self.name.is_empty()
            && self.name.len() <= WEBHOOK_NAME_LEN_MAX
            && self.name.bytes().all(is_letter)
            && is_text(&self.url)
            && self.token.as_deref().is_none_or(is_text)
    }
}

fn webhook_key(name: &str) -> Vec<u8> {
    key(WEBHOOK, name.as_bytes())
}

/// Stores it, in place of one with its name; `false`: there are too many.
pub(super) fn put(turn: &mut Turn<'_>, webhook: &Webhook) -> Result<bool, IndexError> {
    let place = webhook_key(&webhook.name);
    let is_new = turn.state.get(Keyspace::Records, &place)?.is_none();
    if is_new && read_all(turn.state)?.len() >= WEBHOOKS_MAX {
        return Ok(false);
    }
    turn.batch
        .put(Keyspace::Records, place, encode_value(webhook)?);
    Ok(true)
}

/// Deletes it; `false`: there is none.
pub(super) fn delete(turn: &mut Turn<'_>, name: &str) -> Result<bool, IndexError> {
    let place = webhook_key(name);
    if turn.state.get(Keyspace::Records, &place)?.is_none() {
        return Ok(false);
    }
    turn.batch.delete(Keyspace::Records, place);
    Ok(true)
}

/// All webhooks, by name.
pub(super) fn read_all(state: &dyn IndexView) -> Result<Vec<Webhook>, IndexError> {
    let (from, to) = (key(WEBHOOK, &[]), key(WEBHOOK + 1, &[]));
    let mut cursor = state.cursor(Keyspace::Records, &from, &to)?;
    cursor.seek(&from)?;
    let mut webhooks = Vec::new();
    while let Some((_, value)) = cursor.entry() {
        webhooks.push(decode(value, "a webhook")?);
        cursor.next()?;
    }
    Ok(webhooks)
}
