//! Sets limits of lanes; pauses, resumes, resets and retries them.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::view::LaneSettingsView;
use super::{NO_LANE, load_settings};
use crate::accept::request::{self, Context};
use crate::db::lanes;
use crate::db::lanes::admin::{LaneKey, RetryFilter};
use crate::db::lanes::pauses;
use crate::domain::id::LaneId;
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::located::with_location;
use crate::http::request::params::{Params, PathId};
use crate::http::{Api, ApiError, AuthErrors, InvalidParameter, JsonErrors, NotFound};

/// A lane and the limits to set.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LaneBody {
    /// The stream's name.
    #[schema(example = "bulk")]
    pub stream: String,
    /// The route: `mx`, `relay`, or `relay:NAME` for a configured route.
    #[schema(example = "relay")]
    pub route: String,
    /// The destination domain; `*` for all domains of a relay that have no separate lane.
    #[schema(example = "example.test")]
    pub domain: String,
    /// Maximum concurrent connections, over all workers together; defaults to the configured limit.
    #[schema(minimum = 1, maximum = 10_000, example = 4)]
    pub connections: Option<i32>,
    /// Maximum messages per second, over all workers together, from 0.00001; unlimited by default.
    #[schema(minimum = 0.00001, maximum = 1_000_000, example = 10.0)]
    pub rate: Option<f64>,
    /// Maximum messages per connection; defaults to the configured limit.
    #[schema(minimum = 1, maximum = 100_000, example = 100)]
    pub messages_per_connection: Option<i32>,
}

/// Changes to a lane's limits. `null` removes a limit; omitted fields keep their value.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LaneChangeBody {
    /// Maximum concurrent connections, over all workers together.
    #[schema(minimum = 1, maximum = 10_000, example = 4)]
    pub connections: Option<i32>,
    /// Maximum messages per second, over all workers together.
    #[schema(minimum = 0.00001, maximum = 1_000_000, example = 10.0)]
    pub rate: Option<f64>,
    /// Maximum messages per connection.
    #[schema(minimum = 1, maximum = 100_000, example = 100)]
    pub messages_per_connection: Option<i32>,
}

/// The reason for a pause.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PauseBody {
    /// One line of up to 500 characters, shown in explanations.
    #[schema(example = "The relay is being moved.", max_length = 500)]
    pub reason: Option<String>,
}

/// Set the limits of a lane
///
/// Creates the lane if it does not exist, so that limits can be set before the first message. Replaces all limits of
/// the lane. On a relay's route, this is how to give a domain a separate lane.
#[utoipa::path(
    put, path = "/v1/lanes", tag = "lanes", operation_id = "set_lane_limits",
    request_body = LaneBody,
    responses(
        (status = 200, description = "The updated lane", body = LaneSettingsView),
        (status = 201, description = "The new lane", body = LaneSettingsView,
         headers(("Location" = String, description = "The path of the lane"))),
        AuthErrors, JsonErrors,
    ),
)]
pub async fn put(State(api): State<Api>, caller: Caller, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    caller.require(Scope::Admin)?;
    let body = api.bodies.json(&headers, body).await?;
    let streams = api.acceptor.streams(caller.tenant()).await?;
    let context = Context::new(api.clock.now(), &api.limits, &streams);
    let lane = request::resources::lane::parse(&body.bytes, &api.delivery.routes(), &context)?;
    let route = lane.route.to_string();
    let key = LaneKey { stream: &lane.stream, route: &route, domain: &lane.domain };
    let (id, is_new) =
        lanes::admin::put(&api.db, caller.tenant(), key, &lane.limits, context.now).await?.ok_or(NO_LANE)?;
    api.acceptor.wake();
    tracing::info!(event = "lane_changed", by = %caller.key_id(), lane = %id, "changed a lane");
    let view = load_settings(&api, caller.tenant(), id).await?;
    caller.note_after(&id, &view);
    Ok(if is_new {
        with_location(format!("/v1/lanes/{id}"), (StatusCode::CREATED, Json(view)))
    } else {
        Json(view).into_response()
    })
}

