//! `POST /v1/messages/actions`, and `/v1/actions`: cancels, retries or releases all recipients that match a filter.

pub mod control;
pub mod read;
mod view;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};

use super::read::list::template_id;
use crate::accept::background::actions::CLOCK_DIFFERENCE;
use crate::accept::request::Context;
use crate::accept::request::resources::operations::action::{self, ActionRequest};
use crate::db::messages::actions::jobs::NewAction;
use crate::db::messages::actions::select::Selection;
use crate::domain::id::ActionId;
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::located::with_location;
use crate::http::{Api, ApiError, AuthErrors, JsonErrors};

use view::{ActionBody, ActionPreview, ActionView};

/// Act on many messages
///
/// Cancels, retries or releases all queued recipients that match the filter, of messages that were accepted before this
/// request. With `"dry_run": true`, the response is the number of recipients that match, and nothing changes; otherwise an
/// action is stored, which works in the background and survives restarts: `GET /v1/actions/{id}` returns its progress.
///
/// Recipients that are being sent do not change and are counted as `skipped`. Each recipient gets the same events as by the
/// call for a single message. A key with `sender_domains` acts only on messages from these domains.
#[utoipa::path(
    post, path = "/v1/messages/actions", tag = "actions", operation_id = "create_action",
    request_body = ActionBody,
    responses(
        (status = 200, description = "The result of a dry run", body = ActionPreview),
        (status = 202, description = "The action", body = ActionView,
         headers(("Location" = String, description = "The path of the action"))),
        AuthErrors, JsonErrors,
        (status = 422, description = "Invalid request; `errors` lists every fault. `required` for `/filter`: a filter without fields needs `\"all\": true`"),
    ),
)]
pub async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    caller.require(Scope::Send)?;
    let body = api.bodies.json(&headers, body).await?;
    let request = parse(&api, &caller, &body.bytes).await?;
    if request.is_dry_run {
        let preview = preview(&api, &caller, request).await?;
        caller.note_result(&preview);
        return Ok(Json(preview).into_response());
    }
    let view = start(&api, &caller, &request).await?;
    caller.note_after(&view.id, &view);
    Ok(with_location(format!("/v1/actions/{}", view.id), (StatusCode::ACCEPTED, Json(view))))
}

async fn parse(api: &Api, caller: &Caller, body: &[u8]) -> Result<ActionRequest, ApiError> {
    let streams = api.acceptor.streams(caller.tenant()).await?;
    let mut request = action::parse(body, &Context::new(api.clock.now(), &api.limits, &streams))?;
    if let Some(name) = request.template.take() {
        request.filter.template = Some(template_id(api, caller, &name, "/filter/template").await?);
    }
    Ok(request)
}

async fn preview(api: &Api, caller: &Caller, request: ActionRequest) -> Result<ActionPreview, ApiError> {
    let _permit = api.slow_queries.acquire(caller.requester()).await?;
    let now = api.clock.now();
    let selection = selection(caller, &request, now);
    let count = api.acceptor.count_matching(&selection, now).await?;
    Ok(ActionPreview::new(request.kind, request.filter, count))
}

fn selection<'a>(caller: &'a Caller, request: &'a ActionRequest, now: DateTime<Utc>) -> Selection<'a> {
    Selection {
        tenant: caller.tenant(),
        kind: request.kind,
        filter: &request.filter,
        sender_domains: caller.sender_domains(),
        accepted_before: now + CLOCK_DIFFERENCE,
    }
}

async fn start(api: &Api, caller: &Caller, request: &ActionRequest) -> Result<ActionView, ApiError> {
    let now = api.clock.now();
    let id = ActionId::new(now);
    let action = NewAction {
        id,
        tenant: caller.tenant(),
        created_at: now,
        key: caller.key_id(),
        kind: request.kind,
        filter: &request.filter,
        sender_domains: caller.sender_domains(),
    };
    api.acceptor.start_action(&action).await?;
    let kind = request.kind.as_str();
    tracing::info!(event = "message_action_started", by = %caller.key_id(), action = %id, kind, "started an action on messages");
    read::load(api, caller, id).await
}
