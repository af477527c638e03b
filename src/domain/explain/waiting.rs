//! Explains a recipient that has not reached an end state.

use chrono::{DateTime, Utc};

use super::phrases::{attempts, before, capitalised, one_line, rate, server_reply, span, time};
use super::{Blocker, Kind, QueueEntry, Recipient};
use crate::domain::lane::{NO_WORKER, RateSource, pause_reason};

/// Describes what blocks the recipient, and then the other blockers, in a few sentences.
pub(super) fn summary(kind: Kind, recipient: &Recipient, entry: &QueueEntry, now: DateTime<Utc>) -> String {
    let mut sentences = vec![main(kind, recipient, entry, now)];
    sentences.extend(secondary(kind, recipient, entry, now));
    if !entry.has_workers && !matches!(kind, Kind::NoWorker | Kind::InFlight) {
        sentences.push(NO_WORKER.into());
    }
    sentences.retain(|sentence| !sentence.is_empty());
    sentences.join(" ")
}

fn main(kind: Kind, recipient: &Recipient, entry: &QueueEntry, now: DateTime<Utc>) -> String {
    let lane = &entry.lane;
    let since = entry.due_at.filter(|due| *due < now).map_or_else(String::new, |due| format!(" since {}", time(due)));
    let deadline = time(entry.gives_up_at);
    let due = entry.due_at.map_or_else(String::new, time);
    match kind {
        Kind::Scheduled => format!("It waits for its `scheduled_at`: the first attempt is due at {due}."),
        Kind::RetryWait => retry_wait(recipient, entry),
        Kind::Unprepared => not_prepared(entry),
        Kind::Held => format!("It waits for an operator: {}.", reason(entry.held.as_deref())),
        Kind::RestoreGuard => format!(
            "Nothing has been sent since {}: the restore guard holds, or cannot check the database. Run `postrider doctor`.",
            entry.guarded_since.map_or_else(String::new, time)
        ),
        Kind::Quarantined => quarantined(entry, &due, now),
        Kind::Expiring if entry.gives_up_at <= now => {
            format!(
                "Its time ran out at {deadline}; it becomes `expired` at the next check of its lane, within a minute."
            )
        }
        Kind::Expiring => format!("It expires at {deadline}: its time runs out before another attempt would be due."),
        Kind::InFlight | Kind::WorkerGone => in_progress(recipient, entry),
        Kind::TenantSuspended => lane.stream_limits.suspended.as_ref().map_or_else(String::new, |suspended| {
            format!("The tenant has been suspended since {}{}.", time(suspended.at), pause_reason(suspended))
        }),
        Kind::StreamPaused => lane.stream_limits.paused.as_ref().map_or_else(String::new, |paused| {
            format!("Stream `{}` is paused since {}{}.", lane.stream, time(paused.at), pause_reason(paused))
        }),
        Kind::LanePaused => lane.paused.as_ref().map_or_else(String::new, |paused| {
            format!("Its lane to {} is paused since {}{}.", lane.destination(), time(paused.at), pause_reason(paused))
        }),
        Kind::LaneBlocked => lane.unreachable_sentence().unwrap_or_default(),
        Kind::NoWorker if entry.lease.is_some() => in_progress(recipient, entry),
        Kind::NoWorker => format!("It is due{since}, but no worker is running (no recent heartbeat)."),
        Kind::LearnedLimit | Kind::RateLimited => {
            format!("{} {}.", lane.throttled_sentence().unwrap_or_default(), capitalised(&before(entry.ahead)))
        }
        Kind::ConnectionsFull => format!("It is due{since}. {}.", full(entry)),
        Kind::Queued => format!("It is due{since}, and {}.", before(entry.ahead)),
        Kind::Lost | Kind::Ended => String::new(),
    }
}

