//! The session's cookie.
//!
//! Its name starts with `__Host-`, with which browsers accept it only over HTTPS and from this host alone. Over plain
//! HTTP on this machine, where browsers refuse such cookies, the name has the port instead, because all ports of a host
//! share their cookies.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderValue, header};

/// The name over HTTPS.
const SECURE_NAME: &str = "__Host-postrider";

/// Where a browser reaches the dashboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Site<'a> {
    /// This machine, with the port.
    Loopback(&'a str),
    /// Another name, which needs HTTPS.
    Public,
}

fn site(headers: &HeaderMap) -> Site<'_> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => (name, port),
        _ => (host, "80"),
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = bare.parse::<IpAddr>().map_or_else(
        |_| bare.eq_ignore_ascii_case("localhost") || bare.to_ascii_lowercase().ends_with(".localhost"),
        |ip| ip.to_canonical().is_loopback(),
    );
    if is_loopback { Site::Loopback(port) } else { Site::Public }
}

fn name(headers: &HeaderMap) -> String {
    match site(headers) {
        Site::Loopback(port) => format!("postrider-{port}"),
        Site::Public => SECURE_NAME.to_owned(),
    }
}

/// Returns the value of a cookie.
pub(super) fn value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(found, _)| *found == name).map(|(_, value)| value).next()
}

/// Returns the session's token.
pub(super) fn token(headers: &HeaderMap) -> Option<&str> {
    value(headers, &name(headers))
}

/// Returns whether browsers would refuse the cookie, because the page was loaded over plain HTTP from another machine.
pub(super) fn is_refused(headers: &HeaderMap) -> bool {
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    site(headers) == Site::Public && origin.is_some_and(|origin| origin.starts_with("http://"))
}

/// Returns the `Set-Cookie` header that starts a session.
pub(super) fn set(headers: &HeaderMap, token: &str) -> Option<HeaderValue> {
    build(headers, token, "")
}

/// Returns the `Set-Cookie` header that ends a session.
pub(super) fn clear(headers: &HeaderMap) -> Option<HeaderValue> {
    build(headers, "", "; Max-Age=0")
}

fn build(headers: &HeaderMap, value: &str, age: &str) -> Option<HeaderValue> {
    let secure = if site(headers) == Site::Public { "; Secure" } else { "" };
    let text = format!("{}={value}; Path=/; HttpOnly; SameSite=Lax{secure}{age}", name(headers));
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(host: &'static str, more: &[(header::HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]);
        for (name, value) in more {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn only_cookies_of_this_machine_are_sent_without_https() {
        for (host, expected) in [
            ("mail.test", "__Host-postrider=t; Path=/; HttpOnly; SameSite=Lax; Secure"),
            ("10.0.0.1:8080", "__Host-postrider=t; Path=/; HttpOnly; SameSite=Lax; Secure"),
            ("localhost.mail.test", "__Host-postrider=t; Path=/; HttpOnly; SameSite=Lax; Secure"),
            ("localhost:8080", "postrider-8080=t; Path=/; HttpOnly; SameSite=Lax"),
            ("127.0.0.1", "postrider-80=t; Path=/; HttpOnly; SameSite=Lax"),
            ("[::1]:9000", "postrider-9000=t; Path=/; HttpOnly; SameSite=Lax"),
        ] {
            assert_eq!(set(&headers(host, &[]), "t").unwrap(), expected);
        }
    }

    #[test]
    fn cookie_of_another_name_is_not_the_token() {
        let cookie = |text| headers("mail.test", &[(header::COOKIE, text)]);
        assert_eq!(token(&cookie("a=b; __Host-postrider=abc; c=d")), Some("abc"));
        assert_eq!(token(&cookie("postrider-80=abc")), None);
        assert_eq!(token(&cookie("x__Host-postrider=abc")), None);
    }

    #[test]
    fn plain_http_from_another_machine_is_detected() {
        let is_refused = |host, origin| is_refused(&headers(host, &[(header::ORIGIN, origin)]));
        assert!(is_refused("mail.test", "http://mail.test"));
        assert!(!is_refused("mail.test", "https://mail.test"));
        assert!(!is_refused("localhost:8080", "http://localhost:8080"));
    }
}
