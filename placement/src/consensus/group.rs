//! A group as its users see it: whoever leads it at the moment.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use futures_util::future::{self, Either};
use openraft::ReadPolicy;
use openraft::errors::{ClientWriteError, ForwardReason, LinearizableReadError, RaftError};
use openraft::type_config::async_runtime::watch::WatchReceiver;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::ReadError;
use super::raft_types::{Opaque, term_of_leader};
use super::replica::Replica;
use crate::ids::{DriveId, GroupId};
use crate::seams::{Clock, Index, spawn};

#[cfg(test)]
mod tests;

/// Pause between attempts while a group has no leader; a change of leader ends it.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// How long a successor may take to be elected, before another is asked.
const SUCCESSION_TIME: Duration = Duration::from_millis(100);

/// Heartbeat intervals that a leader may go without a quorum, once its time has run out.
const SUSPICION_MAX: u32 = 3;

/// The state after a read barrier; `None`: the group is led elsewhere.
type ReadResult = Result<Option<Arc<dyn Index>>, ReadError>;

/// What came of a proposal in this process.
#[derive(Debug)]
pub(crate) enum ProposedHere {
    Decided(Bytes),
    /// No replica here leads, but others may; who does, if it is known.
    NotHere(Option<DriveId>),
    /// There are no voters elsewhere, and all replicas here have stopped.
    Stopped(String),
}

/// The replicas of a group in this process.
pub(crate) struct Group {
    id: GroupId,
    clock: Arc<dyn Clock>,
    deadline: Duration,
    lease: Duration,
    here: ArcSwap<Vec<Arc<Replica>>>,
    leader: ArcSwapOption<Replica>,
    changed: Notify,
    barrier: Mutex<Barrier>,
    /// Heartbeat intervals in a row in which the leader has heard of no quorum.
    suspicion: AtomicU32,
    /// Voters here may have promised, before this process began, not to vote yet.
    is_young: AtomicBool,
    /// The newest term whose leader was found to have ended here.
    succeeded: AtomicU64,
    /// Drives here whose replica could not be started, and why.
    left_out: Mutex<BTreeMap<DriveId, String>>,
}

/// Readers that wait for the next read barrier.
#[derive(Default)]
struct Barrier {
    under_way: bool,
    waiting: Vec<oneshot::Sender<ReadResult>>,
}

impl Group {
    /// `lease` is for how long voters vote for nobody else after they have heard of their leader; `is_young` as for
    /// [`Group::pulse`].
    pub fn new(
        id: GroupId,
        clock: Arc<dyn Clock>,
        deadline: Duration,
        lease: Duration,
        is_young: bool,
    ) -> Self {
        Self {
            id,
            clock,
            deadline,
            lease,
            here: ArcSwap::default(),
            leader: ArcSwapOption::empty(),
            changed: Notify::new(),
            barrier: Mutex::default(),
            suspicion: AtomicU32::new(0),
            is_young: AtomicBool::new(is_young),
            succeeded: AtomicU64::new(0),
            left_out: Mutex::default(),
        }
    }

    pub fn id(&self) -> GroupId {
        self.id
    }

    /// The replicas in this process, stopped ones included.
    pub fn here(&self) -> Arc<Vec<Arc<Replica>>> {
        self.here.load_full()
    }

    pub fn replica_on(&self, drive: DriveId) -> Option<Arc<Replica>> {
        self.here
            .load()
            .iter()
            .find(|replica| replica.drive() == drive)
            .cloned()
    }

    /// The drive's replica could not be started.
    pub fn leave_out(&self, drive: DriveId, reason: String) {
        self.left_out.lock().insert(drive, reason);
    }

    /// The drives whose replica could not be started, and why.
    pub fn left_out(&self) -> Vec<(DriveId, String)> {
        let left_out = self.left_out.lock();
        left_out
            .iter()
            .map(|(drive, why)| (*drive, why.clone()))
            .collect()
    }

