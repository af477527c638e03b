//! The sections of the dashboard that do more than show a list.

mod audit;
mod bulk_actions;
mod content;
mod inbox;
mod keys;
mod lanes;
mod million;
mod operators;
mod receiving;
mod streams;
mod suppressions;
mod templates;
mod webhooks;

use super::browser::Browser;
use crate::support::app::TestApp;

/// Starts the service, and signs in with a key with all scopes.
async fn admin() -> (TestApp, Browser) {
    let app = TestApp::start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    (app, browser)
}
