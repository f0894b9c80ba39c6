//! The index of shards, kept so that it never leads the extents and never forgets a death.
//!
//! All changes go through [`Ledger::change`], one after the other, each as one atomic batch, not synced. After a crash
//! the index is as it was after some batch, at or after the last one that was synced. What must hold of *each* batch:
//!
//! > A whole record in an extent at or past its high-water mark is (a) what the index says of its shard, or (b) under
//! > a tombstone, or (c) of a put that was not acknowledged before the batch.
//!
//! So a rescan from the high-water mark that skips tombstones finds what lived, and nothing that was dead: records of
//! kind (c) may come back or not. Records before the mark are never looked at again. What makes a record dead (delete,
//! a newer record of the same shard, a move by compaction, a put that was given up) therefore puts a tombstone for its
//! *place* into the same batch, unless the mark has passed it. Places are never used twice, so a tombstone can kill
//! nothing else; it is dropped in the batch that moves the mark past it. A delete waits until its batch is synced.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_placement::seams::{Batch, Durability, Index, IndexError, Keyspace, flush};
use parking_lot::Mutex;

use super::ShardId;
use super::index_entry::{
    ExtentEntry, NEXT_EXTENT_KEY, Phase, ShardBatch, ShardEntry, bad_range, decode_extent_key,
    decode_id, decode_next_extent, decode_tombstone_key, extent_range, shard_key, tombstone_range,
};
use super::record::{Location, Nonce};
use super::space::Space;

/// An extent as the index knows it, and the tombstones in it.
#[derive(Clone)]
pub(super) struct ExtentState {
    pub entry: ExtentEntry,
    pub tombstones: BTreeSet<u64>,
    /// Its file was not there when the store was opened.
    pub missing: bool,
}

#[derive(Default)]
struct State {
    extents: BTreeMap<u64, ExtentState>,
    bad: HashSet<ShardId>,
    next_extent: u64,
}

pub(super) struct Ledger {
    index: Arc<dyn Index>,
    space: Arc<Mutex<Space>>,
    state: Mutex<State>,
    /// Batches written, and how many of them are known to be synced.
    written: AtomicU64,
    synced: AtomicU64,
    syncing: tokio::sync::Mutex<()>,
    sync_inline: bool,
}

impl Ledger {
    /// Reads what the index knows of extents.
    pub fn load(
        index: Arc<dyn Index>,
        space: Arc<Mutex<Space>>,
        sync_inline: bool,
    ) -> Result<Self, IndexError> {
        let mut state = State::default();
        each(&*index, extent_range(), |key, value| {
            let (Some(number), Some(entry)) = (decode_extent_key(key), ExtentEntry::decode(value))
            else {
                return Err(IndexError::Corrupt("an extent's entry".to_owned()));
            };
            state.extents.insert(
                number,
                ExtentState {
                    entry,
                    tombstones: BTreeSet::new(),
                    missing: false,
                },
            );
            Ok(())
        })?;
        each(&*index, tombstone_range(), |key, _| {
            let place = decode_tombstone_key(key)
                .ok_or_else(|| IndexError::Corrupt("a tombstone".to_owned()))?;
            if let Some(extent) = state.extents.get_mut(&place.extent) {
                extent.tombstones.insert(place.offset);
            }
            Ok(())
        })?;
        each(&*index, bad_range(), |key, _| {
            state.bad.extend(decode_id(key));
            Ok(())
        })?;
        let next = index.get(Keyspace::Shards, &NEXT_EXTENT_KEY)?;
        let next = next.and_then(|value| decode_next_extent(&value));
        let last = state.extents.keys().next_back();
        state.next_extent = next.unwrap_or(1).max(last.map_or(1, |last| last + 1));
        Ok(Self {
            index,
            space,
            state: Mutex::new(state),
            // What is found may have been written by a process that was killed, and not be durable.
            written: AtomicU64::new(1),
            synced: AtomicU64::new(0),
            syncing: tokio::sync::Mutex::new(()),
            sync_inline,
        })
    }

    /// What the index says of a shard.
    pub fn get(&self, id: ShardId) -> Result<Option<ShardEntry>, IndexError> {
        read_entry(&*self.index, id)
    }

    pub fn index(&self) -> &dyn Index {
        &*self.index
    }

    pub fn is_bad(&self, id: ShardId) -> bool {
        self.state.lock().bad.contains(&id)
    }

    /// Shards that were found to be bad, in no order.
    pub fn bad(&self) -> Vec<ShardId> {
        self.state.lock().bad.iter().copied().collect()
    }

    /// Whether a put of the same content has nothing to do.
    pub fn is_sound(&self, entry: &ShardEntry) -> bool {
        self.state.lock().is_sound(entry)
    }

    pub fn extents(&self) -> Vec<(u64, ExtentEntry)> {
        let state = self.state.lock();
        let extents = state.extents.iter();
        extents
            .map(|(number, extent)| (*number, extent.entry))
            .collect()
    }

