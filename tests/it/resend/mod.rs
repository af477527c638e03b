//! The API that is compatible with Resend's.

mod api_keys;
mod attachments;
mod batch;
mod domains;
mod downloads;
mod emails;
mod errors;
mod idempotency;
mod limits;
mod lists;
mod rust_sdk;
mod sdk;
mod states;
mod suppressions;
mod templates;
mod webhook_events;
mod webhooks;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::support::app::{TestApp, TestAppBuilder};
use crate::support::client::Api;

/// A response of the compatible API.
#[derive(Debug)]
struct Response {
    status: u16,
    body: Value,
}

impl Response {
    /// Sends a request, and checks what every response has: JSON, a request id, and the members of an error.
    async fn to(request: RequestBuilder) -> Self {
        let response = request.send().await.expect("a response");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await.expect("a body");
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{status}: {error}: {bytes:?}"));
        assert_eq!(headers[CONTENT_TYPE], "application/json", "{body}");
        assert!(headers.contains_key("x-request-id"), "{headers:?}");
        if status >= 400 {
            let members: Vec<&String> = body.as_object().unwrap().keys().collect();
            assert_eq!(members, ["message", "name", "statusCode"], "{body}");
            assert_eq!(body["statusCode"], status, "{body}");
        }
        Self { status, body }
    }

    /// Returns the status and the name of an error.
    fn error(&self) -> (u16, &str) {
        (self.status, self.body["name"].as_str().unwrap_or_default())
    }

    fn message(&self) -> &str {
        self.body["message"].as_str().unwrap()
    }

    /// Returns the body of a request that has succeeded.
    fn ok(self) -> Value {
        assert!(self.status < 300, "{} {}", self.status, self.body);
        self.body
    }

    /// Returns the id in the body.
    fn id(self) -> String {
        self.ok()["id"].as_str().unwrap().to_owned()
    }
}

/// Returns a builder of an app that can sign links.
fn builder() -> TestAppBuilder {
    TestApp::builder().config(|config| {
        config.secret_key = Some("a secret of the tests, and of nobody else".to_owned().into());
    })
}

async fn start() -> TestApp {
    builder().start().await
}

/// Returns a valid message in which these fields are added or replaced.
fn email(members: Value) -> Value {
    let mut email = json!({
        "from": "Acme <billing@acme.test>", "to": ["ann@example.test"], "subject": "Your invoice", "text": "Hello",
    });
    let Value::Object(members) = members else { panic!("{members} is not an object") };
    email.as_object_mut().unwrap().extend(members);
    email
}

async fn get(api: &Api, path: &str) -> Response {
    Response::to(api.request(Method::GET, path)).await
}

async fn post(api: &Api, path: &str, body: &Value) -> Response {
    Response::to(api.request(Method::POST, path).json(body)).await
}

async fn patch(api: &Api, path: &str, body: &Value) -> Response {
    Response::to(api.request(Method::PATCH, path).json(body)).await
}

async fn delete(api: &Api, path: &str) -> Response {
    Response::to(api.request(Method::DELETE, path)).await
}

/// Sends a message, and returns its id.
async fn send(api: &Api, members: Value) -> String {
    let response = post(api, "/emails", &email(members)).await;
    assert_eq!(response.status, 200, "{}", response.body);
    response.id()
}

/// Returns the id of `/v1` for an id of the compatible API.
fn native(id: &str) -> String {
    format!("msg_{}", id.replace('-', ""))
}
