//! Tells which addresses belong to this machine.

use std::net::{IpAddr, UdpSocket};

/// Returns whether an address belongs to this machine: a socket cannot be bound to any other.
pub fn is_own(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_this_machine_is_known() {
        assert!(is_own("127.0.0.1".parse().unwrap()) && !is_own("1.1.1.1".parse().unwrap()));
    }
}
