//! How a metadata group decides commands on multipart uploads.

use holdfast_placement::ids::UploadId;
use holdfast_placement::planted::{Bug, planted};
use holdfast_placement::seams::{IndexError, Keyspace};

use super::apply::{Change, Version, details_with};
use super::apply_redundancy;
use super::command::{Address, Outcome, PartsDigest, Refusal};
use super::events::EventName;
use super::keys;
use super::lock::VersionLock;
use super::record::{
    Body, ChecksumAlgorithm, ChecksumKind, Etag, MissedSlot, ObjectChecksum, ObjectHeaders,
    PartRecord, UploadRecord,
};
use super::store::Condition;
use super::usage::Usage;
use super::values::{self, CompletedUpload, PartPage, UploadPlace, VersionDetails};
use super::versioning::BucketVersioning;
use crate::repair::reclaim::Entry;

/// Parts a page of a part table: a range read decodes one page, so they are few.
pub(super) const PAGE_PARTS: usize = 64;

/// Completed uploads that a group remembers, so that a repeated CompleteMultipartUpload succeeds.
const COMPLETED_REMEMBERED: u64 = 1024;

type Tags = Vec<(String, String)>;

pub fn create(
    change: &mut Change<'_, '_>,
    at: Address<'_>,
    upload: UploadId,
    headers: ObjectHeaders,
    tags: Tags,
    checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
) -> Result<Outcome, IndexError> {
    let initiated = change.turn.at.millis();
    let record = UploadRecord {
        upload,
        key: at.key.to_owned(),
        initiated,
        headers,
        tags,
        checksum,
    };
    let place = UploadPlace {
        bucket: at.bucket,
        lane: at.lane,
        key: at.key.to_owned(),
    };
    let group = change.turn.group;
    let (record, place) = (values::encode(&record)?, values::encode(&place)?);
    change
        .turn
        .batch
        .put(Keyspace::Records, upload_key(change, at, upload), record);
    change.turn.batch.put(
        Keyspace::Records,
        keys::upload_time(group, initiated, upload),
        place,
    );
    Ok(Outcome::Done)
}

/// Remembers the lock that the upload's object is to have.
pub fn lock(
    change: &mut Change<'_, '_>,
    upload: UploadId,
    lock: &VersionLock,
) -> Result<(), IndexError> {
    let key = keys::upload_lock(change.turn.group, upload);
    let value = values::encode(lock)?;
    change.turn.batch.put(Keyspace::Records, key, value);
    Ok(())
}

fn find_lock(change: &Change<'_, '_>, upload: UploadId) -> Result<VersionLock, IndexError> {
    let key = keys::upload_lock(change.turn.group, upload);
    match change.turn.state.get(Keyspace::Records, &key)? {
        Some(value) => values::decode(&value, "an upload's lock"),
        None => Ok(VersionLock::default()),
    }
}

pub fn put_part(
    change: &mut Change<'_, '_>,
    at: Address<'_>,
    upload: UploadId,
    part: PartRecord,
    missed: &[MissedSlot],
) -> Result<Outcome, IndexError> {
    if find(change, at, upload)?.is_none() {
        return Ok(Outcome::Refused(Refusal::NoSuchUpload));
    }
    let key = keys::part(change.turn.group, upload, part.number);
    if let Some(value) = change.turn.state.get(Keyspace::Records, &key)? {
        let before: PartRecord = values::decode(&value, "a part")?;
        if before.body != part.body {
            change.reclaim_part(at, &before)?;
        } else {
            change.recount().remove(&before.body, before.size);
            change.parts_went(at, before.size);
        }
    }
    change.recount().add(&part.body, part.size);
    change.parts_came(at, part.size);
    if let Body::Chunked(body) = &part.body {
        apply_redundancy::note_missed(change, body, missed)?;
    }
    let part = PartRecord {
        modified: change.turn.at.millis(),
        ..part
    };
    let value = values::encode(&part)?;
    change.turn.batch.put(Keyspace::Records, key, value);
    Ok(Outcome::Done)
}

