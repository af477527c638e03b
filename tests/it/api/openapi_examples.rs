//! Every example of a request body in the OpenAPI document, sent to the service as `/docs` sends it.

use std::collections::HashMap;

use postrider::clock::Clock as _;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::ApiResponse;
use crate::support::form::{self, Form};
use crate::support::uploads::sha256;

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

/// Returns the form that an example describes: its texts are files.
fn form(example: &Value) -> Vec<u8> {
    let parts = example.as_object().unwrap().iter();
    let form = parts.fold(Form::default(), |form, (name, value)| match value {
        Value::String(text) => form.file(name, text.as_bytes()),
        json => form.part(&format!("Content-Disposition: form-data; name=\"{name}\""), json.to_string().as_bytes()),
    });
    form.bytes()
}

#[tokio::test]
async fn every_request_example_is_accepted() {
    let app = TestApp::builder().with_inbound().config(|config| config.webhooks.this_machine_only = true).start().await;
    let test = app.with_test_key().await;
    // A message can be rescheduled while it is scheduled.
    let soon = app.clock.now() + chrono::TimeDelta::hours(1);
    let scheduled = app.send(json!({"scheduled_at": soon.to_rfc3339()})).await.id;
    let mut ids = HashMap::from([("/v1/streams", json!("bulk")), ("/v1/messages", json!(scheduled))]);
    let blob = |example: &Value| sha256(example.as_str().unwrap_or_default().as_bytes());
    for (method, template, content_type, example) in bodies() {
        let resource = template.split("/{").next().unwrap();
        let id = ids.get(resource).and_then(Value::as_str).unwrap_or_default();
        let path = template.replace("{id}", id).replace("{name}", id).replace("{sha256}", &blob(&example));
        let (content_type, body) = if content_type == "multipart/form-data" {
            (form::content_type(), form(&example))
        } else {
            (content_type, example.as_str().map_or_else(|| example.to_string(), str::to_owned).into_bytes())
        };
        let api = if template.starts_with("/v1/test/") { &test } else { app.api() };
        let request = api.request(method.clone(), &path).header(CONTENT_TYPE, &content_type).body(body);
        let response = ApiResponse::to(request).await;
        assert!((200..300).contains(&response.status), "{method} {path} {content_type}: {}", response.body);
        for created in ["/v1/inbound-routes", "/v1/keys", "/v1/lanes", "/v1/templates", "/v1/tenants", "/v1/webhooks"] {
            if template == created {
                ids.insert(created, response.body["id"].clone());
            }
        }
    }
}
