//! The pages, one module per section.

mod bulks;
mod domains;
mod keys;
mod lanes;
mod message;
mod messages;
mod overview;
mod streams;
mod suppressions;
mod templates;
mod webhooks;

use askama::Template;
use axum::Router;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse as _, Response};
use serde::Deserialize;

use super::Ui;
use super::error::UiError;

/// Returns the routes of all pages that need a session.
pub(super) fn router() -> Router<Ui> {
    Router::new()
        .merge(overview::router())
        .merge(messages::router())
        .merge(message::router())
        .merge(bulks::router())
        .merge(templates::router())
        .merge(lanes::router())
        .merge(streams::router())
        .merge(suppressions::router())
        .merge(domains::router())
        .merge(webhooks::router())
        .merge(keys::router())
}

/// A page.
type PageResult = Result<Html<String>, UiError>;

fn render(page: &impl Template) -> PageResult {
    page.render().map(Html).map_err(|error| UiError::unreadable(&error))
}

/// Returns a page that shows why a form was refused, and what was typed into it.
fn refused(page: PageResult) -> Result<Response, UiError> {
    page.map(|page| (StatusCode::UNPROCESSABLE_ENTITY, page).into_response())
}

/// The query of a list: text to search for, and the cursor of the page.
#[derive(Debug, Default, Deserialize)]
struct ListQuery {
    #[serde(default)]
    q: String,
    #[serde(default)]
    after: String,
    /// Another filter of the list.
    #[serde(default)]
    filter: String,
}

/// Adds a parameter unless its value is empty.
fn add<'a>(params: &mut Vec<(&'a str, &'a str)>, name: &'a str, value: &'a str) {
    if !value.is_empty() {
        params.push((name, value));
    }
}

/// Returns the value of an optional field of a form: `None` if it is empty.
fn given(text: &str) -> Option<&str> {
    Some(text.trim()).filter(|text| !text.is_empty())
}
