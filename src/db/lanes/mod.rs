//! `lanes`: what waits together, and which of them have something due.
//!
//! `ready_at` is a lower bound of the due times of a lane's free rows. Whoever adds or frees rows calls `lower` in the
//! same transaction, which holds a share lock on the lane until it commits; [`raise`] raises the bound only under an
//! exclusive lock, so that no row is ever overlooked. Both are functions in the database (`lower_lanes`, `raise_lanes`),
//! which find the newest version of a lane however many older ones somebody's snapshot keeps.

pub mod admin;
pub mod dedicated;
pub mod expire_closed;
pub mod health;
pub mod limits;
pub mod overview;
pub mod pauses;

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::pool::scan::{SCAN_LIMIT, allow_scan};
use super::queue::ready_at::{Lowered, lower};
use super::{Db, DbError};
use crate::domain::id::TenantId;

/// What makes a lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneName {
    /// Whose mail.
    pub tenant: TenantId,
    /// In which stream.
    pub stream: String,
    /// `relay` or `mx`.
    pub route: String,
    /// Destination domain; `*` for all that goes through a relay.
    pub domain: String,
}

/// A lane that is open and has something due, with what bounds it.
#[derive(Debug, Clone)]
pub struct ReadyLane {
    /// `lanes.id`.
    pub id: i64,
    /// Whose mail.
    pub tenant_id: Uuid,
    /// In which stream.
    pub stream: String,
    /// `mx`, `relay` or `relay:NAME`.
    pub route: String,
    /// Destination domain; `*` for all that goes through a relay.
    pub domain: String,
    /// The stream's; lower goes first.
    pub priority: i16,
    /// The stream's share among those of its priority.
    pub weight: i16,
    /// No free row of it is due earlier.
    pub ready_at: DateTime<Utc>,
    /// Connections at one time over all replicas, where limited.
    pub connections: Option<i32>,
    /// Mails over one connection, where limited.
    pub mails_per_connection: Option<i32>,
    /// Mails a second over all replicas, its own limit or one that was learned, whichever is less.
    pub rate: Option<f64>,
    /// A limit that was learned, and that success raises.
    pub learned_rate: Option<f64>,
    /// Since when its destination cannot be reached: what goes now is a probe.
    pub blocked_since: Option<DateTime<Utc>>,
    /// Mails a second of the stream as a whole.
    pub stream_rate: Option<f64>,
    /// Mails of the stream in flight over all replicas, where limited.
    pub stream_concurrency: Option<i32>,
}

impl ReadyLane {
    /// Whether a claim has to ask the limits first.
    pub fn is_limited(&self) -> bool {
        self.rate.is_some() || self.connections.is_some() || self.is_stream_limited()
    }

    /// Whether the stream as a whole is limited.
    pub fn is_stream_limited(&self) -> bool {
        self.stream_rate.is_some() || self.stream_concurrency.is_some()
    }

    /// Whether new mail of it may be leased as it is stored, without a claim, and so without its bound being lowered: there is nothing that
    /// a claim would have to ask, or to tell those who send it ([`super::messages::insert`]).
    pub fn is_passed_by(&self) -> bool {
        !self.is_limited() && self.mails_per_connection.is_none() && self.blocked_since.is_none()
    }

    /// Whether it goes straight to the recipients' own servers.
    pub fn is_mx(&self) -> bool {
        self.route == "mx"
    }

    /// Whether it is for all domains of a route that have no lane of their own.
    pub fn is_shared(&self) -> bool {
        self.domain == "*"
    }
}

/// A lane as whoever puts mail into it knows it: by what never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedLane {
    /// `lanes.id`.
    pub id: i64,
    /// What makes it.
    pub name: Arc<LaneName>,
}

/// The ids of those of these lanes that there are. Waits for nobody.
pub async fn find(db: &Db, names: &[Arc<LaneName>]) -> Result<HashMap<LaneName, i64>, DbError> {
    let Columns { tenants, streams, routes, domains } = Columns::of(names);
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
    Ok(rows.into_iter().map(Row::by_name).collect())
}

/// Makes those of these lanes that are not there, and answers the ids of those that it has made. Waits for whoever is making one of
/// them. Their own `priority` is that of their stream at the time, for workers of the version before: this one reads the
/// stream's. Of a stream that there is not none is made. Not over a connection of the hot path: nobody else is to wait with it.
pub async fn make(db: &Db, names: &[Arc<LaneName>]) -> Result<HashMap<LaneName, i64>, DbError> {
    let Columns { tenants, streams, routes, domains } = Columns::of(names);
    // In one order, so that two replicas that make the same lanes never wait for each other.
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
    let rows = db.timed("lanes.make", query.fetch_all(&db.pool)).await?;
    Ok(rows.into_iter().map(Row::by_name).collect())
}

