//! *Overview*: what is wrong now and how to fix it, the counts of the last hour, charts, and the newest messages.

mod traffic;

use askama::Template;
use axum::Router;
use axum::extract::Query;
use axum::routing::get;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Deserialize;

use super::{PageResult, render};
use crate::ui::Ui;
use crate::ui::call::{Page, segment, with_query};
use crate::ui::error::{Failure, UiError};
use crate::ui::format::{Clock, milliseconds, number, tone};
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell};
use traffic::{RANGES, Traffic};

/// The time range of the counts. They are counted when the page is opened, so the range is short.
const RANGE: TimeDelta = TimeDelta::hours(1);

pub(super) fn router() -> Router<Ui> {
    Router::new().route("/ui", get(show))
}

/// Something that stops or delays messages or events.
struct Problem {
    /// The colour: `bad` or `warn`.
    tone: &'static str,
    title: String,
    detail: String,
    since: Option<DateTime<Utc>>,
    /// How to fix it, and the page to do it on.
    fix: &'static str,
    path: String,
}

#[derive(Debug, Deserialize)]
struct Lane {
    stream: String,
    domain: String,
    state: String,
    reason: String,
    waiting: Count,
    blocked: Option<Since>,
    unprepared: Option<Unprepared>,
}

#[derive(Debug, Deserialize)]
struct Count {
    number: i64,
    is_more: bool,
}

#[derive(Debug, Deserialize)]
struct Since {
    since: DateTime<Utc>,
}

#[derive(Debug, Deserialize)]
struct Unprepared {
    since: DateTime<Utc>,
    error: String,
}

