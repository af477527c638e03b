//! Tests of explanations.

mod estimates;
mod stuck;

use chrono::TimeDelta;

use super::*;
use crate::domain::lane::unreachable::Cause;
use crate::domain::lane::{self, Learned, Paused, Unreachable};
use crate::domain::limits::LaneLimits;

fn at(minute: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::minutes(minute)
}

/// The current time: minute ten.
fn now() -> DateTime<Utc> {
    at(10)
}

fn entry() -> QueueEntry {
    QueueEntry {
        lane: lane::example(),
        due_at: Some(at(5)),
        gives_up_at: at(4_320),
        lease: None,
        crashes: 0,
        held: None,
        is_rescheduled: false,
        unprepared: None,
        ahead: Some(Count::default()),
        throughput: None,
        has_workers: true,
        guarded_since: None,
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
        reported_at: None,
        complained_at: None,
        reply: None,
        mx: None,
        tls: None,
        on_uncertain: OnUncertain::Retry,
        expires_at: None,
        suppression: None,
        bounce: None,
    }
}

fn tried(status: Status, code: i16, text: &str) -> Recipient {
    Recipient {
        attempts: 2,
        last_attempt_at: Some(at(4)),
        reply: Some(SmtpReply { code: Some(code), enhanced: None, text: text.into() }),
        mx: Some("mx.example.test".into()),
        ..recipient(status)
    }
}

fn explained(entry: &QueueEntry) -> Explanation {
    explain(&recipient(Status::Queued), Some(entry), now())
}

fn kind_of(change: impl FnOnce(&mut QueueEntry)) -> Kind {
    let mut entry = entry();
    change(&mut entry);
    explained(&entry).blocker.kind
}

fn messages(number: i64) -> Count {
    Count { number, is_more: false }
}

/// A lease of 30 seconds whose worker sent its last heartbeat `silence` seconds ago.
fn lease(silence: f64) -> Lease {
    Lease { host: Some("mail1".into()), silence, term: 30.0 }
}

fn paused(minute: i64) -> Paused {
    Paused { at: at(minute), reason: Some("they asked us to".into()) }
}

fn unreachable() -> Unreachable {
    Unreachable {
        since: at(3),
        failures: 2,
        reply: Some("connection refused".into()),
        cause: Some(Cause::ConnectionRefused),
        host: Some("mx.example.test".into()),
    }
}

fn learned(rate: f64) -> Learned {
    Learned { rate, ceiling: 40.0, at: at(8), raised_at: None, reply: Some("4.7.0 slow down".into()) }
}

#[test]
fn each_blocker_has_its_kind() {
    assert_eq!(kind_of(|_| ()), Kind::Queued);
    assert_eq!(kind_of(|p| p.due_at = Some(at(11))), Kind::Scheduled);
    assert_eq!(kind_of(|p| p.lease = Some(lease(1.0))), Kind::InFlight);
    assert_eq!(kind_of(|p| p.has_workers = false), Kind::NoWorker);
    assert_eq!(kind_of(|p| (p.guarded_since, p.gives_up_at) = (Some(at(1)), at(2))), Kind::RestoreGuard);
    assert_eq!(kind_of(|p| p.lane.paused = Some(paused(1))), Kind::LanePaused);
    assert_eq!(kind_of(|p| p.lane.stream_limits.paused = Some(paused(1))), Kind::StreamPaused);
    assert_eq!(kind_of(|p| p.lane.unreachable = Some(unreachable())), Kind::LaneBlocked);
    assert_eq!(kind_of(|p| p.due_at = None), Kind::Held);
    assert_eq!(explain(&tried(Status::Deferred, 451, "later"), None, now()).blocker.kind, Kind::Lost);
    assert_eq!(explain(&recipient(Status::Relayed), None, now()).blocker.kind, Kind::Ended);
}

#[test]
fn limit_is_named_only_if_it_blocks() {
    assert_eq!(kind_of(|p| p.lane.limits.rate = Some(5.0)), Kind::Queued, "the rate is not exhausted");
    let is_behind = |p: &mut QueueEntry| p.ahead = Some(messages(3));
    assert_eq!(
        kind_of(|p| {
            p.lane.limits.rate = Some(5.0);
            is_behind(p);
        }),
        Kind::RateLimited
    );
    assert_eq!(
        kind_of(|p| {
            p.lane.stream_limits.rate = Some(5.0);
            p.lane.stream_limits.open_at = Some(at(11));
        }),
        Kind::RateLimited
    );
    assert_eq!(
        kind_of(|p| {
            p.lane.limits.rate = Some(5.0);
            p.lane.learned = Some(learned(2.0));
            is_behind(p);
        }),
        Kind::LearnedLimit,
        "the lower rate applies"
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
            p.lane.stream_limits.concurrency = Some(9);
            p.lane.stream_limits.in_use = 8;
        }),
        Kind::Queued
    );
}

