//! *Lanes*: what waits, where and why.

use askama::Template;
use axum::extract::{Path, Query};
use axum::response::Redirect;
use axum::routing::{get, post};
use axum::{Form, Router};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;

use super::{ListQuery, PageResult, add, given, render};
use crate::ui::Ui;
use crate::ui::call::{Page, segment, with_query};
use crate::ui::error::UiError;
use crate::ui::format::{Clock, number, state_text, tone};
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell, back, redirect_done};

pub(super) fn router() -> Router<Ui> {
    Router::new().route("/ui/lanes", get(list)).route("/ui/lanes/{id}/{action}", post(act))
}

#[derive(Debug, Deserialize)]
struct Lane {
    id: String,
    stream: String,
    route: String,
    domain: String,
    state: String,
    reason: String,
    open_at: Option<DateTime<Utc>>,
    limits: Limits,
    learned: Option<Learned>,
    blocked: Option<Blocked>,
    paused: Option<Paused>,
    waiting: Count,
    due: Count,
    in_flight: Option<i64>,
    held: Count,
    unprepared: Option<Unprepared>,
    oldest_due_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Deserialize)]
struct Count {
    number: i64,
    is_more: bool,
}

impl Count {
    fn text(&self) -> String {
        format!("{}{}", number(self.number), if self.is_more { "+" } else { "" })
    }
}

#[derive(Debug, Deserialize)]
struct Limits {
    connections: WholeLimit,
    rate: RateLimit,
}

#[derive(Debug, Deserialize)]
struct WholeLimit {
    effective: i64,
    scope: String,
}

#[derive(Debug, Deserialize)]
struct RateLimit {
    effective: Option<f64>,
    from: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Learned {
    rate: f64,
    ceiling: f64,
    since: DateTime<Utc>,
    reply: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Blocked {
    since: DateTime<Utc>,
    failures: i16,
    next_probe_at: Option<DateTime<Utc>>,
    reply: Option<String>,
    host: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Paused {
    what: String,
    at: DateTime<Utc>,
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Unprepared {
    recipients: Count,
    since: DateTime<Utc>,
    error: String,
}

impl Lane {
    fn destination(&self) -> &str {
        if self.domain == "*" { "all domains" } else { &self.domain }
    }

    fn state_text(&self) -> &str {
        state_text(&self.state)
    }

    fn is_lane_paused(&self) -> bool {
        self.paused.as_ref().is_some_and(|paused| paused.what == "lane")
    }

    /// Returns whether resetting the lane changes anything.
    fn can_reset(&self) -> bool {
        self.blocked.is_some() || self.learned.is_some() || self.unprepared.is_some()
    }

    fn messages_path(&self) -> String {
        with_query("/ui/messages", &[("q", &format!("lane:{}", self.id))])
    }
}

#[derive(Template)]
#[template(path = "lanes.html")]
struct LanesPage {
    shell: Shell,
    clock: Clock,
    q: String,
    state: String,
    lanes: Vec<Lane>,
    is_first: bool,
    next: Option<String>,
}

async fn list(visitor: Visitor, Query(query): Query<ListQuery>) -> PageResult {
    let mut params = vec![("limit", "50")];
    add(&mut params, "domain", query.q.trim());
    add(&mut params, "state", &query.filter);
    add(&mut params, "after", &query.after);
    let page: Page<Lane> = visitor.get(&with_query("/v1/lanes", &params)).await?;
    render(&LanesPage {
        shell: Shell::new(&visitor, Section::Lanes, "Lanes"),
        clock: Clock(visitor.api().now()),
        lanes: page.data,
        is_first: query.after.is_empty(),
        next: page.next.as_deref().map(|next| {
            let mut params = vec![("after", next)];
            add(&mut params, "q", &query.q);
            add(&mut params, "filter", &query.filter);
            with_query("/ui/lanes", &params)
        }),
        q: query.q,
        state: query.filter,
    })
}

/// The form of an action. Only *Pause* has a reason.
#[derive(Debug, Deserialize)]
struct ActionForm {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    next: String,
}

/// Attempts whose conversations *Trace* records.
const TRACED_ATTEMPTS: u32 = 10;

async fn act(
    visitor: Visitor,
    Path((id, action)): Path<(String, String)>,
    Form(form): Form<ActionForm>,
) -> Result<Redirect, UiError> {
    let done = match action.as_str() {
        "pause" => "paused",
        "resume" => "resumed",
        "reset" => "reset",
        "retry" => "lane-retried",
        "trace" => "traced",
        _ => return Err(UiError::not_found("There is no such action.")),
    };
    let body = match action.as_str() {
        "pause" => given(&form.reason).map(|reason| json!({"reason": reason})),
        "trace" => Some(json!({"attempts": TRACED_ATTEMPTS})),
        _ => None,
    };
    let reply = visitor.post(&format!("/v1/lanes/{}/{action}", segment(&id)), body.as_ref()).await?;
    let done = if action == "retry" { retried(&reply)? } else { done };
    Ok(redirect_done(back(&form.next, "/ui/lanes"), done))
}

/// The reply to a retry.
#[derive(Debug, Deserialize)]
struct Retried {
    retried: u64,
    has_more: bool,
}

/// Returns the note about a retry.
fn retried(reply: &[u8]) -> Result<&'static str, UiError> {
    let reply: Retried = serde_json::from_slice(reply).map_err(|error| UiError::unreadable(&error))?;
    Ok(match reply {
        Retried { has_more: true, .. } => "lane-retried-part",
        Retried { retried: 0, .. } => "lane-retried-none",
        _ => "lane-retried",
    })
}
