//! Whether everything is whole, by the word of those who looked.

use std::collections::HashMap;

use holdfast_placement::ids::{GroupId, NodeId};
use holdfast_placement::map::ClusterMap;
use holdfast_placement::seams::UnixMillis;
use serde::Serialize;

use super::report::Report;
use crate::repair::{CensusCount, CensusLeft, DriveScrub, GroupCensus};

/// What censuses and scrubs have found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MendingStatus {
    /// Every body has all of its shards: a census of each group has said so since anything happened that may have changed
    /// it, no write since has missed a shard, and no drive that is up knows of a bad one. What is not known is not whole.
    pub whole: bool,
    /// Bodies and shards that the last censuses, and those under way, have looked at.
    pub bodies: u64,
    pub shards: u64,
    /// Shards that are known to be missing or bad now.
    pub missing: u64,
    pub bad: u64,
    /// Shards that these censuses had made anew.
    pub rebuilt: u64,
    /// Shards on drives that do not answer.
    pub away: u64,
    /// Why shards that are missing or bad could not be made anew yet.
    pub left: CensusLeft,
    /// Groups whose census has not ended, or has to be taken again.
    pub groups_open: Vec<GroupId>,
    /// When the oldest of the censuses ended, milliseconds since 1970; `None` while one is open.
    pub checked_at: Option<UnixMillis>,
    pub drives: Vec<DriveScrub>,
}

impl MendingStatus {
    /// Puts together what the nodes say that answer.
    pub(super) fn of(
        map: &ClusterMap,
        reports: &HashMap<NodeId, Report>,
        is_up: &dyn Fn(NodeId) -> bool,
    ) -> Self {
        let mut status = Self::default();
        let mut groups: HashMap<GroupId, GroupCensus> = HashMap::new();
        let answering = reports.iter().filter(|(node, _)| is_up(**node));
        let mut missed = 0;
        for (_, report) in answering {
            missed += report.redundancy.repairs_open;
            status.drives.extend(&report.mending.drives);
            for census in &report.mending.groups {
                // Two may say that they lead, for a moment: who has not looked yet counts.
                let known = groups.entry(census.group).or_insert(*census);
                if !census.whole {
                    *known = *census;
                }
            }
        }
        status.drives.sort_unstable_by_key(|scrub| scrub.drive);
        let mut sum = CensusCount::default();
        let mut oldest: Option<UnixMillis> = None;
        for group in (1..=map.metadata_groups).map(GroupId) {
            let census = groups.get(&group).copied().unwrap_or_default();
            if !census.whole || census.now.is_some() {
                status.groups_open.push(group);
            }
            if let Some((ended, _)) = census.last {
                oldest = Some(oldest.map_or(ended, |oldest| oldest.min(ended)));
            }
            let last = census.last.map(|(_, count)| count);
            let shown = census.now.or(last).unwrap_or_default();
            let last = last.unwrap_or_default();
            sum.add(&shown);
            // What the last one could not mend is missing until the next one has been there.
            status.missing += shown.missing_open().max(last.missing_open());
            status.bad += shown.bad_open().max(last.bad_open());
        }
        let listed: u64 = status.drives.iter().map(|scrub| scrub.bad).sum();
        status.bad = status.bad.max(listed);
        status.bodies = sum.bodies;
        status.shards = sum.shards;
        status.rebuilt = sum.rebuilt;
        status.away = sum.away;
        status.left = sum.left;
        if status.groups_open.is_empty() {
            status.checked_at = oldest;
        }
        let open = status.missing + status.bad + missed;
        status.whole = status.groups_open.is_empty() && open == 0;
        status
    }

    /// What is not as it should be, and what to do.
    pub(super) fn problem(&self) -> Option<String> {
        let open = self.missing + self.bad;
        if open == 0 {
            return None;
        }
        let left = &self.left;
        let reasons = [
            (
                left.too_few,
                "of chunks of which too few can be read: bring lost drives back",
            ),
            (
                left.disagree,
                "of chunks whose shards do not belong together",
            ),
            (
                left.no_place,
                "have no drive: their bodies are encoded anew, else add drives",
            ),
            (left.full, "wait for room on their drives"),
            (left.drive_down, "wait for drives that are down"),
            (left.other, "are tried again"),
        ];
        let reasons = reasons.iter().filter(|(count, _)| *count > 0);
        let reasons: Vec<String> = reasons
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        let why = match reasons.is_empty() {
            true => String::new(),
            false => format!(" ({})", reasons.join("; ")),
        };
        let shards = if open == 1 { "shard is" } else { "shards are" };
        Some(format!(
            "{open} {shards} missing or bad: being rebuilt{why}; `holdfast admin scrub status` tells more"
        ))
    }

    /// What is worth knowing and no fault.
    pub(super) fn note(&self) -> Option<String> {
        if self.groups_open.is_empty() {
            return None;
        }
        let groups = self.groups_open.len();
        let away = match self.away {
            0 => String::new(),
            away => format!("; {away} are on drives that do not answer"),
        };
        Some(format!(
            "whether all shards are there is being looked at in {groups} groups{away}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use holdfast_placement::ids::DriveId;

    use super::*;
    use crate::node::report::Mending;

    fn census(group: u32, whole: bool, count: CensusCount) -> GroupCensus {
        GroupCensus {
            group: GroupId(group),
            now: None,
            last: Some((UnixMillis(5), count)),
            whole,
        }
    }

    fn status(groups: Vec<GroupCensus>, bad: u64) -> MendingStatus {
        let map = ClusterMap {
            metadata_groups: 2,
            ..ClusterMap::nothing()
        };
        let drives = vec![DriveScrub {
            drive: DriveId(1),
            bad,
            ..DriveScrub::default()
        }];
        let report = Report {
            mending: Mending {
                started: UnixMillis(1),
                drives,
                groups,
                widest: Vec::new(),
            },
            ..Report::default()
        };
        MendingStatus::of(&map, &HashMap::from([(NodeId(1), report)]), &|_| true)
    }

    #[test]
    fn only_what_was_looked_at_and_found_is_whole() {
        let found = CensusCount {
            bodies: 1,
            shards: 3,
            ..CensusCount::default()
        };
        let all = vec![census(1, true, found), census(2, true, found)];
        assert!(status(all.clone(), 0).whole);
        assert_eq!(status(all.clone(), 0).shards, 6);
        // A group that nobody speaks of, one whose census is due, and a shard that its drive knows to be bad.
        assert!(!status(all[..1].to_vec(), 0).whole);
        assert!(!status(vec![all[0], census(2, false, found)], 0).whole);
        let spoiled = status(all, 4);
        assert!(!spoiled.whole);
        assert!(
            spoiled
                .problem()
                .is_some_and(|text| text.starts_with("4 shards are"))
        );
        let missing = CensusCount {
            missing: 2,
            missing_mended: 1,
            left: CensusLeft {
                too_few: 1,
                ..CensusLeft::default()
            },
            ..found
        };
        let lost = status(vec![census(1, true, found), census(2, false, missing)], 0);
        assert_eq!((lost.missing, lost.whole), (1, false));
        assert!(lost.problem().is_some_and(|text| text.contains("too few")));
    }
}
