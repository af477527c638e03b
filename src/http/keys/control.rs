//! Creates, changes and revokes API keys.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::NO_KEY;
use super::read::load;
use super::view::{CreatedKey, Key, KeyChangeBody, KeyWithUsage, NewKeyBody};
use crate::accept::request::resources::key::KeyRequest;
use crate::accept::request::{self, Context};
use crate::db::keys::{self, KeyChange, NewKey, Revocation};
use crate::domain::id::KeyId;
use crate::domain::key::{Scope, Secret};
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
    caller.require(Scope::Admin)?;
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
        tenant: caller.tenant(),
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
    caller.note_after(&id, &key);
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
    caller.require(Scope::Admin)?;
    let body = api.bodies.json(&headers, body).await?;
    let change = request::resources::key::parse_change(&body.bytes, &Context::new(api.clock.now(), &api.limits, &[]))?;
    apply(&api, &caller, id, &change).await?;
    load(&api, caller.tenant(), id).await.map(Json)
}

/// Changes an API key; fails if it does not exist or has been revoked.
pub(in crate::http) async fn apply(api: &Api, caller: &Caller, id: KeyId, change: &KeyChange) -> Result<(), ApiError> {
    const MISSING: ApiError = ApiError::NotFound("No API key has this id, or it has been revoked.");
    let before = keys::get(&api.db, caller.tenant(), id).await?.ok_or(MISSING)?;
    if !keys::change(&api.db, caller.tenant(), id, change).await? {
        return Err(MISSING);
    }
    api.keys.clear();
    let after = keys::get(&api.db, caller.tenant(), id).await?.ok_or(MISSING)?;
    caller.note_change(&id, &Key::from_row(before), &Key::from_row(after));
    tracing::info!(event = "api_key_changed", by = %caller.key_id(), key = %id, "changed an API key");
    Ok(())
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
    caller.require(Scope::Admin)?;
    let before = keys::get(&api.db, caller.tenant(), id).await?.ok_or(NO_KEY)?;
    match keys::revoke(&api.db, caller.tenant(), id, api.clock.now()).await? {
        Revocation::Unknown => return Err(NO_KEY),
        Revocation::AlreadyRevoked => {}
        Revocation::Revoked => {
            api.keys.clear();
            caller.note_removed(&id, &Key::from_row(before));
            tracing::info!(event = "api_key_revoked", by = %caller.key_id(), key = %id, "revoked an API key");
        }
    }
    Ok(StatusCode::NO_CONTENT)
}
