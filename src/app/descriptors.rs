//! File descriptors: those that the database and SMTP need come first, HTTP connections get what is left.
//!
//! A process that has none left can neither reach its database nor deliver, so no client of the API may take the last.

use anyhow::bail;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Roles;
use crate::config::Config;
use crate::http::ServerLimits;

/// What the soft limit is raised to at most: some systems allow a billion, which costs those who look at each.
const ENOUGH: u64 = 65_536;
/// Listeners, standard streams, epoll, DNS sockets, files that are read now and then.
const BASE: u64 = 64;
/// Connections to the database beside the two pools: NOTIFY, probes, the pools' changeover.
const DATABASE_EXTRA: u64 = 16;
/// Webhook posts and MTA-STS policies under way.
const FETCHES: u64 = 64;
/// The server that takes mail in `postrider dev` and `postrider inbox`.
const INBOX: u64 = 256;
/// HTTP connections below which nothing is served.
const FEWEST: u64 = 16;
/// Pages for recipients get this part of the connections, where they have a listener of their own.
const PUBLIC_PART: usize = 4;

/// Raises the soft limit on open files to the hard one, within reason. Returns what holds from now on.
pub fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(ENOUGH).min(ENOUGH);
    let current = current.unwrap_or(u64::MAX);
    if current < wanted && setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).is_ok() {
        return wanted;
    }
    current
}

/// The limits of the HTTP server, and of the one for recipients' pages.
#[derive(Debug, Clone, Copy)]
pub(super) struct HttpLimits {
    pub api: ServerLimits,
    pub public: ServerLimits,
}

/// Divides what this process may open.
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
                "the limit on open files is lower than what database and SMTP may need; raise it (ulimit -n, LimitNOFILE)"
            );
        }
        return Ok(divide(config, 0));
    }
    if left < FEWEST {
        bail!(
            "this process may open {files} files, and database and SMTP need {reserved}: raise the limit (`ulimit -n`, \
             LimitNOFILE in systemd, `ulimits` in compose) to {} or more, or lower delivery.concurrency",
            reserved + wanted
        );
    }
    if left < wanted {
        tracing::warn!(
            event = "http_connections_lowered",
            open_files = files,
            reserved,
            max_connections = left,
            "the limit on open files is low; fewer HTTP connections are served than http.max_connections; raise it \
             (ulimit -n, LimitNOFILE)"
        );
    }
    Ok(divide(config, usize::try_from(left.min(wanted)).unwrap_or(usize::MAX)))
}

/// What has to be free for the work itself.
fn reserved(config: &Config, roles: Roles, has_inbox: bool) -> u64 {
    let database = u64::from(config.database.max_connections);
    let (api, worker) = (roles != Roles::Worker, roles != Roles::Api);
    let mut reserved = BASE + FETCHES + DATABASE_EXTRA;
    if api {
        reserved += database;
        reserved += config.inbound.listen.map_or(0, |_| u64::from(config.inbound.connections));
    }
    if worker {
        // Each message in hand may have a connection of its own, and a few are kept for the next.
        reserved += database + u64::from(config.delivery.concurrency) + u64::from(config.delivery.connections);
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
    let public = if config.public_listen.is_some() { connections / PUBLIC_PART } else { 0 };
    HttpLimits { api: limits(connections - public), public: limits(public) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn database_and_smtp_come_first() {
        let config = Config::default();
        let all = reserved(&config, Roles::All, false);
        assert!(all >= 2 * 16 + 256, "{all}");
        assert!(reserved(&config, Roles::Api, false) < all && reserved(&config, Roles::Worker, false) < all);
    }

    #[test]
    fn pages_for_recipients_take_a_quarter_of_the_connections() {
        let mut config = Config::default();
        let HttpLimits { api, public } = divide(&config, 400);
        assert_eq!((api.connections, api.per_peer, public.connections), (400, 400, 0));
        config.public_listen = Some("127.0.0.1:0".parse().unwrap());
        config.http.connections_per_peer = 50;
        let HttpLimits { api, public } = divide(&config, 400);
        assert_eq!((api.connections, public.connections, api.per_peer, public.per_peer), (300, 100, 50, 50));
    }
}
