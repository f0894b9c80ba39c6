use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Ask, AskError, Asker, DEADLINE, States, answer, open, state_of};
use crate::consensus::{Groups, ProposeError, QueryError, ReadError, Reading};
use crate::ids::{GroupId, NodeId};
use crate::seams::{
    Batch, Clock, Durability, Index, IndexError, Keyspace, ManualClock, MemoryIndex, SystemClock,
    UnixMillis,
};

const GROUP: GroupId = GroupId(3);

/// The value under a key.
#[derive(Serialize, Deserialize)]
struct Value {
    key: Vec<u8>,
    /// The error to give instead.
    error: Option<u8>,
}

impl Ask for Value {
    const KIND: u8 = 9;
    type Answer = Option<Vec<u8>>;

    async fn run(&self, states: &States) -> Result<Option<Vec<u8>>, IndexError> {
        match self.error {
            Some(1) => return Err(IndexError::Corrupt("a value".into())),
            Some(2) => return Err(IndexError::Full),
            Some(_) => return Err(IndexError::Io("broken".into())),
            None => {}
        }
        let state = state_of(states, GROUP)?;
        let value = state.get(Keyspace::Records, &self.key)?;
        Ok(value.map(|value| value.to_vec()))
    }
}

fn value(key: &[u8]) -> Value {
    Value {
        key: key.to_vec(),
        error: None,
    }
}

/// What a node does with a query.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Node {
    Answers,
    Is(Trouble),
    /// Never says anything.
    Hangs,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    NotLeader,
    Unreachable,
    Stale,
    Failed,
}

/// A group whose leader is, one read after the other, at these places; at last at the last. `None`: here.
struct Script {
    state: Arc<MemoryIndex>,
    places: Mutex<VecDeque<Option<Node>>>,
    queries: Mutex<u64>,
}

impl Script {
    fn new(places: &[Option<Node>]) -> Arc<Self> {
        let state = Arc::new(MemoryIndex::new());
        let mut batch = Batch::new();
        batch.put(Keyspace::Records, &b"k"[..], &b"v"[..]);
        state.write(batch, Durability::Unsynced).unwrap();
        Arc::new(Self {
            state,
            places: Mutex::new(places.iter().copied().collect()),
            queries: Mutex::new(0),
        })
    }
}

#[async_trait]
impl Groups for Script {
    async fn propose(&self, _: GroupId, _: Bytes) -> Result<Bytes, ProposeError> {
        unreachable!("nothing is proposed")
    }

    async fn read(&self, _: GroupId) -> Result<Reading, ReadError> {
        let mut places = self.places.lock();
        let place = match places.len() {
            1 => places[0],
            _ => places.pop_front().unwrap(),
        };
        Ok(match place {
            None => Reading::Here(self.state.clone()),
            Some(Node::Answers) => Reading::At(NodeId(2)),
            Some(Node::Hangs) => Reading::At(NodeId(3)),
            Some(Node::Is(trouble)) => Reading::At(NodeId(10 + trouble as u64)),
        })
    }

    async fn query(
        &self,
        at: NodeId,
        groups: &[GroupId],
        query: Bytes,
    ) -> Result<Bytes, QueryError> {
        assert_eq!(groups, [GROUP]);
        *self.queries.lock() += 1;
        match at.0 {
            2 => {
                let (kind, question) = open(&query).map_err(QueryError::Failed)?;
                assert_eq!(kind, Value::KIND);
                let states: [(GroupId, Arc<dyn Index>); 1] = [(GROUP, self.state.clone())];
                let answered = answer::<Value>(question, &states).await;
                answered.map_err(QueryError::Failed)
            }
            3 => std::future::pending().await,
            10 => Err(QueryError::NotHere {
                group: GROUP,
                leader: None,
            }),
            11 => Err(QueryError::Unreachable("no route".into())),
            12 => Err(QueryError::Stale("another map".into())),
            _ => Err(QueryError::Failed("no such kind".into())),
        }
    }
}

