//! Replicas and leaders of other processes: Raft's messages, proposals, queries and orders to replicas as calls.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use openraft::errors::{RPCError, Unreachable};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::STATE_KEYSPACES;
use super::network::{Address, LocalTransport, Rpc, Transport};
use super::raft_types::{SnapshotMeta, TypeConfig, Vote};
use super::snapshot::{Piece, Pieces};
use crate::ids::{DriveId, GroupId, NodeId};
use crate::rpc::{self, CallError, CallPayload, Payload, Peers, Service};
use crate::seams::{IndexError, spawn};

/// Raft's messages but images.
pub(super) const RAFT: Service = Service {
    name: "raft",
    fenced: true,
};

/// A group's state on its way to a replica.
pub(super) const IMAGE: Service = Service {
    name: "raft-image",
    fenced: true,
};

/// A command for a group's leader.
pub(super) const PROPOSE: Service = Service {
    name: "propose",
    fenced: true,
};

/// A query for the leader of groups.
pub(super) const QUERY: Service = Service {
    name: "query",
    fenced: true,
};

/// Orders to the replicas of a node.
pub(super) const REPLICAS: Service = Service {
    name: "replicas",
    fenced: true,
};

/// How long a message between replicas may take. A drive may be slow; that the node is gone is noticed sooner.
const RAFT_TIME: Duration = Duration::from_secs(5);

/// How long an election message may take.
const VOTE_TIME: Duration = Duration::from_secs(1);

/// How long a change of membership may take.
const ORDER_TIME: Duration = Duration::from_secs(120);

/// A message between replicas. Spoken between versions: append only.
#[derive(Serialize, Deserialize)]
pub(super) enum RaftMessage {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    TransferLeader(TransferLeaderRequest<TypeConfig>),
}

impl RaftMessage {
    pub fn asks_for_a_vote(&self) -> bool {
        matches!(self, Self::Vote(_) | Self::PreVote(_))
    }
}

/// A command's way. Spoken between versions: append only.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Proposed {
    /// The outcome of its application.
    Decided(Bytes),
    /// Not led here, and the command is in no log by this call.
    NotHere(Option<DriveId>),
    /// The command may or may not be applied.
    Indeterminate,
}

/// A query's way. Spoken between versions: append only.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Queried {
    Answer(Bytes),
    NotHere {
        group: GroupId,
        leader: Option<DriveId>,
    },
    Failed(String),
}

/// An order to a node. Spoken between versions: append only.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Host a replica that is to be made a voter.
    Host { group: GroupId, drive: DriveId },
    /// Make these the group's voters; for the node that leads it.
    ChangeVoters {
        group: GroupId,
        voters: Vec<DriveId>,
    },
    /// Hand the lead over; for the node that leads the group.
    TransferLeader { group: GroupId, to: DriveId },
    /// The replica is no longer a voter: end and erase it.
    /// `since`: the log index of the membership that it is not part of.
    Drop {
        group: GroupId,
        drive: DriveId,
        since: u64,
    },
}

/// The way to other processes.
pub(crate) struct Remote {
    pub peers: Peers,
}

impl Remote {
    /// The node that has a drive, if that is another one.
    pub fn node_of(&self, drive: DriveId) -> Option<NodeId> {
        let map = self.peers.map().load();
        let node = map.drive(drive)?.node;
        (node != self.peers.own()).then_some(node)
    }

    /// The nodes of the group's voters by the map, others than this one, those that answer first.
    pub fn voter_nodes(&self, group: GroupId) -> Vec<NodeId> {
        let map = self.peers.map().load();
        let mut nodes: Vec<NodeId> = Vec::new();
        for voter in map.voters(group) {
            if let Some(node) = self.node_of(*voter)
                && !nodes.contains(&node)
            {
                nodes.push(node);
            }
        }
        nodes.sort_by_key(|node| self.peers.health().is_suspect(*node));
        nodes
    }

    /// Sends a message of a service and decodes the answer.
    pub async fn ask<M: Serialize, A: DeserializeOwned>(
        &self,
        to: NodeId,
        service: Service,
        message: &M,
        within: Duration,
    ) -> Result<A, CallError> {
        let failed = |reason: String| CallError::Failed { to, reason };
        let head = rpc::encode(message).map_err(|error| failed(error.to_string()))?;
        let answer = self.peers.call(to, service, head, within).await?;
        rpc::decode(&answer).map_err(failed)
    }

