//! Explains a recipient's state: what blocks it, by which rule, when delivery continues, and how to unblock it. Pure:
//! the caller passes the rows and the time.
//!
//! If several things block a recipient, the explanation names the one that lasts longest: one that needs an operator
//! before one that ends by itself.

mod ended;
mod estimate;
pub(super) mod phrases;
mod remedy;
mod waiting;

#[cfg(test)]
mod tests;

use chrono::{DateTime, TimeDelta, Utc};

use super::delivery::Status;
use super::event::BounceView;
use super::id::MessageId;
use super::lane::{Lane, RateSource};
use super::outcome::{OnUncertain, Reply};
use super::suppression::Suppression;

pub use estimate::{Basis, Estimate, Throughput};
pub use remedy::Remedy;

/// A count with an upper bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[schema(as = BoundedCount)]
pub struct Count {
    /// The count; a lower bound if `is_more`.
    #[schema(example = 42)]
    pub number: i64,
    /// Whether there are more. Counting stops at a bound, so that a long queue does not slow the request.
    #[schema(example = false)]
    pub is_more: bool,
}

impl Count {
    /// Creates a count from a query that counts up to `bound` + 1.
    pub fn bounded(counted: i64, bound: i64) -> Self {
        Self { number: counted.min(bound), is_more: counted > bound }
    }
}

/// A reply of the remote server, or the local error of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct SmtpReply {
    /// The reply code; null if there was no reply and `text` describes a local error.
    #[schema(example = 451)]
    pub code: Option<i16>,
    /// The enhanced status code (RFC 3463); null if the reply has none.
    #[schema(example = "4.7.1")]
    pub enhanced: Option<String>,
    /// The text of all lines of the reply, or the local error.
    #[schema(example = "Greylisted")]
    pub text: String,
}

impl SmtpReply {
    /// Creates a reply from its columns; `None` if there is no text yet.
    pub fn from_row(code: Option<i16>, enhanced: Option<String>, text: Option<String>) -> Option<Self> {
        text.map(|text| Self { code, enhanced, text })
    }
}

/// A recipient and its delivery state.
#[derive(Debug, Clone)]
pub struct Recipient {
    /// The message's id.
    pub message: MessageId,
    /// The recipient's status.
    pub status: Status,
    /// The number of completed attempts.
    pub attempts: i16,
    /// The time at which the message was accepted.
    pub created_at: DateTime<Utc>,
    /// The time at which the last attempt started.
    pub last_attempt_at: Option<DateTime<Utc>>,
    /// The time at which the recipient reached its end state.
    pub finished_at: Option<DateTime<Utc>>,
    /// The time at which a delivery report moved the recipient to its end state; `None` if an attempt did.
    pub reported_at: Option<DateTime<Utc>>,
    /// The time at which the recipient reported the message as spam.
    pub complained_at: Option<DateTime<Utc>>,
    /// The last reply.
    pub reply: Option<SmtpReply>,
    /// The server of the last attempt.
    pub mx: Option<String>,
    /// TLS version and cipher of the last attempt.
    pub tls: Option<String>,
    /// The sender's choice for uncertain outcomes.
    pub on_uncertain: OnUncertain,
    /// The deadline that the sender set.
    pub expires_at: Option<DateTime<Utc>>,
    /// The suppression of the address, if the recipient is suppressed or bounced.
    pub suppression: Option<Suppression>,
    /// The classification of the refusal, if the recipient bounced.
    pub bounce: Option<BounceView>,
}

impl Recipient {
    /// Returns whether the last refusal was greylisting.
    fn is_greylisted(&self) -> bool {
        let Some(last) = &self.reply else { return false };
        let reply = Reply {
            code: last.code.and_then(|code| u16::try_from(code).ok()),
            enhanced: last.enhanced.as_deref().and_then(|code| code.parse().ok()),
            text: last.text.clone(),
        };
        reply.is_greylisting()
    }
}

/// A worker's lease of a recipient.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// The worker's host; `None` if the worker is not registered any more.
    pub host: Option<String>,
    /// Seconds since its last heartbeat.
    pub silence: f64,
    /// Seconds without a heartbeat after which the lease expires and another worker takes over.
    pub term: f64,
}

