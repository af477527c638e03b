//! When the next attempt may be expected, and how one knows. Where nothing can be known it says so.

use chrono::{DateTime, TimeDelta, Utc};

use super::phrases::{before, capital, rate, span, time};
use super::{Count, Kind, Place};
use crate::domain::lane::RateOf;

/// How an estimate was come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = EstimateBasis)]
pub enum Basis {
    /// Its own time: `scheduled_at`, the next retry, or now.
    Schedule,
    /// A rate that is set or learned.
    Limit,
    /// What the lane sent of late.
    LaneRate,
    /// Nothing: it cannot be known.
    None,
}

/// When the next attempt may be expected to start.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Estimate {
    /// The time; null where it cannot be known.
    pub at: Option<DateTime<Utc>>,
    /// How it was come by.
    pub basis: Basis,
    /// The same in words, with what it leaves out.
    pub explanation: String,
}

/// What a lane did of late, out of the newest events.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Messages of the lane that were sent among them, each once however many it was for.
    pub mails: i64,
    /// How many events were looked at.
    pub events: i64,
    /// Seconds from the oldest of them to now.
    pub seconds: f64,
}

/// Beyond this a guess would be none.
const FARTHEST: f64 = 366.0 * 86_400.0;

/// The estimate for a recipient that waits, by what holds it.
pub(super) fn of(kind: Kind, place: &Place, now: DateTime<Utc>) -> Estimate {
    let estimate = by_kind(kind, place, now);
    match estimate.at {
        Some(at) if at >= place.gives_up_at => unknown(format!(
            "Its turn would come at {}; its time runs out before, at {}.",
            time(at),
            time(place.gives_up_at)
        )),
        Some(at) if !place.has_workers => unknown(format!(
            "It may start at {} where a worker runs by then; none is running (no heartbeat lately).",
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
            schedule(due, "The attempt is due then; others of its lane may be before it.")
        }
        Kind::PutOff => unknown("It is prepared again every 5 minutes, and sent once the configuration is fixed."),
        Kind::Suspected => {
            schedule(due, "It is due then; such messages are tried a few at a time, and others may go first.")
        }
        Kind::Expiring => {
            unknown(format!("No attempt is left before its time runs out at {}.", time(place.gives_up_at)))
        }
        Kind::InFlight => unknown("It is being tried now."),
        Kind::WorkerGone => unknown("It is tried again once it has been taken over."),
        Kind::Held => unknown("It waits for an operator, however long that takes."),
        Kind::LanePaused | Kind::StreamPaused => unknown("It waits until somebody resumes it."),
        Kind::NoWorker => unknown("It waits until a worker runs."),
        Kind::LaneBlocked => unknown(match place.lane.open_at {
            Some(at) => format!("The next probe is at {}; whether it succeeds cannot be known.", time(at)),
            None => "A probe is due now; whether it succeeds cannot be known.".into(),
        }),
        Kind::Lost | Kind::Ended => unknown("There is no further attempt."),
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

/// Its turn at the rate that holds it, if nothing else does.
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
        // The queue of one lane says nothing of how long the stream's is.
        (RateOf::Stream, _) => {
            format!("Not before {}: {words}, which the stream's other lanes use up too.", time(turn))
        }
        (_, None) => format!("Not before {}: {words}.", time(turn)),
        (_, Some(ahead)) => return after(turn, ahead, per_second, Basis::Limit, &words),
    };
    Estimate { at: None, basis: Basis::Limit, explanation }
}

/// Its turn at the rate at which the lane moved of late.
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
        return schedule(now, "It is due and the next of its lane; workers look at least once a second.");
    }
    let waits = capital(&before(place.ahead));
    let Some(lately) = place.pace else {
        return unknown(format!("{waits}; how fast the lane moves was not measured."));
    };
    if lately.mails == 0 || lately.seconds <= 0.0 {
        let heard = match lately.events {
            0 => "nothing happened of late to measure by".into(),
            events => format!("of the newest {events} events none was a message of this lane that was sent"),
        };
        return unknown(format!("{waits}; {heard}."));
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

/// When those before it have gone at this rate.
fn after(turn: DateTime<Utc>, ahead: Count, per_second: f64, basis: Basis, words: &str) -> Estimate {
    #[allow(clippy::cast_precision_loss, reason = "counts of at most some thousands")]
    let seconds = ahead.number as f64 / per_second;
    if ahead.is_more || seconds > FARTHEST {
        let explanation = format!("Not before {} from now: {words}.", span(seconds));
        return Estimate { at: None, basis, explanation };
    }
    #[allow(clippy::cast_possible_truncation, reason = "bounded by FARTHEST")]
    let at = turn + TimeDelta::milliseconds((seconds * 1_000.0) as i64);
    Estimate { at: Some(at), basis, explanation: format!("If nothing else holds it: {words}.") }
}
