//! All replicas of this process.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::{self, join_all};
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft::type_config::async_runtime::watch::WatchReceiver;
use openraft::{ChangeMembers, Config, EmptyNode, SnapshotPolicy};
use parking_lot::{Mutex, RwLock};

use super::flusher::DriveLog;
use super::group::Group;
use super::log_store::hosted_groups;
use super::network::LocalTransport;
use super::raft_types::TypeConfig;
use super::remote::{Order, Remote, Routes};
use super::replica::{Replica, StartError, Surroundings};
use super::state_machine::Growth;
use super::{ConsensusConfig, GroupStatus, MachineFactory, ReplicaDrive};
use crate::ids::{DriveId, GroupId, NodeId};
use crate::rpc::Peers;
use crate::seams::{Clock, Index, blocking, spawn};

/// How long a replica that is to vote may go without any progress towards the leader's log.
const CATCH_UP_STALL: Duration = Duration::from_secs(30);

/// How long one that has what the leader had when it began may take to be close to it.
const CATCH_UP_CLOSE: Duration = Duration::from_secs(60);

/// How long a failed drive's replicas may take to end before they are left to themselves.
const END_TIME: Duration = Duration::from_secs(2);

/// Entries that a replica may lack that is to vote, or to lead.
pub(super) const LAG_MAX: u64 = 256;

/// Pause between two looks at the progress of a replica.
const CATCH_UP_PAUSE: Duration = Duration::from_millis(10);

/// Hosts the replicas of this process, on any number of drives, and is how their groups are used.
///
/// Keep it for the life of the process and end it with [`Replicas::shutdown`]. Needs a clock whose `sleep` really
/// waits: openraft keeps time by tokio's.
pub struct Replicas {
    pub(super) config: ConsensusConfig,
    alone: Arc<Config>,
    among_others: Arc<Config>,
    pub(super) clock: Arc<dyn Clock>,
    /// When the process began, monotonic.
    pub(super) opened: Duration,
    machines: MachineFactory,
    pub(super) transport: Arc<LocalTransport>,
    pub(super) remote: Option<Arc<Remote>>,
    /// The nodes that were last found to lead groups, where that is elsewhere.
    pub(super) leaders: RwLock<HashMap<GroupId, NodeId>>,
    drives: Mutex<BTreeMap<DriveId, Drive>>,
    pub(super) groups: ArcSwap<HashMap<GroupId, Arc<Group>>>,
    /// Takes turns among nodes that may know a leader.
    pub(super) turns: AtomicUsize,
    /// Held while another node's order to host or to drop a replica is carried out, and where the same is done here. Never
    /// while another node is asked for anything: two nodes that waited for each other would wait for ever.
    pub(super) hosting: tokio::sync::Mutex<()>,
    /// One change of who hosts what at a time.
    pub(super) changes: tokio::sync::Mutex<()>,
    ended: AtomicBool,
    pub(super) has_wrong_clock: AtomicBool,
    /// By how many milliseconds the wall clock is ahead of the monotonic one.
    pub(super) clock_offset: AtomicI64,
}

#[derive(Clone)]
struct Drive {
    log: Arc<DriveLog>,
    state: Arc<dyn Index>,
    failed: Option<String>,
    /// Given up, but not all of its replicas have ended.
    ending: bool,
}

/// Why a change of replicas or membership was not made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ChangeError {
    #[error("{0} is not known here")]
    UnknownGroup(GroupId),
    #[error("{0} is not here, or has failed")]
    UnknownDrive(DriveId),
    #[error("{0} is here already")]
    DriveExists(DriveId),
    #[error("{0} must have at least one voter")]
    NoVoters(GroupId),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("{drive} cannot be used: {reason}")]
    Drive { drive: DriveId, reason: String },
    /// Nothing is known about whether the change is under way; ask again, with the same arguments.
    #[error("{group} did not make the change: {reason}")]
    Group { group: GroupId, reason: String },
    #[error("the timing is not consistent: {0}")]
    Config(String),
}

type MembershipWritten =
    Result<ClientWriteResponse<TypeConfig>, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>;

/// Result of a change of replicas or membership.
pub(super) type Changed<T> = Result<T, ChangeError>;

