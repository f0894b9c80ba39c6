//! A group's state machine on a drive, as openraft wants it.
//!
//! Entries that are committed together are written together: what the machine changes and the record of how far the state
//! is, in one batch without a flush.
//! A snapshot is a durable point of the state itself (`sync`); what it holds is read only when a replica
//! needs it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, RaftSnapshotBuilder, Snapshot};
use tokio::sync::watch;

use super::StateMachine;
use super::flusher::DriveLog;
use super::keys;
use super::log_store::GroupLog;
use super::pending::Pending;
use super::raft_types::{LogId, Opaque, SnapshotMeta, StoredMembership, TypeConfig};
use super::readers::Readers;
use super::snapshot::{self, Head, Image};
use crate::ids::GroupId;
use crate::seams::{Batch, Index, IndexError, IndexView, Keyspace, blocking, flush};

type ImageSnapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, Image>;

/// An amount of log.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Growth {
    pub entries: u64,
    pub bytes: u64,
}

/// So many times the usual amount of log is kept while an image is on its way: who gets it goes on from the log, and would need
/// another image if that was purged meanwhile.
const KEPT_FOR_IMAGES: u64 = 64;

/// Applies a group's committed entries to a drive's state index.
pub(crate) struct Applier {
    group: GroupId,
    state: Arc<dyn Index>,
    readers: Arc<Readers>,
    /// The state with what of it is not yet written; nothing between two calls.
    pending: Pending,
    machine: Box<dyn StateMachine>,
    log: Arc<GroupLog>,
    drive: Arc<DriveLog>,
    applied: Option<LogId>,
    membership: StoredMembership,
    /// The index of `applied`, plus one, for those who look on.
    applied_next: Arc<AtomicU64>,
    /// What the log has grown by since the last durable point, and when that is worth another.
    since_point: Growth,
    point_every: Growth,
    /// For openraft's own suite, which makes up logs as it likes.
    gaps_allowed: bool,
    /// Dropped with the applier: nothing is written to the state any more.
    _end: watch::Sender<()>,
}

impl Applier {
    /// The state as it is, which must be whole: see [`snapshot::recover`].
    pub fn open(
        log: Arc<GroupLog>,
        drive: Arc<DriveLog>,
        readers: Arc<Readers>,
        mut machine: Box<dyn StateMachine>,
        applied_next: Arc<AtomicU64>,
        end: watch::Sender<()>,
        point_every: Growth,
    ) -> Result<Self, IndexError> {
        let state = readers.state().clone();
        let view: &dyn IndexView = state.as_ref();
        let head = Head::read(view, log.group())?;
        machine.restored(view)?;
        applied_next.store(
            head.applied.map_or(0, |id| id.index() + 1),
            Ordering::Release,
        );
        Ok(Self {
            group: log.group(),
            pending: Pending::new(log.group(), state.clone()),
            state,
            readers,
            machine,
            log,
            drive,
            applied: head.applied,
            membership: head.membership,
            applied_next,
            // What is in the log may be as much as makes a point due.
            since_point: point_every,
            point_every,
            gaps_allowed: false,
            _end: end,
        })
    }

    #[cfg(test)]
    pub fn allow_gaps(mut self) -> Self {
        self.gaps_allowed = true;
        self
    }

    pub fn applied(&self) -> Option<&LogId> {
        self.applied.as_ref()
    }

    pub fn membership(&self) -> &StoredMembership {
        &self.membership
    }

    /// Applies an entry to what waits to be written. Gives its outcome, and whether so much waits that it has to be written.
    fn apply_entry(
        &mut self,
        id: LogId,
        payload: EntryPayload<Opaque, u64, openraft::EmptyNode>,
    ) -> Result<(Opaque, bool), IndexError> {
        // To pass over an entry would be to lose it.
        if let Some(applied) = &self.applied
            && id.index() != applied.index() + 1
            && !self.gaps_allowed
        {
            return Err(IndexError::Corrupt(format!(
                "log entry {} was to be applied after {}",
                id.index(),
                applied.index()
            )));
        }
        let mut batch = Batch::new();
        self.since_point.entries += 1;
        let outcome = match payload {
            EntryPayload::Blank => Opaque::default(),
            EntryPayload::Normal(command) => {
                self.since_point.bytes += command.0.len() as u64;
                Opaque(self.machine.apply(&self.pending, &mut batch, &command.0)?)
            }
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(id), membership);
                batch.put(
                    Keyspace::Records,
                    keys::membership_key(self.group),
                    keys::membership_value(&self.membership),
                );
                Opaque::default()
            }
        };
        self.applied = Some(id);
        Ok((outcome, self.pending.add(id, batch)))
    }

    /// Writes what was applied; only then is anybody told of it.
    fn write(
        &self,
        decided: &mut Vec<(ApplyResponder<TypeConfig>, Opaque)>,
    ) -> Result<(), IndexError> {
        self.pending.write()?;
        let next = self.applied.map_or(0, |id| id.index() + 1);
        self.applied_next.store(next, Ordering::Release);
        for (responder, outcome) in decided.drain(..) {
            responder.send(outcome);
        }
        Ok(())
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        }
    }

    /// Ends the replica: what cannot be applied cannot be read either. A state that cannot be read or written at all is that
    /// of all groups on the drive; one that only has no room can be read yet, and so can the shards beside it.
    fn fail(&self, error: IndexError) -> io::Error {
        if matches!(error, IndexError::Io(_)) {
            self.drive.fail(&format!("its state: {error}"));
        }
        self.log.stop(&error.to_string());
        io::Error::other(error)
    }
}

