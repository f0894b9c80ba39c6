//! One replica: a group's log and state on one drive, and the Raft node that keeps them in step with the others.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use openraft::raft::{SnapshotResponse, TransferLeaderRequest};
use openraft::storage::RaftLogStorage;
use openraft::type_config::async_runtime::watch::WatchReceiver;
use openraft::{Config, Instant, ServerState, Snapshot};

use tokio::sync::watch;

use super::MachineFactory;
use super::flusher::{Change, DriveLog};
use super::log_store::{GroupLog, LogStore};
use super::network::{Address, Links, Transport};
use super::patience::Bunches;
use super::raft_types::{Raft, SnapshotMeta, TypeConfig, Vote};
use super::readers::Readers;
use super::snapshot::{self, Image, Pieces};
use super::state_machine::{Applier, Growth};
use crate::ids::{DriveId, GroupId};
use crate::planted::{Bug, planted};
use crate::seams::{Index, IndexError};

/// Pulses without a word of a leader after which a replica keeps time for an election by itself.
const QUIET_MAX: u32 = 2;

/// How much of its lease a leader uses.
const LEASE_USED: f64 = 0.6;

/// What a replica needs of its surroundings.
pub(crate) struct Surroundings {
    pub log: Arc<DriveLog>,
    pub state: Arc<dyn Index>,
    pub machines: MachineFactory,
    pub transport: Arc<dyn Transport>,
    /// For a group's only voter, and for one of several.
    pub alone: Arc<Config>,
    pub among_others: Arc<Config>,
    /// How far the log may grow before the state is made durable and the log purged.
    pub point_every: Growth,
}

/// A replica that runs, or has stopped.
pub(crate) struct Replica {
    address: Address,
    raft: Raft,
    log: Arc<GroupLog>,
    drive_log: Arc<DriveLog>,
    state: Arc<dyn Index>,
    readers: Arc<Readers>,
    applied_next: Arc<AtomicU64>,
    /// Set while the replica leads and has applied what its predecessors committed.
    leading: ArcSwapOption<Leading>,
    /// The term in which this replica began to hand over its lead; 0: none.
    handed_over: AtomicU64,
    /// When it applies what a leader has committed.
    bunches: Bunches,
    /// Pulses since it last heard of a leader, or since it began.
    quiet: AtomicU32,
    /// Held while an image is staged and installed: one at a time.
    staging: tokio::sync::Mutex<()>,
    /// Its sender goes when nothing is applied any more.
    end: watch::Receiver<()>,
}

/// A replica's parts before it runs.
struct Opened {
    log: Arc<GroupLog>,
    applier: Applier,
    readers: Arc<Readers>,
    applied_next: Arc<AtomicU64>,
    end: watch::Receiver<()>,
}

/// What has to hold for a leader to answer reads at once.
struct Leading {
    term: u64,
    /// The membership that `by` is of.
    membership_mark: u64,
    by: Currency,
}

/// How a leader knows that nobody has taken its place.
enum Currency {
    /// By looking at the logs of a quorum, which are in this process.
    Quorums(Vec<Quorum>),
    /// By its lease: a quorum has heard of it so lately that none of them has voted for another.
    Lease,
}

/// So many of these logs (those of a set of voters that are in this process) must not have gone to a newer term.
pub(super) struct Quorum {
    pub needed: usize,
    pub logs: Vec<Arc<GroupLog>>,
}

/// Why a replica could not be started.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{group} on {drive} cannot be started: {reason}")]
pub struct StartError {
    pub group: GroupId,
    pub drive: DriveId,
    pub reason: String,
}

