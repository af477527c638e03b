//! Sessions: a browser signs in with an API key, and acts as this key until it signs out, the key is revoked or expires,
//! or the session has not been used for 12 hours or is 7 days old.
//!
//! The cookie has a random token of 256 bits; the database has its hash, so that every replica knows the session and
//! nobody can use a copy of the table.

mod cookie;
pub(super) mod link;
mod pages;

use axum::Router;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::routing::{get, post};
use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest as _, Sha256};

use super::Ui;
use super::error::{UiError, X_REQUEST_ID};
use crate::db::keys::sessions::{self, NewSession, SessionRow};
use crate::domain::id::{KeyId, TenantId};
use crate::domain::key::{KeyMode, Scope, hex};
use crate::http::{InProcessApi, KnownKey};

/// A session that is not used for this time ends.
const MAX_IDLE: TimeDelta = TimeDelta::hours(12);
/// Every session ends after this time.
const MAX_AGE: TimeDelta = TimeDelta::days(7);
/// Minimum interval between updates of `last_seen_at`.
const MIN_TOUCH_INTERVAL: TimeDelta = TimeDelta::minutes(1);

/// Returns the routes that start and end sessions.
pub(super) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/login", get(pages::show).post(pages::sign_in))
        .route("/ui/login/link", get(pages::follow_link))
        .route("/ui/logout", post(pages::sign_out))
        .route("/ui/logout/all", post(pages::sign_out_everywhere))
}

/// What a key may do to the data of its tenant, each including what is before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Look at everything.
    Reader,
    /// Send, cancel and retry messages.
    Sender,
    /// Change everything else.
    Admin,
}

/// The suspension of a tenant.
#[derive(Debug, Clone)]
pub(super) struct Suspended {
    /// When an operator suspended it.
    pub at: DateTime<Utc>,
    /// The operator's reason.
    pub reason: Option<String>,
}

/// The user of a session.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "the rights of the key do not depend on each other")]
pub(super) struct Visitor {
    /// The key that the user signed in with.
    pub key: KnownKey,
    /// The browser, which the audit log names.
    pub user_agent: Option<HeaderValue>,
    /// The key's id.
    pub key_id: KeyId,
    /// The key's name.
    pub key_name: String,
    /// What the key may do.
    pub role: Role,
    /// Whether the key may look at the data of its tenant. An operator's key alone may not.
    pub may_look: bool,
    /// Whether the key may read the content of messages.
    pub may_read: bool,
    /// Whether the key manages tenants, and sees the workers and the database.
    pub is_operator: bool,
    /// Whether the key sees what is about all sender domains, such as lanes.
    pub sees_all: bool,
    /// Whether htmx has sent the request, to replace a part of a page.
    pub is_part: bool,
    /// The path of the request with its query.
    pub path: String,
    /// The colour scheme that the user chose; `None` follows the system.
    pub theme: Option<&'static str>,
    /// The id of the request.
    pub request_id: Option<HeaderValue>,
    /// Whether the key sees live or test data.
    pub mode: KeyMode,
    /// Set while the key's tenant is suspended.
    pub suspension: Option<Suspended>,
    /// Where the API is reached, such as `https://mail.acme.test`.
    pub base: String,
    tenant: TenantId,
    ui: Ui,
    token_hash: [u8; 32],
}

impl Visitor {
    /// Returns the API.
    pub(super) fn api(&self) -> &InProcessApi {
        &self.ui.api
    }

    /// Returns whether the key may cancel and retry messages now.
    pub(super) fn may_send(&self) -> bool {
        self.role >= Role::Sender && self.suspension.is_none()
    }

    /// Returns whether the key may change the data that it sees now: of a test key, the test data.
    pub(super) fn may_admin(&self) -> bool {
        self.role >= Role::Admin && self.suspension.is_none()
    }

    /// Returns whether the key may change now what test and live keys share: domains, templates and keys.
    pub(super) fn may_admin_live(&self) -> bool {
        self.may_admin() && self.mode == KeyMode::Live
    }

    /// Returns the API key for examples: that of `postrider dev`, if the visitor could create such a key.
    pub(super) fn example_key(&self) -> Option<&str> {
        let is_allowed = self.may_admin_live() && self.tenant == TenantId::DEFAULT;
        self.ui.example_key.get().filter(|_| is_allowed).map(String::as_str)
    }

    /// Returns whether the session has not ended.
    pub(super) async fn is_signed_in(&self) -> bool {
        let now = self.ui.api.now();
        matches!(sessions::find(self.ui.api.db(), self.token_hash, now, now - MAX_IDLE).await, Ok(Some(_)))
    }

    /// Returns whether the inbox of `postrider dev` is served too.
    pub(super) fn has_inbox(&self) -> bool {
        self.ui.api.has_inbox()
    }

