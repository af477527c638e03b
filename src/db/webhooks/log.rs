//! `webhook_attempts`: the log of every post to a webhook endpoint, as its owner reads it.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::db::{Db, DbError};
use crate::domain::id::{EndpointId, PostId, TenantId};

/// One post to an endpoint, as its log has it.
#[derive(Debug, Clone)]
pub struct PostRow {
    /// Its id; the time part is its begin.
    pub id: Uuid,
    /// The first of its events.
    pub seq: i64,
    /// How many events.
    pub events: i16,
    /// 1 for the first try.
    pub attempt: i16,
    /// Octets of the body.
    pub size: i32,
    /// Status answered.
    pub status: Option<i16>,
    /// The start of the body answered.
    pub answer: Option<String>,
    /// Why there was no answer, or why it is none.
    pub error: Option<String>,
    /// How long it took.
    pub duration_ms: i32,
    /// When it is tried again.
    pub next_attempt_at: Option<DateTime<Utc>>,
}

/// A page of an endpoint's log, newest first, starting behind `after`.
pub async fn page(
    db: &Db,
    tenant: TenantId,
    id: EndpointId,
    after: Option<PostId>,
    limit: i64,
) -> Result<Vec<PostRow>, DbError> {
    let query = sqlx::query_as!(
        PostRow,
        "SELECT id, seq, events, attempt, size, status, answer, error, duration_ms, next_attempt_at
         FROM webhook_attempts
         WHERE endpoint_id = $2 AND tenant_id = $1 AND ($3::uuid IS NULL OR id < $3) ORDER BY id DESC LIMIT $4",
        tenant.0,
        id.0,
        after.map(|id| id.0),
        limit
    );
    db.timed("webhook_log.page", query.fetch_all(&db.pool)).await
}
