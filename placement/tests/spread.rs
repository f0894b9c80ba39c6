//! A group whose voters are on three nodes that speak over loopback.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test, on the system's clock"
)]

mod consensus_rig;
mod wire;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_placement::consensus::{
    ConsensusConfig, Groups, ProposeError, QueryRunner, Reading, ReplicaDrive, Replicas,
};
use holdfast_placement::ids::{DriveId, GroupId, NodeId};
use holdfast_placement::seams::{Index, SystemClock};
use tokio::net::TcpListener;
use tokio::sync::watch;

use consensus_rig::{Drive, append, list, machines};
use wire::{Wire, lay, secret, until};

const GROUP: GroupId = GroupId(1);

/// Answers the whole list.
struct Lists;

#[async_trait]
impl QueryRunner for Lists {
    async fn run(&self, states: &[(GroupId, Arc<dyn Index>)], _: &[u8]) -> Result<Bytes, String> {
        let numbers = states
            .iter()
            .flat_map(|(group, state)| list(&**state, *group));
        Ok(numbers.flat_map(u64::to_be_bytes).collect())
    }
}

struct Node {
    wire: Wire,
    drive: Drive,
    replicas: Arc<Replicas>,
    _stop: watch::Sender<bool>,
}

impl Node {
    async fn start(mut wire: Wire, drive: Drive, listener: TcpListener) -> Self {
        let replicas = Replicas::open(
            vec![ReplicaDrive {
                drive: DriveId(wire.own.0),
                log: drive.log.clone(),
                state: drive.state.clone(),
            }],
            machines(),
            Arc::new(SystemClock),
            ConsensusConfig::spread(),
            Some(wire.peers.clone()),
        )
        .await
        .unwrap();
        let mut server = wire.server(&secret(1));
        replicas.offer(&mut server, Arc::new(Lists));
        wire.serve(listener, server);
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(wire.peers.clone().run_probes(stopped));
        Self {
            wire,
            drive,
            replicas,
            _stop: stop,
        }
    }

