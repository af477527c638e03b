//! *Inbox*: the messages that `postrider dev` has caught. Messages are untrusted, as everywhere.

mod report;

use askama::Template;
use axum::Form;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request};
use axum::http::{HeaderValue, Method, header};
use axum::response::{Redirect, Response};
use axum::routing::{get, post};
use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::message::content::{download, framed};
use super::message::view::{ContentView, File, ShowQuery, Tab, Tabs};
use super::{ListQuery, PageResult, add, render};
use crate::mail::content::{read, with_images};
use crate::ui::Ui;
use crate::ui::call::{segment, with_query};
use crate::ui::error::UiError;
use crate::ui::format::{Clock, bytes};
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell, redirect_done};
use report::Kind;

pub(super) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/inbox", get(list))
        .route("/ui/inbox/clear", post(clear))
        .route("/ui/inbox/{n}", get(show))
        .route("/ui/inbox/{n}/html", get(html))
        .route("/ui/inbox/{n}/raw", get(raw))
        .route("/ui/inbox/{n}/attachments/{i}", get(attachment))
        .route("/ui/inbox/{n}/{action}", post(act))
}

#[derive(Debug, Deserialize)]
struct Summary {
    n: u64,
    received_at: DateTime<Utc>,
    envelope: Envelope,
    subject: Option<String>,
    from: Option<String>,
    size: i64,
}

#[derive(Debug, Deserialize)]
struct Envelope {
    from: String,
    to: Vec<String>,
}

impl Summary {
    fn title(&self) -> &str {
        self.subject.as_deref().filter(|subject| !subject.is_empty()).unwrap_or("(no subject)")
    }

    fn sender(&self) -> &str {
        self.from.as_deref().unwrap_or(&self.envelope.from)
    }
}

#[derive(Debug, Deserialize)]
struct InboxMessage {
    #[serde(flatten)]
    summary: Summary,
    headers: Vec<MailHeader>,
    text: Option<String>,
    html: Option<String>,
    attachments: Vec<Attachment>,
}

#[derive(Debug, Deserialize)]
struct MailHeader {
    name: String,
    value: String,
}

#[derive(Debug, Deserialize)]
struct Attachment {
    filename: Option<String>,
    content_type: String,
    size: i64,
}

impl Attachment {
    fn name(&self) -> &str {
        self.filename.as_deref().filter(|name| !name.is_empty()).unwrap_or("(no name)")
    }
}

#[derive(Debug, Deserialize)]
struct InboxList {
    data: Vec<Summary>,
    next: Option<u64>,
}

#[derive(Template)]
#[template(path = "inbox.html")]
struct InboxPage {
    shell: Shell,
    clock: Clock,
    q: String,
    messages: Vec<Summary>,
    is_first: bool,
    next: Option<String>,
}

/// Fails if there is no inbox, or if the visitor's key may not read it: it has the messages of every sender domain.
fn require_access(visitor: &Visitor) -> Result<(), UiError> {
    if !visitor.has_inbox() {
        return Err(UiError::not_found("There is no such page."));
    }
    if visitor.sees_all && visitor.may_read {
        return Ok(());
    }
    Err(UiError::new(403, "The inbox needs an API key with the scope `read` and without `sender_domains`."))
}

async fn list(visitor: Visitor, Query(query): Query<ListQuery>) -> PageResult {
    require_access(&visitor)?;
    let mut params = vec![("limit", "50")];
    add(&mut params, "q", query.q.trim());
    add(&mut params, "before", &query.after);
    let page: InboxList = visitor.get(&with_query("/v1/dev/inbox", &params)).await?;
    render(&InboxPage {
        shell: Shell::new(&visitor, Section::Inbox, "Inbox"),
        clock: Clock(visitor.api().now()),
        messages: page.data,
        is_first: query.after.is_empty(),
        next: page.next.map(|next| {
            let next = next.to_string();
            let mut params = vec![("after", next.as_str())];
            add(&mut params, "q", &query.q);
            with_query("/ui/inbox", &params)
        }),
        q: query.q,
    })
}

/// The views of the message.
const TABS: &Tabs =
    &[(Tab::Preview, "HTML"), (Tab::Text, "Text"), (Tab::Headers, "Headers"), (Tab::Attachments, "Attachments")];

#[derive(Template)]
#[template(path = "inbox_message.html")]
struct MessagePage {
    shell: Shell,
    clock: Clock,
    message: InboxMessage,
    view: ContentView,
}

impl InboxMessage {
    /// Takes the content out, for a page.
    fn take_content(&mut self, query: &ShowQuery) -> ContentView {
        let first = if self.html.is_some() { Tab::Preview } else { Tab::Text };
        let return_path = ("Return path".to_owned(), format!("<{}>", self.summary.envelope.from));
        let headers = self.headers.drain(..).map(|MailHeader { name, value }| (name, value));
        let file =
            |file: Attachment| File { name: file.name().to_owned(), size: file.size, content_type: file.content_type };
        ContentView {
            path: format!("/ui/inbox/{}", self.summary.n),
            tabs: TABS,
            tab: query.tab(TABS).unwrap_or(first),
            has_images: query.has_images(),
            may_read: true,
            fault: None,
            html: self.html.take(),
            text: self.text.take(),
            reply_text: None,
            headers: std::iter::once(return_path).chain(headers).collect(),
            attachments: self.attachments.drain(..).map(file).collect(),
        }
    }
}

