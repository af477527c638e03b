//! The API that is compatible with Resend's, with a test key.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::Api;

/// Sends a request, and returns the status and the body. The errors are Resend's.
async fn call(api: &Api, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let response = api.request(method, path).json(body).send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
}

#[tokio::test]
async fn resend_api_sends_nothing_with_a_test_key() {
    let app = TestApp::start().await;
    let test = app.with_test_key().await;
    let email = |to: &str| json!({"from": "a@acme.test", "to": [to], "subject": "Hi", "text": "Hello."});
    let mut ids = Vec::new();
    for to in ["ann@example.test", "bounced@resend.dev"] {
        let (status, body) = call(&test, Method::POST, "/emails", &email(to)).await;
        assert_eq!(status, 200, "{body}");
        ids.push(body["id"].as_str().unwrap().to_owned());
    }
    app.run_until_idle().await;
    for (id, event) in ids.iter().zip(["delivered", "bounced"]) {
        let path = format!("/emails/{id}");
        let (status, shown) = call(&test, Method::GET, &path, &json!({})).await;
        assert_eq!((status, &shown["last_event"]), (200, &json!(event)), "{shown}");
        assert_eq!(call(&app, Method::GET, &path, &json!({})).await.0, 404);
    }
    assert_eq!(app.smtp.connections(), 0);
    let (status, error) = call(&test, Method::POST, "/domains", &json!({"name": "acme.test"})).await;
    assert_eq!((status, &error["name"]), (403, &json!("validation_error")), "{error}");
    assert_eq!(call(&test, Method::GET, "/domains", &json!({})).await.0, 200);
}
