//! Replicas that are no voters any more and were not told: their node was away when it was said.
//!
//! Such a replica takes room for ever, asks for votes that nobody gives it, and believes in the leader that it last heard
//! of. So its own node looks: for each replica here whose drive the map does not name as a voter it asks where the group is
//! led who votes there, and removes the replica if that leader's own committed membership is without it.

use std::sync::Arc;
use std::time::Duration;

use openraft::type_config::async_runtime::watch::WatchReceiver;
use serde::{Deserialize, Serialize};

use super::replicas::{Replicas, voters_of};
use crate::ids::{DriveId, GroupId};
use crate::rpc::{self, Answer, PeerServer, Service};

/// Asks who votes in a group; only its leader knows.
const MEMBERS: Service = Service {
    name: "replica-members",
    fenced: true,
};

/// How long a node may take to answer: a read barrier.
const MEMBERS_TIME: Duration = Duration::from_secs(5);

/// Who is part of a group, by its leader. Spoken between versions: append only.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Members {
    /// Voters, and learners too: the leader knows how far these are, and one that begins anew would not be believed.
    all: Vec<DriveId>,
    /// The log index of that membership, which is committed.
    since: u64,
}

impl Replicas {
    /// Tells other nodes who votes in the groups that are led here.
    pub(super) fn offer_members(self: &Arc<Self>, server: &mut PeerServer) {
        let replicas = self.clone();
        server.offer(
            MEMBERS,
            Box::new(move |call| {
                let replicas = replicas.clone();
                Box::pin(async move {
                    let group: GroupId = rpc::decode(&call.head)?;
                    let members = replicas.members_here(group).await;
                    let head = rpc::encode(&members).map_err(|error| error.to_string())?;
                    Ok(Answer::head(head))
                })
            }),
        );
    }

    /// Removes the replicas here that are known to be voters no more. How many these were.
    pub async fn tidy(&self) -> usize {
        let Some(remote) = &self.remote else { return 0 };
        let mut removed = 0;
        for group in self.groups.load_full().values() {
            for replica in group.here().iter() {
                let drive = replica.drive();
                if remote
                    .peers
                    .map()
                    .load()
                    .voters(group.id())
                    .contains(&drive)
                {
                    continue;
                }
                let Some(members) = self.members(group.id()).await else {
                    continue;
                };
                let _alone = self.hosting.lock().await;
                let newer = replica.log().membership_index() > Some(members.since);
                if members.all.contains(&drive)
                    || newer && voters_of(replica).contains(&drive.0)
                    || remote
                        .peers
                        .map()
                        .load()
                        .voters(group.id())
                        .contains(&drive)
                {
                    continue;
                }
                match self.drop_replica(group, replica).await {
                    Ok(()) => {
                        tracing::info!(group = %group.id(), %drive, "a replica that is no voter any more is removed");
                        removed += 1;
                    }
                    Err(error) => {
                        tracing::info!(group = %group.id(), %drive, %error, "a replica that is no voter any more stays for now");
                    }
                }
            }
        }
        removed
    }

    /// Who votes, by the leader wherever it is; `None` if that cannot be told now.
    async fn members(&self, id: GroupId) -> Option<Members> {
        if let Some(members) = self.members_here(id).await {
            return Some(members);
        }
        let remote = self.remote.as_ref()?;
        for node in remote.voter_nodes(id) {
            let answer = remote.ask(node, MEMBERS, &id, MEMBERS_TIME).await;
            if let Ok(Some(members)) = answer {
                return Some(members);
            }
        }
        None
    }

    /// Who votes, if the group is led here. A membership that is not committed says nothing: it may be taken back.
    async fn members_here(&self, id: GroupId) -> Option<Members> {
        let group = self.group(id).ok()?;
        let leader = group.leader()?;
        let since = leader.log().membership_index()?;
        let voters: Vec<DriveId> = voters_of(&leader).into_iter().map(DriveId).collect();
        // Leads still, and has applied what it led with.
        group.read().await.ok()??;
        let metrics = leader.raft().server_metrics();
        let metrics = metrics.borrow_watched();
        let nodes = metrics.membership_config.membership().nodes();
        let learners = nodes.map(|(drive, _)| DriveId(*drive));
        let all = voters.into_iter().chain(learners).collect();
        let is_same = leader.log().membership_index() == Some(since);
        let is_committed = leader.applied() >= Some(since);
        (is_same && is_committed).then_some(Members { all, since })
    }
}
