//! Lanes in API responses.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::db::lanes::overview::Load;
use crate::domain::explain::Count;
use crate::domain::id::LaneId;
use crate::domain::lane::{Lane, Paused, RateOf, State, Unprepared};
use crate::domain::unreachable::Cause;
use crate::http::delivery::Delivery;

/// A lane: the queue of one stream, route and destination.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Lane)]
pub struct LaneView {
    /// The lane's identity, state and limits.
    #[serde(flatten)]
    pub terms: TermsView,
    /// Waiting recipients, due now or later.
    pub waiting: Count,
    /// Waiting recipients that are due now.
    pub due: Count,
    /// Recipients leased to workers; null while more than 10,000 recipients wait in all lanes together.
    pub in_flight: Option<i64>,
    /// Recipients held for an operator; list their messages with `GET /v1/messages?lane=…&held=true`.
    pub held: Count,
    /// Recipients that cannot be prepared for sending until the configuration is fixed; null if there are none.
    pub unprepared: Option<UnpreparedView>,
    /// The earliest due time of the waiting recipients; null if there are none.
    pub oldest_due_at: Option<DateTime<Utc>>,
}

/// A lane without queue counts, as calls that change a lane return it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = LaneTerms)]
pub struct TermsView {
    /// The lane's id.
    #[schema(value_type = String, example = "lane_42")]
    pub id: LaneId,
    /// The lane's stream.
    pub stream: String,
    /// The route: `mx` (the recipients' own servers), `relay`, or `relay:NAME` for a configured route.
    #[schema(example = "relay")]
    pub route: String,
    /// The destination domain; `*` for all domains of a relay that have no separate lane.
    #[schema(example = "example.test")]
    pub domain: String,
    /// The stream's priority; lower values are sent first.
    pub priority: i16,
    /// The state of the lane.
    pub state: State,
    /// The reason for the state, as text.
    pub reason: String,
    /// The earliest time of the next attempt, set by the rate limit or the next probe; null if the lane is open now.
    pub open_at: Option<DateTime<Utc>>,
    /// The lane's limits.
    pub limits: LimitsView,
    /// The rate learned from the destination's replies; null if there is none.
    pub learned: Option<LearnedView>,
    /// Set while the destination is unreachable.
    pub blocked: Option<BlockedView>,
    /// Set while an operator has paused the lane or its stream.
    pub paused: Option<PausedView>,
}

/// The limits of a lane.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = LaneLimits)]
pub struct LimitsView {
    /// Maximum concurrent connections.
    pub connections: WholeLimit,
    /// Maximum messages per second.
    pub rate: RateLimit,
    /// Maximum messages per connection.
    pub mails_per_connection: WholeLimit,
}

/// A limit on a count.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct WholeLimit {
    /// The limit set on the lane; null if none is set.
    pub own: Option<i32>,
    /// The limit that applies.
    pub effective: i64,
    /// The source of `effective`: `lane` or `configuration`.
    pub from: &'static str,
    /// The scope of the limit: `all workers` together, `each worker`, or `each connection`.
    pub over: &'static str,
}

/// A limit on a rate.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct RateLimit {
    /// The limit set on the lane; null if none is set.
    pub own: Option<f64>,
    /// The rate that applies: the lowest of the lane's, the stream's and the learned rate; null if there is none.
    pub effective: Option<f64>,
    /// The source of `effective`: `lane`, `stream` or `learned`; null if there is none.
    pub from: Option<&'static str>,
}

/// A rate learned from a destination's replies.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = LearnedLimit)]
pub struct LearnedView {
    /// The current rate in messages per second; rises while the destination accepts messages.
    pub rate: f64,
    /// The rate in messages per second at which the learned limit is removed.
    pub ceiling: f64,
    /// When the destination last throttled, with `reply`.
    pub since: DateTime<Utc>,
    /// When the rate was last raised after that; null if it was not.
    pub raised_at: Option<DateTime<Utc>>,
    /// The reply that led to the limit.
    pub reply: Option<String>,
}

/// Recipients that cannot be prepared for sending because of this service's configuration. They are included in
/// `waiting`. No attempt is counted. Preparation is retried every 5 minutes, or at once after
/// `POST /v1/lanes/{id}/reset`.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = LaneUnprepared)]
pub struct UnpreparedView {
    /// The number of such recipients.
    pub recipients: Count,
    /// When the first of them could not be prepared.
    pub since: DateTime<Utc>,
    /// The reason for the first of them, with the domain and the configuration key.
    #[schema(
        example = "messages from domain acme.test cannot be signed: secret_key (POSTRIDER_SECRET_KEY) is not set"
    )]
    pub error: String,
}

/// Details of an unreachable destination.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = LaneBlock)]
pub struct BlockedView {
    /// Since when the destination is unreachable.
    pub since: DateTime<Utc>,
    /// Consecutive failed attempts.
    pub failures: i16,
    /// When the next probe is due; null if it is due now.
    pub next_probe_at: Option<DateTime<Utc>>,
    /// The last reply or error.
    pub reply: Option<String>,
    /// Why no session could be established; null if not recorded.
    pub cause: Option<Cause>,
    /// The host of the last attempt; null if none was found.
    pub host: Option<String>,
}

/// A pause set by an operator.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Pause)]
pub struct PausedView {
    /// What is paused: `lane` or `stream`.
    pub what: &'static str,
    /// When it was paused.
    pub at: DateTime<Utc>,
    /// The operator's reason; null if none was given.
    pub reason: Option<String>,
}

impl PausedView {
    pub(in crate::http) fn new(paused: Paused, what: &'static str) -> Self {
        Self { what, at: paused.at, reason: paused.reason }
    }
}

impl LaneView {
    pub(super) fn new(terms: TermsView, load: &Load) -> Self {
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
    pub(super) fn new(lane: Lane, has_workers: bool, unprepared: Option<&Unprepared>, delivery: &Delivery) -> Self {
        let reason = lane.reason(has_workers, unprepared);
        let limits = LimitsView::new(&lane, delivery);
        let open_at = lane.opens();
        let next_probe_at = lane.open_at;
        let of_stream = lane.of_stream.paused.map(|paused| PausedView::new(paused, "stream"));
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
            paused: of_stream.or_else(|| lane.paused.map(|paused| PausedView::new(paused, "lane"))),
        }
    }
}

impl LimitsView {
    fn new(lane: &Lane, delivery: &Delivery) -> Self {
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
