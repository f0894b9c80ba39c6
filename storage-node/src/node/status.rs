//! How the cluster stands by what a node knows, for people and machines.

use std::collections::{BTreeMap, HashMap};

use holdfast_placement::ids::{DriveId, GroupId, NodeId};
use holdfast_placement::map::{ClusterMap, DriveState, NodeState};
use serde::Serialize;

use super::mending::MendingStatus;
use super::open::Node;
use super::report::{DriveReport, LedGroup, Redundancy, Report, StoppedReplica, WebhookReport};
use super::steward::{same_drives, wanted_voters};

/// The answer of `/-/status`.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    pub cluster: String,
    /// The node that answers.
    pub node: NodeId,
    pub epoch: u64,
    /// `k+m` of new bodies.
    pub protection: String,
    /// Every node and drive is up, and every group is known to be led and to have the voters that it should.
    pub healthy: bool,
    /// Every lost drive's replicas have been given to others, as far as there are others: the next loss may come.
    pub absorbed: bool,
    /// Writes that add data are refused for want of room.
    pub full: bool,
    pub nodes: Vec<MemberStatus>,
    pub drives: Vec<DriveStatus>,
    pub groups: Vec<GroupSummary>,
    pub ring: RingStatus,
    /// What is missing of the safety that bodies should have, as the leaders of the groups last counted it.
    pub redundancy: Redundancy,
    /// Whether all shards are there and right, as far as that was looked at.
    pub mending: MendingStatus,
    /// Bodies that are protected less than new ones are being encoded anew.
    pub reencoding: bool,
    /// Webhooks for which events wait, or which have failed, by name.
    pub webhooks: Vec<WebhookReport>,
    /// What is worth knowing and no fault.
    pub notes: Vec<String>,
    /// What is not as it should be and what to do, worst first.
    pub problems: Vec<String>,
    pub memory: MemoryStatus,
}

/// A node.
#[derive(Clone, Debug, Serialize)]
pub struct MemberStatus {
    pub node: NodeId,
    pub address: String,
    pub rack: u32,
    /// `up` or `down`.
    pub state: &'static str,
    pub gateway: bool,
    /// `all` (it answers S3 requests too), `storage` or `placement`.
    pub role: &'static str,
    /// Groups that it leads.
    pub leads: usize,
}

/// The ring.
#[derive(Clone, Debug, Serialize)]
pub struct RingStatus {
    pub partitions: usize,
    /// Every shard is where it belongs, as far as is known.
    pub settled: bool,
    /// Drives that shards still have to be moved away from.
    pub moving_from: Vec<DriveId>,
    /// Slots of each drive.
    pub slots: Vec<(DriveId, usize)>,
}

/// Body buffers against their budget, bytes.
#[derive(Clone, Debug, Serialize)]
pub struct MemoryStatus {
    pub body_bytes_in_use: u64,
    pub body_bytes_max: u64,
}

/// A drive.
#[derive(Clone, Debug, Serialize)]
pub struct DriveStatus {
    pub drive: DriveId,
    pub node: NodeId,
    pub path: String,
    /// `up`, `draining`, or `down` with the reason in `reason`.
    pub state: &'static str,
    pub reason: Option<String>,
    pub total_bytes: u64,
    pub free_bytes: u64,
    /// `uring` or `posix`.
    pub disk: Option<String>,
}

/// A Raft group.
#[derive(Clone, Debug, Serialize)]
pub struct GroupSummary {
    pub group: u32,
    pub leader: Option<DriveId>,
    pub term: u64,
    pub voters: Vec<DriveId>,
    pub voters_up: usize,
}

