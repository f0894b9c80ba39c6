//! The steward: the node whose replica leads the placement group keeps the cluster map true and has the cluster become
//! what the map says.
//!
//! Every round it looks who answers, and changes the map: which nodes and drives are up, which drives are in the rings,
//! what new bodies are protected with, who votes in which group. Then it sees to it that groups get the voters that the
//! map gives them, and leaders where they should be. Two stewards at a time do no harm: the map changes only by
//! compare-and-set, and every order can be given twice.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{self, join_all};
use holdfast_placement::balance::Member;
use holdfast_placement::ids::{DriveId, Epoch, GroupId, NodeId, SiteId};
use holdfast_placement::map::{ClusterMap, DriveState, NodeState};
use holdfast_placement::protection::Protection;
use holdfast_placement::seams::blocking;
use holdfast_placement::voters;

use super::open::Inner;
use super::report::{LedGroup, Report};

/// Between two rounds.
const INTERVAL: Duration = Duration::from_millis(300);

/// Groups whose voters are changed at a time.
const CHANGES_AT_A_TIME: usize = 6;

/// Rounds between two looks at where leaders are.
const LEADER_ROUNDS: u32 = 10;

/// What was done already, by this steward.
#[derive(Default)]
struct Done {
    /// Voters that the groups are known to have.
    voters: HashMap<GroupId, Vec<DriveId>>,
    rounds: u32,
}

/// Keeps the map true, and apart from it, because that may take its time, carries out what the map says.
pub(super) async fn run(inner: Arc<Inner>, stopped: tokio::sync::watch::Receiver<bool>) {
    future::join(
        keep_map_true(inner.clone(), stopped.clone()),
        carry_out(inner, stopped),
    )
    .await;
}

async fn keep_map_true(inner: Arc<Inner>, mut stopped: tokio::sync::watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = inner.clock.sleep(INTERVAL) => {}
            _ = stopped.changed() => return,
        }
        if is_steward(&inner) {
            tokio::select! {
                () = renew_map(&inner) => {}
                _ = stopped.changed() => return,
            }
        }
    }
}

async fn carry_out(inner: Arc<Inner>, mut stopped: tokio::sync::watch::Receiver<bool>) {
    let mut done = Done::default();
    loop {
        tokio::select! {
            () = inner.clock.sleep(INTERVAL) => {}
            _ = stopped.changed() => return,
        }
        if !is_steward(&inner) {
            done = Done::default();
            continue;
        }
        tokio::select! {
            () = work(&inner, &mut done) => {}
            _ = stopped.changed() => return,
        }
    }
}

fn is_steward(inner: &Inner) -> bool {
    inner.replicas.led_here().contains(&GroupId::PLACEMENT)
}

async fn work(inner: &Arc<Inner>, done: &mut Done) {
    give_voters(inner, done).await;
    done.rounds += 1;
    if done.rounds.is_multiple_of(LEADER_ROUNDS) {
        spread_leaders(inner, done).await;
    }
}

/// Makes the map true, if this node is the steward.
pub(super) async fn renew_map_now(inner: &Arc<Inner>) {
    if is_steward(inner) {
        renew_map(inner).await;
    }
}

async fn renew_map(inner: &Arc<Inner>) {
    let known = inner.map.load();
    let seen = Seen::now(inner);
    let improving = known.clone();
    // A new ring can take seconds to compute: not on a thread that serves requests.
    let improved = blocking(move || {
        let mut next = improving.as_ref().clone();
        improve(&mut next, &seen);
        next
    });
    let Ok(mut next) = improved.await else { return };
    if next == *known {
        return;
    }
    next.epoch = Epoch(known.epoch.0 + 1);
    match inner.directory.set_map(Some(known.epoch), &next).await {
        Ok(true) => inner.map.update(next),
        // Somebody else was faster: what is to be changed then, the next round sees.
        Ok(false) => {
            if let Ok(Some(newest)) = inner.directory.map().await {
                inner.map.update(newest);
            }
        }
        Err(error) => tracing::warn!(%error, "the cluster map could not be brought up to date"),
    }
}

