//! The watch over a node's drives: notices a lost one, takes it out of use, gives its replicas to others.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_placement::ids::{DriveId, Epoch};
use holdfast_placement::voters::voter_count;

use super::open::{Inner, room};
use super::space::reserve_bytes;

const INTERVAL: Duration = Duration::from_millis(500);

/// The voters that a group should have instead of `voters` when only `up` drives are left; `None` when there is
/// nothing to gain. With fewer than three drives left the voters stay: taking the lost ones out would not make the
/// next loss any better, and keeping them lets a drive that comes back take part again.
pub(super) fn wanted_voters(voters: &[DriveId], up: &[DriveId]) -> Option<Vec<DriveId>> {
    let live: Vec<DriveId> = voters
        .iter()
        .copied()
        .filter(|id| up.contains(id))
        .collect();
    if live.len() == voters.len() || up.len() < 3 {
        return None;
    }
    let count = voter_count(up.len()).min(voters.len());
    let mut wanted: Vec<DriveId> = live.into_iter().take(count).collect();
    for id in up {
        if wanted.len() < count && !wanted.contains(id) {
            wanted.push(*id);
        }
    }
    Some(wanted)
}

pub(super) async fn run(inner: Arc<Inner>, mut stopped: tokio::sync::watch::Receiver<bool>) {
    loop {
        tokio::select! {
            _ = inner.clock.sleep(INTERVAL) => {}
            _ = stopped.changed() => return,
        }
        look(&inner).await;
    }
}

/// One look at every drive.
pub(super) async fn look(inner: &Arc<Inner>) {
    for (id, reason) in newly_lost(inner) {
        tracing::error!(drive = %id, reason, "drive is out of use");
        inner.shards.fail(id);
        inner.replicas.fail_drive(id).await;
    }
    note_space(inner);
    note_in_map(inner).await;
    absorb(inner).await;
    inner.pool.trim();
}

fn newly_lost(inner: &Inner) -> Vec<(DriveId, String)> {
    let failed_replicas: HashMap<DriveId, String> =
        inner.replicas.failed_drives().into_iter().collect();
    let mut lost = Vec::new();
    for drive in inner.drives.lock().iter_mut() {
        let Some(store) = drive.store.as_ref().filter(|_| drive.failure.is_none()) else {
            continue;
        };
        store.check_present();
        let reason = store
            .down()
            .map(str::to_owned)
            .or_else(|| failed_replicas.get(&drive.id).cloned());
        if let Some(reason) = reason {
            drive.failure = Some(reason.clone());
            lost.push((drive.id, reason));
        }
    }
    lost
}

fn note_space(inner: &Inner) {
    let mut tightest: Option<(u64, u64)> = None;
    for drive in inner.drives.lock().iter_mut() {
        if drive.failure.is_some() {
            continue;
        }
        let (total, free) = room(&drive.path);
        drive.total_bytes = total;
        drive.free_bytes = free;
        if tightest.is_none_or(|(least, _)| free < least) {
            tightest = Some((free, total));
        }
    }
    if let Some((free, total)) = tightest {
        inner.space.note(free, total);
        // Shards are refused before metadata is: what was deleted has to make room soon, not at the next slow round.
        if free < 3 * reserve_bytes(total) {
            inner.reclaimer.wake();
        }
    }
}

/// Tells the cluster map which drives are down. A failure to do so is tried again at the next look.
async fn note_in_map(inner: &Inner) {
    let current = inner.map.load();
    let mut map = current.as_ref().clone();
    {
        let drives = inner.drives.lock();
        for drive in &mut map.drives {
            if let Some(seen) = drives.iter().find(|seen| seen.id == drive.id) {
                drive.state = drive.state.seen(seen.failure.is_none());
            }
        }
    }
    if map == *current {
        return;
    }
    map.epoch = Epoch(current.epoch.0 + 1);
    match inner.directory.set_map(Some(current.epoch), &map).await {
        Ok(true) => inner.map.update(map),
        Ok(false) => {
            if let Ok(Some(newer)) = inner.directory.map().await {
                inner.map.update(newer);
            }
        }
        Err(error) => tracing::warn!(%error, "the cluster map could not be brought up to date"),
    }
}

/// Gives the replicas of lost drives to others, group by group.
async fn absorb(inner: &Inner) {
    let up: Vec<DriveId> = {
        let drives = inner.drives.lock();
        if drives.iter().all(|drive| drive.failure.is_none()) {
            return;
        }
        drives
            .iter()
            .filter(|drive| drive.failure.is_none())
            .map(|drive| drive.id)
            .collect()
    };
    for group in inner.replicas.status() {
        let Some(wanted) = wanted_voters(&group.voters, &up) else {
            continue;
        };
        match inner.replicas.change_voters(group.group, &wanted).await {
            Ok(()) => {
                tracing::info!(group = %group.group, voters = ?wanted, "lost replicas given to other drives");
            }
            Err(error) => {
                tracing::warn!(group = %group.group, %error, "voters could not be changed; trying again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(numbers: &[u64]) -> Vec<DriveId> {
        numbers.iter().copied().map(DriveId).collect()
    }

    #[test]
    fn a_lost_voter_is_replaced_by_a_spare_drive() {
        assert_eq!(
            wanted_voters(&ids(&[1, 2, 3]), &ids(&[2, 3, 4])),
            Some(ids(&[2, 3, 4]))
        );
    }

    #[test]
    fn five_voters_that_lose_two_of_six_drives_become_three() {
        assert_eq!(
            wanted_voters(&ids(&[1, 2, 3, 4, 5]), &ids(&[3, 4, 5, 6])),
            Some(ids(&[3, 4, 5]))
        );
    }

    #[test]
    fn nothing_is_changed_without_need_or_with_too_few_drives() {
        assert_eq!(wanted_voters(&ids(&[1, 2, 3]), &ids(&[1, 2, 3, 4])), None);
        assert_eq!(wanted_voters(&ids(&[1, 2, 3]), &ids(&[1, 2])), None);
        assert_eq!(wanted_voters(&ids(&[1, 2]), &ids(&[1])), None);
    }
}
