//! Lanes in API responses.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::db::lanes::overview::Load;
use crate::domain::explain::Count;
use crate::domain::id::LaneId;
use crate::domain::lane::unreachable::Cause;
use crate::domain::lane::{Lane, Paused, RateSource, State, Unprepared};
use crate::http::delivery::Delivery;

/// A lane: the queue of one stream, route and destination.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Lane)]
pub struct LaneView {
    /// The lane's id, state and limits.
    #[serde(flatten)]
    pub settings: LaneSettingsView,
    /// Waiting recipients, due now or later.
    pub waiting: Count,
    /// Waiting recipients that are due now.
    pub due: Count,
    /// Recipients leased to workers; null while more than 10,000 recipients wait in all lanes together.
    #[schema(example = 3)]
    pub in_flight: Option<i64>,
    /// Recipients held for an operator; list their messages with `GET /v1/messages?lane=…&held=true`.
    pub held: Count,
    /// Recipients that cannot be prepared for sending until the configuration is fixed; null if there are none.
    pub unprepared: Option<UnpreparedView>,
    /// The earliest due time of the waiting recipients; null if there are none.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub oldest_due_at: Option<DateTime<Utc>>,
}

/// A lane without queue counts; the response of calls that change a lane.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = LaneSettings)]
pub struct LaneSettingsView {
    /// The lane's id.
    #[schema(value_type = String, example = "lane_42")]
    pub id: LaneId,
    /// The lane's stream.
    #[schema(example = "bulk")]
    pub stream: String,
    /// The route: `mx` (the recipients' own servers), `relay`, `relay:NAME` for a configured route, `inbound:ID` for the
    /// server of an inbound route, or `simulator`.
    #[schema(example = "relay")]
    pub route: String,
    /// The destination domain; `*` for all domains of a relay that have no separate lane.
    #[schema(example = "example.test")]
    pub domain: String,
    /// The stream's priority; lower values are sent first.
    #[schema(example = 50)]
    pub priority: i16,
    /// The state of the lane.
    pub state: State,
    /// The reason for the state, as text.
    #[schema(example = "Not limited.")]
    pub reason: String,
    /// The earliest time of the next attempt, set by the rate limit or the next probe; null if the lane is open now.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub open_at: Option<DateTime<Utc>>,
    /// The lane's limits.
    pub limits: LimitsView,
    /// The rate learned from the destination's replies; null if there is none.
    pub learned: Option<LearnedView>,
    /// Details while the destination is unreachable; null if it is reachable.
    pub blocked: Option<BlockedView>,
    /// The pause of the lane or its stream by an operator; null if there is none.
    pub paused: Option<PausedView>,
    /// The lane's own pause, which stays in effect when its stream is resumed; null if the lane itself is not paused.
    pub own_pause: Option<PausedView>,
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
    pub messages_per_connection: WholeLimit,
}

/// A limit on a count.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct WholeLimit {
    /// The limit set on the lane; null if none is set.
    #[schema(example = 4)]
    pub own: Option<i32>,
    /// The limit that applies.
    #[schema(example = 4)]
    pub effective: i64,
    /// The source of `effective`: `lane` or `configuration`.
    #[schema(example = "lane")]
    pub from: &'static str,
    /// The scope of the limit: `all workers` together, `each worker`, or `each connection`.
    #[schema(example = "all workers")]
    pub scope: &'static str,
}

/// A limit on a rate.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct RateLimit {
    /// The limit set on the lane; null if none is set.
    #[schema(example = 10.0)]
    pub own: Option<f64>,
    /// The rate that applies: the lowest of the lane's, the stream's and the learned rate; null if there is none.
    #[schema(example = 10.0)]
    pub effective: Option<f64>,
    /// The source of `effective`: `lane`, `stream` or `learned`; null if there is none.
    #[schema(example = "lane")]
    pub from: Option<&'static str>,
}

