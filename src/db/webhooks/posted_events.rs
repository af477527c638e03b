//! The events that were posted to an endpoint, each in a delivery of its own, for the API that is compatible with
//! Resend's. The first attempt of a delivery, in the log, identifies the event.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::delivery::Attempt;
use crate::db::{Db, DbError};
use crate::domain::id::{EndpointId, PostId, TenantId};

/// An event that was posted.
#[derive(Debug, Clone)]
pub struct PostedEvent {
    /// `webhook_attempts.id` of its first attempt.
    pub id: Uuid,
    /// `events.seq`.
    pub seq: i64,
    /// `events.type`.
    pub kind: String,
    /// `events.recorded_at`.
    pub recorded_at: DateTime<Utc>,
    /// Whether an attempt has succeeded.
    pub is_delivered: bool,
    /// When the next attempt is due, if one is to come.
    pub next_attempt_at: Option<DateTime<Utc>>,
}

/// Selects posted events. `$rest` follows the conditions on the endpoint; `$1` is the tenant and `$2` the endpoint.
macro_rules! select_posted_events {
    ($rest:literal, $($argument:expr),+ $(,)?) => {
        // Most first attempts succeed; later attempts are searched only for the others.
        sqlx::query_as!(
            PostedEvent,
            r#"SELECT a.id, a.seq, e.type AS kind, e.recorded_at, r.due_at AS "next_attempt_at?",
                      coalesce(a.status BETWEEN 200 AND 299, false) OR EXISTS (
                          SELECT FROM webhook_attempts later
                          WHERE later.endpoint_id = $2 AND later.tenant_id = $1 AND later.seq = a.seq
                            AND later.id > a.id AND later.attempt > 1
                            AND later.status BETWEEN 200 AND 299) AS "is_delivered!"
               FROM webhook_attempts a
               JOIN events e ON e.tenant_id = $1 AND e.seq = a.seq
               LEFT JOIN webhook_retries r ON r.endpoint_id = $2 AND r.seq = a.seq AND r.tenant_id = $1
               WHERE a.endpoint_id = $2 AND a.tenant_id = $1 AND a.attempt = 1 AND a.events = 1 "#
                + $rest,
            $($argument),+
        )
    };
}

/// Returns an event posted to an endpoint.
pub async fn get(
    db: &Db,
    (tenant, endpoint): (TenantId, EndpointId),
    id: PostId,
) -> Result<Option<PostedEvent>, DbError> {
    let query = select_posted_events!("AND a.id = $3", tenant.0, endpoint.0, id.0);
    db.timed("webhooks.posted_events.get", query.fetch_optional(&db.pool)).await
}

/// Returns a page of the events posted to an endpoint, newest first, starting after `after`.
pub async fn page(
    db: &Db,
    (tenant, endpoint): (TenantId, EndpointId),
    after: Option<PostId>,
    limit: i64,
) -> Result<Vec<PostedEvent>, DbError> {
    let query = select_posted_events!(
        "AND ($3::uuid IS NULL OR a.id < $3) ORDER BY a.id DESC LIMIT $4",
        tenant.0,
        endpoint.0,
        after.map(|id| id.0),
        limit
    );
    db.timed("webhooks.posted_events.page", query.fetch_all(&db.pool)).await
}

/// Returns a page of the attempts to post an event, newest first, starting after `after`.
pub async fn attempts(
    db: &Db,
    (tenant, endpoint): (TenantId, EndpointId),
    event: &PostedEvent,
    after: Option<PostId>,
    limit: i64,
) -> Result<Vec<Attempt>, DbError> {
    let query = sqlx::query_as!(
        Attempt,
        r#"SELECT id AS "id!", seq AS "seq!", events AS "events!", attempt AS "number!", size AS "size!", status,
                  answer AS response_body, error, duration_ms AS "duration_ms!", next_attempt_at
           FROM (SELECT * FROM webhook_attempts
                 WHERE endpoint_id = $2 AND tenant_id = $1 AND id = $4
                 UNION ALL
                 SELECT * FROM webhook_attempts
                 WHERE endpoint_id = $2 AND tenant_id = $1 AND attempt > 1 AND seq = $3 AND id > $4) made
           WHERE $5::uuid IS NULL OR id < $5
           ORDER BY id DESC LIMIT $6"#,
        tenant.0,
        endpoint.0,
        event.seq,
        event.id,
        after.map(|id| id.0),
        limit
    );
    db.timed("webhooks.posted_events.attempts", query.fetch_all(&db.pool)).await
}

/// Makes another attempt to post an event due at `now`, whether or not it was delivered. Releases the lease of the
/// endpoint, because the worker would not notice the attempt. Returns whether the endpoint exists.
pub async fn replay(
    db: &Db,
    (tenant, endpoint): (TenantId, EndpointId),
    event: &PostedEvent,
    now: DateTime<Utc>,
) -> Result<bool, DbError> {
    db.timed("webhooks.posted_events.replay", async {
        let mut tx = db.pool.begin().await?;
        // Locks the endpoint, so that it is not deleted before the commit.
        let released = sqlx::query!(
            "UPDATE webhook_endpoints SET lease = NULL WHERE id = $2 AND tenant_id = $1",
            tenant.0,
            endpoint.0
        );
        if released.execute(&mut *tx).await?.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query!(
            "INSERT INTO webhook_retries (endpoint_id, tenant_id, seq, seqs, attempts, due_at)
             SELECT $2, $1, $3::bigint, ARRAY[$3], max(attempt), $5::timestamptz
             FROM (SELECT attempt FROM webhook_attempts
                   WHERE endpoint_id = $2 AND tenant_id = $1 AND id = $4
                   UNION ALL
                   SELECT attempt FROM webhook_attempts
                   WHERE endpoint_id = $2 AND tenant_id = $1 AND attempt > 1 AND seq = $3 AND id > $4) made
             HAVING count(*) > 0
             ON CONFLICT (endpoint_id, seq, tenant_id)
             DO UPDATE SET due_at = least(webhook_retries.due_at, excluded.due_at)",
            tenant.0,
            endpoint.0,
            event.seq,
            event.id,
            now
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(true)
    })
    .await
}
