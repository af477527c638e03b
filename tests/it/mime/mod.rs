//! Finished MIME, Message-IDs and threads, and alternatives to the text.

mod alternatives;
mod raw;
mod raw_requests;
mod threads;

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;

use crate::support::client::{Api, ApiResponse};

/// Posts a finished message; `query` begins with `?` unless it is empty.
async fn post_mime(api: &Api, query: &str, mime: impl Into<Vec<u8>>) -> ApiResponse {
    let request = api.request(Method::POST, &format!("/v1/messages{query}")).header(CONTENT_TYPE, "message/rfc822");
    ApiResponse::to(request.body(mime.into())).await
}

/// Sends a finished message and returns its id.
async fn send_mime(api: &Api, query: &str, mime: impl Into<Vec<u8>>) -> String {
    let response = post_mime(api, query, mime).await;
    assert_eq!(response.status, 202, "{}", response.body);
    let id = response.body["id"].as_str().unwrap();
    assert_eq!(response.headers["location"], format!("/v1/messages/{id}"));
    id.to_owned()
}

/// Returns the value of a header field of a message, unfolded.
fn field(raw: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(raw).replace("\r\n ", " ");
    let head = text.split("\r\n\r\n").next().unwrap().to_owned();
    head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned))
}
