//! The configuration: a typed structure of plain data, read once at startup.
//!
//! There are three sources; later ones win: the defaults, `postrider.toml` (or the file given by `--config`), and the
//! environment. A key `section.name` is the variable `POSTRIDER_SECTION__NAME`; `DATABASE_URL` stands for
//! `database.url` unless `POSTRIDER_DATABASE__URL` is set. A variable with `_FILE` appended names a file that contains
//! the value, as is usual for container secrets. An empty variable counts as unset.
//!
//! The service does not start with an invalid configuration: all unknown keys and invalid values are reported at once,
//! one per line, with the key and its source.
//!
//! `postrider.example.toml` lists every key. It is embedded, and the defaults are read from it.

mod sections;
mod sources;
mod values;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use url::Url;

use crate::domain::installation::keyring::Keyring;
use crate::domain::key::Cell;
use crate::domain::message::unsubscribe::Links;

pub use sections::api::accept::Accept;
pub use sections::api::dashboard::Dashboard;
pub use sections::api::http::Http;
pub use sections::api::resend::Resend;
pub use sections::attachments::{Attachments, CredentialSource};
pub use sections::database::Database;
pub use sections::log::{Format, Log};
pub use sections::metrics::Metrics;
pub use sections::receiving::inbound::{DmarcAction, Inbound};
pub use sections::receiving::submission::Submission;
pub use sections::restore_guard::RestoreGuard;
pub use sections::retention::Retention;
pub use sections::sending::delivery::{Delivery, PrivateMx};
pub use sections::sending::dkim::Dkim;
pub use sections::sending::domains::{Domains, Unverified};
pub use sections::sending::return_path::ReturnPath;
pub use sections::sending::routes::Route;
pub use sections::sending::simulator::Simulator;
pub use sections::sending::timeouts::Timeouts;
pub use sections::webhooks::Webhooks;
pub use sources::problem::{ConfigErrors, Origin, Problem};
pub use values::duration::{duration, duration_text};
pub use values::period::period_text;
pub use values::secret_key::SecretKey;
pub use values::secret_url::SecretUrl;

/// The file with the defaults. A key that is commented out there has no default.
const DEFAULTS: &str = include_str!("../../postrider.example.toml");

/// All settings. Each section is a field.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Config {
    /// Address on which the API listens. Port 0 uses a free port.
    pub listen: SocketAddr,
    /// Address on which only the pages for recipients (`/u/…`) are served, so that the API need not be public. `listen`
    /// serves them too.
    pub public_listen: Option<SocketAddr>,
    /// The relay for all messages that match no route: `smtp://[user:pass@]host:port?tls=none|opportunistic|required`
    /// or `smtps://…`. Without it, these messages go direct to MX.
    pub relay_url: Option<SecretUrl>,
    /// Certificates (PEM) to trust for the relay in addition to the system's certificates.
    pub relay_ca_file: Option<PathBuf>,
    /// The DNS resolver. Without it, the system's resolver is used.
    pub dns: Option<SocketAddr>,
    /// The port of recipients' mail servers, 1–65535.
    pub mx_port: u16,
    /// The name given in EHLO, a domain name or `[address]`. Without it, the machine's name is used.
    pub hostname: Option<String>,
    /// The public URL of the API, for links in messages: `https://host[/path]`.
    pub public_url: Option<Url>,
    /// Encrypts DKIM keys and webhook secrets at rest, and signs return paths, unsubscribe links and links to
    /// attachments. 32 characters or more, the same in all replicas.
    pub secret_key: Option<SecretKey>,
    /// Earlier secret keys. Data that they encrypted or signed remains valid.
    pub previous_secret_keys: Vec<SecretKey>,
    /// The name of this installation in new API keys, for a router in front of several installations: 1–16 lower-case
    /// letters and digits.
    pub cell: Option<String>,
    /// The database.
    pub database: Database,
    /// Limits on HTTP connections.
    pub http: Http,
    /// The dashboard.
    pub dashboard: Dashboard,
    /// The API that is compatible with Resend's.
    pub resend: Resend,
    /// Limits on requests.
    pub accept: Accept,
    /// The object store for large attachments.
    pub attachments: Attachments,
    /// The restore guard.
    pub restore_guard: RestoreGuard,
    /// How long data is kept.
    pub retention: Retention,
    /// Delivery and retries.
    pub delivery: Delivery,
    /// The return path of messages.
    pub return_path: ReturnPath,
    /// The SMTP server for bounces, complaints and inbound routes.
    pub inbound: Inbound,
    /// The SMTP server to which applications send messages.
    pub submission: Submission,
    /// Timeouts of the SMTP client.
    pub timeouts: Timeouts,
    /// Sender domains and their DNS records.
    pub domains: Domains,
    /// DKIM signing.
    pub dkim: Dkim,
    /// Limits on webhook endpoints.
    pub webhooks: Webhooks,
    /// Simulator addresses.
    pub simulator: Simulator,
    /// Logging.
    pub log: Log,
    /// Metrics for Prometheus.
    pub metrics: Metrics,
    /// Routes by name.
    pub routes: BTreeMap<String, Route>,
}

