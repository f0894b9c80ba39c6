use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{CommandError, Decide, Machine, Proposer, REMEMBERED, Stamp, Turn};
use crate::consensus::{Groups, StateMachine};
use crate::ids::GroupId;
use crate::seams::{
    Batch, Durability, Index, IndexError, Keyspace, ManualClock, MemoryIndex, SeededRng, UnixMillis,
};
use crate::testing::DirectGroups;

const GROUP: GroupId = GroupId(9);

/// Counts the commands that it decided.
struct Counter;

impl Decide for Counter {
    fn decide(
        &mut self,
        turn: &mut Turn<'_>,
        command: &[u8],
    ) -> Result<Option<Vec<u8>>, IndexError> {
        if command != b"count" {
            return Ok(None);
        }
        let key = [&turn.group.0.to_be_bytes()[..], b"\x01"].concat();
        let mut count = match turn.state.get(Keyspace::Records, &key)? {
            Some(value) => value.to_vec(),
            None => vec![0; 8],
        };
        let next = u64::from_be_bytes(count[..].try_into().unwrap()) + 1;
        count.copy_from_slice(&next.to_be_bytes());
        turn.batch.put(Keyspace::Records, key, count.clone());
        Ok(Some(count))
    }
}

fn groups() -> Arc<DirectGroups> {
    Arc::new(DirectGroups::new(
        Arc::new(MemoryIndex::new()),
        Arc::new(|group, _| Box::new(Machine::new(group, Counter)) as Box<dyn StateMachine>),
    ))
}

fn proposer(groups: &Arc<DirectGroups>, clock: &ManualClock, seed: u64) -> Proposer {
    Proposer::new(
        groups.clone(),
        Arc::new(clock.clone()),
        Arc::new(SeededRng::new(seed)),
    )
}

fn command(proposer: &Proposer) -> Vec<u8> {
    let mut command = proposer.begin(5);
    command.extend_from_slice(b"count");
    command
}

async fn count(proposer: &Proposer) -> (Stamp, u64) {
    let (at, outcome) = proposer.decide(GROUP, command(proposer)).await.unwrap();
    (at, u64::from_be_bytes(outcome[..].try_into().unwrap()))
}

#[tokio::test]
async fn a_command_that_comes_again_gets_its_first_outcome() {
    let groups = groups();
    let proposer = proposer(&groups, &ManualClock::default(), 1);
    let first = Bytes::from(command(&proposer));
    let outcome = groups.propose(GROUP, first.clone()).await.unwrap();
    for number in 2..10 {
        assert_eq!(count(&proposer).await.1, number);
        if number % 3 == 0 {
            groups.restart();
        }
        let again = groups.propose(GROUP, first.clone()).await.unwrap();
        assert_eq!(again, outcome);
    }
}

#[tokio::test]
async fn what_may_have_been_forgotten_is_not_decided_again() {
    let groups = groups();
    let proposer = proposer(&groups, &ManualClock::at(UnixMillis(5)), 1);
    let first = command(&proposer);
    proposer.decide(GROUP, first.clone()).await.unwrap();
    for _ in 1..REMEMBERED {
        count(&proposer).await;
    }
    // Still remembered, if only just.
    let (_, outcome) = proposer.decide(GROUP, first.clone()).await.unwrap();
    assert_eq!(outcome[..], 1u64.to_be_bytes());
    count(&proposer).await;
    for _ in 0..2 {
        let late = proposer.decide(GROUP, first.clone()).await;
        assert!(matches!(late, Err(CommandError::Indeterminate(_))));
        groups.restart();
    }
    assert_eq!(count(&proposer).await.1, REMEMBERED + 2);
    // The memory does not grow.
    let index = groups.index();
    let mut cursor = index.cursor(Keyspace::Records, &[0], &[0xFF]).unwrap();
    cursor.seek(&[0]).unwrap();
    let mut records = 0;
    while cursor.entry().is_some() {
        records += 1;
        cursor.next().unwrap();
    }
    assert_eq!(records, REMEMBERED + 1);
}

#[tokio::test]
async fn stamps_grow_whatever_the_clocks_say() {
    let groups = groups();
    let clock = ManualClock::at(UnixMillis(1_000));
    let slow = proposer(&groups, &ManualClock::at(UnixMillis(10)), 1);
    let fast = proposer(&groups, &clock, 2);
    let mut last = Stamp::default();
    for round in 0..100 {
        let proposer = if round % 3 == 0 { &fast } else { &slow };
        let (at, _) = count(proposer).await;
        assert!(at > last);
        last = at;
        if round % 10 == 0 {
            groups.restart();
            clock.advance(Duration::from_millis(7));
        }
    }
    assert_eq!(last.millis(), UnixMillis(1_070));
}

#[tokio::test]
async fn a_slow_clock_is_set_right_by_the_first_answer() {
    let groups = groups();
    let fast = proposer(&groups, &ManualClock::at(UnixMillis(1_000)), 1);
    for _ in 0..=REMEMBERED {
        count(&fast).await;
    }
    let slow = proposer(&groups, &ManualClock::at(UnixMillis(10)), 2);
    let first = slow.decide(GROUP, command(&slow)).await;
    assert!(matches!(first, Err(CommandError::Indeterminate(_))));
    assert_eq!(count(&slow).await.1, REMEMBERED + 2);
}

#[tokio::test]
async fn what_is_not_understood_changes_nothing() {
    let groups = groups();
    let proposer = proposer(&groups, &ManualClock::default(), 1);
    let mut strange = proposer.begin(5);
    strange.extend_from_slice(b"what?");
    let mut newer = command(&proposer);
    newer[0] = 2;
    for command in [strange, newer, vec![1; 3], Vec::new()] {
        let refused = proposer.decide(GROUP, command).await;
        assert!(matches!(refused, Err(CommandError::Failed(_))));
    }
    let index = groups.index();
    let mut cursor = index.cursor(Keyspace::Records, &[0], &[0xFF]).unwrap();
    cursor.seek(&[0]).unwrap();
    assert!(cursor.entry().is_none());
}

#[test]
fn a_damaged_memory_is_noticed() {
    let index = MemoryIndex::new();
    let mut batch = Batch::new();
    let mut key = GROUP.0.to_be_bytes().to_vec();
    key.extend_from_slice(&[0xFE, 0, 0, 0, 0]);
    batch.put(Keyspace::Records, key, &b"\x01short"[..]);
    index.write(batch, Durability::Unsynced).unwrap();
    let mut machine = Machine::new(GROUP, Counter);
    assert!(matches!(
        machine.restored(&index),
        Err(IndexError::Corrupt(_))
    ));
}
