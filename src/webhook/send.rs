//! Posts one webhook delivery and returns its outcome: one time limit for the whole post, up to 64 KiB of the response
//! read, no redirects, no proxies. Every failure is an outcome; posting never returns an error.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::sign::signature;
use crate::domain::webhook::retry::retry_after;
use crate::http_client::{self, HttpClient, HttpError, RESPONSE_LIMIT};
use crate::metrics::METRICS;
use crate::metrics::labels::StatusClass;
use crate::url_guard::Guard;

/// Maximum bytes read of a response; a connection with a longer one is closed.
const MAX_READ: usize = 64 * 1_024;
/// Maximum characters stored of a response.
const MAX_STORED: usize = 1_000;
/// Maximum idle connections for each host.
const IDLE_PER_HOST: usize = 32;

/// One delivery attempt.
#[derive(Clone)]
pub struct Post<'a> {
    /// Endpoint URL.
    pub url: &'a str,
    /// Value of `webhook-id`.
    pub id: String,
    /// JSON body.
    pub body: String,
    /// Signing secrets; each adds a signature.
    pub secrets: Vec<&'a [u8]>,
    /// Time of the post.
    pub now: DateTime<Utc>,
    /// Whether the post has `svix-*` headers in addition to `webhook-*`.
    pub has_svix_headers: bool,
}

/// Result of a post, by its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The status is 2xx.
    Success,
    /// The status is neither 2xx nor 410, or there was no response.
    Failed,
    /// The status is 410: the endpoint accepts no more events.
    Gone,
}

/// Result of a post.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Whether the post succeeded.
    pub verdict: Verdict,
    /// Status of the response.
    pub status: Option<u16>,
    /// Beginning of the response's body.
    pub response_body: Option<String>,
    /// Why there was no response, or why it counts as a failure.
    pub error: Option<String>,
    /// The wait that the endpoint requested (`Retry-After`).
    pub retry_after: Option<TimeDelta>,
    /// Time from the start to the end of the response.
    pub duration: Duration,
}

/// Why the client could not be created.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// TLS could not be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Posts events to webhook endpoints.
pub struct Poster {
    client: HttpClient,
    /// The client for `http://`.
    plain: HttpClient,
    guard: Guard,
    /// Time limit of a post and its response.
    limit: Duration,
}

impl std::fmt::Debug for Poster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poster").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Poster {
    /// Creates a poster for the endpoints that `guard` admits. `limit` is the time limit of a post and its response.
    pub fn new(guard: Guard, limit: Duration) -> Result<Self, SetupError> {
        let tls = http_client::system_tls()?;
        let settings = http_client::Settings {
            https_only: false,
            idle_per_host: IDLE_PER_HOST,
            idle_timeout: Duration::from_secs(30),
            response_limit: RESPONSE_LIMIT,
        };
        let plain = HttpClient::new(tls.clone(), guard.plain().lookup(), settings);
        let client = HttpClient::new(tls, guard.lookup(), settings);
        Ok(Self { client, plain, guard, limit })
    }

    /// Posts and returns the outcome.
    pub async fn post(&self, post: Post<'_>) -> Outcome {
        let started = Instant::now();
        let deadline = started + self.limit;
        let now = post.now;
        let mut outcome = match timeout_at(deadline, self.request(post)).await {
            Ok(Ok(response)) => read_outcome(response, deadline, now).await,
            Ok(Err(why)) => Outcome::failed(why),
            Err(_) => Outcome::failed(format!("no response within {} s", self.limit.as_secs_f64())),
        };
        outcome.duration = started.elapsed();
        METRICS.webhook_posts.get((StatusClass::from_status(outcome.status),)).increment(1);
        METRICS.webhook_post.record(outcome.duration);
        outcome
    }

    async fn request(&self, post: Post<'_>) -> Result<Response<Incoming>, String> {
        let url = Url::parse(post.url).map_err(|error| format!("the URL is not valid: {error}"))?;
        // The client does not resolve IP addresses in the URL, so it would not call the guard for them.
        self.guard.check_url(&url).map_err(|denied| denied.to_string())?;
        let timestamp = post.now.timestamp();
        let signed = signature(post.secrets.into_iter(), &post.id, timestamp, post.body.as_bytes());
        let client = if url.scheme() == "http" { &self.plain } else { &self.client };
        let mut request = Request::post(url.as_str()).header(CONTENT_TYPE, "application/json");
        if post.has_svix_headers {
            // Some libraries read the same values under these names.
            request = request
                .header("svix-id", &post.id)
                .header("svix-timestamp", timestamp)
                .header("svix-signature", &signed);
        }
        let request = request
            .header("webhook-id", post.id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signed)
            .body(Full::from(post.body))
            .map_err(|error| HttpError::from(error).to_string())?;
        client.send(request).await.map_err(|error| error.to_string())
    }
}

impl Outcome {
    /// Returns an outcome without a response.
    pub fn failed(why: String) -> Self {
        Self {
            verdict: Verdict::Failed,
            status: None,
            response_body: None,
            error: Some(why),
            retry_after: None,
            duration: Duration::ZERO,
        }
    }

    /// Describes the outcome in one line.
    pub fn summary(&self) -> String {
        let status = self.status.map(|status| format!("responded with {status}"));
        let detail = self.error.as_deref().or(self.response_body.as_deref()).filter(|text| !text.is_empty());
        match (status, detail) {
            (Some(status), Some(detail)) => format!("{status}: {}", excerpt(detail, 200)),
            (Some(status), None) => status,
            (None, detail) => detail.unwrap_or("no response").to_owned(),
        }
    }
}

async fn read_outcome(mut response: Response<Incoming>, deadline: Instant, now: DateTime<Utc>) -> Outcome {
    let status = response.status();
    let requested = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let requested = requested.and_then(|text| retry_after(text, now));
    // The status decides. An incomplete body does not cause another post.
    let mut body = Vec::new();
    while body.len() < MAX_READ
        && let Ok(Ok(Some(piece))) = timeout_at(deadline, http_client::chunk(&mut response)).await
    {
        body.extend_from_slice(&piece);
    }
    body.truncate(MAX_READ);
    let verdict = match status {
        status if status.is_success() => Verdict::Success,
        StatusCode::GONE => Verdict::Gone,
        _ => Verdict::Failed,
    };
    Outcome {
        verdict,
        status: Some(status.as_u16()),
        response_body: Some(excerpt(&String::from_utf8_lossy(&body), MAX_STORED)),
        error: status.is_redirection().then(|| "redirects are not followed".into()),
        retry_after: requested.filter(|_| verdict == Verdict::Failed),
        duration: Duration::ZERO,
    }
}

/// Returns the first `characters` characters. Control characters, which a terminal would interpret, and NUL, which
/// Postgres cannot store, are replaced; line breaks and tabs stay.
fn excerpt(text: &str, characters: usize) -> String {
    let is_stored = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    text.chars().take(characters).map(|c| if is_stored(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_a_response_are_replaced() {
        assert_eq!(excerpt("a\x1b[31m\0b\u{9b}\r\n\tc", 99), "a\u{fffd}[31m\u{fffd}b\u{fffd}\r\n\tc");
        assert_eq!(excerpt("äöü", 2), "äö");
    }
}
