//! `streams`: what kinds of mail there are.

use super::{Db, DbError};
use crate::domain::id::TenantId;

/// One stream.
#[derive(Debug, Clone)]
pub struct StreamRow {
    /// Its name, unique within the tenant.
    pub name: String,
    /// 0–100; lower goes first.
    pub priority: i16,
}

/// All streams of a tenant, the most urgent first.
pub async fn all(db: &Db, tenant: TenantId) -> Result<Vec<StreamRow>, DbError> {
    let query = sqlx::query_as!(
        StreamRow,
        "SELECT name, priority FROM streams WHERE tenant_id = $1 ORDER BY priority, name",
        tenant.0
    );
    db.timed("streams.all", query.fetch_all(&db.pool)).await
}
