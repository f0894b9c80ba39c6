//! How metadata groups give an object another key.
//!
//! Within a group that is one change. Between two it takes three, and the middle one decides:
//!
//! 1. The source's group notes what is to happen ([`begin`]). From now on nobody reads, lists or changes the source before
//!    the rename is settled: whoever comes by settles it himself.
//! 2. The destination's group takes the object, or says why not, and remembers which ([`receive`]): here the rename
//!    happens. Asked again, it says the same again.
//! 3. The source's group removes the object, or forgets the note ([`end`]).
//!
//! So a key that has the object and one that has it no more change at one moment for all who look, and a rename that was
//! left half-way is finished by the next who comes by. Bodies in chunks stay where they are.

use holdfast_placement::ids::{ChunkSetId, UploadId};
use holdfast_placement::planted::{Bug, planted};
use holdfast_placement::seams::{IndexError, Keyspace};
use serde::{Deserialize, Serialize};

use super::apply::{Change, Found};
use super::command::{Address, Moved, Outcome, ReceiveRename, Refusal, RenameVerdict};
use super::events::EventName;
use super::record::{Body, VersionSummary};
use super::rename::{REMEMBERED_MS, RENAME_AGE_MAX_MS, RenameCondition, RenameId, RenameToken};
use super::usage::Usage;
use super::values::{self, PartPage};
use super::versioning::BucketVersioning;
use super::{apply_redundancy, apply_upload, keys};
use crate::repair::reclaim::Entry;

/// Old renames that are forgotten when a new one comes, at most.
const FORGOTTEN_AT_ONCE: usize = 4;

/// Old renames that are looked at for that. Those of whose end nobody told stay, and must not be in the way of others.
const LOOKED_AT_AT_ONCE: usize = 64;

/// What a source's group notes: the value under the source's key. Persisted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    pub id: RenameId,
    /// The key that the object is to have, in the same bucket.
    pub to: String,
    pub condition: RenameCondition,
    pub token: Option<RenameToken>,
    /// What a part table is to be called in the other group.
    pub table: UploadId,
}

/// What a destination's group remembers of a rename. Persisted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Decision {
    verdict: RenameVerdict,
    token: Option<RenameToken>,
    /// Whether the source's group has ended it: nobody needs this any more, but those who come late.
    ended: bool,
}

/// What a source's group remembers of a rename. Persisted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    token: Option<RenameToken>,
    /// The body's chunk sets: another group refers to them now.
    pub sets: Vec<ChunkSetId>,
}

/// Whether the token was used for a rename, and then what that means for this one.
fn used(
    change: &Change<'_, '_>,
    token: Option<&RenameToken>,
) -> Result<Option<RenameVerdict>, IndexError> {
    let Some(token) = token else {
        return Ok(None);
    };
    let key = keys::rename_token(change.turn.group, &token.token);
    let Some(value) = change.turn.state.get(Keyspace::Records, &key)? else {
        return Ok(None);
    };
    let request: [u8; 16] = values::decode(&value, "a rename's token")?;
    Ok(Some(match request == token.request {
        true => RenameVerdict::DoneBefore,
        false => RenameVerdict::Refused(Refusal::TokenMismatch),
    }))
}

fn remember_token(
    change: &mut Change<'_, '_>,
    token: Option<&RenameToken>,
) -> Result<(), IndexError> {
    if let Some(token) = token {
        let key = keys::rename_token(change.turn.group, &token.token);
        let value = values::encode(&token.request)?;
        change.turn.batch.put(Keyspace::Records, key, value);
    }
    Ok(())
}

fn forget_token(change: &mut Change<'_, '_>, token: Option<&RenameToken>) {
    if let Some(token) = token {
        let key = keys::rename_token(change.turn.group, &token.token);
        change.turn.batch.delete(Keyspace::Records, key);
    }
}