    pub fn extent(&self, number: u64) -> Option<ExtentState> {
        self.state.lock().extents.get(&number).cloned()
    }

    /// Files of extents up to this number exist.
    pub fn numbers_used(&self, last: u64) {
        let mut state = self.state.lock();
        state.next_extent = state.next_extent.max(last + 1);
    }

    pub fn mark_missing(&self, number: u64) {
        if let Some(extent) = self.state.lock().extents.get_mut(&number) {
            extent.missing = true;
        }
    }

    /// A number that no extent had.
    pub fn next_number(&self) -> u64 {
        let mut state = self.state.lock();
        state.next_extent += 1;
        state.next_extent - 1
    }

    /// Makes one change. `settled` are places in flight about which `edit` decides.
    pub fn change<T>(
        &self,
        settled: &HashSet<Location>,
        edit: impl FnOnce(&mut Change<'_>) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        let mut state = self.state.lock();
        let mut change = Change {
            index: &*self.index,
            space: &self.space,
            state: &state,
            batch: Batch::new(),
            extents: BTreeMap::new(),
            removed: Vec::new(),
            shards: HashMap::new(),
            bad: HashMap::new(),
            dead: Vec::new(),
        };
        let value = edit(&mut change)?;
        let abandoned = self.space.lock().take_abandoned();
        change.dead.extend(&abandoned);
        change.bury(settled);
        let Change {
            batch,
            extents,
            removed,
            bad,
            ..
        } = change;
        if !batch.is_empty() {
            if let Err(error) = self.index.write(batch, Durability::Unsynced) {
                self.space.lock().return_abandoned(abandoned);
                return Err(error);
            }
            self.written.fetch_add(1, Ordering::Release);
        }
        state.extents.extend(extents);
        for number in removed {
            state.extents.remove(&number);
        }
        for (id, is_bad) in bad {
            match is_bad {
                true => state.bad.insert(id),
                false => state.bad.remove(&id),
            };
        }
        self.space.lock().settle(settled);
        Ok(value)
    }

    /// Returns when all changes made so far are durable. Callers at the same time share one sync.
    pub async fn sync(&self) -> Result<(), IndexError> {
        let target = self.written.load(Ordering::Acquire);
        if self.synced.load(Ordering::Acquire) >= target {
            return Ok(());
        }
        let _turn = self.syncing.lock().await;
        if self.synced.load(Ordering::Acquire) >= target {
            return Ok(());
        }
        let covered = self.written.load(Ordering::Acquire);
        match self.sync_inline {
            true => self.index.sync()?,
            false => flush(&self.index).await?,
        }
        self.synced.fetch_max(covered, Ordering::AcqRel);
        Ok(())
    }
}

impl State {
    fn is_sound(&self, entry: &ShardEntry) -> bool {
        let extent = self.extents.get(&entry.location.extent);
        extent.is_some_and(|extent| !extent.missing) && !self.bad.contains(&entry.shard.id)
    }
}

fn read_entry(index: &dyn Index, id: ShardId) -> Result<Option<ShardEntry>, IndexError> {
    let Some(value) = index.get(Keyspace::Shards, &shard_key(id))? else {
        return Ok(None);
    };
    match ShardEntry::decode(id, &value) {
        Some(entry) => Ok(Some(entry)),
        None => Err(IndexError::Corrupt(format!("the entry of shard {id}"))),
    }
}

/// Calls `entry` with each entry of a range.
pub(super) fn each(
    index: &dyn Index,
    (from, to): ([u8; 1], [u8; 1]),
    mut entry: impl FnMut(&[u8], &[u8]) -> Result<(), IndexError>,
) -> Result<(), IndexError> {
    let mut cursor = index.scan(Keyspace::Shards, &from, &to)?;
    cursor.seek(&from)?;
    while let Some((key, value)) = cursor.entry() {
        entry(key, value)?;
        cursor.next()?;
    }
    Ok(())
}

/// A change that is being put together: reads see what it has changed so far.
pub(super) struct Change<'a> {
    index: &'a dyn Index,
    space: &'a Mutex<Space>,
    state: &'a State,
    batch: Batch,
    extents: BTreeMap<u64, ExtentState>,
    removed: Vec<u64>,
    shards: HashMap<ShardId, Option<ShardEntry>>,
    bad: HashMap<ShardId, bool>,
    /// Places of records that die with this change.
    dead: Vec<Location>,
}

