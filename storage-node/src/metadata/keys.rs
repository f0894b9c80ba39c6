//! Keys of a metadata group's state. All are persisted: keep stable.
//!
//! Numbers are big endian. Every key begins with the group (u32).
//!
//! | space | key after the group | value |
//! |---|---|---|
//! | `objects` | bucket (u64), lane (u8), key | the newest version, see [`super::record`] |
//! | `inline` | bucket (u64), lane (u8), key, version (16) | the version's bytes |
//! | `records` | `01`, bucket (u64), lane (u8) | lane state; absent: open |
//! | `records` | `02`, bucket (u64), lane (u8), key escaped, `00 00`, upload (16) | upload |
//! | `records` | `03`, upload (16), part number (u16) | part of an upload under way |
//! | `records` | `04`, table (16), end offset (u64), last part number (u16) | page of a part table |
//! | `records` | `05`, time (u64 ms), upload (16) | where the upload is |
//! | `records` | `06`, stamp (u64), number (u32) | reclaim queue, see [`crate::repair::reclaim`] |
//! | `records` | `07`, upload (16) | what the upload completed to |
//! | `records` | `08`, slot (u32) | upload that is remembered as completed in the slot |
//! | `records` | `09` | completed uploads so far |
//! | `records` | `0A`, chunk set (16), chunk (u32), slot (u8) | a shard that a write missed: its body |
//! | `records` | `0B` | what the group holds, see [`super::usage`] |
//! | `records` | `0C`, table (16) | what the parts of a part table take |
//! | `records` | `0D`, bucket (u64), lane (u8), key escaped, `00 00`, version (16, all bits flipped) | a version that is not in `objects` |
//! | `records` | `0E`, bucket (u64), lane (u8), key | which of those is the null version, if one is |
//! | `records` | `0F`, upload (16) | the lock that the upload's object is to have, if any |
//! | `records` | `10` | how often a version came back to `objects` |
//! | `records` | `11`, bucket (u64), lane (u8) | what the lane tells of its changes, see [`super::events`] |
//! | `records` | `12`, webhook, `00`, event id (12) | an event that is to be told |
//! | `records` | `13`, webhook | how many there are; absent: none |
//! | `records` | `14`, bucket (u64), lane (u8) | the lane's share of the bucket's quota, see [`super::quota`] |
//! | `records` | `15`, bucket (u64), lane (u8) | how far the lane is counted, see [`super::lane_count`] |
//! | `records` | `20`, bucket (u64), lane (u8), key | that the key is being renamed to another group's, see `apply_rename.rs` |
//! | `records` | `21`, rename (16) | what was decided of a rename to the group |
//! | `records` | `22`, rename (16) | what is remembered of a rename from the group |
//! | `records` | `23`, token (16) | the request that a client's token came with |
//! | `records` | `FE`, `FF` | belong to [`holdfast_placement::command`] and the consensus module |
//!
//! Object keys are raw: nothing follows them, or what follows has a fixed length and is only looked up, so byte order
//! is S3's order. In keys of uploads and of noncurrent versions something does follow that is listed in order: `00` is
//! written `00 01` there, and `00 00` ends the key, so that they order by key, then by upload, or newest version first.

use holdfast_placement::ids::{BucketId, ChunkSetId, GroupId, Lane, UploadId};
use holdfast_placement::seams::UnixMillis;

use super::events::EventId;
use super::record::VersionId;
use super::redundancy::RepairId;
use super::rename::RenameId;
use super::store::ReclaimId;

const LANE_STATE: u8 = 0x01;
const UPLOAD: u8 = 0x02;
const PART: u8 = 0x03;
const PART_TABLE: u8 = 0x04;
const UPLOAD_TIME: u8 = 0x05;
const RECLAIM: u8 = 0x06;
const COMPLETED: u8 = 0x07;
const COMPLETED_SLOT: u8 = 0x08;
const COMPLETED_COUNT: u8 = 0x09;
const REPAIR: u8 = 0x0A;
const USAGE: u8 = 0x0B;
const TABLE_USAGE: u8 = 0x0C;
const NONCURRENT: u8 = 0x0D;
const NULL_VERSION: u8 = 0x0E;
const UPLOAD_LOCK: u8 = 0x0F;
const PROMOTIONS: u8 = 0x10;
const LANE_EVENTS: u8 = 0x11;
const EVENT: u8 = 0x12;
const EVENT_QUEUE: u8 = 0x13;
const LANE_QUOTA: u8 = 0x14;
const LANE_COUNT: u8 = 0x15;
const RENAME_INTENT: u8 = 0x20;
const RENAME_DECISION: u8 = 0x21;
const RENAME_LEFT: u8 = 0x22;
const RENAME_TOKEN: u8 = 0x23;

