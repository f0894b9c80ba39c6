//! An index in memory that can crash: what was not synced is lost, in order, from some point on.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::index::{Batch, Cursor, Durability, Index, IndexError, IndexView, Keyspace, Op};

type Table = BTreeMap<(Keyspace, Bytes), Bytes>;

/// An [`Index`] for tests. Keeps the durable state and the batches since; a crash keeps a prefix of those.
#[derive(Default)]
pub struct MemoryIndex {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    durable: Table,
    unsynced: Vec<Batch>,
    /// Shared with views and cursors; a write while there are some copies it.
    now: Arc<Table>,
    failure: Option<IndexError>,
}

impl MemoryIndex {
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses power: keeps the durable state and the first `unsynced_kept` batches written since, as a file system
    /// may. Asks for `usize::MAX` to keep all (a killed process).
    pub fn crash(&self, unsynced_kept: usize) {
        let mut state = self.state.lock();
        let batches = std::mem::take(&mut state.unsynced);
        for batch in batches.iter().take(unsynced_kept) {
            apply(&mut state.durable, batch);
        }
        state.now = Arc::new(state.durable.clone());
        state.failure = None;
    }

    /// Batches that a crash may lose.
    pub fn unsynced(&self) -> usize {
        self.state.lock().unsynced.len()
    }

    /// From now on every write and read fails with `error`; `None` heals.
    pub fn fail(&self, error: Option<IndexError>) {
        self.state.lock().failure = error;
    }

    /// All entries, for comparisons.
    pub fn entries(&self) -> Vec<(Keyspace, Bytes, Bytes)> {
        let state = self.state.lock();
        state
            .now
            .iter()
            .map(|((space, key), value)| (*space, key.clone(), value.clone()))
            .collect()
    }
}

fn apply(table: &mut Table, batch: &Batch) {
    for op in &batch.ops {
        match op {
            Op::Put { space, key, value } => {
                table.insert((*space, key.clone()), value.clone());
            }
            Op::Delete { space, key } => {
                table.remove(&(*space, key.clone()));
            }
            Op::DeleteRange { space, from, to } => {
                if from < to {
                    let doomed: Vec<_> = table
                        .range((*space, from.clone())..(*space, to.clone()))
                        .map(|(key, _)| key.clone())
                        .collect();
                    for key in doomed {
                        table.remove(&key);
                    }
                }
            }
        }
    }
}

fn get(state: &Table, space: Keyspace, key: &[u8]) -> Option<Bytes> {
    state.get(&(space, Bytes::copy_from_slice(key))).cloned()
}

/// A cursor over the table as it is: later writes go to a copy.
struct MemoryCursor {
    table: Arc<Table>,
    space: Keyspace,
    from: Bytes,
    to: Bytes,
    at: Option<(Bytes, Bytes)>,
}

impl MemoryCursor {
    fn new(table: Arc<Table>, space: Keyspace, from: &[u8], to: &[u8]) -> Self {
        Self {
            table,
            space,
            from: Bytes::copy_from_slice(from),
            to: Bytes::copy_from_slice(to),
            at: None,
        }
    }

    /// Moves to the first entry of the range between the bounds.
    fn first(&mut self, from: Bound<Bytes>) {
        let is_empty = match &from {
            Bound::Included(key) => *key >= self.to,
            Bound::Excluded(key) => *key >= self.to,
            Bound::Unbounded => false,
        };
        if is_empty {
            self.at = None;
            return;
        }
        let from = from.map(|key| (self.space, key));
        let to = Bound::Excluded((self.space, self.to.clone()));
        let found = self.table.range((from, to)).next();
        self.at = found.map(|((_, key), value)| (key.clone(), value.clone()));
    }
}

impl Cursor for MemoryCursor {
    fn seek(&mut self, key: &[u8]) -> Result<(), IndexError> {
        let key = self.from.as_ref().max(key);
        self.first(Bound::Included(Bytes::copy_from_slice(key)));
        Ok(())
    }

