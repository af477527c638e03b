//! *Suppressions*: who gets no messages, and why.

use askama::Template;
use axum::extract::Query;
use axum::http::Method;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{ListQuery, PageResult, add, given, refused, render};
use crate::ui::Ui;
use crate::ui::call::{Page, segment, with_query};
use crate::ui::error::{Failure, UiError};
use crate::ui::format::Clock;
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell, back, redirect_done};

pub(super) fn router() -> Router<Ui> {
    Router::new().route("/ui/suppressions", get(list).post(add_entry)).route("/ui/suppressions/remove", post(remove))
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
        Err(UiError::Failed(failure @ Failure { status: 422, .. })) => {
            refused(show(&visitor, ListQuery::default(), Some((form, failure.text()))).await)
        }
        Err(error) => Err(error),
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
