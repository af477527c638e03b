//! *Streams*: kinds of traffic with their priority, limits and retry policy.

use askama::Template;
use axum::extract::Path;
use axum::http::Method;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{PageResult, add_changed, given, is_changed, present, refused, render};
use crate::ui::Ui;
use crate::ui::call::{Page, segment, with_query};
use crate::ui::error::UiError;
use crate::ui::format::Clock;
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell, redirect_done};

pub(super) fn router() -> Router<Ui> {
    Router::new().route("/ui/streams", get(list).post(create)).route("/ui/streams/{name}/{action}", post(act))
}

#[derive(Debug, Deserialize)]
struct Stream {
    name: String,
    priority: i16,
    weight: i16,
    concurrency: Option<i32>,
    rate: Option<f64>,
    retry_window: Option<String>,
    effective: Retry,
    paused: Option<Paused>,
}

#[derive(Debug, Deserialize)]
struct Retry {
    retry_window: String,
}

#[derive(Debug, Deserialize)]
struct Paused {
    at: DateTime<Utc>,
    reason: Option<String>,
}

impl Stream {
    fn segment(&self) -> String {
        segment(&self.name)
    }

    fn messages_path(&self) -> String {
        with_query("/ui/messages", &[("q", &format!("stream:{}", self.name))])
    }
}

/// A refused form: what was typed, and the reason.
#[derive(Default)]
struct Refused {
    fault: Option<String>,
    /// The name of a new stream.
    name: String,
    /// The stream and the action that another form was about.
    action: Option<(String, String)>,
    form: ActionForm,
}

#[derive(Template)]
#[template(path = "streams.html")]
struct StreamsPage {
    shell: Shell,
    clock: Clock,
    refused: Refused,
    streams: Vec<Stream>,
}

impl StreamsPage {
    /// Returns whether the form of an action of a stream was refused, and is open.
    fn is_refused(&self, stream: &Stream, action: &str) -> bool {
        self.refused.action.as_ref().is_some_and(|(name, refused)| *name == stream.name && refused == action)
    }

    /// Returns the settings of a stream as they are, or as they were typed.
    fn settings(&self, stream: &Stream) -> ActionForm {
        if self.is_refused(stream, "settings") { self.refused.form.clone() } else { ActionForm::new(stream) }
    }

    /// Returns the reason of a pause, if it was typed and refused.
    fn reason(&self, stream: &Stream) -> &str {
        if self.is_refused(stream, "pause") { &self.refused.form.reason } else { "" }
    }
}

async fn list(visitor: Visitor) -> PageResult {
    show(&visitor, Refused::default()).await
}

/// Returns the list, with a refused form.
async fn show(visitor: &Visitor, refused: Refused) -> PageResult {
    let page: Page<Stream> = visitor.get("/v1/streams").await?;
    let mut shell = Shell::new(visitor, Section::Streams, "Streams");
    if refused.fault.is_some() {
        shell = shell.at("/ui/streams".to_owned());
    }
    render(&StreamsPage { shell, clock: Clock(visitor.api().now()), refused, streams: page.data })
}

#[derive(Debug, Deserialize)]
struct NewStream {
    name: String,
}

async fn create(visitor: Visitor, Form(form): Form<NewStream>) -> Result<Response, UiError> {
    match visitor.post("/v1/streams", Some(&json!({"name": form.name.trim()}))).await {
        Ok(_) => Ok(redirect_done("/ui/streams", "created").into_response()),
        Err(error) => {
            let fault = Some(error.refusal()?.text());
            refused(show(&visitor, Refused { fault, name: form.name, ..Refused::default() }).await)
        }
    }
}

/// The form of an action. *Pause* has a reason, *Settings* the other fields; an empty one has its default.
#[derive(Debug, Clone, Default, Deserialize)]
struct ActionForm {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    priority: String,
    #[serde(default)]
    weight: String,
    #[serde(default)]
    rate: String,
    #[serde(default)]
    concurrency: String,
    #[serde(default)]
    retry_window: String,
    /// The settings that the form was opened with.
    was_priority: Option<String>,
    was_weight: Option<String>,
    was_rate: Option<String>,
    was_concurrency: Option<String>,
    was_retry_window: Option<String>,
}

impl ActionForm {
    /// Creates the form of a stream's settings.
    fn new(stream: &Stream) -> Self {
        let (priority, weight) = (stream.priority.to_string(), stream.weight.to_string());
        let rate = stream.rate.map_or_else(String::new, |rate| rate.to_string());
        let concurrency = stream.concurrency.map_or_else(String::new, |limit| limit.to_string());
        let retry_window = stream.retry_window.clone().unwrap_or_default();
        Self {
            reason: String::new(),
            was_priority: Some(priority.clone()),
            was_weight: Some(weight.clone()),
            was_rate: Some(rate.clone()),
            was_concurrency: Some(concurrency.clone()),
            was_retry_window: Some(retry_window.clone()),
            priority,
            weight,
            rate,
            concurrency,
            retry_window,
        }
    }

    /// Returns the texts that the form was opened with, for its hidden fields.
    fn opened_with(&self) -> Vec<(&'static str, &str)> {
        present([
            ("was_priority", &self.was_priority),
            ("was_weight", &self.was_weight),
            ("was_rate", &self.was_rate),
            ("was_concurrency", &self.was_concurrency),
            ("was_retry_window", &self.was_retry_window),
        ])
    }

    /// Returns the body of a change of the settings.
    fn settings(&self) -> Value {
        let mut body = Map::new();
        let mut fields = vec![
            ("rate", self.rate.as_str(), self.was_rate.as_deref()),
            ("concurrency", self.concurrency.as_str(), self.was_concurrency.as_deref()),
        ];
        // These have no default to return to.
        for (name, text, was) in
            [("priority", &self.priority, &self.was_priority), ("weight", &self.weight, &self.was_weight)]
        {
            if given(text).is_some() {
                fields.push((name, text.as_str(), was.as_deref()));
            }
        }
        add_changed(&mut body, &fields);
        if is_changed(&self.retry_window, self.was_retry_window.as_deref()) {
            body.insert("retry_window".to_owned(), json!(given(&self.retry_window)));
        }
        Value::Object(body)
    }
}

async fn act(
    visitor: Visitor,
    Path((name, action)): Path<(String, String)>,
    Form(form): Form<ActionForm>,
) -> Result<Response, UiError> {
    let path = format!("/v1/streams/{}", segment(&name));
    let (changed, done) = match action.as_str() {
        "pause" => {
            let reason = given(&form.reason).map(|reason| json!({"reason": reason}));
            (visitor.post(&format!("{path}/pause"), reason.as_ref()).await, "paused")
        }
        "resume" => (visitor.post(&format!("{path}/resume"), None).await, "resumed"),
        "settings" => (visitor.change(Method::PATCH, &path, Some(&form.settings())).await, "changed"),
        _ => return Err(UiError::not_found("There is no such action.")),
    };
    match changed {
        Ok(_) => Ok(redirect_done("/ui/streams", done).into_response()),
        Err(error) => {
            let fault = Some(format!("{name}: {}", error.refusal()?.text()));
            let refusal = Refused { fault, action: Some((name, action)), form, ..Refused::default() };
            refused(show(&visitor, refusal).await)
        }
    }
}
