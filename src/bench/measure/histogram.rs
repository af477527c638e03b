//! A histogram of durations in constant memory, exact below a millisecond and to 0.2 % above.

use std::time::Duration;

/// Durations below this many microseconds have a bucket each.
const EXACT: u64 = 1_024;
/// Number of powers of two above `EXACT`, up to 19 hours. Each has `EXACT / 2` buckets.
const DOUBLINGS: u64 = 26;

/// Counts of durations.
#[derive(Debug, Clone)]
pub(in crate::bench) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = usize::try_from((DOUBLINGS + 2) * EXACT / 2).unwrap_or_default();
        Self { counts: vec![0; buckets], total: 0 }
    }
}

impl Histogram {
    /// Counts one duration.
    pub(in crate::bench) fn add(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let last = self.counts.len() - 1;
        let at = usize::try_from(bucket(micros)).map_or(last, |at| at.min(last));
        self.counts[at] += 1;
        self.total += 1;
    }

    /// Returns the percentile, given in thousandths: the duration in milliseconds that this part of all durations does
    /// not exceed. `None` if the histogram is empty.
    pub(in crate::bench) fn percentile(&self, thousandths: u64) -> Option<f64> {
        let rank = (self.total * thousandths).div_ceil(1_000).max(1);
        let mut below = 0;
        let (at, _) = (0_u64..).zip(&self.counts).find(|(_, count)| {
            below += **count;
            below >= rank
        })?;
        Some(Duration::from_micros(lower_bound(at)).as_secs_f64() * 1_000.0)
    }
}

/// Returns the index of a value's bucket.
fn bucket(micros: u64) -> u64 {
    if micros < EXACT {
        return micros;
    }
    let doubling = u64::from(micros.ilog2() - EXACT.ilog2()) + 1;
    (doubling * EXACT / 2) + (micros >> doubling)
}

/// Returns the smallest value of a bucket.
fn lower_bound(bucket: u64) -> u64 {
    if bucket < EXACT {
        return bucket;
    }
    let doubling = bucket / (EXACT / 2) - 1;
    (bucket - doubling * EXACT / 2) << doubling
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentiles_match_the_recorded_durations() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(500), None);
        (1..=100).for_each(|ms| histogram.add(Duration::from_millis(ms)));
        for (thousandths, ms) in [(0, 1.0), (500, 50.0), (990, 99.0), (1_000, 100.0)] {
            let found = histogram.percentile(thousandths).unwrap();
            assert!((found - ms).abs() <= ms * 0.002, "{thousandths}: {found}");
        }
        histogram.add(Duration::from_hours(1_000));
        assert!(histogram.percentile(1_000).unwrap() > 60_000_000.0);
    }

    proptest! {
        #[test]
        fn bucket_is_accurate_to_one_in_512(micros in 0_u64..1 << 35) {
            let bound = lower_bound(bucket(micros));
            prop_assert!(bound <= micros && micros - bound <= micros / 512, "{micros} {bound}");
        }
    }
}
