//! *Message*: why each recipient is in its state, what happened to it, and the content.

mod attempts;
pub(super) mod content;
pub(super) mod view;

use askama::Template;
use axum::Router;
use axum::extract::{Path, Query};
use axum::response::Redirect;
use axum::routing::{get, post};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::{PageResult, render};
use crate::mail::content::Content;
use crate::ui::Ui;
use crate::ui::call::{Listed, Page, segment, with_query};
use crate::ui::error::UiError;
use crate::ui::format::{Clock, bytes, state_text, tone};
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell, redirect_done};
use attempts::Conversation;
use view::{ContentView, File, ShowQuery, Tab, Tabs};

/// Why the content is hidden from a key with the scope `metadata`.
pub(super) const NO_CONTENT: &str = "This key sees messages without their content: that needs the scope `read`.";
/// Maximum number of events that the page shows.
const MAX_EVENTS: usize = 1_000;

pub(super) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/messages/{id}", get(show))
        .route("/ui/messages/{id}/html", get(content::html))
        .route("/ui/messages/{id}/raw", get(content::raw))
        .route("/ui/messages/{id}/attachments/{n}", get(content::attachment))
        .route("/ui/messages/{id}/{action}", post(act))
}

#[derive(Debug, Deserialize)]
#[allow(clippy::struct_field_names, reason = "the name of the field in the API")]
struct Message {
    id: String,
    message_id: String,
    status: String,
    created_at: DateTime<Utc>,
    from: Mailbox,
    subject: String,
    stream: String,
    #[serde(default)]
    tags: Vec<Tag>,
    #[serde(default)]
    metadata: serde_json::Map<String, Value>,
    scheduled_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    size: i64,
    template: Option<UsedTemplate>,
    bulk_id: Option<String>,
    key_id: Option<String>,
    recipients: Vec<Recipient>,
    #[serde(default)]
    attachments: Vec<Attachment>,
}

#[derive(Debug, Deserialize)]
struct Mailbox {
    email: String,
    name: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Tag {
    name: String,
    value: String,
}

#[derive(Debug, Deserialize)]
struct UsedTemplate {
    id: String,
    alias: Option<String>,
    version: i32,
}

#[derive(Debug, Deserialize)]
struct Recipient {
    id: String,
    address: String,
    status: String,
    held: Option<String>,
    finished_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Deserialize)]
struct Attachment {
    filename: String,
    content_type: String,
    size: i64,
}

#[derive(Debug, Deserialize)]
struct Explained {
    recipients: Vec<ExplainedRecipient>,
}

#[derive(Debug, Deserialize)]
struct ExplainedRecipient {
    id: String,
    summary: String,
    estimate: Option<Estimate>,
    unblock: Vec<Remedy>,
    lane: Option<Lane>,
    gives_up_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Deserialize)]
struct Estimate {
    at: Option<DateTime<Utc>>,
    explanation: String,
}

#[derive(Debug, Deserialize)]
struct Remedy {
    action: String,
}

#[derive(Debug, Deserialize)]
struct Lane {
    id: Option<String>,
    stream: String,
    route: String,
    domain: String,
    state: String,
}

#[derive(Debug, Deserialize)]
struct Event {
    seq: i64,
    #[serde(rename = "type")]
    kind: String,
    timestamp: DateTime<Utc>,
    data: EventData,
    /// The SMTP conversation of the attempt that led to the event, if it was kept.
    #[serde(skip)]
    conversation: Option<Conversation>,
}

#[derive(Debug, Deserialize)]
struct EventData {
    recipient_id: Option<String>,
    attempt: Option<i16>,
    response: Option<Reply>,
    mx: Option<String>,
    ip: Option<String>,
    tls: Option<String>,
    duration_ms: Option<i32>,
    next_attempt_at: Option<DateTime<Utc>>,
    bounce: Option<Bounce>,
}

#[derive(Debug, Deserialize)]
struct Reply {
    code: Option<i16>,
    enhanced: Option<String>,
    text: String,
}

