//! The table `webhook_attempts`: the log of delivery attempts.

use super::delivery::Attempt;
use crate::db::{Db, DbError};
use crate::domain::id::{EndpointId, PostId, TenantId};

/// Returns a page of an endpoint's log, newest first, starting after `after`.
pub async fn page(
    db: &Db,
    tenant: TenantId,
    id: EndpointId,
    after: Option<PostId>,
    limit: i64,
) -> Result<Vec<Attempt>, DbError> {
    let query = sqlx::query_as!(
        Attempt,
        "SELECT id, seq, events, attempt AS number, size, status, answer AS response_body, error, duration_ms,
                next_attempt_at
         FROM webhook_attempts
         WHERE endpoint_id = $2 AND tenant_id = $1 AND ($3::uuid IS NULL OR id < $3) ORDER BY id DESC LIMIT $4",
        tenant.0,
        id.0,
        after.map(|id| id.0),
        limit
    );
    db.timed("webhooks.log.page", query.fetch_all(&db.pool)).await
}
