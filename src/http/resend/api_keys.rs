//! `/api-keys`. `full_access` is the scope `admin`, and `sending_access` the scope `send`.

use std::borrow::Cow;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::domains;
use super::ids::ResendId;
use super::list::{List, PageRequest, page};
use super::object::{Deleted, Object};
use super::request::{one_fault, read_object};
use super::times::{optional_time, time};
use crate::accept::request::{self as native, Context};
use crate::db::keys::{self as rows, KeyChange, KeyRow};
use crate::domain::api::fault::Code;
use crate::domain::id::KeyId;
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::keys::control as keys;
use crate::http::request::params::Params;
use crate::http::{Api, ApiError};

/// Maximum number of keys that a list pages through.
const MAX_KEYS: i64 = 10_000;

#[derive(Debug, Deserialize)]
struct NewKey<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    permission: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    domain_id: Option<Cow<'a, str>>,
}

/// An API key in a list.
#[derive(Debug, Serialize)]
pub(super) struct KeyView {
    id: Uuid,
    name: String,
    #[serde(serialize_with = "time")]
    created_at: DateTime<Utc>,
    #[serde(serialize_with = "optional_time")]
    last_used_at: Option<DateTime<Utc>>,
}

/// Creates an API key.
pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    caller.require_live_admin("API keys")?;
    let body = api.bodies.json(&headers, body).await?;
    let new: NewKey<'_> = read_object(&body.bytes)?;
    let scope = match new.permission.as_deref() {
        None | Some("full_access") => Scope::Admin,
        Some("sending_access") => Scope::Send,
        Some(_) => {
            let message = "use `full_access` or `sending_access`";
            return Err(one_fault("/permission", Code::InvalidValue, message).into());
        }
    };
    let sender_domains = match new.domain_id.as_deref().filter(|id| !id.is_empty()) {
        Some(id) => Some(vec![domains::find_name(&api, caller.live_tenant(), id).await?]),
        None => None,
    };
    let native_body = json!({"name": new.name, "scopes": [scope], "sender_domains": sender_domains}).to_string();
    let context = Context::new(api.clock.now(), &api.limits, &[]);
    let request = native::resources::key::parse(native_body.as_bytes(), &context)?;
    let created = keys::insert(&api, &caller, request).await?;
    let view = json!({"id": created.key.id.0, "token": created.secret});
    Ok((StatusCode::CREATED, Json(view)).into_response())
}

/// Returns a page of the keys that are not revoked.
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    params: Params,
) -> Result<Json<List<KeyView>>, ApiError> {
    caller.require(Scope::Admin)?;
    let PageRequest { limit, start } = PageRequest::<KeyId>::read(params)?;
    let all = rows::page(&api.db, caller.live_tenant(), None, MAX_KEYS).await?;
    let all = all.into_iter().filter(|row| row.revoked_at.is_none()).collect();
    let (rows, has_more) = page(all, |row: &KeyRow| row.id, limit, start.map(|id| id.0));
    let view = |row: KeyRow| KeyView {
        id: row.id,
        name: row.name,
        created_at: row.created_at,
        last_used_at: row.last_used_at,
    };
    Ok(Json(List::new(rows.into_iter().map(view).collect(), has_more)))
}

#[derive(Debug, Deserialize)]
struct Rename<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
}

/// Renames an API key.
pub(super) async fn change(
    State(api): State<Api>,
    caller: Caller,
    ResendId(id): ResendId<KeyId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Object>, ApiError> {
    caller.require_live_admin("API keys")?;
    let body = api.bodies.json(&headers, body).await?;
    let change: Rename<'_> = read_object(&body.bytes)?;
    // The name must follow the rules for a new key's name, so the parser for new keys checks it.
    let native_body = json!({"name": change.name, "scopes": [Scope::Send]}).to_string();
    let context = Context::new(api.clock.now(), &api.limits, &[]);
    let name = native::resources::key::parse(native_body.as_bytes(), &context)?.name;
    let change = KeyChange { name: Some(name), ..KeyChange::default() };
    keys::apply(&api, &caller, caller.live_tenant(), id, &change).await?;
    Ok(Json(Object::new("api_key", id.0)))
}

/// Revokes an API key.
pub(super) async fn remove(
    State(api): State<Api>,
    caller: Caller,
    ResendId(id): ResendId<KeyId>,
) -> Result<Json<Deleted>, ApiError> {
    caller.require_live_admin("API keys")?;
    keys::revoke_key(&api, &caller, caller.live_tenant(), id).await?;
    Ok(Json(Deleted::new("api_key", id.0)))
}
