//! The OpenAPI document against the running service: every operation exists, and returns only documented statuses.

use std::sync::Arc;

use postrider::app::{App, Roles};
use postrider::clock::SystemClock;
use postrider::dev::inbox::Inbox;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse};

/// Returns every operation with its method and path.
fn operations(document: &Value) -> Vec<(Method, String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let expand = |(path, methods): (&String, &Value)| {
        let methods = methods.as_object().unwrap().clone();
        let path = path.clone();
        methods
            .into_iter()
            .map(move |(method, operation)| (method.to_uppercase().parse().unwrap(), path.clone(), operation))
    };
    paths.iter().flat_map(expand).collect()
}

#[tokio::test]
async fn every_operation_exists_and_returns_documented_statuses() {
    let app = TestApp::start().await;
    let dir = tempfile::tempdir().unwrap();
    let inbox = Inbox::open(dir.path(), Arc::new(SystemClock)).await.unwrap();
    let with_inbox = App::start(&app.config, Roles::Api, app.clock.clone(), Some(inbox)).await.unwrap();
    let api = Api::new(format!("http://{}", with_inbox.api_address().unwrap()), app.key.clone());
    let id = app.send(json!({})).await.id;

    let document = api.get("/openapi.json").await.body;
    assert_eq!(document, serde_json::to_value(postrider::http::document()).unwrap());
    let all = operations(&document);
    assert!(all.len() >= 15, "{}", all.len());
    for (method, template, operation) in all {
        let path = template.replace("{id}", &id).replace("{n}", "0").replace("{i}", "0");
        for request in [api.request(method.clone(), &path).json(&json!({})), api.anonymous(method.clone(), &path)] {
            let response = ApiResponse::to(request).await;
            let documented = &operation["responses"][response.status.to_string()];
            assert!(documented.is_object(), "{method} {template} returns the undocumented status {}", response.status);
            assert_ne!(response.status, 405, "{method} {template}");
            let detail = response.body["detail"].as_str().unwrap_or_default();
            assert!(!detail.contains("No such endpoint"), "{method} {template}");
        }
    }
    drop(api);
    with_inbox.stop().await;
}

#[test]
fn every_documented_error_is_a_problem() {
    let document = serde_json::to_value(postrider::http::document()).unwrap();
    for (method, path, operation) in operations(&document) {
        assert!(operation["operationId"].is_string() && operation["summary"].is_string(), "{method} {path}");
        for (status, response) in operation["responses"].as_object().unwrap() {
            let is_problem = response["content"]["application/problem+json"].is_object();
            assert_eq!(status.as_str() >= "400", is_problem, "{method} {path} {status}");
        }
    }
}

#[tokio::test]
async fn documentation_is_served_from_the_binary() {
    let app = TestApp::start().await;
    let page = ApiResponse::to(app.anonymous(Method::GET, "/docs/")).await;
    assert_eq!(page.status, 200);
    let page = String::from_utf8(page.bytes).unwrap();
    assert!(page.contains("swagger") && !page.contains("https://"), "{page}");
}
