//! What is told of a recipient that has not ended.

use chrono::{DateTime, Utc};

use super::words::{attempts, before, capital, rate, reply, said, span, time};
use super::{Blocker, Kind, Place, Recipient};
use crate::domain::lane::{NO_WORKER, RateOf, given};

/// One or two sentences.
pub(super) fn summary(kind: Kind, recipient: &Recipient, place: &Place, now: DateTime<Utc>) -> String {
    let lane = &place.lane;
    let due = place.due_at.map_or_else(String::new, time);
    let since = place.due_at.filter(|due| *due < now).map_or_else(String::new, |due| format!(" since {}", time(due)));
    let given_up = time(place.gives_up_at);
    let state = match kind {
        Kind::Scheduled => format!("It waits for its scheduled_at: the first attempt is due at {due}."),
        Kind::RetryWait => format!(
            "{} failed for now, the last one at {}: {}. The next one is due at {due}; at {given_up} it is given up.",
            capital(&attempts(recipient.attempts)),
            recipient.last_attempt_at.map_or_else(String::new, time),
            said(recipient.reply.as_ref(), recipient.mx.as_deref())
        ),
        Kind::PutOff => format!(
            "Postrider could not make it ready: it has no key to sign it with, or nothing to make its link to unsubscribe by \
             with. That counts as no attempt. It is looked at again at {due}; at {given_up} it is given up."
        ),
        Kind::Held => format!("It waits for an operator: {}.", reason(place.held.as_deref())),
        Kind::Suspected => suspected(place, &due, now),
        Kind::Expiring if place.gives_up_at <= now => {
            format!("Its time ran out at {given_up}; it ends as expired when its place in the lane is looked at next.")
        }
        Kind::Expiring => format!("It expires at {given_up}: its time runs out before another attempt would be due."),
        Kind::InFlight | Kind::WorkerGone => in_hand(recipient, place),
        Kind::StreamPaused => lane.of_stream.paused.as_ref().map_or_else(String::new, |paused| {
            format!("Stream {} is paused since {}{}.", lane.stream, time(paused.at), given(paused))
        }),
        Kind::LanePaused => lane.paused.as_ref().map_or_else(String::new, |paused| {
            format!("Its lane to {} is paused since {}{}.", lane.destination(), time(paused.at), given(paused))
        }),
        Kind::LaneBlocked => lane.blocked.as_ref().map_or_else(String::new, |blocked| {
            let probe = lane.open_at.map_or_else(|| "now".into(), |at| format!("at {}", time(at)));
            let heard = reply(blocked.reply.as_deref());
            let (to, since) = (lane.destination(), time(blocked.since));
            format!("Mail to {to} cannot be handed over since {since}{heard}. The next probe is due {probe}.")
        }),
        Kind::NoWorker if place.lease.is_some() => in_hand(recipient, place),
        Kind::NoWorker => format!("It is due{since}, but no worker has been heard of lately."),
        Kind::LearnedLimit | Kind::RateLimited => {
            format!("{} {}.", lane.slowed().unwrap_or_default(), capital(&before(place.ahead)))
        }
        Kind::ConnectionsFull => format!("It is due{since}, and {}.", full(place)),
        Kind::Queued => format!("It is due{since}, and {}.", before(place.ahead)),
        Kind::Lost | Kind::Ended => String::new(),
    };
    let state = match kind {
        Kind::NoWorker | Kind::InFlight => state,
        _ if !place.has_workers => format!("{state} {NO_WORKER}"),
        _ => state,
    };
    // What waits for others has a history of its own, and an end.
    match kind {
        Kind::StreamPaused | Kind::LanePaused | Kind::LaneBlocked | Kind::NoWorker => {
            let end = if place.gives_up_at > now { "it is given up" } else { "it was to be given up" };
            format!("{state} {}; at {given_up} {end}.", history(recipient))
        }
        Kind::Expiring => format!("{state} {}.", history(recipient)),
        _ => state,
    }
}

/// The attempts so far.
fn history(recipient: &Recipient) -> String {
    if recipient.attempts == 0 {
        return "It has not been tried yet".into();
    }
    let last = said(recipient.reply.as_ref(), recipient.mx.as_deref());
    format!("{} failed for now, the last time: {last}", capital(&attempts(recipient.attempts)))
}

/// In whose hand it is, and what becomes of it where nothing is heard of that one.
fn in_hand(recipient: &Recipient, place: &Place) -> String {
    let Some(lease) = &place.lease else { return String::new() };
    let host = lease.host.as_deref().map_or_else(String::new, |host| format!(" on {host}"));
    let number = recipient.attempts.saturating_add(1);
    if !lease.is_over() {
        let heard = if lease.is_silent() {
            format!(
                " Nothing has been heard of that worker for {}; after {} others take over.",
                span(lease.silence),
                span(lease.term)
            )
        } else {
            String::new()
        };
        return format!("A worker{host} has it in hand: attempt {number} is being made.{heard}");
    }
    let gone = format!("The worker{host} that had it in hand for attempt {number} has not been heard of");
    let gone = if lease.host.is_some() { format!("{gone} for {}", span(lease.silence)) } else { gone };
    if place.has_workers {
        // A worker that has just begun lets everybody speak before it judges.
        return format!("{gone} and counts as gone: another frees it within {}.", span(lease.term));
    }
    format!("{gone}, and no other worker has been either: it is freed when one runs.")
}

