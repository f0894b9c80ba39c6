//! What several commands changed, on its way into the state as one batch.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::keys;
use super::raft_types::LogId;
use crate::ids::GroupId;
use crate::seams::{Batch, Cursor, Durability, Index, IndexError, IndexView, Keyspace, Op};

/// Changes that wait at most. What is read is looked for among them one by one.
const OPS_MAX: usize = 256;

/// Bytes of keys and values that wait at most.
const BYTES_MAX: usize = 1 << 20;

/// A group's state as it is once the changes that wait have been written to it: the view that the next command is applied to.
/// With them goes the record of how far the state is, so that it holds whole commands whenever they are written.
pub(super) struct Pending {
    group: GroupId,
    state: Arc<dyn Index>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    batch: Batch,
    bytes: usize,
    /// The last entry whose changes wait.
    upto: Option<LogId>,
}

impl Pending {
    pub fn new(group: GroupId, state: Arc<dyn Index>) -> Self {
        Self {
            group,
            state,
            waiting: Mutex::default(),
        }
    }

    /// Takes in what the entry `id` changes. Gives whether so much waits now that it has to be written.
    pub fn add(&self, id: LogId, batch: Batch) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.bytes += batch.ops.iter().map(bytes_of).sum::<usize>();
        match waiting.batch.is_empty() {
            true => waiting.batch = batch,
            false => waiting.batch.ops.extend(batch.ops),
        }
        waiting.upto = Some(id);
        waiting.batch.ops.len() >= OPS_MAX || waiting.bytes >= BYTES_MAX
    }

    /// Writes what waits, without a flush.
    pub fn write(&self) -> Result<(), IndexError> {
        let Waiting {
            mut batch, upto, ..
        } = std::mem::take(&mut *self.waiting.lock());
        let Some(upto) = upto else { return Ok(()) };
        batch.put(
            Keyspace::Records,
            keys::applied_key(self.group),
            keys::log_id_value(&upto),
        );
        self.state.write(batch, Durability::Unsynced)
    }
}

impl IndexView for Pending {
    fn get(&self, space: Keyspace, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        let changed = {
            let waiting = self.waiting.lock();
            let mut newest_first = waiting.batch.ops.iter().rev();
            newest_first.find_map(|op| change_of(op, space, key))
        };
        match changed {
            Some(value) => Ok(value),
            None => self.state.get(space, key),
        }
    }

    /// What waits is written first: ranges are read rarely.
    fn cursor<'a>(
        &'a self,
        space: Keyspace,
        from: &[u8],
        to: &[u8],
    ) -> Result<Box<dyn Cursor + 'a>, IndexError> {
        self.write()?;
        self.state.cursor(space, from, to)
    }

    fn scan<'a>(
        &'a self,
        space: Keyspace,
        from: &[u8],
        to: &[u8],
    ) -> Result<Box<dyn Cursor + 'a>, IndexError> {
        self.write()?;
        self.state.scan(space, from, to)
    }
}

/// What the key holds after `op`; `None` if it is not concerned.
fn change_of(op: &Op, space: Keyspace, key: &[u8]) -> Option<Option<Bytes>> {
    match op {
        Op::Put {
            space: own,
            key: put,
            value,
        } => (*own == space && put == key).then(|| Some(value.clone())),
        Op::Delete {
            space: own,
            key: deleted,
        } => (*own == space && deleted == key).then_some(None),
        Op::DeleteRange {
            space: own,
            from,
            to,
        } => (*own == space && &from[..] <= key && key < &to[..]).then_some(None),
    }
}

