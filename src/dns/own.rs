//! Recognises addresses of this machine.

use std::net::{IpAddr, UdpSocket};

/// Returns whether an address belongs to this machine: a socket can be bound only to such an address.
pub fn is_local_address(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_addresses_are_recognised() {
        assert!(is_local_address("127.0.0.1".parse().unwrap()) && !is_local_address("1.1.1.1".parse().unwrap()));
    }
}