/// Who is up, by what this node sees.
struct Seen {
    up: BTreeSet<NodeId>,
    failed: BTreeSet<DriveId>,
    capacities: HashMap<DriveId, u64>,
    /// The most shards that a chunk of any body has, by group, of those whose leaders have said so.
    widest: HashMap<GroupId, u64>,
    /// Who votes, by group, with the leader's term, of those whose leaders have said so.
    voters: HashMap<GroupId, (u64, Vec<DriveId>)>,
}

impl Seen {
    /// Whether no chunk of any body has more shards than that, by the word of all leaders.
    fn fits(&self, map: &ClusterMap, slots: usize) -> bool {
        (1..=map.metadata_groups).map(GroupId).all(|group| {
            let widest = self.widest.get(&group);
            widest.is_some_and(|widest| *widest <= slots as u64)
        })
    }

    fn now(inner: &Inner) -> Self {
        let mut seen = Self {
            up: BTreeSet::from([inner.own]),
            failed: BTreeSet::new(),
            capacities: HashMap::new(),
            widest: HashMap::new(),
            voters: HashMap::new(),
        };
        seen.take(inner.report());
        for node in &inner.map.load().nodes {
            if node.id != inner.own
                && !inner.peers.health().is_suspect(node.id)
                && let Some(report) = inner.report_of(node.id)
            {
                seen.up.insert(node.id);
                seen.take(report);
            }
        }
        seen
    }

    /// Whether the drive votes in no group, by the word of all leaders.
    fn has_no_vote(&self, map: &ClusterMap, drive: DriveId) -> bool {
        (0..=map.metadata_groups).map(GroupId).all(|group| {
            let said = self.voters.get(&group);
            said.is_some_and(|(_, voters)| !voters.contains(&drive))
        })
    }

    fn take(&mut self, report: Report) {
        for led in report.leads {
            let known = self.voters.entry(led.group).or_default();
            if led.term >= known.0 {
                *known = (led.term, led.voters);
            }
        }
        for (group, slots) in &report.mending.widest {
            let widest = self.widest.entry(*group).or_default();
            *widest = (*widest).max(*slots);
        }
        for drive in report.drives {
            if drive.failure.is_some() {
                self.failed.insert(drive.drive);
            }
            if drive.total_bytes > 0 {
                self.capacities.insert(drive.drive, drive.total_bytes);
            }
        }
    }
}

/// What the map should be, given what is seen.
fn improve(map: &mut ClusterMap, seen: &Seen) {
    for node in &mut map.nodes {
        node.state = match seen.up.contains(&node.id) {
            true => NodeState::Up,
            false => NodeState::Down,
        };
    }
    for drive in &mut map.drives {
        let up = seen.up.contains(&drive.node) && !seen.failed.contains(&drive.id);
        drive.state = drive.state.seen(up);
    }
    let sites: Vec<SiteId> = map.rings.iter().map(|(site, _)| *site).collect();
    for site in sites {
        renew_ring(map, site, seen);
    }
    forget_lost(map);
    remove_drained(map, seen);
    map.protection = wanted_protection(map);
    map.groups = wanted_voters(map);
}

/// The voters that the map's groups should have.
pub(super) fn wanted_voters(map: &ClusterMap) -> voters::Voters {
    let seats = voters::seats(map);
    voters::voters(&seats, &map.groups, map.metadata_groups, map.protection)
}