    /// The list as it is read here or where the group is led.
    async fn list(&self) -> Vec<u64> {
        for _ in 0..1000 {
            match self.replicas.read(GROUP).await.unwrap() {
                Reading::Here(state) => return list(&*state, GROUP),
                Reading::At(node) => {
                    if let Ok(numbers) = self.replicas.query(node, &[GROUP], Bytes::new()).await {
                        return numbers
                            .chunks(8)
                            .map(|bytes| u64::from_be_bytes(bytes.try_into().unwrap()))
                            .collect();
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the list cannot be read");
    }
}

/// Three nodes; the group has one voter, on node 1.
async fn cluster() -> Vec<Node> {
    let (mut map, listeners) = lay(3).await;
    map.groups = (0..16)
        .map(|group| (GroupId(group), (1..=3).map(DriveId).collect()))
        .collect();
    let mut nodes = Vec::new();
    for (number, listener) in (1..).zip(listeners) {
        let wire = Wire::new(NodeId(number), map.clone(), &secret(1));
        nodes.push(Node::start(wire, Drive::default(), listener).await);
    }
    nodes[0]
        .replicas
        .create_group(GROUP, &[DriveId(1)])
        .await
        .unwrap();
    nodes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_grows_from_one_node_to_three_and_outlives_its_leader() {
    let mut nodes = cluster().await;
    for token in 0..50 {
        // Any node takes a command.
        let node = &nodes[token as usize % 3];
        node.replicas
            .propose(GROUP, append(token, 20))
            .await
            .unwrap();
    }
    let voters: Vec<_> = (1..=3).map(DriveId).collect();
    nodes[1].list().await;
    nodes[1]
        .replicas
        .change_voters_anywhere(GROUP, &voters)
        .await
        .unwrap();
    for token in 50..100 {
        let node = &nodes[token as usize % 3];
        node.replicas
            .propose(GROUP, append(token, 20))
            .await
            .unwrap();
    }
    let everything: Vec<u64> = (0..100).collect();
    for node in &nodes {
        assert_eq!(node.list().await, everything);
    }

    // The leader's process is gone: the others go on.
    let first = nodes.remove(0);
    let mut wire = first.wire;
    wire.close();
    first.replicas.shutdown().await;
    for token in 100..120 {
        let node = &nodes[token as usize % 2];
        let mut decided = node.replicas.propose(GROUP, append(token, 20)).await;
        while decided.is_err() {
            decided = node.replicas.propose(GROUP, append(token, 20)).await;
        }
    }
    let everything: Vec<u64> = (0..120).collect();
    for node in &nodes {
        assert_eq!(node.list().await, everything);
    }

    // It comes back and catches up.
    let listener = TcpListener::bind(wire.address).await.unwrap();
    let again = Wire::new(NodeId(1), wire.map.load().as_ref().clone(), &secret(1));
    let drive = first.drive.clone();
    let back = Node::start(again, first.drive, listener).await;
    assert_eq!(back.list().await, everything);
    until("caught up", || list(&*drive.state, GROUP) == everything).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_a_wrong_clock_proposes_nothing() {
    let nodes = cluster().await;
    let propose = |at: usize, token| nodes[at].replicas.propose(GROUP, append(token, 20));
    assert!(nodes[1].replicas.distrust_clock(true));
    assert!(!nodes[1].replicas.distrust_clock(true));
    let refused = propose(1, 1).await;
    assert!(
        matches!(refused, Err(ProposeError::WrongClock)),
        "{refused:?}"
    );
    propose(2, 2).await.unwrap();
    assert_eq!(nodes[1].list().await, [2]);
    assert!(nodes[1].replicas.distrust_clock(false));
    propose(1, 3).await.unwrap();
    assert_eq!(nodes[2].list().await, [2, 3]);
}

/// What a voter had promised before it started anew it does not remember: for as long as that may count it neither votes
/// for others nor, standing for election, for itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_has_just_started_does_not_stand_for_election_yet() {
    let mut nodes = cluster().await;
    let voters: Vec<_> = (1..=3).map(DriveId).collect();
    nodes[0]
        .replicas
        .change_voters_anywhere(GROUP, &voters)
        .await
        .unwrap();
    nodes[0]
        .replicas
        .propose(GROUP, append(1, 20))
        .await
        .unwrap();
    let mut gone = Vec::new();
    for node in nodes.drain(..2) {
        let mut wire = node.wire;
        wire.close();
        node.replicas.shutdown().await;
        gone.push((wire, node.drive));
    }
    // The third waits for a leader in vain until its promises are over.
    let third = nodes.remove(0);
    let patience = ConsensusConfig::spread().election_timeout_max;
    tokio::time::sleep(patience * 2).await;

    let (wire, drive) = gone.remove(1);
    let listener = TcpListener::bind(wire.address).await.unwrap();
    let again = Wire::new(NodeId(2), wire.map.load().as_ref().clone(), &secret(1));
    let began = Instant::now();
    let second = Node::start(again, drive, listener).await;
    until("a leader", || {
        let leads = |node: &Node| node.replicas.led_here() == [GROUP];
        leads(&second) || leads(&third)
    })
    .await;
    let waited = began.elapsed();
    assert!(waited >= patience, "one leads after {waited:?}");
    assert_eq!(second.list().await, [1]);
    assert_eq!(third.list().await, [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_is_decided_and_that_is_said_in_time() {
    let mut nodes = cluster().await;
    let voters: Vec<_> = (1..=3).map(DriveId).collect();
    nodes[0]
        .replicas
        .change_voters(GROUP, &voters)
        .await
        .unwrap();
    nodes[0]
        .replicas
        .propose(GROUP, append(1, 0))
        .await
        .unwrap();
    for node in &mut nodes[1..] {
        node.wire.close();
        node.replicas.shutdown().await;
    }
    let began = std::time::Instant::now();
    let refused = nodes[0].replicas.propose(GROUP, append(2, 0)).await;
    assert!(refused.is_err(), "{refused:?}");
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    assert!(
        nodes[0].replicas.read(GROUP).await.is_err() || began.elapsed() < Duration::from_secs(16)
    );
}

/// Each of two nodes leads a group and asks the other to host a replica of it, at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_give_each_other_voters_do_not_wait_for_each_other() {
    let nodes = cluster().await;
    let groups: Vec<_> = (10..16).map(GroupId).collect();
    for (number, group) in groups.iter().enumerate() {
        let home = number % 2;
        let voter = DriveId(home as u64 + 1);
        nodes[home]
            .replicas
            .create_group(*group, &[voter])
            .await
            .unwrap();
    }
    let voters: Vec<_> = (1..=3).map(DriveId).collect();
    let changes = groups.iter().enumerate().map(|(number, group)| {
        let replicas = nodes[number % 2].replicas.clone();
        let (group, voters) = (*group, voters.clone());
        tokio::spawn(async move { replicas.change_voters(group, &voters).await })
    });
    let changes: Vec<_> = changes.collect();
    let began = std::time::Instant::now();
    for change in changes {
        change.await.unwrap().unwrap();
    }
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
}

/// A node that never had to do with a group, and one that believes an old leader, give it voters all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_go_to_the_leader_that_was_heard_of() {
    let nodes = cluster().await;
    let voters: Vec<_> = (1..=3).map(DriveId).collect();
    let stranger = &nodes[1].replicas;
    let refused = stranger.change_voters_anywhere(GROUP, &voters).await;
    assert!(refused.is_err(), "it cannot know: {refused:?}");
    stranger.heard_leader(GROUP, NodeId(3));
    let refused = stranger.change_voters_anywhere(GROUP, &voters).await;
    assert!(refused.is_err(), "that one does not lead: {refused:?}");
    stranger.heard_leader(GROUP, NodeId(1));
    stranger
        .change_voters_anywhere(GROUP, &voters)
        .await
        .unwrap();
    nodes[0]
        .replicas
        .propose(GROUP, append(1, 0))
        .await
        .unwrap();
    assert_eq!(nodes[2].list().await, [1]);
}

/// A node is away while its voter is given to another: when it is back it learns that, and removes what it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_was_removed_while_its_node_was_away_is_tidied_up() {
    let mut nodes = cluster().await;
    let all: Vec<_> = (1..=3).map(DriveId).collect();
    nodes[0].replicas.change_voters(GROUP, &all).await.unwrap();
    let away = nodes.pop().unwrap();
    let mut wire = away.wire;
    wire.close();
    away.replicas.shutdown().await;
    let rest: Vec<_> = (1..=2).map(DriveId).collect();
    nodes[0].replicas.change_voters(GROUP, &rest).await.unwrap();
    for token in 0..5 {
        let decided = nodes[0].replicas.propose(GROUP, append(token, 20)).await;
        decided.unwrap();
    }
    let listener = TcpListener::bind(wire.address).await.unwrap();
    let mut map = wire.map.load().as_ref().clone();
    let again = Wire::new(NodeId(3), map.clone(), &secret(1));
    let back = Node::start(again, away.drive, listener).await;
    let hosts = |node: &Node| {
        let groups = node.replicas.status();
        groups
            .iter()
            .any(|group| group.group == GROUP && !group.applied.is_empty())
    };
    assert!(hosts(&back), "it has its replica still");
    // As long as the map says that it votes, it is about to be made a voter again.
    assert_eq!(back.replicas.tidy().await, 0);
    map.epoch.0 += 1;
    for (group, voters) in &mut map.groups {
        if *group == GROUP {
            voters.clone_from(&rest);
        }
    }
    for node in nodes.iter().chain([&back]) {
        node.wire.map.update(map.clone());
    }
    for _ in 0..200 {
        back.replicas.tidy().await;
        if !hosts(&back) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!hosts(&back), "{:?}", back.replicas.status());
    // Those who vote lose nothing by it.
    for node in &nodes {
        assert_eq!(node.replicas.tidy().await, 0);
        assert!(hosts(node));
    }
}
