//! `/v1/inbound-routes`: which addresses receive messages.

mod control;
mod view;

use axum::Json;
use axum::extract::State;

pub use control::{__path_change, __path_create, __path_remove, change, create, remove};
use view::InboundRouteView;

use super::auth::Caller;
use super::page::{Page, PageParams};
use super::request::params::{Params, PathId};
use super::{Api, ApiError, AuthErrors, InvalidParameter, NotFound};
use crate::db::receiving::routes;
use crate::domain::id::{InboundRouteId, TenantId};
use crate::domain::key::Scope;

const NO_ROUTE: ApiError = ApiError::NotFound("No inbound route has this id.");
/// Why keys that are limited to sender domains may not use received messages and their routes.
pub(super) const ALL_DOMAINS: &str = "Received messages do not belong to a sender domain.";

/// List inbound routes
///
/// Returns inbound routes, newest first.
#[utoipa::path(
    get, path = "/v1/inbound-routes", tag = "inbound-routes", operation_id = "list_inbound_routes",
    params(PageParams),
    responses(
        (status = 200, description = "A page of inbound routes", body = Page<InboundRouteView>),
        AuthErrors, InvalidParameter,
    ),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<Page<InboundRouteView>>, ApiError> {
    caller.require(Scope::Metadata)?;
    caller.require_all_domains(ALL_DOMAINS)?;
    let limit = params.limit();
    let after = params.read("after", "Pass the `next` value of the previous page.", |text| text.parse().ok());
    params.finish()?;
    let rows = routes::page(&api.db, caller.tenant(), after, limit + 1).await?;
    Ok(Json(Page::new(rows, limit, |row| InboundRouteId(row.id).to_string(), InboundRouteView::from_row)))
}

/// Get an inbound route
///
/// Returns the route.
#[utoipa::path(
    get, path = "/v1/inbound-routes/{id}", tag = "inbound-routes", operation_id = "get_inbound_route",
    params(("id" = String, Path, description = "The id of the inbound route")),
    responses((status = 200, description = "The inbound route", body = InboundRouteView), AuthErrors, NotFound),
)]
pub async fn get(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<InboundRouteId>,
) -> Result<Json<InboundRouteView>, ApiError> {
    caller.require(Scope::Metadata)?;
    caller.require_all_domains(ALL_DOMAINS)?;
    load_view(&api, caller.tenant(), id).await.map(Json)
}

/// Reads a route.
async fn load_view(api: &Api, tenant: TenantId, id: InboundRouteId) -> Result<InboundRouteView, ApiError> {
    Ok(InboundRouteView::from_row(routes::get(&api.db, tenant, id).await?.ok_or(NO_ROUTE)?))
}
