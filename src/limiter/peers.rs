//! Counts the connections of each client. A client is a network (`domain::network::owner`).

use std::collections::HashMap;
use std::net::IpAddr;

/// The number of connections of each network. Networks without connections use no memory.
#[derive(Debug, Default)]
pub struct PeerCounts(HashMap<IpAddr, usize>);

impl PeerCounts {
    /// Returns the number of connections of a network.
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
