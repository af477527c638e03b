//! *Bulks*: one message to many recipients, with its progress.

use askama::Template;
use axum::Router;
use axum::extract::{Path, Query};
use axum::response::Redirect;
use axum::routing::{get, post};
use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::{ListQuery, PageResult, add, render};
use crate::ui::Ui;
use crate::ui::call::{Page, segment, with_query};
use crate::ui::error::UiError;
use crate::ui::format::{Clock, number, tone};
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell, redirect_done};

pub(super) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/bulks", get(list))
        .route("/ui/bulks/{id}", get(show))
        .route("/ui/bulks/{id}/{action}", post(act))
}

#[derive(Debug, Deserialize)]
struct Bulk {
    id: String,
    status: String,
    created_at: DateTime<Utc>,
    stream: String,
    from_domain: String,
    subject: Option<String>,
    scheduled_at: Option<DateTime<Utc>>,
    accepted: i64,
    rejected: i64,
    replayed: i64,
    /// Recipients by status.
    counts: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Bulk {
    fn title(&self) -> &str {
        self.subject.as_deref().unwrap_or("Subject of the template")
    }

    /// Returns the statuses that recipients have, with their numbers.
    fn states(&self) -> Vec<(&str, i64)> {
        let counts = self.counts.iter().flatten();
        counts.filter_map(|(state, count)| Some((state.as_str(), count.as_i64().filter(|count| *count > 0)?))).collect()
    }

    /// Returns the number of recipients that have no outcome yet, in words.
    fn waiting(&self) -> String {
        let waits = |state: &str| matches!(state, "queued" | "scheduled" | "deferred" | "sending");
        let count: i64 = self.states().iter().filter(|(state, _)| waits(state)).map(|(_, count)| count).sum();
        format!("{} of its {} recipients", number(count), number(self.accepted))
    }

    fn messages_path(&self) -> String {
        with_query("/ui/messages", &[("q", &format!("bulk:{}", self.id))])
    }
}

#[derive(Template)]
#[template(path = "bulks.html")]
struct BulksPage {
    shell: Shell,
    clock: Clock,
    bulks: Vec<Bulk>,
    is_first: bool,
    next: Option<String>,
}

async fn list(visitor: Visitor, Query(query): Query<ListQuery>) -> PageResult {
    let mut params = vec![("limit", "50")];
    add(&mut params, "after", &query.after);
    let page: Page<Bulk> = visitor.get(&with_query("/v1/bulks", &params)).await?;
    render(&BulksPage {
        shell: Shell::new(&visitor, Section::Bulks, "Bulks"),
        clock: Clock(visitor.api().now()),
        bulks: page.data,
        is_first: query.after.is_empty(),
        next: page.next.map(|next| with_query("/ui/bulks", &[("after", &next)])),
    })
}

#[derive(Template)]
#[template(path = "bulk.html")]
struct BulkPage {
    shell: Shell,
    clock: Clock,
    bulk: Bulk,
}

async fn show(visitor: Visitor, Path(id): Path<String>) -> PageResult {
    let bulk: Bulk = visitor.get(&format!("/v1/bulks/{}", segment(&id))).await?;
    let shell = Shell::new(&visitor, Section::Bulks, bulk.title());
    render(&BulkPage { shell, clock: Clock(visitor.api().now()), bulk })
}

async fn act(visitor: Visitor, Path((id, action)): Path<(String, String)>) -> Result<Redirect, UiError> {
    let done = match action.as_str() {
        "pause" => "paused",
        "resume" => "resumed",
        "cancel" => "bulk-canceled",
        _ => return Err(UiError::not_found("There is no such action.")),
    };
    let id = segment(&id);
    visitor.post(&format!("/v1/bulks/{id}/{action}"), None).await?;
    Ok(redirect_done(&format!("/ui/bulks/{id}"), done))
}
