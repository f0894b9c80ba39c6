//! How many slots of a partition can keep their drives.
//!
//! Each slot with a drive takes two places: its rack's of the block, and its host's of the round. Slots can be kept
//! together if no two take the same place, so the most that can be kept are a greatest matching of the one kind of
//! places with the other, where slots are the edges.

use super::rule::Rule;
use super::topology::Topology;

/// A slot with the drive that it has.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub(super) slot: usize,
    pub(super) drive: usize,
    /// What is lost by keeping it: of as many kept slots the least in sum is sought.
    pub(super) cost: i64,
}

/// Which of these slots of a partition can be kept, as many as possible. The drives are different.
pub(super) fn keep(topology: &Topology, rule: &Rule<'_>, held: &[Held]) -> Vec<bool> {
    let mut graph = Graph::default();
    for (number, one) in held.iter().enumerate() {
        let place = &topology.drives[one.drive];
        if !rule.fits(one.slot, one.drive) {
            continue;
        }
        let Some(round) = rule.round(one.slot, place.rack) else {
            continue;
        };
        let left = number_of(&mut graph.left_names, (rule.block(one.slot), place.rack));
        let right = number_of(&mut graph.right_names, (round, place.host));
        graph.edges.push(Edge {
            left,
            right,
            cost: one.cost,
            number,
        });
    }
    let mut kept = vec![false; held.len()];
    for edge in graph.matching() {
        kept[graph.edges[edge].number] = true;
    }
    kept
}

fn number_of(names: &mut Vec<(usize, usize)>, name: (usize, usize)) -> usize {
    let known = names.iter().position(|known| *known == name);
    known.unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    })
}

struct Edge {
    left: usize,
    right: usize,
    cost: i64,
    number: usize,
}

#[derive(Default)]
struct Graph {
    left_names: Vec<(usize, usize)>,
    right_names: Vec<(usize, usize)>,
    edges: Vec<Edge>,
}

impl Graph {
    /// The edges of a greatest matching, of those one of least cost: by cheapest augmenting paths (Bellman-Ford; there
    /// are at most 16 edges).
    fn matching(&self) -> Vec<usize> {
        if self.left_names.len() == self.edges.len() && self.right_names.len() == self.edges.len() {
            return (0..self.edges.len()).collect();
        }
        let mut of_left: Vec<Option<usize>> = vec![None; self.left_names.len()];
        let mut of_right: Vec<Option<usize>> = vec![None; self.right_names.len()];
        while self.augment(&mut of_left, &mut of_right) {}
        of_left.into_iter().flatten().collect()
    }

    fn augment(&self, of_left: &mut [Option<usize>], of_right: &mut [Option<usize>]) -> bool {
        let free = |edge: &Option<usize>| if edge.is_none() { Some(0) } else { None };
        let mut at_left: Vec<Option<i64>> = of_left.iter().map(free).collect();
        // The cost to get there, and the edge by which.
        let mut at_right: Vec<Option<(i64, usize)>> = vec![None; of_right.len()];
        loop {
            let mut changed = false;
            for (number, edge) in self.edges.iter().enumerate() {
                let Some(cost) = at_left[edge.left] else {
                    continue;
                };
                let cost = cost + edge.cost;
                if of_left[edge.left] == Some(number)
                    || at_right[edge.right].is_some_and(|(least, _)| least <= cost)
                {
                    continue;
                }
                at_right[edge.right] = Some((cost, number));
                changed = true;
                if let Some(back) = of_right[edge.right] {
                    let back = &self.edges[back];
                    at_left[back.left] = Some(cost - back.cost);
                }
            }
            if !changed {
                break;
            }
        }
        let ends = at_right.iter().zip(of_right.iter()).enumerate();
        let ends = ends.filter_map(|(right, (at, taken))| match (at, taken) {
            (Some((cost, _)), None) => Some((*cost, right)),
            _ => None,
        });
        let Some((_, mut right)) = ends.min() else {
            return false;
        };
        while let Some((_, number)) = at_right[right] {
            let left = self.edges[number].left;
            let before = of_left[left].replace(number);
            of_right[right] = Some(number);
            match before {
                Some(before) => right = self.edges[before].right,
                None => return true,
            }
        }
        true
    }
}
