//! *Templates*: the draft, its preview with variables, the versions, and publishing.

use askama::Template;
use axum::extract::rejection::FormRejection;
use axum::extract::{Path, Query};
use axum::http::header;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{ListQuery, PageResult, add, given, render};
use crate::ui::Ui;
use crate::ui::call::{Page, segment, with_query};
use crate::ui::error::UiError;
use crate::ui::format::Clock;
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell, redirect_done};

pub(super) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/templates", get(list))
        .route("/ui/templates/{id}", get(show))
        .route("/ui/templates/{id}/preview", post(preview))
        .route("/ui/templates/{id}/publish", post(publish))
}

#[derive(Debug, Deserialize)]
struct Summary {
    id: String,
    alias: Option<String>,
    name: String,
    updated_at: DateTime<Utc>,
    version: Option<i32>,
    has_unpublished_changes: bool,
    format: String,
    subject: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Draft {
    id: String,
    alias: Option<String>,
    name: String,
    updated_at: DateTime<Utc>,
    version: Option<i32>,
    published_at: Option<DateTime<Utc>>,
    has_unpublished_changes: bool,
    syntax: String,
    format: String,
    subject: Option<String>,
    html: Option<String>,
    text: Option<String>,
    from: Option<String>,
    #[serde(default)]
    variables: Value,
}

impl Draft {
    /// Returns the declared variables with empty values, as a start for the form of the preview.
    fn example_variables(&self) -> String {
        let names = self.variables.as_array().into_iter().flatten().filter_map(|one| one["key"].as_str());
        let values: Map<String, Value> = names.map(|name| (name.to_owned(), json!(""))).collect();
        serde_json::to_string_pretty(&values).unwrap_or_default()
    }
}

#[derive(Debug, Deserialize)]
#[allow(clippy::struct_field_names, reason = "the name of the field in the API")]
struct Version {
    version: i32,
    published_at: DateTime<Utc>,
    subject: Option<String>,
}

#[derive(Template)]
#[template(path = "templates.html")]
struct TemplatesPage {
    shell: Shell,
    clock: Clock,
    templates: Vec<Summary>,
    is_first: bool,
    next: Option<String>,
}

async fn list(visitor: Visitor, Query(query): Query<ListQuery>) -> PageResult {
    let mut params = vec![("limit", "50")];
    add(&mut params, "after", &query.after);
    let page: Page<Summary> = visitor.get(&with_query("/v1/templates", &params)).await?;
    render(&TemplatesPage {
        shell: Shell::new(&visitor, Section::Templates, "Templates"),
        clock: Clock(visitor.api().now()),
        templates: page.data,
        is_first: query.after.is_empty(),
        next: page.next.map(|next| with_query("/ui/templates", &[("after", &next)])),
    })
}

#[derive(Template)]
#[template(path = "template.html")]
struct TemplatePage {
    shell: Shell,
    clock: Clock,
    draft: Draft,
    versions: Vec<Version>,
}

async fn show(visitor: Visitor, Path(id): Path<String>) -> PageResult {
    let path = format!("/v1/templates/{}", segment(&id));
    let draft: Draft = visitor.get(&path).await?;
    let versions: Page<Version> = visitor.get(&format!("{path}/versions?limit=20")).await?;
    let shell = Shell::new(&visitor, Section::Templates, draft.name.as_str());
    render(&TemplatePage { shell, clock: Clock(visitor.api().now()), draft, versions: versions.data })
}

#[derive(Debug, Deserialize)]
struct PreviewForm {
    #[serde(default)]
    variables: String,
    #[serde(default)]
    version: String,
}

#[derive(Debug, Deserialize)]
struct Rendered {
    subject: Option<String>,
    html: Option<String>,
    text: Option<String>,
}

/// The policy of a rendered template in its frame: as for a message, and without links.
const PREVIEW_POLICY: &str = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'self'";

/// A preview without HTML.
#[derive(Template)]
#[template(path = "template_plain.html")]
struct PlainPreview {
    subject: Option<String>,
    text: String,
    is_fault: bool,
}

/// What is shown above the HTML of a preview.
#[derive(Template)]
#[template(path = "template_subject.html")]
struct RenderedSubject {
    subject: String,
}

/// Returns a response for the frame of the page.
fn framed(html: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, PREVIEW_POLICY),
        (header::X_FRAME_OPTIONS, "SAMEORIGIN"),
    ];
    (headers, html).into_response()
}

fn unrendered(text: String) -> Result<Response, UiError> {
    show_rendered(&PlainPreview { subject: None, text, is_fault: true })
}

fn show_rendered(page: &PlainPreview) -> Result<Response, UiError> {
    page.render().map(framed).map_err(|error| UiError::unreadable(&error))
}

/// Renders the template into the frame of the page. Whatever fails is explained there, because a frame does not show other
/// pages of the dashboard.
async fn preview(
    visitor: Result<Visitor, UiError>,
    Path(id): Path<String>,
    form: Result<Form<PreviewForm>, FormRejection>,
) -> Result<Response, UiError> {
    let form = match form {
        Ok(Form(form)) => form,
        Err(refusal) => return unrendered(refusal.body_text()),
    };
    match rendered(visitor, &id, &form).await {
        Ok(Rendered { subject, html: Some(html), .. }) => {
            let above = RenderedSubject { subject: subject.unwrap_or_default() }.render();
            let above = above.map_err(|error| UiError::unreadable(&error))?;
            Ok(framed(format!("{above}{html}")))
        }
        Ok(Rendered { subject, html: None, text }) => {
            show_rendered(&PlainPreview { subject, text: text.unwrap_or_default(), is_fault: false })
        }
        Err(UiError::Failed(failure)) => unrendered(failure.text()),
        Err(UiError::SignedOut { .. }) => unrendered("The session has ended. Load the page again.".to_owned()),
    }
}

/// Has the API render the template.
async fn rendered(visitor: Result<Visitor, UiError>, id: &str, form: &PreviewForm) -> Result<Rendered, UiError> {
    let mut body = Map::new();
    if let Some(text) = given(&form.variables) {
        let variables = serde_json::from_str::<Map<String, Value>>(text)
            .map_err(|error| UiError::new(422, format!("The variables are not a JSON object: {error}.")))?;
        body.insert("variables".to_owned(), Value::Object(variables));
    }
    if let Some(version) = given(&form.version).and_then(|version| version.parse::<i32>().ok()) {
        body.insert("version".to_owned(), json!(version));
    }
    let path = format!("/v1/templates/{}/preview", segment(id));
    let rendered = visitor?.post(&path, Some(&Value::Object(body))).await?;
    serde_json::from_slice(&rendered).map_err(|error| UiError::unreadable(&error))
}

async fn publish(visitor: Visitor, Path(id): Path<String>) -> Result<Redirect, UiError> {
    let id = segment(&id);
    visitor.post(&format!("/v1/templates/{id}/publish"), None).await?;
    Ok(redirect_done(&format!("/ui/templates/{id}"), "published"))
}
