//! `GET /v1/messages/{id}/attempts`: the attempts at a message, with their SMTP conversations.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::load_row;
use crate::db::queue::conversations::{self, AttemptRow};
use crate::domain::delivery::conversation::{Conversation, Line};
use crate::domain::event::EventType;
use crate::domain::explain::SmtpReply;
use crate::domain::id::{MessageId, RecipientId};
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::page::Page;
use crate::http::request::params::{Params, PathId};
use crate::http::{Api, ApiError, AuthErrors, InvalidParameter, MessageErrors};

/// An attempt at one recipient.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = MessageAttempt)]
pub struct AttemptView {
    /// The `seq` of the attempt's event.
    #[schema(example = 124)]
    pub seq: i64,
    /// The time at which the outcome was recorded.
    #[schema(example = "2026-11-24T09:00:00Z")]
    pub timestamp: DateTime<Utc>,
    /// The recipient's id.
    #[schema(value_type = String, example = "rcp_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub recipient_id: RecipientId,
    /// The recipient's address.
    #[schema(example = "ann@example.test")]
    pub recipient: Option<String>,
    /// The attempt's number, from 1.
    #[schema(example = 1)]
    pub attempt: i16,
    /// The event that the attempt led to.
    #[schema(value_type = EventType, example = "message.deferred")]
    pub event: String,
    /// The remote server's reply; null if there is none.
    pub response: Option<SmtpReply>,
    /// The remote server's host name.
    #[schema(example = "mx.example.test")]
    pub mx: Option<String>,
    /// The remote server's IP address.
    #[schema(example = "203.0.113.9")]
    pub ip: Option<String>,
    /// TLS version and cipher; null if the connection was not encrypted.
    #[schema(example = "TLSv1_3 TLS13_AES_256_GCM_SHA384")]
    pub tls: Option<String>,
    /// Duration of the attempt in milliseconds.
    #[schema(example = 312)]
    pub duration_ms: Option<i32>,
    /// The time at which the next attempt is due; null if there is none.
    #[schema(example = "2026-11-24T09:05:00Z")]
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// The SMTP conversation. Null if the attempt succeeded and its lane was not traced, if no connection was tried, or if
    /// it was deleted after its time.
    pub conversation: Option<ConversationView>,
}

/// The SMTP conversation of an attempt, without the message and credentials: at most 100 lines and 8 KiB. It is about all
/// recipients that the attempt had.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = SmtpConversation)]
pub struct ConversationView {
    /// The lines in order. If several servers were tried, those of each.
    pub lines: Vec<LineView>,
    /// The number of lines that were left out because the conversation is too long.
    #[schema(example = 0)]
    pub omitted: u32,
    /// The number of lines before those that were left out.
    #[schema(example = 0)]
    pub omitted_after: usize,
}

/// A line of an SMTP conversation.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = SmtpLine)]
pub struct LineView {
    /// Milliseconds since the start of the connection, or of the message if it used an open connection.
    #[schema(example = 42)]
    pub at_ms: u32,
    /// `>`: sent by Postrider; `<`: sent by the server; `*`: a note of Postrider, such as the address, the TLS version or
    /// an error.
    #[schema(example = ">")]
    pub direction: &'static str,
    /// The text, without the line end.
    #[schema(example = "RCPT TO:<ann@example.test>")]
    pub text: String,
}

/// List attempts of a message
///
/// Returns the attempts at all recipients, oldest first, with what was sent and received. The conversations of failed
/// attempts are kept for a while (`retention.conversations`); those of successful attempts only if the lane is traced:
/// see `POST /v1/lanes/{id}/trace`.
#[utoipa::path(
    get, path = "/v1/messages/{id}/attempts", tag = "messages", operation_id = "list_message_attempts",
    params(
        ("id" = String, Path, description = "The id of the message"),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 100, description = "Page size; defaults to 20"),
        ("after" = Option<i64>, Query, minimum = 0, description = "Cursor: only attempts with a higher `seq`; pass the `next` value of the previous page"),
    ),
    responses(
        (status = 200, description = "A page of attempts", body = Page<AttemptView>),
        AuthErrors, MessageErrors, InvalidParameter,
    ),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<MessageId>,
    mut params: Params,
) -> Result<Json<Page<AttemptView>>, ApiError> {
    caller.require(Scope::Metadata)?;
    let limit = params.limit();
    let after = params.read("after", "Pass the `next` value of the previous page.", |text| {
        text.parse().ok().filter(|seq: &i64| *seq >= 0)
    });
    params.finish()?;
    let message = load_row(&api, &caller, id).await?;
    // Allows for clocks of replicas that differ by up to a day.
    let since = message.created_at - TimeDelta::days(1);
    let page = (after.unwrap_or(0), limit + 1);
    let rows = conversations::attempts(&api.db, caller.tenant(), id, since, page).await?;
    Ok(Json(Page::new(rows, limit, |row| row.seq.to_string(), AttemptView::from)))
}

impl From<AttemptRow> for AttemptView {
    fn from(row: AttemptRow) -> Self {
        // A later version may store more.
        let conversation = row.conversation.and_then(|stored| serde_json::from_value::<Conversation>(stored).ok());
        Self {
            seq: row.seq,
            timestamp: row.recorded_at,
            recipient_id: RecipientId(row.recipient_id),
            recipient: row.address,
            attempt: row.attempt,
            event: row.kind,
            response: SmtpReply::from_row(row.response_code, row.response_enhanced, row.response_text),
            mx: row.mx,
            ip: row.ip,
            tls: row.tls,
            duration_ms: row.duration_ms,
            next_attempt_at: row.next_attempt_at,
            conversation: conversation.map(ConversationView::from),
        }
    }
}

impl From<Conversation> for ConversationView {
    fn from(conversation: Conversation) -> Self {
        let line = |Line(at_ms, direction, text): Line| LineView { at_ms, direction: direction.as_str(), text };
        Self {
            lines: conversation.lines.into_iter().map(line).collect(),
            omitted: conversation.omitted,
            omitted_after: conversation.omitted_after,
        }
    }
}