/// The lane of a key: the first 8 bytes of blake3(bucket id, little endian, then the key), little endian, modulo the
/// number of lanes. Persisted: it says where a key is.
pub fn lane_of(bucket: BucketId, key: &str, lanes: u8) -> Lane {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bucket.0.to_le_bytes());
    hasher.update(key.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    Lane((u64::from_le_bytes(first) % u64::from(lanes.max(1))) as u8)
}

/// The least byte string that is greater than all that begin with `prefix`; `None` if there is none.
pub fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xFF)?;
    let mut next = prefix[..=last].to_vec();
    next[last] += 1;
    Some(next)
}

/// Bytes of an object key before the key itself.
pub const OBJECT_PREFIX_LEN: usize = 4 + 8 + 1;

/// Bytes of an upload key before the key itself.
pub const UPLOAD_PREFIX_LEN: usize = 4 + 1 + 8 + 1;

fn record(group: GroupId, kind: u8, capacity: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(5 + capacity);
    key.extend_from_slice(&group.0.to_be_bytes());
    key.push(kind);
    key
}

pub fn object_lane(group: GroupId, bucket: BucketId, lane: Lane) -> [u8; OBJECT_PREFIX_LEN] {
    let mut prefix = [0; OBJECT_PREFIX_LEN];
    prefix[..4].copy_from_slice(&group.0.to_be_bytes());
    prefix[4..12].copy_from_slice(&bucket.0.to_be_bytes());
    prefix[12] = lane.0;
    prefix
}

pub fn object(group: GroupId, bucket: BucketId, lane: Lane, key: &str) -> Vec<u8> {
    // Room for a version id: the key of the inline bytes is often made from this one.
    let mut bytes = Vec::with_capacity(OBJECT_PREFIX_LEN + key.len() + 16);
    bytes.extend_from_slice(&object_lane(group, bucket, lane));
    bytes.extend_from_slice(key.as_bytes());
    bytes
}

/// From the object's key.
pub fn inline(object: &[u8], version: VersionId) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(object.len() + 16);
    bytes.extend_from_slice(object);
    bytes.extend_from_slice(&version.0);
    bytes
}

pub fn lane_state(group: GroupId, bucket: BucketId, lane: Lane) -> Vec<u8> {
    let mut key = record(group, LANE_STATE, 9);
    key.extend_from_slice(&bucket.0.to_be_bytes());
    key.push(lane.0);
    key
}

pub fn upload_lane(group: GroupId, bucket: BucketId, lane: Lane) -> [u8; UPLOAD_PREFIX_LEN] {
    let mut prefix = [0; UPLOAD_PREFIX_LEN];
    prefix[..4].copy_from_slice(&group.0.to_be_bytes());
    prefix[4] = UPLOAD;
    prefix[5..13].copy_from_slice(&bucket.0.to_be_bytes());
    prefix[13] = lane.0;
    prefix
}

pub fn upload(
    group: GroupId,
    bucket: BucketId,
    lane: Lane,
    key: &str,
    upload: UploadId,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(UPLOAD_PREFIX_LEN + key.len() + 18);
    bytes.extend_from_slice(&upload_lane(group, bucket, lane));
    escape(key.as_bytes(), &mut bytes);
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&upload.0);
    bytes
}

/// Writes `key` so that something can follow `00 00` after it.
pub fn escape(key: &[u8], out: &mut Vec<u8>) {
    for byte in key {
        out.push(*byte);
        if *byte == 0 {
            out.push(1);
        }
    }
}

/// The key and the upload of an upload key without its lane; `None` if it is not one. The key goes to `out`.
pub fn unescape(escaped: &[u8], out: &mut Vec<u8>) -> Option<UploadId> {
    unescape_with_id(escaped, out).map(UploadId)
}

/// The same of a noncurrent version's key.
pub fn unescape_version(escaped: &[u8], out: &mut Vec<u8>) -> Option<VersionId> {
    unescape_with_id(escaped, out).map(|id| VersionId(id.map(|byte| !byte)))
}

fn unescape_with_id(escaped: &[u8], out: &mut Vec<u8>) -> Option<[u8; 16]> {
    out.clear();
    let (escaped, id) = escaped.split_at_checked(escaped.len().checked_sub(16)?)?;
    let escaped = escaped.strip_suffix(&[0, 0])?;
    let mut bytes = escaped.iter();
    while let Some(byte) = bytes.next() {
        out.push(*byte);
        if *byte == 0 && bytes.next() != Some(&1) {
            return None;
        }
    }
    id.try_into().ok()
}

