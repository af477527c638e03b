//! The connections of each client. A client is the network that usually has one owner.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// Returns the network of a client's address: an IPv4 address, or a /64 of IPv6.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// The number of connections of each network. Networks without connections use no memory.
#[derive(Debug, Default)]
pub struct PeerCounts(HashMap<IpAddr, usize>);

impl PeerCounts {
    /// Returns the connections of a network.
    pub fn get(&self, network: IpAddr) -> usize {
        self.0.get(&network).copied().unwrap_or(0)
    }

    /// Counts one more connection.
    pub fn add(&mut self, network: IpAddr) {
        *self.0.entry(network).or_default() += 1;
    }

    /// Counts one connection less.
    pub fn remove(&mut self, network: IpAddr) {
        let Some(count) = self.0.get_mut(&network) else { return };
        *count -= 1;
        if *count == 0 {
            self.0.remove(&network);
        }
    }

    /// Returns whether there are no connections.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_client() {
        let network = |text| network(ip(text));
        assert_eq!(network("2001:db8::1"), network("2001:db8::2"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
        assert_eq!(network("::ffff:192.0.2.1"), ip("192.0.2.1"));
    }

    #[test]
    fn networks_without_connections_are_removed() {
        let (mut counts, one, other) = (PeerCounts::default(), ip("192.0.2.1"), ip("192.0.2.2"));
        for network in [one, one, other] {
            counts.add(network);
        }
        counts.remove(one);
        counts.remove(other);
        counts.remove(other);
        assert_eq!((counts.get(one), counts.get(other)), (1, 0));
        counts.remove(one);
        assert!(counts.is_empty());
    }
}