pub fn abort(
    change: &mut Change<'_, '_>,
    at: Address<'_>,
    upload: UploadId,
) -> Result<Outcome, IndexError> {
    let Some(record) = find(change, at, upload)? else {
        return Ok(Outcome::Refused(Refusal::NoSuchUpload));
    };
    // The parts stay where they are until their shards are freed: nobody finds them without the upload.
    let parts = apply_redundancy::parts_of(change, upload)?;
    change.recount().remove_all(&Usage::of_parts(&parts));
    if !planted(Bug::AbortCounts) {
        change.parts_went(at, parts.iter().map(|part| part.size).sum());
    }
    change.reclaim(Entry::Parts(upload))?;
    forget_upload(change, at, &record);
    Ok(Outcome::Done)
}

/// What an upload is to become.
pub struct Completion<'a> {
    pub upload: UploadId,
    /// Ascending, at least one.
    pub numbers: &'a [u16],
    pub digest: [u8; 32],
    pub size: u64,
    pub etag: Etag,
    pub checksum: Option<ObjectChecksum>,
}

/// Makes the chosen parts the newest version and queues the others, or does nothing at all.
pub fn complete(
    change: &mut Change<'_, '_>,
    at: Address<'_>,
    lane: &BucketVersioning,
    condition: &Condition,
    completion: Completion<'_>,
) -> Result<Outcome, IndexError> {
    let upload = completion.upload;
    let Some(record) = find(change, at, upload)? else {
        return Ok(Outcome::Refused(Refusal::NoSuchUpload));
    };
    let object = change.object_key(at);
    let newest = change.newest(&object)?;
    let allowed = condition.allows_write(newest.as_ref().map(|found| &found.summary));
    if let Err(refusal) = allowed
        && !planted(Bug::CompletionUnconditional)
    {
        return Ok(Outcome::Refused(refusal));
    }
    let now = change.turn.at.millis();
    let lock = match find_lock(change, upload)?.of_new(lane.lock.as_ref(), now) {
        Ok(lock) => lock,
        Err(refusal) => return Ok(Outcome::Refused(refusal)),
    };
    let Some(Choice { chosen, unused }) = choose(change, &completion)? else {
        return Ok(Outcome::Refused(Refusal::PartsChanged));
    };

    for part in &unused {
        change.reclaim_part(at, part)?;
    }
    for number in chosen.iter().chain(&unused).map(|part| part.number) {
        let key = keys::part(change.turn.group, upload, number);
        change.turn.batch.delete(Keyspace::Records, key);
    }
    // They are the version's bytes now.
    change.parts_went(at, completion.size);
    let parts = chosen.len() as u16;
    let usage = values::encode(&Usage::of_parts(&chosen))?;
    let key = keys::table_usage(change.turn.group, upload);
    change.turn.batch.put(Keyspace::Records, key, usage);
    write_table(change, upload, chosen)?;
    forget_upload(change, at, &record);

    // S3 user guide, "System-defined object metadata": a multipart object is as old as its upload.
    let modified = record.initiated;
    let checksum = completion.checksum.as_ref();
    let checksum = checksum.map(|checksum| (checksum.algorithm, checksum.kind));
    let mut headers = record.headers;
    headers.set_initiator(None);
    let details = VersionDetails {
        checksum: completion.checksum,
        headers,
        tags: record.tags,
    };
    let version = Version {
        size: completion.size,
        etag: completion.etag,
        checksum,
        body: Body::Multipart {
            table: upload,
            parts,
        },
        details: details_with(&details, &lock)?,
        missed: &[],
    };
    let summary = change.summary(&version, lane, modified);
    change.write_version(at, lane, newest, summary, &version)?;
    let name = EventName::CreatedCompleteUpload;
    change.happened(at, name, &summary, lane.keeps_versions());
    let completed = CompletedUpload {
        bucket: at.bucket,
        key: at.key.to_owned(),
        summary,
    };
    remember(change, upload, &completed)?;
    Ok(Outcome::Written(summary))
}

/// An upload's parts.
struct Choice {
    chosen: Vec<PartRecord>,
    unused: Vec<PartRecord>,
}

