//! The bodies of a group, one after the other: for who looks whether they are whole.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use holdfast_placement::ids::{ChunkSetId, GroupId};
use holdfast_placement::query::{Ask, States, state_of};
use holdfast_placement::seams::{Index, IndexError, Keyspace, blocking};
use serde::{Deserialize, Serialize};

use super::keys;
use super::questions::kind;
use super::record::ChunkedBody;
use super::redundancy::{Seen, step};
use super::store::{Metadata, MetadataError};
use super::values;

/// Some bodies of a group, and where to go on; `None` at the end. A step may find nothing and still not be the last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bodies {
    pub bodies: Vec<ChunkedBody>,
    pub next: Option<Seen>,
    /// How often a version of the group has come back to be the newest. If that changes during a walk, newest versions
    /// are to be gone over again: one may have moved to where the walk had been already.
    pub promotions: u64,
}

impl Metadata {
    /// Bodies of the group, from where an earlier step ended: of versions, and of parts of open uploads. A step looks at
    /// a few thousand records and ends at `max` bodies, or a little beyond: the parts of an object come together.
    pub async fn bodies(
        &self,
        group: GroupId,
        after: Seen,
        max: usize,
    ) -> Result<Bodies, MetadataError> {
        let question = FindBodies {
            group,
            sets: None,
            after: after.clone(),
            max,
        };
        let found = self.asker.ask(group, &question).await?;
        Ok(Bodies {
            next: after.then(found.next),
            ..found
        })
    }

    /// The bodies of the group that have these different chunk sets. Looks at every record of the group. One that moves from where
    /// the walk has not been yet to where it has been (a version that is the newest again, an upload that is completed) is missed.
    pub async fn bodies_of(
        &self,
        group: GroupId,
        sets: &[ChunkSetId],
    ) -> Result<Vec<ChunkedBody>, MetadataError> {
        let mut found: HashMap<ChunkSetId, ChunkedBody> = HashMap::new();
        let mut at = Some(Seen::default());
        while let Some(after) = at
            && found.len() < sets.len()
        {
            let question = FindBodies {
                group,
                sets: Some(Cow::Borrowed(sets)),
                after: after.clone(),
                max: sets.len(),
            };
            let step = self.asker.ask(group, &question).await?;
            // A version that moves meanwhile may be met twice.
            found.extend(step.bodies.into_iter().map(|body| (body.set, body)));
            at = after.then(step.next);
        }
        Ok(found.into_values().collect())
    }
}

/// See [`Metadata::bodies`] and [`Metadata::bodies_of`].
#[derive(Serialize, Deserialize)]
pub struct FindBodies<'a> {
    group: GroupId,
    /// Only these; `None`: all.
    sets: Option<Cow<'a, [ChunkSetId]>>,
    after: Seen,
    max: usize,
}

impl Ask for FindBodies<'_> {
    const KIND: u8 = kind::BODIES;
    type Answer = Bodies;

    async fn run(&self, states: &States) -> Result<Bodies, IndexError> {
        let state = state_of(states, self.group)?.clone();
        let (group, after, max) = (self.group, self.after.clone(), self.max);
        let sets: Option<HashSet<ChunkSetId>> = self
            .sets
            .as_ref()
            .map(|sets| sets.iter().copied().collect());
        // Not on a thread that serves requests.
        let found = blocking(move || find(&*state, group, sets.as_ref(), &after, max)).await;
        found.unwrap_or_else(|error| Err(IndexError::Io(error.to_string())))
    }
}

fn find(
    state: &dyn Index,
    group: GroupId,
    sets: Option<&HashSet<ChunkSetId>>,
    after: &Seen,
    max: usize,
) -> Result<Bodies, IndexError> {
    let is_wanted = |body: &ChunkedBody| sets.is_none_or(|sets| sets.contains(&body.set));
    let found = step(state, group, &is_wanted, after, max)?;
    let promotions = match state.get(Keyspace::Records, &keys::promotions(group))? {
        Some(value) => values::decode(&value, "promotions")?,
        None => 0,
    };
    Ok(Bodies {
        bodies: found.bodies.into_iter().map(|placed| placed.body).collect(),
        next: found.next,
        promotions,
    })
}
