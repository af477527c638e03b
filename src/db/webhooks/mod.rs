//! Management of webhook endpoints (`webhook_endpoints`) by the API. Workers post the events ([`delivery`]).
//!
//! A change that a worker would overwrite (cursor, health, `open_at`) or would not notice (disabling, another format of
//! events that it has read) also releases the worker's `lease`. The worker's later commits then change nothing, and the
//! next worker reads the endpoint again. At worst, the posts since the worker's last commit are repeated. A worker reads
//! all other changes with every commit.

pub mod delivery;
pub mod log;
pub mod posted_events;
pub mod secrets;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use url::Url;
use uuid::Uuid;

use super::events::{self, NewEvent};
use super::{Db, DbError};
use crate::domain::event::EventType;
use crate::domain::id::{EndpointId, TenantId};
use crate::domain::limits::Change;
use crate::domain::webhook::endpoint::{EndpointChange, PREVIOUS_SECRET_TTL, PostFormat, Settings, StoredSecret};

/// An endpoint, without its secrets.
#[derive(Debug, Clone)]
pub struct EndpointRow {
    /// `webhook_endpoints.id`.
    pub id: Uuid,
    /// Time of creation.
    pub created_at: DateTime<Utc>,
    /// URL to post to.
    pub url: String,
    /// Description for people.
    pub description: String,
    /// Event types to post; `None` for all.
    pub events: Option<Vec<String>>,
    /// Maximum number of concurrent posts.
    pub concurrency: i16,
    /// Maximum posts per second; `None` for no limit.
    pub rate: Option<f64>,
    /// Maximum events per post.
    pub batch: i16,
    /// Format of the posts (`webhook_endpoints.format`).
    pub format: String,
    /// Until when posts are signed with the previous secret too.
    pub old_secret_until: Option<DateTime<Utc>>,
    /// All events up to this `seq` were posted, were filtered out, or wait for a retry.
    pub cursor: i64,
    /// Time before which nothing is posted.
    pub open_at: Option<DateTime<Utc>>,
    /// Time of the first failure since the last success.
    pub failing_since: Option<DateTime<Utc>>,
    /// Number of failed first attempts and failed probes since then (`webhook_endpoints.failures`).
    pub failures: i32,
    /// Error of the last failed post.
    pub last_error: Option<String>,
    /// Time of the last successful post.
    pub last_success_at: Option<DateTime<Utc>>,
    /// When it was disabled.
    pub disabled_at: Option<DateTime<Utc>>,
    /// Why it was disabled.
    pub disabled_reason: Option<String>,
    /// Number of the tenant's events after the cursor.
    pub behind: i64,
    /// Number of deliveries that wait for a retry.
    pub pending_retries: i64,
}

/// An endpoint to insert.
#[derive(Debug)]
pub struct NewEndpoint<'a> {
    /// `webhook_endpoints.id`.
    pub id: EndpointId,
    /// The tenant.
    pub tenant: TenantId,
    /// URL to post to.
    pub url: &'a Url,
    /// Signing secret.
    pub secret: &'a StoredSecret,
    /// Other settings.
    pub settings: &'a Settings,
    /// Time of creation.
    pub created_at: DateTime<Utc>,
}

/// Inserts an endpoint. It receives events from now on.
pub async fn insert(db: &Db, endpoint: &NewEndpoint<'_>) -> Result<(), DbError> {
    let settings = endpoint.settings.clone();
    let events = stored_types(&settings.events);
    let query = sqlx::query!(
        "INSERT INTO webhook_endpoints (id, tenant_id, created_at, url, secret, description, events, concurrency, rate,
                                        batch, format, cursor)
         VALUES ($1 /* id */, $2 /* tenant */, $3 /* created_at */, $4 /* url */, $5 /* secret */,
                 coalesce($6 /* description */, ''), $7 /* events */, coalesce($8::smallint /* concurrency */, 8),
                 $9 /* rate */, coalesce($10::smallint /* batch */, 1), coalesce($11::text /* format */, 'postrider'),
                 coalesce((SELECT last_seq FROM event_counters WHERE tenant_id = $2), 0))",
        endpoint.id.0,
        endpoint.tenant.0,
        endpoint.created_at,
        endpoint.url.as_str(),
        endpoint.secret.bytes(),
        settings.description.value(),
        events.as_deref(),
        settings.concurrency,
        settings.rate.value(),
        settings.batch,
        settings.format.map(PostFormat::as_str)
    );
    db.timed("webhooks.insert", query.execute(&db.pool)).await.map(|_| ())
}

