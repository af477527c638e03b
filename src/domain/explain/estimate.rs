//! Estimates when the next attempt starts, and names the basis of the estimate.

use chrono::{DateTime, TimeDelta, Utc};

use super::phrases::{before, capitalised, rate, span, time};
use super::{Count, Kind, QueueEntry};
use crate::domain::lane::RateSource;

/// The basis of an estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = EstimateBasis)]
pub enum Basis {
    /// The recipient's own time: `scheduled_at`, the next retry, or now.
    Schedule,
    /// A rate limit, set or learned.
    Limit,
    /// The lane's recent throughput.
    LaneRate,
    /// There is no basis: no estimate is possible.
    None,
}

/// When the next attempt is expected to start.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Estimate {
    /// The estimated time; null if it cannot be estimated.
    #[schema(example = "2026-11-24T09:05:00Z")]
    pub at: Option<DateTime<Utc>>,
    /// The basis of the estimate.
    #[schema(example = "schedule")]
    pub basis: Basis,
    /// The estimate as a sentence, with its assumptions.
    #[schema(example = "The attempt is due then; other messages of its lane may be before it.")]
    pub explanation: String,
}

/// A lane's recent throughput, from the newest events.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throughput {
    /// Messages of the lane that were sent. A message with several recipients counts once.
    pub messages: i64,
    /// The number of events examined.
    pub events: i64,
    /// Seconds from the oldest of these events to now.
    pub seconds: f64,
}

/// The longest estimate, in seconds.
const MAX_ESTIMATE: f64 = 366.0 * 86_400.0;

/// Returns the estimate for a queued recipient, by what blocks it.
pub(super) fn compute(kind: Kind, entry: &QueueEntry, now: DateTime<Utc>) -> Estimate {
    let estimate = by_kind(kind, entry, now);
    match estimate.at {
        Some(at) if at >= entry.gives_up_at => unknown(format!(
            "It would be sent at {}, but its time runs out before that, at {}.",
            time(at),
            time(entry.gives_up_at)
        )),
        Some(at) if !entry.has_workers => unknown(format!(
            "It may start at {} if a worker is running by then; none is running now (no recent heartbeat).",
            time(at)
        )),
        _ => estimate,
    }
}

fn by_kind(kind: Kind, entry: &QueueEntry, now: DateTime<Utc>) -> Estimate {
    let due = entry.due_at.unwrap_or(now).max(now);
    match kind {
        Kind::RetryWait if entry.lane.unreachable.is_some() => {
            unknown(format!("The attempt is due at {}; nothing is sent until a probe reopens its lane.", time(due)))
        }
        Kind::Scheduled | Kind::RetryWait => {
            schedule(due, "The attempt is due then; other messages of its lane may be before it.")
        }
        Kind::Unprepared => {
            unknown("Preparation is retried every 5 minutes; it is sent once the configuration is fixed.")
        }
        Kind::Quarantined => schedule(
            due,
            "It is due then; quarantined messages are tried in small groups, and others may be sent first.",
        ),
        Kind::Expiring => {
            unknown(format!("No attempt is left before its time runs out at {}.", time(entry.gives_up_at)))
        }
        Kind::InFlight => unknown("An attempt is in progress."),
        Kind::WorkerGone => unknown("The next attempt starts once another worker has released the lease."),
        Kind::Held => unknown("It waits until an operator retries it."),
        Kind::RestoreGuard => unknown("It waits until an operator ends the hold of the restore guard."),
        Kind::TenantSuspended => unknown("It waits until an operator resumes the tenant."),
        Kind::LanePaused | Kind::StreamPaused => unknown("It waits until an operator resumes the lane or stream."),
        Kind::NoWorker => unknown("It waits until a worker is running."),
        Kind::LaneBlocked => unknown(match entry.lane.open_at {
            Some(at) => format!("The next probe is at {}; whether it succeeds cannot be known.", time(at)),
            None => "A probe is due now; whether it succeeds cannot be known.".into(),
        }),
        Kind::Lost | Kind::Ended => unknown("No further attempt is made."),
        Kind::RateLimited | Kind::LearnedLimit => by_limit(entry, now),
        Kind::ConnectionsFull | Kind::Queued => by_throughput(entry, now),
    }
}

