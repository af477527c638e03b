//! Downloads of received messages and of their attachments.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};

use super::NO_RECEIVED;
use crate::db::receiving::messages;
use crate::domain::api::binary::Binary;
use crate::domain::id::ReceivedId;
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::inbound_routes::ALL_DOMAINS;
use crate::http::limits::memory_limit::Reservation;
use crate::http::messages::raw::download_headers;
use crate::http::request::params::PathId;
use crate::http::{Api, ApiError, AuthErrors, NotFound, response};
use crate::mail::received;

const NO_ATTACHMENT: ApiError = ApiError::NotFound("The received message has no attachment with this index.");

/// Download a received message
///
/// Returns the message as it was received, byte for byte.
#[utoipa::path(
    get, path = "/v1/received/{id}/raw", tag = "received", operation_id = "get_received_raw",
    params(("id" = String, Path, description = "The id of the received message")),
    responses(
        (status = 200, description = "The MIME message", body = inline(Binary), content_type = "message/rfc822"),
        AuthErrors, NotFound,
    ),
)]
pub async fn raw(State(api): State<Api>, caller: Caller, PathId(id): PathId<ReceivedId>) -> Result<Response, ApiError> {
    let (raw, reservation) = load(&api, &caller, id, 1).await?;
    let headers = [(header::CONTENT_TYPE, "message/rfc822"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    Ok(respond(headers, raw, reservation))
}

/// Download an attachment of a received message
///
/// Returns the decoded attachment as `application/octet-stream`, so that browsers download it and never display it.
#[utoipa::path(
    get, path = "/v1/received/{id}/attachments/{n}", tag = "received", operation_id = "get_received_attachment",
    params(
        ("id" = String, Path, description = "The id of the received message"),
        ("n" = u32, Path, description = "The attachment's index in `attachments`, from 0"),
    ),
    responses(
        (status = 200, description = "The attachment", body = inline(Binary), content_type = "application/octet-stream"),
        AuthErrors, NotFound,
    ),
)]
pub async fn attachment(
    State(api): State<Api>,
    caller: Caller,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Response, ApiError> {
    caller.require(Scope::Read)?;
    let Path((id, n)) = path.map_err(|_| NO_RECEIVED)?;
    let id: ReceivedId = id.parse().map_err(|_| NO_RECEIVED)?;
    let n: usize = n.parse().map_err(|_| NO_ATTACHMENT)?;
    // The message and its decoded attachment are in memory at the same time.
    let (raw, reservation) = load(&api, &caller, id, 2).await?;
    let decode = move || received::attachment(&raw, n);
    let (attachment, bytes) =
        tokio::task::spawn_blocking(decode).await.map_err(|_| ApiError::Internal)?.ok_or(NO_ATTACHMENT)?;
    let headers = download_headers(attachment.filename.as_deref().unwrap_or("attachment"));
    Ok(respond(headers, bytes, reservation))
}

/// Reads a message, after memory for `copies` times its size has been reserved.
async fn load(api: &Api, caller: &Caller, id: ReceivedId, copies: u64) -> Result<(Vec<u8>, Reservation), ApiError> {
    caller.require(Scope::Read)?;
    caller.require_all_domains(ALL_DOMAINS)?;
    let size = messages::size(&api.db, caller.tenant(), id).await?.ok_or(NO_RECEIVED)?;
    let need = u64::try_from(size).unwrap_or(0).saturating_mul(copies);
    let reservation = api.responses.reserve(Some(caller.requester()), need).await?;
    let raw = messages::raw(&api.db, caller.tenant(), id).await?.ok_or(NO_RECEIVED)?;
    Ok((raw, reservation))
}

fn respond(headers: impl axum::response::IntoResponseParts, bytes: Vec<u8>, reservation: Reservation) -> Response {
    reservation.shrink(bytes.len() as u64);
    let body = Body::from(response::with_reservation(bytes, Arc::new(reservation)));
    response::mark_reserved((headers, body).into_response())
}
