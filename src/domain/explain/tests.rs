//! What is told in each situation, situation by situation.

use chrono::TimeDelta;

use super::*;
use crate::domain::id::LaneId;
use crate::domain::lane::{Blocked, Learned, Paused, State, StreamTerms};
use crate::domain::limits::LaneLimits;

fn at(minute: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::minutes(minute)
}

/// Ten past: what lies before has passed.
fn now() -> DateTime<Utc> {
    at(10)
}

fn lane() -> Lane {
    Lane {
        id: LaneId(7),
        stream: "bulk".into(),
        route: "mx".into(),
        domain: "example.test".into(),
        priority: 50,
        state: State::Open,
        open_at: None,
        paused: None,
        limits: LaneLimits::default(),
        learned: None,
        blocked: None,
        in_use: 0,
        of_stream: StreamTerms::default(),
    }
}

fn place() -> Place {
    Place {
        lane: lane(),
        due_at: Some(at(5)),
        gives_up_at: at(4_320),
        is_leased: false,
        worker: None,
        held: None,
        ahead: Count::default(),
        pace: None,
        has_workers: true,
    }
}

fn recipient(status: Status) -> Recipient {
    Recipient {
        message: MessageId(uuid::Uuid::nil()),
        status,
        attempts: 0,
        created_at: at(0),
        last_attempt_at: None,
        finished_at: status.is_end().then(|| at(9)),
        reply: None,
        mx: None,
        tls: None,
        on_uncertain: OnUncertain::Retry,
    }
}

fn tried(status: Status, code: i16, text: &str) -> Recipient {
    Recipient {
        attempts: 2,
        last_attempt_at: Some(at(4)),
        reply: Some(Said { code: Some(code), enhanced: None, text: text.into() }),
        mx: Some("mx.example.test".into()),
        ..recipient(status)
    }
}

fn told(place: &Place) -> Explanation {
    explain(&recipient(Status::Queued), Some(place), now())
}

fn kind_of(change: impl FnOnce(&mut Place)) -> Kind {
    let mut place = place();
    change(&mut place);
    told(&place).blocker.kind
}

fn paused(minute: i64) -> Paused {
    Paused { at: at(minute), reason: Some("they asked us to".into()) }
}

fn blocked() -> Blocked {
    Blocked { since: at(3), failures: 2, reply: Some("connection refused".into()) }
}

fn learned(rate: f64) -> Learned {
    Learned { rate, ceiling: 40.0, at: at(8), reply: Some("4.7.0 slow down".into()) }
}

#[test]
fn each_thing_that_holds_has_its_name() {
    assert_eq!(kind_of(|_| ()), Kind::Queued);
    assert_eq!(kind_of(|p| p.due_at = Some(at(11))), Kind::Scheduled);
    assert_eq!(kind_of(|p| p.is_leased = true), Kind::InFlight);
    assert_eq!(kind_of(|p| p.has_workers = false), Kind::NoWorker);
    assert_eq!(kind_of(|p| p.lane.paused = Some(paused(1))), Kind::LanePaused);
    assert_eq!(kind_of(|p| p.lane.of_stream.paused = Some(paused(1))), Kind::StreamPaused);
    assert_eq!(kind_of(|p| p.lane.blocked = Some(blocked())), Kind::LaneBlocked);
    assert_eq!(kind_of(|p| p.due_at = None), Kind::Held);
    assert_eq!(explain(&tried(Status::Deferred, 451, "later"), None, now()).blocker.kind, Kind::Lost);
    assert_eq!(explain(&recipient(Status::Relayed), None, now()).blocker.kind, Kind::Ended);
}

