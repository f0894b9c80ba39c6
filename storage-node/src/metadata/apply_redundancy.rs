//! How a metadata group remembers shards that writes have missed, and takes a body's bytes in other chunks.

use std::collections::BTreeSet;

use holdfast_placement::ids::{ChunkSetId, UploadId};
use holdfast_placement::seams::{IndexError, Keyspace};

use super::apply::Change;
use super::command::{Address, Outcome, Refusal};
use super::record::{Body, ChunkedBody, MissedSlot, PartRecord, VersionId};
use super::redundancy::{BodyPlace, RepairId};
use super::usage::Usage;
use super::values::{self, PartPage};
use super::{apply_upload, keys};
use crate::repair::reclaim::Entry;

/// Remembers what a write missed of a body that becomes known with this command.
pub fn note_missed(
    change: &mut Change<'_, '_>,
    body: &ChunkedBody,
    missed: &[MissedSlot],
) -> Result<(), IndexError> {
    if missed.is_empty() {
        return Ok(());
    }
    let value = values::encode(body)?;
    let mut added = 0;
    for MissedSlot { chunk, slot } in missed.iter().copied() {
        let set = body.set;
        let key = keys::repair(change.turn.group, RepairId { set, chunk, slot });
        if change.turn.state.get(Keyspace::Records, &key)?.is_none() {
            added += 1;
        }
        change.turn.batch.put(Keyspace::Records, key, value.clone());
    }
    change.recount().repairs_open += added;
    Ok(())
}

/// Forgets shards that were made.
pub fn repaired(
    change: &mut Change<'_, '_>,
    ids: &BTreeSet<RepairId>,
) -> Result<Outcome, IndexError> {
    let mut closed = 0;
    for id in ids {
        let key = keys::repair(change.turn.group, *id);
        if change.turn.state.get(Keyspace::Records, &key)?.is_some() {
            change.turn.batch.delete(Keyspace::Records, key);
            closed += 1;
        }
    }
    close_repairs(change, closed);
    Ok(Outcome::Done)
}

/// Forgets what was missed of chunk sets whose shards are freed.
pub fn forget_missed(
    change: &mut Change<'_, '_>,
    mut sets: Vec<ChunkSetId>,
) -> Result<(), IndexError> {
    sets.sort_unstable();
    sets.dedup();
    let mut closed = 0;
    for set in sets {
        closed += change.delete_records(&keys::repairs_of(change.turn.group, set))?;
    }
    close_repairs(change, closed);
    Ok(())
}

fn close_repairs(change: &mut Change<'_, '_>, closed: u64) {
    if closed > 0 {
        let open = &mut change.recount().repairs_open;
        *open = open.saturating_sub(closed);
    }
}

/// The chunk sets that an entry of the reclaim queue lets go of.
pub fn sets_of(
    change: &Change<'_, '_>,
    entry: &Entry,
    sets: &mut Vec<ChunkSetId>,
) -> Result<(), IndexError> {
    let mut add = |body: &Body| {
        if let Body::Chunked(body) = body {
            sets.push(body.set);
        }
    };
    match entry {
        Entry::Body(body) => sets.push(body.set),
        Entry::TableAlone(_) => {}
        Entry::Table(table) => {
            change.each_record(&keys::pages(change.turn.group, *table), |value| {
                let page: PartPage = values::decode(value, "a part table")?;
                page.parts.iter().for_each(|part| add(&part.body));
                Ok(())
            })?;
        }
        Entry::Parts(upload) => {
            let parts = parts_of(change, *upload)?;
            parts.iter().for_each(|part| add(&part.body));
        }
    }
    Ok(())
}

/// All parts of an upload.
pub fn parts_of(change: &Change<'_, '_>, upload: UploadId) -> Result<Vec<PartRecord>, IndexError> {
    let mut parts = Vec::new();
    change.each_record(&keys::parts(change.turn.group, upload), |value| {
        parts.push(values::decode(value, "a part")?);
        Ok(())
    })?;
    Ok(parts)
}

/// No longer counts the parts of a table.
pub fn forget_table_usage(change: &mut Change<'_, '_>, table: UploadId) -> Result<(), IndexError> {
    let key = keys::table_usage(change.turn.group, table);
    if let Some(value) = change.turn.state.get(Keyspace::Records, &key)? {
        let usage: Usage = values::decode(&value, "what a part table takes")?;
        change.recount().remove_all(&usage);
        change.turn.batch.delete(Keyspace::Records, key);
    }
    Ok(())
}