/// What the noncurrent versions of a lane begin with.
pub fn noncurrent_lane(group: GroupId, bucket: BucketId, lane: Lane) -> [u8; UPLOAD_PREFIX_LEN] {
    let mut prefix = upload_lane(group, bucket, lane);
    prefix[4] = NONCURRENT;
    prefix
}

/// What the noncurrent versions of a key begin with.
pub fn noncurrent_versions(group: GroupId, bucket: BucketId, lane: Lane, key: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(UPLOAD_PREFIX_LEN + key.len() + 18);
    bytes.extend_from_slice(&noncurrent_lane(group, bucket, lane));
    escape(key.as_bytes(), &mut bytes);
    bytes.extend_from_slice(&[0, 0]);
    bytes
}

/// A version in the order newest first.
pub fn newest_first(version: VersionId) -> [u8; 16] {
    version.0.map(|byte| !byte)
}

/// What the noncurrent versions of all keys of a group begin with.
pub fn all_noncurrent(group: GroupId) -> Vec<u8> {
    record(group, NONCURRENT, 0)
}

/// Which noncurrent version of a key is its null version.
pub fn null_version(group: GroupId, bucket: BucketId, lane: Lane, key: &str) -> Vec<u8> {
    let mut bytes = record(group, NULL_VERSION, 9 + key.len());
    bytes.extend_from_slice(&bucket.0.to_be_bytes());
    bytes.push(lane.0);
    bytes.extend_from_slice(key.as_bytes());
    bytes
}

pub fn upload_lock(group: GroupId, upload: UploadId) -> Vec<u8> {
    let mut key = record(group, UPLOAD_LOCK, 16);
    key.extend_from_slice(&upload.0);
    key
}

pub fn promotions(group: GroupId) -> Vec<u8> {
    record(group, PROMOTIONS, 0)
}

/// What the notes about all keys of a lane that are being renamed begin with.
pub fn rename_intents(group: GroupId, bucket: BucketId, lane: Lane) -> Vec<u8> {
    rename_intent(group, bucket, lane, "")
}

pub fn rename_intent(group: GroupId, bucket: BucketId, lane: Lane, key: &str) -> Vec<u8> {
    let mut bytes = record(group, RENAME_INTENT, 9 + key.len());
    bytes.extend_from_slice(&bucket.0.to_be_bytes());
    bytes.push(lane.0);
    bytes.extend_from_slice(key.as_bytes());
    bytes
}

/// What the notes about all keys of a group that are being renamed begin with.
pub fn all_rename_intents(group: GroupId) -> Vec<u8> {
    record(group, RENAME_INTENT, 0)
}

/// What all decisions of renames to the group begin with.
pub fn rename_decisions(group: GroupId) -> Vec<u8> {
    record(group, RENAME_DECISION, 16)
}

pub fn rename_decision(group: GroupId, id: RenameId) -> Vec<u8> {
    let mut key = rename_decisions(group);
    key.extend_from_slice(&id.0);
    key
}

/// What all that is remembered of renames from the group begins with.
pub fn renames_left(group: GroupId) -> Vec<u8> {
    record(group, RENAME_LEFT, 16)
}

pub fn rename_left(group: GroupId, id: RenameId) -> Vec<u8> {
    let mut key = renames_left(group);
    key.extend_from_slice(&id.0);
    key
}

/// The rename of a key of either kind.
pub fn parse_rename(key: &[u8]) -> Option<RenameId> {
    Some(RenameId(key.get(5..)?.try_into().ok()?))
}

pub fn rename_token(group: GroupId, token: &[u8; 16]) -> Vec<u8> {
    let mut key = record(group, RENAME_TOKEN, 16);
    key.extend_from_slice(token);
    key
}

pub fn lane_events(group: GroupId, bucket: BucketId, lane: Lane) -> Vec<u8> {
    let mut key = lane_state(group, bucket, lane);
    key[4] = LANE_EVENTS;
    key
}

pub fn lane_quota(group: GroupId, bucket: BucketId, lane: Lane) -> Vec<u8> {
    let mut key = lane_state(group, bucket, lane);
    key[4] = LANE_QUOTA;
    key
}

pub fn lane_count(group: GroupId, bucket: BucketId, lane: Lane) -> Vec<u8> {
    let mut key = lane_state(group, bucket, lane);
    key[4] = LANE_COUNT;
    key
}

