//! Queries for the lane API: state, limits and load of lanes. Counts stop at a maximum, so that a queue of millions of
//! rows costs no more than one of thousands.

use chrono::{DateTime, Utc};

use crate::db::{Db, DbError, queue};
use crate::domain::explain::Count;
use crate::domain::id::{LaneId, TenantId};
use crate::domain::lane::{Lane, Learned, Paused, State, StreamLimits, Unprepared, Unreachable};
use crate::domain::limits::LaneLimits;

/// Filters for lanes.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only lanes with these ids.
    pub ids: Option<Vec<i64>>,
    /// Only lanes of this stream.
    pub stream: Option<String>,
    /// Only lanes of this route.
    pub route: Option<String>,
    /// Only lanes to these domains.
    pub domains: Option<Vec<String>>,
    /// Only lanes in this state.
    pub state: Option<State>,
    /// Only lanes with (`true`) or without (`false`) waiting recipients, due now or later.
    pub waiting: Option<bool>,
    /// Only lanes after this cursor.
    pub after: Option<Cursor>,
}

/// A position in the order of lanes: lanes that are not in the state `open` first, then by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Whether the lane at the cursor was open.
    pub is_open: bool,
    /// The lane at the cursor.
    pub id: LaneId,
}

/// A row of [`lanes`].
struct LaneRow {
    id: i64,
    stream: String,
    route: String,
    domain: String,
    priority: i16,
    state: String,
    is_due: bool,
    open_at: Option<DateTime<Utc>>,
    paused_at: Option<DateTime<Utc>>,
    pause_reason: Option<String>,
    connections: Option<i32>,
    rate: Option<f64>,
    messages_per_connection: Option<i32>,
    learned_rate: Option<f64>,
    learned_ceiling: Option<f64>,
    learned_at: Option<DateTime<Utc>>,
    raised_at: Option<DateTime<Utc>>,
    learned_reply: Option<String>,
    blocked_since: Option<DateTime<Utc>>,
    block_failures: i16,
    block_reply: Option<String>,
    block_cause: Option<String>,
    block_host: Option<String>,
    in_use: i64,
    suspended_at: Option<DateTime<Utc>>,
    suspend_reason: Option<String>,
    stream_paused_at: Option<DateTime<Utc>>,
    stream_pause_reason: Option<String>,
    stream_concurrency: Option<i32>,
    stream_rate: Option<f64>,
    stream_open_at: Option<DateTime<Utc>>,
    stream_in_use: i64,
}