/// A drive is in its site's ring from when it was first seen to be up until it is drained.
fn renew_ring(map: &mut ClusterMap, site: SiteId, seen: &Seen) {
    let Some(ring) = map.ring(site) else { return };
    let present: BTreeSet<DriveId> = ring
        .partitions()
        .flatten()
        .map(|slot| slot.target)
        .collect();
    let members: Vec<Member> = map
        .members(site)
        .into_iter()
        .filter(|member| present.contains(&member.drive) || map.is_up(member.drive))
        .collect();
    let wanted: BTreeSet<DriveId> = members.iter().map(|member| member.drive).collect();
    if wanted == present || members.is_empty() {
        return;
    }
    // Chunks whose shards have no slot any more cannot be whole. An order to drain was refused where there were any; what
    // was being written meanwhile, with more shards, is encoded anew first.
    let slots = ring.partitions().map(<[_]>::len).min().unwrap_or(0);
    if wanted.len() < slots && !seen.fits(map, wanted.len()) {
        return;
    }
    // The ring changes anyway: now drives count by what they hold.
    for drive in &mut map.drives {
        if let Some(capacity) = seen.capacities.get(&drive.id)
            && drive.is_for_data()
        {
            drive.capacity = *capacity;
        }
    }
    let members: Vec<Member> = map
        .members(site)
        .into_iter()
        .filter(|member| wanted.contains(&member.drive))
        .collect();
    let widths = widths(map, &members, seen);
    if let Some((_, ring)) = map.rings.iter_mut().find(|(at, _)| *at == site) {
        *ring = ring.rebalanced(&members, &widths);
    }
}

/// How many shards the chunks of bodies have: of those that are written now, of those that will be, and of the widest that there
/// are.
fn widths(map: &ClusterMap, members: &[Member], seen: &Seen) -> Vec<usize> {
    let next = map
        .protection_chosen
        .unwrap_or_else(|| Protection::auto(members));
    let widest = seen.widest.values().copied().max().unwrap_or(0);
    vec![map.protection.slots(), next.slots(), widest as usize]
}

/// Nobody need look for anything on drives that are gone for good.
fn forget_lost(map: &mut ClusterMap) {
    for drive in map
        .drives
        .iter()
        .filter(|drive| drive.state == DriveState::Lost)
    {
        for (_, ring) in &mut map.rings {
            ring.settle(drive.id);
        }
    }
}

/// A drive that was drained and that nothing is left on leaves the map. One that votes still is needed: what the map says of
/// voters is what is wanted, and others find a voter by the map.
fn remove_drained(map: &mut ClusterMap, seen: &Seen) {
    let used: BTreeSet<DriveId> = map
        .rings
        .iter()
        .flat_map(|(_, ring)| ring.partitions())
        .flatten()
        .flat_map(|slot| slot.drives())
        .chain(
            map.groups
                .iter()
                .flat_map(|(_, voters)| voters.iter().copied()),
        )
        .collect();
    let lost: BTreeSet<NodeId> = map
        .drives
        .iter()
        .filter(|drive| drive.state == DriveState::Lost)
        .map(|drive| drive.node)
        .collect();
    let voting: BTreeSet<DriveId> = map
        .drives
        .iter()
        .filter(|drive| drive.state.is_draining() && drive.state != DriveState::Lost)
        .map(|drive| drive.id)
        .filter(|drive| !seen.has_no_vote(map, *drive))
        .collect();
    map.drives.retain(|drive| {
        let is_needed = used.contains(&drive.id) || voting.contains(&drive.id);
        !drive.state.is_draining() || is_needed
    });
    // A node goes with the last of its drives, if that was lost: a drained one may be a gateway still.
    let drives = &map.drives;
    map.nodes.retain(|node| {
        !lost.contains(&node.id) || drives.iter().any(|drive| drive.node == node.id)
    });
}

fn wanted_protection(map: &ClusterMap) -> Protection {
    if let Some(chosen) = map.protection_chosen {
        return chosen;
    }
    let in_rings: BTreeSet<DriveId> = map
        .rings
        .iter()
        .flat_map(|(_, ring)| ring.partitions())
        .flatten()
        .map(|slot| slot.target)
        .collect();
    let members: Vec<Member> = map
        .rings
        .iter()
        .flat_map(|(site, _)| map.members(*site))
        .filter(|member| in_rings.contains(&member.drive))
        .collect();
    if members.is_empty() {
        return map.protection;
    }
    Protection::auto(&members)
}