/// Names `new` where `old` was named, and lets go of `old`; or does nothing.
pub fn replace_body(
    change: &mut Change<'_, '_>,
    at: Address<'_>,
    place: BodyPlace,
    old: ChunkSetId,
    new: ChunkedBody,
    missed: &[MissedSlot],
) -> Result<Outcome, IndexError> {
    let before = match place {
        BodyPlace::Version => in_version(change, at, None, old, &new)?,
        BodyPlace::Noncurrent { version } => in_version(change, at, Some(version), old, &new)?,
        BodyPlace::Part { upload, number } => in_upload(change, at, upload, number, old, &new)?,
        BodyPlace::Table {
            table,
            end,
            last,
            number,
        } => {
            let page = keys::page(change.turn.group, table, end, last);
            in_table(change, at, None, table, page, number, old, &new)?
        }
        BodyPlace::NoncurrentTable {
            version,
            table,
            end,
            last,
            number,
        } => {
            let page = keys::page(change.turn.group, table, end, last);
            in_table(change, at, Some(version), table, page, number, old, &new)?
        }
    };
    let Some(before) = before else {
        return Ok(Outcome::Refused(Refusal::BodyChanged));
    };
    let usage = change.recount();
    usage.remove(&Body::Chunked(before), before.len);
    usage.add(&Body::Chunked(new), new.len);
    note_missed(change, &new, missed)?;
    change.reclaim(Entry::Body(before))?;
    Ok(Outcome::Done)
}

/// The body, if `new` may take its place.
fn replaceable(body: &Body, old: ChunkSetId, new: &ChunkedBody) -> Option<ChunkedBody> {
    match body {
        Body::Chunked(body) if body.set == old && new.set != old && body.len == new.len => {
            Some(*body)
        }
        _ => None,
    }
}

fn in_version(
    change: &mut Change<'_, '_>,
    at: Address<'_>,
    version: Option<VersionId>,
    old: ChunkSetId,
    new: &ChunkedBody,
) -> Result<Option<ChunkedBody>, IndexError> {
    let Some((space, key, value)) = change.value_of(at, version)? else {
        return Ok(None);
    };
    let (_, body, _) = values::version_body(&value)?;
    let Some(before) = replaceable(&body, old, new) else {
        return Ok(None);
    };
    let value = values::with_body(&value, &Body::Chunked(*new))?;
    change.turn.batch.put(space, key, value);
    Ok(Some(before))
}

/// Not once the upload was completed or aborted: its parts are then somewhere else, or wait to be reclaimed.
fn in_upload(
    change: &mut Change<'_, '_>,
    at: Address<'_>,
    upload: UploadId,
    number: u16,
    old: ChunkSetId,
    new: &ChunkedBody,
) -> Result<Option<ChunkedBody>, IndexError> {
    if apply_upload::find(change, at, upload)?.is_none() {
        return Ok(None);
    }
    let key = keys::part(change.turn.group, upload, number);
    let Some(value) = change.turn.state.get(Keyspace::Records, &key)? else {
        return Ok(None);
    };
    let mut part: PartRecord = values::decode(&value, "a part")?;
    let Some(before) = replaceable(&part.body, old, new) else {
        return Ok(None);
    };
    part.body = Body::Chunked(*new);
    let value = values::encode(&part)?;
    change.turn.batch.put(Keyspace::Records, key, value);
    Ok(Some(before))
}

/// Not once the table belongs to no version: it then waits to be reclaimed.
#[expect(
    clippy::too_many_arguments,
    reason = "a place, and what is to change in it"
)]
fn in_table(
    change: &mut Change<'_, '_>,
    at: Address<'_>,
    version: Option<VersionId>,
    table: UploadId,
    page_key: Vec<u8>,
    number: u16,
    old: ChunkSetId,
    new: &ChunkedBody,
) -> Result<Option<ChunkedBody>, IndexError> {
    let Some((_, _, value)) = change.value_of(at, version)? else {
        return Ok(None);
    };
    let owner = values::version_body(&value)?.1;
    if !matches!(owner, Body::Multipart { table: own, .. } if own == table) {
        return Ok(None);
    }
    let Some(value) = change.turn.state.get(Keyspace::Records, &page_key)? else {
        return Ok(None);
    };
    let mut page: PartPage = values::decode(&value, "a part table")?;
    let part = page.parts.iter_mut().find(|part| part.number == number);
    let Some((part, before)) = part.and_then(|part| {
        let before = replaceable(&part.body, old, new)?;
        Some((part, before))
    }) else {
        return Ok(None);
    };
    part.body = Body::Chunked(*new);
    let usage_key = keys::table_usage(change.turn.group, table);
    if let Some(value) = change.turn.state.get(Keyspace::Records, &usage_key)? {
        let mut usage: Usage = values::decode(&value, "what a part table takes")?;
        usage.remove(&Body::Chunked(before), before.len);
        usage.add(&Body::Chunked(*new), new.len);
        let value = values::encode(&usage)?;
        change.turn.batch.put(Keyspace::Records, usage_key, value);
    }
    let value = values::encode(&page)?;
    change.turn.batch.put(Keyspace::Records, page_key, value);
    Ok(Some(before))
}
