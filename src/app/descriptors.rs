//! Divides file descriptors: the database and SMTP get theirs first, and HTTP connections get the rest.
//!
//! A process without free descriptors can neither reach its database nor deliver messages, so clients of the API must
//! not use up the last ones.

use std::time::Duration;

use anyhow::anyhow;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Roles;
use super::hint::WithHint as _;
use crate::config::Config;
use crate::http::ServerLimits;
use crate::object_storage::CONCURRENCY;

/// Upper bound for the raised soft limit. Some systems allow a billion, which is slow for programs that iterate over
/// all descriptors.
const MAX_SOFT_LIMIT: u64 = 65_536;
/// Listeners, standard streams, epoll, DNS sockets, and files that are read occasionally.
const BASE: u64 = 64;
/// Database connections outside of the two pools: NOTIFY, probes, and overlap when a pool is replaced.
const DATABASE_EXTRA: u64 = 16;
/// Webhook posts and MTA-STS fetches in progress.
const FETCHES: u64 = 64;
/// The SMTP server of `postrider dev` and `postrider inbox`.
const INBOX: u64 = 256;
/// The listener for metrics and probes.
const OPS: usize = 32;
/// The limits of that listener.
pub(super) const OPS_LIMITS: ServerLimits = ServerLimits {
    connections: OPS,
    per_peer: OPS,
    header_timeout: Duration::from_secs(15),
    keep_alive: Duration::from_secs(75),
    write_timeout: Duration::from_secs(30),
};
/// Minimum number of HTTP connections; with fewer the service does not start.
const MIN_CONNECTIONS: u64 = 16;
/// Divisor for the share of connections that is reserved for recipients' pages, if these have a separate listener.
const PUBLIC_SHARE_DIVISOR: usize = 4;

/// Raises the soft limit on open files to the hard limit, up to 65,536. Returns the limit in force.
pub fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(MAX_SOFT_LIMIT).min(MAX_SOFT_LIMIT);
    let current = current.unwrap_or(u64::MAX);
    if current < wanted && setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).is_ok() {
        return wanted;
    }
    current
}

/// The limits of the HTTP server, and of the server for recipients' pages.
#[derive(Debug, Clone, Copy)]
pub(super) struct HttpLimits {
    pub api: ServerLimits,
    pub public: ServerLimits,
}

/// Divides the file descriptors of this process.
pub(super) fn http_limits(config: &Config, roles: Roles, has_inbox: bool) -> anyhow::Result<HttpLimits> {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let reserved = reserved(config, roles, has_inbox);
    let wanted = u64::from(config.http.max_connections);
    let left = files.saturating_sub(reserved);
    if roles == Roles::Worker {
        if files < reserved {
            tracing::warn!(
                event = "open_files_low",
                open_files = files,
                reserved,
                "open file limit is below what the database and SMTP may need; raise it (ulimit -n, LimitNOFILE)"
            );
        }
        return Ok(divide(config, 0));
    }
    if left < MIN_CONNECTIONS {
        let too_few = anyhow!("this process may open {files} files, but the database and SMTP need {reserved}");
        return Err(too_few).with_hint(format!(
            "raise the limit (`ulimit -n`, LimitNOFILE in systemd, `ulimits` in compose) to {} or more, or lower \
             delivery.concurrency",
            reserved + wanted
        ));
    }
    if left < wanted {
        tracing::warn!(
            event = "http_connections_lowered",
            open_files = files,
            reserved,
            max_connections = left,
            "open file limit is low; serving fewer HTTP connections than http.max_connections; raise the limit \
             (ulimit -n, LimitNOFILE)"
        );
    }
    Ok(divide(config, usize::try_from(left.min(wanted)).unwrap_or(usize::MAX)))
}

/// Returns the number of descriptors reserved for the database, SMTP and webhooks.
fn reserved(config: &Config, roles: Roles, has_inbox: bool) -> u64 {
    let database = u64::from(config.database.max_connections);
    let (api, worker) = (roles != Roles::Worker, matches!(roles, Roles::All | Roles::Worker));
    let objects = config.attachments.bucket.as_ref().map_or(0, |_| CONCURRENCY as u64);
    let mut reserved = BASE + FETCHES + DATABASE_EXTRA + config.metrics.listen.map_or(0, |_| OPS as u64);
    if api {
        reserved += database + objects;
        reserved += if config.dashboard.enabled { u64::from(config.dashboard.pool_size) } else { 0 };
        reserved += config.inbound.listen.map_or(0, |_| u64::from(config.inbound.connections));
        reserved += config.submission.all_connections();
    }
    if worker {
        // Each message in flight may use one connection, and idle ones are kept for reuse.
        reserved +=
            database + objects + u64::from(config.delivery.concurrency) + u64::from(config.delivery.connections);
    }
    reserved + if has_inbox { INBOX } else { 0 }
}

fn divide(config: &Config, connections: usize) -> HttpLimits {
    let limits = |connections: usize| ServerLimits {
        connections,
        per_peer: (config.http.connections_per_peer as usize).min(connections),
        header_timeout: config.http.header_timeout,
        keep_alive: config.http.keep_alive,
        ..ServerLimits::default()
    };
    let public = if config.public_listen.is_some() { connections / PUBLIC_SHARE_DIVISOR } else { 0 };
    HttpLimits { api: limits(connections - public), public: limits(public) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_reserved_for_database_and_smtp() {
        let config = Config::default();
        let all = reserved(&config, Roles::All, false);
        assert!(all >= 2 * 16 + 256, "{all}");
        assert!(reserved(&config, Roles::Api, false) < all && reserved(&config, Roles::Worker, false) < all);
        let mut config = config;
        config.attachments.bucket = Some("files".into());
        assert_eq!(
            reserved(&config, Roles::All, false),
            all + 2 * 32,
            "the API and the worker have clients of their own"
        );
    }

    #[test]
    fn pages_for_recipients_get_a_quarter_of_the_connections() {
        let mut config = Config::default();
        let HttpLimits { api, public } = divide(&config, 400);
        assert_eq!((api.connections, api.per_peer, public.connections), (400, 400, 0));
        config.public_listen = Some("127.0.0.1:0".parse().unwrap());
        config.http.connections_per_peer = 50;
        let HttpLimits { api, public } = divide(&config, 400);
        assert_eq!((api.connections, public.connections, api.per_peer, public.per_peer), (300, 100, 50, 50));
    }
}