    fn new(ui: &Ui, parts: &Parts, token_hash: [u8; 32], row: SessionRow) -> Option<Self> {
        let has = |scope: Scope| {
            let granting = scope.granted_by();
            row.scopes.iter().any(|name| granting.iter().any(|granting| name == granting.as_str()))
        };
        let is_limited = row.sender_domains.is_some();
        // As for requests: a mode of a later version sees test data.
        let mode = row.mode.parse().unwrap_or(KeyMode::Test);
        Some(Self {
            key: KnownKey { hash: row.key_hash.try_into().ok()?, client: ui.api.client(parts) },
            user_agent: parts.headers.get(header::USER_AGENT).cloned(),
            key_id: KeyId(row.key_id),
            key_name: row.key_name,
            role: match (has(Scope::Admin), has(Scope::Send)) {
                (true, _) if !is_limited => Role::Admin,
                (true, _) | (_, true) => Role::Sender,
                (false, false) => Role::Reader,
            },
            may_look: has(Scope::Metadata),
            may_read: has(Scope::Read),
            is_operator: has(Scope::Operator) && !is_limited && mode == KeyMode::Live,
            sees_all: !is_limited,
            is_part: is_part(&parts.headers),
            path: parts.uri.path_and_query().map_or_else(|| "/ui".to_owned(), ToString::to_string),
            theme: super::shell::theme(&parts.headers),
            request_id: parts.headers.get(X_REQUEST_ID).cloned(),
            mode,
            suspension: row.suspended_at.map(|at| Suspended { at, reason: row.suspend_reason }),
            base: base(ui, parts),
            tenant: TenantId(row.tenant_id),
            ui: ui.clone(),
            token_hash,
        })
    }
}

impl FromRequestParts<Ui> for Visitor {
    type Rejection = UiError;

    async fn from_request_parts(parts: &mut Parts, ui: &Ui) -> Result<Self, UiError> {
        let (next, is_part) = (next(parts), is_part(&parts.headers));
        let signed_out = || UiError::SignedOut { next: next.clone(), is_part };
        let token = cookie::token(&parts.headers).filter(|token| is_possible(token));
        let Some(token) = token else { return Err(signed_out()) };
        let (token_hash, now) = (hash(token), ui.api.now());
        let query = sessions::find(ui.api.db(), token_hash, now, now - MAX_IDLE);
        let Some(row) = ui.api.find_counted(parts, query).await? else { return Err(signed_out()) };
        if now - row.last_seen_at >= MIN_TOUCH_INTERVAL && !is_refresh(parts) {
            sessions::touch(ui.api.db(), token_hash, now).await?;
        }
        Self::new(ui, parts, token_hash, row).ok_or_else(signed_out)
    }
}

/// Returns whether a text may be a token: 64 lower-case hexadecimal digits. Others need no query.
fn is_possible(token: &str) -> bool {
    token.len() == 64 && token.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns whether an open page has sent the request by itself, so that a forgotten tab does not keep its session. What is
/// typed into the search box is a use.
fn is_refresh(parts: &Parts) -> bool {
    let is_typed = parts.headers.get("hx-trigger").is_some_and(|element| element == "search");
    parts.uri.path() == "/ui/live" || (is_part(&parts.headers) && !is_typed)
}

/// Returns where the API is reached: the scheme and host of the request. Behind a proxy that hides its name, it is
/// `public_url`.
fn base(ui: &Ui, parts: &Parts) -> String {
    let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let forwarded = text("x-forwarded-host").filter(|_| ui.api.is_from_proxy(parts));
    let host = forwarded.or_else(|| text("host")).unwrap_or("127.0.0.1:8080");
    if cookie::is_plain(&parts.headers) {
        return format!("http://{host}");
    }
    match &ui.public_url {
        Some(url) if forwarded.is_none() && cookie::is_loopback_host(&parts.headers) => url.clone(),
        _ => format!("https://{host}"),
    }
}

/// Returns whether htmx has sent the request, to replace a part of a page.
fn is_part(headers: &HeaderMap) -> bool {
    headers.contains_key("hx-request")
}

/// Returns the page to go to after signing in: the one of the request, or the one that htmx replaces a part of. An action
/// cannot be repeated by following a link.
fn next(parts: &Parts) -> String {
    let page = if is_part(&parts.headers) {
        let url = parts.headers.get("hx-current-url").and_then(|url| url.to_str().ok());
        url.and_then(|url| url.split_once("/ui")).map(|(_, rest)| format!("/ui{rest}"))
    } else {
        parts.uri.path_and_query().filter(|_| parts.method == Method::GET).map(ToString::to_string)
    };
    page.unwrap_or_else(|| "/ui".to_owned())
}

/// Starts a session, and returns its token.
async fn start(ui: &Ui, parts: &Parts, tenant: TenantId, key: KeyId) -> Result<String, UiError> {
    let (token, now) = (hex(&rand::random::<[u8; 32]>()), ui.api.now());
    let session = NewSession { token_hash: hash(&token), tenant, key, created_at: now, expires_at: now + MAX_AGE };
    sessions::insert(ui.api.db(), &session).await?;
    let client = ui.api.client(parts).map(tracing::field::display);
    tracing::info!(event = "dashboard_signed_in", by = %key, client, "signed in to the dashboard");
    Ok(token)
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Returns the value of a cookie.
pub(super) fn cookie_value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    cookie::value(headers, name)
}