/// Update the limits of a lane
///
/// `null` removes a limit; omitted fields keep their value.
#[utoipa::path(
    patch, path = "/v1/lanes/{id}", tag = "lanes", operation_id = "update_lane",
    params(("id" = String, Path, description = "The id of the lane")),
    request_body = LaneChangeBody,
    responses((status = 200, description = "The updated lane", body = LaneSettingsView), AuthErrors, NotFound, JsonErrors),
)]
pub async fn change(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<LaneId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<LaneSettingsView>, ApiError> {
    caller.require(Scope::Admin)?;
    let body = api.bodies.json(&headers, body).await?;
    let change = request::resources::lane::parse_change(&body.bytes)?;
    let before = load_settings(&api, caller.tenant(), id).await?;
    let found = lanes::admin::change(&api.db, caller.tenant(), id, &change, api.clock.now()).await?;
    respond(&api, &caller, id, &before, found).await
}

/// Pause a lane
///
/// Messages are still accepted and queued, and attempts in flight are finished. The retry window does not run while the
/// lane is paused, but a message's `expires_at` still applies.
#[utoipa::path(
    post, path = "/v1/lanes/{id}/pause", tag = "lanes", operation_id = "pause_lane",
    params(("id" = String, Path, description = "The id of the lane")),
    request_body = Option<PauseBody>,
    responses((status = 200, description = "The updated lane", body = LaneSettingsView), AuthErrors, NotFound, JsonErrors),
)]
pub async fn pause(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<LaneId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<LaneSettingsView>, ApiError> {
    caller.require(Scope::Admin)?;
    let body = api.bodies.json(&headers, body).await?;
    let reason = request::resources::operations::pause::parse(&body.bytes)?;
    let before = load_settings(&api, caller.tenant(), id).await?;
    let found = lanes::admin::pause(&api.db, caller.tenant(), id, reason.as_deref(), api.clock.now()).await?;
    respond(&api, &caller, id, &before, found).await
}

/// Resume a lane
///
/// Removes only the pause: the lane stays `blocked` while its destination is unreachable, and a learned rate stays in
/// effect.
#[utoipa::path(
    post, path = "/v1/lanes/{id}/resume", tag = "lanes", operation_id = "resume_lane",
    params(("id" = String, Path, description = "The id of the lane")),
    responses((status = 200, description = "The updated lane", body = LaneSettingsView), AuthErrors, NotFound),
)]
pub async fn resume(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<LaneId>,
) -> Result<Json<LaneSettingsView>, ApiError> {
    caller.require(Scope::Admin)?;
    let before = load_settings(&api, caller.tenant(), id).await?;
    let found = pauses::resume_lane(&api.db, caller.tenant(), id, api.clock.now()).await?;
    respond(&api, &caller, id, &before, found).await
}

/// Reset a lane
///
/// Marks the destination as reachable and forgets the learned rate. Use it after the destination or the configuration
/// has been fixed. Recipients that could not be prepared become due now. A pause stays in effect, and the next
/// attempt's time of deferred recipients does not change; see `POST /v1/lanes/{id}/retry`.
#[utoipa::path(
    post, path = "/v1/lanes/{id}/reset", tag = "lanes", operation_id = "reset_lane",
    params(("id" = String, Path, description = "The id of the lane")),
    responses((status = 200, description = "The updated lane", body = LaneSettingsView), AuthErrors, NotFound),
)]
pub async fn reset(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<LaneId>,
) -> Result<Json<LaneSettingsView>, ApiError> {
    caller.require(Scope::Admin)?;
    let now = api.clock.now();
    let before = load_settings(&api, caller.tenant(), id).await?;
    let found = lanes::admin::reset(&api.db, caller.tenant(), id, now).await?;
    if found {
        let filter = RetryFilter { unprepared: true, ..RetryFilter::default() };
        lanes::admin::due_now(&api.db, caller.tenant(), id, filter, now).await?;
    }
    respond(&api, &caller, id, &before, found).await
}

/// The result of retrying a lane.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub struct LaneRetried {
    /// Recipients that were due later and are due now.
    #[schema(example = 1_204)]
    pub retried: u64,
    /// Whether more recipients may follow; call again to continue. One call affects at most 100,000 recipients.
    #[schema(example = false)]
    pub has_more: bool,
}

/// Retry a lane now
///
/// Makes deferred recipients and those that could not be prepared due now, and probes an unreachable destination.
/// Rates, connection limits and pauses still apply. Recipients that wait for their `scheduled_at`, are held, or are
/// quarantined after a crash do not change.
#[utoipa::path(
    post, path = "/v1/lanes/{id}/retry", tag = "lanes", operation_id = "retry_lane",
    params(
        ("id" = String, Path, description = "The id of the lane"),
        ("domain" = Option<String>, Query, description = "Only recipients at this domain; for lanes whose `domain` is `*`"),
    ),
    responses(
        (status = 200, description = "The number of recipients that are due now", body = LaneRetried),
        AuthErrors, NotFound, InvalidParameter,
    ),
)]
pub async fn retry(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<LaneId>,
    mut params: Params,
) -> Result<Json<LaneRetried>, ApiError> {
    caller.require(Scope::Admin)?;
    let domain = params.text("domain");
    params.finish()?;
    load_settings(&api, caller.tenant(), id).await?;
    let filter = RetryFilter { domain: domain.as_deref(), unprepared: false };
    let done = lanes::admin::due_now(&api.db, caller.tenant(), id, filter, api.clock.now()).await?;
    api.acceptor.wake();
    let retried = LaneRetried { retried: done.count, has_more: done.has_more };
    caller.note_after(&id, &retried);
    Ok(Json(retried))
}

/// Wakes the workers and returns the updated lane, which was `before`.
async fn respond(
    api: &Api,
    caller: &Caller,
    id: LaneId,
    before: &LaneSettingsView,
    found: bool,
) -> Result<Json<LaneSettingsView>, ApiError> {
    if !found {
        return Err(NO_LANE);
    }
    api.acceptor.wake();
    tracing::info!(event = "lane_changed", by = %caller.key_id(), lane = %id, "changed a lane");
    let after = load_settings(api, caller.tenant(), id).await?;
    caller.note_change(&id, before, &after);
    Ok(Json(after))
}
