//! Describes the resolver's errors for people; the library's own texts contain type names.

use hickory_resolver::net::{DnsError, NetError};

/// Describes why a query failed, to follow a colon.
pub fn words(error: &NetError) -> String {
    match error {
        _ if error.is_nx_domain() => "the name does not exist".into(),
        _ if error.is_no_records_found() => "the name has no such record".into(),
        NetError::Dns(DnsError::ResponseCode(code)) => format!("the DNS server answered {}", code.to_str()),
        NetError::Timeout => "the DNS server took too long".into(),
        NetError::NoConnections | NetError::Io(_) | NetError::Busy => "the DNS server cannot be reached".into(),
        _ => "the DNS server sent no usable response".into(),
    }
}
