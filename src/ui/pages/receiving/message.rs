//! *Received message*: who sent it, what it answers, and its content.

use askama::Template;
use axum::Router;
use axum::extract::{Path, Query};
use axum::http::{HeaderValue, Method};
use axum::response::{Redirect, Response};
use axum::routing::{get, post};
use serde::Deserialize;

use super::messages::{Attachment, Received};
use super::routes::{self, InboundRoute};
use crate::mail::received;
use crate::ui::Ui;
use crate::ui::call::{Page, segment, with_query};
use crate::ui::error::{Failure, UiError};
use crate::ui::format::{Clock, bytes, tone};
use crate::ui::pages::message::NO_CONTENT;
use crate::ui::pages::message::content::{download, framed};
use crate::ui::pages::message::view::{ContentView, File, ShowQuery, Tab, Tabs};
use crate::ui::pages::{PageResult, render};
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell, redirect_done};

pub(super) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/received/{id}", get(show))
        .route("/ui/received/{id}/html", get(html))
        .route("/ui/received/{id}/raw", get(raw))
        .route("/ui/received/{id}/attachments/{n}", get(attachment))
        .route("/ui/received/{id}/delete", post(delete))
}

/// A received message. A key that may not read content has none.
#[derive(Debug, Deserialize)]
struct Message {
    #[serde(flatten)]
    summary: Received,
    #[serde(default)]
    headers: Vec<MailHeader>,
    text: Option<String>,
    html: Option<String>,
    reply_text: Option<String>,
    #[serde(default)]
    relays: Vec<Relayed>,
}

/// A recipient to whom the message is passed on.
#[derive(Debug, Deserialize)]
struct Relayed {
    to: String,
    /// The message that is sent; `None` if it is still to be created.
    message_id: Option<String>,
    /// Its status; `None` if it was deleted.
    status: Option<String>,
    /// The report of the failure to the sender.
    report_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct MailHeader {
    name: String,
    value: String,
}

/// The message that was answered.
#[derive(Debug, Deserialize)]
struct Answered {
    subject: String,
}

/// The views of the content.
const TABS: &Tabs = &[
    (Tab::Preview, "HTML"),
    (Tab::Text, "Text"),
    (Tab::Reply, "Reply text"),
    (Tab::Headers, "Headers"),
    (Tab::Attachments, "Attachments"),
];

#[derive(Template)]
#[template(path = "received_message.html")]
struct MessagePage {
    shell: Shell,
    clock: Clock,
    message: Message,
    /// The subject of the message that it answers; `None` if there is none, or if it was deleted.
    answered: Option<String>,
    /// The route; `None` if it was deleted.
    route: Option<InboundRoute>,
    view: ContentView,
}

impl Message {
    /// Takes the content out, for a page.
    fn take_content(&mut self, visitor: &Visitor, query: &ShowQuery) -> ContentView {
        let first = if self.html.is_some() { Tab::Preview } else { Tab::Text };
        let tab = query.tab(TABS).unwrap_or(first);
        let file = |file: &Attachment| File {
            name: file.name().to_owned(),
            content_type: file.content_type.clone(),
            size: file.size,
        };
        ContentView {
            path: format!("/ui/received/{}", self.summary.id),
            tabs: TABS,
            tab,
            has_images: query.has_images(),
            may_read: visitor.may_read,
            // The attachments are known without the content.
            fault: (!visitor.may_read && tab != Tab::Attachments).then(|| NO_CONTENT.to_owned()),
            html: self.html.take(),
            text: self.text.take(),
            reply_text: self.reply_text.take(),
            headers: self.headers.drain(..).map(|MailHeader { name, value }| (name, value)).collect(),
            attachments: self.summary.attachments.iter().map(file).collect(),
        }
    }
}

/// Returns the path of a received message in the API.
fn api_path(id: &str) -> String {
    format!("/v1/received/{}", segment(id))
}

/// Reads a message, with its content if the visitor's key may read it.
async fn load(visitor: &Visitor, id: &str) -> Result<Message, UiError> {
    if visitor.may_read {
        return visitor.get(&api_path(id)).await;
    }
    // The list has everything else. It is ordered by id, and starts after the id that follows.
    let number = id.strip_prefix("rcv_").and_then(|hex| u128::from_str_radix(hex, 16).ok());
    let mut found = None;
    if let Some(following) = number.and_then(|number| number.checked_add(1)) {
        let following = format!("rcv_{following:032x}");
        let params = [("limit", "1"), ("after", following.as_str())];
        let page: Page<Message> = visitor.get(&with_query("/v1/received", &params)).await?;
        found = page.data.into_iter().find(|message| message.summary.id == id);
    }
    found.ok_or_else(|| UiError::not_found("No received message has this id."))
}

/// Returns what was read, or `None` if it was deleted.
pub(super) fn unless_deleted<T>(found: Result<T, UiError>) -> Result<Option<T>, UiError> {
    match found {
        Err(UiError::Failed(Failure { status: 404, .. })) => Ok(None),
        found => found.map(Some),
    }
}

async fn show(visitor: Visitor, Path(id): Path<String>, Query(query): Query<ShowQuery>) -> PageResult {
    let mut message = load(&visitor, &id).await?;
    let mut answered = None;
    if let Some(id) = &message.summary.answers {
        let found = visitor.get(&format!("/v1/messages/{}", segment(id))).await;
        answered = unless_deleted(found)?.map(|found: Answered| found.subject);
    }
    let route = unless_deleted(visitor.get(&routes::api_path(&message.summary.route_id)).await)?;
    render(&MessagePage {
        shell: Shell::new(&visitor, Section::Received, message.summary.title()),
        clock: Clock(visitor.api().now()),
        answered,
        route,
        view: message.take_content(&visitor, &query),
        message,
    })
}

/// Returns the HTML for the frame. It comes from a stranger: see [`framed`].
async fn html(visitor: Visitor, Path(id): Path<String>, Query(query): Query<ShowQuery>) -> Result<Response, UiError> {
    let path = api_path(&id);
    let message: Message = visitor.get(&path).await?;
    let mut html = message.html.ok_or_else(|| UiError::not_found("The message has no HTML."))?;
    // Only images need the whole message, which may have megabytes.
    if message.summary.attachments.iter().any(|part| part.content_id.is_some()) {
        let raw = visitor.read_bytes(&format!("{path}/raw")).await?;
        let embed = tokio::task::spawn_blocking(move || received::with_images(&html, &raw));
        html = embed.await.map_err(|_| UiError::unreadable(&"a panic"))?;
    }
    Ok(framed(&html, query.has_images()))
}

/// Returns the message as it was received, as a download.
async fn raw(visitor: Visitor, Path(id): Path<String>) -> Result<Response, UiError> {
    let response = visitor.send(Method::GET, &format!("{}/raw", api_path(&id)), None).await?;
    let name = HeaderValue::try_from(format!("attachment; filename=\"{}.eml\"", segment(&id)));
    Ok(download(response, name.unwrap_or(HeaderValue::from_static("attachment"))))
}

/// Returns an attachment as a download. The API sends it as `application/octet-stream`, so that no browser shows it.
async fn attachment(visitor: Visitor, Path((id, n)): Path<(String, String)>) -> Result<Response, UiError> {
    visitor.send(Method::GET, &format!("{}/attachments/{}", api_path(&id), segment(&n)), None).await
}

async fn delete(visitor: Visitor, Path(id): Path<String>) -> Result<Redirect, UiError> {
    visitor.change(Method::DELETE, &api_path(&id), None).await?;
    Ok(redirect_done("/ui/received", "deleted"))
}