    fn seek_back(&mut self, key: &[u8]) -> Result<(), IndexError> {
        self.at = None;
        if key < self.from.as_ref() || self.from >= self.to {
            return Ok(());
        }
        let from = Bound::Included((self.space, self.from.clone()));
        let to = match key < self.to.as_ref() {
            true => Bound::Included((self.space, Bytes::copy_from_slice(key))),
            false => Bound::Excluded((self.space, self.to.clone())),
        };
        let found = self.table.range((from, to)).next_back();
        self.at = found.map(|((_, key), value)| (key.clone(), value.clone()));
        Ok(())
    }

    fn next(&mut self) -> Result<(), IndexError> {
        if let Some((key, _)) = self.at.take() {
            self.first(Bound::Excluded(key));
        }
        Ok(())
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        let (key, value) = self.at.as_ref()?;
        Some((key.as_ref(), value.as_ref()))
    }
}

struct MemoryView {
    table: Arc<Table>,
    failure: Option<IndexError>,
}

impl MemoryView {
    fn check(&self) -> Result<(), IndexError> {
        self.failure.clone().map_or(Ok(()), Err)
    }
}

impl IndexView for MemoryView {
    fn get(&self, space: Keyspace, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        self.check()?;
        Ok(get(&self.table, space, key))
    }

    fn cursor<'a>(
        &'a self,
        space: Keyspace,
        from: &[u8],
        to: &[u8],
    ) -> Result<Box<dyn Cursor + 'a>, IndexError> {
        self.check()?;
        let table = self.table.clone();
        Ok(Box::new(MemoryCursor::new(table, space, from, to)))
    }
}

impl IndexView for MemoryIndex {
    fn get(&self, space: Keyspace, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        let state = self.state.lock();
        state.check()?;
        Ok(get(&state.now, space, key))
    }

    fn cursor<'a>(
        &'a self,
        space: Keyspace,
        from: &[u8],
        to: &[u8],
    ) -> Result<Box<dyn Cursor + 'a>, IndexError> {
        let state = self.state.lock();
        state.check()?;
        let table = state.now.clone();
        Ok(Box::new(MemoryCursor::new(table, space, from, to)))
    }
}

impl Index for MemoryIndex {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), IndexError> {
        let mut state = self.state.lock();
        state.check()?;
        apply(Arc::make_mut(&mut state.now), &batch);
        state.unsynced.push(batch);
        if durability == Durability::Synced {
            state.make_durable();
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), IndexError> {
        let mut state = self.state.lock();
        state.check()?;
        state.make_durable();
        Ok(())
    }

    fn view(&self) -> Box<dyn IndexView + '_> {
        let state = self.state.lock();
        Box::new(MemoryView {
            table: state.now.clone(),
            failure: state.failure.clone(),
        })
    }
}

impl State {
    fn check(&self) -> Result<(), IndexError> {
        match &self.failure {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    fn make_durable(&mut self) {
        for batch in std::mem::take(&mut self.unsynced) {
            apply(&mut self.durable, &batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str, value: &'static str) -> Batch {
        let mut batch = Batch::new();
        batch.put(Keyspace::Records, key, value);
        batch
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_a_prefix_of_the_rest() {
        let index = MemoryIndex::new();
        index.write(put("a", "1"), Durability::Synced).unwrap();
        index.write(put("b", "2"), Durability::Unsynced).unwrap();
        index.write(put("c", "3"), Durability::Unsynced).unwrap();
        index.crash(1);
        let keys: Vec<_> = index.entries().into_iter().map(|e| e.1).collect();
        assert_eq!(keys, ["a", "b"]);
    }

    #[test]
    fn a_cursor_sees_its_range_as_it_was() {
        let index = MemoryIndex::new();
        for key in ["a", "b", "c", "d"] {
            index.write(put(key, "x"), Durability::Synced).unwrap();
        }
        let mut cursor = index.cursor(Keyspace::Records, b"b", b"d").unwrap();
        index.write(put("bb", "x"), Durability::Synced).unwrap();
        cursor.seek(b"").unwrap();
        assert_eq!(cursor.entry().unwrap().0, b"b");
        cursor.next().unwrap();
        assert_eq!(cursor.entry().unwrap().0, b"c");
        cursor.next().unwrap();
        assert!(cursor.entry().is_none());
        cursor.seek_back(b"bz").unwrap();
        assert_eq!(cursor.entry().unwrap().0, b"b");
        cursor.seek_back(b"a").unwrap();
        assert!(cursor.entry().is_none());
    }
}
