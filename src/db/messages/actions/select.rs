//! Finds the recipients that an action applies to: examines the queue in the order of its key, a bounded number of rows per
//! statement, and looks up their messages one by one. The time of a statement depends neither on the size of the queue nor
//! on how many recipients match.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::db::messages::bulks::control::PAUSED_PREFIX;
use crate::db::{Db, DbError};
use crate::domain::delivery::Status;
use crate::domain::id::TenantId;
use crate::domain::message::action::{ActionFilter, ActionKind};

/// Which recipients an action applies to.
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    /// The tenant.
    pub tenant: TenantId,
    /// What the action does.
    pub kind: ActionKind,
    /// The filter.
    pub filter: &'a ActionFilter,
    /// Only messages from senders in these domains.
    pub sender_domains: Option<&'a [String]>,
    /// Only messages that were accepted before this time, or whose bulk was.
    pub accepted_before: DateTime<Utc>,
}

impl Selection<'_> {
    fn tag(&self) -> Option<Value> {
        self.filter.tag().map(|(name, value)| serde_json::json!([{"name": name, "value": value}]))
    }
}

/// A position in the queue, or in the recipients: after this recipient of this message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// The message.
    pub message: Uuid,
    /// The recipient.
    pub recipient: Uuid,
}

/// An examined recipient.
#[derive(Debug, Clone, Copy)]
pub struct ExaminedRow {
    /// The message.
    pub message_id: Uuid,
    /// The recipient.
    pub recipient_id: Uuid,
    /// Whether the recipient matches.
    pub is_match: bool,
}

impl ExaminedRow {
    /// Returns the position after this recipient.
    pub fn position(&self) -> Position {
        Position { message: self.message_id, recipient: self.recipient_id }
    }
}

/// Examines the next `limit` rows of the queue after a position, in the order of its key.
pub async fn queued(
    db: &Db,
    selection: &Selection<'_>,
    after: Position,
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Vec<ExaminedRow>, DbError> {
    let filter = selection.filter;
    let has_recipient_filter = filter.to.is_some() || filter.to_domain.is_some() || filter.status.is_some();
    // Messages and recipients are looked up row by row (LATERAL with OFFSET 0), and only for rows that can match. With
    // custom plans, the planner removes the conditions of absent filters.
    let query = sqlx::query_as!(
        ExaminedRow,
        r#"WITH examined AS MATERIALIZED (
               SELECT q.message_id, q.recipient_id, q.tenant_id, q.lane_id, q.lease, q.held, q.first_due_at, q.attempts,
                      q.crashes, q.preparation_error
               FROM queue q
               WHERE (q.message_id, q.recipient_id) > ($2::uuid /* message */, $3::uuid /* recipient */)
                 AND ($4::timestamptz /* created_before */ IS NULL OR q.message_id < uuid_floor($4))
               ORDER BY q.message_id, q.recipient_id LIMIT $5 /* limit */)
           SELECT e.message_id AS "message_id!", e.recipient_id AS "recipient_id!",
                  coalesce(m.is_match AND (r.is_match OR NOT $6::boolean /* has_recipient_filter */), false) AS "is_match!"
           FROM examined e
           LEFT JOIN LATERAL (
               SELECT true AS is_match FROM messages m
               WHERE e.tenant_id = $1 /* tenant */
                 AND CASE $7::text /* kind */
                     WHEN 'cancel' THEN true
                     WHEN 'retry' THEN e.held IS NULL AND e.crashes = 0
                                       AND (e.attempts > 0 OR e.preparation_error IS NOT NULL)
                     ELSE e.held IS NOT NULL AND NOT starts_with(e.held, $8 /* PAUSED_PREFIX */) END
                 AND ($9::bigint /* lane */ IS NULL OR e.lane_id = $9)
                 AND m.id = e.message_id AND m.tenant_id = $1 AND m.id >= $2
                 AND coalesce(m.bulk_id, m.id) < uuid_floor($10 /* accepted_before */)
                 AND ($11::timestamptz /* created_after */ IS NULL OR m.id >= uuid_floor($11))
                 AND ($12::text /* stream */ IS NULL OR m.stream = $12)
                 AND ($13::text /* from */ IS NULL OR lower(m.from_address) = lower($13))
                 AND ($14::text /* subject */ IS NULL OR position(lower($14) IN lower(m.subject)) > 0)
                 AND ($15::jsonb /* tag */ IS NULL OR m.tags @> $15)
                 AND ($16::uuid /* template */ IS NULL OR m.template_id = $16)
                 AND ($17::uuid /* bulk */ IS NULL OR m.bulk_id = $17)
                 AND ($18::uuid /* key */ IS NULL OR m.key_id = $18)
                 AND ($19::text[] /* sender_domains */ IS NULL OR split_part(m.from_address, '@', -1) = ANY ($19))
               OFFSET 0) m ON true
           LEFT JOIN LATERAL (
               SELECT true AS is_match FROM recipients r
               WHERE $6 AND m.is_match
                 AND r.message_id = e.message_id AND r.id = e.recipient_id AND r.tenant_id = $1 AND r.message_id >= $2
                 AND ($20::text /* to */ IS NULL OR lower(r.address) = lower($20))
                 AND ($21::text /* to_domain */ IS NULL
                      OR lower(substring(r.address FROM '@([^@]+)$')) = lower($21))
                 AND ($22::text /* status */ IS NULL
                      OR recipient_status(r.status, e.lease, e.first_due_at, $23 /* now */) = $22)
               OFFSET 0) r ON true
           ORDER BY e.message_id, e.recipient_id"#,
        selection.tenant.0,
        after.message,
        after.recipient,
        filter.created_before,
        limit,
        has_recipient_filter,
        selection.kind.as_str(),
        PAUSED_PREFIX,
        filter.lane.map(|lane| lane.0),
        selection.accepted_before,
        filter.created_after,
        filter.stream,
        filter.from,
        filter.subject,
        selection.tag(),
        filter.template.map(|template| template.0),
        filter.bulk.map(|bulk| bulk.0),
        filter.key.map(|key| key.0),
        selection.sender_domains,
        filter.to,
        filter.to_domain,
        filter.status.map(Status::as_str),
        now
    );
    db.timed("actions.queued", query.fetch_all(&db.pool)).await
}

