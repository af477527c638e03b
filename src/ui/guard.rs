//! The layer around every page of the dashboard: refuses changes that another site's page requests, reads their forms, writes
//! the pages of failures, and adds the security headers.
//!
//! Browsers say where a request comes from: in `Sec-Fetch-Site`, or on plain-http sites other than localhost at least in
//! `Origin`. A change is allowed only if one of them says that it comes from a page of this host. A request with neither
//! does not come from a browser, and is refused: programs use the API.

use std::error::Error;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http_body_util::LengthLimitError;

use super::Ui;
use super::error::{Failure, UiError};
use crate::http::Problem;

/// The Content-Security-Policy of the dashboard: only its own files, nothing inline, and frames only for previews.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
    frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Maximum size of a form, in bytes.
const MAX_FORM: usize = 2 << 20;
/// Time limit for reading a form. Forms are also read from browsers that are not signed in.
const FORM_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of the text of a refusal of axum's extractors, in bytes.
const MAX_REFUSAL: usize = 4 << 10;

/// Checks a request, and adds the headers to its response.
pub(super) async fn guard(State(ui): State<Ui>, request: Request, next: Next) -> Response {
    // What the page of a failure needs.
    let headers = request.headers().clone();
    let response = match check(&ui, request).await {
        Ok(request) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    let mut response = match take_failure(response).await {
        Ok(failure) => failure.page(&headers),
        Err(response) => response,
    };
    add_headers(response.headers_mut());
    response
}

/// Refuses a change that another site's page requests, and reads the form of the others.
async fn check(ui: &Ui, request: Request) -> Result<Request, UiError> {
    if is_safe(request.method()) {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    if !is_from_here(&parts.headers, ui.api.is_from_proxy(&parts)) {
        return Err(UiError::new(403, "Pages of other sites must not send this request."));
    }
    let form = match tokio::time::timeout(FORM_TIMEOUT, to_bytes(body, MAX_FORM)).await {
        Ok(Ok(form)) => form,
        Ok(Err(error)) if error.source().is_some_and(<dyn Error>::is::<LengthLimitError>) => {
            return Err(UiError::new(413, "The form is larger than 2 MiB."));
        }
        Ok(Err(_)) => return Err(UiError::new(400, "The form did not arrive completely.")),
        Err(_) => return Err(UiError::new(408, "The form did not arrive within 10 seconds.")),
    };
    Ok(Request::from_parts(parts, Body::from(form)))
}

/// Returns the failure that a response stands for; `Err` is a response without one.
async fn take_failure(mut response: Response) -> Result<Failure, Response> {
    if let Some(failure) = response.extensions_mut().remove::<Failure>() {
        return Ok(failure);
    }
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        return Ok(Failure::from(problem));
    }
    let content_type = response.headers().get(header::CONTENT_TYPE);
    let is_text = content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if !response.status().is_client_error() || !is_text {
        return Err(response);
    }
    // A refusal of one of axum's extractors.
    let status = response.status().as_u16();
    let text = to_bytes(response.into_body(), MAX_REFUSAL).await.unwrap_or_default();
    Ok(Failure { status, detail: String::from_utf8_lossy(&text).into_owned(), errors: Vec::new() })
}

/// Adds the security headers that a page has not set itself.
fn add_headers(headers: &mut HeaderMap) {
    let mut add = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    add(header::CONTENT_SECURITY_POLICY, POLICY);
    add(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    // With `no-referrer`, browsers would send `Origin: null` with forms, also to this host.
    add(header::REFERRER_POLICY, "same-origin");
    add(header::X_FRAME_OPTIONS, "DENY");
    // A look-up of a host in a link would tell its owner that somebody looks at the message.
    add(HeaderName::from_static("x-dns-prefetch-control"), "off");
    add(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    add(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    add(header::CACHE_CONTROL, "no-store");
}

/// Returns whether the method changes nothing.
fn is_safe(method: &Method) -> bool {
    [Method::GET, Method::HEAD].contains(method)
}

/// Returns whether a page of this host has sent the request. `X-Forwarded-Host` counts only from a trusted proxy.
pub(super) fn is_from_here(headers: &HeaderMap, is_from_proxy: bool) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text(HeaderName::from_static("sec-fetch-site")) {
        return site == "same-origin";
    }
    let Some((scheme, authority)) = text(header::ORIGIN).and_then(|origin| origin.split_once("://")) else {
        return false;
    };
    let is_same =
        |host: &str| without_default_port(host, scheme).eq_ignore_ascii_case(without_default_port(authority, scheme));
    let forwarded = if is_from_proxy { text(X_FORWARDED_HOST) } else { None };
    text(header::HOST).is_some_and(is_same) || forwarded.is_some_and(is_same)
}

fn without_default_port<'a>(authority: &'a str, scheme: &str) -> &'a str {
    let port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    authority.strip_suffix(port).unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(headers: &[(&'static str, &'static str)], is_from_proxy: bool) -> bool {
        let headers =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        is_from_here(&headers.collect(), is_from_proxy)
    }

    #[test]
    fn fetch_site_decides_if_the_browser_sends_it() {
        for (site, expected) in [("same-origin", true), ("same-site", false), ("cross-site", false), ("none", false)] {
            let headers = [("sec-fetch-site", site), ("origin", "https://mail.test"), ("host", "mail.test")];
            assert_eq!(allowed(&headers, false), expected, "{site}");
        }
    }

    #[test]
    fn origin_must_be_the_host_without_fetch_site() {
        for (origin, host, expected) in [
            ("http://mail.test:8080", "mail.test:8080", true),
            ("https://MAIL.test", "mail.test:443", true),
            ("http://mail.test:80", "mail.test", true),
            ("https://mail.test:80", "mail.test", false),
            ("http://mail.test:8081", "mail.test:8080", false),
            ("https://evil.test", "mail.test", false),
            ("https://mail.test.evil.test", "mail.test", false),
            ("null", "mail.test", false),
        ] {
            assert_eq!(allowed(&[("origin", origin), ("host", host)], false), expected, "{origin} {host}");
        }
        assert!(!allowed(&[("host", "mail.test")], false), "no browser sends neither");
    }

    #[test]
    fn forwarded_host_counts_only_from_a_trusted_proxy() {
        let headers = [("origin", "https://mail.test"), ("host", "10.0.0.7:8080"), ("x-forwarded-host", "mail.test")];
        assert!(allowed(&headers, true));
        assert!(!allowed(&headers, false));
    }
}