impl Node {
    /// How the cluster stands, by what this node knows.
    pub fn status(&self) -> NodeStatus {
        let inner = &self.inner;
        let map = inner.map.load();
        let mut reports: HashMap<NodeId, Report> = HashMap::new();
        for node in &map.nodes {
            let report = match node.id == inner.own {
                true => Some(inner.report()),
                false => inner.report_of(node.id),
            };
            reports.insert(node.id, report.unwrap_or_default());
        }
        let is_node_up = |node: NodeId| node == inner.own || !inner.peers.health().is_suspect(node);
        let drives: Vec<DriveStatus> = map
            .drives
            .iter()
            .map(|drive| {
                let reported = reports
                    .get(&drive.node)
                    .and_then(|report| report.drives.iter().find(|seen| seen.drive == drive.id));
                drive_status(drive, reported, is_node_up(drive.node))
            })
            .collect();
        let is_up = |id: DriveId| {
            drives
                .iter()
                .any(|drive| drive.drive == id && drive.state != "down")
        };
        let groups = self.groups(&map, &reports, &is_up);
        let nodes: Vec<MemberStatus> = map
            .nodes
            .iter()
            .map(|node| MemberStatus {
                node: node.id,
                address: node.address.clone(),
                rack: node.rack,
                state: if is_node_up(node.id)
                    && (node.state == NodeState::Up || node.id == inner.own)
                {
                    "up"
                } else {
                    "down"
                },
                gateway: node.gateway,
                role: match (node.gateway, node.storage) {
                    (true, _) => "all",
                    (false, true) => "storage",
                    (false, false) => "placement",
                },
                // What a node said before it went down says nothing of who leads now.
                leads: match is_node_up(node.id) {
                    true => reports.get(&node.id).map_or(0, |report| report.leads.len()),
                    false => 0,
                },
            })
            .collect();
        let full = inner.space.is_full();
        let mut redundancy = Redundancy::default();
        for report in reports.values() {
            redundancy.add(report.redundancy);
        }
        let mut problems = problems(&map, &groups, &nodes, &drives, full);
        if redundancy.repairs_open > 0 {
            problems.push(format!(
                "{} shards of what was written while drives were down are still to be made: it goes on by itself when they are back",
                redundancy.repairs_open
            ));
        }
        let answering = || reports.iter().filter(|(node, _)| is_node_up(**node));
        let stopped: Vec<&StoppedReplica> = answering()
            .flat_map(|(_, report)| report.stopped.iter())
            .collect();
        problems.extend(stopped.iter().map(|replica| stopped_problem(replica)));
        let mending = MendingStatus::of(&map, &reports, &is_node_up);
        problems.extend(mending.problem());
        problems.extend(inner.clock_problem());
        let mut notes = notes(&map, redundancy);
        notes.extend(mending.note());
        let webhooks = webhooks(reports.values());
        notes.extend(webhooks.iter().filter_map(webhook_note));
        let absorbed = {
            let mut seen = map.as_ref().clone();
            for drive in &mut seen.drives {
                drive.state = drive.state.seen(is_up(drive.id));
            }
            let wanted = wanted_voters(&seen);
            wanted.iter().all(|(group, voters)| {
                let actual = groups.iter().find(|known| known.group == group.0);
                let votes = |drive: &DriveId| {
                    let is_it = |it: &&StoppedReplica| it.group == *group && it.drive == *drive;
                    !stopped.iter().any(is_it)
                };
                actual.is_some_and(|actual| same_drives(&actual.voters, voters))
                    && voters.iter().all(votes)
            })
        };
        NodeStatus {
            cluster: map.cluster.to_string(),
            node: inner.own,
            epoch: map.epoch.0,
            protection: map.protection.to_string(),
            healthy: problems.is_empty(),
            absorbed,
            full,
            nodes,
            drives,
            groups,
            ring: ring_status(&map),
            redundancy,
            mending,
            reencoding: map.reencode,
            webhooks,
            notes,
            problems,
            memory: MemoryStatus {
                body_bytes_in_use: inner.pool.in_use_bytes() as u64,
                body_bytes_max: inner.pool.budget_bytes() as u64,
            },
        }
    }

    /// The groups by the word of their leaders, else by that of the replicas here, else by the map.
    fn groups(
        &self,
        map: &ClusterMap,
        reports: &HashMap<NodeId, Report>,
        is_up: &dyn Fn(DriveId) -> bool,
    ) -> Vec<GroupSummary> {
        let mut led: HashMap<GroupId, &LedGroup> = HashMap::new();
        for (node, report) in reports {
            if *node != self.inner.own && self.inner.peers.health().is_suspect(*node) {
                continue;
            }
            for group in &report.leads {
                let newest = led.entry(group.group).or_insert(group);
                if newest.term < group.term {
                    *newest = group;
                }
            }
        }
        let here = self.inner.replicas.status();
        let groups = map.groups.iter().map(|(id, wanted)| {
            let mut summary = GroupSummary {
                group: id.0,
                leader: None,
                term: 0,
                voters: wanted.clone(),
                voters_up: 0,
            };
            if let Some(replicas) = here.iter().find(|group| group.group == *id) {
                summary.leader = replicas.leader.filter(|leader| is_up(*leader));
                summary.term = replicas.term;
                if !replicas.voters.is_empty() {
                    summary.voters.clone_from(&replicas.voters);
                }
            }
            if let Some(led) = led.get(id).filter(|led| led.term >= summary.term) {
                summary.leader = Some(led.leader);
                summary.term = led.term;
                summary.voters.clone_from(&led.voters);
            }
            summary.voters_up = summary.voters.iter().filter(|id| is_up(**id)).count();
            summary
        });
        groups.collect()
    }
}

