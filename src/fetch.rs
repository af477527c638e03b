//! Downloads files from URLs that API users choose, to attach them to messages. Files come only from addresses that the
//! [`Guard`] admits, and redirects are not followed. All downloads of a request share one time limit and one size limit.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, HeaderValue};
use hyper::{Request, Response, StatusCode};
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::http_client::{self, HttpClient, HttpError};
use crate::url_guard::{Denied, Guard};

/// Maximum length of a URL. Signed URLs of object stores have up to 2,000 characters.
const MAX_URL: usize = 8_192;
/// Bytes allowed for TLS handshake messages and the response's head, in addition to the file.
const OVERHEAD: usize = 1 << 20;

/// Downloads files.
pub struct Fetcher {
    client: HttpClient,
    guard: Guard,
    timeout: Duration,
    max: u64,
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher").field("timeout", &self.timeout).field("max", &self.max).finish_non_exhaustive()
    }
}

/// The limits that the downloads of one request share.
#[derive(Debug)]
pub struct Budget {
    deadline: Instant,
    timeout: Duration,
    max: u64,
    /// Bytes that may still be downloaded.
    remaining: AtomicU64,
}

/// A file that is being downloaded.
#[derive(Debug)]
pub struct Download<'a> {
    response: Response<Incoming>,
    budget: &'a Budget,
}

/// Why a file cannot be downloaded.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL cannot be parsed.
    #[error("must be a URL such as https://files.example.com/invoice.pdf: {0}")]
    Url(#[from] url::ParseError),
    /// The URL is too long.
    #[error("must have at most {MAX_URL} characters")]
    TooLong,
    /// The URL may not be used.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The response is a redirect.
    #[error("the server redirects with {0}, and redirects are not followed; use the final URL")]
    Redirect(u16),
    /// The response is not a file.
    #[error("the server responded with {0} instead of 200")]
    Status(u16),
    /// The file is compressed, although the request allows no compression.
    #[error("the server sent the file with a `Content-Encoding`, which is not supported")]
    Encoded,
    /// The files of the request are larger than allowed.
    #[error("the files of a request must have at most {0} bytes together")]
    TooLarge(u64),
    /// The download took too long.
    #[error("the file did not arrive within {} s; send it in `content`", .0.as_secs_f64())]
    TimedOut(Duration),
    /// The connection or the response failed.
    #[error("cannot download the file: {0}")]
    Http(#[from] HttpError),
}

impl Fetcher {
    /// Creates a fetcher for the files that `guard` admits. `timeout` and `max` (bytes) limit all downloads of one
    /// request together.
    pub fn new(guard: Guard, timeout: Duration, max: u64) -> Result<Self, rustls::Error> {
        let file = usize::try_from(max).unwrap_or(usize::MAX);
        let settings = http_client::Settings {
            https_only: false,
            // A kept connection would save little: the servers differ.
            idle_per_host: 0,
            idle_timeout: Duration::ZERO,
            // Chunks and TLS records have headers: less than an eighth of a file that arrives in pieces of 256 bytes.
            response_limit: file.saturating_add(OVERHEAD).saturating_add(file / 8),
        };
        let client = HttpClient::new(http_client::system_tls()?, guard.lookup(), settings);
        Ok(Self { client, guard, timeout, max })
    }

    /// Starts the time limit of a request's downloads.
    pub fn budget(&self) -> Budget {
        let (deadline, remaining) = (Instant::now() + self.timeout, AtomicU64::new(self.max));
        Budget { deadline, timeout: self.timeout, max: self.max, remaining }
    }

    /// Requests a file. Returns once the head of the response has arrived.
    pub async fn get<'a>(&self, url: &str, budget: &'a Budget) -> Result<Download<'a>, FetchError> {
        if url.len() > MAX_URL {
            return Err(FetchError::TooLong);
        }
        let mut url = Url::parse(url)?;
        url.set_fragment(None);
        let response = budget.within(self.request(&url)).await??;
        let status = response.status();
        if status.is_redirection() {
            return Err(FetchError::Redirect(status.as_u16()));
        }
        if status != StatusCode::OK {
            return Err(FetchError::Status(status.as_u16()));
        }
        let is_plain = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"identity");
        if !response.headers().get_all(CONTENT_ENCODING).iter().all(is_plain) {
            return Err(FetchError::Encoded);
        }
        let length = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if length.is_some_and(|length: u64| length > budget.remaining.load(Ordering::Relaxed)) {
            return Err(budget.too_large());
        }
        Ok(Download { response, budget })
    }

    async fn request(&self, url: &Url) -> Result<Response<Incoming>, FetchError> {
        // This also checks IP addresses in the URL, for which the client calls no lookup.
        self.guard.admits(url).await?;
        let request = Request::get(url.as_str()).header(ACCEPT_ENCODING, "identity");
        let request = request.body(Full::default()).map_err(HttpError::from)?;
        Ok(self.client.send(request).await?)
    }
}

impl Download<'_> {
    /// Returns the next bytes of the file; `None` at its end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        let Self { response, budget } = self;
        let Some(piece) = budget.within(http_client::chunk(response)).await?? else { return Ok(None) };
        budget.take(piece.len() as u64)?;
        Ok(Some(piece))
    }
}

impl Budget {
    /// Waits for a result until the deadline.
    async fn within<T>(&self, result: impl Future<Output = T>) -> Result<T, FetchError> {
        timeout_at(self.deadline, result).await.map_err(|_| FetchError::TimedOut(self.timeout))
    }

    /// Counts bytes that have arrived.
    fn take(&self, bytes: u64) -> Result<(), FetchError> {
        let rest = |remaining: u64| remaining.checked_sub(bytes);
        let taken = self.remaining.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
        taken.map(drop).map_err(|_| self.too_large())
    }

    fn too_large(&self) -> FetchError {
        FetchError::TooLarge(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(max: u64) -> Budget {
        let (deadline, timeout) = (Instant::now(), Duration::from_secs(1));
        Budget { deadline, timeout, max, remaining: AtomicU64::new(max) }
    }

    #[test]
    fn files_of_a_request_share_one_size_limit() {
        let budget = budget(10);
        assert!(budget.take(6).is_ok() && budget.take(4).is_ok());
        assert!(matches!(budget.take(1), Err(FetchError::TooLarge(10))));
        assert!(budget.take(0).is_ok());
    }

    #[tokio::test]
    async fn downloads_end_at_the_deadline() {
        let nothing = budget(10).within(std::future::pending::<()>()).await;
        assert!(matches!(nothing, Err(FetchError::TimedOut(_))), "{nothing:?}");
    }
}
