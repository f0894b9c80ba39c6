//! What the queries of all groups have in common: asking a group wherever it is led, within a bounded time.
//!
//! A question is a value that can be run over the states of the groups that it is about. If these are led in this
//! process, that is all that happens: nothing is serialised. Else the question goes to the node that leads them, as
//! `1 | kind | question`, and the answer comes back as `1 | status | answer`, both in postcard. Kinds belong to the
//! group's room (directory, object metadata). A question changes nothing, so it may be asked any number of times: it
//! is asked again when a leader has moved or a node is gone.

#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{self, Either, join_all};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::consensus::{Groups, QueryError, ReadError, Reading};
use crate::ids::{GroupId, NodeId};
use crate::seams::{Clock, Index, IndexError};

/// Format of questions and answers between nodes.
const FORMAT: u8 = 1;

/// Status of an answer; on the wire, keep stable.
mod status {
    pub const ANSWERED: u8 = 0;
    /// The drive failed; a text says how.
    pub const FAILED: u8 = 1;
    /// No space left.
    pub const FULL: u8 = 2;
    /// What is stored is damaged; a text says what.
    pub const CORRUPT: u8 = 3;
}

/// How long a question may take in all.
pub const DEADLINE: Duration = Duration::from_millis(2500);

/// Pause before a question is asked again; doubled each time up to `PAUSE_MAX`.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// While a node has not answered: how often it is looked whether it leads still.
const WATCH_PAUSE: Duration = Duration::from_millis(400);

/// Groups with their states, each after a read barrier.
pub type States = [(GroupId, Arc<dyn Index>)];

/// A question to one or several groups that are led by the same node.
pub trait Ask: Serialize + Sync {
    /// Tells it from the room's other questions; on the wire, keep stable.
    const KIND: u8;

    type Answer: Serialize + DeserializeOwned + Send;

    /// The answer of these states, which are those of the groups that the question is about.
    fn run(&self, states: &States)
    -> impl Future<Output = Result<Self::Answer, IndexError>> + Send;
}

/// A group's state, of those that a question was given.
pub fn state_of(states: &States, group: GroupId) -> Result<&Arc<dyn Index>, IndexError> {
    let found = states.iter().find(|(id, _)| *id == group);
    found
        .map(|(_, state)| state)
        .ok_or_else(|| IndexError::Io(format!("the question was not sent to {group}")))
}

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AskError {
    /// No quorum, or no answer in time; try again later.
    #[error("{0}")]
    Unavailable(String),
    /// The drive or the state below is damaged, or the answer makes no sense.
    #[error("{0}")]
    Failed(String),
    #[error("no space left")]
    Full,
}

impl From<ReadError> for AskError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NoQuorum { .. } => Self::Unavailable(error.to_string()),
            ReadError::Stopped { .. } => Self::Failed(error.to_string()),
        }
    }
}

impl From<IndexError> for AskError {
    fn from(error: IndexError) -> Self {
        match error {
            IndexError::Full => Self::Full,
            other => Self::Failed(other.to_string()),
        }
    }
}

/// Why a try gave no answer.
enum Miss {
    /// The next one may: the leader has moved, or will. What to say if there is none.
    Again(AskError),
    Final(AskError),
}

impl From<QueryError> for Miss {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Failed(reason) => Self::Final(AskError::Failed(reason)),
            QueryError::NotHere { .. } | QueryError::Unreachable(_) | QueryError::Stale(_) => {
                Self::Again(AskError::Unavailable(error.to_string()))
            }
        }
    }
}

impl From<IndexError> for Miss {
    fn from(error: IndexError) -> Self {
        match error {
            // The drive is on its way out, and others take over what its replicas lead.
            IndexError::Io(_) => Self::Again(error.into()),
            IndexError::Full | IndexError::Corrupt(_) => Self::Final(error.into()),
        }
    }
}

/// Splits what came from another node into its kind and the question.
pub fn open(query: &[u8]) -> Result<(u8, &[u8]), String> {
    match query {
        [FORMAT, kind, question @ ..] => Ok((*kind, question)),
        [format, ..] if *format != FORMAT => {
            Err(format!("queries of format {format} are not understood"))
        }
        _ => Err("a query ends early".to_owned()),
    }
}

/// Runs a question that came from another node, and encodes its answer.
pub async fn answer<'a, Q: Ask + Deserialize<'a>>(
    question: &'a [u8],
    states: &States,
) -> Result<Bytes, String> {
    let question: Q = match postcard::take_from_bytes(question) {
        Ok((question, [])) => question,
        _ => return Err(format!("a query of kind {} is malformed", Q::KIND)),
    };
    let written = match question.run(states).await {
        Ok(answer) => postcard::to_extend(&answer, vec![FORMAT, status::ANSWERED]),
        Err(IndexError::Full) => Ok(vec![FORMAT, status::FULL]),
        Err(IndexError::Io(reason)) => postcard::to_extend(&reason, vec![FORMAT, status::FAILED]),
        Err(IndexError::Corrupt(what)) => postcard::to_extend(&what, vec![FORMAT, status::CORRUPT]),
    };
    let written = written.map_err(|error| format!("the answer cannot be encoded: {error}"))?;
    Ok(Bytes::from(written))
}

