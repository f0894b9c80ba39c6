//! A group's log on a drive, as openraft wants it: the newest entries in memory, all of them in the drive's
//! index.
//!
//! Besides, it is where reads find out, with a few loads, whether a leader still leads: [`GroupLog::term`] moves
//! on before a vote is given to anybody else, and [`GroupLog::membership_mark`] before another membership can
//! take effect.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::pin::pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::{Stream, stream};
use openraft::entry::RaftPayload;
use openraft::errors::LeaderChanged;
use openraft::storage::{IOFlushed, LeaderBoundedStreamError, RaftLogStorage};
use openraft::{LogState, RaftLogReader};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::flusher::{Change, Done, DriveLog, Job};
use super::keys;
use super::raft_types::{Entry, LeaderId, LogId, Membership, TypeConfig, Vote};
use crate::ids::{DriveId, GroupId};
use crate::seams::{Index, IndexError, IndexView, Keyspace};

#[cfg(test)]
mod tests;

/// Entries kept in memory a replica, by the size of their values. What is not yet written is kept besides.
/// Memberships that are remembered: a change takes two.
const MEMBERSHIPS_MAX: usize = 4;

const RECENT_BYTES_MAX: usize = 1 << 20;

/// Entries read at once.
const READ_ENTRIES_MAX: u64 = 64;
const READ_BYTES_MAX: usize = 1 << 20;

/// The sets of voters that have to agree: one, or two while membership changes.
pub(crate) type Configs = Vec<BTreeSet<u64>>;

/// A group's log on a drive.
pub(crate) struct GroupLog {
    group: GroupId,
    drive: DriveId,
    inner: Mutex<Inner>,
    term: AtomicU64,
    membership_mark: AtomicU64,
    stopped: OnceLock<String>,
    stopping: Notify,
    /// Images of the state that are on their way to others.
    images: AtomicUsize,
}

#[derive(Default)]
struct Inner {
    vote: Option<Vote>,
    purged: Option<LogId>,
    /// The newest entry of a replica that was on this drive before, and was removed.
    forgotten: Option<LogId>,
    last: Option<LogId>,
    /// The index of the first entry: the one after the last purged, or with which the log began.
    first: u64,
    /// The newest entries, without a gap up to `last`.
    recent: VecDeque<Entry>,
    recent_bytes: usize,
    /// The first index that may not be in the drive's index yet.
    unwritten: u64,
    /// The newest memberships and the indices of their entries; the last one is in effect, and the one before it if a
    /// truncation takes that away.
    memberships: Vec<(u64, Configs)>,
}

/// A log that is kept for who gets an image.
pub(crate) struct Kept(Arc<GroupLog>);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.images.fetch_sub(1, Ordering::Relaxed);
    }
}

impl GroupLog {
    /// Reads where the group's log on the drive stands.
    pub fn open(group: GroupId, drive: DriveId, index: &dyn Index) -> Result<Self, IndexError> {
        let view: &dyn IndexView = index;
        let vote = view
            .get(Keyspace::Log, &keys::vote_key(group))?
            .map(|value| keys::parse_vote(&value))
            .transpose()?;
        let purged = view
            .get(Keyspace::Log, &keys::purged_key(group))?
            .map(|value| keys::parse_log_id(&value))
            .transpose()?;
        let forgotten = view
            .get(Keyspace::Log, &keys::forgotten_key(group))?
            .map(|value| keys::parse_log_id(&value))
            .transpose()?;
        let (from, to) = (keys::entry_key(group, 0), keys::entry_key(group, u64::MAX));
        let mut cursor = view.cursor(Keyspace::Log, &from, &to)?;
        cursor.seek_back(&to)?;
        let newest = match cursor.entry() {
            Some((key, value)) => Some(parse(key, value)?.log_id),
            None => None,
        };
        let last = newest.or(purged);
        Ok(Self {
            group,
            drive,
            term: AtomicU64::new(vote.map_or(0, |vote: Vote| vote.leader_id.term)),
            membership_mark: AtomicU64::new(0),
            stopped: OnceLock::new(),
            stopping: Notify::new(),
            images: AtomicUsize::new(0),
            inner: Mutex::new(Inner {
                vote,
                purged,
                forgotten,
                last,
                first: next_index(purged.as_ref()),
                unwritten: next_index(last.as_ref()),
                ..Inner::default()
            }),
        })
    }

