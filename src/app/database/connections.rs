//! How many connections to the database server the configuration lets a process open.

use crate::config::Config;
use crate::db::pool::hot_connections;
use crate::domain::limits::connection_share::Share;

/// Returns the connections to the server itself that the API and the worker of one process open at most. With a
/// connection pooler, these are those of the hot path: the others belong to the pooler.
pub(in crate::app) fn direct(config: &Config, has_worker: bool) -> Share {
    let api = to_server(config, config.database.max_connections);
    Share { api, worker: if has_worker { api } else { 0 } }
}

/// Returns the connections to the server itself that one process with both roles and the dashboard opens at most.
pub fn maximum(config: &Config) -> u32 {
    let dashboard = if config.dashboard.enabled { to_server(config, config.dashboard.pool_size) } else { 0 };
    direct(config, true).total() + dashboard
}

/// Returns how many connections of a pool lead to the server itself.
fn to_server(config: &Config, pool: u32) -> u32 {
    if config.database.direct_url.is_some() { hot_connections(pool) } else { pool }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pooler_leaves_the_hot_path_and_the_listener() {
        let mut config = Config::default();
        assert_eq!(maximum(&config), 14 + 14 + 1 + 3);
        config.database.direct_url = Some("postgres://db.test/mail".to_owned().into());
        assert_eq!(maximum(&config), 5 + 5 + 1 + 1);
        config.dashboard.enabled = false;
        assert_eq!(maximum(&config), 11);
        assert_eq!(direct(&config, false), Share { api: 5, worker: 0 });
    }
}