fn write<Q: Ask>(question: &Q) -> Result<Bytes, AskError> {
    let written = postcard::to_extend(question, vec![FORMAT, Q::KIND]);
    let written = written.map_err(|error| {
        AskError::Failed(format!(
            "a query of kind {} cannot be encoded: {error}",
            Q::KIND
        ))
    })?;
    Ok(Bytes::from(written))
}

fn read<Q: Ask>(answer: &[u8]) -> Result<Q::Answer, Miss> {
    let strange = || Miss::Final(AskError::Failed("an answer is of no known form".to_owned()));
    let text = |text| postcard::from_bytes::<String>(text).map_err(|_| strange());
    match answer {
        [FORMAT, status::ANSWERED, answer @ ..] => match postcard::take_from_bytes(answer) {
            Ok((answer, [])) => Ok(answer),
            _ => Err(strange()),
        },
        [FORMAT, status::FAILED, reason @ ..] => Err(IndexError::Io(text(reason)?).into()),
        [FORMAT, status::CORRUPT, what @ ..] => Err(IndexError::Corrupt(text(what)?).into()),
        [FORMAT, status::FULL] => Err(IndexError::Full.into()),
        _ => Err(strange()),
    }
}

/// Asks groups.
#[derive(Clone)]
pub struct Asker {
    groups: Arc<dyn Groups>,
    clock: Arc<dyn Clock>,
}

impl Asker {
    pub fn new(groups: Arc<dyn Groups>, clock: Arc<dyn Clock>) -> Self {
        Self { groups, clock }
    }

    /// Asks one group; linearizable.
    pub async fn ask<Q: Ask>(&self, group: GroupId, question: &Q) -> Result<Q::Answer, AskError> {
        let tries = Tries::new(&*self.clock);
        let reading = self.groups.read(group).await?;
        let answer = match reading {
            Reading::Here(state) => question.run(&[(group, state)]).await.map_err(Miss::from),
            // Boxed, so that the futures of those who find the group here stay small.
            Reading::At(node) => Box::pin(self.ask_node(node, &[group], question, &tries)).await,
        };
        match answer {
            Ok(answer) => Ok(answer),
            Err(miss) => Box::pin(self.ask_again(miss, group, question, tries)).await,
        }
    }

    async fn ask_again<Q: Ask>(
        &self,
        mut miss: Miss,
        group: GroupId,
        question: &Q,
        mut tries: Tries<'_>,
    ) -> Result<Q::Answer, AskError> {
        loop {
            tries.again(miss).await?;
            let answer = match self.locate(group, tries.until).await? {
                Reading::Here(state) => {
                    let answer = question.run(&[(group, state)]).await;
                    answer.map_err(Miss::from)
                }
                Reading::At(node) => self.ask_node(node, &[group], question, &tries).await,
            };
            match answer {
                Ok(answer) => return Ok(answer),
                Err(again) => miss = again,
            }
        }
    }

    /// Asks a node once.
    async fn ask_node<Q: Ask>(
        &self,
        node: NodeId,
        groups: &[GroupId],
        question: &Q,
        tries: &Tries<'_>,
    ) -> Result<Q::Answer, Miss> {
        let query = write(question).map_err(Miss::Final)?;
        let answer = self.send(node, groups, query, tries.until).await?;
        read::<Q>(&answer)
    }

    /// Asks many groups: one question each to the nodes that lead some of them and one to those that are led here.
    /// `question` makes it for the groups at one place. The answers are in no order; together they are about each of
    /// `groups` once.
    pub async fn ask_all<Q: Ask>(
        &self,
        groups: &[GroupId],
        question: impl Fn(&[GroupId]) -> Q,
    ) -> Result<Vec<Q::Answer>, AskError> {
        let mut tries = Tries::new(&*self.clock);
        let mut answers = Vec::new();
        let mut places = self.places(groups, None).await?;
        loop {
            let mut missed = None;
            let mut pending = Vec::new();
            let mut take = |ids: Vec<GroupId>, answer| match answer {
                Ok(answer) => answers.push(answer),
                Err(miss) => {
                    pending.extend(ids);
                    // One that is final is not hidden by one that is not.
                    if !matches!(missed, Some(Miss::Final(_))) {
                        missed = Some(miss);
                    }
                }
            };
            if places.elsewhere.is_empty() {
                let (ids, answer) = ask_here(&places, &question).await;
                take(ids, answer);
            } else {
                for (ids, answer) in Box::pin(self.ask_places(&places, &question, &tries)).await {
                    take(ids, answer);
                }
            }
            match missed {
                None => return Ok(answers),
                Some(miss) => tries.again(miss).await?,
            }
            // Each by itself now: one group that has moved must not hide where the others are, nor keep them waiting.
            places = self.places(&pending, Some(tries.until)).await?.apart();
        }
    }

