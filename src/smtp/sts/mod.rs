//! MTA-STS (RFC 8461): a domain may say that its mail goes to certain hosts only, over TLS with a valid certificate.
//!
//! It says so with a TXT record under `_mta-sts.DOMAIN` and a text at
//! `https://mta-sts.DOMAIN/.well-known/mta-sts.txt`. Asked for before a message goes straight to a domain's own servers,
//! remembered for as long as the policy wants, fetched once for all who wait; what is remembered is looked after while mail
//! goes by it. It never stops mail by itself: where no
//! policy can be had and none is remembered, mail goes as to a domain that has none (RFC 8461 §5).
//!
//! Off with `delivery.mta_sts = false`. What applied is in the attempt, behind the cipher, or behind the reply where there
//! was none.

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

use cache::{Cache, Place};
use fetch::Fetcher;
pub(super) use policy::{Mode, Policy};

use super::client::outgoing_message::Judgement;
use super::client::settings::Settings;
use crate::domain::outcome::{EnhancedCode, Peer, Reply};

impl Policy {
    /// Notes behind the cipher which policy applied, and how the host would break it; behind the replies, where there is no
    /// cipher.
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
                    *reply = reply.clone().in_words(text);
                }
            }
            None => {}
        }
    }

    /// The reply to tell of where there was no session: what the policy stood against is said to be the policy's.
    pub fn explain(&self, reply: Reply) -> Reply {
        match reply.enhanced {
            Some(EnhancedCode { class, subject: 7, detail }) if reply.code.is_none() && self.mode == Mode::Enforce => {
                Reply::ours_with(class, 7, detail, format!("MTA-STS enforce: {}", reply.text))
            }
            _ => reply,
        }
    }
}

/// Finds out which policy holds for a domain.
pub(super) struct Policies {
    dns: TokioResolver,
    dns_wait: Duration,
    period: Duration,
    fetcher: Fetcher,
    cache: Cache,
}

impl Policies {
    /// `tls` verifies certificates of HTTPS servers.
    pub fn new(settings: &Settings, dns: TokioResolver, tls: ClientConfig) -> Self {
        let (port, loopback) = (settings.mta_sts.port, settings.allow_loopback_mx);
        let fetcher = Fetcher::new(dns.clone(), tls, port, loopback, settings.timeouts.policy);
        let (dns_wait, period) = (settings.timeouts.dns, settings.mta_sts.period);
        Self { dns, dns_wait, period, fetcher, cache: Cache::default() }
    }

    /// The policy that message to this domain is to follow. Takes up to the time-outs for the DNS and for a fetch where
    /// none is remembered and the domain has not been asked about for a while; one that is remembered holds at once, and
    /// whether it still does is asked meanwhile: a slow server of policies slows no message.
    pub async fn of(self: &Arc<Self>, domain: &str) -> Option<Arc<Policy>> {
        let domain = domain.trim_end_matches('.');
        if domain.starts_with('[') {
            return None;
        }
        let place = self.cache.of(domain, Instant::now());
        let (remembered, is_fresh) = {
            let (known, now) = (place.known(), Instant::now());
            (known.policy(now), known.is_fresh(now, self.period))
        };
        let policy = match remembered {
            Some(policy) => {
                if !is_fresh && place.asking.try_lock().is_ok() {
                    let (policies, domain) = (self.clone(), domain.to_owned());
                    tokio::spawn(async move { policies.ask(&domain, &place).await });
                }
                Some(policy)
            }
            None if is_fresh => None,
            None => {
                self.ask(domain, &place).await;
                place.known().policy(Instant::now())
            }
        };
        policy.filter(|policy| policy.mode != Mode::None)
    }

    /// Asks, unless somebody has just done it.
    async fn ask(&self, domain: &str, place: &Place) {
        let _turn = place.asking.lock().await;
        if place.known().is_fresh(Instant::now(), self.period) {
            return;
        }
        let id = self.published(domain).await;
        if let Some(id) = id.filter(|id| place.known().wants(id, Instant::now())) {
            let fetched = self.fetcher.fetch(domain).await;
            let (mut known, now) = (place.known(), Instant::now());
            match fetched {
                Ok(policy) => {
                    tracing::debug!(domain, id, mode = ?policy.mode, "MTA-STS policy fetched");
                    known.fetched(&id, policy, now);
                }
                Err(error) => {
                    let remembered = known.policy(now).is_some();
                    tracing::warn!(domain, id, %error, remembered, "the domain's MTA-STS policy could not be had");
                    known.failed(&id, now);
                }
            }
        }
        place.known().asked(Instant::now());
    }

    /// The edition of the policy that the DNS tells of. No answer is as good as none: what is remembered holds.
    async fn published(&self, domain: &str) -> Option<String> {
        let lookup = self.dns.txt_lookup(format!("_mta-sts.{domain}."));
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