impl Replicas {
    /// Starts the replicas that the drives hold. Those of a drive that cannot be used are left out: see
    /// [`Replicas::failed_drives`]. Does not wait for leaders. With `peers`, groups may have voters on other nodes, or
    /// there alone.
    pub async fn open(
        drives: Vec<ReplicaDrive>,
        machines: MachineFactory,
        clock: Arc<dyn Clock>,
        config: ConsensusConfig,
        peers: Option<Peers>,
    ) -> Changed<Arc<Self>> {
        let replicas = Arc::new(Self {
            // A group of one voter may grow where there are other nodes, and must not purge what the new ones still need.
            alone: Arc::new(raft_config(&config, peers.is_none())?),
            among_others: Arc::new(raft_config(&config, false)?),
            config,
            opened: clock.monotonic(),
            clock: clock.clone(),
            machines,
            transport: Arc::default(),
            remote: peers.map(|peers| Arc::new(Remote { peers })),
            leaders: RwLock::default(),
            turns: AtomicUsize::new(0),
            drives: Mutex::default(),
            groups: ArcSwap::default(),
            hosting: tokio::sync::Mutex::new(()),
            changes: tokio::sync::Mutex::new(()),
            ended: AtomicBool::new(false),
            has_wrong_clock: AtomicBool::new(false),
            clock_offset: AtomicI64::new(offset_of(&*clock)),
        });
        let starts = drives.into_iter().map(|drive| {
            let replicas = replicas.clone();
            spawn(async move { replicas.start_drive(drive).await })
        });
        for started in join_all(starts).await {
            match started {
                Ok(Ok(())) => {}
                Ok(Err(error @ ChangeError::DriveExists(_))) => return Err(error),
                Ok(Err(error)) => tracing::error!(%error, "a drive's replicas are left out"),
                Err(error) => tracing::error!(%error, "a drive's start panicked"),
            }
        }
        let groups = replicas.groups.load_full();
        join_all(groups.values().map(|group| group.elect())).await;
        spawn(pulse(Arc::downgrade(&replicas)));
        Ok(replicas)
    }

    /// The drives that take part.
    pub fn drives(&self) -> Vec<DriveId> {
        let drives = self.drives.lock();
        drives
            .iter()
            .filter(|(_, drive)| drive.failed.is_none())
            .map(|(id, _)| *id)
            .collect()
    }

    /// The drives that were given up, and those whose log or state cannot be written any more and that have to be; and why.
    pub fn failed_drives(&self) -> Vec<(DriveId, String)> {
        let drives = self.drives.lock();
        let failed = drives.iter().filter_map(|(id, drive)| {
            let reason = drive.failed.as_deref().or_else(|| drive.log.failed())?;
            Some((*id, reason.to_owned()))
        });
        failed.collect()
    }

    /// Whether the drive has replicas of groups.
    pub fn is_host(&self, drive: DriveId) -> bool {
        let groups = self.groups.load();
        groups
            .values()
            .any(|group| group.replica_on(drive).is_some())
    }

    /// Takes in a drive, with the replicas that it holds.
    pub async fn add_drive(&self, drive: ReplicaDrive) -> Changed<()> {
        let _one_at_a_time = self.changes.lock().await;
        self.start_drive(drive).await
    }

    /// Gives a drive back: its leaders hand over first, and what was written is durable when this returns.
    /// Memberships stay as they are.
    pub async fn remove_drive(&self, id: DriveId) -> Changed<()> {
        let _one_at_a_time = self.changes.lock().await;
        let drive = self.drive(id)?;
        let groups = self.groups.load_full();
        join_all(groups.values().map(|group| self.hand_over(group, id))).await;
        self.stop_replicas(id, "the drive is taken out").await;
        self.drives.lock().remove(&id);
        close(drive)
            .await
            .map_err(|reason| ChangeError::Drive { drive: id, reason })
    }

