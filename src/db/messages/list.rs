//! A page of messages, newest first, with filters.

pub mod paging;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::MessageRow;
use crate::db::{Db, DbError, queue};
use crate::domain::delivery::{MessageStatus, Status};
use crate::domain::id::{BulkId, KeyId, MessageId, TemplateId, TenantId};

/// Filters for messages.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only messages with this status.
    pub status: Option<MessageStatus>,
    /// Only messages with this recipient.
    pub to: Option<String>,
    /// Only messages from this address.
    pub from: Option<String>,
    /// Only messages whose subject contains this, ignoring case.
    pub subject: Option<String>,
    /// Only messages with this tag: name and value.
    pub tag: Option<(String, String)>,
    /// Only messages of this stream.
    pub stream: Option<String>,
    /// Only messages accepted at or after this time.
    pub created_after: Option<DateTime<Utc>>,
    /// Only messages accepted before this time.
    pub created_before: Option<DateTime<Utc>>,
    /// Only messages older than this one.
    pub after: Option<MessageId>,
    /// Only messages from senders in these domains.
    pub sender_domains: Option<Vec<String>>,
    /// Only messages with a recipient waiting in this lane.
    pub lane: Option<i64>,
    /// Only messages with (`true`) or without (`false`) a recipient held for an operator.
    pub held: Option<bool>,
    /// Only messages with a recipient at this domain.
    pub to_domain: Option<String>,
    /// Only these messages.
    pub ids: Option<Vec<Uuid>>,
    /// Only messages rendered from this template.
    pub template: Option<TemplateId>,
    /// Only messages of this bulk.
    pub bulk: Option<BulkId>,
    /// Only messages sent with this API key.
    pub key: Option<KeyId>,
}

impl Filter {
    /// Returns whether an index finds the messages that match, so that no others are examined.
    fn finds_messages(&self) -> bool {
        let by_status = matches!(self.status.map(Index::new), Some(Index::Leased | Index::Notable));
        by_status || self.is_narrow()
    }

    /// Returns whether an index finds the messages, whatever their status, so that they are few.
    fn is_narrow(&self) -> bool {
        let has_index = self.bulk.is_some() || self.to.is_some() || self.lane.is_some() || self.ids.is_some();
        has_index || self.held == Some(true)
    }
}

/// How the messages with a status are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Index {
    /// By the leased rows of the queue, which are always few.
    Leased,
    /// By the rows of the queue, unless there is a backlog.
    Queue,
    /// By the index `recipients_notable`, because few messages have the status.
    Notable,
    /// By examining each message.
    None,
}

impl Index {
    fn new(status: MessageStatus) -> Self {
        match status {
            MessageStatus::Recipients(status) => match status {
                Status::Sending => Self::Leased,
                Status::Queued | Status::Scheduled => Self::Queue,
                Status::Deferred
                | Status::Bounced
                | Status::Expired
                | Status::Suppressed
                | Status::Canceled
                | Status::Uncertain => Self::Notable,
                Status::Relayed | Status::Delivered => Self::None,
            },
            MessageStatus::Partial => Self::None,
        }
    }
}

/// A tenant with at most this many events has few messages: they are found by its events, in at most 20 ms.
const FEW_EVENTS: i64 = 10_000;