fn bytes_of(op: &Op) -> usize {
    match op {
        Op::Put { key, value, .. } => key.len() + value.len(),
        Op::Delete { key, .. } => key.len(),
        Op::DeleteRange { from, to, .. } => from.len() + to.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::raft_types::log_id;
    use crate::seams::{MemoryIndex, Rng, SeededRng};

    const GROUP: GroupId = GroupId(3);
    const SPACES: [Keyspace; 2] = [Keyspace::Records, Keyspace::Inline];

    fn key(number: u64) -> Bytes {
        Bytes::from(format!("{number:02}"))
    }

    fn random_op(rng: &SeededRng) -> Op {
        let space = SPACES[rng.below(2) as usize];
        let at = rng.below(20);
        match rng.below(6) {
            0 => Op::DeleteRange {
                space,
                from: key(at),
                to: key(at + rng.below(5)),
            },
            1 => Op::Delete {
                space,
                key: key(at),
            },
            _ => Op::Put {
                space,
                key: key(at),
                value: Bytes::from(rng.next_u64().to_string()),
            },
        }
    }

    fn all(view: &dyn IndexView, space: Keyspace) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut cursor = view.cursor(space, b"", b"\xff").unwrap();
        cursor.seek(b"").unwrap();
        let mut found = Vec::new();
        while let Some((key, value)) = cursor.entry() {
            found.push((key.to_vec(), value.to_vec()));
            cursor.next().unwrap();
        }
        found
    }

    /// Against a state that every command was written to at once.
    #[test]
    fn commands_see_what_those_before_them_changed() {
        for seed in 0..200 {
            println!("seed {seed}");
            let rng = SeededRng::new(seed);
            let at_once = MemoryIndex::new();
            let state = Arc::new(MemoryIndex::new());
            let pending = Pending::new(GROUP, state.clone());
            for index in 0..40 {
                let mut batch = Batch::new();
                for _ in 0..rng.below(5) {
                    batch.ops.push(random_op(&rng));
                }
                at_once.write(batch.clone(), Durability::Unsynced).unwrap();
                assert!(!pending.add(log_id(1, index), batch));
                for space in SPACES {
                    for number in 0..25 {
                        let key = key(number);
                        let wanted = at_once.get(space, &key).unwrap();
                        assert_eq!(pending.get(space, &key).unwrap(), wanted, "entry {index}");
                    }
                }
                match rng.below(8) {
                    0 => pending.write().unwrap(),
                    1 => assert_eq!(
                        all(&pending, Keyspace::Inline),
                        all(&at_once, Keyspace::Inline)
                    ),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn the_state_holds_whole_commands_and_says_how_many() {
        let state = Arc::new(MemoryIndex::new());
        let pending = Pending::new(GROUP, state.clone());
        let applied = || {
            let value = state.get(Keyspace::Records, &keys::applied_key(GROUP));
            value
                .unwrap()
                .map(|value| keys::parse_log_id(&value).unwrap())
        };
        pending.write().unwrap();
        assert_eq!(applied(), None, "nothing waited");
        let mut batch = Batch::new();
        batch.put(Keyspace::Inline, "k", "v");
        pending.add(log_id(1, 7), batch);
        assert_eq!(applied(), None);
        // A command that reads a range has those before it written.
        assert_eq!(all(&pending, Keyspace::Inline).len(), 1);
        assert_eq!(applied(), Some(log_id(1, 7)));
        // An entry that changes nothing counts all the same.
        pending.add(log_id(2, 8), Batch::new());
        pending.write().unwrap();
        assert_eq!(applied(), Some(log_id(2, 8)));
    }

    #[test]
    fn what_waits_is_bounded() {
        let pending = Pending::new(GROUP, Arc::new(MemoryIndex::new()));
        let mut large = Batch::new();
        large.put(Keyspace::Inline, "k", vec![0; BYTES_MAX]);
        assert!(pending.add(log_id(1, 0), large));
        pending.write().unwrap();
        let many = |index| {
            let mut batch = Batch::new();
            batch.delete(Keyspace::Inline, "k");
            pending.add(log_id(1, index), batch)
        };
        let full = (1..).take_while(|index| !many(*index)).count();
        assert_eq!(full + 1, OPS_MAX);
    }
}
