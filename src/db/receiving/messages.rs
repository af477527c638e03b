//! Received messages. Each is inserted in one transaction with its event.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::events::{self, NewEvent};
use crate::db::{Db, DbError};
use crate::domain::id::{MessageId, ReceivedId, TenantId};

/// What all copies of a received message have in common.
#[derive(Debug)]
pub struct ReceivedContent<'a> {
    /// The reverse path; empty for the null sender.
    pub envelope_from: &'a str,
    /// The client's name in EHLO or HELO.
    pub helo: &'a str,
    /// The client's IP address.
    pub remote_address: &'a str,
    /// The first address in `From`.
    pub from_address: Option<&'a str>,
    /// Its name.
    pub from_name: Option<&'a str>,
    /// The decoded subject.
    pub subject: &'a str,
    /// The Message-ID, without angle brackets.
    pub internet_message_id: Option<&'a str>,
    /// The ids in In-Reply-To.
    pub in_reply_to: &'a [String],
    /// The ids in References.
    pub references: &'a [String],
    /// The rule by which it is an automatic reply.
    pub auto_reply: Option<&'a str>,
    /// `[{"name", "value"}]`.
    pub headers: Value,
    /// The plain text.
    pub text: Option<&'a str>,
    /// The HTML.
    pub html: Option<&'a str>,
    /// The text without quoted parts.
    pub reply_text: Option<&'a str>,
    /// The attachments, without their bytes.
    pub attachments: Value,
    /// The verdicts.
    pub authentication: Option<Value>,
    /// The message.
    pub raw: &'a [u8],
}

/// A received message of one route.
#[derive(Debug, Clone)]
pub struct NewReceived {
    /// The tenant.
    pub tenant: TenantId,
    /// `received_messages.id`.
    pub id: ReceivedId,
    /// `inbound_routes.id`; nil for a bounce to a rewritten sender.
    pub route: Uuid,
    /// The recipients that the route matched.
    pub envelope_to: Vec<String>,
    /// The message that it answers.
    pub answers: Option<MessageId>,
    /// The recipients to whom it is passed on; empty if it is not.
    pub relay_to: Vec<String>,
}

/// Inserts a message for each route, with their events, and commits.
pub async fn insert(
    db: &Db,
    content: &ReceivedContent<'_>,
    copies: &[NewReceived],
    now: DateTime<Utc>,
) -> Result<(), DbError> {
    let size = i32::try_from(content.raw.len()).unwrap_or(i32::MAX);
    db.timed("receiving.insert", async {
        let mut tx = db.pool.begin().await?;
        for copy in copies {
            sqlx::query!(
                "INSERT INTO received_messages
                       (tenant_id, id, received_at, route_id, envelope_from, envelope_to, helo, remote_address, from_address,
                        from_name, subject, internet_message_id, in_reply_to, \"references\", answered_message_id, auto_reply,
                        headers, text, html, reply_text, attachments, authentication, size, raw)
                   VALUES ($1 /* tenant */, $2 /* id */, $3 /* now */, $4 /* route */, $5 /* envelope_from */, $6 /* envelope_to */,
                           $7 /* helo */, $8 /* remote_address */, $9 /* from_address */, $10 /* from_name */, $11 /* subject */,
                           $12 /* internet_message_id */, $13 /* in_reply_to */, $14 /* references */, $15 /* answers */,
                           $16 /* auto_reply */, $17 /* headers */, $18 /* text */, $19 /* html */, $20 /* reply_text */,
                           $21 /* attachments */, $22 /* authentication */, $23 /* size */, $24 /* raw */)",
                copy.tenant.0,
                copy.id.0,
                now,
                copy.route,
                content.envelope_from,
                &copy.envelope_to,
                content.helo,
                content.remote_address,
                content.from_address,
                content.from_name,
                content.subject,
                content.internet_message_id,
                content.in_reply_to,
                content.references,
                copy.answers.map(|id| id.0),
                content.auto_reply,
                content.headers,
                content.text,
                content.html,
                content.reply_text,
                content.attachments,
                content.authentication,
                size,
                content.raw
            )
            .execute(&mut *tx)
            .await?;
            if !copy.relay_to.is_empty() {
                insert_relays(&mut tx, copy, content.envelope_from).await?;
            }
        }
        let events = copies.iter().map(|copy| NewEvent::received(copy.tenant, copy.id));
        events::append(&mut tx, now, events.collect()).await?;
        tx.commit().await
    })
    .await
}

