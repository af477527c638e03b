//! Builds DKIM signing and the DNS records of sender domains from the configuration.

use std::sync::Arc;

use anyhow::Context as _;

use crate::config::{Config, Unverified};
use crate::db::Db;
use crate::db::changes::Caches;
use crate::db::domains::cache::SenderCache;
use crate::dns::UncachedResolver;
use crate::domain::sender_domain::dns_records::DnsSettings;
use crate::http::Domains;

/// Returns the configured values that the DNS records of sender domains contain.
pub fn dns_settings(config: &Config) -> DnsSettings {
    let hostname = crate::app::hostname(config);
    DnsSettings {
        spf: config.domains.spf.clone().unwrap_or_else(|| mechanism(&hostname)),
        return_path: config.return_path.domain.as_deref().map(|name| name.trim_end_matches('.').to_ascii_lowercase()),
        algorithms: config.dkim.algorithms(),
        is_direct: config.relay_url.is_none() || config.routes.values().any(crate::config::Route::is_direct),
        hostname,
    }
}

/// Returns the SPF mechanism for a host (RFC 7208 §5).
fn mechanism(hostname: &str) -> String {
    match hostname.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(literal) => match literal.strip_prefix("IPv6:") {
            Some(address) => format!("ip6:{address}"),
            None => format!("ip4:{literal}"),
        },
        None => format!("a:{hostname}"),
    }
}

/// Creates the cache of sender domains and their signing keys.
pub(in crate::app) fn senders(config: &Config, db: Db, caches: Arc<Caches>) -> Arc<SenderCache> {
    SenderCache::new(db, caches, config.keyring(), config.dkim.algorithms())
}

/// Returns the API's settings for sender domains.
pub fn settings(config: &Config, db: &Db, caches: &Arc<Caches>) -> anyhow::Result<Domains> {
    Ok(Domains {
        senders: senders(config, db.clone(), caches.clone()),
        dns: uncached_resolver(config)?,
        dns_settings: dns_settings(config),
        keyring: config.keyring(),
        refuses_unverified: config.domains.unverified == Unverified::Refuse,
    })
}

/// Creates the DNS client that looks up published records.
pub fn uncached_resolver(config: &Config) -> anyhow::Result<UncachedResolver> {
    UncachedResolver::new(config.dns).context("cannot set up the DNS resolver")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spf_mechanism_matches_the_kind_of_host() {
        assert_eq!(mechanism("mail.acme.test"), "a:mail.acme.test");
        assert_eq!(mechanism("[192.0.2.1]"), "ip4:192.0.2.1");
        assert_eq!(mechanism("[IPv6:2001:db8::1]"), "ip6:2001:db8::1");
    }
}
