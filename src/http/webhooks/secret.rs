//! `POST /v1/webhooks/{id}/rotate-secret`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};

use super::view::WithSecret;
use super::{NO_WEBHOOK, load_view, new_secret};
use crate::db::webhooks;
use crate::domain::id::EndpointId;
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::request::params::PathId;
use crate::http::{Api, ApiError, AuthErrors, NotFound};

/// Rotate the signing secret
///
/// For 24 hours, requests are signed with both the new and the previous secret, so that the receiver can switch without
/// downtime. A second rotation within that time drops the oldest secret.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/rotate-secret", tag = "webhooks", operation_id = "rotate_webhook_secret",
    params(("id" = String, Path, description = "The id of the webhook endpoint")),
    responses(
        (status = 200, description = "The webhook endpoint with its new secret, which is shown only once", body = WithSecret),
        AuthErrors, NotFound,
    ),
)]
pub async fn rotate(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
) -> Result<Response, ApiError> {
    caller.require(Scope::Admin)?;
    let rotated = replace(&api, &caller, id).await?;
    Ok(([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(rotated)).into_response())
}

/// Creates a new secret.
pub(in crate::http) async fn replace(api: &Api, caller: &Caller, id: EndpointId) -> Result<WithSecret, ApiError> {
    let (secret, stored) = new_secret(api, id).await?;
    if !webhooks::rotate(&api.db, caller.tenant(), id, &stored, api.clock.now()).await? {
        return Err(NO_WEBHOOK);
    }
    tracing::info!(event = "webhook_secret_rotated", by = %caller.key_id(), webhook = %id, "rotated the secret of a webhook endpoint");
    let view = load_view(api, caller.tenant(), id).await?;
    caller.note_after(&id, &view);
    Ok(view.with_secret(&secret))
}
