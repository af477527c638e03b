//! Explains a recipient's state: what blocks it, by which rule, when it continues, and what would unblock it. Pure: the
//! caller passes the rows and the time.
//!
//! If several things block a recipient, the one that lasts longest is named: what needs an operator before what needs
//! time.

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

/// A count with an upper bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[schema(as = BoundedCount)]
pub struct Count {
    /// The count; a lower bound if `is_more`.
    pub number: i64,
    /// Whether there are more: counting stops here, so that a long queue does not make the request slow.
    pub is_more: bool,
}

impl Count {
    /// Creates a count from a query that counts up to `bound` + 1.
    pub fn bounded(counted: i64, bound: i64) -> Self {
        Self { number: counted.min(bound), is_more: counted > bound }
    }
}

/// The last reply of the remote server.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[schema(as = SmtpReply)]
pub struct Said {
    /// Three digits; null if there was no reply and the text describes a local error.
    pub code: Option<i16>,
    /// The enhanced code (RFC 3463).
    pub enhanced: Option<String>,
    /// The text of all lines.
    pub text: String,
}

impl Said {
    /// Creates a reply from its columns; `None` if there is no text yet.
    pub fn from_row(code: Option<i16>, enhanced: Option<String>, text: Option<String>) -> Option<Self> {
        text.map(|text| Self { code, enhanced, text })
    }
}

/// A recipient and its delivery state.
#[derive(Debug, Clone)]
pub struct Recipient {
    /// Its message.
    pub message: MessageId,
    /// Its status.
    pub status: Status,
    /// Attempts made.
    pub attempts: i16,
    /// When its message was accepted.
    pub created_at: DateTime<Utc>,
    /// When the last attempt began.
    pub last_attempt_at: Option<DateTime<Utc>>,
    /// When it reached its end state.
    pub finished_at: Option<DateTime<Utc>>,
    /// When a delivery report moved it to this end state; `None` if an attempt did.
    pub reported_at: Option<DateTime<Utc>>,
    /// When the recipient reported the message as spam.
    pub complained_at: Option<DateTime<Utc>>,
    /// The last reply.
    pub reply: Option<Said>,
    /// Host of the last attempt.
    pub mx: Option<String>,
    /// TLS version and cipher of the last attempt.
    pub tls: Option<String>,
    /// What the sender chose for uncertain outcomes.
    pub on_uncertain: OnUncertain,
    /// The sender's deadline.
    pub expires_at: Option<DateTime<Utc>>,
    /// The entry that suppresses its address now, if it ended as suppressed or bounced.
    pub suppression: Option<Suppression>,
    /// The classification of the refusal, if it bounced.
    pub bounce: Option<BounceSaid>,
}

impl Recipient {
    /// Returns whether the last refusal was greylisting.
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

/// A worker's lease of a recipient.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// The worker's host; `None` if the worker is no longer registered.
    pub host: Option<String>,
    /// Seconds since its last heartbeat.
    pub silence: f64,
    /// Seconds without a heartbeat after which other workers take over.
    pub term: f64,
}

impl Lease {
    /// Returns whether the worker counts as dead.
    fn is_over(&self) -> bool {
        self.host.is_none() || self.silence > self.term
    }

    /// Returns whether it has missed more than one heartbeat; a term has four.
    fn is_silent(&self) -> bool {
        self.silence > self.term / 2.0
    }
}

/// A recipient's place in the queue.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its lane.
    pub lane: Lane,
    /// When the next attempt may start; `None` while the recipient is held.
    pub due_at: Option<DateTime<Utc>>,
    /// No attempt starts after this time: the end of the retry window or `expires_at`.
    pub gives_up_at: DateTime<Utc>,
    /// The lease, if a worker has claimed the recipient.
    pub lease: Option<Lease>,
    /// How many workers crashed while they had it leased, since its last completed attempt.
    pub crashes: i16,
    /// Why it waits for an operator.
    pub held: Option<String>,
    /// Whether it was rescheduled without an attempt.
    pub is_put_off: bool,
    /// Why it could not be prepared for sending the last time, if so.
    pub unprepared: Option<NotPrepared>,
    /// How many other messages of its lane are before it; `None` if that was not counted or the caller may not see it.
    pub ahead: Option<Count>,
    /// The lane's recent throughput, if it was requested.
    pub pace: Option<Pace>,
    /// Whether any worker has sent a heartbeat recently.
    pub has_workers: bool,
}

