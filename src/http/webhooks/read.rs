//! `GET /v1/webhooks` and `GET /v1/webhooks/{id}`.

use axum::Json;
use axum::extract::State;

use super::load_view;
use super::view::WebhookView;
use crate::db::webhooks;
use crate::domain::id::EndpointId;
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::page::{Page, PageParams};
use crate::http::request::params::{Params, PathId};
use crate::http::{Api, ApiError, AuthErrors, InvalidParameter, NotFound};

/// List webhook endpoints
///
/// Returns webhook endpoints, newest first, without their secrets.
#[utoipa::path(
    get, path = "/v1/webhooks", tag = "webhooks", operation_id = "list_webhooks",
    params(PageParams),
    responses(
        (status = 200, description = "A page of webhook endpoints", body = Page<WebhookView>),
        AuthErrors, InvalidParameter,
    ),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<Page<WebhookView>>, ApiError> {
    caller.require(Scope::Metadata)?;
    caller.require_all_domains("Webhooks receive the events of all sender domains.")?;
    let limit = params.limit();
    let after = params.read("after", "Pass the `next` value of the previous page.", |text| text.parse().ok());
    params.finish()?;
    let rows = webhooks::page(&api.db, caller.tenant(), after, limit + 1).await?;
    let now = api.clock.now();
    Ok(Json(Page::new(rows, limit, |row| EndpointId(row.id).to_string(), |row| WebhookView::from_row(row, now))))
}

/// Get a webhook endpoint
///
/// Returns the endpoint's settings, status, lag, last error, and why it was disabled.
#[utoipa::path(
    get, path = "/v1/webhooks/{id}", tag = "webhooks", operation_id = "get_webhook",
    params(("id" = String, Path, description = "The id of the webhook endpoint")),
    responses((status = 200, description = "The webhook endpoint", body = WebhookView), AuthErrors, NotFound),
)]
pub async fn get(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
) -> Result<Json<WebhookView>, ApiError> {
    caller.require(Scope::Metadata)?;
    caller.require_all_domains("Webhooks receive the events of all sender domains.")?;
    load_view(&api, caller.tenant(), id).await.map(Json)
}
