//! What every request must have, and what every response tells browsers and caches. All routes, those of the
//! development inbox included; a handler that sets one of these headers itself keeps its own.

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use axum::response::{IntoResponse as _, Response};

use super::ApiError;

/// For what is no page: nothing may run, load or frame it.
const NOTHING: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// For the API's documentation, whose scripts and style sheets come from here. It sets styles on elements.
const DOCUMENTATION: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
    font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Refuses a request of which it is not sure whom it is for, or where it ends.
pub(super) fn check(request: &Request) -> Result<(), ApiError> {
    let headers = request.headers();
    check_host(request.version(), headers)?;
    check_single(headers)?;
    check_coding(headers)
}

/// The response to such a request. Nothing more is read from its connection.
pub(super) fn refused(error: ApiError) -> Response {
    let mut response = error.into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// What browsers and caches are told of a response to a request for this path.
pub(super) struct Policy {
    content: &'static str,
    may_be_kept: bool,
}

impl Policy {
    pub(super) fn new(path: &str) -> Self {
        let content = policy(path);
        Self { content, may_be_kept: content == DOCUMENTATION || path == "/openapi.json" }
    }

    /// Adds the headers.
    pub(super) fn add_to(&self, headers: &mut HeaderMap) {
        // The pages of the documentation come without a charset.
        let is_page = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/html");
        if is_page && self.content == DOCUMENTATION {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        }
        let mut add = |name: HeaderName, value: &'static str| {
            headers.entry(name).or_insert(HeaderValue::from_static(value));
        };
        add(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        add(header::CONTENT_SECURITY_POLICY, self.content);
        add(header::REFERRER_POLICY, "no-referrer");
        // Addresses, messages, keys: no cache may keep them.
        if !self.may_be_kept {
            add(header::CACHE_CONTROL, "no-store");
        }
    }
}

fn policy(path: &str) -> &'static str {
    if path == "/docs" || path.starts_with("/docs/") { DOCUMENTATION } else { NOTHING }
}

/// RFC 9112 §3.2: a request of HTTP/1.1 without `Host`, and any with several or one that is no host, is answered 400.
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

/// Headers of which a request has one. Where it has two, a proxy in front of this may have looked at the other.
const SINGLE: [&str; 5] = ["authorization", "content-type", "idempotency-key", "last-event-id", "transfer-encoding"];

fn check_single(headers: &HeaderMap) -> Result<(), ApiError> {
    // As a rule there are no two headers of one name at all.
    if headers.len() == headers.keys_len() {
        return Ok(());
    }
    match SINGLE.into_iter().find(|name| headers.get_all(*name).iter().nth(1).is_some()) {
        None => Ok(()),
        Some(name) => Err(ApiError::Malformed(format!("The request may have one `{name}` header; it has several."))),
    }
}

/// RFC 9112 §6.1: a body in a transfer coding that is not understood would be read as something else.
fn check_coding(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get(header::TRANSFER_ENCODING) {
        Some(coding) if !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => {
            Err(ApiError::Malformed("The only Transfer-Encoding that is understood is `chunked`.".into()))
        }
        _ => Ok(()),
    }
}

/// A host with an optional port. It may be empty, where the target of the request has no authority.
fn is_host(value: &HeaderValue) -> bool {
    let value = value.as_bytes();
    value.is_empty() || is_plain_host(value) || (!value.contains(&b'@') && Authority::try_from(value).is_ok())
}

/// Whether it is a name or an IPv4 address, with or without a port: what nearly every request has, told without a copy of it.
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
    fn a_host_is_a_name_or_an_address_with_a_port() {
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