/// What all events for a webhook begin with. (No name has a zero in it.)
pub fn events(group: GroupId, target: &str) -> Vec<u8> {
    let mut key = record(group, EVENT, target.len() + 13);
    key.extend_from_slice(target.as_bytes());
    key.push(0);
    key
}

pub fn event(group: GroupId, target: &str, id: EventId) -> Vec<u8> {
    let mut key = events(group, target);
    key.extend_from_slice(&id.0);
    key
}

/// The id of the event with that key.
pub fn parse_event(key: &[u8]) -> Option<EventId> {
    key.last_chunk().copied().map(EventId)
}

/// What the lengths of all queues of events begin with.
pub fn event_queues(group: GroupId) -> Vec<u8> {
    record(group, EVENT_QUEUE, 0)
}

pub fn event_queue(group: GroupId, target: &str) -> Vec<u8> {
    let mut key = event_queues(group);
    key.extend_from_slice(target.as_bytes());
    key
}

/// The webhook of the queue whose length has that key.
pub fn parse_event_queue(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(5..)?).ok()
}

/// What all parts of an upload begin with.
pub fn parts(group: GroupId, upload: UploadId) -> Vec<u8> {
    let mut key = record(group, PART, 18);
    key.extend_from_slice(&upload.0);
    key
}

