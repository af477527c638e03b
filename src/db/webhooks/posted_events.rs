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

/// Returns a page of the events posted to an endpoint, newest first, starting after `after`; or only the event `only`.
pub async fn page(
    db: &Db,
    (tenant, endpoint): (TenantId, EndpointId),
    only: Option<PostId>,
    after: Option<PostId>,
    limit: i64,
) -> Result<Vec<PostedEvent>, DbError> {
    // Most first attempts succeed; later attempts are searched only for the others.
    let query = sqlx::query_as!(
        PostedEvent,
        r#"SELECT a.id, a.seq, e.type AS kind, e.recorded_at, r.due_at AS "next_attempt_at?",
                  coalesce(a.status BETWEEN 200 AND 299, false) OR EXISTS (
                      SELECT FROM webhook_attempts later
                      WHERE later.endpoint_id = $2 AND later.tenant_id = $1 AND later.id > a.id AND later.seq = a.seq
                        AND later.status BETWEEN 200 AND 299) AS "is_delivered!"
           FROM webhook_attempts a
           JOIN events e ON e.tenant_id = $1 AND e.seq = a.seq
           LEFT JOIN webhook_retries r ON r.endpoint_id = $2 AND r.seq = a.seq AND r.tenant_id = $1
           WHERE a.endpoint_id = $2 AND a.tenant_id = $1 AND a.attempt = 1 AND a.events = 1
             AND ($3::uuid IS NULL OR a.id = $3) AND ($4::uuid IS NULL OR a.id < $4)
           ORDER BY a.id DESC LIMIT $5"#,
        tenant.0,
        endpoint.0,
        only.map(|id| id.0),
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
        "SELECT id, seq, events, attempt AS number, size, status, answer, error, duration_ms, next_attempt_at
         FROM webhook_attempts
         WHERE endpoint_id = $2 AND tenant_id = $1 AND seq = $3 AND id >= $4 AND ($5::uuid IS NULL OR id < $5)
         ORDER BY id DESC LIMIT $6",
        tenant.0,
        endpoint.0,
        event.seq,
        event.id,
        after.map(|id| id.0),
        limit
    );
    db.timed("webhooks.posted_events.attempts", query.fetch_all(&db.pool)).await
}

/// Makes another attempt to post an event due at `now`, whether or not it was delivered.
pub async fn replay(
    db: &Db,
    (tenant, endpoint): (TenantId, EndpointId),
    event: &PostedEvent,
    now: DateTime<Utc>,
) -> Result<(), DbError> {
    let query = sqlx::query!(
        "INSERT INTO webhook_retries (endpoint_id, tenant_id, seq, seqs, attempts, due_at)
         SELECT $2, $1, $3::bigint, ARRAY[$3], max(attempt), $5::timestamptz FROM webhook_attempts
         WHERE endpoint_id = $2 AND tenant_id = $1 AND seq = $3 AND id >= $4
         HAVING count(*) > 0
         ON CONFLICT (endpoint_id, seq, tenant_id)
         DO UPDATE SET due_at = least(webhook_retries.due_at, excluded.due_at)",
        tenant.0,
        endpoint.0,
        event.seq,
        event.id,
        now
    );
    db.timed("webhooks.posted_events.replay", query.execute(&db.pool)).await.map(|_| ())
}
