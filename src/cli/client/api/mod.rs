//! The HTTP client. It follows no redirects, because they would send the API key to another address.

pub(super) mod backoff;
pub(super) mod form;
pub(super) mod target;

use std::error::Error;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use secrecy::ExposeSecret as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{ClientError, Kind};
use form::ChangedFile;
use target::Endpoint;

/// Time limit for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Time limit for a request without a long body, and its response.
pub(super) const LIMIT: Duration = Duration::from_mins(1);
/// TCP keepalive interval; it detects dead connections.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Maximum length of a response in bytes. The longest one is a dry run with its MIME message.
const RESPONSE_BYTES: usize = 128 << 20;

/// Characters that are encoded in a segment of a path. The dot is encoded, because `..` would name another path.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'-').remove(b'@');

/// The body of a request.
pub(super) type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

/// A client of one API.
pub(super) struct Api {
    client: Client<HttpsConnector<HttpConnector>, RequestBody>,
    base: String,
    authorization: HeaderValue,
    is_dev: bool,
}

/// A successful response.
#[derive(Debug)]
pub(super) struct Reply {
    text: String,
}

impl Api {
    /// Creates a client. It connects with the first request.
    pub(super) fn new(endpoint: Endpoint) -> Result<Self, ClientError> {
        let authorization = HeaderValue::from_str(&format!("Bearer {}", endpoint.key.expose_secret()));
        let mut authorization = authorization.map_err(|_| {
            ClientError::usage("the API key contains characters that no key has", "copy the key again, on one line")
        })?;
        authorization.set_sensitive(true);
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_LIMIT));
        http.set_keepalive(Some(KEEPALIVE));
        http.set_keepalive_interval(Some(KEEPALIVE));
        http.set_keepalive_retries(Some(3));
        let tls = tls(endpoint.base.starts_with("https:"))?;
        let https =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(http);
        let client =
            Client::builder(TokioExecutor::new()).timer(TokioTimer::new()).pool_timer(TokioTimer::new()).build(https);
        Ok(Self { client, base: endpoint.base, authorization, is_dev: endpoint.is_dev })
    }

    pub(super) async fn get(&self, path: &str) -> Result<Reply, ClientError> {
        self.get_within(path, LIMIT).await
    }

    /// Like [`Self::get`], with another time limit.
    pub(super) async fn get_within(&self, path: &str, limit: Duration) -> Result<Reply, ClientError> {
        self.call(Method::GET, path, HeaderMap::new(), empty(), limit).await
    }

    /// Posts JSON.
    pub(super) async fn post(&self, path: &str, body: &impl Serialize) -> Result<Reply, ClientError> {
        let (headers, body) = json(body)?;
        self.call(Method::POST, path, headers, body, LIMIT).await
    }

    /// Posts without a body.
    pub(super) async fn post_empty(&self, path: &str) -> Result<Reply, ClientError> {
        self.call(Method::POST, path, HeaderMap::new(), empty(), LIMIT).await
    }

    /// Sends a request, and reads the response.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        mut headers: HeaderMap,
        body: RequestBody,
        limit: Duration,
    ) -> Result<Reply, ClientError> {
        headers.insert(AUTHORIZATION, self.authorization.clone());
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("Postrider/", env!("CARGO_PKG_VERSION"))));
        let request = Request::builder().method(method).uri(format!("{}{path}", self.base)).body(body);
        let mut request =
            request.map_err(|error| ClientError::new(Kind::Usage, format!("not a valid request: {error}")))?;
        *request.headers_mut() = headers;
        let exchange = tokio::time::timeout(limit, self.exchange(request));
        exchange.await.unwrap_or_else(|_| {
            Err(ClientError::broken(format!("{} did not respond within {} s", self.base, limit.as_secs())))
        })
    }

    async fn exchange(&self, request: Request<RequestBody>) -> Result<Reply, ClientError> {
        let response = self.client.request(request).await.map_err(|error| self.connection_error(&error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = Limited::new(response.into_body(), RESPONSE_BYTES).collect().await.map_err(|error| {
            ClientError::broken(format!("the response of {} ended early: {}", self.base, causes(error.as_ref())))
        })?;
        let body = body.to_bytes();
        if status.is_redirection() {
            return Err(self.redirect(status, &headers));
        }
        if !status.is_success() {
            return Err(ClientError::response(&self.base, status, &body, retry_after(&headers)));
        }
        let text = String::from_utf8(body.into()).map_err(|_| invalid("it is not UTF-8"))?;
        Ok(Reply { text })
    }

    fn connection_error(&self, error: &hyper_util::client::legacy::Error) -> ClientError {
        let cause = causes(error);
        if let Some(changed) = find::<ChangedFile>(error) {
            return ClientError::new(Kind::Failed, changed.to_string());
        }
        if !error.is_connect() {
            return ClientError::broken(format!("the connection to {} broke: {cause}", self.base));
        }
        let hint = if self.is_dev {
            "start `postrider dev`, or set POSTRIDER_URL and POSTRIDER_API_KEY"
        } else {
            "check --url or POSTRIDER_URL, and that the API is running"
        };
        ClientError::new(Kind::Unavailable, format!("cannot reach {}: {cause}", self.base)).with_hint(hint)
    }

    fn redirect(&self, status: StatusCode, headers: &HeaderMap) -> ClientError {
        let target = headers.get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or("another address");
        ClientError::new(Kind::Failed, format!("{} returned {status}: it redirects to {target}", self.base))
            .with_hint("set POSTRIDER_URL or --url to the address of the API itself")
    }
}

impl Reply {
    /// Returns the JSON as the API wrote it, unchecked.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Parses the JSON.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_str(&self.text).map_err(|error| invalid(&error.to_string()))
    }

    /// Returns the JSON; fails if it is not valid.
    pub(super) fn json(&self) -> Result<&str, ClientError> {
        self.parse::<serde::de::IgnoredAny>().map(|_| self.text.as_str())
    }
}