/// Has groups get the voters that the map gives them, a few at a time.
async fn give_voters(inner: &Arc<Inner>, done: &mut Done) {
    let map = inner.map.load();
    let mut newest: HashMap<GroupId, u64> = HashMap::new();
    for led in reported(inner, &map) {
        // Orders go to who leads; where two say that they do, to the later one.
        let term = newest.entry(led.group).or_insert(led.term);
        if led.term >= *term
            && let Some(node) = map.node_of(led.leader)
        {
            *term = led.term;
            inner.replicas.heard_leader(led.group, node.id);
        }
        let wanted = map.voters(led.group);
        if same_drives(wanted, &led.voters) {
            done.voters.insert(led.group, wanted.to_vec());
        }
    }
    let mut wanting: Vec<(GroupId, Vec<DriveId>)> = map
        .groups
        .iter()
        .filter(|(group, voters)| done.voters.get(group) != Some(voters))
        .cloned()
        .collect();
    if wanting.is_empty() {
        return;
    }
    // Those that cannot be changed now must not keep the others waiting.
    let first = done.rounds as usize % wanting.len();
    wanting.rotate_left(first);
    wanting.truncate(CHANGES_AT_A_TIME);
    let changes = wanting.into_iter().map(|(group, voters)| async move {
        let changed = inner.replicas.change_voters_anywhere(group, &voters).await;
        (group, voters, changed)
    });
    for (group, voters, changed) in join_all(changes).await {
        match changed {
            Ok(()) => {
                tracing::debug!(%group, ?voters, "has its voters");
                done.voters.insert(group, voters);
            }
            Err(error) => {
                tracing::info!(%group, %error, "voters could not be changed; trying again");
            }
        }
    }
}

/// Moves leads to where they should be, once everybody has the right voters.
async fn spread_leaders(inner: &Arc<Inner>, done: &Done) {
    let map = inner.map.load();
    if map
        .groups
        .iter()
        .any(|(group, voters)| done.voters.get(group) != Some(voters))
    {
        return;
    }
    let mut leaders: HashMap<GroupId, DriveId> = HashMap::new();
    for led in reported(inner, &map) {
        leaders.insert(led.group, led.leader);
    }
    let preferred = voters::preferred_leaders(&voters::seats(&map), &map.groups);
    let moves = preferred.into_iter().filter_map(|(group, preferred)| {
        let elsewhere = leaders
            .get(&group)
            .is_some_and(|leader| *leader != preferred);
        elsewhere.then_some(async move {
            let moved = inner
                .replicas
                .transfer_leader_anywhere(group, preferred)
                .await;
            if let Err(error) = moved {
                tracing::debug!(%group, %preferred, %error, "the lead was not moved");
            }
        })
    });
    join_all(moves).await;
}

/// The groups by the word of their leaders.
/// Whether a drive may vote in the placement group: unless its leader is known and says that it does not.
pub(super) fn may_vote_on_placement(inner: &Inner, drive: DriveId) -> bool {
    let seen = Seen::now(inner);
    let said = seen.voters.get(&GroupId::PLACEMENT);
    said.is_none_or(|(_, voters)| voters.contains(&drive))
}

fn reported(inner: &Inner, map: &ClusterMap) -> Vec<LedGroup> {
    let reports = map.nodes.iter().filter_map(|node| {
        if node.id == inner.own {
            Some(inner.report())
        } else if inner.peers.health().is_suspect(node.id) {
            None
        } else {
            inner.report_of(node.id)
        }
    });
    reports.flat_map(|report| report.leads).collect()
}

/// Whether these are the same drives, in whatever order. A membership that is half changed names some twice.
pub(super) fn same_drives(some: &[DriveId], others: &[DriveId]) -> bool {
    let sorted = |drives: &[DriveId]| {
        let mut drives = drives.to_vec();
        drives.sort_unstable();
        drives
    };
    sorted(some) == sorted(others)
}

#[cfg(test)]
mod tests {
    use holdfast_placement::testing::map_of;

    use super::*;

    fn map(drives: u64) -> ClusterMap {
        let ids: Vec<_> = (1..=drives).map(|id| (DriveId(id), NodeId(id))).collect();
        let mut map = map_of(&ids, Protection { data: 2, parity: 1 });
        map.metadata_groups = 2;
        map
    }