/// Describes the other blockers, the attempts so far, and the expiry.
fn secondary(kind: Kind, recipient: &Recipient, entry: &QueueEntry, now: DateTime<Utc>) -> Vec<String> {
    let lane = &entry.lane;
    let mut sentences = Vec::new();
    let is_paused = matches!(kind, Kind::TenantSuspended | Kind::StreamPaused | Kind::LanePaused);
    let is_unreachable = kind == Kind::LaneBlocked;
    if !matches!(kind, Kind::InFlight | Kind::WorkerGone) && !is_unreachable {
        sentences.extend(lane.unreachable_sentence());
    }
    if kind == Kind::StreamPaused
        && let Some(paused) = &lane.paused
    {
        sentences.push(format!("Its lane is paused as well, since {}{}.", time(paused.at), pause_reason(paused)));
    }
    if (is_paused || is_unreachable) && entry.unprepared.is_some() {
        sentences.push(not_prepared(entry));
    } else if is_paused || is_unreachable || kind == Kind::NoWorker {
        sentences.push(history(recipient, entry, now));
    } else if kind == Kind::Expiring {
        sentences.push(history(recipient, entry, now));
        sentences.extend(expiring_during_pause(entry, now));
    }
    if is_paused {
        sentences.push(window_during_pause(recipient, entry, now));
    } else if is_unreachable || kind == Kind::NoWorker {
        let verb = if entry.gives_up_at > now { "expires" } else { "was due to expire" };
        sentences.push(format!("It {verb} at {}.", time(entry.gives_up_at)));
    }
    sentences
}

/// Describes the last reply, the time of the next attempt, and the expiry.
fn retry_wait(recipient: &Recipient, entry: &QueueEntry) -> String {
    let reply = recipient.reply.as_ref();
    let greylisted = if recipient.is_greylisted() {
        " That is greylisting: the server accepts the message at a later attempt; an attempt before that only restarts the wait."
    } else {
        ""
    };
    format!(
        "{} failed temporarily, the last one at {}: {}.{greylisted} The next one is due at {}; it expires at {}.",
        capitalised(&attempts(recipient.attempts)),
        recipient.last_attempt_at.map_or_else(String::new, time),
        server_reply(reply, recipient.mx.as_deref()),
        entry.due_at.map_or_else(String::new, time),
        time(entry.gives_up_at)
    )
}

/// Describes why the message cannot be prepared for sending, and when preparation is retried.
fn not_prepared(entry: &QueueEntry) -> String {
    let since = entry.unprepared.as_ref().map_or_else(String::new, |why| format!(" since {}", time(why.since)));
    let why = entry.unprepared.as_ref().map_or_else(
        || "its domain's DKIM key or its unsubscribe link is missing".to_owned(),
        |why| one_line(&why.error),
    );
    format!(
        "It cannot be prepared for sending{since}: {why}. No attempt is counted. The next try is due at {}; it expires at {}.",
        entry.due_at.map_or_else(String::new, time),
        time(entry.gives_up_at)
    )
}

/// Describes the retry window or `expires_at` during a pause.
fn window_during_pause(recipient: &Recipient, entry: &QueueEntry, now: DateTime<Utc>) -> String {
    match recipient.expires_at {
        Some(at) if at == entry.gives_up_at => {
            format!("Its `expires_at` still applies: it expires at {}.", time(at))
        }
        _ => {
            #[allow(clippy::cast_precision_loss, reason = "a few days in seconds")]
            let left = (entry.gives_up_at - now).num_seconds().max(0) as f64;
            format!("Its retry window is suspended during the pause; {} remain.", span(left))
        }
    }
}

/// Describes the pause during which the recipient expires.
fn expiring_during_pause(entry: &QueueEntry, now: DateTime<Utc>) -> Option<String> {
    let lane = &entry.lane;
    if entry.gives_up_at <= now {
        return None;
    }
    if let Some(suspended) = &lane.stream_limits.suspended {
        return Some(format!(
            "The tenant has been suspended since {}{}; if it is resumed before that, the message may still be sent.",
            time(suspended.at),
            pause_reason(suspended)
        ));
    }
    match (&lane.stream_limits.paused, &lane.paused) {
        (Some(paused), _) => Some(format!(
            "Stream `{}` is paused since {}{}; if it is resumed before that, the message may still be sent.",
            lane.stream,
            time(paused.at),
            pause_reason(paused)
        )),
        (None, Some(paused)) => Some(format!(
            "Its lane is paused since {}{}; if it is resumed before that, the message may still be sent.",
            time(paused.at),
            pause_reason(paused)
        )),
        (None, None) => None,
    }
}

