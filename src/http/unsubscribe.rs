//! `/u/{token}`: unsubscribes a recipient from a stream (RFC 8058). For email clients and people, not for applications.
//!
//! A POST unsubscribes at once, without a cookie, a key or a redirect, as mailbox providers require. A GET only shows a
//! page with a button, because link scanners follow links. Links are signed: a forged one costs no query, and a valid
//! one works even after its message has been deleted.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::{Api, ApiError};
use crate::db;
use crate::domain::message::unsubscribe::Ticket;

/// Maximum bytes of a form; mailbox providers send 26.
const MAX_FORM_BYTES: usize = 16 << 10;
/// Maximum time for a form to arrive.
const MAX_FORM_TIME: Duration = Duration::from_secs(10);

/// The token of a link; a token that is not UTF-8 is invalid.
type Token = Result<Path<String>, PathRejection>;

/// Returns the router of the unsubscribe pages.
pub(super) fn router() -> Router<Api> {
    Router::new().route("/u/{token}", get(show_page).post(unsubscribe_recipient))
}

/// Returns the page with the button. Changes nothing, and does not query the database.
async fn show_page(State(api): State<Api>, token: Token) -> Response {
    let Some(ticket) = ticket(&api, token) else { return invalid_link() };
    let (address, stream) = (escape_html(&ticket.address.to_string()), escape_html(&ticket.stream));
    page(
        StatusCode::OK,
        "Unsubscribe",
        &format!(
            "<p>Stop sending <b>{stream}</b> messages to <b>{address}</b>?</p>\
             <form method=\"post\"><input type=\"hidden\" name=\"List-Unsubscribe\" value=\"One-Click\">\
             <button>Unsubscribe</button></form>"
        ),
    )
}

/// Unsubscribes the recipient. Repeating it has no further effect.
async fn unsubscribe_recipient(
    State(api): State<Api>,
    token: Token,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    // Reads the form although its content is not needed: a client whose upload is cut off may report a failure.
    let form = tokio::time::timeout(MAX_FORM_TIME, axum::body::to_bytes(body, MAX_FORM_BYTES)).await;
    form.map_err(|_| ApiError::BodyTimeout)?.map_err(|_| ApiError::TooLarge(MAX_FORM_BYTES as u64))?;
    let Some(ticket) = ticket(&api, token) else { return Ok(invalid_link()) };
    db::suppressions::unsubscribe::unsubscribe(&api.db, &ticket, api.clock.now()).await?;
    tracing::info!(
        event = "recipient_unsubscribed",
        message_id = %ticket.message,
        stream = ticket.stream,
        "recipient unsubscribed"
    );
    if !accepts_html(&headers) {
        return Ok((StatusCode::OK, "Unsubscribed.\n").into_response());
    }
    let (address, stream) = (escape_html(&ticket.address.to_string()), escape_html(&ticket.stream));
    let body = format!("<p><b>{address}</b> no longer receives <b>{stream}</b> messages.</p>");
    Ok(page(StatusCode::OK, "You are unsubscribed", &body))
}

fn ticket(api: &Api, token: Token) -> Option<Ticket> {
    api.links.as_ref()?.verify(&token.ok()?.0)
}

/// Returns whether the client accepts HTML, as a browser does.
fn accepts_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

fn invalid_link() -> Response {
    let body = "<p>This link is incomplete or invalid. Try the link in the message again, or ask the sender to remove you \
    from the list.</p>";
    page(StatusCode::NOT_FOUND, "Invalid link", body)
}

/// The page's Content-Security-Policy: only its inline style, and a form that posts to the same origin.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'self'; \
    frame-ancestors 'none'";

const STYLE: &str = "body{font:1.125rem/1.5 system-ui,sans-serif;max-width:32rem;margin:15vh auto;padding:0 1.5rem;\
    color:#1a1a1a;background:#fff;overflow-wrap:anywhere}h1{font-size:1.5rem}\
    button{font:inherit;padding:.6rem 1.4rem;border:0;border-radius:.4rem;background:#1a4fa0;color:#fff;cursor:pointer}\
    button:hover,button:focus-visible{background:#123a78}button:focus-visible{outline:3px solid #7aa7ee;outline-offset:2px}\
    @media(prefers-color-scheme:dark){body{color:#eee;background:#16181c}button{background:#8ab4f8;color:#10233f}\
    button:hover,button:focus-visible{background:#aecbfa}}";

fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><meta name=\"robots\" content=\"noindex\">\
         <title>{title}</title><style>{STYLE}</style></head><body><main><h1>{title}</h1>{body}</main></body></html>"
    );
    (status, headers, html).into_response()
}

fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}