#[derive(Debug, Deserialize)]
struct Bounce {
    category: String,
    source: String,
}

impl Attachment {
    fn name(&self) -> &str {
        if self.filename.is_empty() { "(no name)" } else { &self.filename }
    }
}

impl Message {
    /// Returns the status, or that the message waits for an operator.
    fn state(&self) -> &str {
        if self.recipients.iter().any(|recipient| recipient.held.is_some()) { "held" } else { &self.status }
    }

    /// Returns the metadata, with values that are not strings as JSON.
    fn metadata_texts(&self) -> Vec<(&str, String)> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        self.metadata.iter().map(|(name, value)| (name.as_str(), text(value))).collect()
    }
}

impl Event {
    /// Returns the type without its prefix.
    fn name(&self) -> &str {
        self.kind.strip_prefix("message.").unwrap_or(&self.kind)
    }
}

/// A recipient with what explains it.
struct RecipientSection<'a> {
    recipient: &'a Recipient,
    explained: Option<&'a ExplainedRecipient>,
    events: Vec<&'a Event>,
}

impl Recipient {
    fn state(&self) -> &str {
        if self.held.is_some() { "held" } else { &self.status }
    }
}

impl Lane {
    fn destination(&self) -> &str {
        if self.domain == "*" { "all domains" } else { &self.domain }
    }

    fn state_text(&self) -> &str {
        state_text(&self.state)
    }

    /// Returns the path of the lane; `None` if it does not exist yet.
    fn path(&self) -> Option<String> {
        let id = self.id.as_deref()?;
        Some(format!("{}#{id}-details", with_query("/ui/lanes", &[("q", &self.domain)])))
    }
}

/// The views of the content.
const TABS: &Tabs =
    &[(Tab::Preview, "Preview"), (Tab::Text, "Text"), (Tab::Headers, "Headers"), (Tab::Attachments, "Attachments")];

#[derive(Template)]
#[template(path = "message.html")]
struct MessagePage<'a> {
    shell: Shell,
    clock: Clock,
    message: &'a Message,
    sections: Vec<RecipientSection<'a>>,
    /// Events that are about no single recipient.
    common: Vec<&'a Event>,
    /// What is not shown, and why.
    gaps: Vec<String>,
    view: ContentView,
    may_cancel: bool,
    may_retry: bool,
    may_redact: bool,
    /// How many answers to it were received, in words; `None` if there are none.
    answers: Option<String>,
}

/// Maximum number of answers that are counted.
const MAX_ANSWERS: usize = 100;

/// Returns how many answers to a message were received, in words. They are a convenience: what cannot be read is left out.
async fn answers(visitor: &Visitor, id: &str) -> Option<String> {
    if !visitor.sees_all {
        return None;
    }
    let limit = MAX_ANSWERS.to_string();
    let path = with_query("/v1/received", &[("answers", id), ("limit", &limit)]);
    let page: Page<IgnoredAny> = visitor.get(&path).await.ok()?;
    let least = if page.next.is_some() { "more than " } else { "" };
    Some(format!("{least}{} received", page.data.len())).filter(|_| !page.data.is_empty())
}

/// Reads what the chosen tab shows.
async fn content_view(visitor: &Visitor, message: &Message, query: &ShowQuery) -> Result<ContentView, UiError> {
    let tab = query.tab(TABS).unwrap_or(Tab::Preview);
    let (content, fault) = match tab {
        // The attachments are known without the content.
        Tab::Attachments => (Content::default(), None),
        _ if !visitor.may_read => (Content::default(), Some(NO_CONTENT.to_owned())),
        _ => match content::load(visitor, &message.id).await? {
            Ok(content) => (content, None),
            Err(fault) => (Content::default(), Some(fault)),
        },
    };
    let file = |file: &Attachment| File {
        name: file.name().to_owned(),
        content_type: file.content_type.clone(),
        size: file.size,
    };
    Ok(ContentView {
        path: format!("/ui/messages/{}", message.id),
        tabs: TABS,
        tab,
        has_images: query.has_images(),
        may_read: visitor.may_read,
        fault,
        html: content.html,
        text: content.text,
        reply_text: None,
        headers: content.headers,
        attachments: message.attachments.iter().map(file).collect(),
    })
}

