//! `POST /v1/webhooks/{id}/replay`.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::load_view;
use super::view::WebhookView;
use crate::accept::request;
use crate::accept::request::resources::operations::replay::ReplayStart;
use crate::db::{events, webhooks};
use crate::domain::api::fault::{Code, Fault};
use crate::domain::id::{EndpointId, TenantId};
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::request::params::PathId;
use crate::http::{Api, ApiError, AuthErrors, JsonErrors, NotFound};

/// The position to replay from: exactly one of the two fields.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayBody {
    /// Replay every event with a higher `seq`; 0 means all stored events.
    #[schema(minimum = 0, example = 1200)]
    pub after_seq: Option<i64>,
    /// Replay every event from this time on that is still stored.
    #[schema(example = "2026-12-01T09:00:00Z")]
    pub since: Option<DateTime<Utc>>,
}

/// Replay events
///
/// Moves the endpoint's cursor back, never forward, so that the events after it are delivered again. An event has the
/// same `webhook-id` as before, so that receivers can detect duplicates. A batch may have other events and another
/// `webhook-id`: compare each event's `seq`. A disabled endpoint receives the events once it is enabled.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/replay", tag = "webhooks", operation_id = "replay_webhook",
    params(("id" = String, Path, description = "The id of the webhook endpoint")),
    request_body = ReplayBody,
    responses(
        (status = 200, description = "The updated webhook endpoint", body = WebhookView),
        AuthErrors, NotFound, JsonErrors,
        (status = 410, description = "Events after `after_seq` were deleted because of their age (`cursor_expired`)"),
    ),
)]
pub async fn replay(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<WebhookView>, ApiError> {
    caller.require(Scope::Admin)?;
    let body = api.bodies.json(&headers, body).await?;
    let after = start_seq(&api, caller.tenant(), request::resources::operations::replay::parse(&body.bytes)?).await?;
    let before = load_view(&api, caller.tenant(), id).await?;
    if webhooks::replay(&api.db, caller.tenant(), id, after).await? {
        tracing::info!(event = "webhook_replayed", by = %caller.key_id(), webhook = %id, after, "replaying events to a webhook endpoint");
    }
    let view = load_view(&api, caller.tenant(), id).await?;
    caller.note_change(&id, &before, &view);
    Ok(Json(view))
}

/// Returns the `seq` to start after. Refuses a `seq` above that of the last event, which must come from another
/// database, and one whose next event was deleted. A time starts with the first event that is still stored.
async fn start_seq(api: &Api, tenant: TenantId, start: ReplayStart) -> Result<i64, ApiError> {
    let after = match start {
        ReplayStart::Since(time) => return Ok(events::feed::last_before(&api.db, tenant, time).await?),
        ReplayStart::After(after) => after,
    };
    let last = events::feed::last(&api.db, &[tenant.0]).await?.first().map_or(0, |(_, seq)| *seq);
    if after > last {
        let message = format!("Event {after} does not exist; the last event is {last}. Was the database restored?");
        let fault = Fault { pointer: "/after_seq".into(), code: Code::InvalidValue.as_str(), message };
        return Err(ApiError::Invalid(vec![fault]));
    }
    let deleted = events::feed::deleted_up_to(&api.db, tenant).await?;
    if after > 0 && after < deleted {
        return Err(ApiError::cursor_expired(after, deleted));
    }
    Ok(after.max(deleted))
}
