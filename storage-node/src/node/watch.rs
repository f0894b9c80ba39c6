//! The watch over a node's drives: notices a lost one and takes it out of use. The steward does the rest.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_placement::ids::{DriveId, GroupId};
use holdfast_placement::map::DriveState;

use super::clocks::check_clock;
use super::open::Inner;
use super::others::Others;
use super::report::Redundancy;
use super::space::reserve_bytes;
use super::status::GIVEN_UP;
use crate::repair::Floor;

/// Between two looks.
pub(super) const INTERVAL: Duration = Duration::from_millis(500);

pub(super) async fn run(inner: Arc<Inner>, mut stopped: tokio::sync::watch::Receiver<bool>) {
    loop {
        tokio::select! {
            _ = inner.clock.sleep(INTERVAL) => {}
            _ = stopped.changed() => return,
        }
        look(&inner).await;
    }
}

/// Sums up the groups again and again. Apart from the looks, which must not wait for groups that do not answer.
pub(super) async fn sum_up(inner: Arc<Inner>, mut stopped: tokio::sync::watch::Receiver<bool>) {
    loop {
        tokio::select! {
            _ = inner.clock.sleep(INTERVAL) => {}
            _ = stopped.changed() => return,
        }
        note_redundancy(&inner).await;
    }
}

/// One look at every drive.
pub(super) async fn look(inner: &Arc<Inner>) {
    for (id, reason) in newly_lost(inner) {
        tracing::error!(drive = %id, reason, "drive is out of use");
        inner.shards.fail(id);
        inner.replicas.fail_drive(id).await;
    }
    let others = Others::of(&inner.peers);
    check_clock(&inner.replicas, &others, inner.clock.wall(), 1);
    inner.space.note_elsewhere(others.any_is_full());
    note_space(inner);
    follow_orders(inner);
    inner.pool.trim();
}

fn newly_lost(inner: &Inner) -> Vec<(DriveId, String)> {
    let failed_replicas: HashMap<DriveId, String> =
        inner.replicas.failed_drives().into_iter().collect();
    let mut lost = Vec::new();
    let map = inner.map.load();
    // Others have, or get, what was here: nothing here may be read or counted any more.
    let is_given_up = |id: DriveId| {
        let is_lost = map
            .drive(id)
            .is_some_and(|drive| drive.state == DriveState::Lost);
        is_lost || map.node(inner.own).is_none()
    };
    for drive in inner.drives.lock().iter_mut() {
        let Some(store) = drive.store.as_ref().filter(|_| drive.failure.is_none()) else {
            continue;
        };
        store.check_present();
        let reason = store
            .down()
            .map(str::to_owned)
            .or_else(|| failed_replicas.get(&drive.id).cloned())
            .or_else(|| is_given_up(drive.id).then(|| GIVEN_UP.to_owned()));
        if let Some(reason) = reason {
            drive.failure = Some(reason.clone());
            lost.push((drive.id, reason));
        }
    }
    lost
}

fn note_space(inner: &Inner) {
    let mut tightest: Option<(u64, u64)> = None;
    let mut of_metadata: Option<(u64, u64)> = None;
    let is_tighter = |than: Option<(u64, u64)>, free| than.is_none_or(|(least, _)| free < least);
    for drive in inner.drives.lock().iter_mut() {
        if drive.failure.is_some() {
            continue;
        }
        let (total, free) = inner.media.room(&drive.path);
        drive.total_bytes = total;
        drive.free_bytes = free;
        if is_tighter(tightest, free) {
            tightest = Some((free, total));
        }
        if is_tighter(of_metadata, free) && inner.replicas.is_host(drive.id) {
            of_metadata = Some((free, total));
        }
    }
    inner.space.note(of_metadata);
    if let Some((free, total)) = tightest {
        // Shards are refused before metadata is: what was deleted has to make room soon, not at the next slow round.
        if free < 3 * reserve_bytes(total) {
            inner.reclaimer.wake();
        }
    }
}

/// Sums up what the groups that are led here hold; one that cannot be read now, what it held before.
pub(super) async fn note_redundancy(inner: &Inner) {
    let floor = Floor::of(&inner.map.load());
    // What is known stays to be seen until all is known anew.
    let before = inner.redundancy_of.lock().clone();
    let mut now = HashMap::new();
    let mut widest = Vec::new();
    let led = inner.replicas.led_here().into_iter();
    let asked = led
        .filter(|group| *group != GroupId::PLACEMENT)
        .map(|group| async move { (group, inner.metadata.usage(group).await) });
    for (group, usage) in join_all(asked).await {
        if let Ok(usage) = usage {
            let below = floor.below(&usage);
            let classes = usage.chunked.iter().filter(|(_, tally)| tally.bodies > 0);
            let slots = classes.map(|(class, _)| class.protection.slots() as u64);
            widest.push((group, slots.max().unwrap_or(0)));
            let found = Redundancy {
                repairs_open: usage.repairs_open,
                below_protection_bytes: below.bytes,
                below_protection_bodies: below.bodies,
            };
            now.insert(group, found);
        } else if let Some(known) = before.get(&group) {
            now.insert(group, *known);
        }
    }
    *inner.redundancy_of.lock() = now;
    *inner.widest.lock() = widest;
}

/// Does what the map says that operators want.
fn follow_orders(inner: &Inner) {
    let wanted = inner.map.load().reencode;
    if inner.reencoding.swap(wanted, Ordering::Relaxed) != wanted {
        match wanted {
            true => inner.reencode.start(),
            false => inner.reencode.stop(),
        }
    }
}