impl Replica {
    /// Opens the group's log and state on the drive, both whatever they are (also nothing at all), and starts the
    /// Raft node. The drive remembers that it hosts the group. `alone` says whether it is to be a new group's only
    /// voter.
    pub async fn start(
        group: GroupId,
        around: &Surroundings,
        alone: bool,
    ) -> Result<Arc<Self>, StartError> {
        let drive = around.log.drive();
        let failed = |reason: String| StartError {
            group,
            drive,
            reason,
        };
        let opened = Self::open(group, around)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let Opened {
            log,
            applier,
            readers,
            applied_next,
            end,
        } = opened;
        let store = LogStore {
            log: log.clone(),
            drive: around.log.clone(),
        };
        let links = Links {
            group,
            transport: around.transport.clone(),
            log: log.clone(),
        };
        let alone = match log.voters() {
            Some((_, configs)) => configs.iter().all(|voters| voters.len() == 1),
            None => alone,
        };
        let config = if alone {
            &around.alone
        } else {
            &around.among_others
        };
        let raft = Raft::new(drive.0, config.clone(), links, store, applier)
            .await
            .map_err(|error| failed(error.to_string()))?;
        Ok(Arc::new(Self {
            address: Address { group, drive },
            raft,
            log,
            drive_log: around.log.clone(),
            state: around.state.clone(),
            readers,
            applied_next,
            leading: ArcSwapOption::empty(),
            handed_over: AtomicU64::new(0),
            bunches: Bunches::default(),
            quiet: AtomicU32::new(QUIET_MAX),
            staging: tokio::sync::Mutex::new(()),
            end,
        }))
    }

    async fn open(group: GroupId, around: &Surroundings) -> Result<Opened, IndexError> {
        let drive = around.log.drive();
        let index = around.log.index().as_ref();
        let log = Arc::new(GroupLog::open(group, drive, index)?);
        around.log.write(&log, Change::Host).await?;
        if let Some(installed) = snapshot::recover(around.state.as_ref(), group)? {
            let mut store = LogStore {
                log: log.clone(),
                drive: around.log.clone(),
            };
            let io = |error: std::io::Error| IndexError::Io(error.to_string());
            store.purge(installed).await.map_err(io)?;
        }
        let applied_next = Arc::new(AtomicU64::new(0));
        let machine = (around.machines)(group, drive);
        let (end_tx, end) = watch::channel(());
        let state = around.state.clone();
        let readers = Readers::new(state, log.clone());
        let applier = Applier::open(
            log.clone(),
            around.log.clone(),
            readers.clone(),
            machine,
            applied_next.clone(),
            end_tx,
            around.point_every,
        )?;
        let stored = applier.membership();
        if let Some(id) = stored.log_id() {
            log.know_membership(id.index(), stored.membership());
        }
        log.scan_membership(applier.applied().map(|id| id.index()), index)?;
        if let Some(purged) = log.purged()
            && applier
                .applied()
                .is_none_or(|applied| applied.index() < purged.index())
        {
            return Err(IndexError::Corrupt(format!(
                "the state ends at {:?}, but the log begins only after {}: the state is not the one of this log",
                applier.applied().map(|id| id.index()),
                purged.index(),
            )));
        }
        Ok(Opened {
            log,
            applier,
            readers,
            applied_next,
            end,
        })
    }

    pub fn address(&self) -> Address {
        self.address
    }

    pub fn drive(&self) -> DriveId {
        self.address.drive
    }

    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    pub fn log(&self) -> &Arc<GroupLog> {
        &self.log
    }

    /// The state for a reader; see [`Readers::lend`].
    pub fn lend(&self) -> Arc<dyn Index> {
        self.readers.lend()
    }

    /// Says whether the other voters are a quorum that answers; see [`Readers::spare`].
    pub fn spare(&self, can_be_spared: bool) {
        self.readers.spare(can_be_spared);
    }