impl Lease {
    /// Returns whether the lease has expired, so that the worker counts as dead.
    fn is_expired(&self) -> bool {
        self.host.is_none() || self.silence > self.term
    }

    /// Returns whether the worker has missed more than one heartbeat. There are four heartbeats in a term.
    fn is_silent(&self) -> bool {
        self.silence > self.term / 2.0
    }
}

/// A recipient's entry in the queue.
#[derive(Debug, Clone)]
pub struct QueueEntry {
    /// The recipient's lane.
    pub lane: Lane,
    /// The time at which the next attempt is due; `None` while the recipient is held.
    pub due_at: Option<DateTime<Utc>>,
    /// No attempt starts after this time: the end of the retry window or `expires_at`.
    pub gives_up_at: DateTime<Utc>,
    /// The lease, if a worker has claimed the recipient.
    pub lease: Option<Lease>,
    /// How many workers crashed while they had leased the recipient, since its last completed attempt.
    pub crashes: i16,
    /// The reason why the recipient is held for an operator.
    pub held: Option<String>,
    /// Whether the recipient was rescheduled without an attempt.
    pub is_rescheduled: bool,
    /// The error of the last preparation for sending, if it failed.
    pub unprepared: Option<NotPrepared>,
    /// How many other messages of the lane are before it; `None` if they were not counted or the caller may not see the
    /// number.
    pub ahead: Option<Count>,
    /// The lane's recent throughput, if it was measured.
    pub throughput: Option<Throughput>,
    /// Whether any worker sent a heartbeat recently.
    pub has_workers: bool,
    /// Since when the restore guard lets nothing be sent; `None` if it does not.
    pub guarded_since: Option<DateTime<Utc>>,
}

/// Why a recipient cannot be prepared for sending. The cause is in the configuration of this installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotPrepared {
    /// The error, with the domain and the configuration key.
    pub error: String,
    /// The time of the first failure.
    pub since: DateTime<Utc>,
}

/// What blocks a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = BlockerKind)]
pub enum Kind {
    /// The message's `scheduled_at` is in the future.
    Scheduled,
    /// An attempt failed temporarily; the next one is due later.
    RetryWait,
    /// The message cannot be prepared for sending, because a key or a setting is missing. No attempt is counted.
    Unprepared,
    /// The restore guard holds, because the database may have been restored or copied: nothing is sent until an operator
    /// decides.
    RestoreGuard,
    /// An operator has paused the lane.
    LanePaused,
    /// An operator has paused the stream.
    StreamPaused,
    /// An operator has suspended the tenant.
    TenantSuspended,
    /// The destination is unreachable.
    LaneBlocked,
    /// The lane or the stream is at its rate limit.
    RateLimited,
    /// The lane is at the rate learned from the destination's replies.
    LearnedLimit,
    /// The lane's connections, or the stream's concurrency, are all in use.
    ConnectionsFull,
    /// The recipient is held for an operator.
    Held,
    /// The message was in flight when a worker crashed. Such messages are sent in small groups, then alone.
    Quarantined,
    /// The recipient expires before another attempt is due.
    Expiring,
    /// No worker is running.
    NoWorker,
    /// The worker that leased the recipient has stopped sending heartbeats; another worker takes over.
    WorkerGone,
    /// A worker has leased the recipient.
    InFlight,
    /// The recipient is due; messages before it in the lane are sent first.
    Queued,
    /// The recipient should be queued but has no row in the queue. This is a bug; `GET /v1/ledger` counts such
    /// recipients.
    Lost,
    /// Nothing blocks the recipient: it has reached an end state.
    Ended,
}

/// What blocks a recipient, as fields.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Blocker {
    /// The kind of blocker.
    #[schema(example = "retry_wait")]
    pub kind: Kind,
    /// The time at which it started to block; null if unknown.
    #[schema(example = "2026-11-24T09:00:00Z")]
    pub since: Option<DateTime<Utc>>,
    /// The time until which it blocks; null if unknown.
    #[schema(example = "2026-11-24T09:05:00Z")]
    pub until: Option<DateTime<Utc>>,
    /// The setting or limit that applies, with its value; null if there is none.
    #[schema(example = "retry_schedule of stream transactional")]
    pub rule: Option<String>,
    /// The last reply of the remote server; null if there is none.
    pub reply: Option<SmtpReply>,
    /// The earliest time at which the next attempt may start; null if unknown or if there is none.
    #[schema(example = "2026-11-24T09:05:00Z")]
    pub next_attempt_at: Option<DateTime<Utc>>,
}

