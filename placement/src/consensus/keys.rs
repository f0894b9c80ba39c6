//! Persisted keys and values of the consensus module. All integers are big endian; every value begins with a
//! version byte (now 1). Ids are never reused.
//!
//! In [`Keyspace::Log`](crate::seams::Keyspace::Log) of a drive's log index:
//!
//! | key | value |
//! |---|---|
//! | `group u32 \| 0x00` | hosted: the drive has a replica of the group: `1` |
//! | `group u32 \| 0x01` | vote: `1 \| term u64 \| voted for u64 \| committed u8` |
//! | `group u32 \| 0x02` | purged: `1 \| term u64 \| index u64`, the last log entry that was dropped |
//! | `group u32 \| 0x03` | forgotten: `1 \| term u64 \| index u64`, the newest entry that a replica had which was removed |
//! | `group u32 \| 0x10 \| index u64` | entry: `1 \| kind u8 \| term u64 \| payload`; kinds: 0 blank, 1 command (payload: its bytes), 2 membership (payload: [`Members`] as postcard) |
//!
//! The vote outlives the replica: a drive that gets the group again must not vote twice in one term. So does the newest
//! entry that it had: others have counted what it had as written there, so it must elect nobody who has less.
//!
//! In [`Keyspace::Records`](crate::seams::Keyspace::Records) of a drive's state index:
//!
//! | key | value |
//! |---|---|
//! | `group u32 \| 0xFF 0x01` | applied: `1 \| term u64 \| index u64`, written in the batch of the entry itself |
//! | `group u32 \| 0xFF 0x02` | membership: `1 \| logged u8 \| term u64 \| index u64 \| Members as postcard`; logged is 0 where it came from no log entry |
//! | `group u32 \| 0xFF 0x03` | installing: `1 \| term u64 \| index u64 \| membership value`: a complete image is staged and replaces the state; present only meanwhile |
//! | `0xFFFFFFFF \| key` | staged image, in each of the state's key spaces: `key` as it will be |

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use openraft::{EmptyNode, EntryPayload};
use serde::{Deserialize, Serialize};

use super::raft_types::{
    Entry, LogId, Membership, Opaque, StoredMembership, Vote, log_id, term_of,
};
use crate::ids::GroupId;
use crate::seams::IndexError;

const VERSION: u8 = 1;

const HOSTED: u8 = 0x00;
const VOTE: u8 = 0x01;
const PURGED: u8 = 0x02;
const FORGOTTEN: u8 = 0x03;
const ENTRY: u8 = 0x10;

const APPLIED: u8 = 0x01;
const MEMBERSHIP: u8 = 0x02;
const INSTALLING: u8 = 0x03;

const BLANK: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERS: u8 = 2;

/// Bytes of an entry's key, and of its value in front of the payload.
pub(crate) const ENTRY_KEY_BYTES: usize = 13;
pub(crate) const ENTRY_HEAD_BYTES: usize = 10;

/// Stands in front of the keys of a staged image; no group has it.
const STAGED: [u8; 4] = [0xFF; 4];

/// Who belongs to a group, as persisted.
#[derive(Serialize, Deserialize)]
struct Members {
    /// One set of voters, or two while they change.
    configs: Vec<BTreeSet<u64>>,
    /// Voters and learners.
    nodes: BTreeSet<u64>,
}

fn log_key(group: GroupId, kind: u8) -> Bytes {
    let mut key = [0; 5];
    key[..4].copy_from_slice(&group.0.to_be_bytes());
    key[4] = kind;
    Bytes::copy_from_slice(&key)
}

pub(crate) fn hosted_key(group: GroupId) -> Bytes {
    log_key(group, HOSTED)
}

pub(crate) fn vote_key(group: GroupId) -> Bytes {
    log_key(group, VOTE)
}

pub(crate) fn purged_key(group: GroupId) -> Bytes {
    log_key(group, PURGED)
}

pub(crate) fn forgotten_key(group: GroupId) -> Bytes {
    log_key(group, FORGOTTEN)
}

