//! `/v1/received`: messages that were received for inbound routes.

pub mod content;
mod view;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use view::{ReceivedMessageView, ReceivedWithContent};

use super::auth::Caller;
use super::inbound_routes::ALL_DOMAINS;
use super::page::{Page, PageParams};
use super::request::params::{Params, PathId};
use super::{Api, ApiError, AuthErrors, InvalidParameter, NotFound};
use crate::db::receiving::messages::{self, ReceivedFilter};
use crate::domain::id::{InboundRouteId, ReceivedId};
use crate::domain::key::Scope;

const NO_RECEIVED: ApiError = ApiError::NotFound("No received message has this id.");

/// List received messages
///
/// Returns received messages, newest first, without their content.
#[utoipa::path(
    get, path = "/v1/received", tag = "received", operation_id = "list_received",
    params(
        PageParams,
        ("route" = Option<String>, Query, description = "Only messages of the inbound route with this id"),
        ("answers" = Option<String>, Query, description = "Only answers to the message with this id"),
    ),
    responses(
        (status = 200, description = "A page of received messages", body = Page<ReceivedMessageView>),
        AuthErrors, InvalidParameter,
    ),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<Page<ReceivedMessageView>>, ApiError> {
    caller.require(Scope::Metadata)?;
    caller.require_all_domains(ALL_DOMAINS)?;
    let limit = params.limit();
    let after = params.read("after", "Pass the `next` value of the previous page.", |text| text.parse().ok());
    let route = params.read("route", "Pass the id of an inbound route.", |text| text.parse::<InboundRouteId>().ok());
    let answers = params.read("answers", "Pass the id of a message.", |text| text.parse().ok());
    params.finish()?;
    let filter = ReceivedFilter { route: route.map(|id| id.0), answers, after };
    let rows = messages::page(&api.db, caller.tenant(), filter, limit + 1).await?;
    Ok(Json(Page::new(rows, limit, |row| ReceivedId(row.id).to_string(), ReceivedMessageView::from_row)))
}

/// Get a received message
///
/// Returns a received message with its headers and texts. `reply_text` is the text without quoted messages and signature.
#[utoipa::path(
    get, path = "/v1/received/{id}", tag = "received", operation_id = "get_received",
    params(("id" = String, Path, description = "The id of the received message")),
    responses(
        (status = 200, description = "The received message", body = ReceivedWithContent),
        AuthErrors, NotFound,
    ),
)]
pub async fn get(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<ReceivedId>,
) -> Result<Json<ReceivedWithContent>, ApiError> {
    caller.require(Scope::Read)?;
    caller.require_all_domains(ALL_DOMAINS)?;
    let row = messages::get(&api.db, caller.tenant(), id).await?.ok_or(NO_RECEIVED)?;
    let content = messages::content(&api.db, caller.tenant(), id).await?.ok_or(NO_RECEIVED)?;
    let relays = messages::relayed(&api.db, caller.tenant(), id, api.clock.now()).await?;
    Ok(Json(ReceivedMessageView::from_row(row).with_content(content, relays)))
}

/// Delete a received message
///
/// Deletes the message with its content. Its event is kept, with only the id. A message that is being passed on is not recalled: cancel it
/// as any other message.
#[utoipa::path(
    delete, path = "/v1/received/{id}", tag = "received", operation_id = "delete_received",
    params(("id" = String, Path, description = "The id of the received message")),
    responses((status = 204, description = "Deleted"), AuthErrors, NotFound),
)]
pub async fn remove(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<ReceivedId>,
) -> Result<StatusCode, ApiError> {
    caller.require(Scope::Admin)?;
    if !messages::remove(&api.db, caller.tenant(), id).await? {
        return Err(NO_RECEIVED);
    }
    tracing::info!(event = "received_message_removed", by = %caller.key_id(), received = %id, "deleted a received message");
    Ok(StatusCode::NO_CONTENT)
}