    /// A drive has failed: nothing of it is used from the moment of the call, and others take over what its
    /// replicas led. Waits a short while for its replicas to end, which a drive that hangs may prevent; until they
    /// have, the drive cannot be added again. Unknown drives are no error.
    pub async fn fail_drive(self: &Arc<Self>, id: DriveId) {
        let reason = "the drive has failed";
        {
            let mut drives = self.drives.lock();
            let Some(drive) = drives.get_mut(&id).filter(|drive| drive.failed.is_none()) else {
                return;
            };
            drive.log.abandon();
            drive.failed = Some(reason.into());
            drive.ending = true;
        }
        let groups = self.groups.load_full();
        let lost: Vec<_> = groups
            .values()
            .filter_map(|group| Some((group.clone(), group.replica_on(id)?)))
            .collect();
        for (_, replica) in &lost {
            replica.log().stop(reason);
        }
        for (group, replica) in &lost {
            group.lost(replica);
        }
        let replicas = self.clone();
        let end = spawn(async move {
            replicas.stop_replicas(id, reason).await;
            let log = replicas
                .drives
                .lock()
                .get(&id)
                .map(|drive| drive.log.clone());
            if let Some(log) = log {
                // Its writer ends by itself; what comes after must not meet it.
                let _ended = blocking(move || log.close()).await;
            }
            if let Some(drive) = replicas.drives.lock().get_mut(&id) {
                drive.ending = false;
            }
        });
        future::select(end, self.clock.sleep(END_TIME)).await;
    }

    /// Makes the group with these voters, unless it exists: where all its replicas here are part of it already,
    /// nothing happens, whoever its voters are by now. When this returns, a quorum of voters knows of the group; after
    /// an error it must be called again, with the same voters. Must not be called for a group that may exist on
    /// drives that are not here.
    pub async fn create_group(&self, id: GroupId, voters: &[DriveId]) -> Changed<()> {
        {
            let _one_at_a_time = self.changes.lock().await;
            let here = self.group(id).map(|group| group.here()).unwrap_or_default();
            let part = |replica: &Arc<Replica>| replica.log().initialised();
            if !here.iter().any(part) {
                self.begin_group(id, voters).await?;
            } else if here.iter().all(part) {
                return Ok(());
            }
        }
        let barrier = self.group(id)?.read().await;
        barrier.map(drop).map_err(|error| refused(id, error))
    }

    /// Hosts the replicas of a new group, and makes one of them its first member.
    async fn begin_group(&self, id: GroupId, voters: &[DriveId]) -> Changed<()> {
        let members: BTreeMap<u64, EmptyNode> = voters
            .iter()
            .map(|drive| (drive.0, EmptyNode::new()))
            .collect();
        let Some(first) = voters.get(id.0 as usize % voters.len().max(1)) else {
            return Err(ChangeError::NoVoters(id));
        };
        let alone = members.len() == 1;
        let starts = voters.iter().map(|drive| self.host(id, *drive, alone));
        for started in join_all(starts).await {
            started?;
        }
        let replica = self
            .group(id)?
            .replica_on(*first)
            .ok_or(ChangeError::UnknownDrive(*first))?;
        replica
            .raft()
            .initialize(members)
            .await
            .map_err(|error| refused(id, error))
    }

