//! *Webhooks*: state, lag and deliveries of each endpoint; test, replay, rotate.

use askama::Template;
use axum::extract::{Path, Query};
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ListQuery, PageResult, add, given, refused, render};
use crate::domain::message::search;
use crate::ui::Ui;
use crate::ui::call::{Page, segment, with_query};
use crate::ui::error::{Failure, UiError};
use crate::ui::format::{Clock, bytes, number, tone};
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell, redirect_done};

pub(super) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/webhooks", get(list).post(create))
        .route("/ui/webhooks/{id}", get(show))
        .route("/ui/webhooks/{id}/{action}", post(act))
}

#[derive(Debug, Deserialize)]
struct Webhook {
    id: String,
    url: String,
    description: String,
    events: Option<Vec<String>>,
    format: String,
    state: String,
    cursor: i64,
    behind: i64,
    pending_retries: i64,
    last_success_at: Option<DateTime<Utc>>,
    last_error: Option<String>,
    failing_since: Option<DateTime<Utc>>,
    failures: i32,
    disabled_at: Option<DateTime<Utc>>,
    disabled_reason: Option<String>,
    old_secret_until: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
}

#[derive(Debug, Deserialize)]
struct Delivery {
    webhook_id: String,
    seq: i64,
    events: i16,
    attempt: i16,
    size: i32,
    status: Option<i16>,
    response_body: Option<String>,
    error: Option<String>,
    duration_ms: i32,
    next_attempt_at: Option<DateTime<Utc>>,
    started_at: DateTime<Utc>,
}

impl Delivery {
    fn size_bytes(&self) -> i64 {
        self.size.into()
    }
}

#[derive(Template)]
#[template(path = "webhooks.html")]
struct WebhooksPage {
    shell: Shell,
    clock: Clock,
    fault: Option<String>,
    /// What was typed into the form.
    typed: NewWebhook,
    webhooks: Vec<Webhook>,
    is_first: bool,
    next: Option<String>,
}

async fn list(visitor: Visitor, Query(query): Query<ListQuery>) -> PageResult {
    show_list(&visitor, &query.after, None).await
}

/// Returns the list, with a refused form and the reason.
async fn show_list(visitor: &Visitor, after: &str, refused: Option<(NewWebhook, String)>) -> PageResult {
    let (typed, fault) = refused.map_or_else(Default::default, |(typed, fault)| (typed, Some(fault)));
    let mut params = vec![("limit", "50")];
    add(&mut params, "after", after);
    let page: Page<Webhook> = visitor.get(&with_query("/v1/webhooks", &params)).await?;
    render(&WebhooksPage {
        shell: Shell::new(visitor, Section::Webhooks, "Webhooks"),
        clock: Clock(visitor.api().now()),
        fault,
        typed,
        webhooks: page.data,
        is_first: after.is_empty(),
        next: page.next.map(|next| with_query("/ui/webhooks", &[("after", &next)])),
    })
}

#[derive(Template)]
#[template(path = "webhook.html")]
struct WebhookPage {
    shell: Shell,
    clock: Clock,
    webhook: Webhook,
    /// A new secret, shown once.
    secret: Option<String>,
    fault: Option<String>,
    deliveries: Vec<Delivery>,
    is_first: bool,
    next: Option<String>,
}

async fn show(visitor: Visitor, Path(id): Path<String>, Query(query): Query<ListQuery>) -> PageResult {
    show_one(&visitor, &id, &query.after, None, None).await
}

async fn show_one(
    visitor: &Visitor,
    id: &str,
    after: &str,
    secret: Option<String>,
    fault: Option<String>,
) -> PageResult {
    let (path, own) = (format!("/v1/webhooks/{}", segment(id)), format!("/ui/webhooks/{}", segment(id)));
    let webhook: Webhook = visitor.get(&path).await?;
    let mut params = vec![("limit", "25")];
    add(&mut params, "after", after);
    let page: Page<Delivery> = visitor.get(&with_query(&format!("{path}/deliveries"), &params)).await?;
    render(&WebhookPage {
        shell: Shell::new(visitor, Section::Webhooks, webhook.url.as_str()).at(with_query(&own, &params[1..])),
        clock: Clock(visitor.api().now()),
        secret,
        fault,
        deliveries: page.data,
        is_first: after.is_empty(),
        next: page.next.map(|next| with_query(&own, &[("after", &next)])),
        webhook,
    })
}

#[derive(Debug, Default, Deserialize)]
struct NewWebhook {
    url: String,
    #[serde(default)]
    description: String,
}

/// A response with a secret.
#[derive(Debug, Deserialize)]
struct WithSecret {
    id: String,
    secret: String,
}

async fn create(visitor: Visitor, Form(form): Form<NewWebhook>) -> Result<Response, UiError> {
    let mut body = json!({"url": form.url.trim()});
    if let Some(description) = given(&form.description) {
        body["description"] = json!(description);
    }
    match visitor.post("/v1/webhooks", Some(&body)).await {
        Ok(created) => {
            let created: WithSecret = serde_json::from_slice(&created).map_err(|error| UiError::unreadable(&error))?;
            let page = show_one(&visitor, &created.id, "", Some(created.secret), None).await?;
            Ok(page.into_response())
        }
        Err(UiError::Failed(failure @ Failure { status: 422, .. })) => {
            refused(show_list(&visitor, "", Some((form, failure.text()))).await)
        }
        Err(error) => Err(error),
    }
}

#[derive(Debug, Deserialize)]
struct ActionForm {
    /// Where a replay starts: a `seq`, or a time as in the search box.
    #[serde(default)]
    from: String,
}

async fn act(
    visitor: Visitor,
    Path((id, action)): Path<(String, String)>,
    Form(form): Form<ActionForm>,
) -> Result<Response, UiError> {
    let path = format!("/v1/webhooks/{}", segment(&id));
    let done = match action.as_str() {
        "test" => {
            visitor.post(&format!("{path}/test"), None).await?;
            "tested"
        }
        "enable" | "disable" => {
            let body = json!({"disabled": action == "disable"});
            visitor.change(Method::PATCH, &path, Some(&body)).await?;
            if action == "enable" { "enabled" } else { "disabled" }
        }
        "replay" => {
            let Some(start) = replay_start(&form.from, &visitor) else {
                let fault = "Write a `seq`, a date such as 2026-12-01, or an age such as 24h.".to_owned();
                return refused(show_one(&visitor, &id, "", None, Some(fault)).await);
            };
            visitor.post(&format!("{path}/replay"), Some(&start)).await?;
            "replayed"
        }
        "rotate" => {
            let rotated = visitor.post(&format!("{path}/rotate-secret"), None).await?;
            let rotated: WithSecret = serde_json::from_slice(&rotated).map_err(|error| UiError::unreadable(&error))?;
            let page = show_one(&visitor, &rotated.id, "", Some(rotated.secret), None).await?;
            return Ok(page.into_response());
        }
        _ => return Err(UiError::not_found("There is no such action.")),
    };
    Ok(redirect_done(&format!("/ui/webhooks/{}", segment(&id)), done).into_response())
}

/// Returns the body of a replay.
fn replay_start(text: &str, visitor: &Visitor) -> Option<Value> {
    let text = text.trim();
    if let Ok(seq) = text.parse::<i64>() {
        return Some(json!({"after_seq": seq}));
    }
    let at = search::time(text, visitor.api().now())?;
    Some(json!({"since": at}))
}