/// Describes the attempts so far, and the time of the next attempt if nothing else blocked it.
fn history(recipient: &Recipient, entry: &QueueEntry, now: DateTime<Utc>) -> String {
    let next = entry.due_at.filter(|due| *due > now && *due < entry.gives_up_at);
    let next = next.map_or_else(String::new, |due| format!(" Its own next attempt is due at {}.", time(due)));
    if recipient.attempts == 0 {
        return format!("It has not been tried yet.{next}");
    }
    let last = server_reply(recipient.reply.as_ref(), recipient.mx.as_deref());
    let at = recipient.last_attempt_at.map_or_else(String::new, |at| format!(" at {}", time(at)));
    format!("{} failed temporarily, the last one{at}: {last}.{next}", capitalised(&attempts(recipient.attempts)))
}

/// Describes the worker that leased the recipient, and what happens if that worker sends no heartbeats.
fn in_progress(recipient: &Recipient, entry: &QueueEntry) -> String {
    let Some(lease) = &entry.lease else { return String::new() };
    let worker = lease.host.as_deref().map_or_else(|| "a worker".into(), |host| format!("worker `{host}`"));
    let number = recipient.attempts.saturating_add(1);
    if !lease.is_expired() {
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
        ", and is not registered any more".into()
    };
    let worker =
        format!("{}, which had attempt {number} in progress, has sent no heartbeat{silence}", capitalised(&worker));
    if entry.has_workers {
        // A worker that has just started waits for every other worker's heartbeat first.
        return format!("{worker}: another worker releases its lease within {}.", span(lease.term));
    }
    format!("{worker}, and no other worker is running: its lease is released when one starts.")
}

/// Describes why the recipient is quarantined, and when it is tried.
fn quarantined(entry: &QueueEntry, due: &str, now: DateTime<Utc>) -> String {
    let workers = if entry.crashes == 1 { "a worker".into() } else { format!("{} workers", entry.crashes) };
    let when =
        if entry.due_at.is_some_and(|at| at > now) { format!("it is tried at {due}") } else { "it is due".into() };
    format!(
        "It was in flight when {workers} ended unexpectedly, so it is quarantined: tried in a small group or alone; {when}. No \
         attempt is counted; after the third crash it is held."
    )
}

/// Returns the blocker as fields.
pub(super) fn blocker(kind: Kind, recipient: &Recipient, entry: &QueueEntry, now: DateTime<Utc>) -> Blocker {
    let lane = &entry.lane;
    let due = entry.due_at;
    let paused = match kind {
        Kind::TenantSuspended => lane.stream_limits.suspended.as_ref(),
        Kind::StreamPaused => lane.stream_limits.paused.as_ref(),
        Kind::LanePaused => lane.paused.as_ref(),
        _ => None,
    };
    let (since, until, next_attempt_at) = match kind {
        Kind::Scheduled => (Some(recipient.created_at), due, due),
        // While the destination is unreachable, no attempt starts before the next probe.
        Kind::RetryWait => {
            (recipient.last_attempt_at, due, due.max(lane.open_at.filter(|_| lane.unreachable.is_some())))
        }
        Kind::TenantSuspended | Kind::StreamPaused | Kind::LanePaused => (paused.map(|paused| paused.at), None, None),
        Kind::LaneBlocked => {
            (lane.unreachable.as_ref().map(|unreachable| unreachable.since), None, due.max(lane.open_at))
        }
        Kind::LearnedLimit => {
            (lane.learned.as_ref().map(|learned| learned.at), lane.opens_at(), due.max(lane.opens_at()))
        }
        Kind::RateLimited => (due, lane.opens_at(), due.max(lane.opens_at())),
        Kind::RestoreGuard => (entry.guarded_since, None, None),
        Kind::Expiring => (recipient.last_attempt_at, Some(entry.gives_up_at), None),
        Kind::Unprepared => (entry.unprepared.as_ref().map(|why| why.since), due, due),
        Kind::Quarantined => (None, due, due),
        Kind::NoWorker if entry.lease.is_some() => (None, None, None),
        Kind::ConnectionsFull | Kind::Queued | Kind::NoWorker => (due, None, due),
        Kind::WorkerGone | Kind::Held | Kind::InFlight | Kind::Lost | Kind::Ended => (None, None, None),
    };
    // A due time in the past means now, and nothing starts after the deadline.
    let next_attempt_at = next_attempt_at.map(|at| at.max(now)).filter(|at| *at < entry.gives_up_at);
    Blocker { kind, since, until, rule: rule(kind, recipient, entry), reply: recipient.reply.clone(), next_attempt_at }
}