/// The upload's parts; `None` if the chosen ones are not those that the caller saw.
fn choose(
    change: &Change<'_, '_>,
    completion: &Completion<'_>,
) -> Result<Option<Choice>, IndexError> {
    let from = keys::parts(change.turn.group, completion.upload);
    let to = keys::successor(&from).unwrap_or_default();
    let mut cursor = change.turn.state.cursor(Keyspace::Records, &from, &to)?;
    cursor.seek(&from)?;
    let mut wanted = completion.numbers.iter().copied().peekable();
    let mut chosen: Vec<PartRecord> = Vec::with_capacity(completion.numbers.len());
    let mut unused = Vec::new();
    let mut digest = PartsDigest::new();
    let mut size = 0u64;
    while let Some((_, value)) = cursor.entry() {
        let part: PartRecord = values::decode(value, "a part")?;
        if wanted.next_if_eq(&part.number).is_some() {
            digest.add(&part);
            size = size.saturating_add(part.size);
            chosen.push(part);
        } else {
            unused.push(part);
        }
        cursor.next()?;
    }
    let same =
        wanted.peek().is_none() && digest.finish() == completion.digest && size == completion.size;
    Ok(same.then_some(Choice { chosen, unused }))
}

/// Writes a part table.
pub(super) fn write_table(
    change: &mut Change<'_, '_>,
    table: UploadId,
    parts: Vec<PartRecord>,
) -> Result<(), IndexError> {
    let mut offset = 0u64;
    let mut parts = parts.into_iter();
    loop {
        let page = PartPage {
            offset,
            parts: parts.by_ref().take(PAGE_PARTS).collect(),
        };
        let Some(last) = page.parts.last().map(|part| part.number) else {
            return Ok(());
        };
        for part in &page.parts {
            offset = offset.saturating_add(part.size);
        }
        let value = values::encode(&page)?;
        let key = keys::page(change.turn.group, table, offset, last);
        change.turn.batch.put(Keyspace::Records, key, value);
    }
}

/// Remembers what the upload became, and forgets the oldest that is remembered.
fn remember(
    change: &mut Change<'_, '_>,
    upload: UploadId,
    completed: &CompletedUpload,
) -> Result<(), IndexError> {
    let group = change.turn.group;
    let count_key = keys::completed_count(group);
    let count: u64 = match change.turn.state.get(Keyspace::Records, &count_key)? {
        Some(value) => values::decode(&value, "completed uploads")?,
        None => 0,
    };
    let slot_key = keys::completed_slot(group, (count % COMPLETED_REMEMBERED) as u32);
    if let Some(value) = change.turn.state.get(Keyspace::Records, &slot_key)? {
        let oldest: UploadId = values::decode(&value, "a completed upload")?;
        change
            .turn
            .batch
            .delete(Keyspace::Records, keys::completed(group, oldest));
    }
    let records = [
        (keys::completed(group, upload), values::encode(completed)?),
        (slot_key, values::encode(&upload)?),
        (count_key, values::encode(&(count + 1))?),
    ];
    for (key, value) in records {
        change.turn.batch.put(Keyspace::Records, key, value);
    }
    Ok(())
}

fn upload_key(change: &Change<'_, '_>, at: Address<'_>, upload: UploadId) -> Vec<u8> {
    keys::upload(change.turn.group, at.bucket, at.lane, at.key, upload)
}

pub fn find(
    change: &Change<'_, '_>,
    at: Address<'_>,
    upload: UploadId,
) -> Result<Option<UploadRecord>, IndexError> {
    let key = upload_key(change, at, upload);
    match change.turn.state.get(Keyspace::Records, &key)? {
        Some(value) => Ok(Some(values::decode(&value, "an upload")?)),
        None => Ok(None),
    }
}

fn forget_upload(change: &mut Change<'_, '_>, at: Address<'_>, record: &UploadRecord) {
    let key = upload_key(change, at, record.upload);
    change.turn.batch.delete(Keyspace::Records, key);
    let time = keys::upload_time(change.turn.group, record.initiated, record.upload);
    change.turn.batch.delete(Keyspace::Records, time);
    let lock = keys::upload_lock(change.turn.group, record.upload);
    change.turn.batch.delete(Keyspace::Records, lock);
}