#[test]
fn a_limit_is_named_only_where_it_holds_something_back() {
    assert_eq!(kind_of(|p| p.lane.limits.rate = Some(5.0)), Kind::Queued, "its turn is now");
    let waits = |p: &mut Place| p.ahead = Count { number: 3, is_more: false };
    assert_eq!(
        kind_of(|p| {
            p.lane.limits.rate = Some(5.0);
            waits(p);
        }),
        Kind::RateLimited
    );
    assert_eq!(
        kind_of(|p| {
            p.lane.of_stream.rate = Some(5.0);
            p.lane.of_stream.open_at = Some(at(11));
        }),
        Kind::RateLimited
    );
    assert_eq!(
        kind_of(|p| {
            p.lane.limits.rate = Some(5.0);
            p.lane.learned = Some(learned(2.0));
            waits(p);
        }),
        Kind::LearnedLimit,
        "the lower rate counts"
    );
    assert_eq!(
        kind_of(|p| {
            p.lane.limits.connections = Some(2);
            p.lane.in_use = 2;
        }),
        Kind::ConnectionsFull
    );
    assert_eq!(
        kind_of(|p| {
            p.lane.of_stream.concurrency = Some(9);
            p.lane.of_stream.in_use = 8;
        }),
        Kind::Queued
    );
}

#[test]
fn of_several_things_the_one_that_lasts_is_named() {
    assert_eq!(
        kind_of(|p| {
            p.lane.paused = Some(paused(1));
            p.lane.blocked = Some(blocked());
            p.due_at = Some(at(60));
        }),
        Kind::LanePaused
    );
    let blocked_until = |open: i64, due: i64| {
        kind_of(|p| {
            p.lane.blocked = Some(blocked());
            p.lane.open_at = Some(at(open));
            p.due_at = Some(at(due));
        })
    };
    assert_eq!((blocked_until(30, 20), blocked_until(20, 30)), (Kind::LaneBlocked, Kind::Scheduled));
    assert_eq!(
        kind_of(|p| {
            p.due_at = None;
            p.held = Some("held: 3 workers died".into());
            p.lane.paused = Some(paused(1));
        }),
        Kind::Held
    );
}

#[test]
fn a_wait_for_the_next_attempt_is_told_with_the_last_reply() {
    let mut place = place();
    place.due_at = Some(at(20));
    let told = explain(&tried(Status::Deferred, 451, "come back later"), Some(&place), now());
    assert_eq!(
        told.summary,
        "2 attempts failed for now, the last one at 1970-01-01T00:04:00Z: mx.example.test said “451 come back later”. \
         The next one is due at 1970-01-01T00:20:00Z; at 1970-01-04T00:00:00Z it is given up."
    );
    assert_eq!((told.blocker.since, told.blocker.until), (Some(at(4)), Some(at(20))));
    assert_eq!(told.blocker.reply.and_then(|reply| reply.code), Some(451));
    let estimate = told.estimate.expect("an estimate");
    assert_eq!((estimate.at, estimate.basis), (Some(at(20)), Basis::Schedule));
    assert!(told.unblock[0].call.as_ref().is_some_and(|call| call.ends_with("/retry")));
}

#[test]
fn a_pause_is_told_with_its_reason_and_who_can_end_it() {
    let mut place = place();
    place.lane.paused = Some(paused(2));
    let told = told(&place);
    assert_eq!(
        told.summary,
        "Its lane to example.test is paused since 1970-01-01T00:02:00Z (they asked us to). It has not been tried yet; \
         at 1970-01-04T00:00:00Z it is given up."
    );
    assert_eq!((told.blocker.since, told.blocker.next_attempt_at), (Some(at(2)), None));
    assert_eq!(told.estimate.map(|estimate| (estimate.at, estimate.basis)), Some((None, Basis::None)));
    assert_eq!(told.unblock[0].call.as_deref(), Some("POST /v1/lanes/lane_7/resume"));
}

#[test]
fn a_block_promises_a_probe_and_no_delivery() {
    let mut place = place();
    place.lane.blocked = Some(blocked());
    place.lane.open_at = Some(at(12));
    let told = told(&place);
    assert!(told.summary.contains("connection refused") && told.summary.contains("00:12:00Z"), "{}", told.summary);
    assert_eq!(told.blocker.next_attempt_at, Some(at(12)));
    let estimate = told.estimate.expect("an estimate");
    assert_eq!((estimate.at, estimate.basis), (None, Basis::None));
    assert!(estimate.explanation.contains("cannot be known"), "{}", estimate.explanation);
    assert!(told.unblock.iter().any(|remedy| remedy.call.as_deref() == Some("POST /v1/lanes/lane_7/reset")));
}

