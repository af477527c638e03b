//! Generations of groups of cached values, such as all values of a tenant. The number of the generation is part of the keys of the
//! values: with the next number, none of the earlier values is found any more, not even one whose load is still in progress.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// Number of counters. Groups whose hashes lead to the same counter share their generations.
const COUNTERS: u64 = 1_024;

/// The current generation of each group.
#[derive(Debug)]
pub struct Generations {
    hasher: RandomState,
    counters: Vec<AtomicU64>,
}

impl Default for Generations {
    fn default() -> Self {
        Self { hasher: RandomState::new(), counters: (0..COUNTERS).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Generations {
    /// Returns the current generation of a group.
    pub fn get(&self, group: impl Hash) -> u64 {
        self.counter(group).load(Ordering::Acquire)
    }

    /// Begins another generation of a group.
    pub fn advance(&self, group: impl Hash) {
        self.counter(group).fetch_add(1, Ordering::Release);
    }

    fn counter(&self, group: impl Hash) -> &AtomicU64 {
        let index = usize::try_from(self.hasher.hash_one(group) % COUNTERS);
        &self.counters[index.unwrap_or_default()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_generation_is_that_of_one_group() {
        let generations = Generations::default();
        let numbers = || (0..100_usize).map(|group| generations.get(group)).collect::<Vec<_>>();
        let before = numbers();
        generations.advance(7_usize);
        let after = numbers();
        let changed: Vec<usize> = (0..100).filter(|group| after[*group] != before[*group]).collect();
        assert!(changed.contains(&7), "{changed:?}");
        assert!(changed.len() < 10, "few groups share a counter: {changed:?}");
    }
}
