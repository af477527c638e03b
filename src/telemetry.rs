//! Logging to standard error. Standard output is for the output of commands.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::{Format, Log};

mod keyed_log_limit;
mod rate_limited_log;

pub use keyed_log_limit::KeyedLogLimit;
pub use rate_limited_log::RateLimitedLog;

/// Starts logging. A second call changes nothing.
pub fn start(log: &Log) {
    // The filter was checked with the configuration. Notices of Postgres ("relation already exists") do not help an
    // operator; a filter in the configuration can enable them.
    let quiet = format!("sqlx::postgres::notice=warn,{}", log.filter);
    let filter = EnvFilter::try_new(quiet).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let _ = match log.format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().try_init(),
    };
}
