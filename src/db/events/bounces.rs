//! Bounce classifications, read from events. They are looked up message by message (LATERAL, with OFFSET 0): a new
//! week's partition has no statistics, and Postgres could otherwise read all events of the tenant.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use crate::db::{Db, DbError};
use crate::domain::event::BounceView;
use crate::domain::id::TenantId;

/// Returns the last bounce of each bounced recipient of these messages, by recipient id.
pub async fn of_messages(db: &Db, tenant: TenantId, messages: &[Uuid]) -> Result<HashMap<Uuid, BounceView>, DbError> {
    if messages.is_empty() {
        return Ok(HashMap::new());
    }
    let query = sqlx::query!(
        r#"SELECT DISTINCT ON (recipient_id) recipient_id AS "recipient!", bounce_type, bounce_category, bounce_source
           FROM unnest($2::uuid[]) AS wanted (id)
           CROSS JOIN LATERAL (SELECT * FROM events WHERE message_id = wanted.id OFFSET 0) e
           WHERE tenant_id = $1 AND recipient_id IS NOT NULL AND bounce_type IS NOT NULL
           ORDER BY recipient_id, seq DESC"#,
        tenant.0,
        messages
    );
    let rows = db.timed("bounces.of_messages", query.fetch_all(&db.pool)).await?;
    let bounces = rows.into_iter().filter_map(|row| {
        Some((row.recipient, BounceView::from_row(row.bounce_type, row.bounce_category, row.bounce_source)?))
    });
    Ok(bounces.collect())
}

/// Returns the ids of those messages in `messages` that a recipient has complained about.
pub async fn complained(db: &Db, tenant: TenantId, messages: &[Uuid]) -> Result<HashSet<Uuid>, DbError> {
    if messages.is_empty() {
        return Ok(HashSet::new());
    }
    let query = sqlx::query_scalar!(
        r#"SELECT DISTINCT message_id AS "id!"
           FROM unnest($2::uuid[]) AS wanted (id)
           CROSS JOIN LATERAL (SELECT * FROM events WHERE message_id = wanted.id OFFSET 0) e
           WHERE tenant_id = $1 AND type = 'message.complained'"#,
        tenant.0,
        messages
    );
    let ids = db.timed("bounces.complained", query.fetch_all(&db.pool)).await?;
    Ok(ids.into_iter().collect())
}
