//! Counts DNS lookups.

use std::time::Instant;

use hickory_resolver::net::NetError;

use crate::metrics::METRICS;
use crate::metrics::labels::{DnsKind, DnsResult};

/// Counts a lookup of these records, and returns its result.
pub async fn counted<T>(kind: DnsKind, lookup: impl Future<Output = Result<T, NetError>>) -> Result<T, NetError> {
    let started = Instant::now();
    let found = lookup.await;
    let result = match &found {
        Ok(_) => DnsResult::Ok,
        Err(error) if error.is_nx_domain() || error.is_no_records_found() => DnsResult::NotFound,
        Err(_) => DnsResult::Failed,
    };
    METRICS.dns_lookups.get((kind, result)).increment(1);
    METRICS.dns_lookup.get((kind,)).record(started.elapsed());
    found
}
