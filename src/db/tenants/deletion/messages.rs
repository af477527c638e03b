//! Deletes messages, in the order of their ids.

use chrono::TimeDelta;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Deletion, Removed};
use crate::domain::id::{MessageId, TenantId};

/// Maximum number of messages of all tenants that a step reads. It reads only the primary key.
const SCANNED: i64 = 5_000;
/// Maximum number of messages that a step deletes; each has at most 50 recipients.
const DELETED: usize = 200;
/// The clocks of replicas differ by less than this, so no message has an id from an earlier time.
const MAX_CLOCK_SKEW: TimeDelta = TimeDelta::days(1);

/// Deletes the next messages with their rows in other tables. Stops at a message with a leased recipient.
pub(super) async fn remove(connection: &mut PgConnection, deletion: &Deletion) -> Result<Removed, sqlx::Error> {
    let tenant = deletion.tenant;
    let after = deletion.position.unwrap_or_else(|| MessageId::first_at(deletion.since - MAX_CLOCK_SKEW).0);
    // Read without a condition on the tenant, so that a step costs the same however many messages other tenants have.
    let ids = sqlx::query!("SELECT id, tenant_id FROM messages WHERE id > $1 ORDER BY id LIMIT $2", after, SCANNED)
        .fetch_all(&mut *connection)
        .await?;
    let own: Vec<Uuid> =
        ids.iter().filter(|row| row.tenant_id == tenant.0).map(|row| row.id).take(DELETED + 1).collect();
    // All of them were read, unless there are more than the step deletes.
    let last = if own.len() > DELETED { own.get(DELETED - 1).copied() } else { ids.last().map(|row| row.id) };
    // Other tenants may add messages faster than a step reads them, so the end is not where there are none.
    let is_end = own.len() <= DELETED && ids.len() < usize::try_from(SCANNED).unwrap_or(usize::MAX);
    let own = own.get(..DELETED).unwrap_or(&own);
    let leased = remove_from_queue(connection, tenant, own).await?;
    let ended: Vec<Uuid> = own.iter().copied().filter(|id| !leased.contains(id)).collect();
    let rows = if ended.is_empty() { 0 } else { remove_rows(connection, tenant, &ended).await? };
    Ok(Removed {
        messages: ended.len() as u64,
        rows,
        // The next step begins with these messages again, of which only those with leased recipients are left.
        position: if leased.is_empty() { last } else { Some(after) },
        is_complete: leased.is_empty() && is_end,
        must_wait: !leased.is_empty(),
    })
}

/// Deletes the rows in the queue that are not leased. Returns the messages with leased ones.
async fn remove_from_queue(
    connection: &mut PgConnection,
    tenant: TenantId,
    messages: &[Uuid],
) -> Result<Vec<Uuid>, sqlx::Error> {
    if messages.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query!(
        "DELETE FROM queue WHERE message_id = ANY ($2) AND tenant_id = $1 AND lease IS NULL",
        tenant.0,
        messages
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query_scalar!(
        "SELECT DISTINCT message_id FROM queue WHERE message_id = ANY ($2) AND tenant_id = $1",
        tenant.0,
        messages
    )
    .fetch_all(connection)
    .await
}

/// Deletes messages that have no rows in the queue. Returns the number of rows.
async fn remove_rows(connection: &mut PgConnection, tenant: TenantId, messages: &[Uuid]) -> Result<u64, sqlx::Error> {
    let mut rows = 0;
    let recipients =
        sqlx::query!("DELETE FROM recipients WHERE message_id = ANY ($2) AND tenant_id = $1", tenant.0, messages);
    rows += recipients.execute(&mut *connection).await?.rows_affected();
    let conversations = sqlx::query!(
        "DELETE FROM smtp_conversations WHERE message_id = ANY ($2) AND tenant_id = $1",
        tenant.0,
        messages
    );
    rows += conversations.execute(&mut *connection).await?.rows_affected();
    let message_ids = sqlx::query!(
        "DELETE FROM custom_message_ids c USING messages m
         WHERE m.id = ANY ($2) AND m.tenant_id = $1 AND m.internet_message_id IS NOT NULL
           AND c.message_id = m.internet_message_id AND c.tenant_id = $1 AND c.id = m.id",
        tenant.0,
        messages
    );
    rows += message_ids.execute(&mut *connection).await?.rows_affected();
    // The content of a bulk has another id, and is deleted with the bulk.
    let contents = sqlx::query!("DELETE FROM contents WHERE id = ANY ($2) AND tenant_id = $1", tenant.0, messages);
    rows += contents.execute(&mut *connection).await?.rows_affected();
    let deleted = sqlx::query!("DELETE FROM messages WHERE id = ANY ($2) AND tenant_id = $1", tenant.0, messages);
    rows += deleted.execute(connection).await?.rows_affected();
    Ok(rows)
}
