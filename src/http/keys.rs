//! `/v1/keys`: make, list and withdraw API keys.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::auth::Caller;
use super::page::Page;
use super::params::{Params, PathId};
use super::{Api, ApiError, Problem};
use crate::accept::request::{self, Context};
use crate::db::keys::{self, KeyRow, NewKey};
use crate::domain::id::KeyId;
use crate::domain::key::{Scope, Secret};

/// A new key as asked for.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKeyBody {
    /// What you call it, 1–128 characters.
    #[schema(example = "shop", min_length = 1, max_length = 128)]
    pub name: String,
    /// What it allows; `send` and `read` unless given.
    #[schema(min_items = 1)]
    pub scopes: Option<Vec<Scope>>,
    /// The only domains it may send from and read messages of; all unless given. Not beside the scope `admin`.
    #[schema(min_items = 1)]
    pub sender_domains: Option<Vec<String>>,
    /// When it stops working; never unless given.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A key, without its secret.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ApiKey)]
pub struct Key {
    /// The key's id.
    #[schema(value_type = String, example = "key_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: KeyId,
    /// What you call it.
    pub name: String,
    /// What it allows.
    pub scopes: Vec<String>,
    /// The only domains it may send from and read messages of; null means all.
    pub sender_domains: Option<Vec<String>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it stops working; null means never.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it last worked, to within a minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it was withdrawn.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// A key that was just made.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = ApiKeyWithSecret)]
pub struct MadeKey {
    /// The key.
    #[serde(flatten)]
    pub key: Key,
    /// What goes after `Bearer`. Shown now and never again.
    pub secret: String,
}

impl std::fmt::Debug for MadeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MadeKey").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Key {
    fn of(row: KeyRow) -> Self {
        Self {
            id: KeyId(row.id),
            name: row.name,
            scopes: row.scopes,
            sender_domains: row.sender_domains,
            created_at: row.created_at,
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
            revoked_at: row.revoked_at,
        }
    }
}

/// Make an API key
///
/// The secret is shown once and never stored.
#[utoipa::path(
    post, path = "/v1/keys", tag = "keys", operation_id = "create_key",
    request_body = NewKeyBody,
    responses(
        (status = 201, description = "The key with its secret", body = MadeKey),
        (status = 400, description = "The body is not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No key, or none that works", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The key does not allow it", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not application/json", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The body is not valid", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = [])),
)]
pub async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    caller.may(Scope::Admin)?;
    let now = api.clock.now();
    let body = api.bodies.json(&headers, body).await?;
    let request = request::key::parse(&body.octets, &Context { now, limits: &api.limits, streams: &[] })?;
    let secret = Secret::from_bytes(rand::random());
    let scopes: Vec<String> = request.scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
    let id = KeyId::new(now);
    let key = NewKey {
        id,
        tenant: caller.tenant(),
        name: &request.name,
        hash: Secret::hash(secret.expose()),
        scopes: &scopes,
        sender_domains: request.sender_domains.as_deref(),
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
        scopes,
        sender_domains: request.sender_domains,
        created_at: now,
        expires_at: request.expires_at,
        last_used_at: None,
        revoked_at: None,
    };
    let made = MadeKey { key, secret: secret.expose().to_owned() };
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(made))
        .into_response())
}

/// List API keys
///
/// Newest first, withdrawn ones included.
#[utoipa::path(
    get, path = "/v1/keys", tag = "keys", operation_id = "list_keys",
    params(
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 100, description = "How many; 20 unless given"),
        ("after" = Option<String>, Query, description = "The `next` of the page before"),
    ),
    responses(
        (status = 200, description = "A page of keys", body = Page<Key>),
        (status = 401, description = "No key, or none that works", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The key does not allow it", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter is not valid", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = [])),
)]
pub async fn list(State(api): State<Api>, caller: Caller, mut params: Params) -> Result<Json<Page<Key>>, ApiError> {
    caller.may(Scope::Admin)?;
    let limit = params.limit();
    let after = params.read("after", "Give the `next` of the page before.", |text| text.parse().ok());
    params.finish()?;
    let rows = keys::page(&api.db, caller.tenant(), after, limit + 1).await?;
    Ok(Json(Page::of(rows, limit, |row| KeyId(row.id).to_string(), Key::of)))
}

/// Withdraw an API key
///
/// It stops working within a few seconds on every replica.
#[utoipa::path(
    delete, path = "/v1/keys/{id}", tag = "keys", operation_id = "revoke_key",
    params(("id" = String, Path, description = "The key's id")),
    responses(
        (status = 204, description = "The key does not work any more"),
        (status = 401, description = "No key, or none that works", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The key does not allow it", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such key", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = [])),
)]
pub async fn revoke(State(api): State<Api>, caller: Caller, PathId(id): PathId<KeyId>) -> Result<StatusCode, ApiError> {
    caller.may(Scope::Admin)?;
    if !keys::revoke(&api.db, caller.tenant(), id, api.clock.now()).await? {
        return Err(ApiError::NotFound("There is no key with this id."));
    }
    api.keys.forget();
    tracing::info!(event = "api_key_revoked", by = %caller.key_id(), key = %id, "revoked an API key");
    Ok(StatusCode::NO_CONTENT)
}
