//! Start-time fair queueing: decides whose turn it is when more consumers wait than units are free. Pure.
//!
//! [`fair_share`](super::fair_share) divides a resource by what is in use, so a consumer whose share is less than one
//! unit could get nothing while others get the same units again and again. Here each consumer has a virtual time, which
//! advances by the units that it was served, divided by its weight. The next unit goes to the consumer with the smallest
//! virtual time.
//!
//! - While a consumer waits, each of the others is served at most its weight, divided by that of the waiting one, and a
//!   few units more: the wait is in proportion to the sum of the weights.
//! - If all units are in use for the same time, consumers that need more are served in proportion to their weights.
//! - Nothing is left over while any demand is unmet.
//! - A consumer gains nothing by being idle: it continues at the virtual time of those that wait.
//!
//! "Start-time Fair Queuing", Goyal, Vin, Cheng, 1996.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::Hash;

use super::fair_share::Claimant;

/// The virtual time that one unit takes at weight 1.
const UNIT: u64 = 1_000_000;
/// A share in fractions of a unit: one is this many.
const SCALE: u128 = 1_000_000_000;
/// Maximum number of consumers that a queue remembers beside those that it has just served.
const MAX_IDLE: usize = 4_096;

/// A consumer, and the virtual time at which its next unit starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contender {
    /// What it uses, its demand and its weight.
    pub claimant: Claimant,
    /// When its next unit starts.
    pub start: u64,
}

/// Why a consumer was not served more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Its demand is met.
    None,
    /// It could use more, and has more than its share.
    AboveShare,
    /// It could use more, has less than its share, and waits for its turn.
    Turn,
}

/// The share of a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The number of units.
    pub units: usize,
    /// Why there are no more.
    pub need: Need,
}

/// What a consumer was served.
#[derive(Debug, Clone, Copy)]
pub struct Turn<K> {
    /// The consumer.
    pub key: K,
    /// Its weight, at least 1.
    pub weight: u32,
    /// The number of units.
    pub units: usize,
    /// Why there were no more.
    pub need: Need,
}

/// The virtual times of the consumers of one resource.
#[derive(Debug, Clone)]
pub struct FairQueue<K> {
    /// The virtual time of those that wait: a consumer that was idle continues here.
    now: u64,
    /// Where the consumers that were served lately continue.
    served: HashMap<K, Served>,
}

/// The virtual time of a consumer that was served.
#[derive(Debug, Clone, Copy)]
struct Served {
    /// When its last unit ends.
    end: u64,
    /// How far the consumer may be behind the others and still catch up: the duration of what it was served last, and two
    /// units. A share that is rounded down at some times is rounded up at others.
    allowance: u64,
}

impl<K> Default for FairQueue<K> {
    fn default() -> Self {
        Self { now: 0, served: HashMap::new() }
    }
}

impl<K: Copy + Eq + Hash> FairQueue<K> {
    /// Returns when the consumer's next unit starts, if it was served `units` more until then.
    pub fn start(&self, key: K, weight: u32, units: usize) -> u64 {
        let first =
            self.served.get(&key).map_or(self.now, |served| served.end.max(self.now.saturating_sub(served.allowance)));
        first.saturating_add(duration(weight, units))
    }

    /// Records what consumers were served. Must contain all that were served or need more.
    pub fn serve(&mut self, turns: &[Turn<K>]) {
        let mut last_start = None;
        for turn in turns.iter().filter(|turn| turn.units > 0) {
            last_start = last_start.max(Some(self.start(turn.key, turn.weight, turn.units - 1)));
            let end = self.start(turn.key, turn.weight, turn.units);
            self.served.insert(turn.key, Served { end, allowance: duration(turn.weight, turn.units + 2) });
        }
        if turns.iter().all(|turn| turn.need == Need::None) {
            // All demand is met, so no consumer's virtual time advances.
            self.served.clear();
            return;
        }
        // The time of the last unit, but not later than that of any consumer that waits: none of them loses its turn.
        let waiting = turns.iter().filter(|turn| turn.need == Need::Turn);
        let first = waiting.map(|turn| self.start(turn.key, turn.weight, 0)).min();
        if let Some(last) = last_start {
            self.now = first.map_or(last, |first| first.min(last)).max(self.now);
        }
        let now = self.now;
        self.served.retain(|_, served| served.end.saturating_add(served.allowance) > now);
        if self.served.len() > MAX_IDLE + turns.len() {
            self.served.retain(|key, _| turns.iter().any(|turn| turn.key == *key));
        }
    }

