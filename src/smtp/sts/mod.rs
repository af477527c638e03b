//! MTA-STS (RFC 8461): a domain may require that its messages go only to certain hosts, over TLS with a valid
//! certificate.
//!
//! The domain publishes a TXT record under `_mta-sts.DOMAIN` and a policy at
//! `https://mta-sts.DOMAIN/.well-known/mta-sts.txt`. The policy is looked up before a message goes directly to the
//! domain's mail exchangers, fetched once for all waiting messages, cached for its `max_age`, and renewed while
//! messages use it. A failed fetch never stops messages: without a cached policy, they are sent as to a domain without
//! a policy (RFC 8461 §5).
//!
//! `delivery.mta_sts = false` disables MTA-STS. The record of an attempt names the policy that applied after the cipher
//! or, in mode `testing` without TLS, after the reply.

mod cache;
mod fetch;
mod policy;
mod record;

use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;
use rustls::ClientConfig;
use tokio::time::{Instant, timeout};

use cache::{Cache, CacheEntry};
use fetch::Fetcher;
pub(super) use policy::{Mode, Policy};

use super::client::outgoing_message::Judgement;
use super::client::settings::Settings;
use crate::dns::counted;
use crate::domain::outcome::{EnhancedCode, Peer, Reply};
use crate::metrics::labels::DnsKind;

impl Policy {
    /// Appends to the cipher which policy applied, and how the host would violate it. In mode `testing` without TLS,
    /// appends a note to the replies instead.
    pub fn report(&self, peer: &mut Peer, judgements: &mut [Judgement]) {
        let named = peer.mx.as_deref().is_some_and(|host| self.names(host));
        let note = match self.mode {
            Mode::Enforce => " (MTA-STS enforce)",
            Mode::Testing if named => " (MTA-STS testing)",
            Mode::Testing => " (MTA-STS testing: the host is not in the policy)",
            Mode::None => "",
        };
        match &mut peer.tls {
            Some(tls) => tls.push_str(note),
            None if self.mode == Mode::Testing => {
                for Judgement { reply, .. } in judgements {
                    let text = format!("{}\n(MTA-STS testing: there was no TLS)", reply.text);
                    *reply = reply.clone().with_text(text);
                }
            }
            None => {}
        }
    }

    /// Returns the reply to report if no session was opened, marked if the policy caused the failure.
    pub fn explain(&self, reply: Reply) -> Reply {
        match reply.enhanced {
            Some(EnhancedCode { class, subject: 7, detail }) if reply.code.is_none() && self.mode == Mode::Enforce => {
                Reply::local_error_with(class, 7, detail, format!("MTA-STS enforce: {}", reply.text))
            }
            _ => reply,
        }
    }
}

/// Looks up and caches the policies of domains.
pub(super) struct Policies {
    dns: TokioResolver,
    dns_wait: Duration,
    period: Duration,
    fetcher: Fetcher,
    cache: Cache,
}

impl Policies {
    /// Creates an empty cache. `tls` verifies certificates of HTTPS servers.
    pub fn new(settings: &Settings, dns: TokioResolver, tls: ClientConfig) -> Self {
        let (port, loopback) = (settings.mta_sts.port, settings.allow_loopback_mx);
        let fetcher = Fetcher::new(dns.clone(), tls, port, loopback, settings.timeouts.policy);
        let (dns_wait, period) = (settings.timeouts.dns, settings.mta_sts.period);
        Self { dns, dns_wait, period, fetcher, cache: Cache::default() }
    }

    /// Returns the policy for messages to this domain. If none is cached and the domain has not been looked up
    /// recently, waits for the DNS and the fetch, each up to its time-out. A cached policy is returned at once and
    /// renewed in the background, so that a slow policy server delays no message.
    pub async fn get(self: &Arc<Self>, domain: &str) -> Option<Arc<Policy>> {
        let domain = domain.trim_end_matches('.');
        if domain.starts_with('[') {
            return None;
        }
        let entry = self.cache.entry(domain, Instant::now());
        let (cached, is_recent) = {
            let (state, now) = (entry.state(), Instant::now());
            (state.policy(now), state.was_looked_up_within(now, self.period))
        };
        let policy = match cached {
            Some(policy) => {
                if !is_recent && entry.lookup_lock.try_lock().is_ok() {
                    let (policies, domain) = (self.clone(), domain.to_owned());
                    tokio::spawn(async move { policies.refresh(&domain, &entry).await });
                }
                Some(policy)
            }
            None if is_recent => None,
            None => {
                self.refresh(domain, &entry).await;
                entry.state().policy(Instant::now())
            }
        };
        policy.filter(|policy| policy.mode != Mode::None)
    }

    /// Looks the policy up, unless another call has just done so.
    async fn refresh(&self, domain: &str, entry: &CacheEntry) {
        let _lookup = entry.lookup_lock.lock().await;
        if entry.state().was_looked_up_within(Instant::now(), self.period) {
            return;
        }
        let id = self.published_id(domain).await;
        if let Some(id) = id.filter(|id| entry.state().should_fetch(id, Instant::now())) {
            let fetched = self.fetcher.fetch(domain).await;
            let (mut state, now) = (entry.state(), Instant::now());
            match fetched {
                Ok(policy) => {
                    tracing::debug!(domain, id, mode = ?policy.mode, "fetched MTA-STS policy");
                    state.record_fetched(&id, policy, now);
                }
                Err(error) => {
                    let remembered = state.policy(now).is_some();
                    tracing::warn!(
                        event = "mta_sts_fetch_failed",
                        domain,
                        id,
                        %error,
                        remembered,
                        "failed to fetch MTA-STS policy; applying the cached policy, if any"
                    );
                    state.record_failure(&id, now);
                }
            }
        }
        entry.state().record_lookup(Instant::now());
    }

    /// Returns the policy id in the DNS. A failed query counts as a missing record; a cached policy stays in force.
    async fn published_id(&self, domain: &str) -> Option<String> {
        let lookup = counted(DnsKind::Txt, self.dns.txt_lookup(format!("_mta-sts.{domain}.")));
        let found = timeout(self.dns_wait, lookup).await.ok()?.ok()?;
        let texts: Vec<String> = found
            .answers()
            .iter()
            .filter_map(|record| if let RData::TXT(text) = &record.data { Some(text) } else { None })
            .map(|text| String::from_utf8_lossy(&text.txt_data.concat()).into_owned())
            .collect();
        record::policy_id(texts.iter().map(String::as_str)).map(str::to_owned)
    }
}