    /// Makes `voters` the group's voters: new ones first get all that the group has, then the membership changes,
    /// then the replicas of those that are no longer voters are removed from drives that are here. May be called
    /// again after an error, or when another change was under way.
    pub async fn change_voters(&self, id: GroupId, voters: &[DriveId]) -> Changed<()> {
        let _one_at_a_time = self.changes.lock().await;
        let group = self.group(id)?;
        if voters.is_empty() {
            return Err(ChangeError::NoVoters(id));
        }
        let wanted: BTreeSet<u64> = voters.iter().map(|drive| drive.0).collect();
        let mut unhosted = Vec::new();
        for drive in voters {
            if self.drive(*drive).is_ok() {
                let _alone = self.hosting.lock().await;
                if let Err(error) = self.host(id, *drive, false).await {
                    unhosted.push((*drive, error));
                }
            }
        }
        let leader = self.leader(&group).await?;
        let known = voters_of(&leader);
        for (drive, error) in unhosted {
            // A voter whose replica cannot run must not keep others from becoming voters, too: they are needed all the more.
            match known.contains(&drive.0) {
                true => {
                    tracing::warn!(group = %id, %drive, %error, "a voter's replica does not run")
                }
                false => return Err(error),
            }
        }
        for drive in voters.iter().filter(|drive| !known.contains(&drive.0)) {
            if let Some((remote, node)) = self.elsewhere(*drive) {
                let order = Order::Host {
                    group: id,
                    drive: *drive,
                };
                let hosted = remote.order(node, &order).await;
                hosted.map_err(|reason| refused(id, reason))?;
            }
            self.catch_up(&group, *drive).await?;
        }
        let leader = self.leader(&group).await?;
        if !wanted.contains(&leader.drive().0)
            && let Some(heir) = voters
                .iter()
                .find(|drive| known.contains(&drive.0) && self.may_lead(&group, **drive))
        {
            self.hand_to(&group, *heir).await?;
            if self.elsewhere(*heir).is_some() {
                return Err(refused(id, format!("{heir} leads it now: ask there")));
            }
        }
        let leader = self
            .write_membership(&group, |leader| {
                let wanted = wanted.clone();
                async move { leader.raft().change_membership(wanted, false).await }
            })
            .await?;
        let mut gone: BTreeSet<u64> = known.difference(&wanted).copied().collect();
        // Those that were to become voters in a change that was given up would be replicated to for ever.
        let learners: BTreeSet<u64> = learners_of(&leader).difference(&wanted).copied().collect();
        if !learners.is_empty() && wanted.contains(&leader.drive().0) {
            let removed = self.write_membership(&group, |leader| {
                let removal = ChangeMembers::RemoveNodes(learners.clone());
                async move { leader.raft().change_membership(removal, false).await }
            });
            match removed.await {
                Ok(_) => gone.extend(learners),
                Err(error) => {
                    tracing::info!(group = %id, %error, "learners that are not wanted stay for now");
                }
            }
        }
        let since = leader.log().membership_index().unwrap_or_default();
        for drive in gone.into_iter().map(DriveId) {
            if let Some((remote, node)) = self.elsewhere(drive) {
                let order = Order::Drop {
                    group: id,
                    drive,
                    since,
                };
                if let Err(reason) = remote.order(node, &order).await {
                    tracing::info!(group = %id, %drive, reason, "a replica that is no voter any more stays for now");
                }
            }
        }
        for replica in group
            .here()
            .iter()
            .filter(|replica| !wanted.contains(&replica.drive().0))
        {
            let _alone = self.hosting.lock().await;
            self.drop_replica(&group, replica).await?;
        }
        for (drive, _) in group.left_out() {
            if !wanted.contains(&drive.0) {
                group.remove(drive);
            }
        }
        Ok(())
    }

    /// Has the voter on drive `to` lead the group.
    pub async fn transfer_leader(&self, id: GroupId, to: DriveId) -> Changed<()> {
        let group = self.group(id)?;
        self.hand_to(&group, to).await
    }

    /// Waits until all groups have a leader; `false` if they have not within `time`.
    pub async fn await_leaders(&self, time: Duration) -> bool {
        let until = self.clock.monotonic() + time;
        for group in self.groups.load_full().values() {
            while group.leader().is_none() && group.leader_elsewhere().is_none() {
                if self.clock.monotonic() >= until {
                    return false;
                }
                group.wait().await;
            }
        }
        true
    }

    /// How the groups stand, by id.
    pub fn status(&self) -> Vec<GroupStatus> {
        let groups = self.groups.load();
        let here: BTreeSet<_> = self.drives.lock().keys().copied().collect();
        let mut status: Vec<_> = groups
            .values()
            .map(|group| status_of(group, &here))
            .collect();
        status.sort_by_key(|status| status.group);
        status
    }

    /// The groups that a replica here leads, with the term and the drive, by the replicas' own word.
    pub fn leads(&self) -> Vec<(GroupId, u64, DriveId)> {
        let groups = self.groups.load();
        let mut leads = Vec::new();
        for group in groups.values() {
            for replica in group.here().iter() {
                let term = replica.leads().filter(|_| replica.stopped().is_none());
                leads.extend(term.map(|term| (group.id(), term, replica.drive())));
            }
        }
        leads.sort_unstable();
        leads
    }

