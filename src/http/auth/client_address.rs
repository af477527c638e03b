//! The address of the client that sent a request: that of the connection, or the one that a trusted proxy reports in
//! `X-Forwarded-For`.

use std::net::{IpAddr, SocketAddr};

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use crate::domain::network::contains;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address of a connection, set by the server for each request.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct Peer(pub IpAddr);

/// Returns the client's address; `None` if the address is unknown, or if the request did not come from a connection.
pub(in crate::http) fn client(parts: &Parts, proxies: &[IpNet]) -> Option<IpAddr> {
    let Peer(peer) = parts.extensions.get::<Peer>()?;
    forwarded(*peer, &parts.headers, proxies)
}

/// Returns the last address that is not a trusted proxy. Anybody could have written the entries before it. `None` if a
/// proxy has reported something other than an address.
fn forwarded(peer: IpAddr, headers: &HeaderMap, proxies: &[IpNet]) -> Option<IpAddr> {
    let mut client = peer.to_canonical();
    if !contains(proxies, client) {
        return Some(client);
    }
    // Read from the right, as bytes: what a client has written further left need not be text.
    let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
    for entry in lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')) {
        client = parse(entry)?.to_canonical();
        if !contains(proxies, client) {
            return Some(client);
        }
    }
    Some(client)
}

/// Parses an address, which some proxies write with a port.
fn parse(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry.trim_ascii()).ok()?;
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::domain::network::parse_network;

    fn client_of(peer: &str, lines: &[&[u8]]) -> Option<String> {
        let proxies = ["10.0.0.0/8", "::1"].map(|text| parse_network(text).unwrap());
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(line).unwrap());
        }
        forwarded(peer.parse().unwrap(), &headers, &proxies).map(|ip| ip.to_string())
    }

    fn client(peer: &str, lines: &[&str]) -> String {
        let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        client_of(peer, &lines).unwrap_or_else(|| "unknown".to_owned())
    }

    #[test]
    fn header_of_an_unknown_peer_is_ignored() {
        assert_eq!(client("192.0.2.1", &["203.0.113.9"]), "192.0.2.1");
        assert_eq!(client("::ffff:192.0.2.1", &[]), "192.0.2.1");
    }

    #[test]
    fn last_address_that_is_not_a_proxy_is_the_client() {
        assert_eq!(client("10.0.0.1", &["203.0.113.9"]), "203.0.113.9");
        assert_eq!(client("::1", &["198.51.100.7, 203.0.113.9, 10.0.0.2"]), "203.0.113.9");
        assert_eq!(client("10.0.0.1", &["198.51.100.7", "[2001:db8::1]:443,10.0.0.2"]), "2001:db8::1");
        assert_eq!(client("::ffff:10.0.0.1", &["203.0.113.9:5000"]), "203.0.113.9");
    }

    #[test]
    fn client_of_an_unreadable_entry_is_unknown() {
        for line in ["203.0.113.9, unknown", "203.0.113.9, , 10.0.0.2", "203.0.113.9,", ""] {
            assert_eq!(client_of("10.0.0.1", &[line.as_bytes()]), None, "{line}");
        }
        assert_eq!(client("10.0.0.1", &["unknown, 203.0.113.9"]), "203.0.113.9");
    }

    #[test]
    fn proxies_alone_are_the_client() {
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
    }

    #[test]
    fn bytes_that_are_not_ascii_hide_no_address() {
        let client = |lines: &[&[u8]]| client_of("10.0.0.1", lines);
        let (real, forged) = (Some("203.0.113.9".to_owned()), b"192.0.2.1".as_slice());
        assert_eq!(client(&[b"\xff, 203.0.113.9"]), real, "in the same line");
        assert_eq!(client(&[b"192.0.2.1, \xc3\xa9, 203.0.113.9, 10.0.0.2"]), real);
        assert_eq!(client(&[b"\xff", b"203.0.113.9"]), real, "in an earlier line");
        assert_eq!(client(&[forged, b"\xff, 203.0.113.9"]), real, "in a later line");
        assert_eq!(client(&[forged, b"203.0.113.9\xff"]), None);
        assert_eq!(client(&[forged, b"203.0.113.9, \xff, 10.0.0.2"]), None);
    }
}
