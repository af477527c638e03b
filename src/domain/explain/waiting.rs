//! Explains a recipient that has not reached an end state.

use chrono::{DateTime, Utc};

use super::phrases::{attempts, before, capital, one_line, rate, said, span, time};
use super::{Blocker, Kind, Place, Recipient};
use crate::domain::lane::{NO_WORKER, RateOf, given};

/// Describes what blocks the recipient, then what else does, in a few sentences.
pub(super) fn summary(kind: Kind, recipient: &Recipient, place: &Place, now: DateTime<Utc>) -> String {
    let mut sentences = vec![main(kind, recipient, place, now)];
    sentences.extend(secondary(kind, recipient, place, now));
    if !place.has_workers && !matches!(kind, Kind::NoWorker | Kind::InFlight) {
        sentences.push(NO_WORKER.into());
    }
    sentences.retain(|sentence| !sentence.is_empty());
    sentences.join(" ")
}

fn main(kind: Kind, recipient: &Recipient, place: &Place, now: DateTime<Utc>) -> String {
    let lane = &place.lane;
    let since = place.due_at.filter(|due| *due < now).map_or_else(String::new, |due| format!(" since {}", time(due)));
    let given_up = time(place.gives_up_at);
    let due = place.due_at.map_or_else(String::new, time);
    match kind {
        Kind::Scheduled => format!("It waits for its scheduled_at: the first attempt is due at {due}."),
        Kind::RetryWait => retry_wait(recipient, place),
        Kind::PutOff => put_off(place),
        Kind::Held => format!("It waits for an operator: {}.", reason(place.held.as_deref())),
        Kind::Suspected => suspected(place, &due, now),
        Kind::Expiring if place.gives_up_at <= now => {
            format!(
                "Its time ran out at {given_up}; it becomes `expired` at the next check of its lane, within a minute."
            )
        }
        Kind::Expiring => format!("It expires at {given_up}: its time runs out before another attempt would be due."),
        Kind::InFlight | Kind::WorkerGone => in_progress(recipient, place),
        Kind::StreamPaused => lane.of_stream.paused.as_ref().map_or_else(String::new, |paused| {
            format!("Stream `{}` is paused since {}{}.", lane.stream, time(paused.at), given(paused))
        }),
        Kind::LanePaused => lane.paused.as_ref().map_or_else(String::new, |paused| {
            format!("Its lane to {} is paused since {}{}.", lane.destination(), time(paused.at), given(paused))
        }),
        Kind::LaneBlocked => lane.block().unwrap_or_default(),
        Kind::NoWorker if place.lease.is_some() => in_progress(recipient, place),
        Kind::NoWorker => format!("It is due{since}, but no worker is running (no recent heartbeat)."),
        Kind::LearnedLimit | Kind::RateLimited => {
            format!("{} {}.", lane.throttled().unwrap_or_default(), capital(&before(place.ahead)))
        }
        Kind::ConnectionsFull => format!("It is due{since}. {}.", full(place)),
        Kind::Queued => format!("It is due{since}, and {}.", before(place.ahead)),
        Kind::Lost | Kind::Ended => String::new(),
    }
}

/// Describes what else blocks it now or afterwards, its attempts so far, and when it expires.
fn secondary(kind: Kind, recipient: &Recipient, place: &Place, now: DateTime<Utc>) -> Vec<String> {
    let lane = &place.lane;
    let mut sentences = Vec::new();
    let is_paused = matches!(kind, Kind::StreamPaused | Kind::LanePaused);
    let is_block_told = kind == Kind::LaneBlocked;
    if !matches!(kind, Kind::InFlight | Kind::WorkerGone) && !is_block_told {
        sentences.extend(lane.block());
    }
    if kind == Kind::StreamPaused
        && let Some(paused) = &lane.paused
    {
        sentences.push(format!("Its lane is paused as well, since {}{}.", time(paused.at), given(paused)));
    }
    if (is_paused || is_block_told) && place.unprepared.is_some() {
        sentences.push(put_off(place));
    } else if is_paused || is_block_told || kind == Kind::NoWorker {
        sentences.push(history(recipient, place, now));
    } else if kind == Kind::Expiring {
        sentences.push(history(recipient, place, now));
        sentences.extend(expiring_behind(place, now));
    }
    if is_paused {
        sentences.push(window_during_pause(recipient, place, now));
    } else if is_block_told || kind == Kind::NoWorker {
        let end = if place.gives_up_at > now { "it is given up" } else { "it was to be given up" };
        sentences.push(format!("At {} {end}.", time(place.gives_up_at)));
    }
    sentences
}

