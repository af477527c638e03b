//! The API calls for webhook endpoints. Deliveries are tested in other files.

mod resource;
mod state;

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::Api;

/// A URL at which no server listens.
const URL: &str = "http://127.0.0.1:9/hooks";

async fn start() -> TestApp {
    TestApp::builder().config(|config| config.webhooks.allow_private = true).start().await
}

/// Creates an endpoint, and returns the response.
async fn made(api: &Api, fields: Value) -> Value {
    let mut body = json!({ "url": URL });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let response = api.post("/v1/webhooks", &body).await;
    assert_eq!(response.status, 201, "{}", response.body);
    response.body
}

fn path(webhook: &Value) -> String {
    format!("/v1/webhooks/{}", webhook["id"].as_str().unwrap())
}

async fn shown(api: &Api, webhook: &Value) -> Value {
    let response = api.get(&path(webhook)).await;
    assert_eq!(response.status, 200, "{}", response.body);
    response.body
}

async fn number(app: &TestApp, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(&mut app.database.connect().await).await.unwrap()
}
