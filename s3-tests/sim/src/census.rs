//! Whether every body that the metadata knows lies whole where the ring says.

use holdfast_placement::ids::{DriveId, SiteId};
use holdfast_storage_node::metadata::{Body, ChunkedBody};
use holdfast_storage_node::node::Node;
use holdfast_storage_node::shard_store::ShardId;
use holdfast_storage_node::shards::Shards;

use crate::workload::{BUCKET, key_name};

/// What is wrong with the bodies of the bucket's keys, as `node` sees it. An error: it could not be told.
pub async fn take(node: &Node, keys: usize) -> Result<Vec<String>, String> {
    let mut wrong = Vec::new();
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let bucket = node.directory().bucket_now(BUCKET).await;
    let Some(bucket) = bucket.map_err(|error| text(&error))? else {
        return Ok(Vec::new());
    };
    let metadata = node.metadata();
    for key in (0..keys).map(key_name) {
        let found = metadata.get(bucket.id, &key).await;
        let Some(found) = found.map_err(|error| text(&error))? else {
            continue;
        };
        let bodies: Vec<ChunkedBody> = match found.record.body {
            Body::Empty | Body::Inline => Vec::new(),
            Body::Chunked(body) => vec![body],
            Body::Multipart { table, .. } => {
                let range = 0..found.record.summary.size;
                let parts = metadata.parts_in_range(bucket.id, &key, table, range).await;
                let parts = parts.map_err(|error| text(&error))?;
                let chunked = |body| match body {
                    Body::Chunked(body) => Some(body),
                    _ => None,
                };
                let bodies = parts.into_iter().map(|(_, part)| part.body);
                bodies.filter_map(chunked).collect()
            }
        };
        for body in bodies {
            for problem in check(node, &body).await? {
                wrong.push(format!("{key}: {problem}"));
            }
        }
    }
    Ok(wrong)
}

async fn check(node: &Node, body: &ChunkedBody) -> Result<Vec<String>, String> {
    let mut wrong = Vec::new();
    let map = node.map().load();
    for chunk in 0..body.chunks() {
        for slot in body.layout_of(chunk).stored_slots() {
            let id = ShardId {
                set: body.set,
                chunk,
                slot,
            };
            let Some(drive) = place(&map, body.site, id) else {
                wrong.push(format!("there is no drive for {id}"));
                continue;
            };
            match node.shards().info(drive, id).await {
                Ok(Some(shard)) if !shard.bad => {}
                Ok(Some(_)) => wrong.push(format!("{id} on {drive} is bad")),
                Ok(None) => wrong.push(format!("{id} is not on {drive}")),
                Err(error) => return Err(format!("{drive}: {error}")),
            }
        }
    }
    Ok(wrong)
}

fn place(map: &holdfast_placement::map::ClusterMap, site: SiteId, id: ShardId) -> Option<DriveId> {
    let ring = map.ring(site)?;
    let partition = ring.partition_of(id.set, id.chunk);
    Some(ring.slot(partition, id.slot)?.target)
}
