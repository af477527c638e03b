//! Calls of the API as the visitor's key.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{Method, header};
use axum::response::Response;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::{Failure, UiError, X_REQUEST_ID};
use super::session::Visitor;

/// Maximum size of a response, in bytes: a message with attachments as MIME.
const MAX_RESPONSE: usize = 256 << 20;

/// Characters that need no encoding in a path segment.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// One page of a list of the API.
#[derive(Debug, Deserialize)]
pub(super) struct Page<T> {
    /// The entries.
    pub data: Vec<T>,
    /// The cursor of the next page.
    pub next: Option<String>,
}

/// A list of the API, read from several pages.
#[derive(Debug)]
pub(super) struct Listed<T> {
    /// The entries.
    pub data: Vec<T>,
    /// Whether there are more entries.
    pub has_more: bool,
    /// Why the list could not be read to its end.
    pub fault: Option<String>,
}

/// Encodes text as one segment of a path.
pub(super) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// Returns a path with these parameters.
pub(super) fn with_query(path: &str, params: &[(&str, &str)]) -> String {
    if params.is_empty() {
        return path.to_owned();
    }
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(params).finish();
    format!("{path}?{query}")
}

impl Visitor {
    /// Reads from the API.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, UiError> {
        let bytes = self.read_bytes(path).await?;
        serde_json::from_slice(&bytes).map_err(|error| UiError::unreadable(&error))
    }

    /// Reads a list to its end, or at most this many entries. What was read before a failure is kept.
    pub(super) async fn get_list<T: DeserializeOwned>(
        &self,
        path: &str,
        filter: &[(&str, &str)],
        max: usize,
    ) -> Result<Listed<T>, UiError> {
        let mut list = Listed { data: Vec::new(), has_more: false, fault: None };
        let mut after = None::<String>;
        while list.data.len() < max {
            let mut params = [filter, &[("limit", "100")]].concat();
            params.extend(after.as_deref().map(|after| ("after", after)));
            match self.get::<Page<T>>(&with_query(path, &params)).await {
                Ok(page) => {
                    list.data.extend(page.data);
                    after = page.next;
                }
                Err(UiError::Failed(failure)) => {
                    list.fault = Some(failure.text());
                    return Ok(list);
                }
                Err(signed_out @ UiError::SignedOut { .. }) => return Err(signed_out),
            }
            if after.is_none() {
                return Ok(list);
            }
        }
        list.has_more = true;
        Ok(list)
    }

    /// Reads bytes from the API.
    pub(super) async fn read_bytes(&self, path: &str) -> Result<Bytes, UiError> {
        let response = self.send(Method::GET, path, None).await?;
        read(response).await
    }

    /// Changes something, and returns the response.
    pub(super) async fn post(&self, path: &str, body: Option<&Value>) -> Result<Bytes, UiError> {
        self.change(Method::POST, path, body).await
    }

    /// Changes something with this method, and returns the response.
    pub(super) async fn change(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Bytes, UiError> {
        read(self.send(method, path, body).await?).await
    }

    /// Makes a call, and reads the response if it is a success.
    pub(super) async fn read_reply(&self, request: Request) -> Result<Bytes, UiError> {
        read(self.run(request).await?).await
    }

    /// Calls the API, and returns the response if it is a success.
    pub(super) async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response, UiError> {
        let mut request = Request::builder().method(method).uri(path);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let request = request.body(body).map_err(|error| UiError::unreadable(&error))?;
        self.run(request).await
    }

    /// Makes a call, and returns the response if it is a success.
    pub(super) async fn run(&self, mut request: Request) -> Result<Response, UiError> {
        if let Some(id) = &self.request_id {
            request.headers_mut().insert(X_REQUEST_ID, id.clone());
        }
        if let Some(browser) = self.user_agent.clone() {
            request.headers_mut().insert(header::USER_AGENT, browser);
        }
        let response = self.api().call(self.key, request).await;
        if response.status().is_success() {
            return Ok(response);
        }
        let bytes = to_bytes(response.into_body(), MAX_RESPONSE).await.map_err(|error| UiError::unreadable(&error))?;
        let failure: Failure = serde_json::from_slice(&bytes).map_err(|error| UiError::unreadable(&error))?;
        if failure.status == 401 {
            // The key was revoked a moment ago.
            return Err(UiError::SignedOut { next: "/ui".into(), is_part: self.is_part });
        }
        Err(UiError::Failed(failure))
    }
}

async fn read(response: Response) -> Result<Bytes, UiError> {
    to_bytes(response.into_body(), MAX_RESPONSE).await.map_err(|error| UiError::unreadable(&error))
}