/// Describes the last reply, when the next attempt is due, and when it expires.
fn retry_wait(recipient: &Recipient, place: &Place) -> String {
    let reply = recipient.reply.as_ref();
    let greylisted = if recipient.is_greylisted() {
        " That is greylisting: the server accepts the message at a later attempt, and an earlier one only starts its clock again."
    } else {
        ""
    };
    format!(
        "{} failed temporarily, the last one at {}: {}.{greylisted} The next one is due at {}; at {} it is given up.",
        capital(&attempts(recipient.attempts)),
        recipient.last_attempt_at.map_or_else(String::new, time),
        said(reply, recipient.mx.as_deref()),
        place.due_at.map_or_else(String::new, time),
        time(place.gives_up_at)
    )
}

/// Describes why it cannot be prepared, and when that is retried.
fn put_off(place: &Place) -> String {
    let since = place.unprepared.as_ref().map_or_else(String::new, |why| format!(" since {}", time(why.since)));
    let why = place.unprepared.as_ref().map_or_else(
        || "its domain's DKIM key or its unsubscribe link is missing".to_owned(),
        |why| one_line(&why.error),
    );
    format!(
        "It cannot be prepared for sending{since}: {why}. No attempt is counted. The next try is due at {}; at {} it is given up.",
        place.due_at.map_or_else(String::new, time),
        time(place.gives_up_at)
    )
}

/// Describes the retry window during a pause, and what `expires_at` means meanwhile.
fn window_during_pause(recipient: &Recipient, place: &Place, now: DateTime<Utc>) -> String {
    match recipient.expires_at {
        Some(at) if at == place.gives_up_at => {
            format!("Its `expires_at` still applies: it expires at {}.", time(at))
        }
        _ => {
            #[allow(clippy::cast_precision_loss, reason = "seconds of some days")]
            let left = (place.gives_up_at - now).num_seconds().max(0) as f64;
            format!("Its retry window is suspended meanwhile; {} of it remain.", span(left))
        }
    }
}

/// Describes the pause during which it expires.
fn expiring_behind(place: &Place, now: DateTime<Utc>) -> Option<String> {
    let lane = &place.lane;
    if place.gives_up_at <= now {
        return None;
    }
    match (&lane.of_stream.paused, &lane.paused) {
        (Some(paused), _) => Some(format!(
            "Stream `{}` is paused since {}{}; if it is resumed before, the message may still be sent.",
            lane.stream,
            time(paused.at),
            given(paused)
        )),
        (None, Some(paused)) => Some(format!(
            "Its lane is paused since {}{}; if it is resumed before, the message may still be sent.",
            time(paused.at),
            given(paused)
        )),
        (None, None) => None,
    }
}

/// Describes the attempts so far, and when the next one would otherwise be due.
fn history(recipient: &Recipient, place: &Place, now: DateTime<Utc>) -> String {
    let own = place.due_at.filter(|due| *due > now && *due < place.gives_up_at);
    let own = own.map_or_else(String::new, |due| format!(" Its own next attempt is due at {}.", time(due)));
    if recipient.attempts == 0 {
        return format!("It has not been tried yet.{own}");
    }
    let last = said(recipient.reply.as_ref(), recipient.mx.as_deref());
    let at = recipient.last_attempt_at.map_or_else(String::new, |at| format!(" at {}", time(at)));
    format!("{} failed temporarily, the last one{at}: {last}.{own}", capital(&attempts(recipient.attempts)))
}

