//! Which operations are audited: all that change something, except those in [`NOT_AUDITED`].

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::http::Method;

use crate::domain::records::audit::AuditSource;
use crate::http::openapi::operations;

/// The operations that are not audited although their method is not GET, with the reason.
pub const NOT_AUDITED: &[(&str, &str)] = &[
    ("send_message", "its events record it, with the API key"),
    ("send_batch", "its events record it, with the API key"),
    ("send_bulk", "the bulk records it, with the API key"),
    ("upload_blob", "it stores a part of messages to come, and changes nothing that exists"),
    ("submit_report", "its events record it"),
    ("preview_template", "it changes nothing"),
    ("validate_template", "it changes nothing"),
    ("clear_inbox", "the inbox of `dev` has no API keys"),
    ("delete_inbox_message", "the inbox of `dev` has no API keys"),
    ("clear_received_hooks", "the receiver of `dev` has no API keys"),
];

/// The routes of Resend's API that change something, with the same operation of `/v1`. Sending is not audited, and `PATCH
/// /domains/{id}` changes nothing.
const RESEND: &[(&str, &str, &str)] = &[
    ("PATCH", "emails/{id}", "reschedule_message"),
    ("POST", "emails/{id}/cancel", "cancel_message"),
    ("POST", "domains", "create_domain"),
    ("DELETE", "domains/{id}", "delete_domain"),
    ("POST", "domains/{id}/verify", "verify_domain"),
    ("POST", "api-keys", "create_key"),
    ("PATCH", "api-keys/{id}", "update_key"),
    ("DELETE", "api-keys/{id}", "revoke_key"),
    ("POST", "templates", "create_template"),
    ("PATCH", "templates/{id}", "update_template"),
    ("DELETE", "templates/{id}", "delete_template"),
    ("POST", "templates/{id}/publish", "publish_template"),
    ("POST", "templates/{id}/duplicate", "create_template"),
    ("POST", "webhooks", "create_webhook"),
    ("PATCH", "webhooks/{id}", "update_webhook"),
    ("DELETE", "webhooks/{id}", "delete_webhook"),
    ("POST", "webhooks/{id}/signing-secret/rotate", "rotate_webhook_secret"),
    ("POST", "webhooks/{id}/events/{event}/replay", "replay_webhook"),
    ("POST", "suppressions", "add_suppressions"),
    ("POST", "suppressions/batch/add", "add_suppressions"),
    ("POST", "suppressions/batch/remove", "remove_suppressions"),
    ("DELETE", "suppressions/{id}", "remove_suppression"),
];

/// The audited operations of `/v1` by route: the method and the operation's id.
static OPERATIONS: LazyLock<HashMap<String, Vec<(&'static str, String)>>> = LazyLock::new(|| {
    let mut document = crate::http::routes().into_openapi();
    let mut routes = HashMap::<String, Vec<(&'static str, String)>>::new();
    for (path, item) in &mut document.paths.paths {
        let audited = operations(item).filter_map(|(method, operation)| {
            let id = operation.operation_id.clone()?;
            let is_audited = !matches!(method, "GET" | "HEAD") && NOT_AUDITED.iter().all(|(name, _)| *name != id);
            is_audited.then_some((method, id))
        });
        routes.entry(path.clone()).or_default().extend(audited);
    }
    routes
});

/// Creates the list of operations, so that the first request does not wait for it.
pub(in crate::http) fn prepare() {
    LazyLock::force(&OPERATIONS);
}

/// Returns the audited operation of a route; `None` if it is not audited. Called for every request, so that requests that
/// send messages must be decided first.
pub(super) fn find(method: &Method, route: &str) -> Option<(&'static str, AuditSource)> {
    if method.is_safe() || route == "/v1/messages" {
        return None;
    }
    if route.starts_with("/v1/") {
        let (_, id) = OPERATIONS.get(route)?.iter().find(|(name, _)| *name == method.as_str())?;
        return Some((id, AuditSource::Api));
    }
    let path = route.trim_start_matches('/');
    let (.., id) = RESEND.iter().find(|(name, known, _)| *name == method.as_str() && *known == path)?;
    Some((id, AuditSource::Resend))
}

/// Returns the first parameter in the path of a request: the id, name or address of the object.
pub(super) fn object(route: &str, path: &str) -> Option<String> {
    let (_, text) = route.split('/').zip(path.split('/')).find(|(part, _)| part.starts_with('{'))?;
    Some(percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_has_one_name_in_both_apis() {
        let known: Vec<&str> = OPERATIONS.values().flatten().map(|(_, id)| id.as_str()).collect();
        for (method, path, id) in RESEND {
            assert!(known.contains(id), "{method} {path}");
            let method = method.parse().unwrap();
            for prefix in ["/", "//"] {
                assert_eq!(find(&method, &format!("{prefix}{path}")), Some((*id, AuditSource::Resend)));
            }
        }
        assert_eq!(find(&Method::DELETE, "/v1/keys/{id}"), Some(("revoke_key", AuditSource::Api)));
    }

    #[test]
    fn reading_and_sending_are_not_audited() {
        for (method, route) in [
            (Method::GET, "/v1/keys"),
            (Method::POST, "/v1/messages"),
            (Method::POST, "/v1/messages/batch"),
            (Method::POST, "/emails"),
            (Method::POST, "/v1/templates/validate"),
            (Method::POST, "/u/{token}"),
        ] {
            assert_eq!(find(&method, route), None, "{method} {route}");
        }
    }

    #[test]
    fn object_is_the_first_parameter_of_the_path() {
        assert_eq!(object("/v1/keys/{id}", "/v1/keys/key_1"), Some("key_1".into()));
        assert_eq!(object("/v1/suppressions/{address}", "/v1/suppressions/a%2Bb@x.test"), Some("a+b@x.test".into()));
        assert_eq!(object("//webhooks/{id}/x", "//webhooks/7/x"), Some("7".into()));
        assert_eq!(object("/v1/keys", "/v1/keys"), None);
    }
}