#[test]
fn a_rate_lets_one_reckon_when_its_turn_comes() {
    let mut place = place();
    place.lane.limits.rate = Some(0.5);
    place.lane.open_at = Some(at(11));
    place.ahead = Count { number: 60, is_more: false };
    let estimate = told(&place).estimate.expect("an estimate");
    assert_eq!((estimate.at, estimate.basis), (Some(at(13)), Basis::Limit), "{}", estimate.explanation);
    place.ahead.is_more = true;
    let estimate = told(&place).estimate.expect("an estimate");
    assert_eq!((estimate.at, estimate.basis), (None, Basis::Limit));
    assert!(estimate.explanation.starts_with("Not before 2 min from now"), "{}", estimate.explanation);
}

#[test]
fn without_a_rate_one_reckons_by_what_the_lane_did() {
    let mut place = place();
    let estimate = told(&place).estimate.expect("an estimate");
    assert_eq!((estimate.at, estimate.basis), (Some(now()), Basis::Schedule), "it is the next");

    place.ahead = Count { number: 120, is_more: false };
    let estimate = told(&place).estimate.expect("an estimate");
    assert_eq!((estimate.at, estimate.basis), (None, Basis::None), "nothing is known of the lane");

    place.pace = Some(Pace { mails: 100, events: 500, seconds: 50.0 });
    let estimate = told(&place).estimate.expect("an estimate");
    assert_eq!((estimate.at, estimate.basis), (Some(at(11)), Basis::LaneRate));
    assert_eq!(
        estimate.explanation,
        "If nothing else holds it: 120 of its lane are before it, at 2 mails a second: of the newest 500 events, 100 were mails of \
         this lane handed over, within 50 s."
    );
}

#[test]
fn an_end_is_told_with_its_reason() {
    for (recipient, words) in [
        (tried(Status::Relayed, 250, "ok"), "A relay took responsibility at 1970-01-01T00:09:00Z, after 2 attempts"),
        (tried(Status::Delivered, 250, "ok"), "mx.example.test said “250 ok”"),
        (tried(Status::Bounced, 550, "no such user"), "refused for good at 1970-01-01T00:09:00Z, after 2 attempts"),
        (tried(Status::Expired, 451, "later"), "That is no bounce. The last time: mx.example.test said “451 later”"),
        (recipient(Status::Expired), "before an attempt could be made"),
        (recipient(Status::Canceled), "called back"),
        (recipient(Status::Suppressed), "suppression list"),
        (recipient(Status::Uncertain), "it may have arrived"),
    ] {
        let told = explain(&recipient, None, now());
        assert!(told.summary.contains(words), "{}", told.summary);
        assert_eq!((told.estimate, told.blocker.since), (None, Some(at(9))));
    }
    let held = Recipient { on_uncertain: OnUncertain::Hold, ..recipient(Status::Uncertain) };
    assert!(explain(&held, None, now()).unblock[0].call.is_some(), "an operator decides");
}

#[test]
fn no_situation_is_without_words() {
    let places = [0_u32, 1].into_iter().flat_map(|bits| (0..128_u32).map(move |more| more << 1 | bits));
    for bits in places {
        let is = |n: u32| bits & 1 << n != 0;
        let mut place = place();
        place.is_leased = is(0);
        place.has_workers = is(1);
        place.due_at = if is(2) { Some(at(20)) } else { Some(at(5)) };
        place.lane.paused = is(3).then(|| paused(1));
        place.lane.blocked = is(4).then(blocked);
        place.lane.learned = is(5).then(|| learned(1.0));
        place.lane.of_stream.rate = is(6).then_some(0.1);
        place.ahead.number = i64::from(is(7));
        let told = told(&place);
        assert!(told.summary.ends_with('.') && told.summary.len() > 20, "{bits:b}: {}", told.summary);
        assert!(!told.summary.contains("  ") && !told.summary.contains(".."), "{}", told.summary);
    }
}