/// Returns a page of a tenant's endpoints, newest first, starting after `after`.
pub async fn page(
    db: &Db,
    tenant: TenantId,
    after: Option<EndpointId>,
    limit: i64,
) -> Result<Vec<EndpointRow>, DbError> {
    select(db, "webhooks.page", tenant, None, after, limit).await
}

/// Returns one endpoint.
pub async fn get(db: &Db, tenant: TenantId, id: EndpointId) -> Result<Option<EndpointRow>, DbError> {
    Ok(select(db, "webhooks.get", tenant, Some(id), None, 1).await?.pop())
}

async fn select(
    db: &Db,
    name: &'static str,
    tenant: TenantId,
    id: Option<EndpointId>,
    after: Option<EndpointId>,
    limit: i64,
) -> Result<Vec<EndpointRow>, DbError> {
    // Event numbers have no gaps, so their difference is a count. With custom plans, the planner removes the conditions
    // of absent filters.
    let query = sqlx::query_as!(
        EndpointRow,
        r#"SELECT id, created_at, url, description, events, concurrency, rate, batch, format, old_secret_until, cursor,
                  nullif(open_at, '-infinity') AS open_at, failing_since, failures, last_error, last_success_at,
                  disabled_at, disabled_reason,
                  greatest(coalesce((SELECT seq FROM events WHERE tenant_id = $1 ORDER BY seq DESC LIMIT 1), 0) - cursor,
                           0) AS "behind!",
                  (SELECT count(*) FROM webhook_retries r WHERE r.endpoint_id = e.id AND r.tenant_id = $1)
                      AS "pending_retries!"
           FROM webhook_endpoints e
           WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id = $2) AND ($3::uuid IS NULL OR id < $3)
           ORDER BY id DESC LIMIT $4"#,
        tenant.0,
        id.map(|id| id.0),
        after.map(|id| id.0),
        limit
    );
    db.timed(name, query.fetch_all(&db.pool)).await
}

/// The reason for disabling an endpoint by a request.
const BY_HAND: &str = "Disabled through the API.";

