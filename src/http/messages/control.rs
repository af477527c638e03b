//! Cancels, reschedules and retries messages.

use std::collections::HashSet;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::read::view::{Message, MessageState, RecipientState};
use super::read::{load_row, load_view};
use crate::accept::request::{self, Context};
use crate::db::messages;
use crate::db::messages::actions::Requeued;
use crate::domain::delivery::Status;
use crate::domain::id::MessageId;
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::request::params::PathId;
use crate::http::{Api, ApiError, AuthErrors, JsonErrors, MessageErrors, ProblemCode};

/// Reads the state of a message.
async fn state(api: &Api, caller: &Caller, id: MessageId) -> Result<MessageState, ApiError> {
    load_view(api, caller, id).await.map(MessageState::from)
}

/// The result of canceling a message.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = CanceledMessage)]
pub struct CancelResult {
    /// Addresses that this call canceled.
    #[schema(example = json!(["ann@example.test"]))]
    pub canceled: Vec<String>,
    /// Addresses that were in flight or already in an end state.
    #[schema(example = json!(["bo@example.test"]))]
    pub too_late: Vec<String>,
    /// The message after this call.
    pub message: MessageState,
}

/// Cancel a message
///
/// Cancels all recipients that are not in flight; the response lists those that were too late. A message that was sent from SQL can be
/// canceled before it is accepted, too; if it is just being accepted, returns 409 `not_accepted`, and the call can be repeated after
/// `Retry-After`.
#[utoipa::path(
    post, path = "/v1/messages/{id}/cancel", tag = "messages", operation_id = "cancel_message",
    params(("id" = String, Path, description = "The id of the message")),
    responses(
        (status = 200, description = "The canceled and the remaining addresses", body = CancelResult),
        AuthErrors, MessageErrors,
    ),
)]
pub async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<MessageId>,
) -> Result<Json<CancelResult>, ApiError> {
    caller.require(Scope::Send)?;
    cancel_recipients(&api, &caller, id).await.map(Json)
}

/// Cancels all recipients of a message that are not in flight.
pub(in crate::http) async fn cancel_recipients(
    api: &Api,
    caller: &Caller,
    id: MessageId,
) -> Result<CancelResult, ApiError> {
    let canceled_ids = cancel_waiting(api, caller, id).await?;
    let message = state(api, caller, id).await?;
    let (canceled, rest): (Vec<_>, Vec<_>) =
        message.recipients.iter().partition(|recipient| canceled_ids.contains(&recipient.id.0));
    let addresses =
        |recipients: Vec<&RecipientState>| recipients.into_iter().map(|recipient| recipient.address.clone()).collect();
    // A recipient canceled by an earlier call is not too late.
    let late = rest.into_iter().filter(|recipient| recipient.status != Status::Canceled).collect();
    let result = CancelResult { canceled: addresses(canceled), too_late: addresses(late), message };
    // Without the addresses, which are in the message.
    let counts = json!({"canceled": result.canceled.len(), "too_late": result.too_late.len()});
    caller.note_after(&id, &counts);
    Ok(result)
}

/// Cancels the recipients that are not in flight, also of a message that was sent from SQL and is not accepted yet. Returns them.
async fn cancel_waiting(api: &Api, caller: &Caller, id: MessageId) -> Result<HashSet<Uuid>, ApiError> {
    let (tenant, now) = (caller.tenant(), api.clock.now());
    match load_row(api, caller, id).await {
        Err(ApiError::Conflict { code: ProblemCode::NotAccepted, .. }) => {
            // Boxed, because the future is large.
            if let Some(canceled) = Box::pin(api.acceptor.cancel_enqueued(tenant, id, now)).await? {
                return Ok(canceled.into_iter().map(|recipient| recipient.0).collect());
            }
            // It is being accepted, or was accepted or rejected meanwhile.
            load_row(api, caller, id).await?
        }
        found => found?,
    };
    Ok(messages::actions::cancel(&api.db, tenant, id, now).await?.into_iter().collect())
}

/// The new time of a scheduled message.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RescheduleBody)]
pub struct Reschedule {
    /// The new time (RFC 3339). A time in the past means now.
    #[schema(example = "2026-12-01T09:00:00Z")]
    pub scheduled_at: DateTime<Utc>,
}

