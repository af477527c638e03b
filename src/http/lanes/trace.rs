//! `POST /v1/lanes/{id}/trace`: keeps the SMTP conversations of the next attempts.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;

use super::NO_LANE;
use crate::accept::request::resources::operations::trace;
use crate::db::lanes::traces;
use crate::domain::id::LaneId;
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::request::params::PathId;
use crate::http::{Api, ApiError, AuthErrors, JsonErrors, NotFound};

/// How many attempts to trace.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LaneTraceBody {
    /// The number of attempts; 0 ends the trace.
    #[schema(minimum = 0, maximum = 100, example = 10)]
    pub attempts: i32,
}

/// A lane whose attempts are traced.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub struct LaneTrace {
    /// The lane's id.
    #[schema(value_type = String, example = "lane_42")]
    pub id: LaneId,
    /// The number of attempts that will be traced.
    #[schema(example = 10)]
    pub attempts: i32,
}

/// Trace a lane
///
/// Keeps the SMTP conversations of the lane's next attempts, also of successful ones, for
/// `GET /v1/messages/{id}/attempts`. Conversations of failed attempts are always kept. An attempt at several recipients
/// counts once. The call replaces an earlier trace of the lane; workers follow it within two seconds.
#[utoipa::path(
    post, path = "/v1/lanes/{id}/trace", tag = "lanes", operation_id = "trace_lane",
    params(("id" = String, Path, description = "The id of the lane")),
    request_body = LaneTraceBody,
    responses((status = 200, description = "The trace", body = LaneTrace), AuthErrors, NotFound, JsonErrors),
)]
pub async fn trace(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<LaneId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<LaneTrace>, ApiError> {
    caller.require(Scope::Admin)?;
    let body = api.bodies.json(&headers, body).await?;
    let attempts = trace::parse(&body.bytes)?;
    if !traces::request(&api.db, caller.tenant(), id, attempts).await? {
        return Err(NO_LANE);
    }
    tracing::info!(event = "lane_traced", by = %caller.key_id(), lane = %id, attempts, "tracing a lane");
    let trace = LaneTrace { id, attempts };
    caller.note_after(&id, &trace);
    Ok(Json(trace))
}