/// Inserts a row for each recipient to whom the message is passed on. In the transaction of the received message, so that no message
/// is accepted that is not passed on.
async fn insert_relays(
    connection: &mut PgConnection,
    copy: &NewReceived,
    reverse_path: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO relays (tenant_id, received_id, position, route_id, reverse_path, recipient)
         SELECT $1, $2, n - 1, $3, $4, recipient FROM unnest($5::text[]) WITH ORDINALITY AS u (recipient, n)",
        copy.tenant.0,
        copy.id.0,
        // A bounce to a rewritten sender has no route.
        (!copy.route.is_nil()).then_some(copy.route),
        reverse_path,
        &copy.relay_to
    )
    .execute(connection)
    .await
    .map(drop)
}

/// A received message, without its content.
#[derive(Debug, Clone)]
pub struct ReceivedRow {
    /// `received_messages.id`.
    pub id: Uuid,
    /// When it was received.
    pub received_at: DateTime<Utc>,
    /// The route.
    pub route_id: Uuid,
    /// The reverse path.
    pub envelope_from: String,
    /// The recipients that the route matched.
    pub envelope_to: Vec<String>,
    /// The client's name in EHLO or HELO.
    pub helo: String,
    /// The client's IP address.
    pub remote_address: String,
    /// The first address in `From`.
    pub from_address: Option<String>,
    /// Its name.
    pub from_name: Option<String>,
    /// The decoded subject.
    pub subject: String,
    /// The Message-ID, without angle brackets.
    pub internet_message_id: Option<String>,
    /// The ids in In-Reply-To.
    pub in_reply_to: Vec<String>,
    /// The ids in References.
    pub references: Vec<String>,
    /// The message that it answers.
    pub answered_message_id: Option<Uuid>,
    /// The rule by which it is an automatic reply.
    pub auto_reply: Option<String>,
    /// The attachments.
    pub attachments: Value,
    /// The verdicts.
    pub authentication: Option<Value>,
    /// Size in bytes.
    pub size: i32,
}

/// Filters for received messages.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReceivedFilter {
    /// Only messages of this route.
    pub route: Option<Uuid>,
    /// Only answers to this message.
    pub answers: Option<MessageId>,
    /// Only older messages than this one.
    pub after: Option<ReceivedId>,
}

/// Returns a page of received messages, newest first.
pub async fn page(db: &Db, tenant: TenantId, filter: ReceivedFilter, limit: i64) -> Result<Vec<ReceivedRow>, DbError> {
    // With custom plans, the planner removes the conditions of absent filters.
    let query = sqlx::query_as!(
        ReceivedRow,
        r#"SELECT id, received_at, route_id, envelope_from, envelope_to, helo, remote_address, from_address, from_name, subject,
                  internet_message_id, in_reply_to, "references", answered_message_id, auto_reply, attachments,
                  authentication, size
           FROM received_messages
           WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id < $2) AND ($3::uuid IS NULL OR route_id = $3)
             AND ($4::uuid IS NULL OR answered_message_id = $4)
           ORDER BY id DESC LIMIT $5"#,
        tenant.0,
        filter.after.map(|id| id.0),
        filter.route,
        filter.answers.map(|id| id.0),
        limit
    );
    db.timed("receiving.page", query.fetch_all(&db.pool)).await
}

/// Returns a received message.
pub async fn get(db: &Db, tenant: TenantId, id: ReceivedId) -> Result<Option<ReceivedRow>, DbError> {
    let query = sqlx::query_as!(
        ReceivedRow,
        r#"SELECT id, received_at, route_id, envelope_from, envelope_to, helo, remote_address, from_address, from_name, subject,
                  internet_message_id, in_reply_to, "references", answered_message_id, auto_reply, attachments,
                  authentication, size
           FROM received_messages WHERE tenant_id = $1 AND id = $2"#,
        tenant.0,
        id.0
    );
    db.timed("receiving.get", query.fetch_optional(&db.pool)).await
}

