//! An API compatible with Resend's, at the root, so that Resend's SDKs work with another base URL.
//!
//! Each handler translates a request into one of `/v1`, uses the same services, and translates the result. The main
//! differences from `/v1`, which the SDKs need:
//!
//! - Errors are `{"statusCode", "name", "message"}` as `application/json`, with a name that every SDK knows ([`error`]).
//! - Ids are UUIDs with hyphens; ids of `/v1` are accepted too ([`ids`]).
//! - Unknown and `null` members are ignored, and empty values count as missing ([`request`]).
//! - Responses always have a body: 200 if messages were sent, 201 if another object was created.
//! - Some SDKs append a path to a base URL that ends with a slash, so each route also exists with two slashes.
//!
//! The routes are not part of the OpenAPI document, which describes `/v1`: Resend publishes one for its own API.

mod api_keys;
mod domains;
mod emails;
mod error;
mod ids;
mod list;
mod object;
mod request;
mod suppressions;
mod templates;
mod times;
mod webhooks;

use axum::Router;
use axum::routing::{any, get, patch, post};

use super::{Api, ApiError};
pub(super) use error::ErrorFormat;

/// The first segments of the paths of Resend's API. Other paths have the errors of `/v1`.
const ROOTS: [&str; 18] = [
    "emails",
    "domains",
    "api-keys",
    "templates",
    "webhooks",
    "suppressions",
    "audiences",
    "automations",
    "broadcasts",
    "contact-properties",
    "contacts",
    "events",
    "inboxes",
    "logs",
    "oauth",
    "segments",
    "topics",
    "usage",
];

/// Returns whether a path belongs to Resend's API.
fn is_path(path: &str) -> bool {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    ROOTS.contains(&first)
}

/// Returns the router of Resend's API.
pub(super) fn router() -> Router<Api> {
    routes("").merge(routes("/"))
}

/// Returns the routes, with a prefix before each path.
fn routes(prefix: &str) -> Router<Api> {
    let at = |path: &str| format!("{prefix}{path}");
    let emails = Router::new()
        .route(&at("/emails"), post(emails::send::send).get(emails::read::list))
        .route(&at("/emails/batch"), post(emails::batch::send))
        .route(&at("/emails/metrics"), any(not_offered))
        .route(&at("/emails/receiving"), any(not_offered))
        .route(&at("/emails/receiving/{*rest}"), any(not_offered))
        .route(&at("/emails/{id}"), get(emails::read::get).patch(emails::control::reschedule))
        .route(&at("/emails/{id}/cancel"), post(emails::control::cancel))
        .route(&at("/emails/{id}/share"), any(not_offered))
        .route(&at("/emails/{id}/attachments"), get(emails::attachments::list))
        .route(&at("/emails/{id}/attachments/{attachment}"), get(emails::attachments::get))
        .route(&at("/emails/{id}/attachments/{attachment}/download"), get(emails::attachments::download));
    emails
        .route(&at("/domains"), post(domains::create).get(domains::list))
        .route(&at("/domains/{id}"), get(domains::get).patch(domains::change).delete(domains::remove))
        .route(&at("/domains/{id}/verify"), post(domains::verify))
        .route(&at("/api-keys"), post(api_keys::create).get(api_keys::list))
        .route(&at("/api-keys/{id}"), patch(api_keys::change).delete(api_keys::remove))
        .route(&at("/templates"), post(templates::create).get(templates::list))
        .route(&at("/templates/{id}"), get(templates::get).patch(templates::change).delete(templates::remove))
        .route(&at("/templates/{id}/publish"), post(templates::publish))
        .route(&at("/templates/{id}/duplicate"), post(templates::duplicate))
        .route(&at("/webhooks"), post(webhooks::create).get(webhooks::list))
        .route(&at("/webhooks/{id}"), get(webhooks::get).patch(webhooks::change).delete(webhooks::remove))
        .route(&at("/webhooks/{id}/signing-secret/rotate"), post(webhooks::rotate))
        .route(&at("/webhooks/{id}/events"), get(webhooks::events::list))
        .route(&at("/webhooks/{id}/events/{event}"), get(webhooks::events::get))
        .route(&at("/webhooks/{id}/events/{event}/replay"), post(webhooks::events::replay))
        .route(&at("/webhooks/{id}/events/{event}/attempts"), get(webhooks::events::attempts))
        .route(&at("/suppressions"), post(suppressions::add).get(suppressions::list))
        .route(&at("/suppressions/batch/add"), post(suppressions::add_many))
        .route(&at("/suppressions/batch/remove"), post(suppressions::remove_many))
        .route(&at("/suppressions/{id}"), get(suppressions::get).delete(suppressions::remove))
}

/// Returns the error of an endpoint of Resend that Postrider does not have.
async fn not_offered() -> ApiError {
    ApiError::NotFound("Postrider does not have this endpoint of Resend; see /docs for its own API.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_resend_have_its_errors() {
        for path in ["/emails", "//emails", "/emails/batch", "/audiences/x/contacts", "/api-keys"] {
            assert!(is_path(path), "{path}");
        }
        for path in ["/", "/v1/emails", "/v1/messages", "/emailsx", "/healthz", "/dev/hooks", "/docs"] {
            assert!(!is_path(path), "{path}");
        }
    }
}
