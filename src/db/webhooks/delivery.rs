//! Queries for webhook deliveries by workers. Each endpoint is leased to one worker at a time, which reads the events
//! after the cursor and records the results of posts. Its commits take effect only while the lease is valid.

mod record;

use chrono::{DateTime, Utc};
use uuid::Uuid;

pub use record::{Attempt, Hold, Progress, record};

use crate::db::events::{EventRow, select_events};
use crate::db::{Db, DbError};
use crate::domain::id::{EndpointId, TenantId};
use crate::domain::webhook::endpoint::{PostFormat, StoredSecret};
use crate::domain::webhook::retry::Health;

/// Maximum number of pending retries per endpoint; beyond it, no new posts are started.
pub const MAX_PENDING_RETRIES: i64 = 1_000;

/// An endpoint leased to a worker. Without `Debug`, because it contains secrets.
#[derive(Clone)]
pub struct Endpoint {
    /// `webhook_endpoints.id`.
    pub id: EndpointId,
    /// The tenant.
    pub tenant: TenantId,
    /// URL to post to.
    pub url: String,
    /// Types of events to post; `None` for all.
    pub types: Option<Vec<String>>,
    /// Signing secret.
    pub secret: StoredSecret,
    /// The previous secret, and until when posts are signed with it too.
    pub old_secret: Option<(StoredSecret, DateTime<Utc>)>,
    /// Maximum number of concurrent posts.
    pub concurrency: usize,
    /// Maximum posts per second.
    pub rate: Option<f64>,
    /// Maximum events per post.
    pub batch: usize,
    /// The form of posts.
    pub format: PostFormat,
    /// All events up to this `seq` were posted, were filtered out, or wait for a retry.
    pub cursor: i64,
    /// Health of the endpoint.
    pub health: Health,
    /// Number of pending retries.
    pub retries: i64,
}

/// A row of the queries that return endpoints.
struct Row {
    id: Uuid,
    tenant_id: Uuid,
    url: String,
    events: Option<Vec<String>>,
    secret: Vec<u8>,
    old_secret: Option<Vec<u8>>,
    old_secret_until: Option<DateTime<Utc>>,
    concurrency: i16,
    rate: Option<f64>,
    batch: i16,
    format: String,
    cursor: i64,
    open_at: Option<DateTime<Utc>>,
    failing_since: Option<DateTime<Utc>>,
    failures: i32,
    last_error: Option<String>,
    last_success_at: Option<DateTime<Utc>>,
    retries: i64,
}

impl From<Row> for Endpoint {
    fn from(row: Row) -> Self {
        // A CHECK constraint limits the values.
        let format = row.format.parse().unwrap_or(PostFormat::Postrider);
        // A payload in Resend's format has one event.
        let batch = if format == PostFormat::Resend { 1 } else { row.batch };
        Self {
            id: EndpointId(row.id),
            tenant: TenantId(row.tenant_id),
            url: row.url,
            types: row.events,
            secret: StoredSecret::new(row.secret),
            old_secret: row.old_secret.map(StoredSecret::new).zip(row.old_secret_until),
            concurrency: usize::try_from(row.concurrency).unwrap_or(1),
            rate: row.rate,
            batch: usize::try_from(batch).unwrap_or(1),
            format,
            cursor: row.cursor,
            health: Health {
                failures: u32::try_from(row.failures).unwrap_or(0),
                failing_since: row.failing_since,
                last_error: row.last_error,
                last_success_at: row.last_success_at,
                open_at: row.open_at,
            },
            retries: row.retries,
        }
    }
}