/// Why it is treated with care, and when its turn is.
fn suspected(place: &Place, due: &str, now: DateTime<Utc>) -> String {
    let workers = if place.crashes == 1 { "a worker".into() } else { format!("{} workers", place.crashes) };
    let turn =
        if place.due_at.is_some_and(|at| at > now) { format!("its turn is at {due}") } else { "it is due".into() };
    format!(
        "It was in hand when {workers} ended unexpectedly, so that it is tried beside few others or alone: {turn}. That counts \
         as no attempt."
    )
}

/// The same in fields.
pub(super) fn blocker(kind: Kind, recipient: &Recipient, place: &Place, now: DateTime<Utc>) -> Blocker {
    let lane = &place.lane;
    let due = place.due_at;
    let paused = match kind {
        Kind::StreamPaused => lane.of_stream.paused.as_ref(),
        Kind::LanePaused => lane.paused.as_ref(),
        _ => None,
    };
    let (since, until, next_attempt_at) = match kind {
        Kind::Scheduled => (Some(recipient.created_at), due, due),
        Kind::RetryWait => (recipient.last_attempt_at, due, due),
        Kind::StreamPaused | Kind::LanePaused => (paused.map(|paused| paused.at), None, None),
        Kind::LaneBlocked => (lane.blocked.as_ref().map(|blocked| blocked.since), None, due.max(lane.open_at)),
        Kind::LearnedLimit => (lane.learned.as_ref().map(|learned| learned.at), lane.opens(), due.max(lane.opens())),
        Kind::RateLimited => (due, lane.opens(), due.max(lane.opens())),
        Kind::Expiring => (recipient.last_attempt_at, Some(place.gives_up_at), None),
        Kind::Suspected | Kind::PutOff => (None, due, due),
        Kind::NoWorker if place.lease.is_some() => (None, None, None),
        Kind::ConnectionsFull | Kind::Queued | Kind::NoWorker => (due, None, due),
        Kind::WorkerGone | Kind::Held | Kind::InFlight | Kind::Lost | Kind::Ended => (None, None, None),
    };
    // Due in the past is due now, and nothing starts once its time has run out.
    let next_attempt_at = next_attempt_at.map(|at| at.max(now)).filter(|at| *at < place.gives_up_at);
    Blocker { kind, since, until, rule: rule(kind, recipient, place), reply: recipient.reply.clone(), next_attempt_at }
}

fn rule(kind: Kind, recipient: &Recipient, place: &Place) -> Option<String> {
    let lane = &place.lane;
    let rule = match kind {
        Kind::Scheduled => "the message's scheduled_at".into(),
        Kind::RetryWait => format!("retry_schedule of stream {}", lane.stream),
        Kind::StreamPaused => format!("pause of stream {}", lane.stream),
        Kind::LanePaused => format!("pause of {}", lane.id),
        Kind::LaneBlocked => {
            let failures = lane.blocked.as_ref().map_or(0, |blocked| blocked.failures);
            format!("block of {} after {failures} failed tries to reach it", lane.id)
        }
        Kind::LearnedLimit | Kind::RateLimited => match lane.holding_rate()? {
            (per_second, RateOf::Learned) => format!("learned rate of {}: {}", lane.id, rate(per_second)),
            (per_second, RateOf::Lane) => format!("rate of {}: {}", lane.id, rate(per_second)),
            (per_second, RateOf::Stream) => format!("rate of stream {}: {}", lane.stream, rate(per_second)),
        },
        Kind::ConnectionsFull => full(place),
        Kind::Held => place.held.clone()?,
        Kind::Queued => "the order of the lane: what is due first goes first".into(),
        Kind::Expiring if recipient.expires_at == Some(place.gives_up_at) => "the message's expires_at".into(),
        Kind::Expiring => format!("retry_window of stream {}", lane.stream),
        Kind::Suspected => format!("{} workers ended while they had it in hand", place.crashes),
        Kind::WorkerGone => format!("a worker that is silent for {} has ended", span(place.lease.as_ref()?.term)),
        Kind::PutOff | Kind::NoWorker | Kind::InFlight | Kind::Lost | Kind::Ended => return None,
    };
    Some(rule)
}

/// Which places are taken.
fn full(place: &Place) -> String {
    let lane = &place.lane;
    match (lane.limits.connections, lane.of_stream.concurrency) {
        (Some(limit), _) if lane.is_full() => {
            format!("all {limit} connections that {} may have are in use", lane.id)
        }
        (_, Some(limit)) => format!("all {limit} mails that stream {} may have in flight are", lane.stream),
        _ => format!("all connections of {} are in use", lane.id),
    }
}

/// `held: 3 workers died` without its first word.
fn reason(held: Option<&str>) -> &str {
    held.map_or("no reason is known", |held| held.strip_prefix("held: ").unwrap_or(held))
}