/// Forgets some renames that were ended long ago.
fn forget_old(change: &mut Change<'_, '_>) -> Result<(), IndexError> {
    let group = change.turn.group;
    let before = change.turn.at.millis().0.saturating_sub(REMEMBERED_MS);
    let mut gone = Vec::new();
    for prefix in [keys::rename_decisions(group), keys::renames_left(group)] {
        let end = keys::successor(&prefix).unwrap_or_default();
        let mut cursor = change.turn.state.cursor(Keyspace::Records, &prefix, &end)?;
        cursor.seek(&prefix)?;
        let begins_at = gone.len();
        for _ in 0..LOOKED_AT_AT_ONCE {
            let Some((key, value)) = cursor.entry() else {
                break;
            };
            if gone.len() - begins_at >= FORGOTTEN_AT_ONCE {
                break;
            }
            let id = keys::parse_rename(key).ok_or_else(|| values::damaged("a rename"))?;
            if id.begun_millis() >= before {
                break;
            }
            if prefix == keys::rename_decisions(group) {
                let decision: Decision = values::decode(value, "a rename")?;
                if decision.ended {
                    gone.push((key.to_vec(), decision.token));
                }
            } else {
                let left: Left = values::decode(value, "a rename")?;
                gone.push((key.to_vec(), left.token));
            }
            cursor.next()?;
        }
    }
    for (key, token) in gone {
        change.turn.batch.delete(Keyspace::Records, key);
        forget_token(change, token.as_ref());
    }
    Ok(())
}

/// The source as it may be moved.
fn source(
    change: &Change<'_, '_>,
    at: Address<'_>,
    condition: &RenameCondition,
) -> Result<Result<Found, Refusal>, IndexError> {
    let found = change.newest(&change.object_key(at))?;
    Ok(match found {
        None => Err(Refusal::NoSuchKey),
        Some(found) if condition.holds(Some(&found.summary)) => Ok(found),
        Some(_) => Err(Refusal::PreconditionFailed),
    })
}

/// Gives an object another key of the same group, at once.
pub fn within(
    change: &mut Change<'_, '_>,
    id: RenameId,
    (from, to): (Address<'_>, Address<'_>),
    lane: &BucketVersioning,
    conditions: (&RenameCondition, &RenameCondition),
    token: Option<RenameToken>,
) -> Result<RenameVerdict, IndexError> {
    if let Some(verdict) = used(change, token.as_ref())? {
        return Ok(verdict);
    }
    let found = match source(change, from, conditions.0)? {
        Ok(found) => found,
        Err(refusal) => return Ok(RenameVerdict::Refused(refusal)),
    };
    let at = from;
    let (from, object) = (change.object_key(from), change.object_key(to));
    let newest = change.newest(&object)?;
    if !conditions
        .1
        .holds(newest.as_ref().map(|found| &found.summary))
    {
        return Ok(RenameVerdict::Refused(Refusal::PreconditionFailed));
    }
    change.retire(to, &object, lane, newest)?;
    let summary = moved(change, &found.summary);
    if found.body == Body::Inline {
        let old = keys::inline(&from, found.summary.version);
        let bytes = change.turn.state.get(Keyspace::Inline, &old)?;
        let bytes = bytes.ok_or_else(|| values::damaged("inline bytes"))?;
        change.turn.batch.delete(Keyspace::Inline, old);
        let new = keys::inline(&object, summary.version);
        change.turn.batch.put(Keyspace::Inline, new, bytes);
    }
    let value = values::with_summary(&found.value, &summary)?;
    change.turn.batch.delete(Keyspace::Objects, from);
    change.turn.batch.put(Keyspace::Objects, object, value);
    change.version_went(at, &found.summary);
    change.version_came(to, &summary);
    change.happened(to, EventName::CreatedCopy, &summary, false);
    change.happened(at, EventName::RemovedDelete, &found.summary, false);
    // Perhaps to a lesser key: who looks for references must look again.
    change.promoted = true;
    forget_old(change)?;
    if token.is_some() {
        remember_token(change, token.as_ref())?;
        let sets = Vec::new();
        let left = values::encode(&Left { token, sets })?;
        let key = keys::rename_left(change.turn.group, id);
        change.turn.batch.put(Keyspace::Records, key, left);
    }
    Ok(RenameVerdict::Moved)
}

/// A moved version is what it was, with an id of its new place.
fn moved(change: &mut Change<'_, '_>, summary: &VersionSummary) -> VersionSummary {
    VersionSummary {
        version: change.version_id(),
        ..*summary
    }
}

