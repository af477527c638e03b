//! Classifies IP addresses: public, private or special-purpose (IANA's registries, RFC 6890). HTTP requests to URLs
//! from users may only reach public addresses, or those that are allowed explicitly. Limits per client count addresses by
//! their [`owner`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use url::Host;

/// A part of the address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A public address.
    Public,
    /// A loopback address of this machine.
    Loopback,
    /// A private address, or a carrier's shared one (RFC 1918, 4193, 6598).
    Private,
    /// A link-local address, including the metadata service of clouds (169.254.169.254).
    LinkLocal,
    /// A multicast address.
    Multicast,
    /// An address that embeds another: NAT64, 6to4, Teredo.
    Translated,
    /// Unassigned, or reserved for protocols, documentation and tests.
    Reserved,
}

impl Place {
    /// Returns whether [`Allowed::private`] admits it.
    pub fn is_private(self) -> bool {
        matches!(self, Self::Loopback | Self::Private)
    }

    /// Classifies an address. An IPv4-mapped IPv6 address is classified as IPv4.
    pub fn classify(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => of_v4(ip),
            IpAddr::V6(ip) => of_v6(ip),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::LinkLocal => "link-local",
            Self::Multicast => "multicast",
            Self::Translated => "translated",
            Self::Reserved => "reserved",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Returns the network of an address that usually has one owner: an IPv4 address, or a /64 of IPv6.
pub fn owner(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        ip @ IpAddr::V4(_) => ip,
    }
}

fn of_v4(ip: Ipv4Addr) -> Place {
    match ip.octets() {
        _ if ip.is_loopback() => Place::Loopback,
        _ if ip.is_private() => Place::Private,
        _ if ip.is_link_local() => Place::LinkLocal,
        _ if ip.is_multicast() => Place::Multicast,
        // Shared by carriers (RFC 6598).
        [100, second, ..] if second & 0xC0 == 64 => Place::Private,
        // Relays of 6to4 (RFC 7526).
        [192, 88, 99, _] => Place::Translated,
        // Benchmarks (RFC 2544).
        [198, second, ..] if second & 0xFE == 18 => Place::Reserved,
        // This network, protocol assignments, reserved, broadcast.
        [0 | 240..=255, ..] | [192, 0, 0, _] => Place::Reserved,
        _ if ip.is_documentation() => Place::Reserved,
        _ => Place::Public,
    }
}

fn of_v6(ip: Ipv6Addr) -> Place {
    match ip.segments() {
        _ if ip.is_loopback() => Place::Loopback,
        _ if ip.is_multicast() => Place::Multicast,
        // Unique local (RFC 4193), and the former site-local.
        [first, ..] if first & 0xFE00 == 0xFC00 || first & 0xFFC0 == 0xFEC0 => Place::Private,
        [first, ..] if first & 0xFFC0 == 0xFE80 => Place::LinkLocal,
        // NAT64 (RFC 6052, 8215), Teredo (RFC 4380), 6to4 (RFC 3056).
        [0x0064, 0xFF9B, ..] | [0x2001, 0, ..] | [0x2002, ..] => Place::Translated,
        // Protocol assignments, documentation.
        [0x2001, second, ..] if second & 0xFE00 == 0 => Place::Reserved,
        [0x2001, 0x0DB8, ..] => Place::Reserved,
        [0x3FFF, second, ..] if second & 0xF000 == 0 => Place::Reserved,
        [first, ..] if first & 0xE000 == 0x2000 => Place::Public,
        _ => Place::Reserved,
    }
}

/// Which addresses may be contacted besides public ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Allows only addresses of this machine, whatever else is set. The caller decides which addresses those are.
    pub this_machine_only: bool,
    /// Allows private and loopback addresses.
    pub private: bool,
    /// Allowed hosts and networks.
    pub rules: Vec<Rule>,
}

impl Allowed {
    /// Returns whether this address of `host` may be contacted.
    pub fn admits(&self, host: &str, ip: IpAddr) -> bool {
        let place = Place::classify(ip);
        place == Place::Public || (self.private && place.is_private()) || self.names(host, ip)
    }

    /// Returns whether a rule allows it.
    pub fn names(&self, host: &str, ip: IpAddr) -> bool {
        self.rules.iter().any(|rule| match rule {
            Rule::Host(name) => name == host,
            Rule::Network(network) => network.contains(&ip.to_canonical()),
        })
    }
}