    /// Asks at all places at once; for each the groups and what it said.
    async fn ask_places<Q: Ask>(
        &self,
        places: &Places,
        question: &impl Fn(&[GroupId]) -> Q,
        tries: &Tries<'_>,
    ) -> Vec<(Vec<GroupId>, Result<Q::Answer, Miss>)> {
        let elsewhere = places.elsewhere.iter().map(|(node, ids)| async move {
            let answer = self.ask_node(*node, ids, &question(ids), tries).await;
            (ids.clone(), answer)
        });
        let here = async {
            match places.here.is_empty() {
                true => None,
                false => Some(ask_here(places, question).await),
            }
        };
        // The others work while this process does.
        let (mut answers, here) = future::join(join_all(elsewhere), here).await;
        answers.extend(here);
        answers
    }

    /// Where the groups are led; those led elsewhere by node.
    async fn places(
        &self,
        groups: &[GroupId],
        until: Option<Duration>,
    ) -> Result<Places, AskError> {
        let readings = groups.iter().map(|group| async move {
            match until {
                Some(until) => self.locate(*group, until).await,
                None => Ok(self.groups.read(*group).await?),
            }
        });
        let mut places = Places::default();
        for (group, reading) in groups.iter().zip(join_all(readings).await) {
            match reading? {
                Reading::Here(state) => places.here.push((*group, state)),
                Reading::At(node) => {
                    let known = places.elsewhere.iter_mut().find(|(at, _)| *at == node);
                    match known {
                        Some((_, ids)) => ids.push(*group),
                        None => places.elsewhere.push((node, vec![*group])),
                    }
                }
            }
        }
        Ok(places)
    }

    /// Where the group is led, unless that is not known in time.
    async fn locate(&self, group: GroupId, until: Duration) -> Result<Reading, AskError> {
        let late = std::pin::pin!(async {
            let left = until.saturating_sub(self.clock.monotonic());
            self.clock.sleep(left).await;
        });
        match future::select(self.groups.read(group), late).await {
            Either::Left((reading, _)) => Ok(reading?),
            Either::Right(_) => Err(ReadError::NoQuorum { group }.into()),
        }
    }

    /// Sends a query, and waits no longer than the node is believed to lead the groups.
    async fn send(
        &self,
        node: NodeId,
        groups: &[GroupId],
        query: Bytes,
        until: Duration,
    ) -> Result<Bytes, QueryError> {
        let answer = self.groups.query(node, groups, query);
        let moved = std::pin::pin!(self.moved(node, groups, until));
        match future::select(answer, moved).await {
            Either::Left((answer, _)) => answer,
            Either::Right((error, _)) => Err(error),
        }
    }

    /// Ends when one of the groups is led elsewhere, or when time is up.
    async fn moved(&self, node: NodeId, groups: &[GroupId], until: Duration) -> QueryError {
        loop {
            let left = until.saturating_sub(self.clock.monotonic());
            if left.is_zero() {
                return QueryError::Unreachable(format!("{node} did not answer in time"));
            }
            self.clock.sleep(left.min(WATCH_PAUSE)).await;
            for group in groups {
                let leader = match self.locate(*group, until).await {
                    Ok(Reading::At(at)) if at == node => continue,
                    Ok(Reading::At(at)) => Some(at),
                    Ok(Reading::Here(_)) => None,
                    // Not known: the node that was asked may answer yet.
                    Err(_) => continue,
                };
                let group = *group;
                return QueryError::NotHere { group, leader };
            }
        }
    }
}

/// Asks the groups that are led here; they and the answer.
async fn ask_here<Q: Ask>(
    places: &Places,
    question: &impl Fn(&[GroupId]) -> Q,
) -> (Vec<GroupId>, Result<Q::Answer, Miss>) {
    let ids: Vec<GroupId> = places.here.iter().map(|(group, _)| *group).collect();
    let answer = question(&ids).run(&places.here).await;
    (ids, answer.map_err(Miss::from))
}

/// Where groups are led.
#[derive(Default)]
struct Places {
    here: Vec<(GroupId, Arc<dyn Index>)>,
    elsewhere: Vec<(NodeId, Vec<GroupId>)>,
}

impl Places {
    /// Every group that is led elsewhere by itself.
    fn apart(mut self) -> Self {
        let elsewhere = std::mem::take(&mut self.elsewhere).into_iter();
        let single = |(node, ids): (NodeId, Vec<GroupId>)| {
            ids.into_iter().map(move |group| (node, vec![group]))
        };
        self.elsewhere = elsewhere.flat_map(single).collect();
        self
    }
}

/// The tries of one question.
struct Tries<'a> {
    clock: &'a dyn Clock,
    /// Monotonic time when it is given up.
    until: Duration,
    pause: Duration,
}

impl<'a> Tries<'a> {
    fn new(clock: &'a dyn Clock) -> Self {
        Self {
            clock,
            until: clock.monotonic() + DEADLINE,
            pause: PAUSE_MIN,
        }
    }

    /// Waits a little before the next try, if there is to be one.
    async fn again(&mut self, miss: Miss) -> Result<(), AskError> {
        let error = match miss {
            Miss::Again(error) => error,
            Miss::Final(error) => return Err(error),
        };
        if self.clock.monotonic() + self.pause >= self.until {
            return Err(error);
        }
        self.clock.sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }
}