/// Notes that an object is to go to another group.
pub fn begin(
    change: &mut Change<'_, '_>,
    at: Address<'_>,
    condition: &RenameCondition,
    intent: Intent,
) -> Result<RenameVerdict, IndexError> {
    if let Some(verdict) = used(change, intent.token.as_ref())? {
        return Ok(verdict);
    }
    if let Err(refusal) = source(change, at, condition)? {
        return Ok(RenameVerdict::Refused(refusal));
    }
    let key = keys::rename_intent(change.turn.group, at.bucket, at.lane, at.key);
    let value = values::encode(&intent)?;
    change.turn.batch.put(Keyspace::Records, key, value);
    Ok(RenameVerdict::Moved)
}

/// Decides a rename to this group, once: takes the object or refuses it. `None`, with nothing written: the command makes no
/// sense.
pub fn receive(
    change: &mut Change<'_, '_>,
    rename: ReceiveRename<'_>,
    lane: Result<BucketVersioning, Refusal>,
    renaming: bool,
    inline: &[u8],
) -> Result<Option<RenameVerdict>, IndexError> {
    let group = change.turn.group;
    let key = keys::rename_decision(group, rename.id);
    if let Some(value) = change.turn.state.get(Keyspace::Records, &key)? {
        let decision: Decision = values::decode(&value, "a rename")?;
        return Ok(Some(decision.verdict));
    }
    let age = change
        .turn
        .at
        .millis()
        .0
        .saturating_sub(rename.id.begun_millis());
    if age > RENAME_AGE_MAX_MS {
        // It may have been decided, ended and forgotten: then this changes nothing any more. Else it never happens.
        return Ok(Some(RenameVerdict::Refused(Refusal::RenameExpired)));
    }
    let token = rename.token.clone();
    let verdict = match (lane, used(change, token.as_ref())?) {
        (Err(refusal), _) => RenameVerdict::Refused(refusal),
        (Ok(lane), _) if lane.keeps_versions() => RenameVerdict::Refused(Refusal::KeepsVersions),
        (Ok(_), Some(verdict)) => verdict,
        (Ok(_), None) if renaming => RenameVerdict::Refused(Refusal::BeingRenamed),
        (Ok(lane), None) => match take(change, rename, &lane, inline)? {
            Some(verdict) => verdict,
            None => return Ok(None),
        },
    };
    forget_old(change)?;
    if verdict == RenameVerdict::Moved {
        remember_token(change, token.as_ref())?;
    }
    let decision = Decision {
        token: token.filter(|_| verdict == RenameVerdict::Moved),
        verdict,
        ended: false,
    };
    if !planted(Bug::RenameForgotten) {
        let value = values::encode(&decision)?;
        change.turn.batch.put(Keyspace::Records, key, value);
    }
    Ok(Some(verdict))
}

/// Takes an object, or says why not; `None`, with nothing written: its bytes are not those that it says it has.
fn take(
    change: &mut Change<'_, '_>,
    rename: ReceiveRename<'_>,
    lane: &BucketVersioning,
    inline: &[u8],
) -> Result<Option<RenameVerdict>, IndexError> {
    let Moved {
        value,
        table,
        parts,
        missed,
    } = rename.object;
    let at = rename.at;
    let object = change.object_key(at);
    let newest = change.newest(&object)?;
    let holds = rename
        .condition
        .holds(newest.as_ref().map(|found| &found.summary));
    if !holds {
        return Ok(Some(RenameVerdict::Refused(Refusal::PreconditionFailed)));
    }
    let (summary, body, details) = values::version_body(value)?;
    let replaced = newest.as_ref().map(|found| &found.summary);
    // Decided here, as the source waits for the decision. The source counts the object until the rename is ended.
    if let Some(refusal) = change.counted.refusal_of(at, &summary, replaced) {
        return Ok(Some(RenameVerdict::Refused(refusal)));
    }
    if body == Body::Inline && inline.len() as u64 != summary.size {
        // Before anything is written: what is there stays.
        return Ok(None);
    }
    change.retire(at, &object, lane, newest)?;
    let summary = moved(change, &summary);
    let body = match body {
        Body::Inline => {
            let key = keys::inline(&object, summary.version);
            change
                .turn
                .batch
                .put(Keyspace::Inline, key, inline.to_vec());
            Body::Inline
        }
        Body::Multipart { parts: count, .. } => {
            let usage = Usage::of_parts(&parts);
            change.recount().add_all(&usage);
            let key = keys::table_usage(change.turn.group, table);
            let usage = values::encode(&usage)?;
            change.turn.batch.put(Keyspace::Records, key, usage);
            apply_upload::write_table(change, table, parts)?;
            Body::Multipart {
                table,
                parts: count,
            }
        }
        body => body,
    };
    change.recount().add(&body, summary.size);
    change.version_came(at, &summary);
    change.happened(at, EventName::CreatedCopy, &summary, false);
    for (body, missed) in &missed {
        apply_redundancy::note_missed(change, body, missed)?;
    }
    let value = values::encode_version(&summary, &body, details)?;
    change.turn.batch.put(Keyspace::Objects, object, value);
    // Perhaps to where a walk over the group's bodies has been already.
    change.promoted = true;
    Ok(Some(RenameVerdict::Moved))
}