    /// Takes in a replica and follows what becomes of it.
    pub fn insert(self: &Arc<Self>, replica: Arc<Replica>) {
        self.left_out.lock().remove(&replica.drive());
        self.here.rcu(|here| {
            let mut here = here.as_ref().clone();
            here.retain(|other| other.drive() != replica.drive());
            here.push(replica.clone());
            here
        });
        spawn(follow(self.clone(), replica));
    }

    pub fn remove(&self, drive: DriveId) {
        self.left_out.lock().remove(&drive);
        self.here.rcu(|here| {
            let mut here = here.as_ref().clone();
            here.retain(|other| other.drive() != drive);
            here
        });
        self.update_leader();
        self.set_ticks();
    }

    /// The replica that leads, as far as is known.
    pub fn leader(&self) -> Option<Arc<Replica>> {
        let leader = self.leader.load();
        match leader.as_ref() {
            Some(leader) if leader.stopped().is_none() => Some(leader.clone()),
            _ => None,
        }
    }

    /// Looks which replica leads in the newest term, and wakes those who wait for a change.
    fn update_leader(&self) {
        let here = self.here.load();
        let leader = here
            .iter()
            .filter(|replica| replica.stopped().is_none())
            .filter_map(|replica| Some((replica.leads()?, replica)))
            .max_by_key(|(term, _)| *term)
            .map(|(_, replica)| replica.clone());
        self.leader.store(leader);
        self.changed.notify_waiters();
    }

    /// openraft's own timers are needed where voters are out of this process's sight, and only by replicas that may have to
    /// stand for election: see [`Group::pulse`].
    fn set_ticks(&self) {
        let spread = self.is_spread();
        for replica in self.here.load().iter() {
            let config = replica.raft().runtime_config();
            config.tick(spread && replica.is_deserted());
            // One that was made anew may lack what others have counted on.
            let may_vote = !spread || !self.is_young.load(Ordering::Relaxed);
            config.elect(replica.log().is_complete() && may_vote);
        }
    }

    /// Whether replicas of other processes take part, as far as is known here: also when nothing is.
    pub fn is_spread(&self) -> bool {
        let here = self.here.load();
        let mut known = false;
        for replica in here.iter() {
            let Some((_, configs)) = replica.log().voters() else {
                continue;
            };
            known = true;
            let mut voters = configs.into_iter().flatten();
            if voters.any(|voter| !here.iter().any(|replica| replica.drive().0 == voter)) {
                return true;
            }
        }
        !known
    }

    /// The leader by the word of the replicas here, if it is none of them.
    pub fn leader_elsewhere(&self) -> Option<DriveId> {
        let here = self.here.load();
        let newest = here
            .iter()
            .filter(|replica| replica.stopped().is_none())
            .max_by_key(|replica| replica.log().term())?;
        let leader = newest.known_leader()?;
        let is_here = here.iter().any(|replica| replica.drive() == leader);
        (!is_here).then_some(leader)
    }

    /// Waits until the leader may have changed, for a short while.
    pub async fn wait(&self) {
        let changed = pin!(self.changed.notified());
        future::select(changed, self.clock.sleep(RETRY_PAUSE)).await;
    }

    /// Why there is nothing left to wait for: all replicas have stopped.
    pub fn dead(&self) -> Option<String> {
        let here = self.here.load();
        if here.is_empty() {
            return Some("no replica is here".into());
        }
        let mut reason = None;
        for replica in here.iter() {
            reason = Some(replica.stopped()?.to_owned());
        }
        reason
    }

