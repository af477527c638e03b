//! The page to sign in, and the actions that start and end sessions.

use askama::Template;
use axum::Form;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse as _, Redirect, Response};
use serde::Deserialize;

use super::{Visitor, cookie, start};
use crate::db::keys::sessions;
use crate::ui::Ui;
use crate::ui::error::UiError;
use crate::ui::shell;

/// Where to go after signing in.
#[derive(Debug, Default, Deserialize)]
pub(super) struct LoginQuery {
    #[serde(default)]
    next: String,
}

/// The form of the page.
#[derive(Deserialize)]
pub(super) struct LoginForm {
    key: String,
    #[serde(default)]
    next: String,
}

/// The query of a link that signs in.
#[derive(Deserialize)]
pub(super) struct LinkQuery {
    #[serde(default)]
    code: String,
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage<'a> {
    theme: Option<&'static str>,
    next: &'a str,
    fault: Option<&'a str>,
    /// Whether this is `postrider dev`, which has written its keys to a file.
    is_dev: bool,
}

impl LoginPage<'_> {
    fn respond(&self, status: StatusCode) -> Response {
        (status, Html(self.render().unwrap_or_default())).into_response()
    }
}

pub(super) async fn show(
    State(ui): State<Ui>,
    headers: HeaderMap,
    query: Result<Query<LoginQuery>, QueryRejection>,
) -> Response {
    let LoginQuery { next } = query.map(|Query(query)| query).unwrap_or_default();
    LoginPage { theme: shell::theme(&headers), next: &next, fault: None, is_dev: ui.api.has_inbox() }
        .respond(StatusCode::OK)
}

/// Starts a session with an API key that may read.
pub(super) async fn sign_in(
    State(ui): State<Ui>,
    parts: Parts,
    Form(form): Form<LoginForm>,
) -> Result<Response, UiError> {
    let refuse = |status: u16, fault: &str| {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::UNAUTHORIZED);
        LoginPage {
            theme: shell::theme(&parts.headers),
            next: &form.next,
            fault: Some(fault),
            is_dev: ui.api.has_inbox(),
        }
        .respond(status)
    };
    if cookie::is_refused(&parts.headers) {
        return Ok(refuse(400, NEEDS_HTTPS));
    }
    let signed_in = match ui.api.sign_in(form.key.trim(), &parts).await {
        Ok(signed_in) => signed_in,
        Err(error) => {
            return match UiError::from(error) {
                UiError::Failed(failure) => Ok(refuse(failure.status, &failure.detail)),
                signed_out @ UiError::SignedOut { .. } => Err(signed_out),
            };
        }
    };
    if !signed_in.may_look {
        return Ok(refuse(403, "This key lacks the scope `read`."));
    }
    let token = start(&ui, &parts, signed_in.tenant, signed_in.key).await?;
    Ok(redirect(shell::local_path(&form.next), cookie::set(&parts.headers, &token)))
}

const NEEDS_HTTPS: &str = "Over the network, the dashboard needs HTTPS: put a proxy with a certificate in front of \
    Postrider, or open http://localhost through an SSH tunnel.";

/// Starts a session with a link that `postrider dev` has printed.
pub(super) async fn follow_link(
    State(ui): State<Ui>,
    parts: Parts,
    Query(query): Query<LinkQuery>,
) -> Result<Response, UiError> {
    let Some((tenant, key)) = ui.links.take(&query.code) else {
        let fault = "This link has been used or has expired. Sign in with an API key.";
        let theme = shell::theme(&parts.headers);
        let page = LoginPage { theme, next: "", fault: Some(fault), is_dev: ui.api.has_inbox() };
        return Ok(page.respond(StatusCode::UNAUTHORIZED));
    };
    let token = start(&ui, &parts, tenant, key).await?;
    Ok(redirect("/ui", cookie::set_by_link(&parts.headers, &token, ui.api.is_local(&parts))))
}

/// Ends this session.
pub(super) async fn sign_out(visitor: Visitor, headers: HeaderMap) -> Result<Response, UiError> {
    sessions::remove(visitor.api().db(), visitor.token_hash).await?;
    Ok(redirect("/ui/login", cookie::clear(&headers)))
}

/// Ends all sessions of the key.
pub(super) async fn sign_out_everywhere(visitor: Visitor, headers: HeaderMap) -> Result<Response, UiError> {
    let ended = sessions::remove_all(visitor.api().db(), visitor.key_id).await?;
    tracing::info!(
        event = "dashboard_signed_out_everywhere",
        by = %visitor.key_id,
        sessions = ended,
        "ended all dashboard sessions of an API key"
    );
    Ok(redirect("/ui/login", cookie::clear(&headers)))
}

fn redirect(to: &str, cookies: impl IntoIterator<Item = HeaderValue>) -> Response {
    let mut response = Redirect::to(to).into_response();
    for cookie in cookies {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}
