//! Groups whose voters are on several nodes: finding who leads, and doing what other nodes ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::{self, Either, join_all};

use super::group::ProposedHere;
use super::network::{Address, Transport};
use super::remote::{
    self, IMAGE, Order, PROPOSE, Proposed, QUERY, Queried, RAFT, REPLICAS, RaftMessage, Remote,
};
use super::replica::Replica;
use super::replicas::{Changed, LAG_MAX, Replicas, offset_of, refused, voters_of};
use super::{Groups, ProposeError, QueryError, QueryRunner, ReadError, Reading};
use crate::ids::{DriveId, GroupId, NodeId};
use crate::planted::{Bug, planted};
use crate::rpc::{self, Answer, CallError, PeerServer};
use crate::seams::spawn;

/// By how much the wall clock may run away from the monotonic one without being distrusted.
const JUMP_MAX_MS: u32 = 60_000;

/// Pause before all voters are asked again who leads.
const ELSEWHERE_PAUSE: Duration = Duration::from_millis(20);

/// Why a voter does not vote.
const YOUNG: &str = "its process has just begun: it may have heard of a leader before";

impl Replicas {
    /// Has every group that is led here be led by a voter elsewhere, as far as that goes within `time`: for a process
    /// that is about to end.
    pub async fn hand_over_all(&self, time: Duration) {
        let groups = self.groups.load_full();
        let handing = join_all(groups.values().map(|group| async {
            let leader = group.leader()?;
            let elsewhere = |drive: &DriveId| {
                let may_lead = self.elsewhere(*drive).is_some() && self.may_lead(group, *drive);
                may_lead && leader.is_close(*drive, LAG_MAX)
            };
            let mut heirs = voters_of(&leader)
                .into_iter()
                .map(DriveId)
                .filter(elsewhere);
            let heir = heirs.next()?;
            self.hand_to(group, heir).await.ok()
        }));
        future::select(handing, self.clock.sleep(time)).await;
    }

    /// Groups that a replica here leads, as far as is known.
    pub fn led_here(&self) -> Vec<GroupId> {
        let groups = self.groups.load();
        let mut led: Vec<_> = groups
            .values()
            .filter(|group| group.leader().is_some())
            .map(|group| group.id())
            .collect();
        led.sort_unstable();
        led
    }

    /// Offers what other nodes ask of the replicas here. `queries` runs their queries.
    pub fn offer(self: &Arc<Self>, server: &mut PeerServer, queries: Arc<dyn QueryRunner>) {
        self.offer_members(server);
        let replicas = self.clone();
        server.offer(
            RAFT,
            Box::new(move |call| {
                let replicas = replicas.clone();
                Box::pin(async move {
                    let (to, message): (Address, RaftMessage) = rpc::decode(&call.head)?;
                    if replicas.is_young() && message.asks_for_a_vote() {
                        return Err(YOUNG.to_owned());
                    }
                    let answer = remote::receive(&replicas.transport, to, message).await?;
                    Ok(Answer::head(answer))
                })
            }),
        );
        let replicas = self.clone();
        server.offer(
            IMAGE,
            Box::new(move |call| {
                let replicas = replicas.clone();
                Box::pin(async move {
                    let (to, vote, meta) = rpc::decode(&call.head)?;
                    let pieces = remote::incoming(call.payload);
                    let installed = replicas.transport.snapshot(to, vote, meta, pieces).await;
                    answer(&installed.map_err(|error| error.to_string()))
                })
            }),
        );
        let replicas = self.clone();
        server.offer(
            PROPOSE,
            Box::new(move |call| {
                let replicas = replicas.clone();
                Box::pin(async move {
                    let (group, command) = rpc::decode(&call.head)?;
                    answer(&replicas.propose_for(group, command).await)
                })
            }),
        );
        let replicas = self.clone();
        server.offer(
            QUERY,
            Box::new(move |call| {
                let replicas = replicas.clone();
                let queries = queries.clone();
                Box::pin(async move {
                    let (groups, query): (Vec<GroupId>, Bytes) = rpc::decode(&call.head)?;
                    answer(&replicas.query_for(&groups, &query, &*queries).await)
                })
            }),
        );
        let replicas = self.clone();
        server.offer(
            REPLICAS,
            Box::new(move |call| {
                let replicas = replicas.clone();
                Box::pin(async move {
                    let order: Order = rpc::decode(&call.head)?;
                    // A task of its own: a change goes on although who asked for it went away.
                    let done = spawn(async move { replicas.obey(order).await }).await;
                    let done = done.map_err(|error| error.to_string())?;
                    answer(&done.map_err(|error| error.to_string()))
                })
            }),
        );
    }