/// Changes an endpoint. Changing the URL or enabling the endpoint resets its health and makes its retries due now;
/// changing the rate ends a wait for the old rate. With a new format, failed deliveries are retried in that format.
/// Returns whether the endpoint exists.
pub async fn change(
    db: &Db,
    tenant: TenantId,
    id: EndpointId,
    change: EndpointChange,
    now: DateTime<Utc>,
) -> Result<bool, DbError> {
    db.timed("webhooks.change", async {
        let mut tx = db.pool.begin().await?;
        let Some(Effects { restarts, splits }) = set(&mut tx, tenant, id, change, now).await? else {
            return Ok(false);
        };
        if splits {
            split_retries(&mut tx, tenant, id).await?;
        }
        if restarts {
            sqlx::query!(
                "UPDATE webhook_retries SET due_at = $3 WHERE endpoint_id = $2 AND tenant_id = $1 AND due_at > $3",
                tenant.0,
                id.0,
                now
            )
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(true)
    })
    .await
}

/// What a change of an endpoint means for its retries.
struct Effects {
    /// Its health was reset, so they are due now.
    restarts: bool,
    /// Its new format has one event in each delivery.
    splits: bool,
}

/// Splits the failed deliveries of an endpoint into deliveries of one event.
async fn split_retries(connection: &mut PgConnection, tenant: TenantId, id: EndpointId) -> Result<(), sqlx::Error> {
    // Two deliveries may contain the same event.
    sqlx::query!(
        "INSERT INTO webhook_retries (endpoint_id, tenant_id, seq, seqs, attempts, due_at)
         SELECT r.endpoint_id, r.tenant_id, e.seq, ARRAY[e.seq], r.attempts, r.due_at
         FROM webhook_retries r CROSS JOIN unnest(r.seqs[2:]) AS e (seq)
         WHERE r.endpoint_id = $2 AND r.tenant_id = $1
         ON CONFLICT DO NOTHING",
        tenant.0,
        id.0
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "UPDATE webhook_retries SET seqs = ARRAY[seq]
         WHERE endpoint_id = $2 AND tenant_id = $1 AND cardinality(seqs) > 1",
        tenant.0,
        id.0
    )
    .execute(connection)
    .await
    .map(|_| ())
}

/// Updates an endpoint; returns `None` if it does not exist.
async fn set(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: EndpointId,
    change: EndpointChange,
    now: DateTime<Utc>,
) -> Result<Option<Effects>, sqlx::Error> {
    let EndpointChange { url, disabled, settings } = change;
    let events = stored_types(&settings.events);
    sqlx::query_as!(
        Effects,
        r#"UPDATE webhook_endpoints e SET
             url = coalesce($3 /* url */, url),
             description = CASE WHEN $4 /* description.is_change */ THEN coalesce($5 /* description.value */, '')
                           ELSE description END,
             events = CASE WHEN $6 /* events.is_change */ THEN $7 /* events.as_deref */ ELSE events END,
             concurrency = coalesce($8 /* concurrency */, concurrency),
             rate = CASE WHEN $9 /* rate.is_change */ THEN $10 /* rate.value */ ELSE rate END,
             batch = coalesce($11 /* batch */, batch),
             format = coalesce($15 /* format */, format),
             disabled_at = CASE $12 /* disabled */ WHEN true THEN coalesce(disabled_at, $13 /* now */) WHEN false THEN NULL ELSE disabled_at END,
             disabled_reason = CASE $12 WHEN true THEN coalesce(disabled_reason, $14 /* BY_HAND */) WHEN false THEN NULL
                                        ELSE disabled_reason END,
             open_at = CASE WHEN old.restarts OR $9 AND failures = 0 THEN '-infinity' ELSE open_at END,
             failing_since = CASE WHEN old.restarts THEN NULL ELSE failing_since END,
             failures = CASE WHEN old.restarts THEN 0 ELSE failures END,
             last_error = CASE WHEN old.restarts THEN NULL ELSE last_error END,
             lease = CASE WHEN old.restarts OR old.reformats OR $9 OR $12 THEN NULL ELSE lease END
         FROM (SELECT coalesce(NOT $12::boolean, false) OR url <> coalesce($3, url) AS restarts,
                      format <> coalesce($15, format) AS reformats
               FROM webhook_endpoints
               WHERE id = $2 AND tenant_id = $1 FOR NO KEY UPDATE) old
         WHERE e.id = $2 /* id */ AND e.tenant_id = $1 /* tenant */
         RETURNING old.restarts AS "restarts!", old.reformats AND e.format = 'resend' AS "splits!""#,
        tenant.0,
        id.0,
        url.as_ref().map(Url::as_str),
        settings.description.is_change(),
        settings.description.value(),
        settings.events.is_change(),
        events.as_deref(),
        settings.concurrency,
        settings.rate.is_change(),
        settings.rate.value(),
        settings.batch,
        disabled,
        now,
        BY_HAND,
        settings.format.map(PostFormat::as_str)
    )
    .fetch_optional(connection)
    .await
}

/// Replaces an endpoint's secret. For a day, posts are signed with the old secret too. Returns whether the endpoint
/// exists.
pub async fn rotate(
    db: &Db,
    tenant: TenantId,
    id: EndpointId,
    secret: &StoredSecret,
    now: DateTime<Utc>,
) -> Result<bool, DbError> {
    let query = sqlx::query!(
        "UPDATE webhook_endpoints SET old_secret = secret, old_secret_until = $4, secret = $3
         WHERE id = $2 AND tenant_id = $1",
        tenant.0,
        id.0,
        secret.bytes(),
        now + PREVIOUS_SECRET_TTL
    );
    db.timed("webhooks.rotate", query.execute(&db.pool)).await.map(|done| done.rows_affected() > 0)
}

/// Deletes an endpoint and its retries. Its delivery log remains until the log's weekly partitions are deleted. Returns
/// whether the endpoint existed.
pub async fn remove(db: &Db, tenant: TenantId, id: EndpointId) -> Result<bool, DbError> {
    db.timed("webhooks.remove", async {
        let mut tx = db.pool.begin().await?;
        // Deletes the endpoint before its retries, in the lock order of transactions that record posts, so that no
        // retry remains without its endpoint.
        let done = sqlx::query!("DELETE FROM webhook_endpoints WHERE id = $2 AND tenant_id = $1", tenant.0, id.0)
            .execute(&mut *tx)
            .await?;
        sqlx::query!("DELETE FROM webhook_retries WHERE endpoint_id = $2 AND tenant_id = $1", tenant.0, id.0)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(done.rows_affected() > 0)
    })
    .await
}

/// Moves the cursor back to `after`, so that all later events are posted again, and deletes their pending retries. A
/// cursor below `after` is not changed. Returns whether the endpoint exists.
pub async fn replay(db: &Db, tenant: TenantId, id: EndpointId, after: i64) -> Result<bool, DbError> {
    db.timed("webhooks.replay", async {
        let mut tx = db.pool.begin().await?;
        let done = sqlx::query!(
            "UPDATE webhook_endpoints SET cursor = least(cursor, $3), lease = NULL WHERE id = $2 AND tenant_id = $1",
            tenant.0,
            id.0,
            after
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "DELETE FROM webhook_retries WHERE endpoint_id = $2 AND tenant_id = $1 AND seq > $3",
            tenant.0,
            id.0,
            after
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected() > 0)
    })
    .await
}

/// The result of requesting a test event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tested {
    /// The event was appended with this `seq`.
    Written(i64),
    /// The endpoint is disabled.
    Disabled,
    /// No such endpoint.
    Missing,
}

