//! How a metadata group puts bytes behind those of a version (user guide, "Appending data to objects in directory
//! buckets").
//!
//! What is written is what was added: bytes of inline bodies move, the bodies in chunks of a version stay where they are
//! and become its parts. Whoever reads the version as it was finds its bytes where they were.

use holdfast_placement::ids::UploadId;
use holdfast_placement::planted::{Bug, planted};
use holdfast_placement::seams::{IndexError, Keyspace};

use super::apply::{Change, Found, details_with};
use super::apply_redundancy;
use super::apply_upload::{self, PAGE_PARTS};
use super::command::{Addition, Address, Outcome, Refusal};
use super::events::EventName;
use super::keys;
use super::record::{
    Body, ChunkedBody, Etag, MissedSlot, ObjectChecksum, PartRecord, VersionId, VersionSummary,
};
use super::store::Condition;
use super::usage::Usage;
use super::values::{self, PartPage, VersionDetails};

/// Parts of an object, at most (error `TooManyParts` of the API reference, PutObject).
pub(super) const PARTS_MAX: u16 = 10_000;

/// What is to be added, and what the whole is then.
pub struct Append<'a> {
    pub base: VersionId,
    pub size: u64,
    pub etag: Etag,
    pub checksum: Option<ObjectChecksum>,
    pub addition: Addition,
    /// The bytes, with [`Addition::Inline`].
    pub inline: &'a [u8],
    /// Shards of the new body that are still to be made.
    pub missed: &'a [MissedSlot],
}

/// Adds all of it or nothing. `None`: the command contradicts itself.
pub fn append(
    change: &mut Change<'_, '_>,
    at: Address<'_>,
    condition: &Condition,
    append: Append<'_>,
) -> Result<Option<Outcome>, IndexError> {
    let object = change.object_key(at);
    let newest = change.newest(&object)?;
    if let Err(refusal) = condition.allows_write(newest.as_ref().map(|found| &found.summary)) {
        return Ok(Some(Outcome::Refused(refusal)));
    }
    let base_changed = Ok(Some(Outcome::Refused(Refusal::BaseChanged)));
    let is_base =
        |found: &Found| found.summary.version == append.base || planted(Bug::AppendDecidedEarly);
    let Some(base) = newest.filter(is_base) else {
        return base_changed;
    };
    let added = match &append.addition {
        Addition::Inline => append.inline.len() as u64,
        Addition::Whole(body) => body.len.saturating_sub(base.summary.size),
        Addition::Part { part, .. } => part.size,
    };
    let size = match planted(Bug::AppendDecidedEarly) {
        true => base.summary.size.saturating_add(added),
        false => append.size,
    };
    if added == 0 || base.summary.size.checked_add(added) != Some(size) {
        return Ok(None);
    }
    let now = change.turn.at.millis();
    let summary = VersionSummary {
        modified: now,
        size,
        etag: append.etag,
        version: change.version_id(),
        null: base.summary.null,
        delete_marker: false,
        checksum: append
            .checksum
            .as_ref()
            .map(|checksum| (checksum.algorithm, checksum.kind)),
    };
    let body = match (append.addition, &base.body) {
        (Addition::Inline, Body::Empty | Body::Inline) => {
            join_inline(change, at, &base, &summary, append.inline)?
        }
        (Addition::Whole(body), Body::Empty | Body::Inline) => {
            change.let_go(at, &object, &base)?;
            add_chunks(change, &body, append.missed)?;
            Body::Chunked(body)
        }
        (Addition::Part { table, part }, Body::Chunked(_) | Body::Multipart { .. }) => {
            let Body::Chunked(chunks) = part.body else {
                return Ok(None);
            };
            let part = PartRecord {
                modified: now,
                ..part
            };
            match add_part(change, &base, table, part)? {
                Ok(body) => {
                    change.version_went(at, &base.summary);
                    add_chunks(change, &chunks, append.missed)?;
                    body
                }
                Err(refusal) => return Ok(Some(Outcome::Refused(refusal))),
            }
        }
        // Its bytes were kept in another way when the proposer looked, though it was this version.
        _ => return base_changed,
    };
    let record = values::version(&base.value)?;
    let details = VersionDetails {
        checksum: append.checksum,
        headers: record.headers,
        tags: record.tags,
    };
    let details = details_with(&details, &record.lock)?;
    let value = values::encode_version(&summary, &body, &details)?;
    change.turn.batch.put(Keyspace::Objects, object, value);
    change.version_came(at, &summary);
    change.happened(at, EventName::CreatedPut, &summary, false);
    Ok(Some(Outcome::Written(summary)))
}