    /// Gives an order; the error says why it was not done.
    pub async fn order(&self, to: NodeId, order: &Order) -> Result<(), String> {
        let done: Result<Result<(), String>, CallError> =
            self.ask(to, REPLICAS, order, ORDER_TIME).await;
        done.map_err(|error| error.to_string())?
    }

    fn raft<T: DeserializeOwned + Send + 'static>(
        self: &Arc<Self>,
        node: NodeId,
        to: Address,
        message: RaftMessage,
        within: Duration,
    ) -> Rpc<T> {
        let remote = self.clone();
        Box::pin(async move {
            let answer: Result<Result<T, String>, CallError> =
                remote.ask(node, RAFT, &(to, message), within).await;
            match answer {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(reason)) => Err(unreachable(&reason)),
                Err(error) => Err(unreachable(&error.to_string())),
            }
        })
    }
}

fn unreachable(reason: &str) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(reason))
}

/// Messages go to the replicas of this process directly, to others by call.
pub(crate) struct Routes {
    pub local: Arc<LocalTransport>,
    pub remote: Option<Arc<Remote>>,
}

impl Routes {
    fn elsewhere(&self, to: Address) -> Option<(&Arc<Remote>, NodeId)> {
        let remote = self.remote.as_ref()?;
        Some((remote, remote.node_of(to.drive)?))
    }
}

impl Transport for Routes {
    fn append(
        &self,
        to: Address,
        message: AppendEntriesRequest<TypeConfig>,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        match self.elsewhere(to) {
            Some((remote, node)) => remote.raft(node, to, RaftMessage::Append(message), RAFT_TIME),
            None => self.local.append(to, message),
        }
    }

    fn vote(&self, to: Address, message: VoteRequest<TypeConfig>) -> Rpc<VoteResponse<TypeConfig>> {
        match self.elsewhere(to) {
            Some((remote, node)) => remote.raft(node, to, RaftMessage::Vote(message), VOTE_TIME),
            None => self.local.vote(to, message),
        }
    }

    fn pre_vote(
        &self,
        to: Address,
        message: VoteRequest<TypeConfig>,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        match self.elsewhere(to) {
            Some((remote, node)) => remote.raft(node, to, RaftMessage::PreVote(message), VOTE_TIME),
            None => self.local.pre_vote(to, message),
        }
    }

    fn transfer_leader(
        &self,
        to: Address,
        message: TransferLeaderRequest<TypeConfig>,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        match self.elsewhere(to) {
            Some((remote, node)) => {
                remote.raft(node, to, RaftMessage::TransferLeader(message), VOTE_TIME)
            }
            None => self.local.transfer_leader(to, message),
        }
    }

    fn snapshot(
        &self,
        to: Address,
        vote: Vote,
        meta: SnapshotMeta,
        pieces: Pieces,
    ) -> Rpc<SnapshotResponse<TypeConfig>> {
        let Some((remote, node)) = self.elsewhere(to) else {
            return self.local.snapshot(to, vote, meta, pieces);
        };
        let remote = remote.clone();
        Box::pin(async move {
            let head =
                rpc::encode(&(to, vote, meta)).map_err(|error| unreachable(&error.to_string()))?;
            let payload = Payload::Pieces(outgoing(pieces));
            let reply = remote.peers.send(node, IMAGE, head, payload).await;
            let reply = reply.map_err(|error| unreachable(&error.to_string()))?;
            let answer: Result<Result<SnapshotResponse<TypeConfig>, String>, String> =
                rpc::decode(&reply.head);
            answer
                .and_then(|answer| answer)
                .map_err(|error| unreachable(&error))
        })
    }
}