pub(crate) fn entry_key(group: GroupId, index: u64) -> [u8; ENTRY_KEY_BYTES] {
    let mut key = [0; ENTRY_KEY_BYTES];
    key[..4].copy_from_slice(&group.0.to_be_bytes());
    key[4] = ENTRY;
    key[5..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The index in an entry's key.
pub(crate) fn entry_index(key: &[u8]) -> Option<u64> {
    if key.len() != ENTRY_KEY_BYTES || key[4] != ENTRY {
        return None;
    }
    Some(u64::from_be_bytes(key[5..].try_into().ok()?))
}

/// The group of a log key, and whether the key is its hosted record.
pub(crate) fn group_of(key: &[u8]) -> Option<(GroupId, bool)> {
    let group = u32::from_be_bytes(key.get(..4)?.try_into().ok()?);
    Some((GroupId(group), key.get(4) == Some(&HOSTED)))
}

pub(crate) fn hosted_value() -> Bytes {
    Bytes::from_static(&[VERSION])
}

pub(crate) fn vote_value(vote: &Vote) -> Bytes {
    let mut value = BytesMut::with_capacity(18);
    value.put_u8(VERSION);
    value.put_u64(vote.leader_id.term);
    value.put_u64(vote.leader_id.voted_for);
    value.put_u8(u8::from(vote.committed));
    value.freeze()
}

pub(crate) fn parse_vote(value: &[u8]) -> Result<Vote, IndexError> {
    let mut reader = Reader::new(value, "vote")?;
    let (term, voted_for, committed) = (reader.u64()?, reader.u64()?, reader.u8()?);
    Ok(if committed == 1 {
        Vote::new_committed(term, voted_for)
    } else {
        Vote::new(term, voted_for)
    })
}

pub(crate) fn log_id_value(id: &LogId) -> Bytes {
    let mut value = BytesMut::with_capacity(17);
    value.put_u8(VERSION);
    value.put_u64(term_of(id));
    value.put_u64(id.index());
    value.freeze()
}

pub(crate) fn parse_log_id(value: &[u8]) -> Result<LogId, IndexError> {
    let mut reader = Reader::new(value, "log id")?;
    Ok(log_id(reader.u64()?, reader.u64()?))
}

/// Appends an entry's value to `to`.
pub(crate) fn put_entry(entry: &Entry, to: &mut BytesMut) {
    to.put_u8(VERSION);
    match &entry.payload {
        EntryPayload::Blank => {
            to.put_u8(BLANK);
            to.put_u64(term_of(&entry.log_id));
        }
        EntryPayload::Normal(command) => {
            to.put_u8(COMMAND);
            to.put_u64(term_of(&entry.log_id));
            to.put_slice(&command.0);
        }
        EntryPayload::Membership(membership) => {
            to.put_u8(MEMBERS);
            to.put_u64(term_of(&entry.log_id));
            put_members(membership, to);
        }
    }
}

/// Bytes that the value of `entry` takes, nearly.
pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    ENTRY_HEAD_BYTES
        + match &entry.payload {
            EntryPayload::Blank => 0,
            EntryPayload::Normal(command) => command.0.len(),
            EntryPayload::Membership(_) => 128,
        }
}

pub(crate) fn parse_entry(index: u64, value: &[u8]) -> Result<Entry, IndexError> {
    let mut reader = Reader::new(value, "log entry")?;
    let (kind, term) = (reader.u8()?, reader.u64()?);
    let payload = match kind {
        BLANK => EntryPayload::Blank,
        COMMAND => EntryPayload::Normal(Opaque(Bytes::copy_from_slice(reader.rest))),
        MEMBERS => EntryPayload::Membership(parse_members(reader.rest)?),
        other => {
            return Err(IndexError::Corrupt(format!("log entry of kind {other}")));
        }
    };
    Ok(Entry {
        log_id: log_id(term, index),
        payload,
    })
}

fn put_members(membership: &Membership, to: &mut BytesMut) {
    let members = Members {
        configs: membership.get_joint_config().clone(),
        nodes: membership.nodes().map(|(id, _)| *id).collect(),
    };
    let encoded = postcard::to_allocvec(&members).expect("sets of numbers can be encoded");
    to.put_slice(&encoded);
}

fn parse_members(bytes: &[u8]) -> Result<Membership, IndexError> {
    let corrupt = |reason: String| IndexError::Corrupt(format!("membership: {reason}"));
    let members: Members =
        postcard::from_bytes(bytes).map_err(|error| corrupt(error.to_string()))?;
    if members.configs.is_empty() && members.nodes.is_empty() {
        return Ok(Membership::default());
    }
    let nodes: BTreeMap<u64, EmptyNode> = members
        .nodes
        .into_iter()
        .map(|id| (id, EmptyNode::new()))
        .collect();
    Membership::new(members.configs, nodes).map_err(|error| corrupt(error.to_string()))
}

fn state_key(group: GroupId, kind: u8) -> Bytes {
    let mut key = [0xFF; 6];
    key[..4].copy_from_slice(&group.0.to_be_bytes());
    key[5] = kind;
    Bytes::copy_from_slice(&key)
}

pub(crate) fn applied_key(group: GroupId) -> Bytes {
    state_key(group, APPLIED)
}

pub(crate) fn membership_key(group: GroupId) -> Bytes {
    state_key(group, MEMBERSHIP)
}

pub(crate) fn installing_key(group: GroupId) -> Bytes {
    state_key(group, INSTALLING)
}

pub(crate) fn membership_value(membership: &StoredMembership) -> Bytes {
    let mut value = BytesMut::with_capacity(64);
    value.put_u8(VERSION);
    value.put_u8(u8::from(membership.log_id().is_some()));
    value.put_u64(membership.log_id().as_ref().map_or(0, term_of));
    value.put_u64(membership.log_id().as_ref().map_or(0, |id| id.index()));
    put_members(membership.membership(), &mut value);
    value.freeze()
}

pub(crate) fn parse_membership(value: &[u8]) -> Result<StoredMembership, IndexError> {
    let mut reader = Reader::new(value, "membership")?;
    let (logged, term, index) = (reader.u8()?, reader.u64()?, reader.u64()?);
    let membership = parse_members(reader.rest)?;
    Ok(StoredMembership::new(
        (logged == 1).then(|| log_id(term, index)),
        membership,
    ))
}

pub(crate) fn installing_value(applied: &LogId, membership: &StoredMembership) -> Bytes {
    let mut value = BytesMut::with_capacity(80);
    value.put_slice(&log_id_value(applied));
    value.put_slice(&membership_value(membership));
    value.freeze()
}

pub(crate) fn parse_installing(value: &[u8]) -> Result<(LogId, StoredMembership), IndexError> {
    let (head, rest) = value
        .split_at_checked(17)
        .ok_or_else(|| IndexError::Corrupt("installing record is too short".into()))?;
    Ok((parse_log_id(head)?, parse_membership(rest)?))
}

/// The keys of a group's state machine in a key space: `from..to`, without the consensus module's own.
pub(crate) fn state_range(group: GroupId, records: bool) -> (Bytes, Bytes) {
    let from = Bytes::copy_from_slice(&group.0.to_be_bytes());
    let to = if records {
        let mut to = [0xFF; 5];
        to[..4].copy_from_slice(&group.0.to_be_bytes());
        Bytes::copy_from_slice(&to)
    } else {
        Bytes::copy_from_slice(&group.0.saturating_add(1).to_be_bytes())
    };
    (from, to)
}

/// `key` as it is staged.
pub(crate) fn staged_key(key: &[u8]) -> Bytes {
    let mut staged = BytesMut::with_capacity(4 + key.len());
    staged.put_slice(&STAGED);
    staged.put_slice(key);
    staged.freeze()
}

/// The staged keys of a group: `from..to`.
pub(crate) fn staged_range(group: GroupId) -> (Bytes, Bytes) {
    (
        staged_key(&group.0.to_be_bytes()),
        staged_key(&group.0.saturating_add(1).to_be_bytes()),
    )
}

/// The key that was staged.
pub(crate) fn unstaged(key: &[u8]) -> &[u8] {
    key.get(STAGED.len()..).unwrap_or_default()
}

struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    fn new(value: &'a [u8], what: &'static str) -> Result<Self, IndexError> {
        let mut reader = Self { rest: value, what };
        match reader.u8()? {
            VERSION => Ok(reader),
            other => Err(IndexError::Corrupt(format!("{what} of version {other}"))),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], IndexError> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or_else(|| IndexError::Corrupt(format!("{} is too short", self.what)))?;
        self.rest = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, IndexError> {
        Ok(self.take::<1>()?[0])
    }

    fn u64(&mut self) -> Result<u64, IndexError> {
        Ok(u64::from_be_bytes(self.take()?))
    }
}
