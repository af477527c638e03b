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

use super::{ListQuery, PageResult, add, given, refused, render, with_secret};
use crate::domain::message::search;
use crate::ui::Ui;
use crate::ui::call::{Page, segment, with_query};
use crate::ui::error::UiError;
use crate::ui::format::{Clock, bytes, number, tone};
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell, redirect_done};

pub(super) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/webhooks", get(list).post(create))
        .route("/ui/webhooks/{id}", get(show))
        .route("/ui/webhooks/{id}/request", get(request))
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
    id: String,
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
    /// Returns the colour of the result. Only a response of 2xx is a success.
    fn tone(&self) -> &'static str {
        let is_success = self.status.is_some_and(|status| (200..300).contains(&status));
        if is_success && self.error.is_none() { "good" } else { "bad" }
    }

    /// Returns the path of the page with the request.
    fn request_path(&self, webhook: &str) -> String {
        let (seq, events) = (self.seq.to_string(), self.events.to_string());
        let params = [("seq", seq.as_str()), ("events", events.as_str()), ("id", self.id.as_str())];
        with_query(&format!("/ui/webhooks/{}/request", segment(webhook)), &params)
    }

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
    /// The start of a refused replay, as it was typed.
    replay_from: Option<String>,
    deliveries: Vec<Delivery>,
    is_first: bool,
    next: Option<String>,
}

async fn show(visitor: Visitor, Path(id): Path<String>, Query(query): Query<ListQuery>) -> PageResult {
    show_one(&visitor, &id, &query.after, Shown::default()).await
}

/// What the page of an endpoint shows once: a new secret, or a refused replay and the reason.
#[derive(Default)]
struct Shown {
    secret: Option<String>,
    fault: Option<String>,
    replay_from: Option<String>,
}

async fn show_one(visitor: &Visitor, id: &str, after: &str, shown: Shown) -> PageResult {
    let Shown { secret, fault, replay_from } = shown;
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
        replay_from,
        deliveries: page.data,
        is_first: after.is_empty(),
        next: page.next.map(|next| with_query(&own, &[("after", &next)])),
        webhook,
    })
}

#[derive(Debug, Deserialize)]
struct RequestQuery {
    /// The `seq` of the first event.
    seq: i64,
    /// The number of events.
    #[serde(default)]
    events: usize,
    /// The id of the delivery attempt.
    #[serde(default)]
    id: String,
}

#[derive(Template)]
#[template(path = "webhook_request.html")]
struct RequestPage {
    shell: Shell,
    clock: Clock,
    webhook: Webhook,
    delivery: Option<Delivery>,
    /// The events of the request, as JSON.
    events: Vec<String>,
    /// The number of events that were not found.
    missing: usize,
}

/// Maximum number of events in a batch.
const MAX_BATCH: usize = 100;
/// Maximum number of pages of events that are searched for those of a batch.
const MAX_EVENT_PAGES: usize = 10;

/// Shows what was posted, and the reply. Deliveries refer to the events that they had, which are shown as they are stored.
async fn request(visitor: Visitor, Path(id): Path<String>, Query(query): Query<RequestQuery>) -> PageResult {
    let path = format!("/v1/webhooks/{}", segment(&id));
    let webhook: Webhook = visitor.get(&path).await?;
    let delivery = delivery(&visitor, &path, &query.id).await?;
    let wanted = query.events.clamp(1, MAX_BATCH);
    let events = sent_events(&visitor, &webhook, query.seq, wanted).await?;
    render(&RequestPage {
        shell: Shell::new(&visitor, Section::Webhooks, format!("Delivery of event {}", number(query.seq))),
        clock: Clock(visitor.api().now()),
        delivery,
        missing: if events.is_empty() { 0 } else { wanted - events.len() },
        events: events.iter().map(|event| serde_json::to_string_pretty(event).unwrap_or_default()).collect(),
        webhook,
    })
}

/// Returns a delivery attempt: the list is ordered by id, and starts after the id that follows.
async fn delivery(visitor: &Visitor, path: &str, id: &str) -> Result<Option<Delivery>, UiError> {
    let number = id.strip_prefix("dlv_").and_then(|hex| u128::from_str_radix(hex, 16).ok());
    let Some(following) = number.and_then(|number| number.checked_add(1)) else { return Ok(None) };
    let following = format!("dlv_{following:032x}");
    let params = [("limit", "1"), ("after", following.as_str())];
    let page: Page<Delivery> = visitor.get(&with_query(&format!("{path}/deliveries"), &params)).await?;
    Ok(page.data.into_iter().find(|delivery| delivery.id == id))
}

/// Returns at most `wanted` events from this `seq` on that the endpoint receives now.
async fn sent_events(visitor: &Visitor, webhook: &Webhook, seq: i64, wanted: usize) -> Result<Vec<Value>, UiError> {
    let is_sent = |event: &Value| {
        let kind = event["type"].as_str();
        webhook.events.as_ref().is_none_or(|wanted| wanted.iter().any(|wanted| Some(wanted.as_str()) == kind))
    };
    let mut sent = Vec::new();
    let mut after = Some(seq.saturating_sub(1).max(0).to_string());
    for _ in 0..MAX_EVENT_PAGES {
        let Some(start) = after.filter(|_| sent.len() < wanted) else { break };
        let page: Page<Value> = visitor.get(&with_query("/v1/events", &[("after", &start), ("limit", "100")])).await?;
        after = (!page.data.is_empty()).then_some(page.next).flatten();
        sent.extend(page.data.into_iter().filter(is_sent));
    }
    sent.truncate(wanted);
    Ok(sent)
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

impl WithSecret {
    /// Returns the page of the endpoint with the secret.
    async fn page(self, visitor: &Visitor) -> Result<Response, UiError> {
        let shown = Shown { secret: Some(self.secret.clone()), ..Shown::default() };
        let page = show_one(visitor, &self.id, "", shown).await;
        let path = format!("/ui/webhooks/{}", segment(&self.id));
        with_secret(page, visitor, (Section::Webhooks, &path), &self.secret).map(IntoResponse::into_response)
    }
}

async fn create(visitor: Visitor, Form(form): Form<NewWebhook>) -> Result<Response, UiError> {
    let mut body = json!({"url": form.url.trim()});
    if let Some(description) = given(&form.description) {
        body["description"] = json!(description);
    }
    match visitor.post("/v1/webhooks", Some(&body)).await {
        Ok(created) => {
            let created: WithSecret = serde_json::from_slice(&created).map_err(|error| UiError::unreadable(&error))?;
            created.page(&visitor).await
        }
        Err(error) => {
            let fault = error.refusal()?.text();
            refused(show_list(&visitor, "", Some((form, fault))).await)
        }
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
            let replayed = match replay_start(&form.from, &visitor) {
                Some(start) => visitor.post(&format!("{path}/replay"), Some(&start)).await,
                None => Err(UiError::new(422, "Write a `seq`, a date such as 2026-12-01, or an age such as 24h.")),
            };
            if let Err(error) = replayed {
                let fault = Some(format!("From: {}", error.refusal()?.text()));
                let shown = Shown { fault, replay_from: Some(form.from), ..Shown::default() };
                return refused(show_one(&visitor, &id, "", shown).await);
            }
            "replayed"
        }
        "rotate" => {
            let rotated = visitor.post(&format!("{path}/rotate-secret"), None).await?;
            let rotated: WithSecret = serde_json::from_slice(&rotated).map_err(|error| UiError::unreadable(&error))?;
            return rotated.page(&visitor).await;
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
