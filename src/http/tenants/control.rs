//! Creates, changes, suspends, resumes and deletes tenants.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};

use super::NO_TENANT;
use super::read::load;
use super::view::{NewTenantBody, TenantChangeBody, TenantView, TenantWithUsage};
use crate::accept::request::resources::operations::pause;
use crate::accept::request::resources::tenant;
use crate::db::changes::Outdated;
use crate::db::tenants::{self, Changed, deletion};
use crate::domain::id::TenantId;
use crate::http::auth::{Caller, Operator};
use crate::http::lanes::control::PauseBody;
use crate::http::located::with_location;
use crate::http::request::params::PathId;
use crate::http::{Api, ApiError, AuthErrors, JsonErrors, NotFound, ProblemCode};

/// Create a tenant
///
/// The tenant has the streams `transactional` and `bulk`, and no API key: create one with `POST /v1/keys` and `tenant`.
#[utoipa::path(
    post, path = "/v1/tenants", tag = "tenants", operation_id = "create_tenant",
    request_body = NewTenantBody,
    responses(
        (status = 201, description = "The tenant", body = TenantWithUsage,
         headers(("Location" = String, description = "The path of the tenant"))),
        AuthErrors, JsonErrors,
        (status = 409, description = "A tenant with this name already exists"),
    ),
)]
pub async fn create(
    State(api): State<Api>,
    Operator(caller): Operator,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = api.bodies.json(&headers, body).await?;
    let new = tenant::parse(&body.bytes)?;
    let now = api.clock.now();
    let id = TenantId::new(now);
    if !tenants::create(&api.db, id, &new, now).await? {
        return Err(name_taken(&new.name));
    }
    tracing::info!(event = "tenant_created", by = %caller.key_id(), tenant = %id, name = new.name, "created a tenant");
    let view = load(&api, id).await?;
    caller.note_after(&id, &view.tenant);
    caller.note_tenant(id);
    Ok(with_location(format!("/v1/tenants/{id}"), (StatusCode::CREATED, Json(view))))
}

/// Update a tenant
///
/// Changes the name, the weight or the limits. Limits take effect on every replica within a second; `min_priority` also
/// applies to waiting messages.
#[utoipa::path(
    patch, path = "/v1/tenants/{id}", tag = "tenants", operation_id = "update_tenant",
    params(("id" = String, Path, description = "The id of the tenant")),
    request_body = TenantChangeBody,
    responses(
        (status = 200, description = "The updated tenant", body = TenantWithUsage),
        AuthErrors, NotFound, JsonErrors,
        (status = 409, description = "Another tenant has this name, or the tenant is being deleted"),
    ),
)]
pub async fn change(
    State(api): State<Api>,
    Operator(caller): Operator,
    PathId(id): PathId<TenantId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<TenantWithUsage>, ApiError> {
    let body = api.bodies.json(&headers, body).await?;
    let change = tenant::parse_change(&body.bytes)?;
    let before = load(&api, id).await?.tenant;
    match tenants::change(&api.db, id, &change).await? {
        Changed::NameTaken => return Err(name_taken(change.name.as_deref().unwrap_or_default())),
        changed => require_changed(changed)?,
    }
    api.forget(Outdated::Keys);
    tracing::info!(event = "tenant_changed", by = %caller.key_id(), tenant = %id, "changed a tenant");
    respond(&api, &caller, &before).await
}

/// Suspend a tenant
///
/// The tenant can only read: other requests of its API keys get 403 with the code `tenant_suspended`, on every replica
/// within a second. Its messages wait; attempts that began within that second or before are finished. Retry windows do not run meanwhile, but a message's
/// `expires_at` still applies. Suspending it again changes the reason.
#[utoipa::path(
    post, path = "/v1/tenants/{id}/suspend", tag = "tenants", operation_id = "suspend_tenant",
    params(("id" = String, Path, description = "The id of the tenant")),
    request_body = Option<PauseBody>,
    responses(
        (status = 200, description = "The updated tenant", body = TenantWithUsage),
        AuthErrors, NotFound, JsonErrors,
        (status = 409, description = "The tenant is being deleted"),
    ),
)]
pub async fn suspend(
    State(api): State<Api>,
    Operator(caller): Operator,
    PathId(id): PathId<TenantId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<TenantWithUsage>, ApiError> {
    let body = api.bodies.json(&headers, body).await?;
    let reason = pause::parse(&body.bytes)?;
    let before = load(&api, id).await?.tenant;
    require_changed(tenants::suspend(&api.db, id, reason.as_deref(), api.clock.now()).await?)?;
    api.forget(Outdated::Keys);
    tracing::info!(event = "tenant_suspended", by = %caller.key_id(), tenant = %id, reason, "suspended a tenant");
    respond(&api, &caller, &before).await
}

/// Resume a tenant
///
/// Ends the suspension. The messages that wait are sent.
#[utoipa::path(
    post, path = "/v1/tenants/{id}/resume", tag = "tenants", operation_id = "resume_tenant",
    params(("id" = String, Path, description = "The id of the tenant")),
    responses(
        (status = 200, description = "The updated tenant", body = TenantWithUsage),
        AuthErrors, NotFound,
        (status = 409, description = "The tenant is being deleted"),
    ),
)]
pub async fn resume(
    State(api): State<Api>,
    Operator(caller): Operator,
    PathId(id): PathId<TenantId>,
) -> Result<Json<TenantWithUsage>, ApiError> {
    let before = load(&api, id).await?.tenant;
    require_changed(tenants::resume(&api.db, id, api.clock.now()).await?)?;
    api.forget(Outdated::Keys);
    api.acceptor.wake();
    tracing::info!(event = "tenant_resumed", by = %caller.key_id(), tenant = %id, "resumed a tenant");
    respond(&api, &caller, &before).await
}