/// An allowed host or network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// A host, with any address.
    Host(String),
    /// Every address of a network.
    Network(IpNet),
}

/// The text is not an address, a network, or the name of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be an address, a network such as 10.0.0.0/8, or the name of a host")]
pub struct NoRule;

impl FromStr for Rule {
    type Err = NoRule;

    fn from_str(text: &str) -> Result<Self, NoRule> {
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Self::Network(network.trunc()));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Network(ip.to_canonical().into()));
        }
        match Host::parse(text) {
            Ok(Host::Domain(name)) => Ok(Self::Host(name)),
            _ => Err(NoRule),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_ipv6_network_have_one_owner() {
        let owner = |text: &str| owner(text.parse().unwrap());
        assert_eq!(owner("2001:db8::1"), owner("2001:db8::2"));
        assert_ne!(owner("2001:db8::1"), owner("2001:db8:0:1::1"));
        assert_ne!(owner("192.0.2.1"), owner("192.0.2.2"));
        assert_eq!(owner("::ffff:192.0.2.1"), "192.0.2.1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn private_and_special_addresses_are_not_public() {
        for (place, addresses) in [
            (Place::Loopback, &["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"][..]),
            (
                Place::Private,
                &[
                    "10.1.2.3",
                    "172.16.0.1",
                    "172.31.255.255",
                    "192.168.1.1",
                    "100.64.0.1",
                    "100.127.255.255",
                    "::ffff:10.0.0.1",
                    "fc00::1",
                    "fd12::1",
                    "fec0::1",
                ],
            ),
            (Place::LinkLocal, &["169.254.169.254", "fe80::1", "febf::1", "::ffff:169.254.169.254"]),
            (Place::Multicast, &["224.0.0.1", "239.255.255.250", "ff02::1"]),
            (Place::Translated, &["64:ff9b::a00:1", "64:ff9b:1::1", "2001::1", "2002:a00:1::", "192.88.99.1"]),
            (
                Place::Reserved,
                &[
                    "0.0.0.0",
                    "0.1.2.3",
                    "192.0.0.8",
                    "192.0.2.1",
                    "198.51.100.1",
                    "203.0.113.1",
                    "198.18.0.1",
                    "198.19.255.255",
                    "240.0.0.1",
                    "255.255.255.255",
                    "::",
                    "::10.0.0.1",
                    "2001:db8::1",
                    "2001:10::1",
                    "3fff::1",
                    "100::1",
                    "5f00::1",
                ],
            ),
            (
                Place::Public,
                &[
                    "1.1.1.1",
                    "100.128.0.1",
                    "172.32.0.1",
                    "192.0.1.1",
                    "198.20.0.1",
                    "2606:4700::1111",
                    "2001:4860::8888",
                    "::ffff:1.1.1.1",
                ],
            ),
        ] {
            for ip in addresses {
                assert_eq!(Place::classify(ip.parse().unwrap()), place, "{ip}");
            }
        }
    }

    #[test]
    fn only_allowed_addresses_are_admitted() {
        let rules = ["10.0.0.0/8", "169.254.1.1", "Hooks.Internal"].map(|rule| rule.parse().unwrap()).to_vec();
        let allowed = Allowed { private: false, rules, ..Allowed::default() };
        let admits = |host: &str, ip: &str| allowed.admits(host, ip.parse().unwrap());
        assert!(admits("x.test", "10.1.2.3") && admits("x.test", "::ffff:10.1.2.3") && admits("x.test", "169.254.1.1"));
        assert!(admits("hooks.internal", "192.168.1.1") && admits("x.test", "1.1.1.1"));
        assert!(!admits("x.test", "192.168.1.1") && !admits("x.test", "169.254.169.254") && !admits("x.test", "::1"));

        let private = Allowed { private: true, ..Allowed::default() };
        let admits = |ip: &str| private.admits("x.test", ip.parse().unwrap());
        assert!(admits("127.0.0.1") && admits("192.168.1.1") && admits("fd00::1"));
        assert!(!admits("169.254.169.254") && !admits("0.0.0.0") && !admits("64:ff9b::7f00:1"));
    }

    #[test]
    fn invalid_rules_are_rejected() {
        for text in ["", "10.0.0.0/33", "a b", "http://x.test", "[::1", "1.2.3.4.5"] {
            assert_eq!(text.parse::<Rule>(), Err(NoRule), "{text}");
        }
    }
}
