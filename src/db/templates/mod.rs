//! The table `templates`: drafts, aliases, and which version is published.

pub mod versions;

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::{Db, DbError};
use crate::domain::id::{TemplateId, TenantId};
use crate::domain::message::template::TemplateName;

/// The content of a template, as the application wrote it: a draft, or a published version.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceRow {
    /// `jinja` or `vars`.
    pub syntax: String,
    /// `html` or `mjml`.
    pub format: String,
    /// Subject.
    pub subject: Option<String>,
    /// HTML or MJML body.
    pub html: Option<String>,
    /// Plain text body.
    pub text: Option<String>,
    /// Sender.
    pub sender: Option<String>,
    /// Addresses of the Reply-To header, an array of strings.
    pub reply_to: Value,
    /// `templates.id` of the layout.
    pub layout_id: Option<Uuid>,
    /// Declared variables, `[{"key", "type", "required", "default", "max_length"}]`.
    pub variables: Value,
}

/// A template without its content.
#[derive(Debug, Clone)]
pub struct SummaryRow {
    /// `templates.id`.
    pub id: Uuid,
    /// Alias.
    pub alias: Option<String>,
    /// Name for people.
    pub name: String,
    /// Time of creation.
    pub created_at: DateTime<Utc>,
    /// Time of the last change.
    pub updated_at: DateTime<Utc>,
    /// Number of changes.
    pub revision: i32,
    /// Latest published version.
    pub version: Option<i32>,
    /// The revision that this version was made from.
    pub version_revision: Option<i32>,
    /// When this version was published.
    pub published_at: Option<DateTime<Utc>>,
    /// `jinja` or `vars`.
    pub syntax: String,
    /// `html` or `mjml`.
    pub format: String,
    /// Subject.
    pub subject: Option<String>,
}

/// A template with its draft.
#[derive(Debug, Clone)]
pub struct TemplateRow {
    /// `templates.id`.
    pub id: Uuid,
    /// Alias.
    pub alias: Option<String>,
    /// Name for people.
    pub name: String,
    /// Time of creation.
    pub created_at: DateTime<Utc>,
    /// Time of the last change.
    pub updated_at: DateTime<Utc>,
    /// Number of changes.
    pub revision: i32,
    /// Latest published version.
    pub version: Option<i32>,
    /// The revision that this version was made from.
    pub version_revision: Option<i32>,
    /// When this version was published.
    pub published_at: Option<DateTime<Utc>>,
    /// The draft.
    pub draft: SourceRow,
}

/// The fields of a template that a request sets.
#[derive(Debug, Clone, PartialEq)]
pub struct TemplateFields {
    /// Alias.
    pub alias: Option<String>,
    /// Name for people.
    pub name: String,
    /// The draft.
    pub draft: SourceRow,
}

/// Inserts a template. Returns `false` if another one has the alias.
pub async fn insert(
    db: &Db,
    tenant: TenantId,
    id: TemplateId,
    fields: &TemplateFields,
    now: DateTime<Utc>,
) -> Result<bool, DbError> {
    let TemplateFields { alias, name, draft } = fields;
    let query = sqlx::query!(
        "INSERT INTO templates (tenant_id, id, alias, name, created_at, updated_at, syntax, format, subject, html, text,
                                sender, reply_to, layout_id, variables)
         VALUES ($1 /* tenant */, $2 /* id */, $3 /* alias */, $4 /* name */, $5 /* now */, $5, $6 /* syntax */,
                 $7 /* format */, $8 /* subject */, $9 /* html */, $10 /* text */, $11 /* sender */, $12 /* reply_to */,
                 $13 /* layout_id */, $14 /* variables */)
         ON CONFLICT (tenant_id, alias) DO NOTHING",
        tenant.0,
        id.0,
        alias.as_deref(),
        name,
        now,
        draft.syntax,
        draft.format,
        draft.subject,
        draft.html,
        draft.text,
        draft.sender,
        draft.reply_to,
        draft.layout_id,
        draft.variables
    );
    db.timed("templates.insert", query.execute(&db.pool)).await.map(|done| done.rows_affected() > 0)
}

/// Returns one template.
pub async fn get(db: &Db, tenant: TenantId, name: &TemplateName) -> Result<Option<TemplateRow>, DbError> {
    let query = sqlx::query!(
        r#"SELECT t.id, t.alias, t.name, t.created_at, t.updated_at, t.revision, t.version, t.version_revision,
                  v.published_at AS "published_at?", t.syntax, t.format, t.subject, t.html, t.text, t.sender, t.reply_to,
                  t.layout_id, t.variables
           FROM templates t
           LEFT JOIN template_versions v ON v.tenant_id = t.tenant_id AND v.template_id = t.id AND v.version = t.version
           WHERE t.tenant_id = $1 AND (t.id = $2 OR t.alias = $3)"#,
        tenant.0,
        name.id().map(|id| id.0),
        name.alias()
    );
    let row = db.timed("templates.get", query.fetch_optional(&db.pool)).await?;
    Ok(row.map(|row| TemplateRow {
        id: row.id,
        alias: row.alias,
        name: row.name,
        created_at: row.created_at,
        updated_at: row.updated_at,
        revision: row.revision,
        version: row.version,
        version_revision: row.version_revision,
        published_at: row.published_at,
        draft: SourceRow {
            syntax: row.syntax,
            format: row.format,
            subject: row.subject,
            html: row.html,
            text: row.text,
            sender: row.sender,
            reply_to: row.reply_to,
            layout_id: row.layout_id,
            variables: row.variables,
        },
    }))
}

