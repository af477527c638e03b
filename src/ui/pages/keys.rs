//! *API keys*: create, look at and revoke.

use askama::Template;
use axum::extract::{Path, Query};
use axum::http::Method;
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
    Router::new().route("/ui/keys", get(list).post(create)).route("/ui/keys/{id}/revoke", post(revoke))
}

#[derive(Debug, Deserialize)]
struct Key {
    id: String,
    name: String,
    mode: String,
    scopes: Vec<String>,
    sender_domains: Option<Vec<String>>,
    allowed_ips: Option<Vec<String>>,
    rate: Option<Rate>,
    quota: Option<Quota>,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    last_used_at: Option<DateTime<Utc>>,
    revoked_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Deserialize)]
struct Rate {
    requests_per_second: i64,
}

#[derive(Debug, Deserialize)]
struct Quota {
    recipients_per_day: i64,
}

impl Key {
    fn messages_path(&self) -> String {
        with_query("/ui/messages", &[("q", &format!("key:{}", self.id))])
    }

    fn has_expired(&self, clock: &Clock) -> bool {
        self.expires_at.is_some_and(|at| at <= clock.0)
    }
}

/// A new key, whose secret is shown once.
#[derive(Debug, Deserialize)]
struct Created {
    name: String,
    secret: String,
}

#[derive(Template)]
#[template(path = "keys.html")]
struct KeysPage {
    shell: Shell,
    clock: Clock,
    own: String,
    created: Option<Created>,
    fault: Option<String>,
    /// What was typed into the form.
    typed: NewKey,
    keys: Vec<Key>,
    is_first: bool,
    next: Option<String>,
}

async fn list(visitor: Visitor, Query(query): Query<ListQuery>) -> PageResult {
    show(&visitor, &query.after, None, None).await
}

/// Returns the list, with a new key, or with a refused form and the reason.
async fn show(
    visitor: &Visitor,
    after: &str,
    created: Option<Created>,
    refused: Option<(NewKey, String)>,
) -> PageResult {
    let (typed, fault) = refused.map_or_else(Default::default, |(typed, fault)| (typed, Some(fault)));
    let mut params = vec![("limit", "50")];
    add(&mut params, "after", after);
    let page: Page<Key> = visitor.get(&with_query("/v1/keys", &params)).await?;
    render(&KeysPage {
        shell: Shell::new(visitor, Section::Keys, "API keys"),
        clock: Clock(visitor.api().now()),
        own: visitor.key_id.to_string(),
        created,
        fault,
        typed,
        keys: page.data,
        is_first: after.is_empty(),
        next: page.next.map(|next| with_query("/ui/keys", &[("after", &next)])),
    })
}

#[derive(Debug, Default, Deserialize)]
struct NewKey {
    name: String,
    #[serde(default)]
    role: String,
    #[serde(default)]
    sender_domains: String,
}

/// Creates a key. Its secret is in the response itself, because a redirect would have to keep it somewhere.
async fn create(visitor: Visitor, Form(form): Form<NewKey>) -> Result<Response, UiError> {
    let scopes = match form.role.as_str() {
        "admin" => json!(["admin"]),
        "read" => json!(["read"]),
        "send" => json!(["send"]),
        _ => json!(["send", "read"]),
    };
    let mut body = Map::from_iter([("name".to_owned(), json!(form.name.trim())), ("scopes".to_owned(), scopes)]);
    if let Some(domains) = given(&form.sender_domains) {
        let names: Vec<&str> = domains.split([',', ' ']).filter(|name| !name.is_empty()).collect();
        body.insert("sender_domains".to_owned(), json!(names));
    }
    match visitor.post("/v1/keys", Some(&Value::Object(body))).await {
        Ok(created) => {
            let created = serde_json::from_slice(&created).map_err(|error| UiError::unreadable(&error))?;
            show(&visitor, "", Some(created), None).await.map(IntoResponse::into_response)
        }
        Err(UiError::Failed(failure @ Failure { status: 422, .. })) => {
            refused(show(&visitor, "", None, Some((form, failure.text()))).await)
        }
        Err(error) => Err(error),
    }
}

#[derive(Debug, Deserialize)]
struct RevokeForm {
    #[serde(default)]
    next: String,
}

async fn revoke(visitor: Visitor, Path(id): Path<String>, Form(form): Form<RevokeForm>) -> Result<Redirect, UiError> {
    visitor.change(Method::DELETE, &format!("/v1/keys/{}", segment(&id)), None).await?;
    Ok(redirect_done(back(&form.next, "/ui/keys"), "revoked"))
}
