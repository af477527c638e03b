//! The table `audit_log`: who changed what. A row is inserted before the change is made, so that no change is without a
//! row, and is completed afterwards.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::{Db, DbError};
use crate::domain::id::{AuditId, KeyId, TenantId};
use crate::domain::key::KeyMode;
use crate::domain::records::audit::{AuditResult, AuditSource};

/// Who asks for a change.
#[derive(Debug, Clone, Copy)]
pub struct Actor<'a> {
    /// The tenant of the API key; of a test key, too, the live tenant.
    pub tenant: TenantId,
    /// The mode of the API key; of a command, live.
    pub mode: KeyMode,
    /// How the change was requested.
    pub source: AuditSource,
    /// The API key.
    pub key: Option<KeyId>,
    /// The name of the API key, or of the user of the operating system.
    pub name: Option<&'a str>,
    /// The address of the client.
    pub remote_address: Option<&'a str>,
    /// The client's program.
    pub user_agent: Option<&'a str>,
    /// `X-Request-Id`.
    pub request_id: Option<&'a str>,
}

/// Records that a change was requested. `object` is the id, name or address of the object, if it is known already.
pub async fn begin(
    db: &Db,
    id: AuditId,
    actor: &Actor<'_>,
    (action, object): (&str, Option<&str>),
    now: DateTime<Utc>,
) -> Result<(), DbError> {
    let query = sqlx::query!(
        "INSERT INTO audit_log (id, tenant_id, mode, created_at, source, key_id, actor_name, remote_address, user_agent,
                                request_id, action, object)
         VALUES ($1 /* id */, $2 /* tenant */, $3 /* mode */, $4 /* now */, $5 /* source */, $6 /* key */, $7 /* name */,
                 $8 /* remote_address */, $9 /* user_agent */, $10 /* request_id */, $11 /* action */, $12 /* object */)",
        id.0,
        actor.tenant.0,
        actor.mode.as_str(),
        now,
        actor.source.as_str(),
        actor.key.map(|key| key.0),
        actor.name,
        actor.remote_address,
        actor.user_agent,
        actor.request_id,
        action,
        object
    );
    db.timed("audit.begin", query.execute(&db.pool)).await.map(drop)
}

/// What became of a change.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// The object, if it was not known before.
    pub object: Option<String>,
    /// The object before the change.
    pub before: Option<Value>,
    /// The object after the change.
    pub after: Option<Value>,
    /// The tenant of the object, if it is not that of the row.
    pub tenant: Option<TenantId>,
}

/// Completes a row. `status` is the HTTP status of the response.
pub async fn complete(
    db: &Db,
    (tenant, id): (TenantId, AuditId),
    outcome: &Outcome,
    result: AuditResult,
    status: Option<u16>,
) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE audit_log
         SET result = $3, status = $4, object = coalesce($5, object), before = $6, after = $7, object_tenant_id = $8
         WHERE tenant_id = $1 AND id = $2",
        tenant.0,
        id.0,
        result.as_str(),
        status.and_then(|status| i16::try_from(status).ok()),
        outcome.object,
        outcome.before,
        outcome.after,
        outcome.tenant.map(|tenant| tenant.0)
    );
    db.timed("audit.complete", query.execute(&db.pool)).await.map(drop)
}

/// A row of the audit log.
#[derive(Debug, Clone)]
pub struct AuditRow {
    /// `audit_log.id`.
    pub id: Uuid,
    /// When the request began.
    pub created_at: DateTime<Utc>,
    /// `api`, `resend`, `cli` or `dashboard`.
    pub source: String,
    /// The mode of the API key.
    pub mode: String,
    /// The API key.
    pub key_id: Option<Uuid>,
    /// The name of the API key, or of the user of the operating system.
    pub actor_name: Option<String>,
    /// The address of the client.
    pub remote_address: Option<String>,
    /// The client's program.
    pub user_agent: Option<String>,
    /// `X-Request-Id`.
    pub request_id: Option<String>,
    /// The operation.
    pub action: String,
    /// The id, name or address of the object.
    pub object: Option<String>,
    /// The tenant of the object, if it is not that of the row.
    pub object_tenant_id: Option<Uuid>,
    /// The object before the change.
    pub before: Option<Value>,
    /// The object after the change.
    pub after: Option<Value>,
    /// `started`, `done`, `refused` or `failed`.
    pub result: String,
    /// The HTTP status of the response.
    pub status: Option<i16>,
}

/// Filters for the audit log.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Only changes with this API key.
    pub key: Option<KeyId>,
    /// Only changes by an actor of this name.
    pub name: Option<String>,
    /// Only this operation.
    pub action: Option<String>,
    /// Only changes of this object.
    pub object: Option<String>,
    /// Only changes with API keys of these modes. Commands count as live.
    pub modes: Vec<KeyMode>,
    /// Whether changes of other tenants by operators are included.
    pub other_tenants: bool,
    /// Only changes at or after this time.
    pub since: Option<DateTime<Utc>>,
    /// Only changes before this time.
    pub until: Option<DateTime<Utc>>,
    /// Only rows older than this one.
    pub after: Option<AuditId>,
}

/// Returns a page of the audit log, newest first.
pub async fn page(db: &Db, tenant: TenantId, filter: &AuditFilter, limit: i64) -> Result<Vec<AuditRow>, DbError> {
    let modes: Vec<String> = filter.modes.iter().map(|mode| mode.as_str().to_owned()).collect();
    let query = sqlx::query_as!(
        AuditRow,
        "SELECT id, created_at, source, mode, key_id, actor_name, remote_address, user_agent, request_id, action, object,
                object_tenant_id, before, after, result, status
         FROM audit_log
         WHERE tenant_id = $1 /* tenant */
           AND ($2::uuid /* after */ IS NULL OR id < $2)
           AND ($3::uuid /* key */ IS NULL OR key_id = $3)
           AND ($4::text /* name */ IS NULL OR actor_name = $4)
           AND ($5::text /* action */ IS NULL OR action = $5)
           AND ($6::text /* object */ IS NULL OR object = $6)
           AND mode = ANY ($7 /* modes */)
           AND (object_tenant_id IS NULL OR $8 /* other_tenants */)
           AND ($9::timestamptz /* since */ IS NULL OR id >= uuid_floor($9))
           AND ($10::timestamptz /* until */ IS NULL OR id < uuid_floor($10))
         ORDER BY id DESC LIMIT $11 /* limit */",
        tenant.0,
        filter.after.map(|id| id.0),
        filter.key.map(|key| key.0),
        filter.name,
        filter.action,
        filter.object,
        &modes,
        filter.other_tenants,
        filter.since,
        filter.until,
        limit
    );
    db.timed("audit.page", query.fetch_all(&db.pool)).await
}
