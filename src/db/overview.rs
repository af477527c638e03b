//! Queries for `postrider doctor`: lanes and streams that send nothing, held recipients, and failing or disabled
//! webhook endpoints. Lists and counts stop at a limit.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{Db, DbError};

/// The backlog is reported if its oldest due message has been due for longer than this. Workers that keep up stay below
/// this time.
pub const MAX_BACKLOG: TimeDelta = TimeDelta::minutes(5);
/// Maximum length of each list.
const MAX_LISTED: i64 = 10;
/// Number of held recipients at which counting stops.
const MAX_COUNTED: i64 = 1_000;

/// A tenant, stream or lane that sends nothing.
#[derive(Debug, Clone)]
pub struct Stopped {
    /// Name, such as `tenant acme`, `stream bulk` or `lane_7 (bulk, relay, example.net)`.
    pub name: String,
    /// The tenant of a stream or a lane.
    pub tenant_id: Option<Uuid>,
    /// When it was suspended or paused, or when its destination became unreachable.
    pub since: DateTime<Utc>,
    /// The operator's reason, or the destination's last reply.
    pub reason: Option<String>,
}

/// A webhook endpoint that is failing or disabled.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Id of the endpoint.
    pub id: Uuid,
    /// Its tenant.
    pub tenant_id: Uuid,
    /// URL of the endpoint, which may contain a secret of the tenant.
    pub url: String,
    /// When it was disabled, or when its posts began to fail.
    pub since: DateTime<Utc>,
    /// Whether the endpoint is disabled.
    pub is_disabled: bool,
    /// Reason or last error.
    pub reason: Option<String>,
}

/// What is paused, unreachable, held or failing, across all tenants. Test data is left out.
#[derive(Debug, Clone)]
pub struct Overview {
    /// The server's version, such as `15.8`.
    pub server_version: String,
    /// Suspended tenants, then streams and lanes that an operator paused, oldest first, at most 10 each.
    pub paused: Vec<Stopped>,
    /// Lanes whose destination is unreachable, oldest first, at most 10.
    pub unreachable: Vec<Stopped>,
    /// Recipients held for an operator, counted up to 1,000.
    pub held: i64,
    /// Earliest due time of the recipients that wait in open lanes; nothing should delay these.
    pub oldest_due: Option<DateTime<Utc>>,
    /// Endpoints that are failing or disabled, at most 10.
    pub endpoints: Vec<Endpoint>,
    /// What could not be read in time, and is empty above: `paused`, `unreachable`, `held messages`, `backlog` or `webhooks`.
    pub unread: Vec<&'static str>,
}

/// Returns the overview of all tenants.
pub async fn overview(db: &Db, now: DateTime<Utc>) -> Result<Overview, DbError> {
    let server_version = sqlx::query_scalar!(r#"SELECT current_setting('server_version') AS "version!""#);
    let server_version = db.timed("overview.version", server_version.fetch_one(&db.pool)).await?;
    let mut unread = Vec::new();
    Ok(Overview {
        server_version,
        paused: in_time("paused", paused(db).await, &mut unread)?,
        unreachable: in_time("unreachable", stopped_lanes(db, "unreachable").await, &mut unread)?,
        held: in_time("held messages", held(db).await, &mut unread)?,
        oldest_due: in_time("backlog", oldest_due(db, now).await, &mut unread)?,
        endpoints: in_time("webhooks", endpoints(db).await, &mut unread)?,
        unread,
    })
}

/// Returns what was read. If its statement was too slow, adds its name to `unread` and returns nothing: what can be read is
/// needed most while the database is slow.
fn in_time<T: Default>(
    name: &'static str,
    read: Result<T, DbError>,
    unread: &mut Vec<&'static str>,
) -> Result<T, DbError> {
    match read {
        Err(error) if error.is_too_slow() => {
            unread.push(name);
            Ok(T::default())
        }
        read => read,
    }
}

async fn paused(db: &Db) -> Result<Vec<Stopped>, DbError> {
    let mut paused = suspended_tenants(db).await?;
    paused.extend(paused_streams(db).await?);
    paused.extend(stopped_lanes(db, "paused").await?);
    Ok(paused)
}

/// Counts held recipients, which have no due time, lane by lane: an index finds them without the backlog.
async fn held(db: &Db) -> Result<i64, DbError> {
    let query = sqlx::query_scalar!(
        r#"SELECT count(*) AS "held!" FROM (
               SELECT FROM lanes l
               JOIN tenants t ON t.id = l.tenant_id AND t.test_of IS NULL
               CROSS JOIN LATERAL (
                   SELECT FROM queue q
                   WHERE q.lane_id = l.id AND q.lease IS NULL AND q.due_at = 'infinity' AND q.held IS NOT NULL
                   LIMIT $1) q
               LIMIT $1) held"#,
        MAX_COUNTED
    );
    db.timed("overview.held", query.fetch_one(&db.pool)).await
}

