//! Actions on everything that matches a search: first the count, then the action, whose progress has a page.

use askama::Template;
use axum::extract::{Path, Query};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::domain::message::search;
use crate::ui::Ui;
use crate::ui::call::{Page, segment, with_query};
use crate::ui::error::{Failure, FieldFault, UiError};
use crate::ui::format::{Clock, number, tone};
use crate::ui::pages::{ListQuery, PageResult, add, refused, render};
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell, redirect_done};

pub(super) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/actions", get(list).post(start))
        .route("/ui/actions/count", post(count))
        .route("/ui/actions/{id}", get(show))
        .route("/ui/actions/{id}/cancel", post(cancel))
}

/// What is to be done, and the text of the search box.
#[derive(Debug, Deserialize)]
struct ActionForm {
    action: String,
    #[serde(default)]
    q: String,
    /// When it was counted, in the form that confirms.
    at: Option<DateTime<Utc>>,
}

impl ActionForm {
    /// Returns the body of the request; fails with the reasons if the search cannot be the filter of an action. The count and
    /// the action pass the same time: the search is as of then, and messages that were accepted later do not match.
    fn body(&self, at: DateTime<Utc>, is_dry_run: bool) -> Result<Value, Vec<String>> {
        let mut search = search::parse(&self.q, at);
        let mut filter = Map::new();
        // The filter compares milliseconds, and those of the count itself match.
        let end = at + TimeDelta::milliseconds(1);
        filter.insert("created_before".to_owned(), json!(end.to_rfc3339_opts(SecondsFormat::Millis, true)));
        for (name, value) in search.params {
            match name {
                // A release is only of held recipients.
                "held" if self.action == "release" && value == "true" => {}
                "held" | "message_id" => {
                    let field = search::field(name);
                    search.faults.push(format!("`{field}:` cannot select messages for this action; leave it out."));
                }
                "created_before" if value.parse::<DateTime<Utc>>().is_ok_and(|before| before > end) => {}
                _ => {
                    filter.insert(name.to_owned(), json!(value));
                }
            }
        }
        if !search.faults.is_empty() {
            return Err(search.faults);
        }
        Ok(json!({"action": self.action, "dry_run": is_dry_run, "filter": filter}))
    }
}

/// The result of a dry run.
#[derive(Debug, Deserialize)]
struct Matched {
    matched: i64,
    is_exact: bool,
}

impl Matched {
    /// Returns the number in words.
    fn text(&self) -> String {
        let noun = if self.matched == 1 { "recipient" } else { "recipients" };
        let least = if self.is_exact { "" } else { "at least " };
        format!("{least}{} {noun}", number(self.matched))
    }
}

#[derive(Template)]
#[template(path = "action_confirm.html")]
struct ConfirmPage {
    shell: Shell,
    form: ActionForm,
    matched: Option<Matched>,
    faults: Vec<String>,
}

impl ConfirmPage {
    /// Returns the time of the count, for the form that confirms.
    fn at(&self) -> String {
        self.form.at.map_or_else(String::new, |at| at.to_rfc3339_opts(SecondsFormat::Millis, true))
    }

    /// Returns what the action does, as the beginning of a question.
    fn verb(&self) -> &'static str {
        verb(&self.form.action)
    }
}

fn verb(action: &str) -> &'static str {
    match action {
        "cancel" => "Cancel",
        "retry" => "Retry",
        _ => "Release",
    }
}

/// Counts what matches, and asks for confirmation.
async fn count(visitor: Visitor, Form(form): Form<ActionForm>) -> Result<Response, UiError> {
    counted(visitor, form).await
}

async fn counted(visitor: Visitor, form: ActionForm) -> Result<Response, UiError> {
    let now = visitor.api().now();
    let form = ActionForm { at: Some(now), ..form };
    let body = match form.body(now, true) {
        Ok(body) => body,
        Err(faults) => return refused(confirm(&visitor, form, None, faults)),
    };
    match visitor.post("/v1/messages/actions", Some(&body)).await {
        Ok(matched) => {
            let matched = serde_json::from_slice(&matched).map_err(|error| UiError::unreadable(&error))?;
            confirm(&visitor, form, Some(matched), Vec::new()).map(IntoResponse::into_response)
        }
        Err(error) => {
            let faults = sentences(error.refusal()?);
            refused(confirm(&visitor, form, None, faults))
        }
    }
}

/// Returns the faults of a request, named by the fields of the search box.
fn sentences(failure: Failure) -> Vec<String> {
    if failure.errors.is_empty() {
        return vec![failure.detail];
    }
    let text = |fault: &FieldFault| {
        let name = fault.pointer.trim_start_matches("/filter").trim_start_matches('/');
        format!("{}: {}", search::field(name), fault.message)
    };
    failure.errors.iter().map(text).collect()
}

fn confirm(visitor: &Visitor, form: ActionForm, matched: Option<Matched>, faults: Vec<String>) -> PageResult {
    let mut params = Vec::new();
    add(&mut params, "q", &form.q);
    // The page answers a form, so its own path has no page to come back to.
    let list = with_query("/ui/messages", &params);
    let shell = Shell::new(visitor, Section::Messages, format!("{} messages", verb(&form.action))).at(list);
    render(&ConfirmPage { shell, form, matched, faults })
}

