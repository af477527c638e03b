//! `webhook_endpoints` as their owners see and steer them. What is posted to them, and what comes of it, is the workers'
//! (`notify`).
//!
//! What a worker would overwrite (the cursor, how it has been failing, when it is open) or would not hear of (that it is
//! disabled) takes the endpoint out of the worker's hand (`lease`): what that one commits afterwards changes nothing, and whoever
//! takes the endpoint next reads it anew. At worst a post that is in flight is made twice, under the same `webhook-id`. All
//! else a worker reads with every commit.

pub mod delivery;
pub mod log;
pub mod secrets;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use url::Url;
use uuid::Uuid;

use super::events::{self, NewEvent};
use super::{Db, DbError};
use crate::domain::endpoint::{EndpointChange, OLD_SECRET_LASTS, Settings, StoredSecret};
use crate::domain::event::EventType;
use crate::domain::id::{EndpointId, TenantId};
use crate::domain::limits::Change;

/// One endpoint, without its secrets.
#[derive(Debug, Clone)]
pub struct EndpointRow {
    /// Its id.
    pub id: Uuid,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Where its events are posted.
    pub url: String,
    /// For people.
    pub description: String,
    /// Types of events that it wants; `None`: all.
    pub events: Option<Vec<String>>,
    /// Posts at one time.
    pub concurrency: i16,
    /// Posts a second; `None`: as many as it takes.
    pub rate: Option<f64>,
    /// Events in one post.
    pub batch: i16,
    /// Until when the secret before the present one signs as well.
    pub old_secret_until: Option<DateTime<Utc>>,
    /// Every event up to this number was posted, was not wanted, or waits for another try.
    pub cursor: i64,
    /// Nothing is posted before then.
    pub open_at: Option<DateTime<Utc>>,
    /// Since when no post has succeeded, where the last one failed.
    pub failing_since: Option<DateTime<Utc>>,
    /// How many have failed since.
    pub failures: i32,
    /// What the last failed one came to.
    pub last_error: Option<String>,
    /// When a post last succeeded.
    pub last_success_at: Option<DateTime<Utc>>,
    /// Since when nothing is posted.
    pub disabled_at: Option<DateTime<Utc>>,
    /// Why.
    pub disabled_reason: Option<String>,
    /// Events of the tenant with a number above the cursor.
    pub behind: i64,
    /// Posts that wait for another try.
    pub pending_retries: i64,
}

/// What a new endpoint needs.
#[derive(Debug)]
pub struct NewEndpoint<'a> {
    /// Its id.
    pub id: EndpointId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Where to post.
    pub url: &'a Url,
    /// What signs.
    pub secret: &'a StoredSecret,
    /// The rest.
    pub settings: &'a Settings,
    /// Now.
    pub created_at: DateTime<Utc>,
}

/// Stores a new endpoint. It gets what happens from now on.
pub async fn insert(db: &Db, endpoint: &NewEndpoint<'_>) -> Result<(), DbError> {
    let settings = endpoint.settings.clone();
    let events = words(&settings.events);
    let query = sqlx::query!(
        "INSERT INTO webhook_endpoints (id, tenant_id, created_at, url, secret, description, events, concurrency, rate,
                                        batch, cursor)
         VALUES ($1, $2, $3, $4, $5, coalesce($6, ''), $7, coalesce($8::smallint, 8), $9, coalesce($10::smallint, 1),
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
        settings.batch
    );
    db.timed("webhooks.insert", query.execute(&db.pool)).await.map(|_| ())
}

/// A page of a tenant's endpoints, newest first, starting behind `after`.
pub async fn page(
    db: &Db,
    tenant: TenantId,
    after: Option<EndpointId>,
    limit: i64,
) -> Result<Vec<EndpointRow>, DbError> {
    select(db, "webhooks.page", tenant, None, after, limit).await
}

