//! The dashboard at `/ui`: pages for people, rendered on the server.
//!
//! - It runs no queries itself: each page calls the API within the process ([`crate::http::InProcessApi`]) as the key
//!   that its user signed in with, so it can show and do only what this key can.
//! - It works without scripts. `app.js` and htmx only refresh what changes, and add keyboard shortcuts.
//! - Nothing in a page is inline, and nothing comes from another host (`guard`). Text is escaped by the templates; no
//!   template marks text as safe.

mod assets;
mod call;
mod error;
mod format;
mod guard;
mod live;
mod pages;
mod session;
mod shell;

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use axum::response::Redirect;
use axum::routing::{any, get, post};
use axum::{Router, middleware};

use crate::clock::SharedClock;
use crate::db::Db;
use crate::http::InProcessApi;

use error::UiError;
use session::link::SignInLinks;

/// The dashboard.
#[derive(Debug, Clone)]
pub struct Dashboard(Ui);

/// The state that all pages share; cloned for each request.
#[derive(Debug, Clone)]
struct Ui(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    api: InProcessApi,
    links: SignInLinks,
    /// The URL at which others reach the API, if it is configured; without a slash at its end.
    public_url: Option<String>,
    /// The API key that examples show, with `postrider dev`.
    example_key: OnceLock<String>,
}

impl Deref for Ui {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Dashboard {
    /// Creates the dashboard. Its pages show `public_url` in examples if their own URL is unknown.
    pub fn new(api: InProcessApi, clock: SharedClock, public_url: Option<&str>) -> Self {
        let public_url = public_url.map(|url| url.trim_end_matches('/').to_owned());
        let links = SignInLinks::new(clock);
        Self(Ui(Arc::new(Shared { api, links, public_url, example_key: OnceLock::new() })))
    }

    /// Shows this API key of the default tenant in examples, to visitors who could create one.
    pub fn show_in_examples(&self, secret: String) {
        let _ = self.0.example_key.set(secret);
    }

    /// Returns a path that signs in with this API key, once and within ten minutes. `None` if the key does not exist.
    pub async fn sign_in_path(&self, secret: &str) -> Result<Option<String>, crate::db::DbError> {
        let found = crate::db::keys::find(self.0.api.db(), crate::domain::key::Secret::hash(secret)).await?;
        Ok(found.map(|found| self.0.links.create(&found.row)))
    }

    /// Returns the pool that its pages read with.
    pub fn db(&self) -> &Db {
        self.0.api.db()
    }

    /// Returns the routes of the dashboard.
    pub fn router(&self) -> Router {
        let ui = self.0.clone();
        let pages = Router::new()
            .merge(session::router())
            .merge(pages::router())
            .route("/ui/theme", post(shell::set_theme))
            .route("/ui/live", get(live::events))
            .route("/ui/{*path}", any(not_found))
            .method_not_allowed_fallback(method_not_allowed)
            .layer(middleware::from_fn_with_state(ui.clone(), guard::guard))
            .with_state(ui);
        Router::new()
            .route("/", get(|| async { Redirect::to("/ui") }))
            .route("/ui/", get(|| async { Redirect::to("/ui") }))
            .merge(assets::router())
            .merge(pages)
    }
}

async fn not_found() -> UiError {
    UiError::not_found("There is no such page.")
}

async fn method_not_allowed() -> UiError {
    UiError::new(405, "This page does not support the method.")
}