fn unknown(explanation: impl Into<String>) -> Estimate {
    Estimate { at: None, basis: Basis::None, explanation: explanation.into() }
}

fn schedule(at: DateTime<Utc>, explanation: &str) -> Estimate {
    Estimate { at: Some(at), basis: Basis::Schedule, explanation: explanation.into() }
}

/// Estimates the time by the rate limit that blocks the recipient.
fn by_limit(entry: &QueueEntry, now: DateTime<Utc>) -> Estimate {
    let Some((per_second, source)) = entry.lane.limiting_rate() else { return by_throughput(entry, now) };
    let limit = match source {
        RateSource::Learned => "the rate learned from the destination",
        RateSource::Lane => "the lane's limit",
        RateSource::Stream => "the stream's limit",
    };
    let opens_at = entry.lane.opens_at().unwrap_or(now).max(now);
    let assumption = format!("{}, at {} ({limit})", before(entry.ahead), rate(per_second));
    let explanation = match (source, entry.ahead) {
        // The stream's other lanes use the rate as well, so the length of one lane's queue gives no estimate.
        (RateSource::Stream, _) => {
            format!("Not before {}: {assumption}, which is shared with the stream's other lanes.", time(opens_at))
        }
        (_, None) => format!("Not before {}: {assumption}.", time(opens_at)),
        (_, Some(ahead)) => return after(opens_at, ahead, per_second, Basis::Limit, &assumption),
    };
    Estimate { at: None, basis: Basis::Limit, explanation }
}

/// Estimates the time by the lane's recent throughput.
fn by_throughput(entry: &QueueEntry, now: DateTime<Utc>) -> Estimate {
    let Some(ahead) = entry.ahead else {
        return unknown(format!("{}.", capitalised(&before(entry.ahead))));
    };
    if ahead.number == 0 && entry.lane.is_full() {
        return unknown("It is the next of its lane once a connection is free.");
    }
    if ahead.number == 0 && entry.lane.stream_limits.is_full() {
        return unknown("It is the next of its lane once one of the stream's messages in flight has been sent.");
    }
    if ahead.number == 0 {
        return schedule(now, "It is due and the next of its lane; workers poll at least once a second.");
    }
    let position = capitalised(&before(entry.ahead));
    let Some(recent) = entry.throughput else {
        return unknown(format!("{position}; the lane's throughput was not measured."));
    };
    if recent.messages == 0 || recent.seconds <= 0.0 {
        let observed = match recent.events {
            0 => "there are no recent events to measure by".into(),
            events => format!("none of the newest {events} events was a sent message of this lane"),
        };
        return unknown(format!("{position}; {observed}."));
    }
    #[allow(clippy::cast_precision_loss, reason = "counts of at most a few thousand")]
    let per_second = recent.messages as f64 / recent.seconds;
    let assumption = format!(
        "{}, at {}: of the newest {} events, {} were sent messages of this lane, within {}",
        before(entry.ahead),
        rate(per_second),
        recent.events,
        recent.messages,
        span(recent.seconds)
    );
    after(now, ahead, per_second, Basis::LaneRate, &assumption)
}

/// Estimates the time at which the messages before this one have been sent at this rate.
fn after(start: DateTime<Utc>, ahead: Count, per_second: f64, basis: Basis, assumption: &str) -> Estimate {
    #[allow(clippy::cast_precision_loss, reason = "counts of at most a few thousand")]
    let seconds = ahead.number as f64 / per_second;
    if ahead.is_more || seconds > MAX_ESTIMATE {
        let explanation = format!("Not before {} from now: {assumption}.", span(seconds));
        return Estimate { at: None, basis, explanation };
    }
    #[allow(clippy::cast_possible_truncation, reason = "bounded by MAX_ESTIMATE")]
    let at = start + TimeDelta::milliseconds((seconds * 1_000.0) as i64);
    Estimate { at: Some(at), basis, explanation: format!("If nothing else blocks it: {assumption}.") }
}
