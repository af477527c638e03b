//! Pages of messages towards the newest one, for clients that page backwards.

use uuid::Uuid;

use crate::db::{Db, DbError};
use crate::domain::id::{MessageId, TenantId};

/// Returns the ids of the messages that follow a message in time, oldest first. `sender_domains` limits them to senders
/// in these domains.
pub async fn ids(
    db: &Db,
    tenant: TenantId,
    than: MessageId,
    sender_domains: Option<&[String]>,
    limit: i64,
) -> Result<Vec<Uuid>, DbError> {
    let query = sqlx::query_scalar!(
        r#"SELECT id AS "id!" FROM messages
           WHERE tenant_id = $1 AND id > $2
             AND ($3::text[] IS NULL OR split_part(from_address, '@', -1) = ANY ($3))
           ORDER BY id LIMIT $4"#,
        tenant.0,
        than.0,
        sender_domains,
        limit
    );
    db.timed("newer.ids", query.fetch_all(&db.pool)).await
}
