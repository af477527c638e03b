//! Message-IDs: stores those that are not derived from the message's id, and finds messages by their Message-ID.

use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::insert::MessageInsert;
use crate::db::{Db, DbError};
use crate::domain::id::{MessageId, TenantId};
use crate::domain::message::message_id::{bare, parse_derived};

/// Stores the Message-IDs of messages that were just inserted. Runs no statement if all of them are derived.
pub(super) async fn insert(connection: &mut PgConnection, group: &[&MessageInsert]) -> Result<(), sqlx::Error> {
    let own = || group.iter().filter(|insert| insert.message.message_id.is_some());
    let ids: Vec<Uuid> = own().map(|insert| insert.message.id.0).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let tenants: Vec<Uuid> = own().map(|insert| insert.tenant.0).collect();
    let message_ids: Vec<&str> = own().filter_map(|insert| insert.message.message_id.as_deref()).collect();
    sqlx::query!(
        "WITH own AS (SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS u (id, tenant_id, message_id)),
         marked AS (
             UPDATE messages SET internet_message_id = own.message_id FROM own
             WHERE messages.id = ANY (ARRAY[own.id]) AND messages.tenant_id = own.tenant_id)
         INSERT INTO custom_message_ids (message_id, tenant_id, id) SELECT message_id, tenant_id, id FROM own",
        &ids,
        &tenants,
        &message_ids as _
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Returns the ids of the messages with this Message-ID, which may be given with or without its angle brackets.
pub async fn find(db: &Db, tenant: TenantId, message_id: &str) -> Result<Vec<Uuid>, DbError> {
    // No Message-ID contains NUL, and Postgres refuses NUL in a parameter.
    if message_id.contains('\0') {
        return Ok(Vec::new());
    }
    let derived = parse_derived(message_id);
    let query = sqlx::query_scalar!(
        r#"SELECT id AS "id!" FROM custom_message_ids WHERE tenant_id = $1 AND message_id = $2
           UNION ALL
           SELECT id FROM messages
           WHERE tenant_id = $1 AND id = $3 AND internet_message_id IS NULL AND split_part(from_address, '@', -1) = lower($4)"#,
        tenant.0,
        bare(message_id),
        derived.map(|(id, _)| id.0),
        derived.map(|(_, domain)| domain)
    );
    db.timed("messages.by_message_id", query.fetch_all(&db.pool)).await
}

/// The message to which a new message replies.
#[derive(Debug, Clone)]
pub struct ParentRow {
    /// The sender's address.
    pub from_address: String,
    /// The Message-ID in its finished MIME; `None` if the Message-ID is derived from the message's id.
    pub internet_message_id: Option<String>,
    /// Custom headers, `[{"name", "value"}]`. For finished MIME, only the headers for threads and unsubscribe links.
    pub headers: Option<Value>,
}

/// Returns the fields of a message from which the headers of a reply are made.
pub async fn parent(db: &Db, tenant: TenantId, id: MessageId) -> Result<Option<ParentRow>, DbError> {
    let query = sqlx::query_as!(
        ParentRow,
        r#"SELECT m.from_address, m.internet_message_id, c.headers AS "headers?"
           FROM messages m LEFT JOIN contents c ON c.id = m.content_id AND c.tenant_id = m.tenant_id
           WHERE m.tenant_id = $1 AND m.id = $2"#,
        tenant.0,
        id.0
    );
    db.timed("messages.parent", query.fetch_optional(&db.pool)).await
}
