//! Groups that are led at several nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::consensus::{Groups, ProposeError, QueryError, QueryRunner, ReadError, Reading};
use crate::ids::{GroupId, NodeId};
use crate::seams::SeededRng;

/// Pretends that other groups are spread over three nodes, of which this process is the first: what is read at the others
/// goes there in bytes. Leaders move, messages and answers are lost, and what is known of leaders is out of date, as the
/// seed has it.
pub struct SplitGroups<G: ?Sized> {
    runner: Arc<dyn QueryRunner>,
    rng: SeededRng,
    leaders: Mutex<BTreeMap<GroupId, NodeId>>,
    /// One in so many events goes wrong; 0: none.
    trouble: u64,
    queries: AtomicU64,
    groups: Arc<G>,
}

/// The process's own node among them.
const HERE: NodeId = NodeId(1);

const NODES: u64 = 3;

impl<G: Groups + ?Sized> SplitGroups<G> {
    pub fn new(groups: Arc<G>, runner: Arc<dyn QueryRunner>, seed: u64, trouble: u64) -> Self {
        Self {
            runner,
            rng: SeededRng::new(seed),
            leaders: Mutex::default(),
            trouble,
            queries: AtomicU64::new(0),
            groups,
        }
    }

    /// Queries that were answered in bytes.
    pub fn queries_answered(&self) -> u64 {
        self.queries.load(Ordering::Relaxed)
    }

    fn any_node(&self) -> NodeId {
        NodeId(1 + self.rng.below(NODES))
    }

    fn is_trouble(&self) -> bool {
        self.trouble > 0 && self.rng.below(self.trouble) == 0
    }

    /// Who leads the group; it may have changed.
    fn leader(&self, group: GroupId) -> NodeId {
        let mut leaders = self.leaders.lock();
        let leader = leaders.entry(group).or_insert_with(|| self.any_node());
        if self.is_trouble() {
            *leader = self.any_node();
        }
        *leader
    }
}

#[async_trait]
impl<G: Groups + ?Sized> Groups for SplitGroups<G> {
    async fn propose(&self, group: GroupId, command: Bytes) -> Result<Bytes, ProposeError> {
        self.groups.propose(group, command).await
    }

    async fn read(&self, group: GroupId) -> Result<Reading, ReadError> {
        match self.leader(group) {
            HERE => self.groups.read(group).await,
            _ if self.is_trouble() => Ok(Reading::At(NodeId(2 + self.rng.below(NODES - 1)))),
            leader => Ok(Reading::At(leader)),
        }
    }

    async fn query(
        &self,
        at: NodeId,
        groups: &[GroupId],
        query: Bytes,
    ) -> Result<Bytes, QueryError> {
        if self.is_trouble() {
            return Err(QueryError::Unreachable("the question is lost".into()));
        }
        if self.is_trouble() {
            return Err(QueryError::Stale("the map is another".into()));
        }
        let mut states = Vec::new();
        for group in groups {
            let leader = self.leader(*group);
            if leader != at {
                return Err(QueryError::NotHere {
                    group: *group,
                    leader: Some(leader),
                });
            }
            let read = self.groups.read(*group).await;
            let read = read.map_err(|error| QueryError::Unreachable(error.to_string()))?;
            let state = read
                .here()
                .ok_or_else(|| QueryError::Unreachable("it is elsewhere again".into()))?;
            states.push((*group, state));
        }
        let answer = self.runner.run(&states, &query).await;
        if self.is_trouble() {
            return Err(QueryError::Unreachable("the answer is lost".into()));
        }
        self.queries.fetch_add(1, Ordering::Relaxed);
        answer.map_err(QueryError::Failed)
    }
}