#[tokio::test]
async fn the_answer_is_the_same_wherever_the_group_is_led() {
    use Trouble::{NotLeader, Stale, Unreachable};
    let sequences: [&[Option<Node>]; 5] = [
        &[None],
        &[Some(Node::Answers)],
        &[Some(Node::Is(NotLeader)), Some(Node::Answers)],
        &[Some(Node::Is(Unreachable)), Some(Node::Is(Stale)), None],
        &[
            Some(Node::Is(Stale)),
            Some(Node::Is(NotLeader)),
            Some(Node::Is(Unreachable)),
            Some(Node::Answers),
        ],
    ];
    for places in sequences {
        for (key, expected) in [(b"k", Some(b"v".to_vec())), (b"x", None)] {
            let groups = Script::new(places);
            let asker = Asker::new(groups.clone(), Arc::new(ManualClock::default()));
            let found = asker.ask(GROUP, &value(key)).await.unwrap();
            assert_eq!(found, expected, "{places:?}");
            let groups = Script::new(places);
            let asker = Asker::new(groups.clone(), Arc::new(ManualClock::default()));
            let found = asker.ask_all(&[GROUP], |_| value(key)).await.unwrap();
            assert_eq!(found, [expected], "{places:?}");
        }
    }
}

#[tokio::test]
async fn it_is_given_up_in_time() {
    for trouble in [Trouble::NotLeader, Trouble::Unreachable, Trouble::Stale] {
        for all in [false, true] {
            let groups = Script::new(&[Some(Node::Is(trouble))]);
            let clock = ManualClock::default();
            let asker = Asker::new(groups.clone(), Arc::new(clock.clone()));
            let error = match all {
                false => asker.ask(GROUP, &value(b"k")).await.unwrap_err(),
                true => asker.ask_all(&[GROUP], |_| value(b"k")).await.unwrap_err(),
            };
            assert!(matches!(error, AskError::Unavailable(_)), "{error:?}");
            let took = clock.monotonic();
            assert!(took <= DEADLINE && took > DEADLINE / 2, "{took:?}");
            assert!(*groups.queries.lock() > 20);
        }
    }
}

#[tokio::test]
async fn what_another_try_does_not_mend_is_said_at_once() {
    let groups = Script::new(&[Some(Node::Is(Trouble::Failed))]);
    let asker = Asker::new(groups.clone(), Arc::new(ManualClock::default()));
    let error = asker.ask(GROUP, &value(b"k")).await.unwrap_err();
    assert!(matches!(error, AskError::Failed(_)));
    assert_eq!(*groups.queries.lock(), 1);
    for place in [None, Some(Node::Answers)] {
        for (number, corrupt) in [(1, true), (2, false)] {
            let groups = Script::new(&[place]);
            let clock = ManualClock::default();
            let asker = Asker::new(groups.clone(), Arc::new(clock.clone()));
            let question = Value {
                key: Vec::new(),
                error: Some(number),
            };
            let error = asker.ask(GROUP, &question).await.unwrap_err();
            assert_eq!(matches!(error, AskError::Failed(_)), corrupt);
            assert_eq!(matches!(error, AskError::Full), !corrupt);
            assert_eq!(clock.monotonic(), Duration::ZERO);
        }
    }
}

#[tokio::test]
async fn a_failing_drive_is_waited_for_to_lose_the_lead() {
    for place in [None, Some(Node::Answers)] {
        let groups = Script::new(&[place]);
        let clock = ManualClock::default();
        let asker = Asker::new(groups.clone(), Arc::new(clock.clone()));
        let question = Value {
            key: Vec::new(),
            error: Some(3),
        };
        let error = asker.ask(GROUP, &question).await.unwrap_err();
        assert!(matches!(error, AskError::Failed(_)));
        assert!(clock.monotonic() > DEADLINE / 2);
    }
}

