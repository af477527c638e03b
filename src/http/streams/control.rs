//! Creates, updates, pauses and resumes streams.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::read::load_view;
use super::view::{NewStreamBody, StreamChangeBody, StreamView};
use super::{NO_STREAM, StreamName};
use crate::accept::request;
use crate::config::period_text;
use crate::db::changes::{Outdated, TenantSettings};
use crate::db::lanes::pauses;
use crate::db::streams;
use crate::domain::api::fault::{Code, Fault};
use crate::domain::key::Scope;
use crate::domain::limits::StreamChange;
use crate::http::auth::Caller;
use crate::http::lanes::control::PauseBody;
use crate::http::located::with_location;
use crate::http::{Api, ApiError, AuthErrors, JsonErrors, NotFound, ProblemCode};

/// Create a stream
///
/// This replica accepts messages for the stream at once, other replicas within a second. A stream
/// cannot be deleted, since messages refer to it; an unused stream costs nothing.
#[utoipa::path(
    post, path = "/v1/streams", tag = "streams", operation_id = "create_stream",
    request_body = NewStreamBody,
    responses(
        (status = 201, description = "The stream", body = StreamView,
         headers(("Location" = String, description = "The path of the stream"))),
        AuthErrors, JsonErrors,
        (status = 409, description = "A stream with this name already exists"),
    ),
)]
pub async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    caller.require_live_admin("the settings of streams")?;
    let body = api.bodies.json(&headers, body).await?;
    let (name, settings) = request::resources::stream::parse(&body.bytes)?;
    check_links(&api, &settings)?;
    check_retention(&api, &settings)?;
    if !streams::create(&api.db, caller.tenant(), &name, settings, api.clock.now()).await? {
        return Err(ApiError::Conflict {
            code: ProblemCode::StreamExists,
            detail: format!("A stream named `{name}` already exists; update it with PATCH /v1/streams/{name}."),
            retry_after: None,
        });
    }
    api.forget(Outdated::Settings(caller.tenant(), TenantSettings::Streams));
    tracing::info!(event = "stream_created", by = %caller.key_id(), stream = name, "created a stream");
    let view = load_view(&api, caller.tenant(), &name).await?;
    caller.note_after(&name, &view);
    Ok(with_location(format!("/v1/streams/{name}"), (StatusCode::CREATED, Json(view))))
}

/// Update a stream
///
/// `null` resets a setting to its configured default, except for `priority`, `weight` and `unsubscribe`, which cannot
/// be null; omitted fields keep their value. A new priority also applies to waiting messages.
#[utoipa::path(
    patch, path = "/v1/streams/{name}", tag = "streams", operation_id = "update_stream",
    params(("name" = String, Path, description = "The name of the stream")),
    request_body = StreamChangeBody,
    responses((status = 200, description = "The updated stream", body = StreamView), AuthErrors, NotFound, JsonErrors),
)]
pub async fn change(
    State(api): State<Api>,
    caller: Caller,
    StreamName(name): StreamName,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<StreamView>, ApiError> {
    caller.require_live_admin("the settings of streams")?;
    let body = api.bodies.json(&headers, body).await?;
    let change = request::resources::stream::parse_change(&body.bytes)?;
    check_links(&api, &change)?;
    check_retention(&api, &change)?;
    let before = load_view(&api, caller.tenant(), &name).await?;
    let found = streams::change(&api.db, caller.tenant(), &name, change, api.clock.now()).await?;
    api.forget(Outdated::Settings(caller.tenant(), TenantSettings::Streams));
    respond(&api, &caller, &name, &before, found).await
}

/// Pause a stream
///
/// Messages are still accepted and queued, and attempts in flight are finished. The retry window does not run while the
/// stream is paused, but a message's `expires_at` still applies.
#[utoipa::path(
    post, path = "/v1/streams/{name}/pause", tag = "streams", operation_id = "pause_stream",
    params(("name" = String, Path, description = "The name of the stream")),
    request_body = Option<PauseBody>,
    responses((status = 200, description = "The updated stream", body = StreamView), AuthErrors, NotFound, JsonErrors),
)]
pub async fn pause(
    State(api): State<Api>,
    caller: Caller,
    StreamName(name): StreamName,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<StreamView>, ApiError> {
    caller.require(Scope::Admin)?;
    let body = api.bodies.json(&headers, body).await?;
    let reason = request::resources::operations::pause::parse(&body.bytes)?;
    let now = api.clock.now();
    let before = load_view(&api, caller.tenant(), &name).await?;
    let found = streams::pause(&api.db, caller.tenant(), &name, reason.as_deref(), now).await?;
    respond(&api, &caller, &name, &before, found).await
}

/// Resume a stream
///
/// Removes the pause. Paused lanes of the stream stay paused.
#[utoipa::path(
    post, path = "/v1/streams/{name}/resume", tag = "streams", operation_id = "resume_stream",
    params(("name" = String, Path, description = "The name of the stream")),
    responses((status = 200, description = "The updated stream", body = StreamView), AuthErrors, NotFound),
)]
pub async fn resume(
    State(api): State<Api>,
    caller: Caller,
    StreamName(name): StreamName,
) -> Result<Json<StreamView>, ApiError> {
    caller.require(Scope::Admin)?;
    let before = load_view(&api, caller.tenant(), &name).await?;
    let found = pauses::resume_stream(&api.db, caller.tenant(), &name, api.clock.now()).await?;
    respond(&api, &caller, &name, &before, found).await
}

/// Refuses a period for content that is longer than that of messages, with which it is deleted.
fn check_retention(api: &Api, settings: &StreamChange) -> Result<(), ApiError> {
    let (content, messages) = (settings.content_retention.value(), api.periods.messages);
    let is_longer = content.is_some_and(|seconds| f64::from(seconds) > messages.seconds());
    if !is_longer {
        return Ok(());
    }
    let messages = period_text(messages);
    let message =
        format!("must not be longer than messages are kept (`retention.messages`, {messages}); or use `forever`");
    Err(ApiError::Invalid(vec![Fault {
        pointer: "/content_retention".into(),
        code: Code::InvalidValue.as_str(),
        message,
    }]))
}

/// Fails if `unsubscribe` is set but links are not configured: messages would wait until they are.
fn check_links(api: &Api, change: &StreamChange) -> Result<(), ApiError> {
    if change.unsubscribe != Some(true) || api.links.is_some() {
        return Ok(());
    }
    Err(ApiError::Invalid(vec![Fault {
        pointer: "/unsubscribe".into(),
        code: Code::NotConfigured.as_str(),
        message:
            "unsubscribe links require `public_url` (POSTRIDER_PUBLIC_URL) and `secret_key` (POSTRIDER_SECRET_KEY) \
                  in the configuration of every process"
                .into(),
    }]))
}

/// Wakes the workers and returns the updated stream, which was `before`.
async fn respond(
    api: &Api,
    caller: &Caller,
    name: &str,
    before: &StreamView,
    found: bool,
) -> Result<Json<StreamView>, ApiError> {
    if !found {
        return Err(NO_STREAM);
    }
    api.acceptor.wake();
    tracing::info!(event = "stream_changed", by = %caller.key_id(), stream = name, "changed a stream");
    let after = load_view(api, caller.tenant(), name).await?;
    caller.note_change(&name, before, &after);
    Ok(Json(after))
}