/// Returns the path of a message in the API.
fn api_path(n: &str) -> String {
    format!("/v1/dev/inbox/{}", segment(n))
}

async fn show(visitor: Visitor, Path(n): Path<String>, Query(query): Query<ShowQuery>) -> PageResult {
    require_access(&visitor)?;
    let mut message: InboxMessage = visitor.get(&api_path(&n)).await?;
    render(&MessagePage {
        shell: Shell::new(&visitor, Section::Inbox, message.summary.title()),
        clock: Clock(visitor.api().now()),
        view: message.take_content(&query),
        message,
    })
}

async fn html(visitor: Visitor, Path(n): Path<String>, Query(query): Query<ShowQuery>) -> Result<Response, UiError> {
    require_access(&visitor)?;
    let raw = visitor.read_bytes(&format!("{}/raw", api_path(&n))).await?;
    let html = tokio::task::spawn_blocking(move || read(&raw).html.map(|html| with_images(&html, &raw)));
    let html = html.await.map_err(|_| UiError::unreadable(&"a panic"))?;
    let html = html.ok_or_else(|| UiError::not_found("The message has no HTML."))?;
    Ok(framed(&html, query.has_images()))
}

async fn raw(visitor: Visitor, Path(n): Path<String>) -> Result<Response, UiError> {
    require_access(&visitor)?;
    let response = visitor.send(Method::GET, &format!("{}/raw", api_path(&n)), None).await?;
    let name = HeaderValue::try_from(format!("attachment; filename=\"{}.eml\"", segment(&n)));
    Ok(download(response, name.unwrap_or(HeaderValue::from_static("attachment"))))
}

/// Returns an attachment as a download.
async fn attachment(visitor: Visitor, Path((n, i)): Path<(String, String)>) -> Result<Response, UiError> {
    require_access(&visitor)?;
    let path = format!("{}/attachments/{}", api_path(&n), segment(&i));
    let mut response = visitor.send(Method::GET, &path, None).await?;
    // Never the sender's type: the response must not run in a browser.
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

/// Fails unless the visitor may change the inbox.
fn require_admin(visitor: &Visitor) -> Result<(), UiError> {
    require_access(visitor)?;
    if visitor.may_admin() { Ok(()) } else { Err(UiError::new(403, "This key lacks the scope `admin`.")) }
}

async fn clear(visitor: Visitor) -> Result<Redirect, UiError> {
    require_admin(&visitor)?;
    visitor.change(Method::DELETE, "/v1/dev/inbox", None).await?;
    Ok(redirect_done("/ui/inbox", "deleted"))
}

/// The form of an action. A report is about one of the recipients.
#[derive(Debug, Deserialize)]
struct ActionForm {
    #[serde(default)]
    recipient: String,
}

async fn act(
    visitor: Visitor,
    Path((n, action)): Path<(String, String)>,
    Form(form): Form<ActionForm>,
) -> Result<Redirect, UiError> {
    require_admin(&visitor)?;
    match action.as_str() {
        "delete" => {
            visitor.change(Method::DELETE, &api_path(&n), None).await?;
            Ok(redirect_done("/ui/inbox", "deleted"))
        }
        "bounce" => submit(&visitor, &n, Kind::Bounce, &form).await,
        "complain" => submit(&visitor, &n, Kind::Complaint, &form).await,
        _ => Err(UiError::not_found("There is no such action.")),
    }
}

/// The effect of a report.
#[derive(Debug, Deserialize)]
struct Effect {
    message_id: Option<String>,
    applied: bool,
}

/// Sends the report that the recipient's server would send, and returns to the message that it is about.
async fn submit(visitor: &Visitor, n: &str, kind: Kind, form: &ActionForm) -> Result<Redirect, UiError> {
    let message: InboxMessage = visitor.get(&api_path(n)).await?;
    let envelope = &message.summary.envelope;
    let recipient = envelope.to.iter().find(|to| **to == form.recipient).or(envelope.to.first());
    let recipient = recipient.ok_or_else(|| UiError::new(422, "The message has no recipient."))?;
    let id = message.headers.iter().find(|header| header.name.eq_ignore_ascii_case("message-id"));
    let report = report::write(kind, &envelope.from, recipient, id.map_or("", |header| header.value.as_str()));
    // A message without a return path has the sender's address in its envelope.
    let path = with_query("/v1/inbound", &[("recipient", &envelope.from)]);
    let call = Request::builder().method(Method::POST).uri(path).header(header::CONTENT_TYPE, "message/rfc822");
    let call = call.body(Body::from(report)).map_err(|error| UiError::unreadable(&error))?;
    let effect = visitor.read_reply(call).await?;
    let effect: Effect = serde_json::from_slice(&effect).map_err(|error| UiError::unreadable(&error))?;
    Ok(match effect {
        Effect { applied: true, message_id: Some(id) } => {
            redirect_done(&format!("/ui/messages/{}", segment(&id)), kind.done())
        }
        _ => redirect_done(&format!("/ui/inbox/{}", segment(n)), "report-unused"),
    })
}