impl RaftStateMachine<TypeConfig> for Applier {
    type SnapshotData = Image;
    type SnapshotBuilder = DurablePoint;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        let mut decided = Vec::new();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let (outcome, is_full) = self
                .apply_entry(entry.log_id, entry.payload)
                .map_err(|error| self.fail(error))?;
            decided.extend(responder.map(|responder| (responder, outcome)));
            if is_full {
                self.write(&mut decided).map_err(|error| self.fail(error))?;
            }
        }
        self.write(&mut decided).map_err(|error| self.fail(error))
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<DurablePoint> {
        let (grown, mut enough) = (self.since_point, self.point_every);
        if self.log.is_kept() {
            enough.entries = enough.entries.saturating_mul(KEPT_FOR_IMAGES);
            enough.bytes = enough.bytes.saturating_mul(KEPT_FOR_IMAGES);
        }
        if !force && grown.entries < enough.entries && grown.bytes < enough.bytes {
            return None;
        }
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> DurablePoint {
        self.since_point = Growth::default();
        DurablePoint {
            group: self.group,
            state: self.state.clone(),
            meta: self.meta(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        image: Image,
    ) -> Result<(), io::Error> {
        let Some(applied) = meta.last_log_id else {
            return Err(io::Error::other(
                "a snapshot of nothing cannot be installed",
            ));
        };
        if let here @ Image::Here { .. } = image {
            let (found, pieces) = here.open().await.map_err(io::Error::other)?;
            if found != *meta {
                return Err(io::Error::other("the state to install has moved on"));
            }
            let staged = snapshot::stage(self.state.as_ref(), &self.log, pieces).await;
            staged.map_err(io::Error::other)?;
        }
        tracing::info!(group = %self.group, drive = %self.log.drive(), upto = applied.index(), "installs a snapshot");
        // Questions from when this replica led may still be answered of what it has.
        self.readers.gone().await;
        let membership = meta.last_membership.clone();
        let (state, group, stored) = (self.state.clone(), self.group, membership.clone());
        blocking(move || snapshot::replace(state.as_ref(), group, &applied, &stored))
            .await
            .map_err(io::Error::other)?
            .map_err(|error| self.fail(error))?;
        let view: &dyn IndexView = self.state.as_ref();
        self.machine
            .restored(view)
            .map_err(|error| self.fail(error))?;
        let index = membership.log_id().map_or(0, |id| id.index());
        self.log.know_membership(index, membership.membership());
        self.applied = Some(applied);
        self.membership = membership;
        self.applied_next
            .store(applied.index() + 1, Ordering::Release);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<ImageSnapshot>, io::Error> {
        if self.applied.is_none() {
            return Ok(None);
        }
        Ok(Some(Snapshot {
            meta: self.meta(),
            snapshot: Image::Here {
                state: self.state.clone(),
                group: self.group,
            },
        }))
    }
}

/// Makes the state durable, so that the log behind it can be purged.
pub(crate) struct DurablePoint {
    group: GroupId,
    state: Arc<dyn Index>,
    meta: SnapshotMeta,
}

impl RaftSnapshotBuilder<TypeConfig> for DurablePoint {
    type SnapshotData = Image;

    async fn build_snapshot(&mut self) -> Result<ImageSnapshot, io::Error> {
        flush(&self.state).await.map_err(io::Error::other)?;
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot: Image::Here {
                state: self.state.clone(),
                group: self.group,
            },
        })
    }
}
