//! The OpenAPI document, generated from the handlers, and its documentation pages. The binary contains all assets.

mod examples;
pub(super) mod responses;

use axum::Router;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, OpenApi as Document, Ref, RefOr};
use utoipa::{OpenApi, ToSchema as _};
use utoipa_swagger_ui::SwaggerUi;

use super::Problem;
use super::webhooks::posts::{self, EventBatch};
use crate::domain::provider::Provider;

/// The name of the security scheme.
const KEY: &str = "key";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Postrider",
        description = "Accepts email messages over HTTP, queues them in Postgres, and delivers them by SMTP.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    tags(
        (name = "messages", description = "Send, list, explain, cancel, reschedule and retry messages"),
        (name = "bulks", description = "One message to many recipients: send, count, pause, resume, cancel"),
        (name = "actions", description = "Cancel, retry or release all messages that match a filter, in the background"),
        (name = "templates", description = "Content that is stored once and filled with variables: drafts, published versions, previews"),
        (name = "blobs", description = "Files that are uploaded once and attached to messages by their SHA-256"),
        (name = "lanes", description = "Queues, one per stream, route and destination: state, limits, pauses and retries"),
        (name = "streams", description = "Kinds of traffic, with priority, limits and retry policy"),
        (name = "events", description = "The event feed: all events of all messages, in order and without gaps"),
        (name = "webhooks", description = "Endpoints that events are posted to, signed according to Standard Webhooks 1.0"),
        (name = "deliveries", description = "The requests that webhook endpoints receive"),
        (name = "domains", description = "Sender domains, their DKIM keys, and the DNS records to publish"),
        (name = "inbound", description = "Bounces and complaints that were received by another mail server"),
        (name = "inbound-routes", description = "Addresses that receive messages"),
        (name = "received", description = "Messages that were received for inbound routes"),
        (name = "suppressions", description = "Addresses that Postrider does not send messages to"),
        (name = "privacy", description = "Erase everything about one address; starting it requires the scope `admin`"),
        (name = "ledger", description = "Counts of all accepted recipients by state"),
        (name = "statistics", description = "Figures over time, by stream, mailbox provider and category of bounces"),
        (name = "keys", description = "API keys; these calls require the scope `admin`, or `operator` for keys of other tenants"),
        (name = "tenants", description = "Tenants, which never see each other's data; these calls require the scope `operator`"),
        (name = "service", description = "Workers, the database, and what stops or delays messages; these calls require the scope `operator`"),
        (name = "audit", description = "Who changed what; this call requires the scope `admin`"),
        (name = "test", description = "The clock of test messages; these calls require a test key"),
        (name = "health", description = "Liveness and readiness probes"),
        (name = "dev", description = "The inbox of `postrider dev`, which stores every message instead of delivering it, and its webhook receiver"),
    ),
    components(schemas(EventBatch, Problem, Provider)),
)]
struct Base;

/// Returns the whole document, including the routes of the development inbox.
pub fn document() -> Document {
    let mut document = Base::openapi();
    document.merge(super::routes().into_openapi());
    document.merge(crate::dev::document());
    document.paths.paths.values_mut().flat_map(operations).for_each(|(_, operation)| complete(operation));
    examples::add(&mut document);
    document.webhooks = Some(posts::posts());
    let key = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An API key, created with `postrider keys create` or `POST /v1/keys`."))
        .build();
    let components = document.components.get_or_insert_default();
    components.security_schemes.insert(KEY.to_owned(), SecurityScheme::Http(key).into());
    document
}

/// Returns the operations of a path with their methods.
pub(super) fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let all = [
        ("GET", &mut item.get),
        ("PUT", &mut item.put),
        ("POST", &mut item.post),
        ("DELETE", &mut item.delete),
        ("PATCH", &mut item.patch),
        ("HEAD", &mut item.head),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// Completes an operation from the statuses of its responses: the body of an error is a [`Problem`], and an operation
/// with a 401 requires an API key.
fn complete(operation: &mut Operation) {
    let responses = &mut operation.responses.responses;
    for (status, response) in responses.iter_mut() {
        if let RefOr::T(response) = response
            && status.as_str() >= "400"
        {
            let problem = Content::new(Some(Ref::from_schema_name(Problem::name())));
            response.content.insert("application/problem+json".to_owned(), problem.into());
        }
    }
    if responses.contains_key("401") {
        operation.security = Some(vec![SecurityRequirement::new(KEY, [""; 0])]);
    }
}

/// Returns the router of `/openapi.json` and `/docs`.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    SwaggerUi::new("/docs").url("/openapi.json", document()).into()
}