    /// Says whether commands of this process are dated wrongly: then none is proposed. Gives whether that is news. To be
    /// called again and again: from when the clock was set until the next call nothing is proposed either.
    pub fn distrust_clock(&self, is_wrong: bool) -> bool {
        let offset = offset_of(&*self.clock);
        self.clock_offset.store(offset, Ordering::Relaxed);
        self.has_wrong_clock.swap(is_wrong, Ordering::Relaxed) != is_wrong
    }

    /// Whether commands would be dated wrongly, or may be because the wall clock was set.
    fn has_wrong_clock(&self) -> bool {
        let offset = offset_of(&*self.clock);
        let before = self.clock_offset.load(Ordering::Relaxed);
        if offset.abs_diff(before) > u64::from(JUMP_MAX_MS) {
            if !self.distrust_clock(true) {
                return true;
            }
            tracing::warn!(
                seconds = offset.wrapping_sub(before) / 1000,
                "the clock was set: nothing is written until it was compared with those of others"
            );
        }
        self.has_wrong_clock.load(Ordering::Relaxed)
    }

    /// Whether voters here may have promised, before this process began, not to vote yet: they do not remember.
    pub(super) fn is_young(&self) -> bool {
        let age = self.clock.monotonic().saturating_sub(self.opened);
        // Where all voters are in this process leaders go by no lease.
        self.remote.is_some() && age < self.config.election_timeout_max
    }

    /// A command that came from another node.
    async fn propose_for(&self, group: GroupId, command: Bytes) -> Proposed {
        let Ok(found) = self.group(group) else {
            return Proposed::NotHere(None);
        };
        let in_doubt = AtomicBool::new(false);
        let proposing = std::pin::pin!(found.propose(command, &in_doubt));
        let proposed = match future::select(proposing, self.clock.sleep(self.config.deadline)).await
        {
            Either::Left((proposed, _)) => proposed,
            Either::Right(_) => ProposedHere::NotHere(None),
        };
        match proposed {
            ProposedHere::Decided(outcome) => Proposed::Decided(outcome),
            _ if in_doubt.load(Ordering::Relaxed) => Proposed::Indeterminate,
            ProposedHere::NotHere(leader) => Proposed::NotHere(leader),
            ProposedHere::Stopped(_) => Proposed::NotHere(None),
        }
    }

    /// A query that came from another node.
    async fn query_for(
        &self,
        groups: &[GroupId],
        query: &[u8],
        queries: &dyn QueryRunner,
    ) -> Queried {
        let reads = groups.iter().map(|id| async move {
            let not_here = |leader| Queried::NotHere { group: *id, leader };
            let Ok(group) = self.group(*id) else {
                return Err(not_here(None));
            };
            if let Some(state) = group.read_now() {
                return Ok((*id, state));
            }
            match group.read().await {
                Ok(Some(state)) => Ok((*id, state)),
                Ok(None) => Err(not_here(group.leader_elsewhere())),
                Err(_) => Err(not_here(None)),
            }
        });
        let states = match future::try_join_all(reads).await {
            Ok(states) => states,
            Err(not_here) => return not_here,
        };
        match queries.run(&states, query).await {
            Ok(answer) => Queried::Answer(answer),
            Err(reason) => Queried::Failed(reason),
        }
    }

    async fn obey(&self, order: Order) -> Changed<()> {
        match order {
            Order::Host { group, drive } => {
                let _alone = self.hosting.lock().await;
                self.host(group, drive, false).await
            }
            Order::ChangeVoters { group, voters } => self.change_voters(group, &voters).await,
            Order::TransferLeader { group, to } => self.transfer_leader(group, to).await,
            Order::Drop {
                group,
                drive,
                since,
            } => {
                let _alone = self.hosting.lock().await;
                let group = self.group(group)?;
                let Some(replica) = group.replica_on(drive) else {
                    // Perhaps one that could not be started.
                    group.remove(drive);
                    return Ok(());
                };
                if replica.log().membership_index() > Some(since)
                    && voters_of(&replica).contains(&drive.0)
                {
                    return Err(refused(group.id(), "it has been made a voter again"));
                }
                self.drop_replica(&group, &replica).await
            }
        }
    }

    /// Makes `voters` the group's voters wherever it is led; to be asked again after an error.
    pub async fn change_voters_anywhere(&self, id: GroupId, voters: &[DriveId]) -> Changed<()> {
        let order = |group, voters: &[DriveId]| Order::ChangeVoters {
            group,
            voters: voters.to_vec(),
        };
        match self.leader_node(id) {
            Some((remote, node)) => {
                let done = remote.order(node, &order(id, voters)).await;
                done.map_err(|reason| refused(id, reason))
            }
            None => self.change_voters(id, voters).await,
        }
    }

