//! The table `webhook_attempts`: the log of posts to webhook endpoints.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::db::{Db, DbError};
use crate::domain::id::{EndpointId, PostId, TenantId};

/// A logged post.
#[derive(Debug, Clone)]
pub struct PostRow {
    /// `UUIDv7` of its start time.
    pub id: Uuid,
    /// `seq` of its first event.
    pub seq: i64,
    /// Number of events.
    pub events: i16,
    /// Number of the try, starting at 1.
    pub attempt: i16,
    /// Bytes of the request body.
    pub size: i32,
    /// HTTP status of the response.
    pub status: Option<i16>,
    /// Start of the response body.
    pub answer: Option<String>,
    /// Why there was no response, or why it counts as a failure.
    pub error: Option<String>,
    /// Duration in milliseconds.
    pub duration_ms: i32,
    /// When the next try is due.
    pub next_attempt_at: Option<DateTime<Utc>>,
}

/// Returns a page of an endpoint's log, newest first, starting after `after`.
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
    db.timed("webhooks.log.page", query.fetch_all(&db.pool)).await
}
