//! *Messages*: the search box, and one row per message; exports, and actions on everything that matches.

mod actions;

use askama::Template;
use axum::Router;
use axum::extract::{Path, Query};
use axum::http::Method;
use axum::response::Response;
use axum::routing::get;
use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::{ListQuery, PageResult, add, render};
use crate::domain::id::MessageId;
use crate::domain::message::search;
use crate::ui::Ui;
use crate::ui::call::{Page, segment, with_query};
use crate::ui::error::{Failure, FieldFault, UiError};
use crate::ui::format::{Clock, tone};
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell};

/// Messages per page.
const PER_PAGE: usize = 50;

pub(super) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/messages", get(list))
        .route("/ui/messages/export", get(export))
        .route("/ui/messages/{id}/row", get(row))
        .merge(actions::router())
}

/// A message in the list.
#[derive(Debug, Deserialize)]
struct Row {
    id: MessageId,
    status: String,
    created_at: DateTime<Utc>,
    subject: String,
    stream: String,
    from: Sender,
    recipients: Vec<Recipient>,
}

#[derive(Debug, Deserialize)]
struct Sender {
    email: String,
}

#[derive(Debug, Deserialize)]
struct Recipient {
    address: String,
    held: Option<String>,
}

impl Row {
    fn to(&self) -> &str {
        self.recipients.first().map_or("", |recipient| &recipient.address)
    }

    /// Returns the number of recipients besides the first.
    fn others(&self) -> usize {
        self.recipients.len().saturating_sub(1)
    }

    /// Returns the status, or that the message waits for an operator.
    fn state(&self) -> &str {
        if self.recipients.iter().any(|recipient| recipient.held.is_some()) { "held" } else { &self.status }
    }
}

#[derive(Template)]
#[template(path = "messages.html")]
struct MessagesPage {
    shell: Shell,
    clock: Clock,
    q: String,
    /// Terms that complete the search, such as `status:deferred`.
    suggestions: Vec<String>,
    faults: Vec<String>,
    rows: Vec<Row>,
    is_first: bool,
    next: Option<String>,
    /// The time back to which messages were searched, if there are older ones and the page is not full.
    searched_back_to: Option<DateTime<Utc>>,
}

async fn list(visitor: Visitor, Query(query): Query<ListQuery>) -> PageResult {
    let (now, limit) = (visitor.api().now(), PER_PAGE.to_string());
    let mut search = search::parse(&query.q, now);
    let mut page = Page { data: Vec::<Row>::new(), next: None };
    if search.faults.is_empty() {
        let mut params: Vec<(&str, &str)> = search.params.iter().map(|(name, value)| (*name, value.as_str())).collect();
        params.push(("limit", &limit));
        add(&mut params, "after", &query.after);
        match visitor.get(&with_query("/v1/messages", &params)).await {
            Ok(found) => page = found,
            // A value that the API refuses, or a search that takes too long: the text can be corrected.
            Err(UiError::Failed(Failure { status: 422, errors, .. })) if !errors.is_empty() => {
                let text = |fault: &FieldFault| format!("{}: {}", search::field(&fault.pointer), fault.message);
                search.faults = errors.iter().map(text).collect();
            }
            Err(error) => return Err(error),
        }
    }
    let is_partial = page.data.len() < PER_PAGE;
    let cursor = page.next.as_deref().and_then(|next| next.parse::<MessageId>().ok());
    let suggestions = if visitor.is_part { Vec::new() } else { suggestions(&visitor).await };
    render(&MessagesPage {
        suggestions,
        shell: Shell::new(&visitor, Section::Messages, "Messages"),
        clock: Clock(now),
        faults: search.faults,
        is_first: query.after.is_empty(),
        next: page.next.as_deref().map(|next| {
            let mut params = Vec::new();
            add(&mut params, "q", &query.q);
            params.push(("after", next));
            with_query("/ui/messages", &params)
        }),
        searched_back_to: cursor.filter(|_| is_partial).map(MessageId::accepted_at),
        q: query.q,
        rows: page.data,
    })
}

impl MessagesPage {
    /// Returns the path of the export of everything that matches.
    fn export_path(&self, format: &str) -> String {
        let mut params = vec![("format", format)];
        add(&mut params, "q", &self.q);
        with_query("/ui/messages/export", &params)
    }
}

/// Terms of the search box that are the same for all visitors. Those without a value show the name of the field.
const SUGGESTIONS: &[&str] = &[
    "status:queued",
    "status:scheduled",
    "status:deferred",
    "status:relayed",
    "status:delivered",
    "status:bounced",
    "status:expired",
    "status:suppressed",
    "status:canceled",
    "status:uncertain",
    "held:true",
    "after:1h",
    "after:24h",
    "after:7d",
    "before:",
    "to:",
    "to-domain:",
    "from:",
    "subject:",
    "tag:",
    "bulk:",
    "lane:",
    "key:",
    "message-id:",
];
/// Maximum number of suggested names of each kind.
const MAX_NAMES: usize = 50;

/// A stream or a template.
#[derive(Debug, Deserialize)]
struct Named {
    name: String,
    alias: Option<String>,
}

/// Returns the terms that complete a search, with the names of streams and templates. They are a convenience: what cannot be
/// read is left out.
async fn suggestions(visitor: &Visitor) -> Vec<String> {
    let streams: Page<Named> = visitor.get("/v1/streams").await.unwrap_or(Page { data: Vec::new(), next: None });
    let mut templates = Vec::new();
    if visitor.sees_all {
        let page: Result<Page<Named>, UiError> = visitor.get("/v1/templates?limit=50").await;
        templates = page.map_or_else(|_| Vec::new(), |page| page.data);
    }
    let aliases = templates.into_iter().filter_map(|template| template.alias);
    let fixed = SUGGESTIONS.iter().map(ToString::to_string);
    let streams = streams.data.into_iter().take(MAX_NAMES).map(|stream| format!("stream:{}", stream.name));
    fixed
        .chain(streams)
        .chain(aliases.map(|alias| format!("template:{alias}")))
        .chain(["template:".to_owned()])
        .collect()
}

#[derive(Debug, Deserialize)]
struct ExportQuery {
    #[serde(default)]
    q: String,
    #[serde(default)]
    format: String,
}

/// Exports everything that matches a search, as a download.
async fn export(visitor: Visitor, Query(query): Query<ExportQuery>) -> Result<Response, UiError> {
    let search = search::parse(&query.q, visitor.api().now());
    if let Some(fault) = search.faults.first() {
        return Err(UiError::new(422, fault));
    }
    let mut params: Vec<(&str, &str)> = search.params.iter().map(|(name, value)| (*name, value.as_str())).collect();
    add(&mut params, "format", &query.format);
    visitor.send(Method::GET, &with_query("/v1/messages/export", &params), None).await
}

#[derive(Template)]
#[template(path = "messages_row.html")]
struct RowPart {
    row: Row,
    clock: Clock,
}

/// One row, with which `app.js` replaces the row of a message that has changed.
async fn row(visitor: Visitor, Path(id): Path<String>) -> PageResult {
    let row = visitor.get(&format!("/v1/messages/{}", segment(&id))).await?;
    render(&RowPart { row, clock: Clock(visitor.api().now()) })
}
