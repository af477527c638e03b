//! `/v1/keys`: creates, lists and revokes API keys.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::auth::Caller;
use super::page::{Page, PageParams};
use super::params::{Params, PathId};
use super::{Api, ApiError, AuthErrors, InvalidParameter, JsonErrors, NotFound};
use crate::accept::request::{self, Context};
use crate::db::keys::{self, KeyRow, NewKey};
use crate::domain::id::KeyId;
use crate::domain::key::{Scope, Secret};

/// An API key to create.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKeyBody {
    /// A name for the key, 1–128 characters.
    #[schema(example = "shop", min_length = 1, max_length = 128)]
    pub name: String,
    /// The key's scopes; defaults to `send` and `read`.
    #[schema(min_items = 1, example = json!(["send", "read"]))]
    pub scopes: Option<Vec<Scope>>,
    /// Limits the key to sending from, and reading messages of, these domains; defaults to all. Not allowed with the
    /// scope `admin`.
    #[schema(min_items = 1, example = json!(["acme.test"]))]
    pub sender_domains: Option<Vec<String>>,
    /// When the key expires; defaults to never.
    #[schema(example = "2027-12-01T09:00:00Z")]
    pub expires_at: Option<DateTime<Utc>>,
}

/// An API key, without its secret.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ApiKey)]
pub struct Key {
    /// The key's id.
    #[schema(value_type = String, example = "key_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: KeyId,
    /// The key's name.
    #[schema(example = "shop")]
    pub name: String,
    /// The key's scopes.
    #[schema(example = json!(["send", "read"]))]
    pub scopes: Vec<String>,
    /// The only domains that the key may send from and read messages of; null means all.
    #[schema(example = json!(["acme.test"]))]
    pub sender_domains: Option<Vec<String>>,
    /// When the key was created.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub created_at: DateTime<Utc>,
    /// When the key expires; null means never.
    #[schema(example = "2027-12-01T09:00:00Z")]
    pub expires_at: Option<DateTime<Utc>>,
    /// When the key was last used, accurate to a minute; null if never.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub last_used_at: Option<DateTime<Utc>>,
    /// When the key was revoked; null if it was not.
    #[schema(example = "2026-11-30T12:00:00Z")]
    pub revoked_at: Option<DateTime<Utc>>,
}

/// A new API key with its secret.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = ApiKeyWithSecret)]
pub struct CreatedKey {
    /// The key.
    #[serde(flatten)]
    pub key: Key,
    /// The secret to send as `Authorization: Bearer SECRET`. Shown only once.
    #[schema(example = "pr_3f9c1a7e5b2d8046e1c9a35f7b0d62843f9c1a7e5b2d8046e1c9a35f7b0d6284")]
    pub secret: String,
}

impl std::fmt::Debug for CreatedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedKey").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Key {
    fn from_row(row: KeyRow) -> Self {
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
    let now = api.clock.now();
    let body = api.bodies.json(&headers, body).await?;
    let request = request::resources::key::parse(&body.bytes, &Context::new(now, &api.limits, &[]))?;
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
    let created = CreatedKey { key, secret: secret.expose().to_owned() };
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(created))
        .into_response())
}

/// List API keys
///
/// Returns keys, newest first, including revoked ones.
#[utoipa::path(
    get, path = "/v1/keys", tag = "keys", operation_id = "list_keys",
    params(PageParams),
    responses((status = 200, description = "A page of keys", body = Page<Key>), AuthErrors, InvalidParameter),
)]
pub async fn list(State(api): State<Api>, caller: Caller, mut params: Params) -> Result<Json<Page<Key>>, ApiError> {
    caller.require(Scope::Admin)?;
    let limit = params.limit();
    let after = params.read("after", "Pass the `next` value of the previous page.", |text| text.parse().ok());
    params.finish()?;
    let rows = keys::page(&api.db, caller.tenant(), after, limit + 1).await?;
    Ok(Json(Page::new(rows, limit, |row| KeyId(row.id).to_string(), Key::from_row)))
}

/// Revoke an API key
///
/// The key stops working on every replica within a few seconds.
#[utoipa::path(
    delete, path = "/v1/keys/{id}", tag = "keys", operation_id = "revoke_key",
    params(("id" = String, Path, description = "The id of the key")),
    responses((status = 204, description = "Revoked"), AuthErrors, NotFound),
)]
pub async fn revoke(State(api): State<Api>, caller: Caller, PathId(id): PathId<KeyId>) -> Result<StatusCode, ApiError> {
    caller.require(Scope::Admin)?;
    if !keys::revoke(&api.db, caller.tenant(), id, api.clock.now()).await? {
        return Err(ApiError::NotFound("No API key has this id."));
    }
    api.keys.clear();
    tracing::info!(event = "api_key_revoked", by = %caller.key_id(), key = %id, "revoked an API key");
    Ok(StatusCode::NO_CONTENT)
}
