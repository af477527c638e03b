//! Creates, changes and revokes API keys.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::read::load;
use super::view::{CreatedKey, Key, KeyChangeBody, KeyWithUsage, NewKeyBody};
use super::{NO_KEY, TenantParam, changed_tenant, tenant_param};
use crate::accept::request::resources::key::{KeyRequest, NO_QUOTA, UNKNOWN_TENANT};
use crate::accept::request::{self, Context};
use crate::db::changes::Outdated;
use crate::db::keys::{self, KeyChange, KeyRow, NewKey, Revocation};
use crate::domain::api::fault::{Code, Fault};
use crate::domain::id::{KeyId, TenantId};
use crate::domain::key::{KeyMode, Scope, Secret};
use crate::http::auth::Caller;
use crate::http::request::params::{Params, PathId};
use crate::http::{Api, ApiError, AuthErrors, InvalidParameter, JsonErrors, NotFound};

/// Create an API key
///
/// The secret is shown only once; only its hash is stored. A caller with the scope `operator` may create keys for any
/// tenant.
#[utoipa::path(
    post, path = "/v1/keys", tag = "keys", operation_id = "create_key",
    request_body = NewKeyBody,
    responses((status = 201, description = "The key with its secret", body = CreatedKey), AuthErrors, JsonErrors),
)]
pub async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    if !caller.has_scope(Scope::Operator) {
        caller.require_live_admin("API keys")?;
    }
    let body = api.bodies.json(&headers, body).await?;
    let request = request::resources::key::parse(&body.bytes, &Context::new(api.clock.now(), &api.limits, &[]))?;
    let created = insert(&api, &caller, request).await?;
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(created))
        .into_response())
}

/// Creates an API key. Fails if the caller may not create keys of its tenant, or grant its scopes.
pub(in crate::http) async fn insert(api: &Api, caller: &Caller, request: KeyRequest) -> Result<CreatedKey, ApiError> {
    let tenant = changed_tenant(caller, request.tenant)?;
    if request.scopes.contains(&Scope::Operator) {
        caller.require(Scope::Operator)?;
    }
    let now = api.clock.now();
    let secret = Secret::new(request.mode, api.cell.as_ref(), rand::random());
    let scopes: Vec<String> = request.scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
    let id = KeyId::new(now);
    let key = NewKey {
        id,
        tenant,
        name: &request.name,
        hash: Secret::hash(secret.expose()),
        mode: request.mode,
        scopes: &scopes,
        sender_domains: request.sender_domains.as_deref(),
        allowed_ips: request.allowed_ips.as_deref(),
        rate: request.rate,
        quota: request.quota,
        created_at: now,
        expires_at: request.expires_at,
    };
    if !keys::insert(&api.db, &key).await? {
        return Err(unknown_tenant());
    }
    tracing::info!(
        event = "api_key_created",
        by = %caller.key_id(),
        key = %id,
        %tenant,
        mode = request.mode.as_str(),
        scopes = scopes.join(" "),
        sender_domains = request.sender_domains.as_ref().map(|domains| domains.join(" ")),
        "created an API key"
    );
    let key = Key {
        id,
        name: request.name,
        tenant,
        mode: request.mode.as_str().to_owned(),
        scopes,
        sender_domains: request.sender_domains,
        allowed_ips: request.allowed_ips,
        rate: request.rate,
        quota: request.quota,
        created_at: now,
        expires_at: request.expires_at,
        last_used_at: None,
        revoked_at: None,
    };
    caller.note_after(&id, &key);
    caller.note_tenant(tenant);
    Ok(CreatedKey { key, secret: secret.expose().to_owned() })
}

/// Returns the error for a tenant that does not exist or is being deleted.
fn unknown_tenant() -> ApiError {
    ApiError::Invalid(vec![Fault {
        pointer: "/tenant".into(),
        code: Code::UnknownTenant.as_str(),
        message: UNKNOWN_TENANT.into(),
    }])
}