/// What all nodes say of each webhook.
fn webhooks<'a>(reports: impl Iterator<Item = &'a Report>) -> Vec<WebhookReport> {
    let mut all: BTreeMap<&str, WebhookReport> = BTreeMap::new();
    for webhook in reports.flat_map(|report| &report.webhooks) {
        let sum = all.entry(&webhook.name).or_insert_with(|| WebhookReport {
            name: webhook.name.clone(),
            ..WebhookReport::default()
        });
        sum.waiting += webhook.waiting;
        if sum.failure.is_none() {
            sum.failure.clone_from(&webhook.failure);
        }
    }
    all.into_values().collect()
}

fn webhook_note(webhook: &WebhookReport) -> Option<String> {
    let failure = webhook.failure.as_ref()?;
    Some(format!(
        "webhook {} is not told: {failure}. {} events wait for it; it is tried again by itself",
        webhook.name, webhook.waiting
    ))
}

/// What is said of a lost drive.
pub(super) const GIVEN_UP: &str = "given up as lost";

fn drive_status(
    drive: &holdfast_placement::map::Drive,
    reported: Option<&DriveReport>,
    node_up: bool,
) -> DriveStatus {
    let reason = match reported {
        _ if drive.state == DriveState::Lost => Some(GIVEN_UP.to_owned()),
        _ if !node_up => Some("its node does not answer".to_owned()),
        Some(reported) => reported.failure.clone(),
        None if drive.state.is_up() => None,
        None => Some("its node has not been seen yet".to_owned()),
    };
    DriveStatus {
        drive: drive.id,
        node: drive.node,
        path: reported.map_or_else(String::new, |drive| drive.path.clone()),
        state: match (&reason, drive.state) {
            (Some(_), _) => "down",
            (None, DriveState::Draining | DriveState::DrainingDown | DriveState::Lost) => {
                "draining"
            }
            (None, DriveState::Up | DriveState::Down) => "up",
        },
        reason,
        total_bytes: reported.map_or(drive.capacity, |drive| drive.total_bytes),
        free_bytes: reported.map_or(0, |drive| drive.free_bytes),
        disk: reported.and_then(|drive| drive.disk.clone()),
    }
}

fn ring_status(map: &ClusterMap) -> RingStatus {
    let mut slots: HashMap<DriveId, usize> = HashMap::new();
    let rings = || map.rings.iter().map(|(_, ring)| ring);
    for slot in rings().flat_map(|ring| ring.partitions()).flatten() {
        *slots.entry(slot.target).or_default() += 1;
    }
    let mut slots: Vec<_> = slots.into_iter().collect();
    slots.sort_unstable();
    RingStatus {
        partitions: rings().map(|ring| ring.partition_count()).sum(),
        settled: rings().all(|ring| ring.is_settled()),
        moving_from: rings().flat_map(|ring| ring.moving_from()).collect(),
        slots,
    }
}

fn notes(map: &ClusterMap, redundancy: Redundancy) -> Vec<String> {
    let mut notes = Vec::new();
    if redundancy.below_protection_bodies > 0 {
        let what_to_do = match map.reencode {
            true => "they are being encoded anew",
            false => "`holdfast admin reencode start` has them encoded anew",
        };
        notes.push(format!(
            "{} bytes in {} bodies survive less than {} does: {what_to_do}",
            redundancy.below_protection_bytes, redundancy.below_protection_bodies, map.protection,
        ));
    }
    let moving: usize = map
        .rings
        .iter()
        .map(|(_, ring)| ring.moving_from().len())
        .sum();
    if moving > 0 {
        notes.push(format!("shards are moving away from {moving} drives"));
    }
    notes
}