    /// Whether this leader has heard of the voter on another drive within `time`, as far as it knows.
    pub fn has_heard_of(&self, voter: u64, time: Duration) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let heard = metrics.heartbeat.as_ref().and_then(|all| *all.get(&voter)?);
        heard.is_some_and(|heard| heard.elapsed() < time)
    }

    /// Whether the replica on another drive has, by the word of this leader, all but the last `lag` entries of the log.
    pub fn is_close(&self, other: DriveId, lag: u64) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics
            .replication
            .as_ref()
            .and_then(|all| *all.get(&other.0)?);
        let end = self.log.last().map_or(0, |last| last.index());
        matched.map_or(0, |matched| matched.index()) + lag >= end
    }

    /// Why the replica has stopped, if it has.
    pub fn stopped(&self) -> Option<&str> {
        self.log.stopped()
    }

    /// The index of the last entry that was applied.
    pub fn applied(&self) -> Option<u64> {
        self.applied_next.load(Ordering::Acquire).checked_sub(1)
    }

    /// The term in which this replica leads, if it does.
    pub fn leads(&self) -> Option<u64> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        (metrics.state == ServerState::Leader).then_some(metrics.vote.leader_id.term)
    }

    /// Has the replica send heartbeats, if it leads.
    pub async fn beat(&self) {
        // A replica that has ended needs none.
        let _ended = self.raft.trigger().heartbeat().await;
    }

    /// How long ago a quorum last heard of this leader, as far as it knows.
    pub fn silence(&self) -> Option<Duration> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        Some(metrics.last_quorum_acked.as_ref()?.elapsed())
    }

    pub fn bunches(&self) -> &Bunches {
        &self.bunches
    }

    /// The replica has heard of its leader.
    pub fn heard(&self) {
        self.quiet.store(0, Ordering::Relaxed);
    }

    /// To be called once every heartbeat interval, before it is asked whether the replica
    /// [is deserted](Self::is_deserted).
    pub fn count_pulse(&self) {
        let count = |quiet: u32| quiet.checked_add(1);
        // At most it stays.
        let _counted = self
            .quiet
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
    }

    /// Whether the replica has not heard of a leader lately, so that it may have to stand for election. Much is to spare:
    /// it may not do so before the lease has run out, which is longer than this takes to tell.
    pub fn is_deserted(&self) -> bool {
        self.quiet.load(Ordering::Relaxed) >= QUIET_MAX && self.leads().is_none()
    }

    /// Whether the replica is the one to stand for election first when its leader is gone: the voter next to it.
    pub fn is_heir(&self) -> bool {
        let (Some(leader), Some((_, configs))) = (self.known_leader(), self.log.voters()) else {
            return false;
        };
        // While membership changes, there is no hurry.
        let [voters] = &configs[..] else { return false };
        heir_of(leader.0, voters) == Some(self.drive().0)
    }

    /// The leader that this replica knows of.
    pub fn known_leader(&self) -> Option<DriveId> {
        let metrics = self.raft.server_metrics();
        metrics.borrow_watched().current_leader.map(DriveId)
    }

    /// Whether the state holds all that was acknowledged before this call.
    ///
    /// It does if this replica leads in a term T, has applied all that was committed before T (see
    /// [`Replica::lead`]), and nobody leads in a newer term. That is so if a quorum of voters is in no newer term: a
    /// leader of a newer term would have moved on a quorum before it was elected, and any two quorums share a voter. It is
    /// the question that a read barrier puts to the others; as long as their logs are in this process, looking is
    /// enough, and no clock is involved.
    ///
    /// Where they are elsewhere the leader goes by its lease: a voter that has heard of its leader votes for nobody else
    /// for `lease`, so nobody can have been elected while a quorum has heard of this one within that time, by the time
    /// at which the leader *asked* them. It uses [`LEASE_USED`] of it, so clocks may run that much faster elsewhere.
    /// A leader that hands over ([`Replica::hand_to`]) has no lease any more.
    pub fn is_current(&self, lease: Duration) -> bool {
        let leading = self.leading.load();
        let Some(leading) = leading.as_ref() else {
            return false;
        };
        if self.log.membership_mark() != leading.membership_mark || self.log.stopped().is_some() {
            return false;
        }
        match &leading.by {
            Currency::Quorums(quorums) => quorums.iter().all(|quorum| quorum.agrees(leading.term)),
            Currency::Lease => {
                self.log.term() == leading.term
                    && (planted(Bug::ExpiredLease)
                        || self
                            .silence()
                            .is_some_and(|silence| silence < lease.mul_f64(LEASE_USED)))
            }
        }
    }

    /// To be called after a read barrier on this replica: from now on it can answer by [`Replica::is_current`]. `mark`
    /// is the log's membership mark, and `term` the term of the leader, both from before the barrier.
    pub fn lead(&self, term: u64, mark: u64, here: &[Arc<Replica>]) {
        let Some((known_at, configs)) = self.log.voters() else {
            return;
        };
        if known_at != mark || self.handed_over.load(Ordering::Acquire) == term {
            return;
        }
        // One that is no voter any more leads on until another does, which openraft may have elected at once and which need not tell
        // it: it answers after a barrier only.
        let own = self.drive().0;
        if configs.iter().any(|voters| !voters.contains(&own)) {
            return;
        }
        let mut quorums = Vec::with_capacity(configs.len());
        for voters in &configs {
            let logs: Vec<_> = here
                .iter()
                .filter(|replica| voters.contains(&replica.drive().0))
                .map(|replica| replica.log.clone())
                .collect();
            let needed = voters.len() / 2 + 1;
            if logs.len() >= needed {
                quorums.push(Quorum { needed, logs });
            }
        }
        let by = match quorums.len() == configs.len() && !quorums.is_empty() {
            true => Currency::Quorums(quorums),
            false => Currency::Lease,
        };
        self.leading.store(Some(Arc::new(Leading {
            term,
            membership_mark: mark,
            by,
        })));
        // A handover that began meanwhile must not be overlooked.
        if self.handed_over.load(Ordering::Acquire) == term {
            self.leading.store(None);
        }
    }

    /// Hands the lead to the voter on drive `to`: it may be elected at once, so from now on this one has no lease, for as
    /// long as it leads in this term.
    pub async fn hand_to(&self, to: DriveId) -> Result<(), String> {
        if let Some(term) = self.leads() {
            self.handed_over.store(term, Ordering::Release);
        }
        self.leading.store(None);
        let asked = self.raft.trigger().transfer_leader(to.0).await;
        asked.map_err(|error| error.to_string())
    }

    /// Takes in an image: stages it, then has it installed. Gives why not.
    pub async fn receive_snapshot(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        pieces: Pieces,
    ) -> Result<SnapshotResponse<TypeConfig>, String> {
        let _one_at_a_time = self.staging.lock().await;
        if let Some(reason) = self.stopped() {
            return Err(reason.to_owned());
        }
        snapshot::stage(self.state.as_ref(), &self.log, pieces)
            .await
            .map_err(|error| error.to_string())?;
        let image = Snapshot {
            meta,
            snapshot: Image::Staged,
        };
        self.raft
            .install_full_snapshot(vote, image)
            .await
            .map_err(|error| {
                // The installation may still be under way: the next image must not be staged over this one.
                self.log.stop(&error.to_string());
                error.to_string()
            })
    }

    /// Asks the replica to stand for election although its old leader's time has not run out: the leader of `term` is
    /// known to have stopped. Not if it has heard of a newer term by now.
    pub async fn succeed(&self, term: u64) {
        let vote = self.log.vote();
        let Some(vote) = vote.filter(|vote| vote.leader_id.term <= term) else {
            return;
        };
        let request = TransferLeaderRequest::new(vote, self.drive().0, None);
        // Where it cannot another is asked.
        let _asked = self.raft.handle_transfer_leader(request).await;
    }

    /// Ends the replica. Nothing is read from it from the moment of the call, and nothing is written to its state
    /// once this returns.
    pub async fn stop(&self, reason: &str) {
        self.log.stop(reason);
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(group = %self.address.group, drive = %self.drive(), %error, "a replica did not end well");
        }
        let _no_image_is_staged = self.staging.lock().await;
        let mut end = self.end.clone();
        while end.changed().await.is_ok() {}
    }

    /// Removes what the drive has of the group, but for the vote. The replica must have stopped.
    pub async fn erase(&self) -> Result<(), IndexError> {
        self.readers.gone().await;
        self.drive_log.write(&self.log, Change::Erase).await?;
        snapshot::erase(self.state.as_ref(), self.address.group)
    }
}

/// The voter that comes next to the leader in the order of voters, which is a circle.
fn heir_of(leader: u64, voters: &BTreeSet<u64>) -> Option<u64> {
    let next = voters.range(leader.checked_add(1)?..).next();
    let heir = *next.or_else(|| voters.first())?;
    (heir != leader).then_some(heir)
}

impl Quorum {
    pub fn agrees(&self, term: u64) -> bool {
        let agreeing = self
            .logs
            .iter()
            .filter(|log| log.term() <= term && log.stopped().is_none())
            .count();
        agreeing >= self.needed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::heir_of;

    #[test]
    fn each_voter_is_the_heir_of_one_other() {
        let voters = BTreeSet::from([2, 5, 9]);
        let heirs: Vec<_> = voters
            .iter()
            .map(|leader| heir_of(*leader, &voters))
            .collect();
        assert_eq!(heirs, [Some(5), Some(9), Some(2)]);
        assert_eq!(heir_of(7, &voters), Some(9), "a leader that votes no more");
        assert_eq!(heir_of(2, &BTreeSet::from([2])), None);
        assert_eq!(heir_of(2, &BTreeSet::new()), None);
    }
}