/// Returns the error for a response that is not as documented.
pub(super) fn invalid(why: &str) -> ClientError {
    ClientError::new(Kind::Failed, format!("the response is not one of Postrider: {why}"))
        .with_hint("check --url or POSTRIDER_URL, and that client and server have the same version")
}

/// Returns a body with JSON, and its headers.
pub(super) fn json(value: &impl Serialize) -> Result<(HeaderMap, RequestBody), ClientError> {
    let bytes = serde_json::to_vec(value).map_err(|error| ClientError::new(Kind::Failed, error.to_string()))?;
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok((headers, full(bytes.into())))
}

fn empty() -> RequestBody {
    full(Bytes::new())
}

fn full(bytes: Bytes) -> RequestBody {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// Encodes a segment of a path, such as an id or an address.
pub(super) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// Returns a path with a query string of the parameters that have a value.
pub(super) fn with_query<'a>(path: &str, parameters: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    let query = query.finish();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// Creates the TLS settings. `SSL_CERT_FILE` names other certificate authorities than those of the system.
fn tls(is_used: bool) -> Result<ClientConfig, ClientError> {
    let mut roots = RootCertStore::empty();
    if is_used {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let builder = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::new(Kind::Failed, format!("cannot set up TLS: {error}")))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// Formats an error with its causes, which hyper's own `Display` omits.
fn causes(error: &(dyn Error + 'static)) -> String {
    let chain = std::iter::successors(error.source(), |&cause| cause.source());
    // The outermost error says only in which part of the client it happened.
    let causes: Vec<String> = chain.map(ToString::to_string).collect();
    if causes.is_empty() { error.to_string() } else { causes.join(": ") }
}

/// Returns the cause of this type.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let inner = |error: &'a (dyn Error + 'static)| {
        let io = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        error.downcast_ref::<T>().or_else(|| io.and_then(|inner| inner.downcast_ref::<T>()))
    };
    std::iter::successors(Some(error), |&cause| cause.source()).find_map(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_and_queries_are_encoded() {
        assert_eq!(segment("../keys?x"), "%2E%2E%2Fkeys%3Fx");
        assert_eq!(segment("msg_1-a@b"), "msg_1-a@b");
        let query = [("after", Some("a&b=c")), ("limit", None), ("type", Some("ü"))];
        assert_eq!(with_query("/v1/events", query), "/v1/events?after=a%26b%3Dc&type=%C3%BC");
        assert_eq!(with_query("/v1/lanes", [("after", None)]), "/v1/lanes");
    }
}
