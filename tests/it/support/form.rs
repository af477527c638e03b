//! `multipart/form-data` as bytes, so that tests can also send forms that no library creates.

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::Value;

use super::client::{Api, ApiResponse};

/// The boundary of every form.
pub const BOUNDARY: &str = "a-Boundary_42";

/// A form that is being written.
#[derive(Debug, Clone, Default)]
pub struct Form(Vec<u8>);

impl Form {
    /// Adds the part `message`.
    pub fn message(self, message: &Value) -> Self {
        self.json("message", message)
    }

    /// Adds a part with JSON.
    pub fn json(self, name: &str, value: &Value) -> Self {
        self.part(&format!("Content-Disposition: form-data; name=\"{name}\""), value.to_string().as_bytes())
    }

    /// Adds a file, as a browser does.
    pub fn file(self, name: &str, data: &[u8]) -> Self {
        let disposition = format!("Content-Disposition: form-data; name=\"{name}\"; filename=\"x.bin\"");
        self.part(&format!("{disposition}\r\nContent-Type: application/octet-stream"), data)
    }

    /// Adds a part with these headers, separated by CRLF.
    pub fn part(mut self, headers: &str, data: &[u8]) -> Self {
        self.0.extend_from_slice(format!("--{BOUNDARY}\r\n{headers}\r\n\r\n").as_bytes());
        self.0.extend_from_slice(data);
        self.0.extend_from_slice(b"\r\n");
        self
    }

    /// Returns the form without the boundary at its end.
    pub fn unfinished(self) -> Vec<u8> {
        self.0
    }

    /// Returns the form.
    pub fn bytes(mut self) -> Vec<u8> {
        self.0.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
        self.0
    }

    /// Sends the form as a message.
    pub async fn send(self, api: &Api) -> ApiResponse {
        post(api, "/v1/messages", self.bytes()).await
    }

    /// Sends the form as a message with an idempotency key.
    pub async fn send_with_key(self, api: &Api, key: &str) -> ApiResponse {
        self.post_with_key(api, "/v1/messages", key).await
    }

    /// Posts the form.
    pub async fn post(self, api: &Api, path: &str) -> ApiResponse {
        post(api, path, self.bytes()).await
    }

    /// Posts the form with an idempotency key.
    pub async fn post_with_key(self, api: &Api, path: &str, key: &str) -> ApiResponse {
        let request = api.request(Method::POST, path).header("idempotency-key", key);
        ApiResponse::to(request.header(CONTENT_TYPE, content_type()).body(self.bytes())).await
    }
}

/// Returns the content type of every form.
pub fn content_type() -> String {
    format!("multipart/form-data; boundary={BOUNDARY}")
}

/// Posts the bytes of a form.
pub async fn post(api: &Api, path: &str, body: Vec<u8>) -> ApiResponse {
    ApiResponse::to(api.request(Method::POST, path).header(CONTENT_TYPE, content_type()).body(body)).await
}
