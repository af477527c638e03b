//! A lane as the API shows it.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::db::lanes::overview::Load;
use crate::domain::explain::Count;
use crate::domain::id::LaneId;
use crate::domain::lane::{Lane, Paused, RateOf, State, Unprepared};
use crate::domain::unreachable::Cause;
use crate::http::delivery::Delivery;

/// A lane: what waits together, because it goes the same way to the same destination.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Lane)]
pub struct LaneView {
    /// What it is and whether it moves.
    #[serde(flatten)]
    pub terms: TermsView,
    /// Recipients that wait, due now or later.
    pub waiting: Count,
    /// Of those, due now.
    pub due: Count,
    /// Recipients in workers' hands; null while more than 10,000 recipients wait in all lanes together.
    pub in_flight: Option<i64>,
    /// Recipients that wait for an operator; list their messages with `GET /v1/messages?lane=…&held=true`.
    pub held: Count,
    /// Recipients that cannot be prepared for sending until a configuration is fixed: since when, and why.
    pub unprepared: Option<UnpreparedView>,
    /// When the first of those that wait is or was due.
    pub oldest_due_at: Option<DateTime<Utc>>,
}

/// A lane without what waits in it: what a call that changes it answers, so that it need not count.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = LaneTerms)]
pub struct TermsView {
    /// The lane.
    #[schema(value_type = String, example = "lane_42")]
    pub id: LaneId,
    /// In which stream.
    pub stream: String,
    /// `mx` (the recipients' own servers), `relay`, or `relay:NAME` for a configured route.
    #[schema(example = "relay")]
    pub route: String,
    /// Destination domain; `*` for all that goes through a relay.
    #[schema(example = "example.test")]
    pub domain: String,
    /// The stream's; lower goes first.
    pub priority: i16,
    /// Whether it moves.
    pub state: State,
    /// Why it moves or not, in a sentence or two.
    pub reason: String,
    /// Nothing starts before then: the rate's next turn or the next probe; null where it is open now.
    pub open_at: Option<DateTime<Utc>>,
    /// What may go through it.
    pub limits: LimitsView,
    /// What the destination asked for by its replies.
    pub learned: Option<LearnedView>,
    /// That the destination cannot be reached.
    pub blocked: Option<BlockedView>,
    /// That an operator has stopped it.
    pub paused: Option<PausedView>,
}

/// The limits of a lane.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = LaneLimits)]
pub struct LimitsView {
    /// Connections at one time.
    pub connections: WholeLimit,
    /// Mails a second.
    pub rate: RateLimit,
    /// Mails over one connection.
    pub mails_per_connection: WholeLimit,
}

/// A limit that is a count.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct WholeLimit {
    /// The lane's own; null where it has none.
    pub own: Option<i32>,
    /// What applies.
    pub effective: i64,
    /// Where that comes from: `lane` or `configuration`.
    pub from: &'static str,
    /// What it is counted over: `all workers` together, `each worker`, or `each connection`.
    pub over: &'static str,
}

/// A limit that is a rate.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct RateLimit {
    /// The lane's own; null where it has none.
    pub own: Option<f64>,
    /// What applies: the lowest of the lane's, the stream's and the learned one; null where there is none.
    pub effective: Option<f64>,
    /// Where that comes from: `lane`, `stream` or `learned`; null where there is none.
    pub from: Option<&'static str>,
}

/// A rate that a destination asked for by its replies.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = LearnedLimit)]
pub struct LearnedView {
    /// Mails a second now; rises while the destination takes it.
    pub rate: f64,
    /// Mails a second at which the limit is forgotten.
    pub ceiling: f64,
    /// When the destination last asked for less, by `reply`.
    pub since: DateTime<Utc>,
    /// When success last raised the rate since then.
    pub raised_at: Option<DateTime<Utc>>,
    /// The reply that asked for it.
    pub reply: Option<String>,
}