    /// Hands the lead over wherever the group is led.
    pub async fn transfer_leader_anywhere(&self, id: GroupId, to: DriveId) -> Changed<()> {
        match self.leader_node(id) {
            Some((remote, node)) => {
                let order = Order::TransferLeader { group: id, to };
                let done = remote.order(node, &order).await;
                done.map_err(|reason| refused(id, reason))
            }
            None => self.transfer_leader(id, to).await,
        }
    }

    /// The node that leads a group, where that is another one and known.
    fn leader_node(&self, id: GroupId) -> Option<(&Arc<Remote>, NodeId)> {
        let remote = self.remote.as_ref()?;
        if let Ok(group) = self.group(id) {
            if group.leader().is_some() {
                return None;
            }
            // Only by the word of a voter: one that was removed, and could not be told, believes for ever in the last
            // leader that it heard of.
            let map = remote.peers.map().load();
            let voters = map.voters(id);
            let is_voter = |replica: &Arc<Replica>| voters.contains(&replica.drive());
            if group.here().iter().any(is_voter)
                && let Some(node) = group
                    .leader_elsewhere()
                    .and_then(|drive| remote.node_of(drive))
            {
                return Some((remote, node));
            }
        }
        let known = self.leaders.read().get(&id).copied();
        Some((remote, known?))
    }

    /// A node was heard to lead a group. Who gives orders to groups that it never had to do with knows of no other way.
    pub fn heard_leader(&self, group: GroupId, node: NodeId) {
        self.note_leader(group, Some(node));
    }

    fn note_leader(&self, group: GroupId, node: Option<NodeId>) {
        match node {
            Some(node) => self.leaders.write().insert(group, node),
            None => self.leaders.write().remove(&group),
        };
    }

    /// Finds the leader, wherever it is, until the command is decided. Gives up only where all voters were here and
    /// have stopped.
    async fn propose_anywhere(
        &self,
        group: GroupId,
        command: Bytes,
        in_doubt: &AtomicBool,
    ) -> Result<Bytes, String> {
        let mut hint = None;
        let mut tries = 0u8;
        loop {
            let mut command = command.clone();
            if planted(Bug::DropToken) && tries > 0 {
                command = with_another_token(&command, tries);
            }
            tries = tries.wrapping_add(1);
            if let Ok(found) = self.group(group) {
                match found.propose(command.clone(), in_doubt).await {
                    ProposedHere::Decided(outcome) => return Ok(outcome),
                    ProposedHere::NotHere(leader) => hint = hint.or(leader),
                    ProposedHere::Stopped(reason) => return Err(reason),
                }
            }
            let Some(remote) = &self.remote else {
                let gone = "no replica is here".to_owned();
                if let Some(reason) = self.group(group).map_or(Some(gone), |found| found.dead()) {
                    return Err(reason);
                }
                // A drive of this process is lost: the others will have a leader.
                self.clock.sleep(ELSEWHERE_PAUSE).await;
                continue;
            };
            for node in self.candidates(remote, group, hint.take()) {
                let doubtful = in_doubt.swap(true, Ordering::Relaxed);
                let asked: Result<Proposed, CallError> = remote
                    .ask(node, PROPOSE, &(group, &command), self.config.deadline)
                    .await;
                match asked {
                    Ok(Proposed::Decided(outcome)) => {
                        self.note_leader(group, Some(node));
                        return Ok(outcome);
                    }
                    Ok(Proposed::NotHere(leader)) => {
                        in_doubt.store(doubtful, Ordering::Relaxed);
                        let elsewhere = leader.and_then(|drive| remote.node_of(drive));
                        self.note_leader(group, elsewhere.filter(|other| *other != node));
                        hint = leader;
                        if leader.is_some() {
                            break;
                        }
                    }
                    Ok(Proposed::Indeterminate) => {}
                    Err(error) => {
                        if error.is_void() {
                            in_doubt.store(doubtful, Ordering::Relaxed);
                        }
                        self.note_leader(group, None);
                    }
                }
            }
            self.clock.sleep(ELSEWHERE_PAUSE).await;
        }
    }

