//! Protects the inbox, which has no password, from web pages of other sites.
//!
//! A page on the Internet can make a browser call `127.0.0.1` in two ways. It can resolve its own name to this address
//! (DNS rebinding) and then read the responses: such requests have that name in `Host`. And it can submit a form to
//! this address without reading the response: such requests have `Sec-Fetch-Site` or the page's `Origin`.

use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use url::{Host, Url};

use crate::domain::api::problem::{Problem, ProblemCode};
use crate::domain::network::IpClass;

/// Endings of names that no public DNS server can give an address: the special-use names of RFC 6761 and ICANN's
/// `internal`.
const LOCAL_ENDINGS: [&str; 3] = [".localhost", ".internal", ".test"];

/// Refuses a request if its host name does not belong to this machine, or if a page of another site sent it.
pub async fn check(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let Some(host) = requested_host(request.uri(), headers) else { return next.run(request).await };
    if !is_local_name(&host) {
        return refusal(
            ProblemCode::MisdirectedRequest,
            format!(
                "`{}` is not a name of this machine: use 127.0.0.1, localhost, another address of it, or a name without dots.",
                host.escape_debug()
            ),
        );
    }
    if !is_safe(request.method()) && is_from_another_site(headers, &host) {
        return refusal(ProblemCode::Forbidden, "Pages of other sites must not send this request.".to_owned());
    }
    next.run(request).await
}

/// Returns whether a URL leads to this machine or its local network.
pub fn is_local_url(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => IpClass::classify(ip.into()) != IpClass::Public,
        Some(Host::Ipv6(ip)) => IpClass::classify(ip.into()) != IpClass::Public,
        Some(Host::Domain(name)) => is_local_name(name),
        None => false,
    }
}

/// Returns the host of the request, without the port. Browsers always send it.
fn requested_host(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let text = match uri.authority() {
        Some(authority) => authority.as_str(),
        None => headers.get(header::HOST)?.to_str().ok()?,
    };
    Some(without_port(text).to_ascii_lowercase())
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// Returns whether a name cannot belong to another site: an address, a name without dots, or one that is never in the
/// DNS.
fn is_local_name(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    match Host::parse(host) {
        Ok(Host::Domain(name)) => !name.contains('.') || LOCAL_ENDINGS.iter().any(|ending| name.ends_with(ending)),
        Ok(Host::Ipv4(_) | Host::Ipv6(_)) => true,
        Err(_) => false,
    }
}

fn is_safe(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS].contains(method)
}

fn is_from_another_site(headers: &HeaderMap, host: &str) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return !["same-origin", "none"].contains(&site);
    }
    text("origin").is_some_and(|origin| {
        let origin_host = origin.split_once("://").map(|(_, authority)| without_port(authority));
        origin_host.is_none_or(|name| !name.eq_ignore_ascii_case(host))
    })
}

/// Builds the response; a layer that knows the request id writes its body.
fn refusal(code: ProblemCode, detail: String) -> Response {
    let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::FORBIDDEN);
    let mut response = status.into_response();
    let title = status.canonical_reason().unwrap_or("Error");
    response.extensions_mut().insert(Problem::new(code, title, detail, Vec::new()));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_outside_the_public_dns_are_local() {
        for host in ["127.0.0.1", "[::1]", "192.168.1.7", "localhost", "inbox", "app.localhost", "host.docker.internal"]
        {
            assert!(is_local_name(host), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.nip.io", "localhost.evil.com", "", "a b", "evil.attest"] {
            assert!(!is_local_name(host), "{host}");
        }
    }

    #[test]
    fn port_is_removed_from_the_host() {
        assert_eq!(without_port("localhost:8080"), "localhost");
        assert_eq!(without_port("[::1]:8080"), "[::1]");
        assert_eq!(without_port("[::1]"), "[::1]");
    }

    #[test]
    fn other_site_is_detected_by_either_header() {
        let headers =
            |name: &'static str, value: &str| HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
        for (name, value, is_other) in [
            ("sec-fetch-site", "cross-site", true),
            ("sec-fetch-site", "same-origin", false),
            ("origin", "http://127.0.0.1:8080", false),
            ("origin", "https://evil.example", true),
            ("origin", "null", true),
            ("accept", "*/*", false),
        ] {
            assert_eq!(is_from_another_site(&headers(name, value), "127.0.0.1"), is_other, "{name}: {value}");
        }
    }
}
