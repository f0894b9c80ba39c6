//! Whether this node's wall clock can be believed, by what the others' say.
//!
//! Stamps of commands never run back, so one command of a node whose clock is years ahead would take its group there for
//! good: what is locked until then could be removed, and rules of lifecycles would take what is young for old. A node whose
//! clock is not that of most nodes proposes nothing until it is.

use std::time::Duration;

use holdfast_placement::consensus::Replicas;
use holdfast_placement::seams::UnixMillis;

use super::open::Inner;
use super::others::Others;

/// By how much the wall clocks of two nodes may differ. A client's may by fifteen minutes.
pub(super) const DIFFERENCE_MAX: Duration = Duration::from_secs(300);

/// By how many milliseconds this clock is ahead of that of others, if most of all nodes have another time. `others` says by
/// how many milliseconds each other clock is ahead of this one, `own` how many clocks this one counts for: one, and none
/// where it is not that of a node.
pub(super) fn wrong_by(others: &[i64], own: usize) -> Option<i64> {
    let differs = |ahead: &&i64| ahead.unsigned_abs() > DIFFERENCE_MAX.as_millis() as u64;
    let mut differing: Vec<i64> = others.iter().filter(differs).copied().collect();
    if differing.len() * 2 <= others.len() + own {
        return None;
    }
    differing.sort_unstable();
    Some(-differing[differing.len() / 2])
}

/// How long that is, for people.
pub(super) fn told(ahead: i64) -> String {
    let seconds = ahead.unsigned_abs() / 1000;
    let way = if ahead < 0 { "behind" } else { "ahead of" };
    match seconds {
        0..7200 => format!("{} minutes {way}", seconds / 60),
        7200..172_800 => format!("{} hours {way}", seconds / 3600),
        _ => format!("{} days {way}", seconds / 86_400),
    }
}

/// Has `replicas` propose nothing as long as this process's clock is not that of most; `own` as for [`wrong_by`].
pub(super) fn check_clock(replicas: &Replicas, others: &Others, wall: UnixMillis, own: usize) {
    let ahead: Vec<i64> = others
        .clocks(wall)
        .into_iter()
        .map(|(_, ahead)| ahead)
        .collect();
    let wrong = wrong_by(&ahead, own);
    if replicas.distrust_clock(wrong.is_some()) {
        match wrong {
            Some(ahead) => tracing::error!(
                "the clock here is {} that of most nodes: no writes are taken until it is set",
                told(ahead)
            ),
            None => tracing::info!("the clock here is that of the nodes"),
        }
    }
}

impl Inner {
    /// What is to be done about clocks.
    pub(super) fn clock_problem(&self) -> Option<String> {
        let clocks = Others::of(&self.peers).clocks(self.clock.wall());
        let others: Vec<i64> = clocks.iter().map(|(_, ahead)| *ahead).collect();
        if let Some(ahead) = wrong_by(&others, 1) {
            return Some(format!(
                "the clock of {} is {} that of most nodes: it takes no writes until the clock is set (NTP)",
                self.own,
                told(ahead)
            ));
        }
        let differs = |ahead: i64| ahead.unsigned_abs() > DIFFERENCE_MAX.as_millis() as u64;
        let (node, ahead) = clocks.into_iter().find(|(_, ahead)| differs(*ahead))?;
        Some(format!(
            "the clock of {node} is {} that of {}: set it (NTP)",
            told(ahead),
            self.own
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::{told, wrong_by};

    const YEAR: i64 = 365 * 86_400_000;

    #[test]
    fn a_clock_is_wrong_that_is_not_the_one_of_most() {
        for (others, wrong) in [
            (&[][..], None),
            (&[2_000, -4_000], None),
            // One other is no majority: nobody can say which of the two is right.
            (&[YEAR], None),
            (&[YEAR, 0], None),
            (&[YEAR, YEAR], Some(-YEAR)),
            (&[-YEAR, -YEAR], Some(YEAR)),
            (&[YEAR, YEAR + 5, 0], None),
            (&[YEAR, YEAR + 5, YEAR + 9, 1], Some(-YEAR - 5)),
        ] {
            assert_eq!(wrong_by(others, 1), wrong, "{others:?}");
        }
        // A gateway that is no node goes by the clocks of those that are.
        for (nodes, wrong) in [
            (&[][..], None),
            (&[200_000], None),
            (&[YEAR], Some(-YEAR)),
            (&[YEAR, 0], None),
            (&[YEAR, YEAR, 0], Some(-YEAR)),
        ] {
            assert_eq!(wrong_by(nodes, 0), wrong, "{nodes:?}");
        }
        assert_eq!(told(-YEAR), "365 days behind");
        assert_eq!(told(420_000), "7 minutes ahead of");
    }
}
