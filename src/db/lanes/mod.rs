//! The table `lanes`: creates lanes, finds those with due recipients, and maintains `ready_at`.
//!
//! `ready_at` is a lower bound of the due times of a lane's unleased rows. Code that adds or releases rows calls
//! `lower` in the same transaction, which holds a share lock on the lane until it commits; [`raise`] raises the bound
//! only under an exclusive lock, so that no row is ever missed. Both call functions in the database (`lower_lanes`,
//! `raise_lanes`), which find a lane's newest row version at the same cost for any number of older versions.

pub mod admin;
pub mod dedicated;
pub mod expire_closed;
pub mod health;
pub mod limits;
pub mod overview;
pub mod pauses;
pub mod traces;

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::pool::scan::{SCAN_LIMIT, allow_scan};
use super::queue::ready_at::{DueRow, lower};
use super::{Db, DbError};
use crate::domain::id::TenantId;

/// A lane's natural key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneName {
    /// The tenant.
    pub tenant: TenantId,
    /// The stream.
    pub stream: String,
    /// `mx`, `relay`, `relay:NAME`, `inbound:ID` or `simulator`.
    pub route: String,
    /// Destination domain; `*` for all domains of a relay route.
    pub domain: String,
}

/// An open lane that may have due recipients, and its limits.
#[derive(Debug, Clone)]
pub struct ReadyLane {
    /// `lanes.id`.
    pub id: i64,
    /// The tenant.
    pub tenant_id: Uuid,
    /// The stream.
    pub stream: String,
    /// `mx`, `relay`, `relay:NAME`, `inbound:ID` or `simulator`.
    pub route: String,
    /// Destination domain; `*` for all domains of a relay route.
    pub domain: String,
    /// The stream's priority, within the limit of its tenant; lower values are sent first.
    pub priority: i16,
    /// The stream's weight among the tenant's streams of the same priority.
    pub weight: i16,
    /// The tenant's weight among tenants.
    pub tenant_weight: i16,
    /// Lower bound of the due times of its unleased recipients.
    pub ready_at: DateTime<Utc>,
    /// Limit on concurrent connections across all replicas.
    pub connections: Option<i32>,
    /// Limit on messages per connection.
    pub messages_per_connection: Option<i32>,
    /// Messages per second across all replicas: the lower of the configured and the learned rate.
    pub rate: Option<f64>,
    /// The learned rate, which successful attempts raise.
    pub learned_rate: Option<f64>,
    /// When the destination became unreachable; the next message is a probe.
    pub blocked_since: Option<DateTime<Utc>>,
    /// Messages per second of the whole stream.
    pub stream_rate: Option<f64>,
    /// Limit on messages of the stream in flight across all replicas.
    pub stream_concurrency: Option<i32>,
}

impl ReadyLane {
    /// Returns whether a claim must check limits first.
    pub fn is_limited(&self) -> bool {
        self.rate.is_some() || self.connections.is_some() || self.is_stream_limited()
    }

    /// Returns whether the whole stream is limited.
    pub fn is_stream_limited(&self) -> bool {
        self.stream_rate.is_some() || self.stream_concurrency.is_some()
    }

    /// Returns whether new messages may be leased when they are stored (direct handoff, [`super::messages::insert`]),
    /// without a claim and without lowering `ready_at`: there is no limit that a claim would check or pass to the
    /// sender.
    pub fn allows_direct_handoff(&self) -> bool {
        !self.is_limited() && self.messages_per_connection.is_none() && self.blocked_since.is_none()
    }

    /// Returns whether messages go directly to the recipient domain's mail exchangers.
    pub fn is_mx(&self) -> bool {
        self.route == "mx"
    }

    /// Returns whether this is the lane that all domains of a relay route without a dedicated lane share.
    pub fn is_shared(&self) -> bool {
        self.domain == "*"
    }
}

/// A lane's id and natural key, which do not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedLane {
    /// `lanes.id`.
    pub id: i64,
    /// Natural key.
    pub name: Arc<LaneName>,
}

/// Returns the ids of those of these lanes that exist. Takes no locks.
pub async fn find(db: &Db, names: &[Arc<LaneName>]) -> Result<HashMap<LaneName, i64>, DbError> {
    let Columns { tenants, streams, routes, domains } = Columns::new(names);
    let query = sqlx::query_as!(
        Row,
        "SELECT l.id, l.tenant_id, l.stream, l.route, l.domain
         FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) AS u (tenant_id, stream, route, domain)
         JOIN lanes l ON l.tenant_id = ANY (ARRAY[u.tenant_id]) AND l.stream = u.stream AND l.route = u.route
              AND l.domain = u.domain",
        &tenants,
        &streams as _,
        &routes as _,
        &domains as _
    );
    let rows = db.timed("lanes.find", query.fetch_all(&db.pool.hot())).await?;
    Ok(rows.into_iter().map(Row::into_entry).collect())
}

