//! `POST /v1/messages/{id}/redact`.

use axum::Json;
use axum::extract::State;
use serde_json::json;

use super::read::view::Message;
use super::read::{load_row, load_view};
use crate::db::messages::actions::redact::{self, Redacted};
use crate::domain::id::MessageId;
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::request::params::PathId;
use crate::http::{Api, ApiError, AuthErrors, MessageErrors, ProblemCode};

/// Redact a message
///
/// Erases the message's subject, display names, reply-to addresses, headers, bodies, attachments, template variables, tags and metadata, the
/// texts of replies, and its SMTP conversations. Addresses, states and events are kept. Only for messages of which each recipient has reached
/// an end state; cancel others first. The content that the messages of a bulk share is not erased. A repeated call changes nothing.
#[utoipa::path(
    post, path = "/v1/messages/{id}/redact", tag = "messages", operation_id = "redact_message",
    params(("id" = String, Path, description = "The id of the message")),
    responses(
        (status = 200, description = "The redacted message", body = Message),
        AuthErrors, MessageErrors,
        (status = 409, description = "Recipients of the message are still to be sent to (`not_ended`), or the message was sent from SQL, and is not accepted yet or was rejected"),
    ),
)]
pub async fn redact(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<MessageId>,
) -> Result<Json<Message>, ApiError> {
    caller.require(Scope::Admin)?;
    load_row(&api, &caller, id).await?;
    let redacted = redact::redact(&api.db, caller.tenant(), id, api.clock.now()).await?;
    if redacted == Redacted::NotEnded {
        return Err(ApiError::Conflict {
            code: ProblemCode::NotEnded,
            detail: "Recipients of this message are still to be sent to; cancel it first with `POST /v1/messages/{id}/cancel`.".into(),
            retry_after: None,
        });
    }
    caller.note_after(&id, &json!({"redacted": redacted == Redacted::Done}));
    load_view(&api, &caller, id).await.map(Json)
}