/// Groups that nobody is known to lead, and those that vote otherwise than the map says.
fn unsettled(map: &ClusterMap, groups: &[GroupSummary]) -> Vec<String> {
    let named = |groups: Vec<u32>| {
        let names: Vec<String> = groups.iter().map(u32::to_string).collect();
        match names.len() {
            0 => None,
            1 => Some(format!("group {} is", names[0])),
            _ => Some(format!("groups {} are", names.join(", "))),
        }
    };
    let without_leader = groups
        .iter()
        .filter(|group| group.leader.is_none())
        .map(|group| group.group)
        .collect();
    let otherwise = groups
        .iter()
        .filter(|group| {
            group.leader.is_some() && !same_drives(map.voters(GroupId(group.group)), &group.voters)
        })
        .map(|group| group.group)
        .collect();
    let mut problems = Vec::new();
    if let Some(groups) = named(without_leader) {
        problems.push(format!(
            "{groups} not known to have a leader: one is elected within seconds while a quorum of voters is up"
        ));
    }
    if let Some(groups) = named(otherwise) {
        problems.push(format!(
            "{groups} still being given the voters that the map says: it goes on by itself"
        ));
    }
    problems
}

fn stopped_problem(replica: &StoppedReplica) -> String {
    let StoppedReplica {
        group,
        drive,
        reason,
    } = replica;
    format!(
        "the replica of {group} on {drive} has ended, and others do without it: {reason}. If it does so again after a restart, drain the drive and make it anew: `holdfast admin drain --drive {}`",
        drive.0
    )
}

fn problems(
    map: &ClusterMap,
    groups: &[GroupSummary],
    nodes: &[MemberStatus],
    drives: &[DriveStatus],
    full: bool,
) -> Vec<String> {
    let mut problems = Vec::new();
    for group in groups {
        if group.voters_up * 2 <= group.voters.len() {
            problems.push(format!(
                "group {} has no quorum ({} of {} voters): bring the lost nodes or drives back",
                group.group,
                group.voters_up,
                group.voters.len()
            ));
        }
    }
    problems.extend(unsettled(map, groups));
    for node in nodes.iter().filter(|node| node.state == "down") {
        problems.push(format!(
            "{} ({}) does not answer. Its data is read from the other nodes; start it again, or if it is gone for good: `holdfast admin lost --node {}`",
            node.node, node.address, node.node.0,
        ));
    }
    let is_node_up = |id: NodeId| {
        nodes
            .iter()
            .any(|node| node.node == id && node.state == "up")
    };
    for drive in drives {
        if drive.reason.as_deref() == Some(GIVEN_UP) {
            problems.push(format!(
                "{} of {} was given up: what it held is made anew elsewhere. Where that takes as many drives as before, start a node in its place",
                drive.drive, drive.node,
            ));
        } else if drive.state == "down" && is_node_up(drive.node) {
            problems.push(format!(
                "{} ({}) is down: {}. Its data is read from the other drives; bring it back and restart",
                drive.drive,
                drive.path,
                drive.reason.as_deref().unwrap_or("unknown"),
            ));
        }
    }
    if full {
        problems.push("a drive is full: delete objects or make room on it".to_owned());
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(group: u32, leader: Option<u64>, voters: &[u64]) -> GroupSummary {
        GroupSummary {
            group,
            leader: leader.map(DriveId),
            term: 1,
            voters: voters.iter().copied().map(DriveId).collect(),
            voters_up: voters.len(),
        }
    }

    #[test]
    fn a_group_is_well_when_it_is_led_and_votes_as_the_map_says() {
        let wanted = [1, 2, 3].map(DriveId).to_vec();
        let map = ClusterMap {
            groups: (1..=4).map(|id| (GroupId(id), wanted.clone())).collect(),
            ..ClusterMap::nothing()
        };
        let well = [group(1, Some(3), &[3, 1, 2]), group(2, Some(1), &[1, 2, 3])];
        assert!(unsettled(&map, &well).is_empty());
        let ill = [
            group(1, Some(1), &[1]),
            group(2, None, &[1, 2, 3]),
            group(3, Some(1), &[1, 2, 4]),
            group(4, Some(1), &[1, 2, 3]),
        ];
        let problems = unsettled(&map, &ill);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("group 2 is not known to have a leader"));
        assert!(problems[1].starts_with("groups 1, 3 are still being given"));
    }
}
