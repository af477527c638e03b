//! Creates, updates and deletes webhook endpoints.

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
use crate::domain::webhook::endpoint::{PostFormat, Settings};
use crate::http::auth::Caller;
use crate::http::located::with_location;
use crate::http::request::params::PathId;
use crate::http::{Api, ApiError, AuthErrors, JsonErrors, NotFound};

/// Create a webhook endpoint
///
/// The endpoint receives events from now on; call `POST /v1/webhooks/{id}/replay` to send earlier ones. Requests are
/// signed according to Standard Webhooks 1.0. The secret is shown only once.
#[utoipa::path(
    post, path = "/v1/webhooks", tag = "webhooks", operation_id = "create_webhook",
    request_body = NewWebhookBody,
    responses(
        (status = 201, description = "The webhook endpoint with its secret", body = WithSecret,
         headers(("Location" = String, description = "The path of the webhook endpoint"))),
        AuthErrors, JsonErrors,
        (status = 422, description = "Invalid request; `errors` lists every fault. `denied_address`: the URL points to an address that is not allowed"),
    ),
)]
pub async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    caller.require(Scope::Admin)?;
    let body = api.bodies.json(&headers, body).await?;
    let view = register(&api, &caller, &body.bytes).await?;
    let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok(with_location(format!("/v1/webhooks/{}", view.webhook.id), (StatusCode::CREATED, no_store, Json(view))))
}

/// Creates a webhook endpoint from the body of a request.
pub(in crate::http) async fn register(api: &Api, caller: &Caller, body: &[u8]) -> Result<WithSecret, ApiError> {
    let (url, settings) = request::resources::webhook::parse(body)?;
    api.check_target.admit(&url).await?;
    let (now, tenant) = (api.clock.now(), caller.tenant());
    let id = EndpointId::new(now);
    let (secret, stored) = new_secret(api, id).await?;
    let endpoint = NewEndpoint { id, tenant, url: &url, secret: &stored, settings: &settings, created_at: now };
    webhooks::insert(&api.db, &endpoint).await?;
    tracing::info!(event = "webhook_created", by = %caller.key_id(), webhook = %id, host = url.host_str(), "created a webhook endpoint");
    let view = load_view(api, tenant, id).await?;
    caller.note_after(&id, &view);
    Ok(view.with_secret(&secret))
}

/// Update a webhook endpoint
///
/// `"disabled": true` stops deliveries. `"disabled": false` enables the endpoint again, whether it was disabled by an
/// operator, by 5 days of failures or by its own 410 response; deliveries continue at its cursor. A new URL or
/// `"disabled": false` also resets the failures, and the next delivery is attempted at once.
#[utoipa::path(
    patch, path = "/v1/webhooks/{id}", tag = "webhooks", operation_id = "update_webhook",
    params(("id" = String, Path, description = "The id of the webhook endpoint")),
    request_body = WebhookChangeBody,
    responses(
        (status = 200, description = "The updated webhook endpoint", body = WebhookView),
        AuthErrors, NotFound, JsonErrors,
        (status = 422, description = "Invalid request; `errors` lists every fault. `denied_address`: the URL points to an address that is not allowed"),
    ),
)]
pub async fn change(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<WebhookView>, ApiError> {
    caller.require(Scope::Admin)?;
    let body = api.bodies.json(&headers, body).await?;
    let change = request::resources::webhook::parse_change(&body.bytes)?;
    check_batch(&api, &caller, id, &change.settings).await?;
    if let Some(url) = &change.url {
        api.check_target.admit(url).await?;
    }
    let host = change.url.as_ref().and_then(|url| url.host_str().map(str::to_owned));
    let before = load_view(&api, caller.tenant(), id).await?;
    if webhooks::change(&api.db, caller.tenant(), id, change, api.clock.now()).await? {
        tracing::info!(event = "webhook_changed", by = %caller.key_id(), webhook = %id, host, "changed a webhook endpoint");
    }
    let after = load_view(&api, caller.tenant(), id).await?;
    caller.note_change(&id, &before, &after);
    Ok(Json(after))
}

/// Fails if the changed endpoint would receive batches in Resend's format.
async fn check_batch(api: &Api, caller: &Caller, id: EndpointId, settings: &Settings) -> Result<(), ApiError> {
    let sets_batch = settings.batch.is_some_and(|batch| batch > 1);
    if !sets_batch && settings.format != Some(PostFormat::Resend) {
        return Ok(());
    }
    let stored = webhooks::get(&api.db, caller.tenant(), id).await?.ok_or(NO_WEBHOOK)?;
    let format = stored.format.parse().unwrap_or(PostFormat::Postrider);
    Ok(request::resources::webhook::check_batch(settings, stored.batch, format)?)
}

/// Delete a webhook endpoint
///
/// Also deletes its pending deliveries. A delivery attempt in progress may still arrive.
#[utoipa::path(
    delete, path = "/v1/webhooks/{id}", tag = "webhooks", operation_id = "delete_webhook",
    params(("id" = String, Path, description = "The id of the webhook endpoint")),
    responses((status = 204, description = "Deleted"), AuthErrors, NotFound),
)]
pub async fn remove(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
) -> Result<StatusCode, ApiError> {
    caller.require(Scope::Admin)?;
    let before = load_view(&api, caller.tenant(), id).await?;
    if !webhooks::remove(&api.db, caller.tenant(), id).await? {
        return Err(NO_WEBHOOK);
    }
    caller.note_removed(&id, &before);
    tracing::info!(event = "webhook_removed", by = %caller.key_id(), webhook = %id, "removed a webhook endpoint");
    Ok(StatusCode::NO_CONTENT)
}
