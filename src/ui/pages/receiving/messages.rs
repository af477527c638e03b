//! *Received*: the messages that were received for inbound routes. They come from strangers, and are shown as text.

use askama::Template;
use axum::Router;
use axum::extract::Query;
use axum::routing::get;
use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::routes::InboundRoute;
use super::verdicts::Authentication;
use crate::ui::Ui;
use crate::ui::call::{Page, with_query};
use crate::ui::error::{Failure, UiError};
use crate::ui::format::{Clock, tone};
use crate::ui::pages::{PageResult, add, render};
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell};

pub(in crate::ui::pages) fn router() -> Router<Ui> {
    Router::new().route("/ui/received", get(list)).merge(super::message::router())
}

/// A received message, without its content.
#[derive(Debug, Deserialize)]
#[allow(clippy::struct_field_names, reason = "the names of the API's fields")]
pub(super) struct Received {
    pub id: String,
    pub received_at: DateTime<Utc>,
    pub route_id: String,
    pub from: Option<Mailbox>,
    pub to: Vec<String>,
    pub subject: String,
    pub message_id: Option<String>,
    pub answers: Option<String>,
    pub auto_reply: Option<String>,
    pub authentication: Option<Authentication>,
    pub envelope: Envelope,
    pub attachments: Vec<Attachment>,
    pub size: i64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Mailbox {
    pub email: String,
    pub name: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Envelope {
    /// The reverse path; empty for the null sender.
    pub from: String,
    pub helo: String,
    pub remote_address: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Attachment {
    filename: Option<String>,
    pub content_type: String,
    pub content_id: Option<String>,
    pub size: i64,
}

impl Received {
    pub(super) fn title(&self) -> &str {
        if self.subject.is_empty() { "(no subject)" } else { &self.subject }
    }

    /// Returns whether it came to a rewritten sender (SRS), and not to an inbound route.
    pub(super) fn is_rewritten_sender(&self) -> bool {
        self.route_id.strip_prefix("irt_").is_some_and(|id| id.bytes().all(|digit| digit == b'0'))
    }

    /// Returns the address in `From`.
    pub(super) fn sender(&self) -> &str {
        self.from.as_ref().map_or("(no sender)", |from| &from.email)
    }

    /// Returns the verdict of DMARC, which is about the address in `From`.
    fn dmarc(&self) -> Option<&str> {
        self.authentication.as_ref().map(|verdicts| verdicts.dmarc.result.as_str())
    }
}

impl Attachment {
    pub(super) fn name(&self) -> &str {
        self.filename.as_deref().filter(|name| !name.is_empty()).unwrap_or("(no name)")
    }
}

#[derive(Debug, Default, Deserialize)]
struct ListQuery {
    /// The id of the message that is answered.
    #[serde(default)]
    answers: String,
    /// The id of an inbound route.
    #[serde(default)]
    route: String,
    #[serde(default)]
    after: String,
}

impl ListQuery {
    /// Returns the filters as they are in the path of the page, which are those of the API.
    fn filters(&self) -> Vec<(&str, &str)> {
        let mut filters = Vec::new();
        add(&mut filters, "answers", self.answers.trim());
        add(&mut filters, "route", self.route.trim());
        filters
    }
}

#[derive(Template)]
#[template(path = "received.html")]
struct ReceivedPage {
    shell: Shell,
    clock: Clock,
    query: ListQuery,
    fault: Option<String>,
    /// The routes that the filter offers: the newest ones, with that of the filter.
    routes: Vec<InboundRoute>,
    messages: Vec<Received>,
    is_first: bool,
    next: Option<String>,
}

impl ReceivedPage {
    /// Returns whether the filter is a route that is not among those that are offered: an older or a deleted one.
    fn is_other_route(&self) -> bool {
        !self.query.route.is_empty() && self.routes.iter().all(|route| route.id != self.query.route)
    }
}

async fn list(visitor: Visitor, Query(query): Query<ListQuery>) -> PageResult {
    let mut params = query.filters();
    params.push(("limit", "50"));
    add(&mut params, "after", &query.after);
    let mut fault = None;
    let page: Page<Received> = match visitor.get(&with_query("/v1/received", &params)).await {
        // A text that is no id can be corrected.
        Err(UiError::Failed(failure @ Failure { status: 422, .. })) => {
            fault = Some(failure.text());
            Page { data: Vec::new(), next: None }
        }
        found => found?,
    };
    let routes: Page<InboundRoute> = visitor.get("/v1/inbound-routes?limit=100").await?;
    render(&ReceivedPage {
        shell: Shell::new(&visitor, Section::Received, "Received"),
        clock: Clock(visitor.api().now()),
        fault,
        routes: routes.data,
        messages: page.data,
        is_first: query.after.is_empty(),
        next: page.next.as_deref().map(|next| {
            let mut params = query.filters();
            params.push(("after", next));
            with_query("/ui/received", &params)
        }),
        query,
    })
}
