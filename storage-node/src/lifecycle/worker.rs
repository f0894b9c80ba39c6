//! Carries out the rules of buckets, a page of a listing at a time. A bucket is the work of the node that leads the group
//! of its first lane. A pass remembers nothing: what one that was cut short has left, the next one finds. Every action is
//! decided by its group, on the condition that the version is what it was when it was looked at, and locks hold against it
//! as against anybody.

use std::sync::Arc;
use std::time::Duration;

use holdfast_placement::directory::{Bucket, Directory, Setting};
use holdfast_placement::ids::Lane;
use holdfast_placement::map::SharedMap;
use holdfast_placement::seams::{Clock, UnixMillis};
use tokio::sync::watch;

use super::rules::{DAY_SECS, Expiration, Lifecycle, Noncurrent, Rule, due};
use crate::metadata::{
    Cause, LifecycleAction, ListUploads, ListVersions, Lookup, Metadata, MetadataError, Standing,
    StorageClass, VersionEntry, VersionId, VersionSummary, WriteError,
};
use crate::repair::LedGroups;

/// Buckets that are looked at together.
const BUCKETS_PAGE: usize = 1000;

/// How rules are carried out.
#[derive(Clone, Debug)]
pub struct LifecycleConfig {
    /// Seconds of a day: shorter ones are for tests.
    pub day_secs: u64,
    /// Versions or uploads of a page.
    pub page: usize,
    /// Pause after every page.
    pub page_pause: Duration,
}

impl Default for LifecycleConfig {
    fn default() -> Self {
        Self {
            day_secs: DAY_SECS,
            page: 500,
            page_pause: Duration::from_millis(50),
        }
    }
}

impl LifecycleConfig {
    /// Between two passes: what is due goes within so much time and the length of a pass.
    fn interval(&self) -> Duration {
        Duration::from_secs((self.day_secs / 8).clamp(1, 3600))
    }
}

/// What a pass came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LifecycleDone {
    /// Versions and delete markers that went, and current versions that got a delete marker.
    pub versions: u64,
    /// Versions that got another storage class.
    pub moved: u64,
    /// Uploads that were ended.
    pub uploads: u64,
    /// What should have gone, or got another class, and was left: locked, or changed meanwhile.
    pub kept: u64,
}

/// Why a pass over a bucket ended early.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error("the rules are damaged")]
    Rules,
}

/// Carries out the rules of the buckets that are this node's to look after.
pub struct LifecycleWorker {
    directory: Arc<Directory>,
    metadata: Metadata,
    map: SharedMap,
    led: LedGroups,
    clock: Arc<dyn Clock>,
    config: LifecycleConfig,
}

impl LifecycleWorker {
    pub fn new(
        directory: Arc<Directory>,
        metadata: Metadata,
        map: SharedMap,
        led: LedGroups,
        clock: Arc<dyn Clock>,
        config: LifecycleConfig,
    ) -> Self {
        Self {
            directory,
            metadata: metadata.caused_by(Cause::Lifecycle),
            map,
            led,
            clock,
            config,
        }
    }

