//! Queries on `messages`, `contents` and `recipients`: one message, a page of messages, and the data for sending.

pub mod actions;
pub mod blob_cleanup;
pub mod blobs;
pub mod bulks;
pub(super) mod columns;
pub mod explain;
pub mod idempotency;
pub mod insert;
mod list;
pub mod message_ids;
pub mod relays;
pub mod sql_inbox;
pub mod stored;
pub mod uploads;

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

pub use list::{Filter, narrow, page, paging};

use super::{Db, DbError};
use crate::domain::id::{MessageId, TenantId};

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
    /// The received message that it passes on.
    pub received_id: Option<Uuid>,
    /// The API key that it was sent with.
    pub key_id: Option<Uuid>,
    /// When its content was deleted.
    pub content_deleted_at: Option<DateTime<Utc>>,
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
                template_version, bulk_id, received_id, key_id,
                CASE WHEN content_deleted_at IS NOT NULL THEN content_deleted_at
                     WHEN content_id < (SELECT uuid_floor(max(week) + interval '7 days') FROM retention_weeks
                                         WHERE class = 'content' AND dropped_at IS NOT NULL)
                     THEN content_deletion(content_id) END AS content_deleted_at
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
                template_version, bulk_id, received_id, key_id,
                CASE WHEN content_deleted_at IS NOT NULL THEN content_deleted_at
                     WHEN content_id < (SELECT uuid_floor(max(week) + interval '7 days') FROM retention_weeks
                                         WHERE class = 'content' AND dropped_at IS NOT NULL)
                     THEN content_deletion(content_id) END AS content_deleted_at
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

// The data for sending is looked up id by id (LATERAL, with OFFSET 0 so that the planner does not change the join
// order): each week's partitions start without statistics, and Postgres would scan the whole week for a list of a
// hundred ids. The range condition on the ids excludes other weeks.

/// Ids, each with its tenant: one statement looks up messages of any number of tenants.
#[derive(Debug, Default)]
pub struct OwnedIds {
    tenants: Vec<Uuid>,
    ids: Vec<Uuid>,
}

impl FromIterator<(TenantId, Uuid)> for OwnedIds {
    fn from_iter<I: IntoIterator<Item = (TenantId, Uuid)>>(ids: I) -> Self {
        let (tenants, ids) = ids.into_iter().map(|(tenant, id)| (tenant.0, id)).unzip();
        Self { tenants, ids }
    }
}

impl From<(TenantId, Uuid)> for OwnedIds {
    fn from((tenant, id): (TenantId, Uuid)) -> Self {
        Self { tenants: vec![tenant.0], ids: vec![id] }
    }
}

/// The content of a message.
#[derive(Debug, Clone)]
pub struct ContentRow {
    /// `contents.tenant_id`.
    pub tenant_id: Uuid,
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
pub async fn contents(db: &Db, ids: &OwnedIds) -> Result<Vec<ContentRow>, DbError> {
    let query = sqlx::query_as!(
        ContentRow,
        r#"SELECT wanted.tenant_id AS "tenant_id!", c.id AS "id!", c.text, c.html, c.headers AS "headers!", c.attachments AS "attachments!", c.template
           FROM unnest($1::uuid[], $2::uuid[]) AS wanted (tenant_id, id)
           CROSS JOIN LATERAL (
               SELECT id, text, html, headers, attachments, template FROM contents
               WHERE tenant_id = wanted.tenant_id AND id = wanted.id AND id BETWEEN $3 AND $4 OFFSET 0) c"#,
        &ids.tenants,
        &ids.ids,
        ids.ids.iter().min(),
        ids.ids.iter().max()
    );
    db.timed("messages.contents", query.fetch_all(&db.pool.hot())).await
}

/// Returns the descriptions of a message's attachments, as in [`ContentRow::attachments`]; `None` if there is no such
/// message, or its content was deleted.
pub async fn attachments(db: &Db, tenant: TenantId, id: MessageId) -> Result<Option<Value>, DbError> {
    let query = sqlx::query_scalar!(
        "SELECT attachments FROM contents
         WHERE tenant_id = $1 AND id = (SELECT content_id FROM messages
                                            WHERE tenant_id = $1 AND id = $2 AND content_deleted_at IS NULL)",
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
    /// When its content was deleted, if it was deleted by itself.
    pub content_deleted_at: Option<DateTime<Utc>>,
    /// The inbound route to whose server it is sent.
    pub inbound_route_id: Option<Uuid>,
}

/// Returns the messages with these ids, as needed for sending.
pub async fn for_delivery(db: &Db, ids: &OwnedIds) -> Result<Vec<DeliveryRow>, DbError> {
    let query = sqlx::query_as!(
        DeliveryRow,
        r#"SELECT m.tenant_id AS "tenant_id!", m.id AS "id!", m.content_id AS "content_id!", m.created_at AS "created_at!",
                  m.stream AS "stream!", m.from_address AS "from_address!", m.from_name, m.reply_to AS "reply_to!",
                  m.subject AS "subject!", m.scheduled_at, m.expires_at, m.on_uncertain AS "on_uncertain!",
                  m.ignore_suppression AS "ignore_suppression!", m.unsubscribe AS "unsubscribe!", m.size AS "size!",
                  m.variables, m.content_deleted_at, m.inbound_route_id
           FROM unnest($1::uuid[], $2::uuid[]) AS wanted (tenant_id, id)
           CROSS JOIN LATERAL (
               SELECT * FROM messages
               WHERE tenant_id = wanted.tenant_id AND id = wanted.id AND id BETWEEN $3 AND $4 OFFSET 0) m"#,
        &ids.tenants,
        &ids.ids,
        ids.ids.iter().min(),
        ids.ids.iter().max()
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
pub async fn addressees(db: &Db, messages: &OwnedIds) -> Result<Vec<AddresseeRow>, DbError> {
    let query = sqlx::query_as!(
        AddresseeRow,
        r#"SELECT r.message_id AS "message_id!", r.id AS "id!", r.kind AS "kind!", r.address AS "address!", r.name
           FROM unnest($1::uuid[], $2::uuid[]) AS wanted (tenant_id, id)
           CROSS JOIN LATERAL (
               SELECT message_id, id, kind, address, name, position FROM recipients
               WHERE tenant_id = wanted.tenant_id AND message_id = wanted.id AND message_id BETWEEN $3 AND $4 OFFSET 0) r
           ORDER BY r.message_id, r.position"#,
        &messages.tenants,
        &messages.ids,
        messages.ids.iter().min(),
        messages.ids.iter().max()
    );
    db.timed("messages.addressees", query.fetch_all(&db.pool.hot())).await
}