struct Row {
    id: i64,
    tenant_id: Uuid,
    stream: String,
    route: String,
    domain: String,
}

impl Row {
    fn by_name(self) -> (LaneName, i64) {
        let Self { id, tenant_id, stream, route, domain } = self;
        (LaneName { tenant: TenantId(tenant_id), stream, route, domain }, id)
    }
}

/// Names of lanes, as `unnest` takes them.
struct Columns<'a> {
    tenants: Vec<Uuid>,
    streams: Vec<&'a str>,
    routes: Vec<&'a str>,
    domains: Vec<&'a str>,
}

impl<'a> Columns<'a> {
    fn of(names: &'a [Arc<LaneName>]) -> Self {
        Self {
            tenants: names.iter().map(|name| name.tenant.0).collect(),
            streams: names.iter().map(|name| &*name.stream).collect(),
            routes: names.iter().map(|name| &*name.route).collect(),
            domains: names.iter().map(|name| &*name.domain).collect(),
        }
    }
}

/// Open lanes with something due, but for those to `skip`: of each stream the `limit` that have waited longest, the most
/// urgent stream first.
pub async fn ready(db: &Db, now: DateTime<Utc>, limit: i64, skip: &[i64]) -> Result<Vec<ReadyLane>, DbError> {
    // Stream by stream, so that each looks at the start of its own part of `lanes_open` and at nothing that is closed.
    let query = sqlx::query_as!(
        ReadyLane,
        r#"SELECT l.id, s.tenant_id, s.name AS stream, l.route, l.domain, s.priority, s.weight, l.ready_at,
               l.connections, l.mails_per_connection,
               least(l.rate, l.learned_rate) AS rate, l.learned_rate, l.blocked_since,
               s.rate AS stream_rate, s.concurrency AS stream_concurrency
           FROM streams s CROSS JOIN LATERAL (
               SELECT * FROM lanes
               WHERE tenant_id = s.tenant_id AND stream = s.name AND paused_at IS NULL
                 AND greatest(ready_at, open_at) <= $1 AND id <> ALL ($3)
               ORDER BY greatest(ready_at, open_at) LIMIT $2) l
           WHERE s.paused_at IS NULL AND s.open_at <= $1
           ORDER BY s.priority, greatest(l.ready_at, l.open_at)"#,
        now,
        limit,
        skip
    );
    db.timed("lanes.ready", query.fetch_all(&db.pool.hot())).await
}

/// Lowers bounds that are above what waits. None should be: but a lane that no claim looks at would keep its mail for ever. Returns
/// how many there were. Looks at every lane: for rare occasions.
pub async fn lower_wrong(db: &Db) -> Result<usize, DbError> {
    db.timed_for(SCAN_LIMIT, "lanes.lower_wrong", async {
        let mut tx = db.pool.begin().await?;
        allow_scan(&mut tx).await?;
        let wrong = sqlx::query_as!(
            Lowered,
            "SELECT lanes.id AS lane, first.due_at FROM lanes
             CROSS JOIN LATERAL (
                 SELECT due_at FROM queue WHERE lane_id = lanes.id AND lease IS NULL ORDER BY due_at LIMIT 1) AS first
             WHERE first.due_at < lanes.ready_at"
        )
        .fetch_all(&mut *tx)
        .await?;
        let count = wrong.len();
        lower(&mut tx, wrong).await?;
        tx.commit().await?;
        Ok(count)
    })
    .await
}

/// A lane whose bound may be too low.
#[derive(Debug, Clone, Copy)]
pub struct Raise {
    /// `lanes.id`.
    pub lane: i64,
    /// Not beyond this moment, so that new rows need not lower the bound again; none where an empty lane is to rest.
    pub most: Option<DateTime<Utc>>,
}

/// Raises `ready_at` of lanes to when they next have something due. Answers those that it looked at: lanes that are being
/// added to are left alone.
pub async fn raise(db: &Db, lanes: &[Raise]) -> Result<Vec<i64>, DbError> {
    let ids: Vec<i64> = lanes.iter().map(|raise| raise.lane).collect();
    let most: Vec<Option<DateTime<Utc>>> = lanes.iter().map(|raise| raise.most).collect();
    // No bound is infinity: the function takes the lesser of it and the first due time.
    let query = sqlx::query_scalar!(
        r#"SELECT raise_lanes($1, ARRAY(SELECT coalesce(m, 'infinity') FROM unnest($2::timestamptz[]) WITH ORDINALITY AS u (m, n)
                                        ORDER BY n)) AS "lane!""#,
        &ids,
        &most as _
    );
    db.timed("lanes.raise", query.fetch_all(&db.pool.hot())).await
}
