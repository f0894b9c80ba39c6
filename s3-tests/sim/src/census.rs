//! Whether every body that the metadata knows lies whole where the ring says; asked from outside, drive by drive.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_placement::ids::{ChunkSetId, DriveId, GroupId, SiteId};
use holdfast_placement::map::ClusterMap;
use holdfast_storage_node::metadata::{Body, ChunkedBody, Seen};
use holdfast_storage_node::node::Node;
use holdfast_storage_node::shard_store::{GetShardError, ShardId};
use holdfast_storage_node::shards::{Shards, read_capacity};

use crate::workload::{BUCKET, key_name};

/// Bodies of a step, and shards of a page.
const PAGE: usize = 500;

/// What was found.
#[derive(Default)]
pub struct Counted {
    pub wrong: Vec<String>,
    /// All shards that should be there, with their drives.
    pub shards: Vec<(DriveId, ShardId)>,
}

/// How the shards are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Their drives' indexes say that they are there.
    Indexes,
    /// They are read, and all others that the indexes name.
    Bytes,
}

/// Looks at all bodies, as `node` sees them. An error: it could not be told.
pub async fn take(node: &Node, keys: usize, look: Look) -> Result<Counted, String> {
    let mut counted = Counted::default();
    let bodies = bodies(node).await?;
    for set in sets_of_keys(node, keys).await? {
        if !bodies.contains_key(&set) {
            let what = format!("a walk over all bodies does not come by {set}");
            counted.wrong.push(what);
        }
    }
    for body in bodies.values() {
        check(node, body, look, &mut counted).await?;
    }
    if look == Look::Bytes {
        for drive in node.map().load().drives.iter().map(|drive| drive.id) {
            read_all(node, drive, &mut counted).await?;
        }
    }
    Ok(counted)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// All bodies in chunks, of all groups.
async fn bodies(node: &Node) -> Result<BTreeMap<ChunkSetId, ChunkedBody>, String> {
    let mut found = BTreeMap::new();
    let groups = node.map().load().metadata_groups;
    for group in (1..=groups).map(GroupId) {
        let mut at = Some(Seen::default());
        while let Some(after) = at {
            let step = node.metadata().bodies(group, after, PAGE).await;
            let step = step.map_err(text)?;
            found.extend(step.bodies.into_iter().map(|body| (body.set, body)));
            at = step.next;
        }
    }
    Ok(found)
}

/// The chunk sets of the bucket's keys.
async fn sets_of_keys(node: &Node, keys: usize) -> Result<Vec<ChunkSetId>, String> {
    let mut sets = Vec::new();
    let bucket = node.directory().bucket_now(BUCKET).await;
    let Some(bucket) = bucket.map_err(text)? else {
        return Ok(sets);
    };
    let metadata = node.metadata();
    for key in (0..keys).map(key_name) {
        let found = metadata.get(bucket.id, &key).await;
        let Some(found) = found.map_err(text)? else {
            continue;
        };
        match found.record.body {
            Body::Empty | Body::Inline => {}
            Body::Chunked(body) => sets.push(body.set),
            Body::Multipart { table, .. } => {
                let range = 0..found.record.summary.size;
                let parts = metadata.parts_in_range(bucket.id, &key, table, range).await;
                let chunked = |body| match body {
                    Body::Chunked(body) => Some(body.set),
                    _ => None,
                };
                let bodies = parts.map_err(text)?.into_iter().map(|(_, part)| part.body);
                sets.extend(bodies.filter_map(chunked));
            }
        }
    }
    Ok(sets)
}

async fn check(
    node: &Node,
    body: &ChunkedBody,
    look: Look,
    counted: &mut Counted,
) -> Result<(), String> {
    let map = node.map().load();
    for chunk in 0..body.chunks() {
        for slot in body.layout_of(chunk).stored_slots() {
            let id = ShardId {
                set: body.set,
                chunk,
                slot,
            };
            let Some(drive) = place(&map, body.site, id) else {
                counted.wrong.push(format!("there is no drive for {id}"));
                continue;
            };
            counted.shards.push((drive, id));
            let wrong = match node.shards().info(drive, id).await {
                Ok(Some(shard)) if shard.bad => Some(format!("{id} on {drive} is bad")),
                Ok(Some(shard)) if look == Look::Bytes => read(node, drive, id, shard.len).await?,
                Ok(Some(_)) => None,
                Ok(None) => Some(format!("{id} is not on {drive}")),
                Err(error) => return Err(format!("{drive}: {error}")),
            };
            counted.wrong.extend(wrong);
        }
    }
    Ok(())
}

/// Reads every shard that a drive's index names: what is indexed is there, and right.
async fn read_all(node: &Node, drive: DriveId, counted: &mut Counted) -> Result<(), String> {
    let mut after = None;
    loop {
        let page = node.shards().list(drive, after, PAGE).await;
        let page = page.map_err(|error| format!("{drive}: {error}"))?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some(last.id);
        for shard in page.iter().filter(|shard| !shard.bad) {
            let wrong = read(node, drive, shard.id, shard.len).await?;
            counted.wrong.extend(wrong);
        }
    }
}

/// A shard's bytes.
pub async fn bytes_of(node: &Node, drive: DriveId, id: ShardId) -> Result<Bytes, String> {
    let info = node.shards().info(drive, id).await.map_err(text)?;
    let len = info.ok_or("it is not there")?.len;
    get(node, drive, id, len).await?.map_err(text)
}

/// Shards on the drives that belong to nothing.
pub async fn leftovers(node: &Node) -> Result<Vec<String>, String> {
    let bodies = bodies(node).await?;
    let mut left = Vec::new();
    for drive in node.map().load().drives.iter().map(|drive| drive.id) {
        let mut after = None;
        loop {
            let page = node.shards().list(drive, after, PAGE).await;
            let page = page.map_err(|error| format!("{drive}: {error}"))?;
            let Some(last) = page.last() else {
                break;
            };
            after = Some(last.id);
            let unknown = page
                .iter()
                .filter(|shard| !bodies.contains_key(&shard.id.set));
            left.extend(unknown.map(|shard| format!("{} on {drive}", shard.id)));
        }
    }
    Ok(left)
}

async fn get(
    node: &Node,
    drive: DriveId,
    id: ShardId,
    len: u32,
) -> Result<Result<Bytes, GetShardError>, String> {
    let range = 0..len;
    let capacity = read_capacity(&range);
    let memory = node.pool().reserve(&[capacity]).await.map_err(text)?;
    let buffer = memory.lend(capacity).ok_or("no memory")?;
    Ok(node.shards().get(drive, id, range, buffer).await)
}

/// What is wrong with a shard's bytes.
async fn read(
    node: &Node,
    drive: DriveId,
    id: ShardId,
    len: u32,
) -> Result<Option<String>, String> {
    match get(node, drive, id, len).await? {
        Ok(_) => Ok(None),
        // It went meanwhile.
        Err(GetShardError::NotFound) => Ok(None),
        Err(error @ GetShardError::Corrupt(_)) => Ok(Some(format!("{id} on {drive}: {error}"))),
        Err(error) => Err(format!("{drive}: {error}")),
    }
}

/// The drive that a shard belongs to.
pub fn place(map: &ClusterMap, site: SiteId, id: ShardId) -> Option<DriveId> {
    let ring = map.ring(site)?;
    let partition = ring.partition_of(id.set, id.chunk);
    Some(ring.slot(partition, id.slot)?.target)
}
