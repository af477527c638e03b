//! The table `template_versions`: published versions, which never change.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::SourceRow;
use crate::db::{Db, DbError};
use crate::domain::id::{TemplateId, TenantId};
use crate::domain::message::template::{TemplateName, TemplateVersion};

/// A version without its content.
#[derive(Debug, Clone)]
pub struct VersionSummaryRow {
    /// Number of the version, from 1.
    pub version: i32,
    /// When it was published.
    pub published_at: DateTime<Utc>,
    /// `jinja` or `vars`.
    pub syntax: String,
    /// `html` or `mjml`.
    pub format: String,
    /// Subject.
    pub subject: Option<String>,
}

/// A version.
#[derive(Debug, Clone)]
pub struct VersionRow {
    /// Number of the version, from 1.
    pub version: i32,
    /// When it was published.
    pub published_at: DateTime<Utc>,
    /// The source that was published.
    pub source: SourceRow,
    /// The compiled template that messages are rendered from (`template::Compiled`).
    pub compiled: Value,
}

/// A version to publish.
#[derive(Debug)]
pub struct NewVersion<'a> {
    /// The tenant.
    pub tenant: TenantId,
    /// The template.
    pub template: TemplateId,
    /// The revision of the template that was compiled.
    pub revision: i32,
    /// The latest version when the draft was compiled; `None` if no version was published.
    pub latest: Option<i32>,
    /// The compiled template that messages are rendered from (`template::Compiled`).
    pub compiled: &'a Value,
    /// When it is published.
    pub published_at: DateTime<Utc>,
}

/// Publishes the draft of a template as its next version, which becomes the latest. Returns its number; `None` if the
/// template has another revision, was published meanwhile, or was deleted.
pub async fn publish(db: &Db, new: &NewVersion<'_>) -> Result<Option<i32>, DbError> {
    let query = sqlx::query_scalar!(
        "WITH draft AS (
             UPDATE templates SET version = coalesce(version, 0) + 1, version_revision = revision
             WHERE tenant_id = $1 AND id = $2 AND revision = $3 AND version IS NOT DISTINCT FROM $6
             RETURNING tenant_id, id, version, syntax, format, subject, html, text, sender, reply_to, layout_id, variables)
         INSERT INTO template_versions (tenant_id, template_id, version, published_at, syntax, format, subject, html, text,
                                        sender, reply_to, layout_id, variables, compiled)
         SELECT tenant_id, id, version, $4, syntax, format, subject, html, text, sender, reply_to, layout_id, variables, $5
         FROM draft RETURNING version",
        new.tenant.0,
        new.template.0,
        new.revision,
        new.published_at,
        new.compiled,
        new.latest
    );
    db.timed("template_versions.publish", query.fetch_optional(&db.pool)).await
}

/// Returns a page of a template's versions, newest first, starting after `after`.
pub async fn page(
    db: &Db,
    tenant: TenantId,
    template: TemplateId,
    after: Option<i32>,
    limit: i64,
) -> Result<Vec<VersionSummaryRow>, DbError> {
    let query = sqlx::query_as!(
        VersionSummaryRow,
        "SELECT version, published_at, syntax, format, subject FROM template_versions
         WHERE tenant_id = $1 AND template_id = $2 AND ($3::integer IS NULL OR version < $3)
         ORDER BY version DESC LIMIT $4",
        tenant.0,
        template.0,
        after,
        limit
    );
    db.timed("template_versions.page", query.fetch_all(&db.pool)).await
}

/// Returns one version.
pub async fn get(db: &Db, tenant: TenantId, which: TemplateVersion) -> Result<Option<VersionRow>, DbError> {
    let query = sqlx::query!(
        "SELECT version, published_at, syntax, format, subject, html, text, sender, reply_to, layout_id, variables,
                compiled
         FROM template_versions WHERE tenant_id = $1 AND template_id = $2 AND version = $3",
        tenant.0,
        which.template.0,
        which.version
    );
    let row = db.timed("template_versions.get", query.fetch_optional(&db.pool)).await?;
    Ok(row.map(|row| VersionRow {
        version: row.version,
        published_at: row.published_at,
        source: SourceRow {
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
        compiled: row.compiled,
    }))
}

/// Returns the compiled template of a version (`template::Compiled`), from which messages are rendered.
pub async fn compiled(db: &Db, tenant: TenantId, which: TemplateVersion) -> Result<Option<Value>, DbError> {
    let query = sqlx::query_scalar!(
        "SELECT compiled FROM template_versions WHERE tenant_id = $1 AND template_id = $2 AND version = $3",
        tenant.0,
        which.template.0,
        which.version
    );
    db.timed("template_versions.compiled", query.fetch_optional(&db.pool)).await
}

/// The latest version of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatestRow {
    /// The template.
    pub template: TemplateId,
    /// Its latest version; `None` if none is published.
    pub version: Option<i32>,
}

/// Returns the latest versions of the templates with these names, each in a tenant. Names without a template are left out.
pub async fn latest(
    db: &Db,
    names: &[(TenantId, TemplateName)],
) -> Result<HashMap<(TenantId, TemplateName), LatestRow>, DbError> {
    let tenants: Vec<Uuid> = names.iter().map(|(tenant, _)| tenant.0).collect();
    let (ids, aliases): (Vec<Option<Uuid>>, Vec<Option<&str>>) =
        names.iter().map(|(_, name)| (name.id().map(|id| id.0), name.alias())).unzip();
    // A change of a column that is read here has to be noted in tenant_changes (note_template_change).
    let query = sqlx::query!(
        r#"SELECT u.position AS "position!", t.id AS "id!", t.version
           FROM unnest($1::uuid[], $2::uuid[], $3::text[]) WITH ORDINALITY AS u (tenant_id, id, alias, position)
           CROSS JOIN LATERAL (
               SELECT id, version FROM templates WHERE tenant_id = u.tenant_id AND id = u.id
               UNION ALL
               SELECT id, version FROM templates WHERE tenant_id = u.tenant_id AND alias = u.alias) t"#,
        &tenants,
        &ids as _,
        &aliases as _
    );
    let rows = db.timed("template_versions.latest", query.fetch_all(&db.pool)).await?;
    let found = rows.into_iter().filter_map(|row| {
        let name = names.get(usize::try_from(row.position).ok()?.checked_sub(1)?)?;
        Some((name.clone(), LatestRow { template: TemplateId(row.id), version: row.version }))
    });
    Ok(found.collect())
}

/// Returns the source of the latest version of the template with this name, to be used as a layout; `None` if there is
/// no such template, or no version of it is published.
pub async fn layout(db: &Db, tenant: TenantId, name: &TemplateName) -> Result<Option<SourceRow>, DbError> {
    let query = sqlx::query_as!(
        SourceRow,
        "SELECT v.syntax, v.format, v.subject, v.html, v.text, v.sender, v.reply_to, v.layout_id, v.variables
         FROM templates t
         JOIN template_versions v ON v.tenant_id = t.tenant_id AND v.template_id = t.id AND v.version = t.version
         WHERE t.tenant_id = $1 AND (t.id = $2 OR t.alias = $3)",
        tenant.0,
        name.id().map(|id| id.0),
        name.alias()
    );
    db.timed("template_versions.layout", query.fetch_optional(&db.pool)).await
}
