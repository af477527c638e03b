//! Limits, pauses and resets of lanes.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::view::TermsView;
use super::{NO_LANE, terms};
use crate::accept::request::{self, Context};
use crate::db::lanes;
use crate::db::lanes::admin::{LaneKey, Wanted};
use crate::db::lanes::pauses;
use crate::domain::id::LaneId;
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::params::{Params, PathId};
use crate::http::{Api, ApiError, Problem};

/// A lane and its limits.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LaneBody {
    /// In which stream.
    #[schema(example = "bulk")]
    pub stream: String,
    /// `mx`, `relay`, or `relay:NAME` for a configured route.
    #[schema(example = "relay")]
    pub route: String,
    /// Destination domain; `*` for all that goes through a relay and has no lane of its own.
    #[schema(example = "example.test")]
    pub domain: String,
    /// Connections at one time, over all workers together; as configured unless given.
    #[schema(minimum = 1, maximum = 10_000)]
    pub connections: Option<i32>,
    /// Mails a second, over all workers together, from 0.00001; without limit unless given.
    #[schema(minimum = 0.00001, maximum = 1_000_000)]
    pub rate: Option<f64>,
    /// Mails over one connection; as configured unless given.
    #[schema(minimum = 1, maximum = 100_000)]
    pub mails_per_connection: Option<i32>,
}

/// Changes to a lane's limits. `null` takes a limit away; what is missing stays.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LaneChangeBody {
    /// Connections at one time, over all workers together.
    #[schema(minimum = 1, maximum = 10_000)]
    pub connections: Option<i32>,
    /// Mails a second, over all workers together.
    #[schema(minimum = 0.00001, maximum = 1_000_000)]
    pub rate: Option<f64>,
    /// Mails over one connection.
    #[schema(minimum = 1, maximum = 100_000)]
    pub mails_per_connection: Option<i32>,
}

/// Why something is stopped.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PauseBody {
    /// One line of up to 500 characters; it comes back in explanations.
    #[schema(example = "the postmaster asked us to", max_length = 500)]
    pub reason: Option<String>,
}

/// Set the limits of a lane
///
/// Makes the lane where it does not exist yet, so that limits can be there before the first mail. The limits become
/// exactly those given. On a relay's route a domain gets a lane of its own this way.
#[utoipa::path(
    put, path = "/v1/lanes", tag = "lanes", operation_id = "put_lane",
    request_body = LaneBody,
    responses(
        (status = 200, description = "The lane, which was there", body = TermsView),
        (status = 201, description = "The lane, which was made", body = TermsView,
         headers(("Location" = String, description = "Where the lane is"))),
        (status = 400, description = "The body is not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No key, or none that works", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The key does not allow it", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not application/json", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The body is not valid: every fault at once", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = [])),
)]
pub async fn put(State(api): State<Api>, caller: Caller, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    caller.may(Scope::Admin)?;
    let body = api.bodies.json(&headers, body).await?;
    let streams = api.acceptor.streams(caller.tenant()).await?;
    let context = Context { now: api.clock.now(), limits: &api.limits, streams: &streams };
    let lane = request::lane::parse(&body.octets, &api.delivery.routes(), &context)?;
    let route = lane.route.to_string();
    let key = LaneKey { stream: &lane.stream, route: &route, domain: &lane.domain };
    let (id, is_new) =
        lanes::admin::put(&api.db, caller.tenant(), key, &lane.limits, context.now).await?.ok_or(NO_LANE)?;
    api.acceptor.wake();
    tracing::info!(event = "lane_changed", by = %caller.key_id(), lane = %id, "changed a lane");
    let view = terms(&api, caller.tenant(), id).await?;
    let mut response = (if is_new { StatusCode::CREATED } else { StatusCode::OK }, Json(view)).into_response();
    if let (true, Ok(location)) = (is_new, HeaderValue::try_from(format!("/v1/lanes/{id}"))) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Change the limits of a lane
///
/// `null` takes a limit away, what is missing stays.
#[utoipa::path(
    patch, path = "/v1/lanes/{id}", tag = "lanes", operation_id = "change_lane",
    params(("id" = String, Path, description = "The lane's id")),
    request_body = LaneChangeBody,
    responses(
        (status = 200, description = "The lane afterwards", body = TermsView),
        (status = 400, description = "The body is not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No key, or none that works", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The key does not allow it", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such lane", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not application/json", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The body is not valid: every fault at once", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = [])),
)]
pub async fn change(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<LaneId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<TermsView>, ApiError> {
    caller.may(Scope::Admin)?;
    let body = api.bodies.json(&headers, body).await?;
    let change = request::lane::parse_change(&body.octets)?;
    let is_there = lanes::admin::change(&api.db, caller.tenant(), id, &change, api.clock.now()).await?;
    done(&api, &caller, id, is_there).await
}

/// Pause a lane
///
/// Messages are accepted and kept, and what is in flight is finished. The retry window does not run while the lane is paused;
/// a message's own `expires_at` holds all the same.
#[utoipa::path(
    post, path = "/v1/lanes/{id}/pause", tag = "lanes", operation_id = "pause_lane",
    params(("id" = String, Path, description = "The lane's id")),
    request_body = Option<PauseBody>,
    responses(
        (status = 200, description = "The lane afterwards", body = TermsView),
        (status = 400, description = "The body is not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No key, or none that works", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The key does not allow it", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such lane", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not application/json", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The body is not valid", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = [])),
)]
pub async fn pause(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<LaneId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<TermsView>, ApiError> {
    caller.may(Scope::Admin)?;
    let body = api.bodies.json(&headers, body).await?;
    let reason = request::pause::parse(&body.octets)?;
    let is_there = lanes::admin::pause(&api.db, caller.tenant(), id, reason.as_deref(), api.clock.now()).await?;
    done(&api, &caller, id, is_there).await
}

/// Resume a lane
///
/// Undoes a pause and nothing else: a block and a learned limit stay.
#[utoipa::path(
    post, path = "/v1/lanes/{id}/resume", tag = "lanes", operation_id = "resume_lane",
    params(("id" = String, Path, description = "The lane's id")),
    responses(
        (status = 200, description = "The lane afterwards", body = TermsView),
        (status = 401, description = "No key, or none that works", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The key does not allow it", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such lane", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = [])),
)]
pub async fn resume(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<LaneId>,
) -> Result<Json<TermsView>, ApiError> {
    caller.may(Scope::Admin)?;
    let is_there = pauses::resume_lane(&api.db, caller.tenant(), id, api.clock.now()).await?;
    done(&api, &caller, id, is_there).await
}

