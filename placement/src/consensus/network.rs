//! Messages between the replicas of a group: direct calls for those of this process; see `remote` for the others.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use futures_util::future::{self, BoxFuture, Either};
use futures_util::stream::{BoxStream, Stream};
use openraft::EmptyNode;
use openraft::RaftNetworkFactory;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkV2, stream_append_sequential};

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::TypeConfigExt;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::log_store::GroupLog;
use super::patience::Patient;
use super::raft_types::{SnapshotMeta, TypeConfig, Vote, term_of};
use super::replica::Replica;
use super::snapshot::{Image, Pieces};
use crate::ids::{DriveId, GroupId};
use crate::planted::{Bug, planted};
use crate::seams::spawn;

pub(crate) type Rpc<T> = BoxFuture<'static, Result<T, RPCError<TypeConfig>>>;
type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, Image>;

/// Carries messages to the replica of a group on a drive.
pub(crate) trait Transport: Send + Sync + 'static {
    fn append(
        &self,
        to: Address,
        message: AppendEntriesRequest<TypeConfig>,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>>;
    fn vote(&self, to: Address, message: VoteRequest<TypeConfig>) -> Rpc<VoteResponse<TypeConfig>>;
    fn pre_vote(
        &self,
        to: Address,
        message: VoteRequest<TypeConfig>,
    ) -> Rpc<VoteResponse<TypeConfig>>;
    fn transfer_leader(
        &self,
        to: Address,
        message: TransferLeaderRequest<TypeConfig>,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>>;
    /// Sends a whole image and has it installed.
    fn snapshot(
        &self,
        to: Address,
        vote: Vote,
        meta: SnapshotMeta,
        pieces: Pieces,
    ) -> Rpc<SnapshotResponse<TypeConfig>>;
}

/// A replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Address {
    pub group: GroupId,
    pub drive: DriveId,
}

/// The replicas of this process.
#[derive(Default)]
pub(crate) struct LocalTransport {
    replicas: RwLock<HashMap<Address, Arc<Replica>>>,
}

impl LocalTransport {
    pub fn insert(&self, replica: Arc<Replica>) {
        self.replicas.write().insert(replica.address(), replica);
    }

    pub fn remove(&self, address: Address) {
        self.replicas.write().remove(&address);
    }

    fn call<T, F, R>(&self, to: Address, call: F) -> Rpc<T>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Replica>) -> R,
        R: Future<Output = Result<T, String>> + Send + 'static,
    {
        let replica = self.replicas.read().get(&to).cloned();
        match replica {
            Some(replica) if replica.stopped().is_none() => {
                let answer = call(replica);
                Box::pin(async move { answer.await.map_err(|error| unreachable(&error)) })
            }
            _ => Box::pin(future::ready(Err(unreachable("the replica is not here")))),
        }
    }
}

fn unreachable(reason: &str) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(reason))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A vote that is not given is no answer: that is always safe.
fn check_candidate(voter: &Replica, message: &VoteRequest<TypeConfig>) -> Result<(), String> {
    match voter.log().may_elect(message.last_log_id) {
        true => Ok(()),
        false => Err("the candidate has less than this voter once had".to_owned()),
    }
}

impl Transport for LocalTransport {
    fn append(
        &self,
        to: Address,
        mut message: AppendEntriesRequest<TypeConfig>,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        self.call(to, |to| async move {
            to.bunches().take(&mut message, TypeConfig::now());
            let answer = to.raft().append_entries(message).await.map_err(text)?;
            if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                to.heard();
            }
            Ok(answer)
        })
    }

    fn vote(&self, to: Address, message: VoteRequest<TypeConfig>) -> Rpc<VoteResponse<TypeConfig>> {
        self.call(to, |to| async move {
            check_candidate(&to, &message)?;
            to.raft().vote(message).await.map_err(text)
        })
    }

    fn pre_vote(
        &self,
        to: Address,
        message: VoteRequest<TypeConfig>,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        self.call(to, |to| async move {
            check_candidate(&to, &message)?;
            to.raft().pre_vote(message).await.map_err(text)
        })
    }

    fn transfer_leader(
        &self,
        to: Address,
        message: TransferLeaderRequest<TypeConfig>,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        self.call(to, |to| async move {
            if !to.log().is_complete() {
                return Err("the replica does not have yet what it once had".to_owned());
            }
            to.raft()
                .handle_transfer_leader(message)
                .await
                .map_err(text)
        })
    }

    fn snapshot(
        &self,
        to: Address,
        vote: Vote,
        meta: SnapshotMeta,
        pieces: Pieces,
    ) -> Rpc<SnapshotResponse<TypeConfig>> {
        self.call(to, move |to| async move {
            // A task of its own: it must not be dropped between staging and installing.
            let task = spawn(async move { to.receive_snapshot(vote, meta, pieces).await });
            task.await.map_err(text)?
        })
    }
}

type Appended<'s> = BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>;

/// Makes the links of one group's replicas.
pub(crate) struct Links {
    pub group: GroupId,
    pub transport: Arc<dyn Transport>,
    /// Of the replica whose links they are.
    pub log: Arc<GroupLog>,
}

impl RaftNetworkFactory<TypeConfig> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Link {
        Link {
            to: Address {
                group: self.group,
                drive: DriveId(target),
            },
            transport: self.transport.clone(),
            log: self.log.clone(),
        }
    }
}

/// The way to one replica.
pub(crate) struct Link {
    to: Address,
    transport: Arc<dyn Transport>,
    log: Arc<GroupLog>,
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = Image;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.transport.append(self.to, rpc).await {
            Err(_) if planted(Bug::AckBeforeQuorum) => Ok(AppendEntriesResponse::Success),
            answer => answer,
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<Appended<'s>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        stream_append_sequential(self, Patient::new(input), option)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.transport.vote(self.to, rpc).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.transport.pre_vote(self.to, rpc).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        // Who gets the image needs what comes after it from the log.
        let _log_is_kept = self.log.keep();
        let (meta, pieces) = snapshot
            .snapshot
            .open()
            .await
            .map_err(|error| StreamingError::Network(NetworkError::new(&error)))?;
        // The view is newer than the request: a leader that was replaced meanwhile must not send what its
        // successors have committed in its own name.
        if meta.last_log_id.as_ref().map(term_of) > Some(vote.leader_id.term) {
            let error = NetworkError::from_string("the state has moved on to a newer term");
            return Err(StreamingError::Network(error));
        }
        let sent = self.transport.snapshot(self.to, vote, meta, pieces);
        match future::select(sent, Box::pin(cancel)).await {
            Either::Left((answer, _)) => answer.map_err(StreamingError::from),
            Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.transport.transfer_leader(self.to, req).await
    }
}
