use proptest::prelude::*;

use super::*;

fn at(millis: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::milliseconds(millis)
}

fn rate(requests_per_second: u32, burst: u32) -> KeyRate {
    KeyRate { requests_per_second, burst }
}

fn quota(recipients_per_day: u32) -> KeyQuota {
    KeyQuota { recipients_per_day }
}

/// Makes a request to a process with this block. `used_until` is the state of the limit that all processes share.
/// Returns whether the request is admitted.
fn admit(block: &mut RateBlock, rate: KeyRate, used_until: &mut DateTime<Utc>, now: DateTime<Utc>) -> bool {
    loop {
        match block.take(rate, now) {
            Take::Taken => return true,
            Take::Exhausted(at) => {
                assert!(at > now && at <= now + TimeDelta::seconds(2), "{at} {now}");
                return false;
            }
            Take::Empty => {
                let lease = RateLease::new(rate, *used_until, block.remove_unused(rate, now), now);
                *used_until = lease.used_until;
                block.fill(rate, &lease, now);
            }
        }
    }
}

#[test]
fn burst_is_shared_and_then_the_rate_applies() {
    let (rate, mut used_until) = (rate(2, 5), DateTime::UNIX_EPOCH);
    let mut blocks = [RateBlock::default(); 3];
    let mut admitted = |now| {
        let mut count = 0;
        for turn in 0..30 {
            count += usize::from(admit(&mut blocks[turn % 3], rate, &mut used_until, now));
        }
        count
    };
    assert_eq!([at(0), at(400), at(500), at(5_000)].map(&mut admitted), [5, 0, 1, 5]);
}

#[test]
fn headers_count_down_and_recover() {
    let (rate, mut used_until, mut block) = (rate(10, 20), DateTime::UNIX_EPOCH, RateBlock::default());
    let states: Vec<_> = (0..21)
        .map(|_| {
            admit(&mut block, rate, &mut used_until, at(0));
            block.state(rate, at(0))
        })
        .collect();
    let state = |remaining, reset_seconds| LimitState { remaining, reset_seconds };
    assert_eq!([states[0], states[9], states[19], states[20]], [state(19, 1), state(10, 1), state(0, 2), state(0, 2)]);
    assert_eq!(block.state(rate, at(60_000)), state(20, 0));
}

#[test]
fn changed_rate_discards_the_block() {
    let (mut used_until, mut block) = (DateTime::UNIX_EPOCH, RateBlock::default());
    assert!(admit(&mut block, rate(100, 100), &mut used_until, at(0)));
    assert_eq!(block.take(rate(1, 1), at(0)), Take::Empty);
}

#[test]
fn quota_reports_80_and_100_percent_once() {
    let (day, quota) = (at(0).date_naive(), quota(10));
    let mut used = QuotaUse { day, recipients: 0, reported: 0 };
    let mut lease = |needed| {
        let lease = QuotaLease::new(quota, used, needed, 0, day);
        used = lease.after;
        (lease.recipients, lease.must_report.then_some(lease.after.reported))
    };
    // A refused request makes no report, and does not prevent a later one.
    let leases = [11, 7, 4, 1, 1, 2, 1, 1].map(&mut lease);
    assert_eq!(leases[..4], [(0, None), (7, None), (0, None), (1, Some(80))]);
    assert_eq!(leases[4..], [(1, None), (0, None), (1, Some(100)), (0, None)]);
    let tomorrow = QuotaLease::new(quota, used, 1, 5, day.succ_opt().unwrap());
    assert_eq!((tomorrow.after.recipients, tomorrow.left, tomorrow.must_report), (1, 9, false));
}

#[test]
fn quota_lowered_below_its_use_is_reported() {
    let day = at(0).date_naive();
    let lease = QuotaLease::new(quota(5), QuotaUse { day, recipients: 8, reported: 0 }, 1, 0, day);
    assert_eq!((lease.recipients, lease.after.reported, lease.must_report), (0, 100, true));
}

