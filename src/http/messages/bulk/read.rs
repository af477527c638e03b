//! Returns and lists bulks.

use axum::Json;
use axum::extract::State;

use super::view::{BulkCounts, BulkView};
use crate::db::messages::bulks::{self, BulkRow};
use crate::domain::id::BulkId;
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::page::{Page, PageParams};
use crate::http::request::params::{Params, PathId};
use crate::http::{Api, ApiError, AuthErrors, InvalidParameter, NotFound};

/// The error if there is no such bulk, or if the key may not see it.
pub(super) const NO_BULK: ApiError = ApiError::NotFound("No bulk with this id.");

/// Returns a bulk that the key may see.
pub(super) async fn load(api: &Api, caller: &Caller, id: BulkId) -> Result<BulkRow, ApiError> {
    let row = bulks::get(&api.db, caller.tenant(), id).await?.ok_or(NO_BULK)?;
    let can_see = caller.sender_domains().is_none_or(|domains| domains.contains(&row.from_domain));
    if can_see { Ok(row) } else { Err(NO_BULK) }
}

/// Returns a bulk with its counts.
pub(super) async fn view(api: &Api, caller: &Caller, id: BulkId) -> Result<BulkView, ApiError> {
    let _permit = api.slow_queries.acquire(caller.requester()).await?;
    let (row, now) = (load(api, caller, id).await?, api.clock.now());
    let (rows, waiting) = bulks::counts(&api.db, &row, now).await?;
    let counts = BulkCounts::new(rows, waiting, &row, now);
    Ok(BulkView::new(row, counts.are_ended(), Some(counts), now))
}

/// Read a bulk
///
/// Returns the bulk with the number of its recipients by status. `GET /v1/messages?bulk={id}` lists its messages.
#[utoipa::path(
    get, path = "/v1/bulks/{id}", tag = "bulks", operation_id = "get_bulk",
    params(("id" = String, Path, description = "The id of the bulk")),
    responses((status = 200, description = "The bulk", body = BulkView), AuthErrors, NotFound),
)]
pub async fn get(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<BulkId>,
) -> Result<Json<BulkView>, ApiError> {
    caller.require(Scope::Metadata)?;
    Ok(Json(view(&api, &caller, id).await?))
}

/// List bulks
///
/// Newest first, without `counts`.
#[utoipa::path(
    get, path = "/v1/bulks", tag = "bulks", operation_id = "list_bulks",
    params(PageParams),
    responses((status = 200, description = "One page of bulks", body = Page<BulkView>), AuthErrors, InvalidParameter),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<Page<BulkView>>, ApiError> {
    caller.require(Scope::Metadata)?;
    let limit = params.limit();
    let after = params.read("after", "Pass the `next` value of the previous page.", |text| text.parse().ok());
    params.finish()?;
    let _permit = api.slow_queries.acquire(caller.requester()).await?;
    let rows = bulks::page(&api.db, caller.tenant(), caller.sender_domains(), after, limit + 1).await?;
    let unended = bulks::unended(&api.db, &rows).await?;
    let now = api.clock.now();
    let show = |row: BulkRow| {
        let is_ended = !unended.contains(&row.id);
        BulkView::new(row, is_ended, None, now)
    };
    Ok(Json(Page::new(rows, limit, |row| BulkId(row.id).to_string(), show)))
}