/// Update an API key
///
/// Changes the name, the networks, the limits or the expiry of a key that is not revoked. The change takes effect on every
/// replica within a second. The mode, the scopes and the sender domains cannot be changed: create another key.
#[utoipa::path(
    patch, path = "/v1/keys/{id}", tag = "keys", operation_id = "update_key",
    params(("id" = String, Path, description = "The id of the key"), TenantParam),
    request_body = KeyChangeBody,
    responses((status = 200, description = "The updated key", body = KeyWithUsage), AuthErrors, NotFound, JsonErrors),
)]
pub async fn change(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<KeyId>,
    mut params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<KeyWithUsage>, ApiError> {
    let tenant = changed_tenant(&caller, tenant_param(&mut params))?;
    params.finish()?;
    let body = api.bodies.json(&headers, body).await?;
    let change = request::resources::key::parse_change(&body.bytes, &Context::new(api.clock.now(), &api.limits, &[]))?;
    apply(&api, &caller, tenant, id, &change).await?;
    load(&api, tenant, id).await.map(Json)
}

/// Changes a key of a tenant that the caller may manage; fails if it does not exist or has been revoked.
pub(in crate::http) async fn apply(
    api: &Api,
    caller: &Caller,
    tenant: TenantId,
    id: KeyId,
    change: &KeyChange,
) -> Result<(), ApiError> {
    const MISSING: ApiError = ApiError::NotFound("No API key has this id, or it has been revoked.");
    let before = keys::get(&api.db, tenant, id).await?.ok_or(MISSING)?;
    require_changeable(caller, &before, change)?;
    if !keys::change(&api.db, tenant, id, change).await? {
        return Err(MISSING);
    }
    api.forget(Outdated::Keys);
    let after = keys::get(&api.db, tenant, id).await?.ok_or(MISSING)?;
    caller.note_change(&id, &Key::from_row(before), &Key::from_row(after));
    caller.note_tenant(tenant);
    tracing::info!(event = "api_key_changed", by = %caller.key_id(), key = %id, "changed an API key");
    Ok(())
}

/// Fails if the key has the scope `operator` and the caller has not, because an admin must not loosen the limits of an
/// operator's key; or if the change sets a quota of a test key.
fn require_changeable(caller: &Caller, key: &KeyRow, change: &KeyChange) -> Result<(), ApiError> {
    // The mode and the scopes of a key never change.
    if key.scopes.iter().any(|scope| scope == Scope::Operator.as_str()) {
        caller.require(Scope::Operator)?;
    }
    if change.quota.value().is_some() && key.mode() == KeyMode::Test {
        let fault = Fault { pointer: "/quota".into(), code: Code::InvalidValue.as_str(), message: NO_QUOTA.into() };
        return Err(ApiError::Invalid(vec![fault]));
    }
    Ok(())
}

/// Revoke an API key
///
/// The key stops working on every replica within a second.
#[utoipa::path(
    delete, path = "/v1/keys/{id}", tag = "keys", operation_id = "revoke_key",
    params(("id" = String, Path, description = "The id of the key"), TenantParam),
    responses((status = 204, description = "Revoked"), AuthErrors, NotFound, InvalidParameter),
)]
pub async fn revoke(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<KeyId>,
    mut params: Params,
) -> Result<StatusCode, ApiError> {
    let tenant = changed_tenant(&caller, tenant_param(&mut params))?;
    params.finish()?;
    revoke_key(&api, &caller, tenant, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Revokes a key of a tenant that the caller may manage.
pub(in crate::http) async fn revoke_key(
    api: &Api,
    caller: &Caller,
    tenant: TenantId,
    id: KeyId,
) -> Result<(), ApiError> {
    let before = keys::get(&api.db, tenant, id).await?.ok_or(NO_KEY)?;
    match keys::revoke(&api.db, tenant, id, api.clock.now()).await? {
        Revocation::Unknown => return Err(NO_KEY),
        Revocation::AlreadyRevoked => {}
        Revocation::Revoked => {
            api.forget(Outdated::Keys);
            caller.note_removed(&id, &Key::from_row(before));
            caller.note_tenant(tenant);
            tracing::info!(event = "api_key_revoked", by = %caller.key_id(), key = %id, "revoked an API key");
        }
    }
    Ok(())
}
