//! How far a page of messages reaches: pages towards the newest one, for clients that page backwards, and the oldest message
//! that a page examines, so that no search reads the whole table.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Filter, Index};
use crate::db::{Db, DbError, queue};
use crate::domain::delivery::MessageStatus;
use crate::domain::id::{MessageId, TenantId};

/// Maximum number of messages examined per page for a status without an index. Each takes 30 µs.
const MAX_EXAMINED: i64 = 5_000;
/// Maximum number of messages examined per page for a domain of a recipient. Each takes 5 µs.
const MAX_EXAMINED_RECIPIENTS: i64 = 20_000;
/// Maximum number of messages examined per page for a value in their rows. Each takes 1 µs.
const MAX_EXAMINED_ROWS: i64 = 100_000;
/// Maximum number of messages of all tenants that a page passes. They are in one order. Each takes 0.3 µs.
const MAX_PASSED: i64 = 200_000;
/// Maximum number of recipients with a notable status whose messages are examined per page. Each takes 50 µs.
const MAX_EXAMINED_NOTABLE: i64 = 1_000;

impl Filter {
    /// Returns the acceptance time of the message that is the oldest to examine, unless the filter ends before it.
    fn within(&self, id: Option<Uuid>) -> Option<DateTime<Utc>> {
        let at = MessageId(id?).accepted_at();
        self.created_after.is_none_or(|after| after < at).then_some(at)
    }

    /// Returns the maximum number of messages that a page examines, unless an index finds them; `None` if each matches.
    fn max_examined(&self) -> Option<i64> {
        let Self { status, to_domain, from, subject, tag, stream, sender_domains, held, template, key, .. } = self;
        if status.is_some() {
            return Some(MAX_EXAMINED);
        }
        if to_domain.is_some() {
            return Some(MAX_EXAMINED_RECIPIENTS);
        }
        let selects_by_text = from.is_some() || subject.is_some() || tag.is_some() || stream.is_some();
        let selects_by_name = sender_domains.is_some() || held.is_some() || template.is_some() || key.is_some();
        (selects_by_text || selects_by_name).then_some(MAX_EXAMINED_ROWS)
    }
}

/// Returns the acceptance time of the oldest message that a page with this filter examines; `None` if it examines all.
pub async fn horizon(db: &Db, tenant: TenantId, filter: &Filter) -> Result<Option<DateTime<Utc>>, DbError> {
    if filter.is_narrow() {
        return Ok(None);
    }
    match filter.status.map(Index::new) {
        Some(Index::Notable) => return notable_horizon(db, tenant, filter).await,
        Some(Index::Leased) => return Ok(None),
        Some(Index::Queue) if !queue::has_backlog(db).await? => return Ok(None),
        Some(Index::Queue | Index::None) | None => {}
    }
    let Some(max_examined) = filter.max_examined() else {
        return Ok(None);
    };
    let query = sqlx::query_scalar!(
        "SELECT coalesce(
             (SELECT id FROM (
                  SELECT id, tenant_id FROM messages
                  WHERE ($2::uuid IS NULL OR id < $2) AND ($3::timestamptz IS NULL OR id < uuid_floor($3))
                  ORDER BY id DESC LIMIT $5) passed
              WHERE tenant_id = $1 ORDER BY id DESC OFFSET $4 LIMIT 1),
             (SELECT id FROM messages /* of all tenants */
              WHERE ($2::uuid IS NULL OR id < $2) AND ($3::timestamptz IS NULL OR id < uuid_floor($3))
              ORDER BY id DESC OFFSET $5 LIMIT 1)) AS id",
        tenant.0,
        filter.after.map(|id| id.0),
        filter.created_before,
        max_examined,
        MAX_PASSED
    );
    let id = db.timed("messages.horizon", query.fetch_one(&db.pool)).await?;
    Ok(filter.within(id))
}

/// Returns the same for a status of few messages, whose recipients an index finds.
async fn notable_horizon(db: &Db, tenant: TenantId, filter: &Filter) -> Result<Option<DateTime<Utc>>, DbError> {
    let query = sqlx::query_scalar!(
        r#"SELECT message_id AS "id!" FROM recipients
           WHERE tenant_id = $1 AND status = $5 AND status NOT IN ('queued', 'relayed', 'delivered')
             AND ($2::uuid IS NULL OR message_id < $2)
             AND ($3::timestamptz IS NULL OR message_id < uuid_floor($3))
           ORDER BY message_id DESC OFFSET $4 LIMIT 1"#,
        tenant.0,
        filter.after.map(|id| id.0),
        filter.created_before,
        MAX_EXAMINED_NOTABLE,
        filter.status.map(MessageStatus::as_str)
    );
    let id = db.timed("messages.notable_horizon", query.fetch_optional(&db.pool)).await?;
    Ok(filter.within(id))
}

/// Returns the ids of the messages that follow a message in time, oldest first. `sender_domains` limits them to senders
/// in these domains.
pub async fn newer_ids(
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
    db.timed("messages.newer_ids", query.fetch_all(&db.pool)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{KeyId, TemplateId};

    #[test]
    fn every_search_without_an_index_is_bounded() {
        let searches = [
            Filter { from: Some("a@a.test".into()), ..Filter::default() },
            Filter { subject: Some("x".into()), ..Filter::default() },
            Filter { tag: Some(("a".into(), "b".into())), ..Filter::default() },
            Filter { stream: Some("bulk".into()), ..Filter::default() },
            Filter { sender_domains: Some(vec!["a.test".into()]), ..Filter::default() },
            Filter { held: Some(false), ..Filter::default() },
            Filter { template: Some(TemplateId(Uuid::nil())), ..Filter::default() },
            Filter { key: Some(KeyId(Uuid::nil())), ..Filter::default() },
        ];
        for filter in searches {
            assert!(!filter.is_narrow() && filter.max_examined() == Some(MAX_EXAMINED_ROWS), "{filter:?}");
        }
        let queued = Some(MessageStatus::Recipients(crate::domain::delivery::Status::Queued));
        let both = Filter { status: queued, subject: Some("x".into()), ..Filter::default() };
        assert_eq!(both.max_examined(), Some(MAX_EXAMINED), "the slowest");
        assert_eq!(Filter::default().max_examined(), None);
    }
}
