//! The pages, one module per section.

mod admin;
mod bulks;
mod domains;
mod inbox;
mod lanes;
mod message;
mod messages;
mod overview;
mod receiving;
mod streams;
mod suppressions;
mod templates;
mod webhooks;

use std::borrow::Cow;

use askama::Template;
use axum::Router;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Ui;
use super::error::UiError;
use super::session::Visitor;
use super::shell::{Section, Shell};

/// Returns the routes of all pages that need a session.
pub(super) fn router() -> Router<Ui> {
    Router::new()
        .merge(overview::router())
        .merge(messages::router())
        .merge(message::router())
        .merge(receiving::messages::router())
        .merge(bulks::router())
        .merge(templates::router())
        .merge(lanes::router())
        .merge(streams::router())
        .merge(suppressions::router())
        .merge(domains::router())
        .merge(receiving::routes::router())
        .merge(webhooks::router())
        .merge(admin::keys::router())
        .merge(admin::audit::router())
        .merge(admin::tenants::router())
        .merge(admin::service::router())
        .merge(inbox::router())
}

/// A page.
type PageResult = Result<Html<String>, UiError>;

fn render(page: &impl Template) -> PageResult {
    page.render().map(Html).map_err(|error| UiError::unreadable(&error))
}

/// A secret alone.
#[derive(Template)]
#[template(path = "secret.html")]
struct SecretPage<'a> {
    shell: Shell,
    secret: &'a str,
    fault: String,
}

/// Returns the page that shows a new secret, or one with the secret alone if the other cannot be read: it is shown only once.
fn with_secret(page: PageResult, visitor: &Visitor, (section, path): (Section, &str), secret: &str) -> PageResult {
    let fault = match page {
        Ok(page) => return Ok(page),
        Err(UiError::Failed(failure)) => failure.text(),
        Err(UiError::SignedOut { .. }) => "The session has ended; sign in again.".to_owned(),
    };
    let shell = Shell::new(visitor, section, "New secret").at(path.to_owned());
    render(&SecretPage { shell, secret, fault })
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

/// Returns the value of a numeric field of a form: null if it is empty. What is not a number stays text, which the API refuses
/// with the reason.
fn numeric(text: &str) -> Value {
    let Some(text) = given(text) else { return Value::Null };
    let number = without_separators(text);
    if let Ok(whole) = number.parse::<i64>() {
        return json!(whole);
    }
    number.parse::<f64>().ok().filter(|number| number.is_finite()).map_or_else(|| json!(text), |number| json!(number))
}

/// Returns whether a field of a form was changed: `was` is the text that the form was opened with, if it says so. Only changed
/// fields are sent, so that what somebody else has changed since stays as it is.
fn is_changed(text: &str, was: Option<&str>) -> bool {
    was.is_none_or(|was| was.trim() != text.trim())
}

/// Adds the numeric fields of a form that were changed to the body of a change: each has its name, its text, and the text that
/// the form was opened with.
fn add_changed(body: &mut Map<String, Value>, fields: &[(&str, &str, Option<&str>)]) {
    for (name, text, was) in fields {
        if is_changed(text, *was) {
            body.insert((*name).to_owned(), numeric(text));
        }
    }
}

/// Returns the fields of a form that have a text; the template writes them as hidden fields.
fn present<'a, const N: usize>(fields: [(&'static str, &'a Option<String>); N]) -> Vec<(&'static str, &'a str)> {
    fields.into_iter().filter_map(|(name, text)| Some((name, text.as_deref()?))).collect()
}

/// Returns a number without the commas between its thousands. One with a comma elsewhere, such as `1,5`, stays as it is, and is
/// no number: the comma may have been meant as a decimal one.
fn without_separators(text: &str) -> Cow<'_, str> {
    let (whole, fraction) = text.find('.').map_or((text, ""), |at| text.split_at(at));
    let mut groups = whole.trim_start_matches('-').split(',');
    let is_digits = |group: &str| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit());
    let first = groups.next().unwrap_or_default();
    let is_grouped = is_digits(first)
        && first.len() <= 3
        && !first.starts_with('0')
        && groups.all(|group| group.len() == 3 && is_digits(group));
    if is_grouped && !fraction.contains(',') { Cow::Owned(text.replace(',', "")) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changed_fields_are_sent() {
        let mut body = Map::new();
        let fields =
            [("rate", "5", Some("5")), ("weight", "7", Some("8")), ("burst", "", Some("1")), ("size", "1", None)];
        add_changed(&mut body, &fields);
        assert_eq!(Value::Object(body), json!({"weight": 7, "burst": null, "size": 1}));
    }

    #[test]
    fn numbers_of_forms_keep_what_is_not_a_number() {
        for (text, value) in [
            (" ", Value::Null),
            ("1,200", json!(1_200)),
            ("-1,200,000.5", json!(-1_200_000.5)),
            ("1,5", json!("1,5")),
            ("0,500", json!("0,500")),
            ("12,34", json!("12,34")),
            ("1.5,000", json!("1.5,000")),
            ("1200,000", json!("1200,000")),
            ("0.5", json!(0.5)),
            ("ten", json!("ten")),
            ("inf", json!("inf")),
        ] {
            assert_eq!(numeric(text), value, "{text}");
        }
    }
}
