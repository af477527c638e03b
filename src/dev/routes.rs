//! The HTTP API of the inbox, in `postrider dev` and `postrider inbox` only. Tests use it instead of a mailbox.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::time::Instant;
use utoipa::IntoParams;
use utoipa::openapi::OpenApi as Document;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::inbox::{Filter, Inbox, InboxError, InboxMail, Page};
use crate::domain::api::binary::Binary;
use crate::domain::api::fault::{Code, Fault};

/// Default number of messages per page.
const DEFAULT_LIMIT: usize = 20;
/// Maximum number of messages per page.
const MAX_LIMIT: usize = 100;
/// Maximum wait for a message, in seconds.
const MAX_WAIT: u64 = 60;

/// Returns all routes of the inbox.
fn routes() -> OpenApiRouter<Arc<Inbox>> {
    OpenApiRouter::new()
        .routes(routes!(list, clear))
        .routes(routes!(latest))
        .routes(routes!(get, delete))
        .routes(routes!(raw))
        .routes(routes!(attachment))
}

/// Returns the routes, to be merged with others.
pub fn router(inbox: Arc<Inbox>) -> Router {
    Router::from(routes()).with_state(inbox)
}

/// Returns the OpenAPI document of these routes.
pub fn document() -> Document {
    routes().into_openapi()
}

/// The query of the list of messages.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Messages in the page, 1 to 100; 20 by default.
    #[param(minimum = 1, maximum = 100, example = 20)]
    limit: Option<usize>,
    /// Only messages with a number below this one: the `next` of the previous page.
    #[param(example = 21)]
    before: Option<u64>,
    /// Only messages to this recipient. A value with `@` matches a whole address, a value without `@` any part of an
    /// address.
    #[param(example = "ann@example.test")]
    to: Option<String>,
    /// Only messages from this sender. A value with `@` matches the whole address in the `From` header, a value without
    /// `@` any part of the header.
    #[param(example = "billing@acme.test")]
    from: Option<String>,
    /// Only messages whose subject contains this; letter case does not matter.
    #[param(example = "invoice")]
    subject: Option<String>,
    /// Only messages whose subject, `From` header or recipients contain this; letter case does not matter.
    #[param(example = "acme")]
    q: Option<String>,
    /// Only messages with a number above this one.
    #[param(example = 1)]
    after: Option<u64>,
    /// Seconds to wait if no message matches yet, at most 60; 0 by default. Ignored with `before`.
    #[param(maximum = 60, example = 10)]
    wait: Option<u64>,
}

/// The query for the newest message.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct LatestQuery {
    /// Only messages to this recipient. A value with `@` matches a whole address, a value without `@` any part of an
    /// address.
    #[param(example = "ann@example.test")]
    to: Option<String>,
    /// Only messages from this sender. A value with `@` matches the whole address in the `From` header, a value without
    /// `@` any part of the header.
    #[param(example = "billing@acme.test")]
    from: Option<String>,
    /// Only messages whose subject contains this; letter case does not matter.
    #[param(example = "invoice")]
    subject: Option<String>,
    /// Only messages with a number above this one.
    #[param(example = 1)]
    after: Option<u64>,
    /// Seconds to wait if no message matches yet, at most 60; 0 by default.
    #[param(maximum = 60, example = 10)]
    wait: Option<u64>,
}

/// The query for one message.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct GetQuery {
    /// Seconds to wait for a message that has not arrived yet, at most 60; 0 by default.
    #[param(maximum = 60, example = 10)]
    wait: Option<u64>,
}

/// List messages in the inbox
///
/// Returns the messages, newest first.
#[utoipa::path(
    get, path = "/v1/dev/inbox", tag = "dev", operation_id = "list_inbox", params(ListQuery),
    responses(
        (status = 200, description = "One page of messages", body = Page),
        (status = 422, description = "Invalid query parameter"),
    ),
)]
async fn list(
    State(inbox): State<Arc<Inbox>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Page>, InboxError> {
    let ListQuery { limit, before, to, from, subject, q, after, wait } = read(query)?;
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(invalid("limit", format!("Pass a number from 1 to {MAX_LIMIT}.")));
    }
    let filter = Filter { to, from, subject, after, any: q };
    let wait = wait_time(wait)?;
    // No new message can appear on a page of older messages, so there is nothing to wait for.
    if before.is_none() {
        inbox.wait(&filter, Instant::now() + wait).await;
    }
    Ok(Json(inbox.list(limit, before, &filter)))
}

/// Read the newest message
///
/// Returns the newest message that matches the parameters, in full. With `wait`, the request waits until there is one,
/// so that a test needs no loop.
#[utoipa::path(
    get, path = "/v1/dev/inbox/latest", tag = "dev", operation_id = "get_latest_inbox_message", params(LatestQuery),
    responses(
        (status = 200, description = "The message", body = InboxMail),
        (status = 404, description = "Not found"),
        (status = 422, description = "Invalid query parameter"),
    ),
)]
async fn latest(
    State(inbox): State<Arc<Inbox>>,
    query: Result<Query<LatestQuery>, QueryRejection>,
) -> Result<Json<InboxMail>, InboxError> {
    let LatestQuery { to, from, subject, after, wait } = read(query)?;
    let filter = Filter { to, from, subject, after, any: None };
    let wait = wait_time(wait)?;
    inbox.wait(&filter, Instant::now() + wait).await;
    let found = inbox.list(1, None, &filter).data.first().map(|summary| summary.n).ok_or(InboxError::NoMatch)?;
    Ok(Json(inbox.get(found).await?))
}