#[test]
fn clock_that_was_ahead_does_not_close_the_rate() {
    let (rate, mut used_until, mut block) = (rate(2, 5), at(86_400_000), RateBlock::default());
    let lease = RateLease::new(rate, used_until, 0, at(0));
    assert_eq!((lease.requests, lease.used_until), (0, at(3_000)), "the corrected time is stored");
    used_until = lease.used_until;
    block.fill(rate, &lease, at(0));
    assert!(matches!(block.take(rate, at(0)), Take::Exhausted(_)));
    assert!(admit(&mut block, rate, &mut used_until, at(4_000)));
    // The clock of this process was ahead when it leased.
    let ahead = RateLease { requests: 0, left: 0, opens_at: Some(at(86_400_000)), used_until };
    block.fill(rate, &ahead, at(86_399_000));
    assert!(admit(&mut block, rate, &mut used_until, at(6_000)));
}

#[test]
fn clock_that_was_ahead_does_not_close_the_quota() {
    let (quota, today) = (quota(10), at(0).date_naive());
    let lease = |days| {
        let before = QuotaUse { day: today + Days::new(days), recipients: 10, reported: 100 };
        QuotaLease::new(quota, before, 1, 0, today)
    };
    assert_eq!((lease(1).recipients, lease(2).recipients), (0, 1), "a day may begin a little early, but not two");
    assert_eq!(lease(2).after, QuotaUse { day: today, recipients: 1, reported: 0 });
    let mut block = QuotaBlock::default();
    block.fill(quota, &QuotaLease::new(quota, lease(2).after, 5, 0, today + Days::new(2)), at(0));
    assert!(!block.take(quota, 1, today) && !block.is_known(today));
}

#[test]
fn known_shortage_refuses_larger_requests_for_a_second() {
    let (quota, day, mut block) = (quota(10), at(0).date_naive(), QuotaBlock::default());
    block.fill(quota, &QuotaLease::new(quota, QuotaUse { day, recipients: 8, reported: 80 }, 3, 0, day), at(0));
    let shortages =
        [(3, 0), (2, 0), (3, 1_000), (3, 1_001)].map(|(needed, now)| block.shortage(quota, needed, at(now)));
    assert_eq!(shortages, [Some(2), None, Some(2), None]);
    block.add_left(1, day);
    assert_eq!(block.shortage(quota, 3, at(0)), None, "recipients have been returned");
}

#[test]
fn released_recipients_remain_known_until_the_day_ends() {
    let (quota, day, mut block) = (quota(640), at(0).date_naive(), QuotaBlock::default());
    block.fill(quota, &QuotaLease::new(quota, QuotaUse { day, recipients: 0, reported: 0 }, 1, 0, day), at(0));
    assert!(block.take(quota, 1, day));
    let released = block.remove_unused(day);
    block.add_left(released, day);
    assert_eq!((released, block.state(quota, at(0)).map(|state| state.remaining)), (9, Some(639)));
    assert!(block.day().is_none() && block.is_known(day) && !block.is_known(day + Days::new(1)));
}

#[test]
fn slow_client_can_use_the_whole_burst() {
    let (rate, mut used_until, mut block) = (rate(1, 100), DateTime::UNIX_EPOCH, RateBlock::default());
    let admitted = (0_i64..1_000).take_while(|n| admit(&mut block, rate, &mut used_until, at(*n * 600))).count();
    // In 0.6 × 247 s, 148 requests accumulate in addition to the burst.
    assert!((248..=250).contains(&admitted), "{admitted} requests");
}

#[test]
fn reset_is_at_midnight() {
    let now: DateTime<Utc> = "2026-11-29T23:59:58.5Z".parse().unwrap();
    assert_eq!(next_day(now).to_rfc3339(), "2026-11-30T00:00:00+00:00");
    assert_eq!(seconds_until(next_day(now), now), 2);
}

