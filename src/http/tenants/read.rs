//! Lists and returns tenants.

use axum::Json;
use axum::extract::State;

use super::NO_TENANT;
use super::view::{TenantView, TenantWithUsage};
use crate::db::keys::usage;
use crate::db::tenants;
use crate::domain::id::TenantId;
use crate::domain::key::LimitOwner;
use crate::domain::tenant::TenantStatus;
use crate::http::auth::Operator;
use crate::http::keys::view::KeyUsage;
use crate::http::page::{Page, PageParams};
use crate::http::request::params::{Params, PathId};
use crate::http::{Api, ApiError, AuthErrors, InvalidParameter, NotFound};

/// List tenants
///
/// Returns tenants, newest first, including deleted ones; the default tenant is the last one.
#[utoipa::path(
    get, path = "/v1/tenants", tag = "tenants", operation_id = "list_tenants",
    params(
        PageParams,
        ("status" = Option<TenantStatus>, Query, description = "Only tenants in this state"),
    ),
    responses(
        (status = 200, description = "A page of tenants", body = Page<TenantView>),
        AuthErrors, InvalidParameter,
    ),
)]
pub async fn list(State(api): State<Api>, _: Operator, mut params: Params) -> Result<Json<Page<TenantView>>, ApiError> {
    let limit = params.limit();
    let after = params.read("after", "Pass the `next` value of the previous page.", |text| text.parse().ok());
    let status = params.read("status", "Pass `active`, `suspended`, `deleting` or `deleted`.", |text| {
        TenantStatus::ALL.into_iter().find(|status| status.as_str() == text)
    });
    params.finish()?;
    let rows = tenants::page(&api.db, status, after, limit + 1).await?;
    Ok(Json(Page::new(rows, limit, |row| TenantId(row.id).to_string(), TenantView::from_row)))
}

/// Get a tenant
///
/// Returns a tenant, also a deleted one, with the use of its quota.
#[utoipa::path(
    get, path = "/v1/tenants/{id}", tag = "tenants", operation_id = "get_tenant",
    params(("id" = String, Path, description = "The id of the tenant")),
    responses((status = 200, description = "The tenant", body = TenantWithUsage), AuthErrors, NotFound),
)]
pub async fn get(
    State(api): State<Api>,
    _: Operator,
    PathId(id): PathId<TenantId>,
) -> Result<Json<TenantWithUsage>, ApiError> {
    load(&api, id).await.map(Json)
}

/// Returns a tenant with the use of its quota.
pub(super) async fn load(api: &Api, id: TenantId) -> Result<TenantWithUsage, ApiError> {
    let row = tenants::get(&api.db, id).await?.ok_or(NO_TENANT)?;
    let (quota, now) = (row.quota(), api.clock.now());
    let usage = match quota {
        None => None,
        Some(quota) => {
            let recipients = usage::recipients(&api.db, id, LimitOwner::Tenant(id), now.date_naive()).await?;
            Some(KeyUsage::new(quota, recipients, now))
        }
    };
    Ok(TenantWithUsage { tenant: TenantView::from_row(row), usage })
}