/// An examined recipient with the status `uncertain`.
#[derive(Debug, Clone)]
pub struct UncertainRow {
    /// The message.
    pub message_id: Uuid,
    /// The recipient.
    pub recipient_id: Uuid,
    /// The recipient's address.
    pub address: String,
    /// The stream of the message; `None` if the recipient does not match.
    pub stream: Option<String>,
    /// The sender's address; `None` if the recipient does not match.
    pub from_address: Option<String>,
}

impl UncertainRow {
    /// Returns the position after this recipient.
    pub fn position(&self) -> Position {
        Position { message: self.message_id, recipient: self.recipient_id }
    }
}

/// Examines the next `limit` uncertain recipients after a position. They match only if their message has `on_uncertain:
/// hold`. The filter's lane is not compared, because these recipients are not in a lane.
pub async fn uncertain(
    db: &Db,
    selection: &Selection<'_>,
    after: Position,
    limit: i64,
) -> Result<Vec<UncertainRow>, DbError> {
    let filter = selection.filter;
    let query = sqlx::query_as!(
        UncertainRow,
        r#"SELECT r.message_id AS "message_id!", r.id AS "recipient_id!", r.address AS "address!", m.stream AS "stream?",
                  m.from_address AS "from_address?"
           FROM (SELECT message_id, id, address FROM recipients
                 WHERE tenant_id = $1 /* tenant */ AND status = 'uncertain'
                   AND status NOT IN ('queued', 'relayed', 'delivered')
                   AND message_id >= $2 /* message */ AND (message_id, id) > ($2, $3::uuid /* recipient */)
                   AND ($4::timestamptz /* created_before */ IS NULL OR message_id < uuid_floor($4))
                 ORDER BY message_id, id LIMIT $5 /* limit */) r
           LEFT JOIN LATERAL (
               SELECT m.stream, m.from_address FROM messages m
               WHERE m.id = r.message_id AND m.tenant_id = $1 AND m.id >= $2 AND m.on_uncertain = 'hold' AND m.content_deleted_at IS NULL
                 AND coalesce(m.bulk_id, m.id) < uuid_floor($6 /* accepted_before */)
                 AND ($7::timestamptz /* created_after */ IS NULL OR m.id >= uuid_floor($7))
                 AND ($8::text /* stream */ IS NULL OR m.stream = $8)
                 AND ($9::text /* from */ IS NULL OR lower(m.from_address) = lower($9))
                 AND ($10::text /* subject */ IS NULL OR position(lower($10) IN lower(m.subject)) > 0)
                 AND ($11::jsonb /* tag */ IS NULL OR m.tags @> $11)
                 AND ($12::uuid /* template */ IS NULL OR m.template_id = $12)
                 AND ($13::uuid /* bulk */ IS NULL OR m.bulk_id = $13)
                 AND ($14::uuid /* key */ IS NULL OR m.key_id = $14)
                 AND ($15::text[] /* sender_domains */ IS NULL OR split_part(m.from_address, '@', -1) = ANY ($15))
                 AND ($16::text /* to */ IS NULL OR lower(r.address) = lower($16))
                 AND ($17::text /* to_domain */ IS NULL
                      OR lower(substring(r.address FROM '@([^@]+)$')) = lower($17))
               OFFSET 0) m ON true
           ORDER BY r.message_id, r.id"#,
        selection.tenant.0,
        after.message,
        after.recipient,
        filter.created_before,
        limit,
        selection.accepted_before,
        filter.created_after,
        filter.stream,
        filter.from,
        filter.subject,
        selection.tag(),
        filter.template.map(|template| template.0),
        filter.bulk.map(|bulk| bulk.0),
        filter.key.map(|key| key.0),
        selection.sender_domains,
        filter.to,
        filter.to_domain
    );
    db.timed("actions.uncertain", query.fetch_all(&db.pool)).await
}
