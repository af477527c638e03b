//! Decides which addresses a recipient domain's mail exchangers may have: public addresses other than this machine's,
//! and addresses that the configuration allows. Otherwise anyone who can submit messages could make this service
//! connect to hosts inside the operator's network, and read their replies.

use std::net::IpAddr;

use crate::dns;
use crate::domain::network::{Allowed, IpClass};

/// The configured exceptions.
#[derive(Debug, Clone, Default)]
pub(in crate::smtp) struct MxGuard {
    /// Whether loopback addresses are allowed.
    pub loopback: bool,
    /// Private networks, and networks and names allowed individually.
    pub allowed: Allowed,
}

impl MxGuard {
    /// Checks whether `host` may be a mail exchanger at this address. The error names the setting that would permit it.
    pub fn check(&self, host: &str, ip: IpAddr) -> Result<(), String> {
        let class = IpClass::classify(ip);
        let is_admitted = match class {
            IpClass::Public => true,
            IpClass::Loopback => self.loopback,
            IpClass::Private => self.allowed.private,
            _ => false,
        };
        if is_admitted || self.allowed.names(host, ip) {
            return Ok(());
        }
        let setting =
            if class == IpClass::Loopback { "delivery.allow_loopback_mx" } else { "delivery.allow_private_mx" };
        let at = if class == IpClass::Loopback { "this machine".to_owned() } else { format!("a {class} address") };
        Err(format!("{host} is at {ip}, {at}: only `{setting}` can permit that"))
    }

    /// Returns whether messages to an address literal may be sent, which requires a setting that covers the address.
    pub fn admits_literal(&self, literal: &str, ip: IpAddr) -> bool {
        let is_public = IpClass::classify(ip) == IpClass::Public;
        (!is_public && self.check(literal, ip).is_ok()) || self.allowed.names(literal, ip)
    }

    /// Checks that an address is not this machine's own. Makes system calls, so it is called once per connection, and
    /// not once per message.
    pub fn check_own(&self, host: &str, ip: IpAddr) -> Result<(), String> {
        if self.loopback || self.allowed.names(host, ip) || !dns::is_local_address(ip) {
            return Ok(());
        }
        Err(format!("{host} is at {ip}, an address of this machine: only `delivery.allow_private_mx` can permit that"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(guard: &MxGuard, ips: &[&str]) -> Vec<bool> {
        ips.iter().map(|ip| guard.check("mx.test", ip.parse().unwrap()).is_ok()).collect()
    }

    const ADDRESSES: [&str; 8] = [
        "1.1.1.1",
        "127.0.0.1",
        "10.0.0.1",
        "::ffff:10.0.0.1",
        "169.254.169.254",
        "64:ff9b::a00:1",
        "0.0.0.0",
        "fd00::1",
    ];

    #[test]
    fn only_public_or_allowed_addresses_are_admitted() {
        let guard = MxGuard::default();
        assert_eq!(admitted(&guard, &ADDRESSES), [true, false, false, false, false, false, false, false]);
        let private = MxGuard {
            allowed: Allowed { private: true, rules: Vec::new(), this_machine_only: false },
            ..MxGuard::default()
        };
        assert_eq!(admitted(&private, &ADDRESSES), [true, false, true, true, false, false, false, true]);
        let rules = vec!["10.0.0.0/8".parse().unwrap(), "169.254.169.254".parse().unwrap()];
        let listed =
            MxGuard { allowed: Allowed { private: false, rules, this_machine_only: false }, ..MxGuard::default() };
        assert_eq!(admitted(&listed, &ADDRESSES), [true, false, true, true, true, false, false, false]);
        let loopback = MxGuard { loopback: true, ..MxGuard::default() };
        assert_eq!(admitted(&loopback, &ADDRESSES[..3]), [true, true, false]);
    }

    #[test]
    fn a_literal_needs_a_setting_that_covers_its_address() {
        let admits = |guard: &MxGuard, ip: &str| guard.admits_literal("[x]", ip.parse().unwrap());
        assert!(!admits(&MxGuard::default(), "1.1.1.1") && !admits(&MxGuard::default(), "10.0.0.1"));
        let rules = vec!["1.1.1.0/24".parse().unwrap()];
        let listed =
            MxGuard { allowed: Allowed { private: true, rules, this_machine_only: false }, ..MxGuard::default() };
        assert!(admits(&listed, "1.1.1.1") && admits(&listed, "10.0.0.1") && !admits(&listed, "9.9.9.9"));
    }

    #[test]
    fn a_refusal_names_the_setting_that_would_permit_it() {
        let why = |ip: &str| MxGuard::default().check("mx.test", ip.parse().unwrap()).unwrap_err();
        assert_eq!(
            why("10.0.0.1"),
            "mx.test is at 10.0.0.1, a private address: only `delivery.allow_private_mx` can permit that"
        );
        assert!(why("127.0.0.1").contains("this machine: only `delivery.allow_loopback_mx`"));
    }
}
