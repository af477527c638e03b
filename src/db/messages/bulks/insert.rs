//! Inserts a bulk with its recipients. They become messages later (see [`super::expand`]), so this transaction takes no
//! event number, and only requests with the same idempotency keys wait for it.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::messages::insert::{IdempotencyKey, idempotency_keys};
use crate::db::messages::{blobs, columns};
use crate::db::{Db, DbError};
use crate::domain::id::{BulkId, KeyId, TenantId};
use crate::domain::message::template::TemplateVersion;
use crate::domain::message::{Attachment, Header};

/// Maximum number of recipients that one statement inserts.
const MAX_STATEMENT_RECIPIENTS: usize = 2_500;

/// A bulk to insert.
#[derive(Debug)]
pub struct BulkInsert {
    /// The tenant.
    pub tenant: TenantId,
    /// Its id.
    pub id: BulkId,
    /// The API key of the request.
    pub owner: KeyId,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// The content of its messages; the attachments are already stored.
    pub content: BulkContent,
    /// The stream.
    pub stream: String,
    /// The domain of the sender.
    pub from_domain: String,
    /// No attempt is made before this time.
    pub scheduled_at: Option<DateTime<Utc>>,
    /// The template that its messages are rendered from.
    pub template: Option<TemplateVersion>,
    /// What its messages have in common (`domain::message::bulk::SharedMessage`).
    pub message: Value,
    /// The recipients.
    pub recipients: Vec<BulkRecipientInsert>,
    /// Number of recipients whose idempotency key was used by an earlier message.
    pub replayed: i32,
    /// The refused recipients, `[{"index", "errors"}]`.
    pub refused: Value,
    /// The idempotency key of the whole call.
    pub key: Option<IdempotencyKey>,
}

/// The content of a bulk's messages.
#[derive(Debug)]
pub struct BulkContent {
    /// `contents.id`.
    pub id: Uuid,
    /// The plain text body; `None` with a template.
    pub text: Option<String>,
    /// The HTML body; `None` with a template.
    pub html: Option<String>,
    /// Custom headers.
    pub headers: Vec<Header>,
    /// Attachments.
    pub attachments: Vec<Attachment>,
    /// `contents.template`.
    pub template: Option<Value>,
}

/// A recipient of a bulk to insert.
#[derive(Debug)]
pub struct BulkRecipientInsert {
    /// Identifies the use of its idempotency key.
    pub id: Uuid,
    /// Its position in the request.
    pub position: i32,
    /// The address.
    pub address: String,
    /// The display name.
    pub name: Option<String>,
    /// Its own template variables, a JSON object.
    pub variables: Option<String>,
    /// The size of its rendered bodies, in bytes; 0 without a template.
    pub size: i32,
    /// Its own metadata, a JSON object.
    pub metadata: Option<String>,
    /// Its own idempotency key.
    pub key: Option<IdempotencyKey>,
}

/// The result of inserting a bulk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BulkCommitted {
    /// It was inserted.
    Inserted,
    /// Nothing was inserted: a concurrent request used one of the idempotency keys.
    KeyUsed,
}

/// Inserts a bulk, all or nothing. No two of its idempotency keys may be the same.
pub async fn insert(db: &Db, bulk: &BulkInsert) -> Result<BulkCommitted, DbError> {
    db.timed("bulks.insert", async {
        let mut tx = db.pool.begin().await?;
        // The response is sent after the commit, so the commit must be durable, regardless of the session's settings.
        sqlx::query!("SET LOCAL synchronous_commit = on").execute(&mut *tx).await?;
        insert_content(&mut tx, bulk).await?;
        let (tenant, content) = (bulk.tenant, &bulk.content);
        let attachments = content.attachments.iter().map(|attachment| (tenant, content.id, &*attachment.sha256));
        blobs::check_references(&mut tx, attachments).await?;
        insert_bulk(&mut tx, bulk).await?;
        for part in bulk.recipients.chunks(MAX_STATEMENT_RECIPIENTS) {
            insert_recipients(&mut tx, bulk, part).await?;
        }
        // Last, because other requests with one of the keys wait for this transaction from here on.
        if !idempotency_keys::claim_for_bulk(&mut tx, bulk).await? {
            return Ok(BulkCommitted::KeyUsed);
        }
        tx.commit().await?;
        Ok(BulkCommitted::Inserted)
    })
    .await
}

async fn insert_content(connection: &mut PgConnection, bulk: &BulkInsert) -> Result<(), sqlx::Error> {
    let content = &bulk.content;
    let query = sqlx::query!(
        "INSERT INTO contents (id, tenant_id, text, html, headers, attachments, template) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        content.id,
        bulk.tenant.0,
        content.text,
        content.html,
        columns::headers(&content.headers),
        columns::attachments(&content.attachments),
        content.template
    );
    query.execute(connection).await.map(drop)
}

async fn insert_bulk(connection: &mut PgConnection, bulk: &BulkInsert) -> Result<(), sqlx::Error> {
    let number = |length: usize| i32::try_from(length).unwrap_or(i32::MAX);
    let (accepted, rejected) = (number(bulk.recipients.len()), number(bulk.refused.as_array().map_or(0, Vec::len)));
    let query = sqlx::query!(
        "INSERT INTO bulks (id, tenant_id, created_at, state_changed_at, content_id, stream, from_domain, scheduled_at,
                            template_id, template_version, message, accepted, replayed, refused, rejected, key_id)
         VALUES ($1 /* id */, $2 /* tenant */, $3 /* created_at */, $3, $4 /* content */, $5 /* stream */, $6 /* from_domain */,
                 $7 /* scheduled_at */, $8 /* template */, $9 /* version */, $10 /* message */, $11 /* accepted */,
                 $12 /* replayed */, $13 /* refused */, $14 /* rejected */, $15 /* owner */)",
        bulk.id.0,
        bulk.tenant.0,
        bulk.created_at,
        bulk.content.id,
        bulk.stream,
        bulk.from_domain,
        bulk.scheduled_at,
        bulk.template.map(|which| which.template.0),
        bulk.template.map(|which| which.version),
        bulk.message,
        accepted,
        bulk.replayed,
        bulk.refused,
        rejected,
        bulk.owner.0
    );
    query.execute(connection).await.map(drop)
}

async fn insert_recipients(
    connection: &mut PgConnection,
    bulk: &BulkInsert,
    part: &[BulkRecipientInsert],
) -> Result<(), sqlx::Error> {
    let positions: Vec<i32> = part.iter().map(|one| one.position).collect();
    let addresses: Vec<&str> = part.iter().map(|one| one.address.as_str()).collect();
    let names: Vec<Option<&str>> = part.iter().map(|one| one.name.as_deref()).collect();
    let variables: Vec<Option<&str>> = part.iter().map(|one| one.variables.as_deref()).collect();
    let sizes: Vec<i32> = part.iter().map(|one| one.size).collect();
    let metadata: Vec<Option<&str>> = part.iter().map(|one| one.metadata.as_deref()).collect();
    let query = sqlx::query!(
        "INSERT INTO bulk_recipients (bulk_id, tenant_id, position, address, name, variables, size, metadata)
         SELECT $1, $2, position, address, name, variables::jsonb, size, metadata::jsonb
         FROM unnest($3::integer[], $4::text[], $5::text[], $6::text[], $7::integer[], $8::text[])
              AS u (position, address, name, variables, size, metadata)",
        bulk.id.0,
        bulk.tenant.0,
        &positions,
        &addresses as _,
        &names as _,
        &variables as _,
        &sizes,
        &metadata as _
    );
    query.execute(connection).await.map(drop)
}
