//! The keys that requests are signed with: those that the process was given, and those that the cluster keeps.
//!
//! A key of the cluster is remembered for [`KEPT_FOR`] after the directory was asked for it, so one that is deleted stops
//! working within that time on every gateway. One request a key asks again when [`ASKED_AGAIN_AFTER`] has passed, the
//! others go on meanwhile. A key that is not remembered is always asked for, so a new one works at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use holdfast_placement::directory::{Directory, DirectoryError};
use holdfast_placement::seams::Clock;
use parking_lot::RwLock;
use zeroize::Zeroizing;

use super::sig_v4::SigningKey;
use super::{Credentials, Identity, SERVICE};

/// How long a key that was deleted may still work.
pub const KEPT_FOR: Duration = Duration::from_secs(5);

const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(3);

/// Keys remembered at most; one more, and all are forgotten.
const KEYS_MAX: usize = 10_000;

/// Bytes of an access key at most; longer ones are not asked for.
const ACCESS_KEY_LEN_MAX: usize = 256;

/// A key and what it opens.
pub(super) struct Entry {
    pub secret: Zeroizing<String>,
    pub identity: Arc<Identity>,
    /// The signing key of the newest day seen.
    pub(super) day: ArcSwapOption<DayKey>,
}

pub(super) struct DayKey {
    pub date: [u8; 8],
    key: SigningKey,
}

impl Entry {
    fn new(credentials: Credentials) -> Self {
        let identity = Identity {
            access_key: credentials.access_key,
            owner_id: credentials.owner_id,
            display_name: credentials.display_name,
            is_root: credentials.is_root,
        };
        Self {
            secret: credentials.secret,
            identity: Arc::new(identity),
            day: ArcSwapOption::empty(),
        }
    }

    /// The signing key of `date`. Within a day it is derived once; requests of another day (around midnight,
    /// presigned ones) derive theirs.
    pub fn signing_key(&self, date: &str, region: &str) -> SigningKey {
        let cached = self.day.load();
        if let Some(cached) = cached.as_ref()
            && cached.date == date.as_bytes()
        {
            return cached.key.clone();
        }
        let key = SigningKey::derive(&self.secret, date, region, SERVICE);
        if let Ok(date) = <[u8; 8]>::try_from(date.as_bytes())
            && cached.as_ref().is_none_or(|cached| cached.date < date)
        {
            let key = key.clone();
            self.day.store(Some(Arc::new(DayKey { date, key })));
        }
        key
    }
}

/// A key of the cluster, as it was when the directory was asked.
struct Kept {
    entry: Arc<Entry>,
    /// On the monotonic clock, before the directory was asked.
    asked_at: Duration,
    /// Whether somebody is asking again.
    is_asked: AtomicBool,
}

/// All keys that are known here.
pub(super) struct Keys {
    pub(super) given: HashMap<String, Arc<Entry>>,
    kept: RwLock<HashMap<String, Arc<Kept>>>,
    clock: Arc<dyn Clock>,
}

/// What is known of an access key.
pub(super) enum Known {
    Entry(Arc<Entry>),
    /// Perhaps the cluster keeps it: ask.
    Ask,
    /// There cannot be such a key.
    Never,
}

impl Keys {
    pub fn new(given: Vec<Credentials>, clock: Arc<dyn Clock>) -> Self {
        let entry = |credentials: Credentials| {
            let access_key = credentials.access_key.clone();
            (access_key, Arc::new(Entry::new(credentials)))
        };
        Self {
            given: given.into_iter().map(entry).collect(),
            kept: RwLock::default(),
            clock,
        }
    }

    /// What is known of `access_key` without asking anybody.
    pub fn find(&self, access_key: &str) -> Known {
        if let Some(entry) = self.given.get(access_key) {
            return Known::Entry(entry.clone());
        }
        if access_key.is_empty() || access_key.len() > ACCESS_KEY_LEN_MAX {
            return Known::Never;
        }
        let Some(kept) = self.kept.read().get(access_key).cloned() else {
            return Known::Ask;
        };
        let age = self.clock.monotonic().saturating_sub(kept.asked_at);
        let asks = age >= KEPT_FOR
            || (age >= ASKED_AGAIN_AFTER && !kept.is_asked.swap(true, Ordering::Relaxed));
        match asks {
            true => Known::Ask,
            false => Known::Entry(kept.entry.clone()),
        }
    }

    /// Asks the cluster for `access_key`, and remembers the answer. `None`: it keeps no such key.
    pub async fn ask(
        &self,
        access_key: &str,
        directory: &Directory,
    ) -> Result<Option<Arc<Entry>>, DirectoryError> {
        let asked_at = self.clock.monotonic();
        let found = directory.identity(access_key).await?;
        // The root user has the key that the processes were given, and no other that it ever had.
        let found = found.filter(|found| !self.is_root(&found.owner_id));
        let mut kept = self.kept.write();
        let Some(found) = found else {
            kept.remove(access_key);
            return Ok(None);
        };
        let credentials = Credentials::new(
            found.access_key,
            found.secret_key,
            found.owner_id,
            found.display_name,
        );
        let mut entry = Arc::new(Entry::new(credentials));
        if let Some(before) = kept.get(access_key)
            && *before.entry.secret == *entry.secret
            && before.entry.identity == entry.identity
        {
            // It has its signing key already.
            entry = before.entry.clone();
        }
        if kept.len() >= KEYS_MAX && !kept.contains_key(access_key) {
            kept.clear();
        }
        let remembered = Kept {
            entry: entry.clone(),
            asked_at,
            is_asked: AtomicBool::new(false),
        };
        kept.insert(access_key.to_owned(), Arc::new(remembered));
        Ok(Some(entry))
    }

    /// Whether that is the root user's canonical user id.
    pub fn is_root(&self, owner_id: &str) -> bool {
        self.given
            .values()
            .any(|entry| entry.identity.is_root && entry.identity.owner_id == owner_id)
    }
}
