//! Looks up the addresses of this host's name in the configured DNS blocklists.

use std::net::IpAddr;
use std::time::Duration;

use crate::app::settings::domains::{dns_settings, uncached_resolver};
use crate::config::Config;
use crate::dns::{UncachedResolver, is_listed};
use crate::metrics::METRICS;

/// Interval of the checks. Lists limit the number of queries.
const INTERVAL: Duration = Duration::from_hours(1);

/// The checks and what they look up.
#[derive(Debug)]
pub struct Checks {
    dns: UncachedResolver,
    hostname: String,
    lists: Vec<String>,
}

/// The results of looking up every address in every list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Addresses and the lists that name them.
    pub listed: Vec<(IpAddr, String)>,
    /// Number of look-ups that succeeded.
    pub checked: usize,
    /// Why look-ups failed.
    pub failures: Vec<String>,
    /// Addresses and the lists whose look-ups failed; `None` if the addresses are not known.
    unanswered: Option<Vec<(IpAddr, String)>>,
}

impl Findings {
    /// Returns what is listed now. Where a look-up failed, this is what the last one found.
    fn merged_with(&self, known: Vec<(IpAddr, String)>) -> Vec<(IpAddr, String)> {
        let Some(unanswered) = &self.unanswered else { return known };
        let kept = known.into_iter().filter(|entry| unanswered.contains(entry));
        self.listed.iter().cloned().chain(kept).collect()
    }
}

impl Checks {
    /// Prepares the checks.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let lists = config.delivery.blocklists.clone();
        Ok(Self { dns: uncached_resolver(config)?, hostname: dns_settings(config).hostname, lists })
    }

    /// Looks everything up once.
    pub async fn once(&self) -> Findings {
        let mut findings = Findings::default();
        let addresses = match self.dns.addresses(&self.hostname).await {
            Ok(addresses) => addresses,
            Err(why) => return Findings { failures: vec![format!("{}: {why}", self.hostname)], ..findings },
        };
        let mut unanswered = Vec::new();
        for address in addresses {
            for list in &self.lists {
                match is_listed(&self.dns, address, list).await {
                    Ok(is_listed) => {
                        findings.checked += 1;
                        findings.listed.extend(is_listed.then(|| (address, list.clone())));
                    }
                    Err(why) => {
                        findings.failures.push(why);
                        unanswered.push((address, list.clone()));
                    }
                }
            }
        }
        Findings { unanswered: Some(unanswered), ..findings }
    }

    /// Checks periodically, forever. Logs what has changed.
    pub(super) async fn run(self) {
        let mut known = Vec::new();
        loop {
            let findings = self.once().await;
            for (address, list) in findings.listed.iter().filter(|entry| !known.contains(*entry)) {
                tracing::warn!(
                    event = "blocklisted",
                    %address,
                    list,
                    "a blocklist names the address of this host; ask the list's operator why, and for its removal"
                );
            }
            if let Some(why) = findings.failures.first() {
                tracing::warn!(
                    event = "blocklist_check_failed",
                    why,
                    "failed to look up blocklists; keeping the last results and trying again in an hour; check the setting dns"
                );
            }
            known = findings.merged_with(known);
            METRICS.blocklist_listed.set(u32::try_from(known.len()).unwrap_or(u32::MAX));
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_that_does_not_answer_hides_no_other() {
        let entry = |list: &str| (IpAddr::from([192, 0, 2, 1]), list.to_owned());
        let findings = |listed: &[&str], unanswered: &[&str]| Findings {
            listed: listed.iter().map(|list| entry(list)).collect(),
            unanswered: Some(unanswered.iter().map(|list| entry(list)).collect()),
            ..Findings::default()
        };
        let known = findings(&["a.test"], &["closed.test"]).merged_with(Vec::new());
        assert_eq!(known, [entry("a.test")]);
        let known = findings(&["b.test"], &["a.test", "closed.test"]).merged_with(known);
        assert_eq!(known, [entry("b.test"), entry("a.test")], "a.test gave no new answer");
        let known = Findings::default().merged_with(known);
        assert_eq!(known.len(), 2, "the addresses are not known");
        assert_eq!(findings(&[], &["closed.test"]).merged_with(known), []);
    }
}