/// Describes the worker that has leased it, and what happens if that worker sends no heartbeats.
fn in_progress(recipient: &Recipient, place: &Place) -> String {
    let Some(lease) = &place.lease else { return String::new() };
    let worker = lease.host.as_deref().map_or_else(|| "a worker".into(), |host| format!("worker `{host}`"));
    let number = recipient.attempts.saturating_add(1);
    if !lease.is_over() {
        let silent = if lease.is_silent() {
            format!(
                " That worker has sent no heartbeat for {}; after {} another worker takes over.",
                span(lease.silence),
                span(lease.term)
            )
        } else {
            String::new()
        };
        return format!("Attempt {number} is in progress on {worker}.{silent}");
    }
    let silence = if lease.host.is_some() {
        format!(" for {}", span(lease.silence))
    } else {
        ", and is no longer registered".into()
    };
    let gone = format!("{}, which had attempt {number} in progress, has sent no heartbeat{silence}", capital(&worker));
    if place.has_workers {
        // A worker that has just started waits for every other worker's heartbeat first.
        return format!("{gone}: another worker releases its lease within {}.", span(lease.term));
    }
    format!("{gone}, and no other worker is running: its lease is released when one starts.")
}

/// Describes why it is quarantined, and when its turn is.
fn suspected(place: &Place, due: &str, now: DateTime<Utc>) -> String {
    let workers = if place.crashes == 1 { "a worker".into() } else { format!("{} workers", place.crashes) };
    let turn =
        if place.due_at.is_some_and(|at| at > now) { format!("its turn is at {due}") } else { "it is due".into() };
    format!(
        "It was in flight when {workers} ended unexpectedly, so it is quarantined: tried in a small group or alone; {turn}. No \
         attempt is counted; after the third crash it is held."
    )
}

/// Returns the blocker as fields.
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
        // It cannot start before the lane's next probe.
        Kind::RetryWait => (recipient.last_attempt_at, due, due.max(lane.open_at.filter(|_| lane.blocked.is_some()))),
        Kind::StreamPaused | Kind::LanePaused => (paused.map(|paused| paused.at), None, None),
        Kind::LaneBlocked => (lane.blocked.as_ref().map(|blocked| blocked.since), None, due.max(lane.open_at)),
        Kind::LearnedLimit => (lane.learned.as_ref().map(|learned| learned.at), lane.opens(), due.max(lane.opens())),
        Kind::RateLimited => (due, lane.opens(), due.max(lane.opens())),
        Kind::Expiring => (recipient.last_attempt_at, Some(place.gives_up_at), None),
        Kind::PutOff => (place.unprepared.as_ref().map(|why| why.since), due, due),
        Kind::Suspected => (None, due, due),
        Kind::NoWorker if place.lease.is_some() => (None, None, None),
        Kind::ConnectionsFull | Kind::Queued | Kind::NoWorker => (due, None, due),
        Kind::WorkerGone | Kind::Held | Kind::InFlight | Kind::Lost | Kind::Ended => (None, None, None),
    };
    // A due time in the past means now, and nothing starts after the deadline.
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
            let blocked = lane.blocked.as_ref();
            let failures = blocked.map_or(0, |blocked| blocked.failures);
            let cause =
                blocked.and_then(|blocked| blocked.cause).map_or_else(String::new, |cause| format!(" ({cause})"));
            format!("block of {} after {failures} failed tries to reach it{cause}", lane.id)
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
        Kind::Suspected => format!("{} workers ended while it was in flight", place.crashes),
        Kind::WorkerGone => format!("a worker without a heartbeat for {} has ended", span(place.lease.as_ref()?.term)),
        Kind::PutOff => place.unprepared.as_ref()?.error.clone(),
        Kind::NoWorker | Kind::InFlight | Kind::Lost | Kind::Ended => return None,
    };
    Some(rule)
}

/// Describes which limit is reached, as the start of a sentence.
fn full(place: &Place) -> String {
    let lane = &place.lane;
    match (lane.limits.connections, lane.of_stream.concurrency) {
        (Some(limit), _) if lane.is_full() => {
            format!("Lane {} is at its connection limit ({limit} in use)", lane.id)
        }
        (_, Some(limit)) => format!("Stream `{}` is at its concurrency limit ({limit} in flight)", lane.stream),
        _ => format!("All connections of {} are in use", lane.id),
    }
}

/// Returns the reason in `held: 3 workers died`.
fn reason(held: Option<&str>) -> &str {
    held.map_or("no reason is known", |held| held.strip_prefix("held: ").unwrap_or(held))
}
