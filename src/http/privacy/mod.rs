//! `POST /v1/privacy/erase` and `/v1/privacy/erasures`: erases everything about one address.

mod view;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};

use super::auth::Caller;
use super::located::with_location;
use super::page::{Page, PageParams};
use super::request::params::{Params, PathId};
use super::{Api, ApiError, AuthErrors, InvalidParameter, JsonErrors, NotFound};
use crate::accept::request::resources::operations::erasure;
use crate::db::erasures::{self, ErasureRow, NewErasure};
use crate::domain::id::ErasureId;
use crate::domain::key::Scope;
use crate::domain::records::erasure::ErasedAddress;

use view::{ErasurePreview, ErasureRequestBody, ErasureView};

/// Why keys that are limited to sender domains have no access.
const ALL_DOMAINS: &str = "An erasure applies to all sender domains.";

/// Erase an address
///
/// Erases everything that is stored about one person's address, in the background: messages to it lose their content, as by
/// `POST /v1/messages/{id}/redact`, and wherever the address is stored, a pseudonym replaces it. Queued messages to it are canceled first. A
/// message that is being sent, or that still goes to other recipients, is erased once it has ended; until then the erasure is
/// running. A suppressed address stays suppressed.
///
/// Received messages from or to the address are deleted. Messages sent from SQL that are not accepted yet no longer go to it.
///
/// Applies to messages that were accepted before this request, and to those of bulks that were. With `"dry_run": true`, the response counts what is
/// stored, and nothing changes; otherwise `GET /v1/privacy/erasures/{id}` returns the progress. Repeating an erasure erases what was
/// stored since. A test key erases test data.
#[utoipa::path(
    post, path = "/v1/privacy/erase", tag = "privacy", operation_id = "erase_address",
    request_body = ErasureRequestBody,
    responses(
        (status = 200, description = "The result of a dry run", body = ErasurePreview),
        (status = 202, description = "The erasure", body = ErasureView,
         headers(("Location" = String, description = "The path of the erasure"))),
        AuthErrors, JsonErrors,
    ),
)]
pub async fn erase(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    caller.require(Scope::Admin)?;
    let body = api.bodies.json(&headers, body).await?;
    let request = erasure::parse(&body.bytes)?;
    let now = api.clock.now();
    if request.is_dry_run {
        let _permit = api.slow_queries.acquire(caller.requester()).await?;
        let address = ErasedAddress::from(&request.address);
        let preview = ErasurePreview::from(erasures::preview(&api.db, caller.tenant(), &address, now).await?);
        caller.note_result(&preview);
        return Ok(Json(preview).into_response());
    }
    let id = ErasureId::new(now);
    let (tenant, key) = (caller.tenant(), caller.key_id());
    let erasure = NewErasure { id, tenant, created_at: now, key, address: &request.address };
    api.acceptor.start_erasure(&erasure).await?;
    let view = load(&api, &caller, id).await?;
    // The view has the pseudonym of the address, and not the address.
    caller.note_after(&id, &view);
    tracing::info!(event = "erasure_started", by = %key, erasure = %id, "erasing everything about an address");
    Ok(with_location(format!("/v1/privacy/erasures/{id}"), (StatusCode::ACCEPTED, Json(view))))
}

async fn load(api: &Api, caller: &Caller, id: ErasureId) -> Result<ErasureView, ApiError> {
    let row = erasures::get(&api.db, caller.tenant(), id).await?;
    row.map(ErasureView::from).ok_or(ApiError::NotFound("No erasure with this id."))
}

/// Get an erasure
///
/// Returns the erasure with its progress.
#[utoipa::path(
    get, path = "/v1/privacy/erasures/{id}", tag = "privacy", operation_id = "get_erasure",
    params(("id" = String, Path, description = "The id of the erasure")),
    responses((status = 200, description = "The erasure", body = ErasureView), AuthErrors, NotFound),
)]
pub async fn get(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<ErasureId>,
) -> Result<Json<ErasureView>, ApiError> {
    caller.require(Scope::Metadata)?;
    caller.require_all_domains(ALL_DOMAINS)?;
    load(&api, &caller, id).await.map(Json)
}

/// List erasures
///
/// Newest first.
#[utoipa::path(
    get, path = "/v1/privacy/erasures", tag = "privacy", operation_id = "list_erasures",
    params(PageParams),
    responses((status = 200, description = "A page of erasures", body = Page<ErasureView>), AuthErrors, InvalidParameter),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<Page<ErasureView>>, ApiError> {
    caller.require(Scope::Metadata)?;
    caller.require_all_domains(ALL_DOMAINS)?;
    let limit = params.limit();
    let after = params.read("after", "Pass the `next` value of the previous page.", |text| text.parse().ok());
    params.finish()?;
    let rows = erasures::page(&api.db, caller.tenant(), after, limit + 1).await?;
    let cursor = |row: &ErasureRow| ErasureId(row.id).to_string();
    Ok(Json(Page::new(rows, limit, cursor, ErasureView::from)))
}