pub(super) fn read<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, InboxError> {
    query.map(|Query(query)| query).map_err(|rejection| invalid("query", rejection.body_text()))
}

pub(super) fn invalid(pointer: &str, message: String) -> InboxError {
    InboxError::Query(Fault { pointer: pointer.to_owned(), code: Code::InvalidValue.as_str(), message })
}

/// Parses `wait`.
pub(super) fn wait_time(seconds: Option<u64>) -> Result<Duration, InboxError> {
    match seconds.unwrap_or(0) {
        seconds @ 0..=MAX_WAIT => Ok(Duration::from_secs(seconds)),
        _ => Err(invalid("wait", format!("Pass a number of seconds from 0 to {MAX_WAIT}."))),
    }
}

/// Read a message
///
/// Returns the message's envelope, headers, text, HTML and attachments.
#[utoipa::path(
    get, path = "/v1/dev/inbox/{n}", tag = "dev", operation_id = "get_inbox_message",
    params(("n" = u64, Path, description = "The message's number"), GetQuery),
    responses(
        (status = 200, description = "The message", body = InboxMail),
        (status = 404, description = "Not found"),
        (status = 422, description = "Invalid query parameter"),
    ),
)]
async fn get(
    State(inbox): State<Arc<Inbox>>,
    Path(n): Path<String>,
    query: Result<Query<GetQuery>, QueryRejection>,
) -> Result<Json<InboxMail>, InboxError> {
    let (n, wait) = (number(&n)?, wait_time(read(query)?.wait)?);
    inbox.wait_for(n, Instant::now() + wait).await;
    Ok(Json(inbox.get(n).await?))
}

/// Delete a message from the inbox
#[utoipa::path(
    delete, path = "/v1/dev/inbox/{n}", tag = "dev", operation_id = "delete_inbox_message",
    params(("n" = u64, Path, description = "The message's number")),
    responses(
        (status = 204, description = "The message is deleted"),
        (status = 404, description = "Not found"),
    ),
)]
async fn delete(State(inbox): State<Arc<Inbox>>, Path(n): Path<String>) -> Result<StatusCode, InboxError> {
    inbox.delete(number(&n)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Read the raw message
#[utoipa::path(
    get, path = "/v1/dev/inbox/{n}/raw", tag = "dev", operation_id = "get_inbox_raw",
    params(("n" = u64, Path, description = "The message's number")),
    responses(
        (status = 200, description = "The raw message", body = inline(Binary), content_type = "message/rfc822"),
        (status = 404, description = "Not found"),
    ),
)]
async fn raw(State(inbox): State<Arc<Inbox>>, Path(n): Path<String>) -> Result<Response, InboxError> {
    let content = inbox.raw(number(&n)?).await?;
    Ok(([(header::CONTENT_TYPE, "message/rfc822"), NO_SNIFFING], content).into_response())
}

/// Download an attachment
#[utoipa::path(
    get, path = "/v1/dev/inbox/{n}/attachments/{i}", tag = "dev", operation_id = "get_inbox_attachment",
    params(
        ("n" = u64, Path, description = "The message's number"),
        ("i" = u64, Path, description = "The attachment's position, counted from 0"),
    ),
    responses(
        (status = 200, description = "The decoded content", body = inline(Binary), content_type = "application/octet-stream"),
        (status = 404, description = "Not found"),
    ),
)]
async fn attachment(
    State(inbox): State<Arc<Inbox>>,
    Path((n, i)): Path<(String, String)>,
) -> Result<Response, InboxError> {
    let i = usize::try_from(number(&i)?).map_err(|_| InboxError::NoNumber)?;
    let file = inbox.attachment(number(&n)?, i).await?;
    let content_type = HeaderValue::from_str(&file.content_type)
        .unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"));
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_DISPOSITION, disposition(file.filename.as_deref())),
        (NO_SNIFFING.0, HeaderValue::from_static(NO_SNIFFING.1)),
    ];
    Ok((headers, file.content).into_response())
}

/// Empty the inbox
///
/// Deletes all messages. Message numbers continue to ascend.
#[utoipa::path(
    delete, path = "/v1/dev/inbox", tag = "dev", operation_id = "clear_inbox",
    responses((status = 204, description = "All messages are deleted")),
)]
async fn clear(State(inbox): State<Arc<Inbox>>) -> Result<StatusCode, InboxError> {
    inbox.clear().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Messages are untrusted, so a browser must not guess that the content of one is an HTML page.
const NO_SNIFFING: (header::HeaderName, &str) = (header::X_CONTENT_TYPE_OPTIONS, "nosniff");

/// Parses a number in a path. Returns "not found" for anything else.
pub(super) fn number(text: &str) -> Result<u64, InboxError> {
    text.parse().map_err(|_| InboxError::NoNumber)
}

/// Returns a `Content-Disposition` that makes the response a download, whatever its type. The name is encoded as in
/// RFC 6266 and RFC 8187.
fn disposition(filename: Option<&str>) -> HeaderValue {
    let encoded = filename.unwrap_or("attachment").bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    });
    HeaderValue::from_str(&format!("attachment; filename*=UTF-8''{encoded}"))
        .unwrap_or_else(|_| HeaderValue::from_static("attachment"))
}