/// Returns lanes with their state at `now`: those that are not in the state `open` first, then by id.
pub async fn lanes(
    db: &Db,
    tenant: TenantId,
    filter: &Filter,
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Vec<Lane>, DbError> {
    // With custom plans, the planner removes the conditions of absent filters. A lane with a rate limit and due
    // recipients counts as throttled even while the rate limiter admits messages; otherwise its state would change many
    // times per second.
    let query = sqlx::query_as!(
        LaneRow,
        r#"SELECT l.id, l.stream, l.route, l.domain, greatest(s.priority, t.min_priority) AS "priority!",
                  c.state AS "state!", d.is_due AS "is_due!",
                  CASE WHEN l.open_at > $1 /* now */ THEN nullif(l.open_at, 'infinity') END AS open_at,
                  l.paused_at, l.pause_reason, l.connections, l.rate, l.mails_per_connection AS messages_per_connection,
                  l.learned_rate,
                  l.learned_ceiling, l.learned_at, l.raised_at, l.learned_reply, l.blocked_since, l.block_failures,
                  l.block_reply, l.block_cause, l.block_host,
                  coalesce(p.count, 0) AS "in_use!", t.suspended_at, t.suspend_reason, s.paused_at AS stream_paused_at,
                  s.pause_reason AS stream_pause_reason, s.concurrency AS stream_concurrency, s.rate AS stream_rate,
                  CASE WHEN s.open_at > $1 THEN nullif(s.open_at, 'infinity') END AS stream_open_at,
                  (SELECT coalesce(sum(sp.count), 0) FROM stream_permits sp
                   WHERE sp.tenant_id = $2 AND sp.stream = l.stream) AS "stream_in_use!"
           FROM lanes l
           JOIN streams s ON s.tenant_id = l.tenant_id AND s.name = l.stream
           JOIN tenants t ON t.id = l.tenant_id
           LEFT JOIN (SELECT lane_id, sum(count) AS count FROM permits GROUP BY lane_id) p ON p.lane_id = l.id
           CROSS JOIN LATERAL (SELECT l.ready_at <= $1 AND EXISTS (
               SELECT FROM queue
               WHERE lane_id = l.id AND lease IS NULL AND due_at >= l.ready_at AND due_at <= $1) AS is_due) d
           CROSS JOIN LATERAL (SELECT CASE
               WHEN num_nonnulls(l.paused_at, s.paused_at, t.suspended_at) > 0 THEN 'paused'
               WHEN l.blocked_since IS NOT NULL THEN 'blocked'
               WHEN l.learned_rate IS NOT NULL THEN 'throttled'
               WHEN (l.rate IS NOT NULL OR s.rate IS NOT NULL) AND d.is_due THEN 'throttled'
               ELSE 'open' END AS state) c
           WHERE l.tenant_id = $2 /* tenant */
             AND ($3::bigint[] /* ids */ IS NULL OR l.id = ANY ($3))
             AND ($4::text /* stream */ IS NULL OR l.stream = $4)
             AND ($5::text /* route */ IS NULL OR l.route = $5)
             AND ($6::text[] /* domains */ IS NULL OR l.domain = ANY ($6))
             AND ($7::text /* state */ IS NULL OR c.state = $7)
             AND ($8::boolean /* is_open */ IS NULL OR (c.state = 'open', l.id) > ($8, $9::bigint /* after.id */))
             AND ($11::boolean /* waiting */ IS NULL OR $11 = EXISTS (
                 SELECT FROM queue WHERE lane_id = l.id AND lease IS NULL AND due_at >= l.ready_at AND due_at < 'infinity'))
           ORDER BY c.state = 'open', l.id LIMIT $10 /* limit */"#,
        now,
        tenant.0,
        filter.ids.as_deref(),
        filter.stream,
        filter.route,
        filter.domains.as_deref(),
        filter.state.map(State::as_str),
        filter.after.map(|after| after.is_open),
        filter.after.map(|after| after.id.0),
        limit,
        filter.waiting
    );
    let rows = db.timed("lanes.overview.lanes", query.fetch_all(&db.pool)).await?;
    Ok(rows.into_iter().map(LaneRow::into_lane).collect())
}

/// Returns one lane.
pub async fn lane(db: &Db, tenant: TenantId, id: LaneId, now: DateTime<Utc>) -> Result<Option<Lane>, DbError> {
    let filter = Filter { ids: Some(vec![id.0]), ..Filter::default() };
    Ok(lanes(db, tenant, &filter, 1, now).await?.pop())
}

/// Returns a stream's pause and limits, and its priority, for a lane that does not exist yet.
pub async fn stream_terms(
    db: &Db,
    tenant: TenantId,
    stream: &str,
    now: DateTime<Utc>,
) -> Result<(StreamLimits, i16), DbError> {
    let query = sqlx::query!(
        r#"SELECT t.suspended_at, t.suspend_reason, s.paused_at, s.pause_reason, s.concurrency, s.rate,
                  greatest(s.priority, t.min_priority) AS "priority!",
                  CASE WHEN s.open_at > $3 THEN nullif(s.open_at, 'infinity') END AS open_at,
                  (SELECT coalesce(sum(p.count), 0) FROM stream_permits p
                   WHERE p.tenant_id = $1 AND p.stream = s.name) AS "in_use!"
           FROM streams s JOIN tenants t ON t.id = s.tenant_id WHERE s.tenant_id = $1 AND s.name = $2"#,
        tenant.0,
        stream,
        now
    );
    let Some(row) = db.timed("lanes.overview.stream_terms", query.fetch_optional(&db.pool)).await? else {
        return Ok((StreamLimits::default(), 0));
    };
    let terms = StreamLimits {
        suspended: row.suspended_at.map(|at| Paused { at, reason: row.suspend_reason }),
        paused: row.paused_at.map(|at| Paused { at, reason: row.pause_reason }),
        concurrency: row.concurrency,
        rate: row.rate,
        open_at: row.open_at,
        in_use: row.in_use,
    };
    Ok((terms, row.priority))
}

impl LaneRow {
    fn into_lane(self) -> Lane {
        let paused = |at: Option<DateTime<Utc>>, reason| at.map(|at| Paused { at, reason });
        let learned = self.learned_rate.zip(self.learned_ceiling).zip(self.learned_at);
        Lane {
            id: LaneId(self.id),
            stream: self.stream,
            route: self.route,
            domain: self.domain,
            priority: self.priority,
            // The query above produces the state names.
            state: self.state.parse().unwrap_or(State::Open),
            is_due: self.is_due,
            open_at: self.open_at,
            paused: paused(self.paused_at, self.pause_reason),
            limits: LaneLimits {
                connections: self.connections,
                rate: self.rate,
                messages_per_connection: self.messages_per_connection,
            },
            learned: learned.map(|((rate, ceiling), at)| Learned {
                rate,
                ceiling,
                at,
                raised_at: self.raised_at,
                reply: self.learned_reply,
            }),
            unreachable: self.blocked_since.map(|since| Unreachable {
                since,
                failures: self.block_failures,
                reply: self.block_reply,
                cause: self.block_cause.and_then(|word| word.parse().ok()),
                host: self.block_host,
            }),
            in_use: self.in_use,
            stream_limits: StreamLimits {
                suspended: paused(self.suspended_at, self.suspend_reason),
                paused: paused(self.stream_paused_at, self.stream_pause_reason),
                concurrency: self.stream_concurrency,
                rate: self.stream_rate,
                open_at: self.stream_open_at,
                in_use: self.stream_in_use,
            },
        }
    }
}

/// Counts of a lane's recipients stop at this number.
pub const COUNTED: i64 = 10_000;

/// Numbers of recipients in a lane.
#[derive(Debug, Clone, Default)]
pub struct Load {
    /// Waiting, due now or later.
    pub waiting: Count,
    /// Waiting and due now.
    pub due: Count,
    /// Leased; `None` with a large backlog, where counting them would scan the whole queue.
    pub in_flight: Option<i64>,
    /// Held for an operator.
    pub held: Count,
    /// The earliest due time of the waiting recipients.
    pub oldest_due_at: Option<DateTime<Utc>>,
    /// Waiting recipients that cannot be prepared.
    pub unprepared: Option<Unprepared>,
}

/// Returns the load of these lanes, in the given order.
pub async fn loads(db: &Db, lanes: &[i64], now: DateTime<Utc>) -> Result<Vec<Load>, DbError> {
    // Reads from `ready_at` on, as a claim does: before it, there are only dead index entries.
    let query = sqlx::query!(
        r#"SELECT w.waiting AS "waiting!", w.due AS "due!", w.oldest, h.held AS "held!"
           FROM unnest($1::bigint[]) WITH ORDINALITY AS u (id, n)
           JOIN lanes l ON l.id = u.id
           CROSS JOIN LATERAL (
               SELECT count(*) AS waiting, count(*) FILTER (WHERE q.due_at <= $2) AS due, min(q.due_at) AS oldest
               FROM (SELECT due_at FROM queue WHERE lane_id = l.id AND lease IS NULL AND due_at >= l.ready_at
                        AND due_at < 'infinity' ORDER BY due_at LIMIT $3) q) w
           CROSS JOIN LATERAL (
               SELECT count(*) AS held
               FROM (SELECT FROM queue WHERE lane_id = l.id AND lease IS NULL AND due_at = 'infinity' LIMIT $3) q) h
           ORDER BY u.n"#,
        lanes,
        now,
        COUNTED + 1
    );
    let rows = db.timed("lanes.overview.loads", query.fetch_all(&db.pool)).await?;
    let in_flight = in_flight(db, lanes).await?;
    let mut unprepared = unprepared(db, lanes).await?;
    let loads = rows.into_iter().enumerate().map(|(n, row)| Load {
        waiting: Count::bounded(row.waiting, COUNTED),
        due: Count::bounded(row.due, COUNTED),
        in_flight: in_flight.as_ref().map(|counts| counts.get(n).copied().unwrap_or(0)),
        held: Count::bounded(row.held, COUNTED),
        oldest_due_at: row.oldest,
        unprepared: unprepared.get_mut(n).and_then(Option::take),
    });
    Ok(loads.collect())
}

/// Returns, for each lane in the given order, its waiting recipients that cannot be prepared.
pub async fn unprepared(db: &Db, lanes: &[i64]) -> Result<Vec<Option<Unprepared>>, DbError> {
    let query = sqlx::query!(
        r#"SELECT c.count AS "count!", f.preparation_failed_at AS "since?", f.preparation_error AS "error?"
           FROM unnest($1::bigint[]) WITH ORDINALITY AS u (id, n)
           CROSS JOIN LATERAL (
               SELECT count(*) AS count
               FROM (SELECT FROM queue
                     WHERE lane_id = u.id AND lease IS NULL AND preparation_error IS NOT NULL LIMIT $2) q) c
           LEFT JOIN LATERAL (
               SELECT preparation_failed_at, preparation_error FROM queue
               WHERE lane_id = u.id AND lease IS NULL AND preparation_error IS NOT NULL
               ORDER BY preparation_failed_at LIMIT 1) f ON true
           ORDER BY u.n"#,
        lanes,
        COUNTED + 1
    );
    let rows = db.timed("lanes.overview.unprepared", query.fetch_all(&db.pool)).await?;
    let unprepared = rows.into_iter().map(|row| {
        let recipients = Count::bounded(row.count, COUNTED);
        row.since.zip(row.error).map(|(since, error)| Unprepared { recipients, since, error })
    });
    Ok(unprepared.collect())
}

/// Returns the number of leased recipients per lane; `None` with a backlog, because counting scans the whole queue.
/// There is no index for it, which would make every claim more expensive.
async fn in_flight(db: &Db, lanes: &[i64]) -> Result<Option<Vec<i64>>, DbError> {
    if queue::has_backlog(db).await? {
        return Ok(None);
    }
    let query = sqlx::query_scalar!(
        r#"SELECT count(q.lane_id) AS "count!"
           FROM unnest($1::bigint[]) WITH ORDINALITY AS u (id, n)
           LEFT JOIN queue q ON q.lane_id = u.id AND q.lease IS NOT NULL
           GROUP BY u.n ORDER BY u.n"#,
        lanes
    );
    db.timed("lanes.overview.in_flight", query.fetch_all(&db.pool)).await.map(Some)
}