/// Appends a test event. It is posted only to this endpoint.
pub async fn test(db: &Db, tenant: TenantId, id: EndpointId, now: DateTime<Utc>) -> Result<Tested, DbError> {
    db.timed("webhooks.test", async {
        let mut tx = db.pool.begin().await?;
        let is_disabled = sqlx::query_scalar!(
            r#"SELECT disabled_at IS NOT NULL AS "is_disabled!" FROM webhook_endpoints
               WHERE id = $2 AND tenant_id = $1 FOR KEY SHARE"#,
            tenant.0,
            id.0
        )
        .fetch_optional(&mut *tx)
        .await?;
        match is_disabled {
            None => return Ok(Tested::Missing),
            Some(true) => return Ok(Tested::Disabled),
            Some(false) => {}
        }
        let event = NewEvent::webhook_test(tenant, id);
        events::append(&mut tx, now, vec![event]).await?;
        // No other transaction can reserve an event number before the commit. Tests are rare, so the counter may stay
        // locked for another query.
        let seq =
            sqlx::query_scalar!("SELECT seq FROM events WHERE tenant_id = $1 ORDER BY seq DESC LIMIT 1", tenant.0)
                .fetch_one(&mut *tx)
                .await?;
        tx.commit().await?;
        Ok(Tested::Written(seq))
    })
    .await
}

/// Returns the event types to store; `None` if they are not set.
fn stored_types(events: &Change<Vec<EventType>>) -> Option<Vec<String>> {
    let Change::Set(types) = events else { return None };
    Some(types.iter().map(ToString::to_string).collect())
}
