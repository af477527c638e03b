//! `[delivery]`: how much is sent at a time, when it is tried again, and how the process stops.

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
    /// Messages in hand at a time in this process: `POSTRIDER_DELIVERY__CONCURRENCY`, 1–10000, default 256.
    pub concurrency: u32,
    /// SMTP connections of this process to one destination: `POSTRIDER_DELIVERY__CONNECTIONS`, 1–1000, default 16.
    pub connections: u32,
    /// Mails sent over one connection before it is closed: `POSTRIDER_DELIVERY__MAILS_PER_CONNECTION`, 1–100000,
    /// default 100.
    pub mails_per_connection: u32,
    /// The sum of the mails held in memory while they are sent: `POSTRIDER_DELIVERY__MEMORY_MIB`, MiB, 1–65536,
    /// default 64. A single larger mail is sent alone.
    pub memory_mib: u32,
    /// How long a worker owns what it claimed without a sign of life: `POSTRIDER_DELIVERY__LEASE`, a duration, 1s–1h,
    /// default `60s`. After a crash, its mail moves again this much later.
    #[serde(with = "super::duration")]
    pub lease: Duration,
    /// The waits after the first, second, … attempt, ±20 %; the last one repeats: `POSTRIDER_DELIVERY__RETRY_SCHEDULE`,
    /// durations (in a variable separated by commas), 1–50 of 1s–7d, default `1m,5m,15m,30m,1h,2h,4h`.
    #[serde(with = "super::duration::list")]
    pub retry_schedule: Vec<Duration>,
    /// From the first attempt to giving up as `expired`: `POSTRIDER_DELIVERY__RETRY_WINDOW`, a duration, 1s–30d,
    /// default `72h`.
    #[serde(with = "super::duration")]
    pub retry_window: Duration,
    /// The first wait where the reply speaks of greylisting: `POSTRIDER_DELIVERY__GREYLIST`, a duration, 1s–1d,
    /// default `5m`.
    #[serde(with = "super::duration")]
    pub greylist: Duration,
    /// How long a stop waits for mail in flight: `POSTRIDER_DELIVERY__SHUTDOWN_GRACE`, a duration, 0s–1h, default
    /// `620s`: longer than the longest wait for a final reply, so that a restart makes no duplicates.
    #[serde(with = "super::duration")]
    pub shutdown_grace: Duration,
    /// Whether a recipient's mail server may be this machine: `POSTRIDER_DELIVERY__ALLOW_LOOPBACK_MX`, default false.
    /// For tests; otherwise a domain that points its MX at 127.0.0.1 makes a loop.
    pub allow_loopback_mx: bool,
    /// Where a recipient's mail servers may be besides the Internet: `POSTRIDER_DELIVERY__ALLOW_PRIVATE_MX`, default false.
    /// `true` stands for every private network; or addresses, networks and names of hosts (in a variable separated by
    /// commas), which may be sent to as address literals too. With it, whoever may send reaches the SMTP servers there.
    pub allow_private_mx: PrivateMx,
    /// Whether the MTA-STS policies (RFC 8461) of recipients' domains are followed on the direct way:
    /// `POSTRIDER_DELIVERY__MTA_STS`, default true. They are fetched over HTTPS from `mta-sts.DOMAIN`.
    pub mta_sts: bool,
    /// How much TLS is asked of the servers of a recipient's domain, `*` standing for all that are not named:
    /// `POSTRIDER_DELIVERY__TLS`, a map of domain to `none`, `opportunistic` (where offered, any certificate), `required`
    /// (always, any certificate) or `verified` (always, a certificate valid for the server's name), in a variable
    /// `DOMAIN=WORD` separated by commas; default empty, which means opportunistic. An MTA-STS policy can only ask for
    /// more. A relay's TLS is in its URL.
    pub tls: BTreeMap<String, TlsMode>,
    /// Certificates (PEM) to trust for recipients' servers besides the system's, where `tls` says `verified` or MTA-STS
    /// does: `POSTRIDER_DELIVERY__MX_CA_FILE`, a path, default unset.
    pub mx_ca_file: Option<PathBuf>,
    /// Whether servers that offer DSN (RFC 3461) are asked to tell of success too, so that `relayed` becomes `delivered`:
    /// `POSTRIDER_DELIVERY__DSN_SUCCESS`, default false. Needs `return_path.domain`.
    pub dsn_success: bool,
}

/// [`Delivery::allow_private_mx`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PrivateMx {
    /// Every private network, or none.
    All(bool),
    /// These.
    These(Vec<String>),
    /// These, as a variable has them.
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
    /// The rules for trying again, as the domain knows them.
    pub fn retry_policy(&self) -> Policy {
        Policy { schedule: self.retry_schedule.clone(), window: self.retry_window, greylist: self.greylist }
    }

    /// [`Delivery::allow_private_mx`] as the domain knows it.
    pub fn private_mx(&self) -> Allowed {
        // What is no rule was refused when the configuration was read.
        let rules = self.allow_private_mx.rules().into_iter().filter_map(|rule| rule.parse().ok()).collect();
        Allowed { private: matches!(self.allow_private_mx, PrivateMx::All(true)), rules, ..Allowed::default() }
    }

    /// [`Delivery::tls`] with domains as addresses have them: A-labels, lower case.
    pub fn tls_ascii(&self) -> BTreeMap<String, TlsMode> {
        // What is no domain is the `*`.
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
            return Err(format!("must hold 1 to 50 durations, holds {}", self.retry_schedule.len()));
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
