//! Fair shares.

use crate::ring::SLOTS_MAX;

/// Bounds of what each room gets when between `least` and `most` are dealt round by round, one a round to each that
/// is not full.
pub(super) fn even(least: usize, most: usize, rooms: &[usize]) -> Vec<(f64, f64)> {
    let whole_rounds = |dealt: usize| {
        (0..=SLOTS_MAX)
            .rev()
            .find(|round| rooms.iter().map(|room| room.min(round)).sum::<usize>() <= dealt)
            .unwrap_or(0)
    };
    let low = whole_rounds(least);
    let mut high = whole_rounds(most);
    if rooms.iter().map(|room| room.min(&high)).sum::<usize>() < most {
        high += 1;
    }
    rooms
        .iter()
        .map(|room| (*room.min(&low) as f64, *room.min(&high) as f64))
        .collect()
}

/// Parts of `total` in proportion to the weights, each within its bounds.
pub(super) fn water_fill(weights: &[f64], bounds: &[(f64, f64)], total: f64) -> Vec<f64> {
    let at = |level: f64| -> Vec<f64> {
        weights
            .iter()
            .zip(bounds)
            .map(|(weight, (low, high))| (weight * level).clamp(*low, *high))
            .collect()
    };
    let heaviest = weights.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let lightest = weights.iter().copied().fold(heaviest, f64::min);
    let (mut low, mut high) = (0.0, 2.0 * SLOTS_MAX as f64 / lightest);
    for _ in 0..120 {
        let middle = (low + high) / 2.0;
        if at(middle).iter().sum::<f64>() < total {
            low = middle;
        } else {
            high = middle;
        }
    }
    at(high)
}
