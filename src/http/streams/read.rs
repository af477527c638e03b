//! `GET /v1/streams` and `GET /v1/streams/{name}`.

use axum::Json;
use axum::extract::State;

use super::view::StreamView;
use super::{NO_STREAM, StreamName};
use crate::db::streams;
use crate::domain::id::TenantId;
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::page::Page;
use crate::http::request::params::Params;
use crate::http::{Api, ApiError, AuthErrors, InvalidParameter, NotFound};

/// List streams
///
/// Returns all streams in one page, ordered by priority.
#[utoipa::path(
    get, path = "/v1/streams", tag = "streams", operation_id = "list_streams",
    responses((status = 200, description = "All streams", body = Page<StreamView>), AuthErrors, InvalidParameter),
)]
pub async fn list(State(api): State<Api>, caller: Caller, params: Params) -> Result<Json<Page<StreamView>>, ApiError> {
    caller.require(Scope::Metadata)?;
    params.finish()?;
    let rows = streams::all(&api.db, caller.tenant()).await?;
    let data =
        rows.into_iter().map(|row| for_caller(&caller, StreamView::from_row(row, &api.delivery.policy))).collect();
    Ok(Json(Page { data, has_more: false, next: None }))
}

/// Get a stream
///
/// Returns the stream's settings, and whether it is paused.
#[utoipa::path(
    get, path = "/v1/streams/{name}", tag = "streams", operation_id = "get_stream",
    params(("name" = String, Path, description = "The name of the stream")),
    responses((status = 200, description = "The stream", body = StreamView), AuthErrors, NotFound),
)]
pub async fn get(
    State(api): State<Api>,
    caller: Caller,
    StreamName(name): StreamName,
) -> Result<Json<StreamView>, ApiError> {
    caller.require(Scope::Metadata)?;
    let stream = load_view(&api, caller.tenant(), &name).await?;
    Ok(Json(for_caller(&caller, stream)))
}

/// Hides the reason of a pause from keys with `sender_domains`, as a dry run does.
fn for_caller(caller: &Caller, mut stream: StreamView) -> StreamView {
    if let Some(paused) = &mut stream.paused
        && caller.sender_domains().is_some()
    {
        paused.reason = None;
    }
    stream
}

/// Reads a stream.
pub(super) async fn load_view(api: &Api, tenant: TenantId, name: &str) -> Result<StreamView, ApiError> {
    let row = streams::get(&api.db, tenant, name).await?.ok_or(NO_STREAM)?;
    Ok(StreamView::from_row(row, &api.delivery.policy))
}
