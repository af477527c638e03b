//! Every example of a request body in the OpenAPI document, sent to the service as `/docs` sends it.

use std::collections::HashMap;

use postrider::clock::Clock as _;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::ApiResponse;

/// Returns the operations with a body; those that create the objects in later paths come first.
fn bodies() -> Vec<(Method, String, String, Value)> {
    let document = serde_json::to_value(postrider::http::document()).unwrap();
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            for (content_type, content) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
                let method: Method = method.to_uppercase().parse().unwrap();
                let example = content["example"].clone();
                assert!(!example.is_null(), "{method} {path} {content_type} has no example");
                found.push((method, path.clone(), content_type.clone(), example));
            }
        }
    }
    found.sort_by_key(|(_, path, ..)| path.contains('{'));
    found
}

#[tokio::test]
async fn every_request_example_is_accepted() {
    let app = TestApp::builder().with_inbound().config(|config| config.webhooks.this_machine_only = true).start().await;
    // A message can be rescheduled while it is scheduled.
    let soon = app.clock.now() + chrono::TimeDelta::hours(1);
    let scheduled = app.send(json!({"scheduled_at": soon.to_rfc3339()})).await.id;
    let mut ids = HashMap::from([("/v1/streams", json!("bulk")), ("/v1/messages", json!(scheduled))]);
    for (method, template, content_type, example) in bodies() {
        let resource = template.split("/{").next().unwrap();
        let id = ids.get(resource).and_then(Value::as_str).unwrap_or_default();
        let path = template.replace("{id}", id).replace("{name}", id);
        let body = example.as_str().map_or_else(|| example.to_string(), str::to_owned);
        let request = app.request(method.clone(), &path).header(CONTENT_TYPE, &content_type).body(body);
        let response = ApiResponse::to(request).await;
        assert!((200..300).contains(&response.status), "{method} {path} {content_type}: {}", response.body);
        for created in ["/v1/lanes", "/v1/templates", "/v1/webhooks"] {
            if template == created {
                ids.insert(created, response.body["id"].clone());
            }
        }
    }
}
