//! Queries on `messages`, `contents` and `recipients`: one message, a page of messages, and the data for sending.

pub mod actions;
pub mod blob_cleanup;
pub mod blobs;
pub mod bulks;
pub(super) mod columns;
pub mod explain;
pub mod idempotency;
pub mod insert;
pub mod message_ids;
pub mod newer;
pub mod stored;
pub mod uploads;

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::{Db, DbError, queue};
use crate::domain::delivery::{MessageStatus, Status};
use crate::domain::id::{BulkId, KeyId, MessageId, TemplateId, TenantId};

/// An accepted message.
#[derive(Debug, Clone)]
pub struct MessageRow {
    /// `messages.id`.
    pub id: Uuid,
    /// The tenant.
    pub tenant_id: Uuid,
    /// Time of acceptance.
    pub created_at: DateTime<Utc>,
    /// The stream.
    pub stream: String,
    /// The sender's address.
    pub from_address: String,
    /// The sender's name.
    pub from_name: Option<String>,
    /// Reply-To, `[{"email", "name"}]`.
    pub reply_to: Value,
    /// Subject.
    pub subject: String,
    /// Tags, `[{"name", "value"}]`.
    pub tags: Value,
    /// Metadata, an object of strings.
    pub metadata: Value,
    /// Time before which no attempt is made.
    pub scheduled_at: Option<DateTime<Utc>>,
    /// Time after which no attempt is started.
    pub expires_at: Option<DateTime<Utc>>,
    /// `retry`, `hold` or `fail`.
    pub on_uncertain: String,
    /// Whether it is sent to suppressed addresses too.
    pub ignore_suppression: bool,
    /// Bytes of text, HTML and attachments.
    pub size: i64,
    /// The Message-ID in its finished MIME, without angle brackets; `None` if it is derived from the id.
    pub internet_message_id: Option<String>,
    /// The template that it was rendered from.
    pub template_id: Option<Uuid>,
    /// The template's alias; `None` without one, or if the template was deleted.
    pub template_alias: Option<String>,
    /// The version that it was rendered from.
    pub template_version: Option<i32>,
    /// The bulk that it belongs to.
    pub bulk_id: Option<Uuid>,
    /// The API key that it was sent with.
    pub key_id: Option<Uuid>,
}

/// A recipient with its delivery state.
#[derive(Debug, Clone)]
pub struct RecipientRow {
    /// The message.
    pub message_id: Uuid,
    /// `recipients.id`.
    pub id: Uuid,
    /// `to`, `cc` or `bcc`.
    pub kind: String,
    /// Email address.
    pub address: String,
    /// Display name.
    pub name: Option<String>,
    /// Status as shown in the API, including `scheduled` and `sending`.
    pub status: String,
    /// Number of attempts.
    pub attempts: i16,
    /// Start of the last attempt.
    pub last_attempt_at: Option<DateTime<Utc>>,
    /// When the next attempt is due; `None` if it is leased, held or in an end state.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// Why it is held for an operator.
    pub held: Option<String>,
    /// When it reached its end state.
    pub finished_at: Option<DateTime<Utc>>,
    /// SMTP code of the last reply.
    pub response_code: Option<i16>,
    /// Enhanced status code of the last reply.
    pub response_enhanced: Option<String>,
    /// Text of the last reply.
    pub response_text: Option<String>,
    /// Host of the last attempt.
    pub mx: Option<String>,
    /// TLS version and cipher of the last attempt.
    pub tls: Option<String>,
}

/// Returns one message.
pub async fn get(db: &Db, tenant: TenantId, id: MessageId) -> Result<Option<MessageRow>, DbError> {
    let query = sqlx::query_as!(
        MessageRow,
        "SELECT id, tenant_id, created_at, stream, from_address, from_name, reply_to, subject, tags, metadata, scheduled_at,
                expires_at, on_uncertain, ignore_suppression, size, internet_message_id, template_id,
                (SELECT alias FROM templates t WHERE t.tenant_id = $3 AND t.id = messages.template_id) AS template_alias,
                template_version, bulk_id, key_id
         FROM messages WHERE tenant_id = $1 AND id = $2",
        tenant.0,
        id.0,
        tenant.live().0
    );
    db.timed("messages.get", query.fetch_optional(&db.pool)).await
}

/// Returns the messages with these ids, in any order. The result does not contain missing messages.
pub async fn get_all(db: &Db, tenant: TenantId, ids: &[Uuid]) -> Result<Vec<MessageRow>, DbError> {
    let query = sqlx::query_as!(
        MessageRow,
        "SELECT id, tenant_id, created_at, stream, from_address, from_name, reply_to, subject, tags, metadata, scheduled_at,
                expires_at, on_uncertain, ignore_suppression, size, internet_message_id, template_id,
                (SELECT alias FROM templates t WHERE t.tenant_id = $3 AND t.id = messages.template_id) AS template_alias,
                template_version, bulk_id, key_id
         FROM messages WHERE tenant_id = $1 AND id = ANY ($2)",
        tenant.0,
        ids,
        tenant.live().0
    );
    db.timed("messages.get_all", query.fetch_all(&db.pool)).await
}

