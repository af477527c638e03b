//! The OpenAPI document, generated from the handlers, and its documentation pages. The binary contains all assets.

mod examples;

use axum::Router;
use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{OpenApi, PartialSchema as _, ToSchema as _};
use utoipa_swagger_ui::SwaggerUi;

use super::webhooks::posts::{self, EventBatch};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Postrider",
        description = "Accepts email messages over HTTP, queues them in Postgres, and delivers them by SMTP.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    tags(
        (name = "messages", description = "Send, list, explain, cancel, reschedule and retry messages"),
        (name = "lanes", description = "Queues, one per stream, route and destination: state, limits, pauses and retries"),
        (name = "streams", description = "Kinds of traffic, with priority, limits and retry policy"),
        (name = "events", description = "The event feed: all events of all messages, in order and without gaps"),
        (name = "webhooks", description = "Endpoints that events are posted to, signed according to Standard Webhooks 1.0"),
        (name = "domains", description = "Sender domains, their DKIM keys, and the DNS records to publish"),
        (name = "suppressions", description = "Addresses that no messages are sent to"),
        (name = "ledger", description = "Counts of all accepted recipients by state"),
        (name = "keys", description = "API keys; these calls require the scope `admin`"),
        (name = "health", description = "Liveness and readiness probes"),
        (name = "dev", description = "The inbox of `postrider dev`, which stores every message instead of delivering it, and its webhook receiver"),
    ),
)]
struct Base;

/// Returns the whole document, including the routes of the development inbox.
pub fn document() -> Document {
    let mut document = Base::openapi();
    document.merge(super::routes().into_openapi());
    document.merge(crate::dev::document());
    examples::add(&mut document);
    document.webhooks = Some(posts::posts());
    let key = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An API key, created with `postrider keys create` or `POST /v1/keys`."))
        .build();
    let components = document.components.get_or_insert_default();
    components.schemas.insert(EventBatch::name().into_owned(), EventBatch::schema());
    components.security_schemes.insert("key".to_owned(), SecurityScheme::Http(key).into());
    document
}

/// `/openapi.json` and `/docs`.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    SwaggerUi::new("/docs").url("/openapi.json", document()).into()
}
