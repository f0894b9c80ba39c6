//! Latencies in a log-linear histogram, the layout of HdrHistogram (Gil Tene, hdrhistogram.org).
//!
//! Each power of two is cut into 128 equal buckets, so a percentile is at most 1/128 above the true value,
//! at any magnitude, in a fixed 59 KiB and without an allocation while recording.

const BITS: u32 = 7;
const PER_POWER: u64 = 1 << BITS;
/// Values below `PER_POWER` have a bucket each; every power of two from there to 2^63 has `PER_POWER`.
const BUCKETS: usize = ((64 - BITS as usize) + 1) * PER_POWER as usize;

/// Counts of values by magnitude; values are nanoseconds here.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Box<[u64]>,
    total: u64,
    sum: u128,
    min: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS].into_boxed_slice(),
            total: 0,
            sum: 0,
            min: u64::MAX,
            max: 0,
        }
    }
}

impl Histogram {
    /// Counts `value`.
    pub fn record(&mut self, value: u64) {
        self.counts[bucket_of(value)] += 1;
        self.total += 1;
        self.sum += u128::from(value);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The least value that at least `share` (0..=1) of all values do not exceed, rounded up to the end of
    /// its bucket; 0 when nothing was counted.
    pub fn percentile(&self, share: f64) -> u64 {
        if self.total == 0 {
            return 0;
        }
        let rank = ((share.clamp(0.0, 1.0) * self.total as f64).ceil() as u64).clamp(1, self.total);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return last_of(bucket).min(self.max);
            }
        }
        self.max
    }

    /// The least value; 0 when nothing was counted.
    pub fn min(&self) -> u64 {
        if self.total == 0 { 0 } else { self.min }
    }

    /// The greatest value; 0 when nothing was counted.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The mean; 0 when nothing was counted.
    pub fn mean(&self) -> u64 {
        if self.total == 0 {
            return 0;
        }
        // The mean of u64 values is itself a u64.
        (self.sum / u128::from(self.total)) as u64
    }
}

fn bucket_of(value: u64) -> usize {
    if value < PER_POWER {
        return value as usize;
    }
    let power = u64::BITS - 1 - value.leading_zeros();
    let within = (value >> (power - BITS)) - PER_POWER;
    (u64::from(power - BITS + 1) * PER_POWER + within) as usize
}

/// The greatest value that falls into `bucket`.
fn last_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < PER_POWER {
        return bucket;
    }
    let shift = bucket / PER_POWER - 1;
    let first = (PER_POWER + bucket % PER_POWER) << shift;
    first + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::{BUCKETS, Histogram, bucket_of, last_of};

    #[test]
    fn buckets_tile_all_values_without_gap_or_overlap() {
        for bucket in 0..BUCKETS - 1 {
            let last = last_of(bucket);
            assert_eq!(bucket_of(last), bucket);
            assert_eq!(bucket_of(last + 1), bucket + 1, "after {last}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert_eq!(last_of(BUCKETS - 1), u64::MAX);
    }

    #[test]
    fn percentiles_are_within_their_error_of_a_sorted_list() {
        // Values over six magnitudes, compared with the exact answer.
        let mut values: Vec<u64> = (0..20_000u64)
            .map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) * (1 << (i % 20)) / 64)
            .collect();
        let mut histogram = Histogram::default();
        values.iter().for_each(|&value| histogram.record(value));
        values.sort_unstable();
        for share in [0.0, 0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let rank = ((share * values.len() as f64).ceil() as usize).max(1);
            let exact = values[rank - 1];
            let got = histogram.percentile(share);
            assert!(
                got >= exact && got - exact <= exact / 128,
                "p{share}: {got} for {exact}"
            );
        }
        assert_eq!(histogram.min(), values[0]);
        assert_eq!(histogram.max(), values[values.len() - 1]);
        let mean = values.iter().sum::<u64>() / values.len() as u64;
        assert_eq!(histogram.mean(), mean);
    }

    #[test]
    fn merged_halves_equal_the_whole() {
        let (mut left, mut right, mut whole) = (
            Histogram::default(),
            Histogram::default(),
            Histogram::default(),
        );
        for value in 0..10_000u64 {
            let half = if value % 3 == 0 {
                &mut left
            } else {
                &mut right
            };
            half.record(value * value);
            whole.record(value * value);
        }
        left.merge(&right);
        assert_eq!(left.count(), whole.count());
        assert_eq!(left.counts, whole.counts);
        assert_eq!(
            (left.min(), left.max(), left.mean()),
            (whole.min(), whole.max(), whole.mean())
        );
    }

    #[test]
    fn an_empty_one_answers_zero() {
        let histogram = Histogram::default();
        assert_eq!(
            (
                histogram.percentile(0.99),
                histogram.min(),
                histogram.max(),
                histogram.mean()
            ),
            (0, 0, 0, 0)
        );
    }
}
