//! *Overview*: what is wrong now and how to fix it, the figures of the last hour, charts, and the newest messages.

mod checks;
mod hour;
mod problems;
mod traffic;

use askama::Template;
use axum::Router;
use axum::extract::Query;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::{PageResult, render};
use crate::ui::Ui;
use crate::ui::call::Page;
use crate::ui::error::UiError;
use crate::ui::format::{Clock, milliseconds, number, tone};
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell};
use checks::Checks;
use hour::Hour;
use problems::{Problem, restore_problem, suspension_problem};
use traffic::{RANGES, Traffic};

pub(super) fn router() -> Router<Ui> {
    Router::new().route("/ui", get(open))
}

async fn open(visitor: Visitor, query: Query<OverviewQuery>) -> Result<Response, UiError> {
    if !visitor.may_look {
        // An operator's key sees all tenants, and the data of none.
        return Ok(Redirect::to("/ui/tenants").into_response());
    }
    show(visitor, query).await.map(IntoResponse::into_response)
}

#[derive(Debug, Deserialize)]
struct Message {
    id: String,
    subject: String,
    status: String,
    created_at: DateTime<Utc>,
    recipients: Vec<Recipient>,
}

#[derive(Debug, Deserialize)]
struct Recipient {
    address: String,
}

impl Message {
    fn to(&self) -> &str {
        self.recipients.first().map_or("", |recipient| &recipient.address)
    }
}

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage {
    shell: Shell,
    clock: Clock,
    checks: Checks,
    /// The figures of the last hour, or why they could not be read; `None` if the key may not see them.
    hour: Option<Result<Hour, String>>,
    traffic: Option<Traffic>,
    /// The newest messages, or why they could not be read.
    newest: Result<Vec<Message>, String>,
}

/// A part of the page that is refreshed by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Part {
    Problems,
    Hour,
    Traffic,
    Newest,
}

impl OverviewPage {
    fn problems(&self) -> &[Problem] {
        &self.checks.problems
    }
}

#[derive(Debug, Deserialize)]
struct OverviewQuery {
    /// The time range of the charts.
    #[serde(default)]
    range: String,
    /// The only part to read, for a refresh.
    part: Option<Part>,
}

async fn show(visitor: Visitor, Query(query): Query<OverviewQuery>) -> PageResult {
    let now = visitor.api().now();
    let has = |part: Part| query.part.is_none_or(|only| only == part);
    let mut checks = Checks::default();
    if has(Part::Problems) {
        checks = Checks::run(&visitor).await?;
        checks.problems.extend(visitor.api().restore_hold().as_ref().map(restore_problem));
        checks.problems.extend(visitor.suspension.as_ref().map(suspension_problem));
        checks.problems.sort_by_key(|problem| problem.tone != "bad");
    }
    let (mut hour, mut traffic, mut newest) = (None, None, Ok(Vec::new()));
    if has(Part::Hour) && visitor.sees_all {
        hour = Some(readable(hour::load(&visitor, now).await)?);
    }
    if has(Part::Traffic) {
        traffic = traffic::load(&visitor, &query.range, now).await?;
    }
    if has(Part::Newest) {
        let page: Result<Page<Message>, UiError> = visitor.get("/v1/messages?limit=8").await;
        newest = readable(page)?.map(|page| page.data);
    }
    let shell = Shell::new(&visitor, Section::Overview, "Overview");
    render(&OverviewPage { shell, clock: Clock(now), checks, hour, traffic, newest })
}

/// Returns what was read, or why it could not be read.
fn readable<T>(read: Result<T, UiError>) -> Result<Result<T, String>, UiError> {
    match read {
        Ok(found) => Ok(Ok(found)),
        Err(UiError::Failed(failure)) => Ok(Err(failure.text())),
        Err(signed_out @ UiError::SignedOut { .. }) => Err(signed_out),
    }
}