    /// Ends all replicas; what was written is durable when this returns.
    pub async fn shutdown(&self) {
        let _one_at_a_time = self.changes.lock().await;
        self.ended.store(true, Ordering::Release);
        let drives: Vec<_> = self
            .drives
            .lock()
            .iter()
            .map(|(id, drive)| (*id, drive.clone()))
            .collect();
        // First none may be read or win an election, then all end.
        for group in self.groups.load().values() {
            for replica in group.here().iter() {
                replica.log().stop("the process ends");
            }
        }
        join_all(
            drives
                .iter()
                .map(|(id, _)| self.stop_replicas(*id, "the process ends")),
        )
        .await;
        for (id, drive) in drives {
            let failed = drive.failed.is_some();
            if let Err(reason) = close(drive).await
                && !failed
            {
                tracing::error!(drive = %id, reason, "a drive's state is not durable");
            }
        }
    }

    pub(super) fn group(&self, id: GroupId) -> Changed<Arc<Group>> {
        self.groups
            .load()
            .get(&id)
            .cloned()
            .ok_or(ChangeError::UnknownGroup(id))
    }

    fn group_or_new(&self, id: GroupId) -> Arc<Group> {
        if let Ok(group) = self.group(id) {
            return group;
        }
        let new = Arc::new(Group::new(
            id,
            self.clock.clone(),
            self.config.deadline,
            self.config.election_timeout_max,
            self.is_young(),
        ));
        self.groups.rcu(|groups| {
            let mut groups = groups.as_ref().clone();
            groups.entry(id).or_insert_with(|| new.clone());
            groups
        });
        self.groups.load().get(&id).cloned().unwrap_or(new)
    }

    fn drive(&self, id: DriveId) -> Changed<Drive> {
        let drives = self.drives.lock();
        match drives.get(&id) {
            Some(drive) if drive.failed.is_none() => Ok(drive.clone()),
            _ => Err(ChangeError::UnknownDrive(id)),
        }
    }

    async fn start_drive(&self, new: ReplicaDrive) -> Changed<()> {
        let id = new.drive;
        let unusable = |reason: String| ChangeError::Drive { drive: id, reason };
        let log = DriveLog::open(id, new.log).map_err(|error| unusable(error.to_string()))?;
        let drive = Drive {
            log: log.clone(),
            state: new.state.clone(),
            failed: None,
            ending: false,
        };
        {
            let mut drives = self.drives.lock();
            match drives.get(&id) {
                Some(known) if known.failed.is_none() => return Err(ChangeError::DriveExists(id)),
                Some(known) if known.ending => {
                    return Err(unusable("its replicas have not ended yet".into()));
                }
                _ => drives.insert(id, drive),
            };
        }
        let started = async {
            let found = blocking(move || {
                // What a killed process left unsynced is taken for durable below: the log may be purged up to it.
                new.state.sync()?;
                hosted_groups(log.index().as_ref())
            });
            let found = found.await.map_err(|error| unusable(error.to_string()))?;
            let groups = found.map_err(|error| unusable(error.to_string()))?;
            for started in
                join_all(groups.into_iter().map(|group| self.host(group, id, false))).await
            {
                // One group's bad state does not take the drive from the others.
                if let Err(error) = started {
                    tracing::error!(%error, "a replica is left out");
                }
            }
            Ok(())
        };
        let result: Changed<()> = started.await;
        if let Err(error) = &result
            && let Some(drive) = self.drives.lock().get_mut(&id)
        {
            drive.log.abandon();
            drive.failed = Some(error.to_string());
        }
        result
    }

    /// Sees to it that the drive has a running replica of the group; `alone`: as the only voter, if it is new.
    pub(super) async fn host(&self, id: GroupId, drive: DriveId, alone: bool) -> Changed<()> {
        let group = self.group_or_new(id);
        if self.is_live(&group, drive) {
            return Ok(());
        }
        let found = self.drive(drive)?;
        let around = Surroundings {
            log: found.log,
            state: found.state,
            machines: self.machines.clone(),
            transport: Arc::new(Routes {
                local: self.transport.clone(),
                remote: self.remote.clone(),
            }),
            alone: self.alone.clone(),
            among_others: self.among_others.clone(),
            point_every: Growth {
                entries: self.config.log_entries_kept,
                bytes: self.config.log_bytes_kept,
            },
        };
        let started = Replica::start(id, &around, alone).await;
        let replica = started.inspect_err(|error| group.leave_out(drive, error.to_string()))?;
        self.transport.insert(replica.clone());
        group.insert(replica);
        Ok(())
    }