    /// Makes one pass after the other until `stopped` changes.
    pub async fn run(self, mut stopped: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = self.clock.sleep(self.config.interval()) => {}
                _ = stopped.changed() => return,
            }
            tokio::select! {
                done = self.pass() => {
                    if done != LifecycleDone::default() {
                        tracing::debug!(?done, "a pass over lifecycles");
                    }
                }
                _ = stopped.changed() => return,
            }
        }
    }

    /// One pass over all buckets.
    pub async fn pass(&self) -> LifecycleDone {
        let mut done = LifecycleDone::default();
        let mut after: Option<String> = None;
        loop {
            let listed = self
                .directory
                .list_buckets("", after.as_deref(), BUCKETS_PAGE);
            let (buckets, more) = match listed.await {
                Ok(listed) => listed,
                Err(error) => {
                    tracing::debug!(%error, "buckets cannot be listed for their lifecycles");
                    return done;
                }
            };
            for bucket in buckets.iter().filter(|bucket| self.is_ours(bucket)) {
                if let Err(error) = self.look_after(bucket, &mut done).await {
                    tracing::debug!(%error, bucket = bucket.name, "a lifecycle was not carried out");
                }
            }
            match buckets.last() {
                Some(last) if more => after = Some(last.name.clone()),
                _ => return done,
            }
        }
    }

    fn is_ours(&self, bucket: &Bucket) -> bool {
        let group = self.map.load().group_of(bucket.id, Lane(0));
        (self.led)().contains(&group)
    }

    async fn look_after(&self, bucket: &Bucket, done: &mut LifecycleDone) -> Result<(), PassError> {
        let rules = self.directory.setting(bucket, Setting::Lifecycle).await;
        let Some(rules) = rules.map_err(MetadataError::from)? else {
            return Ok(());
        };
        let lifecycle = Lifecycle::decode(&rules).ok_or(PassError::Rules)?;
        for rule in lifecycle.rules.iter().filter(|rule| rule.enabled) {
            if rule.expiration.is_some() || rule.noncurrent.is_some() || rule.has_moves() {
                self.go_over_versions(bucket, &lifecycle, rule, done)
                    .await?;
            }
            if let Some(days) = rule.abort_days {
                self.end_uploads(bucket, rule, days, done).await?;
            }
        }
        Ok(())
    }

    async fn go_over_versions(
        &self,
        bucket: &Bucket,
        lifecycle: &Lifecycle,
        rule: &Rule,
        done: &mut LifecycleDone,
    ) -> Result<(), PassError> {
        let mut list = ListVersions {
            prefix: rule.filter.prefix.clone(),
            max: self.config.page,
            ..ListVersions::default()
        };
        let mut key = KeyState::default();
        loop {
            let page = match self.metadata.list_versions(bucket.id, &list).await {
                // It is being deleted, and there is nothing in it.
                Err(MetadataError::BucketClosed) => return Ok(()),
                page => page?,
            };
            let due = self.due_of(bucket, lifecycle, rule, &mut key, &page.entries);
            let mut actions = due.await?;
            if page.next.is_none() {
                actions.extend(key.lone_marker());
            }
            self.carry_out(bucket, rule, &actions, done).await;
            let Some((next_key, version)) = page.next else {
                return Ok(());
            };
            list.key_marker = Some(next_key);
            list.version_marker = version;
            self.clock.sleep(self.config.page_pause).await;
        }
    }

    /// What the rule does to those of a page.
    async fn due_of(
        &self,
        bucket: &Bucket,
        lifecycle: &Lifecycle,
        rule: &Rule,
        key: &mut KeyState,
        page: &[VersionEntry],
    ) -> Result<Vec<LifecycleAction>, PassError> {
        let mut actions = Vec::new();
        for entry in page {
            actions.extend(key.lone_marker_before(entry));
            let newer = key.enter(entry, rule.kept_max());
            let action = match self.goes(bucket, rule, key, entry, newer).await? {
                Some(action) => Some(action),
                None => {
                    let moves = self.moves(bucket, lifecycle, rule, key, entry, newer);
                    moves.await?
                }
            };
            actions.extend(action);
        }
        // The others of its key are decided by whether what was current is there.
        actions.sort_by_key(|action| action.standing == Standing::Current);
        Ok(actions)
    }

    fn is_due(&self, from: UnixMillis, days: u32) -> bool {
        due(from, days, self.config.day_secs) <= self.clock.wall()
    }

    /// How a version goes by the rule, if it does. A delete marker that may be the only version is kept in `key` until
    /// that is known. `newer` is when the next newer version was written.
    async fn goes(
        &self,
        bucket: &Bucket,
        rule: &Rule,
        key: &mut KeyState,
        entry: &VersionEntry,
        newer: Option<UnixMillis>,
    ) -> Result<Option<LifecycleAction>, PassError> {
        let summary = &entry.summary;
        let now = self.clock.wall();
        if entry.latest {
            if summary.delete_marker {
                let goes = match rule.expiration {
                    _ if rule.filter.is_about_objects() => false,
                    Some(Expiration::DeleteMarker) => true,
                    Some(Expiration::Days(days)) => self.is_due(summary.modified, days),
                    Some(Expiration::Date(date)) => date <= now,
                    Some(Expiration::Never) => false,
                    None => false,
                };
                key.marker = goes.then_some(*summary);
                return Ok(None);
            }
            let date = match rule.expiration {
                Some(Expiration::Days(days)) => due(summary.modified, days, self.config.day_secs),
                Some(Expiration::Date(date)) => date,
                Some(Expiration::DeleteMarker | Expiration::Never) | None => return Ok(None),
            };
            if date > now || !self.fits(bucket, rule, entry).await? {
                return Ok(None);
            }
            return Ok(Some(key.action(entry, 0, None)));
        }
        let (Some(noncurrent), Some(newer)) = (rule.noncurrent, newer) else {
            return Ok(None);
        };
        let goes =
            self.is_its_turn(noncurrent, key, newer) && self.fits(bucket, rule, entry).await?;
        Ok(goes.then(|| key.action(entry, noncurrent.kept, None)))
    }

    /// Whether something that happens to noncurrent versions happens to the one that `key` has come to.
    fn is_its_turn(&self, which: Noncurrent, key: &KeyState, newer: UnixMillis) -> bool {
        key.noncurrent > which.kept && self.is_due(newer, which.days)
    }

    /// How a version gets another storage class by the rule, if it does. Of several that are due the last in order.
    async fn moves(
        &self,
        bucket: &Bucket,
        lifecycle: &Lifecycle,
        rule: &Rule,
        key: &KeyState,
        entry: &VersionEntry,
        newer: Option<UnixMillis>,
    ) -> Result<Option<LifecycleAction>, PassError> {
        let summary = &entry.summary;
        if summary.delete_marker || !rule.has_moves() || !self.metadata.knows_classes() {
            return Ok(None);
        }
        let day_secs = self.config.day_secs;
        // With how many of the noncurrent versions are kept from it.
        let due: Vec<(StorageClass, u32)> = match (entry.latest, newer) {
            (true, _) => {
                let of_rule = rule.transitions.iter();
                let now = self.clock.wall();
                let due = of_rule.filter(|to| to.when.of(summary.modified, day_secs) <= now);
                due.map(|to| (to.class, 0)).collect()
            }
            (false, Some(newer)) => {
                let of_rule = rule.noncurrent_transitions.iter();
                let due = of_rule.filter(|to| self.is_its_turn(to.after, key, newer));
                due.map(|to| (to.class, to.after.kept)).collect()
            }
            (false, None) => return Ok(None),
        };
        let possible = due
            .into_iter()
            .filter(|(to, _)| entry.class.may_become(*to));
        let Some((class, kept)) = possible.max() else {
            return Ok(None);
        };
        let moves = lifecycle.moves(rule, summary.size) && self.fits(bucket, rule, entry).await?;
        Ok(moves.then(|| key.action(entry, kept, Some(class))))
    }

    /// Whether the rule's filter lets the version in. Its record is read only if tags matter.
    async fn fits(
        &self,
        bucket: &Bucket,
        rule: &Rule,
        entry: &VersionEntry,
    ) -> Result<bool, MetadataError> {
        let size = entry.summary.size;
        if rule.filter.tags.is_empty() {
            return Ok(rule.filter.fits(&entry.key, size, &[]));
        }
        let version = Some(entry.summary.name());
        let found = self.metadata.head_version(bucket.id, &entry.key, version);
        Ok(match found.await? {
            Lookup::Found(record) => rule.filter.fits(&entry.key, size, &record.tags),
            Lookup::Marker(_) | Lookup::Nothing => false,
        })
    }

    async fn carry_out(
        &self,
        bucket: &Bucket,
        rule: &Rule,
        actions: &[LifecycleAction],
        done: &mut LifecycleDone,
    ) {
        if actions.is_empty() {
            return;
        }
        let tags = &rule.filter.tags;
        let outcomes = self.metadata.carry_out(bucket.id, tags, actions).await;
        for (action, outcome) in actions.iter().zip(outcomes) {
            match (outcome, action.class) {
                (Ok(()), None) => done.versions += 1,
                (Ok(()), Some(_)) => done.moved += 1,
                (Err(error), _) => {
                    tracing::debug!(%error, bucket = bucket.name, "a version that is due stays as it is");
                    done.kept += 1;
                }
            }
        }
    }

    async fn end_uploads(
        &self,
        bucket: &Bucket,
        rule: &Rule,
        days: u32,
        done: &mut LifecycleDone,
    ) -> Result<(), PassError> {
        let mut list = ListUploads {
            prefix: rule.filter.prefix.clone(),
            max: self.config.page,
            ..ListUploads::default()
        };
        loop {
            let page = match self.metadata.list_uploads(bucket.id, &list).await {
                Err(MetadataError::BucketClosed) => return Ok(()),
                page => page?,
            };
            let now = self.clock.wall();
            for upload in &page.uploads {
                if due(upload.initiated, days, self.config.day_secs) > now {
                    continue;
                }
                let ended = self
                    .metadata
                    .abort_upload(bucket.id, &upload.key, upload.upload);
                match ended.await {
                    Ok(()) => done.uploads += 1,
                    // It was completed meanwhile.
                    Err(WriteError::NoSuchUpload) => {}
                    Err(error) => {
                        tracing::debug!(%error, bucket = bucket.name, "an upload that is due stays");
                        done.kept += 1;
                    }
                }
            }
            let Some((key, upload)) = page.next else {
                return Ok(());
            };
            list.key_marker = Some(key);
            list.upload_marker = upload;
            self.clock.sleep(self.config.page_pause).await;
        }
    }
}

