//! Creates, changes and revokes API keys.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::NO_KEY;
use super::read::load;
use super::view::{CreatedKey, Key, KeyChangeBody, KeyWithUsage, NewKeyBody};
use crate::accept::request::resources::key::{KeyRequest, NO_QUOTA};
use crate::accept::request::{self, Context};
use crate::db::keys::{self, KeyChange, NewKey, Revocation};
use crate::domain::fault::{Code, Fault};
use crate::domain::id::{KeyId, TenantId};
use crate::domain::key::{KeyMode, Secret};
use crate::http::auth::Caller;
use crate::http::params::PathId;
use crate::http::{Api, ApiError, AuthErrors, JsonErrors, NotFound};

/// Create an API key
///
/// The secret is shown only once; only its hash is stored.
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
    caller.require_live_admin("API keys")?;
    let body = api.bodies.json(&headers, body).await?;
    let request = request::resources::key::parse(&body.bytes, &Context::new(api.clock.now(), &api.limits, &[]))?;
    let created = insert(&api, &caller, request).await?;
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(created))
        .into_response())
}

/// Creates an API key.
pub(in crate::http) async fn insert(api: &Api, caller: &Caller, request: KeyRequest) -> Result<CreatedKey, ApiError> {
    let now = api.clock.now();
    let secret = Secret::new(request.mode, api.cell.as_ref(), rand::random());
    let scopes: Vec<String> = request.scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
    let id = KeyId::new(now);
    let key = NewKey {
        id,
        tenant: caller.live_tenant(),
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
    keys::insert(&api.db, &key).await?;
    tracing::info!(
        event = "api_key_created",
        by = %caller.key_id(),
        key = %id,
        mode = request.mode.as_str(),
        scopes = scopes.join(" "),
        sender_domains = request.sender_domains.as_ref().map(|domains| domains.join(" ")),
        "created an API key"
    );
    let key = Key {
        id,
        name: request.name,
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
    Ok(CreatedKey { key, secret: secret.expose().to_owned() })
}

/// Update an API key
///
/// Changes the name, the networks, the limits or the expiry of a key that is not revoked. The change takes effect on every
/// replica within a second. The mode, the scopes and the sender domains cannot be changed: create another key.
#[utoipa::path(
    patch, path = "/v1/keys/{id}", tag = "keys", operation_id = "change_key",
    params(("id" = String, Path, description = "The id of the key")),
    request_body = KeyChangeBody,
    responses((status = 200, description = "The updated key", body = KeyWithUsage), AuthErrors, NotFound, JsonErrors),
)]
pub async fn change(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<KeyId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<KeyWithUsage>, ApiError> {
    caller.require_live_admin("API keys")?;
    let body = api.bodies.json(&headers, body).await?;
    let change = request::resources::key::parse_change(&body.bytes, &Context::new(api.clock.now(), &api.limits, &[]))?;
    check_quota(&api, caller.live_tenant(), id, &change).await?;
    if !keys::change(&api.db, caller.live_tenant(), id, &change).await? {
        return Err(ApiError::NotFound("No API key has this id, or it has been revoked."));
    }
    api.keys.clear();
    tracing::info!(event = "api_key_changed", by = %caller.key_id(), key = %id, "changed an API key");
    load(&api, caller.live_tenant(), id).await.map(Json)
}

/// Fails if a change sets a quota of a test key.
async fn check_quota(api: &Api, tenant: TenantId, id: KeyId, change: &KeyChange) -> Result<(), ApiError> {
    if change.quota.value().is_none() {
        return Ok(());
    }
    // The mode of a key never changes.
    let key = keys::get(&api.db, tenant, id).await?;
    if !key.is_some_and(|key| key.mode() == KeyMode::Test) {
        return Ok(());
    }
    let fault = Fault { pointer: "/quota".into(), code: Code::InvalidValue.as_str(), message: NO_QUOTA.into() };
    Err(ApiError::Invalid(vec![fault]))
}

/// Revoke an API key
///
/// The key stops working on every replica within a second.
#[utoipa::path(
    delete, path = "/v1/keys/{id}", tag = "keys", operation_id = "revoke_key",
    params(("id" = String, Path, description = "The id of the key")),
    responses((status = 204, description = "Revoked"), AuthErrors, NotFound),
)]
pub async fn revoke(State(api): State<Api>, caller: Caller, PathId(id): PathId<KeyId>) -> Result<StatusCode, ApiError> {
    caller.require_live_admin("API keys")?;
    match keys::revoke(&api.db, caller.live_tenant(), id, api.clock.now()).await? {
        Revocation::Unknown => return Err(NO_KEY),
        Revocation::AlreadyRevoked => {}
        Revocation::Revoked => {
            api.keys.clear();
            tracing::info!(event = "api_key_revoked", by = %caller.key_id(), key = %id, "revoked an API key");
        }
    }
    Ok(StatusCode::NO_CONTENT)
}
