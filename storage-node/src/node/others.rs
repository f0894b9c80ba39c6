//! What the other nodes say of themselves.

use std::time::Duration;

use holdfast_placement::ids::NodeId;
use holdfast_placement::rpc::Peers;
use holdfast_placement::seams::UnixMillis;

use super::report::Report;

/// The reports of the nodes that answer, with how old they are.
pub(super) struct Others(Vec<(NodeId, Report, Option<Duration>)>);

impl Others {
    /// As they are now.
    pub fn of(peers: &Peers) -> Self {
        let (map, health) = (peers.map().load(), peers.health());
        let nodes = map.nodes.iter().map(|node| node.id);
        let nodes = nodes.filter(|node| *node != peers.own() && !health.is_suspect(*node));
        let reports = nodes.filter_map(|node| {
            let said = health.report(node);
            let report = Report::decode(&said).filter(|_| !said.is_empty())?;
            Some((node, report, health.report_age(node)))
        });
        Self(reports.collect())
    }

    /// Whether one of them has no room for more metadata.
    pub fn any_is_full(&self) -> bool {
        self.0.iter().any(|(_, report, _)| report.full)
    }

    /// By how many milliseconds their clocks are ahead of this process's, which shows `wall` now. It may have been set
    /// since they were heard.
    pub fn clocks(&self, wall: UnixMillis) -> Vec<(NodeId, i64)> {
        let ahead = self.0.iter().filter_map(|(node, report, age)| {
            let (said, age) = (report.clock?, (*age)?);
            Some((
                *node,
                said.0 as i64 + age.as_millis() as i64 - wall.0 as i64,
            ))
        });
        ahead.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_is_seen_in_what_was_heard_before() {
        let said = UnixMillis(1_000_000_000);
        let report = Report {
            clock: Some(said),
            ..Report::default()
        };
        let others = Others(vec![(NodeId(2), report, Some(Duration::from_millis(400)))]);
        let ahead = |wall| others.clocks(UnixMillis(wall))[0].1;
        assert_eq!(ahead(said.0 + 400), 0);
        assert_eq!(ahead(said.0 + 400 + 3_600_000), -3_600_000);
        assert_eq!(ahead(said.0 + 400 - 3_600_000), 3_600_000);
    }
}
