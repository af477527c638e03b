//! The parts of `postrider dev`: an embedded [`postgres`], an [`inbox`] that accepts every message over SMTP, its HTTP
//! [`routes`], its web [`page`], and the webhook receiver [`hooks`]. They never run in production.

use std::sync::Arc;

use axum::{Router, middleware};
use utoipa::openapi::OpenApi;

pub mod hooks;
pub mod inbox;
pub mod local_only;
pub mod page;
pub mod postgres;
pub mod routes;

/// Adds the routes of the inbox and of the webhook receiver, and refuses requests from other sites' pages. If there is a
/// dashboard, the inbox's pages are part of it.
pub fn complete(router: Router, inbox: Arc<inbox::Inbox>, has_dashboard: bool) -> Router {
    let hooks = Arc::new(hooks::Hooks::new(inbox.clock(), inbox.stopping()));
    let pages = if has_dashboard { page::moved() } else { page::router(inbox.clone()) };
    let all = router.merge(routes::router(inbox)).merge(pages).merge(hooks::router(hooks));
    all.layer(middleware::from_fn(local_only::check))
}

/// Returns the OpenAPI document of these routes.
pub fn document() -> OpenApi {
    let mut document = routes::document();
    document.merge(hooks::document());
    document
}
