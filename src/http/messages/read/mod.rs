//! `GET /v1/messages/{id}` and its events.

pub(in crate::http) mod attempts;
pub(in crate::http) mod explain;
pub(in crate::http) mod list;
pub(in crate::http) mod rejected;
pub(in crate::http) mod view;

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use chrono::TimeDelta;
use uuid::Uuid;

use crate::db::events::bounces;
use crate::db::messages::{MessageRow, RecipientRow};
use crate::db::{self, DbError, messages};
use crate::domain::delivery::Status;
use crate::domain::event::{BounceView, Event};
use crate::domain::id::{MessageId, TenantId};
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::page::Page;
use crate::http::request::params::{Params, PathId};
use crate::http::{Api, ApiError, AuthErrors, InvalidParameter, MessageErrors};
use view::Message;

pub(super) const NO_MESSAGE: ApiError = ApiError::NotFound("No message has this id.");

/// Get a message
///
/// Returns the message with its status and the state of each recipient.
#[utoipa::path(
    get, path = "/v1/messages/{id}", tag = "messages", operation_id = "get_message",
    params(("id" = String, Path, description = "The id of the message")),
    responses(
        (status = 200, description = "The message", body = Message),
        AuthErrors, MessageErrors,
    ),
)]
pub async fn get(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<MessageId>,
) -> Result<Json<Message>, ApiError> {
    caller.require(Scope::Metadata)?;
    let message = load_view(&api, &caller, id).await?;
    let attachments = messages::attachments(&api.db, caller.tenant(), id).await?.unwrap_or_default();
    // Omits the attachments if this version cannot parse them.
    Ok(Json(message.with_attachments(serde_json::from_value(attachments).unwrap_or_default())))
}

/// Reads a message with `read`, which returns it or a part of it; `sender` returns its sender's address. Fails if it does not exist for the
/// caller, and says so if it was sent from SQL and is not accepted. Every call for one message begins with this function.
pub(super) async fn find_visible<T, F>(
    api: &Api,
    caller: &Caller,
    id: MessageId,
    read: impl Fn() -> F,
    sender: impl Fn(&T) -> &str,
) -> Result<T, ApiError>
where
    F: Future<Output = Result<Option<T>, DbError>>,
{
    let mut found = read().await?;
    if found.is_none() {
        if let Some(error) = rejected::find(api, caller, id).await? {
            return Err(error);
        }
        // It may have been accepted meanwhile.
        found = read().await?;
    }
    found.filter(|found| caller.can_see(sender(found))).ok_or(NO_MESSAGE)
}

/// Reads a message's row; fails as [`find_visible`].
pub(in crate::http) async fn load_row(api: &Api, caller: &Caller, id: MessageId) -> Result<MessageRow, ApiError> {
    let read = || messages::get(&api.db, caller.tenant(), id);
    find_visible(api, caller, id, read, |row| &row.from_address).await
}

/// Reads a message with its recipients.
pub(in crate::http) async fn load_view(api: &Api, caller: &Caller, id: MessageId) -> Result<Message, ApiError> {
    let row = load_row(api, caller, id).await?;
    let recipients = messages::recipients(&api.db, caller.tenant(), &[id.0], api.clock.now()).await?;
    let bounces = load_bounces(api, caller.tenant(), &recipients).await?;
    Ok(Message::from_row(row, recipients, &bounces))
}

/// Reads the bounce classifications of bounced recipients, by recipient id.
pub(super) async fn load_bounces(
    api: &Api,
    tenant: TenantId,
    recipients: &[RecipientRow],
) -> Result<HashMap<Uuid, BounceView>, ApiError> {
    let bounced = recipients.iter().filter(|row| row.status == Status::Bounced.as_str());
    let messages: Vec<Uuid> = bounced.map(|row| row.message_id).collect();
    Ok(bounces::of_messages(&api.db, tenant, &messages).await?)
}

/// List events of a message
///
/// Returns the message's events, oldest first; one event per attempt.
#[utoipa::path(
    get, path = "/v1/messages/{id}/events", tag = "messages", operation_id = "list_message_events",
    params(
        ("id" = String, Path, description = "The id of the message"),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 100, description = "Page size; defaults to 20"),
        ("after" = Option<i64>, Query, minimum = 0, description = "Cursor: only events with a higher `seq`; pass the `next` value of the previous page"),
    ),
    responses(
        (status = 200, description = "A page of events", body = Page<Event>),
        AuthErrors, MessageErrors, InvalidParameter,
    ),
)]
pub async fn events(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<MessageId>,
    mut params: Params,
) -> Result<Json<Page<Event>>, ApiError> {
    caller.require(Scope::Metadata)?;
    let limit = params.limit();
    let after = params.read("after", "Pass the `next` value of the previous page.", |text| {
        text.parse().ok().filter(|seq: &i64| *seq >= 0)
    });
    params.finish()?;
    let message = load_row(&api, &caller, id).await?;
    // Allows for clocks of replicas that differ by up to a day.
    let since = message.created_at - TimeDelta::days(1);
    let rows = db::events::of_message(&api.db, caller.tenant(), id, since, after.unwrap_or(0), limit + 1).await?;
    Ok(Json(Page::new(rows, limit, |row| row.seq.to_string(), Event::from)))
}
