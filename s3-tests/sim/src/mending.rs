//! Shards that go missing or bad behind the cluster's back, when all is well otherwise: censuses and scrubs must find them
//! and have them made anew, and until then nobody may say that everything is whole.

use std::sync::Arc;
use std::time::Duration;

use holdfast_placement::ids::DriveId;
use holdfast_placement::seams::SeededRng;
use holdfast_storage_node::node::NodeOrder;
use holdfast_storage_node::shard_store::ShardId;
use holdfast_storage_node::shards::Shards;
use tokio::time::sleep;

use crate::census::{self, Look};
use crate::run::Stage;

/// How long it may take until everything is said to be whole.
const WHOLE_MAX: Duration = Duration::from_secs(60);

/// Shards that are lost at a time; on one drive, so that no chunk loses two.
const LOST: usize = 4;

/// Bytes that tell a shard from others.
const MARK_LEN: usize = 32;

/// What was known elsewhere before is old by then.
const NEWS: Duration = Duration::from_secs(5);

/// Damages drives, and waits until everything is whole again.
pub async fn mend(stage: &Arc<Stage>) -> Result<(), String> {
    let rng = SeededRng::new(stage.seed ^ 0x3E4D);
    // One that says so is right.
    let shards = whole(stage).await?;
    let drives: Vec<DriveId> = {
        let mut drives: Vec<DriveId> = shards.iter().map(|(drive, _)| *drive).collect();
        drives.sort_unstable();
        drives.dedup();
        drives
    };
    if drives.len() < 2 {
        return Ok(());
    }
    let some_drive = || drives[rng.below(drives.len() as u64) as usize];
    let drive = some_drive();
    let on_drive = shards.iter().filter(|(at, _)| *at == drive);
    let lost: Vec<ShardId> = on_drive.map(|(_, id)| *id).take(LOST).collect();
    stage
        .shared
        .trace
        .note(format_args!("{drive} loses {lost:?}"));
    let deleted = stage.world.at(0, move |node| {
        Box::pin(async move { node.shards().delete(drive, &lost).await })
    });
    let deleted = deleted.await.ok_or("the node does not run")?;
    deleted.map_err(|error| error.to_string())?;
    look_again(stage).await?;
    whole(stage).await?;

    let drive = some_drive();
    let on_drive = shards.iter().filter(|(at, _)| *at == drive);
    for (_, id) in on_drive.take(LOST) {
        spoil(stage, drive, *id).await?;
    }
    look_again(stage).await?;
    whole(stage).await?;
    Ok(())
}

/// Flips a bit of a shard where it lies.
async fn spoil(stage: &Arc<Stage>, drive: DriveId, id: ShardId) -> Result<(), String> {
    let bytes = stage.world.at(0, move |node| {
        Box::pin(async move { census::bytes_of(&node, drive, id).await })
    });
    let bytes = bytes.await.ok_or("the node does not run")??;
    let mark = &bytes[..bytes.len().min(MARK_LEN)];
    if !stage.world.spoil(drive, mark) {
        return Err(format!("{id} does not lie on {drive}"));
    }
    let trace = &stage.shared.trace;
    trace.note(format_args!("{id} goes bad on {drive}"));
    Ok(())
}

/// Has everything be looked at.
async fn look_again(stage: &Arc<Stage>) -> Result<(), String> {
    let ordered = stage.world.at(0, |node| {
        Box::pin(async move { node.order(&NodeOrder::Scrub).await })
    });
    let ordered = ordered.await.ok_or("the node does not run")?;
    ordered.map_err(|error| error.to_string())?;
    sleep(NEWS).await;
    Ok(())
}

/// Waits until some node says that everything is whole: then it must be.
async fn whole(stage: &Arc<Stage>) -> Result<Vec<(DriveId, ShardId)>, String> {
    let end = stage.shared.trace.now() + WHOLE_MAX;
    let (world, keys) = (&stage.world, stage.world.shape.keys);
    loop {
        let begun = world.begun();
        let says = begun.iter().find(|host| world.says_whole(**host));
        if let Some(host) = says {
            stage
                .shared
                .trace
                .note(format_args!("{host} says that everything is whole"));
            let counted = world.at(*host, move |node| {
                Box::pin(async move { census::take(&node, keys, Look::Bytes).await })
            });
            let counted = counted.await.ok_or("the node does not run")?;
            match counted {
                Ok(counted) if counted.wrong.is_empty() => return Ok(counted.shards),
                Ok(counted) => {
                    let wrong = counted.wrong;
                    return Err(format!("{host} says that all is whole, and {wrong:?}"));
                }
                Err(error) => stage.shared.trace.note(format_args!("no census: {error}")),
            }
        }
        if stage.shared.trace.now() > end {
            let why = world.mending(begun[0]);
            return Err(format!("nobody says that everything is whole: {why}"));
        }
        sleep(Duration::from_millis(200)).await;
    }
}
