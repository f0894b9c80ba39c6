//! Groups between which and their callers a test stands.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::consensus::{Groups, ProposeError, QueryError, ReadError, Reading};
use crate::ids::{GroupId, NodeId};

/// Waited for before a group gets a command. With `Some` the group never gets it, and that is the answer.
pub type Hook = Box<dyn Fn(GroupId) -> BoxFuture<'static, Option<ProposeError>> + Send + Sync>;

/// Other groups, whose commands a test can hold up and keep from them.
pub struct HookedGroups<G: ?Sized> {
    hook: Hook,
    groups: Arc<G>,
}

impl<G: Groups + ?Sized> HookedGroups<G> {
    pub fn new(groups: Arc<G>, hook: Hook) -> Self {
        Self { hook, groups }
    }
}

#[async_trait]
impl<G: Groups + ?Sized> Groups for HookedGroups<G> {
    async fn propose(&self, group: GroupId, command: Bytes) -> Result<Bytes, ProposeError> {
        match (self.hook)(group).await {
            Some(error) => Err(error),
            None => self.groups.propose(group, command).await,
        }
    }

    async fn read(&self, group: GroupId) -> Result<Reading, ReadError> {
        self.groups.read(group).await
    }

    async fn query(
        &self,
        at: NodeId,
        groups: &[GroupId],
        query: Bytes,
    ) -> Result<Bytes, QueryError> {
        self.groups.query(at, groups, query).await
    }
}