    /// Returns whether all consumers have the same virtual time.
    pub fn is_even(&self) -> bool {
        self.served.is_empty()
    }
}

fn duration(weight: u32, units: usize) -> u64 {
    (UNIT / u64::from(weight.max(1))).saturating_mul(u64::try_from(units).unwrap_or(u64::MAX))
}

/// Divides `total`: one unit after the other goes to the consumer whose next unit starts first, among equals to the first
/// one. No consumer gets more than its share by weighted max-min fairness of what is free and in use, rounded to a whole
/// unit, and one unit, so that one whose units are in use for long leaves their share to the others. The one unit lets a
/// consumer catch up that was served less than its share before.
pub fn divide(total: usize, contenders: &[Contender]) -> Vec<Share> {
    let demand = contenders.iter().fold(0_usize, |sum, one| sum.saturating_add(one.claimant.demand));
    if demand <= total {
        let all = |one: &Contender| Share { units: one.claimant.demand, need: Need::None };
        return contenders.iter().map(all).collect();
    }
    let level = level(total, contenders);
    let mut shares = vec![0; contenders.len()];
    let limits: Vec<usize> = contenders.iter().map(|one| one.limit(level)).collect();
    let mut turns: BinaryHeap<Reverse<(u64, usize)>> =
        contenders.iter().enumerate().filter(|(n, _)| limits[*n] > 0).map(|(n, one)| Reverse((one.start, n))).collect();
    for _ in 0..total {
        let Some(Reverse((start, n))) = turns.pop() else { break };
        shares[n] += 1;
        if shares[n] < limits[n] {
            turns.push(Reverse((start.saturating_add(duration(contenders[n].claimant.weight, 1)), n)));
        }
    }
    let share = |((units, limit), one): ((usize, usize), &Contender)| Share {
        units,
        need: match units {
            _ if units >= one.claimant.demand => Need::None,
            _ if units >= limit => Need::AboveShare,
            _ => Need::Turn,
        },
    };
    shares.into_iter().zip(limits).zip(contenders).map(share).collect()
}

/// Returns the highest level at which what is in use and `total` suffice for the shares of all. A level is the share of a
/// consumer of weight 1, in fractions of a unit.
fn level(total: usize, contenders: &[Contender]) -> u128 {
    let total = contenders.iter().map(|one| fractions(one.claimant.in_use)).sum::<u128>() + fractions(total);
    let suffices = |level: u128| contenders.iter().map(|one| one.share_at(level)).sum::<u128>() <= total;
    let (mut low, mut high) = (0, contenders.iter().map(Contender::full_level).max().unwrap_or(0));
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if suffices(middle) { low = middle } else { high = middle - 1 }
    }
    low
}

impl Contender {
    /// Returns the share at a level, in fractions of a unit, including what is in use.
    fn share_at(&self, level: u128) -> u128 {
        let Claimant { in_use, demand, weight } = self.claimant;
        level.saturating_mul(weight.max(1).into()).min(fractions(in_use) + fractions(demand))
    }

    /// Returns the level from which the share no longer grows.
    fn full_level(&self) -> u128 {
        let Claimant { in_use, demand, weight } = self.claimant;
        (fractions(in_use) + fractions(demand)).div_ceil(weight.max(1).into())
    }

    /// Returns how many more units the consumer may get at a level.
    fn limit(&self, level: u128) -> usize {
        let share = usize::try_from((self.share_at(level) + SCALE / 2) / SCALE).unwrap_or(usize::MAX).saturating_add(1);
        share.saturating_sub(self.claimant.in_use).min(self.claimant.demand)
    }
}

/// Returns this many units, in fractions of a unit.
fn fractions(units: usize) -> u128 {
    u128::try_from(units).unwrap_or(u128::MAX >> 1).saturating_mul(SCALE)
}

#[cfg(test)]
mod tests;
