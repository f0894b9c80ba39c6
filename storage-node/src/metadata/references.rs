//! Which chunk sets a group refers to.

use std::collections::HashSet;

use holdfast_placement::ids::{ChunkSetId, GroupId};
use holdfast_placement::seams::{IndexError, IndexView, Keyspace};

use super::keys;
use super::record::{Body, PartRecord};
use super::store::{Metadata, MetadataError};
use super::values::{self, PartPage};
use crate::repair::reclaim::Entry;

impl Metadata {
    /// Takes away from `suspects` the chunk sets that a version, a part or the reclaim queue of the group refers to.
    /// Looks at every record of the group, in one view that has all that was acknowledged before the call; a record
    /// that cannot be read is an error.
    pub async fn clear_referenced(
        &self,
        group: GroupId,
        mut suspects: HashSet<ChunkSetId>,
    ) -> Result<HashSet<ChunkSetId>, MetadataError> {
        let state = self.read(group).await?;
        // Seconds of work in a large store: not on a thread that serves requests.
        let cleared = tokio::task::spawn_blocking(move || {
            clear(&*state.view(), group, &mut suspects).map(|()| suspects)
        });
        match cleared.await {
            Ok(cleared) => Ok(cleared?),
            Err(error) => Err(MetadataError::Failed(error.to_string())),
        }
    }
}

fn clear(
    view: &dyn IndexView,
    group: GroupId,
    suspects: &mut HashSet<ChunkSetId>,
) -> Result<(), IndexError> {
    let clear_part = |part: &PartRecord, suspects: &mut HashSet<ChunkSetId>| {
        clear_body(&part.body, suspects);
    };
    each(view, Keyspace::Objects, &group.0.to_be_bytes(), |value| {
        clear_body(&values::version_body(value)?.1, suspects);
        Ok(())
    })?;
    each(view, Keyspace::Records, &keys::all_parts(group), |value| {
        clear_part(&values::decode(value, "a part")?, suspects);
        Ok(())
    })?;
    each(view, Keyspace::Records, &keys::all_pages(group), |value| {
        let page: PartPage = values::decode(value, "a part table")?;
        page.parts
            .iter()
            .for_each(|part| clear_part(part, suspects));
        Ok(())
    })?;
    each(view, Keyspace::Records, &keys::reclaims(group), |value| {
        // Tables and parts that wait have their records still.
        if let Entry::Body(body) = values::decode(value, "the reclaim queue")? {
            suspects.remove(&body.set);
        }
        Ok(())
    })
}

fn clear_body(body: &Body, suspects: &mut HashSet<ChunkSetId>) {
    if let Body::Chunked(body) = body {
        suspects.remove(&body.set);
    }
}

fn each(
    view: &dyn IndexView,
    space: Keyspace,
    prefix: &[u8],
    mut visit: impl FnMut(&[u8]) -> Result<(), IndexError>,
) -> Result<(), IndexError> {
    let end = keys::successor(prefix).unwrap_or_default();
    let mut cursor = view.cursor(space, prefix, &end)?;
    cursor.seek(prefix)?;
    while let Some((_, value)) = cursor.entry() {
        visit(value)?;
        cursor.next()?;
    }
    Ok(())
}
