//! `idempotency_keys`: which request a key stands for.

use uuid::Uuid;

use super::{Db, DbError};
use crate::domain::id::TenantId;

/// What a key stands for.
#[derive(Debug, Clone)]
pub struct KeyUse {
    /// SHA-256 of the first request.
    pub fingerprint: Vec<u8>,
    /// The message it made.
    pub message_id: Uuid,
}

/// The first use of this key, if there was one.
pub async fn find(db: &Db, tenant: TenantId, key: &str) -> Result<Option<KeyUse>, DbError> {
    let query = sqlx::query_as!(
        KeyUse,
        r#"SELECT fingerprint, message_ids[1] AS "message_id!" FROM idempotency_keys WHERE tenant_id = $1 AND key = $2"#,
        tenant.0,
        key
    );
    db.timed("idempotency.find", query.fetch_optional(&db.pool)).await
}
