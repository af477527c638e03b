//! *Lanes*: what waits, where and why.

use askama::Template;
use axum::extract::{Path, Query};
use axum::http::Method;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{ListQuery, PageResult, add, add_changed, given, present, refused, render};
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
    own_pause: Option<Paused>,
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
    messages_per_connection: WholeLimit,
}

#[derive(Debug, Deserialize)]
struct WholeLimit {
    own: Option<i64>,
    effective: i64,
    scope: String,
}

#[derive(Debug, Deserialize)]
struct RateLimit {
    own: Option<f64>,
    effective: Option<f64>,
    from: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Learned {
    rate: f64,
    ceiling: f64,
    since: DateTime<Utc>,
    raised_at: Option<DateTime<Utc>>,
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

    /// Returns the lane's own pause, if another pause hides it.
    fn hidden_pause(&self) -> Option<&Paused> {
        let is_hidden = self.paused.as_ref().is_some_and(|paused| paused.what != "lane");
        self.own_pause.as_ref().filter(|_| is_hidden)
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
    fault: Option<String>,
    /// A refused form as it was typed, with its action; the lane is the only one then.
    refused: Option<(String, ActionForm)>,
    lanes: Vec<Lane>,
    is_first: bool,
    next: Option<String>,
}

impl LanesPage {
    /// Returns the refused form of an action.
    fn refused_form(&self, action: &str) -> Option<&ActionForm> {
        self.refused.as_ref().filter(|(refused, _)| refused == action).map(|(_, form)| form)
    }

    /// Returns whether the form of an action was refused, and is open.
    fn is_refused(&self, action: &str) -> bool {
        self.refused_form(action).is_some()
    }

    /// Returns a lane's own limits as they are, or as they were typed.
    fn limits(&self, lane: &Lane) -> ActionForm {
        self.refused_form("limits").cloned().unwrap_or_else(|| ActionForm::new(lane))
    }

    /// Returns the reason of a pause, if it was typed and refused.
    fn reason(&self) -> &str {
        self.refused_form("pause").map_or("", |form| &form.reason)
    }
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
        fault: None,
        refused: None,
    })
}

/// Returns the lane with a refused form and the reason.
async fn show_refused(visitor: &Visitor, id: &str, (action, form): (String, ActionForm), fault: String) -> PageResult {
    let lane: Lane = visitor.get(&format!("/v1/lanes/{}", segment(id))).await?;
    let next = back(&form.next, "/ui/lanes");
    let path = next.split('#').next().unwrap_or_default().to_owned();
    render(&LanesPage {
        shell: Shell::new(visitor, Section::Lanes, "Lanes").at(path),
        clock: Clock(visitor.api().now()),
        q: lane.domain.clone(),
        state: String::new(),
        fault: Some(fault),
        refused: Some((action, form)),
        lanes: vec![lane],
        is_first: true,
        next: None,
    })
}

/// The form of an action. *Pause* has a reason, *Limits* the limits; an empty one is removed.
#[derive(Debug, Clone, Default, Deserialize)]
struct ActionForm {
    #[serde(default)]
    connections: String,
    #[serde(default)]
    rate: String,
    #[serde(default)]
    messages_per_connection: String,
    /// The limits that the form was opened with.
    was_connections: Option<String>,
    was_rate: Option<String>,
    was_messages_per_connection: Option<String>,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    next: String,
}

impl ActionForm {
    /// Creates the form of a lane's own limits; a field is empty without one.
    fn new(lane: &Lane) -> Self {
        let whole = |limit: &WholeLimit| limit.own.map_or_else(String::new, |own| own.to_string());
        let rate = lane.limits.rate.own.map_or_else(String::new, |own| own.to_string());
        let connections = whole(&lane.limits.connections);
        let messages_per_connection = whole(&lane.limits.messages_per_connection);
        Self {
            was_connections: Some(connections.clone()),
            was_rate: Some(rate.clone()),
            was_messages_per_connection: Some(messages_per_connection.clone()),
            connections,
            rate,
            messages_per_connection,
            ..Self::default()
        }
    }

    /// Returns the texts that the form was opened with, for its hidden fields.
    fn opened_with(&self) -> Vec<(&'static str, &str)> {
        present([
            ("was_rate", &self.was_rate),
            ("was_connections", &self.was_connections),
            ("was_messages_per_connection", &self.was_messages_per_connection),
        ])
    }

    /// Returns the body of a change of the limits.
    fn limits(&self) -> Map<String, Value> {
        let mut body = Map::new();
        let fields = [
            ("connections", self.connections.as_str(), self.was_connections.as_deref()),
            ("rate", self.rate.as_str(), self.was_rate.as_deref()),
            (
                "messages_per_connection",
                self.messages_per_connection.as_str(),
                self.was_messages_per_connection.as_deref(),
            ),
        ];
        add_changed(&mut body, &fields);
        body
    }
}

/// Attempts whose conversations *Trace* records.
const TRACED_ATTEMPTS: u32 = 10;

async fn act(
    visitor: Visitor,
    Path((id, action)): Path<(String, String)>,
    Form(form): Form<ActionForm>,
) -> Result<Response, UiError> {
    let path = format!("/v1/lanes/{}", segment(&id));
    let body = match action.as_str() {
        "pause" => given(&form.reason).map(|reason| json!({"reason": reason})),
        "trace" => Some(json!({"attempts": TRACED_ATTEMPTS})),
        "limits" => Some(Value::Object(form.limits())),
        _ => None,
    };
    let done = match action.as_str() {
        "pause" => "paused",
        "resume" => "resumed",
        "reset" => "reset",
        "retry" => "lane-retried",
        "trace" => "traced",
        "limits" => "lane-limits",
        _ => return Err(UiError::not_found("There is no such action.")),
    };
    let changed = match action.as_str() {
        "limits" => visitor.change(Method::PATCH, &path, body.as_ref()).await,
        _ => visitor.post(&format!("{path}/{action}"), body.as_ref()).await,
    };
    match changed {
        Ok(reply) => {
            let done = if action == "retry" { retried(&reply)? } else { done };
            Ok(redirect_done(back(&form.next, "/ui/lanes"), done).into_response())
        }
        Err(error) => {
            let fault = error.refusal()?.text();
            refused(show_refused(&visitor, &id, (action, form), fault).await)
        }
    }
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