#[derive(Debug, Deserialize)]
struct Webhook {
    id: String,
    url: String,
    state: String,
    last_error: Option<String>,
    failing_since: Option<DateTime<Utc>>,
    disabled_at: Option<DateTime<Utc>>,
    disabled_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Domain {
    name: String,
    status: String,
    verified_at: Option<DateTime<Utc>>,
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
    problems: Vec<Problem>,
    ledger: Option<Ledger>,
    traffic: Option<Traffic>,
    newest: Vec<Message>,
}

#[derive(Debug, Deserialize)]
struct OverviewQuery {
    /// The time range of the charts.
    #[serde(default)]
    range: String,
}

async fn show(visitor: Visitor, Query(query): Query<OverviewQuery>) -> PageResult {
    let now = visitor.api().now();
    let mut problems = Vec::new();
    let lanes = visitor.get_of_all::<Page<Lane>>("/v1/lanes?waiting=true&limit=100").await?;
    problems.extend(lanes.iter().flat_map(|lanes| &lanes.data).flat_map(lane_problems));
    problems.extend(held(&visitor).await?);
    let webhooks = visitor.get_of_all::<Page<Webhook>>("/v1/webhooks?limit=100").await?;
    problems.extend(webhooks.iter().flat_map(|webhooks| &webhooks.data).filter_map(webhook_problem));
    let domains = visitor.get_of_all::<Page<Domain>>("/v1/domains?limit=100").await?;
    problems.extend(domains.iter().flat_map(|domains| &domains.data).filter_map(domain_problem));
    let (ledger, traffic, newest) = if visitor.is_part {
        // Only the problems are replaced.
        (None, None, Page { data: Vec::new(), next: None })
    } else {
        let traffic = traffic::load(&visitor, &query.range, now).await?;
        (ledger(&visitor, now).await?, traffic, visitor.get("/v1/messages?limit=8").await?)
    };
    problems.sort_by_key(|problem| problem.tone != "bad");
    render(&OverviewPage {
        shell: Shell::new(&visitor, Section::Overview, "Overview"),
        clock: Clock(now),
        problems,
        ledger,
        traffic,
        newest: newest.data,
    })
}

/// Returns the counts; `None` if the key may not read them, or there are too many messages to count them in time.
async fn ledger(visitor: &Visitor, now: DateTime<Utc>) -> Result<Option<Ledger>, UiError> {
    let since = (now - RANGE).to_rfc3339_opts(SecondsFormat::Millis, true);
    match visitor.get_of_all(&with_query("/v1/ledger", &[("since", &since)])).await {
        Err(UiError::Failed(Failure { status: 422 | 503, .. })) => Ok(None),
        found => found,
    }
}

fn lane_problems(lane: &Lane) -> impl Iterator<Item = Problem> {
    let path = with_query("/ui/lanes", &[("q", lane.domain.as_str())]);
    let waiting = format!("{}{}", number(lane.waiting.number), if lane.waiting.is_more { "+" } else { "" });
    let name = if lane.domain == "*" { "the relay" } else { &lane.domain };
    let stopped = match lane.state.as_str() {
        "blocked" => {
            Some(("bad", format!("Destination {name} is unreachable"), "Fix the destination, then reset the lane."))
        }
        "paused" => Some((
            "warn",
            format!("Lane {} to {name} is paused", lane.stream),
            "Resume it when the reason no longer applies.",
        )),
        _ => None,
    };
    let stopped = stopped.map(|(tone, title, fix)| Problem {
        tone,
        title,
        detail: format!("{} {waiting} recipients wait.", lane.reason),
        since: lane.blocked.as_ref().map(|blocked| blocked.since),
        fix,
        path: path.clone(),
    });
    let unprepared = lane.unprepared.as_ref().map(|unprepared| Problem {
        tone: "bad",
        title: format!("Messages of stream {} cannot be prepared for sending", lane.stream),
        detail: unprepared.error.clone(),
        since: Some(unprepared.since),
        fix: "Fix the configuration that the error names, then reset the lane.",
        path,
    });
    stopped.into_iter().chain(unprepared)
}

async fn held(visitor: &Visitor) -> Result<Option<Problem>, UiError> {
    let found: Page<serde::de::IgnoredAny> = match visitor.get("/v1/messages?held=true&limit=100").await {
        Err(UiError::Failed(Failure { status: 422, .. })) => return Ok(None),
        found => found?,
    };
    let count = found.data.len();
    Ok((count > 0).then(|| Problem {
        tone: "bad",
        title: match (count, &found.next) {
            (1, None) => "1 message is held".into(),
            (count, None) => format!("{count} messages are held"),
            (count, Some(_)) => format!("More than {count} messages are held"),
        },
        detail: "Nothing is sent for them until an operator decides.".into(),
        since: None,
        fix: "Retry or cancel them.",
        path: "/ui/messages?q=held%3Atrue".into(),
    }))
}

fn webhook_problem(webhook: &Webhook) -> Option<Problem> {
    let (title, detail, since, fix) = match webhook.state.as_str() {
        "failing" => (
            format!("Deliveries to {} fail", webhook.url),
            webhook.last_error.clone(),
            webhook.failing_since,
            "Fix the endpoint; deliveries are retried for five days.",
        ),
        "disabled" => (
            format!("Webhook {} is disabled", webhook.url),
            webhook.disabled_reason.clone(),
            webhook.disabled_at,
            "Fix the endpoint, then enable it.",
        ),
        _ => return None,
    };
    let path = format!("/ui/webhooks/{}", segment(&webhook.id));
    Some(Problem { tone: "bad", title, detail: detail.unwrap_or_default(), since, fix, path })
}

fn domain_problem(domain: &Domain) -> Option<Problem> {
    let (tone, detail) = match domain.status.as_str() {
        "pending" => ("warn", "Its DNS records have not been found yet, so receivers do not trust its signatures."),
        "failing" => ("bad", "Its DNS records have disappeared. After 72 hours it counts as unverified."),
        "unverified" => ("bad", "Its DNS records are missing."),
        _ => return None,
    };
    Some(Problem {
        tone,
        title: format!("Domain {} is {}", domain.name, domain.status),
        detail: detail.into(),
        since: domain.verified_at,
        fix: "Publish the records, then verify the domain.",
        path: format!("/ui/domains/{}", segment(&domain.name)),
    })
}
