//! Creates, updates and deletes webhooks.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;

use super::view::{NewWebhookBody, WebhookChangeBody, WebhookView, WithSecret};
use super::{NO_WEBHOOK, load_view, new_secret};
use crate::accept::request;
use crate::db::webhooks::{self, NewEndpoint};
use crate::domain::id::EndpointId;
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::located::located;
use crate::http::params::PathId;
use crate::http::{Api, ApiError, AuthErrors, JsonErrors, NotFound};

/// Create a webhook
///
/// The webhook receives events from now on; call `POST /v1/webhooks/{id}/replay` to send earlier ones. Posts are signed
/// according to Standard Webhooks 1.0. The secret is shown only once.
#[utoipa::path(
    post, path = "/v1/webhooks", tag = "webhooks", operation_id = "create_webhook",
    request_body = NewWebhookBody,
    responses(
        (status = 201, description = "The webhook with its secret", body = WithSecret,
         headers(("Location" = String, description = "The path of the webhook"))),
        AuthErrors, JsonErrors,
        (status = 422, description = "Invalid request; `errors` lists every fault. `denied_address`: the URL points to an address that webhooks may not use"),
    ),
)]
pub async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    caller.may(Scope::Admin)?;
    let body = api.bodies.json(&headers, body).await?;
    let (url, settings) = request::webhook::parse(&body.bytes)?;
    api.check_target.admit(&url).await?;
    let (now, tenant) = (api.clock.now(), caller.tenant());
    let id = EndpointId::new(now);
    let (secret, stored) = new_secret(&api, id).await?;
    let endpoint = NewEndpoint { id, tenant, url: &url, secret: &stored, settings: &settings, created_at: now };
    webhooks::insert(&api.db, &endpoint).await?;
    tracing::info!(event = "webhook_created", by = %caller.key_id(), webhook = %id, host = url.host_str(), "created a webhook");
    let made = load_view(&api, tenant, id).await?.with(&secret);
    let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok(located(format!("/v1/webhooks/{id}"), (StatusCode::CREATED, no_store, Json(made))))
}

/// Update a webhook
///
/// `"disabled": true` stops the webhook. `"disabled": false` enables it again, whether it was disabled by an operator,
/// by 5 days of failures or by its own 410 response; it continues after the last event. A new URL or
/// `"disabled": false` also resets the failures and posts at once.
#[utoipa::path(
    patch, path = "/v1/webhooks/{id}", tag = "webhooks", operation_id = "change_webhook",
    params(("id" = String, Path, description = "The id of the webhook")),
    request_body = WebhookChangeBody,
    responses(
        (status = 200, description = "The updated webhook", body = WebhookView),
        AuthErrors, NotFound, JsonErrors,
        (status = 422, description = "Invalid request; `errors` lists every fault. `denied_address`: the URL points to an address that webhooks may not use"),
    ),
)]
pub async fn change(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<WebhookView>, ApiError> {
    caller.may(Scope::Admin)?;
    let body = api.bodies.json(&headers, body).await?;
    let change = request::webhook::parse_change(&body.bytes)?;
    if let Some(url) = &change.url {
        api.check_target.admit(url).await?;
    }
    let host = change.url.as_ref().and_then(|url| url.host_str().map(str::to_owned));
    if webhooks::change(&api.db, caller.tenant(), id, change, api.clock.now()).await? {
        tracing::info!(event = "webhook_changed", by = %caller.key_id(), webhook = %id, host, "changed a webhook");
    }
    load_view(&api, caller.tenant(), id).await.map(Json)
}

/// Delete a webhook
///
/// Also deletes its pending deliveries. A post in flight may still arrive.
#[utoipa::path(
    delete, path = "/v1/webhooks/{id}", tag = "webhooks", operation_id = "remove_webhook",
    params(("id" = String, Path, description = "The id of the webhook")),
    responses((status = 204, description = "Deleted"), AuthErrors, NotFound),
)]
pub async fn remove(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
) -> Result<StatusCode, ApiError> {
    caller.may(Scope::Admin)?;
    if !webhooks::remove(&api.db, caller.tenant(), id).await? {
        return Err(NO_WEBHOOK);
    }
    tracing::info!(event = "webhook_removed", by = %caller.key_id(), webhook = %id, "removed a webhook");
    Ok(StatusCode::NO_CONTENT)
}
