//! Why a recipient is where it is: what holds it, which rule that is, when it goes on, and what would help. Pure: the
//! caller brings the rows and the time.
//!
//! Of several things that hold a recipient the one is named that holds it longest: what waits for a person before what
//! waits for a time.

mod ended;
mod estimate;
pub(super) mod phrases;
mod remedy;
mod waiting;

#[cfg(test)]
mod tests;

use chrono::{DateTime, TimeDelta, Utc};

use super::delivery::Status;
use super::event::BounceSaid;
use super::id::MessageId;
use super::lane::{Lane, RateOf};
use super::outcome::{OnUncertain, Reply};
use super::suppression::Suppression;

pub use estimate::{Basis, Estimate, Pace};
pub use remedy::Remedy;

/// A number that was counted so far and no further.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[schema(as = BoundedCount)]
pub struct Count {
    /// How many; at least so many where `is_more`.
    pub number: i64,
    /// Whether there are more: counting stopped here, so that a long queue does not cost a long look.
    pub is_more: bool,
}

impl Count {
    /// What was counted with a bound of `bound`, one beyond it included.
    pub fn bounded(counted: i64, bound: i64) -> Self {
        Self { number: counted.min(bound), is_more: counted > bound }
    }
}

/// What the other side said last.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[schema(as = SmtpReply)]
pub struct Said {
    /// Three digits; null where there was no reply and the text is ours.
    pub code: Option<i16>,
    /// The enhanced code (RFC 3463).
    pub enhanced: Option<String>,
    /// The text of all lines.
    pub text: String,
}

impl Said {
    /// As it is stored; `None` where nothing was said yet.
    pub fn of(code: Option<i16>, enhanced: Option<String>, text: Option<String>) -> Option<Self> {
        text.map(|text| Self { code, enhanced, text })
    }
}

/// A recipient and what came of it so far.
#[derive(Debug, Clone)]
pub struct Recipient {
    /// Its message.
    pub message: MessageId,
    /// Where it is.
    pub status: Status,
    /// Attempts made.
    pub attempts: i16,
    /// When its message was accepted.
    pub created_at: DateTime<Utc>,
    /// When the last attempt began.
    pub last_attempt_at: Option<DateTime<Utc>>,
    /// When it reached its end state.
    pub finished_at: Option<DateTime<Utc>>,
    /// When a report that came back moved it to this end; none where an attempt did.
    pub reported_at: Option<DateTime<Utc>>,
    /// When its owner called the mail spam.
    pub complained_at: Option<DateTime<Utc>>,
    /// What was said last.
    pub reply: Option<Said>,
    /// Host last spoken to.
    pub mx: Option<String>,
    /// TLS version and cipher last used.
    pub tls: Option<String>,
    /// The sender's choice.
    pub on_uncertain: OnUncertain,
    /// The sender's limit: not after.
    pub expires_at: Option<DateTime<Utc>>,
    /// The entry by which its address is suppressed now, where it ended so or bounced.
    pub suppression: Option<Suppression>,
    /// What the refusal means, where it bounced.
    pub bounce: Option<BounceSaid>,
}

impl Recipient {
    /// Whether the last refusal asks for nothing but a later attempt.
    fn is_greylisted(&self) -> bool {
        let Some(said) = &self.reply else { return false };
        let reply = Reply {
            code: said.code.and_then(|code| u16::try_from(code).ok()),
            enhanced: said.enhanced.as_deref().and_then(|code| code.parse().ok()),
            text: said.text.clone(),
        };
        reply.speaks_of_greylisting()
    }
}

/// A worker's hold of a recipient.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// Where the worker runs; `None` where it is no longer on the list.
    pub host: Option<String>,
    /// Seconds since it was last heard of.
    pub silence: f64,
    /// After so many seconds without a word others take over.
    pub term: f64,
}

impl Lease {
    /// Whether the worker counts as gone.
    fn is_over(&self) -> bool {
        self.host.is_none() || self.silence > self.term
    }

    /// Whether it has missed more than one heartbeat, of which there are four in a term.
    fn is_silent(&self) -> bool {
        self.silence > self.term / 2.0
    }
}

/// Where a recipient waits.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its lane.
    pub lane: Lane,
    /// When the next attempt may start; `None` while it is held.
    pub due_at: Option<DateTime<Utc>>,
    /// After that no attempt starts: the end of the retry window or `expires_at`.
    pub gives_up_at: DateTime<Utc>,
    /// The worker that has it in hand, where one has.
    pub lease: Option<Lease>,
    /// How many workers ended while they had it in hand, since its last attempt that came to an end.
    pub crashes: i16,
    /// Why it waits for an operator.
    pub held: Option<String>,
    /// Whether its time was moved without an attempt.
    pub is_put_off: bool,
    /// Why it could not be prepared for sending the last time, where it could not.
    pub unprepared: Option<NotPrepared>,
    /// How many other mails of its lane go first; `None` where that was not counted or is not to be told.
    pub ahead: Option<Count>,
    /// What its lane did of late, where that was asked for.
    pub pace: Option<Pace>,
    /// Whether any worker has been heard of lately.
    pub has_workers: bool,
}

/// That a recipient could not be prepared for sending, for a reason that is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotPrepared {
    /// The error, with the domain and the configuration key.
    pub error: String,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// What holds a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = BlockerKind)]