#[tokio::test]
async fn a_node_that_hangs_is_left_when_another_leads() {
    let hangs = Some(Node::Hangs);
    for next in [None, Some(Node::Answers)] {
        let groups = Script::new(&[hangs, hangs, hangs, next]);
        let asker = Asker::new(groups.clone(), Arc::new(FastClock));
        let before = FastClock.monotonic();
        let found = asker.ask(GROUP, &value(b"k")).await.unwrap();
        assert_eq!(found, Some(b"v".to_vec()));
        assert!(FastClock.monotonic() - before < DEADLINE);
    }
    let asker = Asker::new(Script::new(&[hangs]), Arc::new(FastClock));
    let before = FastClock.monotonic();
    let error = asker.ask(GROUP, &value(b"k")).await.unwrap_err();
    assert!(matches!(error, AskError::Unavailable(_)));
    let took = FastClock.monotonic() - before;
    assert!(took >= DEADLINE - Duration::from_millis(200), "{took:?}");
}

/// Twenty times as fast as time is.
struct FastClock;

impl Clock for FastClock {
    fn wall(&self) -> UnixMillis {
        SystemClock.wall()
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic() * 20
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        SystemClock.sleep(duration / 20)
    }
}

#[tokio::test]
async fn strange_bytes_are_refused() {
    let states: [(GroupId, Arc<dyn Index>); 0] = [];
    assert!(open(b"").is_err());
    assert!(open(b"\x01").is_err());
    assert!(open(b"\x02\x09").is_err());
    assert!(answer::<Value>(b"", &states).await.is_err());
    assert!(answer::<Value>(b"\x00\x00\x00", &states).await.is_err());
    for bytes in [
        &b""[..],
        b"\x01",
        b"\x02\x00",
        b"\x01\x09",
        b"\x01\x00",
        b"\x01\x02\x00",
    ] {
        assert!(super::read::<Value>(bytes).is_err());
    }
}

/// Groups of which nobody here knows who leads them: the first node that is asked says so of one of them.
struct Unknown {
    state: Arc<MemoryIndex>,
    known: Mutex<Vec<GroupId>>,
    rounds: Mutex<u64>,
}

#[async_trait]
impl Groups for Unknown {
    async fn propose(&self, _: GroupId, _: Bytes) -> Result<Bytes, ProposeError> {
        unreachable!("nothing is proposed")
    }

    async fn read(&self, group: GroupId) -> Result<Reading, ReadError> {
        let node = match self.known.lock().contains(&group) {
            true => 2,
            false => 3,
        };
        Ok(Reading::At(NodeId(node)))
    }

    async fn query(
        &self,
        at: NodeId,
        groups: &[GroupId],
        query: Bytes,
    ) -> Result<Bytes, QueryError> {
        *self.rounds.lock() += 1;
        if at != NodeId(2) {
            self.known.lock().push(groups[0]);
            return Err(QueryError::NotHere {
                group: groups[0],
                leader: Some(NodeId(2)),
            });
        }
        let (_, question) = open(&query).map_err(QueryError::Failed)?;
        let states: [(GroupId, Arc<dyn Index>); 1] = [(GROUP, self.state.clone())];
        let answered = answer::<Value>(question, &states).await;
        answered.map_err(QueryError::Failed)
    }
}

#[tokio::test]
async fn many_groups_that_have_moved_are_found_together() {
    let groups = Arc::new(Unknown {
        state: Arc::new(MemoryIndex::new()),
        known: Mutex::default(),
        rounds: Mutex::new(0),
    });
    let clock = ManualClock::default();
    let asker = Asker::new(groups.clone(), Arc::new(clock.clone()));
    let ids: Vec<GroupId> = (1..=16).map(GroupId).collect();
    let answers = asker.ask_all(&ids, |_| value(b"k")).await.unwrap();
    assert_eq!(answers.len(), 16);
    // The first question, then one a group to learn and one a group to ask.
    assert_eq!(*groups.rounds.lock(), 1 + 16 + 15);
    assert!(clock.monotonic() < Duration::from_millis(50));
}
