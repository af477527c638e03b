//! The OpenAPI document, made from the handlers, and the pages that show it. All assets are inside the binary.

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
        description = "Applications POST mail here; Postrider keeps it in Postgres and delivers it over SMTP.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    tags(
        (name = "messages", description = "Send mail, and find out where it is"),
        (name = "lanes", description = "What waits where, and why; limits, pauses, another try"),
        (name = "streams", description = "The kinds of mail: how urgent, how fast, how often tried"),
        (name = "events", description = "What happened to all mail, in order and without gaps"),
        (name = "webhooks", description = "Have events posted to you, signed by Standard Webhooks 1.0"),
        (name = "domains", description = "What mail is sent from, the keys that sign it, and the DNS records to publish"),
        (name = "suppressions", description = "Who gets no mail, why, and until when"),
        (name = "ledger", description = "Whether all that was accepted is accounted for"),
        (name = "keys", description = "API keys; the scope `admin` is needed"),
        (name = "health", description = "For load balancers and operators"),
        (name = "dev", description = "The inbox of `postrider dev`, which catches every message, and its receiver for webhooks"),
    ),
)]
struct Base;

/// The whole document, the routes of the development inbox included.
pub fn document() -> Document {
    let mut document = Base::openapi();
    document.merge(super::routes().into_openapi());
    document.merge(crate::dev::document());
    super::examples::add(&mut document);
    document.webhooks = Some(posts::posts());
    let key = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An API key, made with `postrider keys create` or `POST /v1/keys`."))
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