/// A rate learned from a destination's replies.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = LearnedLimit)]
pub struct LearnedView {
    /// The current rate in messages per second; rises while the destination accepts messages.
    #[schema(example = 2.0)]
    pub rate: f64,
    /// The rate in messages per second at which the learned limit is removed.
    #[schema(example = 40.0)]
    pub ceiling: f64,
    /// When the destination last throttled Postrider, with `reply`.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub since: DateTime<Utc>,
    /// When the rate was last raised after that; null if it was not.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub raised_at: Option<DateTime<Utc>>,
    /// The destination's reply at `since`; null if it was not recorded.
    #[schema(example = "451 4.7.0 too many messages, slow down")]
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
    #[schema(example = "2026-11-23T12:00:00Z")]
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
    /// When the destination became unreachable.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub since: DateTime<Utc>,
    /// Consecutive failed attempts.
    #[schema(example = 3)]
    pub failures: i16,
    /// When the next probe is due; null if it is due now.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub next_probe_at: Option<DateTime<Utc>>,
    /// The last reply or error.
    #[schema(example = "could not connect to 192.0.2.1:25: connection refused")]
    pub reply: Option<String>,
    /// Why no session could be established; null if not recorded.
    pub cause: Option<Cause>,
    /// The host of the last attempt; null if none was found.
    #[schema(example = "mx1.example.test")]
    pub host: Option<String>,
}

/// A pause, or a suspension of the tenant, set by an operator.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Pause)]
pub struct PausedView {
    /// What is paused: `lane` or `stream`; `tenant`: the whole tenant is suspended.
    #[schema(example = "lane")]
    pub what: &'static str,
    /// When it was paused.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub at: DateTime<Utc>,
    /// The operator's reason; null if none was given.
    #[schema(example = "The relay is being moved.")]
    pub reason: Option<String>,
}

impl PausedView {
    pub(in crate::http) fn new(paused: Paused, what: &'static str) -> Self {
        Self { what, at: paused.at, reason: paused.reason }
    }
}

impl LaneView {
    pub(super) fn new(settings: LaneSettingsView, load: &Load) -> Self {
        Self {
            settings,
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

impl LaneSettingsView {
    pub(super) fn new(lane: Lane, has_workers: bool, unprepared: Option<&Unprepared>, delivery: &Delivery) -> Self {
        let reason = lane.reason(has_workers, unprepared);
        let limits = LimitsView::new(&lane, delivery);
        let open_at = lane.opens_at();
        let next_probe_at = lane.open_at;
        let suspension = lane.stream_limits.suspended.map(|suspended| PausedView::new(suspended, "tenant"));
        let stream_pause = lane.stream_limits.paused.map(|paused| PausedView::new(paused, "stream"));
        let own_pause = lane.paused.clone().map(|paused| PausedView::new(paused, "lane"));
        let lane_pause = lane.paused.map(|paused| PausedView::new(paused, "lane"));
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
            blocked: lane.unreachable.map(|unreachable| BlockedView {
                since: unreachable.since,
                failures: unreachable.failures,
                next_probe_at,
                reply: unreachable.reply,
                cause: unreachable.cause,
                host: unreachable.host,
            }),
            paused: suspension.or(stream_pause).or(lane_pause),
            own_pause,
        }
    }
}

impl LimitsView {
    fn new(lane: &Lane, delivery: &Delivery) -> Self {
        let own = lane.limits;
        let whole = |own: Option<i32>, configured: u32, scopes: (&'static str, &'static str)| match own {
            Some(limit) => WholeLimit { own, effective: limit.into(), from: "lane", scope: scopes.0 },
            None => WholeLimit { own, effective: configured.into(), from: "configuration", scope: scopes.1 },
        };
        let rate = lane.effective_rate();
        Self {
            connections: whole(own.connections, delivery.connections, ("all workers", "each worker")),
            rate: RateLimit {
                own: own.rate,
                effective: rate.map(|(per_second, _)| per_second),
                from: rate.map(|(_, source)| match source {
                    RateSource::Learned => "learned",
                    RateSource::Lane => "lane",
                    RateSource::Stream => "stream",
                }),
            },
            messages_per_connection: whole(
                own.messages_per_connection,
                delivery.messages_per_connection,
                ("each connection", "each connection"),
            ),
        }
    }
}
