//! The session's cookie.
//!
//! Its name starts with `__Host-`, with which browsers accept it only over HTTPS and from this host alone. Only if the browser
//! itself says, in `Origin`, that it loaded the page over plain HTTP from this machine, where some browsers refuse such cookies,
//! the name has the port instead, because all ports of a host share their cookies. `Host` alone does not decide: a proxy that
//! serves the dashboard to a network may write an address of this machine there.
//!
//! `SameSite=Lax`, not `Strict`, so that links to a message in a chat or an alert open without another sign-in. Changes are
//! protected by [`crate::ui::guard`], not by this.

use std::net::IpAddr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, header};

/// The name over HTTPS.
const SECURE_NAME: &str = "__Host-postrider";

/// Returns the name over plain HTTP, if `Host` is this machine.
fn plain_name(headers: &HeaderMap) -> Option<String> {
    let host: Authority = headers.get(header::HOST)?.to_str().ok()?.parse().ok()?;
    is_loopback(&host).then(|| format!("postrider-{}", host.port_u16().unwrap_or(80)))
}

fn is_loopback(authority: &Authority) -> bool {
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.parse::<IpAddr>().map_or_else(
        |_| name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost"),
        |ip| ip.to_canonical().is_loopback(),
    )
}

/// Returns the host of a page that the browser loaded over plain HTTP; `None` if it does not say that it did.
fn plain_origin(headers: &HeaderMap) -> Option<Authority> {
    headers.get(header::ORIGIN)?.to_str().ok()?.strip_prefix("http://")?.parse().ok()
}

/// Returns the value of a cookie.
pub(super) fn value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(found, _)| *found == name).map(|(_, value)| value).next()
}

/// Returns the session's token.
pub(super) fn token(headers: &HeaderMap) -> Option<&str> {
    value(headers, SECURE_NAME).or_else(|| value(headers, &plain_name(headers)?))
}

/// Returns whether the browser reached the page over plain HTTP, as far as its cookie tells.
pub(super) fn is_plain(headers: &HeaderMap) -> bool {
    value(headers, SECURE_NAME).is_none()
}

/// Returns whether `Host` is this machine.
pub(super) fn is_loopback_host(headers: &HeaderMap) -> bool {
    plain_name(headers).is_some()
}

/// Returns whether browsers would refuse the cookie, because the page was loaded over plain HTTP from another machine.
pub(super) fn is_refused(headers: &HeaderMap) -> bool {
    plain_origin(headers).is_some_and(|origin| !is_loopback(&origin))
}

/// Returns the `Set-Cookie` header of a form that starts a session.
pub(super) fn set(headers: &HeaderMap, token: &str) -> Option<HeaderValue> {
    start(headers, token, plain_origin(headers).is_some_and(|origin| is_loopback(&origin)))
}

/// Returns the `Set-Cookie` header of a link that starts a session. Browsers send no `Origin` with links: the session is one of
/// this machine if `is_local`, because the request came from here without a proxy.
pub(super) fn set_by_link(headers: &HeaderMap, token: &str, is_local: bool) -> Option<HeaderValue> {
    start(headers, token, is_local)
}

fn start(headers: &HeaderMap, token: &str, may_be_plain: bool) -> Option<HeaderValue> {
    match plain_name(headers).filter(|_| may_be_plain) {
        Some(name) => build(&name, token, ""),
        None => build(SECURE_NAME, token, "; Secure"),
    }
}

/// Returns the `Set-Cookie` headers that end a session.
pub(super) fn clear(headers: &HeaderMap) -> Vec<HeaderValue> {
    let plain = plain_name(headers).and_then(|name| build(&name, "", "; Max-Age=0"));
    build(SECURE_NAME, "", "; Secure; Max-Age=0").into_iter().chain(plain).collect()
}

fn build(name: &str, value: &str, more: &str) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{more}")).ok()
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

    const SECURE: &str = "__Host-postrider=t; Path=/; HttpOnly; SameSite=Lax; Secure";

    #[test]
    fn only_cookies_of_this_machine_are_sent_without_https() {
        for (origin, host, expected) in [
            ("https://mail.test", "mail.test", SECURE),
            ("http://10.0.0.1:8080", "10.0.0.1:8080", SECURE),
            ("http://localhost.mail.test", "localhost.mail.test", SECURE),
            ("http://localhost:8080", "mail.test", SECURE),
            ("null", "localhost:8080", SECURE),
            ("http://localhost:8080", "localhost:8080", "postrider-8080=t; Path=/; HttpOnly; SameSite=Lax"),
            ("http://127.0.0.1", "127.0.0.1", "postrider-80=t; Path=/; HttpOnly; SameSite=Lax"),
            ("http://[::1]:9000", "[::1]:9000", "postrider-9000=t; Path=/; HttpOnly; SameSite=Lax"),
        ] {
            assert_eq!(set(&headers(host, &[(header::ORIGIN, origin)]), "t").unwrap(), expected, "{origin} {host}");
        }
    }

    #[test]
    fn host_that_a_proxy_writes_does_not_decide() {
        let proxied = headers("127.0.0.1:8080", &[(header::ORIGIN, "https://mail.test")]);
        assert_eq!(set(&proxied, "t").unwrap(), SECURE);
        assert_eq!(set(&headers("127.0.0.1:8080", &[]), "t").unwrap(), SECURE);
        let refused = headers("127.0.0.1:8080", &[(header::ORIGIN, "http://mail.test")]);
        assert!(is_refused(&refused));
    }

    #[test]
    fn link_starts_a_plain_session_only_on_this_machine() {
        let plain = "postrider-8080=t; Path=/; HttpOnly; SameSite=Lax";
        assert_eq!(set_by_link(&headers("localhost:8080", &[]), "t", true).unwrap(), plain);
        assert_eq!(set_by_link(&headers("localhost:8080", &[]), "t", false).unwrap(), SECURE);
        assert_eq!(set_by_link(&headers("mail.test", &[]), "t", true).unwrap(), SECURE);
    }

    #[test]
    fn cookie_of_another_name_is_not_the_token() {
        let cookie = |host, text| headers(host, &[(header::COOKIE, text)]);
        assert_eq!(token(&cookie("mail.test", "a=b; __Host-postrider=abc; c=d")), Some("abc"));
        assert_eq!(token(&cookie("mail.test", "postrider-80=abc")), None);
        assert_eq!(token(&cookie("mail.test", "x__Host-postrider=abc")), None);
        assert_eq!(token(&cookie("localhost", "postrider-80=abc")), Some("abc"));
        assert_eq!(token(&cookie("localhost:8080", "postrider-80=abc")), None);
        assert_eq!(token(&cookie("localhost", "postrider-80=abc; __Host-postrider=def")), Some("def"));
    }

    #[test]
    fn plain_http_from_another_machine_is_detected() {
        let is_refused = |host, origin| is_refused(&headers(host, &[(header::ORIGIN, origin)]));
        assert!(is_refused("mail.test", "http://mail.test"));
        assert!(!is_refused("mail.test", "https://mail.test"));
        assert!(!is_refused("localhost:8080", "http://localhost:8080"));
    }
}