/// Limits the filter to the tenant's own messages, if these are few. The messages of all tenants are in one order, so a
/// page of a tenant with few messages would otherwise examine those of all others. The event feed is in the order of the
/// tenant, and has an event of each accepted message.
pub async fn narrow(db: &Db, tenant: TenantId, filter: Filter) -> Result<Filter, DbError> {
    if filter.finds_messages() {
        return Ok(filter);
    }
    // Without the first event, the oldest messages may have none. `CASE` reads the events only of a tenant with few. A
    // restore skips event numbers, so a high number does not mean many events.
    let query = sqlx::query_scalar!(
        "WITH feed AS MATERIALIZED (
             SELECT (SELECT seq FROM events WHERE tenant_id = $1 ORDER BY seq LIMIT 1) AS first,
                    (SELECT seq FROM events WHERE tenant_id = $1 ORDER BY seq DESC LIMIT 1) AS last)
         SELECT CASE
             WHEN first IS NULL THEN (SELECT ARRAY[]::uuid[] FROM event_counters WHERE tenant_id = $1 AND last_seq = 0)
             WHEN first = 1 AND (last <= $2 OR NOT EXISTS (
                 SELECT FROM events WHERE tenant_id = $1 ORDER BY seq OFFSET $2 LIMIT 1)) THEN ARRAY(
                 SELECT message_id FROM events WHERE tenant_id = $1 AND type IN ('message.accepted', 'message.scheduled')
                    AND message_id IS NOT NULL AND ($3::timestamptz IS NULL OR recorded_at >= $3))
             END AS ids
         FROM feed",
        tenant.0,
        FEW_EVENTS,
        // An event is recorded after its message was created, by the same clock, unless that was corrected meanwhile.
        filter.created_after.map(|after| after - TimeDelta::hours(1))
    );
    let ids = db.timed("messages.narrow", query.fetch_one(&db.pool)).await?;
    Ok(Filter { ids, ..filter })
}