async fn suspended_tenants(db: &Db) -> Result<Vec<Stopped>, DbError> {
    let query = sqlx::query_as!(
        Stopped,
        r#"SELECT 'tenant ' || name AS "name!", NULL::uuid AS tenant_id, suspended_at AS "since!", suspend_reason AS reason
           FROM tenants WHERE suspended_at IS NOT NULL AND deleting_at IS NULL AND test_of IS NULL
           ORDER BY suspended_at LIMIT $1"#,
        MAX_LISTED
    );
    db.timed("overview.tenants", query.fetch_all(&db.pool)).await
}

async fn paused_streams(db: &Db) -> Result<Vec<Stopped>, DbError> {
    let query = sqlx::query_as!(
        Stopped,
        r#"SELECT 'stream ' || name AS "name!", tenant_id AS "tenant_id?", paused_at AS "since!", pause_reason AS reason
           FROM streams WHERE paused_at IS NOT NULL AND tenant_id NOT IN (SELECT id FROM tenants WHERE test_of IS NOT NULL)
           ORDER BY paused_at LIMIT $1"#,
        MAX_LISTED
    );
    db.timed("overview.streams", query.fetch_all(&db.pool)).await
}

async fn stopped_lanes(db: &Db, state: &str) -> Result<Vec<Stopped>, DbError> {
    let query = sqlx::query_as!(
        Stopped,
        r#"SELECT 'lane_' || id || ' (' || stream || ', ' || route || ', ' || domain || ')' AS "name!",
                  tenant_id AS "tenant_id?",
                  coalesce(paused_at, blocked_since) AS "since!",
                  CASE WHEN paused_at IS NULL THEN block_reply ELSE pause_reason END AS reason
           FROM lanes
           WHERE CASE $1 WHEN 'paused' THEN paused_at IS NOT NULL ELSE blocked_since IS NOT NULL AND paused_at IS NULL END
             AND tenant_id NOT IN (SELECT id FROM tenants WHERE test_of IS NOT NULL)
           ORDER BY 3 LIMIT $2"#,
        state,
        MAX_LISTED
    );
    db.timed("overview.lanes", query.fetch_all(&db.pool)).await
}

/// Returns the earliest due time in open lanes. Reads one index entry per lane.
async fn oldest_due(db: &Db, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, DbError> {
    let query = sqlx::query_scalar!(
        r#"SELECT min(oldest.due_at)
           FROM lanes l
           JOIN streams s ON s.tenant_id = l.tenant_id AND s.name = l.stream
           JOIN tenants t ON t.id = l.tenant_id AND t.suspended_at IS NULL AND t.test_of IS NULL
           CROSS JOIN LATERAL (SELECT due_at FROM queue
                               WHERE lane_id = l.id AND lease IS NULL AND due_at >= l.ready_at AND due_at <= $1
                               ORDER BY due_at LIMIT 1) oldest
           WHERE l.ready_at <= $1 AND l.open_at <= $1 AND l.paused_at IS NULL AND s.paused_at IS NULL
             AND l.blocked_since IS NULL"#,
        now
    );
    db.timed("overview.oldest_due", query.fetch_one(&db.pool)).await
}

async fn endpoints(db: &Db) -> Result<Vec<Endpoint>, DbError> {
    let query = sqlx::query_as!(
        Endpoint,
        r#"SELECT id, tenant_id, url, coalesce(disabled_at, failing_since) AS "since!", disabled_at IS NOT NULL AS "is_disabled!",
                  coalesce(disabled_reason, last_error) AS reason
           FROM webhook_endpoints
           WHERE (disabled_at IS NOT NULL OR failing_since IS NOT NULL)
             AND tenant_id NOT IN (SELECT id FROM tenants WHERE test_of IS NOT NULL)
           ORDER BY 4 LIMIT $1"#,
        MAX_LISTED
    );
    db.timed("overview.endpoints", query.fetch_all(&db.pool)).await
}
