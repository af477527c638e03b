//! *Suppressions*: who gets no messages, and why; imports and exports.

use std::fmt::Write as _;

use askama::Template;
use axum::body::Body;
use axum::extract::{Query, Request};
use axum::http::{Method, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{ListQuery, PageResult, add, given, refused, render};
use crate::ui::Ui;
use crate::ui::call::{Page, segment, with_query};
use crate::ui::error::{Failure, UiError};
use crate::ui::format::{Clock, number};
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell, back, redirect_done};

pub(super) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/suppressions", get(list).post(add_entry))
        .route("/ui/suppressions/remove", post(remove))
        .route("/ui/suppressions/export", get(export))
        .route("/ui/suppressions/import", get(show_import).post(import))
}

#[derive(Debug, Deserialize)]
struct Entry {
    address: String,
    stream: Option<String>,
    reason: String,
    note: Option<String>,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    message_id: Option<String>,
}

impl Entry {
    fn reason_text(&self) -> String {
        self.reason.replace('_', " ")
    }

    fn tone(&self) -> &'static str {
        match self.reason.as_str() {
            "hard_bounce" | "complaint" => "bad",
            "unsubscribe" => "warn",
            _ => "neutral",
        }
    }

    /// Returns the id of its row, of letters, digits, `-` and `_` only: htmx and `live.js` use ids in selectors, and look for
    /// them in HTML, where `'` has an escape.
    fn row_id(&self) -> String {
        let mut id = String::new();
        for byte in format!("{}-{}", self.stream_name(), self.address).bytes() {
            if byte.is_ascii_alphanumeric() || byte == b'-' {
                id.push(char::from(byte));
            } else {
                // Writing to a string does not fail.
                let _ = write!(id, "_{byte:02x}");
            }
        }
        id
    }

    /// Returns the stream of the entry, as the API names it for a removal.
    fn stream_name(&self) -> &str {
        self.stream.as_deref().unwrap_or("*")
    }
}

#[derive(Template)]
#[template(path = "suppressions.html")]
struct SuppressionsPage {
    shell: Shell,
    clock: Clock,
    q: String,
    reason: String,
    fault: Option<String>,
    /// What was typed into the form.
    typed: AddForm,
    entries: Vec<Entry>,
    is_first: bool,
    next: Option<String>,
}

async fn list(visitor: Visitor, Query(query): Query<ListQuery>) -> PageResult {
    show(&visitor, query, None).await
}

/// Returns the list, with a refused form and the reason.
async fn show(visitor: &Visitor, query: ListQuery, refused: Option<(AddForm, String)>) -> PageResult {
    let (typed, mut fault) = refused.map_or_else(Default::default, |(typed, fault)| (typed, Some(fault)));
    let mut params = vec![("limit", "50")];
    add(&mut params, "address", query.q.trim());
    add(&mut params, "reason", &query.filter);
    add(&mut params, "after", &query.after);
    let page: Page<Entry> = match visitor.get(&with_query("/v1/suppressions", &params)).await {
        Err(UiError::Failed(failure @ Failure { status: 422, .. })) => {
            fault = Some(failure.text());
            Page { data: Vec::new(), next: None }
        }
        found => found?,
    };
    render(&SuppressionsPage {
        shell: Shell::new(visitor, Section::Suppressions, "Suppressions"),
        clock: Clock(visitor.api().now()),
        fault,
        typed,
        entries: page.data,
        is_first: query.after.is_empty(),
        next: page.next.as_deref().map(|next| {
            let mut params = vec![("after", next)];
            add(&mut params, "q", &query.q);
            add(&mut params, "filter", &query.filter);
            with_query("/ui/suppressions", &params)
        }),
        q: query.q,
        reason: query.filter,
    })
}

#[derive(Debug, Default, Deserialize)]
struct AddForm {
    address: String,
    #[serde(default)]
    stream: String,
    #[serde(default)]
    note: String,
}

async fn add_entry(visitor: Visitor, Form(form): Form<AddForm>) -> Result<Response, UiError> {
    let mut entry = Map::from_iter([("address".to_owned(), json!(form.address.trim()))]);
    for (name, text) in [("stream", &form.stream), ("note", &form.note)] {
        if let Some(text) = given(text) {
            entry.insert(name.to_owned(), json!(text));
        }
    }
    match visitor.post("/v1/suppressions", Some(&Value::Object(entry))).await {
        Ok(_) => Ok(redirect_done("/ui/suppressions", "added").into_response()),
        Err(error) => {
            let fault = error.refusal()?.text();
            refused(show(&visitor, ListQuery::default(), Some((form, fault))).await)
        }
    }
}