/// Returns a page of messages, newest first.
pub async fn page(
    db: &Db,
    tenant: TenantId,
    filter: &Filter,
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Vec<MessageRow>, DbError> {
    let tag = filter.tag.as_ref().map(|(name, value)| serde_json::json!([{"name": name, "value": value}]));
    // If few messages can match, an index finds them; otherwise the query scans messages from the newest on.
    let index = filter.status.map(Index::new);
    let is_notable = index == Some(Index::Notable);
    let is_in_queue = match index {
        Some(Index::Leased) => true,
        Some(Index::Queue) => !queue::has_backlog(db).await?,
        Some(Index::Notable | Index::None) | None => false,
    };
    // With custom plans, the planner removes the conditions of absent filters. With OFFSET 0, it looks up the recipients of one
    // message after the other; otherwise it might read all recipients of all tenants first.
    let query = sqlx::query_as!(
        MessageRow,
        "SELECT m.id, m.tenant_id, m.created_at, m.stream, m.from_address, m.from_name, m.reply_to, m.subject, m.tags, m.metadata,
                m.scheduled_at, m.expires_at, m.on_uncertain, m.ignore_suppression, m.size, m.internet_message_id,
                m.template_id,
                (SELECT t.alias FROM templates t WHERE t.tenant_id = $23 /* tenant.live */ AND t.id = m.template_id) AS template_alias,
                m.template_version, m.bulk_id, m.received_id, m.key_id,
                CASE WHEN m.content_deleted_at IS NOT NULL THEN m.content_deleted_at
                     WHEN m.content_id < (SELECT uuid_floor(max(week) + interval '7 days') FROM retention_weeks
                                         WHERE class = 'content' AND dropped_at IS NOT NULL)
                     THEN content_deletion(m.content_id) END AS content_deleted_at
         FROM messages m
         WHERE m.tenant_id = $1 /* tenant */
           AND ($19::uuid[] /* ids */ IS NULL OR m.id = ANY ($19))
           AND ($2::uuid /* after */ IS NULL OR m.id < $2)
           AND ($3::timestamptz /* created_after */ IS NULL OR m.id >= uuid_floor($3))
           AND ($4::timestamptz /* created_before */ IS NULL OR m.id < uuid_floor($4))
           AND ($5::text /* stream */ IS NULL OR m.stream = $5)
           AND ($6::text /* from */ IS NULL OR lower(m.from_address) = lower($6))
           AND ($7::text /* subject */ IS NULL OR position(lower($7) IN lower(m.subject)) > 0)
           AND ($8::jsonb /* tag */ IS NULL OR m.tags @> $8)
           AND ($9::text /* to */ IS NULL OR m.id = ANY (ARRAY(
                SELECT r.message_id FROM recipients r WHERE r.tenant_id = $1 AND lower(r.address) = lower($9)
                   AND ($2::uuid IS NULL OR r.message_id < $2)
                   AND ($3::timestamptz IS NULL OR r.message_id >= uuid_floor($3)))))
           AND ($13::boolean /* is_notable */ IS FALSE OR m.id = ANY (ARRAY(
                SELECT r.message_id FROM recipients r WHERE r.tenant_id = $1 AND r.status = $10 /* status */
                   AND r.status NOT IN ('queued', 'relayed', 'delivered')
                   AND ($2::uuid IS NULL OR r.message_id < $2)
                   AND ($3::timestamptz IS NULL OR r.message_id >= uuid_floor($3)))))
           AND ($14::boolean /* is_in_queue */ IS FALSE OR m.id = ANY (ARRAY(
                SELECT q.message_id FROM queue q WHERE q.tenant_id = $1
                   AND ($10 <> 'sending' OR q.lease IS NOT NULL))))
           AND ($15::text[] /* sender_domains */ IS NULL OR split_part(m.from_address, '@', -1) = ANY ($15))
           AND ($16::bigint /* lane */ IS NULL OR m.id = ANY (ARRAY(
                SELECT q.message_id FROM queue q
                WHERE q.lane_id = $16 AND q.tenant_id = $1 AND q.lease IS NULL AND ($2::uuid IS NULL OR q.message_id < $2)
                  AND ($17::boolean /* held */ IS NOT TRUE OR q.due_at = 'infinity'))))
           AND ($17::boolean IS NOT TRUE OR $16::bigint IS NOT NULL OR m.id = ANY (ARRAY(
                SELECT q.message_id FROM lanes l JOIN queue q ON q.lane_id = l.id
                WHERE l.tenant_id = $1 AND q.lease IS NULL AND q.due_at = 'infinity')))
           AND ($17::boolean IS NOT FALSE OR m.id <> ALL (ARRAY(
                SELECT q.message_id FROM lanes l JOIN queue q ON q.lane_id = l.id
                WHERE l.tenant_id = $1 AND q.lease IS NULL AND q.due_at = 'infinity')))
           AND ($18::text /* to_domain */ IS NULL OR EXISTS (
                SELECT FROM recipients r WHERE r.tenant_id = $1 AND r.message_id = m.id
                   AND lower(substring(r.address FROM '@([^@]+)$')) = lower($18) OFFSET 0))
           AND ($20::uuid /* template */ IS NULL OR m.template_id = $20)
           AND ($21::uuid /* bulk */ IS NULL OR m.id = ANY (ARRAY(
                SELECT b.message_id FROM bulk_messages b WHERE b.bulk_id = $21 AND b.tenant_id = $1
                   AND ($2::uuid IS NULL OR b.message_id < $2))))
           AND ($22::uuid /* key */ IS NULL OR m.key_id = $22)
           AND ($10::text IS NULL OR message_status($1, m.id, $11 /* now */) = $10)
         ORDER BY m.id DESC LIMIT $12 /* limit */",
        tenant.0,
        filter.after.map(|id| id.0),
        filter.created_after,
        filter.created_before,
        filter.stream,
        filter.from,
        filter.subject,
        tag,
        filter.to,
        filter.status.map(MessageStatus::as_str),
        now,
        limit,
        is_notable,
        is_in_queue,
        filter.sender_domains.as_deref(),
        filter.lane,
        filter.held,
        filter.to_domain,
        filter.ids.as_deref(),
        filter.template.map(|template| template.0),
        filter.bulk.map(|bulk| bulk.0),
        filter.key.map(|key| key.0),
        tenant.live().0
    );
    db.timed("messages.page", query.fetch_all(&db.pool)).await
}
