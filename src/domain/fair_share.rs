//! Weighted max-min fair shares of a free capacity. Pure.

/// A consumer of the capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claimant {
    /// What it uses already.
    pub held: usize,
    /// The most that it can use in addition.
    pub room: usize,
    /// Its weight, 1 or more.
    pub weight: u32,
}

/// Divides `total` so that what each claimant then uses is proportional to its weight, as far as what it uses already
/// and its room allow. Nothing is left over while any claimant has room. Among equals the first get the remainder.
pub fn divide(total: usize, claimants: &[Claimant]) -> Vec<usize> {
    let wanted: usize = claimants.iter().map(|claimant| claimant.room).sum();
    if wanted <= total {
        return claimants.iter().map(|claimant| claimant.room).collect();
    }
    let given = |level: u64| claimants.iter().map(move |claimant| claimant.share_at(level));
    // The highest level that `total` reaches everywhere; it is below the first at which every claimant is full.
    let (mut low, mut high) = (0, claimants.iter().map(Claimant::full_level).max().unwrap_or(0));
    while low < high {
        let level = low + (high - low).div_ceil(2);
        if given(level).sum::<usize>() <= total { low = level } else { high = level - 1 }
    }
    let mut shares: Vec<usize> = given(low).collect();
    let mut left = total - shares.iter().sum::<usize>();
    // What one more level would have given.
    for (share, (claimant, next)) in shares.iter_mut().zip(claimants.iter().zip(given(low + 1))) {
        let more = (next - *share).min(left).min(claimant.room - *share);
        *share += more;
        left -= more;
    }
    shares
}

/// Levels are thousandths of what a claimant of weight 1 uses, so that weights up to 1,000 make a difference.
const SCALE: u64 = 1_000;

impl Claimant {
    /// Returns its share at a level.
    fn share_at(&self, level: u64) -> usize {
        let all = level.saturating_mul(self.weight.max(1).into()) / SCALE;
        usize::try_from(all).unwrap_or(usize::MAX).saturating_sub(self.held).min(self.room)
    }

    /// Returns the level from which its share no longer grows.
    fn full_level(&self) -> u64 {
        let all = u64::try_from(self.held.saturating_add(self.room)).unwrap_or(u64::MAX);
        all.saturating_mul(SCALE).div_ceil(self.weight.max(1).into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claimant(held: usize, room: usize, weight: u32) -> Claimant {
        Claimant { held, room, weight }
    }

    #[test]
    fn shares_follow_weights_and_what_is_used() {
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
        fn nothing_is_left_over_and_no_claimant_exceeds_its_room(
            total in 0_usize..5_000,
            claimants in prop::collection::vec((0_usize..500, 0_usize..500, 1_u32..=1_000), 0..40),
        ) {
            let claimants: Vec<Claimant> = claimants.into_iter().map(|(held, room, weight)| claimant(held, room, weight)).collect();
            let shares = divide(total, &claimants);
            let wanted: usize = claimants.iter().map(|claimant| claimant.room).sum();
            prop_assert!(shares.iter().zip(&claimants).all(|(share, claimant)| *share <= claimant.room));
            prop_assert_eq!(shares.iter().sum::<usize>(), total.min(wanted));
        }

        #[test]
        fn equals_differ_by_one_at_most(total in 0_usize..500, claimants in 1_usize..20) {
            let shares = divide(total, &vec![claimant(0, 1_000, 10); claimants]);
            prop_assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
    }
}