    fn seen(up: &[u64], widest: &[u64]) -> Seen {
        let groups = (1..).map(GroupId);
        Seen {
            up: up.iter().copied().map(NodeId).collect(),
            failed: BTreeSet::new(),
            capacities: HashMap::new(),
            widest: groups.zip(widest.iter().copied()).collect(),
            voters: HashMap::new(),
        }
    }

    /// A drive holds nothing any more, and the groups have not got their new voters.
    #[test]
    fn a_drained_drive_stays_as_long_as_it_votes() {
        let mut map = map(4);
        let all = [1, 2, 3, 4];
        improve(&mut map, &seen(&all, &[3, 3]));
        map.drives[3].state = DriveState::Draining;
        let mut now = seen(&all, &[3, 3]);
        improve(&mut map, &now);
        map.rings[0].1.settle(DriveId(4));
        let votes = |drives: &[u64]| (5, drives.iter().copied().map(DriveId).collect());
        now.voters = HashMap::from([
            (GroupId(0), votes(&[1, 2, 3])),
            (GroupId(1), votes(&[1, 2, 4])),
            (GroupId(2), votes(&[1, 2, 3])),
        ]);
        improve(&mut map, &now);
        assert!(map.drive(DriveId(4)).is_some(), "a group counts on it");
        now.voters.remove(&GroupId(1));
        improve(&mut map, &now);
        assert!(map.drive(DriveId(4)).is_some(), "a group has not spoken");
        now.voters.insert(GroupId(1), votes(&[1, 2, 3]));
        improve(&mut map, &now);
        assert!(map.drive(DriveId(4)).is_none());
    }

    fn targets(map: &ClusterMap) -> BTreeSet<u64> {
        let slots = map.rings[0].1.partitions().flatten();
        slots.map(|slot| slot.target.0).collect()
    }

    /// An order to drain was taken, and then a body was committed that has as many shards as there were drives.
    #[test]
    fn a_drain_waits_for_bodies_that_need_the_drive() {
        let mut map = map(5);
        map.drives[4].state = DriveState::Draining;
        let all = [1, 2, 3, 4, 5];
        improve(&mut map, &seen(&all, &[4, 5]));
        assert_eq!(targets(&map), BTreeSet::from(all));
        assert!(
            map.protection.slots() <= 4,
            "new bodies do without it: {}",
            map.protection
        );
        // A group of which nothing is known may have such a body.
        improve(&mut map, &seen(&all, &[4]));
        assert_eq!(targets(&map), BTreeSet::from(all));
        improve(&mut map, &seen(&all, &[4, 3]));
        assert_eq!(targets(&map), BTreeSet::from([1, 2, 3, 4]));
        assert_eq!(map.rings[0].1.moving_from(), [DriveId(5)]);
    }

    #[test]
    fn what_was_given_up_leaves_the_map_when_another_has_its_place() {
        let mut map = map(3);
        map.drives[2].state = DriveState::Lost;
        map.nodes[2].state = NodeState::Down;
        // It answers again; that changes nothing.
        improve(&mut map, &seen(&[1, 2, 3], &[3, 3]));
        assert_eq!(map.drives[2].state, DriveState::Lost);
        assert_eq!(targets(&map), BTreeSet::from([1, 2, 3]));
        let other = map_of(&[(DriveId(4), NodeId(4))], map.protection);
        map.nodes.extend(other.nodes);
        map.drives.extend(other.drives);
        improve(&mut map, &seen(&[1, 2, 4], &[3, 3]));
        assert_eq!(targets(&map), BTreeSet::from([1, 2, 4]));
        assert!(
            map.rings[0].1.is_settled(),
            "nobody waits for the lost drive"
        );
        for _ in 0..3 {
            improve(&mut map, &seen(&[1, 2, 4], &[3, 3]));
        }
        assert!(
            map.groups
                .iter()
                .all(|(_, voters)| !voters.contains(&DriveId(3)))
        );
        assert!(map.drive(DriveId(3)).is_none() && map.node(NodeId(3)).is_none());
        assert_eq!(map.nodes.len(), 3);
    }
}
