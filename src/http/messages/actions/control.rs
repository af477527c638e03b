//! `POST /v1/actions/{id}/cancel`.

use axum::Json;
use axum::extract::State;

use super::read::load;
use super::view::ActionView;
use crate::db::messages::actions::jobs;
use crate::domain::id::ActionId;
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::request::params::PathId;
use crate::http::{Api, ApiError, AuthErrors, NotFound};

/// Cancel an action
///
/// Stops the action. What it has changed stays changed. Canceling an action that has ended changes nothing.
#[utoipa::path(
    post, path = "/v1/actions/{id}/cancel", tag = "actions", operation_id = "cancel_action",
    params(("id" = String, Path, description = "The id of the action")),
    responses((status = 200, description = "The action", body = ActionView), AuthErrors, NotFound),
)]
pub async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<ActionId>,
) -> Result<Json<ActionView>, ApiError> {
    caller.require(Scope::Send)?;
    let before = load(&api, &caller, id).await?;
    jobs::cancel(&api.db, caller.tenant(), id, api.clock.now()).await?;
    let after = load(&api, &caller, id).await?;
    caller.note_change(&id, &before, &after);
    tracing::info!(event = "message_action_canceled", by = %caller.key_id(), action = %id, "canceled an action on messages");
    Ok(Json(after))
}
