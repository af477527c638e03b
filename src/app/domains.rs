//! What signs mail and what is to be published of senders' domains, out of the configuration.

use std::sync::Arc;

use anyhow::Context as _;

use crate::clock::SharedClock;
use crate::config::{Config, Unverified};
use crate::db::Db;
use crate::db::domains::cache::SenderCache;
use crate::dns::Asker;
use crate::domain::dns_records::Terms;
use crate::http::Domains;

/// What goes into the records of senders' domains.
pub fn terms(config: &Config) -> Terms {
    let hostname = super::hostname(config);
    Terms {
        spf: config.domains.spf.clone().unwrap_or_else(|| mechanism(&hostname)),
        return_path: config.return_path.domain.as_deref().map(|name| name.trim_end_matches('.').to_ascii_lowercase()),
        algorithms: config.dkim.algorithms(),
        is_direct: config.relay_url.is_none() || config.routes.values().any(crate::config::Route::is_direct),
        hostname,
    }
}

/// What stands for a host in an SPF record (RFC 7208 §5).
fn mechanism(hostname: &str) -> String {
    match hostname.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(literal) => match literal.strip_prefix("IPv6:") {
            Some(address) => format!("ip6:{address}"),
            None => format!("ip4:{literal}"),
        },
        None => format!("a:{hostname}"),
    }
}

/// What signs mail.
pub(super) fn senders(config: &Config, db: Db, clock: SharedClock) -> Arc<SenderCache> {
    Arc::new(SenderCache::new(db, clock, config.keyring(), config.dkim.algorithms()))
}

/// What the API knows of senders' domains.
pub fn settings(config: &Config, db: &Db, clock: &SharedClock) -> anyhow::Result<Domains> {
    Ok(Domains {
        senders: senders(config, db.clone(), clock.clone()),
        dns: asker(config)?,
        terms: terms(config),
        keyring: config.keyring(),
        refuses_unverified: config.domains.unverified == Unverified::Refuse,
    })
}

/// Whom to ask for what is published.
pub fn asker(config: &Config) -> anyhow::Result<Asker> {
    Asker::new(config.dns).context("cannot set up the DNS resolver")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_named_in_spf_as_what_it_is() {
        assert_eq!(mechanism("mail.acme.test"), "a:mail.acme.test");
        assert_eq!(mechanism("[192.0.2.1]"), "ip4:192.0.2.1");
        assert_eq!(mechanism("[IPv6:2001:db8::1]"), "ip6:2001:db8::1");
    }
}
