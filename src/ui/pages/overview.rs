//! *Overview*: what is wrong now and how to fix it, the counts of the last hour, charts, and the newest messages.

mod traffic;

mod checks;
mod problems;

use askama::Template;
use axum::Router;
use axum::extract::Query;
use axum::routing::get;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Deserialize;

use super::{PageResult, render};
use crate::ui::Ui;
use crate::ui::call::{Page, with_query};
use crate::ui::error::UiError;
use crate::ui::format::{Clock, milliseconds, number, tone};
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell};
use traffic::{RANGES, Traffic};

use checks::Checks;
use problems::{Problem, suspension_problem};

/// The time range of the counts. They are counted when the page is opened, so the range is short.
const RANGE: TimeDelta = TimeDelta::hours(1);

pub(super) fn router() -> Router<Ui> {
    Router::new().route("/ui", get(show))
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

/// The counts of the last hour.
#[derive(Debug, Deserialize)]
struct Ledger {
    accepted: i64,
    delivered: i64,
    relayed: i64,
    bounced: i64,
    expired: i64,
    suppressed: i64,
    uncertain: i64,
    in_flight: i64,
    balanced: bool,
    difference: i64,
}

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage {
    shell: Shell,
    clock: Clock,
    checks: Checks,
    /// The counts, or why they could not be read; `None` if the key may not see them.
    ledger: Option<Result<Ledger, String>>,
    traffic: Option<Traffic>,
    /// The newest messages, or why they could not be read.
    newest: Result<Vec<Message>, String>,
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
}

async fn show(visitor: Visitor, Query(query): Query<OverviewQuery>) -> PageResult {
    let now = visitor.api().now();
    let mut checks = Checks::run(&visitor).await?;
    checks.problems.extend(visitor.suspension.as_ref().map(suspension_problem));
    checks.problems.sort_by_key(|problem| problem.tone != "bad");
    let (mut counts, mut traffic, mut newest) = (None, None, Ok(Vec::new()));
    // A refresh replaces only the problems.
    if !visitor.is_part {
        if visitor.sees_all {
            counts = Some(readable(ledger(&visitor, now).await)?);
        }
        traffic = traffic::load(&visitor, &query.range, now).await?;
        let page: Result<Page<Message>, UiError> = visitor.get("/v1/messages?limit=8").await;
        newest = readable(page)?.map(|page| page.data);
    }
    let shell = Shell::new(&visitor, Section::Overview, "Overview");
    render(&OverviewPage { shell, clock: Clock(now), checks, ledger: counts, traffic, newest })
}

/// Returns what was read, or why it could not be read.
fn readable<T>(read: Result<T, UiError>) -> Result<Result<T, String>, UiError> {
    match read {
        Ok(found) => Ok(Ok(found)),
        Err(UiError::Failed(failure)) => Ok(Err(failure.text())),
        Err(signed_out @ UiError::SignedOut { .. }) => Err(signed_out),
    }
}

/// Returns the counts. Fails if there are too many messages to count them in time.
async fn ledger(visitor: &Visitor, now: DateTime<Utc>) -> Result<Ledger, UiError> {
    let since = (now - RANGE).to_rfc3339_opts(SecondsFormat::Millis, true);
    visitor.get(&with_query("/v1/ledger", &[("since", &since)])).await
}
