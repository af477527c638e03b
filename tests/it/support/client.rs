//! An API client. It checks every response: a request id, no 5xx status, and a problem document if it is an error.

use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};

use super::json_schema::check_event;

/// A client with an API key.
#[derive(Debug, Clone)]
pub struct Api {
    pub base: String,
    pub key: String,
    http: Client,
}

/// A response.
#[derive(Debug)]
pub struct ApiResponse {
    pub status: u16,
    pub headers: HeaderMap,
    /// The body; `Null` if it is not JSON.
    pub body: Value,
    pub bytes: Vec<u8>,
}

/// A message that was accepted with 202.
#[derive(Debug)]
pub struct Sent {
    pub id: String,
    pub body: Value,
}

impl Api {
    pub fn new(base: impl Into<String>, key: impl Into<String>) -> Self {
        Self { base: base.into(), key: key.into(), http: Client::builder().build().unwrap() }
    }

    /// Returns a client with another key.
    pub fn with_key(&self, key: &str) -> Self {
        Self { key: key.into(), ..self.clone() }
    }

    /// Builds a request with the key.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.key)
    }

    /// Builds a request without a key.
    pub fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    pub async fn get(&self, path: &str) -> ApiResponse {
        ApiResponse::to(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> ApiResponse {
        ApiResponse::to(self.request(Method::POST, path).json(body)).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> ApiResponse {
        ApiResponse::to(self.request(Method::PATCH, path).json(body)).await
    }

    pub async fn delete(&self, path: &str) -> ApiResponse {
        ApiResponse::to(self.request(Method::DELETE, path)).await
    }

    /// Sends a message with these fields in place of those of [`message`].
    pub async fn send(&self, fields: Value) -> Sent {
        let response = self.post("/v1/messages", &message(fields)).await;
        assert_eq!(response.status, 202, "{}", response.body);
        let id = response.body["id"].as_str().unwrap().to_owned();
        assert_eq!(response.headers["location"], format!("/v1/messages/{id}"));
        Sent { id, body: response.body }
    }

    pub async fn message(&self, id: &str) -> Value {
        let response = self.get(&format!("/v1/messages/{id}")).await;
        assert_eq!(response.status, 200, "{}", response.body);
        response.body
    }

    /// Returns the status of the message.
    pub async fn status(&self, id: &str) -> String {
        self.message(id).await["status"].as_str().unwrap().to_owned()
    }

    /// Returns the only recipient of a message.
    pub async fn recipient(&self, id: &str) -> Value {
        let mut message = self.message(id).await;
        let recipients = message["recipients"].as_array_mut().unwrap();
        assert_eq!(recipients.len(), 1);
        recipients.remove(0)
    }

    /// Returns the statuses of a message's recipients, in the order of the request.
    pub async fn states(&self, id: &str) -> Vec<String> {
        let message = self.message(id).await;
        let state = |recipient: &Value| recipient["status"].as_str().unwrap().to_owned();
        message["recipients"].as_array().unwrap().iter().map(state).collect()
    }

    pub async fn event_list(&self, id: &str) -> Vec<Value> {
        let page = self.get(&format!("/v1/messages/{id}/events?limit=100")).await;
        assert_eq!((page.status, &page.body["has_more"]), (200, &json!(false)));
        let events = page.body["data"].as_array().unwrap().clone();
        events.iter().for_each(check_event);
        events
    }

    /// Returns the types of a message's events, oldest first, without the prefix `message.`.
    pub async fn events(&self, id: &str) -> Vec<String> {
        let kind = |event: &Value| event["type"].as_str().unwrap().strip_prefix("message.").unwrap().to_owned();
        self.event_list(id).await.iter().map(kind).collect()
    }
}

impl ApiResponse {
    pub async fn to(request: RequestBuilder) -> Self {
        let response = request.send().await.expect("a response");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await.expect("a body").to_vec();
        let response = Self { status, headers, body: serde_json::from_slice(&bytes).unwrap_or_default(), bytes };
        response.check();
        response
    }

    fn check(&self) {
        assert!(self.status < 500, "{self:?}");
        let id = self.headers.get("x-request-id").unwrap_or_else(|| panic!("no X-Request-Id: {self:?}"));
        if self.status >= 400 && !self.bytes.is_empty() {
            assert_eq!(self.headers[CONTENT_TYPE], "application/problem+json", "{self:?}");
            assert_eq!(self.body["status"], self.status, "{self:?}");
            assert_eq!(self.body["request_id"].as_str().unwrap().as_bytes(), id.as_bytes(), "{self:?}");
        }
    }

    /// Returns the status and the `code` of an error.
    pub fn problem(&self) -> (u16, &str) {
        (self.status, self.body["code"].as_str().unwrap_or_default())
    }

    /// Returns the pointer and the code of every fault.
    pub fn faults(&self) -> Vec<(&str, &str)> {
        let faults = self.body["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        faults.iter().map(|f| (f["pointer"].as_str().unwrap(), f["code"].as_str().unwrap())).collect()
    }
}

/// Returns the body of a small valid request, with these fields in place of the defaults.
pub fn message(fields: Value) -> Value {
    let mut body = json!({
        "from": "Acme Billing <billing@acme.test>", "to": "ann@example.test", "subject": "Your invoice", "text": "Hello.",
    });
    let (Value::Object(all), Value::Object(fields)) = (&mut body, fields) else { panic!("not an object") };
    all.extend(fields);
    body
}