/// Delete a tenant
///
/// Revokes the tenant's API keys, and deletes all of its data in the background: messages, events, suppressions, domains,
/// templates, webhooks, everything. `GET /v1/tenants/{id}` shows the progress. This cannot be undone. Deleting it again
/// changes nothing. The default tenant cannot be deleted.
#[utoipa::path(
    delete, path = "/v1/tenants/{id}", tag = "tenants", operation_id = "delete_tenant",
    params(("id" = String, Path, description = "The id of the tenant")),
    responses(
        (status = 202, description = "The tenant, whose data is being deleted", body = TenantWithUsage),
        AuthErrors, NotFound,
        (status = 409, description = "The default tenant cannot be deleted"),
    ),
)]
pub async fn remove(
    State(api): State<Api>,
    Operator(caller): Operator,
    PathId(id): PathId<TenantId>,
) -> Result<Response, ApiError> {
    if id == TenantId::DEFAULT {
        return Err(not_changeable("The default tenant cannot be deleted."));
    }
    let before = load(&api, id).await?.tenant;
    require_changed(deletion::start(&api.db, id, api.clock.now()).await?)?;
    api.forget(Outdated::Keys);
    tracing::info!(
        event = "tenant_deletion_requested",
        by = %caller.key_id(),
        tenant = %id,
        "revoked the API keys of a tenant; deleting its data"
    );
    Ok((StatusCode::ACCEPTED, respond(&api, &caller, &before).await?).into_response())
}

/// Returns the changed tenant, which was `before`.
async fn respond(api: &Api, caller: &Caller, before: &TenantView) -> Result<Json<TenantWithUsage>, ApiError> {
    let after = load(api, before.id).await?;
    caller.note_change(&before.id, before, &after.tenant);
    caller.note_tenant(before.id);
    Ok(Json(after))
}

/// Fails unless a tenant was changed.
fn require_changed(changed: Changed) -> Result<(), ApiError> {
    match changed {
        Changed::Done => Ok(()),
        Changed::Deleting => Err(not_changeable("The tenant is being deleted, or was.")),
        Changed::Unknown | Changed::NameTaken => Err(NO_TENANT),
    }
}

fn not_changeable(detail: &str) -> ApiError {
    ApiError::Conflict { code: ProblemCode::TenantNotChangeable, detail: detail.into(), retry_after: None }
}

fn name_taken(name: &str) -> ApiError {
    ApiError::Conflict {
        code: ProblemCode::TenantExists,
        detail: format!("A tenant named `{name}` already exists."),
        retry_after: None,
    }
}