/// Reschedule a message
///
/// Changes the `scheduled_at` of a message that waits for it.
#[utoipa::path(
    patch, path = "/v1/messages/{id}", tag = "messages", operation_id = "reschedule_message",
    params(("id" = String, Path, description = "The id of the message")),
    request_body = Reschedule,
    responses(
        (status = 200, description = "The updated message", body = MessageState),
        AuthErrors, MessageErrors, JsonErrors,
        (status = 409, description = "The message is not waiting for its `scheduled_at`, or it was sent from SQL, and is not accepted yet or was rejected"),
    ),
)]
pub async fn reschedule(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<MessageId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<MessageState>, ApiError> {
    caller.require(Scope::Send)?;
    let message = load_view(&api, &caller, id).await?;
    let body = api.bodies.json(&headers, body).await?;
    move_to(&api, &caller, &message, &body.bytes).await?;
    state(&api, &caller, id).await.map(Json)
}

/// Changes the `scheduled_at` of a message to that of a request's body.
pub(in crate::http) async fn move_to(
    api: &Api,
    caller: &Caller,
    message: &Message,
    body: &[u8],
) -> Result<(), ApiError> {
    let (id, now) = (message.id, api.clock.now());
    let context = Context::new(now, &api.limits, &[]);
    let at = request::message::reschedule::parse(body, message.expires_at, &context)?;
    if !messages::actions::reschedule(&api.db, caller.tenant(), id, at, now).await? {
        return Err(ApiError::Conflict {
            code: ProblemCode::NotScheduled,
            detail: "No recipient of this message is waiting for its `scheduled_at`.".into(),
            retry_after: None,
        });
    }
    let scheduled = |at: Option<DateTime<Utc>>| json!({"scheduled_at": at});
    caller.note_change(&id, &scheduled(message.scheduled_at), &scheduled(Some(at)));
    api.acceptor.wake();
    Ok(())
}

/// Retry a message now
///
/// Makes these recipients due now: deferred ones, held ones, those that could not be prepared, and those that are
/// `uncertain` with `on_uncertain: hold`. Other recipients do not change. If there is no such recipient and an attempt
/// is in progress, returns 409 `in_flight`. An unreachable destination is probed at once. Paused lanes and streams stay
/// paused.
#[utoipa::path(
    post, path = "/v1/messages/{id}/retry", tag = "messages", operation_id = "retry_message",
    params(("id" = String, Path, description = "The id of the message")),
    responses(
        (status = 200, description = "The updated message", body = MessageState),
        AuthErrors, MessageErrors,
        (status = 409, description = "No recipient is deferred or held (`nothing_to_retry`), an attempt is in progress (`in_flight`), or the message was sent from SQL, and is not accepted yet or was rejected"),
    ),
)]
pub async fn retry(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<MessageId>,
) -> Result<Json<MessageState>, ApiError> {
    caller.require(Scope::Send)?;
    let now = api.clock.now();
    let message = load_view(&api, &caller, id).await?;
    let is_deleted = message.content_deleted_at.is_some();
    let mut due = messages::actions::retry(&api.db, caller.tenant(), id, now).await?.len();
    due += requeue_uncertain(&api, &caller, id, &message).await?;
    let message = state(&api, &caller, id).await?;
    if due == 0 {
        return Err(nothing_to_retry(&message, is_deleted));
    }
    caller.note_after(&id, &json!({"due_now": due}));
    api.acceptor.wake();
    Ok(Json(message))
}

fn nothing_to_retry(message: &MessageState, is_deleted: bool) -> ApiError {
    let in_flight = message.recipients.iter().any(|recipient| recipient.status == Status::Sending);
    let (code, detail) = if in_flight {
        (ProblemCode::InFlight, "An attempt of this message is in progress.")
    } else if is_deleted {
        (ProblemCode::NothingToRetry, "The content of this message was deleted, so it cannot be sent again.")
    } else {
        (
            ProblemCode::NothingToRetry,
            "No recipient of this message is deferred or held; see `GET /v1/messages/{id}/explain` for its state.",
        )
    };
    ApiError::Conflict { code, detail: detail.into(), retry_after: None }
}

/// Queues `uncertain` recipients again if the message has `on_uncertain: hold`. Returns their number.
async fn requeue_uncertain(api: &Api, caller: &Caller, id: MessageId, message: &Message) -> Result<usize, ApiError> {
    if message.on_uncertain != "hold" || message.content_deleted_at.is_some() {
        return Ok(0);
    }
    let mut requeued = Vec::new();
    let domain_of = |address: &str| address.rsplit_once('@').map_or("", |(_, domain)| domain).to_owned();
    let from = domain_of(&message.from.email);
    for recipient in message.recipients.iter().filter(|recipient| recipient.status == Status::Uncertain) {
        let to = domain_of(&recipient.address);
        let lane_id = api.acceptor.lane(caller.tenant(), &message.stream, &from, &to).await?;
        requeued.push(Requeued { recipient_id: recipient.id.0, lane_id });
    }
    if requeued.is_empty() {
        return Ok(0);
    }
    Ok(messages::actions::requeue_uncertain(&api.db, caller.tenant(), id, &requeued, api.clock.now()).await?.len())
}