/// One endpoint.
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
    // Numbers have no gaps, so that a difference counts. With custom plans the conditions on what is absent vanish.
    let query = sqlx::query_as!(
        EndpointRow,
        r#"SELECT id, created_at, url, description, events, concurrency, rate, batch, old_secret_until, cursor,
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

const BY_HAND: &str = "Somebody disabled it.";

/// Changes an endpoint. Another URL has not failed yet, and one that is enabled begins anew, also with what waits for
/// another try; what the old rate put off is put off no longer. Answers whether there is such an endpoint.
pub async fn change(
    db: &Db,
    tenant: TenantId,
    id: EndpointId,
    change: EndpointChange,
    now: DateTime<Utc>,
) -> Result<bool, DbError> {
    db.timed("webhooks.change", async {
        let mut tx = db.pool.begin().await?;
        let begins_anew = set(&mut tx, tenant, id, change, now).await?;
        if begins_anew == Some(true) {
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
        Ok(begins_anew.is_some())
    })
    .await
}

/// Answers whether the endpoint begins anew; none where there is no such endpoint.
async fn set(
    connection: &mut PgConnection,
    tenant: TenantId,
    id: EndpointId,
    change: EndpointChange,
    now: DateTime<Utc>,
) -> Result<Option<bool>, sqlx::Error> {
    let EndpointChange { url, disabled, settings } = change;
    let events = words(&settings.events);
    sqlx::query_scalar!(
        r#"UPDATE webhook_endpoints e SET
             url = coalesce($3, url),
             description = CASE WHEN $4 THEN coalesce($5, '') ELSE description END,
             events = CASE WHEN $6 THEN $7 ELSE events END,
             concurrency = coalesce($8, concurrency),
             rate = CASE WHEN $9 THEN $10 ELSE rate END,
             batch = coalesce($11, batch),
             disabled_at = CASE $12 WHEN true THEN coalesce(disabled_at, $13) WHEN false THEN NULL ELSE disabled_at END,
             disabled_reason = CASE $12 WHEN true THEN coalesce(disabled_reason, $14) WHEN false THEN NULL
                                        ELSE disabled_reason END,
             open_at = CASE WHEN old.anew OR $9 AND failures = 0 THEN '-infinity' ELSE open_at END,
             failing_since = CASE WHEN old.anew THEN NULL ELSE failing_since END,
             failures = CASE WHEN old.anew THEN 0 ELSE failures END,
             last_error = CASE WHEN old.anew THEN NULL ELSE last_error END,
             lease = CASE WHEN old.anew OR $9 OR $12 THEN NULL ELSE lease END
         FROM (SELECT coalesce(NOT $12::boolean, false) OR url <> coalesce($3, url) AS anew FROM webhook_endpoints
               WHERE id = $2 AND tenant_id = $1 FOR NO KEY UPDATE) old
         WHERE e.id = $2 AND e.tenant_id = $1
         RETURNING old.anew AS "anew!""#,
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
        BY_HAND
    )
    .fetch_optional(connection)
    .await
}

/// Gives an endpoint a new secret; the present one signs as well for a day. Answers whether there is such an endpoint.
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
        now + OLD_SECRET_LASTS
    );
    db.timed("webhooks.rotate", query.execute(&db.pool)).await.map(|done| done.rows_affected() > 0)
}

/// Removes an endpoint and what it was still to get; its log goes with its week. Answers whether there was one.
pub async fn remove(db: &Db, tenant: TenantId, id: EndpointId) -> Result<bool, DbError> {
    db.timed("webhooks.remove", async {
        let mut tx = db.pool.begin().await?;
        // The endpoint first, as whoever commits posts: a retry is never left without its endpoint.
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

/// Has every event above `after` posted again, without what waits for another try of them. An endpoint that has not come
/// so far goes on where it is. Answers whether there is such an endpoint.
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

/// What became of a wish for a test event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tested {
    /// It is on its way, with this number.
    Written(i64),
    /// Nothing is posted there.
    Disabled,
    /// There is no such endpoint.
    Missing,
}

/// Writes a test event, which goes to this endpoint alone.
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
        let event = NewEvent {
            vouched: None,
            tenant: tenant.0,
            kind: EventType::WebhookTest,
            message_id: None,
            recipient_id: None,
            endpoint_id: Some(id.0),
            attempt: None,
            outcome: None,
            next_attempt_at: None,
            bounce: None,
        };
        events::append(&mut tx, now, vec![event]).await?;
        // Nobody else takes a number before the commit. Tests are rare enough to hold the counter for one more question.
        let seq =
            sqlx::query_scalar!("SELECT seq FROM events WHERE tenant_id = $1 ORDER BY seq DESC LIMIT 1", tenant.0)
                .fetch_one(&mut *tx)
                .await?;
        tx.commit().await?;
        Ok(Tested::Written(seq))
    })
    .await
}

/// The types as they are stored.
fn words(events: &Change<Vec<EventType>>) -> Option<Vec<String>> {
    let Change::Set(types) = events else { return None };
    Some(types.iter().map(ToString::to_string).collect())
}