    fn is_live(&self, group: &Group, drive: DriveId) -> bool {
        group
            .replica_on(drive)
            .is_some_and(|replica| replica.stopped().is_none())
    }

    /// Ends the drive's replicas and forgets them.
    async fn stop_replicas(&self, drive: DriveId, reason: &str) {
        let groups = self.groups.load_full();
        let replicas: Vec<_> = groups
            .values()
            .filter_map(|group| Some((group, group.replica_on(drive)?)))
            .collect();
        for (_, replica) in &replicas {
            replica.log().stop(reason);
        }
        join_all(replicas.into_iter().map(|(group, replica)| async move {
            self.transport.remove(replica.address());
            replica.stop(reason).await;
            group.remove(drive);
        }))
        .await;
    }

    pub(super) async fn drop_replica(&self, group: &Group, replica: &Replica) -> Changed<()> {
        self.transport.remove(replica.address());
        replica.stop("the drive is no longer a voter").await;
        group.remove(replica.drive());
        let drive = replica.drive();
        if self.drive(drive).is_err() {
            return Ok(());
        }
        replica.erase().await.map_err(|error| ChangeError::Drive {
            drive,
            reason: error.to_string(),
        })
    }

    /// The group's leader, waiting for one. Where another node is known to lead, who asks had better ask there soon.
    async fn leader(&self, group: &Group) -> Changed<Arc<Replica>> {
        let began = self.clock.monotonic();
        loop {
            if let Some(leader) = group.leader() {
                return Ok(leader);
            }
            let (patience, why) = match self.leader_elsewhere(group) {
                Some(other) => (self.config.heartbeat, format!("{other} leads it")),
                None => (self.config.deadline, "it has no leader".to_owned()),
            };
            if self.clock.monotonic() - began >= patience {
                return Err(refused(group.id(), why));
            }
            group.wait().await;
        }
    }

