//! Writers that stood still: what they planned by an old map comes when the drive that it goes to has been found to hold
//! nothing of others any more. It would be looked for elsewhere, so it must be refused.

use std::collections::BTreeSet;
use std::sync::Arc;

use holdfast_placement::ids::{ChunkSetId, DriveId};
use holdfast_placement::map::ClusterMap;
use holdfast_placement::seams::{SeededRng, UnixMillis};
use holdfast_storage_node::node::Node;
use holdfast_storage_node::shard_store::ShardId;
use holdfast_storage_node::shards::{ShardFacts, Shards};

use crate::census::place;
use crate::clock::EPOCH;
use crate::run::Stage;

/// Shards that are thought up to find some that have moved.
const TRIES: u32 = 4000;

/// Bytes of each.
const LEN: usize = 5000;

/// The map as it is now.
pub async fn map(stage: &Stage) -> Option<Arc<ClusterMap>> {
    let map = stage
        .world
        .at(0, |node| Box::pin(async move { node.map().load().clone() }));
    map.await
}

/// Has writers put shards that they planned by the map `before`.
pub async fn put(stage: &Stage, before: &ClusterMap) {
    let Some(now) = map(stage).await else {
        return;
    };
    let settled = now.rings.iter().all(|(_, ring)| ring.is_settled());
    let Some((site, _)) = now.rings.first().filter(|_| settled) else {
        return;
    };
    let rng = SeededRng::new(stage.seed ^ 0x1A7E_0B17);
    let mut tried: BTreeSet<DriveId> = BTreeSet::new();
    for chunk in 0..TRIES {
        let id = ShardId {
            set: ChunkSetId::begun(UnixMillis(EPOCH), &rng),
            chunk,
            slot: 0,
        };
        let (Some(then), Some(to)) = (place(before, *site, id), place(&now, *site, id)) else {
            continue;
        };
        let is_known = now.drive(then).is_some_and(|drive| drive.state.is_up());
        if then == to || !is_known || !tried.insert(then) {
            continue;
        }
        let facts = ShardFacts {
            epoch: before.epoch,
            chunk_hash: [0; 32],
            chunk_len: LEN as u32,
        };
        let host = stage.shared.some_node(&rng);
        let taken = stage.world.at(host, move |node| {
            Box::pin(async move { put_one(&node, then, id, facts).await })
        });
        let taken = taken.await;
        let trace = &stage.shared.trace;
        trace.note(format_args!(
            "{host} puts {id} on {then} by an old map: {taken:?}"
        ));
        stage.shared.count("put late");
        if taken == Some(Ok(())) {
            stage.shared.violated(format!(
                "{then} has taken {id}, which was planned by the map of {} and belongs to {to} since",
                before.epoch
            ));
            return;
        }
    }
}

async fn put_one(
    node: &Node,
    drive: DriveId,
    id: ShardId,
    facts: ShardFacts,
) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let buffer = node.pool().acquire(LEN).await;
    let mut buffer = buffer.map_err(|error| text(&error))?;
    buffer.set_len(LEN);
    buffer.payload_mut().fill(7);
    let put = node.shards().put(drive, id, facts, buffer).await;
    put.map_err(|error| text(&error))
}
