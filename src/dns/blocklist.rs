//! DNS blocklists (RFC 5782): lists of addresses whose messages many servers refuse.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::UncachedResolver;

/// Returns whether a list names an address.
pub async fn is_listed(dns: &UncachedResolver, address: IpAddr, list: &str) -> Result<bool, String> {
    let found = dns.addresses(&name(address, list)).await?;
    // Lists answer this to resolvers that they do not serve, such as public ones.
    if found.iter().any(|answer| matches!(answer, IpAddr::V4(answer) if answer.octets()[..3] == [127, 255, 255])) {
        return Err(format!("{list} does not answer this resolver; set `dns` to a resolver of your own"));
    }
    Ok(found.iter().any(IpAddr::is_loopback))
}

/// Returns the name to look up: the parts of the address in reverse order, within the list.
fn name(address: IpAddr, list: &str) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.{list}")
        }
        IpAddr::V6(address) => {
            let nibbles = address.octets().into_iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
            let reversed = nibbles.fold(String::new(), |mut name, nibble| {
                let _ = write!(name, "{nibble:x}.");
                name
            });
            reversed + list
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_reversed_within_the_list() {
        assert_eq!(name("192.0.2.99".parse().unwrap(), "bad.test"), "99.2.0.192.bad.test");
        let long = name("2001:db8::1".parse().unwrap(), "bad.test");
        assert!(long.starts_with("1.0.0.0.") && long.ends_with(".8.b.d.0.1.0.0.2.bad.test"), "{long}");
    }
}
