//! Divides free capacity by weighted max-min fairness. Pure.

/// A consumer of capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claimant {
    /// The capacity that it uses already.
    pub in_use: usize,
    /// The maximum capacity that it can use in addition.
    pub demand: usize,
    /// The weight of its share, at least 1.
    pub weight: u32,
}

/// Divides `total` so that each claimant's use, including `in_use`, becomes proportional to its weight, without
/// exceeding its demand. Nothing is left over while any demand is unmet. Among equal claimants, the first ones get the
/// remainder.
pub fn divide(total: usize, claimants: &[Claimant]) -> Vec<usize> {
    let demand: usize = claimants.iter().map(|claimant| claimant.demand).sum();
    if demand <= total {
        return claimants.iter().map(|claimant| claimant.demand).collect();
    }
    let shares_at = |level: u64| claimants.iter().map(move |claimant| claimant.share_at(level));
    // Finds the highest level at which `total` suffices for all shares. It is below the level at which all demands are
    // met.
    let (mut low, mut high) = (0, claimants.iter().map(Claimant::full_level).max().unwrap_or(0));
    while low < high {
        let level = low + (high - low).div_ceil(2);
        if shares_at(level).sum::<usize>() <= total { low = level } else { high = level - 1 }
    }
    let mut shares: Vec<usize> = shares_at(low).collect();
    let mut left = total - shares.iter().sum::<usize>();
    // Divides the remainder: each claimant gets at most its share at the next level.
    for (share, (claimant, next)) in shares.iter_mut().zip(claimants.iter().zip(shares_at(low + 1))) {
        let more = (next - *share).min(left).min(claimant.demand - *share);
        *share += more;
        left -= more;
    }
    shares
}

/// A level is the use of a claimant of weight 1, in thousandths, so that weights up to 1,000 make a difference.
const SCALE: u64 = 1_000;

impl Claimant {
    /// Returns the claimant's share at a level.
    fn share_at(&self, level: u64) -> usize {
        let all = level.saturating_mul(self.weight.max(1).into()) / SCALE;
        usize::try_from(all).unwrap_or(usize::MAX).saturating_sub(self.in_use).min(self.demand)
    }

    /// Returns the level from which the claimant's share no longer grows.
    fn full_level(&self) -> u64 {
        let all = u64::try_from(self.in_use.saturating_add(self.demand)).unwrap_or(u64::MAX);
        all.saturating_mul(SCALE).div_ceil(self.weight.max(1).into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claimant(in_use: usize, demand: usize, weight: u32) -> Claimant {
        Claimant { in_use, demand, weight }
    }

    #[test]
    fn shares_follow_weights_and_current_use() {
        for (total, claimants, shares) in [
            (12, vec![claimant(0, 100, 1), claimant(0, 100, 1), claimant(0, 100, 1)], vec![4, 4, 4]),
            (12, vec![claimant(0, 100, 30), claimant(0, 100, 10)], vec![9, 3]),
            (12, vec![claimant(10, 100, 10), claimant(0, 100, 10)], vec![1, 11]),
            (12, vec![claimant(0, 2, 10), claimant(0, 100, 10)], vec![2, 10]),
            (2, vec![claimant(0, 5, 10), claimant(0, 5, 10), claimant(0, 5, 10)], vec![1, 1, 0]),
            (9, vec![claimant(0, 3, 1), claimant(0, 3, 1)], vec![3, 3]),
            (5, vec![], vec![]),
        ] {
            assert_eq!(divide(total, &claimants), shares, "{total} among {claimants:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_left_over_and_no_demand_is_exceeded(
            total in 0_usize..5_000,
            claimants in prop::collection::vec((0_usize..500, 0_usize..500, 1_u32..=1_000), 0..40),
        ) {
            let claimants: Vec<Claimant> = claimants.into_iter().map(|(in_use, demand, weight)| claimant(in_use, demand, weight)).collect();
            let shares = divide(total, &claimants);
            let demand: usize = claimants.iter().map(|claimant| claimant.demand).sum();
            prop_assert!(shares.iter().zip(&claimants).all(|(share, claimant)| *share <= claimant.demand));
            prop_assert_eq!(shares.iter().sum::<usize>(), total.min(demand));
        }

        #[test]
        fn shares_of_equals_differ_by_at_most_one(total in 0_usize..500, claimants in 1_usize..20) {
            let shares = divide(total, &vec![claimant(0, 1_000, 10); claimants]);
            prop_assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
    }
}
