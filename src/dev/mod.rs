//! What makes `postrider dev` the whole product on one machine: a private [`postgres`], an [`inbox`] that catches every
//! mail over real SMTP, the [`routes`] that read it back, a [`page`] to look at it, and [`hooks`], a receiver for webhooks.
//! Nothing here runs in production.

use std::sync::Arc;

use axum::{Router, middleware};
use utoipa::openapi::OpenApi;

pub mod hooks;
pub mod inbox;
pub mod local_only;
pub mod page;
pub mod postgres;
pub mod routes;

/// Adds the routes of the inbox and of the webhook receiver, and keeps pages of other sites away from all of them.
pub fn complete(router: Router, inbox: Arc<inbox::Inbox>) -> Router {
    let hooks = Arc::new(hooks::Hooks::new(inbox.clock(), inbox.stopping()));
    let all = router.merge(routes::router(inbox.clone())).merge(page::router(inbox)).merge(hooks::router(hooks));
    all.layer(middleware::from_fn(local_only::check))
}

/// The part of the OpenAPI document that describes them.
pub fn document() -> OpenApi {
    let mut document = routes::document();
    document.merge(hooks::document());
    document
}