/// Ends a rename from this group as it was decided. Nothing happens if it was ended before.
pub fn end(
    change: &mut Change<'_, '_>,
    at: Address<'_>,
    id: RenameId,
    has_moved: bool,
) -> Result<(), IndexError> {
    let group = change.turn.group;
    let key = keys::rename_intent(group, at.bucket, at.lane, at.key);
    let Some(intent) = intent(change, at)?.filter(|intent| intent.id == id) else {
        return Ok(());
    };
    change.turn.batch.delete(Keyspace::Records, key);
    if !has_moved {
        return Ok(());
    }
    let object = change.object_key(at);
    let Some(found) = change.newest(&object)? else {
        return Err(values::damaged("an object that is being renamed"));
    };
    let mut sets = Vec::new();
    change.recount().remove(&found.body, found.summary.size);
    change.version_went(at, &found.summary);
    change.happened(at, EventName::RemovedDelete, &found.summary, false);
    match found.body {
        Body::Empty => {}
        Body::Inline => {
            let key = keys::inline(&object, found.summary.version);
            change.turn.batch.delete(Keyspace::Inline, key);
        }
        Body::Chunked(body) => sets.push(body.set),
        Body::Multipart { table, .. } => {
            change.each_record(&keys::pages(group, table), |value| {
                let page: PartPage = values::decode(value, "a part table")?;
                sets.extend(page.parts.iter().filter_map(|part| match part.body {
                    Body::Chunked(body) => Some(body.set),
                    Body::Empty | Body::Inline | Body::Multipart { .. } => None,
                }));
                Ok(())
            })?;
            apply_redundancy::forget_table_usage(change, table)?;
            // Readers under way look at it still.
            change.reclaim(Entry::TableAlone(table))?;
        }
    }
    apply_redundancy::forget_missed(change, sets.clone())?;
    change.turn.batch.delete(Keyspace::Objects, object);
    forget_old(change)?;
    remember_token(change, intent.token.as_ref())?;
    let token = intent.token;
    let left = values::encode(&Left { token, sets })?;
    let key = keys::rename_left(group, id);
    change.turn.batch.put(Keyspace::Records, key, left);
    Ok(())
}

/// The rename of that id was ended at its source.
pub fn ended(change: &mut Change<'_, '_>, id: RenameId) -> Result<Outcome, IndexError> {
    let key = keys::rename_decision(change.turn.group, id);
    if let Some(value) = change.turn.state.get(Keyspace::Records, &key)? {
        let mut decision: Decision = values::decode(&value, "a rename")?;
        decision.ended = true;
        let value = values::encode(&decision)?;
        change.turn.batch.put(Keyspace::Records, key, value);
    }
    Ok(Outcome::Done)
}

/// What a destination's group has decided, from what it remembers.
pub fn verdict_of(value: &[u8]) -> Result<RenameVerdict, IndexError> {
    let decision: Decision = values::decode(value, "a rename")?;
    Ok(decision.verdict)
}

/// What is noted about a key, if it is being renamed.
pub fn intent(change: &Change<'_, '_>, at: Address<'_>) -> Result<Option<Intent>, IndexError> {
    let key = keys::rename_intent(change.turn.group, at.bucket, at.lane, at.key);
    match change.turn.state.get(Keyspace::Records, &key)? {
        Some(value) => Ok(Some(values::decode(&value, "a rename")?)),
        None => Ok(None),
    }
}