/// Leases at most `limit` endpoints that have events to post and are not leased to another registered worker. Skips
/// `busy`, the endpoints that this worker is already posting to, and endpoints of tenants that are being deleted.
pub async fn lease(
    db: &Db,
    worker: Uuid,
    busy: &[Uuid],
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Vec<Endpoint>, DbError> {
    // Compares the cursors with the counters, whose newest version is at the end of the index (`take_event_numbers`), and
    // reads other tables only for the endpoints that are due: this is the same for hundreds of endpoints without posts.
    // The events after a cursor may have been deleted, or their numbers skipped: then there is nothing to post.
    let query = sqlx::query_as!(
        Row,
        r#"WITH claimer AS MATERIALIZED (SELECT id FROM workers WHERE id = $1 FOR KEY SHARE),
               due AS MATERIALIZED (
                   SELECT e.id FROM webhook_endpoints e CROSS JOIN LATERAL (
                       SELECT last_seq FROM event_counters WHERE tenant_id >= e.tenant_id AND tenant_id <= e.tenant_id
                       ORDER BY tenant_id DESC LIMIT 1) c
                   WHERE e.disabled_at IS NULL AND e.open_at <= $4 AND e.id <> ALL ($2)
                     AND (CASE WHEN e.cursor < c.last_seq
                               THEN (SELECT count(*) FROM webhook_retries WHERE endpoint_id = e.id) < $6
                                    AND (SELECT seq FROM events WHERE tenant_id = e.tenant_id AND seq > e.cursor
                                         ORDER BY seq LIMIT 1) IS NOT NULL
                               ELSE false END
                          OR (SELECT due_at FROM webhook_retries WHERE endpoint_id = e.id ORDER BY due_at LIMIT 1)
                             <= CASE WHEN e.failures >= $5 THEN 'infinity' ELSE $4::timestamptz END)),
               free AS MATERIALIZED (
                   SELECT e.id FROM claimer, due JOIN webhook_endpoints e ON e.id = due.id JOIN tenants t ON t.id = e.tenant_id
                   WHERE t.deleting_at IS NULL AND e.disabled_at IS NULL AND e.open_at <= $4
                     AND (e.lease IS NULL OR e.lease = $1 OR NOT EXISTS (SELECT FROM workers w WHERE w.id = e.lease))
                   ORDER BY e.open_at, e.id LIMIT $3 FOR UPDATE OF e SKIP LOCKED)
           UPDATE webhook_endpoints e SET lease = $1 FROM free WHERE e.id = free.id
           RETURNING e.id, tenant_id, url, events, secret, old_secret, old_secret_until, concurrency, rate, batch, format,
                     cursor,
                     nullif(open_at, '-infinity') AS open_at, failing_since, failures, last_error, last_success_at,
                     (SELECT count(*) FROM webhook_retries WHERE endpoint_id = e.id) AS "retries!""#,
        worker,
        busy,
        limit,
        now,
        i32::try_from(Health::DOWN_AFTER).unwrap_or(i32::MAX),
        MAX_PENDING_RETRIES
    );
    let rows = db.timed("webhooks.delivery.lease", query.fetch_all(&db.pool)).await?;
    Ok(rows.into_iter().map(Endpoint::from).collect())
}

/// A failed delivery that waits for a retry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// `seq` of its events, in order.
    pub seqs: Vec<i64>,
    /// Number of delivery attempts so far.
    pub attempts: i16,
    /// When the next delivery attempt is due.
    pub due_at: DateTime<Utc>,
}

/// Returns an endpoint's due retries in order of their events, except those in `busy`.
pub async fn due(
    db: &Db,
    endpoint: EndpointId,
    busy: &[i64],
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Vec<Retry>, DbError> {
    let query = sqlx::query_as!(
        Retry,
        "SELECT seqs, attempts, due_at FROM webhook_retries
         WHERE endpoint_id = $1 AND due_at <= $2 AND seq <> ALL ($3) ORDER BY seq LIMIT $4",
        endpoint.0,
        now,
        busy,
        limit
    );
    db.timed("webhooks.delivery.due", query.fetch_all(&db.pool)).await
}

/// Returns the delivery with which to probe an endpoint that is down: the earliest of those with the fewest delivery
/// attempts.
pub async fn probe(db: &Db, endpoint: EndpointId) -> Result<Option<Retry>, DbError> {
    let query = sqlx::query_as!(
        Retry,
        "SELECT seqs, attempts, due_at FROM webhook_retries WHERE endpoint_id = $1 ORDER BY attempts, seq LIMIT 1",
        endpoint.0
    );
    db.timed("webhooks.delivery.probe", query.fetch_optional(&db.pool)).await
}

/// Returns these events in order of `seq`, without those that have been deleted.
pub async fn events(db: &Db, tenant: TenantId, seqs: &[i64]) -> Result<Vec<EventRow>, DbError> {
    let query =
        select_events!("events e", "WHERE e.tenant_id = $1 AND e.seq = ANY ($2) ORDER BY e.seq", tenant.0, seqs);
    db.timed("webhooks.delivery.events", query.fetch_all(&db.pool)).await
}
