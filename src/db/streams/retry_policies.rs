//! Retry settings that streams have of their own, instead of the configured ones.

use uuid::Uuid;

use crate::db::{Db, DbError};
use crate::domain::delivery::retry::OwnPolicy;

/// A stream with retry settings.
#[derive(Debug, Clone)]
pub struct RetryRow {
    /// The tenant.
    pub tenant_id: Uuid,
    /// The stream.
    pub stream: String,
    /// Its retry settings.
    pub own: OwnPolicy,
}

/// Returns the streams of all tenants that have retry settings.
pub async fn all(db: &Db) -> Result<Vec<RetryRow>, DbError> {
    let query = sqlx::query!(
        r#"SELECT tenant_id, name AS stream, retry_schedule AS schedule, retry_window AS "window", greylist FROM streams
           WHERE num_nonnulls(retry_schedule, retry_window, greylist) > 0"#
    );
    let rows = db.timed("retry_policies.all", query.fetch_all(&db.pool)).await?;
    let rows = rows.into_iter().map(|row| RetryRow {
        tenant_id: row.tenant_id,
        stream: row.stream,
        own: OwnPolicy { schedule: row.schedule, window: row.window, greylist: row.greylist },
    });
    Ok(rows.collect())
}
