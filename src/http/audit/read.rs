//! `GET /v1/audit`.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::db::DbError;
use crate::db::audit::{self, AuditFilter, AuditRow};
use crate::domain::api::open_object::AuditedState;
use crate::domain::id::{AuditId, KeyId, TenantId};
use crate::domain::key::{KeyMode, Scope};
use crate::domain::records::audit::{AuditResult, AuditSource};
use crate::http::auth::Caller;
use crate::http::page::{Page, PageParams};
use crate::http::request::params::Params;
use crate::http::{Api, ApiError, AuthErrors, InvalidParameter};

/// A request for a change.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct AuditEntry {
    /// The id of the entry.
    #[schema(value_type = String, example = "aud_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: AuditId,
    /// When the request began.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub created_at: DateTime<Utc>,
    /// How the change was requested.
    #[schema(value_type = AuditSource, example = "api")]
    pub source: String,
    /// Whether it was requested with a test key, so that it is about test data.
    #[schema(example = false)]
    pub test: bool,
    /// Who requested the change.
    pub actor: AuditActor,
    /// The operation's id in the OpenAPI document, also for Resend's API and for commands.
    #[schema(example = "update_key")]
    pub action: String,
    /// The id, name or address of the object; null for changes of several objects.
    #[schema(example = "key_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub object: Option<String>,
    /// The tenant of the object, if it is another one than that of the API key: an operator's change. Only keys with the scope
    /// `operator` see such entries.
    #[schema(value_type = Option<String>, example = "ten_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub tenant: Option<TenantId>,
    /// The object as it was read before the change, without secrets; null if it did not exist, or is not recorded.
    #[schema(value_type = Option<AuditedState>)]
    pub before: Option<Value>,
    /// The object after the change, or its result, without secrets; null if there is none.
    #[schema(value_type = Option<AuditedState>)]
    pub after: Option<Value>,
    /// What became of the request.
    #[schema(value_type = AuditResult, example = "done")]
    pub result: String,
    /// The HTTP status of the response; null if it is unknown, and for commands.
    #[schema(example = 200)]
    pub status: Option<i16>,
    /// The `X-Request-Id` of the response, or of the call that the dashboard made; null for commands.
    #[schema(example = "req_5b1d3c0e9f2a4d6c8e7f0a1b2c3d4e5f")]
    pub request_id: Option<String>,
}

/// Who requested a change.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct AuditActor {
    /// The API key; null for commands.
    #[schema(value_type = Option<String>, example = "key_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub key_id: Option<KeyId>,
    /// The name of the API key at that time; for commands, the user of the operating system. Null if it is unknown.
    #[schema(example = "ops")]
    pub name: Option<String>,
    /// The address of the client; null if it is unknown, and for commands.
    #[schema(example = "192.0.2.17")]
    pub remote_address: Option<String>,
    /// The `User-Agent` of the request; null without one.
    #[schema(example = "curl/8.5.0")]
    pub user_agent: Option<String>,
}

impl AuditEntry {
    fn from_row(row: AuditRow) -> Self {
        let actor = AuditActor {
            key_id: row.key_id.map(KeyId),
            name: row.actor_name,
            remote_address: row.remote_address,
            user_agent: row.user_agent,
        };
        Self {
            id: AuditId(row.id),
            created_at: row.created_at,
            source: row.source,
            test: row.mode == KeyMode::Test.as_str(),
            actor,
            action: row.action,
            object: row.object,
            tenant: row.object_tenant_id.map(TenantId),
            before: row.before,
            after: row.after,
            result: row.result,
            status: row.status,
            request_id: row.request_id,
        }
    }
}

/// List changes
///
/// Returns who changed what, newest first: every request that changes something, also if it was refused, and every command
/// that does. Sending messages is not audited; see the events. An entry must match all filters. A test key sees only the
/// changes with test keys. Changes of other tenants by operators are shown to keys with the scope `operator`.
#[utoipa::path(
    get, path = "/v1/audit", tag = "audit", operation_id = "list_audit",
    params(
        ("actor" = Option<String>, Query, description = "The id or the name of an API key, or the name of the user who ran a command"),
        ("action" = Option<String>, Query, description = "An operation's id in the OpenAPI document, such as `revoke_key`"),
        ("object" = Option<String>, Query, description = "The id, name or address of the changed object"),
        ("test" = Option<bool>, Query, description = "`true`: only changes with test keys; `false`: only the others"),
        ("since" = Option<chrono::DateTime<chrono::Utc>>, Query, description = "At or after this time (RFC 3339)"),
        ("until" = Option<chrono::DateTime<chrono::Utc>>, Query, description = "Before this time (RFC 3339)"),
        PageParams,
    ),
    responses((status = 200, description = "A page of changes", body = Page<AuditEntry>), AuthErrors, InvalidParameter),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<Page<AuditEntry>>, ApiError> {
    caller.require(Scope::Admin)?;
    let limit = params.limit();
    let filter = filter(&caller, &mut params);
    params.finish()?;
    let _permit = api.slow_queries.acquire(caller.requester()).await?;
    let rows = audit::page(&api.db, caller.live_tenant(), &filter, limit + 1).await.map_err(too_broad)?;
    Ok(Json(Page::new(rows, limit, |row| AuditId(row.id).to_string(), AuditEntry::from_row)))
}

fn filter(caller: &Caller, params: &mut Params) -> AuditFilter {
    let actor = params.text("actor");
    // Test keys do not see live data.
    let mut modes = if caller.tenant().is_test() { vec![KeyMode::Test] } else { vec![KeyMode::Live, KeyMode::Test] };
    if let Some(test) = params.read("test", "Pass `true` or `false`.", |text| text.parse::<bool>().ok()) {
        modes.retain(|mode| (*mode == KeyMode::Test) == test);
    }
    let key = actor.as_deref().and_then(|actor| actor.parse::<KeyId>().ok());
    AuditFilter {
        key,
        name: actor.filter(|_| key.is_none()),
        action: params.text("action"),
        object: params.text("object"),
        modes,
        other_tenants: caller.has_scope(Scope::Operator),
        since: params.timestamp("since"),
        until: params.timestamp("until"),
        after: params.read("after", "Pass the `next` value of the previous page.", |text| text.parse().ok()),
    }
}

fn too_broad(error: DbError) -> ApiError {
    ApiError::search(error, "since", "The search took too long. Narrow it with `since` and `until`, or with `object`.")
}