/// Returns the id of the template with this name; `None` if there is none.
pub async fn find(db: &Db, tenant: TenantId, name: &TemplateName) -> Result<Option<TemplateId>, DbError> {
    let query = sqlx::query_scalar!(
        "SELECT id FROM templates WHERE tenant_id = $1 AND (id = $2 OR alias = $3)",
        tenant.0,
        name.id().map(|id| id.0),
        name.alias()
    );
    Ok(db.timed("templates.find", query.fetch_optional(&db.pool)).await?.map(TemplateId))
}

/// Returns a page of a tenant's templates, newest first, starting after `after`.
pub async fn page(
    db: &Db,
    tenant: TenantId,
    after: Option<TemplateId>,
    limit: i64,
) -> Result<Vec<SummaryRow>, DbError> {
    let query = sqlx::query_as!(
        SummaryRow,
        r#"SELECT t.id, t.alias, t.name, t.created_at, t.updated_at, t.revision, t.version, t.version_revision,
                  v.published_at AS "published_at?", t.syntax, t.format, t.subject
           FROM templates t
           LEFT JOIN template_versions v ON v.tenant_id = t.tenant_id AND v.template_id = t.id AND v.version = t.version
           WHERE t.tenant_id = $1 AND ($2::uuid IS NULL OR t.id < $2)
           ORDER BY t.id DESC LIMIT $3"#,
        tenant.0,
        after.map(|id| id.0),
        limit
    );
    db.timed("templates.page", query.fetch_all(&db.pool)).await
}

/// The result of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// The template was changed.
    Done,
    /// The template has another revision, or was deleted.
    Outdated,
    /// Another template has the alias.
    AliasTaken,
}

/// Replaces the fields of a template, if it still has this revision.
pub async fn change(
    db: &Db,
    tenant: TenantId,
    id: TemplateId,
    revision: i32,
    fields: &TemplateFields,
    now: DateTime<Utc>,
) -> Result<Changed, DbError> {
    let TemplateFields { alias, name, draft } = fields;
    let query = sqlx::query!(
        "UPDATE templates SET
             alias = $4 /* alias */, name = $5 /* name */, updated_at = $6 /* now */, revision = revision + 1,
             syntax = $7 /* syntax */, format = $8 /* format */, subject = $9 /* subject */, html = $10 /* html */,
             text = $11 /* text */, sender = $12 /* sender */, reply_to = $13 /* reply_to */,
             layout_id = $14 /* layout_id */, variables = $15 /* variables */
         WHERE tenant_id = $1 /* tenant */ AND id = $2 /* id */ AND revision = $3 /* revision */",
        tenant.0,
        id.0,
        revision,
        alias.as_deref(),
        name,
        now,
        draft.syntax,
        draft.format,
        draft.subject,
        draft.html,
        draft.text,
        draft.sender,
        draft.reply_to,
        draft.layout_id,
        draft.variables
    );
    db.timed("templates.change", async {
        match query.execute(&db.pool).await {
            Ok(done) if done.rows_affected() > 0 => Ok(Changed::Done),
            Ok(_) => Ok(Changed::Outdated),
            // The only other unique constraint is the primary key, which does not change.
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(Changed::AliasTaken),
            Err(error) => Err(error),
        }
    })
    .await
}

/// The result of a deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// The template and its versions were deleted.
    Done,
    /// There is no such template.
    Missing,
    /// Messages that use it wait for their `scheduled_at`.
    UsedByMessages,
    /// It is the layout of this template.
    LayoutOf(TemplateId),
}

/// Deletes a template with its versions, unless it is in use.
pub async fn remove(db: &Db, tenant: TenantId, id: TemplateId, now: DateTime<Utc>) -> Result<Removed, DbError> {
    db.timed("templates.remove", async {
        let mut tx = db.pool.begin().await?;
        // Makes concurrent changes and publications of the template wait. It does not lock out requests that accept
        // messages from the template.
        let created_at = sqlx::query_scalar!(
            "SELECT created_at FROM templates WHERE tenant_id = $1 AND id = $2 FOR UPDATE",
            tenant.0,
            id.0
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(created_at) = created_at else { return Ok(Removed::Missing) };
        let child = sqlx::query_scalar!(
            "SELECT id FROM templates WHERE tenant_id = $1 AND layout_id = $2 ORDER BY id DESC LIMIT 1",
            tenant.0,
            id.0
        )
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(child) = child.filter(|child| *child != id.0) {
            return Ok(Removed::LayoutOf(TemplateId(child)));
        }
        // A scheduled recipient is found by its lane and due time, and each message by its id: `messages` has no index
        // on template_id.
        let is_used = sqlx::query_scalar!(
            r#"SELECT EXISTS (
                   SELECT FROM lanes l
                   JOIN queue q ON q.lane_id = l.id AND q.lease IS NULL AND q.due_at > $3 AND q.first_due_at > $3
                       AND q.due_at < 'infinity'
                   JOIN messages m ON m.id = q.message_id AND m.tenant_id = q.tenant_id
                   WHERE l.tenant_id = $1 AND q.tenant_id = $1 AND q.message_id >= uuid_floor($4) AND m.template_id = $2)
                   AS "is_used!""#,
            tenant.0,
            id.0,
            now,
            created_at - MAX_CLOCK_DIFFERENCE
        )
        .fetch_one(&mut *tx)
        .await?;
        if is_used {
            return Ok(Removed::UsedByMessages);
        }
        sqlx::query!("DELETE FROM templates WHERE tenant_id = $1 AND id = $2", tenant.0, id.0)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(Removed::Done)
    })
    .await
}

/// Maximum difference between the clocks of two replicas.
const MAX_CLOCK_DIFFERENCE: chrono::TimeDelta = chrono::TimeDelta::days(1);