pub fn part(group: GroupId, upload: UploadId, number: u16) -> Vec<u8> {
    let mut key = parts(group, upload);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// What the parts of all uploads of a group begin with.
pub fn all_parts(group: GroupId) -> Vec<u8> {
    record(group, PART, 0)
}

/// What the pages of all part tables of a group begin with.
pub fn all_pages(group: GroupId) -> Vec<u8> {
    record(group, PART_TABLE, 0)
}

/// What all pages of a part table begin with.
pub fn pages(group: GroupId, table: UploadId) -> Vec<u8> {
    let mut key = record(group, PART_TABLE, 26);
    key.extend_from_slice(&table.0);
    key
}

/// A page that holds parts up to number `last`, which end at offset `end` of the object.
pub fn page(group: GroupId, table: UploadId, end: u64, last: u16) -> Vec<u8> {
    let mut key = pages(group, table);
    key.extend_from_slice(&end.to_be_bytes());
    key.extend_from_slice(&last.to_be_bytes());
    key
}

/// The number of the last part of the page with that key.
pub fn page_last(key: &[u8]) -> Option<u16> {
    key.last_chunk().map(|last| u16::from_be_bytes(*last))
}

/// What all entries of the order of uploads by time begin with.
pub fn upload_times(group: GroupId) -> Vec<u8> {
    record(group, UPLOAD_TIME, 24)
}

pub fn upload_time(group: GroupId, initiated: UnixMillis, upload: UploadId) -> Vec<u8> {
    let mut key = upload_times(group);
    key.extend_from_slice(&initiated.0.to_be_bytes());
    key.extend_from_slice(&upload.0);
    key
}

/// The time and the upload of such an entry.
pub fn parse_upload_time(key: &[u8]) -> Option<(UnixMillis, UploadId)> {
    let (time, upload) = key.get(5..)?.split_first_chunk()?;
    Some((
        UnixMillis(u64::from_be_bytes(*time)),
        UploadId(upload.try_into().ok()?),
    ))
}

/// What all entries of the reclaim queue begin with.
pub fn reclaims(group: GroupId) -> Vec<u8> {
    record(group, RECLAIM, 12)
}

pub fn reclaim(group: GroupId, id: ReclaimId) -> Vec<u8> {
    let mut key = reclaims(group);
    key.extend_from_slice(&id.0);
    key
}

/// The id of the entry with that key.
pub fn parse_reclaim(key: &[u8]) -> Option<ReclaimId> {
    Some(ReclaimId(key.get(5..)?.try_into().ok()?))
}

pub fn completed(group: GroupId, upload: UploadId) -> Vec<u8> {
    let mut key = record(group, COMPLETED, 16);
    key.extend_from_slice(&upload.0);
    key
}

pub fn completed_slot(group: GroupId, slot: u32) -> Vec<u8> {
    let mut key = record(group, COMPLETED_SLOT, 4);
    key.extend_from_slice(&slot.to_be_bytes());
    key
}

pub fn completed_count(group: GroupId) -> Vec<u8> {
    record(group, COMPLETED_COUNT, 0)
}

/// What all shards that writes have missed begin with.
pub fn repairs(group: GroupId) -> Vec<u8> {
    record(group, REPAIR, 21)
}

/// What the missed shards of a chunk set begin with.
pub fn repairs_of(group: GroupId, set: ChunkSetId) -> Vec<u8> {
    let mut key = repairs(group);
    key.extend_from_slice(&set.0);
    key
}

pub fn repair(group: GroupId, id: RepairId) -> Vec<u8> {
    let mut key = repairs_of(group, id.set);
    key.extend_from_slice(&id.chunk.to_be_bytes());
    key.push(id.slot);
    key
}

/// The missed shard with that key.
pub fn parse_repair(key: &[u8]) -> Option<RepairId> {
    let (set, rest) = key.get(5..)?.split_first_chunk()?;
    let (chunk, slot) = rest.split_first_chunk()?;
    let [slot] = slot else {
        return None;
    };
    Some(RepairId {
        set: ChunkSetId(*set),
        chunk: u32::from_be_bytes(*chunk),
        slot: *slot,
    })
}

pub fn usage(group: GroupId) -> Vec<u8> {
    record(group, USAGE, 0)
}

pub fn table_usage(group: GroupId, table: UploadId) -> Vec<u8> {
    let mut key = record(group, TABLE_USAGE, 16);
    key.extend_from_slice(&table.0);
    key
}

/// What all uploads of a group begin with.
pub fn all_uploads(group: GroupId) -> Vec<u8> {
    record(group, UPLOAD, 0)
}

/// Bucket, lane and key of an object's key.
pub fn parse_object(key: &[u8]) -> Option<(BucketId, Lane, &str)> {
    parse_place(key.get(4..)?)
}

/// Bucket, lane and key of the note about a key that is being renamed.
pub fn parse_rename_intent(key: &[u8]) -> Option<(BucketId, Lane, &str)> {
    parse_place(key.get(5..)?)
}

fn parse_place(place: &[u8]) -> Option<(BucketId, Lane, &str)> {
    let (bucket, rest) = place.split_first_chunk()?;
    let (lane, key) = rest.split_first()?;
    let key = std::str::from_utf8(key).ok()?;
    Some((BucketId(u64::from_be_bytes(*bucket)), Lane(*lane), key))
}

/// Bucket and lane of the key of an upload or of a noncurrent version.
pub fn parse_upload_lane(key: &[u8]) -> Option<(BucketId, Lane)> {
    let (bucket, rest) = key.get(5..)?.split_first_chunk()?;
    Some((BucketId(u64::from_be_bytes(*bucket)), Lane(*rest.first()?)))
}

#[cfg(test)]
mod tests {
    use holdfast_placement::ids::{BucketId, GroupId, Lane, UploadId};
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{UPLOAD_PREFIX_LEN, lane_of, successor, unescape, upload};

    #[test]
    fn the_lane_of_a_key_never_changes() {
        let lanes = |key| lane_of(BucketId(7), key, 16).0;
        assert_eq!(
            [lanes(""), lanes("a"), lanes("a/b"), lanes("ü")],
            [15, 12, 5, 0]
        );
    }

    #[test]
    fn the_successor_follows_all_that_begin_with_the_prefix() {
        assert_eq!(successor(b"a/"), Some(b"a0".to_vec()));
        assert_eq!(successor(b"a\xFF\xFF"), Some(b"b".to_vec()));
        assert_eq!(successor(b""), None);
        assert_eq!(successor(b"\xFF"), None);
    }

    proptest! {
        #[test]
        fn upload_keys_order_by_key_then_upload(
            a in "[\0\u{1}a-c\u{FF}]{0,4}", b in "[\0\u{1}a-c\u{FF}]{0,4}",
            i in any::<[u8; 16]>(), j in any::<[u8; 16]>(),
        ) {
            let key = |key: &str, id| upload(GroupId(1), BucketId(2), Lane(3), key, UploadId(id));
            let mut out = Vec::new();
            prop_assert_eq!(unescape(&key(&a, i)[UPLOAD_PREFIX_LEN..], &mut out), Some(UploadId(i)));
            prop_assert_eq!(&out, a.as_bytes());
            prop_assert_eq!(key(&a, i).cmp(&key(&b, j)), (&a, i).cmp(&(&b, j)));
        }

        #[test]
        fn no_bytes_make_unescape_panic(bytes in any::<Vec<u8>>()) {
            let mut out = Vec::new();
            let known = unescape(&bytes, &mut out).is_some();
            prop_assert!(!known || bytes.len() >= 18);
        }
    }
}