/// Counts a body in chunks that the version has now, and remembers what of it is missing.
fn add_chunks(
    change: &mut Change<'_, '_>,
    body: &ChunkedBody,
    missed: &[MissedSlot],
) -> Result<(), IndexError> {
    change.recount().add(&Body::Chunked(*body), body.len);
    apply_redundancy::note_missed(change, body, missed)
}

fn join_inline(
    change: &mut Change<'_, '_>,
    at: Address<'_>,
    base: &Found,
    summary: &VersionSummary,
    added: &[u8],
) -> Result<Body, IndexError> {
    let object = &change.object_key(at);
    let mut bytes = Vec::with_capacity(summary.size as usize);
    if base.body == Body::Inline {
        let key = keys::inline(object, base.summary.version);
        let own = change.turn.state.get(Keyspace::Inline, &key)?;
        let own = own.filter(|own| own.len() as u64 == base.summary.size);
        bytes.extend_from_slice(&own.ok_or_else(|| values::damaged("inline bytes"))?);
    }
    bytes.extend_from_slice(added);
    change.let_go(at, object, base)?;
    let key = keys::inline(object, summary.version);
    change.turn.batch.put(Keyspace::Inline, key, bytes);
    change.recount().add(&Body::Inline, summary.size);
    Ok(Body::Inline)
}

fn add_part(
    change: &mut Change<'_, '_>,
    base: &Found,
    new_table: UploadId,
    part: PartRecord,
) -> Result<Result<Body, Refusal>, IndexError> {
    let (table, parts) = match base.body {
        Body::Multipart { parts, .. } if parts >= PARTS_MAX => {
            return Ok(Err(Refusal::TooManyParts));
        }
        Body::Multipart { table, parts } => {
            extend_table(change, table, base.summary.size, part)?;
            (table, parts)
        }
        _ => {
            let first = first_part(base)?;
            let parts = vec![first, PartRecord { number: 2, ..part }];
            write_usage(change, new_table, &Usage::of_parts(&parts))?;
            apply_upload::write_table(change, new_table, parts)?;
            (new_table, 1)
        }
    };
    Ok(Ok(Body::Multipart {
        table,
        parts: parts + 1,
    }))
}

/// What was one body, as a part.
fn first_part(base: &Found) -> Result<PartRecord, IndexError> {
    let record = values::version(&base.value)?;
    let (Etag::Md5(md5) | Etag::Multipart(md5, _)) = base.summary.etag;
    Ok(PartRecord {
        number: 1,
        size: base.summary.size,
        md5,
        modified: base.summary.modified,
        checksum: record.checksum,
        body: base.body.clone(),
    })
}

/// Puts a part at the end of a table whose parts are `size` bytes together.
fn extend_table(
    change: &mut Change<'_, '_>,
    table: UploadId,
    size: u64,
    part: PartRecord,
) -> Result<(), IndexError> {
    let group = change.turn.group;
    let missing = || values::damaged("a part table");
    let (last_key, mut last_page) = {
        let from = keys::page(group, table, size, 0);
        let to = keys::successor(&keys::pages(group, table)).unwrap_or_default();
        let mut cursor = change.turn.state.cursor(Keyspace::Records, &from, &to)?;
        cursor.seek(&from)?;
        let mut last = None;
        // More than one only if the last parts are empty.
        while let Some((key, value)) = cursor.entry() {
            let page: PartPage = values::decode(value, "a part table")?;
            last = Some((key.to_vec(), page));
            cursor.next()?;
        }
        last.ok_or_else(missing)?
    };
    let number = keys::page_last(&last_key).ok_or_else(missing)?;
    let end = size.saturating_add(part.size);
    let usage_key = keys::table_usage(group, table);
    let mut usage: Usage = match change.turn.state.get(Keyspace::Records, &usage_key)? {
        Some(value) => values::decode(&value, "what a part table takes")?,
        None => Usage::default(),
    };
    usage.add(&part.body, part.size);
    write_usage(change, table, &usage)?;
    let part = PartRecord {
        number: number.checked_add(1).ok_or_else(missing)?,
        ..part
    };
    let key = keys::page(group, table, end, part.number);
    let page = match last_page.parts.len() < PAGE_PARTS {
        true => {
            change.turn.batch.delete(Keyspace::Records, last_key);
            last_page.parts.push(part);
            last_page
        }
        false => PartPage {
            offset: size,
            parts: vec![part],
        },
    };
    let value = values::encode(&page)?;
    change.turn.batch.put(Keyspace::Records, key, value);
    Ok(())
}

fn write_usage(
    change: &mut Change<'_, '_>,
    table: UploadId,
    usage: &Usage,
) -> Result<(), IndexError> {
    let value = values::encode(usage)?;
    let key = keys::table_usage(change.turn.group, table);
    change.turn.batch.put(Keyspace::Records, key, value);
    Ok(())
}