    /// The newest entry that the drive has ever had of the group, as far as is known.
    ///
    /// A quorum may have counted on it, also where the replica was removed since and made anew: the voter is the same
    /// to those who have not heard of its removal. Who has less must not be elected with its vote, and it must not stand
    /// for election itself before it has as much again.
    pub fn newest_ever(&self) -> Option<LogId> {
        let inner = self.inner.lock();
        inner.last.max(inner.forgotten)
    }

    /// Whether the log has all that the drive has ever had of it.
    pub fn is_complete(&self) -> bool {
        let inner = self.inner.lock();
        inner.last >= inner.forgotten
    }

    /// Whether a candidate whose log ends at `last` may be voted for, by what was forgotten here.
    pub fn may_elect(&self, last: Option<LogId>) -> bool {
        last >= self.inner.lock().forgotten
    }

    pub fn group(&self) -> GroupId {
        self.group
    }

    pub fn drive(&self) -> DriveId {
        self.drive
    }

    /// The newest term the replica has voted in or heard of. It moves before the vote leaves the replica.
    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    /// Changes before another membership than the one at hand can take effect here.
    pub fn membership_mark(&self) -> u64 {
        self.membership_mark.load(Ordering::Acquire)
    }

    /// The voters of the membership in effect, with the mark that it holds for; `None` where it is not known.
    pub fn voters(&self) -> Option<(u64, Configs)> {
        let inner = self.inner.lock();
        let (_, configs) = inner.memberships.last()?;
        Some((self.membership_mark(), configs.clone()))
    }

    /// The log index of the membership in effect.
    pub fn membership_index(&self) -> Option<u64> {
        self.inner
            .lock()
            .memberships
            .last()
            .map(|(index, _)| *index)
    }

    /// Whether entries or a snapshot have ever made the replica part of its group.
    pub fn initialised(&self) -> bool {
        self.inner.lock().last.is_some()
    }

    pub fn vote(&self) -> Option<Vote> {
        self.inner.lock().vote
    }

    pub fn purged(&self) -> Option<LogId> {
        self.inner.lock().purged
    }

    pub fn last(&self) -> Option<LogId> {
        self.inner.lock().last
    }

