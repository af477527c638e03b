//! `[delivery]`: concurrency, retries and shutdown of delivery.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::delivery::retry::Policy;
use crate::domain::network::{Allowed, Rule};
use crate::domain::routing::relay::TlsMode;

use super::routes::ascii;
use crate::config::values::range::{within, within_time};

/// The workers' settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Delivery {
    /// Maximum number of SMTP transactions of this process at a time, 1–10000.
    pub concurrency: u32,
    /// Maximum number of SMTP connections of this process to one destination, 1–1000.
    pub connections: u32,
    /// Number of messages sent over one connection before it is closed, 1–100000.
    pub messages_per_connection: u32,
    /// Total memory for messages of more than 256 KiB in flight, and as much again for smaller ones, in MiB, 1–65536. A
    /// message that needs more than this is sent alone.
    pub memory_mib: u32,
    /// How long a worker's leases last without a heartbeat, 1s–1h. After a crash, the messages that the process had
    /// leased are sent again after this time.
    #[serde(with = "crate::config::values::duration")]
    pub lease: Duration,
    /// Delays after the first, second, … attempt, ±20 %; the last one repeats. 1–50 durations of 1s–7d.
    #[serde(with = "crate::config::values::duration::list")]
    pub retry_schedule: Vec<Duration>,
    /// Time from the first attempt until a recipient becomes `expired`, 1s–30d.
    #[serde(with = "crate::config::values::duration")]
    pub retry_window: Duration,
    /// First retry delay after a reply that mentions greylisting, 1s–1d.
    #[serde(with = "crate::config::values::duration")]
    pub greylist: Duration,
    /// How long a shutdown waits for messages in flight, 0s–1h. If it is longer than `timeouts.final_dot`, a restart causes
    /// no duplicates.
    #[serde(with = "crate::config::values::duration")]
    pub shutdown_grace: Duration,
    /// Whether a recipient's mail server may be this machine. Only for tests: a domain whose MX is 127.0.0.1 causes a
    /// mail loop.
    pub allow_loopback_mx: bool,
    /// Private addresses at which recipients' mail servers may be: `true` allows every private network; a list
    /// allows the listed addresses, networks and host names, also as address literals. Every key with the scope `send`
    /// can then reach the SMTP servers there.
    pub allow_private_mx: PrivateMx,
    /// Whether the MTA-STS policies (RFC 8461) of recipient domains are enforced when sending direct to MX. Policies
    /// are fetched over HTTPS from `mta-sts.DOMAIN`.
    pub mta_sts: bool,
    /// TLS mode for the servers of a recipient domain, by domain; `*` is every domain that is not listed. An MTA-STS
    /// policy can only make it stricter. A relay's URL contains its TLS mode.
    pub tls: BTreeMap<String, TlsMode>,
    /// Certificates (PEM) to trust for recipients' servers in addition to the system's certificates, if `tls` or
    /// MTA-STS requires verification.
    pub mx_ca_file: Option<PathBuf>,
    /// Whether success notifications are requested from servers that offer DSN (RFC 3461), so that `relayed` becomes
    /// `delivered`. Needs `return_path.domain`.
    pub dsn_success: bool,
    /// DNS blocklists in which the addresses of `hostname` are looked up every hour.
    pub blocklists: Vec<String>,
}

/// Value of [`Delivery::allow_private_mx`] and of `inbound.allow_private_relays`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PrivateMx {
    /// `true` allows every private network, `false` allows none.
    All(bool),
    /// A list of addresses, networks and host names.
    These(Vec<String>),
    /// The same list, separated by commas, from an environment variable.
    Listed(String),
}

impl PrivateMx {
    /// Returns the value as parsed rules.
    pub fn allowed(&self) -> Allowed {
        // Invalid rules were refused when the configuration was read.
        let rules = self.rules().into_iter().filter_map(|rule| rule.parse().ok()).collect();
        Allowed { private: matches!(self, Self::All(true)), rules, ..Allowed::default() }
    }

    /// Returns an error that names the first invalid rule.
    pub(in crate::config) fn check(&self) -> Result<(), String> {
        match self.rules().into_iter().find_map(|rule| Some((rule, rule.parse::<Rule>().err()?))) {
            Some((rule, why)) => Err(format!("{rule:?} {why}")),
            None => Ok(()),
        }
    }

    fn rules(&self) -> Vec<&str> {
        match self {
            Self::All(_) => Vec::new(),
            Self::These(rules) => rules.iter().map(|rule| rule.trim()).collect(),
            Self::Listed(rules) => rules.split(',').map(str::trim).filter(|rule| !rule.is_empty()).collect(),
        }
    }
}

impl Delivery {
    /// Returns the retry policy.
    pub fn retry_policy(&self) -> Policy {
        Policy { schedule: self.retry_schedule.clone(), window: self.retry_window, greylist: self.greylist }
    }

    /// Returns [`Delivery::allow_private_mx`] as parsed rules.
    pub fn private_mx(&self) -> Allowed {
        self.allow_private_mx.allowed()
    }

    /// Returns [`Delivery::tls`] with domains in the form that addresses use: A-labels, lower case.
    pub fn tls_ascii(&self) -> BTreeMap<String, TlsMode> {
        // The only key that is not a domain is `*`.
        let to_ascii = |domain: &String| ascii(domain).unwrap_or_else(|| domain.clone());
        self.tls.iter().map(|(domain, mode)| (to_ascii(domain), *mode)).collect()
    }

    pub(in crate::config) fn check(&self) -> Result<(), String> {
        let second = Duration::from_secs(1);
        let day = Duration::from_hours(24);
        within(self.concurrency, 1..=10_000)?;
        within(self.connections, 1..=1_000)?;
        within(self.messages_per_connection, 1..=100_000)?;
        within(self.memory_mib, 1..=65_536)?;
        within_time(self.lease, second..=Duration::from_hours(1))?;
        if !(1..=50).contains(&self.retry_schedule.len()) {
            return Err(format!("must have 1 to 50 durations, has {}", self.retry_schedule.len()));
        }
        self.retry_schedule.iter().try_for_each(|wait| within_time(*wait, second..=7 * day))?;
        within_time(self.retry_window, second..=30 * day)?;
        within_time(self.greylist, second..=day)?;
        within_time(self.shutdown_grace, Duration::ZERO..=Duration::from_hours(1))?;
        self.allow_private_mx.check()?;
        if let Some(list) = self.blocklists.iter().find(|list| !list.contains('.') || ascii(list).is_none()) {
            return Err(format!("{list:?} is not the domain of a blocklist such as zen.example.net"));
        }
        match self.tls.keys().find(|domain| *domain != "*" && ascii(domain).is_none()) {
            Some(domain) => Err(format!("{domain:?} is not a domain name such as example.net, nor *")),
            None => Ok(()),
        }
    }
}