    /// The nodes to ask for a group's leader, the likeliest first.
    fn candidates(&self, remote: &Remote, group: GroupId, hint: Option<DriveId>) -> Vec<NodeId> {
        let hinted = hint.and_then(|drive| remote.node_of(drive));
        let known = self.leaders.read().get(&group).copied();
        let mut nodes: Vec<NodeId> = hinted.into_iter().chain(known).collect();
        for node in remote.voter_nodes(group) {
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        nodes.dedup();
        nodes
    }
}

/// Encodes what a service answers.
fn answer<T: serde::Serialize>(answer: &T) -> Result<Answer, String> {
    let head = rpc::encode(answer).map_err(|error| error.to_string())?;
    Ok(Answer::head(head))
}

#[async_trait]
impl Groups for Replicas {
    async fn propose(&self, group: GroupId, command: Bytes) -> Result<Bytes, ProposeError> {
        // Commands are dated by who proposes them.
        if self.has_wrong_clock() {
            return Err(ProposeError::WrongClock);
        }
        let in_doubt = AtomicBool::new(false);
        let proposing = std::pin::pin!(self.propose_anywhere(group, command, &in_doubt));
        let decided = match future::select(proposing, self.clock.sleep(self.config.deadline)).await
        {
            Either::Left((decided, _)) => decided.map_err(Some),
            Either::Right(_) => Err(None),
        };
        decided.map_err(|reason| match (in_doubt.load(Ordering::Relaxed), reason) {
            (true, _) => ProposeError::Indeterminate { group },
            (false, None) => ProposeError::NoQuorum { group },
            (false, Some(reason)) => ProposeError::Stopped { group, reason },
        })
    }

    async fn read(&self, group: GroupId) -> Result<Reading, ReadError> {
        let found = {
            let groups = self.groups.load();
            match groups.get(&group) {
                Some(found) => {
                    if planted(Bug::ReadFromFollower)
                        && let Some(replica) = found.here().first()
                    {
                        return Ok(Reading::Here(replica.lend()));
                    }
                    if let Some(state) = found.read_now() {
                        return Ok(Reading::Here(state));
                    }
                    Some(found.clone())
                }
                None => None,
            }
        };
        let until = self.clock.monotonic() + self.config.deadline / 2;
        loop {
            if let Some(found) = &found
                && let Some(state) = found.read().await?
            {
                return Ok(Reading::Here(state));
            }
            let Some(remote) = &self.remote else {
                let gone = "no replica is here".to_owned();
                let dead = found.as_ref().map_or(Some(gone), |found| found.dead());
                if let Some(reason) = dead {
                    return Err(ReadError::Stopped { group, reason });
                }
                if self.clock.monotonic() >= until {
                    return Err(ReadError::NoQuorum { group });
                }
                self.clock.sleep(ELSEWHERE_PAUSE).await;
                continue;
            };
            if let Some((_, node)) = self.leader_node(group)
                && !remote.peers.health().is_suspect(node)
            {
                return Ok(Reading::At(node));
            }
            // Whoever is asked says who leads. Not always the same: it may be cut off.
            let nodes: Vec<NodeId> = remote
                .voter_nodes(group)
                .into_iter()
                .filter(|node| !remote.peers.health().is_suspect(*node))
                .collect();
            let turn = self.turns.fetch_add(1, Ordering::Relaxed);
            if let Some(node) = nodes.get(turn % nodes.len().max(1)) {
                return Ok(Reading::At(*node));
            }
            if self.clock.monotonic() >= until {
                return Err(ReadError::NoQuorum { group });
            }
            self.clock.sleep(ELSEWHERE_PAUSE).await;
        }
    }

    async fn query(
        &self,
        at: NodeId,
        groups: &[GroupId],
        query: Bytes,
    ) -> Result<Bytes, QueryError> {
        let Some(remote) = &self.remote else {
            return Err(QueryError::Unreachable(format!("{at} is not known here")));
        };
        let asked: Result<Queried, CallError> = remote
            .ask(at, QUERY, &(groups, query), self.config.deadline)
            .await;
        match asked {
            Ok(Queried::Answer(answer)) => {
                for group in groups {
                    self.note_leader(*group, Some(at));
                }
                Ok(answer)
            }
            Ok(Queried::NotHere { group, leader }) => {
                let leader = leader.and_then(|drive| {
                    let map = remote.peers.map().load();
                    Some(map.drive(drive)?.node)
                });
                self.note_leader(
                    group,
                    leader.filter(|node| *node != at && *node != remote.peers.own()),
                );
                Err(QueryError::NotHere { group, leader })
            }
            Ok(Queried::Failed(reason)) => Err(QueryError::Failed(reason)),
            Err(CallError::Stale { .. }) => Err(QueryError::Stale(format!("{at}"))),
            Err(error) => {
                for group in groups {
                    self.note_leader(*group, None);
                }
                Err(QueryError::Unreachable(error.to_string()))
            }
        }
    }
}

/// For [`Bug::DropToken`]: the command with a token of its own, which is the 16 bytes behind its format.
fn with_another_token(command: &[u8], number: u8) -> Bytes {
    let mut command = command.to_vec();
    for byte in command.iter_mut().skip(1).take(16) {
        *byte ^= number;
    }
    Bytes::from(command)
}
