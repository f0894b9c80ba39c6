//! What the queries of all groups have in common: asking a group wherever it is led, within a bounded time.
//!
//! A question is a value that can be run over the states of the groups that it is about. If these are led in this
//! process, that is all that happens: nothing is serialised. Else the question goes to the node that leads them, as
//! `1 | kind | question`, and the answer comes back as `1 | status | answer`, both in postcard. Kinds belong to the
//! group's room (directory, object metadata). A question changes nothing, so it may be asked any number of times: it
//! is asked again when a leader has moved or a node is gone.

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
    /// A text says why.
    pub const FAILED: u8 = 1;
    /// No space left.
    pub const FULL: u8 = 2;
}

/// How long a question may take in all.
pub const DEADLINE: Duration = Duration::from_secs(5);

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
        Err(error) => postcard::to_extend(&error.to_string(), vec![FORMAT, status::FAILED]),
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

fn read<Q: Ask>(answer: &[u8]) -> Result<Q::Answer, AskError> {
    let strange = || AskError::Failed("an answer is of no known form".to_owned());
    match answer {
        [FORMAT, status::ANSWERED, answer @ ..] => match postcard::take_from_bytes(answer) {
            Ok((answer, [])) => Ok(answer),
            _ => Err(strange()),
        },
        [FORMAT, status::FAILED, reason @ ..] => {
            let reason = postcard::from_bytes(reason).map_err(|_| strange())?;
            Err(AskError::Failed(reason))
        }
        [FORMAT, status::FULL] => Err(AskError::Full),
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
        match self.groups.read(group).await? {
            Reading::Here(state) => Ok(question.run(&[(group, state)]).await?),
            // Boxed, so that the futures of those who find the group here stay small.
            Reading::At(node) => Box::pin(self.ask_at(node, group, question, tries)).await,
        }
    }

    async fn ask_at<Q: Ask>(
        &self,
        mut node: NodeId,
        group: GroupId,
        question: &Q,
        mut tries: Tries<'_>,
    ) -> Result<Q::Answer, AskError> {
        let query = write(question)?;
        loop {
            match self.send(node, &[group], query.clone(), tries.until).await {
                Ok(answer) => return read::<Q>(&answer),
                Err(error) => tries.again(error).await?,
            }
            match self.locate(group, tries.until).await? {
                Reading::Here(state) => return Ok(question.run(&[(group, state)]).await?),
                Reading::At(other) => node = other,
            }
        }
    }

    /// Asks many groups: one question each to the nodes that lead some of them and, first of all, to those that are led
    /// here. `question` makes it for the groups at one place. The answers are in no order; together they are about
    /// each of `groups` once.
    pub async fn ask_all<Q: Ask>(
        &self,
        groups: &[GroupId],
        question: impl Fn(&[GroupId]) -> Q,
    ) -> Result<Vec<Q::Answer>, AskError> {
        let mut answers = Vec::new();
        let mut tries = Tries::new(&*self.clock);
        let mut places = self.places(groups, None).await?;
        if places.elsewhere.is_empty() {
            let ids: Vec<GroupId> = places.here.iter().map(|(group, _)| *group).collect();
            answers.push(question(&ids).run(&places.here).await?);
            return Ok(answers);
        }
        loop {
            let mut pending = Vec::new();
            let mut failed = None;
            let sent = Box::pin(self.ask_places(&places, &question, tries.until)).await?;
            for (ids, answer) in sent {
                match answer {
                    Ok(answer) => answers.push(answer),
                    Err(error) => {
                        pending.extend(ids);
                        failed = Some(error);
                    }
                }
            }
            match failed {
                None => return Ok(answers),
                Some(error) => tries.again(error).await?,
            }
            places = self.places(&pending, Some(tries.until)).await?;
        }
    }

    /// Asks at all places at once; for each other node its groups and what it said.
    async fn ask_places<Q: Ask>(
        &self,
        places: &Places,
        question: &impl Fn(&[GroupId]) -> Q,
        until: Duration,
    ) -> Result<Vec<(Vec<GroupId>, Result<Q::Answer, QueryError>)>, AskError> {
        let questions = places.elsewhere.iter().map(|(node, ids)| {
            let query = write(&question(ids));
            async move {
                let query = match query {
                    Ok(query) => query,
                    Err(error) => return Err(error),
                };
                let answer = match self.send(*node, ids, query, until).await {
                    Ok(answer) => Ok(read::<Q>(&answer)?),
                    Err(error) => Err(error),
                };
                Ok((ids.clone(), answer))
            }
        });
        let here = async {
            if places.here.is_empty() {
                return Ok(None);
            }
            let ids: Vec<GroupId> = places.here.iter().map(|(group, _)| *group).collect();
            let answer = question(&ids).run(&places.here).await?;
            Ok::<_, AskError>(Some((ids, Ok(answer))))
        };
        // The others work while this process does.
        let (sent, here) = future::join(join_all(questions), here).await;
        let mut answers = Vec::with_capacity(sent.len() + 1);
        for answer in sent {
            answers.push(answer?);
        }
        answers.extend(here?);
        Ok(answers)
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

/// Where groups are led.
#[derive(Default)]
struct Places {
    here: Vec<(GroupId, Arc<dyn Index>)>,
    elsewhere: Vec<(NodeId, Vec<GroupId>)>,
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

    /// Waits a little before the next try, if there is to be one after `error`.
    async fn again(&mut self, error: QueryError) -> Result<(), AskError> {
        if let QueryError::Failed(reason) = error {
            return Err(AskError::Failed(reason));
        }
        if self.clock.monotonic() + self.pause >= self.until {
            return Err(AskError::Unavailable(error.to_string()));
        }
        self.clock.sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }
}
