//! Latencies as a histogram with fixed buckets, and the percentiles estimated from it.

/// The upper bounds of the buckets in milliseconds. A latency equal to a bound belongs to the next bucket. One more
/// bucket has no upper bound. The database stores the numbers of the buckets: never change or insert a bound.
pub const BOUNDS_MS: [i64; 25] = [
    5,
    10,
    20,
    50,
    100,
    200,
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    30_000,
    60_000,
    120_000,
    300_000,
    600_000,
    1_800_000,
    3_600_000,
    7_200_000,
    14_400_000,
    28_800_000,
    57_600_000,
    86_400_000,
    259_200_000,
];

/// The number of buckets.
pub const BUCKETS: usize = BOUNDS_MS.len() + 1;

/// Numbers of latencies by bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Histogram([i64; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Histogram {
    /// Adds latencies to a bucket. Ignores a bucket that does not exist.
    pub fn add(&mut self, bucket: usize, count: i64) {
        if let Some(total) = self.0.get_mut(bucket) {
            *total += count;
        }
    }

    /// Adds all latencies of another histogram.
    pub fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(total, count)| *total += count);
    }

    /// Returns the number of latencies.
    pub fn count(&self) -> i64 {
        self.0.iter().sum()
    }

    /// Returns the buckets that are not empty, with their numbers of latencies.
    pub fn buckets(&self) -> impl Iterator<Item = (usize, i64)> {
        self.0.into_iter().enumerate().filter(|(_, count)| *count > 0)
    }

    /// Estimates the latency in milliseconds that `percent` of the latencies do not exceed; `None` if there are none.
    /// Latencies are taken to be evenly spread within their bucket; those in the last bucket, to equal its lower bound.
    pub fn percentile(&self, percent: i64) -> Option<i64> {
        let total = self.count();
        let rank = (total * percent + 99) / 100;
        let mut below = 0;
        for (bucket, count) in self.buckets() {
            if below + count >= rank {
                let lower = bucket.checked_sub(1).map_or(0, |before| BOUNDS_MS[before]);
                let upper = BOUNDS_MS.get(bucket).copied().unwrap_or(lower);
                // The middle of this latency's share of the bucket.
                return Some(lower + (upper - lower) * (2 * (rank - below) - 1) / (2 * count));
            }
            below += count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the bucket of a latency, as SQL's `width_bucket` does.
    fn bucket(ms: i64) -> usize {
        BOUNDS_MS.iter().filter(|bound| **bound <= ms).count()
    }

    #[test]
    fn percentiles_of_known_latencies() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(50), None);
        // 10 to 20 ms, and one of a minute.
        histogram.add(2, 99);
        histogram.add(14, 1);
        assert_eq!([50, 95, 99, 100].map(|p| histogram.percentile(p)), [15, 19, 19, 90_000].map(Some));
    }

    #[test]
    fn latency_above_all_bounds_is_the_last_bound() {
        let mut histogram = Histogram::default();
        histogram.add(BUCKETS - 1, 1);
        histogram.add(BUCKETS, 1);
        assert_eq!((histogram.count(), histogram.percentile(50)), (1, BOUNDS_MS.last().copied()));
    }

    proptest! {
        #[test]
        fn percentile_is_in_the_bucket_of_the_exact_one(mut list in prop::collection::vec(0_i64..300_000_000, 1..200)) {
            let mut histogram = Histogram::default();
            for ms in &list {
                histogram.add(bucket(*ms), 1);
            }
            list.sort_unstable();
            let mut last = 0;
            for percent in [1, 50, 95, 99, 100] {
                let rank = (list.len() * usize::try_from(percent).unwrap()).div_ceil(100).max(1);
                let estimate = histogram.percentile(percent).unwrap();
                let exact = bucket(list[rank - 1]);
                let lower = exact.checked_sub(1).map_or(0, |before| BOUNDS_MS[before]);
                let upper = BOUNDS_MS.get(exact).copied().unwrap_or(lower);
                prop_assert!((lower..=upper).contains(&estimate), "{estimate} is not in {lower}..={upper}");
                prop_assert!(estimate >= last);
                last = estimate;
            }
        }

        #[test]
        fn merging_equals_counting_together(
            left in prop::collection::vec(0..BUCKETS, 0..50),
            right in prop::collection::vec(0..BUCKETS, 0..50),
        ) {
            let histogram = |list: &[usize]| {
                let mut histogram = Histogram::default();
                for bucket in list {
                    histogram.add(*bucket, 1);
                }
                histogram
            };
            let mut merged = histogram(&left);
            merged.merge(&histogram(&right));
            prop_assert_eq!(merged, histogram(&[left, right].concat()));
        }
    }
}
