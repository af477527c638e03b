use proptest::prelude::*;

use super::*;

fn contender(in_use: usize, demand: usize, weight: u32, start: u64) -> Contender {
    Contender { claimant: Claimant { in_use, demand, weight }, start }
}

fn divided(total: usize, contenders: &[Contender]) -> Vec<usize> {
    divide(total, contenders).into_iter().map(|share| share.units).collect()
}

#[test]
fn whole_units_follow_weights_and_current_use() {
    for (total, contenders, shares) in [
        (12, vec![contender(0, 100, 30, 9), contender(0, 100, 10, 0)], vec![9, 3]),
        (12, vec![contender(10, 100, 10, 0), contender(0, 100, 10, 9)], vec![2, 10]),
        (12, vec![contender(10, 100, 10, 9_000_000), contender(0, 100, 10, 0)], vec![0, 12]),
        (12, vec![contender(0, 2, 10, 0), contender(0, 100, 10, 0)], vec![2, 10]),
        (9, vec![contender(0, 3, 1, 0), contender(0, 3, 1, 0)], vec![3, 3]),
        (5, vec![], vec![]),
        (0, vec![contender(0, 3, 1, 0)], vec![0]),
    ] {
        assert_eq!(divided(total, &contenders), shares, "{total} among {contenders:?}");
    }
}

#[test]
fn smallest_virtual_time_gets_the_unit_that_is_left() {
    let late = contender(0, 5, 10, 7);
    let early = contender(0, 5, 10, 3);
    assert_eq!(divided(1, &[late, early, late]), [0, 1, 0]);
    assert_eq!(divided(2, &[late, early, late]), [1, 1, 0]);
    let needs: Vec<Need> = divide(1, &[late, early, late]).into_iter().map(|share| share.need).collect();
    assert_eq!(needs, [Need::Turn, Need::AboveShare, Need::Turn]);
    assert_eq!(divided(8, &[contender(0, 100, 100, 5), contender(0, 100, 1, 0)]), [7, 1]);
    assert_eq!(divided(8, &[contender(0, 100, 100, 0), contender(0, 100, 1, 5_000_000)]), [8, 0]);
}

/// Consumers of `slots` units, each of which is in use for a random time.
struct Resource {
    slots: usize,
    weights: Vec<u32>,
    queue: FairQueue<usize>,
    /// The owners of the units in use.
    in_use: Vec<usize>,
    random: u32,
}

impl Resource {
    fn new(slots: usize, weights: &[u32]) -> Self {
        Self { slots, weights: weights.to_vec(), queue: FairQueue::default(), in_use: Vec::new(), random: 1 }
    }

    fn used_by(&self, key: usize) -> usize {
        self.in_use.iter().filter(|owner| **owner == key).count()
    }

    /// Ends units until `free` are free, and divides these among those with a demand. Returns the units of each.
    fn round(&mut self, free: usize, demands: &[usize]) -> Vec<usize> {
        while self.slots - self.in_use.len() < free {
            self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            self.in_use.swap_remove((self.random >> 16) as usize % self.in_use.len());
        }
        let contender = |(key, demand): (usize, &usize)| Contender {
            claimant: Claimant { in_use: self.used_by(key), demand: *demand, weight: self.weights[key] },
            start: self.queue.start(key, self.weights[key], 0),
        };
        let contenders: Vec<Contender> = demands.iter().enumerate().map(contender).collect();
        let shares = divide(self.slots - self.in_use.len(), &contenders);
        let turn = |(key, share): (usize, &Share)| {
            let Share { units, need } = *share;
            Turn { key, weight: self.weights[key], units, need }
        };
        let turns: Vec<Turn<usize>> = shares.iter().enumerate().map(turn).collect();
        self.queue.serve(&turns);
        for (key, share) in shares.iter().enumerate() {
            self.in_use.extend(std::iter::repeat_n(key, share.units));
        }
        shares.into_iter().map(|share| share.units).collect()
    }
}

#[test]
fn forty_consumers_take_turns_at_eight_units() {
    let mut resource = Resource::new(8, &[100; 40]);
    let mut served = [0; 40];
    for _ in 0..400 {
        for (total, units) in served.iter_mut().zip(resource.round(1, &[1_000; 40])) {
            *total += units;
        }
    }
    assert!(served.iter().all(|units| (9..=12).contains(units)), "{served:?}");
}

#[test]
fn weight_of_one_is_served_beside_one_hundred() {
    let mut resource = Resource::new(8, &[1, 100]);
    let mut light = 0;
    for _ in 0..10_100 {
        light += resource.round(1, &[1_000, 1_000])[0];
    }
    assert!((95..=105).contains(&light), "{light} of 10,100");
}

