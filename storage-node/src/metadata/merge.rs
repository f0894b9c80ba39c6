//! Lanes read as one, in order.

use holdfast_placement::seams::{Cursor, IndexError, IndexView, Keyspace};

use super::keys::successor;

/// One lane's cursor and the key at it.
struct Lane<'a> {
    cursor: Box<dyn Cursor + 'a>,
    /// What all keys of the lane begin with.
    prefix: &'a [u8],
    /// The key at the cursor without `prefix`; copied, so that comparisons stay in Rust and in the cache.
    key: Vec<u8>,
    live: bool,
    /// How many skips are seeks at once: a step was not enough for one not long ago.
    seeks_first: u8,
}

/// Skips that are seeks at once after one for which a step was not enough.
const SEEKS_FIRST: u8 = 15;

impl Lane<'_> {
    /// Takes the key that the cursor has come to.
    fn take_key(&mut self) {
        self.key.clear();
        self.live = match self.cursor.entry() {
            Some((key, _)) => {
                self.key
                    .extend_from_slice(key.get(self.prefix.len()..).unwrap_or_default());
                true
            }
            None => false,
        };
    }
}

/// A merge of lanes: a loser tree (Knuth, TAOCP volume 3, 5.4.1), so that a step costs one comparison a level.
pub struct Merge<'a> {
    lanes: Vec<Lane<'a>>,
    /// `[0]`: the lane with the least key; `[1..]`: the losers of the inner nodes' matches.
    tree: Vec<usize>,
    target: Vec<u8>,
    /// Seeks that skips have made.
    seeks: usize,
}