async fn show(visitor: Visitor, Path(id): Path<String>, Query(query): Query<ShowQuery>) -> PageResult {
    let path = format!("/v1/messages/{}", segment(&id));
    let message: Message = visitor.get(&path).await?;
    let mut gaps = Vec::new();
    let explained: Explained = match visitor.get(&format!("{path}/explain")).await {
        Err(UiError::Failed(failure)) => {
            gaps.push(format!("The explanation could not be read: {}", failure.text()));
            Explained { recipients: Vec::new() }
        }
        found => found?,
    };
    let mut events: Listed<Event> = visitor.get_list(&format!("{path}/events"), &[], MAX_EVENTS).await?;
    gaps.extend(events.fault.as_ref().map(|fault| format!("The events could not be read: {fault}")));
    if events.has_more {
        gaps.push("Only the first 1,000 events are shown.".to_owned());
    }
    attempts::add_conversations(&visitor, &path, &mut events.data).await?;
    let view = content_view(&visitor, &message, &query).await?;
    // Events of the whole message are in the timeline of an only recipient.
    let is_only = message.recipients.len() == 1;
    let is_about = |event: &Event, recipient: &Recipient| {
        event.data.recipient_id.as_ref().map_or(is_only, |id| *id == recipient.id)
    };
    let sections = message.recipients.iter().map(|recipient| RecipientSection {
        explained: explained.recipients.iter().find(|explained| explained.id == recipient.id),
        events: events.data.iter().filter(|event| is_about(event, recipient)).collect(),
        recipient,
    });
    let title = if message.subject.is_empty() { "(no subject)" } else { &message.subject };
    let waits = |recipient: &Recipient| recipient.finished_at.is_none();
    render(&MessagePage {
        shell: Shell::new(&visitor, Section::Messages, title),
        clock: Clock(visitor.api().now()),
        sections: sections.collect(),
        common: events.data.iter().filter(|event| !is_only && event.data.recipient_id.is_none()).collect(),
        gaps,
        view,
        may_cancel: visitor.may_send() && message.recipients.iter().any(|one| waits(one) && one.status != "sending"),
        may_retry: visitor.may_send()
            && message.recipients.iter().any(|one| waits(one) && (one.status == "deferred" || one.held.is_some())),
        may_redact: visitor.may_admin()
            && !message.recipients.iter().any(waits)
            && !events.data.iter().any(|event| event.kind == "message.redacted"),
        answers: answers(&visitor, &message.id).await,
        message: &message,
    })
}

async fn act(visitor: Visitor, Path((id, action)): Path<(String, String)>) -> Result<Redirect, UiError> {
    let id = segment(&id);
    let done = match action.as_str() {
        "retry" => {
            visitor.post(&format!("/v1/messages/{id}/retry"), None).await?;
            "retried"
        }
        "redact" => {
            visitor.post(&format!("/v1/messages/{id}/redact"), None).await?;
            "redacted"
        }
        "cancel" => canceled(&visitor.post(&format!("/v1/messages/{id}/cancel"), None).await?)?,
        _ => return Err(UiError::not_found("There is no such action.")),
    };
    Ok(redirect_done(&format!("/ui/messages/{id}"), done))
}

/// The reply to a cancellation: addresses.
#[derive(Debug, Deserialize)]
struct Canceled {
    canceled: Vec<String>,
    too_late: Vec<String>,
}

/// Returns the note about a cancellation.
fn canceled(reply: &[u8]) -> Result<&'static str, UiError> {
    let reply: Canceled = serde_json::from_slice(reply).map_err(|error| UiError::unreadable(&error))?;
    Ok(match (reply.canceled.is_empty(), reply.too_late.is_empty()) {
        (_, true) => "canceled",
        (false, false) => "canceled-partly",
        (true, false) => "cancel-too-late",
    })
}