/// Reopen a lane
///
/// Ends a block and forgets the learned rate: for when the destination or a configuration has been fixed. Recipients that could
/// not be prepared are prepared again now. A pause stays, and recipients that wait for their next attempt go on waiting; see
/// `POST /v1/lanes/{id}/retry`.
#[utoipa::path(
    post, path = "/v1/lanes/{id}/reset", tag = "lanes", operation_id = "reset_lane",
    params(("id" = String, Path, description = "The lane's id")),
    responses(
        (status = 200, description = "The lane afterwards", body = TermsView),
        (status = 401, description = "No key, or none that works", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The key does not allow it", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such lane", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = [])),
)]
pub async fn reset(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<LaneId>,
) -> Result<Json<TermsView>, ApiError> {
    caller.may(Scope::Admin)?;
    let now = api.clock.now();
    let is_there = lanes::admin::reset(&api.db, caller.tenant(), id, now).await?;
    if is_there {
        let wanted = Wanted { unprepared: true, ..Wanted::default() };
        lanes::admin::due_now(&api.db, caller.tenant(), id, wanted, now).await?;
    }
    done(&api, &caller, id, is_there).await
}

/// What a retry of a lane did.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub struct LaneRetried {
    /// Recipients that are due now and were to be tried later.
    #[schema(example = 1_204)]
    pub retried: u64,
    /// Whether there may be more; call again to go on. One call makes at most 100,000 recipients due.
    pub has_more: bool,
}

/// Retry everything in a lane now
///
/// Recipients that are deferred or could not be prepared are due at once, and a blocked destination is probed. Rates, connection
/// limits and pauses hold all the same. Recipients that wait for their `scheduled_at`, are held, or are quarantined after a
/// crash stay as they are.
#[utoipa::path(
    post, path = "/v1/lanes/{id}/retry", tag = "lanes", operation_id = "retry_lane",
    params(
        ("id" = String, Path, description = "The lane's id"),
        ("domain" = Option<String>, Query, description = "Only recipients at this domain, for lanes of a whole relay"),
    ),
    responses(
        (status = 200, description = "How many recipients are due now", body = LaneRetried),
        (status = 401, description = "No key, or none that works", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The key does not allow it", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such lane", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter is not valid", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = [])),
)]
pub async fn retry(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<LaneId>,
    mut params: Params,
) -> Result<Json<LaneRetried>, ApiError> {
    caller.may(Scope::Admin)?;
    let domain = params.text("domain");
    params.finish()?;
    terms(&api, caller.tenant(), id).await?;
    let wanted = Wanted { domain: domain.as_deref(), unprepared: false };
    let done = lanes::admin::due_now(&api.db, caller.tenant(), id, wanted, api.clock.now()).await?;
    api.acceptor.wake();
    Ok(Json(LaneRetried { retried: done.count, has_more: done.has_more }))
}

/// Tells the workers, and shows what became of the lane.
async fn done(api: &Api, caller: &Caller, id: LaneId, is_there: bool) -> Result<Json<TermsView>, ApiError> {
    if !is_there {
        return Err(NO_LANE);
    }
    api.acceptor.wake();
    tracing::info!(event = "lane_changed", by = %caller.key_id(), lane = %id, "changed a lane");
    terms(api, caller.tenant(), id).await.map(Json)
}
