//! `[delivery]`: concurrency, retries and shutdown of delivery.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::network::{Allowed, Rule};
use crate::domain::relay::TlsMode;
use crate::domain::retry::Policy;

use super::range::{within, within_time};
use super::routes::ascii;

/// The workers' settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Delivery {
    /// Maximum number of messages in flight in this process: `POSTRIDER_DELIVERY__CONCURRENCY`, 1–10000, default 256.
    pub concurrency: u32,
    /// Maximum number of SMTP connections of this process to one destination: `POSTRIDER_DELIVERY__CONNECTIONS`,
    /// 1–1000, default 16.
    pub connections: u32,
    /// Number of messages sent over one connection before it is closed: `POSTRIDER_DELIVERY__MAILS_PER_CONNECTION`,
    /// 1–100000, default 100.
    pub mails_per_connection: u32,
    /// Total memory for messages while they are sent: `POSTRIDER_DELIVERY__MEMORY_MIB`, MiB, 1–65536, default 64. A
    /// single larger message is sent alone.
    pub memory_mib: u32,
    /// How long a worker's leases last without a heartbeat: `POSTRIDER_DELIVERY__LEASE`, a duration, 1s–1h, default
    /// `60s`. After a crash, the messages that the process had leased are sent again after this time.
    #[serde(with = "super::duration")]
    pub lease: Duration,
    /// Delays after the first, second, … attempt, ±20 %; the last one repeats: `POSTRIDER_DELIVERY__RETRY_SCHEDULE`,
    /// durations (separated by commas in a variable), 1–50 of 1s–7d, default `1m,5m,15m,30m,1h,2h,4h`.
    #[serde(with = "super::duration::list")]
    pub retry_schedule: Vec<Duration>,
    /// Time from the first attempt until a recipient becomes `expired`: `POSTRIDER_DELIVERY__RETRY_WINDOW`, a duration,
    /// 1s–30d, default `72h`.
    #[serde(with = "super::duration")]
    pub retry_window: Duration,
    /// First retry delay after a reply that mentions greylisting: `POSTRIDER_DELIVERY__GREYLIST`, a duration, 1s–1d,
    /// default `5m`.
    #[serde(with = "super::duration")]
    pub greylist: Duration,
    /// How long a stop waits for messages in flight: `POSTRIDER_DELIVERY__SHUTDOWN_GRACE`, a duration, 0s–1h, default
    /// `620s`: longer than `timeouts.final_dot`, so that a restart causes no duplicates.
    #[serde(with = "super::duration")]
    pub shutdown_grace: Duration,
    /// Whether a recipient's mail server may be this machine: `POSTRIDER_DELIVERY__ALLOW_LOOPBACK_MX`, default false.
    /// Only for tests: a domain whose MX is 127.0.0.1 causes a mail loop.
    pub allow_loopback_mx: bool,
    /// Private addresses at which recipients' mail servers may be: `POSTRIDER_DELIVERY__ALLOW_PRIVATE_MX`, default
    /// false. `true` allows every private network. A list of addresses, networks and host names (separated by commas in
    /// a variable) allows these, also as address literals. Every key with the scope `send` can then reach the SMTP
    /// servers there.
    pub allow_private_mx: PrivateMx,
    /// Whether the MTA-STS policies (RFC 8461) of recipient domains are enforced when sending direct to MX:
    /// `POSTRIDER_DELIVERY__MTA_STS`, default true. Policies are fetched over HTTPS from `mta-sts.DOMAIN`.
    pub mta_sts: bool,
    /// TLS mode for the servers of a recipient domain; `*` is every domain that is not listed:
    /// `POSTRIDER_DELIVERY__TLS`, a map of domain to `none`, `opportunistic` (if offered, any certificate), `required`
    /// (always, any certificate) or `verified` (always, a certificate valid for the server's name), as `DOMAIN=WORD`
    /// separated by commas in a variable; default empty, which means opportunistic. An MTA-STS policy can only make it
    /// stricter. A relay's URL contains its TLS mode.
    pub tls: BTreeMap<String, TlsMode>,
    /// Certificates (PEM) to trust for recipients' servers in addition to the system's, if `tls` or MTA-STS requires
    /// verification: `POSTRIDER_DELIVERY__MX_CA_FILE`, a path, default unset.
    pub mx_ca_file: Option<PathBuf>,
    /// Whether success notifications are requested from servers that offer DSN (RFC 3461), so that `relayed` becomes
    /// `delivered`: `POSTRIDER_DELIVERY__DSN_SUCCESS`, default false. Needs `return_path.domain`.
    pub dsn_success: bool,
}