/// Starts what was counted. A form without the time of its count is counted first.
async fn start(visitor: Visitor, Form(form): Form<ActionForm>) -> Result<Response, UiError> {
    let Some(at) = form.at else { return counted(visitor, form).await };
    let body = match form.body(at.min(visitor.api().now()), false) {
        Ok(body) => body,
        Err(faults) => return refused(confirm(&visitor, form, None, faults)),
    };
    match visitor.post("/v1/messages/actions", Some(&body)).await {
        Ok(started) => {
            let action: Action = serde_json::from_slice(&started).map_err(|error| UiError::unreadable(&error))?;
            Ok(redirect_done(&action.path(), "action-started").into_response())
        }
        Err(error) => {
            let faults = sentences(error.refusal()?);
            refused(confirm(&visitor, form, None, faults))
        }
    }
}

#[derive(Debug, Deserialize)]
#[allow(clippy::struct_field_names, reason = "the names of the API's fields")]
struct Action {
    id: String,
    action: String,
    #[serde(default)]
    filter: Map<String, Value>,
    status: String,
    key_id: String,
    created_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    matched: i64,
    changed: i64,
    skipped: i64,
    progress: Option<f64>,
    estimated_end: Option<DateTime<Utc>>,
    error: Option<String>,
}

impl Action {
    fn path(&self) -> String {
        format!("/ui/actions/{}", segment(&self.id))
    }

    fn is_running(&self) -> bool {
        self.status == "running"
    }

    /// Returns the filter as text of the search box.
    fn search(&self) -> String {
        let term = |(name, value): (&String, &Value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let quote = if value.contains(' ') { "\"" } else { "" };
            format!("{}:{quote}{value}{quote}", search::field(name))
        };
        self.filter.iter().map(term).collect::<Vec<_>>().join(" ")
    }

    fn messages_path(&self) -> String {
        let search = self.search();
        let mut params = Vec::new();
        add(&mut params, "q", &search);
        with_query("/ui/messages", &params)
    }

    /// Returns the progress in percent.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0–100")]
    fn percent(&self) -> Option<u8> {
        self.progress.map(|progress| (progress * 100.0).clamp(0.0, 100.0) as u8)
    }
}

#[derive(Template)]
#[template(path = "action.html")]
struct ActionPage {
    shell: Shell,
    clock: Clock,
    action: Action,
}

async fn show(visitor: Visitor, Path(id): Path<String>) -> PageResult {
    let action: Action = visitor.get(&format!("/v1/actions/{}", segment(&id))).await?;
    let shell = Shell::new(&visitor, Section::Messages, format!("{} messages", verb(&action.action)));
    render(&ActionPage { shell, clock: Clock(visitor.api().now()), action })
}

#[derive(Template)]
#[template(path = "actions.html")]
struct ActionsPage {
    shell: Shell,
    clock: Clock,
    actions: Vec<Action>,
    is_first: bool,
    next: Option<String>,
}

async fn list(visitor: Visitor, Query(query): Query<ListQuery>) -> PageResult {
    let mut params = vec![("limit", "50")];
    add(&mut params, "after", &query.after);
    let page: Page<Action> = visitor.get(&with_query("/v1/actions", &params)).await?;
    render(&ActionsPage {
        shell: Shell::new(&visitor, Section::Messages, "Actions on messages"),
        clock: Clock(visitor.api().now()),
        actions: page.data,
        is_first: query.after.is_empty(),
        next: page.next.map(|next| with_query("/ui/actions", &[("after", &next)])),
    })
}

async fn cancel(visitor: Visitor, Path(id): Path<String>) -> Result<Redirect, UiError> {
    let id = segment(&id);
    visitor.post(&format!("/v1/actions/{id}/cancel"), None).await?;
    Ok(redirect_done(&format!("/ui/actions/{id}"), "action-canceled"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(action: &str, q: &str) -> Result<Value, Vec<String>> {
        ActionForm { action: action.into(), q: q.into(), at: None }.body(DateTime::UNIX_EPOCH, false)
    }

    #[test]
    fn search_becomes_the_filter() {
        assert_eq!(
            body("cancel", "stream:bulk tag:campaign:spring"),
            Ok(json!({"action": "cancel", "dry_run": false, "filter": {
                "stream": "bulk", "tag": "campaign:spring", "created_before": "1970-01-01T00:00:00.001Z"}}))
        );
    }

    #[test]
    fn messages_accepted_after_the_count_do_not_match() {
        for (q, before) in [
            ("", "1970-01-01T00:00:00.001Z"),
            ("before:2026-12-01", "1970-01-01T00:00:00.001Z"),
            ("before:1h", "1969-12-31T23:00:00Z"),
        ] {
            assert_eq!(body("cancel", q).unwrap()["filter"], json!({"created_before": before}), "{q}");
        }
    }

    #[test]
    fn what_an_action_cannot_select_by_is_refused() {
        assert_eq!(body("release", "held:true").unwrap()["filter"]["held"], Value::Null);
        assert_eq!(body("cancel", "held:true").unwrap_err().len(), 1);
        assert_eq!(body("cancel", "<a@b.test> too:x").unwrap_err().len(), 2);
    }

    #[test]
    fn filter_is_shown_as_a_search() {
        let action = json!({"id": "act_1", "action": "cancel", "status": "running", "key_id": "key_1", "matched": 0,
            "changed": 0, "skipped": 0, "created_at": "2026-12-01T09:00:00Z", "progress": 0.629,
            "filter": {"created_after": "2026-12-01T09:00:00Z", "subject": "two words"}});
        let action: Action = serde_json::from_value(action).unwrap();
        assert_eq!(action.search(), "after:2026-12-01T09:00:00Z subject:\"two words\"");
        assert_eq!(action.percent(), Some(62));
    }
}