impl Change<'_> {
    /// What the index says of a shard.
    pub fn get(&mut self, id: ShardId) -> Result<Option<ShardEntry>, IndexError> {
        match self.shards.entry(id) {
            Entry::Occupied(known) => Ok(known.get().clone()),
            Entry::Vacant(unknown) => Ok(unknown.insert(read_entry(self.index, id)?).clone()),
        }
    }

    /// Whether a put of the same content has nothing to do.
    pub fn is_sound(&self, entry: &ShardEntry) -> bool {
        let number = entry.location.extent;
        let extent = self.extents.get(&number);
        let extent = extent.or_else(|| self.state.extents.get(&number));
        extent.is_some_and(|extent| !extent.missing) && !self.is_bad(entry.shard.id)
    }

    fn is_bad(&self, id: ShardId) -> bool {
        let known = self.bad.get(&id).copied();
        known.unwrap_or_else(|| self.state.bad.contains(&id))
    }

    /// Refers the shard to a new record; the one before dies.
    pub fn put(&mut self, entry: ShardEntry) -> Result<(), IndexError> {
        if let Some(before) = self.get(entry.shard.id)? {
            self.bury_record(&before);
        }
        if let Some(extent) = self.extent(entry.location.extent) {
            extent.entry.live_bytes += entry.shard.record_len();
        }
        self.batch.put_shard(&entry);
        self.shards.insert(entry.shard.id, Some(entry));
        Ok(())
    }

    /// Forgets a shard; its record dies, and so do copies that are being made of it. Whether it was there.
    pub fn delete(&mut self, id: ShardId) -> Result<bool, IndexError> {
        self.dead.extend(self.space.lock().copies_of(id));
        let Some(before) = self.get(id)? else {
            return Ok(false);
        };
        self.bury_record(&before);
        self.batch.delete_shard(id);
        self.shards.insert(id, None);
        self.set_bad(id, false);
        Ok(true)
    }

    /// A record to which the index never referred is not needed.
    pub fn discard(&mut self, location: Location) {
        self.dead.push(location);
    }

    /// Remembers whether a shard was found to be bad.
    pub fn set_bad(&mut self, id: ShardId, is_bad: bool) {
        if self.is_bad(id) == is_bad {
            return;
        }
        match is_bad {
            true => self.batch.put_bad(id),
            false => self.batch.delete_bad(id),
        }
        self.bad.insert(id, is_bad);
    }

    /// Begins to keep account of a new extent.
    pub fn add_extent(&mut self, number: u64, nonce: Nonce, high_water: u64) {
        let entry = ExtentEntry {
            phase: Phase::Open,
            nonce,
            high_water,
            live_bytes: 0,
        };
        let state = ExtentState {
            entry,
            tombstones: BTreeSet::new(),
            missing: false,
        };
        self.extents.insert(number, state);
        self.batch.put_next_extent(self.state.next_extent);
    }

    /// An extent to which the index may refer, to change it.
    pub fn extent(&mut self, number: u64) -> Option<&mut ExtentState> {
        if !self.extents.contains_key(&number) {
            let state = self.state.extents.get(&number)?.clone();
            self.extents.insert(number, state);
        }
        self.extents.get_mut(&number)
    }

    /// The extent's file is gone for good.
    pub fn remove_extent(&mut self, number: u64) {
        if let Some(extent) = self.state.extents.get(&number) {
            for offset in &extent.tombstones {
                self.batch.delete_tombstone(Location {
                    extent: number,
                    offset: *offset,
                });
            }
        }
        self.batch.delete_extent(number);
        self.removed.push(number);
    }

    fn bury_record(&mut self, entry: &ShardEntry) {
        self.dead.push(entry.location);
        if let Some(extent) = self.extent(entry.location.extent) {
            let len = entry.shard.record_len();
            debug_assert!(extent.entry.live_bytes >= len);
            extent.entry.live_bytes = extent.entry.live_bytes.saturating_sub(len);
        }
    }

    /// Moves the high-water marks of the extents concerned, and puts tombstones where dead records lie past them.
    fn bury(&mut self, settled: &HashSet<Location>) {
        let dead = std::mem::take(&mut self.dead);
        for location in dead.iter().chain(settled) {
            self.extent(location.extent);
        }
        let space = self.space.lock();
        for (number, extent) in &mut self.extents {
            if extent.entry.phase == Phase::Open
                && let Some(high_water) = space.high_water(*number, settled)
            {
                debug_assert!(extent.entry.high_water <= high_water);
                extent.entry.high_water = high_water;
            }
            // Only open extents are ever rescanned.
            let past = match extent.entry.phase {
                Phase::Open => extent.tombstones.split_off(&extent.entry.high_water),
                Phase::Sealed | Phase::Dead => BTreeSet::new(),
            };
            let passed = std::mem::replace(&mut extent.tombstones, past);
            for offset in passed {
                self.batch.delete_tombstone(Location {
                    extent: *number,
                    offset,
                });
            }
        }
        drop(space);
        for location in dead {
            if let Some(extent) = self.extents.get_mut(&location.extent)
                && extent.entry.phase == Phase::Open
                && location.offset >= extent.entry.high_water
            {
                extent.tombstones.insert(location.offset);
                self.batch.put_tombstone(location);
            }
        }
        for (number, extent) in &self.extents {
            self.batch.put_extent(*number, &extent.entry);
        }
    }
}