pub enum Kind {
    /// Its `scheduled_at` has not come.
    Scheduled,
    /// An attempt failed for now; the next one is due later.
    RetryWait,
    /// It cannot be prepared for sending, for want of a key or a setting; no attempt is counted.
    PutOff,
    /// An operator has stopped its lane.
    LanePaused,
    /// An operator has stopped its stream.
    StreamPaused,
    /// No session with its destination can be had.
    LaneBlocked,
    /// The lane's or the stream's rate.
    RateLimited,
    /// A rate that the destination asked for by its replies.
    LearnedLimit,
    /// The lane's connections, or the stream's concurrency, are all in use.
    ConnectionsFull,
    /// It waits for an operator.
    Held,
    /// It was in hand when a worker ended: such mails are tried a few at a time.
    Suspected,
    /// No attempt is left before its time runs out.
    Expiring,
    /// No worker has been heard of.
    NoWorker,
    /// The worker that has it in hand has not been heard of; others take over.
    WorkerGone,
    /// A worker has it in hand.
    InFlight,
    /// It is due, and those before it go first.
    Queued,
    /// It should wait and has no row in the queue. Must not happen; the ledger tells of it too.
    Lost,
    /// Nothing: it has reached its end state.
    Ended,
}

/// What holds a recipient, in fields.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Blocker {
    /// What kind of thing.
    pub kind: Kind,
    /// Since when, where that is known.
    pub since: Option<DateTime<Utc>>,
    /// Until when, where that is known.
    pub until: Option<DateTime<Utc>>,
    /// The setting or limit that applies, with its value.
    pub rule: Option<String>,
    /// What the other side said, in full.
    pub reply: Option<Said>,
    /// When the next attempt may start at the earliest.
    pub next_attempt_at: Option<DateTime<Utc>>,
}

/// Everything there is to say.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Explanation {
    /// One or two sentences for a person.
    pub summary: String,
    /// What holds it.
    pub blocker: Blocker,
    /// When the next attempt may be expected; null where there is none to come.
    pub estimate: Option<Estimate>,
    /// What would help, the likeliest first; empty where nothing would.
    pub unblock: Vec<Remedy>,
}

/// Explains a recipient. `place` is missing where it has no row in the queue.
pub fn explain(recipient: &Recipient, place: Option<&Place>, now: DateTime<Utc>) -> Explanation {
    if recipient.status.is_end() {
        return ended::explain(recipient);
    }
    let Some(place) = place else { return lost(recipient) };
    let kind = kind(recipient, place, now);
    Explanation {
        summary: waiting::summary(kind, recipient, place, now),
        blocker: waiting::blocker(kind, recipient, place, now),
        estimate: Some(estimate::of(kind, place, now)),
        unblock: remedy::of(kind, recipient, place, now),
    }
}

/// What holds a recipient that waits.
fn kind(recipient: &Recipient, place: &Place, now: DateTime<Utc>) -> Kind {
    let lane = &place.lane;
    if let Some(lease) = &place.lease {
        return match (lease.is_over(), place.has_workers) {
            (false, _) => Kind::InFlight,
            (true, true) => Kind::WorkerGone,
            (true, false) => Kind::NoWorker,
        };
    }
    let Some(due) = place.due_at.filter(|_| place.held.is_none()) else { return Kind::Held };
    let is_later = due > now;
    if due.max(now) >= place.gives_up_at {
        // Whatever else holds it: time does not wait for that.
        if is_later || place.has_workers { Kind::Expiring } else { Kind::NoWorker }
    } else if lane.of_stream.paused.is_some() {
        Kind::StreamPaused
    } else if lane.paused.is_some() {
        Kind::LanePaused
    } else if !is_later && !place.has_workers {
        Kind::NoWorker
    } else if lane.blocked.is_some() && !is_later {
        Kind::LaneBlocked
    } else if lane.blocked.is_some() && recipient.attempts == 0 && lane.open_at.is_some_and(|open| open > due) {
        // Of one that failed by itself both are told, its own wait first.
        Kind::LaneBlocked
    } else if is_later {
        match (place.crashes, recipient.attempts) {
            (1.., _) => Kind::Suspected,
            _ if place.unprepared.is_some() => Kind::PutOff,
            (_, 0) if place.is_put_off => Kind::PutOff,
            (_, 0) => Kind::Scheduled,
            _ => Kind::RetryWait,
        }
    } else {
        match limit(place, now) {
            Kind::Queued if place.crashes > 0 => Kind::Suspected,
            limit => limit,
        }
    }
}

/// A connection comes free when a mail has gone, which takes seconds: a turn that is further off than this lasts longer.
const PLACE_COMES_FREE: TimeDelta = TimeDelta::seconds(10);

/// Which limit holds a recipient that is due.
fn limit(place: &Place, now: DateTime<Utc>) -> Kind {
    let lane = &place.lane;
    let turn = lane.opens();
    let is_full = lane.is_full() || lane.of_stream.is_full();
    if is_full && turn.is_none_or(|turn| turn <= now + PLACE_COMES_FREE) {
        return Kind::ConnectionsFull;
    }
    let is_slowed = turn.is_some() || place.ahead.is_some_and(|ahead| ahead.number > 0);
    match lane.holding_rate() {
        Some((_, RateOf::Learned)) if is_slowed => Kind::LearnedLimit,
        Some(_) if is_slowed => Kind::RateLimited,
        _ => Kind::Queued,
    }
}

fn lost(recipient: &Recipient) -> Explanation {
    let summary = "It should be waiting, but it has no row in the queue, so that no worker will find it. That must not \
                   happen: GET /v1/ledger tells how many there are.";
    Explanation {
        summary: summary.into(),
        blocker: Blocker {
            kind: Kind::Lost,
            since: None,
            until: None,
            rule: None,
            reply: recipient.reply.clone(),
            next_attempt_at: None,
        },
        estimate: None,
        unblock: vec![Remedy::words("Report it with the message's events; send the message again if it is needed.")],
    }
}
