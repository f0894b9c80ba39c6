use super::*;
use crate::consensus::flusher::DriveLog;
use crate::consensus::log_store::{GroupLog, LogStore};
use crate::consensus::raft_types::Vote;
use crate::consensus::replica::Quorum;
use crate::consensus::{ConsensusConfig, Groups, ReplicaDrive, Replicas, StateMachine};
use crate::seams::{Batch, IndexError, IndexView, MemoryIndex, SystemClock};

use openraft::storage::RaftLogStorage;

const GROUP: GroupId = GroupId(1);

struct Echo;

impl StateMachine for Echo {
    fn apply(
        &mut self,
        _: &dyn IndexView,
        _: &mut Batch,
        command: &[u8],
    ) -> Result<Bytes, IndexError> {
        Ok(Bytes::copy_from_slice(command))
    }

    fn restored(&mut self, _: &dyn IndexView) -> Result<(), IndexError> {
        Ok(())
    }
}

/// Where all voters are in one process no lease is used.
const LEASE: Duration = Duration::ZERO;

async fn three(config: ConsensusConfig) -> (Arc<Replicas>, Arc<Group>) {
    three_of(3, config).await
}

/// A group with voters on the first three of so many drives.
async fn three_of(drives: u64, config: ConsensusConfig) -> (Arc<Replicas>, Arc<Group>) {
    let drives = (1..=drives)
        .map(|id| ReplicaDrive {
            drive: DriveId(id),
            log: Arc::new(MemoryIndex::new()),
            state: Arc::new(MemoryIndex::new()),
        })
        .collect();
    let replicas = Replicas::open(
        drives,
        Arc::new(|_, _| Box::new(Echo)),
        Arc::new(SystemClock),
        config,
        None,
    )
    .await
    .unwrap();
    replicas
        .create_group(GROUP, &[DriveId(1), DriveId(2), DriveId(3)])
        .await
        .unwrap();
    replicas
        .propose(GROUP, Bytes::from_static(b"1"))
        .await
        .unwrap();
    let group = replicas.groups.load().get(&GROUP).unwrap().clone();
    (replicas, group)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_replaced_answers_no_reads() {
    let (replicas, group) = three(ConsensusConfig::default()).await;
    for round in 0..30u64 {
        replicas.read(GROUP).await.unwrap();
        let old = group.leader().unwrap();
        assert!(old.is_current(LEASE));
        let next = DriveId(old.drive().0 % 3 + 1);
        replicas.transfer_leader(GROUP, next).await.unwrap();
        assert!(!old.is_current(LEASE), "round {round}");
        replicas
            .propose(GROUP, Bytes::from(round.to_string()))
            .await
            .unwrap();
    }
    replicas.shutdown().await;
    assert!(
        group
            .here()
            .iter()
            .all(|replica| !replica.is_current(LEASE))
    );
}

#[tokio::test]
async fn a_quorum_in_a_newer_term_ends_a_leaders_reads() {
    let mut stores = Vec::new();
    for id in 1..=3 {
        let index = Arc::new(MemoryIndex::new());
        let mut store = LogStore {
            log: Arc::new(GroupLog::open(GROUP, DriveId(id), index.as_ref()).unwrap()),
            drive: DriveLog::open(DriveId(id), index).unwrap(),
        };
        store.save_vote(&Vote::new_committed(4, 1)).await.unwrap();
        stores.push(store);
    }
    let quorum = Quorum {
        needed: 2,
        logs: stores.iter().map(|store| store.log.clone()).collect(),
    };
    assert!(quorum.agrees(4));
    assert!(!quorum.agrees(3));
    stores[1].save_vote(&Vote::new(5, 2)).await.unwrap();
    assert!(quorum.agrees(4));
    stores[2].log.stop("gone");
    assert!(!quorum.agrees(4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_to_nobody_does_not_end_the_group() {
    let config = ConsensusConfig {
        heartbeat: Duration::from_millis(30),
        election_timeout_min: Duration::from_millis(120),
        election_timeout_max: Duration::from_millis(200),
        ..ConsensusConfig::default()
    };
    let (replicas, group) = three(config).await;
    let leader = group.leader().unwrap();
    let gone = DriveId(leader.drive().0 % 3 + 1);
    // Nothing reaches it, and the leader, which takes no writes while it hands over, does not get to know.
    replicas
        .transport
        .remove(group.replica_on(gone).unwrap().address());
    leader
        .raft()
        .trigger()
        .transfer_leader(gone.0)
        .await
        .unwrap();
    replicas
        .propose(GROUP, Bytes::from_static(b"2"))
        .await
        .unwrap();
    let now = group.leader().unwrap();
    assert_ne!(now.drive(), leader.drive());
    replicas.fail_drive(gone).await;
    assert!(replicas.transfer_leader(GROUP, gone).await.is_err());
    replicas.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_votes_no_more_answers_by_no_lease() {
    let (replicas, group) = three_of(6, ConsensusConfig::default()).await;
    for drive in 4..=6 {
        replicas.host(GROUP, DriveId(drive), false).await.unwrap();
        replicas.catch_up(&group, DriveId(drive)).await.unwrap();
    }
    replicas.read(GROUP).await.unwrap();
    let old = group.leader().unwrap();
    assert!(old.is_current(LEASE));
    let others: std::collections::BTreeSet<u64> = (4..=6).collect();
    let changing = old.raft().change_membership(others, false);
    changing.await.unwrap();
    // It leads for a moment yet, and barriers succeed.
    let mark = old.log().membership_mark();
    if let Some(term) = old.leads() {
        old.lead(term, mark, &group.here());
    }
    assert!(!old.is_current(LEASE));
    replicas.read(GROUP).await.unwrap();
    assert!(!old.is_current(LEASE));
    replicas
        .propose(GROUP, Bytes::from_static(b"2"))
        .await
        .unwrap();
    replicas.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_that_is_not_wanted_any_more_goes() {
    let (replicas, group) = three_of(5, ConsensusConfig::default()).await;
    replicas.host(GROUP, DriveId(4), false).await.unwrap();
    replicas.catch_up(&group, DriveId(4)).await.unwrap();
    assert_eq!(replicas.status()[0].learners, [DriveId(4)]);
    // The change ended before it was made a voter, and another drive is to be one instead.
    let leader = group.leader().unwrap().drive();
    let stays = (1..=3)
        .map(DriveId)
        .filter(|drive| *drive != leader)
        .take(1);
    let wanted: Vec<DriveId> = stays.chain([leader, DriveId(5)]).collect();
    replicas.change_voters(GROUP, &wanted).await.unwrap();
    assert_eq!(replicas.status()[0].learners, []);
    assert!(group.replica_on(DriveId(4)).is_none());
    // It may become a voter later.
    let wanted = [leader, DriveId(4), DriveId(5)];
    replicas.change_voters(GROUP, &wanted).await.unwrap();
    let mut voters = replicas.status()[0].voters.clone();
    voters.sort_unstable();
    let mut wanted = wanted.to_vec();
    wanted.sort_unstable();
    assert_eq!(voters, wanted);
    replicas.shutdown().await;
}