#[test]
fn longest_lasting_blocker_is_named() {
    assert_eq!(
        kind_of(|p| {
            p.lane.paused = Some(paused(1));
            p.lane.unreachable = Some(unreachable());
            p.due_at = Some(at(60));
        }),
        Kind::LanePaused
    );
    let unreachable_until = |open: i64, due: i64| {
        kind_of(|p| {
            p.lane.unreachable = Some(unreachable());
            p.lane.open_at = Some(at(open));
            p.due_at = Some(at(due));
        })
    };
    assert_eq!((unreachable_until(30, 20), unreachable_until(20, 30)), (Kind::LaneBlocked, Kind::Scheduled));
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
fn connection_limit_is_named_before_a_rate_that_opens_soon() {
    let full = |seconds: i64| {
        kind_of(|p| {
            p.lane.limits = LaneLimits { connections: Some(2), rate: Some(5.0), messages_per_connection: None };
            p.lane.in_use = 2;
            p.lane.open_at = Some(now() + TimeDelta::seconds(seconds));
            p.ahead = Some(messages(40));
        })
    };
    assert_eq!((full(0), full(60)), (Kind::ConnectionsFull, Kind::RateLimited));
}

#[test]
fn rate_that_opens_later_is_named() {
    let mut entry = entry();
    entry.lane.limits.rate = Some(1.0);
    entry.lane.stream_limits.rate = Some(8.0);
    entry.lane.stream_limits.open_at = Some(at(11));
    assert_eq!(explained(&entry).blocker.rule.as_deref(), Some("rate of stream bulk: 8 messages per second"));
    entry.lane.stream_limits.open_at = None;
    entry.ahead = Some(messages(1));
    assert_eq!(explained(&entry).blocker.rule.as_deref(), Some("rate of lane_7: 1 message per second"));
}

#[test]
fn stream_rate_gives_no_estimate() {
    let mut entry = entry();
    entry.lane.stream_limits.rate = Some(2.0);
    entry.ahead = Some(messages(60));
    let estimate = explained(&entry).estimate.expect("an estimate");
    assert_eq!((estimate.at, estimate.basis), (None, Basis::Limit));
    assert!(estimate.explanation.contains("which is shared with the stream's other lanes"), "{}", estimate.explanation);
}

#[test]
fn lease_of_a_silent_worker_is_explained() {
    let mut entry = entry();
    entry.lease = Some(lease(1.0));
    assert_eq!(explained(&entry).summary, "Attempt 1 is in progress on worker `mail1`.");
    entry.lease = Some(lease(20.0));
    let silent = explained(&entry);
    assert_eq!(silent.blocker.kind, Kind::InFlight);
    assert!(
        silent.summary.ends_with("That worker has sent no heartbeat for 20 s; after 30 s another worker takes over.")
    );

    entry.lease = Some(lease(31.0));
    let gone = explained(&entry);
    assert_eq!((gone.blocker.kind, gone.blocker.next_attempt_at), (Kind::WorkerGone, None));
    assert_eq!(
        gone.summary,
        "Worker `mail1`, which had attempt 1 in progress, has sent no heartbeat for 31 s: another worker releases its lease within \
         30 s."
    );
    entry.has_workers = false;
    let alone = explained(&entry);
    assert_eq!((alone.blocker.kind, alone.unblock.len()), (Kind::NoWorker, 1));
    assert!(
        alone.summary.contains("no other worker is running: its lease is released when one starts"),
        "{}",
        alone.summary
    );
}

#[test]
fn no_estimate_without_workers() {
    let mut entry = entry();
    entry.has_workers = false;
    entry.lane.unreachable = Some(unreachable());
    entry.lane.limits.rate = Some(0.1);
    entry.ahead = Some(messages(9));
    assert_eq!(
        explained(&entry).blocker.kind,
        Kind::NoWorker,
        "an unreachable destination and a limit do not last as long"
    );
    entry.due_at = Some(at(60));
    let later = explained(&entry);
    assert_eq!((later.blocker.kind, later.blocker.until), (Kind::Scheduled, Some(at(60))));
    assert!(later.summary.ends_with("No worker is running (no recent heartbeat), so nothing is sent."));
    assert_eq!(later.estimate.and_then(|estimate| estimate.at), None);
    assert!(later.unblock.iter().any(|remedy| remedy.action.starts_with("Start a worker")));
}

#[test]
fn recipient_due_at_its_deadline_is_expiring() {
    let mut entry = entry();
    (entry.due_at, entry.gives_up_at) = (Some(at(20)), at(20));
    let explained_at_deadline = |entry: &QueueEntry| {
        let recipient = Recipient { expires_at: Some(at(20)), ..tried(Status::Deferred, 451, "later") };
        explain(&recipient, Some(entry), now())
    };
    let explained = explained_at_deadline(&entry);
    assert_eq!((explained.blocker.kind, explained.blocker.until), (Kind::Expiring, Some(at(20))));
    assert_eq!(explained.blocker.next_attempt_at, None);
    assert_eq!(explained.blocker.rule.as_deref(), Some("the message's expires_at"));
    assert!(explained.summary.starts_with("It expires at 1970-01-01T00:20:00Z"), "{}", explained.summary);
    assert_eq!(explained.estimate.and_then(|estimate| estimate.at), None);
    assert!(
        explained.unblock[0].call.as_ref().is_some_and(|call| call.ends_with("/retry")),
        "a retry starts another attempt"
    );

    entry.lane.paused = Some(paused(1));
    assert_eq!(explained_at_deadline(&entry).blocker.kind, Kind::Expiring, "it also expires during a pause");
    (entry.due_at, entry.gives_up_at) = (Some(at(5)), at(9));
    let over = explained_at_deadline(&entry);
    assert!(over.summary.starts_with("Its time ran out at 1970-01-01T00:09:00Z"), "{}", over.summary);
}

#[test]
fn time_after_the_deadline_is_not_estimated() {
    let mut entry = entry();
    entry.lane.limits.rate = Some(1.0 / 60.0);
    (entry.ahead, entry.gives_up_at) = (Some(messages(60)), at(30));
    let explained = explained(&entry);
    assert_eq!(explained.estimate.as_ref().and_then(|estimate| estimate.at), None);
    let explanation = explained.estimate.map(|estimate| estimate.explanation).unwrap_or_default();
    assert_eq!(
        explanation,
        "It would be sent at 1970-01-01T01:10:00Z, but its time runs out before that, at 1970-01-01T00:30:00Z."
    );

    let unreachable_until = |open: i64| {
        let mut entry = super::tests::entry();
        entry.lane.unreachable = Some(unreachable());
        (entry.lane.open_at, entry.gives_up_at) = (Some(at(open)), at(30));
        explain(&recipient(Status::Queued), Some(&entry), now()).blocker.next_attempt_at
    };
    assert_eq!((unreachable_until(29), unreachable_until(30)), (Some(at(29)), None));
}

#[test]
fn quarantined_recipient_is_not_explained_as_scheduled() {
    let mut entry = entry();
    (entry.due_at, entry.crashes) = (Some(at(11)), 1);
    let explained = explained(&entry);
    assert_eq!((explained.blocker.kind, explained.blocker.until), (Kind::Quarantined, Some(at(11))));
    assert_eq!(
        explained.summary,
        "It was in flight when a worker ended unexpectedly, so it is quarantined: tried in a small group or alone; it is tried at \
         1970-01-01T00:11:00Z. No attempt is counted; after the third crash it is held."
    );
    assert_eq!(kind_of(|p| p.crashes = 2), Kind::Quarantined);
}

#[test]
fn unprepared_recipient_is_not_explained_as_scheduled() {
    let mut entry = entry();
    (entry.due_at, entry.is_rescheduled) = (Some(at(11)), true);
    let explained = explained(&entry);
    assert_eq!((explained.blocker.kind, explained.blocker.next_attempt_at), (Kind::Unprepared, Some(at(11))));
    assert!(explained.summary.contains("No attempt is counted. The next try is due at 1970-01-01T00:11:00Z"));
    assert_eq!((explained.unblock.len(), explained.estimate.and_then(|estimate| estimate.at)), (2, None));
}

#[test]
fn uncounted_queue_gives_no_estimate() {
    let mut entry = entry();
    entry.ahead = None;
    let queued = explained(&entry);
    assert_eq!(queued.blocker.kind, Kind::Queued);
    assert_eq!(queued.estimate.and_then(|estimate| estimate.at), None);
    entry.lane.limits.rate = Some(0.5);
    entry.lane.open_at = Some(at(11));
    let limited = explained(&entry);
    let estimate = limited.estimate.expect("an estimate");
    assert_eq!((estimate.at, estimate.basis), (None, Basis::Limit));
    assert!(estimate.explanation.starts_with("Not before 1970-01-01T00:11:00Z"), "{}", estimate.explanation);
}

#[test]
fn retry_wait_names_the_last_reply() {
    let mut entry = entry();
    entry.due_at = Some(at(20));
    let explained = explain(&tried(Status::Deferred, 451, "come back later"), Some(&entry), now());
    assert_eq!(
        explained.summary,
        "2 attempts failed temporarily, the last one at 1970-01-01T00:04:00Z: mx.example.test said “451 come back later”. \
         The next one is due at 1970-01-01T00:20:00Z; it expires at 1970-01-04T00:00:00Z."
    );
    assert_eq!((explained.blocker.since, explained.blocker.until), (Some(at(4)), Some(at(20))));
    assert_eq!(explained.blocker.reply.and_then(|reply| reply.code), Some(451));
    let estimate = explained.estimate.expect("an estimate");
    assert_eq!((estimate.at, estimate.basis), (Some(at(20)), Basis::Schedule));
    assert!(explained.unblock[0].call.as_ref().is_some_and(|call| call.ends_with("/retry")));
}

#[test]
fn pause_names_its_reason_and_its_remedy() {
    let mut entry = entry();
    entry.lane.paused = Some(paused(2));
    let explained = explained(&entry);
    assert_eq!(
        explained.summary,
        "Its lane to example.test is paused since 1970-01-01T00:02:00Z (they asked us to). It has not been tried yet. \
         Its retry window is suspended during the pause; 3 days remain."
    );
    assert_eq!((explained.blocker.since, explained.blocker.next_attempt_at), (Some(at(2)), None));
    assert_eq!(explained.estimate.map(|estimate| (estimate.at, estimate.basis)), Some((None, Basis::None)));
    assert_eq!(explained.unblock[0].call.as_deref(), Some("POST /v1/lanes/lane_7/resume"));
}

#[test]
fn unreachable_destination_names_the_next_probe() {
    let mut entry = entry();
    entry.lane.unreachable = Some(unreachable());
    entry.lane.open_at = Some(at(12));
    let explained = explained(&entry);
    assert!(
        explained.summary.contains("connection refused") && explained.summary.contains("00:12:00Z"),
        "{}",
        explained.summary
    );
    assert_eq!(explained.blocker.next_attempt_at, Some(at(12)));
    let estimate = explained.estimate.expect("an estimate");
    assert_eq!((estimate.at, estimate.basis), (None, Basis::None));
    assert!(estimate.explanation.contains("cannot be known"), "{}", estimate.explanation);
    assert!(explained.unblock.iter().any(|remedy| remedy.call.as_deref() == Some("POST /v1/lanes/lane_7/reset")));
}

#[test]
fn end_state_names_its_reason() {
    for (recipient, text) in [
        (tried(Status::Relayed, 250, "ok"), "The relay accepted the message at 1970-01-01T00:09:00Z, after 2 attempts"),
        (tried(Status::Delivered, 250, "ok"), "mx.example.test said “250 ok”"),
        (tried(Status::Bounced, 550, "no such user"), "refused permanently at 1970-01-01T00:09:00Z, after 2 attempts"),
        (
            tried(Status::Expired, 451, "later"),
            "This is not a bounce. The last reply: mx.example.test said “451 later”",
        ),
        (recipient(Status::Expired), "before an attempt could be made"),
        (recipient(Status::Canceled), "canceled"),
        (recipient(Status::Suppressed), "suppression list"),
        (recipient(Status::Uncertain), "it may have arrived"),
    ] {
        let explained = explain(&recipient, None, now());
        assert!(explained.summary.contains(text), "{}", explained.summary);
        assert_eq!((explained.estimate, explained.blocker.since), (None, Some(at(9))));
    }
    let held = Recipient { on_uncertain: OnUncertain::Hold, ..recipient(Status::Uncertain) };
    assert!(explain(&held, None, now()).unblock[0].call.is_some(), "an operator may retry");
}

#[test]
fn every_combination_of_blockers_has_a_summary() {
    let entries = [0_u32, 1].into_iter().flat_map(|bits| (0..128_u32).map(move |more| more << 1 | bits));
    for bits in entries {
        let is = |n: u32| bits & 1 << n != 0;
        let mut entry = entry();
        entry.lease = is(0).then(|| lease(1.0));
        entry.has_workers = is(1);
        entry.due_at = if is(2) { Some(at(20)) } else { Some(at(5)) };
        entry.lane.paused = is(3).then(|| paused(1));
        entry.lane.unreachable = is(4).then(unreachable);
        entry.lane.learned = is(5).then(|| learned(1.0));
        entry.lane.stream_limits.rate = is(6).then_some(0.1);
        entry.ahead = Some(messages(i64::from(is(7))));
        let explained = explained(&entry);
        assert!(explained.summary.ends_with('.') && explained.summary.len() > 20, "{bits:b}: {}", explained.summary);
        assert!(!explained.summary.contains("  ") && !explained.summary.contains(".."), "{}", explained.summary);
    }
}