/// Recipients that cannot be prepared for sending, for a reason that is ours. They count among `waiting`; no attempt is counted,
/// and they are prepared again every 5 minutes, or at once after `POST /v1/lanes/{id}/reset`.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = LaneUnprepared)]
pub struct UnpreparedView {
    /// How many.
    pub recipients: Count,
    /// Since when the first of them.
    pub since: DateTime<Utc>,
    /// Why that one, with the domain and the configuration key.
    #[schema(
        example = "messages from domain acme.test cannot be signed: secret_key (POSTRIDER_SECRET_KEY) is not set"
    )]
    pub error: String,
}

/// That a destination cannot be reached.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = LaneBlock)]
pub struct BlockedView {
    /// Since when.
    pub since: DateTime<Utc>,
    /// Tries that failed in a row.
    pub failures: i16,
    /// When it is tried again; null where that is now.
    pub next_probe_at: Option<DateTime<Utc>>,
    /// What the last try heard.
    pub reply: Option<String>,
    /// Why no session can be had; null where that was not recorded.
    pub cause: Option<Cause>,
    /// The host that was tried last; null where none was found.
    pub host: Option<String>,
}

/// That an operator has stopped something.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Pause)]
pub struct PausedView {
    /// What was stopped: `lane` or `stream`.
    pub what: &'static str,
    /// When.
    pub at: DateTime<Utc>,
    /// The reason given.
    pub reason: Option<String>,
}

impl PausedView {
    pub(in crate::http) fn of(paused: Paused, what: &'static str) -> Self {
        Self { what, at: paused.at, reason: paused.reason }
    }
}

impl LaneView {
    pub(super) fn of(terms: TermsView, load: &Load) -> Self {
        Self {
            terms,
            waiting: load.waiting,
            due: load.due,
            in_flight: load.in_flight,
            held: load.held,
            unprepared: load.unprepared.clone().map(|unprepared| UnpreparedView {
                recipients: unprepared.recipients,
                since: unprepared.since,
                error: unprepared.error,
            }),
            oldest_due_at: load.oldest_due_at,
        }
    }
}

impl TermsView {
    pub(super) fn of(lane: Lane, has_workers: bool, unprepared: Option<&Unprepared>, delivery: &Delivery) -> Self {
        let reason = lane.reason(has_workers, unprepared);
        let limits = LimitsView::of(&lane, delivery);
        let open_at = lane.opens();
        let next_probe_at = lane.open_at;
        let of_stream = lane.of_stream.paused.map(|paused| PausedView::of(paused, "stream"));
        Self {
            id: lane.id,
            stream: lane.stream,
            route: lane.route,
            domain: lane.domain,
            priority: lane.priority,
            state: lane.state,
            reason,
            open_at,
            limits,
            learned: lane.learned.map(|learned| LearnedView {
                rate: learned.rate,
                ceiling: learned.ceiling,
                since: learned.at,
                raised_at: learned.raised_at,
                reply: learned.reply,
            }),
            blocked: lane.blocked.map(|blocked| BlockedView {
                since: blocked.since,
                failures: blocked.failures,
                next_probe_at,
                reply: blocked.reply,
                cause: blocked.cause,
                host: blocked.host,
            }),
            paused: of_stream.or_else(|| lane.paused.map(|paused| PausedView::of(paused, "lane"))),
        }
    }
}

impl LimitsView {
    fn of(lane: &Lane, delivery: &Delivery) -> Self {
        let own = lane.limits;
        let whole = |own: Option<i32>, configured: u32, over: (&'static str, &'static str)| match own {
            Some(limit) => WholeLimit { own, effective: limit.into(), from: "lane", over: over.0 },
            None => WholeLimit { own, effective: configured.into(), from: "configuration", over: over.1 },
        };
        let rate = lane.effective_rate();
        Self {
            connections: whole(own.connections, delivery.connections, ("all workers", "each worker")),
            rate: RateLimit {
                own: own.rate,
                effective: rate.map(|(per_second, _)| per_second),
                from: rate.map(|(_, of)| match of {
                    RateOf::Learned => "learned",
                    RateOf::Lane => "lane",
                    RateOf::Stream => "stream",
                }),
            },
            mails_per_connection: whole(
                own.mails_per_connection,
                delivery.mails_per_connection,
                ("each connection", "each connection"),
            ),
        }
    }
}