    /// Why the replica has stopped, if it has.
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.get().map(String::as_str)
    }

    /// From now on nothing may be read through the replica, and its voice does not count. The first reason
    /// stays.
    pub fn stop(&self, reason: &str) {
        let _first = self.stopped.set(reason.to_owned());
        self.stopping.notify_waiters();
    }

    /// Has the log be kept for who gets an image of the state, until what is given is dropped.
    pub fn keep(self: &Arc<Self>) -> Kept {
        self.images.fetch_add(1, Ordering::Relaxed);
        Kept(self.clone())
    }

    /// Whether it is.
    pub fn is_kept(&self) -> bool {
        self.images.load(Ordering::Relaxed) > 0
    }

    /// Completes when the replica has stopped; gives why.
    pub async fn stopping(&self) -> &str {
        loop {
            let mut stopping = pin!(self.stopping.notified());
            stopping.as_mut().enable();
            if let Some(reason) = self.stopped() {
                return reason;
            }
            stopping.await;
        }
    }

    /// Takes note of a membership that came from elsewhere than an append: the state, or a snapshot.
    pub fn know_membership(&self, index: u64, membership: &Membership) {
        let mut inner = self.inner.lock();
        let newest = inner.memberships.last();
        if newest.is_none_or(|(known, _)| *known <= index) {
            inner.note_membership(index, membership);
            self.membership_mark.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Finds the membership entries after `applied`, at start-up.
    pub fn scan_membership(
        &self,
        applied: Option<u64>,
        index: &dyn Index,
    ) -> Result<(), IndexError> {
        let (mut from, to) = {
            let inner = self.inner.lock();
            let from = applied.map_or(0, |applied| applied + 1);
            (from.max(inner.first), next_index(inner.last.as_ref()))
        };
        while from < to {
            let until = to.min(from + READ_ENTRIES_MAX);
            for entry in self.read(from, until, usize::MAX, index)? {
                if let Some(membership) = entry.payload.get_membership() {
                    self.know_membership(entry.log_id.index(), &membership);
                }
            }
            from = until;
        }
        Ok(())
    }

    /// The flusher has written the entries up to `last`.
    pub(super) fn appended(&self, last: u64) {
        let mut inner = self.inner.lock();
        inner.unwritten = inner.unwritten.max(last + 1);
        inner.forget_old();
    }

    /// The flusher has dropped the entries `from..`.
    pub(super) fn truncated(&self, from: u64) {
        let mut inner = self.inner.lock();
        inner.unwritten = inner.unwritten.min(from);
    }

    /// The entries `from..to` that the log has, as many as fit into `bytes_max` but at least one.
    fn read(
        &self,
        from: u64,
        to: u64,
        bytes_max: usize,
        index: &dyn Index,
    ) -> Result<Vec<Entry>, IndexError> {
        let (mut entries, missing) = {
            let inner = self.inner.lock();
            let from = from.max(inner.first);
            let to = to.min(next_index(inner.last.as_ref()));
            if from >= to {
                return Ok(Vec::new());
            }
            let recent = inner
                .recent
                .front()
                .map_or(to, |entry| entry.log_id.index());
            if from < recent {
                (Vec::new(), from..to.min(recent))
            } else {
                let skip = (from - recent) as usize;
                let mut bytes = 0;
                let entries = inner
                    .recent
                    .iter()
                    .skip(skip)
                    .take((to - from) as usize)
                    .take_while(|entry| {
                        let fits = bytes < bytes_max;
                        bytes += keys::entry_bytes(entry);
                        fits
                    })
                    .cloned()
                    .collect();
                (entries, 0..0)
            }
        };
        if !missing.is_empty() {
            entries = self.read_index(missing.clone(), bytes_max, index)?;
            let complete = entries.last().map(|last| last.log_id.index() + 1) == Some(missing.end);
            if complete && missing.end < to && bytes_max == usize::MAX {
                entries.extend(self.read(missing.end, to, bytes_max, index)?);
            }
        }
        Ok(entries)
    }

    /// Entries that are no longer in memory.
    fn read_index(
        &self,
        range: std::ops::Range<u64>,
        bytes_max: usize,
        index: &dyn Index,
    ) -> Result<Vec<Entry>, IndexError> {
        let (from, to) = (
            keys::entry_key(self.group, range.start),
            keys::entry_key(self.group, range.end),
        );
        let view: &dyn IndexView = index;
        let mut cursor = view.cursor(Keyspace::Log, &from, &to)?;
        cursor.seek(&from)?;
        let mut entries: Vec<Entry> =
            Vec::with_capacity((range.end - range.start).min(1024) as usize);
        let mut bytes = 0;
        while let Some((key, value)) = cursor.entry() {
            if bytes >= bytes_max {
                break;
            }
            bytes += value.len();
            let entry = parse(key, value)?;
            let expected = entries
                .last()
                .map_or(entry.log_id.index(), |last| last.log_id.index() + 1);
            if entry.log_id.index() != expected {
                return Err(self.gap(expected));
            }
            entries.push(entry);
            cursor.next()?;
        }
        // Only a purge that ran meanwhile may have taken the first ones.
        let first = entries
            .first()
            .map_or(range.end, |first| first.log_id.index());
        if first > range.start && self.inner.lock().first < first {
            return Err(self.gap(range.start));
        }
        Ok(entries)
    }

    fn gap(&self, index: u64) -> IndexError {
        IndexError::Corrupt(format!(
            "{} on {} has lost log entry {index}",
            self.group, self.drive
        ))
    }
}

impl Inner {
    fn note_membership(&mut self, index: u64, membership: &Membership) {
        if self.memberships.len() == MEMBERSHIPS_MAX {
            self.memberships.remove(0);
        }
        let configs = membership.get_joint_config().clone();
        self.memberships.push((index, configs));
    }

    fn push(&mut self, entry: &Entry) {
        if self.last.is_none() {
            self.first = entry.log_id.index();
        }
        self.last = Some(entry.log_id);
        self.recent_bytes += keys::entry_bytes(entry);
        self.recent.push_back(entry.clone());
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.recent.pop_front() {
            self.recent_bytes -= keys::entry_bytes(&entry);
        }
    }

    fn forget_old(&mut self) {
        while self.recent_bytes > RECENT_BYTES_MAX
            && self
                .recent
                .front()
                .is_some_and(|entry| entry.log_id.index() < self.unwritten)
        {
            self.pop_front();
        }
    }
}

fn next_index(id: Option<&LogId>) -> u64 {
    id.map_or(0, |id| id.index() + 1)
}

fn parse(key: &[u8], value: &[u8]) -> Result<Entry, IndexError> {
    let index = keys::entry_index(key)
        .ok_or_else(|| IndexError::Corrupt(format!("{} is no log key", hex::encode(key))))?;
    keys::parse_entry(index, value)
}

/// openraft's handle of a group's log.
#[derive(Clone)]
pub(crate) struct LogStore {
    pub log: Arc<GroupLog>,
    pub drive: Arc<DriveLog>,
}

impl LogStore {
    fn read(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<Entry>, io::Error> {
        self.log
            .read(from, to, bytes_max, self.drive.index().as_ref())
            .map_err(io::Error::other)
    }

    async fn write(&self, change: Change) -> Result<(), io::Error> {
        self.drive
            .write(&self.log, change)
            .await
            .map_err(io::Error::other)
    }
}

/// What is left of a range that is read bit by bit.
struct Reading {
    store: LogStore,
    next: u64,
    to: u64,
    at_hand: std::vec::IntoIter<Entry>,
}

impl Reading {
    fn new(store: &LogStore, range: &impl RangeBounds<u64>) -> Self {
        let (next, to) = bounds(range);
        Self {
            store: store.clone(),
            next,
            to,
            at_hand: Vec::new().into_iter(),
        }
    }

    /// The next entry; `None` at the end of the range or of the log.
    fn next(&mut self) -> Result<Option<Entry>, io::Error> {
        if self.at_hand.len() == 0 && self.next < self.to {
            let until = self.to.min(self.next.saturating_add(READ_ENTRIES_MAX));
            let entries = self.store.read(self.next, until, READ_BYTES_MAX)?;
            match entries.last() {
                Some(last) => self.next = last.log_id.index() + 1,
                None => self.next = self.to,
            }
            self.at_hand = entries.into_iter();
        }
        Ok(self.at_hand.next())
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn leader_bounded_stream<RB>(
        &mut self,
        leader: LeaderId,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, LeaderBoundedStreamError<TypeConfig>>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let reading = Some(Reading::new(self, &range));
        // The vote is checked after each read: what was read under another leader may have been truncated.
        Box::pin(stream::unfold(reading, move |reading| async move {
            let mut reading = reading?;
            let entry = reading.next();
            let vote = reading.store.log.vote();
            if !vote.is_some_and(|vote| vote.leader_id == leader && vote.committed) {
                let changed = LeaderChanged::new(leader, vote);
                return Some((Err(LeaderBoundedStreamError::LeaderChanged(changed)), None));
            }
            match entry {
                Ok(Some(entry)) => Some((Ok(entry), Some(reading))),
                Ok(None) => None,
                Err(error) => Some((Err(LeaderBoundedStreamError::IoError(error)), None)),
            }
        }))
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let mut reading = Reading::new(self, &range);
        stream::iter(std::iter::from_fn(move || reading.next().transpose()))
    }

    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (from, to) = bounds(&range);
        self.read(from, to, usize::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.log.vote())
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(
            start,
            end.min(start.saturating_add(READ_ENTRIES_MAX)),
            READ_BYTES_MAX,
        )
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let inner = self.log.inner.lock();
        Ok(LogState {
            last_purged_log_id: inner.purged,
            last_log_id: inner.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.log.inner.lock().vote = Some(*vote);
        self.log
            .term
            .fetch_max(vote.leader_id.term, Ordering::AcqRel);
        self.write(Change::Vote(*vote)).await
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        {
            let mut inner = self.log.inner.lock();
            for entry in &entries {
                inner.push(entry);
                if let Some(membership) = entry.payload.get_membership() {
                    inner.note_membership(entry.log_id.index(), &membership);
                    self.log.membership_mark.fetch_add(1, Ordering::AcqRel);
                }
            }
        }
        self.drive.submit(Job {
            log: self.log.clone(),
            change: Change::Append(entries),
            done: Done::Appended(callback),
        });
        Ok(())
    }

    /// Durable when it returns: a state that is ahead of the log (it is written without a flush, and a killed
    /// process loses none of it) must never meet entries that were to be replaced.
    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = next_index(last_log_id.as_ref());
        {
            let mut inner = self.log.inner.lock();
            while inner
                .recent
                .back()
                .is_some_and(|entry| entry.log_id.index() >= from)
            {
                if let Some(entry) = inner.recent.pop_back() {
                    inner.recent_bytes -= keys::entry_bytes(&entry);
                }
            }
            if inner.last.as_ref().is_some_and(|last| last.index() >= from) {
                inner.last = last_log_id;
            }
            let known = inner.memberships.len();
            inner.memberships.retain(|(index, _)| *index < from);
            if inner.memberships.len() < known {
                self.log.membership_mark.fetch_add(1, Ordering::AcqRel);
            }
        }
        self.write(Change::Truncate { from }).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let from = {
            let mut inner = self.log.inner.lock();
            let from = inner.first;
            if upto.index() < from {
                return Ok(());
            }
            inner.purged = Some(upto);
            inner.first = upto.index() + 1;
            if inner
                .last
                .as_ref()
                .is_none_or(|last| last.index() <= upto.index())
            {
                inner.last = Some(upto);
            }
            while inner
                .recent
                .front()
                .is_some_and(|entry| entry.log_id.index() <= upto.index())
            {
                inner.pop_front();
            }
            from
        };
        self.drive.submit(Job {
            log: self.log.clone(),
            change: Change::Purge { from, upto },
            done: Done::Nobody,
        });
        Ok(())
    }
}

/// The groups that the drive hosts, and whether each is still wanted (a vote alone may be left of a replica).
pub(crate) fn hosted_groups(index: &dyn Index) -> Result<Vec<GroupId>, IndexError> {
    let view: &dyn IndexView = index;
    let end = Bytes::from_static(&[0xFF; 14]);
    let mut cursor = view.cursor(Keyspace::Log, &[], &end)?;
    cursor.seek(&[])?;
    let mut groups = Vec::new();
    while let Some((key, _)) = cursor.entry() {
        let (group, hosted) = keys::group_of(key)
            .ok_or_else(|| IndexError::Corrupt(format!("{} is no log key", hex::encode(key))))?;
        if hosted {
            groups.push(group);
        }
        match group.0.checked_add(1) {
            Some(next) => cursor.seek(&next.to_be_bytes())?,
            None => break,
        }
    }
    Ok(groups)
}
