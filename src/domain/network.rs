//! Classifies IP addresses as public, private or special-purpose (IANA's registries, RFC 6890). HTTP requests to URLs
//! from users may only reach public addresses and explicitly allowed ones. Limits per client apply to the network that
//! [`owner`] returns.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};
use url::Host;

/// The class of an IP address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpClass {
    /// A public address.
    Public,
    /// A loopback address of this machine.
    Loopback,
    /// A private address, or a shared address of a carrier (RFC 1918, 4193, 6598).
    Private,
    /// A link-local address, such as the metadata service of cloud providers (169.254.169.254), or an address of a cloud
    /// provider that only its virtual machines reach.
    LinkLocal,
    /// A multicast address.
    Multicast,
    /// An address that embeds another address: NAT64, 6to4 or Teredo.
    Translated,
    /// Unassigned, or reserved for protocols, documentation and tests.
    Reserved,
}

impl IpClass {
    /// Returns whether [`Allowed::private`] admits addresses of this class.
    pub fn is_private(self) -> bool {
        matches!(self, Self::Loopback | Self::Private)
    }

    /// Classifies an address. An IPv4-mapped IPv6 address is classified as IPv4.
    pub fn classify(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => classify_v4(ip),
            IpAddr::V6(ip) => classify_v6(ip),
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

impl fmt::Display for IpClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Returns the network around an address that usually belongs to one owner: the IPv4 address itself, or the IPv6 /64.
pub fn owner(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        ip @ IpAddr::V4(_) => ip,
    }
}

fn classify_v4(ip: Ipv4Addr) -> IpClass {
    match ip.octets() {
        _ if ip.is_loopback() => IpClass::Loopback,
        _ if ip.is_private() => IpClass::Private,
        _ if ip.is_link_local() => IpClass::LinkLocal,
        // The host agent of Azure's virtual machines, which only they reach.
        [168, 63, 129, 16] => IpClass::LinkLocal,
        _ if ip.is_multicast() => IpClass::Multicast,
        // Shared address space of carriers (RFC 6598).
        [100, second, ..] if second & 0xC0 == 64 => IpClass::Private,
        // 6to4 relays (RFC 7526).
        [192, 88, 99, _] => IpClass::Translated,
        // Benchmarks (RFC 2544).
        [198, second, ..] if second & 0xFE == 18 => IpClass::Reserved,
        // "This network", protocol assignments, reserved addresses and broadcast.
        [0 | 240..=255, ..] | [192, 0, 0, _] => IpClass::Reserved,
        _ if ip.is_documentation() => IpClass::Reserved,
        _ => IpClass::Public,
    }
}

fn classify_v6(ip: Ipv6Addr) -> IpClass {
    match ip.segments() {
        _ if ip.is_loopback() => IpClass::Loopback,
        _ if ip.is_multicast() => IpClass::Multicast,
        // Unique local addresses (RFC 4193), and the deprecated site-local ones.
        [first, ..] if first & 0xFE00 == 0xFC00 || first & 0xFFC0 == 0xFEC0 => IpClass::Private,
        [first, ..] if first & 0xFFC0 == 0xFE80 => IpClass::LinkLocal,
        // NAT64 (RFC 6052, 8215), Teredo (RFC 4380), 6to4 (RFC 3056).
        [0x0064, 0xFF9B, ..] | [0x2001, 0, ..] | [0x2002, ..] => IpClass::Translated,
        // Protocol assignments and documentation.
        [0x2001, second, ..] if second & 0xFE00 == 0 => IpClass::Reserved,
        [0x2001, 0x0DB8, ..] => IpClass::Reserved,
        [0x3FFF, second, ..] if second & 0xF000 == 0 => IpClass::Reserved,
        [first, ..] if first & 0xE000 == 0x2000 => IpClass::Public,
        _ => IpClass::Reserved,
    }
}

/// The addresses that may be contacted in addition to public ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Allows only addresses of this machine, regardless of the other fields. The caller enforces it.
    pub this_machine_only: bool,
    /// Allows private and loopback addresses.
    pub private: bool,
    /// Hosts and networks that are allowed.
    pub rules: Vec<Rule>,
}

impl Allowed {
    /// Returns whether this address of `host` may be contacted.
    pub fn admits(&self, host: &str, ip: IpAddr) -> bool {
        let class = IpClass::classify(ip);
        class == IpClass::Public || (self.private && class.is_private()) || self.names(host, ip)
    }

    /// Returns whether this address of `host` may be that of a server which users of the API chose. Addresses of this machine need
    /// a rule, or `private` if they are private.
    pub fn admits_server(&self, host: &str, ip: IpAddr) -> bool {
        if self.this_machine_only { ip.is_loopback() } else { self.admits(host, ip) }
    }

    /// Returns whether a rule names the host or the address.
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
    /// A host, whatever its addresses are.
    Host(String),
    /// Every address of a network.
    Network(IpNet),
}

