//! Describes the resolver's errors for operators. The library's own texts contain type names.

use hickory_resolver::net::{DnsError, NetError};

/// Returns the reason why a query failed, as a clause in lower case.
pub fn describe_error(error: &NetError) -> String {
    match error {
        _ if error.is_nx_domain() => "the name does not exist".into(),
        _ if error.is_no_records_found() => "the name has no such record".into(),
        NetError::Dns(DnsError::ResponseCode(code)) => format!("the DNS server returned {}", code.to_str()),
        NetError::Timeout => "the DNS server took too long".into(),
        NetError::NoConnections | NetError::Io(_) | NetError::Busy => "the DNS server cannot be reached".into(),
        _ => "the DNS server sent no usable response".into(),
    }
}