/// An explanation of a recipient's state.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Explanation {
    /// The explanation in a few sentences.
    #[schema(example = "Attempt 1 is in progress on worker `mail-2`.")]
    pub summary: String,
    /// What blocks the recipient.
    pub blocker: Blocker,
    /// The expected time of the next attempt; null if there is none.
    pub estimate: Option<Estimate>,
    /// Actions that would unblock the recipient, the most likely first; empty if there are none.
    pub unblock: Vec<Remedy>,
}

/// Explains a recipient. `entry` is `None` if it has no row in the queue.
pub fn explain(recipient: &Recipient, entry: Option<&QueueEntry>, now: DateTime<Utc>) -> Explanation {
    if recipient.status.is_end() {
        return ended::explain(recipient);
    }
    let Some(entry) = entry else { return lost(recipient) };
    let kind = kind(recipient, entry, now);
    Explanation {
        summary: waiting::summary(kind, recipient, entry, now),
        blocker: waiting::blocker(kind, recipient, entry, now),
        estimate: Some(estimate::compute(kind, entry, now)),
        unblock: remedy::list(kind, recipient, entry, now),
    }
}

/// Returns what blocks a queued recipient.
fn kind(recipient: &Recipient, entry: &QueueEntry, now: DateTime<Utc>) -> Kind {
    let lane = &entry.lane;
    if let Some(lease) = &entry.lease {
        return match (lease.is_expired(), entry.has_workers) {
            (false, _) => Kind::InFlight,
            (true, true) => Kind::WorkerGone,
            (true, false) => Kind::NoWorker,
        };
    }
    let Some(due) = entry.due_at.filter(|_| entry.held.is_none()) else { return Kind::Held };
    if entry.guarded_since.is_some() {
        // Nothing expires either.
        return Kind::RestoreGuard;
    }
    let is_later = due > now;
    if due.max(now) >= entry.gives_up_at {
        // The deadline applies regardless of other blockers.
        if is_later || entry.has_workers { Kind::Expiring } else { Kind::NoWorker }
    } else if lane.stream_limits.suspended.is_some() {
        Kind::TenantSuspended
    } else if lane.stream_limits.paused.is_some() {
        Kind::StreamPaused
    } else if lane.paused.is_some() {
        Kind::LanePaused
    } else if !is_later && !entry.has_workers {
        Kind::NoWorker
    } else if lane.unreachable.is_some() && !is_later {
        Kind::LaneBlocked
    } else if lane.unreachable.is_some() && recipient.attempts == 0 && lane.open_at.is_some_and(|open| open > due) {
        // The summary of a recipient with attempts names its retry wait first, and then the unreachable destination.
        Kind::LaneBlocked
    } else if is_later {
        match (entry.crashes, recipient.attempts) {
            (1.., _) => Kind::Quarantined,
            _ if entry.unprepared.is_some() => Kind::Unprepared,
            (_, 0) if entry.is_rescheduled => Kind::Unprepared,
            (_, 0) => Kind::Scheduled,
            _ => Kind::RetryWait,
        }
    } else {
        match limit(entry, now) {
            Kind::Queued if entry.crashes > 0 => Kind::Quarantined,
            limit => limit,
        }
    }
}

/// A connection becomes free when a message has been sent, which takes seconds. A rate limit that opens later than this
/// lasts longer than a connection limit.
const CONNECTION_FREES_WITHIN: TimeDelta = TimeDelta::seconds(10);

/// Returns which limit blocks a due recipient.
fn limit(entry: &QueueEntry, now: DateTime<Utc>) -> Kind {
    let lane = &entry.lane;
    let opens_at = lane.opens_at();
    let is_full = lane.is_full() || lane.stream_limits.is_full();
    if is_full && opens_at.is_none_or(|at| at <= now + CONNECTION_FREES_WITHIN) {
        return Kind::ConnectionsFull;
    }
    let is_throttled = opens_at.is_some() || entry.ahead.is_some_and(|ahead| ahead.number > 0);
    match lane.limiting_rate() {
        Some((_, RateSource::Learned)) if is_throttled => Kind::LearnedLimit,
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
