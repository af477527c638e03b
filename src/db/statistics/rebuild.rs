//! Lets all stored events be counted again.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::db::{Db, DbError};
use crate::domain::id::TenantId;
use crate::domain::statistics::Step;

/// Returns the tenants whose events are counted.
pub async fn tenants(db: &Db) -> Result<Vec<TenantId>, DbError> {
    let query = sqlx::query_scalar!("SELECT tenant_id FROM statistics_cursors ORDER BY tenant_id");
    let tenants: Vec<Uuid> = db.timed("statistics.tenants", query.fetch_all(&db.pool)).await?;
    Ok(tenants.into_iter().map(TenantId).collect())
}

/// Moves a tenant's cursor before its first stored event. Workers then delete the figures of the days of stored events,
/// and count these events again. Figures of earlier days stay. Returns whether there is anything to count.
pub async fn request(db: &Db, tenant: TenantId) -> Result<bool, DbError> {
    db.timed("statistics.rebuild", async {
        let mut tx = db.pool.begin().await?;
        // Waits until the worker that is counting has committed.
        let cursor = sqlx::query!("SELECT seq FROM statistics_cursors WHERE tenant_id = $1 FOR UPDATE", tenant.0)
            .fetch_optional(&mut *tx)
            .await?;
        let first =
            sqlx::query!("SELECT seq, recorded_at FROM events WHERE tenant_id = $1 ORDER BY seq LIMIT 1", tenant.0)
                .fetch_optional(&mut *tx)
                .await?;
        let Some((_, first)) = cursor.zip(first) else { return Ok(false) };
        let is_complete = first.seq == 1;
        let from = if is_complete { DateTime::<Utc>::UNIX_EPOCH } else { Step::Day.floor(first.recorded_at) };
        sqlx::query!(
            "UPDATE statistics_cursors SET seq = $2, counted_until = NULL, clear_from = $3 WHERE tenant_id = $1",
            tenant.0,
            first.seq - 1,
            from
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(true)
    })
    .await
}