    /// Has a command decided by the replica that leads here, if one does; waits for one only where all voters are
    /// here. `in_doubt` is set while the command may be in a log, and stays set if that is not known.
    pub async fn propose(&self, command: Bytes, in_doubt: &AtomicBool) -> ProposedHere {
        let command = Opaque(command);
        let mut doubtful = in_doubt.load(Ordering::Relaxed);
        loop {
            let Some(leader) = self.leader() else {
                if self.is_spread() {
                    return ProposedHere::NotHere(self.leader_elsewhere());
                }
                if let Some(reason) = self.dead() {
                    return ProposedHere::Stopped(reason);
                }
                self.wait().await;
                continue;
            };
            // In doubt while it is under way, and for good unless the leader says that it did not take it.
            in_doubt.store(true, Ordering::Relaxed);
            match leader.raft().client_write(command.clone()).await {
                Ok(answer) => return ProposedHere::Decided(answer.data.0),
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(refusal))) => {
                    in_doubt.store(doubtful, Ordering::Relaxed);
                    if refusal.reason == ForwardReason::LeaseExpired {
                        // It has heard of no quorum for long; if there is one, it hears of it now.
                        leader.beat().await;
                    } else if let Some(other) = refusal.leader_id.map(DriveId)
                        && self.replica_on(other).is_none()
                    {
                        return ProposedHere::NotHere(Some(other));
                    }
                }
                Err(RaftError::Fatal(error)) => {
                    doubtful = true;
                    leader.log().stop(&error.to_string());
                }
                Err(RaftError::APIError(_)) => doubtful = true,
            }
            self.wait().await;
        }
    }

    /// See [`Groups::read`](super::Groups::read), where it costs nothing.
    pub fn read_now(&self) -> Option<Arc<dyn Index>> {
        let leader = self.leader.load();
        let leader = leader.as_ref()?;
        let state = leader.lend();
        leader.is_current(self.lease).then_some(state)
    }

    /// See [`Groups::read`](super::Groups::read), by a read barrier. Readers that come while one is under way share
    /// the next.
    pub async fn read(self: &Arc<Self>) -> ReadResult {
        let (tx, rx) = oneshot::channel();
        let first = {
            let mut barrier = self.barrier.lock();
            barrier.waiting.push(tx);
            !std::mem::replace(&mut barrier.under_way, true)
        };
        if first {
            // Its own task: the reader that began it may go away, the others still wait.
            spawn(self.clone().run_barriers());
        }
        rx.await.unwrap_or_else(|_| {
            Err(ReadError::Stopped {
                group: self.id,
                reason: "the process ends".into(),
            })
        })
    }

    async fn run_barriers(self: Arc<Self>) {
        loop {
            let waiting = {
                let mut barrier = self.barrier.lock();
                if barrier.waiting.is_empty() {
                    barrier.under_way = false;
                    return;
                }
                std::mem::take(&mut barrier.waiting)
            };
            let confirmed = pin!(self.confirm());
            // Half of it: who asks may have to ask again elsewhere, and answers in time all the same.
            let patience = self.clock.sleep(self.deadline / 2);
            let result = match future::select(confirmed, patience).await {
                Either::Left((result, _)) => result,
                Either::Right(_) => Err(ReadError::NoQuorum { group: self.id }),
            };
            for reader in waiting {
                // A reader that is gone needs no answer.
                let _gone = reader.send(result.clone());
            }
        }
    }

    /// One read barrier, if the leader is here; ends with an error only when all replicas have stopped.
    async fn confirm(&self) -> ReadResult {
        loop {
            let Some(leader) = self.leader() else {
                if self.is_spread() {
                    return Ok(None);
                }
                if let Some(reason) = self.dead() {
                    return Err(ReadError::Stopped {
                        group: self.id,
                        reason,
                    });
                }
                self.wait().await;
                continue;
            };
            let mark = leader.log().membership_mark();
            match leader
                .raft()
                .ensure_linearizable(ReadPolicy::ReadIndex)
                .await
            {
                Ok(read) => {
                    let term = term_of_leader(read.committed_leader_id());
                    let state = leader.lend();
                    // Where another leads by now, that one's image may be about to take the place of this state.
                    if leader.stopped().is_some() || leader.log().term() != term {
                        continue;
                    }
                    leader.lead(term, mark, &self.here.load());
                    leader.spare(self.can_do_without(&leader));
                    return Ok(Some(state));
                }
                Err(RaftError::Fatal(error)) => leader.log().stop(&error.to_string()),
                Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => {}
                Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {}
            }
            self.wait().await;
        }
    }

    /// Has a replica stand for election, if any here is a voter: the one with the most complete log. Not where there are
    /// voters in other processes: those here may have promised not to vote yet, before this process began.
    pub async fn elect(&self) {
        if self.is_spread() {
            return;
        }
        let candidate = self.best(|replica| replica.log().initialised() && is_voter(replica));
        if let Some(candidate) = candidate {
            stand(&candidate, false).await;
        }
    }

    /// To be called once every heartbeat interval. Has the leader send its heartbeats, and sees to it that there is
    /// one: it takes over what openraft's own ticks do, at far less cost. Where there are voters in other processes only a
    /// replica that hears of no leader is left to openraft's ticks, which have it stand for election in its time.
    /// `silence_max` is how long a leader may hear of no quorum. `is_gone`: nobody listens any more where the group was last
    /// led. `is_young`: the voters here may have promised not to vote yet, and do not remember; so they do not stand for
    /// election either, with a vote of their own.
    pub async fn pulse(&self, silence_max: Duration, is_gone: bool, is_young: bool) {
        self.is_young.store(is_young, Ordering::Relaxed);
        if let Some(leader) = self.leader() {
            leader.spare(self.can_do_without(&leader));
        }
        if self.is_spread() {
            for replica in self.here.load().iter() {
                replica.count_pulse();
                if replica.leads().is_some() && replica.stopped().is_none() {
                    replica.beat().await;
                } else if is_gone && !is_young && replica.is_deserted() && replica.is_heir() {
                    // It need not wait any longer than for the lease: nobody votes before.
                    stand(replica, true).await;
                }
            }
            self.set_ticks();
            return;
        }
        let Some(leader) = self.leader() else {
            self.suspicion.store(0, Ordering::Relaxed);
            if let Some(candidate) =
                self.best(|replica| replica.log().initialised() && is_voter(replica))
            {
                stand(&candidate, true).await;
            }
            return;
        };
        let alone = leader
            .log()
            .voters()
            .is_some_and(|(_, configs)| configs.iter().all(|voters| voters.len() == 1));
        if alone {
            return;
        }
        leader.beat().await;
        if leader
            .silence()
            .is_some_and(|silence| silence <= silence_max)
        {
            self.suspicion.store(0, Ordering::Relaxed);
            return;
        }
        // It may be this process that stood still; only heartbeats that go unanswered count.
        if self.suspicion.fetch_add(1, Ordering::Relaxed) + 1 < SUSPICION_MAX {
            return;
        }
        self.suspicion.store(0, Ordering::Relaxed);
        let other = |replica: &Replica| replica.drive() != leader.drive() && is_voter(replica);
        if let Some(candidate) = self.best(other) {
            tracing::warn!(group = %self.id, silent = %leader.drive(), candidate = %candidate.drive(), "a leader hears of no quorum");
            stand(&candidate, true).await;
        }
    }

    /// Whether the voters other than this leader are a quorum, by what it has heard of late.
    fn can_do_without(&self, leader: &Replica) -> bool {
        let Some((_, configs)) = leader.log().voters() else {
            return false;
        };
        let here = self.here.load();
        let answers = |voter: &u64| {
            let local = here.iter().find(|replica| replica.drive().0 == *voter);
            match local {
                Some(local) => local.stopped().is_none(),
                None => leader.has_heard_of(*voter, self.lease),
            }
        };
        configs.iter().all(|voters| {
            let others = voters.iter().filter(|voter| **voter != leader.drive().0);
            others.filter(|voter| answers(voter)).count() > voters.len() / 2
        })
    }

    /// A replica is known to have ended. If it led, another takes over at once rather than after a time-out.
    pub fn lost(self: &Arc<Self>, replica: &Replica) {
        self.update_leader();
        let Some(term) = led_in(replica) else {
            return;
        };
        // Two that stand for election at once split the votes: who notices the end second leaves it to the first.
        if self.succeeded.fetch_max(term, Ordering::AcqRel) < term {
            tracing::info!(group = %self.id, lost = %replica.drive(), "a leader is gone");
            spawn(self.clone().find_successor(term));
        }
    }

    /// Has one replica after the other stand for election, until one of them leads or all had their turn: what the old
    /// leader had sent may still arrive, and then voters refuse whom it had not reached yet.
    async fn find_successor(self: Arc<Self>, term: u64) {
        // The old leader's lease binds nobody any more. Who knows of no later election stands in the next term at most,
        // in which nobody can have voted for another leader and for this one.
        let follows = |other: &Replica| {
            let log = other.log();
            log.term() <= term && log.is_complete() && is_voter(other)
        };
        for _ in 0..2 * self.here().len() {
            if let Some(successor) = self.best(follows) {
                successor.succeed(term).await;
            } else if !self.is_young.load(Ordering::Relaxed)
                && let Some(candidate) = self.best(is_voter)
            {
                // The votes were split, or there is a leader elsewhere.
                stand(&candidate, true).await;
            }
            if self.is_led_within(SUCCESSION_TIME).await {
                return;
            }
        }
    }

    async fn is_led_within(&self, time: Duration) -> bool {
        let until = self.clock.monotonic() + time;
        while self.leader().is_none() {
            if self.clock.monotonic() >= until {
                return false;
            }
            self.wait().await;
        }
        true
    }

    /// The live replica with the most complete log among those that are `fit`; equals take turns by group, so that
    /// leaders spread over the drives.
    fn best(&self, fit: impl Fn(&Replica) -> bool) -> Option<Arc<Replica>> {
        let here = self.here.load();
        let mut fit: Vec<_> = here
            .iter()
            .filter(|replica| replica.stopped().is_none() && fit(replica))
            .collect();
        fit.sort_by_key(|replica| replica.drive());
        let newest = fit.iter().map(|replica| replica.log().last()).max()?;
        fit.retain(|replica| replica.log().last() == newest);
        fit.get(self.id.0 as usize % fit.len().max(1))
            .map(|replica| (*replica).clone())
    }
}