/// Returns the recipients of these messages, sorted by message id and then in the order of the request.
pub async fn recipients(
    db: &Db,
    tenant: TenantId,
    messages: &[Uuid],
    now: DateTime<Utc>,
) -> Result<Vec<RecipientRow>, DbError> {
    let query = sqlx::query_as!(
        RecipientRow,
        r#"SELECT r.message_id, r.id, r.kind, r.address, r.name,
                  recipient_status(r.status, q.lease, q.first_due_at, $3) AS "status!", r.attempts, r.last_attempt_at,
                  CASE WHEN q.lease IS NULL THEN nullif(q.due_at, 'infinity') END AS next_attempt_at,
                  q.held AS "held?", r.finished_at, r.response_code, r.response_enhanced, r.response_text, r.mx, r.tls
           FROM recipients r
           LEFT JOIN queue q ON q.message_id = r.message_id AND q.recipient_id = r.id AND q.tenant_id = r.tenant_id
           WHERE r.tenant_id = $1 AND r.message_id = ANY ($2)
           ORDER BY r.message_id, r.position"#,
        tenant.0,
        messages,
        now
    );
    db.timed("messages.recipients", query.fetch_all(&db.pool)).await
}

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

/// Maximum number of messages examined per page for a status without an index. Each takes 30 µs.
pub const MAX_EXAMINED: i64 = 5_000;

/// Returns the acceptance time of the oldest message that a page with this filter examines; `None` if it examines all.
pub async fn horizon(db: &Db, tenant: TenantId, filter: &Filter) -> Result<Option<DateTime<Utc>>, DbError> {
    if filter.status.map(Index::new) != Some(Index::None) || filter.bulk.is_some() {
        return Ok(None);
    }
    let query = sqlx::query_scalar!(
        r#"SELECT id AS "id!" FROM messages
           WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id < $2) AND ($3::timestamptz IS NULL OR id < uuid_floor($3))
           ORDER BY id DESC OFFSET $4 LIMIT 1"#,
        tenant.0,
        filter.after.map(|id| id.0),
        filter.created_before,
        MAX_EXAMINED
    );
    let id = db.timed("messages.horizon", query.fetch_optional(&db.pool)).await?;
    Ok(id.map(|id| MessageId(id).accepted_at()).filter(|at| filter.created_after.is_none_or(|after| after < *at)))
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
    // With custom plans, the planner removes the conditions of absent filters.
    let query = sqlx::query_as!(
        MessageRow,
        "SELECT m.id, m.tenant_id, m.created_at, m.stream, m.from_address, m.from_name, m.reply_to, m.subject, m.tags, m.metadata,
                m.scheduled_at, m.expires_at, m.on_uncertain, m.ignore_suppression, m.size, m.internet_message_id,
                m.template_id,
                (SELECT t.alias FROM templates t WHERE t.tenant_id = $23 /* tenant.live */ AND t.id = m.template_id) AS template_alias,
                m.template_version, m.bulk_id, m.key_id
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
                   AND lower(substring(r.address FROM '@([^@]+)$')) = lower($18)))
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

// The data for sending is looked up id by id (LATERAL, with OFFSET 0 so that the planner does not change the join
// order): each week's partitions start without statistics, and Postgres would scan the whole week for a list of a
// hundred ids. The range condition on the ids excludes other weeks.

/// The content of a message.
#[derive(Debug, Clone)]
pub struct ContentRow {
    /// `contents.id`.
    pub id: Uuid,
    /// Plain text.
    pub text: Option<String>,
    /// HTML.
    pub html: Option<String>,
    /// Custom headers, `[{"name", "value"}]`.
    pub headers: Value,
    /// Attachments, `[{"filename", "content_type", "content_id", "sha256", "size"}]`.
    pub attachments: Value,
    /// The template that the bodies are rendered from, `{"compiled", "variables"}`.
    pub template: Option<Value>,
}

/// Returns the contents with these ids.
pub async fn contents(db: &Db, tenant: TenantId, ids: &[Uuid]) -> Result<Vec<ContentRow>, DbError> {
    let query = sqlx::query_as!(
        ContentRow,
        r#"SELECT c.id AS "id!", c.text, c.html, c.headers AS "headers!", c.attachments AS "attachments!", c.template
           FROM unnest($2::uuid[]) AS wanted (id)
           CROSS JOIN LATERAL (
               SELECT id, text, html, headers, attachments, template FROM contents
               WHERE tenant_id = $1 AND id = wanted.id AND id BETWEEN $3 AND $4 OFFSET 0) c"#,
        tenant.0,
        ids,
        ids.iter().min(),
        ids.iter().max()
    );
    db.timed("messages.contents", query.fetch_all(&db.pool.hot())).await
}