#[derive(Debug, Deserialize)]
struct RemoveForm {
    address: String,
    stream: String,
    #[serde(default)]
    next: String,
}

async fn remove(visitor: Visitor, Form(form): Form<RemoveForm>) -> Result<Redirect, UiError> {
    let path = format!("/v1/suppressions/{}", segment(&form.address));
    let path = with_query(&path, &[("stream", &form.stream)]);
    visitor.change(Method::DELETE, &path, None).await?;
    Ok(redirect_done(back(&form.next, "/ui/suppressions"), "removed"))
}

#[derive(Debug, Deserialize)]
struct ExportQuery {
    #[serde(default)]
    format: String,
}

/// The media types of an export and an import.
const NDJSON: &str = "application/x-ndjson";
const CSV: &str = "text/csv";

/// Exports the whole list, as a download.
async fn export(visitor: Visitor, Query(query): Query<ExportQuery>) -> Result<Response, UiError> {
    let kind = if query.format == "csv" { CSV } else { NDJSON };
    let call = Request::builder().uri("/v1/suppressions/export").header(header::ACCEPT, kind).body(Body::empty());
    visitor.run(call.map_err(|error| UiError::unreadable(&error))?).await
}

/// The result of an import.
#[derive(Debug, Deserialize)]
struct Imported {
    lines: i64,
    added: i64,
    updated: i64,
    unchanged: i64,
    refused: i64,
    errors: Vec<RefusedLine>,
}

#[derive(Debug, Deserialize)]
struct RefusedLine {
    line: u64,
    pointer: String,
    message: String,
}

impl RefusedLine {
    fn field(&self) -> &str {
        self.pointer.trim_start_matches('/')
    }
}

#[derive(Template)]
#[template(path = "suppressions_import.html")]
struct ImportPage {
    shell: Shell,
    fault: Option<String>,
    /// What was typed, unless it was imported without a fault.
    entries: String,
    imported: Option<Imported>,
}

async fn show_import(visitor: Visitor) -> PageResult {
    let shell = Shell::new(&visitor, Section::Suppressions, "Import suppressions");
    render(&ImportPage { shell, fault: None, entries: String::new(), imported: None })
}

#[derive(Debug, Deserialize)]
struct ImportForm {
    #[serde(default)]
    entries: String,
}

async fn import(visitor: Visitor, Form(form): Form<ImportForm>) -> Result<Response, UiError> {
    let shell = Shell::new(&visitor, Section::Suppressions, "Import suppressions");
    let kind = if form.entries.trim_start().starts_with('{') { NDJSON } else { CSV };
    let call =
        Request::builder().method(Method::POST).uri("/v1/suppressions/import").header(header::CONTENT_TYPE, kind);
    let call = call.body(Body::from(form.entries.clone())).map_err(|error| UiError::unreadable(&error))?;
    match visitor.read_reply(call).await {
        Ok(imported) => {
            let imported: Imported = serde_json::from_slice(&imported).map_err(|error| UiError::unreadable(&error))?;
            // The lines can be corrected and sent again: those that were imported do not change.
            let entries = if imported.refused > 0 { form.entries } else { String::new() };
            render(&ImportPage { shell, fault: None, entries, imported: Some(imported) })
                .map(IntoResponse::into_response)
        }
        Err(error) => {
            let fault = Some(error.refusal()?.text());
            refused(render(&ImportPage { shell, fault, entries: form.entries, imported: None }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_of_a_row_needs_no_escape() {
        let row_id = |address: &str, stream: Option<&str>| {
            let (address, stream) = (address.to_owned(), stream.map(str::to_owned));
            let (reason, created_at) = ("manual".to_owned(), DateTime::UNIX_EPOCH);
            Entry { address, stream, reason, note: None, created_at, expires_at: None, message_id: None }.row_id()
        };
        assert_eq!(row_id("o'hara_1@example.test", None), "_2a-o_27hara_5f1_40example_2etest");
        assert_eq!(row_id("a\"<&%@bücher.test", Some("bulk")), "bulk-a_22_3c_26_25_40b_c3_bccher_2etest");
        assert_ne!(row_id("a_b@c.test", None), row_id("a'b@c.test", None));
    }
}
