//! Estimates when the next attempt starts, and names the basis of the estimate.

use chrono::{DateTime, TimeDelta, Utc};

use super::phrases::{before, capital, rate, span, time};
use super::{Count, Kind, Place};
use crate::domain::lane::RateOf;

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
    /// None: no estimate is possible.
    None,
}

/// When the next attempt is expected to start.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Estimate {
    /// The time; null if it cannot be estimated.
    pub at: Option<DateTime<Utc>>,
    /// Its basis.
    pub basis: Basis,
    /// The estimate in words, with its assumptions.
    pub explanation: String,
}

/// A lane's recent throughput, from the newest events.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Messages of the lane that were sent, counted once regardless of their recipients.
    pub mails: i64,
    /// How many events were examined.
    pub events: i64,
    /// Seconds from the oldest of them to now.
    pub seconds: f64,
}

/// The longest estimate, in seconds.
const FARTHEST: f64 = 366.0 * 86_400.0;

/// Returns the estimate for a queued recipient, by what blocks it.
pub(super) fn compute(kind: Kind, place: &Place, now: DateTime<Utc>) -> Estimate {
    let estimate = by_kind(kind, place, now);
    match estimate.at {
        Some(at) if at >= place.gives_up_at => unknown(format!(
            "Its turn would come at {}; its time runs out before, at {}.",
            time(at),
            time(place.gives_up_at)
        )),
        Some(at) if !place.has_workers => unknown(format!(
            "It may start at {} if a worker is running by then; none is running now (no recent heartbeat).",
            time(at)
        )),
        _ => estimate,
    }
}

fn by_kind(kind: Kind, place: &Place, now: DateTime<Utc>) -> Estimate {
    let due = place.due_at.unwrap_or(now).max(now);
    match kind {
        Kind::RetryWait if place.lane.blocked.is_some() => {
            unknown(format!("The attempt is due at {}; until a probe reopens its lane, nothing is sent.", time(due)))
        }
        Kind::Scheduled | Kind::RetryWait => {
            schedule(due, "The attempt is due then; other messages of its lane may be before it.")
        }
        Kind::PutOff => unknown("Preparation is retried every 5 minutes; it is sent once the configuration is fixed."),
        Kind::Suspected => schedule(
            due,
            "It is due then; quarantined messages are tried in small groups, and others may be sent first.",
        ),
        Kind::Expiring => {
            unknown(format!("No attempt is left before its time runs out at {}.", time(place.gives_up_at)))
        }
        Kind::InFlight => unknown("An attempt is in progress."),
        Kind::WorkerGone => unknown("The next attempt starts once another worker has released the lease."),
        Kind::Held => unknown("It waits until an operator retries it."),
        Kind::LanePaused | Kind::StreamPaused => unknown("It waits until an operator resumes the lane or stream."),
        Kind::NoWorker => unknown("It waits until a worker is running."),
        Kind::LaneBlocked => unknown(match place.lane.open_at {
            Some(at) => format!("The next probe is at {}; whether it succeeds cannot be known.", time(at)),
            None => "A probe is due now; whether it succeeds cannot be known.".into(),
        }),
        Kind::Lost | Kind::Ended => unknown("No further attempt is made."),
        Kind::RateLimited | Kind::LearnedLimit => by_limit(place, now),
        Kind::ConnectionsFull | Kind::Queued => by_pace(place, now),
    }
}

fn unknown(explanation: impl Into<String>) -> Estimate {
    Estimate { at: None, basis: Basis::None, explanation: explanation.into() }
}

fn schedule(at: DateTime<Utc>, explanation: &str) -> Estimate {
    Estimate { at: Some(at), basis: Basis::Schedule, explanation: explanation.into() }
}

/// Estimates its turn at the rate limit that blocks it.
fn by_limit(place: &Place, now: DateTime<Utc>) -> Estimate {
    let Some((per_second, of)) = place.lane.holding_rate() else { return by_pace(place, now) };
    let whose = match of {
        RateOf::Learned => "the rate learned from the destination",
        RateOf::Lane => "the lane's limit",
        RateOf::Stream => "the stream's limit",
    };
    let turn = place.lane.opens().unwrap_or(now).max(now);
    let words = format!("{}, at {} ({whose})", before(place.ahead), rate(per_second));
    let explanation = match (of, place.ahead) {
        // The length of one lane's queue says nothing about the whole stream.
        (RateOf::Stream, _) => {
            format!("Not before {}: {words}, which is shared with the stream's other lanes.", time(turn))
        }
        (_, None) => format!("Not before {}: {words}.", time(turn)),
        (_, Some(ahead)) => return after(turn, ahead, per_second, Basis::Limit, &words),
    };
    Estimate { at: None, basis: Basis::Limit, explanation }
}

/// Estimates its turn at the lane's recent throughput.
fn by_pace(place: &Place, now: DateTime<Utc>) -> Estimate {
    let Some(ahead) = place.ahead else {
        return unknown(format!("{}.", capital(&before(place.ahead))));
    };
    if ahead.number == 0 && place.lane.is_full() {
        return unknown("It is the next of its lane once a connection is free.");
    }
    if ahead.number == 0 && place.lane.of_stream.is_full() {
        return unknown("It is the next of its lane once one of the stream's messages in flight has been sent.");
    }
    if ahead.number == 0 {
        return schedule(now, "It is due and the next of its lane; workers poll at least once a second.");
    }
    let waits = capital(&before(place.ahead));
    let Some(lately) = place.pace else {
        return unknown(format!("{waits}; the lane's throughput was not measured."));
    };
    if lately.mails == 0 || lately.seconds <= 0.0 {
        let observed = match lately.events {
            0 => "there are no recent events to measure by".into(),
            events => format!("of the newest {events} events none was a message of this lane that was sent"),
        };
        return unknown(format!("{waits}; {observed}."));
    }
    #[allow(clippy::cast_precision_loss, reason = "counts of at most some thousands")]
    let per_second = lately.mails as f64 / lately.seconds;
    let words = format!(
        "{}, at {}: of the newest {} events, {} were messages of this lane that were sent, within {}",
        before(place.ahead),
        rate(per_second),
        lately.events,
        lately.mails,
        span(lately.seconds)
    );
    after(now, ahead, per_second, Basis::LaneRate, &words)
}

/// Estimates when the messages before it have been sent at this rate.
fn after(turn: DateTime<Utc>, ahead: Count, per_second: f64, basis: Basis, words: &str) -> Estimate {
    #[allow(clippy::cast_precision_loss, reason = "counts of at most some thousands")]
    let seconds = ahead.number as f64 / per_second;
    if ahead.is_more || seconds > FARTHEST {
        let explanation = format!("Not before {} from now: {words}.", span(seconds));
        return Estimate { at: None, basis, explanation };
    }
    #[allow(clippy::cast_possible_truncation, reason = "bounded by FARTHEST")]
    let at = turn + TimeDelta::milliseconds((seconds * 1_000.0) as i64);
    Estimate { at: Some(at), basis, explanation: format!("If nothing else blocks it: {words}.") }
}
