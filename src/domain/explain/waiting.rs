//! What is told of a recipient that has not ended.

use chrono::{DateTime, Utc};

use super::words::{attempts, before, capital, rate, reply, said, time};
use super::{Blocker, Kind, Place, Recipient};
use crate::domain::lane::{RateOf, given};

/// One or two sentences.
pub(super) fn summary(kind: Kind, recipient: &Recipient, place: &Place, now: DateTime<Utc>) -> String {
    let lane = &place.lane;
    let due = place.due_at.map_or_else(String::new, time);
    let since = place.due_at.filter(|due| *due < now).map_or_else(String::new, |due| format!(" since {}", time(due)));
    let given_up = time(place.gives_up_at);
    let last = said(recipient.reply.as_ref(), recipient.mx.as_deref());
    let state = match kind {
        Kind::Scheduled => format!("It waits for its scheduled_at: the first attempt is due at {due}."),
        Kind::RetryWait => format!(
            "{} failed for now, the last one at {}: {last}. The next one is due at {due}; at {given_up} it is given up.",
            capital(&attempts(recipient.attempts)),
            recipient.last_attempt_at.map_or_else(String::new, time)
        ),
        Kind::Held => format!("It waits for an operator: {}.", reason(place.held.as_deref())),
        Kind::InFlight => {
            let host = place.worker.as_deref().map_or_else(String::new, |host| format!(" on {host}"));
            format!("A worker{host} has it in hand: attempt {} is being made.", recipient.attempts.saturating_add(1))
        }
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
        Kind::NoWorker => format!("It is due{since}, but no worker has been heard of lately."),
        Kind::LearnedLimit | Kind::RateLimited => format!("{} {}.", lane.reason(), capital(&before(place.ahead))),
        Kind::ConnectionsFull => format!("It is due{since}, and {}.", full(place)),
        Kind::Queued => format!("It is due{since}, and {}.", before(place.ahead)),
        Kind::Lost | Kind::Ended => String::new(),
    };
    // What waits for others has a history of its own, and an end.
    match kind {
        Kind::StreamPaused | Kind::LanePaused | Kind::LaneBlocked | Kind::NoWorker => {
            let tried = if recipient.attempts == 0 {
                "It has not been tried yet".into()
            } else {
                format!("{} failed for now, the last time: {last}", capital(&attempts(recipient.attempts)))
            };
            let end = if place.gives_up_at > now { "it is given up" } else { "it was to be given up" };
            format!("{state} {tried}; at {given_up} {end}.")
        }
        _ => state,
    }
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
        Kind::ConnectionsFull | Kind::Queued | Kind::NoWorker => (due, None, due),
        Kind::Held | Kind::InFlight | Kind::Lost | Kind::Ended => (None, None, None),
    };
    // Due in the past is due now.
    let next_attempt_at = next_attempt_at.map(|at| at.max(now));
    Blocker { kind, since, until, rule: rule(kind, place), reply: recipient.reply.clone(), next_attempt_at }
}

fn rule(kind: Kind, place: &Place) -> Option<String> {
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
        Kind::LearnedLimit | Kind::RateLimited => match lane.effective_rate()? {
            (per_second, RateOf::Learned) => format!("learned rate of {}: {}", lane.id, rate(per_second)),
            (per_second, RateOf::Lane) => format!("rate of {}: {}", lane.id, rate(per_second)),
            (per_second, RateOf::Stream) => format!("rate of stream {}: {}", lane.stream, rate(per_second)),
        },
        Kind::ConnectionsFull => full(place),
        Kind::Held => place.held.clone()?,
        Kind::Queued => "the order of the lane: what is due first goes first".into(),
        Kind::NoWorker | Kind::InFlight | Kind::Lost | Kind::Ended => return None,
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