    /// Has the leader write a membership, following it while it is about to change; gives who did it.
    async fn write_membership<F, R>(&self, group: &Group, write: F) -> Changed<Arc<Replica>>
    where
        F: Fn(Arc<Replica>) -> R,
        R: Future<Output = MembershipWritten>,
    {
        let until = self.clock.monotonic() + self.config.deadline;
        loop {
            let leader = self.leader(group).await?;
            match write(leader.clone()).await {
                Ok(_) => return Ok(leader),
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))
                    if self.clock.monotonic() < until => {}
                // A leader that has just taken over learns a moment later that its predecessor's change is committed.
                Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_),
                ))) if self.clock.monotonic() < until => {}
                Err(error) => return Err(refused(group.id(), error)),
            }
            group.wait().await;
        }
    }

    /// Adds the drive as a learner and waits until it has what the leader had when it began.
    pub(super) async fn catch_up(&self, group: &Group, drive: DriveId) -> Changed<()> {
        let leader = self
            .write_membership(group, |leader| async move {
                leader
                    .raft()
                    .add_learner(drive.0, EmptyNode::new(), false)
                    .await
            })
            .await?;
        let goal = leader.log().last().map(|last| last.index());
        let (mut best, mut since) = (None, self.clock.monotonic());
        let mut reached = None;
        loop {
            if let Some(reason) = leader.stopped() {
                return Err(refused(group.id(), reason));
            }
            let matched = {
                let metrics = leader.raft().metrics();
                let metrics = metrics.borrow_watched();
                match &metrics.replication {
                    Some(replication) => replication
                        .get(&drive.0)
                        .cloned()
                        .flatten()
                        .map(|id| id.index()),
                    None => return Err(refused(group.id(), "the leader has changed")),
                }
            };
            // What came meanwhile counts as well: as a voter it is counted on.
            if matched >= goal && leader.is_close(drive, LAG_MAX) {
                return Ok(());
            }
            // A snapshot under way shows no matched entry: what the replica has applied counts as well.
            let progress = (
                matched,
                group
                    .replica_on(drive)
                    .and_then(|replica| replica.applied()),
            );
            let now = self.clock.monotonic();
            if best.as_ref() != Some(&progress) {
                (best, since) = (Some(progress), now);
            }
            // Under a steady load one that is slower than the others would keep them waiting for ever.
            if matched >= goal {
                reached = reached.or(Some(now));
            }
            let is_slow = reached.is_some_and(|reached| now - reached > CATCH_UP_CLOSE);
            if is_slow || now - since > CATCH_UP_STALL {
                return Err(refused(group.id(), format!("{drive} does not catch up")));
            }
            self.clock.sleep(CATCH_UP_PAUSE).await;
        }
    }

    /// Moves the lead of the group away from the drive, if it can.
    async fn hand_over(&self, group: &Arc<Group>, from: DriveId) {
        let Some(leader) = group.leader().filter(|leader| leader.drive() == from) else {
            return;
        };
        let voters = voters_of(&leader);
        let heir = group
            .here()
            .iter()
            .map(|replica| replica.drive())
            .find(|drive| {
                *drive != from && voters.contains(&drive.0) && self.is_live(group, *drive)
            });
        if let Some(heir) = heir
            && let Err(error) = self.hand_to(group, heir).await
        {
            tracing::warn!(group = %group.id(), %error, "the lead was not handed over");
        }
    }

    /// The leader on another node, by the word of the replicas here. They may go on naming a drive of this one that was lost.
    fn leader_elsewhere(&self, group: &Group) -> Option<DriveId> {
        let leader = group.leader_elsewhere();
        leader.filter(|drive| self.elsewhere(*drive).is_some())
    }

    /// The way to a drive that is on another node.
    pub(super) fn elsewhere(&self, drive: DriveId) -> Option<(&Arc<Remote>, NodeId)> {
        let remote = self.remote.as_ref()?;
        Some((remote, remote.node_of(drive)?))
    }

    /// Whether the voter on the drive seems fit to lead.
    pub(super) fn may_lead(&self, group: &Group, drive: DriveId) -> bool {
        match self.elsewhere(drive) {
            Some((remote, node)) => {
                !remote.peers.health().is_suspect(node) && remote.peers.map().load().is_up(drive)
            }
            None => self.is_live(group, drive),
        }
    }

    pub(super) async fn hand_to(&self, group: &Group, to: DriveId) -> Changed<()> {
        let until = self.clock.monotonic() + self.config.deadline;
        let mut asked = false;
        loop {
            let elsewhere = self.leader_elsewhere(group);
            if elsewhere == Some(to) {
                return Ok(());
            }
            if let Some(other) = elsewhere.filter(|_| asked) {
                return Err(refused(
                    group.id(),
                    format!("{other} took the lead, not {to}"),
                ));
            }
            let leader = self.leader(group).await?;
            if leader.drive() == to {
                return Ok(());
            }
            if !voters_of(&leader).contains(&to.0) || !self.may_lead(group, to) {
                return Err(refused(group.id(), format!("{to} cannot lead it")));
            }
            if self.clock.monotonic() >= until {
                return Err(refused(group.id(), format!("{to} did not take the lead")));
            }
            // It would let the time for taking over pass, and what is being sent to it would be sent anew.
            if !asked && !leader.is_close(to, LAG_MAX) {
                group.wait().await;
                continue;
            }
            // Where others may be asked to move the lead too, once is enough: who insists makes it go to and fro.
            if !(asked && group.is_spread()) {
                let handed = leader.hand_to(to).await;
                handed.map_err(|error| refused(group.id(), error))?;
                asked = true;
            }
            group.wait().await;
        }
    }
}

/// By how many milliseconds the wall clock is ahead of the monotonic one.
pub(super) fn offset_of(clock: &dyn Clock) -> i64 {
    let monotonic = clock.monotonic().as_millis() as i64;
    (clock.wall().0 as i64).wrapping_sub(monotonic)
}

pub(super) fn refused(group: GroupId, reason: impl std::fmt::Display) -> ChangeError {
    ChangeError::Group {
        group,
        reason: reason.to_string(),
    }
}

pub(super) fn voters_of(replica: &Replica) -> BTreeSet<u64> {
    let configs = replica.log().voters().map(|(_, configs)| configs);
    configs.into_iter().flatten().flatten().collect()
}

/// Those that get the group's entries and do not vote.
fn learners_of(replica: &Replica) -> BTreeSet<u64> {
    let metrics = replica.raft().server_metrics();
    let metrics = metrics.borrow_watched();
    metrics
        .membership_config
        .membership()
        .learner_ids()
        .collect()
}