/// The content of a received message.
#[derive(Debug, Clone)]
pub struct ContentRow {
    /// `[{"name", "value"}]`.
    pub headers: Value,
    /// The plain text.
    pub text: Option<String>,
    /// The HTML.
    pub html: Option<String>,
    /// The text without quoted parts.
    pub reply_text: Option<String>,
}

/// Returns the content of a received message.
pub async fn content(db: &Db, tenant: TenantId, id: ReceivedId) -> Result<Option<ContentRow>, DbError> {
    let query = sqlx::query_as!(
        ContentRow,
        "SELECT headers, text, html, reply_text FROM received_messages WHERE tenant_id = $1 AND id = $2",
        tenant.0,
        id.0
    );
    db.timed("receiving.content", query.fetch_optional(&db.pool)).await
}

/// Returns the size of a received message, in bytes.
pub async fn size(db: &Db, tenant: TenantId, id: ReceivedId) -> Result<Option<i32>, DbError> {
    let query =
        sqlx::query_scalar!("SELECT size FROM received_messages WHERE tenant_id = $1 AND id = $2", tenant.0, id.0);
    db.timed("receiving.size", query.fetch_optional(&db.pool)).await
}

/// Returns a received message as it was received.
pub async fn raw(db: &Db, tenant: TenantId, id: ReceivedId) -> Result<Option<Vec<u8>>, DbError> {
    let query =
        sqlx::query_scalar!("SELECT raw FROM received_messages WHERE tenant_id = $1 AND id = $2", tenant.0, id.0);
    db.timed("receiving.raw", query.fetch_optional(&db.pool)).await
}

/// Deletes a received message. Returns whether it existed. It is not passed on any more unless that has begun, and nobody gets a
/// report.
pub async fn remove(db: &Db, tenant: TenantId, id: ReceivedId) -> Result<bool, DbError> {
    let query = sqlx::query_scalar!(
        r#"WITH locked AS MATERIALIZED (
                    SELECT position FROM relays WHERE tenant_id = $1 AND received_id = $2 ORDER BY position FOR UPDATE),
                relay AS (DELETE FROM relays r USING locked l
                          WHERE r.tenant_id = $1 AND r.received_id = $2 AND r.position = l.position),
                gone AS (DELETE FROM received_messages WHERE tenant_id = $1 AND id = $2 RETURNING 1)
           SELECT EXISTS (SELECT FROM gone) AS "existed!""#,
        tenant.0,
        id.0
    );
    db.timed("receiving.remove", query.fetch_one(&db.pool)).await
}

/// A recipient to whom a received message is passed on.
#[derive(Debug, Clone)]
pub struct RelayedRow {
    /// The recipient.
    pub recipient: String,
    /// The message that is sent; `None` if it is still to be created.
    pub message_id: Option<Uuid>,
    /// Its recipient's status as shown in the API; `None` if the message is still to be created or was deleted.
    pub status: Option<String>,
    /// The report to the sender.
    pub report_id: Option<Uuid>,
}

/// Returns the recipients to whom a received message is passed on.
pub async fn relayed(
    db: &Db,
    tenant: TenantId,
    id: ReceivedId,
    now: DateTime<Utc>,
) -> Result<Vec<RelayedRow>, DbError> {
    let query = sqlx::query_as!(
        RelayedRow,
        r#"SELECT l.recipient, l.message_id, r.status AS "status?", l.report_id
           FROM relays l
           LEFT JOIN LATERAL (
               SELECT recipient_status(r.status, q.lease, q.first_due_at, $3) AS status
               FROM recipients r
               LEFT JOIN queue q ON q.message_id = r.message_id AND q.recipient_id = r.id AND q.tenant_id = r.tenant_id
               WHERE r.tenant_id = l.tenant_id AND r.message_id = l.message_id) r ON true
           WHERE l.tenant_id = $1 AND l.received_id = $2 ORDER BY l.position"#,
        tenant.0,
        id.0,
        now
    );
    db.timed("receiving.relayed", query.fetch_all(&db.pool)).await
}

/// Returns whether the tenant has a message with this id.
pub async fn has_message(db: &Db, tenant: TenantId, id: MessageId) -> Result<bool, DbError> {
    let query = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM messages WHERE tenant_id = $1 AND id = $2) AS "exists!""#,
        tenant.0,
        id.0
    );
    db.timed("receiving.has_message", query.fetch_one(&db.pool)).await
}
