//! A histogram of durations in constant memory, exact below a millisecond and to 0.2 % above.

use std::time::Duration;

/// Buckets within one power of two.
const PARTS: u64 = 1_024;
/// Powers of two above that, up to 19 hours.
const DOUBLINGS: u64 = 26;

/// Counts of durations.
#[derive(Debug, Clone)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        let places = usize::try_from((DOUBLINGS + 2) * PARTS / 2).unwrap_or_default();
        Self { counts: vec![0; places], total: 0 }
    }
}

impl Histogram {
    /// Counts one duration.
    pub(super) fn add(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let last = self.counts.len() - 1;
        let at = usize::try_from(place(micros)).map_or(last, |at| at.min(last));
        self.counts[at] += 1;
        self.total += 1;
    }

    /// The duration that `thousandths` of all did not exceed, in milliseconds; `None` if there are none.
    pub(super) fn at(&self, thousandths: u64) -> Option<f64> {
        let rank = (self.total * thousandths).div_ceil(1_000).max(1);
        let mut below = 0;
        let (at, _) = (0_u64..).zip(&self.counts).find(|(_, count)| {
            below += **count;
            below >= rank
        })?;
        Some(Duration::from_micros(size(at)).as_secs_f64() * 1_000.0)
    }
}

/// The index of a value's bucket: the value itself at first, then half of `PARTS` buckets for each power of two.
fn place(micros: u64) -> u64 {
    if micros < PARTS {
        return micros;
    }
    let doubling = u64::from(micros.ilog2() - PARTS.ilog2()) + 1;
    (doubling * PARTS / 2) + (micros >> doubling)
}

/// The smallest value of a bucket.
fn size(place: u64) -> u64 {
    if place < PARTS {
        return place;
    }
    let doubling = place / (PARTS / 2) - 1;
    (place - doubling * PARTS / 2) << doubling
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentiles_are_those_of_the_list() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.at(500), None);
        (1..=100).for_each(|ms| histogram.add(Duration::from_millis(ms)));
        for (thousandths, ms) in [(0, 1.0), (500, 50.0), (990, 99.0), (1_000, 100.0)] {
            let found = histogram.at(thousandths).unwrap();
            assert!((found - ms).abs() <= ms * 0.002, "{thousandths}: {found}");
        }
        histogram.add(Duration::from_hours(1_000));
        assert!(histogram.at(1_000).unwrap() > 60_000_000.0);
    }

    proptest! {
        #[test]
        fn a_size_is_told_to_a_five_hundredth(micros in 0_u64..1 << 35) {
            let told = size(place(micros));
            prop_assert!(told <= micros && micros - told <= micros / 512, "{micros} {told}");
        }
    }
}
