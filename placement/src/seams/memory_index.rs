//! An index in memory that can crash: what was not synced is lost, in order, from some point on.

use std::collections::BTreeMap;

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
    now: Table,
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
        state.now = state.durable.clone();
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

/// Copies the range: cursors must not see later writes.
fn cursor(state: &Table, space: Keyspace, from: &[u8], to: &[u8]) -> MemoryCursor {
    let entries = if from < to {
        state
            .range((space, Bytes::copy_from_slice(from))..(space, Bytes::copy_from_slice(to)))
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect()
    } else {
        Vec::new()
    };
    let at = entries.len();
    MemoryCursor { entries, at }
}

struct MemoryCursor {
    entries: Vec<(Bytes, Bytes)>,
    at: usize,
}

impl Cursor for MemoryCursor {
    fn seek(&mut self, key: &[u8]) -> Result<(), IndexError> {
        self.at = self.entries.partition_point(|(k, _)| k.as_ref() < key);
        Ok(())
    }

    fn seek_back(&mut self, key: &[u8]) -> Result<(), IndexError> {
        let after = self.entries.partition_point(|(k, _)| k.as_ref() <= key);
        self.at = after.checked_sub(1).unwrap_or(self.entries.len());
        Ok(())
    }

    fn next(&mut self) -> Result<(), IndexError> {
        self.at = (self.at + 1).min(self.entries.len());
        Ok(())
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.entries
            .get(self.at)
            .map(|(key, value)| (key.as_ref(), value.as_ref()))
    }
}

struct MemoryView {
    table: Table,
}

impl IndexView for MemoryView {
    fn get(&self, space: Keyspace, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        Ok(get(&self.table, space, key))
    }

    fn cursor<'a>(
        &'a self,
        space: Keyspace,
        from: &[u8],
        to: &[u8],
    ) -> Result<Box<dyn Cursor + 'a>, IndexError> {
        Ok(Box::new(cursor(&self.table, space, from, to)))
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
        Ok(Box::new(cursor(&state.now, space, from, to)))
    }
}

impl Index for MemoryIndex {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), IndexError> {
        let mut state = self.state.lock();
        state.check()?;
        apply(&mut state.now, &batch);
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
        Box::new(MemoryView {
            table: self.state.lock().now.clone(),
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
