//! Lists and returns API keys.

use axum::Json;
use axum::extract::State;

use super::view::{Key, KeyUsage, KeyWithUsage};
use super::{NO_KEY, TenantParam, managed_tenant, tenant_param};
use crate::db::keys::{self, usage};
use crate::domain::id::{KeyId, TenantId};
use crate::domain::key::LimitOwner;
use crate::http::auth::Caller;
use crate::http::page::{Page, PageParams};
use crate::http::request::params::{Params, PathId};
use crate::http::{Api, ApiError, AuthErrors, InvalidParameter, NotFound};

/// List API keys
///
/// Returns keys, newest first, including revoked ones.
#[utoipa::path(
    get, path = "/v1/keys", tag = "keys", operation_id = "list_keys",
    params(PageParams, TenantParam),
    responses((status = 200, description = "A page of keys", body = Page<Key>), AuthErrors, InvalidParameter),
)]
pub async fn list(State(api): State<Api>, caller: Caller, mut params: Params) -> Result<Json<Page<Key>>, ApiError> {
    let (limit, tenant) = (params.limit(), tenant_param(&mut params));
    let tenant = managed_tenant(&caller, tenant)?;
    let after = params.read("after", "Pass the `next` value of the previous page.", |text| text.parse().ok());
    params.finish()?;
    let rows = keys::page(&api.db, tenant, after, limit + 1).await?;
    Ok(Json(Page::new(rows, limit, |row| KeyId(row.id).to_string(), Key::from_row)))
}

/// Get an API key
///
/// Returns a key, also a revoked one, with the use of its quota.
#[utoipa::path(
    get, path = "/v1/keys/{id}", tag = "keys", operation_id = "get_key",
    params(("id" = String, Path, description = "The id of the key"), TenantParam),
    responses(
        (status = 200, description = "The key", body = KeyWithUsage),
        AuthErrors, NotFound, InvalidParameter,
    ),
)]
pub async fn get(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<KeyId>,
    mut params: Params,
) -> Result<Json<KeyWithUsage>, ApiError> {
    let tenant = managed_tenant(&caller, tenant_param(&mut params))?;
    params.finish()?;
    load(&api, tenant, id).await.map(Json)
}

/// Returns a key with the use of its quota.
pub(super) async fn load(api: &Api, tenant: TenantId, id: KeyId) -> Result<KeyWithUsage, ApiError> {
    let row = keys::get(&api.db, tenant, id).await?.ok_or(NO_KEY)?;
    let (quota, now) = (row.quota(), api.clock.now());
    let usage = match quota {
        None => None,
        Some(quota) => {
            let recipients = usage::recipients(&api.db, tenant, LimitOwner::Key(id), now.date_naive()).await?;
            Some(KeyUsage::new(quota, recipients, now))
        }
    };
    Ok(KeyWithUsage { key: Key::from_row(row), usage })
}
