//! Lists and returns actions.

use axum::Json;
use axum::extract::State;

use super::view::ActionView;
use crate::db::messages::actions::jobs::{self, ActionRow};
use crate::domain::id::ActionId;
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::page::{Page, PageParams};
use crate::http::request::params::{Params, PathId};
use crate::http::{Api, ApiError, AuthErrors, InvalidParameter, NotFound};

/// Returns an action that the key may see.
pub(super) async fn load(api: &Api, caller: &Caller, id: ActionId) -> Result<ActionView, ApiError> {
    let row = jobs::get(&api.db, caller.tenant(), id, caller.sender_domains()).await?;
    let row = row.ok_or(ApiError::NotFound("No action with this id."))?;
    Ok(ActionView::from_row(row, api.clock.now()))
}

/// Get an action
///
/// Returns the action with its progress. A key with `sender_domains` sees only actions that are limited to these domains.
#[utoipa::path(
    get, path = "/v1/actions/{id}", tag = "actions", operation_id = "get_action",
    params(("id" = String, Path, description = "The id of the action")),
    responses((status = 200, description = "The action", body = ActionView), AuthErrors, NotFound),
)]
pub async fn get(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<ActionId>,
) -> Result<Json<ActionView>, ApiError> {
    caller.require(Scope::Metadata)?;
    load(&api, &caller, id).await.map(Json)
}

/// List actions
///
/// Newest first.
#[utoipa::path(
    get, path = "/v1/actions", tag = "actions", operation_id = "list_actions",
    params(PageParams),
    responses((status = 200, description = "A page of actions", body = Page<ActionView>), AuthErrors, InvalidParameter),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<Page<ActionView>>, ApiError> {
    caller.require(Scope::Metadata)?;
    let limit = params.limit();
    let after = params.read("after", "Pass the `next` value of the previous page.", |text| text.parse().ok());
    params.finish()?;
    let rows = jobs::page(&api.db, caller.tenant(), caller.sender_domains(), after, limit + 1).await?;
    let now = api.clock.now();
    let cursor = |row: &ActionRow| ActionId(row.id).to_string();
    Ok(Json(Page::new(rows, limit, cursor, |row| ActionView::from_row(row, now))))
}