/// What is known of a key while its versions pass, newest first.
#[derive(Default)]
struct KeyState {
    key: String,
    /// When the last version that was seen was committed.
    newer: Option<UnixMillis>,
    /// Versions seen that are not current.
    noncurrent: u32,
    /// The newest version, and behind it the newest of those that are not current: as many as a rule may keep.
    above: Vec<VersionId>,
    /// A delete marker that goes if no other version follows.
    marker: Option<VersionSummary>,
}

impl KeyState {
    /// The marker of the key before, if nothing followed it and `entry` is of another key.
    fn lone_marker_before(&mut self, entry: &VersionEntry) -> Option<LifecycleAction> {
        match entry.key == self.key {
            true => {
                self.marker = None;
                None
            }
            false => self.lone_marker(),
        }
    }

    fn lone_marker(&mut self) -> Option<LifecycleAction> {
        Some(LifecycleAction {
            key: self.key.clone(),
            summary: self.marker.take()?,
            standing: Standing::Alone,
            class: None,
        })
    }

    /// Goes on to `entry`; gives since when it is not current: the commit of the next newer version of its key, whose
    /// `modified` is older if it was an upload. `kept_max`: of how many noncurrent versions it matters whether they are there.
    fn enter(&mut self, entry: &VersionEntry, kept_max: u32) -> Option<UnixMillis> {
        if entry.key != self.key {
            self.key.clone_from(&entry.key);
            self.newer = None;
            self.noncurrent = 0;
            self.above.clear();
        }
        if !entry.latest {
            self.noncurrent += 1;
        }
        if self.above.len() <= kept_max as usize {
            self.above.push(entry.summary.version);
        }
        self.newer.replace(entry.summary.version.committed())
    }

    /// What happens to `entry`, to which `self` has come. If it is not current, `kept` of its kind must be above it.
    fn action(
        &self,
        entry: &VersionEntry,
        kept: u32,
        class: Option<StorageClass>,
    ) -> LifecycleAction {
        let above = self.above.iter().take(kept as usize + 1);
        LifecycleAction {
            key: entry.key.clone(),
            summary: entry.summary,
            standing: match entry.latest {
                true => Standing::Current,
                false => Standing::Noncurrent {
                    above: above.copied().collect(),
                },
            },
            class,
        }
    }
}

#[cfg(test)]
mod tests;