impl Default for Config {
    #[expect(clippy::expect_used, reason = "the file is part of the program, and no input can change it")]
    fn default() -> Self {
        toml::from_str(DEFAULTS).expect("postrider.example.toml has a default for each key that needs one")
    }
}

impl Config {
    /// Reads the file at `path`, then the variables in `env`, which win. Without a path, `postrider.toml` in the
    /// working directory is read if it exists. A path without a file is reported as a problem.
    pub fn load(path: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigErrors> {
        sources::load::load(path, env)
    }

    /// Calls [`Config::load`] with the variables of this process.
    pub fn from_environment(path: Option<&Path>) -> Result<Self, ConfigErrors> {
        // `std::env::vars` would panic if any variable, even one of another program, is not UTF-8.
        let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
        Self::load(path, std::env::vars_os().map(|(name, value)| (text(name), text(value))))
    }

    /// Returns the keyring of the configured secrets, or `None` without `secret_key`.
    pub fn keyring(&self) -> Option<Keyring> {
        let secret = self.secret_key.as_ref()?;
        Some(Keyring::new(secret.expose(), self.previous_secret_keys.iter().map(SecretKey::expose)))
    }

    /// Returns the creator of unsubscribe links, or `None` without `public_url` and `secret_key`.
    pub fn unsubscribe_links(&self) -> Option<Links> {
        Some(Links::new(self.public_url.as_ref()?, self.keyring()?))
    }

    /// Returns the cell of new API keys, if one is configured.
    pub fn cell(&self) -> Option<Cell> {
        // An invalid name was refused when the configuration was read.
        self.cell.as_deref().and_then(|name| name.parse().ok())
    }

    /// Returns an error for the first value that has the right type but is not valid.
    fn check(&self) -> Result<(), String> {
        if let Some(url) = &self.relay_url {
            url.check_relay()?;
        }
        values::range::within(self.mx_port, 1..=u16::MAX)?;
        self.hostname.as_deref().map_or(Ok(()), check_hostname)?;
        self.public_url.as_ref().map_or(Ok(()), check_public_url)?;
        self.secret_key.iter().chain(&self.previous_secret_keys).try_for_each(SecretKey::check)?;
        self.cell.as_deref().map_or(Ok(()), check_cell)?;
        self.database.check()?;
        self.http.check()?;
        self.dashboard.check()?;
        self.resend.check()?;
        self.accept.check()?;
        self.attachments.check()?;
        self.restore_guard.check()?;
        self.retention.check()?;
        self.delivery.check()?;
        self.return_path.check()?;
        self.inbound.check()?;
        self.submission.check()?;
        self.timeouts.check()?;
        self.domains.check()?;
        self.dkim.check()?;
        self.webhooks.check()?;
        self.log.check()?;
        self.metrics.check()?;
        self.routes.values().try_for_each(Route::check)
    }
}

fn check_cell(name: &str) -> Result<(), String> {
    name.parse::<Cell>().map(drop).map_err(|why| why.to_string())
}

/// Checks the hostname, which is written unchanged to EHLO and to the replies of the inbound server.
fn check_hostname(name: &str) -> Result<(), String> {
    let literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let ok = match literal {
        Some(address) => address.strip_prefix("IPv6:").unwrap_or(address).parse::<std::net::IpAddr>().is_ok(),
        None => name.len() <= 255 && name.split('.').all(is_label),
    };
    if ok { Ok(()) } else { Err("must be a domain name such as mail.example.net, or an [address]".into()) }
}

/// Checks the public URL, to which paths are appended and which is written to header fields.
fn check_public_url(url: &Url) -> Result<(), String> {
    let plain =
        url.query().is_none() && url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
    if ["https", "http"].contains(&url.scheme()) && url.host_str().is_some() && plain && url.as_str().len() <= 200 {
        Ok(())
    } else {
        Err("must be a URL such as https://mail.example.net, without user and query, of at most 200 characters".into())
    }
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        && !label.starts_with('-')
        && !label.ends_with('-')
}