/// Value of [`Delivery::allow_private_mx`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PrivateMx {
    /// Every private network, or none.
    All(bool),
    /// A list of addresses, networks and host names.
    These(Vec<String>),
    /// The same list, separated by commas, from a variable.
    Listed(String),
}

impl PrivateMx {
    fn rules(&self) -> Vec<&str> {
        match self {
            Self::All(_) => Vec::new(),
            Self::These(rules) => rules.iter().map(|rule| rule.trim()).collect(),
            Self::Listed(rules) => rules.split(',').map(str::trim).filter(|rule| !rule.is_empty()).collect(),
        }
    }
}

impl Default for Delivery {
    fn default() -> Self {
        let Policy { schedule, window, greylist } = Policy::default();
        Self {
            concurrency: 256,
            connections: 16,
            mails_per_connection: 100,
            memory_mib: 64,
            lease: Duration::from_mins(1),
            retry_schedule: schedule,
            retry_window: window,
            greylist,
            shutdown_grace: Duration::from_secs(620),
            allow_loopback_mx: false,
            allow_private_mx: PrivateMx::All(false),
            mta_sts: true,
            tls: BTreeMap::new(),
            mx_ca_file: None,
            dsn_success: false,
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
        // Invalid rules were refused when the configuration was read.
        let rules = self.allow_private_mx.rules().into_iter().filter_map(|rule| rule.parse().ok()).collect();
        Allowed { private: matches!(self.allow_private_mx, PrivateMx::All(true)), rules, ..Allowed::default() }
    }

    /// Returns [`Delivery::tls`] with domains in the form that addresses use: A-labels, lower case.
    pub fn tls_ascii(&self) -> BTreeMap<String, TlsMode> {
        // The only key that is not a domain is `*`.
        let named = |domain: &String| ascii(domain).unwrap_or_else(|| domain.clone());
        self.tls.iter().map(|(domain, mode)| (named(domain), *mode)).collect()
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let second = Duration::from_secs(1);
        let day = Duration::from_hours(24);
        within(self.concurrency, 1..=10_000)?;
        within(self.connections, 1..=1_000)?;
        within(self.mails_per_connection, 1..=100_000)?;
        within(self.memory_mib, 1..=65_536)?;
        within_time(self.lease, second..=Duration::from_hours(1))?;
        if !(1..=50).contains(&self.retry_schedule.len()) {
            return Err(format!("must have 1 to 50 durations, has {}", self.retry_schedule.len()));
        }
        self.retry_schedule.iter().try_for_each(|wait| within_time(*wait, second..=7 * day))?;
        within_time(self.retry_window, second..=30 * day)?;
        within_time(self.greylist, second..=day)?;
        within_time(self.shutdown_grace, Duration::ZERO..=Duration::from_hours(1))?;
        let rules = self.allow_private_mx.rules();
        if let Some((rule, why)) = rules.into_iter().find_map(|rule| Some((rule, rule.parse::<Rule>().err()?))) {
            return Err(format!("{rule:?} {why}"));
        }
        match self.tls.keys().find(|domain| *domain != "*" && ascii(domain).is_none()) {
            Some(domain) => Err(format!("{domain:?} is not a domain name such as example.net, nor *")),
            None => Ok(()),
        }
    }
}