/// Has the replica stand for election; with `ask_first`, only if a quorum would vote for it.
async fn stand(candidate: &Replica, ask_first: bool) {
    // What it has forgotten others may have counted on.
    if !candidate.log().is_complete() {
        return;
    }
    if let Err(error) = candidate.raft().trigger().elect(ask_first).await {
        tracing::warn!(replica = ?candidate.address(), %error, "cannot stand for election");
    }
}

/// The term in which a replica leads, or led when it ended.
fn led_in(replica: &Replica) -> Option<u64> {
    let vote = replica.log().vote()?;
    let elected = vote.committed && vote.leader_id.voted_for == replica.drive().0;
    // It leads a moment before that is written down.
    elected
        .then_some(vote.leader_id.term)
        .or_else(|| replica.leads())
}

fn is_voter(replica: &Replica) -> bool {
    replica.log().voters().is_some_and(|(_, configs)| {
        configs
            .iter()
            .any(|voters| voters.contains(&replica.drive().0))
    })
}

/// Follows a replica until it ends.
async fn follow(group: Arc<Group>, replica: Arc<Replica>) {
    let mut metrics = replica.raft().server_metrics();
    loop {
        group.update_leader();
        group.set_ticks();
        let changed = pin!(metrics.changed());
        match future::select(changed, pin!(replica.log().stopping())).await {
            Either::Left((Ok(()), _)) => {}
            Either::Left((Err(_), _)) => break,
            Either::Right((reason, _)) => {
                // A leader that is not to be heard of any more must not go on beating.
                replica.stop(reason).await;
                break;
            }
        }
    }
    let reason = match &replica.raft().metrics().borrow_watched().running_state {
        Ok(()) => "the replica has ended".to_owned(),
        Err(error) => error.to_string(),
    };
    if replica.stopped().is_none() {
        tracing::error!(group = %group.id, drive = %replica.drive(), reason, "a replica has failed");
    }
    replica.log().stop(&reason);
    group.lost(&replica);
}
