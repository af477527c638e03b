//! The web pages of the inbox, in `postrider dev` and `postrider inbox` only: the list, and one page per message.
//!
//! Messages are untrusted. Their text is escaped, and their HTML is shown in a frame that may not run scripts, load
//! resources or submit forms. The pages have one script, which reloads a list, and load nothing from other hosts.

mod markup;

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use serde::Deserialize;

use super::inbox::{Filter, Inbox, InboxError};
use super::routes::{invalid, number};
use crate::mail::cid::Images;

pub(super) use markup::{Tab, escaped};

/// Maximum number of messages in the list.
const MAX_LISTED: usize = 50;

/// The policy of the inbox's pages: only their own style sheet, script, forms and frames.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
    frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The policy of a message's HTML: inline styles and images, no scripts, no forms, no network.
const MESSAGE_POLICY: &str = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

/// Returns the routes of the pages.
pub fn router(inbox: Arc<Inbox>) -> Router {
    let pages = Router::new()
        .route("/inbox", get(list))
        .route("/inbox/clear", post(clear))
        .route("/inbox/{n}", get(show))
        .route("/inbox/{n}/html", get(frame))
        .route("/inbox/{n}/delete", post(delete))
        .with_state(inbox);
    pages.merge(files())
}

/// Returns the routes of the pages if they are part of the dashboard: they lead there.
pub fn moved() -> Router {
    let message = async |Path(n): Path<String>| match number(&n) {
        Ok(n) => Redirect::to(&format!("/ui/inbox/{n}")).into_response(),
        Err(error) => error.into_response(),
    };
    Router::new()
        .route("/inbox", get(|| async { Redirect::to("/ui/inbox") }))
        .route("/inbox/{n}", get(message))
        .merge(files())
}

/// Returns the routes of the style sheet and the script, which the page of the webhook receiver uses, too.
fn files() -> Router {
    let text = |kind, text: &'static str| get(([(header::CONTENT_TYPE, kind), NO_SNIFFING], text));
    Router::new()
        .route("/inbox/style.css", text("text/css", include_str!("page/style.css")))
        .route("/inbox/live.js", text("text/javascript", include_str!("page/live.js")))
}

/// The query of the list.
#[derive(Debug, Default, Deserialize)]
struct ListQuery {
    /// Text to search for in the subject, the sender and the recipients.
    #[serde(default)]
    q: String,
    /// Only messages with a number below this one.
    before: Option<u64>,
}

async fn list(
    State(inbox): State<Arc<Inbox>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, InboxError> {
    let Query(ListQuery { q, before }) = query.map_err(|rejection| invalid("query", rejection.body_text()))?;
    let words = q.trim();
    let filter = Filter { any: (!words.is_empty()).then(|| words.to_owned()), ..Filter::default() };
    let last = inbox.last();
    let found = inbox.list(MAX_LISTED, before, &filter);
    Ok(page("Inbox", Tab::Inbox, &markup::list(&found, words, before.is_some(), last)))
}

async fn show(State(inbox): State<Arc<Inbox>>, Path(n): Path<String>) -> Result<Response, InboxError> {
    let message = inbox.get(number(&n)?).await?;
    let title = message.summary.subject.as_deref().unwrap_or(markup::NO_SUBJECT);
    Ok(page(title, Tab::Message, &markup::message(&message)))
}

async fn frame(State(inbox): State<Arc<Inbox>>, Path(n): Path<String>) -> Result<Response, InboxError> {
    let n = number(&n)?;
    let message = inbox.get(n).await?;
    let content = message.html.unwrap_or_default();
    let mut images = Images::wanted_by(&content);
    for (i, file) in message.attachments.iter().enumerate() {
        if let Some(id) = &file.content_id
            && images.wants(id, &file.content_type, file.size)
        {
            images.add(id, &file.content_type, &inbox.attachment(n, i).await?.content);
        }
    }
    Ok(html(MESSAGE_POLICY, images.embed(&content)))
}

async fn delete(State(inbox): State<Arc<Inbox>>, Path(n): Path<String>) -> Result<Redirect, InboxError> {
    inbox.delete(number(&n)?).await?;
    Ok(Redirect::to("/inbox"))
}

async fn clear(State(inbox): State<Arc<Inbox>>) -> Result<Redirect, InboxError> {
    inbox.clear().await?;
    Ok(Redirect::to("/inbox"))
}

/// Returns a page of the inbox.
pub(super) fn page(title: &str, tab: Tab, body: &str) -> Response {
    html(PAGE_POLICY, markup::page(title, tab, body))
}

const NO_SNIFFING: (header::HeaderName, &str) = (header::X_CONTENT_TYPE_OPTIONS, "nosniff");

fn html(policy: &'static str, content: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        NO_SNIFFING,
    ];
    (headers, content).into_response()
}