fn status_of(group: &Group, drives_here: &BTreeSet<DriveId>) -> GroupStatus {
    let here = group.here();
    let (stopped, live): (Vec<_>, Vec<_>) =
        here.iter().partition(|replica| replica.stopped().is_some());
    let leader = group.leader();
    let newest = leader.as_ref().or_else(|| {
        live.iter()
            .copied()
            .max_by_key(|replica| replica.log().term())
    });
    let mut status = GroupStatus {
        group: group.id(),
        leader: leader
            .as_ref()
            .map(|leader| leader.drive())
            // A leader elsewhere: of those here it is known better.
            .or_else(|| {
                newest?
                    .known_leader()
                    .filter(|drive| !drives_here.contains(drive))
            }),
        term: newest.map_or(0, |replica| replica.log().term()),
        voters: Vec::new(),
        learners: Vec::new(),
        applied: live
            .iter()
            .filter_map(|replica| Some((replica.drive(), replica.applied()?)))
            .collect(),
        stopped: stopped
            .iter()
            .map(|replica| {
                (
                    replica.drive(),
                    replica.stopped().unwrap_or_default().to_owned(),
                )
            })
            .chain(group.left_out())
            .collect(),
    };
    if let Some(replica) = newest {
        let metrics = replica.raft().server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        // While membership changes, who votes in both of its halves is named twice.
        let configs = membership.get_joint_config().iter().flatten();
        status.voters = configs.copied().map(DriveId).collect();
        // By what is borrowed already: who borrows twice waits for a writer that waits for the first.
        status.learners = membership.learner_ids().map(DriveId).collect();
    }
    status
}

/// One timer for all groups: a timer for each of a hundred replicas would cost more than their work while idle.
async fn pulse(replicas: Weak<Replicas>) {
    while let Some(replicas) = replicas.upgrade() {
        if replicas.ended.load(Ordering::Acquire) {
            return;
        }
        for group in replicas.groups.load_full().values() {
            let leader = group.leader_elsewhere();
            let is_gone = leader.is_some_and(|leader| {
                let elsewhere = replicas.elsewhere(leader);
                elsewhere.is_some_and(|(remote, node)| remote.peers.health().is_suspect(node))
            });
            let silence_max = replicas.config.election_timeout_max;
            group.pulse(silence_max, is_gone, replicas.is_young()).await;
        }
        let pause = replicas.clock.sleep(replicas.config.heartbeat);
        drop(replicas);
        pause.await;
    }
}

/// Writes what is queued and makes the state durable.
async fn close(drive: Drive) -> Result<(), String> {
    let closed = blocking(move || {
        drive.log.close();
        drive.state.sync()
    });
    let synced = closed.await.map_err(|error| error.to_string())?;
    synced.map_err(|error| error.to_string())
}

fn raft_config(config: &ConsensusConfig, alone: bool) -> Changed<Config> {
    let millis = |time: Duration| time.as_millis() as u64;
    let kept = config.log_entries_kept.max(1);
    let config = Config {
        cluster_name: "holdfast".into(),
        heartbeat_interval: millis(config.heartbeat),
        // A follower that has just acknowledged entries needs no heartbeat.
        heartbeat_min_interval: Some(millis(config.heartbeat) / 2),
        election_timeout_min: millis(config.election_timeout_min),
        election_timeout_max: millis(config.election_timeout_max),
        // Set where they are needed, see `Group::set_ticks`.
        enable_tick: false,
        // Replicas that are cut off must not depose a leader that works when they come back.
        enable_pre_vote: Some(true),
        // A leader that starts again may have lost what it had applied, and must not answer reads before it has
        // committed an entry in a new term.
        enable_leader_restore: Some(false),
        max_payload_entries: 128,
        // How often the state machine is asked whether a durable point is due.
        snapshot_policy: SnapshotPolicy::LogsSinceLast((kept / 16).max(1)),
        // A replica that was away for less goes on from the log; nobody needs the log of a group's only voter.
        max_in_snapshot_log_to_keep: if alone { 0 } else { kept / 2 },
        purge_batch_size: 1,
        replication_lag_threshold: kept * 4,
        ..Config::default()
    };
    config
        .validate()
        .map_err(|error| ChangeError::Config(error.to_string()))
}
