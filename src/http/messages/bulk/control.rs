//! Pauses, resumes and cancels bulks.

use axum::Json;
use axum::extract::State;
use serde_json::json;

use super::read::{load, view};
use super::view::BulkView;
use crate::db::messages::bulks::{BulkRow, control};
use crate::domain::id::BulkId;
use crate::domain::key::Scope;
use crate::domain::message::bulk::BulkState;
use crate::http::auth::Caller;
use crate::http::request::params::PathId;
use crate::http::{Api, ApiError, AuthErrors, NotFound, ProblemCode};

/// Pause a bulk
///
/// Its queued messages are held, and no further recipients become messages. Messages that are being sent are finished. The
/// retry window does not run meanwhile. Messages whose `expires_at` passes meanwhile expire when the bulk is resumed.
#[utoipa::path(
    post, path = "/v1/bulks/{id}/pause", tag = "bulks", operation_id = "pause_bulk",
    params(("id" = String, Path, description = "The id of the bulk")),
    responses(
        (status = 200, description = "The paused bulk", body = BulkView),
        AuthErrors, NotFound,
        (status = 409, description = "The bulk was canceled"),
    ),
)]
pub async fn pause(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<BulkId>,
) -> Result<Json<BulkView>, ApiError> {
    caller.require(Scope::Send)?;
    let bulk = load(&api, &caller, id).await?;
    set_state(&api, &caller, &bulk, BulkState::Paused).await?;
    control::hold(&api.db, &load(&api, &caller, id).await?).await?;
    tracing::info!(event = "bulk_paused", by = %caller.key_id(), bulk = %id, "paused a bulk");
    Ok(Json(view(&api, &caller, id).await?))
}

/// Resume a bulk
///
/// Its held messages are sent again. Resuming a bulk that is not paused changes nothing.
#[utoipa::path(
    post, path = "/v1/bulks/{id}/resume", tag = "bulks", operation_id = "resume_bulk",
    params(("id" = String, Path, description = "The id of the bulk")),
    responses(
        (status = 200, description = "The resumed bulk", body = BulkView),
        AuthErrors, NotFound,
        (status = 409, description = "The bulk was canceled"),
    ),
)]
pub async fn resume(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<BulkId>,
) -> Result<Json<BulkView>, ApiError> {
    caller.require(Scope::Send)?;
    let bulk = load(&api, &caller, id).await?;
    set_state(&api, &caller, &bulk, BulkState::Active).await?;
    control::release_held(&api.db, &load(&api, &caller, id).await?, api.clock.now()).await?;
    api.acceptor.wake();
    api.acceptor.wake_expander();
    tracing::info!(event = "bulk_resumed", by = %caller.key_id(), bulk = %id, "resumed a bulk");
    Ok(Json(view(&api, &caller, id).await?))
}

/// Cancel a bulk
///
/// Cancels all recipients that are not being sent. A message that is being sent is finished; if it is deferred, it is canceled
/// then. A canceled bulk cannot be resumed.
#[utoipa::path(
    post, path = "/v1/bulks/{id}/cancel", tag = "bulks", operation_id = "cancel_bulk",
    params(("id" = String, Path, description = "The id of the bulk")),
    responses((status = 200, description = "The canceled bulk", body = BulkView), AuthErrors, NotFound),
)]
pub async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<BulkId>,
) -> Result<Json<BulkView>, ApiError> {
    caller.require(Scope::Send)?;
    let bulk = load(&api, &caller, id).await?;
    set_state(&api, &caller, &bulk, BulkState::Canceled).await?;
    control::cancel_queued(&api.db, &bulk, api.clock.now()).await?;
    api.acceptor.wake_expander();
    tracing::info!(event = "bulk_canceled", by = %caller.key_id(), bulk = %id, "canceled a bulk");
    Ok(Json(view(&api, &caller, id).await?))
}

async fn set_state(api: &Api, caller: &Caller, bulk: &BulkRow, state: BulkState) -> Result<(), ApiError> {
    let id = BulkId(bulk.id);
    if control::set_state(&api.db, caller.tenant(), id, state, api.clock.now()).await? {
        caller.note_change(&id, &json!({"state": bulk.state}), &json!({"state": state.as_str()}));
        return Ok(());
    }
    let detail = "The bulk was canceled. Send the remaining recipients as a new bulk.".into();
    Err(ApiError::Conflict { code: ProblemCode::BulkCanceled, detail, retry_after: None })
}
