//! Previews: a rendered template in the frame of the page. Whatever fails is explained there, because a frame does not show
//! other pages of the dashboard.

use askama::Template;
use axum::Form;
use axum::extract::Path;
use axum::extract::rejection::FormRejection;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::editor::values;
use crate::ui::call::segment;
use crate::ui::error::UiError;
use crate::ui::pages::given;
use crate::ui::session::Visitor;

/// The policy of a rendered template in its frame: as for a message, and without links.
const POLICY: &str = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'self'";

#[derive(Debug, Deserialize)]
pub(super) struct PreviewForm {
    #[serde(default)]
    variables: String,
    #[serde(default)]
    version: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Rendered {
    subject: Option<String>,
    html: Option<String>,
    text: Option<String>,
}

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

/// Renders a published version.
pub(super) async fn show(
    visitor: Result<Visitor, UiError>,
    Path(id): Path<String>,
    form: Result<Form<PreviewForm>, FormRejection>,
) -> Result<Response, UiError> {
    let form = match form {
        Ok(Form(form)) => form,
        Err(refusal) => return unrendered(refusal.body_text()),
    };
    match rendered(visitor, &id, &form).await {
        Ok(rendered) => framed(rendered),
        Err(error) => failed(error),
    }
}

/// Has the API render the template.
async fn rendered(visitor: Result<Visitor, UiError>, id: &str, form: &PreviewForm) -> Result<Rendered, UiError> {
    let mut body = Map::new();
    if let Some(values) = values(&form.variables).map_err(|fault| UiError::new(422, fault))? {
        body.insert("variables".to_owned(), values);
    }
    if let Some(version) = given(&form.version).and_then(|version| version.parse::<i32>().ok()) {
        body.insert("version".to_owned(), json!(version));
    }
    let path = format!("/v1/templates/{}/preview", segment(id));
    let rendered = visitor?.post(&path, Some(&Value::Object(body))).await?;
    serde_json::from_slice(&rendered).map_err(|error| UiError::unreadable(&error))
}

/// Returns a rendered template for the frame.
pub(super) fn framed(rendered: Rendered) -> Result<Response, UiError> {
    let Rendered { subject, html, text } = rendered;
    let Some(html) = html else {
        return plain(&PlainPreview { subject, text: text.unwrap_or_default(), is_fault: false });
    };
    let above = RenderedSubject { subject: subject.unwrap_or_default() }.render();
    let above = above.map_err(|error| UiError::unreadable(&error))?;
    Ok(respond(format!("{above}{html}")))
}

/// Returns the reason why a template cannot be rendered, for the frame.
pub(super) fn unrendered(text: String) -> Result<Response, UiError> {
    plain(&PlainPreview { subject: None, text, is_fault: true })
}

/// Returns the failure of a call, for the frame.
pub(super) fn failed(error: UiError) -> Result<Response, UiError> {
    match error {
        UiError::Failed(failure) => unrendered(failure.text()),
        UiError::SignedOut { .. } => unrendered("The session has ended. Load the page again.".to_owned()),
    }
}

fn plain(page: &PlainPreview) -> Result<Response, UiError> {
    page.render().map(respond).map_err(|error| UiError::unreadable(&error))
}

fn respond(html: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_FRAME_OPTIONS, "SAMEORIGIN"),
    ];
    (headers, html).into_response()
}
