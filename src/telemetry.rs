//! The process's own log, on standard error: standard output belongs to what a command answers.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::{Format, Log};

mod keyed_log_limit;
mod rate_limited_log;

pub use keyed_log_limit::KeyedLogLimit;
pub use rate_limited_log::RateLimitedLog;

/// Starts logging. A second call changes nothing.
pub fn start(log: &Log) {
    // The filter was checked with the configuration. What Postgres finds worth a notice (a table that is there already)
    // is of no use to an operator, who can ask for it with a filter of their own.
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