proptest! {
    /// The bound in the module's documentation holds for any number of replicas and any order of requests.
    #[test]
    fn replicas_together_keep_the_rate(
        per_second in 1_u32..500,
        extra in 0_u32..500,
        requests in prop::collection::vec((0_usize..3, 0_i64..400), 1..400),
        from in 0_usize..400,
    ) {
        let rate = rate(per_second, per_second + extra);
        let (mut used_until, mut blocks, mut now) = (DateTime::UNIX_EPOCH, [RateBlock::default(); 3], at(0));
        let from = from % requests.len();
        let (mut start, mut admitted, mut held) = (now, 0_u32, 0_u64);
        for (index, (replica, wait)) in requests.into_iter().enumerate() {
            // Many requests at once, and some pauses.
            now += TimeDelta::milliseconds(if wait > 350 { wait } else { 0 });
            if index == from {
                (start, admitted) = (now, 0);
                held = blocks.iter().map(|block| block.requests).sum();
                prop_assert!(held <= 3 * u64::from((rate.burst / 4).max(1)), "{held} in the blocks");
            }
            admitted += u32::from(admit(&mut blocks[replica], rate, &mut used_until, now));
            let seconds = (now - start).as_seconds_f64();
            // Times are rounded to microseconds.
            let most = f64::from(rate.burst) + f64::from(per_second) * seconds * 1.001 + 1.0;
            let most = most + f64::from(u32::try_from(held).unwrap());
            prop_assert!(f64::from(admitted) <= most, "{admitted} > {most}");
        }
    }

    /// A client of one process that keeps within the rate and the burst is never refused.
    #[test]
    fn client_below_the_rate_is_never_refused(
        per_second in 1_u32..500,
        extra in 1_u32..500,
        waits in prop::collection::vec(0_i64..4_000, 1..400),
    ) {
        let rate = rate(per_second, per_second + extra);
        let (mut used_until, mut block, mut now) = (DateTime::UNIX_EPOCH, RateBlock::default(), at(0));
        let mut exact = rate.gcra(DateTime::UNIX_EPOCH);
        for wait in waits {
            // Many requests at once, and some pauses.
            now += TimeDelta::milliseconds((wait - 3_000).max(0));
            // Times are rounded to microseconds, which may cost one request.
            if exact.available(now) >= 2 {
                exact = exact.take(1, now);
                prop_assert!(admit(&mut block, rate, &mut used_until, now), "{now}");
            }
        }
    }

    /// All replicas together never use more than the quota, and a single one can use all of it.
    #[test]
    fn quota_is_never_exceeded(
        limit in 1_u32..5_000,
        requests in prop::collection::vec((0_usize..3, 1_u64..200, any::<bool>()), 1..300),
    ) {
        let (day, quota) = (at(0).date_naive(), quota(limit));
        let (mut blocks, mut used) = ([QuotaBlock::default(); 3], 0_u64);
        let mut stored = QuotaUse { day, recipients: 0, reported: 0 };
        let mut ask = |block: &mut QuotaBlock, needed: u64| {
            if block.take(quota, needed, day) {
                return true;
            }
            let lease = QuotaLease::new(quota, stored, needed, block.remove_unused(day), day);
            stored = lease.after;
            block.fill(quota, &lease, at(0));
            block.take(quota, needed, day)
        };
        for (replica, needed, is_used) in requests {
            let block = &mut blocks[replica];
            if ask(block, needed) {
                if is_used { used += needed } else { block.put_back(needed, day) }
            }
            prop_assert!(used <= u64::from(limit));
        }
        let held: u64 = blocks[1..].iter_mut().map(|block| block.remove_unused(day)).sum();
        while ask(&mut blocks[0], 1) {
            used += 1;
        }
        prop_assert_eq!(used + held, u64::from(limit));
    }
}