/// Does a message for a replica of this process; gives the encoded answer.
pub(super) fn receive(
    local: &LocalTransport,
    to: Address,
    message: RaftMessage,
) -> BoxFuture<'static, Result<Bytes, String>> {
    fn answer<T: Serialize + Send + 'static>(
        rpc: Rpc<T>,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(async move {
            let answer = rpc.await.map_err(|error| error.to_string());
            rpc::encode(&answer).map_err(|error| error.to_string())
        })
    }
    match message {
        RaftMessage::Append(message) => answer(local.append(to, message)),
        RaftMessage::Vote(message) => answer(local.vote(to, message)),
        RaftMessage::PreVote(message) => answer(local.pre_vote(to, message)),
        RaftMessage::TransferLeader(message) => answer(local.transfer_leader(to, message)),
    }
}

/// An image as a payload: for each piece its length (`u32`, big endian) and its entries, each as key space (one byte), key
/// and value, both after their lengths; a length of 0 ends it.
fn outgoing(mut pieces: Pieces) -> mpsc::Receiver<Result<Option<Bytes>, String>> {
    let (tx, rx) = mpsc::channel(2);
    spawn(async move {
        loop {
            let piece = match pieces.recv().await {
                Some(Ok(Piece::Chunk(entries))) => {
                    let mut bytes = BytesMut::with_capacity(1 << 20);
                    bytes.put_u32(0);
                    for (space, key, value) in entries {
                        bytes.put_u8(space as u8);
                        bytes.put_u32(key.len() as u32);
                        bytes.put_slice(&key);
                        bytes.put_u32(value.len() as u32);
                        bytes.put_slice(&value);
                    }
                    let len = bytes.len() as u32 - 4;
                    if len == 0 {
                        continue;
                    }
                    bytes[..4].copy_from_slice(&len.to_be_bytes());
                    Ok(Some(bytes.freeze()))
                }
                Some(Ok(Piece::End)) => {
                    let end = Ok(Some(Bytes::from_static(&[0; 4])));
                    if tx.send(end).await.is_ok() {
                        let _gone = tx.send(Ok(None)).await;
                    }
                    return;
                }
                Some(Err(error)) => Err(error.to_string()),
                None => Err("the image broke off".to_owned()),
            };
            let broken = piece.is_err();
            if tx.send(piece).await.is_err() || broken {
                return;
            }
        }
    });
    rx
}

/// The other end of [`outgoing`].
pub(super) fn incoming(mut payload: CallPayload) -> Pieces {
    let (tx, rx) = mpsc::channel(2);
    spawn(async move {
        let mut buffer = BytesMut::new();
        loop {
            let piece = next_piece(&mut payload, &mut buffer).await;
            let last = matches!(piece, Ok(Piece::End) | Err(_));
            if tx.send(piece).await.is_err() || last {
                return;
            }
        }
    });
    rx
}

async fn next_piece(payload: &mut CallPayload, buffer: &mut BytesMut) -> Result<Piece, IndexError> {
    fill(payload, buffer, 4).await?;
    let len = buffer.get_u32() as usize;
    if len == 0 {
        return Ok(Piece::End);
    }
    fill(payload, buffer, len).await?;
    let mut piece = buffer.split_to(len).freeze();
    let damaged = || IndexError::Io("the image is damaged".to_owned());
    let mut entries = Vec::new();
    while piece.has_remaining() {
        let number = piece.get_u8();
        let space = STATE_KEYSPACES
            .into_iter()
            .find(|space| *space as u8 == number);
        let key = sized(&mut piece).ok_or_else(damaged)?;
        let value = sized(&mut piece).ok_or_else(damaged)?;
        entries.push((space.ok_or_else(damaged)?, key, value));
    }
    Ok(Piece::Chunk(entries))
}

fn sized(bytes: &mut Bytes) -> Option<Bytes> {
    if bytes.remaining() < 4 {
        return None;
    }
    let len = bytes.get_u32() as usize;
    (bytes.remaining() >= len).then(|| bytes.split_to(len))
}

async fn fill(
    payload: &mut CallPayload,
    buffer: &mut BytesMut,
    len: usize,
) -> Result<(), IndexError> {
    while buffer.len() < len {
        match payload.next().await {
            Ok(Some(bytes)) => buffer.extend_from_slice(&bytes),
            Ok(None) => return Err(IndexError::Io("the image broke off".to_owned())),
            Err(error) => return Err(IndexError::Io(error)),
        }
    }
    Ok(())
}
