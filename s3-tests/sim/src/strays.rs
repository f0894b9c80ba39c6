//! Whether a slot has two owners who both take shards: when nothing moves any more, no drive holds what belongs elsewhere.
//!
//! A ring is settled when all drives that shards moved away from have said that they hold nothing of others, and that is
//! said of what was planned by older maps, too. So where a node goes by a settled ring, a shard on one of its drives that
//! belongs to another, and that was planned by a map not newer than the node's, was taken after its drive had been done.
//! It would be looked for elsewhere, and be missing there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use holdfast_placement::ids::DriveId;
use holdfast_storage_node::node::Node;
use holdfast_storage_node::shard_store::ShardId;
use holdfast_storage_node::shards::Shards;
use tokio::time::sleep;

use crate::census::place;
use crate::net::{Host, name};
use crate::run::Stage;

const LOOK_EVERY: Duration = Duration::from_millis(400);

/// Shards of a page.
const PAGE: usize = 500;

/// Looks for strays as long as it is let.
///
/// A start may find records of puts that were never acknowledged: what a node has when it is first looked at is no
/// sign of anything.
pub async fn watch(stage: Arc<Stage>) {
    let mut known: BTreeMap<(Host, u64), BTreeSet<(DriveId, ShardId)>> = BTreeMap::new();
    loop {
        sleep(LOOK_EVERY).await;
        for host in stage.world.begun() {
            let life = stage.world.life_of(host);
            let drives: Vec<DriveId> = stage.world.drives_of(host);
            let found = stage.world.at(host, move |node| {
                Box::pin(async move { strays(&node, &drives).await })
            });
            let Some(Ok((settled, found))) = found.await else {
                continue;
            };
            if stage.world.life_of(host) != life {
                continue;
            }
            let Some(known) = known.get(&(host, life)) else {
                known.insert((host, life), found);
                continue;
            };
            for (drive, shard) in found.difference(known).filter(|_| settled) {
                stage.shared.violated(format!(
                    "{} goes by a settled ring, and {drive} has {shard}, which belongs elsewhere",
                    name(host)
                ));
            }
        }
    }
}

/// Shards on these drives of the node that belong to others by the map that the node goes by, and whether that is settled.
async fn strays(
    node: &Node,
    drives: &[DriveId],
) -> Result<(bool, BTreeSet<(DriveId, ShardId)>), String> {
    let before = node.map().load().epoch;
    let mut found = BTreeSet::new();
    for drive in drives {
        let mut after = None;
        loop {
            let page = node.shards().list(*drive, after, PAGE).await;
            let page = page.map_err(|error| error.to_string())?;
            let Some(last) = page.last() else {
                break;
            };
            after = Some(last.id);
            let map = node.map().load();
            let sites: Vec<_> = map.rings.iter().map(|(site, _)| *site).collect();
            let strays = page.iter().filter(|shard| {
                // Slots that a ring has no more, because it has fewer drives, belong nowhere, and stay where they are.
                let places = sites.iter().filter_map(|site| place(&map, *site, shard.id));
                let places: Vec<_> = places.collect();
                let is_elsewhere = !places.is_empty() && !places.contains(drive);
                shard.facts.epoch <= map.epoch && is_elsewhere
            });
            found.extend(strays.map(|shard| (*drive, shard.id)));
        }
    }
    let map = node.map().load();
    if map.epoch != before {
        return Err("the map changed meanwhile".to_owned());
    }
    let settled = map.rings.iter().all(|(_, ring)| ring.is_settled());
    Ok((settled, found))
}