/// Why a recipient could not be prepared for sending: an error of this installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotPrepared {
    /// The error, with the domain and the configuration key.
    pub error: String,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// What blocks a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = BlockerKind)]
pub enum Kind {
    /// Its `scheduled_at` is in the future.
    Scheduled,
    /// An attempt failed temporarily; the next one is due later.
    RetryWait,
    /// It cannot be prepared for sending, because a key or a setting is missing; no attempt is counted.
    PutOff,
    /// An operator has paused its lane.
    LanePaused,
    /// An operator has paused its stream.
    StreamPaused,
    /// Its destination is unreachable.
    LaneBlocked,
    /// The lane or the stream is at its rate limit.
    RateLimited,
    /// The lane is at the rate learned from the destination's replies.
    LearnedLimit,
    /// The lane's connections, or the stream's concurrency, are all in use.
    ConnectionsFull,
    /// It waits for an operator.
    Held,
    /// It was in flight when a worker crashed: such messages are tried in small groups.
    Suspected,
    /// It expires before another attempt is due.
    Expiring,
    /// No worker is running.
    NoWorker,
    /// The worker that has leased it sends no heartbeats; another worker takes over.
    WorkerGone,
    /// A worker has leased it.
    InFlight,
    /// It is due; messages before it in the lane are sent first.
    Queued,
    /// It should be queued but has no row in the queue. This is a bug; the ledger shows it too.
    Lost,
    /// Nothing: it has reached an end state.
    Ended,
}

/// What blocks a recipient, as fields.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Blocker {
    /// The kind of blocker.
    pub kind: Kind,
    /// Since when, if known.
    pub since: Option<DateTime<Utc>>,
    /// Until when, if known.
    pub until: Option<DateTime<Utc>>,
    /// The setting or limit that applies, with its value.
    pub rule: Option<String>,
    /// The last reply of the remote server, in full.
    pub reply: Option<Said>,
    /// When the next attempt may start at the earliest.
    pub next_attempt_at: Option<DateTime<Utc>>,
}

/// An explanation of a recipient's state.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Explanation {
    /// A few sentences for a reader.
    pub summary: String,
    /// What blocks it.
    pub blocker: Blocker,
    /// When the next attempt is expected; null if there is none.
    pub estimate: Option<Estimate>,
    /// What would unblock it, the likeliest first; empty if nothing would.
    pub unblock: Vec<Remedy>,
}

/// Explains a recipient. `place` is `None` if it has no row in the queue.
pub fn explain(recipient: &Recipient, place: Option<&Place>, now: DateTime<Utc>) -> Explanation {
    if recipient.status.is_end() {
        return ended::explain(recipient);
    }
    let Some(place) = place else { return lost(recipient) };
    let kind = kind(recipient, place, now);
    Explanation {
        summary: waiting::summary(kind, recipient, place, now),
        blocker: waiting::blocker(kind, recipient, place, now),
        estimate: Some(estimate::compute(kind, place, now)),
        unblock: remedy::list(kind, recipient, place, now),
    }
}

/// Returns what blocks a queued recipient.
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
        // The deadline applies whatever else blocks it.
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
        // For a recipient that was tried, the summary names both, its own wait first.
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

/// A connection becomes free when a message has been sent, which takes seconds: a rate whose turn is later than this
/// lasts longer.
const CONNECTION_FREES_WITHIN: TimeDelta = TimeDelta::seconds(10);

/// Returns which limit blocks a due recipient.
fn limit(place: &Place, now: DateTime<Utc>) -> Kind {
    let lane = &place.lane;
    let turn = lane.opens();
    let is_full = lane.is_full() || lane.of_stream.is_full();
    if is_full && turn.is_none_or(|turn| turn <= now + CONNECTION_FREES_WITHIN) {
        return Kind::ConnectionsFull;
    }
    let is_throttled = turn.is_some() || place.ahead.is_some_and(|ahead| ahead.number > 0);
    match lane.holding_rate() {
        Some((_, RateOf::Learned)) if is_throttled => Kind::LearnedLimit,
        Some(_) if is_throttled => Kind::RateLimited,
        _ => Kind::Queued,
    }
}

fn lost(recipient: &Recipient) -> Explanation {
    let summary = "It should be queued, but it has no row in the queue, so no worker will find it. This is a bug; \
                   `GET /v1/ledger` shows how many such recipients there are.";
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
        unblock: vec![Remedy::advice(
            "Report it with the message's events; send the message again if it is still wanted.",
        )],
    }
}