/// A text that is not an IP address, a network or a host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be an IP address, a network such as 10.0.0.0/8, or a host name")]
pub struct InvalidRule;

impl FromStr for Rule {
    type Err = InvalidRule;

    fn from_str(text: &str) -> Result<Self, InvalidRule> {
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Self::Network(network.trunc()));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Network(ip.to_canonical().into()));
        }
        match Host::parse(text) {
            Ok(Host::Domain(name)) => Ok(Self::Host(name)),
            _ => Err(InvalidRule),
        }
    }
}

/// A text that is not an IP address or a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be an IP address or a network such as 192.0.2.0/24 or 2001:db8::/32")]
pub struct InvalidNetwork;

/// Parses an IP address or a network in CIDR notation. Host bits are cleared, and an IPv4-mapped IPv6 network becomes
/// the IPv4 network.
pub fn parse_network(text: &str) -> Result<IpNet, InvalidNetwork> {
    let network: IpNet = match text.parse::<IpAddr>() {
        Ok(ip) => ip.into(),
        Err(_) => text.parse().map_err(|_| InvalidNetwork)?,
    };
    let IpNet::V6(v6) = network else { return Ok(network.trunc()) };
    let mapped = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    let v4 = mapped.and_then(|(ip, prefix)| Ipv4Net::new(ip, prefix).ok());
    Ok(v4.map_or(network, IpNet::V4).trunc())
}

/// Returns whether one of the networks contains an address. An IPv4-mapped IPv6 address counts as IPv4.
pub fn contains(networks: &[IpNet], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    networks.iter().any(|network| network.contains(&ip))
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
    fn each_address_has_its_class() {
        for (class, addresses) in [
            (IpClass::Loopback, &["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"][..]),
            (
                IpClass::Private,
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
            (
                IpClass::LinkLocal,
                &[
                    "169.254.169.254",
                    "168.63.129.16",
                    "fe80::1",
                    "febf::1",
                    "::ffff:169.254.169.254",
                    "::ffff:168.63.129.16",
                ],
            ),
            (IpClass::Multicast, &["224.0.0.1", "239.255.255.250", "ff02::1"]),
            (IpClass::Translated, &["64:ff9b::a00:1", "64:ff9b:1::1", "2001::1", "2002:a00:1::", "192.88.99.1"]),
            (
                IpClass::Reserved,
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
                IpClass::Public,
                &[
                    "1.1.1.1",
                    "168.63.129.15",
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
                assert_eq!(IpClass::classify(ip.parse().unwrap()), class, "{ip}");
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
            assert_eq!(text.parse::<Rule>(), Err(InvalidRule), "{text}");
        }
    }

    #[test]
    fn networks_are_written_in_one_way() {
        for (text, expected) in [
            ("192.0.2.7", "192.0.2.7/32"),
            ("192.0.2.7/24", "192.0.2.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:DB8::1/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("::/0", "::/0"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            ("::ffff:192.0.2.7/120", "192.0.2.0/24"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ] {
            assert_eq!(parse_network(text).unwrap().to_string(), expected, "{text}");
        }
        for text in ["", "192.0.2", "192.0.2.0/33", "::/129", "192.0.2.0/24 ", "example.com", "192.0.2.1-9"] {
            assert_eq!(parse_network(text), Err(InvalidNetwork), "{text}");
        }
    }

    #[test]
    fn mapped_address_counts_as_ipv4() {
        let networks = ["192.0.2.0/24", "2001:db8::/32"].map(|text| parse_network(text).unwrap());
        let is_in = |ip: &str| contains(&networks, ip.parse().unwrap());
        assert!(is_in("192.0.2.255") && is_in("::ffff:192.0.2.1") && is_in("2001:db8:ffff::1"));
        assert!(!is_in("192.0.3.0") && !is_in("::ffff:192.0.3.0") && !is_in("2001:db9::1") && !is_in("::192.0.2.1"));
        assert!(!contains(&[], "192.0.2.1".parse().unwrap()));
        assert!(!contains(&[parse_network("::/0").unwrap()], "192.0.2.1".parse().unwrap()), "only IPv6");
    }

    proptest::proptest! {
        /// A network contains exactly the addresses with its prefix.
        #[test]
        fn network_contains_addresses_with_its_prefix(a: u32, b: u32, prefix in 0_u32..=32) {
            let network = parse_network(&format!("{}/{prefix}", Ipv4Addr::from(a))).unwrap();
            let has_prefix = prefix == 0 || a >> (32 - prefix) == b >> (32 - prefix);
            proptest::prop_assert_eq!(contains(&[network], Ipv4Addr::from(b).into()), has_prefix);
            let mapped = Ipv4Addr::from(b).to_ipv6_mapped().into();
            proptest::prop_assert_eq!(contains(&[network], mapped), has_prefix);
        }
    }
}
