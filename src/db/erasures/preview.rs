//! Counts what an erasure would erase.

use chrono::{DateTime, Utc};

use crate::db::{Db, DbError};
use crate::domain::id::TenantId;
use crate::domain::records::erasure::ErasedAddress;

/// What is stored about an address, without what only a long search finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preview {
    /// Messages to the address.
    pub messages: i64,
    /// Recipients with the address.
    pub recipients: i64,
    /// Of these, recipients that are still to be sent to.
    pub queued: i64,
    /// Recipients of bulks that are not messages yet.
    pub bulk_recipients: i64,
    /// Entries of the suppression list, without those that expired.
    pub suppressions: i64,
}

/// Counts what is stored about an address.
pub async fn preview(
    db: &Db,
    tenant: TenantId,
    address: &ErasedAddress,
    now: DateTime<Utc>,
) -> Result<Preview, DbError> {
    let query = sqlx::query_as!(
        Preview,
        r#"SELECT r.messages AS "messages!", r.recipients AS "recipients!", r.queued AS "queued!",
                  (SELECT count(*) FROM bulks b JOIN bulk_recipients w ON w.bulk_id = b.id
                   WHERE b.tenant_id = $1 AND lower(w.address) = ANY ($2)) AS "bulk_recipients!",
                  (SELECT count(*) FROM suppressions WHERE tenant_id = $1 AND address = $3
                      AND (expires_at IS NULL OR expires_at > $4)) AS "suppressions!"
           FROM (SELECT count(DISTINCT message_id) AS messages, count(*) AS recipients,
                        count(*) FILTER (WHERE finished_at IS NULL) AS queued
                 FROM recipients WHERE tenant_id = $1 AND lower(address) = ANY ($2)) r"#,
        tenant.0,
        &address.notations,
        address.key.as_str(),
        now
    );
    db.timed("erasures.preview", query.fetch_one(&db.pool)).await
}
