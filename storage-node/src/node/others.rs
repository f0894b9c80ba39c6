//! What the other nodes say of themselves.

use holdfast_placement::ids::NodeId;
use holdfast_placement::rpc::Peers;
use holdfast_placement::seams::UnixMillis;

use super::report::Report;

/// The reports of the nodes that answer, with when they came by this process's wall clock.
pub(super) struct Others(Vec<(NodeId, Report, Option<UnixMillis>)>);

impl Others {
    /// As they are now.
    pub fn of(peers: &Peers) -> Self {
        let (map, health) = (peers.map().load(), peers.health());
        let nodes = map.nodes.iter().map(|node| node.id);
        let nodes = nodes.filter(|node| *node != peers.own() && !health.is_suspect(*node));
        let reports = nodes.filter_map(|node| {
            let said = health.report(node);
            let report = Report::decode(&said).filter(|_| !said.is_empty())?;
            Some((node, report, health.reported_at(node)))
        });
        Self(reports.collect())
    }

    /// Whether one of them has no room for more metadata.
    pub fn any_is_full(&self) -> bool {
        self.0.iter().any(|(_, report, _)| report.full)
    }

    /// By how many milliseconds their clocks are ahead of this process's.
    pub fn clocks(&self) -> Vec<(NodeId, i64)> {
        let ahead = self.0.iter().filter_map(|(node, report, heard)| {
            let (said, heard) = (report.clock?, (*heard)?);
            Some((*node, said.0 as i64 - heard.0 as i64))
        });
        ahead.collect()
    }
}