/// Returns the descriptions of a message's attachments, as in [`ContentRow::attachments`]; `None` if there is no such
/// message.
pub async fn attachments(db: &Db, tenant: TenantId, id: MessageId) -> Result<Option<Value>, DbError> {
    let query = sqlx::query_scalar!(
        "SELECT attachments FROM contents
         WHERE tenant_id = $1 AND id = (SELECT content_id FROM messages WHERE tenant_id = $1 AND id = $2)",
        tenant.0,
        id.0
    );
    db.timed("messages.attachments", query.fetch_optional(&db.pool)).await
}

/// A message, as needed for sending.
#[derive(Debug, Clone)]
pub struct DeliveryRow {
    /// The tenant.
    pub tenant_id: Uuid,
    /// `messages.id`.
    pub id: Uuid,
    /// `contents.id`.
    pub content_id: Uuid,
    /// Time of acceptance.
    pub created_at: DateTime<Utc>,
    /// The stream.
    pub stream: String,
    /// The sender's address.
    pub from_address: String,
    /// The sender's name.
    pub from_name: Option<String>,
    /// Reply-To, `[{"email", "name"}]`.
    pub reply_to: Value,
    /// Subject.
    pub subject: String,
    /// Time before which no attempt is made.
    pub scheduled_at: Option<DateTime<Utc>>,
    /// Time after which no attempt is started.
    pub expires_at: Option<DateTime<Utc>>,
    /// `retry`, `hold` or `fail`.
    pub on_uncertain: String,
    /// Whether it is sent to suppressed addresses too.
    pub ignore_suppression: bool,
    /// Whether it carries an unsubscribe link.
    pub unsubscribe: bool,
    /// Bytes of text, HTML and attachments.
    pub size: i64,
    /// Its own template variables, an object, if the bodies are rendered when it is sent.
    pub variables: Option<Value>,
}

/// Returns the messages with these ids, as needed for sending.
pub async fn for_delivery(db: &Db, tenant: TenantId, ids: &[Uuid]) -> Result<Vec<DeliveryRow>, DbError> {
    let query = sqlx::query_as!(
        DeliveryRow,
        r#"SELECT m.tenant_id AS "tenant_id!", m.id AS "id!", m.content_id AS "content_id!", m.created_at AS "created_at!",
                  m.stream AS "stream!", m.from_address AS "from_address!", m.from_name, m.reply_to AS "reply_to!",
                  m.subject AS "subject!", m.scheduled_at, m.expires_at, m.on_uncertain AS "on_uncertain!",
                  m.ignore_suppression AS "ignore_suppression!", m.unsubscribe AS "unsubscribe!", m.size AS "size!",
                  m.variables
           FROM unnest($2::uuid[]) AS wanted (id)
           CROSS JOIN LATERAL (
               SELECT * FROM messages
               WHERE tenant_id = $1 AND id = wanted.id AND id BETWEEN $3 AND $4 OFFSET 0) m"#,
        tenant.0,
        ids,
        ids.iter().min(),
        ids.iter().max()
    );
    db.timed("messages.for_delivery", query.fetch_all(&db.pool.hot())).await
}

/// A recipient of a message, as needed for sending.
#[derive(Debug, Clone)]
pub struct AddresseeRow {
    /// The message.
    pub message_id: Uuid,
    /// `recipients.id`.
    pub id: Uuid,
    /// `to`, `cc` or `bcc`.
    pub kind: String,
    /// Email address.
    pub address: String,
    /// Display name.
    pub name: Option<String>,
}

/// Returns all recipients of these messages, sorted by message id and then in the order of the request.
pub async fn addressees(db: &Db, tenant: TenantId, messages: &[Uuid]) -> Result<Vec<AddresseeRow>, DbError> {
    let query = sqlx::query_as!(
        AddresseeRow,
        r#"SELECT r.message_id AS "message_id!", r.id AS "id!", r.kind AS "kind!", r.address AS "address!", r.name
           FROM unnest($2::uuid[]) AS wanted (id)
           CROSS JOIN LATERAL (
               SELECT message_id, id, kind, address, name, position FROM recipients
               WHERE tenant_id = $1 AND message_id = wanted.id AND message_id BETWEEN $3 AND $4 OFFSET 0) r
           ORDER BY r.message_id, r.position"#,
        tenant.0,
        messages,
        messages.iter().min(),
        messages.iter().max()
    );
    db.timed("messages.addressees", query.fetch_all(&db.pool.hot())).await
}