/// Creates those of these lanes that are missing and returns their ids. Waits for concurrent transactions that create
/// the same lanes. It therefore does not use a connection of the hot path, for which other calls would wait. Lanes of a
/// missing stream are not created. `lanes.priority` becomes that of the stream and stays so: [`ready`] reads the index that begins
/// with it, but returns lanes in the order of the streams' current priorities.
pub async fn create(db: &Db, names: &[Arc<LaneName>]) -> Result<HashMap<LaneName, i64>, DbError> {
    let Columns { tenants, streams, routes, domains } = Columns::new(names);
    // In a fixed order, so that two replicas that create the same lanes cannot deadlock.
    let query = sqlx::query_as!(
        Row,
        "INSERT INTO lanes (tenant_id, stream, route, domain, priority)
         SELECT u.tenant_id, u.stream, u.route, u.domain, s.priority
         FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) AS u (tenant_id, stream, route, domain)
         JOIN streams s ON s.tenant_id = u.tenant_id AND s.name = u.stream
         ORDER BY u.tenant_id, u.stream, u.route, u.domain
         ON CONFLICT (tenant_id, stream, route, domain) DO NOTHING
         RETURNING id, tenant_id, stream, route, domain",
        &tenants,
        &streams as _,
        &routes as _,
        &domains as _
    );
    let rows = db.timed("lanes.create", query.fetch_all(&db.pool)).await?;
    Ok(rows.into_iter().map(Row::into_entry).collect())
}

struct Row {
    id: i64,
    tenant_id: Uuid,
    stream: String,
    route: String,
    domain: String,
}

impl Row {
    fn into_entry(self) -> (LaneName, i64) {
        let Self { id, tenant_id, stream, route, domain } = self;
        (LaneName { tenant: TenantId(tenant_id), stream, route, domain }, id)
    }
}

/// Lane keys as columns for `unnest`.
struct Columns<'a> {
    tenants: Vec<Uuid>,
    streams: Vec<&'a str>,
    routes: Vec<&'a str>,
    domains: Vec<&'a str>,
}

impl<'a> Columns<'a> {
    fn new(names: &'a [Arc<LaneName>]) -> Self {
        Self {
            tenants: names.iter().map(|name| name.tenant.0).collect(),
            streams: names.iter().map(|name| &*name.stream).collect(),
            routes: names.iter().map(|name| &*name.route).collect(),
            domains: names.iter().map(|name| &*name.domain).collect(),
        }
    }
}

/// Maximum number of lanes from which [`ready`] lists the tenants to examine.
const MAX_LISTED_LANES: i64 = 1_000;

