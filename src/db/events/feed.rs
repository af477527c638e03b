//! The event feed of a tenant, in order of `seq`. Event numbers become visible in order (`event_counters`), so no event
//! appears later whose number is lower than one that was already read.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{EventRow, select_events};
use crate::db::{Db, DbError};
use crate::domain::id::{MessageId, TenantId};

/// Filters for the feed; an empty filter returns all events.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only events of these types.
    pub types: Option<Vec<String>>,
    /// Only events of this message.
    pub message: Option<MessageId>,
    /// Only events of messages from senders in these domains; excludes events without a message.
    pub sender_domains: Option<Vec<String>>,
}

impl Filter {
    fn is_empty(&self) -> bool {
        self.types.is_none() && self.message.is_none() && self.sender_domains.is_none()
    }
}

/// A page of the feed.
#[derive(Debug)]
pub struct FeedPage {
    /// Events in order of `seq`.
    pub events: Vec<EventRow>,
    /// Cursor for the next page: all events up to this `seq` have been examined.
    pub next: i64,
    /// Whether more events may be available now.
    pub has_more: bool,
}

/// Maximum number of events examined per call, so that a filter on a rare type stays cheap.
const WINDOW: i64 = 10_000;
/// The same limit if the message of each event is read too.
const SENDERS_WINDOW: i64 = 2_000;

/// Returns at most `limit` events with a `seq` above `after`.
pub async fn page(db: &Db, tenant: TenantId, filter: &Filter, after: i64, limit: i64) -> Result<FeedPage, DbError> {
    let window = match filter {
        filter if filter.is_empty() => None,
        // A message has few events, and an index finds them.
        Filter { message: Some(_), .. } => rest(db, tenant, after).await?,
        // The query reads the sender of each event's message.
        Filter { sender_domains: Some(_), .. } => window(db, tenant, after, SENDERS_WINDOW).await?,
        Filter { .. } => window(db, tenant, after, WINDOW).await?,
    };
    if window.is_none() && !filter.is_empty() {
        return Ok(FeedPage { events: Vec::new(), next: after, has_more: false });
    }
    let up_to = window.as_ref().map_or(i64::MAX, |window| window.up_to);
    let mut events = events(db, tenant, filter, after, up_to, limit + 1).await?;
    let is_full = i64::try_from(events.len()).is_ok_and(|count| count > limit);
    if is_full {
        events.pop();
    }
    let last = events.last().map_or(after, |event| event.seq);
    Ok(match window {
        Some(window) if !is_full => FeedPage { events, next: window.up_to, has_more: window.is_full },
        _ => FeedPage { events, next: last, has_more: is_full },
    })
}

/// A range of events to examine.
struct Window {
    up_to: i64,
    is_full: bool,
}

/// Returns the range of the next `limit` events of any type; `None` if there are none.
async fn window(db: &Db, tenant: TenantId, after: i64, limit: i64) -> Result<Option<Window>, DbError> {
    let query = sqlx::query!(
        r#"SELECT max(seq) AS up_to, count(*) AS "count!"
           FROM (SELECT seq FROM events WHERE tenant_id = $1 AND seq > $2 ORDER BY seq LIMIT $3) AS next"#,
        tenant.0,
        after,
        limit
    );
    let row = db.timed("feed.window", query.fetch_one(&db.pool)).await?;
    Ok(row.up_to.map(|up_to| Window { up_to, is_full: row.count == limit }))
}

/// Returns the range of all later events; `None` if there are none.
async fn rest(db: &Db, tenant: TenantId, after: i64) -> Result<Option<Window>, DbError> {
    let last = last(db, &[tenant.0]).await?.first().map_or(0, |(_, seq)| *seq);
    Ok((last > after).then_some(Window { up_to: last, is_full: false }))
}

async fn events(
    db: &Db,
    tenant: TenantId,
    filter: &Filter,
    after: i64,
    up_to: i64,
    limit: i64,
) -> Result<Vec<EventRow>, DbError> {
    // With custom plans, the planner removes the conditions of absent filters.
    let query = select_events!(
        "(SELECT * FROM events
          WHERE tenant_id = $1 AND seq > $2 AND seq <= $3
            AND ($4::text[] IS NULL OR type = ANY ($4))
            AND ($5::uuid IS NULL OR message_id = $5)
            AND ($7::text[] IS NULL
                 OR EXISTS (
                     SELECT FROM messages s WHERE s.tenant_id = $1 AND s.id = events.message_id
                        AND split_part(s.from_address, '@', -1) = ANY ($7))
                 OR type = 'message.rejected' AND EXISTS (
                     SELECT FROM sql_inbox i WHERE i.tenant_id = $1 AND i.id = events.message_id
                        AND lower(split_part(sql_send_email(i.payload -> 'from'), '@', -1)) = ANY ($7)))
          ORDER BY seq LIMIT $6) e",
        "ORDER BY e.seq",
        tenant.0,
        after,
        up_to,
        filter.types.as_deref(),
        filter.message.map(|id| id.0),
        limit,
        filter.sender_domains.as_deref()
    );
    db.timed("feed.events", query.fetch_all(&db.pool)).await
}

/// Returns the `seq` up to which a tenant's events were deleted because of their age; 0 if none was.
pub async fn deleted_up_to(db: &Db, tenant: TenantId) -> Result<i64, DbError> {
    let query = sqlx::query_scalar!("SELECT up_to FROM deleted_events WHERE tenant_id = $1", tenant.0);
    Ok(db.timed("feed.deleted_up_to", query.fetch_optional(&db.pool)).await?.unwrap_or(0))
}

/// Returns the `seq` of each tenant's last event, without tenants that have had no events.
pub async fn last(db: &Db, tenants: &[Uuid]) -> Result<Vec<(Uuid, i64)>, DbError> {
    // Read from `events`, because the counter row may have many versions that a snapshot still sees.
    let query = sqlx::query!(
        r#"SELECT t.id AS "id!", last.seq AS "seq!"
           FROM unnest($1::uuid[]) AS t (id)
           CROSS JOIN LATERAL (
               SELECT coalesce((SELECT seq FROM events WHERE tenant_id = t.id ORDER BY seq DESC LIMIT 1),
                               (SELECT up_to FROM deleted_events WHERE tenant_id = t.id)) AS seq) AS last
           WHERE last.seq IS NOT NULL"#,
        tenants
    );
    let rows = db.timed("feed.last", query.fetch_all(&db.pool)).await?;
    Ok(rows.into_iter().map(|row| (row.id, row.seq)).collect())
}

/// Returns the `seq` of the last event written before `time`; 0 if there is none. The boundary is approximate, because
/// the replicas' clocks differ.
pub async fn last_before(db: &Db, tenant: TenantId, time: DateTime<Utc>) -> Result<i64, DbError> {
    // `recorded_at` has no index, but rises with `seq`, so a binary search finds the event in about thirty queries.
    let mut low = 0;
    let mut high = last(db, &[tenant.0]).await?.first().map_or(0, |(_, seq)| *seq);
    while low < high {
        let middle = high - (high - low) / 2;
        // Numbers are missing where retention deleted events, and where a restore skipped them.
        let query = sqlx::query!(
            "SELECT seq, recorded_at FROM events WHERE tenant_id = $1 AND seq >= $2 AND seq <= $3 ORDER BY seq LIMIT 1",
            tenant.0,
            middle,
            high
        );
        match db.timed("feed.written", query.fetch_optional(&db.pool)).await? {
            Some(event) if event.recorded_at < time => low = event.seq,
            _ => high = middle - 1,
        }
    }
    Ok(low)
}
