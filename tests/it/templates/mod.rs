//! Templates: drafts, published versions, previews, and messages that are rendered from them.

mod batch;
mod drafts;
mod preview;
mod publish;
mod sending;
mod versions_in_use;

use serde_json::{Value, json};

use crate::support::client::Api;

/// Creates a template with these fields besides its name, and returns it.
async fn create(api: &Api, fields: Value) -> Value {
    let mut body = json!({"name": "Test"});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let created = api.post("/v1/templates", &body).await;
    assert_eq!(created.status, 201, "{}", created.body);
    created.body
}

/// Publishes a template, and returns the version.
async fn publish(api: &Api, name: &str) -> Value {
    let published = api.post(&format!("/v1/templates/{name}/publish"), &json!({})).await;
    assert!(matches!(published.status, 200 | 201), "{}", published.body);
    published.body
}

/// Creates and publishes a template that greets `name`, with the alias `greeting`, and returns its id.
async fn greeting(api: &Api) -> String {
    let template = create(
        api,
        json!({
            "alias": "greeting", "subject": "Hello {{ name }}", "html": "<p>Dear {{ name }}, you owe {{ amount }}.</p>",
            "from": "Acme Billing <billing@acme.test>", "reply_to": "help@acme.test",
            "variables": [{"key": "name", "type": "string", "max_length": 20},
                          {"key": "amount", "type": "number", "default": 0}],
        }),
    )
    .await;
    publish(api, "greeting").await;
    template["id"].as_str().unwrap().to_owned()
}

/// Returns the pointers and codes of faults, sorted.
fn sorted<'a>(mut faults: Vec<(&'a str, &'a str)>) -> Vec<(&'a str, &'a str)> {
    faults.sort_unstable();
    faults
}
