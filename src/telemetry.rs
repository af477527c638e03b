//! Logging to standard error. Standard output is for the output of commands.
//!
//! No line has an address, unless the configuration asks for it: `masked` replaces them. No line has the message of a
//! panic, which may quote any data.

use std::io::IsTerminal as _;

use parking_lot::RwLock;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use uuid::Uuid;

use crate::config::{Format, Log};

mod json_lines;
mod keyed_log_limit;
mod masked;
mod rate_limited_log;
pub mod traces;

use json_lines::JsonLines;
pub use keyed_log_limit::KeyedLogLimit;
use masked::MaskedStderr;
pub use rate_limited_log::RateLimitedLog;

/// Directives before those of the configuration, which may replace them. Notices of Postgres ("relation already exists")
/// do not help an operator, and neither do retries of requests to the object store: the last failure is logged.
const QUIET: &str = "sqlx::postgres::notice=warn,object_store=warn";
/// Directives after those of the configuration: these libraries log the content of messages.
const SECRET: &str = "html5ever=off,html2text=off";

/// The id of this process's worker.
static WORKER_ID: RwLock<Option<String>> = RwLock::new(None);

/// Starts logging. A second call changes nothing.
pub fn start(log: &Log) {
    // The filter was checked with the configuration.
    let filter =
        EnvFilter::try_new(format!("{QUIET},{},{SECRET}", log.filter)).unwrap_or_else(|_| EnvFilter::new("info"));
    let is_json = log.format == Format::Json;
    let writer = if log.personal_data {
        BoxMakeWriter::new(std::io::stderr)
    } else {
        BoxMakeWriter::new(MaskedStderr { is_json })
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(std::io::stderr().is_terminal());
    let _ = if is_json {
        builder.fmt_fields(JsonFields::new()).event_format(JsonLines).try_init()
    } else {
        builder.try_init()
    };
    log_panics(log.personal_data);
}

/// Logs panics as lines like all others, instead of printing them.
fn log_panics(personal_data: bool) {
    std::panic::set_hook(Box::new(move |panic| {
        let location = panic.location().map(tracing::field::display);
        let payload = if personal_data { panic.payload_as_str() } else { None };
        tracing::error!(event = "panic", location, payload, "a task panicked");
    }));
}

/// Sets the id of this process's worker, which each JSON line has from then on.
pub fn set_worker_id(id: Uuid) {
    *WORKER_ID.write() = Some(id.to_string());
}

fn worker_id() -> Option<String> {
    WORKER_ID.read().clone()
}