impl<'a> Merge<'a> {
    /// Begins a merge of `lanes` (each with what its keys begin with), at the first key of at least `from`, up to but
    /// without `to` (`None`: to the lanes' ends). Keys are without their lanes.
    pub fn new(
        space: Keyspace,
        lanes: &'a [(&'a dyn IndexView, Vec<u8>)],
        from: &[u8],
        to: Option<&[u8]>,
    ) -> Result<Self, IndexError> {
        let mut merge = Self {
            lanes: Vec::with_capacity(lanes.len()),
            tree: Vec::new(),
            target: Vec::with_capacity(64),
            seeks: 0,
        };
        if to.is_some_and(|to| from >= to) {
            return Ok(merge);
        }
        for (index, prefix) in lanes {
            let first = [prefix, from].concat();
            let end = match to {
                Some(to) => [prefix, to].concat(),
                None => successor(prefix).unwrap_or_default(),
            };
            let mut lane = Lane {
                cursor: index.cursor(space, &first, &end)?,
                prefix,
                key: Vec::with_capacity(64),
                live: false,
                seeks_first: 0,
            };
            lane.cursor.seek(&first)?;
            lane.take_key();
            merge.lanes.push(lane);
        }
        merge.play_all();
        Ok(merge)
    }

    /// The least key.
    #[inline]
    pub fn key(&self) -> Option<&[u8]> {
        let lane = self.lanes.get(*self.tree.first()?)?;
        lane.live.then_some(&lane.key[..])
    }

    /// Its value.
    #[inline]
    pub fn value(&self) -> Option<&[u8]> {
        let lane = self.lanes.get(*self.tree.first()?)?;
        lane.cursor.entry().map(|(_, value)| value)
    }

    /// Goes on to the next key.
    #[inline]
    pub fn advance(&mut self) -> Result<(), IndexError> {
        if let Some(&winner) = self.tree.first() {
            let lane = &mut self.lanes[winner];
            lane.cursor.next()?;
            lane.take_key();
            self.play(winner);
        }
        Ok(())
    }

    /// Goes on past all keys that begin with `prefix`: a seek for each lane that has more than one, however many.
    pub fn skip(&mut self, prefix: &[u8]) -> Result<(), IndexError> {
        let past = successor(prefix);
        while self.key().is_some_and(|key| key.starts_with(prefix)) {
            let winner = self.tree[0];
            let lane = &mut self.lanes[winner];
            // A step costs a tenth of a seek, and often it is enough.
            if lane.seeks_first == 0 {
                lane.cursor.next()?;
                lane.take_key();
            }
            if lane.live && lane.key.starts_with(prefix) {
                lane.seeks_first = match lane.seeks_first {
                    0 => SEEKS_FIRST,
                    left => left - 1,
                };
                self.seeks += 1;
                match &past {
                    Some(past) => {
                        self.target.clear();
                        self.target.extend_from_slice(lane.prefix);
                        self.target.extend_from_slice(past);
                        lane.cursor.seek(&self.target)?;
                        lane.take_key();
                    }
                    None => lane.live = false,
                }
            }
            self.play(winner);
        }
        Ok(())
    }

    /// Seeks that skips have made so far.
    pub fn seeks(&self) -> usize {
        self.seeks
    }

    fn less(&self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.lanes[a], &self.lanes[b]);
        match (a.live, b.live) {
            (true, true) => a.key < b.key,
            (live, _) => live,
        }
    }

    fn play_all(&mut self) {
        let count = self.lanes.len();
        self.tree = vec![0; count];
        let mut winners: Vec<usize> = (0..2 * count)
            .map(|node| node.wrapping_sub(count))
            .collect();
        for node in (1..count).rev() {
            let (a, b) = (winners[2 * node], winners[2 * node + 1]);
            let (winner, loser) = if self.less(b, a) { (b, a) } else { (a, b) };
            winners[node] = winner;
            self.tree[node] = loser;
        }
        if count > 0 {
            self.tree[0] = winners[1];
        }
    }

    /// Plays the matches of a lane whose key has changed.
    #[inline]
    fn play(&mut self, lane: usize) {
        let mut winner = lane;
        let mut node = (lane + self.lanes.len()) / 2;
        while node > 0 {
            let opponent = self.tree[node];
            if self.less(opponent, winner) {
                self.tree[node] = winner;
                winner = opponent;
            }
            node /= 2;
        }
        self.tree[0] = winner;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use holdfast_placement::seams::{Batch, Durability, Index, MemoryIndex};
    use proptest::prelude::{prop, prop_assert_eq, proptest};

    use super::*;

    /// What a merge finds that skips all keys with the prefix that ends with their first `/`.
    fn folded(keys: &BTreeSet<String>, lanes: usize) -> Vec<String> {
        let index = MemoryIndex::new();
        let mut batch = Batch::new();
        for (number, key) in keys.iter().enumerate() {
            let object = [&[(number * 7 % lanes) as u8], key.as_bytes()].concat();
            batch.put(Keyspace::Objects, object, "");
        }
        index.write(batch, Durability::Synced).unwrap();
        let lanes: Vec<(&dyn IndexView, Vec<u8>)> = (0..lanes)
            .map(|lane| (&index as &dyn IndexView, vec![lane as u8]))
            .collect();
        let mut merge = Merge::new(Keyspace::Objects, &lanes, b"", None).unwrap();
        let mut found = Vec::new();
        while let Some(key) = merge.key() {
            let key = String::from_utf8(key.to_vec()).unwrap();
            match key.find('/') {
                Some(end) => {
                    merge.skip(&key.as_bytes()[..=end]).unwrap();
                    found.push(key[..=end].to_owned());
                }
                None => {
                    merge.advance().unwrap();
                    found.push(key);
                }
            }
        }
        found
    }

    proptest! {
        /// Prefixes with many keys in a lane, and after them some with few.
        #[test]
        fn skips_find_what_is_next_in_all_lanes(
            keys in prop::collection::btree_set("[a-d]{1,2}(/[ab]{1,4})?", 0..120),
            lanes in 1usize..4,
        ) {
            let mut expected: Vec<String> = keys
                .iter()
                .map(|key| key.find('/').map_or(&key[..], |end| &key[..=end]).to_owned())
                .collect();
            expected.dedup();
            prop_assert_eq!(folded(&keys, lanes), expected);
        }
    }
}