/// Returns open lanes of tenants that are not suspended and that may have due recipients, except `skip`: for each stream,
/// the `per_stream` lanes that have been ready for the longest time; for each tenant, `per_tenant` of these: the first 16
/// of each stream, because the lanes of urgent streams may all be at their limits, and then in order of the streams'
/// priority. All are in this order.
pub async fn ready(
    db: &Db,
    now: DateTime<Utc>,
    per_stream: i64,
    per_tenant: i64,
    skip: &[i64],
) -> Result<Vec<ReadyLane>, DbError> {
    // Usually few tenants have lanes with due recipients. They are found in the index `lanes_ready`, which is read priority by
    // priority, because it begins with the priority. If it has MAX_LISTED_LANES such lanes, there may be more tenants, and all are
    // examined. The lanes of a tenant are then read stream by stream, so that only the start of the stream's part of the index
    // `lanes_open` is read, and no closed lanes. Because of LIMIT, the planner cannot begin with all tenants.
    let query = sqlx::query_as!(
        ReadyLane,
        r#"WITH RECURSIVE priorities AS (
               (SELECT priority FROM lanes WHERE paused_at IS NULL AND ready_at < 'infinity' ORDER BY priority LIMIT 1)
               UNION ALL
               SELECT next.priority FROM priorities CROSS JOIN LATERAL (
                   SELECT priority FROM lanes
                   WHERE paused_at IS NULL AND ready_at < 'infinity' AND lanes.priority > priorities.priority
                   ORDER BY lanes.priority LIMIT 1) next),
           listed AS MATERIALIZED (
               SELECT due.tenant_id FROM priorities CROSS JOIN LATERAL (
                   SELECT tenant_id FROM lanes
                   WHERE paused_at IS NULL AND ready_at < 'infinity' AND lanes.priority = priorities.priority AND ready_at <= $1
                   LIMIT $5 /* MAX_LISTED_LANES */) due
               LIMIT $5),
           candidates AS MATERIALIZED (
               SELECT tenant_id AS id FROM listed WHERE (SELECT count(*) FROM listed) < $5
               UNION
               SELECT id FROM tenants WHERE (SELECT count(*) FROM listed) >= $5)
           SELECT r.id, r.tenant_id, r.stream, r.route, r.domain, r.priority AS "priority!", r.weight,
                  t.weight AS tenant_weight, r.ready_at, r.connections, r.messages_per_connection, r.rate, r.learned_rate,
                  r.blocked_since, r.stream_rate, r.stream_concurrency
           FROM candidates CROSS JOIN LATERAL (
               SELECT id, weight, min_priority FROM tenants WHERE id = candidates.id AND suspended_at IS NULL LIMIT 1) t
           CROSS JOIN LATERAL (
               SELECT l.id, s.tenant_id, s.name AS stream, l.route, l.domain,
                      greatest(s.priority, t.min_priority) AS priority, s.weight, l.ready_at, l.connections,
                      l.mails_per_connection AS messages_per_connection, least(l.rate, l.learned_rate) AS rate,
                      l.learned_rate, l.blocked_since, s.rate AS stream_rate, s.concurrency AS stream_concurrency,
                      greatest(l.ready_at, l.open_at) AS ready_since
               FROM streams s CROSS JOIN LATERAL (
                   SELECT *, row_number() OVER (ORDER BY greatest(ready_at, open_at)) AS position FROM lanes
                   WHERE tenant_id = s.tenant_id AND stream = s.name AND paused_at IS NULL
                     AND greatest(ready_at, open_at) <= $1 AND id <> ALL ($4)
                   ORDER BY greatest(ready_at, open_at) LIMIT $2) l
               WHERE s.tenant_id = t.id AND s.paused_at IS NULL AND s.open_at <= $1
               ORDER BY l.position > 16, priority, greatest(l.ready_at, l.open_at) LIMIT $3) r
           ORDER BY r.priority, r.ready_since"#,
        now,
        per_stream,
        per_tenant,
        skip,
        MAX_LISTED_LANES
    );
    db.timed("lanes.ready", query.fetch_all(&db.pool.hot())).await
}

/// Lowers `ready_at` of lanes where it is above the first due time. This must not happen, but such a lane would never
/// be claimed from. Returns the number of these lanes. Scans all lanes, so call it rarely.
pub async fn correct_ready_at(db: &Db) -> Result<usize, DbError> {
    db.timed_for(SCAN_LIMIT, "lanes.correct_ready_at", async {
        let mut tx = db.pool.begin().await?;
        allow_scan(&mut tx).await?;
        let too_high = sqlx::query_as!(
            DueRow,
            "SELECT lanes.id AS lane, first.due_at FROM lanes
             CROSS JOIN LATERAL (
                 SELECT due_at FROM queue WHERE lane_id = lanes.id AND lease IS NULL ORDER BY due_at LIMIT 1) AS first
             WHERE first.due_at < lanes.ready_at"
        )
        .fetch_all(&mut *tx)
        .await?;
        let count = too_high.len();
        lower(&mut tx, too_high).await?;
        tx.commit().await?;
        Ok(count)
    })
    .await
}

/// A lane whose `ready_at` may be too low.
#[derive(Debug, Clone, Copy)]
pub struct Raise {
    /// `lanes.id`.
    pub lane: i64,
    /// Upper limit for the new `ready_at`, so that new rows need not lower it again. With `None`, a lane without
    /// unleased rows gets `infinity`, and claims skip it.
    pub most: Option<DateTime<Utc>>,
}

/// Raises `ready_at` of lanes to the due time of their first unleased row. Skips lanes to which another transaction
/// adds rows, and returns the others.
pub async fn raise(db: &Db, lanes: &[Raise]) -> Result<Vec<i64>, DbError> {
    let ids: Vec<i64> = lanes.iter().map(|raise| raise.lane).collect();
    let most: Vec<Option<DateTime<Utc>>> = lanes.iter().map(|raise| raise.most).collect();
    // Without a limit, `infinity` is passed: the function uses the lesser of the limit and the first due time.
    let query = sqlx::query_scalar!(
        r#"SELECT raise_lanes($1, ARRAY(SELECT coalesce(m, 'infinity') FROM unnest($2::timestamptz[]) WITH ORDINALITY AS u (m, n)
                                        ORDER BY n)) AS "lane!""#,
        &ids,
        &most as _
    );
    db.timed("lanes.raise", query.fetch_all(&db.pool.hot())).await
}
