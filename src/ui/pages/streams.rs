//! *Streams*: kinds of traffic with their priority, limits and retry policy.

use askama::Template;
use axum::extract::Path;
use axum::response::Redirect;
use axum::routing::{get, post};
use axum::{Form, Router};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;

use super::{PageResult, given, render};
use crate::ui::Ui;
use crate::ui::call::{Page, segment, with_query};
use crate::ui::error::UiError;
use crate::ui::format::Clock;
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell, redirect_done};

pub(super) fn router() -> Router<Ui> {
    Router::new().route("/ui/streams", get(list)).route("/ui/streams/{name}/{action}", post(act))
}

#[derive(Debug, Deserialize)]
struct Stream {
    name: String,
    priority: i16,
    weight: i16,
    concurrency: Option<i32>,
    rate: Option<f64>,
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

#[derive(Template)]
#[template(path = "streams.html")]
struct StreamsPage {
    shell: Shell,
    clock: Clock,
    streams: Vec<Stream>,
}

async fn list(visitor: Visitor) -> PageResult {
    let page: Page<Stream> = visitor.get("/v1/streams").await?;
    render(&StreamsPage {
        shell: Shell::new(&visitor, Section::Streams, "Streams"),
        clock: Clock(visitor.api().now()),
        streams: page.data,
    })
}

#[derive(Debug, Deserialize)]
struct PauseForm {
    #[serde(default)]
    reason: String,
}

async fn act(
    visitor: Visitor,
    Path((name, action)): Path<(String, String)>,
    Form(form): Form<PauseForm>,
) -> Result<Redirect, UiError> {
    let done = match action.as_str() {
        "pause" => "paused",
        "resume" => "resumed",
        _ => return Err(UiError::not_found("There is no such action.")),
    };
    let reason = given(&form.reason).filter(|_| action == "pause").map(|reason| json!({"reason": reason}));
    visitor.post(&format!("/v1/streams/{}/{action}", segment(&name)), reason.as_ref()).await?;
    Ok(redirect_done("/ui/streams", done))
}