fn rule(kind: Kind, recipient: &Recipient, entry: &QueueEntry) -> Option<String> {
    let lane = &entry.lane;
    let rule = match kind {
        Kind::Scheduled => "the message's scheduled_at".into(),
        Kind::RetryWait => format!("retry_schedule of stream {}", lane.stream),
        Kind::TenantSuspended => "suspension of the tenant".into(),
        Kind::StreamPaused => format!("pause of stream {}", lane.stream),
        Kind::LanePaused => format!("pause of {}", lane.id),
        Kind::LaneBlocked => {
            let (failures, cause) = lane.unreachable.as_ref().map_or((0, None), |state| (state.failures, state.cause));
            let cause = cause.map_or_else(String::new, |cause| format!(" ({cause})"));
            format!("destination of {} unreachable after {failures} failed tries{cause}", lane.id)
        }
        Kind::LearnedLimit | Kind::RateLimited => match lane.limiting_rate()? {
            (per_second, RateSource::Learned) => format!("learned rate of {}: {}", lane.id, rate(per_second)),
            (per_second, RateSource::Lane) => format!("rate of {}: {}", lane.id, rate(per_second)),
            (per_second, RateSource::Stream) => format!("rate of stream {}: {}", lane.stream, rate(per_second)),
        },
        Kind::ConnectionsFull => full(entry),
        Kind::Held => entry.held.clone()?,
        Kind::RestoreGuard => "the restore guard".into(),
        Kind::Queued => "order of the lane: the message with the earliest due time is sent first".into(),
        Kind::Expiring if recipient.expires_at == Some(entry.gives_up_at) => "the message's expires_at".into(),
        Kind::Expiring => format!("retry_window of stream {}", lane.stream),
        Kind::Quarantined => format!("{} workers ended while it was in flight", entry.crashes),
        Kind::WorkerGone => {
            format!("a lease expires {} after the worker's last heartbeat", span(entry.lease.as_ref()?.term))
        }
        Kind::Unprepared => entry.unprepared.as_ref()?.error.clone(),
        Kind::NoWorker | Kind::InFlight | Kind::Lost | Kind::Ended => return None,
    };
    Some(rule)
}

/// Describes the limit that is reached, as a clause.
fn full(entry: &QueueEntry) -> String {
    let lane = &entry.lane;
    match (lane.limits.connections, lane.stream_limits.concurrency) {
        (Some(limit), _) if lane.is_full() => {
            format!("Lane {} is at its connection limit ({limit} in use)", lane.id)
        }
        (_, Some(limit)) => format!("Stream `{}` is at its concurrency limit ({limit} in flight)", lane.stream),
        _ => format!("All connections of {} are in use", lane.id),
    }
}

/// Returns the reason from a text such as `held: 3 workers died`.
fn reason(held: Option<&str>) -> &str {
    held.map_or("no reason was recorded", |held| held.strip_prefix("held: ").unwrap_or(held))
}
