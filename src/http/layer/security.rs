//! Checks of every request, and security headers of every response, on all routes including the development inbox. A
//! header that a handler sets itself takes precedence.

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use axum::response::{IntoResponse as _, Response};

use crate::http::ApiError;

/// The Content-Security-Policy of responses that are not pages: nothing may run, load or be framed.
const API_POLICY: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The Content-Security-Policy of the API documentation, which loads its own scripts and style sheets and sets inline
/// styles.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
    font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Fails if the request's host, length or single-value headers are ambiguous.
pub(in crate::http) fn check(request: &Request) -> Result<(), ApiError> {
    let headers = request.headers();
    check_host(request.version(), headers)?;
    check_single(headers)?;
    check_coding(headers)
}

/// Returns the response to a request that [`check`] refuses, which also closes the connection.
pub(super) fn refuse_and_close(error: ApiError) -> Response {
    let mut response = error.into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The security headers for one path.
pub(in crate::http) struct Policy {
    content: &'static str,
    is_cacheable: bool,
}

impl Policy {
    pub(in crate::http) fn new(path: &str) -> Self {
        let content = policy(path);
        Self { content, is_cacheable: content == DOCS_POLICY || path == "/openapi.json" }
    }

    /// Adds the headers.
    pub(in crate::http) fn add_to(&self, headers: &mut HeaderMap) {
        // The documentation's pages have no charset.
        let is_page = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/html");
        if is_page && self.content == DOCS_POLICY {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        }
        let mut add = |name: HeaderName, value: &'static str| {
            headers.entry(name).or_insert(HeaderValue::from_static(value));
        };
        add(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        add(header::CONTENT_SECURITY_POLICY, self.content);
        add(header::REFERRER_POLICY, "no-referrer");
        // Responses contain addresses, messages and keys: no cache may store them.
        if !self.is_cacheable {
            add(header::CACHE_CONTROL, "no-store");
        }
    }
}

fn policy(path: &str) -> &'static str {
    if path == "/docs" || path.starts_with("/docs/") { DOCS_POLICY } else { API_POLICY }
}

/// RFC 9112 §3.2: an HTTP/1.1 request without `Host`, and any request with several or an invalid one, gets a 400.
fn check_host(version: Version, headers: &HeaderMap) -> Result<(), ApiError> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let refused = |why: &str| Err(ApiError::Malformed(format!("The request needs one `Host` header; {why}.")));
    match (hosts.next(), hosts.next()) {
        (None, _) if version >= Version::HTTP_11 => refused("it has none"),
        (Some(_), Some(_)) => refused("it has several"),
        (Some(host), None) if !is_host(host) => refused("its value is not a host name with an optional port"),
        _ => Ok(()),
    }
}

/// Headers that a request may have only once: with two, a proxy in front of this server may have used the other.
const SINGLE: [&str; 5] = ["authorization", "content-type", "idempotency-key", "last-event-id", "transfer-encoding"];

fn check_single(headers: &HeaderMap) -> Result<(), ApiError> {
    // Fast path: usually no header is repeated.
    if headers.len() == headers.keys_len() {
        return Ok(());
    }
    match SINGLE.into_iter().find(|name| headers.get_all(*name).iter().nth(1).is_some()) {
        None => Ok(()),
        Some(name) => Err(ApiError::Malformed(format!("The request may have one `{name}` header; it has several."))),
    }
}

/// RFC 9112 §6.1: a body in an unsupported transfer coding would be misread.
fn check_coding(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get(header::TRANSFER_ENCODING) {
        Some(coding) if !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => {
            Err(ApiError::Malformed("The only supported `Transfer-Encoding` is `chunked`.".into()))
        }
        _ => Ok(()),
    }
}

/// Returns whether the value is a host with an optional port. It may be empty if the request target has no authority.
fn is_host(value: &HeaderValue) -> bool {
    let value = value.as_bytes();
    value.is_empty() || is_plain_host(value) || (!value.contains(&b'@') && Authority::try_from(value).is_ok())
}

/// Returns whether the value is a name or an IPv4 address with an optional port: the common case, checked without
/// parsing.
fn is_plain_host(value: &[u8]) -> bool {
    let is_name = |name: &[u8]| {
        !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
    };
    match value.iter().position(|byte| *byte == b':') {
        None => is_name(value),
        Some(colon) => {
            let port = &value[colon + 1..];
            is_name(&value[..colon]) && (1..=5).contains(&port.len()) && port.iter().all(u8::is_ascii_digit)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_is_a_name_or_address_with_optional_port() {
        for good in ["example.test", "example.test:8080", "127.0.0.1", "[::1]:80", "a_b.test", ""] {
            assert!(is_host(&HeaderValue::from_static(good)), "{good}");
        }
        for plain in ["example.test", "example.test:8080", "127.0.0.1:65535", "-", "a..b"] {
            assert!(is_plain_host(plain.as_bytes()) && Authority::try_from(plain).is_ok(), "{plain}");
        }
        for bad in ["a@example.test", "a b", "a/b", "http://example.test", "[::1", "a,b\tc"] {
            assert!(!is_host(&HeaderValue::from_static(bad)), "{bad}");
        }
    }
}
