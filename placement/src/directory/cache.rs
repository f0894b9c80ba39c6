//! Buckets that were looked up before.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::Bucket;

/// Buckets remembered at most; one more, and all are forgotten.
const BUCKETS_MAX: usize = 100_000;

/// Buckets by name, as last read. Names that are not taken are not remembered.
#[derive(Default)]
pub(super) struct BucketCache {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    buckets: HashMap<String, Arc<Bucket>>,
    /// Counts changes: what was read before one must not be remembered after it.
    changes: u64,
}

impl BucketCache {
    pub fn get(&self, name: &str) -> Option<Arc<Bucket>> {
        self.inner.read().buckets.get(name).cloned()
    }

    /// To be asked before a read whose result is to be learned.
    pub fn changes(&self) -> u64 {
        self.inner.read().changes
    }

    /// Remembers what was read after `changes` was asked, if nothing has changed since.
    pub fn learn(&self, name: &str, bucket: Option<&Arc<Bucket>>, changes: u64) {
        let mut inner = self.inner.write();
        if inner.changes != changes {
            return;
        }
        match bucket {
            Some(bucket) => {
                if inner.buckets.len() >= BUCKETS_MAX {
                    inner.buckets.clear();
                }
                inner.buckets.insert(name.to_owned(), bucket.clone());
            }
            None => {
                inner.buckets.remove(name);
            }
        }
    }

    /// To be called after a change.
    pub fn forget(&self, name: &str) {
        let mut inner = self.inner.write();
        inner.changes += 1;
        inner.buckets.remove(name);
    }
}
