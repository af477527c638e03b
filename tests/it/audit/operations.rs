//! Every operation that changes something has an entry, except those in a list.

use std::collections::BTreeSet;

use postrider::http::NOT_AUDITED;
use reqwest::Method;
use serde_json::json;

use super::entries;
use crate::support::app::TestApp;
use crate::support::client::ApiResponse;

/// Returns the operations that change something: method, path and id.
fn changes() -> Vec<(Method, String, String)> {
    let document = serde_json::to_value(postrider::http::document()).unwrap();
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            if !method.is_safe() {
                found.push((method, path.clone(), operation["operationId"].as_str().unwrap().to_owned()));
            }
        }
    }
    found
}

#[tokio::test]
async fn every_change_has_an_entry() {
    let app = TestApp::start().await;
    let mut missing = Vec::new();
    for (method, template, operation) in changes() {
        let (path, none) = (template.split('/').nth(2).unwrap_or_default(), "00000000000070008000000000000000");
        if path == "inbox" || path == "hooks" {
            continue;
        }
        let path =
            template.replace("{id}", none).replace("{name}", "none.test").replace("{address}", "bo@example.test");
        ApiResponse::to(app.request(method, &path.replace("{sha256}", none)).json(&json!({}))).await;
        let found = entries(&app, &format!("action={operation}")).await.len();
        let is_audited = NOT_AUDITED.iter().all(|(name, _)| *name != operation);
        if found != usize::from(is_audited) {
            missing.push(format!("{operation} has {found} entries"));
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn exceptions_are_operations_with_a_reason() {
    let operations: BTreeSet<String> = changes().into_iter().map(|(_, _, operation)| operation).collect();
    for (operation, reason) in NOT_AUDITED {
        assert!(operations.contains(*operation) && !reason.is_empty(), "{operation}");
    }
    assert!(operations.len() > NOT_AUDITED.len() + 30, "{operations:?}");
}