#[test]
fn idle_consumer_continues_where_the_others_are() {
    let mut resource = Resource::new(1, &[10, 10, 10]);
    for _ in 0..100 {
        resource.round(1, &[50, 50, 0]);
    }
    let served: Vec<usize> = (0..30).map(|_| resource.round(1, &[50, 50, 50])[2]).collect();
    let (first, all) = (served.iter().take(3).sum::<usize>(), served.iter().sum::<usize>());
    assert!(first >= 1, "it waits for one turn of each of the others");
    assert!((9..=11).contains(&all), "it does not make up for its idle time: {served:?}");
}

#[test]
fn uncontended_use_is_not_counted() {
    let mut resource = Resource::new(1, &[10, 10]);
    for _ in 0..1_000 {
        resource.round(1, &[1, 0]);
    }
    assert!(resource.queue.is_even());
    let served: Vec<usize> = (0..20).map(|_| resource.round(1, &[9, 9])[0]).collect();
    assert!((9..=11).contains(&served.iter().sum::<usize>()), "{served:?}");
}

#[test]
fn consumers_that_left_are_forgotten() {
    let mut queue = FairQueue::default();
    let turn = |key, units, need| Turn { key, weight: 1, units, need };
    for key in 1..=2 * MAX_IDLE {
        queue.serve(&[turn(0, 0, Need::Turn), turn(key, 1, Need::None)]);
    }
    assert!(queue.served.len() <= MAX_IDLE + 2, "{}", queue.served.len());
    queue.serve(&[turn(0, 1, Need::None)]);
    assert!(queue.is_even());
}

proptest! {
    #[test]
    fn nothing_is_left_over_and_no_demand_is_exceeded(
        total in 0_usize..5_000,
        contenders in prop::collection::vec((0_usize..500, 0_usize..500, 1_u32..=1_000, 0_u64..9_000_000), 0..40),
    ) {
        let contenders: Vec<Contender> =
            contenders.into_iter().map(|(in_use, demand, weight, start)| contender(in_use, demand, weight, start)).collect();
        let shares = divided(total, &contenders);
        let demand: usize = contenders.iter().map(|one| one.claimant.demand).sum();
        prop_assert!(shares.iter().zip(&contenders).all(|(share, one)| *share <= one.claimant.demand));
        prop_assert_eq!(shares.iter().sum::<usize>(), total.min(demand));
    }

    /// While a consumer waits, each of the others is served at most in proportion to its weight, and two units.
    #[test]
    fn wait_is_bounded_by_the_weights_of_the_others(
        slots in 1_usize..9,
        weights in prop::collection::vec(1_u32..=20, 2..10),
        idle in prop::collection::vec(any::<bool>(), 10),
    ) {
        let mut resource = Resource::new(slots, &weights);
        // Some of them begin later.
        let demands: Vec<usize> = weights.iter().zip(&idle).map(|(_, idle)| if *idle { 0 } else { 1_000 }).collect();
        for _ in 0..50 {
            resource.round(1, &demands);
        }
        let all = vec![1_000; weights.len()];
        let mut others = vec![0_usize; weights.len()];
        let sum: u32 = weights.iter().sum();
        for _ in 0..4 * sum {
            let served = resource.round(1, &all);
            let total: usize = served.iter().sum();
            for (key, waited) in others.iter_mut().enumerate() {
                // It waits only while it uses less than its share.
                let has_share = resource.used_by(key) > 0
                    && resource.used_by(key) * sum as usize >= slots * weights[key] as usize;
                *waited = if served[key] > 0 || has_share { 0 } else { *waited + total };
                let bound = (sum - weights[key]).div_ceil(weights[key]) as usize + 2 * weights.len() + slots;
                prop_assert!(*waited <= bound, "{} waited for {waited} units, bound {bound}", weights[key]);
            }
        }
    }

    #[test]
    fn shares_are_those_of_the_weights(
        slots in 1_usize..9,
        weights in prop::collection::vec(1_u32..=20, 2..10),
    ) {
        let mut resource = Resource::new(slots, &weights);
        let (mut served, all) = (vec![0_usize; weights.len()], vec![1_000; weights.len()]);
        let sum: u32 = weights.iter().sum();
        for _ in 0..10 * sum {
            for (total, units) in served.iter_mut().zip(resource.round(slots, &all)) {
                *total += units;
            }
        }
        for (units, weight) in served.iter().zip(&weights) {
            let share = 10 * slots * *weight as usize;
            prop_assert!(units.abs_diff(share) <= 2 * slots, "{units} instead of {share}: {served:?} for {weights:?}");
        }
    }
}
